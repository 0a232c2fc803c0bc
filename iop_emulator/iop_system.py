# SPDX-License-Identifier: Apache-2.0
"""IOPs on one bus: they see the same host memory, and each can be connected with any other.

Who wants IOPs to know each other makes an `IopSystem` and gives it to each of them; there is no
other way, and no registry behind it. One lock serves all of them: IOPs of a system run one at a
time, in whichever thread. So a message from one to another is a call, and when an IOP is reset,
nothing that was done for its host is still going on anywhere.
"""

from __future__ import annotations

import threading
from typing import Protocol

from i2o.transport.bus_space import BusSpace


class Member(Protocol):
    """What a system knows of an IOP."""

    @property
    def iop_id(self) -> int:
        """The id in force."""

    def run_for_others(self, budget: int, now_ns: int) -> None:
        """Work, because another IOP waits for something."""

    def own_deadline_ns(self, now_ns: int) -> int | None:
        """Return when the IOP itself wants to run, or None."""


class IopSystem:
    """The IOPs of one bus.

    Attributes:
        lock: held while any of them runs.
        memory: the host's buffers. The units of all IOPs must be made with it.
    """

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.memory = BusSpace()
        self._members: list[Member] = []
        self._is_driving = False

    def join(self, member: Member) -> None:
        """Put an IOP on the bus."""
        self._members.append(member)

    def leave(self, member: Member) -> None:
        """Take an IOP off the bus; one that is not on it is left alone."""
        if member in self._members:
            self._members.remove(member)

    def find(self, iop_id: int) -> Member | None:
        """Return the one IOP with an id; None if there is none, or more than one."""
        found = [member for member in self._members if member.iop_id == iop_id]
        return found[0] if len(found) == 1 else None

    def run_others(self, member: Member, budget: int, now_ns: int) -> None:
        """Let all but one IOP work: that one waits for what others do for it."""
        if self._is_driving:
            return
        self._is_driving = True
        try:
            for other in tuple(self._members):
                if other is not member:
                    other.run_for_others(budget, now_ns)
        finally:
            self._is_driving = False

    def deadlines_ns(self, member: Member, now_ns: int) -> list[int]:
        """Return when the others want to run by themselves."""
        times = (other.own_deadline_ns(now_ns) for other in self._members if other is not member)
        return [due for due in times if due is not None]
