# SPDX-License-Identifier: Apache-2.0
"""`status`, `lct`, `hrt` and `params`."""

from __future__ import annotations

from dataclasses import replace

import pytest

import i2o
from i2o.decode.values import value_text
from i2o.errors import ParameterError
from i2o.frames import catalog
from i2o.frames.block_storage_groups import BSA_CACHE_CONTROL, BSA_DEVICE_INFO
from i2o.frames.lan_groups import LAN_MAC_ADDRESS
from i2o.frames.layout import Field
from i2o.resources import IopStatus, LctEntry
from i2o.tools import field_text, hrt, lct, params, status

from .conftest import one_line


def test_status_says_what_matters(cli):
    ran = cli("status", "-i", "emu:?frames=16&frame_size=256")
    assert ran.code == 0
    assert "OPERATIONAL" in ran.out
    assert "16 of 256 bytes" in ran.out
    assert "complaints        none" in ran.out
    assert "requests" in ran.out


def test_status_of_two_iops(cli):
    ran = cli("status", "-i", "emu:", "-i", "emu:?frames=8", "--json")
    first, second = ran.records
    assert (first["max_inbound_frames"], second["max_inbound_frames"]) == (128, 8)
    assert first["complaints"] == []
    assert first["counters"]["requests"] > 0


def test_an_iop_that_is_not_operational_is_a_negative_answer(cli, monkeypatch):
    monkeypatch.setattr(
        i2o.Iop,
        "status",
        property(lambda self: _status(state=0x11, i2o_version=7, messenger_type=9)),
    )
    ran = cli("status")
    assert ran.code == 1
    assert "FAULTED" in ran.out
    assert "code 7" in ran.out
    assert "type 0x09" in ran.out


def _status(**changes):
    values = dict.fromkeys(IopStatus.__slots__, 0)
    values.update(product_id="x\x1b", capabilities=0x73, **changes)
    return IopStatus(**values)


def test_capabilities_by_name():
    assert status.capabilities_text(0x73).endswith("peer_to_peer_support")
    assert status.capabilities_text(0) == "32-bit contexts"


def test_complaints_are_shown(cli, monkeypatch):
    monkeypatch.setattr(status, "complaints_of", lambda iop: ["a driver \x1b fault"])
    ran = cli("status")
    assert "complaints        1\n    a driver ? fault" in ran.out


def test_an_iop_without_complaints_shows_none(cli, monkeypatch):
    monkeypatch.setattr(status, "complaints_of", lambda iop: None)
    assert "complaints" not in cli("status").out


def test_lct_lists_devices(cli, uri):
    ran = cli("lct", "-i", uri)
    assert "random_block_storage" in ran.out
    (disk,) = (r for r in cli("lct", "-i", uri, "--json").records if r["tid"] == 16)
    assert disk["class_name"] == "random_block_storage"
    assert disk["free"] is True


def test_lct_texts():
    assert lct.tag_text(b"abc\0\0\0\0\0") == "abc"
    assert lct.tag_text(b"\1\2abcdef") == "0102616263646566"
    assert lct.flags_text(0x12) == "more_than_1_user,peer_service_disabled"
    assert lct.flags_text(0) == "-"
    entry = LctEntry(0x10, 1, 0, 0x10, 1, 0, 0, 0xFFF, 8, 0, b"tag", 0)
    free, taken = entry, replace(entry, user_tid=0x001)
    _, first, second = lct.rows(i2o.resources.Lct(1, 0, 0, (free, taken)))
    assert first.split()[3:5] == ["free", "0x008"]
    assert second.split()[3:5] == ["0x001", "0x008"]
    table = i2o.resources.Lct(3, 0x10, 0, ())
    assert lct.summary_of(table) == "0 devices, change indicator 3, boot device 0x010"


def test_hrt_lists_adapters(cli):
    assert "local" in cli("hrt").out
    assert cli("hrt", "--json").records[0]["bus_name"] == "local"
    assert hrt.state_text(0) == "-"


def test_params_lists_tids_once(cli):
    ran = cli("params")
    assert ran.out.splitlines()[1:] == [
        "0x000  executive",
        "0x008  ddm",
        "0x010  random_block_storage",
    ]


@pytest.mark.parametrize("tid", ["0", "0x008", "16", "0x10"])
def test_params_shows_every_group_a_device_reports(cli, tid):
    with i2o.open("emu:") as iop:
        reported = set(iop.params_groups(int(tid, 0)))
    groups = {record["group"] for record in cli("params", tid, "--json").records}
    assert groups == reported
    assert cli("params", tid).code == 0


def test_enums_by_name_and_text_as_text(cli):
    ran = cli("params", "16", "device_identity")
    assert "sn_format          ASCII (0x02)" in ran.out
    assert "vendor_info        i2o\n" in ran.out
    (record,) = cli("params", "16", "0xF100", "--json").records
    assert record["meanings"] == {"sn_format": "ASCII"}
    assert record["values"]["vendor_info"] == "i2o"


def test_one_field(cli, uri):
    assert cli("params", "16", "0", "device_capacity", "-i", uri).out == "1048576 (1 MiB)\n"
    assert cli("params", "16", "device_info", "3", "-i", uri).out == "512\n"
    assert cli("params", "16", "0xf000", "group_number").out.startswith("0x0000\n")
    (record,) = cli("params", "16", "0", "block_size", "--json").records
    assert record["value"] == 512


def test_setting_a_field_shows_the_group_with_it(cli):
    ran = cli("params", "16", "user_information", "--set", "device_name=my disk")
    assert ran.code == 0
    assert "device_name        my disk" in ran.out
    ran = cli("params", "16", "user_information", "--set", "0=0x6869")
    assert "device_name        hi" in ran.out


def test_setting_an_enum_by_name(cli):
    groups = cli(
        "params", "16", "cache_control", "--set", "write_policy=WRITE_THRU_CACHE", "--json"
    )
    assert groups.code == 0
    assert groups.records[0]["values"]["write_policy"] == 2


def test_a_group_without_layout_is_named(cli, monkeypatch):
    monkeypatch.setattr(i2o.Iop, "params_groups", lambda self, tid: [0x7777, 0xF777])
    ran = cli("params", "16")
    assert ran.out.splitlines() == [
        "0x7777 (a private group without a known layout)",
        "0xf777 (a generic group without a known layout)",
    ]
    assert cli("params", "16", "--json").records[0] == {"tid": 16, "group": 0x7777, "name": None}


def test_a_group_that_cannot_be_read_is_noted_and_the_rest_shown(cli, monkeypatch):
    read = params.read_rows

    def fail(iop, tid, layout):
        if layout is BSA_DEVICE_INFO:
            raise ParameterError("not today")
        return read(iop, tid, layout)

    monkeypatch.setattr(params, "read_rows", fail)
    ran = cli("params", "16")
    assert ran.code == 1
    assert one_line(ran) == "i2o: not today"
    assert "cache_control" in ran.out


def test_a_wide_table_is_shown_row_by_row():
    layout = catalog.group_layout(0xF200, 0x10)
    row = {field.path: 0 for field in layout.fields}
    lines = params.group_lines(layout, [row, row])
    assert len(lines) == 2 * len(layout.fields)
    assert lines[0].split() == ["row", "0", "sensor_instance", "0"]
    assert params.group_lines(layout, []) == ["  (no rows)"]


def test_long_flags_go_on_in_the_next_line():
    row = {field.path: 0 for field in BSA_DEVICE_INFO.fields} | {"device_state": 0x7FF}
    lines = params.group_lines(BSA_DEVICE_INFO, [row])
    assert max(map(len, lines)) <= 80
    assert sum("|" in line for line in lines) >= 2


def _field(path, width=32, kind="uint", enum=None):
    return Field(path, path, 0, 0, width, kind, path, enum)


def test_values_as_text():
    state = next(f for f in BSA_DEVICE_INFO.fields if f.path == "device_state")
    policy = next(f for f in BSA_CACHE_CONTROL.fields if f.path == "write_policy")
    text = value_text
    assert text(state, 3) == "CACHING|POWERED_ON (0x00000003)"
    assert text(state, 0x8000_0001) == "CACHING|0x80000000 (0x80000001)"
    assert text(state, 0) == "0x00000000"
    assert text(state, 3, brief=True) == "CACHING|POWERED_ON"
    assert text(policy, 0) == "NONE (0x00)"
    assert text(policy, 0x77) == "0x77"
    assert text(_field("owner_tid", 16), 16) == "0x010"
    assert text(_field("block_size"), 4096) == "4096 (4 KiB)"
    assert text(_field("block_size"), 4096, brief=True) == "4096"
    assert text(_field("thing"), 70000) == "70000 (0x11170)"
    assert text(_field("thing"), 70000, brief=True) == "0x11170"
    assert text(_field("thing"), -3) == "-3"
    assert text(_field("class_id"), 0x10) == "0x00000010"
    name = _field("name", 64, "bytes")
    assert text(name, b"abc\0\0\0\0\0") == "abc"
    assert text(name, b"\0" * 8) == "-"
    assert text(name, b"\x1b[31m\0\0\0") == "0x1b5b33316d"
    assert text(LAN_MAC_ADDRESS.fields[0], b"ABCDEF\0\0") == "0x414243444546"


def test_values_from_text():
    state = next(f for f in BSA_DEVICE_INFO.fields if f.path == "device_state")
    parse = field_text.parse_value
    assert parse(BSA_DEVICE_INFO, state, "caching | READY") == 5
    assert parse(BSA_DEVICE_INFO, state, "0x10|CACHING") == 0x11
    assert parse(BSA_DEVICE_INFO, _field("number"), "-1") == -1
    assert parse(BSA_DEVICE_INFO, _field("name", 64, "bytes"), "text") == b"text"
    assert parse(BSA_DEVICE_INFO, _field("name", 64, "bytes"), "0x0001ff") == b"\x00\x01\xff"


class TestFaults:
    @pytest.fixture
    def plan(self, tmp_path):
        path = tmp_path / "a plan & more.toml"
        path.write_text('[[fault]]\non = "bsa_block_read"\naction = "status"\nreq_status = 5\n')
        return path

    def test_a_plan_reaches_the_software_iop(self, cli, plan, tmp_path):
        assert cli("read", "0x10", "--count", 512, "--sha256").code == 0
        ran = cli("read", "0x10", "--count", 512, "--sha256", "--faults", plan)
        assert ran.code == 1
        assert "bsa_block_read" in ran.err
        assert cli("status", "-i", "emu:?frames=8", "--faults", plan).code == 0
        assert cli("lct", "--faults", plan).code == 0
        assert cli("params", "0x10", "device_info", "--faults", plan).code == 0

    def test_the_demo_misbehaves_too(self, cli, plan):
        assert cli("demo", "--size", "4M", "--faults", plan).code == 1

    def test_only_software_iops_have_faults(self, cli, plan):
        ran = cli("lct", "-i", "pci:0000:01:00.0", "--faults", plan)
        assert ran.code == 2
        assert "software" in ran.err

    def test_a_plan_that_is_missing(self, cli, tmp_path):
        ran = cli("lct", "--faults", tmp_path / "none.toml")
        assert ran.code in (2, 3)
        assert len(ran.err.splitlines()) == 1
