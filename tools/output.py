# SPDX-License-Identifier: Apache-2.0
"""How commands print: aligned tables, JSON lines, colour and progress only where wanted.

Whatever came from a device or a disk goes through `printable` before it reaches a terminal.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import BinaryIO, Final, Self, TextIO

from i2o.decode.text import human_size, printable

__all__ = ["human_size", "printable"]

BOLD: Final = "1"
DIM: Final = "2"
RED: Final = "31"
GREEN: Final = "32"
YELLOW: Final = "33"
CYAN: Final = "36"

_BAR_WIDTH: Final = 30
_REDRAW_S: Final = 0.05


def use_colour(stream: TextIO) -> bool:
    """Whether to colour what goes to a stream: a terminal, and nobody said NO_COLOR."""
    return (
        is_terminal(stream)
        and not os.environ.get("NO_COLOR")
        and os.environ.get("TERM", "") != "dumb"
    )


def colour_wanted(choice: str) -> bool:
    """Whether to colour stdout: `always`, `never`, or `auto` for `use_colour`."""
    if choice == "auto":
        return sys.stdout is not None and use_colour(sys.stdout)
    return choice == "always"


def is_terminal(stream: TextIO | None) -> bool:
    """Whether a stream is a terminal (a closed or missing one is not)."""
    try:
        return stream is not None and stream.isatty()
    except ValueError:
        return False


def styled(text: str, *codes: str) -> str:
    """Return text in colour if stdout is to be coloured."""
    return paint(text, bool(text) and use_colour(sys.stdout), *codes)


def paint(text: str, colour: bool, *codes: str) -> str:
    """Return text in colour if `colour` says so."""
    return f"\x1b[{';'.join(codes)}m{text}\x1b[0m" if colour and text else text


def plural(count: int, noun: str) -> str:
    """Return `1 block`, `2 blocks`."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def rate(count: int, seconds: float) -> str:
    """Return a transfer rate in MB/s (millions of bytes)."""
    return f"{count / max(seconds, 1e-9) / 1e6:,.0f} MB/s"


def table(
    headers: Sequence[str], rows: Sequence[Sequence[str]], *, right: str = "", indent: int = 0
) -> list[str]:
    """Return a table as lines of aligned columns.

    Args:
        headers: one per column.
        rows: as many cells as there are headers.
        right: the headers of columns that are aligned to the right, separated by spaces.
        indent: spaces in front of each line.
    """
    to_right = set(right.split())
    widths = [max(len(row[at]) for row in (headers, *rows)) for at in range(len(headers))]
    lines = []
    for index, row in enumerate((headers, *rows)):
        cells = [
            cell.rjust(width) if name in to_right else cell.ljust(width)
            for cell, width, name in zip(row, widths, headers, strict=True)
        ]
        line = " " * indent + "  ".join(cells).rstrip()
        lines.append(styled(line, DIM) if index == 0 else line)
    return lines


def show(*lines: str) -> None:
    """Print lines to stdout."""
    for line in lines:
        print(line)


def emit(record: Mapping[str, object]) -> None:
    """Print one JSON object as one line."""
    print(json.dumps(record))


def note(text: str) -> None:
    """Print a line to stderr."""
    if sys.stderr is not None:
        print(text, file=sys.stderr)


class Progress:
    """A bar on stderr, there while its block runs; its methods do nothing when it is not shown.

    Args:
        what: stands in front of the bar.
        total: the end, in bytes.
        force: show it even if stderr is no terminal.
    """

    def __init__(self, what: str, total: int, *, force: bool = False) -> None:
        self._what, self._total = what, total
        self._shown = force or is_terminal(sys.stderr)
        self._start = time.perf_counter()
        self._drawn_at = -1.0
        self._done = 0

    def __call__(self, done: int, total: int | None = None) -> None:
        """Move the bar to `done` bytes; `total` is what the bar was made with."""
        self._done = done
        if self._shown:
            now = time.perf_counter()
            if now - self._drawn_at >= _REDRAW_S or done >= self._total:
                self._drawn_at = now
                self._draw(now - self._start)

    def add(self, count: int) -> None:
        """Move the bar by `count` bytes."""
        self(self._done + count)

    def behind(self, start: int) -> Callable[[int, int], None]:
        """Return a callback for a transfer that comes after `start` bytes were done."""

        def report(done: int, _: int) -> None:
            self(start + done)

        return report

    @property
    def seconds(self) -> float:
        """Time since the start."""
        return time.perf_counter() - self._start

    def __enter__(self) -> Self:
        self._start = time.perf_counter()
        if self._shown:
            sys.stdout.flush()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._shown:
            sys.stderr.write("\r\x1b[K" if is_terminal(sys.stderr) else "\n")
            sys.stderr.flush()

    def _draw(self, seconds: float) -> None:
        share = min(1.0, self._done / self._total) if self._total else 1.0
        filled = int(share * _BAR_WIDTH)
        bar = "#" * filled + "." * (_BAR_WIDTH - filled)
        line = (
            f"{self._what:<10.10} [{bar}] {share:4.0%}  {human_size(self._done)}, "
            f"{rate(self._done, seconds)}"
        )
        columns = shutil.get_terminal_size().columns
        sys.stderr.write("\r" + line[: max(20, columns - 1)])
        sys.stderr.flush()


def binary_stdout() -> BinaryIO:
    """Return stdout for bytes."""
    sys.stdout.flush()
    return sys.stdout.buffer
