# SPDX-License-Identifier: Apache-2.0
"""What is done about a request that is late: the deadline ladder.

D3i2o has no deadlines, so the message layer has none. A `Requester` that has a `Ladder` climbs it
when a final reply does not come in time: look at the status block (an IOP that reset itself, failed
or died is found there), abort the request, reset its device, reset the IOP and bring it up again.
Each step has a time limit of its own, and every one is told in the error that the caller gets.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, Protocol

from i2o.bring_up import Limits
from i2o.clock import Clock
from i2o.errors import I2OError, InvalidArgument, RecoveryStep
from i2o.frames.block_storage import BSA_DEVICE_RESET
from i2o.frames.functions import DeviceClass, Function
from i2o.frames.header import FailureCode, ReqStatus
from i2o.frames.lan import LAN_RESET
from i2o.frames.layout import MessageLayout
from i2o.frames.scsi import SCSI_DEVICE_RESET
from i2o.frames.tables import IopState
from i2o.frames.utility import UTIL_ABORT, AbortType
from i2o.message_frames import ReplyFrame
from i2o.replies import describe, status_of
from i2o.requester import Pending, Requester
from i2o.resources import BringUpResult, IopStatus

logger = logging.getLogger(__name__)

_DEVICE_RESETS: Final[dict[int, MessageLayout]] = {
    DeviceClass.RANDOM_BLOCK_STORAGE: BSA_DEVICE_RESET,
    DeviceClass.SCSI_PERIPHERAL: SCSI_DEVICE_RESET,
    DeviceClass.LAN: LAN_RESET,
}
_LOOK: Final = "status"
_UP: Final = "the IOP is OPERATIONAL"
_ENDED_EARLY: Final = frozenset(
    {
        ReqStatus.ABORT_DIRTY,
        ReqStatus.ABORT_NO_DATA_TRANSFER,
        ReqStatus.ABORT_PARTIAL_TRANSFER,
        ReqStatus.PROCESS_ABORT_DIRTY,
        ReqStatus.PROCESS_ABORT_NO_DATA_TRANSFER,
        ReqStatus.PROCESS_ABORT_PARTIAL_TRANSFER,
    }
)


@dataclass(frozen=True, slots=True)
class Recovery:
    """How far to go for a request that is late, and how long each step may take.

    Attributes:
        abort_s: seconds for UtilAbort; 0 leaves it out.
        device_reset_s: seconds for the reset of the device; 0 leaves it out.
        resets_iop: reset the IOP and bring it up again if nothing else helped.
        limits: time limits of a look at the status block and of the bring-up.
    """

    abort_s: float = 5.0
    device_reset_s: float = 10.0
    resets_iop: bool = True
    limits: Limits = field(default_factory=Limits)

    def __post_init__(self) -> None:
        if self.abort_s < 0 or self.device_reset_s < 0:
            raise InvalidArgument("abort_s and device_reset_s: expected seconds, 0 or more")


class RecoverableLayer(Protocol):
    """What the ladder needs of a message layer."""

    clock: Clock

    def check(self, iop: int, limits: Limits | None = None) -> IopStatus:
        """Read the status block."""

    def revive(self, iop: int, limits: Limits | None = None) -> BringUpResult:
        """Reset an IOP by whatever works and bring it up again."""

    def result(self, iop: int) -> BringUpResult:
        """Return what the last bring-up learned."""


class Ladder:
    """Climbs from the abort of a request to the reset of its IOP, until the request has ended.

    Args:
        layer: the message layer.
        iop: IOP number.
        recovery: how far to go.
        on_revived: called after the IOP was brought up again: claims and registrations are gone.
    """

    def __init__(
        self,
        layer: RecoverableLayer,
        iop: int,
        recovery: Recovery,
        *,
        on_revived: Callable[[], object] = lambda: None,
    ) -> None:
        self._layer, self._iop, self._recovery = layer, iop, recovery
        self._on_revived = on_revived
        self._one_at_a_time = threading.Lock()

    def climb(self, requester: Requester, pending: Pending) -> tuple[RecoveryStep, ...]:
        """Do what it takes to end a late request.

        Args:
            requester: who sent it.
            pending: the request.

        Returns:
            What was done, in order. The request may still have no reply after it.
        """
        steps: list[RecoveryStep] = []
        with self._one_at_a_time:
            is_reachable = True
            for name, step, is_wanted, needs_iop in (
                (_LOOK, self._look, True, False),
                ("abort", self._abort, self._recovery.abort_s > 0, True),
                ("device reset", self._reset_device, self._recovery.device_reset_s > 0, True),
                ("IOP reset", self._reset_iop, self._recovery.resets_iop, False),
            ):
                if pending.is_done():  # perhaps another thread's climb has ended it
                    break
                if not is_wanted or (needs_iop and not is_reachable):
                    continue
                start = self._layer.clock.monotonic()
                try:
                    outcome = step(requester, pending)
                except (I2OError, OSError) as error:
                    outcome = str(error)
                if outcome is None:
                    continue
                if name == _LOOK:
                    is_reachable = outcome == _UP
                seconds = self._layer.clock.monotonic() - start
                steps.append(RecoveryStep(name, seconds, outcome))
                logger.warning("IOP %d: %s: %s (%.3f s)", self._iop, name, outcome, seconds)
        return tuple(steps)

    def _look(self, requester: Requester, pending: Pending) -> str:
        state = self._layer.check(self._iop, self._recovery.limits).state_name
        return _UP if state == IopState.OPERATIONAL.name else f"the IOP is {state}"

    def _abort(self, requester: Requester, pending: Pending) -> str:
        return self._ask(requester, abort_of(pending), pending, self._recovery.abort_s)

    def _reset_device(self, requester: Requester, pending: Pending) -> str | None:
        target = pending.target
        classes = {entry.tid: entry.class_id for entry in self._layer.result(self._iop).lct.devices}
        layout = _DEVICE_RESETS.get(classes.get(target, -1))
        if layout is None:
            return None
        message = layout.build(target_address=target)
        return self._ask(requester, message, pending, self._recovery.device_reset_s)

    def _ask(self, requester: Requester, message: bytes, pending: Pending, limit_s: float) -> str:
        """Send a message that should end the request; wait for both replies."""
        asked = requester.start(message)
        try:
            is_answered = requester.wait_for(asked, limit_s)
            requester.wait_for(pending, 0.0 if is_answered else 0.001)
        finally:
            asked.release()
        if pending.is_done():
            return "it ended the request"
        if asked.reply is None:
            return f"no answer within {limit_s:g} s"
        if asked.reply.failed or (
            message[7] != Function.UTIL_ABORT and status_of(asked.reply).req_status
        ):
            return describe(asked.reply)
        return "answered, but the request goes on"

    def _reset_iop(self, requester: Requester, pending: Pending) -> str:
        self._layer.revive(self._iop, self._recovery.limits)
        self._on_revived()
        return "reset, and brought up again"


def abort_of(pending: Pending) -> bytes:
    """Return the message that aborts a request, and nothing else."""
    return UTIL_ABORT.build(
        target_address=pending.target,
        abort_type=AbortType.EXACT_ABORT,
        function_to_abort=pending.message[7],
        transaction_context_to_abort=pending.context,
    )


def ended_early(reply: ReplyFrame) -> bool:
    """Whether a final reply says that the request was aborted, or that its IOP is gone."""
    if reply.failed:
        return len(reply) > 19 and reply[19] == FailureCode.SERVICE_TERMINATED
    return status_of(reply).req_status in _ENDED_EARLY
