# SPDX-License-Identifier: Apache-2.0
"""What a tap tells of its traffic, and to whom: the contract, and one that keeps packets.

A recorder of files is `capture_file.CaptureFile.add_iop`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Protocol

from i2o.transport.capture.packet import DMA_HEADER_SIZE, Channel, Packet

DMA_SNAP: Final = 512
"""Bytes of a packet of bulk data, its address included."""
TABLE_BYTES: Final = 1 << 16
"""Bytes of a table or parameter list in one packet."""


class IopRecorder(Protocol):
    """Takes the traffic of one IOP. Nothing here raises, and nothing waits for a disk.

    Attributes:
        wants_dma: whether `dma` is to be called.
        bulk_bytes: bytes worth keeping of a piece of bulk data.
        table_bytes: bytes worth keeping of a piece of anything else.
    """

    wants_dma: bool
    bulk_bytes: int
    table_bytes: int

    def request(self, time_ns: int, mfa: int, frame: bytes, /) -> None:
        """Take a request, right before the IOP sees it; the time is nanoseconds since 1970."""

    def reply(self, time_ns: int, mfa: int, frame: bytes, /) -> None:
        """Take a reply."""

    def dma(
        self, time_ns: int, channel: int, mfa: int, address: int, data: bytes, length: int
    ) -> None:
        """Take a piece of host memory that the IOP read or wrote.

        Args:
            time_ns: nanoseconds since 1970.
            channel: TO_DEVICE or FROM_DEVICE.
            mfa: of the request that points to it.
            address: bus address.
            data: what stands there, perhaps cut.
            length: bytes before it was cut.
        """

    def remark(self, time_ns: int, channel: int, mfa: int, frame: bytes, comment: str) -> None:
        """Take a frame that something is to be said about, such as that it cannot be read."""


class PacketRecorder:
    """Hands every packet to a function, for whoever looks at traffic while it happens.

    Args:
        deliver: called with each packet in the thread that causes the traffic; must not raise.
        iop: number of the IOP.
        wants_dma: whether DMA is of interest.
        dma_snap: bytes of a packet of bulk data, its address included.
    """

    def __init__(
        self,
        deliver: Callable[[Packet], object],
        *,
        iop: int = 0,
        wants_dma: bool = True,
        dma_snap: int = DMA_SNAP,
    ) -> None:
        self._deliver, self._iop, self.wants_dma = deliver, iop, wants_dma
        self.bulk_bytes, self.table_bytes = max(0, dma_snap - DMA_HEADER_SIZE), TABLE_BYTES

    def request(self, time_ns: int, mfa: int, frame: bytes) -> None:
        """Take a request."""
        self._deliver(Packet(time_ns, self._iop, Channel.IN.value, frame, len(frame), mfa))

    def reply(self, time_ns: int, mfa: int, frame: bytes) -> None:
        """Take a reply."""
        self._deliver(Packet(time_ns, self._iop, Channel.OUT.value, frame, len(frame), mfa))

    def dma(
        self, time_ns: int, channel: int, mfa: int, address: int, data: bytes, length: int
    ) -> None:
        """Take a piece of host memory that the IOP read or wrote."""
        self._deliver(Packet(time_ns, self._iop, channel, data, length, mfa, address))

    def remark(self, time_ns: int, channel: int, mfa: int, frame: bytes, comment: str) -> None:
        """Take a frame that something is to be said about."""
        self._deliver(Packet(time_ns, self._iop, channel, frame, len(frame), mfa, comment=comment))
