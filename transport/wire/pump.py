# SPDX-License-Identifier: Apache-2.0
"""Packets in and out of an endpoint: receives that are always posted, sends that end some time.

Uses nothing but the contract of endpoints, and of that only messages without tags.
"""

from __future__ import annotations

import errno
import select
from collections.abc import Callable
from typing import Final, Protocol

from i2o.closing import Closing
from i2o.errors import RemoteFrameError, TransportUnavailable
from i2o.transport.fabric.endpoint import NO_FLAGS, CompletionQueue, Endpoint, Message
from i2o.transport.fabric.errors import ErrorAvailable, FabricError, TryAgain
from i2o.transport.fabric.flags import Bind, CqFormat, Flag
from i2o.transport.fabric.placement import Placement, PlacingEndpoint
from i2o.transport.lazy_memory import zeroed
from i2o.transport.wire.messages import MAX_PACKET, MIN_PACKET, SPARES, WINDOW
from i2o.transport.wire.stream import Packet

_ROUND: Final = 64  # completions that are looked at at a time
_DEPTH: Final = 64  # packets that may be on their way to all others together
_CANCELED: Final = errno.ECANCELED
_UNTIL_OUT: Final = Flag.COMPLETION | Flag.INJECT_COMPLETE


class PacketSink(Protocol):
    """Who gets what a pump brings."""

    def packet_arrived(self, source: int, packet: memoryview) -> None:
        """A packet came; the view is valid until this returns."""

    def packet_begins(self, source: int, length: int, front: memoryview) -> Placement | None:
        """Take the front of a long packet and say where the rest goes, or None: as ever.

        All packets before it were handed on. Nothing can be sent from here.
        """

    def send_failed(self, dest: int, code: int, reason: str) -> None:
        """A packet did not arrive, or nobody knows whether it did."""

    def receive_failed(self, source: int, code: int, reason: str) -> None:
        """A packet came damaged, or too long, and is lost."""


class _Receive:
    __slots__ = ("buffer", "message")

    def __init__(self, size: int) -> None:
        self.buffer = zeroed(size)  # most stay empty when messages are short
        self.message = Message((self.buffer,), context=self)


class _Send:
    __slots__ = ("dest", "packet")

    def __init__(self, packet: Packet, dest: int) -> None:
        self.packet, self.dest = packet, dest


class Pump(Closing):
    """One endpoint that packets go through.

    Args:
        endpoint: not enabled yet; the pump closes it.

    Raises:
        TransportUnavailable: its messages are too small.

    Attributes:
        packet_size: bytes of the largest packet that this end takes.
        buffer_limit: parts of the largest packet that is sent.
        sent: packets that were handed to the endpoint.
        in_flight: packets that somebody follows, and that have not ended.
    """

    def __init__(self, endpoint: Endpoint) -> None:
        attributes = endpoint.attributes
        self.packet_size = min(attributes.max_msg_size, MAX_PACKET)
        self.buffer_limit = max(1, attributes.iov_limit)
        if self.packet_size < MIN_PACKET:
            endpoint.close()
            raise TransportUnavailable(
                attributes.provider,
                f"its messages have {attributes.max_msg_size} bytes at most, "
                f"{MIN_PACKET} at least are needed",
                remedy="use another carrier",
            )
        self._endpoint, self._prefix = endpoint, attributes.msg_prefix_size
        self._depth = min(_DEPTH, attributes.tx_size or _DEPTH)
        self.in_flight = self.sent = 0
        self._is_closed = self._has_worked = False
        self._sink: PacketSink | None = None  # who is told now
        if isinstance(endpoint, PlacingEndpoint):
            endpoint.place_with(self, self.packet_size)
        self._cq: CompletionQueue = endpoint.open_cq(0, CqFormat.TAGGED)
        try:
            endpoint.bind(self._cq, Bind.TRANSMIT | Bind.RECV | Bind.SELECTIVE_COMPLETION)
            endpoint.enable()
            count = WINDOW + SPARES
            if attributes.rx_size:
                count = min(count, attributes.rx_size)
            for _ in range(count):
                self._post(_Receive(self.packet_size + self._prefix))
        except BaseException:
            self.close()
            raise

    @property
    def name(self) -> str:
        """The address of this end."""
        return self._endpoint.name

    def insert(self, address: str) -> int:
        """Return the number of an address; raises FabricError if it is none."""
        return self._endpoint.insert(address)

    def remove(self, address: int) -> None:
        """Forget an address."""
        self._endpoint.remove(address)

    def address_of(self, address: int) -> str:
        """Return the name behind a number, as far as that is known."""
        try:
            return self._endpoint.address_of(address)
        except FabricError:
            return ""

    def send(self, packet: Packet, dest: int) -> bool:
        """Send a packet; False if that cannot be now.

        Raises:
            FabricError: it cannot be at all.
        """
        if self.in_flight >= self._depth:
            return False
        send = _Send(packet, dest)
        buffers = packet.buffers
        if self._prefix:
            buffers = [bytes(self._prefix) + bytes(buffers[0]), *buffers[1:]]
        flags = NO_FLAGS
        if packet.is_followed:
            flags = _UNTIL_OUT if packet.sent else Flag.COMPLETION
        try:
            self._endpoint.sendmsg(Message(buffers, dest, send), flags)
        except TryAgain:
            return False
        self.in_flight += packet.is_followed
        self.sent += 1
        return True

    def run(self, sink: PacketSink) -> bool:
        """Hand on what came; return whether anything did. Never blocks."""
        self._has_worked = False
        self._sink = sink
        try:
            self._hand_on(sink)
        finally:
            self._sink = None
        return self._has_worked

    def message_begins(self, source: int, length: int, front: memoryview) -> Placement | None:
        """Ask where a long packet goes; see `Placer`."""
        sink, self._sink = self._sink, None  # not from within itself
        if sink is None:
            return None
        try:
            self._hand_on(sink)  # what came before is to be seen before
            if self._is_closed:
                return None
            placement = sink.packet_begins(source, length, front)
        finally:
            self._sink = sink
        self._has_worked |= placement is not None
        return placement

    def _hand_on(self, sink: PacketSink) -> None:
        while not self._is_closed:
            try:
                completions = self._cq.read(_ROUND)
            except TryAgain:
                return
            except ErrorAvailable:
                self._has_worked = True
                self._take_error(sink)
                continue
            self._has_worked = True
            for done in completions:
                context = done.context
                if isinstance(context, _Receive):
                    try:
                        view = context.buffer[self._prefix : done.length]
                        sink.packet_arrived(done.source, view)
                    finally:
                        if not self._is_closed:
                            self._post(context)
                elif isinstance(context, _Send):
                    self._end(context)

    def wait(self, timeout_s: float) -> bool:
        """Wait until `run` may find something; False when the time ran out."""
        fd = self.fileno()
        if fd < 0:
            return True
        poller = select.poll()
        poller.register(fd, select.POLLIN)
        return bool(poller.poll(max(0.0, timeout_s) * 1000))

    def fileno(self) -> int:
        """Return a descriptor that is readable when `run` should be called; -1 once closed."""
        return self._cq.fileno()

    def close(self) -> None:
        """Close the endpoint; calling it again does nothing."""
        if self._is_closed:
            return
        self._is_closed = True
        self._endpoint.close()
        self._cq.close()

    # ---------------------------------------------------------------------------------------------

    def _post(self, receive: _Receive) -> None:
        self._endpoint.recvmsg(receive.message, Flag.COMPLETION)

    def _end(self, send: _Send) -> None:
        self.in_flight -= send.packet.is_followed
        for sent in send.packet.sent:
            sent()

    def _take_error(self, sink: PacketSink) -> None:
        error = self._cq.readerr()
        context = error.context
        if isinstance(context, _Send):
            self._end(context)
            sink.send_failed(context.dest, error.err, error.reason)
        elif isinstance(context, _Receive) and error.err != _CANCELED and not self._is_closed:
            self._post(context)
            sink.receive_failed(error.source, error.err, error.reason)


def pump_packets(
    pump: Pump, next_packet: Callable[[], Packet | None], dest: int, waiting: list[Packet]
) -> None:
    """Send what there is to send, in order; what cannot go now stays in `waiting`.

    Raises:
        RemoteFrameError: the endpoint refuses it for good.
    """
    try:
        while waiting:
            if not pump.send(waiting[0], dest):
                return
            waiting.pop(0)
        while (packet := next_packet()) is not None:
            if not pump.send(packet, dest):
                waiting.append(packet)
                return
    except FabricError as error:
        raise RemoteFrameError(f"nothing can be sent: {error.strerror}") from None
