# SPDX-License-Identifier: Apache-2.0
"""Files that commands read and write: complete or not at all, checked before anything is moved."""

from __future__ import annotations

import errno
import os
import signal
import stat
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO, Final

from i2o.errors import TransportUnavailable
from i2o.iop_emulator.options import EmuOptions
from i2o.tools.arguments import UsageError
from i2o.transport.uri import Uri

CHUNK: Final = 4 << 20
"""Bytes that commands hold in memory at once."""


@contextmanager
def replacing(path: str) -> Iterator[BinaryIO]:
    """Open a file for writing that takes its name only when the block ends without an error.

    What is no regular file (`/dev/null`, a pipe) is written to as it is.

    Raises:
        UsageError: the path is a folder.
        OSError: the file cannot be made.
    """
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        mode = None
    if mode is not None and stat.S_ISDIR(mode):
        raise UsageError(f"{path} is a directory", remedy="name a file")
    if mode is not None and not stat.S_ISREG(mode):
        with open(path, "wb") as existing:
            yield existing
        return
    real = os.path.realpath(path)  # a symbolic link stays one
    folder, name = os.path.split(real)
    before = _hold_signals()
    temporary = ""
    try:
        handle, temporary = _beside(folder, name, path)
        with open(handle, "wb") as out:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
            yield out
            out.flush()
            os.fchmod(out.fileno(), _permissions(mode))
            os.fsync(out.fileno())
        os.replace(temporary, real)
    except BaseException:
        if temporary:
            os.unlink(temporary)
        raise
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def temporary_folder() -> Iterator[str]:
    """Make a folder that is removed with all that is in it when the block ends."""
    before = _hold_signals()
    folder = None
    try:
        folder = tempfile.TemporaryDirectory(prefix="i2o-")
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        yield folder.name
    finally:
        if folder is not None:
            folder.cleanup()
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def source(
    path: str, room: int, place: str = "from there to the device's end"
) -> Iterator[tuple[BinaryIO, int]]:
    """Open what is to be written to a device, and tell how long it is.

    What has no size of its own (a pipe; `-` is stdin) is read to its end first, because nothing
    may be written if it is too long; at most one byte more than `room` is read.

    Args:
        path: the file.
        room: how many bytes there is room for.
        place: where, for the message.

    Yields:
        The file, at its start, and its length.

    Raises:
        UsageError: the path is a folder, or there is not room enough.
        OSError: it cannot be read.
    """
    with sys.stdin.buffer if path == "-" else _open_source(path) as opened:
        mode = 0 if path == "-" else os.fstat(opened.fileno()).st_mode
        if stat.S_ISREG(mode) or stat.S_ISBLK(mode):
            length = opened.seek(0, os.SEEK_END)
            opened.seek(0)
            _check_room(str(length), length, room, place)
            yield opened, length
            return
        with tempfile.TemporaryFile() as spool:
            _copy_at_most(opened, spool, room + 1)
            length = spool.tell()
            _check_room(f"more than {room}", length, room, place)
            spool.seek(0)
            yield spool, length


def check_image(path: str, *, writable: bool) -> int:
    """Check a disk image before an emulator opens it, and return its size in bytes.

    Raises:
        TransportUnavailable: it cannot be a disk; says why and what to do.
    """
    try:
        info = os.stat(path)
        if stat.S_ISDIR(info.st_mode):
            raise _unusable(path, "is a directory", "name the image file itself")
        if not stat.S_ISREG(info.st_mode) and not stat.S_ISBLK(info.st_mode):
            raise _unusable(path, "is no file and no block device", "name a disk image")
        flags = os.O_RDWR if writable else os.O_RDONLY
        with open(os.open(path, flags | os.O_CLOEXEC), "rb", buffering=0) as image:
            size = image.seek(0, os.SEEK_END)
    except FileNotFoundError:
        raise _unusable(
            path, "does not exist", "leave --disk away for a temporary disk, or check the name"
        ) from None
    except OSError as error:
        remedy = "check its permissions"
        if writable and error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            remedy = "leave --write away to read it only"
        raise _unusable(path, f"cannot be opened: {error.strerror}", remedy) from None
    if not size:
        raise _unusable(path, "is empty", "give it a size first, for example: truncate -s 64M FILE")
    if size % 512:
        raise _unusable(
            path,
            f"has {size} bytes, no whole number of blocks of 512",
            "extend a copy of it with: truncate -s %512 FILE",
        )
    return size


def disk_option(path: str) -> str:
    """Return a path as an `emu:` URI spells it in `disk=`."""
    return "".join(
        char if char.isalnum() or char in "/._-~" or ord(char) > 0x7E else f"%{ord(char):02X}"
        for char in path
    )


def refuse_disk(uri: str, path: str) -> None:
    """Refuse to replace a disk image of a software IOP by what is read from it.

    Raises:
        UsageError: the path is an image that the URI names.
        UriError: the URI is wrong.
    """
    parsed = Uri.parse(uri)
    if parsed.scheme != "emu" or not os.path.exists(path):
        return
    for disk in EmuOptions.from_uri(parsed).disks:
        if os.path.exists(disk.path) and os.path.samefile(path, disk.path):
            raise UsageError(f"{path} is the disk that is read", remedy="name another file")


def _hold_signals() -> set[signal.Signals | int]:
    """Keep an interrupt from coming between making something and noting that it is to go again.

    Returns:
        The mask to set inside the `try` that cleans up.
    """
    return signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})


def _check_room(length_text: str, length: int, room: int, place: str) -> None:
    if length > room:
        raise UsageError(f"{length_text} bytes do not fit the {room} bytes {place}")


def _beside(folder: str, name: str, path: str) -> tuple[int, str]:
    try:
        return tempfile.mkstemp(prefix=f".{name[:100]}.", suffix=".part", dir=folder)
    except OSError as error:
        raise OSError(error.errno, error.strerror, path) from None


def _permissions(mode: int | None) -> int:
    """Return the permissions of the file that is replaced, or those of a new one."""
    if mode is not None:
        return stat.S_IMODE(mode)
    umask = os.umask(0)
    os.umask(umask)
    return 0o666 & ~umask


def _open_source(path: str) -> BinaryIO:
    try:
        return open(path, "rb")
    except IsADirectoryError:
        raise UsageError(f"{path} is a directory", remedy="name a file, or - for stdin") from None


def _copy_at_most(source_file: BinaryIO, target: BinaryIO, limit: int) -> None:
    left = limit
    while left and (data := source_file.read(min(left, CHUNK))):
        target.write(data)
        left -= len(data)


def _unusable(path: str, reason: str, remedy: str) -> TransportUnavailable:
    return TransportUnavailable("emu", f"disk image {path!r} {reason}", remedy=remedy)
