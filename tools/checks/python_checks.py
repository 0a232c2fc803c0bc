# SPDX-License-Identifier: Apache-2.0
"""Checks of Python: its version, the packages that are needed, those that some things need."""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib import metadata
from typing import Final, NamedTuple

from i2o._version import __version__
from i2o.tools.checks.finding import Check, Finding, note, ok, problem
from i2o.tools.checks.machine import Machine

LOWEST_PYTHON: Final = (3, 11)


class Needed(NamedTuple):
    """A distribution.

    Attributes:
        name: as package indexes have it.
        module: what is imported of it.
        low: first version that will do.
        end: first version that is too new, empty for none.
        extra: the extra that installs it, empty if it is always needed.
        purpose: what does not work without it.
    """

    name: str
    module: str
    low: tuple[int, ...]
    end: tuple[int, ...] = ()
    extra: str = ""
    purpose: str = ""

    @property
    def remedy(self) -> str:
        """How to install it."""
        if self.extra:
            return f"pip install '.[{self.extra}]' in a clone of the project"
        end = f",<{_dotted(self.end)}" if self.end else ""
        return f"pip install '{self.name}>={_dotted(self.low)}{end}'"


DEPENDENCIES: Final = (
    Needed("cffi", "cffi", (1, 16)),
    Needed("construct", "construct", (2, 10, 70), (2, 11)),
)
EXTRAS: Final = (
    Needed("pyusb", "usb.core", (1, 3), extra="usb", purpose="devices on USB"),
    Needed("pyserial", "serial", (3, 5), extra="serial", purpose="serial lines"),
    Needed("matplotlib", "matplotlib", (3, 8), extra="plot", purpose="i2o dump --plot"),
)


def _python(machine: Machine) -> Iterator[Finding]:
    version = _dotted(machine.python)
    if machine.python < LOWEST_PYTHON:
        yield problem(
            f"Python {version} is too old", f"use Python {_dotted(LOWEST_PYTHON)} or newer"
        )
    else:
        yield ok(f"Python {version}, i2o {__version__}")
    if not machine.platform.startswith("linux"):
        yield problem(f"{machine.platform} is not supported", "use Linux")


def _dependencies(machine: Machine) -> Iterator[Finding]:
    for needed in DEPENDENCIES:
        yield _look_at(machine, needed)


def _extras(machine: Machine) -> Iterator[Finding]:
    for needed in EXTRAS:
        yield _look_at(machine, needed)


def _look_at(machine: Machine, needed: Needed) -> Finding:
    try:
        version = machine.version_of(needed.name)
    except metadata.PackageNotFoundError:
        if needed.extra:
            return note(
                f"{needed.name} is not installed: only {needed.purpose} would need it",
                needed.remedy,
            )
        return problem(f"{needed.name} is not installed", needed.remedy)
    found = _numbers(version)
    if found < needed.low or (needed.end and found >= needed.end):
        return problem(f"{needed.name} {version} is the wrong version", needed.remedy)
    try:
        machine.load(needed.module)
    except Exception as error:  # a broken package may raise anything
        return problem(
            f"{needed.name} {version} does not import: {type(error).__name__}: {error}",
            f"pip install --force-reinstall {needed.name}",
        )
    return ok(f"{needed.name} {version}")


def _numbers(version: str) -> tuple[int, ...]:
    """Return the numbers at the start of a version."""
    match = re.match(r"\d+(?:\.\d+)*", version)
    return tuple(map(int, match.group().split("."))) if match else ()


def _dotted(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version))


CHECKS: Final[tuple[Check[Machine], ...]] = (
    Check("python", _python),
    Check("packages", _dependencies),
    Check("extras", _extras),
)
