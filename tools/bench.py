# SPDX-License-Identifier: Apache-2.0
"""`i2o bench`: how many messages a second, how long each takes, and how fast a disk moves bytes.

Nothing is written unless --write says so, and then only bytes that were read from the same place
just before. Where the disk is an image of a software IOP, the same reads also go to the file
itself, in the same run: that ratio holds where times do not.
"""

from __future__ import annotations

import argparse
import os
import random
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from i2o import opening
from i2o.block import QUEUE_DEPTH, BlockDevice
from i2o.decode.latencies import Latencies
from i2o.decode.text import human_size
from i2o.flight import BLOCK_CLASS
from i2o.frames.block_storage import BSA_STATUS_CHECK
from i2o.replies import raise_for_status
from i2o.tools import output
from i2o.tools.arguments import (
    SubParsers,
    UsageError,
    add_iop,
    add_json,
    positive_seconds,
    tid,
    with_faults,
)
from i2o.tools.dump_line import duration_text
from i2o.tools.failures import OK

if TYPE_CHECKING:
    from i2o.iop import Iop
    from i2o.requester import Pending

SIZES: Final = (4 << 10, 64 << 10, 256 << 10, 1 << 20)
AREA: Final = 64 << 20
"""At most so many bytes of a disk are used, so that its cache plays the same part in every run."""
_PERCENTS: Final = (50, 90, 99)
_SEED: Final = 1


@dataclass
class Measured:
    """One line of the result.

    Attributes:
        what: what was done.
        size: bytes of each operation; 0 for messages.
        in_flight: how many at a time.
        seconds: how long it took in all, without what ran beside.
        times: how long each took.
        beside_s: how long the same took on the file itself; 0 if there is none.
    """

    what: str
    size: int
    in_flight: int
    seconds: float = 0.0
    times: Latencies = field(default_factory=Latencies)
    beside_s: float = 0.0

    @property
    def per_second(self) -> float:
        """Operations a second."""
        return self.times.count / self.seconds if self.seconds else 0.0

    @property
    def ratio(self) -> float | None:
        """Speed as a share of the file's own, if it was measured."""
        return self.beside_s / self.seconds if self.beside_s and self.seconds else None


def add_parser(subparsers: SubParsers, summary: str) -> None:
    """Add the sub-command."""
    parser = subparsers.add_parser("bench", help=summary, description=__doc__)
    parser.add_argument(
        "tid", nargs="?", type=tid, metavar="TID", help="the block device (the first one)"
    )
    parser.add_argument(
        "--seconds", type=positive_seconds, default=0.5, help="for each measurement (0.5)"
    )
    parser.add_argument(
        "--write", action="store_true", help="measure writing, too: the bytes that were there"
    )
    add_iop(parser)
    add_json(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Measure and print as each result is there."""
    with (
        opening.open(with_faults(args.iop, args.faults)) as iop,
        iop.block(args.tid) as device,
        ExitStack() as opened,
    ):
        if args.write and device.read_only:
            raise UsageError(f"TID {device.tid:#05x} cannot be written", remedy="leave out --write")
        image = _image(iop, device.tid)
        descriptor = None
        if image is not None:
            descriptor = os.open(image, os.O_RDONLY | os.O_CLOEXEC)
            opened.callback(os.close, descriptor)
        if not args.json:
            output.show(*_head())
        for measured in _measurements(iop, device, args.seconds, descriptor, write=args.write):
            if args.json:
                output.emit({"tid": device.tid, **_record(measured)})
            else:
                output.show(_line(measured))
    return OK


def _measurements(
    iop: Iop, device: BlockDevice, seconds: float, descriptor: int | None, *, write: bool
) -> Iterator[Measured]:
    for in_flight in (1, QUEUE_DEPTH):
        yield status_checks(iop, device.tid, in_flight, seconds)
    area = min(AREA, device.size)
    for size in SIZES:
        if size % device.block_size or size > area:
            continue
        for what, offsets in (
            ("read", _in_turn(area, size)),
            ("random read", _at_random(area, size)),
        ):
            yield reads(device, what, size, offsets, seconds, descriptor)
        if write:
            yield rewrites(device, size, _in_turn(area, size), seconds)


def status_checks(iop: Iop, tid: int, in_flight: int, seconds: float) -> Measured:
    """Keep BsaStatusChecks in flight: a message with nothing to do, so only its way counts.

    Args:
        iop: the IOP.
        tid: a block device.
        in_flight: how many at a time.
        seconds: for how long.
    """
    measured = Measured("status check", 0, in_flight)
    message = BSA_STATUS_CHECK.build(target_address=tid)
    requester = iop.requester
    flying: deque[tuple[Pending, int]] = deque()
    start = time.perf_counter_ns()
    end = start + round(seconds * 1e9)
    while True:
        now = time.perf_counter_ns()
        while now < end and len(flying) < in_flight:
            flying.append((requester.start(message), time.perf_counter_ns()))
        if not flying:
            break
        pending, began = flying.popleft()
        reply = requester.finish(pending, drain=in_flight > 1)
        measured.times.add(time.perf_counter_ns() - began)
        raise_for_status(reply, f"BsaStatusCheck of TID {tid:#05x}", BLOCK_CLASS)
    measured.seconds = (time.perf_counter_ns() - start) / 1e9
    return measured


def reads(
    device: BlockDevice,
    what: str,
    size: int,
    offsets: Iterator[int],
    seconds: float,
    descriptor: int | None,
) -> Measured:
    """Read pieces of one size; beside each, the same piece of the image.

    Args:
        device: the disk.
        what: what the result is called.
        size: bytes of a piece.
        offsets: where each starts.
        seconds: for how long.
        descriptor: the open image, if there is one.
    """
    measured = Measured(what, size, _requests(device, size))
    buffer = bytearray(size)
    _repeat(measured, lambda offset: device.readinto(offset, buffer), offsets, seconds)
    if descriptor is not None:
        # the same number again, so that both meet a warm cache
        again = Measured(what, size, 1)
        pread: Callable[[int], object] = lambda offset: os.preadv(descriptor, [buffer], offset)  # noqa: E731
        _repeat(again, pread, offsets, seconds)
        measured.beside_s = measured.times.count * again.seconds / again.times.count
    return measured


def rewrites(device: BlockDevice, size: int, offsets: Iterator[int], seconds: float) -> Measured:
    """Write pieces of one size, each with the bytes that are there; reading them does not count.

    Args:
        device: the disk.
        size: bytes of a piece.
        offsets: where each starts.
        seconds: for how long.
    """
    measured = Measured("write", size, _requests(device, size))
    end = time.perf_counter() + 2 * seconds  # reading takes about half of it
    while not measured.times.count or (measured.seconds < seconds and time.perf_counter() < end):
        offset = next(offsets)
        data = device.read(offset, size)
        began = time.perf_counter_ns()
        device.write(offset, data)
        took = time.perf_counter_ns() - began
        measured.times.add(took)
        measured.seconds += took / 1e9
    began = time.perf_counter_ns()
    device.flush()
    measured.seconds += (time.perf_counter_ns() - began) / 1e9
    return measured


def _repeat(
    measured: Measured, operation: Callable[[int], object], offsets: Iterator[int], seconds: float
) -> None:
    operation(next(offsets))  # the first one warms up and does not count
    start = now = time.perf_counter_ns()
    end = start + round(seconds * 1e9)
    while now < end or not measured.times.count:
        operation(next(offsets))
        before, now = now, time.perf_counter_ns()
        measured.times.add(now - before)
    measured.seconds = (now - start) / 1e9


def _requests(device: BlockDevice, size: int) -> int:
    """Return how many requests a transfer of this size has in flight."""
    return min(device.queue_depth, -(-size // device.max_transfer))


def _in_turn(area: int, size: int) -> Iterator[int]:
    while True:
        yield from range(0, area - size + 1, size)


def _at_random(area: int, size: int) -> Iterator[int]:
    choose = random.Random(_SEED)
    while True:
        yield choose.randrange(area // size) * size


def _image(iop: Iop, tid: int) -> str | None:
    """Return the file behind a disk of a software IOP in this process."""
    software: Any = getattr(iop.layer.port(iop.number), "soft_iop", None)
    if software is None:
        return None
    path: str | None = getattr(software.lct.devices[tid].store, "path", None)
    return path


# --- what is printed ------------------------------------------------------------------------------

_COLUMNS: Final = (
    ("what", -14), ("size", 8), ("in flight", 10), ("a second", 10), ("bytes/s", 10),
    *((f"p{percent}", 10) for percent in _PERCENTS), ("max", 10), ("of the file", 12),
)  # fmt: skip


def _columns(cells: tuple[str, ...]) -> str:
    placed = [
        cell.ljust(-width) if width < 0 else cell.rjust(width)
        for cell, (_, width) in zip(cells, _COLUMNS, strict=True)
    ]
    return "".join(placed).rstrip()


def _head() -> list[str]:
    return [output.styled(_columns(tuple(name for name, _ in _COLUMNS)), output.DIM)]


def _line(measured: Measured) -> str:
    times = measured.times
    return _columns(
        (
            measured.what,
            human_size(measured.size) if measured.size else "-",
            str(measured.in_flight),
            f"{measured.per_second:.0f}",
            human_size(round(measured.per_second * measured.size)) if measured.size else "-",
            *(duration_text(times.percentile(percent)) for percent in _PERCENTS),
            duration_text(times.max_ns),
            "-" if measured.ratio is None else f"{measured.ratio:.2f}",
        )
    )


def _record(measured: Measured) -> dict[str, object]:
    return {
        "what": measured.what,
        "size": measured.size,
        "in_flight": measured.in_flight,
        "count": measured.times.count,
        "per_second": round(measured.per_second, 1),
        "bytes_per_second": round(measured.per_second * measured.size),
        **{f"p{p}_us": measured.times.percentile(p) / 1e3 for p in _PERCENTS},
        "max_us": measured.times.max_ns / 1e3,
        "of_the_file": None if measured.ratio is None else round(measured.ratio, 3),
    }
