# SPDX-License-Identifier: Apache-2.0
"""Sends to one peer: those that libfabric has, and those that wait until it takes them.

libfabric refuses a send with EAGAIN while it makes a connection, when a queue is full, or when the
peer does not keep up. Here the send waits in order instead, and is tried again whenever progress is
made. How many may be under way is the endpoint's to bound.
"""

from __future__ import annotations

import errno
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from i2o.transport.ofi.operation import Operation, Tally


class Deferred(NamedTuple):
    """A send that waits.

    Attributes:
        operation: what it is.
        call: libfabric's function.
        arguments: what to call it with.
        is_fenced: it waits until everything before it is done.
    """

    operation: Operation
    call: Callable[..., int]
    arguments: tuple[Any, ...]
    is_fenced: bool


class Peer:
    """A peer of an endpoint.

    Args:
        address: its fi_addr.
        name: its address as text.
        tally: counts the sends that libfabric has, and is told whether others wait.

    Attributes:
        address: as given.
        name: as given.
        tally: as given.
        waiting: sends that libfabric does not have yet, in order.
        has_answered: libfabric took something after it first did not.
        stuck_since_ns: since when libfabric takes nothing although it has nothing; 0 if it does.
    """

    __slots__ = ("address", "has_answered", "name", "stuck_since_ns", "tally", "waiting")

    def __init__(self, address: int, name: str, tally: Tally) -> None:
        self.address = address
        self.name = name
        self.tally = tally
        self.waiting: deque[Deferred] = deque()
        self.stuck_since_ns = 0
        self.has_answered = False

    def post(self, deferred: Deferred) -> int:
        """Give a send to libfabric, or let it wait.

        Returns:
            0, or the negative error with which libfabric refused it for good.
        """
        if self.waiting or (deferred.is_fenced and self.tally.outstanding):
            self._wait(deferred)
            return 0
        code = deferred.call(*deferred.arguments)
        if code == 0:
            self.tally.outstanding += 1
        elif code == -errno.EAGAIN:
            self._wait(deferred)
        else:
            return code
        return 0

    def retry(self) -> Iterator[tuple[Operation, int]]:
        """Give libfabric what waits, as far as it takes it; yield what it refuses, and why."""
        while self.waiting:
            head = self.waiting[0]
            if head.is_fenced and self.tally.outstanding:
                return
            code = head.call(*head.arguments)
            if code == -errno.EAGAIN:
                return
            self._pop()
            self.has_answered = True
            self.stuck_since_ns = 0
            if code == 0:
                self.tally.outstanding += 1
            else:
                yield head.operation, -code

    def give_up(self) -> Iterator[Operation]:
        """Take out everything that waits."""
        while self.waiting:
            yield self._pop().operation

    def _wait(self, deferred: Deferred) -> None:
        self.waiting.append(deferred)
        self.tally.is_waiting = True

    def _pop(self) -> Deferred:
        deferred = self.waiting.popleft()
        self.tally.is_waiting = bool(self.waiting)
        return deferred
