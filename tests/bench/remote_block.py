# SPDX-License-Identifier: Apache-2.0
"""Blocks of a remote IOP over TCP against a plain socket that copies the same bytes.

Both have a second process, over loopback, that keeps the bytes in memory: one is
`i2o emulate --serve tcp://127.0.0.1:0`, one a loop of `recv` and `sendall`. The host reads into one
buffer: `BlockDevice.readinto` here, `recv_into` there. It copies the whole disk with one call, for
which a remote IOP gets as many requests as that takes, several in flight; and it reads 1 MiB and
then the next one, where every microsecond of a request counts. The host is pinned to one core and
both servers to another. Both ways take turns in one run; figures are medians of all reads, as means
would say how often something else had the processor.
Run: python tests/bench/remote_block.py
"""

from __future__ import annotations

import gc
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from statistics import median

from side_by_side import verdict

import i2o

SIZE = 1 << 20
SMALL = 4096
DISK = 16 << 20
BAR = 0.5
COUNT = 64
COPIES = 4
ROUNDS = 5

PLAIN = """
import os, socket
listener = socket.create_server(("127.0.0.1", 0))
print(listener.getsockname()[1], flush=True)
data = memoryview(os.urandom(%d))
end, _ = listener.accept()
end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
while len(asked := end.recv(16, socket.MSG_WAITALL)) == 16:
    offset, size = (int.from_bytes(part, "little") for part in (asked[:8], asked[8:]))
    end.sendall(data[offset : offset + size])
"""


def main() -> None:
    """Measure."""
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[0]})  # what is started now stays there
    plain = subprocess.Popen(
        [sys.executable, "-c", PLAIN % DISK], stdout=subprocess.PIPE, text=True
    )
    server = subprocess.Popen(
        [sys.executable, "-m", "i2o", "emulate", "--serve", "tcp://127.0.0.1:0"],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        port = int(_line(plain))
        uri = _line(server).removeprefix("ready ")
        os.sched_setaffinity(0, {cores[-1]})
        print(f"cores: {len(cores)}, load: {os.getloadavg()[0]:.1f}")
        with (
            socket.create_connection(("127.0.0.1", port)) as end,
            i2o.open(uri) as iop,
            iop.block() as disk,
        ):
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            disk.max_transfer = SMALL
            small = memoryview(bytearray(SMALL))
            (small_us,) = _median_times(lambda index: disk.readinto(index * SMALL % DISK, small))
            print(f"{SMALL >> 10} KiB: remote IOP {small_us:7.1f} us")
            for size in (256 << 10, SIZE):
                disk.max_transfer = size
                measure(end, disk, DISK, COPIES, is_bar=size == SIZE)
                measure(end, disk, SIZE, COUNT)
    finally:
        for process in (plain, server):
            process.terminate()
            process.wait()


def _line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def measure(
    end: socket.socket, disk: i2o.BlockDevice, size: int, count: int, *, is_bar: bool = False
) -> None:
    """Compare both ways of reading so many bytes with one call."""
    buffer = memoryview(bytearray(size))

    def plain(index: int) -> None:
        end.sendall((index * size % DISK).to_bytes(8, "little") + size.to_bytes(8, "little"))
        done = 0
        while done < size:
            done += end.recv_into(buffer[done : done + SIZE])

    def remote(index: int) -> None:
        disk.readinto(index * size % DISK, buffer)

    socket_us, remote_us = _median_times(plain, remote, count=count)
    print(
        f"{size >> 20} MiB, requests of {disk.max_transfer >> 10} KiB: "
        f"socket {socket_us:7.1f} us, remote IOP {remote_us:7.1f} us"
    )
    ratio, what = socket_us / remote_us, "speed of remote reads / plain socket"
    if is_bar:
        verdict(what, ratio, BAR, at_least=True)
    else:
        print(f"  {what}: {ratio:.2f}")


def _median_times(*ways: Callable[[int], None], count: int = COUNT) -> list[float]:
    """Return the median microseconds of a read, each way."""
    times: list[list[float]] = [[] for _ in ways]
    for way in ways:
        for index in range(4):
            way(index)
    gc.collect()
    gc.disable()
    try:
        for _ in range(ROUNDS):
            for way, took in zip(ways, times, strict=True):
                for index in range(count):
                    start = time.perf_counter()
                    way(index)
                    took.append((time.perf_counter() - start) * 1e6)
    finally:
        gc.enable()
    return [median(took) for took in times]


if __name__ == "__main__":
    main()
