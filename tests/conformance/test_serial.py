# SPDX-License-Identifier: Apache-2.0
"""Serial lines, also bad ones, keep the contracts of ports and endpoints."""

from __future__ import annotations

import os
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import ClassVar

import pytest

from fakes.noisy_line import Noise
from fakes.pty_cable import PtyCable
from fakes.serial_panel import NOBODY, SerialPanel
from fakes.wire_station import UriStation
from i2o.testing.endpoints import EndpointConformance
from i2o.testing.ports import PortConformance
from i2o.testing.stations import Bench, Station
from i2o.transport.fabric.endpoint import Endpoint, PassiveEndpoint
from i2o.transport.fabric.engine import EngineOptions
from i2o.transport.fabric.flags import Capability, EndpointType
from i2o.transport.fabric.software_endpoint import SoftwareEndpoint, listen_on
from i2o.transport.port import Port
from i2o.transport.registry import open_port


@pytest.fixture(autouse=True)
def _quick_cables():
    """Let the thread of a cable run soon although this one does not sleep."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-4)
    yield
    sys.setswitchinterval(before)


class SerialEndpoints(EndpointConformance):
    """What is alike for all lines."""

    noise: ClassVar[Noise] = Noise()
    panel: SerialPanel

    @pytest.fixture(autouse=True)
    def _medium(self, tmp_path: Path):
        with SerialPanel(tmp_path, self.noise) as self.panel:
            yield

    def open(self, resources: ExitStack, wanted: Capability | None = None) -> Endpoint:
        return SoftwareEndpoint(self.panel.carrier(), capabilities=wanted)

    def open_prefixed(self, resources: ExitStack) -> Endpoint:
        return SoftwareEndpoint(self.panel.carrier(), options=EngineOptions(msg_prefix_size=24))

    def listen(self, resources: ExitStack) -> PassiveEndpoint:
        return listen_on(self.panel.carrier())

    def open_connected(self, resources: ExitStack) -> Endpoint:
        return SoftwareEndpoint(self.panel.carrier(), EndpointType.MSG)

    def nobody(self, resources: ExitStack) -> str:
        return f"serial:{NOBODY}"

    def lose(self, bench: Bench, one: Station, other: Station) -> bool:
        self.panel.cut(one.endpoint.name, other.endpoint.name)
        return True


class TestSerialEndpoints(SerialEndpoints):
    """Over cables without errors."""


class EndpointsOverNoise(SerialEndpoints):
    """Over cables that turn bits, lose and double bytes, and bring garbage."""

    noise = Noise(bit_errors=1e-5, dropped=2e-5, doubled=2e-5, lost_frames=0.02, garbage=0.02)
    quiet_rounds = 60


class SerialPorts(PortConformance):
    """What is alike for all lines."""

    noise: ClassVar[Noise] = Noise()

    def open(self, image: Path, resources: ExitStack) -> Port:
        folder = image.parent
        cable = resources.enter_context(PtyCable(folder, self.noise, names=("card", "host")))
        card, host = cable.devices
        self.station = UriStation(f"serial:{card}?baud=4000000", f"emu:?disk={image}")
        resources.callback(self.station.close)
        return open_port(f"serial:{host}?baud=4000000&timeout=1")

    def kill(self, port: Port) -> bool:
        self.station.close()
        return True


class TestSerialPorts(SerialPorts):
    """Over a cable without errors."""


class PortsOverNoise(SerialPorts):
    """Over a cable that turns bits, loses and doubles bytes, and brings garbage."""

    noise = EndpointsOverNoise.noise


if os.environ.get("I2O_TESTS_FULL") == "1":  # they take minutes
    TestEndpointsOverNoise = EndpointsOverNoise
    TestPortsOverNoise = PortsOverNoise
