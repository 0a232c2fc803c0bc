# SPDX-License-Identifier: Apache-2.0
"""A Unix stream socket on which a running IOP takes commands: a line each, answered by a JSON line.

Nothing here waits or has a thread: whoever runs the IOP calls `serve` when it looks at its queues,
and watches `fileno`. A client cannot stall the IOP or make it keep much: one command of each client
is served at a time, nothing is read from a client that has not taken its answer, lines and
connections are bounded. A line counts when its newline is there.
"""

from __future__ import annotations

import contextlib
import errno
import json
import select
import socket
from collections.abc import Callable, Mapping
from typing import Final

from i2o.closing import Closing
from i2o.transport.doorbell import Doorbell
from i2o.transport.unix_listener import UnixListener

MAX_LINE: Final = 8192
"""Bytes of a command, its newline included."""
MAX_CLIENTS: Final = 16
"""Connections at a time; one more ends that which was silent for longest."""
_BACKLOG: Final = 16

Answer = Mapping[str, object]


class ControlSocket(Closing):
    """The socket and its connections.

    Args:
        path: where the socket is made. What a dead process left there is replaced.

    Raises:
        TransportUnavailable: the path cannot be used; says why and what to do.
    """

    def __init__(self, path: str) -> None:
        self._clients: dict[int, _Client] = {}  # by descriptor, the most recent last
        self._socket = UnixListener(path, backend="emu", purpose="control socket", backlog=_BACKLOG)
        self._listener = self._socket.socket
        self._leftover = Doorbell()
        self._reserve = Doorbell()  # a descriptor to give up when there is no other
        self._epoll = select.epoll()
        self._epoll.register(self._listener, select.EPOLLIN)
        self._epoll.register(self._leftover, select.EPOLLIN)
        self._is_closed = False

    def fileno(self) -> int:
        """Return a descriptor that is readable while `serve` has something to do."""
        return self._epoll.fileno()

    def wait(self, timeout_s: float) -> bool:
        """Wait until `serve` has something to do; False when the time ran out."""
        return bool(self._epoll.poll(max(0.0, timeout_s), 1))

    def serve(self, execute: Callable[[str], Answer]) -> None:
        """Take in what clients say, and run at most one command of each.

        Args:
            execute: runs a command and returns the answer; must not raise.
        """
        ready = self._epoll.poll(0)
        if not ready:
            return
        self._leftover.silence()
        for descriptor, _ in ready:
            if descriptor == self._listener.fileno():
                self._accept()
            elif (client := self._clients.get(descriptor)) is not None:
                client.transfer()
        for client in tuple(self._clients.values()):
            self._attend(client, execute)

    def close(self) -> None:
        """End every connection and remove the socket; a second call does nothing."""
        if self._is_closed:
            return
        self._is_closed = True
        for client in tuple(self._clients.values()):
            self._drop(client)
        self._socket.close()
        self._leftover.close()
        self._epoll.close()
        self._reserve.close()

    # --- connections ---------------------------------------------------------------------------

    def _accept(self) -> None:
        """Take new connections, a bounded number at a time."""
        for _ in range(_BACKLOG):
            try:
                end, _ = self._listener.accept()
            except OSError as error:
                if error.errno in (errno.EMFILE, errno.ENFILE):
                    self._turn_away()
                return
            if len(self._clients) >= MAX_CLIENTS:
                self._drop(next(iter(self._clients.values())))
            end.setblocking(False)
            client = _Client(end)
            self._clients[end.fileno()] = client
            client.transfer()  # it may have said something already
            self._epoll.register(end, client.wanted)

    def _turn_away(self) -> None:
        """Without a free descriptor, end one connection, or it would be reported for ever."""
        self._reserve.close()
        with contextlib.suppress(OSError):
            self._listener.accept()[0].close()
        with contextlib.suppress(OSError):
            self._reserve = Doorbell()

    def _attend(self, client: _Client, execute: Callable[[str], Answer]) -> None:
        """Run a client's next command, and see what else there is to do for it."""
        line = client.take_line()
        if line is not None:
            self._clients[client.end.fileno()] = self._clients.pop(client.end.fileno())
            try:
                text = line.decode()
            except UnicodeDecodeError:
                client.answer({"ok": False, "error": "a command is UTF-8 text"})
            else:
                client.answer(execute(text))
            client.transfer()
        if client.is_done:
            self._drop(client)
            return
        self._epoll.modify(client.end, client.wanted)
        if client.is_waiting:
            self._leftover.ring()

    def _drop(self, client: _Client) -> None:
        del self._clients[client.end.fileno()]
        client.end.close()  # which takes it out of the epoll set, too


class _Client:
    """One connection.

    Attributes:
        end: its socket.
    """

    __slots__ = ("_inbox", "_is_ended", "_is_gone", "_outbox", "end")

    def __init__(self, end: socket.socket) -> None:
        self.end = end
        self._inbox = bytearray()
        self._outbox = b""
        self._is_ended = False  # nothing more comes
        self._is_gone = False  # nothing more can be sent

    def transfer(self) -> None:
        """Send what is to be sent; when that is done, receive what comes."""
        try:
            while self._outbox:
                sent = self.end.send(self._outbox, socket.MSG_NOSIGNAL)
                self._outbox = self._outbox[sent:]
            while not (self._is_ended or self.has_line):
                said = self.end.recv(MAX_LINE)
                self._inbox += said
                self._is_ended = not said
        except BlockingIOError:
            pass
        except OSError:
            self._is_gone = True

    @property
    def has_line(self) -> bool:
        """Whether a whole command is here, or one that is too long."""
        return b"\n" in self._inbox or len(self._inbox) >= MAX_LINE

    @property
    def is_waiting(self) -> bool:
        """Whether a command could be run now."""
        return self.has_line and not self._outbox

    def take_line(self) -> bytes | None:
        """Return the next command, unless an answer is to be taken first."""
        self._inbox = self._inbox.lstrip()  # blank lines
        if self._outbox or self._is_gone or not self.has_line:
            return None
        line, newline, rest = self._inbox.partition(b"\n")
        if not newline or len(line) >= MAX_LINE:
            self._inbox.clear()
            self._is_ended = True
            self.answer({"ok": False, "error": f"a command has at most {MAX_LINE - 1} bytes"})
            return None
        self._inbox = rest
        return bytes(line)

    def answer(self, answer: Answer) -> None:
        """Send an answer, as far as the client takes it."""
        self._outbox += json.dumps(answer).encode() + b"\n"

    @property
    def is_done(self) -> bool:
        """Whether the connection can be closed."""
        return self._is_gone or (self._is_ended and not self._outbox and not self.has_line)

    @property
    def wanted(self) -> int:
        """What the connection waits for."""
        if self._outbox:
            return select.EPOLLOUT
        return 0 if self._is_ended or self.has_line else select.EPOLLIN
