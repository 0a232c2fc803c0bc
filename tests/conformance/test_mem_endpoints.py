# SPDX-License-Identifier: Apache-2.0
"""The software engine, over the carrier in memory, keeps the contract of endpoints."""

from __future__ import annotations

from contextlib import ExitStack
from typing import ClassVar

import pytest

from i2o.testing.endpoints import EndpointConformance
from i2o.testing.stations import Bench, Station
from i2o.transport.fabric.endpoint import Endpoint, PassiveEndpoint
from i2o.transport.fabric.engine import EngineOptions
from i2o.transport.fabric.flags import Capability, EndpointType
from i2o.transport.fabric.mem import MemoryFabric


class MemoryEndpoints(EndpointConformance):
    """What is alike for all sizes."""

    quiet_rounds: ClassVar[int] = 3
    options: ClassVar[EngineOptions] = EngineOptions()
    fabric: MemoryFabric

    @pytest.fixture(autouse=True)
    def _medium(self) -> None:
        self.fabric = MemoryFabric()

    def open(self, resources: ExitStack, wanted: Capability | None = None) -> Endpoint:
        return self.fabric.endpoint(capabilities=wanted, options=self.options)

    def open_prefixed(self, resources: ExitStack) -> Endpoint:
        return self.fabric.endpoint(options=EngineOptions(msg_prefix_size=24))

    def open_multicast(self, resources: ExitStack) -> Endpoint:
        return self.fabric.endpoint(type=EndpointType.DGRAM, options=self.options)

    def listen(self, resources: ExitStack) -> PassiveEndpoint:
        return self.fabric.listener(options=self.options)

    def open_connected(self, resources: ExitStack) -> Endpoint:
        return self.fabric.endpoint(type=EndpointType.MSG, options=self.options)

    def nobody(self, resources: ExitStack) -> str:
        return "nobody"

    def lose(self, bench: Bench, one: Station, other: Station) -> bool:
        self.fabric.reset(one.endpoint.name, other.endpoint.name)
        return True


class TestMemory(MemoryEndpoints):
    """As an endpoint is when nothing is asked for."""


class TestNarrowMemory(MemoryEndpoints):
    """Small frames, few credits, short queues: everything takes several turns."""

    options = EngineOptions(
        tx_size=8,
        rx_size=16,
        window_messages=4,
        window_bytes=2048,
        eager_limit=256,
        inject_size=64,
        max_msg_size=1 << 20,
        iov_limit=3,
    )

    @pytest.fixture(autouse=True)
    def _medium(self) -> None:
        self.fabric = MemoryFabric(frame_limit=512, room=4)
