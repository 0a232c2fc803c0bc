# SPDX-License-Identifier: Apache-2.0
"""An endpoint of libfabric behind the contract of endpoints (fi_endpoint(3))."""

from __future__ import annotations

import atexit
import errno
import warnings
from collections.abc import Iterable
from typing import Any, Final, Self

from i2o.clock import Clock
from i2o.transport.fabric.endpoint import EventKind
from i2o.transport.fabric.errors import FabricErrno, FabricError
from i2o.transport.fabric.flags import ADDR_UNSPEC, Bind, Capability, CqFormat, Flag
from i2o.transport.ofi.addresses import is_group, to_bytes
from i2o.transport.ofi.completion_queue import OfiCompletionQueue
from i2o.transport.ofi.domain import Domain, name_of
from i2o.transport.ofi.events import OfiEventQueue
from i2o.transport.ofi.library import check
from i2o.transport.ofi.operation import Operation
from i2o.transport.ofi.peer import Peer
from i2o.transport.ofi.receiving import ReceivingHalf
from i2o.transport.ofi.sending import SendingHalf

CONNECT_TIMEOUT_S: Final = 10.0


class OfiEndpoint(SendingHalf, ReceivingHalf):
    """One end of message transfers of libfabric.

    One thread at a time may use it and its queues.

    Args:
        domain: where it is opened.
        info: the `struct fi_info` to open it with; of a connection request, the request's.
        clock: measures how long a peer may not be reached, and `sread` waits on it.
        connect_timeout_s: after which what waits for a peer that is not reached ends.
    """

    def __init__(
        self,
        domain: Domain,
        info: Any,
        *,
        clock: Clock,
        connect_timeout_s: float = CONNECT_TIMEOUT_S,
    ) -> None:
        self._is_open = False  # until there is something to close
        self._domain = domain
        self._info = info  # of a request, it names the connection
        self.attributes = domain.selection.attributes
        self._has_begun = False
        self._has_vector = False
        self._min_multi_recv: int | None = None
        self._events: OfiEventQueue | None = None
        self._joined: dict[int, tuple[Any, Any]] = {}
        library = domain.selection.library
        out = library.ffi.new("struct fid_ep **")
        check(library, library.lib.i2o_endpoint(domain.handle, info, out), "fi_endpoint")
        super().__init__(domain.selection, out[0], clock)
        domain.hold()
        self._open_sending(connect_timeout_s)
        self._open_receiving()
        try:
            if self._is_connected_type:
                self._add_peer(ADDR_UNSPEC, "the other side")
            if self._is_connected_type or Capability.MULTICAST in self.attributes.capabilities:
                self._events = OfiEventQueue(
                    library, domain.fabric, self, clock, self._something_happened, self._fetch
                )
                check(library, library.lib.fi_ep_bind(self._ep, self._events.fid, 0), "fi_ep_bind")
        except FabricError:
            self.close()
            raise

    @property
    def name(self) -> str:
        """The address that another endpoint can insert or connect to."""
        self._require_open()
        return name_of(self._selection, self._fid)

    # --- life ------------------------------------------------------------------------------------

    def open_cq(self, size: int = 0, format: CqFormat = CqFormat.TAGGED) -> OfiCompletionQueue:
        """Make a queue that this endpoint and others of its domain can be bound to."""
        self._require_open()
        return OfiCompletionQueue(self._domain, size, format, self._clock)

    def bind(self, cq: OfiCompletionQueue, flags: Bind) -> None:
        """Name the queue of sends, of receives or of both, before `enable`."""
        self._require_open()
        if self._is_enabled:
            raise FabricError(FabricErrno.EOPBADSTATE, "bind() comes before enable()")
        if not isinstance(cq, OfiCompletionQueue) or cq.domain is not self._domain:
            raise FabricError(FabricErrno.EDOMAIN, "the queue is of another domain: open_cq()")
        what = flags & (Bind.TRANSMIT | Bind.RECV)
        if not what:
            raise FabricError(errno.EINVAL, "TRANSMIT, RECV or both")
        if (Bind.TRANSMIT in flags and self._tx) or (Bind.RECV in flags and self._rx):
            raise FabricError(errno.EINVAL, "that has a queue already")
        code = self._lib.fi_ep_bind(self._ep, cq.fid, int(what))
        check(self._library, code, "fi_ep_bind")
        if Bind.TRANSMIT in flags:
            self._bind_sending(cq, flags)
        if Bind.RECV in flags:
            self._bind_receiving(cq, flags)
        if self not in cq.endpoints:
            cq.add(self, self._poster)
        if self._is_connected_type:
            cq.restless.add(self)

    def set_min_multi_recv(self, size: int) -> None:
        """Set FI_OPT_MIN_MULTI_RECV, before `enable`."""
        self._require_open()
        if self._is_enabled:
            # a provider takes it later, too, but then releases buffers at the wrong time
            raise FabricError(FabricErrno.EOPBADSTATE, "set_min_multi_recv() comes before enable()")
        if size < 0:
            raise FabricError(errno.EINVAL, f"{size} is no number of bytes")
        if Capability.MULTI_RECV not in self.attributes.capabilities:
            raise self._lacks(Capability.MULTI_RECV)
        self._min_multi_recv = size

    def enable(self) -> None:
        """Let operations be posted; raises FabricError ENOCQ if a queue is missing."""
        self._require_open()
        if self._is_enabled:
            return
        if self._tx is None or self._rx is None:
            missing = "sends" if self._tx is None else "receives"
            raise FabricError(FabricErrno.ENOCQ, f"{missing} have no queue: bind() one")
        self._bind_vector()
        is_late = self._selection.provider.needs_enabling
        if not is_late:
            self._pass_minimum_on()
        check(self._library, self._lib.fi_enable(self._ep), "fi_enable")
        if is_late:
            self._pass_minimum_on()
        self._is_enabled = True
        self._rx_open = self._rx
        if not self._is_connected_type:
            self._tx_open = self._tx
        self._let_post()

    def _let_post(self) -> None:
        """Tell who posts plain operations what can be posted now."""
        is_plain = not self._selection.provider.takes_messages_only
        self._poster.open(is_plain and self._tx_open is not None, self._rx_open is not None)

    def _pass_minimum_on(self) -> None:
        """Set FI_OPT_MIN_MULTI_RECV, if it was asked for."""
        if self._min_multi_recv is None:
            return
        lib = self._lib
        place = self._ffi.new("size_t *", self._min_multi_recv)
        level, option = lib.FI_OPT_ENDPOINT, lib.FI_OPT_MIN_MULTI_RECV
        code = lib.fi_setopt(self._fid, level, option, place, self._ffi.sizeof("size_t"))
        check(self._library, code, "fi_setopt")

    def close(self) -> None:
        """Cancel what is posted (its entries are made, ECANCELED), and let go of the queues."""
        if not self._is_open:
            return
        self._is_open = False
        self._tx_open = self._rx_open = None
        self._let_post()
        must_stay = self._selection.provider.must_be_answered and not all(
            peer.has_answered for peer in self._stalled
        )
        for peer in tuple(self._stalled):
            self._give_up(peer, errno.ECANCELED, "the endpoint was closed")
        if must_stay:
            self._stay_until_exit()
            return
        lib = self._lib
        for group, _ in self._joined.values():
            lib.fi_close(self._ffi.addressof(group, "fid"))
        self._joined.clear()
        self._bind_vector()  # without one, some crash when they are closed
        spare = None
        if self._selection.provider.needs_enabling and not self._is_enabled:
            spare = self._enable_for_the_end()
        lib.fi_close(self._fid)
        if spare is not None:
            spare.close()
        for queue in self._queues():
            queue.drain()
            left = sorted(queue.operations.of(self._poster), key=lambda each: each.order)
            for operation in left:
                if operation.claims:
                    queue.operations.give_back(operation)
                else:
                    self._count_out(operation)
                    queue.fail(operation, errno.ECANCELED, "the endpoint was closed")
            queue.forget(self, self._poster)
        self._claimed.clear()
        if self._events is not None:
            self._events.close()
        self._domain.release()

    def _stay_until_exit(self) -> None:
        """End what is posted, but leave the rest to the end of the program."""
        queues = self._queues()
        for queue in queues:
            for operation in sorted(queue.operations.of(self._poster), key=lambda each: each.order):
                if not operation.claims and not operation.is_told:
                    queue.tell(operation, errno.ECANCELED, "the endpoint was closed")
            queue.keep(self)
        atexit.register(self._finish, queues)

    def _finish(self, queues: Iterable[OfiCompletionQueue]) -> None:
        self._lib.fi_close(self._fid)
        for queue in queues:
            queue.forget_kept(self, self._poster)
        self._domain.release()

    def _enable_for_the_end(self) -> OfiCompletionQueue:
        """Enable what nobody enabled, with a queue for what has none."""
        spare = OfiCompletionQueue(self._domain, 0, CqFormat.CONTEXT, self._clock)
        for queue, flag in ((self._tx, Bind.TRANSMIT), (self._rx, Bind.RECV)):
            if queue is None:
                self._lib.fi_ep_bind(self._ep, spare.fid, int(flag))
        self._lib.fi_enable(self._ep)
        return spare

    def _bind_vector(self) -> None:
        """Bind the addresses, not before it must be: shm crashes when one is inserted between."""
        if not self._is_connected_type and not self._has_vector:
            vector = self._ffi.addressof(self._domain.vector, "fid")
            check(self._library, self._lib.fi_ep_bind(self._ep, vector, 0), "fi_ep_bind")
            self._has_vector = True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __del__(self) -> None:
        if getattr(self, "_is_open", False):
            # libfabric would go on writing into buffers that are somebody else's by then
            self.close()
            warnings.warn(f"{self!r} was not closed", ResourceWarning, source=self, stacklevel=2)

    # --- addresses -------------------------------------------------------------------------------

    def insert(self, address: str) -> int:
        """Make an fi_addr of the `name` of a peer; nothing is sent."""
        self._require_unconnected()
        number = self._domain.insert(address)
        if number not in self._peers:
            self._add_peer(number, address)
        return number

    def remove(self, address: int) -> None:
        """Forget an fi_addr; what is outstanding to it ends with errors."""
        self._require_unconnected()
        peer = self._peer_of(address)
        why = f"{peer.name} was removed"
        self._give_up(peer, errno.ECANCELED, why)
        if self._tx is not None:
            operations = self._tx.operations.of(self._poster)
            mine = [each for each in operations if each.tally is peer.tally]
            self._tell_outstanding(mine, errno.ECANCELED, why)
        del self._peers[address], self._tallies[address]
        self._domain.remove(address)

    def address_of(self, address: int) -> str:
        """Return the name behind an fi_addr."""
        self._require_unconnected()
        return self._peer_of(address).name

    # --- groups ----------------------------------------------------------------------------------

    def join(self, group: str) -> int:
        """Join a group and return its fi_addr (fi_join)."""
        self._require_open()
        events = self._events
        if events is None or Capability.MULTICAST not in self.attributes.capabilities:
            raise self._lacks(Capability.MULTICAST)
        if not self._is_enabled:
            raise FabricError(FabricErrno.EOPBADSTATE, "join() comes after enable()")
        data = to_bytes(group, self._selection.format)
        if not is_group(data) or any(group == peer.name for peer in self._groups.values()):
            # libfabric could not close the endpoint after such an attempt
            raise FabricError(errno.EINVAL, f"{group} is no group of IPv4, or was joined before")
        raw = self._ffi.new("char []", data)
        out = self._ffi.new("struct fid_mc **")
        code = self._lib.fi_join(self._ep, raw, 0, out, self._null)
        check(self._library, code, "fi_join")
        events.join_error = 0
        events.poll()
        if events.join_error:
            self._lib.fi_close(self._ffi.addressof(out[0], "fid"))
            raise FabricError(events.join_error, f"{group} cannot be joined")
        number = int(out[0].fi_addr)
        self._joined[number] = (out[0], raw)
        self._groups[number] = Peer(number, group, self._new_tally(number))
        return number

    def leave(self, address: int) -> None:
        """Leave it."""
        self._require_open()
        peer = self._peer_of(address, int(Flag.MULTICAST))
        self._give_up(peer, errno.ECANCELED, f"{peer.name} was left")
        group, _ = self._joined.pop(address)
        del self._groups[address]
        check(
            self._library,
            self._lib.fi_close(self._ffi.addressof(group, "fid")),
            "leaving the group",
        )

    # --- connections -----------------------------------------------------------------------------

    def connect(self, address: str, parameter: bytes = b"") -> None:
        """Ask a listener for a connection; CONNECTED or an error comes through `events`."""
        self._require_connectable()
        raw = to_bytes(address, self._selection.format)
        code = self._lib.fi_connect(self._ep, raw, parameter, len(parameter))
        check(self._library, code, "fi_connect")
        self._has_begun = True
        self.events.expect_within(self._connect_timeout_ns)

    def accept(self, parameter: bytes = b"") -> None:
        """Accept the request that this endpoint was made for; CONNECTED comes through `events`."""
        self._require_connectable()
        code = self._lib.fi_accept(self._ep, parameter, len(parameter))
        check(self._library, code, "fi_accept")
        self._has_begun = True
        self.events.expect_within(self._connect_timeout_ns)

    def shutdown(self) -> None:
        """Tell the peer that this is the end; both sides get SHUTDOWN."""
        self._require_connected_type()
        check(self._library, self._lib.fi_shutdown(self._ep, 0), "fi_shutdown")

    @property
    def events(self) -> OfiEventQueue:
        """What happens to connections."""
        self._require_connected_type()
        assert self._events is not None
        return self._events

    @property
    def needs_polling(self) -> bool:
        """Whether no descriptor tells when there is something to do."""
        return self.has_waiting or self._is_connected_type

    def _something_happened(self, kind: EventKind, info: Any) -> None:
        if kind is EventKind.CONNECTED:
            self._tx_open = self._tx
            self._let_post()
        elif kind in (EventKind.SHUTDOWN, EventKind.ERROR):
            self._tx_open = None
            self._let_post()
            self._give_up(self._peers[ADDR_UNSPEC], errno.ENOTCONN, "the connection is gone")

    # --- going on --------------------------------------------------------------------------------

    def progress(self) -> None:
        """Move what is under way, without reading a queue."""
        if self._is_open:
            for queue in self._queues():
                queue.progress()

    def advance(self) -> None:
        """Do what the reading of a queue does for an endpoint beside it."""
        if self._stalled:
            self._advance_sends()
        if self._is_connected_type and self._events is not None:
            self._events.poll()

    def _fetch(self) -> None:
        if self._is_open:
            for queue in self._queues():
                queue.fetch()

    def ended(self, operation: Operation) -> None:
        """An operation ended with an error."""
        queue = self._rx if operation.tally is None else self._tx
        assert queue is not None
        if operation.tally is None:
            self._poster.posted -= 1
        queue.operations.give_back(operation)

    def _count_out(self, operation: Operation) -> None:
        if operation.tally is not None:
            operation.tally.outstanding -= 1
            self._poster.in_flight -= 1

    # --- refusals --------------------------------------------------------------------------------

    def _require_open(self) -> None:
        if not self._is_open:
            raise self._not_ready()

    def _require_unconnected(self) -> None:
        self._require_open()
        if self._is_connected_type:
            raise FabricError(errno.ENOTSUP, "a connected endpoint has connect(), not insert()")

    def _require_connected_type(self) -> None:
        self._require_open()
        if not self._is_connected_type:
            raise FabricError(errno.ENOTSUP, "an unconnected endpoint has insert(), not connect()")

    def _require_connectable(self) -> None:
        self._require_connected_type()
        if not self._is_enabled or self._has_begun:
            why = "it was connected or accepted before" if self._has_begun else "enable() it first"
            raise FabricError(FabricErrno.EOPBADSTATE, why)
