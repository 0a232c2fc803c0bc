# SPDX-License-Identifier: Apache-2.0
"""What carries frames under the software engine of endpoints: the contract, and nothing else.

A carrier moves frames whole, once and in order, between this end and its peers, as long as a
peer's link lives. It knows nothing of messages, tags or completions. A link that breaks is reported
once, and everything that was on its way with it is lost as far as the carrier is concerned.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from i2o.transport.fabric.endpoint import Buffer


class CarrierSink(Protocol):
    """Who gets what a carrier brings. Called from within `progress` and `send` only."""

    def frame_arrived(self, peer: int, frame: memoryview) -> None:
        """A frame came; the view is valid until this returns. Must not raise for bad content."""

    def frame_sent(self, peer: int, token: object) -> None:
        """The buffers of the send with this token are not needed any more."""

    def room_made(self, peer: int) -> None:
        """A `send` to this peer that returned False may be tried again."""

    def peer_up(self, peer: int) -> None:
        """A link to the peer exists from now on, whoever asked for it."""

    def peer_lost(self, peer: int, error: int, reason: str) -> None:
        """The link broke, or none could be made; frames not delivered will never be.

        Args:
            peer: whose.
            error: an errno: ECONNRESET, EHOSTUNREACH, ETIMEDOUT, …
            reason: why, in words.
        """


@runtime_checkable
class SplitSink(Protocol):
    """A sink that takes frames in two parts, from a carrier that would have to join them."""

    def split_frame_arrived(self, peer: int, frame: memoryview, body: memoryview) -> None:
        """As `frame_arrived`.

        Args:
            peer: from whom.
            frame: the first part that the sender gave.
            body: everything behind it.
        """


class Carrier(Protocol):
    """One end of a medium that has several peers."""

    name: str
    """The address by which peers reach this end."""
    frame_limit: int
    """The largest frame in bytes."""

    def open(self, sink: CarrierSink) -> None:
        """Begin; called once, before anything else."""

    def resolve(self, address: str) -> int:
        """Return the number of the peer behind an address; nothing is sent yet.

        The same peer always has the same number, also when it is the one who made the link.

        Raises:
            FabricError: EINVAL, the address makes no sense.
        """

    def address_of(self, peer: int) -> str:
        """Return the address of a peer, as far as it is known."""

    def send(self, peer: int, parts: Sequence[Buffer], token: object = None) -> bool:
        """Send the parts as one frame, making a link first where there is none.

        The parts are bytes or views of single bytes (`byte_view`): their lengths are taken for
        their sizes. The carrier may keep them until it says `frame_sent` or `peer_lost`.

        Returns:
            False if there is no room now: nothing was sent, and `room_made` will be called.
        """

    def disconnect(self, peer: int) -> None:
        """Close the link to a peer and forget what waits for it; `peer_lost` is not called."""

    def progress(self) -> None:
        """Move bytes, and call the sink."""

    def fileno(self) -> int:
        """Return a descriptor that is readable when `progress` has something to do, or -1."""

    def next_deadline_ns(self) -> int | None:
        """Return when `progress` is to be called although nothing became readable, or None."""

    def close(self) -> None:
        """Close every link; nothing is called any more."""


@runtime_checkable
class LingeringCarrier(Protocol):
    """A carrier that can look for a frame for a while without the interpreter's lock."""

    def linger(self, nanoseconds: int) -> None:
        """Do what `progress` does, and before it look for a frame for so long at most.

        It does not look where that is not worth it.
        """


@runtime_checkable
class GroupCarrier(Protocol):
    """A carrier of datagrams that has groups; a frame for one goes to each of its members."""

    def join(self, group: str) -> int:
        """Join a group and return the number to send to it."""

    def leave(self, peer: int) -> None:
        """Leave it."""
