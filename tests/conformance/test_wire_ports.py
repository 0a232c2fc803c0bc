# SPDX-License-Identifier: Apache-2.0
"""IOPs behind endpoints keep the contract of ports, however small the messages are."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

from fakes.memory_endpoints import MemoryMedium
from fakes.wire_station import BridgeStation, Medium, UriStation, WireStation, needs_libfabric
from i2o.frames.block_storage import BSA_BLOCK_READ
from i2o.frames.sgl import simple_sgl
from i2o.testing.bare_host import BareHost
from i2o.testing.ports import PortConformance
from i2o.transport.fabric.mem import MemoryFabric
from i2o.transport.port import Port


class TestTcp(PortConformance):
    def open(self, image: Path, resources: ExitStack) -> Port:
        self.station = UriStation("tcp://127.0.0.1:0", f"emu:?disk={image}")
        resources.callback(self.station.close)
        return self.station.port()

    def kill(self, port: Port) -> bool:
        self.station.close()
        return True


@needs_libfabric
class TestLibfabric(PortConformance):
    def open(self, image: Path, resources: ExitStack) -> Port:
        self.station = UriStation("ofi://tcp;ofi_rxm/127.0.0.1:0", f"emu:?disk={image}")
        resources.callback(self.station.close)
        return self.station.port()

    def kill(self, port: Port) -> bool:
        self.station.close()
        return True


class TestBridge(PortConformance):
    """A port behind a port, over messages."""

    def open(self, image: Path, resources: ExitStack) -> Port:
        self.station = BridgeStation(f"emu:?disk={image}")
        resources.callback(self.station.close)
        return self.station.port()

    def kill(self, port: Port) -> bool:
        self.station.kill()
        return True

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
