# SPDX-License-Identifier: Apache-2.0
"""Derives fast classes from the storage units of a layout.

Per layout three things are generated, once and on first use: a slotted record class
(`unpack_from`, `pack`, `pack_into`), a function that builds bytes straight from keyword arguments,
and a view class whose properties read and write a buffer in place. All of them check every value
against its field's width; none of them looks at construct again.
"""

from __future__ import annotations

import keyword
import struct
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from i2o.errors import LocalFrameError, RemoteFrameError
from i2o.frames.construct_tree import BitField, StorageUnit


class Record:
    """Base of the derived record classes: one attribute per field of the layout.

    Records compare by value. `Layout.new` makes one from keyword arguments, `unpack_from` from
    bytes; the bare class call leaves every field unset (there is no `__init__`: that is what
    keeps unpacking fast).
    """

    __slots__ = ()
    _fields: tuple[str, ...] = ()
    SIZE = 0

    if TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any: ...
        def __setattr__(self, name: str, value: Any) -> None: ...

        @staticmethod
        def unpack_from(buffer: Any, offset: int = 0) -> Record:
            """Read one record; raises RemoteFrameError when the buffer is too short."""

        def pack(self) -> bytes:
            """Return the bytes; raises LocalFrameError naming a value that does not fit."""

        def pack_into(self, buffer: Any, offset: int = 0) -> None:
            """Write the bytes into a buffer; raises LocalFrameError."""

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        return all(getattr(self, name) == getattr(other, name) for name in self._fields)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        shown = (
            f"{name}={value:#x}" if isinstance(value, int) else f"{name}={value!r}"
            for name in self._fields
            if (value := getattr(self, name))
        )
        return f"{type(self).__name__}({', '.join(shown)})"


class View:
    """Base of the derived view classes: the fields of a layout, in place in a buffer."""

    __slots__ = ("_buffer", "_offset")
    SIZE = 0

    if TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any: ...
        def __setattr__(self, name: str, value: Any) -> None: ...

    def __init__(self, buffer: Any, offset: int = 0) -> None:
        if offset < 0 or len(buffer) - offset < self.SIZE:
            raise RemoteFrameError(
                f"{type(self).__name__}: needs {self.SIZE} bytes, the buffer has "
                f"{len(buffer) - offset} from offset {offset}"
            )
        self._buffer = buffer
        self._offset = offset


def attribute_name(path: Sequence[str]) -> str:
    """Return the Python attribute for a field path: joined by `_`, keywords get a `_` behind."""
    name = "_".join(path)
    if keyword.iskeyword(name):
        return name + "_"
    return name if name[0].isalpha() else "_" + name


class Derived(NamedTuple):
    """What `derive_record` generates: the record class, and two functions of keyword arguments."""

    record: type[Record]
    new: Callable[..., Record]
    build: Callable[..., bytes]


def derive_record(name: str, units: Sequence[StorageUnit], defaults: dict[str, int]) -> Derived:
    """Generate the record class of a layout and the functions that make records and bytes.

    Args:
        name: the class name, for messages.
        units: what `storage_units` returned.
        defaults: values of fields that are not zero by default, by attribute name.

    Returns:
        The record class; `new`, which makes a record, and `build`, which packs bytes without
        making one: both take one keyword argument per field.
    """
    packer = struct.Struct("<" + "".join(unit.format for unit in units))
    names = tuple(attribute_name(field.path) for unit in units for field in unit.fields)
    widths = {
        attribute_name(field.path): (field.width, unit.is_signed, unit.is_bytes)
        for unit in units
        for field in unit.fields
    }

    def refuse(values: dict[str, Any]) -> LocalFrameError:
        return _range_error(name, widths, values)

    def too_short(buffer: Any, offset: int) -> RemoteFrameError:
        return RemoteFrameError(
            f"{name}: needs {packer.size} bytes, the buffer has {len(buffer) - offset} "
            f"from offset {offset}"
        )

    record: Any = type(name, (Record,), {"__slots__": names, "_fields": names, "SIZE": packer.size})
    parameters = ", ".join(f"{n}={_default(n, widths, defaults)}" for n in names)
    lines = [f"def new(*, {parameters}):", "    self = record()"]
    lines += [f"    self.{n} = {n}" for n in names]
    lines += ["    return self"]
    lines += ["def unpack_from(buffer, offset=0):", "    self = record()", "    try:"]
    lines += [f"        {_targets(units)} = unpack(buffer, offset)"]
    lines += ["    except struct_error:"]
    lines += ["        raise too_short(buffer, offset) from None"]
    for index, unit in enumerate(units):
        if unit.fields and not _is_whole(unit):
            lines += [
                f"    self.{attribute_name(f.path)} = {_bits(f, unit, index)}" for f in unit.fields
            ]
    lines += ["    return self"]
    own_values = "{n: getattr(self, n) for n in fields}"
    lines += ["def pack(self):", *_pack_body(units, "self.", "pack_bytes(", own_values)]
    lines += ["def pack_into(self, buffer, offset=0):"]
    lines += _pack_body(units, "self.", "pack_buffer(buffer, offset, ", own_values)
    lines += [f"def build(*, {parameters}):"]
    given = "{" + ", ".join(f"{n!r}: {n}" for n in names) + "}"
    lines += _pack_body(units, "", "pack_bytes(", given)

    space: dict[str, Any] = {
        "record": record,
        "fields": names,
        "unpack": packer.unpack_from,
        "pack_bytes": packer.pack,
        "pack_buffer": packer.pack_into,
        "struct_error": struct.error,
        "refuse": refuse,
        "too_short": too_short,
    }
    exec(compile("\n".join(lines), f"<codec of {name}>", "exec"), space)
    record.unpack_from = staticmethod(space["unpack_from"])
    record.pack, record.pack_into = space["pack"], space["pack_into"]
    return Derived(record, space["new"], space["build"])


def derive_view(name: str, units: Sequence[StorageUnit]) -> type[View]:
    """Generate the view class of a layout: a property per field, checked when written."""
    size = sum(unit.size for unit in units)
    body: dict[str, Any] = {"__slots__": (), "SIZE": size}
    for unit in units:
        for field in unit.fields:
            body[attribute_name(field.path)] = _view_property(name, unit, field)
    return type(f"{name}View", (View,), body)


def _is_whole(unit: StorageUnit) -> bool:
    return len(unit.fields) == 1 and unit.fields[0].width == 8 * unit.size


def _targets(units: Sequence[StorageUnit]) -> str:
    """Assignment targets of one unpack: attributes, or locals for words of bit fields."""
    return "".join(
        f"self.{attribute_name(unit.fields[0].path)}, " if _is_whole(unit) else f"u{index}, "
        for index, unit in enumerate(units)
        if unit.fields
    )


def _bits(field: BitField, unit: StorageUnit, index: int) -> str:
    shifted = f"u{index} >> {field.shift}" if field.shift else f"u{index}"
    if field.shift + field.width == 8 * unit.size:
        return shifted
    return f"{shifted} & {(1 << field.width) - 1:#x}"


def _pack_body(units: Sequence[StorageUnit], prefix: str, call: str, values: str) -> list[str]:
    """Statements that check and pack; struct itself checks the whole-number units."""
    lines: list[str] = []
    checks: dict[int, list[str]] = {}
    byte_checks: list[str] = []
    items: list[str] = []
    for unit in units:
        if not unit.fields:  # padding: struct writes the zeros
            continue
        if unit.is_bytes:
            source = prefix + attribute_name(unit.fields[0].path)
            byte_checks.append(f"len({source}) != {unit.size}")
            items.append(source)
        elif _is_whole(unit):
            items.append(prefix + attribute_name(unit.fields[0].path))
        else:
            parts = []
            for field in unit.fields:
                source = prefix + attribute_name(field.path)
                checks.setdefault(field.width, []).append(source)
                parts.append(f"{source} << {field.shift}" if field.shift else source)
            items.append(" | ".join(parts))
    conditions = [
        f"({' | '.join(sources)}) >> {width}" if len(sources) > 1 else f"{sources[0]} >> {width}"
        for width, sources in checks.items()
    ] + byte_checks
    lines += ["    try:"]
    if conditions:
        lines += [f"        if {' or '.join(conditions)}:", f"            raise refuse({values})"]
    lines += [f"        return {call}{', '.join(items)})"]
    lines += ["    except (struct_error, TypeError):", f"        raise refuse({values}) from None"]
    return lines


def _default(name: str, widths: dict[str, tuple[int, bool, bool]], defaults: dict[str, int]) -> str:
    width, _, is_bytes = widths[name]
    return repr(bytes(width // 8)) if is_bytes else repr(int(defaults.get(name, 0)))


def _range_error(
    name: str, widths: dict[str, tuple[int, bool, bool]], values: dict[str, Any]
) -> LocalFrameError:
    """Find the value that does not fit and say what would."""
    for field, value in values.items():
        width, signed, is_bytes = widths[field]
        if is_bytes:
            if not isinstance(value, bytes | bytearray) or len(value) != width // 8:
                return LocalFrameError(
                    f"{name}.{field}: expected {width // 8} bytes, got {value!r}"
                )
            continue
        low, high = (-(1 << width - 1), (1 << width - 1) - 1) if signed else (0, (1 << width) - 1)
        if not isinstance(value, int) or not low <= value <= high:
            return LocalFrameError(
                f"{name}.{field}: {value!r} is not an integer from {low} to {high:#x}"
            )
    return LocalFrameError(f"{name}: the buffer is read-only or too short for the record")


def _view_property(name: str, unit: StorageUnit, field: BitField) -> property:
    item = struct.Struct("<" + unit.format)
    read, write, byte = item.unpack_from, item.pack_into, unit.byte
    shift, mask = field.shift, (1 << field.width) - 1
    widths = {attribute_name(field.path): (field.width, unit.is_signed, unit.is_bytes)}
    attribute = attribute_name(field.path)

    def refuse(value: object) -> LocalFrameError:
        return _range_error(name, widths, {attribute: value})

    def get_whole(self: View) -> Any:
        return read(self._buffer, self._offset + byte)[0]

    def set_whole(self: View, value: Any) -> None:
        try:
            if unit.is_bytes and len(value) != unit.size:
                raise refuse(value)
            write(self._buffer, self._offset + byte, value)
        except (struct.error, TypeError):
            raise refuse(value) from None

    def get_bits(self: View) -> int:
        return int(read(self._buffer, self._offset + byte)[0]) >> shift & mask

    def set_bits(self: View, value: int) -> None:
        if not isinstance(value, int) or value >> field.width:
            raise refuse(value)
        place = self._offset + byte
        word = read(self._buffer, place)[0]
        try:
            write(self._buffer, place, word & ~(mask << shift) | value << shift)
        except TypeError:
            raise refuse(value) from None

    if field.width == 8 * unit.size:
        return property(get_whole, set_whole)
    return property(get_bits, set_bits)
