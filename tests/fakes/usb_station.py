# SPDX-License-Identifier: Apache-2.0
"""A software IOP in a USB device, served in a thread of the test, and hosts that reach it."""

from __future__ import annotations

import threading

from fakes.usb_bus import FakeBus
from fakes.usb_cables import UsbCables
from fakes.wire_station import ServingThread
from i2o.closing import Closing
from i2o.iop_emulator.options import EmuOptions
from i2o.iop_emulator.remote_iop import RemoteIop
from i2o.transport.fabric.software_endpoint import SoftwareEndpoint
from i2o.transport.uri import Uri
from i2o.transport.usb.carrier import UsbCarrier
from i2o.transport.usb.device_carrier import UsbDeviceCarrier
from i2o.transport.usb.interface import device_spec
from i2o.transport.wire.wire_port import WirePort
from i2o.transport.wire.wire_server import WireServer


class UsbStation(Closing):
    """An IOP that is plugged in.

    Attributes:
        bus: where it is plugged in.
        carrier: the device's end.
    """

    def __init__(self, uri: str = "emu:", bus: UsbCables | None = None) -> None:
        self.carrier = UsbDeviceCarrier(device_spec("test"))
        self.device = self.carrier.device
        self.bus: UsbCables = FakeBus() if bus is None else bus
        self.bus.plug(self.device)
        self.iop = RemoteIop.from_options(EmuOptions.from_uri(Uri.parse(uri)))
        stop = threading.Event()
        self.server = WireServer(
            SoftwareEndpoint(self.carrier), self.iop.unit, self.iop, should_stop=stop.is_set
        )
        self.thread = ServingThread(stop, self.server)

    def port(self, connect_s: float = 2.0) -> WirePort:
        """Reach the IOP."""
        endpoint = SoftwareEndpoint(UsbCarrier(self.bus.host_bus()), provider="usb")
        return WirePort(endpoint, self.carrier.name, name=self.carrier.name, connect_s=connect_s)

    def pull(self) -> None:
        """Pull the cable."""
        self.bus.unplug(self.device)

    def close(self) -> None:
        """End."""
        self.thread.close()
        if self.device in self.bus.plugged:
            self.pull()
        self.server.close()
        self.iop.close()
