# SPDX-License-Identifier: Apache-2.0
"""`i2o replay`: sends the requests of a capture again and compares the replies.

The IOP is brought up first, so requests that belong to bring-up are left out. Without --write
nothing is sent that could change data or state. The exit code is 1 if a reply differs.
"""

from __future__ import annotations

import argparse
import math
from contextlib import ExitStack
from typing import Final

from i2o import opening
from i2o.decode.conversation import Traced
from i2o.decode.filter import compile_filter
from i2o.decode.latencies import Latencies
from i2o.iop import Iop
from i2o.recording import recorded_requests
from i2o.replay import Outcome, Replay, Summary
from i2o.replay_rules import CHANGES, why_never
from i2o.tools import output
from i2o.tools.arguments import (
    SubParsers,
    add_iop,
    add_json,
    number,
    positive_seconds,
    tid,
    with_faults,
)
from i2o.tools.dump_line import duration_text
from i2o.tools.failures import NEGATIVE, OK
from i2o.transport.capture.reader import Capture, open_capture

MAX_SHOWN: Final = 20
"""Replies that differ of which a line is printed."""
_MAX_SPEED: Final = 1e6


def add_parser(subparsers: SubParsers, summary: str) -> None:
    """Add the sub-command."""
    parser = subparsers.add_parser("replay", help=summary, description=__doc__)
    parser.add_argument("file", metavar="FILE", help="the capture; - is standard input")
    add_iop(parser)
    pace = parser.add_mutually_exclusive_group()
    pace.add_argument(
        "--speed", type=_speed, default=1.0, metavar="N", help="N times as fast as recorded (1)"
    )
    pace.add_argument("--full-speed", action="store_true", help="as fast as the IOP answers")
    parser.add_argument(
        "--write", action="store_true", help="also send what can change data or state"
    )
    parser.add_argument("--filter", metavar="FILTER", help="only requests that match")
    parser.add_argument("-c", "--count", type=number, metavar="N", help="send N requests at most")
    parser.add_argument(
        "--map",
        type=_mapping,
        action="append",
        default=[],
        metavar="OLD=NEW",
        help="send to TID NEW what went to OLD (may be repeated)",
    )
    parser.add_argument(
        "--source-iop", type=number, metavar="N", help="which IOP of the capture (the first)"
    )
    parser.add_argument(
        "--timeout",
        type=positive_seconds,
        default=30.0,
        metavar="S",
        help="wait S seconds for a reply (30)",
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="open no IOP; show what would be sent"
    )
    add_json(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Replay; return 1 if a reply differs or none came."""
    wanted = compile_filter(args.filter or "")
    shown = _Json(args.dry_run) if args.json else _Text(args.dry_run)
    with ExitStack() as opened:
        capture = opened.enter_context(open_capture(args.file))
        capture.protect()  # I2O_CAPTURE may name the same file
        iop: Iop | None = None
        if not args.dry_run:
            iop = opened.enter_context(_open(args))
        replay = Replay(
            iop,
            speed=None if args.full_speed else args.speed,
            may_write=args.write,
            tids=dict(args.map),
            timeout_s=args.timeout,
            on_outcome=shown.outcome,
        )
        requests = recorded_requests(
            capture, iop=args.source_iop, is_wanted=wanted, is_alone=_is_alone
        )
        summary = replay.run(requests, args.count)
        shown.summary(summary, capture)
    return NEGATIVE if summary.different or summary.stopped else OK


class _Text:
    """Prints replies that differ, and the summary."""

    def __init__(self, is_dry: bool) -> None:
        self._is_dry = is_dry
        self._shown = 0

    def outcome(self, outcome: Outcome) -> None:
        traced = outcome.recorded.traced
        if not outcome.differences and not (self._is_dry and not outcome.skipped):
            return
        self._shown += 1
        if self._shown > MAX_SHOWN:
            return
        text = "would be sent" if self._is_dry else "; ".join(outcome.differences)
        output.show(f"{traced.index:6} {outcome.tid:#05x} {traced.name:<23} {text}")

    def summary(self, summary: Summary, capture: Capture) -> None:
        if self._shown > MAX_SHOWN:
            output.show(f"       … and {self._shown - MAX_SHOWN:,} more")
        verb = "would be sent" if self._is_dry else "sent"
        output.show(f"{output.plural(summary.sent, 'request')} {verb}")
        for reason, count in summary.skipped.most_common():
            hint = " (--write sends it)" if reason == CHANGES else ""
            output.show(f"{count:,} left out: {reason}{hint}")
        if not self._is_dry:
            self._replies(summary)
        for problem in capture.problems:
            output.note(f"i2o: {output.printable(f'{capture.name}: {problem}')}")
        if capture.dropped:
            output.note(f"i2o: {capture.name}: {capture.dropped:,} packets were not captured")

    def _replies(self, summary: Summary) -> None:
        style = output.RED if summary.different else output.GREEN
        replies = "reply" if summary.same == 1 else "replies"
        text = f"{summary.same:,} {replies} as recorded, {summary.different:,} differ"
        if summary.uncompared:
            text += f", {summary.uncompared:,} have none to compare with"
        output.show(output.styled(text, style))
        if summary.recorded.count and summary.now.count:
            output.show(f"latency p50 {_percentiles(summary, 50)}, p99 {_percentiles(summary, 99)}")
        if summary.stopped:
            output.note(f"i2o: stopped: {output.printable(summary.stopped)}")


class _Json:
    """Prints an object for every request, then the summary."""

    def __init__(self, is_dry: bool) -> None:
        self._is_dry = is_dry

    def outcome(self, outcome: Outcome) -> None:
        traced = outcome.recorded.traced
        record: dict[str, object] = {
            "type": "replayed",
            "index": traced.index,
            "function": traced.function,
            "name": traced.name,
            "target": outcome.tid,
            "skipped": outcome.skipped or None,
        }
        if not outcome.skipped and not self._is_dry:
            before = outcome.recorded.reply
            record |= {
                "same": None if before is None and outcome.reply else not outcome.differences,
                "differences": outcome.differences,
                "latency": outcome.latency_ns / 1e9 if outcome.reply is not None else None,
                "recorded_latency": _seconds_of(before),
            }
        output.emit(record)

    def summary(self, summary: Summary, capture: Capture) -> None:
        output.emit(
            {
                "type": "summary",
                "sent": summary.sent,
                "skipped": dict(summary.skipped),
                "same": summary.same,
                "different": summary.different,
                "uncompared": summary.uncompared,
                "max_in_flight": summary.max_depth,
                "late": summary.late_ns / 1e9,
                "recorded_latency": _latency(summary.recorded),
                "latency": _latency(summary.now),
                "stopped": summary.stopped or None,
                "dropped": capture.dropped,
                "problems": capture.problems,
            }
        )


def _open(args: argparse.Namespace) -> Iop:
    return opening.open(with_faults(args.iop, args.faults), timeout_s=args.timeout)


def _is_alone(traced: Traced) -> bool:
    return bool(why_never(traced.packet.data))


def _percentiles(summary: Summary, percent: int) -> str:
    before = duration_text(summary.recorded.percentile(percent))
    return f"{before} recorded, {duration_text(summary.now.percentile(percent))} now"


def _latency(times: Latencies) -> dict[str, float] | None:
    if not times.count:
        return None
    return {f"p{percent}": times.percentile(percent) / 1e9 for percent in (50, 99)}


def _seconds_of(reply: Traced | None) -> float | None:
    return None if reply is None or reply.latency_ns is None else reply.latency_ns / 1e9


def _speed(text: str) -> float:
    """Read a factor."""
    try:
        value = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no number") from None
    if not 1 / _MAX_SPEED <= value <= _MAX_SPEED or math.isnan(value):
        raise argparse.ArgumentTypeError(f"{text!r} is not between {1 / _MAX_SPEED:g} and 1e6")
    return value


def _mapping(text: str) -> tuple[int, int]:
    """Read OLD=NEW."""
    old, equals, new = text.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError(f"{text!r} is no OLD=NEW, such as 0x200=0x10")
    return tid(old), tid(new)
