# SPDX-License-Identifier: Apache-2.0
"""Generic parameter groups: every TID has all of them, and takes all ten operations on them."""

from __future__ import annotations

import struct
from typing import NamedTuple

import pytest

from fakes.iop_rig import DISK, Block, Rig
from i2o.frames import executive as x
from i2o.frames import params
from i2o.frames.params import ParamBlockStatus as Status
from i2o.frames.params import ParamOperation as Op
from i2o.frames.sgl import simple_sgl
from i2o.iop_emulator.block_store import MemoryDisk
from i2o.iop_emulator.iop_system import IopSystem

DDM = 0x008
DOWNLOADED = 0x009
SCALAR, TABLE = params.USER_INFORMATION, params.AUTHORIZED_USER_TABLE
GENERIC = [group for group in params.GROUPS if group is not params.DEVICE_CONFIG_CONTROL]
"""All but 0xF007, which I2O 1.5 does not have."""


class Bench(NamedTuple):
    """An IOP, and one device of each kind."""

    rig: Rig
    tids: dict[str, int]

    def one(self, kind: str, operation: bytes, *, set_: bool = False, size: int = 4096) -> Block:
        _, blocks = self.rig.parameters(self.tids[kind], operation, set_=set_, size=size)
        (block,) = blocks
        return block


KINDS = ["executive", "ddm", "downloaded ddm", "disk", "alias of a disk", "alias of an executive"]


@pytest.fixture
def bench() -> Bench:
    system = IopSystem()
    rig, other = Rig([MemoryDisk(1 << 20)], system=system), Rig(system=system)
    for iop_id, one in enumerate((rig, other), 2):
        one.set_system_table(iop_id, 2, 3)
    code = rig.buffer(b"code")
    fragment = x.EXEC_SW_DOWNLOAD.build(
        current_fragment=1, total_fragments=1, sw_size=4, sw_type=1, sw_id_module_id=7
    )
    assert rig.call(fragment + simple_sgl([(code.bus_address, 4)], out=True)).status == (0, 0)
    executive = rig.call(x.EXEC_IOP_CONNECT.build(iop_id1=3)).words[5] >> 16 & 0xFFF
    setup = x.EXEC_CONN_SETUP.build(
        target_address=executive, object_info_target_device=DISK, object_info_initiator_device=1
    )
    disk = rig.call(setup).words[5] & 0xFFF
    return Bench(rig, dict(zip(KINDS, (0, DDM, DOWNLOADED, DISK, disk, executive), strict=True)))


def u16(*values: int) -> bytes:
    return struct.pack(f"<{len(values)}H", *values)


@pytest.mark.parametrize("group", GENERIC, ids=lambda group: group.name)
@pytest.mark.parametrize("kind", KINDS)
def test_every_tid_has_every_generic_group(bench, kind, group):
    operation = Op.TABLE_GET if group.is_table else Op.FIELD_GET
    block = bench.one(kind, u16(operation, group.number, 0xFFFF))
    assert block.status == Status.SUCCESS
    if group.is_table:
        count, more = struct.unpack_from("<HH", block.data)
        assert more == 0
        assert len(block.data) >= 4 + count * group.size
    else:
        assert len(block.data) >= group.size
    described = bench.one(kind, u16(Op.TABLE_GET, 0xF000, 0xFFFF))
    (count,) = struct.unpack_from("<H", described.data)
    rows = [params.GROUP_DESCRIPTORS.unpack_from(described.data, 4 + 8 * n) for n in range(count)]
    assert group.number in [row.group_number for row in rows]


NAME = b"renamed".ljust(64)
SCALAR_CASES = {
    Op.FIELD_GET: (u16(1, 0), Status.SUCCESS, NAME),
    Op.LIST_GET: (u16(0xFFFF, 1, 5), Status.WRONG_GROUP_TYPE, None),
    Op.MORE_GET: (u16(0xFFFF), Status.OPERATION_ERROR, None),
    Op.SIZE_GET: (u16(1, 0), Status.SUCCESS, (64).to_bytes(4, "little")),
    Op.TABLE_GET: (u16(0xFFFF), Status.WRONG_GROUP_TYPE, None),
    Op.FIELD_SET: (u16(1, 0) + NAME, Status.SUCCESS, b""),
    Op.LIST_SET: (u16(0, 0), Status.WRONG_GROUP_TYPE, None),
    Op.ROW_ADD: (u16(0, 0), Status.WRONG_GROUP_TYPE, None),
    Op.ROW_DELETE: (u16(0), Status.WRONG_GROUP_TYPE, None),
    Op.TABLE_CLEAR: (b"", Status.WRONG_GROUP_TYPE, None),
}
TABLE_CASES = {
    Op.FIELD_GET: (u16(0xFFFF), Status.WRONG_GROUP_TYPE, None),
    Op.LIST_GET: (u16(0xFFFF, 1, 5), Status.SUCCESS, u16(1, 0, 5, 0)),
    Op.MORE_GET: (u16(0xFFFF), Status.OPERATION_ERROR, None),
    Op.SIZE_GET: (u16(0xFFFF), Status.SUCCESS, None),
    Op.TABLE_GET: (u16(0xFFFF), Status.SUCCESS, u16(2, 0, 5, 6)),
    Op.FIELD_SET: (u16(1, 0, 7), Status.WRONG_GROUP_TYPE, None),
    Op.LIST_SET: (u16(1, 0, 1, 5, 8), Status.FIELD_UNWRITEABLE, None),
    Op.ROW_ADD: (u16(1, 0, 1, 9), Status.SUCCESS, b""),
    Op.ROW_DELETE: (u16(1, 5), Status.SUCCESS, b""),
    Op.TABLE_CLEAR: (b"", Status.SUCCESS, b""),
}


def is_set(operation: Op) -> bool:
    return operation >= Op.FIELD_SET


@pytest.mark.parametrize("operation", Op, ids=lambda operation: operation.name)
@pytest.mark.parametrize("kind", KINDS)
def test_every_operation_on_a_scalar(bench, kind, operation):
    named = u16(Op.FIELD_SET, SCALAR.number, 1, 0) + NAME
    assert bench.one(kind, named, set_=True).status == Status.SUCCESS
    rest, status, data = SCALAR_CASES[operation]
    block = bench.one(kind, u16(operation, SCALAR.number) + rest, set_=is_set(operation))
    assert block.status == status
    assert data is None or block.data == data


@pytest.mark.parametrize("operation", Op, ids=lambda operation: operation.name)
@pytest.mark.parametrize("kind", KINDS)
def test_every_operation_on_a_table(bench, kind, operation):
    added = u16(Op.ROW_ADD, TABLE.number, 1, 0, 2, 5, 6)
    assert bench.one(kind, added, set_=True).status == Status.SUCCESS
    rest, status, data = TABLE_CASES[operation]
    block = bench.one(kind, u16(operation, TABLE.number) + rest, set_=is_set(operation))
    assert block.status == status
    assert data is None or block.data == data
    left = {Op.ROW_ADD: [5, 6, 9], Op.ROW_DELETE: [6], Op.TABLE_CLEAR: []}.get(operation, [5, 6])
    rows = bench.one(kind, u16(Op.TABLE_GET, TABLE.number, 0xFFFF)).data
    (count,) = struct.unpack_from("<H", rows)
    assert list(struct.unpack_from(f"<{count}H", rows, 4)) == left


@pytest.mark.parametrize("kind", KINDS)
def test_a_table_is_read_in_turns(bench, kind):
    added = u16(Op.ROW_ADD, TABLE.number, 1, 0, 4, 5, 6, 7, 8)
    assert bench.one(kind, added, set_=True).status == Status.SUCCESS
    first = bench.one(kind, u16(Op.TABLE_GET, TABLE.number, 0xFFFF), size=16)
    assert first.data == u16(2, 1, 5, 6)
    rest = bench.one(kind, u16(Op.MORE_GET, TABLE.number, 0xFFFF))
    assert rest.data == u16(2, 0, 7, 8)


def test_what_the_groups_say(bench):
    def read(kind: str, group):
        operation = Op.TABLE_GET if group.is_table else Op.FIELD_GET
        return bench.one(kind, u16(operation, group.number, 0xFFFF)).data

    assert read("ddm", params.PHYSICAL_DEVICE_TABLE) == u16(1, 0, 1, 0)
    assert read("disk", params.PHYSICAL_DEVICE_TABLE) == u16(0, 0)
    assert bench.rig.call(x.EXEC_ADAPTER_RELEASE.build(hrt_entry_adapter_id=1)).status == (0, 0)
    assert read("ddm", params.PHYSICAL_DEVICE_TABLE) == u16(0, 0)
    for kind, tid in (("executive", 0), ("ddm", DDM), ("disk", DDM), ("downloaded ddm", 9)):
        identity = params.DDM_IDENTITY.unpack_from(read(kind, params.DDM_IDENTITY))
        assert identity.ddm_tid == tid
    limits = params.SGL_OPERATING_LIMITS.unpack_from(read("disk", params.SGL_OPERATING_LIMITS))
    assert (limits.sgl_frag_count, limits.sgl_chain_size) == (1024, 1 << 16)
