# SPDX-License-Identifier: Apache-2.0
"""What happens before a request reaches its device, and after its reply leaves it."""

from __future__ import annotations

import struct

import pytest

from fakes.iop_rig import DISK, Rig
from i2o.frames import block_storage as bsa
from i2o.frames import executive, utility
from i2o.frames.functions import UNANSWERED, Function
from i2o.frames.header import FAIL_REPLY, FAILURE_REPLY, FINAL_REPLY, FailureCode
from i2o.frames.tables import IopState
from i2o.iop_emulator.block_store import MemoryDisk
from i2o.iop_emulator.options import IopOptions

CHECK = bsa.BSA_STATUS_CHECK.build(
    target_address=DISK, initiator_context=0x11223344, transaction_context=0x55667788
)


def test_a_reply_repeats_the_header_of_its_request():
    rig = Rig()
    reply = rig.call(CHECK)
    assert reply.data == b"\x01\xc0\x05\x00" + CHECK[4:16] + bytes(4)
    assert reply.flags == FINAL_REPLY


def test_only_what_needs_no_reply_frame_is_served_without_any():
    assert {0x00, 0xA0, 0xA1, 0xBD} == UNANSWERED
    served = set()
    for function in Function:
        rig = Rig(up=False)
        frame = bytearray(CHECK)
        frame[4:8] = struct.pack("<I", function << 24 | 1 << 12)
        rig.post(bytes(frame))
        rig.run()
        if not any("before OutboundInit" in sentence for sentence in rig.complaints):
            served.add(int(function))
    assert served == UNANSWERED


def test_the_frame_is_free_again_before_the_reply_is_taken():
    rig = Rig(frames=1)
    for _ in range(3):
        rig.post(CHECK)
        rig.run()
        assert rig.unit.idle_inbound() == 1
    assert len(rig.replies()) == 3


def changed(**fields: int) -> bytes:
    return bsa.BSA_STATUS_CHECK.build(**{"target_address": DISK, **fields})


@pytest.mark.parametrize(
    ("frame", "code"),
    [
        (changed(version_offset=0x00), FailureCode.INVALID_VERSION),
        (changed(version_offset=0x02), FailureCode.INVALID_VERSION),
        (changed(version_offset=0x11), FailureCode.INVALID_OFFSET),
        (changed(version_offset=0x31), FailureCode.INVALID_OFFSET),
        (changed(msg_flags=0x80), FailureCode.INVALID_MSG_FLAGS),
        (changed(msg_flags=0x20), FailureCode.INVALID_MSG_FLAGS),
        (changed(msg_flags=0x02), FailureCode.INVALID_MSG_FLAGS),
        (changed(msg_flags=0x01), FailureCode.INVALID_MSG_FLAGS),
        (changed(msg_flags=0x04), FailureCode.INVALID_MSG_FLAGS),
        (changed(message_size=0), FailureCode.FRAME_TOO_SMALL),
        (changed(message_size=3), FailureCode.FRAME_TOO_SMALL),
        (changed(message_size=129), FailureCode.FRAME_TOO_LARGE),
        (changed(message_size=0xFFFF), FailureCode.FRAME_TOO_LARGE),
        (changed(target_address=0x123), FailureCode.INVALID_TARGET_ID),
        (changed(target_address=0x002), FailureCode.INVALID_TARGET_ID),
        (changed(initiator_address=0x000), FailureCode.INVALID_INITIATOR_ID),
        (changed(initiator_address=0x00F), FailureCode.INVALID_INITIATOR_ID),
        (executive.EXEC_CONFIG_VALIDATE.build(target_address=1), FailureCode.INVALID_TARGET_ID),
    ],
)
def test_a_frame_that_cannot_be_delivered_fails_and_is_preserved(frame, code):
    rig = Rig()
    mfa = rig.post_raw(frame)
    (reply,) = rig.replies()
    assert reply.flags == FAIL_REPLY
    told = FAILURE_REPLY.unpack_from(reply.data)
    assert (told.failure_code, told.preserved_mfa_low) == (code, mfa)
    assert (told.lowest_version, told.highest_version, told.failing_iop_id) == (1, 1, 2)
    assert told.severity in (1, 2)
    assert reply.data[4:12] == frame[4:12]
    assert told.transaction_context == 0
    # the host finds the original, and gives the frame back as a NOP
    assert rig.unit.read_inbound(mfa, 16) == frame[:16]
    assert (rig.unit.idle_inbound(), rig.unit.held_by_host()) == (15, 1)
    rig.unit.write(mfa, utility.UTIL_NOP.build())
    rig.unit.post(mfa)
    assert rig.replies() == []
    assert (rig.unit.idle_inbound(), rig.unit.held_by_host()) == (16, 0)
    assert len(rig.complaints) == 1
    assert rig.iop.counters.fails == 1


@pytest.mark.parametrize(
    "frame",
    [
        changed(version_offset=0x09),  # the reserved bit
        changed(version_offset=0xA1),  # Linux says SGL offset 10 in frames without data
        changed(msg_flags=0x40),
        changed(msg_flags=0x10),
    ],
)
def test_harmless_oddities_are_served(frame):
    assert Rig().call(frame).status == (0, 0)


@pytest.mark.parametrize("words", [3, 4])
def test_a_nop_has_no_reply_and_returns_its_frame(words):
    rig = Rig()
    for tid in (0, DISK):
        rig.post(utility.UTIL_NOP.build(target_address=tid) + bytes(4), words)
        assert rig.replies() == []
        assert rig.unit.idle_inbound() == 16
    assert not len(rig.complaints)


def test_a_broken_nop_is_not_answered_either():
    rig = Rig()
    rig.post_raw(bytes(64))
    rig.post_raw(utility.UTIL_NOP.build(target_address=0x999))
    assert rig.replies() == []
    assert rig.unit.idle_inbound() == 16
    assert len(rig.complaints) == 2


def test_before_outbound_init_requests_are_dropped_with_a_complaint():
    rig = Rig(up=False)
    rig.post(CHECK)
    rig.post(changed(target_address=0x777))
    assert rig.replies() == []
    assert rig.unit.idle_inbound() == 16
    sentences = list(rig.complaints)
    assert "before OutboundInit" in sentences[0]
    assert "no such TID" in sentences[1]
    assert rig.state == IopState.RESET
    assert rig.iop.counters.dropped == 1


def test_replies_wait_in_order_when_no_reply_frame_is_free():
    rig = Rig(replies=2, frames=16)
    for number in range(10):
        rig.post(changed(transaction_context=number))
    rig.run()
    assert rig.unit.idle_inbound() == 16
    seen = []
    while batch := rig.replies():
        assert len(batch) <= 2
        seen += [reply.words[3] for reply in batch]
    assert seen == list(range(10))
    assert rig.iop.counters.backlog_peak == 8


def test_a_long_backlog_holds_requests_back_but_not_a_reset():
    rig = Rig(replies=1, frames=16, options=IopOptions(backlog=4))
    for number in range(12):
        rig.post(changed(transaction_context=number))
    rig.run()
    assert len(rig.iop.replies.backlog) == 4
    assert rig.unit.idle_inbound() == 16 - 7
    assert rig.account() == 16
    assert not rig.iop.work_pending
    assert rig.state == IopState.OPERATIONAL  # StatusGet needs no reply frame
    seen = []
    while batch := rig.replies():
        seen += [reply.words[3] for reply in batch]
    assert seen == list(range(12))
    for number in range(12):
        rig.post(changed(transaction_context=number))
    rig.run()
    word = rig.buffer(4)
    rig.post(executive.EXEC_IOP_RESET.build(status_word_low_address=word.bus_address))
    rig.run()
    assert bytes(word.view) == b"\1\0\0\0"
    assert rig.unit.idle_inbound() == rig.account() == 16
    assert rig.replies() == []


def test_outbound_init_gives_held_back_requests_home():
    rig = Rig(replies=1, options=IopOptions(backlog=1))
    for _ in range(5):
        rig.post(CHECK)
    rig.run()
    assert rig.unit.idle_inbound() < 16
    rig.init_outbound()
    assert rig.unit.idle_inbound() == 16


def test_outbound_init_frees_frames_whose_fail_reply_never_went_out():
    rig = Rig(replies=1)
    told = rig.post_raw(changed(target_address=0x321))
    assert len(rig.replies()) == 1  # the host knows of this one
    rig.post(CHECK)
    rig.post_raw(changed(target_address=0x321))
    rig.run()
    assert (len(rig.iop.replies.backlog), rig.unit.held_by_host()) == (1, 2)
    rig.init_outbound()
    assert rig.unit.held_by_host() == 1
    assert rig.unit.idle_inbound() == 15
    rig.unit.write(told, utility.UTIL_NOP.build())
    rig.unit.post(told)
    rig.run()
    assert sorted(rig.unit._inbound_free) == [0x1000 + 512 * index for index in range(16)]


def test_a_reply_frame_outside_host_memory_is_skipped():
    rig = Rig(replies=1)
    first = rig.unit._outbound_free.popleft()
    rig.unit._outbound_held.clear()
    rig.unit.release(0xDEAD0000)
    rig.unit.release(first)
    assert rig.call(CHECK).status == (0, 0)
    assert "0xdead0000" in next(iter(rig.complaints))


@pytest.mark.parametrize(
    ("misuse", "words"),
    [
        (lambda rig: rig.unit.post(0x1000), "it is free"),
        (lambda rig: rig.unit.post(0x12345), "no inbound frame"),
        (lambda rig: (lambda mfa: (rig.unit.post(mfa), rig.unit.post(mfa)))(rig.unit.alloc()),
         "posted already"),
        (lambda rig: rig.unit.release(rig.pool.bus_address), "released twice"),
        (lambda rig: rig.unit.release(3), "frame address"),
    ],
)  # fmt: skip
def test_wrong_mfas_are_complained_about_and_change_nothing(misuse, words):
    rig = Rig()
    misuse(rig)
    rig.run()
    assert any(words in sentence for sentence in rig.complaints)
    assert rig.account() == 16
    rig.replies()
    assert rig.call(CHECK).status == (0, 0)


def test_replies_never_exceed_the_frames_that_the_host_gave():
    rig = Rig(reply_words=8)
    rig.post_raw(changed(target_address=0x321))
    (reply,) = rig.replies()
    assert len(reply.data) == 32
    assert FAILURE_REPLY.unpack_from(reply.data.ljust(36, b"\0")).preserved_mfa_low


def test_a_budget_leaves_the_rest_for_later():
    rig = Rig()
    for _ in range(5):
        rig.post(CHECK)
    assert rig.iop.run(2, 7) == 7
    assert rig.unit.posted_inbound() == 3
    assert rig.iop.work_pending
    assert rig.iop.run(3, 8) is None
    assert not rig.iop.work_pending


def test_an_unknown_function_is_an_ordinary_error():
    rig = Rig()
    for tid in (0, 8, DISK):
        frame = bytearray(changed(target_address=tid))
        frame[7] = 0x99
        assert rig.call(bytes(frame)).status == (5, 0x0A)
    assert rig.call(executive.EXEC_SYS_ENABLE.build(target_address=DISK)).status == (5, 0x0A)


def test_several_disks_have_tids_of_their_own():
    rig = Rig([MemoryDisk(1 << 20), MemoryDisk(2 << 20), MemoryDisk(4 << 20)])
    for tid in (0x10, 0x11, 0x12):
        assert rig.call(changed(target_address=tid)).status == (0, 0)
    rig.post_raw(changed(target_address=0x13))
    assert rig.replies()[0].flags == FAIL_REPLY


def test_the_private_copy_is_what_is_served():
    rig = Rig()
    mfa = rig.post(CHECK)
    rig.run()
    again = rig.unit.alloc()
    while again != mfa:
        again = rig.unit.alloc()
    rig.unit.write(mfa, bytes(64))
    assert rig.replies()[0].data[4:16] == CHECK[4:16]


def test_short_messages_read_as_zero_behind_their_end():
    rig = Rig()
    assert rig.call(bsa.BSA_MEDIA_MOUNT.build(target_address=DISK), 5).status == (0, 0)
    assert rig.call(bsa.BSA_BLOCK_READ.build(target_address=DISK), 4).status == (5, 8)
    assert rig.call(utility.UTIL_CLAIM.build(target_address=DISK), 4).status == (0, 0)


def test_private_messages_are_refused():
    frame = bytearray(changed(target_address=DISK) + struct.pack("<I", 0x001B0081))
    frame[7] = 0xFF
    assert Rig().call(bytes(frame)).status == (5, 0x0A)


def test_counters_and_complaints_stay_bounded():
    rig = Rig()
    for _ in range(120):
        rig.unit.post(0x1000)
    assert rig.complaints.count == 120
    assert len(rig.complaints) == 100


def test_a_complaint_that_repeats_is_logged_once(caplog):
    rig = Rig()
    for _ in range(3):
        rig.unit.post(0x1000)
    rig.unit.post(0x1004)
    rig.unit.post(0x1000)
    assert rig.complaints.count == 5
    assert len(caplog.records) == 2
