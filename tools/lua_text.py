# SPDX-License-Identifier: Apache-2.0
"""Python values as Lua source: what generated dissectors are written with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, TypeAlias

LuaValue: TypeAlias = (
    "bool | int | str | Sequence[LuaValue] | Mapping[str, LuaValue] | Mapping[int, LuaValue] | None"
)
LuaTable: TypeAlias = "Mapping[str, LuaValue] | Mapping[int, LuaValue]"

_ESCAPES: Final = {'"': '\\"', "\\": "\\\\", "\n": "\\n"}
_KEYWORDS: Final = frozenset(
    (
        "and", "break", "do", "else", "elseif", "end", "false", "for", "function", "goto", "if",
        "in", "local", "nil", "not", "or", "repeat", "return", "then", "true", "until", "while",
    )
)  # fmt: skip
_WIDTH: Final = 100


def lua(value: LuaValue) -> str:
    """Return a value as a Lua expression on one line.

    Args:
        value: None becomes nil, sequences arrays, mappings tables.

    Raises:
        ValueError: a string with characters that are not printable ASCII.
    """
    if value is None:
        return "nil"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value) if abs(value) < 1 << 16 else hex(value)
    if isinstance(value, str):
        return _string(value)
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_key(key)}={lua(item)}" for key, item in value.items()) + "}"
    return "{" + ", ".join(lua(item) for item in value) + "}"


def lua_table(name: str, value: LuaTable) -> str:
    """Return the assignment of a table to `name`, an entry a line and long ones folded."""
    lines = [f"{name} = {{"]
    for key, item in value.items():
        entry = f"  {_key(key)} = {lua(item)},"
        if len(entry) > _WIDTH and isinstance(item, Sequence) and not isinstance(item, str):
            lines.append(f"  {_key(key)} = {{")
            lines += [f"    {lua(part)}," for part in item]
            lines.append("  },")
        else:
            lines.append(entry)
    return "\n".join([*lines, "}"]) + "\n"


def _key(key: str | int) -> str:
    if isinstance(key, int):
        return f"[{key}]" if key < 0 else f"[{lua(key)}]"
    return key if key.isidentifier() and key not in _KEYWORDS else f"[{_string(key)}]"


def _string(text: str) -> str:
    if not all(" " <= letter <= "~" or letter == "\n" for letter in text):
        raise ValueError(f"{text!r} has characters that are not printable ASCII")
    return '"' + "".join(_ESCAPES.get(letter, letter) for letter in text) + '"'
