# SPDX-License-Identifier: Apache-2.0
"""Round trips over libfabric: fi_pingpong, bare calls from Python, and the Endpoint.

    python tests/bench/ofi.py [--size 128] [--rounds 20000] [--repeat 5] [PROVIDER ...]

Two processes, each on a core of its own, spinning. `bare` makes the fewest calls of the compiled
extension that a round trip needs: fi_send, fi_recv, fi_cq_read. The ratio of the Endpoint to it is
what our layer costs; both are measured in turn in one run. `bare, fd` is the same with a descriptor
to wait for (FI_WAIT_FD), as the Endpoint's queue has one where the provider can make it.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from typing import Any

from i2o.transport.fabric.flags import ADDR_UNSPEC, Bind, EndpointType
from i2o.transport.ofi.domain import Domain, name_of
from i2o.transport.ofi.library import load
from i2o.transport.ofi.opening import open_endpoint
from i2o.transport.ofi.provider import provider_of
from i2o.transport.ofi.selection import Wish, select

PROVIDERS = ("tcp;ofi_rxm", "shm")
NODE = "127.0.0.1"
WARM_UP = 200
BLOCKS = 50


class Bare:
    """The fewest calls: one send and one receive at a time."""

    def __init__(self, provider: str, size: int, has_descriptor: bool = False) -> None:
        library = load()
        self.ffi, self.lib = ffi, lib = library
        node = None if provider == "shm" else NODE
        self.domain = Domain(select(library, Wish(provider, EndpointType.RDM, node)))
        self.domain.hold()
        null = ffi.NULL

        def out(kind: str, call: Any, *args: Any) -> Any:
            place = ffi.new(kind)
            assert call(*args, place, null) == 0
            return place[0]

        info = self.domain.selection.info
        place = ffi.new("struct fid_ep **")
        assert lib.i2o_endpoint(self.domain.handle, info, place) == 0
        self.ep = place[0]
        attributes = ffi.new("struct fi_cq_attr *")
        attributes.format = lib.FI_CQ_FORMAT_TAGGED
        attributes.wait_obj = lib.FI_WAIT_FD if has_descriptor else lib.FI_WAIT_NONE
        self.cq = out("struct fid_cq **", lib.fi_cq_open, self.domain.handle, attributes)
        assert lib.fi_ep_bind(self.ep, ffi.addressof(self.cq, "fid"), 0xC00) == 0
        assert lib.fi_ep_bind(self.ep, ffi.addressof(self.domain.vector, "fid"), 0) == 0
        assert lib.fi_enable(self.ep) == 0
        self.entry = ffi.new("struct fi_cq_tagged_entry *")
        self.contexts = [ffi.new("struct fi_context2 *") for _ in range(2)]
        self.data = ffi.new("char []", bytes(size))
        self.into = ffi.new("char []", size)
        self.size = size
        self.name = name_of(self.domain.selection, ffi.addressof(self.ep, "fid"))

    def meet(self, name: str) -> None:
        self.peer = self.domain.insert(name)
        self._post()

    def _post(self) -> None:
        code = self.lib.fi_recv(
            self.ep, self.into, self.size, self.ffi.NULL, ADDR_UNSPEC, self.contexts[0]
        )
        assert code == 0

    def run(self, rounds: int, is_first: bool) -> None:
        send, read, post = self.lib.fi_send, self.lib.fi_cq_read, self.lib.fi_recv
        ep, cq, entry, data, size = self.ep, self.cq, self.entry, self.data, self.size
        null, peer, into = self.ffi.NULL, self.peer, self.into
        to_receive, to_send = self.contexts
        for _ in range(rounds):
            if is_first:
                while send(ep, data, size, null, peer, to_send):
                    read(cq, null, 0)
            got = 0
            while got < (2 if is_first else 1):
                if read(cq, entry, 1) == 1:
                    if entry.flags & 1024:
                        post(ep, into, size, null, ADDR_UNSPEC, to_receive)
                    elif not is_first:
                        continue
                    got += 1
            if not is_first:
                while send(ep, data, size, null, peer, to_send):
                    read(cq, null, 0)

    def close(self) -> None:
        for fid in (self.ep, self.cq):
            self.lib.fi_close(self.ffi.addressof(fid, "fid"))
        self.domain.release()


class Ours:
    """The same through the Endpoint."""

    def __init__(self, provider: str, size: int) -> None:
        place = "" if provider == "shm" else f"{NODE}:0"
        self.endpoint = open_endpoint(f"ofi://{provider}/{place}")
        self.cq = self.endpoint.open_cq()
        self.endpoint.bind(self.cq, Bind.TRANSMIT | Bind.RECV)
        self.endpoint.enable()
        self.data, self.into = bytes(size), bytearray(size)
        self.name = self.endpoint.name

    def meet(self, name: str) -> None:
        self.peer = self.endpoint.insert(name)
        self.endpoint.recv(self.into, context=self.into)

    def run(self, rounds: int, is_first: bool) -> None:
        endpoint, peer, data, into = self.endpoint, self.peer, self.data, self.into
        send, recv, wait = endpoint.send, endpoint.recv, self.cq.sread
        for _ in range(rounds):
            if is_first:
                send(data, peer)
            got = 0
            while got < (2 if is_first else 1):
                for entry in wait(2):
                    if entry.context is into:
                        recv(into, context=into)
                    elif not is_first:
                        continue
                    got += 1
            if not is_first:
                send(data, peer)

    def close(self) -> None:
        self.endpoint.close()
        self.cq.close()


def play(kind: str, provider: str, size: int, rounds: int, is_first: bool) -> None:
    """One side: name out, name in, then the rounds; the first tells how long they took."""
    os.sched_setaffinity(0, {sorted(os.sched_getaffinity(0))[0 if is_first else -1]})
    side = Ours(provider, size) if kind == "ours" else Bare(provider, size, kind == "bare, fd")
    print(side.name, flush=True)
    side.meet(input())
    side.run(WARM_UP, is_first)
    least = float("inf")
    for _ in range(BLOCKS):  # on a busy machine, most blocks are disturbed
        start = time.perf_counter()
        side.run(rounds // BLOCKS, is_first)
        least = min(least, time.perf_counter() - start)
    print(least / (rounds // BLOCKS) * 1e6, flush=True)
    input()
    side.close()


def measure(kind: str, provider: str, size: int, rounds: int) -> float:
    """Let two processes play; return microseconds of a round trip."""
    command = [sys.executable, __file__, "--play", kind, "--size", str(size)]
    command += ["--rounds", str(rounds), provider]
    sides = [
        subprocess.Popen(
            [*command, "--role", role], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for role in ("second", "first")
    ]
    pipes = [(side.stdin, side.stdout) for side in sides]
    assert all(pipe for both in pipes for pipe in both)
    names = [out.readline() for _, out in pipes if out is not None]
    for (into, _), name in zip(pipes, reversed(names), strict=True):
        assert into is not None
        into.write(name)
        into.flush()
    took = [out.readline() for _, out in pipes if out is not None]
    for side in sides:
        side.communicate("\n")
    return float(took[1])


def pingpong(provider: str, size: int, rounds: int) -> float | None:
    """Return microseconds of a round trip of fi_pingpong, or None if it is not there."""
    command = ["fi_pingpong", "-p", provider, "-e", "rdm", "-S", str(size), "-I", str(rounds)]
    cores = sorted(os.sched_getaffinity(0))
    try:
        with subprocess.Popen(
            ["taskset", "-c", str(cores[-1]), *command, "-B", "47611"],
            stdout=subprocess.DEVNULL,
        ) as server:
            time.sleep(0.5)
            client = subprocess.run(
                ["taskset", "-c", str(cores[0]), *command, "-P", "47611", NODE],
                capture_output=True,
                text=True,
                timeout=60,
            )
            server.wait(10)
    except (FileNotFoundError, subprocess.TimeoutExpired):
        return None
    lines = [line.split() for line in client.stdout.splitlines() if line and line[0].isdigit()]
    return 2 * float(lines[-1][-2]) if lines else None  # usec/xfer is one way


def main() -> None:
    """Measure every provider, in turn, and print medians and ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("providers", nargs="*", default=list(PROVIDERS))
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=20000)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--play", help=argparse.SUPPRESS)
    parser.add_argument("--role", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.play:
        play(args.play, args.providers[0], args.size, args.rounds, args.role == "first")
        return
    print(f"libfabric {load().version}, {args.size} bytes, us per round trip, least and median")
    for provider in args.providers:
        kinds = ["bare", "ours"]
        if provider_of(provider, 0).has_descriptor:
            kinds.insert(1, "bare, fd")
        times: dict[str, list[float]] = {"fi_pingpong": [], **{kind: [] for kind in kinds}}
        for _ in range(args.repeat):
            in_c = pingpong(provider, args.size, args.rounds)
            times["fi_pingpong"] += [] if in_c is None else [in_c]
            for kind in kinds:
                times[kind].append(measure(kind, provider, args.size, args.rounds))
        print(f"{provider}:")
        for kind, taken in times.items():
            if taken:
                print(f"  {kind:12} {min(taken):8.2f} {statistics.median(taken):8.2f}")
        for name, of in (("least", min), ("median", statistics.median)):
            print(f"  ours / bare, {name}: {of(times['ours']) / of(times['bare']):.2f}")


if __name__ == "__main__":
    main()
