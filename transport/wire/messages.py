# SPDX-License-Identifier: Apache-2.0
"""Records of the wire protocol, declared once; docs/remote.md says what they mean.

A message of the endpoint is a *packet*: four bytes of header, then a piece of a byte stream. The
streams of both directions are sequences of *records*: a kind, the fields of the kind, and for some
of them data. Packets cut the stream anywhere. Everything is little-endian.
"""

from __future__ import annotations

import struct
from enum import IntEnum, IntFlag
from typing import Final, NamedTuple

from construct import Int8ul, Int16ul, Int32ul

from i2o.frames.layout import Layout, Part, structure

MAGIC: Final = 0x57324F49
"""First word of a HELLO: the bytes I O 2 W."""
VERSION: Final = 1
MIN_PACKET: Final = 64
"""The smallest message that an endpoint must take: a HELLO has to fit."""
MAX_PACKET: Final = (1 << 20) + 64
"""The largest packet that is ever made; buffers of this size wait on both sides."""
WINDOW: Final = 16
"""Packets that one side takes before it has given any back."""
SPARES: Final = 4
"""Buffers beyond the window: for packets that need no credit."""
NO_SESSION: Final = 0
MAX_FRAME: Final = 4 * 0xFFFF
MAX_NAME: Final = 255
MAX_RELEASED: Final = 0xFFFF
"""Reply frames that a host may hand in."""
MAX_RANGES: Final = 4096
"""Ranges in front of one POST."""
MAX_ARENA: Final = 256 << 20
"""Bytes of memory that a server may want its host to set aside."""
MAX_GATHERED: Final = 16 << 20
"""Bytes of records that may wait because the other side gives no credits."""
MAX_ASKED: Final = 16
"""FETCH and STORE records that may wait for their answer."""


class Kind(IntEnum):
    """First byte of a record."""

    # either side
    BYE = 0x01
    PING = 0x02
    PONG = 0x03
    # the host
    HELLO = 0x10
    RANGE = 0x11
    POST = 0x12
    POST_STATIC = 0x13
    RELEASE = 0x14
    RELEASE_RUN = 0x15
    RESET = 0x16
    DATA = 0x17
    DONE = 0x18
    # the device
    WELCOME = 0x20
    REFUSED = 0x21
    UNKNOWN = 0x22
    FREE = 0x30
    PRESERVE = 0x31
    STATIC = 0x32
    RENEW = 0x33
    REPLY = 0x34
    DROP = 0x35
    REFILL = 0x36
    STARVE = 0x37
    WRITE = 0x38
    FETCH = 0x39
    STORE = 0x3A
    TAKEN = 0x3B


class RangeFlags(IntFlag):
    """Flags of a RANGE."""

    READ = 1
    """The device may read it."""
    WRITE = 2
    """The device may write it."""
    DATA = 4
    """What it holds follows."""


class WelcomeFlags(IntFlag):
    """Flags of a WELCOME."""

    STARVED = 1
    """The inbound port reads empty."""
    ARENA = 2
    """Buffers must have bus addresses in the arena that `base` and `size` tell."""


class Status(IntEnum):
    """Status of a DONE."""

    OK = 0
    FAULT = 1


def _layout(name: str, *parts: Part) -> Layout:
    return structure(name, *parts, chapter="wire", reference="docs/remote.md")


PACKET: Final = _layout("packet", "session" / Int16ul, "number" / Int8ul, "credits" / Int8ul)

HELLO: Final = _layout(
    "hello",
    "magic" / Int32ul,
    "version" / Int8ul,
    "window" / Int8ul,
    "packet_size" / Int32ul,
    "token" / Int32ul,
    "name_length" / Int8ul,
)
WELCOME: Final = _layout(
    "welcome",
    "version" / Int8ul,
    "window" / Int8ul,
    "packet_size" / Int32ul,
    "token" / Int32ul,
    "frame_count" / Int16ul,
    "frame_size" / Int16ul,
    "generation" / Int8ul,
    "reply_generation" / Int8ul,
    "flags" / Int8ul,
    "base" / Int32ul,
    "size" / Int32ul,
    "push_limit" / Int32ul,
)
REFUSED: Final = _layout("refused", "token" / Int32ul, "reason_length" / Int8ul)
UNKNOWN: Final = _layout("unknown", "session" / Int16ul)
RANGE: Final = _layout("range", "flags" / Int8ul, "address" / Int32ul, "length" / Int32ul)
POST: Final = _layout("post", "generation" / Int8ul, "index" / Int16ul, "words" / Int16ul)
POST_STATIC: Final = _layout("post_static", "generation" / Int8ul, "index" / Int16ul)
RELEASE: Final = _layout("release", "generation" / Int8ul, "address" / Int32ul)
RELEASE_RUN: Final = _layout(
    "release_run",
    "generation" / Int8ul,
    "address" / Int32ul,
    "step" / Int16ul,
    "count" / Int16ul,
)
DATA: Final = _layout("data", "tag" / Int8ul, "length" / Int32ul)
DONE: Final = _layout("done", "tag" / Int8ul, "status" / Int8ul)
INDEX: Final = _layout("index", "index" / Int16ul)
STATIC: Final = _layout("static", "index" / Int16ul, "posts" / Int32ul)
REPLY: Final = _layout("reply", "address" / Int32ul, "words" / Int16ul)
GENERATION: Final = _layout("generation", "generation" / Int8ul)
STARVE: Final = _layout("starve", "starved" / Int8ul)
PLACE: Final = _layout("place", "address" / Int32ul, "length" / Int32ul)
ASK: Final = _layout("ask", "tag" / Int8ul, "address" / Int32ul, "length" / Int32ul)
TAKEN: Final = _layout("taken", "length" / Int32ul)
EMPTY: Final = _layout("empty")

LAYOUTS: Final[dict[Kind, Layout]] = {
    Kind.BYE: EMPTY,
    Kind.PING: EMPTY,
    Kind.PONG: EMPTY,
    Kind.HELLO: HELLO,
    Kind.RANGE: RANGE,
    Kind.POST: POST,
    Kind.POST_STATIC: POST_STATIC,
    Kind.RELEASE: RELEASE,
    Kind.RELEASE_RUN: RELEASE_RUN,
    Kind.RESET: EMPTY,
    Kind.DATA: DATA,
    Kind.DONE: DONE,
    Kind.WELCOME: WELCOME,
    Kind.REFUSED: REFUSED,
    Kind.UNKNOWN: UNKNOWN,
    Kind.FREE: INDEX,
    Kind.PRESERVE: INDEX,
    Kind.STATIC: STATIC,
    Kind.RENEW: INDEX,
    Kind.REPLY: REPLY,
    Kind.DROP: GENERATION,
    Kind.REFILL: GENERATION,
    Kind.STARVE: STARVE,
    Kind.WRITE: PLACE,
    Kind.FETCH: ASK,
    Kind.STORE: ASK,
    Kind.TAKEN: TAKEN,
}
"""The fields of each kind, without the kind itself."""

BULK: Final = frozenset({Kind.RANGE, Kind.DATA, Kind.WRITE, Kind.STORE})
"""Kinds whose data are taken piece by piece, as they come."""
TEXT_UNITS: Final[dict[Kind, int]] = {
    Kind.HELLO: 1,
    Kind.REFUSED: 1,
    Kind.POST: 4,
    Kind.REPLY: 4,
}
"""Kinds whose data are taken as a whole: their last field is the length, in so many bytes."""

HOST_KINDS: Final = frozenset(
    {
        Kind.BYE,
        Kind.PING,
        Kind.PONG,
        Kind.RANGE,
        Kind.POST,
        Kind.POST_STATIC,
        Kind.RELEASE,
        Kind.RELEASE_RUN,
        Kind.RESET,
        Kind.DATA,
        Kind.DONE,
    }
)
"""What a host may send within a session."""
DEVICE_KINDS: Final = frozenset(
    {
        Kind.BYE,
        Kind.PING,
        Kind.PONG,
        Kind.WELCOME,
        Kind.FREE,
        Kind.PRESERVE,
        Kind.STATIC,
        Kind.RENEW,
        Kind.REPLY,
        Kind.DROP,
        Kind.REFILL,
        Kind.STARVE,
        Kind.WRITE,
        Kind.FETCH,
        Kind.STORE,
        Kind.TAKEN,
    }
)
"""What a device may send within a session."""


_DATA_FOLLOW: Final = int(RangeFlags.DATA)


def packer(layout: Layout) -> struct.Struct:
    """Return the struct of a layout, for what is packed or read for every message."""
    return struct.Struct("<" + "".join(unit.format for unit in layout.units))


def record_packer(kind: Kind) -> struct.Struct:
    """Return the struct of a record: the kind, then its fields."""
    return struct.Struct("<B" + "".join(unit.format for unit in LAYOUTS[kind].units))


class Form(NamedTuple):
    """How a record of one kind is read.

    Attributes:
        kind: which.
        fields: reads the fields, behind the kind.
        size: bytes of the fields.
        is_bulk: its data are taken piece by piece.
        unit: data follow that are taken as a whole; bytes that their length counts in, else 0.
    """

    kind: Kind
    fields: struct.Struct
    size: int
    is_bulk: bool
    unit: int

    def has_bulk(self, fields: tuple[int, ...]) -> bool:
        """Whether data follow that are taken piece by piece; their last field is the length."""
        return self.is_bulk and (self.kind is not Kind.RANGE or bool(fields[0] & _DATA_FOLLOW))

    def text_size(self, fields: tuple[int, ...]) -> int:
        """Return how many bytes follow that are taken as a whole."""
        return fields[-1] * self.unit if self.unit else 0


def forms(kinds: frozenset[Kind]) -> dict[int, Form]:
    """Return how records of some kinds are read, by the number of the kind."""
    found = {}
    for kind in kinds:
        fields = packer(LAYOUTS[kind])
        found[int(kind)] = Form(kind, fields, fields.size, kind in BULK, TEXT_UNITS.get(kind, 0))
    return found
