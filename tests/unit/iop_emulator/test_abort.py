# SPDX-License-Identifier: Apache-2.0
"""UtilAbort in all of its eight types: whom it meets, and what it leaves alone."""

from __future__ import annotations

import pytest

from fakes.iop_rig import DISK, Rig
from i2o.frames import block_storage as bsa
from i2o.frames import utility
from i2o.frames.functions import Function
from i2o.frames.utility import AbortType
from i2o.iop_emulator.block_store import MemoryDisk
from i2o.iop_emulator.faults import FaultPlan

SECOND = DISK + 1
CHECK, VERIFY = Function.BSA_STATUS_CHECK, Function.BSA_MEDIA_VERIFY
Met = set[tuple[int, int, int]]
"""TID, function and transaction context of requests."""


def waiting_rig() -> Rig:
    """Return an IOP with three delayed requests and two long operations that have begun."""
    rig = Rig([MemoryDisk(1 << 20), MemoryDisk(1 << 20)], faults=(plan := FaultPlan()))
    plan.on(CHECK).delay(1000)
    for tid, context in ((DISK, 1), (DISK, 2), (SECOND, 1)):
        rig.post(bsa.BSA_STATUS_CHECK.build(target_address=tid, transaction_context=context))
    for context in (1, 2):
        rig.post(
            bsa.BSA_MEDIA_VERIFY.build(
                target_address=DISK, transaction_context=context, byte_count=1 << 20
            )
        )
    rig.iop.run(5, 0)
    assert rig.reap() is None
    return rig


def abort(rig: Rig, kind: AbortType) -> tuple[Met, int, Met]:
    """Abort function StatusCheck, context 1; return what was aborted, the count, what finished."""
    rig.post(
        utility.UTIL_ABORT.build(
            target_address=DISK,
            abort_type=kind,
            function_to_abort=CHECK,
            transaction_context_to_abort=1,
        )
    )
    rig.iop.run(1, 0)
    aborted: Met = set()
    while (reply := rig.reap()) is not None and reply.data[7] != Function.UTIL_ABORT:
        assert reply.status == (2, 0)
        aborted.add(_request(reply.words))
    assert reply is not None, "the aborted come before the abort's own reply"
    count = reply.words[4]
    rig.advance(2000)
    return aborted, count, {_request(reply.words) for reply in rig.replies()}


def _request(words: tuple[int, ...]) -> tuple[int, int, int]:
    return words[1] & 0xFFF, words[1] >> 24, words[3]


ALL: Met = {
    (DISK, CHECK, 1),
    (DISK, CHECK, 2),
    (SECOND, CHECK, 1),
    (DISK, VERIFY, 1),
    (DISK, VERIFY, 2),
}


@pytest.mark.parametrize(
    ("kind", "met"),
    [
        (AbortType.EXACT_ABORT, {(DISK, CHECK, 1)}),
        (AbortType.FUNCTION_ABORT, {(DISK, CHECK, 1), (DISK, CHECK, 2)}),
        (AbortType.TRANSACTION_ABORT, {(DISK, CHECK, 1), (DISK, VERIFY, 1)}),
        (AbortType.WILD_ABORT, ALL - {(SECOND, CHECK, 1)}),
        (AbortType.CLEAN_EXACT_ABORT, {(DISK, CHECK, 1)}),
        (AbortType.CLEAN_FUNCTION_ABORT, {(DISK, CHECK, 1), (DISK, CHECK, 2)}),
        (AbortType.CLEAN_TRANSACTION_ABORT, {(DISK, CHECK, 1)}),
        (AbortType.CLEAN_WILD_ABORT, {(DISK, CHECK, 1), (DISK, CHECK, 2)}),
    ],
)
def test_each_type_meets_its_own(kind: AbortType, met: Met) -> None:
    aborted, count, finished = abort(waiting_rig(), kind)
    assert aborted == met
    assert count == len(met)
    assert finished == ALL - met


def test_there_are_eight_types() -> None:
    reply = Rig().call(utility.UTIL_ABORT.build(target_address=DISK, abort_type=8))
    assert reply.status == (5, 0x11)


def test_nothing_to_abort_is_no_error() -> None:
    reply = Rig().call(utility.UTIL_ABORT.build(target_address=DISK, abort_type=3))
    assert reply.words[4] == 0
