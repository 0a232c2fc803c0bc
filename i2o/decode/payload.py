# SPDX-License-Identifier: Apache-2.0
"""What the messages of endpoints contain: the contract of those who can read a protocol.

A follower sees every message of a conversation in order. It must be sure, by a signature that
nobody else has, before it says that a message is of its protocol; what nobody knows is shown as
bytes. Those that exist are named in `payload_followers`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from i2o.decode.tree import Node
from i2o.transport.capture.message_record import MessageRecord


class Payload(Protocol):
    """The content of one message. Nothing here raises, whatever the bytes are.

    Attributes:
        name: of the protocol, as JSON and trees call it.
    """

    name: str

    def text(self) -> str:
        """Return what it says, in less than a line."""

    def nodes(self) -> list[Node]:
        """Return it as nodes; offsets count from the start of the message."""


class PayloadFollower(Protocol):
    """Follows the messages of one protocol, in bounded memory."""

    def follow(self, endpoint: int, time_ns: int, record: MessageRecord) -> Payload | None:
        """Take the next message that was sent or received; None if it is not of this protocol.

        Args:
            endpoint: number of the endpoint that sent or received it.
            time_ns: when.
            record: the message; its payload may be cut.
        """


def followed(
    followers: Sequence[PayloadFollower], endpoint: int, time_ns: int, record: MessageRecord
) -> Payload | None:
    """Return what the first of some followers that knows a message makes of it."""
    for follower in followers:
        payload = follower.follow(endpoint, time_ns, record)
        if payload is not None:
            return payload
    return None
