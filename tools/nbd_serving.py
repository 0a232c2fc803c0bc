# SPDX-License-Identifier: Apache-2.0
"""The loop of `i2o nbd`: requests come from nbdkit over sockets, and go to a disk as messages."""

from __future__ import annotations

import errno
import os
import selectors
import socket
from collections.abc import Callable, Mapping
from typing import Final, Protocol

from i2o.block_queue import BlockQueue
from i2o.errors import I2OError, InvalidArgument, RequestFailed
from i2o.frames.block_storage import BsaDetailedStatus
from i2o.message_layer import MessageLayer
from i2o.tools.failures import explain
from i2o.tools.nbdkit_plugin import FLUSH, READ, READY, REPLY, REQUEST, WRITE

_PATIENCE_S: Final = 30.0
"""How long the rest of a request that has begun, or of a reply, may take."""
_ERRNOS: Final[Mapping[int, int]] = {
    BsaDetailedStatus.WRITE_PROTECTED.value: errno.EPERM,
    BsaDetailedStatus.ACCESS_VIOLATION.value: errno.EPERM,
}


class NbdServer(Protocol):
    """The program that clients talk to; see `i2o.tools.nbdkit.Nbdkit`."""

    channels: list[socket.socket]
    pidfd: int

    def stop(self) -> None:
        """Tell it to end."""


class NbdService:
    """Serves what nbdkit asks for.

    Args:
        layer: dispatches the replies.
        disk: takes the transfers.
        largest: bytes of the largest request.
        writable: whether to write.
        on_ready: called when clients can connect.
    """

    def __init__(
        self,
        layer: MessageLayer,
        disk: BlockQueue,
        *,
        largest: int,
        writable: bool,
        on_ready: Callable[[], object],
    ) -> None:
        self._layer, self._disk = layer, disk
        self._largest, self._writable = largest, writable
        self._on_ready = on_ready

    def run(self, server: NbdServer, wake: int) -> None:
        """Serve until the server has ended, or does not end although it was told to twice.

        Args:
            server: where requests come from.
            wake: an eventfd that counts how often the server was to be told to end.
        """
        with selectors.DefaultSelector() as selector:
            selector.register(server.pidfd, selectors.EVENT_READ)
            selector.register(wake, selectors.EVENT_READ)
            for channel in server.channels:
                channel.settimeout(_PATIENCE_S)
                selector.register(channel, selectors.EVENT_READ, channel)
            watched: dict[int, int] = {}
            told = 0
            has_ended = False
            while not has_ended and told < 2:
                self._drive()
                watched = self._watch(selector, watched)
                for key, _ in selector.select(self._patience_s()):
                    if isinstance(key.data, socket.socket):
                        if not self._serve(key.data):
                            selector.unregister(key.data)
                    elif key.fd == server.pidfd:
                        has_ended = True
                    elif key.fd == wake:
                        told += os.eventfd_read(wake)
                        server.stop()

    def _drive(self) -> None:
        """Dispatch what has come and send what waits, until neither leads to the other."""
        self._disk.expire()
        self._disk.pump()
        while self._layer.poll():
            self._disk.pump()

    def _watch(
        self, selector: selectors.BaseSelector, watched: Mapping[int, int]
    ) -> dict[int, int]:
        """Watch the descriptors that the IOPs have now."""
        now = self._layer.filenos()
        if now != watched:
            for descriptor in watched.values():
                selector.unregister(descriptor)
            for descriptor in now.values():
                selector.register(descriptor, selectors.EVENT_READ)
        return now

    def _patience_s(self) -> float | None:
        """Return how long to wait for descriptors, in seconds."""
        times = (self._layer.next_deadline_ns(), self._disk.deadline_ns)
        deadline = min((time for time in times if time is not None), default=None)
        if deadline is None:
            return None
        return max(0.0, (deadline - self._layer.clock.monotonic_ns()) / 1e9)

    def _serve(self, channel: socket.socket) -> bool:
        """Take one request; return whether the channel is still there."""
        try:
            head = _receive(channel, REQUEST.size)
            if head is None:
                return False
            what, size, offset = REQUEST.unpack(head)
            if size > self._largest:
                raise InvalidArgument(f"{size} bytes at once: expected {self._largest} at most")
            data = _receive(channel, size) if what == WRITE else b""
            if data is None:
                return False
        except OSError as error:
            if not isinstance(error, I2OError):
                return False  # it was killed in the middle of a request
            self._answer(channel, b"", error)
            return True

        def done(answer: memoryview, error: Exception | None) -> None:
            self._answer(channel, answer if what == READ else b"", error)

        try:
            if what == READ:
                self._disk.read(offset, size, done)
            elif what == WRITE and self._writable:
                self._disk.write(offset, memoryview(data), done)
            elif what == WRITE:
                self._answer(channel, b"", PermissionError(errno.EPERM, "the disk is read-only"))
            elif what == FLUSH:
                self._disk.flush(done)
            elif what == READY:
                self._on_ready()
        except I2OError as error:
            done(memoryview(b""), error)
        return True

    def _answer(
        self, channel: socket.socket, data: bytes | memoryview, error: Exception | None
    ) -> None:
        number = 0
        if error is not None:
            number, data = _errno(error), explain(error).encode("utf-8", "replace")
        try:
            channel.sendall(REPLY.pack(number, len(data)))
            channel.sendall(data)
        except OSError:  # it was killed while the request was on its way
            return


def _errno(error: Exception) -> int:
    """Return what a client is told."""
    if isinstance(error, RequestFailed):
        return _ERRNOS.get(error.detail, errno.EIO)
    return (error.errno if isinstance(error, OSError) else None) or errno.EIO


def _receive(channel: socket.socket, size: int) -> bytearray | None:
    """Return exactly that many bytes, or None if the other end is gone."""
    data = bytearray(size)
    view = memoryview(data)
    while view:
        count = channel.recv_into(view)
        if not count:
            return None
        view = view[count:]
    return data
