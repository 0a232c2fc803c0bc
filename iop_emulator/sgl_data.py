# SPDX-License-Identifier: Apache-2.0
"""Moves the data that a request's scatter/gather list describes.

The direction flags of the elements are ignored: the function says which way data goes, and some
drivers never set them. A list that is not marked as ended ends with the message.
"""

from __future__ import annotations

from i2o.frames.sgl_walk import BitBucket, SglBuffer, SglError, walk_sgl
from i2o.iop_emulator.request import Request
from i2o.transport.device_unit import DmaSpace


def buffers(request: Request, class_word: int, dma: DmaSpace, page_size: int) -> list[SglBuffer]:
    """Return the logical buffers of a request.

    Args:
        request: the request.
        class_word: word at which its class puts the list.
        dma: host memory, for chained lists.
        page_size: the host's page size, for page lists.

    Raises:
        SglError: an element or a chain that makes no sense.
        DmaFault: a chain that points outside host memory.
    """
    frame = request.frame
    found = walk_sgl(
        frame,
        request.sgl_start(class_word),
        len(frame),
        read_host=dma.read,
        page_size=page_size,
    )
    for buffer in found:
        if buffer.local:
            raise SglError("a buffer in the IOP's own memory cannot be used", None)
    return found


def leading_buffers(
    request: Request, class_word: int, dma: DmaSpace, page_size: int
) -> list[SglBuffer]:
    """Return the logical buffers in front of the first element that makes no sense.

    For messages whose later buffers do not matter and come in any shape (SysTabSet, OutboundInit).

    Raises:
        SglError: the very first element makes no sense.
        DmaFault: a chain that points outside host memory.
    """
    try:
        return buffers(request, class_word, dma, page_size)
    except SglError as error:
        start = request.sgl_start(class_word)
        if error.offset is None or error.offset <= start:
            raise
        return walk_sgl(request.frame, start, error.offset, read_host=dma.read, page_size=page_size)


def gather(dma: DmaSpace, buffer: SglBuffer, limit: int) -> bytes:
    """Return the first bytes of a host buffer.

    Raises:
        DmaFault: it is not in host memory.
    """
    parts: list[bytes] = []
    for piece in buffer.pieces:
        if limit <= 0:
            break
        if isinstance(piece, bytes):
            part = piece[:limit]
        elif isinstance(piece, BitBucket):
            part = bytes(min(piece.length, limit))
        else:
            part = dma.read(piece[0], min(piece[1], limit))
        parts.append(part)
        limit -= len(part)
    return b"".join(parts)


def scatter(dma: DmaSpace, buffer: SglBuffer, data: bytes) -> None:
    """Write data to the start of a host buffer, as much as fits.

    Every fragment is checked before the first byte is written, where the backend can.

    Raises:
        DmaFault: the buffer is not in host memory, or read-only; or it is data in the frame.
    """
    rest = memoryview(data)
    plan: list[tuple[int, memoryview]] = []
    for piece in buffer.pieces:
        if not rest:
            break
        if isinstance(piece, bytes):
            raise SglError("the result buffer is immediate data: it cannot be written to", None)
        if isinstance(piece, BitBucket):
            rest = rest[piece.length :]
            continue
        address, length = piece
        if length:
            plan.append((address, rest[:length]))
            rest = rest[length:]
    dma.windows([(address, len(part)) for address, part in plan], writable=True)
    for address, part in plan:
        dma.write(address, part)
