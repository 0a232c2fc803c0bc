# SPDX-License-Identifier: Apache-2.0
"""Nodes of layouts: one leaf per field, as far as the bytes go."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Final, NamedTuple

from i2o.decode.tree import Node
from i2o.decode.values import Value, meaning_of
from i2o.frames.layout import Field, Layout

Buffer = bytes | bytearray
Meanings = Mapping[str, Callable[[int], str]]
"""What to say about fields instead of the usual, by path."""

MAX_ITEMS: Final = 4096
"""Items of one list that are decoded; the rest is counted."""


class _Step(NamedTuple):
    """How to read one field."""

    name: str
    byte: int
    end: int
    bit: int
    width_bits: int
    kind: str
    meaning: Callable[[Value], str] | None


def field_nodes(
    layout: Layout,
    data: Buffer,
    start: int = 0,
    end: int | None = None,
    *,
    device_class: int | None = None,
    meanings: Meanings | None = None,
) -> tuple[list[Node], str]:
    """Return a leaf for every field of a layout.

    Args:
        layout: what the bytes are.
        data: a frame or a buffer; nodes count their offsets from its start.
        start: byte where the layout starts.
        end: byte behind what belongs to it, len(data) if not given.
        device_class: whose function codes apply.
        meanings: what to say about some fields instead of the usual.

    Returns:
        The leaves of the fields that are there, bytes perhaps in part, and the name of the first
        field that is missing or cut; empty if all are there.
    """
    limit = len(data) if end is None else min(end, len(data))
    nodes = []
    for name, byte, stop, bit, width, kind, meaning in _steps(layout, device_class):
        at = start + byte
        if start + stop > limit:
            if kind == "bytes" and at < limit:
                nodes.append(bytes_node(name, bytes(data[at:limit]), at))
            return nodes, name
        if kind == "bytes":
            raw = bytes(data[at : start + stop])
            nodes.append(Node(name, raw, meaning(raw) if meaning else "", at, 0, width))
            continue
        value = int.from_bytes(data[at : start + stop], "little") >> bit & (1 << width) - 1
        if kind == "sint" and value >> (width - 1):
            value -= 1 << width
        if meanings and name in meanings:
            text = meanings[name](value)
        else:
            text = meaning(value) if meaning else ""
        nodes.append(Node(name, value, text, at, bit, width))
    return nodes, ""


def field_node(field: Field, raw: Buffer, offset: int) -> Node:
    """Return the leaf of a parameter's field.

    Args:
        field: which.
        raw: its bytes, as many as it has.
        offset: where they start in the buffer.
    """
    value: Value = bytes(raw)
    if field.kind != "bytes":
        value = int.from_bytes(raw, "little", signed=field.kind == "sint")
    meaning = meaning_of(field)
    return Node(field.path, value, meaning(value) if meaning else "", offset, 0, 8 * len(raw))


def number_node(
    name: str, data: Buffer, at: int, size: int, meaning: str = "", *, big: bool = False
) -> Node:
    """Return the leaf of a number of whole bytes that belongs to no layout."""
    value = int.from_bytes(data[at : at + size], "big" if big else "little")
    return Node(name, value, meaning, at, 0, 8 * size)


def bytes_node(name: str, raw: bytes, offset: int | None, meaning: str = "") -> Node:
    """Return the leaf of plain bytes."""
    return Node(name, raw, meaning, offset, 0, 8 * len(raw) if offset is not None else 0)


def text_node(name: str, text: str, offset: int | None = None, size: int = 0) -> Node:
    """Return a leaf whose value is text.

    Args:
        name: its name.
        text: its value.
        offset: where the text stands, None if it stands nowhere.
        size: bytes that it takes there.
    """
    return Node(name, text, "", offset, 0, 8 * size)


def group_node(name: str, children: list[Node], meaning: str = "") -> Node:
    """Return a node for parts that belong together; its place is that of the first part."""
    offset = children[0].offset if children else None
    return Node(name, None, meaning, offset, children=children)


def list_node(name: str, items: list[Node], meaning: str = "", offset: int | None = None) -> Node:
    """Return a list, whose place is that of its first item.

    Args:
        name: its name.
        items: the items, named by their index; more may be added later.
        meaning: what it is as a whole.
        offset: where it starts, for a list whose items are still to come.
    """
    if offset is None and items:
        offset = items[0].offset
    return Node(name, None, meaning, offset, 0, 0, items, True)


def problem(text: str, offset: int | None = None) -> Node:
    """Return a node that says what is wrong."""
    return Node("problem", text, text, offset, is_problem=True)


@lru_cache(maxsize=2048)
def _steps(layout: Layout, device_class: int | None) -> tuple[_Step, ...]:
    return tuple(
        _Step(
            field.path,
            field.byte,
            field.byte + (field.bit + field.width_bits + 7) // 8,
            field.bit,
            field.width_bits,
            field.kind,
            meaning_of(field, device_class),
        )
        for field in layout.fields
    )
