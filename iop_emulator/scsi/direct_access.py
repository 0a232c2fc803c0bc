# SPDX-License-Identifier: Apache-2.0
"""A SCSI disk over a `BlockStore`.

A command is checked as a whole before a block moves. What is written is in the store when the
command ends, and durable with FUA, without a write cache, or after SYNCHRONIZE CACHE. UNMAP and
WRITE SAME write zeros or the block: a store has no holes.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NamedTuple

from i2o.frames.scsi_command import (
    MAX_CDB,
    READ_CAPACITY_16_ACTION,
    ScsiOpcode,
    SenseKey,
    VpdPage,
    cdb_size,
)
from i2o.iop_emulator.block_store import BlockStore, cut_views
from i2o.iop_emulator.scsi.command import OVERRUN, Command, Outcome
from i2o.iop_emulator.scsi.inquiry import Identity
from i2o.iop_emulator.scsi.logical_unit import LogicalUnit
from i2o.iop_emulator.scsi.mode_pages import ModePages
from i2o.iop_emulator.scsi.sense import (
    AdditionalSense,
    CheckCondition,
    Sense,
    illegal,
    illegal_parameter,
    of_store,
)

MAX_BLOCKS: Final = 1 << 16
"""Blocks of the largest command: no other command is served meanwhile."""
_OPTIMAL_BLOCKS: Final = 512
MAX_DESCRIPTORS: Final = 64
"""Ranges of one UNMAP."""
_CHUNK: Final = 1 << 20
_LAST_SHORT: Final = 0xFFFF_FFFF
_FUA: Final = 0x08
_DESCRIPTOR: Final = 16
_UNMAP_HEADER: Final = 8
_POWER_CONDITIONS: Final = (0, 1)  # as it is, active


class Extent(NamedTuple):
    """Blocks that a command is about.

    Attributes:
        lba: the first.
        blocks: how many.
        lba_byte: where in the CDB the first stands.
        count_byte: where the number does.
    """

    lba: int
    blocks: int
    lba_byte: int
    count_byte: int


class DirectAccessUnit(LogicalUnit):
    """One disk.

    Args:
        identity: who it says that it is.
        store: its blocks.
        lun: its number, behind its target.
        max_blocks: blocks of the largest command.

    Attributes:
        is_loaded: a medium is in.
        is_prevented: the initiator wants the medium to stay in.
        is_stopped: the initiator has stopped it.
        pages: its mode pages.
    """

    def __init__(
        self, identity: Identity, store: BlockStore, *, lun: int = 0, max_blocks: int = MAX_BLOCKS
    ) -> None:
        super().__init__(identity, serial=store.serial, lun=lun)
        self.store, self.max_blocks = store, max_blocks
        self.pages = ModePages()
        self.is_loaded, self.is_prevented, self.is_stopped = bool(store.size), False, False
        c = ScsiOpcode
        self.commands |= {
            c.MODE_SENSE_6: self._mode_sense,
            c.MODE_SENSE_10: self._mode_sense,
            c.MODE_SELECT_6: self._mode_select,
            c.MODE_SELECT_10: self._mode_select,
            c.START_STOP_UNIT: self._start_stop,
            c.PREVENT_ALLOW_MEDIUM_REMOVAL: self._prevent_allow,
            c.READ_CAPACITY_10: self._read_capacity_10,
            c.SERVICE_ACTION_IN_16: self._service_action_in,
            c.UNMAP: self._unmap,
            **dict.fromkeys((c.READ_6, c.READ_10, c.READ_12, c.READ_16), self._read),
            **dict.fromkeys((c.WRITE_6, c.WRITE_10, c.WRITE_12, c.WRITE_16), self._write),
            **dict.fromkeys(
                (c.WRITE_AND_VERIFY_10, c.WRITE_AND_VERIFY_12, c.WRITE_AND_VERIFY_16),
                self._write_and_verify,
            ),
            **dict.fromkeys((c.VERIFY_10, c.VERIFY_12, c.VERIFY_16), self._verify),
            **dict.fromkeys((c.WRITE_SAME_10, c.WRITE_SAME_16), self._write_same),
            **dict.fromkeys(
                (c.SYNCHRONIZE_CACHE_10, c.SYNCHRONIZE_CACHE_16), self._synchronize_cache
            ),
        }

    # --- what happens to it ----------------------------------------------------------------------

    def reset(self, code: AdditionalSense) -> None:
        """Go back to how it started; a medium that the initiator has ejected is loaded again."""
        super().reset(code)
        self.pages.reset()
        self.is_loaded, self.is_prevented, self.is_stopped = bool(self.store.size), False, False

    def put_in(self, store: BlockStore) -> None:
        """Have other blocks, of another medium or of another size."""
        self.store = store

    def load(self, is_loaded: bool = True) -> None:
        """Load the medium if there is one, or unload it; the initiator is told."""
        before, self.is_loaded = self.is_loaded, is_loaded and bool(self.store.size)
        if self.is_loaded and not before:
            self.attend(AdditionalSense.MEDIUM_MAY_HAVE_CHANGED)

    @property
    def blocks(self) -> int:
        """Blocks of the medium."""
        return self.store.size // self.store.block_size

    def obstacle(self) -> Sense | None:
        """Return why the unit is not ready, None if it is."""
        if not self.is_loaded:
            return Sense(SenseKey.NOT_READY, AdditionalSense.MEDIUM_NOT_PRESENT)
        if self.is_stopped:
            return Sense(
                SenseKey.NOT_READY, AdditionalSense.NOT_READY_INITIALIZING_COMMAND_REQUIRED
            )
        return None

    def vpd_pages(self) -> dict[int, bytes]:
        """Return the vital product data by page, without the page's header."""
        limits = bytearray(0x3C)
        limits[0] = 1  # WSNZ: WRITE SAME of 0 blocks is no request for all of them
        for place, size, value in (
            (4, 4, self.max_blocks),
            (8, 4, min(self.max_blocks, _OPTIMAL_BLOCKS)),
            (16, 4, self.max_blocks),
            (20, 4, MAX_DESCRIPTORS),
            (32, 8, self.max_blocks),
        ):
            limits[place : place + size] = value.to_bytes(size, "big")
        can_unmap = not self.store.read_only
        return {
            **super().vpd_pages(),
            VpdPage.BLOCK_LIMITS: bytes(limits),
            VpdPage.BLOCK_DEVICE_CHARACTERISTICS: bytes(0x3C),
            # LBPU, LBPWS, LBPWS10, LBPRZ; resource provisioned
            VpdPage.LOGICAL_BLOCK_PROVISIONING: bytes((0, 0xE4, 1, 0) if can_unmap else 4),
        }

    # --- the medium ------------------------------------------------------------------------------

    def _read_capacity_10(self, command: Command) -> Outcome:
        self.require_ready()
        if command.number(2, 4) and not command.cdb[8] & 1:
            raise illegal(2)
        last = min(self.blocks - 1, _LAST_SHORT)
        return command.give(last.to_bytes(4, "big") + self.store.block_size.to_bytes(4, "big"), 8)

    def _service_action_in(self, command: Command) -> Outcome:
        if command.cdb[1] & 0x1F != READ_CAPACITY_16_ACTION:
            raise illegal(1, 4)
        self.require_ready()
        data = bytearray(32)
        data[:8] = (self.blocks - 1).to_bytes(8, "big")
        data[8:12] = self.store.block_size.to_bytes(4, "big")
        data[14] = 0 if self.store.read_only else 0xC0  # LBPME, LBPRZ
        return command.give(bytes(data), command.number(10, 4))

    def _start_stop(self, command: Command) -> Outcome:
        """Start or stop; with LOEJ load or eject. Stopping makes everything durable first."""
        if command.cdb[4] >> 4 not in _POWER_CONDITIONS:
            raise illegal(4, 7)
        starts, moves_medium = command.cdb[4] & 1, command.cdb[4] >> 1 & 1
        if command.cdb[4] >> 4:
            starts, moves_medium = 1, 0
        if moves_medium and not self.store.removable:
            raise illegal(4, 1)
        if not starts and self.is_loaded:
            if moves_medium and self.is_prevented:
                raise CheckCondition(
                    Sense(SenseKey.ILLEGAL_REQUEST, AdditionalSense.MEDIUM_REMOVAL_PREVENTED)
                )
            self._flush()
        self.is_stopped = not starts
        if moves_medium:
            self.load(bool(starts))
            self.is_stopped = False
        if starts:
            self.require_ready()
        return Outcome()

    def _prevent_allow(self, command: Command) -> Outcome:
        self.is_prevented = bool(command.cdb[4] & 1)
        return Outcome()

    def _mode_sense(self, command: Command) -> Outcome:
        is_short = command.cdb[0] == ScsiOpcode.MODE_SENSE_6
        data = self.pages.sense(
            command.cdb,
            header_size=4 if is_short else 8,
            blocks=self.blocks,
            block_size=self.store.block_size,
            read_only=self.store.read_only,
        )
        return command.give(data, command.cdb[4] if is_short else command.number(7, 2))

    def _mode_select(self, command: Command) -> Outcome:
        is_short = command.cdb[0] == ScsiOpcode.MODE_SELECT_6
        if command.cdb[1] & 1:
            raise illegal(1, 0)
        count = command.cdb[4] if is_short else command.number(7, 2)
        data = command.take(count)
        if data is None:
            return OVERRUN
        self.pages.select(data, header_size=4 if is_short else 8)
        return Outcome(transferred=count)

    # --- blocks ----------------------------------------------------------------------------------

    def _read(self, command: Command) -> Outcome:
        extent = self._extent(command.cdb)
        wanted = extent.blocks * self.store.block_size
        views = cut_views(command.data_in, wanted)
        room = sum(map(len, views))
        self._move_in(extent, views)
        return Outcome(transferred=room, is_overrun=room < wanted)

    def _move_in(self, extent: Extent, views: list[memoryview], before: int = 0) -> None:
        size = self.store.block_size
        try:
            self.store.read_into(extent.lba * size + before, views)
        except OSError as error:
            raise of_store(error, extent.lba, size, is_write=False, before=before) from error

    def _write(self, command: Command) -> Outcome:
        extent = self._extent(command.cdb, is_write=True)
        size = self.store.block_size
        wanted = extent.blocks * size
        views = cut_views(command.data_out, wanted)
        if sum(map(len, views)) < wanted:
            return OVERRUN
        try:
            self.store.write_from(extent.lba * size, views)
        except OSError as error:
            raise of_store(error, extent.lba, size, is_write=True) from error
        has_fua = cdb_size(command.cdb[0]) > 6 and command.cdb[1] & _FUA
        if has_fua or not self.pages.has_write_cache:
            self._flush()
        return Outcome(transferred=wanted)

    def _write_and_verify(self, command: Command) -> Outcome:
        """Write, make it durable, and read it back; with BYTCHK compare it."""
        compares = self._byte_check(command)
        cdb = bytearray(command.cdb)
        cdb[1] |= _FUA
        outcome = self._write(command._replace(cdb=bytes(cdb)))
        if not outcome.is_overrun:
            given = cut_views(command.data_out, outcome.transferred) if compares else None
            self._check(self._extent(command.cdb), given, outcome.transferred)
        return outcome

    def _verify(self, command: Command) -> Outcome:
        """Read blocks; with BYTCHK compare them with what the initiator gives."""
        compares = self._byte_check(command)
        extent = self._extent(command.cdb)
        wanted = extent.blocks * self.store.block_size if compares else 0
        given = cut_views(command.data_out, wanted)
        if sum(map(len, given)) < wanted:
            return OVERRUN
        self._check(extent, given if compares else None, wanted)
        return Outcome(transferred=wanted)

    def _check(self, extent: Extent, given: list[memoryview] | None, moved: int) -> None:
        """Read blocks and compare them, if there is something to compare them with.

        Args:
            extent: the blocks.
            given: what they should be.
            moved: bytes that the initiator has given, whatever is found.
        """
        size = self.store.block_size
        for place in range(0, extent.blocks * size, _CHUNK):
            stored = bytearray(min(_CHUNK, extent.blocks * size - place))
            try:
                self._move_in(extent, [memoryview(stored)], place)
            except CheckCondition as condition:
                raise CheckCondition(condition.sense, moved) from condition
            if given is None:
                continue
            wanted = b"".join(_slice(given, place, len(stored)))
            if stored != wanted:
                first = next(i for i in range(len(stored)) if stored[i] != wanted[i])
                lba = extent.lba + (place + first) // size
                code = AdditionalSense.MISCOMPARE_DURING_VERIFY
                raise CheckCondition(Sense(SenseKey.MISCOMPARE, code, lba), moved)

    def _byte_check(self, command: Command) -> bool:
        """Whether BYTCHK asks for a comparison; its other values are refused."""
        check = command.cdb[1] >> 1 & 3
        if check > 1:
            raise illegal(1, 2)
        return bool(check)

    def _write_same(self, command: Command) -> Outcome:
        """Write one block to every block of an extent; with UNMAP it must be zero."""
        if command.cdb[1] & 0x10:  # ANCHOR
            raise illegal(1, 4)
        is_empty = command.cdb[0] == ScsiOpcode.WRITE_SAME_16 and command.cdb[1] & 1  # NDOB
        extent = self._extent(command.cdb, is_write=True)
        if not extent.blocks:
            raise illegal(extent.count_byte)
        size = self.store.block_size
        block = bytes(size) if is_empty else command.take(size)
        if block is None:
            return OVERRUN
        self._fill(extent.lba, extent.blocks, block)
        if not self.pages.has_write_cache:
            self._flush()
        return Outcome(transferred=0 if is_empty else size)

    def _unmap(self, command: Command) -> Outcome:
        """Make blocks zero; every range is checked before the first changes."""
        if command.cdb[1] & 1:  # ANCHOR
            raise illegal(1, 0)
        self._require_writable()
        count = command.number(7, 2)
        if not count:
            return Outcome()
        data = command.take(count)
        if data is None:
            return OVERRUN
        if count < _UNMAP_HEADER:
            raise CheckCondition(
                Sense(SenseKey.ILLEGAL_REQUEST, AdditionalSense.PARAMETER_LIST_LENGTH_ERROR)
            )
        size = min(int.from_bytes(data[2:4], "big"), count - _UNMAP_HEADER)
        ranges = [
            (
                int.from_bytes(data[at : at + 8], "big"),
                int.from_bytes(data[at + 8 : at + 12], "big"),
            )
            for at in range(_UNMAP_HEADER, _UNMAP_HEADER + size - _DESCRIPTOR + 1, _DESCRIPTOR)
        ]
        if len(ranges) > MAX_DESCRIPTORS or sum(blocks for _, blocks in ranges) > self.max_blocks:
            raise illegal_parameter(2)
        for lba, blocks in ranges:
            if lba + blocks > self.blocks:
                raise CheckCondition(
                    Sense(SenseKey.ILLEGAL_REQUEST, AdditionalSense.LBA_OUT_OF_RANGE)
                )
        for lba, blocks in ranges:
            self._fill(lba, blocks, bytes(self.store.block_size))
        return Outcome(transferred=count)

    def _fill(self, lba: int, count: int, block: bytes) -> None:
        if not count:
            return
        size = self.store.block_size
        pattern = memoryview(block * min(_CHUNK // size, count))
        total = count * size
        for place in range(0, total, len(pattern)):
            views = [pattern[: total - place]]
            try:
                self.store.write_from(lba * size + place, views)
            except OSError as error:
                failure = of_store(error, lba, size, is_write=True, before=place)
                raise CheckCondition(failure.sense) from error  # no data of the host's were moved

    def _synchronize_cache(self, command: Command) -> Outcome:
        self._extent(command.cdb, is_bounded=False)
        self._flush()
        return Outcome()

    def _flush(self) -> None:
        try:
            self.store.flush()
        except OSError as error:
            raise CheckCondition(
                Sense(SenseKey.MEDIUM_ERROR, AdditionalSense.WRITE_ERROR)
            ) from error

    # --- checks ----------------------------------------------------------------------------------

    def _extent(self, cdb: bytes, *, is_write: bool = False, is_bounded: bool = True) -> Extent:
        """Return the blocks that a command is about, all of which are there.

        Args:
            cdb: the CDB.
            is_write: the blocks are going to be written.
            is_bounded: the command takes longer the more blocks there are.
        """
        if is_write:
            self._require_writable()
        else:
            self.require_ready()
        extent = _parse_extent(cdb)
        if len(cdb) == MAX_CDB and cdb[1] >> 5:  # protection information
            raise illegal(1, 7)
        if extent.lba + extent.blocks > self.blocks:
            raise illegal(extent.lba_byte, code=AdditionalSense.LBA_OUT_OF_RANGE)
        if is_bounded and extent.blocks > self.max_blocks:
            raise illegal(extent.count_byte)
        return extent

    def _require_writable(self) -> None:
        self.require_ready()
        if self.store.read_only:
            raise CheckCondition(Sense(SenseKey.DATA_PROTECT, AdditionalSense.WRITE_PROTECTED))


def _parse_extent(cdb: bytes) -> Extent:
    """Read first block and number of blocks, where a CDB of that size has them."""
    size = cdb_size(cdb[0])
    if size == 6:
        lba = int.from_bytes(cdb[1:4], "big") & 0x1F_FFFF
        return Extent(lba, cdb[4] or 256, 1, 4)
    count_byte, count_end = {10: (7, 9), 12: (6, 10), 16: (10, 14)}[size]
    lba_end = 10 if size == MAX_CDB else 6
    return Extent(
        int.from_bytes(cdb[2:lba_end], "big"),
        int.from_bytes(cdb[count_byte:count_end], "big"),
        2,
        count_byte,
    )


def _slice(views: list[memoryview], start: int, length: int) -> Iterator[memoryview]:
    """Return views of some bytes in the middle of some views."""
    for view in views:
        if start < len(view):
            part = view[start : start + length]
            length -= len(part)
            yield part
        start = max(0, start - len(view))
        if not length:
            return
