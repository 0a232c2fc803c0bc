# SPDX-License-Identifier: Apache-2.0
"""The software IOP among those that a search finds: it is always there."""

from __future__ import annotations

from collections.abc import Iterator

from i2o.transport.found import Found


def find() -> Iterator[Found]:
    """Yield the one that a program makes by opening it."""
    yield Found(
        kind="software",
        name="software IOP with a disk in memory",
        uri="emu:",
        why="opening it makes it",
    )
