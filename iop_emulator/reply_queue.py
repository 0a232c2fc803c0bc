# SPDX-License-Identifier: Apache-2.0
"""Replies on their way to the host: into its reply frames, in order, and bounded.

A reply that finds no free frame waits in the backlog. When that is full the IOP takes up no
further requests, so it never grows beyond what those that were taken up may still add.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Final

from i2o.errors import DmaFault
from i2o.iop_emulator.counters import Counters
from i2o.transport.device_unit import DeviceUnit
from i2o.transport.port import EMPTY

DEFAULT_REPLY_WORDS: Final = 32
"""Reply frame size when the host gives none."""


class ReplyQueue:
    """The way out.

    Args:
        unit: takes the replies.
        counters: what is counted.
        complain: told of reply frames that are not in host memory.
        limit: replies that may wait.

    Attributes:
        backlog: replies that wait for a frame; always the same object, so that others may look
            whether there is any.
        frame_size: bytes of a reply frame, as the host said.
        is_congested: so many replies wait that requests have to.
    """

    def __init__(
        self,
        unit: DeviceUnit,
        counters: Counters,
        complain: Callable[[str], None],
        limit: int,
    ) -> None:
        self._take_frame, self._post_reply = unit.take_reply_frame, unit.post_reply
        self._counters, self._complain, self._limit = counters, complain, limit
        self.backlog: deque[bytes] = deque()
        self.frame_size = 4 * DEFAULT_REPLY_WORDS
        self.is_congested = False

    def send(self, reply: bytes) -> None:
        """Send a reply, or keep it until a reply frame is free."""
        if not self.backlog and len(reply) <= self.frame_size:  # nearly always
            mfa = self._take_frame()
            if mfa != EMPTY:
                try:
                    self._post_reply(mfa, reply)
                except DmaFault as fault:
                    self._complain_of(mfa, fault)
                else:
                    self._counters.replies += 1
                    return
        if self.backlog or not self._post(reply):
            self.backlog.append(reply)
            waiting = len(self.backlog)
            self.is_congested = waiting >= self._limit
            self._counters.backlog_peak = max(self._counters.backlog_peak, waiting)

    def send_event(self, reply: bytes) -> None:
        """Send an event; when too many replies wait it is lost, as nobody asked for it."""
        if self.is_congested:
            self._counters.dropped += 1
        else:
            self._counters.events += 1
            self.send(reply)

    def flush(self) -> None:
        """Send what waits, as far as there are frames."""
        backlog = self.backlog
        while backlog and self._post(backlog[0]):
            backlog.popleft()
        self.is_congested = len(backlog) >= self._limit

    def clear(self) -> list[bytes]:
        """Forget what waits, and return it."""
        waiting = list(self.backlog)
        self.backlog.clear()
        self.is_congested = False
        return waiting

    def _post(self, reply: bytes) -> bool:
        """Put a reply into the next good reply frame; return False if there is none."""
        if len(reply) > self.frame_size:
            words = self.frame_size // 4
            reply = reply[:2] + words.to_bytes(2, "little") + reply[4 : self.frame_size]
        while (mfa := self._take_frame()) != EMPTY:
            try:
                self._post_reply(mfa, reply)
            except DmaFault as fault:
                self._complain_of(mfa, fault)
                continue
            self._counters.replies += 1
            return True
        return False

    def _complain_of(self, mfa: int, fault: DmaFault) -> None:
        self._complain(f"reply frame {mfa:#010x} that was released to 0x44: {fault}")
