# SPDX-License-Identifier: Apache-2.0
"""Which PCI functions are IOPs, and what is special about some cards.

Any function of class 0x0E00 with programming interface 0 or 1 is one. The table has those that
carry another class, or want something else than all others. Sources: the drivers of Linux 2.4 and
3.x, FreeBSD's asr and pst, NetBSD's iop.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from i2o.transport.pci.function import PciFunction

IOP_CLASS: Final = 0x0E00
_WITH_INTERRUPT_REGISTERS: Final = 0x01


@dataclass(frozen=True, slots=True)
class Card:
    """One kind of card.

    Attributes:
        name: what it is called.
        registers_at: offset of the register block in its BAR.
        has_split_bars: frames are in the second memory BAR.
        has_status: 0x30 and 0x34 exist, and bit 3 tells of replies.
        max_map: the most bytes of a BAR that are to be mapped.
        unlocks_function_0: config word 0x42 of function 0 must be 0 while it is used.
        max_sectors: the most sectors of 512 bytes of a block request, 0 for no limit.
        max_segments: the most scatter/gather elements of a block request, 0 for no limit.
    """

    name: str = "I2O controller"
    registers_at: int = 0
    has_split_bars: bool = False
    has_status: bool = True
    max_map: int = 4 << 20
    unlocks_function_0: bool = False
    max_sectors: int = 0
    max_segments: int = 0


_ANY: Final = None
_TABLE: Final[tuple[tuple[int, int, int | None, Card], ...]] = (
    # vendor, device, subsystem vendor
    (0x1044, 0xA501, _ANY, Card("DPT SmartRAID V / Adaptec 2100S family")),
    (0x1044, 0xA511, _ANY, Card("Adaptec 2000S family, zero channel", has_split_bars=True)),
    (
        0x8086,
        0x1960,
        0x105A,
        Card("Promise SuperTrak 100", unlocks_function_0=True, max_sectors=128),
    ),
    (
        0x8086,
        0x1962,
        0x105A,
        Card("Promise SuperTrak SX6000", unlocks_function_0=True, max_sectors=128),
    ),
    (0x1000, 0x0630, _ANY, Card("Symbios FC920", max_segments=8)),
    (0x1057, 0x18C0, _ANY, Card("Motorola MPC82xx", registers_at=0x10400, has_status=False)),
    (0x4916, 0x1960, _ANY, Card("RedCreek PCI-45")),
)


def card_of(function: PciFunction) -> Card | None:
    """Return what kind of IOP a function is, or None if it is none."""
    for vendor, device, subsystem_vendor, card in _TABLE:
        if (vendor, device) == (function.vendor_id, function.device_id) and subsystem_vendor in (
            _ANY,
            function.subsystem_vendor_id,
        ):
            return card
    class_code = function.class_code
    if class_code >> 8 != IOP_CLASS or class_code & 0xFF > _WITH_INTERRUPT_REGISTERS:
        return None
    return Card(has_status=class_code & 0xFF == _WITH_INTERRUPT_REGISTERS)
