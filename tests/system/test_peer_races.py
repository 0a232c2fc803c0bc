# SPDX-License-Identifier: Apache-2.0
"""Many peers that connect to one another at the same time, and peers that come back."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

import pytest

from fakes.messengers import Ends, Messengers, drive, introduce
from i2o.transport.tcp.address import parse_address
from i2o.transport.tcp.mailbox import Message
from i2o.transport.tcp.peer_name import PeerName
from i2o.transport.tcp.wire import Answer

MESSAGES = 40
PROCESSES = 29  # 406 pairs


@pytest.fixture
def office() -> Iterator[Messengers]:
    with Messengers() as opened:
        yield opened


@pytest.mark.parametrize(("count", "loops"), [(PROCESSES, 0), (8, 1), (6, 2)])
def test_four_hundred_simultaneous_connects_lose_nothing(
    office: Messengers, count: int, loops: int
) -> None:
    everybody = [office.open(1, rank, loops=loops) for rank in range(count)]
    introduce(*everybody)
    got: dict[tuple[PeerName, PeerName], list[bytes]] = defaultdict(list)
    ends = Ends()
    for one in everybody:

        def keep(message: Message, name: PeerName = one.name) -> None:
            got[message.origin, name].append(message.data)

        one.recv_nb(keep, persistent=True)
    for number in range(MESSAGES):
        for one in everybody:
            for other in everybody:
                if one is not other:
                    one.send_nb(other.name, [b"%d" % number], number, ends)
    pairs = count * (count - 1)
    drive(*everybody, until=lambda: len(ends) == pairs * MESSAGES, patience_s=120)
    assert set(ends.errors) == {None}
    assert len(got) == pairs
    wanted = [b"%d" % number for number in range(MESSAGES)]
    assert all(messages == wanted for messages in got.values())
    statuses = [status for one in everybody for status in one.peers()]
    assert len(statuses) == pairs
    assert all(status.connects == 1 and not status.losses for status in statuses)


@pytest.mark.parametrize("mine", [0, 5])
def test_both_are_about_to_accept_the_other(office: Messengers, mine: int) -> None:
    a, raw = office.open(1, mine, loops=1), office.raw(1, 3)
    ends = Ends()
    a.set_peer(raw.identity.name, [raw.address])
    a.send_nb(raw.identity.name, [b"kept"], 1, ends)
    first = raw.accept()
    listener, _ = raw.challenge(first)  # this end may accept at any moment …
    second, answer = raw.call(a.address)  # … when it calls itself
    if a.name > raw.identity.name:
        assert answer == Answer.NACK
        raw.serial += 1
        first.write(listener.verdict(Answer.ACCEPTED, serial=raw.serial))
        link = first
    else:
        assert answer == Answer.ACCEPTED
        assert first.is_closed_by_peer
        link = second
    link.resume()
    assert link.message()[1] == b"kept"


def test_a_peer_that_began_anew_is_accepted_at_the_first_attempt(office: Messengers) -> None:
    a, b = office.pair()
    ends = Ends()
    a.send_nb(b.name, [b"x"], 1, ends)
    drive(a, b, until=lambda: len(ends))
    address = parse_address(b.address)
    b.close()
    again = office.open(1, 1, listen=(address,))
    drive(a, until=lambda: not a.peers()[0].is_connected)
    a.send_nb(b.name, [b"to the new one"], 2, ends)
    drive(a, again, until=lambda: len(ends) == 2)
    assert ends.errors == [None, None]
    assert a.peers()[0].failed_attempts == 0
    assert again.recv(2, timeout_s=1).data == b"to the new one"
