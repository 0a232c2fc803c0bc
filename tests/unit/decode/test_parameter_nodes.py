# SPDX-License-Identifier: Apache-2.0
"""Parameter operation and result lists: those of a real engine, and those that are wrong."""

from __future__ import annotations

import struct

import pytest

from fakes.decoded import IN, Talk, decoded, find, problems, sized, with_buffers
from fakes.iop_rig import DISK, Rig
from i2o.decode import parameter_nodes as module
from i2o.decode.dma_summary import dma_summary
from i2o.decode.parameter_nodes import operations_node, operations_of, results_node
from i2o.frames import block_storage_groups as bsa_groups
from i2o.frames import params, utility
from i2o.frames.functions import DeviceClass
from i2o.frames.params import ParamBlockStatus as Status
from i2o.frames.params import ParamOperation as Op
from i2o.frames.sgl import immediate_element, simple_sgl

BLOCK = DeviceClass.RANDOM_BLOCK_STORAGE.value
IDENTITY = params.DEVICE_IDENTITY.number
USERS = params.AUTHORIZED_USER_TABLE.number
CONTROL = bsa_groups.BSA_OPERATIONAL_CONTROL


def u16(*values: int) -> bytes:
    return struct.pack(f"<{len(values)}H", *values)


def listed(*operations: bytes) -> bytes:
    data = u16(len(operations), 0) + b"".join(op + bytes(len(op) & 1) for op in operations)
    return data + bytes(-len(data) % 4)


class Run:
    """A parameter request to an emulated IOP, as a capture shows it."""

    def __init__(self, rig: Rig, *operations: bytes, size: int = 1024, tid: int = DISK) -> None:
        codes = [int.from_bytes(op[:2], "little") for op in operations]
        layout = utility.UTIL_PARAMS_SET if max(codes) > Op.TABLE_GET else utility.UTIL_PARAMS_GET
        data = listed(*operations)
        source, result = rig.buffer(data), rig.buffer(size)
        frame = sized(
            layout.build(target_address=tid)
            + simple_sgl([(source.bus_address, len(data))], out=True, last=False)
            + simple_sgl([(result.bus_address, size)], out=False)
        )
        talk = Talk()
        talk.learn(t010=BLOCK)
        self.request = talk.request(frame)
        self.asked = talk.to_device(data, source.bus_address)
        reply = rig.call(frame).data
        written = self._written(bytes(result.view))
        self.got = talk.from_device(written, result.bus_address)
        self.reply = talk.reply(reply)
        assert not problems(self.request)
        assert not problems(self.asked)
        assert not problems(self.reply)

    @staticmethod
    def _written(data: bytes) -> bytes:
        count = int.from_bytes(data[:2], "little")
        place = 4
        for _ in range(count):
            place += 4 * int.from_bytes(data[place : place + 2], "little")
        return data[:place]

    @property
    def operations(self) -> list:
        return decoded(self.asked)["operations"]["entries"]

    @property
    def results(self) -> list:
        assert not problems(self.got)
        return decoded(self.got)["results"]["entries"]


# --- with a real engine ------------------------------------------------------------------------


def test_a_whole_group():
    run = Run(Rig(), u16(Op.FIELD_GET, IDENTITY, 0xFFFF))
    assert run.operations == [
        {
            "operation": 1,
            "group_number": IDENTITY,
            "group": "device_identity",
            "field_count": 0xFFFF,
        }
    ]
    (result,) = run.results
    assert result["group"] == "device_identity"
    values = result["values"]
    assert list(values) == [field.path for field in params.DEVICE_IDENTITY.fields]
    assert values["class_id"] & 0xFFF == BLOCK
    assert find(run.got, "results", "entries", "0", "values", "class_id").meaning == (
        "RANDOM_BLOCK_STORAGE"
    )
    assert find(run.got, "results", "entries", "0", "block_size").meaning.endswith("bytes")
    assert dma_summary(run.asked) == "operations: field_get 0xF100 device_identity"
    assert dma_summary(run.got) == "results: 0xF100 device_identity ok"


def test_some_fields_in_their_order():
    run = Run(Rig(), u16(Op.FIELD_GET, 0x0000, 2, 4, 3), u16(Op.FIELD_GET, 0x0000, 1, 0xFFFF))
    first, second = run.operations
    assert first["field_indexes"] == [4, 3]
    assert find(run.asked, "operations", "entries", "0", "field_indexes", "0").meaning == (
        "device_capacity"
    )
    assert second["field_indexes"] == [0xFFFF]
    few, every = run.results
    assert few["values"] == {"device_capacity": 1 << 20, "block_size": 512}
    assert len(every["values"]) == len(bsa_groups.BSA_DEVICE_INFO.fields)


def test_tables_with_rows():
    run = Run(Rig(), u16(Op.TABLE_GET, params.GROUP_DESCRIPTORS.number, 0xFFFF))
    (result,) = run.results
    assert result["row_count"] == len(result["rows"]) > 5
    assert result["more_flag"] == 0
    (row,) = (row for row in result["rows"] if row["group_number"] == IDENTITY)
    assert row["field_count"] == len(params.DEVICE_IDENTITY.fields)
    assert "data" not in result


def test_a_table_that_does_not_fit_goes_on_with_more_get():
    rig = Rig()
    run = Run(rig, u16(Op.TABLE_GET, params.GROUP_DESCRIPTORS.number, 0xFFFF), size=32)
    (result,) = run.results
    assert (result["row_count"], result["more_flag"]) == (2, 1)
    more = Run(rig, u16(Op.MORE_GET, params.GROUP_DESCRIPTORS.number, 0xFFFF))
    assert more.operations[0]["operation"] == 3
    assert more.results[0]["rows"][0] not in result["rows"]


def test_rows_by_key_sizes_and_changes():
    rig = Rig()
    added = Run(rig, u16(Op.ROW_ADD, USERS, 1, 0, 2, 0x123, 0x124))
    assert added.operations[0]["row_count"] == 2
    assert added.operations[0]["rows"] == [
        {"values": {"alternate_tid": 0x123}},
        {"values": {"alternate_tid": 0x124}},
    ]
    assert added.results == [
        {"block_size": 1, "block_status": 0, "error_info_size": 0, "group": "authorized_user_table"}
    ]
    by_key = Run(rig, u16(Op.LIST_GET, USERS, 0xFFFF, 1, 0x124))
    assert by_key.operations[0]["keys"] == [0x124]
    assert by_key.operations[0]["key_count"] == 1
    assert by_key.results[0]["rows"] == [{"alternate_tid": 0x124}]
    size = Run(rig, u16(Op.SIZE_GET, USERS, 0xFFFF))
    assert size.results[0]["size"] == 4
    assert "data" not in size.results[0]
    changed = Run(rig, u16(Op.LIST_SET, USERS, 1, 0, 1, 0x124, 0x124))
    assert changed.operations[0]["rows"] == [{"key": 0x124, "values": {"alternate_tid": 0x124}}]
    deleted = Run(rig, u16(Op.ROW_DELETE, USERS, 1, 0x123))
    assert deleted.operations[0]["keys"] == [0x123]
    assert deleted.operations[0]["row_count"] == 1
    cleared = Run(rig, u16(Op.TABLE_CLEAR, USERS))
    assert cleared.operations == [
        {"operation": 10, "group_number": USERS, "group": "authorized_user_table"}
    ]
    assert dma_summary(cleared.asked) == "operations: table_clear 0xF006 authorized_user_table"


def test_values_to_set():
    index = next(i for i, f in enumerate(CONTROL.fields) if f.path == "retry_attempts")
    run = Run(Rig(), u16(Op.FIELD_SET, CONTROL.number, 1, index) + b"\x05")
    assert run.operations[0]["values"] == {"retry_attempts": 5}
    assert run.results[0]["block_status"] == 0


def test_errors_have_their_reason():
    run = Run(Rig(), u16(Op.FIELD_GET, 0x0000, 1, 99))
    assert "values" not in run.operations[0]
    (result,) = run.results
    assert result["block_status"] == Status.NO_SUCH_FIELD
    assert result["error_info"]["field_idx"] == 99
    assert find(run.got, "results", "entries", "0", "error_info", "operation_code").meaning == (
        "FIELD_GET"
    )
    assert dma_summary(run.got) == "results: 0x0000 device_info NO_SUCH_FIELD"


def test_a_scalar_cut_by_the_hosts_buffer():
    run = Run(Rig(), u16(Op.FIELD_GET, 0x0000, 0xFFFF), size=24)
    assert not problems(run.got)
    (result,) = decoded(run.got)["results"]["entries"]
    assert list(result["values"]) == [f.path for f in bsa_groups.BSA_DEVICE_INFO.fields][:5]
    assert "fields are not there" in str(result["note"]) or "short" in str(result["note"])


def test_operations_in_the_frame():
    data = listed(u16(Op.FIELD_GET, IDENTITY, 1, 3))
    head = utility.UTIL_PARAMS_GET.build(target_address=DISK)
    sgl = immediate_element(data) + simple_sgl([(IN, 64)], out=False)
    talk = Talk()
    talk.learn(t010=BLOCK)
    request = talk.request(sized(head + sgl))
    (operation,) = decoded(request)["operations"]["entries"]
    assert operation["field_indexes"] == [3]
    assert find(request, "operations").offset == 24
    got = talk.from_device(u16(1, 0, 5, 0) + b"A vendor".ljust(16))
    assert decoded(got)["results"]["entries"][0]["values"] == {
        "vendor_info": b"A vendor".ljust(16).hex()
    }
    vendor = find(got, "results", "entries", "0", "values", "vendor_info")
    assert (vendor.meaning, vendor.offset) == ("A vendor", 8)


def test_a_request_with_operations_alone():
    data = listed(u16(Op.TABLE_CLEAR, USERS))
    head = utility.UTIL_PARAMS_SET.build(target_address=DISK)
    talk = Talk()
    talk.request(sized(head + simple_sgl([(0x9000, len(data))], out=True)))
    assert "operations" in decoded(talk.to_device(data, 0x9000))


# --- lists that are wrong ----------------------------------------------------------------------


def wrong(data: bytes, device_class: int | None = BLOCK) -> list[str]:
    return list(operations_node(data, device_class).problems())


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (u16(1), "the operation list ends before reserved"),
        (u16(1, 0), "operation 0 of 1: the list ends before operation"),
        (u16(1, 0, 1), "operation 0 of 1: the list ends before group_number"),
        (u16(1, 0, 1, 0), "operation 1 of 1: the list ends before field_count"),
        (u16(1, 0, 1, 0, 3, 1), "operation 1 of 1: the list ends before field_idx"),
        (u16(2, 0, 77, 0, 0), "operation 1 of 2: 0x004d is none of the ten operations"),
        (
            u16(1, 0, Op.FIELD_SET, 0x7777, 1, 0, 5),
            "operation 1 of 1: the group is not known, nor how wide the values are",
        ),
        (
            u16(1, 0, Op.FIELD_SET, 0, 1, 99, 5),
            "operation 1 of 1: it has no such field, nor how wide the values are",
        ),
        (
            u16(1, 0, Op.LIST_GET, 0x7777, 0xFFFF, 1, 5),
            "operation 1 of 1: the group is not known, nor how wide its keys are",
        ),
        (
            u16(1, 0, Op.FIELD_SET, 0, 1, 4, 0, 0),
            "operation 1 of 1: the list ends before device_capacity",
        ),
        (u16(1, 0, Op.ROW_DELETE, USERS, 2, 5), "operation 1 of 1: the list ends before alternate"),
    ],
)
def test_operation_lists_that_are_wrong(data, text):
    (found,) = wrong(data)
    assert found.startswith(text)


def test_what_cannot_be_read_is_kept():
    node = operations_node(u16(2, 0, Op.FIELD_SET, 0x7777, 1, 0, 5, 6), BLOCK)
    assert node.json()["rest"] == "05000600"
    assert len(node.json()["entries"]) == 1


def test_lists_are_bounded(monkeypatch):
    monkeypatch.setattr(module, "MAX_ITEMS", 3)
    assert "more than 3 fields, keys" in wrong(u16(1, 0, Op.FIELD_GET, 0, 5, 0, 1, 2, 3, 4))[0]
    assert "more than 3 fields, keys" in wrong(u16(1, 0, Op.ROW_ADD, USERS, 1, 0, 4, 1, 2, 3, 4))[0]
    clear = u16(Op.TABLE_CLEAR, USERS)
    assert "operation 3 of 5: more than 3" in wrong(listed(*[clear] * 5))[0]
    many = u16(5, 0) + u16(1, 0) * 5
    asked = [operations_of(listed(clear), BLOCK)[0]] * 5
    node = results_node(many, asked)
    assert len(node.json()["entries"]) == 3
    assert node.json()["note"] == "5 results, more than 3 not shown"


def results(data: bytes, *operations: bytes, whole: bool = True):
    asked = operations_of(listed(*operations), BLOCK) if operations else None
    return results_node(data, asked, is_whole=whole)


GET = u16(Op.FIELD_GET, 0, 0xFFFF)


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (u16(1), "the result list ends before reserved"),
        (u16(1, 0), "the list ends after 0 of 1 results"),
        (u16(1, 0, 0, 0), "block_size is 0 words: no room for what it holds"),
        (u16(1, 0, 1, 0x0200), "block_size is 1 words: no room for what it holds"),
        (u16(1, 0, 3, 0, 1), "the list ends in this block, 6 bytes short"),
        (u16(2, 0, 1, 0, 1, 0), "2 results of 1 operations"),
    ],
)
def test_result_lists_that_are_wrong(data, text):
    assert text in list(results(data, GET).problems())
    if "ends" in text:
        assert not list(results(data, GET, whole=False).problems())


def test_results_without_their_operations():
    node = results(u16(1, 0, 3, 0) + bytes(range(8)))
    assert node.json()["note"] == "the operation list was not captured"
    assert node.json()["entries"][0]["data"] == bytes(range(8)).hex()
    assert node.meaning == "result ok"
    unknown = results(u16(1, 0, 2, 0x0077) + b"abcd", u16(Op.FIELD_GET, 0x7777, 0xFFFF))
    assert unknown.meaning == "0x7777 status 0x77"
    assert unknown.json()["entries"][0]["data"] == b"abcd".hex()


def test_groups_of_an_older_device():
    node = results(u16(1, 0, 2, 0) + b"\1\2\3\0", GET)
    entry = node.json()["entries"][0]
    assert entry["values"] == {"device_type": 1, "number_of_paths": 2, "power_state": 3}
    assert entry["note"] == "4 of 7 fields are not there"


def test_rows_that_are_missing():
    table = u16(Op.TABLE_GET, USERS, 0xFFFF)
    entry = results(u16(1, 0, 3, 0, 9, 0, 5, 6), table).json()["entries"][0]
    assert entry["rows"] == [{"alternate_tid": 5}, {"alternate_tid": 6}]
    assert entry["note"] == "2 of 9 rows are here"
    unknown = results(u16(1, 0, 3, 0, 1, 0, 5, 6), u16(Op.TABLE_GET, 0x7777, 0xFFFF))
    assert unknown.json()["entries"][0]["data"] == u16(5, 6).hex()


def test_the_second_buffer_in_pieces():
    data = listed(GET)
    talk = Talk()
    talk.learn(t010=BLOCK)
    head = utility.UTIL_PARAMS_GET.build(target_address=DISK)
    talk.request(with_buffers(head, len(data), 64))
    talk.to_device(data)
    whole = u16(1, 0, 7, 0) + struct.pack("<BBHIQII", 0, 1, 0, 512, 1 << 20, 0, 0)
    first = talk.from_device(whole[:12])
    assert "ends in this block" in problems(first)[0]
    second = talk.from_device(whole[12:], IN + 12)
    assert not problems(second)
    found = decoded(second)
    assert found["results"]["entries"][0]["values"]["device_capacity"] == 1 << 20
    assert found["part"] == "bytes 12 to 32"
    assert dma_summary(second) == "results: 0x0000 device_info ok (bytes 12 to 32)"
    cut = talk.from_device(whole[:12], length=len(whole))
    assert not problems(cut)
    assert decoded(cut)["part"] == "bytes 0 to 32, 12 of 32 captured"
    third = talk.from_device(b"", IN + 60)
    assert "data" in decoded(third)
