# SPDX-License-Identifier: Apache-2.0
"""A software IOP whose host is at the other end of an endpoint: what a `WireServer` serves."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import Final, Self

from i2o.closing import Closing
from i2o.frames.functions import UNANSWERED
from i2o.iop_emulator.commanded_iop import CommandedIop
from i2o.iop_emulator.complaints import Complaints
from i2o.iop_emulator.control_socket import ControlSocket
from i2o.iop_emulator.options import EmuOptions
from i2o.iop_emulator.soft_iop import SoftIop
from i2o.transport.device_unit import DeviceUnit
from i2o.transport.wire.wire_unit import WireUnit

_NO_TAP: Final[Callable[[DeviceUnit], DeviceUnit]] = lambda unit: unit  # noqa: E731


class RemoteIop(Closing):
    """One IOP and its queue pair.

    Args:
        iop: the IOP, which works on the unit.
        unit: the queue pair.
        control: where commands come in; closed with this.

    Attributes:
        soft_iop: the IOP.
        unit: its queue pair.
    """

    def __init__(self, iop: SoftIop, unit: WireUnit, control: ControlSocket | None = None) -> None:
        self.soft_iop, self.unit = iop, unit
        self._control, self._commanded = control, CommandedIop(iop, control)

    @classmethod
    def from_options(
        cls, options: EmuOptions, tap: Callable[[DeviceUnit], DeviceUnit] = _NO_TAP
    ) -> Self:
        """Make an IOP as the options of a URI say.

        Args:
            options: what the URI said.
            tap: puts something between the IOP and its queue pair, to look at the traffic.

        Raises:
            UriError: the fault plan is wrong.
            TransportUnavailable: a disk image or the control socket cannot be used.
        """
        faults = options.read_faults()
        complaints = Complaints()
        unit = WireUnit(
            frame_count=options.frames,
            frame_size=options.frame_size,
            on_misuse=complaints.add,
            unanswered=UNANSWERED,
        )
        with ExitStack() as opened:
            disks = options.open_disks()
            for disk in disks:
                opened.callback(disk.close)
            control = options.open_control()
            opened.pop_all()
        iop = SoftIop(tap(unit), options.iop, disks, faults, complaints=complaints)
        return cls(iop, unit, control)

    # --- what a server asks for ------------------------------------------------------------------

    def run(self, now_ns: int) -> int | None:
        """Serve what was posted, and commands; return when to be called again, or None."""
        deadline = self._commanded.run(now_ns, has_command=self._commanded.has_command())
        return now_ns if self.soft_iop.work_pending else deadline

    def power_cycle(self) -> None:
        """Lose everything that a host has set up."""
        self.soft_iop.power_cycle()

    def filenos(self) -> tuple[int, ...]:
        """Return the control socket's descriptor, if there is one."""
        return () if self._control is None else (self._control.fileno(),)

    def close(self) -> None:
        """Close disks and control socket."""
        self.soft_iop.close()
        if self._control is not None:
            self._control.close()
