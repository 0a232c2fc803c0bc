# SPDX-License-Identifier: Apache-2.0
"""Where an address is in the memory of a request."""

from __future__ import annotations

import random

import pytest

from i2o.decode.request_memory import RequestMemory
from i2o.frames.host_ranges import HostRange


def linear(ranges: list[HostRange], address: int) -> tuple[int, int] | None:
    for found in ranges:
        if found.address <= address < found.address + found.length:
            return found.buffer, found.offset + address - found.address
    return None


@pytest.mark.parametrize("apart", [0, 1, 5, 40])
@pytest.mark.parametrize("count", [0, 1, 8, 9, 60])
def test_places_are_those_of_the_first_range(count: int, apart: int) -> None:
    """Also where ranges overlap, have no length, or are in no order."""
    chance = random.Random(count + apart)
    ranges = [
        HostRange(n % 3, 100 * n, 1000 + apart * n, chance.choice((0, 1, 5, 12)), False)
        for n in range(count)
    ]
    chance.shuffle(ranges)
    memory = RequestMemory(ranges)
    for address in range(980, 1060 + apart * count):
        assert memory.place_of(address) == linear(ranges, address), address


def test_rooms_and_total() -> None:
    ranges = [HostRange(0, 0, 0x100, 8, True), HostRange(-1, 0, 0x50, 4, True)]
    memory = RequestMemory(
        [*ranges, HostRange(0, 8, 0x200, 16, True), HostRange(1, 0, 0, 3, False)]
    )
    assert memory.rooms == {0: 24, -1: 4, 1: 3}
    assert memory.total == 31
    assert RequestMemory([]).rooms == {}
    assert RequestMemory([]).total == 0
