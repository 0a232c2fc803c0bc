# SPDX-License-Identifier: Apache-2.0
"""In-process host memory: bounds, addresses, lies."""

from __future__ import annotations

import itertools
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from i2o.errors import DmaFault, LocalFrameError
from i2o.transport import bus_space
from i2o.transport.bus_space import BusSpace

SLOT = 1 << 20


@pytest.fixture
def space() -> BusSpace:
    return BusSpace()


def test_a_buffer_is_zeroed_aligned_and_below_4_gib(space):
    buffer = space.allocate(100)
    assert bytes(buffer.view) == bytes(100)
    assert buffer.bus_address % 4096 == 0
    assert 0x100000 <= buffer.bus_address < 1 << 32
    assert buffer.segments == ((buffer.bus_address, 100),)
    buffer.to_device()
    buffer.from_device()


def test_large_alignments_hold(space):
    space.allocate(1)
    assert space.allocate(10, align=1 << 22).bus_address % (1 << 22) == 0


def test_both_sides_see_the_same_bytes(space):
    buffer = space.allocate(16)
    space.write(buffer.bus_address + 4, b"abcd")
    assert bytes(buffer.view[4:8]) == b"abcd"
    buffer.view[0:2] = b"zz"
    assert space.read(buffer.bus_address, 8) == b"zz\0\0abcd"


def test_mapped_memory_is_the_callers_own(space):
    mine = bytearray(10)
    buffer = space.map(memoryview(mine))
    space.write(buffer.bus_address, b"0123456789")
    assert mine == b"0123456789"


def test_read_only_memory_is_read_only_for_the_device(space):
    buffer = space.map(memoryview(b"fixed"))
    assert space.read(buffer.bus_address, 5) == b"fixed"
    with pytest.raises(DmaFault, match="read-only"):
        space.write(buffer.bus_address, b"x")
    with pytest.raises(DmaFault, match="read-only"):
        space.windows([(buffer.bus_address, 5)], writable=True)
    assert bytes(space.windows([(buffer.bus_address, 5)], writable=False)[0]) == b"fixed"


@pytest.mark.parametrize(
    ("offset", "length"),
    [(-1, 1), (100, 1), (99, 2), (0, 101), (SLOT, 1), (-SLOT, 4), (0, -1), (1 << 32, 4)],
)
def test_accesses_outside_a_buffer_fault_and_change_nothing(space, offset, length):
    buffer = space.allocate(100)
    address = buffer.bus_address + offset
    with pytest.raises(DmaFault) as caught:
        space.read(address, length)
    assert caught.value.address == address
    assert caught.value.length == length
    if length >= 0:
        with pytest.raises(DmaFault):
            space.write(address, b"x" * length)
    with pytest.raises(DmaFault):
        space.windows([(buffer.bus_address, 4), (address, length)], writable=True)
    assert bytes(buffer.view) == bytes(100)


def test_neighbours_are_not_one_buffer(space):
    first = space.allocate(SLOT)
    second = space.allocate(SLOT)
    assert second.bus_address == first.bus_address + SLOT
    with pytest.raises(DmaFault, match="ends at"):
        space.write(first.bus_address + SLOT - 2, b"1234")
    assert bytes(second.view[:2]) == b"\0\0"


def test_a_freed_address_is_a_hole_and_not_used_again_at_once(space):
    first = space.allocate(10)
    first.free()
    second = space.allocate(10)
    assert second.bus_address != first.bus_address
    with pytest.raises(DmaFault):
        space.write(first.bus_address, b"late")
    with pytest.raises(LocalFrameError, match="twice"):
        first.free()
    assert space.buffer_count == 1


def test_addresses_run_out_and_come_back(space, monkeypatch):
    monkeypatch.setattr(bus_space, "_END_SLOT", 1 + 12)  # a bus of twelve slots
    big = [space.allocate(4 * SLOT) for _ in range(3)]
    with pytest.raises(MemoryError):
        space.allocate(1)
    big[1].free()
    again = space.allocate(4 * SLOT)
    assert big[0].end <= again.bus_address
    assert again.end <= big[2].bus_address
    again.free()
    halves = [space.allocate(2 * SLOT), space.allocate(2 * SLOT)]
    halves[0].free()
    with pytest.raises(MemoryError):
        space.allocate(3 * SLOT)


@pytest.mark.parametrize(("size", "align"), [(0, 4), (-1, 4), (4, 3), (4, 0)])
def test_nonsense_allocations(space, size, align):
    with pytest.raises(LocalFrameError):
        space.allocate(size, align)


def test_only_contiguous_memory_can_be_mapped(space):
    with pytest.raises(LocalFrameError):
        space.map(memoryview(bytearray(10))[::2])
    with pytest.raises(LocalFrameError):
        space.map(memoryview(b""))


@given(st.lists(st.tuples(st.booleans(), st.integers(1, 5 * SLOT)), max_size=40))
def test_live_buffers_never_overlap(steps):
    space = BusSpace()
    live = []
    for allocate, size in steps:
        if allocate or not live:
            live.append(space.allocate(size))
        else:
            live.pop(size % len(live)).free()
    spans = sorted((buffer.bus_address, buffer.end) for buffer in live)
    assert all(end <= start for (_, end), (start, _) in itertools.pairwise(spans))
    assert space.buffer_count == len(live)
    for buffer in live:
        assert space.window(buffer.bus_address, len(buffer.view)) is not None


class Contested(dict):
    """Slots of which another thread takes some between the look and the claim."""

    def __init__(self, lost: int) -> None:
        super().__init__()
        self.lost = lost
        self.thief = BusSpace().allocate(1)

    def setdefault(self, slot, buffer):
        if self.lost:
            self.lost -= 1
            super().__setitem__(slot, self.thief)
        return super().setdefault(slot, buffer)


@pytest.mark.parametrize("size", [1, 3 * SLOT])
@pytest.mark.parametrize("lost", [1, 2])
def test_a_slot_lost_to_another_thread_is_not_shared(space, size, lost):
    space._slots = Contested(lost)
    buffer = space.allocate(size)
    mine = [slot for slot, owner in space._slots.items() if owner is buffer]
    assert mine == list(range(buffer.bus_address // SLOT, (buffer.end - 1) // SLOT + 1))
    buffer.free()
    assert all(owner is space._slots.thief for owner in space._slots.values())


def test_aligned_addresses_skip_what_does_not_fit(space):
    first = space.allocate(1)
    aligned = space.allocate(1, align=4 * SLOT)
    assert aligned.bus_address % (4 * SLOT) == 0
    assert aligned.bus_address > first.bus_address


def test_a_landing_is_read_into_until_its_buffer_is_freed(space):
    buffer = space.allocate(100)
    landing = space.landing(buffer.bus_address + 10, 50)

    def read(view):
        view[:] = b"x" * len(view)
        return len(view)

    assert landing.fill(5, 20, read) == 20
    assert bytes(buffer.view) == bytes(15) + b"x" * 20 + bytes(65)
    buffer.free()
    with pytest.raises(DmaFault, match=r"0x0010000f: the host freed that buffer meanwhile"):
        landing.fill(5, 20, read)


def test_a_landing_is_where_a_device_may_write(space):
    buffer = space.allocate(100)
    with pytest.raises(DmaFault):
        space.landing(buffer.bus_address, 101)
    with pytest.raises(DmaFault):
        space.landing(SLOT * 77, 1)
    with pytest.raises(DmaFault, match="read-only"):
        space.landing(space.map(memoryview(bytes(10))).bus_address, 10)


def test_freeing_waits_for_what_reads_into_a_buffer(space):
    buffer = space.allocate(100)
    landing = space.landing(buffer.bus_address, 100)
    is_reading, may_end = threading.Event(), threading.Event()
    order = []

    def read(view):
        is_reading.set()
        assert may_end.wait(10)
        order.append("read")
        return 1

    def free():
        buffer.free()
        order.append("freed")

    reader = threading.Thread(target=landing.fill, args=(0, 100, read))
    reader.start()
    assert is_reading.wait(10)
    freer = threading.Thread(target=free)
    freer.start()
    freer.join(0.05)
    assert freer.is_alive()
    may_end.set()
    reader.join()
    freer.join()
    assert order == ["read", "freed"]
