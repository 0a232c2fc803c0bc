# SPDX-License-Identifier: Apache-2.0
"""Parameter operations and groups, over the wire."""

from __future__ import annotations

import struct

import pytest

from fakes.iop_rig import DISK, Rig, parse_results
from i2o.frames import block_storage as bsa
from i2o.frames import block_storage_groups as bsa_groups
from i2o.frames import executive_groups, params, utility
from i2o.frames.params import ParamBlockStatus as Status
from i2o.frames.params import ParamOperation as Op
from i2o.frames.sgl import immediate_element, simple_sgl
from i2o.frames.utility import GenericEvent
from i2o.iop_emulator.block_store import MemoryDisk
from i2o.iop_emulator.options import IopOptions
from i2o.iop_emulator.parameter_groups import ScalarGroup, TableGroup, describe
from i2o.iop_emulator.software_store import MAX_MODULES, MAX_SIZE

PLAIN = (0, 0)
REFUSED = (5, 0x11)
CUT = (6, 0x18)
USERS = 0xF006
CONTROL = bsa_groups.BSA_OPERATIONAL_CONTROL


def u16(*values: int) -> bytes:
    return struct.pack(f"<{len(values)}H", *values)


def get(group: int, *fields: int, op: int = Op.FIELD_GET) -> bytes:
    return u16(op, group, len(fields), *fields) if fields else u16(op, group, 0xFFFF)


def table(group: int) -> bytes:
    return get(group, op=Op.TABLE_GET)


def rows(block, layout) -> list:
    count, _ = struct.unpack_from("<HH", block.data)
    return [layout.unpack_from(block.data, 4 + n * layout.size) for n in range(count)]


def one(rig: Rig, tid: int, operation: bytes, **arguments):
    reply, blocks = rig.parameters(tid, operation, **arguments)
    assert len(blocks) == 1
    return reply.status, blocks[0]


def what_failed(block) -> tuple[int, ...]:
    """Return operation, group, field index and additional status of a refusal."""
    assert len(block.error_info) == params.PARAM_ERROR_INFO.size
    info = params.PARAM_ERROR_INFO.unpack_from(block.error_info)
    return info.operation_code, info.group_number, info.field_idx, info.additional_status


def add_users(*tids: int) -> bytes:
    return u16(Op.ROW_ADD, USERS, 1, 0, len(tids), *tids)


def users(rig: Rig) -> list[int]:
    _, block = one(rig, DISK, table(USERS))
    return [row.alternate_tid for row in rows(block, params.AUTHORIZED_USER_TABLE)]


# --- every group of every device -----------------------------


@pytest.mark.parametrize("tid", [0, 8, DISK])
def test_every_group_can_be_read_as_its_kind(tid):
    rig = Rig()
    rig.call(utility.UTIL_CLAIM.build(target_address=tid, claim_type=1))
    status, block = one(rig, tid, table(0xF000))
    assert status == PLAIN
    described = {row.group_number: row for row in rows(block, params.GROUP_DESCRIPTORS)}
    engine = rig.iop.lct.devices[tid].parameters
    assert sorted(described) == [group.layout.number for group in engine.groups]
    for group in engine.groups:
        row = described[group.layout.number]
        assert row.field_count == len(group.layout.fields)
        is_table = isinstance(group, TableGroup)
        assert bool(row.properties & 1) == is_table == group.layout.is_table
        status, block = one(rig, tid, get(group.layout.number))
        if is_table:
            assert (status, block.status) == (REFUSED, Status.WRONG_GROUP_TYPE)
            status, block = one(rig, tid, table(group.layout.number))
            assert (status, block.status) == (PLAIN, 0)
            assert len(rows(block, group.layout)) == row.row_count
            assert block.data[2:4] == b"\0\0"
        else:
            assert (status, block.status) == (PLAIN, 0)
            assert block.data[: group.layout.size] == group.packed()
            assert len(block.data) == -(-group.layout.size // 4) * 4
            status, block = one(rig, tid, table(group.layout.number))
            assert (status, block.status) == (REFUSED, Status.WRONG_GROUP_TYPE)


def test_the_executive_tells_the_truth():
    rig = Rig(frames=9, frame_size=256, replies=5, reply_words=20)
    values = {}
    for layout in executive_groups.GROUPS:
        op = table(layout.number) if layout.is_table else get(layout.number)
        _, block = one(rig, 0, op)
        values[layout.number] = (
            rows(block, layout) if layout.is_table else layout.unpack_from(block.data)
        )
    interface = values[0x0001]
    assert interface.inbound_frame_size == interface.inbound_size_target == 256
    assert interface.inbound_max == interface.inbound_pool_count == 9
    assert interface.inbound_current_free == 9
    assert (interface.outbound_frame_size, interface.outbound_current_free) == (80, 5)
    assert interface.init_code == 0x80
    assert [row.ddm_tid for row in values[0x0003]] == [8]
    assert values[0x0101].current_change_indicator == 1
    assert [row.local_tid for row in values[0x0102]] == [0, 8, 0x10]
    assert len(values[0x0100]) == len(values[0x0006]) == 1
    assert values[0x0103] == []


def test_what_the_executive_says_it_is_made_of():
    rig = Rig(options=IopOptions(organization_id=0x1B, backlog=9))

    def ask(layout):
        _, block = one(rig, 0, get(layout.number, op=Op.TABLE_GET if layout.is_table else 1))
        return rows(block, layout)[0] if layout.is_table else layout.unpack_from(block.data)

    hardware = ask(executive_groups.EXEC_IOP_HARDWARE)
    assert (hardware.i2o_vendor_id, hardware.processor_memory) == (0x1B, 64 << 20)
    assert hardware.perm_memory == MAX_MODULES * MAX_SIZE == 1 << 30
    assert (hardware.hw_capabilities, hardware.processor_type) == (0x0C, 0xFF)
    environment = ask(executive_groups.EXEC_EXECUTING_ENVIRONMENT)
    assert (environment.mem_total, environment.mem_free) == (64 << 20, 32 << 20)
    assert (environment.page_size, environment.event_q_max) == (4096, 9)
    ddm = ask(executive_groups.EXEC_EXECUTING_DDM_TABLE)
    assert (ddm.ddm_tid, ddm.module_type, ddm.i2o_vendor_id) == (8, 0x22, 0x1B)
    assert (ddm.module_id, ddm.module_version, ddm.code_size) == (1, 1, 0)
    bus = ask(executive_groups.EXEC_IOP_BUS_ATTRIBUTES)
    assert (bus.bus_id, bus.bus_type, bus.bus_attributes) == (0, 0, 2)
    assert (bus.max_adapters, bus.adapter_count) == (1, 1)
    software = ask(executive_groups.EXEC_IOP_SW_ATTRIBUTES)
    assert (software.i2o_vendor_id, software.sw_capabilities) == (0x1B, 0x0D)
    adapter = ask(executive_groups.EXEC_HARDWARE_RESOURCE_TABLE)
    assert (adapter.adapter_id, adapter.state_info, adapter.bus_type) == (1, 0x6008, 0)


def test_the_system_table_is_a_group():
    from i2o.frames import executive
    from i2o.frames.tables import SYSTAB_HEADER, SYSTAB_IOP_ENTRY

    rig = Rig()
    entry = SYSTAB_IOP_ENTRY.build(
        iop_id=3,
        iop_state=8,
        messenger_info_inbound_message_port_address_low=0xF0000040,
        messenger_info_inbound_message_port_address_high=1,
    )
    data = SYSTAB_HEADER.build(number_entries=1) + entry
    rig.call(executive.EXEC_SYS_TAB_SET.build() + immediate_element(data, last=True))
    layout = executive_groups.EXEC_SYSTEM_TABLE
    _, block = one(rig, 0, table(layout.number))
    (row,) = rows(block, layout)
    assert (row.iop_id, row.inbound_message_port_address) == (3, 0xF0000040)
    assert row.messenger_info == struct.pack("<II", 0xF0000040, 1)


def test_the_disk_tells_the_truth():
    rig = Rig([MemoryDisk(6 << 20, block_size=4096, removable=True, serial="ABC")])
    _, block = one(rig, DISK, get(0x0000))
    info = bsa_groups.BSA_DEVICE_INFO.unpack_from(block.data)
    assert (info.block_size, info.device_capacity) == (4096, 6 << 20)
    assert info.device_state == 0x1F
    assert info.device_capability_support == 0x4D
    assert info.power_state < 0x20
    _, block = one(rig, DISK, get(0x0004))
    assert struct.unpack("<QI", block.data) == (6 << 20, 4096)
    _, block = one(rig, DISK, get(0xF100))
    identity = params.DEVICE_IDENTITY.unpack_from(block.data)
    assert (identity.class_id, identity.parent_tid, identity.sn_format) == (0x1010, 8, 2)
    assert identity.serial_number.rstrip(b"\0") == b"ABC"


def test_reads_and_writes_are_counted_by_size():
    rig = Rig([MemoryDisk(4 << 20)])
    data = rig.buffer(2 << 20)
    for layout, sizes in (
        (bsa.BSA_BLOCK_READ, (512, 8192, 65536, 2 << 20)),
        (bsa.BSA_BLOCK_WRITE, (512, 512)),
    ):
        for size in sizes:
            rig.call(
                layout.build(target_address=DISK, transfer_byte_count=size)
                + simple_sgl([(data.bus_address, size)], out=False)
            )
    _, block = one(rig, DISK, get(0x0181))
    stats = bsa_groups.BSA_STORAGE_HISTORICAL_STATS.unpack_from(block.data)
    assert (stats.read_commands, stats.write_commands) == (4, 2)
    assert [getattr(stats, f"io_range{n}_read") for n in (1, 2, 3, 4)] == [1, 1, 1, 1]
    assert [getattr(stats, f"io_range{n}_write") for n in (1, 2, 3, 4)] == [2, 0, 0, 0]


# --- FieldGet -----------------------------


@pytest.mark.parametrize(
    "operation",
    [
        get(0x0004),
        get(0x0004, 0, 1),
        get(0x0004, 0xFFFF),  # Linux 2.6 i2o_proc: count 1, index 0xFFFF
        u16(Op.FIELD_GET, 0x0004, 0xFFFF, 0xFFFF),  # dpt_i2o: junk behind the count
        u16(Op.FIELD_GET, 0x0004, 0xFFFF, 0x5A5A, 0xDEAD),
    ],
)
def test_all_fields_in_all_spellings(operation):
    rig = Rig()
    reply, (block,) = rig.parameters(DISK, operation)
    assert reply.status == PLAIN
    assert struct.unpack("<QI", block.data) == (1 << 20, 512)


def test_fields_in_any_order_and_repeated():
    rig = Rig()
    _, block = one(rig, DISK, get(0x0004, 1, 0, 1))
    assert struct.unpack("<IQI", block.data) == (512, 1 << 20, 512)
    _, block = one(rig, DISK, get(0x0000, 0, 2))  # 3 bytes and one of padding
    assert len(block.data) == 4


def test_several_operations_in_one_list():
    rig = Rig()
    operations = get(0x0004, 0) + get(0x9999) + get(0x0004, 9) + table(USERS) + get(0x0000, 3)
    reply, blocks = rig.parameters(DISK, operations, count=5)
    assert reply.status == REFUSED
    assert [block.status for block in blocks] == [
        0,
        Status.INVALID_GROUP_ID,
        Status.NO_SUCH_FIELD,
        0,
        0,
    ]
    assert [what_failed(block) for block in blocks[1:3]] == [(1, 0x9999, 0, 0), (1, 4, 9, 0)]
    assert blocks[0].error_info == b""
    assert blocks[4].data == (512).to_bytes(4, "little")


@pytest.mark.parametrize("op", [Op.FIELD_GET, Op.TABLE_GET, Op.MORE_GET, Op.SIZE_GET])
def test_a_refused_get_does_not_keep_the_next_from_running(op):
    reply, blocks = Rig().parameters(DISK, get(0x9999, op=op) + get(0x0004, 1), count=2)
    assert reply.status == REFUSED
    assert [block.status != 0 for block in blocks] == [True, False]
    assert blocks[1].data == (512).to_bytes(4, "little")


def test_the_first_failure_is_the_one_that_is_told():
    operations = get(0x9999) + get(0x0004)
    assert Rig().parameters(DISK, operations, count=2, size=24)[0].status == REFUSED
    assert Rig().parameters(DISK, get(0x0004) + get(0x9999), count=2, size=19)[0].status == CUT


@pytest.mark.parametrize("index", [2, 3, 0xFFFE])
def test_the_first_field_behind_the_last(index):
    status, block = one(Rig(), DISK, get(0x0004, index))
    assert (status, block.status) == (REFUSED, Status.NO_SUCH_FIELD)
    assert what_failed(block) == (Op.FIELD_GET, 4, index, 0)


def test_the_buffer_may_lack_the_padding():
    rig = Rig()  # Linux: field size + 8
    reply, _ = rig.parameters(DISK, get(0x0000, 0), size=9)
    assert reply.status == PLAIN


@pytest.mark.parametrize(("size", "status"), [(20, PLAIN), (19, CUT)])
def test_a_buffer_that_is_one_byte_short(size, status):
    reply, _ = Rig().parameters(DISK, get(0x0004), size=size)
    assert reply.status == status


@pytest.mark.parametrize("size", [16, 64, 100])
def test_a_short_buffer_gets_the_start(size):
    rig = Rig()  # NetBSD reads F100 so
    source = rig.buffer(u16(1, 0) + get(0xF100))
    result = rig.buffer(bytes([0xAA]) * (size + 8))
    reply = rig.call(
        utility.UTIL_PARAMS_GET.build(target_address=DISK)
        + simple_sgl([(source.bus_address, 10)], out=True, last=False)
        + simple_sgl([(result.bus_address, size)], out=False)
    )
    assert reply.status == CUT
    full = one(rig, DISK, get(0xF100))[1].data
    assert bytes(result.view[8:size]) == full[: size - 8]
    assert bytes(result.view[size:]) == bytes([0xAA]) * 8


def test_operations_behind_the_end_of_the_buffer_are_not_run():
    reply, blocks = Rig().parameters(DISK, get(0x0004) * 9, count=9, size=40)
    assert reply.status == CUT
    assert len(blocks) == 3


def test_operations_behind_a_buffer_that_is_just_full():
    rig = Rig()
    reply, blocks = rig.parameters(DISK, get(0x0004) * 2, count=2, size=20)
    assert (reply.status, len(blocks)) == (CUT, 1)


def test_sets_behind_a_full_buffer_are_not_done():
    rig = Rig()
    operations = u16(Op.TABLE_CLEAR, USERS) + add_users(5)
    reply, blocks = rig.parameters(DISK, operations, set_=True, count=2, size=8)
    assert (reply.status, len(blocks)) == (CUT, 1)
    assert users(rig) == []


def test_a_block_larger_than_its_size_can_say():
    count = 10_000
    operation = u16(Op.LIST_GET, 0x0102, 0xFFFF, count) + bytes(2 * count)  # TID 0, again and again
    status, block = one(Rig(), 0, operation, size=1 << 20)
    assert (status, block.data[:4]) == (PLAIN, u16(count, 0))
    assert len(block.data) == 4 * 0xFFFF - 4  # all that BlockSize can tell of


# --- tables -----------------------------


def test_rows_are_added_listed_and_deleted():
    rig = Rig()
    assert one(rig, DISK, add_users(5, 6, 7), set_=True)[0] == PLAIN
    assert users(rig) == [5, 6, 7]
    status, block = one(rig, DISK, u16(Op.LIST_GET, USERS, 0xFFFF, 2, 7, 5))
    assert (status, block.data) == (PLAIN, u16(2, 0, 7, 5))
    status, block = one(rig, DISK, u16(Op.LIST_GET, USERS, 1, 0, 1, 9))
    assert (status, block.status) == (REFUSED, Status.BAD_KEY_ABORT)
    assert one(rig, DISK, u16(Op.ROW_DELETE, USERS, 2, 5, 5), set_=True)[0] == PLAIN
    assert users(rig) == [6, 7]
    status, block = one(rig, DISK, u16(Op.ROW_DELETE, USERS, 2, 6, 9), set_=True)
    assert (status, block.status) == (REFUSED, Status.BAD_KEY_ABORT)
    assert users(rig) == [6, 7]
    assert one(rig, DISK, u16(Op.TABLE_CLEAR, USERS), set_=True)[0] == PLAIN
    assert users(rig) == []


@pytest.mark.parametrize(
    ("operation", "status"),
    [
        (add_users(0x1000), Status.OPERATION_ERROR),
        (add_users(5, 5), Status.OPERATION_ERROR),
        (add_users(*range(40)), Status.OPERATION_ERROR),
        (u16(Op.ROW_ADD, USERS, 0, 1), Status.NO_KEY_FIELD),
        (u16(Op.ROW_ADD, USERS, 1, 7, 1, 5), Status.NO_SUCH_FIELD),
        (u16(Op.ROW_ADD, 0xF003, 1, 0, 1, 5), Status.NON_DYNAMIC_GROUP),
        (u16(Op.ROW_DELETE, 0xF003, 0), Status.NON_DYNAMIC_GROUP),
        (u16(Op.TABLE_CLEAR, 0xF003), Status.NON_DYNAMIC_GROUP),
        (u16(Op.TABLE_CLEAR, 0x0004), Status.WRONG_GROUP_TYPE),
        (u16(Op.LIST_SET, USERS, 1, 0, 1, 5, 6), Status.BAD_KEY_ABORT),
        (u16(Op.LIST_SET, 0x0004, 1, 0, 1, 5, 6), Status.WRONG_GROUP_TYPE),
        (u16(Op.FIELD_SET, 0x9999, 1, 0, 5), Status.INVALID_GROUP_ID),
        (u16(Op.FIELD_SET, USERS, 1, 0, 5), Status.WRONG_GROUP_TYPE),
        (u16(Op.FIELD_SET, 0x0004, 1, 1, 512, 0), Status.FIELD_UNWRITEABLE),
        (u16(Op.FIELD_SET, 0x0004, 1, 2, 512, 0), Status.NO_SUCH_FIELD),
        (u16(Op.FIELD_SET, 0x0004, 1, 9, 512, 0), Status.NO_SUCH_FIELD),
        (get(0x0004), Status.INVALID_OPERATION),
        (u16(0x0B, 0x0004, 0), Status.INVALID_OPERATION),
        (u16(0, 0, 0), Status.INVALID_OPERATION),
    ],
)
def test_sets_that_cannot_be_done(operation, status):
    rig = Rig()
    reply, block = one(rig, DISK, operation, set_=True)
    assert (reply, block.status) == (REFUSED, status)
    assert block.error_info[:2] == operation[:2]


def test_a_row_that_is_refused_blames_no_field():
    _, block = one(Rig(), DISK, add_users(5, 5), set_=True)
    assert what_failed(block) == (Op.ROW_ADD, USERS, 0, 0)


def test_a_set_inside_a_get_is_refused():
    status, block = one(Rig(), DISK, u16(Op.TABLE_CLEAR, USERS))
    assert (status, block.status) == (REFUSED, Status.INVALID_OPERATION)


def test_nothing_behind_an_unreadable_operation_is_run():
    rig = Rig()
    one(rig, DISK, add_users(5), set_=True)
    operations = u16(Op.FIELD_SET, 0x9999, 1, 0, 5) + u16(Op.TABLE_CLEAR, USERS)
    reply, blocks = rig.parameters(DISK, operations, set_=True, count=2)
    assert (reply.status, len(blocks)) == (REFUSED, 1)
    assert users(rig) == [5]


def test_a_table_larger_than_the_buffer_is_read_in_turns():
    rig = Rig()
    one(rig, DISK, add_users(*range(3, 13)), set_=True)
    seen, operation, turns = [], table(USERS), 0
    while True:
        status, block = one(rig, DISK, operation, size=20)
        assert (status, block.status) == (PLAIN, 0)
        count, more = struct.unpack_from("<HH", block.data)
        seen += struct.unpack_from(f"<{count}H", block.data, 4)
        turns += 1
        if not more:
            break
        operation = get(USERS, op=Op.MORE_GET)
    assert (seen, turns) == (list(range(3, 13)), 3)
    status, block = one(rig, DISK, get(USERS, op=Op.MORE_GET))
    assert (status, block.status) == (REFUSED, Status.OPERATION_ERROR)


def test_a_buffer_without_room_for_one_row():
    rig = Rig()
    status, block = one(rig, 0, table(0x0102), size=24)
    assert (status, block.status) == (REFUSED, Status.BUFFER_TOO_SMALL)


@pytest.mark.parametrize("size", [8, 11, 12, 13])
def test_a_buffer_without_room_for_a_table(size):
    rig = Rig()
    one(rig, DISK, add_users(5, 6, 7), set_=True)
    reply, _ = rig.parameters(DISK, table(USERS), size=size)
    assert reply.status == REFUSED
    assert one(rig, DISK, get(USERS, op=Op.MORE_GET))[1].status == Status.OPERATION_ERROR


def test_sizes_can_be_asked_for():
    rig = Rig()
    one(rig, DISK, add_users(5, 6), set_=True)
    assert one(rig, DISK, get(USERS, op=Op.SIZE_GET))[1].data == (4).to_bytes(4, "little")
    assert one(rig, DISK, get(0xF100, op=Op.SIZE_GET))[1].data == (321).to_bytes(4, "little")
    assert one(rig, DISK, get(0xF100, 0, 2, op=Op.SIZE_GET))[1].data == (6).to_bytes(4, "little")


def test_no_fields_at_all():
    rig = Rig()
    one(rig, DISK, add_users(5), set_=True)
    assert one(rig, DISK, u16(Op.FIELD_GET, 4, 0))[1].data == b""
    assert one(rig, DISK, u16(Op.TABLE_GET, USERS, 0))[1].data == u16(1, 0)


# --- sets -----------------------------


def test_fields_are_set_and_told_about():
    rig = Rig()
    rig.post(
        utility.UTIL_EVENT_REGISTER.build(
            target_address=DISK, event_mask=GenericEvent.FIELD_MODIFIED
        )
    )
    rig.run()
    # NetBSD: index 8, then 7 twice
    operation = u16(Op.FIELD_SET, 0x0001, 3, 8, 7, 7) + struct.pack("<III", 0, 30, 40)
    source = rig.buffer(u16(1, 0) + operation)
    rig.post(
        utility.UTIL_PARAMS_SET.build(target_address=DISK)
        + simple_sgl([(source.bus_address, 4 + len(operation))], out=True)  # no result buffer
    )
    event, reply = rig.replies()
    assert reply.status == PLAIN
    assert event.words[4:] == (GenericEvent.FIELD_MODIFIED, 0x0001)
    record = CONTROL.unpack_from(one(rig, DISK, get(0x0001))[1].data)
    assert (record.rwv_timeout_base, record.timeout_base) == (40, 0)
    assert record.rwv_timeout == 1_000_000


def test_a_whole_group_can_be_written_back():
    rig = Rig()  # OpenBSD
    data = one(rig, DISK, get(0x0001))[1].data
    record = CONTROL.unpack_from(data)
    record.retry_attempts = 9
    assert one(rig, DISK, get(0x0001, op=Op.FIELD_SET) + record.pack(), set_=True)[0] == PLAIN
    assert one(rig, DISK, get(0x0001))[1].data == record.pack()
    record.atomic_write_size = 4096
    status, block = one(rig, DISK, get(0x0001, op=Op.FIELD_SET) + record.pack(), set_=True)
    assert (status, block.status) == (REFUSED, Status.FIELD_UNWRITEABLE)


def test_numbers_have_no_sign():
    rig = Rig()
    operation = u16(Op.FIELD_SET, 0x0001, 1, 8) + b"\xff" * 4
    assert one(rig, DISK, operation, set_=True)[0] == PLAIN
    assert one(rig, DISK, get(0x0001, 8))[1].data == b"\xff" * 4


def test_a_value_that_makes_no_sense_is_refused():
    rig = Rig()
    for value, wanted in ((2, 0), (7, Status.OPERATION_ERROR)):
        operation = u16(Op.FIELD_SET, 0x0003, 1, 3) + bytes([value])
        assert one(rig, DISK, operation, set_=True)[1].status == wanted
    assert one(rig, DISK, get(0x0003, 3))[1].data[0] == 2


def test_odd_values_are_padded_to_the_next_operation():
    rig = Rig()
    operations = (
        u16(Op.FIELD_SET, 0x0001, 1, 2) + b"\7\0" + u16(Op.FIELD_SET, 0x0001, 1, 0) + b"\1\0"
    )
    reply, blocks = rig.parameters(DISK, operations, set_=True, count=2)
    assert (reply.status, len(blocks)) == (PLAIN, 2)
    record = CONTROL.unpack_from(one(rig, DISK, get(0x0001))[1].data)
    assert (record.retry_attempts, record.auto_reassign) == (7, 1)


def test_the_inbound_frame_size_of_the_next_reboot():
    rig = Rig()
    operation = u16(Op.FIELD_SET, 0x0001, 1, 1) + struct.pack("<I", 1024)
    assert one(rig, 0, operation, set_=True)[0] == PLAIN
    assert one(rig, 0, get(0x0001, 1))[1].data == (1024).to_bytes(4, "little")
    for good in (64, 1 << 17):
        operation = u16(Op.FIELD_SET, 0x0001, 1, 1) + struct.pack("<I", good)
        assert one(rig, 0, operation, set_=True)[0] == PLAIN
    for bad in (0, 32, 63, 65, 100, 1 << 18, 1 << 30):
        operation = u16(Op.FIELD_SET, 0x0001, 1, 1) + struct.pack("<I", bad)
        assert one(rig, 0, operation, set_=True)[1].status == Status.OPERATION_ERROR
    operation = u16(Op.FIELD_SET, 0x0001, 1, 3) + struct.pack("<I", 5)
    assert one(rig, 0, operation, set_=True)[0] == PLAIN


def test_user_information_is_kept():
    rig = Rig()
    name = b"backup disk".ljust(64, b"\0")
    assert one(rig, DISK, u16(Op.FIELD_SET, 0xF102, 1, 0) + name, set_=True)[0] == PLAIN
    assert one(rig, DISK, get(0xF102, 0))[1].data == name


def test_rows_of_the_error_log_can_be_annotated_and_removed():
    rig = Rig()
    state = rig.iop.lct.devices[DISK].state
    for _ in range(3):
        state.log_error(0x30, 1, 5_000_000)
    operation = (
        u16(Op.LIST_SET, 0x0005, 1, 6, 2)
        + u16(0) + struct.pack("<I", 77)
        + u16(2) + struct.pack("<I", 88)
    )  # fmt: skip
    assert one(rig, DISK, operation, set_=True)[0] == PLAIN
    layout = bsa_groups.BSA_ERROR_LOG
    logged = rows(one(rig, DISK, table(0x0005))[1], layout)
    assert [(row.error_data_index, row.user_info) for row in logged] == [(0, 77), (1, 0), (2, 88)]
    assert {(row.function, row.detailed_error_code, row.time_stamp) for row in logged} == {
        (0x30, 1, 5000)
    }
    row = bytearray(logged[2].pack())
    whole = get(0x0005, op=Op.LIST_SET) + u16(1, 2)
    assert one(rig, DISK, whole + row, set_=True)[0] == PLAIN
    row[2] ^= 1  # the function: the device's own
    assert one(rig, DISK, whole + row, set_=True)[1].status == Status.FIELD_UNWRITEABLE
    same = u16(Op.LIST_SET, 0x0005, 1, 1, 1, 2) + b"\x30"
    assert one(rig, DISK, same, set_=True)[1].status == Status.FIELD_UNWRITEABLE
    one(rig, DISK, u16(Op.ROW_DELETE, 0x0005, 1, 1), set_=True)
    assert [row["error_data_index"] for row in state.errors] == [0, 2]
    one(rig, DISK, u16(Op.TABLE_CLEAR, 0x0005), set_=True)
    assert state.errors == ()


# --- lists that lie, lists in odd places -----------------------------


@pytest.mark.parametrize("set_", [False, True])
@pytest.mark.parametrize(
    ("data", "detail"),
    [
        (b"", 0x16),
        (b"\1", 0x16),
        (b"\1\0", 0x16),
        (u16(1, 0), 0x16),
        (u16(1, 0, 1), 0x16),
        (u16(1, 0, 1, 4), 0x16),
        (u16(1, 0, 1, 4, 3, 0), 0x16),
        (u16(1, 0, 6, 1, 1, 8), 0x16),
        (u16(1, 0, 6, 1, 0xFFFE), 0x16),
        (u16(1, 0, 8, USERS, 1, 0, 0xFFFF, 5), 0x16),
        (u16(0, 0), 0),
    ],
)
def test_lists_that_end_too_early(set_, data, detail):
    rig = Rig()
    layout = utility.UTIL_PARAMS_SET if set_ else utility.UTIL_PARAMS_GET
    result = rig.buffer(256)
    source = rig.buffer(data)
    reply = rig.call(
        layout.build(target_address=DISK)
        + simple_sgl([(source.bus_address, len(data))], out=True, last=False)
        + simple_sgl([(result.bus_address, 256)], out=False)
    )
    if detail and reply.status == REFUSED:  # the message may not carry the operation at all
        assert parse_results(bytes(result.view))[0].status == Status.INVALID_OPERATION
    else:
        assert reply.status == ((5, detail) if detail else PLAIN)


def test_a_list_that_counts_too_many_operations():
    reply, blocks = Rig().parameters(DISK, get(0x0004), count=9)
    assert (reply.status, len(blocks)) == ((5, 0x16), 1)


def test_a_list_in_the_frame():
    rig = Rig()
    result = rig.buffer(64)
    tail = simple_sgl([(result.bus_address, 64)], out=False)
    for offset in (0x51, 0x01):  # Linux 2.6; Solaris
        for operations in (u16(1, 0) + get(0x0004), u16(1, 0) + get(0x0004, 0xFFFF)):
            result.view[:] = bytes(64)
            frame = utility.UTIL_PARAMS_GET.build(target_address=DISK, version_offset=offset)
            assert rig.call(frame + immediate_element(operations) + tail).status == PLAIN
            assert parse_results(bytes(result.view))[0].data == struct.pack("<QI", 1 << 20, 512)


def test_results_go_to_memory_only():
    rig = Rig()
    frame = utility.UTIL_PARAMS_GET.build(target_address=DISK)
    operations = immediate_element(u16(1, 0) + get(0x0004, 1))
    assert rig.call(frame).status == (5, 0x16)
    assert "no operation list" in list(rig.complaints)[-1]
    assert rig.call(frame + operations).status == (5, 0x16)
    assert "no result buffer" in list(rig.complaints)[-1]
    assert rig.call(frame + operations + immediate_element(bytes(32), last=True)).status[0] == 0x0B
    bucket = struct.pack("<II", 0xC8000040, 0)
    assert rig.call(frame + operations + bucket).status == PLAIN
    assert rig.call(frame + struct.pack("<II", 0x48000004, 0) + bucket).status == PLAIN
    wild = simple_sgl([(0x800000, 64)], out=False)
    assert rig.call(frame + operations + wild).status == REFUSED
    lost = simple_sgl([(0x800000, 64)], out=True, last=False)
    assert rig.call(frame + lost + bucket).status == REFUSED
    read_only = rig.memory.map(memoryview(bytes(64)))
    onto = simple_sgl([(read_only.bus_address, 64)], out=False)
    assert rig.call(frame + operations + onto).status == REFUSED


def test_results_spread_over_pieces_and_buckets():
    rig = Rig()
    pieces = [rig.buffer(6), rig.buffer(16)]
    sgl = (
        struct.pack("<II", 0x10000006, pieces[0].bus_address)
        + struct.pack("<II", 0x08000002, 0)
        + struct.pack("<II", 0x10000000, 0x77777777)
        + struct.pack("<II", 0xD0000010, pieces[1].bus_address)
    )
    frame = utility.UTIL_PARAMS_GET.build(target_address=DISK)
    reply = rig.call(frame + immediate_element(u16(1, 0) + get(0x0004)) + sgl)
    assert reply.status == PLAIN
    assert bytes(pieces[0].view) == u16(1, 0, 4)
    assert bytes(pieces[1].view[:12]) == struct.pack("<QI", 1 << 20, 512)


def test_an_endless_list_is_looked_at_in_part():
    rig = Rig()
    operations = u16(0xFFFF, 0) + get(0x0004) * 20000
    source, result = rig.buffer(operations), rig.buffer(1 << 20)
    reply = rig.call(
        utility.UTIL_PARAMS_GET.build(target_address=DISK)
        + simple_sgl([(source.bus_address, len(operations))], out=True, last=False)
        + simple_sgl([(result.bus_address, 1 << 20)], out=False)
    )
    assert reply.status == (5, 0x16)
    (count,) = struct.unpack_from("<H", result.view)
    assert count == 65532 // 6


def test_descriptions_name_what_a_table_can_do():
    layout = params.AUTHORIZED_USER_TABLE
    assert describe(TableGroup(layout, tuple))["properties"] == 1
    full = TableGroup(layout, tuple, add=print, delete=print, clear=print)
    assert describe(full)["properties"] == 0x0F
    assert describe(ScalarGroup(params.USER_INFORMATION, dict))["row_count"] == 1
