# SPDX-License-Identifier: Apache-2.0
"""Decoded traffic as JSON: one object a frame, piece of DMA or message."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Final

from i2o.decode.conversation import DMA, MESSAGE, REPLY, Traced
from i2o.decode.frame import extra_nodes, fixed_nodes
from i2o.decode.message_text import ENDS
from i2o.decode.summary import summary
from i2o.decode.tree import JsonValue, Node
from i2o.tools.message_json import JsonObject, message_json
from i2o.transport.capture.packet import Channel

MAX_REMEMBERED: Final = 1 << 18
"""Printed objects whose number is remembered, for the replies to them."""

_TO_DEVICE: Final = Channel.TO_DEVICE.value
_DIRECTIONS: Final = {
    Channel.IN.value: "in",
    Channel.OUT.value: "out",
    _TO_DEVICE: "in",
    Channel.FROM_DEVICE.value: "out",
}


class JsonPrinter:
    """Makes JSON objects; numbers them and refers from replies and DMA to requests.

    Args:
        with_bytes: add the bytes of the frame or of the data, in hexadecimal.
    """

    def __init__(self, *, with_bytes: bool = False) -> None:
        self._with_bytes = with_bytes
        self._next = 0
        self._numbers: dict[int, int] = {}
        self._zero_ns = 0

    def start(self, time_ns: int) -> None:
        """Count times from here, the first packet's."""
        self._zero_ns = time_ns

    def rest(self, dropped: int) -> str:
        """Return nothing: every packet was shown when it came."""
        return ""

    def text(self, traced: Traced) -> str:
        """Return the object as one line."""
        return json.dumps(self.record(traced))

    def record(self, traced: Traced) -> JsonObject:
        """Return the object."""
        number = self._number(traced)
        packet = traced.packet
        record: JsonObject = {
            "type": traced.kind,
            "index": number,
            "t": (packet.time_ns - self._zero_ns) / 1e9,
        }
        if traced.kind == MESSAGE:
            record |= self._message(traced)
        else:
            record |= {
                "iop": packet.iop,
                "dir": _DIRECTIONS.get(packet.channel),
                "mfa": _mfa(traced),
            }
            record |= self._dma(traced) if traced.kind == DMA else self._frame(traced)
        record["summary"] = summary(traced)
        if packet.comment:
            record["comment"] = packet.comment
        if self._with_bytes:
            record["bytes"] = packet.data.hex()
        return record

    def _frame(self, traced: Traced) -> JsonObject:
        fixed, extra = fixed_nodes(traced), extra_nodes(traced)
        record: JsonObject = {
            **_addressed(traced, known=not traced.is_short),
            "size_words": None if traced.is_short else traced.size_words,
            "fields": _by_name(fixed),
            "decoded": _by_name(extra),
        }
        if traced.kind == REPLY:
            record["reply_to"] = self._number_of(traced.request)
            latency = traced.latency_ns
            record["latency"] = None if latency is None else latency / 1e9
        return record | {"problems": [*_problems(fixed, extra)]}

    def _dma(self, traced: Traced) -> JsonObject:
        packet = traced.packet
        extra = extra_nodes(traced)
        return {
            **_addressed(traced, known=traced.request is not None),
            "size_words": None if traced.request is None else traced.size_words,
            "fields": {},
            "address": packet.address,
            "length": packet.length,
            "to_device": packet.channel == _TO_DEVICE,
            "buffer": traced.buffer,
            "offset": None if traced.buffer is None else traced.offset,
            "request": self._number_of(traced.request),
            "decoded": _by_name(extra),
            "problems": [*_problems(extra)],
        }

    def _message(self, traced: Traced) -> JsonObject:
        fixed, extra = fixed_nodes(traced), extra_nodes(traced)
        found: JsonObject = {"endpoint": traced.packet.iop, **message_json(traced)}
        if traced.record is not None and traced.record.kind in ENDS:
            found["reply_to"] = self._number_of(traced.request)
            latency = traced.latency_ns
            found["latency"] = None if latency is None else latency / 1e9
        return found | {"decoded": _by_name(extra), "problems": [*_problems(fixed, extra)]}

    def _number(self, traced: Traced) -> int:
        number = self._next
        self._next = number + 1
        if traced.kind not in (REPLY, DMA):
            self._numbers[traced.index] = number
            if len(self._numbers) > MAX_REMEMBERED:
                del self._numbers[next(iter(self._numbers))]
        return number

    def _number_of(self, request: Traced | None) -> int | None:
        return None if request is None else self._numbers.get(request.index)


def _mfa(traced: Traced) -> int | None:
    """Return a frame's MFA; that of DMA is its request's, which not every capture says."""
    mfa = traced.packet.mfa
    if mfa is None and traced.kind == DMA and traced.request is not None:
        return traced.request.packet.mfa
    return mfa


def _addressed(traced: Traced, *, known: bool) -> JsonObject:
    if not known:
        return dict.fromkeys(("function", "name", "target", "initiator"))
    return {
        "function": traced.function,
        "name": traced.name,
        "target": traced.target,
        "initiator": traced.initiator,
    }


def _by_name(nodes: Iterable[Node]) -> dict[str, JsonValue]:
    return {node.name: node.json() for node in nodes if not node.is_problem}


def problems(traced: Traced) -> list[str]:
    """Return what is wrong with a frame or a piece of DMA."""
    fixed = [] if traced.kind == DMA else fixed_nodes(traced)
    return _problems(fixed, extra_nodes(traced))


def _problems(*lists: Iterable[Node]) -> list[str]:
    return [problem for nodes in lists for node in nodes for problem in node.problems()]
