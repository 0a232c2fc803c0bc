# SPDX-License-Identifier: Apache-2.0
"""Requests that a device unit may have answered by itself, without its IOP being run."""

from __future__ import annotations

from collections.abc import Callable, Sized
from dataclasses import dataclass
from typing import Any, Protocol


class Replies(Protocol):
    """The way out for replies that cannot go the short way."""

    frame_size: int
    """Bytes of a reply frame."""

    def send(self, reply: bytes) -> None:
        """Send a reply, now or when a reply frame is free."""


@dataclass(frozen=True, slots=True, eq=False)
class PlainAnswers:
    """Which requests those are, and who answers them.

    A request is plain if words 0 and 1 of its frame are known. Its frame goes home, then its
    handler is called with what `request` makes of it; the reply goes into the next reply frame.

    Attributes:
        handlers: by the first 8 bytes of a frame. Whoever changes what a request would meet with
            empties it; then requests wait until the IOP is run.
        pending: as long as there is anything in one of these, requests wait as well.
        request: makes what a handler takes of a frame, its word 1, and the time in nanoseconds.
        failed: is given a request and what its handler raised; returns the reply, or raises that.
        replies: takes what cannot go the short way.
        count: is told how many requests were taken up so, and how many replies were posted.
    """

    handlers: dict[bytes, Callable[[Any], bytes | None]]
    pending: tuple[Sized, ...]
    request: Callable[[bytes, int, int], Any]
    failed: Callable[[Any, Exception], bytes | None]
    replies: Replies
    count: Callable[[int, int], None]
