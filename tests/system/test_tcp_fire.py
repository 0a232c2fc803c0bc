# SPDX-License-Identifier: Apache-2.0
"""Hostile and broken callers: nothing crashes, memory stays bounded, good peers are served."""

from __future__ import annotations

import os
import resource
import socket
import tracemalloc
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from random import Random
from typing import Final

import pytest

from fakes.messengers import OPTIONS, QUICK, Ends, Messengers, drive, replace
from fakes.mutated_bytes import mutate, pieces
from i2o.transport.tcp import message_wire, wire
from i2o.transport.tcp.address import parse_address
from i2o.transport.tcp.errors import ProtocolViolation, Unreachable
from i2o.transport.tcp.frame_stream import FrameStream
from i2o.transport.tcp.handshake import Caller, Identity, Listener
from i2o.transport.tcp.key import PeerKey
from i2o.transport.tcp.messenger import Messenger
from i2o.transport.tcp.peer_name import ANYBODY, PeerName
from i2o.transport.tcp.wire import Answer, Kind, Objection, Purpose

FULL: Final = os.environ.get("I2O_TESTS_FULL") == "1"
STREAMS: Final = 50_000
OVER_SOCKETS: Final = 10_000 if FULL else 2_000
SILENT: Final = 1_000
KEY: Final = PeerKey(b"a key for the tests, long enough")


@pytest.fixture
def office() -> Iterator[Messengers]:
    with Messengers() as opened:
        yield opened


def identity(rank: int, key: PeerKey | None = KEY) -> Identity:
    return Identity(
        PeerName(1, rank), 1, Purpose.MESSAGES, 1 << 20, "tcp://127.0.0.1:1", False, key
    )


def good_streams() -> list[bytes]:
    """Return what right callers say: hello alone, and all that a caller without a key may say."""
    caller = Caller(identity(3, None), ANYBODY, 1, bytes(32))
    probe = Caller(identity(3, None), ANYBODY, 1, bytes(32), probe=True)
    resume = message_wire.RESUME.build(kind=3, id=7, window=1 << 20)
    message = message_wire.MESSAGE.build(
        kind=1, sequence=1, hops=16, origin_job=1, origin_rank=3, destination_job=1, tag=5
    )
    ping = wire.frame(Kind.PING, bytes(8))
    session = [
        caller.hello(),
        wire.frame(Kind.PROOF, wire.NO_PROOF),
        wire.frame(Kind.DATA, resume),
        wire.frame(Kind.DATA, message + b"some data"),
        ping,
        wire.frame(Kind.DATA, message_wire.ACK.build(kind=2, ack=0, credit=1 << 20)),
    ]
    return [caller.hello(), probe.hello(), b"".join(session)]


class Decoder:
    """A listener's handshake and what follows it, without sockets."""

    def __init__(self) -> None:
        self.listener = Listener(identity(0, None), bytes(32))
        self.stream = FrameStream(self.shake_hands)
        self.has_hello = False
        self.frames = 0

    def shake_hands(self, kind: int, payload: memoryview) -> bool:
        if kind == Kind.HELLO and not self.has_hello:
            self.has_hello = True
            self.listener.hello(payload)
            return not self.listener.is_probe
        if kind != Kind.PROOF or not self.has_hello:
            raise ProtocolViolation(f"kind {kind}")
        self.listener.proof(payload)
        self.stream.establish(4 << 20, self.count)
        return True

    def count(self, kind: int, payload: memoryview) -> bool:
        self.frames += 1
        return True

    def feed(self, data: bytes) -> None:
        while data:
            space = self.stream.space()
            part = data[: len(space)]
            space[: len(part)] = part
            self.stream.received(len(part))
            data = data[len(part) :]


def test_fifty_thousand_mutated_streams_raise_nothing_but_violations() -> None:
    random = Random(20)
    good = good_streams()
    ends = {"violation": 0, "silence": 0}
    for _ in range(STREAMS):
        decoder = Decoder()
        try:
            for piece in pieces(random, mutate(random, random.choice(good))):
                decoder.feed(piece)
            ends["silence"] += 1
        except ProtocolViolation:
            ends["violation"] += 1
    assert min(ends.values()) > STREAMS // 10


def test_mutated_streams_over_sockets_while_good_peers_are_served(office: Messengers) -> None:
    random = Random(21)
    a, b = office.pair()
    good, ends = good_streams(), Ends()
    address = parse_address(a.address)
    tracemalloc.start()
    try:
        for number in range(OVER_SOCKETS):
            with socket.create_connection((address.host, address.port)) as caller:
                with suppress(OSError):  # it may have been closed already
                    for piece in pieces(random, mutate(random, random.choice(good))):
                        caller.sendall(piece)
                        a.progress()
                a.progress()
            if number % 20 == 0:
                b.send_nb(a.name, [b"%d" % number], 1, ends)
                drive(a, b, until=lambda number=number: len(ends) == number // 20 + 1)
        assert tracemalloc.get_traced_memory()[1] < 64 << 20
    finally:
        tracemalloc.stop()
    assert set(ends.errors) == {None}
    assert [a.recv(1, timeout_s=1).data for _ in range(3)] == [b"0", b"20", b"40"]


def test_a_wrong_key_and_none_are_rejected_and_told_why(office: Messengers) -> None:
    a = office.open(1, 0, key=KEY, loops=1)
    for rank, key, why in (
        (1, PeerKey(b"another key, long enough"), "its key is another one"),
        (2, None, "it wants a key"),
    ):
        other = office.open(1, rank, key=key)
        other.set_peer(a.name, [a.address])
        with pytest.raises(Unreachable, match=why):
            other.send(a.name, [b"x"], 1, timeout_s=5)
        assert a.lookup(other.name) is None
    right = office.open(1, 3, key=KEY)
    right.set_peer(a.name, [a.address])
    right.send(a.name, [b"x"], 1, timeout_s=5)


def test_a_caller_who_does_not_know_the_key_gets_as_far_as_the_proof(office: Messengers) -> None:
    a = office.open(1, 0, key=KEY, loops=1)
    raw = office.raw(1, 1, key=KEY)
    link = raw.connect(a.address)
    caller = Caller(raw.identity, ANYBODY, 1, os.urandom(32))
    link.write(caller.hello())
    caller.challenge(link.expect(Kind.CHALLENGE))
    link.frame(Kind.PROOF, bytes(32))
    assert wire.REJECT.unpack_from(link.expect(Kind.REJECT)).objection == Objection.WRONG_PROOF
    assert link.is_closed_by_peer
    assert a.lookup(raw.identity.name) is None


def test_a_recorded_handshake_cannot_be_replayed(office: Messengers) -> None:
    a = office.open(1, 0, key=KEY, loops=1)
    raw = office.raw(1, 1, key=KEY)
    link = raw.connect(a.address)
    caller = Caller(raw.identity, ANYBODY, 1, os.urandom(32))
    hello = caller.hello()
    link.write(hello)
    _, proof = caller.challenge(link.expect(Kind.CHALLENGE))
    link.write(proof)
    assert caller.verdict(link.expect(Kind.VERDICT))[0] == Answer.ACCEPTED
    replay = raw.connect(a.address)
    replay.write(hello + proof)
    replay.expect(Kind.CHALLENGE)
    assert wire.REJECT.unpack_from(replay.expect(Kind.REJECT)).objection == Objection.WRONG_PROOF


def test_a_handshake_cannot_be_reflected(office: Messengers) -> None:
    """Somebody without the key answers a caller with what the caller's own listener says."""
    a = office.open(1, 0, key=KEY, loops=1)
    middle = office.raw(1, 1, key=None)
    a.set_peer(middle.identity.name, [middle.address])
    ends = Ends()
    a.send_nb(middle.identity.name, [b"secret"], 1, ends)
    called = middle.accept()
    hello = called.expect(Kind.HELLO)
    back = middle.connect(a.address)
    back.frame(Kind.HELLO, bytes(hello))
    kind, payload = back.take()
    assert (kind, wire.REJECT.unpack_from(payload).objection) in (
        (Kind.REJECT, Objection.SAME_NAME),
        (Kind.REJECT, Objection.NOT_ME),
    )


@pytest.fixture
def many_descriptors() -> Iterator[None]:
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(limits[1], 8192), limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, limits)


@pytest.mark.usefixtures("many_descriptors")
def test_a_thousand_silent_callers_keep_nobody_out(office: Messengers) -> None:
    options = replace(OPTIONS, peer=replace(QUICK, half_open_limit=64))
    a = office.open(1, 0, options)
    b = office.open(1, 1)
    b.set_peer(a.name, [a.address])
    address, ends = parse_address(a.address), Ends()
    with ExitStack() as stack:
        for number in range(SILENT):
            caller = socket.create_connection((address.host, address.port))
            stack.callback(caller.close)
            if number % 50 == 25:
                b.disconnect(a.name)  # so it has to connect in between, too
                b.send_nb(a.name, [b"x"], 1, ends)
                drive(a, b, until=lambda number=number: len(ends) == number // 50 + 1)
                assert a.status()["half_open"] <= 64
    assert set(ends.errors) == {None}


def test_silent_callers_are_sent_away_in_time(office: Messengers) -> None:
    a = office.open(1, 0, replace(OPTIONS, peer=replace(QUICK, handshake_timeout_s=0.02)))
    raw = office.raw(1, 1)
    link = raw.connect(a.address)
    drive(a, until=lambda: a.status()["half_open"] == 1)
    drive(a, until=lambda: a.status()["half_open"] == 0)
    assert link.is_closed_by_peer


def _sent_by(raw_first: bytes, messenger: Messenger, office: Messengers) -> bool:
    raw = office.raw(1, 1)
    link, _ = raw.call(messenger.address)
    link.resume()
    link.write(raw_first)
    return link.is_closed_by_peer


@pytest.mark.parametrize(
    "frame",
    [
        pytest.param(wire.frame(Kind.PING, b"short"), id="ping of five bytes"),
        pytest.param(wire.frame(Kind.HELLO), id="hello once more"),
        pytest.param(wire.frame(99), id="unknown kind"),
        pytest.param(wire.frame(Kind.DATA), id="empty"),
        pytest.param(wire.frame(Kind.DATA, b"\x07" * 80), id="unknown kind of message"),
        pytest.param(
            wire.frame(Kind.DATA, message_wire.MESSAGE.build(kind=1, sequence=2)),
            id="a message is missing",
        ),
        pytest.param(
            wire.frame(Kind.DATA, message_wire.MESSAGE.build(kind=1, sequence=0)),
            id="a message without a number",
        ),
        pytest.param(
            wire.frame(Kind.DATA, message_wire.ACK.build(kind=2, ack=1)),
            id="acknowledges what was not sent",
        ),
        pytest.param(
            wire.frame(Kind.DATA, message_wire.RESUME.build(kind=3, id=7)), id="resumes twice"
        ),
    ],
)
def test_what_the_protocol_forbids_ends_the_link_and_no_other(
    office: Messengers, frame: bytes
) -> None:
    a = office.open(1, 0, loops=1)
    b = office.open(1, 2)
    b.set_peer(a.name, [a.address])
    b.send(a.name, [b"x"], 1, timeout_s=5)
    assert _sent_by(frame, a, office)
    b.send(a.name, [b"x"], 1, timeout_s=5)
    status = b.lookup(a.name)
    assert status is not None
    assert status.connects == 1


def test_a_sender_without_credit_is_cut_off(office: Messengers) -> None:
    a = office.open(1, 0, replace(OPTIONS, window=64 << 10), loops=1)
    raw = office.raw(1, 1)
    link, _ = raw.call(a.address)
    link.resume()
    with suppress(OSError):
        for sequence in range(1, 100):
            head = message_wire.MESSAGE.build(
                kind=1, sequence=sequence, hops=16, origin_job=1, origin_rank=1, destination_job=1
            )
            link.frame(Kind.DATA, head + bytes(1000))
    assert link.is_closed_by_peer
    assert a.status()["kept"] <= 64
