# SPDX-License-Identifier: Apache-2.0
"""Times and limits of peers, with the defaults of each."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class PeerOptions:
    """How long is waited for what, and how much of everything there may be.

    Attributes:
        connect_timeout_s: for TCP to connect to one address.
        handshake_timeout_s: from then on, or from accepting, until the handshake is over.
        rounds: how often all addresses of a peer are tried before it counts as unreachable.
        retry_delay_s: between two rounds, doubled each time up to `retry_delay_max_s`; also how
            long one waits whose link was refused in favour of the peer's own, which may happen
            four times more often than there are rounds.
        retry_delay_max_s: see there.
        keepalive_idle_s: silence after which a peer is asked whether it lives.
        keepalive_timeout_s: silence after that which ends the link.
        frame_limit: bytes of the longest frame that is taken.
        queue_limit: bytes that may wait for one peer; one frame always may.
        total_queue_limit: bytes that may wait for all peers together.
        half_open_limit: callers in the handshake; when there are more, the oldest goes.
        peer_limit: peers; callers beyond are refused.
        accept_pause_s: how long no caller is accepted when descriptors have run out.
        linger_s: how long a link that is closed on purpose waits for the other end to close.
        backlog: callers that the system keeps until they are accepted.
        spin_s: how long a blocking wait looks for frames before it sleeps, if the last frame came
            shortly before; 0 sleeps at once, and so do event loops with threads of their own.
    """

    connect_timeout_s: float = 5.0
    handshake_timeout_s: float = 5.0
    rounds: int = 3
    retry_delay_s: float = 0.1
    retry_delay_max_s: float = 2.0
    keepalive_idle_s: float = 5.0
    keepalive_timeout_s: float = 10.0
    frame_limit: int = 4 << 20
    queue_limit: int = 8 << 20
    total_queue_limit: int = 256 << 20
    half_open_limit: int = 256
    peer_limit: int = 4096
    accept_pause_s: float = 0.1
    linger_s: float = 1.0
    backlog: int = 1024
    spin_s: float = 50e-6


@dataclass(frozen=True, slots=True)
class MessengerOptions:
    """Limits of a messenger, beside those of its links.

    Attributes:
        peer: of the links.
        queue_messages: messages to one peer that have not ended; more are refused.
        queue_bytes: bytes of them, each with 64 more.
        window: bytes of messages of one peer that are kept until somebody receives them.
        come_back_s: how long messages wait for a peer whose link was lost.
        receipt_s: how long a message over relays waits to hear of its destination.
    """

    peer: PeerOptions = field(default_factory=PeerOptions)
    queue_messages: int = 4096
    queue_bytes: int = 16 << 20
    window: int = 8 << 20
    come_back_s: float = 10.0
    receipt_s: float = 10.0
