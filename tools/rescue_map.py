# SPDX-License-Identifier: Apache-2.0
"""Which bytes of a disk are rescued: a map, and its file in the format of GNU ddrescue."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from enum import Enum
from typing import Final, NamedTuple

from i2o._version import __version__
from i2o.errors import I2OError


class Status(Enum):
    """What became of an area; the values are those of the file."""

    NON_TRIED = "?"
    NON_TRIMMED = "*"
    NON_SCRAPED = "/"
    BAD_SECTOR = "-"
    FINISHED = "+"


class Phase(Enum):
    """What a rescue is doing; the values are those of the file."""

    COPYING = "?"
    SCRAPING = "/"
    RETRYING = "-"
    FINISHED = "+"


class Area(NamedTuple):
    """Bytes of one status."""

    start: int
    end: int
    status: Status

    @property
    def size(self) -> int:
        """Bytes."""
        return self.end - self.start


_NUMBER: Final = r"(0[xX][0-9a-fA-F]+|\d+)"
_AREA: Final = re.compile(rf"{_NUMBER}\s+{_NUMBER}\s+([?*/+-])")
_POSITION: Final = re.compile(rf"{_NUMBER}\s+[?*/FG+-](\s+\d+)?")
_HEAD: Final = """\
# Mapfile. Created by i2o rescue version {version}
# {comment}
# current_pos  current_status  current_pass
{position:#010x}     {phase}               {turn}
#      pos        size  status
"""


class MapFileError(I2OError):
    """A file is no map, or the map of another disk."""


class RescueMap:
    """The status of every byte of a disk: areas without gaps, neighbours of different status.

    Args:
        size: bytes of the disk; nothing is tried yet.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self._starts = [0]
        self._statuses = [Status.NON_TRIED]

    def __iter__(self) -> Iterator[Area]:
        ends = [*self._starts[1:], self.size]
        return map(Area, self._starts, ends, self._statuses)

    def areas(self, *statuses: Status) -> list[Area]:
        """Return the areas of some statuses, in order."""
        return [area for area in self if area.status in statuses]

    def count(self, *statuses: Status) -> int:
        """Return how many bytes have one of some statuses."""
        return sum(area.size for area in self.areas(*statuses))

    def mark(self, start: int, end: int, status: Status) -> None:
        """Give bytes from `start` to before `end` a status."""
        if start >= end:
            return
        first = bisect_right(self._starts, start) - 1
        last = bisect_right(self._starts, end - 1) - 1
        after = self.size if last + 1 == len(self._starts) else self._starts[last + 1]
        parts = [
            (self._starts[first], start, self._statuses[first]),
            (start, end, status),
            (end, after, self._statuses[last]),
        ]
        if first:
            first -= 1
            parts.insert(0, (self._starts[first], self._starts[first + 1], self._statuses[first]))
        if after < self.size:
            last += 1
            parts.append((after, after + 1, self._statuses[last]))
        starts: list[int] = []
        statuses: list[Status] = []
        for begin, finish, kind in parts:
            if begin < finish and (not statuses or statuses[-1] is not kind):
                starts.append(begin)
                statuses.append(kind)
        self._starts[first : last + 1] = starts
        self._statuses[first : last + 1] = statuses

    def align(self, block_size: int) -> None:
        """Take every block for unfinished of which a part is; other programs cut differently."""
        for start, end, status in self.areas(*set(Status) - {Status.FINISHED}):
            whole = -(-end // block_size) * block_size
            self.mark(start // block_size * block_size, min(whole, self.size), status)

    # --- the file ------------------------------------------------------------------------------

    def text(self, position: int, phase: Phase, turn: int, comment: str) -> str:
        """Return the map as the file has it.

        Args:
            position: the byte that was worked on last.
            phase: what was done there.
            turn: how often this is done, from 1 on.
            comment: one line about the disk.
        """
        head = _HEAD.format(
            version=__version__, comment=comment, position=position, phase=phase.value, turn=turn
        )
        lines = (f"{area.start:#010x}  {area.size:#010x}  {area.status.value}\n" for area in self)
        return head + "".join(lines)

    @classmethod
    def parse(cls, lines: Iterable[str], size: int) -> RescueMap:
        """Read a map of a disk of `size` bytes; what it does not cover is not tried yet.

        Raises:
            MapFileError: it is no map, or that of a larger disk.
        """
        found = cls(size)
        position, has_position = 0, False
        for number, line in enumerate(lines, 1):
            text = line.partition("#")[0].strip()
            if not text:
                continue
            if not has_position:
                if not _POSITION.fullmatch(text):
                    raise MapFileError(f"line {number} is no position and status: {text!r}")
                has_position = True
                continue
            match = _AREA.fullmatch(text)
            if match is None:
                raise MapFileError(f"line {number} is no position, size and status: {text!r}")
            start, length = _number(match[1]), _number(match[2])
            if start != position and position:
                raise MapFileError(f"line {number} begins at {start:#x}, expected {position:#x}")
            position = start + length
            if position > size:
                raise MapFileError(
                    f"line {number} ends at {position}: the disk has only {size} bytes"
                )
            found.mark(start, position, Status(match[3]))
        if not has_position:
            raise MapFileError("it is empty")
        return found


def _number(text: str) -> int:
    """Read a number as C does: 0x for hexadecimal, 0 for octal."""
    base = 16 if text[:2].lower() == "0x" else 8 if text[:1] == "0" and len(text) > 1 else 10
    try:
        return int(text, base)
    except ValueError:
        raise MapFileError(f"{text!r} is no number") from None
