# SPDX-License-Identifier: Apache-2.0
"""A SCSI control block (SCB): from the message that carries it to a logical unit, and its reply.

ScsiScbExec and DPT's private message carry the same block. The scatter/gather list is one data
buffer, and a last one for sense data if the flags say so. Data go the way that the flags say.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from i2o.frames.codec import Record
from i2o.frames.header import ReqStatus
from i2o.frames.layout import MessageLayout
from i2o.frames.scsi import (
    SCSI_ERROR_REPLY,
    SCSI_SUCCESS_REPLY,
    SENSE_SIZE,
    ScbFlags,
    ScsiDeviceStatus,
    ScsiHbaStatus,
)
from i2o.frames.scsi_command import MAX_CDB, cdb_size
from i2o.frames.sgl_walk import BitBucket, Piece, SglBuffer
from i2o.iop_emulator import sgl_data
from i2o.iop_emulator.ddm.base import IopServices
from i2o.iop_emulator.ddm.block_data import mixed_views
from i2o.iop_emulator.request import Request
from i2o.iop_emulator.scsi.command import GOOD, Command
from i2o.iop_emulator.scsi.logical_unit import LogicalUnit

MAX_COPY: Final = 32 << 20
"""Bytes of the largest transfer to or from host memory that has to be copied."""
_DIRECTION: Final = int(ScbFlags.XFER_FROM_DEVICE | ScbFlags.XFER_TO_DEVICE)
_TAG: Final = 0x0380
_SENSE: Final = int(ScbFlags.SENSE_DATA_IN_BUFFER)
_SENSES: Final = (
    ScbFlags.DISABLE_AUTOSENSE.value,
    ScbFlags.SENSE_DATA_IN_MESSAGE.value,
    ScbFlags.SENSE_DATA_IN_BUFFER.value,
)
_IN_MESSAGE: Final = ScbFlags.SENSE_DATA_IN_MESSAGE.value
_IN_BUFFER: Final = ScbFlags.SENSE_DATA_IN_BUFFER.value
_FROM_DEVICE: Final = ScbFlags.XFER_FROM_DEVICE.value
_LAST_TAG: Final = ScbFlags.ORDERED_QUEUE_TAG.value  # an ACA tag needs an ACA condition


def execute_scb(
    iop: IopServices, request: Request, unit: LogicalUnit, layout: MessageLayout
) -> bytes:
    """Do what an SCB says, and return the reply.

    Args:
        iop: the IOP.
        request: the message.
        unit: who the command is for.
        layout: of the message; it has an SCB's fields.

    Raises:
        SglError: the scatter/gather list makes no sense.
        DmaFault: it names memory that is not there.
    """
    scb = request.fields(layout)
    refusal = _refusal(scb)
    if refusal is not None:
        iop.complain(
            f"TID {request.target:#05x}: an SCB with flags {scb.scb_flags:#06x} and a CDB of "
            f"{scb.cdb_length} bytes that begins with {scb.cdb[0]:#04x} is refused as "
            f"{refusal.name}"
        )
        return scb_reply(request, refusal)
    flags = scb.scb_flags
    buffers = sgl_data.buffers(request, layout.sgl_word_offset, iop.dma, iop.page_size)
    sense_buffer = buffers.pop() if flags & _SENSE == _IN_BUFFER and buffers else None
    direction = flags & _DIRECTION
    pieces = _cut(buffers, scb.byte_count if direction else 0)
    count = sum(map(_length, pieces))
    if direction and count < scb.byte_count:
        iop.complain(
            f"TID {request.target:#05x}: the scatter/gather list of an SCB has {count} bytes, "
            f"ByteCount says {scb.byte_count}"
        )
        return scb_reply(request, ScsiHbaStatus.REQUEST_LENGTH_ERROR)
    is_read = direction == _FROM_DEVICE
    views = _views(iop, pieces, writable=is_read)
    copy: bytearray | None = None
    if views is None:
        if count > MAX_COPY:
            return scb_reply(request, ScsiHbaStatus.RESOURCE_UNAVAILABLE)
        copy = bytearray(count)
        if not is_read:
            copy[:] = sgl_data.gather(iop.dma, _buffer(pieces), count)
        views = [memoryview(copy)]
    cdb = bytes(scb.cdb[: cdb_size(scb.cdb[0]) or MAX_CDB])
    command = Command(cdb, views, ()) if is_read else Command(cdb, (), views)
    outcome = unit.execute(command, autosense=bool(flags & _SENSE))
    if copy is not None and is_read:
        sgl_data.scatter(iop.dma, _buffer(pieces), bytes(copy[: outcome.transferred]))
    if sense_buffer is not None and outcome.sense:
        sgl_data.scatter(iop.dma, sense_buffer, outcome.sense)
    adapter = ScsiHbaStatus.DATA_OVERRUN if outcome.is_overrun else ScsiHbaStatus.SUCCESS
    room = SENSE_SIZE if sense_buffer is None else sense_buffer.length
    return scb_reply(
        request,
        adapter,
        outcome.status,
        transferred=outcome.transferred,
        sense=outcome.sense if flags & _SENSE == _IN_MESSAGE else b"",
        sensed=min(len(outcome.sense), room) if flags & _SENSE else 0,
    )


def scb_reply(
    request: Request,
    adapter: int,
    status: int = GOOD,
    *,
    transferred: int = 0,
    sense: bytes = b"",
    sensed: int = 0,
    req_status: int | None = None,
) -> bytes:
    """Return the reply to an SCB.

    Args:
        request: the message.
        adapter: the adapter's status, a `ScsiHbaStatus`.
        status: the SCSI status.
        transferred: bytes of data that were moved.
        sense: sense data for the reply itself.
        sensed: bytes of sense data that were given, here or in a buffer.
        req_status: the ReqStatus, if it does not follow from the others.
    """
    if req_status is None:
        req_status = (
            ReqStatus.SUCCESS
            if not (adapter or status)
            else ReqStatus.ERROR_PARTIAL_TRANSFER
            if transferred
            else ReqStatus.ERROR_NO_DATA_TRANSFER
        )
    fields = {
        "req_status": int(req_status),
        "detailed_status_code": adapter | status,
        "transfer_count": transferred,
    }
    if status != ScsiDeviceStatus.CHECK_CONDITION:
        return request.answer(SCSI_SUCCESS_REPLY, **fields)
    reply = request.answer(SCSI_ERROR_REPLY, **fields, auto_sense_transfer_count=sensed)
    return reply[:-SENSE_SIZE] + sense[:SENSE_SIZE].ljust(SENSE_SIZE, b"\0")


def _refusal(scb: Record) -> ScsiHbaStatus | None:
    """Return why an SCB cannot be given to a unit, or None."""
    size = cdb_size(scb.cdb[0])
    if not max(1, size) <= scb.cdb_length <= MAX_CDB:
        return ScsiHbaStatus.INVALID_CDB
    flags = scb.scb_flags
    if (
        flags & _DIRECTION == _DIRECTION
        or flags & _SENSE not in _SENSES
        or flags & _TAG > _LAST_TAG
    ):
        return ScsiHbaStatus.REQUEST_INVALID
    return None


def _cut(buffers: Sequence[SglBuffer], count: int) -> list[Piece]:
    """Return the first bytes of the data, as pieces."""
    kept: list[Piece] = []
    for piece in (piece for buffer in buffers for piece in buffer.pieces):
        length = min(_length(piece), count)
        count -= length
        if not length:
            continue
        if isinstance(piece, bytes):
            kept.append(piece[:length])
        elif isinstance(piece, BitBucket):
            kept.append(BitBucket(length))
        else:
            kept.append((piece[0], length))
    return kept


def _length(piece: Piece) -> int:
    if isinstance(piece, bytes):
        return len(piece)
    return piece.length if isinstance(piece, BitBucket) else piece[1]


def _views(iop: IopServices, pieces: Sequence[Piece], *, writable: bool) -> list[memoryview] | None:
    """Return direct views of all pieces, or None where host memory has to be copied."""
    fragments = [piece for piece in pieces if isinstance(piece, tuple)]
    views = iop.dma.windows(fragments, writable=writable)
    if views is None or len(fragments) == len(pieces):
        return views
    return mixed_views(pieces, views, writable=writable)


def _buffer(pieces: list[Piece]) -> SglBuffer:
    return SglBuffer(pieces, sum(map(_length, pieces)), None)
