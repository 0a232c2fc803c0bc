# SPDX-License-Identifier: Apache-2.0
"""Defects of Open MPI's OOB over TCP, one test each: what its code did, and what ours does.

The numbers are those of the table in docs/peers.md.
"""

from __future__ import annotations

import errno
import os
import resource
import socket
import tracemalloc
from collections.abc import Iterator
from dataclasses import replace

import pytest

from fakes.messengers import OPTIONS, QUICK, Ends, Messengers, drive, introduce
from i2o.transport.tcp import wire
from i2o.transport.tcp.address import Address
from i2o.transport.tcp.errors import AddresseeUnknown, Unreachable
from i2o.transport.tcp.messenger import Messenger
from i2o.transport.tcp.peer import PeerState
from i2o.transport.tcp.peer_name import PeerName
from i2o.transport.tcp.wire import Answer, Kind, Objection


@pytest.fixture
def office() -> Iterator[Messengers]:
    with Messengers() as opened:
        yield opened


def state_of(messenger: Messenger, name: PeerName) -> PeerState:
    status = messenger.lookup(name)
    assert status is not None
    return status.state


def test_01_a_ping_while_connecting_does_not_connect_again(office: Messengers) -> None:
    a, raw = office.open(1, 0), office.raw(1, 1)
    name = raw.identity.name
    a.set_peer(name, [raw.address])
    a.connect(name)
    drive(a, until=lambda: state_of(a, name) is PeerState.CONNECT_ACK)
    for _ in range(3):
        with pytest.raises(Unreachable):
            a.ping(name, timeout_s=0.01)
        a.connect(name)
    raw.accept()
    raw.listener.setblocking(False)
    with pytest.raises(BlockingIOError):  # nobody else is waiting to be accepted
        raw.listener.accept()
    assert state_of(a, name) is PeerState.CONNECT_ACK


@pytest.mark.parametrize("moment", ["connecting", "connect-ack"])
def test_02_a_message_that_is_sent_while_connecting_is_not_lost(
    office: Messengers, moment: str
) -> None:
    a, raw = office.open(1, 0, loops=1), office.raw(1, 1)
    name, ends = raw.identity.name, Ends()
    a.set_peer(name, [raw.address])
    a.connect(name)
    if moment == "connect-ack":
        broken = raw.accept()
        broken.expect(Kind.HELLO)
    a.send_nb(name, [b"one"], 1, ends)
    if moment == "connect-ack":
        broken.reset()
    link, _ = raw.admit()
    link.resume()
    head, data = link.message()
    assert data == b"one"
    link.acknowledge(head.sequence)
    drive(a, until=lambda: len(ends))
    assert ends.errors == [None]


def test_02_a_peer_that_began_anew_gets_what_was_not_sent_and_the_rest_is_reported(
    office: Messengers,
) -> None:
    a, raw = office.open(1, 0, loops=1), office.raw(1, 1)
    name, ends = raw.identity.name, Ends()
    a.set_peer(name, [raw.address])
    a.send_nb(name, [b"one"], 1, ends)
    link, _ = raw.admit()
    link.resume()
    assert link.message()[1] == b"one"
    link.reset()
    link = raw.accept()
    a.send_nb(name, [b"two"], 1, ends)
    listener, _ = raw.challenge(link)
    link.write(listener.verdict(Answer.ACCEPTED, serial=2))
    assert link.resume(id=8, peer_id=0).peer_id == 7
    head, data = link.message()
    assert (head.sequence, data) == (1, b"two")
    link.acknowledge(1)
    drive(a, until=lambda: len(ends) == 2)
    assert ends.errors[0] is not None
    assert ends.errors[0].errno == errno.ECONNRESET
    assert ends.errors[1] is None


def test_02_what_was_sent_and_not_acknowledged_goes_over_the_next_link_once(
    office: Messengers,
) -> None:
    a, raw = office.open(1, 0, loops=1), office.raw(1, 1)
    name, ends = raw.identity.name, Ends()
    a.set_peer(name, [raw.address])
    a.send_nb(name, [b"one"], 1, ends)
    a.send_nb(name, [b"two"], 1, ends)
    link, _ = raw.admit()
    a_id = link.resume().id
    assert [link.message()[1], link.message()[1]] == [b"one", b"two"]
    link.reset()
    raw.accept().reset()  # the first attempt to connect anew fails, too
    link, _ = raw.admit()
    link.resume(peer_id=a_id, received=1)  # the second one did not come
    a.send_nb(name, [b"three"], 1, ends)
    head, data = link.message()
    assert (head.sequence, data) == (2, b"two")
    head, data = link.message()
    assert (head.sequence, data) == (3, b"three")
    link.acknowledge(3)
    drive(a, until=lambda: len(ends) == 3)
    assert ends.errors == [None, None, None]
    status = a.lookup(name)
    assert status is not None
    assert status.resent == 1


def test_03_a_caller_that_nobody_registered_becomes_a_peer_and_leaks_nothing(
    office: Messengers,
) -> None:
    a, raw = office.open(1, 0, loops=1), office.raw(9, 9)
    link, answer = raw.call(a.address)
    assert answer == Answer.ACCEPTED
    link.resume()
    assert state_of(a, raw.identity.name) is PeerState.CONNECTED
    assert a.status()["half_open"] == 0
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(20):  # an attempt from before the link: it is refused
        again, answer = raw.call(a.address, serial=1)
        assert answer == Answer.NACK
        assert again.is_closed_by_peer
        again.close()
    assert len(os.listdir("/proc/self/fd")) == before


def test_03_a_caller_who_is_rejected_touches_neither_the_live_link_nor_the_table(
    office: Messengers,
) -> None:
    a, raw = office.open(1, 0, loops=1), office.raw(1, 1, incarnation=5)
    name = raw.identity.name
    link, answer = raw.call(a.address)
    assert answer == Answer.ACCEPTED
    link.resume()
    impostor = office.raw(1, 1, incarnation=4)
    rejected, answer = impostor.call(a.address)
    assert answer == Answer.STALE
    assert rejected.is_closed_by_peer
    again, answer = raw.call(a.address, serial=raw.serial)  # an attempt from before the link
    assert answer == Answer.NACK
    assert again.is_closed_by_peer
    ends = Ends()
    a.send_nb(name, [b"still here"], 3, ends)
    head, data = link.message()
    assert data == b"still here"
    link.acknowledge(head.sequence)
    drive(a, until=lambda: len(ends))
    assert ends.errors == [None]
    status = a.lookup(name)
    assert status is not None
    assert (status.connects, status.losses) == (1, 0)


def test_04_ipv6_is_an_address_like_any_other(office: Messengers) -> None:
    if not socket.has_ipv6:
        pytest.skip("this Python has no IPv6")
    a = office.open(1, 0)
    assert a.set_peer(PeerName(1, 1), ["tcp://[::1]:5000"]) == {}
    status = a.lookup(PeerName(1, 1))
    assert status is not None
    assert status.addresses == ("tcp://[::1]:5000",)


def test_04_an_address_that_makes_no_sense_removes_neither_the_peer_nor_the_others(
    office: Messengers,
) -> None:
    a, b = office.open(1, 0), office.open(1, 1)
    assert a.set_peer(b.name, [b.address]) == {}
    refused = a.set_peer(b.name, ["tcp://nonsense", "tcp://[::1]:5000", "tcp://127.0.0.1:x"])
    assert sorted(refused) == ["tcp://127.0.0.1:x", "tcp://nonsense"]
    status = a.lookup(b.name)
    assert status is not None
    assert status.addresses == (b.address, "tcp://[::1]:5000")
    ends = Ends()
    a.send_nb(b.name, [b"x"], 1, ends)
    drive(a, b, until=lambda: len(ends))
    assert ends.errors == [None]


def test_05_half_a_handshake_holds_up_nobody(office: Messengers) -> None:
    a, b = office.pair()
    raw = office.raw(1, 2)
    for count in (1, 5, 9, 40):
        link = raw.connect(a.address)
        link.write(wire.frame(Kind.HELLO, bytes(100))[:count])
    ends = Ends()
    b.send_nb(a.name, [b"x"], 1, ends)
    drive(a, b, until=lambda: len(ends))
    assert ends.errors == [None]
    assert a.status()["half_open"] == 4


def test_06_a_length_is_checked_before_memory_is_taken(office: Messengers) -> None:
    a, raw = office.open(1, 0, loops=1), office.raw(1, 1)
    tracemalloc.start()
    try:
        for length in (513, 1 << 20, 0xFFFFFFFF):
            link = raw.connect(a.address)
            link.write(wire.FRAME_HEAD.build(length=length, kind=Kind.HELLO))
            assert link.is_closed_by_peer
        link, _ = raw.call(a.address)
        link.resume()
        link.write(wire.FRAME_HEAD.build(length=(4 << 20) + 1, kind=Kind.DATA))
        assert link.is_closed_by_peer
        assert tracemalloc.get_traced_memory()[1] < 2 << 20
    finally:
        tracemalloc.stop()


def test_07_a_link_given_up_while_connecting_leaves_no_events_behind(office: Messengers) -> None:
    a, raw = office.open(1, 0), office.raw(1, 1)
    name = raw.identity.name
    before = len(os.listdir("/proc/self/fd"))
    a.set_peer(name, [raw.address])
    for _ in range(50):
        a.connect(name)
        a.disconnect(name)
        # the number of the closed descriptor is used again at once, for something readable
        reader, writer = os.pipe()
        os.write(writer, b"x")
        a.progress()
        os.close(reader)
        os.close(writer)
    assert state_of(a, name) is PeerState.UNCONNECTED
    assert len(os.listdir("/proc/self/fd")) == before


def test_08_short_writes_of_many_buffers_lose_no_byte(office: Messengers) -> None:
    a, b = office.pair()
    got: list[bytes] = []
    b.recv_nb(lambda message: got.append(message.data), tag=1, persistent=True)
    parts = [bytes([index % 251]) * (index * 37 % 9001) for index in range(300)]
    whole = b"".join(parts)
    ends = Ends()
    a.send_nb(b.name, [b"first"], 1, ends)
    drive(a, b, until=lambda: len(ends) == 1)
    for _ in range(5):
        a.send_nb(b.name, parts, 1, ends)  # a socket's buffer does not take it in one piece
    drive(a, b, until=lambda: len(ends) == 6)
    assert got[1:] == [whole] * 5


def test_09_a_relay_that_cannot_go_on_reports_it_and_lives(office: Messengers) -> None:
    a, relay, far = office.open(1, 0), office.open(1, 1), PeerName(1, 9)
    introduce(a, relay)
    a.set_route(far, relay.name)
    ends = Ends()
    a.send_nb(far, [b"x"], 1, ends)
    drive(a, relay, until=lambda: len(ends))
    [error] = ends.errors
    assert isinstance(error, AddresseeUnknown)
    a.send_nb(relay.name, [b"y"], 1, ends)
    drive(a, relay, until=lambda: len(ends) == 2)
    assert ends.errors[1] is None


def test_10_an_error_when_writing_ends_neither_the_process_nor_the_message(
    office: Messengers,
) -> None:
    a, raw = office.open(1, 0, loops=1), office.raw(1, 1)
    name, ends = raw.identity.name, Ends()
    a.set_peer(name, [raw.address])
    a.send_nb(name, [b"x"], 1, ends)
    link, _ = raw.admit()
    a_id = link.resume().id
    link.message()
    link.reset()
    for number in range(20):
        a.send_nb(name, [b"%d" % number], 1, ends)
    link, _ = raw.admit()
    link.resume(peer_id=a_id, received=1)
    got = [link.message()[1] for _ in range(20)]
    assert got == [b"%d" % number for number in range(20)]
    link.acknowledge(21)
    drive(a, until=lambda: len(ends) == 21)
    assert ends.errors == [None] * 21


def test_11_a_listener_without_descriptors_stays_open_and_does_not_spin(
    office: Messengers,
) -> None:
    a, raw = office.open(1, 0), office.raw(1, 1)
    caller = socket.create_connection(("127.0.0.1", int(a.address.rpartition(":")[2])))
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    used = max(map(int, os.listdir("/proc/self/fd")))
    fill = [os.dup(0) for _ in range(3)]
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, limits[1]))
        for _ in range(3):
            a.progress(0.001)
        # it looks away for a moment: nothing is to be done until then
        a.progress()
        assert a.next_deadline_ns() is not None
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        for number in fill:
            os.close(number)
    assert used > 3
    drive(a, until=lambda: a.status()["half_open"] == 1)
    caller.close()
    assert raw.identity.name != a.name


def test_12_messages_that_wait_when_nobody_can_be_reached_end_with_an_error(
    office: Messengers,
) -> None:
    a = office.open(1, 0)
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    a.set_peer(PeerName(1, 1), [f"tcp://127.0.0.1:{port}"])
    ends = Ends()
    for _ in range(5):
        a.send_nb(PeerName(1, 1), [b"x"], 1, ends)
    drive(a, until=lambda: len(ends) == 5)
    for error in ends.errors:
        assert isinstance(error, Unreachable)
        assert error.errno == errno.ECONNREFUSED
    assert state_of(a, PeerName(1, 1)) is PeerState.FAILED


def test_12_messages_that_wait_when_the_messenger_is_closed_end_with_an_error(
    office: Messengers,
) -> None:
    a, raw = office.open(1, 0), office.raw(1, 1)
    a.set_peer(raw.identity.name, [raw.address])
    ends = Ends()
    a.send_nb(raw.identity.name, [b"x"], 1, ends)
    a.send_nb(a.name, [b"x"], 1, ends)
    a.close()
    assert [error and error.errno for error in ends.errors] == [errno.ECANCELED] * 2


def test_13_a_route_in_a_circle_ends(office: Messengers) -> None:
    a, b = office.pair()
    far = PeerName(2, 0)
    a.set_route(far, b.name)
    b.set_route(far, a.name)
    ends = Ends()
    a.send_nb(far, [b"x"], 1, ends)
    drive(a, b, until=lambda: len(ends))
    assert ends.errors[0] is not None
    assert ends.errors[0].errno == errno.ELOOP


@pytest.mark.parametrize(("mine", "its"), [((1, 5), (1, 1)), ((1, 1), (1, 5))])
def test_14_a_restarted_peer_is_accepted_at_once_whichever_name_is_higher(
    office: Messengers, mine: tuple[int, int], its: tuple[int, int]
) -> None:
    a, old = office.open(*mine, loops=1), office.raw(*its, incarnation=5)
    link, _ = old.call(a.address)
    link.resume()
    new = office.raw(*its, incarnation=6)  # the old link was not closed: its machine went down
    fresh, answer = new.call(a.address)
    assert answer == Answer.ACCEPTED
    fresh.resume(id=8)
    assert link.is_closed_by_peer
    ends = Ends()
    a.send_nb(new.identity.name, [b"to the new one"], 1, ends)
    head, data = fresh.message()
    assert (head.sequence, data) == (1, b"to the new one")


def test_15_a_peer_that_lost_its_link_is_accepted_before_this_end_noticed(
    office: Messengers,
) -> None:
    a, raw = office.open(1, 5, loops=1), office.raw(1, 1)
    link, _ = raw.call(a.address)
    link.resume()
    again, answer = raw.call(a.address)  # the same process, a higher number of the attempt
    assert answer == Answer.ACCEPTED
    again.resume()
    assert link.is_closed_by_peer


def test_16_the_loser_of_a_race_keeps_its_queue_and_asks_again_if_the_other_link_does_not_come(
    office: Messengers,
) -> None:
    a, raw = office.open(1, 0, loops=1), office.raw(1, 1)
    ends = Ends()
    a.set_peer(raw.identity.name, [raw.address])
    a.send_nb(raw.identity.name, [b"kept"], 1, ends)
    link, _ = raw.admit(Answer.NACK)
    assert link.is_closed_by_peer
    link, _ = raw.admit()
    link.resume()
    assert link.message()[1] == b"kept"


def test_17_who_is_not_the_one_that_is_meant_gets_nothing(office: Messengers) -> None:
    a, raw = office.open(1, 0, loops=1), office.raw(1, 7)
    ends = Ends()
    a.set_peer(PeerName(1, 1), [raw.address])
    a.send_nb(PeerName(1, 1), [b"secret"], 1, ends)
    for _ in range(QUICK.rounds):
        link = raw.accept()
        assert link.expect(Kind.HELLO)
        link.frame(Kind.REJECT, wire.REJECT.build(objection=Objection.NOT_ME))
        assert link.is_closed_by_peer
    drive(a, until=lambda: len(ends))
    assert isinstance(ends.errors[0], Unreachable)


def test_17_who_answers_by_another_name_gets_nothing(office: Messengers) -> None:
    """As before, but the other end does not say itself that it is somebody else."""
    a, raw = office.open(1, 0, loops=1), office.raw(1, 7)
    ends = Ends()
    a.set_peer(PeerName(1, 1), [raw.address])
    a.send_nb(PeerName(1, 1), [b"secret"], 1, ends)
    answer = wire.CHALLENGE.build(
        version=wire.VERSION,
        flags=0,
        purpose=wire.Purpose.MESSAGES,
        job=1,
        rank=7,
        incarnation=1,
        frame_limit=1 << 20,
        nonce=bytes(wire.NONCE_SIZE),
        proof=wire.NO_PROOF,
    )
    for _ in range(QUICK.rounds):
        link = raw.accept()
        assert link.expect(Kind.HELLO)
        link.frame(Kind.CHALLENGE, answer)
        with pytest.raises((EOFError, ConnectionError)):
            assert link.take()[0] == Kind.REJECT
            link.take()
    drive(a, until=lambda: len(ends))
    assert isinstance(ends.errors[0], Unreachable)


def test_18_a_dead_first_address_costs_one_timeout(office: Messengers) -> None:
    options = replace(OPTIONS, peer=replace(QUICK, connect_timeout_s=0.05))
    a, b = office.open(1, 0, options), office.open(1, 1)
    with socket.create_server(("127.0.0.1", 0), backlog=0) as full:
        # a queue that is full drops who wants to connect, as a firewall does
        callers = [socket.socket() for _ in range(4)]
        for caller in callers:
            caller.setblocking(False)
            caller.connect_ex(full.getsockname())
        a.set_peer(b.name, [str(Address(*full.getsockname())), b.address])
        ends = Ends()
        a.send_nb(b.name, [b"x"], 1, ends)
        drive(a, b, until=lambda: len(ends))
        for caller in callers:
            caller.close()
    assert ends.errors == [None]
    status = a.lookup(b.name)
    assert status is not None
    assert status.addresses[0] == b.address  # the next time it is tried first
