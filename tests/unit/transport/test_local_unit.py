# SPDX-License-Identifier: Apache-2.0
"""The in-process message unit: who holds which frame, and what a driver that errs is told."""

from __future__ import annotations

import pytest

from i2o.errors import DmaFault, LocalFrameError
from i2o.transport.bus_space import BusSpace
from i2o.transport.local_unit import FRAME_AREA, LocalUnit
from i2o.transport.port import EMPTY

COUNT, SIZE = 4, 128


@pytest.fixture
def misuse() -> list[str]:
    return []


@pytest.fixture
def unit(misuse) -> LocalUnit:
    return LocalUnit(BusSpace(), frame_count=COUNT, frame_size=SIZE, on_misuse=misuse.append)


def message(words: int = 4, size: int = 16) -> bytes:
    return (b"\x01\x00" + words.to_bytes(2, "little")).ljust(size, b"\xaa")


def test_every_frame_is_free_at_power_on_and_the_port_reads_empty_after_the_last(unit):
    mfas = [unit.alloc() for _ in range(COUNT)]
    assert mfas == [FRAME_AREA + index * SIZE for index in range(COUNT)]
    assert unit.alloc() == EMPTY


def test_a_posted_frame_is_fetched_as_a_private_copy(unit):
    mfa = unit.alloc()
    unit.write(mfa, message())
    unit.post(mfa)
    assert unit.request_pending
    fetched = unit.fetch()
    assert fetched.mfa == mfa
    assert fetched.data == message()
    unit.recycle(mfa)
    assert unit.idle_inbound() == COUNT
    assert unit.fetch() is None


@pytest.mark.parametrize(
    ("words", "length"), [(0, 16), (3, 16), (5, 20), (32, 128), (33, 128), (0xFFFF, 128)]
)
def test_a_fetch_is_bounded_by_header_and_frame(unit, words, length):
    mfa = unit.alloc()
    unit.write(mfa, message(words, SIZE))
    unit.post(mfa)
    assert len(unit.fetch().data) == length


@pytest.mark.parametrize(
    ("prepare", "what"),
    [
        (lambda unit, mfa: None, "it is free"),
        (lambda unit, mfa: (unit.alloc(), unit.post(mfa)), "posted already"),
        (lambda unit, mfa: (unit.alloc(), unit.post(mfa), unit.fetch()), "the IOP holds it"),
    ],
    ids=["free", "twice", "with the IOP"],
)
def test_posting_what_one_does_not_hold_is_named_and_ignored(unit, misuse, prepare, what):
    prepare(unit, FRAME_AREA)
    pending = unit.request_pending
    unit.post(FRAME_AREA)
    assert len(misuse) == 1
    assert what in misuse[0]
    assert unit.request_pending == pending


@pytest.mark.parametrize("mfa", [0, 4, FRAME_AREA + 4, FRAME_AREA + COUNT * SIZE, EMPTY, 1 << 40])
def test_posting_what_is_no_frame(unit, misuse, mfa):
    unit.post(mfa)
    assert "no inbound frame" in misuse[0]
    assert not unit.request_pending


def test_writing_outside_the_frames_is_refused(unit):
    mfa = unit.alloc()
    with pytest.raises(LocalFrameError, match="does not fit"):
        unit.write(mfa, bytes(SIZE + 4))
    with pytest.raises(LocalFrameError, match="no inbound frame"):
        unit.write(mfa + 4, bytes(16))
    with pytest.raises(LocalFrameError, match="allocate it first"):
        unit.write(mfa + SIZE, bytes(16))
    with pytest.raises(LocalFrameError):
        unit.read_inbound(mfa, SIZE + 1)
    with pytest.raises(LocalFrameError):
        unit.read_inbound(mfa, -1)


def test_replies_go_to_the_frames_the_host_released(unit, misuse):
    buffer = unit.memory.allocate(256)
    unit.release(buffer.bus_address)
    unit.release(buffer.bus_address + 128)
    assert unit.idle_outbound() == 2
    first = unit.take_reply_frame()
    unit.post_reply(first, b"reply")
    assert unit.reply_pending
    assert unit.reap() == first
    assert unit.reap() == EMPTY
    assert bytes(buffer.view[:5]) == b"reply"
    unit.release(first)
    assert misuse == []


def test_releasing_twice_or_nonsense_is_named_and_ignored(unit, misuse):
    unit.release(0x10000)
    unit.release(0x10000)
    unit.release(EMPTY)
    unit.release(0x10001)
    assert ["twice" in misuse[0], "frame address" in misuse[1], "frame address" in misuse[2]] == [
        True
    ] * 3
    assert unit.idle_outbound() == 1


def test_a_reply_frame_outside_host_memory_faults(unit):
    unit.release(0x10000)
    with pytest.raises(DmaFault):
        unit.post_reply(unit.take_reply_frame(), b"x")
    assert not unit.reply_pending
    assert unit.take_reply_frame() == EMPTY


def test_a_preserved_frame_may_be_posted_again(unit, misuse):
    mfa = unit.alloc()
    unit.post(mfa)
    unit.fetch()
    unit.preserve(mfa)
    unit.post(mfa)
    assert misuse == []
    assert unit.fetch().mfa == mfa


def test_starving_reads_empty_and_ends(unit):
    unit.starve(True)
    assert unit.alloc() == EMPTY
    unit.starve(False)
    assert unit.alloc() != EMPTY


def test_doorbell_and_interrupt():
    rings, interrupts = [], []
    space = BusSpace()
    unit = LocalUnit(space, on_post=lambda: rings.append(1), on_reply=lambda: interrupts.append(1))
    unit.post(unit.alloc())
    unit.post(FRAME_AREA)  # misuse without a listener is silent, and no doorbell
    assert rings == [1]
    unit.release(space.allocate(64).bus_address)
    unit.post_reply(unit.take_reply_frame(), b"x")
    assert interrupts == [1]


def test_reset_forgets_everything(unit, misuse):
    unit.post(unit.alloc())
    held = unit.alloc()
    unit.release(unit.memory.allocate(64).bus_address)
    unit.refill()
    unit.drop_replies()
    assert unit.idle_inbound() == COUNT
    assert unit.idle_outbound() == 0
    assert not unit.request_pending
    unit.post(held)
    assert len(misuse) == 1


@pytest.mark.parametrize(
    ("count", "size"), [(0, 128), (4, 60), (4, 130), (1 << 20, 128), (2048, 512)]
)
def test_impossible_queues_are_refused(count, size):
    with pytest.raises(LocalFrameError):
        LocalUnit(BusSpace(), frame_count=count, frame_size=size)
