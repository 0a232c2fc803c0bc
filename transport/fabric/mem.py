# SPDX-License-Identifier: Apache-2.0
"""A carrier within one process, whose links break exactly when a test wants them to.

A `MemoryFabric` is the whole medium: what is attached to one knows nothing of another one. Each
end may be driven by a thread of its own. A frame waits in the inbox of its addressee until that end
makes progress: a copy of it, or if it is large the sender's own buffers, which come back when it is
delivered. The methods of the fabric that break, delay and block links act at once, and the ends
notice with their next progress.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import threading
from collections import deque
from collections.abc import Sequence
from enum import Enum, auto
from typing import TYPE_CHECKING, Any, Final

from i2o.clock import SYSTEM_CLOCK, Clock
from i2o.transport.fabric.carrier import CarrierSink, SplitSink
from i2o.transport.fabric.connections import SoftwareListener
from i2o.transport.fabric.endpoint import NO_FLAGS
from i2o.transport.fabric.engine_options import EngineOptions
from i2o.transport.fabric.errors import FabricError
from i2o.transport.fabric.flags import Capability, EndpointType, Flag
from i2o.transport.fabric.mem_datagrams import DatagramMedium, MemoryDatagramCarrier
from i2o.transport.fabric.software_endpoint import SoftwareEndpoint, listen_on

if TYPE_CHECKING:
    from i2o.transport.fabric.endpoint import Buffer

DEFAULT_FRAME_LIMIT: Final = 256 << 10
DEFAULT_ROOM: Final = 256


class _News(Enum):
    """What may be in an inbox beside frames."""

    UP = auto()
    ROOM = auto()


class _Lent:
    """A frame whose sender still has the buffers, until it is delivered or they are taken back."""

    __slots__ = ("body", "head", "is_delivered", "token")

    def __init__(self, parts: Sequence[Buffer], token: object) -> None:
        self.head, self.token, self.is_delivered = memoryview(parts[0]), token, False
        self.body = memoryview(parts[1] if len(parts) == 2 else b"".join(parts[1:]))


class _Direction:
    """What a test did to one direction between two names, link or no link."""

    __slots__ = ("held", "is_blocked")

    def __init__(self) -> None:
        self.held: deque[tuple[_Pipe, bytes]] | None = None
        self.is_blocked = False


class _Pipe:
    """One direction of one link.

    `sent` is counted by the sender alone and `taken` by the receiver alone, so that neither needs a
    lock to know how many frames are on their way.
    """

    __slots__ = (
        "direction",
        "is_forgotten",
        "is_open",
        "is_silent",
        "lent",
        "peer",
        "sent",
        "source",
        "taken",
        "target",
        "twin",
        "wants_room",
    )

    def __init__(
        self, source: MemoryCarrier, target: MemoryCarrier, direction: _Direction, peer: int
    ) -> None:
        self.source, self.target, self.direction = source, target, direction
        self.peer = peer  # the target's number
        self.is_open, self.wants_room = True, False
        self.is_forgotten = False  # what is in it will not arrive
        self.is_silent = False  # its source wants to hear nothing of it any more
        self.lent: list[_Lent] = []
        self.sent = self.taken = 0
        self.twin = self

    def took(self) -> None:
        """Count a frame at its target, and tell the source if that waited for it."""
        self.taken += 1
        if self.wants_room and not self.direction.is_blocked:
            self.wants_room = False
            self.source.put(self, _News.ROOM)

    def take_back(self) -> None:
        """Keep copies of what was lent: the sender may use its buffers again."""
        for lent in self.lent:
            lent.body = memoryview(bytes(lent.body))
        self.lent.clear()


class MemoryFabric:
    """A medium in memory.

    Args:
        frame_limit: bytes of the largest frame.
        room: frames that may be on their way in one direction of a link.
    """

    def __init__(self, *, frame_limit: int = DEFAULT_FRAME_LIMIT, room: int = DEFAULT_ROOM) -> None:
        self.frame_limit, self.room = frame_limit, room
        self.lock = threading.RLock()
        self._carriers: dict[str, MemoryCarrier] = {}
        self._links: dict[tuple[int, int], _Pipe] = {}
        self._numbers: dict[str, int] = {}
        self._names: list[str] = []
        self._directions: dict[tuple[str, str], _Direction] = {}
        self._unreachable: set[str] = set()
        self._unnamed = itertools.count(1)
        self._datagrams = DatagramMedium(frame_limit, room)

    def carrier(self, name: str = "") -> MemoryCarrier:
        """Return a new end.

        Args:
            name: its address; one that is free by default.

        Raises:
            FabricError: EADDRINUSE, there is one of that name.
        """
        with self.lock:
            name = name or f"unnamed-{next(self._unnamed)}"
            if name in self._carriers:
                raise FabricError(errno.EADDRINUSE, f"{name!r} is attached already; close it first")
            carrier = self._carriers[name] = MemoryCarrier(self, name, self.number_of(name))
            return carrier

    def endpoint(
        self,
        name: str = "",
        type: EndpointType = EndpointType.RDM,
        *,
        capabilities: Capability | None = None,
        options: EngineOptions | None = None,
        tx_flags: Flag = NO_FLAGS,
        rx_flags: Flag = NO_FLAGS,
        clock: Clock = SYSTEM_CLOCK,
    ) -> SoftwareEndpoint:
        """Return a new endpoint of the software engine; see `SoftwareEndpoint` for the arguments.

        Raises:
            FabricError: EADDRINUSE, the name is taken; ENOTSUP, a capability is not to be had.
        """
        is_datagram = type is EndpointType.DGRAM
        return SoftwareEndpoint(
            self.datagram_carrier(name) if is_datagram else self.carrier(name),
            type,
            capabilities=capabilities,
            options=options,
            tx_flags=tx_flags,
            rx_flags=rx_flags,
            provider="mem",
            clock=clock,
        )

    def listener(
        self, name: str = "", *, options: EngineOptions | None = None, clock: Clock = SYSTEM_CLOCK
    ) -> SoftwareListener:
        """Return a new passive endpoint; raises FabricError EADDRINUSE if the name is taken."""
        return listen_on(self.carrier(name), options=options, provider="mem", clock=clock)

    def datagram_carrier(self, name: str = "") -> MemoryDatagramCarrier:
        """Return a new end for datagrams; raises FabricError EADDRINUSE if the name is taken."""
        return self._datagrams.carrier(name)

    # --- what a test does ------------------------------------------------------------------------

    def reset(self, one: str, other: str, error: int = errno.ECONNRESET) -> None:
        """Break the link of two ends: what is on its way is lost, and both are told."""
        with self.lock:
            pipe = self._pipe(one, other)
            if pipe is not None:
                for end in (pipe, pipe.twin):
                    self._forget(end)
                self._end(pipe, error, "the link was reset")
                self._end(pipe.twin, error, "the link was reset")

    def drop(self, one: str, other: str, error: int = errno.ECONNRESET) -> None:
        """End the link of two ends: both are told when what is on its way has arrived."""
        with self.lock:
            pipe = self._pipe(one, other)
            if pipe is not None:
                self._end(pipe, error, "the link was closed")
                self._end(pipe.twin, error, "the link was closed")

    def half_close(self, one: str, other: str) -> None:
        """Let `other` believe that `one` closed the link, while `one` notices at its next send."""
        with self.lock:
            pipe = self._pipe(one, other)
            if pipe is not None:
                self._end(pipe.twin, errno.ECONNRESET, "the other end closed the link")

    def hold(self, source: str, target: str) -> None:
        """Keep frames of one direction on their way until `release`; they use up its room."""
        with self.lock:
            direction = self.direction(source, target)
            if direction.held is None:
                direction.held = deque()

    def release(self, source: str, target: str, count: int | None = None) -> None:
        """Let frames arrive that were held: all of them, also later ones, or a number of them."""
        with self.lock:
            direction = self.direction(source, target)
            held = direction.held or deque()
            for _ in range(len(held) if count is None else min(count, len(held))):
                pipe, frame = held.popleft()
                pipe.target.put(pipe, frame)
            if count is None:
                direction.held = None

    def block(self, source: str, target: str) -> None:
        """Let sends of one direction find no room."""
        with self.lock:
            self.direction(source, target).is_blocked = True

    def unblock(self, source: str, target: str) -> None:
        """Let sends find room again."""
        with self.lock:
            self.direction(source, target).is_blocked = False
            pipe = self._pipe(source, target)
            if pipe is not None and pipe.wants_room:
                pipe.wants_room = False
                pipe.source.put(pipe, _News.ROOM)

    def isolate(self, name: str) -> None:
        """Let nobody make a link with an end, until `rejoin`; links that exist live on."""
        with self.lock:
            self._unreachable.add(name)

    def rejoin(self, name: str) -> None:
        """Let links with an end be made again."""
        with self.lock:
            self._unreachable.discard(name)

    def kill(self, name: str) -> None:
        """Let an end vanish as its process would: its peers' links are reset, it is told nothing.

        Its name is free at once. What is called on it afterwards does nothing.
        """
        with self.lock:
            self._carriers[name].vanish(is_orderly=False)

    # --- what carriers ask -----------------------------------------------------------------------

    def number_of(self, name: str) -> int:
        """Return the number of a name."""
        with self.lock:
            number = self._numbers.get(name)
            if number is None:
                number = self._numbers[name] = len(self._names)
                self._names.append(name)
            return number

    def name_of(self, number: int) -> str:
        """Return the name with a number."""
        return self._names[number]

    def direction(self, source: str, target: str) -> _Direction:
        """Return what is done to a direction."""
        return self._directions.setdefault((source, target), _Direction())

    def held(self, pipe: _Pipe, frame: bytes) -> bool:
        """Keep a frame on its way, if its direction is still held; return whether it is."""
        with self.lock:
            held = pipe.direction.held
            if held is None:
                return False
            held.append((pipe, frame))
            return True

    def connect(self, source: MemoryCarrier, peer: int) -> _Pipe:
        """Return the sending pipe of a link with a peer, which is made if there is none.

        If it cannot be made, the pipe is one that is closed already, and the news is on its way.
        """
        with self.lock:
            name = self.name_of(peer)
            target = self._carriers.get(name)
            direction = self.direction(source.name, name)
            last = self._links.get((peer, source.number))
            if last is not None and last.is_open and last.twin.is_open:  # the other end was first
                return last.twin
            if target is None or not target.is_usable:
                return self._nowhere(
                    source, peer, direction, errno.ECONNREFUSED, f"nobody is called {name!r}"
                )
            if self._unreachable & {name, source.name}:
                return self._nowhere(
                    source, peer, direction, errno.EHOSTUNREACH, f"there is no way to {name!r}"
                )
            if last is not None:
                self._end(last, errno.ECONNRESET, "the other end made a new link")
            there = _Pipe(source, target, direction, peer)
            if target is source:
                self._links[peer, peer] = there
                source.put(there, _News.UP)
                return there
            back = _Pipe(target, source, self.direction(name, source.name), source.number)
            there.twin, back.twin = back, there
            self._links[source.number, peer], self._links[peer, source.number] = there, back
            source.put(back, _News.UP)
            target.put(there, _News.UP)
            return there

    def disconnect(self, source: MemoryCarrier, peer: int) -> None:
        """End a link for its source, which is told nothing."""
        with self.lock:
            for pipe in {self._links.get((source.number, peer)), source.pipes.pop(peer, None)}:
                if pipe is not None:
                    pipe.is_open, pipe.is_silent = False, True
                    pipe.take_back()
                    self._forget(pipe.twin)
                    self._end(pipe.twin, errno.ECONNRESET, "the other end disconnected")

    def leave(self, source: MemoryCarrier, *, is_orderly: bool) -> None:
        """Free a name, and end the links of its end, which is told nothing."""
        with self.lock:
            if self._carriers.get(source.name) is source:
                del self._carriers[source.name]
            for (number, peer), pipe in list(self._links.items()):
                if number == source.number and pipe.source is source:
                    pipe.is_open, pipe.is_silent = False, True
                    pipe.take_back()
                    if not is_orderly:
                        self._forget(pipe)
                    self._end(pipe.twin, errno.ECONNRESET, f"{source.name!r} is gone")
                    for key in {(number, peer), (peer, number)}:  # one, if it is its own peer
                        del self._links[key]

    def refuse(self, pipe: _Pipe) -> None:
        """End a link in the eyes of a sender that finds the other side closed."""
        with self.lock:
            self._end(pipe, errno.ECONNRESET, "the other end had closed the link")

    # ---------------------------------------------------------------------------------------------

    def _nowhere(
        self, source: MemoryCarrier, peer: int, direction: _Direction, error: int, reason: str
    ) -> _Pipe:
        """Return a pipe that is closed, which its source will be told."""
        pipe = _Pipe(source, source, direction, peer)
        self._end(pipe, error, reason)
        return pipe

    def _pipe(self, source: str, target: str) -> _Pipe | None:
        return self._links.get((self._numbers.get(source, -1), self._numbers.get(target, -1)))

    def _end(self, pipe: _Pipe, error: int, reason: str) -> None:
        """End the link in the eyes of the sender of a pipe."""
        if pipe.is_open:
            pipe.is_open = False
            self._let_go(pipe.twin)  # the news come after what is on its way, also when it is held
            pipe.source.put(pipe, (error, reason))

    def _let_go(self, pipe: _Pipe) -> None:
        for frame in _take_out(pipe):
            pipe.target.put(pipe, frame)

    def _forget(self, pipe: _Pipe) -> None:
        """Lose what is on its way in a pipe."""
        pipe.is_forgotten = True
        _take_out(pipe)


def _take_out(pipe: _Pipe) -> list[bytes]:
    """Take what is held of a pipe out of its direction."""
    held = pipe.direction.held
    if not held:
        return []
    mine = [frame for owner, frame in held if owner is pipe]
    others = [item for item in held if item[0] is not pipe]
    held.clear()
    held.extend(others)
    return mine


class MemoryCarrier:
    """One end in memory; `MemoryFabric.carrier` makes them.

    Attributes:
        name: its address.
        frame_limit: bytes of the largest frame.
        number: what its peers call it.
    """

    def __init__(self, fabric: MemoryFabric, name: str, number: int) -> None:
        self.name, self.number, self.frame_limit = name, number, fabric.frame_limit
        self.pipes: dict[int, _Pipe] = {}
        self.is_usable = self.can_borrow = False
        self._fabric, self._room = fabric, fabric.room
        self._sink: CarrierSink | None = None
        self._inbox: deque[tuple[_Pipe, Any]] = deque()
        self._wake_fd = -1
        self._is_awake = False

    # --- the contract ----------------------------------------------------------------------------

    def open(self, sink: CarrierSink) -> None:
        """Begin: from now on others can make links."""
        self._sink, self.is_usable = sink, True
        self.can_borrow = isinstance(sink, SplitSink)

    def resolve(self, address: str) -> int:
        """Return the number of a name; raises FabricError EINVAL for an empty one."""
        if not address or not address.isprintable() or "://" in address:
            raise FabricError(
                errno.EINVAL, f"{address!r} is no address in memory: those are plain names"
            )
        return self._fabric.number_of(address)

    def address_of(self, peer: int) -> str:
        """Return the name of a peer."""
        return self._fabric.name_of(peer)

    def send(self, peer: int, parts: Sequence[Buffer], token: object = None) -> bool:
        """Put a copy of a frame into the peer's inbox, if there is room."""
        pipe = self.pipes.get(peer)
        if pipe is None:
            pipe = self.pipes[peer] = self._fabric.connect(self, peer)
        if not pipe.is_open:
            return True  # and lost, as the news in the inbox says
        if not pipe.twin.is_open:
            self._fabric.refuse(pipe)
            return True
        direction = pipe.direction
        if direction.is_blocked or pipe.sent - pipe.taken >= self._room:
            pipe.wants_room = True
            if direction.is_blocked or pipe.sent - pipe.taken >= self._room:
                return False
            pipe.wants_room = False  # the other thread took a frame in between
        pipe.sent += 1
        if (
            token is not None
            and len(parts) > 1
            and direction.held is None
            and pipe.target.can_borrow
        ):
            lent = _Lent(parts, token)
            with self._fabric.lock:
                pipe.lent.append(lent)
            pipe.target.put(pipe, lent)
            return True
        frame = b"".join(parts)
        if direction.held is None or not self._fabric.held(pipe, frame):
            pipe.target.put(pipe, frame)
        if token is not None and self._sink is not None:
            self._sink.frame_sent(peer, token)
        return True

    def disconnect(self, peer: int) -> None:
        """Close the link to a peer; it is told after what this end sent before."""
        self._fabric.disconnect(self, peer)

    def progress(self) -> None:
        """Deliver what is in the inbox now."""
        if self._is_awake:
            with self._fabric.lock:  # nobody may close the descriptor in between
                if self._wake_fd >= 0:
                    with contextlib.suppress(BlockingIOError):
                        os.eventfd_read(self._wake_fd)
            self._is_awake = False  # last: who puts something in before that needs no wake-up
        sink, inbox = self._sink, self._inbox
        if sink is None:
            return
        for _ in range(len(inbox)):
            pipe, what = inbox.popleft()
            if type(what) is bytes:
                pipe.took()
                if not pipe.is_forgotten:
                    sink.frame_arrived(pipe.source.number, memoryview(what))
            elif type(what) is _Lent:
                if what.is_delivered:
                    if self.pipes.get(pipe.peer) is pipe:
                        sink.frame_sent(pipe.peer, what.token)
                else:
                    self._take_lent(pipe, what, sink)
            else:
                self._take_news(pipe, what, sink)
            if self._sink is None:
                return  # closed in between

    def _take_lent(self, pipe: _Pipe, lent: _Lent, sink: CarrierSink) -> None:
        """Deliver a frame from its sender's buffers."""
        pipe.took()
        with self._fabric.lock:  # the sender does not take them back in between
            is_lent = lent in pipe.lent
            if is_lent:
                pipe.lent.remove(lent)
            if not pipe.is_forgotten:
                assert isinstance(sink, SplitSink)  # or nothing would have been lent
                sink.split_frame_arrived(pipe.source.number, lent.head, lent.body)
        if is_lent:
            lent.is_delivered = True
            pipe.source.put(pipe, lent)

    def _take_news(self, pipe: _Pipe, what: _News | tuple[int, str], sink: CarrierSink) -> None:
        """Tell of a link; `pipe` is the one that this end sends into, but for UP its twin."""
        if what is _News.UP:
            pipe = pipe.twin
            if not pipe.is_silent:
                self.pipes[pipe.peer] = pipe
                sink.peer_up(pipe.peer)
        elif isinstance(what, _News):
            if not pipe.is_silent:
                sink.room_made(pipe.peer)
        elif not pipe.is_silent:
            with self._fabric.lock:
                pipe.take_back()
            if self.pipes.get(pipe.peer) is pipe:
                del self.pipes[pipe.peer]
            error, reason = what
            sink.peer_lost(pipe.peer, error, reason)

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
        """Close every link; the peers are told after what this end sent before."""
        self.vanish(is_orderly=True)

    # --- what the fabric and other ends do -------------------------------------------------------

    def put(self, pipe: _Pipe, what: bytes | _Lent | _News | tuple[int, str]) -> None:
        """Put a frame or news into the inbox, and wake who waits for it."""
        self._inbox.append((pipe, what))
        if not self._is_awake and self._wake_fd >= 0:
            self._wake()

    def vanish(self, *, is_orderly: bool) -> None:
        """Be gone; calling it again does nothing.

        Args:
            is_orderly: whether what was sent still arrives.
        """
        with self._fabric.lock:
            self.is_usable, self._sink = False, None
            self._fabric.leave(self, is_orderly=is_orderly)
            self.pipes.clear()
            self._inbox.clear()
            descriptor, self._wake_fd = self._wake_fd, -1
            if descriptor >= 0:
                os.close(descriptor)

    def _wake(self) -> None:
        with self._fabric.lock:  # nobody may close the descriptor in between
            if self._wake_fd >= 0 and not self._is_awake:
                os.eventfd_write(self._wake_fd, 1)
                self._is_awake = True  # last: only then it is read
