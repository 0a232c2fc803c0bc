# SPDX-License-Identifier: Apache-2.0
"""Who is who by number: function codes, device classes and organizations.

Codes below 0x20 are utility messages and 0xA0 to 0xFE executive ones; those mean the same
everywhere. The codes between belong to the class of the device addressed, and a few serve two
classes: there the enum has an alias, and only the device's class tells the messages apart
(`i2o.frames.catalog.request_layout`). Codes for tape, WAN, Fibre Channel, ATE, floppy and peer
transport devices were never published.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Final


class Function(IntEnum):
    """Function byte of the header."""

    UTIL_NOP = 0x00
    UTIL_ABORT = 0x01
    UTIL_PARAMS_SET = 0x05
    UTIL_PARAMS_GET = 0x06
    UTIL_CLAIM = 0x09
    UTIL_CLAIM_RELEASE = 0x0B
    UTIL_DEVICE_RESERVE = 0x0D
    UTIL_DEVICE_RELEASE = 0x0F
    UTIL_CONFIG_DIALOG = 0x10
    UTIL_EVENT_REGISTER = 0x13
    UTIL_EVENT_ACK = 0x14
    UTIL_REPLY_FAULT_NOTIFY = 0x15
    UTIL_LOCK = 0x17
    UTIL_LOCK_RELEASE = 0x19

    BSA_STATUS_CHECK = 0x25
    BSA_DEVICE_RESET = 0x27
    BSA_BLOCK_READ = 0x30
    BSA_BLOCK_WRITE = 0x31
    BSA_BLOCK_WRITE_VERIFY = 0x33
    BSA_MEDIA_VERIFY = 0x35
    BSA_CACHE_FLUSH = 0x37
    BSA_MEDIA_MOUNT = 0x41
    BSA_MEDIA_EJECT = 0x43
    BSA_MEDIA_FORMAT = 0x45  # assigned, but no header gives its layout
    BSA_MEDIA_LOCK = 0x49
    BSA_MEDIA_UNLOCK = 0x4B
    BSA_POWER_MANAGEMENT = 0x70
    BSA_BLOCK_REASSIGN = 0x71
    BSA_READ = BSA_BLOCK_READ
    BSA_WRITE = BSA_BLOCK_WRITE

    LAN_RESET = 0x35
    LAN_SUSPEND = 0x37
    LAN_PACKET_SEND = 0x3B
    LAN_SDU_SEND = 0x3D
    LAN_RECEIVE_POST = 0x3E

    SCSI_DEVICE_RESET = 0x27
    SCSI_SCB_EXEC = 0x81
    SCSI_SCB_ABORT = 0x83

    HBA_ADAPTER_RESET = 0x85
    HBA_BUS_RESET = 0x87
    HBA_BUS_SCAN = 0x89
    HBA_BUS_QUIESCE = 0x8B

    HOT_PLUG_POWER_ON = 0x90  # these three are v2.0, without published layouts
    HOT_PLUG_POWER_OFF = 0x91
    HOT_PLUG_ATTENTION = 0x92

    EXEC_STATUS_GET = 0xA0
    EXEC_OUTBOUND_INIT = 0xA1
    EXEC_LCT_NOTIFY = 0xA2
    EXEC_SYS_TAB_SET = 0xA3
    EXEC_BIOS_INFO_SET = 0xA5
    EXEC_BOOT_DEVICE_SET = 0xA7
    EXEC_HRT_GET = 0xA8
    EXEC_SW_DOWNLOAD = 0xA9
    EXEC_SW_UPLOAD = 0xAB
    EXEC_SW_REMOVE = 0xAD
    EXEC_DDM_SUSPEND = 0xAF
    EXEC_DDM_DESTROY = 0xB1
    EXEC_ADAPTER_READ = 0xB2
    EXEC_ADAPTER_ASSIGN = 0xB3
    EXEC_ADAPTER_RELEASE = 0xB5
    EXEC_DEVICE_ASSIGN = 0xB7
    EXEC_DEVICE_RELEASE = 0xB9
    EXEC_CONFIG_VALIDATE = 0xBB
    EXEC_IOP_RESET = 0xBD
    EXEC_IOP_CLEAR = 0xBE
    EXEC_SYS_MODIFY = 0xC1
    EXEC_SYS_QUIESCE = 0xC3
    EXEC_PATH_QUIESCE = 0xC5
    EXEC_DDM_QUIESCE = 0xC7
    EXEC_IOP_CONNECT = 0xC9
    EXEC_CONN_SETUP = 0xCA
    EXEC_SYS_ENABLE = 0xD1
    EXEC_PATH_ENABLE = 0xD3
    EXEC_DDM_ENABLE = 0xD5
    EXEC_PATH_RESET = 0xD7
    EXEC_DDM_RESET = 0xD9
    EXEC_STATIC_MF_CREATE = 0xDD
    EXEC_STATIC_MF_RELEASE = 0xDF

    PRIVATE_MESSAGE = 0xFF
    DPT_PRIVATE_SCSI_SCB_EXEC = 0xFF
    DPT_PRIVATE_FLASH_REGION = 0xFF
    DPT_PRIVATE_DRIVER_PRINTF = 0xFF
    DPT_PRIVATE_DIAG_ENABLE = 0xFF
    DPT_PRIVATE_DRIVER_GETPUT = 0xFF


UNANSWERED: Final = frozenset(
    {
        Function.UTIL_NOP.value,
        Function.EXEC_STATUS_GET.value,
        Function.EXEC_IOP_RESET.value,
        Function.EXEC_OUTBOUND_INIT.value,
    }
)
"""Functions without a reply frame: the IOP answers them through host memory, or not at all."""


class DeviceClass(IntEnum):
    """Class of a device: bits 11:0 of the ClassID word."""

    EXECUTIVE = 0x000
    DDM = 0x001
    RANDOM_BLOCK_STORAGE = 0x010
    SEQUENTIAL_STORAGE = 0x011
    LAN = 0x020
    WAN = 0x030
    FIBRE_CHANNEL_PORT = 0x040
    FIBRE_CHANNEL_PERIPHERAL = 0x041
    SCSI_PERIPHERAL = 0x051
    ATE_PORT = 0x060
    ATE_PERIPHERAL = 0x061
    FLOPPY_CONTROLLER = 0x070
    FLOPPY_DEVICE = 0x071
    BUS_ADAPTER_PORT = 0x080
    PEER_TRANSPORT_AGENT = 0x090
    PEER_TRANSPORT = 0x091
    REMOTE_UNIT_MANAGEMENT = 0x0A0
    REMOTE_TRANSPORT = 0x0A1
    HOT_PLUG_CONTROLLER = 0x0B0
    MATCH_ANYCLASS = 0xFFFFFFFF


class DdmSubclass(IntEnum):
    """Subclass of a device of class DDM."""

    I960 = 0x01
    HDM = 0x20
    ISM = 0x21


class OrganizationId(IntEnum):
    """Organizations met in the wild."""

    DPT_ADAPTEC = 0x001B
    INTEL = 0x0028
    AMI = 0x1000
    REDCREEK = 0x4916
