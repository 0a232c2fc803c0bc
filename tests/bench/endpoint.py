# SPDX-License-Identifier: Apache-2.0
"""What the software engine costs: endpoints over memory beside what they cannot be faster than.

Run as `python tests/bench/endpoint.py`. One thread drives both ends. Small messages are compared
with two bare deques and with packing a header of the same size; large ones with copying the same
bytes. Figures are medians of blocks that alternate within one run.
"""

from __future__ import annotations

import argparse
import os
import statistics
import struct
import sys
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from i2o.transport.fabric.completion_queue import SoftwareCompletionQueue
from i2o.transport.fabric.errors import TryAgain
from i2o.transport.fabric.flags import Bind
from i2o.transport.fabric.mem import MemoryFabric
from i2o.transport.fabric.software_endpoint import SoftwareEndpoint

_PAYLOAD = bytes(128)
_HEADER = struct.Struct("<BBHIQQQIIII")
_BATCH = 32
_BOTH = "128 B, send and receive complete"


class Pair:
    """Two endpoints that know each other."""

    def __init__(self) -> None:
        fabric = MemoryFabric()
        self.one, self.one_cq = _endpoint(fabric, "one")
        self.other, self.other_cq = _endpoint(fabric, "other")
        self.there, self.back = self.one.insert("other"), self.other.insert("one")
        self.buffer = bytearray(1 << 20)
        self.small = bytearray(128)
        self.ping_pong(4)

    def ping_pong(self, count: int) -> None:
        """Send 128 bytes there and back, one message at a time."""
        one, other, small = self.one, self.other, self.small
        for _ in range(count):
            one.recv(small)
            other.recv(small)
            one.inject(_PAYLOAD, self.there)
            _wait(self.other_cq, 1, self.one_cq)
            other.inject(_PAYLOAD, self.back)
            _wait(self.one_cq, 1, self.other_cq)

    def stream(self, count: int) -> None:
        """Send messages of 128 bytes in batches; both sides complete."""
        one, other, small = self.one, self.other, self.small
        for _ in range(count // _BATCH):
            for _ in range(_BATCH):
                other.recv(small)
            for _ in range(_BATCH):
                one.send(_PAYLOAD, self.there)
            _wait(self.other_cq, _BATCH, self.one_cq)
            _wait(self.one_cq, _BATCH, self.other_cq)

    def injected(self, count: int) -> None:
        """Inject messages of 128 bytes in batches; only the receiver completes."""
        one, other, small = self.one, self.other, self.small
        for _ in range(count // _BATCH):
            for _ in range(_BATCH):
                other.recv(small)
            for _ in range(_BATCH):
                one.inject(_PAYLOAD, self.there)
            _wait(self.other_cq, _BATCH, self.one_cq)
            self.one_cq.read(0)

    def large(self, count: int, payload: bytes) -> None:
        """Send large messages, one at a time."""
        for _ in range(count):
            self.other.recv(self.buffer)
            self.one.send(payload, self.there)
            _wait(self.other_cq, 1, self.one_cq)
            _wait(self.one_cq, 1, self.other_cq)

    def close(self) -> None:
        """Close both."""
        for end in (self.one, self.other):
            end.close()


def _endpoint(fabric: MemoryFabric, name: str) -> tuple[SoftwareEndpoint, SoftwareCompletionQueue]:
    endpoint = fabric.endpoint(name)
    cq = endpoint.open_cq()
    endpoint.bind(cq, Bind.TRANSMIT | Bind.RECV)
    endpoint.enable()
    return endpoint, cq


def _wait(cq: SoftwareCompletionQueue, count: int, other: SoftwareCompletionQueue) -> None:
    while count:
        try:
            count -= len(cq.read(count))
        except TryAgain:
            other.read(0)


def _deques(count: int) -> None:
    there: deque[bytes] = deque()
    back: deque[bytes] = deque()
    for _ in range(count):
        there.append(_PAYLOAD)
        back.append(there.popleft())
        back.popleft()


def _headers(count: int) -> None:
    pack, unpack = _HEADER.pack, _HEADER.unpack_from
    for number in range(count):
        unpack(b"".join((pack(2, 0, 7, number, 128, 0, 0, 1, 2, 3, 0), _PAYLOAD)))


def _copies(count: int, payload: bytes, target: bytearray) -> None:
    for _ in range(count):
        target[:] = payload


def _median_us(jobs: dict[str, tuple[Callable[[int], None], int]], blocks: int) -> dict[str, float]:
    """Run the jobs in turn; return the microseconds of one round of each."""
    taken: dict[str, list[float]] = {name: [] for name in jobs}
    for _ in range(blocks):
        for name, (job, count) in jobs.items():
            begin = time.perf_counter()
            job(count)
            taken[name].append((time.perf_counter() - begin) / count * 1e6)
    return {name: statistics.median(times) for name, times in taken.items()}


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--blocks", type=int, default=5)
    parser.add_argument("--count", type=int, default=20_000)
    options = parser.parse_args()
    pair = Pair()
    payload, target = os.urandom(1 << 20), bytearray(1 << 20)
    small, few = options.count, max(1, options.count // 200)
    figures = _median_us(
        {
            "two deques, there and back": (_deques, small),
            "header packed and unpacked": (_headers, small),
            _BOTH: (pair.stream, small),
            "128 B, injected": (pair.injected, small),
            "128 B, there and back": (pair.ping_pong, small // 2),
            "1 MiB copied": (lambda count: _copies(count, payload, target), few),
            "1 MiB message": (lambda count: pair.large(count, payload), few),
        },
        options.blocks,
    )
    pair.close()
    for name, value in figures.items():
        print(f"{name:36} {value:9.2f} us")
    for what, one, other in (
        ("send and receive / header", _BOTH, "header packed and unpacked"),
        ("send and receive / deques", _BOTH, "two deques, there and back"),
        ("1 MiB message / copy", "1 MiB message", "1 MiB copied"),
    ):
        print(f"{what:36} {figures[one] / figures[other]:9.2f}")


if __name__ == "__main__":
    main()
