# SPDX-License-Identifier: Apache-2.0
"""Runs in a guest: the kernel's vhci_hcd, a bus for devices that come over connections."""

from __future__ import annotations

import socket
import struct
from pathlib import Path

_FOLDER = Path("/sys/devices/platform/vhci_hcd.0")
_HIGH_SPEED = 3
_IMPORTED = 8 + 312


def attach(host: str, server_port: int, port: int = 0) -> socket.socket:
    """Do what `usbip attach` does: ask for the device, and give the connection to the kernel.

    Args:
        host: has the device.
        server_port: where its server is.
        port: of the bus, that is free.
    """
    end = socket.create_connection((host, server_port))
    end.sendall(struct.pack(">HHI32s", 0x0111, 0x8003, 0, b"1-1"))
    answer = b""
    while len(answer) < _IMPORTED:
        data = end.recv(_IMPORTED - len(answer))
        assert data, answer
        answer += data
    (status,) = struct.unpack_from(">I", answer, 4)
    assert status == 0, status
    bus, number = struct.unpack_from(">II", answer, 8 + 256 + 32)
    (_FOLDER / "attach").write_text(f"{port} {end.fileno()} {bus << 16 | number} {_HIGH_SPEED}")
    return end


def detach(port: int = 0) -> None:
    """Take the device at a port away."""
    (_FOLDER / "detach").write_text(str(port))
