# SPDX-License-Identifier: Apache-2.0
"""Endpoints of libfabric in one process, driven while one waits for an entry."""

from __future__ import annotations

from contextlib import ExitStack
from typing import NamedTuple

from i2o.clock import SYSTEM_CLOCK
from i2o.transport.fabric.completion import Completion, CompletionError
from i2o.transport.fabric.errors import ErrorAvailable, TryAgain
from i2o.transport.fabric.flags import Bind
from i2o.transport.ofi.completion_queue import OfiCompletionQueue
from i2o.transport.ofi.endpoint import OfiEndpoint
from i2o.transport.ofi.opening import open_endpoint

UDP, RXM, SHM = "ofi://udp/127.0.0.1:0", "ofi://tcp;ofi_rxm/127.0.0.1:0", "ofi://shm/"
PATIENCE_S = 20.0
BOTH = Bind.TRANSMIT | Bind.RECV


class Side(NamedTuple):
    endpoint: OfiEndpoint
    cq: OfiCompletionQueue


class Table(ExitStack):
    """Opens endpoints and closes them; drives them while one waits for an entry."""

    def __init__(self) -> None:
        super().__init__()
        self.sides: list[Side] = []

    def open(self, uri: str, flags: Bind = BOTH, **kwargs: object) -> Side:
        endpoint = open_endpoint(uri, **kwargs)  # type: ignore[arg-type]
        cq = endpoint.open_cq()
        self.callback(cq.close)
        self.callback(endpoint.close)
        endpoint.bind(cq, flags)
        endpoint.enable()
        self.sides.append(Side(endpoint, cq))
        return self.sides[-1]

    def pair(self, uri: str) -> tuple[Side, Side, int, int]:
        one, other = self.open(uri), self.open(uri)
        return (
            one,
            other,
            one.endpoint.insert(other.endpoint.name),
            other.endpoint.insert(one.endpoint.name),
        )

    def entry(self, side: Side) -> Completion | CompletionError:
        end = SYSTEM_CLOCK.monotonic() + PATIENCE_S
        while SYSTEM_CLOCK.monotonic() < end:
            for each in self.sides:
                each.endpoint.progress()
            try:
                return side.cq.sread(1, 0.01)[0]
            except ErrorAvailable:
                return side.cq.readerr()
            except TryAgain:
                continue
        raise AssertionError("no entry came")
