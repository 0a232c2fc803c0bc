# SPDX-License-Identifier: Apache-2.0
"""The tree that decoding ends in: what dump prints, JSON nests and filters look into."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

JsonValue = None | int | str | list["JsonValue"] | dict[str, "JsonValue"]


@dataclass(slots=True)
class Node:
    """A field, or a group or list of nodes.

    Attributes:
        name: field name in snake case, as in the layouts; items of a list are named by their
            index.
        value: what stands there; None for a group or a list.
        meaning: what the value says, for people; for a group what it is as a whole.
        offset: byte of the frame (or of the buffer) where it starts, None if it has no place.
        bit: lowest bit within that byte.
        width_bits: its width, 0 if it has no place.
        children: the parts, in order.
        is_list: the children are items of one kind.
        is_problem: something is wrong here; `meaning` says what.
    """

    name: str
    value: int | bytes | str | None = None
    meaning: str = ""
    offset: int | None = None
    bit: int = 0
    width_bits: int = 0
    children: list[Node] = field(default_factory=list)
    is_list: bool = False
    is_problem: bool = False

    def json(self) -> JsonValue:
        """Return the value, a dict of the children, or a list of the items. Bytes become hex."""
        if self.is_list:
            return [child.json() for child in self.children]
        if self.children:
            return {child.name: child.json() for child in self.children}
        return self.value.hex() if isinstance(self.value, bytes) else self.value

    def leaves(self) -> Iterator[Node]:
        """Yield every node that has a value, depth first."""
        if self.value is not None:
            yield self
        for child in self.children:
            yield from child.leaves()

    def problems(self) -> Iterator[str]:
        """Yield what is wrong, depth first."""
        if self.is_problem:
            yield self.meaning
        for child in self.children:
            yield from child.problems()
