# SPDX-License-Identifier: Apache-2.0
"""The disks of an IOP, and what somebody who stands in front of it can do to them while it runs.

A change is there at once. Then whoever waits for it is told: by LctNotify, by events of the
executive, by events of the disk. An IOP in FAILED or FAULTED tells nobody.
"""

from __future__ import annotations

from typing import Final

from i2o.errors import I2OError
from i2o.frames.block_storage import BsaEvent
from i2o.frames.executive import ExecutiveEvent
from i2o.frames.header import ReqStatus
from i2o.frames.tables import IopState
from i2o.iop_emulator.bad_blocks import BadBlocks, FlawedDisk
from i2o.iop_emulator.block_store import BlockStore, NoMedium
from i2o.iop_emulator.cards import DiskKind
from i2o.iop_emulator.ddm.base import Ddm
from i2o.iop_emulator.ddm.block import BlockDevice
from i2o.iop_emulator.ddm.bus_adapter import IDS, BusAdapter
from i2o.iop_emulator.ddm.disk import Disk
from i2o.iop_emulator.ddm.scsi import ScsiPeripheral
from i2o.iop_emulator.iop_control import ExecutiveServices, IopControl
from i2o.iop_emulator.lct import BUILT_IN_DDM

FIRST_PORT_TID: Final = 0x00A
FIRST_DISK_TID: Final = 0x010
MAX_DISKS: Final = 1024


class DiskBayError(I2OError):
    """Something that cannot be done to a disk as it is."""


class NoSuchDisk(DiskBayError, KeyError):
    """No disk has that TID."""

    def __init__(self, tid: int) -> None:
        super().__init__(tid)
        self.tid = tid

    def __str__(self) -> str:
        return f"no disk has TID {self.tid:#05x}"


class DiskBay:
    """The disks.

    Args:
        iop: the IOP.
        executive: its executive.
    """

    def __init__(self, iop: IopControl, executive: ExecutiveServices) -> None:
        self._iop, self._executive = iop, executive
        self._ports: list[BusAdapter] = []

    @property
    def devices(self) -> dict[int, Disk]:
        """Every disk by TID, in order; also those whose DDM was destroyed."""
        lct = self._iop.lct
        known = sorted({**lct.devices, **lct.retired}.items())
        return {tid: device for tid, device in known if isinstance(device, Disk)}

    def disk(self, tid: int) -> Disk:
        """Return the disk at a TID; raises NoSuchDisk."""
        lct = self._iop.lct
        device = lct.devices.get(tid) or lct.retired.get(tid)
        if not isinstance(device, Disk):
            raise NoSuchDisk(tid)
        return device

    def close(self) -> None:
        """Close the blocks of every disk."""
        for device in self.devices.values():
            device.store.close()

    # --- disks ---------------------------------------------------------------------------------

    def fit(self, store: BlockStore, kind: DiskKind | None = None) -> Disk:
        """Make a disk that is there from the start; nobody is told.

        Args:
            store: its blocks.
            kind: its class; that of the card's disks if None.

        Raises:
            DiskBayError: there are `MAX_DISKS` already.
        """
        self.require_room()
        iop = self._iop
        if (kind or iop.card.disk_kind) == "scsi":
            device: Disk = self._fit_scsi(store)
        else:
            device = BlockDevice(
                iop,
                iop.lct.free_tid(FIRST_DISK_TID),
                store,
                parent_tid=BUILT_IN_DDM,
                organization_id=iop.options.organization_id,
            )
        iop.lct.add(device)
        return device

    def _fit_scsi(self, store: BlockStore) -> ScsiPeripheral:
        """Make a SCSI disk at the first free address of the first bus that has one."""
        iop = self._iop
        port, scsi_id = self._free_place()
        device = ScsiPeripheral(
            iop,
            iop.lct.free_tid(FIRST_DISK_TID),
            store,
            port=port,
            scsi_id=scsi_id,
            organization_id=iop.options.organization_id,
        )
        port.peripherals[scsi_id] = device
        return device

    def _free_place(self) -> tuple[BusAdapter, int]:
        """Return a bus and an address on it; a new bus if the others are full."""
        for port in self._ports:
            scsi_id = port.free_id
            if scsi_id is not None:
                return port, scsi_id
        iop = self._iop
        port = BusAdapter(
            iop,
            iop.lct.free_tid(FIRST_PORT_TID),
            len(self._ports),
            parent_tid=BUILT_IN_DDM,
            organization_id=iop.options.organization_id,
        )
        self._ports.append(port)
        iop.lct.add(port)
        if iop.card.has_dpt_messages:  # where asr looks for the number of a port's bus
            self._executive.fit_adapter(port.number << 16 | port.tid)
        return port, IDS[0]

    def require_room(self) -> None:
        """Check that there is room for one more disk; raises DiskBayError."""
        if len(self.devices) >= MAX_DISKS:
            raise DiskBayError(f"an IOP has at most {MAX_DISKS} disks")

    def add(self, store: BlockStore, kind: DiskKind | None = None) -> Disk:
        """Plug a disk in; see `fit`.

        Raises:
            DiskBayError: there is no room for it.
        """
        ports = len(self._ports)
        device = self.fit(store, kind)
        indicator = self._iop.lct.changed()
        for new in (*self._ports[ports:], device):
            new.change_indicator = indicator
            self._tell_lct_change(ExecutiveEvent.NEW_LCT_ENTRY, new)
        return device

    def remove(self, tid: int) -> BlockStore:
        """Pull a disk out: what it has going on is answered as aborted.

        Returns:
            Its blocks, which are the caller's to close.

        Raises:
            NoSuchDisk: no disk has that TID.
        """
        device = self.disk(tid)
        if self._is_talking:
            device.abort_requests(
                lambda request: request.target == tid, ReqStatus.PROCESS_ABORT_NO_DATA_TRANSFER
            )
        self._iop.events.forget(tid)
        if isinstance(device, ScsiPeripheral):
            del device.port.peripherals[device.scsi_id]
        self._iop.lct.remove(tid)
        self._iop.lct.changed()
        self._tell_lct_change(ExecutiveEvent.MODIFIED_LCT, device)
        return device.store

    def resize(self, tid: int, size: int) -> None:
        """Give a disk another size.

        Args:
            tid: its TID.
            size: bytes. An image grows with its disk, and keeps its length when the disk shrinks.

        Raises:
            DiskBayError: no such disk, no medium, or no whole number of blocks.
            OSError: the image cannot grow.
        """
        device = self.disk(tid)
        store = self._medium(device)
        if size < store.block_size or size % store.block_size:
            raise DiskBayError(
                f"{size} bytes are no whole number of blocks of {store.block_size}, at least one"
            )
        if size == store.size:
            return
        store.resize(size)
        device.put_in(store)
        device.resized()
        device.change_indicator = self._iop.lct.changed()
        self._tell(device, BsaEvent.CAPACITY_CHANGE)
        self._tell_lct_change(ExecutiveEvent.MODIFIED_LCT, device)

    # --- media ---------------------------------------------------------------------------------

    def require_drive(self, tid: int) -> Disk:
        """Return a drive that a medium can be put into; raises DiskBayError if it takes none."""
        device = self._removable(tid)
        self._ask_for_medium(device)
        return device

    def insert(self, tid: int, store: BlockStore) -> BlockStore:
        """Put a medium into a drive, in place of the one that is there.

        A host that is told of it, because it registered for VOLUME_LOAD, must take note before it
        reads or writes again: acknowledge the event, or mount the medium.

        Returns:
            What was in the drive, which is the caller's to close.

        Raises:
            DiskBayError: no such disk, it is not removable, or the host has locked the medium in.
        """
        device = self.require_drive(tid)
        before = device.store
        self._unload(device)
        device.put_in(store)
        device.load()
        device.require_note(self._tell(device, BsaEvent.VOLUME_LOAD) > 0)
        return before

    def eject(self, tid: int, *, is_forced: bool = False) -> BlockStore:
        """Take the medium out of a drive, without asking the host.

        Args:
            tid: TID of the drive.
            is_forced: also if the host has locked it in. Otherwise the host is asked for it then.

        Returns:
            The medium, which is the caller's to close.

        Raises:
            DiskBayError: no such disk, it is not removable, it is empty, or the host has locked
                the medium in.
        """
        device = self._removable(tid)
        medium = self._medium(device)
        if not is_forced:
            self._ask_for_medium(device)
        device.unlock()
        self._unload(device)
        device.put_in(NoMedium(medium.block_size, device.serial))
        device.require_note(False)
        return medium

    # --- bad blocks ----------------------------------------------------------------------------

    def bad_blocks(self, tid: int) -> BadBlocks:
        """Return which blocks of the medium are bad; changing that changes the medium.

        Raises:
            DiskBayError: no such disk, or no medium.
        """
        device = self.disk(tid)
        store = self._medium(device)
        if not isinstance(store, FlawedDisk):
            store = FlawedDisk(store)
            device.put_in(store)
        return store.bad

    def spoil(self, tid: int, first: int, last: int) -> None:
        """Make blocks bad.

        Raises:
            DiskBayError: no such disk, no medium, or it has no such blocks.
            LocalFrameError: it would have too many ranges of bad blocks.
        """
        self._check_blocks(tid, first, last)
        self.bad_blocks(tid).add(first, last)

    def mend(self, tid: int, first: int, last: int) -> None:
        """Make blocks good; raises like `spoil`."""
        self._check_blocks(tid, first, last)
        self.bad_blocks(tid).remove(first, last)

    def _check_blocks(self, tid: int, first: int, last: int) -> None:
        store = self._medium(self.disk(tid))
        count = store.size // store.block_size
        if not 0 <= first <= last < count:
            raise DiskBayError(
                f"blocks {first} to {last} are not on TID {tid:#05x}, whose blocks are 0 to "
                f"{count - 1}"
            )

    # --- inside --------------------------------------------------------------------------------

    def _removable(self, tid: int) -> Disk:
        device = self.disk(tid)
        if not device.is_removable:
            raise DiskBayError(
                f"the medium of TID {tid:#05x} cannot be taken out: only that of a disk with "
                "`removable`"
            )
        return device

    @staticmethod
    def _medium(device: Disk) -> BlockStore:
        if not device.store.size:
            raise DiskBayError(f"TID {device.tid:#05x} has no medium: insert one")
        return device.store

    def _ask_for_medium(self, device: Disk) -> None:
        """Tell the host that somebody wants the medium; raises DiskBayError if it is locked in."""
        if device.is_locked:
            device.ask_for_medium()
            self._tell(device, BsaEvent.VOLUME_UNLOAD_REQUEST)
            raise DiskBayError(
                f"the host has locked the medium of TID {device.tid:#05x} in, and was told that "
                "somebody wants it (`eject` can be forced)"
            )

    def _unload(self, device: Disk) -> None:
        if device.is_loaded:
            device.load(False)
            self._tell(device, BsaEvent.VOLUME_UNLOAD)

    @property
    def _is_talking(self) -> bool:
        return self._iop.state not in (IopState.FAILED, IopState.FAULTED)

    def _tell(self, device: Ddm, event: BsaEvent) -> int:
        return self._iop.events.post(device.tid, event, b"") if self._is_talking else 0

    def _tell_lct_change(self, event: ExecutiveEvent, device: Ddm) -> None:
        if self._is_talking:
            self._executive.tell_lct_change(event, device)
