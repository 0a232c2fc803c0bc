# SPDX-License-Identifier: Apache-2.0
"""Network messages in captured messages."""

from __future__ import annotations

import contextlib
import random

import pytest

from fakes.decoded import decoded, problems
from fakes.message_traffic import SEND, message_packet
from i2o.decode import network_payload
from i2o.decode.conversation import Conversation, Traced
from i2o.decode.network_payload import NetworkFollower, is_hello
from i2o.decode.payload_followers import payload_followers
from i2o.decode.summary import summary
from i2o.network_message import Node, nmsg
from i2o.network_message.errors import WouldBlock
from i2o.network_message.packet import Kind, Packer
from i2o.transport.capture.endpoint_recorder import packet_recorder
from i2o.transport.capture.endpoint_tap import TapEndpoint
from i2o.transport.capture.message_record import Kind as MessageKind
from i2o.transport.capture.message_record import MessageRecord
from i2o.transport.capture.packet import Packet
from i2o.transport.fabric.mem import MemoryFabric
from i2o.transport.fabric.software_endpoint import SoftwareEndpoint


class Line:
    def __init__(self) -> None:
        self.conversation = Conversation(payload_followers())

    def say(self, payload: bytes, endpoint: int = 0) -> Traced:
        record = MessageRecord(
            MessageKind.RECEIVED, op_flags=SEND, length=len(payload), payload=payload
        )
        return self.conversation.feed(message_packet(0, record, 1, endpoint=endpoint))


def text_of(traced: Traced) -> str:
    return summary(traced).partition(": ")[2]


@pytest.mark.parametrize("is_big", [False, True], ids=["little-endian", "big-endian"])
def test_packets_of_a_node(is_big: bool) -> None:
    packer, line = Packer(3, is_big_endian=is_big), Line()
    data = packer.header(Kind.DATA, 9, 1, 7, 0x10, 2, 500, 100, b"p" * 32) + b"body"
    assert line.say(data).payload is None  # before the node was introduced
    assert text_of(line.say(packer.header(Kind.HELLO, 9, length=65536) + b"tcp://here")) == (
        "HELLO of node 3 at tcp://here"
    )
    traced = line.say(data)
    assert text_of(traced) == ("DATA of node 3, message 1, event 7 type 0x10, 500 bytes at 100")
    assert decoded(traced)["network_message"] == {
        "packet": "DATA",
        "version": 1,
        "kind": 2,
        "is_big_endian": int(is_big),
        "source": 3,
        "session": 9,
        "message": 1,
        "event": 7,
        "type": 0x10,
        "flags": 2,
        "length": 500,
        "offset": 100,
        "pouch": (b"p" * 32).hex(),
        "data": b"body".hex(),
    }
    assert text_of(line.say(packer.header(Kind.CREDIT, 9, length=99))) == (
        "CREDIT of node 3, 99 bytes"
    )
    assert text_of(line.say(packer.header(Kind.ACCEPT, 9, 5))) == "ACCEPT of node 3, message 5"
    negative = line.say(packer.header(Kind.DATA, 9, 1, -5, -1))
    assert decoded(negative)["network_message"]["event"] == -5
    assert decoded(negative)["network_message"]["type"] == -1


def test_what_makes_no_sense_is_said() -> None:
    packer, line = Packer(3), Line()
    line.say(packer.header(Kind.HELLO, 9) + b"here")
    short = line.say(b"abc")
    assert text_of(short) == "! a packet of 3 bytes has no header of 68"
    assert problems(short) == ["a packet of 3 bytes has no header of 68"]
    odd = line.say(packer.header(99, 9))
    assert text_of(odd) == "kind 99 of node 3"
    assert problems(odd) == ["kind 99 is not known"]
    assert line.say(b"abc", endpoint=1).payload is None


def test_what_begins_like_a_hello_and_is_none() -> None:
    good = bytearray(Packer(3).header(Kind.HELLO, 9) + b"here")
    assert is_hello(bytes(good))
    for at, value in ((0, 2), (1, 2), (2, 2), (3, 1), (8, 0), (12, 1), (16, 2), (20, 1), (24, 1),
                      (32, 1), (40, 1), (68, 0x1F), (70, 0x7F)):  # fmt: skip
        bad = bytearray(good)
        bad[at] = value
        assert not is_hello(bytes(bad)), at
    assert not is_hello(bytes(good[:68]))


def test_random_bytes_end_in_words() -> None:
    rng = random.Random(1)
    line = Line()
    line.say(Packer(3).header(Kind.HELLO, 9) + b"here")
    for _ in range(500):
        payload = bytes((1, rng.randrange(16))) + rng.randbytes(rng.randrange(120))
        traced = line.say(payload)
        assert "\n" not in summary(traced)
        decoded(traced)


def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(network_payload, "MAX_ENDPOINTS", 2)
    follower = NetworkFollower()
    hello = Packer(3).header(Kind.HELLO, 9) + b"here"
    record = MessageRecord(MessageKind.SEND, payload=hello)
    assert all(follower.follow(endpoint, 0, record) for endpoint in range(5))
    assert list(follower._known) == [3, 4]


def test_nodes_over_captured_endpoints() -> None:
    packets: list[Packet] = []
    fabric = MemoryFabric()
    tap = TapEndpoint(SoftwareEndpoint(fabric.carrier("a")), packet_recorder(packets.append))
    with Node(0, tap) as here, Node(1, SoftwareEndpoint(fabric.carrier("b"))) as there:
        here.add_node(1, there.address)
        sender, receiver = here.attach("sender"), there.attach("receiver")
        message = nmsg(nh_node=1, nh_event=7, nh_type=1, nh_length=5, nh_msg=b"hello")
        sender.nsend(message, timeout_s=5)
        room = bytearray(9)
        wanted = nmsg(nh_event=7, nh_type=1, nh_length=9, nh_msg=room)
        for _ in range(100):
            for process, asked in ((receiver, wanted), (sender, nmsg(nh_event=99))):
                with contextlib.suppress(WouldBlock):
                    process.ntry_recv(asked)
            if room[:5] == b"hello":
                break
        assert room[:5] == b"hello"
    conversation = Conversation(payload_followers())
    texts = [text_of(conversation.feed(packet)) for packet in packets]
    assert "HELLO of node 0 at a" in texts
    assert "DATA of node 0, message 1, event 7 type 0x1, 5 bytes" in texts
