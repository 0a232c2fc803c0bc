# SPDX-License-Identifier: Apache-2.0
"""Which recorded requests may be sent again: an explicit list of what only reads.

Whatever is not on the list counts as something that changes data or state. What a function means
depends on the class of the device that it is sent to, so that of the replay's target counts.
"""

from __future__ import annotations

from typing import Final

from i2o.frames import catalog
from i2o.frames.functions import UNANSWERED, DeviceClass, Function, OrganizationId
from i2o.frames.host_ranges import sgl_start
from i2o.frames.layout import MessageLayout
from i2o.frames.params import ALL_FIELDS, ParamOperation
from i2o.frames.private import DPT_PRIVATE_SCSI_SCB_EXEC, DptFunction
from i2o.frames.scsi import SCSI_SCB_EXEC

BRING_UP: Final = "it belongs to bring-up"
NO_REPLY: Final = "it has no final reply to wait for"
REFERS: Final = "it refers to another message"
CHANGES: Final = "it can change data or state"

_BRING_UP: Final = UNANSWERED | {
    function.value
    for function in (
        Function.EXEC_LCT_NOTIFY,
        Function.EXEC_HRT_GET,
        Function.EXEC_SYS_TAB_SET,
        Function.EXEC_SYS_ENABLE,
        Function.EXEC_SYS_QUIESCE,
        Function.EXEC_SYS_MODIFY,
        Function.EXEC_IOP_CLEAR,
        Function.EXEC_IOP_CONNECT,
        Function.EXEC_CONN_SETUP,
        Function.EXEC_PATH_ENABLE,
        Function.EXEC_PATH_QUIESCE,
        Function.EXEC_PATH_RESET,
        Function.EXEC_STATIC_MF_CREATE,
        Function.EXEC_STATIC_MF_RELEASE,
    )
}
_REFERRING: Final = frozenset(
    function.value
    for function in (
        Function.UTIL_ABORT,
        Function.UTIL_EVENT_ACK,
        Function.UTIL_REPLY_FAULT_NOTIFY,
    )
)
"""Functions that name a message by its contexts or its address, which a replay changes."""

_EVENT_REGISTER: Final = Function.UTIL_EVENT_REGISTER.value
_PARAMS_GET: Final = Function.UTIL_PARAMS_GET.value
_PRIVATE: Final = Function.PRIVATE_MESSAGE.value
_SCB_EXEC: Final = Function.SCSI_SCB_EXEC.value
_SCB_ABORT: Final = Function.SCSI_SCB_ABORT.value
_DPT_SCB: Final = DptFunction.SCSI_SCB_EXEC.value | OrganizationId.DPT_ADAPTEC.value << 16
_SCSI_CLASSES: Final = (
    DeviceClass.SCSI_PERIPHERAL.value,
    DeviceClass.FIBRE_CHANNEL_PERIPHERAL.value,
)
_READ_ONLY: Final = {
    DeviceClass.RANDOM_BLOCK_STORAGE.value: frozenset(
        function.value
        for function in (
            Function.BSA_BLOCK_READ,
            Function.BSA_STATUS_CHECK,
            Function.BSA_MEDIA_VERIFY,
        )
    )
}
"""Functions that only read, by class; parameters and SCSI commands are looked at more closely."""

_READ_ONLY_CDBS: Final = frozenset(
    {
        0x00,  # TEST UNIT READY
        0x03,  # REQUEST SENSE
        0x08,  # READ(6)
        0x12,  # INQUIRY
        0x1A,  # MODE SENSE(6)
        0x25,  # READ CAPACITY(10)
        0x28,  # READ(10)
        0x2F,  # VERIFY(10)
        0x37,  # READ DEFECT DATA(10)
        0x43,  # READ TOC
        0x46,  # GET CONFIGURATION
        0x4A,  # GET EVENT STATUS NOTIFICATION
        0x5A,  # MODE SENSE(10)
        0x5E,  # PERSISTENT RESERVE IN
        0x88,  # READ(16)
        0x8F,  # VERIFY(16)
        0xA0,  # REPORT LUNS
        0xA8,  # READ(12)
        0xB7,  # READ DEFECT DATA(12)
    }
)
_LOG_SENSE, _SERVICE_ACTION_IN = 0x4D, 0x9E
_READ_CAPACITY_16: Final = 0x10
_LOG_SENSE_SAVES: Final = 0x01
_GETS: Final = frozenset(
    operation.value
    for operation in (
        ParamOperation.FIELD_GET,
        ParamOperation.LIST_GET,
        ParamOperation.MORE_GET,
        ParamOperation.SIZE_GET,
        ParamOperation.TABLE_GET,
    )
)
_OF_KNOWN_LENGTH: Final = (ParamOperation.FIELD_GET.value, ParamOperation.TABLE_GET.value)
_LIST_HEADER: Final = 4


def why_never(frame: bytes) -> str:
    """Return why a request is never replayed, an empty string if it may be.

    Args:
        frame: the request, with its header.
    """
    function = frame[7]
    if function in _BRING_UP:
        return BRING_UP
    if function == _EVENT_REGISTER:
        return NO_REPLY
    if function in _REFERRING or function == _SCB_ABORT:
        return REFERS
    return ""


def is_read_only(frame: bytes, device_class: int | None, operations: bytes | None = None) -> bool:
    """Whether a request certainly changes nothing.

    Args:
        frame: the request, cut at its MessageSize.
        device_class: class of the device that it is sent to, None if not known.
        operations: for UtilParamsGet the operation list, None if it is not known.
    """
    function = frame[7]
    layout = catalog.layout_of_request(frame, device_class)
    if layout is not None and 0 < sgl_start(frame) < layout.size:
        return False  # new addresses would stand where the rules look
    if function == _PARAMS_GET:
        return operations is not None and only_gets(operations)
    if function == _PRIVATE:
        is_scb = len(frame) >= 20 and int.from_bytes(frame[16:20], "little") == _DPT_SCB
        return is_scb and _is_reading_scb(frame, DPT_PRIVATE_SCSI_SCB_EXEC)
    if device_class in _SCSI_CLASSES and function == _SCB_EXEC:
        return _is_reading_scb(frame, SCSI_SCB_EXEC)
    return device_class is not None and function in _READ_ONLY.get(device_class, ())


def only_gets(operations: bytes) -> bool:
    """Whether an operation list, as far as it counts its operations, only reads.

    A list whose operations cannot be told apart for certain does not.
    """
    if len(operations) < _LIST_HEADER:
        return False
    count, at = int.from_bytes(operations[:2], "little"), _LIST_HEADER
    for left in range(count, 0, -1):
        if at + 2 > len(operations):
            return False
        code = int.from_bytes(operations[at : at + 2], "little")
        if code not in _GETS:
            return False
        if left == 1:
            return True
        if code not in _OF_KNOWN_LENGTH or at + 6 > len(operations):
            return False
        fields = int.from_bytes(operations[at + 4 : at + 6], "little")
        at += 6 + (0 if fields == ALL_FIELDS else 2 * fields)
        padding = -at % 4
        if any(operations[at : at + padding]):
            return False  # the next operation, for devices that align to 16 bits
        at += padding
    return True


def is_reading_cdb(cdb: bytes) -> bool:
    """Whether a SCSI command only reads."""
    if len(cdb) < 6:
        return False
    if cdb[0] == _LOG_SENSE:
        return not cdb[1] & _LOG_SENSE_SAVES
    if cdb[0] == _SERVICE_ACTION_IN:
        return cdb[1] & 0x1F == _READ_CAPACITY_16
    return cdb[0] in _READ_ONLY_CDBS


def _is_reading_scb(frame: bytes, layout: MessageLayout) -> bool:
    if len(frame) < layout.size:
        return False
    block = layout.unpack_from(frame)
    length: int = block.cdb_length
    cdb: bytes = block.cdb
    return length <= len(cdb) and is_reading_cdb(cdb[:length])
