# SPDX-License-Identifier: Apache-2.0
"""Media for the machine of endpoints, and what can happen to them."""

from __future__ import annotations

import contextlib
import ctypes
import random
import select
import socket
import struct
from collections.abc import Callable
from itertools import permutations

from i2o.transport.fabric.endpoint import Endpoint
from i2o.transport.fabric.engine import EngineOptions
from i2o.transport.fabric.mem import MemoryFabric
from i2o.transport.fabric.software_endpoint import SoftwareEndpoint
from i2o.transport.tcp.address import Address
from i2o.transport.tcp.carrier import TcpCarrier
from i2o.transport.tcp.options import PeerOptions

OPTIONS = EngineOptions(
    tx_size=8,
    rx_size=40,
    window_messages=8,
    window_bytes=4096,
    eager_limit=600,
    inject_size=64,
    max_msg_size=1 << 16,
    iov_limit=4,
)
"""Small, so that every limit is met often."""
QUICK = PeerOptions(retry_delay_s=0.001, retry_delay_max_s=0.002, linger_s=0.05)
_NAP_S = 0.002


class MemoryMedium:
    """Ends in memory: links are reset, dropped, half closed, delayed, blocked and made again."""

    def __init__(self, names: list[str]) -> None:
        self._fabric = MemoryFabric(frame_limit=400, room=6)
        self._pairs = list(permutations(names, 2))
        self._names = names
        self._healing: list[Callable[[], None]] = []

    def open(self, name: str) -> Endpoint:
        return SoftwareEndpoint(self._fabric.carrier(name), options=OPTIONS, provider="mem")

    def address(self, name: str) -> str:
        return name

    def faults(self) -> dict[str, Callable[[random.Random], None]]:
        fabric = self._fabric

        def lasting(
            begin: Callable[[str, str], None], end: Callable[[str, str], None]
        ) -> Callable[[random.Random], None]:
            def fault(chance: random.Random) -> None:
                source, target = chance.choice(self._pairs)
                begin(source, target)
                self._healing.append(lambda: end(source, target))

            return fault

        def isolate(chance: random.Random) -> None:
            name = chance.choice(self._names)
            fabric.isolate(name)
            self._healing.append(lambda: fabric.rejoin(name))

        return {
            "reset": lambda chance: fabric.reset(*chance.choice(self._pairs)),
            "drop": lambda chance: fabric.drop(*chance.choice(self._pairs)),
            "half close": lambda chance: fabric.half_close(*chance.choice(self._pairs)),
            "delay": lasting(fabric.hold, fabric.release),
            "block": lasting(fabric.block, fabric.unblock),
            "isolate": isolate,
            "some arrive": lambda chance: fabric.release(
                *chance.choice(self._pairs), count=chance.randrange(4)
            ),
        }

    def kill(self, name: str) -> None:
        self._fabric.kill(name)

    def heal(self) -> None:
        healing, self._healing = self._healing, []
        for end in healing:
            end()

    def rest(self) -> None:
        pass

    def close(self) -> None:
        pass


class TcpMedium:
    """Ends on loopback: their links are cut, half closed and reset, and ends stand still."""

    def __init__(self, names: list[str]) -> None:
        self._names = names
        self._carriers: dict[str, TcpCarrier] = {}
        self._addresses: dict[str, Address] = {}
        self._healing: list[Callable[[], None]] = []

    def open(self, name: str) -> Endpoint:
        at = self._addresses.get(name, Address("127.0.0.1", 0))  # the next one has the same port
        carrier = TcpCarrier([at], options=QUICK)
        self._carriers[name] = carrier
        self._addresses[name] = carrier.node.addresses[0]
        return SoftwareEndpoint(carrier, options=OPTIONS, provider="tcp")

    def address(self, name: str) -> str:
        if name not in self._addresses:  # it will be opened before anything is sent there
            with socket.create_server(("127.0.0.1", 0)) as unused:
                self._addresses[name] = Address("127.0.0.1", unused.getsockname()[1])
        return str(self._addresses[name])

    def faults(self) -> dict[str, Callable[[random.Random], None]]:
        return {
            "drop": lambda chance: self._cut(chance, lambda s: s.shutdown(socket.SHUT_RDWR)),
            "half close": lambda chance: self._cut(chance, lambda s: s.shutdown(socket.SHUT_WR)),
            "reset": lambda chance: self._cut(chance, _reset),
            "delay": self._stand_still,
            "disconnect": self._disconnect,
        }

    def _cut(self, chance: random.Random, how: Callable[[socket.socket], None]) -> None:
        ends = self._links(chance.choice(self._names))
        if ends:
            with contextlib.suppress(OSError):  # it is cut already
                how(chance.choice(ends))

    def _links(self, name: str) -> list[socket.socket]:
        links = [peer.link for peer in self._carriers[name].node.peers()]
        return [link.socket for link in links if link is not None and link.socket.fileno() >= 0]

    def _stand_still(self, chance: random.Random) -> None:
        """Let an end do nothing for a while, as a process that is stopped."""
        carrier = self._carriers[chance.choice(self._names)]
        carrier.progress = lambda: None
        self._healing.append(lambda: setattr(carrier, "progress", carrier.node.progress))

    def _disconnect(self, chance: random.Random) -> None:
        """Let two ends call one another at the same time, when both have something to send."""
        for name in chance.sample(self._names, 2):
            for end in self._links(name):
                with contextlib.suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)

    def kill(self, name: str) -> None:
        for end in self._links(name):
            with contextlib.suppress(OSError):
                _reset(end)

    def heal(self) -> None:
        healing, self._healing = self._healing, []
        for end in healing:
            end()

    def rest(self) -> None:
        numbers = [carrier.fileno() for carrier in self._carriers.values()]
        select.select([number for number in numbers if number >= 0], [], [], _NAP_S)

    def close(self) -> None:
        for carrier in self._carriers.values():
            carrier.close()


def _reset(end: socket.socket) -> None:
    """Break a connection so that the other end gets a reset: connect(2) to AF_UNSPEC does that."""
    nowhere = struct.pack("H14x", socket.AF_UNSPEC)
    ctypes.CDLL(None, use_errno=True).connect(end.fileno(), nowhere, len(nowhere))
