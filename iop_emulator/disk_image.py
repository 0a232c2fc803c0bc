# SPDX-License-Identifier: Apache-2.0
"""Disks that are files: opened without loss, flushed by fdatasync, guarded against two writers.

Nothing is ever truncated, and only `DiskImage.resize` makes a file longer. Data goes straight
between the file and the views it is given, by preadv and pwritev.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import stat
from collections.abc import Callable, Sequence
from itertools import islice
from typing import Final, Literal

from i2o.errors import TransportUnavailable
from i2o.iop_emulator.block_store import DEFAULT_BLOCK_SIZE, StoreError

Operation = Literal["read", "write", "flush"]
FaultHook = Callable[[Operation, int, int], None]
"""Called with (operation, offset, length) before each one; may raise OSError in its place."""

_BACKEND: Final = "emu"
_MAX_VIEWS: Final = 1024  # IOV_MAX of Linux


class DiskImage:
    """A disk whose blocks are a file or a block device.

    Args:
        path: the file.
        read_only: open it for reading only.
        block_size: bytes of a block.
        removable: present a removable medium.
        serial: serial number; by default one made from the path.
        create: size in bytes of a new image if there is no file; an existing one must have it.
        fault: test hook, see `FaultHook`.

    Raises:
        TransportUnavailable: the file cannot be used; says why and what to do.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        read_only: bool = False,
        block_size: int = DEFAULT_BLOCK_SIZE,
        removable: bool = False,
        serial: str = "",
        create: int | None = None,
        fault: FaultHook | None = None,
    ) -> None:
        self.path = os.fspath(path)
        self.read_only, self.block_size, self.removable = read_only, block_size, removable
        self.fault = fault
        self.serial = serial or _serial_of(self.path)
        self.description = self.path
        self._fd = _open(self.path, read_only=read_only, create=create)
        try:
            _lock(self._fd, self.path, read_only=read_only)
            self.size = _size(self._fd, self.path, block_size=block_size, create=create)
        except BaseException:
            os.close(self._fd)
            raise

    def read_into(self, offset: int, views: Sequence[memoryview]) -> None:
        """Read by preadv until all views are full; see `BlockStore`."""
        length = sum(map(len, views)) if len(views) > 1 else len(views[0]) if views else 0
        if self.fault is not None:
            self.fault("read", offset, length)
        if len(views) <= _MAX_VIEWS and os.preadv(self._fd, views, offset) == length:
            return
        self._loop(os.preadv, offset, views)

    def write_from(self, offset: int, views: Sequence[memoryview]) -> None:
        """Write by pwritev until all views are stored; see `BlockStore`."""
        if self.fault is not None:
            self.fault("write", offset, sum(map(len, views)))
        self._loop(os.pwritev, offset, views)

    def flush(self) -> None:
        """Return when the data is on the medium (fdatasync)."""
        if self.fault is not None:
            self.fault("flush", 0, 0)
        if not self.read_only:
            os.fdatasync(self._fd)

    def resize(self, size: int) -> None:
        """Have another size: a larger one makes the file longer, a smaller one leaves it alone."""
        there = os.lseek(self._fd, 0, os.SEEK_END)
        if size > there:
            if self.read_only:
                raise OSError(errno.EROFS, f"{self.path} is read-only and has {there} bytes")
            if not stat.S_ISREG(os.fstat(self._fd).st_mode):
                raise OSError(errno.EINVAL, f"{self.path} is no file and has {there} bytes")
            os.ftruncate(self._fd, size)
        self.size = size

    def close(self) -> None:
        """Close the file, which gives the lock back; calling it again does nothing."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def _loop(
        self,
        transfer: Callable[[int, list[memoryview], int], int],
        offset: int,
        views: Sequence[memoryview],
    ) -> None:
        """Repeat short transfers, at most IOV_MAX views at a time."""
        rest = [view for view in views if len(view)]
        first, done = 0, 0
        while first < len(rest):
            try:
                moved = transfer(self._fd, list(islice(rest, first, first + _MAX_VIEWS)), offset)
            except OSError as error:
                number = error.errno or errno.EIO
                raise StoreError(number, os.strerror(number), done) from error
            if not moved:
                raise StoreError(errno.EIO, f"{self.path} ends at byte {offset}", done)
            done += moved
            offset += moved
            while moved and first < len(rest):
                view = rest[first]
                if moved < len(view):
                    rest[first] = view[moved:]
                    break
                moved -= len(view)
                first += 1


def _open(path: str, *, read_only: bool, create: int | None) -> int:
    flags = os.O_CLOEXEC | (os.O_RDONLY if read_only else os.O_RDWR)
    try:
        mode = os.stat(path).st_mode
        if stat.S_ISDIR(mode):
            raise _unusable(path, "is a directory", "name the image file itself")
        if not stat.S_ISREG(mode) and not stat.S_ISBLK(mode):
            raise _unusable(path, "is no file and no block device", "name a disk image")
        return os.open(path, flags)
    except FileNotFoundError:
        if create is None:
            raise _unusable(
                path, "does not exist", f"make one with disk={path},create=64M"
            ) from None
    except PermissionError:
        if not read_only and os.access(path, os.R_OK):
            raise _unusable(
                path, "cannot be written to", f"add ,ro to serve it read-only: disk={path},ro"
            ) from None
        raise _unusable(path, "cannot be read", "check its permissions") from None
    except OSError as error:
        raise _system_error(path, error, read_only=read_only) from None
    try:
        fd = os.open(path, os.O_CLOEXEC | os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o666)
    except OSError as error:
        raise _unusable(
            path, f"cannot be created: {error.strerror}", "choose a folder you can write to"
        ) from None
    try:
        os.ftruncate(fd, create)
    except OSError as error:
        os.close(fd)
        os.unlink(path)
        raise _unusable(
            path, f"cannot have {create} bytes: {error.strerror}", "ask for less"
        ) from None
    return fd


def _system_error(path: str, error: OSError, *, read_only: bool) -> TransportUnavailable:
    if error.errno == errno.EROFS and not read_only:
        return _unusable(
            path, "is on a read-only file system", f"serve it read-only: disk={path},ro"
        )
    return _unusable(path, f"cannot be opened: {error.strerror}", "check the path")


def _lock(fd: int, path: str, *, read_only: bool) -> None:
    kind = fcntl.LOCK_SH if read_only else fcntl.LOCK_EX
    try:
        fcntl.flock(fd, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        raise _unusable(
            path,
            "is in use by another emulator",
            "stop the other one, or serve it read-only from both (,ro)",
        ) from None


def _size(fd: int, path: str, *, block_size: int, create: int | None) -> int:
    size = os.lseek(fd, 0, os.SEEK_END)
    if not size:
        raise _unusable(path, "is empty", "remove it and use ,create=64M, or name another file")
    if create is not None and size != create:
        raise _unusable(
            path, f"exists and has {size} bytes, not {create}", "leave create= away to use it as is"
        )
    if size % block_size:
        fitting = next((s for s in (4096, 512) if not size % s), 0)
        raise _unusable(
            path,
            f"has {size} bytes, no whole number of blocks of {block_size}",
            f"use block_size={fitting}"
            if fitting
            else f"extend a copy of it with: truncate -s %{block_size} FILE",
        )
    return size


def _unusable(path: str, reason: str, remedy: str) -> TransportUnavailable:
    return TransportUnavailable(_BACKEND, f"disk image {path!r} {reason}", remedy=remedy)


def _serial_of(path: str) -> str:
    digest = hashlib.blake2b(os.path.abspath(path).encode(errors="surrogateescape"), digest_size=6)
    return digest.hexdigest().upper()
