# SPDX-License-Identifier: Apache-2.0
"""Decoded frames for people: every field as a tree, or as a table with its place and its bits."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from i2o.decode.tree import Node
from i2o.tools.output import BOLD, CYAN, DIM, YELLOW, paint, printable

INDENT: Final = 7
"""Columns before the tree: as many as the number in front of a one-line listing."""
_STEP: Final = 2
_MAX_NAME: Final = 44
_MAX_BYTES: Final = 24
_HEX_WORDS: Final = (
    "offset", "flags", "address", "context", "mfa", "severity", "code", "status", "id", "function",
    "mask", "indicator", "capabilities", "class", "tid", "key", "identity", "location",
    "tag", "ignore", "cq",
)  # fmt: skip
_HEADERS: Final = ("word", "hex", "bits", "field", "value", "meaning")


def tree_lines(nodes: Iterable[Node], *, colour: bool = False, indent: int = INDENT) -> list[str]:
    """Return nodes as an indented tree of name, value and meaning."""
    rows = [
        (_STEP * depth, label, value_text(node), node) for depth, label, node in _walk(nodes, 0)
    ]
    wide = max((at + len(label) for at, label, _, _ in rows), default=0)
    lines = []
    for at, label, value, node in rows:
        name = " " * at + label
        pad = " " * (min(wide, _MAX_NAME) - len(name) + 2) if value or node.meaning else ""
        gap = "  " if value and node.meaning else ""
        lines.append(
            f"{' ' * indent}{_name(name, node, colour)}{pad or ('  ' if value else '')}"
            f"{value}{gap}{_meaning(node, colour)}".rstrip()
        )
    return lines


def table_lines(
    frame: bytes,
    fixed: Sequence[Node],
    extra: Sequence[Node],
    *,
    colour: bool = False,
    indent: int = INDENT,
) -> list[str]:
    """Return a frame as a table of words, bits, fields, values and meanings.

    Args:
        frame: the frame that the fixed nodes are of.
        fixed: the fields of its fixed part, whose words are shown in hexadecimal.
        extra: what else was decoded; a place in it is an offset in its own buffer.
        colour: use ANSI colours.
        indent: columns in front of each line.
    """
    rows: list[tuple[str, str, str, str, str, Node | None]] = []
    shown = -1
    for depth, label, node in _walk(fixed, 0):
        word = shown if node.offset is None else node.offset // 4
        # words that no field starts in have a row of their own: the middle of a wide field
        rows += [(str(at), word_text(frame, at), "", "", "", None) for at in range(shown + 1, word)]
        is_new = word > shown
        shown = max(shown, word)
        rows.append(
            (
                str(word) if is_new else "",
                word_text(frame, word) if is_new else "",
                bits_text(node),
                " " * _STEP * depth + label,
                value_text(node),
                node,
            )
        )
    for depth, label, node in _walk(extra, 0):
        place = "" if node.offset is None else f"+{node.offset:x}"
        rows.append(
            (place, "", bits_text(node), " " * _STEP * depth + label, value_text(node), node)
        )
    texts = [_HEADERS[:5], *(row[:5] for row in rows)]
    wide = [min(max(len(text[at]) for text in texts), _MAX_NAME) for at in range(5)]
    lines = [paint(" " * indent + _line(_HEADERS[:5], wide) + "  meaning", colour, DIM)]
    for word_at, hexadecimal, bits, name, value, shown_node in rows:
        cells = (word_at, hexadecimal, bits, name, value)
        text = _line(cells, wide)
        if colour:
            name_at = wide[0] + wide[1] + wide[2] + 6
            painted = _name(text[name_at : name_at + len(name)], shown_node, colour)
            text = paint(text[:name_at], colour, DIM) + painted + text[name_at + len(name) :]
        meaning = "" if shown_node is None else _meaning(shown_node, colour)
        lines.append(f"{' ' * indent}{text}  {meaning}".rstrip())
    return lines


def value_text(node: Node) -> str:
    """Return what stands in a field: numbers as numbers, flags and addresses in hexadecimal."""
    value = node.value
    if value is None or (node.is_problem and value == node.meaning):
        return ""
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, bytes):
        more = f"... ({len(value)} bytes)" if len(value) > _MAX_BYTES else ""
        return value[:_MAX_BYTES].hex() + more
    if is_hexadecimal(node.name) and value >= 0:
        return f"{value:#0{2 + (min(node.width_bits, 64) + 3) // 4}x}"
    return str(value)


def is_hexadecimal(name: str) -> bool:
    """Whether a number with that name is an address, an identifier or flags."""
    last = name.rpartition(".")[2]
    words = last.split("_")
    return last == "group_number" or (
        "count" not in words and any(word in _HEX_WORDS for word in words)
    )


def bits_text(node: Node) -> str:
    """Return the bits of a field within its word, `31:24`."""
    if node.offset is None or not node.width_bits:
        return ""
    first = 8 * (node.offset % 4) + node.bit
    return f"{first + node.width_bits - 1}:{first}"


def word_text(frame: bytes, index: int) -> str:
    """Return a little-endian word of a frame, as many digits as there are bytes."""
    part = frame[4 * index : 4 * index + 4] if index >= 0 else b""
    return f"{int.from_bytes(part, 'little'):0{2 * len(part)}x}" if part else ""


def _walk(nodes: Iterable[Node], depth: int) -> Iterator[tuple[int, str, Node]]:
    for node in nodes:
        yield depth, node.name, node
        if node.is_list:
            for child in node.children:
                yield depth + 1, f"[{child.name}]", child
                yield from _walk(child.children, depth + 2)
        else:
            yield from _walk(node.children, depth + 1)


def _line(cells: Sequence[str], wide: Sequence[int]) -> str:
    word, hexadecimal, bits, name, value = cells
    return (
        f"{word:>{wide[0]}}  {hexadecimal:>{wide[1]}}  {bits:>{wide[2]}}  {name:<{wide[3]}}  "
        f"{value:<{wide[4]}}"
    )


def _name(text: str, node: Node | None, colour: bool) -> str:
    if node is not None and node.value is None and (node.children or node.is_list):
        return paint(text, colour, BOLD)
    return paint(text, colour, CYAN)


def _meaning(node: Node, colour: bool) -> str:
    text = printable(node.meaning)
    return paint(f"! {text}", colour, YELLOW) if node.is_problem else text
