# SPDX-License-Identifier: Apache-2.0
"""SCSI devices: any command, the common ones by name, errors, and both ways of sending them."""

from __future__ import annotations

import random

import pytest

import i2o
from i2o import scsi
from i2o.errors import InvalidArgument, RemoteFrameError, RequestFailed, RequestTimeout
from i2o.frames.scsi import SCSI_ERROR_REPLY, ScsiDeviceStatus, ScsiHbaStatus
from i2o.frames.scsi_command import ScsiOpcode, SenseKey, VpdPage
from i2o.iop_emulator.faults import FaultPlan
from i2o.iop_emulator.scsi.sense import AdditionalSense, CheckCondition
from i2o.iop_emulator.scsi.sense import Sense as Told
from i2o.message_frames import ReplyFrame
from i2o.scsi import Capacity, ScsiError
from i2o.scsi_sense import Sense
from i2o.transport.bus_space import BusSpace

SIZE = 512
BLOCKS = 8192
READY = bytes(6)
DISK = 0x010


@pytest.fixture
def image(tmp_path):
    path = tmp_path / "disk.img"
    path.write_bytes(random.Random(3).randbytes(BLOCKS * SIZE))
    return path


@pytest.fixture(params=["scb", "private"])
def iop(request, image):
    """An IOP with a SCSI disk, reached in either way."""
    card = "dpt" if request.param == "private" else "generic"
    with i2o.open(f"emu:?personality={card}&disk={image},class=scsi,serial=S1") as opened:
        opened.expected_via = request.param
        yield opened


@pytest.fixture
def disk(iop):
    with iop.scsi() as device:
        yield device


@pytest.fixture
def buffers(iop):
    """Afterwards every buffer was freed."""
    before = iop.memory.buffer_count
    yield
    assert iop.memory.buffer_count == before


# --- opening ------------------------------------------------------------------------------------


def test_the_way_follows_from_the_card(iop):
    with iop.scsi() as device:
        assert (device.tid, device.via) == (DISK, iop.expected_via)
        device.test_unit_ready()
    with iop.scsi(DISK, via="scb") as device:
        assert device.inquiry().product == "SOFTWARE DISK"


def test_a_device_is_claimed_and_given_back(iop):
    with iop.scsi(), pytest.raises(RequestFailed, match="DEVICE_BUSY"):
        iop.scsi()
    with iop.scsi() as device:
        device.test_unit_ready()
    with iop.scsi(claim=False), iop.scsi(claim=False) as device:
        device.test_unit_ready()
    device.close()
    with pytest.raises(InvalidArgument, match="is closed"):
        device.execute(READY)


def test_devices_are_given_back_with_their_iop(image):
    with i2o.open(f"emu:?disk={image},class=scsi") as opened:
        device = opened.scsi()
    with pytest.raises(InvalidArgument, match="is closed"):
        device.execute(READY)


@pytest.mark.parametrize(
    ("tid", "via", "message"),
    [
        (None, None, "no SCSI peripheral"),
        (DISK, None, "takes no SCSI commands as scb messages"),
        (0, None, "takes no SCSI commands as scb messages"),
        (8, "private", "takes no SCSI commands as private messages"),
        (0x77, None, "no device has TID"),
    ],
)
def test_devices_without_scsi_commands(tid, via, message):
    with i2o.open("emu:") as opened, pytest.raises(InvalidArgument, match=message):
        opened.scsi(tid, via=via)


def test_the_board_of_a_dpt_card():
    with i2o.open("emu:?personality=dpt") as opened, opened.scsi(0) as board:
        board.test_unit_ready()
        who = board.inquiry()
        assert (who.vendor, who.device_type) == ("ADAPTEC", 3)
        assert who.product.startswith("ASR-2100S")


def test_a_message_that_the_iop_does_not_know():
    with (
        i2o.open("emu:") as opened,
        opened.scsi(DISK, via="private") as device,
        pytest.raises(RequestFailed, match="INQUIRY of TID 0x010: ERROR_NO_DATA_TRANSFER"),
    ):
        device.inquiry()


# --- commands by name ---------------------------------------------------------------------------


def test_who_the_disk_is(disk, buffers):
    who = disk.inquiry()
    assert who.vendor in ("I2O", "ADAPTEC")
    assert (who.product, who.revision, who.is_removable) == ("SOFTWARE DISK", "1", False)
    assert len(who.raw) == 36
    assert disk.vital_product_data(VpdPage.UNIT_SERIAL_NUMBER) == b"S1"


def test_how_large_it_is(disk, buffers):
    assert disk.capacity() == (BLOCKS, SIZE)
    assert disk.capacity().size == BLOCKS * SIZE


@pytest.mark.parametrize("is_copied", [False, True])
def test_blocks_are_read_and_written(disk, image, monkeypatch, buffers, is_copied):
    if is_copied:
        monkeypatch.setattr(BusSpace, "map", lambda self, buffer: None)
    before = image.read_bytes()
    assert disk.read(7, 300) == before[7 * SIZE : 307 * SIZE]
    assert disk.read(BLOCKS - 1, 1) == before[-SIZE:]
    assert disk.read(5, 0) == b""
    data = random.Random(4).randbytes(300 * SIZE)
    disk.write(9, data)
    disk.flush()
    after = image.read_bytes()
    assert after == before[: 9 * SIZE] + data + before[309 * SIZE :]
    assert disk.read(9, 300) == data


def test_blocks_that_are_not_there(disk):
    for lba, count in ((BLOCKS, 1), (-1, 1), (0, -1), (BLOCKS - 1, 2)):
        with pytest.raises(InvalidArgument, match=f"not inside the device's {BLOCKS}"):
            disk.read(lba, count)
    with pytest.raises(InvalidArgument, match="not inside"):
        disk.write(BLOCKS, bytes(SIZE))
    with pytest.raises(InvalidArgument, match="no whole number of blocks"):
        disk.write(0, b"x")


def test_a_bad_block_is_named(image):
    with (
        i2o.open(f"emu:?disk={image},class=scsi,bad=20") as opened,
        opened.scsi() as device,
    ):
        with pytest.raises(ScsiError) as failed:
            device.read(18, 5)
        assert "READ_10 of TID 0x010: medium_error: unrecovered read error, block 20" in str(
            failed.value
        )
        sense = failed.value.sense
        assert (sense.key, sense.information) == (SenseKey.MEDIUM_ERROR, 20)
        assert failed.value.transfer_count == 2 * SIZE
        assert failed.value.req_status == 6
        assert failed.value.result.status == ScsiDeviceStatus.CHECK_CONDITION


def test_a_read_only_disk(image):
    with (
        i2o.open(f"emu:?disk={image},class=scsi,ro") as opened,
        opened.scsi() as device,
        pytest.raises(ScsiError, match="data_protect: write protected"),
    ):
        device.write(0, bytes(SIZE))


def test_a_reset_is_noticed_and_gone_over(disk):
    disk.test_unit_ready()
    disk.reset()
    sense = disk.execute(READY).sense
    assert sense.is_attention
    assert sense.text == "unit_attention: bus device reset function occurred"
    disk.reset()
    disk.test_unit_ready()


def test_a_device_that_does_nothing_but_attend(disk, monkeypatch):
    unit = disk._requester._layer.port(0).soft_iop.lct.devices[DISK].unit

    def never(cdb):
        raise unit_attention

    unit_attention = CheckCondition(Told(SenseKey.UNIT_ATTENTION, AdditionalSense.NONE))
    unit.commands[ScsiOpcode.TEST_UNIT_READY] = never
    with pytest.raises(ScsiError, match="unit_attention"):
        disk.test_unit_ready()


def test_capacities_beyond_32_bits(disk, monkeypatch):
    answers = {
        ScsiOpcode.READ_CAPACITY_10: b"\xff" * 4 + SIZE.to_bytes(4, "big"),
        ScsiOpcode.SERVICE_ACTION_IN_16: (1 << 40).to_bytes(8, "big")
        + SIZE.to_bytes(4, "big")
        + bytes(20),
    }
    sent = []

    def run(cdb, **data):
        sent.append(cdb)
        return scsi.ScsiResult(0, 0, 32, answers.get(cdb[0], b""), None, 0)

    monkeypatch.setattr(disk, "run", run)
    assert disk.capacity() == Capacity((1 << 40) + 1, SIZE)
    assert [len(cdb) for cdb in sent] == [10, 16]
    disk.read(1 << 39, 1)
    assert (len(sent[-1]), sent[-1][0]) == (16, ScsiOpcode.READ_16)
    assert int.from_bytes(sent[-1][2:10], "big") == 1 << 39
    disk.write(1 << 39, bytes(SIZE))
    assert sent[-1][0] == ScsiOpcode.WRITE_16
    disk.read(0xFFFF_FFFE, 1)
    assert sent[-1][0] == ScsiOpcode.READ_10
    answers[ScsiOpcode.READ_CAPACITY_10] = bytes(8)
    with pytest.raises(RemoteFrameError, match="claims blocks of 0 bytes"):
        disk.capacity()
    with pytest.raises(RemoteFrameError, match="INQUIRY data of 0 bytes"):
        disk.inquiry()


# --- any command --------------------------------------------------------------------------------


def test_execute_tells_what_came_of_it(disk, buffers):
    disk.test_unit_ready()
    result = disk.execute(bytes((ScsiOpcode.INQUIRY, 0, 0, 0, 8, 0)), data_in=100)
    assert result.is_good
    assert (result.transferred, len(result.data)) == (8, 8)
    into = bytearray(8)
    result = disk.execute(bytes((ScsiOpcode.INQUIRY, 0, 0, 0, 8, 0)), data_in=into)
    assert (result.transferred, result.data) == (8, b"")
    assert into[4] == 31
    result = disk.execute(b"\x04" + bytes(5))
    assert not result.is_good
    assert (result.status, result.adapter_status, result.req_status) == (2, 0, 5)
    assert result.sense.text == "illegal_request: invalid command operation code"
    result = disk.execute(b"\x28\0\0\0\0\0\0\0\2\0", data_in=SIZE)
    assert (result.status, result.adapter_status) == (0, ScsiHbaStatus.DATA_OVERRUN)
    assert (result.transferred, result.is_good) == (SIZE, False)
    with pytest.raises(ScsiError, match="DATA_OVERRUN"):
        disk.run(b"\x28\0\0\0\0\0\0\0\2\0", data_in=SIZE)
    with pytest.raises(ScsiError, match="SCSI command 0x04"):
        disk.run(b"\x04" + bytes(5))


@pytest.mark.parametrize(
    ("cdb", "data", "message"),
    [
        (b"", {}, "1 to 16 bytes"),
        (bytes(17), {}, "1 to 16 bytes"),
        (READY, {"data_in": 1, "data_out": b"x"}, "one direction"),
        (READY, {"data_in": b"x"}, "read-only"),
    ],
)
def test_commands_that_cannot_be_sent(disk, buffers, cdb, data, message):
    with pytest.raises(InvalidArgument, match=message):
        disk.execute(cdb, **data)


def test_memory_in_too_many_pieces(disk, buffers, monkeypatch):
    disk._max_elements = 0
    with pytest.raises(InvalidArgument, match="in 1 pieces: a frame takes 0"):
        disk.read(0, 1)


def test_a_late_command_keeps_its_memory_until_it_is_answered(image):
    with i2o.open(f"emu:?disk={image},class=scsi", recovery=None) as opened:
        device = opened.scsi()
        device.capacity()
        memory = opened.memory
        before = memory.buffer_count
        opened.layer.port(0).soft_iop.misbehave(FaultPlan().on("SCSI_SCB_EXEC").times(1).delay(20))
        with pytest.raises(RequestTimeout, match="scsi_scb_exec"):
            device.execute(b"\x28\0\0\0\0\0\0\0\1\0", data_in=SIZE, timeout_s=0)
        assert memory.buffer_count == before + 1
        assert opened.layer.run_until(lambda: memory.buffer_count == before, 10)


def test_a_list_that_the_iop_refuses_is_no_scsi_status(disk, monkeypatch):
    monkeypatch.setattr(disk, "_sgl", lambda *args: b"\0\0\0\x34")
    with pytest.raises(RequestFailed, match="TRANSACTION_ERROR"):
        disk.execute(b"\x28\0\0\0\0\0\0\0\1\0", data_in=SIZE)


def test_numbers_in_replies_are_bounded(disk, monkeypatch):
    reply = bytearray(
        SCSI_ERROR_REPLY.build(transfer_count=0xFFFFFFFF, detailed_status_code=0x0402)
    )
    result = scsi._result(_reply(reply), 10)
    assert (result.transferred, result.adapter_status, result.status) == (10, 0x0400, 2)
    assert result.sense is None
    result = scsi._result(_reply(reply[:24]), 10)
    assert result.sense is None
    monkeypatch.setattr(disk, "_send", lambda *args: _reply(reply[:20]))
    with pytest.raises(RemoteFrameError, match="a reply of 20 bytes"):
        disk.execute(READY)
    odd = scsi.ScsiResult(0x77, 0x7700, 0, b"", None, 4)
    monkeypatch.setattr(disk, "execute", lambda *args, **kwargs: odd)
    with pytest.raises(ScsiError, match="status 0x7777"):
        disk.test_unit_ready()


def _reply(data: bytes | bytearray):
    return ReplyFrame(bytes(data))


# --- sense data ---------------------------------------------------------------------------------


def test_sense_data_of_both_formats():
    fixed = bytearray(18)
    fixed[0], fixed[2], fixed[12], fixed[13] = 0xF0, 0x0E, 0x1D, 0x00
    fixed[3:7] = (77).to_bytes(4, "big")
    sense = Sense.parse(bytes(fixed))
    assert sense.text == "miscompare: miscompare during verify operation, block 77"
    fixed[0], fixed[2] = 0x70, 0x05
    assert Sense.parse(bytes(fixed)).information is None
    fixed[0] = 0xF0
    assert Sense.parse(bytes(fixed)).text.endswith("information 77")
    head = bytes((0x72, 0x03, 0x11, 0x00, 0, 0, 0, 16))
    other = bytes((0x02, 0x02, 0, 0))
    block = bytes((0, 0x0A, 0x80, 0)) + (1 << 33).to_bytes(8, "big")
    sense = Sense.parse(head + other + block)
    assert (sense.key, sense.code, sense.qualifier) == (3, 0x11, 0)
    assert sense.information == 1 << 33
    assert Sense.parse(head + other).information is None


@pytest.mark.parametrize(
    "raw", [b"", bytes(18), b"\x70" + bytes(12), b"\x72" + bytes(6), b"\x7f" * 18]
)
def test_what_is_no_sense_data(raw):
    assert Sense.parse(raw) is None
