# SPDX-License-Identifier: Apache-2.0
"""Pairs posted receives with messages; what "match" means is somebody else's function.

Endpoints match by tag and source, network messages by event, type mask and priority: both keep
their receives and the messages that nobody asked for yet in a `Matcher`. It counts nothing and
refuses nothing: how many messages may wait, and of how many bytes, is its owner's affair.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

Receive = TypeVar("Receive")
"""What was posted. Compared by identity."""
Arrived = TypeVar("Arrived")
"""A message that came. Compared by identity."""


class Matcher(Generic[Receive, Arrived]):
    """Posted receives, by priority and then by arrival, and unexpected messages, by arrival.

    At any time no receive that waits matches a message that waits, unless the owner held one back
    with `keep`. Both sides are searched from the front, so the first match always wins.

    Args:
        matches: whether a receive takes a message.
        stays: whether a receive waits on after a match (a multi-receive buffer); by default none.
    """

    __slots__ = ("_levels", "_matches", "_order", "_plain", "_stays", "_unexpected")

    def __init__(
        self,
        matches: Callable[[Receive, Arrived], bool],
        stays: Callable[[Receive], bool] | None = None,
    ) -> None:
        self._matches, self._stays = matches, stays
        self._plain: deque[Receive] = deque()  # priority 0, which nearly everything has
        self._levels: dict[int, deque[Receive]] = {0: self._plain}
        self._order: list[int] = [0]
        self._unexpected: deque[Arrived] = deque()

    # --- receives --------------------------------------------------------------------------------

    def post(self, receive: Receive, priority: int = 0) -> Arrived | None:
        """Take the oldest unexpected message that matches, or let the receive wait.

        Args:
            receive: what is posted.
            priority: receives of a higher one are asked first.

        Returns:
            The message, which does not wait any more. The receive waits on if it `stays`, or if
            there was no message.
        """
        found = self.claim(receive) if self._unexpected else None
        if found is None or (self._stays is not None and self._stays(receive)):
            self.enqueue(receive, priority)
        return found

    def enqueue(self, receive: Receive, priority: int = 0) -> None:
        """Let a receive wait without asking the messages that are there already."""
        if priority == 0:
            self._plain.append(receive)
            return
        level = self._levels.get(priority)
        if level is None:
            level = self._levels[priority] = deque()
            self._order = sorted(self._levels, reverse=True)
        level.append(receive)

    def remove(self, receive: Receive) -> bool:
        """Take a receive out; return whether it waited."""
        for priority in self._order:
            level = self._levels[priority]
            for index, candidate in enumerate(level):
                if candidate is receive:
                    self._take(priority, index)
                    return True
        return False

    def cancel(self, is_meant: Callable[[Receive], bool]) -> Receive | None:
        """Take out the receive that would be asked first of those that are meant, if any."""
        for priority in self._order:
            for index, candidate in enumerate(self._levels[priority]):
                if is_meant(candidate):
                    return self._take(priority, index)
        return None

    def receives(self) -> Iterator[Receive]:
        """Yield the receives that wait, in the order in which they are asked."""
        for priority in self._order:
            yield from self._levels[priority]

    @property
    def receive_count(self) -> int:
        """How many receives wait."""
        return sum(map(len, self._levels.values()))

    # --- messages --------------------------------------------------------------------------------

    def arrive(self, message: Arrived) -> Receive | None:
        """Return the receive that takes a message; if there is none, keep it and return None."""
        receive = self.offer(message)
        if receive is None:
            self._unexpected.append(message)
        return receive

    def offer(self, message: Arrived) -> Receive | None:
        """Return the first receive that matches, taken out unless it `stays`; keep nothing."""
        matches = self._matches
        plain = self._plain
        if plain and len(self._order) == 1 and matches(plain[0], message):  # nearly always
            first = plain[0]
            if self._stays is None or not self._stays(first):
                plain.popleft()
            return first
        for priority in self._order:
            for index, receive in enumerate(self._levels[priority]):
                if matches(receive, message):
                    if self._stays is None or not self._stays(receive):
                        self._take(priority, index)
                    return receive
        return None

    def keep(self, message: Arrived) -> None:
        """Let a message wait, as the youngest one, without asking any receive."""
        self._unexpected.append(message)

    def peek(self, receive: Receive) -> Arrived | None:
        """Return the oldest message that a receive would take; it waits on."""
        for message in self._unexpected:
            if self._matches(receive, message):
                return message
        return None

    def claim(self, receive: Receive) -> Arrived | None:
        """Take out the oldest message that matches, for a receive that does not wait."""
        for index, message in enumerate(self._unexpected):
            if self._matches(receive, message):
                del self._unexpected[index]
                return message
        return None

    def withdraw(self, message: Arrived) -> bool:
        """Take a message out; return whether it waited."""
        for index, candidate in enumerate(self._unexpected):
            if candidate is message:
                del self._unexpected[index]
                return True
        return False

    def sweep(self, is_meant: Callable[[Arrived], bool]) -> list[Arrived]:
        """Take out every message that is meant, and return them, oldest first."""
        swept = [message for message in self._unexpected if is_meant(message)]
        if swept:
            gone = set(map(id, swept))
            self._unexpected = deque(m for m in self._unexpected if id(m) not in gone)
        return swept

    def messages(self) -> Iterator[Arrived]:
        """Yield the messages that wait, oldest first."""
        return iter(self._unexpected)

    @property
    def message_count(self) -> int:
        """How many messages wait."""
        return len(self._unexpected)

    def _take(self, priority: int, index: int) -> Receive:
        level = self._levels[priority]
        receive = level[index]
        del level[index]
        if not level and priority != 0:
            del self._levels[priority]
            self._order = sorted(self._levels, reverse=True)
        return receive
