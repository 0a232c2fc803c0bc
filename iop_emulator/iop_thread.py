# SPDX-License-Identifier: Apache-2.0
"""Runs a software IOP in a thread of its own."""

from __future__ import annotations

import threading
from collections.abc import Callable

from i2o.clock import Clock
from i2o.iop_emulator.commanded_iop import CommandedIop
from i2o.iop_emulator.control_socket import ControlSocket
from i2o.iop_emulator.doorbell import Doorbell
from i2o.iop_emulator.soft_iop import SoftIop


class IopThread:
    """A daemon thread that runs an IOP whenever it is woken or something is due.

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
        self._thread = threading.Thread(target=self._loop, name="i2o-soft-iop", daemon=True)
        self._thread.start()

    def wake(self) -> None:
        """Make the thread look at its queues. A system call only if it sleeps."""
        if self._is_asleep:
            self._doorbell.ring()

    def stop(self) -> None:
        """End the thread and wait for it."""
        self._is_stopped = True
        self._doorbell.ring()
        if self._thread is not threading.current_thread():
            self._thread.join()
        self._doorbell.close()

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
