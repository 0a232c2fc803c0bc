# SPDX-License-Identifier: Apache-2.0
"""What a device is to a vfio-user server: regions that are read and written, and a reset."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from i2o.transport.vfio_user.config_space import ConfigSpace, Identity
from i2o.transport.vfio_user.guest_memory import GuestMemory
from i2o.transport.vfio_user.interrupts import Interrupts


class Region(Protocol):
    """One BAR.

    Accesses are as the client's CPU made them; a device that knows only 32-bit registers decides
    itself what others do.
    """

    size: int
    """Bytes."""
    descriptor: int | None
    """A file that the client may map instead of asking, or None."""
    mappable: tuple[tuple[int, int], ...]
    """Which parts of the file: (offset, size) in whole pages."""

    def read(self, offset: int, size: int) -> bytes:
        """Return what the client's CPU reads; offset and size lie within the region."""

    def write(self, offset: int, data: bytes) -> None:
        """Take what the client's CPU writes; it lies within the region."""


class Device(Protocol):
    """One PCI device. It is connected once, before anything else."""

    identity: Identity
    regions: Mapping[int, Region]
    """BARs by number."""

    def connect(self, memory: GuestMemory, interrupts: Interrupts, config: ConfigSpace) -> None:
        """Take what the device is connected to.

        Args:
            memory: the client's memory. A device that is no bus master must leave it alone.
            interrupts: how to signal.
            config: the configuration space, for its command register.
        """

    def reset(self) -> None:
        """Go back to how power-on left it."""

    def client_gone(self) -> None:
        """Forget what belongs to a client: its memory cannot be reached any more."""

    def run(self, now_ns: int) -> int | None:
        """Do what is due, outside of any register access.

        Args:
            now_ns: the time.

        Returns:
            When to be run again although no message came, or None. A time that has passed means
            that work is left.
        """

    def filenos(self) -> tuple[int, ...]:
        """Return descriptors that call for `run` when they are readable."""
