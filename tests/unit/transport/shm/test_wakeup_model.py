# SPDX-License-Identifier: Apache-2.0
"""No wake-up is lost: every interleaving of one that sleeps and one that wakes, each step atomic.

Each side's stores go into a buffer of its own first, as on x86, and reach the memory any time
later, or at a fence. That the model finds lost wake-ups shows in what is left out on purpose.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import pytest


class World(NamedTuple):
    """All there is.

    Attributes:
        packets: how many the consumer can see.
        sleeps: the flag.
        bell: the eventfd.
        taken: packets that were taken.
        producer, consumer: where each is in its program.
        ahead, behind: stores that are not in the memory yet, of producer and consumer.
    """

    packets: int = 0
    sleeps: int = 0
    bell: int = 0
    taken: int = 0
    producer: int = 0
    consumer: str = "look"
    ahead: tuple[tuple[str, int], ...] = ()
    behind: tuple[tuple[str, int], ...] = ()


SENDS = 3


class Rules(NamedTuple):
    """What is done; the protocol does all of it."""

    producer_fences: bool = True
    consumer_fences: bool = True
    consumer_looks_again: bool = True
    flag_after_packet: bool = True


def seen(world: World, name: str, own: tuple[tuple[str, int], ...]) -> int:
    """Return what a side reads: its own latest store, or memory."""
    for key, value in reversed(own):
        if key == name:
            return value
    return int(getattr(world, name))


def producer_steps(world: World, rules: Rules) -> Iterator[World]:
    """Yield what may come next: store the packet, fence, read the flag, ring."""
    sent, step = divmod(world.producer, 4)
    if sent == SENDS:
        return
    order = (0, 1, 2, 3) if rules.flag_after_packet else (2, 0, 1, 3)
    action = order[step]
    onward = world._replace(producer=world.producer + 1)
    if action == 0:
        yield onward._replace(ahead=(*world.ahead, ("packets", sent + 1)))
    elif action == 1:
        if not (rules.producer_fences and world.ahead):
            yield onward
    elif action == 2:
        if seen(world, "sleeps", world.ahead):  # the exchange is a fence, too
            if not world.ahead:
                yield onward._replace(sleeps=0, bell=1)
        else:
            yield onward
    else:
        yield onward


def consumer_steps(world: World, rules: Rules) -> Iterator[World]:
    """Yield what may come next: take, or say that we sleep, fence, look again, sleep."""
    packets = seen(world, "packets", world.behind)
    if world.consumer == "look":
        if packets > world.taken:
            yield world._replace(taken=world.taken + 1)
        else:
            yield world._replace(consumer="fence", behind=(*world.behind, ("sleeps", 1)))
    elif world.consumer == "fence":
        if not (rules.consumer_fences and world.behind):
            yield world._replace(consumer="again")
    elif world.consumer == "again":
        if rules.consumer_looks_again and packets > world.taken:
            yield world._replace(consumer="look", behind=(*world.behind, ("sleeps", 0)))
        else:
            yield world._replace(consumer="asleep")
    elif world.bell:  # silence: the flag is taken back, and the eventfd read
        yield world._replace(consumer="look", bell=0, behind=(*world.behind, ("sleeps", 0)))


def memory_steps(world: World) -> Iterator[World]:
    """Yield what the memory may do: take in the oldest store of one side."""
    if world.ahead:
        (name, value), *rest = world.ahead
        yield world._replace(ahead=tuple(rest), **{name: value})
    if world.behind:
        (name, value), *rest = world.behind
        yield world._replace(behind=tuple(rest), **{name: value})


def stuck(rules: Rules) -> list[World]:
    """Return the worlds in which nothing goes on although a packet was not taken."""
    done: set[World] = set()
    todo = [World()]
    lost = []
    while todo:
        world = todo.pop()
        if world in done:
            continue
        done.add(world)
        following = [
            *producer_steps(world, rules),
            *consumer_steps(world, rules),
            *memory_steps(world),
        ]
        todo += following
        if not following and world.taken < SENDS:
            lost.append(world)
    assert any(world.taken == SENDS for world in done)
    assert len(done) > 100
    return lost


def test_no_interleaving_loses_a_wake_up():
    assert stuck(Rules()) == []


@pytest.mark.parametrize(
    "rules",
    [
        Rules(producer_fences=False),
        Rules(consumer_fences=False),
        Rules(consumer_looks_again=False),
        Rules(flag_after_packet=False),
    ],
    ids=str,
)
def test_nothing_of_it_can_be_left_out(rules):
    assert stuck(rules)
