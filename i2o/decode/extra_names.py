# SPDX-License-Identifier: Apache-2.0
"""Names of what stands behind the fixed part of a message and is no field of a layout.

The nodes themselves are made by `i2o.decode.frame`, which says where each of them is.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Final

from i2o.decode.names import FieldName
from i2o.decode.scsi import COMMANDS, SENSE_KEYS, command_name

EXTRA_GROUPS: Final = frozenset(
    (
        "block_descriptor",
        "buckets",
        "bus",
        "command",
        "contexts",
        "descriptors",
        "designators",
        "entries",
        "error_info",
        "hrt",
        "inquiry",
        "lct",
        "lct_entry",
        "mode_select",
        "mode_sense",
        "operations",
        "outbound_status",
        "packets",
        "pages",
        "preserved",
        "read_capacity",
        "reclaim_list",
        "reply_frame",
        "report_luns",
        "reset_status",
        "results",
        "rows",
        "sense",
        "sgl",
        "software",
        "static_frame",
        "status_block",
        "system_table",
        "transactions",
        "values",
        "vpd",
    )
)
"""Groups of nodes: `GROUP.NAME` is what is called so in that group only."""

_TEXTS: Final = {
    "config_page": "page of a configuration dialogue",
    "config_query": "what was entered in one",
    "error_field": "the field of the request that error_offset points at",
    "group": "name of a parameter group",
    "kind": "type of a scatter/gather element",
    "note": "why something is not complete",
    "part": "which bytes of a buffer a piece of DMA has, if not all",
    "product": "of INQUIRY data",
    "revision": "of INQUIRY data",
    "text": "of dpt_private_driver_printf",
    "vendor": "of INQUIRY data",
}
_BYTES: Final = {
    "data": "immediate data, and the first bytes of anything that is not explained",
    "key": "of a row in a result list",
    "keys": "of an operation on rows",
    "rest": "bytes of a frame that nothing explains",
}
_NUMBERS: Final = {
    "asc": "additional sense code",
    "ascq": "additional sense code qualifier",
    "count": "of a scatter/gather element",
    "field_indexes": "fields that a parameter operation names",
    "hba_status": "adapter's half of a SCSI detailed_status_code",
    "list_address": "bus address of the chained list that an element stands in",
    "lba": "logical block address in a CDB",
    "opcode": "of a CDB",
    "scsi_status": "device's half of a SCSI detailed_status_code",
    "sense_key": "of sense data",
    "size": "result of size_get",
    "event_words": "event data behind the first word",
    "words": "words of a request whose function is not known",
}
_SCSI_NUMBERS: Final = (
    "additional_length",
    "association",
    "block_descriptor_length",
    "block_length",
    "code_set",
    "command_queueing",
    "command_specific",
    "control",
    "density_code",
    "designator_type",
    "dpo_fua",
    "end_of_medium",
    "field_replaceable_unit",
    "filemark",
    "incorrect_length",
    "information",
    "last_lba",
    "lun_list_length",
    "luns",
    "maximum_compare_and_write_length",
    "maximum_prefetch_length",
    "maximum_transfer_length",
    "maximum_unmap_block_descriptor_count",
    "maximum_unmap_lba_count",
    "medium_rotation_rate",
    "medium_type",
    "mode_data_length",
    "optimal_transfer_length",
    "optimal_transfer_length_granularity",
    "page_length",
    "peripheral_qualifier",
    "removable",
    "response_code",
    "response_data_format",
    "sense_key_specific",
    "valid",
    "write_protect",
)


@cache
def extra_names() -> dict[str, FieldName]:
    """Return what is known about each name; numbers of any width have `width_bits` 64."""
    found = {
        name: FieldName(name, "uint", 64, (), "of SCSI commands, their data and sense data")
        for name in (
            *(field.name for command in COMMANDS.values() for field in command.fields),
            *_SCSI_NUMBERS,
        )
    }
    found |= {name: FieldName(name, "uint", 64, (), text) for name, text in _NUMBERS.items()}
    found |= {name: FieldName(name, "bytes", 0, (), text) for name, text in _BYTES.items()}
    found |= {name: FieldName(name, "text", 0, (), text) for name, text in _TEXTS.items()}
    return {**found, "designator": FieldName("designator", "text", 0, (), "of a VPD page")}


@cache
def extra_values(name: str) -> Mapping[str, int]:
    """Return the names of the values of one of these, in small letters."""
    if name == "opcode":
        return {command_name(opcode): opcode for opcode in COMMANDS}
    if name == "sense_key":
        return {text: number for number, text in enumerate(SENSE_KEYS)}
    return {}
