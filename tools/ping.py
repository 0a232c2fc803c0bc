# SPDX-License-Identifier: Apache-2.0
"""`i2o ping`: measures round trips to whoever listens at a tcp address: messenger or endpoint."""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Iterator

from i2o.clock import SYSTEM_CLOCK, Clock
from i2o.closing import Closing
from i2o.tools import output
from i2o.tools.arguments import SubParsers, number, seconds
from i2o.tools.failures import NEGATIVE, OK
from i2o.tools.output import printable
from i2o.tools.peer_arguments import add_peer, key_of, tls_of, who_is_there
from i2o.transport.tcp.address import find_addresses
from i2o.transport.tcp.errors import PeerError, Unreachable
from i2o.transport.tcp.handshake import Remote
from i2o.transport.tcp.node import Node
from i2o.transport.tcp.peer_name import random_name
from i2o.transport.tcp.wire import Purpose

_DEFAULT_COUNT = 4
_DEFAULT_INTERVAL_S = 1.0


def add_parser(subparsers: SubParsers, summary: str) -> None:
    """Add the sub-command."""
    parser = subparsers.add_parser("ping", help=summary, description=__doc__)
    add_peer(parser)
    parser.add_argument(
        "-c",
        "--count",
        metavar="N",
        type=number,
        default=_DEFAULT_COUNT,
        help=f"round trips; 0 goes on until it is interrupted (default: {_DEFAULT_COUNT})",
    )
    parser.add_argument(
        "--interval",
        metavar="SECONDS",
        type=seconds,
        default=_DEFAULT_INTERVAL_S,
        help=f"from one to the next (default: {_DEFAULT_INTERVAL_S:g})",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Measure."""
    there = who_is_there(args)
    kind = "messenger" if there.purpose == Purpose.MESSAGES else "endpoint"
    if not args.json:
        output.show(
            f"{kind} {there.name} at {printable(args.address)}, incarnation {there.incarnation}"
        )
    trips: list[float] = []
    sent = 0
    with Pinger(there, args) as pinger:
        try:
            for trip_s in pinger.trips():
                sent += 1
                if trip_s is not None:
                    trips.append(trip_s * 1000)
                _tell(sent, trip_s, as_json=args.json)
        except KeyboardInterrupt:
            pass  # that is how it ends without a count
    _sum_up(sent, trips, as_json=args.json)
    return OK if trips and len(trips) == sent else NEGATIVE


def _tell(index: int, trip_s: float | None, *, as_json: bool) -> None:
    if as_json:
        output.emit({"number": index, "ms": None if trip_s is None else round(trip_s * 1000, 4)})
    elif trip_s is None:
        output.show(f"{index:4}  no answer")
    else:
        output.show(f"{index:4}  {trip_s * 1000:.3f} ms")


def _sum_up(sent: int, trips: list[float], *, as_json: bool) -> None:
    figures = (min(trips), statistics.median(trips), max(trips)) if trips else None
    if as_json:
        names = ("min_ms", "median_ms", "max_ms")
        values = [None] * 3 if figures is None else [round(value, 4) for value in figures]
        output.emit({"sent": sent, "answered": len(trips), **dict(zip(names, values, strict=True))})
        return
    text = f"{sent} sent, {len(trips)} answered"
    if figures is not None:
        text += f"; {figures[0]:.3f} ms at least, {figures[1]:.3f} median, {figures[2]:.3f} at most"
    output.show(text)


class Pinger(Closing):
    """A node with one peer.

    Args:
        there: who listens.
        args: the command line.
        clock: for intervals and deadlines.

    """

    def __init__(
        self, there: Remote, args: argparse.Namespace, clock: Clock = SYSTEM_CLOCK
    ) -> None:
        self._args, self._clock = args, clock
        self._trip_ns: int | None = None
        self._is_up = False
        self._failure: PeerError | None = None
        addresses = find_addresses(args.address)
        self._node = Node(
            random_name(),
            Purpose(there.purpose),
            key=key_of(args),
            insecure=args.insecure,
            client_tls=tls_of(args),
            clock=clock,
        )
        self._node.on_round_trip = self._answered
        self._node.open(self)
        self._peer = self._node.add_peer(there.name, addresses)

    def trips(self) -> Iterator[float | None]:
        """Yield the seconds of each round trip, or None where no answer came in time.

        Raises:
            PeerError: no link comes about.
        """
        now, args, node = self._clock.monotonic, self._args, self._node
        node.connect(self._peer)
        self._drive(lambda: self._is_up, now() + args.timeout)
        if not self._is_up:
            raise Unreachable(f"{args.address}: no link in {args.timeout:g} s")
        index = 0
        while True:
            begin = now()
            self._trip_ns = None
            node.ping(self._peer)
            self._drive(lambda: self._trip_ns is not None, begin + args.timeout)
            yield None if self._trip_ns is None else self._trip_ns / 1e9
            index += 1
            if index == args.count:
                return
            self._drive(lambda: False, begin + args.interval)

    def close(self) -> None:
        """Close the link."""
        self._node.close()

    def _drive(self, until: Callable[[], bool], deadline: float) -> None:
        while not until() and (left_s := deadline - self._clock.monotonic()) > 0:
            self._node.progress(left_s)
            if self._failure is not None:
                raise self._failure

    # --- what the node tells ---------------------------------------------------------------------

    def _answered(self, peer: int, round_trip_ns: int) -> None:
        self._trip_ns = round_trip_ns

    def frame_arrived(self, peer: int, frame: memoryview) -> None:
        """Do nothing: whoever is there may have something to say."""

    def frame_sent(self, peer: int, token: object) -> None:
        """Do nothing: no frame is sent."""

    def room_made(self, peer: int) -> None:
        """Do nothing: no frame is sent."""

    def peer_up(self, peer: int) -> None:
        """Begin."""
        self._is_up = True

    def peer_lost(self, peer: int, error: int, reason: str) -> None:
        """End."""
        self._failure = Unreachable(f"{self._args.address}: {reason}", error)
