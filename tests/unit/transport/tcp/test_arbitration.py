# SPDX-License-Identifier: Apache-2.0
"""Which of two links stays."""

from __future__ import annotations

from itertools import product

import pytest

from i2o.transport.tcp.arbitration import Offer, Standing, judge
from i2o.transport.tcp.peer_name import PeerName
from i2o.transport.tcp.wire import Answer

LOW, HIGH = PeerName(1, 1), PeerName(1, 2)


@pytest.mark.parametrize(
    ("standing", "offer", "answer"),
    [
        pytest.param(Standing(LOW), Offer(HIGH, 5, 1), Answer.ACCEPTED, id="unknown until now"),
        pytest.param(Standing(LOW, 5), Offer(HIGH, 5, 9), Answer.ACCEPTED, id="its link was lost"),
        pytest.param(Standing(LOW, 6), Offer(HIGH, 5, 9), Answer.STALE, id="older"),
        pytest.param(
            Standing(HIGH, 5, 3), Offer(LOW, 6, 1), Answer.ACCEPTED, id="newer replaces a live link"
        ),
        pytest.param(
            Standing(LOW, 5, 3), Offer(HIGH, 5, 4), Answer.ACCEPTED, id="it lost the live link"
        ),
        pytest.param(
            Standing(LOW, 5, 3), Offer(HIGH, 5, 3), Answer.NACK, id="the live link once more"
        ),
        pytest.param(
            Standing(LOW, 5, 3), Offer(HIGH, 5, 2), Answer.NACK, id="asked before the live link"
        ),
        pytest.param(
            Standing(LOW, 0, None, 5), Offer(HIGH, 5, 2), Answer.ACCEPTED, id="race, it is higher"
        ),
        pytest.param(
            Standing(HIGH, 0, None, 5), Offer(LOW, 5, 2), Answer.NACK, id="race, it is lower"
        ),
        pytest.param(
            Standing(HIGH, 4, None, 5),
            Offer(LOW, 6, 2),
            Answer.ACCEPTED,
            id="it was started anew during our attempt",
        ),
        pytest.param(
            Standing(HIGH, 4, None, 5),
            Offer(LOW, 4, 2),
            Answer.STALE,
            id="older than our attempt's",
        ),
        pytest.param(
            Standing(HIGH, 4, 7, 5), Offer(LOW, 5, 2), Answer.NACK, id="race with the new process"
        ),
    ],
)
def test_every_case(standing: Standing, offer: Offer, answer: Answer) -> None:
    assert judge(standing, offer) is answer


def test_of_two_attempts_at_once_exactly_one_is_accepted() -> None:
    """Whatever both have reached: never are both refused, and both accepted only if harmless."""
    for one_confirms, other_confirms in product((0, 1), repeat=2):
        low = judge(Standing(LOW, 0, None, one_confirms), Offer(HIGH, 1, 1))
        high = judge(Standing(HIGH, 0, None, other_confirms), Offer(LOW, 1, 1))
        assert Answer.ACCEPTED in (low, high)
        if one_confirms and other_confirms:
            assert (low, high) == (Answer.ACCEPTED, Answer.NACK)
