# SPDX-License-Identifier: Apache-2.0
"""The other IOP of a system, with a host that makes no mistakes but may change its mind."""

from __future__ import annotations

import random
from collections import Counter

from fakes.host_arena import WatchedDma
from fakes.iop_rig import Rig
from fakes.random_plugging import FaultyDisk, Plugging
from fakes.valid_frames import DISK_SIZE, FAR, LARGE_SIZE, NEAR
from i2o.frames import executive, tables, utility
from i2o.frames.functions import UNANSWERED, Function
from i2o.frames.header import FAILURE_REPLY, MsgFlags
from i2o.frames.sgl import simple_sgl
from i2o.frames.tables import IopState
from i2o.iop_emulator.block_store import BlockStore, MemoryDisk
from i2o.iop_emulator.iop_system import IopSystem
from i2o.iop_emulator.options import IopOptions
from i2o.transport.port import EMPTY

FRAMES, REPLIES = 16, 32
SILENT = UNANSWERED | {Function.UTIL_EVENT_REGISTER}
"""Functions that are not answered once."""
_SIZE = 128
_NOP = utility.UTIL_NOP.build()


class FarIop:
    """The IOP and its host.

    Args:
        system: what it shares with the other one.
        dma: its way to host memory.

    Attributes:
        status: where OutboundInit answers.
    """

    def __init__(self, system: IopSystem, dma: WatchedDma) -> None:
        self.rig = Rig(
            _disks(), options=IopOptions(iop_id=FAR), frames=FRAMES, up=False, system=system
        )
        self.iop, self.unit = self.rig.iop, self.rig.unit
        self.iop.dma = dma
        self.plugging = Plugging(self.iop.bay, _disks)
        memory = system.memory
        self.status = memory.allocate(4)
        self._pool = memory.allocate(REPLIES * _SIZE)
        self._asked: Counter[bytes] = Counter()
        self._tables = []
        for members in ((NEAR, FAR), (FAR,)):
            listed = b"".join(tables.SYSTAB_IOP_ENTRY.build(iop_id=one) for one in members)
            data = tables.SYSTAB_HEADER.build(number_entries=len(members)) + listed
            self._tables.append((memory.allocate(len(data)), len(data)))
            self._tables[-1][0].view[:] = data

    def come_up(self) -> None:
        """Power-cycle the IOP, put its own disks in, and bring it up."""
        self._asked.clear()
        self.plugging.restore(self.iop.power_cycle)
        init = executive.EXEC_OUTBOUND_INIT.build(outbound_msg_frame_size=_SIZE // 4)
        self.send(init + simple_sgl([(self.status.bus_address, 4)], out=False))
        for index in range(REPLIES):
            self.unit.release(self._pool.bus_address + _SIZE * index)
        self._name(0)
        self.send(executive.EXEC_SYS_ENABLE.build())

    def _name(self, which: int) -> None:
        """Tell it of the other IOP, or of itself alone."""
        buffer, size = self._tables[which]
        frame = executive.EXEC_SYS_TAB_SET.build(iop_id=FAR)
        self.send(frame + simple_sgl([(buffer.bus_address, size)], out=True))

    def send(self, frame: bytes) -> None:
        """Send a frame, if one is free, and take what is answered."""
        mfa = self.unit.alloc()
        if mfa == EMPTY:
            return
        data = bytearray(frame)
        data[2:4] = (len(data) // 4).to_bytes(2, "little")
        if data[7] != Function.UTIL_NOP:
            self._asked[bytes(data[4:16])] += 1
        self.unit.write(mfa, data)
        self.unit.post(mfa)
        self.work()

    def work(self) -> None:
        """Let the IOP work, and check its replies."""
        self.iop.run(8, self.rig.now_ns)
        memory = self.rig.memory
        while (mfa := self.unit.reap()) != EMPTY:
            size = 4 * int.from_bytes(memory.read(mfa + 2, 2), "little")
            self._take(memory.read(mfa, min(size, _SIZE)))
            self.unit.release(mfa)

    def _take(self, reply: bytes) -> None:
        key = reply[4:16]
        if reply[1] & MsgFlags.FAIL:
            preserved = FAILURE_REPLY.unpack_from(reply).preserved_mfa_low
            key = self.unit.read_inbound(preserved, 16)[4:16]
            self.unit.write(preserved, _NOP)
            self.unit.post(preserved)
        elif reply[7] == Function.UTIL_EVENT_REGISTER:
            return
        assert self._asked[key], f"the other host gets what it did not ask for: {reply.hex()}"
        self._asked[key] -= bool(reply[1] & MsgFlags.LAST)

    def trouble(self, rng: random.Random) -> None:
        """Let the IOP end, or come back if it has ended."""
        if self.iop.state != IopState.OPERATIONAL:
            self.come_up()
            return
        what = rng.randrange(8)
        if what == 0:
            self.iop.fail()
        elif what == 1:
            self.iop.crash()
        elif what == 2:
            self.iop.power_cycle()
        elif what == 3:
            self.send(executive.EXEC_IOP_CLEAR.build())
        elif what == 4:
            self.send(executive.EXEC_SYS_QUIESCE.build())
        elif what == 5:
            self._name(1)
        else:
            self.come_up()
        self.work()

    def owed(self) -> int:
        """Return how many replies its host waits for; none once the IOP has ended."""
        return sum(count for key, count in self._asked.items() if key[3] not in SILENT)


def _disks() -> list[BlockStore]:
    return [
        MemoryDisk(LARGE_SIZE),
        MemoryDisk(DISK_SIZE, removable=True),
        FaultyDisk(DISK_SIZE),
    ]
