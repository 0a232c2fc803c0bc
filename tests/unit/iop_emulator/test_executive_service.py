# SPDX-License-Identifier: Apache-2.0
"""Quiesce, suspend, destroy, assignments: who is served, and what becomes of other requests."""

from __future__ import annotations

import pytest

from fakes.iop_rig import DISK, Reply, Rig
from i2o.frames import block_storage as bsa
from i2o.frames import executive as x
from i2o.frames import tables, utility
from i2o.frames.executive import ExecutiveEvent
from i2o.frames.functions import Function
from i2o.frames.header import FailureCode, MsgFlags
from i2o.frames.sgl import simple_sgl
from i2o.frames.utility import GenericEvent
from i2o.iop_emulator.block_store import MemoryDisk
from i2o.iop_emulator.faults import FaultPlan
from i2o.iop_emulator.lct import BUILT_IN_DDM
from i2o.iop_emulator.options import IopOptions

CHECK = bsa.BSA_STATUS_CHECK.build(target_address=DISK)
SECOND = DISK + 1
PLAIN = (0, 0)


def two_disks(**options: object) -> Rig:
    return Rig([MemoryDisk(1 << 20), MemoryDisk(1 << 20)], **options)


def check(rig: Rig, tid: int) -> Reply:
    return rig.call(bsa.BSA_STATUS_CHECK.build(target_address=tid))


def failure(reply: Reply) -> FailureCode | None:
    """Return why a request could not be delivered, if it could not."""
    return FailureCode(reply.data[19]) if reply.flags & MsgFlags.FAIL else None


def give_back(rig: Rig, reply: Reply) -> None:
    """Send the preserved frame of a FAIL reply home."""
    mfa = reply.words[7]
    rig.unit.write(mfa, utility.UTIL_NOP.build())
    rig.unit.post(mfa)
    rig.run()


def parents(rig: Rig) -> dict[int, int]:
    return {device.tid: device.parent_tid for device in rig.iop.lct}


def test_a_quiesced_device_gets_no_requests_and_every_frame_comes_home():
    rig = two_disks()
    free = rig.unit.idle_inbound()
    assert rig.call(x.EXEC_DDM_QUIESCE.build(device_tid=DISK)).status == PLAIN
    for frame in (CHECK, utility.UTIL_CLAIM.build(target_address=DISK)):
        reply = rig.call(frame)
        assert failure(reply) == FailureCode.SERVICE_SUSPENDED
        assert rig.unit.held_by_host() == 1
        give_back(rig, reply)
    assert check(rig, SECOND).status == PLAIN
    assert check(rig, BUILT_IN_DDM).status[1] != 0
    assert rig.call(x.EXEC_DDM_ENABLE.build(device_tid=DISK)).status == PLAIN
    assert rig.call(CHECK).status == PLAIN
    assert rig.unit.idle_inbound() == free


def test_a_nop_to_a_quiesced_device_takes_its_frame_home():
    rig = Rig()
    rig.call(x.EXEC_DDM_QUIESCE.build(device_tid=DISK))
    free = rig.unit.idle_inbound()
    rig.post(utility.UTIL_NOP.build(target_address=DISK))
    assert rig.replies() == []
    assert rig.unit.idle_inbound() == free


def test_what_a_quiesced_device_has_already_is_finished():
    rig = Rig(faults=(plan := FaultPlan()))
    plan.on(Function.BSA_STATUS_CHECK).delay(10)
    rig.post(CHECK)
    rig.run()
    assert rig.call(x.EXEC_DDM_QUIESCE.build(device_tid=DISK)).status == PLAIN
    rig.advance(20)
    (late,) = rig.replies()
    assert late.status == PLAIN


def test_the_executive_is_always_served():
    rig = Rig()
    assert rig.call(x.EXEC_DDM_QUIESCE.build(device_tid=BUILT_IN_DDM)).status == PLAIN
    assert failure(rig.call(CHECK)) == FailureCode.SERVICE_SUSPENDED
    assert rig.call(x.EXEC_DDM_ENABLE.build(device_tid=BUILT_IN_DDM)).status == PLAIN
    assert rig.call(CHECK).status == PLAIN


@pytest.mark.parametrize("how", ["reset", "clear"])
def test_a_reset_lets_requests_through_again(how):
    rig = Rig()
    rig.call(x.EXEC_DDM_SUSPEND.build(ddm_tid=BUILT_IN_DDM))
    assert failure(rig.call(CHECK)) == FailureCode.SERVICE_SUSPENDED
    if how == "reset":
        rig.iop.reset()
        rig.bring_up()
    else:
        rig.iop.clear()
    assert rig.call(CHECK).status == PLAIN


def test_suspend_is_for_ddms():
    rig = Rig()
    assert rig.call(x.EXEC_DDM_SUSPEND.build(ddm_tid=DISK)).status == (5, 0x11)
    assert rig.call(CHECK).status == PLAIN


def test_ddm_reset_aborts_releases_and_tells():
    rig = two_disks(faults=(plan := FaultPlan()))
    plan.on(Function.BSA_STATUS_CHECK).delay(1000)
    rig.call(utility.UTIL_CLAIM.build(target_address=DISK, claim_type=1))
    rig.post(
        utility.UTIL_EVENT_REGISTER.build(
            target_address=DISK, event_mask=GenericEvent.DEVICE_RESET.value
        )
    )
    rig.post(CHECK)
    rig.run()
    rig.call(x.EXEC_DDM_QUIESCE.build(device_tid=DISK))
    rig.post(x.EXEC_DDM_RESET.build(device_tid=DISK))
    aborted, event, done = rig.replies()
    assert (aborted.data[7], aborted.status[0]) == (Function.BSA_STATUS_CHECK, 9)
    assert event.words[4:] == (GenericEvent.DEVICE_RESET, 1)
    assert done.status == PLAIN
    assert rig.iop.lct.devices[DISK].claims == []
    assert rig.call(utility.UTIL_EVENT_ACK.build(target_address=DISK)).flags & MsgFlags.FAIL == 0


def test_destroy_takes_a_ddm_and_its_devices_out_until_a_reset():
    rig = two_disks(faults=(plan := FaultPlan()))
    plan.on(Function.BSA_STATUS_CHECK).delay(1000)
    rig.post(
        utility.UTIL_EVENT_REGISTER.build(
            target_address=0, event_mask=ExecutiveEvent.MODIFIED_LCT.value
        )
    )
    rig.post(CHECK)
    rig.run()
    indicator = rig.iop.lct.indicator
    rig.post(x.EXEC_DDM_DESTROY.build(ddm_tid=BUILT_IN_DDM))
    aborted, *events, done = rig.replies()
    assert (aborted.data[7], aborted.status[0]) == (Function.BSA_STATUS_CHECK, 9)
    assert [event.words[4] for event in events] == [ExecutiveEvent.MODIFIED_LCT] * 3
    assert done.status == PLAIN
    assert rig.iop.lct.indicator == indicator + 1
    assert parents(rig) == {0: 0}
    reply = rig.call(CHECK)
    assert failure(reply) == FailureCode.SERVICE_TERMINATED
    give_back(rig, reply)
    assert len(rig.iop.bay.devices) == 2
    rig.iop.reset()
    assert parents(rig) == {0: 0, BUILT_IN_DDM: 0, DISK: BUILT_IN_DDM, SECOND: BUILT_IN_DDM}


def test_a_destroyed_disk_can_be_pulled_and_its_tid_is_not_taken_meanwhile():
    rig = Rig()
    rig.call(x.EXEC_DDM_DESTROY.build(ddm_tid=BUILT_IN_DDM))
    assert rig.iop.bay.add(MemoryDisk(4096)).tid == SECOND
    assert rig.iop.bay.remove(DISK).size == 1 << 20
    rig.iop.reset()
    assert set(parents(rig)) == {0, BUILT_IN_DDM, SECOND}


def test_a_path_to_an_iop_of_the_system_table_exists():
    rig = Rig()
    table = tables.SYSTAB_HEADER.build(number_entries=1) + tables.SYSTAB_IOP_ENTRY.build(iop_id=9)
    buffer = rig.buffer(table)
    sgl = simple_sgl([(buffer.bus_address, len(table))], out=True)
    assert rig.call(x.EXEC_PATH_RESET.build(iop_id=9)).status == (5, 0x11)
    assert "names IOP 0x009" in list(rig.complaints)[-1]
    assert rig.call(x.EXEC_SYS_MODIFY.build() + sgl).status == PLAIN
    assert rig.call(x.EXEC_PATH_RESET.build(iop_id=9)).status == PLAIN
    assert rig.iop.executive.iop_id == 2


# --- assignments ----------------------------------------------------------------------------------


def hrt(rig: Rig) -> tuple[int, int, int]:
    """Return adapter, controlling TID and state of the only entry."""
    entry = tables.HRT_ENTRY.unpack_from(rig.iop.executive.hrt(), tables.HRT_HEADER_SIZE)
    return entry.adapter_id, entry.controlling_tid, entry.adapter_state


def test_the_hrt_says_who_controls_the_adapter():
    rig = Rig()
    assert hrt(rig) == (1, BUILT_IN_DDM, 6)
    assert rig.call(x.EXEC_ADAPTER_RELEASE.build(hrt_entry_adapter_id=1)).status == PLAIN
    assert hrt(rig) == (1, 0xFFF, 4)
    _, (rows,) = rig.parameters(0, b"\x05\x00\x00\x01\xff\xff\x00\x00")
    assert rows.data[4:10] == b"\x01\0\0\0\xff\x4f"
    assign = x.EXEC_ADAPTER_ASSIGN.build(ddm_tid=BUILT_IN_DDM, hrt_entry_adapter_id=1)
    assert rig.call(assign).status == PLAIN
    assert hrt(rig) == (1, BUILT_IN_DDM, 6)
    rig.call(x.EXEC_ADAPTER_RELEASE.build(hrt_entry_adapter_id=1))
    rig.iop.reset()
    assert hrt(rig) == (1, BUILT_IN_DDM, 6)


@pytest.mark.parametrize(("offset", "length"), [(0, 256), (8, 4), (255, 1), (256, 0)])
def test_the_adapters_configuration_registers(offset, length):
    rig = Rig(options=IopOptions(organization_id=0x1B))
    target = rig.buffer(bytes([0xAA]) * 260)
    reply = rig.call(
        x.EXEC_ADAPTER_READ.build(adapter_id=1, offset=offset, length=length)
        + simple_sgl([(target.bus_address, 260)], out=False)
    )
    assert reply.status == PLAIN
    registers = (b"\x1b" + bytes(7) + b"\x01\x01\x00\x0e").ljust(256, b"\0")
    expected = registers[offset : offset + length]
    assert bytes(target.view) == expected + bytes([0xAA]) * (260 - length)


@pytest.mark.parametrize(("offset", "length"), [(0, 257), (255, 2), (257, 0), (0x200, 4)])
def test_there_are_no_registers_behind_the_last(offset, length):
    rig = Rig()
    frame = x.EXEC_ADAPTER_READ.build(adapter_id=1, offset=offset, length=length)
    sgl = simple_sgl([(rig.buffer(512).bus_address, 512)], out=False)
    assert rig.call(frame + sgl).status == (5, 0x11)


def test_a_released_device_is_served_again_once_it_is_assigned():
    rig = two_disks()
    words = {"device_tid": DISK, "ddm_tid": BUILT_IN_DDM, "iop_id": 2}
    indicator = rig.iop.lct.indicator
    assert rig.call(x.EXEC_DEVICE_RELEASE.build(**words)).status == PLAIN
    assert (parents(rig)[DISK], parents(rig)[SECOND]) == (0, BUILT_IN_DDM)
    assert rig.iop.lct.indicator == indicator + 1
    assert rig.iop.lct.devices[DISK].change_indicator == indicator + 1
    reply = rig.call(CHECK)
    assert failure(reply) == FailureCode.SERVICE_SUSPENDED
    assert check(rig, SECOND).status == PLAIN
    assert rig.call(x.EXEC_DEVICE_ASSIGN.build(**words)).status == PLAIN
    assert parents(rig)[DISK] == BUILT_IN_DDM
    assert rig.call(CHECK).status == PLAIN
    assert rig.iop.lct.indicator == indicator + 2


def test_a_reset_gives_released_devices_back():
    rig = Rig()
    rig.call(x.EXEC_DEVICE_RELEASE.build(device_tid=DISK, ddm_tid=BUILT_IN_DDM))
    rig.iop.reset()
    rig.bring_up()
    assert parents(rig)[DISK] == BUILT_IN_DDM
    assert rig.call(CHECK).status == PLAIN


def with_second_ddm() -> Rig:
    """Return an IOP with a DDM at TID 9, too."""
    rig = Rig()
    buffer = rig.buffer(b"code")
    frame = x.EXEC_SW_DOWNLOAD.build(
        sw_type=1, sw_size=4, current_fragment=1, total_fragments=1, download_flags=1
    )
    assert rig.call(frame + simple_sgl([(buffer.bus_address, 4)], out=True)).status == PLAIN
    return rig


def test_a_released_device_may_go_to_another_ddm_and_comes_back_with_a_reset():
    rig = with_second_ddm()
    words = {"device_tid": DISK}
    assert rig.call(x.EXEC_DEVICE_RELEASE.build(ddm_tid=8, **words)).status == PLAIN
    for ddm in (9, 8, 9):  # once it has its own driver again, nobody else gets it
        reply = rig.call(x.EXEC_DEVICE_ASSIGN.build(ddm_tid=ddm, **words))
        assert reply.status == (PLAIN if parents(rig)[DISK] == ddm else (5, 0x1B))
    assert parents(rig)[DISK] == 8
    rig.call(x.EXEC_DEVICE_RELEASE.build(ddm_tid=8, **words))
    assert rig.call(x.EXEC_DEVICE_ASSIGN.build(ddm_tid=9, **words)).status == PLAIN
    assert rig.call(CHECK).status == PLAIN
    rig.iop.reset()
    assert parents(rig)[DISK] == 8


@pytest.mark.parametrize("tid", [0, DISK, 0x7FF])
def test_only_a_ddm_drives_anything(tid):
    rig = Rig()
    rig.call(x.EXEC_ADAPTER_RELEASE.build(hrt_entry_adapter_id=1))
    rig.call(x.EXEC_DEVICE_RELEASE.build(device_tid=DISK, ddm_tid=BUILT_IN_DDM))
    for frame in (
        x.EXEC_ADAPTER_ASSIGN.build(ddm_tid=tid, hrt_entry_adapter_id=1),
        x.EXEC_DEVICE_ASSIGN.build(ddm_tid=tid, device_tid=DISK),
    ):
        assert rig.call(frame).status == (5, 0x11)


def test_an_adapter_goes_to_one_ddm_at_a_time():
    rig = with_second_ddm()
    assign = {"hrt_entry_adapter_id": 1}
    assert rig.call(x.EXEC_ADAPTER_ASSIGN.build(ddm_tid=9, **assign)).status == (5, 0x1B)
    assert rig.call(x.EXEC_ADAPTER_RELEASE.build(**assign)).status == PLAIN
    assert rig.call(x.EXEC_ADAPTER_ASSIGN.build(ddm_tid=9, **assign)).status == PLAIN
    assert hrt(rig) == (1, 9, 6)


def test_a_released_disk_that_is_pulled_is_no_trouble():
    rig = Rig()
    rig.call(x.EXEC_DEVICE_RELEASE.build(device_tid=DISK, ddm_tid=BUILT_IN_DDM))
    rig.iop.bay.remove(DISK)
    rig.iop.reset()
    assert DISK not in parents(rig)
