# SPDX-License-Identifier: Apache-2.0
"""What the driver on the other side did wrong, in sentences for its author."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterator
from typing import Final

_LOG: Final = logging.getLogger(__name__)
KEPT: Final = 100


class Complaints:
    """The last sentences, and how many there were.

    Attributes:
        count: complaints since the IOP was made, kept or not.
    """

    def __init__(self) -> None:
        self._sentences: deque[str] = deque(maxlen=KEPT)
        self.count = 0

    def add(self, sentence: str) -> None:
        """Keep a sentence; log it as a warning unless it was said a moment ago."""
        self.count += 1
        is_new = sentence not in self._sentences
        self._sentences.append(sentence)
        if is_new:
            _LOG.warning("%s", sentence)

    def __iter__(self) -> Iterator[str]:
        return iter(tuple(self._sentences))

    def __len__(self) -> int:
        return len(self._sentences)
