# SPDX-License-Identifier: Apache-2.0
"""The kernel's VFIO interface, as far as one PCI device with one driver in user space needs it.

Group and container of the type 1 IOMMU driver. Numbers and structures are those of
`linux/vfio.h`. Whatever happens to the process, the kernel takes back what it mapped.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Final

from i2o.errors import TransportUnavailable
from i2o.transport.pci.function import PciFunction

DRIVER: Final = "vfio-pci"
DEV: Final = Path("/dev")
CONFIG_REGION: Final = 7
INTX, MSI = 0, 1

_FIRST: Final = 0x3B64  # _IO(';', 100): these numbers carry no size
_GET_API_VERSION = _FIRST + 0
_CHECK_EXTENSION = _FIRST + 1
_SET_IOMMU = _FIRST + 2
_GROUP_GET_STATUS = _FIRST + 3
_GROUP_SET_CONTAINER = _FIRST + 4
_GROUP_GET_DEVICE_FD = _FIRST + 6
_DEVICE_GET_INFO = _FIRST + 7
_DEVICE_GET_REGION_INFO = _FIRST + 8
_DEVICE_GET_IRQ_INFO = _FIRST + 9
_DEVICE_SET_IRQS = _FIRST + 10
_DEVICE_RESET = _FIRST + 11
_IOMMU_MAP_DMA = _FIRST + 13
_IOMMU_UNMAP_DMA = _FIRST + 14
_API_VERSION: Final = 0
_TYPE1V2: Final = 3
_GROUP_VIABLE: Final = 1
_DEVICE_CAN_RESET: Final = 1
_REGION_MMAP: Final = 4
_MAP_READ_WRITE: Final = 3
_DATA_NONE, _DATA_EVENTFD = 0x01, 0x04
_ACTION_UNMASK, _ACTION_TRIGGER = 0x10, 0x20


class Region:
    """Where a region is in the device's file.

    Attributes:
        offset: its first byte.
        size: bytes; 0 for a region that does not exist.
        can_map: whether the file can be mapped there.
    """

    __slots__ = ("can_map", "offset", "size")

    def __init__(self, offset: int, size: int, can_map: bool) -> None:
        self.offset, self.size, self.can_map = offset, size, can_map


class VfioDevice:
    """A PCI function that is bound to vfio-pci, opened.

    Args:
        function: the device.
        dev: where device files are.
        ioctl: for tests.

    Raises:
        TransportUnavailable: it is not bound to vfio-pci, its group is not free, or permissions.
    """

    def __init__(
        self,
        function: PciFunction,
        dev: Path = DEV,
        ioctl: Callable[..., int] = fcntl.ioctl,
    ) -> None:
        self._function, self._ioctl = function, ioctl
        self._resources = ExitStack()
        group = require_group(function)
        with self._resources:
            self._container = self._open(dev / "vfio" / "vfio")
            if ioctl(self._container, _GET_API_VERSION) != _API_VERSION:
                raise self._unavailable("the kernel speaks another version of VFIO", "")
            group_fd = self._open(dev / "vfio" / group)
            self._join(group_fd)
            name = bytearray(function.address.encode() + b"\0")
            try:
                self.descriptor = ioctl(group_fd, _GROUP_GET_DEVICE_FD, name)
            except OSError as error:
                raise self._unavailable(
                    f"{function.address} cannot be opened: {error.strerror}", "see dmesg"
                ) from None
            self._resources.callback(os.close, self.descriptor)
            self._resources = self._resources.pop_all()

    def _open(self, path: Path) -> int:
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        except OSError as error:
            remedy = (
                "somebody else uses the group"
                if error.errno == errno.EBUSY
                else "modprobe vfio-pci"
                if error.errno in (errno.ENOENT, errno.ENODEV)
                else f"be root, or be made the owner of {path}"
            )
            raise self._unavailable(f"{path}: {error.strerror}", remedy) from None
        self._resources.callback(os.close, descriptor)
        return descriptor

    def _join(self, group_fd: int) -> None:
        status = bytearray(struct.pack("<II", 8, 0))
        self._ioctl(group_fd, _GROUP_GET_STATUS, status)
        if not struct.unpack("<II", status)[1] & _GROUP_VIABLE:
            others = [
                name for name in self._function.group_members if name != self._function.address
            ]
            raise self._unavailable(
                f"IOMMU group {self._function.iommu_group} is not free",
                f"bind its other devices ({', '.join(others) or 'unknown'}) to {DRIVER}, too",
            )
        try:
            self._ioctl(group_fd, _GROUP_SET_CONTAINER, struct.pack("<i", self._container))
            self._ioctl(self._container, _SET_IOMMU, _TYPE1V2)
        except OSError as error:
            raise self._unavailable(
                f"the IOMMU cannot be used: {error.strerror}",
                "it needs interrupt remapping, or vfio_iommu_type1.allow_unsafe_interrupts=1",
            ) from None

    def _unavailable(self, reason: str, remedy: str) -> TransportUnavailable:
        return TransportUnavailable(self._function.backend, reason, remedy=remedy)

    # --- regions and reset ---------------------------------------------------------------------

    def region(self, index: int) -> Region:
        """Return where a region is; one of size 0 does not exist."""
        info = bytearray(struct.pack("<IIIIQQ", 32, 0, index, 0, 0, 0))
        self._ioctl(self.descriptor, _DEVICE_GET_REGION_INFO, info)
        _, flags, _, _, size, offset = struct.unpack("<IIIIQQ", info)
        return Region(offset, size, bool(flags & _REGION_MMAP))

    @property
    def can_reset(self) -> bool:
        """Whether the device has a reset of its own."""
        info = bytearray(struct.pack("<IIIII", 20, 0, 0, 0, 0))
        self._ioctl(self.descriptor, _DEVICE_GET_INFO, info)
        return bool(struct.unpack("<IIIII", info)[1] & _DEVICE_CAN_RESET)

    def reset(self) -> None:
        """Reset the device; raises OSError."""
        self._ioctl(self.descriptor, _DEVICE_RESET)

    # --- DMA -----------------------------------------------------------------------------------

    def map_dma(self, address: int, iova: int, size: int) -> None:
        """Let the device reach memory of this process.

        Args:
            address: where it is in this process.
            iova: where the device is to see it.
            size: bytes, whole pages.

        Raises:
            OSError: ENOMEM when more memory would be locked than this user may.
        """
        self._ioctl(
            self._container,
            _IOMMU_MAP_DMA,
            struct.pack("<IIQQQ", 32, _MAP_READ_WRITE, address, iova, size),
        )

    def unmap_dma(self, iova: int, size: int) -> None:
        """End that; raises OSError."""
        self._ioctl(
            self._container, _IOMMU_UNMAP_DMA, bytearray(struct.pack("<IIQQ", 24, 0, iova, size))
        )

    # --- interrupts ----------------------------------------------------------------------------

    def interrupt_count(self, index: int) -> int:
        """Return how many interrupts of a type the device has."""
        info = bytearray(struct.pack("<IIII", 16, 0, index, 0))
        self._ioctl(self.descriptor, _DEVICE_GET_IRQ_INFO, info)
        return int(struct.unpack("<IIII", info)[3])

    def connect_interrupt(self, index: int, eventfd: int) -> None:
        """Have the first interrupt of a type signal a descriptor."""
        self._set_irqs(index, _DATA_EVENTFD | _ACTION_TRIGGER, 1, struct.pack("<i", eventfd))

    def disconnect_interrupt(self, index: int) -> None:
        """End that."""
        self._set_irqs(index, _DATA_NONE | _ACTION_TRIGGER, 0)

    def unmask_interrupt(self) -> None:
        """Let INTx be signalled again: the kernel masks it each time."""
        self._set_irqs(INTX, _DATA_NONE | _ACTION_UNMASK, 1)

    def _set_irqs(self, index: int, flags: int, count: int, data: bytes = b"") -> None:
        head = struct.pack("<IIIII", 20 + len(data), flags, index, 0, count)
        self._ioctl(self.descriptor, _DEVICE_SET_IRQS, head + data)

    def close(self) -> None:
        """Give the device back; mappings and interrupts end with it. Twice is harmless."""
        self._resources.close()


def require_group(function: PciFunction) -> str:
    """Return the number of the IOMMU group of a function that is bound to vfio-pci.

    Raises:
        TransportUnavailable: it is not bound to it, or in no group.
    """
    function.require_unbound(allowed=(DRIVER,))
    if function.driver != DRIVER:
        raise TransportUnavailable(
            function.backend,
            f"{function.address} is not bound to {DRIVER}",
            remedy=f"modprobe vfio-pci; echo {DRIVER} > {function.folder}/driver_override; "
            f"echo {function.address} > /sys/bus/pci/drivers_probe",
        )
    if not function.iommu_group:
        raise TransportUnavailable(
            function.backend,
            f"{function.address} is in no IOMMU group",
            remedy="turn the IOMMU on (intel_iommu=on, or in the firmware), or use uio: or sysfs:",
        )
    return function.iommu_group
