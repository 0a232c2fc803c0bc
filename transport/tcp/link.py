# SPDX-License-Identifier: Apache-2.0
"""A socket with the frames that come over it, and what its handshake has come to."""

from __future__ import annotations

import contextlib
import socket
import ssl
from collections.abc import Callable
from typing import Any, Final, Protocol

from i2o.transport.fabric.endpoint import Buffer
from i2o.transport.tcp.address import Address
from i2o.transport.tcp.errors import ProtocolViolation
from i2o.transport.tcp.frame_stream import FrameStream
from i2o.transport.tcp.handshake import Caller, Listener, Remote
from i2o.transport.tcp.options import PeerOptions
from i2o.transport.tcp.timers import Timer

_KEEP_COUNT: Final = 3
_EARLY_LIMIT: Final = 4096
_TLS_CHUNK: Final = 64 << 10


class Channel(Protocol):
    """What a link reads from and writes to: a socket that does not block, or TLS over one.

    All raise BlockingIOError when nothing can be done now, and OSError when it broke.
    """

    @property
    def is_tls(self) -> bool:
        """Whether it may keep back what was read or written."""

    @property
    def has_input(self) -> bool:
        """Whether something was read from the socket that nobody has taken yet."""

    @property
    def has_output(self) -> bool:
        """Whether something waits for the socket."""

    def recv_into(self, buffer: memoryview) -> int:
        """Read; 0 is the end."""

    def send(self, data: Buffer) -> int:
        """Write; return how much went."""

    def sendmsg(self, buffers: list[memoryview]) -> int:
        """Write several buffers; return how much went."""

    def close(self) -> None:
        """Close it."""


class PlainChannel:
    """A socket as it is."""

    __slots__ = ("recv_into", "send", "sendmsg")

    is_tls = has_input = has_output = False

    def __init__(self, end: socket.socket) -> None:
        self.recv_into: Callable[[memoryview], int] = end.recv_into
        self.send: Callable[[Buffer], int] = end.send
        self.sendmsg: Callable[[list[memoryview]], int] = end.sendmsg

    def close(self) -> None:
        """Do nothing: the link closes the socket."""


class Link:
    """One connection, from `accept` or `connect` on.

    Args:
        end: its socket, which the link owns from now on.
        deliver: takes each frame, as for `FrameStream`.
        address: of the other end.

    Attributes:
        caller: the handshake, if this end calls.
        listener: the handshake, if this end was called.
        remote: who the other end is, as far as it said.
        serial: the other end's number of this link.
        limit: bytes of the longest frame that both ends take.
        mask: what the loop waits for.
        heard: whether anything came since the keepalive looked last.
        timer: deadline of what is going on.
    """

    def __init__(
        self,
        end: socket.socket,
        deliver: Callable[[Link, int, memoryview], bool],
        address: Address,
    ) -> None:
        end.setblocking(False)
        self.socket = end
        self.channel: Channel = PlainChannel(end)
        self.number = end.fileno()
        self.address = address
        self.stream = FrameStream(lambda kind, payload: deliver(self, kind, payload))
        self.caller: Caller | None = None
        self.listener: Listener | None = None
        self.remote: Remote | None = None
        self.serial = 0
        self.limit = 0
        self.peer = -1
        self.mask = 0
        self.is_connecting = self.is_up = self.is_closed = False
        self.heard = False
        self.is_asked = False
        self.timer: Timer | None = None
        self.early = b""

    def set_options(self, options: PeerOptions) -> None:
        """Send small frames at once; let the system notice a host that is gone."""
        idle_s, timeout_s = options.keepalive_idle_s, options.keepalive_timeout_s
        tcp = socket.IPPROTO_TCP
        with contextlib.suppress(OSError):  # a socket that died meanwhile says so by itself
            self.socket.setsockopt(tcp, socket.TCP_NODELAY, 1)
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            self.socket.setsockopt(tcp, socket.TCP_KEEPIDLE, _whole_seconds(idle_s))
            self.socket.setsockopt(
                tcp, socket.TCP_KEEPINTVL, _whole_seconds(timeout_s / _KEEP_COUNT)
            )
            self.socket.setsockopt(tcp, socket.TCP_KEEPCNT, _KEEP_COUNT)
            limit_ms = round((idle_s + timeout_s) * 1000)
            self.socket.setsockopt(tcp, socket.TCP_USER_TIMEOUT, max(1, limit_ms))

    @property
    def has_other_end(self) -> bool:
        """Whether TCP has connected."""
        try:
            self.socket.getpeername()
        except OSError:
            return False
        return True

    def start_tls(self, context: ssl.SSLContext, *, is_server: bool, host: str) -> None:
        """Put TLS around everything that follows."""
        self.channel = TlsChannel(self.socket, context, is_server=is_server, host=host)

    def say(self, data: bytes) -> None:
        """Send a frame of the handshake.

        They are so short that the socket's buffer takes them, unless the other end does not read
        what it asked for.

        Raises:
            OSError: the link broke.
            ProtocolViolation: the other end does not read.
        """
        self.early += data
        self.flush_early()
        if len(self.early) > _EARLY_LIMIT:
            raise ProtocolViolation("the other end does not read")

    def flush_early(self) -> None:
        """Send what is left of the handshake's frames."""
        if not self.early:
            return
        with contextlib.suppress(BlockingIOError):
            self.early = self.early[self.channel.send(self.early) :]

    def read(self) -> int:
        """Read once, and deliver what is complete.

        Returns:
            Bytes that came; 0 is the end, -1 that nothing was there.

        Raises:
            OSError: the link broke.
            ProtocolViolation: a frame is too long.
        """
        try:
            count = self.stream.read(self.channel.recv_into)
        except BlockingIOError:
            return -1
        if count:
            self.heard = True
        return count

    def read_all(self) -> int:
        """Read once, and what TLS has read ahead, too; returns and raises as `read`."""
        count = self.read()
        while count > 0 and not self.is_closed and self.channel.has_input:
            count = self.read()
        return count

    def mark_closed(self) -> None:
        """Deliver nothing any more; the socket is still open."""
        self.is_closed, self.is_up = True, False
        if self.timer is not None:
            self.timer.cancel()

    def begin_to_close(self) -> bool:
        """Send the end; return False if the link is broken anyway."""
        try:
            self.channel.close()
            self.socket.shutdown(socket.SHUT_WR)
        except OSError:
            return False
        return True

    def drain(self) -> bool:
        """Throw away what came; return whether that was the end."""
        try:
            while self.socket.recv(_TLS_CHUNK):
                pass
        except BlockingIOError:
            return False
        except OSError:
            return True
        return True

    def close(self) -> None:
        """Close the socket; what was not read is gone."""
        self.mark_closed()
        with contextlib.suppress(OSError):
            self.channel.close()
        self.socket.close()


class TlsChannel:
    """TLS of the standard library over a socket that does not block.

    Args:
        end: the socket.
        context: with certificates, and what is asked of the other end's.
        is_server: whether this end was called.
        host: whose certificate is expected.
    """

    is_tls = True

    def __init__(
        self, end: socket.socket, context: ssl.SSLContext, *, is_server: bool, host: str
    ) -> None:
        self._socket = end
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        name = None if is_server or not context.check_hostname else host
        self._tls: Any = context.wrap_bio(
            self._in, self._out, server_side=is_server, server_hostname=name
        )
        self._unsent = b""
        self._is_open = False

    @property
    def has_input(self) -> bool:
        """Whether something was read from the socket that nobody has taken yet."""
        return self._in.pending > 0 or self._tls.pending() > 0

    @property
    def has_output(self) -> bool:
        """Whether something waits for the socket."""
        return bool(self._unsent) or self._out.pending > 0

    def recv_into(self, buffer: memoryview) -> int:
        """Read; 0 is the end."""
        while True:
            try:
                self._shake_hands()
                count: int = self._tls.read(len(buffer), buffer)
                return count
            except ssl.SSLWantReadError:
                self._flush()
                data = self._socket.recv(_TLS_CHUNK)
                if not data:
                    return 0
                self._in.write(data)
            except ssl.SSLZeroReturnError:
                return 0

    def send(self, data: Buffer) -> int:
        """Write; return how much went."""
        self._flush()
        if self.has_output:
            raise BlockingIOError
        try:
            self._shake_hands()
            count: int = self._tls.write(memoryview(data)[:_TLS_CHUNK])
        except ssl.SSLWantReadError:
            self._flush()
            raise BlockingIOError from None
        self._flush()
        return count

    def sendmsg(self, buffers: list[memoryview]) -> int:
        """Write several buffers; return how much went."""
        total = 0
        for buffer in buffers:
            while len(buffer):
                try:
                    count = self.send(buffer)
                except BlockingIOError:
                    if total:
                        return total
                    raise
                total += count
                buffer = buffer[count:]
        return total

    def close(self) -> None:
        """Say goodbye, as far as that goes at once."""
        with contextlib.suppress(OSError, ssl.SSLError):
            self._tls.unwrap()
        with contextlib.suppress(OSError):
            self._flush()

    def _shake_hands(self) -> None:
        if not self._is_open:
            self._tls.do_handshake()
            self._is_open = True
            self._flush()

    def _flush(self) -> None:
        self._unsent += self._out.read()
        while self._unsent:
            try:
                self._unsent = self._unsent[self._socket.send(self._unsent) :]
            except BlockingIOError:
                return


def _whole_seconds(seconds: float) -> int:
    return max(1, round(seconds))
