# SPDX-License-Identifier: Apache-2.0
"""DMA as nodes: which buffer of which request it is says what the bytes mean."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Final

from i2o.decode.conversation import Traced
from i2o.decode.fields import MAX_ITEMS, Buffer, bytes_node, text_node
from i2o.decode.parameter_nodes import Operation, operations_node, operations_of, results_node
from i2o.decode.request_nodes import PARAMETERS, scb_of
from i2o.decode.scsi_nodes import data_in_node, data_out_node, sense_node
from i2o.decode.sgl_nodes import chained_nodes, immediate_data
from i2o.decode.table_nodes import (
    hrt_node,
    lct_node,
    outbound_status_node,
    reclaim_list_node,
    reset_status_node,
    software_node,
    status_block_node,
    system_table_node,
)
from i2o.decode.text import ascii_text
from i2o.decode.tree import Node
from i2o.decode.values import is_text
from i2o.frames.executive import SwType
from i2o.frames.functions import Function
from i2o.frames.header import MsgFlags
from i2o.transport.capture.packet import Channel

_SHOWN: Final = 64
_MAX_TEXT: Final = 4096
_MIN_LOOK: Final = 4
_WIDE: Final = MsgFlags.CONTEXT_64BIT.value
_WITH_HEADER: Final = (SwType.DDM.value, SwType.IRTOS.value, SwType.IRTOS_PRIVATE_MODULE.value)
_SECTOR, _MAGIC = 512, b"\x55\xaa"


def buffer_nodes(traced: Traced) -> list[Node]:
    """Return what a piece of DMA says, together with the pieces before it.

    Args:
        traced: DMA in its context, no reply frame.
    """
    request = traced.request
    if request is None or traced.buffer is None:
        return [data_node(traced)]
    if traced.buffer < 0:
        return chained_nodes(traced.packet.data, wide=bool(request.flags & _WIDE))
    nodes: list[Node] = []
    whole = (request.buffers or {}).get(traced.buffer)
    if whole is not None and len(whole) >= traced.offset + len(traced.packet.data):
        found = structure_node(traced, whole)
        if found is not None:
            nodes.append(found)
    if not nodes:
        return [data_node(traced)]
    part = part_text(traced)
    return [*nodes, text_node("part", part)] if part else nodes


def structure_node(traced: Traced, data: Buffer) -> Node | None:
    """Return a buffer as the structure it is for its request, None if it is plain data.

    Args:
        traced: DMA of a request.
        data: the buffer from its start on, as far as it is known.
    """
    request = traced.request
    if request is None or traced.buffer is None or not data:
        return None
    buffer = traced.buffer
    simple = _SIMPLE.get((request.function, buffer))
    if simple is not None:
        return simple(data)
    table = _TABLES.get((request.function, buffer))
    if table is not None:
        return table(data, capacity(request, buffer))
    if request.function in PARAMETERS:
        return _parameters(traced, request, data)
    if request.function == Function.UTIL_CONFIG_DIALOG:
        return _page("config_page" if buffer == 0 else "config_query", data)
    if request.function in (Function.EXEC_SW_DOWNLOAD, Function.EXEC_SW_UPLOAD):
        frame = request.frame
        if buffer == 0 and len(frame) >= 20 and frame[16] <= 1 and frame[18] in _WITH_HEADER:
            return software_node(data)
        return None
    return _scsi(traced, request, data)


def capacity(request: Traced, buffer: int) -> int:
    """Return the bytes that the host gave a buffer of a request."""
    return request.memory.rooms.get(buffer, 0)


def data_node(traced: Traced) -> Node:
    """Return `data`: the first bytes of plain data, and what they are part of."""
    data = traced.packet.data
    return bytes_node("data", data[:_SHOWN], 0, data_text(traced))


def data_text(traced: Traced) -> str:
    """Return what plain data are: `4096 bytes (512 captured) at offset 0 of 4096, zeros`."""
    packet = traced.packet
    text = f"{packet.length} byte{'' if packet.length == 1 else 's'}"
    if packet.length > len(packet.data):
        text += f" ({len(packet.data)} captured)"
    request = traced.request
    if request is not None and traced.buffer is not None and traced.buffer >= 0:
        room = capacity(request, traced.buffer)
        text += f" at offset {traced.offset} of {room}"
    look = look_of(packet.data)
    return f"{text}, {look}" if look else text


def look_of(data: bytes) -> str:
    """Return what data look like at a glance; empty if like nothing in particular."""
    if len(data) < _MIN_LOOK:
        return ""
    if not any(data):
        return "all zeros"
    if data[_SECTOR - 2 : _SECTOR] == _MAGIC:
        return "boot sector"
    if data[:8] == b"EFI PART":
        return "GPT header"
    if data == data[:1] * len(data):
        return f"all {data[0]:#04x}"
    return "text" if is_text(data.translate(None, b"\t\r\n")) else ""


def part_text(traced: Traced) -> str:
    """Return which bytes of its buffer a piece of DMA has; empty if it is all that was moved."""
    packet = traced.packet
    cut = packet.length > len(packet.data)
    if not traced.offset and not cut:
        return ""
    end = traced.offset + packet.length
    text = f"bytes {traced.offset} to {end}"
    return f"{text}, {len(packet.data)} of {packet.length} captured" if cut else text


# --- buffers by function -----------------------------------------------------------------------

_SIMPLE: Final[dict[tuple[int, int], Callable[[Buffer], Node]]] = {
    (Function.EXEC_STATUS_GET.value, 0): status_block_node,
    (Function.EXEC_IOP_RESET.value, 0): reset_status_node,
    (Function.EXEC_OUTBOUND_INIT.value, 0): outbound_status_node,
    (Function.EXEC_OUTBOUND_INIT.value, 1): reclaim_list_node,
}
_TABLES: Final[dict[tuple[int, int], Callable[[Buffer, int], Node]]] = {
    (Function.EXEC_HRT_GET.value, 0): hrt_node,
    (Function.EXEC_LCT_NOTIFY.value, 0): lct_node,
    (Function.EXEC_SYS_TAB_SET.value, 0): system_table_node,
}


def operations_of_request(request: Traced) -> list[Operation] | None:
    """Return the parameter operations of a request, None if they were not captured."""
    known = (request.buffers or {}).get(0)
    if known:
        return _operations(bytes(known), request.device_class)
    inline = immediate_data(request.frame, 0)
    return _operations(inline[0], request.device_class) if inline else None


@lru_cache(maxsize=8)
def _operations(data: bytes, device_class: int | None) -> list[Operation]:
    """Return the operations of a list; every piece of its results asks for the same ones."""
    return operations_of(data, device_class)


def _parameters(traced: Traced, request: Traced, data: Buffer) -> Node | None:
    if traced.buffer == 0 and traced.packet.channel == Channel.TO_DEVICE:
        return operations_node(data, request.device_class)
    if traced.buffer != 1:
        return None
    is_whole = traced.packet.length <= len(traced.packet.data) and len(data) < capacity(request, 1)
    return results_node(data, operations_of_request(request), is_whole=is_whole)


def _page(name: str, data: Buffer) -> Node:
    raw = bytes(data[:_MAX_TEXT])
    lines = [ascii_text(line.strip(b"\r")) for line in raw.rstrip(b"\0").split(b"\n")]
    return text_node(name, "\n".join(lines), 0, len(raw))


def _scsi(traced: Traced, request: Traced, data: Buffer) -> Node | None:
    scb = scb_of(request)
    if scb is None:
        return None
    last = max(request.memory.rooms, default=0)
    if scb.has_sense_buffer and last > 0 and traced.buffer == last:
        return sense_node(data, 0, min(len(data), MAX_ITEMS))
    if traced.buffer != 0:
        return None
    if traced.packet.channel == Channel.FROM_DEVICE:
        return data_in_node(scb.cdb, data)
    return data_out_node(scb.cdb, data)
