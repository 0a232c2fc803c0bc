# SPDX-License-Identifier: Apache-2.0
"""A tap in front of a messenger of TCP peers."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from i2o.transport.capture.endpoint_recorder import packet_recorder
from i2o.transport.capture.message_record import EventCode, Kind, MessageRecord, unpack_record
from i2o.transport.capture.messenger_tap import TapMessenger
from i2o.transport.capture.packet import Packet
from i2o.transport.tcp.errors import AddresseeUnknown, PeerError
from i2o.transport.tcp.mailbox import Message
from i2o.transport.tcp.messenger import Messenger
from i2o.transport.tcp.options import MessengerOptions, PeerOptions
from i2o.transport.tcp.peer import PeerState
from i2o.transport.tcp.peer_name import PeerName

HERE, THERE, FAR = PeerName(1, 0), PeerName(1, 1), PeerName(1, 9)


class Pair:
    """Two messengers, the first one with a tap."""

    def __init__(self) -> None:
        self.packets: list[Packet] = []
        self.there = Messenger(THERE)
        recorder = packet_recorder(self.packets.append, payload_bytes=8)
        links = PeerOptions(rounds=2, retry_delay_s=0.01)
        options = MessengerOptions(links, come_back_s=0.0)
        self.tap = TapMessenger(Messenger(HERE, options=options), recorder)
        self.tap.set_peer(THERE, [self.there.address])
        self.there.set_peer(HERE, [self.tap.address])

    @property
    def all_records(self) -> list[MessageRecord]:
        return [unpack_record(packet.data) for packet in self.packets]

    @property
    def states(self) -> list[tuple[str, str, int]]:
        """Peers, what is said of their states, and errnos."""
        return [
            (record.peer, record.payload.decode(), record.err)
            for record in self.all_records
            if record.event == EventCode.STATE
        ]

    @property
    def records(self) -> list[MessageRecord]:
        return [record for record in self.all_records if record.event != EventCode.STATE]

    def drive(self, until: list[Any] | Callable[[], object]) -> None:
        for _ in range(5000):
            if until() if callable(until) else until:
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
    first, second = (pair.packets[pair.all_records.index(record)] for record in (send, sent))
    assert first.mfa == second.mfa
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

    def watch_states(self, callback: Any) -> None: ...

    def close(self) -> None: ...


def test_every_state_of_a_link_is_recorded(pair: Pair) -> None:
    pair.tap.recorder.payload_bytes = 4096
    told: list[tuple[PeerName, PeerState, int, str]] = []
    pair.tap.watch_states(lambda *news: told.append(news))  # beside what is recorded
    pair.tap.connect(THERE)
    pair.drive(lambda: "connected" in str(pair.states))
    assert pair.states == [
        ("1.1", "connecting", 0),
        ("1.1", "connect-ack", 0),
        ("1.1", f"connected to {pair.there.address}", 0),
    ]
    pair.there.close()
    pair.drive(lambda: len(pair.states) > 3)
    pair.tap.connect(THERE)
    pair.drive(lambda: "failed" in str(pair.states))
    lost, *others, failed = pair.states[3:]
    assert lost == ("1.1", "unconnected: the other end closed the link", errno.ECONNRESET)
    assert {code for _, sentence, code in others if sentence.startswith("connect")} == {0}
    assert failed[1].startswith("failed: ")
    assert "refused" in failed[1]
    assert failed[2] == errno.ECONNREFUSED
    assert [(str(name), sentence, code) for name, _, code, sentence in told] == pair.states
    assert [state for _, state, _, _ in told[:3]] == [
        PeerState.CONNECTING, PeerState.CONNECT_ACK, PeerState.CONNECTED
    ]  # fmt: skip


def test_a_link_that_is_closed_on_purpose_is_recorded_without_an_error(pair: Pair) -> None:
    pair.tap.connect(THERE)
    pair.drive(lambda: len(pair.states) == 3)
    pair.tap.disconnect(THERE)
    assert pair.states[3:] == [("1.1", "unconnected"[:8], 0)]  # the recorder keeps 8 bytes


def test_who_watches_states_and_raises_disturbs_nothing(caplog: pytest.LogCaptureFixture) -> None:
    ends: list[PeerError | None] = []
    with Messenger(HERE) as here, Messenger(THERE, loops=1) as there:
        here.watch_states(lambda *news: 1 / 0)
        here.set_peer(THERE, [there.address])
        here.send_nb(THERE, [b"x"], 1, ends.append)
        assert here.flush(20)
    assert ends == [None]
    assert "ZeroDivisionError" in caplog.text


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
