# SPDX-License-Identifier: Apache-2.0
"""What messengers send one another within frames, declared once; see docs/peers.md."""

from __future__ import annotations

import struct
from enum import IntEnum, IntFlag
from typing import Final

from construct import Int8ul, Int16ul, Int32ul, Int64ul

from i2o.frames.layout import Layout, Part, structure
from i2o.transport.tcp.wire import FRAME_HEAD, compiled

ANY_TAG: Final = 0xFFFFFFFF
"""Stands for any tag in a receive; no message has it."""
FIRST_RESERVED_TAG: Final = 0xFFFFFF00
"""Tags from here on are the messengers' own."""
STATUS_TAG: Final = 0xFFFFFF00
"""Asks a messenger for its table of peers."""
STATUS_REPLY_TAG: Final = 0xFFFFFF01
"""The answer: the table as JSON."""
MESSAGE_COST: Final = 64
"""Bytes that every message counts beside its own, so that empty ones are not free."""
HOP_LIMIT: Final = 16
"""Links that a message may go over."""


class MessageKind(IntEnum):
    """First byte of a frame."""

    MESSAGE = 1
    ACK = 2
    RESUME = 3


class MessageFlag(IntFlag):
    """Flags of a MESSAGE."""

    ACK_NOW = 1  # somebody waits for the acknowledgement
    WANTS_RECEIPT = 2  # it goes over relays: its destination is to say that it came
    RECEIPT = 4  # it says what became of the message with the same number; the tag is an errno


def _layout(name: str, *parts: Part) -> Layout:
    return structure(name, *parts, chapter="peers", reference="docs/peers.md")


MESSAGE: Final = _layout(
    "message",
    "kind" / Int8ul,
    "flags" / Int8ul,
    "hops" / Int8ul,
    "reserved" / Int8ul,
    "tag" / Int32ul,
    "sequence" / Int64ul,
    "ack" / Int64ul,
    "credit" / Int64ul,
    "origin_job" / Int32ul,
    "origin_rank" / Int32ul,
    "destination_job" / Int32ul,
    "destination_rank" / Int32ul,
    "number" / Int64ul,
)
ACK: Final = _layout(
    "ack",
    "kind" / Int8ul,
    "reserved8" / Int8ul,
    "reserved16" / Int16ul,
    "reserved32" / Int32ul,
    "ack" / Int64ul,
    "credit" / Int64ul,
)
RESUME: Final = _layout(
    "resume",
    "kind" / Int8ul,
    "reserved8" / Int8ul,
    "reserved16" / Int16ul,
    "reserved32" / Int32ul,
    "id" / Int64ul,
    "peer_id" / Int64ul,
    "received" / Int64ul,
    "credit" / Int64ul,
    "window" / Int64ul,
)

LAYOUTS: Final = (MESSAGE, ACK, RESUME)

MESSAGE_SIZE: Final = MESSAGE.size
_NAMES: Final = struct.Struct("<IIII")


def _with_names_as_one(form: str) -> struct.Struct:
    """Return a format in which the names of origin and destination are 16 bytes: one value."""
    before, names, after = form.partition("IIIIQ")
    return struct.Struct(f"{before}{_NAMES.size}sQ{after}" if names else form)


_MESSAGE: Final = _with_names_as_one(compiled(MESSAGE).format)
_FRAMED: Final = struct.Struct(compiled(FRAME_HEAD).format + _MESSAGE.format[1:])
pack_message = _MESSAGE.pack
unpack_message = _MESSAGE.unpack_from
pack_framed = _FRAMED.pack
_ACK: Final = compiled(ACK)
pack_ack = _ACK.pack
unpack_ack = _ACK.unpack_from
pack_names = _NAMES.pack
unpack_names = _NAMES.unpack
