# SPDX-License-Identifier: Apache-2.0
"""The host half of an IOP in another process of this machine: the backend `shm:`.

The other process runs by itself. When it dies, whatever touches the queues raises `IopDead`, after
everything that it had said before.
"""

from __future__ import annotations

import contextlib
import logging
import select
import socket
import threading
from typing import Final

from i2o.clock import Clock
from i2o.closing import Closing
from i2o.errors import IopDead, RemoteFrameError, TransportUnavailable, UriError
from i2o.transport.doorbell import Doorbell, descriptor_of
from i2o.transport.port import Port
from i2o.transport.shm.greeting import Refusal, Refused, Welcome
from i2o.transport.shm.host_half import HostHalf
from i2o.transport.shm.link import own_modes, take
from i2o.transport.shm.records import PACKET
from i2o.transport.shm.rendezvous import Meeting, connect, greet
from i2o.transport.uri import Uri

logger = logging.getLogger(__name__)

CONNECT_S: Final = 10.0
"""How long a server may take to answer."""
RESET_S: Final = 5.0
"""How long an IOP may take to reset by the transport's means."""
MAX_SPIN_US: Final = 1_000_000


class ShmPort(Closing):
    """A `Port` to an IOP in another process. Use `from_uri`, or `over`.

    Args:
        name: the URI.
        half: the host's end, which the port closes.
        frame_size: bytes of an inbound frame.

    Attributes:
        memory: the host's buffers; the caller's own memory cannot be mapped.
        inbound_size: bytes of an inbound frame.
        name: the URI.
        half: the host's end.
    """

    def __init__(self, name: str, half: HostHalf, frame_size: int) -> None:
        self.name, self.inbound_size = name, frame_size
        self.memory = half.memory
        self.half = half
        self._is_closed = False
        self._is_masked = False
        self._first = threading.Lock()  # two threads may be the first to ask for the descriptor
        self._bell: Doorbell | None = None
        self._watch: select.epoll | None = None
        # what needs no help from here is the half's own
        self.alloc, self.write, self.read_inbound = half.alloc, half.write, half.read_inbound
        self.post, self.reap, self.release = half.post, half.reap, half.release
        self.outbound = half.outbound

    @classmethod
    def from_uri(cls, uri: Uri, clock: Clock) -> Port:
        """Open the IOP that is served under a name.

        Raises:
            UriError: an option is unknown or wrong.
            TransportUnavailable: nothing is served there, or somebody else has it.
        """
        uri.require_known(("spin",))
        spin_us = spin_of(uri)
        if not uri.address:
            raise UriError(f"{uri.text!r}: which one? Write shm:NAME; i2o list shows what is there")
        with connect(uri.address, Meeting.IOP, CONNECT_S) as end:
            answer = greet(end, own_modes())
            if isinstance(answer, Refused):
                raise TransportUnavailable("shm", _why(answer), remedy=answer.remedy)
            half = half_over(end, answer, uri.text, spin_us / 1e6)
        return cls(uri.text, half, answer.shape.frame_size)

    # --- waiting -------------------------------------------------------------------------------

    def wait(self, timeout_s: float) -> bool:
        """Wait until the IOP has told something."""
        if self.half.reply_pending:
            return True
        has_news = self.half.wait(timeout_s)
        if self._watch is not None:
            self._ring()
        return has_news

    def fileno(self) -> int:
        """Return a descriptor that is readable while replies may be waiting; -1 after `close`."""
        if self._watch is None:
            with self._first:
                if self._watch is None and not self._is_closed:
                    self._watch = self._make_watch()
                    self.half.tell_after(self._ring)
            self._ring()
        return descriptor_of(self._watch)

    def _make_watch(self) -> select.epoll:
        self._bell = Doorbell()
        watch = select.epoll()
        watch.register(self._bell.fileno(), select.EPOLLIN)
        if not self._is_masked:
            for descriptor in self.half.filenos():
                watch.register(descriptor, select.EPOLLIN)
        return watch

    def next_deadline_ns(self) -> int | None:
        """Return None: the IOP runs by itself."""
        return None

    def mask_interrupt(self, masked: bool) -> None:
        """Keep the IOP from making the descriptor readable, or end that."""
        watch = self._watch
        if watch is not None and masked != self._is_masked:
            with contextlib.suppress(OSError, ValueError):  # closed by another thread just now
                for descriptor in self.half.filenos():
                    if masked:
                        watch.unregister(descriptor)
                    else:
                        watch.register(descriptor, select.EPOLLIN)
        self._is_masked = masked
        if watch is not None:
            self._ring()

    def _ring(self) -> None:
        """Make the descriptor tell of replies that are here already, and of what comes next."""
        bell = self._bell
        if bell is None:
            return
        if self._is_masked:
            bell.silence()
            return
        half = self.half
        if not (half.reply_pending or half.is_gone):
            half.silence()
            if half.arm():
                bell.silence()
                half.settle()
                if not (half.reply_pending or half.is_gone):  # as other threads took in meanwhile
                    return
        bell.ring()

    # --- life cycle ----------------------------------------------------------------------------

    def reset(self) -> None:
        """Cycle the IOP's power; afterwards it writes no host memory.

        An IOP that does not do that in time is let go of, with the memory that it may write.
        """
        if not self.power_cycle(RESET_S):
            self.half.let_go()

    def power_cycle(self, timeout_s: float) -> bool:
        """Have the IOP's power cycled; return whether it was, in time."""
        try:
            self.half.power_cycle(timeout_s)
        except IopDead:
            return False
        return True

    def close(self) -> None:
        """Release everything; a second call does nothing."""
        with self._first:
            was_closed, self._is_closed = self._is_closed, True
        if was_closed:
            return
        with contextlib.ExitStack() as rest:
            rest.callback(self.half.close)
            if self._watch is not None and self._bell is not None:
                rest.callback(self._bell.close)
                rest.callback(self._watch.close)


def spin_of(uri: Uri) -> int:
    """Return the option `spin=MICROSECONDS` of a URI; raises UriError."""
    return uri.integer("spin", 0, 0, MAX_SPIN_US)


def half_over(end: socket.socket, welcome: Welcome, name: str, spin_s: float = 0.0) -> HostHalf:
    """Return the host's end of a connection.

    Args:
        end: the socket; only a duplicate of it is kept.
        welcome: what the server said. Its descriptors are closed or owned afterwards.
        name: what is opened, for messages.
        spin_s: see `HostHalf`.

    Raises:
        TransportUnavailable: the server does not do what it should.
    """
    own = end.dup()
    try:
        link = take(own, welcome, PACKET)
    except RemoteFrameError as error:
        own.close()
        raise TransportUnavailable(
            "shm", f"{name}: {error}", remedy="use one version of i2o on both sides"
        ) from None
    except BaseException:
        own.close()
        raise
    half = HostHalf(
        link.channel,
        link.segment,
        on_misuse=lambda sentence: logger.warning("%s", sentence),
        spin_s=spin_s,
    )
    try:
        while half.generation == 0:  # the device tells of its frames when somebody connects
            if not half.wait(CONNECT_S):
                raise IopDead(f"it tells of no frames within {CONNECT_S:g} s")
    except IopDead as error:
        half.close()
        raise TransportUnavailable("shm", f"{name}: {error.strerror}", remedy="try again") from None
    except BaseException:
        half.close()
        raise
    return half


def _why(refused: Refused) -> str:
    if refused.code is Refusal.BUSY:
        return f"it is in use by PID {refused.pid}"
    return refused.reason or "the server refuses"
