# SPDX-License-Identifier: Apache-2.0
"""What a backend tells the conformance suite of endpoints about itself, and the fixtures."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import ExitStack
from typing import ClassVar

import pytest

from i2o.testing.stations import Bench, Station
from i2o.transport.fabric.endpoint import Endpoint, PassiveEndpoint
from i2o.transport.fabric.flags import Capability


class EndpointBackend(ABC):
    """The part of `i2o.testing.endpoints.EndpointConformance` that a backend fills in.

    pytest makes an object of the class for each test, so what the endpoints of one test share (a
    medium, a domain) may be an attribute of it, made by a fixture or when it is first needed.

    Attributes:
        quiet_rounds: looks of 2 ms each without news, after which the suite believes that nothing
            is under way. A medium within the process needs few.
    """

    quiet_rounds: ClassVar[int] = 25

    @abstractmethod
    def open(self, resources: ExitStack, wanted: Capability | None = None) -> Endpoint:
        """Make a reliable unconnected endpoint: nothing is bound, and it is not enabled.

        Whatever is opened in one test can be reached by its `name` from all others.

        Args:
            resources: what has to be closed after all endpoints, such as a medium. The suite
                closes the endpoint itself.
            wanted: grant no other capabilities than these; None for all that there are.
        """

    def open_prefixed(self, resources: ExitStack) -> Endpoint | None:
        """Make an endpoint whose buffers begin with a prefix (MSG_PREFIX), if there is such."""
        return None

    def open_multicast(self, resources: ExitStack) -> Endpoint | None:
        """Make an endpoint that can join groups, of whatever type that is, if there is such."""
        return None

    def listen(self, resources: ExitStack) -> PassiveEndpoint | None:
        """Make what `connect` finds, not listening yet; None without connected endpoints."""
        return None

    def open_connected(self, resources: ExitStack) -> Endpoint | None:
        """Make a connected endpoint, not connected yet; None without connected endpoints."""
        return None

    def nobody(self, resources: ExitStack) -> str | None:
        """Return the name of an endpoint that does not exist (any more), if one can be told."""
        return None

    def lose(self, bench: Bench, one: Station, other: Station) -> bool:
        """Break what joins two endpoints, in a way that at least `one` notices.

        Returns:
            False if this backend has nothing that could break while both ends live.
        """
        return False

    # --- fixtures --------------------------------------------------------------------------------

    @pytest.fixture
    def resources(self) -> Iterator[ExitStack]:
        """What is closed when all endpoints are."""
        with ExitStack() as stack:
            yield stack

    @pytest.fixture
    def bench(self, resources: ExitStack) -> Iterator[Bench]:
        """Stations that are driven together, and closed at the end."""
        with Bench(lambda wanted: self.open(resources, wanted), self.quiet_rounds) as made:
            yield made

    @pytest.fixture
    def a(self, bench: Bench) -> Station:
        """An endpoint with every capability, enabled."""
        return bench.station()

    @pytest.fixture
    def b(self, bench: Bench, a: Station) -> Station:
        """Another one; each knows the other."""
        made = bench.station()
        bench.introduce(a, made)
        return made
