# SPDX-License-Identifier: Apache-2.0
"""The cards that a software IOP passes itself off as: names, numbers and kinds of devices."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, Literal, NamedTuple

from i2o.frames.functions import OrganizationId

DiskKind = Literal["block", "scsi"]
DISK_KINDS: Final[Mapping[str, DiskKind]] = MappingProxyType({"block": "block", "scsi": "scsi"})


class PciIds(NamedTuple):
    """What a card is on PCI."""

    vendor: int
    device: int
    subsystem_vendor: int
    subsystem: int


@dataclass(frozen=True, slots=True)
class Card:
    """A card.

    Attributes:
        name: what options call it.
        pci: its PCI ids.
        organization_id: organization in its tables.
        product: ProductIDString, up to 24 characters.
        vendor: vendor in INQUIRY data and identity groups, up to 8 characters.
        disk_kind: the class of its disks, unless a disk's own option says another.
        max_sectors: blocks of one request that the real card takes at most, 0 if not known. Only
            SCSI disks say and enforce it: the block storage class has no word for it.
        has_dpt_messages: it understands the private messages of DPT cards, and has their groups.
    """

    name: str
    pci: PciIds
    organization_id: int = 0
    product: str = "i2o software IOP"
    vendor: str = "i2o"
    disk_kind: DiskKind = "block"
    max_sectors: int = 0
    has_dpt_messages: bool = False


_KNOWN: Final = (
    # not 8086:1960, which Linux's megaraid driver takes for one of its own
    Card("generic", PciIds(0x8086, 0x1962, 0x8086, 0x0000)),
    Card(
        "dpt",
        PciIds(0x1044, 0xA501, 0x1044, 0xC001),  # not C032 to C03B: those have BARs of 4 MiB
        organization_id=OrganizationId.DPT_ADAPTEC.value,
        product="ASR-2100S (software IOP)",
        vendor="ADAPTEC",
        disk_kind="scsi",
        has_dpt_messages=True,
    ),
    Card(
        "promise",
        PciIds(0x8086, 0x1962, 0x105A, 0x0000),
        product="SuperTrak (software IOP)",
        vendor="PROMISE",
        max_sectors=128,
    ),
)
CARDS: Final[Mapping[str, Card]] = MappingProxyType({card.name: card for card in _KNOWN})
GENERIC: Final = CARDS["generic"]
