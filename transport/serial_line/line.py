# SPDX-License-Identifier: Apache-2.0
"""Lines as pyserial opens them: a device, or any address that its `serial_for_url` takes.

pyserial is imported when the first line is opened.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import socket
import termios
import threading
from collections import deque
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Final, Protocol
from urllib.parse import urlsplit

from i2o.errors import TransportUnavailable
from i2o.transport.doorbell import Doorbell
from i2o.transport.fabric.endpoint import Buffer

DEFAULT_BAUD: Final = 115200
_SCHEME: Final = "serial"
_SOCKET: Final = "socket://"
_CONNECT_S: Final = 2.0
_READ: Final = 64 << 10
_MOST_WAITING: Final = 64  # reads of a thread that nobody has taken
_MOST_UNWRITTEN: Final = 4096  # bytes that a thread was given and has not written
_LAST_WORDS_S: Final = 0.5  # how long these may take when the line is closed
_SLICE_S: Final = 0.05  # how long a thread may not notice that it is to end
_IFLAG, _CC = 0, 6  # where termios.tcgetattr has input modes and special characters


class LineGone(OSError):
    """The line is no more: unplugged, or closed at the other end."""


class Line(Protocol):
    """Bytes in both directions. Nothing here waits."""

    @property
    def wants_write_events(self) -> bool:
        """Whether `fileno` tells when there is room to write."""

    def fileno(self) -> int:
        """Return a descriptor that is readable when `read` has something."""

    def read(self) -> bytes:
        """Return what is there, b"" if nothing is; raises LineGone."""

    def write(self, data: Buffer) -> int:
        """Write as much as goes without waiting, and return how much; raises LineGone."""

    def close(self) -> None:
        """Close it; calling it again does nothing."""


class OpenLine(Protocol):
    """What opens a line."""

    def __call__(self, settings: LineSettings) -> Line:
        """Open it; raises TransportUnavailable."""


@dataclass(frozen=True, slots=True)
class LineSettings:
    """Which line, and how bytes go over it: always eight bits, no parity, one stop bit.

    Attributes:
        address: a device such as /dev/ttyUSB0, or an address of pyserial.
        baud: bits a second.
        rtscts: whether the wires RTS and CTS hold the other side back.
    """

    address: str
    baud: int = DEFAULT_BAUD
    rtscts: bool = False


def open_line(settings: LineSettings) -> Line:
    """Open a line, for nobody else to use at the same time.

    Raises:
        TransportUnavailable: pyserial is not installed, there is no such line, it belongs to
            somebody else, or is in use.
    """
    address = settings.address
    try:
        if address.startswith(_SOCKET):
            return DescriptorLine(_connected(address))
        port = _pyserial().serial_for_url(
            address,
            baudrate=settings.baud,
            rtscts=settings.rtscts,
            xonxoff=False,
            timeout=_SLICE_S,
            exclusive=True,
        )
    except (OSError, ValueError, re.error, termios.error) as error:  # pyserial's are OSErrors
        raise _unavailable(address, error) from None
    return ThreadedLine(port) if "://" in address else DescriptorLine(port)


def _pyserial() -> Any:
    try:
        return import_module("serial")
    except ImportError:
        raise TransportUnavailable(
            _SCHEME,
            "pyserial is not installed",
            remedy="pip install pyserial, or python3-serial of your distribution",
        ) from None


def _connected(address: str) -> socket.socket:
    """Connect to a terminal server (pyserial's own would sleep when it is closed)."""
    parts = urlsplit(address)
    if not parts.hostname or parts.port is None:
        raise ValueError(f"{address!r}: expected socket://HOST:PORT")
    end = socket.create_connection((parts.hostname, parts.port), _CONNECT_S)
    end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return end


def _unavailable(address: str, error: Exception) -> TransportUnavailable:
    code = error.errno if isinstance(error, OSError) else None
    if code == errno.EACCES:
        remedy = "join the group that owns it (dialout, on Debian): adduser YOU dialout"
    elif code == errno.EAGAIN or "exclusively lock" in str(error):
        return TransportUnavailable(
            _SCHEME, f"{address} is in use by another program", remedy="close that program"
        )
    elif code == errno.ENOENT:
        remedy = "plug it in; ls /dev/serial/by-id shows what is there"
    else:
        remedy = "give a device such as /dev/ttyUSB0, or an address that pyserial takes"
    return TransportUnavailable(_SCHEME, str(error), remedy=remedy)


class DescriptorLine:
    """A line with a descriptor of its own.

    Args:
        port: a device that pyserial opened, or a socket; it is closed with the line.
    """

    wants_write_events = True

    def __init__(self, port: Any) -> None:
        self._port = port
        self._descriptor: int = port.fileno()
        os.set_blocking(self._descriptor, False)
        if os.isatty(self._descriptor):
            _prepare_terminal(self._descriptor)

    def fileno(self) -> int:
        """Return the descriptor, or -1 after `close`."""
        return self._descriptor

    def read(self) -> bytes:
        """Return what is there; raises LineGone."""
        try:
            data = os.read(self._descriptor, _READ)
        except BlockingIOError:
            return b""
        except OSError as error:
            raise LineGone(error.errno, error.strerror) from None
        if not data:
            raise LineGone(errno.ENODEV, "it was closed at the other end, or unplugged")
        return data

    def write(self, data: Buffer) -> int:
        """Write what goes; raises LineGone."""
        try:
            return os.write(self._descriptor, data)
        except BlockingIOError:
            return 0
        except OSError as error:
            raise LineGone(error.errno, error.strerror) from None

    def close(self) -> None:
        """Close it."""
        if self._descriptor >= 0:
            self._descriptor = -1
            with contextlib.suppress(OSError):  # of a device that is gone
                self._port.close()


def _prepare_terminal(descriptor: int) -> None:
    """Do what pyserial leaves to others; see termios(3).

    A break shall end a frame, and not the program. And a read that finds nothing shall say so,
    for nothing at all means that the line was hung up.
    """
    with contextlib.suppress(termios.error):
        modes = termios.tcgetattr(descriptor)
        modes[_IFLAG] &= ~(termios.BRKINT | termios.IGNBRK | termios.PARMRK)
        modes[_CC][termios.VMIN] = 1
        termios.tcsetattr(descriptor, termios.TCSANOW, modes)


class ThreadedLine:
    """A line without a descriptor, such as `loop://` or `rfc2217://`: threads read and write it.

    Args:
        port: of pyserial, with a short timeout; it is closed with the line.
    """

    wants_write_events = False

    def __init__(self, port: Any) -> None:
        self._port = port
        self._bell = Doorbell()
        self._came: deque[bytes] = deque()
        self._taken = threading.Event()
        self._gate = threading.Condition()
        self._unwritten = bytearray()
        self._is_closed = False
        self._error: Exception | None = None
        self._threads = [
            threading.Thread(target=run, name=name, daemon=True)
            for run, name in ((self._listen, "i2o-serial"), (self._speak, "i2o-serial-out"))
        ]
        for thread in self._threads:
            thread.start()

    def fileno(self) -> int:
        """Return a descriptor that is readable when bytes came, or -1 after `close`."""
        return self._bell.fileno()

    def read(self) -> bytes:
        """Return what came; raises LineGone."""
        self._bell.silence()
        if not self._came and self._error is not None:
            raise LineGone(errno.ENODEV, str(self._error))
        data = b"".join(self._came.popleft() for _ in range(len(self._came)))
        self._taken.set()
        return data

    def write(self, data: Buffer) -> int:
        """Have as much written as waits at most, and return how much; raises LineGone."""
        if self._error is not None:
            raise LineGone(errno.ENODEV, str(self._error))
        if self._is_closed:
            raise LineGone(errno.EBADF, "the line is closed")
        with self._gate:
            part = memoryview(data)[: _MOST_UNWRITTEN - len(self._unwritten)]
            self._unwritten += part
            self._gate.notify()
        return len(part)

    def close(self) -> None:
        """Write what is left, for a moment; end the threads, and close the line."""
        if self._is_closed:
            return
        listener, speaker = self._threads
        with self._gate:
            self._is_closed = True
            self._gate.notify()
        speaker.join(_LAST_WORDS_S)
        listener.join()
        with contextlib.suppress(OSError):
            self._port.close()
        speaker.join(_LAST_WORDS_S)  # closing has ended what it was waiting for
        self._bell.close()

    def _lose(self, error: Exception) -> None:
        self._error = error
        self._bell.ring()

    def _speak(self) -> None:
        while True:
            with self._gate:
                self._gate.wait_for(lambda: self._unwritten or self._is_closed)
                data = bytes(self._unwritten)
            if not data:
                return
            try:
                self._port.write(data)
            except Exception as error:  # as of reading
                self._lose(error)
                return
            with self._gate:
                del self._unwritten[: len(data)]
            self._bell.ring()  # there is room

    def _listen(self) -> None:
        while not self._is_closed:
            if len(self._came) >= _MOST_WAITING:  # the line's own flow control is next
                self._taken.wait(_SLICE_S)
                self._taken.clear()
                continue
            try:
                data = self._port.read(max(1, min(_READ, self._port.in_waiting)))
            except Exception as error:  # what a port of any kind may raise is told to the reader
                self._lose(error)
                return
            if data:
                self._came.append(data)
                self._bell.ring()
