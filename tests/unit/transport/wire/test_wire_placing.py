# SPDX-License-Identifier: Apache-2.0
"""Data of a WRITE that are read into host memory while they come, and where they must not go."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

from fakes.wire_station import UriStation
from i2o.errors import IopDead, RemoteFrameError
from i2o.transport.arena_space import ArenaSpace
from i2o.transport.bus_space import BusBuffer, BusSpace
from i2o.transport.fabric.placement import Placement
from i2o.transport.wire.host_half import HostHalf, Terms, WireMemory
from i2o.transport.wire.messages import WELCOME, Kind, record_packer
from i2o.transport.wire.stream import (
    HEAD_SIZE,
    Head,
    PlacedPacket,
    StreamWriter,
    lone_packet,
    read_head,
)
from i2o.transport.wire.wire_port import WirePort

SIZE = 100_000
_pack_write = record_packer(Kind.WRITE).pack
_pack_store = record_packer(Kind.STORE).pack


class Host:
    """One half of a session, and what it said."""

    def __init__(self, memory: WireMemory | None = None) -> None:
        self.memory = memory if memory is not None else BusSpace()
        self.sentences: list[str] = []
        self.ends: list[str] = []
        welcome = WELCOME.new(
            version=1, window=16, packet_size=1 << 20, frame_count=8, frame_size=64
        )
        writer = StreamWriter(1, 16, 1 << 20, 4)
        self.half = HostHalf(Terms(welcome), writer, self.memory, self.sentences.append)

    def begin(self, body: bytes, front: int, *, number: int = 0) -> PlacedPacket | None:
        """Show the front of a packet."""
        shown = memoryview(body)[:front]
        return self.half.begin(Head(1, number, 0), shown, len(body), self.ends.append)

    def take(self, body: bytes, *, number: int = 0) -> None:
        """Give a packet as a whole."""
        self.half.take(Head(1, number, 0), memoryview(body))


def reader_of(data: bytes | memoryview, most: int = 1 << 20):  # type: ignore[no-untyped-def]
    """Return what reads these bytes, at most so many at once, and then says that none are there."""
    left = memoryview(data)

    def read(space: memoryview) -> int:
        nonlocal left
        assert len(space)
        if not left:
            raise BlockingIOError
        count = min(len(space), len(left), most)
        space[:count] = left[:count]
        left = left[count:]
        return count

    return read


def fill(packet: PlacedPacket, data: bytes | memoryview, most: int = 1 << 20) -> None:
    """Let a packet have these bytes."""
    read, left = reader_of(data, most), len(data)
    while left:
        left -= packet.fill(read)


def write(address: int, data: bytes, *, length: int | None = None) -> bytes:
    return _pack_write(Kind.WRITE, address, len(data) if length is None else length) + data


@pytest.fixture
def host() -> Host:
    return Host()


@pytest.fixture
def buffer(host: Host) -> Iterator[BusBuffer]:
    assert isinstance(host.memory, BusSpace)
    return host.memory.allocate(SIZE)  # type: ignore[return-value]


DATA = random.Random(1).randbytes(SIZE)


@pytest.mark.parametrize("front", [9, 10, 5000, SIZE - 5000])
@pytest.mark.parametrize("most", [1 << 20, 4099])
def test_the_rest_of_a_packet_goes_to_its_place(
    host: Host, buffer: BusBuffer, front: int, most: int
) -> None:
    body = write(buffer.bus_address, DATA) + bytes((Kind.PING,))
    packet = host.begin(body, front)
    assert packet is not None
    fill(packet, body[front:-1], most)
    assert buffer.view == DATA
    assert not host.ends
    fill(packet, body[-1:])
    assert host.ends == [""]
    assert host.half.news == host.half.heard == 1
    answer = host.half.writer.next_packet()
    assert answer is not None
    assert bytes(answer.buffers[0])[HEAD_SIZE:] == bytes((Kind.PONG,))
    host.take(write(buffer.bus_address, b"next"), number=1)
    assert buffer.view[:4] == b"next"


@pytest.mark.parametrize("seed", range(20))
def test_it_is_as_if_packets_came_whole(seed: int) -> None:
    rng = random.Random(seed)
    one, other = Host(), Host()
    views = []
    for host in (one, other):
        assert isinstance(host.memory, BusSpace)
        views.append([host.memory.allocate(size) for size in (SIZE, 20_000, 5000)])
    writer = StreamWriter(1, 255, rng.choice((7000, 30_000, 200_000)), 4)
    for _ in range(40):
        target = rng.choice(views[0])
        start = rng.randrange(-50, len(target.view))  # in front of the buffer is nothing
        length = rng.choice((0, 1, 3000, 4097, 20_000, 60_000))
        if rng.random() < 0.7:
            length = max(0, min(length, len(target.view) - max(start, 0)))
        kind = rng.random()
        if kind < 0.8:
            writer.add(_pack_write(Kind.WRITE, target.bus_address + start, length))
            writer.add_data(rng.randbytes(length))
        elif kind < 0.9:
            writer.add(_pack_store(Kind.STORE, 1, target.bus_address + max(start, 0), 4))
            writer.add_data(b"abcd")
        else:
            writer.add(bytes((Kind.PING,)))
    placed = 0
    while (made := writer.next_packet()) is not None:
        whole = b"".join(bytes(part) for part in made.buffers)
        head, body = read_head(memoryview(whole)), whole[HEAD_SIZE:]
        one.half.take(head, memoryview(body))
        front = min(len(body), rng.choice((0, 9, 20, 256, 5000, rng.randrange(1, len(body) + 1))))
        packet = other.begin(body, front, number=head.number)
        if packet is None:
            other.half.take(head, memoryview(body))
        else:
            placed += 1
            fill(packet, memoryview(body)[front:], rng.choice((1 << 20, 1000, 7777)))
        for host in (one, other):
            while (answer := host.half.writer.next_packet()) is not None:
                for sent in answer.sent:
                    sent()
                host.half.writer.credit(len(answer.buffers[0]) > HEAD_SIZE)
    assert [bytes(a.view) for a in views[0]] == [bytes(b.view) for b in views[1]]
    assert len(one.sentences) == len(other.sentences)
    assert one.half.news == other.half.news
    assert placed
    assert other.ends == [""] * placed


def test_nothing_is_placed_outside_of_a_buffer(host: Host, buffer: BusBuffer) -> None:
    end = buffer.bus_address + SIZE
    for address, length in (
        (end - SIZE + 1, SIZE),
        (buffer.bus_address - 1, SIZE),
        (buffer.bus_address, SIZE + 1),
        (buffer.bus_address, 0xFFFFFFFF),
        (0xFFFFFFFF, SIZE),
        (0, SIZE),
    ):
        assert host.begin(write(address, DATA, length=length), 20) is None
    assert not any(buffer.view)
    assert not host.half.heard
    host.take(write(buffer.bus_address + 1, DATA))
    assert "ends at" in host.sentences[0]
    assert not any(buffer.view)


def test_nothing_is_placed_in_memory_that_is_read_only(host: Host) -> None:
    assert isinstance(host.memory, BusSpace)
    mapped = host.memory.map(memoryview(bytes(SIZE)))
    body = write(mapped.bus_address, DATA)
    assert host.begin(body, 20) is None
    host.take(body)
    assert "read-only" in host.sentences[0]


def test_nothing_is_placed_in_an_arena() -> None:
    host = Host(ArenaSpace(memoryview(bytearray(1 << 20))))
    buffer = host.memory.allocate(SIZE)
    body = write(buffer.bus_address, DATA)
    assert host.begin(body, 20) is None
    host.take(body)
    assert buffer.view == DATA


def test_a_buffer_that_is_freed_meanwhile_gets_nothing_more(host: Host, buffer: BusBuffer) -> None:
    assert isinstance(host.memory, BusSpace)
    view = buffer.view
    body = write(buffer.bus_address, DATA) + write(buffer.bus_address, b"late")
    packet = host.begin(body, 1009)
    assert packet is not None
    fill(packet, body[1009:50_009])
    buffer.free()
    before = bytes(view)
    assert before[:50_000] == DATA[:50_000]
    fill(packet, body[50_009:], 30_000)
    assert bytes(view) == before
    assert host.ends == [""]
    assert "freed that buffer meanwhile" in host.sentences[0]
    assert "no host buffer" in host.sentences[1]
    assert host.half.news == 2


def test_a_new_buffer_at_the_same_address_is_another_one(host: Host, buffer: BusBuffer) -> None:
    space = host.memory
    assert isinstance(space, BusSpace)
    body = write(buffer.bus_address, DATA)
    packet = host.begin(body, 20)
    assert packet is not None
    buffer.free()
    space._next_slot = buffer.bus_address >> 20  # as if the addresses had gone round
    other = space.allocate(SIZE)
    assert other.bus_address == buffer.bus_address
    fill(packet, body[20:])
    assert not any(other.view)
    assert not any(buffer.view[11:])


def test_a_session_that_is_over_writes_nothing(host: Host, buffer: BusBuffer) -> None:
    body = write(buffer.bus_address, DATA) + b"\xff"
    packet = host.begin(body, 20)
    assert packet is not None
    host.half.reader.abandon()
    fill(packet, body[20:])
    assert not any(buffer.view[11:])
    assert host.ends == []


def test_a_link_that_breaks_in_the_middle_ends_the_stream(host: Host, buffer: BusBuffer) -> None:
    body = write(buffer.bus_address, DATA)
    packet = host.begin(body, 20)
    assert packet is not None
    fill(packet, body[20:5000])
    packet.lost(104, "")
    packet.lost(104, "again")
    assert host.ends == ["Connection reset by peer"]
    fill(packet, body[5000:])
    assert not any(buffer.view[4991:])


def test_a_packet_inside_of_another_one_ends_the_session(host: Host, buffer: BusBuffer) -> None:
    body = write(buffer.bus_address, DATA)
    packet = host.begin(body, 20)
    assert packet is not None
    assert host.begin(body, 20, number=1) is None
    with pytest.raises(RemoteFrameError, match="in the middle"):
        host.take(bytes((Kind.PING,)), number=1)


def test_packets_are_placed_in_their_order_only(host: Host, buffer: BusBuffer) -> None:
    body = write(buffer.bus_address, DATA)
    assert host.begin(body, 20, number=1) is None
    host.take(bytes((Kind.PING,)), number=2)  # too early
    assert host.begin(body, 20, number=0) is None
    assert not any(buffer.view)


def test_what_makes_no_sense_behind_the_data_ends_the_session(
    host: Host, buffer: BusBuffer
) -> None:
    body = write(buffer.bus_address, DATA) + b"\xee"
    packet = host.begin(body, 20)
    assert packet is not None
    fill(packet, body[20:])
    assert host.ends == ["a record of kind 0xee is not expected"]


def test_credits_in_a_front_are_checked(host: Host, buffer: BusBuffer) -> None:
    body = memoryview(write(buffer.bus_address, DATA))
    with pytest.raises(RemoteFrameError, match="given back"):
        host.half.begin(Head(1, 0, 1), body[:20], len(body), host.ends.append)


@pytest.mark.parametrize(
    "front",
    [
        b"",
        b"\xee",
        b"\x38\x00",
        record_packer(Kind.REPLY).pack(Kind.REPLY, 0x100000, 9000),
        record_packer(Kind.STORE).pack(Kind.STORE, 1, 0x100000, 36_000),
        bytes((Kind.PING,)),
    ],
)
def test_other_fronts_are_left_alone(host: Host, buffer: BusBuffer, front: bytes) -> None:
    assert host.begin(front + bytes(36_000), len(front)) is None
    assert not host.half.heard
    assert not any(buffer.view)


def test_data_may_go_on_in_the_next_packet(host: Host, buffer: BusBuffer) -> None:
    body = write(buffer.bus_address, DATA)
    packet = host.begin(body[:50_000], 20)
    assert packet is not None
    rooms: list[int] = []
    packet.fill(lambda space: rooms.append(len(space)) or 0)  # type: ignore[func-returns-value]
    assert rooms == [49_980]  # what comes behind the packet is none of its data
    fill(packet, body[20:50_000])
    assert host.ends == [""]
    packet = host.begin(body[50_000:], 4, number=1)
    assert packet is not None
    fill(packet, body[50_004:], 9999)
    assert buffer.view == DATA
    assert host.half.news == 1


def test_an_end_of_the_link_places_nothing(host: Host, buffer: BusBuffer) -> None:
    body = write(buffer.bus_address, DATA)
    packet = host.begin(body, 20)
    assert packet is not None
    assert packet.fill(lambda space: 0) == 0
    with pytest.raises(BlockingIOError):
        packet.fill(reader_of(b""))
    fill(packet, body[20:])
    assert buffer.view == DATA


class Port:
    """A host over TCP, to which packets of its session can be shown by hand."""

    def __init__(self, port: WirePort) -> None:
        self.port = port
        self.buffer = port.memory.allocate(SIZE)
        assert port._half is not None
        self._order = port._half.reader._order
        self.body = write(self.buffer.bus_address, DATA)

    def begin(self, *, session: int | None = None) -> Placement | None:
        head = lone_packet(self.port._session if session is None else session, b"")
        shown = bytearray(head) + self.body[:20]
        shown[2] = self._order._due
        return self.port.packet_begins(0, HEAD_SIZE + len(self.body), memoryview(shown))


@pytest.fixture
def port() -> Iterator[Port]:
    with UriStation("tcp://127.0.0.1:0") as station, station.port() as made:
        yield Port(made)


def test_a_port_places_what_is_of_its_session(port: Port) -> None:
    for session in (0, port.port._session ^ 1):
        assert port.begin(session=session) is None
    packet = port.begin()
    assert isinstance(packet, PlacedPacket)
    fill(packet, port.body[20:])
    assert port.buffer.view == DATA


def test_a_port_that_lost_its_link_is_written_no_more(port: Port) -> None:
    packet = port.begin()
    assert isinstance(packet, PlacedPacket)
    fill(packet, port.body[20:5000])
    port.port._lose("so it is")
    fill(packet, port.body[5000:])
    assert not any(port.buffer.view[4991:])
    assert port.begin() is None


@pytest.mark.parametrize("is_garbage", [False, True])
def test_a_port_loses_its_link_at_once_when_a_packet_cannot_end(
    port: Port, is_garbage: bool
) -> None:
    port.body += b"\xee"
    packet = port.begin()
    assert isinstance(packet, PlacedPacket)
    if is_garbage:
        fill(packet, port.body[20:])
    else:
        packet.lost(104, "cut")
    with pytest.raises(IopDead, match="not expected" if is_garbage else "cut"):
        port.port.alloc()


def test_a_port_loses_its_link_for_a_front_that_breaks_the_rules(port: Port) -> None:
    head = bytearray(lone_packet(port.port._session, port.body[:20]))
    head[2], head[3] = port._order._due, 255
    size = HEAD_SIZE + len(port.body)
    assert port.port.packet_begins(0, size, memoryview(head)) is None
    with pytest.raises(IopDead, match="given back"):
        port.port.alloc()
