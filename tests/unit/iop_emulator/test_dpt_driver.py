# SPDX-License-Identifier: Apache-2.0
"""A real driver's requests against the `dpt` personality: Linux 5.10's dpt_i2o, as recorded.

Its requests depend on the answers it got then. Two things are put right before they are sent: the
TID of the bus port, and the size of the LCT, which the driver takes from the status block.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from fakes.sparse_memory import SparseMemory
from i2o.decode.scsi_nodes import sense_text
from i2o.frames import private, tables
from i2o.frames.functions import Function
from i2o.frames.scsi import SCSI_ERROR_REPLY, ScbFlags
from i2o.frames.scsi_command import ScsiOpcode
from i2o.frames.sgl_walk import walk_sgl
from i2o.iop_emulator.block_store import MemoryDisk
from i2o.iop_emulator.complaints import Complaints
from i2o.iop_emulator.disk_bay import FIRST_PORT_TID
from i2o.iop_emulator.options import EmuOptions
from i2o.iop_emulator.soft_iop import SoftIop
from i2o.transport.local_unit import LocalUnit
from i2o.transport.port import EMPTY
from i2o.transport.uri import Uri

TRACE = Path(__file__).resolve().parents[2] / "data" / "linux-5.10-dpt_i2o.jsonl"
PORT_THEN, DISK = 0x008, 0x010
REPLY_SIZE = 68
BLOCKS, BLOCK = 16384, 512
SCB = private.DPT_PRIVATE_SCSI_SCB_EXEC


class Request(NamedTuple):
    """A request of the driver, and what its memory held."""

    frame: bytes
    memory: tuple[tuple[int, bytes], ...]


class Exchange(NamedTuple):
    """A request, the reply (None if it is answered through memory), and the IOP behind it."""

    request: Request
    reply: bytes | None
    station: Station


def recorded() -> Iterator[Request]:
    """Read the driver's requests, with the memory that the IOP read while it served each."""
    events: list[dict[str, Any]] = [json.loads(line) for line in TRACE.read_text().splitlines()]
    for index, event in enumerate(events):
        if event["event"] != "request":
            continue
        memory = []
        for later in events[index + 1 :]:
            if later["event"] == "request":
                break
            if later["event"] == "dma_read":
                memory.append((later["address"], bytes.fromhex(later["data"])))
        yield Request(bytes.fromhex(event["frame"]), tuple(memory))


class Station:
    """The IOP, and a host that sends what it is told."""

    def __init__(self) -> None:
        self.memory = SparseMemory()
        options = EmuOptions.from_uri(Uri.parse("emu:?personality=dpt"))
        self.complaints = Complaints()
        self.unit = LocalUnit(
            self.memory,  # type: ignore[arg-type]
            frame_count=options.frames,
            frame_size=options.frame_size,
            on_misuse=self.complaints.add,
        )
        self.disk = MemoryDisk(BLOCKS * BLOCK, serial="0123456789")
        content = random.Random(7).randbytes(BLOCKS * BLOCK)
        self.disk.write_from(0, [memoryview(content)])
        self.iop = SoftIop(self.unit, options.iop, [self.disk], complaints=self.complaints)

    def send(self, request: Request) -> bytes | None:
        for address, data in request.memory:
            self.memory.write(address, data)
        mfa = self.unit.alloc()
        assert mfa != EMPTY
        self.unit.write(mfa, request.frame)
        self.unit.post(mfa)
        self.iop.run(8, 0)
        if request.frame[7] == Function.EXEC_OUTBOUND_INIT:
            for number in range(16):
                self.unit.release(0x0F00_0000 + number * REPLY_SIZE)
        reply_mfa = self.unit.reap()
        if reply_mfa == EMPTY:
            return None
        size = 4 * int.from_bytes(self.memory.read(reply_mfa + 2, 2), "little")
        assert size <= REPLY_SIZE
        reply = self.memory.read(reply_mfa, size)
        self.unit.release(reply_mfa)
        return reply

    def content(self, lba: int, blocks: int) -> bytes:
        data = bytearray(blocks * BLOCK)
        self.disk.read_into(lba * BLOCK, [memoryview(data)])
        return bytes(data)


def put_right(request: Request, lct_size: int) -> Request:
    """Address the bus port of this IOP, and give its LCT the room that it needs."""
    frame = bytearray(request.frame)
    target = int.from_bytes(frame[4:6], "little")
    if target & 0xFFF == PORT_THEN:
        frame[4:6] = (target & 0xF000 | FIRST_PORT_TID).to_bytes(2, "little")
    if frame[7] == Function.EXEC_LCT_NOTIFY:
        frame[24:27] = lct_size.to_bytes(3, "little")
    return request._replace(frame=bytes(frame))


@cache
def exchanges() -> tuple[Exchange, ...]:
    station = Station()
    done = []
    for request in recorded():
        right = put_right(request, station.iop.lct.size)
        before = (
            station.content(*extent_of(right)) if opcode_of(right) == ScsiOpcode.WRITE_10 else b""
        )
        reply = station.send(right)
        if before:
            assert station.content(*extent_of(right)) != before, "the write changed something"
        if opcode_of(right) in (ScsiOpcode.READ_10, ScsiOpcode.WRITE_10):
            memory = data_of(station, right)
            if opcode_of(right) == ScsiOpcode.READ_10 or right.memory:
                assert memory == station.content(*extent_of(right))
        if is_inquiry_like(right):
            right = right._replace(memory=((0, data_of(station, right)),))
        done.append(Exchange(right, reply, station))
    return tuple(done)


def opcode_of(request: Request) -> int | None:
    """The SCSI command of a request, None if it has none."""
    return request.frame[28] if request.frame[7] == Function.PRIVATE_MESSAGE else None


def is_inquiry_like(request: Request) -> bool:
    """Whether a request fetches a small structure, which later ones overwrite."""
    function = request.frame[7]
    return function in (
        Function.EXEC_LCT_NOTIFY,
        Function.EXEC_HRT_GET,
        Function.UTIL_PARAMS_GET,
    ) or (opcode_of(request) not in (None, ScsiOpcode.READ_10, ScsiOpcode.WRITE_10))


def extent_of(request: Request) -> tuple[int, int]:
    cdb = request.frame[28:44]
    return int.from_bytes(cdb[2:6], "big"), int.from_bytes(cdb[7:9], "big")


def data_of(station: Station, request: Request) -> bytes:
    """Return what stands in the last buffer of a request's scatter/gather list."""
    start = 4 * (request.frame[0] >> 4)
    buffers = walk_sgl(request.frame, start, len(request.frame)) if start else []
    pieces = buffers[-1].pieces if buffers else []
    return b"".join(station.memory.read(*piece) for piece in pieces if isinstance(piece, tuple))


def of(function: int, target: int | None = None) -> list[Exchange]:
    return [
        exchange
        for exchange in exchanges()
        if exchange.request.frame[7] == function
        and target in (None, exchange.request.frame[4] | (exchange.request.frame[5] & 0xF) << 8)
    ]


def commands(opcode: int, target: int = DISK) -> list[Exchange]:
    found = of(Function.PRIVATE_MESSAGE, target)
    return [exchange for exchange in found if opcode_of(exchange.request) == opcode]


def got(exchange: Exchange) -> bytes:
    """Return the structure that an exchange fetched."""
    ((_, data),) = exchange.request.memory
    return data


# --- what the driver needs ----------------------------------------------------------------------


def test_every_request_is_answered_and_the_driver_did_nothing_wrong():
    unanswered = {Function.UTIL_NOP, Function.EXEC_STATUS_GET, Function.EXEC_IOP_RESET}
    unanswered.add(Function.EXEC_OUTBOUND_INIT)
    assert len(exchanges()) > 150
    for request, reply, _ in exchanges():
        assert (reply is None) == (request.frame[7] in unanswered)
    station = exchanges()[0].station
    assert list(station.complaints) == []
    assert station.unit.idle_inbound() == station.unit.frame_count


def test_replies_repeat_the_route_and_the_contexts():
    for request, reply, _ in exchanges():
        if reply is not None:
            assert reply[1] == 0xC0
            assert reply[4:16] == request.frame[4:16]


def test_one_command_learns_of_the_power_and_all_others_succeed():
    failed = [
        (opcode_of(request), sense_text(SCSI_ERROR_REPLY.unpack_from(reply).sense_data))
        for request, reply, _ in exchanges()
        if reply is not None and reply[16:20] != bytes(4)
    ]
    assert failed == [(ScsiOpcode.TEST_UNIT_READY, "unit_attention: power on occurred")]


def test_the_iop_comes_up():
    station = exchanges()[0].station
    assert station.iop.state == tables.IopState.OPERATIONAL
    block = tables.STATUS_BLOCK.unpack_from(station.memory.read(0x0219_1000, 88))
    assert (block.organization_id, block.i2o_version, block.sync_byte) == (0x1B, 1, 0xFF)
    assert block.product_id_string == b"ASR-2100S (software IOP)"


def test_the_lct_has_what_the_driver_looks_for():
    (exchange,) = of(Function.EXEC_LCT_NOTIFY)
    data = got(exchange)
    header = tables.LCT_HEADER.unpack_from(data + bytes(36))
    assert 4 * header.table_size == len(data)
    entries = [tables.LCT_ENTRY.unpack_from(data, at) for at in range(12, len(data), 36)]
    assert [(entry.local_tid, entry.class_id_class, entry.parent_tid) for entry in entries] == [
        (0x000, 0x000, 0x000),
        (0x008, 0x001, 0x000),
        (FIRST_PORT_TID, 0x080, 0x008),
        (DISK, 0x051, FIRST_PORT_TID),
    ]
    assert {entry.user_tid for entry in entries} == {0xFFF}
    assert entries[-1].identity_tag == b"23456789"


def test_the_hrt_names_the_bus():
    (exchange,) = of(Function.EXEC_HRT_GET)
    count, words = got(exchange)[0], got(exchange)[2]
    assert (count, words) == (2, 4)
    hrt = exchange.station.iop.executive.hrt()
    assert int.from_bytes(hrt[24:28], "little") == FIRST_PORT_TID  # bus 0


def group_of(exchange: Exchange) -> tuple[int, int]:
    """Return group number and first field of a ParamsGet of one operation."""
    start = 4 * (exchange.request.frame[0] >> 4)
    pieces = walk_sgl(exchange.request.frame, start, len(exchange.request.frame))[0].pieces
    (piece,) = pieces
    listed = next(
        data
        for request in recorded()
        if request.frame[8:16] == exchange.request.frame[8:16]
        for address, data in request.memory
        if isinstance(piece, tuple) and address == piece[0]
    )
    return int.from_bytes(listed[6:8], "little"), int.from_bytes(listed[10:12], "little")


def values_of(group: int, target: int, field: int | None = None) -> bytes:
    (found,) = (
        exchange
        for exchange in of(Function.UTIL_PARAMS_GET, target)
        if group_of(exchange)[0] == group and field in (None, group_of(exchange)[1])
    )
    results = got(found)
    count, size, status = results[0], int.from_bytes(results[4:6], "little"), results[6]
    assert (count, status) == (1, 0)
    assert 4 + 4 * size <= len(results)
    return results[8:]


def test_where_the_disk_is():
    info = private.DPT_DEVICE_INFO.unpack_from(values_of(0x8000, DISK))
    assert (info.bus, info.identifier, info.lun_info[1]) == (0, 0, 0)
    assert int.from_bytes(values_of(0x0200, FIRST_PORT_TID)[4:8], "little") == 7  # initiator


def test_the_debug_buffer_lies_within_what_the_driver_maps():
    offset, size = (int.from_bytes(values_of(0x8000, 0)[at : at + 4], "little") for at in (0, 4))
    assert 0x11000 <= offset < offset + size <= 0x80000


@pytest.mark.parametrize(
    ("field", "text"), [(3, b"ADAPTEC "), (4, b"software IOP"), (6, b"1       ")]
)
@pytest.mark.parametrize("tid", [0, FIRST_PORT_TID, DISK])
def test_who_each_device_is(tid, field, text):
    assert values_of(0xF100, tid, field).startswith(text)


def test_the_board_and_the_disk_say_who_they_are():
    (board,) = commands(ScsiOpcode.INQUIRY, 0)
    assert SCB.unpack_from(board.request.frame).interpret == 1
    assert got(board)[8:24] == b"ADAPTEC ASR-2100"
    disk, *pages = commands(ScsiOpcode.INQUIRY)
    assert got(disk)[:8] == bytes((0, 0, 5, 2, 31, 0, 0, 2))
    assert got(disk)[8:36] == b"ADAPTEC SOFTWARE DISK   1   "
    assert [got(page)[:10] for page in pages] == [
        bytes((0, 0, 0, 6, 0, 128, 131, 176, 177, 178))
    ] * 3


def test_the_disk_has_the_right_size():
    for exchange in commands(ScsiOpcode.READ_CAPACITY_10):
        assert got(exchange) == (BLOCKS - 1).to_bytes(4, "big") + BLOCK.to_bytes(4, "big")


def test_transfer_counts_are_what_was_asked_for():
    reads = commands(ScsiOpcode.READ_10)
    writes = commands(ScsiOpcode.WRITE_10)
    assert (len(reads), len(writes)) == (115, 16)
    for request, reply, _ in reads + writes:
        assert reply is not None
        scb = SCB.unpack_from(request.frame)
        direction = ScbFlags.XFER_FROM_DEVICE | ScbFlags.XFER_TO_DEVICE
        assert scb.scb_flags & direction
        assert (
            int.from_bytes(reply[20:24], "little")
            == scb.byte_count
            == extent_of(request)[1] * BLOCK
        )
