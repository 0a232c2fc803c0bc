# SPDX-License-Identifier: Apache-2.0
"""SIGTERM and SIGINT for commands that have a loop of their own: they end it, and nothing else."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def stop_signals() -> Iterator[tuple[int, Callable[[], bool]]]:
    """Turn SIGTERM and SIGINT into a descriptor that becomes readable, and a question."""
    wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
    stopped: list[int] = []

    def stop(number: int, _: FrameType | None) -> None:
        stopped.append(number)
        os.eventfd_write(wake, 1)

    before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield wake, lambda: bool(stopped)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        os.close(wake)
