# SPDX-License-Identifier: Apache-2.0
"""Buffers for a real device: below 4 GiB, where I2O's 32-bit addresses reach.

With an IOMMU it is one arena at an address of our choice. Without, it is huge pages, whose bus
addresses are their physical ones: a buffer is contiguous within a run of pages.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import mmap
import os
import re
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Final, Protocol

from i2o.errors import DmaFault, TransportUnavailable
from i2o.transport.arena_space import PAGE, ArenaBuffer, ArenaSpace
from i2o.transport.host_memory import HostMemory
from i2o.transport.pci.vfio import VfioDevice

DEFAULT_SIZE: Final = 16 << 20
IOVA: Final = 0x1000_0000
"""Where the arena is for the device: away from 0, and from 0xFEE00000 where interrupts go."""
HUGE_PAGE: Final = 2 << 20
"""Bytes of a huge page, unless the kernel says otherwise."""
_FOUR_GIB: Final = 1 << 32
_MAP_HUGETLB: Final = 0x40000
_PRESENT: Final = 1 << 63
_FRAME_MASK: Final = (1 << 55) - 1
_PAGEMAP: Final = Path("/proc/self/pagemap")
_MEMINFO: Final = Path("/proc/meminfo")


class DeviceMemory(HostMemory, Protocol):
    """Memory of a backend: `HostMemory`, and an end."""

    def close(self) -> None:
        """Give the memory back, once the device is quiet."""


def address_of(area: mmap.mmap) -> int:
    """Return where a mapping is in this process."""
    return ctypes.addressof(ctypes.c_char.from_buffer(area))


class IommuMemory:
    """An arena that the IOMMU shows to the device.

    Args:
        device: who sees it.
        size: bytes.
        backend: the scheme, for messages.

    Raises:
        TransportUnavailable: the memory cannot be mapped for the device.
    """

    def __init__(self, device: VfioDevice, size: int, backend: str) -> None:
        self._device, self._size = device, size
        self._area = mmap.mmap(-1, size, flags=mmap.MAP_SHARED | mmap.MAP_ANONYMOUS)
        self._area.madvise(mmap.MADV_DONTFORK)
        try:
            device.map_dma(address_of(self._area), IOVA, size)
        except OSError as error:
            self._area.close()
            raise TransportUnavailable(
                backend,
                f"{size >> 20} MiB cannot be mapped for the device: {error.strerror}",
                remedy="raise the limit of locked memory (ulimit -l), or use dma=4M"
                if error.errno == errno.ENOMEM
                else "see dmesg",
            ) from None
        self._space = ArenaSpace(memoryview(self._area), base=IOVA)
        self.allocate, self.window, self.map = (
            self._space.allocate,
            self._space.window,
            self._space.map,
        )

    def close(self) -> None:
        """Take the memory away from the device, then give it back."""
        with contextlib.suppress(OSError):  # the device's file may be gone, and its mappings
            self._device.unmap_dma(IOVA, self._size)
        self._space.close()
        with contextlib.suppress(BufferError):  # somebody still looks through it
            self._area.close()


class HugePageMemory:
    """Huge pages below 4 GiB, by their physical addresses.

    Args:
        size: bytes wanted; whole huge pages.
        backend: the scheme, for messages.
        physical: tells the physical address of a mapped page; another one is for tests.
        new_page: returns a huge page or None; another one is for tests.

    Raises:
        TransportUnavailable: there are no huge pages, none lies low enough, or their addresses
            are not told.
    """

    def __init__(
        self,
        size: int,
        backend: str,
        physical: Callable[[int], int] | None = None,
        new_page: Callable[[], mmap.mmap | None] | None = None,
    ) -> None:
        tell = physical_address if physical is None else physical
        take = _huge_page if new_page is None else new_page
        self._areas: list[mmap.mmap] = []
        self._spaces: list[ArenaSpace] = []
        high: list[mmap.mmap] = []  # kept until enough is found: the kernel would give them again
        try:
            low: list[tuple[int, mmap.mmap]] = []
            while sum(len(page) for _, page in low) < size:
                page = take()
                if page is None:
                    break
                high.append(page)
                bus_address = tell(address_of(page))
                if bus_address + len(page) <= _FOUR_GIB:
                    low.append((bus_address, high.pop()))
        except OSError as error:
            _close_all([*high, *(page for _, page in low)])
            raise TransportUnavailable(
                backend,
                f"the physical addresses of memory are not told: {error.strerror or error}",
                remedy="be root; without an IOMMU there is no other way",
            ) from None
        _close_all(high)
        if not low:
            raise _no_page(backend, len(high))
        for bus_address, page in sorted(low, key=lambda pair: pair[0]):
            self._areas.append(page)
            self._spaces.append(ArenaSpace(memoryview(page), base=bus_address))

    def allocate(self, size: int, align: int = PAGE) -> ArenaBuffer:
        """Return a zeroed buffer within one huge page; raises MemoryError."""
        for space in self._spaces:
            try:
                return space.allocate(size, align)
            except MemoryError:
                continue
        raise MemoryError(f"no {size:#x} bytes are free in {len(self._spaces)} huge pages")

    def map(self, buffer: memoryview) -> None:
        """Return None: the device reaches only memory of its own."""

    def window(self, bus_address: int, length: int) -> memoryview:
        """Return the bytes behind a range; raises DmaFault outside all buffers."""
        for space, page in zip(self._spaces, self._areas, strict=True):
            if space.base <= bus_address < space.base + len(page):
                return space.window(bus_address, length)
        raise DmaFault(bus_address, length)

    def close(self) -> None:
        """Give the pages back."""
        for space in self._spaces:
            space.close()
        _close_all(self._areas)


def physical_address(address: int, pagemap: Path = _PAGEMAP) -> int:
    """Return the physical address of a page of this process.

    Args:
        address: where it is in this process; the page must have been touched.
        pagemap: the kernel's table.

    Raises:
        OSError: the kernel does not tell; it tells only root.
    """
    page = mmap.PAGESIZE
    with open(pagemap, "rb", buffering=0) as file:
        file.seek(address // page * 8)
        entry = file.read(8) or b""
    (value,) = struct.unpack("<Q", entry.ljust(8, b"\0"))
    frame = value & _FRAME_MASK
    if not value & _PRESENT or not frame:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))
    return int(frame) * page + address % page


def _no_page(backend: str, high: int) -> TransportUnavailable:
    if high:
        return TransportUnavailable(
            backend,
            f"there is no free huge page below 4 GiB; {high} lie above",
            remedy="raise /proc/sys/vm/nr_hugepages until low memory is used too (the kernel takes "
            "high memory first); vfio: needs none",
        )
    return TransportUnavailable(
        backend,
        "there is no free huge page",
        remedy="echo 16 > /proc/sys/vm/nr_hugepages, soon after boot; vfio: needs none",
    )


def huge_page_size(meminfo: Path = _MEMINFO) -> int:
    """Return the bytes of a huge page: 2 MiB mostly, 4 MiB on 32-bit machines without PAE.

    Args:
        meminfo: the kernel's table.
    """
    found = re.search(r"^Hugepagesize:\s+(\d+) kB$", meminfo.read_text(), re.MULTILINE)
    return int(found[1]) << 10 if found else HUGE_PAGE


def _huge_page() -> mmap.mmap | None:
    """Return a huge page that is in memory and stays there, or None."""
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | mmap.MAP_POPULATE | _MAP_HUGETLB
    try:
        page = mmap.mmap(-1, huge_page_size(), flags=flags)
    except OSError:
        return None
    page.madvise(mmap.MADV_DONTFORK)
    page[0] = 0
    return page


def _close_all(areas: list[mmap.mmap]) -> None:
    for area in areas:
        with contextlib.suppress(BufferError):  # somebody still looks through it
            area.close()
