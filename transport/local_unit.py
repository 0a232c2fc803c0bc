# SPDX-License-Identifier: Apache-2.0
"""The message unit of an IOP that lives in the same process: four queues and a frame area.

`LocalUnit` is the device half; the host half is the handful of methods that a port of the same
process calls. Both halves may run in different threads: every step is one atomic operation on a
deque or set, the frame is complete before its MFA is queued. Static frames, which are posted more
than once, have a lock.

The unit knows who holds each frame. A driver that posts or releases what it does not hold is told
so through `on_misuse`, and nothing else happens.
"""

from __future__ import annotations

import struct
import threading
from collections import deque
from collections.abc import Callable
from typing import Final

from i2o.errors import DmaFault, LocalFrameError
from i2o.transport.bus_space import BusSpace
from i2o.transport.device_unit import DmaSpace, PostedFrame
from i2o.transport.port import EMPTY

FRAME_AREA: Final = 0x1000
"""Offset of the first inbound frame: the registers' page comes first, as on real cards."""
FRAME_AREA_END: Final = 0x100000
"""MFAs stay below 1 MiB: dpt_i2o loses preserved frames above."""
MIN_FRAME_SIZE: Final = 64
_HEADER_SIZE: Final = 16
_SIZE_OFFSET: Final = 2  # MessageSize, in words, is the upper half of the first word
_new_tuple = tuple.__new__  # half the time of calling the class
_read_size = struct.Struct("<H").unpack_from


class LocalUnit:
    """The FIFOs and inbound frames of one in-process IOP.

    Args:
        memory: the host's buffers.
        frame_count: inbound frames.
        frame_size: bytes of each, a multiple of 4 and at least 64.
        dma: host memory as the device sees it, where that is not `memory`.
        frames: what the frames lie in, at least their size; memory of the unit's own if None.
        on_misuse: called with a sentence whenever the host handles a frame wrongly.
        on_post: called after a request was queued (a doorbell).
        on_reply: called after a reply was queued (an interrupt).
    """

    def __init__(
        self,
        memory: BusSpace,
        *,
        frame_count: int = 128,
        frame_size: int = 512,
        dma: DmaSpace | None = None,
        frames: memoryview | None = None,
        on_misuse: Callable[[str], None] | None = None,
        on_post: Callable[[], None] | None = None,
        on_reply: Callable[[], None] | None = None,
    ) -> None:
        if frame_size < MIN_FRAME_SIZE or frame_size % 4:
            raise LocalFrameError(
                f"inbound frames of {frame_size} bytes: at least {MIN_FRAME_SIZE}, whole words"
            )
        if not 1 <= frame_count <= (FRAME_AREA_END - FRAME_AREA) // frame_size:
            raise LocalFrameError(
                f"{frame_count} frames of {frame_size} bytes do not fit between "
                f"{FRAME_AREA:#x} and {FRAME_AREA_END:#x}"
            )
        self.memory = memory
        self.dma: DmaSpace = memory if dma is None else dma
        self.frame_size, self.frame_count = frame_size, frame_count
        self._on_misuse, self._on_post, self._on_reply = on_misuse, on_post, on_reply
        self._frames = memoryview(bytearray(frame_count * frame_size)) if frames is None else frames
        self._inbound_free: deque[int] = deque()
        self._inbound_posted: deque[int] = deque()
        self._with_host: set[int] = set()
        self._static: dict[int, int] = {}  # how often the host may still post each static frame
        self._static_lock = threading.Lock()
        self._outbound_free: deque[int] = deque()
        self._outbound_posted: deque[int] = deque()
        self._outbound_held: set[int] = set()
        self._starved = False
        self.refill()

    def connect(
        self, *, on_post: Callable[[], None] | None, on_reply: Callable[[], None] | None
    ) -> None:
        """Set who is told of posted requests and replies, in place of the constructor's."""
        self._on_post, self._on_reply = on_post, on_reply

    def close(self) -> None:
        """Let go of the frames: nothing may be read or written any more."""
        self._frames.release()

    # --- host half -----------------------------------------------------------------------------

    def alloc(self) -> int:
        """Pop a free inbound MFA, or EMPTY."""
        if self._starved:
            return EMPTY
        if not self._inbound_free:
            return EMPTY
        mfa = self._inbound_free.popleft()
        self._with_host.add(mfa)
        return mfa

    def write(self, mfa: int, frame: bytes | bytearray | memoryview) -> None:
        """Copy a request into an inbound frame; raises LocalFrameError if it does not fit."""
        start = mfa - FRAME_AREA
        size = len(frame)
        if mfa not in self._with_host or size > self.frame_size:
            self._place(mfa, size)
            raise LocalFrameError(f"MFA {mfa:#010x} is not the host's to write: allocate it first")
        self._frames[start : start + size] = frame

    def read_inbound(self, mfa: int, size: int) -> bytes:
        """Read an inbound frame; raises LocalFrameError for an MFA that is none."""
        start = self._place(mfa, size)
        return bytes(self._frames[start : start + size])

    def post(self, mfa: int) -> None:
        """Queue a request."""
        if mfa in self._with_host:
            self._with_host.remove(mfa)
            self._inbound_posted.append(mfa)
            if self._on_post is not None:
                self._on_post()
        elif not self._post_static(mfa):
            self._misuse(f"MFA {mfa:#010x} was posted to 0x40, but {self._whereabouts(mfa)}")

    def _post_static(self, mfa: int) -> bool:
        """Queue a static frame once more, if it is one and may be posted."""
        with self._static_lock:
            left = self._static.get(mfa, 0)
            if not left:
                return False
            self._static[mfa] = left - 1
            self._inbound_posted.append(mfa)
        if self._on_post is not None:
            self._on_post()
        return True

    def reap(self) -> int:
        """Pop a reply MFA, or EMPTY."""
        if not self._outbound_posted:
            return EMPTY
        mfa = self._outbound_posted.popleft()
        self._outbound_held.discard(mfa)
        return mfa

    def release(self, mfa: int) -> None:
        """Take a free reply frame from the host."""
        if mfa == EMPTY or mfa % 4:
            self._misuse(f"{mfa:#010x} was released to 0x44: a frame address is a word's")
        elif mfa in self._outbound_held:
            self._misuse(f"reply frame {mfa:#010x} was released twice: the IOP holds it")
        else:
            self._outbound_held.add(mfa)
            self._outbound_free.append(mfa)

    @property
    def reply_pending(self) -> bool:
        """Bit 3 of the interrupt status: the outbound post list is not empty."""
        return bool(self._outbound_posted)

    @property
    def request_pending(self) -> bool:
        """The inbound post list is not empty."""
        return bool(self._inbound_posted)

    # --- device half ---------------------------------------------------------------------------

    def fetch(self) -> PostedFrame | None:
        """Pop the next posted request as a private copy, bounded by the frame's size."""
        if not self._inbound_posted:
            return None
        mfa = self._inbound_posted.popleft()
        start = mfa - FRAME_AREA
        frames = self._frames
        size = 4 * _read_size(frames, start + _SIZE_OFFSET)[0]
        if size < _HEADER_SIZE:
            size = _HEADER_SIZE
        elif size > self.frame_size:
            size = self.frame_size
        return _new_tuple(PostedFrame, (mfa, frames[start : start + size].tobytes()))

    def recycle(self, mfa: int) -> None:
        """Put an inbound frame on the free list."""
        self._inbound_free.append(mfa)

    def preserve(self, mfa: int) -> None:
        """Leave the frame with the host."""
        self._with_host.add(mfa)

    def withdraw(self, mfa: int) -> None:
        """Free a preserved frame that the host was never told of."""
        self._with_host.discard(mfa)
        self._inbound_free.append(mfa)

    def make_static(self, mfa: int, frame: bytes, posts: int) -> None:
        """Keep a fetched frame off the free list, with this message in it."""
        start = self._place(mfa, len(frame))
        self._frames[start : start + len(frame)] = frame
        with self._static_lock:
            self._static[mfa] = posts

    def renew_static(self, mfa: int) -> None:
        """Let the host post a static frame once more."""
        with self._static_lock:
            self._static[mfa] += 1

    def end_static(self, mfa: int) -> int:
        """Put a static frame on the free list; return how many posts were not fetched."""
        with self._static_lock:
            del self._static[mfa]
            lost = self._inbound_posted.count(mfa)
            for _ in range(lost):
                self._inbound_posted.remove(mfa)
            self._inbound_free.append(mfa)
        return lost

    def take_reply_frame(self) -> int:
        """Pop a free reply frame, or EMPTY."""
        return self._outbound_free.popleft() if self._outbound_free else EMPTY

    def post_reply(self, mfa: int, data: bytes) -> None:
        """Write a reply to host memory and queue it; raises DmaFault (the frame is dropped)."""
        try:
            self.dma.write(mfa, data)
        except DmaFault:
            self._outbound_held.discard(mfa)
            raise
        self._outbound_posted.append(mfa)
        if self._on_reply is not None:
            self._on_reply()

    def drop_replies(self) -> None:
        """Forget every outbound frame, free and posted."""
        self._outbound_free.clear()
        self._outbound_posted.clear()
        self._outbound_held.clear()

    def refill(self) -> None:
        """Make every inbound frame free again."""
        with self._static_lock:
            self._static.clear()
            self._inbound_posted.clear()
        self._inbound_free.clear()
        self._with_host.clear()
        self._inbound_free.extend(
            FRAME_AREA + index * self.frame_size for index in range(self.frame_count)
        )

    def starve(self, starved: bool) -> None:
        """Make the inbound port read empty, or end that."""
        self._starved = starved

    def idle_inbound(self) -> int:
        """Return how many inbound frames are free."""
        return len(self._inbound_free)

    def idle_outbound(self) -> int:
        """Return how many free reply frames the device holds."""
        return len(self._outbound_free)

    def posted_inbound(self) -> int:
        """Return how many requests wait to be fetched."""
        return len(self._inbound_posted)

    def posted_outbound(self) -> int:
        """Return how many replies the host has not taken yet."""
        return len(self._outbound_posted)

    def held_by_host(self) -> int:
        """Return how many inbound frames the host has allocated and not posted."""
        return len(self._with_host)

    # -------------------------------------------------------------------------------------------

    def _place(self, mfa: int, size: int) -> int:
        start = mfa - FRAME_AREA
        if not 0 <= start < self.frame_count * self.frame_size or start % self.frame_size:
            raise LocalFrameError(f"{mfa:#010x} is no inbound frame of this IOP")
        if not 0 <= size <= self.frame_size:
            raise LocalFrameError(
                f"a frame of {size} bytes does not fit: inbound frames have {self.frame_size}"
            )
        return start

    def _whereabouts(self, mfa: int) -> str:
        """Say where a frame is that the host does not hold."""
        if mfa in self._static:
            return "it is static and was posted as often as it may be: wait for a reply"
        if mfa in self._inbound_free:
            return "it is free: read 0x40 to allocate it first"
        if mfa in self._inbound_posted:
            return "it was posted already"
        try:
            self._place(mfa, 0)
        except LocalFrameError:
            return "it is no inbound frame of this IOP"
        return "the IOP holds it"

    def _misuse(self, sentence: str) -> None:
        if self._on_misuse is not None:
            self._on_misuse(sentence)
