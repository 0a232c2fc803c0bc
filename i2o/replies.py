# SPDX-License-Identifier: Apache-2.0
"""Says what a reply means: a failed status is a value until somebody asks to raise it."""

from __future__ import annotations

from enum import IntEnum
from typing import Final, NamedTuple

from i2o.errors import RequestFailed
from i2o.frames.adapter import HbaDetailedStatus
from i2o.frames.block_storage import BsaDetailedStatus
from i2o.frames.functions import DeviceClass
from i2o.frames.header import DetailedStatus, FailureCode, FailureSeverity, ReqStatus
from i2o.frames.scsi import ScsiDetailedStatus
from i2o.message_frames import ReplyFrame

_STATUS_END = 20  # a reply with a status word has at least this many bytes
_TRANSFER_COUNT_END = 24
_CLASS_DETAILS: dict[int, type[IntEnum]] = {
    DeviceClass.RANDOM_BLOCK_STORAGE: BsaDetailedStatus,
    DeviceClass.SCSI_PERIPHERAL: ScsiDetailedStatus,
    DeviceClass.BUS_ADAPTER_PORT: HbaDetailedStatus,
}


_HINTS: Final = {
    FailureCode.STATE_ERROR.value: "the IOP is in a state in which it serves nothing: revive it",
    FailureCode.SERVICE_TERMINATED.value: "the device is gone, or its IOP was reset or has died: "
    "look at the IOP, revive it or attach it again",
}


class ReplyStatus(NamedTuple):
    """The status of an ordinary reply.

    Attributes:
        req_status: ReqStatus byte, 0 for success.
        detail: DetailedStatusCode.
        transfer_count: bytes moved, where the reply has room for a count.
    """

    req_status: int
    detail: int
    transfer_count: int


def status_of(reply: ReplyFrame) -> ReplyStatus:
    """Read the status word (a reply too short for one counts as UNKNOWN_ERROR)."""
    if len(reply) < _STATUS_END:
        return ReplyStatus(ReqStatus.ERROR_NO_DATA_TRANSFER, DetailedStatus.UNKNOWN_ERROR, 0)
    count = 0
    if len(reply) >= _TRANSFER_COUNT_END:
        count = int.from_bytes(reply[20:24], "little")
    return ReplyStatus(reply[19], reply[16] | reply[17] << 8, count)


def describe(reply: ReplyFrame, device_class: int | None = None) -> str:
    """Return the status in words.

    Args:
        reply: a final reply.
        device_class: whose detailed codes apply; the common ones if None.
    """
    if reply.failed:
        code = reply[19] if len(reply) >= _STATUS_END else FailureCode.UNKNOWN_FAILURE
        severity = reply[18] if len(reply) >= _STATUS_END else 0
        return f"FAIL frame: {_name(FailureCode, code)} ({_flag_names(severity)})"
    status = status_of(reply)
    text = _name(ReqStatus, status.req_status)
    details = _CLASS_DETAILS.get(device_class, DetailedStatus) if device_class else DetailedStatus
    if status.detail:
        text += f", {_name(details, status.detail)}"
    if status.req_status == ReqStatus.TRANSACTION_ERROR and len(reply) >= 28:
        text += f" at byte {status.transfer_count}, bit {reply[24]} of the request"
    return text


def raise_for_status(reply: ReplyFrame, what: str, device_class: int | None = None) -> None:
    """Raise RequestFailed unless the reply says success.

    Args:
        reply: a final reply.
        what: the request, for the message.
        device_class: whose detailed codes apply.
    """
    if not reply.failed and len(reply) >= _STATUS_END and not reply[19]:
        return
    message = f"{what}: {describe(reply, device_class)}"
    if reply.failed:
        detail = reply[19] if len(reply) >= _STATUS_END else 0
        if detail in _HINTS:
            message += f"; {_HINTS[detail]}"
        raise RequestFailed(message, req_status=None, detail=detail)
    status = status_of(reply)
    raise RequestFailed(
        message,
        req_status=status.req_status,
        detail=status.detail,
        transfer_count=status.transfer_count,
    )


def _name(names: type[IntEnum], value: int) -> str:
    try:
        return names(value).name
    except ValueError:
        return f"{names.__name__} {value:#04x}"


def _flag_names(severity: int) -> str:
    flags = [flag.name or "" for flag in FailureSeverity if severity & flag]
    return ", ".join(flags) or f"severity {severity:#04x}"
