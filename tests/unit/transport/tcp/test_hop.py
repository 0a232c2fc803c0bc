# SPDX-License-Identifier: Apache-2.0
"""The short way of a message through its hop, and acknowledgements that come late."""

from __future__ import annotations

import errno
import itertools
import threading
from collections.abc import Callable, Sequence
from typing import Any, cast

import pytest

from fakes.messengers import Messengers, drive
from fakes.raw_peer import RawLink, RawPeer
from i2o.transport.tcp.errors import PeerError, ProtocolViolation, RecvTimeout
from i2o.transport.tcp.hop import Hop, Office
from i2o.transport.tcp.mailbox import Mailbox, Message, Receive
from i2o.transport.tcp.message_wire import (
    ACK,
    ANY_TAG,
    FIRST_RESERVED_TAG,
    MESSAGE,
    MESSAGE_SIZE,
    RESUME,
)
from i2o.transport.tcp.messenger import Messenger
from i2o.transport.tcp.node import Node
from i2o.transport.tcp.options import MessengerOptions, PeerOptions
from i2o.transport.tcp.peer_name import ANYBODY, PeerName
from i2o.transport.tcp.session import Outgoing, Session
from i2o.transport.tcp.wire import FRAME_HEAD, HEAD_SIZE, Kind

A, B, C = PeerName(1, 1), PeerName(2, 2), PeerName(3, 3)
ROOM = 1 << 20


class ScriptedNode:
    """Takes frames as long as there is room, and keeps what is to be called later."""

    def __init__(self) -> None:
        self.frames: list[bytes] = []
        self.late: list[Callable[[], None]] = []
        self.has_room = True

    def send(self, number: int, parts: Sequence[Any]) -> bool:
        if self.has_room:
            self.frames.append(b"".join(parts))
        return self.has_room

    def send_small(self, number: int, frame: bytes) -> bool:
        head = FRAME_HEAD.unpack_from(frame)
        assert (head.length, head.kind) == (len(frame) - HEAD_SIZE, Kind.DATA)
        return self.send(number, (frame[HEAD_SIZE:],))

    def after(self, delay_s: float, action: Callable[[], None]) -> None:
        self.late.append(action)

    def frame_limit_of(self, number: int) -> int:
        return 1 << 16


class ScriptedOffice:
    """Keeps what arrived."""

    is_closed = False

    def __init__(self) -> None:
        self.name = A
        self.is_watched = False
        self.notified = 0
        self.options = MessengerOptions()
        self.pings: dict[PeerName, list[list[int]]] = {}
        self.got: list[Message] = []
        self.letters: list[Any] = []

    def arrived(self, message: Message, hop: Hop | None, cost: int) -> None:
        self.got.append(message)

    def transit(self, hop: Hop, letter: Any, number: int, flags: int, cost: int) -> None:
        self.letters.append(letter)

    def notify(self) -> None:
        self.notified += 1


class Rig:
    """A hop from A to B whose link is up and whose peer has said how far it came."""

    def __init__(self, credit: int = ROOM) -> None:
        self.node, self.office = ScriptedNode(), ScriptedOffice()
        self.session = Session(B, 1, ROOM)
        self.hop = Hop(
            cast(Office, self.office), cast(Node, self.node), self.session, itertools.count(1)
        )
        self.hop.up(0)
        said = RESUME.build(kind=3, id=7, peer_id=0, received=0, credit=credit, window=credit)
        self.hop.take(memoryview(said))
        self.node.frames.clear()

    def post(self, *parts: bytes, to: PeerName = B) -> Outgoing:
        message = Outgoing(A, to, 5, parts, next(self.hop.numbers), 0, 16, None)
        self.hop.post(message)
        return message

    def arrive(self, sequence: int, data: bytes = b"", **fields: Any) -> None:
        """Let a message of B to A come."""
        values = {
            "kind": 1,
            "hops": 16,
            "tag": 5,
            "sequence": sequence,
            "number": sequence,
            "origin_job": 2,
            "origin_rank": 2,
            "destination_job": 1,
            "destination_rank": 1,
            "credit": ROOM,
        }
        self.hop.take(memoryview(MESSAGE.build(**values | fields) + data))

    def sent(self) -> list[tuple[int, bytes]]:
        """Return sequence numbers and bytes of the messages that went, and forget them."""
        frames, self.node.frames = self.node.frames, []
        return [
            (MESSAGE.unpack_from(frame).sequence, frame[MESSAGE_SIZE:])
            for frame in frames
            if frame[0] == 1
        ]

    def acks(self) -> list[int]:
        """Return the acknowledgements that went by themselves, and forget all frames."""
        frames, self.node.frames = self.node.frames, []
        return [ACK.unpack_from(frame).ack for frame in frames if frame[0] == 2]

    def fire(self) -> None:
        """Let the time come for everything that was put off so far."""
        late, self.node.late = self.node.late, []
        for action in late:
            action()


@pytest.mark.parametrize(("said", "left"), [(1, 0), (3, 2), (16, 15), (17, 15), (255, 15)])
def test_no_message_goes_on_over_more_links_than_any_may(said: int, left: int) -> None:
    rig = Rig()
    rig.arrive(1, b"x", hops=said, destination_job=3, destination_rank=3)
    assert [letter.hops for letter in rig.office.letters] == [left]


def test_short_and_long_messages_keep_their_order() -> None:
    rig = Rig()
    for parts in ((b"a",), (), (b"b" * 5000,), (b"c", b"d")):
        rig.post(*parts)
    assert rig.sent() == [(1, b"a"), (2, b""), (3, b"b" * 5000), (4, b"cd")]
    assert len(rig.session.in_flight) == 4


def test_the_head_names_who_sends_and_who_is_to_have_it() -> None:
    rig = Rig()
    rig.post(b"x")
    rig.post(b"x", to=C)
    heads = [MESSAGE.unpack_from(frame) for frame in rig.node.frames]
    assert [(head.origin_job, head.origin_rank) for head in heads] == [A, A]
    assert [(head.destination_job, head.destination_rank) for head in heads] == [B, C]
    assert [(head.tag, head.number, head.hops) for head in heads] == [(5, 1, 16), (5, 2, 16)]


def test_a_node_without_room_gets_the_same_messages_later() -> None:
    rig = Rig()
    rig.arrive(1)
    rig.node.has_room = False
    messages = [rig.post(b"0")]
    assert rig.session.unacknowledged  # the head that did not go would have said so
    messages += [rig.post(b"%d" % number) for number in (1, 2)]
    assert [message.sequence for message in messages] == [1, 0, 0]
    assert not rig.session.in_flight
    rig.node.has_room = True
    rig.hop.room()
    assert rig.sent() == [(1, b"0"), (2, b"1"), (3, b"2")]
    assert [message.sequence for message in messages] == [1, 2, 3]


def test_a_peer_without_room_gets_the_rest_when_it_says_so() -> None:
    rig = Rig(credit=130)
    for number in range(4):
        rig.post(b"%d" % number)
    assert rig.sent() == [(1, b"0"), (2, b"1")]
    rig.arrive(1, credit=195)  # more room, without an acknowledgement
    assert rig.sent() == [(3, b"2")]
    assert len(rig.session.in_flight) == 3
    rig.arrive(2, credit=260, ack=2)
    assert rig.sent() == [(4, b"3")]
    assert len(rig.session.in_flight) == 2


@pytest.mark.parametrize("count", [1, 2, 3])
def test_one_acknowledgement_ends_all_that_it_is_about(count: int) -> None:
    rig = Rig()
    messages = [rig.post(b"%d" % number) for number in range(count)]
    rig.arrive(1, ack=count)
    assert all(message.is_over for message in messages)
    assert rig.session.waiting == rig.session.waiting_bytes == 0


def test_whoever_waits_hears_that_a_message_ended() -> None:
    rig = Rig()
    rig.office.is_watched = True
    rig.post(b"x")
    before = rig.office.notified
    rig.arrive(1, ack=1)
    assert rig.office.notified == before + 1


def test_what_waits_is_acknowledged_when_the_time_is_over() -> None:
    rig = Rig()
    rig.arrive(1)
    rig.arrive(2)
    assert len(rig.node.late) == 1
    rig.fire()
    assert rig.acks() == [2]
    rig.fire()
    assert rig.acks() == []


def test_what_came_since_the_last_acknowledgement_has_its_own_time() -> None:
    rig = Rig()
    rig.arrive(1)
    rig.post(b"an answer, which acknowledges")
    rig.arrive(2)
    rig.fire()
    assert rig.acks() == []
    rig.fire()
    assert rig.acks() == [2]
    assert rig.node.late == []


def test_nothing_is_put_off_when_an_answer_went() -> None:
    rig = Rig()
    rig.arrive(1)
    rig.post(b"an answer")
    rig.fire()
    assert rig.acks() == []
    assert rig.node.late == []


def test_a_duplicate_is_acknowledged_again() -> None:
    rig = Rig()
    rig.arrive(1)
    rig.fire()
    rig.acks()
    rig.arrive(1)
    rig.fire()
    assert rig.acks() == [1]
    assert len(rig.office.got) == 1


def test_messages_of_others_are_told_from_those_of_the_neighbour() -> None:
    rig = Rig()
    rig.arrive(1, b"here")
    rig.arrive(2, b"from afar", origin_job=3, origin_rank=3)
    rig.arrive(3, b"on", destination_rank=9)
    assert [message[:2] for message in rig.office.got] == [(B, B), (C, B)]
    assert [bytes(message.data) for message in rig.office.got] == [b"here", b"from afar"]
    assert rig.office.letters[0].destination == PeerName(1, 9)
    assert rig.office.got[0].tag < FIRST_RESERVED_TAG


@pytest.mark.parametrize(
    "frame", [b"", b"\1" * 20, b"\4" * MESSAGE_SIZE, b"\2" * 100, b"\3" * RESUME.size]
)
def test_frames_that_make_no_sense(frame: bytes) -> None:
    with pytest.raises(ProtocolViolation, match="a message frame"):
        Rig().hop.take(memoryview(frame))


def linked(office: Messengers) -> tuple[Messenger, RawPeer, RawLink]:
    """Return a messenger that is driven, and a raw peer with a link to it that is ready."""
    a, raw = office.open(1, 0, MessengerOptions(window=1 << 30)), office.raw(1, 1)
    links: list[RawLink] = []

    def call() -> None:
        link, _ = raw.call(a.address)
        link.resume(window=1 << 30)
        links.append(link)

    caller = threading.Thread(target=call)
    caller.start()
    drive(a, until=lambda: a.peers() and a._office.hops[raw.identity.name].session.is_ready)
    caller.join()
    return a, raw, links[0]


def test_a_message_does_not_overtake_what_waits_for_the_socket() -> None:
    with Messengers() as office:
        a, raw, link = linked(office)
        name, count = raw.identity.name, 0
        while not a._nodes[0].peer(0).outbox.size:
            a.send_nb(name, [count.to_bytes(4, "little"), bytes(4000)], 1)
            count += 1
        for number in range(count // 2):  # now the socket has room, and nobody was told
            assert link.message()[1][:4] == number.to_bytes(4, "little")
        a.send_nb(name, [b"last"], 1)
        drive(a, until=lambda: not a._nodes[0].peer(0).outbox.size)
        for number in range(count // 2, count):
            assert link.message()[1][:4] == number.to_bytes(4, "little")
        assert link.message()[1] == b"last"


def test_a_socket_that_takes_nothing_gets_the_message_later() -> None:
    with Messengers() as office:
        a, raw, link = linked(office)
        peer = a._nodes[0].peer(0)
        assert peer.link is not None
        channel, sends = peer.link.channel, peer.link.channel.send

        def full(data: object) -> int:
            raise BlockingIOError

        channel.send = full  # type: ignore[method-assign]
        a.send_nb(raw.identity.name, [b"late"], 1)
        assert (peer.outbox.size, peer.counters.frames_sent) == (HEAD_SIZE + MESSAGE_SIZE + 4, 1)
        channel.send = sends  # type: ignore[method-assign]
        drive(a, until=lambda: not peer.outbox.size)
        assert link.message()[1] == b"late"
        assert peer.counters.frames_sent == 2


def test_a_receive_that_timed_out_takes_nothing_any_more() -> None:
    with Messengers() as office:
        a = office.open(1, 0)
        with pytest.raises(RecvTimeout):
            a.recv(1, timeout_s=0.01)
        a.send_nb(a.name, [b"kept"], 1)
        assert a.recv(1, timeout_s=20).data == b"kept"


def test_a_callback_of_a_driven_messenger_cannot_receive() -> None:
    with Messengers() as office:
        a = office.open(1, 0)
        errors: list[int | None] = []

        def callback(message: Message) -> None:
            with pytest.raises(PeerError) as caught:
                a.recv(2, timeout_s=0.01)
            errors.append(caught.value.errno)

        a.recv_nb(callback, 1)
        a.send_nb(a.name, [b"x"], 1)
        drive(a, until=lambda: errors)
        assert errors == [errno.EDEADLK]


def test_receives_wait_for_their_tag_origin_and_source() -> None:
    mailbox = Mailbox()
    receives = [
        Receive(1, ANYBODY, ANYBODY, lambda message: None),
        Receive(ANY_TAG, C, ANYBODY, lambda message: None),
        Receive(ANY_TAG, PeerName(*ANYBODY), C, lambda message: None),
        Receive(ANY_TAG, B, PeerName(*ANYBODY), lambda message: None),
    ]
    for receive in receives:
        mailbox.post(receive)
    messages = [Message(B, B, 2, b"", 1), Message(B, C, 2, b"", 2), Message(C, B, 2, b"", 3)]
    assert [mailbox.match(message) for message in messages] == [
        receives[3],
        receives[2],
        receives[1],
    ]
    assert mailbox.match(messages[0]) is None
    assert mailbox.match(Message(C, C, 1, b"", 4)) is receives[0]
    assert len(mailbox) == 1


def test_short_messages_over_a_link_that_is_slower_than_its_sender() -> None:
    limits = PeerOptions(queue_limit=20_000, total_queue_limit=20_000)
    options = MessengerOptions(
        peer=limits, queue_messages=1 << 20, queue_bytes=1 << 30, window=1 << 30
    )
    with Messengers() as office:
        a, raw = office.open(1, 0, options, loops=1), office.raw(1, 1)
        name = raw.identity.name
        a.set_peer(name, [raw.address])
        a.connect(name)
        link, _ = raw.admit()
        link.resume(window=1 << 30)
        count = 0
        while a.lookup(name).waiting < 3:  # type: ignore[union-attr]
            a.send_nb(name, [count.to_bytes(4, "little"), bytes(3000)], 1)
            count += 1
        for number in range(count):
            head, data = link.message()
            assert (head.sequence, data[:4]) == (number + 1, number.to_bytes(4, "little"))
            assert len(data) == 3004
        link.acknowledge(count, 1 << 30)
        assert a.flush(20)
