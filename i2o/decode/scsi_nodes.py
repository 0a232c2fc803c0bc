# SPDX-License-Identifier: Apache-2.0
"""SCSI as nodes: the CDB of a request, sense data, and the data that common commands return."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from i2o.decode import scsi
from i2o.decode.fields import (
    MAX_ITEMS,
    Buffer,
    bytes_node,
    group_node,
    list_node,
    number_node,
    problem,
    text_node,
)
from i2o.decode.scsi import CdbField
from i2o.decode.text import ascii_text, human_size
from i2o.decode.tree import Node

_FIXED: Final = (0x70, 0x71)
_DESCRIPTOR: Final = (0x72, 0x73)
_MAX_CDB: Final = 16


def command_node(data: Buffer, start: int, length: int) -> Node:
    """Return `command`, the fields of a CDB.

    Args:
        data: the frame.
        start: byte where the CDB starts.
        length: how long the request says that it is.
    """
    cdb = bytes(data[start : start + min(length or _MAX_CDB, _MAX_CDB)])
    if not cdb:
        return group_node("command", [problem("the CDB is cut off")])
    opcode = cdb[0]
    command = scsi.COMMANDS.get(opcode)
    children = [number_node("opcode", data, start, 1)]
    fields, cut = [], ""
    for field in command.fields if command else ():
        if field.byte + field.size > len(cdb):
            cut = field.name
            break
        fields.append(_cdb_leaf(cdb, start, field))
    action = next((leaf.value for leaf in fields if leaf.name == "service_action"), None)
    name = scsi.command_name(opcode, action if isinstance(action, int) else None)
    children[0].meaning = name
    children += [text_node("name", name), *fields]
    size = scsi.cdb_size(opcode)
    if size and size <= len(cdb):
        children.append(number_node("control", data, start + size - 1, 1))
    if cut or (size and len(cdb) < size):
        size = size or len(cdb)
        what = f", {cut} is cut" if cut else ""
        children.append(problem(f"{name} takes {size} bytes, the CDB has {len(cdb)}{what}", start))
    return group_node("command", children, scsi.cdb_text(cdb))


def _cdb_leaf(cdb: bytes, start: int, field: CdbField) -> Node:
    raw = int.from_bytes(cdb[field.byte : field.byte + field.size], "big")
    value = raw >> field.bit & (1 << field.width_bits) - 1
    meaning = ""
    if field.name == "page_code":
        meaning = scsi.page_name(cdb, value)
    elif field.name == "transfer_length" and not value and field.size == 1:
        meaning = "256 blocks"
    return Node(field.name, value, meaning, start + field.byte, field.bit, field.width_bits)


# --- sense data --------------------------------------------------------------------------------


def sense_node(data: Buffer, start: int, end: int) -> Node:
    """Return `sense`: fixed or descriptor format, as far as the bytes go.

    Args:
        data: the frame or the buffer.
        start: byte where the sense data start.
        end: byte behind them.
    """
    end = min(end, len(data))
    if start >= end:
        return group_node("sense", [problem("the sense data are cut off")])
    code = data[start] & 0x7F
    head = [
        _bits("response_code", data, start, 0, 7, _RESPONSES.get(code, "")),
        _bits("valid", data, start, 7, 1),
    ]
    if code in _FIXED:
        return _fixed_sense(data, start, end, head)
    if code in _DESCRIPTOR:
        return _descriptor_sense(data, start, end, head)
    if not any(data[start:end]):
        return group_node("sense", head, "no sense data")
    rest = bytes_node("data", bytes(data[start + 1 : end]), start + 1)
    wrong = problem(f"response code {code:#04x} is none of 0x70 to 0x73", start)
    return group_node("sense", [*head, rest, wrong])


def sense_text(raw: Buffer) -> str:
    """Return sense data on one line: `illegal_request: invalid field in CDB`; empty if none."""
    return sense_node(raw, 0, len(raw)).meaning if raw and any(raw) else ""


_RESPONSES: Final = {
    0x70: "current, fixed",
    0x71: "deferred, fixed",
    0x72: "current, descriptors",
    0x73: "deferred, descriptors",
}


def _fixed_sense(data: Buffer, start: int, end: int, nodes: list[Node]) -> Node:
    key = code = qualifier = None
    if start + 2 < end:
        at, key = start + 2, data[start + 2] & 0xF
        nodes += [
            _bits("filemark", data, at, 7, 1),
            _bits("end_of_medium", data, at, 6, 1),
            _bits("incorrect_length", data, at, 5, 1),
            _bits("sense_key", data, at, 0, 4, scsi.SENSE_KEYS[key]),
        ]
    if start + 14 <= end:
        code, qualifier = data[start + 12], data[start + 13]
    for name, offset, size in (
        ("information", 3, 4),
        ("additional_length", 7, 1),
        ("command_specific", 8, 4),
        ("asc", 12, 1),
        ("ascq", 13, 1),
        ("field_replaceable_unit", 14, 1),
        ("sense_key_specific", 15, 3),
    ):
        at = start + offset
        if at + size > end:
            break
        nodes.append(number_node(name, data, at, size, big=True))
        if name == "asc" and qualifier is not None:
            nodes[-1].meaning = scsi.additional_sense_text(data[at], qualifier)
    length = 8 + data[start + 7] if start + 8 <= end else 18
    stop = min(end, start + length)
    if stop > start + 18 and any(data[start + 18 : stop]):
        nodes.append(bytes_node("data", bytes(data[start + 18 : stop]), start + 18))
    if start + 8 > end:
        nodes.append(problem(f"the sense data end after {end - start} bytes"))
    return group_node("sense", nodes, _sense_meaning(key, code, qualifier))


def _descriptor_sense(data: Buffer, start: int, end: int, nodes: list[Node]) -> Node:
    key = code = qualifier = None
    if start + 8 > end:
        nodes.append(problem(f"the sense data end after {end - start} of 8 bytes"))
        return group_node("sense", nodes)
    key, code, qualifier = data[start + 1] & 0xF, data[start + 2], data[start + 3]
    nodes += [
        _bits("sense_key", data, start + 1, 0, 4, scsi.SENSE_KEYS[key]),
        number_node("asc", data, start + 2, 1, scsi.additional_sense_text(code, qualifier)),
        number_node("ascq", data, start + 3, 1),
        number_node("additional_length", data, start + 7, 1),
    ]
    items: list[Node] = []
    at, stop = start + 8, min(end, start + 8 + data[start + 7])
    while at + 2 <= stop:
        length = data[at + 1]
        items.append(
            group_node(
                str(len(items)),
                [
                    number_node("type", data, at, 1),
                    number_node("length", data, at + 1, 1),
                    bytes_node("data", bytes(data[at + 2 : min(stop, at + 2 + length)]), at + 2),
                ],
            )
        )
        at += 2 + length
    if items:
        nodes.append(list_node("descriptors", items))
    return group_node("sense", nodes, _sense_meaning(key, code, qualifier))


def _sense_meaning(key: int | None, code: int | None, qualifier: int | None) -> str:
    if key is None:
        return ""
    if code is None or qualifier is None:
        return scsi.SENSE_KEYS[key]
    return f"{scsi.SENSE_KEYS[key]}: {scsi.additional_sense_text(code, qualifier)}"


# --- what commands return ----------------------------------------------------------------------


def data_in_node(cdb: Buffer, data: Buffer) -> Node | None:
    """Return what a command returned as fields, None for data without a structure we know.

    Args:
        cdb: the command.
        data: the start of the buffer.
    """
    if not cdb or not data:
        return None
    opcode = cdb[0]
    if opcode == scsi.SERVICE_ACTION_IN_16:
        if len(cdb) > 1 and cdb[1] & 0x1F == scsi.READ_CAPACITY_16_ACTION:
            return _read_capacity_16(data)
        return None
    if opcode == scsi.INQUIRY and len(cdb) > 2 and cdb[1] & 1:
        return _vital_product_data(data)
    found = _DATA_IN.get(opcode)
    return found(data) if found is not None else None


def data_out_node(cdb: Buffer, data: Buffer) -> Node | None:
    """Return what a command was given as fields, None for data without a structure we know."""
    if not cdb or not data:
        return None
    if cdb[0] == scsi.MODE_SELECT_6:
        return _mode(data, 4, "mode_select")
    if cdb[0] == scsi.MODE_SELECT_10:
        return _mode(data, 8, "mode_select")
    return None


def _bits(name: str, data: Buffer, at: int, bit: int, width: int, meaning: str = "") -> Node:
    return Node(name, data[at] >> bit & (1 << width) - 1, meaning, at, bit, width)


def _ascii(name: str, data: Buffer, at: int, size: int) -> Node:
    return text_node(name, ascii_text(bytes(data[at : at + size])), at, size)


_Leaf = tuple[str, int, int]


def _numbers(data: Buffer, leaves: tuple[_Leaf, ...]) -> list[Node]:
    """Return the big-endian numbers of a structure that are all there."""
    return [
        number_node(name, data, at, size, big=True)
        for name, at, size in leaves
        if at + size <= len(data)
    ]


def _cut(data: Buffer, size: int) -> list[Node]:
    if len(data) >= size:
        return []
    return [text_node("note", f"the data end after {len(data)} of {size} bytes")]


def _peripheral(data: Buffer) -> list[Node]:
    kind = data[0] & 0x1F
    return [
        _bits("peripheral_qualifier", data, 0, 5, 3),
        _bits("device_type", data, 0, 0, 5, scsi.DEVICE_TYPES.get(kind, "")),
    ]


def _inquiry(data: Buffer) -> Node:
    nodes = _peripheral(data)
    if len(data) > 1:
        nodes.append(_bits("removable", data, 1, 7, 1))
    nodes += _numbers(data, (("version", 2, 1),))
    if len(data) > 3:
        nodes.append(_bits("response_data_format", data, 3, 0, 4))
    nodes += _numbers(data, (("additional_length", 4, 1),))
    if len(data) > 7:
        nodes.append(_bits("command_queueing", data, 7, 1, 1))
    words = []
    for name, at, size in (("vendor", 8, 8), ("product", 16, 16), ("revision", 32, 4)):
        if at < len(data):
            size = min(size, len(data) - at)
            nodes.append(_ascii(name, data, at, size))
            words.append(str(nodes[-1].value))
    meaning = " ".join([scsi.DEVICE_TYPES.get(data[0] & 0x1F, "unknown"), *filter(None, words)])
    return group_node("inquiry", [*nodes, *_cut(data, 5)], meaning)


def _vital_product_data(data: Buffer) -> Node:
    nodes = _peripheral(data)
    if len(data) < 4:
        return group_node("vpd", [*nodes, *_cut(data, 4)])
    page, length = data[1], int.from_bytes(data[2:4], "big")
    name = scsi.VPD_PAGES.get(page, "")
    nodes += [
        number_node("page_code", data, 1, 1, name),
        number_node("page_length", data, 2, 2, big=True),
    ]
    end = min(len(data), 4 + length)
    if page == 0x00:
        pages = [
            number_node(str(n), data, 4 + n, 1, scsi.VPD_PAGES.get(data[4 + n], ""))
            for n in range(end - 4)
        ]
        nodes.append(list_node("pages", pages))
    elif page == 0x80:
        nodes.append(_ascii("serial_number", data, 4, end - 4))
    elif page == 0x83:
        nodes.append(_designators(data, end))
    elif page == 0xB0:
        nodes += _numbers(data[:end], _BLOCK_LIMITS)
    elif page == 0xB1:
        nodes += _numbers(data[:end], (("medium_rotation_rate", 4, 2),))
    elif end > 4:
        nodes.append(bytes_node("data", bytes(data[4:end]), 4))
    if end < 4 + length:
        nodes.append(text_node("note", f"the page ends after {end} of {4 + length} bytes"))
    return group_node("vpd", nodes, name or f"page {page:#04x}")


_BLOCK_LIMITS: Final = (
    ("maximum_compare_and_write_length", 5, 1),
    ("optimal_transfer_length_granularity", 6, 2),
    ("maximum_transfer_length", 8, 4),
    ("optimal_transfer_length", 12, 4),
    ("maximum_prefetch_length", 16, 4),
    ("maximum_unmap_lba_count", 20, 4),
    ("maximum_unmap_block_descriptor_count", 24, 4),
)


def _designators(data: Buffer, end: int) -> Node:
    items: list[Node] = []
    at = 4
    while at + 4 <= end:
        length = data[at + 3]
        stop = min(end, at + 4 + length)
        raw = bytes(data[at + 4 : stop])
        is_ascii = data[at] & 0xF in (2, 3)
        items.append(
            group_node(
                str(len(items)),
                [
                    _bits("code_set", data, at, 0, 4, "ASCII" if is_ascii else "binary"),
                    _bits("designator_type", data, at + 1, 0, 4),
                    _bits("association", data, at + 1, 4, 2),
                    _ascii("designator", data, at + 4, stop - at - 4)
                    if is_ascii
                    else bytes_node("designator", raw, at + 4),
                ],
            )
        )
        at += 4 + length
    return list_node("designators", items)


def _read_capacity_10(data: Buffer) -> Node:
    return _capacity(data, (("last_lba", 0, 4), ("block_length", 4, 4)), 8)


def _read_capacity_16(data: Buffer) -> Node:
    return _capacity(data, (("last_lba", 0, 8), ("block_length", 8, 4)), 12)


def _capacity(data: Buffer, leaves: tuple[_Leaf, ...], size: int) -> Node:
    nodes = _numbers(data, leaves)
    meaning = ""
    if len(nodes) == 2 and isinstance(nodes[0].value, int) and isinstance(nodes[1].value, int):
        blocks, length = nodes[0].value + 1, nodes[1].value
        meaning = f"{blocks} blocks of {length} bytes, {human_size(blocks * length)}"
    return group_node("read_capacity", [*nodes, *_cut(data, size)], meaning)


def _mode_sense_6(data: Buffer) -> Node:
    return _mode(data, 4, "mode_sense")


def _mode_sense_10(data: Buffer) -> Node:
    return _mode(data, 8, "mode_sense")


def _mode(data: Buffer, header: int, name: str) -> Node:
    wide = header // 4  # bytes of the length fields
    nodes = _numbers(data, (("mode_data_length", 0, wide), ("medium_type", wide, 1)))
    if len(data) > wide + 1:
        nodes.append(_bits("write_protect", data, wide + 1, 7, 1))
        nodes.append(_bits("dpo_fua", data, wide + 1, 4, 1))
    at = header - wide
    if len(data) < header:
        return group_node(name, [*nodes, *_cut(data, header)])
    length = int.from_bytes(data[at:header], "big")
    nodes.append(number_node("block_descriptor_length", data, at, wide, big=True))
    end = len(data)
    if name == "mode_sense":
        end = min(end, wide + int.from_bytes(data[:wide], "big"))
    place = header
    if length >= 8 and place + 8 <= end:
        parts = [
            number_node("density_code", data, place, 1),
            number_node("number_of_blocks", data, place + 1, 3, big=True),
            number_node("block_length", data, place + 5, 3, big=True),
        ]
        nodes.append(group_node("block_descriptor", parts))
    place += length
    pages: list[Node] = []
    while place + 2 <= end and len(pages) < MAX_ITEMS:
        code, has_subpage = data[place] & 0x3F, data[place] & 0x40
        meaning = scsi.MODE_PAGES.get(code, "")
        parts = [_bits("page_code", data, place, 0, 6, meaning)]
        head = 2
        if has_subpage:
            head = 4
            if place + head > end:
                break
            parts.append(number_node("subpage_code", data, place + 1, 1))
            parts.append(number_node("page_length", data, place + 2, 2, big=True))
        else:
            parts.append(number_node("page_length", data, place + 1, 1))
        size = int.from_bytes(data[place + head // 2 : place + head], "big")
        start = place + head
        stop = min(end, start + size)
        parts.append(bytes_node("data", bytes(data[start:stop]), start))
        if stop < start + size:
            parts.append(text_node("note", f"the page ends after {stop - start} bytes"))
        pages.append(group_node(str(len(pages)), parts, meaning))
        place = start + size
    if pages:
        nodes.append(list_node("pages", pages))
    return group_node(name, nodes)


def _request_sense(data: Buffer) -> Node:
    return sense_node(data, 0, len(data))


def _report_luns(data: Buffer) -> Node:
    nodes = _numbers(data, (("lun_list_length", 0, 4),))
    if not nodes:
        return group_node("report_luns", _cut(data, 8))
    length = int.from_bytes(data[:4], "big")
    end = min(len(data), 8 + length)
    whole = max(0, end - 8) // 8
    luns = [bytes_node(str(n), bytes(data[8 + 8 * n : 16 + 8 * n]), 8 + 8 * n)
            for n in range(min(whole, MAX_ITEMS))]  # fmt: skip
    nodes.append(list_node("luns", luns))
    if length // 8 > len(luns):
        nodes.append(text_node("note", f"{len(luns)} of {length // 8} LUNs are here"))
    return group_node("report_luns", nodes, f"{length // 8} LUNs")


_DATA_IN: Final[dict[int, Callable[[Buffer], Node]]] = {
    scsi.INQUIRY: _inquiry,
    scsi.REQUEST_SENSE: _request_sense,
    scsi.READ_CAPACITY_10: _read_capacity_10,
    scsi.MODE_SENSE_6: _mode_sense_6,
    scsi.MODE_SENSE_10: _mode_sense_10,
    scsi.REPORT_LUNS: _report_luns,
}
