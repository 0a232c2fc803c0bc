# SPDX-License-Identifier: Apache-2.0
"""Datagrams within one process: no links, no promises, and groups.

A datagram for nobody, or for an inbox that is full, is lost, and nobody is told.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import threading
from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING

from i2o.transport.fabric.carrier import CarrierSink
from i2o.transport.fabric.errors import FabricError

if TYPE_CHECKING:
    from i2o.transport.fabric.endpoint import Buffer

_GROUP = "group:"


class DatagramMedium:
    """Who is there, and who is in which group.

    Args:
        frame_limit: bytes of the largest datagram.
        room: datagrams that wait in an inbox.
    """

    def __init__(self, frame_limit: int, room: int) -> None:
        self.frame_limit, self.room = frame_limit, room
        self.lock = threading.RLock()
        self._carriers: dict[str, MemoryDatagramCarrier] = {}
        self._numbers: dict[str, int] = {}
        self._names: list[str] = []
        self._members: dict[int, list[MemoryDatagramCarrier]] = {}
        self._unnamed = itertools.count(1)

    def carrier(self, name: str) -> MemoryDatagramCarrier:
        """Return a new end; raises FabricError EADDRINUSE."""
        with self.lock:
            name = name or f"unnamed-{next(self._unnamed)}"
            if name in self._carriers:
                raise FabricError(errno.EADDRINUSE, f"{name!r} is attached already; close it first")
            carrier = self._carriers[name] = MemoryDatagramCarrier(self, name, self.number(name))
            return carrier

    def number(self, name: str) -> int:
        """Return the number of a name."""
        with self.lock:
            number = self._numbers.get(name)
            if number is None:
                number = self._numbers[name] = len(self._names)
                self._names.append(name)
            return number

    def name(self, number: int) -> str:
        """Return the name with a number."""
        return self._names[number]

    def join(self, carrier: MemoryDatagramCarrier, group: str) -> int:
        """Make an end a member of a group; return the group's number."""
        with self.lock:
            number = self.number(_GROUP + group)
            members = self._members.setdefault(number, [])
            if carrier not in members:
                members.append(carrier)
            return number

    def leave(self, carrier: MemoryDatagramCarrier, number: int) -> None:
        """End a membership."""
        with self.lock:
            members = self._members.get(number, [])
            if carrier in members:
                members.remove(carrier)

    def receivers(self, number: int) -> list[MemoryDatagramCarrier]:
        """Return who gets what is sent to a number."""
        with self.lock:
            if number in self._members:
                return list(self._members[number])
            carrier = self._carriers.get(self._names[number])
            return [] if carrier is None else [carrier]

    def detach(self, carrier: MemoryDatagramCarrier) -> None:
        """Forget an end."""
        with self.lock:
            if self._carriers.get(carrier.name) is carrier:
                del self._carriers[carrier.name]
            for number in self._members:
                self.leave(carrier, number)


class MemoryDatagramCarrier:
    """One end for datagrams; `MemoryFabric.datagram_carrier` makes them.

    Attributes:
        name: its address.
        frame_limit: bytes of the largest datagram.
        lost: datagrams that found no room here.
    """

    def __init__(self, medium: DatagramMedium, name: str, number: int) -> None:
        self.name, self.frame_limit = name, medium.frame_limit
        self.lost = 0
        self._medium, self._number = medium, number
        self._sink: CarrierSink | None = None
        self._inbox: deque[tuple[int, bytes]] = deque()
        self._wake_fd = -1
        self._is_awake = False

    def open(self, sink: CarrierSink) -> None:
        """Begin."""
        self._sink = sink

    def resolve(self, address: str) -> int:
        """Return the number of a name; raises FabricError EINVAL if it is none."""
        if not address or not address.isprintable() or ":" in address:
            raise FabricError(
                errno.EINVAL, f"{address!r} is no address in memory: those are plain names"
            )
        return self._medium.number(address)

    def address_of(self, peer: int) -> str:
        """Return the name of a peer, or of a group."""
        return self._medium.name(peer).removeprefix(_GROUP)

    def join(self, group: str) -> int:
        """Join a group and return its number; what is sent to it comes back to its sender, too."""
        if not group:
            raise FabricError(errno.EINVAL, "a group has a name")
        return self._medium.join(self, group)

    def leave(self, peer: int) -> None:
        """Leave a group."""
        self._medium.leave(self, peer)

    def send(self, peer: int, parts: Sequence[Buffer], token: object = None) -> bool:
        """Put a copy into each receiver's inbox that has room; there is always room to lose it."""
        frame = b"".join(parts)
        for receiver in self._medium.receivers(peer):
            receiver.put(self._number, frame)
        if token is not None and self._sink is not None:
            self._sink.frame_sent(peer, token)
        return True

    def put(self, source: int, frame: bytes) -> None:
        """Take a datagram, if there is room."""
        if self._sink is None or len(self._inbox) >= self._medium.room:
            self.lost += 1
            return
        self._inbox.append((source, frame))
        if self._wake_fd >= 0 and not self._is_awake:
            self._wake()

    def _wake(self) -> None:
        with self._medium.lock:  # nobody may close the descriptor in between
            if self._wake_fd >= 0 and not self._is_awake:
                os.eventfd_write(self._wake_fd, 1)
                self._is_awake = True  # last: only then it is read

    def disconnect(self, peer: int) -> None:
        """Do nothing: there are no links."""

    def progress(self) -> None:
        """Deliver what is in the inbox now."""
        if self._is_awake:
            with contextlib.suppress(BlockingIOError):
                os.eventfd_read(self._wake_fd)
            self._is_awake = False  # last: who puts something in before that needs no wake-up
        for _ in range(len(self._inbox)):
            if self._sink is None:
                return
            source, frame = self._inbox.popleft()
            self._sink.frame_arrived(source, memoryview(frame))

    def fileno(self) -> int:
        """Return an event descriptor, which is made when it is asked for first; -1 once closed."""
        if self._wake_fd < 0 and self._sink is not None:
            self._wake_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
            if self._inbox:
                self._wake()
        return self._wake_fd

    def next_deadline_ns(self) -> int | None:
        """Return None: nothing here is a matter of time."""
        return None

    def close(self) -> None:
        """Leave every group; calling it again does nothing."""
        with self._medium.lock:
            self._sink = None
            self._medium.detach(self)
            self._inbox.clear()
            descriptor, self._wake_fd = self._wake_fd, -1
            if descriptor >= 0:
                os.close(descriptor)
