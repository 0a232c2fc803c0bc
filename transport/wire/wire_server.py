# SPDX-License-Identifier: Apache-2.0
"""Serves an IOP to hosts that come over an endpoint: one at a time, and each finds it reset.

What is behind it runs between packets and never inside one. A host that breaks the protocol, or
whose link breaks, is forgotten; the IOP is reset and waits for the next one.
"""

from __future__ import annotations

import logging
import os
import secrets
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple, Protocol

from i2o.clock import SYSTEM_CLOCK, Clock
from i2o.closing import Closing
from i2o.errors import IopDead, RemoteFrameError
from i2o.transport.fabric.endpoint import Endpoint
from i2o.transport.fabric.errors import FabricError
from i2o.transport.fabric.flags import ADDR_UNSPEC
from i2o.transport.fabric.placement import Placement
from i2o.transport.wire.messages import (
    HELLO,
    MAGIC,
    MAX_NAME,
    MIN_PACKET,
    NO_SESSION,
    REFUSED,
    UNKNOWN,
    VERSION,
    WELCOME,
    WINDOW,
    Kind,
    WelcomeFlags,
)
from i2o.transport.wire.pump import Pump, pump_packets
from i2o.transport.wire.stream import (
    HEAD_SIZE,
    Packet,
    StreamWriter,
    lone_packet,
    read_head,
)
from i2o.transport.wire.wire_unit import ANSWER_S, PUSH_LIMIT, WireUnit

logger = logging.getLogger(__name__)

PROBE_S: Final = 1.0
"""How long a host that seems to be alive may take to say so when another one comes."""
_MAX_GUESTS: Final = 8
_SLICE_S: Final = 0.05
_RETRY_NS: Final = 1_000_000


class Behind(Protocol):
    """What a server serves: it works on the server's `WireUnit`."""

    def run(self, now_ns: int) -> int | None:
        """Work, and return when to be called again although nothing comes, or None.

        Raises:
            IopDead: the IOP is gone.
        """

    def power_cycle(self) -> None:
        """Lose everything, drop replies, refill frames; raises IopDead if the IOP is gone."""

    def filenos(self) -> Sequence[int]:
        """Return descriptors that call for `run` when they are readable."""


class Arena(NamedTuple):
    """Where the buffers of hosts must be: bus address and bytes."""

    base: int
    size: int


class _Guest:
    """Somebody who said HELLO."""

    __slots__ = ("credits", "dest", "is_inserted", "name", "packet_size", "token")

    def __init__(self, dest: int, name: str, hello: tuple[int, int, int], inserted: bool) -> None:
        self.dest, self.name, self.is_inserted = dest, name, inserted
        self.credits, self.packet_size, self.token = hello


class _Session:
    __slots__ = ("guest", "heard", "number", "waiting", "writer")

    def __init__(self, guest: _Guest, number: int, writer: StreamWriter) -> None:
        self.guest, self.number, self.writer = guest, number, writer
        self.waiting: list[Packet] = []
        self.heard = 0


class WireServer(Closing):
    """One IOP at one address: a `Served`.

    Args:
        endpoint: unconnected, and not enabled yet; the server closes it.
        unit: the queue pair.
        behind: what works on it; it stays the caller's to close.
        clock: tells the time.
        arena: where the buffers of hosts must be; None if they may be anywhere.
        should_stop: asked while the IOP waits for its host, which it does not do any longer then.

    Attributes:
        unit: the queue pair.
        sessions: hosts that were served, one after another.
        refused: HELLOs that were answered with no.
        uri: what to reach the server by.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        unit: WireUnit,
        behind: Behind,
        *,
        clock: Clock = SYSTEM_CLOCK,
        arena: Arena | None = None,
        should_stop: Callable[[], bool] = lambda: False,
    ) -> None:
        self.unit, self._behind, self._clock, self._arena = unit, behind, clock, arena
        self._should_stop = should_stop
        self.sessions = self.refused = 0
        self._session: _Session | None = None
        self._guests: list[_Guest] = []
        self._leaving: list[int] = []
        self._probe_ends_ns: int | None = None
        self._must_reset = self._is_closed = False
        self._reset_ns = 0  # when it is tried again
        self._pump = Pump(endpoint)
        self.uri = self._pump.name
        unit.wait_for = self._wait_for_host

    @property
    def name(self) -> str:
        """The address that hosts connect to."""
        return self._pump.name

    @property
    def host(self) -> str:
        """The name of the host that is served now, empty if there is none."""
        return self._session.guest.name if self._session is not None else ""

    # --- what a `Served` does --------------------------------------------------------------------

    def reads_from(self) -> list[int]:
        """Return descriptors that call for `handle` when they are readable."""
        return [self._pump.fileno(), *self._behind.filenos()]

    def writes_to(self) -> list[int]:
        """Return none: the endpoint's own descriptor says when it takes more."""
        return []

    def handle(self) -> bool:
        """Take what came in; return whether that was anything."""
        return self._pump.run(self)

    def run(self, now_ns: int) -> int | None:
        """Let the IOP work, and send what it has to say."""
        self._change_hosts(now_ns)
        if self._leaving and not self._pump.in_flight:
            for dest in self._leaving:
                self._pump.remove(dest)
            self._leaving.clear()
        if self.unit.take_power_cycle() and not self._reset(now_ns):
            self._send_away("the IOP is gone")
        deadlines: list[int | None] = []
        try:
            deadlines.append(self._behind.run(now_ns))
        except IopDead as error:
            self._send_away(str(error.strerror))
            self._must_reset, self._reset_ns = True, now_ns + round(PROBE_S * 1e9)
        if self._session is not None:
            self.unit.settle()
            self._flush(self._session)
        unit = self.unit
        if self._must_reset:
            deadlines.append(max(now_ns, self._reset_ns))
        elif unit.must_power_cycle or unit.is_ended:
            deadlines.append(now_ns)  # it came while the IOP waited for its host
        elif self._session is not None and self._session.waiting:
            deadlines.append(now_ns + _RETRY_NS)
        if self._guests:
            deadlines.append(self._probe_ends_ns)
        return min((time for time in deadlines if time is not None), default=None)

    def close(self) -> None:
        """Send the host away; calling it again does nothing."""
        if self._is_closed:
            return
        self._is_closed = True
        self._send_away("the server was closed")
        self._pump.close()

    def _send_away(self, reason: str) -> None:
        """Say goodbye to the host, if there is one."""
        session = self._session
        if session is not None:
            session.writer.add(bytes((Kind.BYE,)))
            session.writer.follow()
            self._wait_for(lambda: not session.waiting and not self._pump.in_flight, _SLICE_S)
            self._forget(reason)

    # --- sessions --------------------------------------------------------------------------------

    def _change_hosts(self, now_ns: int) -> None:
        """End the session if that has to be, reset the IOP, welcome or refuse who waits."""
        if self._session is not None and self.unit.is_ended:
            self._forget("it said goodbye")
        if self._must_reset and not self._reset(now_ns):
            return
        if not self._guests:
            return
        session = self._session
        if session is None:
            self._welcome(self._guests.pop(0))
            self._probe(now_ns)
            return
        if self._probe_ends_ns is None:
            self._probe(now_ns)
        elif session.heard or now_ns >= self._probe_ends_ns:
            for guest in self._guests:
                self._refuse(guest, f"the IOP has a host already, {session.guest.name}")
            self._guests.clear()
            self._probe_ends_ns = None

    def _reset(self, now_ns: int) -> bool:
        """Cycle the power of what is behind; return whether it is there."""
        if now_ns < self._reset_ns:
            return False
        try:
            self._behind.power_cycle()
        except IopDead as error:
            for guest in self._guests:
                self._refuse(guest, f"the IOP is gone: {error.strerror}")
            self._guests.clear()
            self._reset_ns = now_ns + round(PROBE_S * 1e9)
            return False
        self._must_reset = False
        return True

    def _probe(self, now_ns: int) -> None:
        """Ask the host whether it is still there, because others wait."""
        self._probe_ends_ns = None
        session = self._session
        if self._guests and session is not None:
            session.heard = 0
            session.writer.add(bytes((Kind.PING,)))
            self._probe_ends_ns = now_ns + round(PROBE_S * 1e9)

    def _welcome(self, guest: _Guest) -> None:
        """Begin a session with somebody; the IOP was reset."""
        number = NO_SESSION
        while number == NO_SESSION:
            number = secrets.randbits(16)
        unit = self.unit
        writer = StreamWriter(
            number,
            guest.credits,
            min(self._pump.packet_size, guest.packet_size),
            self._pump.buffer_limit,
        )
        flags = unit.welcome_flags
        base, size = 0, 0
        if self._arena is not None:
            flags |= int(WelcomeFlags.ARENA)
            base, size = self._arena
        self._session = _Session(guest, number, writer)
        unit.begin(writer)
        record = WELCOME.build(
            version=VERSION,
            window=WINDOW,
            packet_size=self._pump.packet_size,
            token=guest.token,
            frame_count=unit.frame_count,
            frame_size=unit.frame_size,
            generation=unit.generation,
            reply_generation=unit.reply_generation,
            flags=flags,
            base=base,
            size=size,
            push_limit=PUSH_LIMIT,
        )
        writer.add(bytes((Kind.WELCOME,)) + record)
        self.sessions += 1
        logger.info("%s: %s is the host now", self.name, guest.name)

    def _forget(self, reason: str) -> None:
        """End the session at once; the IOP is reset before anything else happens."""
        session, self._session = self._session, None
        if session is not None:
            logger.info("%s: the host %s is gone: %s", self.name, session.guest.name, reason)
            self.unit.end()
            self._must_reset = True
            self._dismiss(session.guest)

    def _refuse(self, guest: _Guest, reason: str) -> None:
        self.refused += 1
        logger.info("%s: %s is refused: %s", self.name, guest.name, reason)
        room = min(guest.packet_size, self._pump.packet_size) - HEAD_SIZE - 1 - REFUSED.size
        text = reason.encode()[: min(room, 255)]
        record = REFUSED.build(token=guest.token, reason_length=len(text))
        self._send_lone(bytes((Kind.REFUSED,)) + record + text, guest.dest)
        self._dismiss(guest)

    def _dismiss(self, guest: _Guest) -> None:
        """Have an address that was inserted for somebody removed, once nothing is on its way."""
        if guest.is_inserted and guest.dest not in self._leaving:
            self._leaving.append(guest.dest)

    def _flush(self, session: _Session) -> None:
        try:
            pump_packets(
                self._pump, session.writer.next_packet, session.guest.dest, session.waiting
            )
        except RemoteFrameError as error:
            self._forget(str(error))

    def _send_lone(self, record: bytes, dest: int) -> None:
        """Send a packet that belongs to no session; if that cannot be now, it is lost."""
        try:
            self._pump.send(Packet([lone_packet(NO_SESSION, record)], []), dest)
        except FabricError as error:
            logger.debug("%s: %s", self.name, error)

    def _wait_for_host(self, is_done: Callable[[], bool]) -> bool:
        """Wait until the host has done its part; False if that takes long, or is not to be seen."""
        return self._wait_for(lambda: is_done() or self._should_stop(), ANSWER_S) and is_done()

    def _wait_for(self, is_done: Callable[[], bool], limit_s: float) -> bool:
        """Take packets and send until a condition holds; the session ends if that takes long."""
        end_ns = self._clock.monotonic_ns() + round(limit_s * 1e9)
        while True:
            has_worked = self._pump.run(self)
            session = self._session
            if session is not None:
                self._flush(session)
            if is_done():
                return True
            if has_worked:
                continue
            left_s = (end_ns - self._clock.monotonic_ns()) / 1e9
            if left_s <= 0:
                self._forget(f"it has not answered for {limit_s:g} s")
                return False
            if self._clock is SYSTEM_CLOCK:
                self._pump.wait(min(left_s, _SLICE_S))
            else:
                self._clock.sleep(min(left_s, _SLICE_S))

    # --- what a pump brings ----------------------------------------------------------------------

    def packet_arrived(self, source: int, packet: memoryview) -> None:
        """Take a packet of the host's, or a HELLO of anybody's."""
        session = self._session
        try:
            head = read_head(packet)
        except RemoteFrameError as error:
            logger.info("%s: %s", self.name, error)
            return
        body = packet[HEAD_SIZE:]
        if head.session == NO_SESSION:
            self._greeted(source, body)
        elif session is None or head.session != session.number:
            if source != ADDR_UNSPEC:
                record = bytes((Kind.UNKNOWN,)) + UNKNOWN.build(session=head.session)
                self._send_lone(record, source)
        elif source in (ADDR_UNSPEC, session.guest.dest):
            session.heard += 1
            try:
                self.unit.take(head, body)
            except RemoteFrameError as error:
                self._forget(str(error))

    def packet_begins(self, source: int, length: int, front: memoryview) -> Placement | None:
        """Return None: packets are taken as a whole."""
        return None

    def _greeted(self, source: int, body: memoryview) -> None:
        """Note who wants to be the host; what is to be done about it, `run` does."""
        start = 1 + HELLO.size
        if len(body) < start or body[0] != Kind.HELLO:
            return
        hello = HELLO.unpack_from(body, 1)
        name = bytes(body[start : start + min(hello.name_length, MAX_NAME)]).decode(
            errors="replace"
        )
        if hello.magic != MAGIC or hello.window < 2 or hello.packet_size < MIN_PACKET:
            return
        if len(self._guests) >= _MAX_GUESTS:
            return
        dest, is_inserted = source, False
        if dest == ADDR_UNSPEC:
            try:
                dest, is_inserted = self._pump.insert(name), True
            except FabricError as error:
                logger.info("%s: somebody calls itself %r: %s", self.name, name, error)
                return
        if self._session is not None and self._session.guest.dest == dest:
            self._forget("it said HELLO again")
        if dest in self._leaving:  # whoever was there before has come again
            self._leaving.remove(dest)
            is_inserted = True
        is_inserted |= any(other.is_inserted for other in self._guests if other.dest == dest)
        guest = _Guest(dest, name, (hello.window, hello.packet_size, hello.token), is_inserted)
        self._guests = [other for other in self._guests if other.dest != dest]
        if hello.version != VERSION:
            self._refuse(guest, f"the server speaks version {VERSION}, not {hello.version}")
            return
        self._guests.append(guest)

    def send_failed(self, dest: int, code: int, reason: str) -> None:
        """Forget the host if it was for it."""
        for guest in [guest for guest in self._guests if guest.dest == dest]:
            self._guests.remove(guest)
            self._dismiss(guest)
        if self._session is not None and self._session.guest.dest == dest:
            self._forget(reason or os.strerror(code))

    def receive_failed(self, source: int, code: int, reason: str) -> None:
        """Forget the host if it may have been its packet."""
        if self._session is not None and source in (ADDR_UNSPEC, self._session.guest.dest):
            self._forget(reason or os.strerror(code))
