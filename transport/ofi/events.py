# SPDX-License-Identifier: Apache-2.0
"""An event queue of libfabric: what becomes of connections and of joining groups (fi_eq(3))."""

from __future__ import annotations

import errno
from collections import deque
from collections.abc import Callable
from typing import Any, Final

from i2o.clock import Clock
from i2o.transport.fabric.deadline import end_of_wait
from i2o.transport.fabric.endpoint import Event, EventKind
from i2o.transport.fabric.errors import FabricErrno, TryAgain
from i2o.transport.ofi.domain import Fabric
from i2o.transport.ofi.library import Library, check

_PARAMETER: Final = 256
_NAP_S: Final = 0.0005


class OfiEventQueue:
    """Events of one endpoint, active or passive.

    Args:
        library: libfabric.
        fabric: where it is opened.
        source: whose events they are.
        clock: what `sread` waits on.
        happened: called with the kind of each event, and for a CONNREQ with its `struct fi_info`,
            which it turns into the event's `request`.
        progress: called before looking: some providers notice only then that a connection ended.
    """

    def __init__(
        self,
        library: Library,
        fabric: Fabric,
        source: object,
        clock: Clock,
        happened: Callable[[EventKind, Any], Any],
        progress: Callable[[], None] = lambda: None,
    ) -> None:
        ffi, lib = self._library = library
        self._fabric = fabric
        self._source = source
        self._clock = clock
        self._happened = happened
        self._progress = progress
        self._deadline_ns: int | None = None
        self._events: deque[Event] = deque()
        self._size = ffi.sizeof("struct fi_eq_cm_entry") + _PARAMETER
        self._entry = ffi.new("char []", self._size)
        self._kind = ffi.new("uint32_t *")
        self._error = ffi.new("struct fi_eq_err_entry *")
        self._kinds = {
            lib.FI_CONNREQ: EventKind.CONNREQ,
            lib.FI_CONNECTED: EventKind.CONNECTED,
            lib.FI_SHUTDOWN: EventKind.SHUTDOWN,
        }
        attributes = ffi.new("struct fi_eq_attr *", {"wait_obj": lib.FI_WAIT_NONE})
        out = ffi.new("struct fid_eq **")
        check(library, lib.fi_eq_open(fabric.handle, attributes, out, ffi.NULL), "fi_eq_open")
        self._handle = out[0]
        self.fid = ffi.addressof(self._handle, "fid")
        fabric.hold()
        self.join_error = 0
        """Why the last fi_join failed although it said it did not; 0 if it did not."""
        self._is_open = True

    def read(self) -> Event:
        """Return the next event; raises TryAgain if there is none."""
        self._progress()
        self.poll()
        if not self._events:
            raise TryAgain("there is no event")
        return self._events.popleft()

    def sread(self, timeout_s: float | None = None) -> Event:
        """Wait for the next event; raises TryAgain when the time is over."""
        end = end_of_wait(self._clock, timeout_s)
        while True:
            self._progress()
            self.poll()
            if self._events:
                return self._events.popleft()
            if end is not None and self._clock.monotonic() >= end:
                raise TryAgain(f"no event within {timeout_s} s")
            self._clock.sleep(_NAP_S)

    def poll(self) -> None:
        """Take what libfabric has to tell."""
        while self._is_open:
            count = self._library.lib.fi_eq_read(
                self._handle, self._kind, self._entry, self._size, 0
            )
            if count == -errno.EAGAIN:
                self._check_deadline()
                return
            if count == -FabricErrno.EAVAIL:
                self._take_error()
            else:
                check(self._library, count, "fi_eq_read")
                self._take(count)

    def expect_within(self, timeout_ns: int) -> None:
        """Make an error event, ETIMEDOUT, unless another event comes in time."""
        self._deadline_ns = self._clock.monotonic_ns() + timeout_ns

    def _check_deadline(self) -> None:
        if self._deadline_ns is not None and self._clock.monotonic_ns() >= self._deadline_ns:
            self._add_error(errno.ETIMEDOUT)

    def _take(self, count: int) -> None:
        ffi = self._library.ffi
        kind = self._kinds.get(self._kind[0])
        if kind is None:  # FI_JOIN_COMPLETE; the provider udp puts an error into it
            if count > ffi.sizeof("struct fi_eq_entry"):
                self.join_error = abs(ffi.cast("struct fi_eq_err_entry *", self._entry).err)
            return
        entry = ffi.cast("struct fi_eq_cm_entry *", self._entry)
        start = ffi.sizeof("struct fi_eq_cm_entry")
        parameter = bytes(ffi.buffer(self._entry, count))[start:]
        self._deadline_ns = None
        request = self._happened(kind, entry.info)
        self._events.append(Event(kind, self._source, parameter, request))

    def _take_error(self) -> None:
        error = self._error
        if self._library.lib.fi_eq_readerr(self._handle, error, 0) <= 0:
            return
        size = min(error.err_data_size, _PARAMETER)
        told = bytes(self._library.ffi.buffer(error.err_data, size)) if size else b""
        self._add_error(abs(error.err) or errno.EIO, told)

    def _add_error(self, code: int, parameter: bytes = b"") -> None:
        self._deadline_ns = None
        self._happened(EventKind.ERROR, None)
        self._events.append(Event(EventKind.ERROR, self._source, parameter, err=code))

    def close(self) -> None:
        """Release it; events that nobody read are lost."""
        if self._is_open:
            self._is_open = False
            self._library.lib.fi_close(self.fid)
            self._fabric.release()
