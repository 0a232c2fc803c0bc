# SPDX-License-Identifier: Apache-2.0
"""Fault plans: what they say, and what the IOP then does."""

from __future__ import annotations

import os

import pytest

from fakes.iop_rig import DISK, Rig
from i2o.frames import block_storage as bsa
from i2o.frames import executive, utility
from i2o.frames.functions import Function
from i2o.frames.header import FAIL_REPLY, FAILURE_REPLY, FailureCode
from i2o.frames.sgl import simple_sgl
from i2o.frames.tables import IopState
from i2o.iop_emulator.block_store import MemoryDisk
from i2o.iop_emulator.faults import ACTIONS, MAX_FILE, Action, FaultPlan, FaultPlanError, Rule

PLAIN = (0, 0)


def check(number: int = 0) -> bytes:
    return bsa.BSA_STATUS_CHECK.build(target_address=DISK, transaction_context=number)


def contexts(rig: Rig) -> list[int]:
    return [reply.words[3] for reply in rig.replies()]


def make(plan: FaultPlan) -> Rig:
    return Rig(faults=plan)


def hit(plan: FaultPlan, count: int = 12) -> list[int]:
    """Which of so many status checks get a changed status."""
    rig = make(plan)
    return [number for number in range(count) if rig.call(check(number)).status != PLAIN]


# --- conditions -----------------------------


def test_every_times_and_after():
    assert hit(FaultPlan().on("BSA_STATUS_CHECK").every(4).reply(5, 4)) == [0, 4, 8]
    assert hit(FaultPlan().on("BSA_STATUS_CHECK").after(3).every(4).reply(5, 4)) == [3, 7, 11]
    assert hit(FaultPlan().on(0x25).after(2).times(3).reply(5, 4)) == [2, 3, 4]
    assert hit(FaultPlan().on(Function.BSA_BLOCK_READ).reply(5, 4)) == []


def test_functions_and_tids():
    plan = FaultPlan().on("*").tid(DISK).reply(5, 4)
    assert hit(plan, 2) == [0, 1]
    assert hit(FaultPlan().on("*").tid(8).reply(5, 4), 2) == []
    assert hit(FaultPlan().on("0x25").reply(5, 4), 2) == [0, 1]


def test_the_first_rule_that_matches_acts_alone():
    plan = FaultPlan().on(0x25).every(2).reply(5, 4).on(0x25).every(2).reply(5, 9)
    rig = make(plan)
    assert [rig.call(check()).status[1] for _ in range(6)] == [4, 9, 4, 0, 4, 9]


def test_probability_follows_the_seed():
    def run(seed: int) -> list[int]:
        return hit(FaultPlan(seed).on(0x25).probability(0.5).reply(5, 4), 40)

    assert run(7) == run(7)
    assert run(7) != run(8)
    assert 5 < len(run(7)) < 35
    assert hit(FaultPlan().on(0x25).probability(0).reply(5, 4)) == []


def test_times_of_day():
    rig = make(FaultPlan().on(0x25).between(100, 200).reply(5, 4))
    seen = []
    for _ in range(6):
        seen.append(rig.call(check()).status[1])
        rig.advance(50)
    assert seen == [0, 0, 4, 4, 0, 0]


# --- actions -----------------------------


def test_delay_serves_later():
    rig = make(FaultPlan().on(0x25).times(1).delay(30))
    rig.post(check(1))
    rig.post(check(2))
    assert contexts(rig) == [2]
    assert rig.unit.idle_inbound() == 16
    assert rig.run() == 30_000_000
    rig.advance(29.9)
    assert contexts(rig) == []
    rig.advance(0.1)
    assert contexts(rig) == [1]
    assert rig.run() is None


def test_what_is_delayed_never_appears_after_a_reset():
    rig = make(FaultPlan().on(0x25).delay(30))
    rig.post(check(1))
    rig.run()
    rig.iop.power_cycle()
    rig.bring_up()
    rig.advance(100)
    assert contexts(rig) == []


def test_a_delayed_request_whose_device_is_gone():
    rig = make(FaultPlan().on(0x25).delay(30))
    rig.post(check(1))
    rig.run()
    rig.iop.lct.remove(DISK)
    rig.advance(30)
    assert rig.replies()[0].status == (5, 0x0A)


def test_a_delayed_request_may_make_no_sense():
    rig = make(FaultPlan().on("EXEC_HRT_GET").delay(30))
    rig.post(executive.EXEC_HRT_GET.build() + b"\0\0\0\x74")
    rig.advance(0)
    rig.advance(30)
    assert rig.replies()[0].status[0] == 0x0B


def test_delayed_status_get():
    rig = make(FaultPlan().on("EXEC_STATUS_GET").delay(30))
    assert rig.status_block().sync_byte == 0
    with pytest.raises(AssertionError):
        rig.call(executive.EXEC_STATUS_GET.build())
    rig.advance(30)  # the first block's memory is gone: complained about
    assert rig.iop.complaints.count == 2


def test_drop_swallows_the_request():
    rig = make(FaultPlan().on(0x25).times(1).drop())
    rig.post(check(1))
    rig.post(check(2))
    assert contexts(rig) == [2]
    assert rig.unit.idle_inbound() == 16
    assert rig.iop.counters.dropped == 1


def test_duplicate_sends_the_reply_twice():
    rig = make(FaultPlan().on(0x25).duplicate().on("EXEC_STATUS_GET").duplicate())
    rig.post(check(1))
    assert contexts(rig) == [1, 1]
    assert rig.state == IopState.OPERATIONAL  # nothing to duplicate


def test_corrupt_changes_one_bit_of_the_body():
    for seed in range(8):
        rig = make(FaultPlan(seed).on(0x25).corrupt())
        reply = rig.call(check(1))
        good = check(1)[4:16]
        assert reply.data[4:16] == good
        assert sum(byte.bit_count() for byte in reply.data[16:]) == 1


def test_fail_preserves_the_frame():
    rig = make(FaultPlan().on(0x25).times(1).fail(FailureCode.CONGESTION))
    mfa = rig.post(check(1))
    (reply,) = rig.replies()
    told = FAILURE_REPLY.unpack_from(reply.data)
    assert (reply.flags, told.failure_code, told.preserved_mfa_low) == (FAIL_REPLY, 0x83, mfa)
    assert told.severity == 8
    assert rig.unit.held_by_host() == 1
    rig.unit.post(mfa)  # sent again as it is
    assert contexts(rig) == [1]
    assert rig.unit.idle_inbound() == 16


def test_a_fail_before_there_are_reply_frames_is_a_drop():
    rig = Rig(faults=FaultPlan().on("EXEC_STATUS_GET").fail(), up=False)
    assert rig.status_block().sync_byte == 0
    assert rig.unit.idle_inbound() == 16


def test_a_status_has_the_form_of_its_class():
    plan = FaultPlan().on("BSA_BLOCK_READ").reply(6, 3).on("EXEC_STATUS_GET").reply(5)
    rig = make(plan)
    buffer = rig.buffer(512)
    frame = bsa.BSA_BLOCK_READ.build(
        target_address=DISK, transfer_byte_count=512, logical_byte_address=1024
    ) + simple_sgl([(buffer.bus_address, 512)], out=False)
    reply = rig.call(frame)
    assert (reply.status, len(reply.data)) == ((6, 3), 32)
    assert bsa.BSA_ERROR_REPLY.unpack_from(reply.data).logical_byte_address == 1024
    assert rig.status_block().sync_byte == 0


def test_stall_stops_everything():
    rig = make(FaultPlan().on(0x25).times(1).stall(20))
    for number in range(3):
        rig.post(check(number))
    assert contexts(rig) == []
    assert not rig.iop.work_pending
    assert rig.run() == 20_000_000
    assert rig.iop.next_deadline_ns(rig.now_ns) == 20_000_000
    assert rig.unit.posted_inbound() == 2
    rig.advance(20)
    assert contexts(rig) == [0, 1, 2]


def test_a_crash_is_for_good_until_power_is_cycled():
    rig = make(FaultPlan().on(0x25).after(1).crash())
    rig.call(check())
    rig.post(check(1))
    rig.post(check(2))
    assert contexts(rig) == []
    assert rig.run() is None
    assert rig.iop.next_deadline_ns(0) is None
    assert not rig.iop.work_pending
    assert rig.iop.state == IopState.FAULTED
    assert rig.status_block().sync_byte == 0
    rig.iop.power_cycle()
    assert rig.state == IopState.RESET
    assert rig.unit.idle_inbound() == 16


def test_a_reset_by_itself_loses_everything():
    rig = make(FaultPlan().on(0x25).times(1).reset())
    rig.post(check(1))
    rig.post(check(2))
    assert contexts(rig) == []
    assert rig.state == IopState.RESET
    assert rig.unit.idle_inbound() == 16


def starved(rig: Rig) -> bool:
    mfa = rig.unit.alloc()
    if mfa == 0xFFFFFFFF:
        return True
    rig.unit.write(mfa, executive.EXEC_STATUS_GET.build(reply_buffer_length=0))
    rig.unit.post(mfa)
    return False


def test_starvation_by_the_clock():
    rig = make(FaultPlan().on("*").between(100, 200).starve())
    assert rig.run() == 100_000_000
    seen = []
    for _ in range(5):
        seen.append(starved(rig))
        rig.advance(50)
    assert seen == [False, False, True, True, False]
    assert rig.run() is None


def test_starvation_without_an_end():
    rig = make(FaultPlan().on("*").between(100).starve())
    rig.advance(100)
    assert starved(rig)
    assert rig.run() is None
    rig.advance(1e6)
    assert starved(rig)


@pytest.mark.parametrize(
    ("plan", "ends"),
    [
        (FaultPlan().on(0x25).times(1).starve(25), 25),
        (FaultPlan().on(0x25).times(1).between(0, 40).starve(), 40),
        (FaultPlan().on(0x25).times(1).starve(), None),
    ],
)
def test_starvation_by_a_request(plan, ends):
    rig = make(plan)
    assert rig.call(check()).status == PLAIN
    assert starved(rig)
    assert rig.run() == (None if ends is None else ends * 1_000_000)
    rig.advance(24)
    assert starved(rig)
    rig.advance(16)
    assert starved(rig) == (ends is None)
    rig.iop.power_cycle()
    assert not starved(rig)


def test_faults_are_counted():
    rig = make(FaultPlan().on(0x25).every(2).duplicate())
    for _ in range(4):
        rig.post(check())
    rig.replies()
    assert rig.iop.counters.faults == 2


# --- plans as text -----------------------------


def test_a_plan_in_toml():
    plan = FaultPlan.from_toml(
        """
        seed = 7
        [[fault]]
        on = "BSA_READ"
        tid = 0x10
        after = 1
        every = 2
        times = 3
        probability = 0.5
        from_ms = 10
        to_ms = 20.5
        action = "status"
        req_status = 5
        detail = 1
        [[fault]]
        action = "delay"
        ms = 1.5
        [[fault]]
        on = 0x31
        action = "fail"
        code = 0x83
        """
    )
    assert plan.seed == 7
    first, second, third = plan.rules
    assert first == Rule(0x30, 0x10, 1, 2, 3, 0.5, 10, 20.5, Action("status", 0, 5, 1))
    assert (second.function, second.action) == (None, Action("delay", 1.5))
    assert second.action.duration_ns == 1_500_000
    assert (third.function, third.action.code) == (0x31, 0x83)
    assert FaultPlan.from_toml("seed = 7", seed=9).seed == 9


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("seed = ", "no TOML"),
        ("sed = 1", "unknown key 'sed'"),
        ("seed = 'x'", "must be int"),
        ("seed = true", "must be int"),
        ("[fault]\naction='drop'", r"\[\[fault\]\]"),
        ("fault = [1]", "must be a table"),
        ("[[fault]]\non='*'", "unknown action None"),
        ("[[fault]]\naction='explode'", f"known are {', '.join(ACTIONS)}"),
        ("[[fault]]\naction='drop'\nms=1", "unknown key 'ms'"),
        ("[[fault]]\naction='delay'", "needs 'ms'"),
        ("[[fault]]\naction='status'", "needs 'req_status'"),
        ("[[fault]]\naction='stall'\nms='1'", "must be int or float"),
        ("[[fault]]\naction='drop'\non=1.5", "must be str or int"),
        ("[[fault]]\naction='drop'\non='BSA_RAED'", "fault 1: no function is called 'BSA_RAED'"),
        ("[[fault]]\naction='drop'\non=256", "between 0 and 0xFF"),
        ("[[fault]]\naction='drop'\ntid=4096", "tid = 4096"),
        ("[[fault]]\naction='drop'\nevery=0", "every = 0 must be 1 or more"),
        ("[[fault]]\naction='drop'\nafter=-1", "after"),
        ("[[fault]]\naction='drop'\ntimes=0", "times"),
        ("[[fault]]\naction='drop'\nprobability=2", "probability"),
        ("[[fault]]\naction='drop'\nfrom_ms=-1", "from_ms"),
        ("[[fault]]\naction='drop'\nfrom_ms=5\nto_ms=5", "later than from_ms"),
        ("[[fault]]\naction='delay'\nms=-5", "ms = -5"),
        ("[[fault]]\naction='delay'\nms=inf", "ms = inf must be between 0 and 86400000"),
        ("[[fault]]\naction='stall'\nms=nan", "ms = nan must be between 0 and 86400000"),
        ("[[fault]]\naction='starve'\nms=1e300", r"ms = 1e\+300 must be between 0 and 86400000"),
        (f"[[fault]]\naction='delay'\nms=1{'0' * 400}", "ms = a number too large to show must be"),
        ("[[fault]]\naction='drop'\nfrom_ms=inf", "from_ms = inf must be between 0 and 86400000"),
        ("[[fault]]\naction='drop'\nfrom_ms=nan", "from_ms = nan must be between 0 and 86400000"),
        ("[[fault]]\naction='drop'\nto_ms=inf", "to_ms = inf must be between 0 and 86400000"),
        ("[[fault]]\naction='drop'\nto_ms=nan", "to_ms = nan must be between 0 and 86400000"),
        ("[[fault]]\naction='drop'\nto_ms=-1", "to_ms = -1 must be between 0 and 86400000"),
        ("[[fault]]\naction='drop'\nprobability=nan", "probability = nan"),
        (f"seed = 1{'0' * 5000}", "no TOML"),
        (f"seed = {'[' * 100_000}", "nested too deeply"),
        ("[[fault]]\naction='status'\nreq_status='BAD'", "req_status = 'BAD' is no status; known"),
        ("[[fault]]\naction='status'\nreq_status='MEDIA_ERROR'", "ERROR_NO_DATA_TRANSFER"),
        ("[[fault]]\naction='status'\nreq_status=5\ndetail='BAD'", "MEDIA_ERROR.*TCL_ERROR"),
        ("[[fault]]\naction='fail'\ncode='CONGESTION'", "code = 'CONGESTION' must be int"),
        ("[[fault]]\naction='status'\nreq_status=256", "req_status"),
        ("[[fault]]\naction='status'\nreq_status=5\ndetail=65536", "detail"),
        ("[[fault]]\naction='fail'\ncode=300", "code"),
    ],
)
def test_plans_that_make_no_sense(text, message):
    with pytest.raises(FaultPlanError, match=message):
        FaultPlan.from_toml(text)


def test_plans_in_files(tmp_path):
    file = tmp_path / "plan.toml"
    file.write_text("seed = 3\n[[fault]]\naction = 'drop'\n")
    assert FaultPlan.from_file(file).seed == 3
    with pytest.raises(FaultPlanError, match="cannot be read: No such file"):
        FaultPlan.from_file(tmp_path / "missing.toml")
    file.write_bytes(b"\xff\xfe")
    with pytest.raises(FaultPlanError, match="not UTF-8"):
        FaultPlan.from_file(file)


@pytest.mark.parametrize(
    ("function", "detail", "code"),
    [
        ("BSA_READ", "MEDIA_ERROR", 0x01),
        ("BSA_READ", "TIMEOUT", 0x0E),
        ("BSA_READ", "BAD_KEY", 0x02),
        ("UTIL_PARAMS_GET", "TIMEOUT", 0x17),
        ("UTIL_PARAMS_GET", "device_locked", 0x0B),
        ("*", "Media_Locked", 0x06),
    ],
)
def test_statuses_have_names(function, detail, code):
    (rule,) = FaultPlan.from_toml(
        f"[[fault]]\non='{function}'\naction='status'\n"
        f"req_status='error_no_data_transfer'\ndetail='{detail}'"
    ).rules
    assert (rule.action.req_status, rule.action.detail) == (5, code)


def test_only_small_regular_files_are_plans(tmp_path):
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    for path, why in (
        (fifo, "it is no regular file"),
        ("/dev/zero", "it is no regular file"),
        (tmp_path, "it is a directory"),
        ("a\0b", "null"),
    ):
        with pytest.raises(FaultPlanError, match=f"cannot be read: .*{why}"):
            FaultPlan.from_file(path)
    file = tmp_path / "plan.toml"
    file.write_bytes(b"#" * MAX_FILE)
    assert FaultPlan.from_file(file).rules == ()
    os.truncate(file, 1 << 40)  # a sparse one: reading it whole would take a while
    with pytest.raises(FaultPlanError, match="cannot be read: it is larger than 1 MiB"):
        FaultPlan.from_file(file)


def test_a_file_that_is_exchanged_for_a_fifo_meanwhile(tmp_path, monkeypatch):
    file, fifo = tmp_path / "plan.toml", tmp_path / "fifo"
    file.write_text("seed = 1")
    os.mkfifo(fifo)
    regular = os.stat(file)
    monkeypatch.setattr(os, "stat", lambda *_, **__: regular)
    with pytest.raises(FaultPlanError, match="it is no regular file"):
        FaultPlan.from_file(fifo)


@pytest.mark.parametrize("ms", [-1, float("inf"), float("nan"), 1e300, 10**400])
def test_the_builder_checks_times(ms):
    for make_rule in (
        lambda: FaultPlan().on("*").delay(ms),
        lambda: FaultPlan().on("*").between(ms).drop(),
        lambda: FaultPlan().on("*").between(0, ms).drop(),
    ):
        with pytest.raises(FaultPlanError, match=r"ms = .* must be between 0 and 86400000"):
            make_rule()


def test_the_builder_checks_too():
    with pytest.raises(FaultPlanError):
        FaultPlan().on("NO_SUCH")
    with pytest.raises(FaultPlanError):
        FaultPlan().on("*").every(0).drop()
    assert FaultPlan().rules == ()


def test_times_count_from_when_the_iop_was_made():
    rig = Rig(faults=FaultPlan().on(0x25).between(100, 200).reply(5, 4), up=False)
    rig.now_ns = 7_000_000_000
    rig.bring_up()
    assert rig.call(check()).status == PLAIN
    rig.advance(100)
    assert rig.call(check()).status == (5, 4)
    rig.advance(100)
    assert rig.call(check()).status == PLAIN


def test_the_nearest_of_several_deadlines_counts():
    plan = FaultPlan().on(0x25).delay(30).on("*").between(10, 50).starve()
    rig = make(plan)
    rig.post(check())
    assert rig.run() == 10_000_000
    rig.advance(10)
    assert rig.run() == 30_000_000
    rig.advance(20)
    assert rig.run() == 50_000_000


def test_a_nop_that_should_fail_is_dropped():
    """Nobody waits for a reply to a NOP, and so nobody would give the preserved frame back."""
    rig = make(FaultPlan().on("UTIL_NOP").fail())
    rig.post(utility.UTIL_NOP.build(), 3)
    assert rig.replies() == []
    assert rig.unit.held_by_host() == 0
    assert rig.iop.counters.dropped == 1


@pytest.mark.parametrize("end", ["abort", "fail"])
def test_ending_a_delayed_status_get_makes_no_reply(end):
    rig = make(FaultPlan().on("EXEC_STATUS_GET").delay(5))
    rig.post(executive.EXEC_STATUS_GET.build(reply_buffer_address_low=rig.buffer(88).bus_address))
    rig.run()
    if end == "fail":
        rig.iop.fail()
        assert rig.replies() == []
        assert rig.iop.counters.dropped == 1
    else:
        reply = rig.call(utility.UTIL_ABORT.build(abort_type=utility.AbortType.WILD_ABORT))
        assert (reply.data[7], reply.data[16]) == (Function.UTIL_ABORT, 1)
    assert rig.iop.scheduler.is_empty


def test_a_disk_plugged_into_a_crashed_iop_is_told_to_nobody():
    rig = make(FaultPlan())
    table = rig.buffer(1024)
    rig.post(
        executive.EXEC_LCT_NOTIFY.build(
            class_identifier=0xFFFFFFFF, last_reported_change_indicator=2
        )
        + simple_sgl([(table.bus_address, 1024)], out=False)
    )
    rig.post(utility.UTIL_EVENT_REGISTER.build(event_mask=0xFFFFFFFF))
    rig.run()
    rig.iop.crash()
    rig.iop.bay.add(MemoryDisk(1024))
    assert rig.replies() == []
    assert bytes(table.view) == bytes(1024)


def test_a_crashed_iop_cannot_fail():
    """FAILED serves StatusGet and IopReset: that would be a way back without a power cycle."""
    rig = make(FaultPlan())
    rig.iop.crash()
    rig.iop.fail()
    assert rig.iop.state == IopState.FAULTED
    assert rig.status_block().sync_byte == 0


def test_a_plan_that_ends_while_a_request_is_hit_leaves_an_iop_that_rests():
    rig = make(FaultPlan().on(0x25).drop())
    rig.iop.on_fault = lambda mfa, sentence: rig.iop.misbehave(None)
    rig.post(check())
    now_ns = rig.now_ns + 1
    rig.iop.run(64, now_ns)
    assert not rig.iop.is_idle, "when its times begin is not known yet"
    assert rig.iop.run(64, now_ns) is None
    assert rig.iop.is_idle
    assert rig.iop.next_deadline_ns(now_ns) is None
