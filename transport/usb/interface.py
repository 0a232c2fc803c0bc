# SPDX-License-Identifier: Apache-2.0
"""The interface between the two ends of a cable: numbers and layouts, for host and device alike.

One frame is one bulk transfer. docs/usb.md describes the interface; everything is little-endian.
"""

from __future__ import annotations

from enum import IntEnum, IntFlag
from typing import Final

from construct import Int8ul, Int16ul, Int32ul

from i2o.frames.layout import Layout, Part, structure
from i2o.transport.usb_device.descriptors import (
    DeviceSpec,
    EndpointKind,
    EndpointSpec,
    InterfaceSpec,
)

VENDOR_ID: Final = 0x1209
"""pid.codes, an organisation that gives numbers to open projects."""
PRODUCT_ID: Final = 0x0001
"""Its number for tests. A device that is sold needs one of its own; hosts are told which."""
INTERFACE_CLASS: Final = 0xFF
INTERFACE_SUBCLASS: Final = 0x49
INTERFACE_PROTOCOL: Final = 0x01
INTERFACE_NUMBER: Final = 0
OUT_ENDPOINT: Final = 0x01
IN_ENDPOINT: Final = 0x81
DOORBELL_ENDPOINT: Final = 0x82
BULK_PACKET: Final = 512
"""Bytes of a bulk packet at high speed."""
DOORBELL_PACKET: Final = 16
DOORBELL_INTERVAL: Final = 4
"""Every 2^(4 - 1) microframes: each millisecond."""

MAGIC: Final = 0x4F32_4955
"""Reads UI2O in memory."""
VERSION: Final = 1
NO_LINK: Final = 0
MIN_FRAME_LIMIT: Final = 128
FRAME_LIMIT: Final = 64 << 10
"""Bytes of the largest frame that both ends here take."""


class Request(IntEnum):
    """Control requests: of kind vendor, for the interface."""

    GET_LINK_INFO = 1
    """To the host: `LINK_INFO`."""
    BEGIN_LINK = 2
    """To the device: `BEGIN_LINK`."""
    END_LINK = 3
    """To the device, no data."""


REQUEST_IN: Final = 0xC1
"""bmRequestType: to the host, vendor, interface."""
REQUEST_OUT: Final = 0x41
"""bmRequestType: to the device, vendor, interface."""


class DoorbellFlags(IntFlag):
    """What a device rings for."""

    FRAMES = 1
    """Frames wait for the host, which was not reading."""
    ROOM = 2
    """The device takes frames again."""
    RESET = 4
    """The link is over."""


def _layout(name: str, *parts: Part) -> Layout:
    return structure(name, *parts, chapter="usb_link", reference="docs/usb.md")


HEADER: Final = _layout("frame_header", "link" / Int32ul, "length" / Int32ul)
"""In front of every frame: the number of the link, and the bytes behind the header."""
LINK_INFO: Final = _layout(
    "link_info",
    "magic" / Int32ul,
    "version" / Int16ul,
    "reserved" / Int16ul,
    "frame_limit" / Int32ul,
    "incarnation" / Int32ul,
    "link" / Int32ul,
)
BEGIN_LINK: Final = _layout(
    "begin_link",
    "magic" / Int32ul,
    "version" / Int16ul,
    "reserved" / Int16ul,
    "frame_limit" / Int32ul,
    "link" / Int32ul,
)
DOORBELL: Final = _layout(
    "doorbell",
    "flags" / Int8ul,
    "reserved" / Int8ul,
    "reserved2" / Int16ul,
    "link" / Int32ul,
    "frames" / Int32ul,
)
"""`frames` counts what the device has sent on the link so far, modulo 2^32."""
TRANSFER_LIMIT: Final = HEADER.size + FRAME_LIMIT


def device_spec(
    serial_number: str, *, vendor_id: int = VENDOR_ID, product_id: int = PRODUCT_ID
) -> DeviceSpec:
    """Return what a device with this interface and no other tells of itself.

    Args:
        serial_number: tells it from others.
        vendor_id: who made it.
        product_id: what it is.
    """
    interface = InterfaceSpec(
        INTERFACE_CLASS,
        INTERFACE_SUBCLASS,
        INTERFACE_PROTOCOL,
        (
            EndpointSpec(OUT_ENDPOINT, EndpointKind.BULK, BULK_PACKET),
            EndpointSpec(IN_ENDPOINT, EndpointKind.BULK, BULK_PACKET),
            EndpointSpec(
                DOORBELL_ENDPOINT, EndpointKind.INTERRUPT, DOORBELL_PACKET, DOORBELL_INTERVAL
            ),
        ),
        "I2O link",
    )
    return DeviceSpec(
        vendor_id, product_id, 0x0100, "i2o", "I2O processor", serial_number, (interface,)
    )
