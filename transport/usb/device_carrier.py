# SPDX-License-Identifier: Apache-2.0
"""Frames between a device and its host: the `Carrier` of the device's end, with one peer.

A device cannot call its host: what it has to send waits until the host begins a link.
"""

from __future__ import annotations

import errno
import select
from collections.abc import Sequence
from typing import Final, Protocol

from i2o.closing import Closing
from i2o.errors import RemoteFrameError
from i2o.transport.doorbell import Doorbell, descriptor_of
from i2o.transport.fabric.carrier import CarrierSink
from i2o.transport.fabric.endpoint import Buffer
from i2o.transport.fabric.errors import FabricError
from i2o.transport.usb.address import HOST_NAME, UsbAddress
from i2o.transport.usb.interface import FRAME_LIMIT
from i2o.transport.usb.link_function import LinkFunction, NewsKind
from i2o.transport.usb_device.descriptors import DeviceSpec
from i2o.transport.usb_device.device import UsbDevice

_HOST: Final = 0  # the one peer's number


class Ports(Protocol):
    """What carries the transfers of a device."""

    def fileno(self) -> int:
        """Return a descriptor that is readable when `handle` has something to do."""

    def handle(self) -> None:
        """Take what hosts sent, and send what is to be sent; never blocks."""

    def close(self) -> None:
        """Unplug the device."""


class UsbDeviceCarrier(Closing):
    """The device's end of a cable.

    Args:
        spec: what the device tells of itself, as `interface.device_spec` makes it.

    Attributes:
        name: what the host calls it: `usb:VID:PID:SERIAL`.
        frame_limit: bytes of the largest frame.
        function: the link.
    """

    def __init__(self, spec: DeviceSpec) -> None:
        self.name = str(UsbAddress(spec.vendor_id, spec.product_id, spec.serial_number))
        self.frame_limit = FRAME_LIMIT
        self._bell = Doorbell()
        self._sink: CarrierSink | None = None
        self.function = LinkFunction(spec, self._bell.ring)
        self._device = self.function.device
        self._watch = select.epoll()
        self._watch.register(self._bell.fileno(), select.EPOLLIN)
        self._ports: Ports | None = None

    def plug_into(self, ports: Ports) -> None:
        """Have the device's transfers carried whenever this end makes progress.

        Without, somebody else calls the device, from other threads.

        Args:
            ports: belongs to the carrier from now on.
        """
        self._ports = ports
        self._watch.register(ports.fileno(), select.EPOLLIN)

    @property
    def device(self) -> UsbDevice:
        """The device, for what carries its transfers to a host."""
        return self._device

    def open(self, sink: CarrierSink) -> None:
        """Begin: a host may begin a link from now on."""
        self._sink = sink
        with self._device.lock:
            self.function.is_open = True

    def resolve(self, address: str) -> int:
        """Return the number of the host, whose name is `usb:host`.

        Raises:
            FabricError: EINVAL, it is another name.
        """
        if address != HOST_NAME:
            raise FabricError(errno.EINVAL, f"{address!r}: a USB device has one peer, {HOST_NAME}")
        return _HOST

    def address_of(self, peer: int) -> str:
        """Return the name of the host."""
        return HOST_NAME

    def send(self, peer: int, parts: Sequence[Buffer], token: object = None) -> bool:
        """Have a frame for the host; False until there is a link and room.

        Raises:
            FabricError: EMSGSIZE, the frame is too long.
        """
        frame = b"".join(parts)
        try:
            with self._device.lock:
                if not self.function.send(frame):
                    return False
        except RemoteFrameError as error:
            raise FabricError(errno.EMSGSIZE, str(error)) from None
        if token is not None and self._sink is not None:
            self._sink.frame_sent(peer, token)
        return True

    def disconnect(self, peer: int) -> None:
        """End the link; the host is told after what it was sent before."""
        with self._device.lock:
            self.function.end()

    def progress(self) -> None:
        """Hand on what the host sent."""
        self._bell.silence()
        if self._ports is not None:
            self._ports.handle()
        while self._sink is not None:
            with self._device.lock:
                news = self.function.next_news()
            if news is None:
                return
            if news.kind is NewsKind.FRAME:
                self._sink.frame_arrived(_HOST, memoryview(news.frame))
            elif news.kind is NewsKind.UP:
                self._sink.peer_up(_HOST)
            elif news.kind is NewsKind.ROOM:
                self._sink.room_made(_HOST)
            else:
                self._sink.peer_lost(_HOST, news.code, news.reason)

    def fileno(self) -> int:
        """Return a descriptor that is readable when `progress` has something to do."""
        return descriptor_of(self._watch)

    def next_deadline_ns(self) -> int | None:
        """Return None: nothing here is a matter of time."""
        return None

    def close(self) -> None:
        """End the link; no host can begin one any more."""
        self._sink = None
        with self._device.lock:
            self.function.is_open = False
            self.function.end()
        if self._ports is not None:
            self._ports.close()
        self._watch.close()
        with self._device.lock:  # nobody rings now
            self._bell.close()
