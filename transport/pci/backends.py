# SPDX-License-Identifier: Apache-2.0
"""The backends that open a card: `sysfs:`, `uio:`, `vfio:`, `devmem:`, and `pci:`, which chooses.

    vfio:0000:03:00.0?irq=auto|off&dma=16M&access=map|file
    uio:0000:03:00.0?irq=auto|off&dma=16M
    sysfs:0000:03:00.0?dma=16M
    devmem:0000:03:00.0?dma=16M

Nothing touches a function that a kernel driver has, except drivers that only hand it on.
"""

from __future__ import annotations

import logging
import mmap
import os
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from i2o.clock import Clock
from i2o.errors import TransportUnavailable, UriError
from i2o.transport.pci.cards import Card, card_of
from i2o.transport.pci.dma_memory import DEFAULT_SIZE, HugePageMemory, IommuMemory
from i2o.transport.pci.function import SYSFS, Bar, Enabled, PciFunction, parse_address
from i2o.transport.pci.guard import Guard, quiet
from i2o.transport.pci.interrupt import Interrupt, UioInterrupt, VfioInterrupt, uio_name
from i2o.transport.pci.pci_port import MIN_BAR, PciPort
from i2o.transport.pci.register_window import (
    FileWindow,
    MappedWindow,
    RegisterWindow,
    native_accessors,
    require_native,
)
from i2o.transport.pci.vfio import CONFIG_REGION, DEV, DRIVER, VfioDevice
from i2o.transport.port import Port
from i2o.transport.uri import Uri, parse_size

logger = logging.getLogger(__name__)

UIO_DRIVERS: Final = ("uio_pci_generic", "igb_uio")
FOR_PROGRAMS: Final = (*UIO_DRIVERS, "pci-stub")
"""Drivers that only hand a function on, as far as sysfs: and devmem: are concerned."""
_LEAST_DMA: Final = 1 << 20
_MOST_DMA: Final = 1 << 30
_UNLOCK: Final = 0x42  # Promise: config word of function 0
_LOCKED: Final = b"\xff\x03"
_UNLOCKED: Final = b"\0\0"


@dataclass(frozen=True, slots=True)
class Places:
    """Where the kernel shows what it has; others than these are for tests.

    Attributes:
        sysfs: where /sys is.
        dev: where /dev is.
        may_use: whether this user may read and write a file.
    """

    sysfs: Path = SYSFS
    dev: Path = DEV
    may_use: Callable[[Path], bool] = lambda path: os.access(path, os.R_OK | os.W_OK)


@dataclass(slots=True)
class Opening:
    """A card that is being opened, and all that has to be given back.

    Attributes:
        uri: what was asked for.
        function: the card.
        card: what is special about it.
        places: where the kernel shows it.
        resources: undone in reverse when the port is closed.
    """

    uri: Uri
    function: PciFunction
    card: Card
    places: Places
    resources: ExitStack = field(default_factory=ExitStack)

    @classmethod
    def of(cls, uri: Uri, places: Places, options: tuple[str, ...]) -> Opening:
        """Find the card that a URI names.

        Raises:
            UriError: an option is unknown.
            TransportUnavailable: there is no such function, or it is no IOP.
        """
        uri.require_known(options)
        address = parse_address(uri.scheme, uri.address)
        function = PciFunction(uri.scheme, address, places.sysfs)
        card = card_of(function)
        if card is None:
            raise TransportUnavailable(
                uri.scheme,
                f"{address} ({function.vendor_id:04x}:{function.device_id:04x}, class "
                f"{function.class_code:#08x}) is no I2O controller",
                remedy="i2o list shows those that are",
            )
        return cls(uri, function, card, places)

    @property
    def dma_size(self) -> int:
        """Bytes of memory for buffers."""
        text = self.uri.one("dma", f"{DEFAULT_SIZE >> 20}M")
        try:
            size = parse_size(text)
        except ValueError:
            size = 0
        if not _LEAST_DMA <= size <= _MOST_DMA or size % mmap.PAGESIZE:
            raise UriError(f"{self.uri.text!r}: dma={text} is not from 1M to 1G, in whole pages")
        return size

    def wants_interrupt(self) -> bool:
        """Whether the card is to be driven by its interrupt."""
        return self.choice("irq", ("auto", "off")) == "auto"

    def choice(self, name: str, known: tuple[str, ...]) -> str:
        """Return an option that has few values, the first one by default; raises UriError."""
        value = self.uri.one(name, known[0])
        if value not in known:
            raise UriError(f"{self.uri.text!r}: {name}={value!r}: expected {' or '.join(known)}")
        return value

    def bars(self) -> tuple[Bar, Bar]:
        """Return the BARs of registers and frames; raises TransportUnavailable."""
        registers = self.function.memory_bar()
        frames = self.function.memory_bar(1) if self.card.has_split_bars else registers
        for bar, least in ((registers, self.card.registers_at + MIN_BAR), (frames, MIN_BAR)):
            if bar.size < least:
                raise TransportUnavailable(
                    self.uri.scheme,
                    f"BAR {bar.number} of {self.function.address} has {bar.size:#x} bytes; a "
                    f"message unit has {least:#x} at least",
                    remedy="is it an I2O device? lspci -vv shows its regions",
                )
        return registers, frames

    def unlock(self) -> None:
        """Do what Promise cards want done to function 0 while function 1 is used."""
        if not self.card.unlocks_function_0:
            return
        first = self.function.address.rpartition(".")[0] + ".0"
        if first == self.function.address or not (self.function.folder.parent / first).exists():
            return  # alone in its slot, as in a guest: 0x42 of its own is something else
        function = PciFunction(self.uri.scheme, first, self.places.sysfs)
        function.write_config(_UNLOCK, _UNLOCKED)
        self.resources.callback(function.write_config, _UNLOCK, _LOCKED)


class SysfsBackend:
    """`sysfs:`: BARs mapped through sysfs, huge pages, no interrupt."""

    @classmethod
    def from_uri(cls, uri: Uri, clock: Clock, places: Places = Places()) -> Port:
        """Open a card; raises UriError or TransportUnavailable."""
        opening = Opening.of(uri, places, ("dma",))
        opening.function.require_unbound(allowed=FOR_PROGRAMS)
        return _open_without_iommu(opening, clock, _sysfs_map, None)


class DevmemBackend:
    """`devmem:`: BARs mapped through /dev/mem. Only for those who name it."""

    @classmethod
    def from_uri(cls, uri: Uri, clock: Clock, places: Places = Places()) -> Port:
        """Open a card; raises UriError or TransportUnavailable."""
        opening = Opening.of(uri, places, ("dma",))
        opening.function.require_unbound(allowed=FOR_PROGRAMS)
        return _open_without_iommu(opening, clock, _devmem_map, None)


class UioBackend:
    """`uio:`: a card bound to uio_pci_generic; its interrupts come through /dev/uioN."""

    @classmethod
    def from_uri(cls, uri: Uri, clock: Clock, places: Places = Places()) -> Port:
        """Open a card; raises UriError or TransportUnavailable."""
        opening = Opening.of(uri, places, ("dma", "irq"))
        opening.function.require_unbound(allowed=UIO_DRIVERS)
        uio_name(opening.function)
        interrupt = None
        if opening.wants_interrupt():
            interrupt = lambda: UioInterrupt(opening.function, places.dev)  # noqa: E731
        return _open_without_iommu(opening, clock, _sysfs_map, interrupt)


class VfioBackend:
    """`vfio:`: a card bound to vfio-pci, behind an IOMMU."""

    @classmethod
    def from_uri(cls, uri: Uri, clock: Clock, places: Places = Places()) -> Port:
        """Open a card; raises UriError or TransportUnavailable."""
        opening = Opening.of(uri, places, ("dma", "irq", "access"))
        access = opening.choice("access", ("map", "file"))
        size, function, resources = opening.dma_size, opening.function, opening.resources
        wants_interrupt = opening.wants_interrupt()
        registers_bar, frames_bar = opening.bars()
        with resources:
            device = VfioDevice(function, places.dev)
            resources.callback(device.close)
            opening.unlock()
            enabled = resources.enter_context(
                Enabled(_VfioConfig(function, device), uses_interrupt=True)
            )
            memory = IommuMemory(device, size, uri.scheme)
            resources.callback(memory.close)
            resources.callback(enabled.close)  # quiet before the memory goes
            native = native_accessors() if access == "map" else None

            def window(bar: Bar) -> RegisterWindow:
                region = device.region(bar.number)
                length = min(region.size, opening.card.max_map)
                if native is None or not region.can_map:
                    return FileWindow(device.descriptor, region.offset, length)
                area = mmap.mmap(device.descriptor, length, offset=region.offset)
                return MappedWindow(native, area)

            def reset() -> None:
                device.reset()
                Enabled(_VfioConfig(function, device), uses_interrupt=True)

            registers = window(registers_bar)
            resources.callback(registers.close)
            frames = registers if frames_bar == registers_bar else window(frames_bar)
            resources.callback(frames.close)
            interrupt = VfioInterrupt(device) if wants_interrupt else None
            return PciPort(
                uri.text,
                registers=registers,
                frames=frames,
                memory=memory,
                card=opening.card,
                interrupt=interrupt,
                reset=reset,
                release=resources.pop_all().close,
                clock=clock,
            )


class PciBackend:
    """`pci:`: whichever of the others fits how the card is bound now."""

    @classmethod
    def from_uri(cls, uri: Uri, clock: Clock, places: Places = Places()) -> Port:
        """Open a card; raises UriError or TransportUnavailable."""
        function = PciFunction(uri.scheme, parse_address(uri.scheme, uri.address), places.sysfs)
        scheme, why = choose(function)
        backends: dict[str, type[VfioBackend | UioBackend | SysfsBackend]] = {
            "vfio": VfioBackend,
            "uio": UioBackend,
            "sysfs": SysfsBackend,
        }
        logger.info("%s: by %s:, because %s", function.address, scheme, why)
        chosen = Uri(uri.text.replace("pci:", f"{scheme}:", 1), scheme, uri.address, uri.options)
        return backends[scheme].from_uri(chosen, clock, places)


def choose(function: PciFunction) -> tuple[str, str]:
    """Return the scheme that fits how a function is bound now, and why it does."""
    driver = function.driver
    if driver == DRIVER:
        return "vfio", f"it is bound to {driver}"
    if driver in UIO_DRIVERS:
        return "uio", f"it is bound to {driver}"
    if _is_translated(function):
        return "vfio", "an IOMMU stands between it and memory"
    return "sysfs", "no IOMMU stands between it and memory"


# -----------------------------------------------------------------------------------------------


class _VfioConfig(PciFunction):
    """The same function, with its configuration space through VFIO, which needs no root."""

    def __init__(self, function: PciFunction, device: VfioDevice) -> None:
        self.backend, self.address, self.folder = (
            function.backend,
            function.address,
            function.folder,
        )
        self._descriptor = device.descriptor
        self._start = device.region(CONFIG_REGION).offset

    def read_config(self, offset: int, size: int) -> bytes:
        """Read configuration space; raises OSError."""
        return os.pread(self._descriptor, size, self._start + offset)

    def write_config(self, offset: int, data: bytes) -> None:
        """Write configuration space; raises OSError."""
        os.pwrite(self._descriptor, data, self._start + offset)


def _open_without_iommu(
    opening: Opening,
    clock: Clock,
    open_map: Callable[[Opening, Bar, int], mmap.mmap],
    open_interrupt: Callable[[], Interrupt] | None,
) -> Port:
    """Open a card whose DMA nothing stands between."""
    uri, function, resources = opening.uri, opening.function, opening.resources
    size = opening.dma_size
    native = require_native(uri.scheme)
    registers_bar, frames_bar = opening.bars()
    require_plain_addresses(opening)
    with resources:
        memory = HugePageMemory(size, uri.scheme)
        resources.callback(memory.close)
        guard = Guard(function)
        resources.callback(guard.dismiss)
        opening.unlock()
        resources.enter_context(Enabled(function, uses_interrupt=open_interrupt is not None))

        def window(bar: Bar) -> MappedWindow:
            length = min(bar.size, opening.card.max_map)
            return MappedWindow(native, open_map(opening, bar, length))

        def reset() -> None:
            quiet(function.folder / "config")
            (function.folder / "reset").write_text("1")
            Enabled(function, uses_interrupt=open_interrupt is not None)

        registers = window(registers_bar)
        resources.callback(registers.close)
        frames = registers if frames_bar == registers_bar else window(frames_bar)
        resources.callback(frames.close)
        return PciPort(
            uri.text,
            registers=registers,
            frames=frames,
            memory=memory,
            card=opening.card,
            interrupt=open_interrupt() if open_interrupt is not None else None,
            reset=reset,
            release=resources.pop_all().close,
            clock=clock,
        )


def _is_translated(function: PciFunction) -> bool:
    """Whether an IOMMU translates the addresses that a function uses."""
    try:
        kind = (function.folder / "iommu_group" / "type").read_text().strip()
    except OSError:
        return False
    return kind != "identity"


def require_plain_addresses(opening: Opening) -> None:
    """Refuse physical addresses where an IOMMU would translate them."""
    function = opening.function
    if _is_translated(function):
        raise TransportUnavailable(
            opening.uri.scheme,
            f"an IOMMU stands between {function.address} and memory, so it cannot reach what only "
            "has physical addresses",
            remedy="use vfio:, or boot with iommu=pt",
        )


def _sysfs_map(opening: Opening, bar: Bar, length: int) -> mmap.mmap:
    path = opening.function.folder / f"resource{bar.number}"
    return _map(
        opening, path, 0, length, "be root; a locked-down kernel (Secure Boot) refuses even then"
    )


def _devmem_map(opening: Opening, bar: Bar, length: int) -> mmap.mmap:
    return _map(
        opening,
        opening.places.dev / "mem",
        bar.address,
        length,
        "be root and boot with iomem=relaxed; sysfs: needs neither option",
    )


def _map(opening: Opening, path: Path, offset: int, length: int, remedy: str) -> mmap.mmap:
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_SYNC | os.O_CLOEXEC)
        try:
            return mmap.mmap(descriptor, length, offset=offset)
        finally:
            os.close(descriptor)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise TransportUnavailable(
            opening.uri.scheme, f"{path} cannot be mapped: {reason}", remedy=remedy
        ) from None
