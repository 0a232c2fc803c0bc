# SPDX-License-Identifier: Apache-2.0
"""A SCSI disk without an IOP around it: a CDB goes in, status, data and sense data come out."""

from __future__ import annotations

from typing import NamedTuple

from i2o.iop_emulator.block_store import BlockStore, MemoryDisk
from i2o.iop_emulator.scsi.command import Command, Outcome
from i2o.iop_emulator.scsi.direct_access import DirectAccessUnit
from i2o.iop_emulator.scsi.inquiry import Identity

SIZE = 512
BLOCKS = 4096


class Done(NamedTuple):
    """What came of a command, and the memory that it had for data."""

    outcome: Outcome
    data: bytes

    @property
    def key(self) -> int:
        return self.outcome.sense[2]

    @property
    def code(self) -> int:
        """Additional sense code and qualifier as one number."""
        return int.from_bytes(self.outcome.sense[12:14], "big")

    @property
    def reason(self) -> tuple[int, int]:
        assert self.outcome.status == 2
        return self.key, self.code

    @property
    def information(self) -> int | None:
        sense = self.outcome.sense
        return int.from_bytes(sense[3:7], "big") if sense[0] & 0x80 else None

    @property
    def field(self) -> tuple[int, int | None, bool]:
        """Byte, bit and whether it is in the CDB, of the field that is wrong."""
        specific = self.outcome.sense[15]
        assert specific & 0x80
        bit = specific & 7 if specific & 8 else None
        return int.from_bytes(self.outcome.sense[16:18], "big"), bit, bool(specific & 0x40)


class Bench:
    """One disk whose first unit attention was taken."""

    def __init__(self, store: BlockStore | None = None, *, lun: int = 0, **options: int) -> None:
        self.store = MemoryDisk(BLOCKS * SIZE, serial="S1") if store is None else store
        identity = Identity("ACME", "DISK", is_removable=self.store.removable)
        self.unit = DirectAccessUnit(identity, self.store, lun=lun, **options)
        self.run(bytes(6))

    def run(
        self,
        cdb: bytes,
        *,
        room: int = 0,
        out: bytes = b"",
        autosense: bool = True,
        pieces: int = 1,
    ) -> Done:
        """Do a command; its memory is in several pieces if asked for."""
        data = memoryview(bytearray(out) if out else bytearray(room))
        step = max(1, -(-len(data) // pieces))
        views = [data[start : start + step] for start in range(0, len(data), step)]
        command = Command(cdb, (), views) if out else Command(cdb, views, ())
        return Done(self.unit.execute(command, autosense=autosense), bytes(data))

    def blocks(self, lba: int, count: int) -> bytes:
        data = bytearray(count * SIZE)
        self.store.read_into(lba * SIZE, [memoryview(data)])
        return bytes(data)


def rw(opcode: int, lba: int, count: int, flags: int = 0) -> bytes:
    """Return the CDB of a command that has a first block and a number of blocks."""
    group = opcode >> 5
    if group == 0:
        return bytes((opcode,)) + lba.to_bytes(3, "big") + bytes((count & 0xFF, 0))
    head = bytes((opcode, flags))
    if group in (1, 2):
        return head + lba.to_bytes(4, "big") + b"\0" + count.to_bytes(2, "big") + b"\0"
    if group == 5:
        return head + lba.to_bytes(4, "big") + count.to_bytes(4, "big") + bytes(2)
    return head + lba.to_bytes(8, "big") + count.to_bytes(4, "big") + bytes(2)


def pattern(count: int, seed: int = 1) -> bytes:
    """Return blocks that differ from one another."""
    return b"".join(bytes(((seed + n) & 0xFF,)) * SIZE for n in range(count))
