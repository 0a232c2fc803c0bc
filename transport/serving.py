# SPDX-License-Identifier: Apache-2.0
"""What serves others, and the one loop that runs any number of such in one thread.

Whatever reaches an IOP from outside (a PCI slot of QEMU, shared memory, a network) is a `Served`:
it says which descriptors it wants to be woken by, takes what came, and runs what is behind it.
"""

from __future__ import annotations

import select
from collections.abc import Callable, Sequence
from typing import Final, Protocol, runtime_checkable

from i2o.clock import SYSTEM_CLOCK, Clock

_LONGEST_S: Final = 3600.0
_SELECTABLE: Final = 1024
"""FD_SETSIZE: descriptors from here on are beyond what select can be told of."""


class Served(Protocol):
    """One thing that is served. Nothing here blocks, or takes long while others wait."""

    def reads_from(self) -> Sequence[int]:
        """Return descriptors that call for `handle` when they are readable."""

    def writes_to(self) -> Sequence[int]:
        """Return descriptors that call for `handle` when they take more."""

    def handle(self) -> object:
        """Take what came in, and say what could not be said before."""

    def run(self, now_ns: int) -> int | None:
        """Let what is behind it work.

        Args:
            now_ns: the time.

        Returns:
            When to call again although no descriptor is ready, or None. A time that has passed
            means that there is work left.
        """

    def close(self) -> None:
        """Send clients away, and let go of everything; calling it again does nothing."""


@runtime_checkable
class Addressed(Protocol):
    """A `Served` that knows better than its URI where it is: at a port that the system chose."""

    uri: str
    """What to reach it by."""


def serve(
    served: Sequence[Served],
    should_stop: Callable[[], bool],
    wake: int | None = None,
    *,
    clock: Clock = SYSTEM_CLOCK,
) -> None:
    """Serve until told to stop.

    Args:
        served: everything; it stays the caller's to close.
        should_stop: asked between rounds.
        wake: a descriptor that becomes readable when the answer has changed.
        clock: what all are told the time from.
    """
    while not should_stop():
        deadlines = [one.run(clock.monotonic_ns()) for one in served]
        due = min((value for value in deadlines if value is not None), default=None)
        patience = _LONGEST_S
        if due is not None:
            patience = min(patience, max(0.0, (due - clock.monotonic_ns()) / 1e9))
        reading = [] if wake is None else [wake]
        writing: list[int] = []
        for one in served:
            reading += one.reads_from()
            writing += one.writes_to()
        _wait(reading, writing, patience)
        for one in served:
            one.handle()


def _wait(reading: Sequence[int], writing: Sequence[int], patience: float) -> None:
    """Wait until a descriptor is ready, or for so many seconds."""
    if max((*reading, *writing), default=0) < _SELECTABLE:
        select.select(reading, writing, (), patience)  # poll and epoll round up to milliseconds
        return
    poller = select.poll()  # a client that maps much has the low numbers
    for descriptor in reading:
        poller.register(descriptor, select.POLLIN)
    for descriptor in writing:
        poller.register(descriptor, select.POLLOUT)
    poller.poll(patience * 1000)
