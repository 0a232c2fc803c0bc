# SPDX-License-Identifier: Apache-2.0
"""Shared memory that the provider shm leaves behind when a process is killed.

An endpoint without a name has a segment `PID:UID:NUMBER` in /dev/shm; one with a name has a segment
of that name, which tells its process in its header. Removed is only what belongs to this user and
to a process that is gone.
"""

from __future__ import annotations

import os
import re
import struct
from pathlib import Path
from typing import Final

from i2o.transport.ofi.addresses import segment_name

FOLDER: Final = Path("/dev/shm")
_NAME: Final = re.compile(r"(\d+):(\d+):\d+")
_HEADER: Final = struct.Struct("=BxHi")
"""The first fields of smr_region: version, flags, pid."""


def remove_stale_segments(folder: Path = FOLDER) -> list[str]:
    """Remove the nameless segments of dead processes of this user; return their names."""
    removed = []
    for path in folder.glob("*:*:*"):
        match = _NAME.fullmatch(path.name)
        if match is None or int(match[2]) != os.getuid() or is_running(int(match[1])):
            continue
        try:
            path.unlink()
        except FileNotFoundError:
            continue  # somebody else was faster
        removed.append(path.name)
    return removed


def owner_of(address: str, folder: Path = FOLDER) -> int | None:
    """Return whose segment an address names; None: there is none, or it is being made."""
    name = segment_name(address)
    try:
        with (folder / name).open("rb") as file:
            header = file.read(_HEADER.size)
    except OSError:
        return None
    if len(header) < _HEADER.size:
        return None
    pid = _HEADER.unpack(header)[2]
    return pid if pid > 0 else None


def is_dead_segment(address: str, folder: Path = FOLDER) -> bool:
    """Return whether nobody is behind an address."""
    pid = owner_of(address, folder)
    return pid is None or not is_running(pid)


def is_running(pid: int) -> bool:
    """Return whether a process with this number runs; one that only waits to be reaped does not."""
    try:
        status = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return False
    state = status.rpartition(b")")[2].split()[0]
    return state not in (b"Z", b"X")
