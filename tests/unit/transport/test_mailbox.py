# SPDX-License-Identifier: Apache-2.0
"""The mailbox: LAM's matching, bounds, time to live, sweep and listing."""

from __future__ import annotations

import pytest

from i2o.transport.fabric.mailbox import (
    OVERHEAD,
    Letter,
    Mailbox,
    Want,
    accepts,
)


def letter(event: int = 1, type: int = 0, body: bytes | None = b"abc", source: int = 1) -> Letter:
    return Letter(source, event, type, 0, bytes(32), body, 3)


@pytest.mark.parametrize(
    ("want", "is_accepted"),
    [
        (Want(1, 0), True),
        (Want(2, 0), False),
        (Want(1, 2), False),
        (Want(1, 1), True),
        (Want(1, 0, source=1), True),
        (Want(1, 0, source=2), False),
        (Want(1, 0, is_transfer=True), False),
        (Want(1, 0, is_instant=True), True),
    ],
)
def test_what_a_receiver_accepts(want: Want, is_accepted: bool) -> None:
    assert accepts(want, letter(type=1)) is is_accepted


def test_who_cannot_wait_does_not_accept_an_offer() -> None:
    assert not accepts(Want(1, 0, is_instant=True), letter(body=None))
    assert accepts(Want(1, 0), letter(body=None))


def test_what_waits_is_counted_until_it_is_gone() -> None:
    box = Mailbox(1000)
    box.keep(letter(), 0)
    box.keep(letter(body=None), 0)
    offer = letter()
    offer.is_offer = True
    box.keep(offer, 0)
    assert (box.used, box.count) == (3 * OVERHEAD + 3, 3)
    assert box.has_room(1000 - box.used)
    assert not box.has_room(1001 - box.used)
    assert box.take(Want(1, 0)) is not None
    assert box.withdraw(offer)
    assert not box.withdraw(offer)
    assert box.post(Want(1, 0)) is not None
    assert (box.used, box.count) == (0, 0)


def test_time_to_live() -> None:
    box = Mailbox(1000, ttl_ns=10)
    assert box.next_due_ns is None
    box.keep(letter(1), 0)
    box.keep(letter(2), 5)
    assert box.next_due_ns == 10
    assert [gone.event for gone in box.expire(12)] == [1]
    assert box.next_due_ns == 15
    assert Mailbox(1000).next_due_ns is None


def test_sweep_by_event_by_source_and_by_origin() -> None:
    box, mine = Mailbox(10_000), object()
    for event, source, body in ((1, 1, b"a"), (2, 2, b"b"), (1, 2, None)):
        box.keep(letter(event, source=source, body=body), 0)
    kept = Letter(1, 9, 0, 0, bytes(32), b"", 0, origin=mine)
    box.keep(kept, 0)
    assert box.forget_origin(mine) == [kept]
    assert len(box.forget_source(2, announced_only=True)) == 1
    assert len(box.forget_source(2)) == 1
    assert [gone.event for gone in box.sweep(1)] == [1]
    assert box.sweep() == []
    assert box.used == 0


def test_listing_and_look() -> None:
    box = Mailbox(1000)
    box.keep(letter(7), 0)
    box.keep(letter(8, body=None), 0)
    assert [(row.number, row.event, row.is_announced) for row in box.listing()] == [
        (1, 7, False),
        (2, 8, True),
    ]
    found = box.look(2)
    assert found is not None
    assert found.event == 8
    assert box.look(3) is None


def test_receivers_wait_by_priority_and_may_go() -> None:
    box = Mailbox(1000)
    wants = [Want(1, 0, priority=priority) for priority in (0, 5, 5, 9)]
    for want in wants:
        assert box.post(want) is None
    assert box.wants() == [wants[3], wants[1], wants[2], wants[0]]
    assert box.cancel(wants[1])
    assert not box.cancel(wants[1])
    assert box.receiver(letter()) is wants[3]
    assert box.peek(wants[0]) is None
