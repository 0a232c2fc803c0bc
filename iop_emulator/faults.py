# SPDX-License-Identifier: Apache-2.0
"""Fault plans: how an IOP is told to misbehave, as data, and the same every time for one seed.

In Python:

    plan = FaultPlan(seed=7)
    plan.on(Function.BSA_READ).every(10).reply(ReqStatus.ERROR_NO_DATA_TRANSFER, 0x01)
    plan.on("*").between(500, 900).starve()

or in TOML: `seed = 7`, then `[[fault]]` tables with the conditions `on`, `tid`, `after`, `every`,
`times`, `probability`, `from_ms`, `to_ms` and an `action`. Functions and statuses go by name or by
number. Of several rules that match a request the first one acts; the others do not count it.
"""

from __future__ import annotations

import os
import random
import stat
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from pathlib import Path
from typing import Any, Final, Literal, Self, get_args

from i2o.errors import I2OError
from i2o.frames.block_storage import BsaDetailedStatus
from i2o.frames.functions import Function
from i2o.frames.header import DetailedStatus, FailureCode, ReqStatus
from i2o.iop_emulator.request import Request

ActionName = Literal[
    "starve",
    "delay",
    "drop",
    "duplicate",
    "corrupt",
    "fail",
    "status",
    "stall",
    "crash",
    "reset",
]
ACTIONS: Final[tuple[str, ...]] = get_args(ActionName)
MAX_MS: Final = 86_400_000
"""The longest time in a plan: a day."""
MAX_FILE: Final = 1 << 20
"""Bytes of the largest plan that is read."""
_MS: Final = 1_000_000


class FaultPlanError(I2OError, ValueError):
    """A fault plan asks for something that does not exist or makes no sense."""


@dataclass(frozen=True, slots=True)
class Action:
    """What goes wrong.

    Attributes:
        name: one of `ACTIONS`.
        ms: how long: the delay, the stall, or the starvation (0: until the rule's `to_ms`, or
            until power is cycled).
        req_status: for `status`.
        detail: for `status`.
        code: failure code, for `fail`.
    """

    name: ActionName
    ms: float = 0
    req_status: int = ReqStatus.ERROR_NO_DATA_TRANSFER.value
    detail: int = 0
    code: int = FailureCode.CONGESTION.value

    @property
    def duration_ns(self) -> int:
        """`ms` in nanoseconds."""
        return round(self.ms * _MS)


@dataclass(slots=True)
class Rule:
    """Conditions and an action. All conditions must hold.

    Attributes:
        function: function code, None for any.
        tid: target TID, None for any.
        after: how many matching requests are left alone first.
        every: then every n-th one is hit, starting with the first.
        times: at most this many are hit, None for no limit.
        probability: chance that one which would be hit is.
        from_ms: not before this time.
        to_ms: not from this time on, None for no end.
        action: what happens.
    """

    function: int | None = None
    tid: int | None = None
    after: int = 0
    every: int = 1
    times: int | None = None
    probability: float = 1.0
    from_ms: float = 0
    to_ms: float | None = None
    action: Action = field(default_factory=lambda: Action("drop"))
    _seen: int = 0
    _hits: int = 0

    @property
    def is_timed_starvation(self) -> bool:
        """Whether the rule starves the inbound port by the clock alone, without any request."""
        return (
            self.action.name == "starve"
            and self.function is None
            and self.tid is None
            and (self.after, self.every, self.times, self.probability) == (0, 1, None, 1.0)
        )

    def is_in_time(self, elapsed_ns: int) -> bool:
        """Whether the clock allows the rule to act."""
        return self.from_ms * _MS <= elapsed_ns and (
            self.to_ms is None or elapsed_ns < self.to_ms * _MS
        )

    def starved_until_ns(self, now_ns: int, elapsed_ns: int) -> int | None:
        """Return until when a request that this rule hits starves the port; None: for good."""
        if self.action.ms:
            return now_ns + self.action.duration_ns
        return None if self.to_ms is None else now_ns - elapsed_ns + round(self.to_ms * _MS)

    def hits(self, request: Request, elapsed_ns: int, chance: random.Random) -> bool:
        """Whether this request is hit; counts it."""
        if (self.function is not None and self.function != request.function) or (
            self.tid is not None and self.tid != request.target
        ):
            return False
        if not self.is_in_time(elapsed_ns) or (self.times is not None and self._hits >= self.times):
            return False
        number = self._seen - self.after
        self._seen += 1
        if number < 0 or number % self.every:
            return False
        if self.probability < 1.0 and chance.random() >= self.probability:
            return False
        self._hits += 1
        return True


class FaultPlan:
    """Rules in order, and the random numbers they share.

    Args:
        seed: the same seed, plan and traffic give the same faults.
    """

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed
        self._random = random.Random(seed)
        self._rules: list[Rule] = []
        self._timed: list[Rule] = []

    @property
    def rules(self) -> tuple[Rule, ...]:
        """All rules, in the order in which they were made."""
        return tuple(self._rules)

    def on(self, function: int | str = "*") -> RuleBuilder:
        """Begin a rule.

        Args:
            function: a function code or name, or "*" for every request.

        Raises:
            FaultPlanError: no function has that name.
        """
        return RuleBuilder(self, Rule(function=_function(function)))

    def add(self, rule: Rule) -> None:
        """Append a finished rule.

        Raises:
            FaultPlanError: a number is out of range.
        """
        _check(rule)
        self._rules.append(rule)
        if rule.is_timed_starvation:
            self._timed.append(rule)

    def decide(self, request: Request, elapsed_ns: int) -> Rule | None:
        """Return the first rule that hits a request, or None."""
        for rule in self._rules:
            if not rule.is_timed_starvation and rule.hits(request, elapsed_ns, self._random):
                return rule
        return None

    def starvation(self, elapsed_ns: int) -> tuple[bool, int | None]:
        """Say what the clock alone does to the inbound port.

        Returns:
            Whether it reads empty now, and the next time (since the start) at which that may
            change, or None.
        """
        edges = [
            round(edge * _MS)
            for rule in self._timed
            for edge in (rule.from_ms, rule.to_ms)
            if edge is not None and edge * _MS > elapsed_ns
        ]
        return (
            any(rule.is_in_time(elapsed_ns) for rule in self._timed),
            min(edges, default=None),
        )

    def corrupt(self, reply: bytes) -> bytes:
        """Return a reply with one bit of its body (word 4 on) changed."""
        bit = self._random.randrange(16 * 8, len(reply) * 8)
        changed = bytearray(reply)
        changed[bit // 8] ^= 1 << bit % 8
        return bytes(changed)

    @classmethod
    def from_toml(cls, text: str, *, source: str = "fault plan", seed: int | None = None) -> Self:
        """Read a plan.

        Args:
            text: TOML.
            source: its name, for messages.
            seed: replaces the plan's own seed.

        Raises:
            FaultPlanError: no TOML, an unknown key or action, a value of the wrong kind.
        """
        try:
            data = tomllib.loads(text)
        except RecursionError:
            raise FaultPlanError(f"{source}: no TOML: nested too deeply") from None
        except ValueError as error:  # bad TOML, or a number of thousands of digits
            raise FaultPlanError(f"{source}: no TOML: {error}") from None
        _known(data, ("seed", "fault"), source)
        own_seed = _typed(data.get("seed", 0), int, "seed", source)
        plan = cls(own_seed if seed is None else seed)
        tables = data.get("fault", [])
        if not isinstance(tables, list):
            raise FaultPlanError(f"{source}: write [[fault]], one table a fault, not [fault]")
        for number, table in enumerate(tables, 1):
            place = f"{source}: fault {number}"
            if not isinstance(table, dict):
                raise FaultPlanError(f"{place}: must be a table")
            try:
                plan.add(_rule(table, place))
            except FaultPlanError as error:
                if str(error).startswith(place):
                    raise
                raise FaultPlanError(f"{place}: {error}") from None
        return plan

    @classmethod
    def from_file(cls, path: str | Path, *, seed: int | None = None) -> Self:
        """Read a plan from a TOML file.

        Raises:
            FaultPlanError: it is no regular file of up to `MAX_FILE` bytes, cannot be read, or
                see `from_toml`.
        """
        try:
            text = _read_file(path).decode()
        except UnicodeDecodeError:
            reason = "it is not UTF-8 text"
        except OSError as error:
            reason = error.strerror or str(error)
        except ValueError as error:  # a path with a NUL character
            reason = str(error)
        else:
            reason = ""
        if reason:
            raise FaultPlanError(f"fault plan {str(path)!r} cannot be read: {reason}")
        return cls.from_toml(text, source=str(path), seed=seed)


class RuleBuilder:
    """One rule in the making: conditions in any order, then one action, which adds it.

    Every condition returns the builder, every action the plan.
    """

    def __init__(self, plan: FaultPlan, rule: Rule) -> None:
        self._plan, self._rule = plan, rule

    def tid(self, tid: int) -> Self:
        """Only requests to this TID."""
        self._rule.tid = tid
        return self

    def after(self, count: int) -> Self:
        """Leave the first `count` matching requests alone."""
        self._rule.after = count
        return self

    def every(self, number: int) -> Self:
        """Hit one request of so many, beginning with the first."""
        self._rule.every = number
        return self

    def times(self, limit: int) -> Self:
        """Hit at most so many."""
        self._rule.times = limit
        return self

    def probability(self, chance: float) -> Self:
        """Hit with this probability."""
        self._rule.probability = chance
        return self

    def between(self, from_ms: float, to_ms: float | None = None) -> Self:
        """Act only in this time, in milliseconds since the IOP was made."""
        self._rule.from_ms, self._rule.to_ms = from_ms, to_ms
        return self

    def reply(self, req_status: int, detail: int = 0) -> FaultPlan:
        """Answer with this status instead of doing the work."""
        return self._finish(Action("status", req_status=int(req_status), detail=int(detail)))

    def fail(self, code: int = FailureCode.CONGESTION) -> FaultPlan:
        """Answer with a FAIL reply and preserve the frame."""
        return self._finish(Action("fail", code=int(code)))

    def delay(self, ms: float) -> FaultPlan:
        """Serve the request this much later."""
        return self._finish(Action("delay", ms=ms))

    def drop(self) -> FaultPlan:
        """Swallow the request: its frame comes back, nothing else happens."""
        return self._finish(Action("drop"))

    def duplicate(self) -> FaultPlan:
        """Send the reply twice."""
        return self._finish(Action("duplicate"))

    def corrupt(self) -> FaultPlan:
        """Change one bit of the reply's body."""
        return self._finish(Action("corrupt"))

    def starve(self, ms: float = 0) -> FaultPlan:
        """Make the inbound port read empty; see `Action.ms` for how long."""
        return self._finish(Action("starve", ms=ms))

    def stall(self, ms: float) -> FaultPlan:
        """Stop the IOP's processor for this long, before the request is served."""
        return self._finish(Action("stall", ms=ms))

    def crash(self) -> FaultPlan:
        """Stop the IOP for good: FAULTED until power is cycled."""
        return self._finish(Action("crash"))

    def reset(self) -> FaultPlan:
        """Restart the IOP by itself: everything is lost and it is in RESET."""
        return self._finish(Action("reset"))

    def _finish(self, action: Action) -> FaultPlan:
        self._rule.action = action
        self._plan.add(self._rule)
        return self._plan


_CONDITIONS: Final = ("on", "tid", "after", "every", "times", "probability", "from_ms", "to_ms")
_ARGUMENTS: Final[Mapping[str, tuple[str, ...]]] = {
    "starve": ("ms",),
    "delay": ("ms",),
    "drop": (),
    "duplicate": (),
    "corrupt": (),
    "fail": ("code",),
    "status": ("req_status", "detail"),
    "stall": ("ms",),
    "crash": (),
    "reset": (),
}
_BLOCK_FUNCTIONS: Final = frozenset(
    function.value for name, function in Function.__members__.items() if name.startswith("BSA_")
)
_NEEDED: Final = {"delay": "ms", "stall": "ms", "status": "req_status"}


def _rule(table: dict[str, Any], place: str) -> Rule:
    name = table.get("action")
    if name not in ACTIONS:
        raise FaultPlanError(f"{place}: unknown action {name!r}; known are {', '.join(ACTIONS)}")
    arguments = _ARGUMENTS[name]
    _known(table, ("action", *_CONDITIONS, *arguments), place)
    if name in _NEEDED and _NEEDED[name] not in table:
        raise FaultPlanError(f"{place}: action {name!r} needs {_NEEDED[name]!r}")

    def number(key: str, default: Any, kind: type = int) -> Any:
        return _typed(table[key], kind, key, place) if key in table else default

    function = _function(_typed(table.get("on", "*"), (str, int), "on", place))
    rule = Rule(
        function=function,
        tid=number("tid", None),
        after=number("after", 0),
        every=number("every", 1),
        times=number("times", None),
        probability=number("probability", 1.0, float),
        from_ms=number("from_ms", 0, float),
        to_ms=number("to_ms", None, float),
    )

    def argument(key: str) -> Any:
        if isinstance(table[key], str) and key in ("req_status", "detail"):
            return _status(table[key], key, function)
        return number(key, 0, float if key == "ms" else int)

    rule.action = Action(name, **{key: argument(key) for key in arguments if key in table})
    return rule


def _status(name: str, key: str, function: int | None) -> int:
    """Return the status of a name; of two that share it the one of the function's class."""
    enums: list[type[IntEnum]] = [ReqStatus]
    if key == "detail":
        enums = [DetailedStatus, BsaDetailedStatus]
        if function in _BLOCK_FUNCTIONS:
            enums.reverse()
    for enum in enums:
        if name.upper() in enum.__members__:
            return enum[name.upper()].value
    known = sorted({member for enum in enums for member in enum.__members__})
    raise FaultPlanError(f"{key} = {name!r} is no status; known are {', '.join(known)}")


def _read_file(path: str | Path) -> bytes:
    """Read a small regular file; raises OSError for any other, without waiting for a FIFO."""
    _require_regular(os.stat(path))
    with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:
        _require_regular(os.fstat(file.fileno()))
        data = file.read(MAX_FILE + 1)
    if len(data) > MAX_FILE:
        raise OSError(f"it is larger than {MAX_FILE >> 20} MiB")
    return data


def _require_regular(found: os.stat_result) -> None:
    if stat.S_ISDIR(found.st_mode):
        raise OSError("it is a directory")
    if not stat.S_ISREG(found.st_mode):
        raise OSError("it is no regular file")


def _check(rule: Rule) -> None:
    action = rule.action
    times = f"between 0 and {MAX_MS}"
    limits: tuple[tuple[str, float | None, Callable[[float], bool], str], ...] = (
        ("tid", rule.tid, lambda v: 0 <= v <= 0xFFF, "between 0 and 0xFFF"),
        ("after", rule.after, lambda v: v >= 0, "0 or more"),
        ("every", rule.every, lambda v: v >= 1, "1 or more"),
        ("times", rule.times, lambda v: v >= 1, "1 or more"),
        ("probability", rule.probability, lambda v: 0 <= v <= 1, "between 0 and 1"),
        ("from_ms", rule.from_ms, lambda v: 0 <= v <= MAX_MS, times),
        ("to_ms", rule.to_ms, lambda v: 0 <= v <= MAX_MS, times),
        ("to_ms", rule.to_ms, lambda v: v > rule.from_ms, "later than from_ms"),
        ("ms", action.ms, lambda v: 0 <= v <= MAX_MS, times),
        ("req_status", action.req_status, lambda v: 0 <= v <= 0xFF, "between 0 and 0xFF"),
        ("detail", action.detail, lambda v: 0 <= v <= 0xFFFF, "between 0 and 0xFFFF"),
        ("code", action.code, lambda v: 0 <= v <= 0xFF, "between 0 and 0xFF"),
    )
    for name, value, is_good, wanted in limits:
        if value is not None and not is_good(value):
            raise FaultPlanError(f"{name} = {_shown(value)} must be {wanted}")


def _shown(value: float) -> str:
    """Return a number as text, however many digits it has."""
    try:
        return f"{value:g}"
    except OverflowError:
        return "a number too large to show"


def _function(name: int | str) -> int | None:
    if name == "*":
        return None
    if isinstance(name, str):
        try:
            return Function[name.upper()].value
        except KeyError:
            pass
        try:
            name = int(name, 0)
        except ValueError:
            raise FaultPlanError(
                f"no function is called {name!r}; known are * and "
                + ", ".join(sorted(Function.__members__))
            ) from None
    if not 0 <= name <= 0xFF:
        raise FaultPlanError(f"function code {name:#x} is not between 0 and 0xFF")
    return int(name)


def _known(table: Mapping[str, Any], known: tuple[str, ...], place: str) -> None:
    for key in table:
        if key not in known:
            raise FaultPlanError(f"{place}: unknown key {key!r}; known are {', '.join(known)}")


def _typed(value: Any, kind: type | tuple[type, ...], key: str, place: str) -> Any:
    if kind is float:
        kind = (int, float)
    if isinstance(value, bool) or not isinstance(value, kind):
        wanted = " or ".join(k.__name__ for k in (kind if isinstance(kind, tuple) else (kind,)))
        raise FaultPlanError(f"{place}: {key} = {value!r} must be {wanted}")
    return value
