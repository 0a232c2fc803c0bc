# SPDX-License-Identifier: Apache-2.0
"""Utility messages: what every device understands, whatever its class.

I2O 1.5 chapter 6 (utility class), as written in the SIG's i2outil.h 1.5.4.
"""

from __future__ import annotations

from enum import IntEnum, IntFlag
from typing import Final

from construct import Int8ul, Int16ul, Int32ul

from i2o.frames.functions import Function
from i2o.frames.header import FAILURE_ENUMS, FAILURE_PARTS, message
from i2o.frames.layout import MessageLayout, Part


class ClaimFlags(IntFlag):
    """ClaimFlags of UtilClaim."""

    EXCLUSIVE = 0x01
    RESET_SENSITIVE = 0x02
    STATE_SENSITIVE = 0x04
    CAPACITY_SENSITIVE = 0x08
    PEER_SERVICE_DISABLED = 0x10
    MGMT_SERVICE_DISABLED = 0x20


class ClaimType(IntEnum):
    """ClaimType of UtilClaim and UtilClaimRelease."""

    PRIMARY_USER = 0x01
    AUTHORIZED_USER = 0x02
    SECONDARY_USER = 0x03
    MANAGEMENT_USER = 0x04


class ReleaseFlags(IntFlag):
    """ReleaseFlags of UtilClaimRelease."""

    CONDITIONAL = 0x01


class AbortType(IntEnum):
    """AbortType of UtilAbort."""

    EXACT_ABORT = 0x00
    FUNCTION_ABORT = 0x01
    TRANSACTION_ABORT = 0x02
    WILD_ABORT = 0x03
    CLEAN_EXACT_ABORT = 0x04
    CLEAN_FUNCTION_ABORT = 0x05
    CLEAN_TRANSACTION_ABORT = 0x06
    CLEAN_WILD_ABORT = 0x07


class GenericEvent(IntFlag):
    """Event indicator bits that every class shares."""

    STATE_CHANGE = 0x80000000
    GENERAL_WARNING = 0x40000000
    CONFIGURATION_FLAG = 0x20000000
    LOCK_RELEASE = 0x10000000
    CAPABILITY_CHANGE = 0x08000000
    DEVICE_RESET = 0x04000000
    EVENT_MASK_MODIFIED = 0x02000000
    FIELD_MODIFIED = 0x01000000
    VENDOR_EVENT = 0x00800000
    DEVICE_STATE = 0x00400000


class HotPlugEvent(IntFlag):
    """Event indicator bits of a hot plug controller (v2.0); their meaning is not known."""

    BIT0 = 0x01
    BIT1 = 0x02
    BIT2 = 0x04
    BIT3 = 0x08


class StateChange(IntEnum):
    """EventData of GenericEvent.STATE_CHANGE."""

    NORMAL = 0x00
    SUSPENDED = 0x01
    RESTART = 0x02
    NA_RECOVER = 0x03
    NA_NO_RECOVER = 0x04
    QUIESCE_REQUEST = 0x05
    FAILED = 0x10
    FAULTED = 0x11


class GeneralWarning(IntEnum):
    """EventData of GenericEvent.GENERAL_WARNING."""

    NORMAL = 0x00
    ERROR_THRESHOLD = 0x01
    MEDIA_FAULT = 0x02


class CapabilityChange(IntEnum):
    """EventData of GenericEvent.CAPABILITY_CHANGE."""

    OTHER = 0x01
    CHANGED = 0x02


class SensorEvent(IntEnum):
    """EventData of GenericEvent.DEVICE_STATE: what changed about the device."""

    STATE_CHANGED = 0x01


EVENT_PARTS: Final[tuple[Part, ...]] = (
    "event_indicator" / Int32ul,
    "event_data" / Int32ul,
)
"""What an event reply tells and its acknowledgement repeats; more data words may follow."""

EVENT_ENUMS: Final = {"event_indicator": GenericEvent}

UTIL_NOP: Final = message(
    "util_nop",
    chapter="utility",
    function=Function.UTIL_NOP,
    contexts=("initiator_context" / Int32ul,),
    note="Never answered: it only gives the frame back. Drivers send 3 or 4 words.",
)
UTIL_ABORT: Final = message(
    "util_abort",
    "reserved" / Int16ul,
    "abort_type" / Int8ul,
    "function_to_abort" / Int8ul,
    "transaction_context_to_abort" / Int32ul,
    chapter="utility",
    function=Function.UTIL_ABORT,
    enums={"abort_type": AbortType, "function_to_abort": Function},
)
UTIL_ABORT_REPLY: Final = message(
    "util_abort",
    "count_of_aborted_messages" / Int32ul,
    chapter="utility",
    function=Function.UTIL_ABORT,
    direction="reply",
    note="The count stands where other replies have their status: a small one reads as success.",
)
UTIL_PARAMS_SET: Final = message(
    "util_params_set",
    "operation_flags" / Int32ul,
    chapter="utility",
    function=Function.UTIL_PARAMS_SET,
    sgl=5,
    note="Buffer 1 holds the operation list (out), buffer 2 takes the result list (in). "
    "NetBSD sends the first alone.",
)
UTIL_PARAMS_GET: Final = message(
    "util_params_get",
    "operation_flags" / Int32ul,
    chapter="utility",
    function=Function.UTIL_PARAMS_GET,
    sgl=5,
    note="Buffer 1 holds the operation list (out), buffer 2 takes the result list (in).",
)
UTIL_CLAIM: Final = message(
    "util_claim",
    "claim_flags" / Int16ul,
    "reserved" / Int8ul,
    "claim_type" / Int8ul,
    chapter="utility",
    function=Function.UTIL_CLAIM,
    enums={"claim_flags": ClaimFlags, "claim_type": ClaimType},
    note="Linux numbers the claim types 2 to 4 in another order, and sends only 1.",
)
UTIL_CLAIM_RELEASE: Final = message(
    "util_claim_release",
    "release_flags" / Int16ul,
    "reserved" / Int8ul,
    "claim_type" / Int8ul,
    chapter="utility",
    function=Function.UTIL_CLAIM_RELEASE,
    enums={"release_flags": ReleaseFlags, "claim_type": ClaimType},
)
UTIL_DEVICE_RESERVE: Final = message(
    "util_device_reserve", chapter="utility", function=Function.UTIL_DEVICE_RESERVE
)
UTIL_DEVICE_RELEASE: Final = message(
    "util_device_release", chapter="utility", function=Function.UTIL_DEVICE_RELEASE
)
UTIL_CONFIG_DIALOG: Final = message(
    "util_config_dialog",
    "page_number" / Int32ul,
    chapter="utility",
    function=Function.UTIL_CONFIG_DIALOG,
    sgl=5,
    note="As Linux uses it: buffer 1 takes the page as HTML, an optional buffer 2 holds the query.",
)
UTIL_EVENT_REGISTER: Final = message(
    "util_event_register",
    "event_mask" / Int32ul,
    chapter="utility",
    function=Function.UTIL_EVENT_REGISTER,
    enums={"event_mask": GenericEvent},
    note="Not answered at once: every later event is a reply to it.",
)
UTIL_EVENT_REGISTER_REPLY: Final = message(
    "util_event_register",
    *EVENT_PARTS,
    chapter="utility",
    function=Function.UTIL_EVENT_REGISTER,
    direction="reply",
    enums=EVENT_ENUMS,
    note="Has no status word: the event indicator is word 4, its data start at word 5.",
)
UTIL_EVENT_ACK: Final = message(
    "util_event_ack",
    *EVENT_PARTS,
    chapter="utility",
    function=Function.UTIL_EVENT_ACK,
    enums=EVENT_ENUMS,
)
UTIL_EVENT_ACK_REPLY: Final = message(
    "util_event_ack",
    *EVENT_PARTS,
    chapter="utility",
    function=Function.UTIL_EVENT_ACK,
    direction="reply",
    enums=EVENT_ENUMS,
)
UTIL_REPLY_FAULT_NOTIFY: Final = message(
    "util_reply_fault_notify",
    *FAILURE_PARTS,
    "original_mfa_low_part" / Int32ul,
    "original_mfa_high_part" / Int32ul,
    chapter="utility",
    function=Function.UTIL_REPLY_FAULT_NOTIFY,
    enums=FAILURE_ENUMS,
    note="The host tells the IOP that a reply could not be delivered.",
)
UTIL_LOCK: Final = message("util_lock", chapter="utility", function=Function.UTIL_LOCK)
UTIL_LOCK_RELEASE: Final = message(
    "util_lock_release", chapter="utility", function=Function.UTIL_LOCK_RELEASE
)

MESSAGES: Final[tuple[MessageLayout, ...]] = (
    UTIL_NOP,
    UTIL_ABORT,
    UTIL_ABORT_REPLY,
    UTIL_PARAMS_SET,
    UTIL_PARAMS_GET,
    UTIL_CLAIM,
    UTIL_CLAIM_RELEASE,
    UTIL_DEVICE_RESERVE,
    UTIL_DEVICE_RELEASE,
    UTIL_CONFIG_DIALOG,
    UTIL_EVENT_REGISTER,
    UTIL_EVENT_REGISTER_REPLY,
    UTIL_EVENT_ACK,
    UTIL_EVENT_ACK_REPLY,
    UTIL_REPLY_FAULT_NOTIFY,
    UTIL_LOCK,
    UTIL_LOCK_RELEASE,
)
