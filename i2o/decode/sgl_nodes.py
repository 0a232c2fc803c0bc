# SPDX-License-Identifier: Apache-2.0
"""Scatter/gather lists as nodes: every element, those of chained lists too where captured."""

from __future__ import annotations

from functools import lru_cache
from typing import Final

from i2o.decode.fields import MAX_ITEMS, bytes_node, group_node, list_node, problem
from i2o.decode.text import human_size
from i2o.decode.tree import Node
from i2o.decode.values import names_text
from i2o.errors import LocalFrameError
from i2o.frames.header import HEADER_SIZE, MsgFlags
from i2o.frames.host_ranges import sgl_start
from i2o.frames.sgl import SglAttributeFlags
from i2o.frames.sgl_walk import SglElement, SglError, sgl_elements

_64BIT: Final = MsgFlags.CONTEXT_64BIT.value
_ADDRESS_64BIT: Final = SglAttributeFlags.ADDRESS_64BIT.value
_TRANSACTION_64BIT: Final = SglAttributeFlags.TRANSACTION_64BIT.value
_COUNTING_BYTES: Final = frozenset(("simple", "page_list", "immediate", "bit_bucket", "chain"))


def sgl_nodes(
    frame: bytes, chained: dict[int, bytes] | None = None, *, is_cut: bool = False
) -> list[Node]:
    """Return `sgl`, the list of elements, and a problem behind it if the list is malformed.

    Args:
        frame: the request, cut at its MessageSize.
        chained: captured chained lists by bus address.
        is_cut: the frame ends before its MessageSize, perhaps before the list.

    Returns:
        Nothing for a frame without a list.
    """
    start = sgl_start(frame) if len(frame) >= HEADER_SIZE else 0
    if not start:
        return []
    if start < HEADER_SIZE:
        return [problem(f"the SGL is said to start at byte {start}, inside the header", 0)]
    if start > len(frame):
        if is_cut:
            return []
        return [problem(f"the SGL is said to start at byte {start}, behind the frame", 0)]
    items, wrong = _elements(frame, start, bool(frame[1] & _64BIT), chained or {})
    found = list_node("sgl", items, _sum(items))
    return [found] if wrong is None else [found, wrong]


def chained_nodes(data: bytes, *, wide: bool) -> list[Node]:
    """Return `sgl` for a chained list alone, and a problem behind it if it is malformed.

    Args:
        data: the list.
        wide: contexts have 64 bits.
    """
    items, wrong = _elements(data, 0, wide, {})
    found = list_node("sgl", items, _sum(items))
    return [found] if wrong is None else [found, wrong]


def immediate_data(frame: bytes, buffer: int) -> tuple[bytes, int] | None:
    """Return the data of a request's buffer that stand in the frame itself, and where they do.

    Args:
        frame: the request, cut at its MessageSize.
        buffer: which buffer, from 0.

    Returns:
        None if the buffer is elsewhere, or made of several elements.
    """
    start = sgl_start(frame) if len(frame) >= HEADER_SIZE else 0
    if start < HEADER_SIZE or start > len(frame):
        return None
    number = 0
    wide = bool(frame[1] & _64BIT)
    try:
        for element in sgl_elements(frame, start, len(frame), context_words64=wide):
            if number == buffer:
                if element.kind != "immediate" or not (element.end_of_buffer or element.last):
                    return None
                contexts = len(element.contexts) * (8 if wide else 4)
                return element.data, element.offset + 4 + contexts
            number += element.end_of_buffer
    except SglError:
        pass
    return None


def _elements(
    data: bytes, start: int, wide: bool, lists: dict[int, bytes]
) -> tuple[list[Node], Node | None]:
    """Return the elements of a list up to the first malformed one, and what is wrong with that."""

    def read(address: int, length: int) -> bytes:
        found = lists.get(address, b"")
        if len(found) < length:
            raise LocalFrameError("it was not captured")
        return found[:length]

    items: list[Node] = []
    pages = 0
    widths = _Widths(wide)
    try:
        for element in sgl_elements(
            data, start, len(data), read_host=read if lists else None, context_words64=wide
        ):
            pages += len(element.pieces)
            if len(items) >= MAX_ITEMS or pages > MAX_ITEMS:
                text = f"more than {MAX_ITEMS} elements or pages: the rest is not shown"
                return items, problem(text)
            items.append(_element(len(items), element, widths))
            widths.follow(element)
    except SglError as error:
        return items, problem(str(error), error.offset)
    return items, None


class _Widths:
    """Bytes of contexts and addresses, as the attributes in force say."""

    def __init__(self, wide: bool) -> None:
        self._least = self.context = 8 if wide else 4
        self.address = 4

    def follow(self, element: SglElement) -> None:
        """Take over what an attributes element says."""
        if element.kind == "attributes":
            flags = element.attribute_flags
            self.address = 8 if flags & _ADDRESS_64BIT else 4
            self.context = 8 if flags & _TRANSACTION_64BIT else self._least


class _Places:
    """Makes leaves one behind the other; those of chained lists have no place in the frame."""

    def __init__(self, at: int | None) -> None:
        self._at = at

    def leaf(self, name: str, value: int, size: int, meaning: str = "") -> Node:
        """Return the leaf of a number of some bytes."""
        at = self._at
        if at is None:
            return Node(name, value, meaning)
        self._at = at + size
        return Node(name, value, meaning, at, 0, 8 * size)

    def bytes(self, name: str, raw: bytes) -> Node:
        """Return the leaf of plain bytes."""
        return bytes_node(name, raw, self._at)


def _element(index: int, element: SglElement, widths: _Widths) -> Node:
    at = element.offset if element.list_address is None else None
    flags_text = _flags(element)
    width = 0 if at is None else 8
    children = [
        Node("kind", element.kind),
        Node("flags", element.flags, flags_text, None if at is None else at + 3, 0, width),
        Node("count", element.count, _count(element), at, 0, 3 * width),
    ]
    if element.list_address is not None:
        children.append(Node("list_address", element.list_address, "in the chained list there"))
    places = _Places(None if at is None else at + 4)
    if element.contexts:
        contexts = [
            places.leaf(str(n), context, widths.context)
            for n, context in enumerate(element.contexts)
        ]
        children.append(list_node("contexts", contexts))
    kind = element.kind
    if kind in ("simple", "chain"):
        for address, _ in element.pieces:
            children.append(places.leaf("address", address, widths.address))
        children.append(Node("length", element.count, human_size(element.count)))
    elif kind == "page_list":
        pages = [
            group_node(
                str(n), [places.leaf("address", address, widths.address), Node("length", length)]
            )
            for n, (address, length) in enumerate(element.pieces)
        ]
        children.append(list_node("pages", pages))
    elif kind == "attributes":
        flags = element.attribute_flags
        text = names_text(SglAttributeFlags, flags)
        children.append(Node("sgl_attribute_flags", flags, text, at, 0, 2 * width))
        if element.page_size is not None:
            page = element.page_size
            children.append(places.leaf("page_frame_size", page, 4, human_size(page)))
    elif element.data:
        children.append(places.bytes("data", element.data))
    return Node(str(index), None, _text(element, flags_text), at, children=children)


def _flags(element: SglElement) -> str:
    return _flags_text(element.out, element.local, element.end_of_buffer, element.last)


@lru_cache(maxsize=64)
def _flags_text(out: bool | None, local: bool, end_of_buffer: bool, last: bool) -> str:
    marks = (
        (out is True, "OUT"),
        (out is False, "IN"),
        (local, "LOCAL"),
        (end_of_buffer, "EOB"),
        (last, "LAST"),
    )
    return "|".join(name for is_set, name in marks if is_set)


def _count(element: SglElement) -> str:
    if element.kind in ("attributes", "short_transaction"):
        return f"{element.count >> 16} words"
    return human_size(element.count)


def _text(element: SglElement, flags: str) -> str:
    kind = element.kind
    text = kind.replace("_", " ")
    if kind in _COUNTING_BYTES:
        text += f" {human_size(element.count)}"
    if kind == "page_list":
        text += f" in {len(element.pieces)} pages"
    elif element.pieces:
        text += f" at {element.pieces[0][0]:#010x}"
    return f"{text}, {flags.replace('|', ', ')}" if flags else text


def _sum(items: list[Node]) -> str:
    return f"{len(items)} element{'' if len(items) == 1 else 's'}"
