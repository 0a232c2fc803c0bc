# SPDX-License-Identifier: Apache-2.0
"""`i2o rescue`: copies a disk that has bad blocks to an image, and keeps a map of what is missing.

The disk is only read. The same command again goes on where it was stopped. The map is in the format
of GNU ddrescue, whose tools can work with it. Ends with 1 while blocks are missing.
"""

from __future__ import annotations

import argparse
import errno
import fcntl
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from i2o import opening
from i2o.block import BlockDevice
from i2o.clock import SYSTEM_CLOCK
from i2o.errors import I2OError, MessageLayerError, RemoteFrameError
from i2o.tools import files, output
from i2o.tools.arguments import (
    SubParsers,
    UsageError,
    add_iop,
    add_json,
    add_progress,
    number,
    tid,
    with_faults,
)
from i2o.tools.failures import NEGATIVE, OK
from i2o.tools.rescue_map import MapFileError, RescueMap, Status
from i2o.tools.rescuing import Rescue

_SAVE_EVERY_S: Final = 10.0
_MAX_IMAGE: Final = (1 << 63) - 1
_MISSING: Final = tuple(status for status in Status if status is not Status.FINISHED)


def add_parser(subparsers: SubParsers, summary: str) -> None:
    """Add the sub-command."""
    parser = subparsers.add_parser("rescue", help=summary, description=__doc__)
    parser.add_argument("tid", type=tid, metavar="TID", help="the block device")
    parser.add_argument("image", metavar="IMAGE", help="where to: a file or a block device")
    parser.add_argument("--map", metavar="FILE", help="the map (default: IMAGE.map)")
    parser.add_argument(
        "--retries",
        type=number,
        default=1,
        metavar="N",
        help="try bad blocks again that often (default: 1)",
    )
    add_iop(parser)
    add_json(parser)
    add_progress(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Copy what can be read."""
    map_path = args.map or f"{args.image}.map"
    files.refuse_disk(args.iop, args.image)
    files.refuse_disk(args.iop, map_path)
    if os.path.realpath(map_path) == os.path.realpath(args.image):
        raise UsageError("image and map are one file", remedy="name another file with --map")
    if os.path.exists(map_path) and not os.path.isfile(map_path):
        raise UsageError(f"{map_path} is no file that a map can be kept in")
    uri = with_faults(args.iop, args.faults)
    with opening.open(uri) as iop, iop.block(args.tid) as device:
        found = _load(map_path, args.image, device)
        with _image(args.image, device.size) as image:
            _rescue(args, device, image, found, map_path)
    return _report(args, found, map_path)


def _load(path: str, image: str, device: BlockDevice) -> RescueMap:
    """Read the map, or make a new one."""
    try:
        with open(path, encoding="utf-8", errors="replace") as lines:
            found = RescueMap.parse(lines, device.size)
    except FileNotFoundError:
        if os.path.isfile(image) and os.path.getsize(image):
            raise UsageError(
                f"{image} is there, but its map {path} is not",
                remedy="name the map with --map, or remove the image to start anew",
            ) from None
        return RescueMap(device.size)
    except MapFileError as error:
        raise UsageError(
            f"{path}: {error}", remedy="name another map, or remove it and the image to start anew"
        ) from None
    if found.count(Status.FINISHED) and not os.path.exists(image):
        raise UsageError(
            f"{path} says what is in {image}, which is not there",
            remedy="name the image that belongs to it, or remove the map to start anew",
        )
    found.align(device.block_size)
    return found


@contextmanager
def _image(path: str, size: int) -> Iterator[int]:
    """Open the image for this rescue alone, and see that the disk fits into it."""
    if size > _MAX_IMAGE:
        raise RemoteFrameError(f"the disk claims to have {size} bytes")
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        mode = os.fstat(descriptor).st_mode
        if not stat.S_ISREG(mode) and not stat.S_ISBLK(mode):
            raise UsageError(f"{path} is no file and no block device")
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UsageError(f"{path} is in use by another rescue") from None
        there = os.lseek(descriptor, 0, os.SEEK_END)
        if there < size and not stat.S_ISREG(mode):
            raise UsageError(f"{path} has {there} bytes, the disk has {size}")
        yield descriptor
    finally:
        os.close(descriptor)


def _rescue(
    args: argparse.Namespace, device: BlockDevice, image: int, found: RescueMap, map_path: str
) -> None:
    clock, comment = SYSTEM_CLOCK, f"TID {args.tid:#05x} of {output.printable(args.iop)}"
    saved_at = clock.monotonic()
    with output.Progress("rescuing", device.size, force=args.progress) as progress:
        progress.add(found.count(Status.FINISHED))

        def step(count: int) -> None:
            nonlocal saved_at
            progress.add(count)
            if clock.monotonic() - saved_at >= _SAVE_EVERY_S:
                save()
                saved_at = clock.monotonic()

        def save() -> None:
            _sync(image)  # the map must not promise what is not in the image
            with _about(map_path), files.replacing(map_path) as out:
                text = found.text(rescue.position, rescue.phase, rescue.turn, comment)
                out.write(text.encode())

        rescue = Rescue(device, image, found, step)
        save()  # an image with bytes and without a map could not be gone on with
        if os.lseek(image, 0, os.SEEK_END) < device.size:
            os.ftruncate(image, device.size)
        try:
            with _about(args.image):
                rescue.run(args.retries)
        except MessageLayerError as error:
            error.explain(f"{map_path} is kept: the same command goes on from there")
            raise
        finally:
            save()


@contextmanager
def _about(path: str) -> Iterator[None]:
    """Let an error of the system name the file that it is about: a full disk does not."""
    try:
        yield
    except OSError as error:
        if error.filename is None and not isinstance(error, I2OError):
            error.filename = path
        raise


def _sync(image: int) -> None:
    try:
        os.fsync(image)
    except OSError as error:
        if error.errno != errno.EINVAL:  # what cannot be synchronised needs no such thing
            raise


def _report(args: argparse.Namespace, found: RescueMap, map_path: str) -> int:
    missing = found.count(*_MISSING)
    areas = found.areas(*_MISSING)
    if args.json:
        output.emit(
            {
                "tid": args.tid,
                "image": args.image,
                "map": map_path,
                "size": found.size,
                "rescued": found.size - missing,
                "missing": missing,
                "areas": [[area.start, area.size] for area in areas],
            }
        )
    elif missing:
        output.note(
            f"{output.human_size(found.size - missing)} rescued, {missing:,} bytes in "
            f"{output.plural(len(areas), 'area')} missing: see {output.printable(map_path)}"
        )
    else:
        output.note(f"{output.human_size(found.size)} rescued, nothing is missing")
    return NEGATIVE if missing else OK
