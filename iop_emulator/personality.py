# SPDX-License-Identifier: Apache-2.0
"""What the card that a software IOP passes itself off as is on a PCI bus."""

from __future__ import annotations

from typing import Final

from i2o.iop_emulator.cards import Card
from i2o.transport.vfio_user import Identity

BAR_SIZE: Final = 1 << 20
IOP_CLASS: Final = 0x0E0001
"""Intelligent I/O controller, FIFO at 0x40, with interrupt registers."""


def pci_identity(card: Card) -> Identity:
    """Return the PCI identity of a card."""
    return Identity(
        vendor_id=card.pci.vendor,
        device_id=card.pci.device,
        class_code=IOP_CLASS,
        revision=1,
        subsystem_vendor_id=card.pci.subsystem_vendor,
        subsystem_id=card.pci.subsystem,
        bars={0: BAR_SIZE},
    )
