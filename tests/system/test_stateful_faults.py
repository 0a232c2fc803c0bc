# SPDX-License-Identifier: Apache-2.0
"""Random work on IOPs with random faults: every request ends once, frames go home, all agree.

100,000 steps, the same every time. With `I2O_TESTS_FULL=1` there are ten times as many, with seeds
that nobody has tried. A failure prints how to run its seed again: `I2O_STATEFUL_SEED=N` runs that
one alone.
"""

from __future__ import annotations

import logging
import os
import random
from collections.abc import Iterator

import pytest

from fakes.random_faults import random_plan
from fakes.stateful_machine import Machine
from i2o.iop_emulator.faults import ACTIONS

STEPS = 10_000
THREADED_STEPS = 600
_BOOKS = 100  # steps between two looks at all books
_THIS = "tests/system/test_stateful_faults.py"


def _seeds(count: int) -> list[int]:
    if "I2O_STATEFUL_SEED" in os.environ:
        return [int(os.environ["I2O_STATEFUL_SEED"])]
    if os.environ.get("I2O_TESTS_FULL") == "1":
        fresh = random.SystemRandom()
        return [fresh.randrange(1 << 32) for _ in range(10 * count)]
    return list(range(count))


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    """The log of so many faults is of use to nobody."""
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


def run(seed: int, steps: int, *, is_threaded: bool = False) -> Machine:
    """Run a machine; what goes wrong says how to see it again."""
    done = 0
    machine = None
    try:
        machine = Machine(seed, iops=3 + seed % 2, is_threaded=is_threaded)
        for done in range(steps):
            machine.step()
            if not done % _BOOKS:
                machine.check_fully()
        machine.finish()
    except BaseException as error:
        test = "threads" if is_threaded else "the_model"
        last = "; ".join(machine.log) if machine is not None else "making the machine"
        error.add_note(
            f"step {done} of seed {seed}; run it again with\n"
            f"    I2O_STATEFUL_SEED={seed} pytest {_THIS} -k {test}\n"
            f"the last steps: {last}"
        )
        raise
    return machine


_TRACED = 3  # seeds under coverage; the others go the same ways


@pytest.mark.parametrize(
    "seed",
    [
        pytest.param(seed, marks=pytest.mark.untraced if number >= _TRACED else ())
        for number, seed in enumerate(_seeds(10))
    ],
)
def test_hosts_and_iops_agree_with_the_model(seed: int) -> None:
    machine = run(seed, STEPS)
    assert len(machine.happened) == len(set(machine.steps)), "a kind of step never happened"
    assert machine.pulled_at_work > 4, "disks were idle when they were pulled"


@pytest.mark.parametrize("seed", _seeds(2))
def test_iops_in_threads_of_their_own(seed: int) -> None:
    run(seed, THREADED_STEPS, is_threaded=True)


def test_a_failure_says_how_to_run_it_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Machine, "poll", lambda machine, station: 1 / 0)
    with pytest.raises(ZeroDivisionError) as caught:
        run(7, 1000)
    (note,) = caught.value.__notes__
    assert f"I2O_STATEFUL_SEED=7 pytest {_THIS} -k the_model" in note
    assert "the last steps: " in note


def test_the_plans_use_every_action_and_condition() -> None:
    rules = [rule for seed in range(40) for rule in random_plan(seed).rules]
    assert {rule.action.name for rule in rules} == set(ACTIONS)
    for name in ("function", "tid", "after", "times", "from_ms", "to_ms"):
        assert any(getattr(rule, name) for rule in rules), name
    assert any(rule.every > 1 for rule in rules)
    assert any(rule.probability < 1 for rule in rules)
    assert any(rule.is_timed_starvation for rule in rules)
