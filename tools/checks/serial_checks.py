# SPDX-License-Identifier: Apache-2.0
"""Checks of the serial adapters that are plugged in."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from i2o.tools.checks.finding import Check, Finding, note, ok
from i2o.tools.checks.machine import Machine
from i2o.transport.serial_line.discovery import FOLDER, find


def _lines(machine: Machine) -> Iterator[Finding]:
    for line in find(machine.path(str(FOLDER))):
        for reason, remedy in line.obstacles:
            yield note(f"{line.uri}: {reason}", remedy)
        if not line.obstacles:
            yield ok(f"{line.uri} can be opened")


CHECKS: Final[tuple[Check[Machine], ...]] = (Check("serial lines", _lines),)
