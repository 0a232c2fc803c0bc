# SPDX-License-Identifier: Apache-2.0
"""Private messages: function 0xFF, and the ones that DPT and Adaptec boards understand.

Word 4 names the organization and its own function code; the rest is theirs to define. The DPT
ones are as in the SIG-style header i2odpt.h of the asr driver.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Final

from construct import Bytes, Int8ul, Int16ul, Int32ul, Padding

from i2o.frames.functions import Function, OrganizationId
from i2o.frames.header import message
from i2o.frames.layout import MessageLayout, ParameterGroup, Part, group, word
from i2o.frames.scsi import SCB_ENUMS, SCB_PARTS, ScsiDeviceType


class DptFunction(IntEnum):
    """XFunctionCode of organization 0x001B."""

    SCSI_SCB_EXEC = 0x0081
    FLASH_SIZE = 0x0100
    FLASH_READ = 0x0101
    FLASH_WRITE = 0x0102
    FLASH_CRC = 0x0103
    DRIVER_PRINTF = 0x0200
    DIAG_ENABLE = 0x0201
    DRIVER_GET = 0x0300
    DRIVER_PUT = 0x0301


class DptFlashRegion(IntEnum):
    """FlashRegion of DptPrivateFlashRegion."""

    FIRMWARE = 0
    BIOS = 1
    NVRAM_DEFAULTS = 2
    SERIAL_NUMBER = 3
    BOOT_FIRMWARE = 4


PRIVATE_PARTS: Final[tuple[Part, ...]] = (
    "x_function_code" / Int16ul,
    "organization_id" / Int16ul,
)
"""Word 4 of every private message: whose it is and which."""

PRIVATE_ENUMS: Final = {"organization_id": OrganizationId}
DPT_ENUMS: Final = {**PRIVATE_ENUMS, "x_function_code": DptFunction}


def _dpt(function: DptFunction) -> dict[str, int]:
    """Return the defaults of word 4 of a DPT message."""
    return {
        "organization_id": OrganizationId.DPT_ADAPTEC.value,
        "x_function_code": function.value,
    }


PRIVATE_MESSAGE: Final = message(
    "private_message",
    *PRIVATE_PARTS,
    chapter="private",
    function=Function.PRIVATE_MESSAGE,
    enums=PRIVATE_ENUMS,
)
DPT_PRIVATE_SCSI_SCB_EXEC: Final = message(
    "dpt_private_scsi_scb_exec",
    *PRIVATE_PARTS,
    word("tid_word", ("tid", 16), ("interpret", 1), ("physical", 1), ("reserved1", 14)),
    *SCB_PARTS,
    chapter="private",
    function=Function.PRIVATE_MESSAGE,
    sgl=12,
    enums={**DPT_ENUMS, **SCB_ENUMS},
    defaults=_dpt(DptFunction.SCSI_SCB_EXEC),
    note="interpret: the firmware executes the CDB itself (INQUIRY of the board, TID 0); "
    "physical: address the raw disk under an array.",
)
DPT_PRIVATE_FLASH_REGION: Final = message(
    "dpt_private_flash_region",
    *PRIVATE_PARTS,
    "flash_region" / Int32ul,
    "region_offset" / Int32ul,
    "byte_count" / Int32ul,
    chapter="private",
    function=Function.PRIVATE_MESSAGE,
    sgl=8,
    enums={**DPT_ENUMS, "flash_region": DptFlashRegion},
    defaults=_dpt(DptFunction.FLASH_READ),
    note="To TID 0; four functions share it: size, read, write, CRC.",
)
DPT_PRIVATE_DRIVER_PRINTF: Final = message(
    "dpt_private_driver_printf",
    *PRIVATE_PARTS,
    "print_buffer_byte_count" / Int32ul,
    "print_buffer" / Bytes(1),
    Padding(3),
    chapter="private",
    function=Function.PRIVATE_MESSAGE,
    enums=DPT_ENUMS,
    defaults=_dpt(DptFunction.DRIVER_PRINTF),
    note="print_buffer is the first of print_buffer_byte_count bytes.",
)
DPT_PRIVATE_DIAG_ENABLE: Final = message(
    "dpt_private_diag_enable",
    *PRIVATE_PARTS,
    chapter="private",
    function=Function.PRIVATE_MESSAGE,
    enums=DPT_ENUMS,
    defaults=_dpt(DptFunction.DIAG_ENABLE),
)
DPT_PRIVATE_DRIVER_GETPUT: Final = message(
    "dpt_private_driver_getput",
    *PRIVATE_PARTS,
    "offset" / Int32ul,
    "byte_count" / Int32ul,
    chapter="private",
    function=Function.PRIVATE_MESSAGE,
    sgl=7,
    enums=DPT_ENUMS,
    defaults=_dpt(DptFunction.DRIVER_GET),
)

DPT_REQUESTS: Final[dict[DptFunction, MessageLayout]] = {
    DptFunction.SCSI_SCB_EXEC: DPT_PRIVATE_SCSI_SCB_EXEC,
    DptFunction.FLASH_SIZE: DPT_PRIVATE_FLASH_REGION,
    DptFunction.FLASH_READ: DPT_PRIVATE_FLASH_REGION,
    DptFunction.FLASH_WRITE: DPT_PRIVATE_FLASH_REGION,
    DptFunction.FLASH_CRC: DPT_PRIVATE_FLASH_REGION,
    DptFunction.DRIVER_PRINTF: DPT_PRIVATE_DRIVER_PRINTF,
    DptFunction.DIAG_ENABLE: DPT_PRIVATE_DIAG_ENABLE,
    DptFunction.DRIVER_GET: DPT_PRIVATE_DRIVER_GETPUT,
    DptFunction.DRIVER_PUT: DPT_PRIVATE_DRIVER_GETPUT,
}
"""What each XFunctionCode of organization 0x001B looks like."""

DPT_IOP_BUFFERS: Final = group(
    "dpt_iop_buffers",
    0x8000,
    "serial_output_offset" / Int32ul,
    "serial_output_size" / Int32ul,
    "serial_header_size" / Int32ul,
    "serial_flags_supported" / Int32ul,
    chapter="private",
    note="Of TID 0. The debug buffer lies in the BAR; BlinkLED is the byte at offset + 8, valid "
    "when the next one is 0xBC.",
)
DPT_DEVICE_INFO: Final = group(
    "dpt_device_info",
    0x8000,
    "device_type" / Int8ul,
    "flags" / Int8ul,
    "bus" / Int16ul,
    "identifier" / Int32ul,
    "lun_info" / Bytes(8),
    chapter="private",
    enums={"device_type": ScsiDeviceType},
    note="Of every disk TID. The LUN is lun_info[1].",
)

GROUPS: Final[tuple[ParameterGroup, ...]] = (
    DPT_IOP_BUFFERS,
    DPT_DEVICE_INFO,
)

MESSAGES: Final[tuple[MessageLayout, ...]] = (
    PRIVATE_MESSAGE,
    DPT_PRIVATE_SCSI_SCB_EXEC,
    DPT_PRIVATE_FLASH_REGION,
    DPT_PRIVATE_DRIVER_PRINTF,
    DPT_PRIVATE_DIAG_ENABLE,
    DPT_PRIVATE_DRIVER_GETPUT,
)
