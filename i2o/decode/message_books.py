# SPDX-License-Identifier: Apache-2.0
"""Which sends of endpoints have not ended yet, so that their ends find them."""

from __future__ import annotations

from typing import Final, Generic, TypeVar

MAX_SENDS: Final = 16384
"""Sends of all endpoints that are remembered; then the oldest is forgotten."""

T = TypeVar("T")


class MessageBooks(Generic[T]):
    """Remembers sends by endpoint and packet id."""

    def __init__(self) -> None:
        self._open: dict[tuple[int, int], T] = {}

    def begun(self, endpoint: int, packet_id: int, send: T) -> None:
        """Note a send; one with the same id before it is never going to end."""
        key = endpoint, packet_id
        self._open.pop(key, None)
        self._open[key] = send
        if len(self._open) > MAX_SENDS:
            del self._open[next(iter(self._open))]

    def ended(self, endpoint: int, packet_id: int) -> T | None:
        """Return the send that ends, None if it was not seen; it is forgotten."""
        return self._open.pop((endpoint, packet_id), None)
