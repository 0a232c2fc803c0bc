# SPDX-License-Identifier: Apache-2.0
"""A serial cable made of two pseudo terminals: devices that pyserial opens, and noise."""

from __future__ import annotations

import contextlib
import os
import pty
import select
import threading
import tty
from pathlib import Path

from fakes.noisy_line import Noise, NoisyWire
from i2o.closing import Closing

_READ = 16384


class PtyCable(Closing):
    """Two devices; what one writes the other reads, from another thread.

    Args:
        folder: where the devices are, as links `a` and `b`.
        noise: what happens on the way.
        seed: of it.

    Attributes:
        devices: their paths.
        carried: bytes that each one wrote.
    """

    def __init__(
        self,
        folder: Path,
        noise: Noise = Noise(),  # noqa: B008 - it cannot be changed
        seed: int = 1,
        names: tuple[str, str] = ("a", "b"),
    ) -> None:
        self.devices = tuple(str(folder / name) for name in names)
        self._wires = NoisyWire(noise, seed), NoisyWire(noise, seed + 1)
        self.carried = [0, 0]
        self._masters: list[int] = []
        self._slaves: list[int] = []
        self._wake = os.eventfd(0, os.EFD_NONBLOCK)
        self._thread: threading.Thread | None = None
        self.is_cut = False
        self.plug()

    def plug(self) -> None:
        """Make the devices, again after `unplug`."""
        for device in self.devices:
            master, slave = pty.openpty()
            tty.setraw(slave)
            os.set_blocking(master, False)
            self._masters.append(master)
            self._slaves.append(slave)
            with contextlib.suppress(FileNotFoundError):
                os.unlink(device)
            os.symlink(os.ttyname(slave), device)
        self._thread = threading.Thread(target=self._carry, name="pty-cable")
        self._thread.start()

    def unplug(self) -> None:
        """Take both devices away."""
        if self._thread is not None:
            os.eventfd_write(self._wake, 1)
            self._thread.join()
            self._thread = None
            os.eventfd_read(self._wake)
        for descriptor in (*self._masters, *self._slaves):
            os.close(descriptor)
        self._masters.clear()
        self._slaves.clear()
        for device in self.devices:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(device)

    def close(self) -> None:
        """Take everything away; calling it again does nothing."""
        if self._wake >= 0:
            self.unplug()
            os.close(self._wake)
            self._wake = -1

    def _carry(self) -> None:
        waiting = [b"", b""]  # for the other end
        masters = self._masters
        while True:
            reading = [self._wake]
            writing = []
            for number, master in enumerate(masters):
                if waiting[number]:
                    writing.append(masters[1 - number])
                else:
                    reading.append(master)
            ready, _, _ = select.select(reading, writing, [])
            if self._wake in ready:
                return
            for number, master in enumerate(masters):
                if master in ready:
                    data = os.read(master, _READ)
                    self.carried[number] += len(data)
                    waiting[number] = b"" if self.is_cut else self._wires[number].carry(data)
                if waiting[number]:
                    with contextlib.suppress(BlockingIOError):
                        written = os.write(masters[1 - number], waiting[number])
                        waiting[number] = waiting[number][written:]
