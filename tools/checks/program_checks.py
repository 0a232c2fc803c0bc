# SPDX-License-Identifier: Apache-2.0
"""Checks of other programs: QEMU for guests, nbdkit for `i2o nbd`, libfabric for `ofi:`."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from i2o.errors import TransportUnavailable
from i2o.tools.checks.finding import Check, Finding, note, ok
from i2o.tools.checks.machine import Machine
from i2o.transport.ofi.library import providers

_QEMU: Final = "qemu-system-x86_64"
_VFIO_USER_SINCE: Final = (10, 1)
_GET_QEMU: Final = (
    "Debian 13: apt install -t trixie-backports qemu-system-x86; else build QEMU 10.1 or newer"
)


def _qemu(machine: Machine) -> Iterator[Finding]:
    text = machine.version_text(_QEMU)
    if text is None:
        yield note("QEMU is not installed: only i2o emulate --serve would need it", _GET_QEMU)
        return
    version = re.search(r"version (\d+)\.(\d+)", text)
    if version is None:
        yield note(f"which version QEMU is cannot be seen: {text[:80]}", _GET_QEMU)
    elif (int(version[1]), int(version[2])) < _VFIO_USER_SINCE:
        yield note(f"QEMU {version[1]}.{version[2]} is too old for vfio-user", _GET_QEMU)
    else:
        yield ok(f"QEMU {version[1]}.{version[2]}")


def _nbdkit(machine: Machine) -> Iterator[Finding]:
    try:
        yield ok(f"nbdkit: {machine.find_nbdkit()}")
    except TransportUnavailable as error:
        yield note(f"{error.reason}: only i2o nbd would need it", error.remedy)


def _libfabric(machine: Machine) -> Iterator[Finding]:
    try:
        library = machine.load_libfabric()
    except TransportUnavailable as error:
        yield note(f"{error.reason}: only ofi: would need it", error.remedy)
        return
    names = ", ".join(provider.name for provider in providers(library))
    yield ok(f"libfabric {library.version}: {names or 'no provider'}")


CHECKS: Final[tuple[Check[Machine], ...]] = (
    Check("qemu", _qemu),
    Check("nbdkit", _nbdkit),
    Check("libfabric", _libfabric),
)
