# SPDX-License-Identifier: Apache-2.0
"""Frames between endpoints over TCP: the `Carrier` whose addresses read `tcp://HOST:PORT`.

Peers are found by address; the handshake then tells who is there. What was on its way when a link
broke is lost, as the contract of carriers says: ending operations is the business of who sent them.
"""

from __future__ import annotations

import errno
import ssl
from collections import deque
from collections.abc import Sequence
from typing import Final

from i2o.clock import SYSTEM_CLOCK, Clock
from i2o.closing import Closing
from i2o.transport.fabric.carrier import CarrierSink
from i2o.transport.fabric.endpoint import Buffer
from i2o.transport.fabric.errors import FabricError
from i2o.transport.tcp.address import Address, find_addresses
from i2o.transport.tcp.key import PeerKey
from i2o.transport.tcp.node import Node
from i2o.transport.tcp.options import PeerOptions
from i2o.transport.tcp.peer_name import random_name
from i2o.transport.tcp.wire import Purpose

LOOPBACK: Final = (Address("127.0.0.1", 0),)
"""Where a carrier listens unless it is told otherwise: here, at any port."""


class TcpCarrier(Closing):
    """One end, with all its peers.

    Args:
        listen: where to be called; the first one is the name.
        options: times and limits.
        key: shared with the peers, or None.
        insecure: whether addresses other than loopback may be used without a key.
        server_tls: for callers.
        client_tls: for calling.
        clock: for deadlines.

    Raises:
        TransportUnavailable: an address cannot be had, or not without a key.
    """

    def __init__(
        self,
        listen: Sequence[Address] = LOOPBACK,
        *,
        options: PeerOptions | None = None,
        key: PeerKey | None = None,
        insecure: bool = False,
        server_tls: ssl.SSLContext | None = None,
        client_tls: ssl.SSLContext | None = None,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self._node = Node(
            random_name(),
            Purpose.FRAMES,
            listen,
            options=options,
            key=key,
            insecure=insecure,
            server_tls=server_tls,
            client_tls=client_tls,
            clock=clock,
        )
        self.name = self._node.identity.address
        self.frame_limit = self._node.options.frame_limit
        self._myself: int | None = None
        self._to_myself: deque[bytes] = deque()
        self._to_myself_size = 0
        self._is_ringing = self._is_full = False
        # nothing in between where every frame passes
        self.fileno, self.progress = self._node.fileno, self._node.progress
        self.next_deadline_ns = self._node.next_deadline_ns
        self.place_with = self._node.place_with

    @property
    def node(self) -> Node:
        """The node underneath: states and counters of its peers."""
        return self._node

    def open(self, sink: CarrierSink) -> None:
        """Begin; called once, before anything else."""
        self._sink = sink
        self._node.open(sink)

    def resolve(self, address: str) -> int:
        """Return the number of the peer behind an address.

        A host name is looked up here, which may take a while; nothing is sent to the peer.

        Raises:
            FabricError: EINVAL, it is no address; EHOSTUNREACH, nobody knows the host name;
                EACCES, it is not loopback and there is no key.
        """
        found = find_addresses(address)
        if not all(each.port for each in found):
            raise FabricError(errno.EINVAL, f"{address!r} names no port")
        number = self._node.add_peer(None, found)
        if any(each in self._node.addresses for each in found):
            self._myself = number
        return number

    def address_of(self, peer: int) -> str:
        """Return the address of a peer, or nothing if it only called and does not listen."""
        return str(next(iter(self._node.peer(peer).plan.addresses), ""))

    def send(self, peer: int, parts: Sequence[Buffer], token: object = None) -> bool:
        """Send the parts as one frame; see `Carrier.send`.

        Raises:
            FabricError: EMSGSIZE, it is longer than this end or the peer allows; EINVAL, nobody
                has this number.
        """
        if peer == self._myself:
            return self._send_to_myself(peer, parts, token)
        return self._node.send(peer, parts, token)

    def disconnect(self, peer: int) -> None:
        """Close the link to a peer and forget what waits for it; `peer_lost` is not called."""
        if peer == self._myself:
            self._to_myself.clear()
            self._to_myself_size = 0
        else:
            self._node.disconnect(peer)

    def close(self) -> None:
        """Close every link; nothing is called any more."""
        self._to_myself.clear()
        self._node.close()

    # --- this very end ---------------------------------------------------------------------------

    def _send_to_myself(self, peer: int, parts: Sequence[Buffer], token: object) -> bool:
        """Keep a copy until `progress` is called: nothing arrives from within `send`."""
        frame = b"".join(parts)
        if len(frame) > self.frame_limit:
            raise FabricError(errno.EMSGSIZE, f"a frame of {len(frame)} bytes")
        limit = self._node.options.queue_limit
        if self._to_myself and self._to_myself_size + len(frame) > limit:
            self._is_full = True
            return False
        self._to_myself.append(frame)
        self._to_myself_size += len(frame)
        self._ring(peer)
        self._sink.frame_sent(peer, token)
        return True

    def _ring(self, peer: int) -> None:
        if not self._is_ringing:
            self._is_ringing = True
            self._node.call_soon(lambda: self._deliver_to_myself(peer))

    def _deliver_to_myself(self, peer: int) -> None:
        self._is_ringing = False
        for _ in range(len(self._to_myself)):
            if not self._to_myself:
                return  # disconnected meanwhile
            frame = self._to_myself.popleft()
            self._to_myself_size -= len(frame)
            self._sink.frame_arrived(peer, memoryview(frame))
        if self._is_full:
            self._is_full = False
            self._sink.room_made(peer)
