# SPDX-License-Identifier: Apache-2.0
"""What happened when: rates, queue depth and latencies over time, in a bounded number of slots."""

from __future__ import annotations

from typing import Final, NamedTuple

MAX_SLOTS: Final = 512
"""When more would be needed, neighbours are merged and every slot is twice as long."""
_FIRST_NS: Final = 100_000
_MAX_NS: Final = 1 << 66


class Slot(NamedTuple):
    """A stretch of time.

    Attributes:
        start_ns: since the first message.
        messages: requests and replies in it.
        depth: most requests without a final reply at one time.
        latencies: replies with a latency.
        latency_sum_ns: of those.
        latency_max_ns: the longest of those.
    """

    start_ns: int
    messages: int
    depth: int
    latencies: int
    latency_sum_ns: int
    latency_max_ns: int


class Timeline:
    """Slots of equal length from the first message on.

    Attributes:
        slot_ns: length of a slot; it doubles as the time gets longer.
    """

    __slots__ = ("_end", "_end_ns", "_slots", "_start_ns", "slot_ns")

    def __init__(self) -> None:
        self.slot_ns = _FIRST_NS
        self._start_ns: int | None = None
        self._end_ns = 0
        self._end = 0  # depth behind the last message
        # messages, most depth, depth at the start, latencies, their sum, the longest
        self._slots: list[list[int]] = []

    def add(self, time_ns: int, depth: int, latency_ns: int | None = None) -> None:
        """Note a message.

        Args:
            time_ns: when; one before the first counts as then.
            depth: requests without a final reply behind it.
            latency_ns: for replies, what they took.
        """
        if self._start_ns is None:
            self._start_ns = time_ns
        since = time_ns - self._start_ns
        if since > self._end_ns:
            if since > _MAX_NS:
                since = _MAX_NS
            self._end_ns = since
        at = since // self.slot_ns if since > 0 else 0
        slots = self._slots
        if at >= len(slots):
            at = self._grow(at, since)
            slots = self._slots
        slot = slots[at]
        slot[0] += 1
        if depth > slot[1]:
            slot[1] = depth
        if latency_ns is not None:
            slot[3] += 1
            slot[4] += latency_ns
            if latency_ns > slot[5]:
                slot[5] = latency_ns
        self._end = depth

    @property
    def seconds(self) -> float:
        """From the first message to the last."""
        return self._end_ns / 1e9

    def slots(self, count: int = MAX_SLOTS) -> list[Slot]:
        """Return the slots.

        Args:
            count: the most to return; neighbours are merged as needed.
        """
        merge = max(1, -(-len(self._slots) // count)) if count > 0 else 1
        found = []
        for at in range(0, len(self._slots), merge):
            parts = self._slots[at : at + merge]
            found.append(
                Slot(
                    at * self.slot_ns,
                    sum(part[0] for part in parts),
                    max(max(part[1], part[2]) for part in parts),
                    sum(part[3] for part in parts),
                    sum(part[4] for part in parts),
                    max(part[5] for part in parts),
                )
            )
        return found

    def _grow(self, at: int, since: int) -> int:
        """Make slots up to one; return its index, which is another if slots were merged."""
        while at >= MAX_SLOTS:
            self.slot_ns *= 2
            self._slots = [
                _merged(self._slots[even : even + 2]) for even in range(0, len(self._slots), 2)
            ]
            at = since // self.slot_ns
        while at >= len(self._slots):  # nothing happened in between: the depth stays
            self._slots.append([0, 0, self._end, 0, 0, 0])
        return at


def _merged(pair: list[list[int]]) -> list[int]:
    first, last = pair[0], pair[-1]
    if first is last:
        return first
    return [
        first[0] + last[0],
        max(first[1], last[1], last[2]),
        first[2],
        first[3] + last[3],
        first[4] + last[4],
        max(first[5], last[5]),
    ]
