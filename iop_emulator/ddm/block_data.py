# SPDX-License-Identifier: Apache-2.0
"""Moves blocks where one preadv or pwritev on host memory is not enough.

Host memory may be out of sight (then it is copied, a bounded piece at a time), and a list may
name data in the message itself, or bytes that nobody wants.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Final, TypeAlias

from i2o.frames.sgl_walk import BitBucket, Piece, SglError
from i2o.iop_emulator.block_store import BlockStore, StoreError
from i2o.transport.device_unit import DmaSpace, StagingDma

Lend: TypeAlias = Callable[[int, int], memoryview]
"""The method of a `LendingStore`."""
SendLent: TypeAlias = Callable[[int, memoryview], None]
"""The method of a `LendingDma`."""
CHUNK: Final = 1 << 20
"""Bytes that a long operation handles in one step, and that are copied at a time."""


def mixed_views(
    pieces: Sequence[Piece], views: Sequence[memoryview], *, writable: bool
) -> list[memoryview]:
    """Return views of pieces that are not all in host memory.

    Args:
        pieces: all of them, in order.
        views: views of those in host memory, in order.
        writable: the views will be read into.

    Raises:
        SglError: immediate data are to be read into.
    """
    places = iter(views)
    mixed: list[memoryview] = []
    for piece in pieces:
        if isinstance(piece, tuple):
            mixed.append(next(places))
        elif isinstance(piece, BitBucket):
            mixed += _bucket(piece.length, is_scratch=writable)
        elif writable:
            raise SglError("immediate data cannot be read into", None)
        else:
            mixed.append(memoryview(piece))
    return mixed


def read_by_copy(store: BlockStore, dma: DmaSpace, pieces: Sequence[Piece], address: int) -> None:
    """Read blocks and copy them to host memory; raises StoreError, DmaFault.

    Blocks in memory are sent from there. So a host that writes blocks while it still waits for a
    read of them may get any mixture of old and new bytes.
    """
    done = 0
    # `isinstance` with a protocol is slow where every read passes
    lend: Lend | None = getattr(store, "lend", None)
    send: SendLent | None = getattr(dma, "write_lent", None)
    if lend is not None and send is not None:
        for place, length in _chunks(pieces):
            if isinstance(place, int):
                send(place, lend(address + done, length))
            done += length
        return
    staged = dma if isinstance(dma, StagingDma) else None
    for place, length in _chunks(pieces):
        data = memoryview(bytearray(length)) if staged is None else staged.staging(length)
        failure = None
        try:
            store.read_into(address + done, [data])
        except OSError as error:
            failure = _behind(done, error)
            data = data[: failure.done - done]
        if isinstance(place, int):
            if staged is None:
                dma.write(place, data)
            else:
                staged.write_staged(place, data)
        if failure is not None:
            raise failure
        done += length


def write_by_copy(store: BlockStore, dma: DmaSpace, pieces: Sequence[Piece], address: int) -> None:
    """Copy data from host memory and write them; raises StoreError, DmaFault."""
    done = 0
    for place, length in _chunks(pieces):
        data = memoryview(_data(dma, place, length))
        try:
            store.write_from(address + done, [data])
        except OSError as error:
            raise _behind(done, error) from error
        done += length


def first_difference(
    store: BlockStore, dma: DmaSpace, pieces: Sequence[Piece], address: int
) -> int | None:
    """Compare what is stored with host memory.

    Returns:
        The first byte address that differs or cannot be read, or None.
    """
    for place, length in _chunks(pieces):
        wanted, stored = _data(dma, place, length), bytearray(length)
        readable = length
        try:
            store.read_into(address, [memoryview(stored)])
        except OSError as error:
            readable = error.done if isinstance(error, StoreError) else 0
        if stored[:readable] != wanted[:readable]:
            return address + next(i for i in range(length) if stored[i] != wanted[i])
        if readable < length:
            return address + readable
        address += length
    return None


def _behind(done: int, error: OSError) -> StoreError:
    """Return an error of a part as one of the whole, of which so much was done before."""
    part = error.done if isinstance(error, StoreError) else 0
    return StoreError(error.errno or 0, error.strerror or str(error), done + part)


def _data(dma: DmaSpace, place: int | bytes | None, length: int) -> bytes:
    if isinstance(place, int):
        return dma.read(place, length)
    return bytes(length) if place is None else place


def _bucket(length: int, *, is_scratch: bool) -> Iterator[memoryview]:
    """Return views of so many bytes that nobody wants: one piece of memory, many times."""
    size = min(length, CHUNK)
    one = bytearray(size) if is_scratch else bytes(size)
    while length > 0:
        view = memoryview(one)[:length]
        yield view
        length -= len(view)


def _chunks(pieces: Sequence[Piece]) -> Iterator[tuple[int | bytes | None, int]]:
    """Cut pieces into parts of at most `CHUNK` bytes: (bus address, data or None, length)."""
    for piece in pieces:
        if isinstance(piece, bytes):
            yield piece, len(piece)
        elif isinstance(piece, BitBucket):
            for start in range(0, piece.length, CHUNK):
                yield None, min(CHUNK, piece.length - start)
        else:
            address, length = piece
            for start in range(0, length, CHUNK):
                yield address + start, min(CHUNK, length - start)
