# SPDX-License-Identifier: Apache-2.0
"""Frames out of a stream of bytes, however it is cut."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from i2o.transport.tcp.errors import ProtocolViolation
from i2o.transport.tcp.frame_stream import FrameStream
from i2o.transport.tcp.wire import HANDSHAKE_LIMIT, frame, pack_head


class Taker:
    def __init__(self) -> None:
        self.frames: list[tuple[int, bytes]] = []
        self.go_on = True

    def __call__(self, kind: int, payload: memoryview) -> bool:
        self.frames.append((kind, bytes(payload)))
        return self.go_on


def feed(stream: FrameStream, data: bytes, most: int = 1 << 30) -> None:
    """Give bytes to a stream, at most so many at once."""
    rest = memoryview(data)

    def recv_into(space: memoryview) -> int:
        nonlocal rest
        assert len(space)
        count = min(len(space), len(rest), most)
        space[:count] = rest[:count]
        rest = rest[count:]
        return count

    while rest:
        stream.read(recv_into)


@given(
    st.lists(
        st.tuples(st.integers(1, 255), st.sampled_from([0, 1, 7, 100, 60_000, 65_528, 70_000])),
        max_size=6,
    ),
    st.sampled_from([1 << 30, 100_003, 4099, 1000]),
)
def test_any_frames_in_any_pieces(frames: list[tuple[int, int]], most: int) -> None:
    taker = Taker()
    stream = FrameStream(taker)
    stream.establish(1 << 20, taker)
    wanted = [(kind, bytes([kind]) * size) for kind, size in frames]
    feed(stream, b"".join(frame(kind, data) for kind, data in wanted), most)
    assert taker.frames == wanted


@pytest.mark.parametrize("most", range(1, 40))
def test_small_pieces(most: int) -> None:
    taker = Taker()
    stream = FrameStream(taker)
    wanted = [(number, b"x" * (number * 7)) for number in range(1, 60)]
    feed(stream, b"".join(frame(kind, data) for kind, data in wanted), most)
    assert taker.frames == wanted


def test_the_handshake_ends_within_a_piece() -> None:
    taker, later = Taker(), Taker()
    stream = FrameStream(lambda kind, payload: stream.establish(1 << 20, later) or True)
    big = b"y" * 100_000
    feed(stream, frame(1, b"x") + frame(2, big) + frame(3))
    assert later.frames == [(2, big), (3, b"")]
    assert taker.frames == []


@pytest.mark.parametrize("most", [1 << 30, 5])
def test_too_long(most: int) -> None:
    taker = Taker()
    stream = FrameStream(taker)
    feed(stream, frame(1, bytes(HANDSHAKE_LIMIT)), most)
    with pytest.raises(ProtocolViolation, match="513 bytes, where 512"):
        feed(stream, pack_head(HANDSHAKE_LIMIT + 1, 1, 0, 0), most)
    stream = FrameStream(taker)
    stream.establish(1000, taker)
    with pytest.raises(ProtocolViolation, match="4294967295 bytes, where 1000"):
        feed(stream, pack_head(0xFFFFFFFF, 1, 0, 0), most)
    stream = FrameStream(taker)
    stream.establish(1000, taker)
    with pytest.raises(ProtocolViolation, match="1001 bytes, where 1000"):
        feed(stream, frame(1, bytes(1001)), most)
    assert len(taker.frames) == 1


def test_nothing_is_delivered_after_the_end() -> None:
    taker = Taker()
    taker.go_on = False
    stream = FrameStream(taker)
    feed(stream, frame(1) + frame(2))
    assert taker.frames == [(1, b"")]


def test_an_end_is_reported() -> None:
    stream = FrameStream(Taker())
    assert stream.read(lambda space: 0) == 0
    stream.read(lambda space: 3)
    assert stream.read(lambda space: 0) == 0


class Place:
    """Where the rest of a frame goes."""

    def __init__(self, data: bytearray) -> None:
        self.data = data

    def fill(self, read: Callable[[memoryview], int]) -> int:
        space = memoryview(bytearray(self.left))
        count = read(space)
        self.data += space[:count]
        self.left -= count
        return count

    left = 0

    def lost(self, code: int, reason: str) -> None: ...


@given(
    st.lists(
        st.tuples(st.integers(1, 255), st.sampled_from([0, 7, 60_000, 65_528, 65_529, 70_000])),
        max_size=6,
    ),
    st.sampled_from([1 << 30, 100_003, 4099, 100, 1]),
)
def test_long_frames_are_shown_and_placed(frames: list[tuple[int, int]], most: int) -> None:
    got: list[tuple[int, bytes | bytearray]] = []

    def deliver(kind: int, payload: memoryview) -> bool:
        got.append((kind, bytes(payload)))
        return True

    def begins(kind: int, size: int, front: memoryview) -> Place | None:
        assert size > 65_528
        assert 256 <= len(front) < size
        if kind % 2:
            return None
        place = Place(bytearray(front))
        place.left = size - len(front)
        got.append((kind, place.data))
        return place

    stream = FrameStream(deliver)
    stream.establish(1 << 20, deliver, begins)
    wanted = [(kind, bytes([kind]) * size) for kind, size in frames]
    if most == 1:
        wanted = wanted[:1]
    feed(stream, b"".join(frame(kind, data) for kind, data in wanted), most)
    assert [(kind, bytes(data)) for kind, data in got] == wanted


def test_a_frame_that_is_placed_is_read_until_nothing_is_there() -> None:
    place = Place(bytearray())
    place.left = 99_000
    stream = FrameStream(Taker())
    stream.establish(1 << 20, Taker(), lambda kind, size, front: place)
    feed(stream, frame(1, bytes(100_000))[: 8 + 1000])
    answers: list[int | None] = [5000, 6000, None, None, 7000, 0]

    def recv_into(space: memoryview) -> int:
        answer = answers.pop(0)
        if answer is None:
            raise BlockingIOError
        return answer

    assert stream.read(recv_into) == 11_000
    with pytest.raises(BlockingIOError):
        stream.read(recv_into)
    assert stream.read(recv_into) == 7000
    assert place.left == 81_000
    assert answers == []
    assert stream.read(lambda space: 0) == 0
