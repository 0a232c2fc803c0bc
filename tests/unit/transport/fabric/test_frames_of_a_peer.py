# SPDX-License-Identifier: Apache-2.0
"""What a peer may send and what costs it its link: frames written by hand."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator

import pytest

from fakes.endpoint_end import End, Ends
from fakes.frame_peer import FramePeer
from i2o.transport.fabric.completion import Completion, CompletionError
from i2o.transport.fabric.endpoint import Message
from i2o.transport.fabric.engine_options import EngineOptions
from i2o.transport.fabric.flags import EndpointType, Flag
from i2o.transport.fabric.frames import (
    ACK,
    ACK_FORMAT,
    LAYOUTS,
    MESSAGE,
    MESSAGE_FORMAT,
    PIECE,
    PIECE_FORMAT,
    FrameKind,
    MessageFlag,
)

SMALL = EngineOptions(
    window_messages=4, window_bytes=100, eager_limit=50, max_msg_size=1000, inject_size=40
)


@pytest.fixture
def end(ends: Ends) -> End:
    return ends.end("tested", options=SMALL)


@pytest.fixture
def peer(ends: Ends, end: End) -> Iterator[FramePeer]:
    made = FramePeer(ends.fabric, "peer", "tested")
    yield made
    made.carrier.close()


def greeted(end: End, peer: FramePeer) -> None:
    peer.hello()
    end.endpoint.progress()
    peer.progress()
    hello, parameter = peer.take(FrameKind.HELLO)
    assert (hello.version, hello.endpoint_type, parameter) == (1, EndpointType.RDM, b"")
    assert (hello.message_limit, hello.byte_limit, hello.eager_limit) == (4, 100, 50)


def test_the_short_formats_are_those_of_the_layouts() -> None:
    assert [layout.size for layout in LAYOUTS] == [32, 48, 16, 16, 16, 8, 16, 8, 8]
    assert (MESSAGE_FORMAT.size, PIECE_FORMAT.size, ACK_FORMAT.size) == (48, 16, 16)
    for layout, form in ((MESSAGE, MESSAGE_FORMAT), (PIECE, PIECE_FORMAT), (ACK, ACK_FORMAT)):
        frame = bytes(range(1, form.size + 1))
        record = layout.unpack_from(frame)
        assert [getattr(record, field.attribute) for field in layout.fields] == list(
            form.unpack(frame)
        )


def test_a_message_is_received_and_acknowledged(end: End, peer: FramePeer) -> None:
    buffer = bytearray(10)
    end.endpoint.recv(buffer, context="r")
    greeted(end, peer)
    peer.message(1, b"abc", flags=MessageFlag.DATA | MessageFlag.ACK_NOW, data=5)
    (entry,) = end.entries()
    assert isinstance(entry, Completion)
    assert (entry.length, entry.data, bytes(buffer[:3])) == (3, 5, b"abc")
    assert entry.flags == Flag.RECV | Flag.MSG | Flag.REMOTE_CQ_DATA
    peer.progress()
    ack, _ = peer.take(FrameKind.ACK)
    assert (ack.arrived, ack.message_limit, ack.byte_limit) == (1, 5, 103)


def test_limits_rise_when_messages_are_received(end: End, peer: FramePeer) -> None:
    greeted(end, peer)
    for number in range(1, 5):
        peer.message(number, bytes(20))
    end.endpoint.progress()
    peer.progress()
    last = [frame for kind, frame, _ in peer.frames if kind is FrameKind.ACK][-1]
    assert (last.arrived, last.message_limit, last.byte_limit) == (4, 4, 100)
    end.endpoint.recv(bytearray(20))
    peer.progress()
    last = [frame for kind, frame, _ in peer.frames if kind is FrameKind.ACK][-1]
    assert (last.arrived, last.message_limit, last.byte_limit) == (4, 5, 120)


VIOLATIONS: dict[str, Callable[[FramePeer], None]] = {
    "empty": lambda peer: peer.raw(b""),
    "short": lambda peer: peer.raw(b"\x02\x00\x07\x00\x01"),
    "short message": lambda peer: peer.raw(b"\x02\x00\x07\x00" + bytes(20)),
    "short piece": lambda peer: peer.raw(b"\x03\x00\x07\x00" + bytes(4)),
    "long ack": lambda peer: peer.raw(b"\x04\x00\x07\x00" + bytes(30)),
    "short clear": lambda peer: peer.raw(b"\x05\x00\x07\x00" + bytes(4)),
    "unknown kind": lambda peer: peer.raw(b"\x63\x00\x07\x00" + bytes(20)),
    "second hello": lambda peer: peer.hello(),
    "number skipped": lambda peer: peer.message(2),
    "number zero": lambda peer: peer.message(0),
    "too short": lambda peer: peer.message(1, b"abc", length=4),
    "too long": lambda peer: peer.message(1, b"abc", length=2),
    "not announced": lambda peer: peer.message(1, bytes(51)),
    "announced with bytes": lambda peer: peer.message(
        1, b"x", length=60, flags=MessageFlag.ANNOUNCED
    ),
    "announced nothing": lambda peer: peer.message(1, length=0, flags=MessageFlag.ANNOUNCED),
    "announced too much": lambda peer: peer.message(1, length=1001, flags=MessageFlag.ANNOUNCED),
    "more messages": lambda peer: [peer.message(number) for number in range(1, 6)].clear(),
    "more bytes": lambda peer: [peer.message(n, bytes(34)) for n in (1, 2, 3)].clear(),
    "piece of nothing": lambda peer: peer.piece(1, 0, b"x"),
    "ack of nothing": lambda peer: peer.ack(1, 100, 100_000),
    "limit back": lambda peer: peer.ack(0, 99, 100_000),
    "byte limit back": lambda peer: peer.ack(0, 100, 99_999),
    "clear of nothing": lambda peer: peer.clear(1, 1),
    "done of nothing": lambda peer: peer.done(1),
}


@pytest.mark.parametrize("violation", VIOLATIONS.values(), ids=VIOLATIONS)
def test_who_breaks_the_rules_loses_the_link(
    ends: Ends, end: End, peer: FramePeer, violation: Callable[[FramePeer], None]
) -> None:
    greeted(end, peer)
    violation(peer)
    peer.message(1, b"not read any more")
    end.endpoint.progress()
    peer.progress()
    assert peer.losses == [errno.ECONNRESET]
    # and is served when it behaves
    peer.frames.clear()
    peer.epoch += 1
    peer.hello()
    end.endpoint.progress()
    peer.progress()
    assert peer.kinds() == [FrameKind.HELLO]
    assert peer.losses == [errno.ECONNRESET]


def test_the_sends_to_who_breaks_the_rules_end(end: End, peer: FramePeer) -> None:
    to = end.endpoint.insert("peer")
    end.endpoint.send(b"x", to, context=1)
    end.endpoint.inject(b"y", to)
    peer.hello()
    end.endpoint.progress()
    peer.done(7)
    assert end.errors() == [(1, errno.EPROTO), (None, errno.EPROTO)]


def test_frames_of_another_epoch_are_ignored(end: End, peer: FramePeer) -> None:
    end.endpoint.recv(bytearray(4), context="r")
    peer.message(1, b"too early")
    greeted(end, peer)
    peer.message(1, b"old", epoch=6)
    peer.message(1, b"new")
    assert end.contexts() == ["r"]
    assert peer.losses == []


def test_a_peer_begins_anew_on_the_same_link(end: End, peer: FramePeer) -> None:
    end.endpoint.insert("peer")
    greeted(end, peer)
    end.endpoint.send(b"x", 0, context="lost")
    peer.epoch = 8
    peer.hello(incarnation=2)
    assert end.errors() == [("lost", errno.ECONNRESET)]
    end.endpoint.send(b"y", 0, context="fine")
    peer.progress()
    assert FrameKind.HELLO in peer.kinds()
    peer.ack(1, 100, 100_000)
    assert end.contexts() == ["fine"]


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"version": 2}, errno.EPROTONOSUPPORT),
        ({"endpoint_type": EndpointType.MSG}, errno.EPROTOTYPE),
    ],
)
def test_who_does_not_fit_is_refused(
    end: End, peer: FramePeer, fields: dict[str, int], code: int
) -> None:
    peer.hello(**fields)  # type: ignore[arg-type]
    end.endpoint.progress()
    peer.progress()
    assert peer.take(FrameKind.REFUSE)[0].code == code


def test_who_is_refused_is_told_once(end: End, peer: FramePeer) -> None:
    to = end.endpoint.insert("peer")
    end.endpoint.send(b"x", to, context="x")
    peer.refuse(errno.EPROTOTYPE)
    assert end.errors() == [("x", errno.ECONNREFUSED)]
    peer.progress()
    assert peer.losses == [errno.ECONNRESET]


# --- announced messages, seen from both sides ------------------------------------------------


def announced(end: End, peer: FramePeer, length: int = 120) -> None:
    greeted(end, peer)
    peer.message(1, length=length, flags=MessageFlag.ANNOUNCED | MessageFlag.TELL_MATCH)
    end.endpoint.progress()


def test_an_announced_message_comes_in_pieces(end: End, peer: FramePeer) -> None:
    buffer, data = bytearray(200), bytes(range(120))
    announced(end, peer)
    end.endpoint.recv(buffer, context="r")
    peer.progress()
    assert peer.take(FrameKind.CLEAR)[0].length == 120
    peer.piece(1, 0, data[:70])
    assert end.entries() == []
    peer.piece(1, 70, data[70:])
    assert end.contexts() == ["r"]
    assert buffer[:120] == data
    peer.progress()
    assert peer.take(FrameKind.DONE)[0].message_id == 1


def test_only_what_has_room_is_asked_for(end: End, peer: FramePeer) -> None:
    announced(end, peer)
    end.endpoint.recv(bytearray(30), context="short")
    peer.progress()
    assert peer.take(FrameKind.CLEAR)[0].length == 30
    peer.piece(1, 0, bytes(30))
    (entry,) = end.entries()
    assert isinstance(entry, CompletionError)
    assert (entry.length, entry.olen) == (30, 90)


def test_a_receive_without_room_asks_for_nothing(end: End, peer: FramePeer) -> None:
    announced(end, peer)
    end.endpoint.recv(bytearray(0), context="none")
    (entry,) = end.entries()
    assert isinstance(entry, CompletionError)
    assert (entry.length, entry.olen) == (0, 120)
    peer.progress()
    assert peer.take(FrameKind.DONE)[0].message_id == 1


@pytest.mark.parametrize(("offset", "data"), [(1, b"x"), (0, b""), (0, bytes(121))])
def test_pieces_that_do_not_fit(end: End, peer: FramePeer, offset: int, data: bytes) -> None:
    announced(end, peer)
    end.endpoint.recv(bytearray(200), context="r")
    peer.piece(1, offset, data)
    assert end.errors() == [("r", errno.EPROTO)]


@pytest.mark.parametrize("is_matched", [True, False])
def test_an_announced_message_is_given_up(end: End, peer: FramePeer, is_matched: bool) -> None:
    announced(end, peer)
    if is_matched:
        end.endpoint.recv(bytearray(200), context="r")
        peer.piece(1, 0, bytes(10))
    peer.abort(1, errno.ECANCELED)
    if is_matched:
        (entry,) = end.entries()
        assert isinstance(entry, CompletionError)
        assert (entry.err, entry.length) == (errno.ECANCELED, 10)
    else:
        assert end.entries() == []
        end.endpoint.recv(bytearray(200), context="r")
    peer.abort(9, errno.ECANCELED)  # nobody knows that one
    assert end.entries() == []
    assert peer.losses == []


def test_a_sender_keeps_to_what_it_is_granted(end: End, peer: FramePeer) -> None:
    to = end.endpoint.insert("peer")
    peer.hello(message_limit=2, byte_limit=30, eager_limit=20)
    end.endpoint.progress()
    for number in range(3):
        end.endpoint.send(bytes(20), to, context=number)
    peer.progress()
    assert peer.kinds().count(FrameKind.MESSAGE) == 1
    assert peer.take(FrameKind.ACK)[0].flags == 1, "it asks for more"
    peer.ack(1, 2, 50)
    assert end.contexts() == [0]
    peer.progress()
    assert peer.kinds().count(FrameKind.MESSAGE) == 2
    peer.ack(2, 3, 200, flags=1)
    assert end.contexts() == [1]
    peer.progress()
    assert peer.kinds().count(FrameKind.MESSAGE) == 3
    assert FrameKind.ACK in peer.kinds(), "the peer had asked, too"
    peer.ack(3, 3, 200)
    assert end.contexts() == [2]


def test_an_announced_message_is_sent_as_far_as_it_is_wanted(end: End, peer: FramePeer) -> None:
    to = end.endpoint.insert("peer")
    greeted(end, peer)
    data = bytes(range(200))
    end.endpoint.sendv([data[:90], data[90:]], to, context="s")
    peer.progress()
    head, body = peer.take(FrameKind.MESSAGE)
    assert (head.length, body) == (200, b"")
    peer.clear(1, 150)
    end.endpoint.progress()
    peer.progress()
    assert peer.take(FrameKind.PIECE)[1] == data[:150]
    peer.done(1)
    assert end.contexts() == ["s"]


@pytest.mark.parametrize("length", [0, 201])
def test_a_clear_that_makes_no_sense(end: End, peer: FramePeer, length: int) -> None:
    to = end.endpoint.insert("peer")
    greeted(end, peer)
    end.endpoint.send(bytes(200), to, context="s")
    peer.clear(1, length)
    assert end.errors() == [("s", errno.EPROTO)]


def test_two_clears_and_a_done_too_early(ends: Ends, end: End, peer: FramePeer) -> None:
    to = end.endpoint.insert("peer")
    greeted(end, peer)
    end.endpoint.send(bytes(200), to, context="s")
    peer.clear(1, 10)
    peer.clear(1, 10)
    assert end.errors() == [("s", errno.EPROTO)]
    peer.epoch += 1
    peer.progress()
    end.endpoint.send(bytes(200), to, context="s")
    end.endpoint.progress()
    peer.hello()
    end.endpoint.progress()
    ends.fabric.block("tested", "peer")
    peer.clear(1, 10)
    peer.done(1)
    assert end.errors() == [("s", errno.EPROTO)]


def test_what_was_given_up_may_be_answered_late(end: End, peer: FramePeer) -> None:
    to = end.endpoint.insert("peer")
    greeted(end, peer)
    end.endpoint.send(bytes(200), to, context="announced")
    end.endpoint.send(bytes(10), to, context="sent")
    end.endpoint.remove(to)
    assert end.errors() == [("announced", errno.ECANCELED), ("sent", errno.ECANCELED)]
    peer.progress()
    assert peer.take(FrameKind.ABORT)[0].message_id == 1
    peer.clear(1, 200)
    peer.done(1)
    peer.ack(2, 100, 100_000)
    assert end.entries() == []
    assert peer.losses == []


def test_a_fenced_match_is_told_after_all_that_came_before(end: End, peer: FramePeer) -> None:
    greeted(end, peer)
    peer.message(1, b"1", tag=1, flags=MessageFlag.TAGGED)
    peer.message(
        2, b"2", tag=2, flags=MessageFlag.TAGGED | MessageFlag.TELL_MATCH | MessageFlag.FENCED
    )
    end.endpoint.progress()
    end.endpoint.trecv(bytearray(1), 2, context=2)
    peer.progress()
    assert FrameKind.DONE not in peer.kinds()
    end.endpoint.trecvmsg(Message(tag=1, context=1), Flag.PEEK | Flag.DISCARD)
    peer.progress()
    assert peer.take(FrameKind.DONE)[0].message_id == 2
    assert end.contexts() == [2, 1]


def test_a_peer_that_comes_back_cannot_pile_up_messages(
    ends: Ends, end: End, peer: FramePeer
) -> None:
    greeted(end, peer)
    for number in (1, 2, 3):
        peer.message(number, bytes(30))
    end.endpoint.progress()
    ends.fabric.reset("peer", "tested")
    end.endpoint.progress()
    peer.progress()
    peer.frames.clear()
    peer.epoch += 1
    peer.hello(epoch=peer.epoch)
    end.endpoint.progress()
    peer.progress()
    hello, _ = peer.take(FrameKind.HELLO)
    assert (hello.message_limit, hello.byte_limit) == (1, 10)
    end.endpoint.recv(bytearray(30), context="kept")
    assert end.contexts() == ["kept"]
    peer.progress()
    ack, _ = peer.take(FrameKind.ACK)
    assert (ack.message_limit, ack.byte_limit) == (2, 40)


def test_no_more_messages_than_granted(end: End, peer: FramePeer) -> None:
    to = end.endpoint.insert("peer")
    peer.hello(message_limit=2)
    end.endpoint.progress()
    for number in range(3):
        end.endpoint.send(b"", to, context=number)
    peer.progress()
    assert peer.kinds().count(FrameKind.MESSAGE) == 2
    peer.ack(2, 3, 100_000)
    end.endpoint.progress()
    peer.progress()
    assert peer.kinds().count(FrameKind.MESSAGE) == 3


def test_a_fence_and_a_match_wait_for_the_peer(end: End, peer: FramePeer) -> None:
    to = end.endpoint.insert("peer")
    greeted(end, peer)
    end.endpoint.tsendmsg(Message([b"1"], to, 1, tag=1), Flag.MATCH_COMPLETE)
    end.endpoint.tsendmsg(Message([b"2"], to, 2, tag=1), Flag.FENCE | Flag.MATCH_COMPLETE)
    peer.progress()
    assert peer.take(FrameKind.MESSAGE)[0].flags == MessageFlag.TAGGED | MessageFlag.TELL_MATCH
    peer.ack(1, 100, 100_000)
    assert end.entries() == [], "it has arrived, but nobody took it"
    peer.progress()
    assert FrameKind.MESSAGE not in peer.kinds()
    peer.done(1)
    assert end.contexts() == [1]
    peer.progress()
    assert MessageFlag.FENCED in MessageFlag(peer.take(FrameKind.MESSAGE)[0].flags)
    peer.ack(2, 100, 100_000)
    peer.done(2)
    assert end.contexts() == [2]


def test_bytes_that_become_free_are_told(ends: Ends) -> None:
    end = ends.end("roomy", options=EngineOptions(window_messages=100, window_bytes=100))
    peer = FramePeer(ends.fabric, "peer", "roomy")
    peer.hello()
    peer.message(1, bytes(24))
    peer.message(2, bytes(24))
    end.endpoint.progress()
    peer.progress()
    peer.frames.clear()
    end.endpoint.recv(bytearray(24))
    peer.progress()
    assert peer.kinds() == [], "that is less than a quarter, and only one message"
    end.endpoint.recv(bytearray(24))
    peer.progress()
    ack, _ = peer.take(FrameKind.ACK)
    assert (ack.message_limit, ack.byte_limit) == (102, 148)
    peer.carrier.close()


def test_who_asks_is_told_of_every_change(ends: Ends) -> None:
    end = ends.end("patient", options=EngineOptions(window_messages=100))
    peer = FramePeer(ends.fabric, "peer", "patient")
    peer.hello()
    peer.message(1)
    peer.message(2)
    peer.ack(0, 100, 100_000, flags=1)
    end.endpoint.progress()
    peer.progress()
    assert peer.take(FrameKind.ACK)[0].message_limit == 100
    for limit in (101, 102):
        end.endpoint.recv(bytearray(1))
        peer.progress()
        assert peer.take(FrameKind.ACK)[0].message_limit == limit
    peer.carrier.close()


def test_every_link_has_an_epoch_of_its_own(ends: Ends, end: End, peer: FramePeer) -> None:
    epochs = []
    for _ in range(3):
        peer.hello()
        end.endpoint.progress()
        peer.progress()
        epochs.append(peer.take(FrameKind.HELLO)[0].epoch)
        ends.fabric.reset("peer", "tested")
        end.endpoint.progress()
        peer.progress()
    assert len(set(epochs)) == 3


def test_what_is_doomed_and_lost_is_not_closed_again(ends: Ends, end: End, peer: FramePeer) -> None:
    greeted(end, peer)
    peer.message(9)  # against the rules; and before the end can say so, the link is gone
    ends.fabric.drop("peer", "tested")
    peer.progress()
    peer.losses.clear()
    peer.epoch += 1
    peer.hello()
    end.endpoint.recv(bytearray(1), context="r")
    peer.message(1)
    assert end.contexts() == ["r"]
    peer.progress()
    assert peer.losses == []
