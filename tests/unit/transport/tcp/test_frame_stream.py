# SPDX-License-Identifier: Apache-2.0
"""Frames out of a stream of bytes, however it is cut."""

from __future__ import annotations

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
