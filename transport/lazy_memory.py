# SPDX-License-Identifier: Apache-2.0
"""Zeroed memory that costs nothing before it is used: arenas, and buffers that may stay empty."""

from __future__ import annotations

import mmap
from typing import Final

_PIECE: Final = 1 << 18
_ZEROS: Final = bytes(_PIECE)


def zeroed(size: int) -> memoryview:
    """Return zeroed bytes whose pages the kernel provides when they are first written.

    They are given back with the last view of them. A process that forks keeps its own.

    Raises:
        MemoryError: the kernel has no room for them.
    """
    try:
        area = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    except OSError as error:
        raise MemoryError(f"no {size:#x} bytes of memory: {error.strerror}") from None
    return memoryview(area)


def clear(view: memoryview) -> None:
    """Zero memory, without a write to what is zero: pages that nobody used stay untouched."""
    for start in range(0, len(view), _PIECE):
        piece = view[start : start + _PIECE]
        zeros = _ZEROS[: len(piece)]
        if piece.tobytes() != zeros:
            piece[:] = zeros
