# SPDX-License-Identifier: Apache-2.0
"""What a search for IOPs finds, whatever they are behind: a bus, a program, a line."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple


class Obstacle(NamedTuple):
    """Something that stands in the way of opening an IOP.

    Attributes:
        reason: what it is, in one clause.
        remedy: what to do about it.
    """

    reason: str
    remedy: str


@dataclass(frozen=True, slots=True)
class Found:
    """An IOP that can be opened, or could be but for some obstacles.

    Attributes:
        kind: what it is behind: `pci`, `software`, or the scheme of another distribution's port.
        name: what it is.
        uri: what opens it.
        why: why it is that URI, in one clause.
        address: where it is on its bus, or an empty string.
        details: more about it, for people and for JSON.
        obstacles: what stands in the way, empty if nothing does.
    """

    kind: str
    name: str
    uri: str
    why: str
    address: str = ""
    details: Mapping[str, str | int | None] = field(default_factory=dict)
    obstacles: tuple[Obstacle, ...] = ()
