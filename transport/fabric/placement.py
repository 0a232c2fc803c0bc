# SPDX-License-Identifier: Apache-2.0
"""Messages whose bytes go where they belong while they come: nothing is copied afterwards.

A carrier that reads a long frame shows its front as soon as it has that; whoever knows what the
message is for then says where the rest goes. Such a message takes no posted receive and makes no
entry of a completion queue. Everything else is received as ever.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeAlias, runtime_checkable

Read: TypeAlias = Callable[[memoryview], int]
"""Reads into a buffer and returns how much; 0 is the end, BlockingIOError that nothing is there."""


class Placement(Protocol):
    """Where the rest of one message goes."""

    def fill(self, read: Read) -> int:
        """Read once, at most what is missing of the message, into where that belongs.

        Returns:
            What `read` returned; what it raises passes through.
        """

    def lost(self, code: int, reason: str) -> None:
        """The rest will not come: `fill` is not called any more."""


class Placer(Protocol):
    """Who says where messages go."""

    def message_begins(self, source: int, length: int, front: memoryview) -> Placement | None:
        """Take the front of a long message that comes.

        Called from within the progress of an endpoint, before anything that came later is seen.

        Args:
            source: the sender's fi_addr, if it has one.
            length: bytes of the whole message.
            front: its first bytes, valid until this returns.

        Returns:
            Where the rest goes: the front is taken then. None: the message is received as others.
        """


@runtime_checkable
class PlacingEndpoint(Protocol):
    """An endpoint that asks where long messages go, if its carrier can."""

    def place_with(self, placer: Placer, limit: int) -> bool:
        """Ask this one from now on; to be called before `enable` and before addresses are inserted.

        Args:
            placer: who is asked.
            limit: bytes of the longest message that is sent without being announced first.

        Returns:
            Whether the carrier can; if not, nothing has changed.
        """


@runtime_checkable
class PlacingCarrier(Protocol):
    """A carrier that shows long frames while they come."""

    def place_with(self, begins: Callable[[int, int, memoryview], Placement | None]) -> None:
        """Call this with peer, size and front of long frames.

        If it returns a placement, that gets the rest of the frame, and the sink nothing.
        """
