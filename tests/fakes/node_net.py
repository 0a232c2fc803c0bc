# SPDX-License-Identifier: Apache-2.0
"""Nodes in one thread: whoever waits drives all of them, and time passes when nothing moves."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any, Final, Literal, Self

from i2o.clock import ManualClock
from i2o.network_message import Node, Process
from i2o.transport.fabric.mem import MemoryFabric
from i2o.transport.fabric.software_endpoint import SoftwareEndpoint

_QUIET: Final = 6
Via = Literal["carrier", "endpoint"]


class NodeNet:
    """Nodes that know one another.

    Args:
        via: what they are given to reach one another.
        count: how many there are, numbered from 1.
        options: of every node.

    Attributes:
        fabric: what breaks their links.
        clock: their time.
        nodes: by number.
        later: what happens when somebody waits and nothing moves, one at a time.
    """

    def __init__(self, via: Via = "carrier", count: int = 2, **options: Any) -> None:
        self.via = via
        self.fabric = MemoryFabric()
        self.clock = ManualClock()
        self.nodes: dict[int, Node] = {}
        self.later: deque[Callable[[], object]] = deque()
        self._options = options
        self._lost: list[Node] = []
        for number in range(1, count + 1):
            self.start(number)

    def start(self, number: int, name: str = "", **options: Any) -> Node:
        """Start a node, and tell all of all."""
        carrier = self.fabric.carrier(name or f"n{number}")
        link = carrier if self.via == "carrier" else SoftwareEndpoint(carrier, clock=self.clock)
        node = Node(
            number, link, clock=self.clock, pause=self._pause, spin_s=0,
            **{**self._options, **options},
        )  # fmt: skip
        for other in self.nodes.values():
            if other.number != number:
                node.add_node(other.number, other.address, f"name {other.number}")
                if number not in other.nodes():
                    other.add_node(number, node.address, f"name {number}")
        self.nodes[number] = node
        return node

    def process(self, number: int, priority: int = 0) -> Process:
        """Return a process of a node."""
        return self.nodes[number].attach(f"process of {number}", priority=priority)

    def drive(self, rounds: int = 8) -> None:
        """Let everything arrive that is on its way."""
        for _ in range(rounds):
            for node in self.nodes.values():
                node.progress()

    def lose(self, number: int) -> None:
        """Let a node die without a word."""
        self._lost.append(self.nodes.pop(number))
        self.fabric.kill(f"n{number}")

    def _pause(self, seconds: float) -> None:
        for _ in range(_QUIET):  # what an endpoint does for itself is no news
            if any(node.progress() for node in self.nodes.values() if not node._closed):
                return
        if self.later:
            self.later.popleft()()
        else:
            self.clock.advance(max(seconds, 1e-6))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        for node in (*self.nodes.values(), *self._lost):
            node.close()
