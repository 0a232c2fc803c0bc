# SPDX-License-Identifier: Apache-2.0
"""The sockets of those who have devices: each client is a session, which takes and gives bytes."""

from __future__ import annotations

import contextlib
import errno
import logging
import select
import socket
from collections.abc import Callable
from typing import Final, Protocol

from i2o.clock import SYSTEM_CLOCK
from i2o.closing import Closing
from i2o.errors import RemoteFrameError
from i2o.transport.doorbell import Doorbell
from i2o.transport.timer_descriptor import TimerDescriptor

logger = logging.getLogger(__name__)

MAX_CLIENTS: Final = 16
"""Connections at once; one more ends the oldest that has no device, or is not taken."""
PAUSE_S: Final = 0.25
"""How long nobody is accepted when the system has no descriptors left."""
_EXHAUSTED: Final = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
_CHUNK: Final = 256 << 10
_KEEP_IDLE_S, _KEEP_PAUSE_S, _KEEP_COUNT = 30, 10, 3  # silence, questions, and how many
_ROUND: Final = 16  # chunks of one client before others have their turn


class ClientSession(Protocol):
    """One client's side of a protocol."""

    @property
    def has_device(self) -> bool:
        """Whether the client has a device."""

    @property
    def is_finished(self) -> bool:
        """Whether the client is to be sent away when nothing waits to be sent."""

    @property
    def wants_more(self) -> bool:
        """Whether more is to be read from the client."""

    @property
    def has_output(self) -> bool:
        """Whether something waits to be sent."""

    def receive(self, data: bytes) -> None:
        """Take bytes of the client's; raises RemoteFrameError if they make no sense."""

    def next_output(self) -> bytes | memoryview | None:
        """Return the oldest bytes that wait to be sent, if there are any."""

    def sent(self, count: int) -> None:
        """So many of these bytes were sent."""

    def close(self) -> None:
        """The client is gone."""


class Listener(Protocol):
    """A socket that listens; it does not block."""

    @property
    def socket(self) -> socket.socket:
        """The socket."""

    def close(self) -> None:
        """Close it."""


class _Client:
    __slots__ = ("end", "events", "session")

    def __init__(self, end: socket.socket, session: ClientSession) -> None:
        self.end, self.session, self.events = end, session, select.EPOLLIN


class SessionServer(Closing):
    """Clients at one address.

    Args:
        listener: where they come; the server closes it.
        begin: makes the session of one, which calls what it is given when it has something to say.
    """

    def __init__(
        self, listener: Listener, begin: Callable[[Callable[[], None]], ClientSession]
    ) -> None:
        self._listener, self._begin = listener, begin
        self._clients: list[_Client] = []
        self._bell = Doorbell()
        self._timer = TimerDescriptor()
        self._pause_ends_ns: int | None = None
        self._watch = select.epoll()
        for watched in (listener.socket, self._bell, self._timer):
            self._watch.register(watched.fileno(), select.EPOLLIN)

    @property
    def has_owner(self) -> bool:
        """Whether a client has a device."""
        return any(client.session.has_device for client in self._clients)

    def fileno(self) -> int:
        """Return a descriptor that is readable when `handle` has something to do."""
        return self._watch.fileno()

    def handle(self) -> None:
        """Take what clients sent, and send what is to be sent."""
        self._bell.silence()
        self._accept()
        for client in tuple(self._clients):
            try:
                self._receive(client)
                self._send(client)
            except (OSError, RemoteFrameError) as error:
                logger.info("a client is sent away: %s", error)
                self._drop(client)
            else:
                self._look_for(client)

    def close(self) -> None:
        """Send clients away; calling it again does nothing."""
        for client in tuple(self._clients):
            self._drop(client)
        self._listener.close()
        self._watch.close()
        self._timer.close()
        self._bell.close()

    def _accept(self) -> None:
        if self._pause_ends_ns is not None:
            if SYSTEM_CLOCK.monotonic_ns() < self._pause_ends_ns:
                return
            self._end_pause()
        for _ in range(MAX_CLIENTS):
            idle = [each for each in self._clients if not each.session.has_device]
            try:
                end, _ = self._listener.socket.accept()
            except OSError as error:
                if error.errno not in _EXHAUSTED:
                    return  # nobody else comes now
                caller = select.poll()
                caller.register(self._listener.socket, select.POLLIN)
                if not caller.poll(0):
                    return  # nor does somebody then: the system says so before it looks
                if not idle:
                    self._pause(error)
                    return
                self._drop(idle[0])
                continue
            if len(self._clients) >= MAX_CLIENTS:
                if not idle:
                    end.close()
                    continue
                self._drop(idle[0])
            end.setblocking(False)
            with contextlib.suppress(OSError):
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                # a machine that loses its power must not keep the device
                end.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, _KEEP_IDLE_S)
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, _KEEP_PAUSE_S)
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, _KEEP_COUNT)
            self._watch.register(end.fileno(), select.EPOLLIN)
            client = _Client(end, self._begin(self._bell.ring))
            self._clients.append(client)
            self._look_for(client)

    def _pause(self, error: OSError) -> None:
        """Look away for a moment: who could not be accepted is still there afterwards."""
        logger.warning("no client is accepted for a moment: %s", error.strerror)
        self._watch.unregister(self._listener.socket.fileno())
        self._pause_ends_ns = SYSTEM_CLOCK.monotonic_ns() + round(PAUSE_S * 1e9)
        self._timer.wake_by(self._pause_ends_ns)

    def _end_pause(self) -> None:
        self._timer.silence()
        self._pause_ends_ns = None
        self._watch.register(self._listener.socket.fileno(), select.EPOLLIN)

    def _look_for(self, client: _Client) -> None:
        """Wait for what a client is to do next."""
        session = client.session
        events = select.EPOLLIN if session.wants_more else 0
        if session.has_output:
            events |= select.EPOLLOUT
        if events != client.events and client in self._clients:
            client.events = events
            self._watch.modify(client.end.fileno(), events)

    def _receive(self, client: _Client) -> None:
        for _ in range(_ROUND):
            if not client.session.wants_more:
                return
            try:
                data = client.end.recv(_CHUNK)
            except BlockingIOError:
                return
            if not data:
                raise RemoteFrameError("it closed the connection")
            client.session.receive(data)

    def _send(self, client: _Client) -> None:
        while (data := client.session.next_output()) is not None:
            try:
                count = client.end.send(data)
            except BlockingIOError:
                return
            client.session.sent(count)
        if client.session.is_finished:
            self._drop(client)

    def _drop(self, client: _Client) -> None:
        if client not in self._clients:
            return
        self._clients.remove(client)
        client.session.close()
        client.end.close()
