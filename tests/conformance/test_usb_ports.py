# SPDX-License-Identifier: Apache-2.0
"""IOPs behind a USB cable keep the contract of ports."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

from fakes.usb_station import UsbStation
from i2o.testing.ports import PortConformance
from i2o.transport.port import Port


class TestUsb(PortConformance):
    """Through pyusb to a software device."""

    def open(self, image: Path, resources: ExitStack) -> Port:
        self.station = UsbStation(f"emu:?disk={image}")
        resources.callback(self.station.close)
        return self.station.port(connect_s=0.5)

    def kill(self, port: Port) -> bool:
        self.station.close()
        return True
