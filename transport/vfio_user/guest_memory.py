# SPDX-License-Identifier: Apache-2.0
"""The client's memory as the device may touch it: what DMA_MAP has handed over, and nothing else.

Memory whose descriptor is sealed against shrinking is mapped, up to a bound. Any other file is
read and written by system calls, because a client that truncates a mapped file would kill the
server. A range that came without a descriptor is known, but cannot be reached.
"""

from __future__ import annotations

import bisect
import contextlib
import errno
import fcntl
import mmap
import os
import stat
from collections.abc import Iterable, Iterator

from i2o.errors import DmaFault
from i2o.transport.vfio_user.errors import Refused
from i2o.transport.vfio_user.messages import MAX_DMA_MAPS, DmaFlags

_END = 1 << 64
_MOST_MAPPED = 1 << 42
"""Bytes of a client that are mapped at most: a sparse file costs it nothing, and this process has
128 TiB of addresses for everything."""
_READ, _WRITE = int(DmaFlags.READ), int(DmaFlags.WRITE)  # flags are slow where data pass
_UNSHARED = "the client shares no descriptor for it (QEMU: give the memory backend share=on)"


class Mapping:
    """One range of the client's memory.

    Args:
        address: its first DMA address.
        size: bytes.
        flags: what the device may do.
        descriptor: the file behind it, which the mapping owns from now on; None if there is none.
        offset: where the range begins in that file.
        may_map: whether there is room to map it; without, system calls reach it.

    Raises:
        Refused: the descriptor is no file that holds the range.
    """

    def __init__(
        self,
        address: int,
        size: int,
        flags: int,
        descriptor: int | None,
        offset: int,
        *,
        may_map: bool = True,
    ) -> None:
        self.address, self.size, self.end = address, size, address + size
        self.flags, self.offset = flags, offset
        self._descriptor: int | None = None
        self._map: mmap.mmap | None = None
        self.view: memoryview | None = None
        if descriptor is not None:
            self._share(descriptor, may_map)

    def _share(self, descriptor: int, may_map: bool) -> None:
        try:
            found = os.fstat(descriptor)
            if not stat.S_ISREG(found.st_mode):
                raise Refused(errno.EINVAL, "a DMA range must come with a regular file")
            if found.st_size < self.offset + self.size:
                raise Refused(errno.EINVAL, "the file of a DMA range is shorter than the range")
            if may_map and _is_sealed(descriptor):
                self._map_file(descriptor)
            else:
                self._descriptor = os.dup(descriptor)
        except (OSError, ValueError, OverflowError) as error:
            code = getattr(error, "errno", None) or errno.EINVAL
            raise Refused(code, f"DMA range at {self.address:#x}: {error}") from None

    def _map_file(self, descriptor: int) -> None:
        is_writable = bool(self.flags & DmaFlags.WRITE)
        protection = mmap.PROT_READ | (mmap.PROT_WRITE if is_writable else 0)
        self._map = mmap.mmap(
            descriptor, self.size, flags=mmap.MAP_SHARED, prot=protection, offset=self.offset
        )
        self.view = memoryview(self._map)

    @property
    def is_reachable(self) -> bool:
        """Whether there is a descriptor behind it."""
        return self.view is not None or self._descriptor is not None

    def read(self, start: int, length: int) -> bytes:
        """Copy bytes out; raises DmaFault if the client's file fails."""
        if self.view is not None:
            return self.view[start : start + length].tobytes()
        assert self._descriptor is not None
        try:
            data = os.pread(self._descriptor, length, self.offset + start)
        except OSError as error:
            raise self._fault(start, length, error) from None
        if len(data) != length:
            raise self._fault(start, length)
        return data

    def write(self, start: int, data: memoryview) -> None:
        """Copy bytes in; raises DmaFault if the client's file fails."""
        if self.view is not None:
            self.view[start : start + len(data)] = data
            return
        assert self._descriptor is not None
        try:
            if os.fstat(self._descriptor).st_size < self.offset + start + len(data):
                raise self._fault(start, len(data))
            written = os.pwrite(self._descriptor, data, self.offset + start)
        except OSError as error:
            raise self._fault(start, len(data), error) from None
        if written != len(data):
            raise self._fault(start, len(data))

    def _fault(self, start: int, length: int, error: OSError | None = None) -> DmaFault:
        why = "it was truncated" if error is None else error.strerror or str(error)
        return DmaFault(self.address + start, length, f"the client's memory fails: {why}")

    def close(self) -> None:
        """Let go of the memory. A view that is still in use lets go of it later."""
        if self.view is not None:
            self.view.release()
            self.view = None
        if self._map is not None:
            with contextlib.suppress(BufferError):
                self._map.close()
            self._map = None
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def _is_sealed(descriptor: int) -> bool:
    """Whether nobody can make the file shorter any more."""
    try:
        seals: int = fcntl.fcntl(descriptor, fcntl.F_GET_SEALS)
    except OSError:
        return False
    return bool(seals & fcntl.F_SEAL_SHRINK)


class GuestMemory:
    """All ranges a client has mapped, by DMA address: a `DmaSpace`."""

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._mappings: list[Mapping] = []

    # --- what the client says ------------------------------------------------------------------

    def map(self, address: int, size: int, flags: int, descriptor: int | None, offset: int) -> None:
        """Add a range. The descriptor stays the caller's.

        Raises:
            Refused: the range is empty, overlaps another or does not fit into its file, or there
                are too many.
        """
        if not size or address + size > _END:
            raise Refused(errno.EINVAL, f"a DMA range of {size:#x} bytes at {address:#x}")
        place = bisect.bisect_right(self._starts, address)
        if (place and self._mappings[place - 1].end > address) or (
            place < len(self._starts) and self._starts[place] < address + size
        ):
            raise Refused(errno.EEXIST, f"the DMA range at {address:#x} overlaps another")
        if len(self._starts) >= MAX_DMA_MAPS:
            raise Refused(errno.ENOSPC, f"more than {MAX_DMA_MAPS} DMA ranges")
        mapped = sum(other.size for other in self._mappings if other.view is not None)
        may_map = mapped + size <= _MOST_MAPPED
        mapping = Mapping(address, size, flags, descriptor, offset, may_map=may_map)
        self._starts.insert(place, address)
        self._mappings.insert(place, mapping)

    def unmap(self, address: int, size: int) -> None:
        """Remove a range; raises Refused unless it is exactly one that was added."""
        place = bisect.bisect_left(self._starts, address)
        if (
            place == len(self._starts)
            or self._starts[place] != address
            or self._mappings[place].size != size
        ):
            raise Refused(errno.ENOENT, f"no DMA range of {size:#x} bytes at {address:#x}")
        self._mappings.pop(place).close()
        del self._starts[place]

    def clear(self) -> None:
        """Remove every range."""
        for mapping in self._mappings:
            mapping.close()
        self._mappings.clear()
        self._starts.clear()

    def __len__(self) -> int:
        return len(self._starts)

    # --- what the device does ------------------------------------------------------------------

    def read(self, address: int, length: int) -> bytes:
        """Copy bytes out; raises DmaFault outside the ranges, or where the device may not read."""
        return b"".join(
            mapping.read(start, size)
            for mapping, start, size in self._parts(address, length, _READ)
        )

    def write(self, address: int, data: bytes | bytearray | memoryview) -> None:
        """Copy bytes in; raises DmaFault outside the ranges, or where the device may not write.

        Nothing is written if a part of it cannot be.
        """
        source = memoryview(data).cast("B")
        done = 0
        for mapping, start, size in tuple(self._parts(address, len(source), _WRITE)):
            mapping.write(start, source[done : done + size])
            done += size

    def windows(
        self, fragments: Iterable[tuple[int, int]], *, writable: bool
    ) -> list[memoryview] | None:
        """Return direct views of all fragments, or None if one has to be copied.

        Raises:
            DmaFault: as `read` and `write` do.
        """
        views = []
        right = _WRITE if writable else _READ
        starts, mappings = self._starts, self._mappings
        for address, length in fragments:
            place = bisect.bisect_right(starts, address) - 1
            mapping = mappings[place] if place >= 0 else None
            if (
                mapping is not None
                and mapping.view is not None
                and length >= 0
                and mapping.flags & right
                and address < mapping.end
                and address + length <= mapping.end
            ):
                start = address - mapping.address
                views.append(mapping.view[start : start + length])
                continue
            for _ in self._parts(address, length, right):  # which raises what there is to raise
                pass
            return None
        return views

    def _parts(self, address: int, length: int, right: int) -> Iterator[tuple[Mapping, int, int]]:
        """Yield the mappings that a range crosses, with start and size in each."""
        if length < 0:
            raise DmaFault(address, length)
        at, end = address, address + length
        place = bisect.bisect_right(self._starts, address) - 1
        while True:
            mapping = self._mappings[place] if 0 <= place < len(self._mappings) else None
            if mapping is None or not mapping.address <= at < mapping.end:
                raise DmaFault(address, length, "the client has mapped no memory there")
            if not mapping.flags & right:
                verb = "read" if right == _READ else "written"
                raise DmaFault(address, length, f"the client mapped it not to be {verb}")
            if not mapping.is_reachable:
                raise DmaFault(address, length, _UNSHARED)
            size = min(end, mapping.end) - at
            yield mapping, at - mapping.address, size
            at += size
            if at >= end:
                return
            place += 1
