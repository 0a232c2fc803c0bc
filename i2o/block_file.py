# SPDX-License-Identifier: Apache-2.0
"""A block device as a raw file: what `BlockDevice.as_file` puts a buffer around."""

from __future__ import annotations

import errno
import io
import os
from typing import Any, Protocol


class Blocks(Protocol):
    """What the file needs of a block device."""

    size: int

    def readinto(self, offset: int, buffer: memoryview) -> int:
        """Fill a buffer from an offset."""

    def write(self, offset: int, data: memoryview) -> int:
        """Write bytes at an offset."""

    def flush(self) -> None:
        """Have everything written put on the medium."""


class BlockFile(io.RawIOBase):
    """A block device as a raw file: seekable, readable, writable if asked for.

    Args:
        device: the device; it stays open when the file is closed.
        writable: allow writing.
    """

    def __init__(self, device: Blocks, *, writable: bool = False) -> None:
        super().__init__()
        self._device, self._writable, self._position = device, writable, 0

    def readable(self) -> bool:
        """Return True."""
        return True

    def writable(self) -> bool:
        """Return whether the file was opened for writing."""
        return self._writable

    def seekable(self) -> bool:
        """Return True."""
        return True

    def tell(self) -> int:
        """Return the position in bytes."""
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move the position; raises ValueError before the start."""
        base = {
            os.SEEK_SET: 0,
            os.SEEK_CUR: self._position,
            os.SEEK_END: self._device.size,
        }.get(whence)
        if base is None or base + offset < 0:
            raise ValueError(f"cannot seek to {offset} from {whence}")
        self._position = base + offset
        return self._position

    def readinto(self, buffer: Any) -> int:
        """Read up to the buffer's length; 0 at the end of the device."""
        view = memoryview(buffer).cast("B")
        length = max(0, min(len(view), self._device.size - self._position))
        if length:
            self._device.readinto(self._position, view[:length])
            self._position += length
        return length

    def write(self, data: Any) -> int:
        """Write up to the end of the device; raises OSError (ENOSPC) there."""
        if not self._writable:
            raise io.UnsupportedOperation("the device was opened for reading")
        view = memoryview(data).cast("B")
        length = max(0, min(len(view), self._device.size - self._position))
        if len(view) and not length:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self._device.write(self._position, view[:length])
        self._position += length
        return length

    def flush(self) -> None:
        """Flush the device's cache if the file is writable."""
        if not self.closed and self._writable:
            self._device.flush()
