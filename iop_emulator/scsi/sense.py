# SPDX-License-Identifier: Apache-2.0
"""Sense data: why a command could not be done, in the fixed format."""

from __future__ import annotations

import errno
from enum import IntEnum
from typing import Final, NamedTuple

from i2o.errors import I2OError
from i2o.frames.scsi_command import SenseKey
from i2o.iop_emulator.block_store import StoreError

SENSE_SIZE: Final = 18
_CURRENT: Final = 0x70
_VALID: Final = 0x80  # the information field says something
_MAX_INFORMATION: Final = 0xFFFF_FFFF
_SKSV: Final = 0x80  # the sense-key specific field says something
_IN_CDB: Final = 0x40
_BIT_VALID: Final = 0x08


class AdditionalSense(IntEnum):
    """Additional sense code and qualifier, as one number."""

    NONE = 0x0000
    NOT_READY_INITIALIZING_COMMAND_REQUIRED = 0x0402
    NOT_READY_OPERATION_IN_PROGRESS = 0x0407
    WRITE_ERROR = 0x0C00
    UNRECOVERED_READ_ERROR = 0x1100
    PARAMETER_LIST_LENGTH_ERROR = 0x1A00
    MISCOMPARE_DURING_VERIFY = 0x1D00
    INVALID_OPERATION_CODE = 0x2000
    LBA_OUT_OF_RANGE = 0x2100
    INVALID_FIELD_IN_CDB = 0x2400
    LOGICAL_UNIT_NOT_SUPPORTED = 0x2500
    INVALID_FIELD_IN_PARAMETER_LIST = 0x2600
    WRITE_PROTECTED = 0x2700
    SPACE_ALLOCATION_FAILED = 0x2707
    MEDIUM_MAY_HAVE_CHANGED = 0x2800
    POWER_ON_OCCURRED = 0x2901
    SCSI_BUS_RESET_OCCURRED = 0x2902
    BUS_DEVICE_RESET_OCCURRED = 0x2903
    CAPACITY_DATA_HAS_CHANGED = 0x2A09
    SAVING_PARAMETERS_NOT_SUPPORTED = 0x3900
    MEDIUM_NOT_PRESENT = 0x3A00
    INTERNAL_TARGET_FAILURE = 0x4400
    MEDIUM_REMOVAL_PREVENTED = 0x5302
    OPERATOR_MEDIUM_REMOVAL_REQUEST = 0x5A01


class Place(NamedTuple):
    """Where in a command something is wrong.

    Attributes:
        byte: of the CDB or of the parameter list.
        bit: highest bit of the field in that byte, None for the whole byte.
        is_in_cdb: the CDB, not the parameter list.
    """

    byte: int
    bit: int | None = None
    is_in_cdb: bool = True


class Sense(NamedTuple):
    """Why a command could not be done.

    Attributes:
        key: what kind of reason.
        code: the reason.
        information: the first block concerned, if one is.
        place: the field of the command that is wrong, if one is.
    """

    key: SenseKey
    code: AdditionalSense = AdditionalSense.NONE
    information: int | None = None
    place: Place | None = None

    def fixed(self) -> bytes:
        """Return the 18 bytes of the fixed format. It has no room for a block beyond 32 bits."""
        data = bytearray(SENSE_SIZE)
        data[0] = _CURRENT
        if self.information is not None and self.information <= _MAX_INFORMATION:
            data[0] |= _VALID
            data[3:7] = self.information.to_bytes(4, "big")
        data[2] = self.key
        data[7] = SENSE_SIZE - 8
        data[12:14] = self.code.to_bytes(2, "big")
        if self.place is not None:
            data[15] = _SKSV | (_IN_CDB if self.place.is_in_cdb else 0)
            if self.place.bit is not None:
                data[15] |= _BIT_VALID | self.place.bit
            data[16:18] = self.place.byte.to_bytes(2, "big")
        return bytes(data)


class CheckCondition(I2OError):
    """A command that ends with CHECK CONDITION.

    Args:
        sense: why.
        done: bytes that were moved before.
    """

    def __init__(self, sense: Sense, done: int = 0) -> None:
        super().__init__(f"{sense.key.name}: {sense.code.name}")
        self.sense, self.done = sense, done


def illegal(
    byte: int,
    bit: int | None = None,
    *,
    code: AdditionalSense = AdditionalSense.INVALID_FIELD_IN_CDB,
) -> CheckCondition:
    """Return the refusal of a CDB for one of its fields.

    Args:
        byte: first byte of the field.
        bit: its highest bit there, None for the whole byte.
        code: what is wrong with it.
    """
    return CheckCondition(Sense(SenseKey.ILLEGAL_REQUEST, code, place=Place(byte, bit)))


def illegal_parameter(byte: int, bit: int | None = None) -> CheckCondition:
    """Return the refusal of a parameter list for one of its fields."""
    return CheckCondition(
        Sense(
            SenseKey.ILLEGAL_REQUEST,
            AdditionalSense.INVALID_FIELD_IN_PARAMETER_LIST,
            place=Place(byte, bit, is_in_cdb=False),
        )
    )


def of_store(
    error: OSError, lba: int, block_size: int, *, is_write: bool, before: int = 0
) -> CheckCondition:
    """Return an error of a store as sense data.

    Args:
        error: the error.
        lba: first block of the transfer.
        block_size: bytes of a block.
        is_write: whether blocks were written.
        before: bytes of the transfer that were moved before the store was asked.
    """
    done = before + (error.done if isinstance(error, StoreError) else 0)
    number = error.errno or errno.EIO
    if number == errno.EIO:
        code = AdditionalSense.WRITE_ERROR if is_write else AdditionalSense.UNRECOVERED_READ_ERROR
        return CheckCondition(Sense(SenseKey.MEDIUM_ERROR, code, lba + done // block_size), done)
    key, code = _REASONS.get(
        number, (SenseKey.HARDWARE_ERROR, AdditionalSense.INTERNAL_TARGET_FAILURE)
    )
    return CheckCondition(Sense(key, code), done)


_REASONS: Final = {
    errno.EROFS: (SenseKey.DATA_PROTECT, AdditionalSense.WRITE_PROTECTED),
    errno.ENOSPC: (SenseKey.DATA_PROTECT, AdditionalSense.SPACE_ALLOCATION_FAILED),
    errno.EDQUOT: (SenseKey.DATA_PROTECT, AdditionalSense.SPACE_ALLOCATION_FAILED),
    errno.EBUSY: (SenseKey.NOT_READY, AdditionalSense.NOT_READY_OPERATION_IN_PROGRESS),
    errno.ENOMEDIUM: (SenseKey.NOT_READY, AdditionalSense.MEDIUM_NOT_PRESENT),
}
