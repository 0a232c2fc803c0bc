#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Runs in a guest: reads one disk by virtio-blk and by our own host side, and tells how fast.

Arguments: bytes of a request, requests in flight, requests of a measurement, measurements.
Linux' own asynchronous I/O keeps as many requests in flight at /dev/vda as we do.
"""

import ctypes
import json
import mmap
import os
import struct
import sys
import time
from pathlib import Path

import i2o

PCI = Path("/sys/bus/pci/devices")
IO_SETUP, IO_GETEVENTS, IO_SUBMIT = 206, 208, 209  # x86-64
PREAD = 0


class Virtio:
    """/dev/vda without the page cache."""

    def __init__(self, size: int, depth: int) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._descriptor = os.open("/dev/vda", os.O_RDONLY | os.O_DIRECT)
        self._size, self._depth = size, depth
        self._context = ctypes.c_ulong()
        self._syscall(IO_SETUP, depth, ctypes.byref(self._context))
        self._area = mmap.mmap(-1, size * depth)
        address = ctypes.addressof(ctypes.c_char.from_buffer(self._area))
        self._blocks = [ctypes.create_string_buffer(64) for _ in range(depth)]
        self._places = [address + number * size for number in range(depth)]
        self._events = ctypes.create_string_buffer(32 * depth)

    def _syscall(self, *words: object) -> int:
        result = self._libc.syscall(*words)
        if result < 0:
            raise OSError(ctypes.get_errno(), "asynchronous I/O")
        return result

    def _submit(self, slot: int, offset: int) -> None:
        block = self._blocks[slot]
        struct.pack_into(
            "<QIIHhIQQqQII", block, 0, slot, 0, 0, PREAD, 0, self._descriptor,
            self._places[slot], self._size, offset, 0, 0, 0,
        )  # fmt: skip
        pointer = ctypes.pointer(block)
        self._syscall(IO_SUBMIT, self._context, 1, ctypes.byref(pointer))

    def read(self, count: int) -> None:
        """Read so many requests from the beginning of the disk on."""
        sent = done = 0
        while sent < min(self._depth, count):
            self._submit(sent, sent * self._size)
            sent += 1
        while done < count:
            found = self._syscall(IO_GETEVENTS, self._context, 1, self._depth, self._events, None)
            for event in range(found):
                slot, _, result, _ = struct.unpack_from("<QQqq", self._events, 32 * event)
                assert result == self._size, result
                if sent < count:
                    self._submit(slot, sent * self._size)
                    sent += 1
            done += found

    def close(self) -> None:
        os.close(self._descriptor)


def bind(address: str) -> None:
    """Give the IOP to vfio-pci."""
    (PCI / address / "driver_override").write_text("vfio-pci")
    Path("/sys/bus/pci/drivers_probe").write_text(address)


def main(size: int, depth: int, count: int, rounds: int) -> None:
    (address,) = (
        path.parent.name for path in PCI.glob("*/class") if path.read_text()[:6] == "0x0e00"
    )
    bind(address)
    virtio = Virtio(size, depth)
    times: dict[str, list[float]] = {"virtio": [], "ours": []}
    with i2o.open(f"vfio:{address}", timeout_s=60) as iop, iop.block() as disk:
        disk.queue_depth, disk.max_transfer = depth, size
        buffer = bytearray(size * count)
        disk.readinto(0, memoryview(buffer)[: 8 * size])
        with open("/dev/vda", "rb") as other:  # the same image behind both
            assert other.read(size) == buffer[:size]
        virtio.read(8)
        for _ in range(rounds):
            for name, read in (
                ("virtio", lambda: virtio.read(count)),
                ("ours", lambda: disk.readinto(0, buffer)),
            ):
                begun = time.perf_counter()
                read()
                times[name].append(time.perf_counter() - begun)
        access = iop.layer.port(iop.number).access
    virtio.close()
    print(json.dumps({"times": times, "access": access}))


main(*map(int, sys.argv[1:]))
