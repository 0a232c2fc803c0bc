# SPDX-License-Identifier: Apache-2.0
"""IOPs behind endpoints keep the contract of ports, however small the messages are."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import ClassVar

from fakes.memory_endpoints import MemoryMedium
from fakes.wire_station import WireStation
from i2o.testing.ports import PortConformance
from i2o.transport.port import Port


class _OverMemory(PortConformance):
    attributes: ClassVar[dict[str, int]] = {}

    def open(self, image: Path, resources: ExitStack) -> Port:
        medium = MemoryMedium(**self.attributes)
        self.station = WireStation(f"emu:?disk={image}", medium)
        resources.callback(self.station.close)
        return self.station.port()

    def kill(self, port: Port) -> bool:
        self.station.kill()
        return True


class TestLargeMessages(_OverMemory):
    attributes: ClassVar = {"max_msg_size": 256 << 10}


class TestSmallMessages(_OverMemory):
    attributes: ClassVar = {"max_msg_size": 1 << 10, "iov_limit": 1}


class TestTinyMessages(_OverMemory):
    attributes: ClassVar = {"max_msg_size": 64, "iov_limit": 2}
