# SPDX-License-Identifier: Apache-2.0
"""Unconnected endpoints within a test: small, slow or breaking, exactly as the test wants them.

Only what a program needs that sends and receives messages without tags.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections import deque
from collections.abc import Sequence
from typing import Any

from i2o.transport.fabric.completion import Completion, CompletionError
from i2o.transport.fabric.endpoint import NO_FLAGS, EndpointAttributes, Message
from i2o.transport.fabric.errors import ErrorAvailable, FabricError, TryAgain
from i2o.transport.fabric.flags import (
    ADDR_UNSPEC,
    Capability,
    EndpointType,
    Flag,
)


class MemoryMedium:
    """What the endpoints of a test are on.

    Attributes:
        ends: the endpoints by name.
        is_known: receivers are told who sent.
        on_message: looks at each message (from, to, bytes) and returns what arrives instead.
    """

    def __init__(self, **attributes: int) -> None:
        self.ends: dict[str, MemoryEndpoint] = {}
        self.is_known = True
        self.attributes = {"max_msg_size": 64 << 10, "iov_limit": 4, **attributes}
        self.on_message: Any = lambda source, dest, data: [data]

    def endpoint(self, name: str, **attributes: int) -> MemoryEndpoint:
        """Make an endpoint."""
        return MemoryEndpoint(self, name, {**self.attributes, **attributes})

    def kill(self, name: str) -> None:
        """Let an endpoint vanish without a word: what is sent to it fails."""
        self.ends.pop(name, None)


class MemoryQueue:
    """The completion queue of one endpoint."""

    def __init__(self, endpoint: MemoryEndpoint) -> None:
        self._endpoint = endpoint
        self.entries: deque[Completion | CompletionError] = deque()
        self._bell = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._is_closed = False

    def push(self, entry: Completion | CompletionError) -> None:
        """Add an entry."""
        self.entries.append(entry)
        with contextlib.suppress(OSError):  # closed just now
            os.eventfd_write(self._bell, 1)

    def read(self, count: int = 1) -> list[Completion]:
        """Return entries. The bell is silenced first: what comes meanwhile rings it again."""
        if not self._is_closed:
            with contextlib.suppress(BlockingIOError):
                os.eventfd_read(self._bell)
        self._endpoint.deliver()
        found: list[Completion] = []
        while len(found) < count and self.entries:
            entry = self.entries[0]
            if isinstance(entry, CompletionError):
                break
            found.append(entry)
            self.entries.popleft()
        if self.entries and not self._is_closed:
            os.eventfd_write(self._bell, 1)
        if found:
            return found
        if self.entries:
            raise ErrorAvailable
        raise TryAgain("nothing there")

    def readerr(self) -> CompletionError:
        """Return the error that is next."""
        entry = self.entries.popleft()
        assert isinstance(entry, CompletionError)
        return entry

    def fileno(self) -> int:
        """Return the descriptor."""
        return -1 if self._is_closed else self._bell

    def close(self) -> None:
        """Close it."""
        if not self._is_closed:
            self._is_closed = True
            os.close(self._bell)


class MemoryEndpoint:
    """One endpoint."""

    def __init__(self, medium: MemoryMedium, name: str, attributes: dict[str, int]) -> None:
        self._medium, self.name = medium, name
        self.attributes = EndpointAttributes(
            type=EndpointType.RDM,
            capabilities=Capability.MSG | Capability.SEND | Capability.RECV | Capability.SOURCE,
            inject_size=64,
            max_msg_size=attributes["max_msg_size"],
            iov_limit=attributes["iov_limit"],
            tx_size=attributes.get("tx_size", 0),
            rx_size=attributes.get("rx_size", 0),
            cq_data_size=8,
            msg_prefix_size=attributes.get("msg_prefix_size", 0),
            provider="memory",
        )
        self._receives: deque[tuple[Any, object]] = deque()
        self._inbox: deque[tuple[int, bytes]] = deque()
        self._numbers: list[str] = []
        self._removed: set[int] = set()
        self.stalled = 0
        """Sends that are told to try again."""
        self.queue = MemoryQueue(self)
        self._is_queue_opened = self.closed = False

    def open_cq(self, size: int = 0, format: object = None) -> MemoryQueue:
        """Return the queue; it is who opened it that closes it."""
        self._is_queue_opened = True
        return self.queue

    def bind(self, cq: MemoryQueue, flags: object) -> None:
        """Do nothing: there is only one."""

    def enable(self) -> None:
        """Be there."""
        self._medium.ends[self.name] = self

    def close(self) -> None:
        """Be gone."""
        self.closed = True
        if not self._is_queue_opened:
            self.queue.close()
        if self._medium.ends.get(self.name) is self:
            del self._medium.ends[self.name]

    def insert(self, address: str) -> int:
        """Return a number for a name."""
        if not address.isascii():
            raise FabricError(errno.EINVAL, f"{address!r} is no name")
        if address not in self._numbers:
            self._numbers.append(address)
        return self._numbers.index(address)

    def remove(self, address: int) -> None:
        """Note that somebody is forgotten."""
        self._removed.add(address)

    def address_of(self, address: int) -> str:
        """Return the name."""
        try:
            return self._numbers[address]
        except IndexError:
            raise FabricError(errno.EINVAL, "no such address") from None

    def sendmsg(self, message: Message, flags: Flag = NO_FLAGS) -> None:
        """Send several buffers as one message."""
        buffers: Sequence[Any] = message.buffers
        dest, context = message.address, message.context
        if self.stalled:
            self.stalled -= 1
            raise TryAgain("stalled")
        data = b"".join(bytes(buffer) for buffer in buffers)
        assert len(buffers) <= self.attributes.iov_limit
        assert len(data) <= self.attributes.max_msg_size + self.attributes.msg_prefix_size
        target = self._medium.ends.get(self._numbers[dest])
        if target is None:
            flags = Flag.SEND | Flag.MSG
            self.queue.push(CompletionError(context, flags, err=errno.ECONNREFUSED, reason="gone"))
            return
        source = target.insert(self.name) if self._medium.is_known else ADDR_UNSPEC
        for message in self._medium.on_message(self.name, target.name, data):
            target._inbox.append((source, message))
        with contextlib.suppress(OSError):
            os.eventfd_write(target.queue._bell, 1)
        if flags & Flag.COMPLETION:
            self.queue.push(Completion(context, Flag.SEND | Flag.MSG))

    def recvmsg(self, message: Message, flags: Flag = NO_FLAGS) -> None:
        """Queue a buffer; a message that waits for one can be read now."""
        self._receives.append((message.buffers[0], message.context))
        if self._inbox:
            with contextlib.suppress(OSError):  # closed just now
                os.eventfd_write(self.queue._bell, 1)

    def deliver(self) -> None:
        """Put messages into buffers."""
        while self._inbox and self._receives:
            source, data = self._inbox.popleft()
            buffer, context = self._receives.popleft()
            size = min(len(buffer), len(data))
            buffer[:size] = data[:size]
            self.queue.push(
                Completion(context, Flag.RECV | Flag.MSG, length=len(data), source=source)
            )

    def fail_receive(self, code: int, source: int = ADDR_UNSPEC) -> None:
        """Let the next receive end with an error."""
        _, context = self._receives.popleft()
        self.queue.push(
            CompletionError(context, Flag.RECV | Flag.MSG, err=code, reason="", source=source)
        )
