# SPDX-License-Identifier: Apache-2.0
"""The way back from text to values of fields, for `params --set`."""

from __future__ import annotations

from i2o.decode.values import Value
from i2o.frames.layout import Field, ParameterGroup
from i2o.tools.arguments import UsageError


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
