# SPDX-License-Identifier: Apache-2.0
"""The software engine, over TCP, keeps the contract of endpoints."""

from __future__ import annotations

import socket
from contextlib import ExitStack
from dataclasses import replace
from typing import ClassVar

from i2o.testing.endpoints import EndpointConformance
from i2o.testing.stations import Bench, Station
from i2o.transport.fabric.endpoint import Endpoint, PassiveEndpoint
from i2o.transport.fabric.engine import EngineOptions
from i2o.transport.fabric.flags import Capability, EndpointType
from i2o.transport.fabric.software_endpoint import SoftwareEndpoint, listen_on
from i2o.transport.tcp.carrier import TcpCarrier
from i2o.transport.tcp.key import PeerKey
from i2o.transport.tcp.options import PeerOptions

QUICK = PeerOptions(retry_delay_s=0.001, retry_delay_max_s=0.002, linger_s=0.2)


class TcpEndpoints(EndpointConformance):
    """What is alike for all sizes."""

    engine: ClassVar[EngineOptions] = EngineOptions()
    peers: ClassVar[PeerOptions] = QUICK
    key: ClassVar[PeerKey | None] = None

    def carrier(self) -> TcpCarrier:
        carrier = TcpCarrier(options=self.peers, key=self.key)
        self.carriers = [*getattr(self, "carriers", ()), carrier]
        return carrier

    def open(self, resources: ExitStack, wanted: Capability | None = None) -> Endpoint:
        return SoftwareEndpoint(
            self.carrier(), capabilities=wanted, options=self.engine, provider="tcp"
        )

    def open_prefixed(self, resources: ExitStack) -> Endpoint:
        return SoftwareEndpoint(
            self.carrier(), options=replace(self.engine, msg_prefix_size=24), provider="tcp"
        )

    def listen(self, resources: ExitStack) -> PassiveEndpoint:
        return listen_on(self.carrier(), options=self.engine, provider="tcp")

    def open_connected(self, resources: ExitStack) -> Endpoint:
        return SoftwareEndpoint(
            self.carrier(), EndpointType.MSG, options=self.engine, provider="tcp"
        )

    def nobody(self, resources: ExitStack) -> str:
        with socket.create_server(("127.0.0.1", 0)) as unused:
            return f"tcp://127.0.0.1:{unused.getsockname()[1]}"

    def lose(self, bench: Bench, one: Station, other: Station) -> bool:
        """Cut the link between two, as a machine in between would that lost its memory."""
        for carrier in self.carriers:
            if carrier.name == one.endpoint.name:
                for peer in carrier.node.peers():
                    if other.endpoint.name in map(str, peer.plan.addresses) and peer.link:
                        peer.link.socket.shutdown(socket.SHUT_RDWR)
        return True


class TestTcp(TcpEndpoints):
    """As an endpoint is when nothing is asked for, but with a key."""

    key = PeerKey(b"for the suite of endpoints")


class TestNarrowTcp(TcpEndpoints):
    """Small frames, few credits, short queues: everything takes several turns."""

    peers = replace(QUICK, frame_limit=512, queue_limit=2048)
    engine = EngineOptions(
        tx_size=8,
        rx_size=16,
        window_messages=4,
        window_bytes=2048,
        eager_limit=256,
        inject_size=64,
        max_msg_size=1 << 20,
        iov_limit=3,
    )
