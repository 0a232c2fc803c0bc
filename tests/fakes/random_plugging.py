# SPDX-License-Identifier: Apache-2.0
"""Somebody stands in front of an IOP and plays with its disks."""

from __future__ import annotations

import errno
import random
from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import zip_longest

from i2o.iop_emulator.block_store import BlockStore, MemoryDisk, StoreError
from i2o.iop_emulator.cards import DiskKind
from i2o.iop_emulator.disk_bay import DiskBay, DiskBayError

MOST_ADDED = 3
_SMALL = 1 << 16


class FaultyDisk(MemoryDisk):
    """A disk on which some things go wrong, always in the same places."""

    def __init__(self, size: int) -> None:
        super().__init__(size)
        self.description = "faulty"

    def read_into(self, offset: int, views: Sequence[memoryview]) -> None:
        self._fail(offset)
        super().read_into(offset, views)

    def write_from(self, offset: int, views: Sequence[memoryview]) -> None:
        self._fail(offset)
        super().write_from(offset, views)
        if offset >> 9 & 7 == 4:  # it comes back differently
            self._data[offset] ^= 1

    def _fail(self, offset: int) -> None:
        kind = offset >> 9 & 7
        if kind == 1:
            raise OSError(errno.EIO, "bad block")
        if kind == 2:
            raise StoreError(errno.EIO, "bad block behind good ones", 512)
        if kind == 3:
            raise OSError(errno.ENXIO, "gone")


class Plugging:
    """Hot plug of one IOP.

    Args:
        bay: its disks.
        standard: makes the blocks of those that it begins with.
        kinds: classes of those, block devices where there is none.
    """

    def __init__(
        self,
        bay: DiskBay,
        standard: Callable[[], list[BlockStore]],
        kinds: Sequence[DiskKind] = (),
    ) -> None:
        self._bay, self._standard, self._kinds = bay, standard, kinds
        self._is_touched = True
        self._most = len(standard()) + MOST_ADDED

    def restore(self, reset: Callable[[], None]) -> None:
        """Put the standard disks back at their TIDs; `reset` makes TIDs free again."""
        is_touched, self._is_touched = self._is_touched, False
        if is_touched:
            for tid in self._bay.devices:
                self._bay.remove(tid).close()
        reset()
        if is_touched:
            for store, kind in zip_longest(self._standard(), self._kinds, fillvalue=None):
                assert store is not None, "more kinds than disks"
                self._bay.fit(store, kind)

    def act(self, rng: random.Random) -> None:
        """Do something to one disk; what the bay refuses is left alone."""
        self._is_touched = True
        tids = list(self._bay.devices)
        acts = (self._add, self._remove, self._resize, self._resize, self._medium, self._medium)
        act = rng.choice((*acts, *[self._blocks] * 6))
        if not tids:
            act = self._add
        with suppress(DiskBayError, OSError):
            act(rng, rng.choice(tids) if tids else 0)

    def _add(self, rng: random.Random, tid: int) -> None:
        if len(self._bay.devices) < self._most:
            self._bay.add(_any_disk(rng), rng.choice(("block", "scsi")))

    def _remove(self, rng: random.Random, tid: int) -> None:
        self._bay.remove(tid).close()

    def _resize(self, rng: random.Random, tid: int) -> None:
        self._bay.resize(tid, rng.choice((0, 512, 4096, 777, _SMALL, 1 << 18, 3 << 20, 1 << 40)))

    def _medium(self, rng: random.Random, tid: int) -> None:
        if rng.random() < 0.7:  # rather where it can be done
            drives = [tid for tid, one in self._bay.devices.items() if one.is_removable]
            tid = rng.choice(drives) if drives else tid
        if rng.randrange(2):
            self._bay.eject(tid, is_forced=rng.random() < 0.4).close()
        else:
            self._bay.insert(tid, MemoryDisk(_SMALL, removable=True)).close()

    def _blocks(self, rng: random.Random, tid: int) -> None:
        store = self._bay.disk(tid).store
        count = store.size // store.block_size
        first = rng.randrange(count + 1)
        last = min(first + rng.choice((0, 0, 1, 7, 600)), count - 1)
        change = self._bay.spoil if rng.random() < 0.8 else self._bay.mend
        change(tid, first, last)


def _any_disk(rng: random.Random) -> BlockStore:
    kind = rng.randrange(4)
    if kind == 0:
        return FaultyDisk(_SMALL)
    if kind == 1:
        return MemoryDisk(_SMALL, block_size=4096)
    return MemoryDisk(_SMALL, removable=kind == 2)
