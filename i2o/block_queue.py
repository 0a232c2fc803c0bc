# SPDX-License-Identifier: Apache-2.0
"""Transfers of a block device for a program that has its own loop: many at once, none waited for.

Each transfer ends once, in a callback that `MessageLayer.poll`, `pump` or `expire` makes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Final

from i2o.block import BlockDevice
from i2o.clock import Clock
from i2o.errors import I2OError, InvalidArgument, OutOfFrames
from i2o.flight import BLOCK_CLASS, is_bad, raise_for_transfer
from i2o.frames.block_storage import BSA_BLOCK_READ, BSA_BLOCK_WRITE, BSA_CACHE_FLUSH
from i2o.frames.layout import MessageLayout
from i2o.message_frames import ReplyFrame
from i2o.replies import raise_for_status
from i2o.requester import Pending, Requester
from i2o.transport.host_memory import HostBuffer, HostMemory

Done = Callable[[memoryview, Exception | None], object]
"""Called with the bytes of a transfer, and with why it failed or None. It must not raise."""

_NS: Final = 1_000_000_000


class BlockQueue:
    """Sends requests of transfers in order, as many at once as the device's queue depth says.

    Args:
        device: the disk.
        requester: what the device sends with; its timeout is that of a request.
        memory: where buffers come from.
        clock: tells how long a request has been on its way.
    """

    def __init__(
        self, device: BlockDevice, requester: Requester, memory: HostMemory, clock: Clock
    ) -> None:
        self._device, self._requester = device, requester
        self._memory, self._clock = memory, clock
        self._limit_ns = int(requester.timeout_s * _NS)
        self._waiting: deque[_Request] = deque()
        self._flying: dict[_Request, Pending] = {}  # the oldest first

    def read(self, offset: int, length: int, done: Done) -> None:
        """Read whole blocks; raises InvalidArgument if these are none of the device's."""
        self._add(BSA_BLOCK_READ, offset, memoryview(bytearray(length)), done)

    def write(self, offset: int, data: memoryview, done: Done) -> None:
        """Write whole blocks; raises InvalidArgument if these are none of the device's."""
        self._add(BSA_BLOCK_WRITE, offset, data, done)

    def flush(self, done: Done) -> None:
        """Have everything whose write has ended put on the medium."""
        self._waiting.append(
            _Request(_Transfer(BSA_CACHE_FLUSH, 0, memoryview(b""), 1, done), 0, 0)
        )

    @property
    def is_idle(self) -> bool:
        """Whether every transfer has ended."""
        return not self._waiting and not self._flying

    @property
    def deadline_ns(self) -> int | None:
        """When to call `expire`, or None."""
        oldest = next(iter(self._flying), None)
        return None if oldest is None else oldest.started_ns + self._limit_ns

    def pump(self) -> None:
        """Send what may be sent now; to be called after a transfer was added, and after a poll."""
        while self._waiting and len(self._flying) < self._device.queue_depth:
            request = self._waiting.popleft()
            if request.transfer.error is not None:  # the rest of it is of no use
                request.end(None)
                continue
            request.started_ns = self._clock.monotonic_ns()
            try:
                self._flying[request] = self._send(request)
            except (OutOfFrames, MemoryError) as error:
                if self._flying:  # the end of one that is on its way makes room
                    self._waiting.appendleft(request)
                    return
                request.end(error)
            except (I2OError, OSError) as error:
                request.end(error)

    def expire(self) -> None:
        """Do something about the request that is on its way too long; see `Requester.on_late`."""
        deadline = self.deadline_ns
        if deadline is None or self._clock.monotonic_ns() < deadline:
            return
        request, pending = next(iter(self._flying.items()))
        try:
            self._requester.finish(pending, 0.0)
        except (I2OError, OSError) as error:
            if self._flying.pop(request, None) is not None:
                pending.release()  # its buffer only when a late reply says that it is not used
                request.end(error)

    # -------------------------------------------------------------------------------------------

    def _add(self, layout: MessageLayout, offset: int, data: memoryview, done: Done) -> None:
        length, device = len(data), self._device
        end = offset + length
        if not 0 <= offset < end <= device.size or (offset | length) % device.block_size:
            raise InvalidArgument(
                f"{length} bytes at {offset} are no whole blocks of the device's {device.size}"
            )
        starts = range(0, length, device.max_transfer)
        transfer = _Transfer(layout, offset, data, len(starts), done)
        self._waiting.extend(
            _Request(transfer, start, min(device.max_transfer, length - start)) for start in starts
        )

    def _send(self, request: _Request) -> Pending:
        """Send one request; raises as `BlockDevice.start`, or MemoryError."""
        transfer, device = request.transfer, self._device
        if transfer.layout is BSA_CACHE_FLUSH:
            return device.start_flush(lambda reply: self._replied(request, None, reply))
        buffer = self._memory.allocate(request.size)
        if transfer.layout is BSA_BLOCK_WRITE:
            buffer.view[: request.size] = request.data
            buffer.to_device()
        return device.start(
            transfer.layout,
            transfer.offset + request.start,
            buffer,
            request.size,
            lambda reply: self._replied(request, buffer, reply),
        )

    def _replied(self, request: _Request, buffer: HostBuffer | None, reply: ReplyFrame) -> None:
        pending = self._flying.pop(request, None)
        if pending is None:  # it was too late
            return
        transfer, error = request.transfer, None
        if is_bad(reply, request.size):
            what = f"{transfer.layout.name} of TID {self._device.tid:#05x}"
            try:
                if buffer is None:
                    raise_for_status(reply, what, BLOCK_CLASS)
                what += f" from byte {transfer.offset + request.start}"
                raise_for_transfer(reply, request.size, what)
            except I2OError as failure:
                error = failure
        elif transfer.layout is BSA_BLOCK_READ and buffer is not None:
            buffer.from_device()
            request.data[:] = buffer.view[: request.size]
        pending.release()
        request.end(error)


class _Transfer:
    """What the caller asked for.

    Attributes:
        layout: of the messages.
        offset: first byte on the device.
        data: all of its bytes.
        left: requests of it that have not ended.
        done: called when none are left.
        error: the first one.
    """

    __slots__ = ("data", "done", "error", "layout", "left", "offset")

    def __init__(
        self, layout: MessageLayout, offset: int, data: memoryview, left: int, done: Done
    ) -> None:
        self.layout, self.offset, self.data, self.left, self.done = layout, offset, data, left, done
        self.error: Exception | None = None


class _Request:
    """Part of a transfer that is one message.

    Attributes:
        transfer: which.
        start: its first byte in there.
        size: bytes.
        started_ns: when it was sent.
    """

    __slots__ = ("size", "start", "started_ns", "transfer")

    def __init__(self, transfer: _Transfer, start: int, size: int) -> None:
        self.transfer, self.start, self.size, self.started_ns = transfer, start, size, 0

    @property
    def data(self) -> memoryview:
        """Its bytes."""
        return self.transfer.data[self.start : self.start + self.size]

    def end(self, error: Exception | None) -> None:
        """Note that it has ended, and tell when it was the last one of its transfer."""
        transfer = self.transfer
        transfer.error = transfer.error or error
        transfer.left -= 1
        if not transfer.left:
            transfer.done(transfer.data, transfer.error)
