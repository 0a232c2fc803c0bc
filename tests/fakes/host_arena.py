# SPDX-License-Identifier: Apache-2.0
"""Host memory with guards: who writes next to a buffer, or where no request points, is found."""

from __future__ import annotations

from collections.abc import Iterable

from i2o.transport.bus_space import BusSpace

GUARD = 64
"""Bytes between two buffers."""
PATTERN = 0xA5
PAGE = 4096


class HostArena:
    """One large buffer of host memory that is handed out in parts, guards between them.

    Sources are what devices read: their bytes never change, or `restore` puts them back. Sinks are
    what devices write to.

    Args:
        memory: the bus.
        size: bytes of the sources; the sinks get as much again and a quarter.
    """

    def __init__(self, memory: BusSpace, size: int) -> None:
        sinks = [(length, count) for length, count in _SINKS for _ in range(count)]
        room = sum(length + GUARD for length, _ in sinks) + (_PAGES + 1) * 2 * PAGE
        self._buffer = memory.allocate(size + room, align=1 << 20)
        self.view = self._buffer.view
        self.start, self.end = self._buffer.bus_address, self._buffer.end
        self.view[:] = bytes([PATTERN]) * len(self.view)
        self._next, self._sources_end = self.start + GUARD, self.start + size
        self._known: dict[bytes, int] = {}
        self._sinks: list[tuple[int, int]] = []
        self._pages: list[int] = []
        self.guards: list[tuple[int, int]] = []
        place = self._sources_end
        for length, _ in sinks:
            self._sinks.append((place, length))
            self.guards.append((place + length, place + length + GUARD))
            place += length + GUARD
        place = -(-place // PAGE) * PAGE
        for _ in range(_PAGES):
            self._pages.append(place)
            self.guards.append((place + PAGE, place + 2 * PAGE))
            place += 2 * PAGE
        self._pristine = b""

    def source(self, data: bytes) -> int:
        """Keep bytes in host memory; return their bus address. Equal ones are kept once."""
        if data in self._known:
            return self._known[data]
        address = self._next
        self._next = address + -(-len(data) // 4) * 4 + GUARD
        assert self._next <= self._sources_end, "the arena has too few sources"
        self.view[address - self.start : address - self.start + len(data)] = data
        self._known[data] = address
        return address

    def last_source(self, data: bytes) -> int:
        """Return the address of the source with these bytes, or 0."""
        return self._known.get(data, 0)

    def sink(self, pick: int, size: int) -> int:
        """Return the address of `size` bytes that end where a guard begins, or begin behind one."""
        fitting = [one for one in self._sinks if one[1] >= size]
        address, length = fitting[pick % min(len(fitting), 6)]
        return address if pick & 1 else address + length - size

    def pages(self, pick: int, count: int) -> list[int]:
        """Return the addresses of pages."""
        return [self._pages[(pick + index) % _PAGES] for index in range(count)]

    @property
    def edges(self) -> list[int]:
        """Addresses at which something begins or ends."""
        places = [self.start, self.end, *self._pages]
        places += [place for guard in self.guards for place in guard]
        return places

    def freeze(self) -> None:
        """Take the sources as they are for what they have to be."""
        self._pristine = bytes(self.view[: self._sources_end - self.start])

    def restore(self, address: int, length: int) -> None:
        """Put sources and guards back where a request was allowed to write over them."""
        first, last = max(address, self.start), min(address + length, self._sources_end)
        if first < last:
            first, last = first - self.start, last - self.start
            self.view[first:last] = self._pristine[first:last]
        for start, end in self.guards:
            if start < address + length and address < end:
                self.view[start - self.start : end - self.start] = bytes([PATTERN]) * (end - start)

    def damage(self) -> str:
        """Say what is not as it has to be, or nothing."""
        if self.view[: len(self._pristine)] != self._pristine:
            for place, byte in enumerate(self._pristine):
                if self.view[place] != byte:
                    return f"the byte at {self.start + place:#x}, which nobody may write, changed"
        for start, end in self.guards:
            part = self.view[start - self.start : end - self.start]
            if part != bytes([PATTERN]) * (end - start):
                return f"the guard at {start:#x} was written over"
        return ""


_SINKS = ((16, 8), (96, 8), (256, 6), (1024, 6), (4096, 6), (1 << 14, 6))
_PAGES = 6


class WatchedDma:
    """The device's way to host memory, which notes what is written.

    Args:
        memory: the bus.

    Attributes:
        memory: as given.
        written: (address, bytes) of every write, and of every piece that was handed out writable.
        is_blind: `windows` checks, but gives no views away, as if memory was another process's.
    """

    def __init__(self, memory: BusSpace) -> None:
        self.memory = memory
        self.read = memory.read
        self.written: list[tuple[int, int]] = []
        self.is_blind = False

    def write(self, address: int, data: bytes | memoryview) -> None:
        self.memory.write(address, data)
        self.written.append((address, len(data)))

    def windows(
        self, fragments: Iterable[tuple[int, int]], *, writable: bool
    ) -> list[memoryview] | None:
        fragments = list(fragments)
        views = self.memory.windows(fragments, writable=writable)
        if self.is_blind:
            return None
        if writable:
            self.written += fragments
        return views


class RemoteDma(WatchedDma):
    """The same for memory that is reached by messages: what is written is sent.

    Args:
        dma: who checks and notes what is written.
    """

    def __init__(self, dma: WatchedDma) -> None:
        super().__init__(dma.memory)
        self.written, self.is_blind = dma.written, True

    def staging(self, length: int) -> memoryview:
        return memoryview(bytearray(length))

    def write_staged(self, address: int, data: memoryview) -> None:
        self.write(address, data)

    def write_lent(self, address: int, data: memoryview) -> None:
        self.write(address, data)
