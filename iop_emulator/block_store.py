# SPDX-License-Identifier: Apache-2.0
"""What a block storage device keeps its blocks in: the contract, and disks that are only memory.

The device checks addresses and alignment; a store moves bytes and tells the truth about errors.
"""

from __future__ import annotations

import errno
from collections.abc import Sequence
from typing import Final, Protocol

DEFAULT_BLOCK_SIZE = 512
MAX_MEMORY_DISK: Final = 4 << 30


class StoreError(OSError):
    """A transfer that ended early.

    Args:
        number: errno of what stopped it.
        text: what the system said.
        done: bytes that were moved before.
    """

    def __init__(self, number: int, text: str, done: int) -> None:
        super().__init__(number, text)
        self.done = done


class BlockStore(Protocol):
    """A disk's contents. Every method that moves data raises OSError, `StoreError` if partial."""

    @property
    def size(self) -> int:
        """Bytes, a multiple of the block size."""

    @property
    def block_size(self) -> int:
        """Bytes of a block."""

    @property
    def read_only(self) -> bool:
        """Whether writes are refused."""

    @property
    def removable(self) -> bool:
        """Whether the medium can be taken out."""

    @property
    def serial(self) -> str:
        """Serial number, ASCII."""

    @property
    def description(self) -> str:
        """What it is, for people."""

    def read_into(self, offset: int, views: Sequence[memoryview]) -> None:
        """Fill the views, in order, from `offset` on."""

    def write_from(self, offset: int, views: Sequence[memoryview]) -> None:
        """Store the views, in order, from `offset` on."""

    def flush(self) -> None:
        """Make everything written so far durable."""

    def resize(self, size: int) -> None:
        """Have another size, a multiple of the block size, from now on; nothing stored is lost."""

    def close(self) -> None:
        """Release what the store holds; calling it again does nothing."""


class LendingStore(Protocol):
    """A `BlockStore` whose blocks are in memory, and can be looked at there."""

    def lend(self, offset: int, length: int) -> memoryview:
        """Return what `read_into` would copy, as it is now and as later writes make it."""


class MemoryDisk:
    """A disk of zeros that is gone when it is closed.

    Args:
        size: bytes, a multiple of the block size.
        block_size: bytes of a block.
        read_only: refuse writes.
        removable: present a removable medium.
        serial: serial number.

    Raises:
        ValueError: the size is not a multiple of the block size.
    """

    def __init__(
        self,
        size: int = 16 << 20,
        *,
        block_size: int = DEFAULT_BLOCK_SIZE,
        read_only: bool = False,
        removable: bool = False,
        serial: str = "MEMORY",
    ) -> None:
        if size < block_size or size % block_size:
            raise ValueError(f"{size} bytes are no whole number of blocks of {block_size}")
        self.size, self.block_size = size, block_size
        self.read_only, self.removable, self.serial = read_only, removable, serial
        self.description = "memory"
        self._data = memoryview(bytearray(size))

    def read_into(self, offset: int, views: Sequence[memoryview]) -> None:
        """Copy out; see `BlockStore`."""
        for view in views:
            end = offset + len(view)
            view[:] = self._data[offset:end]
            offset = end

    def lend(self, offset: int, length: int) -> memoryview:
        """Return a view that cannot be written; see `LendingStore`."""
        return self._data[offset : offset + length].toreadonly()

    def write_from(self, offset: int, views: Sequence[memoryview]) -> None:
        """Copy in; see `BlockStore`."""
        if self.read_only:
            raise StoreError(errno.EROFS, "the disk is read-only", 0)
        for view in views:
            end = offset + len(view)
            self._data[offset:end] = view
            offset = end

    def flush(self) -> None:
        """Do nothing: memory is as durable as it will ever be."""

    def resize(self, size: int) -> None:
        """Have another size; what is cut off comes back when the disk grows again."""
        if size > MAX_MEMORY_DISK:
            raise OSError(errno.ENOMEM, f"a disk in memory has at most {MAX_MEMORY_DISK} bytes")
        if size > len(self._data):
            try:
                grown = memoryview(bytearray(size))
            except MemoryError:
                raise OSError(errno.ENOMEM, f"there is no memory for {size} bytes") from None
            grown[: len(self._data)] = self._data
            self._data = grown
        self.size = size

    def close(self) -> None:
        """Drop the contents."""
        self._data = memoryview(b"")


class NoMedium:
    """What a drive for removable media has in it while there is no medium.

    Args:
        block_size: that of the medium before.
        serial: serial number of the drive.
    """

    size = 0
    read_only = False
    removable = True
    description = "no medium"

    def __init__(self, block_size: int, serial: str) -> None:
        self.block_size, self.serial = block_size, serial

    def read_into(self, offset: int, views: Sequence[memoryview]) -> None:
        """Refuse; see `BlockStore`."""
        raise StoreError(errno.ENOMEDIUM, self.description, 0)

    def write_from(self, offset: int, views: Sequence[memoryview]) -> None:
        """Refuse; see `BlockStore`."""
        raise StoreError(errno.ENOMEDIUM, self.description, 0)

    def flush(self) -> None:
        """Do nothing: nothing was written."""

    def resize(self, size: int) -> None:
        """Refuse; see `BlockStore`."""
        raise OSError(errno.ENOMEDIUM, self.description)

    def close(self) -> None:
        """Do nothing."""


def cut_views(views: Sequence[memoryview], length: int) -> list[memoryview]:
    """Return views of the first `length` bytes of some views."""
    kept: list[memoryview] = []
    for view in views:
        if length <= 0:
            break
        kept.append(view[:length])
        length -= len(kept[-1])
    return kept
