# SPDX-License-Identifier: Apache-2.0
"""`i2o emulate --serve usbip:HOST:PORT`: an IOP as a USB device, for kernels that import it."""

from __future__ import annotations

from typing import Final

from i2o.closing import Closing
from i2o.errors import TransportUnavailable, UriError
from i2o.iop_emulator.remote_iop import RemoteIop
from i2o.tools.serving_order import Order
from i2o.transport.fabric.software_endpoint import SoftwareEndpoint
from i2o.transport.serving import Served
from i2o.transport.uri import Uri
from i2o.transport.usb.device_carrier import UsbDeviceCarrier
from i2o.transport.usb.interface import device_spec
from i2o.transport.usb_device.usbip.server import PORT, UsbIpServer
from i2o.transport.wire.wire_server import WireServer

DEFAULT_SERIAL: Final = "1"
_OWN_OPTIONS: Final = ("serial", "insecure")
_LOOPBACK: Final = ("localhost", "127.", "::1")


def served(order: Order) -> Served:
    """Make the IOP, the device it is in and its server; raises UriError, TransportUnavailable."""
    host, port = _address(order.uri)
    options = order.options(_OWN_OPTIONS)
    carrier = UsbDeviceCarrier(device_spec(order.uri.one("serial", DEFAULT_SERIAL)))
    endpoint = SoftwareEndpoint(carrier, provider="usb")
    try:
        iop = RemoteIop.from_options(options, order.tap())
    except BaseException:
        endpoint.close()
        raise
    order.opened.callback(iop.close)
    server = order.opened.enter_context(WireServer(endpoint, iop.unit, iop))
    return order.opened.enter_context(UsbIop(server, UsbIpServer((host, port), [carrier.device])))


class UsbIop(Closing):
    """An IOP and the server of the device that it is in: both are served as one.

    Args:
        server: the IOP's.
        ports: the device's.

    Attributes:
        uri: where devices can be imported.
    """

    def __init__(self, server: WireServer, ports: UsbIpServer) -> None:
        self._server, self._ports = server, ports
        host, port = ports.address
        self.uri = f"usbip:{f'[{host}]' if ':' in host else host}:{port}"

    def reads_from(self) -> list[int]:
        """Return descriptors that call for `handle` when they are readable."""
        return [*self._server.reads_from(), *self._ports.reads_from()]

    def writes_to(self) -> list[int]:
        """Return descriptors that call for `handle` when they take more."""
        return self._ports.writes_to()

    def handle(self) -> None:
        """Take what came in."""
        self._ports.handle()
        self._server.handle()

    def run(self, now_ns: int) -> int | None:
        """Let the IOP work."""
        return self._server.run(now_ns)

    def close(self) -> None:
        """Unplug the device."""
        self._ports.close()


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
    if not uri.integer("insecure", 0, 0, 1) and not host.startswith(_LOOPBACK):
        raise TransportUnavailable(
            "usbip",
            f"{host} is not loopback, and USB/IP asks nobody for a key",
            remedy="listen on 127.0.0.1 and use a tunnel, or add insecure=1",
        )
    return host, int(port)
