# SPDX-License-Identifier: Apache-2.0
"""The device half of an IOP's queue pair, and the device's bounded view of host memory."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple, Protocol, runtime_checkable


class DmaSpace(Protocol):
    """Host memory as the device may touch it: only inside buffers the host has given a bus
    address. Every access outside them raises DmaFault and changes nothing."""

    def read(self, address: int, length: int) -> bytes:
        """Copy bytes from host memory."""

    def write(self, address: int, data: bytes | bytearray | memoryview) -> None:
        """Copy bytes to host memory."""

    def windows(
        self, fragments: Iterable[tuple[int, int]], *, writable: bool
    ) -> list[memoryview] | None:
        """Return direct views of the fragments, for file I/O without a copy.

        Args:
            fragments: (bus address, length) pairs.
            writable: the device is going to write.

        Returns:
            One view per fragment, or None where host memory is not addressable from here (then
            `read` and `write` are the only way).

        Raises:
            DmaFault: a fragment is outside every buffer, or read-only and to be written.
        """


@runtime_checkable
class StagingDma(Protocol):
    """A `DmaSpace` that sends what is written, and has memory to send it from without a copy."""

    def staging(self, length: int) -> memoryview:
        """Return memory to fill; what it holds before is nobody's."""

    def write_staged(self, address: int, data: memoryview) -> None:
        """Write the start of such memory, as `DmaSpace.write`; it is the space's again."""


class LendingDma(Protocol):
    """A `DmaSpace` that sends what is written, also from memory that goes on being somebody's."""

    def write_lent(self, address: int, data: memoryview) -> None:
        """Write as `DmaSpace.write`, from memory that stays where it is.

        What changes there before the data are out is sent as it is then.
        """


class PostedFrame(NamedTuple):
    """A request as the device fetched it: a private copy of the frame, at most its full size.

    `data` holds at least the 16 header bytes, whatever MessageSize claims.
    """

    mfa: int
    data: bytes


class DeviceUnit(Protocol):
    """The FIFOs as the IOP's own processor sees them."""

    dma: DmaSpace
    frame_size: int
    """Bytes of an inbound frame."""
    frame_count: int
    """Inbound frames that exist."""

    def fetch(self) -> PostedFrame | None:
        """Pop the next posted request, copied out of the inbound frame."""

    def recycle(self, mfa: int) -> None:
        """Put an inbound frame on the free list."""

    def preserve(self, mfa: int) -> None:
        """Leave the frame with the host, which reads it and posts it again (a FAIL reply)."""

    def withdraw(self, mfa: int) -> None:
        """Free a preserved frame: the host was never told that it has it."""

    def make_static(self, mfa: int, frame: bytes, posts: int) -> None:
        """Keep a fetched frame off the free list: from now on it holds this message for good.

        The host may not write it any more, and may post it `posts` times before it is renewed.
        """

    def renew_static(self, mfa: int) -> None:
        """Let the host post a static frame once more: one post of it was fetched."""

    def end_static(self, mfa: int) -> int:
        """Put a static frame on the free list; return how many posts of it were not fetched."""

    def take_reply_frame(self) -> int:
        """Pop a free reply frame that the host handed in, or EMPTY."""

    def post_reply(self, mfa: int, data: bytes) -> None:
        """Write the reply to the host's frame and put it on the outbound post list.

        Raises:
            DmaFault: the host's frame is not in its memory (the frame is dropped).
        """

    def drop_replies(self) -> None:
        """Forget every outbound frame, free and posted (reset, OutboundInit)."""

    def refill(self) -> None:
        """Make every inbound frame free again (power-on, reset), also static ones; posted ones
        are lost."""

    def starve(self, starved: bool) -> None:
        """While set, the inbound port reads empty although frames are free (a fault)."""

    def idle_inbound(self) -> int:
        """Return how many inbound frames are free."""

    def posted_inbound(self) -> int:
        """Return how many requests wait to be fetched."""

    def idle_outbound(self) -> int:
        """Return how many free reply frames the device holds."""

    def posted_outbound(self) -> int:
        """Return how many replies the host has not taken yet."""
