# SPDX-License-Identifier: Apache-2.0
"""Where callers come in: listening sockets, and callers who have not proved yet who they are."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import socket
import ssl
from collections.abc import Callable, Sequence
from typing import Final

from i2o.clock import Clock
from i2o.errors import TransportUnavailable
from i2o.transport.tcp.address import Address, of_socket
from i2o.transport.tcp.errors import ProtocolViolation
from i2o.transport.tcp.handshake import Identity, Listener, Rejected
from i2o.transport.tcp.link import Link
from i2o.transport.tcp.options import PeerOptions
from i2o.transport.tcp.poller import READABLE, Poller
from i2o.transport.tcp.timers import Timers
from i2o.transport.tcp.wire import NONCE_SIZE, Kind

logger = logging.getLogger(__name__)

_ACCEPTS_A_TURN: Final = 16
_EXHAUSTED: Final = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


class Doorway:
    """Accepts callers and brings them through the handshake, as far as their proof.

    Nobody in here can hold up anybody else: sockets do not block, each caller has a deadline,
    and the oldest one goes when there are too many.

    Args:
        poller: of the node.
        timers: of the node.
        clock: for deadlines.
        options: limits and times.
        tls: for callers, or None.
        admit: takes a link whose other end has proved who it is; it sends the verdict.
        fresh: makes random bytes.
    """

    def __init__(
        self,
        poller: Poller,
        timers: Timers,
        clock: Clock,
        options: PeerOptions,
        tls: ssl.SSLContext | None,
        admit: Callable[[Link], None],
        fresh: Callable[[int], bytes] = os.urandom,
    ) -> None:
        self._poller, self._timers, self._clock = poller, timers, clock
        self._options, self._tls, self._admit, self._fresh = options, tls, admit, fresh
        self._sockets: list[socket.socket] = []
        self._callers: dict[Link, None] = {}  # the oldest first
        self._me: Identity | None = None
        self.dropped = 0

    @property
    def half_open(self) -> int:
        """Callers in the handshake."""
        return len(self._callers)

    def bind(self, addresses: Sequence[Address]) -> list[Address]:
        """Take the addresses; return them with the ports that the system chose.

        Raises:
            TransportUnavailable: one cannot be had.
        """
        for address in addresses:
            end = socket.socket(address.family, socket.SOCK_STREAM)
            self._sockets.append(end)
            end.setblocking(False)
            end.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if address.family == socket.AF_INET6:
                end.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            try:
                end.bind((address.host, address.port))
                end.listen(self._options.backlog)
            except OSError as error:
                raise TransportUnavailable(
                    "tcp",
                    f"{address}: {error.strerror}",
                    remedy="name an address of this machine, or port 0 for any that is free",
                ) from None
        return [of_socket(end.getsockname()) for end in self._sockets]

    def open(self, me: Identity) -> None:
        """Let callers in from now on."""
        self._me = me
        for end in self._sockets:
            self._listen_on(end)

    def close(self) -> None:
        """Stop to listen, and send everybody away who is not through yet."""
        for end in self._sockets:
            self._poller.remove(end.fileno())
            end.close()
        self._sockets = []
        for link in list(self._callers):
            self._drop(link)

    def release(self, link: Link) -> None:
        """Let go of a caller who is through, or gone."""
        self._callers.pop(link, None)

    def _listen_on(self, end: socket.socket) -> None:
        self._poller.add(end.fileno(), READABLE, lambda mask: self._accept(end))

    def _accept(self, end: socket.socket) -> None:
        for _ in range(_ACCEPTS_A_TURN):
            try:
                caller, name = end.accept()
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno not in _EXHAUSTED:
                    continue  # that caller went away before it was accepted
                self._pause(end, error)
                return
            try:
                self._take(caller, of_socket(name))
            except OSError as error:
                caller.close()
                self._pause(end, error)
                return

    def _pause(self, end: socket.socket, error: OSError) -> None:
        """Look away for a moment: what could not be accepted is still there afterwards."""
        logger.warning("no caller is accepted for a moment: %s", error.strerror)
        self._poller.remove(end.fileno())
        if self._callers:
            self._drop(next(iter(self._callers)))
        due = self._clock.monotonic_ns() + round(self._options.accept_pause_s * 1e9)
        self._timers.at(due, lambda: self._resume(end))

    def _resume(self, end: socket.socket) -> None:
        if end in self._sockets:
            self._listen_on(end)

    def _take(self, caller: socket.socket, address: Address) -> None:
        assert self._me is not None
        if len(self._callers) >= self._options.half_open_limit:
            self._drop(next(iter(self._callers)))
        link = Link(caller, self._deliver, address)
        link.set_options(self._options)
        if self._tls is not None:
            link.start_tls(self._tls, is_server=True, host="")
        link.listener = Listener(self._me, self._fresh(NONCE_SIZE))
        self._poller.add(link.number, READABLE, lambda mask: self._on_event(link))
        self._callers[link] = None
        due = self._clock.monotonic_ns() + round(self._options.handshake_timeout_s * 1e9)
        link.timer = self._timers.at(due, lambda: self._drop(link))

    def _on_event(self, link: Link) -> None:
        try:
            if link.read_all() == 0:
                self._drop(link)
        except Rejected as error:
            with contextlib.suppress(OSError, ProtocolViolation):
                link.say(error.frame())
            logger.info("caller from %s: %s", link.address, error)
            self._drop(link)
        except (ProtocolViolation, OSError) as error:
            logger.info("caller from %s: %s", link.address, error)
            self._drop(link)

    def _deliver(self, link: Link, kind: int, payload: memoryview) -> bool:
        listener = link.listener
        assert listener is not None
        if link.remote is None and kind == Kind.HELLO:
            link.remote, answer = listener.hello(payload)
            link.serial = link.remote.serial
            link.say(answer)
            if listener.is_probe:
                self._drop(link)
                return False
            return True
        if link.remote is not None and kind == Kind.PROOF:
            listener.proof(payload)
            self.release(link)
            if link.timer is not None:
                link.timer.cancel()
            self._poller.remove(link.number)
            self._admit(link)
            return False
        raise ProtocolViolation(f"a frame of kind {kind} in the handshake")

    def _drop(self, link: Link) -> None:
        if self._callers.pop(link, link) is None:
            self.dropped += 1
            self._poller.drop(link.number, link.close)
