# SPDX-License-Identifier: Apache-2.0
"""Twenty things that drivers rely on, or stumble over: one test for each.

What a point says of PCI configuration space and of the interrupt registers belongs to a device on a
bus; here it is the part of it that an IOP in memory has.
"""

from __future__ import annotations

import struct

import pytest

from fakes.iop_rig import DISK, Rig
from i2o.clock import SYSTEM_CLOCK
from i2o.frames import block_storage as bsa
from i2o.frames import executive as x
from i2o.frames import tables, utility
from i2o.frames.functions import Function
from i2o.frames.header import MsgFlags
from i2o.frames.sgl import immediate_element, simple_sgl
from i2o.frames.tables import IopState
from i2o.frames.utility import GenericEvent
from i2o.iop_emulator.emu_port import EmuPort
from i2o.transport.port import EMPTY

CHECK = bsa.BSA_STATUS_CHECK.build(target_address=DISK)
PLAIN = (0, 0)
IDENTITY = 0xF100
ALL_FIELDS = 0xFFFF


def read(rig: Rig, size: int = 512, address: int = 0, flags: int | None = None) -> bytes:
    """Return a block read; `flags` replaces those of its only SGL element."""
    buffer = rig.buffer(size)
    sgl = bytearray(simple_sgl([(buffer.bus_address, size)], out=False))
    if flags is not None:
        sgl[3] = flags
    head: bytes = bsa.BSA_BLOCK_READ.build(
        target_address=DISK, transfer_byte_count=size, logical_byte_address=address
    )
    return head + bytes(sgl)


def field_get(group: int = IDENTITY, *indices: int, count: int | None = None) -> bytes:
    """Return an operation list of one FieldGet."""
    number = ALL_FIELDS if count is None else count
    return struct.pack(f"<HHHHH{len(indices)}H", 1, 0, 1, group, number, *indices)


def test_point_01_frames_lie_behind_the_registers_and_below_a_mebibyte():
    rig = Rig(frames=1000, frame_size=512)
    frames = [rig.unit.alloc() for _ in range(1000)]
    assert min(frames) >= 0x1000
    assert max(frames) + 512 <= 0x100000
    assert rig.unit.alloc() == EMPTY


def test_point_02_the_version_is_1_5():
    assert Rig().status_block().i2o_version == 1


def test_point_03_inbound_frames_are_there_at_power_on_and_none_is_all_ones():
    rig = Rig(frames=3, up=False)
    assert [rig.unit.alloc() != 0xFFFFFFFF for _ in range(3)] == [True] * 3
    assert rig.unit.alloc() == 0xFFFFFFFF


@pytest.mark.parametrize("up", [False, True])
def test_point_04_status_get_works_in_every_state_without_a_reply(up):
    rig = Rig(up=up)
    block = rig.buffer(88)
    rig.post(x.EXEC_STATUS_GET.build(reply_buffer_address_low=block.bus_address))
    assert rig.replies() == []
    assert len(block.view) == 88
    assert block.view[87] == 0xFF


def test_point_05_a_reset_loses_everything_and_gives_frames_back():
    rig = Rig(frames=8)
    rig.call(utility.UTIL_CLAIM.build(target_address=DISK, claim_type=1))
    rig.post(
        utility.UTIL_EVENT_REGISTER.build(
            target_address=DISK, event_mask=GenericEvent.DEVICE_RESET.value
        )
    )
    rig.run()
    rig.unit.alloc()
    word = rig.buffer(4)
    rig.post(CHECK)
    rig.post(x.EXEC_IOP_RESET.build(status_word_low_address=word.bus_address))
    rig.run()
    assert bytes(word.view) == b"\x01\0\0\0"
    assert rig.state == IopState.RESET
    assert rig.unit.idle_inbound() == 8
    assert (rig.unit.idle_outbound(), rig.unit.posted_outbound()) == (0, 0)
    assert rig.iop.lct.devices[DISK].claims == []
    assert len(rig.iop.events) == 0


def test_point_06_outbound_init_takes_any_size_and_a_list_at_word_6_by_default():
    rig = Rig(up=False)
    for words in (5, 17, 128, 0):
        status = rig.buffer(8)
        frame = bytearray(
            x.EXEC_OUTBOUND_INIT.build(outbound_msg_frame_size=words)
            + simple_sgl([(status.bus_address, 4)], out=False, last=False)
            + simple_sgl([(status.bus_address + 4, 4)], out=False)
        )
        frame[0] = 0x01  # SGL offset 0
        rig.unit.release(0x2000)
        rig.post(bytes(frame))
        rig.run()
        assert bytes(status.view[:4]) == b"\x04\0\0\0"
        assert rig.unit.idle_outbound() == 0
        assert rig.state == IopState.HOLD


def test_point_07_replies_are_no_longer_than_needed():
    rig = Rig(reply_words=128)
    longest = 0
    for frame in (
        CHECK,
        read(rig),
        read(rig, address=1 << 40),
        utility.UTIL_ABORT.build(target_address=DISK, abort_type=3),
        x.EXEC_SYS_QUIESCE.build(),
    ):
        longest = max(longest, len(rig.call(frame).data))
    assert longest <= 32


def test_point_08_a_request_is_served_from_a_copy_and_its_frame_is_free_at_once():
    rig = Rig(frames=1)
    rig.post(CHECK)
    rig.run()
    mfa = rig.unit.alloc()
    assert mfa != EMPTY
    rig.unit.write(mfa, bytes(64))
    reply = rig.reap()
    assert reply is not None
    assert reply.data[7] == Function.BSA_STATUS_CHECK


@pytest.mark.parametrize(
    "whole",
    [
        bsa.BSA_POWER_MANAGEMENT.build(target_address=DISK, reply_type=2),
        bsa.BSA_MEDIA_MOUNT.build(target_address=DISK),
    ],
    ids=["power", "mount"],
)
def test_point_09_messages_may_be_shorter_than_their_layout(whole):
    rig = Rig()
    for words in range(4, len(whole) // 4 + 1):
        assert rig.call(whole[: 4 * words]).status == PLAIN


def test_point_09_a_list_may_lack_the_last_element_flag():
    rig = Rig()
    assert rig.call(read(rig, flags=0x50)).status == PLAIN


def test_point_10_a_missing_direction_is_that_of_the_function():
    rig = Rig()
    buffer = rig.buffer(b"\x5a" * 512)
    head = bsa.BSA_BLOCK_WRITE.build(target_address=DISK, transfer_byte_count=512)
    sgl = struct.pack("<II", 0xD0 << 24 | 512, buffer.bus_address)  # no DIR bit
    assert rig.call(head + sgl).status == PLAIN
    buffer.view[:] = bytes(512)
    head = bsa.BSA_BLOCK_READ.build(target_address=DISK, transfer_byte_count=512)
    assert rig.call(head + sgl).status == PLAIN
    assert bytes(buffer.view) == b"\x5a" * 512


@pytest.mark.parametrize("rest", [b"", b"\0" * 16, b"\xff" * 16, b"\x10\0\0\x34" * 4])
def test_point_11_what_follows_the_system_table_does_not_matter(rest):
    rig = Rig()
    table = rig.buffer(tables.SYSTAB_HEADER.build())
    size = tables.SYSTAB_HEADER.size
    sgl = simple_sgl([(table.bus_address, size)], out=True, last=False)
    assert rig.call(x.EXEC_SYS_TAB_SET.build() + sgl + rest).status == PLAIN
    status = rig.status_block()
    assert (status.desired_private_mem_size, status.desired_private_io_size) == (0, 0)


def test_point_12_enable_needs_no_system_table_and_io_works_before_it():
    rig = Rig(up=False)
    rig.init_outbound()
    rig.give_replies(8, 128)
    assert rig.state == IopState.HOLD
    assert rig.call(read(rig)).status == PLAIN
    assert rig.call(x.EXEC_SYS_ENABLE.build()).status == PLAIN
    assert rig.state == IopState.OPERATIONAL
    assert rig.call(x.EXEC_SYS_QUIESCE.build()).status == PLAIN
    assert rig.state == IopState.READY
    assert rig.call(read(rig)).status == PLAIN


def test_point_13_a_table_is_cut_and_says_its_true_size():
    rig = Rig()
    whole = rig.status_block().expected_lct_size
    buffer = rig.buffer(16)
    reply = rig.call(x.EXEC_LCT_NOTIFY.build() + simple_sgl([(buffer.bus_address, 16)], out=False))
    assert reply.status == PLAIN
    assert 4 * (buffer.view[0] | buffer.view[1] << 8) == whole > 16


def test_point_13_parameters_that_do_not_fit_are_cut_with_a_status():
    rig = Rig()
    reply, _ = rig.parameters(DISK, field_get()[4:], size=8)
    assert reply.status == (6, 0x18)


@pytest.mark.parametrize("form", ["simple with junk", "immediate", "immediate at w5"])
def test_point_14_three_ways_to_give_the_operations(form):
    rig = Rig()
    operations = field_get() + b"\x5a\x5a"
    results = rig.buffer(512)
    tail = simple_sgl([(results.bus_address, 512)], out=False)
    head = bytearray(utility.UTIL_PARAMS_GET.build(target_address=DISK))
    if form == "simple with junk":
        buffer = rig.buffer(operations)
        first = simple_sgl([(buffer.bus_address, len(operations))], out=True, last=False)
    else:
        first = immediate_element(operations, last=False)
        if form == "immediate at w5":
            head[0] = 0x01
    assert rig.call(bytes(head) + first + tail).status == PLAIN
    count, _, _, status, _ = struct.unpack_from("<HHHBB", results.view)
    assert (count, status) == (1, 0)


def test_point_15_a_failed_get_says_so_twice():
    rig = Rig()
    reply, (block,) = rig.parameters(DISK, field_get(0x7777)[4:])
    assert block.status != 0
    assert reply.status[0] != 0


def test_point_15_field_all_with_a_count_of_one_means_all():
    rig = Rig()
    _, (every,) = rig.parameters(DISK, field_get()[4:])
    reply, (block,) = rig.parameters(DISK, field_get(IDENTITY, ALL_FIELDS, count=1)[4:])
    assert reply.status == PLAIN
    assert block.data == every.data


def test_point_16_a_second_registration_replaces_the_first_and_says_so():
    rig = Rig()
    for mask in (GenericEvent.DEVICE_RESET, GenericEvent.LOCK_RELEASE):
        rig.post(
            utility.UTIL_EVENT_REGISTER.build(
                target_address=DISK,
                event_mask=(mask | GenericEvent.EVENT_MASK_MODIFIED).value,
                transaction_context=mask.value,
            )
        )
        rig.run()
    (told,) = rig.replies()
    assert told.words[3:5] == (
        GenericEvent.LOCK_RELEASE.value,
        GenericEvent.EVENT_MASK_MODIFIED.value,
    )
    rig.post(bsa.BSA_DEVICE_RESET.build(target_address=DISK))
    assert [reply.data[7] for reply in rig.replies()] == [Function.BSA_DEVICE_RESET]


def test_point_17_the_interrupt_is_pending_while_replies_are_and_can_be_masked():
    rig = Rig()
    port = EmuPort.of(rig.iop, rig.unit, clock=SYSTEM_CLOCK)
    try:
        assert not rig.unit.reply_pending
        rig.post(CHECK)
        rig.run()
        assert rig.unit.reply_pending
        assert rig.reap() is not None
        assert not rig.unit.reply_pending
    finally:
        port.close()


def test_point_18_block_errors_are_small_codes_in_ordinary_replies():
    rig = Rig()
    for frame in (
        read(rig, address=1 << 40),
        read(rig, size=100),
        bsa.BSA_BLOCK_READ.build(target_address=DISK, transfer_byte_count=512)
        + simple_sgl([(0xF00000, 512)], out=False),
        bsa.BSA_MEDIA_EJECT.build(target_address=DISK),
    ):
        reply = rig.call(frame)
        assert not reply.flags & MsgFlags.FAIL
        assert 0 < reply.status[1] <= 0x0D


@pytest.mark.parametrize("operations", [b"", b"\x01\0", field_get(), b"\x01\0\0\0\x06\0\0\xf1"])
def test_point_19_odd_sets_are_answered(operations):
    rig = Rig()
    listed = rig.buffer(operations or b"\0")
    size = max(1, len(operations))
    sgl = simple_sgl([(listed.bus_address, size)], out=True)
    reply = rig.call(utility.UTIL_PARAMS_SET.build(target_address=DISK) + sgl)
    assert not reply.flags & MsgFlags.FAIL
    assert len(reply.data) >= 20


def test_point_20_a_reply_repeats_tids_function_and_contexts():
    rig = Rig()
    frame = bsa.BSA_STATUS_CHECK.build(
        target_address=DISK, initiator_context=0x12345678, transaction_context=0x9ABCDEF0
    )
    reply = rig.call(frame)
    assert reply.data[4:16] == frame[4:16]
    assert reply.data[0] & 7 == 1
    assert reply.flags == 0xC0
