#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Runs in a guest: the conformance suites over devices on a bus of its kernel's.

Arguments: `usbip`, or `usbredir HOST PORT` of the relay. `/job/tests` has the names of the tests;
`/results/tests.json` gets what became of each.
"""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from fakes.usb_cables import UsbCables
from fakes.usb_suites import UsbEndpoints, UsbPorts
from vm.kernel_cables import PLACES, KernelCables, RedirSocket, Socket, VhciSocket

RESULTS = Path("/results/tests.json")


def sockets() -> list[Socket]:
    if sys.argv[1] == "usbip":
        return [VhciSocket(number) for number in range(PLACES)]
    relay = sys.argv[2], int(sys.argv[3])
    return [RedirSocket(relay, number) for number in range(PLACES)]


class OnKernelsBus:
    def make_cables(self) -> AbstractContextManager[UsbCables]:
        return KernelCables(sockets())


class TestPorts(OnKernelsBus, UsbPorts):
    """IOPs."""


class TestEndpoints(OnKernelsBus, UsbEndpoints):
    """Both ends of cables."""


class Results:
    """Writes down what becomes of each test."""

    def __init__(self) -> None:
        self.tests: dict[str, dict[str, object]] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        name = report.nodeid.partition("::")[2]
        found = self.tests.setdefault(name, {"failed": "", "skipped": False, "seconds": 0.0})
        found["seconds"] = round(float(str(found["seconds"])) + report.duration, 3)
        found["skipped"] = found["skipped"] or report.skipped
        if report.failed:
            found["failed"] = f"{found['failed']}{report.when}:\n{report.longreprtext}\n"

    def pytest_sessionfinish(self) -> None:
        RESULTS.write_text(json.dumps(self.tests))


def main() -> int:
    udevd = ["systemd-udevd", "--daemon"]  # who tells libusb of new devices
    subprocess.run(udevd, executable="/usr/bin/udevadm", check=True)
    names = Path("/job/tests").read_text().split()
    options = "-v --no-header -p no:cacheprovider --import-mode=importlib --tb=short -W error"
    watched = "-o faulthandler_timeout=120 -o faulthandler_exit_on_timeout=true"
    tests = [f"{__file__}::{name}" for name in names]
    code = pytest.main([*options.split(), *watched.split(), *tests], plugins=[Results()])
    return 0 if code in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED) else int(code)


if __name__ == "__main__":
    sys.exit(main())
