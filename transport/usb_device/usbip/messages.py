# SPDX-License-Identifier: Apache-2.0
"""Messages of USB/IP, version 1.1.1: numbers and formats.

Everything is big-endian, for which layouts of frames have no types; hence formats of `struct`.
Source: Documentation/usb/usbip_protocol.rst of Linux.
"""

from __future__ import annotations

import struct
from enum import IntEnum, IntFlag
from typing import Final

from i2o.transport.usb_device.descriptors import CONFIGURATION_VALUE, DeviceSpec

VERSION: Final = 0x0111
BUS_ID_SIZE: Final = 32
OPERATION: Final = struct.Struct(">HHI")
"""Version, code, status: in front of everything until a device is imported."""
_DEVICE: Final = struct.Struct(">256s32sIIIHHHBBBBBB")
HEADER: Final = struct.Struct(">IIIII")
"""Command, sequence number, device, direction, endpoint."""
SUBMIT: Final = struct.Struct(">IiiiI8s")
"""Flags, length, start frame, packets, interval, setup packet; behind `HEADER`."""
RET_SUBMIT: Final = struct.Struct(">iiiii8x")
"""Status, actual length, start frame, packets, errors; behind `HEADER`."""
UNLINK: Final = struct.Struct(">I24x")
"""Sequence number of what is to be unlinked; behind `HEADER`."""
RET_UNLINK: Final = struct.Struct(">i24x")
"""Status; behind `HEADER`."""
COMMAND_SIZE: Final = HEADER.size + SUBMIT.size
"""Bytes of every command and every return, without data."""
NO_PACKETS: Final = (0, -1)
"""Numbers of isochronous packets of a transfer that is none."""


class Operation(IntEnum):
    """Codes before a device is imported."""

    REQ_IMPORT = 0x8003
    REP_IMPORT = 0x0003
    REQ_DEVLIST = 0x8005
    REP_DEVLIST = 0x0005


class OperationStatus(IntEnum):
    """How an operation ended, as Linux' tools number it."""

    OK = 0
    BUSY = 2
    NO_DEVICE = 4


class Command(IntEnum):
    """Commands and returns once a device is imported."""

    SUBMIT = 1
    UNLINK = 2
    RET_SUBMIT = 3
    RET_UNLINK = 4


class Direction(IntEnum):
    """Where data go."""

    OUT = 0
    IN = 1


class TransferFlags(IntFlag):
    """Flags of a transfer of Linux that mean something to a device."""

    ZERO_PACKET = 0x40


def device_record(spec: DeviceSpec, bus_id: str, number: int) -> bytes:
    """Return what a client is told of a device.

    Args:
        spec: the device.
        bus_id: what it is imported by.
        number: its number on the one bus that there is.
    """
    return _DEVICE.pack(
        f"/sys/devices/i2o/usb1/{bus_id}".encode(),
        bus_id.encode(),
        1,
        number,
        spec.speed,
        spec.vendor_id,
        spec.product_id,
        spec.version,
        0,
        0,
        0,
        CONFIGURATION_VALUE,
        1,
        len(spec.interfaces),
    )


def interface_records(spec: DeviceSpec) -> bytes:
    """Return what a list tells of the interfaces of a device."""
    return b"".join(
        bytes((each.class_code, each.subclass, each.protocol, 0)) for each in spec.interfaces
    )
