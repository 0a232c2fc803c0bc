# SPDX-License-Identifier: Apache-2.0
"""Who waits for whom: the waits of blocking calls, and what to say about them."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from math import inf
from typing import Final, NamedTuple

from i2o.network_message.errors import BadDescriptor

SENDING: Final = "send to"
RECEIVING: Final = "receive from"


class WaitReport(NamedTuple):
    """One call that blocks.

    Attributes:
        process: name of the process.
        node: number of its node.
        what: the call and what it waits for.
        other: number of the node that it waits for, None for any.
        event: the event of the message.
        type: its type mask.
        seconds: how long it has waited.
    """

    process: str
    node: int
    what: str
    other: int | None
    event: int
    type: int
    seconds: float

    def __str__(self) -> str:
        who = "any node" if self.other is None else f"node {self.other}"
        return (
            f"node {self.node}, {self.process}: {self.what} {who}, event {self.event}, "
            f"type {self.type:#x}, for {self.seconds:.3f} s"
        )


class Wait:
    """One call that blocks.

    Attributes:
        process: name of the process.
        what: the call.
        other: the node that it waits for, None for any.
        event: the event of the message.
        type: its type mask.
        since_ns: when it began.
        is_over: it need not wait any more.
        error: why it failed, None if it did not.
        is_bound: what it waits for has begun, so its deadline does not count any more.
        signal: for a thread that sleeps until this is over, or until it has to drive the node.
    """

    __slots__ = (
        "error", "event", "is_bound", "is_over", "other", "process", "signal", "since_ns", "type",
        "what",
    )  # fmt: skip

    def __init__(
        self, process: str, what: str, other: int | None, event: int, type: int, since_ns: int
    ) -> None:
        self.process, self.what, self.other = process, what, other
        self.event, self.type, self.since_ns = event, type, since_ns
        self.is_over = self.is_bound = False
        self.error: Exception | None = None
        self.signal: threading.Event | None = None

    def finish(self, error: Exception | None = None) -> None:
        """Let the call return, or raise."""
        self.error, self.is_over = error, True
        if self.signal is not None:
            self.signal.set()

    def report(self, node: int, now_ns: int) -> WaitReport:
        """Return what to tell about it."""
        return WaitReport(
            self.process, node, self.what, self.other, self.event, self.type,
            (now_ns - self.since_ns) / 1e9,
        )  # fmt: skip


def check_limit(limit_s: float) -> None:
    """Refuse what is no number of seconds that a call can wait.

    Raises:
        BadDescriptor: it is negative, infinite, or not a number.
    """
    if not 0 <= limit_s < inf:
        raise BadDescriptor(
            f"timeout_s {limit_s!r}: give seconds from 0 on, or None to wait for ever"
        )


def circles(reports: Iterable[WaitReport]) -> list[tuple[int, ...]]:
    """Return the nodes that wait for one another in a circle.

    Args:
        reports: of all nodes; calls that wait for any node are part of no circle.
    """
    edges: dict[int, set[int]] = {}
    for report in reports:
        if report.other is not None:
            edges.setdefault(report.node, set()).add(report.other)
    found: list[tuple[int, ...]] = []
    known: set[frozenset[int]] = set()

    def visit(node: int, path: tuple[int, ...]) -> None:
        if node in path:
            circle = path[path.index(node) :]
            if frozenset(circle) not in known:
                known.add(frozenset(circle))
                found.append(circle)
            return
        for other in sorted(edges.get(node, ())):
            visit(other, (*path, node))

    for start in sorted(edges):
        visit(start, ())
    return found
