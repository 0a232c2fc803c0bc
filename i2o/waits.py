# SPDX-License-Identifier: Apache-2.0
"""How long a call waits for a message frame: the rule of OSMMsgGetReqBuf and OSMMsgSend.

The transport tries once; if the caller allows a wait, it sleeps or busy-waits 100 ms and tries
again, until the wait is used up. With any wait at all there is at least one retry. The documents
say both "until the delay exceeds the wait" and "up to 100 ms shorter than asked"; the second wins:
attempts = 1 + (0 if wait == 0 else max(1, wait // 100 ms)).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from i2o.clock import Clock
from i2o.errors import InvalidArgument

I2OTRANS_NOSLEEP: Final = 0
"""Busy-wait between attempts (non-blockable, initialization or interrupt context)."""
I2OTRANS_SLEEP: Final = 1
"""Sleep between attempts (user context)."""

RETRY_US: Final = 100_000
"""Microseconds between two attempts."""
DEFAULT_HZ: Final = 100
"""Ticks per second of OSMMsgGetReqBuf's wait, unless the layer is told otherwise."""


def retries(wait_us: int) -> int:
    """Return how many times to try again after the first attempt failed."""
    return 0 if wait_us == 0 else max(1, wait_us // RETRY_US)


def ticks_to_us(ticks: int, hz: int) -> int:
    """Convert OSMMsgGetReqBuf's unit to OSMMsgSend's; a positive wait stays positive."""
    return -(-ticks * 1_000_000 // hz)


def check_flags(wait: int, flags: int) -> None:
    """Refuse what the interface reserves.

    Raises:
        InvalidArgument: a flag bit other than I2OTRANS_SLEEP is set, or the wait is negative.
    """
    if flags & ~I2OTRANS_SLEEP:
        raise InvalidArgument(f"flags {flags:#x}: only I2OTRANS_SLEEP and I2OTRANS_NOSLEEP exist")
    if wait < 0:
        raise InvalidArgument(f"a wait of {wait} is negative")


def retry(attempt: Callable[[], int | None], wait_us: int, flags: int, clock: Clock) -> int | None:
    """Repeat an attempt that has failed once, as often as the wait allows.

    Args:
        attempt: returns what was wanted, or None.
        wait_us: the caller's wait in microseconds.
        flags: I2OTRANS_SLEEP or I2OTRANS_NOSLEEP.
        clock: what to sleep or spin on.

    Returns:
        What the first successful attempt returned, or None.
    """
    pause = clock.sleep if flags & I2OTRANS_SLEEP else clock.spin
    for _ in range(retries(wait_us)):
        pause(RETRY_US / 1e6)
        result = attempt()
        if result is not None:
            return result
    return None
