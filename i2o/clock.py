# SPDX-License-Identifier: Apache-2.0
"""Time, injected: whoever waits asks a `Clock`, so tests and simulations take no real time."""

from __future__ import annotations

import math
import time
from typing import Protocol


class Clock(Protocol):
    """What the message layer and the emulator need to know about time."""

    def monotonic(self) -> float:
        """Return seconds on a clock that never goes back."""

    def monotonic_ns(self) -> int:
        """Return the same clock in nanoseconds."""

    def sleep(self, seconds: float) -> None:
        """Give the CPU away for at least this long."""

    def spin(self, seconds: float) -> None:
        """Keep the CPU busy for at least this long (a caller that must not sleep)."""


class SystemClock:
    """CLOCK_MONOTONIC of the machine: the same in every process, so deadlines may be shared."""

    monotonic = staticmethod(time.monotonic)
    monotonic_ns = staticmethod(time.monotonic_ns)
    sleep = staticmethod(time.sleep)

    @staticmethod
    def spin(seconds: float) -> None:
        """Loop until the time has passed."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            pass


class ManualClock:
    """A clock that moves only when told to, or when somebody waits on it.

    Attributes:
        slept: seconds given to `sleep`, one entry a call.
        spun: seconds given to `spin`, one entry a call.
    """

    def __init__(self, start_ns: int = 0) -> None:
        self._now_ns = start_ns
        self.slept: list[float] = []
        self.spun: list[float] = []

    def monotonic(self) -> float:
        """Return the current time in seconds."""
        return self._now_ns / 1e9

    def monotonic_ns(self) -> int:
        """Return the current time in nanoseconds."""
        return self._now_ns

    def advance(self, seconds: float) -> None:
        """Move the time forward."""
        self._now_ns += round(seconds * 1e9)

    def sleep(self, seconds: float) -> None:
        """Record the wait and let the time pass at once."""
        self.slept.append(seconds)
        self._now_ns += math.ceil(seconds * 1e9)  # at least this long, or a wait never ends

    def spin(self, seconds: float) -> None:
        """Record the busy wait and let the time pass at once."""
        self.spun.append(seconds)
        self._now_ns += math.ceil(seconds * 1e9)


SYSTEM_CLOCK: Clock = SystemClock()
