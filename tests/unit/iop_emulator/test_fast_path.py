# SPDX-License-Identifier: Apache-2.0
"""Which requests have a fast path, and from when on not any more."""

from __future__ import annotations

from collections.abc import Callable, Generator

import pytest

from fakes.iop_rig import DISK, Rig
from i2o.errors import DmaFault
from i2o.frames import executive, utility
from i2o.frames.block_storage import BSA_MEDIA_VERIFY, BSA_STATUS_CHECK
from i2o.frames.functions import DeviceClass
from i2o.frames.header import MsgFlags
from i2o.iop_emulator.block_store import MemoryDisk
from i2o.iop_emulator.ddm.base import Ddm
from i2o.iop_emulator.faults import FaultPlan
from i2o.iop_emulator.iop_system import IopSystem
from i2o.iop_emulator.request import Request

CHECK = BSA_STATUS_CHECK.build(target_address=DISK)
ROUTE = int.from_bytes(CHECK[4:8], "little")
LOCK = utility.UTIL_LOCK.build(target_address=DISK)


def ready() -> tuple[Rig, dict[bytes, Callable[[Request], bytes | None]]]:
    """Return an IOP that lets others have a StatusCheck answered, and who answers what."""
    rig = Rig()
    handlers = rig.iop.fast_path().handlers
    rig.run()
    assert not handlers
    rig.call(CHECK)
    assert list(handlers) == [CHECK[:8]]
    return rig, handlers


def test_a_request_that_was_served_once_may_be_answered() -> None:
    rig, handlers = ready()
    reply = handlers[CHECK[:8]](Request(CHECK, ROUTE, 0))
    assert reply == rig.call(CHECK).data
    rig.call(LOCK)
    assert set(handlers) == {CHECK[:8], LOCK[:8]}


def test_not_if_nobody_asked_for_it() -> None:
    rig = Rig()
    rig.call(CHECK)
    rig.call(CHECK)
    assert not rig.iop.fast_path().handlers


def test_the_executive_answers_for_itself() -> None:
    rig, handlers = ready()
    rig.call(executive.EXEC_SYS_ENABLE.build())
    rig.call(executive.EXEC_SYS_ENABLE.build())
    assert list(handlers) == [CHECK[:8]]


def test_an_iop_of_a_system_answers_for_itself() -> None:
    """Others may have sent it something."""
    rig = Rig(system=IopSystem())
    handlers = rig.iop.fast_path().handlers
    rig.run()
    for _ in range(3):
        rig.call(CHECK)
    assert not handlers


def suspend(rig: Rig) -> None:
    rig.post(executive.EXEC_DDM_SUSPEND.build(ddm_tid=8))
    rig.run()


def clear(rig: Rig) -> None:
    rig.post(executive.EXEC_IOP_CLEAR.build())
    rig.run()


def begin_a_job(rig: Rig) -> None:
    rig.post(BSA_MEDIA_VERIFY.build(target_address=DISK, byte_count=1 << 20))
    rig.run(budget=2)
    assert rig.iop.scheduler.has_jobs


def test_more_requests_than_are_served_at_once_end_nothing() -> None:
    rig, handlers = ready()
    for _ in range(10):
        rig.post(LOCK)
    assert rig.run(budget=5) == rig.now_ns, "there are more"
    assert set(handlers) == {CHECK[:8], LOCK[:8]}
    rig.run()
    assert rig.iop.is_idle


def test_an_operation_that_goes_on_is_no_idleness() -> None:
    rig, _ = ready()
    assert rig.iop.is_idle
    rig.iop.scheduler.start(Request(CHECK, ROUTE, 0), a_job())
    assert not rig.iop.is_idle


def test_an_unusual_header_is_looked_at_each_time() -> None:
    rig, handlers = ready()
    last = CHECK[:1] + bytes([MsgFlags.LAST]) + CHECK[2:]
    assert rig.call(last).status == (0, 0)
    assert list(handlers) == [CHECK[:8]]


def test_a_static_frame_is_served_as_it_was_made_whatever_stands_there() -> None:
    rig, _ = ready()
    pending = rig.iop.fast_path().pending
    created = rig.call(
        executive.EXEC_STATIC_MF_CREATE.build(max_outstanding=3, static_message_frame=LOCK[:12])
        + LOCK[12:]
    )
    assert created.status == (0, 0)
    assert any(map(len, pending)), "no fast path while there are static frames"
    mfa = created.words[5]
    statics = rig.unit._static
    before = dict(statics)
    rig.iop._serve(mfa, CHECK.replace(b"\0\0", b"\x04\0", 1), 0)  # as it is fetched then
    [reply] = rig.replies()
    assert reply.data[7] == LOCK[7]
    assert mfa in statics
    assert statics[mfa] == before[mfa] + 1, "its post is renewed"
    rig.iop.executive.static_frames.end_all()
    assert not any(map(len, pending))


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda rig: rig.iop.misbehave(FaultPlan()), id="faults"),
        pytest.param(lambda rig: rig.iop.reset(), id="reset"),
        pytest.param(lambda rig: rig.iop.fail(), id="failed"),
        pytest.param(lambda rig: rig.iop.crash(), id="faulted"),
        pytest.param(lambda rig: rig.iop.bay.add(MemoryDisk(1 << 20)), id="another disk"),
        pytest.param(lambda rig: rig.iop.bay.remove(DISK), id="a disk less"),
        pytest.param(lambda rig: rig.iop.serve_frameless(Request(CHECK, ROUTE, 0)), id="static"),
        pytest.param(lambda rig: rig.init_outbound(), id="outbound init"),
        pytest.param(suspend, id="suspended"),
        pytest.param(clear, id="cleared"),
        pytest.param(begin_a_job, id="a job"),
    ],
)
def test_whatever_else_happens_ends_it(change: Callable[[Rig], object]) -> None:
    rig, handlers = ready()
    change(rig)
    assert not handlers


def test_what_a_run_did_not_come_to_the_end_of_is_looked_at_again() -> None:
    rig, handlers = ready()
    rig.iop.misbehave(FaultPlan())
    rig.iop.lct.devices[DISK].dispatch[CHECK[7]] = lambda request: 1 // 0
    rig.post(CHECK)
    with pytest.raises(ZeroDivisionError):
        rig.run()
    assert not handlers


def a_job() -> Generator[bytes | None, None, bytes]:
    yield None
    return b""


def test_work_that_waits_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    rig = Rig()
    monkeypatch.setattr(rig.unit, "end_static", lambda mfa: 0)
    pending = rig.iop.fast_path().pending
    request = Request(CHECK, ROUTE, 0)
    scheduler, replies = rig.iop.scheduler, rig.iop.replies
    for begin, end in (
        (lambda: scheduler.at(5, request, print), lambda: scheduler.take_back(lambda one: True)),
        (lambda: replies.backlog.append(b""), replies.clear),
        (lambda: scheduler.at(5, request, print), scheduler.clear),
        (lambda: scheduler.start(request, a_job()), scheduler.clear),
        (lambda: rig.iop._stuck.append((0x7777, CHECK)), lambda: rig.iop.end_static(0x7777)),
    ):
        assert not any(map(len, pending))
        begin()
        assert any(map(len, pending))
        end()
        assert not any(map(len, pending))


def test_handlers_are_no_more_than_so_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("i2o.iop_emulator.soft_iop._MOST_KNOWN", 3)
    rig, handlers = ready()
    for words in (5, 6, 7, 8, 9):
        rig.call(utility.UTIL_LOCK.build(target_address=DISK).ljust(4 * words, b"\0"))
        assert 1 <= len(handlers) <= 3


def test_a_device_that_is_put_into_the_place_of_another_is_asked() -> None:
    rig, handlers = ready()

    class Other(Ddm):
        device_class = DeviceClass.RANDOM_BLOCK_STORAGE.value

    rig.iop.lct.remove(DISK)
    rig.iop.lct.add(Other(rig.iop, DISK))
    assert not handlers
    assert rig.call(CHECK).status != (0, 0)


def test_errors_of_the_other_side_are_answered_and_others_are_not() -> None:
    rig, _ = ready()
    failed = rig.iop.fast_path().on_error
    request = Request(CHECK, ROUTE, 0)
    before = rig.iop.counters.bad_requests
    reply = failed(request, DmaFault(0x10, 4, "no host buffer covers it"))
    assert reply[19]
    assert rig.iop.counters.bad_requests == before + 1
    rig.iop.lct.remove(DISK)  # as a handler may do before it fails
    assert failed(request, DmaFault(0x10, 4, "")) == request.refuse()
    assert rig.iop.counters.bad_requests == before + 1
    with pytest.raises(ZeroDivisionError):
        failed(request, ZeroDivisionError())
