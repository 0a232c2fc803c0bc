# SPDX-License-Identifier: Apache-2.0
"""Receives meet messages: order, priorities, what is taken out and what stays."""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import given
from hypothesis import strategies as st

from i2o.transport.fabric.matching import Matcher


@dataclass(eq=False)
class Wanted:
    """A receive for one number, or for any."""

    number: int | None
    priority: int = 0
    is_lasting: bool = False
    got: list[int] = field(default_factory=list)


@dataclass(eq=False)
class Came:
    number: int


def matcher() -> Matcher[Wanted, Came]:
    return Matcher(
        lambda wanted, came: wanted.number in (None, came.number), lambda wanted: wanted.is_lasting
    )


def test_the_oldest_of_the_highest_priority_wins() -> None:
    tested = matcher()
    low, high, also_high, plain = Wanted(None), Wanted(None), Wanted(None), Wanted(None)
    assert tested.post(low, -5) is None
    assert tested.post(plain) is None
    assert tested.post(high, 900) is None
    assert tested.post(also_high, 900) is None
    assert tested.receive_count == 4
    assert list(tested.receives()) == [high, also_high, plain, low]
    assert [tested.arrive(Came(1)) for _ in range(5)] == [high, also_high, plain, low, None]
    assert (tested.receive_count, tested.message_count) == (0, 1)


def test_a_receive_takes_the_oldest_message_that_matches() -> None:
    tested = matcher()
    one, two, other_two = Came(1), Came(2), Came(2)
    for came in (one, two, other_two):
        assert tested.arrive(came) is None
    probe = Wanted(2)
    assert tested.peek(probe) is two
    assert tested.post(probe) is two
    assert tested.receive_count == 0
    assert tested.claim(Wanted(2)) is other_two
    assert tested.claim(Wanted(2)) is None
    assert tested.peek(Wanted(2)) is None
    assert list(tested.messages()) == [one]


def test_a_receive_that_stays_takes_more() -> None:
    tested = matcher()
    lasting, behind = Wanted(None, is_lasting=True), Wanted(None)
    first = Came(1)
    tested.arrive(first)
    assert tested.post(lasting) is first
    tested.post(behind)
    assert [tested.offer(Came(n)) for n in (2, 3)] == [lasting, lasting]
    assert tested.remove(lasting)
    assert not tested.remove(lasting)
    assert tested.offer(Came(4)) is behind
    assert tested.offer(Came(5)) is None
    assert tested.message_count == 0


def test_a_receive_that_stays_among_priorities() -> None:
    tested = matcher()
    lasting = Wanted(7, is_lasting=True)
    tested.post(Wanted(1), 3)
    tested.post(lasting)
    assert tested.offer(Came(7)) is lasting
    assert tested.offer(Came(7)) is lasting


def test_what_is_cancelled_does_not_match() -> None:
    tested = matcher()
    one, same = Wanted(1), Wanted(1)
    tested.post(one, 5)
    tested.post(same)
    assert tested.cancel(lambda wanted: wanted.number == 1) is one
    assert tested.cancel(lambda wanted: wanted.number == 9) is None
    assert list(tested.receives()) == [same]
    assert tested.remove(same)


def test_messages_are_withdrawn_and_swept() -> None:
    tested = matcher()
    came = [Came(n) for n in (1, 2, 1, 3)]
    for one in came:
        tested.keep(one)
    assert tested.withdraw(came[1])
    assert not tested.withdraw(came[1])
    assert tested.sweep(lambda one: one.number == 1) == [came[0], came[2]]
    assert tested.sweep(lambda one: one.number == 1) == []
    assert list(tested.messages()) == [came[3]]


def test_what_is_enqueued_does_not_look() -> None:
    tested = matcher()
    tested.keep(Came(1))
    wanted = Wanted(1)
    tested.enqueue(wanted)
    assert tested.receive_count == tested.message_count == 1
    assert tested.arrive(Came(1)) is wanted


_STEPS = st.lists(
    st.tuples(st.booleans(), st.integers(0, 3), st.integers(-1, 1)), min_size=1, max_size=40
)


@given(steps=_STEPS)
def test_it_matches_as_a_plain_list_would(steps: list[tuple[bool, int, int]]) -> None:
    tested = matcher()
    receives: list[Wanted] = []
    messages: list[Came] = []
    for is_receive, number, priority in steps:
        if is_receive:
            wanted = Wanted(number or None, priority)
            expected = next((m for m in messages if wanted.number in (None, m.number)), None)
            assert tested.post(wanted, priority) is expected
            if expected is None:
                receives.append(wanted)
                receives.sort(key=lambda one: -one.priority)
            else:
                messages.remove(expected)
        else:
            came = Came(number)
            taker = next((r for r in receives if r.number in (None, number)), None)
            assert tested.arrive(came) is taker
            if taker is None:
                messages.append(came)
            else:
                receives.remove(taker)
        assert list(tested.receives()) == receives
        assert list(tested.messages()) == messages
