# SPDX-License-Identifier: Apache-2.0
"""Fault plans drawn by chance: every action, every condition."""

from __future__ import annotations

import random

from i2o.frames.functions import Function
from i2o.frames.header import FailureCode, ReqStatus
from i2o.iop_emulator.faults import ACTIONS, Action, FaultPlan, Rule

_FATAL = ("crash", "reset")
_ERRORS = tuple(status.value for status in ReqStatus if status.value)
_FAILURES = tuple(code.value for code in FailureCode)
_FUNCTIONS = tuple(
    Function[name].value
    for name in (
        "BSA_BLOCK_READ",
        "BSA_BLOCK_WRITE",
        "BSA_CACHE_FLUSH",
        "BSA_STATUS_CHECK",
        "EXEC_HRT_GET",
        "EXEC_IOP_RESET",
        "EXEC_LCT_NOTIFY",
        "EXEC_OUTBOUND_INIT",
        "EXEC_STATUS_GET",
        "EXEC_SYS_ENABLE",
        "EXEC_SYS_TAB_SET",
        "UTIL_ABORT",
        "UTIL_CLAIM",
        "UTIL_EVENT_REGISTER",
        "UTIL_NOP",
        "UTIL_PARAMS_GET",
    )
)


def random_plan(seed: int) -> FaultPlan:
    """Return a plan of a dozen rules. What ends an IOP is rare, so that work gets done."""
    chance = random.Random(seed)
    plan = FaultPlan(seed)
    for name in chance.sample(ACTIONS, len(ACTIONS)):
        for _ in range(chance.choice((0, 1, 1, 2))):
            plan.add(_rule(chance, name))
    if not chance.randrange(3):
        from_ms = chance.randrange(1000)
        plan.on("*").between(from_ms, from_ms + chance.randrange(1, 50)).starve()
    return plan


def _rule(chance: random.Random, name: str) -> Rule:
    action = Action(
        name,  # type: ignore[arg-type]
        ms=_duration(chance, name),
        req_status=chance.choice(_ERRORS),
        detail=chance.choice((0, 1, 4, 0x0D)),
        code=chance.choice(_FAILURES),
    )
    is_fatal = name in _FATAL
    from_ms = chance.choice((0, 0, chance.randrange(500)))
    return Rule(
        function=chance.choice((None, None, *_FUNCTIONS)),
        tid=chance.choice((None, None, None, 0, 8, 0x10, 0x11)),
        after=chance.choice((0, 0, chance.randrange(60))),
        every=chance.choice((1, 1, 2, 7)),
        times=chance.randrange(1, 3) if is_fatal else chance.choice((None, chance.randrange(1, 9))),
        probability=chance.choice((0.01, 0.03) if is_fatal else (0.01, 0.05, 0.1)),
        from_ms=from_ms,
        to_ms=chance.choice((None, None, from_ms + chance.randrange(1, 400))),
        action=action,
    )


def _duration(chance: random.Random, name: str) -> float:
    if name == "starve" and not chance.randrange(4):
        return 0  # until the rule's end, or for good
    return chance.choice((0.5, 2, 5, 20))
