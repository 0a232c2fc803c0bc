# SPDX-License-Identifier: Apache-2.0
"""Serves devices to vfio-user clients on Unix sockets: a `Server` is a `Served` of the common loop.

One socket is one device with one client at a time; the next one connects when the last has gone.
A device runs between messages and never inside one: what it does in answer to a register access
happens after the access has returned to the client.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Final

from i2o.closing import Closing
from i2o.transport.unix_listener import UnixListener
from i2o.transport.vfio_user.connection import Connection, close_all
from i2o.transport.vfio_user.device import Device
from i2o.transport.vfio_user.errors import ConnectionBroken
from i2o.transport.vfio_user.session import Session

logger = logging.getLogger(__name__)

_ROUND: Final = 64  # messages of one client before others have their turn
_BACKLOG: Final = 4


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

    def run(self, now_ns: int) -> int | None:
        """Let the device work; return when it wants to again, or None."""
        return self.device.run(now_ns)

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
