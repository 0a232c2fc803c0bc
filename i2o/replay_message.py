# SPDX-License-Identifier: Apache-2.0
"""A recorded request made ready to be sent again: its memory laid out anew, its list changed.

The scatter/gather list keeps its elements; only the addresses in it change. Every piece of memory
keeps its offset in the page, so page lists stay right.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from i2o.decode.conversation import Traced
from i2o.errors import I2OError, RemoteFrameError
from i2o.frames.functions import Function
from i2o.frames.header import HEADER_SIZE, MsgFlags, SpecialTid
from i2o.frames.host_ranges import MAX_RANGES, HostRange, sgl_start
from i2o.frames.sgl import SglAttributeFlags
from i2o.frames.sgl_walk import SglElement, sgl_elements
from i2o.replay_rules import only_gets

MAX_MEMORY: Final = 64 << 20
"""Bytes of host memory that one request may point to."""
_PAGE: Final = 4096
_MAX_PAGE: Final = 1 << 20
_NO_LIST: Final = "its chained list was not captured whole"
_WRONG_LIST: Final = "its scatter/gather list is wrong"
_KEPT_FLAGS: Final = MsgFlags.MULTIPLE.value
_64BIT: Final = MsgFlags.CONTEXT_64BIT.value
_ROUTE: Final = slice(4, 7)
_PARAMS_GET: Final = Function.UTIL_PARAMS_GET.value


class NotReplayable(I2OError):
    """A request cannot be sent again; the message says why, the same for all of a kind."""


class Piece(NamedTuple):
    """DMA of a recorded request, or memory of the new one.

    Attributes:
        address: bus address when it was recorded.
        data: as much as was captured.
        length: how long it was.
    """

    address: int
    data: bytes
    length: int


class Place(NamedTuple):
    """A contiguous range of the request's memory.

    Attributes:
        address: bus address when it was recorded.
        length: bytes.
        offset: where it is in the new buffer.
        to_device: the device reads it.
    """

    address: int
    length: int
    offset: int
    to_device: bool


class _Patch(NamedTuple):
    """An address to write: `width` bytes at `at` of a list (None: the frame)."""

    list_address: int | None
    at: int
    width: int
    offset: int


@dataclass(slots=True)
class MessagePlan:
    """A request, as it is sent again once its memory has an address.

    Attributes:
        size: bytes of memory that it needs, 0 for none.
        align: what the memory's bus address must be a multiple of.
        places: what of it is what.
        operations: for parameter requests, the operation list; None if it was not captured.
        out: data that the device reads, with their offset in the memory.
        patches: addresses in the list.
        lists: chained lists by recorded address, with their offset in the memory.
    """

    frame: bytearray
    size: int = 0
    align: int = _PAGE
    places: list[Place] = field(default_factory=list)
    operations: bytes | None = None
    out: list[tuple[int, bytes]] = field(default_factory=list)
    patches: list[_Patch] = field(default_factory=list)
    lists: dict[int, tuple[int, bytearray]] = field(default_factory=dict)

    def message(self, address: int, tid: int) -> bytes:
        """Return the frame for memory at a bus address and a device; the contexts are not ours.

        Args:
            address: of the memory; unused if `size` is 0.
            tid: whom it is for.
        """
        frame = bytearray(self.frame)
        frame[_ROUTE] = (tid | SpecialTid.HOST.value << 12).to_bytes(3, "little")
        for patch in self.patches:
            holder = frame
            if patch.list_address is not None:
                holder = self.lists[patch.list_address][1]
            end = patch.at + patch.width
            holder[patch.at : end] = (address + patch.offset).to_bytes(patch.width, "little")
        return bytes(frame)

    def fill(self, view: memoryview) -> None:
        """Write what the device is to read; behind `message`, which completes chained lists."""
        for offset, data in self.out:
            view[offset : offset + len(data)] = data
        for offset, chained in self.lists.values():
            view[offset : offset + len(chained)] = chained

    def differences(self, view: memoryview, recorded: Sequence[Piece]) -> int:
        """Return how many captured bytes that the device wrote are others now.

        Args:
            view: the memory behind the reply.
            recorded: what the device wrote when it was recorded.
        """
        different = 0
        for piece in recorded:
            for place in self.places:
                within = piece.address - place.address
                if place.to_device or not 0 <= within < place.length:
                    continue
                data = piece.data[: place.length - within]
                now = view[place.offset + within : place.offset + within + len(data)]
                if now != data:
                    different += sum(a != b for a, b in zip(now, data, strict=True))
                break
        return different


def plan_message(traced: Traced, out: Sequence[Piece]) -> MessagePlan:
    """Make a recorded request ready.

    Args:
        traced: the request.
        out: what its device read of its memory.

    Raises:
        NotReplayable: something of it was not captured, or it points to what is not host memory.
    """
    frame = bytearray(traced.frame)
    if len(frame) < max(HEADER_SIZE, 4 * traced.size_words):
        raise NotReplayable("its frame was not captured whole")
    if frame[1] & _64BIT:
        raise NotReplayable("it has 64-bit contexts")
    plan = MessagePlan(frame)
    start = sgl_start(frame)
    if start:
        _Planner(plan, traced, out).run(start)
    plan.frame[1] &= _KEPT_FLAGS
    return plan


class _Planner:
    """Walks the list of one request."""

    def __init__(self, plan: MessagePlan, traced: Traced, out: Sequence[Piece]) -> None:
        self._plan, self._traced, self._out = plan, traced, out
        self._end = 0
        self._known: dict[tuple[int, int, bool], int] = {}
        self._address_size = self._context_size = 4
        self._is_cut = self._has_data = False

    def run(self, start: int) -> None:
        plan, traced = self._plan, self._traced
        if len(traced.ranges) >= MAX_RANGES:
            raise NotReplayable("its scatter/gather list is too long")
        ranges = iter(found for found in traced.ranges if found.buffer >= 0)
        try:
            for element in sgl_elements(plan.frame, start, len(plan.frame), read_host=self._read):
                self._element(element, ranges)
        except RemoteFrameError:
            raise NotReplayable(_NO_LIST if self._is_cut else _WRONG_LIST) from None
        plan.size = self._end
        self._take_data()

    def _read(self, address: int, length: int) -> bytes:
        data = (self._traced.chained or {}).get(address, b"")
        if len(data) < length:
            self._is_cut = True
            raise NotReplayable(_NO_LIST)
        plan = self._plan
        if address not in plan.lists:
            plan.lists[address] = self._allocate(address, length), bytearray(data[:length])
        return data[:length]

    def _element(self, element: SglElement, ranges: Iterator[HostRange]) -> None:
        kind = element.kind
        if kind == "attributes":
            flags = element.attribute_flags
            self._address_size = 8 if flags & SglAttributeFlags.ADDRESS_64BIT else 4
            self._context_size = 8 if flags & SglAttributeFlags.TRANSACTION_64BIT else 4
            page = element.page_size or _PAGE
            if page > _MAX_PAGE:
                raise NotReplayable("its pages are too large")
            self._plan.align = max(self._plan.align, page)
        elif kind in ("immediate", "bit_bucket") and element.count:
            # operations only where nothing is in front of them; else they cannot be told
            self._note_operations(b"" if self._has_data else element.data)
            self._has_data = True
        elif kind in ("simple", "page_list", "chain"):
            if element.local:
                raise NotReplayable("it points to the IOP's own memory")
            at = element.offset + 4 + len(element.contexts) * self._context_size
            for index, (address, length) in enumerate(element.pieces):
                offset = 0
                if kind == "chain":
                    if address in self._plan.lists:  # twice: its addresses would be two
                        raise NotReplayable(_WRONG_LIST)
                    self._read(address, length)
                    offset = self._plan.lists[address][0]
                elif length:
                    found = next(ranges, None)
                    if found is None or found.address != address or found.length != length:
                        raise NotReplayable(_WRONG_LIST)
                    offset = self._place(address, length, found.to_device)
                    self._has_data = True
                width = self._address_size
                self._plan.patches.append(
                    _Patch(element.list_address, at + index * width, width, offset)
                )

    def _place(self, address: int, length: int, to_device: bool) -> int:
        """Return where a range goes; the same range twice goes to the same place."""
        key = address, length, to_device
        offset = self._known.get(key)
        if offset is None:
            offset = self._known[key] = self._allocate(address, length)
            self._plan.places.append(Place(address, length, offset, to_device))
        return offset

    def _allocate(self, address: int, length: int) -> int:
        offset = self._end + (address - self._end) % self._plan.align
        self._end = offset + length
        if self._end > MAX_MEMORY:
            raise NotReplayable(f"it needs more than {MAX_MEMORY >> 20} MiB of memory")
        return offset

    # --- data ----------------------------------------------------------------------------------

    def _take_data(self) -> None:
        """Fill what the device reads with what it read when it was recorded."""
        for place in self._plan.places:
            if not place.to_device:
                continue
            data = self._recorded(place)
            if self._plan.operations is None:
                self._note_operations(data)
            # a list of operations ends where it says: what is behind it need not be known
            is_list = self._plan.frame[7] == _PARAMS_GET and only_gets(data)
            is_cut = any(len(piece.data) < piece.length for piece in self._out)
            if len(data) < place.length and (is_cut or not is_list):
                raise NotReplayable("its data were not captured whole")
            self._plan.out.append((place.offset, data))

    def _recorded(self, place: Place) -> bytes:
        """Return what was captured of a place, from its start on."""
        data = bytearray()
        for piece in sorted(self._out, key=lambda piece: piece.address):
            within = piece.address - place.address
            if 0 <= within <= len(data) and within + len(piece.data) > len(data):
                data[within:] = piece.data
            elif within < 0 and within + len(piece.data) > len(data):
                data[:] = piece.data[-within:]
        return bytes(data[: place.length])

    def _note_operations(self, data: bytes) -> None:
        if self._plan.frame[7] == _PARAMS_GET:
            self._plan.operations = bytes(data)
