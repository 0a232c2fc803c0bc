# SPDX-License-Identifier: Apache-2.0
"""An opened IOP: tables, parameters, pass-through, several at once."""

from __future__ import annotations

import struct

import pytest

import i2o
from i2o.errors import (
    InvalidArgument,
    OutOfFrames,
    ParameterError,
    RemoteFrameError,
    RequestFailed,
    UriError,
)
from i2o.frames.block_storage import BSA_BLOCK_READ, BSA_STATUS_CHECK
from i2o.frames.executive_groups import EXEC_IOP_HARDWARE, EXEC_LCT_TABLE
from i2o.frames.params import ParamBlockStatus
from i2o.message_frames import ReplyFrame
from i2o.message_layer import MessageLayer
from i2o.parameters import _result_block, find_field, get_table
from i2o.pass_through import I2O_PT_DATA_READ, I2O_PT_DATA_WRITE, PassthruData
from i2o.replies import describe, raise_for_status, status_of


@pytest.fixture(params=["inline", "thread"])
def iop(request):
    with i2o.open(f"emu:?run={request.param}") as opened:
        yield opened


@pytest.fixture
def disk(iop) -> int:
    return iop.of_class(0x10)[0].tid


class TestTables:
    def test_what_bring_up_learned(self, iop):
        assert iop.status.state_name == "OPERATIONAL"
        assert iop.status.i2o_version == 1
        assert iop.hrt
        assert {entry.tid for entry in iop.devices} >= {0}
        assert iop.lct.change_indicator >= 1
        iop.refresh()
        assert iop.status.state_name == "OPERATIONAL"

    def test_no_buffers_stay_behind(self, iop):
        assert iop.memory.buffer_count == 1, "the pool of reply frames, nothing else"

    def test_closing_twice_is_fine(self, iop):
        iop.close()
        iop.close()
        assert iop.layer.iop_count() == 0


class TestOpening:
    def test_a_layer_that_takes_no_more_osms(self):
        with MessageLayer() as layer:
            for _ in range(256):
                layer.register([print])
            with pytest.raises(OutOfFrames):
                i2o.open("emu:", layer=layer)
            assert layer.iop_count() == 0

    @pytest.mark.parametrize("shared", [True, False])
    def test_an_iop_object_that_cannot_be_made_leaves_nothing_attached(self, monkeypatch, shared):
        """A leak of the layer's own port would be noticed by its descriptors or threads."""
        detached = []
        detach = MessageLayer.detach

        def noted(self, number):
            detached.append(number)
            detach(self, number)

        def full(*_, **__):
            raise OutOfFrames("256 OSMs are registered already")

        monkeypatch.setattr(MessageLayer, "detach", noted)
        monkeypatch.setattr("i2o.iop.Requester", full)
        with MessageLayer() as layer:
            with pytest.raises(OutOfFrames):
                i2o.open("emu:?run=thread", layer=layer if shared else None)
            assert layer.iop_count() == 0
            assert detached == [0]


class TestParameters:
    def test_scalar_groups_by_number_name_and_layout(self, iop, disk):
        by_number = iop.params_get(disk, 0x0000)
        assert by_number["block_size"] == 512
        assert iop.params_get(disk, "device_info") == by_number
        assert iop.params_get(disk, "bsa.device_info") == by_number
        assert iop.params_get(0, EXEC_IOP_HARDWARE)["processor_memory"] >= 0

    def test_one_field(self, iop, disk):
        assert iop.params_get(disk, 0x0000, "device_capacity") == 16 << 20
        assert iop.params_get(disk, 0x0000, 3) == 512
        assert isinstance(iop.params_get(disk, 0xF100, "product_info"), bytes)

    def test_tables(self, iop, disk):
        rows = iop.params_get(0, "lct_table")
        assert disk in [row["local_tid"] for row in rows]
        numbers = iop.params_groups(disk)
        assert 0x0000 in numbers
        assert 0xF000 in numbers

    def test_set(self, iop, disk):
        iop.params_set(disk, 0x0001, {"retry_attempts": 7, "rwv_timeout": 1000})
        assert iop.params_get(disk, 0x0001, "retry_attempts") == 7
        assert iop.params_get(disk, 0x0001, "rwv_timeout") == 1000

    def test_text_is_padded(self, iop, disk):
        iop.params_set(disk, "user_information", {"device_name": b"scratch"})
        assert iop.params_get(disk, "user_information", "device_name") == b"scratch".ljust(
            64, b"\0"
        )

    def test_every_known_group_of_every_device_is_read_or_refused(self, iop):
        for tid in (0, *(entry.tid for entry in iop.devices)):
            for group in iop.known_groups(tid):
                try:
                    value = iop.params_get(tid, group)
                except ParameterError as error:
                    assert error.block_status
                else:
                    assert isinstance(value, list if group.is_table else dict)

    @pytest.mark.parametrize("status", [ParamBlockStatus.BUFFER_FULL])
    def test_a_table_for_which_no_buffer_is_enough(self, monkeypatch, status):
        sizes = []

        def full(requester, memory, tid, layout, operation, size, what):
            sizes.append(size)
            assert len(sizes) < 20, "it does not give up"
            raise ParameterError(what, status)

        monkeypatch.setattr("i2o.parameters._exchange", full)
        with pytest.raises(ParameterError) as caught:
            get_table(None, None, 0, EXEC_LCT_TABLE)
        assert caught.value.block_status == status
        assert sizes == sorted(set(sizes))
        assert sizes[-1] == 1 << 20

    @pytest.mark.parametrize("group", [0x7777, "nonsense", "lan.device_info"])
    def test_unknown_groups_list_the_known(self, iop, disk, group):
        with pytest.raises(ParameterError, match=r"known: .*0x0000 device_info"):
            iop.params_get(disk, group)

    def test_unknown_fields_list_the_known(self, iop, disk):
        with pytest.raises(ParameterError, match="it has device_type"):
            iop.params_get(disk, 0, "colour")
        with pytest.raises(ParameterError):
            iop.params_get(disk, 0, 99)

    def test_read_only_fields_say_so(self, iop, disk):
        with pytest.raises(ParameterError) as caught:
            iop.params_set(disk, 0x0000, {"block_size": 4096})
        assert caught.value.block_status == ParamBlockStatus.FIELD_UNWRITEABLE

    @pytest.mark.parametrize("value", [-1, 256, "text", b"x", None])
    def test_values_that_do_not_fit(self, iop, disk, value):
        with pytest.raises(ParameterError, match="retry_attempts"):
            iop.params_set(disk, 0x0001, {"retry_attempts": value})

    def test_text_that_does_not_fit(self, iop, disk):
        for value in (b"x" * 65, 5):
            with pytest.raises(ParameterError, match="device_name"):
                iop.params_set(disk, "user_information", {"device_name": value})

    def test_unknown_devices_list_the_known(self, iop):
        with pytest.raises(InvalidArgument, match="0x7ff"):
            iop.params_get(0x7FF, 0)

    def test_a_group_the_device_does_not_have(self, iop, disk):
        with pytest.raises(ParameterError) as caught:
            iop.params_get(disk, iop.group(0, "hardware_resource_table"))
        assert caught.value.block_status == ParamBlockStatus.INVALID_GROUP_ID


class TestLyingResults:
    OK = ReplyFrame(b"\x01\xc0\x05\x00" + bytes(16))

    @pytest.mark.parametrize(
        "results",
        [bytes(8), struct.pack("<HHHBB", 1, 0, 0, 0, 0), struct.pack("<HHHBB", 1, 0, 99, 0, 0)],
        ids=["empty list", "block of no words", "block beyond the buffer"],
    )
    def test_are_refused(self, results):
        with pytest.raises(RemoteFrameError, match="group x"):
            _result_block(self.OK, results, "group x")

    def test_unknown_block_status_has_a_number(self):
        with pytest.raises(ParameterError, match="block status 0x77"):
            _result_block(self.OK, struct.pack("<HHHBB", 1, 0, 1, 0x77, 0), "group x")

    def test_req_status_counts_when_there_is_no_block(self):
        reply = ReplyFrame(b"\x01\xc0\x05\x00" + bytes(12) + b"\x18\x00\x00\x05")
        with pytest.raises(RequestFailed, match="UNKNOWN_ERROR"):
            _result_block(reply, bytes(8), "group x")

    def test_short_answers(self, monkeypatch):
        from i2o import parameters

        with i2o.open("emu:") as iop:
            tid = iop.of_class(0x10)[0].tid
            real = parameters._exchange
            monkeypatch.setattr(parameters, "_exchange", lambda *a: real(*a)[:6])
            with pytest.raises(RemoteFrameError, match="expected 4"):
                iop.params_get(tid, 0, "block_size")
            with pytest.raises(RemoteFrameError, match="no row count"):
                iop.params_get(0, "lct_table")
            monkeypatch.setattr(
                parameters, "_exchange", lambda *a: real(*a)[:4] + struct.pack("<HH", 9999, 0)
            )
            with pytest.raises(RemoteFrameError, match="9999 rows"):
                iop.params_get(0, "lct_table")


class TestReplies:
    def test_describe(self):
        def reply(*tail: int, flags: int = 0xC0) -> ReplyFrame:
            return ReplyFrame(bytes((1, flags, 5, 0)) + bytes(12) + bytes(tail))

        assert describe(reply(0, 0, 0, 0)) == "SUCCESS"
        assert describe(reply(0x0B, 0, 0, 5), 0x10) == "ERROR_NO_DATA_TRANSFER, WRITE_PROTECTED"
        assert describe(reply(0x0B, 0, 0, 5)) == "ERROR_NO_DATA_TRANSFER, DEVICE_LOCKED"
        assert describe(reply(0x99, 0, 0, 0x77)) == "ReqStatus 0x77, DetailedStatus 0x99"
        assert "at byte 20, bit 3" in describe(reply(0x11, 0, 0, 0x0B, 20, 0, 0, 0, 3, 0, 0, 0))
        assert describe(reply(1, 1, 1, 0x8D, flags=0xE0)) == (
            "FAIL frame: INVALID_TARGET_ID (FORMAT_ERROR)"
        )
        assert "severity 0x40" in describe(reply(1, 1, 0x40, 0x8D, flags=0xE0))
        assert "UNKNOWN_FAILURE" in describe(reply(flags=0xE0))

    def test_replies_too_short_for_a_status_are_errors(self):
        short = ReplyFrame(b"\x01\xc0\x04\x00" + bytes(12))
        assert status_of(short).req_status
        with pytest.raises(RequestFailed):
            raise_for_status(short, "x")
        with pytest.raises(RequestFailed) as caught:
            raise_for_status(ReplyFrame(b"\x01\xe0\x04\x00" + bytes(12)), "x")
        assert caught.value.req_status is None


class TestPassthru:
    def test_a_message_without_data(self, iop, disk):
        reply = i2o.passthru(
            iop.number, BSA_STATUS_CHECK.build(target_address=disk), layer=iop.layer
        )
        assert status_of(ReplyFrame(reply)).req_status == 0
        cut = i2o.passthru(
            iop.number, BSA_STATUS_CHECK.build(target_address=disk), (), 6, layer=iop.layer
        )
        assert len(cut) == 6

    def test_data_both_ways(self, iop, disk):
        sent = bytes(range(256)) * 4
        head = {"target_address": disk, "transfer_byte_count": 1024, "logical_byte_address": 512}
        i2o.passthru(
            iop.number,
            BSA_BLOCK_READ.build(**{**head, "function": 0x31}),
            [PassthruData(sent, I2O_PT_DATA_WRITE)],
            layer=iop.layer,
        )
        halves = bytearray(512), bytearray(512)
        i2o.passthru(
            iop.number,
            BSA_BLOCK_READ.build(**head),
            [PassthruData(half, I2O_PT_DATA_READ) for half in halves],
            layer=iop.layer,
        )
        assert b"".join(halves) == sent
        assert iop.memory.buffer_count == 1

    @pytest.mark.parametrize(
        ("message", "data"),
        [
            (b"", []),
            (bytes(14), []),
            (bytes(18), []),
            (bytes(64), [PassthruData(b"x", I2O_PT_DATA_WRITE)]),
            (bytes(32), [PassthruData(b"x", I2O_PT_DATA_READ)]),
            (bytes(32), [PassthruData(b"x", 3)]),
            (bytes(32), [PassthruData(b"x", 0)]),
        ],
    )
    def test_nonsense(self, iop, message, data):
        with pytest.raises(InvalidArgument):
            i2o.passthru(iop.number, message, data, layer=iop.layer)
        assert iop.memory.buffer_count == 1

    def test_the_default_layer(self):
        layer = i2o.default_message_layer()
        number = layer.attach("emu:")
        try:
            assert i2o.passthru(number, BSA_STATUS_CHECK.build(target_address=0x10))
            with pytest.raises(InvalidArgument):
                i2o.passthru(number + 1, BSA_STATUS_CHECK.build())
        finally:
            layer.close()


class TestSeveral:
    def test_three_iops_with_two_disks_each_know_of_one_another(self, tmp_path):
        with MessageLayer() as layer:
            opened = []
            for index in range(3):
                disks = []
                for name in "ab":
                    path = tmp_path / f"{index}{name}.img"
                    path.write_bytes(f"{index}{name}".encode() * (1 << 17))
                    disks.append(f"disk={path}")
                opened.append(i2o.open("emu:?" + "&".join(disks), layer=layer))
            assert layer.iop_count() == 3
            for index, iop in enumerate(opened):
                tids = [entry.tid for entry in iop.of_class(0x10)]
                assert len(tids) == 2
                for name, tid in zip("ab", tids, strict=True):
                    with iop.block(tid) as disk:
                        assert disk.read(0, 4) == f"{index}{name}".encode() * 2
            rows = opened[2].params_get(0, "system_table")
            assert len(rows) == 3
            assert len({row["iop_id"] for row in rows}) == 3
            opened[1].close()
            assert layer.iop_count() == 2
            opened[2].block().read(0, 10)

    def test_block_without_a_disk(self, monkeypatch):
        with i2o.open("emu:") as iop:
            monkeypatch.setattr(type(iop), "of_class", lambda self, _: ())
            with pytest.raises(InvalidArgument, match="no block device"):
                iop.block()
            with pytest.raises(InvalidArgument, match="not a random_block_storage"):
                iop.block(0)


@pytest.mark.parametrize(
    "uri", ["emu", "nope:", "emu:?colour=red", "emu:?frames=x", "emu:?run=moon"]
)
def test_uris_that_open_nothing(uri):
    with pytest.raises(UriError):
        i2o.open(uri)


def test_find_field():
    index, field = find_field(EXEC_IOP_HARDWARE, "product_id")
    assert (index, field.byte) == (1, 2)


def test_lazy_names():
    assert i2o.MessageLayer is MessageLayer
    assert "open" in dir(i2o)
    with pytest.raises(AttributeError):
        _ = i2o.nonsense
