# SPDX-License-Identifier: Apache-2.0
"""`BlockDevice.readinto` of a cached image against os.preadv of the same file.

Two ways to read, both in requests of the size named:

* one large `readinto`, cut into requests, against preadv calls that fill the same large buffer:
  what a copy or a backup does;
* one `readinto` a request into one small buffer, against one preadv into the same: the worst case,
  because the buffer never leaves the CPU's cache and preadv has next to nothing to do.

The floor is preadv itself: the emulator makes exactly one such call a request, straight into the
caller's buffer, so the difference is what frames, message layer and emulator cost.
Run: python tests/bench/block_read.py
"""

from __future__ import annotations

import os
import tempfile

from side_by_side import best_times, verdict

import i2o

IMAGE = 64 << 20
PASS = 16 << 20  # bytes per measurement
BAR_SIZE = 256 << 10
BAR = 0.5


def main() -> None:
    """Measure 256 KiB, where the bar is, and other sizes."""
    with tempfile.NamedTemporaryFile(suffix=".img") as image:
        for _ in range(IMAGE >> 20):
            image.write(os.urandom(1 << 20))
        image.flush()
        with i2o.open(f"emu:?disk={image.name},ro") as iop, iop.block() as device:
            print("one readinto of 16 MiB, in requests of")
            for size in (64 << 10, BAR_SIZE, 1 << 20):
                large(device, image.fileno(), size)
            print("one readinto a request, always into the same buffer")
            for size in (4 << 10, 64 << 10, BAR_SIZE, 1 << 20):
                small(device, image.fileno(), size)


def large(device: i2o.BlockDevice, descriptor: int, size: int) -> None:
    """Read 16 MiB with one call, cut into requests."""
    buffer = memoryview(bytearray(PASS))
    device.max_transfer = size

    def preadv(count: int) -> None:
        for _ in range(count):
            for offset in range(0, PASS, size):
                os.preadv(descriptor, [buffer[offset : offset + size]], offset)

    def readinto(count: int) -> None:
        for _ in range(count):
            device.readinto(0, buffer)

    requests = PASS // size
    times = best_times({"preadv": preadv, "readinto": readinto}, {"preadv": 2, "readinto": 2})
    report(size, times["preadv"] / requests, times["readinto"] / requests)


def small(device: i2o.BlockDevice, descriptor: int, size: int) -> None:
    """Read with one call a request, into a buffer that stays in the cache."""
    buffer = bytearray(size)
    device.max_transfer = size

    def preadv(count: int) -> None:
        for index in range(count):
            os.preadv(descriptor, [buffer], index * size)

    def readinto(count: int) -> None:
        for index in range(count):
            device.readinto(index * size, buffer)

    count = PASS // size
    times = best_times(
        {"preadv": preadv, "readinto": readinto}, {"preadv": count, "readinto": count}
    )
    report(size, times["preadv"], times["readinto"])


def report(size: int, preadv: float, readinto: float) -> None:
    """Print microseconds per request and the ratio."""
    print(
        f"  {size >> 10:5} KiB: preadv {preadv:8.2f} us, readinto {readinto:8.2f} us, "
        f"overhead {readinto - preadv:6.2f} us, speed {preadv / readinto:.2f}"
    )
    if size == BAR_SIZE:
        verdict("speed of readinto / preadv", preadv / readinto, BAR, at_least=True)


if __name__ == "__main__":
    main()
