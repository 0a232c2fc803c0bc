# SPDX-License-Identifier: Apache-2.0
"""Stands between an IOP's processor and its queue pair, and tells a recorder of all that passes.

Where the host is a program that nobody can look into (a guest, another machine), traffic is seen
from the device's side: requests when they are fetched, replies when they are posted, and every
byte of DMA as it happens, with the request that was fetched last.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from time import time_ns
from typing import Any, Final

from i2o.transport.capture.packet import Channel
from i2o.transport.capture.recorder import IopRecorder
from i2o.transport.device_unit import DeviceUnit, DmaSpace, PostedFrame

_TO_DEVICE: Final = Channel.TO_DEVICE.value
_FROM_DEVICE: Final = Channel.FROM_DEVICE.value
_SHORTEST: Final = 12
"""Bytes of a NOP, the only message that is shorter than the header of all others."""


class TapUnit:
    """A `DeviceUnit` in front of another one.

    Args:
        unit: the one behind.
        recorder: who is told.
        is_bulk: whether a request moves data, which is cut, and not structures.

    Attributes:
        dma: host memory; the recorder is told of every access.
    """

    def __init__(
        self, unit: DeviceUnit, recorder: IopRecorder, is_bulk: Callable[[bytes], bool]
    ) -> None:
        self.inner, self._recorder, self._is_bulk = unit, recorder, is_bulk
        self.frame_size, self.frame_count = unit.frame_size, unit.frame_count
        self._dma = _TapDma(unit.dma, recorder)
        self.dma: DmaSpace = self._dma if recorder.wants_dma else unit.dma
        # bound once: what is not looked at costs nothing
        self.recycle, self.preserve, self.withdraw = unit.recycle, unit.preserve, unit.withdraw
        self.take_reply_frame, self.drop_replies = unit.take_reply_frame, unit.drop_replies
        self.starve, self.refill = unit.starve, unit.refill
        self.make_static, self.renew_static = unit.make_static, unit.renew_static
        self.end_static = unit.end_static
        self.idle_inbound, self.posted_inbound = unit.idle_inbound, unit.posted_inbound
        self.idle_outbound, self.posted_outbound = unit.idle_outbound, unit.posted_outbound

    def __getattr__(self, name: str) -> Any:
        if name == "inner":  # not made yet
            raise AttributeError(name)
        return getattr(self.inner, name)

    def fetch(self) -> PostedFrame | None:
        """Pop the next request, and tell of it."""
        self._dma.settle()
        posted = self.inner.fetch()
        if posted is not None:
            size = 4 * int.from_bytes(posted.data[2:4], "little")
            whole = size if size >= _SHORTEST else None  # a NOP ends within the header
            self._recorder.request(time_ns(), posted.mfa, posted.data[:whole])
            self._dma.serving = posted.mfa
            keep = self._recorder
            is_bulk = self._is_bulk(posted.data)
            self._dma.keep = keep.bulk_bytes if is_bulk else keep.table_bytes
        return posted

    def post_reply(self, mfa: int, data: bytes) -> None:
        """Tell of a reply, behind the data that belong to it, and post it."""
        self._dma.settle()
        self._recorder.reply(time_ns(), mfa, data)
        self.inner.post_reply(mfa, data)


class _TapDma:
    """Host memory of a `TapUnit`."""

    def __init__(self, dma: DmaSpace, recorder: IopRecorder) -> None:
        self._dma, self._recorder = dma, recorder
        self.serving = 0
        self.keep = recorder.table_bytes
        self._lent: list[tuple[int, memoryview]] = []

    def read(self, address: int, length: int) -> bytes:
        """Copy bytes out."""
        data = self._dma.read(address, length)
        self._tell(_TO_DEVICE, address, data)
        return data

    def write(self, address: int, data: bytes | bytearray | memoryview) -> None:
        """Copy bytes in."""
        self._dma.write(address, data)
        self._tell(_FROM_DEVICE, address, data)

    def windows(
        self, fragments: Iterable[tuple[int, int]], *, writable: bool
    ) -> list[memoryview] | None:
        """Return direct views. What is written to them is told of when it must be there."""
        pieces = tuple(fragments)
        views = self._dma.windows(pieces, writable=writable)
        for (address, _), view in zip(pieces, views or (), strict=False):
            if writable:
                self._lent.append((address, view))
            else:
                self._tell(_TO_DEVICE, address, view)
        return views

    def settle(self) -> None:
        """Tell of everything that was written through views."""
        for address, view in self._lent:
            self._tell(_FROM_DEVICE, address, view)
        self._lent.clear()

    def _tell(self, channel: int, address: int, data: bytes | bytearray | memoryview) -> None:
        kept = bytes(data[: self.keep])
        self._recorder.dma(time_ns(), channel, self.serving, address, kept, len(data))
