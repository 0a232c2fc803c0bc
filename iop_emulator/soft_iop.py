# SPDX-License-Identifier: Apache-2.0
"""An IOP made of software: it has no thread, no file and no clock of its own.

`SoftIop.run` is told the time, serves what is posted, and says when it wants to be run again. A
request is checked, copied and its frame given back before it is served. Replies wait in order
when no reply frame is free, and requests wait when too many replies do.
"""

from __future__ import annotations

import logging
import struct
import threading
from collections import deque
from collections.abc import Sequence
from itertools import zip_longest
from typing import Final

from i2o.errors import LocalFrameError, RemoteFrameError
from i2o.frames.functions import UNANSWERED, Function
from i2o.frames.header import FAILURE_REPLY, FailureCode, MsgFlags, ReqStatus, SpecialTid
from i2o.frames.tables import IopState
from i2o.frames.utility import GenericEvent, StateChange
from i2o.iop_emulator.block_store import BlockStore
from i2o.iop_emulator.complaints import Complaints
from i2o.iop_emulator.counters import Counters
from i2o.iop_emulator.ddm.alias import Alias
from i2o.iop_emulator.ddm.base import Ddm, Handler
from i2o.iop_emulator.ddm.network_message import NetworkMessageDdm
from i2o.iop_emulator.disk_bay import DiskBay
from i2o.iop_emulator.events import EventBook
from i2o.iop_emulator.executive import Executive
from i2o.iop_emulator.faults import FaultPlan, Rule
from i2o.iop_emulator.frame_check import FrameFailure, frame_failure
from i2o.iop_emulator.iop_system import IopSystem
from i2o.iop_emulator.lct import BUILT_IN_DDM, Lct
from i2o.iop_emulator.options import IopOptions
from i2o.iop_emulator.reply_queue import DEFAULT_REPLY_WORDS, ReplyQueue
from i2o.iop_emulator.request import Request, fail_reply
from i2o.iop_emulator.scheduler import Scheduler
from i2o.iop_emulator.static_frames import StaticFrame
from i2o.transport.device_unit import DeviceUnit
from i2o.transport.fast_path import FastPath
from i2o.transport.port import EMPTY, Remark

RUN_BUDGET: Final = 64

_LOG: Final = logging.getLogger(__name__)
_read_header = struct.Struct("<HHI").unpack_from
_FAULTED: Final = IopState.FAULTED  # looked up once: an enum's members are slow to reach
_WORKS_IN_FAILED: Final = frozenset(
    {
        Function.EXEC_STATUS_GET,
        Function.EXEC_IOP_RESET,
        Function.EXEC_IOP_CLEAR,
        Function.UTIL_NOP,
    }
)
_STATIC_MF_CREATE: Final = int(Function.EXEC_STATIC_MF_CREATE)
_MOST_KNOWN: Final = 1024
_UNKNOWN: Final = -1, 0
_UNUSUAL_BITS: Final = 0xFF0F  # every flag of word 0, and the version, which is 1


class SoftIop:
    """One IOP.

    Args:
        unit: the device half of its queue pair.
        options: how it presents itself.
        disks: what its block devices keep their blocks in, in TID order.
        faults: how it misbehaves.
        complaints: collects what the driver does wrong; give the unit's `on_misuse` the same.
        system: the IOPs that it can be connected with; the unit's memory must be the system's.

    Raises:
        LocalFrameError: the unit has another memory than the system.
        DiskBayError: there are too many disks.

    Attributes:
        bay: its disks, and what may be done to them while it runs.
        card: the card that it passes itself off as.
        complaints: what the driver did wrong.
        counters: what went through.
        events: who wants to hear of what.
        executive: its device at TID 0.
        faults: how it misbehaves, None if it does not; see `misbehave`.
        lct: its devices.
        lock: for who runs it: one for all IOPs of a system.
        on_fault: told of every request that a fault hits: its MFA, and a sentence.
        replies: replies on their way out.
        scheduler: requests that are not answered yet.
        state: its state.
    """

    def __init__(
        self,
        unit: DeviceUnit,
        options: IopOptions | None = None,
        disks: Sequence[BlockStore] = (),
        faults: FaultPlan | None = None,
        *,
        complaints: Complaints | None = None,
        system: IopSystem | None = None,
    ) -> None:
        if system is not None and unit.dma is not system.memory:
            raise LocalFrameError(
                "the IOPs of a system share its memory: make the unit with LocalUnit(system.memory)"
            )
        self.lock = threading.Lock() if system is None else system.lock
        self.unit, self.dma = unit, unit.dma
        self._recycle = unit.recycle
        self.options = options if options is not None else IopOptions()
        self.card = self.options.card
        self.faults = faults
        self.on_fault: Remark | None = None
        self.complaints = complaints if complaints is not None else Complaints()
        self.counters = Counters()
        self.scheduler = Scheduler()
        self.replies = ReplyQueue(unit, self.counters, self.complain, self.options.backlog)
        self.events = EventBook(self._send_event)
        self._has_fast_path = False
        self._handlers: dict[bytes, Handler] = {}  # of the fast path, by the first words of a frame
        self.lct = Lct(on_change=self._handlers.clear)
        self._devices = self.lct.serving
        self._known_headers: dict[bytes, tuple[int, int]] = {}  # by words 0 and 1: the latter, size
        self.page_size = 4096
        self.state = IopState.INITIALIZING
        self._stuck: deque[tuple[int, bytes]] = deque()  # always the same object, as others look
        self._begin_ns: int | None = None
        self._stalled_until_ns = 0
        self._is_closed = False
        self._closed_until_ns: int | None = 0  # the inbound port; None: for good
        self._has_replies = False
        self._is_in_system = system is not None
        self._is_halted = False  # by a fault, in the middle of a run
        self._is_calm = False  # the last run left nothing that time alone would bring back
        self._now_ns = 0
        self._changes = 0
        self.executive = Executive(self, system)
        self._statics = self.executive.static_frames.by_mfa
        self._peers = self.executive.peers
        self.lct.add(self.executive)
        self.lct.add(
            Ddm(
                self,
                BUILT_IN_DDM,
                name="file disks",
                organization_id=self.options.organization_id,
            )
        )
        if self.options.network_messages:
            self.lct.add(
                NetworkMessageDdm(
                    self, self.options.network_messages, lambda: self.executive.iop_id
                )
            )
        self.bay = DiskBay(self, self.executive)
        for store, kind in zip_longest(disks, self.options.disk_kinds[: len(disks)]):
            self.bay.fit(store, kind)
        self.executive.software.reset_state()
        self.state = IopState.RESET
        self._peers.join()

    # --- running -------------------------------------------------------------------------------

    def run(self, budget: int, now_ns: int) -> int | None:
        """Serve posted requests and everything that is due.

        Args:
            budget: requests and steps of long operations at most.
            now_ns: the time.

        Returns:
            When to run again although nothing is posted, or None. A time that has passed means
            that work is left.
        """
        self._now_ns = now_ns
        if self.state is _FAULTED:
            if self._begin_ns is None:
                self._begin_ns = now_ns
            return None
        scheduler, replies = self.scheduler, self.replies
        was_calm = self._is_calm and self.faults is None  # whoever changes more than that says so
        if not was_calm:
            if self._begin_ns is None:
                self._begin_ns = now_ns
            if self.faults is not None or self._closed_until_ns != 0:
                self._open_or_close()
            if now_ns < self._stalled_until_ns:
                return self._stalled_until_ns
            self._is_halted = False
        if scheduler.timers:
            self.counters.timers += scheduler.run_due(now_ns)
        if replies.backlog:
            replies.flush()
        serve, fetch = self._serve, self.unit.fetch
        while budget > 0:
            if self._stuck and not replies.is_congested:
                mfa, frame = self._stuck.popleft()
            else:
                posted = fetch()
                if posted is None:
                    break
                mfa, frame = posted
            budget -= 1
            serve(mfa, frame, now_ns)
            if self._is_halted:
                break
        if (
            was_calm
            and self._is_calm
            and budget > 0
            and not (scheduler.timers or scheduler.jobs or replies.backlog or self._stuck)
            and not self._is_in_system
        ):
            return None
        while scheduler.jobs and budget > 0 and not (replies.is_congested or self._is_halted):
            budget -= 1
            self._changes += 1
            scheduler.step(self.send)
        is_waiting = self._is_in_system and self._peers.is_waiting
        if is_waiting:
            self._peers.run_others(RUN_BUDGET, now_ns)
            is_waiting = self._peers.is_waiting
        self._is_calm = (
            self.faults is None
            and self._begin_ns is not None
            and not is_waiting
            and not (self._closed_until_ns or self._stuck or self._is_halted)
            and not (scheduler.timers or scheduler.jobs)
        )
        if not self._is_calm:
            self._handlers.clear()
        is_done = self._is_calm and budget > 0 and not replies.backlog
        return None if is_done else self.next_deadline_ns(now_ns)

    def fast_path(self) -> FastPath:
        """Let requests be answered without `run`, as long as it would do nothing else.

        Those are requests to devices, but not to the executive, like others that `run` has served
        since something was different last: a fault plan, the state, devices, work that waits. An
        IOP of a system has no fast path: others may have sent it something.
        """
        self._has_fast_path = not self._is_in_system
        return FastPath(
            handlers=self._handlers,
            make_request=Request,
            replies=self.replies,
            on_error=self._answer_to_error,
            pending=(
                self.scheduler.timers,
                self.scheduler.jobs,
                self.replies.backlog,
                self._stuck,
                self._statics,
            ),
            on_counted=self._count_answers,
        )

    def _answer_to_error(self, request: Request, error: Exception) -> bytes:
        if not isinstance(error, RemoteFrameError):
            raise error
        device = self.lct.devices.get(request.target)
        return request.refuse() if device is None else self._malformed(device, request, error)

    def _count_answers(self, requests: int, replies: int) -> None:
        self.counters.requests += requests
        self.counters.replies += replies

    def _disturb(self) -> None:
        """Have everything looked at by the next run, before a request is answered."""
        self._is_calm = False
        self._handlers.clear()

    @property
    def now_ns(self) -> int:
        """The time, as it was told last."""
        return self._now_ns

    @property
    def is_idle(self) -> bool:
        """Whether `run` has nothing to do, now or later, until a request is posted."""
        return self._is_calm and not self.replies.backlog and self.scheduler.is_empty

    @property
    def work_pending(self) -> bool:
        """Whether `run` would find something to do without time passing."""
        if self._is_dead or self._now_ns < self._stalled_until_ns:
            return False
        return bool(
            self.unit.posted_inbound()
            or (self.replies.backlog and self.unit.idle_outbound())
            or (not self.replies.is_congested and (self._stuck or self.scheduler.has_jobs))
        )

    @property
    def _is_dead(self) -> bool:
        return self.state is _FAULTED

    @property
    def activity(self) -> int:
        """A number that changes whenever `run` does something."""
        counters = self.counters
        return (
            self._changes
            + counters.requests
            + counters.replies
            + counters.timers
            + counters.dropped
            + counters.bad_requests
            + counters.faults
        )

    def next_deadline_ns(self, now_ns: int) -> int | None:
        """Return when `run` has something to do although nothing happens, or None."""
        if self._is_dead:
            return None
        own = self.own_deadline_ns(now_ns)
        times = self._peers.deadlines_ns(now_ns)
        return min(times if own is None else [*times, own], default=None)

    def own_deadline_ns(self, now_ns: int) -> int | None:
        """Return the same, without what other IOPs have to do for this one."""
        if self._is_dead:
            return None
        if now_ns < self._stalled_until_ns:
            times = [self._stalled_until_ns]
        elif self.work_pending:
            times = [now_ns]
        else:
            due = self.scheduler.next_due_ns
            times = [] if due is None else [due]
        if self._closed_until_ns:
            times.append(self._closed_until_ns)
        if self._begin_ns is None:
            times.append(now_ns)
        elif self.faults is not None:
            _, edge = self.faults.starvation(self._elapsed_ns)
            if edge is not None:
                times.append(self._begin_ns + edge)
        return min(times, default=None)

    @property
    def _elapsed_ns(self) -> int:
        """Time since the IOP was made, which fault plans count from."""
        return self._now_ns - (self._begin_ns or 0)

    def _open_or_close(self) -> None:
        """Make the inbound port read empty, or end that, as reset and faults demand."""
        until = self._closed_until_ns
        if until is not None and until <= self._now_ns:
            self._closed_until_ns = until = 0
            if self.state == IopState.INITIALIZING:
                self.enter(IopState.RESET)
        is_closed = until != 0
        if self.faults is not None and not is_closed:
            is_closed, _ = self.faults.starvation(self._elapsed_ns)
        self._close(is_closed)

    def _close(self, is_closed: bool) -> None:
        if is_closed != self._is_closed:
            self._is_closed = is_closed
            self._changes += 1
            self.unit.starve(is_closed)

    # --- one request ---------------------------------------------------------------------------

    def _serve(self, mfa: int, frame: bytes, now_ns: int) -> None:
        """Check a request, give its frame back, and do what it asks for."""
        route, size = self._known_headers.get(frame[:8], _UNKNOWN)
        if size != len(frame):
            route = self._look_at_header(frame)
        if self._statics and (static := self._statics.get(mfa)) is not None:
            self._serve_static(mfa, frame, static)  # whatever stands there now
            return
        device = None if route < 0 else self._devices.get(route & 0xFFF)
        is_usual = device is not None
        if device is None:
            if self._refuse(mfa, frame):
                return
            route = int.from_bytes(frame[4:8], "little")
            device = self.lct.devices[route & 0xFFF]
        function = route >> 24
        if (not self._has_replies or self.replies.is_congested) and function not in UNANSWERED:
            self._postpone(mfa, frame, function)
            return
        request = Request(frame, route, now_ns)
        if self.faults is not None:
            rule = self.faults.decide(request, self._elapsed_ns)
            if rule is not None:
                self._misbehave(rule, request, mfa)
                return
        self.counters.requests += 1
        if function == _STATIC_MF_CREATE and not route & 0xFFF:
            self.send(self.executive.static_frames.create(mfa, request))
            return
        self._recycle(mfa)
        handler = device.dispatch.get(function)
        if handler is None:
            self.replies.send(device.unsupported(request))
            return
        if self._has_fast_path and self._is_calm and is_usual and route & 0xFFF:
            if len(self._handlers) >= _MOST_KNOWN:
                self._handlers.clear()
            self._handlers[frame[:8]] = handler  # before it is called: what it does may undo that
        try:
            reply = handler(request)
        except RemoteFrameError as error:
            reply = self._malformed(device, request, error)
        if reply is not None:
            self.replies.send(reply)

    def _look_at_header(self, frame: bytes) -> int:
        """Return word 1 of a frame whose header is plain; less than zero for any other."""
        route: int
        start, words, route = _read_header(frame)
        if (
            start & _UNUSUAL_BITS != 1
            or 0x10 <= start < 0x40
            or route & 0xFFF000 != 0x001000
            or 4 * words != len(frame)
        ):
            return _UNKNOWN[0]
        if len(self._known_headers) >= _MOST_KNOWN:
            self._known_headers.clear()
        self._known_headers[frame[:8]] = route, len(frame)
        return route

    def _answer(self, request: Request) -> bytes | None:
        """Let the target serve a request; return its reply, if there is one now."""
        device = self.lct.devices.get(request.target)
        if device is None:  # it went away while the request was delayed
            return request.refuse()
        handler = device.dispatch.get(request.function, device.unsupported)
        try:
            return handler(request)
        except RemoteFrameError as error:
            return self._malformed(device, request, error)

    def _malformed(self, device: Ddm, request: Request, error: RemoteFrameError) -> bytes:
        self.counters.bad_requests += 1
        return device.malformed(request, error)

    def _refuse(self, mfa: int, frame: bytes) -> bool:
        """Deal with a frame whose header is not plain; return whether it is dealt with."""
        failure = self._failure(frame)
        if failure is None:
            return False
        self.counters.bad_requests += 1
        self.complain(failure.sentence)
        if frame[7] == Function.UTIL_NOP or not self._has_replies:
            self._recycle(mfa)  # a NOP is never answered, and before OutboundInit nothing is
            return True
        self._fail(mfa, frame, failure.code)
        return True

    def _failure(self, frame: bytes) -> FrameFailure | None:
        """Say why a frame cannot be delivered, or None."""
        failure = frame_failure(frame, self.unit.frame_size, self.lct, self.lct.withheld)
        if failure is None and self.state == IopState.FAILED and frame[7] not in _WORKS_IN_FAILED:
            failure = FrameFailure(
                FailureCode.STATE_ERROR.value,
                f"function {frame[7]:#04x} was sent to an IOP in FAILED: reset it",
            )
        if failure is None:
            device = self.lct.devices[int.from_bytes(frame[4:6], "little") & 0xFFF]
            if isinstance(device, Alias):
                failure = self._peers.obstacle(device, frame)
        return failure

    def _serve_static(self, mfa: int, posted: bytes, static: StaticFrame) -> None:
        """Serve one post of a static frame, which stays where it is."""
        frame = static.frame
        if self.replies.is_congested and frame[7] not in UNANSWERED:
            self._stuck.append((mfa, posted))
            return
        self.unit.renew_static(mfa)
        failure = self._failure(frame)
        unanswered = self.executive.static_frames.outstanding(static)
        if failure is None and unanswered >= static.max_outstanding:
            failure = FrameFailure(
                FailureCode.CONGESTION.value,
                f"static frame {mfa:#010x} was posted while {static.max_outstanding} posts of it, "
                "its MaxOutstanding, were not answered",
            )
        if failure is not None:
            self.counters.bad_requests += 1
            self.complain(failure.sentence)
            if frame[7] != Function.UTIL_NOP:  # which is never answered
                self._fail(EMPTY, frame, failure.code)
            return
        self.serve_frameless(Request(frame, int.from_bytes(frame[4:8], "little"), self._now_ns))

    def serve_frameless(self, request: Request) -> None:
        """Serve a request without an inbound frame: a static one, or one from another IOP."""
        self._now_ns = max(self._now_ns, request.now_ns)
        self._disturb()
        if self._now_ns < self._stalled_until_ns:
            self.scheduler.at(self._stalled_until_ns, request, self._serve_late)
            return
        rule = None if self.faults is None else self.faults.decide(request, self._elapsed_ns)
        if rule is not None:
            self._misbehave(rule, request, EMPTY)
            return
        self.counters.requests += 1
        self._serve_late(request)

    def _fail(self, mfa: int, frame: bytes, code: int) -> None:
        """Tell the host that a message was not delivered; leave the frame with it, if any."""
        self.counters.fails += 1
        reply = fail_reply(
            frame,
            mfa,
            code,
            iop_id=self.executive.iop_id,
            host_unit_id=self.executive.host_unit_id,
        )
        if mfa == EMPTY:
            self.send(reply)
        else:  # the host posted it, whoever it says that it comes from
            self.unit.preserve(mfa)
            self.replies.send(reply)

    # --- faults --------------------------------------------------------------------------------

    def misbehave(self, faults: FaultPlan | None) -> None:
        """Follow another fault plan, or none, from now on.

        Its times count from the next run. A plan that starves the inbound port starves it no
        longer; requests that were hit stay hit.
        """
        self.faults, self._begin_ns = faults, None
        self._disturb()
        if self.state != IopState.INITIALIZING:
            self._closed_until_ns = 0
            self._close(False)

    def _misbehave(self, rule: Rule, request: Request, mfa: int) -> None:
        """Do to a request what a fault plan says. One that has no frame here has EMPTY."""
        action = rule.action
        name = action.name
        self.counters.faults += 1
        sentence = (
            f"fault {name} hits function {request.function:#04x} to TID {request.target:#05x}"
        )
        _LOG.info("%s", sentence)
        if self.on_fault is not None:
            self.on_fault(mfa, sentence)
        if name == "crash":
            self._is_halted = True
            self.crash()
            return
        if name == "reset":
            self.reset()
            return
        if name == "fail" and self._has_replies and request.function != Function.UTIL_NOP:
            self._fail(mfa, request.frame, action.code)
            return
        if mfa != EMPTY:
            self._recycle(mfa)
        self.counters.requests += 1
        if name == "delay":
            self.scheduler.at(self._now_ns + action.duration_ns, request, self._serve_late)
        elif name == "stall":
            self._is_halted = True
            self._stalled_until_ns = self._now_ns + action.duration_ns
            self.scheduler.at(self._stalled_until_ns, request, self._serve_late)
        elif name in ("drop", "fail") or (name == "status" and request.function in UNANSWERED):
            self.counters.dropped += 1
        elif name == "status":
            device = self.lct.devices[request.target]
            self.send(device.error(request, action.req_status, action.detail))
        else:
            self._answer_wrongly(rule, request)

    def _answer_wrongly(self, rule: Rule, request: Request) -> None:
        """Serve a request, and spoil what follows from it."""
        if rule.action.name == "starve":
            self._closed_until_ns = rule.starved_until_ns(self._now_ns, self._elapsed_ns)
            self._open_or_close()
        reply = self._answer(request)
        if reply is None:
            return
        if rule.action.name == "corrupt" and self.faults is not None:
            reply = self.faults.corrupt(reply)
        self.send(reply)
        if rule.action.name == "duplicate":
            self.send(reply)

    def _serve_late(self, request: Request) -> None:
        reply = self._answer(request)
        if reply is not None:
            self.send(reply)

    def _postpone(self, mfa: int, frame: bytes, function: int) -> None:
        """Keep a request whose reply could not go out, or drop it if it never can."""
        if self._has_replies:
            self._stuck.append((mfa, frame))
            return
        self._recycle(mfa)
        self.counters.dropped += 1
        self.complain(
            f"function {function:#04x} was sent before OutboundInit: there is no reply frame to "
            "answer it with, it is dropped"
        )

    # --- what devices may ask for --------------------------------------------------------------

    def send(self, reply: bytes) -> None:
        """Send a reply to who asked: into a reply frame, now or later, or to another IOP."""
        if _is_for_host(reply):
            self.replies.send(reply)
        else:
            self._peers.send_back(reply)

    def _send_event(self, reply: bytes) -> None:
        if _is_for_host(reply):
            self.replies.send_event(reply)
        else:
            self._peers.send_back(reply)

    def complain(self, sentence: str) -> None:
        """Tell the driver's author what was wrong."""
        self.complaints.add(sentence)

    def adapters_of(self, tid: int) -> list[int]:
        """Return the AdapterIDs that a DDM controls."""
        adapters = self.executive.assignments.adapters
        return [adapter for adapter, owner in adapters.items() if owner == tid]

    # --- life cycle ----------------------------------------------------------------------------

    def enter(self, state: IopState) -> None:
        """Change the state."""
        self.state = state
        self._devices = {} if state == IopState.FAILED else self.lct.serving
        self._handlers.clear()

    def fail(self) -> None:
        """Go to FAILED: whoever registered for it is told, and what was going on is aborted.

        StatusGet, IopReset, IopClear and UtilNOP still work. Everything else fails with a state
        error. An IOP that is FAULTED stays so.
        """
        if self._is_dead:
            return
        self._end_requests()
        self._peers.reset_state()
        self.events.post(
            self.executive.tid,
            GenericEvent.STATE_CHANGE,
            StateChange.FAILED.to_bytes(4, "little"),
        )
        self.enter(IopState.FAILED)

    def crash(self) -> None:
        """Go to FAULTED: nothing is ever served again until the power is cycled.

        A disk that is plugged in or pulled out afterwards finds nobody to tell.
        """
        self.enter(IopState.FAULTED)
        self._forget_requests()
        self.events.clear()
        self._peers.reset_state()

    def _end_requests(self) -> None:
        for request in self.scheduler.take_back(lambda request: True):
            self._let_forget(request)
            if not request.wants_reply:
                self.counters.dropped += 1
                continue
            self.send(request.status(ReqStatus.PROCESS_ABORT_NO_DATA_TRANSFER, 0))

    def _let_forget(self, request: Request) -> None:
        """Tell the device of a request that waited that it is gone."""
        device = self.lct.devices.get(request.target)
        if device is not None:
            device.forget(request)

    def power_cycle(self) -> None:
        """Lose everything, even what a crash left; come back in RESET at once."""
        self.reset()

    def reset(self, *, hold_ns: int = 0) -> None:
        """Lose everything the host set up and go to RESET.

        Queues, backlog, delayed requests, claims, locks and event registrations are gone; every
        inbound frame is free again. Nothing that was going on is ever answered.

        Args:
            hold_ns: how long the inbound port stays empty afterwards.
        """
        self._is_calm = False
        self.executive.static_frames.end_all()
        self._forget_requests()
        self.unit.drop_replies()
        self._has_replies = False
        self._stalled_until_ns = 0
        self.replies.frame_size, self.page_size = 4 * DEFAULT_REPLY_WORDS, 4096
        self.events.clear()
        self.lct.restore()
        for device in self.lct:
            device.reset_state()
        self.lct.reset()
        self._closed_until_ns = self._now_ns + hold_ns if hold_ns else 0
        self.enter(IopState.INITIALIZING if hold_ns else IopState.RESET)
        self._open_or_close()
        self.unit.refill()

    def init_outbound(self, words: int, page_size: int) -> None:
        """Forget all reply frames and replies, take the size of new ones, go to HOLD."""
        self.executive.static_frames.end_all()
        self._forget_requests()
        self._peers.reset_state()
        self.unit.drop_replies()
        self.events.clear()
        self._has_replies = True
        self.replies.frame_size, self.page_size = 4 * words, page_size
        self.enter(IopState.HOLD)

    def clear(self) -> None:
        """Answer what is going on as aborted, end claims and registrations, go to HOLD."""
        self._end_requests()
        self.executive.static_frames.end_all()
        self.events.clear()
        self.lct.restore()
        for device in self.lct:
            device.reset_state()
        self.enter(IopState.HOLD)

    def _forget_requests(self) -> None:
        parked = self.scheduler.parked
        self.scheduler.clear()
        for request in parked:
            self._let_forget(request)
        for reply in self.replies.clear():
            if reply[1] & MsgFlags.FAIL:  # the host will never hear that it has the frame
                preserved = FAILURE_REPLY.unpack_from(reply).preserved_mfa_low
                if preserved != EMPTY:
                    self.unit.withdraw(preserved)
        while self._stuck:
            mfa, _ = self._stuck.popleft()
            if mfa not in self._statics:
                self._recycle(mfa)

    def end_static(self, mfa: int) -> int:
        """Give a static frame home; return how many posts of it were not taken up."""
        others = [post for post in self._stuck if post[0] != mfa]
        lost = len(self._stuck) - len(others)
        self._stuck.clear()
        self._stuck.extend(others)
        return lost + self.unit.end_static(mfa)

    def close(self) -> None:
        """Leave the system and close every disk; nothing is answered any more."""
        self.scheduler.clear()
        self._peers.leave()
        self.bay.close()


def _is_for_host(reply: bytes) -> bool:
    """Whether a reply goes to this IOP's host, and not to another IOP."""
    return reply[6] == 0 and reply[5] >> 4 == SpecialTid.HOST
