# SPDX-License-Identifier: Apache-2.0
"""A queue pair that counts what goes through it, so that both sides' books can be compared."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

from i2o.frames.functions import UNANSWERED
from i2o.frames.header import MsgFlags
from i2o.transport.bus_space import BusSpace
from i2o.transport.device_unit import PostedFrame
from i2o.transport.local_unit import LocalUnit
from i2o.transport.port import EMPTY

FAIL = int(MsgFlags.FAIL)
ENDS = int(MsgFlags.LAST | MsgFlags.FAIL)
_FUNCTION = 7


class CountingUnit(LocalUnit):
    """A `LocalUnit` that remembers how often each step was made.

    Attributes:
        posted: requests that the host posted, by function.
        fetched: requests that the IOP took.
        recycled: frames that the IOP made free.
        preserved: frames that the IOP left with the host.
        lost_requests: posted requests that a refill forgot.
        told: replies that the IOP posted.
        reaped: replies that the host took.
        reaped_fails: FAIL replies among them.
        lost_replies: posted replies that were dropped.
        upheavals: times that either direction was emptied.
        misuse: what the host did wrong while nothing had been emptied behind its back.
        nonsense: what the IOP posted that no IOP posts.
        is_in_step: nothing was emptied since the host last began with fresh queues.
    """

    def __init__(self, memory: BusSpace, **sizes: Any) -> None:
        self.posted: Counter[int] = Counter()
        self.fetched = self.recycled = self.preserved = self.lost_requests = 0
        self.told = self.reaped = self.reaped_fails = self.lost_replies = self.upheavals = 0
        self.is_in_step = False
        self.misuse: list[str] = []
        self.nonsense: list[str] = []
        self._fails: set[int] = set()
        super().__init__(memory, on_misuse=self._note_misuse, **sizes)
        self.upheavals = 0

    def also_tell(self, complain: Callable[[str], None]) -> None:
        """Give misuse to the IOP's complaints, too."""
        self._complain = complain

    def _note_misuse(self, sentence: str) -> None:
        if self.is_in_step:
            self.misuse.append(sentence)
        self._complain(sentence)

    def post(self, mfa: int) -> None:
        if mfa in self._with_host:
            self.posted[self.read_inbound(mfa, 8)[_FUNCTION]] += 1
        super().post(mfa)

    def fetch(self) -> PostedFrame | None:
        found = super().fetch()
        self.fetched += found is not None
        return found

    def recycle(self, mfa: int) -> None:
        self.recycled += 1
        super().recycle(mfa)

    def preserve(self, mfa: int) -> None:
        self.preserved += 1
        super().preserve(mfa)

    def post_reply(self, mfa: int, data: bytes) -> None:
        has_reply = data[_FUNCTION] not in UNANSWERED or data[1] & FAIL or data[4] | data[5] & 0xF
        if not has_reply:
            self.nonsense.append(f"a reply to function {data[_FUNCTION]:#04x}: {data.hex()}")
        if data[1] & FAIL:
            self._fails.add(mfa)
        else:
            self._fails.discard(mfa)
        super().post_reply(mfa, data)
        self.told += 1

    def reap(self) -> int:
        mfa = super().reap()
        if mfa != EMPTY:
            self.reaped += 1
            self.reaped_fails += mfa in self._fails
        return mfa

    def fails_on_their_way(self) -> int:
        """Return how many FAIL replies the host has not taken yet."""
        return sum(mfa in self._fails for mfa in self._outbound_posted)

    def drop_replies(self) -> None:
        self.lost_replies += self.posted_outbound()
        self.upheavals += 1
        self.is_in_step = False
        super().drop_replies()

    def refill(self) -> None:
        self.lost_requests += self.posted_inbound()
        self.upheavals += 1
        self.is_in_step = False
        super().refill()
