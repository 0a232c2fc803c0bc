# SPDX-License-Identifier: Apache-2.0
"""Random block storage (BSA, class 0x010): messages and status codes.

Addresses and counts are in bytes, not blocks. I2O 1.5 chapter 6 (random block storage class), as
written in the SIG's i2omstor.h 1.5.1. BSA media format has a function code and no known layout.
"""

from __future__ import annotations

from enum import IntEnum, IntFlag
from typing import Final

from construct import Bytes, Int8ul, Int16ul, Int32ul, Int64ul, Padding

from i2o.frames.functions import Function
from i2o.frames.header import MsgFlags, ReqStatus, message
from i2o.frames.layout import MessageLayout, Part


class BsaDetailedStatus(IntEnum):
    """DetailedStatusCode of BSA replies."""

    SUCCESS = 0x00
    MEDIA_ERROR = 0x01
    ACCESS_ERROR = 0x02
    DEVICE_FAILURE = 0x03
    DEVICE_NOT_READY = 0x04
    MEDIA_NOT_PRESENT = 0x05
    MEDIA_LOCKED = 0x06
    MEDIA_FAILURE = 0x07
    PROTOCOL_FAILURE = 0x08
    BUS_FAILURE = 0x09
    ACCESS_VIOLATION = 0x0A
    WRITE_PROTECTED = 0x0B
    DEVICE_RESET = 0x0C
    VOLUME_CHANGED = 0x0D
    TIMEOUT = 0x0E


class BsaReadFlags(IntFlag):
    """ControlFlags of BsaBlockRead."""

    DONT_RETRY = 0x01
    SOLO = 0x02
    CACHE_READ = 0x04
    READ_PREFETCH = 0x08
    CACHE_DATA = 0x10
    PROGRESS_REPORT_FLAG = 0x80


class BsaWriteFlags(IntFlag):
    """ControlFlags of BsaBlockWrite and BsaBlockWriteVerify."""

    DONT_RETRY = 0x01
    SOLO = 0x02
    DONT_CACHE = 0x04
    WRITE_THRU = 0x08
    WRITE_TO = 0x10
    PROGRESS_REPORT_FLAG = 0x80


class BsaControlFlags(IntFlag):
    """ControlFlags that every BSA request with a control word has."""

    PROGRESS_REPORT_FLAG = 0x80


class BsaResetFlags(IntFlag):
    """ControlFlags of BsaDeviceReset."""

    HARD_RESET = 0x01
    PROGRESS_REPORT_FLAG = 0x80


class BsaVerifyFlags(IntFlag):
    """ControlFlags of BsaMediaVerify."""

    MEDIA_VERIFY_ERROR_CORRECTION = 0x40
    PROGRESS_REPORT_FLAG = 0x80


class BsaLoadFlags(IntFlag):
    """LoadFlags of BsaMediaMount."""

    MEDIA_LOCK = 0x80


class BsaPowerOperation(IntEnum):
    """Operation of BsaPowerManagement."""

    PARTIAL_POWER_UP = 0x01
    POWER_UP = 0x02
    POWER_UP_LOAD = 0x03
    QUIESCE_DEVICE = 0x20
    PARTIAL_POWER_DOWN = 0x21
    PARTIAL_POWER_DOWN_UNLOAD = 0x22
    POWER_DOWN_UNLOAD = 0x23
    POWER_DOWN_RETAIN = 0x24


class BsaEvent(IntFlag):
    """Event indicator bits of the class."""

    VOLUME_LOAD = 0x01
    VOLUME_UNLOAD = 0x02
    VOLUME_UNLOAD_REQUEST = 0x04
    CAPACITY_CHANGE = 0x08
    SCSI_SMART = 0x10


CONTROL_PARTS: Final[tuple[Part, ...]] = (
    "control_flags" / Int16ul,
    "time_multiplier" / Int8ul,
)
"""Start of the control word; time_multiplier scales the group's RWV timeout, 1 is normal."""

ADDRESS_PARTS: Final[tuple[Part, ...]] = (
    "transfer_byte_count" / Int32ul,
    "logical_byte_address" / Int64ul,
)
"""How much and where, both in bytes."""

BSA_STATUS_PARTS: Final[tuple[Part, ...]] = (
    "detailed_status_code" / Int16ul,
    "retry_count" / Int8ul,
    "req_status" / Int8ul,
)
"""Word 4 of a BSA reply: the reserved byte counts retries."""

BSA_STATUS_ENUMS: Final = {"detailed_status_code": BsaDetailedStatus}
NORMAL_TIME: Final = {"time_multiplier": 1}
MEDIA_ID_CURRENT: Final = 0xFFFFFFFF
"""media_identifier of whatever medium is in the device."""

BSA_STATUS_CHECK: Final = message(
    "bsa_status_check", chapter="bsa", function=Function.BSA_STATUS_CHECK
)
BSA_DEVICE_RESET: Final = message(
    "bsa_device_reset",
    *CONTROL_PARTS,
    "reserved" / Int8ul,
    chapter="bsa",
    function=Function.BSA_DEVICE_RESET,
    enums={"control_flags": BsaResetFlags},
    defaults=NORMAL_TIME,
)
BSA_BLOCK_READ: Final = message(
    "bsa_block_read",
    *CONTROL_PARTS,
    "fetch_ahead" / Int8ul,
    *ADDRESS_PARTS,
    chapter="bsa",
    function=Function.BSA_BLOCK_READ,
    sgl=8,
    enums={"control_flags": BsaReadFlags},
    defaults=NORMAL_TIME,
    note="The unit of fetch_ahead is not known; Linux sends 0x20 with READ_PREFETCH.",
)
BSA_BLOCK_WRITE: Final = message(
    "bsa_block_write",
    *CONTROL_PARTS,
    "reserved" / Int8ul,
    *ADDRESS_PARTS,
    chapter="bsa",
    function=Function.BSA_BLOCK_WRITE,
    sgl=8,
    enums={"control_flags": BsaWriteFlags},
    defaults=NORMAL_TIME,
)
BSA_BLOCK_WRITE_VERIFY: Final = message(
    "bsa_block_write_verify",
    *CONTROL_PARTS,
    "reserved" / Int8ul,
    *ADDRESS_PARTS,
    chapter="bsa",
    function=Function.BSA_BLOCK_WRITE_VERIFY,
    sgl=8,
    enums={"control_flags": BsaWriteFlags},
    defaults=NORMAL_TIME,
)
BSA_MEDIA_VERIFY: Final = message(
    "bsa_media_verify",
    *CONTROL_PARTS,
    "reserved" / Int8ul,
    "byte_count" / Int32ul,
    "logical_byte_address" / Int64ul,
    chapter="bsa",
    function=Function.BSA_MEDIA_VERIFY,
    enums={"control_flags": BsaVerifyFlags},
    defaults=NORMAL_TIME,
)
BSA_CACHE_FLUSH: Final = message(
    "bsa_cache_flush",
    *CONTROL_PARTS,
    "reserved" / Int8ul,
    chapter="bsa",
    function=Function.BSA_CACHE_FLUSH,
    enums={"control_flags": BsaControlFlags},
    defaults=NORMAL_TIME,
)
BSA_MEDIA_MOUNT: Final = message(
    "bsa_media_mount",
    "media_identifier" / Int32ul,
    "load_flags" / Int8ul,
    "reserved" / Bytes(3),
    chapter="bsa",
    function=Function.BSA_MEDIA_MOUNT,
    enums={"load_flags": BsaLoadFlags},
    note="Linux sends 5 words.",
)
BSA_MEDIA_EJECT: Final = message(
    "bsa_media_eject",
    "media_identifier" / Int32ul,
    chapter="bsa",
    function=Function.BSA_MEDIA_EJECT,
)
BSA_MEDIA_LOCK: Final = message(
    "bsa_media_lock",
    "media_identifier" / Int32ul,
    chapter="bsa",
    function=Function.BSA_MEDIA_LOCK,
)
BSA_MEDIA_UNLOCK: Final = message(
    "bsa_media_unlock",
    "media_identifier" / Int32ul,
    chapter="bsa",
    function=Function.BSA_MEDIA_UNLOCK,
)
BSA_POWER_MANAGEMENT: Final = message(
    "bsa_power_management",
    *CONTROL_PARTS,
    "reply_type" / Int8ul,
    "operation" / Int8ul,
    Padding(3),
    chapter="bsa",
    function=Function.BSA_POWER_MANAGEMENT,
    enums={"control_flags": BsaControlFlags, "operation": BsaPowerOperation},
    defaults=NORMAL_TIME,
    note="Linux says 4 words and puts the operation where reply_type is.",
)
BSA_BLOCK_REASSIGN: Final = message(
    "bsa_block_reassign",
    "reserved1" / Int16ul,
    "time_multiplier" / Int8ul,
    "reserved2" / Int8ul,
    chapter="bsa",
    function=Function.BSA_BLOCK_REASSIGN,
    sgl=5,
    defaults=NORMAL_TIME,
)
BSA_SUCCESS_REPLY: Final = message(
    "bsa_success_reply",
    *BSA_STATUS_PARTS,
    "transfer_count" / Int32ul,
    chapter="bsa",
    direction="reply",
    enums=BSA_STATUS_ENUMS,
)
BSA_ERROR_REPLY: Final = message(
    "bsa_error_reply",
    *BSA_STATUS_PARTS,
    "transfer_count" / Int32ul,
    "logical_byte_address" / Int64ul,
    chapter="bsa",
    direction="reply",
    enums=BSA_STATUS_ENUMS,
    note="Bytes done, and the address that failed. Promise's driver has 8 words for it.",
)
BSA_ABORT_REPLY: Final = message(
    "bsa_abort_reply",
    *BSA_STATUS_PARTS,
    chapter="bsa",
    direction="reply",
    enums=BSA_STATUS_ENUMS,
)
BSA_PROGRESS_REPLY: Final = message(
    "bsa_progress_reply",
    *BSA_STATUS_PARTS,
    "percent_complete" / Int8ul,
    "reserved" / Bytes(3),
    chapter="bsa",
    direction="reply",
    enums=BSA_STATUS_ENUMS,
    defaults={
        "msg_flags": MsgFlags.REPLY.value,
        "req_status": ReqStatus.PROGRESS_REPORT.value,
    },
    note="Comes without the LAST flag, ahead of the final reply.",
)

MESSAGES: Final[tuple[MessageLayout, ...]] = (
    BSA_STATUS_CHECK,
    BSA_DEVICE_RESET,
    BSA_BLOCK_READ,
    BSA_BLOCK_WRITE,
    BSA_BLOCK_WRITE_VERIFY,
    BSA_MEDIA_VERIFY,
    BSA_CACHE_FLUSH,
    BSA_MEDIA_MOUNT,
    BSA_MEDIA_EJECT,
    BSA_MEDIA_LOCK,
    BSA_MEDIA_UNLOCK,
    BSA_POWER_MANAGEMENT,
    BSA_BLOCK_REASSIGN,
    BSA_SUCCESS_REPLY,
    BSA_ERROR_REPLY,
    BSA_ABORT_REPLY,
    BSA_PROGRESS_REPLY,
)
