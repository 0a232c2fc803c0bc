# SPDX-License-Identifier: Apache-2.0
"""What the host holds when an IOP resets itself, and when it never writes what it was asked for."""

from __future__ import annotations

import contextlib

import pytest

from fakes.bare_iop import BareIop
from i2o.bring_up import Limits
from i2o.clock import ManualClock
from i2o.errors import IopDead, RequestTimeout
from i2o.frames.functions import Function
from i2o.frames.utility import UTIL_LOCK
from i2o.iop_emulator.faults import FaultPlan
from i2o.message_frames import ReplyFrame
from i2o.message_layer import MessageLayer
from i2o.transport.registry import open_port

SHORT = Limits(status_s=0.05, reset_status_s=0.05, outbound_init_s=0.05)


def soft(layer: MessageLayer, frame_source: str = "memory") -> int:
    return layer.attach("emu:?frames=4", frame_source=frame_source)  # type: ignore[arg-type]


def test_a_held_fail_is_freed_although_its_frame_went_home_by_itself():
    rig = BareIop()
    kept = []
    _, (cookie,) = rig.layer.register([lambda _, reply: kept.append(reply)])
    rig.layer.submit(rig.number, UTIL_LOCK.build(target_address=0x10, initiator_context=cookie))
    posted = rig.port.unit.fetch()
    rig.port.unit.preserve(posted.mfa)
    rig.fail(posted)
    rig.layer.poll()
    rig.port.unit.drop_replies()
    rig.port.unit.refill()
    rig.layer.free_reply(rig.number, kept[0])
    assert rig.port.unit.idle_inbound() == rig.port.unit.frame_count
    assert rig.port.unit.idle_outbound() == 1, "the reply frame is given back all the same"
    assert rig.layer.counters(rig.number).nops == 0


@pytest.mark.parametrize("is_sent", [False, True])
def test_a_real_frame_that_the_iop_took_back(is_sent):
    rig = BareIop(frame_source="fifo")
    frame = rig.layer.request_frame(rig.number)
    frame[:16] = UTIL_LOCK.build(target_address=0x10)
    rig.port.unit.refill()
    if is_sent:
        rig.layer.send(rig.number, frame)
        assert rig.fetch().data[7] == Function.UTIL_LOCK
    else:
        rig.layer.free_request(rig.number, frame)
    unit = rig.port.unit
    assert (unit.idle_inbound(), unit.held_by_host()) == (unit.frame_count, 0)
    assert rig.port.misuse == []


def test_a_real_frame_taken_from_an_iop_in_reset_goes_home_with_a_bring_up():
    with MessageLayer(clock=ManualClock()) as layer:
        number = soft(layer, "fifo")
        port = layer.port(number)
        port.soft_iop.reset()
        frame = layer.request_frame(number)
        layer.bring_up(number)
        port.wait(0)
        assert port.unit.held_by_host() == 0
        assert port.unit.idle_inbound() == port.unit.frame_count
        layer.free_request(number, frame)


@pytest.mark.parametrize(
    "function", [Function.EXEC_STATUS_GET, Function.EXEC_IOP_RESET, Function.EXEC_OUTBOUND_INIT]
)
def test_memory_that_was_never_written_is_freed_after_the_next_reset(function):
    with MessageLayer(clock=ManualClock()) as layer:
        number = soft(layer)
        port = layer.port(number)
        before = port.memory.buffer_count
        plan = FaultPlan()
        plan.on(function).times(1).drop()
        port.soft_iop.faults = plan
        with pytest.raises(IopDead):
            layer.bring_up(number, SHORT)
        assert port.memory.buffer_count >= 1
        layer.revive(number, SHORT)
        assert port.memory.buffer_count == before


def test_nothing_is_mapped_after_a_detach_from_an_iop_that_never_answered():
    clock = ManualClock()
    with MessageLayer(clock=clock) as layer:
        port = open_port("emu:", clock=clock)
        number = layer.attach(port, bring_up=False)
        port.soft_iop.crash()
        for _ in range(3):
            with pytest.raises(IopDead):
                layer.check(number, SHORT)
        assert port.memory.buffer_count == 3
        layer.detach(number)
        assert port.memory.buffer_count == 0


@pytest.mark.parametrize("action", ["drop", "fail"])
@pytest.mark.parametrize("is_raising", [False, True])
def test_revive_cycles_the_power_whatever_the_bring_up_failed_of(action, is_raising):
    """Also if a callback raises meanwhile; what it raised comes in the end."""
    layer = MessageLayer(clock=ManualClock())
    number = soft(layer)
    port = layer.port(number)

    def replied(iop: int, reply: ReplyFrame) -> None:
        layer.free_reply(iop, reply)
        if is_raising:
            raise KeyError("of the callback")

    _, (cookie,) = layer.register([replied])
    layer.submit(number, UTIL_LOCK.build(target_address=0x10, initiator_context=cookie))
    plan = FaultPlan()
    rule = plan.on("EXEC_HRT_GET").times(1)
    rule.drop() if action == "drop" else rule.fail()
    port.soft_iop.faults = plan
    with pytest.raises(KeyError) if is_raising else contextlib.nullcontext():
        layer.revive(number, Limits(request_s=0.05))
    assert layer.iop_valid(number)
    layer.close()


@pytest.mark.parametrize(
    ("act", "words"),
    [
        ("reset", "bring-up stopped at HrtGet; the IOP is RESET: revive it"),
        ("crash", "bring-up stopped at HrtGet; the IOP does not answer: revive it"),
    ],
)
def test_a_bring_up_says_where_it_stopped_and_how_the_iop_is(act, words):
    with MessageLayer(clock=ManualClock()) as layer:
        number = soft(layer)
        port = layer.port(number)
        plan = FaultPlan()
        rule = plan.on("EXEC_HRT_GET").times(1)
        rule.reset() if act == "reset" else rule.crash()
        port.soft_iop.faults = plan
        with pytest.raises(RequestTimeout, match=words) as caught:
            layer.bring_up(number, Limits(status_s=0.05, request_s=0.05))
        assert str(caught.value).count("Errno") == 1


def test_a_failed_attach_says_how_to_keep_the_iop():
    clock = ManualClock()
    port = open_port("emu:", clock=clock)
    port.soft_iop.crash()
    with pytest.raises(IopDead, match="it is detached: attach it without bring_up first"):
        MessageLayer(clock=clock).attach(port, limits=SHORT)


def test_a_port_closed_behind_the_back_is_a_dead_iop():
    with MessageLayer(clock=ManualClock()) as layer:
        number = soft(layer)
        ended = []

        def replied(iop: int, reply: ReplyFrame) -> None:
            ended.append(reply.failed)
            layer.free_reply(iop, reply)

        _, (cookie,) = layer.register([replied])
        layer.submit(number, UTIL_LOCK.build(target_address=0x10, initiator_context=cookie))
        layer.port(number).close()
        assert layer.run_until(lambda: bool(ended), 5)
        assert ended == [True]
        assert not layer.iop_valid(number)
        with pytest.raises(IopDead, match="is dead: detach it"):
            layer.revive(number)


def test_frames_of_a_process_that_is_gone_are_freed_without_an_error():
    with MessageLayer() as layer:
        number = layer.attach("emu:?run=process&frames=4", frame_source="fifo")
        kept = []
        _, (cookie,) = layer.register([lambda _, reply: kept.append(reply)])
        for tid in (0x10, 0x999):  # the second one fails: its frame is preserved
            message = UTIL_LOCK.build(target_address=tid, initiator_context=cookie)
            layer.submit(number, message)
        assert layer.run_until(lambda: len(kept) == 2, 10)
        frame = layer.request_frame(number)
        process = layer.port(number).process
        process.kill()
        process.wait()
        for reply in kept:
            layer.free_reply(number, reply)
        layer.free_request(number, frame)
        layer.poll()
        assert not layer.iop_valid(number)
