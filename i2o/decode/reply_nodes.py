# SPDX-License-Identifier: Apache-2.0
"""What a reply has besides its fields: sense data, the failed request, events, transactions."""

from __future__ import annotations

from typing import Final

from i2o.decode.conversation import Traced
from i2o.decode.event_nodes import event_nodes
from i2o.decode.fields import (
    MAX_ITEMS,
    bytes_node,
    field_nodes,
    group_node,
    list_node,
    number_node,
    text_node,
)
from i2o.decode.scsi_nodes import sense_node
from i2o.decode.tree import Node
from i2o.decode.values import names_text
from i2o.frames import header, lan
from i2o.frames.catalog import request_layout
from i2o.frames.functions import DeviceClass, Function
from i2o.frames.header import HEADER_SIZE, MsgFlags, ReqStatus, TrlFlags
from i2o.frames.host_ranges import sgl_start
from i2o.frames.lan import LanPacketFlags
from i2o.frames.layout import MessageLayout
from i2o.frames.scsi import ScsiDeviceStatus, ScsiHbaStatus

_FAIL: Final = MsgFlags.FAIL.value
_MULTIPLE: Final = MsgFlags.MULTIPLE.value
_EVENTS: Final = (Function.UTIL_EVENT_REGISTER.value, Function.UTIL_EVENT_ACK.value)
_SCSI: Final = (
    DeviceClass.SCSI_PERIPHERAL.value,
    DeviceClass.FIBRE_CHANNEL_PERIPHERAL.value,
)
_SENSE_COUNT: Final = 24
_SENSE: Final = 28
_ERROR_OFFSET: Final = 20
_TRL: Final = 20
_LAST_PACKET: Final = LanPacketFlags.LAST_PACKET.value
_LAN_SENDS: Final = (Function.LAN_PACKET_SEND.value, Function.LAN_SDU_SEND.value)


def reply_nodes(traced: Traced, frame: bytes) -> list[Node]:
    """Return the nodes of a reply that are not in its layout.

    Args:
        traced: the reply in its context.
        frame: its bytes.
    """
    layout = traced.layout
    if layout is None:
        return []
    end = layout.size
    nodes: list[Node] = []
    function, device_class = traced.meant
    if traced.flags & _FAIL:
        nodes += _preserved(traced.request)
    elif function in _EVENTS:
        nodes += event_nodes(frame, device_class)
        end = len(frame)
    elif layout is header.TRANSACTION_ERROR_REPLY:
        nodes += _error_field(traced, frame)
    elif device_class == DeviceClass.LAN and layout.chapter == "lan":
        more = _lan_list(frame, function)
        nodes, end = more, len(frame) if more else end
    elif traced.flags & _MULTIPLE and layout is header.MULTIPLE_TRANSACTION_REPLY:
        nodes, end = _transactions(frame, _TRL), len(frame)
    elif device_class in _SCSI and layout.chapter == "scsi_peripheral":
        nodes, end = _scsi(frame, layout)
    if len(frame) > end:
        nodes.append(bytes_node("rest", frame[end : end + MAX_ITEMS], end))
    return nodes


def _preserved(request: Traced | None) -> list[Node]:
    if request is None:
        return []
    data = request.packet.data
    nodes = [text_node("name", request.name), Node("index", request.index)]
    if request.packet.mfa is not None:
        nodes.append(Node("mfa", request.packet.mfa))
    for name, at in (("initiator_context", 8), ("transaction_context", 12)):
        if len(data) >= at + 4:
            nodes.append(Node(name, int.from_bytes(data[at : at + 4], "little")))
    return [group_node("preserved", nodes, request.name)]


def _error_field(traced: Traced, frame: bytes) -> list[Node]:
    """Return which field of the request a transaction error complains about."""
    if len(frame) < _ERROR_OFFSET + 5:
        return []
    byte = int.from_bytes(frame[_ERROR_OFFSET : _ERROR_OFFSET + 4], "little")
    bit = frame[_ERROR_OFFSET + 4]
    request = traced.request
    layout = (
        request.layout
        if request is not None and not request.is_short
        else request_layout(traced.function, traced.device_class)
    )
    where = 8 * byte + bit
    for field in layout.fields if layout else ():
        first = 8 * field.byte + field.bit
        if first <= where < first + field.width_bits:
            return [text_node("error_field", field.path)]
    if request is not None and len(request.frame) >= HEADER_SIZE:
        start = sgl_start(request.frame)
        if start and byte >= start:
            return [text_node("error_field", "sgl")]
    return []


def _scsi(frame: bytes, layout: MessageLayout) -> tuple[list[Node], int]:
    """Return the status of adapter and device, the sense data, and the byte behind them."""
    nodes: list[Node] = []
    end = layout.size
    if len(frame) < HEADER_SIZE + 4:
        return nodes, end
    hba, device = frame[17] << 8, frame[16]
    nodes.append(Node("hba_status", hba >> 8, names_text(ScsiHbaStatus, hba), 17, 0, 8))
    nodes.append(Node("scsi_status", device, names_text(ScsiDeviceStatus, device), 16, 0, 8))
    if len(frame) < _SENSE:
        return nodes, end
    count = int.from_bytes(frame[_SENSE_COUNT:_SENSE], "little")
    if end <= _SENSE_COUNT:
        nodes.append(Node("auto_sense_transfer_count", count, "", _SENSE_COUNT, 0, 32))
        end = _SENSE
    if frame[19] == ReqStatus.SUCCESS or len(frame) == _SENSE:
        return nodes, end
    stop = min(len(frame), _SENSE + count) if count else len(frame)
    if count or any(frame[_SENSE:]):
        nodes.append(sense_node(frame, _SENSE, stop))
    return nodes, max(end, stop)


# --- replies for many transactions -------------------------------------------------------------


def _lan_list(frame: bytes, function: int) -> list[Node]:
    if function in _LAN_SENDS:
        return _transactions(frame, _TRL)
    if function == Function.LAN_RECEIVE_POST and len(frame) > _TRL + 4:
        return _buckets(frame)
    return []


def _transactions(frame: bytes, start: int) -> list[Node]:
    """Return `transactions`, the list behind the status word."""
    if len(frame) < start + 4:
        return []
    count, words = frame[12], max(1, frame[13])
    end = len(frame)
    items: list[Node] = []
    at = start
    while at + 4 <= end and len(items) < count:
        nodes = [number_node("transaction_context", frame, at, 4)]
        stop = min(end, at + 4 * words)
        if frame[15] == TrlFlags.SINGLE_VARIABLE_LENGTH:
            stop = end
        if stop > at + 4:
            nodes.append(bytes_node("data", frame[at + 4 : stop], at + 4))
        items.append(group_node(str(len(items)), nodes))
        at = stop
    nodes = [list_node("transactions", items)]
    if len(items) < count:
        nodes.append(text_node("note", f"{len(items)} of {count} transactions are here"))
    if at < end:
        nodes.append(bytes_node("rest", frame[at:end], at))
    return nodes


def _buckets(frame: bytes) -> list[Node]:
    """Return `buckets`: each with the packets in it, behind buckets_remaining."""
    count, end = frame[12], len(frame)
    bare = frame[15] != TrlFlags.SINGLE_VARIABLE_LENGTH
    items: list[Node] = []
    at = _TRL + 4
    while at + 4 <= end and len(items) < count:
        nodes = [number_node("bucket_context", frame, at, 4)]
        at += 4
        packets: list[Node] = []
        while not bare and at + 8 <= end:
            fields, _ = field_nodes(lan.LAN_PACKET_INFO, frame, at, at + 8)
            flags = frame[at + 3]
            packets.append(group_node(str(len(packets)), fields))
            at += 8
            if flags & _LAST_PACKET:
                break
        if packets:
            nodes.append(list_node("packets", packets))
        items.append(group_node(str(len(items)), nodes))
    nodes = [list_node("buckets", items)]
    if len(items) < count:
        nodes.append(text_node("note", f"{len(items)} of {count} buckets are here"))
    if at < end:
        nodes.append(bytes_node("rest", frame[at:end], at))
    return nodes
