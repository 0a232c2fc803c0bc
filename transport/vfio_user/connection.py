# SPDX-License-Identifier: Apache-2.0
"""One client's stream socket: whole messages with their descriptors in, replies out.

The socket never blocks. Header and payload are read separately, so that descriptors, which
travel with the first byte of a message, are never taken for another message's. Replies that the
client does not read wait, and until they are gone nothing more is read.
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
from typing import Final

from i2o.transport.vfio_user.errors import ConnectionBroken
from i2o.transport.vfio_user.messages import MAX_DESCRIPTORS, MAX_MESSAGE
from i2o.transport.vfio_user.session import HEADER_SIZE, Reply

_ANCILLARY: Final = socket.CMSG_SPACE(MAX_DESCRIPTORS * 4)
_read_size = struct.Struct("<I").unpack_from
_SIZE_OFFSET: Final = 4
# enumerations are slow where every message passes
_CLOSED_ON_EXEC, _CUT = int(socket.MSG_CMSG_CLOEXEC), int(socket.MSG_CTRUNC)
_NO_SIGNAL: Final = int(socket.MSG_NOSIGNAL)


class Connection:
    """A connected client.

    Args:
        end: its socket, which the connection owns from now on.
    """

    def __init__(self, end: socket.socket) -> None:
        self._end = end
        end.setblocking(False)
        self._message = bytearray()
        self._wanted = HEADER_SIZE
        self._descriptors: list[int] = []
        self._outbox: list[Reply] = []

    def fileno(self) -> int:
        """Return the socket's descriptor."""
        return self._end.fileno()

    @property
    def has_replies(self) -> bool:
        """Whether replies wait for the client to read."""
        return bool(self._outbox)

    def receive(self) -> tuple[bytes, list[int]] | None:
        """Return the next message and its descriptors, or None if it is not complete yet.

        The descriptors are the caller's to close.

        Raises:
            ConnectionBroken: the client is gone, or a size makes no sense.
        """
        while len(self._message) < self._wanted:
            if not self._fill():
                return None
            if len(self._message) == self._wanted == HEADER_SIZE:
                (size,) = _read_size(self._message, _SIZE_OFFSET)
                if not HEADER_SIZE <= size <= MAX_MESSAGE:
                    raise ConnectionBroken(f"a message of {size} bytes")
                self._wanted = size
        message, descriptors = bytes(self._message), self._descriptors
        self._message.clear()
        self._wanted, self._descriptors = HEADER_SIZE, []
        return message, descriptors

    def _fill(self) -> bool:
        """Read what is missing; return False if nothing is there now."""
        try:
            data, ancillary, flags, _ = self._end.recvmsg(
                self._wanted - len(self._message), _ANCILLARY, _CLOSED_ON_EXEC
            )
        except BlockingIOError:
            return False
        except OSError as error:
            raise ConnectionBroken(f"the client is gone: {error}") from None
        for level, kind, payload in ancillary:  # seldom any
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                count = len(payload) // 4
                self._descriptors += struct.unpack(f"{count}i", payload[: 4 * count])
        if not data:
            raise ConnectionBroken("the client closed the connection")
        if flags & _CUT or len(self._descriptors) > MAX_DESCRIPTORS:
            raise ConnectionBroken("more descriptors than can be taken")
        self._message += data
        return True

    def send(self, reply: Reply) -> None:
        """Send a reply, or keep what the client does not take now.

        Raises:
            ConnectionBroken: the client is gone.
        """
        self._outbox.append(reply)
        self.flush()

    def flush(self) -> None:
        """Send what waits, as far as the client takes it; raises ConnectionBroken."""
        while self._outbox:
            data, descriptors = self._outbox[0]
            try:
                if descriptors:
                    rights = struct.pack(f"{len(descriptors)}i", *descriptors)
                    ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)]
                    sent = self._end.sendmsg([data], ancillary, _NO_SIGNAL)
                else:
                    sent = self._end.send(data, _NO_SIGNAL)
            except BlockingIOError:
                return
            except OSError as error:
                raise ConnectionBroken(f"the client is gone: {error}") from None
            if sent < len(data):
                self._outbox[0] = Reply(data[sent:])
            else:
                del self._outbox[0]

    def close(self) -> None:
        """Close the socket and the descriptors of an unfinished message."""
        self._end.close()
        close_all(self._descriptors)
        self._descriptors = []


def close_all(descriptors: list[int]) -> None:
    """Close descriptors."""
    for descriptor in descriptors:
        with contextlib.suppress(OSError):
            os.close(descriptor)
