# SPDX-License-Identifier: Apache-2.0
"""The queues of one endpoint: what the host asks for meets what the device has or takes.

Packets do not appear here, but their rules do: a transfer of the device's ends with a packet that
is shorter than the largest one, which is an empty one if its length is a multiple of that.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable

from i2o.transport.usb_device.descriptors import EndpointSpec
from i2o.transport.usb_device.transfers import Status, Transfer


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


class InEndpoint(_Endpoint):
    """Data to the host.

    Args:
        spec: what the descriptor says.
        taken: told when the host has taken one transfer.
    """

    def __init__(self, spec: EndpointSpec, taken: Callable[[int], None]) -> None:
        super().__init__(spec)
        self._taken = taken
        self._data: deque[memoryview] = deque()

    @property
    def waiting(self) -> int:
        """How many transfers the host has not taken yet."""
        return len(self._data)

    def push(self, data: bytes | memoryview) -> None:
        """Have one transfer for the host; an empty one is an empty packet."""
        self._data.append(memoryview(data))
        self.run()

    def drop(self) -> None:
        """Forget what the host has not taken."""
        self._data.clear()

    def run(self) -> None:
        """Give the host what there is."""
        packet, address = self.spec.packet_size, self.spec.address
        while self._submitted and self._data and not self.is_halted:
            transfer, data = self._submitted.popleft(), self._data[0]
            room = transfer.length
            status = Status.OK
            # exactly filled by whole packets: the host cannot know yet that this was all
            if len(data) > room and room % packet:
                status = Status.OVERFLOW
                self._data.popleft()
            elif len(data) > room or (len(data) == room and room and room % packet == 0):
                self._data[0] = data[room:]
                transfer.end(Status.OK, data[:room])
                continue
            else:
                self._data.popleft()
            transfer.end(status, data[:room])
            self._taken(address)


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
