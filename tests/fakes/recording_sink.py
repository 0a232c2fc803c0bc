# SPDX-License-Identifier: Apache-2.0
"""A `CarrierSink` that writes down what it is told."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from i2o.clock import SYSTEM_CLOCK


class RecordingSink:
    """Frames and events of one carrier, in order.

    Attributes:
        frames: (peer, bytes) of each frame.
        sent: (peer, token) of each `frame_sent`.
        events: ("up", peer), ("room", peer) and ("lost", peer, errno).
        reasons: the words of each loss.
        on_frame: called with each frame, too.
    """

    def __init__(self) -> None:
        self.frames: list[tuple[int, bytes]] = []
        self.sent: list[tuple[int, object]] = []
        self.events: list[tuple[Any, ...]] = []
        self.reasons: list[str] = []
        self.on_frame: Callable[[int, memoryview], None] = lambda peer, frame: None

    @property
    def payloads(self) -> list[bytes]:
        """Each frame, whoever sent it."""
        return [frame for _, frame in self.frames]

    @property
    def losses(self) -> list[tuple[int, str]]:
        """Error number and words of each loss."""
        codes = [event[2] for event in self.events if event[0] == "lost"]
        return list(zip(codes, self.reasons, strict=True))

    def frame_arrived(self, peer: int, frame: memoryview) -> None:
        self.frames.append((peer, bytes(frame)))
        self.on_frame(peer, frame)

    def frame_sent(self, peer: int, token: object) -> None:
        self.sent.append((peer, token))

    def room_made(self, peer: int) -> None:
        self.events.append(("room", peer))

    def peer_up(self, peer: int) -> None:
        self.events.append(("up", peer))

    def peer_lost(self, peer: int, error: int, reason: str) -> None:
        self.events.append(("lost", peer, error))
        self.reasons.append(reason)


PATIENCE_S = 20.0


def drive(*carriers: Any, until: Callable[[], object], patience_s: float = PATIENCE_S) -> None:
    """Make progress everywhere until something holds; fail when that takes too long."""
    deadline = SYSTEM_CLOCK.monotonic() + patience_s
    while not until():
        for carrier in carriers:
            carrier.progress(0.0005)
        assert SYSTEM_CLOCK.monotonic() < deadline, "it never came to that"
