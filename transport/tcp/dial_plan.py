# SPDX-License-Identifier: Apache-2.0
"""In which order, and how often, the addresses of a peer are tried. No sockets, no clock."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from i2o.transport.tcp.address import Address
from i2o.transport.tcp.options import PeerOptions

MORE_REFUSALS: Final = 4
"""How many more attempts than rounds a peer may refuse in favour of its own: with the delays that
double, longer by default than an attempt of its own that got stuck can take (5 s)."""


class DialPlan:
    """Addresses in the order in which they were given; the one that worked last is tried first.

    Args:
        options: rounds and delays.
    """

    def __init__(self, options: PeerOptions) -> None:
        self._options = options
        self._addresses: list[Address] = []
        self._next = self._round = self._refusals = 0

    @property
    def addresses(self) -> tuple[Address, ...]:
        """Every address, the one to try first in front."""
        return tuple(self._addresses)

    def add(self, addresses: Iterable[Address]) -> None:
        """Learn more addresses."""
        self._addresses += [new for new in dict.fromkeys(addresses) if new not in self._addresses]

    def remove(self, address: Address) -> None:
        """Forget an address, if it is one of them."""
        if address in self._addresses:
            index = self._addresses.index(address)
            del self._addresses[index]
            self._next -= index < self._next

    def begin(self) -> None:
        """Start over: nothing has failed yet."""
        self._next = self._round = self._refusals = 0

    def next_address(self) -> Address | None:
        """Return the address to try now, or None at the end of a round."""
        if self._next >= len(self._addresses):
            return None
        self._next += 1
        return self._addresses[self._next - 1]

    def next_round(self) -> float | None:
        """Go on to another round; return after how many seconds, or None if all were made."""
        self._round += 1
        if self._round >= self._options.rounds or not self._addresses:
            return None
        self._next = 0
        return self.delay_s(self._round - 1)

    def refused(self) -> float | None:
        """The peer was reached, and prefers a link of its own: begin the round again, in a while.

        Returns:
            After how many seconds, or None if that was so too often: no such link comes.
        """
        self._refusals += 1
        if self._refusals >= self._options.rounds + MORE_REFUSALS:
            return None
        self._next = 0
        return self.delay_s(self._refusals - 1)

    def delay_s(self, attempt: int) -> float:
        """Return the delay after an attempt, counted from 0."""
        options = self._options
        doubled: float = options.retry_delay_s * 2.0 ** min(attempt, 30)
        return min(doubled, options.retry_delay_max_s)

    def worked(self, address: Address) -> None:
        """Prefer this address from now on."""
        if address in self._addresses:
            self._addresses.remove(address)
            self._addresses.insert(0, address)
