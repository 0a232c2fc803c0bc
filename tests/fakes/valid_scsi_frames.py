# SPDX-License-Identifier: Apache-2.0
"""Valid requests for SCSI disks and for their bus, as in `valid_frames`: those are made with these.

One SCB of five is in DPT's private message, to the disk or by way of the board.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, replace

from fakes.random_plugging import FaultyDisk
from fakes.scsi_bench import rw
from fakes.valid_frames import (
    DISK_SIZE,
    PORT,
    SCSI_DISK,
    SCSI_DISKS,
    SCSI_REMOVABLE,
    FrameTable,
    ValidFrame,
    builds,
    reading,
)
from fakes.valid_lists import Buffer, Place
from i2o.frames import adapter, scsi, utility
from i2o.frames.functions import Function
from i2o.frames.private import DPT_PRIVATE_SCSI_SCB_EXEC
from i2o.frames.scsi import ScbFlags
from i2o.frames.scsi_command import READ_CAPACITY_16_ACTION, ModePage, ScsiOpcode, VpdPage
from i2o.iop_emulator.block_store import BlockStore, MemoryDisk

BOARD = 0
IN_PRIVATE = 0.2
"""Share of SCBs that come in DPT's message."""
_BLOCK = 512
_BLOCKS = DISK_SIZE // _BLOCK
_OPCODES = tuple(ScsiOpcode)
_FLAG_BYTE = (0, 1, 2, 4, 6, 8, 0x10, 0x20, 0xE0)
_PAGE_BYTE = (*VpdPage, *ModePage, *(0x40 | page for page in ModePage), 0x88, 0xC8)
_CONTROL = (1, 4)
_TAGS = (ScbFlags.NO_TAG_QUEUEING, ScbFlags.SIMPLE_QUEUE_TAG, ScbFlags.ORDERED_QUEUE_TAG)
_READS = (ScsiOpcode.READ_6, ScsiOpcode.READ_10, ScsiOpcode.READ_12, ScsiOpcode.READ_16)
_WRITES = (
    ScsiOpcode.WRITE_6,
    ScsiOpcode.WRITE_10,
    ScsiOpcode.WRITE_12,
    ScsiOpcode.WRITE_16,
    ScsiOpcode.WRITE_AND_VERIFY_10,
    ScsiOpcode.WRITE_AND_VERIFY_12,
    ScsiOpcode.WRITE_AND_VERIFY_16,
)
_VERIFIES = (ScsiOpcode.VERIFY_10, ScsiOpcode.VERIFY_12, ScsiOpcode.VERIFY_16)
_BYTE_CHECK, _FUA, _NO_DATA_OUT = 0x02, 0x08, 0x01
_CONTENTS = bytes(4 * _BLOCK)
"""What is written, so that it can be compared with blocks that nobody has written."""


def scsi_stores() -> list[BlockStore]:
    """Return the blocks of the SCSI disks, in the order of their TIDs."""
    return [
        FaultyDisk(DISK_SIZE),
        MemoryDisk(DISK_SIZE, removable=True),
        MemoryDisk(DISK_SIZE, read_only=True),
    ]


@dataclass
class _Scsi:
    """A SCSI command and its data.

    Attributes:
        cdb: the command.
        room: bytes that it returns.
        given: what it is given.
        fields: where in that, in bytes, something stands that can be mutated.
    """

    cdb: bytes
    room: int = 0
    given: bytes = b""
    fields: tuple[int, ...] = ()


def _scb(table: FrameTable, tid: int, command: _Scsi) -> ValidFrame:
    """Return a command as a frame."""
    rng = table.rng
    flags = rng.choice(_TAGS) | table.one_of(0, ScbFlags.ENABLE_DISCONNECT)
    senses = (ScbFlags.SENSE_DATA_IN_MESSAGE, ScbFlags.SENSE_DATA_IN_BUFFER, 0)
    flags |= rng.choices(senses, (6, 2, 2))[0]
    buffers = []
    if flags & ScbFlags.SENSE_DATA_IN_BUFFER == ScbFlags.SENSE_DATA_IN_BUFFER:
        buffers = [Buffer(None, table.one_of(18, 40, 8))]
    if command.room:
        flags |= ScbFlags.XFER_FROM_DEVICE
        buffers.insert(0, Buffer(None, command.room))
    elif command.given:
        flags |= ScbFlags.XFER_TO_DEVICE
    fields = {
        "cdb_length": len(command.cdb),
        "scb_flags": int(flags),
        "cdb": command.cdb.ljust(16, b"\0"),
        "byte_count": len(command.given) or command.room,
    }
    layout, target = scsi.SCSI_SCB_EXEC, tid
    if tid == BOARD or rng.random() < IN_PRIVATE:
        layout, target = DPT_PRIVATE_SCSI_SCB_EXEC, table.one_of(BOARD, tid, tid)
        fields |= {"tid": tid, "interpret": int(tid == BOARD)}
    if command.given:
        places = [(at, 8, ()) for at in command.fields]
        made = reading(table, layout, target, command.given, places, *buffers, **fields)
    else:
        listed = table.lists.make(*buffers) if buffers else None
        made = table.message(layout, target, listed, **fields)
    field = next(field for field in layout.fields if field.path == "cdb")
    known = {0: _OPCODES, 1: _FLAG_BYTE, 2: _PAGE_BYTE, len(command.cdb) - 1: _CONTROL}
    bytes_of_it = tuple(
        Place(0, field.byte + at, 0, 8, "value", tuple(known.get(at, ())))
        for at in range(len(command.cdb))
    )
    body = tuple(place for place in made.places["body"] if place.byte != field.byte)
    return replace(made, places={**made.places, "body": body, "cdb": bytes_of_it})


def _ready(table: FrameTable, tid: int, command: _Scsi) -> list[ValidFrame]:
    """Return a command, mostly behind one that takes the unit attention if there is one."""
    ready = [_scb(table, tid, _Scsi(bytes(6)))] if table.rng.randrange(3) else []
    return [*ready, _scb(table, tid, command)]


def _extent(table: FrameTable) -> tuple[int, int]:
    """Return a first block and a number of blocks."""
    count = table.one_of(1, 1, 2, 4)
    return table.one_of(table.rng.randrange(_BLOCKS - count + 1), 0, 8, _BLOCKS - count), count


# --- what units answer ---------------------------------------------------------------------


@builds(2)
def scsi_identity(table: FrameTable) -> list[ValidFrame]:
    room = table.one_of(255, 96, 36, 16)
    size = bytes((0, room))
    command = table.one_of(
        _Scsi(bytes((ScsiOpcode.INQUIRY, 0, 0)) + size + b"\0", room),
        _Scsi(bytes((ScsiOpcode.INQUIRY, 1, table.one_of(*VpdPage))) + size + b"\0", room),
        _Scsi(bytes((ScsiOpcode.INQUIRY, 1, table.one_of(*VpdPage))) + size + b"\0", room),
        _Scsi(bytes((ScsiOpcode.REQUEST_SENSE, 0, 0)) + size + b"\0", room),
        _Scsi(
            bytes((ScsiOpcode.REPORT_LUNS, 0, table.one_of(0, 0, 1, 2), 0, 0, 0, 0, 0))
            + size
            + bytes(2),
            room,
        ),
        _Scsi(bytes(6)),
    )
    return _ready(table, table.one_of(BOARD, *SCSI_DISKS), command)


@builds(0.3)
def scsi_medium_kept(table: FrameTable) -> list[ValidFrame]:
    """A medium that is to stay in is to be ejected, and may go in the end."""
    keep, go = (
        _Scsi(bytes((ScsiOpcode.PREVENT_ALLOW_MEDIUM_REMOVAL, 0, 0, 0, on, 0))) for on in (1, 0)
    )
    eject, load = (_Scsi(bytes((ScsiOpcode.START_STOP_UNIT, 0, 0, 0, to, 0))) for to in (2, 3))
    orders = _ready(table, SCSI_REMOVABLE, keep)
    return [*orders, *[_scb(table, SCSI_REMOVABLE, one) for one in (eject, go, eject, load)]]


@builds(0.7)
def scsi_sense_kept(table: FrameTable) -> list[ValidFrame]:
    """Something that is refused, and the question why."""
    tid = table.one_of(*SCSI_DISKS)
    refused = _Scsi(rw(ScsiOpcode.READ_10, _BLOCKS, 1), _BLOCK)
    ask = _Scsi(bytes((ScsiOpcode.REQUEST_SENSE, 0, 0, 0, 18, 0)), 18)
    return [_scb(table, tid, one) for one in (_Scsi(bytes(6)), refused, ask)]


@builds(1.5)
def scsi_modes(table: FrameTable) -> list[ValidFrame]:
    rng = table.rng
    is_short = bool(rng.randrange(2))
    if rng.randrange(2):
        page = table.one_of(*ModePage) | table.one_of(0, 0, 0x40, 0x80)
        flags = table.one_of(0, 0, 0x08, 0x10)
        if is_short:
            cdb = bytes((ScsiOpcode.MODE_SENSE_6, flags & 8, page, 0, 192, 0))
        else:
            cdb = bytes((ScsiOpcode.MODE_SENSE_10, flags, page, 0, 0, 0, 0, 0, 192, 0))
        return _ready(table, table.one_of(*SCSI_DISKS), _Scsi(cdb, 192))
    descriptor = bytes(table.one_of(0, 0, 8))
    listed = bytes(3 if is_short else 7) + bytes((len(descriptor),)) + descriptor
    start = len(listed)
    for code, length, first in (
        (ModePage.CACHING, 0x12, table.one_of(0, 0, 4)),
        (ModePage.CONTROL, 0x0A, 0x1000),
        (ModePage.INFORMATIONAL_EXCEPTIONS, 0x0A, 8),
    ):
        if rng.randrange(3):
            listed += bytes((code, length)) + first.to_bytes(2, "little").ljust(length, b"\0")
    if is_short:
        cdb = bytes((ScsiOpcode.MODE_SELECT_6, 0x10, 0, 0, len(listed), 0))
    else:
        cdb = bytes((ScsiOpcode.MODE_SELECT_10, 0x10, 0, 0, 0, 0, 0, 0, len(listed), 0))
    places = (start - 1, *range(start, min(start + 5, len(listed))), len(listed) - 1)
    tid = table.one_of(SCSI_DISK, *SCSI_DISKS)
    frames = _ready(table, tid, _Scsi(cdb, given=listed, fields=places))
    write = _Scsi(rw(ScsiOpcode.WRITE_10, 0, 1), given=_CONTENTS[:_BLOCK])
    return [*frames, _scb(table, tid, write)]


@builds(2)
def scsi_medium(table: FrameTable) -> list[ValidFrame]:
    command = table.one_of(
        _Scsi(bytes((ScsiOpcode.START_STOP_UNIT, 0, 0, 0, table.one_of(0, 1, 1, 2, 3, 0x10), 0))),
        _Scsi(bytes((ScsiOpcode.START_STOP_UNIT, 0, 0, 0, table.one_of(0, 1, 1, 2, 3), 0))),
        _Scsi(bytes((ScsiOpcode.PREVENT_ALLOW_MEDIUM_REMOVAL, 0, 0, 0, table.one_of(0, 1), 0))),
        _Scsi(bytes((ScsiOpcode.READ_CAPACITY_10,)) + bytes(9), 8),
        _Scsi(
            bytes((ScsiOpcode.SERVICE_ACTION_IN_16, READ_CAPACITY_16_ACTION))
            + bytes(11)
            + bytes((32, 0, 0)),
            32,
        ),
    )
    return _ready(table, table.one_of(SCSI_REMOVABLE, *SCSI_DISKS), command)


# --- blocks --------------------------------------------------------------------------------


@builds(4)
def scsi_transfer(table: FrameTable) -> list[ValidFrame]:
    lba, count = _extent(table)
    if table.rng.randrange(2):
        command = _Scsi(rw(table.one_of(*_READS), lba, count), count * _BLOCK)
    else:
        opcode = table.one_of(*_WRITES)
        flag = 0
        if opcode >> 5:
            is_plain = opcode in (ScsiOpcode.WRITE_10, ScsiOpcode.WRITE_12, ScsiOpcode.WRITE_16)
            flag = table.one_of(0, _FUA if is_plain else _BYTE_CHECK)
        command = _Scsi(rw(opcode, lba, count, flag), given=_CONTENTS[: count * _BLOCK])
    return _ready(table, table.one_of(SCSI_DISK, SCSI_REMOVABLE, *SCSI_DISKS), command)


@builds(2.5)
def scsi_blocks(table: FrameTable) -> list[ValidFrame]:
    lba, count = _extent(table)
    block = _CONTENTS[:_BLOCK]
    verify, cached = table.one_of(*_VERIFIES), ScsiOpcode.SYNCHRONIZE_CACHE_10
    unmap = struct.pack(">HHIQI4x", 22, 16, 0, lba, table.one_of(count, count, 0))
    size = table.one_of(len(unmap), len(unmap), 8, 4, 0)
    command = table.one_of(
        _Scsi(rw(verify, lba, count)),
        _Scsi(rw(verify, lba, count, _BYTE_CHECK), given=_CONTENTS[: count * _BLOCK]),
        _Scsi(rw(verify, lba, 1, _BYTE_CHECK), given=bytes(9) + b"\1" + bytes(_BLOCK - 10)),
        _Scsi(rw(ScsiOpcode.WRITE_SAME_10, lba, count), given=block),
        _Scsi(rw(ScsiOpcode.WRITE_SAME_16, lba, count, table.one_of(0, 0x08)), given=block),
        _Scsi(rw(ScsiOpcode.WRITE_SAME_16, lba, count, _NO_DATA_OUT)),
        _Scsi(rw(table.one_of(cached, ScsiOpcode.SYNCHRONIZE_CACHE_16), lba, count)),
        _Scsi(
            bytes((ScsiOpcode.UNMAP,)) + bytes(6) + bytes((0, size, 0)),
            given=unmap,
            fields=tuple(range(len(unmap))),
        ),
    )
    return _ready(table, table.one_of(SCSI_DISK, SCSI_REMOVABLE, *SCSI_DISKS), command)


# --- aborts, resets, the bus ---------------------------------------------------------------


@builds()
def scsi_end(table: FrameTable) -> list[ValidFrame]:
    """A command, and what takes it back if it is not over."""
    tid = table.one_of(*SCSI_DISKS)
    ask = _scb(table, tid, _Scsi(rw(ScsiOpcode.READ_10, 0, 1), _BLOCK))
    context = int.from_bytes(ask.frame[12:16], "little")
    end = table.one_of(
        table.message(scsi.SCSI_SCB_ABORT, tid, transaction_context_to_abort=context),
        table.message(scsi.SCSI_SCB_ABORT, tid, transaction_context_to_abort=context),
        table.message(scsi.SCSI_DEVICE_RESET, tid),
        table.message(
            utility.UTIL_ABORT,
            tid,
            abort_type=table.rng.randrange(8),
            function_to_abort=Function.SCSI_SCB_EXEC.value,
            transaction_context_to_abort=context,
        ),
    )
    return [ask, end]


@builds(1.5)
def scsi_bus(table: FrameTable) -> list[ValidFrame]:
    asked = table.one_of(
        table.message(adapter.HBA_ADAPTER_RESET, PORT),
        table.message(adapter.HBA_BUS_RESET, PORT),
        table.message(adapter.HBA_BUS_SCAN, PORT),
        table.message(scsi.SCSI_DEVICE_RESET, PORT),
    )
    return [asked, *scsi_identity(table)]


@builds(0.7)
def scsi_bus_at_rest(table: FrameTable) -> list[ValidFrame]:
    quiesced, normal = (
        table.message(adapter.HBA_BUS_QUIESCE, PORT, flags=flags) for flags in (1, 0)
    )
    return [quiesced, *scsi_identity(table), normal]
