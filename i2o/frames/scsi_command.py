# SPDX-License-Identifier: Apache-2.0
"""SCSI commands by number: the opcodes, sense keys and pages that both sides of this project use.

As in the T10 standards SPC-4 and SBC-3. To I2O they are only bytes, in a SCSI control block and in
its reply. `i2o.decode.scsi` has the names of everything else that drivers send.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Final


class ScsiOpcode(IntEnum):
    """First byte of a CDB."""

    TEST_UNIT_READY = 0x00
    REQUEST_SENSE = 0x03
    READ_6 = 0x08
    WRITE_6 = 0x0A
    INQUIRY = 0x12
    MODE_SELECT_6 = 0x15
    MODE_SENSE_6 = 0x1A
    START_STOP_UNIT = 0x1B
    PREVENT_ALLOW_MEDIUM_REMOVAL = 0x1E
    READ_CAPACITY_10 = 0x25
    READ_10 = 0x28
    WRITE_10 = 0x2A
    WRITE_AND_VERIFY_10 = 0x2E
    VERIFY_10 = 0x2F
    SYNCHRONIZE_CACHE_10 = 0x35
    WRITE_SAME_10 = 0x41
    UNMAP = 0x42
    MODE_SELECT_10 = 0x55
    MODE_SENSE_10 = 0x5A
    READ_16 = 0x88
    WRITE_16 = 0x8A
    WRITE_AND_VERIFY_16 = 0x8E
    VERIFY_16 = 0x8F
    SYNCHRONIZE_CACHE_16 = 0x91
    WRITE_SAME_16 = 0x93
    SERVICE_ACTION_IN_16 = 0x9E
    REPORT_LUNS = 0xA0
    READ_12 = 0xA8
    WRITE_12 = 0xAA
    WRITE_AND_VERIFY_12 = 0xAE
    VERIFY_12 = 0xAF


class SenseKey(IntEnum):
    """What kind of news sense data are."""

    NO_SENSE = 0x0
    RECOVERED_ERROR = 0x1
    NOT_READY = 0x2
    MEDIUM_ERROR = 0x3
    HARDWARE_ERROR = 0x4
    ILLEGAL_REQUEST = 0x5
    UNIT_ATTENTION = 0x6
    DATA_PROTECT = 0x7
    BLANK_CHECK = 0x8
    VENDOR_SPECIFIC = 0x9
    COPY_ABORTED = 0xA
    ABORTED_COMMAND = 0xB
    VOLUME_OVERFLOW = 0xD
    MISCOMPARE = 0xE
    COMPLETED = 0xF


class VpdPage(IntEnum):
    """Pages of vital product data, which INQUIRY gives with EVPD."""

    SUPPORTED_PAGES = 0x00
    UNIT_SERIAL_NUMBER = 0x80
    DEVICE_IDENTIFICATION = 0x83
    BLOCK_LIMITS = 0xB0
    BLOCK_DEVICE_CHARACTERISTICS = 0xB1
    LOGICAL_BLOCK_PROVISIONING = 0xB2


class ModePage(IntEnum):
    """Pages of MODE SENSE and MODE SELECT."""

    CACHING = 0x08
    CONTROL = 0x0A
    INFORMATIONAL_EXCEPTIONS = 0x1C
    ALL_PAGES = 0x3F


READ_CAPACITY_16_ACTION: Final = 0x10
"""Service action of SERVICE ACTION IN (16)."""
MAX_CDB: Final = 16
_SIZES: Final = (6, 10, 10, 0, 16, 12, 0, 0)


def cdb_size(opcode: int) -> int:
    """Return the bytes of a CDB by its opcode's group, 0 where the group has no fixed size."""
    return _SIZES[opcode >> 5]
