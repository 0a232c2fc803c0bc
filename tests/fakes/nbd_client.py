# SPDX-License-Identifier: Apache-2.0
"""An NBD client that asks for any bytes, which nbdcopy does not; for servers of the old style."""

from __future__ import annotations

import socket
import struct
from pathlib import Path

_GREETING_SIZE = 152
_REQUEST = struct.Struct(">IHHQQI")
_REPLY = struct.Struct(">IIQ")
_REQUEST_MAGIC, _REPLY_MAGIC = 0x25609513, 0x67446698
_READ, _WRITE, _END = range(3)


class NbdClient:
    """A connection.

    Args:
        path: the server's Unix socket.
    """

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(20)
        self._socket.connect(str(path))
        assert self._receive(_GREETING_SIZE).startswith(b"NBDMAGIC")

    def read(self, size: int, offset: int) -> bytes:
        self._ask(_READ, size, offset)
        return self._receive(size)

    def write(self, data: bytes, offset: int) -> None:
        self._ask(_WRITE, len(data), offset, data)

    def close(self) -> None:
        self._socket.sendall(_REQUEST.pack(_REQUEST_MAGIC, 0, _END, 0, 0, 0))
        self._socket.close()

    def _ask(self, what: int, size: int, offset: int, data: bytes = b"") -> None:
        self._socket.sendall(_REQUEST.pack(_REQUEST_MAGIC, 0, what, 7, offset, size) + data)
        assert _REPLY.unpack(self._receive(_REPLY.size)) == (_REPLY_MAGIC, 0, 7)

    def _receive(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            part = self._socket.recv(size - len(data))
            assert part, "the server is gone"
            data += part
        return data
