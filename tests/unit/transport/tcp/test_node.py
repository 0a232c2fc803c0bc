# SPDX-License-Identifier: Apache-2.0
"""Nodes: what carrier and messenger do not show by themselves."""

from __future__ import annotations

import errno
import logging
import socket
import threading
from array import array
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fakes.messengers import QUICK
from fakes.raw_peer import RawLink, RawPeer
from fakes.recording_sink import RecordingSink, drive
from fakes.tls_files import TlsFiles
from i2o.errors import TransportUnavailable, UriError
from i2o.transport.fabric.errors import FabricError
from i2o.transport.fabric.flags import EndpointType
from i2o.transport.registry import open_endpoint, open_listener
from i2o.transport.tcp import wire
from i2o.transport.tcp.address import Address, parse_address
from i2o.transport.tcp.carrier import TcpCarrier
from i2o.transport.tcp.dial_plan import MORE_REFUSALS
from i2o.transport.tcp.event_loops import EventLoops
from i2o.transport.tcp.handshake import Listener
from i2o.transport.tcp.key import PeerKey
from i2o.transport.tcp.node import Node
from i2o.transport.tcp.opening import open_carrier
from i2o.transport.tcp.options import PeerOptions
from i2o.transport.tcp.peer import PeerState
from i2o.transport.tcp.peer_name import PeerName
from i2o.transport.tcp.probe import probe
from i2o.transport.tcp.tls import TlsContexts
from i2o.transport.tcp.wire import Answer, Kind, Purpose
from i2o.transport.uri import Uri

HERE = (Address("127.0.0.1", 0),)


class Nodes:
    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack

    def open(
        self,
        rank: int,
        options: PeerOptions = QUICK,
        listen: tuple[Address, ...] = HERE,
        **more: object,
    ) -> tuple[Node, RecordingSink]:
        node = Node(PeerName(1, rank), Purpose.FRAMES, listen, options=options, **more)  # type: ignore[arg-type]
        self._stack.enter_context(node)
        sink = RecordingSink()
        node.open(sink)
        return node, sink

    def carrier(self, **more: object) -> tuple[TcpCarrier, RecordingSink]:
        carrier = self._stack.enter_context(TcpCarrier(options=QUICK, **more))  # type: ignore[arg-type]
        sink = RecordingSink()
        carrier.open(sink)
        return carrier, sink

    def raw(self, rank: int, incarnation: int = 1) -> RawPeer:
        return self._stack.enter_context(
            RawPeer(PeerName(1, rank), incarnation, purpose=Purpose.FRAMES)
        )


@pytest.fixture
def nodes() -> Iterator[Nodes]:
    with ExitStack() as stack:
        yield Nodes(stack)


def test_a_number_that_nobody_has(nodes: Nodes) -> None:
    node, _ = nodes.open(0)
    for call in (node.peer, node.connect, node.ping, node.disconnect, node.frame_limit_of):
        with pytest.raises(FabricError) as caught:
            call(3)
        assert caught.value.errno == errno.EINVAL
    with pytest.raises(FabricError):
        node.send(-1, [b"x"])


def test_parts_whose_items_are_no_bytes(nodes: Nodes) -> None:
    (a, _), (b, at_b) = nodes.open(0), nodes.open(1)
    number = a.add_peer(None, b.addresses)
    short, long = array("I", [1, 2, 3]), array("I", range(10_000))
    frames: list[list[Any]] = [[short], [b"head", short], [long], [b"head", memoryview(long)]]
    for count in (1, 2):  # they wait for the link, and go over it
        for parts in frames:
            a.send(number, parts)
        with pytest.raises(TypeError):
            a.send(number, [memoryview(b"strided")[::2]])
        drive(a, b, until=lambda count=count: len(at_b.frames) == len(frames) * count)
    wanted = [b"".join(bytes(memoryview(part)) for part in parts) for parts in frames]
    assert [frame for _, frame in at_b.frames] == wanted * 2


def test_two_numbers_that_turn_out_to_be_one_peer(nodes: Nodes) -> None:
    both = (Address("127.0.0.1", 0), Address("127.0.0.1", 0))
    b, at_b = nodes.open(1, listen=both)
    a, at_a = nodes.open(0)
    first = a.add_peer(None, b.addresses[:1])
    second = a.add_peer(None, b.addresses[1:])
    assert first != second
    a.send(first, [b"1"], "one")
    drive(a, b, until=lambda: at_b.frames)
    assert a.add_peer(None, b.addresses[:1]) == first
    a.send(second, [b"2"], "two")
    drive(a, b, until=lambda: len(at_b.frames) == 2)
    assert [number for number, _ in at_b.frames] == [0, 0]
    assert at_a.sent == [(first, "one"), (second, "two")]
    assert at_a.events == [("up", first), ("up", second)]
    a.send(second, [b"3"])
    drive(a, b, until=lambda: len(at_b.frames) == 3)
    assert len(list(a.peers())) == 1
    b.close()
    drive(a, until=lambda: len(at_a.events) == 4)
    assert {event[:2] for event in at_a.events[2:]} == {("lost", first), ("lost", second)}


def test_two_numbers_of_a_peer_that_is_not_linked_any_more(nodes: Nodes) -> None:
    both = (Address("127.0.0.1", 0), Address("127.0.0.1", 0))
    b, at_b = nodes.open(1, listen=both)
    a, _ = nodes.open(0)
    first = a.add_peer(None, b.addresses[:1])
    a.send(first, [b"1"])
    drive(a, b, until=lambda: at_b.frames)
    a.disconnect(first)
    second = a.add_peer(None, b.addresses[1:])
    a.send(second, [b"2"])
    drive(a, b, until=lambda: len(at_b.frames) == 2)


def test_callers_beyond_the_limit_push_out_who_is_gone_or_are_refused(nodes: Nodes) -> None:
    a, at_a = nodes.open(0, replace(QUICK, peer_limit=2))
    evicted: list[int] = []
    a.on_evicted = evicted.append
    others = [nodes.open(rank) for rank in range(1, 5)]
    for node, _ in others[:2]:
        node.send(node.add_peer(None, a.addresses), [b"x"])
    drive(a, *(node for node, _ in others), until=lambda: len(at_a.frames) == 2)
    third, at_third = others[2]
    third.send(third.add_peer(None, a.addresses), [b"x"])
    drive(a, third, until=lambda: at_third.events)
    assert at_third.events == [("lost", 0, errno.EACCES)]
    assert "takes no more callers" in at_third.reasons[0]
    others[0][0].close()
    drive(a, until=lambda: len(at_a.events) == 3)
    fourth, _ = others[3]
    number = fourth.add_peer(None, a.addresses)
    fourth.send(number, [b"x"])
    drive(a, fourth, until=lambda: len(at_a.frames) == 3)
    assert fourth.peer(number).counters.failed_attempts == 0  # taken when it called first
    assert evicted == [0]
    with pytest.raises(FabricError):
        a.peer(0)
    assert a.find(PeerName(1, 1)) is None
    assert a.find(PeerName(1, 2)) == 1


def test_a_caller_that_is_asked_for_here_is_not_pushed_out(nodes: Nodes) -> None:
    """Two numbers become one peer, which called first; the program's number stays good."""
    a, at_a = nodes.open(0, replace(QUICK, peer_limit=1))
    b, at_b = nodes.open(1, address="tcp://192.0.2.9:7")
    b.send(b.add_peer(None, a.addresses), [b"x"])
    drive(a, b, until=lambda: at_a.frames)
    number = a.add_peer(None, b.addresses)
    a.send(number, [b"y"])
    drive(a, b, until=lambda: at_b.frames)
    b.close()
    drive(a, until=lambda: ("lost", number, errno.ECONNRESET) in at_a.events)
    c, _ = nodes.open(2)
    c.send(c.add_peer(None, a.addresses), [b"z"])
    drive(a, c, until=lambda: len(at_a.frames) == 2)
    assert a.peer(number).name == b.identity.name


def test_a_name_that_went_over_to_another_peer_stays_with_it(nodes: Nodes) -> None:
    a, _ = nodes.open(0, replace(QUICK, peer_limit=1))
    name = PeerName(1, 1)
    old, new = a.peer(a.add_peer(name)), a.peer(a.add_peer(None))
    a._table.callers[old] = None
    a._table.call(new, name)
    assert a._table.evict()
    assert a.find(name) == new.number


def test_memory_for_all_peers_together_is_limited(nodes: Nodes) -> None:
    a, at_a = nodes.open(0, replace(QUICK, total_queue_limit=10_000))
    b, at_b = nodes.open(1)
    c, at_c = nodes.open(2)
    to_b, to_c = a.add_peer(b.identity.name, b.addresses), a.add_peer(None, c.addresses)
    assert a.send(to_b, [bytes(6000)])
    assert not a.send(to_c, [bytes(6000)])
    drive(a, b, c, until=lambda: ("room", to_c) in at_a.events)
    assert a.send(to_c, [bytes(20_000)])  # one always may
    drive(a, b, c, until=lambda: at_b.frames and at_c.frames)


def test_a_peer_whose_process_is_an_older_one_is_told_so(nodes: Nodes) -> None:
    raw = nodes.raw(5)
    a, at_a = nodes.open(0)
    number = a.add_peer(raw.identity.name, [parse_address(raw.address)])
    a.send(number, [b"x"])
    drive(a, until=lambda: a.peer(number).state is PeerState.CONNECT_ACK)
    link = raw.accept()
    a.progress()
    listener = _challenge(raw, link, a)
    link.write(listener.verdict(Answer.STALE, incarnation=99))
    drive(a, until=lambda: at_a.events)
    assert at_a.events == [("lost", number, errno.ESTALE)]
    assert "incarnation 99" in at_a.reasons[0]


def _challenge(raw: RawPeer, link: RawLink, node: Node) -> Listener:
    """Do the listener's part of a handshake while the node is driven from here."""
    listener = Listener(raw.identity, bytes(32))
    _, challenge = listener.hello(link.expect(Kind.HELLO))
    link.write(challenge)
    drive(node, until=lambda: next(iter(node.peers())).confirming)
    listener.proof(link.expect(Kind.PROOF))
    return listener


def _refuse(raw: RawPeer, node: Node, answer: Answer) -> RawLink:
    number = next(iter(node.peers())).number
    drive(node, until=lambda: node.peer(number).state is PeerState.CONNECT_ACK)
    link = raw.accept()
    node.progress()
    raw.serial += 1
    link.write(_challenge(raw, link, node).verdict(answer, serial=raw.serial))
    nacks = node.peer(number).counters.nacks
    if answer is Answer.NACK:
        drive(node, until=lambda: node.peer(number).counters.nacks > nacks)
    return link


def test_a_peer_that_always_prefers_a_link_of_its_own_is_given_up(nodes: Nodes) -> None:
    raw = nodes.raw(5)
    a, at_a = nodes.open(0)
    number = a.add_peer(raw.identity.name, [parse_address(raw.address)])
    for time in (1, 2):  # the next send begins again, with as much patience
        a.send(number, [b"x"])
        for _ in range(QUICK.rounds + MORE_REFUSALS):
            assert len(at_a.events) == time - 1
            _refuse(raw, a, Answer.NACK)
        assert at_a.events == [("lost", number, errno.EHOSTUNREACH)] * time
        assert a.peer(number).state is PeerState.FAILED
    assert "prefers a link of its own, which does not come" in at_a.reasons[0]


def test_refusals_do_not_begin_the_rounds_anew(nodes: Nodes) -> None:
    """A listener that refuses now and breaks off then is given up all the same."""
    raw = nodes.raw(5)
    a, at_a = nodes.open(0)
    number = a.add_peer(raw.identity.name, [parse_address(raw.address)])
    a.send(number, [b"x"])
    for _ in range(QUICK.rounds):
        assert not at_a.events
        _refuse(raw, a, Answer.NACK)
        drive(a, until=lambda: a.peer(number).state is PeerState.CONNECT_ACK)
        failed = a.peer(number).counters.failed_attempts
        raw.accept().close()
        drive(a, until=lambda failed=failed: a.peer(number).counters.failed_attempts > failed)
    drive(a, until=lambda: at_a.events)
    assert at_a.events == [("lost", number, errno.ECONNRESET)]


def test_the_link_that_a_peer_prefers_may_take_all_but_the_last_refusal(nodes: Nodes) -> None:
    raw = nodes.raw(5)
    a, at_a = nodes.open(0)
    number = a.add_peer(raw.identity.name, [parse_address(raw.address)])
    a.send(number, [b"x"], "kept")
    for _ in range(QUICK.rounds + MORE_REFUSALS - 1):
        _refuse(raw, a, Answer.NACK)
    link = _refuse(raw, a, Answer.ACCEPTED)
    drive(a, until=lambda: at_a.sent)
    assert bytes(link.expect(Kind.DATA)) == b"x"
    assert at_a.events == [("up", number)]


@pytest.mark.parametrize(
    "answer",
    [
        wire.frame(Kind.VERDICT, bytes(56)),
        wire.frame(Kind.DATA, b"x"),
        wire.frame(Kind.CHALLENGE, b"x"),
        b"\xff" * 8,
    ],
)
def test_a_listener_that_talks_nonsense(
    nodes: Nodes, answer: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    raw = nodes.raw(5)
    a, at_a = nodes.open(0, replace(QUICK, rounds=1))
    number = a.add_peer(None, [parse_address(raw.address)])
    a.send(number, [b"x"])
    drive(a, until=lambda: a.peer(number).state is PeerState.CONNECT_ACK)
    link = raw.accept()
    with caplog.at_level(logging.CRITICAL):
        link.write(answer)
        drive(a, until=lambda: at_a.events)
    assert at_a.events == [("lost", number, errno.EPROTO)]


def test_a_listener_that_says_nothing(nodes: Nodes) -> None:
    raw = nodes.raw(5)
    a, at_a = nodes.open(0, replace(QUICK, rounds=1, handshake_timeout_s=0.02))
    number = a.add_peer(None, [parse_address(raw.address)])
    a.send(number, [b"x"])
    drive(a, until=lambda: at_a.events)
    assert at_a.events == [("lost", number, errno.ETIMEDOUT)]
    assert "did not end in time" in at_a.reasons[0]


def test_a_peer_that_pings_and_does_not_read_is_cut_off(nodes: Nodes) -> None:
    options = replace(QUICK, queue_limit=1000, frame_limit=1000)
    a, at_a = nodes.open(0, options)
    b, at_b = nodes.open(1)
    number = b.add_peer(None, a.addresses)
    b.send(number, [b"x"])
    drive(a, b, until=lambda: at_a.frames)
    link = b.peer(number).link
    assert link is not None
    link.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
    back = a.peer(0).link
    assert back is not None
    back.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    pings = wire.frame(Kind.PING, bytes(8)) * 1000
    link.socket.setblocking(True)
    link.socket.settimeout(0.01)
    for _ in range(10_000):
        try:
            link.socket.send(pings)
        except TimeoutError:
            pass
        except OSError:
            break
        a.progress()
        if len(at_a.events) == 2:
            break
    assert at_a.events[1][0] == "lost"
    assert at_b.events == [("up", number)]


def test_what_a_closed_node_is_asked(nodes: Nodes) -> None:
    a, _ = nodes.open(0)
    a.close()
    a.close()
    a.progress()
    assert a.fileno() == -1


def test_addresses_that_callers_tell(nodes: Nodes) -> None:
    """A wildcard stands for where the call comes from; nonsense is left out."""
    a, at_a = nodes.open(0)
    for rank, told, known in (
        (1, "tcp://0.0.0.0:77", ("tcp://127.0.0.1:77",)),
        (2, "tcp://nonsense", ()),
        (3, "tcp://192.0.2.9:7", ("tcp://192.0.2.9:7",)),
        (4, "", ()),
    ):
        other, _ = nodes.open(rank, address=told or None, listen=HERE if told else ())
        other.send(other.add_peer(None, a.addresses), [b"x"])
        drive(a, other, until=lambda rank=rank: len(at_a.frames) == rank)
        peer = a.peer(rank - 1)
        assert tuple(map(str, peer.plan.addresses)) == known


def _call_from(raw: RawPeer, node: Node, told: str) -> Answer:
    """Let a raw peer call, and say that it listens there."""
    raw.identity = replace(raw.identity, address=told)
    answers: list[int] = []
    thread = threading.Thread(target=lambda: answers.append(raw.call(str(node.addresses[0]))[1]))
    thread.start()
    drive(node, until=lambda: answers)
    thread.join()
    return Answer(answers[0])


def test_what_a_caller_tells_takes_the_place_of_what_it_told_before(nodes: Nodes) -> None:
    a, _ = nodes.open(0)
    raw = nodes.raw(5)
    for port in range(1, 30):
        assert _call_from(raw, a, f"tcp://127.0.0.1:{port}") is Answer.ACCEPTED
    last = Address("127.0.0.1", 29)
    [peer] = a.peers()
    assert peer.plan.addresses == (last,)
    assert a._table.by_address == {last: peer}


def test_what_a_caller_tells_does_not_touch_what_the_program_said(nodes: Nodes) -> None:
    a, _ = nodes.open(0)
    raw = nodes.raw(5)
    one, two, three, four = (Address("127.0.0.1", port) for port in (1, 2, 3, 4))
    number = a.add_peer(raw.identity.name, [one])
    plan = a.peer(number).plan
    for told, known in ((one, {one}), (two, {one, two}), (two, {one, two}), (one, {one})):
        _call_from(raw, a, str(told))
        assert set(plan.addresses) == set(a._table.by_address) == known
    _call_from(raw, a, str(three))
    a.add_peer(raw.identity.name, [three])  # now the program says so, too
    _call_from(raw, a, str(four))
    assert set(plan.addresses) == set(a._table.by_address) == {one, three, four}


def test_what_a_caller_told_goes_with_it_when_it_turns_out_to_be_another(nodes: Nodes) -> None:
    """A caller is gone, and where it said that it listens another peer is found."""
    b, at_b = nodes.open(1)
    a, at_a = nodes.open(0)
    raw = nodes.raw(5)
    told = b.addresses[0]
    _call_from(raw, a, str(told))
    caller = a.find(raw.identity.name)
    assert caller is not None
    raw.links[-1].close()
    drive(a, until=lambda: at_a.events[-1][0] == "lost")
    named = a.add_peer(b.identity.name)
    a.send(caller, [b"x"])
    drive(a, b, until=lambda: at_b.frames)
    found = a.peer(named)
    assert a.peer(caller) is found
    assert found.told == told
    assert a._table.by_address == {told: found}


def test_a_caller_that_tells_the_address_of_another_does_not_get_its_messages(
    nodes: Nodes,
) -> None:
    (a, at_a), (b, at_b) = nodes.open(0), nodes.open(1)
    number = a.add_peer(None, b.addresses)
    a.send(number, [b"one"])
    drive(a, b, until=lambda: at_b.frames)
    other, at_other = nodes.open(2, address=str(b.addresses[0]))
    other.send(other.add_peer(None, a.addresses), [b"I am at the same address"])
    drive(a, b, other, until=lambda: at_a.frames)
    a.send(number, [b"two"])
    drive(a, b, other, until=lambda: len(at_b.frames) == 2)
    assert not at_other.frames
    assert ("lost", number, errno.ECONNRESET) not in at_a.events


def test_without_a_key_nobody_is_called_at_an_address_that_a_caller_told(nodes: Nodes) -> None:
    """An address of this end's own choice would have been refused at once."""
    a, at_a = nodes.open(0)
    other, _ = nodes.open(1, address="tcp://192.0.2.9:7")
    other.send(other.add_peer(None, a.addresses), [b"x"])
    drive(a, other, until=lambda: at_a.frames)
    other.close()
    drive(a, until=lambda: at_a.events[-1][0] == "lost")
    a.send(0, [b"y"])
    drive(a, until=lambda: len(at_a.events) == 3)
    assert at_a.events[-1] == ("lost", 0, errno.EACCES)
    assert "no key" in at_a.reasons[-1]


def test_a_caller_that_begins_with_a_proof(nodes: Nodes) -> None:
    a, _ = nodes.open(0)
    raw = nodes.raw(5)
    link = raw.connect(str(a.addresses[0]))
    link.frame(Kind.PROOF, bytes(32))
    drive(a, until=lambda: a.half_open == 1)
    drive(a, until=lambda: a.half_open == 0)
    assert link.is_closed_by_peer


def test_disconnecting_with_frames_that_wait(nodes: Nodes) -> None:
    a, at_a = nodes.open(0)
    b, at_b = nodes.open(1)
    number = a.add_peer(None, b.addresses)
    a.send(number, [b"x"])
    drive(a, b, until=lambda: at_b.frames)
    while not a.peer(number).outbox.size:
        a.send(number, [bytes(1 << 20)])
    a.disconnect(number)
    drive(a, b, until=lambda: len(at_b.events) == 2)
    assert at_a.events == [("up", number)]
    assert at_b.events[1][0] == "lost"
    assert "unconnected" in repr(a.peer(number))


def test_closing_while_a_link_is_still_being_closed(nodes: Nodes) -> None:
    a, at_a = nodes.open(0)
    b, at_b = nodes.open(1)
    number = a.add_peer(None, b.addresses)
    a.send(number, [b"x"])
    drive(a, b, until=lambda: at_b.frames)
    a.disconnect(number)
    a.close()
    assert at_a.events == [("up", number)]


def test_a_link_whose_other_end_does_not_close(nodes: Nodes) -> None:
    raw = nodes.raw(5)
    a, at_a = nodes.open(0, replace(QUICK, linger_s=0.01))
    number = a.add_peer(None, [parse_address(raw.address)])
    a.send(number, [b"x"])
    drive(a, until=lambda: a.peer(number).state is PeerState.CONNECT_ACK)
    link = raw.accept()
    link.write(_challenge(raw, link, a).verdict(Answer.ACCEPTED, serial=1))
    drive(a, until=lambda: at_a.sent)
    a.disconnect(number)
    link.write(b"more")
    drive(a, until=lambda: not a._lingering)


def test_an_address_that_the_system_refuses_at_once(nodes: Nodes) -> None:
    a, at_a = nodes.open(0, insecure=True)
    number = a.add_peer(None, [Address("255.255.255.255", 5)])
    a.send(number, [b"x"])
    drive(a, until=lambda: at_a.events)
    assert at_a.events[0][:2] == ("lost", number)
    assert a.peer(number).counters.failed_attempts == QUICK.rounds


def test_a_loop_goes_on_after_an_error(caplog: pytest.LogCaptureFixture) -> None:
    class Fragile:
        """A node that fails once."""

        def __init__(self) -> None:
            self.turns = 0
            self.gone_on = threading.Event()

        def progress(self, timeout_s: float) -> None:
            self.turns += 1
            if self.turns == 1:
                raise ValueError("a mistake of ours")
            self.gone_on.set()

        def wake(self) -> None: ...

    node = Fragile()
    with caplog.at_level(logging.CRITICAL), EventLoops([node]):  # type: ignore[list-item]
        assert node.gone_on.wait(20)


# --- TLS -----------------------------------------------------------------------------------------


def test_tls_with_frames_of_any_size(nodes: Nodes, tmp_path: Path) -> None:
    files = TlsFiles(tmp_path)
    contexts = TlsContexts.from_files(*files.paths("one"))
    key = PeerKey(b"k" * 16)
    both = {"key": key, "server_tls": contexts.server, "client_tls": contexts.client}
    (a, at_a), (b, at_b) = nodes.carrier(**both), nodes.carrier(**both)
    to_b = a.resolve(b.name)
    wanted = [b"x" * size for size in (3 << 20, 0, 1, 100, 20_000, 100_000, 3 << 20)]
    a.send(to_b, [b"first"])
    drive(a, b, until=lambda: at_b.frames)
    at_b.frames.clear()
    a.send(to_b, [wanted[0]])
    for _ in range(50):
        a.progress()  # the other end does not read yet
    for frame in wanted[1:]:
        drive(a, b, until=lambda frame=frame: a.send(to_b, [frame[:7], frame[7:]]))
    drive(a, b, until=lambda: len(at_b.frames) == len(wanted))
    assert [frame for _, frame in at_b.frames] == wanted
    back = at_b.frames[0][0]
    b.send(back, [b"y" * 50_000])
    drive(a, b, until=lambda: at_a.frames)
    b.disconnect(back)
    drive(a, b, until=lambda: len(at_a.events) == 2)
    assert at_a.events[1] == ("lost", to_b, errno.ECONNRESET)


def test_tls_wants_a_certificate_of_the_same_authority(nodes: Nodes, tmp_path: Path) -> None:
    ours, other = TlsFiles(tmp_path / "a"), TlsFiles(tmp_path / "b")
    good = TlsContexts.from_files(*ours.paths("one"))
    bad = TlsContexts.from_files(*other.paths("two"))
    b, at_b = nodes.carrier(server_tls=good.server, client_tls=good.client)
    for client in (bad.client, None):
        a, at_a = nodes.carrier(client_tls=client)
        a.send(a.resolve(b.name), [b"x"])
        drive(a, b, until=lambda at_a=at_a: at_a.events)
        assert at_a.events[0][0] == "lost"
    assert at_b.events == []


def test_a_probe_over_tls(nodes: Nodes, tmp_path: Path) -> None:
    files = TlsFiles(tmp_path)
    contexts = TlsContexts.from_files(*files.paths("one"))
    b, _ = nodes.carrier(server_tls=contexts.server)
    found = []
    thread = threading.Thread(target=lambda: found.append(probe(b.name, tls=contexts.client)))
    thread.start()
    drive(b, until=lambda: found)
    thread.join()
    assert found[0].name == b.node.identity.name


def test_tls_files_that_cannot_be_used(tmp_path: Path) -> None:
    with pytest.raises(TransportUnavailable, match="name PEM files"):
        TlsContexts.from_files(tmp_path / "a", tmp_path / "b", tmp_path / "c")


# --- by URI --------------------------------------------------------------------------------------


def test_endpoints_by_uri(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("I2O_PEER_KEY", raising=False)
    key = tmp_path / "key"
    key.write_bytes(b"k" * 20)
    key.chmod(0o600)
    with open_endpoint(f"tcp://127.0.0.1:0?key={key}") as one:
        assert one.name.startswith("tcp://127.0.0.1:")
        assert one.attributes.provider == "tcp"
        assert one.attributes.type is EndpointType.RDM
    with open_endpoint("tcp://localhost:0?type=msg") as one:
        assert one.attributes.type is EndpointType.MSG
    listener = open_listener("tcp://127.0.0.1:0")
    assert listener.name.startswith("tcp://127.0.0.1:")
    listener.close()
    files = TlsFiles(tmp_path).paths("one")
    text = "tcp://0.0.0.0:0?insecure=1&cert={}&cert_key={}&ca={}".format(*files)
    open_carrier(Uri.parse(text)).close()


@pytest.mark.parametrize(
    ("uri", "why"),
    [
        ("tcp://127.0.0.1", "no address"),
        ("tcp://127.0.0.1:0?type=udp", "type is rdm or msg"),
        ("tcp://127.0.0.1:0?password=x", "unknown option"),
        ("tcp://127.0.0.1:0?cert=x", "go together"),
        ("tcp://127.0.0.1:0?insecure=2", "is not between"),
        ("tcp://127.0.0.1:0?key=", "key names no file"),
        ("tcp://127.0.0.1:0?cert=&cert_key=&ca=", "cert names no file"),
    ],
)
def test_uris_that_make_no_sense(uri: str, why: str) -> None:
    with pytest.raises(UriError, match=why):
        open_endpoint(uri)
    with pytest.raises(TransportUnavailable, match="key file"):
        open_endpoint("tcp://127.0.0.1:0?key=/nonexistent/key")
