# SPDX-License-Identifier: Apache-2.0
"""What a messenger tells of a peer."""

from __future__ import annotations

from typing import Any, NamedTuple

from i2o.transport.tcp.peer import PeerState
from i2o.transport.tcp.peer_name import PeerName


class PeerStatus(NamedTuple):
    """What is known of a peer.

    Attributes:
        name: of it.
        state: as in `PeerState`.
        addresses: where it is said to listen, the best first.
        incarnation: of the process that was linked last.
        loop: number of the event loop that has it.
        waiting: messages that were not sent.
        in_flight: messages that were sent and not acknowledged.
        waiting_bytes: of both.
        messages_sent: since it is known.
        messages_received: since it is known.
        resent: messages that were sent once more over another link.
        duplicates: messages that came once more, and were thrown away.
        connects: links that came up.
        losses: links that were lost.
        failed_attempts: to connect.
        nacks: attempts that gave way to one of the peer's.
        round_trip_ns: of the last ping, 0 if there was none.
        last_error: why it is not connected, in words.
    """

    name: PeerName
    state: PeerState
    addresses: tuple[str, ...]
    incarnation: int
    loop: int
    waiting: int
    in_flight: int
    waiting_bytes: int
    messages_sent: int
    messages_received: int
    resent: int
    duplicates: int
    connects: int
    losses: int
    failed_attempts: int
    nacks: int
    round_trip_ns: int
    last_error: str

    @property
    def is_connected(self) -> bool:
        """Whether a link is up."""
        return self.state is PeerState.CONNECTED

    def as_dict(self) -> dict[str, Any]:
        """Return it as what JSON can say."""
        return {**self._asdict(), "name": str(self.name), "state": self.state.value}
