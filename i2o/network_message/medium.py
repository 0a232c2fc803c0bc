# SPDX-License-Identifier: Apache-2.0
"""What carries packets between nodes: an endpoint, or a carrier without an endpoint above it.

Nodes match and grant credit themselves, so a carrier is all that they need, and the faster way. An
endpoint is for fabrics that are nothing else, such as libfabric's.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import Final, NamedTuple, Protocol, TypeGuard, cast

from i2o.network_message.packet import HEADER_SIZE
from i2o.transport.fabric.carrier import Carrier, LingeringCarrier
from i2o.transport.fabric.endpoint import Endpoint
from i2o.transport.fabric.errors import ErrorAvailable, TryAgain
from i2o.transport.fabric.flags import ADDR_UNSPEC, Bind

_READ_AT_ONCE: Final = 16
_LAST: Final = object()
"""Token of the last packet to a node."""
NOBODY: Final = -1
"""The handle of a sender that the medium does not know."""


class MediumSink(Protocol):
    """Who gets what a medium brings; called from within its `progress` and `send`."""

    def packet_arrived(self, handle: int, packet: memoryview) -> None:
        """A packet came; the view is valid until this returns.

        Args:
            handle: who sent it; `NOBODY` if the medium does not know.
            packet: its bytes.
        """

    def link_lost(self, handle: int, reason: str) -> None:
        """What was sent there will not arrive."""

    def packet_lost(self, reason: str) -> None:
        """A packet came that could not be received."""


class Medium(Protocol):
    """Carries packets, in order between two nodes.

    Attributes:
        packet_limit: bytes of the largest packet.
    """

    packet_limit: int

    @property
    def name(self) -> str:
        """The address by which others reach this end."""

    def open(self, sink: MediumSink) -> None:
        """Begin; called once."""

    def insert(self, address: str) -> int:
        """Return a number for an address; raises FabricError if it is none."""

    @property
    def send(self) -> Callable[[int, tuple[bytes]], bool]:
        """What sends a packet, and returns whether there was room for it; raises FabricError."""

    @property
    def progress(self) -> Callable[[], None]:
        """What brings to the sink what came."""

    def send_last(self, handle: int, packet: bytes) -> bool:
        """Send the last packet to a node, as `send` does; `unsent` tells when it has left."""

    @property
    def unsent(self) -> int:
        """How many last packets have not left yet, and may still do so."""

    def fileno(self) -> int:
        """Return a descriptor that is readable when there is something to do, or -1."""

    @property
    def linger(self) -> Callable[[int], None] | None:
        """What does what `progress` does, but may look for a packet for so many nanoseconds."""

    def close(self) -> None:
        """Send what can be sent at once, and end."""


class CarrierMedium:
    """A carrier; see `Medium`.

    Args:
        carrier: not opened yet; closed with this.
    """

    def __init__(self, carrier: Carrier) -> None:
        self._carrier = carrier
        self._last: set[int] = set()
        self.packet_limit = carrier.frame_limit
        self.fileno = carrier.fileno
        self.send: Callable[[int, tuple[bytes]], bool] = carrier.send
        self.progress = carrier.progress
        self.linger = carrier.linger if isinstance(carrier, LingeringCarrier) else None

    @property
    def name(self) -> str:
        """The carrier's address."""
        return self._carrier.name

    def open(self, sink: MediumSink) -> None:
        """Open the carrier."""
        self._carrier.open(_Arrivals(sink, self._last))

    def insert(self, address: str) -> int:
        """Return the carrier's number of a peer."""
        return self._carrier.resolve(address)

    def send_last(self, handle: int, packet: bytes) -> bool:
        """Send a packet, and remember it until the carrier has written all before it, and it."""
        self._last.add(handle)
        if self._carrier.send(handle, (packet,), _LAST):
            return True
        self._last.discard(handle)
        return False

    @property
    def unsent(self) -> int:
        """How many last packets the carrier keeps."""
        return len(self._last)

    def close(self) -> None:
        """Let the last frames go, and close the carrier."""
        self.progress()
        self._carrier.close()


class _Arrivals:
    """What a carrier tells, handed on; frames go straight to the sink."""

    def __init__(self, sink: MediumSink, last: set[int]) -> None:
        self._sink, self._last = sink, last
        self.frame_arrived = sink.packet_arrived

    def frame_sent(self, peer: int, token: object) -> None:
        """Take note of the last packet; the others are immutable, and nobody waits for them."""
        if token is _LAST:
            self._last.discard(peer)

    def room_made(self, peer: int) -> None:
        """Nothing: what waits is tried again before every progress."""

    def peer_up(self, peer: int) -> None:
        """Nothing: nodes introduce themselves."""

    def peer_lost(self, peer: int, error: int, reason: str) -> None:
        """Hand the news on."""
        self._last.discard(peer)
        self._sink.link_lost(peer, reason)


class _Slot:
    """A buffer that is posted for a packet."""

    __slots__ = ("view",)

    def __init__(self, size: int) -> None:
        self.view = memoryview(bytearray(size))


class _Last(NamedTuple):
    """Context of the last packet to a node."""

    handle: int


class EndpointMedium:
    """An unconnected endpoint; see `Medium`.

    Args:
        endpoint: not enabled yet; closed with this.
        receives: packets that are received without anybody asking for them.
        packet_limit: bytes of the largest packet.
    """

    def __init__(self, endpoint: Endpoint, receives: int, packet_limit: int) -> None:
        self._endpoint, self._receives = endpoint, receives
        most = endpoint.attributes.max_msg_size
        self.packet_limit = min(packet_limit, most) if most else packet_limit
        self._is_closed = False
        self._last: set[int] = set()
        self._cq = endpoint.open_cq()
        self.linger = None
        self.fileno = self._cq.fileno
        endpoint.bind(self._cq, Bind.TRANSMIT | Bind.RECV)

    @property
    def name(self) -> str:
        """The endpoint's name."""
        return self._endpoint.name

    def open(self, sink: MediumSink) -> None:
        """Enable the endpoint, and post receives."""
        self._sink = sink
        self._endpoint.enable()
        self._read, self._send_message = self._cq.read, self._endpoint.send
        self._recv = self._endpoint.recv
        for _ in range(self._receives):
            slot = _Slot(self.packet_limit)
            self._recv(slot.view, context=slot)

    def insert(self, address: str) -> int:
        """Return the endpoint's number of an address."""
        return self._endpoint.insert(address)

    @property
    def send(self) -> Callable[[int, tuple[bytes]], bool]:
        """What sends a packet as a message."""
        return self._send

    def _send(self, handle: int, packet: tuple[bytes], context: object = None) -> bool:
        try:
            self._send_message(packet[0], handle, context=handle if context is None else context)
        except TryAgain:
            return False
        return True

    def send_last(self, handle: int, packet: bytes) -> bool:
        """Send a packet, and remember it until it has completed."""
        if not self._send(handle, (packet,), _Last(handle)):
            return False
        self._last.add(handle)
        return True

    @property
    def unsent(self) -> int:
        """How many last packets have no completion yet."""
        return len(self._last)

    @property
    def progress(self) -> Callable[[], None]:
        """What reads completions."""
        return self._progress

    def _progress(self) -> None:
        try:
            entries = self._read(_READ_AT_ONCE)
        except ErrorAvailable:
            self._failed()
            return
        except TryAgain:
            return
        for entry in entries:
            slot = entry.context
            if isinstance(slot, _Slot):
                source = NOBODY if entry.source == ADDR_UNSPEC else entry.source
                self._sink.packet_arrived(source, slot.view[: entry.length])
                if not self._is_closed:
                    self._recv(slot.view, context=slot)
            elif isinstance(slot, _Last):
                self._last.discard(slot.handle)

    def _failed(self) -> None:
        entry = self._cq.readerr()
        context, reason = entry.context, entry.reason or f"error {entry.err}"
        if isinstance(context, _Slot):
            if entry.err != errno.ECANCELED and not self._is_closed:
                self._sink.packet_lost(reason)
                self._recv(context.view, context=context)
        elif isinstance(context, _Last):
            self._last.discard(context.handle)
        elif isinstance(context, int):
            self._sink.link_lost(context, reason)

    def close(self) -> None:
        """Let the last packets go, and close the endpoint and its queue."""
        self._endpoint.progress()
        self._is_closed = True
        self._endpoint.close()
        self._cq.close()


def _is_endpoint(link: Endpoint | Carrier) -> TypeGuard[Endpoint]:
    """Whether it has what only endpoints have; a carrier cannot open queues."""
    return hasattr(link, "open_cq")


def medium_of(link: Endpoint | Carrier, receives: int, packet_size: int) -> Medium:
    """Return the medium for what a node was given.

    Args:
        link: an endpoint or a carrier.
        receives: see `EndpointMedium`.
        packet_size: bytes of a body in one packet.
    """
    if _is_endpoint(link):
        return EndpointMedium(link, receives, packet_size + HEADER_SIZE)
    return CarrierMedium(cast(Carrier, link))
