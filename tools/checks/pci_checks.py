# SPDX-License-Identifier: Apache-2.0
"""Checks of the I2O cards on PCI: whether each can be opened, and what stands in the way."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from i2o.errors import TransportUnavailable
from i2o.tools.checks.finding import Check, Finding, note, ok, problem
from i2o.tools.checks.machine import Machine
from i2o.transport.found import Found
from i2o.transport.pci.backends import UIO_DRIVERS, Places
from i2o.transport.pci.discovery import find
from i2o.transport.pci.function import COMMAND_MASTER, COMMAND_MEMORY, PciFunction
from i2o.transport.pci.vfio import DRIVER

_NATIVE: Final = "i2o.transport._native"
_GONE: Final = 0xFFFF


def _accessors(machine: Machine) -> Iterator[Finding]:
    try:
        machine.load(_NATIVE)
    except Exception as error:  # a broken extension may raise anything
        yield note(
            f"the compiled register accessors are missing ({type(error).__name__}): only vfio: "
            "works without",
            "install a C compiler (Debian: apt install gcc python3-dev), then install i2o again",
        )
    else:
        yield ok("the compiled register accessors are there")


def _cards(machine: Machine) -> Iterator[Finding]:
    places = Places(machine.path("/sys"), machine.path("/dev"))
    cards = list(find(places))
    if not cards:
        yield ok("no I2O device on PCI")
    for found in cards:
        yield from _card(found)
        yield from _command(PciFunction("pci", found.address, places.sysfs))


def _card(found: Found) -> Iterator[Finding]:
    """Say who has a card; what is in the way is a problem only if it is given to programs."""
    details, driver = found.details, found.details["driver"]
    head = f"{found.address} [{details['vendor']}:{details['device']}] {found.name}"
    yield ok(f"{head}: {f'{driver} has it' if driver else 'no driver has it'}")
    if not found.obstacles:
        yield ok(f"{found.address}: {found.uri} opens it, because {found.why}")
    tell = problem if driver in (DRIVER, *UIO_DRIVERS) else note
    for reason, remedy in found.obstacles:
        yield tell(f"{found.uri}: {reason}", remedy)


def _command(function: PciFunction) -> Iterator[Finding]:
    """Look at the bits that opening turns on."""
    try:
        command = function.command
    except OSError as error:
        yield note(f"{function.address}: its configuration cannot be read: {error.strerror}")
        return
    if command == _GONE:
        yield problem(
            f"{function.address} does not answer: its configuration reads all ones",
            "switch the machine off, seat the card again; or: echo 1 > "
            f"{function.folder}/remove; echo 1 > /sys/bus/pci/rescan",
        )
        return
    bits = ((COMMAND_MEMORY, "memory"), (COMMAND_MASTER, "bus master"))
    said = ", ".join(f"{name} {'on' if command & bit else 'off'}" for bit, name in bits)
    yield ok(f"{function.address}: {said} (turned on while it is open)")


def _pages(machine: Machine) -> Iterator[Finding]:
    """Take a huge page and look where it is: a card reaches only the first 4 GiB."""
    if machine.text("/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages") in (None, "0"):
        yield ok("no huge page of 2 MiB is free, and vfio: needs none")
        return
    try:
        machine.take_low_page()
    except TransportUnavailable as error:
        yield note(f"whether a huge page lies below 4 GiB: {error.reason}", error.remedy)
    else:
        yield ok("a huge page lies below 4 GiB")


def _uio(machine: Machine) -> Iterator[Finding]:
    for name in machine.names("/sys/class/uio"):
        if machine.may_use(f"/dev/{name}"):
            yield ok(f"/dev/{name} can be used")
        else:
            yield note(f"/dev/{name} cannot be used by this user", "uio: needs root in any case")


CHECKS: Final[tuple[Check[Machine], ...]] = (
    Check("i2o cards", _cards),
    Check("accessors", _accessors),
    Check("low memory", _pages),
    Check("uio", _uio),
)
