# SPDX-License-Identifier: Apache-2.0
"""What a capture holds: frames, pieces of DMA, and messages of endpoints, each with its time.

In pcapng every IOP has three interfaces, `iopN.in` (host to IOP), `iopN.out` (IOP to host), both of
link type USER0 with the bare frame as packet, and `iopN.dma` (USER1: an 8-byte little-endian bus
address, then the data). `epb_flags` tells the direction as the host sees it and `epb_packetid` the
MFA: the frame's own, or that of the request which a piece of DMA belongs to. An endpoint has one
interface, `epN` (USER2), whose packets `message_record` describes.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Final, NamedTuple

LINKTYPE_FRAME: Final = 147
"""LINKTYPE_USER0: the packet is a message frame."""
LINKTYPE_DMA: Final = 148
"""LINKTYPE_USER1: the packet is a bus address (8 bytes, little-endian) and data."""
LINKTYPE_ENDPOINT: Final = 149
"""LINKTYPE_USER2: messages of endpoints."""
DMA_HEADER_SIZE: Final = 8


class Channel(IntEnum):
    """Which way a packet went."""

    IN = 0
    """A frame, host to IOP."""
    OUT = 1
    """A frame, IOP to host."""
    TO_DEVICE = 2
    """DMA: the IOP read host memory."""
    FROM_DEVICE = 3
    """DMA: the IOP wrote host memory."""
    MESSAGE = 4
    """What happened to a message at an endpoint; its own header tells the direction."""


class Packet(NamedTuple):
    """One packet of a capture.

    Attributes:
        time_ns: nanoseconds since 1970, or since the trace began where no clock was recorded.
        iop: number of the IOP within the capture; of a message, the number of its endpoint.
        channel: a `Channel`, as a plain number.
        data: the frame, the DMA data without its address, or a message with its header; as much
            as was captured.
        length: how long it was before it was cut.
        mfa: message frame address, None if not recorded; of messages the packet id, which a
            send and its completion share.
        address: bus address of DMA data, 0 for frames.
        comment: remarks of whoever captured it.
    """

    time_ns: int
    iop: int
    channel: int
    data: bytes
    length: int
    mfa: int | None = None
    address: int = 0
    comment: str = ""
