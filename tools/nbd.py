# SPDX-License-Identifier: Apache-2.0
"""`i2o nbd`: exports a disk by NBD, so that kernels, qemu-img and others can use it.

The server is nbdkit, which must be installed. The disk is read-only without --write. It listens on
a Unix socket that only this user can open, or, with --port, on this machine's own address; there
are no passwords. SIGTERM or Ctrl-C ends it. What stands behind -- is for nbdkit:

    i2o nbd -i pci:0000:03:00.0 -- --filter=log logfile=nbd.log
"""

from __future__ import annotations

import argparse
import ipaddress
import os
import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, cast
from urllib.parse import quote

from i2o import opening
from i2o.block import BlockDevice
from i2o.block_queue import BlockQueue
from i2o.errors import I2OError
from i2o.tools import output
from i2o.tools.arguments import Parser, SubParsers, UsageError, add_iop, number, tid, with_faults
from i2o.tools.failures import NEGATIVE, OK
from i2o.tools.nbd_serving import NbdService
from i2o.tools.nbdkit import MAX_BLOCK, Export, Listening, Nbdkit
from i2o.tools.stop_signals import stop_signals

_LOOPBACK: Final = "127.0.0.1"
_CRASHES: Final = (-signal.SIGABRT, -signal.SIGSEGV, -signal.SIGBUS)


def add_parser(subparsers: SubParsers, summary: str) -> None:
    """Add the sub-command."""
    parser = subparsers.add_parser(
        "nbd",
        help=summary,
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    cast(Parser, parser).command_to = "extra"
    parser.add_argument(
        "tid", type=tid, nargs="?", metavar="TID", help="the block device (default: the first)"
    )
    parser.add_argument("--write", action="store_true", help="let clients write to the disk")
    parser.add_argument(
        "--cow",
        action="store_true",
        help="let clients write, but to a temporary file in place of the disk",
    )
    parser.add_argument("--readahead", action="store_true", help="read on behind sequential reads")
    parser.add_argument("--unix", metavar="PATH", help="listen on this Unix socket")
    parser.add_argument("--port", type=_port, help="listen on this TCP port (10809 is usual)")
    parser.add_argument(
        "--bind", metavar="ADDRESS", type=_address, help=f"with --port (default: {_LOOPBACK})"
    )
    add_iop(parser)
    parser.set_defaults(run=run, extra=[])


def run(args: argparse.Namespace) -> int:
    """Serve until told to stop."""
    if args.write and args.cow:
        raise UsageError("--write writes to the disk, --cow does not", remedy="leave one away")
    if args.unix is not None and args.port is not None:
        raise UsageError("--unix and --port: nbdkit listens at one place", remedy="leave one away")
    if args.bind is not None and args.port is None:
        raise UsageError("--bind goes with --port", remedy="--port 10809")
    uri = with_faults(args.iop, args.faults)
    with (
        _listening(args) as listening,
        stop_signals() as (wake, is_stopped),
        opening.open(uri) as iop,
        iop.block(args.tid) as device,
    ):
        export = _export(args, device)
        is_ready = False

        def ready() -> None:
            nonlocal is_ready
            if not is_ready:  # not once more after a crash
                is_ready = True
                print(f"ready {_uri(listening)}", flush=True)  # whoever started this waits for it

        service = NbdService(
            iop.layer,
            BlockQueue(device, iop.requester, iop.memory, iop.layer.clock),
            largest=export.largest,
            writable=export.writable,
            on_ready=ready,
        )
        while True:
            server = Nbdkit(listening, export)
            try:
                service.run(server, wake)
            finally:
                server.stop()
                code = server.close()
            # nbdkit 1.32 fails an assertion when a client goes away while it is answered; with
            # --cow what clients wrote would be lost without their knowing
            if is_stopped() or not is_ready or code not in _CRASHES or args.cow:
                break
            output.note("i2o: nbdkit crashed and is started again; clients must connect again")
    if is_stopped():
        return OK
    if not is_ready:
        raise I2OError(f"nbdkit ended with {code} before it was ready; it says why above")
    output.note(f"i2o: nbdkit ended with {code}")
    return NEGATIVE


def _export(args: argparse.Namespace, device: BlockDevice) -> Export:
    if args.write and device.read_only:
        raise UsageError(f"TID {device.tid:#05x} is read-only", remedy="leave --write away")
    if device.block_size > MAX_BLOCK:
        raise I2OError(
            f"TID {device.tid:#05x} has blocks of {device.block_size} bytes: "
            f"NBD can have {MAX_BLOCK} at most"
        )
    return Export(
        size=device.size,
        block_size=device.block_size,
        largest=device.max_transfer * device.queue_depth,
        writable=args.write,
        cow=args.cow,
        readahead=args.readahead,
        extra=args.extra,
    )


@contextmanager
def _listening(args: argparse.Namespace) -> Iterator[Listening]:
    """Say where to listen; a socket without a name gets a folder of its own."""
    if args.port is not None:
        address = args.bind or _LOOPBACK
        if not ipaddress.ip_address(address).is_loopback:
            output.note(f"i2o: whoever reaches {address}:{args.port} can use the disk")
        yield Listening(address=address, port=args.port)
    elif args.unix is not None:
        if not args.unix:
            raise UsageError("--unix needs a path", remedy="leave it away for a socket of its own")
        if os.path.lexists(args.unix):
            raise UsageError(
                f"{args.unix} is there already", remedy="remove it if no server uses it"
            )
        yield Listening(unix=os.path.abspath(args.unix))
    else:
        with tempfile.TemporaryDirectory(prefix="i2o-nbd-") as folder:
            yield Listening(unix=os.path.join(folder, "socket"))


def _uri(listening: Listening) -> str:
    if listening.unix:
        return f"nbd+unix:///?socket={quote(listening.unix)}"
    host = f"[{listening.address}]" if ":" in listening.address else listening.address
    return f"nbd://{host}:{listening.port}"


def _port(text: str) -> int:
    value = number(text)
    if not 1 <= value <= 0xFFFF:
        raise argparse.ArgumentTypeError(f"{text!r} is no port: those are 1 to 65535")
    return value


def _address(text: str) -> str:
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no IP address") from None
