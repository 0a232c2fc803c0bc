# SPDX-License-Identifier: Apache-2.0
"""LAN ports (class 0x020): messages, packet descriptors and status codes.

As written in the SIG's i2olan.h 1.5.3. Replies are lists: word 3 is a transaction reply list
control word, and the contexts of finished packets or buckets follow the status.
"""

from __future__ import annotations

from enum import IntEnum, IntFlag
from typing import Final

from construct import Bytes, Int8ul, Int16ul, Int32ul

from i2o.frames.functions import Function
from i2o.frames.header import FINAL_REPLY, STATUS_PARTS, MsgFlags, TrlFlags, message
from i2o.frames.layout import Layout, MessageLayout, Part, structure, word


class LanDetailedStatus(IntEnum):
    """DetailedStatusCode of LAN replies."""

    SUCCESS = 0x00
    DEVICE_FAILURE = 0x01
    DESTINATION_NOT_FOUND = 0x02
    TRANSMIT_ERROR = 0x03
    TRANSMIT_ABORTED = 0x04
    RECEIVE_ERROR = 0x05
    RECEIVE_ABORTED = 0x06
    DMA_ERROR = 0x07
    BAD_PACKET_DETECTED = 0x08
    OUT_OF_MEMORY = 0x09
    BUCKET_OVERRUN = 0x0A
    IOP_INTERNAL_ERROR = 0x0B
    CANCELED = 0x0C
    INVALID_TRANSACTION_CONTEXT = 0x0D
    DEST_ADDRESS_DETECTED = 0x0E
    DEST_ADDRESS_OMITTED = 0x0F
    PARTIAL_PACKET_RETURNED = 0x10
    TEMP_SUSPENDED_STATE = 0x11


class LanTransmitControl(IntFlag):
    """Transmit control word of LanPacketSend and LanSduSend."""

    PRIORITY_MASK = 0x00000007
    SUPPRESS_CRC = 0x00000008
    SUPPRESS_LOOPBACK = 0x00000010
    NETWORK_CHECKSUM = 0x00000020
    TRANSPORT_CHECKSUM = 0x00000040
    REPLY_BATCH = 0x00000000
    REPLY_IMMEDIATELY = 0x40000000
    REPLY_UNSUCCESSFUL = 0x80000000
    REPLY_NONE = 0xC0000000


class LanPacketFlags(IntFlag):
    """PacketFlags of a received packet."""

    PACKET_ERROR = 0x01
    SKIP_SPACE = 0x02
    PACKET_CONTINUED = 0x04
    PACKET_NEXT_BUCKET = 0x08
    NET_CHECKSUM_OK = 0x10
    TRANSPORT_CHECKSUM_OK = 0x20
    LAST_PACKET = 0x40
    LAST_BUCKET = 0xC0


class LanResourceFlags(IntFlag):
    """ResourceFlags of LanReset and LanSuspend."""

    RETURN_POSTED_BUCKETS = 0x01
    RETURN_PENDING_TRANSMITS = 0x02


class LanPacketStatus(IntEnum):
    """PacketStatus of a received packet."""

    SUCCESS = 0x00
    CRC_ERROR = 0x01
    ALIGNMENT_ERROR = 0x02
    TOO_LONG = 0x03
    TOO_SHORT = 0x04
    OVERRUN = 0x05
    NETWORK_CHECKSUM_FAILED = 0x40
    TRANSPORT_CHECKSUM_FAILED = 0x80
    BOTH_CHECKSUMS_FAILED = 0xC0
    OTHER = 0xFF


class LanEvent(IntFlag):
    """Event indicator bits of the class."""

    LINK_DOWN = 0x01
    LINK_UP = 0x02
    MEDIA_CHANGE = 0x04


TRANSMIT_CONTEXTS: Final[tuple[Part, ...]] = (
    "initiator_context" / Int32ul,
    "transmit_control_word" / Int32ul,
)
"""Words 2 and 3 of a send: the packets' contexts ride in the SGL elements."""

TRL_REPLY_CONTEXTS: Final[tuple[Part, ...]] = (
    "initiator_context" / Int32ul,
    "trl_count" / Int8ul,
    "trl_element_size" / Int8ul,
    "reserved0" / Int8ul,
    "trl_flags" / Int8ul,
)
"""Words 2 and 3 of a LAN reply: one reply finishes several packets or buckets."""

LAN_REPLY_ENUMS: Final = {"trl_flags": TrlFlags, "detailed_status_code": LanDetailedStatus}
MULTIPLE_REPLY: Final = {"msg_flags": FINAL_REPLY | MsgFlags.MULTIPLE.value, "trl_element_size": 1}

LAN_PACKET_SEND: Final = message(
    "lan_packet_send",
    chapter="lan",
    function=Function.LAN_PACKET_SEND,
    contexts=TRANSMIT_CONTEXTS,
    sgl=4,
    enums={"transmit_control_word": LanTransmitControl},
    note="One SGL buffer per packet; its context word is the packet's transaction context.",
)
LAN_PACKET_SEND_REPLY: Final = message(
    "lan_packet_send",
    *STATUS_PARTS,
    "transaction_context_0" / Int32ul,
    chapter="lan",
    function=Function.LAN_PACKET_SEND,
    direction="reply",
    contexts=TRL_REPLY_CONTEXTS,
    enums=LAN_REPLY_ENUMS,
    defaults=MULTIPLE_REPLY,
    note="One context per finished packet.",
)
LAN_SDU_SEND: Final = message(
    "lan_sdu_send",
    chapter="lan",
    function=Function.LAN_SDU_SEND,
    contexts=TRANSMIT_CONTEXTS,
    sgl=4,
    enums={"transmit_control_word": LanTransmitControl},
    note="As Linux 2.4 sends it, two more context words carry the destination address.",
)
LAN_SDU_SEND_REPLY: Final = message(
    "lan_sdu_send",
    *STATUS_PARTS,
    "transaction_context_0" / Int32ul,
    chapter="lan",
    function=Function.LAN_SDU_SEND,
    direction="reply",
    contexts=TRL_REPLY_CONTEXTS,
    enums=LAN_REPLY_ENUMS,
    defaults=MULTIPLE_REPLY,
    note="One context per finished packet.",
)
LAN_RECEIVE_POST: Final = message(
    "lan_receive_post",
    chapter="lan",
    function=Function.LAN_RECEIVE_POST,
    contexts=("initiator_context" / Int32ul, "bucket_count" / Int32ul),
    sgl=4,
    note="Every bucket is a simple element with one context word.",
)
LAN_RECEIVE_POST_REPLY: Final = message(
    "lan_receive_post",
    *STATUS_PARTS,
    "buckets_remaining" / Int32ul,
    chapter="lan",
    function=Function.LAN_RECEIVE_POST,
    direction="reply",
    contexts=TRL_REPLY_CONTEXTS,
    enums=LAN_REPLY_ENUMS,
    defaults={**MULTIPLE_REPLY, "trl_flags": TrlFlags.SINGLE_VARIABLE_LENGTH.value},
    note="Packet descriptors follow or, when buckets come back unused, their bare contexts.",
)
LAN_RESET: Final = message(
    "lan_reset",
    "reserved" / Int16ul,
    "resource_flags" / Int16ul,
    chapter="lan",
    function=Function.LAN_RESET,
    enums={"resource_flags": LanResourceFlags},
)
LAN_SUSPEND: Final = message(
    "lan_suspend",
    "reserved" / Int16ul,
    "resource_flags" / Int16ul,
    chapter="lan",
    function=Function.LAN_SUSPEND,
    enums={"resource_flags": LanResourceFlags},
)

LAN_PACKET_INFO: Final = structure(
    "lan_packet_info",
    word("offset_word", ("packet_offset", 24), ("packet_flags", 8)),
    word("length_word", ("packet_length", 24), ("packet_status", 8)),
    chapter="lan",
    enums={"packet_flags": LanPacketFlags, "packet_status": LanPacketStatus},
)
LAN_BUCKET_DESCRIPTOR: Final = structure(
    "lan_bucket_descriptor",
    "bucket_context" / Int32ul,
    "packet_info_0" / Bytes(8),
    chapter="lan",
    note="packet_info repeats until one has LAST_PACKET.",
)

MESSAGES: Final[tuple[MessageLayout, ...]] = (
    LAN_PACKET_SEND,
    LAN_PACKET_SEND_REPLY,
    LAN_SDU_SEND,
    LAN_SDU_SEND_REPLY,
    LAN_RECEIVE_POST,
    LAN_RECEIVE_POST_REPLY,
    LAN_RESET,
    LAN_SUSPEND,
)
STRUCTURES: Final[tuple[Layout, ...]] = (LAN_PACKET_INFO, LAN_BUCKET_DESCRIPTOR)
