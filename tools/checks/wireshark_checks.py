# SPDX-License-Identifier: Apache-2.0
"""Checks of Wireshark: whether it is there, and the dissector and capture interface in it."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from i2o._version import __version__
from i2o.errors import I2OError
from i2o.tools.checks.finding import Check, Finding, note, ok, problem
from i2o.tools.checks.machine import Machine

_INSTALL: Final = "i2o extcap --install"
_HEAD: Final = 1024
_WRITTEN_BY: Final = re.compile(r"Written by i2o (\S+?):")


def _wireshark(machine: Machine) -> Iterator[Finding]:
    try:
        launcher, script = machine.wireshark_places()
    except I2OError as error:
        yield note(f"{error}", "install tshark or wireshark to see captures in it")
        return
    yield ok("Wireshark is installed")
    yield _dissector(script)
    yield _launcher(launcher)


def _dissector(script: Path) -> Finding:
    try:
        with script.open("rb") as opened:
            head = opened.read(_HEAD).decode("utf-8", "replace")
    except FileNotFoundError:
        return note(f"the dissector is not installed ({script})", _INSTALL)
    except OSError as error:
        return problem(f"the dissector {script} cannot be read: {error.strerror}", _INSTALL)
    written_by = _WRITTEN_BY.search(head)
    if written_by is None:
        return note(f"{script} was not written by i2o", f"move it away, then {_INSTALL}")
    if written_by[1] != __version__:
        return note(f"the dissector is that of i2o {written_by[1]}, not {__version__}", _INSTALL)
    return ok(f"dissector: {script}")


def _launcher(launcher: Path) -> Finding:
    if not launcher.exists():
        return note(f"the capture interface is not installed ({launcher})", _INSTALL)
    if not os.access(launcher, os.X_OK):
        return problem(f"the capture interface {launcher} cannot be executed", _INSTALL)
    return ok(f"capture interface: {launcher}")


CHECKS: Final[tuple[Check[Machine], ...]] = (Check("wireshark", _wireshark),)
