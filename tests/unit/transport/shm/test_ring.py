# SPDX-License-Identifier: Apache-2.0
"""One ring, both ends in this process, and somebody who writes nonsense into it."""

from __future__ import annotations

import gc
import os
import random
import struct
import weakref
from collections import deque

import pytest

from fakes.shm_pair import needs_rings
from i2o.errors import LocalFrameError
from i2o.transport.shm.ring import (
    CONTROL_SIZE,
    EMPTY_RING,
    PUSHED,
    Consumer,
    Producer,
    RingBroken,
    RingPlace,
    native_rings,
    packet_limit,
)

pytestmark = needs_rings
SIZE = 256
TAIL, HEAD, SLEEPS, WAITS = 0, 64, 128, 192


class Memory(bytearray):
    """Memory that can be watched."""


class Ring:
    """Both ends, their memory and their eventfds."""

    def __init__(self, size: int = SIZE) -> None:
        self.memory = bytearray(CONTROL_SIZE + size)
        self.control = memoryview(self.memory)[:CONTROL_SIZE]
        self.data = memoryview(self.memory)[CONTROL_SIZE:]
        self.bells = [os.eventfd(0, os.EFD_NONBLOCK) for _ in range(2)]
        place = RingPlace(self.memory, 0, CONTROL_SIZE, size)
        self.producer = Producer(native_rings(), place, self.bells[1])
        self.consumer = Consumer(native_rings(), place, self.bells[0], packet_limit(size))

    def push(self, packet: bytes) -> bool:
        code = self.producer.push(packet, len(packet))
        self.producer.check(code, len(packet))
        return code == PUSHED

    def pop(self) -> bytes | None:
        length = self.consumer.pop()
        self.consumer.check(length)
        return None if length == EMPTY_RING else bytes(self.consumer.packet[:length])

    def rang(self, number: int) -> bool:
        try:
            return os.eventfd_read(self.bells[number]) > 0
        except BlockingIOError:
            return False

    def word(self, offset: int) -> int:
        return struct.unpack_from("<I", self.control, offset)[0]

    def set(self, offset: int, value: int) -> None:
        struct.pack_into("<I", self.control, offset, value & 0xFFFFFFFF)

    def close(self) -> None:
        self.producer.close()
        self.consumer.close()
        for bell in self.bells:
            os.close(bell)


@pytest.fixture
def ring():
    made = Ring()
    yield made
    made.close()


def test_packets_come_out_as_they_went_in(ring):
    assert ring.pop() is None
    for packet in (b"", b"a", b"four", b"x" * 64):
        assert ring.push(packet)
        assert ring.pop() == packet
    assert ring.producer.push_two(b"head", memoryview(bytearray(b"rest"))) == PUSHED
    assert ring.pop() == b"headrest"
    assert ring.producer.push_record(1, 2, 0xFFFFFFFF) == PUSHED
    assert ring.pop() == struct.pack("<III", 1, 2, 0xFFFFFFFF)


def test_what_is_in_a_ring_is_laid_out_as_the_page_says(ring):
    ring.push(b"abcde")
    assert ring.word(TAIL) == 16, "four bytes of length and five of data, in steps of eight"
    assert ring.data[:9] == b"\5\0\0\0abcde"
    assert ring.word(HEAD) == 0
    ring.pop()
    assert ring.word(HEAD) == 16


def test_a_packet_that_would_wrap_begins_at_the_start(ring):
    for _ in range(3):
        ring.push(b"x" * 60)
        ring.pop()
    ring.push(b"y" * 52)  # up to 248
    assert ring.pop() == b"y" * 52
    assert ring.word(TAIL) == 248
    ring.push(b"z" * 20)
    assert ring.data[248:252] == b"\xff\xff\xff\xff"
    assert ring.word(TAIL) == 256 + 24
    assert ring.pop() == b"z" * 20


def test_places_wrap_at_the_end_of_a_word():
    """After 4 GiB nothing changes: places are compared by their difference."""
    made = Ring()
    start = 0xFFFFFFC0
    for end in (made.producer, made.consumer):
        end.ring.place = end.ring.seen = start
    made.set(TAIL, start)
    made.set(HEAD, start)
    assert made.pop() is None
    assert made.consumer.pending() == 0
    for number in range(20):
        packet = bytes([number]) * 30
        assert made.push(packet)
        assert made.pop() == packet
    assert made.word(TAIL) < start
    made.close()


def test_any_order_of_sizes_and_turns(ring):
    rng = random.Random(5)
    inside: deque[bytes] = deque()
    full = empty = 0
    for _ in range(20000):
        if rng.random() < 0.5:
            packet = rng.randbytes(rng.randrange(65))
            if ring.push(packet):
                inside.append(packet)
            else:
                full += 1
        elif inside:
            assert ring.pop() == inside.popleft()
        else:
            assert ring.pop() is None
            empty += 1
    assert full > 100
    assert empty > 100


def test_packets_are_taken_together_in_whole_grains(ring):
    for packet in (b"abcd", b"", b"efghijk", b"mnopqrst"):
        assert ring.push(packet)
    assert bytes(ring.consumer.packet[: ring.consumer.take(4)]) == b"abcdefghmnopqrst"
    assert ring.consumer.take(4) == EMPTY_RING
    assert ring.push(b"abc")
    assert ring.consumer.take(4) == 0, "a packet, with nothing of use"


def test_as_many_packets_are_taken_as_there_is_room_for(ring):
    """The buffer has room for two of the largest; what is left comes with the next call."""
    limit = packet_limit(SIZE)
    sent = [bytes([number]) * (limit - 12) for number in range(4)]
    assert all(map(ring.push, sent))
    first = ring.consumer.take(4)
    assert limit < first <= 2 * limit
    taken = bytes(ring.consumer.packet[:first])
    taken += bytes(ring.consumer.packet[: ring.consumer.take(4)])
    assert taken == b"".join(sent)


def test_what_came_before_nonsense_is_taken_and_then_it_is_noticed(ring):
    assert ring.push(b"abcd")
    assert ring.push(b"efgh")
    struct.pack_into("<I", ring.data, 8, 0x7FFFFFFF)
    assert ring.consumer.take(4) == 4
    with pytest.raises(RingBroken):
        ring.consumer.check(ring.consumer.take(4))
    ring.consumer.close()
    with pytest.raises(RingBroken):
        ring.consumer.check(ring.consumer.take(4))


def test_a_taker_makes_room_and_says_so(ring):
    while ring.push(bytes(28)):
        pass
    assert ring.consumer.take(4) > 0
    assert ring.rang(0)


def test_a_packet_that_is_too_large(ring):
    with pytest.raises(LocalFrameError, match="takes 64"):
        ring.push(bytes(65))
    assert ring.push(bytes(64))


@pytest.mark.parametrize("size", [0, 32, 100, 3 << 10])
def test_sizes_that_are_no_rings(size):
    with pytest.raises(LocalFrameError, match="no ring"):
        Producer(native_rings(), RingPlace(bytearray(1 << 13), 0, 256, size), -1)


@pytest.mark.parametrize("place", [(0, 257, 64), (65, 0, 64), (-1, 256, 64), (0, -64, 64)])
def test_rings_outside_of_their_memory(place):
    with pytest.raises(LocalFrameError, match="no ring"):
        Producer(native_rings(), RingPlace(bytearray(320), *place), -1)


def test_what_can_be_called_keeps_the_memory():
    place = RingPlace(memory_of := Memory(4096), 0, 256, 256)
    memory = weakref.ref(memory_of)
    push = Producer(native_rings(), place, -1).push
    pop = Consumer(native_rings(), place, -1, 64).pop_within
    del place, memory_of
    gc.collect()
    assert memory() is not None
    assert push(b"abc", 3) == PUSHED
    assert pop(1000) == 3
    del push, pop
    gc.collect()
    assert memory() is None


# --- sleeping ------------------------------------------------------------------------------------


def test_only_a_sleeper_is_woken_and_once(ring):
    ring.push(b"a")
    assert not ring.rang(1)
    ring.pop()
    assert ring.consumer.arm()
    assert ring.word(SLEEPS) == 1
    ring.push(b"b")
    assert ring.word(SLEEPS) == 0
    assert ring.rang(1)
    ring.push(b"c")
    assert not ring.rang(1)


def test_nobody_sleeps_while_a_packet_is_there(ring):
    ring.push(b"a")
    assert not ring.consumer.arm()
    assert ring.word(SLEEPS) == 0
    ring.pop()
    assert ring.consumer.arm()
    ring.consumer.disarm()
    ring.push(b"b")
    assert not ring.rang(1)


def test_a_producer_without_room_is_woken_when_there_is_some(ring):
    while ring.push(bytes(60)):
        pass
    assert ring.word(WAITS) == 1
    assert not ring.rang(0)
    ring.pop()
    assert ring.rang(0)
    assert ring.word(WAITS) == 0
    assert ring.push(bytes(60))
    ring.pop()
    assert not ring.rang(0)


def test_a_bell_that_is_full_blocks_nobody(ring):
    os.set_blocking(ring.bells[1], True)
    os.eventfd_write(ring.bells[1], 0xFFFFFFFFFFFFFFFE)
    ring.consumer.arm()
    assert ring.push(b"a"), "it is readable already"
    os.set_blocking(ring.bells[1], False)


def test_spinning(ring):
    assert not ring.consumer.spin(0)
    assert not ring.consumer.spin(100_000)
    ring.push(b"a")
    assert ring.consumer.spin(60 * 10**9)
    assert ring.consumer.pending()
    assert ring.consumer.pop_within(10**9) == 1
    assert ring.consumer.pop_within(1000) == EMPTY_RING


def test_a_closed_end_touches_nothing(ring):
    ring.push(b"a")
    ring.consumer.close()
    ring.producer.close()
    before = bytes(ring.control), bytes(ring.data)
    with pytest.raises(RingBroken):
        ring.push(b"b")
    with pytest.raises(RingBroken):
        ring.pop()
    assert not ring.consumer.arm()
    assert ring.consumer.spin(60 * 10**9)
    ring.consumer.disarm()
    assert (bytes(ring.control), bytes(ring.data)) == before
    ring.data.release()
    ring.control.release()
    ring.memory.clear()  # nobody holds it


# --- nonsense ------------------------------------------------------------------------------------


@pytest.mark.parametrize("tail", [1, 4, SIZE + 8, -8, 0x80000000])
def test_a_tail_that_cannot_be(ring, tail):
    ring.set(TAIL, tail)
    with pytest.raises(RingBroken):
        ring.pop()


@pytest.mark.parametrize("head", [1, -8 - SIZE, 0x80000000])
def test_a_head_that_cannot_be(ring, head):
    ring.set(HEAD, head)
    with pytest.raises(RingBroken):
        for _ in range(9):
            ring.push(bytes(60))


@pytest.mark.parametrize(
    ("length", "tail"),
    [(65, 80), (0xFFFFFFFE, 8), (0xFFFFFFFF, 8), (0xFFFFFFFF, SIZE), (60, 8), (13, 16), (64, 64)],
)
def test_a_length_that_cannot_be(ring, length, tail):
    struct.pack_into("<I", ring.data, 0, length)
    ring.set(TAIL, tail)
    with pytest.raises(RingBroken):
        ring.pop()


def test_a_skip_to_another_skip_or_past_the_end():
    for first in (0xFFFFFFFF, 64):
        made = Ring()
        for _ in range(2):
            made.push(bytes(60))
            made.pop()
        struct.pack_into("<I", made.data, 128, 0xFFFFFFFF)
        struct.pack_into("<I", made.data, 0, first)
        made.set(TAIL, 128 + 128 + 8)
        with pytest.raises(RingBroken):
            made.pop()
        made.close()


def test_a_skip_that_is_all_there_is():
    made = Ring()
    for _ in range(2):
        made.push(bytes(60))
        made.pop()
    struct.pack_into("<I", made.data, 128, 0xFFFFFFFF)
    struct.pack_into("<I", made.data, 0, 4)
    made.set(TAIL, 136)
    with pytest.raises(RingBroken):
        made.pop()
    made.close()


def test_mutated_rings_break_nothing_but_themselves():
    """Whatever is in the memory: an answer, in bounded time, and nothing outside is touched."""
    rng = random.Random(11)
    guard = b"\xa5" * 4096
    for _ in range(3000):
        made = Ring()
        for _ in range(rng.randrange(4)):
            made.push(rng.randbytes(rng.randrange(60)))
        for _ in range(rng.randrange(1, 6)):
            target = made.control if rng.random() < 0.6 else made.data
            value = rng.choice([0, 1, 7, 8, 64, 248, 256, 264, 0xFFFFFFFF, rng.getrandbits(32)])
            at = rng.choice([0, 64, 128, 192, rng.randrange(0, 252, 4)]) % (len(target) - 3)
            struct.pack_into("<I", target, at, value)
        behind = bytearray(guard)
        for _ in range(12):
            try:
                if rng.random() < 0.5:
                    packet = made.pop()
                    assert packet is None or len(packet) <= 64
                else:
                    made.push(rng.randbytes(rng.randrange(65)))
            except RingBroken:
                pass
        assert behind == guard
        made.close()
