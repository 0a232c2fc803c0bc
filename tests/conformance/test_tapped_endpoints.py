# SPDX-License-Identifier: Apache-2.0
"""An endpoint that is captured keeps to everything that one without a tap keeps to."""

from __future__ import annotations

import errno
from contextlib import ExitStack
from functools import cached_property

from i2o.testing.endpoints import EndpointConformance
from i2o.testing.stations import Bench, Station
from i2o.transport.capture.connection_tap import TapPassiveEndpoint
from i2o.transport.capture.endpoint_recorder import packet_recorder
from i2o.transport.capture.endpoint_tap import TapEndpoint
from i2o.transport.capture.message_record import unpack_record
from i2o.transport.capture.packet import Packet
from i2o.transport.fabric.endpoint import Endpoint, PassiveEndpoint
from i2o.transport.fabric.engine import EngineOptions
from i2o.transport.fabric.flags import Capability, EndpointType
from i2o.transport.fabric.mem import MemoryFabric
from i2o.transport.fabric.software_endpoint import SoftwareEndpoint, listen_on


class TestTappedEndpoints(EndpointConformance):
    """The whole suite over endpoints in memory, each with a tap in front."""

    quiet_rounds = 3

    @cached_property
    def fabric(self) -> MemoryFabric:
        return MemoryFabric()

    @cached_property
    def packets(self) -> list[Packet]:
        return []

    def open(self, resources: ExitStack, wanted: Capability | None = None) -> Endpoint:
        resources.callback(self._check)
        return self._tapped(
            SoftwareEndpoint(self.fabric.carrier(), EndpointType.RDM, capabilities=wanted)
        )

    def open_prefixed(self, resources: ExitStack) -> Endpoint | None:
        options = EngineOptions(msg_prefix_size=16)
        return self._tapped(SoftwareEndpoint(self.fabric.carrier(), options=options))

    def listen(self, resources: ExitStack) -> PassiveEndpoint | None:
        listener = listen_on(self.fabric.carrier())
        return TapPassiveEndpoint(listener, packet_recorder(self.packets.append), self._tapped)

    def open_connected(self, resources: ExitStack) -> Endpoint | None:
        return self._tapped(SoftwareEndpoint(self.fabric.carrier(), EndpointType.MSG))

    def lose(self, bench: Bench, one: Station, other: Station) -> bool:
        self.fabric.reset(one.endpoint.name, other.endpoint.name, errno.ECONNRESET)
        return True

    def nobody(self, resources: ExitStack) -> str:
        return "nobody"

    def _tapped(self, endpoint: Endpoint) -> Endpoint:
        return TapEndpoint(endpoint, packet_recorder(self.packets.append))

    def _check(self) -> None:
        """Whatever the test did, all that was recorded can be read."""
        for packet in self.packets:
            unpack_record(packet.data)
