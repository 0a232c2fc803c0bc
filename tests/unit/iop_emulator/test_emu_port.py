# SPDX-License-Identifier: Apache-2.0
"""The backend `emu:`: when the IOP runs, what wakes whom, and that everything is released."""

from __future__ import annotations

import contextlib
import os
import select
import threading

import pytest

from fakes.iop_rig import DISK, Rig
from i2o.clock import SYSTEM_CLOCK, ManualClock
from i2o.errors import DmaFault, IopDead, TransportUnavailable, UriError
from i2o.frames import block_storage as bsa
from i2o.frames import executive
from i2o.frames.sgl import simple_sgl
from i2o.frames.tables import IopState
from i2o.iop_emulator import emu_port
from i2o.iop_emulator.emu_port import EmuPort
from i2o.iop_emulator.faults import FaultPlan
from i2o.iop_emulator.options import IopOptions
from i2o.transport import EMPTY, open_port
from i2o.transport.doorbell import Doorbell
from i2o.transport.shm import port as shm_port

CHECK = bsa.BSA_STATUS_CHECK.build(target_address=DISK)


def post(port, frame: bytes = CHECK) -> None:
    mfa = port.alloc()
    assert mfa != EMPTY
    port.write(mfa, frame)
    port.post(mfa)


def bring_up(port, replies: int = 32) -> None:
    status = port.memory.allocate(4)
    post(
        port,
        executive.EXEC_OUTBOUND_INIT.build(outbound_msg_frame_size=32, message_size=8)
        + simple_sgl([(status.bus_address, 4)], out=False),
    )
    for _ in range(100):
        if status.view[0]:
            break
        assert port.wait(5)
    assert bytes(status.view) == b"\4\0\0\0"
    pool = port.memory.allocate(128 * replies)
    for index in range(replies):
        port.release(pool.bus_address + 128 * index)


def await_reply(port) -> bytes:
    for _ in range(100):
        mfa = port.reap()
        if mfa != EMPTY:
            data = bytes(port.outbound(mfa, 20))
            port.release(mfa)
            return data
        port.wait(5)
    raise AssertionError("no reply")


def readable(port) -> bool:
    return bool(select.select([port.fileno()], [], [], 0)[0])


@pytest.fixture(params=["inline", "thread"])
def port(request):
    with open_port(f"emu:?run={request.param}&frames=8") as opened:
        bring_up(opened)
        yield opened


@pytest.fixture
def inline():
    with open_port("emu:?frames=8") as opened:
        bring_up(opened)
        yield opened


# --- inline -----------------------------


def test_the_iop_never_runs_inside_post(inline):
    before = inline.soft_iop.counters.requests
    for _ in range(8):
        post(inline)
    assert inline.soft_iop.counters.requests == before
    assert inline.unit.posted_outbound() == 0
    assert inline.reap() != EMPTY
    assert inline.soft_iop.counters.requests == before + 8


def test_an_empty_alloc_lets_the_iop_work(inline):
    for _ in range(9):
        post(inline)
    assert inline.unit.posted_outbound() == 8


def test_reap_takes_what_is_there_before_it_runs_the_iop(inline):
    post(inline)
    inline.reap()
    for _ in range(2):
        post(inline)
    inline.wait(0)
    post(inline)
    before = inline.soft_iop.counters.requests
    assert inline.reap() != EMPTY
    assert inline.soft_iop.counters.requests == before


def test_wait_returns_as_soon_as_something_was_done():
    rig = Rig(faults=FaultPlan().on(0x25).delay(300))
    clock = ManualClock()
    with EmuPort.of(rig.iop, rig.unit, clock=clock) as port:
        assert port.next_deadline_ns() is None
        post(port)
        assert port.next_deadline_ns() == 0
        assert port.wait(10)  # it took the request up
        assert port.next_deadline_ns() == 300_000_000
        assert not port.wait(0.1)
        assert clock.monotonic() == pytest.approx(0.1)
        assert port.wait(10)
        assert clock.monotonic() == pytest.approx(0.3)
        assert port.reap() != EMPTY
        assert port.next_deadline_ns() is None
        assert not port.wait(2.5)
        assert clock.monotonic() == pytest.approx(2.8)
        assert not port.wait(-1)
        post(port)
        port.wait(0)
        clock.advance(0.3)
        assert port.wait(1)
        assert port.wait(1)  # a reply is there: no need to wait
        assert clock.monotonic() == pytest.approx(3.1)


def test_a_stalled_iop_says_when_it_goes_on():
    rig = Rig(faults=FaultPlan().on(0x25).times(1).stall(50))
    clock = ManualClock()
    with EmuPort.of(rig.iop, rig.unit, clock=clock) as port:
        post(port)
        post(port)
        assert port.reap() == EMPTY
        assert port.next_deadline_ns() == 50_000_000
        assert port.wait(1)
        assert clock.monotonic() == pytest.approx(0.05)
        assert port.reap() != EMPTY


def test_a_dead_iop_only_lets_time_pass():
    rig = Rig(faults=FaultPlan().on(0x25).crash())
    clock = ManualClock()
    with EmuPort.of(rig.iop, rig.unit, clock=clock) as port:
        post(port)
        assert port.wait(1)
        assert not port.wait(1)
        assert clock.monotonic() == pytest.approx(1)
        assert port.next_deadline_ns() is None


def test_a_slow_reset_by_the_clock():
    rig = Rig(options=IopOptions(reset_ms=700))
    clock = ManualClock(5_000_000_000)
    with EmuPort.of(rig.iop, rig.unit, clock=clock) as port:
        word = port.memory.allocate(4)
        post(port, executive.EXEC_IOP_RESET.build(status_word_low_address=word.bus_address))
        assert port.wait(1)
        assert bytes(word.view) == b"\1\0\0\0"
        assert port.alloc() == EMPTY
        assert port.wait(1)
        assert clock.monotonic() == pytest.approx(5.7)
        assert port.alloc() != EMPTY


def test_two_threads_do_not_run_the_iop_at_once(inline):
    with inline._lock:
        post(inline)
        assert inline.reap() == EMPTY
        assert inline.alloc() != EMPTY
    assert inline.reap() != EMPTY


# --- both ways -----------------------------


def test_round_trips(port):
    for number in range(200):
        post(port, bsa.BSA_STATUS_CHECK.build(target_address=DISK, transaction_context=number))
        assert int.from_bytes(await_reply(port)[12:16], "little") == number


def test_many_at_once(port):
    for _ in range(20):
        for _ in range(8):
            while (mfa := port.alloc()) == EMPTY:
                port.wait(5)
            port.write(mfa, CHECK)
            port.post(mfa)
        for _ in range(8):
            await_reply(port)


def test_the_descriptor_is_readable_while_replies_may_wait(port):
    assert not readable(port) or port.reap() == EMPTY
    post(port)
    assert select.select([port.fileno()], [], [], 5)[0]
    await_reply(port)
    while port.reap() != EMPTY:
        pass
    assert not readable(port)


def test_the_descriptor_of_a_port_with_work_is_readable(inline):
    post(inline)
    assert readable(inline)
    assert inline.reap() != EMPTY
    assert readable(inline)
    assert inline.reap() == EMPTY
    assert not readable(inline)


def test_replies_that_are_left_keep_it_readable(inline):
    inline.fileno()
    for _ in range(3):
        post(inline)
    assert inline.wait(1)
    assert inline.reap() != EMPTY
    assert readable(inline)


def test_masked_interrupts_do_not_ring(inline):
    inline.fileno()
    inline.reap()
    inline.mask_interrupt(True)
    post(inline)
    assert readable(inline)  # the IOP has to run
    assert inline.reap() != EMPTY
    assert inline.reap() == EMPTY
    assert not readable(inline)
    post(inline)
    inline.wait(1)
    inline._silence()
    inline._doorbell.silence()
    inline.mask_interrupt(False)
    assert readable(inline)


def test_a_masked_port_tells_who_waits_and_not_the_descriptor():
    with open_port("emu:?run=thread") as port:
        bring_up(port)
        port.fileno()
        port.mask_interrupt(True)
        post(port)
        while not port.unit.reply_pending:
            assert port.wait(5)
        port._thread.stop()  # it has said what it had to say
        assert port._progress.wait(0)
        assert not readable(port)
        port.mask_interrupt(False)
        assert readable(port)
        port.mask_interrupt(True)
        assert not readable(port)


def test_a_port_that_is_masked_before_it_is_watched(inline):
    post(inline)
    inline.wait(5)
    inline.mask_interrupt(True)
    assert inline.unit.reply_pending
    assert not readable(inline)
    post(inline)
    assert readable(inline), "the IOP has to run"


def test_preserved_frames_can_be_read(port):
    frame = bsa.BSA_STATUS_CHECK.build(target_address=0x777, transaction_context=5)
    post(port, frame)
    reply = await_reply(port)
    assert reply[1] == 0xE0
    assert port.read_inbound(port.unit._with_host.copy().pop(), 16) == frame


def test_reset_leaves_a_fresh_iop(port):
    for _ in range(3):
        post(port)
    port.reset()
    assert port.soft_iop.state == IopState.RESET
    assert port.unit.idle_inbound() == 8
    bring_up(port)
    post(port)
    await_reply(port)


def test_closing_twice_and_working_after_it(tmp_path):
    image = tmp_path / "disk.img"
    image.write_bytes(bytes(4096))
    for run in ("inline", "thread"):
        port = open_port(f"emu:?disk={image}&run={run}")
        port.fileno()
        port.close()
        port.close()
        post(port)
        assert port.reap() == EMPTY
        with pytest.raises(IopDead, match="is closed: open it again"):
            port.wait(5)
    assert not [t for t in threading.enumerate() if t.name.startswith("i2o-")]


@pytest.mark.parametrize("is_asked_before", [True, False])
@pytest.mark.parametrize("run", ["inline", "thread", "process"])
@pytest.mark.parametrize("is_controlled", [True, False])
def test_a_closed_port_has_no_descriptor(tmp_path, run, is_controlled, is_asked_before):
    control = f"&control={tmp_path}/control" if is_controlled else ""
    before = set(os.listdir("/proc/self/fd"))
    port = open_port(f"emu:?run={run}{control}")
    if is_asked_before:
        assert port.fileno() >= 0
    port.close()
    assert port.fileno() == -1
    assert set(os.listdir("/proc/self/fd")) == before


def test_an_interrupt_while_it_closes_leaves_nothing_open(tmp_path, monkeypatch):
    uri = f"emu:?run=thread&disk={tmp_path}/a.img,create=4K"
    port = open_port(uri)
    bell = port._thread._doorbell
    ring = bell.ring

    def interrupted():
        ring()
        raise KeyboardInterrupt

    monkeypatch.setattr(bell, "ring", interrupted)
    with pytest.raises(KeyboardInterrupt):
        port.close()
    assert not [t for t in threading.enumerate() if t.name.startswith("i2o-")]
    assert port.fileno() == -1
    open_port(uri).close()  # the image is not locked any more


def test_an_interrupt_while_it_opens_leaves_nothing_open(tmp_path, monkeypatch):
    uri = f"emu:?run=thread&disk={tmp_path}/a.img,create=4K&control={tmp_path}/control"
    before = set(os.listdir("/proc/self/fd"))
    start = threading.Thread.start

    def interrupted(thread):
        start(thread)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", interrupted)
        with pytest.raises(KeyboardInterrupt):
            open_port(uri)
    assert not [t for t in threading.enumerate() if t.name.startswith("i2o-")]
    assert set(os.listdir("/proc/self/fd")) == before
    open_port(uri).close()


def test_a_port_says_what_it_is():
    with open_port("emu:?frame_size=256") as port:
        assert (port.name, port.inbound_size) == ("emu:?frame_size=256", 256)
        with pytest.raises(DmaFault):
            port.outbound(0x100, 20)


def test_what_cannot_be_opened(tmp_path):
    with pytest.raises(UriError):
        open_port("emu:?nonsense=1")
    with pytest.raises(TransportUnavailable, match="does not exist"):
        open_port(f"emu:?disk={tmp_path}/missing.img")
    with pytest.raises(UriError, match="cannot be read"):
        open_port(f"emu:?faults={tmp_path}/missing.toml")


# --- threads -----------------------------


def test_a_thread_serves_timers():
    rig = Rig(faults=FaultPlan().on(0x25).delay(5))
    with EmuPort(rig.iop, rig.unit, is_threaded=True) as port:
        assert port.next_deadline_ns() is None
        post(port)
        await_reply(port)


def test_a_thread_goes_on_when_reply_frames_come_back():
    with open_port("emu:?run=thread&frames=64") as port:
        bring_up(port, replies=1)
        for _ in range(20):
            post(port)
        for _ in range(20):
            await_reply(port)


def test_a_thread_may_close_the_port():
    port = open_port("emu:?run=thread")
    done = threading.Event()
    inner = port._thread._on_progress

    def close() -> None:
        inner()
        port.close()
        done.set()

    port._thread._on_progress = close
    post(port)
    assert done.wait(5)
    port.close()


def test_waiting_for_a_thread_that_does_nothing():
    with open_port("emu:?run=thread") as port:
        port.wait(0.2)
        started = SYSTEM_CLOCK.monotonic()
        assert not port.wait(0.05)
        assert SYSTEM_CLOCK.monotonic() - started >= 0.045


def test_doorbells():
    bell = Doorbell()
    bell.silence()
    assert not bell.wait(0)
    bell.ring()
    bell.ring()
    assert bell.wait(None)
    assert not bell.wait(-1)
    descriptor = bell.fileno()
    bell.close()
    bell.close()
    bell.ring()
    bell.silence()
    with pytest.raises(OSError, match="Bad file"):
        os.fstat(descriptor)


@pytest.mark.parametrize("run", ["inline", "process"])
def test_two_threads_that_ask_first_get_the_same_descriptor(run, monkeypatch):
    meeting = threading.Barrier(2)

    class Slow(Doorbell):
        def __init__(self) -> None:
            with contextlib.suppress(threading.BrokenBarrierError):
                meeting.wait(0.05)  # for a second one that is made meanwhile
            super().__init__()

    with open_port(f"emu:?run={run}") as port:
        monkeypatch.setattr(emu_port if run == "inline" else shm_port, "Doorbell", Slow)
        asked: list[int] = []
        askers = [
            threading.Thread(target=lambda: asked.append(port.fileno()), name=f"i2o-{n}")
            for n in range(2)
        ]
        for asker in askers:
            asker.start()
        for asker in askers:
            asker.join()
        assert meeting.broken
        assert set(asked) == {port.fileno()}


def test_a_wait_too_short_for_the_clock_ends():
    clock = ManualClock()
    port = open_port("emu:", clock=clock)
    before = clock.monotonic_ns()
    assert not port.wait(1e-16)
    assert clock.monotonic_ns() == before + 1
    port.close()
