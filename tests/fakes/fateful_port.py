# SPDX-License-Identifier: Apache-2.0
"""A port that counts what is posted, and does something to its IOP at one of those moments."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

from i2o.frames.functions import Function
from i2o.iop_emulator.emu_port import EmuPort
from i2o.iop_emulator.process_port import ProcessPort

Moment = Literal["posted", "fetched", "answered"]
MOMENTS: tuple[Moment, ...] = ("posted", "fetched", "answered")
"""The request waits in its queue; the IOP has it; its answer waits for the host."""


class FatefulPort:
    """Everything that an inline `EmuPort` is, and one blow of fate.

    Attributes:
        seen: functions of the requests that were posted, by name.
        index: which of them is hit; -1 for none.
        moment: when.
        act: what happens.
        is_dead: for tests to note that nothing works any more.
    """

    def __init__(self, port: EmuPort) -> None:
        self.inner = port
        self.is_dead = False
        self.seen: list[str] = []
        self.index = -1
        self.moment: Moment = "posted"
        self.act: Callable[[], None] = lambda: None

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def arm(self, index: int, moment: Moment, act: Callable[[], None]) -> None:
        """Let something happen to a request; count from here on."""
        self.seen.clear()
        self.index, self.moment, self.act = index, moment, act

    def post(self, mfa: int) -> None:
        """Hand a frame to the IOP."""
        inner = self.inner
        is_hit = len(self.seen) == self.index
        self.seen.append(Function(inner.read_inbound(mfa, 8)[7]).name)
        if is_hit and self.moment == "fetched":
            inner._run()  # what came before is answered
        inner.post(mfa)
        if not is_hit:
            return
        if self.moment == "fetched":
            inner.unit.fetch()
        elif self.moment == "answered":
            inner._run()
        self.act()


class FatefulProcess:
    """The same for an IOP in a process of its own; what happens may be its end.

    The moment `answered` waits until the child has told something; `fetched` is a matter of the
    child's fault plan.
    """

    def __init__(self, port: ProcessPort) -> None:
        self.inner = port
        self.seen: list[str] = []
        self.index = -1
        self.moment: Moment = "posted"
        self.act: Callable[[], None] = lambda: None

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    arm = FatefulPort.arm

    def post(self, mfa: int) -> None:
        """Hand a frame to the IOP."""
        is_hit = len(self.seen) == self.index
        self.seen.append(Function(self.inner.read_inbound(mfa, 8)[7]).name)
        self.inner.post(mfa)
        if is_hit:
            if self.moment != "posted":
                self.inner.wait(10)
            self.act()
