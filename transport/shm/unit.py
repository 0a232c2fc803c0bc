# SPDX-License-Identifier: Apache-2.0
"""The device's end of a queue pair whose host is in another process: a `DeviceUnit`.

The unit outlives its hosts: one after another is connected to it. Without one nothing is posted,
and host memory cannot be reached. Nothing that a host tells is believed: what makes no sense is
told as misuse, and nothing else happens.
"""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Callable, Iterable
from functools import partial
from typing import Final

from i2o.errors import DmaFault, RemoteFrameError
from i2o.transport.arena_space import ArenaSpace
from i2o.transport.device_unit import DmaSpace, PostedFrame
from i2o.transport.port import EMPTY
from i2o.transport.shm.channel import Channel, PeerGone
from i2o.transport.shm.records import PACKET, RECORD, Word
from i2o.transport.shm.segment import Segment, Shape

_HEADER_SIZE: Final = 16
_RECORD_SIZE: Final = RECORD.size
_records_of, _pack_record = RECORD.iter_unpack, RECORD.pack
_words_at: Final = struct.Struct("<H").unpack_from
_posted_frame: Final = partial(tuple.__new__, PostedFrame)  # as its own constructor, but faster
_MOST_OUTBOX: Final = 16 * PACKET  # a host that does not listen is not listened to
MOST_REPLY_FRAMES: Final = 1 << 16
_POST, _RELEASE = int(Word.POST), int(Word.RELEASE)
_FREE, _REPLY = int(Word.FREE), int(Word.REPLY)
_NO_HOST: Final = "no host is connected"


class HostReach:
    """The memory of whichever host is connected: a `DmaSpace`."""

    def __init__(self) -> None:
        self.space: ArenaSpace | None = None

    def read(self, address: int, length: int) -> bytes:
        """Copy bytes out; raises DmaFault."""
        return self._of(address, length).read(address, length)

    def write(self, address: int, data: bytes | bytearray | memoryview) -> None:
        """Copy bytes in; raises DmaFault."""
        self._of(address, len(data)).write(address, data)

    def windows(
        self, fragments: Iterable[tuple[int, int]], *, writable: bool
    ) -> list[memoryview] | None:
        """Return direct views; raises DmaFault."""
        pieces = tuple(fragments)
        return self._of(*next(iter(pieces), (0, 0))).windows(pieces, writable=writable)

    def _of(self, address: int, length: int) -> ArenaSpace:
        if self.space is None:
            raise DmaFault(address, length, _NO_HOST)
        return self.space


class ShmUnit:
    """The FIFOs of an IOP, as the process that it runs in sees them.

    Args:
        shape: frames, and the memory for hosts.
        on_misuse: called with a sentence when the host handles a frame wrongly.

    Attributes:
        shape: as given.
        frame_count: inbound frames.
        frame_size: bytes of each.
        dma: the memory of the host that is connected.
        posted: MFAs that wait to be fetched, for others to look whether there are any.
        must_power_cycle: the host asked for a power cycle; see `take_power_cycle`.
    """

    def __init__(self, shape: Shape, *, on_misuse: Callable[[str], None]) -> None:
        self.shape, self._on_misuse = shape, on_misuse
        self.frame_count, self.frame_size = shape.frame_count, shape.frame_size
        self._reach = HostReach()
        self.dma: DmaSpace = self._reach
        self._memory = memoryview(bytearray(0))
        self._mfas = range(0)
        self._channel: Channel | None = None
        self._segment: Segment | None = None
        self.posted: deque[int] = deque()
        self._with_host: set[int] = set()
        self._static: dict[int, int] = {}  # how often each static frame may still be posted
        self._reply_frames: deque[int] = deque()
        self._idle_replies: set[int] = set()
        self._outbox = bytearray()
        self._generation = 0
        self.must_power_cycle = False

    # --- hosts -----------------------------------------------------------------------------------

    def connect(self, channel: Channel, segment: Segment) -> None:
        """Take the next host, which learns what is free.

        Args:
            channel: what leads to it; the unit's to close from now on.
            segment: the memory shared with it, as the unit's shape says; the unit's, too.
        """
        self._channel, self._segment = channel, segment
        self._memory, self._mfas = segment.memory, segment.mfas()
        self._reach.space = ArenaSpace(segment.arena)
        self.must_power_cycle = False
        self.refill()

    def disconnect(self) -> None:
        """Let go of the host and of what was shared with it; a second call does nothing.

        The IOP is to be reset before: it may be writing to that memory.
        """
        channel, self._channel = self._channel, None
        segment, self._segment = self._segment, None
        space, self._reach.space = self._reach.space, None
        self._memory, self._mfas = memoryview(bytearray(0)), range(0)
        self.posted.clear()
        self._static.clear()
        self._with_host.clear()
        self._reply_frames.clear()
        self._idle_replies.clear()
        self._outbox.clear()
        if channel is not None:
            channel.close()
        if space is not None:
            space.close()
        if segment is not None:
            segment.close()

    # --- what `DeviceUnit` asks for --------------------------------------------------------------

    def fetch(self) -> PostedFrame | None:
        """Pop the next posted request as a private copy, bounded by the frame's size."""
        if not self.posted:
            return None
        mfa = self.posted.popleft()
        memory = self._memory
        size = 4 * _words_at(memory, mfa + 2)[0]
        if size < _HEADER_SIZE:
            size = _HEADER_SIZE
        elif size > self.frame_size:
            size = self.frame_size
        frame: PostedFrame = _posted_frame((mfa, memory[mfa : mfa + size].tobytes()))
        return frame

    def recycle(self, mfa: int) -> None:
        """Put an inbound frame on the free list."""
        self._with_host.add(mfa)
        self._outbox += _pack_record(_FREE, mfa, 0)

    def preserve(self, mfa: int) -> None:
        """Leave the frame with the host."""
        self._with_host.add(mfa)
        self._tell(Word.PRESERVE, mfa)

    def withdraw(self, mfa: int) -> None:
        """Free a preserved frame that the host was never told of."""
        self._tell(Word.FREE, mfa)

    def make_static(self, mfa: int, frame: bytes, posts: int) -> None:
        """Keep a fetched frame off the free list, with this message in it."""
        self._memory[mfa : mfa + len(frame)] = frame
        self._static[mfa] = posts
        self._tell(Word.STATIC, mfa, posts)

    def renew_static(self, mfa: int) -> None:
        """Let the host post a static frame once more."""
        self._static[mfa] += 1
        self._tell(Word.RENEW, mfa)

    def end_static(self, mfa: int) -> int:
        """Put a static frame on the free list; return how many posts were not fetched."""
        if self._static.pop(mfa, None) is None:
            return 0  # it went with its host
        lost = self.posted.count(mfa)
        for _ in range(lost):
            self.posted.remove(mfa)
        self.recycle(mfa)
        return lost

    def take_reply_frame(self) -> int:
        """Pop a free reply frame, or EMPTY."""
        if not self._reply_frames:
            return EMPTY
        mfa = self._reply_frames.popleft()
        self._idle_replies.discard(mfa)
        return mfa

    def post_reply(self, mfa: int, data: bytes) -> None:
        """Write a reply to host memory and queue it; raises DmaFault (the frame is dropped)."""
        space = self._reach.space
        if space is None:
            raise DmaFault(mfa, len(data), _NO_HOST)
        space.write(mfa, data)
        self._outbox += _pack_record(_REPLY, mfa, 0)

    def drop_replies(self) -> None:
        """Forget every outbound frame, free and posted; the host knows before anything else."""
        self._reply_frames.clear()
        self._idle_replies.clear()
        self._tell(Word.DROP)
        self.flush()

    def refill(self) -> None:
        """Make every inbound frame free again; the host knows before anything else."""
        self.posted.clear()
        self._static.clear()
        self._with_host.clear()
        self._with_host.update(self._mfas)
        self._generation = self._generation + 1 & 0xFFFFFFFF
        self._tell(Word.REFILL, self._generation)
        self.flush()

    def starve(self, starved: bool) -> None:
        """Make the inbound port read empty, or end that."""
        self._tell(Word.STARVE, int(starved))
        self.flush()

    def idle_inbound(self) -> int:
        """Return how many inbound frames are free, as far as the device can tell."""
        return len(self._with_host)

    def posted_inbound(self) -> int:
        """Return how many requests wait to be fetched."""
        return len(self.posted)

    def idle_outbound(self) -> int:
        """Return how many free reply frames the device holds."""
        return len(self._reply_frames)

    def posted_outbound(self) -> int:
        """Return 0: replies that were told to the host are its own."""
        return 0

    # --- for whoever serves it -------------------------------------------------------------------

    @property
    def has_outbox(self) -> bool:
        """Whether something could not be told yet."""
        return bool(self._outbox)

    def take_power_cycle(self) -> bool:
        """Return whether the host asked for a power cycle since the last call."""
        asked, self.must_power_cycle = self.must_power_cycle, False
        return asked

    def flush(self) -> bool:
        """Tell the host what there is to tell, as far as there is room; return whether all is told.

        A host that is gone is told nothing; `drain` notices that.
        """
        outbox, channel = self._outbox, self._channel
        if channel is None:
            outbox.clear()
            return True
        try:
            while outbox:
                if len(outbox) <= PACKET:
                    if not channel.send(bytes(outbox)):
                        return False
                    outbox.clear()
                    return True
                if not channel.send(bytes(outbox[:PACKET])):
                    return False
                del outbox[:PACKET]
        except PeerGone:
            outbox.clear()
        return True

    def drain(self) -> bool:
        """Take in what the host has told; return whether more may be there.

        Raises:
            PeerGone: the host is gone, or does not keep to the rules.
        """
        channel = self._channel
        if channel is None:
            return False
        if len(self._outbox) > _MOST_OUTBOX:
            return False
        taken = channel.take(_RECORD_SIZE)
        if taken is None:
            return False
        with_host, generation = self._with_host, self._generation
        for word, value, more in _records_of(taken):
            if word == _POST and more == generation and value in with_host:
                with_host.remove(value)
                self.posted.append(value)
            elif word == _RELEASE:
                self._take_reply_frame(value)
            else:
                self._take(word, value, more)
        return len(taken) > channel.room

    def _take(self, word: int, value: int, more: int) -> None:
        if word == _POST:
            if more == self._generation:  # or it was posted before the host knew of a reset
                self._on_misuse(f"MFA {value:#010x} was posted, but the host does not hold it")
        elif word == Word.POST_STATIC:
            self._take_static_post(value, more)
        elif word == Word.COVER or word == Word.UNCOVER:
            self._take_buffer(word == Word.COVER, value, more)
        elif word == Word.POWER_CYCLE:
            self.must_power_cycle = True
        else:
            self._on_misuse(f"the host sent record {word}, which means nothing")

    def _take_reply_frame(self, mfa: int) -> None:
        if mfa in self._idle_replies:
            self._on_misuse(f"reply frame {mfa:#010x} was released twice: the IOP holds it")
        elif len(self._reply_frames) >= MOST_REPLY_FRAMES:
            self._on_misuse(f"reply frame {mfa:#010x} was released: the IOP holds too many")
        else:
            self._idle_replies.add(mfa)
            self._reply_frames.append(mfa)

    def _take_static_post(self, mfa: int, generation: int) -> None:
        if generation != self._generation:
            return
        left = self._static.get(mfa, 0)
        if left:
            self._static[mfa] = left - 1
            self.posted.append(mfa)
        else:
            self._on_misuse(f"MFA {mfa:#010x} was posted, but is no static frame any more")

    def _take_buffer(self, is_cover: bool, address: int, length: int) -> None:
        space = self._reach.space
        if space is None:
            return
        try:
            if is_cover:
                space.cover(address, length)
            else:
                space.uncover(address)
        except RemoteFrameError as error:
            self._on_misuse(str(error))

    def _tell(self, word: int, value: int = 0, more: int = 0) -> None:
        self._outbox += _pack_record(word, value, more)
