# SPDX-License-Identifier: Apache-2.0
"""A completion queue of libfabric that tells the same of every provider (fi_cq(3)).

libfabric's queue always has the widest format and an entry for every success, because what an
operation held is let go of when its entry comes. Which entries the caller sees, and how much of
them, is decided here.
"""

from __future__ import annotations

import errno
from collections import deque
from collections.abc import Callable
from typing import Any, Final

from i2o.clock import Clock
from i2o.transport.fabric.completion import Completion, CompletionError
from i2o.transport.fabric.deadline import end_of_wait
from i2o.transport.fabric.errors import (
    ErrorAvailable,
    FabricErrno,
    FabricError,
    TryAgain,
    meaning,
)
from i2o.transport.fabric.flags import ADDR_UNSPEC, Capability, CqFormat, Flag
from i2o.transport.ofi.domain import Domain
from i2o.transport.ofi.library import check
from i2o.transport.ofi.operation import NO_FLAGS, RECV_TAGGED, Ledger, Operation, Poster
from i2o.transport.ofi.waiting import TICK_S, Waiter, wait_descriptor

_BATCH: Final = 16
_MOST_UNREAD: Final = 1 << 14
"""Entries that are kept when a program makes progress but does not read."""
_IDLE_NS: Final = 50_000_000
"""For how long a provider that keeps everything is called although nothing is posted."""
_SPIN_NS: Final = 25_000
"""For how long `sread` looks before it considers anything else: longer than a round trip."""
_SPINS: Final = 16
"""How often it does before it sleeps: some 400 us, as waking up takes long."""
_NOTHING: Final = -errno.EAGAIN
_SEND: Final = int(Flag.SEND)
_TAGGED: Final = int(Flag.TAGGED)
_MULTI_RECV: Final = int(Flag.MULTI_RECV)
_REMOTE_CQ_DATA: Final = int(Flag.REMOTE_CQ_DATA)
_MESSAGE: Final = int(Flag.RECV | Flag.MSG | Flag.TAGGED)
_TRUNCATED: Final = int(FabricErrno.ETRUNC)


class OfiCompletionQueue:
    """A queue that endpoints of one domain are bound to.

    One thread at a time may use it and its endpoints; `signal` may come from any.

    Args:
        domain: whose endpoints.
        size: entries that libfabric keeps; 0 for its default.
        format: how much an entry tells.
        clock: measures how long `sread` waits.
    """

    def __init__(self, domain: Domain, size: int, format: CqFormat, clock: Clock) -> None:
        self.format = format
        self.domain = domain
        self.endpoints: list[Any] = []
        self.restless: set[Any] = set()
        """Endpoints that want to be advanced when the queue is read."""
        self._kept: list[object] = []
        self._clock = clock
        selection = domain.selection
        library = self._library = selection.library
        ffi, lib = library
        self._ready: deque[Completion | CompletionError] = deque()
        self._owners: dict[Poster, Any] = {}
        self._error = ffi.new("struct fi_cq_err_entry *")
        self._flags: dict[int, Flag] = {}
        self._waiter: Waiter | None = None
        self._is_watched = False
        self._holds_back = selection.provider.takes_everything
        self._has_descriptor = selection.provider.has_descriptor
        self._is_signalled = False
        attributes = ffi.new("struct fi_cq_attr *")
        attributes.size = size
        attributes.format = lib.FI_CQ_FORMAT_TAGGED
        attributes.wait_obj = (
            lib.FI_WAIT_FD if selection.provider.has_descriptor else lib.FI_WAIT_NONE
        )
        out = ffi.new("struct fid_cq **")
        check(library, lib.fi_cq_open(domain.handle, attributes, out, ffi.NULL), "fi_cq_open")
        self._handle = out[0]
        self.fid = ffi.addressof(self._handle, "fid")
        self.operations: Ledger = library.books.Ledger(
            int(ffi.cast("uintptr_t", self._handle)),
            Completion,
            RECV_TAGGED,
            NO_FLAGS,
            ADDR_UNSPEC,
            self._ready.append,
            self._take,
            # without the capability no source is told, even where the provider knows it
            is_sourced=Capability.SOURCE in selection.attributes.capabilities,
            has_flags=format > CqFormat.CONTEXT,
            is_widest=format is CqFormat.TAGGED,
            holds_back=self._holds_back,
        )
        self._next: Callable[[int, int], list[Completion] | None] = self.operations.next
        domain.hold()
        self._is_open = True

    # --- reading ---------------------------------------------------------------------------------

    def read(self, count: int = 1) -> list[Completion]:
        """Return 1 to `count` entries; with count 0 only make progress and return none."""
        self._require_open()
        if count == 0:
            self.progress()
            return []
        found = self._collect(count)
        if not found:
            raise TryAgain("there is no completion")
        return found

    def readerr(self) -> CompletionError:
        """Return the error that comes next."""
        self._require_open()
        if not self._ready or not isinstance(self._ready[0], CompletionError):
            raise TryAgain("the next entry is no error")
        error = self._ready.popleft()
        assert isinstance(error, CompletionError)
        return error

    def sread(self, count: int = 1, timeout_s: float | None = None) -> list[Completion]:
        """As `read`, but wait for an entry; None waits for ever."""
        if not self._ready and not self.restless:
            found = self._next(count, _SPIN_NS)
            if found:  # nearly always
                return found
        self._require_open()
        if count < 1:
            raise FabricError(errno.EINVAL, "sread() waits for at least one entry")
        end = end_of_wait(self._clock, timeout_s)
        spins = 0
        while not (found := self._collect(count)):
            spins += 1
            if self._is_signalled:
                self._is_signalled = False
                raise TryAgain("signal() was called")
            left = None if end is None else end - self._clock.monotonic()
            if left is not None and left <= 0:
                raise TryAgain(f"no completion within {timeout_s} s")
            if spins > _SPINS:
                self._sleep(left)
            elif not self.restless:
                self.fetch(_SPIN_NS)
        return found

    def progress(self) -> None:
        """Move on what is bound to the queue, and fetch what is done."""
        self.fetch()
        for endpoint in self.endpoints:
            endpoint.advance()

    def _collect(self, count: int) -> list[Completion]:
        """Return what there is, or an empty list; raises ErrorAvailable."""
        ready = self._ready
        if not ready:
            found = self._next(count, 0)
            if found and not self.restless:
                return found
            if found:
                ready.extend(found)
            elif found is None:
                self.fetch()
            if self.restless:
                for endpoint in tuple(self.restless):
                    endpoint.advance()
            if not ready:
                if self._is_watched:
                    self._arm()
                if not ready:
                    return []
        found = []
        while ready and len(found) < count:
            entry = ready[0]
            if isinstance(entry, CompletionError):
                if not found:
                    raise ErrorAvailable
                break
            found.append(entry)
            ready.popleft()
        return found

    # --- waiting ---------------------------------------------------------------------------------

    def signal(self) -> None:
        """Wake whoever is in `sread`; may be called from any thread."""
        self._is_signalled = True
        waiter = self._waiter
        if waiter is not None:
            waiter.ring()

    def fileno(self) -> int:
        """Return a descriptor that is readable when `read` should be called, or -1."""
        if not self._is_open:
            return -1
        self._is_watched = True
        waiter = self._bell()
        self._arm()
        return waiter.fileno()

    def _bell(self) -> Waiter:
        if self._waiter is None:
            descriptor = None
            if self._has_descriptor:
                descriptor = wait_descriptor(self._library, self.fid)
            self._waiter = Waiter(self._library, descriptor)
        return self._waiter

    def _arm(self) -> None:
        """See to it that the descriptor becomes readable when there is something to do."""
        waiter = self._bell()
        waiter.calm()
        is_quiet = self._may_sleep()
        waiter.tick(not waiter.has_descriptor or any(e.has_waiting for e in self.endpoints))
        if not is_quiet or self._ready or self._is_signalled:
            waiter.ring()

    def _may_sleep(self) -> bool:
        """Return whether libfabric's descriptor tells of everything from now on (fi_trywait)."""
        ffi, lib = self._library
        if not self._bell().has_descriptor:
            return True
        fids = ffi.new("struct fid *[]", [self.fid])
        return bool(lib.fi_trywait(self.domain.fabric.handle, fids, 1) == 0)

    def _sleep(self, left_s: float | None) -> None:
        waiter = self._bell()
        if self._is_signalled or not self._may_sleep():
            return
        is_polled = not waiter.has_descriptor or any(e.needs_polling for e in self.endpoints)
        if is_polled:
            left_s = TICK_S if left_s is None else min(left_s, TICK_S)
        waiter.wait(left_s)

    # --- what libfabric tells --------------------------------------------------------------------

    def fetch(self, spin_ns: int = 0) -> bool:
        """Take entries out of libfabric's queue, which also makes it go on; say if there were any.

        What nobody read yet is bounded: beyond that, the rest stays where it is. So does what
        arrives while nothing is posted, where the provider would keep all of it.

        Args:
            spin_ns: how long to look, in nanoseconds, as long as there is nothing.
        """
        operations = self.operations
        if self._holds_back:
            if operations.under_way:
                operations.idle_since_ns = 0
            elif self._is_long_idle():
                return False
        room = _BATCH if len(self._ready) < _MOST_UNREAD else 0
        count = operations.fetch(room, spin_ns)
        if count == _NOTHING or not room:
            return False
        if count == -FabricErrno.EAVAIL:
            self._take_error()
        elif count <= 0:
            check(self._library, count, "fi_cq_readfrom")
            return False
        return True

    def _is_long_idle(self) -> bool:
        """Return whether nothing has been posted for a while, while nothing is posted.

        For that while libfabric goes on, as it may have to make connections.
        """
        now = self._clock.monotonic_ns()
        operations = self.operations
        if not operations.idle_since_ns:
            operations.idle_since_ns = now
        return now - operations.idle_since_ns > _IDLE_NS

    def _take(
        self,
        operation: Operation,
        flags: int,
        length: int,
        place: int,
        data: int,
        tag: int,
        source: int,
    ) -> None:
        """Take the entry of a receive that is more than bytes, a tag and a source."""
        if operation.area is not None:
            self._take_part(operation, flags, length, place, data, source)
            return
        if operation.is_peek and data:
            flags |= _REMOTE_CQ_DATA  # some forget to say so when they find a message
        if not flags & _REMOTE_CQ_DATA:
            data = 0
        if 0 <= operation.limit < length:
            self._fail(
                operation,
                _TRUNCATED,
                length=operation.limit,
                olen=length - operation.limit,
                data=data,
                tag=tag,
                source=source,
            )
            return
        if operation.is_wanted:
            self._add(operation, flags & _REMOTE_CQ_DATA, length, None, data, tag, source)
        self._owner(operation).received(operation)

    def _owner(self, operation: Operation) -> Any:
        """Return the endpoint of an operation."""
        assert operation.poster is not None
        return self._owners[operation.poster]

    def _take_part(
        self, operation: Operation, flags: int, length: int, place: int, data: int, source: int
    ) -> None:
        """Take a message in a multi-receive buffer, or the word that the buffer is done with."""
        area = operation.area
        assert area is not None
        is_released = bool(flags & _MULTI_RECV)
        if is_released and not flags & _MESSAGE:
            self._add(operation, 0, 0, None, 0, 0, ADDR_UNSPEC, is_bare=True)
        else:
            begin = place - operation.start
            if not 0 <= begin <= begin + length <= len(area):
                self._fail(operation, errno.EIO, source=source)
                return
            kept = flags & (_REMOTE_CQ_DATA | _MULTI_RECV)
            if not flags & _REMOTE_CQ_DATA:
                data = 0
            if operation.is_wanted or is_released:
                view = area[begin : begin + length]
                self._add(operation, kept, length, view, data, 0, source)
        if is_released:
            self._owner(operation).received(operation)

    def _take_error(self) -> None:
        """Take the error that libfabric says is next."""
        ffi, lib = self._library
        error = self._error
        if lib.fi_cq_readerr(self._handle, error, 0) <= 0:
            return
        operation = self.operations.find(int(ffi.cast("uintptr_t", error.op_context)))
        if operation is None:
            return
        text = lib.fi_cq_strerror(self._handle, error.prov_errno, error.err_data, ffi.NULL, 0)
        told = ffi.string(text).decode("utf-8", "replace") if text != ffi.NULL else ""
        # some versions of shm have the sign wrong
        code = abs(error.err) or errno.EIO
        if operation.tally is not None and operation.poster is not None:
            operation.tally.outstanding -= 1
            operation.poster.in_flight -= 1
        self._fail(
            operation,
            code,
            length=0 if operation.flags & _SEND else error.len,
            olen=error.olen,
            tag=error.tag,
            prov_errno=error.prov_errno,
            told=told,
        )

    # --- what the caller is told -----------------------------------------------------------------

    def _add(
        self,
        operation: Operation,
        more: int,
        length: int,
        view: memoryview | None,
        data: int,
        tag: int,
        source: int,
        is_bare: bool = False,
    ) -> None:
        number = _MULTI_RECV if is_bare else int(operation.flags) | more
        flags = self._flags.get(number)
        if flags is None:
            flags = self._flags[number] = Flag(number)
        level = self.format
        if level < CqFormat.TAGGED:
            tag = 0
            if level < CqFormat.DATA:
                data, view = 0, None
                if level < CqFormat.MSG:
                    flags, length = NO_FLAGS, 0
        elif not number & _TAGGED:
            tag = 0
        self._ready.append(Completion(operation.context, flags, length, view, data, tag, source))

    def _fail(
        self,
        operation: Operation,
        code: int,
        *,
        length: int = 0,
        olen: int = 0,
        data: int = 0,
        tag: int = 0,
        source: int = ADDR_UNSPEC,
        prov_errno: int = 0,
        told: str = "",
        is_over: bool = True,
    ) -> None:
        """End an operation with an error."""
        if not operation.is_told:
            reason = meaning(code)
            if told and told != reason:
                reason = f"{reason}: {told}"
            self._ready.append(
                CompletionError(
                    operation.context,
                    operation.flags,
                    length,
                    None,
                    data,
                    tag,
                    olen,
                    code,
                    prov_errno,
                    reason,
                    source,
                )
            )
        if is_over:
            self._owner(operation).ended(operation)

    def fail(self, operation: Operation, code: int, told: str) -> None:
        """End an operation that libfabric does not have, or has no more."""
        self._fail(operation, code, told=told)

    def tell(self, operation: Operation, code: int, told: str) -> None:
        """Make the error entry of an operation whose memory libfabric still needs."""
        self._fail(operation, code, told=told, is_over=False)
        operation.is_told, operation.is_wanted = True, False
        operation.is_special = True

    def add(self, endpoint: object, poster: Poster) -> None:
        """Serve an endpoint, whose operations are this poster's."""
        self.endpoints.append(endpoint)
        self._owners[poster] = endpoint

    def forget(self, endpoint: object, poster: Poster) -> None:
        """Let go of an endpoint that was closed.

        In 1.17 what libfabric looks at before one waits for its descriptor goes with the endpoint,
        and it looks all the same.
        """
        self.endpoints.remove(endpoint)
        del self._owners[poster]
        self.restless.discard(endpoint)
        self._has_descriptor = False
        if self._waiter is not None:
            self._waiter.forget_descriptor()

    def keep(self, endpoint: object) -> None:
        """Stay for an endpoint that libfabric must not close before the program ends."""
        self.endpoints.remove(endpoint)
        self.restless.discard(endpoint)
        self._kept.append(endpoint)

    def forget_kept(self, endpoint: object, poster: Poster) -> None:
        """Let go of such an endpoint."""
        self._kept.remove(endpoint)
        del self._owners[poster]
        if not self._is_open:
            self._release()

    # --- end -------------------------------------------------------------------------------------

    def drain(self) -> None:
        """Take everything that libfabric's queue holds."""
        while self.fetch():
            pass

    def close(self) -> None:
        """Release it; raises FabricError EBUSY while an endpoint is bound to it."""
        if not self._is_open:
            return
        if self.endpoints:
            raise FabricError(errno.EBUSY, "an endpoint is bound to the queue: close it first")
        self._is_open = False
        if self._waiter is not None:
            self._waiter.close()
        self._release()

    def _release(self) -> None:
        if not self._kept:
            self.operations.shut()
            self._library.lib.fi_close(self.fid)
            self.domain.release()

    def _require_open(self) -> None:
        if not self._is_open:
            raise FabricError(FabricErrno.EOPBADSTATE, "the completion queue is closed")
