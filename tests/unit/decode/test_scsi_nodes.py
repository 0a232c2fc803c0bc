# SPDX-License-Identifier: Apache-2.0
"""SCSI commands, sense data and what commands return, as nodes."""

from __future__ import annotations

import struct

import pytest

from fakes.decoded import Talk, answer, decoded, find, meaning, problems, sized, with_buffers
from i2o.decode import scsi
from i2o.decode.dma_summary import dma_summary
from i2o.decode.scsi import additional_sense_text, cdb_size, cdb_text, command_name
from i2o.decode.scsi_nodes import command_node, data_in_node, data_out_node, sense_node
from i2o.frames import private
from i2o.frames import scsi as layouts
from i2o.frames.sgl import simple_sgl

FIXED = bytes.fromhex("f00005000012340a000000002000000000c0")
DESCRIPTOR = bytes.fromhex("720b44000000000c 0a80000000000000 00001234".replace(" ", ""))


def scb(cdb: bytes, *, length: int | None = None, flags: int = 0x4000) -> bytes:
    return private.DPT_PRIVATE_SCSI_SCB_EXEC.build(
        target_address=0x10,
        cdb_length=len(cdb) if length is None else length,
        cdb=cdb[:16].ljust(16, b"\0"),
        scb_flags=flags,
    )


def command(cdb: str) -> dict:
    raw = bytes.fromhex(cdb)
    node = command_node(raw, 0, len(raw))
    assert not list(node.problems())
    return node.json()


def data_in(cdb: str, data: bytes) -> dict:
    node = data_in_node(bytes.fromhex(cdb), data)
    assert node is not None
    assert not list(node.problems())
    return node.json()


# --- commands ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cdb", "name", "fields"),
    [
        ("081fffff0800", "read_6", {"lba": 0x1FFFFF, "transfer_length": 8}),
        ("2a180102030405000900", "write_10", {"dpo": 1, "fua": 1, "lba": 0x01020304,
                                              "transfer_length": 9, "group_number": 5}),
        ("a80000000010000000200000", "read_12", {"lba": 16, "transfer_length": 32}),
        ("8a0000000002000000010000000800 00", "write_16", {"lba": 1 << 33 | 1,
                                                          "transfer_length": 8}),
        ("120183002400", "inquiry", {"evpd": 1, "page_code": 0x83, "allocation_length": 36}),
        ("1a08c801ff00", "mode_sense_6", {"dbd": 1, "page_control": 3, "page_code": 8,
                                          "subpage_code": 1, "allocation_length": 255}),
        ("9e10000000000000000000000020 0000", "read_capacity_16",
         {"service_action": 16, "lba": 0, "allocation_length": 32}),
        ("1b0100003300", "start_stop_unit", {"immed": 1, "power_condition": 3, "load_eject": 1,
                                             "start": 1}),
        ("5e020000000000010000", "persistent_reserve_in_report_capabilities",
         {"allocation_length": 256}),
        ("a00000000000000000100000", "report_luns", {"allocation_length": 16}),
    ],
)  # fmt: skip
def test_commands_have_their_fields(cdb, name, fields):
    found = command(cdb)
    assert found["name"] == name
    assert {key: found[key] for key in fields} == fields
    assert found["control"] == 0


def test_where_the_fields_of_a_command_are():
    traced = Talk().request(sized(scb(bytes.fromhex("1a08c801ff80"))))
    assert find(traced, "command", "opcode").offset == 28
    page = find(traced, "command", "page_code")
    assert (page.offset, page.bit, page.width_bits, page.meaning) == (30, 0, 6, "caching")
    control = find(traced, "command", "page_control")
    assert (control.offset, control.bit, control.width_bits) == (30, 6, 2)
    assert find(traced, "command", "control").value == 0x80
    assert find(traced, "command").meaning == "mode_sense_6 caching"


@pytest.mark.parametrize(
    ("cdb", "text"),
    [
        ("28000000080000000800", "read_10 lba 2048, 8 blocks"),
        ("080000100000", "read_6 lba 16, 256 blocks"),
        ("89" + "00" * 15, "compare_and_write lba 0, 0 blocks"),
        ("1201830020 00", "inquiry device_identification"),
        ("1201c0002000", "inquiry page 0xc0"),
        ("120000002400", "inquiry"),
        ("9e10" + "00" * 14, "read_capacity_16 lba 0"),
        ("28000000", "read_10"),
        ("c1", "vendor_specific_0xc1"),
        ("7700", "unknown_0x77"),
        ("", ""),
    ],
)
def test_commands_on_one_line(cdb, text):
    raw = bytes.fromhex(cdb)
    assert cdb_text(raw) == text
    if raw:
        assert command_node(raw, 0, len(raw)).meaning == text


def test_a_transfer_length_of_nothing_is_256_blocks():
    node = command_node(bytes.fromhex("080000100000"), 0, 6)
    (length,) = (leaf for leaf in node.children if leaf.name == "transfer_length")
    assert (length.value, length.meaning) == (0, "256 blocks")


def test_a_cdb_that_is_too_short():
    node = command_node(bytes.fromhex("28000000"), 0, 4)
    assert list(node.problems()) == ["read_10 takes 10 bytes, the CDB has 4, lba is cut"]
    node = command_node(bytes.fromhex("0000"), 0, 2)
    assert list(node.problems()) == ["test_unit_ready takes 6 bytes, the CDB has 2"]
    assert list(command_node(b"", 0, 6).problems()) == ["the CDB is cut off"]
    node = command_node(bytes.fromhex("7f00000000000000"), 0, 8)
    assert list(node.problems()) == [
        "variable_length_cdb takes 8 bytes, the CDB has 8, service_action is cut"
    ]


@pytest.mark.parametrize("length", [0, 17, 255])
def test_a_cdb_length_that_cannot_be(length):
    traced = Talk().request(sized(scb(bytes(6), length=length)))
    assert problems(traced) == [f"cdb_length is {length}, a CDB has 1 to 16 bytes"]
    assert decoded(traced)["command"]["name"] == "test_unit_ready"


def test_tables_are_sound():
    for opcode, known in scsi.COMMANDS.items():
        size = cdb_size(opcode) or 16
        for field in known.fields:
            assert field.byte + field.size <= size, known.name
            assert field.bit + field.width_bits <= 8 * field.size
        names = [field.name for field in known.fields]
        assert len(set(names)) == len(names)
        assert not {"opcode", "name", "control"} & set(names)
    assert len(scsi.SENSE_KEYS) == 16
    assert command_name(0x9E, 0x10) == "read_capacity_16"
    assert command_name(0x9E, 0x1F) == "service_action_in_16"


# --- sense data --------------------------------------------------------------------------------


def test_fixed_sense_data():
    node = sense_node(FIXED, 0, len(FIXED))
    found = node.json()
    assert node.meaning == "illegal_request: invalid command operation code"
    assert (found["response_code"], found["valid"], found["sense_key"]) == (0x70, 1, 5)
    assert (found["asc"], found["ascq"], found["information"]) == (0x20, 0, 0x1234)
    assert found["sense_key_specific"] == 0xC0
    assert "data" not in found


def test_descriptor_sense_data():
    node = sense_node(DESCRIPTOR, 0, len(DESCRIPTOR))
    assert node.meaning == "aborted_command: internal target failure"
    assert node.json()["descriptors"] == [
        {"type": 0x0A, "length": 0x80, "data": "000000000000" + "00001234"}
    ]
    cut = sense_node(DESCRIPTOR, 0, 5)
    assert list(cut.problems()) == ["the sense data end after 5 of 8 bytes"]


def test_sense_data_that_are_short_or_strange():
    assert list(sense_node(b"", 0, 0).problems()) == ["the sense data are cut off"]
    assert sense_node(FIXED, 0, 5).json()["sense_key"] == 5
    assert list(sense_node(FIXED, 0, 5).problems()) == ["the sense data end after 5 bytes"]
    assert sense_node(FIXED, 0, 2).meaning == ""
    assert sense_node(FIXED, 0, 12).meaning == "illegal_request"
    assert sense_node(bytes(18), 0, 18).meaning == "no sense data"
    strange = sense_node(b"\x11" + bytes(4) + b"\1", 0, 6)
    assert list(strange.problems()) == ["response code 0x11 is none of 0x70 to 0x73"]
    longer = FIXED[:7] + b"\x10" + FIXED[8:] + b"\1\2\3\4\5\6\7\xff"
    assert sense_node(longer, 0, len(longer)).json()["data"] == "010203040506"


@pytest.mark.parametrize(
    ("code", "qualifier", "text"),
    [
        (0x3A, 0x02, "medium not present, tray open"),
        (0x40, 0x85, "diagnostic failure on component 0x85"),
        (0x4D, 0x03, "tagged overlapped commands, tag 0x03"),
        (0x80, 0x01, "vendor specific 0x80/0x01"),
        (0x24, 0x05, "invalid field in CDB (qualifier 0x05)"),
        (0x7F, 0x01, "unknown 0x7f/0x01"),
    ],
)
def test_additional_sense(code, qualifier, text):
    assert additional_sense_text(code, qualifier) == text


# --- what commands return ----------------------------------------------------------------------


def test_inquiry_data():
    data = bytes.fromhex("05800502 1f000002") + b"VENDOR  A product       1.0 "
    found = data_in("120000002400", data)
    assert (found["device_type"], found["removable"], found["version"]) == (5, 1, 5)
    assert (found["vendor"], found["product"], found["revision"]) == ("VENDOR", "A product", "1.0")
    assert found["command_queueing"] == 1
    node = data_in_node(b"\x12\0\0\0\x24\0", data)
    assert node.meaning == "cd_dvd VENDOR A product 1.0"
    assert data_in("120000002400", data[:3])["note"] == "the data end after 3 of 5 bytes"
    assert data_in("120000002400", data[:12])["vendor"] == "VEND"


def test_vital_product_data():
    assert data_in("120100000800", b"\0\0\0\3\0\x80\x83")["pages"] == [0, 0x80, 0x83]
    assert data_in("120180000800", b"\0\x80\0\x04 AB1")["serial_number"] == "AB1"
    designator = bytes.fromhex("02010008") + b"VENDOR 1" + bytes.fromhex("01030008") + bytes(8)
    page = struct.pack(">BBH", 0, 0x83, len(designator)) + designator
    assert [item["designator"] for item in data_in("12018300ff00", page)["designators"]] == [
        "VENDOR 1",
        "00" * 8,
    ]
    limits = struct.pack(">BBHBBHII", 0, 0xB0, 12, 0, 1, 8, 0x1000, 64)
    found = data_in("1201b0002000", limits)
    assert (found["maximum_transfer_length"], found["optimal_transfer_length"]) == (0x1000, 64)
    rate = data_in("1201b1002000", struct.pack(">BBHHH", 0, 0xB1, 4, 7200, 0))
    assert rate["medium_rotation_rate"] == 7200
    assert data_in("1201c0002000", b"\0\xc0\0\x02\1\2")["data"] == "0102"
    cut = data_in("120180000800", b"\0\x80\0\x10ABCD")
    assert cut["note"] == "the page ends after 8 of 20 bytes"
    assert data_in("120180000800", b"\0\x80")["note"] == "the data end after 2 of 4 bytes"


def test_capacity():
    small = data_in_node(b"\x25" + bytes(9), struct.pack(">II", 2047, 512))
    assert small.json() == {"last_lba": 2047, "block_length": 512}
    assert small.meaning == "2048 blocks of 512 bytes, 1 MiB"
    large = data_in_node(b"\x9e\x10" + bytes(14), struct.pack(">QI", 1 << 40, 4096) + bytes(20))
    assert large.json() == {"last_lba": 1 << 40, "block_length": 4096}
    assert data_in_node(b"\x9e\x12" + bytes(14), bytes(32)) is None
    assert data_in("25" + "00" * 9, b"\0\0\1")["note"] == "the data end after 3 of 8 bytes"


def test_mode_pages():
    page = b"\x88\x12\x04" + bytes(17)
    block = bytes.fromhex("00 001000 00 000200")
    six = bytes([3 + 8 + len(page), 0, 0x90, 8]) + block + page
    found = data_in("1a000800ff00", six + b"\xff" * 8)
    assert (found["write_protect"], found["dpo_fua"]) == (1, 1)
    assert found["block_descriptor"] == {
        "density_code": 0,
        "number_of_blocks": 4096,
        "block_length": 512,
    }
    assert found["pages"] == [{"page_code": 8, "page_length": 18, "data": page[2:].hex()}]
    ten = struct.pack(">HBBHH", 6 + len(page), 0, 0, 0, 0) + page
    assert data_in("5a" + "00" * 9, ten)["pages"][0]["page_code"] == 8
    subpage = bytes([0x4A, 1, 0, 3]) + b"abc" + bytes([0x08, 2]) + b"de"
    found = data_in("1a000aff2000", bytes([3 + len(subpage), 0, 0, 0]) + subpage)
    assert found["pages"] == [
        {"page_code": 0x0A, "subpage_code": 1, "page_length": 3, "data": b"abc".hex()},
        {"page_code": 0x08, "page_length": 2, "data": b"de".hex()},
    ]
    cut = data_in("1a000aff2000", bytes([8, 0, 0, 0]) + bytes([0x08, 0, 0x4A, 1, 0]))
    assert cut["pages"] == [{"page_code": 0x08, "page_length": 0, "data": ""}]
    assert data_in("1a000800ff00", b"\3\0\0")["note"] == "the data end after 3 of 4 bytes"
    cut = data_in("5a" + "00" * 9, ten[:14])
    assert cut["pages"][0]["note"] == "the page ends after 4 bytes"
    out = data_out_node(b"\x15" + bytes(5), b"\0\0\0\0" + page)
    assert out.json()["pages"][0]["page_code"] == 8
    assert data_out_node(b"\x55" + bytes(9), bytes(8) + page).name == "mode_select"
    assert data_out_node(b"\x2a" + bytes(9), bytes(8)) is None
    assert data_out_node(b"", b"") is None


def test_luns_and_sense_on_request():
    luns = struct.pack(">II", 16, 0) + bytes(8) + b"\0\1" + bytes(6)
    found = data_in("a0" + "00" * 11, luns)
    assert found["luns"] == ["00" * 8, "0001" + "00" * 6]
    assert data_in("a0" + "00" * 11, luns[:16])["note"] == "1 of 2 LUNs are here"
    assert data_in("a0" + "00" * 11, b"\0")["note"] == "the data end after 1 of 8 bytes"
    assert data_in("030000001200", FIXED)["sense_key"] == 5
    assert data_in_node(b"\x28" + bytes(9), bytes(512)) is None
    assert data_in_node(b"", b"") is None


# --- in a conversation -------------------------------------------------------------------------


def test_a_check_condition_from_end_to_end():
    talk = Talk()
    request = with_buffers(scb(bytes.fromhex("120000002400")), 36)
    talk.request(request)
    dma = talk.from_device(bytes(8) + b"VENDOR  A product       1.0 ")
    assert dma_summary(dma) == "INQUIRY data: direct_access VENDOR A product 1.0"
    error = layouts.SCSI_ERROR_REPLY.build(
        req_status=4,
        detailed_status_code=0x0402,
        auto_sense_transfer_count=18,
        sense_data=FIXED.ljust(40, b"\0"),
    )
    reply = talk.reply(answer(request, error))
    assert meaning(reply, "detailed_status_code") == "COMPLETE_WITH_ERROR|CHECK_CONDITION"
    assert meaning(reply, "hba_status") == "COMPLETE_WITH_ERROR"
    assert meaning(reply, "scsi_status") == "CHECK_CONDITION"
    assert meaning(reply, "sense") == "illegal_request: invalid command operation code"
    assert find(reply, "sense", "sense_key").offset == 30
    assert not problems(reply)


def test_replies_shorter_than_their_layout():
    request = sized(scb(bytes(6)))
    reply = layouts.SCSI_ERROR_REPLY.build(
        req_status=4, detailed_status_code=0x0002, auto_sense_transfer_count=18
    )[:28]
    for body, expected in (
        (FIXED, "illegal_request: invalid command operation code"),
        (bytes(20), "no sense data"),
    ):
        talk = Talk()
        talk.request(request)
        traced = talk.reply(sized(answer(request, reply + body + bytes(-len(body) % 4))))
        assert decoded(traced)["auto_sense_transfer_count"] == 18
        assert meaning(traced, "sense") == expected
    talk = Talk()
    talk.request(request)
    success = layouts.SCSI_SUCCESS_REPLY.build() + b"\x05\0\0\0"
    found = decoded(talk.reply(sized(answer(request, success))))
    assert found["auto_sense_transfer_count"] == 5
    assert "sense" not in found
    assert "rest" not in found


def test_sense_data_without_a_count():
    request = sized(scb(bytes(6)))
    reply = layouts.SCSI_ERROR_REPLY.build(req_status=4)
    for body, has_sense in ((FIXED, True), (b"", False)):
        talk = Talk()
        talk.request(request)
        traced = talk.reply(sized(answer(request, reply[:28] + body.ljust(40, b"\0"))))
        assert ("sense" in decoded(traced)) is has_sense


def test_sense_data_in_a_buffer_of_their_own():
    talk = Talk()
    sgl = simple_sgl([(0x1000, 512)], out=False, last=False) + simple_sgl([(0x2000, 32)], out=False)
    talk.request(sized(scb(bytes.fromhex("28" + "00" * 9), flags=0x4060) + sgl))
    data = talk.from_device(b"some text, nothing else", 0x1000)
    assert meaning(data, "data") == "23 bytes at offset 0 of 512, text"
    sense = talk.from_device(FIXED, 0x2000)
    assert meaning(sense, "sense") == "illegal_request: invalid command operation code"
    assert dma_summary(sense).startswith("sense: illegal_request")


def test_data_to_a_device():
    talk = Talk()
    cdb = bytes.fromhex("150000001800")
    sgl = simple_sgl([(0x1000, 24)], out=True)
    talk.request(sized(scb(cdb, flags=0x8000) + sgl))
    traced = talk.to_device(bytes(4) + b"\x08\x12" + bytes(18), 0x1000)
    assert decoded(traced)["mode_select"]["pages"][0]["page_code"] == 8


def test_statuses_without_a_name():
    talk = Talk()
    request = sized(scb(bytes(6)))
    talk.request(request)
    error = layouts.SCSI_SUCCESS_REPLY.build(detailed_status_code=0x7F77)
    reply = talk.reply(answer(request, error))
    assert meaning(reply, "detailed_status_code") == "0x7f00|0x0077"
    assert meaning(reply, "hba_status") == ""
