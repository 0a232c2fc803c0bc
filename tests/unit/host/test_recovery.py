# SPDX-License-Identifier: Apache-2.0
"""The deadline ladder: what is done about a late request, step by step, and what is told of it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import i2o
from i2o.clock import ManualClock
from i2o.errors import InvalidArgument, IopDead, RequestFailed, RequestTimeout
from i2o.frames.block_storage import BSA_STATUS_CHECK
from i2o.frames.functions import Function
from i2o.frames.tables import IopState
from i2o.frames.utility import UTIL_EVENT_ACK
from i2o.iop import Iop
from i2o.iop_emulator.faults import FaultPlan
from i2o.iop_emulator.soft_iop import SoftIop
from i2o.recovery import Recovery

DISK = 0x010
LADDER = Recovery()
CONTENT = bytes(range(256)) * 4096


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "disk.img"
    path.write_bytes(CONTENT)
    return path


Opened = tuple[Iop, SoftIop, ManualClock]


@pytest.fixture
def opened(image: Path) -> Iterator[Callable[..., Opened]]:
    """Open an IOP on a clock that stands still, with a fault plan and a recovery."""
    iops = []

    def open_it(plan: FaultPlan | None = None, recovery: Recovery | None = LADDER) -> Opened:
        clock = ManualClock()
        iop = i2o.open(f"emu:?disk={image}", clock=clock, timeout_s=10, recovery=recovery)
        iops.append(iop)
        software = iop.layer.port(iop.number).soft_iop
        software.faults = plan
        return iop, software, clock

    yield open_it
    for iop in iops:
        iop.close()


def names(error: RequestTimeout) -> list[str]:
    return [step.name for step in error.steps]


def nothing_is_left(iop: Iop, software: SoftIop) -> None:
    """Check that every request has ended and every frame is home."""
    assert iop.requester.in_flight == 0
    assert iop.layer.outstanding(iop.number) == 0
    assert software.unit.idle_inbound() == software.unit.frame_count


def test_a_late_request_is_aborted(opened):
    plan = FaultPlan()
    plan.on(Function.BSA_BLOCK_READ).delay(60_000)
    iop, software, clock = opened(plan)
    disk = iop.block()
    start = clock.monotonic()
    with pytest.raises(RequestTimeout, match="abort: it ended the request") as caught:
        disk.read(0, 4096)
    assert names(caught.value) == ["status", "abort"]
    assert "status: the IOP is OPERATIONAL" in str(caught.value)
    assert clock.monotonic() - start < 11
    nothing_is_left(iop, software)
    software.faults = None
    assert disk.read(0, 4096) == CONTENT[:4096]


def test_a_request_that_cannot_be_aborted_is_ended_by_a_device_reset(opened):
    plan = FaultPlan()
    plan.on(Function.BSA_BLOCK_READ).delay(60_000)
    plan.on(Function.UTIL_ABORT).drop()
    iop, software, clock = opened(plan)
    disk = iop.block()
    start = clock.monotonic()
    with pytest.raises(RequestTimeout) as caught:
        disk.read(0, 4096)
    assert [(step.name, step.outcome) for step in caught.value.steps] == [
        ("status", "the IOP is OPERATIONAL"),
        ("abort", "no answer within 5 s"),
        ("device reset", "it ended the request"),
    ]
    assert caught.value.steps[1].seconds == pytest.approx(5, abs=0.2)
    assert clock.monotonic() - start == pytest.approx(15, abs=0.5)
    assert iop.requester.in_flight == 1  # the abort that never came back
    software.faults = None
    assert disk.read(0, 4096) == CONTENT[:4096]


def test_a_request_that_nothing_ends_costs_a_reset_of_the_iop(opened):
    plan = FaultPlan()
    plan.on(Function.BSA_BLOCK_READ).drop()
    iop, software, _ = opened(plan)
    disk = iop.block()
    with pytest.raises(RequestTimeout, match="IOP reset: reset, and brought up again") as caught:
        disk.read(0, 3 * disk.max_transfer)
    assert names(caught.value) == ["status", "abort", "device reset", "IOP reset"]
    nothing_is_left(iop, software)
    software.faults = None
    assert hashlib.sha256(disk.read(0, disk.size)).digest() == hashlib.sha256(CONTENT).digest()
    assert [claim.tid for claim in software.lct.devices[DISK].claims] == [1]


def test_an_iop_that_reset_itself_is_noticed_and_brought_up_again(opened):
    iop, software, clock = opened()
    disk = iop.block()
    software.reset()
    start = clock.monotonic()
    with pytest.raises(RequestTimeout, match="status: the IOP is RESET") as caught:
        disk.read(0, 512)
    assert names(caught.value) == ["status", "IOP reset"]
    assert clock.monotonic() - start < 11
    assert iop.layer.counters(iop.number).lost == 1
    assert iop.layer.iop_valid(iop.number)
    nothing_is_left(iop, software)
    assert disk.read(512, 512) == CONTENT[512:1024]
    disk.write(0, b"claimed again")


def test_an_iop_that_crashed_is_reset_by_the_transport(opened):
    iop, software, _ = opened()
    disk = iop.block()
    software.crash()
    with pytest.raises(RequestTimeout) as caught:
        disk.read(0, 512)
    assert names(caught.value) == ["status", "IOP reset"]
    assert "no status block" in caught.value.steps[0].outcome
    assert disk.read(0, 512) == CONTENT[:512]


def test_an_iop_in_failed_answers_and_is_revived_by_hand(opened):
    iop, software, _ = opened()
    disk = iop.block()
    counters = iop.layer.counters(iop.number)
    assert iop.layer.check(iop.number).state == IopState.OPERATIONAL
    assert (iop.layer.iop_valid(iop.number), counters.lost) == (True, 0)
    software.fail()
    with pytest.raises(RequestFailed, match="STATE_ERROR"):
        disk.read(0, 512)
    for _ in range(2):  # once lost, an IOP is not lost again
        assert iop.layer.check(iop.number).state == IopState.FAILED
        assert (iop.layer.iop_valid(iop.number), counters.lost) == (False, 1)
    iop.revive()
    assert iop.layer.iop_valid(iop.number)
    assert disk.read(0, 512) == CONTENT[:512]
    nothing_is_left(iop, software)


def test_requests_of_others_end_when_the_iop_is_reset(opened):
    plan = FaultPlan()
    plan.on(Function.BSA_STATUS_CHECK).drop()
    plan.on(Function.BSA_BLOCK_READ).drop()
    iop, software, _ = opened(plan)
    ended = []
    other = iop.requester.start(
        BSA_STATUS_CHECK.build(target_address=DISK), on_reply=lambda reply: ended.append(reply)
    )
    with pytest.raises(RequestTimeout):
        iop.block().read(0, 512)
    assert other.is_done()
    assert len(ended) == 1
    assert ended[0].failed
    nothing_is_left(iop, software)


@pytest.mark.parametrize(
    ("recovery", "steps"),
    [
        (Recovery(abort_s=0, device_reset_s=0, resets_iop=False), ["status"]),
        (Recovery(device_reset_s=0, resets_iop=False), ["status", "abort"]),
        (Recovery(abort_s=0, device_reset_s=0), ["status", "IOP reset"]),
        (None, []),
    ],
)
def test_how_far_to_go(opened, recovery, steps):
    plan = FaultPlan()
    plan.on(Function.BSA_STATUS_CHECK).drop()
    iop, _, _ = opened(plan, recovery)
    with pytest.raises(RequestTimeout) as caught:
        iop.requester.call(BSA_STATUS_CHECK.build(target_address=DISK))
    assert names(caught.value) == steps
    assert iop.requester.in_flight == (0 if "IOP reset" in steps else 1)


def test_the_executive_has_no_device_reset(opened):
    plan = FaultPlan()
    plan.on(Function.UTIL_EVENT_ACK).drop()
    iop, _, _ = opened(plan)
    with pytest.raises(RequestTimeout) as caught:
        iop.requester.call(UTIL_EVENT_ACK.build())
    assert names(caught.value) == ["status", "abort", "IOP reset"]


def test_an_answer_that_comes_after_all_is_an_answer(opened):
    plan = FaultPlan()
    plan.on(Function.BSA_STATUS_CHECK).delay(10_500)
    iop, _, clock = opened(plan)

    def wait_a_little(pending):
        iop.requester.wait_for(pending, 1.0)
        return ()

    iop.requester.on_late = wait_a_little
    reply = iop.requester.call(BSA_STATUS_CHECK.build(target_address=DISK))
    assert reply.req_status == 0
    assert clock.monotonic() >= 10.5


def test_what_cannot_be_revived_says_so(opened, monkeypatch):
    plan = FaultPlan()
    plan.on(Function.BSA_STATUS_CHECK).drop()
    iop, _, _ = opened(plan)

    def refuse(number, limits=None):
        raise IopDead("the slot is empty")

    monkeypatch.setattr(iop.layer, "revive", refuse)
    with pytest.raises(RequestTimeout, match=r"IOP reset: .*the slot is empty"):
        iop.requester.call(BSA_STATUS_CHECK.build(target_address=DISK))


def test_a_device_that_somebody_took_meanwhile_is_told_of(opened, caplog):
    iop, software, _ = opened()
    iop.block()
    software.bay.remove(DISK).close()
    iop.revive()
    assert "TID 0x010 is not ours again" in caplog.text


def test_times_are_not_negative():
    with pytest.raises(InvalidArgument, match="0 or more"):
        Recovery(abort_s=-1)


def test_a_callback_cannot_look_or_revive(opened):
    iop, _, _ = opened()
    seen = []

    def replied(number, reply):
        for call in (iop.layer.check, iop.layer.revive):
            with pytest.raises(InvalidArgument, match="a callback cannot"):
                call(number)
        seen.append(reply)
        iop.layer.free_reply(number, reply)

    base, (cookie,) = iop.layer.register([replied])
    iop.layer.submit(
        iop.number, BSA_STATUS_CHECK.build(target_address=DISK, initiator_context=cookie)
    )
    assert iop.layer.run_until(lambda: bool(seen), 1)
    iop.layer.deregister(base)
