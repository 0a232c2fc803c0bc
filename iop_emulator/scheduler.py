# SPDX-License-Identifier: Apache-2.0
"""Requests that are not answered at once: later by the clock, step by step, or on an event.

Every entry belongs to a request, so that UtilAbort, a device reset or IopClear can take it back.
Nothing here waits: `SoftIop.run` is told the time and asks what is due.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Generator, Iterator
from itertools import count

from i2o.iop_emulator.request import Request

Job = Generator[bytes | None, None, bytes]
"""A long operation: every step may give a progress reply; it returns the final reply."""


class Scheduler:
    """What an IOP still has to do without being asked again.

    Attributes:
        timers: what is to be called when its time has come, a heap; for others to look whether
            there is anything, and always the same object.
        jobs: long operations that are going on, alike.
    """

    def __init__(self) -> None:
        self.timers: list[tuple[int, int, Request, Callable[[Request], None]]] = []
        self._numbers = count()
        self.jobs: deque[tuple[Request, Job]] = deque()
        self._parked: list[Request] = []

    def at(self, due_ns: int, request: Request, action: Callable[[Request], None]) -> None:
        """Call `action(request)` when the time has come."""
        heapq.heappush(self.timers, (due_ns, next(self._numbers), request, action))

    def start(self, request: Request, job: Job) -> None:
        """Begin a long operation; its steps run between other requests."""
        self.jobs.append((request, job))

    def park(self, request: Request) -> None:
        """Keep a request until somebody takes it back."""
        self._parked.append(request)

    @property
    def parked(self) -> tuple[Request, ...]:
        """Requests that wait for an event."""
        return tuple(self._parked)

    def unpark(self, request: Request) -> None:
        """Take a parked request back."""
        self._parked.remove(request)

    @property
    def has_jobs(self) -> bool:
        """Whether a step could be made now."""
        return bool(self.jobs)

    @property
    def job_count(self) -> int:
        """How many long operations are going on."""
        return len(self.jobs)

    @property
    def is_empty(self) -> bool:
        """Whether neither time nor another step would bring anything; parked requests aside."""
        return not (self.timers or self.jobs)

    @property
    def next_due_ns(self) -> int | None:
        """When the next timer ends, or None."""
        return self.timers[0][0] if self.timers else None

    def run_due(self, now_ns: int) -> int:
        """Run every timer that has ended; return how many."""
        done = 0
        while self.timers and self.timers[0][0] <= now_ns:
            _, _, request, action = heapq.heappop(self.timers)
            action(request)
            done += 1
        return done

    def step(self, send: Callable[[bytes], None]) -> None:
        """Make one step of the oldest job."""
        _, job = self.jobs[0]
        try:
            reply = next(job)
        except StopIteration as end:
            self.jobs.popleft()
            reply = end.value
        if reply is not None:
            send(reply)

    def any(self, matches: Callable[[Request], bool]) -> bool:
        """Whether any request that is not answered yet matches."""
        return any(map(matches, self._unanswered()))

    def has(self, request: Request) -> bool:
        """Whether this very request is not answered yet."""
        return any(other is request for other in self._unanswered())

    def count(self, matches: Callable[[Request], bool]) -> int:
        """Return how many requests that are not answered yet match."""
        return sum(map(matches, self._unanswered()))

    def _unanswered(self) -> Iterator[Request]:
        yield from (entry[2] for entry in self.timers)
        yield from (request for request, _ in self.jobs)
        yield from self._parked

    def take_back(
        self, matches: Callable[[Request], bool], *, may_be_begun: bool = True
    ) -> list[Request]:
        """Remove every request that matches, and return them oldest kind first.

        Args:
            matches: says which.
            may_be_begun: also those whose operation has begun already.
        """
        taken = [entry[2] for entry in sorted(self.timers) if matches(entry[2])]
        if taken:
            self.timers[:] = [entry for entry in self.timers if not matches(entry[2])]
            heapq.heapify(self.timers)
        for request, job in tuple(self.jobs) if may_be_begun else ():
            if matches(request):
                taken.append(request)
                self.jobs.remove((request, job))
        for request in self.parked:
            if matches(request):
                taken.append(request)
                self._parked.remove(request)
        return taken

    def clear(self) -> None:
        """Forget everything."""
        self.timers.clear()
        self.jobs.clear()
        self._parked.clear()
