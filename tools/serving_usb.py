# SPDX-License-Identifier: Apache-2.0
"""`i2o emulate --serve usbip:HOST:PORT` and `usbredir:SOCKET`: an IOP as a USB device."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Final

from i2o.errors import TransportUnavailable, UriError
from i2o.iop_emulator.remote_iop import RemoteIop
from i2o.tools.serving_order import Order
from i2o.transport.fabric.software_endpoint import SoftwareEndpoint
from i2o.transport.serving import Served
from i2o.transport.uri import Uri
from i2o.transport.usb.device_carrier import UsbDeviceCarrier
from i2o.transport.usb.interface import device_spec
from i2o.transport.usb_device.descriptors import MAX_STRING
from i2o.transport.usb_device.usbip.server import PORT, UsbIpServer
from i2o.transport.usb_device.usbredir.server import UsbRedirServer
from i2o.transport.wire.addresses import is_loopback
from i2o.transport.wire.wire_server import WireServer

DEFAULT_SERIAL: Final = "1"
_OWN_OPTIONS: Final = ("serial",)


def served(order: Order) -> Served:
    """Make the IOP, the device it is in and its server; raises UriError, TransportUnavailable."""
    is_network = order.uri.scheme == "usbip"
    place = _address(order.uri) if is_network else None
    options = order.options((*_OWN_OPTIONS, "insecure") if is_network else _OWN_OPTIONS)
    carrier = UsbDeviceCarrier(device_spec(_serial_number(order.uri)))
    uri = order.uri.text
    with ExitStack() as on_failure:
        on_failure.callback(carrier.close)
        if place is None:
            carrier.plug_into(UsbRedirServer(order.uri.address, carrier.device))
        else:
            ports = UsbIpServer(place, [carrier.device])
            carrier.plug_into(ports)
            host, port = ports.address
            uri = f"usbip:{f'[{host}]' if ':' in host else host}:{port}"
        iop = RemoteIop.from_options(options, order.tap())
        on_failure.pop_all()
    order.opened.callback(iop.close)
    endpoint = SoftwareEndpoint(carrier, provider="usb")
    server = order.opened.enter_context(
        WireServer(endpoint, iop.unit, iop, should_stop=order.is_stopped)
    )
    server.uri = uri
    return server


def _serial_number(uri: Uri) -> str:
    """Read what the device is called by, which hosts must be able to write behind usb:VID:PID:.

    Raises:
        UriError: they could not, or it is longer than a descriptor.
    """
    text = uri.one("serial", DEFAULT_SERIAL)
    is_right = text.isprintable() and not set(":?") & set(text)
    if not is_right or not 0 < len(text.encode("utf-16-le")) // 2 <= MAX_STRING:
        raise UriError(
            f"{uri.text!r}: serial is 1 to {MAX_STRING} printable characters, without : and ?"
        )
    return text


def _address(uri: Uri) -> tuple[str, int]:
    """Read where to listen.

    Raises:
        UriError: it is no address.
        TransportUnavailable: others could reach it, and nobody said that they may.
    """
    host, _, port = uri.address.rpartition(":")
    if not host and port and not port.isdigit():
        host, port = port, str(PORT)
    host = host.removeprefix("[").removesuffix("]")
    if not host or not port.isascii() or not port.isdigit() or int(port) > 0xFFFF:
        raise UriError(
            f"{uri.text!r}: expected usbip:HOST:PORT, for example usbip:127.0.0.1:{PORT}"
        )
    if not uri.integer("insecure", 0, 0, 1) and not is_loopback(f"{host}:{port}"):
        raise TransportUnavailable(
            "usbip",
            f"{host} is not loopback, and USB/IP asks nobody for a key",
            remedy="listen on 127.0.0.1 and use a tunnel, or add insecure=1",
        )
    return host, int(port)
