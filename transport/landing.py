# SPDX-License-Identifier: Apache-2.0
"""Host memory that data are read into straight from where they come."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, runtime_checkable


class Landing(Protocol):
    """A piece of memory that bytes are read into, one part after another."""

    def fill(self, start: int, length: int, read: Callable[[memoryview], int]) -> int:
        """Read once into a part of it; nothing is read into it any more once it is freed.

        Args:
            start: first byte of the part.
            length: bytes of it, one at least.
            read: reads into the memory that it is given, and returns how much.

        Returns:
            What `read` returned; what it raises passes through.

        Raises:
            DmaFault: the memory was freed; nothing was read.
        """


@runtime_checkable
class LandingMemory(Protocol):
    """A `DmaSpace` whose memory can be read into."""

    def landing(self, address: int, length: int) -> Landing:
        """Return a range to read into; raises DmaFault if `write` would."""
