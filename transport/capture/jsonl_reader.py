# SPDX-License-Identifier: Apache-2.0
"""Reads traces of one JSON object a line: `t` in seconds, `event`, and a frame or a piece of DMA.

`event` is `request` or `reply` (with `mfa` and `frame` in hex) or `dma_read` or `dma_write`, seen
from the IOP (with `address`, `length` and `data` in hex, which may be cut).
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Final

from i2o.transport.capture.packet import Channel, Packet
from i2o.transport.capture.pcapng_reader import Interface

_MAX_LINE: Final = 1 << 21
_MAX_PROBLEMS: Final = 20
_CHANNELS: Final = {
    "request": Channel.IN.value,
    "reply": Channel.OUT.value,
    "dma_read": Channel.TO_DEVICE.value,
    "dma_write": Channel.FROM_DEVICE.value,
}


class JsonlReader:
    """The packets of a trace; iterate over it once.

    Args:
        read: returns the next bytes, empty at the end, as soon as there are some.

    Attributes:
        interfaces: none: traces have no interfaces.
        problems: which lines were skipped and why, the first twenty.
        foreign: nothing.
        dropped: always 0: traces do not tell.
    """

    dropped = 0

    def __init__(self, read: Callable[[], bytes]) -> None:
        self._read = read
        self.interfaces: list[Interface] = []
        self.problems: list[str] = []
        self.foreign: Counter[int] = Counter()
        self._bad = 0

    def __iter__(self) -> Iterator[Packet]:
        rest = b""
        number = 0
        while chunk := self._read():
            lines = (rest + chunk).split(b"\n")
            rest = lines.pop()
            if len(rest) > _MAX_LINE:
                self._note(number + len(lines) + 1, f"longer than {_MAX_LINE} bytes")
                return
            for line in lines:
                number += 1
                yield from self._line(number, line)
        yield from self._line(number + 1, rest)

    def _line(self, number: int, line: bytes) -> Iterator[Packet]:
        if not line.strip():
            return
        try:
            yield _packet(json.loads(line))
        except (ValueError, RecursionError) as error:
            self._note(number, str(error))

    def _note(self, number: int, why: str) -> None:
        self._bad += 1
        if self._bad < _MAX_PROBLEMS:
            self.problems.append(f"line {number} is no event of a trace: {why}")
        elif self._bad == _MAX_PROBLEMS:
            self.problems.append(f"line {number} and perhaps more are no events of a trace")


def _packet(event: object) -> Packet:
    """Return one event as a packet; raises ValueError."""
    if not isinstance(event, dict):
        raise ValueError("expected a JSON object")
    channel = _CHANNELS.get(str(event.get("event")))
    if channel is None:
        raise ValueError(f"event {event.get('event')!r}: expected one of {', '.join(_CHANNELS)}")
    time_s = event.get("t", 0)
    if not isinstance(time_s, int | float) or not abs(time_s) < 1 << 33:
        raise ValueError(f"t {time_s!r}: expected seconds")
    time_ns = round(time_s * 1e9)
    iop = _number(event, "iop", 0xFFFF, 0)
    if channel <= Channel.OUT:
        frame = _bytes(event, "frame")
        mfa = _number(event, "mfa", (1 << 64) - 1, None)
        return Packet(time_ns, iop or 0, channel, frame, len(frame), mfa)
    data = _bytes(event, "data")
    length = _number(event, "length", 1 << 32, len(data)) or 0
    address = _number(event, "address", (1 << 64) - 1, 0) or 0
    mfa = _number(event, "mfa", (1 << 64) - 1, None)
    return Packet(time_ns, iop or 0, channel, data, max(length, len(data)), mfa, address)


def _number(event: dict[str, object], key: str, most: int, default: int | None) -> int | None:
    value = event.get(key, default)
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= most:
        raise ValueError(f"{key} {value!r}: expected a number from 0 to {most}")
    return value


def _bytes(event: dict[str, object], key: str) -> bytes:
    value = event.get(key, "")
    if not isinstance(value, str):
        raise ValueError(f"{key}: expected bytes in hexadecimal")
    try:
        return bytes.fromhex(value)
    except ValueError:
        raise ValueError(f"{key}: expected bytes in hexadecimal") from None
