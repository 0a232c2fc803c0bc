# SPDX-License-Identifier: Apache-2.0
"""What the executive of a software IOP may ask of the IOP around it, and chapters of both."""

from __future__ import annotations

from typing import Protocol

from i2o.frames.codec import Record
from i2o.frames.executive import ExecutiveEvent
from i2o.frames.tables import IopState
from i2o.iop_emulator.ddm.base import Ddm, IopServices
from i2o.iop_emulator.lct import Lct
from i2o.iop_emulator.options import IopOptions
from i2o.iop_emulator.reply_queue import ReplyQueue
from i2o.transport.device_unit import DeviceUnit


class IopControl(IopServices, Protocol):
    """What the executive may ask of its IOP, beyond what every device may."""

    unit: DeviceUnit
    options: IopOptions
    lct: Lct
    replies: ReplyQueue
    state: IopState

    def reset(self, *, hold_ns: int = 0) -> None:
        """Lose everything and go to RESET."""

    def init_outbound(self, words: int, page_size: int) -> None:
        """Forget all reply frames and go to HOLD."""

    def clear(self) -> None:
        """End what the host has going on and go to HOLD."""

    def end_static(self, mfa: int) -> int:
        """Give a static frame home; return how many posts of it were not taken up."""

    def enter(self, state: IopState) -> None:
        """Change the state."""


class ExecutiveServices(Protocol):
    """What a chapter of the executive may ask of it."""

    iop_id: int
    host_unit_id: int
    system_table: tuple[Record, ...]

    def fit_adapter(self, adapter_id: int) -> None:
        """Have one more adapter."""

    def tell_lct_change(self, event: ExecutiveEvent, device: Ddm) -> None:
        """Tell everybody who waits for a change of the LCT, which is in the table already."""
