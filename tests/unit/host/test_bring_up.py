# SPDX-License-Identifier: Apache-2.0
"""Bring-up against IOPs that go wrong at each of its steps, and against one that was up before."""

from __future__ import annotations

import pytest

import i2o
from fakes.scripted_iop import Script, ScriptedPort
from i2o.bring_up import Limits
from i2o.clock import SYSTEM_CLOCK, ManualClock
from i2o.errors import IopDead, RemoteFrameError, RequestFailed, RequestTimeout
from i2o.frames.functions import Function
from i2o.frames.tables import IopState
from i2o.frames.utility import UTIL_EVENT_REGISTER, UTIL_LOCK
from i2o.message_layer import MessageLayer

F = Function


def attach(script: Script, **limits) -> tuple[MessageLayer, ScriptedPort, int]:
    port = ScriptedPort(script)
    layer = MessageLayer(clock=port.clock)
    return layer, port, layer.attach(port, limits=Limits(**limits))


def test_the_order_of_messages():
    layer, port, number = attach(Script())
    assert port.seen == [
        F.EXEC_STATUS_GET,
        F.EXEC_STATUS_GET,
        F.EXEC_OUTBOUND_INIT,
        F.EXEC_STATUS_GET,
        F.EXEC_HRT_GET,
        F.EXEC_SYS_TAB_SET,
        F.EXEC_SYS_ENABLE,
        F.EXEC_STATUS_GET,
        F.EXEC_LCT_NOTIFY,
    ]
    assert not port.masked
    assert layer.iop_valid(number)
    assert layer.inbound_frame_size(number) == 128
    assert port.unit.idle_outbound() == 4, "no more reply frames than the IOP takes"
    assert port.system_table[0] == 1
    assert port.memory.buffer_count == 1


@pytest.mark.parametrize(
    "state", [IopState.HOLD, IopState.READY, IopState.OPERATIONAL, IopState.FAILED]
)
def test_an_iop_that_was_up_is_reset_and_its_first_frame_becomes_a_nop(state):
    _, port, _ = attach(Script(state=state))
    assert port.seen[:4] == [F.EXEC_STATUS_GET, F.EXEC_IOP_RESET, F.UTIL_NOP, F.EXEC_STATUS_GET]


def test_an_iop_that_initializes_is_waited_for():
    script = Script(state=IopState.INITIALIZING)
    port = ScriptedPort(script)
    layer = MessageLayer(clock=port.clock)
    serve = port.serve

    def later() -> bool:
        if port.clock.monotonic() > 3 and port.state == IopState.INITIALIZING:
            port.state = IopState.RESET
        return serve()

    port.serve = later
    layer.attach(port)
    assert port.clock.monotonic() > 3


@pytest.mark.parametrize(
    ("script", "error", "words"),
    [
        (Script(silent=frozenset({F.EXEC_STATUS_GET})), IopDead, "no status block within 5 s"),
        (Script(state=IopState.FAULTED), IopDead, "FAULTED"),
        (Script(state=IopState.INITIALIZING), IopDead, "still INITIALIZING after 30 s"),
        (Script(version=2), IopDead, "version code 2"),
        (Script(private_memory=4096), IopDead, "private address space"),
        (Script(state=8, silent=frozenset({F.EXEC_IOP_RESET})), IopDead, "IopReset was not acc"),
        (Script(state=8, reset_status=2), IopDead, "rejected IopReset"),
        (Script(state=8, frames_after_reset=False), IopDead, "no inbound frame within 30 s"),
        (Script(silent=frozenset({F.EXEC_OUTBOUND_INIT})), IopDead, "OutboundInit did not finish"),
        (Script(outbound_status=1), IopDead, "OutboundInit did not finish"),
        (Script(outbound_status=2), IopDead, r"OutboundInit failed \(status 2\)"),
        (Script(outbound_status=3), IopDead, r"OutboundInit failed \(status 3\)"),
        (Script(state_after_outbound=IopState.RESET), IopDead, "RESET, not HOLD"),
        (Script(silent=frozenset({F.EXEC_HRT_GET})), RequestTimeout, "exec_hrt_get"),
        (Script(hrt=b"\x01\x00\x02\x00" + bytes(4)), RemoteFrameError, "HRT entries"),
        (Script(hrt=b"\xff\xff\xff\x00" + bytes(4)), RemoteFrameError, "not believable"),
        (Script(silent=frozenset({F.EXEC_SYS_TAB_SET})), RequestTimeout, "exec_sys_tab_set"),
        (Script(enable_status=b"\x11\0\0\5"), RequestFailed, "SysEnable.*INVALID_PARAMETER"),
        (Script(state_after_enable=IopState.READY), IopDead, "READY, not OPERATIONAL"),
        (Script(lct=b"\xff\xff" + bytes(10)), RemoteFrameError, "claims 0 words"),
        (Script(lct=b"\x01\x00" + bytes(10)), RemoteFrameError, "LCT claims 4 bytes"),
    ],
)  # fmt: skip
def test_what_goes_wrong_is_named_and_the_iop_is_detached(script, error, words):
    port = ScriptedPort(script)
    layer = MessageLayer(clock=port.clock)
    with pytest.raises(error, match=words):
        layer.attach(port)
    assert layer.iop_count() == 0
    assert port.closed


@pytest.mark.parametrize(
    "script",
    [
        Script(version=2),
        Script(private_memory=4096),
        Script(silent=frozenset({F.EXEC_STATUS_GET})),
        Script(silent=frozenset({F.EXEC_OUTBOUND_INIT})),
        Script(state_after_outbound=IopState.RESET),
    ],
)
def test_an_iop_that_did_not_come_up_is_reset_before_its_port_is_closed(script):
    port = ScriptedPort(script)
    before_close = []
    close = port.close

    def closing() -> None:
        before_close.append(port.resets + port.seen.count(F.EXEC_IOP_RESET))
        close()

    port.close = closing
    with pytest.raises(IopDead):
        MessageLayer(clock=port.clock).attach(port)
    assert before_close == [1], "reset once, by message or by the transport"


def test_already_enabled_counts_as_success():
    layer, _, number = attach(Script(enable_status=b"\x12\0\0\5"))
    assert layer.iop_valid(number)


def test_a_table_that_is_larger_than_expected_is_read_again():
    entry = bytes((9, 0)) + bytes(34)
    words = (12 + 36 * 10) // 4
    layer, port, number = attach(Script(lct=words.to_bytes(2, "little") + bytes(10) + entry * 10))
    assert len(layer.result(number).lct.devices) == 10
    assert port.seen.count(F.EXEC_LCT_NOTIFY) == 2


def test_a_table_that_grows_for_ever_is_given_up():
    port = ScriptedPort(Script())
    answer = port._answer

    def growing(function, data):
        if function == F.EXEC_LCT_NOTIFY:
            length = int.from_bytes(data[24:27], "little")
            port.script.lct = (length // 4 + 9).to_bytes(2, "little") + bytes(length)
        answer(function, data)

    port._answer = growing
    with pytest.raises(RemoteFrameError, match="grew 4 times"):
        MessageLayer(clock=port.clock).attach(port)


def test_no_frame_at_all():
    port = ScriptedPort(Script())
    port.unit.starve(True)
    with pytest.raises(IopDead, match="no inbound frame came free within 2 s"):
        MessageLayer(clock=port.clock).attach(port, limits=Limits(status_s=2))


def test_an_iop_without_private_frames_size_gets_the_minimum():
    layer, _, number = attach(Script(inbound_words=0))
    assert layer.inbound_frame_size(number) == 64


class TestAgain:
    """Bringing up an IOP on which requests are outstanding."""

    @pytest.fixture
    def iop(self, tmp_path):
        plan = tmp_path / "plan.toml"
        plan.write_text('[[fault]]\non = "util_lock"\naction = "drop"\n')
        with i2o.open(f"emu:?faults={plan}") as opened:
            yield opened

    def test_each_gets_one_fail_after_the_reset(self, iop):
        layer, number = iop.layer, iop.number
        seen = []

        def replied(iop_number, reply):
            saved = layer.mfa_convert(iop_number, reply.preserved_mfa_low)
            seen.append((reply.failed, saved.transaction_context))
            layer.free_reply(iop_number, reply)

        base, (cookie,) = layer.register([replied])
        for context in (1, 2):
            frame = layer.request_frame(number)
            frame[:16] = UTIL_LOCK.build(
                target_address=0x10, initiator_context=cookie, transaction_context=context
            )
            layer.send(number, frame)
        frame = layer.request_frame(number)
        frame[:20] = UTIL_EVENT_REGISTER.build(initiator_context=cookie, event_mask=0xFFFFFFFF)
        layer.send(number, frame)
        held = layer.request_frame(number)
        layer.poll()
        assert seen == []
        assert layer.outstanding(number) == 2
        layer.bring_up(number)
        assert sorted(seen) == [(True, 1), (True, 2)]
        assert layer.iop_valid(number)
        assert layer._iops.entry(number).event_registrations == {}
        held[:16] = UTIL_LOCK.build(target_address=0x10, initiator_context=cookie)
        layer.send(number, held)  # a frame held across the reset is still good
        layer.deregister(base)
        unit = layer.port(number).soft_iop.unit
        layer.poll()
        assert unit.idle_inbound() == unit.frame_count

    def test_a_reply_held_across_the_reset_is_freed_quietly(self, iop):
        layer, number = iop.layer, iop.number
        kept = []
        base, (cookie,) = layer.register([lambda _, reply: kept.append(reply)])
        frame = layer.request_frame(number)
        frame[:16] = UTIL_LOCK.build(target_address=0x999, initiator_context=cookie)
        layer.send(number, frame)
        layer.poll()
        assert kept[0].failed
        layer.bring_up(number)
        unit = layer.port(number).soft_iop.unit
        free = unit.idle_inbound(), unit.idle_outbound()
        layer.free_reply(number, kept[0])
        assert (unit.idle_inbound(), unit.idle_outbound()) == free
        layer.deregister(base)

    def test_a_fifo_frame_held_across_the_reset_is_memory_only(self):
        with MessageLayer() as layer:
            number = layer.attach("emu:", frame_source="fifo")
            seen = []

            def replied(iop_number, reply):
                seen.append(reply.failed)
                layer.free_reply(iop_number, reply)

            _, (cookie,) = layer.register([replied])
            sent, freed = layer.request_frame(number), layer.request_frame(number)
            sent[:16] = UTIL_LOCK.build(target_address=0x10, initiator_context=cookie)
            layer.bring_up(number)
            layer.send(number, sent)
            layer.free_request(number, freed)
            assert layer.run_until(lambda: bool(seen), 5)
            assert seen == [False]
            port = layer.port(number)
            port.wait(0)
            assert port.unit.idle_inbound() == port.unit.frame_count
            assert list(port.soft_iop.complaints) == []

    @pytest.mark.parametrize("clock", [SYSTEM_CLOCK, ManualClock()], ids=["real", "manual"])
    @pytest.mark.parametrize("how", ["refresh", "bring_up"])
    def test_a_reply_that_nobody_took_yet_is_in_nobodys_way(self, clock, how):
        """The IOP is told through memory, and waiting returns at once: there is a reply."""
        with i2o.open("emu:", clock=clock) as iop:
            layer, number = iop.layer, iop.number
            pending = iop.requester.start(UTIL_LOCK.build(target_address=0x10))
            layer.port(number).wait(0)
            assert layer.port(number).unit.reply_pending
            assert not pending.is_done()
            if how == "refresh":
                layer.refresh(number)
                assert not iop.requester.finish(pending).failed
            else:
                layer.bring_up(number)
                assert pending.is_done(), "answered, or failed by the reset"
            assert layer.iop_valid(number)
            assert layer.outstanding(number) == 0
            assert iop.status.state_name == "OPERATIONAL"

    def test_what_failed_and_what_callbacks_raised_both_come_out(self):
        layer, port, number = attach(Script())

        def fails(iop_number, reply):
            layer.free_reply(iop_number, reply)
            raise ZeroDivisionError

        _, (cookie,) = layer.register([fails])
        layer.submit(number, UTIL_LOCK.build(target_address=5, initiator_context=cookie))
        port.script.state_after_outbound = IopState.RESET
        with pytest.raises(ExceptionGroup) as caught:
            layer.bring_up(number)
        assert {type(error) for error in caught.value.exceptions} == {IopDead, ZeroDivisionError}
        assert not layer.iop_valid(number)
        assert layer.outstanding(number) == 0
        layer.detach(number)

    def test_a_raising_callback_comes_out_after_the_bring_up(self, iop):
        layer, number = iop.layer, iop.number

        def fails(iop_number, reply):
            layer.free_reply(iop_number, reply)
            raise ZeroDivisionError

        _, (cookie,) = layer.register([fails])
        frame = layer.request_frame(number)
        frame[:16] = UTIL_LOCK.build(target_address=0x10, initiator_context=cookie)
        layer.send(number, frame)
        layer.poll()
        with pytest.raises(ZeroDivisionError):
            layer.bring_up(number)
        assert layer.iop_valid(number)
