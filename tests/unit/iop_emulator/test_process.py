# SPDX-License-Identifier: Apache-2.0
"""`emu:?run=process`: an IOP in a child process, and the queue pair between the two."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from fakes.interrupted import ends_of_interrupt
from i2o.closing import Closing
from i2o.errors import IopDead, TransportUnavailable
from i2o.frames import block_storage as bsa
from i2o.frames import executive
from i2o.frames.sgl import simple_sgl
from i2o.frames.tables import STATUS_BLOCK, IopState
from i2o.iop_emulator import process_main, process_port
from i2o.transport import EMPTY, open_port
from i2o.transport.shm.greeting import Hello, hear, say
from i2o.transport.shm.link import own_modes
from i2o.transport.shm.port import half_over
from i2o.transport.shm.rendezvous import ask

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
    assert (out, err) == ("served\n0\n", "")
    assert host.returncode in ends_of_interrupt(0)


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
    near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    outcome: list[int] = []
    thread = threading.Thread(
        target=lambda: outcome.append(process_main.main([f"emu:?{query}", str(far.detach())])),
        name="i2o-test",
    )
    thread.start()
    with near:
        near.settimeout(60)
        try:
            half = half_over(near, ask(near, own_modes()), "emu:")
            misuse: list[str] = []
            half._on_misuse = misuse.append
            half.misuse = misuse
            half.outbound = half.memory.window
            yield half
            half.close()
        finally:
            near.close()
            thread.join()
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
    near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with near:
        say(near, Hello(own_modes(), ""))
        assert process_main.main([f"emu:?disk={tmp_path}/x.img", str(far.detach())]) == 1
        assert "does not exist" in hear(near).reason


@pytest.mark.parametrize(("query", "code"), [("frames=4", 0), ("disk=/nonexistent", 1)])
def test_a_child_whose_host_is_gone_before_it_is_ready(query, code):
    near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    near.close()
    assert process_main.main([f"emu:?{query}", str(far.detach())]) == code


def test_the_descriptor_tells_of_replies_that_left_the_socket():
    with open_port("emu:?run=process&frames=8") as port:
        bring_up(port)
        assert port.fileno() == port.fileno()
        post(port)
        while not port.half.reply_pending:
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
