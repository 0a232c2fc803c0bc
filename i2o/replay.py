# SPDX-License-Identifier: Apache-2.0
"""Sends the requests of a capture again to an IOP that is up, and compares what comes back.

Nothing that could change data or state is sent unless the caller allows it, host memory is laid
out anew, and never more requests are in flight than there were in the original.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from i2o.decode.conversation import Traced
from i2o.decode.latencies import Latencies
from i2o.errors import MessageLayerError, OutOfFrames, RequestTimeout
from i2o.frames import catalog
from i2o.frames.functions import DeviceClass
from i2o.frames.header import HEADER_SIZE
from i2o.iop import Iop
from i2o.message_frames import ReplyFrame
from i2o.recording import RecordedRequest
from i2o.replay_message import MessagePlan, NotReplayable, plan_message
from i2o.replay_rules import CHANGES, is_read_only, why_never
from i2o.reply_comparison import reply_differences
from i2o.requester import Pending
from i2o.transport.host_memory import HostBuffer

NO_HEADER: Final = "its header is not whole"
TOO_LARGE: Final = "its frame is too large for this IOP"
NO_DEVICE: Final = "this IOP has no such device"
OTHER_CLASS: Final = "the device is of another class here"

MAX_IN_FLIGHT: Final = 256 << 20
"""Bytes of host memory of all requests in flight."""

_NO_OPERATIONS: Final = bytes(4)
_WAIT_SLICE_S: Final = 0.25


@dataclass(slots=True)
class Outcome:
    """What became of one request.

    Attributes:
        recorded: the request as it was captured.
        tid: whom it was sent to, or would have been.
        skipped: why it was not sent; empty if it was.
        sent_ns: when it was sent.
        reply: the reply, None if there is none.
        latency_ns: what the reply took.
        differences: in what the reply differs from the recorded one; empty if in nothing.
    """

    recorded: RecordedRequest
    tid: int
    skipped: str = ""
    sent_ns: int = 0
    reply: ReplyFrame | None = None
    latency_ns: int = 0
    differences: list[str] = field(default_factory=list)


@dataclass(slots=True)
class Summary:
    """What became of all of them.

    Attributes:
        sent: requests sent.
        skipped: requests not sent, by the reason.
        same: replies that are as recorded.
        different: replies that are not, and requests without a reply.
        uncompared: replies to requests whose own reply the capture does not have.
        recorded: latencies of the requests sent, when they were recorded.
        now: their latencies now.
        max_depth: most requests in flight.
        late_ns: how far behind the recorded pace the worst request was.
        stopped: why the replay ended early, empty if it did not.
    """

    sent: int = 0
    skipped: Counter[str] = field(default_factory=Counter)
    same: int = 0
    different: int = 0
    uncompared: int = 0
    recorded: Latencies = field(default_factory=Latencies)
    now: Latencies = field(default_factory=Latencies)
    max_depth: int = 0
    late_ns: int = 0
    stopped: str = ""


class Replay:
    """Replays requests on one IOP.

    Args:
        iop: the IOP, brought up; None to find out what would be sent.
        speed: how much faster than recorded; None for as fast as it goes.
        may_write: also send what can change data or state.
        tids: other TIDs for those of the capture.
        timeout_s: how long to wait for a reply.
        on_outcome: called with every request that is done or was skipped, in their order.

    Attributes:
        summary: the counts so far.
    """

    def __init__(
        self,
        iop: Iop | None,
        *,
        speed: float | None = 1.0,
        may_write: bool = False,
        tids: Mapping[int, int] | None = None,
        timeout_s: float = 30.0,
        on_outcome: Callable[[Outcome], None] = lambda outcome: None,
    ) -> None:
        self._iop, self._speed, self._may_write = iop, speed, may_write
        self._tids, self._timeout_s, self._on_outcome = tids or {}, timeout_s, on_outcome
        self.summary = Summary()
        self._classes: dict[int, int] = {0: DeviceClass.EXECUTIVE.value}
        if iop is not None:
            self._classes |= {entry.tid: entry.class_id for entry in iop.devices}
        self._start_ns: int | None = None
        self._flying: dict[int, _Flight] = {}
        self._landed: deque[_Flight] = deque()

    def run(self, requests: Iterable[RecordedRequest], limit: int | None = None) -> Summary:
        """Replay until the requests end.

        Args:
            requests: what to send.
            limit: the most to send; those skipped do not count.

        Returns:
            The counts; `stopped` says why not all were sent, if so.
        """
        try:
            for recorded in requests:
                if limit is not None and self.summary.sent >= limit:
                    break
                self._one(recorded)
            self._land_until(lambda: not self._flying)
        except (MessageLayerError, MemoryError) as error:
            self.summary.stopped = _reason(error)
            self._give_up()
        except BaseException:
            for flight in self._flying.values():
                flight.abandon()
            raise
        return self.summary

    # -------------------------------------------------------------------------------------------

    def _one(self, recorded: RecordedRequest) -> None:
        """Send one request, or skip it."""
        traced = recorded.traced
        outcome = Outcome(recorded, self._tids.get(traced.target, traced.target))
        try:
            plan = self._plan(recorded, outcome)
        except NotReplayable as why:
            outcome.skipped = str(why)
            self.summary.skipped[outcome.skipped] += 1
            self._on_outcome(outcome)
            return
        if self._iop is None:
            self.summary.sent += 1
            self._on_outcome(outcome)
            return
        self._wait_for_turn(recorded, plan.size)
        self._send(self._iop, outcome, plan)

    def _plan(self, recorded: RecordedRequest, outcome: Outcome) -> MessagePlan:
        """Return the request made ready; raises NotReplayable."""
        traced = recorded.traced
        frame = traced.frame
        if why := why_never(traced.packet.data):
            raise NotReplayable(why)
        if len(frame) < HEADER_SIZE:
            raise NotReplayable(NO_HEADER)
        device_class = self._class_here(traced, outcome.tid)
        if not self._may_write and not is_read_only(frame, device_class, _NO_OPERATIONS):
            raise NotReplayable(CHANGES)
        plan = plan_message(traced, recorded.out)
        if not self._may_write and not is_read_only(frame, device_class, plan.operations):
            raise NotReplayable(CHANGES)
        if self._iop is not None:
            size = self._iop.layer.inbound_frame_size(self._iop.number)
            if len(plan.frame) > size:
                raise NotReplayable(TOO_LARGE)
        return plan

    def _class_here(self, traced: Traced, tid: int) -> int | None:
        """Return the class of the device that a request goes to; raises NotReplayable."""
        if self._iop is None:
            return traced.device_class
        device_class = self._classes.get(tid)
        if device_class is None:
            raise NotReplayable(NO_DEVICE)
        recorded = traced.device_class
        if recorded is not None and catalog.layout_of_request(
            traced.packet.data, recorded
        ) is not catalog.layout_of_request(traced.packet.data, device_class):
            raise NotReplayable(OTHER_CLASS)
        return device_class

    def _wait_for_turn(self, recorded: RecordedRequest, size: int) -> None:
        """Wait until a request with so much memory may be sent: it is time and there is room."""
        assert self._iop is not None
        clock = self._iop.layer.clock
        now = clock.monotonic_ns()
        if self._start_ns is None:
            self._start_ns = now - self._due(recorded)
        deadline = self._start_ns + self._due(recorded)
        if self._speed is not None:
            while (left := deadline - clock.monotonic_ns()) > 0:
                # it returns early only if the condition holds
                self._iop.layer.run_until(lambda: False, min(left / 1e9, _WAIT_SLICE_S))
                self._land_done()
        self._land_until(lambda: len(self._flying) < recorded.depth and self._has_memory(size))
        if self._speed is not None:
            late_ns = clock.monotonic_ns() - deadline
            self.summary.late_ns = max(self.summary.late_ns, late_ns)

    def _has_memory(self, size: int) -> bool:
        held = sum(flight.plan.size for flight in self._flying.values())
        return not held or held + size <= MAX_IN_FLIGHT

    def _due(self, recorded: RecordedRequest) -> int:
        """Return when a request is to be sent, in nanoseconds since the start."""
        return 0 if self._speed is None else round(recorded.since_ns / self._speed)

    def _send(self, iop: Iop, outcome: Outcome, plan: MessagePlan) -> None:
        buffer = iop.memory.allocate(plan.size, plan.align) if plan.size else None
        try:
            message = plan.message(buffer.bus_address if buffer else 0, outcome.tid)
            if buffer is not None:
                plan.fill(buffer.view)
                buffer.to_device()
            self._start(iop, outcome, plan, message, buffer)
        except BaseException:
            if buffer is not None:
                buffer.free()
            raise
        self.summary.sent += 1
        self.summary.max_depth = max(self.summary.max_depth, len(self._flying))

    def _start(
        self,
        iop: Iop,
        outcome: Outcome,
        plan: MessagePlan,
        message: bytes,
        buffer: HostBuffer | None,
    ) -> None:
        """Post a request; while the IOP has no free frame, wait for replies."""
        clock = iop.layer.clock
        number = outcome.recorded.traced.index

        def replied(reply: ReplyFrame) -> None:
            outcome.reply = reply
            outcome.latency_ns = clock.monotonic_ns() - outcome.sent_ns
            flight = self._flying.pop(number, None)
            if flight is not None:  # not given up already
                self._landed.append(flight)

        while True:
            outcome.sent_ns = clock.monotonic_ns()
            try:
                pending = iop.requester.start(message, on_reply=replied)
            except OutOfFrames:
                depth = len(self._flying)
                if not depth:
                    raise
                self._land_until(lambda depth=depth: len(self._flying) < depth)  # type: ignore[misc]
                continue
            self._flying[number] = _Flight(outcome, plan, buffer, pending)
            return

    # --- replies -------------------------------------------------------------------------------

    def _land_until(self, is_enough: Callable[[], bool]) -> None:
        """Take replies until a condition holds.

        Raises:
            RequestTimeout: for too long there was none.
        """
        self._land_done()
        while not is_enough():
            assert self._iop is not None
            if not self._iop.layer.run_until(self._has_landed, self._timeout_s, drain=True):
                late = next(iter(self._flying.values())).outcome
                raise RequestTimeout(
                    f"no reply to {late.recorded.traced.name} for TID {late.tid:#05x} "
                    f"within {self._timeout_s:g} s"
                )
            self._land_done()

    def _has_landed(self) -> bool:
        return bool(self._landed)

    def _land_done(self) -> None:
        """Compare the replies that are there."""
        while self._landed:
            flight = self._landed.popleft()
            try:
                self._compare(flight)
            finally:
                flight.free()
            self._on_outcome(flight.outcome)

    def _give_up(self) -> None:
        """Count what has no reply; its memory is freed when one comes."""
        self._land_done()
        for flight in self._flying.values():
            flight.outcome.differences.append("no reply")
            self.summary.different += 1
            flight.abandon()
            self._on_outcome(flight.outcome)
        self._flying.clear()

    def _compare(self, flight: _Flight) -> None:
        outcome, summary = flight.outcome, self.summary
        recorded = outcome.recorded
        assert outcome.reply is not None
        summary.now.add(outcome.latency_ns)
        if recorded.reply is None:
            summary.uncompared += 1
            return
        summary.recorded.add(recorded.reply.latency_ns or 0)
        outcome.differences += reply_differences(recorded.reply, bytes(outcome.reply))
        if flight.buffer is not None and not outcome.differences:
            flight.buffer.from_device()
            count = flight.plan.differences(flight.buffer.view, recorded.into)
            if count:
                outcome.differences.append(
                    f"{count:,} byte{'' if count == 1 else 's'} of data differ"
                )
        if outcome.differences:
            summary.different += 1
        else:
            summary.same += 1


@dataclass(slots=True)
class _Flight:
    """A request on its way."""

    outcome: Outcome
    plan: MessagePlan
    buffer: HostBuffer | None
    pending: Pending

    def free(self) -> None:
        if self.buffer is not None:
            self.buffer.free()
            self.buffer = None

    def abandon(self) -> None:
        if self.buffer is not None:
            self.pending.abandon(self.buffer)


def _reason(error: Exception) -> str:
    if isinstance(error, MessageLayerError):
        text = error.strerror or ""
        return text.partition(": ")[2] or text
    return str(error) or "no memory is left"
