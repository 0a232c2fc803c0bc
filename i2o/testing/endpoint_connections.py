# SPDX-License-Identifier: Apache-2.0
"""Conformance of endpoints: connected ones, as fi_cm(3) has them.

A backend without connected endpoints is asked whether its endpoints say so.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from typing import NamedTuple

import pytest

from i2o.clock import SYSTEM_CLOCK
from i2o.testing.bare_host import PATIENCE_S
from i2o.testing.endpoint_backend import EndpointBackend
from i2o.testing.endpoint_messages import refuses
from i2o.testing.stations import Bench, Station
from i2o.transport.fabric.completion import CompletionError
from i2o.transport.fabric.endpoint import (
    ConnectionRequest,
    Endpoint,
    Event,
    EventKind,
    EventQueue,
    PassiveEndpoint,
)
from i2o.transport.fabric.errors import FabricErrno, TryAgain
from i2o.transport.fabric.flags import EndpointType

_NAP_S = 0.002


class Meeting(NamedTuple):
    """A listener, and what drives everything while somebody waits."""

    passive: PassiveEndpoint
    bench: Bench

    def event(self, queue: EventQueue, kind: EventKind) -> Event:
        """Wait for the next event, which must be of that kind."""
        end = SYSTEM_CLOCK.monotonic() + PATIENCE_S
        while True:
            self.bench.pump()
            try:
                event = queue.read()
            except TryAgain:
                assert SYSTEM_CLOCK.monotonic() < end, f"no {kind.name} came"
                try:
                    event = queue.sread(_NAP_S)
                except TryAgain:
                    continue
            assert event.kind is kind, event
            return event

    def request(self) -> tuple[Event, ConnectionRequest]:
        """Wait for somebody who wants to connect."""
        event = self.event(self.passive.events, EventKind.CONNREQ)
        assert event.request is not None
        return event, event.request

    def adopt(self, endpoint: Endpoint) -> Station:
        """Bind, enable and drive an endpoint."""
        return self.bench.adopt(Station(endpoint))

    def accepted(self, request: ConnectionRequest, parameter: bytes = b"") -> Station:
        """Accept a request, and wait until the connection is there."""
        station = self.adopt(request.endpoint())
        station.endpoint.accept(parameter)
        event = self.event(station.endpoint.events, EventKind.CONNECTED)
        assert event.source is station.endpoint
        return station


class EndpointConnections(EndpointBackend):
    """Listening, connecting, rejecting, shutting down."""

    @pytest.fixture
    def meeting(self, bench: Bench, resources: ExitStack) -> Iterator[Meeting | None]:
        """A listener that listens; None where there are no connected endpoints."""
        passive = self.listen(resources)
        if passive is None:
            yield None
            return
        passive.listen()
        yield Meeting(passive, bench)
        bench.close()
        passive.close()

    def active(self, meeting: Meeting, resources: ExitStack) -> Station:
        """Return an endpoint that is enabled and not connected."""
        endpoint = self.open_connected(resources)
        assert endpoint is not None, "who listens wants to be connected to"
        return meeting.adopt(endpoint)

    def connected(self, meeting: Meeting, resources: ExitStack) -> tuple[Station, Station]:
        """Return both ends of a connection."""
        one = self.active(meeting, resources)
        one.endpoint.connect(meeting.passive.name)
        _, request = meeting.request()
        other = meeting.accepted(request)
        meeting.event(one.endpoint.events, EventKind.CONNECTED)
        return one, other

    def test_an_unconnected_endpoint_does_not_connect(self, a: Station, b: Station) -> None:
        """Refused, for every call."""
        for call in (
            partial(a.endpoint.connect, b.endpoint.name),
            a.endpoint.accept,
            a.endpoint.shutdown,
        ):
            with refuses(errno.ENOTSUP, errno.EINVAL, FabricErrno.EOPBADSTATE):
                call()

    def test_two_meet(self, meeting: Meeting | None, resources: ExitStack) -> None:
        """CONNREQ here, CONNECTED on both sides, with what each told the other."""
        if meeting is None:
            return
        assert meeting.passive.name
        one = self.active(meeting, resources)
        assert one.endpoint.attributes.type == EndpointType.MSG
        one.endpoint.connect(meeting.passive.name, b"may I?")
        event, request = meeting.request()
        assert (event.source, event.parameter) == (meeting.passive, b"may I?")
        other = meeting.accepted(request, b"please do")
        connected = meeting.event(one.endpoint.events, EventKind.CONNECTED)
        assert (connected.source, connected.parameter) == (one.endpoint, b"please do")
        for sender, receiver in ((one, other), (other, one)):
            into = bytearray(5)
            receiver.endpoint.recv(into)
            meeting.bench.post(sender.endpoint.send, b"hello")
            assert meeting.bench.completion(receiver).length == 5
            meeting.bench.completion(sender)
            assert into == b"hello"

    def test_receives_are_posted_before_they_meet(
        self, meeting: Meeting | None, resources: ExitStack
    ) -> None:
        """On both sides; what is sent at once after CONNECTED finds them."""
        if meeting is None:
            return
        bench, one = meeting.bench, self.active(meeting, resources)
        one.endpoint.recv(bytearray(8), context="early")
        one.endpoint.connect(meeting.passive.name)
        _, request = meeting.request()
        other = meeting.adopt(request.endpoint())
        other.endpoint.recv(bytearray(8), context="early")
        other.endpoint.accept()
        meeting.event(other.endpoint.events, EventKind.CONNECTED)
        meeting.event(one.endpoint.events, EventKind.CONNECTED)
        for sender, receiver in ((one, other), (other, one)):
            bench.post(sender.endpoint.send, b"x")
            assert bench.completion(receiver).context == "early"
            bench.completion(sender)

    def test_nothing_is_sent_before_they_are_connected(
        self, meeting: Meeting | None, resources: ExitStack
    ) -> None:
        """EOPBADSTATE until CONNECTED, and after the end."""
        if meeting is None:
            return
        one = self.active(meeting, resources)
        with refuses(FabricErrno.EOPBADSTATE, errno.ENOTCONN):
            one.endpoint.send(b"x")
        one.endpoint.connect(meeting.passive.name)
        with refuses(FabricErrno.EOPBADSTATE, errno.ENOTCONN):
            one.endpoint.inject(b"x")
        meeting.request()

    def test_the_destination_does_not_count(
        self, meeting: Meeting | None, resources: ExitStack
    ) -> None:
        """A connected endpoint has one peer, whatever address is named."""
        if meeting is None:
            return
        one, other = self.connected(meeting, resources)
        for address in (0, 12_345):
            other.endpoint.recv(bytearray(1), address)
            meeting.bench.post(one.endpoint.send, b"x", address)
            assert meeting.bench.completion(other).length == 1

    def test_a_request_is_rejected(self, meeting: Meeting | None, resources: ExitStack) -> None:
        """The one who asked gets ECONNREFUSED, with what it was told."""
        if meeting is None:
            return
        one = self.active(meeting, resources)
        one.endpoint.connect(meeting.passive.name)
        _, request = meeting.request()
        request.reject(b"no")
        event = meeting.event(one.endpoint.events, EventKind.ERROR)
        assert (event.err, event.parameter) == (errno.ECONNREFUSED, b"no")

    def test_one_connects_once(self, meeting: Meeting | None, resources: ExitStack) -> None:
        """connect is called once in the life of an endpoint."""
        if meeting is None:
            return
        one, other = self.connected(meeting, resources)
        for station in (one, other):
            with refuses(FabricErrno.EOPBADSTATE, errno.EISCONN, errno.EINVAL):
                station.endpoint.connect(meeting.passive.name)

    def test_several_connect_to_one_listener(
        self, meeting: Meeting | None, resources: ExitStack
    ) -> None:
        """Each has a connection of its own."""
        if meeting is None:
            return
        pairs = [self.connected(meeting, resources) for _ in range(3)]
        for number, (one, other) in enumerate(pairs):
            other.endpoint.recv(bytearray(1), context=number)
            meeting.bench.post(one.endpoint.send, b"x")
        for number, (_, other) in enumerate(pairs):
            assert meeting.bench.completion(other).context == number

    def test_shutting_down(self, meeting: Meeting | None, resources: ExitStack) -> None:
        """Both get SHUTDOWN; what is posted ends once; entries that were there stay."""
        if meeting is None:
            return
        one, other = self.connected(meeting, resources)
        other.endpoint.recv(bytearray(1), context="done")
        meeting.bench.post(one.endpoint.send, b"x", context="done")
        meeting.bench.settle()
        one.endpoint.recv(bytearray(1), context="open")
        other.endpoint.recv(bytearray(1), context="open")
        one.endpoint.shutdown()
        for station in (one, other):
            meeting.event(station.endpoint.events, EventKind.SHUTDOWN)
            assert meeting.bench.completion(station).context == "done"
            error = meeting.bench.error(station)
            assert (error.context, bool(error.err)) == ("open", True)
            with refuses(FabricErrno.EOPBADSTATE, errno.ENOTCONN):
                station.endpoint.send(b"x")
        meeting.bench.nothing()

    def test_an_end_that_is_closed_abruptly(
        self, meeting: Meeting | None, resources: ExitStack
    ) -> None:
        """The other one gets SHUTDOWN, and everything that it had posted ends once."""
        if meeting is None:
            return
        one, other = self.connected(meeting, resources)
        for number in range(5):
            one.endpoint.recv(bytearray(1), context=number)
        other.endpoint.close()
        meeting.event(one.endpoint.events, EventKind.SHUTDOWN)
        entries = [meeting.bench.entry(one) for _ in range(5)]
        assert all(isinstance(entry, CompletionError) and entry.err for entry in entries)
        assert [entry.context for entry in entries] == list(range(5))
        meeting.bench.nothing(one)

    def test_who_stops_listening_rejects(
        self, meeting: Meeting | None, resources: ExitStack
    ) -> None:
        """Requests that nobody answered, and those that come later."""
        if meeting is None:
            return
        waiting, late = self.active(meeting, resources), self.active(meeting, resources)
        waiting.endpoint.connect(meeting.passive.name)
        meeting.request()
        name = meeting.passive.name
        meeting.passive.close()
        meeting.passive.close()
        assert meeting.event(waiting.endpoint.events, EventKind.ERROR).err
        late.endpoint.connect(name)
        assert meeting.event(late.endpoint.events, EventKind.ERROR).err

    def test_no_event_is_no_event(self, meeting: Meeting | None, resources: ExitStack) -> None:
        """Reading says EAGAIN, waiting too when its time is over."""
        if meeting is None:
            return
        for queue in (meeting.passive.events, self.active(meeting, resources).endpoint.events):
            with pytest.raises(TryAgain):
                queue.read()
            with pytest.raises(TryAgain):
                queue.sread(0.0)
