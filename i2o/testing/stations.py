# SPDX-License-Identifier: Apache-2.0
"""Endpoints on a test bench: driven together by one thread, with what ended written down."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Final, ParamSpec, TypeVar

from i2o.clock import SYSTEM_CLOCK
from i2o.closing import Closing
from i2o.errors import I2OError
from i2o.testing.bare_host import PATIENCE_S
from i2o.transport.fabric.completion import Completion, CompletionError
from i2o.transport.fabric.endpoint import CompletionQueue, Endpoint
from i2o.transport.fabric.errors import ErrorAvailable, TryAgain
from i2o.transport.fabric.flags import Bind, Capability, CqFormat

BOTH: Final = Bind.RECV | Bind.TRANSMIT
EVERY_ONE: Final = Bind(0)
"""No direction is selective: every operation completes with an entry."""
_READ_AT_ONCE: Final = 64
_NAP_S: Final = 0.002
_Arguments = ParamSpec("_Arguments")
_Found = TypeVar("_Found")
Entry = Completion | CompletionError


class Station(Closing):
    """An endpoint that is enabled, its completion queue, and what came out of it.

    Args:
        endpoint: just made.
        format: of the queue.
        selective: what is bound so that it completes silently unless asked.
        cq: a queue to share; one of its own if None.
        enable: False leaves binding and enabling to the test.

    Attributes:
        entries: entries that were read and that no test has looked at yet.
        addresses: the fi_addr of other stations, by theirs.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        *,
        format: CqFormat = CqFormat.TAGGED,
        selective: Bind = EVERY_ONE,
        cq: CompletionQueue | None = None,
        enable: bool = True,
    ) -> None:
        self.endpoint = endpoint
        self.entries: deque[Entry] = deque()
        self.addresses: dict[Station, int] = {}
        self._owns_cq = cq is None
        self.cq = endpoint.open_cq(format=format) if cq is None else cq
        if enable:
            for one in (Bind.RECV, Bind.TRANSMIT):
                quiet = Bind.SELECTIVE_COMPLETION if one & selective else EVERY_ONE
                endpoint.bind(self.cq, one | quiet)
            endpoint.enable()

    @property
    def capabilities(self) -> Capability:
        """What the endpoint can do."""
        return self.endpoint.attributes.capabilities

    def pump(self, nap_s: float = 0.0) -> bool:
        """Move things on and take entries; return whether there were any.

        Args:
            nap_s: how long to wait for one.
        """
        self.endpoint.progress()
        before = len(self.entries)
        while True:
            try:
                if nap_s and len(self.entries) == before:
                    self.entries.extend(self.cq.sread(_READ_AT_ONCE, nap_s))
                else:
                    self.entries.extend(self.cq.read(_READ_AT_ONCE))
            except ErrorAvailable:
                self.entries.append(self.cq.readerr())
            except TryAgain:
                return len(self.entries) > before

    def close(self) -> None:
        """Close the endpoint and the queue."""
        self.endpoint.close()
        if self._owns_cq:
            self.cq.close()


class Bench(Closing):
    """Several stations and the patience to wait for what they do.

    Args:
        make: makes an endpoint with the capabilities given.
        quiet_rounds: after so many looks without news nothing is under way.
    """

    def __init__(
        self, make: Callable[[Capability | None], Endpoint], quiet_rounds: int = 25
    ) -> None:
        self._make, self._quiet_rounds = make, quiet_rounds
        self.stations: list[Station] = []

    def station(
        self,
        wanted: Capability | None = None,
        *,
        format: CqFormat = CqFormat.TAGGED,
        selective: Bind = EVERY_ONE,
        cq: CompletionQueue | None = None,
        min_multi_recv: int | None = None,
    ) -> Station:
        """Make a station of an unconnected endpoint."""
        endpoint = self._make(wanted)
        if min_multi_recv is not None:
            endpoint.set_min_multi_recv(min_multi_recv)
        return self.adopt(Station(endpoint, format=format, selective=selective, cq=cq))

    def endpoint(self, wanted: Capability | None = None) -> Endpoint:
        """Make an endpoint with nothing bound to it; the caller closes it."""
        return self._make(wanted)

    def adopt(self, station: Station) -> Station:
        """Drive and close a station that was made elsewhere."""
        self.stations.append(station)
        return station

    def introduce(self, *stations: Station) -> None:
        """Give each the addresses of all others."""
        for one in stations:
            for other in stations:
                if one is not other:
                    one.addresses[other] = one.endpoint.insert(other.endpoint.name)

    # --- driving ---------------------------------------------------------------------------------

    def pump(self, nap_s: float = 0.0) -> bool:
        """Move every station on; return whether any had entries."""
        moved = False
        for station in self.stations:
            moved |= station.pump()
        if nap_s and not moved:
            for station in self.stations:
                moved |= station.pump(nap_s / len(self.stations))
        return moved

    def until(self, look: Callable[[], _Found | None], what: str) -> _Found:
        """Drive everything until a look finds something; fails the test when nothing comes."""
        end = SYSTEM_CLOCK.monotonic() + PATIENCE_S
        while True:
            found = look()
            if found is not None:
                return found
            assert SYSTEM_CLOCK.monotonic() < end, f"{what} did not come within {PATIENCE_S:g} s"
            self.pump(_NAP_S)

    def settle(self) -> None:
        """Drive everything until nothing has happened for a while."""
        quiet = 0
        while quiet < self._quiet_rounds:
            quiet = 0 if self.pump(_NAP_S) else quiet + 1

    def entry(self, station: Station) -> Entry:
        """Wait for the next entry of a station."""

        self.until(lambda: True if station.entries else None, "an entry of the completion queue")
        return station.entries.popleft()

    def completion(self, station: Station) -> Completion:
        """Wait for the next entry, which must tell of a success."""
        entry = self.entry(station)
        assert isinstance(entry, Completion), entry
        return entry

    def error(self, station: Station, code: int | None = None) -> CompletionError:
        """Wait for the next entry, which must tell of a failure."""
        entry = self.entry(station)
        assert isinstance(entry, CompletionError), entry
        if code is not None:
            assert entry.err == code, entry
        return entry

    def completions(self, station: Station, count: int) -> list[Completion]:
        """Wait for so many successes."""
        return [self.completion(station) for _ in range(count)]

    def nothing(self, *stations: Station) -> None:
        """Check that no entry is there or comes."""
        self.settle()
        for station in stations or self.stations:
            assert not station.entries, list(station.entries)

    def post(
        self, call: Callable[_Arguments, None], *args: _Arguments.args, **kwargs: _Arguments.kwargs
    ) -> None:
        """Make a call, again and again while it says EAGAIN, as its manual asks for."""

        def look() -> bool | None:
            try:
                call(*args, **kwargs)
            except TryAgain:
                return None
            return True

        self.until(look, "room for one operation")

    def close(self) -> None:
        """Close every station, whatever one of them raises."""
        errors: list[Exception] = []
        for station in reversed(self.stations):
            try:
                station.close()
            except (I2OError, OSError) as error:
                errors.append(error)
        if errors:
            raise ExceptionGroup("stations did not close", errors)
