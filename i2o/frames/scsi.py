# SPDX-License-Identifier: Apache-2.0
"""SCSI peripherals (class 0x051): messages, status codes and parameter groups.

A SCSI control block (SCB) carries one CDB. The DetailedStatusCode of its reply is a pair: the
adapter's status in the high byte, the device's SCSI status in the low byte. As written in the
SIG's i2obscsi.h 1.5.4.
"""

from __future__ import annotations

from enum import IntEnum, IntFlag
from typing import Final

from construct import Bytes, Int8ul, Int16ul, Int32ul, Int64ul

from i2o.frames.functions import Function
from i2o.frames.header import STATUS_PARTS, message
from i2o.frames.layout import MessageLayout, ParameterGroup, Part, group


class ScsiDeviceStatus(IntEnum):
    """SCSI status: low byte of the DetailedStatusCode."""

    SUCCESS = 0x00
    CHECK_CONDITION = 0x02
    BUSY = 0x08
    RESERVATION_CONFLICT = 0x18
    COMMAND_TERMINATED = 0x22
    TASK_SET_FULL = 0x28
    ACA_ACTIVE = 0x30


class ScsiHbaStatus(IntEnum):
    """Adapter status: high byte of the DetailedStatusCode, in place."""

    SUCCESS = 0x0000
    REQUEST_ABORTED = 0x0200
    UNABLE_TO_ABORT = 0x0300
    COMPLETE_WITH_ERROR = 0x0400
    ADAPTER_BUSY = 0x0500
    REQUEST_INVALID = 0x0600
    PATH_INVALID = 0x0700
    DEVICE_NOT_PRESENT = 0x0800
    UNABLE_TO_TERMINATE = 0x0900
    SELECTION_TIMEOUT = 0x0A00
    COMMAND_TIMEOUT = 0x0B00
    MR_MESSAGE_RECEIVED = 0x0D00
    SCSI_BUS_RESET = 0x0E00
    PARITY_ERROR_FAILURE = 0x0F00
    AUTOSENSE_FAILED = 0x1000
    NO_ADAPTER = 0x1100
    DATA_OVERRUN = 0x1200
    UNEXPECTED_BUS_FREE = 0x1300
    SEQUENCE_FAILURE = 0x1400
    REQUEST_LENGTH_ERROR = 0x1500
    PROVIDE_FAILURE = 0x1600
    BDR_MESSAGE_SENT = 0x1700
    REQUEST_TERMINATED = 0x1800
    IDE_MESSAGE_SENT = 0x3300
    RESOURCE_UNAVAILABLE = 0x3400
    UNACKNOWLEDGED_EVENT = 0x3500
    MESSAGE_RECEIVED = 0x3600
    INVALID_CDB = 0x3700
    LUN_INVALID = 0x3800
    SCSI_TID_INVALID = 0x3900
    FUNCTION_UNAVAILABLE = 0x3A00
    NO_NEXUS = 0x3B00
    SCSI_IID_INVALID = 0x3C00
    CDB_RECEIVED = 0x3D00
    LUN_ALREADY_ENABLED = 0x3E00
    BUS_BUSY = 0x3F00
    QUEUE_FROZEN = 0x4000


class ScsiDetailedStatus(IntEnum):
    """DetailedStatusCode of SCSI replies: a `ScsiHbaStatus` plus a `ScsiDeviceStatus`.

    `ScsiDetailedStatus(0x0402).name` is `COMPLETE_WITH_ERROR|CHECK_CONDITION`: the two halves are
    named on demand, and a number with an unknown half raises ValueError as in any enum.
    """

    SUCCESS = 0x0000

    @classmethod
    def _missing_(cls, value: object) -> ScsiDetailedStatus | None:
        if not isinstance(value, int) or value >> 16:
            return None
        names = ScsiHbaStatus(value & 0xFF00).name, ScsiDeviceStatus(value & 0xFF).name
        member = int.__new__(cls, value)
        member._name_, member._value_ = "|".join(names), value
        return member


class ScbFlags(IntFlag):
    """SCBFlags of ScsiScbExec: direction, tag queueing and autosense are small numbers in it."""

    NO_DATA_XFER = 0x0000
    XFER_FROM_DEVICE = 0x4000
    XFER_TO_DEVICE = 0x8000
    ENABLE_DISCONNECT = 0x2000
    NO_TAG_QUEUEING = 0x0000
    SIMPLE_QUEUE_TAG = 0x0080
    HEAD_QUEUE_TAG = 0x0100
    ORDERED_QUEUE_TAG = 0x0180
    ACA_QUEUE_TAG = 0x0200
    DISABLE_AUTOSENSE = 0x0000
    SENSE_DATA_IN_MESSAGE = 0x0020
    SENSE_DATA_IN_BUFFER = 0x0060


class ScsiDeviceType(IntEnum):
    """DeviceType of group 0x0000."""

    DIRECT = 0x00
    SEQUENTIAL = 0x01
    PRINTER = 0x02
    PROCESSOR = 0x03
    WORM = 0x04
    CDROM = 0x05
    SCANNER = 0x06
    OPTICAL = 0x07
    MEDIA_CHANGER = 0x08
    COMM = 0x09
    ARRAY_CONT = 0x0C
    SES = 0x0D
    UNKNOWN = 0x1F


class ScsiEvent(IntFlag):
    """Event indicator bits of the class."""

    SCSI_SMART = 0x10


class ScsiPortPhysical(IntEnum):
    """PhysicalInterface of a SCSI port."""

    OTHER = 0x01
    UNKNOWN = 0x02
    PARALLEL = 0x03
    FIBRE_CHANNEL = 0x04
    SERIAL_P1394 = 0x05
    SERIAL_SSA = 0x06


class ScsiPortElectrical(IntEnum):
    """ElectricalInterface of a SCSI port."""

    OTHER = 0x01
    UNKNOWN = 0x02
    SINGLE_ENDED = 0x03
    DIFFERENTIAL = 0x04
    LOW_VOLT_DIFF = 0x05
    OPTICAL = 0x06


class ScsiPortConnector(IntEnum):
    """ConnectorType of a SCSI port."""

    OTHER = 0x01
    UNKNOWN = 0x02
    NONE = 0x03
    SHIELDED_A_HD = 0x04
    UNSHIELDED_A_HD = 0x05
    SHIELDED_A_LD = 0x06
    UNSHIELDED_A_LD = 0x07
    SHIELDED_P_HD = 0x08
    UNSHIELDED_P_HD = 0x09
    SCA_I = 0x0A
    SCA_II = 0x0B
    FC_DB9 = 0x0C
    FC_FIBRE = 0x0D
    FC_SCA_II_40 = 0x0E
    FC_SCA_II_20 = 0x0F
    FC_BNC = 0x10


class ScsiConnectorGender(IntEnum):
    """ConnectorGender of a SCSI port."""

    OTHER = 0x01
    UNKOWN = 0x02
    FEMALE = 0x03
    MALE = 0x04


SENSE_SIZE: Final = 40
"""Bytes of sense data in an error reply."""

SCB_PARTS: Final[tuple[Part, ...]] = (
    "cdb_length" / Int8ul,
    "reserved" / Int8ul,
    "scb_flags" / Int16ul,
    "cdb" / Bytes(16),
    "byte_count" / Int32ul,
)
"""A SCSI control block; DPT's private message carries the same one."""

SCB_ENUMS: Final = {"scb_flags": ScbFlags}

SCSI_STATUS_PARTS: Final[tuple[Part, ...]] = (*STATUS_PARTS, "transfer_count" / Int32ul)
SCSI_STATUS_ENUMS: Final = {"detailed_status_code": ScsiDetailedStatus}

SCSI_PORT_PARTS: Final[tuple[Part, ...]] = (
    "physical_interface" / Int8ul,
    "electrical_interface" / Int8ul,
    "isochronous" / Int8ul,
    "connector_type" / Int8ul,
    "connector_gender" / Int8ul,
    "reserved1" / Int8ul,
    "reserved2" / Int16ul,
    "max_number_devices" / Int32ul,
)
"""How the bus is wired, as groups of the peripheral and of the bus port tell it."""

SCSI_PORT_ENUMS: Final = {
    "physical_interface": ScsiPortPhysical,
    "electrical_interface": ScsiPortElectrical,
    "connector_type": ScsiPortConnector,
    "connector_gender": ScsiConnectorGender,
}

SCSI_DEVICE_RESET: Final = message(
    "scsi_device_reset", chapter="scsi_peripheral", function=Function.SCSI_DEVICE_RESET
)
SCSI_SCB_EXEC: Final = message(
    "scsi_scb_exec",
    *SCB_PARTS,
    chapter="scsi_peripheral",
    function=Function.SCSI_SCB_EXEC,
    sgl=10,
    enums=SCB_ENUMS,
    note="With SENSE_DATA_IN_BUFFER a last buffer of the SGL receives the sense data. Solaris "
    "tells the direction in scb_flags alone.",
)
SCSI_SCB_ABORT: Final = message(
    "scsi_scb_abort",
    "transaction_context_to_abort" / Int32ul,
    chapter="scsi_peripheral",
    function=Function.SCSI_SCB_ABORT,
)
SCSI_SUCCESS_REPLY: Final = message(
    "scsi_success_reply",
    *SCSI_STATUS_PARTS,
    chapter="scsi_peripheral",
    direction="reply",
    enums=SCSI_STATUS_ENUMS,
)
SCSI_ERROR_REPLY: Final = message(
    "scsi_error_reply",
    *SCSI_STATUS_PARTS,
    "auto_sense_transfer_count" / Int32ul,
    "sense_data" / Bytes(SENSE_SIZE),
    chapter="scsi_peripheral",
    direction="reply",
    enums=SCSI_STATUS_ENUMS,
    note="One copy of the SIG header has 44 bytes of sense data.",
)

SCSI_DEVICE_INFO: Final = group(
    "device_info",
    0x0000,
    "device_type" / Int8ul,
    "flags" / Int8ul,
    "reserved2" / Int16ul,
    "identifier" / Int32ul,
    "lun_info" / Bytes(8),
    "queue_depth" / Int32ul,
    "reserved1a" / Int8ul,
    "neg_offset" / Int8ul,
    "neg_data_width" / Int8ul,
    "reserved1b" / Int8ul,
    "neg_sync_rate" / Int64ul,
    chapter="scsi_peripheral",
    enums={"device_type": ScsiDeviceType},
)
SCSI_BUS_PORT_INFO: Final = group(
    "bus_port_info", 0x0001, *SCSI_PORT_PARTS, chapter="scsi_peripheral", enums=SCSI_PORT_ENUMS
)

MESSAGES: Final[tuple[MessageLayout, ...]] = (
    SCSI_DEVICE_RESET,
    SCSI_SCB_EXEC,
    SCSI_SCB_ABORT,
    SCSI_SUCCESS_REPLY,
    SCSI_ERROR_REPLY,
)
GROUPS: Final[tuple[ParameterGroup, ...]] = (SCSI_DEVICE_INFO, SCSI_BUS_PORT_INFO)
