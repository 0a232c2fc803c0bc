# SPDX-License-Identifier: Apache-2.0
"""Other ways to carry a message whose next hop a messenger does not know: the contract.

Components are asked in order. One that cannot reach the destination says so at once, and the next
one is asked: TAKE_NEXT_OPTION of Open MPI.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import Enum
from typing import NamedTuple, Protocol

from i2o.transport.fabric.endpoint import Buffer
from i2o.transport.tcp.errors import PeerError
from i2o.transport.tcp.peer_name import PeerName


class Letter(NamedTuple):
    """A message that looks for a carrier.

    Attributes:
        origin: who sent it.
        destination: who is to have it.
        tag: for the receiver to match.
        parts: its bytes, which stay as they are until it has ended.
        hops: links that it may still go over.
    """

    origin: PeerName
    destination: PeerName
    tag: int
    parts: Sequence[Buffer]
    hops: int


class Offered(Enum):
    """What a component says to a letter."""

    TAKEN = "taken"
    TAKE_NEXT = "take next"


class Component(Protocol):
    """A way to carry messages."""

    def offer(self, letter: Letter, done: Callable[[PeerError | None], None]) -> Offered:
        """Take a letter, or leave it to the next component.

        Args:
            letter: the message.
            done: to be called once, if it is taken: with None, or with what went wrong. Not from
                within this call.
        """
