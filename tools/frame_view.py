# SPDX-License-Identifier: Apache-2.0
"""Frames decoded for people: every field of the layout, its place, its value and what it means."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple

from i2o.decode.values import bytes_text, meaning_of, number_text, tid_text
from i2o.errors import I2OError
from i2o.frames.layout import Field, Layout, MessageLayout
from i2o.frames.sgl_walk import SglElement, sgl_elements
from i2o.tools import output


class FieldRow(NamedTuple):
    """One line of a decoded frame.

    Attributes:
        word: index of the 32-bit word where the field starts.
        bits: `31:24`, within that word (and the next ones for wider fields).
        name: dotted field name.
        value: as it stands there.
        meaning: what it says; may be empty.
    """

    word: int
    bits: str
    name: str
    value: str
    meaning: str


def frame_rows(frame: bytes, layout: Layout, device_class: int | None = None) -> list[FieldRow]:
    """Decode the fixed part of a frame and, for requests with one, its scatter/gather list.

    Args:
        frame: the bytes, at least as many as the layout has.
        layout: what they are.
        device_class: whose function codes and status codes apply.
    """
    record = layout.unpack_from(frame)
    rows = []
    for field in layout.fields:
        value = getattr(record, field.attribute)
        first = 8 * (field.byte % 4) + field.bit
        rows.append(
            FieldRow(
                field.byte // 4,
                f"{first + field.width_bits - 1}:{first}",
                field.path,
                bytes_text(field, value) or "0"
                if isinstance(value, bytes)
                else number_text(field.path, field.width_bits, value),
                _meaning(field, value, device_class),
            )
        )
    if isinstance(layout, MessageLayout) and layout.sgl_word_offset:
        rows += _sgl_rows(frame, 4 * layout.sgl_word_offset)
    return rows


def frame_lines(frame: bytes, layout: Layout, device_class: int | None = None) -> list[str]:
    """Return a decoded frame as a table that fits 80 columns, each word's hex beside it."""
    rows = frame_rows(frame, layout, device_class)
    cells = []
    shown = -1
    for row in rows:
        while shown < row.word - 1:  # a word in the middle of a wide field has no row of its own
            shown += 1
            cells.append((str(shown), _word(frame, shown), "", "", "", ""))
        new = row.word != shown
        shown = row.word
        cells.append(
            (
                str(row.word) if new else "",
                _word(frame, row.word) if new else "",
                row.bits,
                row.name,
                row.value,
                row.meaning,
            )
        )
    rest = range(shown + 1, len(frame) // 4)
    cells += [(str(word), _word(frame, word), "", "", "", "") for word in rest]
    return output.table(
        ("word", "hex", "bits", "field", "value", "meaning"), cells, right="word bits", indent=2
    )


def hex_lines(data: bytes, *, indent: int = 2) -> list[str]:
    """Return bytes in hexadecimal with their ASCII, 16 a line."""
    lines = []
    for start in range(0, len(data), 16):
        part = data[start : start + 16]
        text = "".join(chr(byte) if 0x20 <= byte < 0x7F else "." for byte in part)
        groups = "  ".join(part[at : at + 8].hex(" ") for at in (0, 8))
        lines.append(f"{' ' * indent}{start:04x}  {groups:48}  {text}")
    return lines


def _word(frame: bytes, index: int) -> str:
    return f"{int.from_bytes(frame[4 * index : 4 * index + 4], 'little'):08x}"


def _meaning(field: Field, value: int | bytes, device_class: int | None) -> str:
    if isinstance(value, bytes):
        return ""
    ours = _OURS.get(field.path)
    if ours is not None:
        return ours(value)
    meaning = meaning_of(field, device_class)
    return meaning(value) if meaning else ""


def _tid(value: int) -> str:
    return tid_text(value) or "device"


def _version(value: int) -> str:
    word = value >> 4
    return f"v{value & 7}, " + (f"SGL at word {word}" if word else "no SGL")


_OURS: Final[dict[str, Callable[[int], str]]] = {
    "version_offset": _version,
    "target_address": _tid,
    "initiator_address": _tid,
    "initiator_context": lambda _: "our OSM's cookie",
    "transaction_context": lambda _: "which request",
    "transfer_count": output.human_size,
}
"""What the fields mean to a host."""


def _sgl_rows(frame: bytes, start: int) -> list[FieldRow]:
    """Return the elements of the list in a request; a bad list ends in a row that says so."""
    end = min(len(frame), 4 * int.from_bytes(frame[2:4], "little"))
    rows: list[FieldRow] = []
    try:
        for element in sgl_elements(frame, start, end):
            rows += _element_rows(element)
    except I2OError as error:
        rows.append(FieldRow(start // 4, "", "sgl", "", str(error)))
    return rows


def _element_rows(element: SglElement) -> list[FieldRow]:
    word = element.offset // 4
    marks = [name for name, is_set in (("EOB", element.end_of_buffer),
                                       ("last", element.last)) if is_set]  # fmt: skip
    rows = [
        FieldRow(word, "31:24", "sgl.flags", f"{element.flags:#04x}",
                 ", ".join([element.kind.replace("_", " "), *marks])),
        FieldRow(word, "23:0", "sgl.count", str(element.count), output.human_size(element.count)),
    ]  # fmt: skip
    for at, (address, _) in enumerate(element.pieces[:1], start=1 + len(element.contexts)):
        rows.append(FieldRow(word + at, "31:0", "sgl.address", f"{address:#010x}", "bus address"))
    return rows
