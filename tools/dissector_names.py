# SPDX-License-Identifier: Apache-2.0
"""The names that the dissector has besides those of layouts: lists, commands, sense data, tables.

They are the names of leaves that `i2o.decode.frame` documents. A leaf that is called like one of
our own names, or like a field of another kind, has the name of its group in front.
"""

from __future__ import annotations

from typing import Final

from i2o.decode import scsi
from i2o.decode.filter_fields import FILTER_ALIASES
from i2o.decode.names import FieldName, Kind, field_names, name_of
from i2o.frames.layout import Field, Layout

_NUMBERS: Final = {
    # scatter/gather lists
    "sgl.flags": 8,
    "count": 24,
    "list_address": 64,
    "sgl.contexts": 64,
    "sgl.length": 32,
    "sgl_attribute_flags": 16,
    "page_frame_size": 32,
    # SCSI
    "opcode": 8,
    "control": 8,
    "response_code": 7,
    "valid": 1,
    "filemark": 1,
    "end_of_medium": 1,
    "incorrect_length": 1,
    "sense_key": 4,
    "information": 32,
    "additional_length": 8,
    "command_specific": 32,
    "asc": 8,
    "ascq": 8,
    "field_replaceable_unit": 8,
    "sense_key_specific": 24,
    "descriptors.type": 8,
    "descriptors.length": 8,
    "peripheral_qualifier": 3,
    "device_type": 8,
    "removable": 1,
    "version": 8,
    "response_data_format": 4,
    "command_queueing": 1,
    "page_code": 8,
    "page_length": 16,
    "pages": 8,
    "code_set": 4,
    "designator_type": 4,
    "association": 2,
    "maximum_compare_and_write_length": 8,
    "optimal_transfer_length_granularity": 16,
    "maximum_transfer_length": 32,
    "optimal_transfer_length": 32,
    "maximum_prefetch_length": 32,
    "maximum_unmap_lba_count": 32,
    "maximum_unmap_block_descriptor_count": 32,
    "medium_rotation_rate": 16,
    "last_lba": 64,
    "block_length": 32,
    "mode_data_length": 16,
    "medium_type": 8,
    "write_protect": 1,
    "dpo_fua": 1,
    "block_descriptor_length": 16,
    "density_code": 8,
    "number_of_blocks": 32,
    "lun_list_length": 32,
    # replies
    "entries": 32,
    "hba_status": 8,
    "scsi_status": 8,
    "preserved.index": 32,
    "preserved.mfa": 64,
    "event_words": 32,
    "words": 32,
    # parameters
    "operation": 16,
    "group_number": 16,
    "field_count": 16,
    "field_indexes": 16,
    "row_count": 16,
    "key_count": 16,
    "more_flag": 16,
    "size": 32,
}
_TEXTS: Final = (
    "kind",
    "command.name",
    "vendor",
    "product",
    "revision",
    "vpd.serial_number",
    "designator",
    "preserved.name",
    "error_field",
    "group",
    "text",
    "config_page",
    "config_query",
    "part",
    "note",
)
_BYTES: Final = ("data", "rest", "designator_bytes", "luns")


def abbreviation(layout: Layout, field: Field) -> str:
    """Return what the dissector calls a field, without `i2o.` in front.

    A field that has the name of one of the filters' aliases is `LAYOUT.FIELD`.
    """
    name = name_of(field)
    return f"{layout.name}.{name}" if name in FILTER_ALIASES else name


def extra_names() -> dict[str, FieldName]:
    """Return what is known of every name that is no field of a layout or wider than all of them.

    Raises:
        ValueError: a name means another kind of value in a layout.
    """
    wanted: dict[str, tuple[Kind, int]] = {name: ("uint", bits) for name, bits in _NUMBERS.items()}
    wanted |= dict.fromkeys(_TEXTS, ("text", 0))
    wanted |= dict.fromkeys(_BYTES, ("bytes", 0))
    for command in scsi.COMMANDS.values():
        for field in command.fields:
            name = cdb_name(field.name)
            width = max(field.width_bits, wanted[name][1] if name in wanted else 0)
            wanted[name] = ("uint", width)
    found: dict[str, FieldName] = {}
    known = field_names()
    for name, (kind, width) in wanted.items():
        before = known.get(name)
        if before is None:
            found[name] = FieldName(name, kind, width, (), "")
        elif before.kind != kind:
            raise ValueError(f"{name} is {before.kind} in a layout, {kind} elsewhere")
        elif before.width_bits < width:
            found[name] = before._replace(width_bits=width)
    return found


def cdb_name(name: str) -> str:
    """Return what a field of a CDB is called."""
    own = name in ("type", "name", "index", "length")
    return f"command.{name}" if own else name


def label(name: str) -> str:
    """Return a name as the tree shows it: `sense_key` is SenseKey."""
    words = name.rpartition(".")[2].split("_")
    return "".join(word.upper() if word in _CAPITALS else word.capitalize() for word in words)


_CAPITALS: Final = frozenset(
    [
        "lba",
        "cdb",
        "sgl",
        "asc",
        "ascq",
        "lun",
        "luns",
        "mfa",
        "vpd",
        "dpo",
        "fua",
        "pmi",
        "dbd",
        "msf",
        "hba",
        "scsi",
        "id",
    ]
)
