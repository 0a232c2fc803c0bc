# SPDX-License-Identifier: Apache-2.0
"""Statistics of endpoints: messages and bytes both ways, how long sends took, what went wrong."""

from __future__ import annotations

from typing import Final

from i2o.decode.conversation import Traced
from i2o.decode.latencies import Latencies
from i2o.decode.message_text import FAILURES
from i2o.transport.capture.message_record import Kind
from i2o.transport.fabric.flags import Flag

MAX_ROWS: Final = 4096
"""Rows of one table; what would need more is counted in the row `others`."""
_OTHERS: Final = "others"
_COUNTED: Final = (Kind.SEND.value, Kind.SENT.value, Kind.RECEIVED.value, *FAILURES)
_COMPLETION: Final = Flag.COMPLETION.value


class MessageRow:
    """What is counted for one endpoint, or one peer of one.

    Attributes:
        name: of what.
        sent: messages posted.
        sent_bytes: of those.
        received: messages received.
        received_bytes: of those.
        failures: sends and receives that ended with an error.
        awaited: of the messages posted, those whose end can be seen: COMPLETION is set.
        ended: of those, the ones whose end was seen, good or bad.
        latencies: from a send to its end, of those that succeeded.
    """

    __slots__ = (
        "awaited",
        "ended",
        "failures",
        "latencies",
        "name",
        "received",
        "received_bytes",
        "sent",
        "sent_bytes",
    )

    def __init__(self, name: str) -> None:
        self.name = name
        self.sent = self.sent_bytes = self.received = self.received_bytes = 0
        self.failures = self.awaited = self.ended = 0
        self.latencies = Latencies()

    @property
    def open(self) -> int:
        """Sends whose end was not seen."""
        return max(0, self.awaited - self.ended)

    @property
    def messages(self) -> int:
        """Messages both ways."""
        return self.sent + self.received


class MessageStatistics:
    """Counts messages of endpoints.

    Attributes:
        total: of all of them.
        endpoints: rows by number.
        peers: rows by (endpoint, peer).
        damaged: packets that cannot be taken apart.
        seconds: from the first packet to the last.
    """

    def __init__(self) -> None:
        self.total = MessageRow("total")
        self.endpoints: dict[int, MessageRow] = {}
        self.peers: dict[tuple[int, str], MessageRow] = {}
        self.damaged = 0
        self._first_ns = self._last_ns = 0
        self._is_started = False

    @property
    def seconds(self) -> float:
        """From the first packet to the last."""
        return (self._last_ns - self._first_ns) / 1e9

    def feed(self, traced: Traced) -> None:
        """Count a packet."""
        record, packet = traced.record, traced.packet
        if not self._is_started:
            self._is_started, self._first_ns = True, packet.time_ns
        self._last_ns = max(self._last_ns, packet.time_ns, self._first_ns)
        if record is None:
            self.damaged += 1
            return
        kind = record.kind
        begun = traced.request.record if traced.request is not None else None
        is_awaited = begun is None or bool(begun.op_flags & _COMPLETION)
        rows = [self.total, self._endpoint_row(packet.iop)]
        if record.peer and kind in _COUNTED:
            rows.append(self._peer_row(packet.iop, record.peer))
        for row in rows:
            if kind == Kind.SEND:
                row.sent += 1
                row.sent_bytes += record.length
                row.awaited += bool(record.op_flags & _COMPLETION)
            elif kind == Kind.RECEIVED:
                row.received += 1
                row.received_bytes += record.length
            elif kind == Kind.SENT:
                row.ended += is_awaited
                if traced.latency_ns is not None:
                    row.latencies.add(max(0, traced.latency_ns))
            elif kind in FAILURES:
                row.failures += 1
                row.ended += is_awaited and kind == Kind.SEND_FAILED

    def _endpoint_row(self, number: int) -> MessageRow:
        row = self.endpoints.get(number)
        if row is None:
            if len(self.endpoints) >= MAX_ROWS:
                return self.endpoints.setdefault(-1, MessageRow(_OTHERS))
            row = self.endpoints[number] = MessageRow(f"ep{number}")
        return row

    def _peer_row(self, number: int, peer: str) -> MessageRow:
        row = self.peers.get((number, peer))
        if row is None:
            if len(self.peers) >= MAX_ROWS:
                return self.peers.setdefault((-1, ""), MessageRow(_OTHERS))
            row = self.peers[number, peer] = MessageRow(f"ep{number} {peer}")
        return row
