# SPDX-License-Identifier: Apache-2.0
"""Reads construct's own objects: the one module that knows which attributes they have.

A layout is a `Struct` of fixed-size parts. `storage_units` flattens it into the pieces that one
`struct` format character covers, each holding one field, the bit fields of one word, or padding.
Anything else (lambdas, `Switch`, big-endian numbers, variable sizes) raises: a layout that cannot
be derived must be noticed when it is declared.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

from construct import core
from construct.lib import bytes2bits, swapbytes

AnyConstruct: TypeAlias = "core.Construct[Any, Any]"

_WORD_FORMATS = {1: "B", 2: "H", 4: "I", 8: "Q"}
_NUMBER_FORMATS = {"B", "b", "H", "h", "L", "l", "I", "i", "Q", "q"}


@dataclass(frozen=True, slots=True)
class BitField:
    """One field inside a storage unit: `width` bits, `shift` bits above the unit's lowest."""

    path: tuple[str, ...]
    shift: int
    width: int


@dataclass(frozen=True, slots=True)
class StorageUnit:
    """What one `struct` format item reads: a number with one or more fields, bytes, or padding.

    Attributes:
        format: the `struct` format, without the byte order.
        byte: offset from the start of the layout.
        size: bytes.
        construct_path: names that lead to the value inside construct's own result.
        fields: one entry for a plain field, several for a word of bit fields, none for padding.
        is_bit_word: construct sees a nested container of bit fields here.
    """

    format: str
    byte: int
    size: int
    construct_path: tuple[str, ...]
    fields: tuple[BitField, ...]
    is_bit_word: bool

    @property
    def is_bytes(self) -> bool:
        """Whether the unit is a byte string."""
        return self.format.endswith("s")

    @property
    def is_signed(self) -> bool:
        """Whether the unit is a signed number."""
        return self.format in ("b", "h", "i", "q")


def storage_units(struct: AnyConstruct) -> tuple[StorageUnit, ...]:
    """Flatten a construct declaration.

    Args:
        struct: a `Struct` built of fixed-size parts.

    Returns:
        The units in ascending byte order, without gaps.

    Raises:
        TypeError: the declaration uses a construct that no codec can be derived from.
    """
    units: list[StorageUnit] = []
    _walk(struct, (), (), 0, units)
    return tuple(units)


def struct_parts(struct: AnyConstruct) -> tuple[AnyConstruct, ...]:
    """Return the parts of a `Struct`, names included; raises TypeError for anything else."""
    if type(struct) is not core.Struct:
        raise TypeError(f"only a Struct has parts: {struct!r}")
    return tuple(struct.subcons)


def _walk(
    node: AnyConstruct,
    path: tuple[str, ...],
    construct_path: tuple[str, ...],
    byte: int,
    units: list[StorageUnit],
) -> int:
    """Append the units of `node`, which starts at `byte`; return the offset behind it."""
    if isinstance(node, core.Renamed):
        name = str(node.name)
        bits = _bits_of(node.subcon)
        if bits is not None:  # a word of bit fields adds no level to the names
            size = node.subcon.sizeof()
            return _walk_bit_word(bits, size, path, (*construct_path, name), byte, units)
        return _walk(node.subcon, (*path, name), (*construct_path, name), byte, units)
    if type(node) is core.Struct:
        for part in node.subcons:
            if not isinstance(part, core.Renamed | core.Padded):
                raise TypeError(f"{'.'.join(path) or 'layout'}: every part needs a name: {part!r}")
            byte = _walk(part, path, construct_path, byte, units)
        return byte
    if type(node) is core.FormatField:
        order, kind = node.fmtstr[0], node.fmtstr[1:]
        if kind not in _NUMBER_FORMATS or (order != "<" and node.length > 1):
            raise TypeError(f"{'.'.join(path)}: not a little-endian integer: {node.fmtstr!r}")
        kind = kind.replace("L", "I").replace("l", "i")
        field = BitField(path, 0, 8 * node.length)
        units.append(StorageUnit(kind, byte, node.length, construct_path, (field,), False))
        return byte + int(node.length)
    if type(node) is core.Bytes and isinstance(node.length, int):
        field = BitField(path, 0, 8 * node.length)
        units.append(
            StorageUnit(f"{node.length}s", byte, node.length, construct_path, (field,), False)
        )
        return byte + node.length
    if type(node) is core.Padded and node.subcon is core.Pass and isinstance(node.length, int):
        if node.pattern != b"\0":
            raise TypeError(f"{'.'.join(path) or 'layout'}: padding must be zero: {node!r}")
        units.append(StorageUnit(f"{node.length}x", byte, node.length, construct_path, (), False))
        return byte + node.length
    raise TypeError(f"{'.'.join(path) or 'layout'}: no codec can be derived from {node!r}")


def _bits_of(node: AnyConstruct) -> core.Struct | None:
    """Return the `Struct` of bits inside `ByteSwapped(BitStruct(…))` or a one-byte `BitStruct`."""
    if type(node) is core.Transformed and node.decodefunc is swapbytes:
        node = node.subcon
    elif type(node) is core.Transformed and node.decodeamount != 1:
        return None
    if type(node) is core.Transformed and node.decodefunc is bytes2bits:
        return node.subcon if type(node.subcon) is core.Struct else None
    return None


def _walk_bit_word(
    bits: core.Struct,
    size: int,
    path: tuple[str, ...],
    construct_path: tuple[str, ...],
    byte: int,
    units: list[StorageUnit],
) -> int:
    if size not in _WORD_FORMATS:
        raise TypeError(f"{'.'.join(construct_path)}: a bit word must have 1, 2, 4 or 8 bytes")
    shift = 8 * size
    fields: list[BitField] = []
    for part in bits.subcons:  # construct lists them from the most significant bit down
        inner = part.subcon if isinstance(part, core.Renamed) else None
        if (
            type(inner) is not core.BitsInteger
            or inner.signed
            or inner.swapped
            or not isinstance(inner.length, int)
        ):
            raise TypeError(
                f"{'.'.join(construct_path)}: only named, unsigned BitsInteger: {part!r}"
            )
        width = inner.length
        shift -= width
        fields.append(BitField((*path, str(part.name)), shift, width))
    units.append(
        StorageUnit(_WORD_FORMATS[size], byte, size, construct_path, tuple(reversed(fields)), True)
    )
    return byte + size
