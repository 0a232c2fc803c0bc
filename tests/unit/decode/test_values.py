# SPDX-License-Identifier: Apache-2.0
"""What values of fields say."""

from __future__ import annotations

import pytest

from i2o.decode import values
from i2o.decode.text import ascii_text, human_size, printable
from i2o.frames import executive, lan, params, scsi, tables
from i2o.frames.layout import Field
from i2o.frames.scsi import ScbFlags, ScsiDetailedStatus
from i2o.frames.tables import IopCapabilities, IopState


def field(path: str, kind: str = "uint", enum=None, width: int = 32) -> Field:
    return Field(path, path, 0, 0, width, kind, path, enum)


@pytest.mark.parametrize(
    ("names", "value", "text"),
    [
        (IopState, 8, "OPERATIONAL"),
        (IopState, 0x77, ""),
        (ScbFlags, 0x4180, "ORDERED_QUEUE_TAG|XFER_FROM_DEVICE"),
        (ScbFlags, 0x0060, "SENSE_DATA_IN_BUFFER"),
        (ScbFlags, 0x0020, "SENSE_DATA_IN_MESSAGE"),
        (IopCapabilities, 0x13, "CONTEXT_32_64_CURRENTLY|INBOUND_PEER_SUPPORT"),
        (lan.LanPacketFlags, 0xC0, "LAST_BUCKET"),
        (lan.LanPacketFlags, 0x40, "LAST_PACKET"),
        (ScbFlags, 0x2001, "ENABLE_DISCONNECT|0x1"),
        (ScbFlags, 0x0001, ""),
        (ScsiDetailedStatus, 0, "SUCCESS"),
        (ScsiDetailedStatus, 0x0A00, "SELECTION_TIMEOUT"),
        (ScsiDetailedStatus, 0x0008, "BUSY"),
    ],
)
def test_names(names, value, text):
    assert values.names_text(names, value) == text


def test_every_name_of_every_enum_is_found():
    for layout in (*tables.STRUCTURES, *params.GROUPS, *scsi.MESSAGES, *executive.MESSAGES):
        for known in layout.fields:
            for name, member in (known.enum.__members__ if known.enum else {}).items():
                if member.value and member.name == name:
                    assert values.enum_text(known, member.value) == name


def test_numbers_as_text():
    assert values.number_text("status_word_low_address", 32, 0x1000) == "0x00001000"
    assert values.number_text("transfer_count", 32, 4096) == "4096"
    assert values.number_text("function", 8, 0x30) == "48"
    assert values.number_text("size", 32, 1 << 20) == "0x100000"


def test_meanings():
    def said(path: str, value, **more):
        meaning = values.meaning_of(field(path, **more))
        return meaning(value) if meaning else None

    assert said("user_tid", 0xFFF) == "NO_USER"
    assert said("user_tid", 0x10) == ""
    assert said("table_size", 30) == "120 bytes"
    assert said("private_mem_size", 1 << 20) == "1 MiB"
    assert said("private_mem_size", 100) == ""
    assert said("class_id", 0x001B1010) == "RANDOM_BLOCK_STORAGE"
    assert said("class_id", 0x00000FED) == "class 0xfed"
    assert said("anything", 5) is None
    assert said("product", b"A disk  ", kind="bytes") == "A disk"
    assert said("product", b"\1\2", kind="bytes") == ""
    assert said("cdb", b"abc", kind="bytes") is None
    assert values.meaning_of(field("function"), 0x20)(0x35) == "lan_reset"
    assert values.flags_text(0) == "request"
    assert values.flags_text(0x04) == "0x4"
    assert values.version_text(0x00) == "I2O 1.0, no SGL"


def test_plain_text():
    assert ascii_text(b" ab\xffc\x1b  \0\0") == "ab?c?"
    assert printable("a\x1bb") == "a?b"
    assert human_size(1) == "1 byte"
    assert human_size(1 << 70) == "1024 EiB"


def test_values_for_tables_and_json():
    state = next(known for known in tables.STATUS_BLOCK.fields if known.path == "iop_state")
    assert values.value_text(state, 8) == "OPERATIONAL (0x08)"
    assert values.value_text(state, 8, brief=True) == "OPERATIONAL"
    assert values.value_text(state, 0x77) == "0x77"
    assert values.value_text(field("block_size"), 4096) == "4096 (4 KiB)"
    assert values.value_text(field("user_tid"), 16) == "0x010"
    assert values.value_text(field("thing"), 70000) == "70000 (0x11170)"
    assert values.value_text(field("thing"), 70000, brief=True) == "0x11170"
    assert values.value_text(field("thing"), 5) == "5"
    assert values.value_text(field("name", "bytes"), bytes(4)) == "-"
    assert values.json_value(field("name", "bytes"), b"abc\0") == "abc"
    assert values.json_value(field("hardware_address", "bytes"), b"abc\0") == "0x616263"
    assert values.json_value(field("thing"), 5) == 5
