# SPDX-License-Identifier: Apache-2.0
"""Scatter/gather lists of every form there is, right in every bit, and where their fields are."""

from __future__ import annotations

import random
import struct
from dataclasses import dataclass, field
from typing import NamedTuple

from fakes.host_arena import PAGE, HostArena

LAST, END_OF_BUFFER, OUT = 0x80, 0x40, 0x04
IGNORE, TRANSPORT, BIT_BUCKET, IMMEDIATE, SIMPLE, PAGES, CHAIN = (
    0x00, 0x04, 0x08, 0x0C, 0x10, 0x20, 0x30,
)  # fmt: skip
LONG, SHORT, ATTRIBUTES = 0x40, 0x70, 0x7C


class Place(NamedTuple):
    """A field that can be mutated.

    Attributes:
        source: bus address of the source it is in; 0 for the frame itself.
        byte: where it starts.
        bit: the lowest bit in that byte.
        width: bits.
        kind: what it holds.
        known: values that mean something there.
    """

    source: int
    byte: int
    bit: int
    width: int
    kind: str
    known: tuple[int, ...] = ()


@dataclass
class Buffer:
    """A logical buffer that a list is to describe.

    Attributes:
        data: what the device reads; None for one that it writes to.
        size: bytes.
        may_be_immediate: the data may stand in the list itself.
    """

    data: bytes | None
    size: int
    may_be_immediate: bool = True


@dataclass
class Listed:
    """A list.

    Attributes:
        data: what stands in the frame.
        places: its fields, from the start of the list, and those of chained lists.
        writes: what the device may write to.
    """

    data: bytes = b""
    places: list[Place] = field(default_factory=list)
    writes: list[tuple[int, int]] = field(default_factory=list)


class _Elements:
    """Elements as bytes, with their fields."""

    def __init__(self) -> None:
        self.data = bytearray()
        self.places: list[tuple[int, int, str]] = []
        self.ends: list[int] = []
        self.last = 0

    def add(self, flags: int, count: int, *words: tuple[str, int, int], data: bytes = b"") -> None:
        """Add an element: its words as (kind, value, bytes), then data."""
        start = self.last = len(self.data)
        self.data += struct.pack("<I", flags << 24 | count)
        self.places += [(start, 24, "count"), (start + 3, 8, "flags")]
        for kind, value, size in words:
            self.places.append((len(self.data), 8 * size, kind))
            self.data += value.to_bytes(size, "little")
        self.data += data + bytes(-len(data) % 4)
        self.ends.append(len(self.data))


class ListMaker:
    """Makes lists.

    Args:
        arena: where sources and sinks are.
        rng: decides on everything.
    """

    def __init__(self, arena: HostArena, rng: random.Random) -> None:
        self._arena, self._rng = arena, rng

    def make(self, *buffers: Buffer, room: int = 400) -> Listed:
        """Return a list that describes the buffers, in `room` bytes at most."""
        for _ in range(8):
            listed = self._make(buffers)
            if len(listed.data) <= room:
                return listed
        listed = Listed()
        elements = _Elements()
        for buffer in buffers:
            address = self._address(buffer, listed)
            flags = SIMPLE | END_OF_BUFFER | (OUT if buffer.data is not None else 0)
            elements.add(flags, buffer.size, ("address", address, 4))
        self._finish(listed, elements, is_marked=True)
        return listed

    def _make(self, buffers: tuple[Buffer, ...]) -> Listed:
        rng, listed, elements = self._rng, Listed(), _Elements()
        address_size = context_size = 4
        if rng.random() < 0.12:
            attributes = rng.choice((0, 2, 4, 6))
            address_size = 8 if attributes & 2 else 4
            context_size = 8 if attributes & 4 else 4
            elements.add(ATTRIBUTES, 2 << 16 | attributes, ("page_size", PAGE, 4))
        for buffer in buffers:
            if rng.random() < 0.08:
                self._aside(elements, context_size)
            self._describe(buffer, listed, elements, address_size, context_size)
        if rng.random() < 0.15:
            self._chain(listed, elements, address_size)
        else:
            self._finish(listed, elements, is_marked=rng.random() < 0.85)
        return listed

    def _aside(self, elements: _Elements, context_size: int) -> None:
        """Add an element that describes no data."""
        rng = self._rng
        kind = rng.choice((IGNORE, TRANSPORT, LONG, SHORT))
        data = rng.randbytes(4 * rng.randrange(1, 3))
        context = ("context", rng.getrandbits(16), context_size)
        if kind == LONG:
            elements.add(LONG | 1, len(data), context, data=data)
        elif kind == SHORT:
            words = 1 + (context_size + len(data)) // 4
            elements.add(SHORT | 1, words << 16, context, data=data)
        else:
            elements.add(kind, len(data), data=data)

    def _describe(
        self,
        buffer: Buffer,
        listed: Listed,
        elements: _Elements,
        address_size: int,
        context_size: int,
    ) -> None:
        """Add the elements of one buffer."""
        rng = self._rng
        way = OUT if buffer.data is not None else 0
        if (
            buffer.data is not None
            and buffer.may_be_immediate
            and rng.random() < (0.6 if buffer.size <= 64 else 0.2)
        ):
            elements.add(IMMEDIATE | END_OF_BUFFER | way, buffer.size, data=buffer.data)
            return
        contexts = rng.choice((0, 0, 0, 1, 2, 3))
        words = [("context", rng.getrandbits(16), context_size)] * contexts
        if buffer.data is None:
            shape = rng.random()
            if shape < 0.15 and buffer.size <= 4 * PAGE:
                within = rng.choice((0, -buffer.size % PAGE, 512))  # where the first one starts
                page_count = -(-(within + buffer.size) // PAGE)
                pages = self._arena.pages(rng.randrange(1000), page_count)
                left, room = buffer.size, PAGE - within
                pages[0] += within
                for page in pages:
                    listed.writes.append((page, min(left, room)))
                    left, room = left - min(left, room), PAGE
                addresses = [("address", page, address_size) for page in pages]
                elements.add(PAGES | END_OF_BUFFER | contexts, buffer.size, *words, *addresses)
                return
            if shape < 0.22:
                context = ("context", 7, context_size)
                elements.add(BIT_BUCKET | END_OF_BUFFER | 1, buffer.size, context)
                return
        address = self._address(buffer, listed)
        cuts = sorted(rng.randrange(buffer.size + 1) for _ in range(rng.choice((0, 0, 1, 2))))
        starts = [0, *cuts]
        for index, start in enumerate(starts):
            is_end = index + 1 == len(starts)
            length = (buffer.size if is_end else starts[index + 1]) - start
            flags = SIMPLE | way | contexts | (END_OF_BUFFER if is_end else 0)
            elements.add(flags, length, *words, ("address", address + start, address_size))

    def _address(self, buffer: Buffer, listed: Listed) -> int:
        if buffer.data is not None:
            return self._arena.source(buffer.data)
        address = self._arena.sink(self._rng.randrange(1000), buffer.size)
        listed.writes.append((address, buffer.size))
        return address

    def _chain(self, listed: Listed, elements: _Elements, address_size: int) -> None:
        """Leave some elements in the frame, and put the others elsewhere."""
        cut = self._rng.choice((0, *elements.ends))
        if cut == len(elements.data) or (cut == 0 and address_size == 8):
            self._finish(listed, elements, is_marked=True)
            return
        elements.data[elements.last + 3] |= LAST
        address = self._arena.source(bytes(elements.data[cut:]))
        for byte, width, kind in elements.places:
            if byte < cut:
                listed.places.append(Place(0, byte, 0, width, kind))
            else:
                listed.places.append(Place(address, byte - cut, 0, width, kind))
        head = struct.pack("<I", (CHAIN | LAST) << 24 | len(elements.data) - cut)
        listed.data = bytes(elements.data[:cut]) + head + address.to_bytes(address_size, "little")
        listed.places += [
            Place(0, cut, 0, 24, "count"),
            Place(0, cut + 3, 0, 8, "flags"),
            Place(0, cut + 4, 0, 8 * address_size, "address"),
        ]

    @staticmethod
    def _finish(listed: Listed, elements: _Elements, *, is_marked: bool) -> None:
        if is_marked:
            elements.data[elements.last + 3] |= LAST
        listed.data = bytes(elements.data)
        listed.places += [Place(0, byte, 0, width, kind) for byte, width, kind in elements.places]
