# SPDX-License-Identifier: Apache-2.0
"""The message unit of an IOP in another process: frames in shared memory, MFAs over a socket.

`HostHalf` and `DeviceHalf` are the two ends of one queue pair. What they tell one another are
records of three words over a SEQPACKET socket: a system call on each side orders the memory. The
inbound frames live at the start of the shared memory, the arena of host buffers behind them. A
reset raises a generation number, so that frames posted before the host knew of it are told apart.
"""

from __future__ import annotations

import contextlib
import mmap
import select
import socket
import struct
import threading
from collections import deque
from collections.abc import Callable
from enum import IntEnum
from typing import Final

from i2o.clock import SYSTEM_CLOCK
from i2o.errors import IopDead, LocalFrameError
from i2o.transport.arena_space import ArenaSpace
from i2o.transport.device_unit import DmaSpace, PostedFrame
from i2o.transport.host_memory import HostMemory
from i2o.transport.local_unit import FRAME_AREA, FRAME_AREA_END
from i2o.transport.port import EMPTY

ARENA_SIZE: Final = 256 << 20
SHARED_SIZE: Final = FRAME_AREA_END + ARENA_SIZE
"""Bytes of the shared memory: registers' page and frames as in the BAR, then the arena."""
_HEADER_SIZE: Final = 16
_RECORD: Final = struct.Struct("<III")
_MOST_RECORDS: Final = 1024
_PACKET: Final = _MOST_RECORDS * _RECORD.size
_SOCKET_BUFFER: Final = 1 << 20
_SLICE_S: Final = 0.05  # how long one thread may not know what another one took in


class Word(IntEnum):
    """First word of a record."""

    POST = 1  # host: MFA, generation
    RELEASE = 2  # host: MFA
    COVER = 3  # host: bus address, length
    UNCOVER = 4  # host: bus address
    POWER_CYCLE = 5  # host
    FREE = 6  # device: MFA
    PRESERVE = 7  # device: MFA
    REPLY = 8  # device: MFA
    DROP = 9  # device: replies on their way do not count any more
    REFILL = 10  # device: generation; every inbound frame is free
    STARVE = 11  # device: 1 or 0
    STATIC = 12  # device: MFA, how often it may be posted
    RENEW = 13  # device: MFA of a static frame, which may be posted once more
    POST_STATIC = 14  # host: MFA, generation


def socket_pair() -> tuple[socket.socket, socket.socket]:
    """Return the two ends of a queue pair's socket: host's, device's."""
    pair = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    for end in pair:
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SOCKET_BUFFER)
    return pair


class _SharedFrames:
    """The shared memory, and where the inbound frames are in it."""

    def __init__(self, memory_fd: int, frame_count: int, frame_size: int) -> None:
        if frame_count * frame_size > FRAME_AREA_END - FRAME_AREA:
            raise LocalFrameError(f"{frame_count} frames of {frame_size} bytes do not fit")
        self.frame_count, self.frame_size = frame_count, frame_size
        self._map: mmap.mmap | None = mmap.mmap(memory_fd, SHARED_SIZE)
        self.memory = memoryview(self._map)

    def close(self) -> None:
        """Unmap the memory, unless somebody still has a view of it (then when that is gone)."""
        with contextlib.suppress(BufferError):
            self.memory.release()
        shared, self._map = self._map, None  # views keep it, and nothing else does
        if shared is not None:
            with contextlib.suppress(BufferError):
                shared.close()

    def all(self) -> range:
        """Return every MFA."""
        return range(FRAME_AREA, FRAME_AREA + self.frame_count * self.frame_size, self.frame_size)


class HostHalf:
    """The host's end.

    Args:
        end: the host's socket.
        memory_fd: the shared memory.
        frame_count: inbound frames.
        frame_size: bytes of each.
        on_misuse: called with a sentence when the host handles a frame wrongly.

    Attributes:
        memory: the host's buffers.
        generation: how many resets the device has told of.
    """

    def __init__(
        self,
        end: socket.socket,
        memory_fd: int,
        *,
        frame_count: int,
        frame_size: int,
        on_misuse: Callable[[str], None],
    ) -> None:
        self._end, self._on_misuse = end, on_misuse
        self._frames = _SharedFrames(memory_fd, frame_count, frame_size)
        self._space = ArenaSpace(
            self._frames.memory[FRAME_AREA_END:],
            on_cover=lambda address, length: self._tell(Word.COVER, address, length),
            on_uncover=self._tell_uncover,
        )
        self.memory: HostMemory = self._space
        self._free: deque[int] = deque()
        self._with_host: set[int] = set()
        self._static: dict[int, int] = {}  # how often each static frame may still be posted
        self._replies: deque[int] = deque()
        self._starved = False
        self._is_gone = False
        self._news = 0
        self.generation = 0
        self._lock = threading.Lock()

    def alloc(self) -> int:
        """Pop a free inbound MFA, or EMPTY; raises IopDead."""
        self.drain()
        if self._starved:
            return EMPTY
        try:
            mfa = self._free.popleft()
        except IndexError:
            return EMPTY
        self._with_host.add(mfa)
        return mfa

    def write(self, mfa: int, frame: bytes | bytearray | memoryview) -> None:
        """Copy a request into an inbound frame; raises LocalFrameError if it does not fit.

        Raises IopDead when the process is known to be gone.
        """
        self._require_process()
        if mfa not in self._with_host:
            raise LocalFrameError(f"MFA {mfa:#010x} is not the host's to write: allocate it first")
        if len(frame) > self._frames.frame_size:
            raise LocalFrameError(
                f"a frame of {len(frame)} bytes does not fit: inbound frames have "
                f"{self._frames.frame_size}"
            )
        self._frames.memory[mfa : mfa + len(frame)] = frame

    def read_inbound(self, mfa: int, size: int) -> bytes:
        """Read an inbound frame; raises LocalFrameError for an MFA that is none."""
        if mfa not in self._frames.all() or not 0 <= size <= self._frames.frame_size:
            raise LocalFrameError(f"{size} bytes at {mfa:#010x} are no inbound frame of this IOP")
        return self._frames.memory[mfa : mfa + size].tobytes()

    def post(self, mfa: int) -> None:
        """Queue a request; raises IopDead."""
        self._require_process()
        if mfa not in self._with_host:
            if not self._post_static(mfa):
                self._on_misuse(
                    f"MFA {mfa:#010x} was posted to 0x40, but the host does not hold it"
                )
            return
        self._with_host.remove(mfa)
        self._tell(Word.POST, mfa, self.generation)

    def _post_static(self, mfa: int) -> bool:
        """Queue a static frame once more, if it is one and may be posted."""
        with self._lock:
            left = self._static.get(mfa, 0)
            if not left:
                return False
            self._static[mfa] = left - 1
        self._tell(Word.POST_STATIC, mfa, self.generation)
        return True

    def reap(self) -> int:
        """Pop a reply MFA, or EMPTY; raises IopDead when no reply is left and none can come."""
        if not self._replies:
            self.drain()
        try:
            return self._replies.popleft()
        except IndexError:
            return EMPTY

    def release(self, mfa: int) -> None:
        """Give a reply frame to the device; raises IopDead."""
        if mfa == EMPTY or mfa % 4:
            self._on_misuse(f"{mfa:#010x} was released to 0x44: a frame address is a word's")
            return
        self._tell(Word.RELEASE, mfa)

    def power_cycle(self, timeout_s: float) -> None:
        """Have the device's power cycled, and wait until it was; raises IopDead."""
        before = self.generation
        self._tell(Word.POWER_CYCLE)
        end_ns = SYSTEM_CLOCK.monotonic_ns() + round(timeout_s * 1e9)
        while self.generation == before:
            left_ns = end_ns - SYSTEM_CLOCK.monotonic_ns()
            if left_ns <= 0:
                raise IopDead(f"the IOP's process did not reset within {timeout_s:g} s")
            self.wait(left_ns / 1e9)

    @property
    def reply_pending(self) -> bool:
        """Whether a reply is here already."""
        return bool(self._replies)

    def wait(self, timeout_s: float) -> bool:
        """Wait until the device tells something; False when the time ran out; raises IopDead.

        Several threads may wait: what one of them takes in ends the waiting of all.
        """
        before = self._news
        end_ns = SYSTEM_CLOCK.monotonic_ns() + round(max(0.0, timeout_s) * 1e9)
        poller, fd = select.poll(), self._end.fileno()
        if fd >= 0:
            poller.register(fd, select.POLLIN)
        while True:
            left_s = max(0.0, (end_ns - SYSTEM_CLOCK.monotonic_ns()) / 1e9)
            if self._end.fileno() < 0 or poller.poll(min(left_s, _SLICE_S) * 1000):
                self.drain()
            if self._news != before:
                return True
            if left_s <= _SLICE_S:
                return False

    def drain(self) -> bool:
        """Take in everything the device has told; return whether that was anything.

        Raises:
            IopDead: that was nothing, and the process is gone.
        """
        with self._lock:
            has_news = False
            while True:
                try:
                    packet = self._end.recv(_PACKET, socket.MSG_DONTWAIT)
                except BlockingIOError:
                    return has_news
                except OSError:
                    packet = b""
                if not packet:
                    self._is_gone = True
                    if has_news:  # what it said before it died counts
                        return True
                    self._require_process()
                has_news = True
                self._news += 1
                for word, value, more in _RECORD.iter_unpack(packet):
                    self._take(word, value, more)

    def close(self) -> None:
        """Let go of the shared memory and the socket."""
        self._end.close()
        self._space.close()
        self._frames.close()

    def _take(self, word: int, value: int, more: int) -> None:
        if word == Word.FREE:
            self._with_host.discard(value)  # it may have been preserved

            self._static.pop(value, None)
            self._free.append(value)
        elif word == Word.REPLY:
            self._replies.append(value)
        elif word == Word.PRESERVE:
            self._with_host.add(value)
        elif word == Word.DROP:
            self._replies.clear()
        elif word == Word.STARVE:
            self._starved = bool(value)
        elif word == Word.STATIC:
            self._static[value] = more
        elif word == Word.RENEW:
            self._static[value] += 1
        elif word == Word.REFILL:
            self._static.clear()
            self._with_host.clear()
            self._free.clear()
            self._free.extend(self._frames.all())
            self.generation = value

    def _require_process(self) -> None:
        if self._is_gone:
            raise IopDead("the IOP's process is gone")

    def _tell_uncover(self, address: int) -> None:
        with contextlib.suppress(IopDead):  # a buffer may be freed when nobody is there any more
            self._tell(Word.UNCOVER, address)

    def _tell(self, word: int, value: int = 0, more: int = 0) -> None:
        try:
            self._end.send(_RECORD.pack(word, value, more))
        except OSError:
            self._is_gone = True
            raise IopDead("the IOP's process is gone") from None


class DeviceHalf:
    """The device's end: a `DeviceUnit`.

    Args:
        end: the device's socket.
        memory_fd: the shared memory.
        frame_count: inbound frames.
        frame_size: bytes of each.
        on_misuse: called with a sentence when the host handles a frame wrongly.
    """

    def __init__(
        self,
        end: socket.socket,
        memory_fd: int,
        *,
        frame_count: int,
        frame_size: int,
        on_misuse: Callable[[str], None],
    ) -> None:
        self._end, self._on_misuse = end, on_misuse
        self._frames = _SharedFrames(memory_fd, frame_count, frame_size)
        self.frame_count, self.frame_size = frame_count, frame_size
        self._space = ArenaSpace(self._frames.memory[FRAME_AREA_END:])
        self.dma: DmaSpace = self._space
        self._posted: deque[int] = deque()
        self._with_host: set[int] = set()
        self._static: dict[int, int] = {}  # how often each static frame may still be posted
        self._reply_frames: deque[int] = deque()
        self._idle_replies: set[int] = set()
        self._outbox = bytearray()
        self._generation = 0
        self._must_power_cycle = False
        self.refill()

    # --- what `DeviceUnit` asks for --------------------------------------------------------------

    def fetch(self) -> PostedFrame | None:
        """Pop the next posted request as a private copy, bounded by the frame's size."""
        if not self._posted:
            return None
        mfa = self._posted.popleft()
        memory = self._frames.memory
        size = 4 * int.from_bytes(memory[mfa + 2 : mfa + 4], "little")
        size = min(max(size, _HEADER_SIZE), self.frame_size)
        return PostedFrame(mfa, memory[mfa : mfa + size].tobytes())

    def recycle(self, mfa: int) -> None:
        """Put an inbound frame on the free list."""
        self._with_host.add(mfa)
        self._tell(Word.FREE, mfa)

    def preserve(self, mfa: int) -> None:
        """Leave the frame with the host."""
        self._with_host.add(mfa)
        self._tell(Word.PRESERVE, mfa)

    def withdraw(self, mfa: int) -> None:
        """Free a preserved frame that the host was never told of."""
        self._tell(Word.FREE, mfa)

    def make_static(self, mfa: int, frame: bytes, posts: int) -> None:
        """Keep a fetched frame off the free list, with this message in it."""
        self._frames.memory[mfa : mfa + len(frame)] = frame
        self._static[mfa] = posts
        self._tell(Word.STATIC, mfa, posts)

    def renew_static(self, mfa: int) -> None:
        """Let the host post a static frame once more."""
        self._static[mfa] += 1
        self._tell(Word.RENEW, mfa)

    def end_static(self, mfa: int) -> int:
        """Put a static frame on the free list; return how many posts were not fetched."""
        del self._static[mfa]
        lost = self._posted.count(mfa)
        for _ in range(lost):
            self._posted.remove(mfa)
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
        self.dma.write(mfa, data)
        self._tell(Word.REPLY, mfa)

    def drop_replies(self) -> None:
        """Forget every outbound frame, free and posted; the host knows before anything else."""
        self._reply_frames.clear()
        self._idle_replies.clear()
        self._tell(Word.DROP)
        self.flush()

    def refill(self) -> None:
        """Make every inbound frame free again; the host knows before anything else."""
        self._posted.clear()
        self._static.clear()
        self._with_host.update(self._frames.all())
        self._generation += 1
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
        return len(self._posted)

    def idle_outbound(self) -> int:
        """Return how many free reply frames the device holds."""
        return len(self._reply_frames)

    def posted_outbound(self) -> int:
        """Return 0: replies that were told to the host are its own."""
        return 0

    # --- for the process around it ---------------------------------------------------------------

    @property
    def has_outbox(self) -> bool:
        """Whether something could not be told yet."""
        return bool(self._outbox)

    def take_power_cycle(self) -> bool:
        """Return whether the host asked for a power cycle since the last call."""
        asked, self._must_power_cycle = self._must_power_cycle, False
        return asked

    def flush(self) -> None:
        """Tell the host what there is to tell, as far as the socket takes it."""
        while self._outbox:
            try:
                sent = self._end.send(memoryview(self._outbox)[:_PACKET], socket.MSG_DONTWAIT)
            except BlockingIOError:
                return
            except OSError:
                self._outbox.clear()  # nobody is there; `drain` notices
                return
            del self._outbox[:sent]

    def drain(self) -> bool:
        """Take in everything the host has told; return False when the host is gone."""
        while True:
            try:
                packet = self._end.recv(_PACKET, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return True
            except OSError:
                return False
            if not packet:
                return False
            for word, value, more in _RECORD.iter_unpack(packet):
                self._take(word, value, more)

    def close(self) -> None:
        """Let go of the shared memory and the socket."""
        self._end.close()
        self._space.close()
        self._frames.close()

    def _take(self, word: int, value: int, more: int) -> None:
        if word == Word.POST:
            if more != self._generation:
                return  # posted before the host knew of a reset: the frame is free
            if value not in self._with_host:
                self._on_misuse(f"MFA {value:#010x} was posted, but the host does not hold it")
                return
            self._with_host.remove(value)
            self._posted.append(value)
        elif word == Word.POST_STATIC:
            if more != self._generation:
                return
            left = self._static.get(value, 0)
            if left:
                self._static[value] = left - 1
                self._posted.append(value)
            else:
                self._on_misuse(f"MFA {value:#010x} was posted, but is no static frame any more")
        elif word == Word.RELEASE:
            if value in self._idle_replies:
                self._on_misuse(f"reply frame {value:#010x} was released twice: the IOP holds it")
                return
            self._idle_replies.add(value)
            self._reply_frames.append(value)
        elif word == Word.COVER:
            self._space.cover(value, more)
        elif word == Word.UNCOVER:
            self._space.uncover(value)
        elif word == Word.POWER_CYCLE:
            self._must_power_cycle = True

    def _tell(self, word: int, value: int = 0, more: int = 0) -> None:
        self._outbox += _RECORD.pack(word, value, more)
