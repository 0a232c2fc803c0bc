# SPDX-License-Identifier: Apache-2.0
"""A TID that stands for a device of another IOP: every request to it goes there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from i2o.frames.functions import Function
from i2o.frames.header import SpecialTid
from i2o.iop_emulator.ddm.base import Ddm, IopServices
from i2o.iop_emulator.parameter_groups import Group
from i2o.iop_emulator.request import Request

_FUNCTIONS = range(0x100)


class Link(Protocol):
    """The way to other IOPs."""

    @property
    def iop(self) -> IopServices:
        """The IOP that the alias is part of."""

    def forward(self, alias: Alias, request: Request) -> bytes | None:
        """Hand a request on to the other IOP; return a reply if it does not go there."""

    def drop_orphans(self) -> None:
        """Take back from other IOPs what they do for requests that were answered here."""


class Alias(Ddm):
    """A device of another IOP, as this one shows it.

    Args:
        link: the way there.
        tid: the TID here.
        remote: the device there.
        device_class: its class.
        parent_tid: what it is connected through here.

    Attributes:
        remote: the device there.
        initiator_tid: who sends its requests, as the other IOP sees it.
    """

    is_remote = True

    def __init__(
        self, link: Link, tid: int, remote: Ddm, *, device_class: int, parent_tid: int
    ) -> None:
        self.device_class = device_class
        self.remote, self._link = remote, link
        self.initiator_tid = SpecialTid.NO_USER.value
        super().__init__(
            link.iop,
            tid,
            parent_tid=parent_tid,
            name=remote.name,
            serial=remote.serial,
            organization_id=remote.organization_id,
            sub_class=remote.sub_class,
        )
        self.dispatch = {**dict.fromkeys(_FUNCTIONS, self.forward), Function.UTIL_NOP: self.nop}

    def chapters(self) -> list[object]:
        """Return nothing: whatever is asked is asked of the other IOP."""
        return []

    def groups(self) -> list[Group]:
        """Return nothing, as `chapters`."""
        return []

    def forward(self, request: Request) -> bytes | None:
        """Hand a request on to the other IOP."""
        return self._link.forward(self, request)

    def abort_requests(
        self,
        matches: Callable[[Request], bool],
        req_status: int,
        *,
        may_be_begun: bool = True,
    ) -> int:
        """Answer requests as aborted, here and there."""
        count = super().abort_requests(matches, req_status, may_be_begun=may_be_begun)
        self._link.drop_orphans()
        return count

    @property
    def user_tid(self) -> int:
        """The host if it is the primary user over there; somebody behind the other IOP; nobody."""
        user = self.remote.user_tid
        if user == self.initiator_tid:
            return SpecialTid.HOST
        return user if user == SpecialTid.NO_USER else self.parent_tid

    @property
    def device_flags(self) -> int:
        """DeviceFlags as over there."""
        return self.remote.device_flags

    @property
    def event_capabilities(self) -> int:
        """Events that can be registered for over there."""
        return self.remote.event_capabilities
