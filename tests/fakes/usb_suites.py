# SPDX-License-Identifier: Apache-2.0
"""The conformance suites over USB, whatever the bus is: a class says what plugs devices in."""

from __future__ import annotations

from contextlib import AbstractContextManager, ExitStack, nullcontext
from pathlib import Path

import pytest

from fakes.usb_bus import FakeBus
from fakes.usb_cables import UsbCables
from fakes.usb_pairs import Desk
from fakes.usb_station import UsbStation
from i2o.testing.endpoints import EndpointConformance
from i2o.testing.ports import PortConformance
from i2o.testing.stations import Bench, Station
from i2o.transport.fabric.endpoint import Endpoint, PassiveEndpoint
from i2o.transport.fabric.engine import EngineOptions
from i2o.transport.fabric.flags import Capability, EndpointType
from i2o.transport.fabric.software_endpoint import SoftwareEndpoint, listen_on
from i2o.transport.port import Port


class UsbBackend:
    """Gives each test cables of its own."""

    cables: UsbCables

    def make_cables(self) -> AbstractContextManager[UsbCables]:
        """Make what plugs devices in; without more, pyusb has a bus of the test's own."""
        return nullcontext(FakeBus())

    @pytest.fixture(autouse=True)
    def _medium(self):
        with self.make_cables() as self.cables:
            yield


class UsbEndpoints(UsbBackend, EndpointConformance):
    """Both ends of every cable are in the test."""

    @pytest.fixture(autouse=True)
    def _desk(self, _medium):
        self.desk = Desk(self.cables)

    def open(self, resources: ExitStack, wanted: Capability | None = None) -> Endpoint:
        return SoftwareEndpoint(self.desk.board(), capabilities=wanted, provider="usb")

    def open_prefixed(self, resources: ExitStack) -> Endpoint:
        return SoftwareEndpoint(
            self.desk.board(), options=EngineOptions(msg_prefix_size=24), provider="usb"
        )

    def listen(self, resources: ExitStack) -> PassiveEndpoint:
        return listen_on(self.desk.board(), provider="usb")

    def open_connected(self, resources: ExitStack) -> Endpoint:
        return SoftwareEndpoint(self.desk.board(), EndpointType.MSG, provider="usb")

    def nobody(self, resources: ExitStack) -> str:
        return "desk:1000"

    def lose(self, bench: Bench, one: Station, other: Station) -> bool:
        self.desk.replug()
        return True


class UsbPorts(UsbBackend, PortConformance):
    """A software IOP is served in a thread of the test."""

    def open(self, image: Path, resources: ExitStack) -> Port:
        self.station = UsbStation(f"emu:?disk={image}", self.cables)
        resources.callback(self.station.close)
        return self.station.port(connect_s=2.0)

    def kill(self, port: Port) -> bool:
        self.station.close()
        return True
