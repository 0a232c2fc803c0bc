# SPDX-License-Identifier: Apache-2.0
"""Prints the statistics of a capture at its end, in place of its packets."""

from __future__ import annotations

import json
import shutil

from i2o.decode.conversation import Traced
from i2o.tools.dump_stats import StatsReport


class StatsPrinter:
    """Counts packets.

    Args:
        as_json: one JSON object, not tables.
        colour: use ANSI colours.
        plot: file to draw a picture to.
    """

    def __init__(self, *, as_json: bool, colour: bool, plot: str | None) -> None:
        self._report = StatsReport()
        self._as_json, self._colour, self._plot = as_json, colour, plot

    def start(self, time_ns: int) -> None:
        """Do nothing: the statistics find out themselves when the capture began."""

    def text(self, traced: Traced) -> str:
        """Count a packet and return nothing."""
        self._report.feed(traced)
        return ""

    def rest(self, dropped: int) -> str:
        """Return the statistics; raises PlotUnavailable."""
        self._report.statistics.dropped = dropped
        if self._plot is not None:
            self._report.plot(self._plot)
        if self._as_json:
            return json.dumps(self._report.json())
        width = shutil.get_terminal_size((100, 24)).columns
        return "\n".join(self._report.lines(width, self._colour))
