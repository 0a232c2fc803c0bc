# SPDX-License-Identifier: Apache-2.0
"""Taps in front of what makes connections: event queues, requests, and endpoints that listen."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, Final

from i2o.closing import Closing
from i2o.transport.capture.endpoint_recorder import EndpointRecorder
from i2o.transport.capture.message_record import EventCode
from i2o.transport.fabric.endpoint import (
    ConnectionRequest,
    Endpoint,
    Event,
    EventKind,
    EventQueue,
    PassiveEndpoint,
)

logger = logging.getLogger(__name__)

_CODES: Final = {
    EventKind.CONNREQ: EventCode.CONNREQ,
    EventKind.CONNECTED: EventCode.CONNECTED,
    EventKind.SHUTDOWN: EventCode.SHUTDOWN,
    EventKind.ERROR: EventCode.ERROR,
}
WrapEndpoint = Callable[[Endpoint], Endpoint]
"""Puts a tap in front of an endpoint that a listener made."""


class TapEventQueue:
    """An `EventQueue` that another one stands behind.

    Args:
        inner: the one behind.
        recorder: who is told.
        source: what the events of `inner` are about, as the program knows it: a tap.
        behind: what `inner` calls so.
        wrap: puts a tap in front of what a request is accepted with; None if there are none.
        peer_name: returns the name of the peer, empty if it is not known.
    """

    def __init__(
        self,
        inner: EventQueue,
        recorder: EndpointRecorder,
        *,
        source: object,
        behind: object,
        wrap: WrapEndpoint | None = None,
        peer_name: Callable[[], str] = str,
    ) -> None:
        self.inner, self._recorder = inner, recorder
        self._source, self._behind, self._wrap, self._peer = source, behind, wrap, peer_name

    def __getattr__(self, name: str) -> Any:
        if name == "inner":  # not made yet
            raise AttributeError(name)
        return getattr(self.inner, name)

    def read(self) -> Event:
        """Return the next event, recorded."""
        return self._seen(self.inner.read())

    def sread(self, timeout_s: float | None = None) -> Event:
        """Wait for the next event, and record it."""
        return self._seen(self.inner.sread(timeout_s))

    def _seen(self, event: Event) -> Event:
        try:
            self._recorder.event(
                _CODES[event.kind], event.parameter, peer_name=self._peer(), err=event.err
            )
        except Exception:
            logger.warning("an event could not be captured", exc_info=True)
        if event.source is self._behind:
            event = event._replace(source=self._source)
        if event.request is not None and self._wrap is not None:
            event = event._replace(request=TapConnectionRequest(event.request, self._wrap))
        return event


class TapConnectionRequest:
    """A `ConnectionRequest` whose endpoint gets a tap.

    Args:
        inner: the request behind.
        wrap: puts the tap there.
    """

    def __init__(self, inner: ConnectionRequest, wrap: WrapEndpoint) -> None:
        self.inner, self._wrap = inner, wrap
        self.reject = inner.reject

    def __getattr__(self, name: str) -> Any:
        if name == "inner":  # not made yet
            raise AttributeError(name)
        return getattr(self.inner, name)

    def endpoint(self) -> Endpoint:
        """Make the endpoint to accept with."""
        return self._wrap(self.inner.endpoint())


class TapPassiveEndpoint(Closing):
    """A `PassiveEndpoint` that another one stands behind.

    Args:
        inner: the one behind; closing this one closes it.
        recorder: who is told of its events.
        wrap: puts a tap in front of the endpoints that come of it.
    """

    def __init__(
        self, inner: PassiveEndpoint, recorder: EndpointRecorder, wrap: WrapEndpoint
    ) -> None:
        self.inner, self.recorder, self._wrap = inner, recorder, wrap
        self.listen = inner.listen
        self._events: TapEventQueue | None = None

    def __getattr__(self, name: str) -> Any:
        if name == "inner":  # not made yet
            raise AttributeError(name)
        return getattr(self.inner, name)

    @property
    def name(self) -> str:
        """The address to connect to."""
        return self.inner.name

    @property
    def events(self) -> EventQueue:
        """Where the requests come from."""
        if self._events is None:
            self._events = TapEventQueue(
                self.inner.events,
                self.recorder,
                source=self,
                behind=self.inner,
                wrap=self._wrap,
            )
        return self._events

    def close(self) -> None:
        """Stop listening."""
        self.recorder.event(EventCode.CLOSE)
        self.inner.close()
