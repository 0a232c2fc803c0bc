# SPDX-License-Identifier: Apache-2.0
"""The frames that two software engines exchange over a carrier; `docs/endpoints.md` explains them.

All numbers are little-endian. Every frame begins with its kind, its flags and the epoch of its
sender: a number that a sender chooses anew for each link, says in its HELLO, and puts into every
frame, so that nothing of an earlier link is taken for one of this.
"""

from __future__ import annotations

import struct
from enum import IntEnum, IntFlag
from typing import Final

from construct import Int8ul, Int16ul, Int32ul, Int64ul

from i2o.frames.layout import Layout, Part, structure

VERSION: Final = 1
"""Of this format. Engines with different ones refuse each other."""


class FrameKind(IntEnum):
    """First byte of a frame."""

    HELLO = 1
    MESSAGE = 2
    PIECE = 3
    ACK = 4
    CLEAR = 5
    DONE = 6
    ABORT = 7
    REFUSE = 8
    SHUTDOWN = 9


class MessageFlag(IntFlag):
    """Flags of a MESSAGE."""

    TAGGED = 0x01
    DATA = 0x02
    ACK_NOW = 0x04
    TELL_MATCH = 0x08
    ANNOUNCED = 0x10
    FENCED = 0x20
    MULTICAST = 0x40


class AckFlag(IntFlag):
    """Flags of an ACK."""

    ANSWER = 0x01


def _layout(name: str, *parts: Part, note: str) -> Layout:
    head = ("kind" / Int8ul, "flags" / Int8ul, "epoch" / Int16ul)
    return structure(
        name, *head, *parts, chapter="fabric", reference="docs/endpoints.md", note=note
    )


HELLO: Final = _layout(
    "hello",
    "version" / Int16ul,
    "endpoint_type" / Int16ul,
    "incarnation" / Int64ul,
    "message_limit" / Int32ul,
    "byte_limit" / Int32ul,
    "eager_limit" / Int32ul,
    "reserved" / Int32ul,
    note="The first frame of each side of a link; what connect or accept was given follows.",
)
MESSAGE: Final = _layout(
    "message",
    "message_id" / Int32ul,
    "length" / Int64ul,
    "tag" / Int64ul,
    "data" / Int64ul,
    "arrived" / Int32ul,
    "message_limit" / Int32ul,
    "byte_limit" / Int32ul,
    "reserved" / Int32ul,
    note="A message; its bytes follow, unless it is only announced.",
)
PIECE: Final = _layout(
    "piece",
    "message_id" / Int32ul,
    "offset" / Int64ul,
    note="Bytes of a message that was announced, which follow.",
)
ACK: Final = _layout(
    "ack",
    "arrived" / Int32ul,
    "message_limit" / Int32ul,
    "byte_limit" / Int32ul,
    note="How many messages arrived, and how far the sender may go.",
)
CLEAR: Final = _layout(
    "clear",
    "message_id" / Int32ul,
    "length" / Int64ul,
    note="An announced message was matched: send so many bytes of it.",
)
DONE: Final = _layout(
    "done",
    "message_id" / Int32ul,
    note="A message was matched, and all of its bytes are where they belong.",
)
ABORT: Final = _layout(
    "abort",
    "message_id" / Int32ul,
    "code" / Int32ul,
    "reserved" / Int32ul,
    note="The sender of an announced message gave it up.",
)
REFUSE: Final = _layout(
    "refuse",
    "code" / Int32ul,
    note="There will be no link; what reject was given follows.",
)
SHUTDOWN: Final = _layout(
    "shutdown",
    "reserved" / Int32ul,
    note="A connection ends in good order.",
)
LAYOUTS: Final = (HELLO, MESSAGE, PIECE, ACK, CLEAR, DONE, ABORT, REFUSE, SHUTDOWN)

MESSAGE_FORMAT: Final = struct.Struct("<BBHIQQQIIII")
"""The layout MESSAGE for the paths on which every message passes."""
PIECE_FORMAT: Final = struct.Struct("<BBHIQ")
"""The layout PIECE."""
ACK_FORMAT: Final = struct.Struct("<BBHIII")
"""The layout ACK."""
MODULUS: Final = 1 << 32
"""Counters of messages and bytes go round at this."""
