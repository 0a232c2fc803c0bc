# SPDX-License-Identifier: Apache-2.0
"""IOPs behind endpoints keep the contract of ports, however small the messages are."""

from __future__ import annotations

from abc import abstractmethod
from contextlib import ExitStack
from pathlib import Path

from fakes.memory_endpoints import MemoryMedium
from fakes.wire_station import (
    BridgeStation,
    Medium,
    Station,
    UriStation,
    WireStation,
    needs_libfabric,
)
from i2o.frames.block_storage import BSA_BLOCK_READ
from i2o.frames.sgl import simple_sgl
from i2o.testing.bare_host import BareHost
from i2o.testing.ports import PortConformance
from i2o.transport.fabric.mem import MemoryFabric
from i2o.transport.port import Port


class _AtStation(PortConformance):
    """Where the IOP is served; nothing of it is kept once the test is over."""

    @abstractmethod
    def station_of(self, image: Path) -> Station:
        """Serve an IOP."""

    def open(self, image: Path, resources: ExitStack) -> Port:
        self.station = self.station_of(image)
        resources.callback(self._leave)
        return self.station.port()

    def kill(self, port: Port) -> bool:
        self.station.kill()
        return True

    def _leave(self) -> None:
        self.station.close()
        del self.station


class TestTcp(_AtStation):
    def station_of(self, image: Path) -> Station:
        return UriStation("tcp://127.0.0.1:0", f"emu:?disk={image}")


@needs_libfabric
class TestLibfabric(_AtStation):
    def station_of(self, image: Path) -> Station:
        return UriStation("ofi://tcp;ofi_rxm/127.0.0.1:0", f"emu:?disk={image}")


class TestBridge(_AtStation):
    """A port behind a port, over messages."""

    def station_of(self, image: Path) -> Station:
        return BridgeStation(f"emu:?disk={image}")

    def test_memory_that_is_not_the_hosts_is_not_written(self, host: BareHost) -> None:
        """All of the arena is the card's to write, as on a machine without an IOMMU."""
        before = host.port.memory.allocate(4096)
        beside = before.bus_address + 4096
        sgl = simple_sgl([(beside, 512)], out=False)
        read = BSA_BLOCK_READ.build(
            target_address=self.disk_tid,
            message_size=(BSA_BLOCK_READ.size + len(sgl)) // 4,
            transfer_byte_count=512,
        )
        host.call(read + sgl)
        assert not any(before.view)
        before.free()


class _OverMemory(_AtStation):
    def medium(self) -> Medium:
        return MemoryFabric()

    def station_of(self, image: Path) -> Station:
        return WireStation(f"emu:?disk={image}", self.medium(), connect_s=0.3)


class TestSoftwareEndpoints(_OverMemory):
    pass


class TestSmallMessages(_OverMemory):
    def medium(self) -> Medium:
        return MemoryMedium(max_msg_size=1 << 10, iov_limit=1)


class TestTinyMessages(_OverMemory):
    def medium(self) -> Medium:
        return MemoryMedium(max_msg_size=64, iov_limit=2)
