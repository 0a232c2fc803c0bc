# SPDX-License-Identifier: Apache-2.0
"""The device's half: a `DeviceUnit` whose host is at the other end of an endpoint, or nowhere.

The host tells with each request which memory it points to, and sends what the device is going to
read. So most DMA needs no waiting: reads are served from what came along, writes are sent in order
in front of the reply. What the host did not tell of is asked for, which blocks until it answers.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Iterable
from typing import Final

from i2o.errors import DmaFault, LocalFrameError, RemoteFrameError
from i2o.frames.header import HEADER_SIZE, MsgFlags
from i2o.transport.device_unit import DmaSpace, PostedFrame
from i2o.transport.local_unit import FRAME_AREA, FRAME_AREA_END, MIN_FRAME_SIZE
from i2o.transport.port import EMPTY
from i2o.transport.wire.messages import (
    HOST_KINDS,
    MAX_RANGES,
    MAX_RELEASED,
    Kind,
    RangeFlags,
    Status,
    WelcomeFlags,
    forms,
    record_packer,
)
from i2o.transport.wire.stream import Head, StreamReader, StreamWriter

PUSH_LIMIT: Final = 8 << 20
"""Bytes that hosts may send along with requests that are not answered yet."""
ANSWER_S: Final = 30.0
"""How long a host may take to answer for its memory."""
_PIECE: Final = 1 << 20  # bytes that are asked for at a time
_MAX_WAITING: Final = 4 << 20  # bytes of data on their way, then the device waits
_MAX_OPEN: Final = 4096
_MAX_SEARCH: Final = 256
_MAX_POOLED: Final = 8
_LAST: Final = int(MsgFlags.LAST)
_KEY: Final = slice(4, HEADER_SIZE)
_READ, _WRITE = int(RangeFlags.READ), int(RangeFlags.WRITE)
_pack_reply = record_packer(Kind.REPLY).pack
_pack_index = record_packer(Kind.FREE).pack
_pack_static = record_packer(Kind.STATIC).pack
_pack_byte = record_packer(Kind.REFILL).pack
_pack_place = record_packer(Kind.WRITE).pack
_pack_ask = record_packer(Kind.FETCH).pack
_pack_taken = record_packer(Kind.TAKEN).pack
_FREE, _REPLY, _WRITE_KIND = int(Kind.FREE), int(Kind.REPLY), int(Kind.WRITE)
_TAKEN: Final = int(Kind.TAKEN)


class Range:
    """A piece of host memory that a request points to.

    Attributes:
        address: bus address of the first byte.
        end: the first one behind it.
        flags: `RangeFlags`.
        data: what it held when the request was posted, if the host sent that.
    """

    __slots__ = ("address", "data", "end", "flags")

    def __init__(self, address: int, length: int, flags: int) -> None:
        self.address, self.end, self.flags = address, address + length, flags
        self.data: memoryview | None = None


class OpenRequest:
    """A request without a final reply.

    Attributes:
        mfa: its inbound frame.
        frame: the message.
        ranges: the memory that it points to.
        pushed: bytes that came along.
    """

    __slots__ = ("frame", "mfa", "pushed", "ranges")

    def __init__(self, mfa: int, frame: bytes, ranges: list[Range], pushed: int) -> None:
        self.mfa, self.frame, self.ranges, self.pushed = mfa, frame, ranges, pushed


class _Answer:
    """What the host said to the latest FETCH or STORE."""

    __slots__ = ("data", "is_there", "status", "tag")

    def __init__(self, tag: int, length: int) -> None:
        self.tag, self.is_there, self.status = tag, False, int(Status.OK)
        self.data = bytearray(length)


class WireDma:
    """Host memory as the device sees it: a `DmaSpace`."""

    def __init__(self, unit: WireUnit) -> None:
        self._unit = unit
        self._pool: dict[int, list[bytearray]] = {}

    def read(self, address: int, length: int) -> bytes:
        """Copy bytes out; raises DmaFault if they are in no buffer or the host does not answer."""
        found = self._unit.find(address, length, _READ)
        if found is not None and found.data is not None:
            start = address - found.address
            return found.data[start : start + length].tobytes()
        parts = [
            self._unit.fetch_memory(address + start, min(_PIECE, length - start))
            for start in range(0, length, _PIECE)
        ]
        return b"".join(parts)

    def write(self, address: int, data: bytes | bytearray | memoryview) -> None:
        """Send bytes to host memory; raises DmaFault as `read`, and if it is read-only."""
        self._send(address, memoryview(bytes(data)), None)

    def windows(
        self, fragments: Iterable[tuple[int, int]], *, writable: bool
    ) -> list[memoryview] | None:
        """Return views of what came along with the request, None for anything else."""
        if writable:
            return None
        views = []
        for address, length in fragments:
            found = self._unit.find(address, length, _READ)
            if found is None or found.data is None:
                return None
            start = address - found.address
            views.append(found.data[start : start + length].toreadonly())
        return views

    def staging(self, length: int) -> memoryview:
        """Return memory to fill and give to `write_staged`; see `StagingDma`."""
        kept = self._pool.get(length)
        return memoryview(kept.pop() if kept else bytearray(length))

    def write_staged(self, address: int, data: memoryview) -> None:
        """Send the start of memory from `staging`, which is not the caller's any more."""
        memory = data.obj
        self._send(address, data, lambda: self._take_back(memory))

    def write_lent(self, address: int, data: memoryview) -> None:
        """Send memory that goes on being somebody's; see `LendingDma`."""
        self._send(address, data, None)

    def _take_back(self, memory: object) -> None:
        if isinstance(memory, bytearray):
            if len(self._pool) >= _MAX_POOLED:
                self._pool.clear()
            kept = self._pool.setdefault(len(memory), [])
            if len(kept) < _MAX_POOLED:
                kept.append(memory)

    def _send(self, address: int, data: memoryview, on_sent: Callable[[], None] | None) -> None:
        length = len(data)
        if not length:
            return
        if self._unit.find(address, length, _WRITE) is not None:
            self._unit.send_memory(address, data, on_sent)
            return
        for start in range(0, length, _PIECE):
            piece = data[start : start + _PIECE]
            self._unit.store_memory(address + start, piece)


class WireUnit:
    """The queue pair of an IOP whose host is elsewhere.

    Args:
        frame_count: inbound frames.
        frame_size: bytes of each, a multiple of 4 and at least 64.
        on_misuse: called with a sentence when the host handles a frame wrongly.
        unanswered: functions of messages that have no reply.

    Raises:
        LocalFrameError: frames like that do not fit the addresses that frames can have.

    Attributes:
        dma: the host's memory.
        wait_for: called with a condition when the device has to wait for its host; returns
            whether it came true in time. Set by who carries the packets.
        must_power_cycle: the host wants the IOP's power cycled.
        is_ended: the host said BYE.
        reply_generation: how often replies were dropped.
        generation: how often frames were refilled.
    """

    def __init__(
        self,
        *,
        frame_count: int = 128,
        frame_size: int = 512,
        on_misuse: Callable[[str], None] = lambda sentence: None,
        unanswered: frozenset[int] = frozenset(),
    ) -> None:
        room = FRAME_AREA_END - FRAME_AREA
        if frame_size < MIN_FRAME_SIZE or frame_size % 4:
            raise LocalFrameError(
                f"inbound frames of {frame_size} bytes: at least {MIN_FRAME_SIZE}, whole words"
            )
        if not 1 <= frame_count <= room // frame_size:
            raise LocalFrameError(f"{frame_count} frames of {frame_size} bytes do not fit")
        self.frame_count, self.frame_size = frame_count, frame_size
        self._on_misuse, self._unanswered = on_misuse, unanswered
        self.dma: DmaSpace = WireDma(self)
        self.wait_for: Callable[[Callable[[], bool]], bool] = lambda is_done: is_done()
        self.must_power_cycle = self.is_ended = False
        self.generation = self.reply_generation = 0
        self._writer: StreamWriter | None = None
        self._reader: StreamReader | None = None
        self._starved = False
        self._with_device: set[int] = set()
        self._posts_left: dict[int, int] = {}
        self._static_frames: dict[int, bytes] = {}
        self._posted: deque[PostedFrame] = deque()
        self._reply_frames: deque[int] = deque()
        self._held: set[int] = set()
        self._ranges: list[Range] = []  # in front of the next POST
        self._arriving: Range | None = None
        self._open: OrderedDict[int, OpenRequest] = OrderedDict()
        self._serial = 0
        self._pushed = self._taken = 0
        self._answer: _Answer | None = None
        self._tag = 0
        self.refill()

    # --- a session -------------------------------------------------------------------------------

    def begin(self, writer: StreamWriter) -> None:
        """Begin a session; the host was told in its WELCOME how everything is."""
        self._forget_host()
        self._writer = writer
        self._reader = StreamReader(
            forms(HOST_KINDS),
            {
                Kind.BYE: self._on_bye,
                Kind.PING: lambda fields, text: self._tell(bytes((Kind.PONG,))),
                Kind.PONG: lambda fields, text: None,
                Kind.RANGE: self._on_range,
                Kind.POST: self._on_post,
                Kind.POST_STATIC: self._on_post_static,
                Kind.RELEASE: self._on_release,
                Kind.RELEASE_RUN: self._on_release_run,
                Kind.RESET: self._on_reset,
                Kind.DONE: self._on_done,
            },
            {Kind.RANGE: self._on_range_data, Kind.DATA: self._on_data},
            text_limit=self.frame_size,
        )

    def end(self) -> None:
        """End the session: there is no host any more. Whoever runs the IOP resets it."""
        self._writer = self._reader = None
        self._forget_host()

    def _forget_host(self) -> None:
        self._posted.clear()
        self._ranges.clear()
        self._arriving = None
        self._open.clear()
        self._pushed = self._taken = 0
        self.must_power_cycle = self.is_ended = False

    @property
    def welcome_flags(self) -> int:
        """What a WELCOME says of the unit."""
        return int(WelcomeFlags.STARVED) if self._starved else 0

    def take(self, head: Head, body: memoryview) -> None:
        """Take a packet; raises RemoteFrameError if the host cannot mean it."""
        reader, writer = self._reader, self._writer
        assert reader is not None
        assert writer is not None
        reader.take(head, body, writer)

    def settle(self) -> None:
        """Give back what the host may send along, if that is worth a record."""
        if self._taken:
            self._tell(_pack_taken(_TAKEN, self._taken))
            self._pushed -= self._taken
            self._taken = 0

    def take_power_cycle(self) -> bool:
        """Return whether the host asked for a power cycle since the last call."""
        asked, self.must_power_cycle = self.must_power_cycle, False
        return asked

    # --- what `DeviceUnit` asks for --------------------------------------------------------------

    def fetch(self) -> PostedFrame | None:
        """Pop the next posted request; none while too much waits for a slow host."""
        return self._posted.popleft() if self.posted_inbound() else None

    def recycle(self, mfa: int) -> None:
        """Put an inbound frame on the free list."""
        index = self._index(mfa)
        self._with_device.discard(index)
        self._tell(_pack_index(_FREE, index))

    def preserve(self, mfa: int) -> None:
        """Leave the frame with the host."""
        index = self._index(mfa)
        self._with_device.discard(index)
        latest = next((key for key in reversed(self._open) if self._open[key].mfa == mfa), None)
        if latest is not None:
            self._taken += self._open.pop(latest).pushed
        self._tell(_pack_index(Kind.PRESERVE, index))

    def withdraw(self, mfa: int) -> None:
        """Free a preserved frame that the host was never told of."""
        self._tell(_pack_index(_FREE, self._index(mfa)))

    def make_static(self, mfa: int, frame: bytes, posts: int) -> None:
        """Keep a fetched frame off the free list, with this message in it."""
        index = self._index(mfa)
        self._posts_left[index], self._static_frames[index] = posts, frame
        self._tell(_pack_static(Kind.STATIC, index, posts))

    def renew_static(self, mfa: int) -> None:
        """Let the host post a static frame once more."""
        index = self._index(mfa)
        self._posts_left[index] += 1
        self._tell(_pack_index(Kind.RENEW, index))

    def end_static(self, mfa: int) -> int:
        """Put a static frame on the free list; return how many posts were not fetched."""
        index = self._index(mfa)
        del self._posts_left[index], self._static_frames[index]
        before = len(self._posted)
        self._posted = deque(posted for posted in self._posted if posted.mfa != mfa)
        self.recycle(mfa)
        return before - len(self._posted)

    def take_reply_frame(self) -> int:
        """Pop a free reply frame, or EMPTY."""
        if not self._reply_frames:
            return EMPTY
        mfa = self._reply_frames.popleft()
        self._held.discard(mfa)
        return mfa

    def post_reply(self, mfa: int, data: bytes) -> None:
        """Send a reply, behind everything that was written to host memory for it."""
        if data[1] & _LAST:
            key = data[_KEY]
            self._close(lambda request: request.frame[_KEY] == key)
        words = (len(data) + 3) >> 2
        self._tell(_pack_reply(_REPLY, mfa, words) + data.ljust(4 * words, b"\0"))

    def drop_replies(self) -> None:
        """Forget every outbound frame, free and posted."""
        self._reply_frames.clear()
        self._held.clear()
        self.reply_generation = self.reply_generation + 1 & 0xFF
        self._tell(_pack_byte(Kind.DROP, self.reply_generation))

    def refill(self) -> None:
        """Make every inbound frame free again; posts on their way do not count."""
        self._posted.clear()
        self._posts_left.clear()
        self._static_frames.clear()
        self._with_device.clear()
        self._close(lambda request: True, most=_MAX_OPEN)
        self.generation = self.generation + 1 & 0xFF
        self._tell(_pack_byte(Kind.REFILL, self.generation))

    def starve(self, starved: bool) -> None:
        """Make the inbound port read empty, or end that."""
        self._starved = starved
        self._tell(_pack_byte(Kind.STARVE, int(starved)))

    def idle_inbound(self) -> int:
        """Return how many inbound frames are free or with the host."""
        return self.frame_count - len(self._with_device)

    def posted_inbound(self) -> int:
        """Return how many requests wait to be fetched, and can be."""
        writer = self._writer
        return 0 if writer is not None and writer.queued > _MAX_WAITING else len(self._posted)

    def idle_outbound(self) -> int:
        """Return how many free reply frames the device holds."""
        return len(self._reply_frames)

    def posted_outbound(self) -> int:
        """Return 0: replies that were sent are the host's."""
        return 0

    # --- for who passes on somebody else's frames ------------------------------------------------

    def ranges_of(self, mfa: int) -> list[Range]:
        """Return the memory that the request which was posted last in a frame points to."""
        for request in reversed(self._open.values()):
            if request.mfa == mfa:
                return request.ranges
        return []

    def ranges_answered(self, reply: bytes) -> list[Range]:
        """Return the memory that the request points to which a reply is about to answer."""
        key = reply[_KEY]
        for request in self._open.values():
            if request.frame[_KEY] == key:
                return request.ranges
        return []

    # --- host memory -----------------------------------------------------------------------------

    def find(self, address: int, length: int, flag: int) -> Range | None:
        """Return a range that an open request told of and that covers a piece of memory."""
        end = address + length
        for count, request in enumerate(reversed(self._open.values())):
            for known in request.ranges:
                if known.address <= address and end <= known.end and known.flags & flag:
                    return known
            if count >= _MAX_SEARCH:
                break
        return None

    def send_memory(
        self, address: int, data: memoryview, on_sent: Callable[[], None] | None
    ) -> None:
        """Send data that stay unchanged until `on_sent` is called."""
        writer = self._writer
        if writer is None:
            return
        writer.add(_pack_place(_WRITE_KIND, address, len(data)))
        writer.add_data(data, on_sent)
        if writer.queued > 2 * _MAX_WAITING:
            self.wait_for(lambda: self._writer is not writer or writer.queued <= _MAX_WAITING)

    def fetch_memory(self, address: int, length: int) -> bytes:
        """Ask the host for what is in its memory, and wait for it; raises DmaFault."""
        return bytes(self._ask(Kind.FETCH, address, length, None))

    def store_memory(self, address: int, data: memoryview) -> None:
        """Write host memory and wait until that is done; raises DmaFault."""
        self._ask(Kind.STORE, address, len(data), data)

    def _ask(self, kind: Kind, address: int, length: int, data: memoryview | None) -> bytearray:
        self._tag = self._tag + 1 & 0xFF
        writer = self._writer
        if writer is None:
            raise DmaFault(address, length, "there is no host")
        answer = self._answer = _Answer(self._tag, length if data is None else 0)
        writer.add(_pack_ask(kind, self._tag, address, length))
        if data is not None:
            writer.add_data(bytes(data))
        is_done = self.wait_for(lambda: answer.is_there or self._writer is not writer)
        self._answer = None
        if not is_done or not answer.is_there:
            raise DmaFault(address, length, "the host does not answer")
        if answer.status != Status.OK:
            raise DmaFault(address, length)
        return answer.data

    def _close(self, is_meant: Callable[[OpenRequest], bool], *, most: int = 1) -> None:
        """Forget the ranges of requests that need them no more, the oldest first."""
        found = [serial for serial, request in self._open.items() if is_meant(request)][:most]
        for serial in found:
            self._taken += self._open.pop(serial).pushed

    # --- what comes in --------------------------------------------------------------------------

    def _on_bye(self, fields: tuple[int, ...], text: memoryview) -> None:
        self.is_ended = True

    def _on_reset(self, fields: tuple[int, ...], text: memoryview) -> None:
        self.must_power_cycle = True

    def _on_range(self, fields: tuple[int, ...], text: memoryview) -> None:
        flags, address, length = fields
        if len(self._ranges) >= MAX_RANGES:
            raise RemoteFrameError(f"more than {MAX_RANGES} ranges in front of a POST")
        if not flags & (_READ | _WRITE) or address + length > 1 << 32:
            raise RemoteFrameError(f"a range of {length} bytes at {address:#010x}, flags {flags}")
        self._ranges.append(Range(address, length, flags))

    def _on_range_data(self, fields: tuple[int, ...], done: int, piece: memoryview) -> None:
        _, _, length = fields
        if not done:
            if self._pushed + length > PUSH_LIMIT:
                raise RemoteFrameError(f"{length} bytes came along, more than was allowed")
            self._on_range(fields, piece)
            self._pushed += length
            self._arriving = self._ranges[-1]
            self._arriving.data = memoryview(bytearray(length))
        arriving = self._arriving
        assert arriving is not None
        assert arriving.data is not None
        arriving.data[done : done + len(piece)] = piece

    def _on_post(self, fields: tuple[int, ...], text: memoryview) -> None:
        generation, index, _ = fields
        ranges, self._ranges = self._ranges, []
        pushed = sum(len(known.data) for known in ranges if known.data is not None)
        if generation != self.generation:
            self._taken += pushed
            return  # posted before the host knew of a reset: the frame is free
        if index >= self.frame_count or index in self._with_device or len(text) < HEADER_SIZE:
            self._taken += pushed
            self._on_misuse(f"inbound frame {index} was posted, but the host does not hold it")
            return
        self._with_device.add(index)
        mfa, frame = FRAME_AREA + index * self.frame_size, text.tobytes()
        if ranges:
            self._remember(OpenRequest(mfa, frame, ranges, pushed))
        self._posted.append(PostedFrame(mfa, frame))

    def _remember(self, request: OpenRequest) -> None:
        if request.frame[7] in self._unanswered:  # the one before it in this frame is done
            self._close(
                lambda other: other.mfa == request.mfa and other.frame[7] in self._unanswered
            )
        self._serial += 1
        self._open[self._serial] = request
        if len(self._open) > _MAX_OPEN:
            self._taken += self._open.popitem(last=False)[1].pushed

    def _on_post_static(self, fields: tuple[int, ...], text: memoryview) -> None:
        generation, index = fields
        if generation != self.generation:
            return
        if not self._posts_left.get(index, 0):
            self._on_misuse(f"inbound frame {index} was posted, but is no static frame any more")
            return
        self._posts_left[index] -= 1
        mfa = FRAME_AREA + index * self.frame_size
        self._posted.append(PostedFrame(mfa, self._static_frames[index]))

    def _on_release(self, fields: tuple[int, ...], text: memoryview) -> None:
        generation, address = fields
        if generation == self.reply_generation:  # else the host did not know yet that it is void
            self._hand_in(address)

    def _on_release_run(self, fields: tuple[int, ...], text: memoryview) -> None:
        generation, address, step, count = fields
        if address + step * count > 1 << 32:
            raise RemoteFrameError(f"{count} reply frames from {address:#010x} on")
        if generation == self.reply_generation:
            for place in range(count):
                self._hand_in(address + place * step)

    def _hand_in(self, address: int) -> None:
        if address in self._held:
            self._on_misuse(f"reply frame {address:#010x} was released twice: the IOP holds it")
        elif address % 4 or len(self._held) >= MAX_RELEASED:
            raise RemoteFrameError(f"reply frame {address:#010x} is one too many, or no frame")
        else:
            self._held.add(address)
            self._reply_frames.append(address)

    def _on_data(self, fields: tuple[int, ...], done: int, piece: memoryview) -> None:
        tag, length = fields
        answer = self._answer
        if answer is None or answer.tag != tag:
            return  # too late
        if length != len(answer.data):
            raise RemoteFrameError(f"{length} bytes in answer to a FETCH of {len(answer.data)}")
        answer.data[done : done + len(piece)] = piece
        answer.is_there = done + len(piece) == length

    def _on_done(self, fields: tuple[int, ...], text: memoryview) -> None:
        tag, status = fields
        if self._answer is not None and self._answer.tag == tag:
            self._answer.is_there, self._answer.status = True, status

    # ---------------------------------------------------------------------------------------------

    def _index(self, mfa: int) -> int:
        return (mfa - FRAME_AREA) // self.frame_size

    def _tell(self, record: bytes) -> None:
        if self._writer is not None:
            self._writer.add(record)
