# SPDX-License-Identifier: Apache-2.0
"""Which card a software IOP passes itself off as."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from i2o.transport.vfio_user import Identity

BAR_SIZE: Final = 1 << 20
IOP_CLASS: Final = 0x0E0001
"""Intelligent I/O controller, FIFO at 0x40, with interrupt registers."""


@dataclass(frozen=True, slots=True)
class Personality:
    """A card.

    Attributes:
        name: what options call it.
        identity: what it is on PCI.
    """

    name: str
    identity: Identity


def _card(
    name: str, vendor: int, device: int, subsystem_vendor: int, subsystem: int
) -> Personality:
    identity = Identity(
        vendor_id=vendor,
        device_id=device,
        class_code=IOP_CLASS,
        revision=1,
        subsystem_vendor_id=subsystem_vendor,
        subsystem_id=subsystem,
        bars={0: BAR_SIZE},
    )
    return Personality(name, identity)


PERSONALITIES: Final[Mapping[str, Personality]] = MappingProxyType(
    {
        card.name: card
        for card in (
            # not 8086:1960, which Linux's megaraid driver takes for one of its own
            _card("generic", 0x8086, 0x1962, 0x8086, 0x0000),
        )
    }
)
GENERIC: Final = PERSONALITIES["generic"]
