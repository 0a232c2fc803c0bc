# SPDX-License-Identifier: Apache-2.0
"""Measures alternatives in turn within one run: ratios hold on a noisy machine, times do not."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Mapping

ROUNDS = 9


def best_times(
    work: Mapping[str, Callable[[int], object]], counts: Mapping[str, int], rounds: int = ROUNDS
) -> dict[str, float]:
    """Time every alternative once per round and keep each one's best.

    Args:
        work: functions that do their thing `count` times.
        counts: how often per round.
        rounds: how many rounds.

    Returns:
        Microseconds per operation by name.
    """
    best = dict.fromkeys(work, float("inf"))
    gc.collect()
    gc.disable()
    try:
        for _ in range(rounds):
            for name, run in work.items():
                start = time.perf_counter()
                run(counts[name])
                took = (time.perf_counter() - start) / counts[name]
                best[name] = min(best[name], took * 1e6)
    finally:
        gc.enable()
    return best


def repeat(call: Callable[[], object]) -> Callable[[int], None]:
    """Return a function that makes a call `count` times."""

    def run(count: int) -> None:
        for _ in range(count):
            call()

    return run


def verdict(what: str, ratio: float, bar: float, *, at_least: bool) -> None:
    """Print a ratio beside its bar."""
    fine = ratio >= bar if at_least else ratio <= bar
    word = "at least" if at_least else "at most"
    print(f"  {what}: {ratio:.2f} (bar: {word} {bar:g}) {'ok' if fine else 'MISSED'}")
