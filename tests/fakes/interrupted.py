# SPDX-License-Identifier: Apache-2.0
"""How a program ends that was interrupted."""

from __future__ import annotations

import signal


def ends_of_interrupt(code: int = 130) -> tuple[int, int]:
    """Return with what it may end that means to end with this code.

    CPython ends by the signal all the same, whoever caught the interrupt, if that struck in code
    given to `exec`, as when an import makes a dataclass. Shells show 130 for it.
    """
    return code, -signal.SIGINT
