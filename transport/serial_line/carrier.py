# SPDX-License-Identifier: Apache-2.0
"""Frames between endpoints over serial lines: the `Carrier` whose addresses read `serial:DEVICE`.

The peer is whoever is at the other end of the line: nobody has to know what the line is called
there, so any address means it. A carrier may also have several lines; then the address of a peer is
that of the line to it. A line that goes away is opened again as soon as it is back.
"""

from __future__ import annotations

import errno
import select
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from i2o.clock import SYSTEM_CLOCK, Clock
from i2o.closing import Closing
from i2o.transport.doorbell import Doorbell
from i2o.transport.fabric.carrier import CarrierSink
from i2o.transport.fabric.endpoint import Buffer
from i2o.transport.fabric.errors import FabricError
from i2o.transport.serial_line.line import LineSettings, OpenLine, open_line
from i2o.transport.serial_line.link import Frame, Link, LinkEvent, Lost, Up
from i2o.transport.serial_line.link_options import LinkOptions
from i2o.transport.serial_line.way import Way
from i2o.transport.timer_descriptor import TimerDescriptor

SCHEME: Final = "serial:"
_NS: Final = 1_000_000_000
_LONGEST_WAIT_S: Final = 0.05


class SerialCarrier(Closing):
    """One end of one line, or of several.

    Args:
        settings: of the line, and, but for its address, of all others.
        options: of the links.
        is_single: whether there is this line alone; otherwise another one is opened for each
            address that is resolved.
        opener: opens a line.
        linger_s: how long closing waits until the other ends have what was sent.
        clock: for everything that takes time.

    Raises:
        TransportUnavailable: the line cannot be opened.

    Attributes:
        name: the address of the first line.
        frame_limit: bytes of the largest frame.
    """

    def __init__(
        self,
        settings: LineSettings,
        *,
        options: LinkOptions | None = None,
        is_single: bool = True,
        opener: OpenLine = open_line,
        linger_s: float = 1.0,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self._settings, self._opener, self._clock = settings, opener, clock
        self._options = replace(options or LinkOptions(), baud=settings.baud)
        self._is_single = is_single
        self._linger_ns = round(linger_s * _NS)
        self.name, self.frame_limit = f"{SCHEME}{settings.address}", self._options.frame_limit
        self._sink: CarrierSink | None = None
        self._ways: list[Way] = []
        self._numbers: dict[str, int] = {}
        self._pending: list[tuple[Way, LinkEvent]] = []  # what `send` found out
        line = opener(settings)
        self._watch, self._bell, self._timer = select.epoll(), Doorbell(), TimerDescriptor()
        for waker in (self._bell, self._timer):
            self._watch.register(waker.fileno(), select.EPOLLIN)
        self._add(settings).attach(line)

    def link(self, peer: int) -> Link:
        """Return the link with a peer: its state and counters."""
        return self._ways[peer].link

    def open(self, sink: CarrierSink) -> None:
        """Begin; called once, before anything else."""
        self._sink = sink

    def resolve(self, address: str) -> int:
        """Return the number of whoever is at the other end of the line.

        Raises:
            FabricError: EINVAL, it is the address of no line.
        """
        text = address.removeprefix(SCHEME)
        if not text or "\0" in text:
            raise FabricError(errno.EINVAL, f"{address!r} is no line; write serial:/dev/ttyUSB0")
        number = 0 if self._is_single else self._numbers.get(text)
        if number is None:
            number = self._add(replace(self._settings, address=text)).number
            self._bell.ring()  # it is opened by progress
        return number

    def address_of(self, peer: int) -> str:
        """Return the address of the line that leads to a peer."""
        return f"{SCHEME}{self._ways[peer].settings.address}"

    def send(self, peer: int, parts: Sequence[Buffer], token: object = None) -> bool:
        """Send the parts as one frame; see `Carrier.send`.

        Raises:
            FabricError: EMSGSIZE, it is longer than `frame_limit`.
        """
        way, frame, now_ns = self._ways[peer], b"".join(parts), self._clock.monotonic_ns()
        if len(frame) > self.frame_limit:
            raise FabricError(
                errno.EMSGSIZE, f"a frame of {len(frame)} bytes; at most {self.frame_limit}"
            )
        is_sent = way.link.send(frame, now_ns)
        events = way.flush(now_ns)
        if events:
            self._pending += [(way, event) for event in events]
            self._bell.ring()
        self._set_timer()
        if is_sent and self._sink is not None:
            self._sink.frame_sent(peer, token)
        return is_sent

    def disconnect(self, peer: int) -> None:
        """Close the link to a peer and forget what waits for it; `peer_lost` is not called."""
        way = self._ways[peer]
        way.attempts += 1
        way.link.close()
        self._pending = [(one, event) for one, event in self._pending if one is not way]
        way.flush(self._clock.monotonic_ns())

    def progress(self) -> None:
        """Move bytes, and call the sink."""
        if self._sink is None:
            return
        ready = {descriptor for descriptor, _ in self._watch.poll(0)}
        if self._timer.fileno() in ready:
            self._timer.silence()
        if self._bell.fileno() in ready:
            self._bell.silence()
            pending, self._pending = self._pending, []
            for way, event in pending:
                self._tell(way, event)
        now_ns = self._clock.monotonic_ns()
        for way in tuple(self._ways):
            attempts = way.attempts
            for event in way.move(now_ns, is_ready=way.descriptor in ready):
                if way.attempts != attempts:
                    break  # disconnected by who was told of the one before
                self._tell(way, event)
        self._set_timer()

    def fileno(self) -> int:
        """Return an epoll descriptor, or -1 after `close`; it tells of deadlines, too."""
        return -1 if self._watch.closed else self._watch.fileno()

    def next_deadline_ns(self) -> int | None:
        """Return when `progress` has something to do although nothing became readable."""
        now_ns = self._clock.monotonic_ns()
        times = (way.next_deadline_ns(now_ns) for way in self._ways)
        return min((time for time in times if time is not None), default=None)

    def close(self) -> None:
        """Close every link, when the other ends have what was sent; nothing is called any more."""
        if self._watch.closed:
            return
        self._sink = None
        end_ns = self._clock.monotonic_ns() + self._linger_ns
        self._linger(end_ns)
        for way in self._ways:
            way.link.close()
            way.flush(self._clock.monotonic_ns())
        self._linger(end_ns)
        for way in self._ways:
            way.close()
        self._watch.close()
        self._bell.close()
        self._timer.close()

    # ---------------------------------------------------------------------------------------------

    def _add(self, settings: LineSettings) -> Way:
        way = Way(len(self._ways), settings, self._options, self._opener, self._watch)
        self._ways.append(way)
        self._numbers[settings.address] = way.number
        return way

    def _set_timer(self) -> None:
        """Let the descriptor tell of the next deadline."""
        if self._clock is SYSTEM_CLOCK:
            self._timer.wake_by(self.next_deadline_ns())

    def _tell(self, way: Way, event: LinkEvent) -> None:
        sink, number = self._sink, way.number
        if sink is None:
            return  # closed by who was told before
        if isinstance(event, Frame):
            sink.frame_arrived(number, memoryview(event.data))
        elif isinstance(event, Up):
            sink.peer_up(number)
        elif isinstance(event, Lost):
            sink.peer_lost(number, event.error, event.reason)
        else:
            sink.room_made(number)

    def _linger(self, end_ns: int) -> None:
        """Go on until nothing is on its way any more, or the time is over."""
        while any(way.is_busy for way in self._ways):
            now_ns = self._clock.monotonic_ns()
            if now_ns >= end_ns:
                return
            due = min(end_ns, self.next_deadline_ns() or end_ns)
            wait_s = min(max(0.0, (due - now_ns) / _NS), _LONGEST_WAIT_S)
            if self._clock is SYSTEM_CLOCK:
                ready = {descriptor for descriptor, _ in self._watch.poll(wait_s)}
            else:
                self._clock.sleep(max(wait_s, 0.001))
                ready = {descriptor for descriptor, _ in self._watch.poll(0)}
            self._bell.silence()
            self._timer.silence()
            for way in self._ways:
                way.move(self._clock.monotonic_ns(), is_ready=way.descriptor in ready)
