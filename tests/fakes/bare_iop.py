# SPDX-License-Identifier: Apache-2.0
"""An IOP without an IOP: a port whose device half the test plays by hand."""

from __future__ import annotations

import os
from types import TracebackType
from typing import Self

from i2o.clock import Clock, ManualClock
from i2o.frames.header import FINAL_REPLY
from i2o.message_layer import MessageLayer
from i2o.transport.bus_space import BusSpace
from i2o.transport.device_unit import PostedFrame
from i2o.transport.local_unit import LocalUnit
from i2o.transport.port import EMPTY


class BarePort:
    """The host half of a LocalUnit. `empty_reads` makes that many allocs read empty first."""

    def __init__(
        self, clock: Clock | None = None, *, frame_count: int = 8, frame_size: int = 128
    ) -> None:
        self.memory = BusSpace()
        self.unit = LocalUnit(
            self.memory,
            frame_count=frame_count,
            frame_size=frame_size,
            on_misuse=lambda sentence: self.misuse.append(sentence),
        )
        self.misuse: list[str] = []
        self.clock = clock or ManualClock()
        self.inbound_size = frame_size
        self.name = "bare:"
        self.empty_reads = 0
        self.alloc_calls = 0
        self.alloc_times: list[float] = []
        self.resets = 0
        self.closed = False
        self.masked = False
        self._event: int | None = None
        self.read_inbound = self.unit.read_inbound
        self.write = self.unit.write
        self.release = self.unit.release

    def alloc(self) -> int:
        self.alloc_calls += 1
        self.alloc_times.append(self.clock.monotonic())
        if self.empty_reads:
            self.empty_reads -= 1
            return EMPTY
        return self.unit.alloc()

    def post(self, mfa: int) -> None:
        self.unit.post(mfa)

    def reap(self) -> int:
        return self.unit.reap()

    def outbound(self, mfa: int, size: int) -> memoryview:
        return self.memory.window(mfa, size)

    def wait(self, timeout_s: float) -> bool:
        if self.unit.reply_pending:
            return True
        self.clock.sleep(timeout_s)
        return False

    def fileno(self) -> int:
        if self._event is None:
            self._event = os.eventfd(0, os.EFD_NONBLOCK)
        return self._event

    def next_deadline_ns(self) -> int | None:
        return None

    def mask_interrupt(self, masked: bool) -> None:
        self.masked = masked

    def reset(self) -> None:
        self.resets += 1
        self.unit.drop_replies()
        self.unit.refill()

    def close(self) -> None:
        self.closed = True
        if self._event is not None:
            os.close(self._event)
            self._event = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


class BareIop:
    """A message layer with one registered `BarePort` whose reply frames are handed in already."""

    def __init__(
        self,
        *,
        layer: MessageLayer | None = None,
        frame_source: str = "memory",
        frame_count: int = 8,
        reply_frames: int = 8,
    ) -> None:
        shared = layer.clock if layer is not None else None
        self.clock = shared if isinstance(shared, ManualClock) else ManualClock()
        self.layer = layer or MessageLayer(clock=self.clock)
        self.port = BarePort(self.clock, frame_count=frame_count)
        self.number = self.layer.attach(
            self.port,
            bring_up=False,
            frame_source=frame_source,  # type: ignore[arg-type]
        )
        self.entry = self.layer._iops.entry(self.number)
        self.entry.adopt_reply_pool(self.port.memory.allocate(128 * reply_frames), 128)
        self.entry.online = True
        for mfa in sorted(self.entry.reply_frames):
            self.port.release(mfa)
        self.port.alloc_times.clear()
        self.port.alloc_calls = 0

    # --- the device half -------------------------------------------------------------------------

    def fetch(self) -> PostedFrame:
        """Take the next request as the IOP does, and recycle its frame."""
        posted = self.port.unit.fetch()
        assert posted is not None, "nothing was posted"
        self.port.unit.recycle(posted.mfa)
        return posted

    def reply(self, data: bytes) -> int:
        """Post a reply; return its MFA."""
        mfa = self.port.unit.take_reply_frame()
        assert mfa != EMPTY, "no free reply frame"
        self.port.unit.post_reply(mfa, data)
        return mfa

    def answer(
        self, request: PostedFrame, *, flags: int = FINAL_REPLY, status: bytes = bytes(4)
    ) -> int:
        """Post an ordinary reply to a request."""
        return self.reply(bytes((1, flags, 5, 0)) + request.data[4:16] + status)

    def fail(self, request: PostedFrame, *, preserve: bool = True, flags: int = 0xE0) -> int:
        """Post a FAIL reply, its transaction context zeroed, its frame preserved."""
        mfa = request.mfa if preserve else EMPTY
        data = (
            bytes((1, flags, 9, 0))
            + request.data[4:12]
            + bytes(4)
            + b"\x01\x01\x01\x8d"
            + bytes(8)
            + mfa.to_bytes(4, "little")
            + bytes(4)
        )
        return self.reply(data)
