# SPDX-License-Identifier: Apache-2.0
"""Checks of IOPs behind USB cables."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from i2o.tools.checks.finding import Check, Finding, note, ok
from i2o.tools.checks.machine import Machine


def _devices(machine: Machine) -> Iterator[Finding]:
    try:
        # not before: without the packages of its layouts the rest must still run
        from i2o.transport.usb.discovery import Places, find
    except ImportError as error:
        yield note(f"not looked for: {error}", "see the packages above")
        return
    found = list(find(Places(machine.path("/sys"), machine.path("/dev/bus/usb"))))
    if not found:
        yield ok("no USB device with the interface for I2O")
    for device in found:
        if not device.obstacles:
            yield ok(f"{device.address} {device.name}: {device.uri} opens it")
        for reason, remedy in device.obstacles:
            yield note(f"{device.address} {device.name}: {device.uri}: {reason}", remedy)


CHECKS: Final[tuple[Check[Machine], ...]] = (Check("usb", _devices),)
