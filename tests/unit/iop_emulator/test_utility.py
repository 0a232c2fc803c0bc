# SPDX-License-Identifier: Apache-2.0
"""Utility messages, which every TID answers: claims, events, aborts, locks."""

from __future__ import annotations

import pytest

from fakes.iop_rig import DISK, Rig
from i2o.frames import block_storage as bsa
from i2o.frames import executive, utility
from i2o.frames.functions import Function
from i2o.frames.utility import GenericEvent
from i2o.iop_emulator.block_store import MemoryDisk
from i2o.iop_emulator.ddm.base import MAX_USERS
from i2o.iop_emulator.faults import FaultPlan
from i2o.iop_emulator.options import IopOptions

PLAIN = (0, 0)
TIDS = pytest.mark.parametrize("tid", [0, 8, DISK])


def claim(kind: int = 1, tid: int = DISK, **fields: int) -> bytes:
    return utility.UTIL_CLAIM.build(target_address=tid, claim_type=kind, **fields)


def unclaim(kind: int = 1, tid: int = DISK, **fields: int) -> bytes:
    return utility.UTIL_CLAIM_RELEASE.build(target_address=tid, claim_type=kind, **fields)


def register(mask: int, tid: int = DISK, **fields: int) -> bytes:
    return utility.UTIL_EVENT_REGISTER.build(target_address=tid, event_mask=mask, **fields)


RESET = bsa.BSA_DEVICE_RESET.build(target_address=DISK)


@TIDS
def test_a_device_has_one_primary_user(tid):
    rig = Rig()
    device = rig.iop.lct.devices[tid]
    assert device.user_tid == 0xFFF
    assert rig.call(claim(tid=tid)).status == PLAIN
    assert device.user_tid == 1
    assert rig.call(claim(tid=tid)).status == (5, 0x1B)
    assert "already" in next(iter(rig.complaints))
    assert rig.call(unclaim(tid=tid)).status == PLAIN
    assert device.user_tid == 0xFFF
    assert rig.call(unclaim(tid=tid)).status == (5, 0x12)
    assert rig.call(claim(tid=tid, claim_flags=0x38)).status == PLAIN


def test_other_users_are_counted_and_bounded():
    rig = Rig()
    device = rig.iop.lct.devices[DISK]
    for number in range(MAX_USERS):
        assert rig.call(claim(2 + number % 3)).status == PLAIN
    assert device.user_tid == 0xFFF
    assert device.device_flags == 2
    assert rig.call(claim(4)).status == (5, 6)
    assert rig.call(unclaim(1)).status == (5, 0x12)
    assert rig.call(unclaim(3)).status == PLAIN


def test_a_conditional_release_waits_for_what_is_going_on():
    rig = Rig(faults=(plan := FaultPlan()))
    plan.on(Function.BSA_STATUS_CHECK).delay(10)
    rig.call(claim())
    rig.post(bsa.BSA_STATUS_CHECK.build(target_address=DISK))
    assert rig.call(unclaim(release_flags=1)).status == (5, 0x1B)
    rig.advance(10)
    assert [reply.data[7] for reply in rig.replies()] == [Function.BSA_STATUS_CHECK]
    assert rig.call(unclaim(release_flags=1)).status == PLAIN


def test_an_event_is_a_reply_to_its_registration():
    rig = Rig()
    rig.post(register(GenericEvent.DEVICE_RESET, initiator_context=7, transaction_context=9))
    assert rig.replies() == []
    rig.post(RESET)
    event, done = rig.replies()
    assert event.data[7] == Function.UTIL_EVENT_REGISTER
    assert event.words[1:5] == (0x13001010, 7, 9, GenericEvent.DEVICE_RESET)
    assert event.flags == 0xC0
    assert len(event.data) == 24
    assert done.status == PLAIN
    rig.post(RESET)
    assert len(rig.replies()) == 2  # a registration stays


def test_a_second_registration_replaces_the_first_and_says_so():
    rig = Rig()
    rig.post(register(0xFFFFFFFF, transaction_context=1))
    assert rig.replies() == []
    rig.post(register(GenericEvent.LOCK_RELEASE, transaction_context=2))
    (modified,) = rig.replies()
    assert modified.words[3:] == (2, GenericEvent.EVENT_MASK_MODIFIED, GenericEvent.LOCK_RELEASE)
    assert len(rig.call(RESET).data) == 20  # not wanted any more
    rig.post(register(0, transaction_context=3))
    (modified,) = rig.replies()
    assert modified.words[3:] == (3, GenericEvent.EVENT_MASK_MODIFIED, 0)
    assert len(rig.iop.events) == 0


def test_only_events_that_exist_are_registered():
    rig = Rig()
    rig.post(register(0xFFFFFFFF))
    rig.run()
    device = rig.iop.lct.devices[DISK]
    assert rig.iop.events.mask(DISK, 1) == device.event_capabilities
    assert rig.iop.events.mask(8, 1) == 0


def test_events_are_lost_when_replies_are_stuck():
    rig = Rig(replies=1, options=IopOptions(backlog=1))
    rig.post(register(0xFFFFFFFF, tid=0))
    for _ in range(3):
        rig.iop.bay.add(MemoryDisk(1 << 20))
    rig.run()
    for _ in range(3):
        rig.iop.bay.add(MemoryDisk(1 << 20))
    assert rig.iop.counters.dropped == 1
    assert len(rig.replies()) == 1


def test_an_acknowledgement_is_repeated():
    rig = Rig()
    frame = utility.UTIL_EVENT_ACK.build(target_address=DISK, event_indicator=1, event_data=0xABCD)
    assert rig.call(frame).words[4:] == (1, 0xABCD)


def delayed(count: int = 3) -> Rig:
    rig = Rig(faults=(plan := FaultPlan()))
    plan.on(Function.BSA_STATUS_CHECK).delay(100)
    plan.on(Function.BSA_CACHE_FLUSH).delay(50)
    for number in range(count):
        rig.post(bsa.BSA_STATUS_CHECK.build(target_address=DISK, transaction_context=number))
    rig.post(bsa.BSA_CACHE_FLUSH.build(target_address=DISK, transaction_context=1))
    assert rig.replies() == []
    return rig


@pytest.mark.parametrize(
    ("kind", "aborted"),
    [
        (0, [(0x25, 1)]),
        (1, [(0x25, 0), (0x25, 1), (0x25, 2)]),
        (2, [(0x37, 1), (0x25, 1)]),
        (3, [(0x37, 1), (0x25, 0), (0x25, 1), (0x25, 2)]),
        (4, [(0x25, 1)]),
        (7, [(0x37, 1), (0x25, 0), (0x25, 1), (0x25, 2)]),
    ],
)
def test_abort_takes_back_what_is_not_answered(kind, aborted):
    rig = delayed()
    rig.post(
        utility.UTIL_ABORT.build(
            target_address=DISK,
            abort_type=kind,
            function_to_abort=0x25,
            transaction_context_to_abort=1,
            transaction_context=99,
        )
    )
    *taken, count = rig.replies()
    assert [(reply.data[7], reply.words[3]) for reply in taken] == aborted
    assert {reply.status for reply in taken} == {(2, 0)}
    assert count.words[3:] == (99, len(aborted))
    rig.advance(200)
    assert len(rig.replies()) == 4 - len(aborted)


def test_abort_of_nothing_counts_nothing():
    assert Rig().call(utility.UTIL_ABORT.build(target_address=DISK)).words[4:] == (0,)


def test_abort_of_a_held_notify_and_of_other_devices():
    rig = Rig()
    table = rig.buffer(64)
    rig.post(
        executive.EXEC_LCT_NOTIFY.build(last_reported_change_indicator=9)
        + (0xD0000040).to_bytes(4, "little")
        + table.bus_address.to_bytes(4, "little")
    )
    assert rig.call(utility.UTIL_ABORT.build(target_address=DISK, abort_type=3)).words[4:] == (0,)
    rig.post(utility.UTIL_ABORT.build(abort_type=3))
    taken, count = rig.replies()
    assert (taken.data[7], count.words[4]) == (0xA2, 1)


def test_device_reset_takes_everything_back():
    rig = delayed()
    rig.post(RESET)
    replies = rig.replies()
    assert [reply.data[7] for reply in replies] == [0x37, 0x25, 0x25, 0x25, 0x27]
    rig.advance(200)
    assert rig.replies() == []


@TIDS
def test_locks_and_reservations(tid):
    rig = Rig()

    def send(layout) -> tuple[int, int]:
        return rig.call(layout.build(target_address=tid)).status

    device = rig.iop.lct.devices[tid]
    assert send(utility.UTIL_LOCK) == PLAIN
    assert send(utility.UTIL_LOCK) == PLAIN
    assert send(utility.UTIL_LOCK_RELEASE) == PLAIN
    assert device.lock_holder is None
    assert send(utility.UTIL_LOCK_RELEASE) == PLAIN
    device.lock_holder = device.reserve_holder = 5  # another initiator
    assert send(utility.UTIL_LOCK) == (5, 0x0B)
    assert send(utility.UTIL_LOCK_RELEASE) == PLAIN
    assert send(utility.UTIL_DEVICE_RESERVE) == (5, 0x1C)
    assert send(utility.UTIL_DEVICE_RELEASE) == PLAIN
    assert (device.lock_holder, device.reserve_holder) == (5, 5)
    device.reserve_holder = None
    assert send(utility.UTIL_DEVICE_RESERVE) == PLAIN
    assert device.reserve_holder == 1
    assert send(utility.UTIL_DEVICE_RELEASE) == PLAIN
    assert device.reserve_holder is None


def test_releasing_a_lock_is_an_event():
    rig = Rig()
    rig.post(register(GenericEvent.LOCK_RELEASE))
    rig.call(utility.UTIL_LOCK.build(target_address=DISK))
    rig.post(utility.UTIL_LOCK_RELEASE.build(target_address=DISK))
    event, done = rig.replies()
    assert event.words[4:] == (GenericEvent.LOCK_RELEASE, 0)
    assert done.status == PLAIN


@TIDS
def test_fault_notices_are_taken(tid):
    rig = Rig()
    frame = utility.UTIL_REPLY_FAULT_NOTIFY.build(target_address=tid, failure_code=0x83)
    assert rig.call(frame).status == PLAIN
    assert "0x83" in list(rig.complaints)[-1]
