# SPDX-License-Identifier: Apache-2.0
"""What waits to be sent to one peer: whole frames, of which the first may be under way."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from i2o.transport.fabric.endpoint import Buffer

_BATCH_BUFFERS: Final = 64
_BATCH_BYTES: Final = 64 << 10


class Waiting(NamedTuple):
    """A frame that waits.

    Attributes:
        buffers: what is left of it.
        size: its bytes, as they were at first.
        token: what its sender wants to hear again.
        number: the peer's number under which it was sent, or -1 for a frame of our own.
    """

    buffers: list[memoryview]
    size: int
    token: object
    number: int


class Outbox:
    """Frames in order.

    Attributes:
        size: bytes of the frames that wait, also of what has gone of the first; 0 if none waits.
        is_begun: whether a part of the first frame has gone.
    """

    __slots__ = ("_frames", "is_begun", "size")

    def __init__(self) -> None:
        self._frames: deque[Waiting] = deque()
        self.size = 0
        self.is_begun = False

    def __len__(self) -> int:
        return len(self._frames)

    def add(self, parts: Sequence[Buffer], size: int, token: object, number: int) -> None:
        """Append a frame; the parts are kept, not copied."""
        buffers = [memoryview(part).cast("B") for part in parts if len(part)]
        self._frames.append(Waiting(buffers, size, token, number))
        self.size += size

    def add_urgent(self, data: bytes) -> None:
        """Put a frame of our own before all that have not begun."""
        frame = Waiting([memoryview(data)], len(data), None, -1)
        self._frames.insert(1 if self.is_begun else 0, frame)
        self.size += len(data)

    def take_all(self) -> list[Waiting]:
        """Empty it, and return what there was."""
        frames = list(self._frames)
        self._frames.clear()
        self.size, self.is_begun = 0, False
        return frames

    def write(self, sendmsg: Callable[[list[memoryview]], int]) -> list[Waiting]:
        """Make one system call: a frame, or some KiB of small ones; return those that are out.

        Raises:
            OSError: of the call; BlockingIOError if it would block.
        """
        batch: list[memoryview] = []
        total = 0
        for frame in self._frames:
            if batch and (
                total + frame.size > _BATCH_BYTES
                or len(batch) + len(frame.buffers) > _BATCH_BUFFERS
            ):
                break
            batch += frame.buffers[:_BATCH_BUFFERS]
            total += frame.size
        return self.advance(sendmsg(batch) if batch else 0)

    def advance(self, count: int) -> list[Waiting]:
        """Take note that so many bytes are out; return the frames that are out as a whole."""
        out = []
        while self._frames:
            frame = self._frames[0]
            buffers = frame.buffers
            done = 0
            while done < len(buffers) and count >= len(buffers[done]):
                count -= len(buffers[done])
                done += 1
            if done < len(buffers):
                self.is_begun = self.is_begun or bool(done or count)
                del buffers[:done]
                buffers[0] = buffers[0][count:]
                break
            self.is_begun = False
            self.size -= frame.size
            out.append(self._frames.popleft())
        return out
