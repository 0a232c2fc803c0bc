# SPDX-License-Identifier: Apache-2.0
"""Checks of what the software side needs of the system: text, folders, shared memory."""

from __future__ import annotations

import codecs
import os
import re
import tempfile
from collections.abc import Iterator
from typing import Final

from i2o.tools.checks.finding import Check, Finding, note, ok, problem
from i2o.tools.checks.machine import Machine
from i2o.tools.output import human_size
from i2o.transport.shm.segment import SEGMENT_SIZE

_LOW_ROOM: Final = 64 << 20
_NATIVE: Final = "i2o.transport._native"
_XDG: Final = ("XDG_RUNTIME_DIR", "XDG_CONFIG_HOME", "XDG_CACHE_HOME", "XDG_DATA_HOME")


def _encoding(machine: Machine) -> Iterator[Finding]:
    for purpose, encoding in machine.encodings.items():
        if _is_utf8(encoding):
            yield ok(f"{purpose}: {encoding}")
        else:
            yield note(
                f"{purpose} is encoded as {encoding}: some characters are shown as escapes",
                "set LC_ALL=C.UTF-8",
            )


def _is_utf8(encoding: str) -> bool:
    try:
        return codecs.lookup(encoding).name == "utf-8"
    except LookupError:
        return False


def _folders(machine: Machine) -> Iterator[Finding]:
    try:
        folder = machine.temporary_folder()
        tempfile.TemporaryDirectory(prefix="i2o-doctor-", dir=folder).cleanup()
    except OSError as error:
        yield problem(
            f"no folder for temporary files can be written: {error.strerror or error}",
            "set TMPDIR to a folder that can",
        )
    else:
        free = machine.free_bytes(folder)
        if free < _LOW_ROOM:
            yield note(
                f"{folder} has only {human_size(free)} free",
                "make room, or set TMPDIR to another folder",
            )
        else:
            yield ok(f"temporary files: {folder}, {human_size(free)} free")
        wanted = machine.environment.get("TMPDIR")
        if wanted and os.path.abspath(wanted) != folder:
            yield note(f"TMPDIR={wanted} cannot be used", "set it to a folder that can be written")
    for name in _XDG:
        given = machine.environment.get(name)
        if given and not os.access(given, os.W_OK | os.X_OK):
            yield note(f"{name}={given} cannot be written", f"unset {name}, or make the folder")


def _shared_memory(machine: Machine) -> Iterator[Finding]:
    """An IOP with run=process shares memory that is in no folder: it takes what RAM there is."""
    try:
        os.close(os.memfd_create("i2o-doctor", os.MFD_CLOEXEC))
    except OSError as error:
        yield problem(
            f"no shared memory can be made: {error.strerror}",
            "emu: works without run=process; else allow memfd_create",
        )
        return
    available = re.search(
        r"^MemAvailable:\s+(\d+) kB", machine.text("/proc/meminfo") or "", re.MULTILINE
    )
    size = human_size(SEGMENT_SIZE)
    if available is None:
        yield note(f"an IOP with run=process takes up to {size} of memory; what is free is unknown")
    elif int(available[1]) << 10 < SEGMENT_SIZE:
        yield note(
            f"an IOP with run=process takes up to {size} of memory, "
            f"{human_size(int(available[1]) << 10)} are available",
            "close other programs",
        )
    else:
        yield ok(f"{human_size(int(available[1]) << 10)} available, {size} per IOP at most")
    if machine.exists("/dev/shm") and not machine.may_use("/dev/shm"):
        yield note("/dev/shm cannot be written", "as root: chmod 1777 /dev/shm")


def _rings(machine: Machine) -> Iterator[Finding]:
    """Processes exchange messages over rings where compiled code can order the memory."""
    try:
        has_rings = hasattr(getattr(machine.load(_NATIVE), "lib", None), "i2o_ring_open")
    except ImportError:
        has_rings = False
    if has_rings:
        yield ok("shm: and run=process exchange messages over rings in memory")
    else:
        yield note(
            "shm: and run=process work, but with a system call for each message: the compiled "
            "rings are missing",
            "install a C compiler (Debian: apt install gcc python3-dev), then install i2o again",
        )


CHECKS: Final[tuple[Check[Machine], ...]] = (
    Check("encoding", _encoding),
    Check("folders", _folders),
    Check("memory", _shared_memory),
    Check("rings", _rings),
)
