# SPDX-License-Identifier: Apache-2.0
"""Declares layouts: one construct tree each, plus what construct has no place for.

A `Layout` is written once, in the module of its chapter, and everything else (record and view
classes, field table, construct oracle) is derived from it on first use.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import IntEnum, IntFlag
from functools import cached_property
from typing import Any, Literal, TypeAlias

from construct import BitsInteger, BitStruct, ByteSwapped, Struct

from i2o.errors import LocalFrameError
from i2o.frames.codec import (
    Derived,
    Record,
    View,
    attribute_name,
    derive_record,
    derive_view,
)
from i2o.frames.construct_tree import AnyConstruct, StorageUnit, storage_units, struct_parts

Direction = Literal["request", "reply"]
Part: TypeAlias = AnyConstruct
"""A named piece of a layout, as in `"req_status" / Int8ul`."""
ValueNames: TypeAlias = type[IntEnum] | type[IntFlag]
"""The class that names the values of a field."""

_CAPITALS = {"tid", "lct", "hrt", "iop", "mfa", "cdb", "io", "id", "scb", "sgl", "trl", "iop1",
             "iop2", "ddm", "mpb", "nv", "sn", "os", "bios", "lba", "sdu", "crc", "i2o", "pci",
             "mca", "eisa", "isa", "csn", "rwv", "fca", "nic"}  # fmt: skip

_SPELLINGS = {
    "current_inbound_msg_frames": "CurrentInboundMFrames",
    "ddm_tid": "DdmTID",
    "failing_iop_id": "FailingIOP_ID",
    "host_unit_id1": "HostUnitID1",
    "host_unit_id2": "HostUnitID2",
    "i2o_vendor_id": "I2oVendorID",
    "i2o_version": "I2oVersion",
    "inbound_msg_frame_size": "InboundMFrameSize",
    "iop1_inbound_msg_frame_size": "IOP1InboundMFrameSize",
    "iop2_inbound_msg_frame_size": "IOP2InboundMFrameSize",
    "iop_capabilities": "IopCapabilities",
    "iop_flags": "IopFlags",
    "iop_id": "IOP_ID",
    "iop_id1": "IOP_ID1",
    "iop_id2": "IOP_ID2",
    "iop_state": "IopState",
    "lct_ver": "LctVer",
    "max_inbound_msg_frames": "MaxInboundMFrames",
    "max_outbound_msg_frames": "MaxOutboundMFrames",
    "outbound_msg_frame_size": "OutboundMFrameSize",
    "sgl_attribute_flags": "SglAttributeFlags",
    "trl_count": "TrlCount",
    "trl_element_size": "TrlElementSize",
    "trl_flags": "TrlFlags",
}
"""Names that the headers spell by no rule."""


@dataclass(frozen=True, slots=True)
class Field:
    """One field of a layout, as the dump tool, filters and documentation see it.

    Attributes:
        path: dotted name, as in `hrt_entry.adapter_id`.
        attribute: the same as a Python attribute of records and views.
        byte: offset of the byte that holds the field's lowest bit.
        bit: that bit's number within the byte.
        width_bits: the field's width.
        kind: `uint`, `sint` or `bytes`.
        spec_name: the spelling of the specification's headers.
        enum: names for the values, if they have any.
    """

    path: str
    attribute: str
    byte: int
    bit: int
    width_bits: int
    kind: Literal["uint", "sint", "bytes"]
    spec_name: str
    enum: ValueNames | None


class Layout:
    """One message, structure or parameter group.

    Args:
        name: snake_case name, unique within its chapter.
        construct: a `Struct` of fixed-size parts.
        chapter: the class the layout belongs to (`utility`, `bsa`, …).
        spec: spec spelling of fields whose name is not the camel case of ours.
        enums: value names by field path.
        reference: where the layout is documented.
        note: one sentence on what a reader must know.
        defaults: values of fields that a new record does not start with zero in.
    """

    def __init__(
        self,
        name: str,
        construct: AnyConstruct,
        *,
        chapter: str,
        spec: Mapping[str, str] | None = None,
        enums: Mapping[str, ValueNames] | None = None,
        reference: str = "",
        note: str = "",
        defaults: Mapping[str, int] | None = None,
    ) -> None:
        self.name, self.chapter, self.construct = name, chapter, construct
        self.reference, self.note = reference, note
        self._spec, self._enums = dict(spec or {}), dict(enums or {})
        self._defaults = dict(defaults or {})

    @property
    def qualified_name(self) -> str:
        """`chapter.name`: unique among all layouts of one kind."""
        return f"{self.chapter}.{self.name}"

    @property
    def parts(self) -> tuple[AnyConstruct, ...]:
        """The named parts of the struct, to build a larger one of."""
        return struct_parts(self.construct)

    @cached_property
    def units(self) -> tuple[StorageUnit, ...]:
        """The storage units, in ascending order."""
        return storage_units(self.construct)

    @cached_property
    def size(self) -> int:
        """Bytes of the fixed part."""
        return sum(unit.size for unit in self.units)

    @cached_property
    def fields(self) -> tuple[Field, ...]:
        """The field table, in ascending order."""
        table = []
        for unit in self.units:
            kind: Literal["uint", "sint", "bytes"] = (
                "bytes" if unit.is_bytes else "sint" if unit.is_signed else "uint"
            )
            for part in unit.fields:
                path = ".".join(part.path)
                table.append(
                    Field(
                        path=path,
                        attribute=attribute_name(part.path),
                        byte=unit.byte + part.shift // 8,
                        bit=part.shift % 8,
                        width_bits=part.width,
                        kind=kind,
                        spec_name=self._spec.get(path) or spec_spelling(path),
                        enum=self._enums.get(path),
                    )
                )
        return tuple(table)

    @cached_property
    def _derived(self) -> Derived:
        class_name = "".join(part.capitalize() for part in self.name.split("_"))
        return derive_record(class_name, self.units, self._defaults)

    @cached_property
    def record(self) -> type[Record]:
        """The derived slotted class."""
        return self._derived.record

    @cached_property
    def new(self) -> Callable[..., Record]:
        """A function of one keyword argument per field that returns a record.

        Raises TypeError for an unknown field; values are checked when the record is packed.
        """
        return self._derived.new

    @cached_property
    def build(self) -> Callable[..., bytes]:
        """A function of one keyword argument per field that returns the packed bytes.

        Raises LocalFrameError for a value that does not fit, TypeError for an unknown field.
        """
        return self._derived.build

    @cached_property
    def view_class(self) -> type[View]:
        """The derived view class."""
        return derive_view(self.record.__name__, self.units)

    def unpack_from(self, buffer: Any, offset: int = 0) -> Record:
        """Read one record.

        Raises:
            RemoteFrameError: the buffer is too short.
        """
        return self.record.unpack_from(buffer, offset)

    def view(self, buffer: Any, offset: int = 0) -> View:
        """Return the fields in place: reading and writing them touches the buffer."""
        return self.view_class(buffer, offset)

    def parse_with_construct(self, data: bytes) -> dict[str, int | bytes]:
        """Parse by interpreted construct (slow: the oracle). Keys are field paths."""
        parsed = self.construct.parse(data)
        result: dict[str, int | bytes] = {}
        for unit in self.units:
            value = parsed
            for name in unit.construct_path:
                value = value[name]
            for part in unit.fields:
                result[".".join(part.path)] = value[part.path[-1]] if unit.is_bit_word else value
        return result

    def build_with_construct(self, values: Mapping[str, int | bytes]) -> bytes:
        """Build by interpreted construct from a mapping of field paths."""
        tree: dict[str, Any] = {}
        for unit in self.units:
            if not unit.fields:
                continue
            place = tree
            for name in unit.construct_path[:-1]:
                place = place.setdefault(name, {})
            last = unit.construct_path[-1]
            if unit.is_bit_word:
                place[last] = {part.path[-1]: values[".".join(part.path)] for part in unit.fields}
            else:
                place[last] = values[".".join(unit.fields[0].path)]
        built: bytes = self.construct.build(tree)
        return built

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.qualified_name}, {self.size} bytes>"


class MessageLayout(Layout):
    """The fixed part of one message: what every layout has, and the facts of its header.

    Args:
        function: the function code, or None for a reply that serves many functions.
        direction: `request` or `reply`.
        sgl_word_offset: word at which the scatter/gather list starts, 0 for none.
    """

    def __init__(
        self,
        name: str,
        construct: AnyConstruct,
        *,
        function: int | None,
        direction: Direction,
        sgl_word_offset: int = 0,
        **metadata: Any,
    ) -> None:
        super().__init__(name, construct, **metadata)
        self.function = None if function is None else int(function)
        self.direction = direction
        self.sgl_word_offset = sgl_word_offset

    @property
    def qualified_name(self) -> str:
        """`chapter.name.direction`: some functions have one layout each way."""
        return f"{self.chapter}.{self.name}.{self.direction}"


class ParameterGroup(Layout):
    """One parameter group, byte packed. Fields are numbered in the order of the field table.

    Args:
        number: the group number.
        is_table: rows of these fields, the first one the key, instead of one set of them.
    """

    def __init__(
        self, name: str, construct: AnyConstruct, *, number: int, is_table: bool, **metadata: Any
    ) -> None:
        super().__init__(name, construct, **metadata)
        self.number, self.is_table = number, is_table


def spec_spelling(path: str) -> str:
    """Turn `hrt_entry.adapter_id` into the spec's way of writing it, `HRTEntry.AdapterID`."""
    return ".".join(
        _SPELLINGS.get(part)
        or "".join(w.upper() if w in _CAPITALS else w.capitalize() for w in part.split("_"))
        for part in path.split(".")
    )


def word(name: str, *fields: tuple[str, int]) -> Part:
    """Declare a little-endian word of bit fields, lowest bits first.

    The word's own name is construct's alone: it adds no level to the field paths.

    Args:
        name: what construct calls the word.
        fields: (field name, bits) from bit 0 upwards; together 8, 16, 32 or 64 bits.
    """
    bits = sum(width for _, width in fields)
    if bits not in (8, 16, 32, 64):
        raise LocalFrameError(f"word {name}: {bits} bits are no storage unit")
    struct = BitStruct(*(field / BitsInteger(width) for field, width in reversed(fields)))
    return name / (ByteSwapped(struct) if bits > 8 else struct)


def structure(name: str, *parts: AnyConstruct, chapter: str, **metadata: Any) -> Layout:
    """Declare a structure that is not a message. See `Layout` for the metadata."""
    return Layout(name, Struct(*parts), chapter=chapter, **metadata)


def group(
    name: str, number: int, *parts: AnyConstruct, chapter: str, table: bool = False, **metadata: Any
) -> ParameterGroup:
    """Declare a parameter group. See `ParameterGroup` and `Layout` for the metadata."""
    return ParameterGroup(
        name, Struct(*parts), number=number, is_table=table, chapter=chapter, **metadata
    )
