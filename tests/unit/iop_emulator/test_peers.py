# SPDX-License-Identifier: Apache-2.0
"""IOPs that are connected with one another: aliases, what goes over them, and how they end."""

from __future__ import annotations

import struct
from collections.abc import Callable

import pytest

from fakes.iop_rig import DISK, Reply, Rig
from i2o.errors import LocalFrameError
from i2o.frames import block_storage as bsa
from i2o.frames import executive as x
from i2o.frames import executive_groups, params, tables, utility
from i2o.frames.executive import ExecutiveEvent
from i2o.frames.functions import DeviceClass, Function
from i2o.frames.header import EMPTY_MFA, FAIL_REPLY, FAILURE_REPLY, FailureCode
from i2o.frames.params import ParamOperation
from i2o.frames.sgl import simple_sgl
from i2o.frames.tables import IopState
from i2o.iop_emulator.block_store import MemoryDisk
from i2o.iop_emulator.faults import FaultPlan
from i2o.iop_emulator.iop_system import IopSystem
from i2o.iop_emulator.peers import FIRST_ALIAS_TID, MAX_ALIASES, MAX_FORWARDS
from i2o.iop_emulator.soft_iop import SoftIop
from i2o.transport.bus_space import BusSpace
from i2o.transport.local_unit import LocalUnit

PLAIN = (0, 0)
ABORTED_DIRTY = (8, 0)
HERE, THERE = 2, 3


class Pair:
    """Two IOPs that are connected, and the alias on `here` of the disk on `there`."""

    def __init__(self, faults: FaultPlan | None = None, **options) -> None:
        self.system = IopSystem()
        self.here = Rig([MemoryDisk(1 << 20)], system=self.system, frames=512, replies=512)
        self.there = Rig(
            [MemoryDisk(2 << 20, serial="THERE")],
            system=self.system,
            faults=faults,
            **{"frames": 16, **options},
        )
        self.here.set_system_table(HERE, HERE, THERE)
        self.there.set_system_table(THERE, HERE, THERE)
        self.executive = connect(self.here, THERE)
        self.disk = alias(self.here, self.executive)

    def check(self) -> bytes:
        return check(self.disk)


def check(tid: int, context: int = 0x22) -> bytes:
    frame: bytes = bsa.BSA_STATUS_CHECK.build(
        target_address=tid, initiator_context=0x11, transaction_context=context
    )
    return frame


def connect(rig: Rig, iop_id: int) -> int:
    reply = rig.call(x.EXEC_IOP_CONNECT.build(iop_id1=iop_id))
    assert reply.status == PLAIN
    told = x.EXEC_IOP_CONNECT_REPLY.unpack_from(reply.data)
    assert told.iop_id2 == rig.iop.executive.iop_id
    assert told.iop2_inbound_msg_frame_size == 128
    return told.iop2_alias_for_iop1


def setup(rig: Rig, executive: int, target: int = DISK, **fields: int) -> Reply:
    frame = x.EXEC_CONN_SETUP.build(
        target_address=executive,
        object_info_target_device=target,
        **{"object_info_initiator_device": 1, **fields},
    )
    return rig.call(frame)


def alias(rig: Rig, executive: int, target: int = DISK) -> int:
    told = x.EXEC_CONN_SETUP_REPLY.unpack_from(setup(rig, executive, target).data)
    assert told.object_info_reply_status_code == 0
    assert told.object_info_target_device == target
    assert told.alias_info_iop2_alias_for_initiator_device >= FIRST_ALIAS_TID
    assert told.iop2_inbound_msg_frame_size in (16, 128)
    return told.alias_info_iop1_alias_for_target_device


def failure(reply: Reply) -> FailureCode:
    assert reply.flags == FAIL_REPLY
    return FailureCode(FAILURE_REPLY.unpack_from(reply.data).failure_code)


def give_back(rig: Rig, fail: Reply) -> None:
    mfa = FAILURE_REPLY.unpack_from(fail.data).preserved_mfa_low
    rig.unit.write(mfa, utility.UTIL_NOP.build())
    rig.unit.post(mfa)
    rig.run()


# --- connecting ---------------------------------------------------------------------------------


def test_connecting_again_finds_the_same_aliases_and_works_from_both_sides():
    pair = Pair()
    assert connect(pair.here, THERE) == pair.executive
    assert alias(pair.here, pair.executive) == pair.disk
    back = connect(pair.there, HERE)
    assert pair.there.call(check(alias(pair.there, back))).status == PLAIN


def test_who_cannot_be_connected_with():
    system = IopSystem()
    here, there, third = (Rig(system=system) for _ in range(3))
    here.set_system_table(HERE, HERE, THERE, 4, 5)

    def ask(iop_id: int) -> tuple[int, int]:
        return here.call(x.EXEC_IOP_CONNECT.build(iop_id1=iop_id)).status

    assert ask(HERE) == ask(9) == (5, 0x11), "itself, or not in the table"
    assert ask(5) == (5, 0x1C), "in the table and not on this bus"
    there.set_system_table(THERE, THERE)
    assert ask(THERE) == (5, 0x1C), "does not know this one"
    for rig in (there, third):
        rig.set_system_table(THERE, HERE, THERE)
    assert ask(THERE) == (5, 0x1C), "two have that id"
    third.set_system_table(4, HERE, 4)
    third.call(x.EXEC_SYS_QUIESCE.build())
    assert ask(4) == (5, 0x12), "not OPERATIONAL"
    third.call(x.EXEC_SYS_ENABLE.build())
    here.call(x.EXEC_SYS_QUIESCE.build())
    assert ask(4) == (5, 0x12), "this one is not, either"
    here.call(x.EXEC_SYS_ENABLE.build())
    assert ask(4) == PLAIN


def test_an_iop_without_a_system_reaches_nobody():
    rig = Rig()
    rig.set_system_table(HERE, HERE, THERE)
    assert rig.call(x.EXEC_IOP_CONNECT.build(iop_id1=THERE)).status == (5, 0x1C)
    assert rig.status_block().iop_capabilities == 0
    assert Pair().here.status_block().iop_capabilities == 0x70


def test_the_executive_tells_of_connections_that_it_can():
    pair = Pair()
    executive = pair.here.iop.lct.devices[0]
    wanted = ExecutiveEvent.XCT_CHANGE | ExecutiveEvent.CONNECTION_FAIL
    assert executive.event_capabilities & wanted == wanted


def test_a_request_on_its_way_does_not_hold_up_the_news_of_another_lct():
    pair = Pair()
    pair.there.iop.misbehave(FaultPlan().on("BSA_STATUS_CHECK").delay(ms=1000))
    pair.here.post(check(pair.disk))  # parked before the LctNotify
    buffer = pair.here.buffer(4096)
    notify = x.EXEC_LCT_NOTIFY.build(
        class_identifier=0xFFFFFFFF,
        last_reported_change_indicator=pair.here.iop.lct.indicator + 1,
        message_size=10,
    )
    pair.here.post(notify + simple_sgl(((buffer.bus_address, 4096),), out=False))
    assert pair.here.replies() == []
    pair.here.iop.bay.add(MemoryDisk(1 << 16))
    assert [reply.data[7] for reply in pair.here.replies()] == [Function.EXEC_LCT_NOTIFY]


def test_the_iops_of_a_system_share_its_memory():
    with pytest.raises(LocalFrameError, match=r"LocalUnit\(system.memory\)"):
        SoftIop(LocalUnit(BusSpace()), system=IopSystem())


@pytest.mark.parametrize(
    ("target", "fields"),
    [
        (0x7FF, {}),
        (0, {}),
        (DISK, {"object_info_initiator_device": 0}),
        (DISK, {"message_class": DeviceClass.LAN}),
    ],
)
def test_what_cannot_get_an_alias(target, fields):
    pair = Pair()
    reply = setup(pair.here, pair.executive, target, **fields)
    assert reply.data[19] == 5
    assert any("ConnSetup" in sentence for sentence in pair.here.complaints)


def test_an_alias_of_an_alias_and_a_private_device_get_none():
    pair = Pair()
    back = connect(pair.there, HERE)
    assert setup(pair.there, back, pair.disk).data[19] == 5
    pair.here.call(utility.UTIL_CLAIM.build(target_address=DISK, claim_flags=0x10))
    assert setup(pair.there, back).data[19] == 5


def test_a_setup_needs_the_alias_of_an_executive():
    pair = Pair()
    assert setup(pair.here, 0).data[19] == 5
    assert setup(pair.here, pair.disk).data[19] == 5, "a disk sets nothing up"
    for klass in (DeviceClass.RANDOM_BLOCK_STORAGE, DeviceClass.MATCH_ANYCLASS):
        assert setup(pair.here, pair.executive, message_class=klass).data[19] == 0


def test_there_are_only_so_many_aliases(monkeypatch):
    monkeypatch.setattr("i2o.iop_emulator.peers.MAX_ALIASES", 3)
    pair = Pair()
    assert setup(pair.here, pair.executive, 8).data[19] == 0
    assert setup(pair.here, pair.executive, DISK).data[19] == 0, "it is there already"
    pair.there.iop.bay.add(MemoryDisk(1 << 20))
    assert setup(pair.here, pair.executive, DISK + 1).data[19] == 5
    third = Rig(system=pair.system)
    third.set_system_table(4, HERE, 4)
    pair.here.set_system_table(HERE, HERE, THERE, 4)
    assert pair.here.call(x.EXEC_IOP_CONNECT.build(iop_id1=4)).status == (5, 0x06)
    assert MAX_ALIASES == 256


# --- what the tables say ------------------------------------------------------------------------


def lct(rig: Rig) -> dict[int, object]:
    size = rig.iop.lct.size
    buffer = rig.buffer(size)
    sgl = simple_sgl([(buffer.bus_address, size)], out=False)
    assert rig.call(x.EXEC_LCT_NOTIFY.build() + sgl).status == PLAIN
    entries = range(12, size, 36)
    rows = [tables.LCT_ENTRY.unpack_from(buffer.view, place) for place in entries]
    return {row.local_tid: row for row in rows}


def connections(rig: Rig) -> list[tuple[int, int, int]]:
    layout = executive_groups.EXEC_EXTERNAL_CONNECTION_TABLE
    operation = struct.pack("<3H", ParamOperation.TABLE_GET, layout.number, 0xFFFF)
    _, (block,) = rig.parameters(0, operation)
    (count,) = struct.unpack_from("<H", block.data)
    rows = [layout.unpack_from(block.data, 4 + n * layout.size) for n in range(count)]
    return [(row.local_alias_tid, row.remote_tid, row.remote_iop) for row in rows]


def test_the_lct_and_the_connection_table_show_aliases():
    pair = Pair()
    found = lct(pair.here)
    executive, disk = found[pair.executive], found[pair.disk]
    assert executive.class_id_class == DeviceClass.PEER_TRANSPORT
    assert (disk.class_id_class, disk.parent_tid) == (0x10, pair.executive)
    assert bytes(disk.identity_tag) == b"THERE   "
    assert disk.user_tid == 0xFFF
    assert connections(pair.here) == [(pair.executive, 0, THERE), (pair.disk, DISK, THERE)]
    assert len(connections(pair.there)) == 1


def test_the_user_of_an_alias_is_who_it_is_from_here():
    pair = Pair()
    claim = utility.UTIL_CLAIM.build(target_address=pair.disk)
    assert pair.here.call(claim).status == PLAIN
    assert lct(pair.here)[pair.disk].user_tid == 1
    assert lct(pair.there)[DISK].user_tid >= FIRST_ALIAS_TID
    local = utility.UTIL_CLAIM.build(target_address=DISK)
    assert pair.there.call(local).status == (5, 0x1B)
    release = utility.UTIL_CLAIM_RELEASE.build(target_address=pair.disk)
    assert pair.here.call(release).status == PLAIN
    assert pair.there.call(local).status == PLAIN
    assert lct(pair.here)[pair.disk].user_tid == pair.executive


def test_a_new_alias_is_told_about():
    pair = Pair()
    rig = pair.here
    mask = int(ExecutiveEvent.NEW_LCT_ENTRY | ExecutiveEvent.XCT_CHANGE)
    rig.post(utility.UTIL_EVENT_REGISTER.build(event_mask=mask))
    buffer = rig.buffer(1024)
    indicator = rig.iop.lct.indicator
    rig.post(
        x.EXEC_LCT_NOTIFY.build(last_reported_change_indicator=indicator + 1)
        + simple_sgl([(buffer.bus_address, 1024)], out=False)
    )
    assert rig.replies() == []
    rig.post(
        x.EXEC_CONN_SETUP.build(
            target_address=pair.executive,
            object_info_target_device=8,
            object_info_initiator_device=1,
        )
    )
    assert [reply.data[7] for reply in rig.replies()] == [0xA2, 0x13, 0x13, 0xCA]


# --- messages -----------------------------------------------------------------------------------


def test_a_message_to_an_alias_reaches_the_device_and_its_reply_comes_from_the_alias():
    pair = Pair()
    data = pair.here.buffer(b"over there".ljust(512, b"\0"))
    write = bsa.BSA_BLOCK_WRITE.build(
        target_address=pair.disk,
        initiator_context=0x11,
        transaction_context=0x22,
        transfer_byte_count=512,
        logical_byte_address=1 << 20,
    )
    sgl = simple_sgl([(data.bus_address, 512)], out=True)
    reply = pair.here.call(write + sgl)
    assert reply.status == PLAIN
    assert reply.data[4:16] == write[4:16], "target, initiator, function and contexts"
    views = [memoryview(bytearray(16))]
    pair.there.iop.bay.disk(DISK).store.read_into(1 << 20, views)
    assert bytes(views[0]) == b"over there".ljust(16, b"\0")
    assert pair.there.iop.counters.requests > 0
    assert not pair.here.iop.executive.peers.is_waiting


def test_parameters_of_an_alias_are_those_of_the_device():
    pair = Pair()
    read = struct.pack("<3H", ParamOperation.FIELD_GET, params.DEVICE_IDENTITY.number, 0xFFFF)
    _, (block,) = pair.here.parameters(pair.disk, read)
    identity = params.DEVICE_IDENTITY.unpack_from(block.data)
    assert identity.serial_number[:5] == b"THERE"
    _, (block,) = pair.here.parameters(pair.executive, read)
    assert params.DEVICE_IDENTITY.unpack_from(block.data).class_id & 0xFFF == 0


def test_what_an_executive_does_for_another_host():
    pair = Pair()
    rig = pair.here
    buffer = rig.buffer(4096)
    sgl = simple_sgl([(buffer.bus_address, 4096)], out=False)
    to_executive = {"target_address": pair.executive}
    assert rig.call(x.EXEC_LCT_NOTIFY.build(**to_executive) + sgl).status == PLAIN
    assert rig.call(x.EXEC_HRT_GET.build(**to_executive) + sgl).status == PLAIN
    assert rig.call(utility.UTIL_LOCK.build(**to_executive)).status == PLAIN
    for layout in (x.EXEC_IOP_CLEAR, x.EXEC_SYS_QUIESCE, x.EXEC_STATIC_MF_CREATE):
        assert rig.call(layout.build(**to_executive)).status == (5, 0x0D)
    status = rig.buffer(88)
    for layout in (x.EXEC_IOP_RESET, x.EXEC_OUTBOUND_INIT):
        frame = bytearray(layout.build())
        frame[4:8] = struct.pack("<I", frame[7] << 24 | 1 << 12 | pair.executive)
        rig.post(bytes(frame))
        rig.replies()
    assert pair.there.state == IopState.OPERATIONAL
    frame = bytearray(x.EXEC_STATUS_GET.build(reply_buffer_address_low=status.bus_address))
    frame[4:8] = struct.pack("<I", frame[7] << 24 | 1 << 12 | pair.executive)
    rig.post(bytes(frame))
    assert rig.replies() == []
    assert tables.STATUS_BLOCK.unpack_from(status.view).iop_id == THERE


def test_a_nop_to_an_alias_stays_here():
    pair = Pair()
    before = pair.there.iop.counters.requests
    pair.here.post(utility.UTIL_NOP.build(target_address=pair.disk))
    assert pair.here.replies() == []
    assert pair.there.iop.counters.requests == before
    assert pair.here.unit.idle_inbound() == 512


def test_events_of_the_device_come_from_the_alias():
    pair = Pair()
    pair.here.post(
        utility.UTIL_EVENT_REGISTER.build(target_address=pair.disk, event_mask=0xFFFFFFFF)
    )
    assert pair.here.replies() == []
    assert pair.there.call(bsa.BSA_DEVICE_RESET.build(target_address=DISK)).status == PLAIN
    (event,) = pair.here.replies()
    assert event.data[7] == 0x13
    assert event.words[1] & 0xFFF == pair.disk


def test_a_lock_tells_hosts_apart():
    pair = Pair()
    assert pair.here.call(utility.UTIL_LOCK.build(target_address=pair.disk)).status == PLAIN
    assert pair.there.call(utility.UTIL_LOCK.build(target_address=DISK)).status == (5, 0x0B)


def slow(*functions: Function) -> FaultPlan:
    plan = FaultPlan()
    for function in functions or (Function.BSA_STATUS_CHECK,):
        plan.on(function).delay(10)
    return plan


def test_slow_replies_come_when_only_one_side_is_run():
    pair = Pair(faults=slow())
    pair.here.post(pair.check())
    assert pair.here.replies() == []
    assert pair.here.iop.next_deadline_ns(0) == 10_000_000
    assert not pair.here.iop.is_idle
    pair.here.advance(10)
    assert [reply.status for reply in pair.here.replies()] == [PLAIN]
    assert pair.here.iop.next_deadline_ns(pair.here.now_ns) is None
    assert pair.here.iop.is_idle


def test_progress_comes_before_the_end():
    pair = Pair()
    frame = bsa.BSA_MEDIA_VERIFY.build(
        target_address=pair.disk, byte_count=2 << 20, control_flags=0x80
    )
    pair.here.post(frame)
    seen = []
    for _ in range(100):
        seen += pair.here.replies()
    assert seen[-1].status == PLAIN
    assert {reply.data[19] for reply in seen[:-1]} == {0x80}
    assert all(reply.words[1] & 0xFFF == pair.disk for reply in seen)


def test_an_abort_goes_over_and_what_it_aborts_comes_back():
    pair = Pair(faults=slow())
    pair.here.post(pair.check())
    assert pair.here.replies() == []
    pair.here.post(utility.UTIL_ABORT.build(target_address=pair.disk, abort_type=3))
    aborted, done = pair.here.replies()
    assert (aborted.status, done.words[4]) == ((2, 0), 1)
    pair.here.advance(10)
    assert pair.here.replies() == []


def test_a_change_of_the_lct_here_answers_nothing_that_is_over_there():
    pair = Pair(faults=slow())
    pair.here.post(pair.check())
    buffer = pair.here.buffer(1024)
    notify = x.EXEC_LCT_NOTIFY.build(
        target_address=pair.executive,
        last_reported_change_indicator=pair.there.iop.lct.indicator + 1,
    )
    pair.here.post(notify + simple_sgl([(buffer.bus_address, 1024)], out=False))
    assert pair.here.replies() == []
    for _ in range(9):
        pair.here.iop.bay.add(MemoryDisk(1 << 20))
    assert pair.here.replies() == []
    pair.there.iop.bay.add(MemoryDisk(1 << 20))
    assert [reply.data[7] for reply in pair.here.replies()] == [0xA2]
    pair.here.advance(10)
    assert [reply.status for reply in pair.here.replies()] == [PLAIN]


def test_a_device_reset_here_ends_it_there():
    pair = Pair(faults=slow())
    pair.here.post(pair.check())
    assert pair.here.replies() == []
    pair.here.post(x.EXEC_DDM_RESET.build(device_tid=pair.disk))
    aborted, done = pair.here.replies()
    assert (aborted.status, done.status) == ((9, 0), PLAIN)
    assert not pair.there.iop.scheduler.any(lambda request: True)
    pair.here.advance(10)
    assert pair.here.replies() == []


def test_quiescing_an_alias_holds_requests_back_here():
    pair = Pair()
    assert pair.here.call(x.EXEC_DDM_QUIESCE.build(device_tid=pair.disk)).status == PLAIN
    fail = pair.here.call(pair.check())
    assert failure(fail) == FailureCode.SERVICE_SUSPENDED
    assert pair.here.call(x.EXEC_DDM_ENABLE.build(device_tid=pair.disk)).status == PLAIN
    assert pair.here.call(pair.check()).status == PLAIN


def test_what_belongs_to_another_iop_is_not_assigned_or_destroyed_here():
    pair = Pair()
    rig = pair.here
    ddm = alias(rig, pair.executive, 8)
    for frame in (
        x.EXEC_DDM_DESTROY.build(ddm_tid=ddm),
        x.EXEC_DDM_SUSPEND.build(ddm_tid=ddm),
        x.EXEC_DEVICE_RELEASE.build(device_tid=pair.disk, ddm_tid=pair.executive),
        x.EXEC_DEVICE_ASSIGN.build(device_tid=DISK, ddm_tid=ddm),
        x.EXEC_ADAPTER_ASSIGN.build(ddm_tid=ddm, hrt_entry_adapter_id=1),
    ):
        assert rig.call(frame).status == (5, 0x11)
    assert rig.call(x.EXEC_DDM_QUIESCE.build(device_tid=ddm)).status == PLAIN
    assert failure(rig.call(check(ddm))) == FailureCode.SERVICE_SUSPENDED
    pair.there.iop.power_cycle()
    assert ddm not in lct(rig)


def test_what_keeps_a_message_from_going_over_is_a_fail_with_the_frame_preserved():
    pair = Pair(frame_size=64)
    rig, other = pair.here, pair.there

    def refused(frame: bytes) -> FailureCode:
        before = rig.unit.held_by_host()
        fail = rig.call(frame)
        assert FAILURE_REPLY.unpack_from(fail.data).failing_iop_id == HERE
        assert rig.unit.held_by_host() == before + 1
        give_back(rig, fail)
        assert rig.unit.held_by_host() == before
        return failure(fail)

    assert refused(pair.check() + bytes(64)) == FailureCode.FRAME_TOO_LARGE
    other.call(x.EXEC_DDM_QUIESCE.build(device_tid=DISK))
    assert refused(pair.check()) == FailureCode.SERVICE_SUSPENDED
    other.call(x.EXEC_DDM_ENABLE.build(device_tid=DISK))
    other.call(x.EXEC_SYS_QUIESCE.build())
    assert refused(pair.check()) == FailureCode.STATE_ERROR
    other.call(x.EXEC_SYS_ENABLE.build())
    assert rig.call(pair.check()).status == PLAIN
    other.iop.bay.remove(DISK)
    assert refused(pair.check()) == FailureCode.INVALID_TARGET_ID


def test_too_many_on_their_way_is_congestion():
    pair = Pair(faults=slow())
    for number in range(MAX_FORWARDS):
        pair.here.post(check(pair.disk, number))
    for _ in range(MAX_FORWARDS // 64):
        assert pair.here.replies() == []
    fail = pair.here.call(pair.check())
    assert failure(fail) == FailureCode.CONGESTION
    give_back(pair.here, fail)
    pair.here.advance(10)
    replies = pair.here.replies()
    assert sorted(reply.words[3] for reply in replies) == list(range(MAX_FORWARDS))
    assert pair.here.unit.idle_inbound() == 512


def test_requests_that_look_the_same_are_answered_once_each():
    pair = Pair(faults=slow())
    for _ in range(3):
        pair.here.post(pair.check())
    pair.here.run()
    pair.here.advance(10)
    assert [reply.status for reply in pair.here.replies()] == [PLAIN] * 3
    assert pair.here.call(x.EXEC_IOP_CLEAR.build()).status == PLAIN, "none is left to abort"


# --- faults over there --------------------------------------------------------------------------


def test_of_requests_that_look_the_same_the_one_that_ended_is_answered():
    """What is left is what the other IOP still does: an abort of it reaches that."""
    pair = Pair()
    rig, other = pair.here, pair.there
    buffers = [rig.buffer(b"\xee" * 1024) for _ in range(2)]
    for buffer, changes in zip(buffers, (2, 1), strict=True):
        notify = x.EXEC_LCT_NOTIFY.build(
            target_address=pair.executive,
            last_reported_change_indicator=other.iop.lct.indicator + changes,
        )
        rig.post(notify + simple_sgl([(buffer.bus_address, 1024)], out=False))
    assert rig.replies() == []
    other.iop.bay.add(MemoryDisk(1 << 20))
    assert [reply.status for reply in rig.replies()] == [PLAIN]
    rig.post(x.EXEC_DDM_RESET.build(device_tid=pair.executive))
    assert [reply.status for reply in rig.replies()] == [(9, 0), PLAIN]
    other.iop.bay.add(MemoryDisk(1 << 20))
    assert rig.replies() == []
    first, second = (bytes(buffer.view) for buffer in buffers)
    assert first == b"\xee" * 1024, "it was aborted, and written all the same"
    assert second != b"\xee" * 1024


def test_faults_of_the_other_iop_reach_over():
    plan = FaultPlan()
    plan.on(Function.BSA_STATUS_CHECK).times(1).fail(FailureCode.UNKNOWN_FAILURE)
    plan.on(Function.BSA_STATUS_CHECK).times(1).reply(5, 3)
    plan.on(Function.BSA_STATUS_CHECK).times(1).stall(7)
    pair = Pair(faults=plan)
    fail = pair.here.call(pair.check())
    told = FAILURE_REPLY.unpack_from(fail.data)
    assert (told.failing_iop_id, told.preserved_mfa_low) == (THERE, EMPTY_MFA)
    assert told.transaction_context == 0x22
    assert fail.words[1] & 0xFFF == pair.disk
    assert pair.here.call(pair.check()).status == (5, 3)
    pair.here.post(pair.check())
    pair.here.post(pair.check())
    assert pair.here.replies() == [], "it stands still"
    pair.here.advance(7)
    assert [reply.status for reply in pair.here.replies()] == [PLAIN, PLAIN]


def test_what_was_delayed_here_until_the_way_was_gone_is_aborted():
    system = IopSystem()
    here, there = Rig(faults=slow(), system=system), Rig(system=system)
    here.set_system_table(HERE, HERE, THERE)
    there.set_system_table(THERE, HERE, THERE)
    disk = alias(here, connect(here, THERE))
    here.post(check(disk))
    here.run()
    there.call(x.EXEC_SYS_QUIESCE.build())
    here.advance(10)
    assert [reply.status for reply in here.replies()] == [(9, 0)]
    here.post(check(disk))
    there.call(x.EXEC_SYS_ENABLE.build())
    here.run()
    there.iop.power_cycle()
    here.advance(20)
    (fail,) = here.replies()
    assert fail.status == (5, 0x0A), "the alias is not there any more"


# --- the end ------------------------------------------------------------------------------------


def reset(rig: Rig) -> None:
    word = rig.buffer(4)
    rig.post(x.EXEC_IOP_RESET.build(status_word_low_address=word.bus_address))
    rig.run()


ENDS: dict[str, Callable[[Rig], object]] = {
    "reset": reset,
    "power cycle": lambda rig: rig.iop.power_cycle(),
    "clear": lambda rig: rig.call(x.EXEC_IOP_CLEAR.build()),
    "outbound init": lambda rig: rig.init_outbound(),
    "fail": lambda rig: rig.iop.fail(),
    "crash": lambda rig: rig.iop.crash(),
    "close": lambda rig: rig.iop.close(),
    "leaves the table": lambda rig: rig.set_system_table(THERE, THERE),
}


@pytest.mark.parametrize("how", ENDS)
def test_when_the_other_iop_ends_requests_end_once_and_aliases_lead_nowhere(how):
    pair = Pair(faults=slow())
    rig = pair.here
    mask = int(ExecutiveEvent.CONNECTION_FAIL | ExecutiveEvent.XCT_CHANGE)
    rig.post(utility.UTIL_EVENT_REGISTER.build(event_mask=mask))
    for number in (1, 2):
        rig.post(check(pair.disk, number))
    assert rig.replies() == []
    ENDS[how](pair.there)
    replies = rig.replies()
    ended = [reply for reply in replies if reply.data[7] == Function.BSA_STATUS_CHECK]
    assert sorted(reply.words[3] for reply in ended) == [1, 2]
    assert {reply.status for reply in ended} <= {ABORTED_DIRTY, (9, 0)}
    events = [reply.words[4:6] for reply in replies if reply.data[7] == 0x13]
    assert events == [(0x80, 0), (0x02, 1)]
    assert not rig.iop.executive.peers.is_waiting
    assert {pair.disk, pair.executive}.isdisjoint(lct(rig))
    assert connections(rig) == []
    for tid in (pair.disk, pair.executive):
        fail = rig.call(check(tid))
        assert failure(fail) == FailureCode.ROUTING_FAILURE
        give_back(rig, fail)
    rig.advance(50)
    assert rig.replies() == []
    assert rig.unit.idle_inbound() == 512


@pytest.mark.parametrize("how", ["reset", "power cycle", "outbound init", "crash", "close"])
def test_when_this_iop_ends_the_other_one_does_nothing_for_it_any_more(how):
    pair = Pair(faults=slow(Function.BSA_READ))
    rig, other = pair.here, pair.there
    assert rig.call(utility.UTIL_CLAIM.build(target_address=pair.disk)).status == PLAIN
    assert rig.call(utility.UTIL_LOCK.build(target_address=pair.disk)).status == PLAIN
    rig.post(utility.UTIL_EVENT_REGISTER.build(target_address=pair.disk, event_mask=0xFFFFFFFF))
    data = rig.buffer(b"\xee" * 512)
    rig.post(
        bsa.BSA_BLOCK_READ.build(target_address=pair.disk, transfer_byte_count=512)
        + simple_sgl([(data.bus_address, 512)], out=False)
    )
    assert rig.replies() == []
    ENDS[how](rig)
    other.advance(50)
    assert bytes(data.view) == b"\xee" * 512, "nothing was written after the reset"
    assert len(other.iop.events) == 0
    assert lct(other)[DISK].user_tid == 0xFFF
    assert other.call(utility.UTIL_LOCK.build(target_address=DISK)).status == PLAIN
    assert connections(other) == []
    assert [device.tid for device in rig.iop.lct] == [0, 8, DISK]
    assert rig.replies() == []


def test_who_gets_the_alias_tid_of_one_that_is_gone_begins_tables_anew():
    pair = Pair()
    rig, other = pair.here, pair.there
    group = params.GROUP_DESCRIPTORS.number
    get = struct.pack("<3H", ParamOperation.TABLE_GET, group, 0xFFFF)
    more = struct.pack("<3H", ParamOperation.MORE_GET, group, 0xFFFF)
    (initiator,) = (
        alias.initiator_tid for alias in rig.iop.lct if alias.tid == pair.disk
    )  # who reads, as the other IOP sees it
    rig.parameters(pair.disk, get, size=64)
    engine = other.iop.lct.devices[DISK].parameters
    assert engine.cursor(initiator) is not None
    _, (block,) = rig.parameters(pair.disk, more, size=64)
    assert block.status == 0
    rig.iop.power_cycle()
    assert engine.cursor(initiator) is None


def test_a_clear_here_answers_what_was_on_its_way_once():
    pair = Pair(faults=slow())
    pair.here.post(pair.check())
    pair.here.post(x.EXEC_IOP_CLEAR.build())
    assert [reply.status for reply in pair.here.replies()] == [(9, 0), PLAIN]
    pair.here.advance(50)
    assert pair.here.replies() == []


def test_after_a_reset_the_iops_can_be_connected_again():
    pair = Pair()
    reset(pair.there)
    pair.there.bring_up()
    pair.there.set_system_table(THERE, HERE, THERE)
    assert failure(pair.here.call(pair.check())) == FailureCode.ROUTING_FAILURE
    fresh = alias(pair.here, connect(pair.here, THERE))
    assert fresh != pair.disk, "an old TID does not come to life again"
    assert pair.here.call(check(fresh)).status == PLAIN
    reset(pair.here)
    assert [device.tid for device in pair.here.iop.lct] == [0, 8, DISK]
    assert pair.here.iop.lct.retired == pair.here.iop.lct.withheld == {}


def test_old_alias_tids_are_used_again_when_there_are_no_others(monkeypatch):
    monkeypatch.setattr("i2o.iop_emulator.peers.MAX_ALIASES", 3)
    pair = Pair()
    for _ in range(4):
        pair.there.iop.power_cycle()
        pair.there.bring_up()
        pair.there.set_system_table(THERE, HERE, THERE)
        fresh = alias(pair.here, connect(pair.here, THERE))
        assert pair.here.call(check(fresh)).status == PLAIN


def test_a_third_iop_is_not_disturbed():
    pair = Pair()
    third = Rig(system=pair.system)
    third.set_system_table(4, HERE, THERE, 4)
    pair.here.set_system_table(HERE, HERE, THERE, 4)
    disk = alias(pair.here, connect(pair.here, 4))
    pair.there.iop.crash()
    assert pair.here.call(check(disk)).status == PLAIN
    assert {iop for _, _, iop in connections(pair.here)} == {4}


def test_two_iops_may_wait_for_each_other():
    system = IopSystem()
    here, there = (Rig(faults=slow(), system=system) for _ in range(2))
    here.set_system_table(HERE, HERE, THERE)
    there.set_system_table(THERE, HERE, THERE)
    to_there, to_here = (alias(a, connect(a, b)) for a, b in ((here, THERE), (there, HERE)))
    here.post(check(to_there))
    there.post(check(to_here))
    here.run()
    there.run()
    here.advance(10)
    for rig in (here, there):
        assert rig.iop.executive.peers.is_waiting
        assert rig.iop.next_deadline_ns(here.now_ns) == 20_000_000
    here.advance(10)
    assert not here.iop.executive.peers.is_waiting
    assert [reply.status for reply in (*here.replies(), *there.replies())] == [PLAIN, PLAIN]
