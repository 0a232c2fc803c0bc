# SPDX-License-Identifier: Apache-2.0
"""Numbers and foreign strings as text for people. Imports nothing heavy, so every command may."""

from __future__ import annotations

from functools import lru_cache
from typing import Final

_UNITS: Final = ("KiB", "MiB", "GiB", "TiB", "PiB", "EiB")


def printable(text: str) -> str:
    """Replace what a terminal could take for a command."""
    return "".join(char if char.isprintable() else "?" for char in text)


@lru_cache(maxsize=1024)
def human_size(count: int) -> str:
    """Return a number of bytes for people: `512 bytes`, `32 MiB`, `1.4 GiB`."""
    if count < 1024:
        return f"{count} byte{'' if count == 1 else 's'}"
    power = min((count.bit_length() - 1) // 10, len(_UNITS))
    value, unit = count / (1 << 10 * power), _UNITS[power - 1]
    return f"{value:.0f} {unit}" if value >= 100 or value == int(value) else f"{value:.1f} {unit}"


def ascii_text(raw: bytes) -> str:
    """Return fixed-width ASCII without its padding, anything else in it as `?`."""
    return "".join(chr(byte) if 0x20 <= byte < 0x7F else "?" for byte in raw.rstrip(b"\0 ")).strip()
