# SPDX-License-Identifier: Apache-2.0
"""The fifteen documented calls, their names and return codes, on an emulated IOP."""

from __future__ import annotations

import errno
import os
import signal

import pytest

import i2o
from i2o import d3i2o
from i2o.frames.block_storage import BSA_STATUS_CHECK
from i2o.frames.functions import DeviceClass

DOCUMENTED = {
    "OSMMsgOpenCall", "OSMMsgRegister", "OSMMsgDeRegister", "OSMMsgGetReqBuf",
    "OSMMsgFreeReqBuf", "OSMMsgSend", "OSMMsgFreeRepBuf", "OSMMsgGetNumIops", "OSMMsgIopValid",
    "OSMMsgIopToKey", "OSMMsgKeyToIop", "OSMMsgKeytoIop", "OSMMsgMfaConvert",
    "OSMMsgGetInboundFrameSize", "OSMMsgGetOutboundFrameSize", "OSMMsgSetInboundFrameSize",
}  # fmt: skip


@pytest.fixture
def layer():
    shared = i2o.default_message_layer()
    yield shared
    shared.close()


@pytest.fixture
def iop(layer) -> int:
    return layer.attach("emu:")


def disk_tid(layer, iop: int) -> int:
    return next(
        entry.tid
        for entry in layer.result(iop).lct.devices
        if entry.class_id == DeviceClass.RANDOM_BLOCK_STORAGE
    )


def test_all_documented_names_exist():
    assert set(d3i2o.__all__) >= DOCUMENTED
    for name in d3i2o.__all__:
        assert hasattr(d3i2o, name)
    assert d3i2o.OSMMsgKeytoIop is d3i2o.OSMMsgKeyToIop


def test_one_layer_per_process(layer):
    d3i2o.OSMMsgOpenCall()
    d3i2o.OSMMsgOpenCall()
    assert i2o.default_message_layer() is layer


def test_a_request_from_end_to_end(layer, iop):
    seen = []

    def replied(number, reply):
        seen.append((number, bytes(reply)))
        assert d3i2o.OSMMsgFreeRepBuf(number, reply) == d3i2o.SUCCESS
        assert d3i2o.OSMMsgFreeRepBuf(number, reply) == errno.EINVAL

    status, base, cookies = d3i2o.OSMMsgRegister(1, [replied])
    assert status == d3i2o.SUCCESS
    frame = d3i2o.OSMMsgGetReqBuf(iop, 0, d3i2o.I2OTRANS_SLEEP)
    frame[:16] = BSA_STATUS_CHECK.build(
        target_address=disk_tid(layer, iop), initiator_context=cookies[0], transaction_context=42
    )
    assert d3i2o.OSMMsgSend(iop, frame, 0, d3i2o.I2OTRANS_NOSLEEP) == d3i2o.SUCCESS
    assert seen == [], "never answered inside the call"
    assert layer.poll() == 1
    assert seen[0][0] == iop
    assert seen[0][1][12:16] == (42).to_bytes(4, "little")
    assert d3i2o.OSMMsgSend(iop, frame, 0, 0) == errno.EINVAL
    assert d3i2o.OSMMsgFreeReqBuf(iop, frame) == errno.EINVAL
    assert d3i2o.OSMMsgDeRegister(base) == d3i2o.SUCCESS
    assert d3i2o.OSMMsgDeRegister(base) == errno.EINVAL


def test_register_codes():
    assert d3i2o.OSMMsgRegister(2, [print]) == (errno.EINVAL, 0, ())
    assert d3i2o.OSMMsgRegister(0, []) == (errno.EINVAL, 0, ())
    bases = []
    while True:
        status, base, _ = d3i2o.OSMMsgRegister(1, [print])
        if status:
            break
        bases.append(base)
    assert status == errno.ENOMEM
    assert len(bases) >= 200
    for base in bases:
        assert d3i2o.OSMMsgDeRegister(base) == d3i2o.SUCCESS


def test_frames_that_cannot_be_had(layer):
    assert d3i2o.OSMMsgGetReqBuf(999, 0, 0) is None
    iop = layer.attach("emu:?frames=1", frame_source="fifo")
    frame = d3i2o.OSMMsgGetReqBuf(iop, 0, 0)
    assert frame is not None
    assert d3i2o.OSMMsgGetReqBuf(iop, 0, 0) is None
    assert d3i2o.OSMMsgGetReqBuf(iop, 0, 0x10) is None
    assert d3i2o.OSMMsgFreeReqBuf(iop, frame) == d3i2o.SUCCESS
    frame = d3i2o.OSMMsgGetReqBuf(iop, 0, 0)
    assert frame is not None
    assert d3i2o.OSMMsgFreeReqBuf(iop, frame) == d3i2o.SUCCESS  # closing would wait for it


def test_send_codes(layer, iop):
    frame = d3i2o.OSMMsgGetReqBuf(iop, 0, 0)
    frame[:16] = BSA_STATUS_CHECK.build(target_address=0x999)
    assert d3i2o.OSMMsgSend(iop, frame, 0, 0x8000) == errno.EINVAL
    assert d3i2o.OSMMsgSend(iop + 1, frame, 0, 0) == errno.EINVAL
    unit = layer.port(iop).soft_iop.unit
    unit.starve(True)
    assert d3i2o.OSMMsgSend(iop, frame, 0, 0) == errno.ENOMEM
    unit.starve(False)
    assert d3i2o.OSMMsgFreeReqBuf(iop + 1, frame) == errno.EINVAL
    assert d3i2o.OSMMsgFreeReqBuf(iop, frame) == d3i2o.SUCCESS


def test_iops_and_keys(layer, iop):
    registered = layer.attach("emu:", bring_up=False)
    assert d3i2o.OSMMsgGetNumIops() == 2
    assert d3i2o.OSMMsgIopValid(iop) == d3i2o.TRUE
    assert d3i2o.OSMMsgIopValid(registered) == d3i2o.FALSE
    assert d3i2o.OSMMsgIopValid(12345) == d3i2o.FALSE
    key = d3i2o.OSMMsgIopToKey(iop)
    assert d3i2o.OSMMsgKeyToIop(key) == iop
    assert d3i2o.OSMMsgIopToKey(12345) == -1
    assert d3i2o.OSMMsgKeyToIop(-5) == -1


def test_fail_reply_and_mfa_convert(layer, iop):
    saved = []

    def replied(number, reply):
        assert reply.failed
        request = d3i2o.OSMMsgMfaConvert(number, reply.preserved_mfa_low)
        saved.append(request.transaction_context)
        d3i2o.OSMMsgFreeRepBuf(number, reply)

    _, base, (cookie,) = d3i2o.OSMMsgRegister(1, [replied])
    frame = d3i2o.OSMMsgGetReqBuf(iop, 0, 0)
    frame[:16] = BSA_STATUS_CHECK.build(
        target_address=0x999, initiator_context=cookie, transaction_context=77
    )
    assert d3i2o.OSMMsgSend(iop, frame, 0, 0) == d3i2o.SUCCESS
    layer.poll()
    assert saved == [77]
    assert d3i2o.OSMMsgMfaConvert(iop, 0x1000) is None
    assert d3i2o.OSMMsgMfaConvert(9999, 0x1000) is None
    layer.port(iop).wait(0)
    unit = layer.port(iop).soft_iop.unit
    assert unit.idle_inbound() == unit.frame_count, "the preserved frame went home"
    d3i2o.OSMMsgDeRegister(base)


def test_frame_sizes(layer):
    iop = layer.attach("emu:?frame_size=128")
    assert d3i2o.OSMMsgGetInboundFrameSize(iop) == 128
    assert d3i2o.OSMMsgGetOutboundFrameSize(iop) == 128
    assert d3i2o.OSMMsgGetInboundFrameSize(99) == -1
    assert d3i2o.OSMMsgGetOutboundFrameSize(99) == -1
    assert d3i2o.OSMMsgSetInboundFrameSize(iop, 100, 0) == errno.EINVAL
    assert d3i2o.OSMMsgSetInboundFrameSize(99, 128, 0) == errno.EINVAL
    assert d3i2o.OSMMsgSetInboundFrameSize(iop, 256, 2) == errno.EINVAL


def test_the_worked_example_of_the_force_rule(layer):
    """128 now; A asks for 512, B for 256 (ignored), B for 256 with FORCE."""
    iop = layer.attach("emu:?frame_size=128")
    counters = layer.counters(iop)

    def asked(size: int, flags: int = 0) -> int:
        before = counters.requests
        assert d3i2o.OSMMsgSetInboundFrameSize(iop, size, flags) == d3i2o.SUCCESS
        return counters.requests - before

    def remembered() -> int:
        return layer._iops.entry(iop).size_at_next_reboot

    assert (asked(512), remembered()) == (1, 512)
    assert (asked(256), remembered()) == (0, 512)
    assert (asked(256, d3i2o.I2O_FRAMESIZE_FORCE), remembered()) == (1, 256)
    with i2o.open("emu:"):  # another IOP, another memory
        assert remembered() == 256


def test_the_size_stays_until_the_reboot_and_is_remembered_as_asked(layer):
    iop = layer.attach("emu:?frame_size=128")
    assert d3i2o.OSMMsgSetInboundFrameSize(iop, 512, 0) == d3i2o.SUCCESS
    assert d3i2o.OSMMsgGetInboundFrameSize(iop) == 128
    assert len(d3i2o.OSMMsgGetReqBuf(iop, 0, 0)) == 128
    assert layer._iops.entry(iop).size_at_next_reboot == 512


def test_an_equal_size_is_sent(layer):
    iop = layer.attach("emu:?frame_size=128")
    counters = layer.counters(iop)
    for flags in (0, d3i2o.I2O_FRAMESIZE_FORCE):
        before = counters.requests
        assert d3i2o.OSMMsgSetInboundFrameSize(iop, 128, flags) == d3i2o.SUCCESS
        assert counters.requests == before + 1


def test_an_iop_whose_process_died(layer):
    """Every call returns a code, before the death was noticed and after it."""
    iop = layer.attach("emu:?run=process")
    key = d3i2o.OSMMsgIopToKey(iop)
    frame = d3i2o.OSMMsgGetReqBuf(iop, 0, 0)
    frame[:16] = BSA_STATUS_CHECK.build(target_address=disk_tid(layer, iop))
    process = layer.port(iop).process
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert d3i2o.OSMMsgSend(iop, frame, 0, 0) == errno.EINVAL
    assert d3i2o.OSMMsgSetInboundFrameSize(iop, 1024, 0) == errno.EINVAL
    assert layer.outstanding(iop) == 0
    layer.poll()
    assert d3i2o.OSMMsgIopValid(iop) == d3i2o.FALSE
    assert d3i2o.OSMMsgGetNumIops() == 1, "registered until it is detached"
    assert d3i2o.OSMMsgSend(iop, frame, 0, 0) == errno.EINVAL
    assert d3i2o.OSMMsgSend(iop, frame, 200_000, d3i2o.I2OTRANS_SLEEP) == errno.EINVAL
    assert d3i2o.OSMMsgFreeReqBuf(iop, frame) == d3i2o.SUCCESS
    assert d3i2o.OSMMsgGetReqBuf(iop, 0, 0) is None
    assert d3i2o.OSMMsgMfaConvert(iop, 0x1000) is None
    assert d3i2o.OSMMsgSetInboundFrameSize(iop, 1024, 0) == errno.EINVAL
    assert d3i2o.OSMMsgKeyToIop(key) == iop
    layer.detach(iop)


def test_a_refused_size_is_not_remembered(layer):
    iop = layer.attach("emu:?frame_size=128")
    layer.port(iop).soft_iop.unit.starve(True)
    assert d3i2o.OSMMsgSetInboundFrameSize(iop, 512, 0) == errno.EINVAL
    layer.port(iop).soft_iop.unit.starve(False)
    assert layer._iops.entry(iop).size_at_next_reboot == 128
