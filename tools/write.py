# SPDX-License-Identifier: Apache-2.0
"""`i2o write`: copies a file or a pipe to a block device and flushes it.

The size is checked before anything is written; a pipe is read to its end for that.
"""

from __future__ import annotations

import argparse
from typing import BinaryIO

from i2o import opening
from i2o.block import BlockDevice
from i2o.errors import I2OError
from i2o.tools import files, output
from i2o.tools.arguments import (
    SubParsers,
    UsageError,
    add_iop,
    add_json,
    add_progress,
    add_yes,
    check_yes,
    size,
    tid,
    with_faults,
)


def add_parser(subparsers: SubParsers, summary: str) -> None:
    """Add the sub-command."""
    parser = subparsers.add_parser("write", help=summary, description=__doc__)
    parser.add_argument("tid", type=tid, metavar="TID", help="the block device")
    parser.add_argument("file", metavar="FILE", help="what to write; - is stdin")
    parser.add_argument("--offset", type=size, default=0, metavar="SIZE", help="first byte (0)")
    add_yes(parser)
    add_iop(parser)
    add_json(parser)
    add_progress(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Copy and flush."""
    check_yes(args, "whose data would be overwritten")
    uri = with_faults(args.iop, args.faults)
    with opening.open(uri) as iop, iop.block(args.tid) as device:
        if device.read_only:
            raise UsageError(f"TID {args.tid:#05x} is read-only")
        room = device.size - args.offset
        if room < 0:
            raise UsageError(
                f"byte {args.offset} is behind the device's {device.size}", remedy="lower --offset"
            )
        with (
            files.source(args.file, room) as (source, length),
            output.Progress("writing", length, force=args.progress) as progress,
        ):
            copy_in(device, args.offset, source, length, progress)
            device.flush()
            seconds = progress.seconds
    if args.json:
        output.emit(
            {
                "tid": args.tid,
                "offset": args.offset,
                "count": length,
                "seconds": round(seconds, 6),
            }
        )
    else:
        output.note(
            f"{output.human_size(length)} to TID {args.tid:#05x}, flushed, "
            f"{output.rate(length, seconds)}"
        )
    return 0


def copy_in(
    device: BlockDevice, offset: int, source: BinaryIO, length: int, progress: output.Progress
) -> None:
    """Write `length` bytes of a file, piece by piece.

    Raises:
        I2OError: the file got shorter meanwhile.
    """
    done = 0
    while done < length:
        piece = source.read(min(files.CHUNK, length - done))
        if not piece:
            raise I2OError(f"the file ended after {done} of {length} bytes")
        device.write(offset + done, piece, progress=progress.behind(done))
        done += len(piece)
