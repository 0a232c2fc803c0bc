# SPDX-License-Identifier: Apache-2.0
"""Sizes and times of a link over a serial line."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from i2o.transport.serial_line.link_frames import MAX_PAYLOAD, MAX_WINDOW, MIN_PAYLOAD

BITS_PER_BYTE: Final = 10
"""On the line: a start bit, eight of data, and a stop bit."""
_NS: Final = 1_000_000_000
_HELLO_BYTES: Final = 32  # on the line, with everything
_HELLO_SHARE: Final = 4  # one part of the time
_PAYLOAD_S: Final = 0.05  # a frame that is lost shall not cost more of the line's time


@dataclass(frozen=True, slots=True)
class LinkOptions:
    """What one end does and takes.

    Attributes:
        baud: bits a second of the line, 0 if that is not known or has no meaning.
        frame_limit: bytes of the largest carrier frame, in both directions.
        max_payload: bytes of a carrier frame that this end takes in one DATA frame.
        window: DATA frames that may be on their way to this end.
        queue_limit: bytes that wait to be sent; a frame more is refused.
        hello_s: seconds between two HELLOs.
        connect_s: seconds after which nobody is there.
        ack_s: seconds that an acknowledgement may wait for a DATA frame to go along with.
        keepalive_s: seconds of silence after which the other end is asked whether it still knows
            of the link; twice as many each time that it does not answer.
        dead_s: seconds without an acknowledgement after which a link is given up. A program that
            computes does not answer, so it should be long.
    """

    baud: int = 0
    frame_limit: int = 4096
    max_payload: int = MAX_PAYLOAD
    window: int = MAX_WINDOW
    queue_limit: int = 32 << 10
    hello_s: float = 0.25
    connect_s: float = 5.0
    ack_s: float = 0.005
    keepalive_s: float = 2.0
    dead_s: float = 30.0

    @property
    def bytes_per_s(self) -> float:
        """The line's rate, 0 if it is not known."""
        return self.baud / BITS_PER_BYTE

    @property
    def hello_ns(self) -> int:
        """Nanoseconds between two HELLOs: they leave most of a slow line's time to others."""
        if not self.baud:
            return round(self.hello_s * _NS)
        return round(max(self.hello_s, _HELLO_SHARE * _HELLO_BYTES / self.bytes_per_s) * _NS)

    @property
    def best_payload(self) -> int:
        """The most that is worth sending in one DATA frame on a clean line."""
        if not self.baud:
            return MAX_PAYLOAD
        return min(MAX_PAYLOAD, max(MIN_PAYLOAD, int(self.bytes_per_s * _PAYLOAD_S)))
