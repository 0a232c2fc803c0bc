# SPDX-License-Identifier: Apache-2.0
"""A file descriptor that becomes readable at a time: timerfd_create(2), which Python has from 3.13.

For whoever hands out one descriptor to sleep on, and has deadlines, too.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import time
from typing import Final

_NS: Final = 1_000_000_000
_ABSOLUTE: Final = 1  # TFD_TIMER_ABSTIME
_FLAGS: Final = os.O_NONBLOCK | os.O_CLOEXEC


class _Moment(ctypes.Structure):
    """struct timespec."""

    _fields_ = (("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long))


class _Setting(ctypes.Structure):
    """struct itimerspec."""

    _fields_ = (("interval", _Moment), ("value", _Moment))


class TimerDescriptor:
    """A timer on CLOCK_MONOTONIC.

    Raises:
        OSError: there is no descriptor left.
    """

    def __init__(self) -> None:
        self._library = ctypes.CDLL(None, use_errno=True)
        self._fd: int = self._library.timerfd_create(time.CLOCK_MONOTONIC, _FLAGS)
        if self._fd < 0:
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code))
        self._due_ns: int | None = None

    def fileno(self) -> int:
        """Return the descriptor, or -1 after `close`."""
        return self._fd

    def wake_by(self, due_ns: int | None) -> None:
        """Be readable from that time on, at the latest; None if there is no hurry.

        A time that is later than the one before is not set: to be woken too early costs less than
        to set a timer for everything that happens.
        """
        if due_ns is None or self._fd < 0 or (self._due_ns is not None and due_ns >= self._due_ns):
            return
        self._due_ns = due_ns
        at = max(1, due_ns)  # 0 would mean never
        setting = _Setting(value=_Moment(at // _NS, at % _NS))
        self._library.timerfd_settime(self._fd, _ABSOLUTE, ctypes.byref(setting), None)

    def silence(self) -> None:
        """Be unreadable until the next time that is told."""
        self._due_ns = None
        with contextlib.suppress(BlockingIOError, OSError):
            os.read(self._fd, 8)

    def close(self) -> None:
        """Close the descriptor; calling it again does nothing."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)
