# SPDX-License-Identifier: Apache-2.0
"""Checks of the I2O cards on PCI (class 0x0E): who drives them, who is in their IOMMU group."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from i2o.tools.checks.finding import Check, Finding, note, ok
from i2o.tools.checks.machine import Machine

DEVICES: Final = "/sys/bus/pci/devices"
_CLASS: Final = 0x0E
_FOR_PROGRAMS: Final = ("vfio-pci", "uio_pci_generic")
_HARMLESS: Final = ("vfio-pci", "pcieport", None)
"""Drivers that a device of the same IOMMU group may have."""


def _cards(machine: Machine) -> Iterator[Finding]:
    cards = [name for name in machine.names(DEVICES) if _class(machine, name) >> 16 == _CLASS]
    if not cards:
        yield ok("no PCI device of class 0x0e (I2O)")
    for address in cards:
        yield _card(machine, address)
        yield from _group(machine, address)


def _class(machine: Machine, address: str) -> int:
    """Return the 24 bits of class, subclass and programming interface; 0 if unknown."""
    return _hexadecimal(machine, address, "class")


def _hexadecimal(machine: Machine, address: str, name: str) -> int:
    text = machine.text(f"{DEVICES}/{address}/{name}") or ""
    return int(text, 16) if re.fullmatch(r"0x[0-9a-fA-F]{1,8}", text) else 0


def _card(machine: Machine, address: str) -> Finding:
    vendor, device = (_hexadecimal(machine, address, name) for name in ("vendor", "device"))
    interface = _class(machine, address) & 0xFF
    driver = machine.link(f"{DEVICES}/{address}/driver")
    text = f"{address} [{vendor:04x}:{device:04x}], interface {interface:#04x}"
    if not interface:
        text += " (message FIFO at 0x40)"
    bind = (
        f"echo vfio-pci > {DEVICES}/{address}/driver_override; "
        f"echo {address} > /sys/bus/pci/drivers_probe"
    )
    if driver is None:
        return note(f"{text}: no driver has it", f"as root: {bind}")
    if driver in _FOR_PROGRAMS:
        return ok(f"{text}: given to programs by {driver}")
    return note(
        f"{text}: {driver} drives it",
        f"as root, if nothing uses it: echo {address} > {DEVICES}/{address}/driver/unbind; {bind}",
    )


def _group(machine: Machine, address: str) -> Iterator[Finding]:
    number = machine.link(f"{DEVICES}/{address}/iommu_group")
    if number is None:
        return
    others = [
        name
        for name in machine.names(f"/sys/kernel/iommu_groups/{number}/devices")
        if name != address and machine.link(f"{DEVICES}/{name}/driver") not in _HARMLESS
    ]
    if others:
        yield note(
            f"{address} shares IOMMU group {number} with {', '.join(others[:8])}",
            "VFIO opens a group only when no other driver has a device of it: unbind them, too",
        )


CHECKS: Final[tuple[Check[Machine], ...]] = (Check("i2o cards", _cards),)
