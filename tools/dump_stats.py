# SPDX-License-Identifier: Apache-2.0
"""What `i2o dump --stats` shows: tables, plots for the terminal, JSON, and a picture on request."""

from __future__ import annotations

import sys
from collections.abc import Container, Iterable
from typing import Final

from i2o.decode.conversation import Traced
from i2o.decode.latencies import RELATIVE_ERROR, Latencies
from i2o.decode.message_stats import MessageRow
from i2o.decode.stats import Row, Statistics
from i2o.tools.bar_plot import bar_plot
from i2o.tools.dump_line import duration_text
from i2o.tools.dump_plot import draw
from i2o.tools.output import human_size, plural, printable

MAX_SHOWN: Final = 40
"""Lines of one table."""
PLOT_WIDTH: Final = 60
PLOT_HEIGHT: Final = 8
_PERCENTS: Final = (50, 90, 99)
_BAD_CELLS: Final = (3, 4)  # errors, and requests without a reply
_BOLD, _DIM, _RED, _RESET = "\x1b[1m", "\x1b[2m", "\x1b[31m", "\x1b[0m"
_MESSAGE_HEAD: Final = (
    "sent",
    "bytes",
    "received",
    "bytes",
    "failed",
    "not ended",
    "min",
    "mean",
    "p50",
    "p90",
    "p99",
    "max",
)
_BAD_MESSAGE_CELLS: Final = (5,)
_HEAD: Final = (
    "requests",
    "replies",
    "errors",
    "no reply",
    "moved",
    "min",
    "mean",
    "p50",
    "p90",
    "p99",
    "max",
)


class StatsReport:
    """Collects the statistics of a capture and shows them.

    Attributes:
        statistics: what was counted; whoever reads the capture sets its `dropped`.
    """

    def __init__(self) -> None:
        self.statistics = Statistics()

    def feed(self, traced: Traced) -> None:
        """Count a frame."""
        self.statistics.feed(traced)

    def lines(
        self, width: int = 100, colour: bool = False, *, blocks: bool | None = None
    ) -> list[str]:
        """Return the report for a terminal.

        Args:
            width: columns of the terminal; tables may need more.
            colour: use ANSI colours.
            blocks: use block characters; None asks the encoding of stdout.
        """
        found = self.statistics
        has_blocks = _stdout_has_blocks() if blocks is None else blocks
        lines = _styled(self._head(), _BOLD if colour else "")
        lines += _section("message", _by_requests(found.functions.values()), found.total, colour)
        lines += _section("device", _by_requests(found.devices.values()), None, colour)
        if len(found.iops) > 1:
            lines += _section("IOP", _by_requests(found.iops.values()), None, colour)
        ends = found.messages
        lines += _messages("endpoint", ends.endpoints.values(), ends.total, colour)
        if len(ends.peers) > 1:
            lines += _messages("endpoint and peer", ends.peers.values(), None, colour)
        if found.total.requests + found.total.replies > 1:
            lines += self._plots(min(PLOT_WIDTH, max(10, width - 12)), has_blocks)
        return lines

    def json(self) -> dict[str, object]:
        """Return everything as one JSON object; times in seconds."""
        found = self.statistics
        timeline = found.timeline
        return {
            "type": "stats",
            "seconds": timeline.seconds,
            "dropped": found.dropped,
            "short": found.short,
            "unmatched_replies": found.unmatched,
            "dma_to_device": found.to_device,
            "dma_from_device": found.from_device,
            "max_queue_depth": found.total.max_depth,
            "latency_error": RELATIVE_ERROR,
            "total": _row_json(found.total),
            "functions": {row.name: _row_json(row) for row in found.functions.values()},
            "devices": {row.name: _row_json(row) for row in found.devices.values()},
            "iops": {
                row.name: {**_row_json(row), "max_queue_depth": row.max_depth}
                for row in found.iops.values()
            },
            "messages": {
                "seconds": found.messages.seconds,
                "damaged": found.messages.damaged,
                "total": _message_json(found.messages.total),
                "endpoints": {
                    row.name: _message_json(row) for row in found.messages.endpoints.values()
                },
                "peers": {row.name: _message_json(row) for row in found.messages.peers.values()},
            },
            "timeline": {
                "slot_seconds": timeline.slot_ns / 1e9,
                "messages": [slot.messages for slot in timeline.slots()],
                "queue_depth": [slot.depth for slot in timeline.slots()],
                "latency_mean": [
                    slot.latency_sum_ns / slot.latencies / 1e9 if slot.latencies else None
                    for slot in timeline.slots()
                ],
                "latency_max": [
                    slot.latency_max_ns / 1e9 if slot.latencies else None
                    for slot in timeline.slots()
                ],
            },
        }

    def plot(self, path: str) -> None:
        """Draw queue depth, rate and latency over time.

        Args:
            path: where to; its ending chooses the format (.png, .svg, .pdf).

        Raises:
            PlotUnavailable: matplotlib is missing, or cannot write that format.
            OSError: the file cannot be written.
        """
        draw(self.statistics.timeline, self._head()[0], path)

    # -------------------------------------------------------------------------------------------

    def _head(self) -> list[str]:
        found = self.statistics
        total, seconds = found.total, found.timeline.seconds
        if not total.requests and not total.replies and found.messages.total.messages:
            return [_messages_line(found), *self._bad()]
        replies = f"{total.replies:,} repl{'y' if total.replies == 1 else 'ies'}"
        first = f"{plural(total.requests, 'request')}, {replies} in {seconds:.6g} s"
        if seconds:
            first += f": {total.requests / seconds:,.0f} requests/s"
            if total.moved:
                first += f", {total.moved / seconds / 1e6:,.1f} MB/s"
        second = f"queue depth at most {total.max_depth}"
        if found.to_device or found.from_device:
            second += (
                f"; DMA {human_size(found.to_device)} to the device, "
                f"{human_size(found.from_device)} from it"
            )
        lines = [first, second]
        if found.messages.total.messages:
            lines.append(_messages_line(found))
        return [*lines, *self._bad()]

    def _bad(self) -> list[str]:
        """Return a line about what is missing or wrong, if anything is."""
        found = self.statistics
        bad = [
            f"{count:,} {what}"
            for count, what in (
                (found.dropped, "dropped by the capture"),
                (found.short, "without a whole header"),
                (found.unmatched, "final replies to no known request"),
                (found.messages.damaged, "that are no messages of endpoints"),
            )
            if count
        ]
        return ["; ".join(bad)] if bad else []

    def _plots(self, width: int, blocks: bool) -> list[str]:
        slots = self.statistics.timeline.slots(width)
        end = f"{self.statistics.timeline.seconds:.4g} s"
        merged = max(1, -(-len(self.statistics.timeline.slots()) // width))
        slot_s = self.statistics.timeline.slot_ns * merged / 1e9
        depth = bar_plot(
            "queue depth (requests without a final reply, the most at one time)",
            [slot.depth for slot in slots],
            width=width,
            height=PLOT_HEIGHT,
            top_text=lambda top: f"{top:,.0f}",
            left="0",
            right=end,
            blocks=blocks,
        )
        rate = bar_plot(
            "messages per second",
            [slot.messages / slot_s for slot in slots],
            width=width,
            height=PLOT_HEIGHT,
            top_text=_count_text,
            left="0",
            right=end,
            blocks=blocks,
        )
        return ["", *depth, "", *rate]


# --- tables -------------------------------------------------------------------------------------


def _by_requests(rows: Iterable[Row]) -> list[Row]:
    return sorted(rows, key=lambda row: (-row.requests, -row.replies, row.name))


def _section(what: str, rows: list[Row], total: Row | None, colour: bool) -> list[str]:
    shown = rows[:MAX_SHOWN]
    if total is not None and len(rows) > 1:
        shown = [*shown, total]
    cells = [[row.name, *_cells(row)] for row in shown]
    return _table([what, *_HEAD], cells, len(rows), _BAD_CELLS, colour)


def _messages(
    what: str, found: Iterable[MessageRow], total: MessageRow | None, colour: bool
) -> list[str]:
    rows = sorted(found, key=lambda row: (-row.messages, row.name))
    shown = rows[:MAX_SHOWN]
    if total is not None and len(rows) > 1:
        shown = [*shown, total]
    cells = [[printable(row.name), *_message_cells(row)] for row in shown]
    return _table([what, *_MESSAGE_HEAD], cells, len(rows), _BAD_MESSAGE_CELLS, colour)


def _table(
    head: list[str], cells: list[list[str]], count: int, bad: Container[int], colour: bool
) -> list[str]:
    """Return rows with a heading; none without rows."""
    if not cells:
        return []
    widths = [max(len(line[at]) for line in (head, *cells)) for at in range(len(head))]
    lines = ["", *_styled([_aligned(head, widths)], _DIM if colour else "")]
    lines += [_aligned(line, widths, red=bad if colour else ()) for line in cells]
    if count > MAX_SHOWN:
        lines.append(f"… and {count - MAX_SHOWN} more")
    return lines


def _cells(row: Row) -> list[str]:
    counts = (row.requests, row.replies, row.errors, row.unanswered)
    return [*map(_count, counts), _size(row.moved), *_latency_cells(row.latencies)]


def _message_cells(row: MessageRow) -> list[str]:
    return [
        _count(row.sent),
        _size(row.sent_bytes),
        _count(row.received),
        _size(row.received_bytes),
        _count(row.failures),
        _count(row.open),
        *_latency_cells(row.latencies),
    ]


def _latency_cells(times: Latencies) -> list[str]:
    if not times.count:
        return ["-"] * 6
    return [
        duration_text(value)
        for value in (
            times.min_ns,
            round(times.mean_ns),
            *(times.percentile(percent) for percent in _PERCENTS),
            times.max_ns,
        )
    ]


def _count(count: int) -> str:
    return f"{count:,}" if count else "-"


def _size(size: int) -> str:
    return human_size(size).replace(" bytes", " B").replace(" byte", " B") if size else "-"


def _messages_line(found: Statistics) -> str:
    """Return what endpoints did, in a line."""
    total, seconds = found.messages.total, found.messages.seconds
    text = (
        f"{plural(total.sent, 'message')} of endpoints sent ({human_size(total.sent_bytes)}), "
        f"{total.received:,} received ({human_size(total.received_bytes)}) in {seconds:.6g} s"
    )
    return f"{text}: {total.messages / seconds:,.0f} messages/s" if seconds else text


def _aligned(cells: list[str], widths: list[int], red: Container[int] = ()) -> str:
    """Return cells as one line; those at the places in `red` are red unless they are empty."""
    padded = [
        cell.rjust(width) if at else cell.ljust(width)
        for at, (cell, width) in enumerate(zip(cells, widths, strict=True))
    ]
    for at, cell in enumerate(cells):
        if at in red and cell != "-":
            padded[at] = f"{_RED}{padded[at]}{_RESET}"
    return "  ".join(padded)


def _styled(lines: list[str], code: str) -> list[str]:
    return [f"{code}{line}{_RESET}" for line in lines] if code else lines


def _row_json(row: Row) -> dict[str, object]:
    return {
        "requests": row.requests,
        "replies": row.replies,
        "errors": row.errors,
        "unanswered": row.unanswered,
        "moved": row.moved,
        "latency": _latency_json(row.latencies),
    }


def _message_json(row: MessageRow) -> dict[str, object]:
    return {
        "sent": row.sent,
        "sent_bytes": row.sent_bytes,
        "received": row.received,
        "received_bytes": row.received_bytes,
        "failed": row.failures,
        "not_ended": row.open,
        "latency": _latency_json(row.latencies),
    }


def _latency_json(times: Latencies) -> dict[str, float] | None:
    if not times.count:
        return None
    return {
        "min": times.min_ns / 1e9,
        "mean": times.mean_ns / 1e9,
        **{f"p{percent}": times.percentile(percent) / 1e9 for percent in _PERCENTS},
        "max": times.max_ns / 1e9,
    }


def _count_text(value: float) -> str:
    if value >= 10_000_000:
        return f"{value / 1e6:.0f}M"
    return f"{value / 1e3:.0f}k" if value >= 10_000 else f"{value:.0f}"


def _stdout_has_blocks() -> bool:
    try:
        "█┤".encode(sys.stdout.encoding or "ascii")
    except (AttributeError, LookupError, UnicodeEncodeError):
        return False
    return True
