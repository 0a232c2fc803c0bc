# SPDX-License-Identifier: Apache-2.0
"""The kernel's side of VFIO for tests: answers ioctls, and keeps a device in a file."""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from collections.abc import Callable

BASE = 0x3B64
CONFIG_OFFSET = 7 << 20
REGION_OFFSET = 1 << 20


class VfioKernel:
    """One group with one device, whose file has BAR0 at 1 MiB and configuration space at 7 MiB.

    Attributes:
        calls: the numbers of all ioctls, counted from VFIO_BASE.
        maps: IOVA to (address, size) of what is mapped for DMA.
        irqs: (index, flags, count, data) of every SET_IRQS.
        refuse: ioctl number to errno.
    """

    def __init__(self, *, bar: int = 0x20000, msi: int = 1, viable: bool = True) -> None:
        self.bar, self.msi, self.viable = bar, msi, viable
        self.api = 0
        self.can_reset = True
        self.can_map = True
        self.calls: list[int] = []
        self.maps: dict[int, tuple[int, int]] = {}
        self.irqs: list[tuple[int, int, int, bytes]] = []
        self.refuse: dict[int, int] = {}
        self.resets = 0
        self.device = os.memfd_create("device", os.MFD_CLOEXEC)
        os.ftruncate(self.device, 8 << 20)

    def close(self) -> None:
        os.close(self.device)

    def config(self, offset: int, size: int) -> bytes:
        return os.pread(self.device, size, CONFIG_OFFSET + offset)

    def ioctl(self, descriptor: int, request: int, argument: object = 0) -> int:
        number = request - BASE
        self.calls.append(number)
        os.fstat(descriptor)  # a descriptor that is closed is an error here as there
        if number in self.refuse:
            code = self.refuse[number]
            raise OSError(code, os.strerror(code))
        handler: Callable[[object], int] | None = getattr(self, f"_{number}", None)
        return 0 if handler is None else handler(argument)

    def _0(self, _: object) -> int:
        return self.api

    def _3(self, status: object) -> int:
        assert isinstance(status, bytearray)
        struct.pack_into("<I", status, 4, int(self.viable))
        return 0

    def _6(self, name: object) -> int:
        assert isinstance(name, bytearray)
        if name != b"0000:03:00.0\0":
            raise OSError(errno.ENODEV, os.strerror(errno.ENODEV))
        return os.dup(self.device)

    def _7(self, info: object) -> int:
        assert isinstance(info, bytearray)
        struct.pack_into("<I", info, 4, 2 | int(self.can_reset))
        return 0

    def _8(self, info: object) -> int:
        assert isinstance(info, bytearray)
        index = struct.unpack_from("<I", info, 8)[0]
        flags, size, offset = 3, 0, 0
        if index == 0:
            size, offset = self.bar, REGION_OFFSET
            flags |= 4 if self.can_map else 0
        elif index == 7:
            size, offset = 256, CONFIG_OFFSET
        struct.pack_into("<IIIIQQ", info, 0, 32, flags, index, 0, size, offset)
        return 0

    def _9(self, info: object) -> int:
        assert isinstance(info, bytearray)
        index = struct.unpack_from("<I", info, 8)[0]
        struct.pack_into("<I", info, 12, {0: 1, 1: self.msi}.get(index, 0))
        return 0

    def _10(self, message: object) -> int:
        assert isinstance(message, bytes)
        argsz, flags, index, start, count = struct.unpack_from("<IIIII", message)
        assert (argsz, start) == (len(message), 0)
        self.irqs.append((index, flags, count, message[20:]))
        return 0

    def _11(self, _: object) -> int:
        self.resets += 1
        return 0

    def _13(self, message: object) -> int:
        assert isinstance(message, bytes)
        argsz, flags, address, iova, size = struct.unpack("<IIQQQ", message)
        assert (argsz, flags) == (32, 3)
        self.maps[iova] = address, size
        return 0

    def _14(self, message: object) -> int:
        assert isinstance(message, bytearray)
        iova, size = struct.unpack_from("<QQ", message, 8)
        assert self.maps.pop(iova)[1] == size
        return 0

    def memory(self, iova: int, size: int) -> bytes:
        """What a device sees there."""
        for start, (address, length) in self.maps.items():
            if start <= iova and iova + size <= start + length:
                return ctypes.string_at(address + iova - start, size)
        raise KeyError(iova)
