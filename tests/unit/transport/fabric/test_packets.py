# SPDX-License-Identifier: Apache-2.0
"""Messages are cut and put together again, and nobody makes us keep more than we said."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from i2o.errors import RemoteFrameError
from i2o.transport.fabric.packets import Assembly, Gather, Reassembler, Scatter, byte_view


@given(
    data=st.binary(max_size=60),
    cuts=st.lists(st.integers(0, 60), max_size=4),
    rooms=st.lists(st.integers(0, 30), max_size=5),
    size=st.integers(1, 17),
    first=st.one_of(st.none(), st.integers(1, 9)),
)
def test_what_is_gathered_is_scattered(
    data: bytes, cuts: list[int], rooms: list[int], size: int, first: int | None
) -> None:
    edges = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    gather = Gather([data[a:b] for a, b in pairwise(edges)])
    assert gather.length == len(data)
    buffers = [bytearray(room) for room in rooms]
    scatter = Scatter(buffers)
    assert scatter.room == sum(rooms)
    packets = list(gather.packets(size, first=first))
    assert [packet.is_last for packet in packets] == [False] * (len(packets) - 1) + [True]
    stored = 0
    for number, packet in enumerate(packets):
        assert packet.length <= (first if first is not None and number == 0 else size)
        stored += scatter.write(packet.offset, b"".join(packet.parts))
    assert stored == min(len(data), sum(rooms))
    assert b"".join(buffers)[:stored] == data[:stored]
    assert b"".join(buffers)[stored:] == bytes(sum(rooms) - stored)


def test_views_are_of_bytes_in_one_row() -> None:
    assert byte_view(memoryview(bytes(8)).cast("I")).nbytes == 8
    assert len(byte_view(memoryview(bytes(8)).cast("I"))) == 8
    with pytest.raises(TypeError):
        byte_view(memoryview(bytes(8))[::2])
    with pytest.raises(ValueError, match="read-only"):
        Scatter([b"fixed"])
    one = Scatter([bytearray(3)])
    assert [len(view) for view in one.views] == [3]
    assert one.write(3, b"x") == 0


def test_a_message_in_packets() -> None:
    target = bytearray(5)
    assembly = Assembly(7, Scatter([target]), owner="me")
    assert not assembly.add(0, b"abcd")
    assert not assembly.is_complete
    assert assembly.add(4, b"efg")
    assert (assembly.received, assembly.stored, assembly.owner) == (7, 5, "me")
    assert assembly.is_complete
    assert target == b"abcde"


@pytest.mark.parametrize(
    ("offset", "data"),
    [(1, b"x"), (0, b""), (0, b"too long"), (-1, b"x")],
)
def test_packets_that_make_no_sense(offset: int, data: bytes) -> None:
    with pytest.raises(RemoteFrameError):
        Assembly(4, Scatter([bytearray(4)])).add(offset, data)


def test_messages_of_several_senders_do_not_mix() -> None:
    tested: Reassembler[tuple[str, int]] = Reassembler(max_messages=3, max_bytes=100)
    for source in ("one", "other"):
        tested.begin((source, 1), 4)
    tested.add(("one", 1), 0, b"ab")
    tested.add(("other", 1), 0, b"12")
    whole = tested.add(("one", 1), 2, b"cd")
    assert whole.is_complete
    assert bytes(whole.target.views[0]) == b"abcd"
    assert ("one", 1) not in tested
    assert len(tested) == 1
    assert not tested.add(("other", 1), 2, b"3").is_complete


def test_memory_is_bounded() -> None:
    tested: Reassembler[int] = Reassembler(max_messages=2, max_bytes=10)
    tested.begin(1, 6)
    with pytest.raises(RemoteFrameError, match="begins twice"):
        tested.begin(1, 1)
    with pytest.raises(RemoteFrameError, match="room for 4"):
        tested.begin(2, 5)
    tested.begin(2, 4)
    with pytest.raises(RemoteFrameError, match="more than 2"):
        tested.begin(3, 0)
    with pytest.raises(RemoteFrameError, match="not under way"):
        tested.add(9, 0, b"x")
    assert tested.forget(1) is not None
    assert tested.forget(1) is None
    tested.begin(3, 6, Scatter([bytearray(6)]), owner=3)
    gone = tested.forget_all(lambda key: key == 3)
    assert [one.owner for one in gone] == [3]
    assert len(tested.forget_all()) == 1
    assert len(tested) == 0
