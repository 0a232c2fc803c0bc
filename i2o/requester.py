# SPDX-License-Identifier: Apache-2.0
"""Requests that are waited for: a small OSM that matches replies by transaction context.

Everything in this package that wants an answer (bring-up, parameters, block devices, pass-through)
sends through a `Requester`; several requests may be in flight at once.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from typing import Final, Protocol

from i2o.closing import Closing
from i2o.cookies import Callback, Registration
from i2o.errors import I2OError, InvalidArgument, IopDead, RecoveryStep, RequestTimeout
from i2o.frames.catalog import function_name
from i2o.frames.functions import UNANSWERED
from i2o.frames.header import HEADER_SIZE, MsgFlags
from i2o.message_frames import MessageFrame, ReplyFrame
from i2o.waits import I2OTRANS_SLEEP

_CONTEXTS: Final = struct.Struct("<II")
_LAST_CONTEXT: Final = 0xFFFF_FFFF
_FAIL: Final = int(MsgFlags.FAIL)
_ENDS: Final = int(MsgFlags.LAST | MsgFlags.FAIL)  # some firmware leaves LAST out of a FAIL

FRAME_WAIT_US: Final = 1_000_000
"""How long to wait for an inbound frame, in microseconds."""


class Freeable(Protocol):
    """A host buffer, as far as a request is concerned."""

    def free(self) -> None:
        """Give it back."""


class RequestLayer(Protocol):
    """The part of the message layer that an OSM needs; see `i2o.message_layer.MessageLayer`."""

    def register(self, callbacks: Sequence[Callback]) -> Registration:
        """OSMMsgRegister."""

    def deregister(self, base_cookie: int) -> None:
        """OSMMsgDeRegister."""

    def submit(self, iop: int, message: bytes, wait_us: int = 0, flags: int = 0) -> None:
        """Get a request frame, copy a message to it and send it."""

    def free_reply(self, iop: int, reply: ReplyFrame) -> None:
        """OSMMsgFreeRepBuf."""

    def mfa_convert(self, iop: int, mfa: int) -> MessageFrame | None:
        """OSMMsgMfaConvert."""

    def run_until(self, done: Callable[[], bool], timeout_s: float, *, drain: bool = False) -> bool:
        """Dispatch replies until a condition holds or the time is up."""


class Pending:
    """A request in flight.

    Attributes:
        message: the request, without our contexts.
        context: the transaction context it was sent with.
        reply: the final reply, once it came; a copy that outlives the frame.
    """

    __slots__ = ("_abandoned", "_buffers", "_on_reply", "context", "message", "reply")

    def __init__(
        self,
        message: bytes,
        context: int,
        buffers: Sequence[Freeable],
        on_reply: Callable[[ReplyFrame], None] | None,
    ) -> None:
        self.message, self.context = message, context
        self.reply: ReplyFrame | None = None
        self._buffers, self._on_reply = buffers, on_reply
        self._abandoned = False

    def complete(self, reply: ReplyFrame) -> None:
        """Take the final reply: from now on the IOP leaves the buffers alone."""
        self.reply = reply
        if self._abandoned:
            self._free()
        if self._on_reply is not None:
            self._on_reply(reply)

    def is_done(self) -> bool:
        """Whether the final reply came."""
        return self.reply is not None

    @property
    def target(self) -> int:
        """TID that the request went to."""
        return int.from_bytes(self.message[4:6], "little") & 0xFFF

    def release(self) -> None:
        """Free the buffers: now, or when a late final reply comes, but never before it."""
        self._abandoned = True  # before the look: the reply may come in another thread
        if self.reply is not None:
            self._free()

    def abandon(self, *buffers: Freeable) -> None:
        """Leave these to be freed when the late final reply comes."""
        self._buffers = (*self._buffers, *buffers)
        self.release()

    def _free(self) -> None:
        buffers, self._buffers = self._buffers, ()
        for buffer in buffers:
            buffer.free()


class Requester(Closing):
    """One OSM, one cookie, any number of requests in flight on one IOP.

    Args:
        layer: the message layer.
        iop: IOP number.
        timeout_s: how long `finish` waits unless told otherwise.
        on_progress: called with a non-final reply (a copy).

    Attributes:
        on_late: called by `finish` with a request that is late, to do something about it; returns
            what it did. If the request has a reply afterwards, `is_usable` says whether that is
            an answer or only the end of it.
        is_usable: see `on_late`.
        on_gone: called by `start` when the request cannot be sent, to do something about an IOP
            that is gone; returns whether sending it again makes sense.
    """

    on_late: Callable[[Pending], tuple[RecoveryStep, ...]] | None = None
    is_usable: Callable[[ReplyFrame], bool] = staticmethod(lambda reply: True)
    on_gone: Callable[[], bool] = staticmethod(lambda: False)

    def __init__(
        self,
        layer: RequestLayer,
        iop: int,
        *,
        timeout_s: float = 30.0,
        on_progress: Callable[[ReplyFrame], None] | None = None,
    ) -> None:
        self._layer, self.iop, self.timeout_s = layer, iop, timeout_s
        self._submit = layer.submit
        self._on_progress = on_progress
        self._base_cookie, (self.cookie,) = layer.register([self._replied])
        self._pending: dict[int, Pending] = {}
        self._next_context = 1
        self._closed = False

    def start(
        self,
        message: bytes,
        *,
        buffers: Sequence[Freeable] = (),
        wait_us: int = FRAME_WAIT_US,
        on_reply: Callable[[ReplyFrame], None] | None = None,
    ) -> Pending:
        """Send a request.

        Args:
            message: the whole message; its contexts are replaced by ours.
            buffers: what the message points to. `Pending.release` frees them; if the request
                cannot be sent they are freed here.
            wait_us: how long to wait for an inbound frame, in microseconds.
            on_reply: called with the final reply.

        Raises:
            OutOfFrames: no inbound frame came free in time.
            InvalidArgument: the message is no frame of this IOP's size.
        """
        if len(message) < HEADER_SIZE:
            raise InvalidArgument(f"a message of {len(message)} bytes has no header")
        if message[7] in UNANSWERED:
            raise InvalidArgument(f"{function_name(message[7])} is never answered by a reply")
        context = self._next_context
        if context in self._pending or context > _LAST_CONTEXT:
            context = self._free_context()
        self._next_context = context + 1
        pending = Pending(message, context, buffers, on_reply)
        self._pending[context] = pending
        ours = message[:8] + _CONTEXTS.pack(self.cookie, context) + message[HEADER_SIZE:]
        try:
            try:
                self._submit(self.iop, ours, wait_us, I2OTRANS_SLEEP)
            except (IopDead, InvalidArgument):
                if not self.on_gone():
                    raise
                self._submit(self.iop, ours, wait_us, I2OTRANS_SLEEP)
        except (I2OError, OSError):
            del self._pending[context]
            for buffer in buffers:
                buffer.free()
            raise
        except BaseException:  # interrupted: perhaps after it was posted
            pending.release()
            raise
        return pending

    def finish(
        self, pending: Pending, timeout_s: float | None = None, *, drain: bool = False
    ) -> ReplyFrame:
        """Wait for a request's final reply.

        Args:
            pending: the request.
            timeout_s: how long; the requester's own limit if None.
            drain: others are in flight too: take every reply that is there.

        Raises:
            RequestTimeout: it did not come, and `on_late` did not make it come. A request that
                still has none stays known, and so do its buffers.
        """
        if pending.reply is not None:
            return pending.reply
        limit = self.timeout_s if timeout_s is None else timeout_s
        if not self._layer.run_until(pending.is_done, limit, drain=drain):
            self._be_late(pending, limit)
        assert pending.reply is not None
        return pending.reply

    def wait_for(self, pending: Pending, timeout_s: float) -> bool:
        """Wait for a request's final reply; return whether it came. Nothing is done about it."""
        return pending.is_done() or self._layer.run_until(pending.is_done, timeout_s)

    def _be_late(self, pending: Pending, limit_s: float) -> None:
        """Do something about a late request; raise RequestTimeout unless it has an answer then."""
        steps = () if self.on_late is None else self.on_late(pending)
        if pending.reply is not None and self.is_usable(pending.reply):
            return
        raise RequestTimeout(
            f"no reply to {function_name(pending.message[7])} for TID {pending.target:#05x} "
            f"within {limit_s:g} s",
            steps=steps,
        )

    def call(
        self,
        message: bytes,
        timeout_s: float | None = None,
        *,
        buffers: Sequence[Freeable] = (),
    ) -> ReplyFrame:
        """Send a request, wait for its final reply, free its buffers; see `start`, `finish`."""
        pending = self.start(message, buffers=buffers)
        try:
            return self.finish(pending, timeout_s)
        finally:
            pending.release()

    @property
    def in_flight(self) -> int:
        """Requests without a final reply."""
        return len(self._pending)

    def close(self) -> None:
        """Deregister: now, or when the last late reply came and freed its buffers."""
        if not self._closed:
            self._closed = True
            if not self._pending:
                self._layer.deregister(self._base_cookie)

    def _free_context(self) -> int:
        context = self._next_context
        while context in self._pending or context > _LAST_CONTEXT:
            context = context + 1 if context < _LAST_CONTEXT else 1
        return context

    def _replied(self, iop: int, reply: ReplyFrame) -> None:
        context = int.from_bytes(reply[12:16], "little")
        if reply[1] & _FAIL:
            preserved = int.from_bytes(reply[28:32], "little")
            original = self._layer.mfa_convert(iop, preserved)
            if original is not None:
                context = int.from_bytes(original[12:16], "little")
        try:
            self._layer.free_reply(iop, reply)  # the object is a copy: it can be kept
        finally:
            if reply[1] & _ENDS:
                pending = self._pending.pop(context, None)
                if pending is not None:
                    pending.complete(reply)
                if self._closed and not self._pending:
                    self._layer.deregister(self._base_cookie)
        if not reply[1] & _ENDS and self._on_progress is not None:
            self._on_progress(reply)
