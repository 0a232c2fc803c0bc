# SPDX-License-Identifier: Apache-2.0
"""Messages that wait for a receiver, and receivers that wait for a message: LAM's rule of matching.

A message has an event and a type. A receiver takes it if the events are equal and the types have
a bit in common, or one of them is 0. Of several receivers the one with the highest priority gets
it, of equal ones the one that waited first. What waits is bounded in bytes, may be too old, and
can be listed and swept. Nothing here waits, sends, or knows what a message is for.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from i2o.transport.fabric.matching import Matcher

OVERHEAD: Final = 64
"""Bytes that a message counts for beside its body, so that empty ones are bounded, too."""
POUCH_SIZE: Final = 32
"""Bytes of the pouch that every message has."""


class Letter:
    """A message at the receiver's side.

    Attributes:
        source: number of the node that sent it.
        event: what receivers synchronize on.
        type: its type mask.
        flags: the sender's flags.
        pouch: the 8 words, as the sender had them in memory.
        body: its bytes; of an announced message, None until it is asked for.
        length: bytes of the body.
        is_transfer: for a receiver of transfers, and for no other.
        is_offer: the body is still the sender's, who waits until somebody takes it.
        is_swapped: pouch and body are in the byte order that is not this machine's.
        number: counts messages at this mailbox.
        due_ns: when it is too old, or None.
        origin: whatever its owner has to know.
        epoch: which life of its origin it belongs to.
        message: number that its sender gave it.
    """

    __slots__ = (
        "body", "due_ns", "epoch", "event", "flags", "is_offer", "is_swapped", "is_transfer",
        "length", "message", "number", "origin", "pouch", "source", "type",
    )  # fmt: skip

    def __init__(
        self,
        source: int,
        event: int,
        type: int,
        flags: int,
        pouch: bytes,
        body: bytes | bytearray | memoryview | None,
        length: int,
        is_transfer: bool = False,
        is_swapped: bool = False,
        origin: object = None,
        epoch: int = 0,
        message: int = 0,
    ) -> None:
        self.source, self.event, self.type, self.flags = source, event, type, flags
        self.pouch, self.body, self.length = pouch, body, length
        self.is_transfer, self.is_swapped, self.origin = is_transfer, is_swapped, origin
        self.epoch, self.message = epoch, message
        self.is_offer, self.number = False, 0
        self.due_ns: int | None = None

    @property
    def cost(self) -> int:
        """Bytes that it counts for while it waits."""
        return OVERHEAD if self.is_offer or self.body is None else OVERHEAD + self.length


class Want:
    """A receiver that waits.

    Attributes:
        event: what it synchronizes on.
        type: its type mask.
        source: the only node it takes messages from, or None for any.
        priority: higher ones are asked first.
        is_transfer: it takes transfers, and nothing else.
        is_instant: it takes only what can be had at once: not a body that another node has still.
        room: bytes that it has room for.
        letter: what it got.
        owner: whatever its owner has to know.
    """

    __slots__ = (
        "event", "is_instant", "is_transfer", "letter", "owner", "priority", "room", "source",
        "type",
    )  # fmt: skip

    def __init__(
        self,
        event: int,
        type: int,
        source: int | None = None,
        priority: int = 0,
        room: int = 0,
        is_transfer: bool = False,
        is_instant: bool = False,
        owner: object = None,
    ) -> None:
        self.event, self.type, self.source, self.priority = event, type, source, priority
        self.is_transfer, self.is_instant, self.room = is_transfer, is_instant, room
        self.owner = owner
        self.letter: Letter | None = None


class Listed(NamedTuple):
    """One message that waits, as `Mailbox.listing` tells it.

    Attributes:
        number: counts messages at this mailbox.
        source: node that sent it.
        event: as sent.
        type: as sent.
        length: bytes of the body.
        flags: as sent.
        pouch: the 32 bytes, in the sender's byte order.
        is_announced: the sender waits until somebody takes it.
        is_swapped: as `Letter.is_swapped`.
    """

    number: int
    source: int
    event: int
    type: int
    length: int
    flags: int
    pouch: bytes
    is_announced: bool
    is_swapped: bool


def accepts(want: Want, letter: Letter) -> bool:
    """Whether a receiver takes a message."""
    asked, sent = want.type, letter.type
    return (
        want.event == letter.event
        and (not asked or not sent or asked & sent != 0)
        and (want.source is None or want.source == letter.source)
        and want.is_transfer == letter.is_transfer
        and (letter.body is not None or not want.is_instant)
    )


class Mailbox:
    """Messages and receivers of one node.

    Args:
        space: bytes of messages that may wait.
        ttl_ns: how long a message may wait; None for ever.

    Attributes:
        used: bytes of messages that wait.
        receiver: returns the receiver that a message goes to, which waits no longer; keeps
            nothing.
    """

    def __init__(self, space: int, ttl_ns: int | None = None) -> None:
        self.space, self.ttl_ns = space, ttl_ns
        self.used = 0
        self._matcher: Matcher[Want, Letter] = Matcher(accepts)
        self.receiver = self._matcher.offer
        self._next_number = 1

    # --- messages --------------------------------------------------------------------------------

    def has_room(self, cost: int) -> bool:
        """Whether a message of this cost may wait."""
        return self.used + cost <= self.space

    def keep(self, letter: Letter, now_ns: int) -> None:
        """Let a message wait that has no receiver. The owner has asked `has_room`."""
        letter.number = self._next_number
        self._next_number += 1
        if self.ttl_ns is not None:
            letter.due_ns = now_ns + self.ttl_ns
        self.used += letter.cost
        self._matcher.keep(letter)

    def take(self, want: Want) -> Letter | None:
        """Take out the oldest message for a receiver that does not wait."""
        return self._gone(self._matcher.claim(want))

    def peek(self, want: Want) -> Letter | None:
        """Return the oldest message for a receiver; it waits on."""
        return self._matcher.peek(want)

    def withdraw(self, letter: Letter) -> bool:
        """Take a message out; return whether it waited."""
        if not self._matcher.withdraw(letter):
            return False
        self._gone(letter)
        return True

    def sweep(self, event: int | None = None) -> list[Letter]:
        """Take out the messages of one event, or all of them."""
        return self._all_gone(
            self._matcher.sweep(lambda letter: event is None or letter.event == event)
        )

    def forget_source(self, source: int, *, announced_only: bool = False) -> list[Letter]:
        """Take out what a node sent: all, or only the bodies that it still has."""
        return self._all_gone(
            self._matcher.sweep(
                lambda letter: (
                    letter.source == source and (letter.body is None or not announced_only)
                )
            )
        )

    def forget_origin(self, origin: object) -> list[Letter]:
        """Take out what belongs to one origin."""
        return self._all_gone(self._matcher.sweep(lambda letter: letter.origin is origin))

    def expire(self, now_ns: int) -> list[Letter]:
        """Take out what is too old."""
        return self._all_gone(
            self._matcher.sweep(
                lambda letter: letter.due_ns is not None and letter.due_ns <= now_ns
            )
        )

    @property
    def next_due_ns(self) -> int | None:
        """When the next message becomes too old, or None."""
        if self.ttl_ns is None:
            return None
        times = (letter.due_ns for letter in self._matcher.messages())
        return min((due for due in times if due is not None), default=None)

    def listing(self) -> list[Listed]:
        """Return what waits, oldest first."""
        return [
            Listed(
                letter.number, letter.source, letter.event, letter.type, letter.length,
                letter.flags, letter.pouch, letter.is_offer or letter.body is None,
                letter.is_swapped,
            )
            for letter in self._matcher.messages()
        ]  # fmt: skip

    def look(self, number: int) -> Letter | None:
        """Return the message with this number, which waits on, or None."""
        for letter in self._matcher.messages():
            if letter.number == number:
                return letter
        return None

    @property
    def count(self) -> int:
        """How many messages wait."""
        return self._matcher.message_count

    # --- receivers -------------------------------------------------------------------------------

    def post(self, want: Want) -> Letter | None:
        """Return the oldest message for a receiver, or let the receiver wait."""
        return self._gone(self._matcher.post(want, want.priority))

    def cancel(self, want: Want) -> bool:
        """Let a receiver wait no longer; return whether it did."""
        return self._matcher.remove(want)

    def wants(self) -> list[Want]:
        """Return the receivers that wait, in the order in which they are asked."""
        return list(self._matcher.receives())

    # ---------------------------------------------------------------------------------------------

    def _gone(self, letter: Letter | None) -> Letter | None:
        if letter is not None:
            self.used -= letter.cost
        return letter

    def _all_gone(self, letters: list[Letter]) -> list[Letter]:
        for letter in letters:
            self._gone(letter)
        return letters
