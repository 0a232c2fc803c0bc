# SPDX-License-Identifier: Apache-2.0
"""What a backend tells the conformance suite of ports about itself, and the fixtures made of it."""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import ClassVar

import pytest

from i2o.iop import Iop
from i2o.opening import open as open_iop
from i2o.testing.bare_host import BareHost
from i2o.transport.port import Port


class PortBackend(ABC):
    """The part of `i2o.testing.ports.PortConformance` that a backend fills in.

    Attributes:
        disk_tid: TID of the IOP's first disk; the software IOP's is 0x010.
        disk_size: bytes of the disk, whole blocks of 512.
    """

    disk_tid: ClassVar[int] = 0x010
    disk_size: ClassVar[int] = 1 << 20

    @abstractmethod
    def open(self, image: Path, resources: ExitStack) -> Port:
        """Open a port to a fresh IOP that nobody has used.

        The IOP has one disk of 512-byte blocks, which is the file `image`, at least 16 inbound
        frames of at least 128 bytes, and no faults.

        Args:
            image: exists, and has `disk_size` bytes.
            resources: what has to be closed after the port, such as a server.
        """

    def kill(self, port: Port) -> bool:
        """End the IOP's side without a word, and for good, as a crash would.

        Returns:
            False if this backend has nobody whose death could be noticed.
        """
        return False

    # --- fixtures --------------------------------------------------------------------------------

    @pytest.fixture
    def content(self) -> bytes:
        """What is on the disk at first."""
        return random.Random(1).randbytes(self.disk_size)

    @pytest.fixture
    def image(self, tmp_path: Path, content: bytes) -> Path:
        """The file of the disk."""
        path = tmp_path / "disk.img"
        path.write_bytes(content)
        return path

    @pytest.fixture
    def port(self, image: Path) -> Iterator[Port]:
        """A port, just opened, and closed at the end."""
        with ExitStack() as resources:
            opened = self.open(image, resources)
            resources.enter_context(opened)
            yield opened

    @pytest.fixture
    def host(self, port: Port) -> BareHost:
        """A bare host on the port, with its outbound queue initialized."""
        bare = BareHost(port)
        bare.init_outbound()
        return bare

    @pytest.fixture
    def iop(self, port: Port) -> Iterator[Iop]:
        """The IOP, brought up by the message layer."""
        with open_iop(port) as opened:
            yield opened
