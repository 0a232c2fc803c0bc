# SPDX-License-Identifier: Apache-2.0
"""The two ends of a queue pair in shared memory, over rings and over a socket."""

from __future__ import annotations

import gc
import os
import threading
import time
import weakref

import pytest

from fakes.shm_pair import CARRIED, ShmPair
from i2o.errors import DmaFault, I2OError, IopDead, LocalFrameError
from i2o.frames import block_storage as bsa
from i2o.transport import EMPTY
from i2o.transport.arena_space import ARENA_BASE, ArenaSpace
from i2o.transport.shm.channel import PeerGone, SocketChannel
from i2o.transport.shm.records import PACKET, Word
from i2o.transport.shm.ring import native_rings
from i2o.transport.shm.segment import Segment, Shape

CHECK = bsa.BSA_STATUS_CHECK.build(target_address=0x010)


@pytest.fixture(params=CARRIED)
def halves(request, monkeypatch):
    with ShmPair(request.param, monkeypatch) as pair:
        yield pair.host, pair.device


def test_a_frame_goes_there_and_back(halves):
    host, device = halves
    mfa = host.alloc()
    host.write(mfa, CHECK)
    host.post(mfa)
    assert not device.drain(), "that was all"
    assert (device.posted_inbound(), device.idle_inbound()) == (1, 3)
    assert device.fetch() == (mfa, CHECK)
    assert device.fetch() is None
    device.recycle(mfa)
    device.flush()
    assert [host.alloc() for _ in range(5)][3:] == [mfa, EMPTY]


@pytest.mark.parametrize(("words", "size"), [(0, 16), (3, 16), (5, 20), (32, 128), (0xFFFF, 128)])
def test_a_frame_is_fetched_within_its_bounds(halves, words, size):
    """Whatever its header says: no less than a header, no more than the frame."""
    host, device = halves
    mfa = host.alloc()
    frame = bytes((1, 0, *words.to_bytes(2, "little"))) + bytes(range(124))
    host.write(mfa, frame)
    host.post(mfa)
    device.drain()
    assert device.fetch() == (mfa, frame[:size])


def test_a_reply_goes_there_and_back(halves):
    host, device = halves
    frame = host.memory.allocate(128)
    host.release(frame.bus_address)
    device.drain()
    assert (device.idle_outbound(), device.posted_outbound()) == (1, 0)
    device.post_reply(device.take_reply_frame(), b"answer")
    assert device.take_reply_frame() == EMPTY
    device.flush()
    assert host.wait(1)
    assert host.reply_pending
    assert host.reap() == frame.bus_address
    assert bytes(frame.view[:6]) == b"answer"
    assert host.reap() == EMPTY
    assert not host.wait(0)


def test_replies_and_posts_of_before_a_reset_do_not_count(halves):
    host, device = halves
    frame = host.memory.allocate(128)
    host.release(frame.bus_address)
    host.post(host.alloc())
    late, held = host.alloc(), host.alloc()
    device.drain()
    device.post_reply(device.take_reply_frame(), b"old")
    device.drop_replies()
    device.refill()
    host.post(late)  # the host does not know yet
    device.drain()
    assert device.fetch() is None
    assert host.reap() == EMPTY
    assert host.generation == 2
    assert device.idle_inbound() == 4
    host.post(held)
    assert "does not hold it" in host.said[0]
    assert sorted(host.alloc() for _ in range(4)) == [0x1000, 0x1080, 0x1100, 0x1180]


def test_a_preserved_frame_stays_with_the_host(halves):
    host, device = halves
    mfa = host.alloc()
    host.post(mfa)
    device.drain()
    device.fetch()
    device.preserve(mfa)
    device.flush()
    host.drain()
    host.post(mfa)
    device.drain()
    assert device.fetch().mfa == mfa


def test_a_preserved_frame_may_be_withdrawn(halves):
    host, device = halves
    mfa = host.alloc()
    host.post(mfa)
    device.drain()
    device.fetch()
    device.preserve(mfa)
    device.withdraw(mfa)
    device.flush()
    host.drain()
    host.post(mfa)
    assert "does not hold it" in host.said[0]
    assert sorted(host.alloc() for _ in range(4)) == [0x1000, 0x1080, 0x1100, 0x1180]
    host.post(mfa)
    device.drain()
    assert device.fetch().mfa == mfa


def test_a_static_frame_is_posted_again_and_again(halves):
    host, device = halves
    mfa = host.alloc()
    host.write(mfa, CHECK)
    host.post(mfa)
    device.drain()
    assert device.fetch().mfa == mfa
    device.make_static(mfa, CHECK, 2)
    device.flush()
    host.drain()
    with pytest.raises(LocalFrameError, match="not the host's to write"):
        host.write(mfa, bytes(64))
    for _ in range(3):
        host.post(mfa)
    assert len(host.said) == 1
    device.drain()
    assert device.posted_inbound() == 2
    assert device.fetch().data == CHECK
    device.renew_static(mfa)
    device.flush()
    host.drain()
    host.post(mfa)
    device.drain()
    assert device.end_static(mfa) == 2
    device.flush()
    host.drain()
    taken = [host.alloc() for _ in range(4)]
    assert mfa in taken
    assert host.alloc() == EMPTY
    host.post(mfa)
    device.drain()
    assert device.fetch().mfa == mfa, "an ordinary frame again"


def test_posts_of_a_static_frame_that_ended_meanwhile_are_dropped(halves):
    host, device = halves
    mfa = host.alloc()
    host.write(mfa, CHECK)
    host.post(mfa)
    device.drain()
    device.fetch()
    device.make_static(mfa, CHECK, 1)
    device.flush()
    host.drain()
    host.post(mfa)
    device.end_static(mfa)
    device.drain()
    assert device.fetch() is None
    assert "static frame any more" in host.said[0]
    device.make_static(mfa, CHECK, 1)
    device.flush()
    host.drain()
    host.post(mfa)
    device.refill()
    device.drain()
    assert device.fetch() is None
    assert len(host.said) == 1, "the host did not know of the reset"
    host.drain()
    host.post(mfa)
    assert len(host.said) == 2


def test_starvation_and_power_cycles(halves):
    host, device = halves
    device.starve(True)
    assert host.alloc() == EMPTY
    device.starve(False)
    assert host.alloc() != EMPTY
    with pytest.raises(IopDead, match="did not reset"):
        host.power_cycle(0.01)
    device.drain()
    assert device.take_power_cycle()
    assert not device.take_power_cycle()


def test_several_threads_may_wait(halves):
    host, device = halves
    frame = host.memory.allocate(128)
    host.release(frame.bus_address)
    host.drain()
    device.drain()
    seen: list[object] = []

    def wait() -> None:
        try:
            seen.append(host.wait(600))
        except Exception as error:
            seen.append(error)

    threads = [threading.Thread(target=wait, name=f"i2o-{number}") for number in range(4)]
    for thread in threads:
        thread.start()
    time.sleep(0.2)
    device.post_reply(device.take_reply_frame(), b"answer")
    device.flush()
    for thread in threads:
        thread.join(60)
    assert seen == [True] * 4, "all of them, not only the one who took it in"
    assert host.reap() == frame.bus_address


def test_a_power_cycle_that_another_thread_is_told_of(halves, monkeypatch):
    host, device = halves

    def another_thread_is_faster(timeout_s: float) -> bool:
        device.refill()
        host.drain()
        return False

    monkeypatch.setattr(host, "wait", another_thread_is_faster)
    host.power_cycle(5)
    assert host.generation == 2


def test_what_came_before_the_end_counts(halves):
    host, device = halves
    frame = host.memory.allocate(128)
    host.release(frame.bus_address)
    device.drain()
    device.post_reply(device.take_reply_frame(), b"answer")
    device.flush()
    device._channel.close()
    assert host.reap() == frame.bus_address
    host._table.trusted_until_ns = 0  # the last look is long ago
    with pytest.raises(IopDead):
        host.reap()
    for call in (
        host.reap,
        host.alloc,
        lambda: host.wait(1),
        lambda: host.post(0x1000),
        lambda: host.write(0x1000, CHECK),
    ):
        with pytest.raises(IopDead):
            call()
    frame.free()


@pytest.mark.parametrize("call", ["alloc", "post", "release", "reap", "allocate"])
def test_whatever_touches_the_queues_notices_the_end(halves, call):
    """A ring takes what nobody will read; there the last look must not be long ago."""
    host, device = halves
    mfa, frame = host.alloc(), host.memory.allocate(128)
    while host.alloc() != EMPTY:
        pass
    device._channel.close()
    host._table.trusted_until_ns = 0
    calls = {
        "alloc": host.alloc,
        "post": lambda: host.post(mfa),
        "release": lambda: host.release(frame.bus_address),
        "reap": host.reap,
        "allocate": lambda: host.memory.allocate(128),
    }
    with pytest.raises(IopDead):
        calls[call]()
    assert host.is_gone


def test_a_request_that_nobody_will_serve_is_not_posted(halves):
    """Not even if there is still something to be heard of whoever is gone."""
    host, device = halves
    mfa = host.alloc()
    frame = host.memory.allocate(128)
    host.release(frame.bus_address)
    device.drain()
    device.post_reply(device.take_reply_frame(), b"answer")
    device.flush()
    device._channel.close()
    host._table.trusted_until_ns = 0
    with pytest.raises(IopDead):
        host.post(mfa)
    assert host.reap() == frame.bus_address


def test_a_look_counts_for_a_while(halves, monkeypatch):
    host, _ = halves
    looks, now_ns = [], [10**9]
    host._table.is_slow = True  # compiled code has a clock of its own
    monkeypatch.setattr(host, "_now_ns", lambda: now_ns[0])
    monkeypatch.setattr(host._channel, "check", lambda: looks.append(now_ns[0]))
    host._table.trusted_until_ns = 0
    for later_ns in (0, 49_999, 50_000, 99_999, 100_000):
        now_ns[0] = 10**9 + later_ns
        host.reap()
        host.release(0x100000)
    assert [look - 10**9 for look in looks] == [0, 50_000, 100_000]


def test_waiting_on_a_closed_end_is_an_error(halves):
    host, _ = halves
    host._channel.close()
    with pytest.raises(IopDead):
        host.wait(60)


def test_a_buffer_that_nobody_is_told_of_takes_no_room(halves):
    host, device = halves
    first = host.memory.allocate(8)
    device._channel.close()
    with pytest.raises(IopDead):
        host.memory.allocate(8)
    with pytest.raises(DmaFault):
        host.memory.window(first.bus_address + 4096, 8)


def test_memory_goes_with_the_last_view_of_it(halves):
    host, _ = halves
    memory = weakref.ref(host._segment._map)
    buffer = host.memory.allocate(8)
    view = buffer.view
    buffer.free()
    host.close()
    assert memory() is not None, "the view is still there"
    assert bytes(view) == bytes(8)
    del buffer, view
    assert memory() is None
    host.close()


def test_misuse_is_told(halves):
    host, device = halves
    frame = host.memory.allocate(128)
    with pytest.raises(LocalFrameError, match="allocate it first"):
        host.write(0x1000, CHECK)
    mfa = host.alloc()
    with pytest.raises(LocalFrameError, match="does not fit"):
        host.write(mfa, bytes(132))
    for bad in ((0x10, 4), (0x1001, 4), (0x1000, 129)):
        with pytest.raises(LocalFrameError):
            host.read_inbound(*bad)
    host.release(3)
    host.release(frame.bus_address)
    host.release(frame.bus_address)
    host.post(mfa)
    device.drain()
    host._table.hold(mfa)
    host.post(mfa)
    device.drain()
    assert [
        word in text for word, text in zip(("word", "twice", "not hold"), host.said, strict=True)
    ] == [True] * 3
    assert len(host.said) == 3


def test_too_many_frames_are_refused():
    with pytest.raises(LocalFrameError, match="do not fit"):
        Segment.make(Shape(9999, 512, 1 << 16, 1 << 20))


def test_a_host_that_does_not_listen_blocks_nobody(halves):
    host, device = halves
    pool = host.memory.allocate(4000).bus_address
    frames = range(pool, pool + 4000, 4)
    for frame in frames:
        host.release(frame)
        device.drain()
    replied = 0
    while not device.has_outbox:
        device.post_reply(frames[replied % len(frames)], bytes(4))
        device.flush()
        replied += 1
    device.refill()
    device.post_reply(frames[0], bytes(4))
    host.drain()
    while device.has_outbox:
        device.flush()
        host.drain()
    while host.drain():
        pass
    assert host._table.reply_count == replied + 1
    assert host.generation == 2


def test_a_host_that_does_not_listen_is_not_listened_to(halves):
    host, device = halves
    while device.has_outbox is False:
        device.recycle(0x1000)
        device.flush()
    for _ in range(20000):
        device.recycle(0x1000)
    host.release(host.memory.allocate(4).bus_address)
    assert not device.drain()
    assert device.idle_outbound() == 0


def test_either_end_may_go(halves):
    host, device = halves
    host._channel.close()
    device.recycle(0x1000)
    device.flush()
    with pytest.raises(PeerGone):
        device.drain()
        device._channel.check()
    device._channel.close()
    with pytest.raises(PeerGone):
        device.drain()
    with pytest.raises(IopDead):
        host.drain()


def test_the_device_sees_only_what_the_host_gave(halves):
    host, device = halves
    first, second = host.memory.allocate(100), host.memory.allocate(5000, align=1 << 16)
    assert second.bus_address % (1 << 16) == 0
    first.view[:] = b"a" * 100
    device.drain()
    assert device.dma.read(first.bus_address, 100) == b"a" * 100
    (view,) = device.dma.windows([(second.bus_address + 4000, 1000)], writable=True)
    view[:] = b"b" * 1000
    assert bytes(second.view[4000:]) == b"b" * 1000
    for address, length in (
        (first.bus_address, 101),
        (first.bus_address - 1, 1),
        (first.bus_address + 100, 1),
        (first.bus_address, -1),
        (0, 4),
        (0xFFFFF000, 4096),
    ):
        with pytest.raises(DmaFault):
            device.dma.read(address, length)
        with pytest.raises(DmaFault):
            host.memory.window(address, length)
    first.free()
    with pytest.raises(LocalFrameError, match="twice"):
        first.free()
    device.drain()
    with pytest.raises(DmaFault):
        device.dma.write(second.bus_address + 4999, b"xx")
    with pytest.raises(DmaFault):
        device.dma.read(first.bus_address, 1)
    assert first.segments == ((first.bus_address, 100),)
    first.to_device()
    first.from_device()


def test_a_buffer_that_was_used_last_is_not_one_for_ever():
    """It is found without a search, and not any more when it was given back."""
    space = ArenaSpace(memoryview(bytearray(16 * 4096)))
    first, second = space.allocate(100), space.allocate(100)
    space.write(first.bus_address, b"a" * 100)
    for bad in (b"x" * 101, b"x" * 5000):
        with pytest.raises(DmaFault):
            space.write(first.bus_address, bad)
    with pytest.raises(DmaFault):
        space.read(first.bus_address, -1)
    space.write(second.bus_address + 99, b"b")
    space.write(second.bus_address, b"b")
    assert space.read(second.bus_address, 1) == b"b"
    assert space.read(first.bus_address, 100) == b"a" * 100
    first.free()
    with pytest.raises(DmaFault):
        space.write(first.bus_address, b"x")
    assert space.read(second.bus_address + 99, 1) == b"b"


def test_an_arena_is_used_around_and_up():
    space = ArenaSpace(memoryview(bytearray(16 * 4096)))
    first = [space.allocate(4096) for _ in range(12)]
    assert [b.bus_address - ARENA_BASE for b in first[:3]] == [0, 4096, 8192]
    first[1].free()
    first[2].free()
    later = space.allocate(4 * 4096)
    assert later.bus_address == ARENA_BASE + 12 * 4096
    later.view[:] = b"x" * len(later.view)
    around = space.allocate(2 * 4096)
    assert around.bus_address == ARENA_BASE + 4096
    with pytest.raises(MemoryError):
        space.allocate(4096)
    later.free()
    assert bytes(space.allocate(4096).view) == bytes(4096)
    for size, align in ((0, 4096), (1, 3), (1, 0)):
        with pytest.raises(I2OError):
            space.allocate(size, align)


def test_a_device_that_takes_nothing_is_dead(halves, monkeypatch):
    host, _ = halves
    monkeypatch.setattr("i2o.transport.shm.host_half._PATIENCE_S", 0.05)
    with pytest.raises(IopDead, match="did not take what it was told"):
        for _ in range(1 << 17):
            host.release(0x100000)


def test_a_device_that_takes_late_is_waited_for(halves):
    host, device = halves
    taken = 0

    def wait_for_room(timeout_s: float) -> None:
        nonlocal taken
        taken += 1
        device.drain()

    host._channel.wait_for_room = wait_for_room
    while not taken:
        host.release(0x100000)
    host.release(0x100004)
    assert not host.is_gone


def test_records_that_are_none(halves):
    host, device = halves
    host._channel.send(b"\1\0\0\0" * 3 + b"rest")
    host._tell(99, 1, 2)
    device.drain()
    assert "record 99" in host.said[-1]
    device._tell(99, 1, 2)
    device.flush()
    host.drain()
    assert host.is_gone
    with pytest.raises(IopDead, match="makes no sense"):
        host.alloc()


def test_frames_that_become_free_twice(halves):
    host, device = halves
    device._tell(Word.FREE, 0x1000)
    device._tell(Word.FREE, 0x1000)
    device.flush()
    host.drain()
    with pytest.raises(IopDead, match="was free before"):
        host.reap()


def test_too_many_reply_frames(halves):
    host, device = halves
    device._table.most_replies = 2
    for number in range(3):
        host.release(0x100000 + 4 * number)
    device.drain()
    assert device.idle_outbound() == 2
    assert "too many" in host.said[-1]


def test_buffers_that_overlap_or_are_outside(halves):
    host, device = halves
    host.memory.allocate(4096)
    for word, address, length in (
        (Word.COVER, ARENA_BASE + 4000, 4),
        (Word.COVER, ARENA_BASE - 4, 8),
        (Word.COVER, 0xFFFFF000, 4096),
        (Word.COVER, ARENA_BASE + 8192, 0),
        (Word.UNCOVER, ARENA_BASE + 4, 0),
    ):
        host._tell(word, address, length)
    device.drain()
    assert len(host.said) == 5


def test_a_unit_without_a_host(halves):
    _, device = halves
    device.disconnect()
    device.disconnect()
    assert device.fetch() is None
    assert not device.drain()
    device.recycle(0x1000)
    assert device.flush()
    assert not device.has_outbox
    assert device.end_static(0x1000) == 0
    for call in (
        lambda: device.dma.read(ARENA_BASE, 4),
        lambda: device.dma.write(ARENA_BASE, b"x"),
        lambda: device.dma.windows([(ARENA_BASE, 4)], writable=True),
        lambda: device.post_reply(ARENA_BASE, b"x"),
    ):
        with pytest.raises(DmaFault, match="no host is connected"):
            call()


def test_what_was_told_in_many_packets_is_taken_in_at_once(halves):
    host, device = halves
    for number in range(4):
        host.post(host.alloc())
        host.release(0x100000 + 4 * number)
    assert not device.drain()
    assert (device.posted_inbound(), device.idle_outbound()) == (4, 4)
    most = 2 * PACKET // 12 + 2
    for _ in range(most):
        host._tell(Word.POWER_CYCLE)
    assert device.drain(), "more than one look takes"
    while device.drain():
        pass
    assert device.take_power_cycle()


def test_a_packet_that_is_too_large_is_noticed_behind_good_ones(halves):
    host, device = halves
    if not isinstance(host._channel, SocketChannel):
        return  # a ring does not take it
    host.post(host.alloc())
    host._channel._end.send(bytes(PACKET + 1))
    assert not device.drain()
    assert device.posted_inbound() == 1
    for _ in range(2):
        with pytest.raises(PeerGone, match="more than"):
            device.drain()


def test_something_said_where_nothing_is_to_be_said(halves):
    host, device = halves
    if isinstance(host._channel, SocketChannel):
        return  # there everything is said
    host._channel._end.send(b"?")
    for _ in range(2):
        with pytest.raises(PeerGone):
            device._channel.check()


def test_a_spin_that_finds_something(halves):
    host, device = halves
    host.drain()
    host._spin_s = 0.01
    assert not host.wait(0.001)
    device.starve(True)
    assert host.wait(10)


def test_ends_that_nobody_closed_go_quietly(monkeypatch):
    """Also when they are part of a circle, which the collector has to break."""
    pair = ShmPair("rings" if native_rings() else "socket", monkeypatch)
    pair.host.circle = pair
    memory = weakref.ref(pair.host._segment._map)
    for channel in (pair.host._channel, pair.device._channel):
        channel._end.close()
        for bell in (getattr(channel, "_own_bell", -1), getattr(channel, "_other_bell", -1)):
            if bell >= 0:
                os.close(bell)
    del pair, channel
    gc.collect()
    assert memory() is None
