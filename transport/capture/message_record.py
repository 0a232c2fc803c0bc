# SPDX-License-Identifier: Apache-2.0
"""What a packet of an endpoint's interface holds: a header, who the peer is, and the message.

One packet is one thing that happened to a message at one end: it was posted, it completed, it was
received, or it failed. Others are what happened to the end itself: it was connected, it changed
its state. Everything is little-endian. The documentation is docs/captures.md.
"""

from __future__ import annotations

import struct
from enum import IntEnum, IntFlag
from typing import Final, NamedTuple

from construct import Int8ul, Int16ul, Int32ul, Int64ul

from i2o.frames.layout import Layout, structure
from i2o.transport.fabric.flags import ADDR_UNSPEC, EndpointType, Flag

VERSION: Final = 1
"""Of the format of these packets."""
MAX_NAME: Final = 255
"""Bytes of the name of a peer; longer ones are cut."""


class Kind(IntEnum):
    """What a packet tells."""

    SEND = 1
    """A message was posted; the packet has its content."""
    SENT = 2
    """A send completed; the packet id is that of its SEND."""
    SEND_FAILED = 3
    """A send ended with an error."""
    RECEIVED = 4
    """The completion of a receive was read; the packet has the message."""
    RECEIVE_FAILED = 5
    """A receive ended with an error; the packet has what arrived all the same."""
    PEEKED = 6
    """A message is there and was looked at (PEEK); it is still to be received."""
    EVENT = 7
    """Something happened to the endpoint, or to its connection to a peer: see `EventCode`."""


class EventCode(IntEnum):
    """What an EVENT is."""

    NONE = 0
    CONNREQ = 1
    """A peer asks for a connection; the packet has its parameter."""
    CONNECTED = 2
    """The connection exists; the packet has the peer's parameter."""
    SHUTDOWN = 3
    """The peer ended the connection."""
    ERROR = 4
    """It failed, or was refused."""
    CONNECT = 5
    """The program asked for a connection."""
    ACCEPT = 6
    """The program accepted one."""
    CLOSE = 7
    """The program ended the connection or closed the endpoint."""
    STATE = 8
    """A peer is in another state; the packet has a sentence about it, in UTF-8."""


class Present(IntFlag):
    """Which fields of the header mean something."""

    TAG = 1 << 0
    IGNORE = 1 << 1
    CQ_DATA = 1 << 2
    PEER = 1 << 3
    """`peer_address` is an fi_addr."""
    SEQUENCE = 1 << 4


MESSAGE_HEADER: Final[Layout] = structure(
    "endpoint_message",
    "version" / Int8ul,
    "message_kind" / Int8ul,
    "endpoint_type" / Int8ul,
    "event_code" / Int8ul,
    "present" / Int16ul,
    "peer_size" / Int8ul,
    "hop_size" / Int8ul,
    "op_flags" / Int64ul,
    "tag" / Int64ul,
    "ignore" / Int64ul,
    "cq_data" / Int64ul,
    "peer_address" / Int64ul,
    "length" / Int64ul,
    "sequence" / Int64ul,
    "err" / Int32ul,
    "prov_errno" / Int32ul,
    chapter="capture",
    reference="docs/captures.md",
    enums={
        "message_kind": Kind,
        "endpoint_type": EndpointType,
        "event_code": EventCode,
        "present": Present,
        "op_flags": Flag,
    },
)
"""In front of the names of the peer and of the next hop, which the payload follows."""

HEADER: Final = struct.Struct("<4BH2B7Q2I")
"""The same as a struct format: kind and flags are packed for every message."""
_LONG: Final = 0xFFFF_FFFF_FFFF_FFFF
_WORD: Final = 0xFFFF_FFFF


class MessageRecord(NamedTuple):
    """A packet of an endpoint's interface, taken apart.

    Attributes:
        kind: a `Kind`, as a plain number, for others may come.
        endpoint_type: an `EndpointType`; 0 where there is none.
        event: an `EventCode`.
        op_flags: libfabric's flags of the operation or of the completion.
        tag: None without one.
        ignore: of a tagged receive, the bits that it did not compare.
        cq_data: what was sent along; None without any.
        peer_address: fi_addr of the other side; None if it is not known.
        peer: address or name of the other side; empty if it is not known.
        hop: who the message goes to first, or came from last, where that is somebody else.
        length: bytes of the message.
        sequence: number of the message where messages have one.
        err: of a failure, errno or `FabricErrno`.
        prov_errno: the provider's own code.
        payload: as much of the message as was captured.
    """

    kind: int
    endpoint_type: int = 0
    event: int = 0
    op_flags: int = 0
    tag: int | None = None
    ignore: int | None = None
    cq_data: int | None = None
    peer_address: int | None = None
    peer: str = ""
    hop: str = ""
    length: int = 0
    sequence: int | None = None
    err: int = 0
    prov_errno: int = 0
    payload: bytes = b""


def pack_record(record: MessageRecord) -> bytes:
    """Return a packet; names are cut, numbers reduced to their width."""
    present = 0
    for bit, value in (
        (Present.TAG, record.tag),
        (Present.IGNORE, record.ignore),
        (Present.CQ_DATA, record.cq_data),
        (Present.PEER, record.peer_address),
        (Present.SEQUENCE, record.sequence),
    ):
        if value is not None:
            present |= bit
    peer, hop = encoded_name(record.peer), encoded_name(record.hop)
    head = HEADER.pack(
        VERSION,
        record.kind & 0xFF,
        record.endpoint_type & 0xFF,
        record.event & 0xFF,
        present,
        len(peer),
        len(hop),
        record.op_flags & _LONG,
        (record.tag or 0) & _LONG,
        (record.ignore or 0) & _LONG,
        (record.cq_data or 0) & _LONG,
        (ADDR_UNSPEC if record.peer_address is None else record.peer_address) & _LONG,
        record.length & _LONG,
        (record.sequence or 0) & _LONG,
        record.err & _WORD,
        record.prov_errno & _WORD,
    )
    return b"".join((head, peer, hop, record.payload))


def unpack_record(data: bytes) -> MessageRecord:
    """Take a packet apart.

    Raises:
        ValueError: it is shorter than its header says, or of another version.
    """
    if len(data) < HEADER.size:
        raise ValueError(f"{len(data)} bytes are no header of {HEADER.size}")
    (
        version,
        kind,
        endpoint_type,
        event,
        present,
        peer_size,
        hop_size,
        op_flags,
        tag,
        ignore,
        cq_data,
        peer,
        length,
        sequence,
        err,
        prov_errno,
    ) = HEADER.unpack_from(data)
    if version != VERSION:
        raise ValueError(f"a packet of version {version}: expected {VERSION}")
    hop_at = HEADER.size + peer_size
    payload_at = hop_at + hop_size
    if payload_at > len(data):
        raise ValueError("the packet ends within the name of the peer")
    return MessageRecord(
        kind,
        endpoint_type,
        event,
        op_flags,
        tag if present & Present.TAG else None,
        ignore if present & Present.IGNORE else None,
        cq_data if present & Present.CQ_DATA else None,
        peer if present & Present.PEER else None,
        data[HEADER.size : hop_at].decode("utf-8", "replace"),
        data[hop_at:payload_at].decode("utf-8", "replace"),
        length,
        sequence if present & Present.SEQUENCE else None,
        err,
        prov_errno,
        data[payload_at:],
    )


def payload_offset(data: bytes) -> int:
    """Return where the payload of a packet starts, as far as its header says."""
    return HEADER.size + (data[6] + data[7] if len(data) >= HEADER.size else 0)


def encoded_name(name: str) -> bytes:
    """Return a name as a packet has it, cut between two characters if it is too long."""
    encoded = name.encode("utf-8", "replace")
    if len(encoded) <= MAX_NAME:
        return encoded
    return encoded[:MAX_NAME].decode("utf-8", "ignore").encode()
