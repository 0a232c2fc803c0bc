# SPDX-License-Identifier: Apache-2.0
"""Stands between an IOP's processor and its queue pair, and tells a recorder of all that passes.

Where the host is a program that nobody can look into (a guest, another machine), traffic is seen
from the device's side: requests when they are fetched, replies when they are posted, and every
byte of DMA as it happens, with the request that points to it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from itertools import islice
from time import time_ns
from typing import Final

from i2o.frames.header import HEADER_SIZE, MsgFlags
from i2o.transport.capture.dma_tap import NOTHING_MOVED, TapRules
from i2o.transport.capture.packet import Channel
from i2o.transport.capture.recorder import IopRecorder
from i2o.transport.device_unit import DeviceUnit, DmaSpace, PostedFrame

MAX_OPEN: Final = 4096
"""Requests without a final reply that are remembered; then the oldest is forgotten."""
MAX_SEARCH: Final = 256
"""Requests that a piece of DMA is looked for in, the latest first."""

_TO_DEVICE: Final = Channel.TO_DEVICE.value
_FROM_DEVICE: Final = Channel.FROM_DEVICE.value
_LAST, _FAIL = MsgFlags.LAST.value, MsgFlags.FAIL.value
_KEY: Final = slice(4, HEADER_SIZE)
_STATUS: Final = 19
_MIN_FRAME: Final = 12


class TapUnit:
    """A `DeviceUnit` in front of another one.

    Args:
        unit: the one behind.
        recorder: who is told.
        rules: what there is to know of messages.

    Attributes:
        inner: the one behind.
        dma: host memory; the recorder is told of every access.
    """

    def __init__(self, unit: DeviceUnit, recorder: IopRecorder, rules: TapRules) -> None:
        self.inner, self._recorder = unit, recorder
        self.frame_size, self.frame_count = unit.frame_size, unit.frame_count
        self._open = _OpenRequests(unit.dma, recorder, rules)
        self.dma: DmaSpace = (
            _TapDma(unit.dma, recorder, self._open) if recorder.wants_dma else unit.dma
        )
        # bound once: what is not looked at costs nothing
        self.recycle, self.preserve, self.withdraw = unit.recycle, unit.preserve, unit.withdraw
        self.take_reply_frame = unit.take_reply_frame
        self.starve, self.refill = unit.starve, unit.refill
        self.make_static, self.renew_static = unit.make_static, unit.renew_static
        self.end_static = unit.end_static
        self.idle_inbound, self.posted_inbound = unit.idle_inbound, unit.posted_inbound
        self.idle_outbound, self.posted_outbound = unit.idle_outbound, unit.posted_outbound

    def fetch(self) -> PostedFrame | None:
        """Pop the next request, and tell of it."""
        posted = self.inner.fetch()
        if posted is not None:
            mfa, frame = posted
            size = 4 * int.from_bytes(frame[2:4], "little")
            frame = frame[: max(size, _MIN_FRAME)]
            self._recorder.request(time_ns(), mfa, frame)
            self._open.fetched(mfa, frame)
        return posted

    def post_reply(self, mfa: int, data: bytes) -> None:
        """Post a reply, and tell of it behind the data that belong to it."""
        self._open.replied(data)
        now = time_ns()
        self.inner.post_reply(mfa, data)  # which raises if the host never gets it
        self._recorder.reply(now, mfa, data)

    def drop_replies(self) -> None:
        """Forget every outbound frame: what was open is never answered."""
        self._open.forget()
        self.inner.drop_replies()


class _Request:
    """A fetched request that was not answered finally."""

    __slots__ = ("frame", "keep", "lent", "mfa", "ranges")

    def __init__(self, mfa: int, frame: bytes, keep: int) -> None:
        self.mfa, self.frame, self.keep = mfa, frame, keep
        self.ranges: list[tuple[int, int]] | None = None  # found when the first one asks
        self.lent: list[tuple[int, memoryview]] = []  # written to until the reply


class _OpenRequests:
    """Which request a piece of DMA belongs to."""

    def __init__(self, dma: DmaSpace, recorder: IopRecorder, rules: TapRules) -> None:
        self._dma, self._recorder, self._rules = dma, recorder, rules
        self._requests: OrderedDict[int, _Request] = OrderedDict()
        self._serial = 0
        self._latest = _Request(0, b"", recorder.table_bytes)

    def forget(self) -> None:
        """Forget every request but the one that is being served."""
        self._requests.clear()

    def fetched(self, mfa: int, frame: bytes) -> None:
        """Take the next request."""
        is_bulk = self._rules.is_bulk is not None and self._rules.is_bulk(frame)
        recorder = self._recorder
        keep = recorder.bulk_bytes if is_bulk else recorder.table_bytes
        self._latest = request = _Request(mfa, frame, keep)
        if recorder.wants_dma and frame[7] not in self._rules.unanswered:
            self._serial += 1
            self._requests[self._serial] = request
            if len(self._requests) > MAX_OPEN:
                self._requests.popitem(last=False)

    def replied(self, reply: bytes) -> None:
        """Tell of what was written for the request that is answered, and forget it."""
        key, flags = reply[_KEY], reply[1]
        serial = next((at for at, open_ in self._requests.items() if open_.frame[_KEY] == key), 0)
        if not serial:
            return
        request = self._requests[serial]
        if not flags & _FAIL and reply[_STATUS] not in NOTHING_MOVED:
            for address, view in request.lent:
                _tell(self._recorder, _FROM_DEVICE, request, address, view)
        request.lent.clear()
        if flags & _LAST:
            del self._requests[serial]

    def owner(self, address: int) -> _Request:
        """Return the request that points to host memory; the latest one if nobody does."""
        latest = self._latest
        if self._points_to(latest, address):
            return latest
        for request in islice(reversed(self._requests.values()), MAX_SEARCH):
            if self._points_to(request, address):
                return request
        return latest

    def written(self, address: int, length: int) -> None:
        """Take back views of memory that is written otherwise."""
        lent = self.owner(address).lent
        lent[:] = [
            (start, view)
            for start, view in lent
            if start + len(view) <= address or start >= address + length
        ]

    def _points_to(self, request: _Request, address: int) -> bool:
        ranges = request.ranges
        if ranges is None:
            ranges = request.ranges = self._ranges(request.frame)
        return any(start <= address < end for start, end in ranges)

    def _ranges(self, frame: bytes) -> list[tuple[int, int]]:
        if self._rules.find_ranges is None:
            return []
        found = self._rules.find_ranges(frame, read_host=self._dma.read)
        return [(address, address + length) for _, _, address, length, _ in found]


class _TapDma:
    """Host memory of a `TapUnit`."""

    def __init__(self, dma: DmaSpace, recorder: IopRecorder, requests: _OpenRequests) -> None:
        self._dma, self._recorder, self._open = dma, recorder, requests

    def read(self, address: int, length: int) -> bytes:
        """Copy bytes out."""
        data = self._dma.read(address, length)
        _tell(self._recorder, _TO_DEVICE, self._open.owner(address), address, data)
        return data

    def write(self, address: int, data: bytes | bytearray | memoryview) -> None:
        """Copy bytes in."""
        self._dma.write(address, data)
        self._open.written(address, len(data))
        _tell(self._recorder, _FROM_DEVICE, self._open.owner(address), address, data)

    def windows(
        self, fragments: Iterable[tuple[int, int]], *, writable: bool
    ) -> list[memoryview] | None:
        """Return direct views. What is written to them is told of with the reply."""
        pieces = tuple(fragments)
        views = self._dma.windows(pieces, writable=writable)
        for (address, _), view in zip(pieces, views or (), strict=views is not None):
            owner = self._open.owner(address)
            if writable:
                owner.lent.append((address, view))
            else:
                _tell(self._recorder, _TO_DEVICE, owner, address, view)
        return views


def _tell(
    recorder: IopRecorder,
    channel: int,
    request: _Request,
    address: int,
    data: bytes | bytearray | memoryview,
) -> None:
    """Tell of a piece of host memory."""
    kept = bytes(data[: request.keep])
    recorder.dma(time_ns(), channel, request.mfa, address, kept, len(data))
