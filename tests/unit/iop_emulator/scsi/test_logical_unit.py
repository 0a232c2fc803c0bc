# SPDX-License-Identifier: Apache-2.0
"""What a SCSI unit says of itself, and how it tells of what happened to it."""

from __future__ import annotations

import pytest

from fakes.scsi_bench import BLOCKS, SIZE, Bench, pattern, rw
from i2o.decode.scsi_nodes import sense_text
from i2o.frames.scsi_command import ScsiOpcode as Op
from i2o.frames.scsi_command import SenseKey as Key
from i2o.iop_emulator.block_store import MemoryDisk, NoMedium
from i2o.iop_emulator.scsi.command import Command
from i2o.iop_emulator.scsi.inquiry import Identity
from i2o.iop_emulator.scsi.logical_unit import LogicalUnit
from i2o.iop_emulator.scsi.sense import AdditionalSense

READY = bytes(6)
INQUIRY = bytes((Op.INQUIRY, 0, 0, 0, 36, 0))
REQUEST_SENSE = bytes((Op.REQUEST_SENSE, 0, 0, 0, 18, 0))


def page(number: int, allocation: int = 255) -> bytes:
    return bytes((Op.INQUIRY, 1, number)) + allocation.to_bytes(2, "big") + b"\0"


def start_stop(bits: int) -> bytes:
    return bytes((Op.START_STOP_UNIT, 0, 0, 0, bits, 0))


def removable() -> Bench:
    return Bench(MemoryDisk(BLOCKS * SIZE, removable=True))


# --- who it is ----------------------------------------------------------------------------------


def test_standard_inquiry():
    done = Bench().run(INQUIRY, room=36)
    assert done.outcome.transferred == 36
    assert done.data == b"\x00\x00\x05\x02\x1f\x00\x00\x02ACME    DISK            1   "
    assert removable().run(INQUIRY, room=36).data[1] == 0x80
    assert Bench().run(INQUIRY[:4] + b"\x05\0", room=36).outcome.transferred == 5
    assert Bench().run(INQUIRY, room=20).outcome.is_overrun


def test_vital_product_data():
    bench = Bench()
    listed = bench.run(page(0), room=255)
    assert listed.data[: listed.outcome.transferred] == bytes(
        (0, 0, 0, 6, 0x00, 0x80, 0x83, 0xB0, 0xB1, 0xB2)
    )
    for number in listed.data[4:10]:
        done = bench.run(page(number), room=255)
        assert done.outcome.status == 0
        assert done.data[1] == number
        assert done.outcome.transferred == 4 + int.from_bytes(done.data[2:4], "big")
    assert bench.run(page(0x80), room=255).data[4:6] == b"S1"
    limits = bench.run(page(0xB0), room=64).data
    assert int.from_bytes(limits[8:12], "big") == bench.unit.max_blocks
    assert int.from_bytes(limits[12:16], "big") == 512
    assert int.from_bytes(limits[20:24], "big") == bench.unit.max_blocks
    assert int.from_bytes(limits[36:44], "big") == bench.unit.max_blocks
    assert limits[4] == 1
    provisioning = bench.run(page(0xB2), room=8).data
    assert provisioning[4:] == bytes((0, 0xE4, 1, 0))
    read_only = Bench(MemoryDisk(BLOCKS * SIZE, read_only=True))
    done = read_only.run(page(0xB2), room=255)
    assert (done.outcome.transferred, any(done.data[4:])) == (8, False)


def test_names_differ_with_the_serial_number():
    def designators(serial: str) -> list[bytes]:
        raw = Bench(MemoryDisk(BLOCKS * SIZE, serial=serial)).run(page(0x83), room=255).data
        found, place = [], 4
        while place < 4 + int.from_bytes(raw[2:4], "big"):
            end = place + 4 + raw[place + 3]
            found.append(raw[place:end])
            place = end
        return found

    first, second = designators("A"), designators("B")
    assert first[0] == b"\x02\x01\x00\x19ACME    DISK            A"
    assert first[1][:4] == b"\x01\x03\x00\x08"
    assert first[1][4] >> 4 == 3  # locally assigned
    assert first[1] != second[1]


@pytest.mark.parametrize(
    ("cdb", "field"),
    [
        (page(0x77), (2, None, True)),
        (bytes((Op.INQUIRY, 0, 0x80, 0, 36, 0)), (2, None, True)),
        (bytes((Op.INQUIRY, 0, 0, 0, 36, 4)), (5, 2, True)),
        (bytes((Op.TEST_UNIT_READY, 0, 0, 0, 0, 1)), (5, 0, True)),
        (bytes((Op.REQUEST_SENSE, 1, 0, 0, 18, 0)), (1, 0, True)),
        (bytes((Op.REPORT_LUNS, 0, 3, 0, 0, 0, 0, 0, 0, 16, 0, 0)), (2, None, True)),
        (bytes((Op.REPORT_LUNS, 0, 0, 0, 0, 0, 0, 0, 0, 15, 0, 0)), (6, None, True)),
        (bytes((Op.READ_CAPACITY_10, 0, 0, 0, 0, 1, 0, 0, 0, 0)), (2, None, True)),
        (bytes((Op.SERVICE_ACTION_IN_16, 0x11)) + bytes(14), (1, 4, True)),
        (rw(Op.READ_16, 0, 1, 0x20), (1, 7, True)),
        (start_stop(0x20), (4, 7, True)),
        (start_stop(2), (4, 1, True)),  # a fixed disk cannot be ejected
    ],
)
def test_the_field_that_is_wrong_is_named(cdb, field):
    done = Bench().run(cdb, room=255)
    assert done.reason == (Key.ILLEGAL_REQUEST, 0x2400)
    assert done.field == field


@pytest.mark.parametrize("opcode", [0x04, 0x7F, 0xC0, 0xFF])
def test_commands_that_it_does_not_have(opcode):
    done = Bench().run(bytes((opcode,)) + bytes(15))
    assert done.reason == (Key.ILLEGAL_REQUEST, 0x2000)
    assert done.field == (0, None, True)
    assert sense_text(done.outcome.sense) == "illegal_request: invalid command operation code"


def test_luns():
    bench = Bench(lun=3)
    cdb = bytes((Op.REPORT_LUNS, 0, 0, 0, 0, 0, 0, 0, 0, 64, 0, 0))
    done = bench.run(cdb, room=64)
    assert done.data[: done.outcome.transferred] == bytes((0, 0, 0, 8, 0, 0, 0, 0, 0, 3)) + bytes(6)
    well_known = cdb[:2] + b"\1" + cdb[3:]
    assert bench.run(well_known, room=64).outcome.transferred == 8
    for own in (0, 3):
        assert bench.run(bytes((0, own << 5, 0, 0, 0, 0))).outcome.status == 0
    assert bench.run(bytes((0, 1 << 5, 0, 0, 0, 0))).reason == (Key.ILLEGAL_REQUEST, 0x2500)
    other = bench.run(bytes((Op.INQUIRY, 1 << 5, 0, 0, 36, 0)), room=36)
    assert other.data[0] == 0x7F
    assert other.data[1:] == bench.run(INQUIRY, room=36).data[1:]


def test_a_unit_without_a_medium_is_ready_and_has_no_blocks():
    unit = LogicalUnit(Identity("DPT", "BOARD"))
    statuses = [
        unit.execute(Command(cdb), autosense=True).status
        for cdb in (READY, READY, rw(Op.READ_10, 0, 1))
    ]
    assert statuses == [2, 0, 2]


# --- what happened ------------------------------------------------------------------------------


def test_the_first_command_is_told_of_the_power_but_who_it_is_is_not_withheld():
    bench = Bench()
    bench.unit.reset(AdditionalSense.POWER_ON_OCCURRED)
    assert bench.run(INQUIRY, room=36).outcome.status == 0
    assert bench.run(rw(Op.READ_10, 0, 1), room=SIZE).reason == (Key.UNIT_ATTENTION, 0x2901)
    assert bench.run(READY).outcome.status == 0


def test_attentions_are_told_in_order_and_once():
    bench = Bench()
    bench.unit.attend(AdditionalSense.MEDIUM_MAY_HAVE_CHANGED)
    bench.unit.attend(AdditionalSense.CAPACITY_DATA_HAS_CHANGED)
    bench.unit.attend(AdditionalSense.MEDIUM_MAY_HAVE_CHANGED)
    assert [bench.run(READY).reason for _ in range(2)] == [(6, 0x2800), (6, 0x2A09)]
    assert bench.run(READY).outcome.status == 0
    bench.unit.attend(AdditionalSense.CAPACITY_DATA_HAS_CHANGED)
    bench.unit.reset(AdditionalSense.BUS_DEVICE_RESET_OCCURRED)
    assert bench.run(READY).reason == (6, 0x2903)
    assert bench.run(READY).outcome.status == 0


def test_sense_data_that_nobody_took_wait_for_request_sense():
    bench = Bench()
    bench.run(rw(Op.READ_10, BLOCKS, 1), autosense=False)
    done = bench.run(REQUEST_SENSE, room=18)
    assert (done.data[2], done.data[12]) == (Key.ILLEGAL_REQUEST, 0x21)
    assert bench.run(REQUEST_SENSE, room=18).data[2] == Key.NO_SENSE
    bench.run(rw(Op.READ_10, BLOCKS, 1), autosense=False)
    bench.run(READY)
    assert bench.run(REQUEST_SENSE, room=18).data[2] == Key.NO_SENSE, "another command ends them"
    bench.run(rw(Op.READ_10, BLOCKS, 1))
    assert bench.run(REQUEST_SENSE, room=18).data[2] == Key.NO_SENSE, "they were taken"


def test_request_sense_tells_of_attentions_and_of_what_is_in_the_way():
    bench = Bench()
    bench.unit.attend(AdditionalSense.CAPACITY_DATA_HAS_CHANGED)
    bench.run(start_stop(0))
    bench.unit.attend(AdditionalSense.CAPACITY_DATA_HAS_CHANGED)
    assert bench.run(REQUEST_SENSE, room=18).data[2] == Key.UNIT_ATTENTION
    bench.run(start_stop(0))
    data = bench.run(REQUEST_SENSE, room=18).data
    assert (data[2], data[12], data[13]) == (Key.NOT_READY, 0x04, 0x02)


# --- the medium ---------------------------------------------------------------------------------


def test_a_stopped_disk_is_not_ready_until_it_is_started():
    bench = Bench()
    assert bench.run(start_stop(0)).outcome.status == 0
    for cdb in (READY, rw(Op.READ_10, 0, 1), rw(Op.WRITE_10, 0, 1)):
        assert bench.run(cdb, out=pattern(1)).reason == (Key.NOT_READY, 0x0402)
    assert bench.run(start_stop(1)).outcome.status == 0
    assert bench.run(READY).outcome.status == 0
    bench.run(start_stop(0))
    assert bench.run(start_stop(0x10)).outcome.status == 0  # power condition: active
    assert bench.run(READY).outcome.status == 0


def test_a_medium_is_ejected_and_loaded_again():
    bench = removable()
    assert bench.run(start_stop(2)).outcome.status == 0
    assert bench.run(READY).reason == (Key.NOT_READY, 0x3A00)
    assert bench.run(start_stop(3)).outcome.status == 0
    assert bench.run(READY).reason == (Key.UNIT_ATTENTION, 0x2800)
    assert bench.run(READY).outcome.status == 0


def test_a_medium_that_must_stay_in():
    bench = removable()
    prevent = bytes((Op.PREVENT_ALLOW_MEDIUM_REMOVAL, 0, 0, 0, 1, 0))
    assert bench.run(prevent).outcome.status == 0
    assert bench.run(start_stop(2)).reason == (Key.ILLEGAL_REQUEST, 0x5302)
    assert bench.run(READY).outcome.status == 0
    bench.run(prevent[:4] + bytes(2))
    assert bench.run(start_stop(2)).outcome.status == 0


def test_a_drive_without_a_medium():
    bench = removable()
    bench.unit.load(False)
    bench.unit.put_in(NoMedium(SIZE, "S1"))
    bench.unit.load()
    for cdb in (READY, bytes((Op.READ_CAPACITY_10,)) + bytes(9), start_stop(3)):
        assert bench.run(cdb, room=8).reason == (Key.NOT_READY, 0x3A00)


def test_a_reset_undoes_what_the_initiator_did():
    bench = removable()
    bench.run(bytes((Op.PREVENT_ALLOW_MEDIUM_REMOVAL, 0, 0, 0, 1, 0)))
    bench.run(start_stop(0))
    bench.unit.pages.has_write_cache = False
    bench.unit.reset(AdditionalSense.SCSI_BUS_RESET_OCCURRED)
    assert not bench.unit.is_prevented
    assert bench.unit.pages.has_write_cache
    assert bench.run(READY).reason == (Key.UNIT_ATTENTION, 0x2902)
    assert bench.run(READY).outcome.status == 0
