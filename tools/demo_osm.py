# SPDX-License-Identifier: Apache-2.0
"""A small OSM for one disk, written as one is written for D3i2o: a page to learn from.

Register a callback and get its cookie; per request take a frame (OSMMsgGetReqBuf), put the message
into it with the cookie as InitiatorContext, send it (OSMMsgSend); the callback gets the reply and
frees it (OSMMsgFreeRepBuf). Several requests are in flight, told apart by TransactionContext.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from typing import Final

from i2o.closing import Closing
from i2o.d3i2o import (
    I2OTRANS_SLEEP,
    SUCCESS,
    OSMMsgDeRegister,
    OSMMsgFreeRepBuf,
    OSMMsgFreeReqBuf,
    OSMMsgGetReqBuf,
    OSMMsgMfaConvert,
    OSMMsgOpenCall,
    OSMMsgRegister,
    OSMMsgSend,
)
from i2o.errors import OutOfFrames, RequestTimeout
from i2o.frames.block_storage import BSA_BLOCK_READ, BSA_BLOCK_WRITE, BSA_CACHE_FLUSH
from i2o.frames.functions import DeviceClass
from i2o.frames.layout import MessageLayout
from i2o.frames.sgl import simple_sgl
from i2o.message_frames import ReplyFrame
from i2o.opening import default_message_layer
from i2o.replies import raise_for_status
from i2o.transport.host_memory import HostBuffer, HostMemory

REQUEST_BYTES: Final = 256 << 10
"""Bytes of one read or write request."""
IN_FLIGHT: Final = 8
_SEND_WAIT_US: Final = 1_000_000
_TIMEOUT_S: Final = 30.0

Sink = Callable[[memoryview], object]
"""Called with each piece that was read, in order; the memory is used again afterwards."""


class DiskOsm(Closing):
    """An OSM that moves the blocks of one disk.

    Args:
        iop: IOP number.
        tid: the disk; somebody has claimed it for the host.
        memory: where buffers come from.

    Attributes:
        cookie: the callback's cookie.
        requests: requests sent.
        callbacks: replies that came.
    """

    def __init__(self, iop: int, tid: int, memory: HostMemory) -> None:
        self.iop, self.tid = iop, tid
        OSMMsgOpenCall()
        status, self.base_cookie, cookies = OSMMsgRegister(1, [self._replied])
        if status != SUCCESS:
            raise OutOfFrames("OSMMsgRegister: too many OSMs are registered", status)
        (self.cookie,) = cookies
        self.requests = self.callbacks = 0
        self._free = [(slot, memory.allocate(REQUEST_BYTES)) for slot in range(IN_FLIGHT)]
        self._replies: dict[int, ReplyFrame] = {}

    def read(self, offset: int, length: int, sink: Sink) -> None:
        """Read a range of whole blocks and hand the pieces to `sink`."""
        flight: deque[tuple[int, HostBuffer, int]] = deque()

        def land() -> None:
            slot, buffer, size = flight.popleft()
            self._finish(slot, "BsaBlockRead")
            buffer.from_device(0, size)
            sink(buffer.view[:size])
            self._free.append((slot, buffer))

        for place, size in _pieces(offset, length):
            if not self._free:
                land()
            slot, buffer = self._free.pop()
            self._send(slot, BSA_BLOCK_READ, place, size, buffer)
            flight.append((slot, buffer, size))
        while flight:
            land()

    def write(
        self, offset: int, data: memoryview, progress: Callable[[int], object] = lambda _: None
    ) -> None:
        """Write whole blocks; `progress` is called with the bytes of each finished request."""
        flight: deque[tuple[int, HostBuffer, int]] = deque()

        def land() -> None:
            slot, buffer, size = flight.popleft()
            self._finish(slot, "BsaBlockWrite")
            self._free.append((slot, buffer))
            progress(size)

        for place, size in _pieces(offset, len(data)):
            if not self._free:
                land()
            slot, buffer = self._free.pop()
            buffer.view[:size] = data[place - offset : place - offset + size]
            buffer.to_device(0, size)
            self._send(slot, BSA_BLOCK_WRITE, place, size, buffer)
            flight.append((slot, buffer, size))
        while flight:
            land()

    def flush(self) -> None:
        """Have what was written put on the medium."""
        self._send(IN_FLIGHT, BSA_CACHE_FLUSH)
        self._finish(IN_FLIGHT, "BsaCacheFlush")

    def close(self) -> None:
        """Deregister, and free the buffers, but none that the IOP may still use."""
        OSMMsgDeRegister(self.base_cookie)
        for _, buffer in self._free:
            buffer.free()
        self._free.clear()

    def _send(
        self,
        context: int,
        layout: MessageLayout,
        offset: int = 0,
        size: int = 0,
        buffer: HostBuffer | None = None,
    ) -> None:
        frame = OSMMsgGetReqBuf(self.iop, 0, I2OTRANS_SLEEP)
        if frame is None:
            raise OutOfFrames("OSMMsgGetReqBuf gave no frame")
        fields = {
            "target_address": self.tid,
            "initiator_context": self.cookie,
            "transaction_context": context,
        }
        sgl = b""
        if buffer is not None:
            sgl = simple_sgl([(buffer.bus_address, size)], out=layout is BSA_BLOCK_WRITE)
            fields |= {"transfer_byte_count": size, "logical_byte_address": offset}
        length = layout.size + len(sgl)
        frame[:length] = layout.build(message_size=length // 4, **fields) + sgl
        status = OSMMsgSend(self.iop, frame, _SEND_WAIT_US, I2OTRANS_SLEEP)
        if status != SUCCESS:
            OSMMsgFreeReqBuf(self.iop, frame)  # after a failure the frame is still ours
            raise OutOfFrames("OSMMsgSend: the IOP takes no request", status)
        self.requests += 1

    def _finish(self, context: int, what: str) -> None:
        """Wait for a reply and raise if it says that the request failed."""
        layer = default_message_layer()
        if not layer.run_until(lambda: context in self._replies, _TIMEOUT_S):
            raise RequestTimeout(f"no reply to {what} of TID {self.tid:#05x}")
        reply = self._replies.pop(context)
        raise_for_status(
            reply, f"{what} of TID {self.tid:#05x}", DeviceClass.RANDOM_BLOCK_STORAGE.value
        )

    def _replied(self, iop: int, reply: ReplyFrame) -> None:
        """Take a reply: the callback that OSMMsgRegister was given."""
        request = OSMMsgMfaConvert(iop, reply.preserved_mfa_low) if reply.failed else reply
        if request is not None and reply.final:
            context = int.from_bytes(request[12:16], "little")
            self._replies[context] = ReplyFrame(reply)
        self.callbacks += 1
        OSMMsgFreeRepBuf(iop, reply)


def _pieces(offset: int, length: int) -> Iterator[tuple[int, int]]:
    end = offset + length
    for start in range(offset, end, REQUEST_BYTES):
        yield start, min(REQUEST_BYTES, end - start)
