# SPDX-License-Identifier: Apache-2.0
"""Messages of endpoints: pairing, names, one line, the tree, filters and statistics."""

from __future__ import annotations

import pytest

from fakes.decoded import decoded, problems
from fakes.message_traffic import RECEIVE, SEND, every_kind, message_packet, traced
from i2o.decode import message_books, message_stats
from i2o.decode.conversation import MESSAGE, Conversation, Traced
from i2o.decode.filter import FilterError, compile_filter
from i2o.decode.frame import extra_nodes, fixed_nodes
from i2o.decode.message_books import MessageBooks
from i2o.decode.message_stats import MessageStatistics
from i2o.decode.message_text import error_text, message_names
from i2o.decode.payload import Payload
from i2o.decode.summary import summary
from i2o.decode.tree import Node
from i2o.transport.capture.message_record import Kind, MessageRecord
from i2o.transport.capture.packet import Channel, Packet

(CONNECT, TSEND, SENT, TRECV, INJECT, SEND0, FAILED, CUT, PEEK, VIA, VIA_SENT, VIA_BACK, STATE,
 ERROR) = range(14)  # fmt: skip


@pytest.fixture
def traffic() -> list[Traced]:
    return traced(every_kind())


# --- context -------------------------------------------------------------------------------------


def test_the_end_of_a_send_finds_its_beginning(traffic: list[Traced]) -> None:
    assert {one.kind for one in traffic} == {MESSAGE}
    found = {
        one.index: (one.request.index, one.latency_ns) for one in traffic if one.request is not None
    }
    assert found == {SENT: (TSEND, 20_000), FAILED: (SEND0, 30_000), VIA_SENT: (VIA, 20_000)}
    begun = traffic[SENT].request
    assert begun is not None
    assert begun.record is not None
    assert begun.record.payload == begun.packet.data == b""  # it is kept without its content
    assert begun.record.tag == 0x12


def test_numbers_belong_to_their_endpoint_and_are_used_again() -> None:
    send, sent = MessageRecord(Kind.SEND, op_flags=SEND), MessageRecord(Kind.SENT, op_flags=SEND)
    found = traced(
        [
            message_packet(1, send, 5),
            message_packet(2, send, 5, endpoint=1),
            message_packet(3, sent, 5),
            message_packet(4, sent, 5),
            message_packet(5, send, 5),
            message_packet(6, send, 5),
            message_packet(7, sent, 5),
            message_packet(8, send),
            message_packet(9, sent),
        ]
    )
    assert [None if one.request is None else one.request.index for one in found] == [
        None, None, 0, None, None, None, 5, None, None,
    ]  # fmt: skip


def test_what_is_remembered_of_sends_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(message_books, "MAX_SENDS", 3)
    books: MessageBooks[str] = MessageBooks()
    for number in range(5):
        books.begun(0, number, f"send {number}")
    assert [books.ended(0, number) for number in range(5)] == [
        None, None, "send 2", "send 3", "send 4",
    ]  # fmt: skip
    assert books.ended(0, 4) is None


def test_messages_and_frames_do_not_meet() -> None:
    """Endpoint 0 and IOP 0 have the same number, and nothing else in common."""
    conversation = Conversation()
    for packet in every_kind():
        conversation.feed(packet)
    assert conversation.outstanding(0) == conversation.unanswered() == 0


# --- words ---------------------------------------------------------------------------------------


def test_names_and_lines(traffic: list[Traced]) -> None:
    assert [(one.name, summary(one)) for one in traffic] == [
        ("connect", 'mem://b: parameter "hi"'),
        ("tsend", "tag 0x12, 11 bytes to mem://b"),
        ("tsent", "to mem://b"),
        ("trecv", "tag 0x15 ignoring 0xf, 6000 bytes from mem://b, data 0x7"),
        ("send", "1 byte to fi_addr 0x9, INJECT|0x10000000000"),
        ("send", "0 bytes to mem://c"),
        ("send_failed", "to mem://c ! ECONNRESET (connection reset by peer)"),
        ("recv_failed", "64 bytes ! ETRUNC (the message was truncated)"),
        ("tpeek", "tag 0x1, 9 bytes, PEEK"),
        ("tsend", "tag 0x3, 4 bytes to node-c via node-b, number 17"),
        ("sent", "to node-c"),
        ("trecv", "tag 0x3, 4 bytes from node-c via node-b, number 4"),
        ("state", "node-b: connected"),
        ("error", "! ECONNREFUSED (connection refused)"),
    ]
    assert {one.name for one in traffic} <= message_names()


def test_what_is_not_known_has_a_number() -> None:
    odd, event, broken, bare = traced(
        [
            message_packet(0, MessageRecord(99)),
            message_packet(0, MessageRecord(Kind.EVENT, event=77, payload=b"\x01\x02" * 40)),
            Packet(0, 0, Channel.MESSAGE, b"?", 1),
            message_packet(0, MessageRecord(Kind.EVENT, payload=b"\x1b[31m", event=8)),
        ]
    )
    assert odd.name == "kind_99"
    assert problems(odd) == ["kind 99 is not known here"]
    assert event.name == "event_77"
    assert summary(event) == "parameter " + "0102" * 16 + "…"
    assert (broken.name, summary(broken)) == ("message", "! no message of an endpoint (1 bytes)")
    assert problems(broken) == ["1 bytes are no header of 72"]
    assert decoded(broken)["data"] == "3f"
    assert "\x1b" not in summary(bare)
    (empty,) = traced([Packet(0, 0, Channel.MESSAGE, b"", 0)])
    assert extra_nodes(empty) == []


def test_errors_in_words() -> None:
    assert error_text(104) == "ECONNRESET (connection reset by peer)"
    assert error_text(265) == "ETRUNC (the message was truncated)"
    assert error_text(9999) == "error 9999"
    assert error_text(0xFFFFFFFF) == "error 4294967295"


def test_trees(traffic: list[Traced]) -> None:
    assert decoded(traffic[TRECV]) == {
        "message_kind": 4,
        "endpoint_type": 3,
        "op_flags": traffic[TRECV].record.op_flags,  # type: ignore[union-attr]
        "tag": 0x15,
        "ignore": 0xF,
        "cq_data": 7,
        "peer_address": 0,
        "length": 6000,
        "peer": "mem://b",
        "data": bytes(64).hex(),
        "note": "5900 bytes of the message were not captured",
    }
    assert decoded(traffic[STATE]) == {
        "message_kind": 7,
        "event_code": 8,
        "length": 9,
        "peer": "node-b",
        "data": b"connected".hex(),
    }
    meanings = {node.name: node.meaning for node in fixed_nodes(traffic[FAILED])}
    assert meanings["message_kind"] == "SEND_FAILED"
    assert meanings["err"] == "ECONNRESET (connection reset by peer)"
    assert meanings["op_flags"] == "MSG|SEND"
    places = {node.name: (node.offset, node.width_bits) for node in fixed_nodes(traffic[VIA])}
    assert places["peer"] == (72, 48)
    assert places["hop"] == (78, 48)
    assert places["sequence"] == (56, 64)


# --- payloads ------------------------------------------------------------------------------------


class Loud:
    """A message in capitals."""

    name = "loud"

    def __init__(self, content: str, count: int) -> None:
        self._content, self._count = content, count

    def text(self) -> str:
        return self._content.lower()

    def nodes(self) -> list[Node]:
        return [Node("count", self._count, "", 0, 0, 8)]


class Ears:
    """Follows messages that are all capitals."""

    def __init__(self) -> None:
        self.count = 0

    def follow(self, endpoint: int, time_ns: int, record: MessageRecord) -> Payload | None:
        if not record.payload.isupper():
            return None
        self.count += 1
        return Loud(record.payload.decode(), self.count)


def test_protocols_that_are_known_are_decoded() -> None:
    packets = [
        message_packet(0, MessageRecord(kind, op_flags=SEND, length=4, payload=payload))
        for kind, payload in (
            (Kind.SEND, b"LOUD"), (Kind.SEND, b"calm"), (Kind.RECEIVED, b"HOWL"),
            (Kind.RECEIVE_FAILED, b"LOUD"), (Kind.SEND, b""),
        )
    ]  # fmt: skip
    conversation = Conversation([Ears()])
    found = [conversation.feed(packet) for packet in packets]
    assert [summary(one).partition(": ")[2] for one in found] == ["loud", "", "howl", "", ""]
    assert decoded(found[2])["loud"] == {"count": 2}
    assert "loud" not in decoded(found[1])
    assert [one.payload is None for one in found] == [False, True, False, True, True]


# --- filters -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("type == message", list(range(14))),
        ("type == request or iop or function or target == 0", []),
        ("endpoint == 1", [VIA, VIA_SENT, VIA_BACK, STATE, ERROR]),
        ("tag == 0x12", [TSEND]),
        ("tag", [TSEND, TRECV, PEEK, VIA, VIA_BACK]),
        ("tag & 0x10", [TSEND, TRECV]),
        ("ignore == 15", [TRECV]),
        ("cq_data == 7", [TRECV]),
        ('peer == "mem://b"', [CONNECT, TSEND, SENT, TRECV]),
        ("peer contains node", [VIA, VIA_SENT, VIA_BACK, STATE]),
        ("peer_address == 9", [INJECT]),
        ('hop == "node-b"', [VIA, VIA_BACK]),
        ("sequence > 4", [VIA]),
        ("op_flags & INJECT", [INJECT]),
        ("op_flags & REMOTE_CQ_DATA", [TRECV]),
        ("err", [FAILED, CUT, ERROR]),
        ("err == ECONNRESET", [FAILED]),
        ("err == etrunc", [CUT]),
        ("length > 60", [TRECV, CUT]),
        ("length == 11", [TSEND]),
        ("name == tsend", [TSEND, VIA]),
        ("name in {connect, state}", [CONNECT, STATE]),
        ("dir == in", [TRECV, CUT, PEEK, VIA_BACK]),
        ("dir == out and not name contains send", [SENT, VIA_SENT]),
        ("latency > 25us", [FAILED]),
        ("reply_to == 1", [SENT]),
        ('payload contains "world"', [TSEND]),
        ("payload contains 70:6f", [VIA_BACK]),
        ("message_kind == SENT", [SENT, VIA_SENT]),
        ("event_code == STATE", [STATE]),
        ("endpoint_type == RDM and event_code", [CONNECT]),
        ("prov_errno", []),
        ("t >= 140us", [STATE, ERROR]),
        ("mfa == 2 and endpoint == 0", [TSEND, SENT]),
    ],
)
def test_filters(traffic: list[Traced], text: str, expected: list[int]) -> None:
    wanted = compile_filter(text)
    assert [one.index for one in traffic if wanted(one)] == expected


def test_filters_of_damaged_messages() -> None:
    (broken,) = traced([Packet(0, 3, Channel.MESSAGE, b"hello", 9)])
    for text in ("endpoint == 3", "length == 9", "problem contains header", "name == message"):
        assert compile_filter(text)(broken), text
    for text in ("tag", "dir", "peer", "payload", "op_flags", "latency"):
        assert not compile_filter(text)(broken), text


def test_a_misspelled_name_of_a_message_is_guessed() -> None:
    with pytest.raises(FilterError, match="cq_data"):
        compile_filter("cq_dat == 1")
    with pytest.raises(FilterError, match="tsend"):
        compile_filter("name == tsnd")


# --- statistics ----------------------------------------------------------------------------------


def test_statistics(traffic: list[Traced]) -> None:
    found = MessageStatistics()
    for one in traffic:
        found.feed(one)
    first, second = found.endpoints[0], found.endpoints[1]
    assert (first.name, first.sent, first.sent_bytes) == ("ep0", 3, 12)
    assert (first.received, first.received_bytes, first.failures) == (1, 6000, 2)
    assert (first.awaited, first.ended, first.open) == (2, 2, 0)
    assert (first.latencies.count, first.latencies.min_ns) == (1, 20_000)
    assert (second.sent, second.received, second.open) == (1, 1, 0)
    assert found.total.messages == 6
    assert set(found.peers) == {(0, "mem://b"), (0, "mem://c"), (1, "node-c")}
    assert found.peers[0, "mem://c"].failures == 1
    assert found.seconds == pytest.approx(150e-6)
    assert found.damaged == 0


def test_statistics_of_the_rest() -> None:
    found = MessageStatistics()
    assert found.seconds == 0
    inject = MessageRecord(Kind.SEND, op_flags=SEND | 1 << 25, peer="p")
    for one in traced(
        [
            Packet(100, 0, Channel.MESSAGE, b"?", 1),
            message_packet(90, inject, 1),
            message_packet(95, MessageRecord(Kind.SENT, op_flags=SEND, peer="p"), 1),
            message_packet(96, MessageRecord(Kind.SEND, op_flags=SEND | 1 << 24, peer="p"), 2),
            message_packet(97, MessageRecord(Kind.RECEIVE_FAILED, op_flags=RECEIVE, err=1), 3),
        ]
    ):
        found.feed(one)
    assert found.damaged == 1
    assert found.seconds == 0
    row = found.endpoints[0]
    assert (row.sent, row.awaited, row.ended, row.open) == (2, 1, 0, 1)
    assert row.latencies.count == 1


def test_rows_of_statistics_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(message_stats, "MAX_ROWS", 2)
    found = MessageStatistics()
    record = MessageRecord(Kind.SEND, op_flags=SEND)
    for number in range(5):
        packet = message_packet(0, record._replace(peer=f"p{number}"), 1, endpoint=number)
        for one in traced([packet, packet]):
            found.feed(one)
    assert [row.name for row in found.endpoints.values()] == ["ep0", "ep1", "others"]
    assert [row.sent for row in found.peers.values()] == [2, 2, 6]
