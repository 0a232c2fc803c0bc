# SPDX-License-Identifier: Apache-2.0
"""Shared memory keeps the contracts of ports and endpoints: over rings, and over a socket."""

from __future__ import annotations

import logging
from contextlib import ExitStack
from pathlib import Path
from typing import ClassVar

import pytest

from fakes.shm_pair import carry, needs_rings
from fakes.shm_serving import Serving
from i2o.iop_emulator.ddm import block
from i2o.testing.endpoints import EndpointConformance
from i2o.testing.ports import PortConformance
from i2o.testing.stations import Bench, Station
from i2o.transport.fabric.endpoint import Endpoint, PassiveEndpoint
from i2o.transport.fabric.engine import EngineOptions
from i2o.transport.fabric.flags import Capability, EndpointType
from i2o.transport.fabric.software_endpoint import SoftwareEndpoint, listen_on
from i2o.transport.port import Port
from i2o.transport.registry import open_port
from i2o.transport.shm.carrier import ShmCarrier


@pytest.fixture(autouse=True)
def runtime_folder(tmp_path):
    """With a patch of its own: one of a test's must be undone before the test's IOP is closed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "run"))
        yield


@pytest.fixture(autouse=True)
def tracebacks_are_not_kept():
    """An error that is logged has views of the shared memory in its frames."""

    def without(record: logging.LogRecord) -> bool:
        record.msg, record.args = record.getMessage(), ()
        return True

    logger = logging.getLogger(block.__name__)
    logger.addFilter(without)
    yield
    logger.removeFilter(without)


class _Ports(PortConformance):
    def open(self, image: Path, resources: ExitStack) -> Port:
        self.serving = resources.enter_context(Serving(f"disk={image}"))
        return open_port("shm:test")

    def kill(self, port: Port) -> bool:
        self.serving.vanish()
        return True


@needs_rings
class TestPortsOverRings(_Ports):
    pass


class TestPortsOverASocket(_Ports):
    @pytest.fixture(autouse=True)
    def without_extension(self):
        with pytest.MonkeyPatch.context() as patch:
            carry("socket", patch)
            yield


class _Endpoints(EndpointConformance):
    quiet_rounds: ClassVar[int] = 5

    def open(self, resources: ExitStack, wanted: Capability | None = None) -> Endpoint:
        return SoftwareEndpoint(ShmCarrier(), capabilities=wanted)

    def open_prefixed(self, resources: ExitStack) -> Endpoint:
        return SoftwareEndpoint(ShmCarrier(), options=EngineOptions(msg_prefix_size=16))

    def listen(self, resources: ExitStack) -> PassiveEndpoint:
        return listen_on(ShmCarrier())

    def open_connected(self, resources: ExitStack) -> Endpoint:
        return SoftwareEndpoint(ShmCarrier(), EndpointType.MSG)

    def nobody(self, resources: ExitStack) -> str:
        return "shm://nobody"

    def lose(self, bench: Bench, one: Station, other: Station) -> bool:
        carrier = other.endpoint._engine.carrier
        for peer in carrier._peers.values():
            peer.link.channel._end.shutdown(2)
        return True


@needs_rings
class TestEndpointsOverRings(_Endpoints):
    pass


class TestEndpointsOverASocket(_Endpoints):
    @pytest.fixture(autouse=True)
    def without_extension(self):
        with pytest.MonkeyPatch.context() as patch:
            carry("socket", patch)
            yield
