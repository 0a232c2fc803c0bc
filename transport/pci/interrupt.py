# SPDX-License-Identifier: Apache-2.0
"""How a device gets the attention of its driver: a descriptor, and what re-arms it."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Protocol

from i2o.errors import TransportUnavailable
from i2o.transport.pci.function import COMMAND_INTX_DISABLE, PciFunction
from i2o.transport.pci.vfio import INTX, MSI, VfioDevice


class Interrupt(Protocol):
    """One interrupt of a device.

    After it was seen on the descriptor, `rearm` makes the descriptor silent and lets the next
    one come. Whatever the device has done before `rearm` may not be signalled again. When it has
    not come, `rearm` does nothing.
    """

    name: str
    """What it is, for messages."""

    def fileno(self) -> int:
        """Return a descriptor that is readable when the device has interrupted."""

    def rearm(self) -> None:
        """Be ready for the next interrupt."""

    def close(self) -> None:
        """Let go of it."""


class VfioInterrupt:
    """MSI where the device has it, else INTx, signalled by the kernel.

    Args:
        device: the device.
    """

    def __init__(self, device: VfioDevice) -> None:
        self._device = device
        self._eventfd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._index = MSI if device.interrupt_count(MSI) else INTX
        self.name = "MSI" if self._index == MSI else "INTx"
        try:
            device.connect_interrupt(self._index, self._eventfd)
        except OSError as error:
            os.close(self._eventfd)
            raise TransportUnavailable(
                "vfio", f"{self.name} cannot be set up: {error.strerror}", remedy="use ?irq=off"
            ) from None

    def fileno(self) -> int:
        """Return the eventfd."""
        return self._eventfd

    def rearm(self) -> None:
        """Empty the counter and, for INTx, end the kernel's mask."""
        try:
            os.eventfd_read(self._eventfd)
        except BlockingIOError:  # it has not come, so it is armed still
            return
        if self._index == INTX:
            self._device.unmask_interrupt()

    def close(self) -> None:
        """Disconnect."""
        with contextlib.suppress(OSError):
            self._device.disconnect_interrupt(self._index)
        os.close(self._eventfd)


class UioInterrupt:
    """INTx through the file of a UIO driver, which sets the interrupt disable bit each time.

    Args:
        function: the device.
        dev: where device files are.

    Raises:
        TransportUnavailable: there is no UIO file, or it cannot be opened.
    """

    name = "INTx"

    def __init__(self, function: PciFunction, dev: Path) -> None:
        self._function = function
        path = dev / uio_name(function)
        try:
            self._file = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            raise TransportUnavailable(
                "uio",
                f"{path}: {error.strerror}",
                remedy=f"be root, or be made the owner of {path}; ?irq=off polls instead",
            ) from None
        try:
            self._enable()
        except OSError as error:
            os.close(self._file)
            raise TransportUnavailable(
                "uio",
                f"the interrupt of {function.address} cannot be let through: {error.strerror}",
                remedy="?irq=off polls instead",
            ) from None

    def fileno(self) -> int:
        """Return the UIO file."""
        return self._file

    def rearm(self) -> None:
        """Take the count, and let the line interrupt again."""
        try:
            os.read(self._file, 4)
        except BlockingIOError:  # it has not come, so it is armed still
            return
        self._enable()

    def _enable(self) -> None:
        self._function.command &= ~COMMAND_INTX_DISABLE

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)


def uio_name(function: PciFunction) -> str:
    """Return the name of a function's UIO file; raises TransportUnavailable if it has none."""
    with contextlib.suppress(OSError):
        for name in sorted(os.listdir(function.folder / "uio")):
            return name
    raise TransportUnavailable(
        "uio",
        f"{function.address} is not bound to a UIO driver",
        remedy="modprobe uio_pci_generic; "
        f"echo uio_pci_generic > {function.folder}/driver_override; "
        f"echo {function.address} > /sys/bus/pci/drivers_probe",
    )
