# SPDX-License-Identifier: Apache-2.0
"""Records the host memory that requests point to.

A tap beside a queue pair cannot see DMA. It knows where the device is going to read and write,
and looks at that memory itself: what the device reads when the request is posted, what it wrote
when the final reply is there. Messages that are answered through memory have no reply; their
memory is looked at whenever the host takes it back, and recorded if it changed.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Final, NamedTuple, Protocol, runtime_checkable

from i2o.errors import I2OError
from i2o.frames.header import HEADER_SIZE, MsgFlags, ReqStatus
from i2o.frames.sgl_walk import ReadHost
from i2o.transport.capture.packet import Channel
from i2o.transport.capture.recorder import IopRecorder
from i2o.transport.host_memory import HostBuffer, HostMemory

MAX_OWED: Final = 4096
"""Requests whose reply is awaited; then the oldest is forgotten."""
MAX_RANGES: Final = 1 << 16
"""Pieces of memory of all those requests."""
MAX_WATCHED: Final = 64
"""Pieces of memory that messages without a reply are answered through."""

MAX_ALIKE: Final = 64
"""Requests with the same contexts that a reply is compared with."""

_LAST, _FAIL = MsgFlags.LAST.value, MsgFlags.FAIL.value
_STATUS: Final = 19
_TRANSFER_COUNT: Final = slice(20, 24)  # in the replies of disks, tapes and SCSI devices
_PRESERVED: Final = slice(28, 32)
NOTHING_MOVED: Final = frozenset(
    {
        ReqStatus.ABORT_NO_DATA_TRANSFER.value,
        ReqStatus.ERROR_NO_DATA_TRANSFER.value,
        ReqStatus.PROCESS_ABORT_NO_DATA_TRANSFER.value,
    }
)
_TO_DEVICE, _FROM_DEVICE = Channel.TO_DEVICE.value, Channel.FROM_DEVICE.value

Range = tuple[int, int, int, int, bool]
"""(logical buffer, offset in it, bus address, length, whether the device reads it)"""


class FindRanges(Protocol):
    """Finds the host memory that a request points to."""

    def __call__(self, frame: bytes, /, *, read_host: ReadHost | None) -> Sequence[Range]:
        """Return them in order; `read_host` reads chained lists."""


@dataclass(frozen=True, slots=True)
class TapRules:
    """What a tap must be told about messages, since transports know no function codes.

    Attributes:
        unanswered: functions that are answered through memory, or not at all.
        reply_frame_size: returns the bytes of a reply frame if an unanswered request sets that,
            which also ends all requests from before; 0 for other requests.
        find_ranges: finds the host memory of a request; None if nobody can tell.
        is_bulk: whether a request moves data, which is cut, and not structures.
    """

    unanswered: frozenset[int] = frozenset()
    reply_frame_size: Callable[[bytes], int] | None = None
    find_ranges: FindRanges | None = None
    is_bulk: Callable[[bytes], bool] | None = None


@runtime_checkable
class LearningPort(Protocol):
    """A port that can make use of knowing what messages mean."""

    def learn(self, rules: TapRules) -> None:
        """Take what there is to know."""


class _Owed(NamedTuple):
    """A request that the device writes memory for."""

    serial: int
    key: bytes
    mfa: int
    ranges: list[tuple[int, int]]
    limit: int


class _Watched:
    """Memory that is going to change without a reply."""

    __slots__ = ("address", "before", "length", "limit", "mfa")

    def __init__(self, mfa: int, address: int, length: int, limit: int, before: bytes) -> None:
        self.mfa, self.address, self.length, self.limit = mfa, address, length, limit
        self.before = before


class DmaTap:
    """The books of one IOP: which memory to look at, and when.

    Args:
        memory: the port's own.
        recorder: who is told.
        rules: where requests point to.
    """

    def __init__(self, memory: HostMemory, recorder: IopRecorder, rules: TapRules) -> None:
        self._memory, self._recorder, self._rules = memory, recorder, rules
        self._lock = threading.RLock()  # senders, receivers and owners of buffers come in
        self._owed: dict[bytes, deque[_Owed]] = {}  # by words 1 to 3, the oldest first
        self._in_order: dict[int, _Owed] = {}
        self._serial = self._range_count = 0
        self._watched: list[_Watched] = []

    def requested(self, time_ns: int, mfa: int, frame: bytes) -> None:
        """Record what the device is going to read, and remember where it is going to write."""
        find, is_bulk = self._rules.find_ranges, self._rules.is_bulk
        if find is None or len(frame) < HEADER_SIZE:
            return
        ranges = find(frame, read_host=self._memory.window)
        if not ranges:
            return
        recorder = self._recorder
        bulk = is_bulk is not None and is_bulk(frame)
        limit = recorder.bulk_bytes if bulk else recorder.table_bytes
        written = []
        for _, _, address, length, to_device in ranges:
            if to_device:
                data = self._look(address, min(length, limit))
                if data is not None:
                    recorder.dma(time_ns, _TO_DEVICE, mfa, address, data, length)
            else:
                written.append((address, length))
        if not written:
            return
        with self._lock:
            if frame[7] in self._rules.unanswered:
                self._watch(mfa, written, limit)
            else:
                self._serial += 1
                self._remember(_Owed(self._serial, frame[4:HEADER_SIZE], mfa, written, limit))

    def replied(self, time_ns: int, frame: bytes) -> None:
        """Record what the device has written, if this is the final reply to a request."""
        if not self._owed or len(frame) < HEADER_SIZE or not frame[1] & _LAST:
            return
        with self._lock:
            if frame[1] & _FAIL:
                self._forget_failed(frame)
                return
            key = frame[4:HEADER_SIZE]
            owed = self._take(key, frame) or self._take(_swapped(key), frame)
        if owed is None or (len(frame) > _STATUS and frame[_STATUS] in NOTHING_MOVED):
            return
        for address, length in owed.ranges:
            data = self._look(address, min(length, owed.limit))
            if data is not None:
                self._recorder.dma(time_ns, _FROM_DEVICE, owed.mfa, address, data, length)

    def looked(self, address: int, length: int, *, is_last: bool = False) -> None:
        """Record what changed in a piece of memory that the host takes back.

        Args:
            address: where it starts.
            length: bytes.
            is_last: it is about to be freed.
        """
        if not self._watched:
            return
        with self._lock:
            for watched in tuple(self._watched):
                if (
                    address < watched.address + watched.length
                    and watched.address < address + length
                ):
                    self._record_change(watched)
                    if is_last:
                        self._watched.remove(watched)

    def look_everywhere(self) -> None:
        """Record what changed in all memory that is watched."""
        with self._lock:
            for watched in self._watched:
                self._record_change(watched)

    def forget(self) -> None:
        """Forget all requests: the IOP was reset."""
        with self._lock:
            self._owed.clear()
            self._in_order.clear()
            self._range_count = 0
            self._watched.clear()

    # ---------------------------------------------------------------------------------------------

    def _look(self, address: int, length: int) -> bytes | None:
        """Copy memory; None if it is not the host's, or gone."""
        try:
            return self._memory.window(address, length).tobytes()
        except (I2OError, ValueError):  # ValueError: somebody released the view
            return None

    def _watch(self, mfa: int, ranges: list[tuple[int, int]], limit: int) -> None:
        for address, length in ranges:
            before = self._look(address, min(length, limit))
            if before is not None:
                self._watched.append(_Watched(mfa, address, length, limit, before))
        del self._watched[:-MAX_WATCHED]

    def _record_change(self, watched: _Watched) -> None:
        data = self._look(watched.address, len(watched.before))
        if data is not None and data != watched.before:
            watched.before = data
            self._recorder.dma(
                time.time_ns(), _FROM_DEVICE, watched.mfa, watched.address, data, watched.length
            )

    def _remember(self, owed: _Owed) -> None:
        self._owed.setdefault(owed.key, deque()).append(owed)
        self._in_order[owed.serial] = owed
        self._range_count += len(owed.ranges)
        while len(self._in_order) > MAX_OWED or self._range_count > MAX_RANGES:
            self._drop(next(iter(self._in_order.values())))

    def _take(self, key: bytes, reply: bytes) -> _Owed | None:
        """Remove the request that a reply answers.

        Of several alike it is the first one with room for just as many bytes as the reply says
        were moved, else the oldest; decoders choose by the same rule.
        """
        alike = self._owed.get(key)
        if not alike:
            return None
        owed = alike[0]
        if len(alike) > 1:
            moved = int.from_bytes(reply[_TRANSFER_COUNT], "little")
            for other in islice(alike, MAX_ALIKE):
                if moved and sum(length for _, length in other.ranges) == moved:
                    owed = other
                    break
        self._drop(owed)
        return owed

    def _drop(self, owed: _Owed) -> None:
        """Remove a request from the books."""
        alike = self._owed[owed.key]
        alike.remove(owed)
        if not alike:
            del self._owed[owed.key]
        del self._in_order[owed.serial]
        self._range_count -= len(owed.ranges)

    def _forget_failed(self, frame: bytes) -> None:
        """Forget the request of a FAIL reply, whose transaction context is not valid."""
        mfa = int.from_bytes(frame[_PRESERVED], "little")
        for owed in self._in_order.values():
            if owed.mfa == mfa and owed.key[:8] == frame[4:12]:
                self._drop(owed)
                return


class TappedBuffer:
    """A buffer whose owner lets the tap look when it looks itself; a `HostBuffer`."""

    __slots__ = ("_buffer", "_looked", "bus_address", "segments", "to_device", "view")

    def __init__(self, buffer: HostBuffer, looked: Callable[..., None]) -> None:
        self._buffer, self._looked = buffer, looked
        self.view, self.bus_address, self.segments = (
            buffer.view,
            buffer.bus_address,
            buffer.segments,
        )
        self.to_device = buffer.to_device

    def from_device(self, offset: int = 0, length: int | None = None) -> None:
        """Take the range back from the device."""
        self._buffer.from_device(offset, length)
        for segment in self.segments:
            self._looked(*segment)

    def free(self) -> None:
        """Give the bus addresses back."""
        for segment in self.segments:
            self._looked(*segment, is_last=True)
        self._buffer.free()


class TappedMemory:
    """A port's memory whose buffers let a tap look; a `HostMemory`.

    Args:
        memory: the port's own.
        dma: the tap.
    """

    def __init__(self, memory: HostMemory, dma: DmaTap) -> None:
        self._memory, self._looked = memory, dma.looked
        self.window = memory.window

    def __getattr__(self, name: str) -> Any:
        return getattr(self._memory, name)

    def allocate(self, size: int, align: int = 4096) -> HostBuffer:
        """Return a zeroed buffer."""
        return TappedBuffer(self._memory.allocate(size, align), self._looked)

    def map(self, buffer: memoryview) -> HostBuffer | None:
        """Give the caller's own memory a bus address, if the port can."""
        mapped = self._memory.map(buffer)
        return None if mapped is None else TappedBuffer(mapped, self._looked)


def _swapped(key: bytes) -> bytes:
    """Return a key with its TIDs exchanged: some IOPs wrongly do so in replies."""
    route = int.from_bytes(key[:3], "little")
    return (route >> 12 | (route & 0xFFF) << 12).to_bytes(3, "little") + key[3:]
