# SPDX-License-Identifier: Apache-2.0
"""A client of USB/IP that says what a test wants it to say, whole or in pieces."""

from __future__ import annotations

import struct
from typing import Any, NamedTuple

from i2o.transport.usb_device.device import UsbDevice
from i2o.transport.usb_device.usbip.messages import OperationStatus
from i2o.transport.usb_device.usbip.session import Session

IMPORT = struct.pack(">HHI32s", 0x0111, 0x8003, 0, b"1-1")
LIST = struct.pack(">HHI", 0x0111, 0x8005, 0)
IMPORTED = 8 + 312


class Returned(NamedTuple):
    command: int
    sequence: int
    status: int
    actual: int
    data: bytes


class OneExport:
    """A server's device, which one session takes."""

    def __init__(self, device: UsbDevice) -> None:
        self.device, self.owner = device, None

    def all(self) -> list[tuple[str, UsbDevice]]:
        return [("1-1", self.device)]

    def take(self, bus_id: str, session: Any) -> UsbDevice | OperationStatus:
        if bus_id != "1-1":
            return OperationStatus.NO_DEVICE
        if self.owner is not None:
            return OperationStatus.BUSY
        self.owner = session
        return self.device

    def give_back(self, session: Any) -> None:
        self.owner = None


def submit(
    sequence: int,
    endpoint: int,
    *,
    length: int = 0,
    data: bytes | None = None,
    setup: bytes = bytes(8),
    flags: int = 0,
    packets: int = 0,
) -> bytes:
    """Return a SUBMIT; with data, to the device."""
    direction = 1 if data is None else 0
    size = length if data is None else len(data)
    head = struct.pack(">IIIII", 1, sequence, 0x10002, direction, endpoint)
    return head + struct.pack(">IiiiI8s", flags, size, 0, packets, 0, setup) + (data or b"")


def unlink(sequence: int, other: int) -> bytes:
    """Return an UNLINK."""
    return struct.pack(">IIIIII24x", 2, sequence, 0x10002, 0, 0, other)


def setup(kind: int, request: int, value: int = 0, index: int = 0, length: int = 0) -> bytes:
    """Return a setup packet."""
    return struct.pack("<BBHHH", kind, request, value, index, length)


def configure(sequence: int = 1) -> bytes:
    """Return a SUBMIT of SET_CONFIGURATION."""
    return submit(sequence, 0, data=b"", setup=setup(0, 9, 1))


def drain(session: Session) -> bytes:
    """Return all that waits to be sent."""
    out = b""
    while (data := session.next_output()) is not None:
        out += data
        session.sent(len(data))
    return out


def returned(data: bytes, *in_endpoints: int) -> list[Returned]:
    """Read what came back; `in_endpoints` are the numbers of transfers that return data."""
    found = []
    while data:
        command, sequence = struct.unpack_from(">II", data)
        status, actual = struct.unpack_from(">ii", data, 20)
        size = actual if command == 3 and sequence in in_endpoints else 0
        found.append(Returned(command, sequence, status, actual, data[48 : 48 + size]))
        data = data[48 + size :]
    return found
