# SPDX-License-Identifier: Apache-2.0
"""`emu:?run=process`: an IOP in a child process, and the queue pair between the two."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import struct
import subprocess
import sys
import threading
import time
import weakref
from pathlib import Path

import pytest

from i2o.closing import Closing
from i2o.errors import DmaFault, I2OError, IopDead, LocalFrameError, TransportUnavailable
from i2o.frames import block_storage as bsa
from i2o.frames import executive
from i2o.frames.sgl import simple_sgl
from i2o.frames.tables import STATUS_BLOCK, IopState
from i2o.iop_emulator import process_main, process_port
from i2o.transport import EMPTY, open_port
from i2o.transport.arena_space import ARENA_BASE, ArenaSpace
from i2o.transport.process_unit import SHARED_SIZE, DeviceHalf, HostHalf, socket_pair

DISK = 0x010
CHECK = bsa.BSA_STATUS_CHECK.build(target_address=DISK)


def post(port, frame: bytes = CHECK) -> int:
    for _ in range(200):
        if (mfa := port.alloc()) != EMPTY:
            break
        port.wait(0.1)
    port.write(mfa, frame)
    port.post(mfa)
    return mfa


def bring_up(port, replies: int = 16) -> None:
    status = port.memory.allocate(4)
    post(
        port,
        executive.EXEC_OUTBOUND_INIT.build(outbound_msg_frame_size=32, message_size=8)
        + simple_sgl([(status.bus_address, 4)], out=False),
    )
    for _ in range(200):
        if status.view[0]:
            break
        port.wait(0.1)
    assert bytes(status.view) == b"\4\0\0\0"
    pool = port.memory.allocate(128 * replies)
    for index in range(replies):
        port.release(pool.bus_address + 128 * index)


def await_reply(port) -> bytes:
    for _ in range(200):
        if (mfa := port.reap()) != EMPTY:
            data = bytes(port.outbound(mfa, 36))
            port.release(mfa)
            return data
        port.wait(0.1)
    raise AssertionError("no reply")


def state(port) -> int:
    block = port.memory.allocate(88)
    post(port, executive.EXEC_STATUS_GET.build(reply_buffer_address_low=block.bus_address))
    for _ in range(200):
        if block.view[87]:
            break
        port.wait(0.1)
    return STATUS_BLOCK.unpack_from(block.view).iop_state


# --- a real child --------------------------------------------------------------------------------


def test_a_child_serves_a_disk(tmp_path):
    image = tmp_path / "disk.img"
    data = os.urandom(1 << 16)
    image.write_bytes(data)
    with open_port(f"emu:?run=process&frames=8&disk={image}") as port:
        assert port.memory.map(memoryview(bytes(8))) is None
        assert port.next_deadline_ns() is None
        bring_up(port)
        buffer = port.memory.allocate(1 << 16)
        sgl = simple_sgl([(buffer.bus_address, 1 << 16)], out=False)
        read = bsa.BSA_BLOCK_READ.build(
            target_address=DISK, transfer_byte_count=1 << 16, message_size=10
        )
        post(port, read + sgl)
        assert await_reply(port)[19] == 0
        assert bytes(buffer.view) == data
        buffer.free()
        post(port)
        assert select.select([port.fileno()], [], [], 10)[0]
        await_reply(port)
        port.reset()
        assert state(port) == IopState.RESET
    port.close()
    assert port.process.returncode == 0


def test_a_child_that_dies_is_noticed():
    with open_port("emu:?run=process") as port:
        bring_up(port)
        buffer = port.memory.allocate(8)
        port.process.kill()
        port.process.wait()
        with pytest.raises(IopDead, match="gone"):
            for _ in range(200):
                post(port)
                await_reply(port)
        for call in (port.alloc, port.reap, lambda: port.release(0x2000), lambda: port.wait(0)):
            with pytest.raises(IopDead):
                call()
        for call in (lambda: port.write(0x1000, CHECK), lambda: port.post(0x1000)):
            with pytest.raises(IopDead):
                call()
        port.reset()  # nobody is there to write host memory
        with pytest.raises(IopDead):
            port.memory.allocate(4)
        buffer.free()
        assert port.next_deadline_ns() is None
        assert select.select([port.fileno()], [], [], 0)[0]
        port.mask_interrupt(True)
        port.mask_interrupt(False)
    port.close()


def test_a_reset_ends_a_child_that_does_not_answer(monkeypatch):
    monkeypatch.setattr(process_port, "_STOP_S", 0.2)
    with open_port("emu:?run=process") as port:
        buffer = port.memory.allocate(8)
        port.process.send_signal(signal.SIGSTOP)
        port.reset()
        assert port.process.returncode == -signal.SIGKILL
        with pytest.raises(IopDead):
            port.alloc()
        buffer.free()
        port.reset()


def test_a_port_closes_itself():
    assert issubclass(process_port.ProcessPort, Closing)


def test_closing_never_raises_for_a_view_in_use():
    with open_port("emu:?run=process") as port:
        kept = [port.memory.allocate(8), port.memory.allocate(8)]
        in_use = memoryview(kept[0].view).cast("I")
        numbers = struct.iter_unpack("<I", kept[1].view)
        port.process.kill()
    port.close()
    assert port.process.returncode == -signal.SIGKILL
    for buffer in kept:
        buffer.free()
    assert (list(in_use), list(numbers)) == ([0, 0], [(0,), (0,)])


HOST = """
import os, signal, sys, time
from i2o.transport import open_port
with open_port("emu:?run=process") as port:
    try:
        print(port.process.pid, flush=True)
        time.sleep(60)
    except KeyboardInterrupt:
        time.sleep(0.3)  # time for the child to die of it
        port.alloc()
        print("served", flush=True)
print(port.process.returncode)
"""


@pytest.fixture
def host():
    """A process of its own with an IOP in a child, both in the terminal's foreground."""
    checkout = str(Path(__file__).resolve().parents[3])
    started = subprocess.Popen(
        [sys.executable, "-c", HOST],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, "PYTHONPATH": checkout},
    )
    try:
        yield started
    finally:
        started.kill()
        started.communicate()


def test_an_interrupt_from_the_terminal_is_for_the_host_alone(host):
    assert host.stdout.readline()
    os.killpg(host.pid, signal.SIGINT)
    out, err = host.communicate(timeout=60)
    assert (out, err, host.returncode) == ("served\n0\n", "", 0)


def test_a_child_ends_when_the_host_is_killed(host):
    child = int(host.stdout.readline())
    host.kill()
    host.wait()
    deadline = time.monotonic() + 60
    while _is_running(child):
        assert time.monotonic() < deadline, "the child outlives its host"
        time.sleep(0.01)


def _is_running(pid: int) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] not in "ZX"


def test_what_the_child_cannot_open_is_said(tmp_path):
    with pytest.raises(TransportUnavailable, match="does not exist") as caught:
        open_port(f"emu:?run=process&disk={tmp_path}/missing.img")
    assert "create=64M" in caught.value.remedy
    with pytest.raises(TransportUnavailable, match="fault plan"):
        open_port(f"emu:?run=process&faults={tmp_path}/missing.toml")


def test_a_child_that_does_not_start(monkeypatch):
    monkeypatch.setattr(process_port, "_MODULE", "i2o.no_such_module")
    with pytest.raises(TransportUnavailable, match="ended at once"):
        open_port("emu:?run=process")
    monkeypatch.setattr(process_port, "_MODULE", "asyncio.__main__")
    monkeypatch.setattr(process_port, "_START_S", 0.01)
    monkeypatch.setattr(process_port, "_STOP_S", 0.01)
    with pytest.raises(TransportUnavailable, match="did not start within"):
        open_port("emu:?run=process")


# --- the same in a thread: what a child does -----------------------------


@contextlib.contextmanager
def in_thread(query: str = "frames=4"):
    """The device half in a thread of this process; yields the host half."""
    near, far = socket_pair()
    memory_fd = os.memfd_create("test")
    os.ftruncate(memory_fd, SHARED_SIZE)
    outcome: list[int] = []
    thread = threading.Thread(
        target=lambda: outcome.append(
            process_main.main([f"emu:?{query}", str(far.detach()), str(memory_fd)])
        ),
        name="i2o-test",
    )
    thread.start()
    try:
        said = near.recv(4096)
        assert said == process_main.READY, said
        misuse: list[str] = []
        half = HostHalf(near, memory_fd, frame_count=4, frame_size=512, on_misuse=misuse.append)
        half.misuse = misuse
        half.outbound = half.memory.window
        while not half.generation:
            half.wait(5)
        yield half
        half.close()
    finally:
        near.close()
        thread.join()
        os.close(memory_fd)
    assert outcome == [0]


def test_the_loop_of_a_child(tmp_path):
    plan = tmp_path / "plan.toml"
    plan.write_text(
        "[[fault]]\non='BSA_STATUS_CHECK'\ntimes=1\naction='delay'\nms=20\n"
        "[[fault]]\non='BSA_CACHE_FLUSH'\ntimes=1\naction='starve'\nms=20\n"
    )
    with in_thread(f"frames=4&faults={plan}") as half:
        bring_up(half)
        for _ in range(3):
            post(half)
            await_reply(half)
        post(half, bsa.BSA_CACHE_FLUSH.build(target_address=DISK))
        await_reply(half)
        assert half.alloc() == EMPTY
        post(half)
        await_reply(half)
        failing = post(half, bsa.BSA_STATUS_CHECK.build(target_address=0x777))
        assert await_reply(half)[1] == 0xE0
        assert half.read_inbound(failing, 16)[4:6] == b"\x77\x17"
        half.post(failing)
        await_reply(half)
        half.power_cycle(5)
        assert state(half) == IopState.RESET
        bring_up(half)
        post(half)
        await_reply(half)
        assert not half.misuse


def test_a_static_frame_in_another_process():
    with in_thread() as port:
        bring_up(port)
        creation = executive.EXEC_STATIC_MF_CREATE.build(
            message_size=9, max_outstanding=2, static_message_frame=CHECK[:12]
        )
        post(port, creation + CHECK[12:16])
        mfa = int.from_bytes(await_reply(port)[20:24], "little")
        for _ in range(5):
            port.post(mfa)
            assert await_reply(port)[4:20] == CHECK[4:16] + bytes(4)
        post(port, executive.EXEC_STATIC_MF_RELEASE.build(static_mfa=mfa))
        assert await_reply(port)[16:20] == bytes(4)
        taken = [port.alloc() for _ in range(4)]
        assert mfa in taken
        assert EMPTY not in taken


def test_a_child_whose_disk_is_missing(tmp_path):
    near, far = socket_pair()
    with near:
        assert process_main.main([f"emu:?disk={tmp_path}/x.img", str(far.detach()), "0"]) == 1
        assert b"does not exist" in near.recv(4096)


@pytest.mark.parametrize(("query", "code"), [("frames=4", 0), ("disk=/nonexistent", 1)])
def test_a_child_whose_host_is_gone_before_it_is_ready(query, code):
    near, far = socket_pair()
    near.close()
    memory_fd = os.memfd_create("test")
    os.ftruncate(memory_fd, SHARED_SIZE)
    assert process_main.main([f"emu:?{query}", str(far.detach()), str(memory_fd)]) == code
    os.close(memory_fd)


@pytest.fixture
def halves():
    near, far = socket_pair()
    memory_fd = os.memfd_create("test")
    os.ftruncate(memory_fd, SHARED_SIZE)
    said: list[str] = []
    host = HostHalf(near, memory_fd, frame_count=4, frame_size=128, on_misuse=said.append)
    device = DeviceHalf(far, memory_fd, frame_count=4, frame_size=128, on_misuse=said.append)
    host.said = said
    yield host, device
    host.close()
    device.close()
    os.close(memory_fd)


def test_a_frame_goes_there_and_back(halves):
    host, device = halves
    mfa = host.alloc()
    host.write(mfa, CHECK)
    host.post(mfa)
    assert device.drain()
    assert (device.posted_inbound(), device.idle_inbound()) == (1, 3)
    assert device.fetch() == (mfa, CHECK)
    assert device.fetch() is None
    device.recycle(mfa)
    device.flush()
    assert [host.alloc() for _ in range(5)][3:] == [mfa, EMPTY]


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
            seen.append(host.wait(20))
        except Exception as error:
            seen.append(error)

    threads = [threading.Thread(target=wait, name=f"i2o-{number}") for number in range(4)]
    for thread in threads:
        thread.start()
    time.sleep(0.2)
    start = time.monotonic()
    device.post_reply(device.take_reply_frame(), b"answer")
    device.flush()
    for thread in threads:
        thread.join()
    assert seen == [True] * 4
    assert time.monotonic() - start < 10  # all of them, not only the one who took it in
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
    device._end.close()
    assert host.reap() == frame.bus_address
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


def test_waiting_on_a_closed_end_is_an_error(halves):
    host, _ = halves
    host._end.close()
    with pytest.raises(IopDead):
        host.wait(60)


def test_a_buffer_that_nobody_is_told_of_takes_no_room(halves):
    host, device = halves
    first = host.memory.allocate(8)
    device._end.close()
    with pytest.raises(IopDead):
        host.memory.allocate(8)
    with pytest.raises(DmaFault):
        host.memory.window(first.bus_address + 4096, 8)


def test_memory_goes_with_the_last_view_of_it(halves):
    host, _ = halves
    memory = weakref.ref(host._frames._map)
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
    host._with_host.add(mfa)
    host.post(mfa)
    device.drain()
    assert [
        word in text for word, text in zip(("word", "twice", "not hold"), host.said, strict=True)
    ] == [True] * 3
    assert len(host.said) == 3


def test_too_many_frames_are_refused(halves):
    host, _ = halves
    with pytest.raises(LocalFrameError, match="do not fit"):
        HostHalf(host._end, 0, frame_count=9999, frame_size=512, on_misuse=print)


def test_a_host_that_does_not_listen_blocks_nobody(halves):
    host, device = halves
    for _ in range(20000):
        device.recycle(0x1000)
        device.flush()
    assert device.has_outbox
    host.drain()
    while device.has_outbox:
        device.flush()
        host.drain()
    assert len(host._free) == 20004


def test_either_end_may_go(halves):
    host, device = halves
    host._end.close()
    device.recycle(0x1000)
    device.flush()
    assert not device.has_outbox
    assert not device.drain()
    device._end.close()
    assert not device.drain()
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


def test_the_descriptor_tells_of_replies_that_left_the_socket():
    with open_port("emu:?run=process&frames=8") as port:
        bring_up(port)
        assert port.fileno() == port.fileno()
        post(port)
        while not port._half.reply_pending:
            port.wait(1)
        assert port.wait(5)
        assert select.select([port.fileno()], [], [], 0)[0]
        port.mask_interrupt(True)
        port.mask_interrupt(True)
        assert not select.select([port.fileno()], [], [], 0)[0]
        port.mask_interrupt(False)
        assert select.select([port.fileno()], [], [], 0)[0]
        await_reply(port)
        assert port.reap() == EMPTY
        assert not select.select([port.fileno()], [], [], 0.05)[0]


def test_a_masked_port_can_be_watched():
    with open_port("emu:?run=process") as port:
        port.mask_interrupt(True)
        assert not select.select([port.fileno()], [], [], 0)[0]
        post(port)
        assert not select.select([port.fileno()], [], [], 0.05)[0]
        port.mask_interrupt(False)
        assert select.select([port.fileno()], [], [], 5)[0]
