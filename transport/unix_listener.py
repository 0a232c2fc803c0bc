# SPDX-License-Identifier: Apache-2.0
"""A Unix socket at a path that only its owner may connect to."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import stat
from pathlib import Path
from typing import Final

from i2o.closing import Closing
from i2o.errors import TransportUnavailable

_MODE: Final = 0o600


class UnixListener(Closing):
    """Listens until it is closed, which removes the socket.

    Args:
        path: where the socket is made. What a dead process left there is replaced.
        backend: whose socket it is, for messages.
        purpose: what the path is, for messages; they go on with the path.
        backlog: clients that wait to be accepted.
        kind: SOCK_STREAM or SOCK_SEQPACKET.

    Raises:
        TransportUnavailable: the path cannot be used; says why and what to do.

    Attributes:
        socket: does not block.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        backend: str,
        purpose: str,
        backlog: int,
        kind: socket.SocketKind = socket.SOCK_STREAM,
    ) -> None:
        self._name = str(path)
        self._place = os.path.abspath(path)  # wherever the process is by the end
        self._backend, self._purpose, self._kind = backend, purpose, kind
        self.socket = self._listen(backlog)
        self._identity = _identity(self._place)

    def close(self) -> None:
        """Stop to listen; remove the socket unless somebody else has made one there since."""
        if self._identity is not None and _identity(self._place) == self._identity:
            with contextlib.suppress(OSError):
                os.unlink(self._place)
        self._identity = None
        self.socket.close()

    def _listen(self, backlog: int) -> socket.socket:
        with contextlib.ExitStack() as stack:
            listener = stack.enter_context(socket.socket(socket.AF_UNIX, self._kind))
            listener.setblocking(False)
            os.fchmod(listener.fileno(), _MODE)  # so from the first moment on
            try:
                try:
                    listener.bind(self._name)
                except OSError as error:
                    if error.errno != errno.EADDRINUSE:
                        raise
                    self._remove_stale()
                    listener.bind(self._name)
                listener.listen(backlog)
            except OSError as error:
                raise self._unusable(
                    error.strerror or str(error),
                    "name a socket in a folder you can write to, at most 107 bytes long",
                ) from None
            stack.pop_all()
        return listener

    def _remove_stale(self) -> None:
        """Remove a socket that nobody listens on.

        Raises:
            TransportUnavailable: somebody does, or it is no socket.
        """
        before = os.lstat(self._name)
        if not stat.S_ISSOCK(before.st_mode):
            raise self._unusable("it exists and is no socket", "name another path")
        with socket.socket(socket.AF_UNIX, self._kind) as probe:
            probe.setblocking(False)
            found = probe.connect_ex(self._name)
        if found != errno.ECONNREFUSED:
            reason = "somebody listens there"
            if found not in (0, errno.EAGAIN):  # its queue of clients is full: it is alive
                reason = os.strerror(found)
            raise self._unusable(reason, "stop that one, or name another path")
        if _identity(self._name) == (before.st_dev, before.st_ino):
            os.unlink(self._name)

    def _unusable(self, reason: str, remedy: str) -> TransportUnavailable:
        return TransportUnavailable(
            self._backend, f"{self._purpose} {self._name!r}: {reason}", remedy=remedy
        )


def _identity(path: str) -> tuple[int, int] | None:
    """Return what tells the file at a path from any other, or None if there is none."""
    try:
        found = os.lstat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino
