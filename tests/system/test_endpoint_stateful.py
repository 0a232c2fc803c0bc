# SPDX-License-Identifier: Apache-2.0
"""Random work on endpoints with random faults: every posted operation ends exactly once.

Nothing is lost that was said to have arrived, nothing comes twice, contents are right, messages of
one sender and tag are matched in order, and nothing is kept of what has ended. 10,000 steps a seed,
the same every time. With `I2O_TESTS_FULL=1` there are ten times as many seeds, which nobody has
tried. A failure prints how to run its seed again: `I2O_STATEFUL_SEED=N` runs that one alone.
"""

from __future__ import annotations

import os
import random

import pytest

from fakes.endpoint_machine import Machine, Medium
from fakes.endpoint_media import MemoryMedium, TcpMedium

STEPS = 10_000
_BOOKS = 500  # steps between two looks at what is kept
_THIS = "tests/system/test_endpoint_stateful.py"
_ENDS = 4


def _seeds(count: int) -> list[int]:
    if "I2O_STATEFUL_SEED" in os.environ:
        return [int(os.environ["I2O_STATEFUL_SEED"])]
    if os.environ.get("I2O_TESTS_FULL") == "1":
        fresh = random.SystemRandom()
        return [fresh.randrange(1 << 32) for _ in range(10 * count)]
    return list(range(count))


def run(seed: int, medium: Medium, steps: int, test: str) -> Machine:
    """Run a machine; what goes wrong says how to see it again."""
    done = 0
    machine = None
    try:
        machine = Machine(seed, medium, _ENDS)
        for done in range(steps):
            machine.step()
            if not done % _BOOKS:
                machine.check()
        machine.finish()
    except BaseException as error:
        last = "; ".join(machine.log) if machine is not None else "making the machine"
        error.add_note(
            f"step {done} of seed {seed}; run it again with\n"
            f"    I2O_STATEFUL_SEED={seed} pytest {_THIS} -k {test}\n"
            f"the last steps: {last}"
        )
        raise
    finally:
        medium.close()
    return machine


def names() -> list[str]:
    return [f"end-{number}" for number in range(_ENDS)]


@pytest.mark.parametrize("seed", _seeds(6))
def test_everything_ends_once_in_memory(seed: int) -> None:
    machine = run(seed, MemoryMedium(names()), STEPS, "in_memory")
    assert len(machine.happened) == len({name for name, _ in (*machine.steps, *machine._rare)})
    for outcome in ("send ok", "recv ok", "trecv ok", "multi ok", "claim ok", "peek ENOMSG",
                    "send ECONNRESET", "recv ETRUNC", "recv ECANCELED", "again"):  # fmt: skip
        assert machine.ended[outcome], f"{outcome} never happened"


@pytest.mark.parametrize("seed", _seeds(2))
def test_everything_ends_once_over_tcp(seed: int) -> None:
    machine = run(seed, TcpMedium(names()), STEPS, "over_tcp")
    for outcome in ("send ok", "recv ok", "trecv ok", "multi ok", "claim ok", "recv ETRUNC"):
        assert machine.ended[outcome], f"{outcome} never happened"


def test_a_failure_says_how_to_run_it_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Machine, "pump", lambda machine: 1 / 0)
    with pytest.raises(ZeroDivisionError) as caught:
        run(7, MemoryMedium(names()), 1000, "in_memory")
    (note,) = caught.value.__notes__
    assert f"I2O_STATEFUL_SEED=7 pytest {_THIS} -k in_memory" in note
    assert "the last steps: " in note
