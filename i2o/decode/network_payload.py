# SPDX-License-Identifier: Apache-2.0
"""Network messages in captured messages: docs/network-messages.md has the protocol.

An endpoint is known by the HELLO that passed it, which no other protocol begins with: apart from
its few fields all of the header is zero, and an address follows.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

from i2o.decode.fields import bytes_node, number_node, problem, text_node
from i2o.decode.payload import Payload
from i2o.decode.text import ascii_text, printable
from i2o.decode.tree import Node
from i2o.errors import RemoteFrameError
from i2o.network_message.packet import HEADER_SIZE, PACKET, VERSION, Header, Kind, parse
from i2o.transport.capture.message_record import MessageRecord

MAX_ENDPOINTS: Final = 1024
"""Endpoints that are known; then the oldest is forgotten."""

_SHOWN: Final = 64
_NO_POUCH: Final = bytes(32)
_NAMES: Final = {kind.value: kind.name for kind in Kind}
_WITH_DESCRIPTOR: Final = (Kind.DATA, Kind.OFFER, Kind.OFFER_TRANSFER)


class NetworkFollower:
    """Follows network messages."""

    def __init__(self) -> None:
        self._known: OrderedDict[int, None] = OrderedDict()

    def follow(self, endpoint: int, time_ns: int, record: MessageRecord) -> Payload | None:
        """Take the next message; None if it is none of a node."""
        payload = record.payload
        if endpoint not in self._known:
            if not is_hello(payload):
                return None
            self._known[endpoint] = None
            if len(self._known) > MAX_ENDPOINTS:
                self._known.popitem(last=False)
        try:
            header = parse(memoryview(payload))
        except RemoteFrameError as error:
            return NetworkPayload(None, payload, str(error))
        return NetworkPayload(header, payload)


class NetworkPayload:
    """One packet of a node.

    Args:
        header: its header; None if there is none.
        payload: the message, as far as it was captured.
        complaint: why there is no header.
    """

    name = "network_message"

    def __init__(self, header: Header | None, payload: bytes, complaint: str = "") -> None:
        self._header, self._body, self._complaint = header, payload[HEADER_SIZE:], complaint
        self._payload = payload

    def text(self) -> str:
        """Return what kind it is, of which node, and what it says."""
        header = self._header
        if header is None:
            return f"! {self._complaint}"
        kind = header.kind
        text = f"{_NAMES.get(kind, f'kind {kind}')} of node {header.source}"
        if kind == Kind.HELLO:
            return f"{text} at {printable(self._body.decode('utf-8', 'replace'))}"
        if header.message:
            text += f", message {header.message}"
        if kind in _WITH_DESCRIPTOR:
            text += f", event {header.event} type {header.type:#x}"
        if kind in (*_WITH_DESCRIPTOR, Kind.CREDIT):
            text += f", {header.length} bytes"
        if header.offset:
            text += f" at {header.offset}"
        return text

    def nodes(self) -> list[Node]:
        """Return the header's fields in the sender's byte order, and the body."""
        header = self._header
        if header is None:
            return [problem(self._complaint), bytes_node("data", self._payload[:_SHOWN], 0)]
        is_big = bool(header.is_big_endian)
        nodes = []
        for field in PACKET.fields:
            if field.kind == "bytes":
                if header.pouch != _NO_POUCH:
                    nodes.append(bytes_node(field.path, header.pouch, field.byte))
                continue
            size = field.width_bits // 8
            node = number_node(field.path, self._payload, field.byte, size, big=is_big)
            if field.kind == "sint":
                node.value = int(getattr(header, field.path))
            nodes.append(node)
        nodes.insert(0, text_node("packet", _NAMES.get(header.kind, "unknown"), 1, 1))
        if header.kind not in _NAMES:
            nodes.append(problem(f"kind {header.kind} is not known", 1))
        if self._body:
            shown = self._body[:_SHOWN]
            nodes.append(bytes_node("data", shown, HEADER_SIZE, ascii_text(shown)))
        return nodes


def is_hello(payload: bytes) -> bool:
    """Whether a message introduces a node, beyond doubt."""
    if len(payload) <= HEADER_SIZE or payload[:2] != bytes((VERSION, Kind.HELLO)):
        return False
    if payload[2] > 1 or payload[3]:
        return False
    header = parse(memoryview(payload))
    address = payload[HEADER_SIZE:]
    return (
        header.session > 0
        and header.event in (0, 1)
        and not (header.message or header.type or header.flags or header.offset)
        and header.pouch == _NO_POUCH
        and all(0x20 < byte < 0x7F for byte in address)
    )
