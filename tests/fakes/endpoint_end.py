# SPDX-License-Identifier: Apache-2.0
"""Software endpoints over memory, driven by hand, with the entries that they made."""

from __future__ import annotations

from typing import Any

from i2o.closing import Closing
from i2o.transport.fabric.completion import Completion, CompletionError
from i2o.transport.fabric.completion_queue import SoftwareCompletionQueue
from i2o.transport.fabric.engine_options import EngineOptions
from i2o.transport.fabric.errors import ErrorAvailable, TryAgain
from i2o.transport.fabric.flags import Bind, CqFormat, EndpointType
from i2o.transport.fabric.mem import MemoryFabric
from i2o.transport.fabric.software_endpoint import SoftwareEndpoint

BOTH = Bind.TRANSMIT | Bind.RECV


class End:
    """An endpoint with one queue."""

    def __init__(
        self, endpoint: SoftwareEndpoint, bind: Bind, cq_size: int, format: CqFormat, enable: bool
    ) -> None:
        self.endpoint = endpoint
        self.cq: SoftwareCompletionQueue = endpoint.open_cq(cq_size, format)
        endpoint.bind(self.cq, bind)
        if enable:
            endpoint.enable()

    def entries(self) -> list[Completion | CompletionError]:
        """Make progress once; take what there is."""
        found: list[Completion | CompletionError] = []
        self.endpoint.progress()
        while True:
            try:
                found += self.cq.read(100)
            except ErrorAvailable:
                found.append(self.cq.readerr())
            except TryAgain:
                return found

    def errors(self) -> list[tuple[object, int]]:
        """Take what there is, which must be errors: contexts and codes."""
        found = self.entries()
        assert all(isinstance(entry, CompletionError) for entry in found), found
        return [(entry.context, entry.err) for entry in found if isinstance(entry, CompletionError)]

    def contexts(self) -> list[object]:
        """Take what there is, which must be successes."""
        found = self.entries()
        assert all(isinstance(entry, Completion) for entry in found), found
        return [entry.context for entry in found]


class Ends(Closing):
    """A medium and what is attached to it."""

    def __init__(self) -> None:
        self.fabric = MemoryFabric()
        self.made: list[End] = []

    def end(
        self,
        name: str = "",
        type: EndpointType = EndpointType.RDM,
        *,
        bind: Bind = BOTH,
        cq_size: int = 0,
        format: CqFormat = CqFormat.TAGGED,
        min_multi_recv: int | None = None,
        enable: bool = True,
        options: EngineOptions | None = None,
        **arguments: Any,
    ) -> End:
        endpoint = self.fabric.endpoint(name, type, options=options, **arguments)
        if min_multi_recv is not None:
            endpoint.set_min_multi_recv(min_multi_recv)
        return self.adopt(End(endpoint, bind, cq_size, format, enable))

    def adopt(self, end: End) -> End:
        self.made.append(end)
        return end

    def pair(self, **arguments: Any) -> tuple[End, End, int]:
        """Make two, and return them with the address of the second at the first."""
        one, other = self.end("one", **arguments), self.end("other", **arguments)
        other.endpoint.insert("one")
        return one, other, one.endpoint.insert("other")

    def turn(self, rounds: int = 6) -> None:
        """Let everybody move without reading entries."""
        for _ in range(rounds):
            for end in self.made:
                end.endpoint.progress()

    def close(self) -> None:
        for end in self.made:
            end.endpoint.close()
            end.cq.close()
