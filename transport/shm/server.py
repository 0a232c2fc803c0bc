# SPDX-License-Identifier: Apache-2.0
"""Serves an IOP to processes of this machine, one after another: a `Served` of the common loop.

Each host gets memory of its own, which is gone with it. A host that ends, however it ends, is
noticed by its socket: the IOP is reset, and the next one may come.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import socket
from typing import Final, Protocol

from i2o.clock import SYSTEM_CLOCK, Clock
from i2o.closing import Closing
from i2o.errors import I2OError, RemoteFrameError
from i2o.transport.shm.channel import Channel, PeerGone
from i2o.transport.shm.greeting import (
    Hello,
    Mode,
    Refusal,
    Refused,
    Welcome,
    close_all,
    hear,
    may_share,
    peer_of,
    say,
)
from i2o.transport.shm.link import offer
from i2o.transport.shm.records import PACKET
from i2o.transport.shm.unit import ShmUnit
from i2o.transport.unix_listener import UnixListener

logger = logging.getLogger(__name__)

MAX_WAITING: Final = 8
"""Connections that have not said what they want; one more ends the oldest."""
_TURN_NS: Final = 5_000_000  # how long one host is served while others may wait


class ShmDevice(Protocol):
    """What is served."""

    unit: ShmUnit
    """Its queue pair."""

    description: str
    """What it is, for people who look for it."""

    def run(self, now_ns: int) -> int | None:
        """Take in what the host tells, and serve what is posted; flush nothing.

        Returns:
            When to be called again although nothing is told, or None.

        Raises:
            PeerGone: the host is gone; see `ShmUnit.drain`.
        """

    def power_cycle(self) -> None:
        """Lose everything that a host has set up; write no host memory any more."""

    def filenos(self) -> tuple[int, ...]:
        """Return descriptors that call for `run` when they are readable."""


class ShmHost(Closing):
    """The host that is connected to a device at the moment, if there is one: a `Served`, too.

    Args:
        device: the device; it stays the caller's to close, afterwards.
        spin_s: how long to look for the next request before sleeping, while nobody else waits.
        clock: what time is measured by.

    Attributes:
        device: the device.
        pid: of the host that is connected, or was last.
    """

    def __init__(
        self, device: ShmDevice, *, spin_s: float = 0.0, clock: Clock = SYSTEM_CLOCK
    ) -> None:
        self.device, self._spin_ns, self._clock = device, round(spin_s * 1e9), clock
        self._channel: Channel | None = None
        self._must_look = False
        self.pid = 0

    @property
    def is_connected(self) -> bool:
        """Whether there is one."""
        return self._channel is not None

    def welcome(self, end: socket.socket, hello: Hello) -> None:
        """Connect a host; the socket is ours from now on.

        Raises:
            OSError, LocalFrameError: it cannot be done; the socket stays the caller's.
        """
        unit = self.device.unit
        link = offer(end, hello, unit.shape, self.device.description, PACKET)
        self.pid = peer_of(end).pid
        self._channel = link.channel
        logger.info("process %d connected", self.pid)
        unit.connect(link.channel, link.segment)

    def reads_from(self) -> list[int]:
        """Return descriptors that call for `handle` when they are readable."""
        channel = self._channel
        return [*self.device.filenos(), *(() if channel is None else channel.filenos())]

    def writes_to(self) -> list[int]:
        """Return descriptors that call for `handle` when they take more."""
        channel = self._channel
        if channel is None or not self.device.unit.has_outbox:
            return []
        return [*channel.room_filenos()]

    def handle(self) -> None:
        """Take note that a descriptor may be ready."""
        self._must_look = True

    def run(self, now_ns: int) -> int | None:
        """Serve the host; disconnect it if it is gone. Returns when to run again, or None."""
        channel = self._channel
        if channel is None:
            return self.device.run(now_ns)
        try:
            if self._must_look:
                self._must_look = False
                channel.silence()
                channel.check()
            return self._serve(channel, now_ns)
        except PeerGone as error:
            logger.info("process %d: %s", self.pid, error)
            self.close()
            return now_ns

    def drop_if_gone(self) -> None:
        """Lose a host that has closed its end, whatever it had posted: nobody waits for it."""
        if self._channel is not None and self._channel.is_over():
            self.close()

    def close(self) -> None:
        """Send the host away and lose what it has set up; a second call does nothing."""
        if self._channel is None:
            return
        self.device.power_cycle()
        self._channel = None
        self.device.unit.disconnect()

    def _serve(self, channel: Channel, now_ns: int) -> int | None:
        """Serve until there is nothing to do, or others should have their turn."""
        run, flush = self.device.run, self.device.unit.flush
        clock_ns, spin_ns, spin = self._clock.monotonic_ns, self._spin_ns, self.device.unit.spin
        end_ns = now_ns + _TURN_NS
        answer_until_ns = end_ns if self._clock is SYSTEM_CLOCK else None
        while True:
            due = run(now_ns)
            is_told = flush()
            if not (spin_ns and is_told):
                break
            if due is not None and due <= now_ns:
                return due
            if not spin(spin_ns if due is None else min(spin_ns, due - now_ns), answer_until_ns):
                break  # what is there already is seen at once
            now_ns = clock_ns()
            if now_ns >= end_ns:
                return now_ns
        return due if channel.arm() else now_ns


class ShmServer(Closing):
    """One device under one name.

    Args:
        listener: the socket of the name, SEQPACKET; the server closes it.
        device: the device; it stays the caller's to close, after the server.
        uri: what others open it by.
        spin_s: how long to look for the next request before sleeping, while nobody else waits.
        clock: what time is measured by.

    Attributes:
        device: the device.
        host: who is connected.
        uri: as given.
    """

    def __init__(
        self,
        listener: UnixListener,
        device: ShmDevice,
        *,
        uri: str = "",
        spin_s: float = 0.0,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self._listener, self.device, self.uri = listener, device, uri
        self.host = ShmHost(device, spin_s=spin_s, clock=clock)
        self._waiting: list[socket.socket] = []

    def reads_from(self) -> list[int]:
        """Return descriptors that call for `handle` when they are readable."""
        return [
            self._listener.socket.fileno(),
            *(end.fileno() for end in self._waiting),
            *self.host.reads_from(),
        ]

    def writes_to(self) -> list[int]:
        """Return descriptors that call for `handle` when they take more."""
        return self.host.writes_to()

    def handle(self) -> None:
        """Take in who comes, what they say, and who is gone."""
        self.host.handle()
        self._accept()
        for end in tuple(self._waiting):
            self._hear(end)

    def run(self, now_ns: int) -> int | None:
        """Serve the host that is connected."""
        return self.host.run(now_ns)

    def close(self) -> None:
        """Send everybody away and remove the socket; a second call does nothing."""
        self.host.close()
        for end in self._waiting:
            end.close()
        self._waiting.clear()
        self._listener.close()

    def _accept(self) -> None:
        for _ in range(MAX_WAITING):
            try:
                end, _ = self._listener.socket.accept()
            except OSError as error:
                if error.errno in (errno.EMFILE, errno.ENFILE) and self._waiting:
                    self._waiting.pop(0).close()
                    continue
                return
            end.setblocking(False)
            if not may_share(peer_of(end)):
                end.close()
                continue
            if len(self._waiting) >= MAX_WAITING:
                self._waiting.pop(0).close()
            self._waiting.append(end)

    def _hear(self, end: socket.socket) -> None:
        """Take in what somebody wants; whoever is not welcome is told why."""
        try:
            hello = hear(end)
        except BlockingIOError:
            return
        except (OSError, RemoteFrameError) as error:
            self._refuse(end, Refused(Refusal.UNABLE, 0, str(error)))
            return
        self.host.drop_if_gone()
        if not isinstance(hello, Hello):
            close_all(hello.descriptors if isinstance(hello, Welcome) else ())
            self._refuse(end, Refused(Refusal.UNABLE, 0, "whoever connects says hello"))
        elif self.host.is_connected:
            self._refuse(
                end,
                Refused(
                    Refusal.BUSY,
                    self.host.pid,
                    self.device.description,
                    "one host at a time: end that program first",
                ),
            )
        elif hello.modes == Mode(0):
            self._refuse(end, Refused(Refusal.IDLE, 0, self.device.description))
        else:
            self._welcome(end, hello)

    def _welcome(self, end: socket.socket, hello: Hello) -> None:
        try:
            self.host.welcome(end, hello)
        except (OSError, I2OError) as error:
            self._refuse(end, Refused(Refusal.UNABLE, 0, str(error)))
        else:
            self._waiting.remove(end)

    def _refuse(self, end: socket.socket, refused: Refused) -> None:
        self._waiting.remove(end)
        with end, contextlib.suppress(OSError):
            say(end, refused)
