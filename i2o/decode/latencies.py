# SPDX-License-Identifier: Apache-2.0
"""How long things took: a histogram of times in memory that does not grow with their number."""

from __future__ import annotations

from typing import Final

_BITS: Final = 5
_STEPS: Final = 1 << _BITS
_EXACT: Final = 2 * _STEPS
_MAX_NS: Final = (1 << 63) - 1

RELATIVE_ERROR: Final = 1 / _EXACT
"""A percentile is at most this share away from the true one (1.6 %); min, max, mean are exact."""


class Latencies:
    """Times in nanoseconds, counted on a logarithmic scale: 32 steps from each power of 2 on.

    Attributes:
        count: how many there are.
        total_ns: their sum.
        min_ns: the shortest, 0 if there is none.
        max_ns: the longest.
    """

    __slots__ = ("_counts", "count", "max_ns", "min_ns", "total_ns")

    def __init__(self) -> None:
        self.count = self.total_ns = self.min_ns = self.max_ns = 0
        self._counts: dict[int, int] = {}  # at most 1888 steps

    def add(self, time_ns: int) -> None:
        """Count a time; one below zero (a clock that was set back) counts as zero."""
        if time_ns < 0:
            time_ns = 0
        elif time_ns > _MAX_NS:
            time_ns = _MAX_NS
        shift = time_ns.bit_length() - _BITS - 1
        step = time_ns if shift <= 0 else (shift << _BITS) + (time_ns >> shift)
        counts = self._counts
        counts[step] = counts.get(step, 0) + 1
        if not self.count or time_ns < self.min_ns:
            self.min_ns = time_ns
        if time_ns > self.max_ns:
            self.max_ns = time_ns
        self.count += 1
        self.total_ns += time_ns

    @property
    def mean_ns(self) -> float:
        """The mean, 0 if there is nothing."""
        return self.total_ns / self.count if self.count else 0.0

    def percentile(self, percent: float) -> int:
        """Return the time that this many percent do not exceed, 0 if there is nothing.

        Args:
            percent: 0 to 100.
        """
        if not self.count:
            return 0
        rank = max(1, -(-self.count * percent // 100))
        if rank >= self.count:
            return self.max_ns
        seen = 0
        for step in sorted(self._counts):
            seen += self._counts[step]
            if seen >= rank:
                break
        return min(max(_middle(step), self.min_ns), self.max_ns)


def _middle(step: int) -> int:
    """Return the time in the middle of a step."""
    if step < _EXACT:
        return step
    shift = (step >> _BITS) - 1
    return ((step - (shift << _BITS)) << shift) + (1 << shift >> 1)
