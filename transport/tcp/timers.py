# SPDX-License-Identifier: Apache-2.0
"""Deadlines of one event loop: what is to be called when, without waiting for anything."""

from __future__ import annotations

import heapq
from collections.abc import Callable


class Timer:
    """One deadline. It fires once, unless it is cancelled."""

    __slots__ = ("_action", "due_ns")

    def __init__(self, due_ns: int, action: Callable[[], None]) -> None:
        self.due_ns = due_ns
        self._action: Callable[[], None] | None = action

    @property
    def is_pending(self) -> bool:
        """Whether it will still fire."""
        return self._action is not None

    def cancel(self) -> None:
        """Do not fire any more."""
        self._action = None

    def fire(self) -> None:
        """Do what it is for, unless that was cancelled."""
        action, self._action = self._action, None
        if action is not None:
            action()

    def __lt__(self, other: Timer) -> bool:
        return self.due_ns < other.due_ns


class Timers:
    """Deadlines, earliest first.

    Attributes:
        next_ns: when `run` has something to do, or None. It may be earlier than that.
    """

    def __init__(self) -> None:
        self._heap: list[Timer] = []
        self.next_ns: int | None = None

    def at(self, due_ns: int, action: Callable[[], None]) -> Timer:
        """Call `action` at that time."""
        timer = Timer(due_ns, action)
        heapq.heappush(self._heap, timer)
        self.next_ns = self._heap[0].due_ns
        return timer

    def run(self, now_ns: int) -> None:
        """Call whatever is due."""
        heap = self._heap
        while heap and (heap[0].due_ns <= now_ns or not heap[0].is_pending):
            heapq.heappop(heap).fire()
        self.next_ns = heap[0].due_ns if heap else None
