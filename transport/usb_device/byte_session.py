# SPDX-License-Identifier: Apache-2.0
"""What sessions of every protocol have: bytes that wait to be sent, and an end."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import Final

OUTBOX_LIMIT: Final = 4 << 20
"""Bytes that wait to be sent, from which on nothing more is read."""


class ByteSession:
    """One client.

    Args:
        wake: called when there is something to send.

    Attributes:
        is_finished: whether nothing is wanted of the client any more.
    """

    def __init__(self, wake: Callable[[], None]) -> None:
        self._wake = wake
        self.is_finished = False
        self._outbox: deque[bytes | memoryview] = deque()
        self._outbox_bytes = 0
        self._is_closed = False
        self._lock = threading.Lock()  # devices may work in other threads

    @property
    def wants_more(self) -> bool:
        """Whether more is to be read from the client."""
        return not self.is_finished and self._outbox_bytes < OUTBOX_LIMIT

    @property
    def has_output(self) -> bool:
        """Whether something waits to be sent."""
        return bool(self._outbox)

    def next_output(self) -> bytes | memoryview | None:
        """Return the oldest bytes that wait to be sent, if there are any."""
        return self._outbox[0] if self._outbox else None

    def sent(self, count: int) -> None:
        """So many of these bytes were sent."""
        with self._lock:
            first = memoryview(self._outbox.popleft())
            self._outbox_bytes -= count
            if count < len(first):
                self._outbox.appendleft(first[count:])

    def put(self, data: bytes) -> None:
        """Have something sent, unless the client is gone."""
        with self._lock:
            if not self._is_closed:
                self._outbox.append(data)
                self._outbox_bytes += len(data)
                self._wake()

    def shut(self) -> None:
        """Send nothing more."""
        with self._lock:
            self._is_closed = self.is_finished = True
            self._outbox.clear()
