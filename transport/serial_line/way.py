# SPDX-License-Identifier: Apache-2.0
"""A line and the link over it: moves bytes between both, and opens the line again after a loss."""

from __future__ import annotations

import select
from typing import Final

from i2o.errors import TransportUnavailable
from i2o.transport.serial_line.line import Line, LineGone, LineSettings, OpenLine
from i2o.transport.serial_line.link import Link, LinkEvent, LinkState
from i2o.transport.serial_line.link_options import LinkOptions

_NS: Final = 1_000_000_000
_REOPEN_NS, _LONGEST_REOPEN_NS = _NS // 4, 4 * _NS
_BLOCKED_NS: Final = _NS // 10  # how often the time is looked at while nothing can be written
_CHUNK: Final = 4096  # bytes that are made in one go


class Way:
    """The way to one peer.

    Args:
        number: of the peer.
        settings: of the line.
        options: of the link.
        opener: opens the line.
        watch: an epoll set that has the line's descriptor while there is one.

    Attributes:
        number: as given.
        settings: as given.
        link: the link.
        attempts: how often the owner has closed the link.
    """

    def __init__(
        self,
        number: int,
        settings: LineSettings,
        options: LinkOptions,
        opener: OpenLine,
        watch: select.epoll,
    ) -> None:
        self.number, self.settings, self.link = number, settings, Link(options)
        self.attempts = 0
        self._opener, self._watch = opener, watch
        self._line: Line | None = None
        self._out = bytearray()  # what the line did not take yet
        self._is_blocked = False
        self._reopen_ns = 0
        self._pause_ns = _REOPEN_NS

    @property
    def descriptor(self) -> int:
        """The line's, or -1."""
        return -1 if self._line is None else self._line.fileno()

    @property
    def is_busy(self) -> bool:
        """Whether the other end has not got everything yet."""
        if self._line is None:
            return False
        is_up = self.link.state is LinkState.UP
        return bool(self._out) or (is_up and not self.link.outgoing.is_idle)

    def open(self) -> None:
        """Open the line; raises TransportUnavailable."""
        self.attach(self._opener(self.settings))

    def attach(self, line: Line) -> None:
        """Use a line that is open."""
        self._line, self._is_blocked = line, False
        self._out.clear()
        self._pause_ns = _REOPEN_NS
        self._watch.register(line.fileno(), select.EPOLLIN)

    def move(self, now_ns: int, *, is_ready: bool) -> list[LinkEvent]:
        """Take what came, send what is due, and open the line if that is due.

        Args:
            now_ns: the time.
            is_ready: whether the descriptor is.
        """
        events: list[LinkEvent] = []
        if self._line is None:
            if now_ns < self._reopen_ns:
                return events
            try:
                self.open()
            except TransportUnavailable as error:
                self._reopen_ns = now_ns + self._pause_ns
                self._pause_ns = min(2 * self._pause_ns, _LONGEST_REOPEN_NS)
                return self.link.line_lost(error.reason)
        line = self._line
        if is_ready and line is not None:
            try:
                data = line.read()
            except LineGone as gone:
                return self._lose(gone, now_ns)
            if data:
                events += self.link.receive(data, now_ns)
        events += self.link.tick(now_ns)
        return events + self.flush(now_ns)

    def flush(self, now_ns: int) -> list[LinkEvent]:
        """Send what is due, as far as the line takes it."""
        line = self._line
        if line is None:
            return []
        out = self._out
        try:
            while True:
                while len(out) < _CHUNK and not self._is_blocked:
                    data = self.link.next_output(now_ns)
                    if not data:
                        break
                    out += data
                if not out:
                    break
                del out[: line.write(out)]
                self._block(line, is_blocked=bool(out))
                if out:
                    break
        except LineGone as gone:
            return self._lose(gone, now_ns)
        return []

    def next_deadline_ns(self, now_ns: int) -> int | None:
        """Return when `move` has something to do although the descriptor is not ready."""
        if self._line is None:
            return self._reopen_ns
        due = self.link.next_deadline_ns()
        if due is not None and self._is_blocked:  # it cannot be sent, whatever is due
            due = max(due, now_ns + _BLOCKED_NS)
        return due

    def close(self) -> None:
        """Close the line; the link is closed already."""
        if self._line is not None:
            self._watch.unregister(self._line.fileno())
            self._line.close()
            self._line = None

    def _block(self, line: Line, *, is_blocked: bool) -> None:
        """Let the descriptor tell of room while there is none."""
        if is_blocked != self._is_blocked:
            self._is_blocked = is_blocked
            if line.wants_write_events:
                wanted = select.EPOLLIN | (select.EPOLLOUT if is_blocked else 0)
                self._watch.modify(line.fileno(), wanted)

    def _lose(self, gone: LineGone, now_ns: int) -> list[LinkEvent]:
        """The line went away: it is looked for from now on."""
        self.close()
        self._out.clear()
        self._reopen_ns = now_ns + self._pause_ns
        return self.link.line_lost(f"{self.settings.address}: {gone.strerror}")
