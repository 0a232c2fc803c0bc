# SPDX-License-Identifier: Apache-2.0
"""What a request has besides its fields: scatter/gather list, CDB, immediate operation list."""

from __future__ import annotations

from typing import Final, NamedTuple

from i2o.decode.conversation import Traced
from i2o.decode.fields import MAX_ITEMS, bytes_node, field_nodes, group_node, problem, text_node
from i2o.decode.parameter_nodes import operations_node
from i2o.decode.scsi_nodes import command_node
from i2o.decode.sgl_nodes import immediate_data, sgl_nodes
from i2o.decode.text import ascii_text
from i2o.decode.tree import Node
from i2o.frames import executive, private, scsi
from i2o.frames.functions import Function
from i2o.frames.header import HEADER_SIZE, MSG_HEADER
from i2o.frames.host_ranges import sgl_start
from i2o.frames.layout import Layout

PARAMETERS: Final = (Function.UTIL_PARAMS_GET.value, Function.UTIL_PARAMS_SET.value)
_SENSE_IN_BUFFER: Final = scsi.ScbFlags.SENSE_DATA_IN_BUFFER.value


def _place(layout: Layout, path: str) -> int:
    return next(field.byte for field in layout.fields if field.path == path)


_SCB_PLACES: Final = {
    layout.qualified_name: _place(layout, "cdb_length")
    for layout in (scsi.SCSI_SCB_EXEC, private.DPT_PRIVATE_SCSI_SCB_EXEC)
}
_CDB: Final = 4  # bytes from cdb_length to the CDB
_STATIC_FRAME: Final = _place(executive.EXEC_STATIC_MF_CREATE, "static_message_frame")
_PRINT_COUNT: Final = _place(private.DPT_PRIVATE_DRIVER_PRINTF, "print_buffer_byte_count")


class Scb(NamedTuple):
    """A SCSI control block of a request.

    Attributes:
        cdb: the command, as long as cdb_length says.
        place: byte of the frame where it starts.
        length: cdb_length.
        has_sense_buffer: the last buffer takes the sense data.
    """

    cdb: bytes
    place: int
    length: int
    has_sense_buffer: bool


def scb_of(request: Traced) -> Scb | None:
    """Return the SCSI control block of a request, None if it has none or is cut before the CDB."""
    if request.is_short:
        return None
    layout = request.layout
    place = _SCB_PLACES.get(layout.qualified_name) if layout else None
    frame = request.frame
    if place is None or len(frame) <= place + _CDB:
        return None
    length = frame[place]
    start = place + _CDB
    flags = int.from_bytes(frame[place + 2 : place + 4], "little")
    return Scb(
        frame[start : start + min(length or 16, 16)],
        start,
        length,
        flags & _SENSE_IN_BUFFER == _SENSE_IN_BUFFER,
    )


def request_nodes(traced: Traced, frame: bytes) -> list[Node]:
    """Return the nodes of a request that are not in its layout.

    Args:
        traced: the request in its context.
        frame: its bytes.
    """
    layout = traced.layout
    nodes: list[Node] = []
    scb = scb_of(traced)
    if scb is not None:
        nodes.append(command_node(frame, scb.place, scb.length))
        if not 0 < scb.length <= 16:
            nodes.append(problem(f"cdb_length is {scb.length}, a CDB has 1 to 16 bytes", scb.place))
    if layout is executive.EXEC_STATIC_MF_CREATE:
        fields, _ = field_nodes(MSG_HEADER, frame, _STATIC_FRAME)
        nodes.append(group_node("static_frame", fields))
    if layout is private.DPT_PRIVATE_DRIVER_PRINTF:
        return [*nodes, _printed(frame)]
    if traced.function in PARAMETERS:
        inline = immediate_data(frame, 0)
        if inline is not None:
            data, place = inline
            nodes.append(operations_node(frame[: place + len(data)], traced.device_class, place))
    if layout is not None:
        nodes += _between(frame, layout)
    is_cut = len(frame) < 4 * traced.size_words
    return nodes + sgl_nodes(frame, traced.chained, is_cut=is_cut)


def _between(frame: bytes, layout: Layout) -> list[Node]:
    """Return what is between the layout and the list, or the end of the frame."""
    end = len(frame)
    start = sgl_start(frame) if end >= HEADER_SIZE else 0
    if HEADER_SIZE <= start <= end:
        if start < layout.size:
            text = f"the SGL at byte {start} starts inside {layout.name}, which has {layout.size}"
            return [problem(text, 0)]
        end = start
    if end <= layout.size:
        return []
    return [bytes_node("rest", frame[layout.size : min(end, layout.size + MAX_ITEMS)], layout.size)]


def _printed(frame: bytes) -> Node:
    start = _PRINT_COUNT + 4
    count = int.from_bytes(frame[_PRINT_COUNT:start], "little")
    raw = frame[start : start + min(count, MAX_ITEMS)]
    return text_node("text", ascii_text(raw), start, len(raw))
