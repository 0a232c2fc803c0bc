# SPDX-License-Identifier: Apache-2.0
"""The clock that tests move by hand keeps what a clock promises."""

from __future__ import annotations

import pytest

from i2o.clock import ManualClock


@pytest.mark.parametrize("wait", [ManualClock.sleep, ManualClock.spin])
def test_the_shortest_wait_takes_time(wait):
    """Differences of floats leave rests below a nanosecond, which must take time, too."""
    clock = ManualClock(5_300_000_000)
    deadline = clock.monotonic() + 0.1
    for _ in range(10):
        wait(clock, (deadline - clock.monotonic()) / 2 + 1e-16)
        if clock.monotonic() >= deadline:
            break
    before = clock.monotonic_ns()
    wait(clock, 1e-16)
    assert clock.monotonic_ns() == before + 1
