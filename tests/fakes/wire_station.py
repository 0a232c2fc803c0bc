# SPDX-License-Identifier: Apache-2.0
"""A software IOP that is served in a thread of the test, and hosts that reach it."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import Protocol

import pytest

from fakes.memory_endpoints import MemoryMedium
from i2o.capture import I2O_RULES
from i2o.clock import SYSTEM_CLOCK, Clock
from i2o.closing import Closing
from i2o.errors import TransportUnavailable, UriError
from i2o.iop_emulator.options import EmuOptions
from i2o.iop_emulator.remote_iop import RemoteIop
from i2o.tools.serve import bridge_rules
from i2o.transport.device_unit import DeviceUnit
from i2o.transport.fabric.endpoint import Endpoint
from i2o.transport.fabric.errors import FabricError
from i2o.transport.port import Port
from i2o.transport.registry import open_endpoint, open_port
from i2o.transport.serving import Served, serve
from i2o.transport.uri import Uri
from i2o.transport.wire.addresses import served_uri
from i2o.transport.wire.bridge import PortBridge
from i2o.transport.wire.wire_port import WirePort
from i2o.transport.wire.wire_server import WireServer


class Medium(Protocol):
    """Where endpoints can be made by name."""

    def endpoint(self, name: str) -> Endpoint:
        """Make one."""

    def kill(self, name: str) -> None:
        """Let one vanish."""


class Station(Protocol):
    """An IOP that is served."""

    def port(self) -> WirePort:
        """Reach the IOP."""

    def kill(self) -> None:
        """End without a word."""

    def close(self) -> None:
        """End."""


class ServingThread(Closing):
    """Serves in a thread until it is closed or killed."""

    def __init__(self, *served: Served) -> None:
        self._stop = threading.Event()
        self._ear, self._mouth = os.pipe()
        self._thread = threading.Thread(
            target=serve, args=(served, self._stop.is_set, self._ear), name="i2o-test-server"
        )
        self._thread.start()

    def close(self) -> None:
        """End the thread."""
        if self._thread.is_alive():
            self._stop.set()
            os.write(self._mouth, b"x")
            self._thread.join()
            os.close(self._ear)
            os.close(self._mouth)


class WireStation(Closing):
    """An IOP at the name `server` of a medium."""

    def __init__(
        self,
        uri: str = "emu:",
        medium: Medium | None = None,
        *,
        tap: Callable[[DeviceUnit], DeviceUnit] = lambda unit: unit,
        connect_s: float = 2.0,
    ) -> None:
        self._connect_s = connect_s
        self.medium: Medium = medium if medium is not None else MemoryMedium()
        self.iop = RemoteIop.from_options(EmuOptions.from_uri(Uri.parse(uri)), tap)
        self.server = WireServer(self.endpoint("server"), self.iop.unit, self.iop)
        self.thread = ServingThread(self.server)

    def endpoint(self, name: str) -> Endpoint:
        """Make an endpoint on the medium."""
        return self.medium.endpoint(name)

    def port(
        self, name: str = "host", *, clock: Clock = SYSTEM_CLOCK, connect_s: float | None = None
    ) -> WirePort:
        """Reach the IOP."""
        return WirePort(
            self.endpoint(name),
            "server",
            name=f"wire:{name}",
            clock=clock,
            connect_s=self._connect_s if connect_s is None else connect_s,
        )

    def kill(self) -> None:
        """End without a word."""
        self.medium.kill("server")
        self.close()

    def close(self) -> None:
        """End."""
        self.thread.close()
        self.server.close()
        self.iop.close()


class UriStation(Closing):
    """An IOP that is served where a URI says."""

    def __init__(self, uri: str, iop: str = "emu:") -> None:
        parsed = Uri.parse(uri)
        self.iop = RemoteIop.from_options(EmuOptions.from_uri(Uri.parse(iop)))
        self.server = WireServer(open_endpoint(parsed), self.iop.unit, self.iop)
        self.uri = served_uri(parsed, self.server.name)
        self.thread = ServingThread(self.server)

    def port(self) -> WirePort:
        """Reach the IOP."""
        port = open_port(self.uri + "?timeout=1")
        assert isinstance(port, WirePort)
        return port

    def kill(self) -> None:
        """End; whose sockets are closed says so without a word of this protocol."""
        self.close()

    def close(self) -> None:
        """End."""
        self.thread.close()
        self.server.close()
        self.iop.close()


class BridgeStation(Closing):
    """A port that is served at the name `server` of a medium."""

    def __init__(self, uri: str | Port = "emu:", medium: MemoryMedium | None = None) -> None:
        self.medium = medium if medium is not None else MemoryMedium()
        self.inner = open_port(uri) if isinstance(uri, str) else uri
        self._is_closed = False
        self.bridge = PortBridge(self.inner, bridge_rules())
        self.server = WireServer(
            self.medium.endpoint("server"),
            self.bridge.unit,
            self.bridge,
            arena=self.bridge.arena,
        )
        self.thread = ServingThread(self.server)

    def port(self, name: str = "host") -> WirePort:
        """Reach the IOP."""
        port = WirePort(self.medium.endpoint(name), "server", name=f"wire:{name}", connect_s=0.3)
        port.learn(I2O_RULES)
        return port

    def kill(self) -> None:
        """End without a word."""
        self.medium.kill("server")
        self.close()

    def close(self) -> None:
        """End."""
        self.thread.close()
        self.server.close()
        if not self._is_closed:
            self._is_closed = True
            self.bridge.close()
            self.inner.close()


def _has_libfabric() -> bool:
    try:
        open_endpoint("ofi://tcp;ofi_rxm/127.0.0.1:0").close()
    except (TransportUnavailable, UriError, FabricError):
        return False
    return True


needs_libfabric = pytest.mark.skipif(not _has_libfabric(), reason="needs libfabric")
