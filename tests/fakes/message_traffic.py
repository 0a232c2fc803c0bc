# SPDX-License-Identifier: Apache-2.0
"""Packets of endpoints, made by hand: one of every kind, and conversations of them."""

from __future__ import annotations

import errno
from collections.abc import Iterable

from i2o.decode.conversation import Conversation, Traced
from i2o.transport.capture.message_record import EventCode, Kind, MessageRecord, pack_record
from i2o.transport.capture.packet import Channel, Packet
from i2o.transport.fabric.errors import FabricErrno
from i2o.transport.fabric.flags import Flag

TAGGED_SEND = (Flag.SEND | Flag.TAGGED).value
SEND = (Flag.SEND | Flag.MSG).value
TAGGED_RECEIVE = (Flag.RECV | Flag.TAGGED).value
RECEIVE = (Flag.RECV | Flag.MSG).value
ENDS = Flag.COMPLETION.value


def message_packet(
    time_ns: int,
    record: MessageRecord,
    packet_id: int | None = None,
    *,
    endpoint: int = 0,
    comment: str = "",
) -> Packet:
    """Return a packet; its length is that of the whole message."""
    data = pack_record(record)
    missing = max(0, record.length - len(record.payload))
    return Packet(
        time_ns, endpoint, Channel.MESSAGE.value, data, len(data) + missing, packet_id,
        comment=comment,
    )  # fmt: skip


def every_kind(start_ns: int = 1_000_000_000) -> list[Packet]:
    """Return a conversation with one of everything, on two endpoints."""
    records: list[tuple[int, int, MessageRecord, int, str]] = [
        (0, 0, MessageRecord(Kind.EVENT, 3, EventCode.CONNECT, peer="mem://b", length=2,
                             payload=b"hi"), 1, ""),
        (10, 0, MessageRecord(Kind.SEND, 3, op_flags=TAGGED_SEND | ENDS, tag=0x12,
                              peer_address=0, peer="mem://b", length=11,
                              payload=b"hello world"), 2, ""),
        (30, 0, MessageRecord(Kind.SENT, 3, op_flags=TAGGED_SEND, peer_address=0,
                              peer="mem://b"), 2, ""),
        (40, 0, MessageRecord(Kind.RECEIVED, 3, op_flags=TAGGED_RECEIVE | Flag.REMOTE_CQ_DATA,
                              tag=0x15, ignore=0xF, cq_data=7, peer_address=0, peer="mem://b",
                              length=6000, payload=bytes(100)), 3, ""),
        (50, 0, MessageRecord(Kind.SEND, 3, op_flags=SEND | Flag.INJECT | 1 << 40, peer_address=9,
                              length=1, payload=b"x"), 4, ""),
        (60, 0, MessageRecord(Kind.SEND, 3, op_flags=SEND | ENDS, peer="mem://c", length=0), 5, ""),
        (90, 0, MessageRecord(Kind.SEND_FAILED, 3, op_flags=SEND, peer="mem://c",
                              err=errno.ECONNRESET), 5, "the link broke"),
        (95, 0, MessageRecord(Kind.RECEIVE_FAILED, 3, op_flags=RECEIVE, length=64,
                              err=FabricErrno.ETRUNC, payload=b"abcd"), 6, ""),
        (96, 0, MessageRecord(Kind.PEEKED, 3, op_flags=TAGGED_RECEIVE | Flag.PEEK, tag=1,
                              length=9), 7, ""),
        (100, 1, MessageRecord(Kind.SEND, op_flags=TAGGED_SEND | ENDS, tag=3, peer="node-c",
                               hop="node-b", sequence=17, length=4, payload=b"ping"), 1, ""),
        (120, 1, MessageRecord(Kind.SENT, op_flags=SEND, peer="node-c"), 1, ""),
        (130, 1, MessageRecord(Kind.RECEIVED, op_flags=TAGGED_RECEIVE, tag=3, peer="node-c",
                               hop="node-b", sequence=4, length=4, payload=b"pong"), 2, ""),
        (140, 1, MessageRecord(Kind.EVENT, event=EventCode.STATE, peer="node-b", length=9,
                               payload=b"connected"), 3, ""),
        (150, 1, MessageRecord(Kind.EVENT, event=EventCode.ERROR, err=errno.ECONNREFUSED), 4, ""),
    ]  # fmt: skip
    return [
        message_packet(start_ns + 1000 * at_us, record, number, endpoint=endpoint, comment=comment)
        for at_us, endpoint, record, number, comment in records
    ]


def traced(packets: Iterable[Packet]) -> list[Traced]:
    """Return packets in their context."""
    conversation = Conversation()
    return [conversation.feed(packet) for packet in packets]
