# SPDX-License-Identifier: Apache-2.0
"""Waits for descriptors: epoll, a way to wake it from other threads, and a bounded spin.

A descriptor that is dropped is closed only when all events that were fetched together are handled:
its number cannot come back for another one in between.
"""

from __future__ import annotations

import contextlib
import os
import select
from collections import deque
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Final

from i2o.clock import Clock
from i2o.closing import Closing

READABLE: Final = select.EPOLLIN
WRITABLE: Final = select.EPOLLOUT
_MOST_EVENTS: Final = 64
_HOT_FACTOR: Final = 10
_MOST_MISSES: Final = 4
_REST: Final = 128


class Poller(Closing):
    """The event loop's heart, without a loop.

    Args:
        clock: for the spin.
        spin_s: how long to look before sleeping, if the wait before was over soon; not for some
            waits after a few in which that was in vain: whoever is to send may need this very CPU.

    Attributes:
        is_handling: whether a handler runs.
    """

    def __init__(self, clock: Clock, spin_s: float) -> None:
        self._now_ns, self._spin_ns = clock.monotonic_ns, round(spin_s * 1e9)
        self._handlers: dict[int, Callable[[int], None]] = {}
        self._calls: deque[Callable[[], None]] = deque()
        self._dropped: list[Callable[[], None]] = []
        self.is_handling = self._is_closed = self._is_hot = False
        self._misses = self._rest = 0
        self._epoll = select.epoll()
        self._look = self._epoll.poll
        try:
            self._bell = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        except OSError:
            self._epoll.close()
            raise
        self.add(self._bell, READABLE, self._answer_bell)

    def fileno(self) -> int:
        """Return a descriptor that is readable when `poll` has something to do."""
        return -1 if self._is_closed else self._epoll.fileno()

    def add(self, number: int, mask: int, handler: Callable[[int], None]) -> None:
        """Call `handler` with a mask of events when a descriptor is ready."""
        self._handlers[number] = handler
        self._epoll.register(number, mask)

    def replace(self, number: int, handler: Callable[[int], None]) -> None:
        """Let another handler take the events of a descriptor."""
        self._handlers[number] = handler

    def change(self, number: int, mask: int) -> None:
        """Wait for other events of a descriptor."""
        self._epoll.modify(number, mask)

    def remove(self, number: int) -> None:
        """Let go of a descriptor, which stays open."""
        if self._handlers.pop(number, None) is not None:
            with contextlib.suppress(OSError):
                self._epoll.unregister(number)

    def drop(self, number: int, close: Callable[[], None]) -> None:
        """Let go of a descriptor, and close it as soon as that is safe."""
        self.remove(number)
        if self.is_handling:
            self._dropped.append(close)
        else:
            close()

    def call_soon(self, action: Callable[[], None]) -> None:
        """Call something from within `poll`; from any thread."""
        self._calls.append(action)
        if not self._is_closed:
            os.eventfd_write(self._bell, 1)

    def wake(self) -> None:
        """Let a `poll` that waits in another thread return."""
        if not self.is_handling and not self._is_closed:
            os.eventfd_write(self._bell, 1)

    def poll(
        self,
        timeout_s: float = 0.0,
        guard: AbstractContextManager[object] | None = None,
        due_ns: int | None = None,
    ) -> int:
        """Handle what is ready, waiting for the first of it at most `timeout_s` (-1: for ever).

        Args:
            timeout_s: how long.
            guard: held while events are handled, but not while waiting for them.
            due_ns: do not wait any longer than until then.

        Returns:
            The time just before events were handled, in nanoseconds; 0 from within a handler,
            where nothing is done: the events that it waits for are being handled.
        """
        if self.is_handling:
            return 0
        look, now = self._look, self._now_ns
        begin = looked = now()
        is_hot = self._is_hot and not self._rest
        events = look(0, _MOST_EVENTS) if is_hot or not timeout_s else None
        if not events and timeout_s:
            if is_hot:
                end = begin + self._spin_ns
                if due_ns is not None and due_ns < end:
                    end = due_ns
                while not events and (looked := now()) < end:
                    events = look(0, _MOST_EVENTS)
                self._note_spin(is_in_vain=not events)
            elif self._rest:
                self._rest -= 1
            if not events:
                if due_ns is not None:
                    left_s = max(0, due_ns - looked) / 1e9
                    timeout_s = left_s if timeout_s < 0 else min(timeout_s, left_s)
                events = look(timeout_s, _MOST_EVENTS)
                looked = now()
                self._is_hot = bool(events) and looked - begin < _HOT_FACTOR * self._spin_ns
        if not events:
            return looked
        if guard is None:
            self._handle(events)
        else:
            with guard:
                self._handle(events)
        return looked

    def _note_spin(self, *, is_in_vain: bool) -> None:
        self._misses = self._misses + 1 if is_in_vain else 0
        if self._misses == _MOST_MISSES:
            self._misses, self._rest = 0, _REST

    def _handle(self, events: list[tuple[int, int]]) -> None:
        self.is_handling = True
        handlers = self._handlers
        try:
            for number, mask in events:
                handler = handlers.get(number)
                if handler is not None:
                    handler(mask)
        finally:
            self.is_handling = False
            if self._dropped:
                dropped, self._dropped = self._dropped, []
                for close in dropped:
                    close()

    def _answer_bell(self, mask: int) -> None:
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._bell)
        for _ in range(len(self._calls)):
            self._calls.popleft()()

    def close(self) -> None:
        """Close it; the descriptors that it knew stay open."""
        if not self._is_closed:
            self._is_closed = True
            self._handlers.clear()
            self._epoll.close()
            os.close(self._bell)
