# SPDX-License-Identifier: Apache-2.0
"""What is served dies, comes back, or has no room for the buffers of a host."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from fakes.memory_endpoints import MemoryMedium
from fakes.wire_station import BridgeStation
from i2o.errors import IopDead, TransportUnavailable
from i2o.testing.bare_host import BareHost
from i2o.tools.serve import bridge_rules
from i2o.transport.fabric.endpoint import Message
from i2o.transport.wire.bridge import PortBridge
from i2o.transport.wire.messages import HELLO, MAGIC, REFUSED, VERSION, WINDOW, Kind
from i2o.transport.wire.stream import HEAD_SIZE, lone_packet
from i2o.transport.wire.wire_server import PROBE_S, WireServer
from i2o.transport.wire.wire_unit import WireUnit

SECOND = 1_000_000_000


class Mortal:
    """What a server serves, alive or dead as the test wants it."""

    is_dead = False
    cycles = 0

    def run(self, now_ns: int) -> int | None:
        self._look()
        return None

    def power_cycle(self) -> None:
        self._look()
        self.cycles += 1

    def _look(self) -> None:
        if self.is_dead:
            raise IopDead("somebody pulled it out")

    def filenos(self) -> tuple[int, ...]:
        return ()


class Guest:
    """A host that speaks by hand."""

    def __init__(self, medium: MemoryMedium, name: str = "host") -> None:
        self.endpoint = medium.endpoint(name)
        self.endpoint.enable()
        self.name = name.encode()
        self.got: list[bytes] = []
        medium.on_message = self._note

    def _note(self, source: str, dest: str, data: bytes) -> list[bytes]:
        if dest == "host":
            self.got.append(data)
            return []
        return [data]

    def say_hello(self, version: int = VERSION) -> None:
        hello = HELLO.build(
            magic=MAGIC,
            version=version,
            window=WINDOW,
            packet_size=4096,
            token=7,
            name_length=len(self.name),
        )
        packet = lone_packet(0, bytes((Kind.HELLO,)) + hello + self.name)
        self.endpoint.sendmsg(Message([packet], self.endpoint.insert("server")))

    def answers(self) -> list[tuple[Kind, str]]:
        """Return what came since the last call: the kind, and the reason if it is a refusal."""
        found = []
        for packet in self.got:
            body = packet[HEAD_SIZE:]
            kind = Kind(body[0])
            found.append((kind, body[1 + REFUSED.size :].decode() if kind == Kind.REFUSED else ""))
        self.got.clear()
        return found


@pytest.fixture
def medium() -> MemoryMedium:
    return MemoryMedium()


@pytest.fixture
def guest(medium: MemoryMedium) -> Iterator[Guest]:
    made = Guest(medium)
    yield made
    made.endpoint.close()
    made.endpoint.queue.close()


def test_a_host_is_sent_away_when_the_iop_dies_and_the_next_waits_for_it(
    medium: MemoryMedium, guest: Guest
) -> None:
    behind = Mortal()
    with WireServer(medium.endpoint("server"), WireUnit(), behind) as server:
        guest.say_hello()
        assert server.handle()
        server.run(0)
        assert guest.answers() == [(Kind.WELCOME, "")]
        assert server.host == "host"
        behind.is_dead = True
        assert server.run(SECOND) == round((1 + PROBE_S) * SECOND), "then it is tried again"
        assert guest.answers() == [(Kind.BYE, "")]
        assert server.host == ""
        guest.say_hello()
        server.handle()
        server.run(SECOND + 1)
        assert guest.answers() == [], "it is not tried before"
        server.run(3 * SECOND)
        [(kind, reason)] = guest.answers()
        assert kind == Kind.REFUSED
        assert "gone" in reason
        assert "pulled it out" in reason
        behind.is_dead = False
        server.run(5 * SECOND)
        guest.say_hello()
        server.handle()
        server.run(5 * SECOND)
        assert guest.answers() == [(Kind.WELCOME, "")]
        assert (behind.cycles, server.sessions, server.refused) == (1, 2, 1)


def test_a_power_cycle_that_cannot_be_sends_the_host_away(
    medium: MemoryMedium, guest: Guest
) -> None:
    behind, unit = Mortal(), WireUnit()
    with WireServer(medium.endpoint("server"), unit, behind) as server:
        guest.say_hello()
        server.handle()
        server.run(0)
        guest.answers()
        behind.is_dead = unit.must_power_cycle = True
        server.run(SECOND)
        assert guest.answers() == [(Kind.BYE, "")]


def test_a_host_of_another_version_is_not_let_in(medium: MemoryMedium, guest: Guest) -> None:
    with WireServer(medium.endpoint("server"), WireUnit(), Mortal()) as server:
        guest.say_hello(version=VERSION + 1)
        server.handle()
        [(kind, reason)] = guest.answers()
        assert (kind, reason) == (Kind.REFUSED, f"the server speaks version {VERSION}, not 2")
        assert server.run(0) is None
        assert server.sessions == 0
        assert server.reads_from() == [server._pump.fileno()]
        assert server.writes_to() == []


def _port(allocate: Any) -> Any:
    return SimpleNamespace(name="pci:x", memory=SimpleNamespace(allocate=allocate))


def test_a_port_without_memory_in_one_piece() -> None:
    sizes, freed = [], []

    def allocate(size: int) -> Any:
        sizes.append(size)
        if size > 1 << 20:
            raise MemoryError
        return SimpleNamespace(segments=((0, 1), (2, 1)), free=lambda: freed.append(size))

    with pytest.raises(TransportUnavailable, match=r"no 512 KiB in one piece \(give it more"):
        PortBridge(_port(allocate), bridge_rules())
    assert sizes == [1 << bits for bits in range(26, 18, -1)]
    assert freed == [1 << 20, 1 << 19]


def test_reply_frames_and_memory_outside_of_the_arena(caplog: pytest.LogCaptureFixture) -> None:
    with BridgeStation() as station, station.port() as port:
        host = BareHost(port)
        host.init_outbound()
        assert station.bridge.filenos() == (station.inner.fileno(),)
        port.release(station.bridge.arena.base - 4096)
        assert host.state()
    assert "is not in the arena" in caplog.text
