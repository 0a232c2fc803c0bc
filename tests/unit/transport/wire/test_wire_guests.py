# SPDX-License-Identifier: Apache-2.0
"""Addresses of hosts whose carrier does not say who sent: kept while they are there, no longer."""

from __future__ import annotations

import errno
import time
from collections.abc import Iterator

import pytest

from fakes.memory_endpoints import MemoryEndpoint, MemoryMedium
from i2o.iop_emulator.options import EmuOptions
from i2o.iop_emulator.remote_iop import RemoteIop
from i2o.transport.fabric.endpoint import Message
from i2o.transport.uri import Uri
from i2o.transport.wire.messages import HELLO, MAGIC, NO_SESSION, Kind
from i2o.transport.wire.stream import lone_packet
from i2o.transport.wire.wire_server import WireServer


class Lobby:
    """A server that is moved by hand, and those who call it."""

    def __init__(self) -> None:
        self.medium = MemoryMedium()
        self.medium.is_known = False
        self.end = self.medium.endpoint("server")
        self.iop = RemoteIop.from_options(EmuOptions.from_uri(Uri.parse("emu:")))
        self.server = WireServer(self.end, self.iop.unit, self.iop)
        self._guests: dict[str, MemoryEndpoint] = {}

    def hello(self, name: str, version: int = 1) -> int:
        """Let somebody say HELLO; return the number that the server has for the name."""
        if name not in self._guests:
            self._guests[name] = self.medium.endpoint(name)
            self._guests[name].enable()
        guest = self._guests[name]
        record = HELLO.build(
            magic=MAGIC,
            version=version,
            window=16,
            packet_size=4096,
            token=1,
            name_length=len(name),
        )
        packet = lone_packet(NO_SESSION, bytes((Kind.HELLO,)) + record + name.encode())
        guest.sendmsg(Message([packet], guest.insert("server")))
        self.server.handle()
        return self.end.insert(name)

    def run(self) -> None:
        for _ in range(3):
            self.server.handle()
            self.server.run(time.monotonic_ns())

    @property
    def forgotten(self) -> set[int]:
        return self.end._removed

    def close(self) -> None:
        self.server.close()
        self.iop.close()
        for guest in self._guests.values():
            guest.close()
            guest.queue.close()


@pytest.fixture
def lobby() -> Iterator[Lobby]:
    made = Lobby()
    yield made
    made.close()


def test_who_comes_again_keeps_the_address(lobby: Lobby) -> None:
    for sessions in (1, 2, 3):
        number = lobby.hello("host")
        lobby.run()
        assert (lobby.server.sessions, lobby.server.host) == (sessions, "host")
        assert not lobby.forgotten
    lobby.server.send_failed(number, errno.ECONNRESET, "gone")
    lobby.run()
    assert lobby.forgotten == {number}


@pytest.mark.parametrize("is_served", [True, False])
def test_who_is_recognised_later_is_forgotten_all_the_same(lobby: Lobby, is_served: bool) -> None:
    """A carrier can name a sender whose address was inserted."""
    lobby.hello("host")
    if is_served:
        lobby.run()
    lobby.medium.is_known = True
    number = lobby.hello("host")
    lobby.run()
    assert not lobby.forgotten
    lobby.server.send_failed(number, errno.ECONNRESET, "gone")
    lobby.run()
    assert lobby.forgotten == {number}


def test_who_comes_again_while_being_forgotten_keeps_the_address(lobby: Lobby) -> None:
    number = lobby.hello("host")
    lobby.run()
    lobby.server.send_failed(number, errno.ECONNRESET, "gone")
    lobby.hello("host")
    lobby.run()
    assert (lobby.server.sessions, lobby.server.host) == (2, "host")
    assert not lobby.forgotten


def test_who_waits_and_goes_is_forgotten(lobby: Lobby) -> None:
    lobby.hello("host")
    lobby.run()
    waiting = lobby.hello("other")
    lobby.server.send_failed(waiting, errno.ECONNREFUSED, "gone")
    lobby.run()
    assert lobby.forgotten == {waiting}
    assert lobby.server.host == "host"


def test_who_is_refused_waits_no_longer(lobby: Lobby) -> None:
    """Its address goes, so nothing may be left that would be welcomed there."""
    number = lobby.hello("host")
    lobby.hello("host", version=9)
    lobby.run()
    assert lobby.server.refused == 1
    assert (lobby.server.sessions, lobby.server.host) == (0, "")
    assert lobby.forgotten == {number}
