# SPDX-License-Identifier: Apache-2.0
"""Frames of the link over a serial line, declared once. Described in docs/link-protocol.md.

A frame is one of these layouts, what follows it, and a CRC-32; stuffed, with a zero on either side.
All numbers are little-endian.
"""

from __future__ import annotations

import struct
import zlib
from enum import IntEnum, IntFlag
from typing import Final, NamedTuple, TypeAlias

from construct import Int8ul, Int16ul, Int32ul

from i2o.errors import RemoteFrameError
from i2o.frames.layout import Layout, Part, structure
from i2o.transport.serial_line import cobs

VERSION: Final = 1
MIN_PAYLOAD: Final = 64
"""Bytes of a carrier frame that every end takes in one DATA frame."""
MAX_PAYLOAD: Final = 4096
"""The largest that an end may offer to take."""
MAX_WINDOW: Final = 32
"""DATA frames that may be on their way; `held` has a bit for each but the first."""
MAX_REASON: Final = 64
"""Bytes of the words of a BYE."""
CRC_SIZE: Final = 4


class FrameType(IntEnum):
    """What a frame is; the numbers are capital letters, so that a hex dump can be read."""

    ACK = 0x41
    BYE = 0x42
    DATA = 0x44
    HELLO = 0x48


class FrameFlags(IntFlag):
    """Flags of DATA and ACK."""

    MORE = 1
    """The carrier frame goes on in the next DATA frame."""
    POLL = 2
    """Send an ACK now."""


class ByeCode(IntEnum):
    """Why a link ends, or does not begin."""

    CLOSED = 0
    """Somebody wanted it so."""
    UNKNOWN_LINK = 1
    """There is no such link here."""
    VERSION = 2
    """The HELLO has a version that is not spoken here."""
    FRAME_SIZE = 3
    """The HELLO takes smaller frames than this end sends."""
    PROTOCOL = 4
    """The other end broke the rules."""


def _layout(name: str, *parts: Part) -> Layout:
    return structure(name, *parts, chapter="serial_line", reference="docs/link-protocol.md")


HELLO: Final = _layout(
    "hello",
    "type" / Int8ul,
    "version" / Int8ul,
    "window" / Int8ul,
    "reserved" / Int8ul,
    "session" / Int32ul,
    "echo" / Int32ul,
    "max_payload" / Int16ul,
    "reserved2" / Int16ul,
    "largest_frame" / Int32ul,
)
DATA: Final = _layout(
    "data",
    "type" / Int8ul,
    "flags" / Int8ul,
    "sequence" / Int16ul,
    "link" / Int32ul,
    "ack" / Int16ul,
    "window" / Int8ul,
    "reserved" / Int8ul,
)
ACK: Final = _layout("ack", *DATA.parts, "held" / Int32ul)
BYE: Final = _layout(
    "bye",
    "type" / Int8ul,
    "code" / Int8ul,
    "reserved" / Int16ul,
    "link" / Int32ul,
)


def _packer(layout: Layout) -> struct.Struct:
    """Return the struct of a layout, for what is packed or read for every frame."""
    return struct.Struct("<" + "".join(unit.format for unit in layout.units))


_DATA, _ACK = _packer(DATA), _packer(ACK)
DATA_SIZE: Final = _DATA.size
LARGEST_PACKET: Final = cobs.encoded_size(DATA_SIZE + MAX_PAYLOAD + CRC_SIZE)
"""Bytes of the longest frame that there can be, stuffed."""


class Hello(NamedTuple):
    """An end that wants a link, or answers one that does."""

    session: int
    echo: int
    window: int
    max_payload: int
    largest_frame: int
    version: int = VERSION


class Data(NamedTuple):
    """A piece of a carrier frame."""

    link: int
    sequence: int
    flags: int
    ack: int
    window: int
    payload: bytes


class Ack(NamedTuple):
    """What has arrived; `sequence` is the number of the next DATA frame that is new."""

    link: int
    sequence: int
    flags: int
    ack: int
    window: int
    held: int


class Bye(NamedTuple):
    """The end of a link."""

    link: int
    code: int
    reason: str = ""


LinkFrame: TypeAlias = Hello | Data | Ack | Bye


def link_number(sender: int, receiver: int) -> int:
    """Return the number of a link, made of the session numbers of both ends.

    It is another one in the other direction, so that a line that echoes is noticed.
    """
    return 2 * sender + receiver & 0xFFFFFFFF


def frame_bytes(frame: LinkFrame) -> bytes:
    """Return a frame as it goes over the line, without its delimiters."""
    if isinstance(frame, Data):
        body = _DATA.pack(
            FrameType.DATA, frame.flags, frame.sequence, frame.link, frame.ack, frame.window, 0
        )
        body += frame.payload
    elif isinstance(frame, Ack):
        body = _ACK.pack(
            FrameType.ACK,
            frame.flags,
            frame.sequence,
            frame.link,
            frame.ack,
            frame.window,
            0,
            frame.held,
        )
    elif isinstance(frame, Hello):
        body = HELLO.build(
            type=FrameType.HELLO,
            version=frame.version,
            window=frame.window,
            session=frame.session,
            echo=frame.echo,
            max_payload=frame.max_payload,
            largest_frame=frame.largest_frame,
        )
    else:
        reason = frame.reason.encode(errors="replace")[:MAX_REASON]
        body = BYE.build(type=FrameType.BYE, code=frame.code, link=frame.link) + reason
    return cobs.encode(body + zlib.crc32(body).to_bytes(CRC_SIZE, "little"))


def read_frame(packet: bytes) -> LinkFrame:
    """Return the frame in a stuffed packet.

    Raises:
        RemoteFrameError: it is damaged, or no frame of this protocol.
    """
    whole = cobs.decode(packet)
    body = whole[:-CRC_SIZE]
    if not body or zlib.crc32(body) != int.from_bytes(whole[-CRC_SIZE:], "little"):
        raise RemoteFrameError(f"a packet of {len(whole)} bytes has another CRC-32")
    kind = body[0]
    try:
        if kind == FrameType.DATA:
            _, flags, sequence, link, ack, window, _ = _DATA.unpack_from(body)
            return Data(link, sequence, flags, ack, window, body[DATA_SIZE:])
        if kind == FrameType.ACK:
            _, flags, sequence, link, ack, window, _, held = _ACK.unpack_from(body)
            return Ack(link, sequence, flags, ack, window, held)
    except struct.error:
        raise RemoteFrameError(f"a frame of type {kind:#04x} has {len(body)} bytes") from None
    if kind == FrameType.HELLO:
        hello = HELLO.unpack_from(body)
        return Hello(
            hello.session,
            hello.echo,
            hello.window,
            hello.max_payload,
            hello.largest_frame,
            hello.version,
        )
    if kind == FrameType.BYE:
        bye = BYE.unpack_from(body)
        words = body[BYE.size : BYE.size + MAX_REASON].decode("utf-8", "replace")
        return Bye(bye.link, bye.code, words)
    raise RemoteFrameError(f"a frame of type {kind:#04x}")
