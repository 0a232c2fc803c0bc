# SPDX-License-Identifier: Apache-2.0
"""The software IOP, in each of its three places, keeps the contract of ports."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

from i2o.iop_emulator.process_port import ProcessPort
from i2o.testing.ports import PortConformance
from i2o.transport.port import Port
from i2o.transport.registry import open_port


class TestInline(PortConformance):
    def open(self, image: Path, resources: ExitStack) -> Port:
        return open_port(f"emu:?disk={image}")


class TestThread(PortConformance):
    def open(self, image: Path, resources: ExitStack) -> Port:
        return open_port(f"emu:?run=thread&frames=32&disk={image}")


class TestProcess(PortConformance):
    def open(self, image: Path, resources: ExitStack) -> Port:
        return open_port(f"emu:?run=process&disk={image}")

    def kill(self, port: Port) -> bool:
        assert isinstance(port, ProcessPort)
        port.process.kill()
        port.process.wait()
        return True
