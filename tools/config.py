# SPDX-License-Identifier: Apache-2.0
"""`i2o config`: shows the configuration dialogs of an IOP's devices in the browser of this machine.

It serves them on 127.0.0.1, at an address that it prints, until Ctrl-C. With --print it shows one
page as the device made it, and with --set it submits the form of that page.
"""

from __future__ import annotations

import argparse
import errno
import threading
import webbrowser
from typing import TYPE_CHECKING

from i2o import opening
from i2o.bring_up import EXECUTIVE_TID
from i2o.tools import output
from i2o.tools.arguments import SubParsers, UsageError, add_iop, number_up_to, tid, with_faults
from i2o.tools.config_pages import text_of
from i2o.tools.failures import OK

if TYPE_CHECKING:
    from i2o.iop import Iop


def add_parser(subparsers: SubParsers, summary: str) -> None:
    """Add the sub-command."""
    parser = subparsers.add_parser("config", help=summary, description=__doc__)
    parser.add_argument(
        "tid", nargs="?", type=tid, metavar="TID", help="the device to begin with; 0 is the IOP"
    )
    parser.add_argument("--port", type=_port, default=0, help="TCP port (default: a free one)")
    parser.add_argument("--no-browser", action="store_true", help="only print the address")
    parser.add_argument(
        "--print", type=_page, metavar="PAGE", dest="page", help="print this page of TID instead"
    )
    parser.add_argument(
        "--set",
        metavar="FIELD=VALUE",
        action="append",
        default=[],
        help="with --print: submit the page's form with this field",
    )
    add_iop(parser)
    parser.set_defaults(run=run)


def _port(text: str) -> int:
    return number_up_to(0xFFFF, text, "TCP port")


def _page(text: str) -> int:
    return number_up_to(0xFFFF_FFFF, text, "page number")


def run(args: argparse.Namespace) -> int:
    """Serve the dialogs, or print one page."""
    form = dict(_field(setting) for setting in args.set)
    if form and args.page is None:
        raise UsageError("--set goes with --print", remedy="i2o config 0x010 --print 4 --set a=b")
    with opening.open(with_faults(args.iop, args.faults)) as iop:
        if args.tid:
            iop.device(args.tid)  # an unknown TID is an error before anything is sent
        if args.page is None:
            return _serve(iop, args)
        data = iop.config_page(args.tid or EXECUTIVE_TID, args.page, form)
    output.show(*(output.printable(line) for line in text_of(data).splitlines()))
    return OK


def _field(setting: str) -> tuple[str, str]:
    name, equals, value = setting.partition("=")
    if not name or not equals:
        raise UsageError(f"--set {setting!r} reads FIELD=VALUE")
    return name, value


def _serve(iop: Iop, args: argparse.Namespace) -> int:
    from i2o.tools.config_server import ConfigServer

    try:
        server = ConfigServer(iop, args.iop, args.port)
    except OSError as error:
        if error.errno not in (errno.EADDRINUSE, errno.EACCES):
            raise
        raise OSError(error.errno, f"port {args.port}: {error.strerror}") from None
    with server:
        url = server.url if args.tid is None else server.url + f"{args.tid:03x}/0"
        try:
            print(url, flush=True)  # whoever started this waits for it
            output.note("i2o: the address is for you alone; Ctrl-C ends it")
            if not args.no_browser:
                # a text browser stays in open() until it is left
                threading.Thread(target=webbrowser.open, args=(url,), daemon=True).start()
            server.serve_forever()
        except KeyboardInterrupt:
            output.note("i2o: ended")
    return OK
