# SPDX-License-Identifier: Apache-2.0
"""The short form of tests/bench/soak.py and tests/bench/many_iops.py."""

from __future__ import annotations

import pytest
from bench import many_iops, soak

from i2o.message_layer import MessageLayer


def test_a_hundred_thousand_messages_leave_nothing_behind() -> None:
    load = soak.Soak()
    before = load.counts()
    samples = list(load.run(100_000, 20_000))
    assert load.problems(before) == []
    assert samples[-1].resident - samples[1].resident < soak.MOST_GROWTH
    load.layer.close()


def test_the_books_notice_a_lost_frame() -> None:
    load = soak.Soak()
    before = load.counts()
    list(load.run(1000, 1000))
    load.port.alloc()
    assert {problem.split(":")[0] for problem in load.problems(before)} == {
        "idle inbound frames",
        "frames held by the host",
    }
    load.layer.close()


def test_the_last_of_many_iops_costs_what_the_first_did() -> None:
    with MessageLayer() as layer:
        import tracemalloc

        tracemalloc.start()
        try:
            costs = many_iops.bring_up(layer, 12, 20)
        finally:
            tracemalloc.stop()
        assert many_iops.slope([float(cost.memory) for cost in costs]) < many_iops.MOST_SLOPE
        assert layer.next_deadline_ns() is None


def test_many_idle_iops_are_not_polled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waiting looks at each IOP a few times, however long it takes: no polling."""
    with MessageLayer() as layer:
        many_iops.bring_up(layer, 6, 1)
        looks = 0
        ports = [layer.port(number) for number in layer.iop_numbers()]
        for port in ports:
            wait = port.wait

            def counted(timeout_s: float, wait=wait) -> bool:
                nonlocal looks
                looks += 1
                return wait(timeout_s)

            monkeypatch.setattr(port, "wait", counted)
        assert not layer.run_until(lambda: False, 0.35)
        assert looks <= 6 * 2 * 5
