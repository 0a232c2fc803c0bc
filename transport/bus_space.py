# SPDX-License-Identifier: Apache-2.0
"""Host memory of an IOP that lives in the same process: a 32-bit bus, without a bus.

Every buffer gets a bus address of its own, aligned to a slot of 1 MiB, so that finding the
buffer behind an address is one dictionary look-up. Addresses are handed out in a circle: a device
that writes to a buffer freed a moment ago meets a hole, not somebody else's data.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from typing import Final

from i2o.errors import DmaFault, LocalFrameError
from i2o.transport.lazy_memory import zeroed

_SLOT_BITS: Final = 20
_SLOT_SIZE: Final = 1 << _SLOT_BITS
_LAZY_SIZE: Final = 8 << 20
_FIRST_SLOT: Final = 1  # the first MiB stays unused: a small number is no bus address
_END_SLOT: Final = (1 << 32) >> _SLOT_BITS


class BusBuffer:
    """A buffer with a bus address, in this process's own memory."""

    __slots__ = ("_space", "bus_address", "end", "view")

    def __init__(self, space: BusSpace, view: memoryview, bus_address: int) -> None:
        self._space: BusSpace | None = space
        self.view = view
        self.bus_address = bus_address
        self.end = bus_address + len(view)

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
        with space.is_landing:  # what reads into it in another thread ends first
            space._forget(self)


class BusLanding:
    """Part of a buffer that is read into: a `Landing`."""

    __slots__ = ("_address", "_buffer", "_space", "_view")

    def __init__(self, space: BusSpace, buffer: BusBuffer, address: int, view: memoryview) -> None:
        self._space, self._buffer, self._address, self._view = space, buffer, address, view

    def fill(self, start: int, length: int, read: Callable[[memoryview], int]) -> int:
        """Read once; raises DmaFault if the buffer was freed. See `Landing`."""
        with self._space.is_landing:
            if not self._space.has(self._buffer):
                raise DmaFault(
                    self._address + start, length, "the host freed that buffer meanwhile"
                )
            return read(self._view[start : start + length])


class BusSpace:
    """All buffers of one host that one in-process IOP can reach: `HostMemory` and `DmaSpace`.

    Attributes:
        is_landing: held while something is read straight into a buffer, and while one is freed.
    """

    def __init__(self) -> None:
        self._slots: dict[int, BusBuffer] = {}
        self.is_landing = threading.RLock()
        self._next_slot = _FIRST_SLOT

    def allocate(self, size: int, align: int = 4096) -> BusBuffer:
        """Return a zeroed buffer; raises MemoryError when no memory or no addresses are left."""
        if size < 1 or align < 1 or align & align - 1:
            raise LocalFrameError(f"cannot allocate {size} bytes aligned to {align}")
        is_large = size >= _LAZY_SIZE  # more pages than anybody gets again and again
        return self._place(zeroed(size) if is_large else memoryview(bytearray(size)), align)

    def map(self, buffer: memoryview) -> BusBuffer:
        """Give the caller's memory a bus address; raises LocalFrameError if it is not bytes."""
        if not buffer.c_contiguous or not buffer.nbytes:
            raise LocalFrameError("only contiguous, non-empty memory can be mapped")
        return self._place(buffer.cast("B"), _SLOT_SIZE)

    def window(self, bus_address: int, length: int) -> memoryview:
        """Return the bytes behind a range; raises DmaFault outside all buffers."""
        buffer = self._slots.get(bus_address >> _SLOT_BITS)
        if buffer is None or bus_address + length > buffer.end or length < 0:
            raise self._fault(bus_address, length)
        start = bus_address - buffer.bus_address
        return buffer.view[start : start + length]

    def read(self, address: int, length: int) -> bytes:
        """Copy bytes out; raises DmaFault outside all buffers."""
        return bytes(self.window(address, length))

    def write(self, address: int, data: bytes | bytearray | memoryview) -> None:
        """Copy bytes in; raises DmaFault outside all buffers or into a read-only one."""
        length = len(data)
        buffer = self._slots.get(address >> _SLOT_BITS)
        if buffer is None or address + length > buffer.end:
            raise self._fault(address, length)
        start = address - buffer.bus_address
        try:
            buffer.view[start : start + length] = data
        except TypeError:
            raise DmaFault(address, length, "the host mapped that buffer read-only") from None

    def windows(
        self, fragments: Iterable[tuple[int, int]], *, writable: bool
    ) -> list[memoryview] | None:
        """Return direct views of all fragments; raises DmaFault as `read` and `write` do."""
        views = []
        for address, length in fragments:
            view = self.window(address, length)
            if writable and view.readonly:
                raise DmaFault(address, length, "the host mapped that buffer read-only")
            views.append(view)
        return views

    def landing(self, address: int, length: int) -> BusLanding:
        """Return a range to read into; raises DmaFault as `write`."""
        view = self.window(address, length)
        if view.readonly:
            raise DmaFault(address, length, "the host mapped that buffer read-only")
        return BusLanding(self, self._slots[address >> _SLOT_BITS], address, view)

    def has(self, buffer: BusBuffer) -> bool:
        """Whether a buffer has its bus addresses still."""
        return self._slots.get(buffer.bus_address >> _SLOT_BITS) is buffer

    @property
    def buffer_count(self) -> int:
        """Buffers that are mapped now."""
        return len({id(buffer) for buffer in self._slots.values()})

    def _fault(self, address: int, length: int) -> DmaFault:
        """Say why a range is not one buffer's. Buffers start at a slot's first byte."""
        buffer = self._slots.get(address >> _SLOT_BITS)
        if buffer is None or length < 0:
            return DmaFault(address, length)
        return DmaFault(address, length, f"the host buffer there ends at {buffer.end:#010x}")

    def _place(self, view: memoryview, align: int) -> BusBuffer:
        size = len(view)
        slots = self._slots
        if size <= _SLOT_SIZE >= align:
            slot = self._next_slot
            if slot < _END_SLOT and slot not in slots:
                buffer = BusBuffer(self, view, slot << _SLOT_BITS)
                self._next_slot = slot + 1
                if slots.setdefault(slot, buffer) is buffer:  # no other thread was faster
                    return buffer
        count = (size + _SLOT_SIZE - 1) >> _SLOT_BITS
        step = max(1, align >> _SLOT_BITS)
        while True:
            slot = self._free_run(count, step)
            buffer = BusBuffer(self, view, slot << _SLOT_BITS)
            self._next_slot = slot + count
            taken = [slots.setdefault(index, buffer) for index in range(slot, slot + count)]
            if all(other is buffer for other in taken):
                return buffer
            for index, other in enumerate(taken, slot):
                if other is buffer:
                    del slots[index]

    def _free_run(self, count: int, step: int) -> int:
        """Return the first of `count` free slots at a multiple of `step`, looking once around."""
        slots = self._slots
        for start, end in (
            (self._next_slot, _END_SLOT),
            (_FIRST_SLOT, min(_END_SLOT, self._next_slot + count)),
        ):
            slot = -(-start // step) * step
            while slot + count <= end:
                for index in range(slot + count - 1, slot - 1, -1):
                    if index in slots:
                        slot = -(-(index + 1) // step) * step
                        break
                else:
                    return slot
        raise MemoryError(f"no {count * _SLOT_SIZE:#x} bytes of bus addresses are free")

    def _forget(self, buffer: BusBuffer) -> None:
        first = buffer.bus_address >> _SLOT_BITS
        last = (buffer.end - 1) >> _SLOT_BITS
        del self._slots[first]
        for index in range(first + 1, last + 1):
            del self._slots[index]
