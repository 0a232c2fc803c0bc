# SPDX-License-Identifier: Apache-2.0
"""The device's end of a queue pair whose host is in another process: a `DeviceUnit`.

The unit outlives its hosts: one after another is connected to it. Without one nothing is posted,
and host memory cannot be reached. Nothing that a host tells is believed: what makes no sense is
told as misuse, and nothing else happens.
"""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Callable, Iterable
from typing import Any, Final

from i2o.errors import DmaFault, RemoteFrameError
from i2o.transport.arena_space import ARENA_BASE, ArenaSpace
from i2o.transport.device_unit import DmaSpace, PostedFrame
from i2o.transport.fast_path import Answered, FastPath
from i2o.transport.port import EMPTY
from i2o.transport.shm.channel import Channel, PeerGone, RingChannel
from i2o.transport.shm.records import PACKET, RECORD, Word
from i2o.transport.shm.segment import Segment, Shape
from i2o.transport.shm.tables import (
    HAS_REST,
    LEFT_MORE,
    DeviceTable,
    PlainDeviceTable,
    native_tables,
)

_RECORD_SIZE: Final = RECORD.size
_record_at = RECORD.unpack_from
_MOST_OUTBOX: Final = 16 * PACKET  # a host that does not listen is not listened to
MOST_REPLY_FRAMES: Final = 1 << 16
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
        must_power_cycle: the host asked for a power cycle; see `take_power_cycle`.
        fetch: see `DeviceUnit`, as all that follow.
        recycle: puts an inbound frame on the free list.
        take_reply_frame: pops a free reply frame, or EMPTY.
        post_reply: writes a reply to host memory and queues it; raises DmaFault.
        posted_inbound: returns how many requests wait to be fetched.
        idle_inbound: returns how many inbound frames are free, as far as the device can tell.
        idle_outbound: returns how many free reply frames the device holds.
        flush: tells the host what there is to tell, as far as there is room, and returns whether
            all is told. A host that is gone is told nothing; `drain` notices that.
        drain: takes in what the host has told, and returns whether more may be there; raises
            PeerGone when the host is gone, or does not keep to the rules.
    """

    def __init__(self, shape: Shape, *, on_misuse: Callable[[str], None]) -> None:
        self.shape, self._on_misuse = shape, on_misuse
        self.frame_count, self.frame_size = shape.frame_count, shape.frame_size
        self._reach = HostReach()
        self.dma: DmaSpace = self._reach
        self._memory = memoryview(bytearray(0))
        self._channel: Channel | None = None
        self._segment: Segment | None = None
        self._static: dict[int, int] = {}  # how often each static frame may still be posted
        self.must_power_cycle = False
        self._fast_path: FastPath | None = None
        self._native_table: Any = None
        self._ring_table: Any = None  # the same, while there are rings to take from
        frames, native = shape.mfas(), native_tables()
        if native is None:
            table: DeviceTable = PlainDeviceTable(
                frames, MOST_REPLY_FRAMES, self._post_reply, self._flush, self._drain
            )
        else:
            table = self._native_table = native.DeviceTable(
                frames.start,
                frames.step,
                len(frames),
                MOST_REPLY_FRAMES,
                _MOST_OUTBOX,
                secrets.randbits(32),
                PostedFrame,
                self._post_reply,
                self._flush,
                self._drain,
            )
        self._table = table
        self.fetch, self.recycle = table.fetch, table.recycle
        self.flush, self.drain = table.flush, table.drain
        self.take_reply_frame, self.post_reply = table.take_reply_frame, table.post_reply
        self.posted_inbound, self.idle_inbound = table.posted_inbound, table.idle_inbound
        self.idle_outbound = table.idle_outbound

    # --- hosts -----------------------------------------------------------------------------------

    def connect(self, channel: Channel, segment: Segment) -> None:
        """Take the next host, which learns what is free.

        Args:
            channel: what leads to it; the unit's to close from now on.
            segment: the memory shared with it, as the unit's shape says; the unit's, too.
        """
        self._channel, self._segment = channel, segment
        self._memory = segment.memory
        rings: tuple[object, int, int] = None, 0, 0
        self._ring_table = None
        if isinstance(channel, RingChannel):
            rings, self._ring_table = channel.rings(), self._native_table
        self._table.attach(segment.memory, self.shape.arena_at, ARENA_BASE, *rings)
        self._reach.space = ArenaSpace(segment.arena)
        self.must_power_cycle = False
        self.refill()

    def disconnect(self) -> None:
        """Let go of the host and of what was shared with it; a second call does nothing.

        The IOP is to be reset before: it may be writing to that memory.
        """
        channel, self._channel = self._channel, None
        self._ring_table = None
        segment, self._segment = self._segment, None
        space, self._reach.space = self._reach.space, None
        self._memory = memoryview(bytearray(0))
        self._static.clear()
        with contextlib.ExitStack() as rest:
            if segment is not None:
                rest.callback(segment.close)
            if space is not None:
                rest.callback(space.close)
            rest.callback(self._table.detach)
            if channel is not None:
                channel.close()

    # --- what else `DeviceUnit` asks for ----------------------------------------------------------

    def preserve(self, mfa: int) -> None:
        """Leave the frame with the host."""
        self._table.give(mfa)
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
        lost = self._table.drop_posts(mfa)
        self.recycle(mfa)
        return lost

    def _post_reply(self, mfa: int, data: bytes) -> None:
        space = self._reach.space
        if space is None:
            raise DmaFault(mfa, len(data), _NO_HOST)
        space.write(mfa, data)
        self._table.set_near(*space.near)  # most replies go to where the last one went
        self._tell(Word.REPLY, mfa)

    def drop_replies(self) -> None:
        """Forget every outbound frame, free and posted; the host knows before anything else."""
        self._table.drop_reply_frames()
        self._tell(Word.DROP)
        self.flush()

    def refill(self) -> None:
        """Make every inbound frame free again; the host knows before anything else."""
        self._static.clear()
        generation = self._table.generation + 1 & 0xFFFFFFFF
        self._table.refill(generation)
        self._tell(Word.REFILL, generation)
        self.flush()

    def starve(self, starved: bool) -> None:
        """Make the inbound port read empty, or end that."""
        self._tell(Word.STARVE, int(starved))
        self.flush()

    def posted_outbound(self) -> int:
        """Return 0: replies that were told to the host are its own."""
        return 0

    # --- for whoever serves it -------------------------------------------------------------------

    @property
    def may_have_fast_path(self) -> bool:
        """Whether the tables are compiled."""
        return self._native_table is not None

    def use(self, path: FastPath) -> None:
        """Let `answer` and `spin` answer requests by a fast path."""
        self._native_table.use(
            path.handlers, path.make_request, path.replies, path.on_error, path.pending
        )
        self._fast_path = path

    def answer(self, now_ns: int) -> Answered:
        """Answer posted requests, as far as there is a fast path for them, 64 at most."""
        if self._fast_path is None:
            return Answered.NOT_ALL
        try:
            code: int = self._native_table.answer(now_ns)
        finally:
            self._fast_path.on_counted(*self._native_table.take_counts())
        return Answered(code)

    def spin(self, nanoseconds: int, end_ns: int | None) -> bool:
        """Look for something to do; what has a fast path is answered, and the host is told.

        Args:
            nanoseconds: how long to look without anything coming.
            end_ns: when to return if there is always something, by the system's monotonic clock;
                None to answer nothing.

        Returns:
            Whether there is something else to do, or the time is over.
        """
        channel = self._channel
        if channel is None:
            return False
        if self._ring_table is None or self._fast_path is None or end_ns is None:
            return bool(channel.spin(nanoseconds))
        try:
            is_left: bool = self._ring_table.spin(nanoseconds, end_ns)
        finally:
            self._fast_path.on_counted(*self._native_table.take_counts())
        return is_left

    @property
    def has_outbox(self) -> bool:
        """Whether something could not be told yet."""
        return self._table.outbox_size > 0

    def take_power_cycle(self) -> bool:
        """Return whether the host asked for a power cycle since the last call."""
        asked, self.must_power_cycle = self.must_power_cycle, False
        return asked

    def _flush(self) -> bool:
        table, channel = self._table, self._channel
        try:
            while table.outbox_size:
                packet = table.packet()
                if channel is not None and not channel.send(packet):
                    return False
                table.told(len(packet))
        except PeerGone:
            table.told(table.outbox_size)
        return True

    def _drain(self) -> bool:
        table, channel = self._table, self._channel
        if channel is None or table.outbox_size > _MOST_OUTBOX:
            return False
        if self._ring_table is not None:
            code: int = self._ring_table.take_in()
            if code < 0:
                return self._found_nothing(code)
            if code & HAS_REST:
                self._take_all(self._ring_table.rest())
                return True  # it was not looked whether that was all
            return bool(code & LEFT_MORE)
        taken = channel.take(_RECORD_SIZE)
        if taken is None:
            return False
        self._take_all(taken[table.sift(taken) :])
        return len(taken) > channel.room

    def _found_nothing(self, code: int) -> bool:
        """Return False if there was only nothing there; raises PeerGone."""
        assert isinstance(self._channel, RingChannel)
        self._channel.nothing(code)
        return False

    def _take_all(self, records: bytes | memoryview) -> None:
        """Take what the table did not understand: one unusual record, and what is behind it."""
        table = self._table
        at = 0
        while at < len(records):
            self._take(*_record_at(records, at))
            at += _RECORD_SIZE
            at += table.sift(records[at:])

    def _take(self, word: int, value: int, more: int) -> None:
        if word == Word.POST:
            if more == self._table.generation:  # or it was posted before the host knew of a reset
                self._on_misuse(f"MFA {value:#010x} was posted, but the host does not hold it")
        elif word == Word.RELEASE:
            self._refuse_reply_frame(value)
        elif word == Word.POST_STATIC:
            self._take_static_post(value, more)
        elif word == Word.COVER or word == Word.UNCOVER:
            self._take_buffer(word == Word.COVER, value, more)
        elif word == Word.POWER_CYCLE:
            self.must_power_cycle = True
        else:
            self._on_misuse(f"the host sent record {word}, which means nothing")

    def _refuse_reply_frame(self, mfa: int) -> None:
        if mfa == EMPTY:
            self._on_misuse(f"{mfa:#010x} was released as a reply frame: it means that none is")
        elif self._table.has_reply_frame(mfa):
            self._on_misuse(f"reply frame {mfa:#010x} was released twice: the IOP holds it")
        else:
            self._on_misuse(f"reply frame {mfa:#010x} was released: the IOP holds too many")

    def _take_static_post(self, mfa: int, generation: int) -> None:
        if generation != self._table.generation:
            return
        left = self._static.get(mfa, 0)
        if left:
            self._static[mfa] = left - 1
            self._table.add_post(mfa)
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
        self._table.set_near(0, 0)  # it may be the one that is no more

    def _tell(self, word: int, value: int = 0, more: int = 0) -> None:
        self._table.tell(word, value, more)
