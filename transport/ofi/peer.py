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

from i2o.transport.ofi.operation import Operation


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

    Attributes:
        address: its fi_addr.
        name: its address as text.
        outstanding: sends that libfabric has.
        waiting: sends that it does not have yet, in order.
        has_answered: libfabric took something after it first did not.
        stuck_since_ns: since when libfabric takes nothing although it has nothing; 0 if it does.
    """

    __slots__ = ("address", "has_answered", "name", "outstanding", "stuck_since_ns", "waiting")

    def __init__(self, address: int, name: str) -> None:
        self.address = address
        self.name = name
        self.outstanding = 0
        self.waiting: deque[Deferred] = deque()
        self.stuck_since_ns = 0
        self.has_answered = False

    def post(self, deferred: Deferred) -> int:
        """Give a send to libfabric, or let it wait.

        Returns:
            0, or the negative error with which libfabric refused it for good.
        """
        if self.waiting or (deferred.is_fenced and self.outstanding):
            self.waiting.append(deferred)
            return 0
        code = deferred.call(*deferred.arguments)
        if code == 0:
            self.outstanding += 1
        elif code == -errno.EAGAIN:
            self.waiting.append(deferred)
        else:
            return code
        return 0

    def retry(self) -> Iterator[tuple[Operation, int]]:
        """Give libfabric what waits, as far as it takes it; yield what it refuses, and why."""
        while self.waiting:
            head = self.waiting[0]
            if head.is_fenced and self.outstanding:
                return
            code = head.call(*head.arguments)
            if code == -errno.EAGAIN:
                return
            self.waiting.popleft()
            self.has_answered = True
            self.stuck_since_ns = 0
            if code == 0:
                self.outstanding += 1
            else:
                yield head.operation, -code

    def give_up(self) -> Iterator[Operation]:
        """Take out everything that waits."""
        while self.waiting:
            yield self.waiting.popleft().operation
