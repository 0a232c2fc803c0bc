# SPDX-License-Identifier: Apache-2.0
"""libfabric's providers, each behind the contract of endpoints."""

from __future__ import annotations

from contextlib import ExitStack
from urllib.parse import quote

from i2o.testing.endpoints import EndpointConformance
from i2o.transport.fabric.endpoint import Endpoint, PassiveEndpoint
from i2o.transport.fabric.flags import Capability
from i2o.transport.ofi.opening import open_endpoint, open_passive


def caps(wanted: Capability | None) -> str:
    if wanted is None:
        return ""
    return "caps=" + quote(",".join(each.name or "" for each in wanted))


class TestTcpRxm(EndpointConformance):
    """Reliable unconnected endpoints over TCP; connected ones over TCP as it is."""

    def open(self, resources: ExitStack, wanted: Capability | None = None) -> Endpoint:
        return open_endpoint(f"ofi://tcp;ofi_rxm/127.0.0.1:0?connect_ms=300&{caps(wanted)}".rstrip("&"))

    def listen(self, resources: ExitStack) -> PassiveEndpoint:
        return open_passive("ofi://tcp/127.0.0.1:0")

    def open_connected(self, resources: ExitStack) -> Endpoint:
        return open_endpoint("ofi://tcp/127.0.0.1:0?connect_ms=300")

    def nobody(self, resources: ExitStack) -> str:
        with open_endpoint("ofi://tcp;ofi_rxm/127.0.0.1:0") as gone:
            cq = gone.open_cq()
            from i2o.transport.fabric.flags import Bind
            gone.bind(cq, Bind.RECV | Bind.TRANSMIT)
            gone.enable()
            name = gone.name
        cq.close()
        return name


class TestShm(EndpointConformance):
    def open(self, resources: ExitStack, wanted: Capability | None = None) -> Endpoint:
        return open_endpoint(f"ofi://shm/?connect_ms=300&{caps(wanted)}".rstrip("&"))
