# SPDX-License-Identifier: Apache-2.0
"""IOPs behind endpoints keep the contract of ports, however small the messages are."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

from fakes.memory_endpoints import MemoryMedium
from fakes.wire_station import Medium, WireStation
from i2o.testing.ports import PortConformance
from i2o.transport.fabric.mem import MemoryFabric
from i2o.transport.port import Port


class _OverMemory(PortConformance):
    def medium(self) -> Medium:
        return MemoryFabric()

    def open(self, image: Path, resources: ExitStack) -> Port:
        medium = self.medium()
        self.station = WireStation(f"emu:?disk={image}", medium)
        resources.callback(self.station.close)
        return self.station.port(connect_s=0.3)

    def kill(self, port: Port) -> bool:
        self.station.kill()
        return True


class TestSoftwareEndpoints(_OverMemory):
    pass


class TestSmallMessages(_OverMemory):
    def medium(self) -> Medium:
        return MemoryMedium(max_msg_size=1 << 10, iov_limit=1)


class TestTinyMessages(_OverMemory):
    def medium(self) -> Medium:
        return MemoryMedium(max_msg_size=64, iov_limit=2)
