# SPDX-License-Identifier: Apache-2.0
"""A whole 32-bit bus of host memory, of which only the pages that were written exist."""

from __future__ import annotations

from collections.abc import Iterable

PAGE = 4096


class SparseMemory:
    """A `DmaSpace` that can be reached only by copying."""

    def __init__(self) -> None:
        self._pages: dict[int, bytearray] = {}

    def read(self, address: int, length: int) -> bytes:
        """Copy bytes out; what was never written is zero."""
        parts = []
        for page, start, size in _parts(address, length):
            data = self._pages.get(page)
            parts.append(bytes(size) if data is None else bytes(data[start : start + size]))
        return b"".join(parts)

    def write(self, address: int, data: bytes | bytearray | memoryview) -> None:
        """Copy bytes in."""
        place = 0
        for page, start, size in _parts(address, len(data)):
            self._pages.setdefault(page, bytearray(PAGE))[start : start + size] = data[
                place : place + size
            ]
            place += size

    def windows(self, fragments: Iterable[tuple[int, int]], *, writable: bool) -> None:
        """Return None: nothing here can be looked at directly."""


def _parts(address: int, length: int) -> Iterable[tuple[int, int, int]]:
    while length > 0:
        page, start = divmod(address, PAGE)
        size = min(length, PAGE - start)
        yield page, start, size
        address, length = address + size, length - size
