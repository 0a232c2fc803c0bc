# SPDX-License-Identifier: Apache-2.0
"""The completion queue of the software engine.

An operation takes a place when it is posted and keeps it until its entry is read, so the queue
never overruns: without a place nothing is posted. A queue belongs to one thread, like the endpoints
that are bound to it; only `signal` may come from another one.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
from collections import deque
from collections.abc import Callable
from typing import Final, Protocol

from i2o.clock import SYSTEM_CLOCK, Clock
from i2o.transport.fabric.completion import Completion, CompletionError
from i2o.transport.fabric.deadline import end_of_wait
from i2o.transport.fabric.errors import (
    ErrorAvailable,
    FabricErrno,
    FabricError,
    TryAgain,
)
from i2o.transport.fabric.flags import CqFormat, Flag

DEFAULT_SIZE: Final = 4096
_BLIND_WAIT_S: Final = 0.01  # for a carrier without a descriptor


class Progressing(Protocol):
    """What a queue moves on when it is read."""

    def progress(self) -> None:
        """Move what is under way."""

    def fileno(self) -> int:
        """Return a descriptor that is readable when there is something to move, or -1."""

    def next_deadline_ns(self) -> int | None:
        """Return when to call `progress` at the latest."""


class SoftwareCompletionQueue:
    """A queue for endpoints of the software engine.

    Args:
        size: entries, 0 for the default.
        format: how much an entry tells.
        clock: for waiting.

    Attributes:
        free: places that nobody has.
        size: all places.
        format: as given.
    """

    def __init__(
        self,
        size: int = 0,
        format: CqFormat = CqFormat.TAGGED,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        if size < 0:
            raise FabricError(errno.EINVAL, f"a queue of {size} entries; give 0 for the default")
        self.size = self.free = size or DEFAULT_SIZE
        self.format = CqFormat(format)
        self._is_reduced = self.format is not CqFormat.TAGGED
        self._clock = clock
        self._entries: deque[Completion | CompletionError] = deque()
        self._engines: list[Progressing] = []
        self._users = self._errors = 0
        self._waiting_for_room: list[Callable[[], None]] = []
        self._is_closed = self._is_signalled = False
        self._poller: select.epoll | None = None
        self._event_fd = -1
        self._is_raised = self._is_reading = False

    def __len__(self) -> int:
        return len(self._entries)

    # --- for whoever reads -----------------------------------------------------------------------

    def read(self, count: int = 1) -> list[Completion]:
        """Return 1 to `count` entries; with count 0 only make progress. See the contract."""
        entries = self._entries
        if not entries or count == 0:
            self._check_open()
            if self._waiting_for_room:
                self._tell_of_room()
            was_reading, self._is_reading = self._is_reading, True
            try:
                for engine in self._engines:
                    engine.progress()
            finally:
                self._is_reading = was_reading
            if entries and (count < len(entries) or self._errors):
                self._raise()  # something stays
            if count == 0:
                return []
            if not entries:
                raise TryAgain("no operation has completed")
        if not self._errors and count >= len(entries):
            all_of_them = list(entries)
            entries.clear()
            self._read(len(all_of_them))
            return all_of_them  # type: ignore[return-value]  # as none is an error
        found: list[Completion] = []
        while entries and len(found) < count:
            entry = entries[0]
            if type(entry) is CompletionError:
                if not found:
                    raise ErrorAvailable
                break
            found.append(entries.popleft())  # type: ignore[arg-type]  # mypy cannot know
        self._read(len(found))
        return found

    def readerr(self) -> CompletionError:
        """Return the error that comes next; raises TryAgain if the next entry is none."""
        if not self._entries or type(self._entries[0]) is not CompletionError:
            self._check_open()
            raise TryAgain("the next entry is no error")
        entry = self._entries.popleft()
        self._errors -= 1
        self._read(1)
        return entry  # type: ignore[return-value]

    def sread(self, count: int = 1, timeout_s: float | None = None) -> list[Completion]:
        """As `read`, but wait for an entry. See the contract."""
        end = end_of_wait(self._clock, timeout_s)
        while True:
            try:
                return self.read(count)
            except TryAgain:
                self.fileno()
                if self._is_signalled:
                    self._is_signalled = False
                    self._lower()
                    raise
                if not self._wait(end):
                    raise

    def signal(self) -> None:
        """Wake whoever is in `sread`, or who comes next; may be called from any thread."""
        self._is_signalled = True
        self._raise()

    def fileno(self) -> int:
        """Return a descriptor that is readable when `read` should be called; -1 once closed."""
        if self._poller is None:
            if self._is_closed:
                return -1
            self._event_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
            self._poller = select.epoll()
            self._poller.register(self._event_fd, select.EPOLLIN)
            for engine in self._engines:
                self._watch(engine)
            if self._entries or self._is_signalled:
                self._raise()
        return self._poller.fileno()

    def close(self) -> None:
        """Release it; entries that nobody read are lost. Raises FabricError EBUSY."""
        if self._users:
            raise FabricError(
                errno.EBUSY, f"{self._users} bindings of endpoints; close the endpoints first"
            )
        self._is_closed = True
        self._entries.clear()
        if self._poller is not None:
            self._poller.close()
            os.close(self._event_fd)
            self._poller, self._event_fd = None, -1

    # --- for endpoints ---------------------------------------------------------------------------

    def attach(self, engine: Progressing) -> None:
        """Count a binding, and move this engine on from now on."""
        self._check_open()
        self._users += 1
        if engine not in self._engines:
            self._engines.append(engine)
            if self._poller is not None:
                self._watch(engine)

    def detach(self, engine: Progressing, *, is_last: bool) -> None:
        """Count a binding less, and move this engine on no longer if that was its last one."""
        self._users -= 1
        if is_last and engine in self._engines:
            self._engines.remove(engine)
            descriptor = engine.fileno()
            if self._poller is not None and descriptor >= 0:
                self._poller.unregister(descriptor)

    def push(self, entry: Completion | CompletionError) -> None:
        """Add an entry, for which a place was taken."""
        if isinstance(entry, CompletionError):
            self._errors += 1
        elif self._is_reduced:
            entry = self._reduced(entry)
        self._entries.append(entry)
        # what comes while the queue is read is mostly taken at once: no descriptor need tell of it
        if self._event_fd >= 0 and not self._is_raised and not self._is_reading:
            self._raise()

    def release(self) -> None:
        """Give a place back for which there will be no entry."""
        self.free += 1

    def when_room(self, then: Callable[[], None]) -> None:
        """Call back once, when the queue is read and has a place."""
        self._waiting_for_room.append(then)

    # ---------------------------------------------------------------------------------------------

    def _read(self, count: int) -> None:
        """Give back the places of entries that were read."""
        self.free += count
        if not self._entries and self._is_raised and not self._is_signalled:
            self._lower()
        if self._waiting_for_room:
            self._tell_of_room()

    def _tell_of_room(self) -> None:
        if self.free > 0:
            waiting, self._waiting_for_room = self._waiting_for_room, []
            for then in waiting:
                then()

    def _wait(self, end: float | None) -> bool:
        """Wait until something may have happened; return False when the time is over."""
        now, limit = self._clock.monotonic(), end
        for engine in self._engines:
            deadline = engine.next_deadline_ns()
            if deadline is not None:
                limit = min(deadline / 1e9, limit if limit is not None else deadline / 1e9)
            elif engine.fileno() < 0:
                limit = min(now + _BLIND_WAIT_S, limit if limit is not None else now + 1)
        if end is not None and now >= end:
            return False
        assert self._poller is not None  # `sread` asked for the descriptor
        self._poller.poll(None if limit is None else max(0.0, limit - now))
        return True

    def _watch(self, engine: Progressing) -> None:
        descriptor = engine.fileno()
        if descriptor >= 0 and self._poller is not None:
            self._poller.register(descriptor, select.EPOLLIN)

    def _raise(self) -> None:
        if self._event_fd >= 0:
            self._is_raised = True
            os.eventfd_write(self._event_fd, 1)

    def _lower(self) -> None:
        self._is_raised = False
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._event_fd)
        if self._entries:
            self._raise()

    def _check_open(self) -> None:
        if self._is_closed:
            raise FabricError(FabricErrno.EOPBADSTATE, "the queue is closed")

    def _reduced(self, entry: Completion) -> Completion:
        """Return an entry with nothing but what the format has."""
        if self.format is CqFormat.CONTEXT:
            return Completion(entry.context, Flag(0), source=entry.source)
        if self.format is CqFormat.MSG:
            return Completion(entry.context, entry.flags, entry.length, source=entry.source)
        return entry._replace(tag=0)
