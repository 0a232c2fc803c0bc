# SPDX-License-Identifier: Apache-2.0
"""`BlockDevice.readinto` of a cached image against os.preadv of the same file.

The floor is one preadv of the whole request into the same buffer: the emulator makes exactly that
call, so the difference is what frames, message layer and emulator cost per request.
Run: python tests/bench/block_read.py
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable

from side_by_side import best_times, verdict

import i2o

IMAGE = 64 << 20
PASS = 16 << 20  # bytes per measurement


def sweep(read: Callable[[int], object], size: int) -> Callable[[int], None]:
    """Return a function that reads the file from its start in requests of one size."""

    def run(count: int) -> None:
        for index in range(count):
            read(index * size)

    return run


def main() -> None:
    """Measure 256 KiB, where the bar is, and other sizes."""
    with tempfile.NamedTemporaryFile(suffix=".img") as image:
        for _ in range(IMAGE >> 20):
            image.write(os.urandom(1 << 20))
        image.flush()
        with i2o.open(f"emu:?disk={image.name},ro") as iop, iop.block() as device:
            for size in (4 << 10, 64 << 10, 256 << 10, 1 << 20):
                measure(device, image.fileno(), size)


def measure(device: i2o.BlockDevice, descriptor: int, size: int) -> None:
    """Compare both for one request size."""
    buffer = bytearray(size)
    count = PASS // size
    times = best_times(
        {
            "preadv": sweep(lambda offset: os.preadv(descriptor, [buffer], offset), size),
            "readinto": sweep(lambda offset: device.readinto(offset, buffer), size),
        },
        {"preadv": count, "readinto": count},
    )
    speed = times["preadv"] / times["readinto"]
    print(
        f"  {size >> 10:5} KiB: preadv {times['preadv']:8.2f} us, readinto "
        f"{times['readinto']:8.2f} us, overhead {times['readinto'] - times['preadv']:6.2f} us"
    )
    if size == 256 << 10:
        verdict("256 KiB, speed of readinto / preadv", speed, 0.5, at_least=True)
    else:
        print(f"  {size >> 10} KiB, speed of readinto / preadv: {speed:.2f}")


if __name__ == "__main__":
    main()
