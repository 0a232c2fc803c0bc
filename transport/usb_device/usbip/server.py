# SPDX-License-Identifier: Apache-2.0
"""Serves devices over USB/IP, for `usbip attach` and the kernel's vhci_hcd.

The protocol has no secrets: whoever reaches the port has the devices.
"""

from __future__ import annotations

import socket
from collections.abc import Sequence
from typing import Final

from i2o.closing import Closing
from i2o.errors import TransportUnavailable
from i2o.transport.usb_device.device import UsbDevice
from i2o.transport.usb_device.session_server import MAX_CLIENTS, SessionServer
from i2o.transport.usb_device.usbip.messages import OperationStatus
from i2o.transport.usb_device.usbip.session import Session

PORT: Final = 3240
"""Where servers of USB/IP are expected."""


class UsbIpServer(SessionServer):
    """Devices at one address.

    Args:
        address: host and port; port 0 lets the system choose.
        devices: the devices, numbered 1-1, 1-2 and so on.

    Raises:
        TransportUnavailable: the address cannot be had.

    Attributes:
        address: host and port.
    """

    def __init__(self, address: tuple[str, int], devices: Sequence[UsbDevice]) -> None:
        self._devices = {f"1-{number}": device for number, device in enumerate(devices, 1)}
        self._owners: dict[str, Session] = {}
        listener = _TcpListener(address)
        self.address: tuple[str, int] = listener.socket.getsockname()[:2]
        super().__init__(listener, lambda wake: Session(self, wake))

    # --- for sessions ----------------------------------------------------------------------------

    def all(self) -> list[tuple[str, UsbDevice]]:
        """Return every device and its bus id."""
        return list(self._devices.items())

    def take(self, bus_id: str, session: Session) -> UsbDevice | OperationStatus:
        """Give a device to one client alone, or say why not."""
        device = self._devices.get(bus_id)
        if device is None:
            return OperationStatus.NO_DEVICE
        if bus_id in self._owners:
            return OperationStatus.BUSY
        self._owners[bus_id] = session
        return device

    def give_back(self, session: Session) -> None:
        """Let others have what a client had."""
        for bus_id, owner in tuple(self._owners.items()):
            if owner is session:
                del self._owners[bus_id]


class _TcpListener(Closing):
    def __init__(self, address: tuple[str, int]) -> None:
        family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        try:
            self.socket = socket.create_server(address, family=family, backlog=MAX_CLIENTS)
        except OSError as error:
            raise TransportUnavailable(
                "usbip",
                f"cannot listen at {address[0]}:{address[1]}: {error.strerror}",
                remedy="choose another port, or 0 for any",
            ) from None
        self.socket.setblocking(False)

    def close(self) -> None:
        self.socket.close()
