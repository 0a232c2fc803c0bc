# SPDX-License-Identifier: Apache-2.0
"""What nodes send one another: one header of 68 bytes, and bytes behind it.

The header is in the sender's byte order, which its third byte names; a receiver with another order
converts it. What fields are for in which kind of packet is in `docs/network-messages.md`.
"""

from __future__ import annotations

import struct
from enum import IntEnum
from typing import Final, NamedTuple

from construct import Bytes, Int8ul, Int32sl, Int32ul, Padding

from i2o.errors import RemoteFrameError
from i2o.frames.layout import Layout, structure
from i2o.network_message.conversion import IS_BIG_ENDIAN

VERSION: Final = 1
INITIAL_WINDOW: Final = 64 << 10
"""Bytes that every node lets every other one have waiting before they were introduced."""


class Kind(IntEnum):
    """Kinds of packets."""

    HELLO = 1
    DATA = 2
    CREDIT = 3
    OFFER = 4
    OFFER_TRANSFER = 5
    ACCEPT = 6
    BODY = 7
    REFUSE = 8
    WITHDRAW = 9
    PING = 10
    PONG = 11
    STRANGER = 12
    BYE = 13


PACKET: Final[Layout] = structure(
    "network_message_packet",
    "version" / Int8ul,
    "kind" / Int8ul,
    "is_big_endian" / Int8ul,
    Padding(1),
    "source" / Int32sl,
    "session" / Int32ul,
    "message" / Int32ul,
    "event" / Int32sl,
    "type" / Int32sl,
    "flags" / Int32ul,
    "length" / Int32ul,
    "offset" / Int32ul,
    "pouch" / Bytes(32),
    chapter="network_message",
    enums={"kind": Kind},
    note="The layout of a little-endian node.",
)
HEADER_SIZE: Final = PACKET.size
_FIELDS: Final = "BBBxiIIiiIII32s"
_LITTLE: Final = struct.Struct("<" + _FIELDS)
_BIG: Final = struct.Struct(">" + _FIELDS)
LOCAL_HEADER: Final = _BIG if IS_BIG_ENDIAN else _LITTLE
"""The header as nodes of this machine's byte order write it."""
_NO_POUCH: Final = bytes(32)


class Header(NamedTuple):
    """A packet's header.

    Attributes:
        version: `VERSION`.
        kind: a `Kind`.
        is_big_endian: the sender's byte order.
        source: the sender's number.
        session: number of the sender's acquaintance with the receiver.
        message: number of the message.
        event: as in the descriptor.
        type: as in the descriptor.
        flags: as in the descriptor.
        length: bytes of the whole message, or of credit.
        offset: where in the message this packet's bytes are.
        pouch: 32 bytes.
    """

    version: int
    kind: int
    is_big_endian: int
    source: int
    session: int
    message: int
    event: int
    type: int
    flags: int
    length: int
    offset: int
    pouch: bytes


class Packer:
    """Makes headers.

    Args:
        source: number of the node.
        is_big_endian: in which order; this machine's by default.

    Attributes:
        order: the third byte of headers.
        pack: takes every field of a header.
    """

    def __init__(self, source: int, *, is_big_endian: bool = IS_BIG_ENDIAN) -> None:
        self._source, self.order = source, int(is_big_endian)
        self.pack = (_BIG if is_big_endian else _LITTLE).pack

    def header(
        self,
        kind: int,
        session: int,
        message: int = 0,
        event: int = 0,
        type: int = 0,
        flags: int = 0,
        length: int = 0,
        offset: int = 0,
        pouch: bytes = _NO_POUCH,
    ) -> bytes:
        """Return a header."""
        return self.pack(
            VERSION, kind, self.order, self._source, session, message, event, type, flags,
            length, offset, pouch,
        )  # fmt: skip


def parse(packet: memoryview) -> Header:
    """Return the header of a packet.

    Raises:
        RemoteFrameError: it is none.
    """
    if len(packet) < HEADER_SIZE:
        raise RemoteFrameError(f"a packet of {len(packet)} bytes has no header of {HEADER_SIZE}")
    if packet[0] != VERSION:
        raise RemoteFrameError(f"a packet of version {packet[0]}, expected was {VERSION}")
    return Header._make((_BIG if packet[2] else _LITTLE).unpack_from(packet))
