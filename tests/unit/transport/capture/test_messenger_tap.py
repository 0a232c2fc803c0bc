# SPDX-License-Identifier: Apache-2.0
"""A tap in front of a messenger of TCP peers."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from typing import Any

import pytest

from i2o.transport.capture.endpoint_recorder import packet_recorder
from i2o.transport.capture.message_record import EventCode, Kind, MessageRecord, unpack_record
from i2o.transport.capture.messenger_tap import TapMessenger
from i2o.transport.capture.packet import Packet
from i2o.transport.tcp.errors import AddresseeUnknown, PeerError
from i2o.transport.tcp.mailbox import Message
from i2o.transport.tcp.messenger import Messenger
from i2o.transport.tcp.peer_name import PeerName

HERE, THERE, FAR = PeerName(1, 0), PeerName(1, 1), PeerName(1, 9)


class Pair:
    """Two messengers, the first one with a tap."""

    def __init__(self) -> None:
        self.packets: list[Packet] = []
        self.there = Messenger(THERE)
        recorder = packet_recorder(self.packets.append, payload_bytes=8)
        self.tap = TapMessenger(Messenger(HERE), recorder)
        self.tap.set_peer(THERE, [self.there.address])
        self.there.set_peer(HERE, [self.tap.address])

    @property
    def records(self) -> list[MessageRecord]:
        return [unpack_record(packet.data) for packet in self.packets]

    def drive(self, until: list[Any]) -> None:
        for _ in range(5000):
            if until:
                return
            self.tap.progress(0.001)
            self.there.progress(0.001)
        raise AssertionError("nothing came")


@pytest.fixture
def pair() -> Iterator[Pair]:
    made = Pair()
    yield made
    made.tap.close()
    made.there.close()


def test_a_message_there_and_back(pair: Pair) -> None:
    ends: list[PeerError | None] = []
    got: list[Message] = []
    pair.there.recv_nb(got.append, 7)
    pair.tap.send_nb(THERE, [b"hello ", b"there"], 7, ends.append)
    pair.drive(got)
    pair.drive(ends)
    assert ends == [None]
    assert got[0].data == b"hello there"
    answers: list[Message] = []
    pair.tap.recv_nb(answers.append, 8)
    pair.there.send_nb(HERE, [b"answer"], 8)
    pair.drive(answers)
    send, sent, received = pair.records[:3]
    assert (send.kind, send.tag, send.peer, send.payload) == (Kind.SEND, 7, "1.1", b"hello th")
    assert send.length == 11
    assert (sent.kind, sent.peer) == (Kind.SENT, "1.1")
    assert pair.packets[0].mfa == pair.packets[1].mfa
    assert (received.kind, received.tag, received.payload) == (Kind.RECEIVED, 8, b"answer")
    assert (received.peer, received.hop, received.sequence) == ("1.1", "", 1)


def test_what_is_refused_is_not_recorded(pair: Pair) -> None:
    with pytest.raises(AddresseeUnknown):
        pair.tap.send_nb(FAR, [b"x"], 1)
    assert not pair.packets
    with pytest.raises(AddresseeUnknown):
        pair.tap.send(FAR, [b"x"], 1)
    assert [record.kind for record in pair.records] == [Kind.SEND, Kind.SEND_FAILED]
    assert pair.packets[1].comment


def test_everything_else_is_the_messengers(pair: Pair) -> None:
    assert pair.tap.name == HERE
    pair.tap.connect(THERE)
    pair.tap.disconnect(THERE)
    assert [(one.event, one.peer) for one in pair.records] == [
        (EventCode.CONNECT, "1.1"),
        (EventCode.CLOSE, "1.1"),
    ]
    with pytest.raises(AttributeError):
        TapMessenger.__new__(TapMessenger).inner  # noqa: B018


class Scripted:
    """A messenger that ends a message before its sender is back, as an event loop may."""

    def __init__(self, error: PeerError | None) -> None:
        self._error = error

    def send_nb(self, destination: PeerName, iov: Any, tag: int, callback: Any = None) -> None:
        callback(self._error)

    def send(self, destination: PeerName, iov: Any, tag: int, timeout_s: Any = None) -> None: ...

    def recv(self, *arguments: Any) -> Message:
        return Message(FAR, THERE, 3, b"over a relay", 5)

    def close(self) -> None: ...


def test_an_end_that_is_quicker_than_its_sender() -> None:
    packets: list[Packet] = []
    error = PeerError(errno.ECONNRESET, "gone")
    ends: list[PeerError | None] = []
    with TapMessenger(Scripted(error), packet_recorder(packets.append)) as tap:  # type: ignore[arg-type]
        tap.send_nb(THERE, [b"x"], 1, ends.append)
        tap.send_nb(THERE, [b"x"], 1)
        tap.send(THERE, [b"x"], 1)
        assert tap.recv().data == b"over a relay"
        tap.send_nb(THERE, None, 1)  # type: ignore[arg-type]
    records = [unpack_record(packet.data) for packet in packets]
    assert [record.kind for record in records] == [
        Kind.SEND, Kind.SEND_FAILED, Kind.SEND, Kind.SEND_FAILED, Kind.SEND, Kind.SENT,
        Kind.RECEIVED, Kind.SEND_FAILED, Kind.EVENT,
    ]  # fmt: skip
    assert records[1].err == errno.ECONNRESET
    assert "gone" in packets[1].comment
    assert (records[6].peer, records[6].hop) == ("1.9", "1.1")
    assert ends == [error]
