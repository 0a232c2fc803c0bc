# SPDX-License-Identifier: Apache-2.0
"""SCSI control blocks as frames: to a SCSI peripheral, or in DPT's private message."""

from __future__ import annotations

from i2o.frames import private, scsi
from i2o.frames.scsi import ScbFlags
from i2o.frames.sgl import simple_sgl

IN = ScbFlags.XFER_FROM_DEVICE
OUT = ScbFlags.XFER_TO_DEVICE
AUTOSENSE = ScbFlags.SENSE_DATA_IN_MESSAGE
USUAL = AUTOSENSE | ScbFlags.SIMPLE_QUEUE_TAG | ScbFlags.ENABLE_DISCONNECT
NOWHERE = 0x00F0_0000
"""A bus address that no buffer covers."""


def scb(
    tid: int,
    cdb: bytes,
    place: tuple[int, int] | None = None,
    *,
    flags: int = USUAL,
    count: int | None = None,
    sgl: bytes | None = None,
    **fields: int,
) -> bytes:
    """Return a ScsiScbExec.

    Args:
        tid: the device.
        cdb: the command.
        place: bus address and length of the data, if there are any.
        flags: SCBFlags.
        count: ByteCount, if it is not the length.
        sgl: the scatter/gather list, if it is not of one element.
        fields: other fields.
    """
    if sgl is None:
        sgl = b"" if place is None else simple_sgl([place], out=bool(flags & OUT))
    length = 0 if place is None else place[1]
    body = {
        "cdb_length": len(cdb),
        "scb_flags": int(flags),
        "cdb": cdb.ljust(16, b"\0"),
        "byte_count": length if count is None else count,
    }
    head: bytes = scsi.SCSI_SCB_EXEC.build(target_address=tid, **{**body, **fields})
    return head + sgl


def dpt_scb(
    tid: int,
    cdb: bytes,
    place: tuple[int, int] | None = None,
    *,
    flags: int = USUAL,
    device: int | None = None,
    **fields: int,
) -> bytes:
    """Return the same as DPT's private message; `device` is the TID in its own word."""
    sgl = b"" if place is None else simple_sgl([place], out=bool(flags & OUT))
    body = {
        "tid": tid if device is None else device,
        "cdb_length": len(cdb),
        "scb_flags": int(flags),
        "cdb": cdb.ljust(16, b"\0"),
        "byte_count": 0 if place is None else place[1],
    }
    layout = private.DPT_PRIVATE_SCSI_SCB_EXEC
    head: bytes = layout.build(target_address=tid, **{**body, **fields})
    return head + sgl
