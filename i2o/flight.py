# SPDX-License-Identifier: Apache-2.0
"""The requests of one block transfer on their way: in order, and with their buffers kept safe."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable
from typing import Final

from i2o.errors import RequestFailed
from i2o.frames.functions import DeviceClass
from i2o.frames.header import MsgFlags, ReqStatus
from i2o.message_frames import ReplyFrame
from i2o.replies import raise_for_status
from i2o.requester import Pending, Requester
from i2o.transport.host_memory import HostBuffer

Progress = Callable[[int, int], object]
"""Called with (bytes done, bytes in all) as a transfer goes on."""

BLOCK_CLASS: Final = int(DeviceClass.RANDOM_BLOCK_STORAGE)
_FAIL: Final = int(MsgFlags.FAIL)
_REQ_STATUS: Final = 19  # byte of a reply
_COUNT_END: Final = 24


class Reporter:
    """Adds up what is done and tells the caller."""

    __slots__ = ("_done", "_progress", "_total")

    def __init__(self, progress: Progress | None, total: int) -> None:
        self._progress, self._total, self._done = progress, total, 0

    def add(self, count: int) -> None:
        """Note bytes that are done."""
        if self._progress is not None:
            self._done += count
            self._progress(self._done, self._total)


class Flight:
    """The requests of one transfer that are on their way, oldest first."""

    __slots__ = ("_pending", "_report", "_requester", "_what")

    def __init__(self, requester: Requester, report: Reporter, what: str) -> None:
        self._requester, self._report, self._what = requester, report, what
        self._pending: deque[tuple[Pending, int]] = deque()

    @property
    def depth(self) -> int:
        """Requests on their way."""
        return len(self._pending)

    def launch(self, pending: Pending, size: int) -> None:
        """Add a request that was sent."""
        self._pending.append((pending, size))

    def land(self) -> None:
        """Wait for the oldest request; it leaves the flight only when it succeeded."""
        pending, size = self._pending[0]
        reply = self._requester.finish(pending, drain=True)
        if is_bad(reply, size):
            raise_for_transfer(reply, size, self._what)
        self._pending.popleft()
        self._report.add(size)

    def settle(self, *buffers: HostBuffer) -> None:
        """Free the buffers once no request of this flight can write to them any more."""
        error = sys.exception()
        is_interrupted = error is not None and not isinstance(error, Exception)
        for pending, _ in () if is_interrupted else self._pending:
            try:
                self._requester.finish(pending)
            except Exception:
                break  # it does not answer: its buffers are freed when it does
        unanswered = [pending for pending, _ in self._pending if pending.reply is None]
        if unanswered:
            late = _FreeTogether(buffers, len(unanswered))
            for pending in unanswered:
                pending.abandon(late)
        else:
            for buffer in buffers:
                buffer.free()


class _FreeTogether:
    """Frees buffers when the last of several late requests was answered."""

    __slots__ = ("_buffers", "_users")

    def __init__(self, buffers: tuple[HostBuffer, ...], users: int) -> None:
        self._buffers, self._users = buffers, users

    def free(self) -> None:
        self._users -= 1
        if not self._users:
            for buffer in self._buffers:
                buffer.free()


def is_bad(reply: ReplyFrame, size: int) -> bool:
    """Whether a final reply says anything but that all bytes were moved."""
    return (
        len(reply) <= _REQ_STATUS
        or reply[_REQ_STATUS] != 0
        or bool(reply[1] & _FAIL)
        or _moved(reply, size) < size
    )


def raise_for_transfer(reply: ReplyFrame, size: int, what: str) -> None:
    """Raise RequestFailed for a reply that `is_bad`.

    Args:
        reply: a final reply.
        size: bytes that were asked for.
        what: the request, for the message.
    """
    raise_for_status(reply, what, BLOCK_CLASS)
    moved = _moved(reply, size)
    raise RequestFailed(
        f"{what}: the device says SUCCESS, but that it moved {moved} of {size} bytes",
        req_status=ReqStatus.SUCCESS,
        detail=0,
        transfer_count=moved,
    )


def _moved(reply: ReplyFrame, size: int) -> int:
    """Return the transfer count of a reply; a plain reply of five words has none."""
    return int.from_bytes(reply[20:24], "little") if len(reply) >= _COUNT_END else size
