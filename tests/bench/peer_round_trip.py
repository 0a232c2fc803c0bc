# SPDX-License-Identifier: Apache-2.0
"""Request and reply of 128 bytes between two processes: peers over TCP beside plain sockets.

`python tests/bench/peer_round_trip.py [--blocks 5] [--count 20000]` prints microseconds, and ratios
to a raw blocking ping-pong measured in the same run; one that spins shows how much of that is
sleeping and waking up, which differs from machine to machine. Each case runs in two fresh
processes, pinned to a core each; cases take turns, and the medians are compared.
"""

from __future__ import annotations

import argparse
import os
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

SIZE = 128
WARM_UP = 500


class Echo:
    """Sends back what comes, or counts answers and asks again."""

    def __init__(self, carrier: object, is_client: bool) -> None:
        self.carrier, self.is_client = carrier, is_client
        self.count = 0
        self.is_over = False
        self.payload = bytes(SIZE)

    def frame_arrived(self, peer: int, frame: memoryview) -> None:
        self.count += 1
        if not self.is_client:
            self.carrier.send(peer, (bytes(frame),))

    def frame_sent(self, peer: int, token: object) -> None: ...

    def room_made(self, peer: int) -> None: ...

    def peer_up(self, peer: int) -> None: ...

    def peer_lost(self, peer: int, error: int, reason: str) -> None:
        self.is_over = True


def carrier_server(timeout_s: float) -> None:
    from i2o.transport.tcp.carrier import TcpCarrier

    with TcpCarrier() as carrier:
        echo = Echo(carrier, False)
        carrier.open(echo)
        print(carrier.name, flush=True)
        progress = carrier.progress
        while not echo.is_over:
            progress(timeout_s)


def carrier_client(address: str, count: int, timeout_s: float) -> float:
    from i2o.transport.tcp.carrier import TcpCarrier

    with TcpCarrier() as carrier:
        echo = Echo(carrier, True)
        carrier.open(echo)
        peer = carrier.resolve(address)

        def trip(rounds: int) -> None:
            send, progress, parts = carrier.send, carrier.progress, (echo.payload,)
            for _ in range(rounds):
                wanted = echo.count + 1
                send(peer, parts)
                while echo.count < wanted:
                    progress(timeout_s)

        return measure(trip, count)


def a_messenger(rank: int, timeout_s: float, loops: int) -> object:
    """Return a messenger that spins all the time without a timeout, or as it does by default."""
    from i2o.transport.tcp.messenger import Messenger
    from i2o.transport.tcp.options import MessengerOptions, PeerOptions
    from i2o.transport.tcp.peer_name import PeerName

    options = MessengerOptions() if timeout_s else MessengerOptions(PeerOptions(spin_s=1.0))
    return Messenger(PeerName(1, rank), loops=loops, options=options)


def messenger_server(timeout_s: float, loops: int = 0) -> None:
    with a_messenger(1, timeout_s, loops) as messenger:
        print(messenger.address, flush=True)
        while True:
            message = messenger.recv(tag=7, timeout_s=20)
            if not len(message.data):
                return
            messenger.send_nb(message.origin, (message.data,), 8)


def messenger_client(address: str, count: int, timeout_s: float, loops: int = 0) -> float:
    from i2o.transport.tcp.peer_name import PeerName

    with a_messenger(0, timeout_s, loops) as messenger:
        server = PeerName(1, 1)
        messenger.set_peer(server, (address,))
        parts = (bytes(SIZE),)

        def trip(rounds: int) -> None:
            send, recv = messenger.send_nb, messenger.recv
            for _ in range(rounds):
                send(server, parts, 7)
                recv(tag=8, timeout_s=20)

        result = measure(trip, count)
        messenger.send(server, (), 7, timeout_s=5)
        return result


Take = Callable[[socket.socket, int], bytes]


def look_for(end: socket.socket, size: int) -> bytes:
    """Look for a message again and again instead of sleeping."""
    recv = end.recv
    while True:
        try:
            return recv(size, socket.MSG_DONTWAIT)
        except BlockingIOError:
            continue


def raw_server(timeout_s: float, take: Take = socket.socket.recv) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        print(listener.getsockname()[1], flush=True)
        end, _ = listener.accept()
        with end:
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            while data := take(end, SIZE):
                end.sendall(data)


def raw_client(
    address: str, count: int, timeout_s: float, take: Take = socket.socket.recv
) -> float:
    with socket.create_connection(("127.0.0.1", int(address))) as end:
        end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

        def trip(rounds: int) -> None:
            payload, send = bytes(SIZE), end.sendall
            for _ in range(rounds):
                send(payload)
                take(end, SIZE)

        return measure(trip, count)


def zmq_server(timeout_s: float) -> None:
    import zmq

    with zmq.Context() as context, context.socket(zmq.PAIR) as end:
        print(end.bind_to_random_port("tcp://127.0.0.1"), flush=True)
        while data := end.recv():
            end.send(data)


def zmq_client(address: str, count: int, timeout_s: float) -> float:
    import zmq

    with zmq.Context() as context, context.socket(zmq.PAIR) as end:
        end.connect(f"tcp://127.0.0.1:{address}")

        def trip(rounds: int) -> None:
            payload = bytes(SIZE)
            for _ in range(rounds):
                end.send(payload)
                end.recv()

        result = measure(trip, count)
        end.send(b"")
        return result


def measure(trip: Callable[[int], None], count: int) -> float:
    """Return microseconds of one round trip."""
    trip(WARM_UP)
    begin = time.perf_counter_ns()
    trip(count)
    return (time.perf_counter_ns() - begin) / count / 1000


CASES = {
    "raw": (raw_server, raw_client, 0.0),
    "raw, spinning": (partial(raw_server, take=look_for), partial(raw_client, take=look_for), 0.0),
    "carrier, spinning": (carrier_server, carrier_client, 0.0),
    "carrier, default": (carrier_server, carrier_client, 1.0),
    "messenger, spinning": (messenger_server, messenger_client, 0.0),
    "messenger, default": (messenger_server, messenger_client, 1.0),
    "messenger, threads": (
        partial(messenger_server, loops=1),
        partial(messenger_client, loops=1),
        1.0,
    ),
    "zmq": (zmq_server, zmq_client, 0.0),
}


def run(case: str, count: int) -> float:
    """Run one case in two fresh processes; return microseconds."""
    me = [sys.executable, __file__, "--case", case, "--count", str(count)]
    with subprocess.Popen([*me, "--serve"], stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        address = server.stdout.readline().strip()
        client = subprocess.run(
            [*me, "--address", address], stdout=subprocess.PIPE, text=True, check=True
        )
        server.wait(timeout=20)
    return float(client.stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--blocks", type=int, default=5)
    parser.add_argument("--count", type=int, default=20_000)
    parser.add_argument("--only", action="append", help="leave the other cases out")
    parser.add_argument("--case", help=argparse.SUPPRESS)
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--address", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    cores = sorted(os.sched_getaffinity(0))
    if arguments.case is not None:
        server, client, timeout_s = CASES[arguments.case]
        os.sched_setaffinity(0, {cores[0 if arguments.serve else -1]})
        if arguments.serve:
            server(timeout_s)
        else:
            print(client(arguments.address, arguments.count, timeout_s))
        return
    cases = [case for case in CASES if not arguments.only or case in arguments.only]
    figures: dict[str, list[float]] = {case: [] for case in cases}
    for _ in range(arguments.blocks):
        for case in cases:
            figures[case].append(run(case, arguments.count))
    medians = {case: statistics.median(values) for case, values in figures.items()}
    print(f"{'case':20} {'us':>7} {'of raw':>7} {'of zmq':>7}   all blocks")
    for case, median in medians.items():
        of_raw = median / medians.get("raw", median)
        of_zmq = median / medians.get("zmq", median)
        every = " ".join(f"{value:.1f}" for value in figures[case])
        print(f"{case:20} {median:7.2f} {of_raw:7.2f} {of_zmq:7.2f}   {every}")


if __name__ == "__main__":
    main()
