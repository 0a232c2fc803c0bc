# SPDX-License-Identifier: Apache-2.0
"""Byte streams that are nearly right."""

from __future__ import annotations

from random import Random


def mutate(random: Random, data: bytes) -> bytes:
    """Return a stream with some bytes changed, lost, doubled, moved or added."""
    changed = bytearray(data)
    for _ in range(random.choice((1, 1, 1, 2, 4, 8))):
        place = random.randrange(len(changed) + 1)
        match random.randrange(6):
            case 0 if changed:
                changed[place % len(changed)] ^= 1 << random.randrange(8)
            case 1 if changed:
                changed[place % len(changed)] = random.choice((0, 1, 0x7F, 0x80, 0xFF))
            case 2:
                del changed[place : place + random.randrange(1, 40)]
            case 3:
                changed[place:place] = random.randbytes(random.randrange(1, 20))
            case 4:
                changed[place:place] = changed[place : place + random.randrange(1, 100)]
            case _:
                del changed[place:]
    return bytes(changed)


def pieces(random: Random, data: bytes) -> list[bytes]:
    """Cut a stream at random places."""
    cuts = sorted(random.randrange(len(data) + 1) for _ in range(random.randrange(4)))
    return [data[a:b] for a, b in zip([0, *cuts], [*cuts, len(data)], strict=True) if a < b]
