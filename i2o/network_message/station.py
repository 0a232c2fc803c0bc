# SPDX-License-Identifier: Apache-2.0
"""Where messages are exchanged, as a process sees it: a node over endpoints, or an IOP."""

from __future__ import annotations

from typing import Protocol

from i2o.transport.fabric.mailbox import Letter, Listed, Want


class SendNow(Protocol):
    """Sends to another node what is simple and needs no waiting."""

    def __call__(
        self,
        number: int,
        event: int,
        type: int,
        flags: int,
        pouch: bytes,
        body: bytes,
        length: int,
        /,
    ) -> int:
        """Send.

        Returns:
            What `nh_dl_link` becomes, -1 if `Station.send` has to do it.
        """


class Station(Protocol):
    """A node, or what stands for one.

    Attributes:
        number: the node's number.
        origin: number of the node that `ORIGIN` means.
    """

    number: int
    origin: int

    @property
    def send_now(self) -> SendNow:
        """What sends to another node, if that is simple and needs no waiting."""

    def send(
        self,
        process: str,
        node: int,
        letter: Letter,
        *,
        no_buffer: bool,
        may_wait: bool,
        timeout_s: float | None,
    ) -> tuple[int, int | None]:
        """Send a message.

        Args:
            process: who sends it.
            node: number of the node that it goes to.
            letter: the message.
            no_buffer: return when a receiver took it, not before.
            may_wait: wait if it cannot go at once; otherwise raise WouldBlock.
            timeout_s: how long to wait; None for ever.

        Returns:
            What `nh_dl_event` and `nh_dl_link` become; None if the latter stays.

        Raises:
            NotAttached, BadNode, WouldBlock, TimedOut, NodeDied, Swept, MessageTooLong: see there.
        """

    def receive(
        self, process: str, want: Want, *, may_wait: bool, timeout_s: float | None
    ) -> Letter:
        """Receive a message; the body has at most the room of `want`, `length` is as sent.

        Raises:
            NotAttached, WouldBlock, TimedOut, NodeDied: see there.
        """

    def probe(self, want: Want) -> Letter | None:
        """Return the message that could be received at once, which stays; None if there is none."""

    def sweep(self, event: int | None = None) -> int:
        """Throw away what waits for receivers: of one event, or all; return how many that were."""

    def listing(self) -> list[Listed]:
        """Return what waits for receivers, oldest first."""

    def look(self, number: int) -> Letter | None:
        """Return a message that waits, by its number; it stays. None if there is no such."""

    def forget(self, process: str) -> None:
        """Let a process go: it does not call any more."""
