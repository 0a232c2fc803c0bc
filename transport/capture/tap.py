# SPDX-License-Identifier: Apache-2.0
"""Stands in front of a port and tells a recorder of every frame, and of DMA if it wants to know.

Whatever goes wrong in looking at traffic is noted in the capture; the traffic itself goes on as
if nobody looked.
"""

from __future__ import annotations

import logging
from time import time_ns
from typing import Any, Final

from i2o.closing import Closing
from i2o.errors import I2OError
from i2o.frames.header import HEADER_SIZE
from i2o.transport.capture.dma_tap import DmaTap, TappedMemory, TapRules
from i2o.transport.capture.packet import Channel
from i2o.transport.capture.recorder import IopRecorder
from i2o.transport.host_memory import HostMemory
from i2o.transport.port import EMPTY, Port, RemarkingPort

logger = logging.getLogger(__name__)

MAX_WRITTEN: Final = 4096
"""Frames that were written but not posted yet."""

_MIN_FRAME: Final = 12
_MAX_FRAME: Final = 4 * 0xFFFF
_IN, _OUT = Channel.IN.value, Channel.OUT.value
_FRAMES_ONLY: Final = TapRules()


class TapPort(Closing):
    """A `Port` that another port stands behind.

    Requests are recorded right before they are posted, replies when they are reaped. Everything
    else is the inner port's own.

    Args:
        port: the port; closing this one closes it.
        recorder: who is told.
        rules: what there is to know of messages; without them only frames are recorded.

    Attributes:
        inner: the port behind.
        recorder: who is told.
    """

    def __init__(self, port: Port, recorder: IopRecorder, rules: TapRules = _FRAMES_ONLY) -> None:
        self.inner, self.recorder, self._rules = port, recorder, rules
        self.memory: HostMemory = port.memory
        self.inbound_size, self.name = port.inbound_size, port.name
        self._reply_size = 0  # as the IOP was told, 0 while nobody told it
        self._written: dict[int, bytes] = {}
        self._dma: DmaTap | None = None
        if recorder.wants_dma and rules.find_ranges is not None:
            self._dma = DmaTap(port.memory, recorder, rules)
            self.memory = TappedMemory(port.memory, self._dma)
        # bound once: what is not looked at costs nothing, the rest one call
        self.alloc, self.read_inbound, self.release = port.alloc, port.read_inbound, port.release
        self.outbound, self.wait, self.fileno = port.outbound, port.wait, port.fileno
        self.next_deadline_ns = port.next_deadline_ns
        self.mask_interrupt = port.mask_interrupt
        self._look_at_writes()
        self._look_at_posts()
        self._look_at_replies()
        if isinstance(port, RemarkingPort):
            port.remark_to(self._record_remark)

    def __getattr__(self, name: str) -> Any:
        if name == "inner":  # not made yet
            raise AttributeError(name)
        return getattr(self.inner, name)

    def reset(self) -> None:
        """Reset the IOP by the transport's own means."""
        self.inner.reset()
        if self._dma is not None:
            self._dma.forget()

    def close(self) -> None:
        """Close the port behind."""
        if self._dma is not None:
            self._dma.look_everywhere()
            self._dma.forget()
        self.inner.close()

    # --- what is looked at -----------------------------------------------------------------------

    def _look_at_writes(self) -> None:
        inner_write, written = self.inner.write, self._written

        def write(mfa: int, frame: bytes | bytearray | memoryview) -> None:
            """Copy a request into its inbound frame."""
            inner_write(mfa, frame)
            written[mfa] = bytes(frame)
            if len(written) > MAX_WRITTEN:
                written.pop(next(iter(written)), None)

        self.write = write

    def _look_at_posts(self) -> None:
        inner_post, record, take = self.inner.post, self.recorder.request, self._written.pop
        unanswered, dma = self._rules.unanswered, self._dma

        def post(mfa: int) -> None:
            """Hand a frame to the IOP."""
            try:
                frame = take(mfa, None)
                if frame is None or len(frame) < _MIN_FRAME:
                    self._record_odd_request(mfa, frame)
                else:
                    size = (frame[2] | frame[3] << 8) << 2
                    if size < len(frame):
                        frame = frame[: max(size, _MIN_FRAME)]
                    now = time_ns()
                    record(now, mfa, frame)
                    if frame[7] in unanswered:
                        self._note_unanswered(frame)
                    if dma is not None:
                        dma.requested(now, mfa, frame)
            except Exception:
                logger.warning("a request could not be captured", exc_info=True)
            inner_post(mfa)

        self.post = post

    def _look_at_replies(self) -> None:
        inner_reap, outbound = self.inner.reap, self.inner.outbound
        record, dma = self.recorder.reply, self._dma

        def reap() -> int:
            """Pop a reply MFA, or EMPTY."""
            mfa = inner_reap()
            if mfa == EMPTY:
                return mfa
            try:
                now = time_ns()
                limit = self._reply_size
                view = outbound(mfa, limit or HEADER_SIZE)
                size = (view[2] | view[3] << 8) << 2
                if size < limit:
                    view = view[: size if size > _MIN_FRAME else _MIN_FRAME]
                elif not limit:
                    view = self._unmeasured_reply(mfa, size)
                frame = view.tobytes()
                if dma is not None:
                    dma.replied(now, frame)
                record(now, mfa, frame)
            except Exception as error:
                self._record_odd_reply(mfa, error)
            return mfa

        self.reap = reap

    # --- what is rare ----------------------------------------------------------------------------

    def _note_unanswered(self, frame: bytes) -> None:
        """Learn the size of reply frames, at which time nothing from before is answered."""
        find = self._rules.reply_frame_size
        size = find(frame) if find is not None else 0
        if size >= HEADER_SIZE:
            self._reply_size = min(size, _MAX_FRAME)
            if self._dma is not None:
                self._dma.forget()

    def _unmeasured_reply(self, mfa: int, size: int) -> memoryview:
        """Return a reply frame whose size nobody told: as its header says, if that can be."""
        try:
            return self.inner.outbound(mfa, max(size, _MIN_FRAME))
        except I2OError:
            return self.inner.outbound(mfa, HEADER_SIZE)

    def _record_remark(self, mfa: int, sentence: str) -> None:
        """Record what the IOP says of a request; no frame of it is there, so none is recorded."""
        try:
            self.recorder.remark(time_ns(), _OUT, mfa, b"", sentence)
        except Exception:
            logger.warning("a remark could not be captured", exc_info=True)

    def _record_odd_reply(self, mfa: int, error: Exception) -> None:
        """Record that a reply could not be read; the traffic goes on whatever a recorder does."""
        reason = str(error) or type(error).__name__
        try:
            self.recorder.remark(time_ns(), _OUT, mfa, b"", f"cannot be read: {reason}")
        except Exception:
            logger.warning("a reply could not be captured", exc_info=True)

    def _record_odd_request(self, mfa: int, frame: bytes | None) -> None:
        """Record a request without a header, or, from the IOP's memory, one not written here."""
        comment = "shorter than a header"
        if frame is None:
            try:
                header = self.inner.read_inbound(mfa, HEADER_SIZE)
                size = 4 * int.from_bytes(header[2:4], "little")
                size = min(max(size, HEADER_SIZE), self.inbound_size)
                frame = self.inner.read_inbound(mfa, size)
                comment = "read back: not written through this port"
            except Exception as error:
                frame, comment = b"", f"cannot be read back: {error}"
        self.recorder.remark(time_ns(), _IN, mfa, frame, comment)
