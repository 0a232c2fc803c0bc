# SPDX-License-Identifier: Apache-2.0
"""TID 0: life cycle, tables, and the oddities of real drivers' bring-up."""

from __future__ import annotations

import struct

import pytest

from fakes.iop_rig import DISK, Rig
from i2o.errors import DmaFault
from i2o.frames import block_storage as bsa
from i2o.frames import executive as x
from i2o.frames import tables, utility
from i2o.frames.executive import ExecutiveEvent
from i2o.frames.sgl import immediate_element, simple_sgl
from i2o.frames.tables import IopState
from i2o.iop_emulator.block_store import MemoryDisk
from i2o.iop_emulator.options import IopOptions

CHECK = bsa.BSA_STATUS_CHECK.build(target_address=DISK)
PLAIN = (0, 0)


def element(flags: int, count: int, address: int) -> bytes:
    return struct.pack("<II", flags << 24 | count, address)


# --- StatusGet -----------------------------


def test_the_status_block_is_written_whole_and_its_sync_byte_last():
    rig = Rig([MemoryDisk(1 << 20), MemoryDisk(1 << 20)], frame_size=128, frames=7)
    writes = []
    inner = rig.iop.dma
    original = inner.write
    inner.write = lambda address, data: (
        writes.append((address, bytes(data))),
        original(address, data),
    )
    block = rig.buffer(88)
    rig.post(x.EXEC_STATUS_GET.build(reply_buffer_address_low=block.bus_address))
    rig.run()
    assert [(a - block.bus_address, len(d)) for a, d in writes] == [(0, 87), (87, 1)]
    status = tables.STATUS_BLOCK.unpack_from(block.view)
    assert status.sync_byte == 0xFF
    assert (status.i2o_version, status.iop_state) == (1, IopState.OPERATIONAL)
    assert (status.inbound_msg_frame_size, status.max_inbound_msg_frames) == (32, 7)
    assert status.expected_lct_size == 12 + 4 * 36
    assert status.max_outbound_msg_frames == 256
    assert (status.desired_private_mem_size, status.desired_private_io_size) == (0, 0)
    assert status.iop_capabilities == 0
    assert status.init_code == 0x80
    assert rig.replies() == []
    assert not len(rig.complaints)


@pytest.mark.parametrize("length", [0, 4, 87])
def test_a_short_status_buffer_is_not_overrun(length):
    rig = Rig()
    block = rig.buffer(bytes([0xAA]) * 96)
    rig.post(
        x.EXEC_STATUS_GET.build(
            reply_buffer_address_low=block.bus_address, reply_buffer_length=length
        )
    )
    rig.run()
    assert bytes(block.view[length:]) == bytes([0xAA]) * (96 - length)
    assert "88 are needed" in next(iter(rig.complaints))


def test_a_long_status_buffer_gets_88_bytes():
    rig = Rig()
    block = rig.buffer(bytes([0xAA]) * 96)
    rig.post(
        x.EXEC_STATUS_GET.build(
            reply_buffer_address_low=block.bus_address, reply_buffer_length=0xFFFFFFFF
        )
    )
    rig.run()
    assert bytes(block.view[87:]) == b"\xff" + bytes([0xAA]) * 8


@pytest.mark.parametrize("high", [0, 1])
def test_a_status_buffer_outside_host_memory_is_complained_about(high):
    rig = Rig(up=False)
    rig.post(
        x.EXEC_STATUS_GET.build(reply_buffer_address_low=0x666000, reply_buffer_address_high=high)
    )
    rig.run()
    (complaint,) = rig.complaints
    assert "StatusGet" in complaint
    assert f"bus address {high << 32 | 0x666000:#010x}" in complaint
    assert rig.unit.idle_inbound() == 16


def test_what_the_host_has_not_set_is_zero():
    rig = Rig(up=False)
    for _ in range(2):
        status = rig.status_block()
        assert (status.host_unit_id, status.segment_number, status.init_code) == (0, 0, 0)
        rig.bring_up()
        assert rig.call(sys_tab_set(rig)).status == PLAIN
        reset(rig)


# --- states -----------------------------


def test_the_states_of_a_bring_up_and_back():
    rig = Rig(up=False)
    assert rig.state == IopState.RESET
    assert rig.init_outbound() == 4
    assert rig.state == IopState.HOLD
    rig.give_replies(16, 128)
    assert rig.call(CHECK).status == PLAIN  # pst never goes any further
    assert rig.call(sys_tab_set(rig)).status == PLAIN
    assert rig.state == IopState.READY
    assert rig.call(x.EXEC_SYS_ENABLE.build()).status == PLAIN
    assert rig.state == IopState.OPERATIONAL
    assert rig.call(x.EXEC_SYS_ENABLE.build()).status == (5, 0x12)
    assert rig.call(sys_tab_set(rig)).status == PLAIN
    assert rig.state == IopState.OPERATIONAL
    assert rig.call(x.EXEC_SYS_QUIESCE.build()).status == PLAIN
    assert rig.state == IopState.READY
    assert rig.call(x.EXEC_SYS_QUIESCE.build()).status == PLAIN
    assert rig.state == IopState.READY
    assert rig.call(x.EXEC_IOP_CLEAR.build()).status == PLAIN
    assert rig.state == IopState.HOLD
    assert rig.call(x.EXEC_SYS_QUIESCE.build()).status == PLAIN
    assert rig.state == IopState.HOLD
    assert rig.call(x.EXEC_SYS_ENABLE.build()).status == PLAIN  # RedCreek: no SysTabSet at all
    assert rig.state == IopState.OPERATIONAL
    reset(rig)
    assert rig.state == IopState.RESET


def reset(rig: Rig) -> None:
    word = rig.buffer(b"\xee" * 4)
    rig.post(x.EXEC_IOP_RESET.build(status_word_low_address=word.bus_address))
    rig.run()
    assert bytes(word.view) == b"\1\0\0\0"


def test_a_reset_forgets_everything():
    rig = Rig(replies=1)
    rig.call(utility.UTIL_CLAIM.build(target_address=DISK, claim_type=1))
    rig.post(utility.UTIL_EVENT_REGISTER.build(target_address=DISK, event_mask=0xFFFFFFFF))
    rig.post(notify(rig, 9, 1024))
    for _ in range(4):
        rig.post(CHECK)
    rig.run()  # one reply posted, three in the backlog
    held = rig.unit.alloc()
    reset(rig)
    assert (rig.unit.idle_inbound(), rig.unit.posted_outbound(), rig.unit.idle_outbound()) == (
        16,
        0,
        0,
    )
    assert rig.run() is None
    assert len(rig.iop.events) == 0
    assert rig.iop.lct.devices[DISK].user_tid == 0xFFF
    rig.unit.post(held)  # it is the IOP's again: misuse, and nothing happens
    assert rig.run() is None
    assert rig.account() == 16
    rig.bring_up()
    rig.iop.bay.add(MemoryDisk(1 << 20))
    rig.call(bsa.BSA_DEVICE_RESET.build(target_address=DISK))  # no event reply comes with it


def test_a_slow_reset_keeps_the_inbound_port_empty():
    rig = Rig(options=IopOptions(reset_ms=500))
    rig.now_ns = 5_000_000_000
    rig.run()
    reset(rig)
    assert rig.unit.alloc() == 0xFFFFFFFF
    assert rig.iop.state == IopState.INITIALIZING
    assert rig.run() == 5_500_000_000
    rig.advance(499)
    assert rig.unit.alloc() == 0xFFFFFFFF
    before = rig.iop.activity
    rig.advance(1)
    assert rig.iop.activity != before
    assert rig.iop.state == IopState.RESET
    assert rig.state == IopState.RESET
    assert rig.run() is None


@pytest.mark.parametrize("high", [0, 1])
def test_a_reset_with_a_bad_status_address_still_resets(high):
    rig = Rig()
    rig.post(
        x.EXEC_IOP_RESET.build(status_word_low_address=0x700000, status_word_high_address=high)
    )
    rig.run()
    assert rig.iop.state == IopState.RESET
    (complaint,) = rig.complaints
    assert "IopReset" in complaint
    assert f"bus address {high << 32 | 0x700000:#010x}" in complaint


def test_iop_clear_ends_what_is_going_on():
    rig = Rig()
    rig.call(utility.UTIL_CLAIM.build(target_address=DISK, claim_type=1))
    rig.post(utility.UTIL_EVENT_REGISTER.build(target_address=DISK, event_mask=0xFFFFFFFF))
    rig.post(notify(rig, 9, 1024))
    assert rig.replies() == []
    rig.post(x.EXEC_IOP_CLEAR.build(transaction_context=5))
    aborted, cleared = rig.replies()
    assert (aborted.data[7], aborted.status) == (0xA2, (9, 0))
    assert (cleared.words[3], cleared.status) == (5, PLAIN)
    assert len(rig.iop.events) == 0
    assert rig.iop.lct.devices[DISK].user_tid == 0xFFF


# --- OutboundInit -----------------------------


@pytest.mark.parametrize("words", [5, 8, 17, 32, 64, 68, 128, 0])
def test_any_reply_frame_size_is_taken(words):
    rig = Rig(up=False)
    assert rig.init_outbound(words) == 4
    assert rig.iop.replies.frame_size == 4 * (words or 32)


@pytest.mark.parametrize("words", [1, 4])
def test_frames_that_hold_no_reply_are_refused(words):
    rig = Rig(up=False)
    assert rig.init_outbound(words) == 2
    assert rig.state == IopState.RESET


@pytest.mark.parametrize(
    ("offset", "tail"),
    [
        (0x01, b""),  # asr
        (0x61, struct.pack("<I", 0xC0000001)),  # pst
        (0x61, element(0xD0, 12, 0x100000)),  # a reclaim list
        (0x61, struct.pack("<I", 0x80000000)),  # ignore
        (0x61, struct.pack("<I", 0x74000000)),  # nonsense behind the status buffer
    ],
)
def test_outbound_init_as_drivers_send_it(offset, tail):
    rig = Rig(up=False)
    rig.unit.release(0x12340)  # Linux 2.4 hands in an inbound MFA first
    word = rig.buffer(4)
    flags = 0xD0 if not tail else 0x50
    frame = x.EXEC_OUTBOUND_INIT.build(version_offset=offset, outbound_msg_frame_size=32)
    rig.post(frame + element(flags, 4, word.bus_address) + tail)
    rig.run()
    assert bytes(word.view) == b"\4\0\0\0"
    assert rig.unit.idle_outbound() == 0
    rig.give_replies(4, 128)
    assert rig.call(CHECK).status == PLAIN
    assert not len(rig.complaints)


@pytest.mark.parametrize(
    "sgl",
    [
        b"",
        element(0xD0, 4, 0x500000),
        element(0xF4, 4, 0x100000),
        element(0xD8, 4, 0x100000),
        element(0xD0, 0, 0),
        immediate_element(b"1234", last=True),
    ],
)
def test_outbound_init_without_a_usable_status_buffer(sgl):
    rig = Rig(up=False)
    rig.post(x.EXEC_OUTBOUND_INIT.build(outbound_msg_frame_size=32) + sgl)
    rig.run()
    assert "OutboundInit" in next(iter(rig.complaints))
    assert rig.unit.idle_inbound() == 16


@pytest.mark.parametrize("size", [1, 4095, 4352, 0xFFFFFFFF])
def test_a_page_size_that_is_no_power_of_two_is_refused(size):
    rig = Rig(up=False)
    assert rig.init_outbound(host_page_frame_size=size) == (4 if size == 1 else 2)
    assert rig.state == (IopState.HOLD if size == 1 else IopState.RESET)
    rig.bring_up()
    data = rig.buffer(88)
    pages = struct.pack("<II", 0xE0000058, data.bus_address)
    assert rig.call(x.EXEC_HRT_GET.build() + pages).status == PLAIN


@pytest.mark.parametrize("size", [1, 3])
def test_the_status_word_stays_inside_its_buffer(size):
    rig = Rig(up=False)
    buffer = rig.buffer(b"\xee" * 8)
    init = x.EXEC_OUTBOUND_INIT.build(outbound_msg_frame_size=32)
    rig.post(init + element(0xD0, size, buffer.bus_address))
    rig.run()
    assert bytes(buffer.view) == b"\xee" * 8
    assert f"{size} bytes" in next(iter(rig.complaints))
    assert rig.state == IopState.RESET


def test_outbound_init_again_forgets_old_reply_frames_and_replies():
    rig = Rig()
    rig.post(CHECK)
    rig.run()
    assert rig.unit.posted_outbound() == 1
    rig.init_outbound()
    assert (rig.unit.posted_outbound(), rig.unit.idle_outbound()) == (0, 0)


@pytest.mark.parametrize(("told", "page_size"), [(512, 512), (8192, 8192), (0, 4096)])
def test_the_page_size_serves_page_lists(told, page_size):
    disk = MemoryDisk(1 << 20)
    first, second = b"1" * page_size, b"2" * page_size
    disk.write_from(0, [memoryview(first + second)])
    rig = Rig([disk], up=False)
    rig.init_outbound(host_page_frame_size=told)
    rig.give_replies(4, 128)
    data = rig.buffer(3 * page_size)
    start = -(-data.bus_address // page_size) * page_size
    frame = bsa.BSA_BLOCK_READ.build(target_address=DISK, transfer_byte_count=2 * page_size)
    pages = struct.pack("<III", 0xE0 << 24 | 2 * page_size, start + page_size, start)
    assert rig.call(frame + pages).status == PLAIN
    assert rig.memory.read(start, 2 * page_size) == second + first


# --- tables -----------------------------


def test_the_hrt_fits_or_is_cut():
    rig = Rig()
    for size in (4, 8, 24, 100):
        buffer = rig.buffer(bytes([0xAA]) * size)
        frame = x.EXEC_HRT_GET.build() + element(0xD0, size, buffer.bus_address)
        assert rig.call(frame).status == PLAIN
        table = bytes(buffer.view)
        assert table[:4] == b"\1\0\4\0"
        if size >= 24:
            entry = tables.HRT_ENTRY.unpack_from(table, 8)
            assert (entry.controlling_tid, entry.adapter_state, entry.bus_type) == (8, 6, 0)
        assert table[24:] == bytes([0xAA]) * max(0, size - 24)


def notify(rig: Rig, indicator: int, size: int, **fields: int) -> bytes:
    rig.table = rig.buffer(bytes([0xAA]) * size)
    return x.EXEC_LCT_NOTIFY.build(last_reported_change_indicator=indicator, **fields) + element(
        0xD0, size, rig.table.bus_address
    )


def entries(table: bytes) -> list:
    size = tables.LCT_HEADER.unpack_from(table).table_size * 4
    return [tables.LCT_ENTRY.unpack_from(table, place) for place in range(12, size, 36)]


def test_the_lct_lists_executive_driver_and_disks():
    rig = Rig([MemoryDisk(1 << 20, serial="SERIAL-0042"), MemoryDisk(1 << 20)])
    assert rig.call(notify(rig, 0, 1024)).status == PLAIN
    table = bytes(rig.table.view)
    header = tables.LCT_HEADER.unpack_from(table)
    assert (header.table_size, header.current_change_indicator) == ((12 + 4 * 36) // 4, 1)
    listed = entries(table)
    assert [(e.local_tid, e.class_id_class, e.parent_tid) for e in listed] == [
        (0, 0, 0),
        (8, 1, 0),
        (0x10, 0x10, 8),
        (0x11, 0x10, 8),
    ]
    assert {e.table_entry_size for e in listed} == {9}
    assert {e.class_id_version for e in listed} == {1}
    assert {e.user_tid for e in listed} == {0xFFF}
    assert listed[0].identity_tag == b"i2o soft"
    assert listed[2].identity_tag == b"IAL-0042"
    assert table[156:192] == bytes(36)  # pst walks until an entry size is not 9
    assert table[192:] == bytes([0xAA]) * (1024 - 192)


@pytest.mark.parametrize("size", [4, 12, 48, 120])
def test_a_small_lct_buffer_is_filled_and_says_the_true_size(size):
    rig = Rig()
    assert rig.call(notify(rig, 0, size)).status == PLAIN
    assert tables.LCT_HEADER.unpack_from(bytes(rig.table.view).ljust(48, b"\0")).table_size == 30


def test_the_lct_can_be_asked_for_one_class():
    rig = Rig()
    rig.call(notify(rig, 0, 1024, class_identifier=0x10))
    assert [e.local_tid for e in entries(bytes(rig.table.view))] == [DISK]


def test_lct_notify_is_held_until_the_table_has_changed():
    rig = Rig()
    rig.post(notify(rig, 1, 1024, transaction_context=1))  # reached already
    assert [reply.words[3] for reply in rig.replies()] == [1]
    first = notify(rig, 2, 1024, transaction_context=2)
    early = rig.table
    rig.post(first)
    rig.post(notify(rig, 3, 1024, transaction_context=3))
    assert rig.replies() == []
    rig.call(utility.UTIL_CLAIM.build(target_address=DISK, claim_type=1))  # no change: see Lct
    assert rig.iop.bay.add(MemoryDisk(1 << 20)).tid == 0x11
    (reply,) = rig.replies()
    assert (reply.words[3], reply.status) == (2, PLAIN)
    listed = entries(bytes(early.view))
    assert [(e.local_tid, e.change_indicator) for e in listed] == [
        (0, 1),
        (8, 1),
        (0x10, 1),
        (0x11, 2),
    ]
    rig.iop.bay.remove(0x11).close()
    (reply,) = rig.replies()
    assert reply.words[3] == 3


def test_held_notifies_are_bounded():
    rig = Rig(frames=32)
    for _ in range(16):
        rig.post(notify(rig, 99, 64))
    assert rig.replies() == []
    assert rig.call(notify(rig, 99, 64)).status == (5, 6)


def test_a_held_notify_whose_buffer_went_away_gets_an_error():
    rig = Rig()
    rig.post(notify(rig, 2, 256))
    rig.run()
    rig.table.free()
    rig.iop.bay.add(MemoryDisk(1 << 20))
    assert [reply.status for reply in rig.replies()] == [(5, 0x11)]


@pytest.mark.parametrize(
    ("frame", "start"),
    [
        (x.EXEC_HRT_GET.build(), b"\1\0\4\0"),
        (x.EXEC_LCT_NOTIFY.build(), struct.pack("<H", 30)),
        (x.EXEC_ADAPTER_READ.build(adapter_id=1, offset=8, length=4), b"\1\1\0\x0e"),
    ],
    ids=["hrt", "lct", "adapter"],
)
def test_what_is_asked_for_goes_to_the_first_buffer(frame, start):
    rig = Rig()
    first, second = rig.buffer(bytes([0xAA]) * 24), rig.buffer(b"\xaa")
    sgl = element(0x50, 24, first.bus_address) + element(0xD0, 1, second.bus_address)
    assert rig.call(frame + sgl).status == PLAIN
    assert bytes(first.view).startswith(start)
    assert bytes(second.view) == b"\xaa"


def test_tables_need_a_buffer_that_exists():
    rig = Rig()
    assert rig.call(x.EXEC_HRT_GET.build()).status == (5, 0x16)
    assert rig.call(x.EXEC_HRT_GET.build() + element(0xD0, 24, 0x900000)).status == (5, 0x11)
    bad = rig.call(x.EXEC_HRT_GET.build() + element(0xF4, 24, 0x100000))
    assert (bad.status[0], len(bad.data), bad.words[5]) == (0x0B, 28, 16)
    local = rig.call(x.EXEC_HRT_GET.build() + element(0xD8, 24, 0x100000))
    assert local.status[0] == 0x0B
    assert (
        rig.call(x.EXEC_HRT_GET.build() + immediate_element(bytes(24), last=True)).status[0] == 0x0B
    )


def test_hot_plug_events_carry_the_lct_entry():
    rig = Rig()
    rig.post(utility.UTIL_EVENT_REGISTER.build(event_mask=0xFFFFFFFF, transaction_context=77))
    assert rig.replies() == []
    rig.post(utility.UTIL_EVENT_REGISTER.build(target_address=DISK, event_mask=0xFFFFFFFF))
    tid = rig.iop.bay.add(MemoryDisk(1 << 20)).tid
    (event,) = rig.replies()
    assert (event.words[3], event.words[4]) == (77, ExecutiveEvent.NEW_LCT_ENTRY)
    assert tables.LCT_ENTRY.unpack_from(event.data, 20).local_tid == tid
    rig.post(notify(rig, 99, 64))
    rig.iop.bay.remove(DISK)
    (event,) = rig.replies()
    assert event.words[4] == ExecutiveEvent.MODIFIED_LCT
    assert len(rig.iop.events) == 1
    with pytest.raises(KeyError):
        rig.iop.bay.remove(8)


# --- SysTabSet -----------------------------


def system_table(count: int = 2, says: int | None = None) -> bytes:
    return tables.SYSTAB_HEADER.build(number_entries=count if says is None else says) + b"".join(
        tables.SYSTAB_IOP_ENTRY.build(iop_id=2 + number, i2o_version=1, iop_state=8)
        for number in range(count)
    )


def sys_tab_set(
    rig: Rig, *, offset: int = 0x61, iop_id: int = 5, tail: bytes | None = None
) -> bytes:
    table = system_table()
    buffer = rig.buffer(table)
    if tail is None:
        tail = element(0x54, 0, 0) + element(0xD4, 0, 0)
    return (
        x.EXEC_SYS_TAB_SET.build(
            version_offset=offset, iop_id=iop_id, host_unit_id=9, segment_number=3
        )
        + element(0x54, len(table), buffer.bus_address)
        + tail
    )


@pytest.mark.parametrize("offset", [0x61, 0x41, 0x01])
@pytest.mark.parametrize("iop_id", [0, 5])
@pytest.mark.parametrize(
    "tail",
    [
        None,
        element(0x54, 8, 0x100000) + element(0xD4, 8, 0x100000),
        element(0x54, 0x100000, 0x80000000) + struct.pack("<II", 0x100000, 0x55AA55AA),
        element(0x34, 1, 1) + b"junk",
        b"",
    ],
)
def test_system_tables_as_drivers_send_them(offset, iop_id, tail):
    rig = Rig()
    assert rig.call(sys_tab_set(rig, offset=offset, iop_id=iop_id, tail=tail)).status == PLAIN
    status = rig.status_block()
    assert (status.iop_id, status.host_unit_id, status.segment_number) == (iop_id or 2, 9, 3)
    assert [entry.iop_id for entry in rig.iop.executive.system_table] == [2, 3]
    rig.iop.power_cycle()
    status = rig.status_block()
    assert (status.iop_id, status.host_unit_id, status.segment_number) == (2, 0, 0)
    assert rig.iop.executive.system_table == ()


def test_a_system_table_in_pieces():
    rig = Rig()
    table = system_table(3)
    buffer = rig.buffer(table)
    sgl = b"".join(
        element(0x14 if start < 80 else 0x54, size, buffer.bus_address + start)
        for start, size in ((0, 16), (16, 32), (48, 32), (80, 32))
    )
    frame = x.EXEC_SYS_TAB_SET.build(version_offset=0x01, iop_id=4)
    assert rig.call(frame + sgl + element(0x54, 0, 0) + element(0xD4, 0, 0)).status == PLAIN
    assert len(rig.iop.executive.system_table) == 3
    assert not len(rig.complaints)


def test_the_largest_system_table():
    rig = Rig()
    table = system_table(255)
    buffer = rig.buffer(table)
    sgl = simple_sgl([(buffer.bus_address, len(table))], out=True)
    assert rig.call(x.EXEC_SYS_TAB_SET.build() + sgl).status == PLAIN
    assert len(rig.iop.executive.system_table) == 255
    assert not len(rig.complaints)


@pytest.mark.parametrize(("cut", "entries"), [(0, 2), (1, 1), (32, 1), (33, 0), (64, 0)])
def test_an_entry_of_a_system_table_that_is_cut_is_none(cut, entries):
    rig = Rig()
    table = system_table(2)
    frame = x.EXEC_SYS_TAB_SET.build()
    data = immediate_element(table[: len(table) - cut], last=True)
    assert rig.call(frame + data).status == PLAIN
    assert [entry.iop_id for entry in rig.iop.executive.system_table] == [2, 3][:entries]
    assert len(rig.complaints) == (cut > 0)


@pytest.mark.parametrize(
    ("sgl", "status"),
    [
        (b"", (5, 0x16)),
        (immediate_element(bytes(8), last=True), (5, 0x16)),
        (element(0xD4, 80, 0x300000), (5, 0x11)),
    ],
)
def test_no_system_table_no_change_of_state(sgl, status):
    rig = Rig(up=False)
    rig.init_outbound()
    rig.give_replies(4, 128)
    assert rig.call(x.EXEC_SYS_TAB_SET.build() + sgl).status == status
    assert rig.call(x.EXEC_SYS_TAB_SET.build() + element(0x74, 80, 0x300000)).status[0] == 0x0B
    assert rig.state == IopState.HOLD


def test_a_system_table_that_counts_wrongly_is_read_as_far_as_it_goes():
    rig = Rig()
    table = system_table(1, says=200)
    frame = x.EXEC_SYS_TAB_SET.build() + immediate_element(table, last=True)
    assert rig.call(frame).status == PLAIN
    assert len(rig.iop.executive.system_table) == 1
    assert "200 entries" in next(iter(rig.complaints))


# --- the rest -----------------------------


def test_boot_device_and_bios_info_show_in_the_lct():
    rig = Rig()
    assert rig.call(x.EXEC_BOOT_DEVICE_SET.build(boot_device=DISK)).status == PLAIN
    assert rig.call(x.EXEC_BIOS_INFO_SET.build(device_tid=DISK, bios_info=0x80)).status == PLAIN
    assert rig.call(x.EXEC_BOOT_DEVICE_SET.build(boot_device=0x99)).status == (5, 0x11)
    assert rig.call(x.EXEC_BIOS_INFO_SET.build(device_tid=0x99)).status == (5, 0x11)
    rig.call(notify(rig, 0, 1024))
    table = bytes(rig.table.view)
    assert tables.LCT_HEADER.unpack_from(table).boot_device_tid == DISK
    assert [e.bios_info for e in entries(table)] == [0, 0, 0x80]


def test_nothing_is_written_where_it_should_not_be():
    rig = Rig()
    with pytest.raises(DmaFault):
        rig.memory.read(0x900000, 1)
    split = rig.buffer(32)
    frame = x.EXEC_HRT_GET.build() + simple_sgl([(split.bus_address, 8), (0x900000, 16)], out=False)
    assert rig.call(frame).status == (5, 0x11)
    assert bytes(split.view) == bytes(32)
