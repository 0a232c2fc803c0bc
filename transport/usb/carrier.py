# SPDX-License-Identifier: Apache-2.0
"""Frames between a host and its devices: the `Carrier` of the host's end.

Every device that was named is a peer. A device cannot call its host, so the host looks for it as
soon as it is named, and again from time to time while there is no link: it may be plugged in later.
"""

from __future__ import annotations

import errno
from collections import deque
from collections.abc import Sequence
from threading import Lock
from typing import Final

from i2o.clock import SYSTEM_CLOCK, Clock
from i2o.closing import Closing
from i2o.errors import RemoteFrameError, UriError
from i2o.transport.doorbell import Doorbell
from i2o.transport.fabric.carrier import CarrierSink
from i2o.transport.fabric.endpoint import Buffer
from i2o.transport.fabric.errors import FabricError
from i2o.transport.usb.address import HOST_NAME, UsbAddress
from i2o.transport.usb.host_device import UsbBus
from i2o.transport.usb.host_link import Link
from i2o.transport.usb.interface import FRAME_LIMIT
from i2o.transport.usb.link_function import News, NewsKind

RETRY_S: Final = 1.0
"""After how long a device that was not there is looked for again."""
_RETRY_NS: Final = round(RETRY_S * 1e9)


class _Peer:
    """A device, and its link if there is one."""

    __slots__ = ("address", "is_up", "link", "number", "retired", "retry_ns", "wants_link")

    def __init__(self, number: int, address: UsbAddress) -> None:
        self.number, self.address = number, address
        self.link: Link | None = None
        self.retired: Link | None = None
        self.is_up = False
        self.wants_link = False  # somebody wanted to send: failing is to be told
        self.retry_ns = 0


class UsbCarrier(Closing):
    """The host's end of its cables.

    Args:
        bus: where devices are found.
        detach: take interfaces away from drivers of the kernel.
        clock: for looking again.

    Attributes:
        name: what devices call this end.
        frame_limit: bytes of the largest frame.
    """

    def __init__(
        self, bus: UsbBus | None = None, *, detach: bool = False, clock: Clock = SYSTEM_CLOCK
    ) -> None:
        self.name, self.frame_limit = HOST_NAME, FRAME_LIMIT
        self._bus = UsbBus() if bus is None else bus
        self._detach, self._clock = detach, clock
        self._bell = Doorbell()
        self._lock = Lock()
        self._news: deque[tuple[Link, News]] = deque()
        self._sink: CarrierSink | None = None
        self._peers: list[_Peer] = []
        self._is_closed = False

    # --- the contract ----------------------------------------------------------------------------

    def open(self, sink: CarrierSink) -> None:
        """Begin."""
        self._sink = sink

    def resolve(self, address: str) -> int:
        """Return the number of a device, which is looked for from now on.

        Raises:
            FabricError: EINVAL, it is no address of a device.
        """
        try:
            parsed = UsbAddress.parse(address)
        except UriError as error:
            raise FabricError(errno.EINVAL, str(error)) from None
        for peer in self._peers:
            if peer.address == parsed:
                return peer.number
        self._peers.append(_Peer(len(self._peers), parsed))
        self._bell.ring()
        return len(self._peers) - 1

    def address_of(self, peer: int) -> str:
        """Return the address of a device."""
        return str(self._peers[peer].address)

    def send(self, peer: int, parts: Sequence[Buffer], token: object = None) -> bool:
        """Send a frame, or begin a link; False until there is one, and room, and once closed.

        Raises:
            FabricError: EMSGSIZE, the frame is too long.
        """
        if self._is_closed:
            return False
        found = self._peers[peer]
        if found.link is None:
            self._begin(found)
        link = found.link
        assert link is not None
        found.wants_link = not found.is_up
        try:
            if not link.send(b"".join(parts)):
                return False
        except RemoteFrameError as error:
            raise FabricError(errno.EMSGSIZE, str(error)) from None
        if token is not None and self._sink is not None:
            self._sink.frame_sent(peer, token)
        return True

    def disconnect(self, peer: int) -> None:
        """End the link after what was sent; `peer_lost` is not called."""
        found = self._peers[peer]
        if found.link is not None and not self._is_closed:
            found.link.stop()
            self._retire(found)

    def progress(self) -> None:
        """Hand on what came, and look for devices that are not there."""
        self._bell.silence()
        while self._sink is not None:
            with self._lock:
                if not self._news:
                    break
                link, news = self._news.popleft()
            self._hand_on(link, news, self._sink)
        if self._sink is not None:
            now_ns = self._clock.monotonic_ns()
            for peer in self._peers:
                if peer.link is None and now_ns >= peer.retry_ns:
                    self._begin(peer)

    def fileno(self) -> int:
        """Return a descriptor that is readable when `progress` has something to do."""
        return self._bell.fileno()

    def next_deadline_ns(self) -> int | None:
        """Return when a device is looked for again."""
        if self._is_closed:
            return None
        return min((peer.retry_ns for peer in self._peers if peer.link is None), default=None)

    def close(self) -> None:
        """End every link after what was sent, and let the devices go."""
        self._sink, self._is_closed = None, True
        links = [peer.link or peer.retired for peer in self._peers]
        for link in links:
            if link is not None:
                link.stop()
        for link in links:
            if link is not None:
                link.join()
        with self._lock:
            self._news.clear()
            self._bell.close()

    # ---------------------------------------------------------------------------------------------

    def _begin(self, peer: _Peer) -> None:
        """Look for a device, in threads of the link's own."""
        address, bus, detach = peer.address, self._bus, self._detach
        peer.is_up = False
        peer.link = Link(
            lambda: bus.open(address, detach=detach), self._tell, peer.retired, clock=self._clock
        )
        peer.retired = None

    def _retire(self, peer: _Peer) -> None:
        """Have no link; the old one may still be letting the device go."""
        peer.retired, peer.link = peer.link, None
        peer.is_up = False
        peer.retry_ns = 0

    def _tell(self, link: Link, news: News) -> None:
        """Take news from a thread of a link."""
        with self._lock:
            self._news.append((link, news))
            self._bell.ring()

    def _hand_on(self, link: Link, news: News, sink: CarrierSink) -> None:
        peer = next((each for each in self._peers if each.link is link), None)
        if peer is None:
            return  # that link was ended here meanwhile
        if news.kind is NewsKind.FRAME:
            sink.frame_arrived(peer.number, memoryview(news.frame))
            link.delivered(len(news.frame))
        elif news.kind is NewsKind.UP:
            peer.is_up, peer.wants_link = True, False
            sink.peer_up(peer.number)
        elif news.kind is NewsKind.ROOM:
            sink.room_made(peer.number)
        else:
            is_to_be_told = peer.is_up or peer.wants_link
            was_up = peer.is_up
            self._retire(peer)
            peer.wants_link = False
            if not was_up:
                peer.retry_ns = self._clock.monotonic_ns() + _RETRY_NS
            if is_to_be_told:
                sink.peer_lost(peer.number, news.code, news.reason)
