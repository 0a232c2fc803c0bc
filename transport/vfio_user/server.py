# SPDX-License-Identifier: Apache-2.0
"""Serves devices to vfio-user clients on Unix sockets, all of them in one thread.

One socket is one device with one client at a time; the next one connects when the last has gone.
A device runs between messages and never inside one: what it does in answer to a register access
happens after the access has returned to the client.
"""

from __future__ import annotations

import logging
import select
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from i2o.clock import SYSTEM_CLOCK, Clock
from i2o.closing import Closing
from i2o.transport.unix_listener import UnixListener
from i2o.transport.vfio_user.connection import Connection, close_all
from i2o.transport.vfio_user.device import Device
from i2o.transport.vfio_user.errors import ConnectionBroken
from i2o.transport.vfio_user.session import Session

logger = logging.getLogger(__name__)

_ROUND: Final = 64  # messages of one client before others have their turn
_LONGEST_S: Final = 3600.0
_BACKLOG: Final = 4
_SELECTABLE: Final = 1024
"""FD_SETSIZE: descriptors from here on are beyond what select can be told of."""


class Server(Closing):
    """One device on one socket.

    Args:
        path: where the socket is made; one that a dead server left is replaced.
        device: the device.

    Raises:
        TransportUnavailable: the socket cannot be made, or somebody serves there already.

    Attributes:
        device: the device.
        path: the socket.
        session: what the client sees of the device.
        messages: commands answered, for figures.
    """

    def __init__(self, path: str | Path, device: Device) -> None:
        self.path, self.device = Path(path), device
        self.messages = 0
        self._client: Connection | None = None
        self._listener = UnixListener(
            self.path, backend="vfio-user", purpose="cannot serve on", backlog=_BACKLOG
        )
        self.session = Session(device)

    def reads_from(self) -> list[int]:
        """Return descriptors that call for `handle` when they are readable."""
        wanted = list(self.device.filenos())
        if self._client is None:
            wanted.append(self._listener.socket.fileno())
        elif not self._client.has_replies:
            wanted.append(self._client.fileno())
        return wanted

    def writes_to(self) -> list[int]:
        """Return descriptors that call for `handle` when they take more."""
        if self._client is None or not self._client.has_replies:
            return []
        return [self._client.fileno()]

    @property
    def has_client(self) -> bool:
        """Whether a client is connected."""
        return self._client is not None

    def handle(self) -> bool:
        """Take what the client sent; return whether more may be there. Never blocks."""
        if self._client is None:
            self._accept()
        client = self._client
        if client is None:
            return False
        try:
            if client.has_replies:
                client.flush()
            for _ in range(_ROUND):
                if client.has_replies:
                    return False
                received = client.receive()
                if received is None:
                    return False
                message, descriptors = received
                try:
                    reply = self.session.answer(message, descriptors)
                finally:
                    close_all(descriptors)
                self.messages += 1
                if reply.data:  # until the client has it, it says nothing more: do not look
                    client.send(reply)
                    return True
        except ConnectionBroken as error:
            logger.info("%s: %s", self.path, error)
            self._drop()
            return False
        return True

    def close(self) -> None:
        """Disconnect the client and remove the socket."""
        self._drop()
        self._listener.close()

    def _accept(self) -> None:
        try:
            end, _ = self._listener.socket.accept()
        except OSError:  # none there, or gone again
            return
        logger.info("%s: a client connected", self.path)
        self._client = Connection(end)

    def _drop(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            client.close()
            self.session.client_gone()


def serve(
    servers: Sequence[Server],
    should_stop: Callable[[], bool],
    wake: int | None = None,
    *,
    clock: Clock = SYSTEM_CLOCK,
) -> None:
    """Serve until told to stop.

    Args:
        servers: the devices.
        should_stop: asked between messages.
        wake: a descriptor that becomes readable when the answer has changed.
        clock: what devices are told the time from.
    """
    while not should_stop():
        deadlines = [server.device.run(clock.monotonic_ns()) for server in servers]
        due = min((value for value in deadlines if value is not None), default=None)
        patience = _LONGEST_S
        if due is not None:
            patience = min(patience, max(0.0, (due - clock.monotonic_ns()) / 1e9))
        reading = [] if wake is None else [wake]
        writing = []
        for server in servers:
            reading += server.reads_from()
            writing += server.writes_to()
        _wait(reading, writing, patience)
        for server in servers:
            server.handle()


def _wait(reading: Sequence[int], writing: Sequence[int], patience: float) -> None:
    """Wait until a descriptor is ready, or for so many seconds."""
    if max((*reading, *writing), default=0) < _SELECTABLE:
        select.select(reading, writing, (), patience)  # poll and epoll round up to milliseconds
        return
    poller = select.poll()  # a client that maps much has the low numbers
    for descriptor in reading:
        poller.register(descriptor, select.POLLIN)
    for descriptor in writing:
        poller.register(descriptor, select.POLLOUT)
    poller.poll(patience * 1000)
