# SPDX-License-Identifier: Apache-2.0
"""Serves devices over USB/IP, for `usbip attach` and the kernel's vhci_hcd.

The protocol has no secrets: whoever reaches the port has the devices.
"""

from __future__ import annotations

import contextlib
import logging
import select
import socket
from collections.abc import Sequence
from typing import Final

from i2o.closing import Closing
from i2o.errors import RemoteFrameError, TransportUnavailable
from i2o.transport.doorbell import Doorbell
from i2o.transport.usb_device.device import UsbDevice
from i2o.transport.usb_device.usbip.messages import OperationStatus
from i2o.transport.usb_device.usbip.session import Session

logger = logging.getLogger(__name__)

PORT: Final = 3240
"""Where servers of USB/IP are expected."""
MAX_CLIENTS: Final = 16
"""Connections at once; one more ends the oldest that has imported nothing, or is not taken."""
_CHUNK: Final = 256 << 10
_ROUND: Final = 16  # chunks of one client before others have their turn


class _Client:
    __slots__ = ("end", "events", "session")

    def __init__(self, end: socket.socket, session: Session) -> None:
        self.end, self.session, self.events = end, session, select.EPOLLIN


class UsbIpServer(Closing):
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
        self._clients: list[_Client] = []
        try:
            self._listener = socket.create_server(address, backlog=MAX_CLIENTS)
        except OSError as error:
            raise TransportUnavailable(
                "usbip",
                f"cannot listen at {address[0]}:{address[1]}: {error.strerror}",
                remedy="choose another port, or 0 for any",
            ) from None
        self._listener.setblocking(False)
        self.address: tuple[str, int] = self._listener.getsockname()[:2]
        self._bell = Doorbell()
        self._watch = select.epoll()
        for watched in (self._listener, self._bell):
            self._watch.register(watched.fileno(), select.EPOLLIN)

    def fileno(self) -> int:
        """Return a descriptor that is readable when `handle` has something to do."""
        return self._watch.fileno()

    def handle(self) -> None:
        """Take what clients sent, and send what is to be sent."""
        self._bell.silence()
        self._accept()
        for client in tuple(self._clients):
            try:
                self._receive(client)
                self._send(client)
            except (OSError, RemoteFrameError) as error:
                logger.info("a client of USB/IP is sent away: %s", error)
                self._drop(client)
            else:
                self._look_for(client)

    def close(self) -> None:
        """Send clients away; calling it again does nothing."""
        for client in tuple(self._clients):
            self._drop(client)
        self._listener.close()
        self._watch.close()
        self._bell.close()

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

    # ---------------------------------------------------------------------------------------------

    def _accept(self) -> None:
        for _ in range(MAX_CLIENTS):
            try:
                end, _ = self._listener.accept()
            except OSError:  # nobody else comes now
                return
            idle = [each for each in self._clients if each.session.device is None]
            if len(self._clients) >= MAX_CLIENTS:
                if not idle:
                    end.close()
                    continue
                self._drop(idle[0])
            end.setblocking(False)
            with contextlib.suppress(OSError):
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._watch.register(end.fileno(), select.EPOLLIN)
            self._clients.append(_Client(end, Session(self, self._bell.ring)))

    def _look_for(self, client: _Client) -> None:
        """Wait for what a client is to do next."""
        session = client.session
        events = select.EPOLLIN if session.wants_more else 0
        if session.has_output:
            events |= select.EPOLLOUT
        if events != client.events and client in self._clients:
            client.events = events
            self._watch.modify(client.end.fileno(), events)

    def _receive(self, client: _Client) -> None:
        for _ in range(_ROUND):
            if not client.session.wants_more:
                return
            try:
                data = client.end.recv(_CHUNK)
            except BlockingIOError:
                return
            if not data:
                raise RemoteFrameError("it closed the connection")
            client.session.receive(data)

    def _send(self, client: _Client) -> None:
        while (data := client.session.next_output()) is not None:
            try:
                count = client.end.send(data)
            except BlockingIOError:
                return
            client.session.sent(count)
        if client.session.is_finished:
            self._drop(client)

    def _drop(self, client: _Client) -> None:
        if client not in self._clients:
            return
        self._clients.remove(client)
        for bus_id, owner in tuple(self._owners.items()):
            if owner is client.session:
                del self._owners[bus_id]
        client.session.close()
        client.end.close()
