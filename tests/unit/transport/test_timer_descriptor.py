# SPDX-License-Identifier: Apache-2.0
"""A descriptor that is readable at a time."""

from __future__ import annotations

import ctypes
import errno
import select

import pytest

from i2o.clock import SYSTEM_CLOCK
from i2o.transport.timer_descriptor import TimerDescriptor


def is_readable(timer: TimerDescriptor, patience_s: float = 0) -> bool:
    return bool(select.select([timer.fileno()], [], [], patience_s)[0])


def test_it_wakes_at_the_earliest_time():
    timer = TimerDescriptor()
    try:
        timer.wake_by(None)
        assert not is_readable(timer)
        now = SYSTEM_CLOCK.monotonic_ns()
        timer.wake_by(now + 3_600_000_000_000)
        assert not is_readable(timer)
        timer.wake_by(now + 1_000_000)
        timer.wake_by(now + 7_200_000_000_000)
        assert is_readable(timer, 20)
        timer.silence()
        assert not is_readable(timer)
        timer.wake_by(0)
        assert is_readable(timer, 20)
    finally:
        timer.close()
    timer.close()
    timer.wake_by(0)
    timer.silence()
    assert timer.fileno() == -1


def test_without_descriptors(monkeypatch):
    class Full:
        @staticmethod
        def timerfd_create(clock: int, flags: int) -> int:
            ctypes.set_errno(errno.EMFILE)
            return -1

    monkeypatch.setattr(ctypes, "CDLL", lambda *args, **more: Full)
    with pytest.raises(OSError, match="open files"):
        TimerDescriptor()
