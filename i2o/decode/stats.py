# SPDX-License-Identifier: Apache-2.0
"""Statistics of traffic: what was asked, answered and moved, how fast, and what went wrong.

The memory they need does not grow with the length of a capture.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final

from i2o.decode.conversation import DMA, MAX_OUTSTANDING, MESSAGE, REQUEST, Traced
from i2o.decode.latencies import Latencies
from i2o.decode.message_stats import MessageStatistics
from i2o.decode.timeline import Timeline
from i2o.frames import catalog
from i2o.frames.functions import UNANSWERED, Function
from i2o.frames.header import MsgFlags, ReqStatus
from i2o.frames.layout import Field
from i2o.transport.capture.packet import Channel

MAX_ROWS: Final = 4096
"""Rows of one table; what would need more is counted in the row `others`."""
OTHERS: Final = "others"

_MIN_FRAME: Final = 12
_FAIL: Final = MsgFlags.FAIL.value
_ENDS: Final = (MsgFlags.LAST | MsgFlags.FAIL).value
_PRIVATE: Final = Function.PRIVATE_MESSAGE.value
_OUTBOUND_INIT: Final = Function.EXEC_OUTBOUND_INIT.value
_TO_DEVICE: Final = Channel.TO_DEVICE.value
_PROGRESS: Final = ReqStatus.PROGRESS_REPORT.value
_PLAIN_STATUS: Final = 19  # byte of a reply
_UNTIMED: Final = UNANSWERED | {Function.UTIL_EVENT_REGISTER.value}
"""Functions that have no final reply to wait for."""


class Row:
    """What is counted for one function, one device or one IOP.

    Attributes:
        name: of what.
        requests: frames to the IOP.
        replies: frames from it.
        errors: replies with FAIL, or a status that is neither success nor progress.
        awaited: requests that must have a final reply.
        answered: those that got it.
        moved: bytes, by the transfer counts of the replies.
        latencies: from request to final reply.
        depth: requests without a final reply; counted for IOPs and the total only.
        max_depth: the most at one time.
    """

    __slots__ = (
        "answered",
        "awaited",
        "depth",
        "errors",
        "latencies",
        "max_depth",
        "moved",
        "name",
        "replies",
        "requests",
    )

    def __init__(self, name: str) -> None:
        self.name = name
        self.requests = self.replies = self.errors = self.moved = 0
        self.awaited = self.answered = self.depth = self.max_depth = 0
        self.latencies = Latencies()

    @property
    def unanswered(self) -> int:
        """Requests that a final reply is missing of."""
        return self.awaited - self.answered


class Statistics:
    """Counts frames.

    Attributes:
        total: of everything.
        functions: rows by name of the message.
        devices: rows by (IOP, TID).
        iops: rows by number.
        timeline: what happened when.
        short: frames without a whole header.
        unmatched: final replies that answer no request of the capture.
        to_device: bytes of DMA that IOPs read from host memory.
        from_device: bytes of DMA that they wrote to it, reply frames left out.
        messages: what endpoints sent and received.
        dropped: frames that the capture lost; whoever reads it says so.
    """

    def __init__(self) -> None:
        self.total = Row("total")
        self.messages = MessageStatistics()
        self.functions: dict[str, Row] = {}
        self.devices: dict[tuple[int, int], Row] = {}
        self.iops: dict[int, Row] = {}
        self.timeline = Timeline()
        self.short = self.unmatched = self.to_device = self.from_device = self.dropped = 0
        self._names: dict[tuple[int, int | None], Row] = {}

    def feed(self, traced: Traced) -> None:
        """Count a frame; DMA only adds to the bytes of DMA."""
        kind, packet = traced.kind, traced.packet
        if kind == DMA:
            if packet.channel == _TO_DEVICE:
                self.to_device += packet.length
            elif not traced.is_reply_frame:
                self.from_device += packet.length
            return
        if kind == MESSAGE:
            self.messages.feed(traced)
            return
        if len(packet.data) < _MIN_FRAME:
            self.short += 1
            return
        request = traced.request
        asked = traced if request is None else request  # some IOPs exchange the TIDs in replies
        target, number = asked.target, packet.iop
        row = self._function_row(asked)
        device = self.devices.get((number, target)) or self._device_row(number, target)
        iop = self.iops.get(number) or self._iop_row(number)
        rows = (row, device, iop, self.total)
        if kind == REQUEST:
            self._request(traced, rows, iop)
            self.timeline.add(packet.time_ns, self.total.depth)
        else:
            latency = self._reply(traced, rows, iop)
            self.timeline.add(packet.time_ns, self.total.depth, latency)

    # -------------------------------------------------------------------------------------------

    def _request(self, traced: Traced, rows: tuple[Row, ...], iop: Row) -> None:
        function = traced.function
        is_awaited = function not in _UNTIMED
        for row in rows:
            row.requests += 1
            if is_awaited:
                row.awaited += 1
        if is_awaited and iop.depth < MAX_OUTSTANDING:
            for row in (iop, self.total):
                row.depth += 1
                if row.depth > row.max_depth:
                    row.max_depth = row.depth
        elif function == _OUTBOUND_INIT:  # behind a reset: what the IOP owed never comes
            self.total.depth -= iop.depth
            iop.depth = 0

    def _reply(self, traced: Traced, rows: tuple[Row, ...], iop: Row) -> int | None:
        """Count a reply; return its latency if it is the final one."""
        status, moved = _outcome(traced)
        is_error = traced.flags & _FAIL or status not in (0, _PROGRESS)
        is_final = traced.flags & _ENDS and traced.function not in _UNTIMED
        latency = None
        if is_final:
            if traced.request is None:
                self.unmatched += 1
            else:
                latency = max(0, traced.latency_ns or 0)
                if iop.depth:
                    iop.depth -= 1
                    self.total.depth -= 1
        for row in rows:
            row.replies += 1
            row.moved += moved
            if is_error:
                row.errors += 1
            if latency is not None:
                row.answered += 1
                row.latencies.add(latency)
        return latency

    # --- rows ----------------------------------------------------------------------------------

    def _function_row(self, traced: Traced) -> Row:
        function = traced.function
        key = function, traced.device_class
        known = self._names.get(key)
        if known is not None:
            return known
        name = traced.name
        if name not in self.functions and len(self.functions) >= MAX_ROWS:
            name = OTHERS
        row = self.functions.setdefault(name, Row(name))
        if function != _PRIVATE and len(self._names) < MAX_ROWS:
            self._names[key] = row
        return row

    def _device_row(self, number: int, target: int) -> Row:
        if len(self.devices) >= MAX_ROWS:
            return self.devices.setdefault((-1, -1), Row(OTHERS))
        return self.devices.setdefault((number, target), Row(f"iop{number} {target:#05x}"))

    def _iop_row(self, number: int) -> Row:
        if len(self.iops) >= MAX_ROWS:
            return self.iops.setdefault(-1, Row(OTHERS))
        return self.iops.setdefault(number, Row(f"iop{number}"))


def _outcome(traced: Traced) -> tuple[int, int]:
    """Return ReqStatus and transfer count of a reply, 0 for what it does not have."""
    data = traced.packet.data
    size = min(len(data), 4 * traced.size_words)
    status = data[_PLAIN_STATUS] if size > _PLAIN_STATUS else 0
    function, device_class = traced.meant
    has_status, count = _reply_places(
        function, device_class, traced.flags, status, min(size // 4, 64)
    )
    moved = 0
    if count is not None and count.byte + 4 <= size:
        moved = int.from_bytes(data[count.byte : count.byte + 4], "little")
    return status if has_status else 0, moved


@lru_cache(maxsize=4096)
def _reply_places(
    function: int, device_class: int | None, flags: int, status: int, size_words: int
) -> tuple[bool, Field | None]:
    """Return whether a reply has a status where most have it, and where its transfer count is."""
    layout = catalog.reply_layout(function, device_class, flags, status, size_words)
    fields = {found.path: found for found in layout.fields}
    return "req_status" in fields, fields.get("transfer_count")
