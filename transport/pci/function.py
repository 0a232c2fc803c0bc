# SPDX-License-Identifier: Apache-2.0
"""A PCI function as the kernel shows it under /sys/bus/pci: who it is, where it is, whose it is.

Reading is harmless. What changes a device (its command register) is done by `Enabled`, which
checks that it sticks and puts it back afterwards.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

from i2o.closing import Closing
from i2o.errors import TransportUnavailable

SYSFS: Final = Path("/sys")
IO_RESOURCE: Final = 0x100
MEM_RESOURCE: Final = 0x200
COMMAND: Final = 0x04
COMMAND_MEMORY: Final = 0x0002
COMMAND_MASTER: Final = 0x0004
COMMAND_INTX_DISABLE: Final = 0x0400
_BARS: Final = 6
_T = TypeVar("_T")
_ADDRESS: Final = re.compile(
    r"(?:(?P<domain>[0-9a-fA-F]{1,8}):)?(?P<bus>[0-9a-fA-F]{1,2}):"
    r"(?P<device>[01]?[0-9a-fA-F])\.(?P<function>[0-7])"
)


def parse_address(backend: str, text: str) -> str:
    """Return a PCI address in the kernel's spelling.

    Args:
        backend: the scheme, for messages.
        text: `0000:03:00.0`, or `3:0.0` for domain 0.

    Raises:
        TransportUnavailable: it is none.
    """
    found = _ADDRESS.fullmatch(text)
    if found is None:
        raise TransportUnavailable(
            backend,
            f"{text!r} is no PCI address",
            remedy="write DOMAIN:BUS:DEVICE.FUNCTION as lspci -D does, for example 0000:03:00.0",
        )
    parts = {name: int(value or "0", 16) for name, value in found.groupdict().items()}
    return "{domain:04x}:{bus:02x}:{device:02x}.{function:x}".format(**parts)


@dataclass(frozen=True, slots=True)
class Bar:
    """One base address register that is in use.

    Attributes:
        number: 0 to 5.
        address: where it is on the bus, as the CPU sees it.
        size: bytes.
        is_memory: memory, not I/O ports.
    """

    number: int
    address: int
    size: int
    is_memory: bool


class PciFunction:
    """One function of one device.

    Args:
        backend: the scheme that asks, for messages.
        address: as the kernel spells it, for example `0000:03:00.0`.
        sysfs: where sysfs is.

    Raises:
        TransportUnavailable: there is no such function.
    """

    def __init__(self, backend: str, address: str, sysfs: Path = SYSFS) -> None:
        self.backend, self.address = backend, address
        self.folder = sysfs / "bus" / "pci" / "devices" / address
        if not self.folder.is_dir():
            raise TransportUnavailable(
                backend, f"there is no PCI device {address}", remedy="i2o list shows what there is"
            )

    def _number(self, name: str) -> int:
        return self._understood(name, lambda text: int(text, 16))

    def _understood(self, name: str, parse: Callable[[str], _T]) -> _T:
        """Return what a file says; raises TransportUnavailable if it cannot be made out."""
        try:
            return parse((self.folder / name).read_text())
        except (OSError, ValueError) as error:
            why = error.strerror if isinstance(error, OSError) else str(error)
            raise TransportUnavailable(
                self.backend,
                f"{self.folder / name} does not say what the kernel says there: {why}",
                remedy="was the device pulled out? i2o list shows what there is",
            ) from None

    @property
    def vendor_id(self) -> int:
        """Vendor id."""
        return self._number("vendor")

    @property
    def device_id(self) -> int:
        """Device id."""
        return self._number("device")

    @property
    def subsystem_vendor_id(self) -> int:
        """The card's vendor."""
        return self._number("subsystem_vendor")

    @property
    def subsystem_id(self) -> int:
        """The card."""
        return self._number("subsystem_device")

    @property
    def class_code(self) -> int:
        """Class, subclass and programming interface, 24 bits."""
        return self._number("class")

    @property
    def interrupt(self) -> int:
        """The interrupt line's number, 0 for none."""
        return self._understood("irq", int)

    @property
    def driver(self) -> str:
        """The kernel driver it is bound to, or an empty string."""
        return self._link("driver")

    @property
    def iommu_group(self) -> str:
        """The number of its IOMMU group, or an empty string."""
        return self._link("iommu_group")

    def _link(self, name: str) -> str:
        try:
            return os.readlink(self.folder / name).rpartition("/")[2]
        except OSError:
            return ""

    @property
    def group_members(self) -> tuple[str, ...]:
        """Addresses of every device of its IOMMU group, itself included."""
        try:
            return tuple(sorted(os.listdir(self.folder / "iommu_group" / "devices")))
        except OSError:
            return ()

    @property
    def bars(self) -> tuple[Bar, ...]:
        """The base address registers that are in use."""
        return self._understood("resource", _bars)

    def memory_bar(self, index: int = 0) -> Bar:
        """Return the first, or a later, memory BAR; raises TransportUnavailable."""
        bars = [bar for bar in self.bars if bar.is_memory]
        if index >= len(bars):
            raise TransportUnavailable(
                self.backend,
                f"{self.address} has {len(bars)} memory BARs, {index + 1} are needed",
                remedy="is it an I2O device? lspci -vv shows its regions",
            )
        return bars[index]

    def require_unbound(self, allowed: tuple[str, ...] = ()) -> None:
        """Refuse a function that a kernel driver has.

        Args:
            allowed: drivers that only hand the device on.

        Raises:
            TransportUnavailable: says how to unbind.
        """
        driver = self.driver
        if driver and driver not in allowed:
            raise TransportUnavailable(
                self.backend,
                f"{self.address} is bound to the kernel driver {driver!r}",
                remedy="if nothing uses it: "
                f"echo {self.address} > /sys/bus/pci/drivers/{driver}/unbind",
            )

    def read_config(self, offset: int, size: int) -> bytes:
        """Read configuration space; raises OSError."""
        with open(self.folder / "config", "rb", buffering=0) as file:
            file.seek(offset)
            return file.read(size) or b""

    def write_config(self, offset: int, data: bytes) -> None:
        """Write configuration space; raises OSError."""
        with open(self.folder / "config", "r+b", buffering=0) as file:
            file.seek(offset)
            file.write(data)

    @property
    def command(self) -> int:
        """The command register."""
        return int.from_bytes(self.read_config(COMMAND, 2), "little")

    @command.setter
    def command(self, value: int) -> None:
        self.write_config(COMMAND, value.to_bytes(2, "little"))


def _bars(text: str) -> tuple[Bar, ...]:
    found = []
    for number, line in enumerate(text.splitlines()[:_BARS]):
        start, end, flags = (int(word, 16) for word in line.split()[:3])
        if flags & (IO_RESOURCE | MEM_RESOURCE) and end > start:
            is_memory = bool(flags & MEM_RESOURCE)
            found.append(Bar(number, start, end - start + 1, is_memory))
    return tuple(found)


class Enabled(Closing):
    """Memory and bus mastering turned on, and put back at the end.

    Args:
        function: the device.
        uses_interrupt: also allow its interrupt line.

    Raises:
        TransportUnavailable: a bit does not stick, or configuration space cannot be written.
    """

    def __init__(self, function: PciFunction, *, uses_interrupt: bool) -> None:
        self._function = function
        wanted = COMMAND_MEMORY | COMMAND_MASTER
        try:
            self._before = function.command
            value = self._before | wanted
            if uses_interrupt:
                value &= ~COMMAND_INTX_DISABLE
            if value != self._before:
                function.command = value
            now = function.command
        except OSError as error:
            raise TransportUnavailable(
                function.backend,
                f"the configuration space of {function.address} cannot be written: "
                f"{error.strerror or error}",
                remedy="be root; a locked-down kernel (Secure Boot) refuses even then",
            ) from None
        if now & wanted != wanted:
            missing = [
                name
                for bit, name in ((COMMAND_MEMORY, "memory"), (COMMAND_MASTER, "bus master"))
                if not now & bit
            ]
            self.close()
            raise TransportUnavailable(
                function.backend,
                f"{function.address} does not keep its {' and '.join(missing)} bit",
                remedy="the slot or a bridge above may be off: see lspci -vv",
            )

    def close(self) -> None:
        """Put the command register back as it was."""
        try:
            if self._function.command != self._before:
                self._function.command = self._before
        except OSError:  # the device is gone
            return
