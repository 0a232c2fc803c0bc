# SPDX-License-Identifier: Apache-2.0
"""Runs a software IOP in a thread of its own."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Final

from i2o.clock import Clock
from i2o.iop_emulator.commanded_iop import CommandedIop
from i2o.iop_emulator.control_socket import ControlSocket
from i2o.iop_emulator.soft_iop import SoftIop
from i2o.transport.doorbell import Doorbell

_START_S: Final = 1.0


class IopThread:
    """A daemon thread that runs an IOP whenever it is woken or something is due, once started.

    Args:
        iop: the IOP.
        lock: held while the IOP runs.
        clock: the time.
        on_progress: called in the thread after the IOP has done something.
        control: where commands come in.
    """

    def __init__(
        self,
        iop: SoftIop,
        lock: threading.Lock,
        clock: Clock,
        *,
        on_progress: Callable[[], None],
        control: ControlSocket | None = None,
    ) -> None:
        self._control, self._commanded = control, CommandedIop(iop, control)
        self._iop, self._lock, self._clock, self._on_progress = iop, lock, clock, on_progress
        self._doorbell = Doorbell()
        self._is_asleep = False
        self._is_stopped = False
        self._has_ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="i2o-soft-iop", daemon=True)

    def start(self) -> None:
        """Start the thread; if that is interrupted, it is gone again when this raises."""
        try:
            self._thread.start()
        except BaseException:
            self._is_stopped = True  # it may be there already, and only its greeting was missed
            self._has_ended.wait(_START_S)
            raise

    def wake(self) -> None:
        """Make the thread look at its queues. A system call only if it sleeps."""
        if self._is_asleep:
            self._doorbell.ring()

    def stop(self) -> None:
        """End the thread and wait for it, even if an interrupt comes meanwhile."""
        self._is_stopped = True
        try:
            self._doorbell.ring()
            self._join()
        finally:
            self._join()  # what comes next needs an IOP that nobody runs
            self._doorbell.close()

    def _join(self) -> None:
        if self._thread.ident is not None and self._thread is not threading.current_thread():
            self._thread.join()

    def _run(self) -> None:
        try:
            self._loop()
        finally:
            self._has_ended.set()

    def _loop(self) -> None:
        iop, commanded = self._iop, self._commanded
        while not self._is_stopped:
            with self._lock:
                before = iop.activity
                deadline_ns = commanded.run(
                    self._clock.monotonic_ns(), has_command=commanded.has_command()
                )
                has_worked = iop.activity != before
            if has_worked:
                self._on_progress()
            self._is_asleep = True  # from here on `wake` rings; what came before is seen below
            if not self._is_stopped and not iop.work_pending:
                self._doorbell.wait(self._seconds_to(deadline_ns), self._control)
            self._is_asleep = False

    def _seconds_to(self, deadline_ns: int | None) -> float | None:
        if deadline_ns is None:
            return None
        return max(0.0, (deadline_ns - self._clock.monotonic_ns()) / 1e9)
