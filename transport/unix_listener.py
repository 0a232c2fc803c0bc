# SPDX-License-Identifier: Apache-2.0
"""A Unix socket at a path that only its owner may connect to."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import secrets
import socket
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from i2o.closing import Closing
from i2o.errors import TransportUnavailable

_MODE: Final = 0o600
_MAX_PATH: Final = 107
_ATTEMPTS: Final = 4  # each but the first follows a socket that somebody has left, or made


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
        """Make the socket under a name that nobody looks for, and give it its own once it listens.

        So whoever is refused at that path knows that nobody is there: it is not just being made.
        """
        with contextlib.ExitStack() as stack:
            listener = stack.enter_context(socket.socket(socket.AF_UNIX, self._kind))
            listener.setblocking(False)
            os.fchmod(listener.fileno(), _MODE)  # so from the first moment on
            try:
                if len(os.fsencode(self._name)) > _MAX_PATH:
                    raise OSError("the path is too long")
                made = _beside(self._name)
                listener.bind(made)
                stack.callback(os.unlink, made)
                listener.listen(backlog)
                for _ in range(_ATTEMPTS):
                    try:
                        os.link(made, self._name, follow_symlinks=False)
                        break
                    except FileExistsError:
                        self._remove_stale()
                else:
                    raise self._unusable("others make sockets there", "name another path")
            except OSError as error:
                raise self._unusable(
                    error.strerror or str(error),
                    "name a socket in a folder you can write to, at most 107 bytes long",
                ) from None
            stack.pop_all()
        os.unlink(made)
        return listener

    def _remove_stale(self) -> None:
        """Remove a socket that nobody listens on.

        Raises:
            TransportUnavailable: somebody does, or it is no socket.
        """
        found = remove_if_dead(self._name, self._kind)
        if found == errno.ENOTSOCK:
            raise self._unusable("it exists and is no socket", "name another path")
        if found:
            reason = "somebody listens there"
            if found not in (errno.EISCONN, errno.EAGAIN):  # its queue is full: it is alive
                reason = os.strerror(found)
            raise self._unusable(reason, "stop that one, or name another path")

    def _unusable(self, reason: str, remedy: str) -> TransportUnavailable:
        return TransportUnavailable(
            self._backend, f"{self._purpose} {self._name!r}: {reason}", remedy=remedy
        )


def remove_if_dead(path: str, kind: socket.SocketKind) -> int:
    """Remove the socket at a path if nobody listens on it, and leave every other file alone.

    Args:
        path: of a socket that a `UnixListener` made, or of anything else.
        kind: SOCK_STREAM or SOCK_SEQPACKET.

    Returns:
        0 if it is gone, whoever removed it; EISCONN if somebody listens there, ENOTSOCK if it is
        no socket, otherwise why it cannot be known whether somebody does.
    """
    with contextlib.suppress(FileNotFoundError), _alone_in(os.path.dirname(path) or "."):
        before = os.lstat(path)
        if not stat.S_ISSOCK(before.st_mode):
            return errno.ENOTSOCK
        with socket.socket(socket.AF_UNIX, kind) as probe:
            probe.setblocking(False)
            found = probe.connect_ex(path)
        if found != errno.ECONNREFUSED:
            return 0 if found == errno.ENOENT else found or errno.EISCONN
        # Whoever does not keep to the lock may have put a socket there: once it is moved aside,
        # it can be looked at.
        aside = _beside(path)
        os.rename(path, aside)
        if _identity(aside) != _told_apart(before):
            with contextlib.suppress(FileExistsError):
                os.link(aside, path, follow_symlinks=False)
        os.unlink(aside)
    return 0


@contextlib.contextmanager
def _alone_in(folder: str) -> Iterator[None]:
    """Keep others from removing dead sockets of a folder meanwhile.

    In a folder that others can open somebody could hold the lock for ever: there nobody waits.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        is_private = not os.fstat(descriptor).st_mode & 0o077
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if is_private else fcntl.LOCK_NB))
        yield
    finally:
        os.close(descriptor)


def _beside(path: str) -> str:
    """Return a short path in the same folder that nobody has."""
    return os.path.join(os.path.dirname(path), f".{secrets.token_urlsafe(3)}")


def _identity(path: str) -> tuple[int, int, int] | None:
    """Return what tells the file at a path from any other, or None if there is none."""
    try:
        return _told_apart(os.lstat(path))
    except OSError:
        return None


def _told_apart(found: os.stat_result) -> tuple[int, int, int]:
    """The number of a file that was removed may be given to the next one; the time tells."""
    return found.st_dev, found.st_ino, found.st_mtime_ns
