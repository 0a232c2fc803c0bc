# SPDX-License-Identifier: Apache-2.0
"""`i2o emulate --serve tcp://HOST:PORT` and others: an IOP that hosts reach over an endpoint."""

from __future__ import annotations

from i2o.errors import TransportUnavailable
from i2o.iop_emulator.remote_iop import RemoteIop
from i2o.tools.serving_order import Order
from i2o.transport.fabric.endpoint import Endpoint
from i2o.transport.fabric.errors import FabricError
from i2o.transport.registry import open_endpoint
from i2o.transport.serving import Served
from i2o.transport.uri import Uri
from i2o.transport.wire.addresses import check_exposure, own_endpoint, served_uri, server_options
from i2o.transport.wire.wire_server import WireServer


def served(order: Order) -> Served:
    """Make the IOP and its endpoint; raises UriError or TransportUnavailable."""
    options = order.options(server_options(order.uri.scheme))
    endpoint = server_endpoint(order.uri)
    try:
        iop = RemoteIop.from_options(options, order.tap())
    except BaseException:
        endpoint.close()
        raise
    order.opened.callback(iop.close)
    server = WireServer(endpoint, iop.unit, iop, should_stop=order.is_stopped)
    server.uri = served_uri(order.uri, server.name)
    return order.opened.enter_context(server)


def server_endpoint(uri: Uri) -> Endpoint:
    """Open the endpoint at an address; raises UriError or TransportUnavailable."""
    check_exposure(uri)
    try:
        return open_endpoint(own_endpoint(uri))
    except FabricError as error:
        raise TransportUnavailable(
            uri.scheme, str(error.strerror), remedy="choose another address"
        ) from None
