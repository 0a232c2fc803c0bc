# SPDX-License-Identifier: Apache-2.0
"""The carrier over TCP: real sockets, both ends in this thread."""

from __future__ import annotations

import errno
import select
import socket
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import replace

import pytest

from fakes.recording_sink import RecordingSink, drive
from i2o.errors import TransportUnavailable
from i2o.transport.fabric.errors import FabricError
from i2o.transport.tcp.address import Address
from i2o.transport.tcp.carrier import TcpCarrier
from i2o.transport.tcp.options import PeerOptions

QUICK = PeerOptions(retry_delay_s=0.01, retry_delay_max_s=0.02, connect_timeout_s=2.0, linger_s=0.2)


class Ends:
    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack

    def open(
        self, options: PeerOptions = QUICK, listen: tuple[Address, ...] | None = None
    ) -> tuple[TcpCarrier, RecordingSink]:
        if listen is None:
            carrier = TcpCarrier(options=options)
        else:
            carrier = TcpCarrier(listen, options=options)
        self._stack.enter_context(carrier)
        sink = RecordingSink()
        carrier.open(sink)
        return carrier, sink


@pytest.fixture
def ends() -> Iterator[Ends]:
    with ExitStack() as stack:
        yield Ends(stack)


def test_a_frame_connects_and_arrives(ends: Ends) -> None:
    (a, at_a), (b, at_b) = ends.open(), ends.open()
    to_b = a.resolve(b.name)
    assert a.send(to_b, (b"hel", bytearray(b"lo")), "token")
    drive(a, b, until=lambda: at_b.frames)
    assert at_a.sent == [(to_b, "token")]
    [(from_a, frame)] = at_b.frames
    assert frame == b"hello"
    assert (at_a.events, at_b.events) == ([("up", to_b)], [("up", from_a)])
    assert b.address_of(from_a) == a.name
    assert b.resolve(a.name) == from_a
    assert b.send(from_a, [b"back"])
    drive(a, b, until=lambda: at_a.frames)
    assert at_a.frames == [(to_b, b"back")]


@pytest.mark.parametrize("size", [0, 1, 8000, 8192, 65528, 65529, 70000, 1 << 20, 4 << 20])
def test_frames_of_any_size_stay_whole(ends: Ends, size: int) -> None:
    (a, at_a), (b, at_b) = ends.open(), ends.open()
    to_b = a.resolve(b.name)
    payload = bytes(range(256)) * (size // 256 + 1)
    wanted = [payload[:size], b"x", payload[:size], b""]
    for frame in wanted:
        parts = [memoryview(frame)[:1], memoryview(frame)[1:]]
        drive(a, b, until=lambda parts=parts: a.send(to_b, parts))
    drive(a, b, until=lambda: len(at_b.frames) == 4)
    assert [frame for _, frame in at_b.frames] == wanted
    assert len(at_a.sent) == 4


def test_both_connect_at_once(ends: Ends) -> None:
    for _ in range(20):
        (a, at_a), (b, at_b) = ends.open(), ends.open()
        to_b, to_a = a.resolve(b.name), b.resolve(a.name)
        for n in range(5):
            assert a.send(to_b, [b"a%d" % n])
            assert b.send(to_a, [b"b%d" % n])
        drive(a, b, until=lambda at_a=at_a, at_b=at_b: len(at_a.frames) + len(at_b.frames) == 10)
        assert at_a.frames == [(to_b, b"b%d" % n) for n in range(5)]
        assert at_b.frames == [(to_a, b"a%d" % n) for n in range(5)]
        assert at_a.events == [("up", to_b)]
        assert at_b.events == [("up", to_a)]


def test_a_link_that_broke_is_reported_once_and_made_anew_by_the_next_send(ends: Ends) -> None:
    (a, at_a), (b, at_b) = ends.open(), ends.open()
    to_b = a.resolve(b.name)
    a.send(to_b, [b"1"])
    drive(a, b, until=lambda: at_b.frames)
    from_a = at_b.frames[0][0]
    b.disconnect(from_a)
    drive(a, b, until=lambda: len(at_a.events) == 2)
    assert at_a.events == [("up", to_b), ("lost", to_b, errno.ECONNRESET)]
    assert at_b.events == [("up", from_a)]
    a.send(to_b, [b"2"])
    drive(a, b, until=lambda: len(at_b.frames) == 2)
    assert at_b.frames[1] == (from_a, b"2")


def test_nobody_there(ends: Ends) -> None:
    a, at_a = ends.open()
    with closing(socket.socket()) as unused:
        unused.bind(("127.0.0.1", 0))
        number = a.resolve(f"tcp://127.0.0.1:{unused.getsockname()[1]}")
        assert a.send(number, [b"x"])
        drive(a, until=lambda: at_a.events)
    assert at_a.events == [("lost", number, errno.ECONNREFUSED)]
    assert "127.0.0.1" in at_a.reasons[0]


def test_a_full_queue_refuses_and_says_when_there_is_room(ends: Ends) -> None:
    (a, at_a), (b, at_b) = ends.open(replace(QUICK, queue_limit=1 << 20)), ends.open()
    to_b = a.resolve(b.name)
    count = 0
    while a.send(to_b, [bytes(100_000)]):
        count += 1
    assert 9 <= count <= 11
    drive(a, b, until=lambda: ("room", to_b) in at_a.events)
    assert a.send(to_b, [b"last"])
    drive(a, b, until=lambda: len(at_b.frames) == count + 1)


def test_to_itself(ends: Ends) -> None:
    a, at_a = ends.open(replace(QUICK, queue_limit=100))
    me = a.resolve(a.name)
    assert a.send(me, [b"x" * 60], 1)
    assert not a.send(me, [b"y" * 60], 2)
    assert at_a.frames == []
    assert select.select([a.fileno()], [], [], 5)[0]
    a.progress()
    assert at_a.frames == [(me, b"x" * 60)]
    assert at_a.events == [("room", me)]
    with pytest.raises(FabricError, match="frame of"):
        a.send(me, [bytes(a.frame_limit + 1)])
    a.send(me, [b"z"])
    a.disconnect(me)
    a.progress()
    assert len(at_a.frames) == 1


def test_addresses_that_make_no_sense(ends: Ends) -> None:
    a, _ = ends.open()
    for text in ("tcp://", "tcp://127.0.0.1", "127.0.0.1:99999", "tcp://::1:5", "tcp://1.1.1.1:0"):
        with pytest.raises(FabricError) as caught:
            a.resolve(text)
        assert caught.value.errno == errno.EINVAL
    with pytest.raises(FabricError) as caught:
        a.resolve("tcp://192.0.2.1:5000")
    assert caught.value.errno == errno.EACCES
    with pytest.raises(TransportUnavailable, match="no key"):
        TcpCarrier((Address("0.0.0.0", 0),))


def test_ipv6(ends: Ends) -> None:
    try:
        b, at_b = ends.open(listen=(Address("::1", 0),))
    except TransportUnavailable:
        pytest.skip("this machine has no IPv6 loopback")
    a, _ = ends.open()
    assert b.name.startswith("tcp://[::1]:")
    a.send(a.resolve(b.name), [b"six"])
    drive(a, b, until=lambda: at_b.frames)
    assert b.address_of(at_b.frames[0][0]) == a.name


def test_a_restarted_peer_keeps_its_number(ends: Ends) -> None:
    (a, at_a), (b, at_b) = ends.open(), ends.open()
    to_b = a.resolve(b.name)
    a.send(to_b, [b"1"])
    drive(a, b, until=lambda: at_b.frames)
    address = b.node.addresses
    b.close()
    drive(a, until=lambda: len(at_a.events) == 2)
    again, at_again = ends.open(listen=address)
    back = again.resolve(a.name)
    again.send(back, [b"new"])
    drive(a, again, until=lambda: at_a.frames)
    assert at_a.frames == [(to_b, b"new")]
    a.send(to_b, [b"2"])
    drive(a, again, until=lambda: at_again.frames)
    assert at_again.frames == [(back, b"2")]
