# SPDX-License-Identifier: Apache-2.0
"""Where the frames of a queue pair are, as either end knows: free ones, posted ones, replies.

Every message passes through these tables several times, so there are two kinds of them: those of
the compiled extension (`native_tables.py`), whose methods are those of a port or of a unit and do
what is usual with one call, and those below, which do the same without a compiler and leave all but
the books to `HostHalf` and `ShmUnit`.

Records that came are given to a table first. It understands those that belong to every request, up
to the first other one: that and all behind it is the rest, which `HostHalf` and `ShmUnit` take.
"""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Callable
from typing import Any, Final, Protocol

from i2o.transport.device_unit import PostedFrame
from i2o.transport.port import EMPTY
from i2o.transport.second_module import second_module
from i2o.transport.shm.records import PACKET, RECORD, Word
from i2o.transport.shm.ring import native_rings

HAS_REST: Final = 4
LEFT_MORE: Final = 2
"""Bits of what `take_in` of a compiled table returns; less than zero is as of `Consumer.pop`."""
MOST_REPLIES: Final = 1 << 20
"""Replies that a host keeps; a device that tells of more does not mean it."""
_MODULE: Final = "i2o.transport.shm._tables"
_HEADER_SIZE: Final = 16
_RECORD_SIZE: Final = RECORD.size
_record_at = RECORD.unpack_from
_words_at: Final = struct.Struct("<H").unpack_from
_POST, _RELEASE = int(Word.POST), int(Word.RELEASE)
_FREE, _REPLY = int(Word.FREE), int(Word.REPLY)


def native_tables() -> Any | None:
    """Return the module of the compiled tables, or None if it was not built."""
    native = native_rings()
    try:
        return None if native is None else second_module(_MODULE, native.__file__)
    except ImportError:  # the extension is an older one
        return None


class HostTable(Protocol):
    """What a host knows.

    Attributes:
        generation: how many resets the device has told of.
        trusted_until_ns: until when it need not be looked whether the other process is there.
        news: how often something came.
        free_count: inbound frames that are free.
        reply_count: replies that nobody has taken.
        is_gone: the device is.
        is_starved: the inbound port reads empty.
        is_held: there are records that Python has not taken in full.
        is_slow: everything is left to Python.
        after: called when something was taken from a FIFO, or None.
    """

    trusted_until_ns: int
    news: int
    is_gone: bool
    is_starved: bool
    is_slow: bool
    after: Callable[[], object] | None

    @property
    def generation(self) -> int:
        """How many resets there were."""
        ...

    @property
    def is_held(self) -> bool:
        """Whether there are records that Python has not taken in full."""
        ...

    @property
    def free_count(self) -> int:
        """Inbound frames that are free."""
        ...

    @property
    def reply_count(self) -> int:
        """Replies that nobody has taken."""
        ...

    def sift(self, records: bytes | memoryview) -> int:
        """Take records; return how many bytes of them were understood."""
        ...

    def take_free(self) -> int:
        """Pop a free frame, which is with the host then, or EMPTY."""
        ...

    def put_free(self, mfa: int) -> bool:
        """Append a free frame; False if it is none, or was free before."""
        ...

    def holds(self, mfa: int) -> bool:
        """Return whether a frame is with the host."""
        ...

    def hold(self, mfa: int) -> bool:
        """Leave a frame with the host; False if it is none, or free."""
        ...

    def let_go(self, mfa: int) -> bool:
        """Give a frame to the device; False if it was not with the host."""
        ...

    def fix(self, mfa: int) -> bool:
        """Make a frame static; False if it is none."""
        ...

    def put_reply(self, mfa: int) -> bool:
        """Append a reply; False if there are too many."""
        ...

    def take_reply(self) -> int:
        """Pop a reply, or EMPTY."""
        ...

    def drop_replies(self) -> None:
        """Forget all replies."""
        ...

    def refill(self, generation: int) -> None:
        """Make every inbound frame free."""
        ...

    def resume(self) -> None:
        """Python has taken the rest."""
        ...

    def set_near(self, start: int, end: int) -> None:
        """From one bus address up to another the host may look without a search."""
        ...

    def detach(self) -> None:
        """Let go of the shared memory."""
        ...


class PlainHostTable:
    """A `HostTable` in Python.

    Args:
        frames: the MFAs.
    """

    def __init__(self, frames: range) -> None:
        self._frames = frames
        self._free: deque[int] = deque()
        self._is_free: set[int] = set()
        self._held: set[int] = set()
        self._static: set[int] = set()
        self._replies: deque[int] = deque()
        self.generation = self.trusted_until_ns = self.news = 0
        self.is_gone = self.is_starved = False
        self.is_held: Final = False  # who takes a packet takes all of it
        self.is_slow = True
        self.after: Callable[[], object] | None = None

    @property
    def free_count(self) -> int:
        """Inbound frames that are free."""
        return len(self._free)

    @property
    def reply_count(self) -> int:
        """Replies that nobody has taken."""
        return len(self._replies)

    def sift(self, records: bytes | memoryview) -> int:
        """Take records; return how many bytes of them were understood."""
        at = 0
        while at + _RECORD_SIZE <= len(records):
            word, value, _ = _record_at(records, at)
            if word == _REPLY:
                if not self.put_reply(value):
                    break
            elif word != _FREE or value in self._static or not self.put_free(value):
                break
            at += _RECORD_SIZE
        return at

    def take_free(self) -> int:
        """Pop a free frame, or EMPTY."""
        if not self._free:
            return EMPTY
        mfa = self._free.popleft()
        self._is_free.discard(mfa)
        self._held.add(mfa)
        return mfa

    def put_free(self, mfa: int) -> bool:
        """Append a free frame; False if it is none, or was free before."""
        if mfa not in self._frames or mfa in self._is_free:
            return False
        self._held.discard(mfa)
        self._static.discard(mfa)
        self._is_free.add(mfa)
        self._free.append(mfa)
        return True

    def holds(self, mfa: int) -> bool:
        """Return whether a frame is with the host."""
        return mfa in self._held

    def hold(self, mfa: int) -> bool:
        """Leave a frame with the host; False if it is none, or free."""
        if mfa not in self._frames or mfa in self._is_free:
            return False
        self._static.discard(mfa)
        self._held.add(mfa)
        return True

    def let_go(self, mfa: int) -> bool:
        """Give a frame to the device; False if it was not with the host."""
        if mfa not in self._held:
            return False
        self._held.discard(mfa)
        return True

    def fix(self, mfa: int) -> bool:
        """Make a frame static; False if it is none."""
        if mfa not in self._frames:
            return False
        if mfa not in self._is_free:
            self._held.discard(mfa)
            self._static.add(mfa)
        return True

    def put_reply(self, mfa: int) -> bool:
        """Append a reply; False if there are too many."""
        if len(self._replies) >= MOST_REPLIES:
            return False
        self._replies.append(mfa)
        return True

    def take_reply(self) -> int:
        """Pop a reply, or EMPTY."""
        try:
            return self._replies.popleft()
        except IndexError:  # also if another thread was faster
            return EMPTY

    def drop_replies(self) -> None:
        """Forget all replies."""
        self._replies.clear()

    def refill(self, generation: int) -> None:
        """Make every inbound frame free."""
        self._held.clear()
        self._static.clear()
        self._free.clear()
        self._free.extend(self._frames)
        self._is_free.update(self._frames)
        self.generation = generation

    def resume(self) -> None:
        """Nothing is kept here."""

    def set_near(self, start: int, end: int) -> None:
        """Nothing is looked at here."""

    def detach(self) -> None:
        """There is no memory to let go of."""


class DeviceTable(Protocol):
    """What a device knows: the FIFOs of a `DeviceUnit`, whose methods of the same names these are.

    Attributes:
        generation: how many resets there were.
        most_replies: reply frames that it takes.
        outbox_size: bytes that the host was not told yet.
    """

    most_replies: int

    @property
    def generation(self) -> int:
        """How many resets there were."""
        ...

    @property
    def outbox_size(self) -> int:
        """Bytes that the host was not told yet."""
        ...

    def attach(
        self,
        memory: memoryview,
        arena_at: int,
        arena_base: int,
        keeper: object,
        incoming: int,
        outgoing: int,
    ) -> None:
        """Use what is shared with a host.

        Args:
            memory: frames, and buffers of the host.
            arena_at: offset of the buffers in it.
            arena_base: their bus address.
            keeper: keeps the rings.
            incoming: address of the ring that records come from, 0 if there is none.
            outgoing: address of the one that they are put into, 0 if there is none.
        """
        ...

    def fetch(self) -> PostedFrame | None:
        """Pop the next posted request."""
        ...

    def recycle(self, mfa: int) -> None:
        """Put an inbound frame on the free list."""
        ...

    def take_reply_frame(self) -> int:
        """Pop a free reply frame, or EMPTY."""
        ...

    def post_reply(self, mfa: int, data: bytes) -> None:
        """Write a reply to host memory and queue it."""
        ...

    def flush(self) -> bool:
        """Tell the host what there is to tell; return whether all is told."""
        ...

    def drain(self) -> bool:
        """Take in what the host has told; return whether more may be there."""
        ...

    def sift(self, records: bytes | memoryview) -> int:
        """Take records; return how many bytes of them were understood."""
        ...

    def tell(self, word: int, value: int, more: int) -> None:
        """Queue a record for the host."""
        ...

    def give(self, mfa: int) -> None:
        """The host has a frame from now on."""
        ...

    def packet(self) -> bytes:
        """Return what is to be told next, as much as fits into a packet."""
        ...

    def told(self, size: int) -> None:
        """So many bytes of that were told."""
        ...

    def add_post(self, mfa: int) -> bool:
        """Append a request that the host need not hold."""
        ...

    def drop_posts(self, mfa: int) -> int:
        """Forget all requests in a frame; return how many there were."""
        ...

    def has_reply_frame(self, mfa: int) -> bool:
        """Return whether a reply frame is free."""
        ...

    def drop_reply_frames(self) -> None:
        """Forget all reply frames."""
        ...

    def refill(self, generation: int) -> None:
        """The host has every inbound frame; nothing is posted."""
        ...

    def set_near(self, start: int, end: int) -> None:
        """Replies may be written from one bus address up to another without a look."""
        ...

    def posted_inbound(self) -> int:
        """Return how many requests wait to be fetched."""
        ...

    def idle_inbound(self) -> int:
        """Return how many inbound frames the host has."""
        ...

    def idle_outbound(self) -> int:
        """Return how many reply frames are free."""
        ...

    def detach(self) -> None:
        """Let go of the host, and forget everything."""
        ...


class PlainDeviceTable:
    """A `DeviceTable` in Python.

    Args:
        frames: the MFAs.
        most_replies: reply frames that it takes.
        post_reply: see `DeviceTable`.
        flush: the same.
        drain: the same.
    """

    def __init__(
        self,
        frames: range,
        most_replies: int,
        post_reply: Callable[[int, bytes], None],
        flush: Callable[[], bool],
        drain: Callable[[], bool],
    ) -> None:
        self._frames, self.most_replies = frames, most_replies
        self.post_reply, self.flush, self.drain = post_reply, flush, drain
        self._memory = memoryview(b"")
        self._posted: deque[int] = deque()
        self._held: set[int] = set()
        self._replies: deque[int] = deque()
        self._idle: set[int] = set()
        self._outbox = bytearray()
        self.generation = 0

    @property
    def outbox_size(self) -> int:
        """Bytes that the host was not told yet."""
        return len(self._outbox)

    def attach(
        self,
        memory: memoryview,
        arena_at: int,
        arena_base: int,
        keeper: object,
        incoming: int,
        outgoing: int,
    ) -> None:
        """Use the memory that is shared with a host."""
        self._memory = memory

    def fetch(self) -> PostedFrame | None:
        """Pop the next posted request as a private copy, bounded by the frame's size."""
        if not self._posted:
            return None
        mfa = self._posted.popleft()
        size = max(4 * _words_at(self._memory, mfa + 2)[0], _HEADER_SIZE)
        size = min(size, self._frames.step)
        return PostedFrame(mfa, self._memory[mfa : mfa + size].tobytes())

    def recycle(self, mfa: int) -> None:
        """Put an inbound frame on the free list."""
        self.give(mfa)
        self.tell(_FREE, mfa, 0)

    def take_reply_frame(self) -> int:
        """Pop a free reply frame, or EMPTY."""
        if not self._replies:
            return EMPTY
        mfa = self._replies.popleft()
        self._idle.discard(mfa)
        return mfa

    def sift(self, records: bytes | memoryview) -> int:
        """Take records; return how many bytes of them were understood."""
        at = 0
        while at + _RECORD_SIZE <= len(records):
            word, value, more = _record_at(records, at)
            if word == _POST:
                if more != self.generation or value not in self._held:
                    break
                self._held.remove(value)
                self._posted.append(value)
            elif word == _RELEASE and value != EMPTY and not self.has_reply_frame(value):
                if len(self._replies) >= self.most_replies:
                    break
                self._idle.add(value)
                self._replies.append(value)
            else:
                break
            at += _RECORD_SIZE
        return at

    def tell(self, word: int, value: int, more: int) -> None:
        """Queue a record for the host."""
        self._outbox += RECORD.pack(word, value, more)

    def give(self, mfa: int) -> None:
        """The host has a frame from now on."""
        if mfa in self._frames:
            self._held.add(mfa)

    def packet(self) -> bytes:
        """Return what is to be told next, as much as fits into a packet."""
        return bytes(self._outbox[:PACKET])

    def told(self, size: int) -> None:
        """So many bytes of that were told."""
        del self._outbox[:size]

    def add_post(self, mfa: int) -> bool:
        """Append a request that the host need not hold."""
        if mfa not in self._frames:
            return False
        self._posted.append(mfa)
        return True

    def drop_posts(self, mfa: int) -> int:
        """Forget all requests in a frame; return how many there were."""
        before = len(self._posted)
        self._posted = deque(posted for posted in self._posted if posted != mfa)
        return before - len(self._posted)

    def has_reply_frame(self, mfa: int) -> bool:
        """Return whether a reply frame is free."""
        return mfa in self._idle

    def drop_reply_frames(self) -> None:
        """Forget all reply frames."""
        self._replies.clear()
        self._idle.clear()

    def refill(self, generation: int) -> None:
        """The host has every inbound frame; nothing is posted."""
        self._posted.clear()
        self._held.clear()
        if self._memory:  # nobody has them otherwise
            self._held.update(self._frames)
        self.generation = generation

    def set_near(self, start: int, end: int) -> None:
        """Nothing is written here."""

    def posted_inbound(self) -> int:
        """Return how many requests wait to be fetched."""
        return len(self._posted)

    def idle_inbound(self) -> int:
        """Return how many inbound frames the host has."""
        return len(self._held)

    def idle_outbound(self) -> int:
        """Return how many reply frames are free."""
        return len(self._replies)

    def detach(self) -> None:
        """Let go of the host, and forget everything."""
        self._memory = memoryview(b"")
        self._posted.clear()
        self._held.clear()
        self.drop_reply_frames()
        self._outbox.clear()
