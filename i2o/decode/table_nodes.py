# SPDX-License-Identifier: Apache-2.0
"""Tables in host memory as nodes: status block, HRT, LCT, system table, status words, modules.

Every function takes what was captured of a buffer from its start on and how large the host made
the buffer; what is missing because the buffer or the capture ends is a `note`, what contradicts
itself is a `problem`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from i2o.decode.fields import (
    MAX_ITEMS,
    Buffer,
    field_nodes,
    group_node,
    list_node,
    number_node,
    problem,
    text_node,
)
from i2o.decode.tree import Node
from i2o.decode.values import class_name, names_text, tid_text
from i2o.frames import tables
from i2o.frames.layout import Layout
from i2o.frames.tables import BusType, IopState

_BUS_INFO: Final = {
    BusType.LOCAL.value: tables.HRT_BUS_INFO_LOCAL,
    BusType.ISA.value: tables.HRT_BUS_INFO_ISA,
    BusType.EISA.value: tables.HRT_BUS_INFO_EISA,
    BusType.MCA.value: tables.HRT_BUS_INFO_MCA,
    BusType.PCI.value: tables.HRT_BUS_INFO_PCI,
    BusType.CARDBUS.value: tables.HRT_BUS_INFO_PCI,
}
_HRT_ENTRY: Final = tables.HRT_ENTRY.size
_LCT_ENTRY: Final = tables.LCT_ENTRY.size
_BUS_INFO_PLACE: Final = 8
_MIN_MODULE, _MAX_MODULE = tables.MODULE_HEADER.size, 1 << 16


def status_block_node(data: Buffer) -> Node:
    """Return `status_block`: its fields."""
    node = structure_node("status_block", tables.STATUS_BLOCK, data)
    values = {leaf.name: leaf.value for leaf in node.children}
    state, frames = values.get("iop_state"), values.get("max_inbound_msg_frames")
    words = values.get("inbound_msg_frame_size")
    if isinstance(state, int) and isinstance(frames, int) and isinstance(words, int):
        name = names_text(IopState, state) or f"state {state:#04x}"
        node.meaning = f"{name}, {frames} frames of {4 * words} bytes"
    return node


def structure_node(name: str, layout: Layout, data: Buffer, start: int = 0) -> Node:
    """Return the fields of a structure under a name, and a note where the data end before it."""
    nodes, missing = field_nodes(layout, data, start)
    if missing:
        have = max(0, len(data) - start)
        nodes.append(text_node("note", f"{have} of {layout.size} bytes are here: no {missing}"))
    return group_node(name, nodes)


def reset_status_node(data: Buffer) -> Node:
    """Return `reset_status`: what ExecIopReset wrote."""
    return _meaning_of_first(structure_node("reset_status", tables.IOP_RESET_STATUS, data))


def outbound_status_node(data: Buffer) -> Node:
    """Return `outbound_status`: what ExecOutboundInit wrote."""
    return _meaning_of_first(structure_node("outbound_status", tables.OUTBOUND_INIT_STATUS, data))


def reclaim_list_node(data: Buffer) -> Node:
    """Return `reclaim_list`: the reply frames that an IOP gives back, in `entries`."""
    nodes, _ = field_nodes(tables.OUTBOUND_INIT_RECLAIM_LIST, data, 0, 8)
    count = int.from_bytes(data[:4], "little") if len(data) >= 4 else 0
    here = min(count, max(0, len(data) - 8) // 4, MAX_ITEMS)
    items = [number_node(str(n), data, 8 + 4 * n, 4) for n in range(here)]
    nodes.append(list_node("entries", items))
    if here < count:
        nodes.append(text_node("note", f"{here} of {count} entries are here"))
    return group_node("reclaim_list", nodes)


def hrt_node(data: Buffer, capacity: int) -> Node:
    """Return `hrt`: the header's fields and `entries`, each with its `bus` by bus type.

    Args:
        data: the start of the buffer.
        capacity: bytes of the host's buffer.
    """
    nodes, missing = field_nodes(tables.HRT_HEADER_AND_FIRST_ENTRY, data, 0, tables.HRT_HEADER_SIZE)
    if len(data) < tables.HRT_HEADER_SIZE:
        nodes.append(text_node("note", f"{len(data)} of 8 bytes of the header: no {missing}"))
        return group_node("hrt", nodes)
    count, words = int.from_bytes(data[:2], "little"), data[2]
    stride = 4 * words
    wrong: list[Node] = []
    if count and stride < _HRT_ENTRY:
        wrong.append(problem(f"entry_length is {words} words, an HRT entry has 4", 2))
        stride = _HRT_ENTRY
    items = [_hrt_entry(n, data, at) for n, at in _places(data, 8, count, stride, _HRT_ENTRY)]
    nodes += [list_node("entries", items), *wrong]
    nodes += _missing(len(items), count, 8 + count * stride, len(data), capacity)
    return group_node("hrt", nodes, f"{count} adapter{'' if count == 1 else 's'}")


def _hrt_entry(index: int, data: Buffer, at: int) -> Node:
    nodes, _ = field_nodes(tables.HRT_ENTRY, data, at, at + _HRT_ENTRY)
    bus_type = data[at + 7]
    layout = _BUS_INFO.get(bus_type, tables.HRT_BUS_INFO_OTHER)
    bus, _ = field_nodes(layout, data, at + _BUS_INFO_PLACE, at + _HRT_ENTRY)
    name = names_text(BusType, bus_type) or f"bus type {bus_type:#04x}"
    nodes.append(group_node("bus", bus, name))
    return group_node(str(index), nodes, name)


def lct_node(data: Buffer, capacity: int) -> Node:
    """Return `lct`: the header's fields and `entries`.

    Args:
        data: the start of the buffer.
        capacity: bytes of the host's buffer.
    """
    nodes, missing = field_nodes(tables.LCT_HEADER, data, 0, tables.LCT_HEADER_SIZE)
    if len(data) < tables.LCT_HEADER_SIZE:
        nodes.append(text_node("note", f"{len(data)} of 12 bytes of the header: no {missing}"))
        return group_node("lct", nodes)
    if nodes and nodes[-1].name == "lct_entry":
        nodes.pop()
    size = 4 * int.from_bytes(data[:2], "little")
    wrong: list[Node] = []
    if size < tables.LCT_HEADER_SIZE or (size - tables.LCT_HEADER_SIZE) % _LCT_ENTRY:
        wrong.append(problem(f"table_size says {size} bytes: no header and whole entries", 0))
    count = max(0, size - tables.LCT_HEADER_SIZE) // _LCT_ENTRY
    places = _places(data, tables.LCT_HEADER_SIZE, count, _LCT_ENTRY, _LCT_ENTRY)
    items = [_lct_entry(str(n), data, at) for n, at in places]
    nodes += [list_node("entries", items), *wrong]
    nodes += _missing(len(items), count, size, len(data), capacity)
    change = int.from_bytes(data[8:12], "little")
    devices = f"{count} device{'' if count == 1 else 's'}"
    return group_node("lct", nodes, f"{devices}, change indicator {change}")


def lct_entry_node(data: Buffer, start: int) -> Node:
    """Return `lct_entry`: one entry that stands in an event."""
    return _lct_entry("lct_entry", data, start)


def _lct_entry(name: str, data: Buffer, at: int) -> Node:
    nodes, missing = field_nodes(tables.LCT_ENTRY, data, at, at + _LCT_ENTRY)
    if missing:
        nodes.append(text_node("note", f"the entry ends before {missing}"))
        return group_node(name, nodes)
    entry = tables.LCT_ENTRY.unpack_from(data, at)
    free = tid_text(entry.user_tid) or f"{entry.user_tid:#05x}"
    text = f"TID {entry.local_tid:#05x} {class_name(entry.class_id_class)}, user {free}"
    return group_node(name, nodes, text)


def system_table_node(data: Buffer, capacity: int) -> Node:
    """Return `system_table`: the header's fields and `entries`, one per IOP.

    Args:
        data: the start of the buffer.
        capacity: bytes of the host's buffer.
    """
    layout, entry = tables.SYSTAB_HEADER, tables.SYSTAB_IOP_ENTRY
    nodes, missing = field_nodes(layout, data)
    if missing:
        nodes.append(text_node("note", f"{len(data)} of {layout.size} bytes of the header"))
        return group_node("system_table", nodes)
    count = data[0]
    items = []
    for n, at in _places(data, layout.size, count, entry.size, entry.size):
        fields, _ = field_nodes(entry, data, at, at + entry.size)
        state = entry.unpack_from(data, at)
        name = names_text(IopState, state.iop_state) or f"state {state.iop_state:#04x}"
        items.append(group_node(str(n), fields, f"IOP {state.iop_id:#05x} {name}"))
    nodes.append(list_node("entries", items))
    nodes += _missing(len(items), count, layout.size + count * entry.size, len(data), capacity)
    return group_node("system_table", nodes, f"{count} IOP{'' if count == 1 else 's'}")


def software_node(data: Buffer) -> Node | None:
    """Return `software`, the header of a driver module, None if the data do not look like one."""
    size = int.from_bytes(data[:4], "little") if len(data) >= 4 else 0
    if not _MIN_MODULE <= size <= _MAX_MODULE:
        return None
    return structure_node("software", tables.MODULE_HEADER, data)


def _places(
    data: Buffer, start: int, count: int, stride: int, size: int
) -> Iterator[tuple[int, int]]:
    """Yield number and place of every entry that is wholly there."""
    for index in range(min(count, MAX_ITEMS)):
        at = start + index * stride
        if at + size > len(data):
            return
        yield index, at


def _missing(found: int, count: int, size: int, captured: int, capacity: int) -> list[Node]:
    """Return a note on the entries of a table that are not shown."""
    if found >= count:
        return []
    if found >= MAX_ITEMS:
        why = f"more than {MAX_ITEMS} are not shown"
    elif capacity < size and captured >= capacity:
        why = f"the host's buffer has {capacity} of {size} bytes"
    else:
        why = f"{captured} of {size} bytes are here"
    return [text_node("note", f"{found} of {count} entries: {why}")]


def _meaning_of_first(node: Node) -> Node:
    node.meaning = node.children[0].meaning if node.children else ""
    return node
