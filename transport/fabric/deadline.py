# SPDX-License-Identifier: Apache-2.0
"""When a call that waits for an entry of a queue gives up."""

from __future__ import annotations

import errno
import math

from i2o.clock import Clock
from i2o.transport.fabric.errors import FabricError


def end_of_wait(clock: Clock, timeout_s: float | None) -> float | None:
    """Return the clock's time at which a wait is over.

    Args:
        clock: tells the time.
        timeout_s: seconds from now; None, or infinite, waits for ever.

    Returns:
        Seconds of the clock's `monotonic`, None for never.

    Raises:
        FabricError: EINVAL, it is not a number: no time would ever be later than that.
    """
    if timeout_s is None or timeout_s == math.inf:
        return None
    if math.isnan(timeout_s):
        raise FabricError(
            errno.EINVAL, "timeout_s is not a number: give seconds, or None to wait for ever"
        )
    return clock.monotonic() + timeout_s
