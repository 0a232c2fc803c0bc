# SPDX-License-Identifier: Apache-2.0
"""The command line of `i2o dump`: its options, and which of them contradict each other."""

from __future__ import annotations

import argparse
import sys
from typing import Final

from i2o.tools import output
from i2o.tools.arguments import (
    DEFAULT_IOP,
    Parser,
    UsageError,
    add_faults,
    add_json,
    number,
    positive_seconds,
    size,
    tid,
)

EPILOG: Final = (
    "exit codes: 0 done or Ctrl-C, 1 a capture is damaged or cannot be written, 2 wrong usage, "
    "3 the transport cannot be used; behind -- the command's own"
)
USAGE: Final = "i2o dump [-r FILE | -i URI] [options] [FILTER ...] [-- COMMAND ...]"
_TIMES: Final = ("a", "d", "z", "r")


def add_arguments(parser: Parser) -> None:
    """Add the options and what they are good for."""
    parser.usage, parser.epilog = USAGE, EPILOG
    parser.words_to, parser.command_to = "filter", "program"
    parser.add_argument("filter", metavar="FILTER", nargs="*", default=[], help="what to show")
    _add_sources(parser.add_argument_group("where the traffic comes from"))
    _add_looks(parser.add_argument_group("what is shown"))
    _add_forms(parser.add_argument_group("other forms of output"))
    _add_keeping(parser.add_argument_group("keeping it"))


def _add_sources(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "-r", dest="read", metavar="FILE", action="append", default=[],
        help="a capture: pcapng, pcap, JSONL trace, gzip of these; - for standard input; several "
        "are read one after another",
    )  # fmt: skip
    group.add_argument(
        "-i", "--iop", metavar="URI",
        help=f"bring an IOP up and watch, until Ctrl-C (default, if nothing else: {DEFAULT_IOP})",
    )  # fmt: skip
    group.add_argument(
        "--seconds", metavar="N", type=positive_seconds, help="with -i: stop after N seconds"
    )
    add_faults(group)


def _add_looks(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "-v", dest="verbose", action="count", default=0,
        help="every field below each line; -vv with words, bits and offsets, too",
    )  # fmt: skip
    group.add_argument("-x", dest="hex", action="store_true", help="the bytes in hexadecimal")
    group.add_argument("-c", dest="count", metavar="N", type=number, help="stop after N packets")
    group.add_argument(
        "-t", dest="time", choices=_TIMES, default="z",
        help="times: a date and time, d since the packet before, z since the first (default), "
        "r as recorded",
    )  # fmt: skip
    group.add_argument("-n", dest="numeric", action="store_true", help="numbers, not names")
    group.add_argument("--no-dma", action="store_true", help="frames only")
    group.add_argument(
        "--follow", metavar="TID", type=tid, help="one device's traffic, exchange by exchange"
    )
    group.add_argument(
        "--color", "--colour", dest="colour", choices=("auto", "always", "never"),
        default="auto", help="default: on a terminal, unless NO_COLOR is set",
    )  # fmt: skip
    group.add_argument(
        "-l", dest="line_buffered", action="store_true", help="print each line at once"
    )
    group.add_argument("-q", dest="quiet", action="store_true", help="print nothing; with -w")


def _add_forms(group: argparse._ArgumentGroup) -> None:
    add_json(group)
    group.add_argument(
        "-T", dest="form", choices=("fields",), help="fields: values of -e, separated by tabs"
    )
    group.add_argument(
        "-e", dest="fields", metavar="NAME", action="append", default=[],
        help="a field for -T fields, named as in filters; repeatable",
    )  # fmt: skip
    group.add_argument(
        "-E", dest="header", choices=("header=y", "header=n"), default="header=n",
        help="header=y: the first line names the fields",
    )  # fmt: skip
    group.add_argument(
        "--stats", action="store_true", help="counts, errors, latencies and queue depth at the end"
    )
    group.add_argument("--plot", metavar="FILE", help="with --stats: the plots as SVG or PNG")
    group.add_argument(
        "--dissector", action="store_true", help="print a Lua dissector for Wireshark, and end"
    )


def _add_keeping(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "-w",
        dest="write",
        metavar="FILE",
        help="write what is shown to a pcapng file, too",
    )
    group.add_argument(
        "-C", dest="file_size", metavar="SIZE", type=size, help="a new file after SIZE bytes"
    )
    group.add_argument(
        "-G",
        dest="file_seconds",
        metavar="SECONDS",
        type=positive_seconds,
        help="a new file after SECONDS",
    )
    group.add_argument("-W", dest="files", metavar="FILES", type=number, help="keep so many files")


def check(args: argparse.Namespace) -> None:
    """Refuse what contradicts itself."""
    sources = [name for name, given in (("-r", args.read), ("-i", args.iop is not None),
                                        ("-- COMMAND", args.program)) if given]  # fmt: skip
    if len(sources) > 1:
        raise UsageError(f"{' and '.join(sources)} cannot go together: one source at a time")
    if args.read.count("-") > 1:
        raise UsageError("standard input can be read only once")
    if args.form is not None and (args.json or args.stats):
        other = "--json" if args.json else "--stats"
        raise UsageError(f"-T fields and {other} cannot go together: one form of output")
    if (args.form is None) != (not args.fields):
        raise UsageError("-T fields and -e NAME belong together")
    if args.plot is not None and not args.stats:
        raise UsageError("--plot needs --stats")
    if args.seconds is not None and (args.read or args.program):
        raise UsageError("--seconds is for -i")
    for option, given in (("-C", args.file_size), ("-G", args.file_seconds), ("-W", args.files)):
        if given is not None and args.write is None:
            raise UsageError(f"{option} needs -w")
        if given is not None and not given:
            raise UsageError(f"{option} must be more than 0")
    if args.files is not None and args.file_size is None and args.file_seconds is None:
        raise UsageError("-W needs -C or -G")
    if args.write == "-" and output.is_terminal(sys.stdout):
        raise UsageError("a capture is no text for a terminal", remedy="-w FILE, or a pipe")
