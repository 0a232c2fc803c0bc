# SPDX-License-Identifier: Apache-2.0
"""The memory that two processes share: control words, frames, two rings, and host buffers.

It is a memfd that its maker has sealed against shrinking: who maps it can rely on the pages being
there, whatever the other side does. It has no name, so nothing is left when both sides are gone.
"""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os
from typing import Final, NamedTuple

from i2o.closing import Closing
from i2o.errors import LocalFrameError, RemoteFrameError
from i2o.transport.local_unit import FRAME_AREA, FRAME_AREA_END
from i2o.transport.shm.ring import CONTROL_SIZE, RingPlace

TO_DEVICE: Final = 0
"""The ring from the host, or from whoever connected."""
TO_HOST: Final = 1
"""The ring from the device, or from whoever was connected to."""
CONTROL_AT: Final = 0x100
"""Offset of the first ring's control words; the second one's are `CONTROL_SIZE` behind them."""
RINGS_AT: Final = FRAME_AREA_END
"""Offset of the first ring's data; frames lie below, from `FRAME_AREA` on."""
MAX_RING: Final = 1 << 24
MAX_ARENA: Final = 1 << 30
_RING_SIZE: Final = 1 << 18
_ARENA_SIZE: Final = 256 << 20
_PAGE: Final = mmap.PAGESIZE
_SEALS: Final = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL


class Shape(NamedTuple):
    """What is in a segment.

    Attributes:
        frame_count: inbound frames.
        frame_size: bytes of each.
        ring_size: bytes of each ring's data, a power of two.
        arena_size: bytes for host buffers.
    """

    frame_count: int
    frame_size: int
    ring_size: int
    arena_size: int

    @property
    def size(self) -> int:
        """Bytes of the whole."""
        return self.arena_at + self.arena_size

    @property
    def arena_at(self) -> int:
        """Offset of the first byte for host buffers."""
        return RINGS_AT + 2 * self.ring_size

    def mfas(self) -> range:
        """Return every MFA."""
        size = self.frame_size
        return range(FRAME_AREA, FRAME_AREA + self.frame_count * size, max(size, 1))

    def check(self) -> None:
        """Raise RemoteFrameError if there is no such segment."""
        count, size, ring, arena = self
        if ring & ring - 1 or not _PAGE <= ring <= MAX_RING:
            raise RemoteFrameError(f"rings of {ring} bytes: expected a power of two")
        if arena % _PAGE or not 0 <= arena <= MAX_ARENA:
            raise RemoteFrameError(f"{arena} bytes for host buffers: expected whole pages")
        if count and (size % 4 or not size >= 64):
            raise RemoteFrameError(f"frames of {size} bytes: expected whole words, at least 64")
        if count * size > FRAME_AREA_END - FRAME_AREA:
            raise RemoteFrameError(f"{count} frames of {size} bytes do not fit")


def shape_for(frame_count: int, frame_size: int) -> Shape:
    """Return what an IOP shares with its hosts."""
    return Shape(frame_count, frame_size, _RING_SIZE, _ARENA_SIZE)


SEGMENT_SIZE: Final = shape_for(0, 0).size
"""Bytes that an IOP shares with its host at most; only what is written takes memory."""


class Segment(Closing):
    """One mapped segment. Use `make` or `adopt`.

    Attributes:
        shape: what is in it.
        memory: all of it; an MFA is an offset into it.
        arena: the host's buffers.
    """

    def __init__(self, descriptor: int, shape: Shape) -> None:
        self.shape = shape
        self._map: mmap.mmap | None = mmap.mmap(descriptor, shape.size)
        self.memory = memoryview(self._map)
        self.arena = self.memory[shape.arena_at :]

    @classmethod
    def make(cls, shape: Shape) -> tuple[Segment, int]:
        """Make a segment; return it and its descriptor, which is the caller's.

        Raises:
            LocalFrameError: there is no such segment.
        """
        try:
            shape.check()
        except RemoteFrameError as error:
            raise LocalFrameError(str(error)) from None
        descriptor = os.memfd_create("i2o-shm", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            os.ftruncate(descriptor, shape.size)
            fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, _SEALS)
            return cls(descriptor, shape), descriptor
        except BaseException:
            os.close(descriptor)
            raise

    @classmethod
    def adopt(cls, descriptor: int, shape: Shape) -> Segment:
        """Map a segment that another process made; the descriptor stays the caller's.

        Raises:
            RemoteFrameError: it is not what it was said to be, or could be taken away.
        """
        shape.check()
        try:
            seals = fcntl.fcntl(descriptor, fcntl.F_GET_SEALS)
        except OSError:
            raise RemoteFrameError("what was handed over is no memfd") from None
        if not seals & fcntl.F_SEAL_SHRINK:
            raise RemoteFrameError("the shared memory is not sealed against shrinking")
        size = os.fstat(descriptor).st_size
        if size < shape.size:
            raise RemoteFrameError(f"the shared memory has {size} bytes, not {shape.size}")
        return cls(descriptor, shape)

    def ring(self, number: int) -> RingPlace:
        """Return where a ring is."""
        if self._map is None:
            raise LocalFrameError("the segment is closed")
        size = self.shape.ring_size
        return RingPlace(
            self._map, CONTROL_AT + number * CONTROL_SIZE, RINGS_AT + number * size, size
        )

    def close(self) -> None:
        """Unmap the memory, unless somebody still has a view of it (then when that is gone)."""
        shared, self._map = self._map, None  # views keep it, and nothing else does
        for view in (self.arena, self.memory):
            with contextlib.suppress(BufferError):
                view.release()
        if shared is not None:
            with contextlib.suppress(BufferError):
                shared.close()
