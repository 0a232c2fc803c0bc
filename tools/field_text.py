# SPDX-License-Identifier: Apache-2.0
"""Fields of layouts as text: values, their meaning, and the way back for `params --set`."""

from __future__ import annotations

from enum import IntFlag
from typing import Final

from i2o.frames.layout import Field, ParameterGroup
from i2o.parameters import Value
from i2o.tools.arguments import UsageError
from i2o.tools.output import human_size, printable

_SIZE_WORDS: Final = ("size", "capacity", "memory", "space", "mem_total", "mem_free")
_NO_SIZES: Final = ("word", "count", "index")
_HEX_FIELDS: Final = ("class_id", "group_number", "adapter_id", "event_capabilities")
_HEX_BEFORE: Final = 1 << 16  # larger numbers without another meaning are flags or addresses


def enum_text(field: Field, value: int) -> str:
    """Return the names of an enumerated value, `A|B` for flags; empty if it has none."""
    names = field.enum
    if names is None:
        return ""
    if issubclass(names, IntFlag):
        found = [flag.name or "" for flag in names if flag and value & flag == flag]
        rest = value & ~sum({int(flag) for flag in names if value & flag == flag and flag.name})
        if not found:
            return ""
        return "|".join(found) + (f"|{rest:#x}" if rest > 0 else "")
    try:
        return names(value).name
    except ValueError:
        return ""


def is_text(raw: bytes) -> bool:
    """Whether bytes read as ASCII text, padded with zeros or spaces, and are not empty."""
    body = raw.rstrip(b"\0 ")
    return bool(body) and all(0x20 <= byte < 0x7F for byte in body)


def bytes_text(field: Field, raw: bytes) -> str:
    """Return a bytes field as text where it is text, else in hexadecimal without zero padding."""
    if not raw.strip(b"\0 "):
        return ""
    if is_text(raw) and "address" not in field.path:
        return raw.rstrip(b"\0 ").decode("ascii")
    return "0x" + (raw.rstrip(b"\0") or b"\0").hex()


def value_text(field: Field, value: Value, *, brief: bool = False) -> str:
    """Return a value with its meaning: `DIRECT (0x00)`, `33554432 (32 MiB)`, `text`.

    Args:
        field: its field.
        value: the value.
        brief: one of both only, for tables.
    """
    if isinstance(value, bytes):
        return printable(bytes_text(field, value)) or "-"
    digits = field.width_bits // 4
    if name := enum_text(field, value):
        return name if brief else f"{name} ({value:#0{2 + digits}x})"
    if field.enum is not None or field.path in _HEX_FIELDS:
        return f"{value:#0{2 + digits}x}"
    if value >= 1024 and is_size(field.path) and not brief:
        return f"{value} ({human_size(value)})"
    if "tid" in field.path.split("_"):
        return f"{value:#05x}"
    if value >= _HEX_BEFORE:
        return f"{value:#x}" if brief else f"{value} ({value:#x})"
    return str(value)


def json_value(field: Field, value: Value) -> str | int:
    """Return a value for JSON: numbers as they are, bytes as text or 0x…."""
    return bytes_text(field, value) if isinstance(value, bytes) else value


def is_size(path: str) -> bool:
    """Whether a field's name says that it counts bytes."""
    return any(word in path for word in _SIZE_WORDS) and not any(no in path for no in _NO_SIZES)


def parse_value(group: ParameterGroup, field: Field, text: str) -> Value:
    """Read a value for a field: a number, value names (`A|B` for flags), text, or 0x… bytes.

    Raises:
        UsageError: it is none of these; says what the field takes.
    """
    if field.kind == "bytes":
        return _parse_bytes(field, text)
    total = 0
    for part in text.split("|"):
        named = _named(field, part.strip())
        try:
            total |= int(part, 0) if named is None else named
        except ValueError:
            names = ", ".join(member.name or "" for member in field.enum or ())
            raise UsageError(
                f"{group.name}.{field.path}: {part!r} is no number"
                + (f" and none of {names}" if names else "")
            ) from None
    return total


def _parse_bytes(field: Field, text: str) -> bytes:
    if text.lower().startswith("0x"):
        try:
            return bytes.fromhex(text[2:])
        except ValueError:
            raise UsageError(f"{field.path}: {text!r} is no string of hex bytes") from None
    try:
        return text.encode("ascii")
    except UnicodeEncodeError:
        raise UsageError(
            f"{field.path}: {text!r} is not ASCII", remedy="other bytes are written 0x…"
        ) from None


def _named(field: Field, name: str) -> int | None:
    if field.enum is None:
        return None
    for known, member in field.enum.__members__.items():
        if known == name.upper():
            return int(member)
    return None
