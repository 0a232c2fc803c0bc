# SPDX-License-Identifier: Apache-2.0
"""Bad blocks: which ones, and a disk that cannot move them.

A transfer that meets a bad block ends there: what stands before it is moved, the block and what
stands behind it is not. A block stays bad until it is reassigned. The file below keeps whatever the
block held.
"""

from __future__ import annotations

import errno
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final

from i2o.errors import LocalFrameError
from i2o.iop_emulator.block_store import BlockStore, StoreError, cut_views

MAX_RANGES: Final = 1 << 16


class BadBlocks:
    """A set of block numbers, kept as ranges that neither overlap nor touch.

    Args:
        ranges: (first, last) pairs to begin with.
    """

    def __init__(self, ranges: Iterable[tuple[int, int]] = ()) -> None:
        self._firsts: list[int] = []
        self._lasts: list[int] = []
        for first, last in ranges:
            self.add(first, last)

    def add(self, first: int, last: int) -> None:
        """Make blocks bad.

        Raises:
            LocalFrameError: there are too many ranges already.
        """
        begin = bisect_left(self._lasts, first - 1)
        end = bisect_right(self._firsts, last + 1)
        if begin < end:
            first = min(first, self._firsts[begin])
            last = max(last, self._lasts[end - 1])
        elif len(self._firsts) >= MAX_RANGES:
            raise _too_many()
        self._firsts[begin:end] = [first]
        self._lasts[begin:end] = [last]

    def remove(self, first: int, last: int) -> None:
        """Make blocks good; those that are good stay so.

        Raises:
            LocalFrameError: that would leave two ranges of one, and there are too many already.
        """
        begin = bisect_left(self._lasts, first)
        end = bisect_right(self._firsts, last)
        if begin >= end:
            return
        kept = [(self._firsts[begin], first - 1), (last + 1, self._lasts[end - 1])]
        kept = [(low, high) for low, high in kept if low <= high]
        if len(self._firsts) - (end - begin) + len(kept) > MAX_RANGES:
            raise _too_many()
        self._firsts[begin:end] = [low for low, _ in kept]
        self._lasts[begin:end] = [high for _, high in kept]

    def first_in(self, first: int, last: int) -> int | None:
        """Return the lowest bad block from `first` to `last`, or None."""
        place = bisect_left(self._lasts, first)
        if place == len(self._firsts) or self._firsts[place] > last:
            return None
        return max(first, self._firsts[place])

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return zip(self._firsts, self._lasts, strict=True)

    def __len__(self) -> int:
        """How many ranges there are."""
        return len(self._firsts)


def _too_many() -> LocalFrameError:
    return LocalFrameError(f"a disk has at most {MAX_RANGES} ranges of bad blocks")


class FlawedDisk:
    """A disk with bad blocks.

    Args:
        store: its blocks, also those that cannot be moved.
        bad: which ones cannot.

    Attributes:
        bad: which ones cannot; may be changed.
        store: its blocks.
    """

    def __init__(self, store: BlockStore, bad: BadBlocks | None = None) -> None:
        self.store = store
        self.bad = bad if bad is not None else BadBlocks()
        self.block_size, self.read_only = store.block_size, store.read_only
        self.removable, self.serial = store.removable, store.serial
        self.description = store.description

    @property
    def size(self) -> int:
        """Bytes, a multiple of the block size."""
        return self.store.size

    def read_into(self, offset: int, views: Sequence[memoryview]) -> None:
        """Fill the views up to the first bad block; see `BlockStore`."""
        self._move(self.store.read_into, offset, views)

    def write_from(self, offset: int, views: Sequence[memoryview]) -> None:
        """Store the views up to the first bad block; see `BlockStore`."""
        self._move(self.store.write_from, offset, views)

    def flush(self) -> None:
        """Make everything written so far durable."""
        self.store.flush()

    def resize(self, size: int) -> None:
        """Have another size from now on; see `BlockStore`."""
        self.store.resize(size)

    def close(self) -> None:
        """Release what the store holds."""
        self.store.close()

    def _move(
        self,
        move: Callable[[int, Sequence[memoryview]], None],
        offset: int,
        views: Sequence[memoryview],
    ) -> None:
        """Move what stands before the first bad block; raises StoreError if there is one."""
        length, size = sum(map(len, views)), self.block_size
        bad = None
        if length:
            bad = self.bad.first_in(offset // size, (offset + length - 1) // size)
        if bad is None:
            move(offset, views)
            return
        good = max(0, bad * size - offset)
        move(offset, cut_views(views, good))
        raise StoreError(errno.EIO, f"block {bad} is bad", good)
