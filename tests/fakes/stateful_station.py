# SPDX-License-Identifier: Apache-2.0
"""One IOP of the stateful test: what is owed on it, what its disks hold, both sides' books."""

from __future__ import annotations

import struct
from collections import Counter, deque
from collections.abc import Callable

from fakes.counting_unit import ENDS, FAIL, CountingUnit
from i2o.bring_up import Limits
from i2o.clock import Clock
from i2o.frames.functions import UNANSWERED, Function
from i2o.frames.tables import IopState
from i2o.iop_emulator.block_store import MemoryDisk
from i2o.iop_emulator.complaints import Complaints
from i2o.iop_emulator.ddm.block import BlockDevice
from i2o.iop_emulator.disk_bay import FIRST_DISK_TID
from i2o.iop_emulator.emu_port import EmuPort
from i2o.iop_emulator.faults import FaultPlan
from i2o.iop_emulator.options import IopOptions
from i2o.iop_emulator.soft_iop import SoftIop
from i2o.message_frames import ReplyFrame
from i2o.message_layer import MessageLayer
from i2o.transport.bus_space import BusSpace
from i2o.transport.host_memory import HostBuffer
from i2o.transport.port import EMPTY

BLOCK = 512
BLOCKS = 64
Done = Callable[[ReplyFrame | None], None]
"""Called with the final reply of a request, None when it can come no more."""
_THROUGH_MEMORY = (Function.EXEC_STATUS_GET, Function.EXEC_IOP_RESET, Function.EXEC_OUTBOUND_INIT)


def pattern(stamp: int, block: int) -> bytes:
    """Return what a block holds after a write; all zero for stamp 0."""
    return struct.pack("<II", stamp, block if stamp else 0) * (BLOCK // 8)


class KeptDisk(MemoryDisk):
    """A disk whose contents outlive the IOP that it is in."""

    def close(self) -> None:
        """Keep the contents."""


class Disk:
    """A disk and what each of its blocks may hold.

    Attributes:
        possible: stamps of the writes that a block may show.
        busy: blocks with a write whose end is not known.
    """

    def __init__(self) -> None:
        self.store = KeptDisk(BLOCK * BLOCKS)
        self.possible: list[set[int]] = [{0} for _ in range(BLOCKS)]
        self.busy: set[int] = set()
        self.readers: list[tuple[int, list[set[int]]]] = []

    def begin_write(self, first: int, count: int, stamp: int) -> bytes:
        """Note a write on its way; return its data."""
        for block in range(first, first + count):
            self.busy.add(block)
            self.possible[block].add(stamp)
            for start, allowed in self.readers:
                if start <= block < start + len(allowed):
                    allowed[block - start].add(stamp)
        return b"".join(pattern(stamp, block) for block in range(first, first + count))

    def end_write(self, first: int, count: int, stamp: int, *, succeeded: bool) -> None:
        """Note that a write can change nothing any more."""
        for block in range(first, first + count):
            self.busy.discard(block)
            if succeeded:
                self.possible[block] = {stamp}

    def begin_read(self, first: int, count: int) -> tuple[int, list[set[int]]]:
        """Note a read on its way; return what it may find."""
        reader = first, [set(self.possible[block]) for block in range(first, first + count)]
        self.readers.append(reader)
        return reader

    def end_read(self, reader: tuple[int, list[set[int]]], data: bytes | None) -> None:
        """Check what a read found; None if it failed."""
        self.readers = [other for other in self.readers if other is not reader]
        if data is None:
            return
        first, allowed = reader
        for index, stamps in enumerate(allowed):
            found = data[index * BLOCK : (index + 1) * BLOCK]
            assert any(found == pattern(stamp, first + index) for stamp in stamps), (
                f"block {first + index} reads as {found[:16].hex()}, not one of {sorted(stamps)}"
            )

    def check(self) -> None:
        """Compare the whole contents."""
        buffer = bytearray(BLOCK * BLOCKS)
        self.store.read_into(0, [memoryview(buffer)])
        self.end_read((0, self.possible), bytes(buffer))


class WatchedComplaints(Complaints):
    """Complaints that remember every access to host memory that the host has freed.

    Attributes:
        stray: those; a frame that says address 0 asks for it.
    """

    def __init__(self) -> None:
        super().__init__()
        self.stray: list[str] = []

    def add(self, sentence: str) -> None:
        if "no host buffer covers" in sentence and "address 0x00000000" not in sentence:
            self.stray.append(sentence)
        super().add(sentence)


class Station:
    """One software IOP, attached to a message layer.

    Args:
        layer: the layer.
        clock: its time.
        disks: its disks at the beginning.
        plan: how it misbehaves.
        frames: inbound frames.
        is_threaded: run it in a thread of its own.
        frame_source: where the layer's request frames come from.
        backlog: replies that may wait.
        reset_ms: how long its resets take.
    """

    def __init__(
        self,
        layer: MessageLayer,
        clock: Clock,
        disks: list[Disk],
        plan: FaultPlan,
        *,
        frames: int,
        is_threaded: bool,
        frame_source: str,
        backlog: int,
        reset_ms: float,
    ) -> None:
        self.layer, self.plan = layer, plan
        self.limits = Limits()  # of a bring-up
        self.memory = BusSpace()
        self.unit = CountingUnit(self.memory, frame_count=frames, frame_size=128)
        options = IopOptions(backlog=backlog, reset_ms=reset_ms)
        self.complaints = WatchedComplaints()
        self.unit.also_tell(self.complaints.add)
        stores = [disk.store for disk in disks]
        self.iop = SoftIop(self.unit, options, stores, plan, complaints=self.complaints)
        self.disks = dict(zip(range(FIRST_DISK_TID, FIRST_DISK_TID + 99), disks, strict=False))
        self.port = EmuPort(self.iop, self.unit, clock=clock, is_threaded=is_threaded)
        self.number = layer.attach(
            self.port,
            bring_up=False,
            frame_source=frame_source,  # type: ignore[arg-type]
        )
        self.entry = layer._iops.entry(self.number)
        self.counters = layer.counters(self.number)
        self.owed: dict[bytes, deque[Done]] = {}
        self.registered: set[bytes] = set()
        self.own: Counter[int] = Counter()  # what OSMs sent of functions without a reply
        self.callbacks = 0
        self.until_reset: list[Callable[[], None]] = []
        self.former: dict[int, Disk] = {}  # disks that had a TID before they were pulled
        self.is_attached = True
        self._dropped_before = 0
        self._last_words: int | None = None  # replies that were told when it crashed

    # --- what is owed --------------------------------------------------------------------------

    def owe(self, key: bytes, done: Done) -> None:
        """Note a request that is answered once."""
        self.owed.setdefault(key, deque()).append(done)

    def forgive(self, key: bytes) -> None:
        """Take the last request with this key back: it was not sent."""
        self.owed[key].pop()
        if not self.owed[key]:
            del self.owed[key]

    def settle(self, key: bytes, reply: ReplyFrame) -> None:
        """Take a final reply; fails if none is owed."""
        waiting = self.owed.get(key)
        assert waiting, f"a second final callback, or one that nobody asked for: {key.hex()}"
        done = waiting.popleft()
        if not waiting:
            del self.owed[key]
        done(reply)

    def disown(self, cookie: bytes) -> None:
        """Note that an OSM is gone: what is owed to it comes to nobody."""
        for key in [key for key in self.owed if key[4:8] == cookie]:
            for done in self.owed.pop(key):
                self.until_reset.append(lambda done=done: done(None))

    @property
    def owed_count(self) -> int:
        return sum(map(len, self.owed.values()))

    # --- checks --------------------------------------------------------------------------------

    def check_quickly(self) -> None:
        """Compare what a step could have spoiled; with a thread, hold the port's lock."""
        unit, entry, counters = self.unit, self.entry, self.counters
        assert not unit.misuse, unit.misuse
        assert not unit.nonsense, unit.nonsense
        assert not self.complaints.stray, self.complaints.stray
        if self.iop.state == IopState.FAULTED:
            assert self._last_words in (None, unit.told), "a FAULTED IOP sends replies"
            self._last_words = unit.told
        else:
            self._last_words = None
        assert not self.in_hand < 0, "more frames than were fetched"
        accounted = (
            unit.idle_inbound() + unit.posted_inbound() + unit.held_by_host() + len(self.iop._stuck)
        )
        lost = self.iop.state == IopState.FAULTED and unit.frame_count - accounted
        assert accounted + lost == unit.frame_count, f"{accounted} of {unit.frame_count} frames"
        assert lost in (0, 1), "a crash takes one frame at most"
        assert unit.reaped == counters.replies + counters.unexpected + counters.malformed
        assert unit.reaped_fails == counters.fails
        assert unit.told == unit.reaped + unit.posted_outbound() + unit.lost_replies
        assert unit.told == self.iop.counters.replies
        assert unit.preserved == self.iop.counters.fails
        if unit.is_in_step and self.is_attached:
            held = sum(mfa != EMPTY for _, mfa in entry.held_requests.values())
            held += unit.fails_on_their_way()
            held += sum(reply[1] & FAIL > 0 for reply in self.iop.replies.backlog)
            for _, _, preserved in entry.held_replies.values():
                held += preserved != EMPTY and preserved not in entry.saved_requests
            # a crash takes FAIL replies along that were not sent yet
            crashed = self.iop.state == IopState.FAULTED
            assert crashed or unit.held_by_host() == held, (unit.held_by_host(), held)
            with_host = sum(mfa != EMPTY for _, mfa, _ in entry.held_replies.values())
            with_iop = unit.idle_outbound() + unit.posted_outbound()
            assert with_iop + with_host == len(entry.reply_frames), (
                f"{with_iop} + {with_host} of {len(entry.reply_frames)} reply frames"
            )

    @property
    def in_hand(self) -> int:
        """Frames that were fetched and went nowhere: a crash or a reset took them."""
        unit = self.unit
        return unit.fetched - unit.recycled - unit.preserved - len(self.iop._stuck)

    def check_fully(self, cookies: set[bytes]) -> None:
        """Compare all counts."""
        self.check_quickly()
        self.check_nothing_vanished()
        unit, iop, counters = self.unit, self.iop, self.counters
        fatal = sum(rule._hits for rule in self.plan.rules if rule.action.name in _FATAL)
        assert self.in_hand == fatal, f"{self.in_hand} frames gone, {fatal} faults took one"
        assert iop.counters.faults == sum(rule._hits for rule in self.plan.rules)
        posted = unit.posted
        total = sum(posted.values())
        assert total == unit.fetched + unit.posted_inbound() + unit.lost_requests
        nops = posted[Function.UTIL_NOP] - self.own[Function.UTIL_NOP]
        assert counters.nops == nops, (counters.nops, nops)
        direct = sum(posted[function] - self.own[function] for function in _THROUGH_MEMORY)
        assert counters.requests == total - nops - direct
        assert self.callbacks == counters.replies + counters.synthesised - counters.unknown_cookie
        outstanding = {
            key: count for key, count in self.entry.outstanding.items() if key[4:8] in cookies
        }
        assert outstanding == {key: len(waiting) for key, waiting in self.owed.items()}

    def was_reset(self) -> None:
        """Note that the IOP has forgotten everything it had to do."""
        waiting, self.until_reset = self.until_reset, []
        for action in waiting:
            action()

    def came_up(self) -> None:
        """Note that the host has brought the IOP up."""
        self.was_reset()
        self.unit.is_in_step = self.iop.state == IopState.OPERATIONAL
        self._dropped_before = self.iop.counters.dropped

    def in_work(self) -> int:
        """Return how many requests the IOP still has to answer."""
        unit, iop = self.unit, self.iop
        scheduler = iop.scheduler
        functions = [unit.read_inbound(mfa, 8)[7] for mfa in unit._inbound_posted]
        functions += [frame[7] for _, frame in iop._stuck]
        functions += [entry[2].function for entry in scheduler.timers]
        functions += [request.function for request, _ in scheduler.jobs]
        functions += [request.function for request in scheduler.parked]
        return sum(function not in _NOT_ANSWERED_ONCE for function in functions)

    def check_nothing_vanished(self) -> None:
        """Find every request that is owed a reply: on its way, in work, or dropped by a fault."""
        unit, iop = self.unit, self.iop
        if not unit.is_in_step or not self.is_attached or iop.state == IopState.FAULTED:
            return
        replies = [self.memory.read(mfa, 8) for mfa in unit._outbound_posted]
        ends = [data[7] for data in (*replies, *iop.replies.backlog) if data[1] & ENDS]
        found = self.in_work() + sum(function not in _NOT_ANSWERED_ONCE for function in ends)
        dropped = iop.counters.dropped - self._dropped_before
        owed = self.entry.outstanding_count
        assert owed <= found + dropped, f"{owed} owed, {found} on their way, {dropped} dropped"

    def check_end(self) -> None:
        """Check what must hold when the IOP was detached."""
        assert not self.owed, f"{self.owed_count} requests got no final callback"
        assert self.memory.buffer_count == 0, f"{self.memory.buffer_count} buffers are left"

    # --- disks ---------------------------------------------------------------------------------

    def tids(self) -> list[int]:
        """Return the TIDs of the disks, among them one that there is not."""
        return [*self.disks, FIRST_DISK_TID + 50]

    def plug(self, disk: Disk) -> None:
        """Add a disk to the running IOP."""
        tid = self.iop.bay.add(disk.store).tid
        assert isinstance(self.iop.lct.devices[tid], BlockDevice)
        assert tid not in self.disks
        self.disks[tid] = disk

    def pull(self, tid: int) -> Disk:
        """Remove a disk."""
        disk = self.disks.pop(tid)
        assert self.iop.bay.remove(tid) is disk.store
        assert not self.iop.scheduler.any(lambda request: request.target == tid)
        return disk

    def allocate(self, data: bytes | int) -> HostBuffer:
        """Return host memory."""
        buffer = self.memory.allocate(data if isinstance(data, int) else len(data))
        if not isinstance(data, int):
            buffer.view[:] = data
        return buffer


_FATAL = ("crash", "reset")
_NOT_ANSWERED_ONCE = UNANSWERED | {Function.UTIL_EVENT_REGISTER}
