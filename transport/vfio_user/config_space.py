# SPDX-License-Identifier: Apache-2.0
"""PCI configuration space of a device: what reads as what, and which bits a write changes.

Type 0 header with 32-bit memory BARs, an interrupt pin, and the capabilities MSI and MSI-X.
Source: PCI Local Bus Specification 3.0, chapters 6 and 6.8.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

SIZE: Final = 256
COMMAND: Final = 0x04
STATUS: Final = 0x06
FIRST_BAR: Final = 0x10
CAPABILITIES: Final = 0x34
COMMAND_MEMORY: Final = 0x0002
COMMAND_MASTER: Final = 0x0004
COMMAND_INTX_DISABLE: Final = 0x0400
STATUS_INTERRUPT: Final = 0x0008
STATUS_CAPABILITIES: Final = 0x0010
_COMMAND_WRITABLE: Final = 0x0547  # I/O, memory, master, parity, SERR, INTx disable
_FIRST_CAPABILITY: Final = 0x40
_MSI, _MSIX = 0x05, 0x11
_MSI_64BIT: Final = 0x0080


@dataclass(frozen=True, slots=True)
class Identity:
    """Who a PCI device says it is.

    Attributes:
        vendor_id, device_id: the pair that drivers match.
        class_code: class, subclass and programming interface, 24 bits.
        revision: revision id.
        subsystem_vendor_id, subsystem_id: the card's.
        bars: sizes of memory BARs by number, each a power of two of at least 16 bytes.
        pin: interrupt pin, 1 for INTA, 0 for none.
        msi: offer MSI with one vector.
        msix: vectors of MSI-X, 0 for none.
        msix_bar: the BAR with their table at 0 and their pending bits at 0x800.
    """

    vendor_id: int
    device_id: int
    class_code: int
    revision: int = 0
    subsystem_vendor_id: int = 0
    subsystem_id: int = 0
    bars: Mapping[int, int] = field(default_factory=dict)
    pin: int = 1
    msi: bool = True
    msix: int = 0
    msix_bar: int = 1


class ConfigSpace:
    """The 256 bytes of configuration space.

    Args:
        identity: what it says.
        on_command: called with the command register after it was written.
        interrupt_pending: asked for bit 3 of the status.
    """

    def __init__(
        self,
        identity: Identity,
        on_command: Callable[[int], None],
        interrupt_pending: Callable[[], bool],
    ) -> None:
        self._on_command, self._interrupt_pending = on_command, interrupt_pending
        self._identity = identity
        self._bytes = bytearray(SIZE)
        self._writable = bytearray(SIZE)
        self.reset()

    def reset(self) -> None:
        """Make everything as it was at power-on."""
        identity = self._identity
        self._bytes[:] = bytes(SIZE)
        self._writable[:] = bytes(SIZE)
        self._set(0x00, 2, identity.vendor_id)
        self._set(0x02, 2, identity.device_id)
        self._set(COMMAND, 2, 0, writable=_COMMAND_WRITABLE)
        self._set(0x08, 4, identity.revision | identity.class_code << 8)
        self._set(0x0C, 2, 0, writable=0xFFFF)  # cache line size, latency timer
        for number, size in identity.bars.items():
            self._set(FIRST_BAR + 4 * number, 4, 0, writable=-size & 0xFFFFFFF0)
        self._set(0x2C, 2, identity.subsystem_vendor_id)
        self._set(0x2E, 2, identity.subsystem_id)
        self._set(0x3C, 2, identity.pin << 8, writable=0x00FF)  # interrupt line
        self._add_capabilities()
        self._on_command(0)

    def _add_capabilities(self) -> None:
        identity = self._identity
        link, at = CAPABILITIES, _FIRST_CAPABILITY
        if identity.msi:
            self._bytes[link] = at
            self._bytes[at] = _MSI
            self._set(at + 2, 2, _MSI_64BIT, writable=0x0001)  # enable
            self._set(at + 4, 4, 0, writable=0xFFFFFFFC)
            self._set(at + 8, 4, 0, writable=0xFFFFFFFF)
            self._set(at + 12, 2, 0, writable=0xFFFF)
            link, at = at + 1, at + 16
        if identity.msix:
            self._bytes[link] = at
            self._bytes[at] = _MSIX
            self._set(at + 2, 2, identity.msix - 1, writable=0xC000)  # enable, mask all
            self._set(at + 4, 4, identity.msix_bar)
            self._set(at + 8, 4, 0x800 | identity.msix_bar)
        if identity.msi or identity.msix:
            self._set(STATUS, 2, STATUS_CAPABILITIES)

    def _set(self, offset: int, size: int, value: int, *, writable: int = 0) -> None:
        self._bytes[offset : offset + size] = value.to_bytes(size, "little")
        self._writable[offset : offset + size] = writable.to_bytes(size, "little")

    @property
    def command(self) -> int:
        """The command register."""
        return int.from_bytes(self._bytes[COMMAND : COMMAND + 2], "little")

    @property
    def may_master(self) -> bool:
        """Whether the host allows the device to reach its memory."""
        return bool(self.command & COMMAND_MASTER)

    def read(self, offset: int, size: int) -> bytes:
        """Return bytes; what is beyond the end reads as zero."""
        if self._interrupt_pending():
            self._bytes[STATUS] |= STATUS_INTERRUPT
        else:
            self._bytes[STATUS] &= ~STATUS_INTERRUPT & 0xFF
        return bytes(self._bytes[offset : offset + size]).ljust(size, b"\0")

    def write(self, offset: int, data: bytes) -> None:
        """Change the bits that can be changed."""
        before = self.command
        for place, value in enumerate(data[: max(0, SIZE - offset)], offset):
            mask = self._writable[place]
            self._bytes[place] = self._bytes[place] & ~mask & 0xFF | value & mask
        if self.command != before:
            self._on_command(self.command)
