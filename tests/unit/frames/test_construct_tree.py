# SPDX-License-Identifier: Apache-2.0
"""What the codec reads out of construct's objects, and what it refuses to read.

The first tests pin the attributes of construct that `construct_tree` reaches into, one each: when
a new construct renames one, the test says which.
"""

from __future__ import annotations

from typing import Any

import pytest
from construct import (
    Array,
    BitsInteger,
    BitStruct,
    Bitwise,
    Byte,
    Bytes,
    ByteSwapped,
    Flag,
    Float32l,
    GreedyBytes,
    Int8sl,
    Int8ub,
    Int8ul,
    Int16ub,
    Int16ul,
    Int24ul,
    Int32ul,
    Int64sl,
    Padded,
    Padding,
    Struct,
    Switch,
    VarInt,
    core,
    this,
)
from construct.lib import bytes2bits, swapbytes

from i2o.frames.construct_tree import BitField, StorageUnit, storage_units, struct_parts
from i2o.frames.layout import structure

THREE_BYTES = BitStruct("a" / BitsInteger(24))


def test_renamed_has_a_name_and_a_subcon() -> None:
    part = "size" / Int16ul
    assert type(part) is core.Renamed
    assert (part.name, part.subcon) == ("size", Int16ul)


def test_struct_has_subcons_in_order() -> None:
    struct = Struct("a" / Int16ul, "b" / Int32ul)
    assert type(struct) is core.Struct
    assert [part.name for part in struct.subcons] == ["a", "b"]


def test_format_field_has_a_format_and_a_length() -> None:
    assert type(Int32ul) is core.FormatField
    assert (Int32ul.fmtstr, Int32ul.length) == ("<L", 4)
    assert (Int8ub.fmtstr, Int8ub.length) == (">B", 1)


def test_bytes_has_a_length() -> None:
    assert type(Bytes(8)) is core.Bytes
    assert Bytes(8).length == 8


def test_padding_is_padded_pass() -> None:
    padding = Padding(3)
    assert type(padding) is core.Padded
    assert (padding.subcon, padding.length, padding.pattern) == (core.Pass, 3, b"\0")


def test_bit_struct_is_a_transformed_struct_of_bits() -> None:
    bits = BitStruct("a" / BitsInteger(8))
    assert type(bits) is core.Transformed
    assert bits.decodefunc is bytes2bits
    assert type(bits.subcon) is core.Struct


def test_byte_swapped_is_transformed_by_swapbytes() -> None:
    swapped = ByteSwapped(BitStruct("a" / BitsInteger(16)))
    assert type(swapped) is core.Transformed
    assert swapped.decodefunc is swapbytes
    assert type(swapped.subcon) is core.Transformed


def test_transformed_has_the_amount_it_decodes() -> None:
    assert BitStruct("a" / BitsInteger(8)).decodeamount == 1
    assert ByteSwapped(BitStruct("a" / BitsInteger(16))).decodeamount == 2


def test_bits_integer_has_length_signed_and_swapped() -> None:
    bits = BitsInteger(5)
    assert type(bits) is core.BitsInteger
    assert (bits.length, bits.signed, bits.swapped) == (5, False, False)


def test_units_of_a_declaration() -> None:
    struct = Struct(
        "plain" / Int16ul,
        "signed" / Int64sl,
        "raw" / Bytes(3),
        "flags" / BitStruct("high" / BitsInteger(3), "low" / BitsInteger(5)),
        "inner"
        / Struct(
            "byte" / Int8sl,
            "w" / ByteSwapped(BitStruct("b" / BitsInteger(4), "a" / BitsInteger(12))),
        ),
        Padding(2),
        "behind" / Byte,
    )
    assert storage_units(struct) == (
        StorageUnit("H", 0, 2, ("plain",), (BitField(("plain",), 0, 16),), False),
        StorageUnit("q", 2, 8, ("signed",), (BitField(("signed",), 0, 64),), False),
        StorageUnit("3s", 10, 3, ("raw",), (BitField(("raw",), 0, 24),), False),
        StorageUnit(
            "B", 13, 1, ("flags",), (BitField(("low",), 0, 5), BitField(("high",), 5, 3)), True
        ),
        StorageUnit("b", 14, 1, ("inner", "byte"), (BitField(("inner", "byte"), 0, 8),), False),
        StorageUnit(
            "H",
            15,
            2,
            ("inner", "w"),
            (BitField(("inner", "a"), 0, 12), BitField(("inner", "b"), 12, 4)),
            True,
        ),
        StorageUnit("2x", 17, 2, (), (), False),
        StorageUnit("B", 19, 1, ("behind",), (BitField(("behind",), 0, 8),), False),
    )


def test_units_know_what_they_hold() -> None:
    raw, signed, plain = storage_units(
        Struct("raw" / Bytes(3), "signed" / Int8sl, "plain" / Int16ul)
    )
    assert (raw.is_bytes, signed.is_bytes, plain.is_bytes) == (True, False, False)
    assert (raw.is_signed, signed.is_signed, plain.is_signed) == (False, True, False)


def test_one_byte_has_no_byte_order() -> None:
    assert storage_units(Struct("a" / Byte))[0].format == "B"


@pytest.mark.parametrize(
    ("part", "why"),
    [
        ("a" / Int16ub, "not a little-endian integer"),
        ("a" / Float32l, "not a little-endian integer"),
        ("a" / Int24ul, "no codec can be derived"),
        ("a" / VarInt, "no codec can be derived"),
        ("a" / GreedyBytes, "no codec can be derived"),
        ("a" / Bytes(this.n), "no codec can be derived"),
        ("a" / Array(2, Int16ul), "no codec can be derived"),
        ("a" / Switch(1, {1: Int16ul}), "no codec can be derived"),
        ("a" / Flag, "no codec can be derived"),
        ("a" / Padded(4, Int16ul), "no codec can be derived"),
        ("a" / Padding(this.n), "no codec can be derived"),
        (Padding(4, b"x"), "padding must be zero"),
        (Int16ul, "every part needs a name"),
        (Struct("a" / Int16ul), "every part needs a name"),
        ("w" / BitStruct("a" / BitsInteger(16)), "no codec can be derived"),
        ("w" / ByteSwapped(Int16ub), "no codec can be derived"),
        ("w" / ByteSwapped(THREE_BYTES), "a bit word must have"),
        ("w" / Bitwise(BitsInteger(8)), "no codec can be derived"),
        ("w" / BitStruct("a" / BitsInteger(8, signed=True)), "only named, unsigned"),
        ("w" / BitStruct("a" / BitsInteger(8, swapped=True)), "only named, unsigned"),
        ("w" / BitStruct("a" / Flag, "b" / BitsInteger(7)), "only named, unsigned"),
        ("w" / BitStruct(BitsInteger(8)), "only named, unsigned"),
    ],
    ids=str,
)
def test_other_constructs_are_refused(part: Any, why: str) -> None:
    with pytest.raises(TypeError, match=why):
        storage_units(Struct(part))


def test_a_part_must_be_inside_a_struct() -> None:
    with pytest.raises(TypeError, match="layout: no codec"):
        storage_units(core.Pass)


def test_the_refusal_names_the_field() -> None:
    with pytest.raises(TypeError, match=r"^outer\.inner: not a little-endian"):
        storage_units(Struct("outer" / Struct("inner" / Int16ub)))


def test_parts_build_a_larger_struct():
    first = structure("first", "a" / Int8ul, "b" / Int16ul, chapter="test")
    both = structure("both", *first.parts, "c" / Int32ul, chapter="test")
    assert [field.path for field in both.fields] == ["a", "b", "c"]
    assert both.size == 7
    with pytest.raises(TypeError, match="only a Struct has parts"):
        struct_parts(Int8ul)
