# SPDX-License-Identifier: Apache-2.0
"""`i2o emulate --serve vfio-user:SOCKET`: an IOP, or a service processor, that QEMU plugs in."""

from __future__ import annotations

from i2o.clock import SYSTEM_CLOCK
from i2o.iop_emulator import service_processor
from i2o.iop_emulator.control_socket import ControlSocket
from i2o.iop_emulator.pci_function import IopFunction
from i2o.iop_emulator.service_processor import ServiceProcessor
from i2o.tools.serving_order import Order
from i2o.transport.serving import Served
from i2o.transport.uri import Uri
from i2o.transport.vfio_user import Server


def served(order: Order) -> Served:
    """Make the device and its socket; raises UriError or TransportUnavailable."""
    asked = order.iop_uri()
    device: IopFunction | ServiceProcessor
    if asked.one("personality", "") == service_processor.NAME:
        device = _service_processor(asked)
    else:
        device = IopFunction.from_options(order.options(), SYSTEM_CLOCK, order.tap())
    order.opened.callback(device.close)
    return order.opened.enter_context(Server(order.uri.address, device))


def _service_processor(uri: Uri) -> ServiceProcessor:
    """Make IBM's card, which is no IOP; raises UriError or TransportUnavailable."""
    uri.require_known(("personality", "control"))
    path = uri.one("control", "")
    return ServiceProcessor(ControlSocket(path) if path else None)
