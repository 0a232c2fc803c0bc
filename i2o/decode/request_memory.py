# SPDX-License-Identifier: Apache-2.0
"""The host memory of one request, arranged so that looking a place up in it is quick."""

from __future__ import annotations

from bisect import bisect_right
from functools import cached_property
from itertools import pairwise
from operator import attrgetter
from typing import Final

from i2o.frames.host_ranges import HostRange

_FEW: Final = 8


_address = attrgetter("address")


class RequestMemory:
    """What a request points to.

    Args:
        ranges: the pieces of its buffers, in the order of its list.

    Attributes:
        ranges: those.
    """

    def __init__(self, ranges: list[HostRange]) -> None:
        self.ranges = ranges

    def place_of(self, address: int) -> tuple[int, int] | None:
        """Return (buffer, offset in it) of a bus address; of overlapping pieces the first counts.

        None if nothing points there.
        """
        candidates = self.ranges
        if len(candidates) > _FEW and self._sorted is not None:
            at = bisect_right(self._starts, address)
            candidates = self._sorted[at - 1 : at] if at else []
        for found in candidates:
            if found.address <= address < found.address + found.length:
                return found.buffer, found.offset + address - found.address
        return None

    @cached_property
    def rooms(self) -> dict[int, int]:
        """Bytes that the host gave each buffer."""
        rooms: dict[int, int] = {}
        for found in self.ranges:
            end = found.offset + found.length
            if end > rooms.get(found.buffer, 0):
                rooms[found.buffer] = end
        return rooms

    @cached_property
    def total(self) -> int:
        """Bytes of all pieces together."""
        return sum(found.length for found in self.ranges)

    @cached_property
    def _sorted(self) -> list[HostRange] | None:
        """The pieces by address, None if some overlap: then their order in the list matters."""
        found = sorted((piece for piece in self.ranges if piece.length), key=_address)
        if any(low.address + low.length > high.address for low, high in pairwise(found)):
            return None
        return found

    @cached_property
    def _starts(self) -> list[int]:
        return [found.address for found in self._sorted or ()]
