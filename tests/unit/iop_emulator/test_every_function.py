# SPDX-License-Identifier: Apache-2.0
"""Every executive, utility, block storage and SCSI function: its answer, and each way it says no.

docs/functions.md has one row for each test here. A test shows every refusal that its row lists, and
no other: the fixture `said` compares the two.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from fakes.function_page import PAGE, Outcomes, rows
from fakes.iop_rig import DISK, Reply, Rig
from fakes.scsi_bench import SIZE, rw
from fakes.scsi_requests import IN, OUT, USUAL, dpt_scb, scb
from i2o.frames import adapter, params, scsi, tables, utility
from i2o.frames import block_storage as bsa
from i2o.frames import executive as x
from i2o.frames.functions import Function
from i2o.frames.header import FAILURE_REPLY, FailureCode, FailureSeverity, MsgFlags
from i2o.frames.scsi_command import ScsiOpcode
from i2o.frames.sgl import simple_sgl
from i2o.frames.tables import IopState
from i2o.iop_emulator import bad_blocks, peers
from i2o.iop_emulator.block_store import MemoryDisk, StoreError
from i2o.iop_emulator.cards import CARDS
from i2o.iop_emulator.ddm.base import MAX_USERS
from i2o.iop_emulator.ddm.block import MAX_JOBS
from i2o.iop_emulator.disk_bay import FIRST_PORT_TID
from i2o.iop_emulator.executive import MAX_NOTIFIES
from i2o.iop_emulator.faults import FaultPlan
from i2o.iop_emulator.iop_system import IopSystem
from i2o.iop_emulator.lct import BUILT_IN_DDM
from i2o.iop_emulator.options import IopOptions

PLAIN = (0, 0)
NOWHERE = 0x00F0_0000
"""A bus address that no buffer covers."""
ANOTHER = 0x005
"""A TID that is not the host."""
CHECK = bsa.BSA_STATUS_CHECK.build(target_address=DISK)


@pytest.fixture
def said(request: pytest.FixtureRequest) -> Iterator[Outcomes]:
    """Collect refusals; afterwards they must be those that the page lists."""
    outcomes = Outcomes()
    yield outcomes
    row = rows().get(request.node.originalname)
    assert row is not None, "docs/functions.md has no row with this test"
    assert outcomes.seen == row.refusals, f"docs/functions.md, {row.name}"


def data(rig: Rig, size: int, *, out: bool = False) -> bytes:
    """Return a scatter/gather list of one good buffer."""
    return simple_sgl([(rig.buffer(size).bus_address, size)], out=out)


def hole(size: int, *, out: bool = False) -> bytes:
    """Return a scatter/gather list of memory that is not there."""
    return simple_sgl([(NOWHERE, size)], out=out)


# --- the page -----------------------------------------------------------------------------------


def test_the_page_has_every_function_once() -> None:
    listed = [(row.code, row.name) for row in rows().values()]
    expected = [
        (function.value, name)
        for name, function in Function.__members__.items()
        if name.startswith(("EXEC_", "UTIL_", "BSA_", "SCSI_", "HBA_", "DPT_PRIVATE_SCSI_"))
        and name not in ("BSA_READ", "BSA_WRITE")
    ]
    assert sorted(listed) == sorted(expected)


def test_the_page_names_tests_that_exist() -> None:
    assert [test for test in rows() if test not in globals()] == []


# --- utility ------------------------------------------------------------------------------------


def test_util_nop(said: Outcomes) -> None:
    rig = Rig()
    free = rig.unit.idle_inbound()
    rig.post(utility.UTIL_NOP.build())
    assert rig.replies() == []
    assert rig.unit.idle_inbound() == free


def test_util_abort(said: Outcomes) -> None:
    rig = Rig(faults=(plan := FaultPlan()))
    plan.on(Function.BSA_STATUS_CHECK).delay(1000)
    rig.post(CHECK)
    rig.post(
        utility.UTIL_ABORT.build(
            target_address=DISK, abort_type=1, function_to_abort=Function.BSA_STATUS_CHECK
        )
    )
    aborted, done = rig.replies()
    assert aborted.status[0] == 2
    assert done.words[4] == 1
    said.refused(rig.call(utility.UTIL_ABORT.build(target_address=DISK, abort_type=8)))


def parameters(rig: Rig, layout: object, sgl: bytes) -> bytes:
    frame: bytes = layout.build(target_address=DISK) + sgl  # type: ignore[attr-defined]
    return frame


def operations(rig: Rig, group: int, operation: int = 1, rest: bytes = b"\xff\xff") -> bytes:
    listed = (
        params.PARAM_OPERATION_LIST_HEADER.build(operation_count=1)
        + operation.to_bytes(2, "little")
        + group.to_bytes(2, "little")
        + rest
    )
    return simple_sgl([(rig.buffer(listed).bus_address, len(listed))], out=True, last=False)


def test_util_params_get(said: Outcomes) -> None:
    rig = Rig()
    layout = utility.UTIL_PARAMS_GET
    good = parameters(rig, layout, operations(rig, 0xF100) + data(rig, 512))
    assert rig.call(good).status == PLAIN
    said.refused(rig.call(parameters(rig, layout, operations(rig, 0x7777) + data(rig, 512))))
    said.refused(rig.call(parameters(rig, layout, operations(rig, 0xF100) + data(rig, 8))))
    said.refused(rig.call(parameters(rig, layout, data(rig, 8, out=True))))
    said.refused(rig.call(parameters(rig, layout, hole(8, out=True) + data(rig, 512))))
    said.refused(rig.call(parameters(rig, layout, b"\x00\x00\x00\x34")))


def test_util_params_set(said: Outcomes) -> None:
    rig = Rig()
    layout = utility.UTIL_PARAMS_SET
    name = b"\x01\x00\x00\x00" + b"left".ljust(64)
    good = operations(rig, 0xF102, 6, name) + data(rig, 64)
    assert rig.call(parameters(rig, layout, good)).status == PLAIN
    bad = operations(rig, 0xF100, 6, b"\x01\x00\x00\x00" + bytes(4)) + data(rig, 64)
    said.refused(rig.call(parameters(rig, layout, bad)))
    said.refused(rig.call(layout.build(target_address=DISK)))
    said.refused(rig.call(parameters(rig, layout, hole(8, out=True))))
    said.refused(rig.call(parameters(rig, layout, b"\x00\x00\x00\x34")))


def test_util_claim(said: Outcomes) -> None:
    rig = Rig()
    primary = utility.UTIL_CLAIM.build(target_address=DISK, claim_type=1)
    other = utility.UTIL_CLAIM.build(target_address=DISK, claim_type=3)
    assert rig.call(primary).status == PLAIN
    said.refused(rig.call(primary))
    for _ in range(MAX_USERS - 1):
        assert rig.call(other).status == PLAIN
    said.refused(rig.call(other))


def test_util_claim_release(said: Outcomes) -> None:
    rig = Rig(faults=(plan := FaultPlan()))
    plan.on(Function.BSA_STATUS_CHECK).delay(1000)
    rig.call(utility.UTIL_CLAIM.build(target_address=DISK, claim_type=1))
    release = utility.UTIL_CLAIM_RELEASE.build(target_address=DISK, claim_type=1)
    rig.post(CHECK)
    said.refused(
        rig.call(
            utility.UTIL_CLAIM_RELEASE.build(target_address=DISK, claim_type=1, release_flags=1)
        )
    )
    assert rig.call(release).status == PLAIN
    said.refused(rig.call(release))


def test_util_event_register(said: Outcomes) -> None:
    rig = Rig()
    rig.post(utility.UTIL_EVENT_REGISTER.build(target_address=DISK, event_mask=0xFFFFFFFF))
    assert rig.replies() == []
    rig.post(bsa.BSA_DEVICE_RESET.build(target_address=DISK))
    event, done = rig.replies()
    assert event.data[7] == Function.UTIL_EVENT_REGISTER
    assert done.status == PLAIN


def test_util_event_ack(said: Outcomes) -> None:
    rig = Rig()
    frame = utility.UTIL_EVENT_ACK.build(target_address=DISK, event_indicator=1, event_data=7)
    assert rig.call(frame).words[4:6] == (1, 7)


def test_util_reply_fault_notify(said: Outcomes) -> None:
    rig = Rig()
    assert rig.call(utility.UTIL_REPLY_FAULT_NOTIFY.build(target_address=DISK)).status == PLAIN
    assert "could not deliver" in next(iter(rig.complaints))


def test_util_config_dialog(said: Outcomes) -> None:
    rig = Rig()
    dialog = utility.UTIL_CONFIG_DIALOG.build(target_address=DISK)
    page = rig.buffer(8192)
    assert rig.call(dialog + simple_sgl([(page.bus_address, 8192)], out=False)).status == PLAIN
    assert bytes(page.view).startswith(b"<!DOCTYPE html>")
    said.refused(rig.call(utility.UTIL_CONFIG_DIALOG.build(target_address=DISK, page_number=99)))
    said.refused(rig.call(dialog))
    said.refused(rig.call(dialog + data(rig, 16)))
    said.refused(rig.call(dialog + hole(16)))
    said.refused(rig.call(dialog + bytes((0, 0, 0, 0xFF))))


def test_util_lock(said: Outcomes) -> None:
    rig = Rig()
    lock = utility.UTIL_LOCK.build(target_address=DISK)
    assert rig.call(lock).status == PLAIN
    assert rig.call(lock).status == PLAIN
    rig.iop.lct.devices[DISK].lock_holder = ANOTHER
    said.refused(rig.call(lock))


def test_util_lock_release(said: Outcomes) -> None:
    rig = Rig()
    lock = utility.UTIL_LOCK.build(target_address=DISK)
    release = utility.UTIL_LOCK_RELEASE.build(target_address=DISK)
    assert rig.call(lock).status == PLAIN
    assert rig.call(release).status == PLAIN
    rig.iop.lct.devices[DISK].lock_holder = ANOTHER
    assert rig.call(release).status == PLAIN
    assert rig.iop.lct.devices[DISK].lock_holder == ANOTHER


def test_util_device_reserve(said: Outcomes) -> None:
    rig = Rig()
    reserve = utility.UTIL_DEVICE_RESERVE.build(target_address=DISK)
    assert rig.call(reserve).status == PLAIN
    rig.iop.lct.devices[DISK].reserve_holder = ANOTHER
    said.refused(rig.call(reserve))


def test_util_device_release(said: Outcomes) -> None:
    rig = Rig()
    release = utility.UTIL_DEVICE_RELEASE.build(target_address=DISK)
    assert rig.call(utility.UTIL_DEVICE_RESERVE.build(target_address=DISK)).status == PLAIN
    assert rig.call(release).status == PLAIN
    assert rig.iop.lct.devices[DISK].reserve_holder is None


# --- block storage ------------------------------------------------------------------------------


class Failing(MemoryDisk):
    """A disk whose next access fails."""

    error: OSError | None = None

    def read_into(self, offset: int, views: object) -> None:
        self._fail()
        super().read_into(offset, views)  # type: ignore[arg-type]

    def write_from(self, offset: int, views: object) -> None:
        self._fail()
        super().write_from(offset, views)  # type: ignore[arg-type]

    def flush(self) -> None:
        self._fail()

    def _fail(self) -> None:
        if self.error is not None:
            raise self.error


def transfer(rig: Rig, layout: object, count: int = 512, address: int = 0, **sgl: bytes) -> bytes:
    out = layout is not bsa.BSA_BLOCK_READ
    head: bytes = layout.build(  # type: ignore[attr-defined]
        target_address=DISK, transfer_byte_count=count, logical_byte_address=address
    )
    return head + sgl.get("sgl", data(rig, max(count, 4), out=out))


def check_transfer(said: Outcomes, layout: object) -> tuple[Rig, Failing]:
    """Do what block reads and writes have in common."""
    disk = Failing(1 << 20, removable=True)
    rig = Rig([disk])
    assert rig.call(transfer(rig, layout)).status == PLAIN
    said.refused(rig.call(transfer(rig, layout, count=100)))
    said.refused(rig.call(transfer(rig, layout, address=1 << 20)))
    said.refused(rig.call(transfer(rig, layout, sgl=hole(512))))
    said.refused(rig.call(transfer(rig, layout, sgl=b"\x00\x00\x00\x34")))
    disk.error = StoreError(errno.EIO, "broken", 0)
    said.refused(rig.call(transfer(rig, layout)))
    disk.error = OSError(errno.ENXIO, "gone")
    said.refused(rig.call(transfer(rig, layout)))
    disk.error = None
    assert rig.call(bsa.BSA_MEDIA_EJECT.build(target_address=DISK)).status == PLAIN
    said.refused(rig.call(transfer(rig, layout)))
    return rig, disk


def test_bsa_block_read(said: Outcomes) -> None:
    check_transfer(said, bsa.BSA_BLOCK_READ)


def test_bsa_block_write(said: Outcomes) -> None:
    check_transfer(said, bsa.BSA_BLOCK_WRITE)
    rig = protected()
    said.refused(rig.call(transfer(rig, bsa.BSA_BLOCK_WRITE)))


def test_bsa_block_write_verify(said: Outcomes) -> None:
    check_transfer(said, bsa.BSA_BLOCK_WRITE_VERIFY)
    rig = protected()
    said.refused(rig.call(transfer(rig, bsa.BSA_BLOCK_WRITE_VERIFY)))


def protected() -> Rig:
    """Return an IOP whose disk is read-only."""
    return Rig([MemoryDisk(1 << 20, read_only=True)])


def without_medium() -> Rig:
    """Return an IOP whose disk has no medium in it."""
    rig = Rig([MemoryDisk(1 << 20, removable=True)])
    assert rig.call(bsa.BSA_MEDIA_EJECT.build(target_address=DISK)).status == PLAIN
    return rig


def test_bsa_status_check(said: Outcomes) -> None:
    assert Rig().call(CHECK).status == PLAIN
    said.refused(without_medium().call(CHECK))


def test_bsa_device_reset(said: Outcomes) -> None:
    rig = Rig(faults=(plan := FaultPlan()))
    plan.on(Function.BSA_STATUS_CHECK).delay(1000)
    rig.post(CHECK)
    rig.post(bsa.BSA_DEVICE_RESET.build(target_address=DISK))
    aborted, done = rig.replies()
    assert aborted.status[0] == 2
    assert done.status == PLAIN


def test_bsa_media_verify(said: Outcomes) -> None:
    disk = Failing(1 << 20)
    rig = Rig([disk], replies=MAX_JOBS + 1)

    def verify(count: int, address: int) -> bytes:
        frame: bytes = bsa.BSA_MEDIA_VERIFY.build(
            target_address=DISK, byte_count=count, logical_byte_address=address
        )
        return frame

    assert rig.call(verify(4096, 0)).status == PLAIN
    said.refused(rig.call(verify(100, 0)))
    said.refused(rig.call(verify(512, 1 << 20)))
    disk.error = StoreError(errno.EIO, "broken", 0)
    said.refused(rig.call(verify(512, 0)))
    said.refused(
        without_medium().call(bsa.BSA_MEDIA_VERIFY.build(target_address=DISK, byte_count=512))
    )
    disk.error = None
    said.refused(refused_among_many(rig, verify(512, 0)))


def refused_among_many(rig: Rig, frame: bytes) -> Reply:
    """Send a long operation more often than may be under way; return the answer to the last."""
    for _ in range(MAX_JOBS):
        rig.post(frame)
        rig.run(budget=1)
    rig.post(frame)
    rig.run(budget=1)
    refused = rig.reap()
    assert refused is not None
    rig.run(budget=3 * MAX_JOBS)
    assert [reply.status for reply in rig.replies()] == [PLAIN] * MAX_JOBS
    return refused


def test_bsa_cache_flush(said: Outcomes) -> None:
    disk = Failing(1 << 20)
    rig = Rig([disk])
    flush = bsa.BSA_CACHE_FLUSH.build(target_address=DISK)
    assert rig.call(flush).status == PLAIN
    disk.error = OSError(errno.EIO, "broken")
    said.refused(rig.call(flush))
    said.refused(without_medium().call(flush))


def test_bsa_media_mount(said: Outcomes) -> None:
    rig = without_medium()
    assert rig.call(bsa.BSA_MEDIA_MOUNT.build(target_address=DISK)).status == PLAIN
    assert rig.call(CHECK).status[0] in (0, 5)
    rig.iop.bay.eject(DISK)
    said.refused(rig.call(bsa.BSA_MEDIA_MOUNT.build(target_address=DISK)))


def test_bsa_media_eject(said: Outcomes) -> None:
    eject = bsa.BSA_MEDIA_EJECT.build(target_address=DISK)
    said.refused(Rig().call(eject))
    said.refused(without_medium().call(eject))
    disk = Failing(1 << 20, removable=True)
    rig = Rig([disk])
    assert rig.call(bsa.BSA_MEDIA_LOCK.build(target_address=DISK)).status == PLAIN
    said.refused(rig.call(eject))
    assert rig.call(bsa.BSA_MEDIA_UNLOCK.build(target_address=DISK)).status == PLAIN
    disk.error = OSError(errno.EIO, "broken")
    said.refused(rig.call(eject))
    disk.error = None
    assert rig.call(eject).status == PLAIN


def test_bsa_media_format(said: Outcomes) -> None:
    frame = bytearray(CHECK)
    frame[7] = Function.BSA_MEDIA_FORMAT
    said.refused(Rig().call(bytes(frame)))


def test_bsa_media_lock(said: Outcomes) -> None:
    lock = bsa.BSA_MEDIA_LOCK.build(target_address=DISK)
    assert Rig().call(lock).status == PLAIN
    said.refused(without_medium().call(lock))


def test_bsa_media_unlock(said: Outcomes) -> None:
    assert Rig().call(bsa.BSA_MEDIA_UNLOCK.build(target_address=DISK)).status == PLAIN


def test_bsa_power_management(said: Outcomes) -> None:
    disk = Failing(1 << 20)
    rig = Rig([disk])
    down = bsa.BSA_POWER_MANAGEMENT.build(target_address=DISK, operation=0x21)
    assert (
        rig.call(bsa.BSA_POWER_MANAGEMENT.build(target_address=DISK, operation=2)).status == PLAIN
    )
    said.refused(rig.call(bsa.BSA_POWER_MANAGEMENT.build(target_address=DISK, operation=0x77)))
    disk.error = OSError(errno.EIO, "broken")
    said.refused(rig.call(down))


def test_bsa_block_reassign(said: Outcomes) -> None:
    rig = Rig()

    def reassign(sgl: bytes) -> bytes:
        frame: bytes = bsa.BSA_BLOCK_REASSIGN.build(target_address=DISK) + sgl
        return frame

    assert rig.call(reassign(data(rig, 8, out=True))).status == PLAIN
    said.refused(rig.call(reassign(hole(8, out=True))))
    said.refused(rig.call(reassign(b"\x00\x00\x00\x34")))
    said.refused(rig.call(reassign(data(rig, 7, out=True))))
    outside = rig.buffer(b"\xff" * 8)
    said.refused(rig.call(reassign(simple_sgl([(outside.bus_address, 8)], out=True))))
    rig.iop.bay.spoil(DISK, 0, 2)
    second = rig.buffer((512).to_bytes(8, "little"))
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(bad_blocks, "MAX_RANGES", 1)
        said.refused(rig.call(reassign(simple_sgl([(second.bus_address, 8)], out=True))))
    rig = protected()
    said.refused(rig.call(reassign(data(rig, 8, out=True))))
    rig = without_medium()
    said.refused(rig.call(reassign(data(rig, 8, out=True))))


# --- executive: answered through memory ---------------------------------------------------------


def test_exec_status_get(said: Outcomes) -> None:
    rig = Rig(up=False)
    assert rig.status_block().iop_state == IopState.RESET
    assert rig.replies() == []


def test_exec_outbound_init(said: Outcomes) -> None:
    rig = Rig(up=False)
    assert rig.init_outbound() == 4
    assert rig.state == IopState.HOLD
    assert rig.init_outbound(words=2) == 2


def test_exec_iop_reset(said: Outcomes) -> None:
    rig = Rig()
    word = rig.buffer(4)
    rig.post(x.EXEC_IOP_RESET.build(status_word_low_address=word.bus_address))
    assert rig.replies() == []
    assert bytes(word.view) == b"\x01\0\0\0"
    assert rig.state == IopState.RESET


# --- executive: tables and states ---------------------------------------------------------------


def test_exec_lct_notify(said: Outcomes) -> None:
    rig = Rig()
    layout = x.EXEC_LCT_NOTIFY
    everything = {"class_identifier": 0xFFFFFFFF}
    assert rig.call(layout.build(**everything) + data(rig, 512)).status == PLAIN
    said.refused(rig.call(layout.build(**everything)))
    said.refused(rig.call(layout.build(**everything) + hole(512)))
    said.refused(rig.call(layout.build(**everything) + b"\x00\x00\x00\x34"))
    waiting = layout.build(last_reported_change_indicator=99, **everything)
    for _ in range(MAX_NOTIFIES):
        rig.post(waiting + data(rig, 64))
        assert rig.replies() == []
    said.refused(rig.call(waiting + data(rig, 64)))


def test_exec_hrt_get(said: Outcomes) -> None:
    rig = Rig()
    assert rig.call(x.EXEC_HRT_GET.build() + data(rig, 64)).status == PLAIN
    said.refused(rig.call(x.EXEC_HRT_GET.build()))
    said.refused(rig.call(x.EXEC_HRT_GET.build() + hole(64)))
    said.refused(rig.call(x.EXEC_HRT_GET.build() + b"\x00\x00\x00\x34"))


def test_exec_sys_tab_set(said: Outcomes) -> None:
    rig = Rig()
    layout = x.EXEC_SYS_TAB_SET
    table = rig.buffer(tables.SYSTAB_HEADER.build())
    good = simple_sgl([(table.bus_address, tables.SYSTAB_HEADER.size)], out=True)
    assert rig.call(layout.build() + good).status == PLAIN
    said.refused(rig.call(layout.build()))
    said.refused(rig.call(layout.build() + hole(16, out=True)))
    said.refused(rig.call(layout.build() + b"\x00\x00\x00\x34"))


def test_exec_sys_enable(said: Outcomes) -> None:
    rig = Rig()
    said.refused(rig.call(x.EXEC_SYS_ENABLE.build()))
    assert rig.call(x.EXEC_SYS_QUIESCE.build()).status == PLAIN
    assert rig.call(x.EXEC_SYS_ENABLE.build()).status == PLAIN


def test_exec_sys_quiesce(said: Outcomes) -> None:
    rig = Rig()
    assert rig.call(x.EXEC_SYS_QUIESCE.build()).status == PLAIN
    assert rig.state == IopState.READY


def test_exec_iop_clear(said: Outcomes) -> None:
    rig = Rig()
    assert rig.call(x.EXEC_IOP_CLEAR.build()).status == PLAIN
    assert rig.state == IopState.HOLD


def test_exec_bios_info_set(said: Outcomes) -> None:
    rig = Rig()
    assert rig.call(x.EXEC_BIOS_INFO_SET.build(device_tid=DISK, bios_info=0x80)).status == PLAIN
    said.refused(rig.call(x.EXEC_BIOS_INFO_SET.build(device_tid=0x7FF)))


def test_exec_boot_device_set(said: Outcomes) -> None:
    rig = Rig()
    assert rig.call(x.EXEC_BOOT_DEVICE_SET.build(boot_device=DISK)).status == PLAIN
    said.refused(rig.call(x.EXEC_BOOT_DEVICE_SET.build(boot_device=0x7FF)))


# --- executive: who is served -------------------------------------------------------------------


def check_service(said: Outcomes, layout: object, name: str, tid: int) -> Rig:
    rig = Rig()
    assert rig.call(layout.build(**{name: tid})).status == PLAIN  # type: ignore[attr-defined]
    for bad in (0, 0x7FF):
        said.refused(rig.call(layout.build(**{name: bad})))  # type: ignore[attr-defined]
    return rig


def test_exec_ddm_quiesce(said: Outcomes) -> None:
    rig = check_service(said, x.EXEC_DDM_QUIESCE, "device_tid", DISK)
    assert rig.call(CHECK).flags & MsgFlags.FAIL


def test_exec_ddm_enable(said: Outcomes) -> None:
    rig = check_service(said, x.EXEC_DDM_ENABLE, "device_tid", DISK)
    assert rig.call(x.EXEC_DDM_QUIESCE.build(device_tid=DISK)).status == PLAIN
    assert rig.call(x.EXEC_DDM_ENABLE.build(device_tid=DISK)).status == PLAIN
    assert rig.call(CHECK).status == PLAIN


def test_exec_ddm_reset(said: Outcomes) -> None:
    check_service(said, x.EXEC_DDM_RESET, "device_tid", DISK)


def test_exec_ddm_suspend(said: Outcomes) -> None:
    rig = check_service(said, x.EXEC_DDM_SUSPEND, "ddm_tid", BUILT_IN_DDM)
    assert rig.call(CHECK).flags & MsgFlags.FAIL


def test_exec_ddm_destroy(said: Outcomes) -> None:
    rig = check_service(said, x.EXEC_DDM_DESTROY, "ddm_tid", BUILT_IN_DDM)
    assert [device.tid for device in rig.iop.lct] == [0]


def check_path(said: Outcomes, layout: object) -> None:
    rig = Rig()
    assert rig.call(layout.build(iop_id=2)).status == PLAIN  # type: ignore[attr-defined]
    said.refused(rig.call(layout.build(iop_id=3)))  # type: ignore[attr-defined]


def test_exec_path_quiesce(said: Outcomes) -> None:
    check_path(said, x.EXEC_PATH_QUIESCE)


def test_exec_path_enable(said: Outcomes) -> None:
    check_path(said, x.EXEC_PATH_ENABLE)


def test_exec_path_reset(said: Outcomes) -> None:
    check_path(said, x.EXEC_PATH_RESET)


# --- executive: assignments ---------------------------------------------------------------------


def test_exec_adapter_read(said: Outcomes) -> None:
    rig = Rig()

    def read(length: int, adapter: int = 1, flags: int = 0, sgl: bytes | None = None) -> Reply:
        head = x.EXEC_ADAPTER_READ.build(adapter_id=adapter, request_flags=flags, length=length)
        return rig.call(head + (data(rig, 16) if sgl is None else sgl))

    assert read(16).status == PLAIN
    said.refused(read(257))
    said.refused(read(16, adapter=9))
    said.refused(read(16, flags=1))
    said.refused(read(16, sgl=b""))
    said.refused(read(17))
    said.refused(read(16, sgl=hole(16)))
    said.refused(read(16, sgl=b"\x00\x00\x00\x34"))


def test_exec_adapter_assign(said: Outcomes) -> None:
    rig = Rig()
    assign = x.EXEC_ADAPTER_ASSIGN
    good = assign.build(ddm_tid=BUILT_IN_DDM, hrt_entry_adapter_id=1)
    assert rig.call(good).status == PLAIN
    rig.iop.executive.assignments.adapters[1] = 0x009
    said.refused(rig.call(good))
    said.refused(rig.call(assign.build(ddm_tid=DISK, hrt_entry_adapter_id=1)))
    said.refused(rig.call(assign.build(ddm_tid=BUILT_IN_DDM, hrt_entry_adapter_id=2)))


def test_exec_adapter_release(said: Outcomes) -> None:
    rig = Rig()
    assert rig.call(x.EXEC_ADAPTER_RELEASE.build(hrt_entry_adapter_id=1)).status == PLAIN
    said.refused(rig.call(x.EXEC_ADAPTER_RELEASE.build(hrt_entry_adapter_id=2)))


def test_exec_device_assign(said: Outcomes) -> None:
    rig = Rig()
    good = {"device_tid": DISK, "ddm_tid": BUILT_IN_DDM}
    assert rig.call(x.EXEC_DEVICE_ASSIGN.build(**good)).status == PLAIN
    said.refused(rig.call(x.EXEC_DEVICE_ASSIGN.build(**{**good, "device_tid": BUILT_IN_DDM})))
    said.refused(rig.call(x.EXEC_DEVICE_ASSIGN.build(**{**good, "ddm_tid": DISK})))
    said.refused(rig.call(x.EXEC_DEVICE_ASSIGN.build(**good, iop_id=9)))
    rig.iop.lct.devices[DISK].parent_tid = 0x009
    said.refused(rig.call(x.EXEC_DEVICE_ASSIGN.build(**good)))


def test_exec_device_release(said: Outcomes) -> None:
    rig = Rig()
    good = {"device_tid": DISK, "ddm_tid": BUILT_IN_DDM}
    said.refused(rig.call(x.EXEC_DEVICE_RELEASE.build(**{**good, "ddm_tid": 0x00A})))
    said.refused(rig.call(x.EXEC_DEVICE_RELEASE.build(**{**good, "device_tid": 0x7FF})))
    assert rig.call(x.EXEC_DEVICE_RELEASE.build(**good)).status == PLAIN


def test_exec_config_validate(said: Outcomes) -> None:
    assert Rig().call(x.EXEC_CONFIG_VALIDATE.build()).status == PLAIN


def test_exec_sys_modify(said: Outcomes) -> None:
    rig = Rig()
    table = rig.buffer(tables.SYSTAB_HEADER.build())
    good = simple_sgl([(table.bus_address, tables.SYSTAB_HEADER.size)], out=True)
    assert rig.call(x.EXEC_SYS_MODIFY.build() + good).status == PLAIN
    assert rig.state == IopState.OPERATIONAL
    said.refused(rig.call(x.EXEC_SYS_MODIFY.build()))
    said.refused(rig.call(x.EXEC_SYS_MODIFY.build() + hole(16, out=True)))
    said.refused(rig.call(x.EXEC_SYS_MODIFY.build() + b"\x00\x00\x00\x34"))


# --- executive: software ------------------------------------------------------------------------

MODULE = {"sw_type": 1, "sw_id_module_id": 7, "sw_id_organization_id": 0x1B}


def download(rig: Rig, content: bytes = b"code", sgl: bytes | None = None, **changes: int) -> Reply:
    fields = {"current_fragment": 1, "total_fragments": 1, "sw_size": len(content), **MODULE}
    sent = rig.buffer(content)
    given = simple_sgl([(sent.bus_address, len(content))], out=True)
    head = x.EXEC_SW_DOWNLOAD.build(**{**fields, **changes})
    return rig.call(head + (given if sgl is None else sgl))


def test_exec_sw_download(said: Outcomes, tmp_path: Path) -> None:
    rig = Rig(options=IopOptions(store=str(tmp_path / "store")))
    assert download(rig).status == PLAIN
    said.refused(download(rig))
    said.refused(download(rig, sw_type=9))
    said.refused(download(rig, download_flags=2, total_fragments=3, current_fragment=2))
    said.refused(download(rig, download_flags=2, sgl=b""))
    said.refused(download(rig, download_flags=2, sgl=hole(4, out=True)))
    said.refused(download(rig, download_flags=2, sgl=b"\x00\x00\x00\x34"))
    (tmp_path / "store").write_bytes(b"no folder")
    said.refused(download(rig, download_flags=3))
    for module_id in range(8, 14):
        assert download(rig, sw_id_module_id=module_id).status == PLAIN
    said.refused(download(rig, sw_id_module_id=14))


def test_exec_sw_upload(said: Outcomes) -> None:
    rig = Rig()
    download(rig)
    fields = {"current_fragment": 1, "total_fragments": 1, **MODULE}

    def upload(sgl: bytes, **changes: int) -> Reply:
        return rig.call(x.EXEC_SW_UPLOAD.build(**{**fields, **changes}) + sgl)

    assert upload(data(rig, 4)).status == PLAIN
    said.refused(upload(data(rig, 4), sw_id_module_id=8))
    said.refused(upload(data(rig, 4), current_fragment=2, total_fragments=2))
    said.refused(upload(b""))
    said.refused(upload(hole(4)))
    said.refused(upload(b"\x00\x00\x00\x34"))


def test_exec_sw_remove(said: Outcomes, tmp_path: Path) -> None:
    rig = Rig(options=IopOptions(store=str(tmp_path / "store")))
    download(rig, download_flags=1)
    (tmp_path / "store" / "01-001b-0007.i2o").unlink()
    (tmp_path / "store" / "01-001b-0007.i2o").mkdir()
    said.refused(rig.call(x.EXEC_SW_REMOVE.build(**MODULE)))
    (tmp_path / "store" / "01-001b-0007.i2o").rmdir()
    assert rig.call(x.EXEC_SW_REMOVE.build(**MODULE)).status == PLAIN
    said.refused(rig.call(x.EXEC_SW_REMOVE.build(**MODULE)))


# --- executive: other IOPs, static frames -------------------------------------------------------


def neighbours() -> tuple[Rig, Rig]:
    """Return two IOPs of one bus, whose system tables name both of them."""
    system = IopSystem()
    pair = Rig(system=system), Rig(system=system)
    for iop_id, rig in enumerate(pair, 2):
        rig.set_system_table(iop_id, 2, 3)
    return pair


def test_exec_iop_connect(said: Outcomes, monkeypatch: pytest.MonkeyPatch) -> None:
    here, there = neighbours()
    connect = x.EXEC_IOP_CONNECT.build(iop_id1=3)
    said.refused(here.call(x.EXEC_IOP_CONNECT.build(iop_id1=4)))
    there.call(x.EXEC_SYS_QUIESCE.build())
    said.refused(here.call(connect))
    there.call(x.EXEC_SYS_ENABLE.build())
    monkeypatch.setattr(peers, "MAX_ALIASES", 0)
    said.refused(here.call(connect))
    monkeypatch.undo()
    assert here.call(connect).status == PLAIN
    there.iop.close()
    said.refused(here.call(connect))


def test_exec_conn_setup(said: Outcomes) -> None:
    here, _ = neighbours()
    executive = here.call(x.EXEC_IOP_CONNECT.build(iop_id1=3)).words[5] >> 16 & 0xFFF
    good = {"object_info_target_device": DISK, "object_info_initiator_device": 1}
    assert here.call(x.EXEC_CONN_SETUP.build(target_address=executive, **good)).data[19] == 0
    said.refused(here.call(x.EXEC_CONN_SETUP.build(target_address=executive)))
    said.refused(here.call(x.EXEC_CONN_SETUP.build(**good)))


def static(message: bytes = CHECK, posts: int = 1) -> bytes:
    frame: bytes = x.EXEC_STATIC_MF_CREATE.build(
        max_outstanding=posts, static_message_frame=message[:12]
    )
    return frame + message[12:]


def test_exec_static_mf_create(said: Outcomes) -> None:
    rig = Rig()
    assert rig.call(static()).status == PLAIN
    said.refused(rig.call(static(posts=0)))
    said.refused(rig.call(static(CHECK[:12])))
    for _ in range(7):
        assert rig.call(static()).status == PLAIN
    said.refused(rig.call(static()))


def test_exec_static_mf_release(said: Outcomes) -> None:
    rig = Rig(faults=(plan := FaultPlan()))
    plan.on(Function.BSA_STATUS_CHECK).times(1).delay(1)
    mfa = rig.call(static()).words[5]
    release = x.EXEC_STATIC_MF_RELEASE.build(static_mfa=mfa)
    rig.unit.post(mfa)
    said.refused(rig.call(release))
    rig.advance(1)
    assert len(rig.replies()) == 1
    assert rig.call(release).status == PLAIN
    said.refused(rig.call(release))


# --- failure codes ------------------------------------------------------------------------------


def test_the_page_says_of_every_failure_code_when_it_comes_or_why_it_does_not() -> None:
    _, _, shared = PAGE.read_text().partition("## Refusals that every function shares")
    produced, _, never = shared.partition("have no situation here")
    named = set(re.findall(r"FAIL `(\w+)`", produced))
    absent = set(re.findall(r"^\| `(\w+)` \|", never, re.MULTILINE))
    assert named | absent == set(FailureCode.__members__)
    assert named & absent == set()


@pytest.mark.parametrize("code", FailureCode, ids=lambda code: code.name)
def test_a_fault_plan_produces_any_failure_code(code: FailureCode) -> None:
    plan = FaultPlan()
    plan.on(Function.BSA_STATUS_CHECK).times(1).fail(code)
    rig = Rig(faults=plan)
    mfa = rig.post(CHECK)
    (fail,) = rig.replies()
    told = FAILURE_REPLY.unpack_from(fail.data)
    assert (told.failure_code, told.preserved_mfa_low) == (code, mfa)
    assert told.severity in [severity.value for severity in FailureSeverity]
    rig.unit.write(mfa, utility.UTIL_NOP.build())
    rig.unit.post(mfa)
    assert rig.replies() == []
    assert rig.unit.idle_inbound() == 16
    assert rig.call(CHECK).status == PLAIN


# --- SCSI ---------------------------------------------------------------------------------------

SCSI_DISK = IopOptions(disk_kinds=("scsi",))
DPT = IopOptions(organization_id=0x1B, card=CARDS["dpt"])
PORT = FIRST_PORT_TID
READY = bytes(6)
READ = rw(ScsiOpcode.READ_10, 0, 1)


def scsi_rig(options: IopOptions = SCSI_DISK) -> Rig:
    """Return an IOP with a SCSI disk, whose first unit attention was taken."""
    rig = Rig(options=options)
    rig.call(scb(DISK, READY))
    return rig


def is_attentive(rig: Rig) -> bool:
    """Whether the disk says that something happened; takes note of it."""
    return rig.call(scb(DISK, READY)).status == (5, 2)


def test_scsi_device_reset(said: Outcomes) -> None:
    rig = scsi_rig()
    rig.iop.misbehave(plan := FaultPlan())
    plan.on(Function.SCSI_SCB_EXEC).delay(1000)
    rig.post(scb(DISK, READY))
    rig.post(scsi.SCSI_DEVICE_RESET.build(target_address=DISK))
    aborted, done = rig.replies()
    assert (aborted.status, done.status) == ((2, 0x0200), PLAIN)
    rig.iop.misbehave(None)
    assert is_attentive(rig)
    assert rig.call(scsi.SCSI_DEVICE_RESET.build(target_address=PORT)).status == PLAIN
    assert is_attentive(rig)


def check_scb(said: Outcomes, rig: Rig, build: object, monkeypatch: pytest.MonkeyPatch) -> None:
    """Show the answer to an SCB, and every refusal of one."""
    place = rig.buffer(2 * SIZE).bus_address, SIZE
    read = {"flags": USUAL | IN}

    def call(cdb: bytes, *given: object, **fields: object) -> Reply:
        return rig.call(build(DISK, cdb, *given, **fields))  # type: ignore[operator]

    assert call(READ, place, **read).status == PLAIN
    said.refused(call(rw(ScsiOpcode.READ_10, 1 << 30, 1), place, **read))
    said.refused(call(rw(ScsiOpcode.READ_10, 0, 2), place, **read))
    said.refused(call(READY, cdb_length=0))
    said.refused(call(READ, (NOWHERE, SIZE), **read))
    said.refused(call(READ, place, flags=IN | OUT))
    said.refused(call(READ, place, **read, byte_count=SIZE + 1))
    bad = bytearray(build(DISK, READ, place, **read))  # type: ignore[operator]
    bad[-8:] = b"\0\0\0\x34" * 2
    said.refused(rig.call(bytes(bad)))
    with monkeypatch.context() as patched:
        patched.setattr(type(rig.memory), "windows", lambda *args, **kwargs: None)
        patched.setattr("i2o.iop_emulator.ddm.scb.MAX_COPY", SIZE - 1)
        said.refused(call(READ, place, **read))
    rig.call(adapter.HBA_BUS_QUIESCE.build(target_address=PORT, flags=1))
    said.refused(call(READ, place, **read))


def test_scsi_scb_exec(said: Outcomes, monkeypatch: pytest.MonkeyPatch) -> None:
    check_scb(said, scsi_rig(), scb, monkeypatch)


def test_dpt_private_scsi_scb_exec(said: Outcomes, monkeypatch: pytest.MonkeyPatch) -> None:
    rig = scsi_rig(DPT)
    said.refused(rig.call(dpt_scb(0, READY, device=DISK + 1)))
    rig.call(dpt_scb(0, READY))  # its unit attention
    assert rig.call(dpt_scb(0, READY)).status == PLAIN
    check_scb(said, rig, dpt_scb, monkeypatch)


def test_scsi_scb_abort(said: Outcomes) -> None:
    rig = scsi_rig()
    abort = scsi.SCSI_SCB_ABORT.build(target_address=DISK, transaction_context_to_abort=7)
    said.refused(rig.call(abort))
    rig.iop.misbehave(plan := FaultPlan())
    plan.on(Function.SCSI_SCB_EXEC).delay(1000)
    rig.post(scb(DISK, READY, transaction_context=7))
    rig.post(abort)
    aborted, done = rig.replies()
    assert (aborted.status, done.status) == ((2, 0x0200), PLAIN)


def test_hba_adapter_reset(said: Outcomes) -> None:
    rig = scsi_rig()
    assert rig.call(adapter.HBA_ADAPTER_RESET.build(target_address=PORT)).status == PLAIN
    assert is_attentive(rig)


def test_hba_bus_reset(said: Outcomes) -> None:
    rig = scsi_rig()
    assert rig.call(adapter.HBA_BUS_RESET.build(target_address=PORT)).status == PLAIN
    assert is_attentive(rig)


def test_hba_bus_scan(said: Outcomes) -> None:
    rig = scsi_rig()
    scan = adapter.HBA_BUS_SCAN.build(target_address=PORT)
    assert rig.call(scan).status == PLAIN
    assert rig.call(scan + bytes(4)).status == PLAIN  # as Linux sends it
    assert not is_attentive(rig)


def test_hba_bus_quiesce(said: Outcomes) -> None:
    rig = scsi_rig()
    quiesce = adapter.HBA_BUS_QUIESCE
    assert rig.call(quiesce.build(target_address=PORT, flags=1)).status == PLAIN
    said.refused(rig.call(quiesce.build(target_address=PORT, flags=2)))
    assert rig.call(scb(DISK, READY)).status == (5, 0x4000)
    assert rig.call(quiesce.build(target_address=PORT)).status == PLAIN
    assert not is_attentive(rig)
