# SPDX-License-Identifier: Apache-2.0
"""Frames between processes of one machine, over rings in shared memory: a `Carrier`.

Each carrier has a name, under which others find it. The first frame to somebody makes the link. Two
that make it at the same time keep the one of whoever's name comes first; nothing is sent before a
link stands, so nothing is lost by that.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import socket
from collections import deque
from collections.abc import Sequence
from enum import Enum, auto
from typing import Final

from i2o.clock import SYSTEM_CLOCK, Clock
from i2o.closing import Closing
from i2o.errors import I2OError, RemoteFrameError, TransportUnavailable, UriError
from i2o.transport.doorbell import Doorbell
from i2o.transport.fabric.carrier import CarrierSink
from i2o.transport.fabric.endpoint import Buffer
from i2o.transport.fabric.errors import FabricError
from i2o.transport.shm.channel import PeerGone, is_over
from i2o.transport.shm.greeting import (
    Hello,
    Refusal,
    Refused,
    Welcome,
    close_all,
    hear,
    may_share,
    peer_of,
    say,
)
from i2o.transport.shm.link import Link, offer, own_modes, take
from i2o.transport.shm.rendezvous import Meeting, free_name, listen, path_of
from i2o.transport.shm.segment import Shape

FRAME_LIMIT: Final = 64 << 10
"""Bytes of the largest frame."""
RING_SIZE: Final = 1 << 20
MAX_WAITING: Final = 32
"""Connections that have not said who they are; one more ends the oldest."""
_SCHEME: Final = "shm://"
_SHAPE: Final = Shape(0, 0, RING_SIZE, 0)
_ROUND: Final = 64  # frames of one peer in a row
_LOOK_EVERY: Final = 32  # progress without frames between two looks at the sockets
_LINGERED: Final = 8  # progress without frames that a look into a ring counts for
_LARGE: Final = 4096  # a part that is not worth copying twice
_CROSSING_NS: Final = 200_000_000  # how long the other one's connection may be on its way


class _State(Enum):
    """How far a link is."""

    ASKING = auto()
    """We said hello and wait for the answer."""
    AWAITED = auto()
    """The other one is connecting to us."""
    UP = auto()
    """Frames may be sent."""


class _Peer:
    """A link, or what is to become one."""

    __slots__ = ("due_ns", "end", "link", "number", "state", "wants_room")

    def __init__(self, number: int, end: socket.socket | None) -> None:
        self.number, self.end = number, end
        self.state = _State.ASKING
        self.link: Link | None = None
        self.wants_room = False  # somebody was told that there is none
        self.due_ns: int | None = None

    def descriptors(self) -> tuple[int, ...]:
        """Return what to watch."""
        if self.link is not None:
            return self.link.channel.filenos()
        return () if self.end is None else (self.end.fileno(),)

    def close(self) -> None:
        """Let go of everything."""
        if self.link is not None:
            self.link.close()
        elif self.end is not None:
            self.end.close()
        self.link = self.end = None


class ShmCarrier(Closing):
    """One end.

    Args:
        name: what others call it, as in `shm:NAME`; one that is free by default.
        clock: for the one limit of time that there is.

    Raises:
        UriError: it is no name.
        TransportUnavailable: somebody has that name, or its socket cannot be made.

    Attributes:
        name: its address, `shm://NAME`.
        frame_limit: bytes of the largest frame.
    """

    def __init__(self, name: str = "", *, clock: Clock = SYSTEM_CLOCK) -> None:
        own = name or free_name()
        self.name, self.frame_limit = f"{_SCHEME}{own}", FRAME_LIMIT
        self._own, self._clock = own, clock
        self._listener = listen(own, Meeting.PEER)
        self._sink: CarrierSink | None = None
        self._numbers: dict[str, int] = {own: 0}
        self._names: list[str] = [own]
        self._peers: dict[int, _Peer] = {}
        self._up: tuple[_Peer, ...] = ()
        self._waiting: list[socket.socket] = []
        self._lost: deque[tuple[int, int, str]] = deque()
        self._to_self: deque[bytes] = deque()
        self._knows_self = False
        self._idle = 0
        self._is_watched = False
        self._bell = Doorbell()
        self._watch = select.epoll()
        for descriptor in (self._listener.socket.fileno(), self._bell.fileno()):
            self._watch.register(descriptor, select.EPOLLIN)

    # --- the contract ----------------------------------------------------------------------------

    def open(self, sink: CarrierSink) -> None:
        """Begin."""
        self._sink = sink

    def resolve(self, address: str) -> int:
        """Return the number of the peer behind `shm://NAME`; raises FabricError EINVAL."""
        name = address.removeprefix(_SCHEME)
        try:
            if "://" in name:
                raise UriError(
                    f"{address!r} is no address in shared memory: those are {_SCHEME}NAME"
                )
            path_of(name, Meeting.PEER)
        except UriError as error:
            raise FabricError(errno.EINVAL, str(error)) from None
        return self._number_of(name)

    def address_of(self, peer: int) -> str:
        """Return the address of a peer."""
        return f"{_SCHEME}{self._names[peer]}"

    def send(self, peer: int, parts: Sequence[Buffer], token: object = None) -> bool:
        """Copy a frame into the ring to a peer, if there is room."""
        found = self._peers.get(peer)
        if found is None:
            if peer == 0:
                return self._send_to_self(parts, token)
            found = self._connect(peer)
            if found is None:
                return True  # and lost, as will be told
        link = found.link
        if link is None:
            found.wants_room = True
            return False
        try:
            if len(parts) == 2 and len(parts[1]) >= _LARGE:
                is_sent = link.channel.send_two(bytes(parts[0]), parts[1])
            else:
                is_sent = link.channel.send(b"".join(parts))
        except PeerGone:
            self._bell.ring()  # what it sent before comes first: progress notices
            self._idle = -1
            return True
        if not is_sent:
            found.wants_room = True
            self._watch_for_room(found)
            return False
        if token is not None and self._sink is not None:
            self._sink.frame_sent(peer, token)
        return True

    def disconnect(self, peer: int) -> None:
        """Close the link to a peer; it is told after what this end sent before."""
        found = self._peers.get(peer)
        if found is not None:
            self._drop(found)
        if peer == 0:
            self._to_self.clear()
            self._knows_self = False

    def progress(self) -> None:
        """Deliver what has come in; make links, and notice those that broke."""
        sink = self._sink
        if sink is None:
            return
        has_news = self._deliver(sink)
        self._idle += 1
        if self._is_watched or not self._up or self._idle % _LOOK_EVERY == 0:
            self._look(sink)
        elif has_news:
            self._idle = 0
        if self._is_watched and self._sink is not None:
            self._arm()

    def linger(self, nanoseconds: int) -> None:
        """Do what `progress` does; with one peer, look into its ring for so long at most."""
        up, sink = self._up, self._sink
        if len(up) != 1 or self._to_self or self._is_watched or sink is None:
            self.progress()
            return
        peer = up[0]
        link = peer.link
        self._idle += _LINGERED
        if link is None or self._idle >= _LOOK_EVERY:
            self._idle = -1
            self.progress()  # which looks at the sockets, too
            return
        try:
            frame = link.channel.receive_within(nanoseconds)
        except PeerGone as error:
            self._lose(peer, errno.ECONNRESET, str(error))
            return
        if frame is not None:
            self._idle = 1
            sink.frame_arrived(peer.number, frame)

    def fileno(self) -> int:
        """Return an epoll descriptor; from the first call on, progress takes care of it."""
        if not self._is_watched and self._sink is not None:
            self._is_watched = True
            self._arm()
        return -1 if self._watch.closed else self._watch.fileno()

    def next_deadline_ns(self) -> int | None:
        """Return when a peer that is connecting to us should have come."""
        times = [peer.due_ns for peer in self._peers.values() if peer.due_ns is not None]
        return min(times, default=None)

    def close(self) -> None:
        """Close every link; nothing is called any more."""
        self._sink = None
        for peer in tuple(self._peers.values()):
            self._drop(peer)
        for end in self._waiting:
            end.close()
        self._waiting.clear()
        self._listener.close()
        self._watch.close()
        self._bell.close()

    # --- frames ----------------------------------------------------------------------------------

    def _send_to_self(self, parts: Sequence[Buffer], token: object) -> bool:
        self._to_self.append(b"".join(parts))
        self._bell.ring()
        if token is not None and self._sink is not None:
            self._sink.frame_sent(0, token)
        return True

    def _deliver(self, sink: CarrierSink) -> bool:
        """Deliver what is in the rings; return whether there was anything."""
        has_news = False
        for peer in self._up:
            link = peer.link
            if link is None:
                continue
            channel = link.channel
            if not channel.has_packet():
                continue
            try:
                for _ in range(_ROUND):
                    frame = channel.receive()
                    if frame is None:
                        break
                    has_news = True
                    sink.frame_arrived(peer.number, frame)
                    if peer.link is not link or not channel.has_packet():
                        break  # disconnected in between, or all is delivered
            except PeerGone as error:
                self._lose(peer, errno.ECONNRESET, str(error))
        for _ in range(len(self._to_self)):
            if not self._knows_self:
                self._knows_self = True
                sink.peer_up(0)
            has_news = True
            sink.frame_arrived(0, memoryview(self._to_self.popleft()))
        return has_news

    def _arm(self) -> None:
        """Make the descriptor tell of the next frame, or at once of one that is here."""
        is_quiet = not (self._lost or self._to_self)
        for peer in self._up:
            if peer.link is not None and not peer.link.channel.arm():
                is_quiet = False
        if is_quiet:
            self._bell.silence()
        else:
            self._bell.ring()

    # --- links -----------------------------------------------------------------------------------

    def _number_of(self, name: str) -> int:
        number = self._numbers.get(name)
        if number is None:
            number = self._numbers[name] = len(self._names)
            self._names.append(name)
        return number

    def _connect(self, number: int) -> _Peer | None:
        """Say hello to a peer; return None if nobody is there, which is told with progress."""
        name = self._names[number]
        with contextlib.ExitStack() as on_failure:
            end = on_failure.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET))
            end.setblocking(False)
            try:
                end.connect(str(path_of(name, Meeting.PEER)))
                if not may_share(peer_of(end)):
                    raise PermissionError(errno.EACCES, "it belongs to another user")
                say(end, Hello(own_modes(), self._own))
            except OSError as error:
                code = errno.ECONNREFUSED if error.errno == errno.ENOENT else error.errno
                self._lost.append(
                    (number, code or errno.EIO, f"{name!r} cannot be reached: {error.strerror}")
                )
                self._bell.ring()
                return None
            on_failure.pop_all()
        peer = self._peers[number] = _Peer(number, end)
        self._watch.register(end.fileno(), select.EPOLLIN)
        return peer

    def _look(self, sink: CarrierSink) -> None:
        """See to the sockets: who comes, who answers, who is gone, where there is room."""
        ready = {descriptor for descriptor, _ in self._watch.poll(0)}
        if self._listener.socket.fileno() in ready:
            self._accept()
        for end in tuple(self._waiting):
            if end.fileno() in ready:
                self._hear(end, sink)
        for peer in tuple(self._peers.values()):
            if peer.state is _State.UP:
                self._look_at(peer, ready, sink)
            elif peer.state is _State.ASKING and ready.intersection(peer.descriptors()):
                self._hear_answer(peer, sink)
            elif peer.due_ns is not None and self._clock.monotonic_ns() >= peer.due_ns:
                self._peers.pop(peer.number, None)  # it did not come: once more
                again = self._connect(peer.number)
                if again is not None:
                    again.wants_room = peer.wants_room
        while self._lost and self._sink is not None:
            sink.peer_lost(*self._lost.popleft())

    def _look_at(self, peer: _Peer, ready: set[int], sink: CarrierSink) -> None:
        link = peer.link
        if link is None:
            return
        if ready.intersection(link.channel.filenos()):
            link.channel.silence()
        try:
            link.channel.check()
        except PeerGone as error:
            self._deliver(sink)  # what it sent before counts
            if peer.link is link and not link.channel.has_packet():
                self._lose(peer, errno.ECONNRESET, str(error))
            elif peer.link is link:
                self._bell.ring()
            return
        if peer.wants_room:
            peer.wants_room = False
            self._watch_for_room(peer)
            sink.room_made(peer.number)

    def _watch_for_room(self, peer: _Peer) -> None:
        """Watch for room where it takes a descriptor to be told of it, if that is wanted."""
        if peer.link is not None:
            for descriptor in peer.link.channel.room_filenos():
                wanted = select.EPOLLIN | (select.EPOLLOUT if peer.wants_room else 0)
                self._watch.modify(descriptor, wanted)

    def _accept(self) -> None:
        for _ in range(MAX_WAITING):
            try:
                end, _ = self._listener.socket.accept()
            except OSError as error:
                if error.errno in (errno.EMFILE, errno.ENFILE) and self._waiting:
                    self._forget(self._waiting[0])
                    continue
                return
            if not may_share(peer_of(end)):
                end.close()
                continue
            end.setblocking(False)
            if len(self._waiting) >= MAX_WAITING:
                self._forget(self._waiting[0])
            self._waiting.append(end)
            self._watch.register(end.fileno(), select.EPOLLIN)
            self._bell.ring()  # it may have said who it is already

    def _forget(self, end: socket.socket) -> None:
        self._waiting.remove(end)
        end.close()

    def _hear(self, end: socket.socket, sink: CarrierSink) -> None:
        """Take in who somebody is, and make a link with it."""
        try:
            hello = hear(end)
        except BlockingIOError:
            return
        except (OSError, RemoteFrameError):
            self._forget(end)
            return
        name = hello.name if isinstance(hello, Hello) else ""
        if isinstance(hello, Welcome):
            close_all(hello.descriptors)
        try:
            path_of(name, Meeting.PEER)
        except UriError:
            name = ""
        if not (isinstance(hello, Hello) and name and hello.modes) or is_over(end):
            self._refuse(end, Refused(Refusal.UNABLE, 0, "who are you?"))
            return
        number = self._number_of(name)
        before = self._peers.get(number)
        if before is not None and before.state is _State.ASKING and self._own < name:
            self._refuse(end, Refused(Refusal.CROSSING, os.getpid(), "take the other one"))
            return
        wants_room = False
        if before is not None:
            wants_room = before.wants_room and before.state is not _State.UP
            if before.state is _State.UP:  # it has begun anew
                self._deliver(sink)
                self._lose(before, errno.ECONNRESET, f"{name!r} made a new link")
                while self._lost:
                    sink.peer_lost(*self._lost.popleft())
            else:
                self._drop(before)
        try:
            link = offer(end, hello, _SHAPE, self._own, FRAME_LIMIT)
        except (OSError, I2OError) as error:
            self._forget(end)
            self._lost.append((number, errno.ECONNRESET, str(error)))
            return
        self._waiting.remove(end)
        self._watch.unregister(end.fileno())
        peer = _Peer(number, None)
        peer.wants_room = wants_room
        self._raise(peer, link, sink)

    def _hear_answer(self, peer: _Peer, sink: CarrierSink) -> None:
        """Take in what a peer says to our hello."""
        end = peer.end
        if end is None:
            return
        try:
            answer = hear(end)
            if isinstance(answer, Hello):
                raise RemoteFrameError("it says hello itself")
            if isinstance(answer, Refused):
                self._take_refusal(peer, answer)
                return
            self._watch.unregister(end.fileno())
            link = take(end, answer, FRAME_LIMIT)
        except BlockingIOError:
            return
        except (OSError, RemoteFrameError) as error:
            self._lose(peer, errno.ECONNRESET, str(error))
            return
        peer.end = None
        self._raise(peer, link, sink)

    def _take_refusal(self, peer: _Peer, refused: Refused) -> None:
        if refused.code is Refusal.CROSSING:
            peer.close()
            peer.state = _State.AWAITED
            peer.due_ns = self._clock.monotonic_ns() + _CROSSING_NS
        else:
            self._lose(peer, errno.ECONNREFUSED, refused.reason or "it refuses")

    def _refuse(self, end: socket.socket, refused: Refused) -> None:
        with contextlib.suppress(OSError):
            say(end, refused)
        self._forget(end)

    def _raise(self, peer: _Peer, link: Link, sink: CarrierSink) -> None:
        """Have a link from now on."""
        peer.link, peer.state, peer.due_ns = link, _State.UP, None
        self._peers[peer.number] = peer
        self._up = tuple(one for one in self._peers.values() if one.link is not None)
        for descriptor in link.channel.filenos():
            self._watch.register(descriptor, select.EPOLLIN)
        self._bell.ring()  # frames may be there
        sink.peer_up(peer.number)
        if peer.wants_room and peer.link is link:
            peer.wants_room = False
            sink.room_made(peer.number)

    def _lose(self, peer: _Peer, error: int, reason: str) -> None:
        """Forget a link, and tell of it with this progress or the next."""
        self._drop(peer)
        self._lost.append((peer.number, error, reason))
        self._bell.ring()
        self._idle = -1

    def _drop(self, peer: _Peer) -> None:
        """Forget a link."""
        if self._peers.get(peer.number) is peer:
            del self._peers[peer.number]
        peer.close()  # which takes its descriptors out of the epoll set
        self._up = tuple(one for one in self._peers.values() if one.link is not None)


def name_is_taken(error: TransportUnavailable) -> FabricError:
    """Return the error of endpoints for a name that cannot be had."""
    return FabricError(errno.EADDRINUSE, str(error))
