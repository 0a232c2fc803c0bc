# SPDX-License-Identifier: Apache-2.0
"""Packets of the USB redirection protocol, version 0.7: numbers and layouts.

Source: docs/usb-redirection-protocol.md of the usbredir project. Everything is little-endian.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Final

from construct import Bytes, Int8ul, Int16ul, Int32ul, Int64ul

from i2o.frames.layout import Layout, Part, structure

VERSION_SIZE: Final = 64
ENDPOINTS: Final = 32
"""Endpoints and interfaces that a packet tells of."""
NO_ENDPOINT: Final = 255
"""Kind of an endpoint that a device does not have."""


class PacketType(IntEnum):
    """Kinds of packets."""

    HELLO = 0
    DEVICE_CONNECT = 1
    DEVICE_DISCONNECT = 2
    RESET = 3
    INTERFACE_INFO = 4
    EP_INFO = 5
    SET_CONFIGURATION = 6
    GET_CONFIGURATION = 7
    CONFIGURATION_STATUS = 8
    SET_ALT_SETTING = 9
    GET_ALT_SETTING = 10
    ALT_SETTING_STATUS = 11
    START_INTERRUPT_RECEIVING = 15
    STOP_INTERRUPT_RECEIVING = 16
    INTERRUPT_RECEIVING_STATUS = 17
    CANCEL_DATA_PACKET = 21
    FILTER_REJECT = 22
    FILTER_FILTER = 23
    DEVICE_DISCONNECT_ACK = 24
    CONTROL_PACKET = 100
    BULK_PACKET = 101
    INTERRUPT_PACKET = 103


class Capability(IntEnum):
    """Numbers of bits of what an end can do."""

    CONNECT_DEVICE_VERSION = 1
    EP_INFO_MAX_PACKET_SIZE = 4
    IDS_64_BITS = 5
    BULK_LENGTH_32_BITS = 6


class PacketStatus(IntEnum):
    """How something ended."""

    SUCCESS = 0
    CANCELLED = 1
    INVALID = 2
    IO_ERROR = 3
    STALL = 4
    BABBLE = 7


HIGH_SPEED: Final = 2


def _layout(name: str, *parts: Part) -> Layout:
    return structure(name, *parts, chapter="usbredir", reference="usb-redirection-protocol")


HEADER_32: Final = _layout("header_32", "type" / Int32ul, "length" / Int32ul, "id" / Int32ul)
HEADER_64: Final = _layout("header_64", "type" / Int32ul, "length" / Int32ul, "id" / Int64ul)
HELLO: Final = _layout("hello", "version" / Bytes(VERSION_SIZE), "capabilities" / Int32ul)
DEVICE_CONNECT: Final = _layout(
    "device_connect",
    "speed" / Int8ul,
    "device_class" / Int8ul,
    "device_subclass" / Int8ul,
    "device_protocol" / Int8ul,
    "vendor_id" / Int16ul,
    "product_id" / Int16ul,
    "device_version" / Int16ul,
)
CONFIGURATION_STATUS: Final = _layout(
    "configuration_status", "status" / Int8ul, "configuration" / Int8ul
)
ALT_SETTING_STATUS: Final = _layout(
    "alt_setting_status", "status" / Int8ul, "interface" / Int8ul, "setting" / Int8ul
)
INTERRUPT_STATUS: Final = _layout("interrupt_status", "status" / Int8ul, "endpoint" / Int8ul)
CONTROL: Final = _layout(
    "control",
    "endpoint" / Int8ul,
    "request" / Int8ul,
    "request_type" / Int8ul,
    "status" / Int8ul,
    "value" / Int16ul,
    "index" / Int16ul,
    "length" / Int16ul,
)
BULK: Final = _layout(
    "bulk",
    "endpoint" / Int8ul,
    "status" / Int8ul,
    "length" / Int16ul,
    "stream_id" / Int32ul,
    "length_high" / Int16ul,
)
INTERRUPT: Final = _layout("interrupt", "endpoint" / Int8ul, "status" / Int8ul, "length" / Int16ul)
