# SPDX-License-Identifier: Apache-2.0
"""What several IOPs of one layer are told of one another, and when."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest

from i2o import bring_up, iop_table
from i2o.clock import SYSTEM_CLOCK, ManualClock
from i2o.errors import InvalidArgument, IopDead, OutOfFrames, RequestFailed
from i2o.frames.functions import Function
from i2o.frames.tables import IopState
from i2o.frames.utility import UTIL_LOCK
from i2o.iop_emulator.emu_port import EmuPort
from i2o.message_layer import MessageLayer
from i2o.requester import Requester
from i2o.transport.uri import Uri

DISK = 0x010


@pytest.fixture
def layer() -> Iterator[MessageLayer]:
    with MessageLayer() as opened:
        yield opened


def table(layer: MessageLayer, number: int) -> dict[int, int]:
    """Return what an IOP knows: the states of all IOPs by id."""
    settle(layer)
    executive = layer.port(number).soft_iop.executive  # type: ignore[attr-defined]
    return {entry.iop_id: entry.iop_state for entry in executive.system_table}


def settle(layer: MessageLayer) -> None:
    numbers = [n for n in layer.iop_numbers() if layer.iop_valid(n)]
    assert layer.run_until(lambda: not any(map(layer.outstanding, numbers)), 5)


UP = int(IopState.OPERATIONAL)


def test_the_ids_are_unique_and_every_iop_learns_of_every_other(layer):
    numbers = [layer.attach("emu:") for _ in range(4)]
    settle(layer)
    ids = [layer.port(number).soft_iop.executive.iop_id for number in numbers]
    assert ids == [2, 3, 4, 5]
    for number, iop_id in zip(numbers, ids, strict=True):
        known = table(layer, number)
        assert set(known) == set(ids)
        assert {state for other, state in known.items() if other != iop_id} == {UP}


def test_who_answers_at_once_has_been_told_when_attach_returns(layer):
    numbers = [layer.attach("emu:") for _ in range(3)]
    assert [layer.outstanding(number) for number in numbers] == [0, 0, 0]
    assert layer.next_deadline_ns() is None


def test_a_callback_that_raises_meanwhile_is_heard_of(layer):
    first = layer.attach("emu:")

    def fails(number, reply):
        layer.free_reply(number, reply)
        raise ZeroDivisionError

    _, (cookie,) = layer.register([fails])
    second = layer.attach("emu:", bring_up=False)
    tell = layer._tell_system_table

    def tell_and_send(*arguments):
        layer.submit(first, UTIL_LOCK.build(target_address=DISK, initiator_context=cookie))
        return tell(*arguments)

    layer._tell_system_table = tell_and_send
    with pytest.raises(ZeroDivisionError):
        layer.bring_up(second)
    assert layer.iop_valid(second)


def test_the_entries_say_what_is_known_and_when_it_changed(layer):
    first = layer.attach("emu:?frame_size=256")
    layer.attach("emu:")
    settle(layer)
    entries = layer.port(first).soft_iop.executive.system_table
    assert [entry.inbound_message_frame_size for entry in entries] == [64, 128]
    assert [entry.i2o_version for entry in entries] == [1, 1]
    changed = [entry.last_changed for entry in entries]
    assert changed[0] < changed[1]


def test_one_iop_alone_gets_no_news(layer):
    number = layer.attach("emu:")
    counters = layer.port(number).soft_iop.counters
    before = counters.requests
    layer.bring_up(number)
    again = counters.requests - before
    before = counters.requests
    layer.bring_up(number)
    assert counters.requests - before == again
    assert layer.outstanding(number) == 0


def test_traffic_goes_on_while_the_table_changes(layer):
    number = layer.attach("emu:")
    with Requester(layer, number) as requester:
        pending = [requester.start(UTIL_LOCK.build(target_address=DISK)) for _ in range(20)]
        second = layer.attach("emu:")
        pending += [requester.start(UTIL_LOCK.build(target_address=DISK)) for _ in range(20)]
        layer.detach(second)
        replies = [requester.finish(one) for one in pending]
    assert {reply.req_status for reply in replies} == {0}
    assert table(layer, number) == {2: UP}
    memory = layer.port(number).memory
    assert memory.buffer_count == 1, "the tables' memory came back"
    assert layer.counters(number).unexpected == 0


def test_an_iop_that_is_detached_and_attached_again_has_a_new_id(layer):
    numbers = [layer.attach("emu:") for _ in range(3)]
    layer.detach(numbers[1])
    assert table(layer, numbers[0]) == {2: UP, 4: UP}
    layer.attach("emu:")
    for number in (numbers[0], numbers[2]):
        assert set(table(layer, number)) == {2, 4, 5}


def test_an_iop_that_dies_is_faulted_for_the_others_until_it_is_detached(layer):
    first, second = layer.attach("emu:"), layer.attach("emu:")
    third = layer.attach("emu:?run=process")
    settle(layer)
    os.kill(layer.port(third).process.pid, signal.SIGKILL)
    assert layer.run_until(lambda: not layer.iop_valid(third), 10)
    for number in (first, second):
        assert table(layer, number)[4] == IopState.FAULTED
    layer.detach(third)
    for number in (first, second):
        assert set(table(layer, number)) == {2, 3}


def test_an_iop_that_is_found_in_another_state_is_failed_for_the_others(layer):
    first, second = layer.attach("emu:"), layer.attach("emu:")
    layer.port(second).soft_iop.power_cycle()
    layer.check(second)
    assert table(layer, first)[3] == IopState.FAILED
    layer.revive(second)
    assert table(layer, first)[3] == UP
    assert set(table(layer, second)) == {2, 3}


def test_an_iop_that_does_not_tell_its_state_is_failed_for_the_others(layer, monkeypatch):
    first, second = layer.attach("emu:"), layer.attach("emu:")

    def silent(*arguments):
        raise IopDead("no status")

    with monkeypatch.context() as patched, pytest.raises(IopDead):
        patched.setattr(bring_up, "read_status", silent)
        layer.check(second)
    assert table(layer, first)[3] == IopState.FAILED


def test_an_iop_that_does_not_come_up_leaves_no_trace(layer, tmp_path):
    number = layer.attach("emu:")
    plan = tmp_path / "plan.toml"
    plan.write_text(
        '[[fault]]\non = "EXEC_SYS_ENABLE"\naction = "status"\nreq_status = 5\ndetail = 1\n'
    )
    with pytest.raises(RequestFailed):
        layer.attach(f"emu:?faults={plan}")
    assert table(layer, number) == {2: UP}


@pytest.mark.parametrize("action", ["status", "fail", "drop"])
def test_an_iop_that_takes_no_news_stops_nobody(layer, tmp_path, action):
    plan = tmp_path / "plan.toml"
    status = "req_status = 5\ndetail = 10\n" if action == "status" else ""
    plan.write_text(f'[[fault]]\non = "EXEC_SYS_MODIFY"\naction = "{action}"\n{status}')
    first = layer.attach(f"emu:?faults={plan}")
    second = layer.attach("emu:")
    third = layer.attach("emu:")
    layer.poll()
    assert [layer.iop_valid(number) for number in (first, second, third)] == [True] * 3
    assert len(layer.port(first).soft_iop.executive.system_table) == 1
    assert len(layer.port(second).soft_iop.executive.system_table) == 3
    unit = layer.port(first).unit
    assert unit.held_by_host() == 0


def test_an_iop_that_never_answers_is_not_told_again_and_again(layer, tmp_path):
    plan = tmp_path / "plan.toml"
    plan.write_text('[[fault]]\non = "EXEC_SYS_MODIFY"\naction = "drop"\ntimes = 1\n')
    number = layer.attach(f"emu:?faults={plan}")
    for _ in range(3):
        layer.detach(layer.attach("emu:?frames=8"))
    assert layer.outstanding(number) == 1
    layer.revive(number)
    other = layer.attach("emu:?frames=8")
    assert table(layer, number) == {2: UP, layer._iops.entry(other).iop_id: UP}


def test_an_iop_that_answers_late_is_told_of_the_last_change_alone(tmp_path):
    plan = tmp_path / "plan.toml"
    plan.write_text('[[fault]]\non = "EXEC_SYS_MODIFY"\naction = "delay"\nms = 1000\ntimes = 1\n')
    with MessageLayer(clock=ManualClock()) as layer:
        number = layer.attach(f"emu:?faults={plan}")
        before = layer.counters(number).requests
        others = [layer.attach("emu:?frames=8") for _ in range(3)]
        layer.detach(others[0])
        assert layer.counters(number).requests == before + 1
        assert table(layer, number) == {2: UP, 4: UP, 5: UP}
        assert layer.counters(number).requests == before + 2


def test_an_answer_without_a_status_harms_nobody(layer):
    number = layer.attach("emu:")
    executive = layer.port(number).soft_iop.executive
    executive.dispatch[Function.EXEC_SYS_MODIFY] = lambda request: (
        b"\1\xc0\4\0" + bytes(request.frame[4:16])
    )
    layer.attach("emu:")
    settle(layer)
    assert layer.counters(number).callback_errors == 0


def test_an_interrupt_while_an_iop_is_told_does_not_keep_the_next_news_from_it(layer, monkeypatch):
    def interrupted(size):
        raise KeyboardInterrupt

    number = layer.attach("emu:")
    with monkeypatch.context() as patch:
        patch.setattr(layer.port(number).memory, "allocate", interrupted)
        with pytest.raises(KeyboardInterrupt):
            layer.attach("emu:")
    assert layer.iop_numbers() == (number,)
    other = layer.attach("emu:")
    assert table(layer, number) == {2: UP, layer._iops.entry(other).iop_id: UP}


def test_an_iop_without_a_free_frame_is_told_next_time(layer, caplog):
    number = layer.attach("emu:?frames=4")
    held = [layer.port(number).alloc() for _ in range(4)]
    second = layer.attach("emu:")
    assert "not told of the new system table" in caplog.text
    for mfa in held:
        layer._iops.entry(number).post_nop(mfa)
    layer.detach(second)
    third = layer.attach("emu:")
    assert set(table(layer, number)) == {2, 4}
    assert set(table(layer, third)) == {2, 4}


def test_an_iop_whose_death_makes_a_callback_raise_is_told_about(layer, tmp_path):
    """The news is sent from where the death is noticed, which may be any poll."""
    plan = tmp_path / "plan.toml"
    plan.write_text('[[fault]]\non = "UTIL_LOCK"\naction = "drop"\n')
    first = layer.attach("emu:")
    second = layer.attach(f"emu:?run=process&faults={plan}")
    settle(layer)
    seen = []

    def replied(number, reply):
        seen.append(number)
        layer.free_reply(number, reply)
        raise ZeroDivisionError

    _, (cookie,) = layer.register([replied])
    layer.submit(second, UTIL_LOCK.build(target_address=DISK, initiator_context=cookie))
    os.kill(layer.port(second).process.pid, signal.SIGKILL)
    with pytest.raises(ZeroDivisionError):
        layer.run_until(lambda: not layer.iop_valid(second), 10)
    assert seen == [second]
    assert layer.run_until(lambda: not layer.iop_valid(second), 10)
    assert table(layer, first)[3] == IopState.FAULTED


def test_there_are_only_so_many_ids(monkeypatch):
    monkeypatch.setattr(iop_table, "LAST_IOP_ID", 4)
    with MessageLayer() as layer:
        numbers = [layer.attach("emu:", bring_up=False) for _ in range(3)]
        port = EmuPort.from_uri(Uri.parse("emu:"), SYSTEM_CLOCK)
        with pytest.raises(OutOfFrames, match="no more IOP ids"):
            layer.attach(port)
        assert port._is_closed
        layer.detach(numbers[1])
        again = layer.attach("emu:", bring_up=False)
        assert layer._iops.entry(again).iop_id == 3


def test_closing_the_layer_tells_nobody():
    layer = MessageLayer(clock=ManualClock())
    ports = [EmuPort.from_uri(Uri.parse("emu:"), layer.clock) for _ in range(3)]
    for port in ports:
        layer.attach(port)
    settle(layer)
    told = []
    for port in ports:
        executive = port.soft_iop.executive
        executive.dispatch[Function.EXEC_SYS_MODIFY] = told.append
    layer.close()
    assert told == []


def test_detaching_an_iop_that_is_not_there_changes_nothing(layer):
    number = layer.attach("emu:")
    with pytest.raises(InvalidArgument, match="no IOP 9"):
        layer.detach(9)
    assert layer.outstanding(number) == 0
