# SPDX-License-Identifier: Apache-2.0
"""The host half of a software IOP in the same process: the backend `emu:`.

Inline, the IOP runs when the host looks for replies, waits or finds no free frame, never inside
`post`: a reply is not there before its doorbell has returned. With `run=thread` it runs in a
thread of its own. `run=process` is served by `process_port`.
"""

from __future__ import annotations

import contextlib
import math
import select
from typing import Final

from i2o.clock import SYSTEM_CLOCK, Clock
from i2o.closing import Closing
from i2o.errors import IopDead, UriError
from i2o.iop_emulator.commanded_iop import CommandedIop
from i2o.iop_emulator.complaints import Complaints
from i2o.iop_emulator.control_socket import ControlSocket
from i2o.iop_emulator.iop_system import IopSystem
from i2o.iop_emulator.iop_thread import IopThread
from i2o.iop_emulator.options import EmuOptions
from i2o.iop_emulator.soft_iop import SoftIop
from i2o.transport.bus_space import BusSpace
from i2o.transport.doorbell import Doorbell, descriptor_of
from i2o.transport.host_memory import HostMemory
from i2o.transport.local_unit import LocalUnit
from i2o.transport.port import EMPTY, Port, Remark
from i2o.transport.uri import Uri

_LONGEST_SLICE_S: Final = 3600.0


class EmuPort(Closing):
    """A `Port` to a `SoftIop`.

    Args:
        iop: the IOP; the port closes its disks when it is closed.
        unit: its queue pair.
        clock: what the IOP is told the time from, and what `wait` sleeps on.
        name: what to call it in messages.
        is_threaded: run the IOP in a thread of its own.
        control: where commands come in; the port closes it.

    Attributes:
        memory: the host's buffers.
        inbound_size: bytes of an inbound frame.
        name: the URI.
        soft_iop: the IOP, for tests and tools.
        unit: its queue pair, for tests and tools.
    """

    def __init__(
        self,
        iop: SoftIop,
        unit: LocalUnit,
        *,
        clock: Clock = SYSTEM_CLOCK,
        name: str = "emu:",
        is_threaded: bool = False,
        control: ControlSocket | None = None,
    ) -> None:
        self.soft_iop, self.unit, self.name = iop, unit, name
        self.memory: HostMemory = unit.memory
        self.inbound_size = unit.frame_size
        # what needs no help from here is the unit's own
        self.write, self.read_inbound, self.post = unit.write, unit.read_inbound, unit.post
        self.outbound = unit.memory.window
        self.release = self._release_and_wake if is_threaded else unit.release
        self._clock = clock
        self._lock = iop.lock
        self._control, self._commanded = control, CommandedIop(iop, control)
        self._listeners: list[Remark] = []
        self._doorbell: Doorbell | None = None
        self._watch: select.epoll | None = None
        self._has_rung = False
        self._is_masked = False
        self._is_closed = False
        with self._lock:
            iop.run(0, clock.monotonic_ns())
        self._thread: IopThread | None = None
        self._progress: Doorbell | None = None  # what `wait` waits for, masked or not
        if is_threaded:
            try:
                self._progress = Doorbell()
                unit.connect(on_post=self._on_post, on_reply=self._on_progress)
                self._thread = IopThread(
                    iop, self._lock, clock, on_progress=self._on_progress, control=control
                )
                self._thread.start()
            except BaseException:
                self.close()
                raise

    @classmethod
    def of(cls, iop: SoftIop, unit: LocalUnit, *, clock: Clock = SYSTEM_CLOCK) -> EmuPort:
        """Return an inline port to an IOP that exists, for tests."""
        return cls(iop, unit, clock=clock)

    @classmethod
    def from_uri(cls, uri: Uri, clock: Clock) -> Port:
        """Make an IOP as a URI says, and open it.

        Raises:
            UriError: an option is unknown or wrong.
            TransportUnavailable: a disk image or the control socket cannot be used.
        """
        options = EmuOptions.from_uri(uri)
        if options.run == "process":
            from i2o.iop_emulator.process_port import ProcessPort

            return ProcessPort.launch(uri, options)
        iop, unit = build_iop(options)
        with contextlib.ExitStack() as on_failure:
            on_failure.callback(iop.close)
            control = options.open_control()
            if control is not None:
                on_failure.callback(control.close)
            is_threaded = options.run == "thread"
            port = cls(
                iop, unit, clock=clock, name=uri.text, is_threaded=is_threaded, control=control
            )
            on_failure.pop_all()
        return port

    @classmethod
    def in_system(cls, text: str, system: IopSystem, clock: Clock = SYSTEM_CLOCK) -> EmuPort:
        """Make an IOP on the bus of a system, and open it.

        Args:
            text: an `emu:` URI.
            system: the IOPs that it can be connected with.
            clock: what the IOP is told the time from.

        Raises:
            UriError: an option is wrong, or the IOP would be in a process of its own.
            TransportUnavailable: a disk image cannot be used.
        """
        options = EmuOptions.from_uri(Uri.parse(text))
        if options.run == "process":
            raise UriError(f"{text!r}: the IOPs of a system are in one process")
        iop, unit = build_iop(options, system.memory, system)
        return cls(iop, unit, clock=clock, name=text, is_threaded=options.run == "thread")

    # --- the FIFOs -----------------------------------------------------------------------------

    def alloc(self) -> int:
        """Pop a free inbound MFA; when there is none, let the IOP work first."""
        mfa = self.unit.alloc()
        if mfa == EMPTY and self._thread is None:
            self._run()
            mfa = self.unit.alloc()
        return mfa

    def reap(self) -> int:
        """Pop a reply MFA; when there is none, let the IOP work first."""
        mfa = self.unit.reap()
        if mfa != EMPTY:
            return mfa
        if self._has_rung:
            self._silence()
        if self._thread is None:
            is_idle = not self.unit.request_pending and self.soft_iop.is_idle
            if is_idle and self._control is None:
                return EMPTY
            self._run()
        return self.unit.reap()

    def _release_and_wake(self, mfa: int) -> None:
        """Give a reply frame to an IOP in its own thread, which may wait for one."""
        self.unit.release(mfa)
        if self._thread is not None:
            self._thread.wake()

    # --- waiting -------------------------------------------------------------------------------

    def wait(self, timeout_s: float) -> bool:
        """Let the IOP work; return True as soon as it may have done something.

        Raises:
            IopDead: the port is closed: waiting would neither bring anything nor take time.
        """
        if self._is_closed:
            raise IopDead(f"{self.name} is closed: open it again")
        end_ns = self._clock.monotonic_ns() + math.ceil(max(0.0, timeout_s) * 1e9)
        if self._progress is not None:
            return self.unit.reply_pending or self._wait_for_thread(self._progress, timeout_s)
        if self.unit.reply_pending:
            self._run()  # a host that polls memory may wait with replies it has not taken
            return True
        while True:
            before = self.soft_iop.activity
            self._run()
            if self.soft_iop.activity != before or self.unit.reply_pending:
                return True
            now_ns = self._clock.monotonic_ns()
            if now_ns >= end_ns or self._is_closed:
                return False
            until_ns = end_ns
            deadline_ns = self.next_deadline_ns()
            if deadline_ns is not None:
                until_ns = min(end_ns, max(deadline_ns, now_ns))
            self._sleep(min(_LONGEST_SLICE_S, (until_ns - now_ns) / 1e9))

    def _sleep(self, seconds: float) -> None:
        """Let time pass; a command ends that early where time passes by itself."""
        if self._control is not None and self._clock is SYSTEM_CLOCK:
            self._control.wait(seconds)
        else:
            self._clock.sleep(seconds)

    def _wait_for_thread(self, progress: Doorbell, timeout_s: float) -> bool:
        if not progress.wait(timeout_s):
            return self.unit.reply_pending
        if self.unit.reply_pending:
            progress.ring()  # other threads may wait, too
        return True

    def fileno(self) -> int:
        """Return a descriptor that is readable while there may be something to do.

        That is replies, and what the IOP has done besides; inline also posted requests and
        commands, which nobody but the caller serves. After `close` it is -1.
        """
        if self._doorbell is None:
            self._bell()
            self._ring_if_due()
        if self._control is None or self._thread is not None:
            return self._bell().fileno()
        bell = self._bell()
        if self._watch is None:
            with self._lock:  # two threads may be the first
                if self._watch is None and not self._is_closed:
                    watch = select.epoll()
                    watch.register(bell, select.EPOLLIN)
                    watch.register(self._control, select.EPOLLIN)
                    self._watch = watch
        return descriptor_of(self._watch)

    def next_deadline_ns(self) -> int | None:
        """Return when the IOP wants to run although nothing happens, by the port's clock."""
        if self._thread is not None:
            return None
        return self.soft_iop.next_deadline_ns(self._clock.monotonic_ns())

    def mask_interrupt(self, masked: bool) -> None:
        """Keep the IOP from making the descriptor readable, or end that."""
        self._is_masked = masked
        if masked:
            self._silence()
        self._ring_if_due()

    def remark_to(self, listener: Remark) -> None:
        """Tell somebody of every request that a fault hits."""
        self._listeners.append(listener)
        self.soft_iop.on_fault = self._remark

    def _remark(self, mfa: int, sentence: str) -> None:
        for listener in self._listeners:
            listener(mfa, sentence)

    # --- life cycle ----------------------------------------------------------------------------

    def reset(self) -> None:
        """Cycle the IOP's power; afterwards it writes no host memory."""
        with self._lock:
            self.soft_iop.power_cycle()

    def close(self) -> None:
        """Stop the thread, close the disks and the descriptor; a second call does nothing."""
        if self._is_closed:
            return
        self._is_closed = True
        with contextlib.ExitStack() as rest:  # an interrupt on the way leaves nothing open
            rest.callback(self._close_iop)
            if self._thread is not None:
                self._thread.stop()

    # --- inside --------------------------------------------------------------------------------

    def _close_iop(self) -> None:
        with self._lock, contextlib.ExitStack() as rest:
            for one in (self._doorbell, self._progress, self._watch, self._control):
                if one is not None:
                    rest.callback(one.close)
            self.soft_iop.close()

    def _run(self) -> None:
        """Let the IOP work, unless another thread of the host is in there already."""
        if self._lock.locked():
            return
        with self._lock:  # `with`, and nothing else: an interrupt must not leave it held
            if not self._is_closed:
                commanded = self._commanded
                has_command = commanded.has_command()
                commanded.run(self._clock.monotonic_ns(), has_command=has_command)

    def _on_post(self) -> None:
        if self._thread is not None:
            self._thread.wake()
        else:
            self._ring()

    def _on_progress(self) -> None:
        if self._progress is not None:
            self._progress.ring()
        if not self._is_masked:
            self._ring()

    def _ring(self) -> None:
        if self._doorbell is not None:
            self._has_rung = True
            self._doorbell.ring()

    def _silence(self) -> None:
        """Make the descriptor unreadable: its reason is gone, or will ring again."""
        self._has_rung = False
        if self._doorbell is not None:
            self._doorbell.silence()
            if self.unit.reply_pending and not self._is_masked:
                self._ring()

    def _ring_if_due(self) -> None:
        """Make the descriptor readable for what is there already."""
        is_for_caller = self._thread is None and self.unit.request_pending
        if is_for_caller or (self.unit.reply_pending and not self._is_masked):
            self._ring()

    def _bell(self) -> Doorbell:
        """Return the descriptor; from the first time on, what happens is told to it."""
        if self._doorbell is None:
            with self._lock:  # two threads may be the first
                if self._doorbell is None:
                    bell = self._doorbell = Doorbell()
                    if self._is_closed:  # nobody would close it any more
                        bell.close()
                    self.unit.connect(on_post=self._on_post, on_reply=self._on_progress)
        return self._doorbell


def build_iop(
    options: EmuOptions, memory: BusSpace | None = None, system: IopSystem | None = None
) -> tuple[SoftIop, LocalUnit]:
    """Make an IOP and its queue pair in this process.

    Args:
        options: what an `emu:` URI said.
        memory: the host's buffers, if they exist already.
        system: the IOPs that it can be connected with; then the memory must be the system's.

    Raises:
        UriError: the fault plan is wrong.
        TransportUnavailable: a disk image cannot be used.
    """
    faults = options.read_faults()
    complaints = Complaints()
    unit = LocalUnit(
        memory if memory is not None else BusSpace(),
        frame_count=options.frames,
        frame_size=options.frame_size,
        on_misuse=complaints.add,
    )
    iop = SoftIop(
        unit, options.iop, options.open_disks(), faults, complaints=complaints, system=system
    )
    return iop, unit
