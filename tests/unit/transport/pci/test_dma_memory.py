# SPDX-License-Identifier: Apache-2.0
"""Buffers in huge pages: below 4 GiB, contiguous, and given back."""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import struct
from collections.abc import Callable

import pytest

from i2o.errors import DmaFault, TransportUnavailable
from i2o.transport.pci.dma_memory import (
    HUGE_PAGE,
    HugePageMemory,
    address_of,
    huge_page_size,
    physical_address,
)

GIB = 1 << 30


class Pages:
    """Huge pages with physical addresses of the test's choice."""

    def __init__(self, *addresses: int, size: int = HUGE_PAGE) -> None:
        self._addresses, self._size = list(addresses), size
        self._by_page: dict[int, int] = {}
        self.taken: list[mmap.mmap] = []

    def take(self) -> mmap.mmap | None:
        if not self._addresses:
            return None
        page = mmap.mmap(-1, self._size)
        self._by_page[address_of(page)] = self._addresses.pop(0)
        self.taken.append(page)
        return page

    def physical(self, address: int) -> int:
        return self._by_page[address]


def memory(pages: Pages, size: int = 2 * HUGE_PAGE) -> HugePageMemory:
    return HugePageMemory(size, "uio", pages.physical, pages.take)


def test_pages_are_as_large_as_the_kernel_makes_them(tmp_path):
    pages = Pages(GIB, 4 * GIB - HUGE_PAGE, size=2 * HUGE_PAGE)
    space = memory(pages)
    assert len(pages.taken) == 1  # it is enough
    buffer = space.allocate(2 * HUGE_PAGE)
    assert buffer.bus_address == GIB
    assert len(space.window(GIB + HUGE_PAGE, HUGE_PAGE)) == HUGE_PAGE
    buffer.free()
    space.close()
    with pytest.raises(TransportUnavailable, match="1 lie above"):  # its end does
        memory(pages)
    for text, size in (("Hugepagesize:       4096 kB\n", 4 << 20), ("MemFree: 1 kB\n", HUGE_PAGE)):
        (tmp_path / "meminfo").write_text(f"MemTotal: 9 kB\n{text}Hugetlb: 0 kB\n")
        assert huge_page_size(tmp_path / "meminfo") == size


def test_only_pages_below_4_gib_are_kept():
    pages = Pages(5 * GIB, 3 * GIB, 4 * GIB - HUGE_PAGE, 4 * GIB, GIB)
    with_low = memory(pages)
    assert [page.closed for page in pages.taken] == [True, False, False]
    first = with_low.allocate(HUGE_PAGE)
    second = with_low.allocate(4096)
    assert (first.bus_address, second.bus_address) == (3 * GIB, 4 * GIB - HUGE_PAGE)
    with pytest.raises(MemoryError, match="free in 2 huge pages"):
        with_low.allocate(HUGE_PAGE)
    with pytest.raises(MemoryError):
        with_low.allocate(HUGE_PAGE + 1)
    with_low.close()
    assert all(page.closed for page in pages.taken)


def test_buffers_are_where_their_bus_address_says():
    pages = Pages(GIB)
    space = memory(pages, 1)
    buffer = space.allocate(100, align=1 << 16)
    assert buffer.bus_address % (1 << 16) == 0
    buffer.view[:4] = b"here"
    assert bytes(space.window(buffer.bus_address, 4)) == b"here"
    at = buffer.bus_address - GIB
    assert ctypes.string_at(address_of(pages.taken[0]) + at, 4) == b"here"
    for address, size in ((GIB - 1, 1), (buffer.bus_address + 100, 1), (GIB + HUGE_PAGE, 1)):
        with pytest.raises(DmaFault):
            space.window(address, size)
    assert space.map(memoryview(bytearray(8))) is None
    buffer.free()
    with pytest.raises(DmaFault):
        space.window(buffer.bus_address, 1)
    space.close()


def test_fewer_pages_than_wanted_will_do():
    pages = Pages(GIB)
    space = memory(pages, 100 * HUGE_PAGE)
    assert space.allocate(HUGE_PAGE).bus_address == GIB
    space.close()


@pytest.mark.parametrize(
    ("addresses", "words"),
    [
        ((), r"no free huge page \(echo 16 >"),
        ((4 * GIB, 5 * GIB), "no free huge page below 4 GiB"),
    ],
)
def test_no_page_that_will_do(addresses, words):
    pages = Pages(*addresses)
    with pytest.raises(TransportUnavailable, match=words):
        memory(pages)
    assert all(page.closed for page in pages.taken)


def test_physical_addresses_that_are_not_told():
    pages = Pages(GIB, GIB)

    def refuse(address: int) -> int:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    with pytest.raises(TransportUnavailable, match=r"are not told: .*\(be root"):
        HugePageMemory(1, "uio", refuse, pages.take)
    assert all(page.closed for page in pages.taken)


@pytest.fixture
def pagemap(tmp_path) -> Callable[[int], object]:
    path = tmp_path / "pagemap"

    def write(entry: int) -> object:
        path.write_bytes(bytes(8 * 3) + struct.pack("<Q", entry))
        return path

    return write


def test_a_physical_address_is_the_frame_and_the_place_in_it(pagemap):
    path = pagemap(1 << 63 | 1 << 61 | 0x12345)
    assert physical_address(3 * 4096 + 0x10, path) == 0x12345010


@pytest.mark.parametrize("entry", [0x12345, 1 << 63, 1 << 63 | 1 << 60])
def test_frames_that_are_hidden_or_absent(pagemap, entry):
    with pytest.raises(PermissionError):
        physical_address(3 * 4096, pagemap(entry))


def test_a_page_beyond_the_table(pagemap):
    with pytest.raises(PermissionError):
        physical_address(4 * 4096, pagemap(1 << 63 | 5))
