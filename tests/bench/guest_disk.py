# SPDX-License-Identifier: Apache-2.0
"""A disk in a guest: our own host side over VFIO against QEMU's virtio-blk, on the same image.

Both are measured in turn in one guest, with the same requests in flight: sequential reads in large
requests, then small ones. The virtio-blk side is Linux' asynchronous I/O without the page cache.
The server's processor time a request is counted, with its vfio-user messages, from the end of the
bring-up on, and a run under the profiler says where it goes.

What it takes to reach 0.5 of virtio-blk: every register access is a trap, which stops the guest's
processor and goes through QEMU to the server and back. A request has four of them (a frame is
taken and posted, its reply is taken, the reply's frame given back), where virtio-blk rings one bell
for many requests. The rest is Python on both sides, and that of the guest is translated code. So:
the loops of the server and of the host's port in compiled code, and views of guest memory in place
of copies where an IOMMU maps it page by page.
Run: PYTHONPATH=tests python tests/bench/guest_disk.py, after tests/vm/prepare.py.
"""

from __future__ import annotations

import cProfile
import json
import os
import pstats
import statistics
import tempfile
import threading
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.side_by_side import verdict

from i2o.clock import SYSTEM_CLOCK
from i2o.iop_emulator.options import EmuOptions
from i2o.iop_emulator.pci_function import IopFunction
from i2o.transport.serving import serve
from i2o.transport.uri import Uri
from i2o.transport.vfio_user import Server
from vm.cache import Cache
from vm.guest import Machine
from vm.guests import Guests
from vm.initramfs import Job
from vm.inventory import DEBIAN_13
from vm.project import project_files

SCRIPT = Path(__file__).with_name("guest_disk_job.py")
IMAGE = 64 << 20
DEPTH = 8
LARGE, SMALL = 256 << 10, 4 << 10
BRING_UP = 40
"""Requests that are not counted: bring-up, and what warms up."""
RATIO_BAR = 0.1
CPU_BAR_US = 300.0
SHOWN = 8
SHARES = {
    "messages from and to the client": (
        ("connection", "server"),
        ("recvmsg", "sendmsg", "method 'send' ", "select.select"),
    ),
    "registers, interrupts": (("session", "message_unit", "local_unit", "interrupts"), ()),
    "data: disk and guest's memory": (
        ("guest_memory", "disk_image", "block_data"),
        ("preadv", "pread", "mmap.mmap", "tobytes"),
    ),
}
"""What server time is spent for: modules, and parts of names of built-in functions."""


@dataclass(frozen=True)
class Spent:
    """What a server did between two moments."""

    requests: int
    messages: int
    cpu_s: float

    def since(self, before: Spent) -> Spent:
        return Spent(
            self.requests - before.requests,
            self.messages - before.messages,
            self.cpu_s - before.cpu_s,
        )


class Serving:
    """An IOP that is served by a thread of this process, so that its time can be looked at."""

    def __init__(self, folder: Path, image: Path, profile: cProfile.Profile | None) -> None:
        options = EmuOptions.from_uri(Uri.parse(f"emu:?disk={image},ro"))
        self._iop = IopFunction.from_options(options, SYSTEM_CLOCK)
        self._server = Server(folder / "iop.sock", self._iop)
        self._profile = profile
        self._first: Spent | None = None
        self._last = Spent(0, 0, 0.0)
        self._wake, self._is_over = os.eventfd(0), False
        self._thread = threading.Thread(target=serve, args=([self._server], self._look, self._wake))
        self._thread.start()

    def _look(self) -> bool:
        """Is asked between messages whether it is over; looks at what was spent, too."""
        requests = self._iop.soft_iop.counters.requests
        if requests >= BRING_UP and requests != self._last.requests:
            self._last = Spent(requests, self._server.messages, time.thread_time())
            if self._first is None:
                self._first = self._last
                if self._profile is not None:
                    self._profile.enable()
        if self._is_over and self._profile is not None:
            self._profile.disable()
        return self._is_over

    @property
    def device(self) -> list[str]:
        socket = {"type": "unix", "path": str(self._server.path)}
        return ["-device", json.dumps({"driver": "vfio-user-pci", "rombar": 0, "socket": socket})]

    def end(self) -> Spent:
        """Stop, and return what was spent after the bring-up."""
        self._is_over = True
        os.eventfd_write(self._wake, 1)
        self._thread.join()
        self._server.close()
        self._iop.close()
        os.close(self._wake)
        return self._last.since(self._first or self._last)


def measure(
    size: int, count: int, rounds: int, profile: cProfile.Profile | None = None
) -> tuple[dict[str, Any], Spent]:
    """Boot a guest for one size of requests; return what it tells and what the server spent."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        image = folder / "disk.img"
        image.write_bytes(os.urandom(IMAGE))
        serving = Serving(folder, image, profile)
        drive = f"file={image},format=raw,if=none,id=disk,readonly=on,file.locking=off"
        devices = [*serving.device, "-drive", drive, "-device", "virtio-blk-pci,drive=disk"]
        job = Job(
            f"#!/bin/sh\nexec python3 /job/guest_disk_job.py {size} {DEPTH} {count} {rounds}\n",
            modules=["virtio_blk", "vfio_iommu_type1", "vfio-pci"],
            files={**project_files(), "/job/guest_disk_job.py": SCRIPT},
        )
        try:
            with Guests(Cache.of_user(), folder) as guests:
                out = guests.boot(DEBIAN_13, job, Machine(devices, iommu=True), deadline_s=600)
        finally:
            spent = serving.end()
        return json.loads(out.output.splitlines()[-1]), spent


def compare(what: str, size: int, count: int, rounds: int) -> None:
    """Measure one size and print it."""
    told, spent = measure(size, count, rounds)
    times = told["times"]
    print(f"{what}, {DEPTH} requests of {size >> 10} KiB in flight, {told['access']}")
    for name, found in times.items():
        rate = size * count / min(found) / (1 << 20)
        print(f"  {name:<8} {rate:8.1f} MiB/s {count / min(found):9.0f} requests/s")
    ratios = [virtio / ours for virtio, ours in zip(times["virtio"], times["ours"], strict=True)]
    verdict("of virtio-blk's speed", statistics.median(ratios), RATIO_BAR, at_least=True)
    cpu_us = spent.cpu_s * 1e6 / spent.requests
    verdict("server's processor time a request, us", cpu_us, CPU_BAR_US, at_least=False)
    messages, wall_us = spent.messages / spent.requests, min(times["ours"]) * 1e6 / count
    print(f"  register traps and the like a request: {messages:.1f} vfio-user messages")
    print(f"  of {wall_us:.0f} us a request {cpu_us:.0f} us are the server's; the rest are")
    print("  the guest's Python, the ways through QEMU, and what others do on this machine")


def breakdown(size: int, count: int, rounds: int) -> None:
    """Print where the server's processor time goes."""
    profile = cProfile.Profile(time.thread_time)
    _, spent = measure(size, count, rounds, profile)
    print(f"profile of {spent.requests} requests of {size >> 10} KiB, own processor time")
    print("(the profiler's own cost is in it, the more the more calls there are)")
    shares: Counter[str] = Counter()
    rows = sorted(
        ((own, calls, at) for at, (_, calls, own, *_) in pstats.Stats(profile).stats.items()),
        reverse=True,
    )
    for own, _, (file, _, name) in rows:
        shares[_share(file, name)] += own
    for share, own in shares.most_common():
        print(f"  {own / shares.total():4.0%}  {share}")
    for own, calls, (file, line, name) in rows[:SHOWN]:
        place = name if file == "~" else f"{Path(file).name}:{line} {name}"
        mean_us = own * 1e6 / spent.requests
        print(f"  {mean_us:6.1f} us {calls / spent.requests:6.1f} calls  {place}")


def _share(file: str, name: str) -> str:
    """Say what a function works for."""
    stem = Path(file).stem
    for share, (stems, words) in SHARES.items():
        if stem in stems or any(word in name for word in words):
            return share
    return "the IOP" if "iop_emulator" in file else "Python's own functions"


def main() -> None:
    """Measure and say where the time goes."""
    compare("sequential read", LARGE, 64, 9)
    compare("small reads", SMALL, 1000, 5)
    breakdown(SMALL, 1000, 3)
    breakdown(LARGE, 64, 5)


if __name__ == "__main__":
    main()
