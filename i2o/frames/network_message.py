# SPDX-License-Identifier: Apache-2.0
"""Network messages of an IOP: private messages of this project's own, and their replies.

They are LAM's network messages (nsend and its family) for the processes of one IOP's hosts. No
other IOP has them. Organization 0x6932 is not registered anywhere: it stands for this project.
"""

from __future__ import annotations

from enum import IntEnum, IntFlag
from typing import Final

from construct import Bytes, Int16ul, Int32sl, Int32ul, Padding

from i2o.frames.functions import Function
from i2o.frames.header import STATUS_PARTS, message
from i2o.frames.layout import Layout, MessageLayout, Part, structure

ORGANIZATION: Final = 0x6932
"""OrganizationID of these messages."""


class NetworkMessageFunction(IntEnum):
    """XFunctionCode of organization 0x6932."""

    SEND = 0x0001
    RECEIVE = 0x0002
    PROBE = 0x0003
    SWEEP = 0x0004
    LIST = 0x0005
    LOOK = 0x0006


class NetworkMessageOptions(IntFlag):
    """Options of requests and replies.

    TRY: do not wait. TRANSFER: of tsend and trecv. BIG_ENDIAN: the sender's byte order.
    ANY_SOURCE, EVERY_EVENT: the field source or event does not count.
    """

    TRY = 0x0001
    TRANSFER = 0x0002
    BIG_ENDIAN = 0x0004
    ANY_SOURCE = 0x0008
    EVERY_EVENT = 0x0010


class NetworkMessageStatus(IntEnum):
    """DetailedStatusCode of replies to network messages, with ERROR_NO_DATA_TRANSFER."""

    WOULD_BLOCK = 0x8001
    BAD_NODE = 0x8002
    TOO_LONG = 0x8003
    SWEPT = 0x8004
    NO_SUCH_MESSAGE = 0x8005


_PRIVATE_PARTS: Final[tuple[Part, ...]] = (
    "x_function_code" / Int16ul,
    "organization_id" / Int16ul,
)
_ENUMS: Final = {"x_function_code": NetworkMessageFunction, "options": NetworkMessageOptions}
_POUCH: Final[Part] = "pouch" / Bytes(32)
POUCH_SIZE: Final = 32
"""Bytes of a pouch; a SEND's buffer begins with it."""


def _request(
    name: str, function: NetworkMessageFunction, *parts: Part, sgl: int = 0, note: str = ""
) -> MessageLayout:
    """Declare a request."""
    return message(
        name,
        *_PRIVATE_PARTS,
        *parts,
        chapter="private",
        function=Function.PRIVATE_MESSAGE,
        sgl=sgl,
        enums=_ENUMS,
        defaults={"organization_id": ORGANIZATION, "x_function_code": function.value},
        note=note,
    )


def _reply(name: str, *parts: Part) -> MessageLayout:
    """Declare the reply to a request that was done."""
    return message(
        name,
        *STATUS_PARTS,
        *parts,
        chapter="private",
        direction="reply",
        enums={"options": NetworkMessageOptions},
    )


NETWORK_MESSAGE_SEND: Final = _request(
    "network_message_send",
    NetworkMessageFunction.SEND,
    "options" / Int16ul,
    Padding(2),
    "node" / Int32sl,
    "event" / Int32sl,
    "type" / Int32sl,
    "message_flags" / Int32ul,
    "length" / Int32ul,
    sgl=11,
    note="The buffer begins with the pouch of 32 bytes; length bytes of the body follow.",
)
NETWORK_MESSAGE_RECEIVE: Final = _request(
    "network_message_receive",
    NetworkMessageFunction.RECEIVE,
    "options" / Int16ul,
    Padding(2),
    "source" / Int32sl,
    "event" / Int32sl,
    "type" / Int32sl,
    "priority" / Int32sl,
    "length" / Int32ul,
    sgl=11,
    note="length is how much room there is. UtilAbort ends one that waits.",
)
NETWORK_MESSAGE_PROBE: Final = _request(
    "network_message_probe",
    NetworkMessageFunction.PROBE,
    "options" / Int16ul,
    Padding(2),
    "source" / Int32sl,
    "event" / Int32sl,
    "type" / Int32sl,
)
NETWORK_MESSAGE_SWEEP: Final = _request(
    "network_message_sweep",
    NetworkMessageFunction.SWEEP,
    "options" / Int16ul,
    Padding(2),
    "event" / Int32sl,
)
NETWORK_MESSAGE_LIST: Final = _request(
    "network_message_list",
    NetworkMessageFunction.LIST,
    "length" / Int32ul,
    sgl=6,
    note="The buffer gets as many network_message_waiting as length bytes have room for.",
)
NETWORK_MESSAGE_LOOK: Final = _request(
    "network_message_look",
    NetworkMessageFunction.LOOK,
    "number" / Int32ul,
    "length" / Int32ul,
    sgl=7,
    note="Answered like network_message_receive; the message stays.",
)

NETWORK_MESSAGE_SENT: Final = _reply("network_message_sent", "dl_event" / Int32sl)
NETWORK_MESSAGE_RECEIVED: Final = _reply(
    "network_message_received",
    "options" / Int16ul,
    Padding(2),
    "source" / Int32sl,
    "event" / Int32sl,
    "type" / Int32sl,
    "message_flags" / Int32ul,
    "length" / Int32ul,
    "number" / Int32ul,
    _POUCH,
)
NETWORK_MESSAGE_COUNT: Final = _reply("network_message_count", "count" / Int32ul)

NETWORK_MESSAGE_WAITING: Final[Layout] = structure(
    "network_message_waiting",
    "number" / Int32ul,
    "source" / Int32sl,
    "event" / Int32sl,
    "type" / Int32sl,
    "length" / Int32ul,
    "message_flags" / Int32ul,
    "options" / Int16ul,
    "is_announced" / Int16ul,
    _POUCH,
    chapter="private",
    enums={"options": NetworkMessageOptions},
    note="One message that waits for a receiver.",
)

REQUESTS: Final[dict[NetworkMessageFunction, MessageLayout]] = {
    NetworkMessageFunction.SEND: NETWORK_MESSAGE_SEND,
    NetworkMessageFunction.RECEIVE: NETWORK_MESSAGE_RECEIVE,
    NetworkMessageFunction.PROBE: NETWORK_MESSAGE_PROBE,
    NetworkMessageFunction.SWEEP: NETWORK_MESSAGE_SWEEP,
    NetworkMessageFunction.LIST: NETWORK_MESSAGE_LIST,
    NetworkMessageFunction.LOOK: NETWORK_MESSAGE_LOOK,
}
"""What each XFunctionCode of organization 0x6932 looks like."""

REPLIES: Final[dict[str, MessageLayout]] = {
    NETWORK_MESSAGE_SEND.name: NETWORK_MESSAGE_SENT,
    NETWORK_MESSAGE_RECEIVE.name: NETWORK_MESSAGE_RECEIVED,
    NETWORK_MESSAGE_PROBE.name: NETWORK_MESSAGE_RECEIVED,
    NETWORK_MESSAGE_SWEEP.name: NETWORK_MESSAGE_COUNT,
    NETWORK_MESSAGE_LIST.name: NETWORK_MESSAGE_COUNT,
    NETWORK_MESSAGE_LOOK.name: NETWORK_MESSAGE_RECEIVED,
}
"""The reply to a request that was done, by the request's name."""

MESSAGES: Final[tuple[MessageLayout, ...]] = (
    *REQUESTS.values(),
    NETWORK_MESSAGE_SENT,
    NETWORK_MESSAGE_RECEIVED,
    NETWORK_MESSAGE_COUNT,
)
STRUCTURES: Final[tuple[Layout, ...]] = (NETWORK_MESSAGE_WAITING,)
