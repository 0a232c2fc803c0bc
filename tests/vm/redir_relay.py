# SPDX-License-Identifier: Apache-2.0
"""Connects a guest with usb-redir devices of its own QEMU, so that it can be the device's end."""

from __future__ import annotations

import contextlib
import selectors
import socket
import threading
from pathlib import Path

from i2o.closing import Closing

_CHUNK = 64 << 10


class RedirRelay(Closing):
    """Takes connections of a guest; the first byte of each says for which of QEMU's devices.

    Args:
        folder: for the sockets that QEMU listens at.
        count: how many devices there are.

    Attributes:
        address: host and port, as this machine has them.
    """

    def __init__(self, folder: Path, count: int) -> None:
        self._paths = [folder / f"redir-{number}.sock" for number in range(count)]
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address: tuple[str, int] = self._listener.getsockname()[:2]
        self._looks = selectors.DefaultSelector()
        self._ear, self._mouth = socket.socketpair()
        for end in (self._listener, self._ear):
            self._looks.register(end, selectors.EVENT_READ, None)
        self._thread = threading.Thread(target=self._run, name="redir-relay")
        self._thread.start()

    def arguments(self) -> list[str]:
        """Return the arguments with which QEMU has the devices."""
        words = ["-device", "qemu-xhci,p2=15,p3=15"]
        for number, path in enumerate(self._paths):
            words += ["-chardev", f"socket,id=redir{number},path={path},server=on,wait=off"]
            words += ["-device", f"usb-redir,chardev=redir{number}"]
        return words

    def close(self) -> None:
        """End every connection."""
        self._mouth.close()
        self._thread.join()
        for key in tuple(self._looks.get_map().values()):
            key.fileobj.close()
        self._looks.close()

    def _run(self) -> None:
        while True:
            for key, _ in self._looks.select():
                if key.fileobj is self._ear:
                    return
                if key.fileobj is self._listener:
                    self._connect(self._listener.accept()[0])
                elif key.fileobj.fileno() >= 0:  # or it was closed in this round
                    self._carry(key.fileobj, key.data)

    def _connect(self, caller: socket.socket) -> None:
        caller.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        number = caller.recv(1)
        if not number:
            caller.close()
            return
        other = socket.socket(socket.AF_UNIX)
        other.connect(str(self._paths[number[0]]))
        self._looks.register(caller, selectors.EVENT_READ, other)
        self._looks.register(other, selectors.EVENT_READ, caller)

    def _carry(self, source: socket.socket, target: socket.socket) -> None:
        data = b""
        with contextlib.suppress(OSError):
            data = source.recv(_CHUNK)
            target.sendall(data)
        if not data:
            for end in (source, target):
                self._looks.unregister(end)
                end.close()
