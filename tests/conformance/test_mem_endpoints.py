# SPDX-License-Identifier: Apache-2.0
"""The software engine over memory keeps to the contract of endpoints."""

from __future__ import annotations

from contextlib import ExitStack
from functools import cached_property
from typing import ClassVar

from i2o.testing.endpoints import EndpointConformance
from i2o.testing.stations import Bench, Station
from i2o.transport.fabric.endpoint import Endpoint, PassiveEndpoint
from i2o.transport.fabric.engine import EngineOptions
from i2o.transport.fabric.flags import Capability, EndpointType
from i2o.transport.fabric.mem import MemoryFabric
from i2o.transport.fabric.software_endpoint import SoftwareEndpoint, listen_on


class TestMemEndpoints(EndpointConformance):
    quiet_rounds: ClassVar[int] = 3

    @cached_property
    def fabric(self) -> MemoryFabric:
        return MemoryFabric()

    def open(self, resources: ExitStack, wanted: Capability | None = None) -> Endpoint:
        return SoftwareEndpoint(self.fabric.carrier(), capabilities=wanted)

    def open_prefixed(self, resources: ExitStack) -> Endpoint:
        return SoftwareEndpoint(self.fabric.carrier(), options=EngineOptions(msg_prefix_size=16))

    def listen(self, resources: ExitStack) -> PassiveEndpoint:
        return listen_on(self.fabric.carrier())

    def open_connected(self, resources: ExitStack) -> Endpoint:
        return SoftwareEndpoint(self.fabric.carrier(), EndpointType.MSG)

    def nobody(self, resources: ExitStack) -> str:
        return "nobody"

    def lose(self, bench: Bench, one: Station, other: Station) -> bool:
        self.fabric.reset(one.endpoint.name, other.endpoint.name)
        return True
