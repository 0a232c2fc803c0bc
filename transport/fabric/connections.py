# SPDX-License-Identifier: Apache-2.0
"""Listeners and event queues of the software engine: how connected endpoints find one another."""

from __future__ import annotations

import errno
import select
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from i2o.clock import SYSTEM_CLOCK, Clock
from i2o.closing import Closing
from i2o.transport.fabric.carrier import Carrier
from i2o.transport.fabric.deadline import end_of_wait
from i2o.transport.fabric.endpoint import Endpoint, Event, EventKind
from i2o.transport.fabric.engine import Engine
from i2o.transport.fabric.engine_options import EngineOptions
from i2o.transport.fabric.errors import FabricErrno, FabricError, TryAgain
from i2o.transport.fabric.flags import EndpointType

if TYPE_CHECKING:
    from i2o.transport.fabric.link import Link

MAX_PARAMETER: Final = 64
"""Bytes that connect, accept and reject may carry (FI_OPT_CM_DATA_SIZE)."""
MAX_BACKLOG: Final = 128
"""Requests of a listener that wait for an answer; more are refused."""
_BLIND_WAIT_S: Final = 0.01


def check_parameter(parameter: bytes) -> bytes:
    """Return what a connection call was given; raises FabricError EMSGSIZE if it is too long."""
    if len(parameter) > MAX_PARAMETER:
        raise FabricError(
            errno.EMSGSIZE, f"a parameter of {len(parameter)} bytes; at most {MAX_PARAMETER} fit"
        )
    return bytes(parameter)


class SoftwareEventQueue:
    """What happened to connections of one engine.

    Args:
        engine: what is moved on when there is no event.
        clock: for waiting.
    """

    def __init__(self, engine: Engine, clock: Clock = SYSTEM_CLOCK) -> None:
        self._engine, self._clock = engine, clock
        self._events: deque[Event] = deque()

    def push(self, event: Event) -> None:
        """Add an event."""
        self._events.append(event)

    def read(self) -> Event:
        """Return the next event; raises TryAgain if there is none."""
        if not self._events:
            self._engine.progress()
            if not self._events:
                raise TryAgain("nothing has happened to a connection")
        return self._events.popleft()

    def sread(self, timeout_s: float | None = None) -> Event:
        """Wait for the next event; raises TryAgain when the time is over."""
        end = end_of_wait(self._clock, timeout_s)
        while True:
            try:
                return self.read()
            except TryAgain:
                if not self._wait(end):
                    raise

    def _wait(self, end: float | None) -> bool:
        now, limit = self._clock.monotonic(), end
        if end is not None and now >= end:
            return False
        descriptor, deadline = self._engine.fileno(), self._engine.next_deadline_ns()
        if deadline is not None:
            limit = min(deadline / 1e9, limit if limit is not None else deadline / 1e9)
        elif descriptor < 0:
            limit = min(now + _BLIND_WAIT_S, limit if limit is not None else now + 1)
        poller = select.poll()
        if descriptor >= 0:
            poller.register(descriptor, select.POLLIN)
        poller.poll(None if limit is None else max(0.0, limit - now) * 1000)
        return True


class SoftwareConnectionRequest:
    """Somebody wants to connect; answer it once.

    Attributes:
        parameter: what the other side gave to connect.
    """

    def __init__(self, listener: SoftwareListener, link: Link, parameter: bytes) -> None:
        self._listener, self._link, self._life = listener, link, link.life
        self.parameter = parameter
        self._is_answered = False

    @property
    def is_alive(self) -> bool:
        """Whether the other side still waits."""
        return self._link.life == self._life

    def endpoint(self) -> Endpoint:
        """Make the endpoint that can be bound, enabled and then `accept` it."""
        self._answer()
        return self._listener.endpoint_for(self._link, self)

    def reject(self, parameter: bytes = b"") -> None:
        """Send the other side away: it gets ECONNREFUSED."""
        parameter = check_parameter(parameter)
        self._answer()
        if self.is_alive:
            self._link.refuse(errno.ECONNREFUSED, parameter)
            self._listener.settle()

    def _answer(self) -> None:
        if self._is_answered:
            raise FabricError(FabricErrno.EOPBADSTATE, "the request has been answered already")
        self._is_answered = True
        self._listener.answered(self._link)


class SoftwareListener(Closing):
    """A passive endpoint over a carrier.

    Args:
        carrier: where connections come from; the listener owns it from now on, together with the
            endpoints that it makes.
        options: sizes of these endpoints.
        make: makes an endpoint of an engine and a link.
        clock: for waiting.
    """

    def __init__(
        self,
        carrier: Carrier,
        options: EngineOptions,
        make: Callable[[Engine, Link, SoftwareConnectionRequest], Endpoint],
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self._make = make
        self._engine = Engine(carrier, self, EndpointType.MSG, options)
        self._engine.users += 1
        self._events = SoftwareEventQueue(self._engine, clock)
        self._waiting: dict[Link, SoftwareConnectionRequest] = {}
        self._is_listening = self._is_closed = False

    @property
    def name(self) -> str:
        """The address to connect to."""
        return self._engine.carrier.name

    @property
    def events(self) -> SoftwareEventQueue:
        """Where the requests come from."""
        return self._events

    def fileno(self) -> int:
        """Return a descriptor that is readable when `events` should be read, or -1."""
        return self._engine.fileno()

    def listen(self) -> None:
        """Begin to listen."""
        if self._is_closed:
            raise FabricError(FabricErrno.EOPBADSTATE, "the listener is closed")
        self._is_listening = True

    def close(self) -> None:
        """Stop; requests that were not answered are rejected, and connections live on."""
        if self._is_closed:
            return
        self._is_closed, self._is_listening = True, False
        for request in list(self._waiting.values()):
            request.reject()
        self._engine.release()

    # --- for requests ----------------------------------------------------------------------------

    def endpoint_for(self, link: Link, request: SoftwareConnectionRequest) -> Endpoint:
        """Make the endpoint of a request."""
        return self._make(self._engine, link, request)

    def answered(self, link: Link) -> None:
        """A request does not wait any more."""
        self._waiting.pop(link, None)

    def settle(self) -> None:
        """Send what is to be sent."""
        self._engine.settle()

    # --- for the engine --------------------------------------------------------------------------

    def link_up(self, link: Link) -> None:
        """Somebody is there; what for, the HELLO will say."""

    def link_greeted(self, link: Link, endpoint_type: int, parameter: bytes) -> None:
        """Somebody wants to connect."""
        if endpoint_type != EndpointType.MSG:
            link.refuse(errno.EPROTOTYPE)
        elif not self._is_listening or len(self._waiting) >= MAX_BACKLOG:
            link.refuse(errno.ECONNREFUSED)
        else:
            request = self._waiting[link] = SoftwareConnectionRequest(
                self, link, parameter[:MAX_PARAMETER]
            )
            self._events.push(Event(EventKind.CONNREQ, self, request.parameter, request))

    def link_refused(self, link: Link, code: int, parameter: bytes) -> None:
        """Nobody refuses a listener; its link is closed like any other."""

    def link_shut(self, link: Link) -> None:
        """Somebody changed their mind."""

    def link_lost(self, link: Link, code: int, reason: str) -> None:
        """Somebody is gone."""
        self._waiting.pop(link, None)
