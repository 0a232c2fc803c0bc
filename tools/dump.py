# SPDX-License-Identifier: Apache-2.0
"""`i2o dump`: the messages between host and IOP, live or from a capture, one line each.

Shows what a capture file holds (-r), what an IOP and this program say to each other (-i), or what
another program sends (behind --): request, reply with its latency, and the host memory that the
IOP reads and writes. -v and -vv take every message apart. The words that are no options are a
filter over the names of fields, such as: function == bsa_block_read and latency > 2ms
"""

from __future__ import annotations

import argparse
import os
import stat
import sys
from collections.abc import Callable
from contextlib import ExitStack
from typing import TYPE_CHECKING, TextIO

from i2o.tools import output
from i2o.tools.arguments import DEFAULT_IOP, Parser, SubParsers, UsageError, with_faults
from i2o.tools.dump_arguments import add_arguments, check
from i2o.tools.failures import OK

if TYPE_CHECKING:
    from i2o.decode.conversation import Traced
    from i2o.tools.dump_keep import PacketFile
    from i2o.tools.dump_pipeline import Pipeline, Printer
    from i2o.tools.dump_sources import Source


def add_parser(subparsers: SubParsers, summary: str) -> None:
    """Add the sub-command."""
    parser = subparsers.add_parser("dump", help=summary, description=__doc__)
    assert isinstance(parser, Parser)
    add_arguments(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Show what was asked for."""
    check(args)
    if args.dissector:
        from i2o.tools.dissector import dissector

        output.show(dissector().rstrip("\n"))
        return OK
    from i2o.tools.dump_pipeline import Pipeline

    colour = output.colour_wanted(args.colour)
    wanted = _wanted(args)
    printer = _printer(args, colour=colour)
    with _source(args) as source, ExitStack() as stack:
        at_once = args.line_buffered or (source.is_live and not _is_file(sys.stdout))
        keeper = _keeper(args, source)
        if keeper is not None:
            stack.callback(keeper.close)
        pipeline = Pipeline(
            source,
            printer,
            wanted=wanted,
            keep=None if keeper is None else keeper.keep,
            with_dma=not args.no_dma,
            limit=args.count,
            at_once=at_once,
        )
        if args.form is not None and args.header == "header=y":
            output.show("\t".join(args.fields))
        pipeline.run()
    _report(source, pipeline)
    return source.exit_code()


def _wanted(args: argparse.Namespace) -> tuple[Callable[[Traced], bool], ...]:
    """Return what tells which packets are wanted."""
    wanted: list[Callable[[Traced], bool]] = []
    if args.filter:
        from i2o.decode.filter import FilterError, compile_filter

        try:
            wanted.append(compile_filter(" ".join(args.filter)))
        except FilterError as error:
            raise UsageError(str(error)) from None
    if args.follow is not None:
        from i2o.tools.dump_follow import concerns

        wanted.append(concerns(args.follow))
    return tuple(wanted)


def _printer(args: argparse.Namespace, *, colour: bool) -> Printer | None:
    if args.quiet or args.write == "-":
        return None
    if args.stats:
        from i2o.tools.dump_stats_printer import StatsPrinter

        return StatsPrinter(as_json=args.json, colour=colour, plot=args.plot)
    if args.json:
        from i2o.tools.dump_json import JsonPrinter

        return JsonPrinter(with_bytes=args.hex)
    if args.form is not None:
        from i2o.tools.dump_fields import FieldsPrinter

        return FieldsPrinter(args.fields)
    from i2o.tools.dump_line import LinePrinter
    from i2o.tools.dump_text import TextPrinter

    text = TextPrinter(
        LinePrinter(args.time, colour=colour, numeric=args.numeric),
        detail=min(args.verbose, 2),
        with_hex=args.hex,
        colour=colour,
    )
    if args.follow is None:
        return text
    from i2o.tools.dump_follow import FollowPrinter

    return FollowPrinter(text, colour=colour)


def _source(args: argparse.Namespace) -> Source:
    if args.read:
        from i2o.tools.dump_sources import FileSource

        return FileSource(args.read)
    if args.program:
        from i2o.tools.dump_command import CommandSource

        return CommandSource(args.program)
    from i2o.tools.dump_live import IopSource

    uri = DEFAULT_IOP if args.iop is None else args.iop
    return IopSource(with_faults(uri, args.faults), seconds=args.seconds)


def _keeper(args: argparse.Namespace, source: Source) -> PacketFile | None:
    if args.write is None:
        return None
    from i2o.tools.dump_keep import PacketFile

    return PacketFile(
        args.write,
        describe=source.describe,
        max_bytes=args.file_size,
        max_seconds=args.file_seconds,
        max_files=args.files,
    )


def _report(source: Source, pipeline: Pipeline) -> None:
    """Say on standard error what was wrong, and of live traffic how much there was."""
    for problem in source.problems:
        output.note(f"i2o: {output.printable(problem)}")
    is_worth_it = (source.is_live and pipeline.packets) or source.dropped
    if is_worth_it or pipeline.was_interrupted:
        unanswered = pipeline.conversation.unanswered()
        output.note(
            f"{output.plural(pipeline.packets, 'packet')}, {pipeline.shown:,} shown, "
            f"{source.dropped:,} dropped by the capture; "
            f"{output.plural(unanswered, 'request')} without a final reply"
        )


def _is_file(stream: TextIO | None) -> bool:
    try:
        return stream is not None and stat.S_ISREG(os.fstat(stream.fileno()).st_mode)
    except (OSError, ValueError):
        return False
