# SPDX-License-Identifier: Apache-2.0
"""Static frames: made once, posted again and again, and home again whatever happens."""

from __future__ import annotations

import pytest

from fakes.iop_rig import DISK, Reply, Rig
from i2o.errors import LocalFrameError
from i2o.frames import block_storage as bsa
from i2o.frames import executive as x
from i2o.frames import executive_groups, utility
from i2o.frames.functions import Function
from i2o.frames.header import EMPTY_MFA, FAILURE_REPLY, FailureCode, MsgFlags
from i2o.frames.tables import STATUS_BLOCK
from i2o.iop_emulator.faults import FaultPlan
from i2o.iop_emulator.options import IopOptions
from i2o.iop_emulator.static_frames import MAX_INSTANCES, MAX_STATIC

PLAIN = (0, 0)
CHECK = bsa.BSA_STATUS_CHECK.build(
    target_address=DISK, initiator_context=0x11, transaction_context=0x22
)
INVALID_PARAMETER, BUSY, NO_ROOM, MISSING = (5, 0x11), (5, 0x1B), (5, 0x06), (5, 0x16)


def creation(message: bytes = CHECK, posts: int = 1) -> bytes:
    layout = x.EXEC_STATIC_MF_CREATE
    frame = layout.build(max_outstanding=posts, static_message_frame=message[:12]) + message[12:]
    return bytes(frame)


def create(rig: Rig, message: bytes = CHECK, posts: int = 1) -> int:
    reply = rig.call(creation(message, posts))
    assert reply.status == PLAIN
    return reply.words[5]


def release(rig: Rig, mfa: int) -> Reply:
    return rig.call(x.EXEC_STATIC_MF_RELEASE.build(static_mfa=mfa))


def post(rig: Rig, mfa: int) -> list[Reply]:
    rig.unit.post(mfa)
    return rig.replies()


def interface(rig: Rig) -> tuple[int, ...]:
    layout = executive_groups.EXEC_IOP_MESSAGE_INTERFACE
    operation = b"\x01\x00" + layout.number.to_bytes(2, "little") + b"\xff\xff"
    _, (block,) = rig.parameters(0, operation)
    row = layout.unpack_from(block.data)
    return (
        row.static_count,
        row.static_instance_count,
        row.static_limit,
        row.static_instance_limit,
        row.inbound_pool_count,
    )


def test_a_static_frame_is_served_each_time_it_is_posted_and_never_free():
    rig = Rig()
    mfa = create(rig)
    assert (rig.unit.idle_inbound(), rig.unit.held_by_host()) == (15, 0)
    for _ in range(20):
        (reply,) = post(rig, mfa)
        assert reply.data == b"\x01\xc0\x05\x00" + CHECK[4:16] + bytes(4)
        assert rig.unit.idle_inbound() == 15
    assert rig.unit.read_inbound(mfa, 16) == bytes((CHECK[0], 1)) + CHECK[2:16]
    taken = [rig.unit.alloc() for _ in range(15)]
    assert mfa not in taken
    assert rig.unit.alloc() == EMPTY_MFA


def test_the_message_may_carry_its_own_scatter_gather_list_and_the_flag():
    rig = Rig()
    block = rig.buffer(88)
    status = x.EXEC_STATUS_GET.build(reply_buffer_address_low=block.bus_address)
    mfa = create(rig, status[:1] + bytes((MsgFlags.STATIC,)) + status[2:])
    for _ in range(2):
        block.view[:] = bytes(88)
        assert post(rig, mfa) == []
        assert STATUS_BLOCK.unpack_from(block.view).current_inbound_msg_frames == 15


def test_nobody_writes_a_static_frame():
    rig = Rig()
    mfa = create(rig)
    with pytest.raises(LocalFrameError, match="not the host's to write"):
        rig.unit.write(mfa, utility.UTIL_NOP.build())
    assert post(rig, mfa)[0].status == PLAIN


def test_a_released_frame_is_an_ordinary_one():
    rig = Rig()
    mfa = create(rig)
    assert release(rig, mfa).status == PLAIN
    assert rig.unit.idle_inbound() == 16
    rig.unit.post(mfa)
    assert "it is free" in list(rig.complaints)[-1]
    assert rig.replies() == []
    assert release(rig, mfa).status == INVALID_PARAMETER
    assert release(rig, 0x1234).status == INVALID_PARAMETER


def test_what_the_group_and_the_limits_say():
    rig = Rig(frames=6)
    assert interface(rig) == (0, 0, 3, MAX_INSTANCES, 6)
    mfas = [create(rig, posts=2) for _ in range(3)]
    assert interface(rig) == (3, 6, 3, MAX_INSTANCES, 3)
    assert rig.call(creation()).status == NO_ROOM
    assert release(rig, mfas[0]).status == PLAIN
    assert interface(rig) == (2, 4, 3, MAX_INSTANCES, 4)
    rig = Rig(frames=64)
    for _ in range(MAX_STATIC):
        create(rig)
    assert rig.call(creation()).status == NO_ROOM
    rig = Rig()
    create(rig, posts=255)
    assert rig.call(creation(posts=2)).status == NO_ROOM
    assert rig.unit.idle_inbound() == 15
    create(rig, posts=1)


@pytest.mark.parametrize(
    ("message", "posts", "status"),
    [
        (CHECK, 0, INVALID_PARAMETER),
        (CHECK[:12], 1, MISSING),
        (CHECK[:2] + b"\x05\x00" + CHECK[4:], 1, MISSING),
        (CHECK[:2] + b"\x02\x00" + CHECK[4:], 1, INVALID_PARAMETER),
        (bytes((0,)) + CHECK[1:], 1, INVALID_PARAMETER),
        (bsa.BSA_STATUS_CHECK.build(target_address=0x999), 1, INVALID_PARAMETER),
        (bsa.BSA_STATUS_CHECK.build(initiator_address=7), 1, INVALID_PARAMETER),
    ],
)
def test_what_cannot_become_static_is_refused_and_its_frame_is_free(message, posts, status):
    rig = Rig()
    assert rig.call(creation(message, posts)).status == status
    assert rig.unit.idle_inbound() == 16
    assert interface(rig)[0] == 0
    assert any("StaticMfCreate" in sentence for sentence in rig.complaints)


def test_a_short_creation_has_no_message():
    assert Rig().call(creation()[:20]).status == MISSING


def test_other_devices_do_not_make_static_frames():
    frame = bytearray(creation())
    frame[4] = DISK
    rig = Rig()
    assert rig.call(bytes(frame)).status == (5, 0x0A)
    assert rig.unit.idle_inbound() == 16


def test_posts_are_bounded_by_max_outstanding():
    rig = Rig()
    mfa = create(rig, posts=3)
    for _ in range(5):
        rig.unit.post(mfa)
    assert rig.unit.posted_inbound() == 3
    assert len(list(rig.complaints)) == 2
    assert "posted as often as it may be" in next(iter(rig.complaints))
    assert len(rig.replies()) == 3
    assert [reply.status for reply in post(rig, mfa)] == [PLAIN]


def delayed(**arguments: int) -> tuple[Rig, FaultPlan]:
    plan = FaultPlan()
    plan.on(Function.BSA_STATUS_CHECK).delay(10)
    return Rig(faults=plan, **arguments), plan  # type: ignore[arg-type]


def test_more_posts_than_may_be_unanswered_fail_with_congestion_and_preserve_nothing():
    rig, _ = delayed()
    mfa = create(rig, posts=2)
    assert post(rig, mfa) == post(rig, mfa) == []
    (fail,) = post(rig, mfa)
    told = FAILURE_REPLY.unpack_from(fail.data)
    assert told.failure_code == FailureCode.CONGESTION
    assert told.preserved_mfa_low == EMPTY_MFA
    assert told.transaction_context == 0x22
    assert rig.unit.held_by_host() == 0
    rig.advance(10)
    assert [reply.status for reply in rig.replies()] == [PLAIN, PLAIN]
    assert post(rig, mfa) == []


def test_a_frame_with_unanswered_posts_is_not_released():
    rig, _ = delayed()
    mfa = create(rig, posts=2)
    post(rig, mfa)
    assert release(rig, mfa).status == BUSY
    rig.advance(10)
    rig.replies()
    assert release(rig, mfa).status == PLAIN


def test_posts_behind_the_release_are_aborted():
    rig = Rig()
    mfa = create(rig, posts=3)
    rig.post(x.EXEC_STATIC_MF_RELEASE.build(static_mfa=mfa))
    rig.unit.post(mfa)
    rig.unit.post(mfa)
    statuses = [(reply.data[7], reply.status) for reply in rig.replies()]
    assert statuses == [(0x25, (9, 0)), (0x25, (9, 0)), (0xDF, PLAIN)]
    assert rig.unit.idle_inbound() == 16


def test_a_target_that_went_away_fails_each_post():
    rig = Rig()
    mfa = create(rig)
    rig.call(x.EXEC_DDM_QUIESCE.build(device_tid=DISK))
    (fail,) = post(rig, mfa)
    assert FAILURE_REPLY.unpack_from(fail.data).failure_code == FailureCode.SERVICE_SUSPENDED
    rig.call(x.EXEC_DDM_ENABLE.build(device_tid=DISK))
    assert post(rig, mfa)[0].status == PLAIN
    rig.iop.fail()
    (fail,) = post(rig, mfa)
    assert FAILURE_REPLY.unpack_from(fail.data).failure_code == FailureCode.STATE_ERROR


def test_the_flag_alone_makes_no_static_frame():
    rig = Rig()
    rig.post_raw(bytes((1, MsgFlags.STATIC)) + CHECK[2:])
    (fail,) = rig.replies()
    assert FAILURE_REPLY.unpack_from(fail.data).failure_code == FailureCode.INVALID_MSG_FLAGS


@pytest.mark.parametrize("action", ["drop", "fail", "status", "duplicate", "stall"])
def test_faults_hit_a_static_frame_and_leave_it_where_it_is(action):
    rig = Rig(faults=(plan := FaultPlan()))
    builder = plan.on(Function.BSA_STATUS_CHECK).times(1)
    {
        "drop": builder.drop,
        "fail": builder.fail,
        "status": lambda: builder.reply(5, 1),
        "duplicate": builder.duplicate,
        "stall": lambda: builder.stall(5),
    }[action]()
    mfa = create(rig)
    replies = post(rig, mfa)
    assert len(replies) == {"drop": 0, "stall": 0, "duplicate": 2}.get(action, 1)
    rig.advance(5)
    rig.replies()
    assert (rig.unit.idle_inbound(), rig.unit.held_by_host()) == (15, 0)
    assert post(rig, mfa)[0].status == PLAIN


def test_a_creation_that_a_fault_delays_is_refused():
    rig = Rig(faults=(plan := FaultPlan()))
    plan.on(Function.EXEC_STATIC_MF_CREATE).delay(1)
    rig.post(creation())
    rig.run()
    rig.advance(1)
    assert [reply.status for reply in rig.replies()] == [NO_ROOM]
    assert rig.unit.idle_inbound() == 16


def test_outbound_init_frees_nothing_for_a_static_frame_that_failed():
    rig = Rig(replies=1)
    mfa = create(rig, posts=2)
    rig.iop.lct.withhold(DISK, FailureCode.SERVICE_SUSPENDED.value)
    for _ in range(2):
        rig.unit.post(mfa)
    rig.run()
    assert len(rig.iop.replies.backlog) == 1  # a FAIL that preserves nothing
    rig.init_outbound()
    assert sorted(rig.unit._inbound_free) == [0x1000 + 512 * index for index in range(16)]


def test_a_crash_frees_no_static_frame():
    rig = Rig(replies=1, options=IopOptions(backlog=1))
    mfa = create(rig, posts=4)
    for _ in range(4):
        rig.unit.post(mfa)
    rig.run()
    assert rig.iop._stuck
    rig.iop.crash()
    assert mfa not in rig.unit._inbound_free
    assert rig.unit.idle_inbound() == 15
    rig.iop.power_cycle()
    assert sorted(rig.unit._inbound_free) == [0x1000 + 512 * index for index in range(16)]


def test_posts_wait_while_replies_do():
    rig = Rig(replies=1, options=IopOptions(backlog=1))
    mfa = create(rig, posts=4)
    for _ in range(4):
        rig.unit.post(mfa)
    rig.run()
    for _ in range(3):  # two were taken up, and two wait
        rig.unit.post(mfa)
    assert [sentence for sentence in rig.complaints if "posted as often" in sentence] != []
    assert rig.complaints.count == 1
    seen = 0
    while batch := rig.replies():
        seen += len(batch)
    assert seen == 6
    assert (rig.unit.idle_inbound(), rig.unit.posted_inbound()) == (15, 0)


def test_a_static_nop_is_never_answered():
    rig = Rig()
    mfa = create(rig, utility.UTIL_NOP.build(target_address=DISK).ljust(16, b"\0"))
    assert post(rig, mfa) == []
    rig.iop.lct.withhold(DISK, FailureCode.SERVICE_SUSPENDED.value)
    assert post(rig, mfa) == []
    assert rig.complaints.count == 1
    assert release(rig, mfa).status == PLAIN


def test_posts_behind_a_release_that_waited_like_them_are_aborted():
    rig = Rig(replies=1, options=IopOptions(backlog=1))
    mfa = create(rig, posts=2)
    for _ in range(3):  # one is answered, one waits for a reply frame, one for that
        rig.post(CHECK)
    rig.post(x.EXEC_STATIC_MF_RELEASE.build(static_mfa=mfa))
    for _ in range(2):
        rig.unit.post(mfa)
    rig.run()
    assert len(rig.iop._stuck) == 4
    seen = []
    while batch := rig.replies():
        seen += [(reply.data[7], reply.status) for reply in batch]
    assert sorted(seen) == [(0x25, PLAIN)] * 3 + [(0x25, (9, 0))] * 2 + [(0xDF, PLAIN)]
    assert sorted(rig.unit._inbound_free) == [0x1000 + 512 * index for index in range(16)]
    assert rig.unit.held_by_host() == 0


def reset(rig: Rig) -> None:
    word = rig.buffer(4)
    rig.post(x.EXEC_IOP_RESET.build(status_word_low_address=word.bus_address))


@pytest.mark.parametrize("how", ["reset", "outbound init", "clear", "power cycle"])
@pytest.mark.parametrize("is_congested", [False, True])
def test_static_frames_end_with_all_that_the_host_set_up(how, is_congested):
    rig = Rig(replies=2, options=IopOptions(backlog=1))
    mfas = [create(rig, posts=2), create(rig, posts=2)]
    if is_congested:
        for mfa in mfas * 2:
            rig.unit.post(mfa)
        rig.run()
    match how:
        case "reset":
            reset(rig)
        case "outbound init":
            rig.init_outbound()
        case "clear":
            rig.post(x.EXEC_IOP_CLEAR.build())
        case "power cycle":
            rig.iop.power_cycle()
    seen = []
    while batch := rig.replies():
        seen += batch
    assert rig.unit.idle_inbound() == 16
    assert rig.iop.executive.static_frames.by_mfa == {}
    rig.unit.post(mfas[0])
    assert "it is free" in list(rig.complaints)[-1]
    if how == "clear":
        assert len(seen) == (5 if is_congested else 1), "every post was answered"


def test_posts_that_were_not_taken_up_are_aborted_by_a_clear():
    rig = Rig()
    mfa = create(rig, posts=2)
    rig.post(x.EXEC_IOP_CLEAR.build())
    rig.unit.post(mfa)
    assert [reply.data[7] for reply in rig.replies()] == [0x25, 0xBE]
    block = rig.buffer(88)
    mfa = create(rig, x.EXEC_STATUS_GET.build(reply_buffer_address_low=block.bus_address))
    rig.post(x.EXEC_IOP_CLEAR.build())
    rig.unit.post(mfa)
    assert [reply.data[7] for reply in rig.replies()] == [0xBE], "StatusGet is never answered"


def test_events_come_to_a_static_registration():
    rig = Rig()
    mfa = create(rig, utility.UTIL_EVENT_REGISTER.build(target_address=DISK, event_mask=0xFFFFFFFF))
    assert post(rig, mfa) == []
    rig.post(bsa.BSA_DEVICE_RESET.build(target_address=DISK))
    assert [reply.data[7] for reply in rig.replies()] == [0x13, 0x27]
