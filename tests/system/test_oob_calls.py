# SPDX-License-Identifier: Apache-2.0
"""What Open MPI's OOB over TCP does by its own comments, call by call.

docs/behaviour.md has the table; what its code does wrong is in test_oob_defects.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from fakes.messengers import Ends, Messengers, drive, introduce
from i2o.transport.tcp.component import Letter, Offered
from i2o.transport.tcp.errors import AddresseeUnknown, PeerError
from i2o.transport.tcp.handshake import Caller
from i2o.transport.tcp.mailbox import Message
from i2o.transport.tcp.peer import PeerState
from i2o.transport.tcp.peer_name import ANYBODY, PeerName
from i2o.transport.tcp.wire import Kind


@pytest.fixture
def office() -> Iterator[Messengers]:
    with Messengers() as opened:
        yield opened


class Pigeons:
    """A component that carries every letter, or none."""

    def __init__(self, *, can_fly: bool = True) -> None:
        self.can_fly = can_fly
        self.asked: list[Letter] = []
        self.done: list[Callable[[PeerError | None], None]] = []

    def offer(self, letter: Letter, done: Callable[[PeerError | None], None]) -> Offered:
        self.asked.append(letter)
        if not self.can_fly:
            return Offered.TAKE_NEXT
        self.done.append(done)
        return Offered.TAKEN


# --- an unknown hop -------------------------------------------------------------------------------


def test_an_unknown_hop_is_pushed_back_until_somebody_takes_the_message(office: Messengers) -> None:
    grounded, flying, spare = Pigeons(can_fly=False), Pigeons(), Pigeons()
    a = office.open(1, 0, components=[grounded, flying, spare])
    far, ends = PeerName(1, 9), Ends()
    a.send_nb(far, [b"by ", b"air"], 7, ends)
    [letter] = flying.asked
    assert (letter.destination, letter.tag, b"".join(letter.parts)) == (far, 7, b"by air")
    assert len(grounded.asked) == 1
    assert not spare.asked
    assert not len(ends)
    flying.done[0](None)
    assert ends.errors == [None]


def test_nobody_knows_the_addressee(office: Messengers) -> None:
    a = office.open(1, 0, components=[Pigeons(can_fly=False)])
    for call in (
        lambda: a.send_nb(PeerName(1, 9), [b"x"], 1),
        lambda: a.send(PeerName(1, 9), [b"x"], 1, 0.1),
        lambda: a.ping(PeerName(1, 9), 0.1),
        lambda: a.connect(PeerName(1, 9)),
    ):
        with pytest.raises(AddresseeUnknown):
            call()
    assert a.lookup(PeerName(1, 9)) is None


# --- set_peer -------------------------------------------------------------------------------------


def test_set_peer_stores_and_the_first_send_connects(office: Messengers) -> None:
    a, b = office.pair()
    status = a.lookup(b.name)
    assert status is not None
    assert (status.state, status.addresses) == (PeerState.UNCONNECTED, (b.address,))
    drive(a, b, until=lambda: True)
    ends = Ends()
    a.send_nb(b.name, [b"first"], 1, ends)
    drive(a, b, until=lambda: len(ends))
    status = a.lookup(b.name)
    assert status is not None
    assert (status.state, ends.errors) == (PeerState.CONNECTED, [None])


def test_addresses_are_appended_in_the_order_in_which_they_are_told(office: Messengers) -> None:
    a, name = office.open(1, 0), PeerName(1, 1)
    first, second = "tcp://127.0.0.1:1001", "tcp://127.0.0.1:1002"
    assert a.set_peer(name, [first]) == {}
    assert a.set_peer(name, [second, first]) == {}
    status = a.lookup(name)
    assert status is not None
    assert status.addresses == (first, second)


# --- ping -----------------------------------------------------------------------------------------


def test_a_ping_connects_and_tells_the_round_trip(office: Messengers) -> None:
    a, b = office.open(1, 0, loops=1), office.open(1, 1, loops=1)
    introduce(a, b)
    assert a.ping(b.name) > 0
    first = a.lookup(b.name)
    assert a.ping(b.name) > 0
    second = a.lookup(b.name)
    assert first is not None
    assert second is not None
    assert (first.state, first.connects) == (PeerState.CONNECTED, 1)
    assert second.connects == 1, "it was connected already"


def test_peers_are_given_to_the_event_loops_in_turn(office: Messengers) -> None:
    a = office.open(1, 0, loops=3)
    for rank in range(1, 7):
        a.set_peer(PeerName(1, rank), ["tcp://127.0.0.1:1001"])
    loops = [status.loop for status in a.peers()]
    assert sorted(loops) == [0, 0, 1, 1, 2, 2]


# --- send, send_nb --------------------------------------------------------------------------------


def test_what_waits_for_a_connection_goes_over_it_in_order(office: Messengers) -> None:
    a, b = office.pair()
    ends = Ends()
    for number in range(10):
        a.send_nb(b.name, [b"%d" % number], 1, ends)
    status = a.lookup(b.name)
    assert status is not None
    assert status.state is not PeerState.CONNECTED
    drive(a, b, until=lambda: len(ends) == 10)
    assert ends.errors == [None] * 10
    assert [b.recv(1, timeout_s=5).data for _ in range(10)] == [b"%d" % n for n in range(10)]


def test_a_message_is_gathered_and_carries_its_tag_origin_source_and_number(
    office: Messengers,
) -> None:
    a, b = office.pair()
    got: list[Message] = []
    b.recv_nb(got.append, tag=42, persistent=True)
    for _ in range(2):
        a.send_nb(b.name, [b"two", b" ", b"parts"], 42)
    drive(a, b, until=lambda: len(got) == 2)
    for message in got:
        assert message[:4] == (a.name, a.name, 42, b"two parts")
    assert got[1].number == got[0].number + 1


def test_the_callback_comes_once_and_not_from_within_the_call(office: Messengers) -> None:
    a, b = office.pair()
    ends = Ends()
    a.send_nb(b.name, [b"x"], 1, ends)
    assert not len(ends)
    drive(a, b, until=lambda: len(ends))
    drive(a, b, until=lambda: True)
    assert ends.errors == [None]
    a.send_nb(a.name, [b"to myself"], 1, ends)
    assert len(ends) == 1
    drive(a, until=lambda: len(ends) == 2)
    assert ends.errors == [None, None]


def test_a_message_to_oneself_is_delivered_without_a_link(office: Messengers) -> None:
    a = office.open(1, 0)
    ends = Ends()
    a.send_nb(a.name, [b"to ", b"me"], 3, ends)
    drive(a, until=lambda: len(ends))
    message = a.recv(3, timeout_s=5)
    assert (message.origin, message.source, message.data) == (a.name, a.name, b"to me")
    a.send(a.name, [b"again"], 3, 5)
    assert a.recv(timeout_s=5).data == b"again"
    assert a.peers() == [] or all(s.connects == 0 for s in a.peers())


def test_a_blocking_send_returns_when_the_peer_has_it(office: Messengers) -> None:
    a, b = office.open(1, 0, loops=1), office.open(1, 1, loops=1)
    introduce(a, b)
    a.send(b.name, [b"x" * 100_000, b"y"], 5, 10)
    assert b.recv(5, timeout_s=0).data == b"x" * 100_000 + b"y"


def test_a_message_goes_to_the_hop_of_its_route(office: Messengers) -> None:
    a, relay, b = office.open(1, 0), office.open(1, 1), office.open(1, 2)
    introduce(a, relay)
    introduce(relay, b)
    a.set_route(b.name, relay.name)
    b.set_route(a.name, relay.name)
    ends = Ends()
    a.send_nb(b.name, [b"far"], 9, ends)
    got: list[Message] = []
    b.recv_nb(got.append, tag=9, origin=a.name, source=relay.name)
    drive(a, relay, b, until=lambda: got and len(ends))
    assert ends.errors == [None]
    direct = a.lookup(b.name)
    assert direct is None or direct.state is PeerState.UNCONNECTED


def test_receives_match_by_tag_origin_and_source(office: Messengers) -> None:
    a, b, c = office.open(1, 0), office.open(1, 1), office.open(1, 2)
    introduce(a, b, c)
    ends = Ends()
    for sender, tag in ((b, 1), (c, 1), (b, 2)):
        sender.send_nb(a.name, [b"%d" % sender.name.rank], tag, ends)
    drive(a, b, c, until=lambda: len(ends) == 3)
    assert a.recv(1, origin=c.name, timeout_s=5).data == b"2"
    assert a.recv(2, timeout_s=5).data == b"1"
    assert a.recv(source=b.name, timeout_s=5).tag == 1


def test_a_probe_is_answered_and_makes_no_peer(office: Messengers) -> None:
    a, raw = office.open(1, 0, loops=1), office.raw(1, 1)
    link = raw.connect(a.address)
    caller = Caller(raw.identity, ANYBODY, 1, bytes(32), probe=True)
    link.write(caller.hello())
    who, proof = caller.challenge(link.expect(Kind.CHALLENGE))
    assert who.name == a.name
    with pytest.raises((EOFError, ConnectionError)):  # the answer is the end, whatever follows
        link.write(proof)
        link.take()
    assert a.peers() == []
