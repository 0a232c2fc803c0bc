# SPDX-License-Identifier: Apache-2.0
"""Decodes one packet of a conversation in full: every field, list, table and what is wrong.

`fixed_nodes` gives the fields of the layout, `extra_nodes` all that is behind or beside them. Both
take any bytes: what cannot be read ends in a `problem`, never in an exception. Leaves of layouts
have the field's path as name (`class_id.class` too), numbers as they are, and bytes as bytes.

`fixed_nodes` of a frame: one leaf per field of `traced.layout`; then, in any number,

    problem                 text: what is wrong; such nodes have `is_problem`

and for a request whose function is not known the header's fields and

    words                   list of leaves: the words behind the header, up to the SGL

`extra_nodes` of a request:

    rest                    bytes between the layout and the SGL, or the frame's end
    sgl                     list of elements; each:
        kind                text: simple, page_list, chain, immediate, bit_bucket, ignore,
                            transport, attributes, long_transaction, short_transaction
        flags, count        bits 31:24 and 23:0 of the first word
        list_address        of elements in a chained list: that list's bus address
        contexts            list of context words, if it has any
        address, length     of simple and chain (no address when the count is 0)
        pages               of page_list: list of address, length
        sgl_attribute_flags, page_frame_size        of attributes
        data                bytes: of immediate, transport and transaction elements
    command                 of SCSI requests and DPT's private ones: opcode, name (text), the
                            command's own fields (lba, transfer_length, allocation_length,
                            page_code, ...), control
    operations              if the operation list stands in the frame as immediate data
    static_frame            of exec_static_mf_create: fields of the header that it holds
    text                    text of dpt_private_driver_printf

`extra_nodes` of a reply:

    hba_status, scsi_status the two halves of a SCSI detailed_status_code
    auto_sense_transfer_count   of SCSI replies, if the layout shown has no such field
    sense                   response_code, valid, sense_key, asc, ascq, information, ...;
                            descriptors: list of type, length, data
    error_field             text: the field of the request that error_offset points at
    preserved               of FAIL replies: name (text), index, mfa, initiator_context,
                            transaction_context of the request
    lct_entry               of executive LCT events: the entry's fields
    event_words             list: event data behind the first word
    transactions            list of transaction_context, data: of replies for many
    buckets                 of lan_receive_post: list of bucket_context and packets (list of
                            packet_offset, packet_flags, packet_length, packet_status)
    rest                    bytes that nothing above explains

`extra_nodes` of DMA, the buffer as far as it was captured; offsets count from its start:

    status_block, reset_status, outbound_status, software       fields
    reclaim_list            mfa_count, mfa_release_count, entries (list of MFAs)
    hrt                     number_entries, entry_length, hrt_version, current_change_indicator,
                            entries: list of the fields of hrt_entry and bus (fields by bus type)
    lct, system_table       fields of the header, entries: list of the fields of an entry
    operations              operation_count, reserved, entries: list of
        operation, group_number, group (text)
        field_count, field_indexes (list)
        values              of field_set: fields of the group
        row_count or key_count, rows (list of key, values) or keys (list)
    results                 result_count, reserved, entries: list of
        block_size, block_status, error_info_size, group (text)
        error_info          operation_code, group_number, field_idx, ...
        values              of field_get: fields of the group
        row_count, more_flag, rows (list)               of table_get, list_get, more_get
        size                of size_get
        data                what is not explained
    config_page, config_query   text
    inquiry, vpd, read_capacity, mode_sense, mode_select, report_luns, sense    SCSI data
    reply_frame             a reply being written: its fixed and extra nodes
    sgl                     a chained list, as above
    data                    bytes: the first ones of anything else
    part                    text: which bytes of the buffer this packet has, if not all

`fixed_nodes` of a message of an endpoint are the fields of its header that mean something
(message_kind, endpoint_type, event_code, op_flags, tag, ignore, cq_data, peer_address, length,
sequence, err, prov_errno), peer and hop. Its `extra_nodes`:

    data                    bytes: the first ones, or
    NAME                    what a protocol that is known makes of it: see `payload`

In any of these: `note`, text: why something is not complete, and `problem`, as above.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from i2o.decode.buffer_nodes import buffer_nodes
from i2o.decode.conversation import DMA, MESSAGE, REPLY, REQUEST, Traced
from i2o.decode.event_nodes import event_data_text, event_names
from i2o.decode.fields import MAX_ITEMS, field_nodes, group_node, list_node, number_node
from i2o.decode.frame_problems import frame_problems
from i2o.decode.message_nodes import message_nodes, payload_nodes
from i2o.decode.reply_nodes import reply_nodes
from i2o.decode.request_nodes import request_nodes
from i2o.decode.tree import Node
from i2o.decode.values import class_name, names_text, tid_text, version_text
from i2o.frames import catalog
from i2o.frames.functions import Function
from i2o.frames.header import HEADER_SIZE, MSG_HEADER, VERSION_1_5, DetailedStatus
from i2o.frames.host_ranges import sgl_start
from i2o.frames.layout import Layout
from i2o.transport.capture.packet import Packet

_MIN_WORDS: Final = 3
_EVENTS: Final = (Function.UTIL_EVENT_REGISTER.value, Function.UTIL_EVENT_ACK.value)


def fixed_nodes(traced: Traced) -> list[Node]:
    """Return one leaf per field of a packet's layout, then what is wrong with it.

    Args:
        traced: a packet in its context.

    Returns:
        The nodes; none for DMA.
    """
    if traced.kind == MESSAGE:
        return message_nodes(traced)
    if traced.kind not in (REQUEST, REPLY):
        return []
    layout = None if traced.is_short else traced.layout
    shown: Layout = layout or MSG_HEADER
    frame = frame_of(traced)
    nodes, missing = field_nodes(
        shown, frame, device_class=traced.device_class, meanings=_meanings(traced)
    )
    if layout is None and len(frame) > HEADER_SIZE:
        nodes.append(_words(frame))
    return nodes + frame_problems(traced, layout, missing)


def extra_nodes(traced: Traced) -> list[Node]:
    """Return what is not in the fixed part: lists, commands, sense data, events, buffers.

    Args:
        traced: a packet in its context.

    Returns:
        The nodes; see the module.
    """
    if traced.kind == DMA:
        if traced.is_reply_frame:
            return [_reply_frame(traced)]
        return buffer_nodes(traced)
    if traced.kind == MESSAGE:
        return payload_nodes(traced)
    if traced.is_short:
        return []
    frame = frame_of(traced)
    return request_nodes(traced, frame) if traced.kind == REQUEST else reply_nodes(traced, frame)


def frame_of(traced: Traced) -> bytes:
    """Return a frame cut at its MessageSize, or whole if that is too small for a header."""
    return traced.frame if traced.size_words >= _MIN_WORDS else traced.packet.data


def _words(frame: bytes) -> Node:
    end = len(frame)
    start = sgl_start(frame)
    if HEADER_SIZE <= start < end:
        end = start
    places = range(HEADER_SIZE, min(end, HEADER_SIZE + 4 * MAX_ITEMS), 4)
    items = [number_node(str(n), frame[:end], at, min(4, end - at)) for n, at in enumerate(places)]
    return list_node("words", items, f"from word {HEADER_SIZE // 4} on")


def _meanings(traced: Traced) -> dict[str, Callable[[int], str]]:
    """Return what to say about the fields whose meaning depends on the context."""
    device_class, function = traced.device_class, traced.function
    found: dict[str, Callable[[int], str]] = {
        "target_address": lambda tid: _target(tid, traced),
        "function_to_abort": lambda code: catalog.function_name(code, device_class),
    }
    if traced.kind == REPLY:
        found["version_offset"] = _reply_version
        own = catalog.detailed_status(*traced.meant)
        found["detailed_status_code"] = lambda code: (
            names_text(own, code) or names_text(DetailedStatus, code)
        )
    if function in _EVENTS:
        data = traced.packet.data
        found["event_mask"] = found["event_indicator"] = lambda mask: event_names(
            mask, device_class
        )
        indicator = int.from_bytes(data[16:20], "little")
        found["event_data"] = lambda word: event_data_text(indicator, word, device_class)
    return found


def _target(tid: int, traced: Traced) -> str:
    if tid == traced.target and tid and traced.device_class is not None and not _swapped(traced):
        return class_name(traced.device_class)
    return tid_text(tid)


def _swapped(traced: Traced) -> bool:
    return traced.request is not None and traced.request.target != traced.target


def _reply_version(value: int) -> str:
    if value == VERSION_1_5:
        return "I2O 1.5"
    return version_text(value).replace("SGL", "TRL").replace("no TRL", "no list")


def _reply_frame(traced: Traced) -> Node:
    """Return `reply_frame`: the reply that an IOP writes to host memory."""
    packet = traced.packet
    data = packet.data
    frame = Packet(packet.time_ns, packet.iop, packet.channel, data, packet.length)
    reply = Traced(
        traced.index,
        frame,
        REPLY,
        data[1],
        int.from_bytes(data[2:4], "little"),
        int.from_bytes(data[4:8], "little"),
        traced.device_class,
    )
    reply.request = traced.request
    return group_node("reply_frame", [*fixed_nodes(reply), *extra_nodes(reply)], reply.name)
