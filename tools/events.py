# SPDX-License-Identifier: Apache-2.0
"""`i2o events`: what an IOP's devices tell, a line each.

It ends when nothing was told for --timeout seconds, or with --follow when it is interrupted.
--lct shows changes of the device table, too. An IOP that lost its state is brought up again. The
exit code is 1 if nothing was told, or if a device refuses to be listened to.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING, Final

from i2o import opening
from i2o.errors import IopDead
from i2o.frames.tables import IopState
from i2o.tools import output
from i2o.tools.arguments import SubParsers, add_iop, add_json, number, seconds, tid, with_faults
from i2o.tools.event_masks import EventMask, event_mask, event_name_list
from i2o.tools.failures import NEGATIVE, OK, explain
from i2o.tools.lct import record, tag_text

if TYPE_CHECKING:
    from i2o.events import Event, EventStream
    from i2o.iop import Iop
    from i2o.lct_watch import LctChange, LctWatch
    from i2o.resources import LctEntry

LOOK_S: Final = 5.0
"""Seconds between two looks at the IOP's state."""

_SLICE_S: Final = 0.1


def add_parser(subparsers: SubParsers, summary: str) -> None:
    """Add the sub-command."""
    parser = subparsers.add_parser(
        "events",
        help=summary,
        description=__doc__,
        epilog=f"event names: {', '.join(event_name_list())}",
    )
    parser.add_argument(
        "--tid", type=tid, action="append", metavar="TID", help="listen to this device only"
    )
    parser.add_argument(
        "--mask",
        type=event_mask,
        default=EventMask(),
        metavar="EVENTS",
        help="the events wanted: names and numbers, separated by commas (all)",
    )
    ends = parser.add_mutually_exclusive_group()
    ends.add_argument("--follow", action="store_true", help="go on until interrupted")
    ends.add_argument(
        "--timeout", type=seconds, default=1.0, metavar="SECONDS", help="how long to wait (1)"
    )
    parser.add_argument("--count", type=number, metavar="N", help="end after N lines")
    parser.add_argument("--lct", action="store_true", help="show changes of the device table, too")
    parser.add_argument("--ack", action="store_true", help="acknowledge each event")
    add_iop(parser)
    add_json(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Show events until there are enough of them, or none come."""
    shown = 0
    with opening.open(with_faults(args.iop, args.faults)) as iop, ExitStack() as opened:
        for device in args.tid or ():
            iop.device_class(device)  # an unknown TID is an error before anything is sent
        watch = opened.enter_context(iop.lct_changes()) if args.lct else None
        stream = opened.enter_context(iop.events(args.tid, args.mask.bits))
        wait_s = None if args.follow else args.timeout
        news = _news(iop, stream, watch, args.mask, wait_s=wait_s, acknowledges=args.ack)
        try:
            while args.count is None or shown < args.count:
                line = next(news, None)
                if line is None:
                    break
                shown += 1
                _show(line, as_json=args.json)
        except KeyboardInterrupt:
            if not args.follow:
                raise
        if not shown and args.count != 0:
            output.note("i2o: nothing was told")
        for device, why in sorted(stream.refused.items()):
            output.note(f"i2o: TID {device:#05x} tells nothing: {why}")
        if stream.lost:
            output.note(f"i2o: {output.plural(stream.lost, 'event')} lost")
        is_refused = bool(stream.refused)
    return NEGATIVE if is_refused or (not shown and args.count != 0) else OK


def _news(
    iop: Iop,
    stream: EventStream,
    watch: LctWatch | None,
    mask: EventMask,
    *,
    wait_s: float | None,
    acknowledges: bool,
) -> Iterator[dict[str, object]]:
    """Yield a record for each event and each changed device, until none comes for `wait_s`.

    Raises:
        IopDead: the IOP is gone.
    """
    clock = iop.layer.clock
    quiet_since = looked = clock.monotonic()
    while True:
        event = stream.take(_SLICE_S if wait_s is None else min(_SLICE_S, wait_s))
        if event is not None and mask.wants(event.indicator, event.device_class):
            yield _event_record(event)
            if acknowledges:
                stream.acknowledge(event)
            quiet_since = clock.monotonic()
        change = None if watch is None else watch.take(0)
        if change is not None:
            yield from _change_records(change)
            quiet_since = clock.monotonic()
        if event is None and stream.ended:
            raise IopDead(stream.ended)
        now = clock.monotonic()
        if event is None and wait_s is not None and now - quiet_since >= wait_s:
            return
        if now - looked >= LOOK_S:
            looked = now
            _revive_if_lost(iop)


def _revive_if_lost(iop: Iop) -> None:
    try:
        status = iop.layer.check(iop.number)
    except IopDead as error:  # it may have crashed, which a reset cures, or be gone
        if iop.layer.why_gone(iop.number):
            raise
        output.note(f"i2o: {explain(error)}: bringing the IOP up again")
        iop.revive()
        return
    if status.state != IopState.OPERATIONAL:
        output.note(f"i2o: the IOP is {status.state_name}: bringing it up again")
        iop.revive()


def _event_record(event: Event) -> dict[str, object]:
    return {
        "time": event.time_ns / 1e9,
        "kind": "event",
        "tid": event.tid,
        "indicator": event.indicator,
        "names": event.names,
        "data": event.data.hex(),
        "meaning": event.meaning,
    }


def _change_records(change: LctChange) -> Iterator[dict[str, object]]:
    for kind, entries in (
        ("removed", change.removed),
        ("added", change.added),
        ("changed", change.changed),
    ):
        for entry in entries:
            yield {"time": time.time(), "kind": kind, **record(entry), "names": _device(entry)}


def _device(entry: LctEntry) -> str:
    return f"{entry.class_name} {tag_text(entry.identity_tag)}"


def _show(line: dict[str, object], *, as_json: bool) -> None:
    """Print a line at once: whoever reads a pipe wants to see it now."""
    if as_json:
        output.emit(line)
    else:
        output.show(_text(line))
    if sys.stdout is not None:
        sys.stdout.flush()


def _text(line: dict[str, object]) -> str:
    seconds = float(str(line["time"]))
    clock = time.strftime("%H:%M:%S", time.localtime(seconds))
    start = f"{clock}.{int(seconds % 1 * 1e6):06}  {line['tid']:#05x}"
    if line["kind"] != "event":
        return output.printable(f"{start}  {line['kind']}: {line['names']}")
    data = bytes.fromhex(str(line["data"]))
    words = [int.from_bytes(data[at : at + 4], "little") for at in range(0, len(data), 4)]
    rest = [str(line["names"]), str(line["meaning"]), " ".join(f"{word:08x}" for word in words)]
    return output.printable("  ".join([start, *filter(None, rest)]))
