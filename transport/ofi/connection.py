# SPDX-License-Identifier: Apache-2.0
"""Listening for connections (fi_pep, fi_cm(3))."""

from __future__ import annotations

from typing import Any

from i2o.clock import Clock
from i2o.transport.fabric.endpoint import EventKind
from i2o.transport.fabric.errors import FabricErrno, FabricError
from i2o.transport.ofi.domain import Domain, Fabric, name_of
from i2o.transport.ofi.endpoint import OfiEndpoint
from i2o.transport.ofi.events import OfiEventQueue
from i2o.transport.ofi.library import check
from i2o.transport.ofi.selection import Selection


class OfiConnectionRequest:
    """Somebody wants to connect; it is answered once, with an endpoint or with a rejection."""

    def __init__(self, listener: OfiPassiveEndpoint, info: Any) -> None:
        self._listener = listener
        self._info = info

    @property
    def is_answered(self) -> bool:
        """Whether an endpoint was made, or the other side was sent away."""
        return self._info is None

    def endpoint(self) -> OfiEndpoint:
        """Make the endpoint that can be bound, enabled and then `accept` it."""
        return self._listener.endpoint_for(self._take())

    def reject(self, parameter: bytes = b"") -> None:
        """Send the other side away: it gets ECONNREFUSED."""
        self._listener.reject(self._take(), parameter)

    def _take(self) -> Any:
        if self._info is None:
            raise FabricError(FabricErrno.EOPBADSTATE, "the request was answered already")
        info, self._info = self._info, None
        return info


class OfiPassiveEndpoint:
    """Listens for connections. All endpoints that come of it share a domain, so also queues.

    Args:
        selection: what to listen with.
        clock: what its events and endpoints wait on.
    """

    def __init__(self, selection: Selection, *, clock: Clock) -> None:
        self._selection = selection
        self._clock = clock
        self._domain: Domain | None = None
        self._requests: list[OfiConnectionRequest] = []
        library = self._library = selection.library
        self._fabric = Fabric(selection)
        self._fabric.hold()
        out = library.ffi.new("struct fid_pep **")
        try:
            code = library.lib.fi_passive_ep(
                self._fabric.handle, selection.info, out, library.ffi.NULL
            )
            check(library, code, "fi_passive_ep")
        except FabricError:
            self._fabric.release()
            raise
        self._handle = out[0]
        self._fid = library.ffi.addressof(self._handle, "fid")
        self._events = OfiEventQueue(library, self._fabric, self, clock, self._something_happened)
        self._is_open = True
        try:
            check(
                library, library.lib.fi_pep_bind(self._handle, self._events.fid, 0), "fi_pep_bind"
            )
        except FabricError:
            self.close()
            raise

    @property
    def name(self) -> str:
        """The address to connect to."""
        self._require_open()
        return name_of(self._selection, self._fid)

    @property
    def events(self) -> OfiEventQueue:
        """Where the requests come from."""
        return self._events

    def listen(self) -> None:
        """Begin to listen."""
        self._require_open()
        check(self._library, self._library.lib.fi_listen(self._handle), "fi_listen")

    def close(self) -> None:
        """Stop; requests that were not answered are rejected."""
        if not self._is_open:
            return
        self._events.poll()
        for request in self._requests:
            if not request.is_answered:
                request.reject()
        self._requests.clear()
        self._is_open = False
        self._library.lib.fi_close(self._fid)
        self._events.close()
        if self._domain is not None:
            self._domain.release()
        self._fabric.release()

    def endpoint_for(self, info: Any) -> OfiEndpoint:
        """Make the endpoint of a request."""
        self._require_open()
        if self._domain is None:
            self._domain = Domain(self._selection, self._fabric)
            self._domain.hold()
        return OfiEndpoint(self._domain, info, clock=self._clock)

    def reject(self, info: Any, parameter: bytes) -> None:
        """Answer a request with no."""
        self._require_open()
        code = self._library.lib.fi_reject(self._handle, info.handle, parameter, len(parameter))
        check(self._library, code, "fi_reject")

    def _something_happened(self, kind: EventKind, info: Any) -> OfiConnectionRequest | None:
        if kind is not EventKind.CONNREQ:
            return None
        owned = self._library.ffi.gc(info, self._library.lib.fi_freeinfo)
        request = OfiConnectionRequest(self, owned)
        self._requests = [each for each in self._requests if not each.is_answered]
        self._requests.append(request)
        return request

    def _require_open(self) -> None:
        if not self._is_open:
            raise FabricError(FabricErrno.EOPBADSTATE, "the listener is closed")
