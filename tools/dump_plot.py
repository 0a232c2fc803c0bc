# SPDX-License-Identifier: Apache-2.0
"""A picture of traffic over time, drawn by matplotlib: the extra `plot`."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from i2o.decode.timeline import Timeline
from i2o.errors import I2OError

_DEPTH, _RATE, _LONGEST, _MEAN = "#4477aa", "#228833", "#cc6677", "#332288"


class PlotUnavailable(I2OError):
    """No picture can be drawn: matplotlib is missing, or does not know the format."""


def draw(timeline: Timeline, title: str, path: str) -> None:
    """Draw queue depth, rate and latency over time.

    Args:
        timeline: what happened when.
        title: stands above.
        path: where to; its ending chooses the format (.png, .svg, .pdf).

    Raises:
        PlotUnavailable: matplotlib is missing, or cannot write that format.
        OSError: the file cannot be written.
    """
    try:
        figures: Any = import_module("matplotlib.figure")
    except ImportError:
        raise PlotUnavailable(
            "a plot needs matplotlib (pip install '.[plot]' in a clone)"
        ) from None
    figure = figures.Figure(figsize=(10, 7.5), layout="constrained")
    _draw(figure.subplots(3, 1, sharex=True), timeline)
    figure.suptitle(title, fontsize=11)
    try:
        figure.savefig(path, dpi=120)
    except ValueError as error:  # an ending that it does not know
        raise PlotUnavailable(f"{path}: {str(error).splitlines()[0]}") from None


def _draw(panels: Any, timeline: Timeline) -> None:
    depth, rate, latency = panels
    slots, slot_s = timeline.slots(), timeline.slot_ns / 1e9
    times = [slot.start_ns / 1e9 for slot in slots]
    edges = [*times, (times[-1] if times else 0.0) + slot_s]
    depth.stairs([slot.depth for slot in slots], edges, fill=True, color=_DEPTH)
    depth.set_ylabel("queue depth\n(most in a slot)")
    rate.stairs([slot.messages / slot_s for slot in slots], edges, fill=True, color=_RATE)
    rate.set_ylabel("messages per second")
    rate.yaxis.set_major_formatter("{x:,.0f}")
    timed = [slot for slot in slots if slot.latencies]
    middles = [slot.start_ns / 1e9 + slot_s / 2 for slot in timed]
    longest = [slot.latency_max_ns / 1e3 for slot in timed]
    means = [slot.latency_sum_ns / slot.latencies / 1e3 for slot in timed]
    dots = {"linestyle": "none", "marker": "."}
    latency.plot(middles, longest, color=_LONGEST, label="longest", **dots)
    latency.plot(middles, means, color=_MEAN, label="mean", **dots)
    latency.set_ylabel("latency in µs")
    if any(longest):
        latency.set_yscale("log")
        latency.yaxis.set_major_formatter("{x:g}")
    if timed:
        latency.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=2, frameon=False)
    latency.set_xlabel(f"seconds since the first message; a slot is {_slot_text(slot_s)}")
    for panel in (depth, rate, latency):
        panel.grid(True, alpha=0.3)
        panel.margins(x=0.01)
    for panel in (depth, rate):
        panel.set_ylim(bottom=0)


def _slot_text(slot_s: float) -> str:
    return f"{slot_s * 1e3:g} ms" if slot_s < 1 else f"{slot_s:g} s"
