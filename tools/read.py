# SPDX-License-Identifier: Apache-2.0
"""`i2o read`: copies bytes from a block device to a file or a pipe, or prints their hash.

Without -o the bytes go to stdout. With --sha256 alone only the hash is printed, as sha256sum does;
with -o as well both happen (beside `-o -` the hash goes to stderr).
"""

from __future__ import annotations

import argparse
import hashlib
import sys
from collections.abc import Callable
from contextlib import ExitStack

from i2o import opening
from i2o.block import BlockDevice
from i2o.tools import files, output
from i2o.tools.arguments import (
    SubParsers,
    UsageError,
    add_iop,
    add_json,
    add_progress,
    size,
    tid,
    with_faults,
)


def add_parser(subparsers: SubParsers, summary: str) -> None:
    """Add the sub-command."""
    parser = subparsers.add_parser("read", help=summary, description=__doc__)
    parser.add_argument("tid", type=tid, metavar="TID", help="the block device")
    parser.add_argument("--offset", type=size, default=0, metavar="SIZE", help="first byte (0)")
    parser.add_argument("--count", type=size, metavar="SIZE", help="how many (to the end)")
    parser.add_argument("-o", "--output", metavar="FILE", help="where to; - is stdout")
    parser.add_argument("--sha256", action="store_true", help="print the SHA-256 of the bytes")
    add_iop(parser)
    add_json(parser)
    add_progress(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Copy, hash, or both."""
    to_stdout = args.output == "-" or (args.output is None and not args.sha256)
    if to_stdout and output.is_terminal(sys.stdout):
        raise UsageError(
            "the bytes would go to a terminal", remedy="use -o FILE, --sha256, or a pipe"
        )
    if to_stdout and args.json:
        raise UsageError("--json and the bytes cannot both go to stdout", remedy="use -o FILE")
    if args.output is not None and not to_stdout:
        files.refuse_disk(args.iop, args.output)
    uri = with_faults(args.iop, args.faults)
    with opening.open(uri) as iop, iop.block(args.tid) as device:
        count = check_range(device, args.offset, args.count)
        digest = hashlib.sha256() if args.sha256 or args.json else None
        with ExitStack() as opened:
            stores: list[Callable[[memoryview], object]] = []
            if to_stdout:
                stores.append(output.binary_stdout().write)
            elif args.output is not None:
                stores.append(opened.enter_context(files.replacing(args.output)).write)
            if digest is not None:
                stores.append(digest.update)
            progress = opened.enter_context(output.Progress("reading", count, force=args.progress))
            copy_out(device, args.offset, count, stores, progress)
            seconds = progress.seconds
        _report(args, count, seconds, digest.hexdigest() if digest else None, to_stdout=to_stdout)
    return 0


def check_range(device: BlockDevice, offset: int, count: int | None) -> int:
    """Return how many bytes to move.

    Raises:
        UsageError: the range is not inside the device.
    """
    found = max(0, device.size - offset) if count is None else count
    if offset > device.size or offset + found > device.size:
        raise UsageError(
            f"bytes {offset} to {offset + found} are not inside the device's {device.size}",
            remedy="lower --offset or --count",
        )
    return found


def copy_out(
    device: BlockDevice,
    offset: int,
    count: int,
    stores: list[Callable[[memoryview], object]],
    progress: output.Progress,
) -> None:
    """Read a range piece by piece and hand each piece to all `stores`."""
    buffer = memoryview(bytearray(min(files.CHUNK, count)))
    done = 0
    while done < count:
        piece = buffer[: min(len(buffer), count - done)]
        device.readinto(offset + done, piece, progress=progress.behind(done))
        for store in stores:
            store(piece)
        done += len(piece)


def _report(
    args: argparse.Namespace, count: int, seconds: float, digest: str | None, *, to_stdout: bool
) -> None:
    if args.json:
        output.emit(
            {
                "tid": args.tid,
                "offset": args.offset,
                "count": count,
                "output": args.output,
                "seconds": round(seconds, 6),
                "sha256": digest,
            }
        )
        return
    if digest is not None:
        line = f"{digest}  {args.output or '-'}"
        if to_stdout:
            output.note(line)
        else:
            output.show(line)
    if args.output is not None and not to_stdout:
        output.note(
            f"{output.human_size(count)} from TID {args.tid:#05x} to "
            f"{output.printable(args.output)}, {output.rate(count, seconds)}"
        )
