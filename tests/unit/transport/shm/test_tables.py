# SPDX-License-Identifier: Apache-2.0
"""The compiled frame tables against those in Python, and what only the compiled ones have."""

from __future__ import annotations

import gc
import random
import select
import struct
import sys
import threading
import time
import weakref
from array import array
from collections.abc import Callable

import pytest

from fakes.shm_pair import ShmPair, needs_rings
from i2o.errors import DmaFault, IopDead, LocalFrameError
from i2o.transport import native_build
from i2o.transport.device_unit import PostedFrame
from i2o.transport.port import EMPTY
from i2o.transport.shm import native_device_table, native_fast_path, native_host_table, tables
from i2o.transport.shm import native_tables as native_tables_source
from i2o.transport.shm.host_half import HostHalf
from i2o.transport.shm.port import ShmPort
from i2o.transport.shm.records import PACKET, RECORD, Word
from i2o.transport.shm.tables import PlainDeviceTable, PlainHostTable, native_tables
from i2o.transport.shm.unit import ShmUnit

pytestmark = needs_rings
FRAMES = range(0x1000, 0x1000 + 6 * 128, 128)
ODD = (0, 0x0FFF, 0x1001, 0x1000 + 6 * 128, 0xFFFFFFFF)
MEMORY = 0x2000
ARENA_AT = 0x1800


def unused(*arguments: object) -> None:
    raise AssertionError(f"not called here: {arguments}")


def host_tables() -> tuple[object, PlainHostTable]:
    native = native_tables()
    assert native is not None
    memory = memoryview(bytearray(MEMORY))
    made = native.HostTable(
        FRAMES.start, FRAMES.step, len(FRAMES), memory, memory[ARENA_AT:], ARENA_AT,
        (None, 0, 0), -1, 0, (unused,) * 6,
    )  # fmt: skip
    return made, PlainHostTable(FRAMES)


def device_tables() -> tuple[object, PlainDeviceTable]:
    native = native_tables()
    assert native is not None
    made = native.DeviceTable(
        FRAMES.start, FRAMES.step, len(FRAMES), 8, PACKET, 5, PostedFrame, unused, unused, unused
    )
    plain = PlainDeviceTable(FRAMES, 8, unused, unused, unused)  # type: ignore[arg-type]
    memory = memoryview(bytearray(random.Random(1).randbytes(MEMORY)))
    for table in (made, plain):
        table.attach(memory, ARENA_AT, ARENA_AT, None, 0, 0)
    return made, plain


def some_frame(rng: random.Random) -> int:
    return rng.choice(ODD) if rng.random() < 0.1 else rng.choice(FRAMES)


def some_records(rng: random.Random, words: tuple[Word, ...], generation: int) -> bytes:
    """Mostly what is usual; now and then a number that means nothing, and a piece of a record."""
    records = b""
    for _ in range(rng.randrange(5)):
        word = rng.choice(words) if rng.random() < 0.95 else rng.randrange(1 << 32)
        more = generation if rng.random() < 0.9 else rng.randrange(1 << 32)
        records += RECORD.pack(word, some_frame(rng), more)
    return records + bytes(rng.randrange(12) if rng.random() < 0.1 else 0)


@pytest.mark.parametrize("seed", range(20))
def test_both_kinds_of_host_tables_do_the_same(seed: int) -> None:
    rng = random.Random(seed)
    pair = host_tables()
    for table in pair:
        table.refill(1)
    plain = pair[1]
    for _ in range(3000):
        frame, number = some_frame(rng), rng.randrange(1 << 32)
        name, *arguments = rng.choice(
            [
                ("sift", some_records(rng, (Word.FREE, Word.REPLY), 0)),
                ("take_free",),
                ("take_free",),
                ("take_reply",),
                ("put_reply", number),
                ("put_free", frame),
                ("let_go", frame),
                ("let_go", frame),
                ("holds", frame),
                ("hold", frame),
                ("fix", frame),
                *([("refill", number), ("drop_replies",)] if rng.random() < 0.05 else []),
            ]
        )
        given = [getattr(table, name)(*arguments) for table in pair]
        assert given[0] == given[1], (name, arguments)
        for attribute in ("free_count", "reply_count", "generation"):
            assert getattr(pair[0], attribute) == getattr(plain, attribute), (name, arguments)


@pytest.mark.parametrize("seed", range(20))
def test_both_kinds_of_device_tables_do_the_same(seed: int) -> None:
    rng = random.Random(seed)
    pair = device_tables()
    for table in pair:
        table.refill(1)
    plain = pair[1]
    for _ in range(3000):
        frame = some_frame(rng)
        reply = rng.choice((EMPTY, rng.randrange(40) * 4, rng.randrange(1 << 32)))
        words = Word.POST, Word.RELEASE
        name, *arguments = rng.choice(
            [
                ("sift", some_records(rng, words, plain.generation)),
                ("sift", RECORD.pack(Word.RELEASE, rng.randrange(40) * 4, 0)),
                ("fetch",),
                ("recycle", frame if frame in FRAMES else FRAMES[0]),
                ("take_reply_frame",),
                ("has_reply_frame", reply),
                ("tell", 99, reply, 7),
                ("give", frame),
                ("packet",),
                ("told", rng.randrange(30)),
                ("add_post", frame),
                ("drop_posts", frame),
                *([("refill", reply), ("drop_reply_frames",)] if rng.random() < 0.05 else []),
            ]
        )
        given = [getattr(table, name)(*arguments) for table in pair]
        assert given[0] == given[1], (name, arguments)
        for attribute in ("posted_inbound", "idle_inbound", "idle_outbound"):
            assert getattr(pair[0], attribute)() == getattr(plain, attribute)(), (name, arguments)
        assert pair[0].outbox_size == plain.outbox_size
        assert pair[0].generation == plain.generation
    for table in pair:
        table.detach()
        table.detach()
        assert (table.outbox_size, table.idle_inbound(), table.fetch()) == (0, 0, None)
        assert table.idle_outbound() == table.posted_inbound() == 0
        assert not any(table.has_reply_frame(4 * number) for number in range(40))


def test_many_reply_frames_are_found_and_forgotten() -> None:
    """A set that grows, with gaps that others were put behind."""
    rng = random.Random(3)
    native = native_tables()
    assert native is not None
    table = native.DeviceTable(
        FRAMES.start, 128, 6, 1 << 16, PACKET, 0, PostedFrame, unused, unused, unused
    )
    known: list[int] = []
    for _ in range(30_000):
        if known and rng.random() < 0.4:
            assert table.take_reply_frame() == known.pop(0)
        number = rng.randrange(0, 1 << 32, 1 << rng.randrange(16))
        wanted = 0 if number in known or number == EMPTY else 12
        assert table.sift(RECORD.pack(Word.RELEASE, number, 0)) == wanted
        if wanted:
            known.append(number)
        if len(known) > 300:
            for _ in range(250):
                assert table.take_reply_frame() == known.pop(0)
        asked = rng.choice(known)
        assert table.has_reply_frame(asked)
        assert not table.has_reply_frame(asked + 1 & 0xFFFFFFFF) or asked + 1 in known


def test_what_a_table_cannot_be() -> None:
    native = native_tables()
    assert native is not None
    small = memoryview(bytearray(0x1000))
    with pytest.raises(ValueError, match="too small"):
        native.HostTable(0x1000, 128, 6, small, small, 0, (None, 0, 0), -1, 0, (unused,) * 6)
    with pytest.raises(BufferError):
        native.HostTable(0, 128, 6, bytes(0x1000), b"", 0, (None, 0, 0), -1, 0, (unused,) * 6)
    table = native.DeviceTable(0, 128, 6, 8, PACKET, 0, PostedFrame, unused, unused, unused)
    with pytest.raises(TypeError, match="a tuple"):
        native.DeviceTable(0, 128, 6, 8, PACKET, 0, list, unused, unused, unused)
    with pytest.raises(ValueError, match="behind"):
        table.attach(small, 0x1001, 0, None, 0, 0)
    table.attach(small, 0, 0, None, 0, 0)
    with pytest.raises(ValueError, match="already"):
        table.attach(small, 0, 0, None, 0, 0)
    for wrong in (-1, 1 << 32, "x"):
        with pytest.raises(ValueError, match="32 bits"):
            table.refill(wrong)
        with pytest.raises(ValueError, match="32 bits"):
            table.recycle(wrong)
        table.give(wrong)
        assert not table.add_post(wrong)
        assert not table.has_reply_frame(wrong)
        assert table.drop_posts(wrong) == 0
    for call in (table.post_reply, native.HostTable):
        with pytest.raises(TypeError):
            call(1)
    assert table.idle_inbound() == 0


@pytest.fixture
def pair(monkeypatch):
    """Whose host does what `on_entry` says when compiled code calls one of its long ways."""

    def hooked(way: Callable[[HostHalf], int]) -> Callable[[HostHalf], int]:
        def entered(half: HostHalf) -> int:
            half.__dict__.pop("on_entry", lambda: None)()
            return way(half)

        return entered

    for name in ("_alloc", "_reap"):
        monkeypatch.setattr(HostHalf, name, hooked(getattr(HostHalf, name)))
    with ShmPair("rings", monkeypatch) as made:
        yield made


def test_replies_are_not_written_where_a_buffer_was(pair) -> None:
    """Although the last one was, and nobody searches for it each time."""
    host, device = pair.host, pair.device
    first, second = host.memory.allocate(4096), host.memory.allocate(64)
    device.drain()
    device.post_reply(first.bus_address, b"a" * 20)
    for bad in (first.bus_address + 4080, second.bus_address + 48, 0, 0xFFFFFFF8):
        with pytest.raises(DmaFault):
            device.post_reply(bad, b"b" * 20)
    device.post_reply(first.bus_address + 4076, b"c" * 20)
    first.free()
    device.drain()
    with pytest.raises(DmaFault):
        device.post_reply(first.bus_address, b"d" * 20)
    with pytest.raises(DmaFault):
        host.outbound(first.bus_address, 20)
    device.post_reply(second.bus_address, b"e" * 64)
    assert bytes(host.outbound(second.bus_address, 64)) == b"e" * 64
    assert bytes(host.outbound(second.bus_address + 60, 4)) == b"e" * 4
    for address, size in ((second.bus_address, 65), (second.bus_address + 64, 1), (0, 4)):
        with pytest.raises(DmaFault):
            host.outbound(address, size)


@pytest.mark.parametrize("wrong", [-1, 1 << 32, 0x1001, None])
def test_numbers_that_are_no_frame(pair, wrong: object) -> None:
    host = pair.host
    if isinstance(wrong, int):
        with pytest.raises(LocalFrameError, match="allocate it first"):
            host.write(wrong, b"x")
        host.post(wrong)
        assert "does not hold it" in host.said[-1]
    else:
        with pytest.raises((TypeError, LocalFrameError)):
            host.write(wrong, b"x")
        with pytest.raises(TypeError):
            host.release(wrong)
    with pytest.raises(TypeError):
        host.write(host.alloc(), 3)
    with pytest.raises(TypeError):
        host.write(host.alloc())


def test_a_frame_is_posted_once(pair) -> None:
    host, device = pair.host, pair.device
    mfa = host.alloc()
    host.post(mfa)
    host.post(mfa)
    assert "does not hold it" in host.said[-1]
    assert len(host.said) == 1
    device.drain()
    assert device.posted_inbound() == 1
    assert len(host.said) == 1


def test_a_frame_may_come_from_any_buffer(pair) -> None:
    host, device = pair.host, pair.device
    for frame in (b"\1\0\4\0" + b"a" * 12, bytearray(b"\1\0\4\0" + b"b" * 12)):
        for message in (frame, memoryview(frame)):
            mfa = host.alloc()
            host.write(mfa, message)
            assert host.read_inbound(mfa, 16) == frame
            host.post(mfa)
            device.drain()
            assert device.fetch() == (mfa, frame)
            assert isinstance(device.fetch(), type(None))


def test_after_a_close_nothing_is_touched(pair) -> None:
    host, device = pair.host, pair.device
    mfa, buffer = host.alloc(), host.memory.allocate(64)
    assert bytes(host.outbound(buffer.bus_address, 4)) == bytes(4)
    host.close()
    for call in (
        host.alloc,
        host.reap,
        lambda: host.post(mfa),
        lambda: host.release(0x100000),
    ):
        with pytest.raises(IopDead):
            call()
    with pytest.raises((IopDead, ValueError)):
        host.write(mfa, bytes(16))
    with pytest.raises((DmaFault, ValueError)):
        host.outbound(buffer.bus_address, 4)
    device.disconnect()
    assert device.fetch() is None
    assert device.take_reply_frame() == EMPTY
    assert device.flush()


def test_nothing_is_written_for_who_is_gone(pair) -> None:
    host = pair.host
    mfa = host.alloc()
    host.write(mfa, b"x" * 16)
    host.let_go()
    with pytest.raises(IopDead, match="let go"):
        host.write(mfa, b"y" * 16)
    assert host.read_inbound(mfa, 16) == b"x" * 16


def test_usual_records_may_be_too_many_for_one_look(pair) -> None:
    host, device = pair.host, pair.device
    count = 3 * PACKET // 12
    for number in range(count):
        host.release(4 * number)
    looks = 1
    while device.drain():
        looks += 1
    assert looks > 1
    assert device.idle_outbound() == count


def test_who_does_not_listen_is_not_heard(pair) -> None:
    host, device = pair.host, pair.device
    while device.flush():
        device.recycle(0x1000)
    while device._table.outbox_size <= 16 * PACKET:
        device.recycle(0x1000)
    host.release(0x100000)
    assert not device.drain()
    assert device.idle_outbound() == 0
    while not device.flush():
        host._channel.take(12)
    assert not device.drain()
    assert device.idle_outbound() == 1


def test_what_is_told_between_usual_records_is_in_order(pair) -> None:
    """Replies before a DROP are gone, and those behind it are there."""
    host, device = pair.host, pair.device
    host.drain()
    for word, value in (
        (Word.REPLY, 4), (Word.REPLY, 8), (Word.DROP, 0), (Word.REPLY, 12), (Word.STARVE, 1),
        (Word.REPLY, 16),
    ):  # fmt: skip
        device._tell(word, value)
    device.flush()
    assert [host.reap() for _ in range(3)] == [12, 16, EMPTY]
    assert host.alloc() == EMPTY


def test_several_threads_take_what_one_of_them_took_in(pair) -> None:
    """Each reply once, although unusual records come in between."""
    host, device = pair.host, pair.device
    host.drain()
    count = 60_000
    taken: list[list[int]] = [[] for _ in range(4)]
    is_over = threading.Event()

    def take(into: list[int]) -> None:
        while True:
            was_over = is_over.is_set()
            mfa = host.reap()
            if mfa != EMPTY:
                into.append(mfa)
            elif was_over:
                return

    threads = [threading.Thread(target=take, args=(into,), name="i2o-taker") for into in taken]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        for thread in threads:
            thread.start()
        for number in range(count):
            device._tell(Word.REPLY, 4 * number)
            if number % 7 == 0:
                device._tell(Word.STARVE, number % 2)
            while not device.flush():
                pass
        is_over.set()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert sorted(mfa for into in taken for mfa in into) == [4 * number for number in range(count)]
    for into in taken:
        assert into == sorted(into)


def test_more_replies_than_there_can_be(pair, monkeypatch) -> None:
    host, device = pair.host, pair.device
    host.drain()
    reply = struct.pack("<III", Word.REPLY, 4, 0) * (PACKET // 12)
    with pytest.raises(IopDead, match="more replies"):
        for _ in range(tables.MOST_REPLIES // (PACKET // 12) + 2):
            assert device._channel.send(reply)
            host.drain()
            host._look()


def test_a_table_goes_with_who_made_it(monkeypatch) -> None:
    pair = ShmPair("rings", monkeypatch)
    pair.host.circle = pair.host
    gone = weakref.ref(pair.host), weakref.ref(pair.device)
    pair.__exit__(None, None, None)
    del pair
    gc.collect()
    assert [one() for one in gone] == [None, None]


def test_the_second_module_is_put_together_of_its_parts() -> None:
    parts = native_host_table.SOURCE, native_device_table.SOURCE, native_fast_path.SOURCE
    whole = native_build._second_module()  # a build script cannot import the parts
    assert whole == "".join((native_tables_source.COMMON, *parts, native_tables_source.MODULE))


def test_an_older_extension_has_no_tables(monkeypatch) -> None:
    def has_none(name: str, path: str | None) -> None:
        raise ImportError(name)

    monkeypatch.setattr(tables, "second_module", has_none)
    assert native_tables() is None
    monkeypatch.setattr(tables, "native_rings", lambda: None)
    assert native_tables() is None


def test_rings_without_compiled_tables(monkeypatch) -> None:
    """As with an older extension."""
    for module in ("host_half", "unit"):
        monkeypatch.setattr(f"i2o.transport.shm.{module}.native_tables", lambda: None)
    with ShmPair("rings", monkeypatch) as pair:
        assert isinstance(pair.device, ShmUnit)
        mfa = pair.host.alloc()
        pair.host.write(mfa, bytes(16))
        pair.host.post(mfa)
        assert not pair.device.drain()
        assert pair.device.fetch() == (mfa, bytes(16))


def test_the_next_host_has_other_buffers() -> None:
    table, _ = device_tables()
    table.set_near(ARENA_AT, ARENA_AT + 64)
    table.post_reply(ARENA_AT, b"x" * 64)
    assert table.outbox_size == 12
    table.detach()
    table.attach(memoryview(bytearray(MEMORY)), ARENA_AT, ARENA_AT, None, 0, 0)
    with pytest.raises(AssertionError, match="not called here"):
        table.post_reply(ARENA_AT, b"x" * 64)
    for start, end in ((0, 64), (ARENA_AT, ARENA_AT + MEMORY), (ARENA_AT + 64, ARENA_AT)):
        table.set_near(start, end)
        with pytest.raises(AssertionError, match="not called here"):
            table.post_reply(ARENA_AT, b"x")


@pytest.fixture
def answered(pair):
    """A host that has one frame, to which the device has just told that it keeps it, with a reply.

    That is what a FAIL is: one record that Python has to take, and a usual one behind it.
    """
    host, device = pair.host, pair.device
    frame = host.memory.allocate(128)
    host.release(frame.bus_address)
    mfa = host.alloc()
    while host.drain():
        pass
    device.drain()
    pair.reply_at, pair.fail = frame.bus_address, lambda: fail(device, mfa)
    return pair


def fail(device: ShmUnit, mfa: int) -> None:
    device.preserve(mfa)
    device.post_reply(device.take_reply_frame(), b"failed")
    device.flush()


@pytest.mark.parametrize("way", ["reap", "alloc"])
def test_a_rest_is_taken_although_another_thread_has_just_taken_one(answered, way: str) -> None:
    """Between a look in compiled code and the long way another thread may end its own."""
    host, device = answered.host, answered.device
    has_taken, has_looked, has_ended = (threading.Event() for _ in range(3))
    take_in, found = host._take_in, []

    def slow_take_in():
        rest = take_in()
        if threading.current_thread().name == "i2o-first":
            has_taken.set()
            assert has_looked.wait(20)
        return rest

    def first() -> None:
        host.drain()
        has_ended.set()

    def second() -> None:
        host.on_entry = lambda: (has_looked.set(), has_ended.wait(20))
        found.append(getattr(host, way)())

    host._take_in = slow_take_in
    device._tell(Word.STARVE, 0)
    device.flush()
    threads = [threading.Thread(target=first, name="i2o-first")]
    threads[0].start()
    assert has_taken.wait(20)
    answered.fail()
    threads.append(threading.Thread(target=second, name="i2o-second"))
    threads[1].start()
    for thread in threads:
        thread.join()
    assert answered.reply_at in (*found, host.reap())


def interrupt() -> None:
    raise KeyboardInterrupt


def test_what_an_interrupted_call_left_is_found_by_who_waits(answered) -> None:
    host = answered.host
    port = ShmPort("shm:test", host, 128)
    poller = select.poll()
    answered.fail()
    host.on_entry = interrupt
    with pytest.raises(KeyboardInterrupt):
        host.reap()
    assert host._table.is_held
    assert port.wait(20)
    assert host.reap() == answered.reply_at
    host.release(answered.reply_at)
    answered.device.drain()
    answered.fail()
    host.on_entry = interrupt
    with pytest.raises(KeyboardInterrupt):
        host.reap()
    poller.register(port.fileno(), select.POLLIN)
    assert poller.poll(0)
    port.close()


def test_an_end_is_noticed_although_a_record_could_not_be_taken(answered, monkeypatch) -> None:
    host = answered.host
    answered.fail()
    with monkeypatch.context() as patch:
        patch.setattr(host, "_take", lambda *record: interrupt())
        with pytest.raises(KeyboardInterrupt):
            host.reap()
    assert not host._table.is_held
    answered.device._channel.close()
    host._table.trusted_until_ns = 0
    with pytest.raises(IopDead):
        host.reap()


def test_an_interrupt_costs_nothing_that_was_told_behind_it(answered, monkeypatch) -> None:
    host, take = answered.host, answered.host._take
    answered.device.starve(True)
    answered.fail()
    with monkeypatch.context() as patch:

        def once(word: int, value: int, more: int) -> None:
            patch.setattr(host, "_take", take)
            interrupt()

        patch.setattr(host, "_take", once)
        with pytest.raises(KeyboardInterrupt):
            host.reap()
    assert host.reap() == answered.reply_at
    assert not host._table.is_held


@pytest.mark.parametrize("way", ["post", "release", "reap"])
def test_that_somebody_was_there_does_not_count_for_long(pair, way: str) -> None:
    host = pair.host
    mfas = [host.alloc() for _ in range(2)]
    calls = {"post": lambda: host.post(mfas.pop()), "release": lambda: host.release(4)}
    host._table.trusted_until_ns = 0
    call = calls.get(way, host.reap)
    call()
    assert host._table.trusted_until_ns > 0
    pair.device._channel.close()
    while host._table.trusted_until_ns > time.monotonic_ns():
        pass
    with pytest.raises(IopDead):
        call()


def test_a_reply_that_another_thread_takes_in_makes_the_descriptor_readable(answered) -> None:
    host = answered.host
    port = ShmPort("shm:test", host, 128)
    poller = select.poll()
    poller.register(port.fileno(), select.POLLIN)
    assert not poller.poll(0)
    silence = host.silence

    def and_then_another_one() -> None:
        silence()
        host.silence = silence
        answered.fail()
        port.alloc()

    host.silence = and_then_another_one
    port.alloc()
    assert host.reply_pending
    assert poller.poll(0)
    port.close()


def test_a_frame_that_was_static_is_not_for_ever(pair) -> None:
    host, device = pair.host, pair.device
    mfa = host.alloc()
    host.post(mfa)
    device.drain()
    device.fetch()
    for word, value in ((Word.STATIC, 3), (Word.PRESERVE, 0), (Word.FREE, 0)):
        device._tell(word, mfa, value)
        device.flush()
        host.drain()
    assert mfa in [host.alloc() for _ in range(4)]
    host.post(mfa)
    host.post(mfa)
    assert "does not hold it" in host.said[-1]


def test_without_a_host_nobody_has_frames() -> None:
    for table in device_tables():
        table.refill(1)
        assert table.idle_inbound() == len(FRAMES)
        table.detach()
        table.refill(2)
        assert table.idle_inbound() == 0
        assert table.sift(RECORD.pack(Word.POST, FRAMES[0], 2)) == 0


def test_a_frame_has_as_many_bytes_as_its_words(pair) -> None:
    host = pair.host
    words = array("I", range(4))
    for is_slow in (False, True):
        mfa = host.alloc()
        host._table.is_slow = is_slow
        (host._write if is_slow else host.write)(mfa, memoryview(words))
        assert host.read_inbound(mfa, 16) == words.tobytes()
        with pytest.raises(LocalFrameError, match="132 bytes"):
            host._write(mfa, memoryview(array("I", range(33))))


def test_nothing_is_behind_a_buffer(pair) -> None:
    host, device = pair.host, pair.device
    buffer = host.memory.allocate(4096)
    device.drain()
    device.post_reply(buffer.bus_address, b"x")
    host.outbound(buffer.bus_address, 1)
    with pytest.raises(DmaFault):
        host.outbound(buffer.bus_address + 4096, 0)
    with pytest.raises(DmaFault):
        device.post_reply(buffer.bus_address + 4096, b"")
    host.close()
    host._table.set_near(buffer.bus_address, buffer.bus_address + 64)
    with pytest.raises((DmaFault, ValueError)):
        host.outbound(buffer.bus_address, 1)
