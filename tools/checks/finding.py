# SPDX-License-Identifier: Apache-2.0
"""What a check finds, and how checks are run: none can stop the others."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from enum import Enum
from typing import Generic, NamedTuple, TypeVar

from i2o.errors import IopDead, RequestTimeout
from i2o.tools.failures import explain

Subject = TypeVar("Subject")


class Level(Enum):
    """How bad it is."""

    OK = "ok"
    NOTE = "note"
    PROBLEM = "problem"


class Finding(NamedTuple):
    """One thing that a check found.

    Attributes:
        level: how bad it is.
        text: what it is, in one line.
        remedy: what to do about it, empty if there is nothing to do.
    """

    level: Level
    text: str
    remedy: str = ""


def ok(text: str) -> Finding:
    """Return a finding that needs nothing done."""
    return Finding(Level.OK, text)


def note(text: str, remedy: str = "") -> Finding:
    """Return a finding that matters only to some."""
    return Finding(Level.NOTE, text, remedy)


def problem(text: str, remedy: str) -> Finding:
    """Return a finding that is in the way of something."""
    return Finding(Level.PROBLEM, text, remedy)


class Check(NamedTuple, Generic[Subject]):
    """A check.

    Attributes:
        name: a short name for the line.
        look: yields what it finds. It may raise.
    """

    name: str
    look: Callable[[Subject], Iterable[Finding]]


class Result(NamedTuple):
    """A finding, and which check of which area it is from."""

    area: str
    check: str
    finding: Finding

    @property
    def record(self) -> Mapping[str, object]:
        """All of it, for JSON."""
        level, text, remedy = self.finding
        return {
            "area": self.area,
            "check": self.check,
            "level": level.value,
            "text": text,
            "remedy": remedy or None,
        }


def run_checks(area: str, checks: Iterable[Check[Subject]], subject: Subject) -> Iterator[Result]:
    """Run checks one after another, and yield what each finds as it is found.

    A check that raises is a finding itself. When an IOP does not answer, the checks that are left
    would wait in vain: they are only named.
    """
    left = list(checks)
    while left:
        check = left.pop(0)
        try:
            for finding in check.look(subject):
                yield Result(area, check.name, finding)
        except (IopDead, RequestTimeout) as error:
            remedy = "i2o status shows its state; a reset (i2o.Iop.revive) or a power cycle helps"
            yield Result(area, check.name, problem(explain(error), remedy))
            if left:
                names = ", ".join(check.name for check in left)
                yield Result(area, check.name, note(f"not looked at for that reason: {names}"))
            return
        except Exception as error:  # whatever it is, the other checks go on
            yield Result(area, check.name, _raised(error))


def _raised(error: Exception) -> Finding:
    """Return what a check raised as a finding."""
    return problem(
        f"the check could not be done: {type(error).__name__}: {explain(error)}",
        "if it is not plain from this what is wrong, report it as a bug of i2o doctor",
    )
