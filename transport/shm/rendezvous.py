# SPDX-License-Identifier: Apache-2.0
"""Where processes that share memory find one another: sockets in a folder of the user's own.

A name is a socket `NAME.KIND` in `$XDG_RUNTIME_DIR/i2o`, or in `/tmp/i2o-UID` where there is no
such folder; an address with a slash in it is the path of a socket. The folder and the sockets are
the user's alone, and each side asks the kernel who the other is.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import socket
import stat
from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from typing import Final

from i2o.errors import RemoteFrameError, TransportUnavailable, UriError
from i2o.transport.shm.greeting import Hello, Mode, Refused, Welcome, hear, may_share, peer_of, say
from i2o.transport.unix_listener import UnixListener, remove_if_dead

BACKLOG: Final = 16
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_GIVEN: Final = re.compile(r"([0-9]+)-[0-9a-f]{8}")
_FOLDER_MODE: Final = 0o700


class Meeting(Enum):
    """What stands behind a name: the end of the socket's."""

    IOP = "iop"
    PEER = "peer"


def folder() -> Path:
    """Return the folder of the sockets, which may not exist."""
    runtime = os.environ.get("XDG_RUNTIME_DIR", "")
    if runtime.startswith("/"):
        return Path(runtime) / "i2o"
    return Path("/tmp") / f"i2o-{os.geteuid()}"


def path_of(address: str, meeting: Meeting) -> Path:
    """Return the socket behind an address.

    Raises:
        UriError: it is neither a name nor a path.
    """
    if "/" in address:
        return Path(address)
    if not _NAME.fullmatch(address):
        raise UriError(
            f"shm:{address}: expected a name of up to 64 letters, digits, '.', '_' and '-', or the "
            "path of a socket, with a slash in it"
        )
    return folder() / f"{address}.{meeting.value}"


def free_name() -> str:
    """Return a name that no other end has, and that tells whose it is."""
    return f"{os.getpid()}-{secrets.token_hex(4)}"


def listen(address: str, meeting: Meeting) -> UnixListener:
    """Make the socket of an address, replacing one that a dead process left.

    The next one to be a peer also removes what killed processes left under names that nobody chose,
    and that nobody will ever use again.

    Raises:
        UriError: see `path_of`.
        TransportUnavailable: the socket or its folder cannot be used, or somebody listens there.
    """
    path = path_of(address, meeting)
    if "/" not in address:
        _make_folder(path.parent)
        if meeting is Meeting.PEER:
            _sweep()
    return UnixListener(
        path,
        backend="shm",
        purpose="cannot serve on",
        backlog=BACKLOG,
        kind=socket.SOCK_SEQPACKET,
    )


def connect(address: str, meeting: Meeting, timeout_s: float) -> socket.socket:
    """Connect to an address, and make sure that it is a process of this user's, or root's.

    Args:
        address: a name, or a path.
        meeting: what is expected there.
        timeout_s: of the socket that is returned.

    Raises:
        UriError: see `path_of`.
        TransportUnavailable: nobody is there, or somebody who must not be.
    """
    path = path_of(address, meeting)
    with contextlib.ExitStack() as on_failure:
        end = on_failure.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET))
        end.settimeout(timeout_s)
        try:
            end.connect(str(path))
        except OSError as error:
            raise TransportUnavailable(
                "shm",
                f"nothing is served as {address!r}: {path}: {error.strerror or error}",
                remedy=f"start it: i2o emulate --serve shm:{address}",
            ) from None
        peer = peer_of(end)
        if not may_share(peer):
            raise TransportUnavailable(
                "shm",
                f"{path} belongs to process {peer.pid} of user {peer.uid}",
                remedy="memory is shared with processes of the same user only",
            )
        on_failure.pop_all()
    return end


def ask(end: socket.socket, modes: Mode, name: str = "") -> Welcome | Refused:
    """Say HELLO and return the answer.

    Args:
        end: a socket with a timeout.
        modes: how packets can be carried; none only asks.
        name: what we are called.

    Raises:
        OSError: nobody is there, or nobody answers in time (TimeoutError).
        RemoteFrameError: the answer makes no sense.
    """
    say(end, Hello(modes, name))
    answer = hear(end)
    if isinstance(answer, Hello):
        raise RemoteFrameError("it says hello itself")
    return answer


def greet(end: socket.socket, modes: Mode, name: str = "") -> Welcome | Refused:
    """Do what `ask` does, with errors for whoever opens something; raises TransportUnavailable."""
    try:
        return ask(end, modes, name)
    except TimeoutError:
        raise TransportUnavailable(
            "shm",
            f"process {peer_of(end).pid} does not answer",
            remedy="it may be stopped, or busy: look at it, or end it",
        ) from None
    except (OSError, RemoteFrameError) as error:
        raise TransportUnavailable(
            "shm",
            f"process {peer_of(end).pid} gives no welcome: {error}",
            remedy="it may be another program, or another version of this one",
        ) from None


def names(meeting: Meeting) -> Iterator[str]:
    """Yield the names in the folder, sorted, whether somebody listens there or not."""
    try:
        found = sorted(os.listdir(folder()))
    except OSError:
        return
    for name in found:
        stem, _, end = name.rpartition(".")
        if end == meeting.value and _NAME.fullmatch(stem):
            yield stem


def _sweep() -> None:
    """Remove the sockets of dead processes that have names which `free_name` gave.

    A socket of a process that is seen alive is not even asked. One of a process that is not may be
    of a container that shares the folder: it is removed if nobody listens on it.
    """
    for name in names(Meeting.PEER):
        given = _GIVEN.fullmatch(name)
        if given is not None and not os.path.exists(f"/proc/{given[1]}"):
            with contextlib.suppress(OSError):  # the next one tries again
                remove_if_dead(str(path_of(name, Meeting.PEER)), socket.SOCK_SEQPACKET)


def _make_folder(path: Path) -> None:
    """Make the folder; raise TransportUnavailable if it is not this user's alone."""
    try:
        path.mkdir(mode=_FOLDER_MODE, parents=True, exist_ok=True)
        found = os.lstat(path)
    except OSError as error:
        raise TransportUnavailable(
            "shm",
            f"the folder {path} cannot be made: {error.strerror or error}",
            remedy="set XDG_RUNTIME_DIR to a folder of yours, or name a path: shm:/PATH/SOCKET",
        ) from None
    is_own = found.st_uid == os.geteuid() and not found.st_mode & 0o022
    if not (stat.S_ISDIR(found.st_mode) and is_own):
        raise TransportUnavailable(
            "shm",
            f"{path} is not a folder of this user's alone",
            remedy="remove it, or set XDG_RUNTIME_DIR to a folder of yours",
        )
