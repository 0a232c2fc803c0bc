# SPDX-License-Identifier: Apache-2.0
"""How a program ends that was interrupted."""

from __future__ import annotations

import signal

INTERRUPTED = (130, -signal.SIGINT)
"""What it returns. Shells show 130 for both: CPython ends by the signal after all, whoever caught
the interrupt, if that struck in code given to `exec`, as when an import makes a dataclass."""
