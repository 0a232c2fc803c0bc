# SPDX-License-Identifier: Apache-2.0
"""A random block storage device as a program uses it: bytes at offsets, or a file.

Transfers of any offset and size are cut into requests that device and frame can take, with several
in flight. Where the transport can reach the caller's own memory nothing is copied on the way.
Partial blocks at either end go through one block of our own; writing them reads that block first.
"""

from __future__ import annotations

import io
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from i2o.block_file import BlockFile
from i2o.closing import Closing
from i2o.errors import InvalidArgument, ParameterError, RequestFailed
from i2o.flight import BLOCK_CLASS, Flight, Progress, Reporter, is_bad, raise_for_transfer
from i2o.frames.block_storage import (
    BSA_BLOCK_READ,
    BSA_BLOCK_WRITE,
    BSA_CACHE_FLUSH,
    BSA_STATUS_CHECK,
)
from i2o.frames.block_storage_groups import BSA_DEVICE_INFO, BsaCapability, BsaState
from i2o.frames.header import VERSION_1_5, SpecialTid
from i2o.frames.layout import MessageLayout, structure
from i2o.frames.params import SGL_OPERATING_LIMITS
from i2o.frames.sgl import MAX_COUNT, SGE_SIMPLE, SglElementType, SglFlags, simple_sgl
from i2o.message_frames import ReplyFrame
from i2o.parameters import get_group
from i2o.replies import raise_for_status
from i2o.requester import Pending, Requester
from i2o.transport.host_memory import HostBuffer, HostMemory
from i2o.transport.port import NO_LIMITS, RequestLimits

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer, WriteableBuffer

MAX_TRANSFER: Final = 256 << 10
"""Largest request in bytes, unless the device takes less."""
QUEUE_DEPTH: Final = 8
"""Requests in flight of one transfer."""
MAX_BLOCK_SIZE: Final = 1 << 20
_SECTOR: Final = 512  # what limits of cards are counted in
_ELEMENT_SIZE: Final = 8  # a simple element with a 32-bit address
_HOST: Final = int(SpecialTid.HOST)

_TRANSFERS: Final = {
    layout.name: structure(
        f"{layout.name}_of_one_piece",
        *layout.parts,
        *SGE_SIMPLE.parts,
        chapter="bsa",
        note="The usual transfer: the message and its only simple element in one.",
    )
    for layout in (BSA_BLOCK_READ, BSA_BLOCK_WRITE)
}
_TRANSFER_WORDS: Final = (BSA_BLOCK_READ.size + SGE_SIMPLE.size) // 4
_SGL_OFFSET: Final = BSA_BLOCK_READ.sgl_word_offset << 4 | VERSION_1_5
_READ_FLAGS: Final = (
    SglElementType.SIMPLE_ADDRESS_ELEMENT.value
    | SglFlags.LAST_ELEMENT.value
    | SglFlags.END_OF_BUFFER.value
)
_WRITE_FLAGS: Final = _READ_FLAGS | SglFlags.DIR.value


class BlockDevice(Closing):
    """One random block storage device of an IOP.

    Args:
        requester: sends the messages.
        memory: where buffers come from.
        tid: the device.
        frame_size: bytes of an inbound frame; bounds the scatter/gather list.
        limits: what the card takes with one request.
        on_close: called once when the device is closed (gives the claim back).

    Attributes:
        size: bytes.
        block_size: bytes of the smallest unit that can be read or written.
        read_only: the device or its medium refuses writes.
    """

    def __init__(
        self,
        requester: Requester,
        memory: HostMemory,
        tid: int,
        *,
        frame_size: int,
        limits: RequestLimits = NO_LIMITS,
        on_close: Callable[[], None] | None = None,
    ) -> None:
        self._requester, self._memory, self.tid = requester, memory, tid
        self._on_close = on_close
        self._closed = False
        self._unflushed = False
        info = get_group(requester, memory, tid, BSA_DEVICE_INFO)
        self.block_size = _number(info, "block_size")
        self.size = _number(info, "device_capacity")
        if not 1 <= self.block_size <= MAX_BLOCK_SIZE or self.block_size & self.block_size - 1:
            raise ParameterError(f"TID {tid:#05x} claims a block size of {self.block_size} bytes")
        self.read_only = bool(
            _number(info, "device_state") & BsaState.READ_ONLY
            or _number(info, "device_capability_support") & BsaCapability.READ_ONLY
        )
        self._block_mask = self.block_size - 1
        self._max_elements = min(
            (frame_size - BSA_BLOCK_READ.size) // _ELEMENT_SIZE,
            self._fragment_limit(),
            limits.segments or 0xFFFF,
        )
        self._largest = 0  # any size
        if limits.sectors:
            whole_blocks = limits.sectors * _SECTOR & -self.block_size
            self._largest = max(self.block_size, whole_blocks)
        self._max_transfer = max(self.block_size, min(MAX_TRANSFER, self._largest or MAX_TRANSFER))
        self._queue_depth = QUEUE_DEPTH

    @property
    def max_transfer(self) -> int:
        """Bytes of the largest request; set it to a multiple of the block size."""
        return self._max_transfer

    @max_transfer.setter
    def max_transfer(self, size: int) -> None:
        if size < self.block_size or size % self.block_size:
            raise InvalidArgument(f"max_transfer {size}: expected whole blocks, one at least")
        if 0 < self._largest < size:
            raise InvalidArgument(
                f"max_transfer {size}: the card takes {self._largest} bytes with one request"
            )
        self._max_transfer = size

    @property
    def queue_depth(self) -> int:
        """Requests of one transfer that may be in flight; 1 or more."""
        return self._queue_depth

    @queue_depth.setter
    def queue_depth(self, depth: int) -> None:
        if depth < 1:
            raise InvalidArgument(f"queue_depth {depth}: expected 1 or more")
        self._queue_depth = depth

    # --- reading -------------------------------------------------------------------------------

    def read(self, offset: int, length: int, *, progress: Progress | None = None) -> bytes:
        """Read bytes.

        Args:
            offset: first byte.
            length: how many.
            progress: called as the transfer goes on.

        Raises:
            InvalidArgument: the range is not inside the device.
            RequestFailed: the device reported an error; `delivered` says how many bytes `readinto`
                had put into the buffer, `address` which byte failed.
            RequestTimeout: it did not answer.
        """
        self._check_range(offset, length)
        buffer = bytearray(length)
        self.readinto(offset, buffer, progress=progress)
        return bytes(buffer)

    def readinto(
        self, offset: int, buffer: WriteableBuffer, *, progress: Progress | None = None
    ) -> int:
        """Fill a buffer from the device, without a copy where the transport allows.

        Returns:
            The buffer's length in bytes: always all of it.

        Raises: as `read`.
        """
        view = memoryview(buffer).cast("B")
        total = len(view)
        self._check_range(offset, total)
        if view.readonly:
            raise InvalidArgument("a read-only buffer cannot be read into")
        if not (offset | total) & self._block_mask and 0 < total <= self.max_transfer:
            self._transfer_one(BSA_BLOCK_READ, offset, view)
            if progress is not None:
                progress(total, total)
            return total
        report = Reporter(progress, total)
        first, last = self._whole_blocks(offset, total)
        done = 0
        try:
            if first > 0:
                view[:first] = self._read_partial(offset, first)
                report.add(first)
                done = first
            if last > first:
                self._transfer(BSA_BLOCK_READ, offset + first, view[first:last], report)
                done = last
            if last < total:
                view[last:] = self._read_partial(offset + last, total - last)
                report.add(total - last)
        except RequestFailed as error:
            error.delivered += done
            raise
        return total

    # --- writing -------------------------------------------------------------------------------

    def write(self, offset: int, data: ReadableBuffer, *, progress: Progress | None = None) -> int:
        """Write bytes. They are on the medium after `flush`.

        Returns:
            How many: always all.

        Raises:
            InvalidArgument: the range is not inside the device.
            RequestFailed: the device reported an error (WRITE_PROTECTED on a read-only one).
            RequestTimeout: it did not answer.
        """
        view = memoryview(data).cast("B")
        total = len(view)
        self._check_range(offset, total)
        report = Reporter(progress, total)
        first, last = self._whole_blocks(offset, total)
        if total:
            self._unflushed = True
        if first > 0:
            self._write_partial(offset, view[:first])
            report.add(first)
        if last > first:
            self._transfer(BSA_BLOCK_WRITE, offset + first, view[first:last], report)
        if last < total:
            self._write_partial(offset + last, view[last:])
            report.add(total - last)
        return total

    def flush(self) -> None:
        """Have everything written so far put on the medium (BsaCacheFlush)."""
        self._unflushed = False  # before it is sent: a write meanwhile counts as unflushed
        try:
            reply = self._requester.call(BSA_CACHE_FLUSH.build(target_address=self.tid))
            raise_for_status(reply, f"BsaCacheFlush of TID {self.tid:#05x}", BLOCK_CLASS)
        except BaseException:
            self._unflushed = True
            raise

    def status_check(self) -> None:
        """Ask whether the device is ready (BsaStatusCheck); raises RequestFailed if not."""
        reply = self._requester.call(BSA_STATUS_CHECK.build(target_address=self.tid))
        raise_for_status(reply, f"BsaStatusCheck of TID {self.tid:#05x}", BLOCK_CLASS)

    # --- without waiting -----------------------------------------------------------------------

    def start(
        self,
        layout: MessageLayout,
        offset: int,
        buffer: HostBuffer,
        size: int,
        on_reply: Callable[[ReplyFrame], None],
    ) -> Pending:
        """Send one request, without waiting for a frame or for the reply; see `i2o.block_queue`.

        Args:
            layout: BSA_BLOCK_READ or BSA_BLOCK_WRITE.
            offset: first byte, of a block.
            buffer: `size` bytes; freed by `Pending.release`, or here if nothing is sent.
            size: bytes, whole blocks.
            on_reply: called with the final reply.

        Raises:
            InvalidArgument: the device is closed, or the range is not inside it.
            OutOfFrames: no frame is free.
        """
        try:
            self._check_range(offset, size)
            message = self._message(layout, offset, buffer, 0, size)
        except BaseException:
            buffer.free()
            raise
        if layout is BSA_BLOCK_WRITE:
            self._unflushed = True
        return self._requester.start(message, buffers=(buffer,), wait_us=0, on_reply=on_reply)

    def start_flush(self, on_reply: Callable[[ReplyFrame], None]) -> Pending:
        """Send BsaCacheFlush, without waiting; raises as `start`."""
        self._check_range(0, 0)
        message = BSA_CACHE_FLUSH.build(target_address=self.tid)
        return self._requester.start(message, wait_us=0, on_reply=on_reply)

    # --- as a file -----------------------------------------------------------------------------

    def as_file(
        self, *, writable: bool = False, buffer_size: int = MAX_TRANSFER
    ) -> io.BufferedReader | io.BufferedRandom:
        """Return the device as a buffered file object; closing it leaves the device open."""
        raw = BlockFile(self, writable=writable)
        if writable:
            return io.BufferedRandom(raw, buffer_size)
        return io.BufferedReader(raw, buffer_size)

    def close(self) -> None:
        """Flush what was written and give the device back; again does nothing."""
        if self._closed:
            return
        self._closed = True
        try:
            if self._unflushed:
                self.flush()
        finally:
            if self._on_close is not None:
                self._on_close()

    # -------------------------------------------------------------------------------------------

    def _fragment_limit(self) -> int:
        """Return how many SGL elements the device takes, if it says (group 0xF103)."""
        try:
            limits = get_group(self._requester, self._memory, self.tid, SGL_OPERATING_LIMITS)
        except (ParameterError, RequestFailed):
            return 0xFFFF
        return _number(limits, "sgl_frag_count") or 0xFFFF

    def _check_range(self, offset: int, length: int) -> None:
        if self._closed:
            raise InvalidArgument(f"block device {self.tid:#05x} is closed")
        if offset < 0 or length < 0 or offset + length > self.size:
            raise InvalidArgument(
                f"bytes {offset} to {offset + length} are not inside the device's {self.size}"
            )

    def _whole_blocks(self, offset: int, total: int) -> tuple[int, int]:
        """Return where the whole blocks start and end, relative to `offset`."""
        head = -offset % self.block_size
        if head >= total:  # all of it is part of one block
            return total, total
        return head, head + (total - head) // self.block_size * self.block_size

    def _read_partial(self, offset: int, length: int) -> memoryview:
        """Read part of one block."""
        start = offset - offset % self.block_size
        block = bytearray(self.block_size)
        try:
            self._transfer(BSA_BLOCK_READ, start, memoryview(block), Reporter(None, 0))
        except RequestFailed as error:
            error.delivered = 0  # what came of the block is not in the caller's buffer
            raise
        return memoryview(block)[offset - start : offset - start + length]

    def _write_partial(self, offset: int, data: memoryview) -> None:
        """Change part of one block: read it, change it, write it."""
        start = offset - offset % self.block_size
        block = bytearray(self.block_size)
        quiet = Reporter(None, 0)
        self._transfer(BSA_BLOCK_READ, start, memoryview(block), quiet)
        block[offset - start : offset - start + len(data)] = data
        self._transfer(BSA_BLOCK_WRITE, start, memoryview(block), quiet)

    def _transfer(
        self, layout: MessageLayout, offset: int, view: memoryview, report: Reporter
    ) -> None:
        """Move whole blocks, several requests in flight."""
        mapped = self._memory.map(view)
        if mapped is None:
            self._transfer_copied(layout, offset, view, report)
            return
        flight = Flight(self._requester, report, self._what(layout, offset))
        try:
            for start, size in self._chunks(len(view)):
                if flight.depth >= self.queue_depth:
                    flight.land()
                message = self._message(layout, offset + start, mapped, start, size)
                flight.launch(self._requester.start(message), size)
            while flight.depth:
                flight.land()
        finally:
            flight.settle(mapped)

    def _transfer_one(self, layout: MessageLayout, offset: int, view: memoryview) -> None:
        """Move whole blocks that fit one request."""
        mapped = self._memory.map(view)
        if mapped is None:
            self._transfer_copied(layout, offset, view, Reporter(None, 0))
            return
        try:
            message = self._message(layout, offset, mapped, 0, len(view))
        except BaseException:
            mapped.free()
            raise
        reply = self._requester.call(message, buffers=(mapped,))
        if is_bad(reply, len(view)):
            raise_for_transfer(reply, len(view), self._what(layout, offset))

    def _transfer_copied(
        self, layout: MessageLayout, offset: int, view: memoryview, report: Reporter
    ) -> None:
        """Move whole blocks through buffers of the transport's own."""
        reading = layout is BSA_BLOCK_READ
        flight = Flight(self._requester, report, self._what(layout, offset))
        places: deque[tuple[HostBuffer, int, int]] = deque()

        def take(count: int) -> None:
            buffer, start, _ = places[0]
            buffer.from_device()
            view[start : start + count] = buffer.view[:count]

        def land() -> None:
            try:
                flight.land()
            except RequestFailed as error:
                if reading:
                    take(error.delivered - places[0][1])
                raise
            if reading:
                take(places[0][2])
            places.popleft()[0].free()

        try:
            for start, size in self._chunks(len(view)):
                if flight.depth >= self.queue_depth:
                    land()
                buffer = self._memory.allocate(size)
                if not reading:
                    buffer.view[:size] = view[start : start + size]
                    buffer.to_device()
                try:
                    message = self._message(layout, offset + start, buffer, 0, size)
                    pending = self._requester.start(message)
                except BaseException:
                    buffer.free()
                    raise
                flight.launch(pending, size)
                places.append((buffer, start, size))
            while flight.depth:
                land()
        finally:
            flight.settle(*(buffer for buffer, _, _ in places))

    def _chunks(self, total: int) -> list[tuple[int, int]]:
        step = self.max_transfer
        return [(start, min(step, total - start)) for start in range(0, total, step)]

    def _message(
        self, layout: MessageLayout, offset: int, buffer: HostBuffer, start: int, size: int
    ) -> bytes:
        segments = buffer.segments
        if len(segments) == 1 and size <= MAX_COUNT and self._max_elements:
            whole: bytes = _TRANSFERS[layout.name].build(
                version_offset=_SGL_OFFSET,
                message_size=_TRANSFER_WORDS,
                target_address=self.tid,
                initiator_address=_HOST,
                function=layout.function,
                time_multiplier=1,
                transfer_byte_count=size,
                logical_byte_address=offset,
                flags_count_count=size,
                flags_count_flags=_READ_FLAGS if layout is BSA_BLOCK_READ else _WRITE_FLAGS,
                physical_address=segments[0][0] + start,
            )
            return whole
        pieces = _slice_segments(segments, start, size)
        if len(pieces) > self._max_elements:
            raise InvalidArgument(
                f"{size} bytes in {len(pieces)} pieces: the device takes "
                f"{self._max_elements} a request; lower max_transfer"
            )
        sgl = simple_sgl(pieces, out=layout is BSA_BLOCK_WRITE)
        head: bytes = layout.build(
            target_address=self.tid,
            message_size=(layout.size + len(sgl)) >> 2,
            time_multiplier=1,
            transfer_byte_count=size,
            logical_byte_address=offset,
        )
        return head + sgl

    def _what(self, layout: MessageLayout, offset: int) -> str:
        return f"{layout.name} of TID {self.tid:#05x} from byte {offset}"


def _slice_segments(
    segments: tuple[tuple[int, int], ...], start: int, size: int
) -> list[tuple[int, int]]:
    """Return the bus ranges of part of a scattered buffer."""
    pieces = []
    for address, length in segments:
        if start >= length:
            start -= length
            continue
        take = min(length - start, size)
        pieces.append((address + start, take))
        start, size = 0, size - take
        if not size:
            break
    return pieces


def _number(values: dict[str, int | bytes], name: str) -> int:
    value = values.get(name)
    if not isinstance(value, int):
        raise ParameterError(f"the device does not tell its {name}")
    return value
