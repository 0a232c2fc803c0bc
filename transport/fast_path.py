# SPDX-License-Identifier: Apache-2.0
"""Requests that a device unit may have answered by itself, without its IOP being run."""

from __future__ import annotations

from collections.abc import Callable, Sized
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Protocol


class Answered(IntEnum):
    """What is left of the requests that were posted."""

    NOT_ALL = 0
    """Some have no fast path, or there is something else to do: the IOP is to be run."""
    ALL = 1
    """Nothing: the IOP need not be run."""
    SO_FAR = 2
    """More with a fast path: others may have their turn first."""


class Replies(Protocol):
    """The way out for replies that cannot go the short way."""

    frame_size: int
    """Bytes of a reply frame."""

    def send(self, reply: bytes) -> None:
        """Send a reply, now or when a reply frame is free."""


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class FastPath:
    """Which requests may be answered so, and who answers them.

    Those are the ones whose words 0 and 1 are known. The frame of such a request goes home, then
    its handler is called with what `make_request` makes of it; the reply goes into the next reply
    frame.

    Attributes:
        handlers: by the first 8 bytes of a frame. Whoever changes what a request would meet with
            empties it; then requests wait until the IOP is run.
        make_request: makes what a handler takes of a frame, its word 1, and the time in
            nanoseconds.
        replies: takes what cannot go the short way.
        on_error: is given a request and what its handler raised; returns the reply, or raises that.
        pending: as long as there is anything in one of these, requests wait as well.
        on_counted: is told how many requests were taken up so, and how many replies were posted.
    """

    handlers: dict[bytes, Callable[[Any], bytes | None]]
    make_request: Callable[[bytes, int, int], Any]
    replies: Replies
    on_error: Callable[[Any, Exception], bytes | None]
    pending: tuple[Sized, ...]
    on_counted: Callable[[int, int], None]
