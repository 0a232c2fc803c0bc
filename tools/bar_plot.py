# SPDX-License-Identifier: Apache-2.0
"""A plot of bars for the terminal, from block characters."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

_EIGHTHS: Final = " ▁▂▃▄▅▆▇█"
_ASCII: Final = "    .::##"


def bar_plot(
    title: str,
    values: Sequence[float],
    *,
    width: int,
    height: int,
    top_text: Callable[[float], str],
    left: str,
    right: str,
    blocks: bool = True,
) -> list[str]:
    """Return the lines of a plot, one column a value.

    Args:
        title: stands above it.
        values: none below zero; stretched to the width if there are fewer.
        width: columns of the bars.
        height: lines of the bars.
        top_text: writes a number on the axis.
        left: stands below the left end.
        right: stands below the right end.
        blocks: the terminal can show block characters.
    """
    count = len(values)
    columns = [values[at * count // width] for at in range(width)] if count else [0.0] * width
    top = max(columns) or 1.0
    steps = _EIGHTHS if blocks else _ASCII
    heights = [min(8 * height, max(round(8 * height * v / top), 1 if v else 0)) for v in columns]
    labels = [""] * height
    labels[0], labels[-1] = top_text(top), "0"
    margin = max(map(len, labels))
    lines = [title]
    for row in range(height):
        below = 8 * (height - 1 - row)
        bars = "".join(steps[min(8, max(0, found - below))] for found in heights)
        lines.append(f"{labels[row]:>{margin}} {'┤' if blocks else '|'}{bars}".rstrip())
    corner = "└" + "─" * width if blocks else "+" + "-" * width
    lines.append(" " * (margin + 1) + corner)
    lines.append(" " * (margin + 2) + left + right.rjust(max(len(right) + 1, width - len(left))))
    return lines
