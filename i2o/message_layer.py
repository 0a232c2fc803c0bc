# SPDX-License-Identifier: Apache-2.0
"""The message layer: what stands between OSMs and the transports of all IOPs.

`MessageLayer` has the semantics of SCO's D3i2o calls (HDK Technical Reference, section D3i2o) as
methods that raise; `i2o.d3i2o` has the documented names and return codes. An OSM registers
callbacks and gets cookies, takes a request frame, puts a cookie into InitiatorContext, sends the
frame, and is called back with the reply, which it frees.

The core is driven by its caller: replies are dispatched in `poll`. A `Dispatcher` thread or
`i2o.aio` can do the driving. Callbacks run without locks held and may call anything but waits.

Every request whose function is answered gets exactly one final callback: the IOP's, or, when the
IOP was reset, died or was detached, a FAIL reply (path state, service terminated) made up here,
and that only after the IOP can no longer write to host memory.
"""

from __future__ import annotations

import logging
import select
import threading
import time
from collections.abc import Callable, Sequence
from typing import Literal

from i2o import bring_up, capture, waits
from i2o.bring_up import Limits
from i2o.clock import SYSTEM_CLOCK, Clock
from i2o.closing import Closing
from i2o.cookies import Callback, CookieTable, Registration, context_bytes
from i2o.errors import (
    I2OError,
    InvalidArgument,
    IopDead,
    MessageLayerError,
    OutOfFrames,
    RequestFailed,
    RequestTimeout,
)
from i2o.frames.header import (
    EMPTY_MFA,
    HEADER_SIZE,
)
from i2o.frames.tables import IopState
from i2o.iop_table import (
    Counters,
    IopEntry,
    IopNews,
    IopTable,
    NewsListener,
)
from i2o.message_frames import MessageFrame, ReplyFrame, RequestFrame
from i2o.reply_path import ReplyPath
from i2o.request_path import RequestPath
from i2o.resources import BringUpResult, IopStatus
from i2o.system_table import SystemTable
from i2o.transport.capture.dma_tap import LearningPort
from i2o.transport.port import Port, RequestLimits, ReturningPort, request_limits
from i2o.transport.registry import open_port
from i2o.waits import DEFAULT_HZ, I2OTRANS_NOSLEEP

logger = logging.getLogger(__name__)

FrameSource = Literal["memory", "fifo"]

I2O_FRAMESIZE_FORCE = 1
"""Flag of `set_inbound_frame_size`: also make the frame smaller than somebody asked for."""

_MAY_BE_CURED = (IopDead, OutOfFrames, RequestFailed, RequestTimeout)
_ROUND = 64  # replies dispatched between two looks at the clock
_CALLBACK_PATIENCE, _CALLBACK_PAUSE_S = 5000, 0.001
_WAIT_SLICE_S = 0.1  # how long a port is waited on before the predicate is looked at again


class MessageLayer(Closing):
    """All registered IOPs and OSMs of a program.

    Args:
        clock: what waits sleep and spin on.
        hz: ticks per second of `request_frame`'s wait.
        debug: raise when a callback, which counts as interrupt context, asks to sleep.
    """

    def __init__(
        self, *, clock: Clock = SYSTEM_CLOCK, hz: int = DEFAULT_HZ, debug: bool = False
    ) -> None:
        self.clock, self.hz = clock, hz
        self._iops = IopTable()
        self._cookies = CookieTable()
        self._replies = ReplyPath(self._cookies)
        self._requests = RequestPath(clock, self._replies, debug=debug)
        self._deliver = self._requests.deliver
        self._progress = threading.Condition()
        self._system_table = SystemTable()
        self._pollers = 0

    # --- OSMs ----------------------------------------------------------------------------------

    def register(self, callbacks: Sequence[Callback]) -> Registration:
        """Register an OSM (OSMMsgRegister).

        Args:
            callbacks: functions called with (IOP number, reply frame); the same one may stand
                several times.

        Returns:
            The base cookie to deregister with, and one cookie per callback.

        Raises:
            InvalidArgument: no callbacks, or something that cannot be called.
            OutOfFrames: too many OSMs.
        """
        return self._cookies.register(callbacks)

    def deregister(self, base_cookie: int) -> None:
        """Forget an OSM (OSMMsgDeRegister). Replies that come later are freed and counted.

        Its event registrations end here; the IOP may go on sending events nobody hears.

        Raises:
            InvalidArgument: no OSM has that base cookie.
        """
        gone = self._cookies.deregister(base_cookie)
        contexts = set(map(context_bytes, gone))
        for entry in self._iops:
            with entry.lock:
                entry.event_registrations = {
                    key: count
                    for key, count in entry.event_registrations.items()
                    if key[4:8] not in contexts
                }

    # --- IOPs ----------------------------------------------------------------------------------

    def attach(
        self,
        uri: str | Port,
        *,
        bring_up: bool = True,
        frame_source: FrameSource = "memory",
        clock: Clock | None = None,
        limits: Limits | None = None,
    ) -> int:
        """Register an IOP and, unless told otherwise, bring it to OPERATIONAL.

        Args:
            uri: what to open, or a port that is open already (the layer then owns it).
            bring_up: False only registers: `iop_count` counts it, `iop_valid` is false.
            frame_source: where request frames live until they are sent: system memory, or a real
                inbound frame taken by `request_frame` already.
            clock: the transport's clock; the layer's own by default.
            limits: timeouts and frame counts of the bring-up.

        Returns:
            The IOP number: global across transports, never used again.

        Raises:
            UriError, TransportUnavailable: the port cannot be opened.
            CaptureError: `I2O_CAPTURE` asks for a capture that cannot be written.
            IopDead, RequestTimeout, RequestFailed: the IOP did not come up; it is detached again.
            OutOfFrames: more IOPs are attached than there are IOP ids (4093).
        """
        if frame_source not in ("memory", "fifo"):
            raise InvalidArgument(f"frame_source {frame_source!r}: expected 'memory' or 'fifo'")
        if bring_up:
            self._replies.refuse_in_callback("bring up an IOP")
        file = capture.environment_capture()
        port = open_port(uri, clock=clock or self.clock) if isinstance(uri, str) else uri
        try:
            if isinstance(port, LearningPort):
                port.learn(capture.I2O_RULES)
            if file is not None:
                port = capture.captured(port, file)
            entry = self._iops.add(port, frames_from_fifo=frame_source == "fifo")
        except BaseException:
            port.close()
            raise
        if bring_up:
            try:
                self.bring_up(entry.number, limits)
            except BaseException as error:
                self.detach(entry.number)
                if isinstance(error, MessageLayerError):
                    error.explain("it is detached: attach it without bring_up first")
                raise
        return entry.number

    def bring_up(self, iop: int, limits: Limits | None = None) -> BringUpResult:
        """Bring a registered IOP to OPERATIONAL, resetting it first; see `i2o.bring_up`.

        Requests outstanding from before get their final callbacks once the reset is done.

        Raises:
            InvalidArgument: no such IOP, or called by a callback.
            IopDead, RequestTimeout, RequestFailed: it did not come up.
            ExceptionGroup: callbacks raised meanwhile, and perhaps that, too; one error alone is
                raised as itself.
        """
        entry = self._to_bring_up(iop)
        errors: list[Exception] = []
        failure = self._try_to_bring_up(entry, limits, errors)
        return _brought_up(entry, failure, errors)

    def check(self, iop: int, limits: Limits | None = None) -> IopStatus:
        """Read the status block: the way to notice that an IOP reset itself, failed or died.

        An IOP that is not OPERATIONAL any more is no longer valid (`iop_valid`); `bring_up` or
        `revive` makes it so again.

        Raises:
            InvalidArgument: no such IOP.
            IopDead: it does not answer, or is FAULTED.
        """
        entry = self._iops.entry(iop)
        self._replies.refuse_in_callback("wait for a status block")
        if entry.is_dead:
            remedy = "revive it" if isinstance(entry.port, ReturningPort) else "detach it"
            raise IopDead(f"IOP {iop} is dead: {remedy}")
        try:
            status = bring_up.read_status(entry, limits or Limits(), self.clock)
        except IopDead:
            entry.online = False
            self._tell_system_table(entry)
            raise
        if status.state != IopState.OPERATIONAL and entry.online:
            entry.online = False
            entry.counters.lost += 1
            logger.warning("IOP %d is %s, not OPERATIONAL", iop, status.state_name)
            self._tell_system_table(entry)
        return status

    def revive(self, iop: int, limits: Limits | None = None) -> BringUpResult:
        """Reset an IOP and bring it up again, by the transport's own means if messages fail.

        One that is dead is reached again first, where its port can do that (`ReturningPort`).

        Raises: as `bring_up`.
        """
        entry = self._to_bring_up(iop)
        errors: list[Exception] = []
        failure = self._try_to_bring_up(entry, limits, errors)
        if isinstance(failure, _MAY_BE_CURED) and not entry.is_dead:
            logger.warning("IOP %d: %s; resetting it by the transport", iop, failure)
            with entry.lock:
                entry.port.reset()
                if isinstance(entry.port, ReturningPort):
                    entry.port.reconnect()
            failure = self._try_to_bring_up(entry, limits, errors)
        return _brought_up(entry, failure, errors)

    def refresh(self, iop: int) -> BringUpResult:
        """Read status block, HRT and LCT again and return them.

        Raises:
            InvalidArgument: no such IOP, or called by a callback.
            IopDead: it was not brought up, or does not answer.
            RequestTimeout, RequestFailed: it does not give its tables.
            RemoteFrameError: they contradict themselves.
        """
        self.result(iop)  # there was one
        self._replies.refuse_in_callback("read the tables of an IOP")
        entry = self._iops.entry(iop)
        entry.result = result = bring_up.read_tables(self, entry, Limits())
        errors: list[Exception] = []
        _tell(entry, IopNews.TABLES_READ, errors)
        _raise_collected(errors)
        return result

    def detach(self, iop: int) -> None:
        """Reset an IOP, finish what is outstanding on it, and forget it.

        The reset comes first: once it is done the IOP writes to no host buffer any more. Only
        then do requests without a reply get their FAIL callbacks, and only then is memory freed.

        Raises:
            InvalidArgument: no such IOP.
        """
        try:
            self._detach(iop)
        finally:
            self._tell_system_table()

    def _detach(self, iop: int) -> None:
        entry = self._iops.entry(iop)
        entry.online = False
        entry.refusing = "is being detached"
        errors: list[Exception] = []
        try:
            try:
                if entry.has_posted and not entry.is_dead:
                    self._replies.drain(entry, 1 << 30, errors)
            finally:
                self._quiet(entry)
        except IopDead as error:
            logger.warning("IOP %d: %s", iop, error)
        finally:
            try:
                entry.forget_frames()
                self._finish_outstanding(entry, errors)
                self._await_callbacks(entry)
            finally:
                self._iops.remove(iop)
                entry.port.close()
                _tell(entry, IopNews.GONE, errors)
        _raise_collected(errors)

    def close(self) -> None:
        """Detach every IOP, even if callbacks raise."""
        errors: list[Exception] = []
        for entry in self._iops:
            try:
                self._detach(entry.number)
            except Exception as error:
                errors.append(error)
        _raise_collected(errors)

    def iop_count(self) -> int:
        """Return how many IOPs are registered, brought up or not (OSMMsgGetNumIops)."""
        return len(self._iops)

    def iop_numbers(self) -> tuple[int, ...]:
        """Return the numbers of all registered IOPs."""
        return tuple(entry.number for entry in self._iops)

    def iop_valid(self, iop: int) -> bool:
        """Return whether an IOP is known, online and active (OSMMsgIopValid)."""
        entry = self._iops.find(iop)
        return entry is not None and entry.online

    def may_revive(self, iop: int) -> bool:
        """Return whether an IOP is gone, `revive` may reach it again, and the caller may wait.

        Outstanding requests of an IOP that is found to be gone get their final callbacks here.
        """
        entry = self._iops.find(iop)
        if entry is None or self._replies.in_callback():
            return False
        if not isinstance(entry.port, ReturningPort):
            return False
        if not entry.is_dead:
            self._poll(_ROUND, None)  # perhaps nobody has looked yet
        return entry.is_dead

    def why_gone(self, iop: int) -> str:
        """Return why nothing will ever come from an IOP any more, or an empty string."""
        entry = self._iops.find(iop)
        if entry is None:
            return f"IOP {iop} is detached"
        return f"IOP {iop} is dead" if entry.is_dead else ""

    def listen(self, iop: int, told: NewsListener) -> None:
        """Call something with an `IopNews` when the IOP is brought up, read again, or gone.

        It runs in the thread that noticed, without locks held, and only waits where that may.

        Raises:
            InvalidArgument: no such IOP.
        """
        entry = self._iops.entry(iop)
        with entry.lock:
            entry.listeners += (told,)

    def unlisten(self, iop: int, told: NewsListener) -> None:
        """End `listen`; nothing happens if the IOP is gone or nobody listened."""
        entry = self._iops.find(iop)
        if entry is not None:
            with entry.lock:
                entry.listeners = tuple(one for one in entry.listeners if one != told)

    def iop_key(self, iop: int) -> int:
        """Return the resource manager's key of an IOP (OSMMsgIopToKey); raises InvalidArgument."""
        return self._iops.entry(iop).key

    def iop_by_key(self, key: int) -> int:
        """Return the IOP with that key (OSMMsgKeyToIop); raises InvalidArgument."""
        for entry in self._iops:
            if entry.key == key:
                return entry.number
        raise InvalidArgument(f"no IOP has the key {key!r}")

    def port(self, iop: int) -> Port:
        """Return the transport of an IOP; raises InvalidArgument."""
        return self._iops.entry(iop).port

    def result(self, iop: int) -> BringUpResult:
        """Return what the last bring-up or refresh learned; raises IopDead before the first."""
        result = self._iops.entry(iop).result
        if result is None:
            raise IopDead(f"IOP {iop} was not brought up")
        return result

    def results(self) -> dict[int, BringUpResult]:
        """Return the bring-up results of all IOPs that have one, by number."""
        return {entry.number: entry.result for entry in self._iops if entry.result is not None}

    def system_table(self, iop: int, status: IopStatus) -> bytes:
        """Return the table of all IOPs for one that is being brought up, and its new status."""
        self._system_table.update(self._iops, (self._iops.entry(iop), status))
        return self._system_table.data

    def counters(self, iop: int) -> Counters:
        """Return the live counters of an IOP; raises InvalidArgument."""
        return self._iops.entry(iop).counters

    def outstanding(self, iop: int) -> int:
        """Return how many requests still owe a final reply; raises InvalidArgument."""
        return self._iops.entry(iop).outstanding_count

    # --- requests ------------------------------------------------------------------------------

    def request_frame(
        self, iop: int, wait_ticks: int = 0, flags: int = I2OTRANS_NOSLEEP
    ) -> RequestFrame:
        """Get a request frame (OSMMsgGetReqBuf).

        Args:
            iop: IOP number.
            wait_ticks: ticks (see `hz`) to wait for a real frame; ignored with system memory.
            flags: I2OTRANS_SLEEP or I2OTRANS_NOSLEEP.

        Returns:
            A zeroed frame of the inbound frame size. Until it is sent or freed it is the OSM's.

        Raises:
            InvalidArgument: unknown IOP, reserved flag bits.
            OutOfFrames: no real frame came free in time.
        """
        self._requests.check_wait(wait_ticks, flags)
        entry = self._iops.find(iop) or self._iops.entry(iop)
        mfa = EMPTY_MFA
        if entry.refusing:
            raise InvalidArgument(f"IOP {iop} {entry.refusing}")
        if entry.frames_from_fifo:
            mfa = self._requests.take_frame(entry, waits.ticks_to_us(wait_ticks, self.hz), flags)
        frame = RequestFrame(entry.inbound_size)
        entry.held_requests[id(frame)] = (frame, mfa)
        return frame

    def free_request(self, iop: int, frame: RequestFrame) -> None:
        """Give a request frame back unsent (OSMMsgFreeReqBuf). A real one goes home as a NOP.

        Raises:
            InvalidArgument: unknown IOP, or the frame is not held on it (freed, sent, foreign).
        """
        entry = self._iops.entry(iop)
        held = entry.held_requests.pop(id(frame), None)
        if held is None:
            entry.counters.bad_frees += 1
            raise InvalidArgument(f"the frame is not held on IOP {iop}: freed, sent or another's")
        if held[1] != EMPTY_MFA:
            with entry.lock:
                entry.post_nop(held[1])

    def send(
        self, iop: int, frame: RequestFrame, wait_us: int = 0, flags: int = I2OTRANS_NOSLEEP
    ) -> None:
        """Send a request (OSMMsgSend). On success the frame is the transport's, freed.

        Args:
            iop: the IOP the frame was taken for.
            frame: the request; MessageSize words of it reach the IOP.
            wait_us: microseconds to wait for a free inbound frame; with any wait at least 100 ms.
            flags: I2OTRANS_SLEEP or I2OTRANS_NOSLEEP.

        Raises:
            InvalidArgument: unknown IOP, frame not held on it, reserved flag bits, or a
                MessageSize that is no frame's. The frame stays the caller's.
            OutOfFrames: no inbound frame came free in time. The frame stays the caller's.
        """
        entry = self._iops.find(iop) or self._iops.entry(iop)
        held = entry.held_requests.get(id(frame))
        if held is None:
            raise InvalidArgument(f"the frame is not held on IOP {iop}: freed, sent or another's")
        self._deliver(entry, frame, held, wait_us, flags)
        del entry.held_requests[id(frame)]

    def submit(
        self, iop: int, message: bytes, wait_us: int = 0, flags: int = I2OTRANS_NOSLEEP
    ) -> None:
        """Send a message that is complete already, with no request frame in between.

        The same as `request_frame`, copying the message, and `send`; on failure nothing is held.

        Args:
            iop: IOP number.
            message: the message; MessageSize words of it are sent.
            wait_us: see `send`.
            flags: see `send`.

        Raises:
            InvalidArgument, OutOfFrames: see `send`.
        """
        entry = self._iops.find(iop) or self._iops.entry(iop)
        self._deliver(entry, message, None, wait_us, flags)

    def free_reply(self, iop: int, reply: ReplyFrame) -> None:
        """Give a reply frame back (OSMMsgFreeRepBuf). A preserved request frame goes home too.

        Raises:
            InvalidArgument: unknown IOP, or the frame is not held on it.
        """
        entry = self._iops.find(iop) or self._iops.entry(iop)
        held = entry.held_replies.pop(id(reply), None)
        if held is None:
            entry.counters.bad_frees += 1
            raise InvalidArgument(f"the reply is not held on IOP {iop}: freed or another's")
        self._replies.send_home(entry, held)

    def mfa_convert(self, iop: int, mfa: int) -> MessageFrame | None:
        """Return the preserved request of a FAIL reply (OSMMsgMfaConvert), or None.

        Args:
            iop: IOP number.
            mfa: PreservedMFA of a FAIL reply that is still held.

        Raises:
            InvalidArgument: no such IOP.
        """
        entry = self._iops.entry(iop)
        for _, _, preserved in tuple(entry.held_replies.values()):
            if preserved != mfa or mfa == EMPTY_MFA:
                continue
            saved = entry.saved_requests.get(mfa)
            if saved is not None:
                return MessageFrame(saved)
            with entry.lock:
                header = entry.port.read_inbound(mfa, HEADER_SIZE)
                size = 4 * int.from_bytes(header[2:4], "little")
                size = min(max(size, HEADER_SIZE), entry.inbound_size)
                return MessageFrame(entry.port.read_inbound(mfa, size))
        return None

    # --- frame sizes ---------------------------------------------------------------------------

    def inbound_frame_size(self, iop: int) -> int:
        """Return the bytes of an inbound frame (OSMMsgGetInboundFrameSize)."""
        return self._iops.entry(iop).inbound_size

    def outbound_frame_size(self, iop: int) -> int:
        """Return the bytes of a reply frame (OSMMsgGetOutboundFrameSize); 0 before bring-up."""
        return self._iops.entry(iop).outbound_size

    def request_limits(self, iop: int) -> RequestLimits:
        """Return what the IOP takes with one block request, as its transport knows it."""
        return request_limits(self._iops.entry(iop).port)

    def set_inbound_frame_size(self, iop: int, size: int, flags: int = 0) -> None:
        """Ask for another inbound frame size at the IOP's next reboot.

        A request lower than one made before is ignored unless forced; otherwise the IOP is told,
        and only when it agrees is the size remembered (OSMMsgSetInboundFrameSize).

        Args:
            iop: IOP number.
            size: bytes, a power of two.
            flags: I2O_FRAMESIZE_FORCE or 0.

        Raises:
            InvalidArgument: unknown IOP, size not a power of two, reserved flag bits.
            RequestFailed, RequestTimeout: the IOP did not agree.
        """
        entry = self._iops.entry(iop)
        if flags & ~I2O_FRAMESIZE_FORCE:
            raise InvalidArgument(f"flags {flags:#x}: only I2O_FRAMESIZE_FORCE exists")
        if size < 4 or size & size - 1 or size >> 18:
            raise InvalidArgument(f"frame size {size}: expected a power of two from 4 to 131072")
        if size < entry.size_at_next_reboot and not flags & I2O_FRAMESIZE_FORCE:
            return
        bring_up.set_inbound_size_target(self, entry, size)
        entry.size_at_next_reboot = size

    # --- replies -------------------------------------------------------------------------------

    def poll(self, budget: int = 64) -> int:
        """Dispatch replies that are there, on the caller's thread.

        Args:
            budget: the most replies to dispatch.

        Returns:
            How many were dispatched.

        Raises:
            Whatever a callback raised, after all other replies of this call were dispatched;
            an ExceptionGroup when several did.
        """
        return self._poll(budget, None)

    def wait(self, timeout_s: float) -> bool:
        """Wait until some IOP may have done something; False when the time ran out."""
        entries = [entry for entry in self._iops if not entry.is_dead]
        if len(entries) == 1:
            return self._wait_for(entries[0], timeout_s)
        if not entries:
            self.clock.sleep(timeout_s)
            return False
        deadline = self.clock.monotonic() + timeout_s
        slice_s = 0.0
        while True:
            for entry in entries:
                if self._wait_for(entry, slice_s):
                    return True
            left = deadline - self.clock.monotonic()
            if left <= 0:
                return False
            if self.clock is SYSTEM_CLOCK:
                self._sleep_until_readable(left)
            else:  # its time does not pass while this thread sleeps on descriptors
                slice_s = min(left, 0.001)

    def run_until(self, done: Callable[[], bool], timeout_s: float, *, drain: bool = False) -> bool:
        """Dispatch replies until a condition holds.

        While a `Dispatcher` runs, its thread does the work and this one only waits.

        Args:
            done: looked at after every reply.
            timeout_s: how long at most.
            drain: do not stop at the reply that was waited for: take all that are there.

        Returns:
            Whether the condition holds.

        Raises:
            InvalidArgument: called from a callback, which would wait for itself.
        """
        self._replies.refuse_in_callback("wait for replies: it would wait for itself")
        enough = None if drain else done
        if not self._pollers:
            self._poll(_ROUND, enough)  # mostly this is all
        if done():
            return True
        deadline = self.clock.monotonic() + timeout_s
        while not done():
            left = deadline - self.clock.monotonic()
            if self._pollers:
                with self._progress:
                    if not done() and left > 0:
                        self._progress.wait(min(_WAIT_SLICE_S, left))
            elif not self._poll(_ROUND, enough) and not done() and left > 0:
                self.wait(min(left, _WAIT_SLICE_S))
            if left <= 0:
                return done()
        return True

    def filenos(self) -> dict[int, int]:
        """Return the file descriptor of each IOP, readable while replies may be there."""
        files = {entry.number: entry.port.fileno() for entry in self._iops if not entry.is_dead}
        return {iop: file for iop, file in files.items() if file >= 0}  # closed just now

    def fileno(self) -> int:
        """Return the file descriptor of the only IOP.

        Raises:
            InvalidArgument: there is not exactly one; use `filenos` then.
        """
        files = self.filenos()
        if len(files) != 1:
            raise InvalidArgument(f"{len(files)} IOPs are registered: use filenos()")
        return next(iter(files.values()))

    def next_deadline_ns(self) -> int | None:
        """Return when to poll although no descriptor is readable, or None."""
        deadlines = (entry.port.next_deadline_ns() for entry in self._iops if not entry.is_dead)
        return min((value for value in deadlines if value is not None), default=None)

    def polled_by_thread(self, active: bool) -> None:
        """Note that a dispatcher thread took over polling, or ended."""
        with self._progress:
            self._pollers += 1 if active else -1
            self._progress.notify_all()

    # -------------------------------------------------------------------------------------------

    def _poll(self, budget: int, enough: Callable[[], bool] | None) -> int:
        """Dispatch up to `budget` replies, or until the caller has what it waits for."""
        errors: list[Exception] = []
        done = 0
        for entry in self._iops.all:
            try:
                done += self._replies.drain(entry, budget - done, errors, enough)
            except IopDead as error:
                self._bury(entry, error, errors)
            if done >= budget:
                break
        if done and self._pollers:
            self._note_progress()
        if errors:
            _raise_collected(errors)
        return done

    def _sleep_until_readable(self, timeout_s: float) -> None:
        """Sleep until some IOP's descriptor is readable, or one wants to run by itself."""
        poller = select.poll()
        for descriptor in self.filenos().values():
            poller.register(descriptor, select.POLLIN)
        patience = min(timeout_s, _WAIT_SLICE_S)
        wanted_ns = self.next_deadline_ns()
        if wanted_ns is not None:
            patience = min(patience, max(0.0, (wanted_ns - self.clock.monotonic_ns()) / 1e9))
        poller.poll(1000 * patience)

    def _wait_for(self, entry: IopEntry, timeout_s: float) -> bool:
        """Wait on one port; that it died is something that happened, too."""
        try:
            return entry.port.wait(timeout_s)
        except IopDead as error:
            errors: list[Exception] = []
            self._bury(entry, error, errors)
            _raise_collected(errors)
            return True

    def _bury(self, entry: IopEntry, error: IopDead, errors: list[Exception]) -> None:
        """Finish what a dead IOP owes: it writes to no host memory any more."""
        if not entry.is_dead and self._iops.find(entry.number) is entry:  # not detached just now
            logger.warning("IOP %d: %s", entry.number, error)
            entry.is_dead, entry.online, entry.refusing = True, False, "is dead"
            entry.forget_frames()
            self._finish_outstanding(entry, errors)
            _tell(entry, IopNews.GONE, errors)
            self._tell_system_table(entry)

    def _to_bring_up(self, iop: int) -> IopEntry:
        """Return an IOP that may be brought up now, or raise."""
        entry = self._iops.entry(iop)
        self._replies.refuse_in_callback("bring up an IOP")
        if entry.is_dead:
            if not isinstance(entry.port, ReturningPort):
                raise IopDead(f"IOP {iop} is dead: detach it")
            with entry.lock:
                entry.port.reconnect()
                entry.is_dead, entry.refusing = False, ""
        return entry

    def _try_to_bring_up(
        self, entry: IopEntry, limits: Limits | None, errors: list[Exception]
    ) -> Exception | None:
        """Bring an IOP up; collect what callbacks raise, and return why it did not come up."""
        entry.online = False
        failure: Exception | None = None
        try:
            entry.result = bring_up.bring_up(
                self,
                entry,
                limits or Limits(),
                after_reset=lambda: self._finish_outstanding(entry, errors),
            )
        except Exception as error:
            failure = error
        else:
            entry.online = True
            _tell(entry, IopNews.BROUGHT_UP, errors)
        if self._tell_system_table(entry) and not self._pollers:
            try:
                self._poll(_ROUND, None)  # who takes the news at once has taken it
            except Exception as error:
                errors.append(error)
        return failure

    def _tell_system_table(self, except_for: IopEntry | None = None) -> bool:
        """Tell the IOPs that are up how the system table has changed; return whether any was."""
        if not self._system_table.update(self._iops, None):
            return False
        told = [entry for entry in self._iops if entry.online and entry is not except_for]
        for entry in told:
            self._system_table.send(self, entry)
        return bool(told)

    def _await_callbacks(self, entry: IopEntry) -> None:
        """Wait until no other thread runs a callback for this IOP, for a while."""
        for _ in range(_CALLBACK_PATIENCE):
            if not self._replies.is_busy_elsewhere(entry):
                return
            time.sleep(_CALLBACK_PAUSE_S)  # other threads' time, whatever clock is injected
        logger.warning("IOP %d: detached while a callback is still running", entry.number)

    def _quiet(self, entry: IopEntry) -> None:
        """Make an IOP stop writing to host memory: by message, by the transport, or for good."""
        if not entry.has_posted or entry.is_dead:
            return
        try:
            bring_up.reset(entry, Limits(), self.clock)
            return
        except (I2OError, MemoryError) as error:
            logger.info("IOP %d: reset by message failed (%s)", entry.number, error)
        try:
            entry.port.reset()
        except I2OError as error:
            logger.warning("IOP %d: cannot be reset (%s); closing it", entry.number, error)
            entry.port.close()

    def _finish_outstanding(self, entry: IopEntry, errors: list[Exception]) -> None:
        """Make up the final replies that are still owed, and wake whoever waits for one."""
        try:
            self._replies.finish_outstanding(entry, errors)
        finally:
            self._note_progress()

    def _note_progress(self) -> None:
        if self._pollers:
            with self._progress:
                self._progress.notify_all()


def _tell(entry: IopEntry, news: IopNews, errors: list[Exception]) -> None:
    """Tell all listeners, whatever one of them raises."""
    for told in entry.listeners:
        try:
            told(news)
        except Exception as error:
            errors.append(error)


def _brought_up(
    entry: IopEntry, failure: Exception | None, errors: list[Exception]
) -> BringUpResult:
    """Return what a bring-up learned, or raise why it failed and what callbacks raised."""
    _raise_collected(errors if failure is None else [failure, *errors])
    assert entry.result is not None
    return entry.result


def _raise_collected(errors: list[Exception]) -> None:
    """Raise what callbacks raised, or what failed besides: one as it is, several as a group."""
    if len(errors) == 1:
        raise errors[0]
    if errors:
        raise ExceptionGroup("several callbacks raised", errors)
