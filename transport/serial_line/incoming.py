# SPDX-License-Identifier: Apache-2.0
"""What a link takes in: DATA frames put into order, and carrier frames made of them."""

from __future__ import annotations

from typing import Final

from i2o.errors import RemoteFrameError
from i2o.transport.serial_line.link_frames import Data, FrameFlags
from i2o.transport.serial_line.link_options import LinkOptions

_NS: Final = 1_000_000_000
_SERIAL: Final = 0xFFFF
_ACK_EVERY: Final = 8  # DATA frames without an acknowledgement


class Incoming:
    """The receiving half of a link.

    Args:
        options: of this end.

    Attributes:
        expected: the number of the first DATA frame that has not arrived.
        ack_due_ns: when that is to be told, None if it is known.
        duplicates: DATA frames that came again, or too early.
    """

    def __init__(self, options: LinkOptions) -> None:
        self._limit, self._most = options.frame_limit, options.max_payload
        self._window = options.window
        self._ack_ns = round(options.ack_s * _NS)
        self.expected = 0
        self._early: dict[int, Data] = {}
        self._frame = bytearray()
        self.ack_due_ns: int | None = None
        self._untold = 0
        self.duplicates = 0

    @property
    def held(self) -> int:
        """What has arrived beyond `expected`, as a map."""
        return sum(1 << (number - self.expected - 1 & _SERIAL) for number in self._early)

    @property
    def kept(self) -> int:
        """Bytes that wait for others."""
        return len(self._frame) + sum(len(one.payload) for one in self._early.values())

    def take(self, data: Data, now_ns: int) -> list[bytes]:
        """Take a DATA frame; return the carrier frames that are complete now.

        Raises:
            RemoteFrameError: a carrier frame, or this piece of one, is larger than was agreed.
        """
        if len(data.payload) > self._most:
            raise RemoteFrameError(f"a payload of {len(data.payload)} bytes; {self._most} fit")
        ahead = data.sequence - self.expected & _SERIAL
        if ahead:
            if ahead >= self._window or data.sequence in self._early:
                self.duplicates += 1
            else:
                self._early[data.sequence] = data
            self.ack_due_ns = now_ns
            return []
        complete: list[bytes] = []
        following: Data | None = data
        while following is not None:
            self._frame += following.payload
            if len(self._frame) > self._limit:
                raise RemoteFrameError(f"a frame of more than {self._limit} bytes")
            if not following.flags & FrameFlags.MORE:
                complete.append(bytes(self._frame))
                self._frame.clear()
            self.expected = self.expected + 1 & _SERIAL
            self._untold += 1
            following = self._early.pop(self.expected, None)
        if self._early or data.flags & FrameFlags.POLL or self._untold >= _ACK_EVERY:
            self.ack_due_ns = now_ns
        elif self.ack_due_ns is None:
            self.ack_due_ns = now_ns + self._ack_ns
        return complete

    def told(self) -> None:
        """An acknowledgement was sent."""
        self.ack_due_ns = None
        self._untold = 0
