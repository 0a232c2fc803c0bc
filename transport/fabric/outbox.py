# SPDX-License-Identifier: Apache-2.0
"""The sending side of an endpoint: its queue, and how many operations it may have."""

from __future__ import annotations

from typing import TYPE_CHECKING

from i2o.transport.fabric.errors import TryAgain
from i2o.transport.fabric.flags import ADDR_UNSPEC

if TYPE_CHECKING:
    from i2o.transport.fabric.completion_queue import SoftwareCompletionQueue


class Outbox:
    """What sends have in common.

    Args:
        cq: where they end.
        is_selective: whether only those with COMPLETION make an entry.
        size: how many there may be.

    Attributes:
        used: how many there are.
    """

    __slots__ = ("cq", "is_selective", "no_source", "size", "used")

    def __init__(self, cq: SoftwareCompletionQueue, *, is_selective: bool, size: int) -> None:
        self.cq, self.is_selective, self.size = cq, is_selective, size
        self.used = 0
        self.no_source = ADDR_UNSPEC

    def full(self) -> TryAgain:
        """Return why there is no place for another send and its entry."""
        if self.used >= self.size:
            return TryAgain(f"{self.used} sends are outstanding, and no more are allowed")
        return TryAgain("the completion queue has no place for the entry of another send")

    @property
    def is_short(self) -> bool:
        """Whether places are running out, so that the peer should say at once what arrived."""
        return self.used * 2 >= self.size or self.cq.free * 2 <= self.cq.size
