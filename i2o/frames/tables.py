# SPDX-License-Identifier: Apache-2.0
"""Tables in memory: status block, HRT, LCT, system table, and the headers of driver modules.

The IOP writes the status block, the HRT, the LCT and the two status words; the host writes the
system table. I2O 1.5 chapter 4, as written in the SIG's i2oexec.h 1.5.4; modules in i2omodul.h.
"""

from __future__ import annotations

from enum import IntEnum, IntFlag
from typing import Final

from construct import Bytes, Int8ul, Int16ul, Int32ul, Struct

from i2o.frames.functions import DeviceClass, OrganizationId
from i2o.frames.layout import Layout, Part, structure, word


class IopState(IntEnum):
    """IopState of the status block."""

    INITIALIZING = 0x01
    RESET = 0x02
    HOLD = 0x04
    READY = 0x05
    OPERATIONAL = 0x08
    FAILED = 0x10
    FAULTED = 0x11


class IopCapabilities(IntFlag):
    """IopCapabilities of the status block: two numbers of 2 bits, then flags."""

    CONTEXT_32_ONLY = 0x00
    CONTEXT_64_ONLY = 0x01
    CONTEXT_32_64_NOT_CURRENTLY = 0x02
    CONTEXT_32_64_CURRENTLY = 0x03
    CURRENT_CONTEXT_NOT_CONFIG = 0x00
    CURRENT_CONTEXT_32_ONLY = 0x04
    CURRENT_CONTEXT_64_ONLY = 0x08
    CURRENT_CONTEXT_32_64 = 0x0C
    INBOUND_PEER_SUPPORT = 0x10
    OUTBOUND_PEER_SUPPORT = 0x20
    PEER_TO_PEER_SUPPORT = 0x40


class MessengerType(IntEnum):
    """MessengerType of the status block."""

    MEMORY_MAPPED_MESSAGE_UNIT = 0x00
    MEMORY_MAPPED_ONLY = 0x01
    REMOTE_ONLY = 0x02
    BOTH = 0x03


class IopResetStatus(IntEnum):
    """ResetStatus, written by ExecIopReset."""

    IN_PROGRESS = 0x01
    REJECTED = 0x02


class OutboundInitStatus(IntEnum):
    """InitStatus, written by ExecOutboundInit."""

    IN_PROGRESS = 0x01
    REJECTED = 0x02
    FAILED = 0x03
    COMPLETE = 0x04


class BusType(IntEnum):
    """BusType of an HRT entry."""

    LOCAL = 0x00
    ISA = 0x01
    EISA = 0x02
    MCA = 0x03
    PCI = 0x04
    PCMCIA = 0x05
    NUBUS = 0x06
    CARDBUS = 0x07
    OTHER = 0x80


class HrtAdapterState(IntFlag):
    """AdapterState of an HRT entry."""

    HIDDEN = 0x01
    CONTROLLED = 0x02
    PRESENT = 0x04


class LctDeviceFlags(IntFlag):
    """DeviceFlags of an LCT entry."""

    CONF_DIALOG_REQUEST = 0x01
    MORE_THAN_1_USER = 0x02
    PEER_SERVICE_DISABLED = 0x10
    MANAGEMENT_SERVICE_DISABLED = 0x20
    CONTEXT_SUPPORT = 0x0C  # a number of 2 bits, v2.0
    HOT_PLUG_SUPPORTED = 0x40
    ADDRESSES_ABOVE_32BIT = 0x80


class SerialFormat(IntEnum):
    """Format of a serial number."""

    UNKNOWN = 0x00
    BINARY = 0x01
    ASCII = 0x02
    UNICODE = 0x03
    LAN_MAC = 0x04
    WAN = 0x05
    LAN_64_MAC = 0x06
    I2O_DDM = 0x07
    IEEE_64 = 0x08
    IEEE_128 = 0x09
    UNKNOWN_FORMAT = 0xFF


class ModuleContextSupport(IntEnum):
    """Context sizes that a module supports."""

    BITS_32 = 0x00
    BITS_64 = 0x01
    BITS_32_OR_64 = 0x02
    BITS_32_AND_64 = 0x03


class ModuleTableType(IntEnum):
    """Descriptor of a module table."""

    INDEX = 0x00
    ADAPTER = 0x01
    DEVICE = 0x02
    OBSOLETE_DDM = 0x03
    TCL = 0x04


class InitCode(IntEnum):
    """InitCode of ExecOutboundInit and of the status block: who owns the IOP."""

    NO_OWNER = 0x00
    BIOS = 0x10
    OEM_BIOS_EXTENSION = 0x20
    ROM_BIOS_EXTENSION = 0x30
    OS = 0x80


ENTRY_WORDS_LCT: Final = 9
"""TableEntrySize of an LCT entry, in words."""
ENTRY_WORDS_HRT: Final = 4
"""EntryLength of an HRT entry, in words."""
HRT_HEADER_SIZE: Final = 8
"""Bytes of the HRT in front of its first entry."""
LCT_HEADER_SIZE: Final = 12
"""Bytes of the LCT in front of its first entry."""
SYNC_BYTE_DONE: Final = 0xFF
"""Last byte of the status block, written when all others are."""
FREE_TID: Final = 0xFFF
"""UserTID of a device that nobody has claimed."""

IDENTITY_WORD: Final[tuple[Part, ...]] = (
    "organization_id" / Int16ul,
    "reserved" / Int16ul,
)
"""First word of the status block and of a system table entry."""

VERSION_WORD: Final = word(
    "version_word",
    ("segment_number", 12),
    ("i2o_version", 4),
    ("iop_state", 8),
    ("messenger_type", 8),
)
"""Third word of the status block and of a system table entry."""

IOP_ENUMS: Final = {
    "organization_id": OrganizationId,
    "iop_state": IopState,
    "messenger_type": MessengerType,
    "iop_capabilities": IopCapabilities,
}

HRT_ENTRY_PARTS: Final[tuple[Part, ...]] = (
    "adapter_id" / Int32ul,
    word(
        "place", ("controlling_tid", 12), ("adapter_state", 4), ("bus_number", 8), ("bus_type", 8)
    ),
    "bus_info" / Bytes(8),
)
"""An HRT entry; messages that assign adapters carry one."""

HRT_ENTRY_ENUMS: Final = {"adapter_state": HrtAdapterState, "bus_type": BusType}
NESTED_HRT_ENTRY_ENUMS: Final = {
    f"hrt_entry.{field}": names for field, names in HRT_ENTRY_ENUMS.items()
}

CLASS_ID_PARTS: Final[tuple[Part, ...]] = (
    word("class_word", ("class", 12), ("version", 4), ("organization_id", 16)),
)
CLASS_ID_ENUMS: Final = {"class": DeviceClass, "organization_id": OrganizationId}

MESSENGER_INFO_PARTS: Final[tuple[Part, ...]] = (
    "inbound_message_port_address_low" / Int32ul,
    "inbound_message_port_address_high" / Int32ul,
)

STATUS_BLOCK: Final = structure(
    "status_block",
    *IDENTITY_WORD,
    word("unit_word", ("iop_id", 12), ("reserved1", 4), ("host_unit_id", 16)),
    VERSION_WORD,
    "inbound_msg_frame_size" / Int16ul,
    "init_code" / Int8ul,
    "reserved2" / Int8ul,
    "max_inbound_msg_frames" / Int32ul,
    "current_inbound_msg_frames" / Int32ul,
    "max_outbound_msg_frames" / Int32ul,
    "product_id_string" / Bytes(24),
    "expected_lct_size" / Int32ul,
    "iop_capabilities" / Int32ul,
    "desired_private_mem_size" / Int32ul,
    "current_private_mem_size" / Int32ul,
    "current_private_mem_base" / Int32ul,
    "desired_private_io_size" / Int32ul,
    "current_private_io_size" / Int32ul,
    "current_private_io_base" / Int32ul,
    "reserved3" / Bytes(3),
    "sync_byte" / Int8ul,
    chapter="tables",
    enums={**IOP_ENUMS, "init_code": InitCode},
    note="Hosts zero it and poll sync_byte for 0xFF. The frame size is in words, the LCT size in "
    "bytes. Non-zero desired sizes make the host allocate address space.",
)
HRT_HEADER_AND_FIRST_ENTRY: Final = structure(
    "hrt_header_and_first_entry",
    "number_entries" / Int16ul,
    "entry_length" / Int8ul,
    "hrt_version" / Int8ul,
    "current_change_indicator" / Int32ul,
    "hrt_entry" / Struct(*HRT_ENTRY_PARTS),
    chapter="tables",
    enums=NESTED_HRT_ENTRY_ENUMS,
    note="A header of 8 bytes; entries follow. entry_length is in words, 4 for v1.5.",
)
HRT_ENTRY: Final = structure("hrt_entry", *HRT_ENTRY_PARTS, chapter="tables", enums=HRT_ENTRY_ENUMS)
HRT_BUS_INFO_PCI: Final = structure(
    "hrt_bus_info_pci",
    "pci_function_number" / Int8ul,
    "pci_device_number" / Int8ul,
    "pci_bus_number" / Int8ul,
    "reserved" / Int8ul,
    "pci_vendor_id" / Int16ul,
    "pci_device_id" / Int16ul,
    chapter="tables",
)
HRT_BUS_INFO_LOCAL: Final = structure(
    "hrt_bus_info_local",
    "lb_base_io_port" / Int16ul,
    "reserved" / Int16ul,
    "lb_base_memory_address" / Int32ul,
    chapter="tables",
)
HRT_BUS_INFO_ISA: Final = structure(
    "hrt_bus_info_isa",
    "isa_base_io_port" / Int16ul,
    "csn" / Int8ul,
    "reserved" / Int8ul,
    "isa_base_memory_address" / Int32ul,
    chapter="tables",
)
HRT_BUS_INFO_EISA: Final = structure(
    "hrt_bus_info_eisa",
    "eisa_base_io_port" / Int16ul,
    "reserved" / Int8ul,
    "eisa_slot_number" / Int8ul,
    "eisa_base_memory_address" / Int32ul,
    chapter="tables",
)
HRT_BUS_INFO_MCA: Final = structure(
    "hrt_bus_info_mca",
    "mca_base_io_port" / Int16ul,
    "reserved" / Int8ul,
    "mca_slot_number" / Int8ul,
    "mca_base_memory_address" / Int32ul,
    chapter="tables",
)
HRT_BUS_INFO_OTHER: Final = structure(
    "hrt_bus_info_other",
    "base_io_port" / Int16ul,
    "reserved" / Int16ul,
    "base_memory_address" / Int32ul,
    chapter="tables",
)
LCT_HEADER: Final = structure(
    "lct_header",
    word("size_word", ("table_size", 16), ("boot_device_tid", 12), ("lct_ver", 4)),
    "iop_flags" / Int32ul,
    "current_change_indicator" / Int32ul,
    "lct_entry" / Bytes(36),
    chapter="tables",
    note="A header of 12 bytes and the first entry, which is what drivers ask for first. "
    "table_size counts the words of header and entries, however small the buffer was.",
)
LCT_ENTRY: Final = structure(
    "lct_entry",
    word("size_word", ("table_entry_size", 16), ("local_tid", 12), ("reserved", 4)),
    "change_indicator" / Int32ul,
    "device_flags" / Int32ul,
    "class_id" / Struct(*CLASS_ID_PARTS),
    "sub_class_info" / Int32ul,
    word("owner_word", ("user_tid", 12), ("parent_tid", 12), ("bios_info", 8)),
    "identity_tag" / Bytes(8),
    "event_capabilities" / Int32ul,
    chapter="tables",
    enums={
        "device_flags": LctDeviceFlags,
        **{f"class_id.{field}": names for field, names in CLASS_ID_ENUMS.items()},
    },
    spec={"bios_info": "BiosInfo"},
    defaults={"table_entry_size": ENTRY_WORDS_LCT, "user_tid": FREE_TID},
    note="user_tid 0xFFF is a free device; bios_info 0x80 marks the boot device.",
)
CLASS_ID: Final = structure(
    "class_id",
    *CLASS_ID_PARTS,
    chapter="tables",
    enums=CLASS_ID_ENUMS,
    note="version: 0 is I2O 1.0, 1 is 1.5, 2 is 2.0. Linux compares the class alone.",
)
SYSTAB_HEADER: Final = structure(
    "systab_header",
    "number_entries" / Int8ul,
    "sys_tab_version" / Int8ul,
    "reserved" / Int16ul,
    "current_change_indicator" / Int32ul,
    "reserved1" / Bytes(8),
    chapter="tables",
)
SYSTAB_IOP_ENTRY: Final = structure(
    "systab_iop_entry",
    *IDENTITY_WORD,
    word("unit_word", ("iop_id", 12), ("reserved3", 4), ("reserved1", 16)),
    VERSION_WORD,
    "inbound_message_frame_size" / Int16ul,
    "reserved2" / Int16ul,
    "last_changed" / Int32ul,
    "iop_capabilities" / Int32ul,
    "messenger_info" / Struct(*MESSENGER_INFO_PARTS),
    chapter="tables",
    enums=IOP_ENUMS,
)
MESSENGER_INFO: Final = structure("messenger_info", *MESSENGER_INFO_PARTS, chapter="tables")
IOP_RESET_STATUS: Final = structure(
    "iop_reset_status",
    "reset_status" / Int8ul,
    "reserved" / Bytes(3),
    chapter="tables",
    enums={"reset_status": IopResetStatus},
    note="NetBSD compares the whole word, so the reserved bytes must be zero.",
)
OUTBOUND_INIT_STATUS: Final = structure(
    "outbound_init_status",
    "init_status" / Int8ul,
    "reserved" / Bytes(3),
    chapter="tables",
    enums={"init_status": OutboundInitStatus},
    note="NetBSD wants the whole word to read 4; RedCreek takes the first value that is not zero.",
)
OUTBOUND_INIT_RECLAIM_LIST: Final = structure(
    "outbound_init_reclaim_list",
    "mfa_count" / Int32ul,
    "mfa_release_count" / Int32ul,
    "mfa_address" / Int32ul,
    chapter="tables",
    note="mfa_address repeats mfa_count times.",
)
SERIAL_INFO: Final = structure(
    "serial_info",
    "serial_number_length" / Int8ul,
    "serial_number_format" / Int8ul,
    "serial_number" / Bytes(256),
    chapter="tables",
    enums={"serial_number_format": SerialFormat},
)
MODULE_HEADER: Final = structure(
    "module_header",
    "header_size" / Int32ul,
    "org_id" / Int16ul,
    "module_id" / Int16ul,
    "day" / Int16ul,
    "month" / Int16ul,
    "year" / Int32ul,
    "i2o_version" / Int8ul,
    "major_capabilities" / Int8ul,
    "reserved" / Int16ul,
    "code_size" / Int32ul,
    "table_offset" / Int32ul,
    "memory_req" / Int32ul,
    "memory_preferred" / Int32ul,
    "module_version" / Bytes(4),
    "processor_type" / Int8ul,
    "process_version" / Int8ul,
    "obj_code_format" / Int8ul,
    "reserved1" / Int8ul,
    "num_tables" / Int32ul,
    "module_info" / Bytes(24),
    chapter="tables",
    enums={"org_id": OrganizationId},
)
MODULE_PARAMETER_BLOCK: Final = structure(
    "module_parameter_block",
    "mpb_size" / Int32ul,
    "org_id" / Int16ul,
    "mod_id" / Int16ul,
    "mpb_version" / Int32ul,
    "reserved" / Int32ul,
    chapter="tables",
    enums={"org_id": OrganizationId},
)
MODULE_TABLE_HEADER: Final = structure(
    "module_table_header",
    "length" / Int16ul,
    "descriptor_id" / Int16ul,
    "entry_size" / Int8ul,
    "num_entries" / Int8ul,
    "table_version" / Int8ul,
    "reserved" / Int8ul,
    chapter="tables",
    enums={"descriptor_id": ModuleTableType},
)
MODULE_INDEX_ENTRY: Final = structure(
    "module_index_entry",
    "table_desc_id" / Int16ul,
    "reserved" / Int16ul,
    "table_offset" / Int32ul,
    chapter="tables",
    enums={"table_desc_id": ModuleTableType},
)
MODULE_DEVICE_ENTRY: Final = structure(
    "module_device_entry",
    "class_id" / Int32ul,
    "sub_class" / Int32ul,
    chapter="tables",
)
MODULE_OBSOLETE_DDM_ENTRY: Final = structure(
    "module_obsolete_ddm_entry",
    "org_id" / Int16ul,
    "mod_id" / Int16ul,
    chapter="tables",
    enums={"org_id": OrganizationId},
)

STRUCTURES: Final[tuple[Layout, ...]] = (
    STATUS_BLOCK,
    HRT_HEADER_AND_FIRST_ENTRY,
    HRT_ENTRY,
    HRT_BUS_INFO_PCI,
    HRT_BUS_INFO_LOCAL,
    HRT_BUS_INFO_ISA,
    HRT_BUS_INFO_EISA,
    HRT_BUS_INFO_MCA,
    HRT_BUS_INFO_OTHER,
    LCT_HEADER,
    LCT_ENTRY,
    CLASS_ID,
    SYSTAB_HEADER,
    SYSTAB_IOP_ENTRY,
    MESSENGER_INFO,
    IOP_RESET_STATUS,
    OUTBOUND_INIT_STATUS,
    OUTBOUND_INIT_RECLAIM_LIST,
    SERIAL_INFO,
    MODULE_HEADER,
    MODULE_PARAMETER_BLOCK,
    MODULE_TABLE_HEADER,
    MODULE_INDEX_ENTRY,
    MODULE_DEVICE_ENTRY,
    MODULE_OBSOLETE_DDM_ENTRY,
)
