# SPDX-License-Identifier: Apache-2.0
"""What DPT and Adaptec cards add to I2O: SCSI commands as private messages, and groups 0x8000.

The private message names the device in a word of its own; TID 0 is the board. A disk is the same
whether it is asked for as an array or as a disk behind one ("physical").
"""

from __future__ import annotations

from typing import Final, Protocol

from i2o.frames import private
from i2o.frames.codec import Record
from i2o.frames.functions import Function, OrganizationId
from i2o.frames.layout import MessageLayout
from i2o.frames.private import DptFunction
from i2o.frames.scsi import ScsiDeviceType, ScsiHbaStatus
from i2o.iop_emulator.ddm.base import Ddm
from i2o.iop_emulator.ddm.scb import execute_scb, scb_reply
from i2o.iop_emulator.handlers import handles
from i2o.iop_emulator.iop_control import IopControl
from i2o.iop_emulator.parameter_groups import Group, Row, ScalarGroup
from i2o.iop_emulator.request import Request
from i2o.iop_emulator.scsi.inquiry import Identity
from i2o.iop_emulator.scsi.logical_unit import LogicalUnit
from i2o.transport.local_unit import FRAME_AREA

DEBUG_BUFFER: Final = 0x7F000
"""Where in the BAR the firmware's debug output is, which is empty: dpt_i2o maps 512 KiB."""
_DEBUG_BUFFER_SIZE: Final = 0x1000
_DEBUG_HEADER: Final = 16
_SCB_EXEC: Final = private.DPT_PRIVATE_SCSI_SCB_EXEC
_DPT: Final = OrganizationId.DPT_ADAPTEC.value
EXTENSIONS: Final[tuple[Row, ...]] = (
    {"organization_id": _DPT, "x_function_code": DptFunction.SCSI_SCB_EXEC.value},
)
"""Rows of group 0xF005."""


class ScsiTarget(Protocol):
    """A device that does SCSI commands."""

    def execute(self, request: Request, layout: MessageLayout) -> bytes:
        """Do the SCSI command of a message with an SCB."""


class DptDevice:
    """The chapter of a SCSI device.

    Args:
        device: the device.
        target: the same, as one that does SCSI commands.
    """

    def __init__(self, device: Ddm, target: ScsiTarget) -> None:
        self._device, self._target = device, target

    @handles(Function.PRIVATE_MESSAGE)
    def private_message(self, request: Request) -> bytes:
        """Do a SCSI command of this device."""
        asked = _scb_of(request)
        if asked is None:
            return self._device.unsupported(request)
        if asked.tid != self._device.tid:
            return scb_reply(request, ScsiHbaStatus.SCSI_TID_INVALID)
        return self._target.execute(request, _SCB_EXEC)


class DptBoard:
    """The chapter of the executive: the board itself, and any device by its TID.

    Args:
        iop: the IOP.
        executive: its executive.
    """

    def __init__(self, iop: IopControl, executive: Ddm) -> None:
        self._iop, self._executive = iop, executive
        card = iop.card
        self.unit = LogicalUnit(
            Identity(vendor=card.vendor, product=card.product, device_type=ScsiDeviceType.PROCESSOR)
        )

    @handles(Function.PRIVATE_MESSAGE)
    def private_message(self, request: Request) -> bytes:
        """Do a SCSI command of the board, or of the device that the message names."""
        asked = _scb_of(request)
        if asked is None:
            return self._executive.unsupported(request)
        if asked.tid == self._executive.tid:
            return execute_scb(self._iop, request, self.unit, _SCB_EXEC)
        device = self._iop.lct.serving.get(asked.tid)
        handler = device.dispatch.get(Function.PRIVATE_MESSAGE) if device is not None else None
        reply = handler(request) if handler is not None else None
        return reply or scb_reply(request, ScsiHbaStatus.SCSI_TID_INVALID)

    def groups(self) -> list[Group]:
        """Return the group of the debug buffer, if no inbound frame is where it is."""
        unit = self._iop.unit
        if FRAME_AREA + unit.frame_count * unit.frame_size > DEBUG_BUFFER:
            return []
        values: Row = {
            "serial_output_offset": DEBUG_BUFFER,
            "serial_output_size": _DEBUG_BUFFER_SIZE,
            "serial_header_size": _DEBUG_HEADER,
        }
        return [ScalarGroup(private.DPT_IOP_BUFFERS, lambda: values)]


def device_group(bus: int, scsi_id: int, lun: int, device_type: int) -> Group:
    """Return group 0x8000 of a SCSI device: where it is."""
    row: Row = {
        "device_type": device_type,
        "bus": bus,
        "identifier": scsi_id,
        "lun_info": bytes((0, lun)) + bytes(6),
    }
    return ScalarGroup(private.DPT_DEVICE_INFO, lambda: row)


def _scb_of(request: Request) -> Record | None:
    """Return the fields of a private message, if it is a SCSI command."""
    asked = request.fields(_SCB_EXEC)
    is_ours = (asked.organization_id, asked.x_function_code) == (_DPT, DptFunction.SCSI_SCB_EXEC)
    return asked if is_ours else None
