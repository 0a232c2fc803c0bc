# SPDX-License-Identifier: Apache-2.0
"""Both ends of a queue pair in shared memory, in one process."""

from __future__ import annotations

import socket
from types import TracebackType
from typing import Self

import pytest

from i2o.transport.shm import host_half, unit
from i2o.transport.shm import link as link_module
from i2o.transport.shm.greeting import Welcome, hear, say
from i2o.transport.shm.host_half import HostHalf
from i2o.transport.shm.link import Hello, offer, own_modes, take
from i2o.transport.shm.records import PACKET
from i2o.transport.shm.ring import native_rings
from i2o.transport.shm.segment import Shape
from i2o.transport.shm.unit import ShmUnit

needs_rings = pytest.mark.skipif(native_rings() is None, reason="the extension is not built")
CARRIED = [pytest.param("rings", marks=needs_rings), "socket", "plain"]
"""How packets are carried: with the compiled extension, without its rings, without all of it."""
SMALL = Shape(4, 128, 1 << 16, 16 << 20)


def carry(carried: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Do without the extension, if so asked."""
    if carried != "rings":
        monkeypatch.setattr(link_module, "native_rings", lambda: None)
    if carried == "plain":
        for module in (host_half, unit):
            monkeypatch.setattr(module, "native_tables", lambda: None)


class ShmPair:
    """A host's end and a device's, connected.

    Attributes:
        host: the host's end; `said` is what it was told of misuse.
        device: the device's end.
    """

    def __init__(self, carried: str, monkeypatch: pytest.MonkeyPatch, shape: Shape = SMALL) -> None:
        carry(carried, monkeypatch)
        near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        said: list[str] = []
        say(near, Hello(own_modes(), ""))
        hello = hear(far)
        assert isinstance(hello, Hello)
        theirs = offer(far, hello, shape, "", PACKET)
        welcome = hear(near)
        assert isinstance(welcome, Welcome)
        assert welcome.mode.name == ("RINGS" if carried == "rings" else "SOCKET")
        ours = take(near, welcome, PACKET)
        self.host = HostHalf(ours.channel, ours.segment, on_misuse=said.append)
        self.host.said = said  # type: ignore[attr-defined]
        self.device = ShmUnit(shape, on_misuse=said.append)
        self.device.connect(theirs.channel, theirs.segment)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.host.close()
        self.device.disconnect()
