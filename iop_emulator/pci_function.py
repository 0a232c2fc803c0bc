# SPDX-License-Identifier: Apache-2.0
"""A software IOP as a PCI device: message unit in BAR0, DMA into the host's memory, INTA or MSI.

`IopFunction` is a `vfio_user.Device`; nothing in it depends on how it is plugged in.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from typing import Final, Self

from i2o.clock import Clock
from i2o.errors import DmaFault
from i2o.iop_emulator.block_store import BlockStore
from i2o.iop_emulator.commanded_iop import CommandedIop
from i2o.iop_emulator.complaints import Complaints
from i2o.iop_emulator.control_socket import ControlSocket
from i2o.iop_emulator.faults import FaultPlan
from i2o.iop_emulator.message_unit import FrameMemory, MessageUnit, SettlingUnit
from i2o.iop_emulator.options import EmuOptions, IopOptions
from i2o.iop_emulator.personality import BAR_SIZE, pci_identity
from i2o.iop_emulator.soft_iop import SoftIop
from i2o.transport.device_unit import DeviceUnit
from i2o.transport.local_unit import FRAME_AREA
from i2o.transport.vfio_user import ConfigSpace, GuestMemory, Interrupts, Region

SETTLE_NS: Final = 300_000
"""How long after its doorbell a request is looked at: dpt_i2o loses a wake-up that comes sooner."""
_BUS_MASTER: Final = "the device is no bus master: set bit 2 of the PCI command register first"


class MasteredMemory:
    """The host's memory, while the host lets the device be a bus master: a `DmaSpace`."""

    def __init__(self) -> None:
        self._memory = GuestMemory()
        self._config: ConfigSpace | None = None

    def connect(self, memory: GuestMemory, config: ConfigSpace) -> None:
        """Take the memory, and the registers that say whether it may be reached."""
        self._memory, self._config = memory, config

    def _reachable(self, address: int, length: int) -> GuestMemory:
        if self._config is None or not self._config.may_master:
            raise DmaFault(address, length, _BUS_MASTER)
        return self._memory

    def read(self, address: int, length: int) -> bytes:
        """Copy bytes out; raises DmaFault."""
        return self._reachable(address, length).read(address, length)

    def write(self, address: int, data: bytes | bytearray | memoryview) -> None:
        """Copy bytes in; raises DmaFault."""
        self._reachable(address, len(data)).write(address, data)

    def windows(
        self, fragments: Iterable[tuple[int, int]], *, writable: bool
    ) -> list[memoryview] | None:
        """Return direct views, or None; raises DmaFault."""
        pieces = tuple(fragments)
        return self._reachable(*next(iter(pieces), (0, 0))).windows(pieces, writable=writable)


class IopFunction:
    """One IOP on a PCI bus.

    Args:
        options: how it presents itself.
        disks: what its block devices keep their blocks in.
        faults: how it misbehaves.
        frames: inbound frames.
        frame_size: bytes of each.
        clock: tells the time.
        settle_ns: see `SettlingUnit`.
        control: where commands come in; the function closes it.
        tap: puts something between the IOP and its queue pair, to look at the traffic.

    Attributes:
        identity: what it is on PCI.
        regions: BAR0.
        soft_iop: the IOP.
        unit: its queue pair.
    """

    def __init__(
        self,
        options: IopOptions,
        disks: Sequence[BlockStore],
        faults: FaultPlan | None,
        *,
        frames: int,
        frame_size: int,
        clock: Clock,
        settle_ns: int = SETTLE_NS,
        control: ControlSocket | None = None,
        tap: Callable[[DeviceUnit], DeviceUnit] = lambda unit: unit,
    ) -> None:
        complaints = Complaints()
        self._frames = FrameMemory(BAR_SIZE)
        self._memory = MasteredMemory()
        self.unit = SettlingUnit(
            self._memory,
            now_ns=clock.monotonic_ns,
            settle_ns=settle_ns,
            frame_count=frames,
            frame_size=frame_size,
            frames=self._frames.view[FRAME_AREA:],
            on_misuse=complaints.add,
        )
        self._message_unit = MessageUnit(
            self.unit, self._frames, size=BAR_SIZE, on_misuse=complaints.add
        )
        self.identity = pci_identity(options.card)
        self.regions: Mapping[int, Region] = {0: self._message_unit}
        self.soft_iop = SoftIop(tap(self.unit), options, disks, faults, complaints=complaints)
        self._control, self._commanded = control, CommandedIop(self.soft_iop, control)

    @classmethod
    def from_options(
        cls,
        options: EmuOptions,
        clock: Clock,
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
            options.iop,
            disks,
            faults,
            frames=options.frames,
            frame_size=options.frame_size,
            clock=clock,
            control=control,
            tap=tap,
        )

    # --- what a `vfio_user.Device` does --------------------------------------------------------

    def connect(self, memory: GuestMemory, interrupts: Interrupts, config: ConfigSpace) -> None:
        """Take the slot's memory, interrupts and configuration space."""
        self._memory.connect(memory, config)
        self._message_unit.connect(interrupts.set_level)

    def run(self, now_ns: int) -> int | None:
        """Serve what has settled and what came in on the control socket; drive the interrupt."""
        has_command = self._commanded.has_command()
        settles = self.unit.settle(now_ns)
        deadline = self._commanded.run(now_ns, has_command=has_command)
        self._message_unit.drive()
        return min((time for time in (deadline, settles) if time is not None), default=None)

    def reset(self) -> None:
        """Do what a reset of the bus does: power is not lost, but everything set up is."""
        self.soft_iop.power_cycle()
        self._message_unit.reset()

    def client_gone(self) -> None:
        """Lose everything that the host had set up: there is no host any more."""
        self.reset()

    def filenos(self) -> tuple[int, ...]:
        """Return the control socket's descriptor, if there is one."""
        return () if self._control is None else (self._control.fileno(),)

    def close(self) -> None:
        """Close disks, control socket and frames."""
        self.soft_iop.close()
        if self._control is not None:
            self._control.close()
        self.regions = {}
        self.unit.close()
        self._frames.close()
