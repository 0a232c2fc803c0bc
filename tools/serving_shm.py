# SPDX-License-Identifier: Apache-2.0
"""`i2o emulate --serve shm:NAME`: an IOP that other programs of this machine open as `shm:NAME`."""

from __future__ import annotations

from i2o.iop_emulator.shm_iop import ShmIop
from i2o.tools.serving_order import Order
from i2o.transport.serving import Served
from i2o.transport.shm.port import spin_of
from i2o.transport.shm.rendezvous import Meeting, listen
from i2o.transport.shm.server import ShmServer


def served(order: Order) -> Served:
    """Make the IOP and its socket; raises UriError or TransportUnavailable."""
    spin_us = spin_of(order.uri)
    iop = ShmIop.from_options(order.options(own=("spin",)), order.tap())
    order.opened.callback(iop.close)
    address = order.uri.address
    server = ShmServer(
        listen(address, Meeting.IOP), iop, uri=f"shm:{address}", spin_s=spin_us / 1e6
    )
    return order.opened.enter_context(server)
