# SPDX-License-Identifier: Apache-2.0
"""Frames as text: a line each, and below it as much as was asked for."""

from __future__ import annotations

from collections.abc import Callable

from i2o.decode.conversation import DMA, MESSAGE, Traced
from i2o.decode.frame import extra_nodes, fixed_nodes, frame_of
from i2o.tools.dump_line import LinePrinter
from i2o.tools.dump_tree import INDENT, table_lines, tree_lines
from i2o.tools.frame_view import hex_lines


class TextPrinter:
    """Makes lines.

    Args:
        lines: makes the first line.
        detail: 0 for that line only, 1 for every field, 2 for bits and offsets, too.
        with_hex: add the bytes in hexadecimal.
        colour: use ANSI colours.

    Attributes:
        text: returns a packet as text.
    """

    def __init__(
        self, lines: LinePrinter, *, detail: int = 0, with_hex: bool = False, colour: bool = False
    ) -> None:
        self._lines = lines
        self._detail, self._with_hex, self._colour = detail, with_hex, colour
        # in a listing of lines only, a call less a frame
        self.text: Callable[[Traced], str] = (
            lines.line if not detail and not with_hex else self.full
        )

    def start(self, time_ns: int) -> None:
        """Count times from here, the first packet's."""
        self._lines.start(time_ns)

    def full(self, traced: Traced) -> str:
        """Return a packet with its details."""
        return "\n".join([self._lines.line(traced), *self.details(traced)])

    def rest(self, dropped: int) -> str:
        """Return nothing: every packet was shown when it came."""
        return ""

    def details(self, traced: Traced) -> list[str]:
        """Return what stands below the first line."""
        lines: list[str] = []
        if self._detail:
            fixed = [] if traced.kind == DMA else fixed_nodes(traced)
            extra = extra_nodes(traced)
            if self._detail == 1:
                lines += tree_lines([*fixed, *extra], colour=self._colour)
            else:
                frame = b"" if traced.kind == DMA else _shown_bytes(traced)
                lines += table_lines(frame, fixed, extra, colour=self._colour)
        if self._with_hex:
            lines += hex_lines(traced.packet.data, indent=INDENT)
        return [*lines, ""] if self._detail > 1 or (self._detail and self._with_hex) else lines


def _shown_bytes(traced: Traced) -> bytes:
    """Return what the words of the fixed part are taken from."""
    return traced.packet.data if traced.kind == MESSAGE else frame_of(traced)
