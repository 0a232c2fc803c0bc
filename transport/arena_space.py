# SPDX-License-Identifier: Apache-2.0
"""Host memory that two processes share: one arena, with buffers cut out of it.

Both sides hold the same memory and a list of the ranges that are buffers now. The host's side
allocates and tells about it; the device's side is told, and refuses everything else.
"""

from __future__ import annotations

import contextlib
import threading
from bisect import bisect_left, bisect_right, insort
from collections.abc import Callable, Iterable
from typing import Final

from i2o.errors import DmaFault, LocalFrameError, RemoteFrameError

PAGE: Final = 4096
ARENA_BASE: Final = 0x00100000
"""Bus address of the arena's first byte: a small number is no bus address."""


class ArenaBuffer:
    """A buffer in an arena."""

    __slots__ = ("_space", "bus_address", "view")

    def __init__(self, space: ArenaSpace, view: memoryview, bus_address: int) -> None:
        self._space: ArenaSpace | None = space
        self.view, self.bus_address = view, bus_address

    @property
    def segments(self) -> tuple[tuple[int, int], ...]:
        """One contiguous part."""
        return ((self.bus_address, len(self.view)),)

    def to_device(self, offset: int = 0, length: int | None = None) -> None:
        """Nothing to do: both sides see the same bytes."""

    def from_device(self, offset: int = 0, length: int | None = None) -> None:
        """Nothing to do: both sides see the same bytes."""

    def free(self) -> None:
        """Give the bus addresses back.

        Raises:
            LocalFrameError: the buffer was freed before.
        """
        space, self._space = self._space, None
        if space is None:
            raise LocalFrameError(f"host buffer at {self.bus_address:#010x} is freed twice")
        space.uncover(self.bus_address)


class ArenaSpace:
    """Both `HostMemory` and `DmaSpace` over one piece of shared memory.

    Args:
        arena: the memory, whole pages.
        base: bus address of its first byte.
        on_cover: called with (bus address, length) before a buffer is handed out.
        on_uncover: called with the bus address after one was given back.

    Attributes:
        base: as given.
        near: bus addresses of the buffer that was found last, and of its end: mostly it is the one.
    """

    def __init__(
        self,
        arena: memoryview,
        *,
        base: int = ARENA_BASE,
        on_cover: Callable[[int, int], None] | None = None,
        on_uncover: Callable[[int], None] | None = None,
    ) -> None:
        self._arena, self.base = arena, base
        self._on_cover, self._on_uncover = on_cover, on_uncover
        self._starts: list[int] = []
        self._ends: dict[int, int] = {}
        self._buffers: dict[int, ArenaBuffer] = {}
        self._next = base
        self.near = (0, 0)
        self._lock = threading.Lock()

    # --- the host's side -------------------------------------------------------------------------

    def allocate(self, size: int, align: int = PAGE) -> ArenaBuffer:
        """Return a zeroed buffer; raises MemoryError when the arena is full."""
        if size < 1 or align < 1 or align & align - 1:
            raise LocalFrameError(f"cannot allocate {size} bytes aligned to {align}")
        with self._lock:
            address = self._free_run(-(-size // PAGE) * PAGE, max(align, PAGE))
            self._cover(address, size)
            self._next = address + size
        if self._on_cover is not None:
            try:
                self._on_cover(address, size)
            except BaseException:
                self._uncover(address)
                raise
        start = address - self.base
        view = self._arena[start : start + size]
        view[:] = bytes(size)
        buffer = self._buffers[address] = ArenaBuffer(self, view, address)
        return buffer

    def close(self) -> None:
        """Let go of the shared memory; using a buffer afterwards is an error."""
        views = [buffer.view for buffer in self._buffers.values()]
        self._buffers.clear()
        for view in (*views, self._arena):
            with contextlib.suppress(BufferError):  # somebody still looks through it
                view.release()

    def is_at(self, base: int, size: int) -> bool:
        """Whether the arena has these bus addresses."""
        return self.base == base and len(self._arena) == size

    def map(self, buffer: memoryview) -> None:
        """Return None: the other process cannot reach the caller's own memory."""

    # --- the device's side -----------------------------------------------------------------------

    def cover(self, address: int, length: int) -> None:
        """Take note of a buffer.

        Raises:
            RemoteFrameError: it is not inside the arena, or where another one is.
        """
        with self._lock:
            self._require_free(address, length)
            self._cover(address, length)

    def uncover(self, address: int) -> None:
        """Forget a buffer; raises RemoteFrameError if there is none."""
        self._uncover(address)
        self._buffers.pop(address, None)
        if self._on_uncover is not None:
            self._on_uncover(address)

    def window(self, bus_address: int, length: int) -> memoryview:
        """Return the bytes behind a range; raises DmaFault outside all buffers."""
        start, end = self.near
        if not (start <= bus_address < end and 0 <= length <= end - bus_address):
            self._come_near(bus_address, length)
        at = bus_address - self.base
        return self._arena[at : at + length]

    def _come_near(self, bus_address: int, length: int) -> None:
        """Find the buffer that a range is in; raises DmaFault if there is none."""
        with self._lock:
            index = bisect_right(self._starts, bus_address) - 1
            if index < 0 or length < 0:
                raise DmaFault(bus_address, length)
            start = self._starts[index]
            end = self._ends[start]
            if bus_address >= end or bus_address + length > end:
                raise DmaFault(bus_address, length)
            self.near = start, end

    def read(self, address: int, length: int) -> bytes:
        """Copy bytes out; raises DmaFault outside all buffers."""
        return self.window(address, length).tobytes()

    def write(self, address: int, data: bytes | bytearray | memoryview) -> None:
        """Copy bytes in; raises DmaFault outside all buffers."""
        start, end = self.near
        after = address + len(data)
        if start <= address < end and after <= end:
            self._arena[address - self.base : after - self.base] = data
        else:
            self.window(address, len(data))[:] = data

    def windows(
        self, fragments: Iterable[tuple[int, int]], *, writable: bool
    ) -> list[memoryview] | None:
        """Return direct views of all fragments; raises DmaFault as `window` does."""
        return [self.window(address, length) for address, length in fragments]

    # ---------------------------------------------------------------------------------------------

    def _cover(self, address: int, length: int) -> None:
        insort(self._starts, address)
        self._ends[address] = address + length

    def _uncover(self, address: int) -> None:
        with self._lock:
            if self._ends.pop(address, None) is None:
                raise RemoteFrameError(f"no buffer begins at {address:#010x}")
            self.near = (0, 0)
            del self._starts[bisect_left(self._starts, address)]

    def _require_free(self, address: int, length: int) -> None:
        end = address + length
        if not (self.base <= address < end <= self.base + len(self._arena)):
            raise RemoteFrameError(
                f"{length} bytes at {address:#010x} are not in the {len(self._arena):#x} bytes "
                f"from {self.base:#010x} on"
            )
        index = bisect_left(self._starts, end) - 1
        if index >= 0 and self._ends[self._starts[index]] > address:
            raise RemoteFrameError(f"{length} bytes at {address:#010x} overlap another buffer")

    def _free_run(self, size: int, align: int) -> int:
        """Find room, from where the last buffer ended and around: stale addresses meet holes."""
        limit = self.base + len(self._arena)
        for first, last in ((self._next, limit), (self.base, limit)):
            address = -(-first // align) * align
            while address + size <= last:
                index = bisect_right(self._starts, address + size - 1) - 1
                end = self._ends[self._starts[index]] if index >= 0 else 0
                if end <= address:
                    return address
                address = -(-end // align) * align
        raise MemoryError(f"no {size:#x} bytes of shared memory are free")
