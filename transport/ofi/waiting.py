# SPDX-License-Identifier: Apache-2.0
"""A descriptor to wait for: libfabric's where it has one, a tick where it has none, and a bell."""

from __future__ import annotations

import os
import select
from typing import Any, Final

from i2o.transport.ofi.library import Library

TICK_S: Final = 0.001
"""How often a queue is looked at that has no descriptor, or that has sends which wait."""
_TICK_NS: Final = 1_000_000


class Waiter:
    """An epoll descriptor over everything that may wake who waits for a queue.

    Args:
        library: whose timer functions are used.
        descriptor: libfabric's, or None.
    """

    def __init__(self, library: Library, descriptor: int | None) -> None:
        self._library = library
        self._descriptor = descriptor
        self._is_ticking = False
        self._epoll = select.epoll()
        self._bell = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._ticker = library.lib.i2o_ticker()
        self._epoll.register(self._bell, select.EPOLLIN)
        self._epoll.register(self._ticker, select.EPOLLIN)
        if descriptor is not None:
            self._epoll.register(descriptor, select.EPOLLIN)

    @property
    def has_descriptor(self) -> bool:
        """Whether libfabric's descriptor is waited for; if not, only ticks wake."""
        return self._descriptor is not None

    def forget_descriptor(self) -> None:
        """Wait for libfabric's no more."""
        if self._descriptor is not None:
            self._epoll.unregister(self._descriptor)
            self._descriptor = None

    def fileno(self) -> int:
        """Return the descriptor."""
        return self._epoll.fileno()

    def ring(self) -> None:
        """Wake who waits; may be called from any thread."""
        os.eventfd_write(self._bell, 1)

    def tick(self, is_needed: bool) -> None:
        """Let the descriptor become readable every tick from now on, or no more."""
        if is_needed == self._is_ticking:
            return
        self._is_ticking = is_needed
        self._library.lib.i2o_tick(self._ticker, _TICK_NS if is_needed else 0)

    def wait(self, timeout_s: float | None) -> None:
        """Sleep until something happens, or until the time is over."""
        self._epoll.poll(timeout_s)
        self.calm()

    def calm(self) -> None:
        """Take what made the bell and the ticker readable."""
        for descriptor in (self._bell, self._ticker):
            try:
                os.read(descriptor, 8)
            except BlockingIOError:
                continue

    def close(self) -> None:
        """Close the descriptors that are ours."""
        self._epoll.close()
        os.close(self._bell)
        os.close(self._ticker)


def wait_descriptor(library: Library, fid: Any) -> int | None:
    """Return the descriptor of an object of libfabric (FI_GETWAIT), or None if it has none."""
    place = library.ffi.new("int *", -1)
    code = library.lib.fi_control(fid, library.lib.FI_GETWAIT, place)
    return int(place[0]) if code == 0 and place[0] >= 0 else None
