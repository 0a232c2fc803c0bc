# SPDX-License-Identifier: Apache-2.0
"""`i2o extcap`: live I2O traffic in Wireshark and tshark, as the capture interface `i2o`.

With --install Wireshark gets the interface and the dissector. After that it calls this command
itself, with the options of its extcap protocol: what there is to capture, of what kind it is, what
can be set, and then to capture.
"""

from __future__ import annotations

import argparse
import os
import select
import shlex
import signal
import threading
from typing import TYPE_CHECKING, Final

from i2o._version import __version__
from i2o.closing import Closing
from i2o.tools.arguments import DEFAULT_IOP, SubParsers, UsageError, number
from i2o.tools.failures import NEGATIVE, OK
from i2o.tools.output import note, show
from i2o.transport.capture.packet import LINKTYPE_FRAME
from i2o.transport.capture.pcapng_writer import MAX_SNAP_LENGTH

if TYPE_CHECKING:
    from i2o.tools.dump_sources import Source

INTERFACE: Final = "i2o"
_MIN_SNAP: Final = 64
_LOOK_S: Final = 0.5
_SWITCH: Final = {"true": True, "false": False}


def add_parser(subparsers: SubParsers, summary: str) -> None:
    """Add the sub-command."""
    parser = subparsers.add_parser("extcap", help=summary, description=__doc__)
    setup = parser.add_argument_group("setting up")
    setup.add_argument(
        "--install",
        action="store_true",
        help="give Wireshark the capture interface and the dissector",
    )
    setup.add_argument("--uninstall", action="store_true", help="take them away again")
    setup.add_argument(
        "--dir", metavar="DIR", help="the extcap folder (default: the personal one of Wireshark)"
    )
    setup.add_argument(
        "--lua-dir", metavar="DIR", help="the folder for the dissector (default: the personal one)"
    )
    asked = parser.add_argument_group("what Wireshark calls")
    asked.add_argument("--extcap-version", nargs="?", const="", help=argparse.SUPPRESS)
    asked.add_argument(
        "--extcap-interfaces", action="store_true", help="say what can be captured from"
    )
    asked.add_argument("--extcap-interface", metavar="NAME", help="which of them is meant")
    asked.add_argument("--extcap-dlts", action="store_true", help="say what its packets are")
    asked.add_argument("--extcap-config", action="store_true", help="say what can be set")
    asked.add_argument(
        "--extcap-capture-filter",
        metavar="FILTER",
        help="capture only this: a filter as `i2o dump` has it; alone, say what is wrong with it",
    )
    asked.add_argument("--capture", action="store_true", help="capture")
    asked.add_argument("--fifo", metavar="FILE", help="where to")
    settings = parser.add_argument_group("what can be set")
    settings.add_argument(
        "--iop", metavar="URI", default=DEFAULT_IOP, help="which IOP (default: %(default)s)"
    )
    settings.add_argument(
        "--command", metavar="LINE", dest="program", default="",
        help="run this program and capture its traffic instead",
    )  # fmt: skip
    settings.add_argument(
        "--dma", choices=_SWITCH, default="true", help="capture host memory, too (%(default)s)"
    )
    settings.add_argument(
        "--snap-length", metavar="N", type=number, default=MAX_SNAP_LENGTH,
        help="bytes of a packet to keep (%(default)s)",
    )  # fmt: skip
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Do what Wireshark or its user asked for."""
    if args.install or args.uninstall:
        from i2o.tools.extcap_setup import install, uninstall

        if args.install and args.uninstall:
            raise UsageError("--install and --uninstall contradict each other")
        show(*(install if args.install else uninstall)(args.dir, args.lua_dir))
        return OK
    if args.extcap_interfaces:
        show(*interfaces())
        return OK
    if args.extcap_interface is None:
        if args.extcap_version is not None:
            show(interfaces()[0])
            return OK
        raise UsageError("nothing to do", remedy="i2o extcap --install, then start Wireshark")
    if args.extcap_interface != INTERFACE:
        raise UsageError(f"{args.extcap_interface}: no such interface", remedy=f"use {INTERFACE}")
    if args.extcap_dlts:
        show(f"dlt {{number={LINKTYPE_FRAME}}}{{name=USER0}}{{display=I2O messages and DMA}}")
        return OK
    if args.extcap_config:
        show(*settings())
        return OK
    if args.capture:
        if not args.fifo:
            raise UsageError("--capture needs --fifo FILE")
        return _capture(args)
    if args.extcap_capture_filter is not None:
        return _check_filter(args.extcap_capture_filter)
    raise UsageError("nothing to do with the interface", remedy="see i2o extcap --help")


def interfaces() -> list[str]:
    """Return what there is to capture from, in the words of the extcap protocol."""
    return [
        f"extcap {{version={__version__}}}{{display=I2O messages}}",
        f"interface {{value={INTERFACE}}}{{display=I2O messages}}",
    ]


def settings() -> list[str]:
    """Return what can be set before a capture, in the words of the extcap protocol."""
    rows = (
        ("--iop", "IOP", "URI of the IOP to bring up and watch", "string", DEFAULT_IOP, ""),
        ("--command", "Command", "a program to run instead: its own traffic is shown, as of "
         "i2o demo", "string", "", ""),
        ("--dma", "DMA", "capture the host memory that messages point to", "boolean", "true", ""),
        ("--snap-length", "Snap length", "bytes of a packet to keep", "unsigned",
         str(MAX_SNAP_LENGTH), f"{{range={_MIN_SNAP},{MAX_SNAP_LENGTH}}}"),
    )  # fmt: skip
    return [
        f"arg {{number={index}}}{{call={call}}}{{display={display}}}{{tooltip={tooltip}}}"
        f"{{type={kind}}}" + (f"{{default={default}}}" if default else "") + more
        for index, (call, display, tooltip, kind, default, more) in enumerate(rows)
    ]


def _check_filter(text: str) -> int:
    """Print what is wrong with a capture filter; nothing if it is right."""
    from i2o.decode.filter import FilterError, compile_filter

    try:
        if text.strip():
            compile_filter(text)
    except FilterError as error:
        show(str(error))
        return NEGATIVE
    return OK


def _capture(args: argparse.Namespace) -> int:
    from i2o.decode.conversation import Conversation
    from i2o.decode.filter import FilterError, compile_filter
    from i2o.decode.payload_followers import payload_followers
    from i2o.transport.capture.capture_file import CaptureFile

    wanted = None
    if (args.extcap_capture_filter or "").strip():
        try:
            wanted = compile_filter(args.extcap_capture_filter)
        except FilterError as error:
            raise UsageError(str(error)) from None
    snap = min(max(args.snap_length, _MIN_SNAP), MAX_SNAP_LENGTH)
    try:
        # first the file: Wireshark waits for somebody to open it
        with (
            CaptureFile(
                args.fifo,
                dma=_SWITCH[args.dma],
                snap_length=snap,
                dma_snap=snap,
                payload_bytes=snap,
            ) as file,
            _ReaderWatch(args.fifo),
            _source(args) as source,
        ):
            conversation = Conversation(payload_followers()) if wanted is not None else None
            for packet in source:
                traced = conversation.feed(packet) if conversation is not None else None
                if wanted is None or (traced is not None and wanted(traced)):
                    file.add_packet(packet, source.describe(packet))
            for problem in source.problems:
                note(f"i2o: {problem}")
            return source.exit_code()
    except SystemExit:  # SIGTERM is how Wireshark ends a capture
        return OK


def _source(args: argparse.Namespace) -> Source:
    try:
        command = shlex.split(args.program)
    except ValueError as error:
        raise UsageError(f"--command {args.program!r}: {error}") from None
    if command:
        from i2o.tools.dump_command import CommandSource

        return CommandSource(command)
    from i2o.tools.dump_live import IopSource

    return IopSource(args.iop)


class _ReaderWatch(Closing):
    """Ends the process when nobody reads a FIFO any more, even if nothing is written to it.

    Args:
        path: the FIFO; of any other file nothing is watched.
    """

    def __init__(self, path: str) -> None:
        self._end = threading.Event()
        self._descriptor = os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        self._thread = threading.Thread(target=self._watch, name="i2o-extcap")
        self._thread.start()

    def close(self) -> None:
        """Stop watching."""
        self._end.set()
        self._thread.join()
        os.close(self._descriptor)

    def _watch(self) -> None:
        look = select.poll()
        look.register(self._descriptor, select.POLLERR)
        while not self._end.wait(_LOOK_S):
            if look.poll(0):
                os.kill(os.getpid(), signal.SIGTERM)
                return
