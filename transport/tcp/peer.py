# SPDX-License-Identifier: Apache-2.0
"""One peer as a node knows it: where it is, how the link to it stands, what waits for it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

from i2o.transport.tcp.address import Address
from i2o.transport.tcp.dial_plan import DialPlan
from i2o.transport.tcp.link import Link
from i2o.transport.tcp.options import PeerOptions
from i2o.transport.tcp.outbox import Outbox
from i2o.transport.tcp.peer_name import PeerName
from i2o.transport.tcp.timers import Timer


class PeerState(Enum):
    """How the link to a peer stands."""

    UNCONNECTED = "unconnected"  # nobody tried, or the link is gone
    CONNECTING = "connecting"  # TCP connects
    CONNECT_ACK = "connect-ack"  # the handshake is under way
    WAITING = "waiting"  # for the next round, or for the link that the peer prefers
    CONNECTED = "connected"
    FAILED = "failed"  # all rounds were made; the next send begins again


@dataclass(slots=True)
class PeerCounters:
    """What happened with a peer since it is known."""

    frames_sent: int = 0
    frames_received: int = 0
    bytes_sent: int = 0
    bytes_received: int = 0
    connects: int = 0
    losses: int = 0
    failed_attempts: int = 0
    nacks: int = 0


class Peer:
    """A peer.

    Args:
        number: what this end calls it.
        options: rounds and delays.
        on_state: told of the peer whenever it is in another state.

    Attributes:
        name: as the handshake or the caller of `add_peer` said; None while nobody knows.
        is_named: whether only a peer with this name is meant, wherever it is found.
        told: where it says that it listens, if nobody here said so, too.
        incarnation: the newest that was linked.
        link: the link that is up.
        dial: the link that is being made.
        confirming: incarnation of the peer to which `dial` has sent its proof, else 0.
        retry: when the next attempt is made, in the state WAITING.
        numbers: all that it has: more than one if it turned out to be two that were known.
    """

    def __init__(self, number: int, options: PeerOptions, on_state: Callable[[Peer], None]) -> None:
        self.number = number
        self.numbers = [number]
        self.name: PeerName | None = None
        self.is_named = False
        self.plan = DialPlan(options)
        self.told: Address | None = None
        self._state, self._on_state = PeerState.UNCONNECTED, on_state
        self.incarnation = 0
        self.link: Link | None = None
        self.dial: Link | None = None
        self.confirming = 0
        self.retry: Timer | None = None
        self.outbox = Outbox()
        self.counters = PeerCounters()
        self.last_error = (0, "")
        self.round_trip_ns = 0

    @property
    def state(self) -> PeerState:
        """How the link to it stands. Why it is so is set first: `link`, `last_error`."""
        return self._state

    @state.setter
    def state(self, state: PeerState) -> None:
        if state is not self._state:
            self._state = state
            self._on_state(self)

    def __repr__(self) -> str:
        return f"<Peer {self.number} {self.name or '?'} {self.state.value}>"
