# SPDX-License-Identifier: Apache-2.0
"""A software IOP with a bare driver around it: frames go in, replies come out, time is a number."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import NamedTuple

from i2o.frames import executive, params, tables, utility
from i2o.frames.sgl import simple_sgl
from i2o.iop_emulator.block_store import BlockStore, MemoryDisk
from i2o.iop_emulator.complaints import Complaints
from i2o.iop_emulator.faults import FaultPlan
from i2o.iop_emulator.iop_system import IopSystem
from i2o.iop_emulator.options import IopOptions
from i2o.iop_emulator.soft_iop import SoftIop
from i2o.transport.bus_space import BusBuffer, BusSpace
from i2o.transport.local_unit import LocalUnit
from i2o.transport.port import EMPTY

DISK = 0x010


class Reply(NamedTuple):
    """A reply frame, cut at its MessageSize."""

    data: bytes

    @property
    def status(self) -> tuple[int, int]:
        """ReqStatus and DetailedStatusCode."""
        return self.data[19], int.from_bytes(self.data[16:18], "little")

    @property
    def flags(self) -> int:
        return self.data[1]

    @property
    def words(self) -> tuple[int, ...]:
        return struct.unpack(f"<{len(self.data) // 4}I", self.data)


class Block(NamedTuple):
    """One block of a result list."""

    status: int
    error_info: bytes
    data: bytes


class Rig:
    """One IOP, its queue pair, and host memory."""

    def __init__(
        self,
        disks: Sequence[BlockStore] | None = None,
        *,
        options: IopOptions | None = None,
        faults: FaultPlan | None = None,
        frames: int = 16,
        frame_size: int = 512,
        replies: int = 32,
        reply_words: int = 32,
        up: bool = True,
        system: IopSystem | None = None,
    ) -> None:
        self.memory = BusSpace() if system is None else system.memory
        self.complaints = Complaints()
        self.unit = LocalUnit(
            self.memory, frame_count=frames, frame_size=frame_size, on_misuse=self.complaints.add
        )
        stores = [MemoryDisk(1 << 20)] if disks is None else disks
        self.iop = SoftIop(
            self.unit, options, stores, faults, complaints=self.complaints, system=system
        )
        self.now_ns = 0
        self.pool: BusBuffer | None = None
        if up:
            self.bring_up(replies, reply_words)

    def bring_up(self, replies: int = 32, reply_words: int = 32) -> None:
        """OutboundInit, reply frames, SysEnable."""
        assert self.init_outbound(reply_words) == 4
        self.give_replies(replies, 4 * reply_words)
        assert self.call(executive.EXEC_SYS_ENABLE.build()).status == (0, 0)

    def set_system_table(self, iop_id: int, *members: int) -> None:
        """Send SysTabSet: the IOP's own id, and who is in the table."""
        table = tables.SYSTAB_HEADER.build(number_entries=len(members)) + b"".join(
            tables.SYSTAB_IOP_ENTRY.build(iop_id=member) for member in members
        )
        given = self.buffer(table)
        frame = executive.EXEC_SYS_TAB_SET.build(iop_id=iop_id)
        sgl = simple_sgl([(given.bus_address, len(table))], out=True)
        assert self.call(frame + sgl).status == (0, 0)

    def init_outbound(self, words: int = 32, **fields: int) -> int:
        """Send OutboundInit; return the status word."""
        status = self.memory.allocate(4)
        self.post(
            executive.EXEC_OUTBOUND_INIT.build(
                outbound_msg_frame_size=words, message_size=8, **fields
            )
            + simple_sgl([(status.bus_address, 4)], out=False)
        )
        self.run()
        return int.from_bytes(status.view, "little")

    def give_replies(self, count: int, size: int) -> None:
        """Hand in reply frames."""
        self.pool = self.memory.allocate(count * size)
        for index in range(count):
            self.unit.release(self.pool.bus_address + index * size)

    def post(self, frame: bytes, size_words: int | None = None) -> int:
        """Send a frame; by default its MessageSize is made right."""
        mfa = self.unit.alloc()
        assert mfa != EMPTY
        data = bytearray(frame)
        if size_words is None:
            size_words = len(data) // 4
        data[2:4] = size_words.to_bytes(2, "little")
        self.unit.write(mfa, data)
        self.unit.post(mfa)
        return mfa

    def post_raw(self, frame: bytes) -> int:
        """Send a frame as it is."""
        mfa = self.unit.alloc()
        assert mfa != EMPTY
        self.unit.write(mfa, frame)
        self.unit.post(mfa)
        return mfa

    def run(self, budget: int = 64) -> int | None:
        return self.iop.run(budget, self.now_ns)

    def advance(self, ms: float) -> None:
        """Let time pass, and run."""
        self.now_ns += round(ms * 1e6)
        self.run()

    def reap(self) -> Reply | None:
        """Take a reply and give its frame back."""
        mfa = self.unit.reap()
        if mfa == EMPTY:
            return None
        size = 4 * int.from_bytes(self.memory.read(mfa + 2, 2), "little")
        data = self.memory.read(mfa, size)
        self.unit.release(mfa)
        return Reply(data)

    def replies(self) -> list[Reply]:
        """Run, and take every reply there is."""
        found = []
        self.run()
        while (reply := self.reap()) is not None:
            found.append(reply)
        return found

    def call(self, frame: bytes, size_words: int | None = None) -> Reply:
        """Send a frame and return its one reply."""
        self.post(frame, size_words)
        replies = self.replies()
        assert len(replies) == 1, replies
        return replies[0]

    def buffer(self, data: bytes | int) -> BusBuffer:
        """Return host memory."""
        if isinstance(data, int):
            return self.memory.allocate(data)
        buffer = self.memory.allocate(max(1, len(data)))
        buffer.view[: len(data)] = data
        return buffer

    def status_block(self):
        """Send StatusGet; return the record."""
        from i2o.frames.tables import STATUS_BLOCK

        block = self.memory.allocate(88)
        self.post(executive.EXEC_STATUS_GET.build(reply_buffer_address_low=block.bus_address))
        self.run()
        record = STATUS_BLOCK.unpack_from(block.view)
        block.free()
        return record

    @property
    def state(self) -> int:
        return self.status_block().iop_state

    def parameters(
        self, tid: int, operations: bytes, *, size: int = 4096, set_: bool = False, count: int = 1
    ) -> tuple[Reply, list[Block]]:
        """Send an operation list (without its header); return the reply and result blocks."""
        layout = utility.UTIL_PARAMS_SET if set_ else utility.UTIL_PARAMS_GET
        listed = params.PARAM_OPERATION_LIST_HEADER.build(operation_count=count) + operations
        source = self.buffer(listed)
        result = self.buffer(size)
        reply = self.call(
            layout.build(target_address=tid)
            + simple_sgl([(source.bus_address, len(listed))], out=True, last=False)
            + simple_sgl([(result.bus_address, size)], out=False)
        )
        return reply, parse_results(bytes(result.view))

    def account(self) -> int:
        """Return how many inbound frames are accounted for."""
        static = self.iop.executive.static_frames.by_mfa  # wherever their posts are
        on_the_way = [*self.unit._inbound_posted, *(mfa for mfa, _ in self.iop._stuck)]
        return (
            self.unit.idle_inbound()
            + self.unit.held_by_host()
            + len(static)
            + sum(mfa not in static for mfa in on_the_way)
        )


def parse_results(data: bytes) -> list[Block]:
    """Take a result list apart, as far as the buffer goes."""
    (count,) = struct.unpack_from("<H", data)
    blocks, place = [], 4
    for _ in range(count):
        if place + 4 > len(data):
            break
        size, status, info = struct.unpack_from("<HBB", data, place)
        end = place + 4 * size
        split = place + 4 + 4 * info
        blocks.append(Block(status, data[place + 4 : split], data[split:end]))
        place = end
    return blocks
