# SPDX-License-Identifier: Apache-2.0
"""What host and device tell one another: records of three little-endian words, many to a packet.

The first word says what it is about, the others are its arguments. Records are taken in order, so
a buffer is known before the request that points to it. A reset raises a generation number, by which
frames that were posted before the host knew of it are told apart.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from enum import IntEnum
from typing import Final

RECORD: Final = struct.Struct("<III")
MOST_RECORDS: Final = 1024
PACKET: Final = MOST_RECORDS * RECORD.size
"""Bytes of the largest packet."""


class Word(IntEnum):
    """First word of a record."""

    POST = 1  # host: MFA, generation
    RELEASE = 2  # host: MFA
    COVER = 3  # host: bus address, length
    UNCOVER = 4  # host: bus address
    POWER_CYCLE = 5  # host
    FREE = 6  # device: MFA
    PRESERVE = 7  # device: MFA
    REPLY = 8  # device: MFA
    DROP = 9  # device: replies on their way do not count any more
    REFILL = 10  # device: generation; every inbound frame is free
    STARVE = 11  # device: 1 or 0
    STATIC = 12  # device: MFA, how often it may be posted
    RENEW = 13  # device: MFA of a static frame, which may be posted once more
    POST_STATIC = 14  # host: MFA, generation


_iter_unpack = RECORD.iter_unpack
_SIZE: Final = RECORD.size


def records_of(packet: memoryview) -> Iterator[tuple[int, int, int]]:
    """Yield the records of a packet; what is left over at its end is no record."""
    surplus = len(packet) % _SIZE
    return _iter_unpack(packet[:-surplus] if surplus else packet)
