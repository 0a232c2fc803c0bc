# SPDX-License-Identifier: Apache-2.0
"""Messages of a remote IOP: packets of records, and the I2O frames in them.

An endpoint is known by the HELLO that passed it. Its frames are put into a conversation of their
own, so that replies find their requests there, too.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

from i2o.decode.conversation import Conversation, Traced
from i2o.decode.fields import bytes_node, field_nodes, group_node, list_node, problem, text_node
from i2o.decode.frame import extra_nodes, fixed_nodes
from i2o.decode.payload import Payload
from i2o.decode.summary import summary
from i2o.decode.text import ascii_text
from i2o.decode.tree import Node
from i2o.decode.values import number_text
from i2o.decode.wire_stream import (
    HEAD_SIZE,
    WirePacket,
    WireRecord,
    WireStream,
    is_hello,
    read_packet,
)
from i2o.transport.capture.message_record import Kind as MessageKind
from i2o.transport.capture.message_record import MessageRecord
from i2o.transport.capture.packet import Channel, Packet
from i2o.transport.wire.messages import LAYOUTS, PACKET, Kind

MAX_STREAMS: Final = 256
"""Directions of sessions that are followed; then the oldest is forgotten."""
MAX_ENDPOINTS: Final = 256
"""Endpoints whose frames are put into context; then the oldest is forgotten."""

_FRAMES: Final = {
    Kind.POST.value: Channel.IN.value,
    Kind.REPLY.value: Channel.OUT.value,
}
_SAID: Final = 3
_UNASKED: Final = " ! answers no request that was seen"
_SHOWN: Final = 64
_TEXTS: Final = (Kind.HELLO.value, Kind.REFUSED.value)


class WireFollower:
    """Follows remote IOPs."""

    def __init__(self) -> None:
        self._frames: OrderedDict[int, Conversation] = OrderedDict()
        self._streams: OrderedDict[tuple[int, bool, int], WireStream] = OrderedDict()

    def follow(self, endpoint: int, time_ns: int, record: MessageRecord) -> Payload | None:
        """Take the next message; None if it belongs to no session."""
        payload = record.payload
        if is_hello(payload) and endpoint not in self._frames:
            self._frames[endpoint] = Conversation()
            if len(self._frames) > MAX_ENDPOINTS:
                self._frames.popitem(last=False)
        conversation = self._frames.get(endpoint)
        if conversation is None:
            return None
        is_sent = record.kind == MessageKind.SEND
        key = endpoint, is_sent, int.from_bytes(payload[:2], "little")
        stream = self._streams.get(key)
        if stream is None:
            stream = self._streams[key] = WireStream()
            if len(self._streams) > MAX_STREAMS:
                self._streams.popitem(last=False)
        packet = read_packet(payload, max(0, record.length - len(payload)), stream)
        if packet is None:
            return None
        frames = {
            at: conversation.feed(
                Packet(time_ns, 0, _FRAMES[found.kind], found.data, len(found.data))
            )
            for at, found in enumerate(packet.records)
            if found.kind in _FRAMES
        }
        return WirePayload(packet, frames)


class WirePayload:
    """One packet of a remote IOP.

    Args:
        packet: what it says.
        frames: frames in their context, by the place of their record.
    """

    name = "wire"

    def __init__(self, packet: WirePacket, frames: dict[int, Traced]) -> None:
        self.packet, self._frames = packet, frames

    def text(self) -> str:
        """Return the first records in words."""
        packet = self.packet
        order = sorted(range(len(packet.records)), key=lambda at: at not in self._frames)
        parts = [self._record_text(at) for at in order[:_SAID]]
        if len(packet.records) > _SAID:
            parts.append(f"{len(packet.records) - _SAID} more")
        if packet.waits_for is not None:
            parts.append(f"packet {packet.number}, read with packet {packet.waits_for} to come")
        elif not parts and packet.credits:
            parts.append(f"{packet.credits} packets given back")
        text = "; ".join(parts)
        return f"{text} ! {packet.complaint}".lstrip() if packet.complaint else text

    def nodes(self) -> list[Node]:
        """Return the header and every record."""
        packet = self.packet
        head = PACKET.build(session=packet.session, number=packet.number, credits=packet.credits)
        nodes, _ = field_nodes(PACKET, head)
        records = [
            Node(
                str(at),
                None,
                _kind_name(record.kind),
                record.place,
                children=self._record_nodes(at, record),
            )
            for at, record in enumerate(packet.records)
        ]
        nodes.append(list_node("records", records, offset=HEAD_SIZE))
        if packet.waits_for is not None:
            nodes.append(text_node("note", f"it waits for packet {packet.waits_for}"))
        if packet.complaint:
            nodes.append(problem(packet.complaint))
        return nodes

    def _record_text(self, at: int) -> str:
        record = self.packet.records[at]
        name = _kind_name(record.kind)
        frame = self._frames.get(at)
        if frame is not None:
            # its request may be in a part of a packet that was not captured
            text = "" if frame.is_short else summary(frame).replace(_UNASKED, "")
            return f"{name} {frame.target:03x} {frame.name} {text}".rstrip()
        if record.kind in _TEXTS:
            return f"{name} {ascii_text(record.data)}".rstrip()
        if record.place is None and record.first:
            return f"{name} goes on, {len(record.data)} bytes at {record.first}"
        fields = dict(zip(_field_names(record.kind), record.fields, strict=True))
        if "address" in fields and "length" in fields:
            return f"{name} {fields['length']} bytes at {fields['address']:#010x}"
        said = " ".join(f"{name} {number_text(name, 32, fields[name])}" for name in fields)
        return f"{name} {said}".rstrip()

    def _record_nodes(self, at: int, record: WireRecord) -> list[Node]:
        nodes = [text_node("record", _kind_name(record.kind), record.place, 1)]
        if record.place is not None:
            values = dict(zip(_field_names(record.kind), record.fields, strict=True))
            layout = LAYOUTS[Kind(record.kind)]
            if layout.size:
                fields, _ = field_nodes(layout, layout.build(**values))
                nodes += [_moved(node, record.place + 1) for node in fields]
        frame = self._frames.get(at)
        if frame is not None:
            inner = [*fixed_nodes(frame), *extra_nodes(frame)]
            shift = record.data_at
            nodes.append(group_node("frame", [_moved(node, shift) for node in inner], frame.name))
        elif record.data:
            shown = record.data[:_SHOWN]
            nodes.append(bytes_node("data", shown, record.data_at, ascii_text(shown)))
        return nodes


def _kind_name(kind: int) -> str:
    return Kind(kind).name


def _field_names(kind: int) -> list[str]:
    return [field.path for field in LAYOUTS[Kind(kind)].fields]


def _moved(node: Node, by: int | None) -> Node:
    """Return a node whose places count from elsewhere; without a place if that is not here."""
    offset = None if node.offset is None or by is None else node.offset + by
    children = [_moved(child, by) for child in node.children]
    return Node(
        node.name,
        node.value,
        node.meaning,
        offset,
        node.bit,
        node.width_bits,
        children,
        node.is_list,
        node.is_problem,
    )
