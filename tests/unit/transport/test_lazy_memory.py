# SPDX-License-Identifier: Apache-2.0
"""Memory that is provided when it is used."""

from __future__ import annotations

from pathlib import Path

import pytest

from i2o.transport.bus_space import BusSpace
from i2o.transport.lazy_memory import clear, zeroed

SIZE = 64 << 20
PAGE = 4096


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE


@pytest.fixture
def before() -> int:
    """Bytes that the process had in memory."""
    return resident()


def test_it_is_provided_when_it_is_written(before: int) -> None:
    memory = zeroed(SIZE)
    assert len(memory) == SIZE
    assert not memory.readonly
    assert memory[SIZE - 1] == 0
    assert resident() - before < SIZE // 8
    memory[:] = bytes([1]) * SIZE
    assert resident() - before > SIZE // 2
    del memory
    assert resident() - before < SIZE // 8, "it is given back"


def test_clearing_touches_only_what_is_not_zero(before: int) -> None:
    memory = zeroed(SIZE)
    for place in (0, SIZE // 2 + 5, SIZE - 1):
        memory[place] = 7
    clear(memory)
    assert memory.tobytes().count(0) == SIZE
    assert resident() - before < SIZE // 8


@pytest.mark.parametrize("size", [1, 1000, (1 << 18) - 1, (1 << 18) + 1])
def test_any_size_is_cleared(size: int) -> None:
    memory = memoryview(bytearray(b"x" * size))
    clear(memory)
    assert memory == bytes(size)


def test_more_than_there_is() -> None:
    with pytest.raises(MemoryError, match="no 0x1000000000000000 bytes"):
        zeroed(1 << 60)


def test_a_process_that_forks_keeps_its_own() -> None:
    def shared() -> int:
        return Path("/proc/self/maps").read_text().count("/dev/zero")

    before = shared()
    memory = zeroed(PAGE)
    assert shared() == before, "such memory would be the child's, too"
    assert len(memory) == PAGE


def test_large_buffers_of_a_host_are_such_memory(before: int) -> None:
    space = BusSpace()
    buffer = space.allocate(SIZE)
    assert resident() - before < SIZE // 8
    space.write(buffer.bus_address + SIZE - 4, b"last")
    assert space.read(buffer.bus_address + SIZE - 4, 4) == b"last"
    buffer.free()
