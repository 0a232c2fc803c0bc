# SPDX-License-Identifier: Apache-2.0
"""Round trips of network messages: ours between two processes, beside real LAM's.

    PYTHONPATH=tests python tests/bench/network_message.py [--count N] [--length BYTES]

Each case is two processes on a core of its own each: one sends with nsend and receives the answer
with nrecv, the other the other way round. Of the round trips of a run the median counts, so that
what else the machine does matters little, and of five runs, the cases in turn, the median again.
LAM's messages go between processes of one node, ours between two nodes. The bar is 0.4 of LAM over
shared memory, where nodes are given the carrier itself.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path

from i2o.network_message import Node, nmsg
from i2o.transport.registry import open_endpoint
from i2o.transport.uri import Uri

ROUNDS = 5
TO, BACK = 7, 8
WARM_UP = 200
SPIN_S = 5.0


def endpoint(uri: str) -> object:
    return open_endpoint(uri)


def shm_carrier(uri: str) -> object:
    from i2o.transport.shm.carrier import ShmCarrier

    return ShmCarrier(uri.partition("//")[2])


def tcp_carrier(uri: str) -> object:
    from i2o.transport.tcp.opening import open_carrier

    return open_carrier(Uri.parse(uri))


CASES: dict[str, tuple[str, Callable[[str], object]]] = {
    "shm carrier": ("shm://", shm_carrier),
    "shm endpoint": ("shm://", endpoint),
    "tcp carrier": ("tcp://127.0.0.1:0", tcp_carrier),
    "tcp endpoint": ("tcp://127.0.0.1:0", endpoint),
}


def pin(which: int) -> None:
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[which % len(cores)]})


def echo(pipe: Connection, case: str, length: int, count: int) -> None:
    """The other process."""
    pin(1)
    uri, opener = CASES[case]
    with Node(2, opener(uri), spin_s=SPIN_S) as node:  # type: ignore[arg-type]
        pipe.send(node.address)
        node.add_node(1, pipe.recv())
        pipe.send("ready")
        process = node.attach()
        got = nmsg(nh_event=TO, nh_msg=bytearray(length))
        answer = nmsg(nh_node=1, nh_event=BACK, nh_msg=bytes(length))
        for _ in range(count + WARM_UP):
            got.nh_length = length
            process.nrecv(got, timeout_s=60)
            process.nsend(answer, timeout_s=60)
        pipe.recv()


def ours(case: str, length: int, count: int) -> float:
    """Return microseconds per round trip."""
    near, far = multiprocessing.Pipe()
    child = multiprocessing.get_context("spawn").Process(
        target=echo, args=(far, case, length, count)
    )
    child.start()
    uri, opener = CASES[case]
    before = os.sched_getaffinity(0)
    with Node(1, opener(uri), spin_s=SPIN_S) as node:  # type: ignore[arg-type]
        node.add_node(2, near.recv())
        near.send(node.address)
        near.recv()
        pin(0)
        process = node.attach()
        ask = nmsg(nh_node=2, nh_event=TO, nh_msg=bytes(length))
        got = nmsg(nh_event=BACK, nh_msg=bytearray(length))

        def turn(times: int) -> float:
            took = []
            for _ in range(times):
                start = time.perf_counter_ns()
                process.nsend(ask, timeout_s=60)
                got.nh_length = length
                process.nrecv(got, timeout_s=60)
                took.append(time.perf_counter_ns() - start)
            return statistics.median(took) / 1e3

        turn(WARM_UP)
        taken = turn(count)
        near.send("done")
        child.join()
    os.sched_setaffinity(0, before)
    return taken


def lams(length: int, count: int) -> float | None:
    """Return microseconds per round trip of real LAM; None where it is not installed."""
    from fakes.lam import Lam, missing

    if missing():
        return None
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        with Lam(Path(folder)) as lam:
            pair = [lam.process(500) for _ in range(2)]
            cores = sorted(os.sched_getaffinity(0))
            for which, process in enumerate(pair):
                os.sched_setaffinity(process.pid, {cores[which % len(cores)]})
            for times in (WARM_UP, count):
                pair[1].tell(f"pong {TO} {BACK} {length} {times}")
                result = float(pair[0].ask(f"ping {TO} {BACK} {length} {times}"))
                pair[1].answer()
            return result


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=5000)
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--case", action="append", choices=CASES)
    args = parser.parse_args()
    cases = args.case or list(CASES)
    times: dict[str, list[float]] = {name: [] for name in ("LAM", *cases)}
    for _ in range(ROUNDS):
        lam = lams(args.length, args.count)
        if lam is not None:
            times["LAM"].append(lam)
        for case in cases:
            times[case].append(ours(case, args.length, args.count))
    lam_median = statistics.median(times["LAM"]) if times["LAM"] else None
    print(f"{args.length} bytes, {args.count} round trips, median of {ROUNDS} (least to most)")
    for name, measured in times.items():
        if not measured:
            print(f"{name:14}  not installed here")
            continue
        median = statistics.median(measured)
        ratio = "" if lam_median is None else f"  {median / lam_median:5.2f} of LAM"
        print(f"{name:14}{median:8.1f} us  ({min(measured):.1f} to {max(measured):.1f}){ratio}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
