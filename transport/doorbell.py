# SPDX-License-Identifier: Apache-2.0
"""A file descriptor that is readable after somebody rang."""

from __future__ import annotations

import contextlib
import os
import select
from typing import Protocol


class HasFileno(Protocol):
    """Something with a file descriptor."""

    def fileno(self) -> int:
        """Return the descriptor."""


def descriptor_of(watch: select.epoll | None) -> int:
    """Return the descriptor of an epoll set, or -1 if there is none or it was closed."""
    try:
        return -1 if watch is None else watch.fileno()
    except ValueError:
        return -1


class Doorbell:
    """An eventfd: ringing it any number of times wakes a waiter once."""

    def __init__(self) -> None:
        self._fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)

    def fileno(self) -> int:
        """Return the descriptor, or -1 after `close`."""
        return self._fd

    def ring(self) -> None:
        """Make the descriptor readable; after `close` this does nothing."""
        if self._fd >= 0:
            os.eventfd_write(self._fd, 1)

    def silence(self) -> None:
        """Make the descriptor unreadable."""
        if self._fd >= 0:
            with contextlib.suppress(BlockingIOError):
                os.eventfd_read(self._fd)

    def wait(self, timeout_s: float | None, other: HasFileno | None = None) -> bool:
        """Wait until it rings, and silence it; False when the time ran out, or it is closed.

        Args:
            timeout_s: how long, None for ever.
            other: something else that ends the waiting when it is readable.
        """
        if self._fd < 0:
            return False
        poller = select.poll()
        poller.register(self._fd, select.POLLIN)
        if other is not None:
            poller.register(other.fileno(), select.POLLIN)
        if not poller.poll(None if timeout_s is None else max(0, timeout_s * 1000)):
            return False
        self.silence()
        return True

    def close(self) -> None:
        """Close the descriptor; calling it again does nothing."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)
