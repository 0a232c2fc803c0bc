# SPDX-License-Identifier: Apache-2.0
"""Many IOPs with many disks in one process: what each costs to bring up, to keep and to leave idle.

1 to 24 IOPs of 100 disks each are brought up in one message layer, several times in turn. The cost
of one IOP must not depend on how many there are already, but for telling each of those of the new
one (SysModify), which is a message for each. Then all of them are idle for a while: the
processor time that waiting for them takes should be next to nothing.
Run: python tests/bench/many_iops.py [--iops 24] [--disks 100]
"""

from __future__ import annotations

import argparse
import gc
import sys
import time
import tracemalloc
from typing import NamedTuple

from i2o.clock import SYSTEM_CLOCK
from i2o.iop_emulator.block_store import MemoryDisk
from i2o.iop_emulator.emu_port import EmuPort
from i2o.iop_emulator.soft_iop import SoftIop
from i2o.message_layer import MessageLayer
from i2o.transport.bus_space import BusSpace
from i2o.transport.local_unit import LocalUnit

DISK_SIZE = 4096
IDLE_S = 2.0
MOST_SLOPE = 1.3
"""The last quarter of the IOPs may take so many times the memory that the first quarter does."""
MOST_TIME_SLOPE = 2.0
"""The same for the time, in which all others are told of the new one."""
MOST_IDLE = 0.01
"""Share of a processor that idle IOPs may take."""


class Cost(NamedTuple):
    """What one more IOP took.

    Attributes:
        seconds: to attach it and bring it up.
        memory: bytes that are allocated more afterwards.
    """

    seconds: float
    memory: int


def software_port(disks: int) -> EmuPort:
    """Return a port to a new IOP with disks in memory."""
    unit = LocalUnit(BusSpace())
    stores = [MemoryDisk(DISK_SIZE, serial=f"D{number}") for number in range(disks)]
    return EmuPort.of(SoftIop(unit, disks=stores), unit, clock=SYSTEM_CLOCK)


def bring_up(layer: MessageLayer, iops: int, disks: int) -> list[Cost]:
    """Attach IOPs one after another; return what each took."""
    costs = []
    for _ in range(iops):
        gc.collect()
        before, _ = tracemalloc.get_traced_memory()
        start = time.perf_counter()
        layer.attach(software_port(disks))
        seconds = time.perf_counter() - start
        gc.collect()
        after, _ = tracemalloc.get_traced_memory()
        costs.append(Cost(seconds, after - before))
    return costs


def slope(values: list[float]) -> float:
    """Return the mean of the last quarter as a multiple of that of the first, warm-up left out."""
    quarter = max(1, len(values) // 4)
    first = values[1 : 1 + quarter] or values
    return sum(values[-quarter:]) / quarter / (sum(first) / len(first))


def idle_share(layer: MessageLayer, seconds: float) -> float:
    """Wait for IOPs that have nothing to say; return the share of a processor it takes."""
    start, busy = time.perf_counter(), time.process_time()
    layer.run_until(lambda: False, seconds)
    return (time.process_time() - busy) / (time.perf_counter() - start)


def main() -> int:
    """Print a table and both bars."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--iops", type=int, default=24)
    parser.add_argument("--disks", type=int, default=100)
    options = parser.parse_args()
    times: list[list[float]] = []
    for _ in range(3):  # times without tracing, the best of three
        with MessageLayer() as layer:
            times.append([cost.seconds for cost in bring_up(layer, options.iops, options.disks)])
    best = [min(row) for row in zip(*times, strict=True)]
    tracemalloc.start()
    with MessageLayer() as layer:
        memory = [cost.memory for cost in bring_up(layer, options.iops, options.disks)]
        tracemalloc.stop()
        print("IOPs   bring-up of one, ms   memory of one, KiB")
        for number, (seconds, size) in enumerate(zip(best, memory, strict=True), 1):
            print(f"{number:4} {1e3 * seconds:21.2f} {size / 1024:20.0f}")
        layer.run_until(lambda: False, IDLE_S / 10)  # makes what waiting needs
        share = idle_share(layer, IDLE_S)
        timers = [layer.port(number).next_deadline_ns() for number in layer.iop_numbers()]
    results = (
        ("bring-up time, last quarter / first", slope(best), MOST_TIME_SLOPE),
        ("memory, last quarter / first", slope([float(size) for size in memory]), MOST_SLOPE),
        ("processor while idle", share, MOST_IDLE),
        ("IOPs with a timer while idle", float(sum(timer is not None for timer in timers)), 0.0),
    )
    missed = False
    print(f"in all {sum(best):.2f} s, {sum(memory) >> 20} MiB")
    for what, value, bar in results:
        missed |= value > bar
        print(f"  {what}: {value:.4f} (bar: at most {bar:g}) {'MISSED' if value > bar else 'ok'}")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
