# SPDX-License-Identifier: Apache-2.0
"""FAILED and FAULTED: what still works, what fails, and how an IOP gets out of them."""

from __future__ import annotations

import pytest

from fakes.iop_rig import DISK, Rig
from i2o.frames import block_storage as bsa
from i2o.frames import executive as x
from i2o.frames import utility
from i2o.frames.functions import Function
from i2o.frames.header import FailureCode, MsgFlags
from i2o.frames.tables import IopState
from i2o.frames.utility import GenericEvent
from i2o.iop_emulator.faults import FaultPlan

CHECK = bsa.BSA_STATUS_CHECK.build(target_address=DISK)
PLAIN = (0, 0)


def test_an_iop_that_fails_tells_and_aborts():
    rig = Rig(faults=(plan := FaultPlan()))
    plan.on(Function.BSA_STATUS_CHECK).delay(1000)
    rig.post(
        utility.UTIL_EVENT_REGISTER.build(
            target_address=0, event_mask=GenericEvent.STATE_CHANGE.value
        )
    )
    rig.post(CHECK)
    rig.run()
    rig.iop.fail()
    aborted, event = rig.replies()
    assert (aborted.data[7], aborted.status[0]) == (Function.BSA_STATUS_CHECK, 9)
    assert event.words[4:6] == (GenericEvent.STATE_CHANGE, 0x10)
    assert rig.state == IopState.FAILED


@pytest.mark.parametrize(
    "frame",
    [
        CHECK,
        utility.UTIL_EVENT_ACK.build(target_address=DISK),
        x.EXEC_SYS_ENABLE.build(),
        x.EXEC_LCT_NOTIFY.build(),
        utility.UTIL_EVENT_ACK.build(),
    ],
    ids=["disk", "utility", "enable", "lct", "executive"],
)
def test_in_failed_requests_fail_and_their_frames_come_home(frame):
    rig = Rig()
    free = rig.unit.idle_inbound()
    rig.iop.fail()
    reply = rig.call(frame)
    assert reply.flags & MsgFlags.FAIL
    assert reply.data[19] == FailureCode.STATE_ERROR
    assert "FAILED: reset it" in list(rig.complaints)[-1]
    mfa = reply.words[7]
    rig.unit.write(mfa, utility.UTIL_NOP.build())
    rig.unit.post(mfa)
    assert rig.replies() == []
    assert rig.unit.idle_inbound() == free


def test_clear_takes_a_failed_iop_to_hold():
    rig = Rig()
    rig.iop.fail()
    assert rig.call(x.EXEC_IOP_CLEAR.build()).status == PLAIN
    assert rig.state == IopState.HOLD
    assert rig.call(x.EXEC_SYS_ENABLE.build()).status == PLAIN
    assert rig.call(CHECK).status == PLAIN


def test_a_reset_takes_a_failed_iop_to_reset():
    rig = Rig()
    rig.iop.fail()
    word = rig.buffer(4)
    rig.post(x.EXEC_IOP_RESET.build(status_word_low_address=word.bus_address))
    rig.run()
    assert rig.state == IopState.RESET
    rig.bring_up()
    assert rig.call(CHECK).status == PLAIN


def test_a_failed_iop_without_reply_frames_drops_and_gives_frames_back():
    rig = Rig(up=False)
    free = rig.unit.idle_inbound()
    rig.iop.fail()
    rig.post(CHECK)
    assert rig.replies() == []
    assert rig.unit.idle_inbound() == free


def test_only_power_helps_an_iop_that_crashed():
    rig = Rig()
    rig.iop.crash()
    rig.post(CHECK)
    assert rig.replies() == []
    rig.iop.power_cycle()
    rig.bring_up()
    assert rig.call(CHECK).status == PLAIN
