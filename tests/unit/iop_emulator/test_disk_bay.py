# SPDX-License-Identifier: Apache-2.0
"""Disks and media that come, go and change while the IOP runs, and what the host hears of it."""

from __future__ import annotations

import errno
import os

import pytest

from fakes.iop_rig import DISK, Reply, Rig
from i2o.frames import block_storage as bsa
from i2o.frames import block_storage_groups as bsa_groups
from i2o.frames import executive, tables, utility
from i2o.frames.block_storage import BsaDetailedStatus as Detail
from i2o.frames.block_storage import BsaEvent
from i2o.frames.executive import ExecutiveEvent
from i2o.frames.header import FAILURE_REPLY, FailureCode, ReqStatus
from i2o.frames.sgl import simple_sgl
from i2o.frames.tables import IopState
from i2o.iop_emulator import disk_bay, lct
from i2o.iop_emulator.block_store import MAX_MEMORY_DISK, MemoryDisk, NoMedium
from i2o.iop_emulator.disk_bay import DiskBayError, NoSuchDisk
from i2o.iop_emulator.disk_image import DiskImage
from i2o.iop_emulator.faults import FaultPlan

PLAIN = (0, 0)
ALL = 0xFFFFFFFF
BLOCK = 512


def rig_of(*stores: MemoryDisk, **arguments) -> Rig:
    return Rig(stores or [MemoryDisk(1 << 20, removable=True)], **arguments)


def watch(rig: Rig) -> None:
    """Register for every event of the IOP and of its disk."""
    for tid, context in ((0, 100), (DISK, 110)):
        rig.post(
            utility.UTIL_EVENT_REGISTER.build(
                target_address=tid, event_mask=ALL, transaction_context=context
            )
        )
    assert rig.replies() == []


def events(rig: Rig) -> list[tuple[int, int]]:
    """Take all replies, which are events; return (context, indicator) of each."""
    return [(reply.words[3], reply.words[4]) for reply in rig.replies()]


def read(rig: Rig, first: int = 0, count: int = 1, tid: int = DISK) -> Reply:
    buffer = rig.buffer(count * BLOCK)
    return rig.call(read_frame(buffer, first, count, tid))


def read_frame(buffer, first: int, count: int, tid: int = DISK) -> bytes:
    frame: bytes = bsa.BSA_BLOCK_READ.build(
        target_address=tid,
        transfer_byte_count=count * BLOCK,
        logical_byte_address=first * BLOCK,
    )
    return frame + simple_sgl([(buffer.bus_address, count * BLOCK)], out=False)


def simple(layout, tid: int = DISK, **fields: int) -> bytes:
    frame: bytes = layout.build(target_address=tid, **fields)
    return frame


def group(rig: Rig, number: int, layout):
    return layout.unpack_from(rig.iop.lct.devices[DISK].parameters.group(number).packed())


# --- plugging and pulling ------------------------------------------------------------------------


def test_what_a_pulled_disk_has_going_on_ends_once() -> None:
    rig = rig_of(faults=FaultPlan().on("BSA_READ").delay(100))
    buffer = rig.buffer(BLOCK)
    rig.post(read_frame(buffer, 0, 1))  # delayed
    rig.post(simple(bsa.BSA_MEDIA_VERIFY, byte_count=1 << 20))  # a job that has begun
    rig.run(2)
    rig.iop.bay.remove(DISK).close()
    ended = [(reply.words[1] >> 24, reply.status) for reply in rig.replies()]
    aborted = (ReqStatus.PROCESS_ABORT_NO_DATA_TRANSFER, 0)
    assert sorted(ended) == [(0x30, aborted), (0x35, aborted)]
    rig.advance(1000)
    assert rig.replies() == []
    rig.post(simple(bsa.BSA_STATUS_CHECK))
    (reply,) = rig.replies()
    assert FAILURE_REPLY.unpack_from(reply.data).failure_code == FailureCode.INVALID_TARGET_ID


def test_a_request_in_the_queue_of_a_pulled_disk_fails() -> None:
    rig = rig_of()
    rig.post(simple(bsa.BSA_STATUS_CHECK))
    rig.iop.bay.remove(DISK)
    (reply,) = rig.replies()
    assert reply.flags & 0x20
    with pytest.raises(NoSuchDisk, match="no disk has TID 0x010"):
        rig.iop.bay.remove(DISK)
    with pytest.raises(NoSuchDisk):
        rig.iop.bay.disk(8)


def test_another_disk_does_not_get_the_tid_of_a_pulled_one() -> None:
    rig = rig_of()
    rig.iop.bay.remove(DISK)
    assert rig.iop.bay.add(MemoryDisk(4096)).tid == 0x11
    rig.iop.bay.remove(0x11)
    assert rig.iop.bay.add(MemoryDisk(4096)).tid == 0x12
    rig.iop.reset()
    assert rig.iop.bay.add(MemoryDisk(4096)).tid == 0x10


def test_when_no_other_tid_is_left_an_old_one_is_used_again(monkeypatch) -> None:
    monkeypatch.setattr(lct, "LAST_TID", 0x11)
    rig = rig_of()
    rig.iop.bay.add(MemoryDisk(4096))
    rig.iop.bay.remove(0x11)
    assert rig.iop.bay.add(MemoryDisk(4096)).tid == 0x11


def test_a_pulled_disk_is_not_booted_from() -> None:
    rig = rig_of()
    rig.call(executive.EXEC_BOOT_DEVICE_SET.build(boot_device=DISK))
    assert rig.iop.lct.boot_tid == DISK
    rig.iop.bay.remove(DISK)
    assert rig.iop.lct.boot_tid == 0


def test_there_is_an_end_to_disks(monkeypatch) -> None:
    monkeypatch.setattr(disk_bay, "MAX_DISKS", 2)
    rig = rig_of()
    rig.iop.bay.add(MemoryDisk(4096))
    before = rig.iop.lct.indicator
    with pytest.raises(DiskBayError, match="at most 2 disks"):
        rig.iop.bay.add(MemoryDisk(4096))
    assert rig.iop.lct.indicator == before


# --- sizes ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [4096, 2 << 20])
def test_another_size(size: int) -> None:
    rig = rig_of()
    watch(rig)
    rig.iop.bay.resize(DISK, size)
    assert events(rig) == [(110, BsaEvent.CAPACITY_CHANGE), (100, ExecutiveEvent.MODIFIED_LCT)]
    assert rig.iop.lct.indicator == 2
    entry = tables.LCT_ENTRY.unpack_from(rig.iop.lct.devices[DISK].lct_entry())
    assert entry.change_indicator == 2
    assert entry.event_capabilities & BsaEvent.CAPACITY_CHANGE
    assert group(rig, 0, bsa_groups.BSA_DEVICE_INFO).device_capacity == size
    assert group(rig, 4, bsa_groups.BSA_MEDIA_INFO).capacity == size
    assert read(rig, size // BLOCK - 1).status == PLAIN
    assert read(rig, size // BLOCK).status[1] == Detail.ACCESS_ERROR


def test_the_event_of_a_new_size_carries_the_lct_entry() -> None:
    rig = rig_of()
    watch(rig)
    rig.iop.bay.resize(DISK, 4096)
    _, reply = rig.replies()
    assert tables.LCT_ENTRY.unpack_from(reply.data, 20).local_tid == DISK


@pytest.mark.parametrize("size", [0, 511, 513, -512])
def test_sizes_that_cannot_be(size: int) -> None:
    rig = rig_of()
    with pytest.raises(DiskBayError, match="no whole number of blocks of 512"):
        rig.iop.bay.resize(DISK, size)
    assert rig.iop.lct.indicator == 1


def test_the_size_that_it_has_changes_nothing() -> None:
    rig = rig_of()
    watch(rig)
    rig.iop.bay.resize(DISK, 1 << 20)
    assert events(rig) == []
    assert rig.iop.lct.indicator == 1


def test_what_a_smaller_disk_hides_comes_back() -> None:
    disk = MemoryDisk(1 << 20)
    disk.write_from(8192, [memoryview(b"hello")])
    rig = rig_of(disk)
    for size in (4096, 1 << 20):
        rig.iop.bay.resize(DISK, size)
    data = bytearray(5)
    disk.read_into(8192, [memoryview(data)])
    assert data == b"hello"


def test_memory_is_not_endless(monkeypatch) -> None:
    disk = MemoryDisk(4096)
    with pytest.raises(OSError, match="at most"):
        disk.resize(MAX_MEMORY_DISK + 512)

    def refuse(size):
        raise MemoryError

    monkeypatch.setattr("builtins.bytearray", refuse)
    with pytest.raises(OSError, match="there is no memory for 8192 bytes"):
        disk.resize(8192)
    assert disk.size == 4096


def test_an_image_grows_and_is_never_cut(tmp_path) -> None:
    path = tmp_path / "a.img"
    path.write_bytes(b"\x5a" * 4096)
    with_disk = rig_of(DiskImage(path))  # type: ignore[arg-type]
    bay = with_disk.iop.bay
    bay.resize(DISK, 1024)
    assert path.read_bytes() == b"\x5a" * 4096
    assert read(with_disk, 2).status[1] == Detail.ACCESS_ERROR
    bay.resize(DISK, 8192)
    assert path.read_bytes() == b"\x5a" * 4096 + bytes(4096)
    assert read(with_disk, 15).status == PLAIN
    bay.close()


def test_an_image_that_cannot_grow(tmp_path, monkeypatch) -> None:
    path = tmp_path / "a.img"
    path.write_bytes(bytes(4096))
    rig = rig_of(DiskImage(path, read_only=True))  # type: ignore[arg-type]
    with pytest.raises(OSError, match="read-only and has 4096 bytes") as caught:
        rig.iop.bay.resize(DISK, 8192)
    assert caught.value.errno == errno.EROFS
    rig.iop.bay.resize(DISK, 1024)
    assert (path.stat().st_size, rig.iop.bay.disk(DISK).state.size) == (4096, 1024)
    rig.iop.bay.close()
    image = DiskImage(path)
    monkeypatch.setattr("stat.S_ISREG", lambda mode: False)
    with pytest.raises(OSError, match="no file and has 4096 bytes"):
        image.resize(8192)
    image.close()

    def full(fd: int, size: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.undo()
    monkeypatch.setattr(os, "ftruncate", full)
    rig = rig_of(DiskImage(path))  # type: ignore[arg-type]
    with pytest.raises(OSError, match="No space left"):
        rig.iop.bay.resize(DISK, 8192)
    assert (rig.iop.bay.disk(DISK).state.size, rig.iop.lct.indicator) == (4096, 1)
    rig.iop.bay.close()


def test_a_disk_that_shrinks_under_a_long_operation() -> None:
    rig = rig_of(MemoryDisk(4 << 20))
    rig.post(simple(bsa.BSA_MEDIA_VERIFY, byte_count=4 << 20))
    rig.run(2)  # takes it up and makes the first step
    rig.iop.bay.resize(DISK, 1 << 20)
    (reply,) = rig.replies()
    assert reply.status == (ReqStatus.ERROR_PARTIAL_TRANSFER, Detail.ACCESS_ERROR)
    assert reply.words[5] == 1 << 20


# --- media ---------------------------------------------------------------------------------------


def test_a_medium_that_is_taken_out() -> None:
    rig = rig_of()
    watch(rig)
    medium = rig.iop.bay.disk(DISK).store
    assert rig.iop.bay.eject(DISK) is medium
    assert events(rig) == [(110, BsaEvent.VOLUME_UNLOAD)]
    assert rig.iop.lct.indicator == 1
    for layout in (bsa.BSA_STATUS_CHECK, bsa.BSA_MEDIA_EJECT, bsa.BSA_MEDIA_LOCK):
        assert rig.call(simple(layout)).status[1] == Detail.MEDIA_NOT_PRESENT
    mount = simple(bsa.BSA_MEDIA_MOUNT, media_identifier=ALL)
    assert rig.call(mount).status[1] == Detail.MEDIA_NOT_PRESENT
    assert read(rig).status[1] == Detail.MEDIA_NOT_PRESENT
    info = group(rig, 0, bsa_groups.BSA_DEVICE_INFO)
    assert (info.device_capacity, info.block_size, info.device_state & 0x0C) == (0, 512, 0)
    assert info.device_capability_support & 0x08
    for action in (rig.iop.bay.eject, lambda tid: rig.iop.bay.resize(tid, 4096)):
        with pytest.raises(DiskBayError, match="has no medium: insert one"):
            action(DISK)
    rig.iop.reset()
    assert not rig.iop.bay.disk(DISK).state.is_loaded


def test_a_medium_that_is_put_in() -> None:
    rig = rig_of()
    rig.iop.bay.eject(DISK)
    watch(rig)
    empty = rig.iop.bay.insert(DISK, MemoryDisk(8192, block_size=4096, removable=True))
    assert isinstance(empty, NoMedium)
    assert events(rig) == [(110, BsaEvent.VOLUME_LOAD)]
    assert group(rig, 4, bsa_groups.BSA_MEDIA_INFO).block_size == 4096
    assert rig.call(simple(bsa.BSA_STATUS_CHECK)).status[1] == Detail.VOLUME_CHANGED
    ack = simple(utility.UTIL_EVENT_ACK, event_indicator=BsaEvent.VOLUME_LOAD.value)
    rig.call(ack)
    assert rig.call(simple(bsa.BSA_STATUS_CHECK)).status == PLAIN
    assert read(rig, 8, 8).status == PLAIN
    assert read(rig, 9, 1).status[1] == Detail.PROTOCOL_FAILURE


def test_a_medium_that_is_changed() -> None:
    rig = rig_of()
    watch(rig)
    before = rig.iop.bay.disk(DISK).store
    assert rig.iop.bay.insert(DISK, MemoryDisk(4096)) is before
    assert events(rig) == [(110, BsaEvent.VOLUME_UNLOAD), (110, BsaEvent.VOLUME_LOAD)]
    assert rig.iop.bay.disk(DISK).state.is_removable


@pytest.mark.parametrize(
    ("frame", "is_noted"),
    [
        (simple(utility.UTIL_EVENT_ACK, event_indicator=BsaEvent.VOLUME_LOAD.value), True),
        (simple(utility.UTIL_EVENT_ACK, event_indicator=BsaEvent.VOLUME_UNLOAD.value), False),
        (simple(bsa.BSA_MEDIA_MOUNT, media_identifier=ALL), True),
        (simple(bsa.BSA_MEDIA_LOCK), False),
        (simple(bsa.BSA_POWER_MANAGEMENT, operation=3), False),
    ],
)
def test_what_takes_note_of_a_change(frame: bytes, is_noted: bool) -> None:
    rig = rig_of()
    watch(rig)
    rig.iop.bay.insert(DISK, MemoryDisk(4096))
    events(rig)
    assert read(rig).status == (ReqStatus.ERROR_NO_DATA_TRANSFER, Detail.VOLUME_CHANGED)
    rig.call(frame)
    assert read(rig).status[1] == (0 if is_noted else Detail.VOLUME_CHANGED)


def test_a_device_reset_takes_note_of_a_change() -> None:
    rig = rig_of()
    watch(rig)
    rig.iop.bay.insert(DISK, MemoryDisk(4096))
    rig.post(simple(bsa.BSA_DEVICE_RESET))
    rig.replies()
    assert read(rig).status == PLAIN


def test_a_host_that_is_not_told_needs_no_note() -> None:
    rig = rig_of()
    rig.iop.bay.insert(DISK, MemoryDisk(4096))
    assert read(rig, 7).status == PLAIN


def test_a_locked_medium_is_asked_for() -> None:
    rig = rig_of()
    watch(rig)
    rig.call(simple(bsa.BSA_MEDIA_LOCK))
    for action in (rig.iop.bay.eject, lambda tid: rig.iop.bay.insert(tid, MemoryDisk(4096))):
        with pytest.raises(DiskBayError, match="has locked the medium"):
            action(DISK)
        assert events(rig) == [(110, BsaEvent.VOLUME_UNLOAD_REQUEST)]
    assert read(rig).status == PLAIN
    rig.iop.bay.eject(DISK, is_forced=True)
    assert events(rig) == [(110, BsaEvent.VOLUME_UNLOAD)]
    rig.iop.bay.insert(DISK, MemoryDisk(4096))
    assert not rig.iop.bay.disk(DISK).state.is_locked


def test_a_medium_in_the_tray_is_taken_or_loaded_again() -> None:
    rig = rig_of()
    assert rig.call(simple(bsa.BSA_MEDIA_EJECT)).status == PLAIN
    assert rig.call(simple(bsa.BSA_MEDIA_MOUNT)).status == PLAIN
    assert rig.call(simple(bsa.BSA_MEDIA_EJECT)).status == PLAIN
    watch(rig)
    rig.iop.bay.eject(DISK)
    assert events(rig) == []
    assert rig.call(simple(bsa.BSA_MEDIA_MOUNT)).status[1] == Detail.MEDIA_NOT_PRESENT


def test_a_fixed_disk_keeps_its_medium() -> None:
    rig = rig_of(MemoryDisk(4096))
    for action in (rig.iop.bay.eject, lambda tid: rig.iop.bay.insert(tid, MemoryDisk(4096))):
        with pytest.raises(DiskBayError, match="cannot be taken out"):
            action(DISK)


def test_a_medium_that_is_pulled_under_a_long_operation() -> None:
    rig = rig_of(MemoryDisk(4 << 20, removable=True))
    rig.post(simple(bsa.BSA_MEDIA_VERIFY, byte_count=4 << 20))
    rig.run(2)
    rig.iop.bay.eject(DISK)
    (reply,) = rig.replies()
    assert reply.status == (ReqStatus.ERROR_PARTIAL_TRANSFER, Detail.MEDIA_NOT_PRESENT)


def test_a_medium_that_is_changed_under_a_long_operation() -> None:
    rig = rig_of(MemoryDisk(4 << 20, removable=True))
    rig.post(simple(bsa.BSA_MEDIA_VERIFY, byte_count=4 << 20))
    rig.run(2)
    rig.iop.bay.insert(DISK, MemoryDisk(4 << 20))  # nobody is told, and it counts nevertheless
    (reply,) = rig.replies()
    assert reply.status == (ReqStatus.ERROR_PARTIAL_TRANSFER, Detail.VOLUME_CHANGED)
    assert reply.words[5] == 1 << 20


def test_a_load_of_what_is_loaded_disturbs_no_long_operation() -> None:
    rig = rig_of(MemoryDisk(4 << 20, removable=True))
    rig.post(simple(bsa.BSA_MEDIA_VERIFY, byte_count=4 << 20))
    rig.run(2)
    for frame in (simple(bsa.BSA_MEDIA_MOUNT), simple(bsa.BSA_POWER_MANAGEMENT, operation=3)):
        rig.post(frame)
    assert [reply.status for reply in rig.replies()] == [PLAIN] * 3


def test_a_reset_forgets_locks_and_changes() -> None:
    rig = rig_of()
    watch(rig)
    state = rig.iop.bay.disk(DISK).state
    rig.iop.bay.insert(DISK, MemoryDisk(4096))
    rig.iop.bay.eject(DISK)
    assert not state.is_changed
    rig.iop.bay.insert(DISK, MemoryDisk(4096))
    events(rig)
    rig.call(simple(bsa.BSA_MEDIA_LOCK))
    assert (state.is_changed, state.is_locked) == (True, True)
    rig.iop.reset()
    assert (state.is_changed, state.is_locked, state.is_up) == (False, False, True)


def test_no_medium_moves_nothing() -> None:
    none = NoMedium(512, "X")
    for action in (lambda: none.read_into(0, []), lambda: none.write_from(0, [])):
        with pytest.raises(OSError, match="no medium") as caught:
            action()
        assert caught.value.errno == errno.ENOMEDIUM
    with pytest.raises(OSError, match="no medium"):
        none.resize(512)
    none.flush()
    none.close()


# --- bad blocks ----------------------------------------------------------------------------------


def test_blocks_go_bad_and_good() -> None:
    rig = rig_of()
    rig.iop.bay.spoil(DISK, 2, 3)
    rig.iop.bay.spoil(DISK, 2047, 2047)
    assert list(rig.iop.bay.bad_blocks(DISK)) == [(2, 3), (2047, 2047)]
    reply = read(rig, 0, 4)
    assert (reply.status[1], reply.words[5]) == (Detail.MEDIA_ERROR, 1024)
    rig.iop.bay.mend(DISK, 0, 2047)
    assert read(rig, 0, 4).status == PLAIN
    for first, last in ((2048, 2048), (0, 2048), (-1, 0), (3, 2)):
        for action in (rig.iop.bay.spoil, rig.iop.bay.mend):
            with pytest.raises(DiskBayError, match="whose blocks are 0 to 2047"):
                action(DISK, first, last)


def test_bad_blocks_go_with_their_medium() -> None:
    rig = rig_of()
    rig.iop.bay.spoil(DISK, 0, 0)
    medium = rig.iop.bay.insert(DISK, MemoryDisk(4096))
    assert read(rig).status == PLAIN
    rig.iop.bay.insert(DISK, medium)
    assert read(rig).status[1] == Detail.MEDIA_ERROR
    rig.iop.bay.resize(DISK, 2 << 20)
    assert read(rig).status[1] == Detail.MEDIA_ERROR
    assert read(rig, 4095).status == PLAIN


# --- an IOP that says nothing --------------------------------------------------------------------


@pytest.mark.parametrize("state", [IopState.FAILED, IopState.FAULTED])
def test_an_iop_that_failed_tells_nobody(state: IopState) -> None:
    rig = rig_of(faults=FaultPlan().on("BSA_STATUS_CHECK").delay(100))
    watch(rig)
    rig.post(executive.EXEC_LCT_NOTIFY.build(last_reported_change_indicator=9))
    rig.post(simple(bsa.BSA_STATUS_CHECK))
    assert rig.replies() == []
    rig.iop.enter(state)
    bay = rig.iop.bay
    tid = bay.add(MemoryDisk(4096)).tid
    bay.resize(DISK, 4096)
    bay.insert(DISK, MemoryDisk(4096))
    bay.eject(DISK)
    bay.remove(DISK)
    assert rig.unit.posted_outbound() == 0
    rig.iop.power_cycle()
    assert (rig.iop.state, list(bay.devices)) == (IopState.RESET, [tid])
