# SPDX-License-Identifier: Apache-2.0
"""The message unit as a host sees it on PCI: registers in the first page, inbound frames behind.

Register offsets and their meaning are those of Intel's i960 RP family. Every access to a FIFO
port has an effect, so one of another width than 32 bits is not carried out; it becomes a
complaint. The frames are plain memory, which a host may map.
"""

from __future__ import annotations

import fcntl
import mmap
import os
from collections import deque
from collections.abc import Callable
from typing import Final

from i2o.transport.bus_space import BusSpace
from i2o.transport.device_unit import DmaSpace, PostedFrame
from i2o.transport.local_unit import FRAME_AREA, LocalUnit

OUTBOUND_STATUS: Final = 0x30
OUTBOUND_MASK: Final = 0x34
INBOUND_PORT: Final = 0x40
OUTBOUND_PORT: Final = 0x44
POST_QUEUE_BIT: Final = 0x08
"""Of 0x30 and 0x34: the outbound post list is not empty."""
_MASK_BITS: Final = 0xFF  # asr takes a mask register that reads as all ones for a dead card
_KEPT: Final = frozenset({0x10, 0x14, 0x18, 0x1C, 0x20, 0x24, 0x28})
"""Message, doorbell and local registers: they keep what is written, and nothing listens."""


class FrameMemory:
    """Memory for registers' page and frames that can be handed to another process.

    Args:
        size: bytes.
    """

    def __init__(self, size: int) -> None:
        self.descriptor = os.memfd_create("i2o-frames", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.ftruncate(self.descriptor, size)
        # the last seal keeps a client from one that would make it read-only for those after it
        seals = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
        fcntl.fcntl(self.descriptor, fcntl.F_ADD_SEALS, seals)
        self._map = mmap.mmap(self.descriptor, size)
        self.view = memoryview(self._map)

    def close(self) -> None:
        """Let go of the memory; the unit must have done so before."""
        self.view.release()
        self._map.close()
        os.close(self.descriptor)


class SettlingUnit(LocalUnit):
    """A queue pair whose requests can be fetched only some time after their post.

    A driver may be lost when a reply is there before the write of its doorbell has returned to
    it: on a card that takes microseconds, here nothing would.

    What has settled is looked at once for each run of the IOP, by `settle`.

    Args:
        dma: the host's memory.
        now_ns: tells the time.
        settle_ns: how long after its post a request is fetched at the earliest.
    """

    def __init__(
        self,
        dma: DmaSpace,
        *,
        now_ns: Callable[[], int],
        settle_ns: int,
        frame_count: int,
        frame_size: int,
        frames: memoryview,
        on_misuse: Callable[[str], None],
    ) -> None:
        self._settle_ns = settle_ns
        self._posted_at: deque[int] = deque()
        self._settled = 0  # of those
        super().__init__(
            BusSpace(),
            dma=dma,
            frame_count=frame_count,
            frame_size=frame_size,
            frames=frames,
            on_misuse=on_misuse,
            on_post=lambda: self._posted_at.append(now_ns()),
        )

    def settle(self, now_ns: int) -> int | None:
        """Let requests be fetched that were posted long enough ago.

        Returns:
            When the next one can be, or None.
        """
        limit = now_ns - self._settle_ns
        posted_at = self._posted_at
        settled = self._settled
        while settled < len(posted_at) and posted_at[settled] <= limit:
            settled += 1
        self._settled = settled
        return posted_at[settled] + self._settle_ns if settled < len(posted_at) else None

    def fetch(self) -> PostedFrame | None:
        """Pop the next request that has settled."""
        if not self._settled:
            return None
        self._settled -= 1
        self._posted_at.popleft()
        return super().fetch()

    def posted_inbound(self) -> int:
        """Return how many requests have settled and wait to be fetched."""
        return self._settled

    def end_static(self, mfa: int) -> int:
        """Put a static frame on the free list; return how many posts were not fetched."""
        places = [place for place, posted in enumerate(self._inbound_posted) if posted == mfa]
        for place in reversed(places):
            del self._posted_at[place]
            self._settled -= place < self._settled
        return super().end_static(mfa)

    def refill(self) -> None:
        """Make every inbound frame free again."""
        self._posted_at.clear()
        self._settled = 0
        super().refill()


class MessageUnit:
    """BAR0: a `vfio_user.Region`.

    Args:
        unit: the queue pair behind the ports.
        memory: what the frames of the unit lie in, at the offsets of the BAR.
        size: bytes of the BAR, a power of two.
        on_misuse: takes sentences about what the host does wrong.
    """

    def __init__(
        self,
        unit: LocalUnit,
        memory: FrameMemory,
        *,
        size: int,
        on_misuse: Callable[[str], None],
    ) -> None:
        self._unit, self._memory, self._on_misuse = unit, memory, on_misuse
        self.size = size
        self.descriptor: int | None = memory.descriptor
        frames = len(memory.view) - FRAME_AREA
        self.mappable: tuple[tuple[int, int], ...] = ((FRAME_AREA, frames),)
        self._mask = 0
        self._kept = dict.fromkeys(_KEPT, 0)
        self._line: Callable[[bool], None] = lambda level: None

    def connect(self, line: Callable[[bool], None]) -> None:
        """Take the interrupt line: called with its level, again and again."""
        self._line = line

    def drive(self) -> None:
        """Give the interrupt line its level: high while a reply is there and not masked."""
        self._line(self._unit.reply_pending and not self._mask & POST_QUEUE_BIT)

    def reset(self) -> None:
        """Unmask, and forget what registers kept. The queues are the IOP's to reset."""
        self._mask = 0
        self._kept = dict.fromkeys(_KEPT, 0)
        self.drive()

    # --- what the host does --------------------------------------------------------------------

    def read(self, offset: int, size: int) -> bytes:
        """Read a register, or frame memory."""
        if offset >= FRAME_AREA:
            return self._memory.view[offset : offset + size].tobytes().ljust(size, b"\0")
        if size != 4 or offset % 4:
            if offset < OUTBOUND_PORT + 4 and offset + size > INBOUND_PORT:
                self._on_misuse(
                    f"{size} bytes were read at {offset:#06x}: ports are read as 32-bit words"
                )
            return self._plain(offset, size)
        return self._read_word(offset).to_bytes(4, "little")

    def write(self, offset: int, data: bytes) -> None:
        """Write a register, or frame memory."""
        if offset >= FRAME_AREA:
            end = min(offset + len(data), len(self._memory.view))
            if offset < end:
                self._memory.view[offset:end] = data[: end - offset]
            return
        if len(data) != 4 or offset % 4:
            self._on_misuse(
                f"{len(data)} bytes were written at {offset:#06x}: registers are written as 32-bit "
                "words"
            )
            return
        self._write_word(offset, int.from_bytes(data, "little"))

    def _read_word(self, offset: int) -> int:
        if offset == INBOUND_PORT:
            return self._unit.alloc()
        if offset == OUTBOUND_PORT:
            mfa = self._unit.reap()
            self.drive()
            return mfa
        return self._peek(offset)

    def _peek(self, offset: int) -> int:
        """Return a register that reading does not change; ports read as empty."""
        if offset == OUTBOUND_STATUS:
            return POST_QUEUE_BIT if self._unit.reply_pending else 0
        if offset == OUTBOUND_MASK:
            return self._mask
        if offset in (INBOUND_PORT, OUTBOUND_PORT):
            return 0xFFFFFFFF
        return self._kept.get(offset, 0)

    def _plain(self, offset: int, size: int) -> bytes:
        """Read part of registers, without touching the ports."""
        first = offset // 4 * 4
        words = b"".join(
            self._peek(place).to_bytes(4, "little") for place in range(first, offset + size, 4)
        )
        return words[offset - first : offset - first + size]

    def _write_word(self, offset: int, value: int) -> None:
        if offset == INBOUND_PORT:
            self._unit.post(value)
        elif offset == OUTBOUND_PORT:
            self._unit.release(value)
        elif offset == OUTBOUND_MASK:
            self._mask = value & _MASK_BITS
            self.drive()
        elif offset in _KEPT:
            self._kept[offset] = value
