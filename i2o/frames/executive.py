# SPDX-License-Identifier: Apache-2.0
"""Executive messages: to the IOP itself, TID 0, and from its executive.

I2O 1.5 chapter 4 (executive class), as written in the SIG's i2oexec.h 1.5.4. Replies are plain
single-transaction replies unless listed; StatusGet, IopReset and OutboundInit have none at all.
"""

from __future__ import annotations

from enum import IntEnum, IntFlag
from typing import Final

from construct import Bytes, Int8ul, Int16ul, Int32ul, Struct

from i2o.frames.functions import DeviceClass, Function, OrganizationId
from i2o.frames.header import STATUS_PARTS, ReqStatus, message
from i2o.frames.layout import MessageLayout, Part, word
from i2o.frames.tables import (
    HRT_ENTRY_PARTS,
    NESTED_HRT_ENTRY_ENUMS,
    InitCode,
    MessengerType,
)


class ExecutiveEvent(IntFlag):
    """Event indicator bits of the IOP executive."""

    RESOURCE_LIMIT = 0x0001
    CONNECTION_FAIL = 0x0002
    ADAPTER_FAULT = 0x0004
    POWER_FAIL = 0x0008
    RESET_PENDING = 0x0010
    RESET_IMMINENT = 0x0020
    HARDWARE_FAIL = 0x0040
    XCT_CHANGE = 0x0080
    NEW_LCT_ENTRY = 0x0100
    MODIFIED_LCT = 0x0200
    DDM_AVAILABILITY = 0x0400


class ResourceLimit(IntFlag):
    """EventData of ExecutiveEvent.RESOURCE_LIMIT."""

    LOW_MEMORY = 0x01
    INBOUND_POOL_LOW = 0x02
    OUTBOUND_POOL_LOW = 0x04


class ConnectionFail(IntEnum):
    """EventData of ExecutiveEvent.CONNECTION_FAIL."""

    REPOND_NORMAL = 0x00  # the spelling is the header's
    NOT_REPONDING = 0x01
    NO_AVAILABLE_FRAMES = 0x02


class ResetPending(IntEnum):
    """EventData of ExecutiveEvent.RESET_PENDING."""

    POWER_LOSS = 0x01
    CODE_VIOLATION = 0x02


class ResetImminent(IntEnum):
    """EventData of ExecutiveEvent.RESET_IMMINENT."""

    UNKNOWN_CAUSE = 0x00
    POWER_LOSS = 0x01
    CODE_VIOLATION = 0x02
    PARITY_ERROR = 0x03
    CODE_EXCEPTION = 0x04
    WATCHDOG_TIMEOUT = 0x05


class HardwareFail(IntEnum):
    """EventData of ExecutiveEvent.HARDWARE_FAIL."""

    UNKNOWN_CAUSE = 0x00
    CPU_FAILURE = 0x01
    MEMORY_FAULT = 0x02
    DMA_FAILURE = 0x03
    IO_BUS_FAILURE = 0x04


class DdmAvailability(IntEnum):
    """EventData of ExecutiveEvent.DDM_AVAILABILITY."""

    RESPOND_NORMAL = 0x00
    CONGESTED = 0x01
    NOT_RESPONDING = 0x02
    PROTECTION_VIOLATION = 0x03
    CODE_VIOLATION = 0x04


class SwType(IntEnum):
    """SwType of the software transfer messages."""

    DDM = 0x01
    DDM_MPB = 0x02
    DDM_CONFIG_TABLE = 0x03
    IRTOS = 0x11
    IRTOS_PRIVATE_MODULE = 0x12
    IRTOS_DIALOG_TABLE = 0x13
    IOP_PRIVATE_MODULE = 0x22
    IOP_DIALOG_TABLE = 0x23


class SwDownloadFlags(IntFlag):
    """DownloadFlags of ExecSwDownload."""

    LOAD_MEMORY = 0x00
    PERMANENT_STORE = 0x01
    EXPERIMENTAL = 0x00
    OVERRIDE = 0x02


class AdapterReadFlags(IntEnum):
    """RequestFlags of ExecAdapterRead: which space is read."""

    CONFIG_REGISTER = 0x00
    IO_REGISTER = 0x01
    ADAPTER_MEMORY = 0x02


UNIT_WORD: Final = word("unit_word", ("iop_id", 12), ("reserved", 4), ("host_unit_id", 16))
"""Which IOP: its id and the unit it sits in."""

DDM_TID_WORD: Final = word("ddm_word", ("ddm_tid", 12), ("reserved", 4), ("reserved1", 16))

DDM_PATH_PARTS: Final[tuple[Part, ...]] = (
    word("device_word", ("device_tid", 12), ("reserved2", 4), ("reserved1", 16)),
    UNIT_WORD,
)
"""A device on another IOP, as the Ddm* messages name it."""

DEVICE_ASSIGN_PARTS: Final[tuple[Part, ...]] = (
    word("device_word", ("device_tid", 12), ("ddm_tid", 12), ("operation_flags", 8)),
    UNIT_WORD,
)

SW_ID_PARTS: Final[tuple[Part, ...]] = (
    "sw_size" / Int32ul,
    "sw_id" / Struct("module_id" / Int16ul, "organization_id" / Int16ul),
)
"""Size and name of a piece of software."""

SW_ENUMS: Final = {"sw_type": SwType, "sw_id.organization_id": OrganizationId}

FRAGMENT_PARTS: Final[tuple[Part, ...]] = (
    "current_fragment" / Int8ul,
    "total_fragments" / Int8ul,
    "sw_type" / Int8ul,
)
"""Start of the word that says which 8 KiB fragment of the software this is."""

CONNECTION_ALIASES: Final = "alias_info" / Struct(
    word(
        "alias_word",
        ("iop1_alias_for_target_device", 12),
        ("iop2_alias_for_initiator_device", 12),
        ("reserved", 8),
    )
)

EXEC_STATUS_GET: Final = message(
    "exec_status_get",
    "reply_buffer_address_low" / Int32ul,
    "reply_buffer_address_high" / Int32ul,
    "reply_buffer_length" / Int32ul,
    chapter="executive",
    function=Function.EXEC_STATUS_GET,
    contexts=("reserved" / Bytes(16),),
    defaults={"reply_buffer_length": 88},
    note="No reply: the IOP writes the status block, its last byte last.",
)
EXEC_OUTBOUND_INIT: Final = message(
    "exec_outbound_init",
    "host_page_frame_size" / Int32ul,
    "init_code" / Int8ul,
    "reserved" / Int8ul,
    "outbound_msg_frame_size" / Int16ul,
    chapter="executive",
    function=Function.EXEC_OUTBOUND_INIT,
    sgl=6,
    enums={"init_code": InitCode},
    defaults={"host_page_frame_size": 4096, "init_code": InitCode.OS.value},
    note="No reply: the IOP writes 4 bytes of status to buffer 1. Buffer 2, if any, takes the "
    "reclaim list. Some hosts say SGL offset 0 and mean word 6.",
)
EXEC_LCT_NOTIFY: Final = message(
    "exec_lct_notify",
    "class_identifier" / Int32ul,
    "last_reported_change_indicator" / Int32ul,
    chapter="executive",
    function=Function.EXEC_LCT_NOTIFY,
    sgl=6,
    enums={"class_identifier": DeviceClass},
    defaults={"class_identifier": DeviceClass.MATCH_ANYCLASS.value},
    note="Answered at once when the change indicator is 0, else when the table has reached it.",
)
EXEC_SYS_TAB_SET: Final = message(
    "exec_sys_tab_set",
    UNIT_WORD,
    word("segment_word", ("segment_number", 12), ("reserved2", 4), ("reserved3", 16)),
    chapter="executive",
    function=Function.EXEC_SYS_TAB_SET,
    sgl=6,
    note="Buffers: system table, private memory, private I/O. The last two come in several shapes "
    "and NetBSD leaves iop_id 0.",
)
EXEC_BIOS_INFO_SET: Final = message(
    "exec_bios_info_set",
    word("device_word", ("device_tid", 12), ("reserved", 12), ("bios_info", 8)),
    chapter="executive",
    function=Function.EXEC_BIOS_INFO_SET,
)
EXEC_BOOT_DEVICE_SET: Final = message(
    "exec_boot_device_set",
    word("device_word", ("boot_device", 12), ("reserved", 4), ("reserved1", 16)),
    chapter="executive",
    function=Function.EXEC_BOOT_DEVICE_SET,
)
EXEC_HRT_GET: Final = message(
    "exec_hrt_get", chapter="executive", function=Function.EXEC_HRT_GET, sgl=4
)
EXEC_SW_DOWNLOAD: Final = message(
    "exec_sw_download",
    *FRAGMENT_PARTS,
    "download_flags" / Int8ul,
    *SW_ID_PARTS,
    chapter="executive",
    function=Function.EXEC_SW_DOWNLOAD,
    sgl=7,
    enums={**SW_ENUMS, "download_flags": SwDownloadFlags},
)
EXEC_SW_UPLOAD: Final = message(
    "exec_sw_upload",
    *FRAGMENT_PARTS,
    "upload_flags" / Int8ul,
    *SW_ID_PARTS,
    chapter="executive",
    function=Function.EXEC_SW_UPLOAD,
    sgl=7,
    enums=SW_ENUMS,
)
EXEC_SW_REMOVE: Final = message(
    "exec_sw_remove",
    "reserved" / Int16ul,
    "sw_type" / Int8ul,
    "remove_flags" / Int8ul,
    *SW_ID_PARTS,
    chapter="executive",
    function=Function.EXEC_SW_REMOVE,
    enums=SW_ENUMS,
)
EXEC_DDM_SUSPEND: Final = message(
    "exec_ddm_suspend", DDM_TID_WORD, chapter="executive", function=Function.EXEC_DDM_SUSPEND
)
EXEC_DDM_DESTROY: Final = message(
    "exec_ddm_destroy", DDM_TID_WORD, chapter="executive", function=Function.EXEC_DDM_DESTROY
)
EXEC_ADAPTER_READ: Final = message(
    "exec_adapter_read",
    "adapter_id" / Int32ul,
    "request_flags" / Int32ul,
    "offset" / Int32ul,
    "length" / Int32ul,
    chapter="executive",
    function=Function.EXEC_ADAPTER_READ,
    sgl=8,
    enums={"request_flags": AdapterReadFlags},
)
EXEC_ADAPTER_ASSIGN: Final = message(
    "exec_adapter_assign",
    word("ddm_word", ("ddm_tid", 12), ("reserved", 12), ("operation_flags", 8)),
    "hrt_entry" / Struct(*HRT_ENTRY_PARTS),
    chapter="executive",
    function=Function.EXEC_ADAPTER_ASSIGN,
    enums=NESTED_HRT_ENTRY_ENUMS,
)
EXEC_ADAPTER_RELEASE: Final = message(
    "exec_adapter_release",
    "reserved" / Bytes(3),
    "operation_flags" / Int8ul,
    "hrt_entry" / Struct(*HRT_ENTRY_PARTS),
    chapter="executive",
    function=Function.EXEC_ADAPTER_RELEASE,
    enums=NESTED_HRT_ENTRY_ENUMS,
)
EXEC_DEVICE_ASSIGN: Final = message(
    "exec_device_assign",
    *DEVICE_ASSIGN_PARTS,
    chapter="executive",
    function=Function.EXEC_DEVICE_ASSIGN,
)
EXEC_DEVICE_RELEASE: Final = message(
    "exec_device_release",
    *DEVICE_ASSIGN_PARTS,
    chapter="executive",
    function=Function.EXEC_DEVICE_RELEASE,
)
EXEC_CONFIG_VALIDATE: Final = message(
    "exec_config_validate",
    chapter="executive",
    function=Function.EXEC_CONFIG_VALIDATE,
    note="Linux sends it to the TID that equals the IOP's number.",
)
EXEC_IOP_RESET: Final = message(
    "exec_iop_reset",
    "status_word_low_address" / Int32ul,
    "status_word_high_address" / Int32ul,
    chapter="executive",
    function=Function.EXEC_IOP_RESET,
    contexts=("reserved" / Bytes(16),),
    note="No reply: the IOP writes 4 bytes of status.",
)
EXEC_IOP_CLEAR: Final = message(
    "exec_iop_clear",
    chapter="executive",
    function=Function.EXEC_IOP_CLEAR,
    note="AMI firmware never wakes up from it.",
)
EXEC_SYS_MODIFY: Final = message(
    "exec_sys_modify", chapter="executive", function=Function.EXEC_SYS_MODIFY, sgl=4
)
EXEC_SYS_QUIESCE: Final = message(
    "exec_sys_quiesce",
    chapter="executive",
    function=Function.EXEC_SYS_QUIESCE,
    note="DPT firmware must not get it before a reset.",
)
EXEC_PATH_QUIESCE: Final = message(
    "exec_path_quiesce", UNIT_WORD, chapter="executive", function=Function.EXEC_PATH_QUIESCE
)
EXEC_DDM_QUIESCE: Final = message(
    "exec_ddm_quiesce", *DDM_PATH_PARTS, chapter="executive", function=Function.EXEC_DDM_QUIESCE
)
EXEC_IOP_CONNECT: Final = message(
    "exec_iop_connect",
    word("type_word", ("reserved", 24), ("iop1_messenger_type", 8)),
    "iop1_inbound_msg_frame_size" / Int16ul,
    word("alias_word", ("iop1_alias_for_iop2", 12), ("reserved1", 4)),
    word("unit_word", ("iop_id1", 12), ("reserved2", 4), ("host_unit_id1", 16)),
    chapter="executive",
    function=Function.EXEC_IOP_CONNECT,
    enums={"iop1_messenger_type": MessengerType},
    note="As in the OpenSolaris copy of the SIG header; the asr copy compiles to a misaligned one.",
)
EXEC_IOP_CONNECT_REPLY: Final = message(
    "exec_iop_connect",
    *STATUS_PARTS,
    "iop2_inbound_msg_frame_size" / Int16ul,
    word("alias_word", ("iop2_alias_for_iop1", 12), ("reserved1", 4)),
    word("unit_word", ("iop_id2", 12), ("reserved2", 4), ("host_unit_id2", 16)),
    chapter="executive",
    function=Function.EXEC_IOP_CONNECT,
    direction="reply",
)
EXEC_CONN_SETUP: Final = message(
    "exec_conn_setup",
    "object_info"
    / Struct(
        word(
            "object_word",
            ("target_device", 12),
            ("initiator_device", 12),
            ("operation_flags", 8),
        )
    ),
    CONNECTION_ALIASES,
    "iop2_inbound_msg_frame_size" / Int16ul,
    "reserved" / Int16ul,
    "message_class" / Int32ul,
    chapter="executive",
    function=Function.EXEC_CONN_SETUP,
    enums={"message_class": DeviceClass},
)
EXEC_CONN_SETUP_REPLY: Final = message(
    "exec_conn_setup",
    "object_info"
    / Struct(
        word(
            "object_word",
            ("target_device", 12),
            ("initiator_device", 12),
            ("reply_status_code", 8),
        )
    ),
    CONNECTION_ALIASES,
    "iop2_inbound_msg_frame_size" / Int16ul,
    "reserved" / Int16ul,
    chapter="executive",
    function=Function.EXEC_CONN_SETUP,
    direction="reply",
    enums={"object_info.reply_status_code": ReqStatus},
    note="Has no status word: the status is one byte of the object.",
)
EXEC_SYS_ENABLE: Final = message(
    "exec_sys_enable", chapter="executive", function=Function.EXEC_SYS_ENABLE
)
EXEC_PATH_ENABLE: Final = message(
    "exec_path_enable", UNIT_WORD, chapter="executive", function=Function.EXEC_PATH_ENABLE
)
EXEC_DDM_ENABLE: Final = message(
    "exec_ddm_enable", *DDM_PATH_PARTS, chapter="executive", function=Function.EXEC_DDM_ENABLE
)
EXEC_PATH_RESET: Final = message(
    "exec_path_reset", UNIT_WORD, chapter="executive", function=Function.EXEC_PATH_RESET
)
EXEC_DDM_RESET: Final = message(
    "exec_ddm_reset", *DDM_PATH_PARTS, chapter="executive", function=Function.EXEC_DDM_RESET
)
EXEC_STATIC_MF_CREATE: Final = message(
    "exec_static_mf_create",
    "max_outstanding" / Int8ul,
    "reserved" / Bytes(3),
    "static_message_frame" / Bytes(12),
    chapter="executive",
    function=Function.EXEC_STATIC_MF_CREATE,
)
EXEC_STATIC_MF_CREATE_REPLY: Final = message(
    "exec_static_mf_create",
    *STATUS_PARTS,
    "static_mfa" / Int32ul,
    chapter="executive",
    function=Function.EXEC_STATIC_MF_CREATE,
    direction="reply",
)
EXEC_STATIC_MF_RELEASE: Final = message(
    "exec_static_mf_release",
    "static_mfa" / Int32ul,
    chapter="executive",
    function=Function.EXEC_STATIC_MF_RELEASE,
)

MESSAGES: Final[tuple[MessageLayout, ...]] = (
    EXEC_STATUS_GET,
    EXEC_OUTBOUND_INIT,
    EXEC_LCT_NOTIFY,
    EXEC_SYS_TAB_SET,
    EXEC_BIOS_INFO_SET,
    EXEC_BOOT_DEVICE_SET,
    EXEC_HRT_GET,
    EXEC_SW_DOWNLOAD,
    EXEC_SW_UPLOAD,
    EXEC_SW_REMOVE,
    EXEC_DDM_SUSPEND,
    EXEC_DDM_DESTROY,
    EXEC_ADAPTER_READ,
    EXEC_ADAPTER_ASSIGN,
    EXEC_ADAPTER_RELEASE,
    EXEC_DEVICE_ASSIGN,
    EXEC_DEVICE_RELEASE,
    EXEC_CONFIG_VALIDATE,
    EXEC_IOP_RESET,
    EXEC_IOP_CLEAR,
    EXEC_SYS_MODIFY,
    EXEC_SYS_QUIESCE,
    EXEC_PATH_QUIESCE,
    EXEC_DDM_QUIESCE,
    EXEC_IOP_CONNECT,
    EXEC_IOP_CONNECT_REPLY,
    EXEC_CONN_SETUP,
    EXEC_CONN_SETUP_REPLY,
    EXEC_SYS_ENABLE,
    EXEC_PATH_ENABLE,
    EXEC_DDM_ENABLE,
    EXEC_PATH_RESET,
    EXEC_DDM_RESET,
    EXEC_STATIC_MF_CREATE,
    EXEC_STATIC_MF_CREATE_REPLY,
    EXEC_STATIC_MF_RELEASE,
)
