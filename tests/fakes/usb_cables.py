# SPDX-License-Identifier: Apache-2.0
"""What plugs software devices into a bus: one of the test's own, or one of a kernel's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from i2o.transport.usb.host_device import UsbBus
from i2o.transport.usb_device.device import UsbDevice


class UsbCables(Protocol):
    """Cables."""

    @property
    def plugged(self) -> Sequence[UsbDevice]:
        """The devices that are plugged in."""

    def plug(self, device: UsbDevice) -> None:
        """Plug a device in; its host sees it when this returns."""

    def unplug(self, device: UsbDevice) -> None:
        """Pull one out."""

    def host_bus(self) -> UsbBus:
        """Return where the host finds the devices."""
