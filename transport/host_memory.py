# SPDX-License-Identifier: Apache-2.0
"""Host memory that an IOP can reach by bus address: the contract every backend fulfils."""

from __future__ import annotations

from typing import Protocol


class HostBuffer(Protocol):
    """Memory with a bus address. Freeing it twice is an error; using it afterwards too."""

    @property
    def view(self) -> memoryview:
        """The bytes, writable unless the mapped buffer was read-only."""

    @property
    def bus_address(self) -> int:
        """Bus address of the first byte (32 bit)."""

    @property
    def segments(self) -> tuple[tuple[int, int], ...]:
        """(bus address, length) of each contiguous part, in order."""

    def to_device(self, offset: int = 0, length: int | None = None) -> None:
        """Hand the range to the device: what the host wrote becomes visible to it."""

    def from_device(self, offset: int = 0, length: int | None = None) -> None:
        """Take the range back: what the device wrote becomes visible to the host."""

    def free(self) -> None:
        """Give the bus addresses back; raises LocalFrameError the second time."""


class HostMemory(Protocol):
    """Where a port's buffers come from."""

    def allocate(self, size: int, align: int = 4096) -> HostBuffer:
        """Return a zeroed buffer.

        Args:
            size: bytes, at least 1.
            align: power of two that the bus address is a multiple of.

        Raises:
            MemoryError: no address range of that size is left.
        """

    def map(self, buffer: memoryview) -> HostBuffer | None:
        """Give the caller's own memory a bus address, so that no copy is needed.

        Args:
            buffer: contiguous bytes; a read-only one may only be read by the device.

        Returns:
            The mapped buffer, or None where this backend can only reach memory of its own.
        """

    def window(self, bus_address: int, length: int) -> memoryview:
        """Return the host's view of a bus address range; raises DmaFault outside all buffers."""
