# SPDX-License-Identifier: Apache-2.0
"""The queues of one endpoint: what the host asks for meets what the device has or takes.

Packets do not appear here, but their rules do: a transfer of the device's ends with a packet that
is shorter than the largest one, which is an empty one if its length is a multiple of that.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable
from typing import Final

from i2o.transport.usb_device.descriptors import EndpointSpec
from i2o.transport.usb_device.transfers import Status, Transfer

_MOST_GIVEN: Final = 16  # transfers to the host that may be taken back


class _Endpoint(ABC):
    """What both directions have in common.

    Attributes:
        is_halted: whether it answers with STALL until the host clears that.
    """

    def __init__(self, spec: EndpointSpec) -> None:
        self.spec, self.is_halted = spec, False
        self._submitted: deque[Transfer] = deque()

    @property
    def submitted(self) -> int:
        """How many transfers of the host wait for the device."""
        return len(self._submitted)

    def submit(self, transfer: Transfer) -> None:
        """Take a transfer of the host."""
        if self.is_halted:
            transfer.end(Status.STALL)
            return
        self._submitted.append(transfer)
        self.run()

    def cancel(self, transfer: Transfer) -> bool:
        """End a transfer of the host, unless it has ended."""
        try:
            self._submitted.remove(transfer)
        except ValueError:
            return False
        transfer.end(Status.CANCELLED)
        return True

    def halt(self) -> None:
        """Answer with STALL from now on, also what the host submitted already."""
        self.is_halted = True
        self.end_all(Status.STALL)

    def clear(self) -> None:
        """Go on after a halt; what waits for the host waits until it submits again."""
        self.is_halted = False

    def end_all(self, status: Status) -> None:
        """End every transfer of the host."""
        for _ in range(len(self._submitted)):
            self._submitted.popleft().end(status)

    @abstractmethod
    def run(self) -> None:
        """Move what can be moved now."""


class _Piece:
    """Some of what the device has for the host in one transfer.

    Attributes:
        place: which of the device's transfers, and where in it, so that pieces have an order.
        data: the bytes.
        is_told: the device was told that the host has taken them.
    """

    __slots__ = ("data", "is_told", "place")

    def __init__(self, place: tuple[int, int], data: memoryview, *, is_told: bool) -> None:
        self.place, self.data, self.is_told = place, data, is_told


class InEndpoint(_Endpoint):
    """Data to the host.

    Args:
        spec: what the descriptor says.
        taken: told when the host has taken one transfer.
    """

    def __init__(self, spec: EndpointSpec, taken: Callable[[int], None]) -> None:
        super().__init__(spec)
        self._taken = taken
        self._data: deque[_Piece] = deque()
        self._pushed = 0
        self._given: deque[tuple[Transfer, _Piece]] = deque(maxlen=_MOST_GIVEN)

    @property
    def waiting(self) -> int:
        """How many transfers the host has not taken yet."""
        return len(self._data)

    def push(self, data: bytes | memoryview) -> None:
        """Have one transfer for the host; an empty one is an empty packet."""
        self._data.append(_Piece((self._pushed, 0), memoryview(data), is_told=False))
        self._pushed += 1
        self.run()

    def drop(self) -> None:
        """Forget what the host has not taken."""
        self._data.clear()
        self._given.clear()

    def run(self) -> None:
        """Give the host what there is."""
        packet, address = self.spec.packet_size, self.spec.address
        while self._submitted and self._data and not self.is_halted:
            transfer, piece = self._submitted.popleft(), self._data.popleft()
            room, size = transfer.length, len(piece.data)
            given = _Piece(piece.place, piece.data[:room], is_told=True)
            # exactly filled by whole packets: the host cannot know yet that this was all
            is_part = room % packet == 0 and (size > room or size == room > 0)
            if is_part:
                number, offset = piece.place
                piece.place, piece.data = (number, offset + room), piece.data[room:]
                given.is_told = piece.is_told
                self._data.appendleft(piece)
            self._given.append((transfer, given))
            # what is longer, and not a part, has a packet that is larger than the room for it
            is_whole = is_part or size <= room
            transfer.end(Status.OK if is_whole else Status.OVERFLOW, given.data)
            if not is_part and not piece.is_told:
                self._taken(address)

    def take_back(self, transfer: Transfer) -> bool:
        """Keep what a transfer gave to the host for the next one: it has not got that.

        Whoever carries transfers knows that, if the host took the transfer back before it heard
        that it had ended. Pieces go back to where they were, whatever their order is.

        Returns:
            False if it is not known, as it was too long ago.
        """
        for known, piece in self._given:
            if known is transfer:
                self._given.remove((known, piece))
                break
        else:
            return False
        waiting = sorted((*self._data, piece), key=lambda each: each.place)
        self._data.clear()
        self._join(waiting)
        self.run()
        return True

    def _join(self, pieces: list[_Piece]) -> None:
        """Make one of pieces that were one."""
        for piece in pieces:
            last = self._data[-1] if self._data else None
            if last is not None and (last.place[0], last.place[1] + len(last.data)) == piece.place:
                last.data = memoryview(b"".join((last.data, piece.data)))
                last.is_told = piece.is_told
            else:
                self._data.append(piece)


class OutEndpoint(_Endpoint):
    """Data to the device.

    Args:
        spec: what the descriptor says.
        wants: whether the device takes more now.
        take: is given data, and whether a transfer ends with them; returns whether the device
            takes them. If not, the endpoint is halted.
    """

    def __init__(
        self,
        spec: EndpointSpec,
        wants: Callable[[int], bool],
        take: Callable[[int, bytes | memoryview, bool], bool],
    ) -> None:
        super().__init__(spec)
        self._wants, self._take = wants, take

    def run(self) -> None:
        """Give the device what it takes."""
        packet = self.spec.packet_size
        while self._submitted and not self.is_halted and self._wants(self.spec.address):
            transfer = self._submitted.popleft()
            data = transfer.data
            ends = transfer.ends or len(data) % packet != 0 or not len(data)
            if self._take(self.spec.address, data, ends):
                transfer.end(Status.OK, actual=len(data))
            else:
                self.is_halted = True
                transfer.end(Status.STALL)
                self.end_all(Status.STALL)
