# SPDX-License-Identifier: Apache-2.0
"""Byte stuffing: everything comes back, whatever garbage is in between, and little is kept."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from i2o.errors import RemoteFrameError
from i2o.transport.serial_line.cobs import Splitter, decode, encode, encoded_size

VECTORS = json.loads((Path(__file__).resolve().parents[3] / "data/link/cobs.json").read_text())[
    "vectors"
]
WITH_RUNS = st.lists(
    st.one_of(
        st.binary(max_size=20),
        st.integers(250, 260).map(lambda size: b"x" * size),
        st.just(b"\0"),
    ),
    max_size=8,
).map(b"".join)


def slowly(data: bytes) -> bytes:
    """The encoder of the paper's figure: byte by byte."""
    out, run = bytearray(), bytearray()
    for byte in data + b"\0":
        if byte:
            run.append(byte)
        if not byte or len(run) == 254:
            out += bytes((len(run) + 1,)) + run
            run.clear()
    # the zero that was added is not there; behind a full run it has a code byte of its own
    size = len(data)
    if size and data[-1] and out[-1] == 1 and (size - data.rfind(b"\0") - 1) % 254 == 0:
        del out[-1]
    return bytes(out)


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector["plain"][:16])
def test_vectors(vector):
    plain, stuffed = bytes.fromhex(vector["plain"]), bytes.fromhex(vector["stuffed"])
    assert (encode(plain), decode(stuffed)) == (stuffed, plain)


@given(WITH_RUNS)
def test_everything_comes_back(data):
    stuffed = encode(data)
    assert stuffed == slowly(data)
    assert 0 not in stuffed
    assert decode(stuffed) == data
    assert len(stuffed) <= encoded_size(len(data))


@pytest.mark.parametrize(
    "packet", [b"", b"\x02", b"\x05abc", b"\x01\x00", b"\xffabc", b"\x02a\x03b"]
)
def test_what_is_no_packet(packet):
    with pytest.raises(RemoteFrameError):
        decode(packet)


@given(st.lists(st.binary(max_size=30), max_size=8), st.integers(1, 40))
def test_packets_come_in_any_pieces(packets, step):
    stream = b"".join(b"\0" + encode(packet) + b"\0" for packet in packets)
    splitter = Splitter(64)
    found = [
        decode(packet)
        for start in range(0, len(stream), step)
        for packet in splitter.split(stream[start : start + step])
    ]
    assert found == packets
    assert splitter.kept == 0


@pytest.mark.parametrize("step", [1, 7, 1000])
def test_of_an_overlong_packet_nothing_is_kept(step):
    splitter, found = Splitter(10), []
    stream = b"x" * 10 + b"\0" + b"y" * 500 + b"\0" + b"z" * 11 + b"\0ok\0begun"
    for start in range(0, len(stream), step):
        found += splitter.split(stream[start : start + step])
        assert splitter.kept <= 10
    assert found == [b"x" * 10, b"ok"]
    assert (splitter.overlong, splitter.kept) == (2, 5)
    splitter.clear()
    assert list(splitter.split(b"new\0")) == [b"new"]


def test_clearing_ends_an_overlong_packet():
    splitter = Splitter(4)
    assert list(splitter.split(b"toolong")) == []
    splitter.clear()
    assert list(splitter.split(b"new\0")) == [b"new"]


def test_garbage_is_bounded():
    """50,000 packets of anything: none crashes, and the next good one is found."""
    noise, splitter = random.Random(7), Splitter(100)
    for _ in range(50_000):
        for packet in splitter.split(noise.randbytes(noise.randrange(40))):
            try:
                decode(packet)
            except RemoteFrameError:
                continue
        assert splitter.kept <= 100
    *_, last = splitter.split(b"\0" + encode(b"good") + b"\0")
    assert decode(last) == b"good"
