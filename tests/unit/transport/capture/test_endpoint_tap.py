# SPDX-License-Identifier: Apache-2.0
"""A tap in front of an endpoint: it sees everything, changes nothing, and is never in the way."""

from __future__ import annotations

import errno
import gc
import logging
from typing import Any

import pytest

from fakes.scripted_endpoint import (
    ATTRIBUTES,
    ScriptedEndpoint,
    ScriptedListener,
    ScriptedQueue,
    ScriptedRequest,
)
from i2o.transport.capture import endpoint_tap
from i2o.transport.capture.completion_tap import TapCompletionQueue, gathered
from i2o.transport.capture.connection_tap import TapPassiveEndpoint
from i2o.transport.capture.endpoint_recorder import packet_recorder
from i2o.transport.capture.endpoint_tap import TapEndpoint
from i2o.transport.capture.message_record import (
    EventCode,
    Kind,
    MessageRecord,
    unpack_record,
)
from i2o.transport.capture.packet import Channel, Packet
from i2o.transport.fabric.completion import Completion, CompletionError
from i2o.transport.fabric.endpoint import Event, EventKind, Message, MulticastEndpoint
from i2o.transport.fabric.errors import ErrorAvailable, FabricErrno, FabricError, TryAgain
from i2o.transport.fabric.flags import ADDR_UNSPEC, Bind, CqFormat, EndpointType, Flag

SEND = Flag.SEND | Flag.MSG
TAGGED_SEND = Flag.SEND | Flag.TAGGED
RECEIVED = Flag.RECV | Flag.MSG
TAGGED_RECEIVED = Flag.RECV | Flag.TAGGED
BOTH = Bind.TRANSMIT | Bind.RECV


class Rig:
    """A tap, the scripted endpoint behind it, and what was recorded."""

    def __init__(self, *, payload_bytes: int = 4096, bind: Bind = BOTH) -> None:
        self.packets: list[Packet] = []
        self.inner = ScriptedEndpoint()
        recorder = packet_recorder(
            self.packets.append, endpoint_type=EndpointType.RDM, payload_bytes=payload_bytes
        )
        self.tap = TapEndpoint(self.inner, recorder)  # type: ignore[arg-type]
        self.cq = self.tap.open_cq()
        self.entries = self.cq.inner.entries  # type: ignore[attr-defined]
        if bind:
            self.tap.bind(self.cq, bind)

    @property
    def records(self) -> list[MessageRecord]:
        return [unpack_record(packet.data) for packet in self.packets]

    def complete(self, flags: Flag, **more: Any) -> Completion:
        """Complete the last transfer and read the entry through the tap."""
        self.entries.append(Completion(self.inner.context, flags, **more))
        (entry,) = self.cq.read()
        return entry

    def fail(self, flags: Flag, **more: Any) -> CompletionError:
        self.entries.append(CompletionError(self.inner.context, flags, **more))
        with pytest.raises(ErrorAvailable):
            self.cq.read()
        return self.cq.readerr()


@pytest.fixture
def rig() -> Rig:
    return Rig()


# --- sends ---------------------------------------------------------------------------------------


def test_a_send_is_recorded_with_what_its_buffer_had(rig: Rig) -> None:
    to = rig.tap.insert("mem://b")
    buffer = bytearray(b"hello")
    rig.tap.send(buffer, to, context="mine")
    buffer[:] = b"later"
    (record,) = rig.records
    assert record == MessageRecord(
        Kind.SEND,
        EndpointType.RDM,
        op_flags=SEND | Flag.COMPLETION,
        peer_address=to,
        peer="mem://b",
        length=5,
        payload=b"hello",
    )
    assert rig.packets[0].channel == Channel.MESSAGE
    assert rig.inner.last == (buffer, to)


def test_a_completion_gives_the_program_its_context_and_has_the_id_of_its_send(rig: Rig) -> None:
    rig.tap.tsend(b"one", 5, context=[1])
    first = rig.inner.context
    rig.tap.tsend(b"two", 6, context=[2])
    rig.entries.append(Completion(rig.inner.context, TAGGED_SEND))
    rig.entries.append(Completion(first, TAGGED_SEND))
    entries = rig.cq.read(5)
    assert [entry.context for entry in entries] == [[2], [1]]
    assert entries[0].flags == TAGGED_SEND
    assert [record.kind for record in rig.records] == [Kind.SEND, Kind.SEND, Kind.SENT, Kind.SENT]
    one, two, end_of_two, end_of_one = (packet.mfa for packet in rig.packets)
    assert (end_of_two, end_of_one) == (two, one)
    assert one != two


CALLS: list[tuple[str, tuple[Any, ...], Flag, dict[str, Any]]] = [
    ("send", (b"abc", 0), SEND, {}),
    ("sendv", ([b"a", bytearray(b"bc")], 0), SEND, {}),
    ("inject", (b"abc", 0), SEND | Flag.INJECT, {}),
    ("senddata", (b"abc", 7, 0), SEND | Flag.REMOTE_CQ_DATA, {"cq_data": 7}),
    ("injectdata", (b"abc", 7, 0), SEND | Flag.REMOTE_CQ_DATA | Flag.INJECT, {"cq_data": 7}),
    ("tsend", (b"abc", 0x12, 0), TAGGED_SEND, {"tag": 0x12}),
    ("tsendv", ([b"", b"ab", memoryview(b"c")], 0x12, 0), TAGGED_SEND, {"tag": 0x12}),
    ("tinject", (b"abc", 0x12, 0), TAGGED_SEND | Flag.INJECT, {"tag": 0x12}),
    (
        "tsenddata",
        (b"abc", 7, 0x12, 0),
        TAGGED_SEND | Flag.REMOTE_CQ_DATA,
        {"tag": 0x12, "cq_data": 7},
    ),
    (
        "tinjectdata",
        (b"abc", 7, 0x12, 0),
        TAGGED_SEND | Flag.REMOTE_CQ_DATA | Flag.INJECT,
        {"tag": 0x12, "cq_data": 7},
    ),
    (
        "sendmsg",
        (Message([b"ab", b"c"], 0, "ctx", data=7, tag=9), Flag.FENCE | Flag.REMOTE_CQ_DATA),
        SEND | Flag.FENCE | Flag.REMOTE_CQ_DATA,
        {"cq_data": 7},
    ),
    (
        "tsendmsg",
        (Message([b"ab", b"c"], 0, "ctx", data=7, tag=0x12), Flag.DELIVERY_COMPLETE),
        TAGGED_SEND | Flag.DELIVERY_COMPLETE,
        {"tag": 0x12},
    ),
]


@pytest.mark.parametrize(("name", "arguments", "flags", "more"), CALLS, ids=[c[0] for c in CALLS])
def test_every_way_of_sending(
    rig: Rig, name: str, arguments: tuple[Any, ...], flags: Flag, more: dict[str, Any]
) -> None:
    rig.tap.insert("mem://b")
    getattr(rig.tap, name)(*arguments)
    (record,) = rig.records
    assert record == MessageRecord(
        Kind.SEND,
        EndpointType.RDM,
        op_flags=flags if "inject" in name else flags | Flag.COMPLETION,
        peer_address=0,
        peer="mem://b",
        length=3,
        payload=b"abc",
        **more,
    )
    called, given, keywords = rig.inner.calls[-1]
    assert called == name
    if name.endswith("msg"):
        assert given[1] == arguments[1]
        assert given[0]._replace(context=None) == arguments[0]._replace(context=None)
        assert rig.complete(flags).context == "ctx"
    else:
        assert given == arguments
        assert (not keywords) == ("inject" in name)


@pytest.mark.parametrize(("name", "arguments", "flags", "more"), CALLS, ids=[c[0] for c in CALLS])
def test_what_was_not_posted_is_not_recorded(
    rig: Rig, name: str, arguments: tuple[Any, ...], flags: Flag, more: dict[str, Any]
) -> None:
    rig.inner.refusal = TryAgain("no credit")
    with pytest.raises(TryAgain):
        getattr(rig.tap, name)(*arguments)
    assert not rig.packets


def test_a_send_whose_end_is_read_before_it_returned_is_recorded_first(rig: Rig) -> None:
    """Another thread reads the queue while the poster is still inside `send`."""

    def send(buffer: bytes, dest: int, *, desc: object, context: object) -> None:
        rig.entries.append(Completion(context, SEND))
        assert rig.cq.read()[0].context == "mine"

    rig.inner.send = send  # type: ignore[method-assign]
    rig.tap.send(b"quick", context="mine")
    assert [record.kind for record in rig.records] == [Kind.SEND, Kind.SENT]
    assert rig.packets[0].mfa == rig.packets[1].mfa
    assert rig.packets[0].time_ns <= rig.packets[1].time_ns


def test_a_failed_send(rig: Rig) -> None:
    to = rig.tap.insert("tcp://far")
    rig.tap.send(b"lost", to, context="mine")
    entry = rig.fail(SEND, err=errno.ECONNRESET, prov_errno=5, reason="the link broke")
    assert (entry.context, entry.err) == ("mine", errno.ECONNRESET)
    record = rig.records[1]
    assert (record.kind, record.err, record.prov_errno) == (Kind.SEND_FAILED, errno.ECONNRESET, 5)
    assert record.peer == "tcp://far"
    assert rig.packets[1].comment == "the link broke"
    assert rig.packets[1].mfa == rig.packets[0].mfa


def test_long_messages_are_cut_and_their_length_kept() -> None:
    rig = Rig(payload_bytes=4)
    rig.tap.send(b"0123456789")
    rig.tap.sendv([b"01", b"2345", b"6789"])
    for record, packet in zip(rig.records, rig.packets, strict=True):
        assert (record.payload, record.length) == (b"0123", 10)
        assert packet.length == len(packet.data) + 6


def test_gathering_stops_at_the_limit() -> None:
    assert gathered([b"abc", b"def"], 0) == b""
    assert gathered([b"abc", b"def"], 3) == b"abc"
    assert gathered([b"abc", b"def"], 5) == b"abcde"
    assert gathered([], 5) == b""


# --- receives ------------------------------------------------------------------------------------


def test_a_receive_is_recorded_when_its_completion_is_read(rig: Rig) -> None:
    rig.inner.names[3] = "mem://a"
    buffer = bytearray(16)
    rig.tap.trecv(buffer, 0x12, 0xF, context="mine")
    assert rig.inner.last == (buffer, 0x12, 0xF, ADDR_UNSPEC)
    assert not rig.packets
    buffer[:5] = b"hello"
    entry = rig.complete(
        TAGGED_RECEIVED | Flag.REMOTE_CQ_DATA, length=5, data=9, tag=0x15, source=3
    )
    assert entry == Completion(
        "mine", TAGGED_RECEIVED | Flag.REMOTE_CQ_DATA, 5, data=9, tag=0x15, source=3
    )
    (record,) = rig.records
    assert record == MessageRecord(
        Kind.RECEIVED,
        EndpointType.RDM,
        op_flags=TAGGED_RECEIVED | Flag.REMOTE_CQ_DATA,
        tag=0x15,
        ignore=0xF,
        cq_data=9,
        peer_address=3,
        peer="mem://a",
        length=5,
        payload=b"hello",
    )


def test_every_way_of_receiving(rig: Rig) -> None:
    one, two = bytearray(b"ab"), bytearray(b"cdefg")
    for name, arguments, flags in (
        ("recv", (two, 4), RECEIVED),
        ("recvv", ([one, two], 4), RECEIVED),
        ("recvmsg", (Message([one, two], 4, "ctx"), Flag.COMPLETION), RECEIVED),
        ("trecv", (two, 1, 0, 4), TAGGED_RECEIVED),
        ("trecvv", ([one, two], 1, 3, 4), TAGGED_RECEIVED),
        ("trecvmsg", (Message([one, two], 4, "ctx", tag=1, ignore=3), Flag.MORE), TAGGED_RECEIVED),
    ):
        rig.packets.clear()
        getattr(rig.tap, name)(*arguments)
        called, given, _ = rig.inner.calls[-1]
        assert called == name
        if name.endswith("msg"):
            assert given[0]._replace(context=None) == arguments[0]._replace(context=None)
        else:
            assert given == arguments
        rig.complete(flags, length=4, tag=1)
        (record,) = rig.records
        assert record.payload == (b"cdef" if name in ("recv", "trecv") else b"abcd")
        tagged = name.startswith("t")
        assert record.ignore == ((0 if name == "trecv" else 3) if tagged else None)
        assert record.tag == (1 if tagged else None)


def test_a_truncated_receive(rig: Rig) -> None:
    rig.tap.recv(bytearray(b"0123"))
    entry = rig.fail(RECEIVED, length=4, olen=60, err=FabricErrno.ETRUNC)
    assert entry.context is None
    (record,) = rig.records
    assert (record.kind, record.length, record.payload) == (Kind.RECEIVE_FAILED, 64, b"0123")
    assert record.err == FabricErrno.ETRUNC


def test_messages_of_a_multi_receive_buffer(rig: Rig) -> None:
    buffer = memoryview(bytearray(b"oneTWO--"))
    rig.tap.recvmsg(Message([buffer], context="ring"), Flag.MULTI_RECV)
    context = rig.inner.context
    multi = RECEIVED | Flag.MULTI_RECV
    rig.entries += [
        Completion(context, RECEIVED, 3, buffer[:3]),
        Completion(context, multi, 3, buffer[3:6]),
        Completion(context, multi),
        Completion(None, Flag.MULTI_RECV),
    ]
    entries = rig.cq.read(9)
    assert [entry.context for entry in entries] == ["ring", "ring", "ring", None]
    assert [record.payload for record in rig.records] == [b"one", b"TWO"]


def test_an_empty_message_in_a_multi_receive_buffer_is_a_message(rig: Rig) -> None:
    buffer = memoryview(bytearray(8))
    rig.tap.recvmsg(Message([buffer]), Flag.MULTI_RECV)
    rig.complete(RECEIVED | Flag.MULTI_RECV, buffer=buffer[:0])
    assert [record.length for record in rig.records] == [0]


def test_peek_claim_and_discard(rig: Rig) -> None:
    wanted = {"ctx": 1}
    rig.tap.trecvmsg(Message(context=wanted, tag=5), Flag.PEEK)
    assert rig.fail(TAGGED_RECEIVED, err=errno.ENOMSG).context is wanted
    assert not rig.packets  # a poll that found nothing
    rig.tap.trecvmsg(Message(context=wanted, tag=5), Flag.PEEK | Flag.CLAIM)
    peeked = rig.inner.context
    rig.complete(TAGGED_RECEIVED, length=3, tag=5)
    rig.tap.trecvmsg(Message([bytearray(b"xyz")], context=wanted), Flag.CLAIM)
    assert rig.inner.context is peeked  # the endpoint must know it again
    assert rig.complete(TAGGED_RECEIVED, length=3, tag=5).context is wanted
    rig.tap.trecvmsg(Message(context=wanted, tag=5), Flag.CLAIM)
    assert rig.inner.context is not peeked
    rig.tap.trecvmsg(Message(context=wanted, tag=6), Flag.PEEK | Flag.DISCARD)
    rig.complete(TAGGED_RECEIVED, length=9, tag=6)
    assert [(r.kind, r.length, r.payload) for r in rig.records] == [
        (Kind.PEEKED, 3, b""),
        (Kind.RECEIVED, 3, b"xyz"),
        (Kind.RECEIVED, 9, b""),
    ]
    assert rig.records[0].op_flags & Flag.PEEK
    assert rig.records[2].op_flags & Flag.DISCARD
    assert rig.packets[2].length == len(rig.packets[2].data) + 9


def test_claims_of_equal_contexts_end_in_their_order(rig: Rig) -> None:
    found = []
    for _ in range(2):
        rig.tap.recvmsg(Message(context="same"), Flag.PEEK | Flag.CLAIM)
        found.append(rig.inner.context)
        rig.complete(RECEIVED)
    rig.tap.recvmsg(Message([], context="other"), Flag.CLAIM)
    assert rig.inner.context not in found
    for one in found:
        rig.tap.recvmsg(Message([], context="same"), Flag.CLAIM | Flag.DISCARD)
        assert rig.inner.context is one


def test_cancel_finds_the_oldest_that_is_still_queued(rig: Rig) -> None:
    given = []
    for _ in range(3):
        rig.tap.recv(bytearray(1), context="same")
        given.append(rig.inner.context)
    rig.tap.recv(bytearray(1), context="other")
    assert not rig.tap.cancel("same")
    rig.inner.cancellable = given[1:]
    rig.inner.calls.clear()
    assert rig.tap.cancel("same")
    assert [call[1][0] for call in rig.inner.calls] == given[:2]
    assert not rig.tap.cancel("unknown")


def test_a_receive_is_forgotten_with_the_endpoint_behind(rig: Rig) -> None:
    rig.tap.recv(bytearray(1), context="gone")
    assert len(rig.tap._receives) == 1
    rig.inner.calls.clear()
    gc.collect()
    assert not rig.tap._receives


# --- queues --------------------------------------------------------------------------------------


def test_without_a_tap_in_front_of_its_queue_contexts_are_left_alone() -> None:
    rig = Rig(bind=Bind(0))
    plain = ScriptedQueue()
    rig.tap.bind(plain, BOTH)
    assert rig.inner.last == (plain, BOTH)
    rig.tap.send(b"x", context="mine")
    assert rig.inner.context == "mine"
    for name, arguments, _, _ in CALLS:
        if "inject" not in name:
            getattr(rig.tap, name)(*arguments, **({} if "msg" in name else {"context": "mine"}))
            assert rig.inner.context in ("mine", "ctx")
    message = Message([bytearray(1)], context="mine", ignore=1)
    for name, arguments in (
        ("recv", (bytearray(1),)),
        ("recvv", ([bytearray(1)],)),
        ("recvmsg", (message,)),
        ("trecv", (bytearray(1), 1)),
        ("trecvv", ([bytearray(1)], 1)),
        ("trecvmsg", (message,)),
    ):
        getattr(rig.tap, name)(*arguments, **({} if "msg" in name else {"context": "mine"}))
        assert rig.inner.context == "mine"
    rig.inner.cancellable = ["mine"]
    assert rig.tap.cancel(rig.inner.cancellable[0])
    assert {record.kind for record in rig.records} == {Kind.SEND}


def test_sends_that_have_no_end_do_not_say_that_they_have_one() -> None:
    rig = Rig(bind=BOTH | Bind.SELECTIVE_COMPLETION)
    rig.tap.send(b"x")
    rig.tap.sendmsg(Message([b"x"]))
    rig.tap.sendmsg(Message([b"x"]), Flag.COMPLETION)
    rig.tap.sendmsg(Message([b"x"]), Flag.INJECT | Flag.COMPLETION)
    assert [bool(record.op_flags & Flag.COMPLETION) for record in rig.records] == [
        False, False, True, True,
    ]  # fmt: skip
    plain = Rig()
    plain.tap.sendmsg(Message([b"x"]), Flag.INJECT)
    plain.tap.inject(b"x")
    assert [bool(record.op_flags & Flag.COMPLETION) for record in plain.records] == [True, False]


def test_queues_for_one_direction_only() -> None:
    rig = Rig(bind=Bind.RECV)
    rig.tap.send(b"x", context="mine")
    assert rig.inner.context == "mine"
    rig.tap.recv(bytearray(1), context="mine")
    assert rig.inner.context != "mine"
    assert rig.inner.calls[1][1] == (rig.cq.inner, Bind.RECV)  # type: ignore[attr-defined]


def test_a_tapped_queue_is_the_one_behind_in_everything_else(rig: Rig) -> None:
    cq = rig.cq
    assert isinstance(cq, TapCompletionQueue)
    assert cq.format == CqFormat.TAGGED
    assert cq.fileno() == 17
    cq.signal()
    assert cq.inner.signals == 1  # type: ignore[attr-defined]
    assert cq.depth == 7
    assert cq.read(0) == []
    with pytest.raises(TryAgain):
        cq.sread(1, 0)
    with pytest.raises(TryAgain):
        cq.readerr()
    foreign = Completion("somebody else's", SEND)
    rig.entries.append(foreign)
    assert cq.sread() == [foreign]
    rig.entries.append(CompletionError("somebody else's", SEND, err=5))
    assert cq.readerr().context == "somebody else's"
    with cq:
        pass
    assert cq.inner.is_closed  # type: ignore[attr-defined]
    assert not rig.packets
    with pytest.raises(AttributeError):
        TapCompletionQueue.__new__(TapCompletionQueue).inner  # noqa: B018


# --- the rest of an endpoint ---------------------------------------------------------------------


def test_everything_else_goes_through(rig: Rig) -> None:
    tap, inner = rig.tap, rig.inner
    assert tap.attributes is ATTRIBUTES
    assert tap.name == "scripted://here"
    tap.enable()
    tap.progress()
    tap.set_min_multi_recv(100)
    assert [call[0] for call in inner.calls[-3:]] == ["enable", "progress", "set_min_multi_recv"]
    assert isinstance(tap, MulticastEndpoint)
    assert tap.join("group") == 9
    tap.send(b"to all", 9)
    assert rig.records[-1].peer == "group"
    tap.leave(9)
    assert not inner.groups
    with pytest.raises(AttributeError):
        tap.nonsense()
    with pytest.raises(AttributeError):
        TapEndpoint.__new__(TapEndpoint).inner  # noqa: B018
    with tap as entered:
        assert entered is tap
    assert inner.calls[-1][0] == "close"
    assert rig.records[-1].event == EventCode.CLOSE


def test_names_of_peers_are_asked_for_once(rig: Rig) -> None:
    to = rig.tap.insert("mem://b")
    rig.inner.names[5] = "mem://later"
    for _ in range(3):
        rig.tap.send(b"", to)
        rig.tap.send(b"", 5)
        rig.tap.send(b"", 77)
    asked = [call[1][0] for call in rig.inner.calls if call[0] == "address_of"]
    assert asked == [5, 77, 77, 77]  # it may be inserted in between
    assert {record.peer for record in rig.records} == {"mem://b", "mem://later", ""}
    rig.tap.remove(to)
    rig.tap.send(b"", to)
    assert rig.records[-1].peer == ""
    assert rig.records[-1].peer_address == to


def test_names_of_peers_are_bounded(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoint_tap, "MAX_NAMES", 3)
    rig.tap.connect("tcp://peer")
    for number in range(9):
        rig.tap.insert(f"mem://{number}")
        assert len(rig.tap._names) <= 4
    rig.tap.send(b"x")
    assert rig.records[-1].peer == "tcp://peer"
    empty = Rig()
    for number in range(9):
        empty.tap.insert(f"mem://{number}")
        assert len(empty.tap._names) <= 3


# --- connections ---------------------------------------------------------------------------------


def test_a_connection_from_end_to_end(rig: Rig) -> None:
    tap, inner = rig.tap, rig.inner
    tap.connect("tcp://peer", b"hello?")
    inner.events.waiting += [
        Event(EventKind.CONNECTED, inner, b"hello!"),
        Event(EventKind.SHUTDOWN, inner),
        Event(EventKind.ERROR, "somebody", err=errno.ECONNREFUSED),
    ]
    events = tap.events
    assert tap.events is events
    assert events.count == 3  # type: ignore[attr-defined]
    assert events.read() == Event(EventKind.CONNECTED, tap, b"hello!")
    assert events.sread(1).source is tap
    assert events.read().source == "somebody"
    with pytest.raises(TryAgain):
        events.read()
    tap.send(b"x")
    tap.shutdown()
    assert [(r.event, r.payload, r.peer, r.err) for r in rig.records if r.kind == Kind.EVENT] == [
        (EventCode.CONNECT, b"hello?", "tcp://peer", 0),
        (EventCode.CONNECTED, b"hello!", "tcp://peer", 0),
        (EventCode.SHUTDOWN, b"", "tcp://peer", 0),
        (EventCode.ERROR, b"", "tcp://peer", errno.ECONNREFUSED),
        (EventCode.CLOSE, b"", "tcp://peer", 0),
    ]
    assert rig.records[-2].peer == "tcp://peer"
    assert ("connect", ("tcp://peer", b"hello?"), {}) in inner.calls
    assert inner.calls[-1][0] == "shutdown"


def test_what_a_listener_makes_is_tapped() -> None:
    packets: list[Packet] = []
    listener = ScriptedListener()

    def wrap(made: Any) -> Any:
        return TapEndpoint(made, packet_recorder(packets.append, number=1))

    with TapPassiveEndpoint(listener, packet_recorder(packets.append), wrap) as tap:
        assert (tap.name, tap.backlog) == ("scripted://listens", 5)
        tap.listen()
        assert listener.listens
        behind = listener.asked(b"may I?")
        event = tap.events.read()
        assert tap.events is tap.events
        assert event.source is tap
        assert event.request is not None
        endpoint = event.request.endpoint()
        assert isinstance(endpoint, TapEndpoint)
        endpoint.accept(b"yes")
        event.request.reject(b"no")
        assert isinstance(behind, ScriptedRequest)
        assert behind.rejected == [b"no"]
        assert event.request.made is behind.made  # type: ignore[attr-defined]
        assert behind.made.calls == [("accept", (b"yes",), {})]
    assert listener.is_closed
    assert [(p.iop, unpack_record(p.data).event) for p in packets] == [
        (0, EventCode.CONNREQ),
        (1, EventCode.ACCEPT),
        (0, EventCode.CLOSE),
    ]
    for made in (TapPassiveEndpoint, type(tap.events), type(event.request)):
        with pytest.raises(AttributeError):
            made.__new__(made).inner  # noqa: B018


# --- what goes wrong in looking ------------------------------------------------------------------


def broken(packet: Packet) -> None:
    raise ZeroDivisionError


def test_nothing_that_goes_wrong_in_looking_reaches_the_traffic(
    caplog: pytest.LogCaptureFixture,
) -> None:
    inner = ScriptedEndpoint()
    tap = TapEndpoint(inner, packet_recorder(broken))  # type: ignore[arg-type]
    cq = tap.open_cq()
    tap.bind(cq, BOTH)
    entries = cq.inner.entries  # type: ignore[attr-defined]
    tap.send(b"x", context=1)
    entries.append(Completion(inner.context, SEND))
    assert cq.read()[0].context == 1
    tap.recv(bytearray(4), context=2)
    entries.append(Completion(inner.context, RECEIVED, 4))
    assert cq.read()[0].context == 2
    entries.append(CompletionError(inner.context, RECEIVED))
    assert cq.readerr().context == 2
    inner.events.waiting.append(Event(EventKind.CONNECTED, inner))
    assert tap.events.read().kind is EventKind.CONNECTED
    inner.events.waiting.append(Event("odd", inner))  # type: ignore[arg-type]
    assert tap.events.read().kind == "odd"
    tap.close()
    messages = {record.message for record in caplog.records if record.levelno >= logging.WARNING}
    assert messages == {
        "a send could not be captured",
        "a completion could not be captured",
        "a message could not be captured",
        "an event could not be captured",
    }


def test_arguments_that_make_no_sense_are_the_endpoints_to_refuse(rig: Rig) -> None:
    rig.inner.refusal = FabricError(errno.EINVAL, "that is no buffer")
    with pytest.raises(FabricError, match="that is no buffer"):
        rig.tap.send(None)  # type: ignore[arg-type]
    rig.tap.send("text", context="mine")  # type: ignore[arg-type]  # an odd endpoint takes it
    assert rig.complete(SEND).context == "mine"
    assert not rig.packets
