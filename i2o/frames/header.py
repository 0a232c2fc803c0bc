# SPDX-License-Identifier: Apache-2.0
"""The message header, the replies every class shares, and the status codes in them.

I2O 1.5 chapter 3 (message frames), as written in the SIG's i2omsg.h 1.5.4.
"""

from __future__ import annotations

from enum import IntEnum, IntFlag
from typing import Any, Final

from construct import Int8ul, Int16ul, Int32ul, Struct

from i2o.frames.layout import Direction, Layout, MessageLayout, Part, structure, word

VERSION_1_5: Final = 1
"""VersionOffset bits 2:0 of every frame we build."""
HEADER_SIZE: Final = 16
"""Bytes up to and including the TransactionContext."""
EMPTY_MFA: Final = 0xFFFFFFFF
"""What an empty port reads as."""
MAX_TID: Final = 0xFFF


class MsgFlags(IntFlag):
    """MsgFlags byte of the header."""

    STATIC = 0x01
    CONTEXT_64BIT = 0x02
    MULTIPLE = 0x10
    FAIL = 0x20
    LAST = 0x40
    REPLY = 0x80


FINAL_REPLY: Final = int(MsgFlags.REPLY | MsgFlags.LAST)
FAIL_REPLY: Final = int(MsgFlags.REPLY | MsgFlags.LAST | MsgFlags.FAIL)


class SpecialTid(IntEnum):
    """TIDs with a fixed meaning."""

    IOP_EXECUTIVE = 0x000
    HOST = 0x001
    RTA = 0x002
    NO_USER = 0xFFF


class ReqStatus(IntEnum):
    """ReqStatus byte of a reply."""

    SUCCESS = 0x00
    ABORT_DIRTY = 0x01
    ABORT_NO_DATA_TRANSFER = 0x02
    ABORT_PARTIAL_TRANSFER = 0x03
    ERROR_DIRTY = 0x04
    ERROR_NO_DATA_TRANSFER = 0x05
    ERROR_PARTIAL_TRANSFER = 0x06
    PROCESS_ABORT_DIRTY = 0x08
    PROCESS_ABORT_NO_DATA_TRANSFER = 0x09
    PROCESS_ABORT_PARTIAL_TRANSFER = 0x0A
    TRANSACTION_ERROR = 0x0B
    PROGRESS_REPORT = 0x80


class DetailedStatus(IntEnum):
    """DetailedStatusCode common to all classes but the ones that define their own."""

    SUCCESS = 0x00
    BAD_KEY = 0x02
    TCL_ERROR = 0x03
    REPLY_BUFFER_FULL = 0x04
    NO_SUCH_PAGE = 0x05
    INSUFFICIENT_RESOURCE_SOFT = 0x06
    INSUFFICIENT_RESOURCE_HARD = 0x07
    CHAIN_BUFFER_TOO_LARGE = 0x09
    UNSUPPORTED_FUNCTION = 0x0A
    DEVICE_LOCKED = 0x0B
    DEVICE_RESET = 0x0C
    INAPPROPRIATE_FUNCTION = 0x0D
    INVALID_INITIATOR_ADDRESS = 0x0E
    INVALID_MESSAGE_FLAGS = 0x0F
    INVALID_OFFSET = 0x10
    INVALID_PARAMETER = 0x11
    INVALID_REQUEST = 0x12
    INVALID_TARGET_ADDRESS = 0x13
    MESSAGE_TOO_LARGE = 0x14
    MESSAGE_TOO_SMALL = 0x15
    MISSING_PARAMETER = 0x16
    TIMEOUT = 0x17
    UNKNOWN_ERROR = 0x18
    UNKNOWN_FUNCTION = 0x19
    UNSUPPORTED_VERSION = 0x1A
    DEVICE_BUSY = 0x1B
    DEVICE_NOT_AVAILABLE = 0x1C
    CRITICAL_DEVICE = 0x1D
    EVENT_ACK_PENDING = 0x1E
    PERMANENT_STORE_ERROR = 0x1F


class FailureSeverity(IntFlag):
    """Severity byte of a FAIL reply."""

    FORMAT_ERROR = 0x1
    PATH_ERROR = 0x2
    PATH_STATE = 0x4
    CONGESTION = 0x8


class FailureCode(IntEnum):
    """FailureCode byte of a FAIL reply."""

    SERVICE_SUSPENDED = 0x81
    SERVICE_TERMINATED = 0x82
    CONGESTION = 0x83
    FAIL = 0x84
    STATE_ERROR = 0x85
    TIME_OUT = 0x86
    ROUTING_FAILURE = 0x87
    INVALID_VERSION = 0x88
    INVALID_OFFSET = 0x89
    INVALID_MSG_FLAGS = 0x8A
    FRAME_TOO_SMALL = 0x8B
    FRAME_TOO_LARGE = 0x8C
    INVALID_TARGET_ID = 0x8D
    INVALID_INITIATOR_ID = 0x8E
    INVALID_INITIATOR_CONTEXT = 0x8F
    UNKNOWN_FAILURE = 0xFF


class TrlFlags(IntEnum):
    """Flags of a transaction reply list."""

    SINGLE_FIXED_LENGTH = 0x00
    SINGLE_VARIABLE_LENGTH = 0x40
    MULTIPLE_FIXED_LENGTH = 0x80


HEADER_PARTS: Final[tuple[Part, ...]] = (
    "version_offset" / Int8ul,
    "msg_flags" / Int8ul,
    "message_size" / Int16ul,
    word("w1", ("target_address", 12), ("initiator_address", 12), ("function", 8)),
)
"""Words 0 and 1, which every message has."""

CONTEXT_PARTS: Final[tuple[Part, ...]] = (
    "initiator_context" / Int32ul,
    "transaction_context" / Int32ul,
)
"""Words 2 and 3 of nearly every message."""

STATUS_PARTS: Final[tuple[Part, ...]] = (
    "detailed_status_code" / Int16ul,
    "reserved" / Int8ul,
    "req_status" / Int8ul,
)
"""Word 4 of an ordinary reply."""

TRL_CONTROL_WORD_PARTS: Final[tuple[Part, ...]] = (
    "trl_count" / Int8ul,
    "trl_element_size" / Int8ul,
    "reserved" / Int8ul,
    "trl_flags" / Int8ul,
)

FAILURE_PARTS: Final[tuple[Part, ...]] = (
    "lowest_version" / Int8ul,
    "highest_version" / Int8ul,
    "severity" / Int8ul,
    "failure_code" / Int8ul,
    word("w5", ("failing_iop_id", 12), ("reserved", 4), ("failing_host_unit_id", 16)),
    "age_limit" / Int32ul,
)
"""Words 4 to 6 of a FAIL reply and of UtilReplyFaultNotify."""

FAILURE_ENUMS: Final = {"severity": FailureSeverity, "failure_code": FailureCode}


def message(
    name: str,
    *body: Part,
    chapter: str,
    function: int | None = None,
    direction: Direction = "request",
    sgl: int = 0,
    contexts: tuple[Part, ...] = CONTEXT_PARTS,
    **metadata: Any,
) -> MessageLayout:
    """Declare a message: the header, then `body`.

    New records carry a right MessageSize, SGL offset, function, flags and the host as initiator.

    Args:
        name: the spec's name in snake case.
        body: what follows the contexts.
        chapter: the message class (`utility`, `executive`, `bsa`, …).
        function: the function code, None for replies that serve many functions.
        direction: `request` or `reply`.
        sgl: word at which the scatter/gather list starts, 0 for none.
        contexts: words 2 and 3, for the few messages that use them otherwise.
        metadata: see `Layout`.
    """
    struct = Struct(*HEADER_PARTS, *contexts, *body)
    defaults = {
        "version_offset": sgl << 4 | VERSION_1_5,
        "msg_flags": FINAL_REPLY if direction == "reply" else 0,
        "message_size": struct.sizeof() // 4,
        "initiator_address": SpecialTid.HOST.value,
        "function": function or 0,
        **metadata.pop("defaults", {}),
    }
    enums = {**metadata.pop("enums", {})}
    if direction == "reply" and any(part.name == "req_status" for part in body):
        enums.setdefault("req_status", ReqStatus)
        enums.setdefault("detailed_status_code", DetailedStatus)
    return MessageLayout(
        name,
        struct,
        chapter=chapter,
        function=function,
        direction=direction,
        sgl_word_offset=sgl,
        defaults=defaults,
        enums=enums,
        **metadata,
    )


MSG_HEADER: Final = structure(
    "msg_header", *HEADER_PARTS, *CONTEXT_PARTS, chapter="common", reference="I2O 1.5 §3.4.1"
)

SINGLE_TRANSACTION_REPLY: Final = message(
    "single_transaction_reply", *STATUS_PARTS, chapter="common", direction="reply"
)
MULTIPLE_TRANSACTION_REPLY: Final = message(
    "multiple_transaction_reply",
    *STATUS_PARTS,
    chapter="common",
    direction="reply",
    contexts=("initiator_context" / Int32ul, "trl_control_word" / Struct(*TRL_CONTROL_WORD_PARTS)),
    enums={"trl_control_word.trl_flags": TrlFlags},
)
TRANSACTION_ERROR_REPLY: Final = message(
    "transaction_error_reply",
    *STATUS_PARTS,
    "error_offset" / Int32ul,
    "bit_offset" / Int8ul,
    "reserved1" / Int8ul,
    "reserved2" / Int16ul,
    chapter="common",
    direction="reply",
    note="req_status is TRANSACTION_ERROR; error_offset is the byte of the bad field.",
)
FAILURE_REPLY: Final = message(
    "failure_reply",
    *FAILURE_PARTS,
    "preserved_mfa_low" / Int32ul,
    "preserved_mfa_high" / Int32ul,
    chapter="common",
    direction="reply",
    enums=FAILURE_ENUMS,
    defaults={"msg_flags": FAIL_REPLY},
    note="MsgFlags has FAIL. The transaction context is not valid: it is word 3 of the frame "
    "at the preserved MFA.",
)
TRL_CONTROL_WORD: Final = structure(
    "trl_control_word", *TRL_CONTROL_WORD_PARTS, chapter="common", enums={"trl_flags": TrlFlags}
)

MESSAGES: Final[tuple[MessageLayout, ...]] = (
    SINGLE_TRANSACTION_REPLY,
    MULTIPLE_TRANSACTION_REPLY,
    TRANSACTION_ERROR_REPLY,
    FAILURE_REPLY,
)
STRUCTURES: Final[tuple[Layout, ...]] = (MSG_HEADER, TRL_CONTROL_WORD)
