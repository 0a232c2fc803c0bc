# SPDX-License-Identifier: Apache-2.0
"""The registers of a message unit on PCI, access by access, and requests that must settle."""

from __future__ import annotations

import fcntl
import mmap
import os
from collections.abc import Iterator

import pytest

from i2o.frames.utility import UTIL_NOP
from i2o.iop_emulator.message_unit import FrameMemory, MessageUnit, SettlingUnit
from i2o.transport.bus_space import BusSpace
from i2o.transport.local_unit import FRAME_AREA
from i2o.transport.port import EMPTY

SIZE = 1 << 20
FRAME_SIZE = 128
FRAMES = 4
STATUS, MASK, INBOUND, OUTBOUND = 0x30, 0x34, 0x40, 0x44
POSTED = 0x08
KEPT = (0x10, 0x14, 0x18, 0x1C, 0x20, 0x24, 0x28)


class Rig:
    """Registers, the queue pair behind them, and what the interrupt line did."""

    def __init__(self, settle_ns: int = 0) -> None:
        self.now_ns = 0
        self.misuse: list[str] = []
        self.levels: list[bool] = []
        self.host = BusSpace()
        self.memory = FrameMemory(SIZE)
        self.unit = SettlingUnit(
            self.host,
            now_ns=lambda: self.now_ns,
            settle_ns=settle_ns,
            frame_count=FRAMES,
            frame_size=FRAME_SIZE,
            frames=self.memory.view[FRAME_AREA:],
            on_misuse=self.misuse.append,
        )
        self.bar = MessageUnit(self.unit, self.memory, size=SIZE, on_misuse=self.misuse.append)
        self.bar.connect(self.levels.append)
        self.pool = self.host.allocate(64)

    def close(self) -> None:
        self.unit.close()
        self.memory.close()

    def read(self, offset: int) -> int:
        return int.from_bytes(self.bar.read(offset, 4), "little")

    def write(self, offset: int, value: int) -> None:
        self.bar.write(offset, value.to_bytes(4, "little"))

    def answer(self) -> int:
        """Post a reply; return where."""
        self.write(OUTBOUND, self.pool.bus_address)
        mfa = self.unit.take_reply_frame()
        self.unit.post_reply(mfa, UTIL_NOP.build())
        return mfa

    def post(self, frame: bytes = UTIL_NOP.build()) -> int:
        mfa = self.read(INBOUND)
        self.bar.write(mfa, frame)
        self.write(INBOUND, mfa)
        return mfa


@pytest.fixture
def rig() -> Iterator[Rig]:
    rig = Rig()
    yield rig
    rig.close()


@pytest.fixture
def slow() -> Iterator[Rig]:
    """Requests settle after 100 ns."""
    rig = Rig(settle_ns=100)
    yield rig
    rig.close()


# --- registers -----------------------------------------------------------------------------------


def test_the_inbound_port_gives_frames_and_takes_requests(rig):
    assert [rig.read(INBOUND) for _ in range(FRAMES)] == [
        FRAME_AREA + number * FRAME_SIZE for number in range(FRAMES)
    ]
    assert rig.read(INBOUND) == EMPTY
    rig.bar.write(FRAME_AREA, UTIL_NOP.build())
    rig.write(INBOUND, FRAME_AREA)
    rig.unit.settle(0)
    posted = rig.unit.fetch()
    assert posted is not None
    assert (posted.mfa, posted.data[:12]) == (FRAME_AREA, UTIL_NOP.build())
    assert rig.read(INBOUND) == EMPTY
    rig.unit.recycle(FRAME_AREA)
    assert rig.read(INBOUND) == FRAME_AREA
    assert rig.misuse == []


def test_the_outbound_port_gives_replies_and_takes_frames(rig):
    assert rig.read(OUTBOUND) == EMPTY
    mfa = rig.answer()
    assert rig.unit.idle_outbound() == 0
    assert rig.read(OUTBOUND) == mfa
    assert rig.read(OUTBOUND) == EMPTY
    rig.write(OUTBOUND, mfa)
    assert rig.unit.idle_outbound() == 1


def test_the_status_says_whether_a_reply_waits(rig):
    assert rig.read(STATUS) == 0
    rig.answer()
    assert rig.read(STATUS) == POSTED
    rig.write(MASK, POSTED)
    assert rig.read(STATUS) == POSTED  # masked is not gone
    rig.write(STATUS, 0)
    assert rig.read(STATUS) == POSTED  # and it is not written
    rig.read(OUTBOUND)
    assert rig.read(STATUS) == 0


def test_the_mask_keeps_its_eight_bits_and_holds_the_line_low(rig):
    assert rig.read(MASK) == 0
    rig.write(MASK, 0xFFFFFFFF)
    assert rig.read(MASK) == 0xFF
    rig.answer()
    rig.bar.drive()
    assert rig.levels == [False, False]
    rig.write(MASK, 0xFF & ~POSTED)
    assert rig.levels[-1]
    rig.write(MASK, POSTED)
    assert not rig.levels[-1]
    rig.write(MASK, 0)
    rig.read(OUTBOUND)
    assert not rig.levels[-1]  # the last reply was taken


def test_a_line_stays_high_while_replies_are_left(rig):
    second = rig.host.allocate(64)
    rig.answer()
    rig.unit.release(second.bus_address)
    rig.unit.post_reply(rig.unit.take_reply_frame(), UTIL_NOP.build())
    rig.read(OUTBOUND)
    assert rig.levels == [True]
    rig.read(OUTBOUND)
    assert rig.levels == [True, False]


@pytest.mark.parametrize("offset", KEPT)
def test_message_and_doorbell_registers_keep_what_is_written(rig, offset):
    assert rig.read(offset) == 0
    rig.write(offset, 0xCAFEF00D)
    assert rig.read(offset) == 0xCAFEF00D
    assert sum(rig.read(other) for other in KEPT) == 0xCAFEF00D
    rig.bar.reset()
    assert rig.read(offset) == 0


@pytest.mark.parametrize("offset", [0x00, 0x0C, 0x2C, 0x38, 0x3C, 0x48, 0x50, 0xFFC])
def test_what_is_no_register_reads_as_zero_and_takes_anything(rig, offset):
    rig.write(offset, 0xFFFFFFFF)
    assert rig.read(offset) == 0
    assert rig.misuse == []
    assert rig.unit.idle_inbound() == FRAMES


def test_a_reset_unmasks(rig):
    rig.write(MASK, POSTED)
    rig.answer()
    rig.bar.reset()
    assert rig.read(MASK) == 0
    assert rig.levels[-1]  # the queues are the IOP's to reset


# --- widths --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("offset", "size"),
    [(0x40, 1), (0x40, 2), (0x42, 2), (0x47, 1), (0x40, 8), (0x41, 4), (0x3C, 8), (0x3E, 4),
     (0x44, 8), (0x00, 0x1000)],
)  # fmt: skip
def test_a_port_that_is_not_read_as_a_word_is_not_read(rig, offset, size):
    rig.answer()
    data = rig.bar.read(offset, size)
    assert len(data) == size
    (sentence,) = rig.misuse
    assert sentence == f"{size} bytes were read at {offset:#06x}: ports are read as 32-bit words"
    assert (rig.unit.idle_inbound(), rig.unit.posted_outbound()) == (FRAMES, 1)
    for place in range(max(offset, 0x40), min(offset + size, 0x48)):
        assert data[place - offset] == 0xFF  # as if they were empty


@pytest.mark.parametrize(("offset", "size"), [(0x30, 1), (0x34, 2), (0x31, 1), (0x30, 8)])
def test_plain_registers_are_read_in_any_width(rig, offset, size):
    rig.write(MASK, 0xA5)
    rig.answer()
    whole = bytes.fromhex("08000000 a5000000")
    assert rig.bar.read(offset, size) == whole[offset - 0x30 : offset - 0x30 + size]
    assert rig.misuse == []


@pytest.mark.parametrize(
    ("offset", "size"), [(0x40, 1), (0x34, 2), (0x42, 4), (0x40, 8), (0x0, 4096)]
)
def test_a_register_that_is_not_written_as_a_word_is_not_written(rig, offset, size):
    rig.bar.write(offset, b"\xff" * size)
    (sentence,) = rig.misuse
    assert sentence == (
        f"{size} bytes were written at {offset:#06x}: registers are written as 32-bit words"
    )
    assert rig.read(MASK) == 0
    assert rig.unit.posted_inbound() == 0


def test_wrong_mfas_are_told_of(rig):
    rig.write(INBOUND, 0x1000)
    rig.write(OUTBOUND, EMPTY)
    assert "it is free" in rig.misuse[0]
    assert "frame address" in rig.misuse[1]


# --- frames --------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 2, 3, 4, 8, 16, 100])
def test_frame_memory_takes_any_width(rig, size):
    data = bytes(range(1, size + 1))
    rig.bar.write(FRAME_AREA + 5, data)
    assert rig.bar.read(FRAME_AREA + 5, size) == data
    assert rig.bar.read(FRAME_AREA + 4, 1) == b"\0"
    assert rig.misuse == []


def test_frame_memory_ends_with_the_bar(rig):
    rig.bar.write(SIZE - 2, b"abcd")
    assert rig.bar.read(SIZE - 2, 4) == b"ab\0\0"
    rig.bar.write(SIZE, b"abcd")
    assert rig.bar.read(SIZE, 4) == bytes(4)


def test_frames_can_be_mapped_and_registers_cannot(rig):
    assert rig.bar.mappable == ((FRAME_AREA, SIZE - FRAME_AREA),)
    assert rig.bar.size == SIZE
    with mmap.mmap(rig.bar.descriptor, SIZE - FRAME_AREA, offset=FRAME_AREA) as client:
        client[:4] = b"\x01\x02\x03\x04"
        assert rig.bar.read(FRAME_AREA, 4) == b"\x01\x02\x03\x04"
        with pytest.raises(PermissionError):  # or a client could kill the server
            os.ftruncate(rig.bar.descriptor, 4096)


# --- settling ------------------------------------------------------------------------------------


def test_a_request_is_fetched_when_it_has_settled(slow):
    first = slow.post()
    slow.now_ns = 60
    second = slow.post()
    assert slow.unit.settle(99) == 100
    assert slow.unit.fetch() is None
    assert slow.unit.posted_inbound() == 0
    assert slow.unit.settle(100) == 160
    assert slow.unit.posted_inbound() == 1
    assert slow.unit.fetch().mfa == first
    assert slow.unit.fetch() is None
    assert slow.unit.settle(200) is None
    assert slow.unit.fetch().mfa == second
    assert slow.unit.posted_inbound() == 0


def test_what_has_settled_and_is_not_fetched_wakes_nobody(slow):
    slow.post()
    assert slow.unit.settle(1000) is None
    assert slow.unit.posted_inbound() == 1


def test_a_refill_forgets_what_did_not_settle(slow):
    slow.post()
    slow.post()
    slow.unit.settle(0)
    slow.unit.refill()
    assert slow.unit.settle(0) is None
    assert slow.unit.settle(1000) is None
    assert slow.unit.fetch() is None
    mfa = slow.post()
    assert slow.unit.settle(99) == 100
    slow.unit.settle(100)
    assert slow.unit.fetch().mfa == mfa


def test_the_end_of_a_static_frame_takes_its_posts_along(slow):
    static = slow.post()
    slow.unit.settle(100)
    slow.unit.fetch()
    slow.unit.make_static(static, UTIL_NOP.build(), 3)
    slow.now_ns = 200
    slow.write(INBOUND, static)
    slow.now_ns = 250
    other = slow.post()
    slow.now_ns = 260
    slow.write(INBOUND, static)
    slow.unit.settle(300)  # the first post of it
    assert slow.unit.end_static(static) == 2
    assert slow.unit.posted_inbound() == 0
    assert slow.unit.settle(349) == 350
    assert slow.unit.settle(350) is None
    assert slow.unit.fetch().mfa == other
    assert slow.unit.fetch() is None


def test_no_host_can_keep_later_ones_from_writing_frames(rig):
    future_write = 0x10  # F_SEAL_FUTURE_WRITE of Linux 5.1
    with pytest.raises(PermissionError):
        fcntl.fcntl(rig.memory.descriptor, fcntl.F_ADD_SEALS, future_write)
    with mmap.mmap(rig.memory.descriptor, SIZE) as frames:
        frames[FRAME_AREA] = 1
