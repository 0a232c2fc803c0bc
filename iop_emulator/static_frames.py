# SPDX-License-Identifier: Apache-2.0
"""The executive's chapter on static frames: messages that stay with the IOP and are posted again.

The frame that ExecStaticMfCreate came in becomes the static one: the message behind the first five
words moves to its start, and the host is told its MFA. Nobody writes it any more. Whoever posts the
MFA sends the message once more; the frame is not on the free list until ExecStaticMfRelease,
IopClear, OutboundInit or a reset.
"""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass
from typing import Final

from i2o.frames import executive as messages
from i2o.frames.functions import UNANSWERED, Function
from i2o.frames.header import HEADER_SIZE, DetailedStatus, MsgFlags, ReqStatus
from i2o.iop_emulator.frame_check import frame_failure
from i2o.iop_emulator.handlers import handles
from i2o.iop_emulator.iop_control import IopControl
from i2o.iop_emulator.request import Request

MAX_STATIC: Final = 16
"""Static frames at most; never more than half of all inbound frames."""
MAX_INSTANCES: Final = 256
"""MaxOutstanding of all static frames together at most."""
MESSAGE_OFFSET: Final = 20
"""Where the static message begins in ExecStaticMfCreate."""
_FLAGS_BYTE: Final = 1


@dataclass(frozen=True, slots=True, eq=False)
class StaticFrame:
    """One static frame.

    Attributes:
        frame: the message as an ordinary one. Every post of it is served from this very object.
        max_outstanding: how many posts of it may be unanswered.
    """

    frame: bytes
    max_outstanding: int


class StaticFrames:
    """All static frames of an IOP.

    Args:
        iop: the IOP.

    Attributes:
        by_mfa: every static frame; always the same object, so that others may look.
    """

    def __init__(self, iop: IopControl) -> None:
        self._iop = iop
        self.by_mfa: dict[int, StaticFrame] = {}

    @property
    def limit(self) -> int:
        """How many static frames there may be."""
        return min(MAX_STATIC, self._iop.unit.frame_count // 2)

    @property
    def instances(self) -> int:
        """How many posts of static frames may be unanswered at once, at most."""
        return sum(static.max_outstanding for static in self.by_mfa.values())

    def create(self, mfa: int, request: Request) -> bytes:
        """Make the frame that a request came in a static one, or recycle it and refuse.

        Args:
            mfa: the request's frame.
            request: an ExecStaticMfCreate.
        """
        asked = request.fields(messages.EXEC_STATIC_MF_CREATE)
        message = _message(request.frame)
        refusal = self._refusal(message, asked.max_outstanding, self._iop.lct)
        if refusal is not None:
            self._iop.unit.recycle(mfa)
            return request.refuse(refusal)
        self.by_mfa[mfa] = StaticFrame(message, asked.max_outstanding)
        marked = bytearray(message)
        marked[_FLAGS_BYTE] |= MsgFlags.STATIC
        self._iop.unit.make_static(mfa, bytes(marked), asked.max_outstanding)
        return request.answer(messages.EXEC_STATIC_MF_CREATE_REPLY, static_mfa=mfa)

    def _refusal(
        self, message: bytes, max_outstanding: int, targets: Container[int]
    ) -> DetailedStatus | None:
        """Return why a static frame cannot be made, or None."""
        if len(message) < HEADER_SIZE or len(message) < 4 * int.from_bytes(message[2:4], "little"):
            self._iop.complain("StaticMfCreate: the message behind word 4 is shorter than it says")
            return DetailedStatus.MISSING_PARAMETER
        failure = frame_failure(message, self._iop.unit.frame_size, targets)
        if failure is not None or not max_outstanding:
            reason = failure.sentence if failure is not None else "MaxOutstanding is 0"
            self._iop.complain(f"StaticMfCreate: {reason}")
            return DetailedStatus.INVALID_PARAMETER
        if len(self.by_mfa) >= self.limit or self.instances + max_outstanding > MAX_INSTANCES:
            return DetailedStatus.INSUFFICIENT_RESOURCE_SOFT
        return None

    @handles(Function.EXEC_STATIC_MF_CREATE)
    def create_late(self, request: Request) -> bytes:
        """Refuse: a fault delayed the request, and its frame went home already."""
        return request.refuse(DetailedStatus.INSUFFICIENT_RESOURCE_SOFT)

    @handles(Function.EXEC_STATIC_MF_RELEASE)
    def release(self, request: Request) -> bytes:
        """Give a static frame back to the free list, unless posts of it are not answered yet."""
        mfa = request.fields(messages.EXEC_STATIC_MF_RELEASE).static_mfa
        static = self.by_mfa.get(mfa)
        if static is None:
            self._iop.complain(f"StaticMfRelease: {mfa:#010x} is no static frame")
            return request.refuse(DetailedStatus.INVALID_PARAMETER)
        if self.outstanding(static):
            return request.refuse(DetailedStatus.DEVICE_BUSY)
        self._end(mfa)
        return request.success()

    def outstanding(self, static: StaticFrame) -> int:
        """Return how many posts of a static frame were taken up and are not answered yet."""
        return self._iop.scheduler.count(lambda request: request.frame is static.frame)

    def end_all(self) -> None:
        """Give every static frame back to the free list."""
        for mfa in tuple(self.by_mfa):
            self._end(mfa)

    def _end(self, mfa: int) -> None:
        """Give a static frame back; posts of it that were not taken up yet are aborted."""
        static = self.by_mfa.pop(mfa)
        for _ in range(self._iop.end_static(mfa)):
            self._abort(static)

    def _abort(self, static: StaticFrame) -> None:
        """Answer one post of a static frame as aborted."""
        route = int.from_bytes(static.frame[4:8], "little")
        if route >> 24 not in UNANSWERED:
            request = Request(static.frame, route, 0)
            self._iop.send(request.status(ReqStatus.PROCESS_ABORT_NO_DATA_TRANSFER, 0))


def _message(frame: bytes) -> bytes:
    """Return the static message in an ExecStaticMfCreate, without the flag that marks it."""
    message = bytearray(frame[MESSAGE_OFFSET:])
    if len(message) > _FLAGS_BYTE:
        message[_FLAGS_BYTE] &= ~MsgFlags.STATIC & 0xFF
    size = 4 * int.from_bytes(message[2:4], "little")
    return bytes(message[:size]) if size >= HEADER_SIZE else bytes(message)
