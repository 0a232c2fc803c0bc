# SPDX-License-Identifier: Apache-2.0
"""The frames of the link: those of the test vectors, and those that are none."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from i2o.errors import RemoteFrameError
from i2o.transport.serial_line.cobs import decode, encode
from i2o.transport.serial_line.link_frames import (
    DATA_SIZE,
    LARGEST_PACKET,
    MAX_PAYLOAD,
    MAX_REASON,
    Ack,
    Bye,
    Data,
    Hello,
    frame_bytes,
    link_number,
    read_frame,
)

FOLDER = Path(__file__).resolve().parents[3] / "data/link"
KINDS = {"hello": Hello, "data": Data, "ack": Ack, "bye": Bye}


def vectors(name):
    return [
        pytest.param(vector, id=vector["about"])
        for vector in json.loads((FOLDER / f"{name}.json").read_text())["vectors"]
    ]


@pytest.mark.parametrize("vector", vectors("frames"))
def test_vectors(vector):
    fields = dict(vector["fields"])
    if "payload" in fields:
        fields["payload"] = bytes.fromhex(fields["payload"])
    frame = KINDS[vector["kind"]](**fields)
    assert frame_bytes(frame).hex() == vector["packet"]
    assert read_frame(bytes.fromhex(vector["packet"])) == frame


@pytest.mark.parametrize("vector", vectors("damaged"))
def test_damaged_packets(vector):
    with pytest.raises(RemoteFrameError):
        read_frame(bytes.fromhex(vector["packet"]))


def test_sizes():
    largest = frame_bytes(Data(1, 2, 3, 4, 5, b"x" * MAX_PAYLOAD))
    assert len(largest) <= LARGEST_PACKET
    assert len(decode(frame_bytes(Data(1, 2, 3, 4, 5, b"")))) == DATA_SIZE + 4
    long = read_frame(frame_bytes(Bye(1, 0, "y" * 1000)))
    assert long == Bye(1, 0, "y" * MAX_REASON)
    assert read_frame(frame_bytes(Bye(1, 0, "\udc80"))) == Bye(1, 0, "?")


def test_the_number_of_a_link_depends_on_the_direction():
    assert link_number(1, 2) != link_number(2, 1)
    assert link_number(0xFFFFFFFF, 5) == 3


def test_mutated_packets():
    """Each is refused (one in 2^32 would not be)."""
    noise = random.Random(3)
    packets = [bytes.fromhex(each.values[0]["packet"]) for each in vectors("frames")]
    plain = [decode(packet) for packet in packets]
    for _ in range(50_000):
        data = bytearray(noise.choice(plain))
        data[noise.randrange(len(data))] ^= 1 << noise.randrange(8)
        if noise.random() < 0.3:
            del data[noise.randrange(len(data)) :]
        with pytest.raises(RemoteFrameError):
            read_frame(encode(bytes(data)))
