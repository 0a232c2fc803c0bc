# SPDX-License-Identifier: Apache-2.0
"""The sending half of a link alone: its timer, and what it believes of round trips."""

from __future__ import annotations

import pytest

from i2o.errors import RemoteFrameError
from i2o.transport.serial_line.link_options import LinkOptions
from i2o.transport.serial_line.outgoing import Outgoing

MS = 1_000_000


@pytest.fixture
def outgoing() -> Outgoing:
    made = Outgoing(LinkOptions(hello_s=0.25))
    made.begin(4096, 32)
    return made


def send(outgoing: Outgoing, count: int, now_ns: int = 0) -> list[int]:
    for _ in range(count):
        outgoing.add(b"x")
    found = []
    while (piece := outgoing.next_piece(now_ns)) is not None:
        found.append(piece.sequence)
    return found


def test_the_timer_repeats_one_frame_however_often_it_is_looked_at(outgoing):
    send(outgoing, 3)
    assert outgoing.next_deadline_ns() == 250 * MS
    outgoing.tick(249 * MS)
    assert outgoing.next_piece(249 * MS) is None
    outgoing.tick(250 * MS)
    outgoing.tick(250 * MS)
    assert outgoing.next_deadline_ns() == 750 * MS
    assert send(outgoing, 0, 251 * MS) == [0]


def test_what_was_sent_twice_tells_no_round_trip(outgoing):
    """Nobody knows which of both was answered (Karn)."""
    send(outgoing, 1)
    outgoing.tick(250 * MS)
    send(outgoing, 0, 250 * MS)
    outgoing.take_ack(1, 32, 0, 251 * MS)
    send(outgoing, 1, 300 * MS)
    assert outgoing.next_deadline_ns() == 550 * MS
    outgoing.take_ack(2, 32, 0, 310 * MS)
    send(outgoing, 1, 400 * MS)
    assert outgoing.next_deadline_ns() == 450 * MS, "50 ms at least"


def test_what_arrives_before_it_is_repeated_is_forgotten(outgoing):
    send(outgoing, 2)
    outgoing.tick(250 * MS)
    outgoing.take_ack(2, 32, 0, 251 * MS)
    assert outgoing.is_idle
    assert outgoing.next_deadline_ns() is None
    assert send(outgoing, 1, 300 * MS) == [2]
    assert outgoing.next_deadline_ns() is not None


def test_what_the_map_tells(outgoing):
    """1 and 3 are here: 0 and 2 are lost, since a line keeps the order; 4 may be on its way."""
    send(outgoing, 5)
    outgoing.take_ack(0, 32, 0b101, 1 * MS)
    assert send(outgoing, 0, 2 * MS) == [0, 2]
    outgoing.take_ack(4, 32, 0, 3 * MS)
    assert send(outgoing, 0, 4 * MS) == [4], "sent before 2, which arrived"
    outgoing.take_ack(3, 32, 0, 5 * MS)
    assert not outgoing.is_idle, "an old word"
    outgoing.take_ack(5, 32, 0, 6 * MS)
    assert outgoing.is_idle
    for ack, held in ((6, 0), (5, 1)):
        with pytest.raises(RemoteFrameError):
            outgoing.take_ack(ack, 32, held, 7 * MS)


def test_a_closed_window(outgoing):
    send(outgoing, 1)
    outgoing.take_ack(1, 0, 0, 1 * MS)
    assert send(outgoing, 2, 2 * MS) == []
    outgoing.take_ack(1, 1, 0, 3 * MS)
    assert send(outgoing, 0, 3 * MS) == [1]


def test_the_timer_starts_over_with_what_is_repeated(outgoing):
    """Else it would run out for a frame that has just been sent again."""
    send(outgoing, 3)
    outgoing.take_ack(0, 32, 0b1, 10 * MS)  # the first round trip, which took 10 ms
    assert send(outgoing, 0, 40 * MS) == [0]
    assert outgoing.next_deadline_ns() == 90 * MS, "50 ms at least"
