# SPDX-License-Identifier: Apache-2.0
"""SCSI peripherals and bus adapter ports of the software IOP: messages, replies, groups."""

from __future__ import annotations

import random
import struct
from dataclasses import replace

import pytest

from fakes.iop_rig import DISK, Reply, Rig
from fakes.scsi_bench import SIZE, pattern, rw
from fakes.scsi_requests import AUTOSENSE, IN, NOWHERE, OUT, USUAL, dpt_scb, scb
from i2o.frames import adapter, executive, private, scsi, utility
from i2o.frames.functions import Function
from i2o.frames.scsi import SCSI_ERROR_REPLY, SCSI_SUCCESS_REPLY, ScbFlags, ScsiHbaStatus
from i2o.frames.scsi_command import ScsiOpcode as Op
from i2o.frames.sgl import immediate_element, simple_sgl
from i2o.frames.utility import GenericEvent
from i2o.iop_emulator.bad_blocks import BadBlocks, FlawedDisk
from i2o.iop_emulator.block_store import MemoryDisk
from i2o.iop_emulator.cards import CARDS
from i2o.iop_emulator.ddm.bus_adapter import BusAdapter
from i2o.iop_emulator.ddm.scsi import ScsiPeripheral
from i2o.iop_emulator.disk_bay import FIRST_PORT_TID, DiskBayError
from i2o.iop_emulator.faults import FaultPlan
from i2o.iop_emulator.options import IopOptions

PORT = FIRST_PORT_TID
READY = bytes(6)
PLAIN = (0, 0)
CHECK = 0x0002
DPT = IopOptions(organization_id=0x1B, card=CARDS["dpt"])


class ScsiRig(Rig):
    """An IOP with one SCSI disk, whose first unit attention was taken."""

    def __init__(self, store=None, *, options: IopOptions | None = None, **others) -> None:
        given = options if options is not None else IopOptions(disk_kinds=("scsi",))
        super().__init__([store or MemoryDisk(1 << 20)], options=given, **others)
        self.call(scb(DISK, READY))

    def place(self, data: bytes | int) -> tuple[int, int]:
        size = data if isinstance(data, int) else len(data)
        return self.buffer(data).bus_address, size


def outcome(reply: Reply) -> tuple[int, int, int]:
    """Return ReqStatus, DetailedStatusCode and TransferCount."""
    return (*reply.status, SCSI_SUCCESS_REPLY.unpack_from(reply.data).transfer_count)


def reason(reply: Reply) -> tuple[int, int]:
    """Return sense key and additional sense code of a CHECK CONDITION."""
    assert len(reply.data) == SCSI_ERROR_REPLY.size == 68
    fields = SCSI_ERROR_REPLY.unpack_from(reply.data)
    assert fields.detailed_status_code == CHECK
    assert fields.auto_sense_transfer_count == 18
    return fields.sense_data[2], int.from_bytes(fields.sense_data[12:14], "big")


# --- the table ----------------------------------------------------------------------------------


def test_a_scsi_disk_is_on_a_bus_of_its_iop():
    rig = ScsiRig(MemoryDisk(1 << 20, serial="AB12"))
    port, disk = rig.iop.lct.devices[PORT], rig.iop.lct.devices[DISK]
    assert isinstance(port, BusAdapter)
    assert isinstance(disk, ScsiPeripheral)
    assert (disk.device_class, disk.parent_tid, disk.user_tid) == (0x51, PORT, 0xFFF)
    assert (port.device_class, port.parent_tid, port.user_tid) == (0x80, 0x008, 0xFFF)
    assert (disk.identity_tag, port.identity_tag) == (b"AB12    ", b"SCSI0   ")
    assert len(rig.iop.executive.hrt()) == 8 + 16


def test_a_bus_has_15_places_and_then_there_is_another():
    kinds = ("scsi",) * 31
    rig = Rig([MemoryDisk(SIZE)] * 31, options=IopOptions(disk_kinds=kinds))
    ports = [device for device in rig.iop.lct if isinstance(device, BusAdapter)]
    disks = [device for device in rig.iop.lct if isinstance(device, ScsiPeripheral)]
    assert [port.number for port in ports] == [0, 1, 2]
    assert [disk.port.number for disk in disks] == [0] * 15 + [1] * 15 + [2]
    ids = [disk.scsi_id for disk in disks[:15]]
    assert ids == [*range(7), *range(8, 16)]
    assert [disk.scsi_id for disk in disks[15:30]] == ids


def test_disks_of_both_classes_in_one_iop():
    options = IopOptions(disk_kinds=(None, "scsi"))
    rig = Rig([MemoryDisk(SIZE)] * 3, options=options)
    classes = [rig.iop.lct.devices[DISK + number].device_class for number in range(3)]
    assert classes == [0x10, 0x51, 0x10]


# --- ScsiScbExec --------------------------------------------------------------------------------


def test_data_go_both_ways():
    rig = ScsiRig()
    reply = rig.call(scb(DISK, rw(Op.WRITE_10, 3, 2), rig.place(pattern(2)), flags=USUAL | OUT))
    assert outcome(reply) == (0, 0, 2 * SIZE)
    assert len(reply.data) == SCSI_SUCCESS_REPLY.size
    into = rig.buffer(3 * SIZE)
    place = into.bus_address, 3 * SIZE
    reply = rig.call(scb(DISK, rw(Op.READ_10, 3, 2), place, flags=USUAL | IN))
    assert outcome(reply) == (0, 0, 2 * SIZE)
    assert bytes(into.view) == pattern(2) + bytes(SIZE)


@pytest.mark.parametrize("is_copied", [False, True])
def test_data_in_pieces_in_the_message_and_for_nobody(monkeypatch, is_copied):
    rig = ScsiRig()
    if is_copied:
        monkeypatch.setattr(type(rig.memory), "windows", lambda *args, **kwargs: None)
    tail = rig.buffer(pattern(1, 9)[:-4])
    sgl = immediate_element(b"head") + simple_sgl([(tail.bus_address, SIZE - 4)], out=True)
    reply = rig.call(scb(DISK, rw(Op.WRITE_10, 0, 1), flags=USUAL | OUT, count=SIZE, sgl=sgl))
    assert outcome(reply) == (0, 0, SIZE)
    into = rig.buffer(8)
    bucket = struct.pack("<II", 0x0800_0000 | SIZE - 8, 0)
    sgl = bucket + simple_sgl([(into.bus_address, 8)], out=False)
    reply = rig.call(scb(DISK, rw(Op.READ_10, 0, 1), flags=USUAL | IN, count=SIZE, sgl=sgl))
    assert outcome(reply) == (0, 0, SIZE)
    assert bytes(into.view) == b"\x09" * 8
    first = rig.buffer(SIZE)
    place = first.bus_address, SIZE
    rig.call(scb(DISK, rw(Op.READ_10, 0, 1), place, flags=USUAL | IN))
    assert bytes(first.view[:6]) == b"head\x09\x09"


def test_only_byte_count_bytes_of_the_list_are_used():
    rig = ScsiRig()
    rig.call(scb(DISK, rw(Op.WRITE_10, 0, 2), rig.place(pattern(2)), flags=USUAL | OUT))
    into = rig.buffer(2 * SIZE)
    place = into.bus_address, 2 * SIZE
    reply = rig.call(scb(DISK, rw(Op.READ_10, 0, 2), place, flags=USUAL | IN, count=SIZE))
    assert outcome(reply) == (6, ScsiHbaStatus.DATA_OVERRUN, SIZE)
    assert bytes(into.view) == pattern(1) + bytes(SIZE)


def test_a_list_is_cut_in_the_middle_of_a_piece():
    rig = ScsiRig()
    into = rig.buffer(b"x" * 24)
    start = into.bus_address
    sgl = simple_sgl([(start, 7), (start + 7, 9), (start + 16, 8)], out=False)
    inquiry = bytes((Op.INQUIRY, 0, 0, 0, 36, 0))
    reply = rig.call(scb(DISK, inquiry, flags=USUAL | IN, count=8, sgl=sgl))
    assert outcome(reply) == (6, ScsiHbaStatus.DATA_OVERRUN, 8)
    assert bytes(into.view) == b"\x00\x00\x05\x02\x1f\x00\x00\x02" + b"x" * 16


@pytest.mark.parametrize("flags", [USUAL, USUAL | OUT])
def test_data_do_not_go_where_the_flags_do_not_say(flags):
    rig = ScsiRig()
    into = rig.buffer(b"x" * SIZE)
    place = into.bus_address, SIZE
    reply = rig.call(scb(DISK, rw(Op.READ_10, 0, 1), place, flags=flags))
    assert outcome(reply) == (5, ScsiHbaStatus.DATA_OVERRUN, 0)
    assert bytes(into.view) == b"x" * SIZE


def test_host_memory_out_of_sight_is_copied(monkeypatch):
    rig = ScsiRig()
    monkeypatch.setattr(type(rig.memory), "windows", lambda *args, **kwargs: None)
    reply = rig.call(scb(DISK, rw(Op.WRITE_10, 3, 2), rig.place(pattern(2)), flags=USUAL | OUT))
    assert outcome(reply) == (0, 0, 2 * SIZE)
    into = rig.buffer(3 * SIZE)
    place = into.bus_address, 3 * SIZE
    reply = rig.call(scb(DISK, rw(Op.READ_10, 3, 2), place, flags=USUAL | IN))
    assert outcome(reply) == (0, 0, 2 * SIZE)
    assert bytes(into.view) == pattern(2) + bytes(SIZE)
    monkeypatch.setattr("i2o.iop_emulator.ddm.scb.MAX_COPY", 3 * SIZE)
    assert outcome(rig.call(scb(DISK, rw(Op.READ_10, 3, 2), place, flags=USUAL | IN)))[0] == 0
    monkeypatch.setattr("i2o.iop_emulator.ddm.scb.MAX_COPY", 3 * SIZE - 1)
    reply = rig.call(scb(DISK, rw(Op.READ_10, 3, 2), place, flags=USUAL | IN))
    assert outcome(reply) == (5, ScsiHbaStatus.RESOURCE_UNAVAILABLE, 0)


def test_a_command_without_data_needs_no_byte_count():
    rig = ScsiRig()
    assert outcome(rig.call(scb(DISK, READY)[:36])) == (0, 0, 0)  # 9 words, as Linux sends it


def test_sense_data_in_the_reply():
    rig = ScsiRig(FlawedDisk(MemoryDisk(1 << 20), BadBlocks([(5, 5)])))
    reply = rig.call(scb(DISK, rw(Op.READ_10, 3, 4), rig.place(4 * SIZE), flags=USUAL | IN))
    assert outcome(reply) == (6, CHECK, 2 * SIZE)
    assert reason(reply) == (3, 0x1100)
    assert SCSI_ERROR_REPLY.unpack_from(reply.data).sense_data[3:7] == b"\0\0\0\5"


def test_sense_data_in_a_buffer_of_their_own():
    rig = ScsiRig()
    data, sense = rig.buffer(SIZE), rig.buffer(16)
    sgl = simple_sgl([(data.bus_address, SIZE)], out=False, last=False)
    sgl += simple_sgl([(sense.bus_address, 16)], out=False)
    flags = IN | ScbFlags.SENSE_DATA_IN_BUFFER
    frame = scb(DISK, rw(Op.READ_10, 1 << 20, 1), flags=flags, count=SIZE, sgl=sgl)
    reply = rig.call(frame)
    assert outcome(reply) == (5, CHECK, 0)
    fields = SCSI_ERROR_REPLY.unpack_from(reply.data)
    assert (fields.auto_sense_transfer_count, any(fields.sense_data)) == (16, False)
    assert (sense.view[2], sense.view[12]) == (5, 0x21)
    sense.view[:] = bytes(16)
    alone = scb(DISK, b"\x04" + bytes(5), (sense.bus_address, 16), flags=int(flags) & ~IN, count=0)
    assert rig.call(alone).status == (5, CHECK)
    assert sense.view[12] == 0x20
    good = scb(DISK, rw(Op.READ_10, 0, 1), flags=flags, count=SIZE, sgl=sgl)
    sense.view[:] = bytes(16)
    assert outcome(rig.call(good)) == (0, 0, SIZE)
    assert not any(sense.view)


def test_without_autosense_request_sense_gives_them():
    rig = ScsiRig()
    reply = rig.call(scb(DISK, b"\x04" + bytes(5), flags=0))
    fields = SCSI_ERROR_REPLY.unpack_from(reply.data)
    assert (reply.status, fields.auto_sense_transfer_count) == ((5, CHECK), 0)
    into = rig.buffer(18)
    place = into.bus_address, 18
    rig.call(scb(DISK, bytes((Op.REQUEST_SENSE, 0, 0, 0, 18, 0)), place, flags=IN))
    assert (into.view[2], into.view[12]) == (5, 0x20)


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ({"flags": IN | OUT}, ScsiHbaStatus.REQUEST_INVALID),
        ({"flags": 0x40}, ScsiHbaStatus.REQUEST_INVALID),
        ({"flags": USUAL & ~0x80 | ScbFlags.ACA_QUEUE_TAG}, ScsiHbaStatus.REQUEST_INVALID),
        ({"flags": 0x380}, ScsiHbaStatus.REQUEST_INVALID),
        ({"cdb_length": 0}, ScsiHbaStatus.INVALID_CDB),
        ({"cdb_length": 5}, ScsiHbaStatus.INVALID_CDB),
        ({"cdb_length": 17}, ScsiHbaStatus.INVALID_CDB),
        ({"flags": USUAL | IN, "count": SIZE + 1}, ScsiHbaStatus.REQUEST_LENGTH_ERROR),
    ],
)
def test_blocks_that_make_no_sense(fields, status):
    rig = ScsiRig()
    frame = scb(DISK, READY, rig.place(SIZE), **fields)
    before = len(rig.complaints)
    assert outcome(rig.call(frame)) == (5, status, 0)
    assert len(rig.complaints) == before + 1


@pytest.mark.parametrize("tag", [0, 0x80, 0x100, 0x180])
def test_every_kind_of_tag_is_taken(tag):
    assert outcome(ScsiRig().call(scb(DISK, READY, flags=AUTOSENSE | tag))) == (0, 0, 0)


def test_a_cdb_may_be_longer_than_its_command_and_a_foreign_one_short():
    rig = ScsiRig()
    assert outcome(rig.call(scb(DISK, READY, cdb_length=16))) == (0, 0, 0)
    assert reason(rig.call(scb(DISK, b"\xc0"))) == (5, 0x2000)


def test_memory_that_is_not_there_and_lists_that_make_no_sense():
    rig = ScsiRig()
    read, write = rw(Op.READ_10, 0, 1), rw(Op.WRITE_10, 0, 1)
    for cdb, flags in ((read, USUAL | IN), (write, USUAL | OUT)):
        reply = rig.call(scb(DISK, cdb, (NOWHERE, SIZE), flags=flags))
        assert outcome(reply) == (5, ScsiHbaStatus.PROVIDE_FAILURE, 0)
    bad = b"\x00\x00\x00\x34"
    reply = rig.call(scb(DISK, read, flags=USUAL | IN, count=SIZE, sgl=bad))
    assert reply.status == (0x0B, ScsiHbaStatus.REQUEST_INVALID)
    assert reply.words[5] == 40
    inline = immediate_element(bytes(8))
    reply = rig.call(scb(DISK, read, flags=USUAL | IN, count=8, sgl=inline))
    assert outcome(reply) == (5, ScsiHbaStatus.REQUEST_INVALID, 0)


def test_a_small_reply_frame_takes_what_fits():
    rig = ScsiRig(reply_words=8)
    reply = rig.call(scb(DISK, b"\x04" + bytes(5)))
    assert reply.status == (5, CHECK)
    assert len(reply.data) <= 32


# --- aborting and resetting ---------------------------------------------------------------------


def delayed() -> ScsiRig:
    """Return an IOP that has one command on its way, with transaction context 0x77."""
    rig = ScsiRig()
    plan = FaultPlan()
    plan.on(Function.SCSI_SCB_EXEC).delay(1000)
    rig.iop.misbehave(plan)
    rig.post(scb(DISK, READY, transaction_context=0x77))
    rig.run()
    return rig


def abort(context: int) -> bytes:
    return scsi.SCSI_SCB_ABORT.build(target_address=DISK, transaction_context_to_abort=context)


def test_an_scb_is_aborted():
    rig = delayed()
    assert outcome(rig.call(abort(0x78))) == (5, ScsiHbaStatus.UNABLE_TO_ABORT, 0)
    rig.post(abort(0x77))
    aborted, done = rig.replies()
    assert outcome(aborted) == (2, ScsiHbaStatus.REQUEST_ABORTED, 0)
    assert aborted.words[3] == 0x77
    assert done.status == PLAIN


def test_util_abort_speaks_the_language_of_the_class():
    rig = delayed()
    rig.post(utility.UTIL_ABORT.build(target_address=DISK, abort_type=3))
    aborted, done = rig.replies()
    assert outcome(aborted) == (2, ScsiHbaStatus.REQUEST_ABORTED, 0)
    assert done.words[4] == 1


def register(rig: Rig, tid: int) -> None:
    rig.post(utility.UTIL_EVENT_REGISTER.build(target_address=tid, event_mask=0xFFFFFFFF))
    assert rig.replies() == []


def test_a_device_reset():
    rig = delayed()
    register(rig, DISK)
    rig.post(scsi.SCSI_DEVICE_RESET.build(target_address=DISK))
    aborted, event, done = rig.replies()
    assert outcome(aborted) == (2, ScsiHbaStatus.REQUEST_ABORTED, 0)
    assert event.words[4:6] == (GenericEvent.DEVICE_RESET, 1)
    assert done.status == PLAIN
    rig.iop.misbehave(None)
    assert reason(rig.call(scb(DISK, READY))) == (6, 0x2903)
    assert outcome(rig.call(scb(DISK, READY))) == (0, 0, 0)


@pytest.mark.parametrize(
    "layout", [adapter.HBA_BUS_RESET, adapter.HBA_ADAPTER_RESET, scsi.SCSI_DEVICE_RESET]
)
def test_a_bus_reset_reaches_everybody_on_the_bus(layout):
    rig = Rig([MemoryDisk(SIZE)] * 3, options=IopOptions(disk_kinds=("scsi",) * 2))
    for tid in (DISK, DISK + 1):
        rig.call(scb(tid, READY))
    register(rig, PORT)
    rig.now_ns = 5 * 10**9
    rig.post(layout.build(target_address=PORT))
    event, done = rig.replies()
    assert (event.words[4], done.status) == (GenericEvent.DEVICE_RESET, PLAIN)
    for tid in (DISK, DISK + 1):
        assert reason(rig.call(scb(tid, READY))) == (6, 0x2902)
    assert values(rig, PORT, 0x0100, "<II") == (0, 5)


def test_a_reset_of_the_iop_is_a_power_cycle_of_its_disks():
    rig = ScsiRig()
    rig.iop.reset()
    rig.bring_up()
    assert reason(rig.call(scb(DISK, READY))) == (6, 0x2901)


def test_a_quiesced_bus_lets_no_command_through():
    rig = ScsiRig()
    quiesce = adapter.HBA_BUS_QUIESCE
    assert rig.call(quiesce.build(target_address=PORT, flags=1)).status == PLAIN
    assert outcome(rig.call(scb(DISK, READY))) == (5, ScsiHbaStatus.QUEUE_FROZEN, 0)
    assert values(rig, PORT, 0, "<BBH12s")[:2] == (1, 1)
    assert rig.call(quiesce.build(target_address=PORT)).status == PLAIN
    assert outcome(rig.call(scb(DISK, READY))) == (0, 0, 0)
    rig.call(quiesce.build(target_address=PORT, flags=1))
    rig.call(adapter.HBA_BUS_RESET.build(target_address=PORT))
    assert reason(rig.call(scb(DISK, READY))) == (6, 0x2902), "a reset ends it"
    rig.call(quiesce.build(target_address=PORT, flags=1))
    rig.iop.reset()
    rig.bring_up()
    assert reason(rig.call(scb(DISK, READY))) == (6, 0x2901)


def test_a_ddm_takes_its_buses_and_disks_with_it():
    rig = ScsiRig()
    assert rig.call(executive.EXEC_DDM_SUSPEND.build(ddm_tid=8)).status == PLAIN
    for frame in (scb(DISK, READY), adapter.HBA_BUS_SCAN.build(target_address=PORT)):
        assert rig.call(frame).flags & 0x20


def test_a_disk_is_released_from_its_bus_and_assigned_to_it_again():
    rig = ScsiRig()
    good = {"device_tid": DISK, "ddm_tid": PORT}
    assert rig.call(executive.EXEC_DEVICE_RELEASE.build(**good)).status == PLAIN
    assert rig.call(scb(DISK, READY)).flags & 0x20
    assert rig.call(executive.EXEC_DEVICE_ASSIGN.build(**good)).status == PLAIN
    assert outcome(rig.call(scb(DISK, READY))) == (0, 0, 0)


def test_a_fault_plan_can_answer_an_scb():
    rig = ScsiRig()
    plan = FaultPlan()
    plan.on(Function.SCSI_SCB_EXEC).reply(5, ScsiHbaStatus.SELECTION_TIMEOUT)
    rig.iop.misbehave(plan)
    assert outcome(rig.call(scb(DISK, READY))) == (5, ScsiHbaStatus.SELECTION_TIMEOUT, 0)
    plan = FaultPlan()
    plan.on(Function.SCSI_SCB_EXEC).reply(5, CHECK)
    rig.iop.misbehave(plan)
    fields = SCSI_ERROR_REPLY.unpack_from(rig.call(scb(DISK, READY)).data)
    assert (fields.detailed_status_code, fields.auto_sense_transfer_count) == (CHECK, 0)
    other = rig.call(utility.UTIL_CLAIM.build(target_address=DISK, claim_type=1))
    assert other.status == PLAIN


# --- groups -------------------------------------------------------------------------------------


def values(rig: Rig, tid: int, group: int, fields: str) -> tuple:
    _, blocks = rig.parameters(tid, struct.pack("<HHH", 1, group, 0xFFFF))
    (block,) = blocks
    assert block.status == 0
    return struct.unpack_from(fields, block.data)


def test_groups_of_a_peripheral_and_of_its_port():
    rig = Rig([MemoryDisk(SIZE)] * 9, options=IopOptions(disk_kinds=("scsi",) * 9))
    info = values(rig, DISK + 7, 0, "<BBHI8sIBBBBQ")
    assert info == (0, 0, 0, 8, bytes(8), 64, 0, 31, 16, 0, 80_000_000)
    assert values(rig, PORT, 0, "<BBH12s") == (1, 0, 0, b"SCSI bus 0  ")
    wiring = values(rig, DISK, 1, "<BBBBBBHI")
    assert wiring[0] == scsi.ScsiPortPhysical.PARALLEL
    assert values(rig, PORT, 1, "<BBBBBBHI") == wiring
    assert values(rig, PORT, 0x0201, "<BBBBBBHIII") == (*wiring, 0, 15)
    assert values(rig, PORT, 0x0200, "<BBBBI")[4] == 7
    assert values(rig, PORT, 0x0100, "<II") == (0, 0)
    reply, _ = rig.parameters(DISK, struct.pack("<HHH", 1, 0x8000, 0xFFFF))
    assert reply.status[0] != 0, "only DPT cards have it"


# --- disks and media by hand --------------------------------------------------------------------


def attention(rig: Rig, tid: int = DISK) -> tuple[int, int] | None:
    reply = rig.call(scb(tid, READY))
    return None if reply.status == PLAIN else reason(reply)


def test_a_disk_that_changes_its_size_says_so():
    rig = ScsiRig()
    rig.iop.bay.resize(DISK, 2 << 20)
    assert attention(rig) == (6, 0x2A09)
    assert attention(rig) is None
    into = rig.buffer(8)
    place = into.bus_address, 8
    rig.call(scb(DISK, bytes((Op.READ_CAPACITY_10,)) + bytes(9), place, flags=USUAL | IN))
    assert int.from_bytes(into.view[:4], "big") == (2 << 20) // SIZE - 1


def test_a_medium_that_is_changed_says_so():
    rig = ScsiRig(MemoryDisk(1 << 20, removable=True))
    rig.iop.bay.eject(DISK)
    assert attention(rig) == (2, 0x3A00)
    rig.iop.bay.insert(DISK, MemoryDisk(2 << 20, removable=True))
    assert attention(rig) == (6, 0x2800)
    assert attention(rig) is None
    assert not rig.iop.bay.disk(DISK).is_changed


def test_a_fixed_medium_stays_in():
    rig = ScsiRig()
    with pytest.raises(DiskBayError, match="cannot be taken out"):
        rig.iop.bay.eject(DISK)
    assert not rig.iop.bay.disk(DISK).is_locked


def test_a_locked_medium_is_asked_for():
    rig = ScsiRig(MemoryDisk(1 << 20, removable=True))
    rig.call(scb(DISK, bytes((Op.PREVENT_ALLOW_MEDIUM_REMOVAL, 0, 0, 0, 1, 0))))
    with pytest.raises(DiskBayError, match="locked the medium"):
        rig.iop.bay.eject(DISK)
    assert attention(rig) == (6, 0x5A01)
    rig.iop.bay.eject(DISK, is_forced=True)
    assert attention(rig) == (2, 0x3A00)


def test_bad_blocks_of_a_scsi_disk():
    rig = ScsiRig()
    rig.iop.bay.spoil(DISK, 3, 3)
    frame = scb(DISK, rw(Op.READ_10, 3, 1), rig.place(SIZE), flags=USUAL | IN)
    assert reason(rig.call(frame)) == (3, 0x1100)
    rig.iop.bay.mend(DISK, 3, 3)
    assert outcome(rig.call(frame)) == (0, 0, SIZE)


def test_disks_come_and_go_and_so_do_buses():
    rig = Rig()
    register(rig, 0)
    added = rig.iop.bay.add(MemoryDisk(1 << 20), "scsi")
    tids = [executive_event.words[5] >> 16 & 0xFFF for executive_event in rig.replies()]
    assert tids == [PORT, added.tid]
    port = rig.iop.lct.devices[PORT]
    assert isinstance(port, BusAdapter)
    assert (list(port.peripherals), port.free_id) == ([0], 1)
    rig.iop.bay.remove(added.tid)
    assert (list(port.peripherals), port.free_id) == ([], 0)
    assert PORT in rig.iop.lct.devices, "a bus stays"


# --- DPT cards ----------------------------------------------------------------------------------


def test_a_dpt_card_has_its_own_way_to_its_disks():
    rig = ScsiRig(options=DPT)
    place = rig.place(pattern(2))
    reply = rig.call(dpt_scb(DISK, rw(Op.WRITE_10, 3, 2), place, flags=USUAL | OUT))
    assert outcome(reply) == (0, 0, 2 * SIZE)
    into = rig.buffer(2 * SIZE)
    place = into.bus_address, 2 * SIZE
    for tid in (DISK, 0):  # the board knows its disks by the TID in the message
        into.view[:] = bytes(2 * SIZE)
        reply = rig.call(dpt_scb(tid, rw(Op.READ_10, 3, 2), place, flags=USUAL | IN, device=DISK))
        assert outcome(reply) == (0, 0, 2 * SIZE)
        assert bytes(into.view) == pattern(2)
    assert reason(rig.call(dpt_scb(DISK, b"\x04" + bytes(5)))) == (5, 0x2000)
    hole = rig.call(dpt_scb(DISK, rw(Op.READ_10, 3, 2), (NOWHERE, SIZE), flags=USUAL | IN))
    assert outcome(hole) == (5, ScsiHbaStatus.PROVIDE_FAILURE, 0)


@pytest.mark.parametrize(("tid", "device"), [(DISK, DISK + 1), (0, DISK + 1), (0, PORT), (0, 8)])
def test_a_device_that_is_none(tid, device):
    rig = ScsiRig(options=DPT)
    reply = rig.call(dpt_scb(tid, READY, device=device))
    assert outcome(reply) == (5, ScsiHbaStatus.SCSI_TID_INVALID, 0)


def test_the_board_says_what_it_is():
    rig = ScsiRig(options=DPT)
    into = rig.buffer(36)
    place = into.bus_address, 36
    inquiry = bytes((Op.INQUIRY, 0, 0, 0, 36, 0))
    reply = rig.call(dpt_scb(0, inquiry, place, flags=USUAL | IN, interpret=1))
    assert outcome(reply) == (0, 0, 36)
    assert bytes(into.view[8:32]) == b"ADAPTEC ASR-2100S (softw"
    assert into.view[0] == 3


@pytest.mark.parametrize("tid", [0, DISK])
def test_other_private_messages_are_refused(tid):
    rig = ScsiRig(options=DPT)
    for fields in ({"x_function_code": 0x100}, {"organization_id": 0x1C}):
        assert rig.call(dpt_scb(tid, READY, **fields)).status == (5, 0x0A)
    reply = ScsiRig().call(dpt_scb(tid, READY))
    assert (reply.status, len(reply.data)) == ((5, 0x0A), 20)


def test_groups_of_a_dpt_card():
    rig = Rig([MemoryDisk(SIZE)] * 17, options=replace(DPT, disk_kinds=()))
    assert values(rig, DISK + 16, 0x8000, "<BBHI8s") == (0, 0, 1, 1, bytes(8))
    assert values(rig, 0, 0x8000, "<IIII") == (0x7F000, 0x1000, 16, 0)
    _, (block,) = rig.parameters(DISK, struct.pack("<HHH", 5, 0xF005, 0xFFFF))
    assert struct.unpack_from("<HHHHH", block.data) == (1, 0, 0, 0x1B, 0x81)
    _, (block,) = rig.parameters(DISK, struct.pack("<HHHH", 1, 0xF100, 1, 3))
    assert block.data == b"ADAPTEC".ljust(16)
    entries = rig.iop.executive.hrt()[8:]
    identifiers = [int.from_bytes(entries[at : at + 4], "little") for at in range(0, 48, 16)]
    assert identifiers == [1, PORT, 1 << 16 | PORT + 1]
    rig.iop.reset()
    assert rig.iop.executive.hrt()[8:] == entries


def test_no_debug_buffer_where_frames_are():
    rig = Rig(options=DPT, frames=1009)
    reply, _ = rig.parameters(0, struct.pack("<HHH", 1, private.DPT_IOP_BUFFERS.number, 0xFFFF))
    assert reply.status[0] != 0


def test_a_card_with_a_limit_says_so():
    options = IopOptions(card=CARDS["promise"], disk_kinds=("scsi",))
    rig = ScsiRig(options=options)
    place = rig.place(129 * SIZE)
    read = scb(DISK, rw(Op.READ_10, 0, 129), place, flags=USUAL | IN)
    assert reason(rig.call(read)) == (5, 0x2400)
    read = scb(DISK, rw(Op.READ_10, 0, 128), place, flags=USUAL | IN)
    assert outcome(rig.call(read)) == (0, 0, 128 * SIZE)


# --- anything at all ----------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(4))
def test_whatever_an_scb_says_it_is_answered_once(seed):
    chance = random.Random(seed)
    rig = ScsiRig(MemoryDisk(1 << 20, removable=True), options=DPT)
    room = rig.buffer(1 << 16).bus_address
    opcodes = [*(opcode.value for opcode in Op), 0x04, 0x7F, 0xC1]
    for _ in range(1500):
        cdb = bytearray(chance.randbytes(16) if chance.random() < 0.5 else bytes(16))
        cdb[0] = chance.choice(opcodes)
        for place in chance.sample(range(1, 16), 2):
            cdb[place] = chance.choice((0, 1, 2, 0x10, 0xFF))
        size = chance.choice((0, 1, 7, SIZE, 3 * SIZE, 1 << 16))
        build = chance.choice((scb, dpt_scb))
        frame = bytearray(
            build(
                DISK,
                bytes(cdb),
                (room, size) if size else None,
                flags=chance.choice((USUAL | IN, USUAL | OUT, IN, USUAL, chance.getrandbits(16))),
                cdb_length=chance.choice((6, 10, 12, 16, chance.randrange(256))),
            )
        )
        if chance.random() < 0.3:
            frame[chance.randrange(16, len(frame))] ^= 1 << chance.randrange(8)
        rig.call(bytes(frame))
    assert rig.account() == 16
    rig.iop.reset()
    rig.bring_up()
    assert [attention(rig), attention(rig)] == [(6, 0x2901), None]
