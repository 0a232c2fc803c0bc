# SPDX-License-Identifier: Apache-2.0
"""Sessions: nothing is lost and nothing is delivered twice, over links that break anywhere."""

from __future__ import annotations

from collections import deque
from random import Random

import pytest

from i2o.transport.tcp.errors import PeerError, ProtocolViolation
from i2o.transport.tcp.message_wire import MESSAGE_COST
from i2o.transport.tcp.peer_name import PeerName
from i2o.transport.tcp.session import Outgoing, Resume, Session

A, B = PeerName(1, 1), PeerName(1, 2)
WINDOW = 10 * (MESSAGE_COST + 1)


class End:
    """A session with what it delivered and how its messages ended."""

    def __init__(self, name: PeerName, id: int) -> None:
        self.session = Session(name, id, WINDOW)
        self.delivered: list[bytes] = []
        self.ends: dict[bytes, list[PeerError | None]] = {}
        self.unconsumed = 0

    def post(self, data: bytes) -> None:
        ends = self.ends.setdefault(data, [])
        self.session.enqueue(Outgoing(A, B, 1, (data,), 1, 0, 1, ends.append))

    def take(self, sequence: int, data: bytes) -> None:
        cost = MESSAGE_COST + len(data)
        if self.session.accept(sequence, cost):
            self.delivered.append(data)
            self.unconsumed += 1

    def acknowledged(self, ack: int, credit: int) -> None:
        only = self.session.acknowledge_only(ack, credit)
        for message in self.session.acknowledge(ack, credit) if only is None else [only]:
            message.finish(None)

    def resume(self, said: Resume) -> None:
        done, failed = self.session.resume(said)
        for message in done:
            message.finish(None)
        for message in failed:
            message.finish(PeerError(104, "anew"))


def test_random_links() -> None:
    for seed in range(60):
        random = Random(seed)
        ends = [End(B, 100), End(A, 200)]
        wires: list[deque[tuple[object, ...]]] = [deque(), deque()]
        posted = [0, 0]
        is_up = False
        for _ in range(600):
            which = random.randrange(2)
            end, out, back = ends[which], wires[which], wires[1 - which]
            session = end.session
            match random.randrange(8):
                case 0 | 1:
                    end.post(b"%d" % (posted[which] % 10))
                    end.ends[b"#%d" % posted[which]] = end.ends.pop(b"%d" % (posted[which] % 10))
                    posted[which] += 1
                case 2 | 3:
                    while session.is_ready and (message := session.next_message()) is not None:
                        ack, credit = session.received, session.grant()
                        out.append(("data", message.sequence, message.parts[0], ack, credit))
                        session.sent()
                case 4 | 5 if back:
                    kind, *rest = back.popleft()
                    if kind == "resume":
                        end.resume(rest[0])  # type: ignore[arg-type]
                    elif kind == "data":
                        sequence, data, ack, credit = rest
                        end.acknowledged(ack, credit)  # type: ignore[arg-type]
                        end.take(sequence, data)  # type: ignore[arg-type]
                    else:
                        end.acknowledged(*rest)  # type: ignore[arg-type]
                case 6 if session.is_ready:
                    while end.unconsumed:
                        end.unconsumed -= 1
                        session.consume(MESSAGE_COST + 1)
                    out.append(("ack", session.received, session.grant()))
                case 7:
                    if not is_up:
                        for one, wire in zip(ends, wires, strict=True):
                            one.session.link_up(0)
                            wire.append(("resume", one.session.offer()))
                        is_up = True
                    elif random.randrange(4) == 0:
                        for one, wire in zip(ends, wires, strict=True):
                            wire.clear()
                            one.session.link_lost()
                        is_up = False
                case _:
                    pass
        for which in range(2):
            wanted = [b"%d" % (number % 10) for number in range(posted[which])]
            got = ends[1 - which].delivered
            assert got == wanted[: len(got)], seed
            finished = [list(result) for result in ends[which].ends.values() if result]
            assert all(result == [None] for result in finished)
            assert len(finished) <= len(got)
            session = ends[which].session
            assert session.waiting == posted[which] - len(finished)
            assert session.waiting_bytes == session.waiting * (MESSAGE_COST + 1)


def ready(window: int = WINDOW) -> End:
    end = End(B, 100)
    end.session.link_up(3)
    end.resume(Resume(200, 0, 0, 0, window))
    return end


def test_credit_stops_a_sender() -> None:
    end = ready(2 * (MESSAGE_COST + 1))
    for _ in range(3):
        end.post(b"x")
    assert [end.session.next_message() is not None for _ in range(2)] == [True, True]
    end.session.sent()
    assert end.session.next_message() is not None
    end.session.sent()
    assert end.session.next_message() is None
    end.acknowledged(1, 3 * (MESSAGE_COST + 1))
    assert end.session.next_message() is not None


def test_a_peer_that_acknowledges_too_much() -> None:
    end = ready()
    with pytest.raises(ProtocolViolation, match="message 1 is acknowledged, 0 were sent"):
        end.session.acknowledge(1, 0)


def test_a_gap_and_a_sender_without_credit() -> None:
    end = ready()
    with pytest.raises(ProtocolViolation, match="message 2 after 0"):
        end.session.accept(2, 1)
    with pytest.raises(ProtocolViolation, match="message 0 after 0"):
        end.session.accept(0, 1)
    with pytest.raises(ProtocolViolation, match="more messages than"):
        end.session.accept(1, WINDOW + 1)


def test_what_comes_twice_is_thrown_away() -> None:
    end = ready()
    end.take(1, b"x")
    end.take(1, b"x")
    assert end.delivered == [b"x"]
    assert end.session.duplicates == 1
    assert end.session.unacknowledged == 2


def test_a_peer_that_began_anew() -> None:
    end = ready()
    for data in (b"1", b"2", b"3"):
        end.post(data)
    for _ in range(2):
        end.session.next_message()
        end.session.sent()
    end.take(1, b"x")
    end.session.link_lost()
    end.session.link_up(3)
    assert end.session.offer()[:3] == (100, 200, 1)
    end.resume(Resume(201, 0, 0, 0, WINDOW))
    assert [ends and ends[0] is not None for ends in end.ends.values()] == [True, True, []]
    message = end.session.next_message()
    assert message is not None
    assert (message.sequence, message.parts) == (1, (b"3",))
    assert end.session.offer()[:3] == (100, 201, 0)


def test_taking_back() -> None:
    end = ready()
    end.post(b"1")
    end.post(b"2")
    first = end.session.next_message()
    assert first is not None
    end.session.sent()
    assert not end.session.withdraw(first)
    second = end.session.queue[0]
    assert end.session.withdraw(second)
    assert not end.session.withdraw(second)
    assert end.session.take_all() == [first]
    assert (end.session.waiting, end.session.waiting_bytes) == (0, 0)
    first.finish(None)
    first.finish(PeerError(5, "once more"))
    assert end.ends[b"1"] == [None]


def test_room_that_the_peer_does_not_know_of() -> None:
    end = ready()
    assert not end.session.consume(WINDOW // 4 - 1)
    assert end.session.consume(1)
    assert end.session.grant() == WINDOW + WINDOW // 4
    assert not end.session.consume(0)
