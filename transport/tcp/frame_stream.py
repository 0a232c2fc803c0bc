# SPDX-License-Identifier: Apache-2.0
"""Cuts a stream of bytes into frames, without copying them and without trusting a length."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, TypeAlias

from i2o.transport.fabric.placement import Placement, Read
from i2o.transport.lazy_memory import zeroed
from i2o.transport.tcp.errors import ProtocolViolation
from i2o.transport.tcp.wire import HANDSHAKE_LIMIT, HEAD_SIZE, unpack_head

_SMALL: Final = HEAD_SIZE + HANDSHAKE_LIMIT
_BUFFER: Final = 64 << 10
_FRONT: Final = 256  # bytes of a long frame that its placement is asked for with


Begins: TypeAlias = Callable[[int, int, memoryview], Placement | None]


class FrameStream:
    """The receiving half of a link, without the socket.

    Bytes are read into `space()`, then `received` says how many: every frame that is complete is
    delivered as a view into the buffer. A frame that is longer than the buffer gets memory of its
    own, once its length was found to be allowed; that memory is kept for the next long one.

    Args:
        deliver: called with kind and payload of each frame; the view is valid until it returns.
            It returns whether to go on: False leaves the stream as it is, for good.
    """

    def __init__(self, deliver: Callable[[int, memoryview], bool]) -> None:
        self._deliver = deliver
        self._limit = HANDSHAKE_LIMIT
        self._view = memoryview(bytearray(_SMALL))
        self._start = self._end = 0
        self._large: memoryview | None = None
        self._kept = memoryview(b"")
        self._large_kind = self._large_end = 0
        self._begins: Begins | None = None
        self._placement: Placement | None = None
        self._left = 0

    def establish(
        self,
        limit: int,
        deliver: Callable[[int, memoryview], bool],
        begins: Begins | None = None,
    ) -> None:
        """Take frames of up to `limit` bytes from now on: the handshake is over.

        Args:
            limit: bytes of a payload.
            deliver: takes the place of the one that took the handshake's frames.
            begins: called with kind, size and front of a frame that is longer than the buffer; what
                it returns gets the rest, and `deliver` does not get the frame then.
        """
        self._limit, self._deliver, self._begins = limit, deliver, begins
        grown = memoryview(bytearray(_BUFFER))
        rest = self._view[self._start : self._end]
        grown[: len(rest)] = rest
        self._view, self._start, self._end = grown, 0, len(rest)

    def space(self) -> memoryview:
        """Return where the next bytes go; it is never empty."""
        if self._large is not None:
            return self._large[self._large_end :]
        return self._view[self._end :] if self._end else self._view

    def read(self, recv_into: Callable[[memoryview], int]) -> int:
        """Read once, and deliver what is complete; return what `recv_into` returned.

        Raises:
            ProtocolViolation: a frame is longer than allowed.
        """
        if self._end or self._large is not None or self._left:
            if self._left:
                return self._fill(recv_into)
            count = recv_into(self.space())
            if count:
                self.received(count)
            return count
        view = self._view
        count = recv_into(view)
        if count >= HEAD_SIZE:
            length, kind, _, _ = unpack_head(view)
            if count == HEAD_SIZE + length and length <= self._limit:
                # nearly always: one whole frame, and nothing else
                self._deliver(kind, view[HEAD_SIZE:count])
                return count
        if count:
            self.received(count)
        return count

    def received(self, count: int) -> None:
        """Take the bytes that were put into `space()`.

        Raises:
            ProtocolViolation: a frame is longer than allowed.
        """
        large = self._large
        if large is not None:
            self._large_end += count
            if self._large_end == len(large):
                self._large = None
                self._deliver(self._large_kind, large)
            return
        self._end += count
        self._cut()

    def _cut(self) -> None:
        while (there := self._end - self._start) >= HEAD_SIZE:
            view = self._view
            start = self._start + HEAD_SIZE
            length, kind, _, _ = unpack_head(view, self._start)
            if length > self._limit:
                raise ProtocolViolation(
                    f"a frame of {length} bytes, where {self._limit} are allowed"
                )
            if there - HEAD_SIZE < length:
                self._make_place(length, kind, start)
                return
            self._start = start + length
            if not self._deliver(kind, view[start : start + length]):
                return
        if self._start == self._end:
            self._start = self._end = 0
        elif len(self._view) - self._end < HEAD_SIZE:
            self._compact()

    def _make_place(self, length: int, kind: int, start: int) -> None:
        """See to it that the rest of an unfinished frame fits."""
        if HEAD_SIZE + length > len(self._view):
            if self._begins is not None:
                there = self._end - start
                if there < _FRONT:
                    if len(self._view) - start < _FRONT:
                        self._compact()
                    return  # so little is no use
                self._placement = self._begins(kind, length, self._view[start : self._end])
                if self._placement is not None:
                    self._left = length - there
                    self._start = self._end = 0
                    return
            if len(self._kept) < length:
                self._kept = zeroed(length)
            self._large = self._kept[:length]
            self._large_kind, self._large_end = kind, self._end - start
            self._large[: self._large_end] = self._view[start : self._end]
            self._start = self._end = 0
        elif self._start + HEAD_SIZE + length > len(self._view):
            self._compact()

    def _fill(self, recv_into: Read) -> int:
        """Read what there is of a frame that is placed."""
        placement, total = self._placement, 0
        assert placement is not None
        while self._left:
            try:
                count = placement.fill(recv_into)
            except BlockingIOError:
                if not total:
                    raise
                break
            if not count:
                break  # the end is seen again
            total += count
            self._left -= count
        else:
            self._placement = None
        return total

    def _compact(self) -> None:
        rest = bytes(self._view[self._start : self._end])
        self._view[: len(rest)] = rest
        self._start, self._end = 0, len(rest)
