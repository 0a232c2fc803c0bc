# SPDX-License-Identifier: Apache-2.0
"""A software IOP whose hosts are other processes: a `ShmDevice`.

Nothing in it depends on how its hosts find it; see `i2o.transport.shm.server`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Self

from i2o.closing import Closing
from i2o.iop_emulator.block_store import BlockStore
from i2o.iop_emulator.commanded_iop import CommandedIop
from i2o.iop_emulator.complaints import Complaints
from i2o.iop_emulator.control_socket import ControlSocket
from i2o.iop_emulator.faults import FaultPlan
from i2o.iop_emulator.options import EmuOptions, IopOptions
from i2o.iop_emulator.soft_iop import RUN_BUDGET, SoftIop
from i2o.transport.device_unit import DeviceUnit
from i2o.transport.fast_path import Answered
from i2o.transport.shm.segment import Shape, shape_for
from i2o.transport.shm.unit import ShmUnit


class ShmIop(Closing):
    """One IOP.

    Args:
        shape: its frames, and the memory for hosts.
        options: how it presents itself.
        disks: what its block devices keep their blocks in.
        faults: how it misbehaves.
        control: where commands come in; the IOP closes it.
        tap: puts something between the IOP and its queue pair, to look at the traffic.

    Attributes:
        description: what it says that it is.
        soft_iop: the IOP.
        unit: its queue pair.
    """

    def __init__(
        self,
        shape: Shape,
        options: IopOptions,
        disks: Sequence[BlockStore] = (),
        faults: FaultPlan | None = None,
        *,
        control: ControlSocket | None = None,
        tap: Callable[[DeviceUnit], DeviceUnit] = lambda unit: unit,
    ) -> None:
        complaints = Complaints()
        self.description = options.product
        self.unit = ShmUnit(shape, on_misuse=complaints.add)
        tapped = tap(self.unit)
        self.soft_iop = SoftIop(tapped, options, disks, faults, complaints=complaints)
        # else somebody wants to see each request
        if tapped is self.unit and self.unit.may_have_fast_path:
            self.unit.use(self.soft_iop.fast_path())
        self._control, self._commanded = control, CommandedIop(self.soft_iop, control)

    @classmethod
    def from_options(
        cls,
        options: EmuOptions,
        tap: Callable[[DeviceUnit], DeviceUnit] = lambda unit: unit,
    ) -> Self:
        """Make an IOP as the options of a URI say.

        Raises:
            UriError: the fault plan is wrong.
            TransportUnavailable: a disk image or the control socket cannot be used.
        """
        faults = options.read_faults()
        with ExitStack() as opened:
            disks = options.open_disks()
            for disk in disks:
                opened.callback(disk.close)
            control = options.open_control()
            opened.pop_all()
        return cls(
            shape_for(options.frames, options.frame_size),
            options.iop,
            disks,
            faults,
            control=control,
            tap=tap,
        )

    def run(self, now_ns: int) -> int | None:
        """Take in what the host tells, serve it, and run commands; see `ShmDevice.run`."""
        has_command = self._control is not None and self._commanded.has_command()
        unit, iop = self.unit, self.soft_iop
        has_more = unit.drain()
        if unit.must_power_cycle and unit.take_power_cycle():
            iop.power_cycle()
        if has_command:
            due = self._commanded.run(now_ns, has_command=True)
        elif (answered := unit.answer(now_ns)) is Answered.SO_FAR:
            due = now_ns
        elif answered is not Answered.ALL and (unit.posted_inbound() or not iop.is_idle):
            due = iop.run(RUN_BUDGET, now_ns)
        else:
            due = None  # reply frames came back, or buffers were made known
        return now_ns if has_more else due

    def power_cycle(self) -> None:
        """Lose everything that a host has set up."""
        self.soft_iop.power_cycle()

    def filenos(self) -> tuple[int, ...]:
        """Return the control socket's descriptor, if there is one."""
        return () if self._control is None else (self._control.fileno(),)

    def close(self) -> None:
        """Close disks and control socket, and let go of a host."""
        self.soft_iop.close()
        if self._control is not None:
            self._control.close()
        self.unit.disconnect()
