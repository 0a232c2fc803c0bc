# SPDX-License-Identifier: Apache-2.0
"""Frames and DMA put into a conversation by hand, and decoded to plain dicts."""

from __future__ import annotations

import struct
from itertools import count
from typing import Any

from i2o.decode.conversation import Conversation, Traced
from i2o.decode.frame import extra_nodes, fixed_nodes
from i2o.decode.tree import Node
from i2o.frames.sgl import simple_sgl
from i2o.transport.capture.packet import Channel, Packet

OUT = 0x0010_0000
IN = 0x0020_0000
MFA = 0x1000


def sized(frame: bytes, words: int | None = None) -> bytes:
    """Return a frame with a right MessageSize, or the one given."""
    size = len(frame) // 4 if words is None else words
    return frame[:2] + struct.pack("<H", size) + frame[4:]


def with_buffers(head: bytes, *sizes: int) -> bytes:
    """Return a request with one OUT buffer, if there are two, and one IN buffer."""
    if len(sizes) == 1:
        return sized(head + simple_sgl([(IN, sizes[0])], out=False))
    sgl = simple_sgl([(OUT, sizes[0])], out=True, last=False)
    return sized(head + sgl + simple_sgl([(IN, sizes[1])], out=False))


def answer(request: bytes, reply: bytes) -> bytes:
    """Return a reply with the route and the contexts of a request."""
    return reply[:4] + request[4:16] + reply[16:]


class Talk:
    """A conversation."""

    def __init__(self) -> None:
        self.conversation = Conversation()
        self._time = count(1000, 1000)

    def say(
        self,
        channel: Channel,
        data: bytes,
        *,
        length: int | None = None,
        mfa: int | None = MFA,
        address: int = 0,
    ) -> Traced:
        size = len(data) if length is None else length
        packet = Packet(next(self._time), 0, channel.value, data, size, mfa, address)
        return self.conversation.feed(packet)

    def request(self, frame: bytes, **more: Any) -> Traced:
        return self.say(Channel.IN, frame, **more)

    def reply(self, frame: bytes, **more: Any) -> Traced:
        return self.say(Channel.OUT, frame, **{"mfa": None, **more})

    def to_device(self, data: bytes, address: int = OUT, **more: Any) -> Traced:
        return self.say(Channel.TO_DEVICE, data, address=address, **more)

    def from_device(self, data: bytes, address: int = IN, **more: Any) -> Traced:
        return self.say(Channel.FROM_DEVICE, data, address=address, **more)

    def learn(self, **classes: int) -> None:
        """Tell the classes of TIDs, as `t010=0x020`."""
        from i2o.frames import executive, tables

        entries = b"".join(
            tables.LCT_ENTRY.build(local_tid=int(tid[1:], 16), class_id_class=number)
            for tid, number in classes.items()
        )
        words = (12 + len(entries)) // 4
        head = struct.pack("<III", words, 0, 0)
        frame = executive.EXEC_LCT_NOTIFY.build()
        self.request(with_buffers(frame, 12 + len(entries)), mfa=0xF000)
        self.from_device(head + entries, mfa=0xF000)


def nodes_of(traced: Traced) -> list[Node]:
    return fixed_nodes(traced) + extra_nodes(traced)


def decoded(traced: Traced) -> dict[str, Any]:
    """Return all nodes of a packet as JSON."""
    return {node.name: node.json() for node in nodes_of(traced)}


def problems(traced: Traced) -> list[str]:
    return [text for node in nodes_of(traced) for text in node.problems()]


def find(traced: Traced, *path: str) -> Node:
    """Return the node at a path of names."""
    nodes = nodes_of(traced)
    for name in path:
        (found,) = (node for node in nodes if node.name == name)
        nodes = found.children
    return found


def meaning(traced: Traced, *path: str) -> str:
    return find(traced, *path).meaning
