# SPDX-License-Identifier: Apache-2.0
"""Pass-through: send any message and get its reply, the way SCO's ptosm(7) lets a program do it.

The caller gives the message up to its scatter/gather list; SGL offset, flags, size and contexts
are filled in here, and one SGL element is made for each data buffer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from i2o.errors import InvalidArgument
from i2o.frames.header import HEADER_SIZE, VERSION_1_5
from i2o.frames.sgl import simple_sgl
from i2o.message_layer import MessageLayer
from i2o.opening import default_message_layer
from i2o.requester import Requester

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

I2O_PT_DATA_READ: Final = 1
"""The IOP writes to the buffer: its content is read from the device."""
I2O_PT_DATA_WRITE: Final = 2
"""The IOP reads the buffer: its content is written to the device."""
MAX_MESSAGE: Final = 15 * 4  # SGLOffset has four bits: the list starts at word 15 at the latest


@dataclass(frozen=True, slots=True)
class PassthruData:
    """One data buffer of a pass-through message (I2OPtData).

    Attributes:
        buffer: bytes to send, or a writable buffer to fill.
        flags: I2O_PT_DATA_READ or I2O_PT_DATA_WRITE.
    """

    buffer: ReadableBuffer
    flags: int


def passthru(
    iop: int,
    message: bytes,
    data: Sequence[PassthruData] = (),
    reply_length: int = 128,
    *,
    layer: MessageLayer | None = None,
    timeout_s: float = 30.0,
) -> bytes:
    """Send a message and wait for its reply (ioctl I2O_PT_MSGTFR).

    Args:
        iop: IOP number.
        message: the message up to its SGL, whole words; contexts in it are not preserved.
        data: buffers, in the order of their SGL elements; each ends a logical buffer.
        reply_length: how much of the reply to return; may be smaller than a standard reply.
        layer: the message layer; the default one if None.
        timeout_s: how long to wait.

    Returns:
        The reply, cut to `reply_length`. Its contexts are those that were used here.

    Raises:
        InvalidArgument: no such IOP, a message that is no whole number of words, unknown flags,
            or a read-only buffer to be filled.
        RequestTimeout: no reply came.
    """
    if len(message) < HEADER_SIZE or len(message) % 4 or (data and len(message) > MAX_MESSAGE):
        raise InvalidArgument(
            f"a message of {len(message)} bytes: expected whole words, {HEADER_SIZE} bytes or "
            f"more, and {MAX_MESSAGE} at most before an SGL"
        )
    if reply_length < 0:
        raise InvalidArgument(f"reply_length {reply_length} is negative")
    views = [memoryview(item.buffer).cast("B") for item in data]
    for item, view in zip(data, views, strict=True):
        if item.flags not in (I2O_PT_DATA_READ, I2O_PT_DATA_WRITE):
            raise InvalidArgument(f"data flags {item.flags:#x}: expected READ or WRITE")
        if item.flags == I2O_PT_DATA_READ and view.readonly:
            raise InvalidArgument("a buffer to be filled is read-only")
    chosen = default_message_layer() if layer is None else layer
    memory = chosen.port(iop).memory
    buffers = []
    sgl = b""
    for index, (item, view) in enumerate(zip(data, views, strict=True)):
        buffer = memory.allocate(max(1, len(view)))
        buffers.append(buffer)
        out = item.flags == I2O_PT_DATA_WRITE
        if out:
            buffer.view[: len(view)] = view
            buffer.to_device()
        pieces = ((buffer.bus_address, len(view)),)
        sgl += simple_sgl(pieces, out=out, last=index == len(data) - 1)
    frame = bytearray(message) + sgl
    frame[0] = VERSION_1_5 | (len(message) // 4 << 4 if data else 0)
    frame[1] = 0
    frame[2:4] = (len(frame) // 4).to_bytes(2, "little")
    with Requester(chosen, iop, timeout_s=timeout_s) as requester:
        pending = requester.start(bytes(frame), buffers=buffers)
        try:
            reply = requester.finish(pending)
            for item, view, buffer in zip(data, views, buffers, strict=True):
                if item.flags == I2O_PT_DATA_READ:
                    buffer.from_device()
                    view[:] = buffer.view[: len(view)]
        finally:
            pending.release()
    return bytes(reply[:reply_length])
