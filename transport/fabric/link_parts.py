# SPDX-License-Identifier: Apache-2.0
"""What the two halves of a link need of it and of each other."""

from __future__ import annotations

from typing import Protocol

from i2o.transport.fabric.inbox import Inbox
from i2o.transport.fabric.operations import SourceBooks


class Acknowledged(Protocol):
    """The sending half, as the receiving one sees it."""

    seen: tuple[int, int, int]

    def acknowledged(self, arrived: int, message_limit: int, byte_limit: int) -> None:
        """The peer says what arrived, and how far to go."""


class Telling(Protocol):
    """The receiving half, as the sending one sees it."""

    def tell(self) -> tuple[int, int, int]:
        """Return what the peer is told by what is sent now."""

    def not_told(self) -> None:
        """It could not be sent after all."""

    def ask(self) -> None:
        """Ask the peer to say at once what arrived and how far to go, and at every change."""


class WholeLink(Protocol):
    """The link, as its halves see it."""

    @property
    def peer(self) -> int:
        """The carrier's number of the peer."""

    @property
    def address(self) -> int:
        """The peer's fi_addr, if it has one."""

    @property
    def epoch(self) -> int:
        """Of this side, in every frame."""

    @property
    def life(self) -> int:
        """How many links with this peer were lost."""

    @property
    def is_open(self) -> bool:
        """Whether messages may be sent."""

    @property
    def inbox(self) -> Inbox | None:
        """Who its messages are for."""

    def mark(self) -> None:
        """Let the engine `pump` this link soon."""

    def control(self, frame: bytes) -> None:
        """Send a small frame soon."""

    def pump(self) -> None:
        """Send what can be sent now."""


class ReceivingLink(WholeLink, Protocol):
    """The link, as its receiving half sees it."""

    @property
    def outgoing(self) -> Acknowledged:
        """The other half."""

    @property
    def incoming(self) -> SourceBooks:
        """This half."""


class SendingLink(WholeLink, Protocol):
    """The link, as its sending half sees it."""

    @property
    def incoming(self) -> Telling:
        """The other half."""
