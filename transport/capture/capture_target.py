# SPDX-License-Identifier: Apache-2.0
"""Where the blocks of a capture go: regular files, one after the other, or a stream."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import io
import logging
import os
import re
import select
import stat
import sys
import time
from collections import deque
from typing import BinaryIO, Final, Protocol

from i2o.errors import CaptureError

logger = logging.getLogger(__name__)

_READER_PATIENCE_S: Final = 10.0
_PAUSE_S: Final = 0.02
_MAX_NAMES: Final = 100
_DESCRIPTOR: Final = re.compile(r"/(?:dev|proc/self)/fd/(\d{1,9})")
_MODE: Final = 0o600  # what a host has in memory and on its disks is in there
_FLAGS: Final = os.O_WRONLY | os.O_CLOEXEC | os.O_NOCTTY


class CaptureBusy(CaptureError):
    """Somebody else captures into that already."""


class Target(Protocol):
    """What a capture is written to.

    Attributes:
        name: of the file that is written now.
        size: bytes written to it.
        can_rotate: there can be further files.
        can_recover: after an error, writing may succeed later.
    """

    name: str
    size: int
    can_rotate: bool
    can_recover: bool

    def write(self, data: bytes) -> None:
        """Write all of it, or raise OSError and leave the file as it was if that is possible."""

    def start_next(self) -> None:
        """Close the file and go on with the next; raises OSError, and can be called again."""

    def close(self) -> None:
        """Let go of it."""


def open_target(
    destination: str | os.PathLike[str] | BinaryIO, *, rotates: bool, max_files: int | None
) -> Target:
    """Open what a capture is written to.

    Args:
        destination: a path, `-` for standard output, or a binary stream, which stays open.
        rotates: there will be several files.
        max_files: how many of them are kept.

    Raises:
        CaptureError: it cannot be written to, or cannot be rotated.
    """
    if not isinstance(destination, str | os.PathLike):
        target: Target = StreamTarget(destination, "the stream", owned=False)
    else:
        path = os.fsdecode(destination)
        try:
            target = _open_path(path, rotates=rotates, max_files=max_files)
        except OSError as error:
            raise CaptureError(f"cannot capture to {path}: {error.strerror}") from None
        except ValueError as error:  # a NUL in the path
            raise CaptureError(f"cannot capture to {path!r}: {error}") from None
    if rotates and not target.can_rotate:
        target.close()
        raise CaptureError(f"{target.name} is no regular file: there can be only one of it")
    return target


def _open_path(path: str, *, rotates: bool, max_files: int | None) -> Target:
    if path == "-":
        return _standard_output()
    match = _DESCRIPTOR.fullmatch(path)
    if match:  # opening it anew would truncate a file that others write to as well
        return StreamTarget(os.fdopen(os.dup(int(match[1])), "wb", buffering=0), path, owned=True)
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        mode = stat.S_IFREG
    if stat.S_ISREG(mode):
        return FileTarget(path, rotates=rotates, max_files=max_files)
    descriptor = _open_fifo(path) if stat.S_ISFIFO(mode) else os.open(path, _FLAGS)
    if not _try_lock(descriptor):
        os.close(descriptor)
        raise CaptureBusy(f"cannot capture to {path}: another program does that already")
    return StreamTarget(os.fdopen(descriptor, "wb", buffering=0), path, owned=True)


def _standard_output() -> Target:
    sys.stdout.flush()
    try:
        descriptor = os.dup(sys.stdout.fileno())
    except (OSError, ValueError):  # replaced by something in memory
        return StreamTarget(sys.stdout.buffer, "standard output", owned=False)
    return StreamTarget(os.fdopen(descriptor, "wb", buffering=0), "standard output", owned=True)


def _open_fifo(path: str) -> int:
    """Open a FIFO once somebody reads it; raises OSError if nobody does for some seconds."""
    deadline = time.monotonic() + _READER_PATIENCE_S
    while True:
        try:
            descriptor = os.open(path, _FLAGS | os.O_NONBLOCK)
        except OSError as error:
            if error.errno != errno.ENXIO:
                raise
            if time.monotonic() >= deadline:
                raise OSError(error.errno, "nobody reads that FIFO") from None
            time.sleep(_PAUSE_S)
        else:
            os.set_blocking(descriptor, True)
            return descriptor


class StreamTarget:
    """A pipe, a device, or any binary stream. An error there is final.

    Args:
        stream: what to write to.
        name: what to call it.
        owned: close it at the end.
    """

    can_rotate = can_recover = False

    def __init__(self, stream: BinaryIO | io.FileIO, name: str, *, owned: bool) -> None:
        self._stream, self.name, self._owned = stream, name, owned
        self.size = 0

    def write(self, data: bytes) -> None:
        """Write and flush; waits as long as the other side does not read."""
        left = memoryview(data)
        while left:
            try:
                count = self._stream.write(left)
            except BlockingIOError as error:
                count = getattr(error, "characters_written", 0)
                self._wait()
            if count is None:
                if not isinstance(self._stream, io.RawIOBase):
                    break  # a simple stream that does not say
                count = 0
                self._wait()
            left = left[count:]
        self._stream.flush()
        self.size += len(data)

    def start_next(self) -> None:
        """Never called: there is only one."""

    def close(self) -> None:
        """Close the stream if it is ours."""
        if self._owned:
            with contextlib.suppress(OSError):
                self._stream.close()

    def _wait(self) -> None:
        select.select([], [self._stream.fileno()], [], 1.0)


class FileTarget:
    """A regular file, or a series of them: `NAME-00001.EXT` and so on.

    A file that another live process captures into is left alone; `NAME-PID.EXT` is written
    instead. While it is written, a file is locked (flock).

    Args:
        path: the file.
        rotates: there will be several.
        max_files: how many of ours are kept, the latest; None for all.

    Raises:
        OSError: it cannot be opened.
        CaptureError: no name is free.
    """

    can_recover = True

    def __init__(self, path: str, *, rotates: bool = False, max_files: int | None = None) -> None:
        self._folder = "" if os.path.isabs(path) else os.getcwd()  # programs may change it
        self._stem, self._extension = os.path.splitext(path)
        self.can_rotate, self._max_files = rotates, max_files
        self._number = 0
        self._files: deque[str] = deque()
        self._descriptor = -1
        self.name, self.size = path, 0
        self.start_next()

    def write(self, data: bytes) -> None:
        """Write all of it, or cut the file back to what it was and raise OSError."""
        left = memoryview(data)
        try:
            while left:
                left = left[os.write(self._descriptor, left) :]
        except OSError:
            with contextlib.suppress(OSError):
                os.ftruncate(self._descriptor, self.size)
                os.lseek(self._descriptor, self.size, os.SEEK_SET)
            raise
        self.size += len(data)

    def start_next(self) -> None:
        """Close the file and open the next one; the oldest goes if there are too many."""
        self.close()
        self._number += 1
        try:
            self._descriptor = self._open()
        except BaseException:
            self._number -= 1
            raise
        self.size = 0
        self._files.append(os.path.join(self._folder, self.name))
        while self._max_files is not None and len(self._files) > self._max_files:
            with contextlib.suppress(OSError):
                os.unlink(self._files.popleft())

    def close(self) -> None:
        """Close the file."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            with contextlib.suppress(OSError):
                os.close(descriptor)

    def _open(self) -> int:
        """Open and lock a file that nobody else captures into, and empty it."""
        taken = ""
        for attempt in range(_MAX_NAMES):
            stem = self._stem
            if attempt:
                stem += f"-{os.getpid()}" + (f"-{attempt}" if attempt > 1 else "")
            path = f"{stem}-{self._number:05d}" if self.can_rotate else stem
            path += self._extension
            descriptor = _open_locked(os.path.join(self._folder, path))
            if descriptor >= 0:
                if attempt:
                    self._stem = stem
                    logger.warning("%s is being captured into already: using %s", taken, path)
                os.ftruncate(descriptor, 0)
                self.name = path
                return descriptor
            taken = taken or path
        raise CaptureError(f"cannot capture to {taken}: it is taken, and so are other names")


def _open_locked(path: str) -> int:
    """Open a file and lock it; -1 if somebody else holds the lock."""
    for _ in range(_MAX_NAMES):
        descriptor = os.open(path, _FLAGS | os.O_CREAT, _MODE)
        if not _try_lock(descriptor):
            os.close(descriptor)
            return -1
        try:
            if os.path.samestat(os.fstat(descriptor), os.stat(path)):
                return descriptor
        except FileNotFoundError:
            pass  # removed between opening and locking it
        os.close(descriptor)
    return -1


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        pass  # a file system without locks
    return True
