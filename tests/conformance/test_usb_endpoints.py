# SPDX-License-Identifier: Apache-2.0
"""The software engine, over USB, keeps the contract of endpoints: both ends of every cable."""

from __future__ import annotations

from contextlib import ExitStack

import pytest

from fakes.usb_pairs import Desk
from i2o.testing.endpoints import EndpointConformance
from i2o.testing.stations import Bench, Station
from i2o.transport.fabric.endpoint import Endpoint, PassiveEndpoint
from i2o.transport.fabric.engine import EngineOptions
from i2o.transport.fabric.flags import Capability, EndpointType
from i2o.transport.fabric.software_endpoint import SoftwareEndpoint, listen_on


class TestUsb(EndpointConformance):
    """Through pyusb to software devices."""

    @pytest.fixture(autouse=True)
    def desk(self):
        self.cables = Desk()

    def open(self, resources: ExitStack, wanted: Capability | None = None) -> Endpoint:
        return SoftwareEndpoint(self.cables.board(), capabilities=wanted, provider="usb")

    def open_prefixed(self, resources: ExitStack) -> Endpoint:
        return SoftwareEndpoint(
            self.cables.board(), options=EngineOptions(msg_prefix_size=24), provider="usb"
        )

    def listen(self, resources: ExitStack) -> PassiveEndpoint:
        return listen_on(self.cables.board(), provider="usb")

    def open_connected(self, resources: ExitStack) -> Endpoint:
        return SoftwareEndpoint(self.cables.board(), EndpointType.MSG, provider="usb")

    def nobody(self, resources: ExitStack) -> str:
        return "desk:1000"

    def lose(self, bench: Bench, one: Station, other: Station) -> bool:
        self.cables.replug()
        return True
