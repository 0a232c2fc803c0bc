# SPDX-License-Identifier: Apache-2.0
"""Messages of endpoints as nodes: the header that is captured with them, and their payload."""

from __future__ import annotations

from typing import Final

from i2o.decode.conversation import Traced
from i2o.decode.fields import bytes_node, field_nodes, group_node, problem, text_node
from i2o.decode.message_text import error_text, flags_text
from i2o.decode.text import ascii_text
from i2o.decode.tree import Node
from i2o.transport.capture.message_record import (
    HEADER,
    MESSAGE_HEADER,
    Kind,
    MessageRecord,
    unpack_record,
)

_SHOWN: Final = 64
_HIDDEN: Final = ("version", "present", "peer_size", "hop_size")
_OPTIONAL: Final = ("tag", "ignore", "cq_data", "peer_address", "sequence")


def message_nodes(traced: Traced) -> list[Node]:
    """Return the fields of the header that mean something, and what is wrong with it."""
    record = traced.record
    data = traced.packet.data
    if record is None:
        return [problem(_complaint(data))]
    nodes, _ = field_nodes(
        MESSAGE_HEADER,
        data,
        meanings={"op_flags": flags_text, "err": lambda code: error_text(code) if code else ""},
    )
    nodes = [node for node in nodes if _is_meant(node.name, record, node.value)]
    at = HEADER.size
    for name, text, size in (("peer", record.peer, data[6]), ("hop", record.hop, data[7])):
        if text:
            nodes.append(text_node(name, text, at, size))
        at += size
    if not any(kind.value == record.kind for kind in Kind):
        nodes.append(problem(f"kind {record.kind} is not known here", 1))
    return nodes


def payload_nodes(traced: Traced) -> list[Node]:
    """Return the payload: as its protocol says, or its first bytes."""
    record = traced.record
    if record is None:
        return [_data_node(traced.packet.data)] if traced.packet.data else []
    payload = record.payload
    if not payload:
        return []
    if traced.payload is None:
        nodes = [_data_node(payload)]
    else:
        nodes = [group_node(traced.payload.name, traced.payload.nodes())]
    if len(payload) < record.length:
        missing = record.length - len(payload)
        nodes.append(text_node("note", f"{missing} bytes of the message were not captured"))
    return nodes


def _is_meant(name: str, record: MessageRecord, value: object) -> bool:
    if name in _HIDDEN:
        return False
    if name in _OPTIONAL:
        return getattr(record, name) is not None
    if name == "event_code":
        return record.kind == Kind.EVENT
    return bool(value) or name in ("message_kind", "length")


def _data_node(data: bytes) -> Node:
    shown = data[:_SHOWN]
    return bytes_node("data", shown, 0, ascii_text(shown))


def _complaint(data: bytes) -> str:
    try:
        unpack_record(data)
    except ValueError as error:
        return str(error)
    return ""
