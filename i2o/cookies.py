# SPDX-License-Identifier: Apache-2.0
"""Callback cookies: the 32-bit numbers that bring a reply back to the OSM that asked.

A cookie travels in InitiatorContext, unchanged, through the IOP and back.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from i2o.errors import InvalidArgument, OutOfFrames
from i2o.message_frames import ReplyFrame

Callback = Callable[[int, ReplyFrame], object]
"""Called with the IOP number and the reply frame, which it must free."""

MAX_REGISTRATIONS: Final = 256
"""OSMs that may be registered at once."""
MAX_CALLBACKS: Final = 4096
"""Callbacks of one registration."""
_FIRST_COOKIE: Final = 0x1000
_END_COOKIE: Final = 0x8000_0000


class Registration(NamedTuple):
    """What an OSM gets: the handle to deregister with, and one cookie per callback."""

    base_cookie: int
    cookies: tuple[int, ...]


def context_bytes(cookie: int) -> bytes:
    """Return a cookie as it stands in InitiatorContext."""
    return cookie.to_bytes(4, "little")


class CookieTable:
    """Cookies in use. A freed cookie's number is not used again for a long time."""

    def __init__(self) -> None:
        self._callbacks: dict[bytes, Callback] = {}  # by the cookie as it stands in a frame
        self._registrations: dict[int, tuple[int, ...]] = {}
        self._next = _FIRST_COOKIE
        self.find = self._callbacks.get
        """Return the callback of a cookie, given as InitiatorContext's four bytes, or None."""

    def register(self, callbacks: Sequence[Callback]) -> Registration:
        """Give each callback a cookie.

        Raises:
            InvalidArgument: no callbacks, too many, or one that cannot be called.
            OutOfFrames: too many OSMs are registered.
        """
        if not 1 <= len(callbacks) <= MAX_CALLBACKS:
            raise InvalidArgument(f"{len(callbacks)} callbacks: expected 1 to {MAX_CALLBACKS}")
        for callback in callbacks:
            if not callable(callback):
                raise InvalidArgument(f"{callback!r} cannot be called")
        if len(self._registrations) >= MAX_REGISTRATIONS:
            raise OutOfFrames(f"{MAX_REGISTRATIONS} OSMs are registered already")
        base = self._free_range(len(callbacks))
        cookies = tuple(range(base, base + len(callbacks)))
        self._callbacks.update(zip(map(context_bytes, cookies), callbacks, strict=True))
        self._registrations[base] = cookies
        return Registration(base, cookies)

    def deregister(self, base_cookie: int) -> tuple[int, ...]:
        """Forget a registration and return the cookies it had.

        Raises:
            InvalidArgument: the number is no base cookie in use.
        """
        cookies = self._registrations.pop(base_cookie, None)
        if cookies is None:
            raise InvalidArgument(f"{base_cookie!r} is no base cookie of a registered OSM")
        for cookie in cookies:
            del self._callbacks[context_bytes(cookie)]
        return cookies

    def _free_range(self, count: int) -> int:
        base = self._next
        if base + count > _END_COOKIE:
            base = _FIRST_COOKIE
        index = base
        while index < base + count:
            if context_bytes(index) in self._callbacks:
                base = index + 1
            index += 1
        self._next = base + count
        return base
