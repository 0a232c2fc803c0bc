# SPDX-License-Identifier: Apache-2.0
"""How much went through an IOP, for tools and tests."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class Counters:
    """Counts since the IOP was made; a reset does not clear them.

    Attributes:
        requests: requests taken up.
        replies: replies posted to the host, of every kind.
        fails: FAIL replies among them, or waiting to be.
        events: event replies among them, or waiting to be.
        dropped: requests and events that nobody will hear of again.
        bad_requests: frames and lists that made no sense.
        faults: requests hit by the fault plan.
        timers: delayed requests whose time came.
        backlog_peak: most replies that ever waited for reply frames.
    """

    requests: int = 0
    replies: int = 0
    fails: int = 0
    events: int = 0
    dropped: int = 0
    bad_requests: int = 0
    faults: int = 0
    timers: int = 0
    backlog_peak: int = 0
