# SPDX-License-Identifier: Apache-2.0
"""Serves a device over usb-redir on a Unix socket, which QEMU's chardev connects to."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final

from i2o.transport.unix_listener import UnixListener
from i2o.transport.usb_device.device import UsbDevice
from i2o.transport.usb_device.session_server import SessionServer
from i2o.transport.usb_device.usbredir.session import RedirSession

_BACKLOG: Final = 4


class UsbRedirServer(SessionServer):
    """One device on one socket, for one client at a time.

    Args:
        path: where the socket is made; one that a dead server left is replaced.
        device: the device.

    Raises:
        TransportUnavailable: the socket cannot be made, or somebody serves there already.
    """

    def __init__(self, path: str | Path, device: UsbDevice) -> None:
        self._device = device
        listener = UnixListener(
            path, backend="usbredir", purpose="cannot serve on", backlog=_BACKLOG
        )
        super().__init__(listener, self._session)

    def _session(self, wake: Callable[[], None]) -> RedirSession:
        return RedirSession(None if self.has_owner else self._device, wake)
