# SPDX-License-Identifier: Apache-2.0
"""Endpoints over USB for the suite: each pair is a cable, the older one is its host."""

from __future__ import annotations

import errno
import select
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from fakes.usb_cables import UsbCables
from i2o.closing import Closing
from i2o.transport.doorbell import Doorbell
from i2o.transport.fabric.errors import FabricError
from i2o.transport.usb.carrier import UsbCarrier
from i2o.transport.usb.device_carrier import UsbDeviceCarrier
from i2o.transport.usb.interface import device_spec


class _Ears:
    """The sink of one cable's end, which calls its peer by the board's number."""

    def __init__(self, board: Board, number: int) -> None:
        self._sink, self._number = board.sink, number

    def frame_arrived(self, peer: int, frame: memoryview) -> None:
        self._sink.frame_arrived(self._number, frame)

    def frame_sent(self, peer: int, token: object) -> None:
        self._sink.frame_sent(self._number, token)

    def room_made(self, peer: int) -> None:
        self._sink.room_made(self._number)

    def peer_up(self, peer: int) -> None:
        self._sink.peer_up(self._number)

    def peer_lost(self, peer: int, error: int, reason: str) -> None:
        self._sink.peer_lost(self._number, error, reason)


class Desk:
    """Boards, and the cables between them.

    Args:
        cables: for each two boards that talk one is plugged in.
    """

    def __init__(self, cables: UsbCables) -> None:
        self.cables = cables
        self.boards: list[Board] = []

    def board(self) -> Board:
        made = Board(self, len(self.boards))
        self.boards.append(made)
        return made

    def replug(self) -> None:
        """Pull every cable, and plug it in again."""
        for device in tuple(self.cables.plugged):
            self.cables.unplug(device)
            self.cables.plug(device)


class Board(Closing):
    """A carrier that has a cable to each board that it knows: `desk:N`."""

    frame_limit = 64 << 10

    def __init__(self, desk: Desk, index: int) -> None:
        self._desk, self.index, self.name = desk, index, f"desk:{index}"
        self._bell = Doorbell()
        self._watch = select.epoll()
        self._watch.register(self._bell.fileno(), select.EPOLLIN)
        self._ends: dict[int, tuple[Any, int]] = {}
        self._mine: deque[bytes] = deque()
        self.is_closed = False
        self.sink: Any = None

    def open(self, sink: Any) -> None:
        self.sink = sink

    def resolve(self, address: str) -> int:
        kind, _, index = address.partition(":")
        if kind != "desk" or not index.isdigit():
            raise FabricError(errno.EINVAL, address)
        number = int(index)
        if number != self.index and number not in self._ends:
            self._connect(number)
        return number

    def address_of(self, peer: int) -> str:
        return f"desk:{peer}"

    def _connect(self, number: int) -> None:
        boards = self._desk.boards
        other = boards[number] if number < len(boards) else None
        if other is None or other.is_closed:
            self._add(number, UsbCarrier(self._desk.cables.host_bus()), "usb:1209:0bad")
        elif self.index < number:
            device = UsbDeviceCarrier(device_spec(f"{self.index}-{number}"))
            self._desk.cables.plug(device.device)
            self._add(number, UsbCarrier(self._desk.cables.host_bus()), device.name)
            other._add(self.index, device, "usb:host")
        else:
            other._connect(self.index)

    def _add(self, number: int, carrier: Any, peer: str) -> None:
        carrier.open(_Ears(self, number))
        self._ends[number] = carrier, carrier.resolve(peer)
        self._watch.register(carrier.fileno(), select.EPOLLIN)
        self._bell.ring()

    def send(self, peer: int, parts: Sequence[Any], token: object = None) -> bool:
        if peer == self.index:
            self._mine.append(b"".join(parts))
            self._bell.ring()
            self.sink.frame_sent(peer, token)
            return True
        carrier, number = self._ends[peer]
        return bool(carrier.send(number, parts, token))

    def disconnect(self, peer: int) -> None:
        if peer == self.index:
            self._mine.clear()
        else:
            carrier, number = self._ends[peer]
            carrier.disconnect(number)

    def progress(self) -> None:
        self._bell.silence()
        for _ in range(len(self._mine)):
            if self._mine:
                self.sink.frame_arrived(self.index, memoryview(self._mine.popleft()))
        for carrier, _ in list(self._ends.values()):
            carrier.progress()

    def fileno(self) -> int:
        return -1 if self._watch.closed else self._watch.fileno()

    def next_deadline_ns(self) -> int | None:
        times = [carrier.next_deadline_ns() for carrier, _ in self._ends.values()]
        return min((time for time in times if time is not None), default=None)

    def close(self) -> None:
        self.is_closed = True
        closes: list[Callable[[], None]] = [each.close for each, _ in self._ends.values()]
        for close in (*closes, self._watch.close, self._bell.close):
            with suppress(ValueError):
                close()
