# SPDX-License-Identifier: Apache-2.0
"""Changes of the device table, with a software IOP and with firmware that answers oddly."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace

import pytest

import i2o
from fakes.opened_iop import everything_is_home, serve, soft
from fakes.scripted_iop import Script, ScriptedPort
from i2o.clock import ManualClock
from i2o.dispatcher import Dispatcher
from i2o.errors import InvalidArgument, IopDead, RequestFailed
from i2o.frames.block_storage import BSA_STATUS_CHECK
from i2o.frames.executive import ExecutiveEvent
from i2o.frames.functions import DeviceClass, Function
from i2o.frames.header import DetailedStatus, ReqStatus
from i2o.frames.tables import LCT_ENTRY, LCT_HEADER, LCT_HEADER_SIZE, IopState
from i2o.iop import Iop
from i2o.iop_emulator.block_store import MemoryDisk
from i2o.iop_emulator.faults import FaultPlan
from i2o.lct_watch import PATIENCE, PAUSE_S, LctChange, LctWatch, difference
from i2o.message_layer import MessageLayer
from i2o.resources import Lct, LctEntry, parse_lct
from i2o.transport.bus_space import BusSpace

DISK = 0x010
NOTIFY = int(Function.EXEC_LCT_NOTIFY)


@pytest.fixture
def iop() -> Iterator[Iop]:
    with i2o.open("emu:", clock=ManualClock()) as opened:
        yield opened


def parked(iop: Iop) -> int:
    """LctNotifys that wait at the IOP."""
    serve(iop)
    return sum(request.function == NOTIFY for request in soft(iop).scheduler.parked)


def tids(entries: tuple[LctEntry, ...]) -> list[int]:
    return [entry.tid for entry in entries]


def take(watch: LctWatch) -> LctChange:
    change = watch.take(1)
    assert change is not None
    return change


class Waiter(threading.Thread):
    """A thread that waits for a change, for ever."""

    def __init__(self, watch: LctWatch) -> None:
        super().__init__(name="i2o-waiter", daemon=True)
        self._watch, self._taken = watch, []
        self.start()

    def run(self) -> None:
        self._taken.append(self._watch.take())

    def result(self) -> LctChange | None:
        self.join(20)
        return self._taken[0]


# --- the difference -----------------------------------------------------------------------------


def table(*entries: LctEntry, indicator: int = 1) -> Lct:
    return Lct(change_indicator=indicator, boot_device_tid=0, iop_flags=0, devices=entries)


def entry(tid: int, **values: object) -> LctEntry:
    data = LCT_ENTRY.build(local_tid=tid, identity_tag=b"12345678", event_capabilities=1)
    header = LCT_HEADER.build(table_size=(LCT_HEADER_SIZE + len(data)) // 4)[:LCT_HEADER_SIZE]
    return replace(parse_lct(header + data).devices[0], **values)


def test_what_a_difference_is():
    one, two, three = entry(1), entry(2), entry(3)
    assert difference(table(one), table(one, indicator=9)) is None
    change = difference(table(one, two), table(replace(two, device_flags=1), three))
    assert change == LctChange(
        added=(three,),
        removed=(one,),
        changed=(replace(two, device_flags=1),),
        lct=table(replace(two, device_flags=1), three),
    )


def test_a_claim_is_no_difference():
    assert difference(table(entry(1, user_tid=0xFFF)), table(entry(1, user_tid=1))) is None


@pytest.mark.parametrize(
    "values", [{"identity_tag": b"another "}, {"class_id": 0x51}, {"sub_class": 7}]
)
def test_another_device_with_the_same_tid_is_one_gone_and_one_new(values):
    before, now = entry(1), entry(1, **values)
    change = difference(table(before), table(now))
    assert change is not None
    assert (change.removed, change.added, change.changed) == ((before,), (now,), ())


# --- a software IOP -----------------------------------------------------------------------------


def test_devices_that_come_and_go(iop):
    with iop.lct_changes() as watch:
        assert watch.take(0) is None
        assert parked(iop) == 1
        tid = soft(iop).bay.add(MemoryDisk(1 << 20)).tid
        change = take(watch)
        assert tids(change.added) == [tid]
        assert (change.removed, change.changed) == ((), ())
        assert change.lct is iop.lct
        assert change.added[0].class_id == DeviceClass.RANDOM_BLOCK_STORAGE
        assert watch.take(0) is None
        soft(iop).bay.remove(tid)
        assert tids(take(watch).removed) == [tid]
        assert watch.useless == 0
    assert parked(iop) == 0
    everything_is_home(iop)


def test_a_device_that_changes(iop):
    with iop.lct_changes() as watch:
        watch.take(0)
        disk = soft(iop).lct.devices[DISK]
        disk.change_indicator = soft(iop).lct.changed()
        soft(iop).executive.tell_lct_change(ExecutiveEvent.MODIFIED_LCT, disk)
        assert tids(take(watch).changed) == [DISK]
    assert parked(iop) == 0
    everything_is_home(iop)


def test_changes_before_the_first_look_are_not_missed(iop):
    with iop.lct_changes() as watch:
        tid = soft(iop).bay.add(MemoryDisk(1 << 20)).tid
        assert tids(take(watch).added) == [tid]


def test_a_table_that_somebody_else_reads(iop):
    with iop.lct_changes() as watch:
        watch.take(0)
        tid = soft(iop).bay.add(MemoryDisk(1 << 20)).tid
        iop.refresh()
        assert tids(take(watch).added) == [tid]
        assert watch.take(0) is None
    assert parked(iop) == 0
    everything_is_home(iop)


def test_iterating_waits_as_long_as_told(iop):
    clock = iop.layer.clock
    with iop.lct_changes(timeout_s=3) as watch:
        tid = soft(iop).bay.add(MemoryDisk(1 << 20)).tid
        changes = iter(watch)
        assert tids(next(changes).added) == [tid]
        start = clock.monotonic()
        assert list(changes) == []
        assert clock.monotonic() - start == pytest.approx(3)
        assert watch.take(-1) is None
        assert clock.monotonic() - start == pytest.approx(3)
    assert list(watch) == []
    assert watch.ended == "the watch was closed"
    watch.close()


def test_waiting_sends_one_notify(iop):
    with iop.lct_changes() as watch:
        for _ in range(5):
            assert watch.take(0.5) is None
        assert parked(iop) == 1


def test_requests_go_on_meanwhile(iop):
    with iop.lct_changes() as watch, iop.block(DISK) as disk:
        watch.take(0)
        tid = soft(iop).bay.add(MemoryDisk(1 << 20)).tid
        disk.write(0, b"x" * 512)
        assert disk.read(0, 512) == b"x" * 512
        assert tids(take(watch).added) == [tid]


def test_every_buffer_is_given_back(iop):
    memory = iop.memory
    assert isinstance(memory, BusSpace)
    with iop.lct_changes() as watch:
        watch.take(0)
        before = memory.buffer_count
        for _ in range(3):
            soft(iop).bay.add(MemoryDisk(1 << 20))
            take(watch)
            watch.take(0)
        assert memory.buffer_count == before
    assert memory.buffer_count == before - 1


# --- the end ------------------------------------------------------------------------------------


def test_a_detached_iop_ends_the_watch(iop):
    watch = iop.lct_changes()
    watch.take(0)
    iop.close()
    assert watch.take() is None
    assert watch.ended == f"IOP {iop.number} is detached"
    watch.close()
    assert len(iop.layer._cookies._registrations) == 0


def test_a_dead_iop_ends_the_watch():
    with i2o.open("emu:?run=process") as iop, iop.lct_changes() as watch:
        watch.take(0)
        iop.layer.port(iop.number).process.kill()
        assert watch.take() is None
        assert watch.ended == f"IOP {iop.number} is dead"


def test_a_reset_is_no_end(iop):
    with iop.lct_changes() as watch:
        watch.take(0)
        tid = soft(iop).bay.add(MemoryDisk(1 << 20)).tid
        iop.revive()
        assert tids(take(watch).added) == [tid]
        assert watch.take(0) is None
        assert parked(iop) == 1
        soft(iop).bay.remove(tid)
        assert tids(take(watch).removed) == [tid]


def test_an_iop_that_lost_its_state_is_waited_for(iop):
    with iop.lct_changes() as watch:
        watch.take(0)
        soft(iop).reset()
        iop.layer.check(iop.number)
        assert watch.take(2) is None
        assert watch.ended == ""
        iop.revive()
        assert watch.take(0) is None
        assert parked(iop) == 1


def test_an_iop_that_fails_is_waited_for(iop):
    with iop.lct_changes() as watch:
        watch.take(0)
        soft(iop).fail()
        assert watch.take(2) is None
        assert (watch.ended, iop.layer.iop_valid(iop.number)) == ("", False)
        tid = soft(iop).bay.add(MemoryDisk(1 << 20)).tid
        iop.revive()
        assert tids(take(watch).added) == [tid]
    everything_is_home(iop)


def test_a_notify_that_is_not_delivered_although_the_iop_is_up_is_an_error(iop):
    plan = FaultPlan()
    plan.on(NOTIFY).times(1).fail()
    soft(iop).faults = plan
    with iop.lct_changes() as watch:
        with pytest.raises(RequestFailed, match=r"LctNotify: FAIL frame: CONGESTION"):
            watch.take(1)
        assert watch.take(0) is None
    everything_is_home(iop)


def test_a_reset_in_between_is_no_error(iop, monkeypatch):
    """The IOP is online when it is looked at, and reset when it is asked."""
    with iop.lct_changes() as watch:
        entry = iop.layer._iops.entry(iop.number)
        entry.refusing = "is being reset"
        answers = iter([True, False])
        monkeypatch.setattr(iop.layer, "iop_valid", lambda number: next(answers, True))
        assert watch.take(0) is None
        with pytest.raises(InvalidArgument, match="being reset"):
            watch.take(0)  # now it claims to be online
        entry.refusing = ""
        assert watch.take(0) is None
        assert parked(iop) == 1


@pytest.mark.parametrize("faulty", [False, True])
def test_an_abort_that_is_lost_leaves_the_notify_alone(iop, faulty):
    watch = iop.lct_changes()
    watch.take(0)
    plan = FaultPlan()
    plan.on(Function.UTIL_ABORT).drop()
    soft(iop).faults = plan if faulty else None
    clock = iop.layer.clock
    start = clock.monotonic()
    watch.close()
    assert parked(iop) == faulty
    assert (clock.monotonic() - start >= 1) == faulty
    in_flight = watch._requester.in_flight
    soft(iop).faults = None
    assert in_flight == 2 * faulty  # the notify, and its abort
    soft(iop).bay.add(MemoryDisk(1 << 20))
    assert parked(iop) == 0  # its answer came, and its buffer was given back
    assert watch.take(0) is None


def test_closing_in_a_callback(iop):
    watch = iop.lct_changes()
    watch.take(0)
    base, (cookie,) = iop.layer.register(
        [lambda number, reply: (iop.layer.free_reply(number, reply), watch.close())]
    )
    iop.layer.submit(
        iop.number, BSA_STATUS_CHECK.build(target_address=DISK, initiator_context=cookie)
    )
    iop.layer.run_until(lambda: bool(watch.ended), 1)
    iop.layer.deregister(base)
    assert parked(iop) == 0
    everything_is_home(iop)


def test_closing_while_another_thread_waits():
    with i2o.open("emu:?run=thread") as iop, Dispatcher(iop.layer):
        watch = iop.lct_changes()
        waiter = Waiter(watch)
        iop.layer.run_until(lambda: watch._pending is not None, 10)
        watch.close()
        assert waiter.result() is None


def test_changes_with_a_dispatcher():
    with i2o.open("emu:?run=thread") as iop, Dispatcher(iop.layer), iop.lct_changes() as watch:
        waiter = Waiter(watch)
        port = iop.layer.port(iop.number)
        with port._lock:
            tid = port.soft_iop.bay.add(MemoryDisk(1 << 20)).tid
        change = waiter.result()
        assert change is not None
        assert tids(change.added) == [tid]


def test_a_table_that_another_thread_reads_ends_the_wait():
    """Although the answer to the LctNotify is lost."""
    with i2o.open("emu:?run=thread") as iop, Dispatcher(iop.layer), iop.lct_changes() as watch:
        port, plan = iop.layer.port(iop.number), FaultPlan()
        plan.on(NOTIFY).times(1).drop()
        with port._lock:
            port.soft_iop.faults = plan
        waiter = Waiter(watch)
        assert iop.layer.run_until(lambda: port.soft_iop.counters.faults > 0, 10)
        with port._lock:
            port.soft_iop.faults = None
            tid = port.soft_iop.bay.add(MemoryDisk(1 << 20)).tid
        iop.refresh()
        change = waiter.result()
        assert change is not None
        assert tids(change.added) == [tid]


def test_an_iop_that_dies_while_it_is_waited_for():
    with i2o.open("emu:?run=process") as iop, iop.lct_changes() as watch:
        iop.layer._iops.entry(iop.number).online = False  # as if it had lost its state
        iop.layer.port(iop.number).process.kill()
        assert Waiter(watch).result() is None
        assert watch.ended == f"IOP {iop.number} is dead"


# --- firmware that goes wrong -------------------------------------------------------------------


def test_a_refusal_is_an_error(iop):
    plan = FaultPlan()
    plan.on(NOTIFY).times(1).reply(
        ReqStatus.ERROR_NO_DATA_TRANSFER, DetailedStatus.UNSUPPORTED_FUNCTION
    )
    soft(iop).faults = plan
    with iop.lct_changes() as watch:
        with pytest.raises(RequestFailed, match=r"LctNotify: .*UNSUPPORTED_FUNCTION"):
            watch.take(1)
        soft(iop).faults = None
        assert watch.take(0) is None
    assert parked(iop) == 0
    everything_is_home(iop)


def test_an_aborted_notify_is_asked_again_and_not_too_often(iop):
    clock = iop.layer.clock
    plan = FaultPlan()
    plan.on(NOTIFY).reply(ReqStatus.ABORT_NO_DATA_TRANSFER, 0)
    with iop.lct_changes() as watch:
        soft(iop).faults = plan
        sent = iop.layer.counters(iop.number).requests
        start = clock.monotonic()
        assert watch.take(10) is None
        assert clock.monotonic() - start == pytest.approx(10)
        asked = iop.layer.counters(iop.number).requests - sent
        assert PATIENCE <= asked <= PATIENCE + 11
        soft(iop).faults = None
        tid = soft(iop).bay.add(MemoryDisk(1 << 20)).tid
        assert tids(take(watch).added) == [tid]


def test_an_iop_that_does_not_answer_is_an_error(iop):
    with iop.lct_changes() as watch:
        watch.take(0)
        soft(iop).lct.changed()
        soft(iop).executive.lct_changed()
        soft(iop).crash()
        with pytest.raises(IopDead, match="no status block"):
            watch.take()
        soft(iop).power_cycle()


class Eager:
    """An IOP whose firmware answers each LctNotify at once."""

    def __init__(self) -> None:
        self.script = Script()
        self.port = ScriptedPort(self.script)
        self.layer = MessageLayer(clock=self.port.clock)
        self.iop = i2o.open(self.port, layer=self.layer)

    def notifies(self) -> int:
        """Count what was asked since the last time, without the reading of tables."""
        count = self.port.seen.count(NOTIFY) - self.port.seen.count(Function.EXEC_HRT_GET)
        self.port.seen.clear()
        return count


@pytest.fixture
def eager() -> Iterator[Eager]:
    made = Eager()
    made.port.seen.clear()
    yield made
    made.layer.close()


def lct(indicator: int, *tids: int) -> bytes:
    entries = [LCT_ENTRY.build(local_tid=tid, table_entry_size=9) for tid in tids]
    size = (LCT_HEADER_SIZE + LCT_ENTRY.size * len(entries)) // 4
    header = LCT_HEADER.build(table_size=size, current_change_indicator=indicator)
    return header[:LCT_HEADER_SIZE] + b"".join(entries)


@pytest.mark.parametrize("counts_on", [False, True])
def test_firmware_that_answers_at_once_is_asked_less_often(eager, counts_on, monkeypatch):
    """Whether its change indicator goes up or not."""
    indicators = iter(range(1, 1000))
    clock = eager.port.clock
    serve = eager.port._table

    def give(data, sgl, table):
        if counts_on and data[7] == NOTIFY:
            table = lct(next(indicators))
        serve(data, sgl, table)

    monkeypatch.setattr(eager.port, "_table", give)
    with eager.iop.lct_changes() as watch:
        start = clock.monotonic()
        assert watch.take(5) is None
        assert clock.monotonic() - start == pytest.approx(5, abs=0.1)
        assert PATIENCE <= eager.notifies() <= PATIENCE + 5 / PAUSE_S + 1
        assert watch.useless >= PATIENCE


def test_a_change_ends_the_pauses(eager):
    with eager.iop.lct_changes() as watch:
        assert watch.take(3) is None
        eager.script.lct = lct(7, 0x33)
        assert tids(take(watch).added) == [0x33]
        assert watch.useless == 0
        eager.port.seen.clear()
        assert watch.take(0) is None
        assert eager.notifies() <= PATIENCE


def test_a_pause_ends_with_a_table_that_somebody_else_reads(eager):
    with eager.iop.lct_changes() as watch:
        assert watch.take(0.5) is None
        assert watch.useless == PATIENCE
        start = eager.port.clock.monotonic()
        eager.script.lct = lct(7, 0x33)
        eager.iop.refresh()
        assert tids(take(watch).added) == [0x33]
        assert eager.port.clock.monotonic() == pytest.approx(start, abs=0.01)


def test_each_notify_asks_for_the_next_indicator(eager, monkeypatch):
    asked = []
    answer = eager.port._answer

    def note(function, data):
        if function == NOTIFY:
            asked.append(int.from_bytes(data[20:24], "little"))
        answer(function, data)

    monkeypatch.setattr(eager.port, "_answer", note)
    eager.script.lct = lct(0xFFFFFFFE)
    eager.iop.refresh()
    asked.clear()
    with eager.iop.lct_changes() as watch:
        eager.script.lct = lct(0xFFFFFFFF)
        watch.take(0)
    assert asked[:3] == [0xFFFFFFFF, 0, 0]
    # after the last indicator comes 0, which is answered at once


def test_a_table_that_contradicts_itself_is_an_error(eager):
    with eager.iop.lct_changes() as watch:
        eager.script.lct = lct(7, 0x33)[:12]
        with pytest.raises(i2o.errors.I2OError, match="LCT"):
            watch.take(1)


def test_firmware_without_abort_keeps_the_notify(eager):
    eager.port.script.silent = frozenset({Function.EXEC_LCT_NOTIFY})
    watch = eager.iop.lct_changes()
    assert watch.take(0.5) is None
    watch.close()  # a scripted IOP answers no UtilAbort
    assert watch.ended == "the watch was closed"
    watch.close()
    assert eager.port.state == IopState.OPERATIONAL
