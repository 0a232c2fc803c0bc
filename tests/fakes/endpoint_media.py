# SPDX-License-Identifier: Apache-2.0
"""Media for the machine of endpoints, and what can happen to them."""

from __future__ import annotations

import random
from collections.abc import Callable
from itertools import permutations

from i2o.transport.fabric.endpoint import Endpoint
from i2o.transport.fabric.engine import EngineOptions
from i2o.transport.fabric.mem import MemoryFabric
from i2o.transport.fabric.software_endpoint import SoftwareEndpoint

OPTIONS = EngineOptions(
    tx_size=24,
    rx_size=40,
    window_messages=8,
    window_bytes=4096,
    eager_limit=600,
    inject_size=64,
    max_msg_size=1 << 16,
    iov_limit=4,
)
"""Small, so that every limit is met often."""


class MemoryMedium:
    """Ends in memory: links are reset, dropped, half closed, delayed, blocked and made again."""

    def __init__(self, names: list[str]) -> None:
        self._fabric = MemoryFabric(frame_limit=400, room=6)
        self._pairs = list(permutations(names, 2))
        self._names = names
        self._healing: list[Callable[[], None]] = []

    def open(self, name: str) -> Endpoint:
        return SoftwareEndpoint(self._fabric.carrier(name), options=OPTIONS, provider="mem")

    def address(self, name: str) -> str:
        return name

    def faults(self) -> dict[str, Callable[[random.Random], None]]:
        fabric = self._fabric

        def lasting(
            begin: Callable[[str, str], None], end: Callable[[str, str], None]
        ) -> Callable[[random.Random], None]:
            def fault(chance: random.Random) -> None:
                source, target = chance.choice(self._pairs)
                begin(source, target)
                self._healing.append(lambda: end(source, target))

            return fault

        def isolate(chance: random.Random) -> None:
            name = chance.choice(self._names)
            fabric.isolate(name)
            self._healing.append(lambda: fabric.rejoin(name))

        return {
            "reset": lambda chance: fabric.reset(*chance.choice(self._pairs)),
            "drop": lambda chance: fabric.drop(*chance.choice(self._pairs)),
            "half close": lambda chance: fabric.half_close(*chance.choice(self._pairs)),
            "delay": lasting(fabric.hold, fabric.release),
            "block": lasting(fabric.block, fabric.unblock),
            "isolate": isolate,
            "some arrive": lambda chance: fabric.release(
                *chance.choice(self._pairs), count=chance.randrange(4)
            ),
        }

    def kill(self, name: str) -> None:
        self._fabric.kill(name)

    def heal(self) -> None:
        healing, self._healing = self._healing, []
        for end in healing:
            end()

    def rest(self) -> None:
        pass

    def close(self) -> None:
        pass
