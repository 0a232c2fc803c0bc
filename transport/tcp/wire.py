# SPDX-License-Identifier: Apache-2.0
"""What peers send one another, declared once. Everything is little-endian; see docs/peers.md."""

from __future__ import annotations

import struct
from enum import IntEnum, IntFlag
from typing import Final

from construct import Bytes, Int8ul, Int16ul, Int32ul, Int64ul

from i2o.frames.layout import Layout, Part, structure

MAGIC: Final = b"I2OPEER\0"
VERSION: Final = 1
NONCE_SIZE: Final = 32
PROOF_SIZE: Final = 32
NO_PROOF: Final = bytes(PROOF_SIZE)
"""Stands where a proof would, between peers without a key."""
HANDSHAKE_LIMIT: Final = 512
"""The longest payload that anybody may send before the handshake is over."""
MAX_ADDRESS_TEXT: Final = 255


class Kind(IntEnum):
    """What a frame is: the first five are the handshake's."""

    HELLO = 1
    CHALLENGE = 2
    PROOF = 3
    VERDICT = 4
    REJECT = 5
    DATA = 16
    PING = 17
    PONG = 18


class HelloFlag(IntFlag):
    """What a peer says of itself."""

    PROBE = 1  # only asks who is there; the link ends with the answer
    KEYED = 2  # has a key, and speaks with nobody who has none
    ANSWERS = 4  # answers a PING whatever its program does meanwhile


class Purpose(IntEnum):
    """What the frames of a link carry: both ends must mean the same."""

    FRAMES = 1
    MESSAGES = 2


class Answer(IntEnum):
    """What a VERDICT says."""

    ACCEPTED = 0
    NACK = 1  # another link between the same two is preferred
    STALE = 2  # a newer incarnation of the asker is known
    REFUSED = 3  # no more peers are taken


class Objection(IntEnum):
    """What a REJECT says; it is not authenticated."""

    VERSION = 1
    NEEDS_KEY = 2
    NEEDS_NO_KEY = 3
    WRONG_PROOF = 4
    NOT_ME = 5
    SAME_NAME = 6
    PURPOSE = 7
    BUSY = 8


def _layout(name: str, *parts: Part) -> Layout:
    return structure(name, *parts, chapter="peers", reference="docs/peers.md")


FRAME_HEAD: Final = _layout(
    "frame_head",
    "length" / Int32ul,
    "kind" / Int8ul,
    "reserved8" / Int8ul,
    "reserved16" / Int16ul,
)
HELLO: Final = _layout(
    "hello",
    "magic" / Bytes(8),
    "version" / Int16ul,
    "flags" / Int16ul,
    "purpose" / Int16ul,
    "address_length" / Int16ul,
    "job" / Int32ul,
    "rank" / Int32ul,
    "target_job" / Int32ul,
    "target_rank" / Int32ul,
    "incarnation" / Int64ul,
    "serial" / Int64ul,
    "frame_limit" / Int32ul,
    "reserved" / Int32ul,
    "nonce" / Bytes(NONCE_SIZE),
)
"""The address at which the sender listens follows."""
CHALLENGE: Final = _layout(
    "challenge",
    "version" / Int16ul,
    "flags" / Int16ul,
    "purpose" / Int16ul,
    "reserved16" / Int16ul,
    "job" / Int32ul,
    "rank" / Int32ul,
    "incarnation" / Int64ul,
    "frame_limit" / Int32ul,
    "reserved" / Int32ul,
    "nonce" / Bytes(NONCE_SIZE),
    "proof" / Bytes(PROOF_SIZE),
)
PROOF: Final = _layout("proof", "proof" / Bytes(PROOF_SIZE))
VERDICT: Final = _layout(
    "verdict",
    "answer" / Int16ul,
    "reserved16" / Int16ul,
    "reserved" / Int32ul,
    "serial" / Int64ul,
    "incarnation" / Int64ul,
    "proof" / Bytes(PROOF_SIZE),
)
REJECT: Final = _layout("reject", "objection" / Int16ul, "reserved" / Int16ul)
PING: Final = _layout("ping", "sent_ns" / Int64ul)

LAYOUTS: Final = (FRAME_HEAD, HELLO, CHALLENGE, PROOF, VERDICT, REJECT, PING)


def compiled(layout: Layout) -> struct.Struct:
    """Return the struct format of a layout of plain integers, for where every frame passes."""
    codes = {1: "B", 2: "H", 4: "I", 8: "Q"}
    return struct.Struct("<" + "".join(codes[unit.size] for unit in layout.units))


HEAD_SIZE: Final = FRAME_HEAD.size
_HEAD: Final = compiled(FRAME_HEAD)
pack_head = _HEAD.pack
unpack_head = _HEAD.unpack_from


def frame(kind: int, payload: bytes = b"") -> bytes:
    """Return a whole frame."""
    return pack_head(len(payload), kind, 0, 0) + payload
