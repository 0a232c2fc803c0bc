# SPDX-License-Identifier: Apache-2.0
"""Records go through packets of any size, in any order of arrival, and are paid with credits."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from i2o.errors import RemoteFrameError
from i2o.transport.wire.messages import (
    DEVICE_KINDS,
    LAYOUTS,
    MAX_GATHERED,
    WINDOW,
    Kind,
    forms,
    record_packer,
)
from i2o.transport.wire.stream import (
    HEAD_SIZE,
    MAX_EARLY,
    Head,
    PacketOrder,
    StreamReader,
    StreamWriter,
    lone_packet,
    read_head,
)

Record = tuple[int, tuple[int, ...], bytes]


class Reader:
    """Collects what comes."""

    def __init__(self, text_limit: int = 1 << 18) -> None:
        self.records: list[Record] = []
        self._bulk = bytearray()
        self.reader = StreamReader(
            forms(DEVICE_KINDS),
            {kind: self._taker(kind) for kind in DEVICE_KINDS},
            {kind: self._bulk_taker(kind) for kind in (Kind.WRITE, Kind.STORE)},
            text_limit,
        )

    def _taker(self, kind: Kind):  # type: ignore[no-untyped-def]
        return lambda fields, text: self.records.append((kind, fields, bytes(text)))

    def _bulk_taker(self, kind: Kind):  # type: ignore[no-untyped-def]
        def take(fields: tuple[int, ...], done: int, piece: memoryview) -> None:
            assert done == len(self._bulk)
            self._bulk += piece
            if len(self._bulk) == fields[-1]:
                self.records.append((kind, fields, bytes(self._bulk)))
                self._bulk.clear()

        return take


def say(writer: StreamWriter, kind: Kind, fields: tuple[int, ...], data: bytes) -> None:
    writer.add(record_packer(kind).pack(kind, *fields))
    if kind in (Kind.WRITE, Kind.STORE):
        writer.add_data(data)
    else:
        writer.add(data)


def random_records(rng: random.Random, count: int) -> list[Record]:
    made: list[Record] = []
    for _ in range(count):
        kind = rng.choice((Kind.FREE, Kind.REPLY, Kind.WRITE, Kind.STORE, Kind.DROP, Kind.PING))
        if kind is Kind.REPLY:
            words = rng.randrange(40)
            made.append((kind, (rng.randrange(1 << 32), words), rng.randbytes(4 * words)))
        elif kind in (Kind.WRITE, Kind.STORE):
            size = rng.choice((0, 1, 60, 1023, 1024, 1025, 5000))
            tag = (7,) if kind is Kind.STORE else ()
            made.append((kind, (*tag, rng.randrange(1 << 32), size), rng.randbytes(size)))
        else:
            made.append((kind, tuple(3 for _ in LAYOUTS[kind].units), b""))
    return made


def joined(writer: StreamWriter) -> bytes | None:
    packet = writer.next_packet()
    if packet is None:
        return None
    for sent in packet.sent:
        sent()
    return b"".join(bytes(buffer) for buffer in packet.buffers)


@settings(max_examples=60)
@given(st.integers(0, 1 << 32), st.integers(24, 3000), st.integers(1, 5))
def test_records_arrive_whatever_the_packets_are_like(seed: int, size: int, parts: int) -> None:
    rng = random.Random(seed)
    writer, reader = StreamWriter(9, WINDOW, size, parts), Reader()
    back = StreamWriter(9, WINDOW, size, parts)
    told = random_records(rng, 20)
    for record in told:
        say(writer, *record)
    for _ in range(100_000):
        packet = joined(writer)
        if packet is not None:
            assert HEAD_SIZE < len(packet) <= size
            reader.reader.take(read_head(memoryview(packet)), memoryview(packet)[HEAD_SIZE:], back)
        credit = joined(back)
        if credit is not None:
            writer.credit(read_head(memoryview(credit)).credits)
        if packet is None and credit is None:
            break
    assert reader.records == told
    assert writer.queued == writer.gathered == 0


def test_parts_are_not_more_than_the_endpoint_takes() -> None:
    for limit in (1, 2, 3):
        writer = StreamWriter(1, WINDOW, 1 << 20, limit)
        for _ in range(4):
            say(writer, Kind.WRITE, (0, 2000), bytes(2000))
        packet = writer.next_packet()
        assert packet is not None
        assert len(packet.buffers) <= limit


def test_data_are_not_the_callers_before_they_are_sent() -> None:
    told: list[str] = []
    writer = StreamWriter(1, WINDOW, 2048, 4)
    writer.add_data(bytes(5000), lambda: told.append("large"))
    writer.add_data(bytes(10), lambda: told.append("small"))
    assert told == ["small"], "small data are copied"
    packets = [writer.next_packet() for _ in range(3)]
    assert [bool(packet and packet.sent) for packet in packets] == [False, False, True]
    assert [bool(packet and packet.is_followed) for packet in packets] == [False, False, True]


def test_without_credit_nothing_is_sent() -> None:
    writer = StreamWriter(1, 2, 64, 1)
    writer.add(bytes(200))
    assert joined(writer) is not None
    assert joined(writer) is not None
    assert joined(writer) is None
    writer.credit(1)
    assert joined(writer) is not None
    with pytest.raises(RemoteFrameError, match="given back"):
        writer.credit(3)


def test_credits_go_back_alone_when_there_are_many() -> None:
    writer = StreamWriter(5, 2, 64, 1)
    writer.owed = WINDOW // 2 - 1
    assert joined(writer) is None
    writer.owed += 1
    packet = joined(writer)
    assert packet == bytes((5, 0, 0, WINDOW // 2))
    assert joined(writer) is None


def test_packets_are_put_in_order() -> None:
    order, due = PacketOrder(), []
    for number in (0, 2, 3, 1, 5, 4):
        body = memoryview(bytes([number]))
        due += [bytes(data)[0] for _, data in order.put(Head(1, number, 0), body)]
    assert due == [0, 1, 2, 3, 4, 5]


def test_a_packet_that_comes_twice_or_far_too_early_ends_the_session() -> None:
    order = PacketOrder()
    order.put(Head(1, 2, 0), memoryview(b""))
    for number in (2, MAX_EARLY + 1, 255):
        with pytest.raises(RemoteFrameError, match="lost, or come twice"):
            order.put(Head(1, number, 0), memoryview(b""))


def test_what_makes_no_sense_is_refused() -> None:
    reader = Reader(text_limit=64)
    with pytest.raises(RemoteFrameError, match="not expected"):
        reader.reader.feed(memoryview(bytes((Kind.POST,))))
    long = record_packer(Kind.REPLY).pack(Kind.REPLY, 0, 17)
    with pytest.raises(RemoteFrameError, match="at most 64"):
        Reader(text_limit=64).reader.feed(memoryview(long))
    with pytest.raises(RemoteFrameError, match="no header"):
        read_head(memoryview(b"abc"))


def test_who_takes_nothing_gets_no_answers() -> None:
    writer, reader = StreamWriter(1, 2, 64, 1), Reader()
    writer.add(bytes(MAX_GATHERED + 1))
    with pytest.raises(RemoteFrameError, match="nothing is taken"):
        reader.reader.take(Head(1, 0, 0), memoryview(b""), writer)


def test_a_lone_packet_names_no_session() -> None:
    assert read_head(memoryview(lone_packet(0, b"x"))) == Head(0, 0, 0)
