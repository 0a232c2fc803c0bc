# SPDX-License-Identifier: Apache-2.0
"""What a node knows of another one: where it is, and how much it may still send there."""

from __future__ import annotations

from collections import deque

from i2o.network_message.packet import INITIAL_WINDOW
from i2o.network_message.waits import Wait


class Peer:
    """Another node.

    Attributes:
        number: its number.
        address: what its endpoint is called.
        link: `nh_dl_link` of messages that go there.
        handle: the endpoint's number for the address.
        session: number of its acquaintance with us; None before it said hello.
        own_session: number of our acquaintance with it; 0 before we said hello.
        epoch: counts the times that it was buried.
        window: bytes that it lets us have waiting there.
        credit: bytes of these that are left.
        granted: bytes that it may have waiting here.
        held: bytes of these that it has.
        owed: bytes that are free again here, and which it was not told of.
        queue: calls that wait for credit, and how much.
        asking: calls that wait for an answer to a ping, by its number.
        outbox: packets that the endpoint had no room for.
        heard_ns: when something came from it, as far as anybody looked.
        is_heard: something came from it since then.
        asked_ns: when it was asked for a sign of life.
    """

    __slots__ = (
        "address",
        "asked_ns",
        "asking",
        "credit",
        "epoch",
        "granted",
        "handle",
        "heard_ns",
        "held",
        "is_heard",
        "link",
        "number",
        "outbox",
        "owed",
        "own_session",
        "queue",
        "session",
        "window",
    )  # fmt: skip

    def __init__(self, number: int, address: str, link: int, handle: int, granted: int) -> None:
        self.number, self.address, self.link, self.handle = number, address, link, handle
        self.granted = granted
        self.session: int | None = None
        self.own_session = self.epoch = 0
        self.window = self.credit = INITIAL_WINDOW
        self.held = self.owed = 0
        self.heard_ns = self.asked_ns = 0
        self.is_heard = False
        self.queue: deque[tuple[int, Wait]] = deque()
        self.asking: dict[int, Wait] = {}
        self.outbox: deque[bytes] = deque()

    def pay(self, amount: int) -> None:
        """Take back credit, and let those go on who waited for it, in their order."""
        self.credit = min(self.credit + amount, self.window)
        while self.queue and self.queue[0][0] <= self.credit:
            cost, wait = self.queue.popleft()
            self.credit -= cost
            wait.finish()

    def forget(self) -> list[Wait]:
        """Begin anew, as with a node that never said hello; return the calls that waited."""
        waits = [*(wait for _, wait in self.queue), *self.asking.values()]
        self.queue.clear()
        self.asking.clear()
        self.outbox.clear()
        self.session, self.own_session = None, 0
        self.window = self.credit = INITIAL_WINDOW
        self.held = self.owed = 0
        self.epoch += 1
        return waits
