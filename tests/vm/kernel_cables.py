# SPDX-License-Identifier: Apache-2.0
"""Runs in a guest: plugs software devices into a bus of its kernel's, one after another.

The device's end is in the same guest. Over USB/IP the kernel's vhci_hcd has the other end of its
connection. Over usb-redir QEMU has it, by way of a relay on its host, and its xHCI is the bus.
"""

from __future__ import annotations

import errno
import os
import socket
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, Protocol

from fakes.wire_station import ServingThread
from i2o.closing import Closing
from i2o.transport.usb.host_device import UsbBus
from i2o.transport.usb_device.device import UsbDevice
from i2o.transport.usb_device.session_server import SessionServer
from i2o.transport.usb_device.usbip.server import UsbIpServer
from i2o.transport.usb_device.usbredir.session import RedirSession
from vm import vhci

PLACES = 6
"""Devices at once."""
PATIENCE_S = 20.0
_DEVICES = Path("/sys/bus/usb/devices")
_LOOK_S = 0.002


class Plug(Closing):
    """A device that is plugged in until this is closed."""

    server: SessionServer


class Socket(Protocol):
    """One place where a device can be plugged in."""

    def plug(self, device: UsbDevice) -> Plug:
        """Plug a device in; the kernel may take a moment to see it."""


class KernelCables(Closing):
    """Cables to a bus of the kernel's.

    Args:
        sockets: the places, which are used again and again.
    """

    def __init__(self, sockets: list[Socket]) -> None:
        self._free = list(sockets)
        self._taken: dict[UsbDevice, tuple[Socket, Plug]] = {}
        self._bus = UsbBus()

    @property
    def plugged(self) -> list[UsbDevice]:
        return list(self._taken)

    def host_bus(self) -> UsbBus:
        return self._bus

    def plug(self, device: UsbDevice) -> None:
        place = self._free.pop(0)
        self._taken[device] = place, place.plug(device)
        serial = device.spec.serial_number
        _until(lambda: self._is_seen(serial), f"device {serial}")

    def unplug(self, device: UsbDevice) -> None:
        place, plug = self._taken.pop(device)
        plug.close()
        serial = device.spec.serial_number
        _until(lambda: not _places_of(serial), f"the end of device {serial}")
        self._free.append(place)

    def close(self) -> None:
        for device in self.plugged:
            self.unplug(device)

    def _is_seen(self, serial: str) -> bool:
        """Whether the kernel has the device in use, and libusb knows of it."""
        places = _places_of(serial)
        return any((each.bus, each.address) in places for each in self._bus.devices())


class VhciSocket:
    """One port of the kernel's vhci_hcd."""

    def __init__(self, port: int) -> None:
        self._port = port

    def plug(self, device: UsbDevice) -> Plug:
        return _Imported(self._port, device)


class _Imported(Plug):
    def __init__(self, port: int, device: UsbDevice) -> None:
        self._port = port
        self.server = UsbIpServer(("127.0.0.1", 0), [device])
        self._serving = _serve(self.server)
        vhci.attach(*self.server.address, port).close()  # the kernel has it

    def close(self) -> None:
        vhci.detach(self._port)
        _until(lambda: not self.server.has_owner, "the end of the connection")
        self._serving.close()


class RedirSocket:
    """One usb-redir device of QEMU's.

    Args:
        relay: host and port of who connects to it.
        number: which one it is.
    """

    def __init__(self, relay: tuple[str, int], number: int) -> None:
        self._relay, self._number = relay, number

    def plug(self, device: UsbDevice) -> Plug:
        return _Redirected(self._relay, self._number, device)


class _Redirected(Plug):
    def __init__(self, relay: tuple[str, int], number: int, device: UsbDevice) -> None:
        end = socket.create_connection(relay)
        end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        end.sendall(bytes([number]))
        self.server = SessionServer(_OneCaller(end), lambda wake: RedirSession(device, wake))
        self._serving = _serve(self.server)

    def close(self) -> None:
        self._serving.close()


class _OneCaller(Closing):
    """Listens like a socket; who comes in is there already, as it was called from here."""

    def __init__(self, caller: socket.socket) -> None:
        self._callers = [caller]
        self._bell = os.eventfd(1, os.EFD_NONBLOCK)

    @property
    def socket(self) -> Any:
        return self

    def fileno(self) -> int:
        return self._bell

    def accept(self) -> tuple[socket.socket, None]:
        if not self._callers:
            raise BlockingIOError(errno.EAGAIN, "nobody else comes")
        os.eventfd_read(self._bell)
        return self._callers.pop(), None

    def close(self) -> None:
        os.close(self._bell)


class _Serving:
    """A `Served` that is a server alone."""

    def __init__(self, server: SessionServer) -> None:
        self._server = server

    def reads_from(self) -> list[int]:
        return [self._server.fileno()]

    def writes_to(self) -> list[int]:
        return []

    def handle(self) -> None:
        self._server.handle()

    def run(self, now_ns: int) -> None:
        return None

    def close(self) -> None:
        self._server.close()


def _serve(server: SessionServer) -> ExitStack:
    stack = ExitStack()
    stack.callback(server.close)
    stack.callback(ServingThread(threading.Event(), _Serving(server)).close)
    return stack


def _places_of(serial: str) -> set[tuple[int, int]]:
    """Return the bus and the number of the devices with a serial number that are in use."""
    found = set()
    for path in _DEVICES.glob("*/serial"):
        with suppress(OSError, ValueError):
            if path.read_text().strip() != serial:
                continue
            if (path.parent / "bConfigurationValue").read_text().strip() == "1":
                found.add(
                    tuple(int((path.parent / name).read_text()) for name in ("busnum", "devnum"))
                )
    return found


def _until(look: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + PATIENCE_S
    while not look():
        assert time.monotonic() < end, f"{what} did not come within {PATIENCE_S:g} s"
        time.sleep(_LOOK_S)
