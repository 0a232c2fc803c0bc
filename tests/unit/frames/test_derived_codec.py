# SPDX-License-Identifier: Apache-2.0
"""The derived codec agrees with interpreted construct, and refuses what does not fit."""

from __future__ import annotations

import random
import re
from typing import Any

import pytest
from construct import Bytes, Int8ul, Int16ul, Int32sl, Int32ul, Padding
from unit.frames.frames_facts import ALL_LAYOUTS

from i2o.errors import LocalFrameError, RemoteFrameError
from i2o.frames.block_storage import BSA_BLOCK_READ, BSA_POWER_MANAGEMENT
from i2o.frames.header import MSG_HEADER, DetailedStatus
from i2o.frames.layout import Field, Layout, group, spec_spelling, structure, word
from i2o.frames.tables import CLASS_ID, LCT_ENTRY

FRAMES = 1000

every_layout = pytest.mark.parametrize("layout", ALL_LAYOUTS, ids=lambda one: one.qualified_name)


def values_of(layout: Layout, record: Any) -> dict[str, int | bytes]:
    return {field.path: getattr(record, field.attribute) for field in layout.fields}


def extreme_frames(layout: Layout) -> list[bytes]:
    """All bits clear, all bits set, and each bit set alone where the frame is short."""
    bits = 8 * layout.size
    frames = [bytes(layout.size), b"\xff" * layout.size]
    if bits <= 8 * 88:
        frames += [(1 << bit).to_bytes(layout.size, "little") for bit in range(bits)]
    return frames


@every_layout
def test_codec_equals_construct_on_random_frames(layout: Layout) -> None:
    dice = random.Random(layout.qualified_name)
    frames = extreme_frames(layout)[:FRAMES]
    frames += [dice.randbytes(layout.size) for _ in range(FRAMES - len(frames))]
    buffer = bytearray(layout.size + 8)
    for frame in frames:
        record = layout.unpack_from(frame)
        values = values_of(layout, record)
        assert values == layout.parse_with_construct(frame)
        built = layout.build_with_construct(values)
        assert record.pack() == built
        record.pack_into(buffer, 4)
        assert buffer[4:-4] == built
        assert layout.build(**{f.attribute: values[f.path] for f in layout.fields}) == built


@every_layout
def test_view_reads_and_writes_in_place(layout: Layout) -> None:
    dice = random.Random(layout.name)
    for _ in range(20):
        frame = dice.randbytes(layout.size)
        old, new = bytearray(b"head" + frame + b"tail"), dice.randbytes(layout.size)
        view, wanted = layout.view(old, 4), layout.unpack_from(new)
        assert values_of(layout, view) == values_of(layout, layout.unpack_from(frame))
        for field in layout.fields:
            setattr(view, field.attribute, getattr(wanted, field.attribute))
        assert values_of(layout, view) == values_of(layout, wanted)
        assert (old[:4], old[-4:]) == (b"head", b"tail")


def wrong_values(field: Field) -> list[Any]:
    if field.kind == "bytes":
        size = field.width_bits // 8
        return [bytes(size - 1), bytes(size + 1), "x" * size, [0] * size, 0, None]
    top = 1 << field.width_bits - (field.kind == "sint")
    return [top, -top - 1, *([-1] if field.kind == "uint" else []), 1.0, "1", b"1", None]


@every_layout
def test_values_that_do_not_fit_are_refused_everywhere(layout: Layout) -> None:
    for field in layout.fields:
        name = field.attribute
        for wrong in wrong_values(field):
            record = layout.new(**{name: wrong})
            buffer = bytearray(layout.size)
            view = layout.view(buffer)
            for refuse in (
                record.pack,
                lambda record=record: record.pack_into(bytearray(layout.size)),
                lambda name=name, wrong=wrong: layout.build(**{name: wrong}),
                lambda view=view, name=name, wrong=wrong: setattr(view, name, wrong),
            ):
                with pytest.raises(LocalFrameError, match=rf"\.{name}: ") as caught:
                    refuse()
                assert repr(wrong) in str(caught.value)
            assert buffer == bytes(layout.size)


@every_layout
def test_values_that_just_fit_are_taken(layout: Layout) -> None:
    for field in layout.fields:
        if field.kind == "bytes":
            values: list[Any] = [b"\xa5" * (field.width_bits // 8)]
        elif field.kind == "sint":
            values = [-(1 << field.width_bits - 1), (1 << field.width_bits - 1) - 1]
        else:
            values = [0, (1 << field.width_bits) - 1]
        for value in values:
            record = layout.unpack_from(layout.build(**{field.attribute: value}))
            assert getattr(record, field.attribute) == value


@every_layout
def test_a_short_buffer_is_the_other_sides_fault(layout: Layout) -> None:
    short = bytes(layout.size - 1)
    with pytest.raises(RemoteFrameError, match=f"needs {layout.size} bytes"):
        layout.unpack_from(short)
    with pytest.raises(RemoteFrameError, match=f"needs {layout.size} bytes"):
        layout.view(short)
    with pytest.raises(LocalFrameError, match="read-only or too short"):
        layout.new().pack_into(bytearray(layout.size - 1))


def test_offsets_count_against_the_buffer() -> None:
    with pytest.raises(RemoteFrameError, match="has 15 from offset 1"):
        MSG_HEADER.unpack_from(bytes(16), 1)
    with pytest.raises(RemoteFrameError, match="has 15 from offset 1"):
        MSG_HEADER.view(bytes(16), 1)
    with pytest.raises(RemoteFrameError, match="from offset -1"):
        MSG_HEADER.view(bytes(32), -1)


def test_a_read_only_buffer_cannot_be_written() -> None:
    with pytest.raises(LocalFrameError, match="read-only"):
        MSG_HEADER.new().pack_into(bytes(16))
    view = MSG_HEADER.view(bytes(16))
    with pytest.raises(LocalFrameError, match="read-only"):
        view.msg_flags = 1
    with pytest.raises(LocalFrameError, match="read-only"):
        view.target_address = 1


def test_unknown_fields_are_refused() -> None:
    for make in (MSG_HEADER.new, MSG_HEADER.build):
        with pytest.raises(TypeError, match="no_such_field"):
            make(no_such_field=1)
    with pytest.raises(AttributeError):
        MSG_HEADER.new().no_such_field = 1
    with pytest.raises(AttributeError):
        MSG_HEADER.view(bytes(16)).no_such_field = 1


def test_padding_is_written_as_zeros_and_read_as_nothing() -> None:
    frame = bytearray(BSA_POWER_MANAGEMENT.build(operation=0x22))
    assert frame[20:] == b"\x22\0\0\0"
    frame[21:] = b"\xff\xff\xff"
    assert BSA_POWER_MANAGEMENT.unpack_from(frame).pack()[20:] == b"\x22\0\0\0"
    buffer = bytearray(b"\xff" * 24)
    BSA_POWER_MANAGEMENT.unpack_from(frame).pack_into(buffer)
    assert buffer[20:] == b"\x22\0\0\0"


def test_padding_may_stand_between_fields() -> None:
    layout = structure("gap", "a" / Int8ul, Padding(3), "b" / Int32ul, chapter="test")
    assert layout.build(a=1, b=2) == bytes.fromhex("01000000 02000000")
    assert layout.unpack_from(bytes.fromhex("01ffffff 02000000")) == layout.new(a=1, b=2)
    assert layout.view(bytes.fromhex("01ffffff 02000000")).b == 2
    assert layout.build_with_construct({"a": 1, "b": 2}) == layout.build(a=1, b=2)


def test_a_refusal_says_what_would_fit() -> None:
    layout = structure(
        "limits",
        "level" / Int32sl,
        word("w", ("low", 12), ("high", 4)),
        "raw" / Bytes(3),
        chapter="test",
    )
    for values, message in (
        ({"level": 1 << 31}, "2147483648 is not an integer from -2147483648 to 0x7fffffff"),
        ({"low": 0x1000}, "Limits.low: 4096 is not an integer from 0 to 0xfff"),
        ({"raw": b"abcd"}, "Limits.raw: expected 3 bytes, got b'abcd'"),
    ):
        with pytest.raises(LocalFrameError, match=re.escape(message)):
            layout.build(**values)


def test_records_compare_by_value_and_show_what_is_set() -> None:
    one, other = MSG_HEADER.new(function=0x30), MSG_HEADER.new(function=0x30)
    assert one == other
    other.target_address = 5
    assert one != other
    assert one != BSA_BLOCK_READ.new()
    assert one != 3
    assert repr(other) == "MsgHeader(target_address=0x5, function=0x30)"
    assert "cdb" not in repr(one)
    assert repr(LCT_ENTRY.new(identity_tag=b"12345678")).endswith("identity_tag=b'12345678')")
    with pytest.raises(TypeError, match="unhashable"):
        hash(one)


def test_layout_shows_its_name_and_size() -> None:
    assert repr(BSA_BLOCK_READ) == "<MessageLayout bsa.bsa_block_read.request, 32 bytes>"
    assert repr(LCT_ENTRY) == "<Layout tables.lct_entry, 36 bytes>"


def test_python_keywords_get_an_underscore() -> None:
    assert CLASS_ID.new(class_=0x10).pack() == b"\x10\0\0\0"
    assert next(field.attribute for field in CLASS_ID.fields) == "class_"
    assert LCT_ENTRY.new(class_id_class=0x10).class_id_class == 0x10


def test_names_that_are_no_identifiers_get_one_in_front() -> None:
    layout = structure("odd", "2nd" / Int8ul, chapter="test")
    assert layout.build(_2nd=7) == b"\x07"


def test_spec_spelling() -> None:
    assert spec_spelling("hrt_entry.adapter_id") == "HRTEntry.AdapterID"
    assert spec_spelling("iop_id") == "IOP_ID"
    layout = structure(
        "spelled", "mask" / Int8ul, chapter="test", spec={"mask": "EVTMask"}, enums={}
    )
    assert layout.fields[0].spec_name == "EVTMask"
    assert layout.fields[0].enum is None
    fields = {field.path: field for field in BSA_BLOCK_READ.fields}
    assert fields["transfer_byte_count"].spec_name == "TransferByteCount"


def test_enums_default_to_the_common_status() -> None:
    from i2o.frames.executive import EXEC_IOP_CONNECT_REPLY

    fields = {field.path: field for field in EXEC_IOP_CONNECT_REPLY.fields}
    assert fields["detailed_status_code"].enum is DetailedStatus


def test_signed_fields() -> None:
    layout = group("signed", 1, "level" / Int32sl, "flags" / Int16ul, chapter="test", table=True)
    assert layout.build(level=-2, flags=1) == b"\xfe\xff\xff\xff\x01\x00"
    assert layout.unpack_from(layout.build(level=-2)).level == -2
    assert layout.is_table
    assert [field.kind for field in layout.fields] == ["sint", "uint"]


def test_words_have_the_width_of_a_storage_unit() -> None:
    with pytest.raises(LocalFrameError, match="12 bits are no storage unit"):
        word("w", ("a", 12))


@pytest.mark.parametrize("bits", [8, 16, 32, 64])
def test_words_of_every_width(bits: int) -> None:
    layout = structure("w", word("w", ("low", 3), ("high", bits - 3)), chapter="test")
    high = (1 << bits - 3) - 1
    assert layout.build(low=5) == (5).to_bytes(bits // 8, "little")
    assert layout.build(high=high) == (high << 3).to_bytes(bits // 8, "little")
    assert layout.parse_with_construct(layout.build(low=5, high=high)) == {"low": 5, "high": high}


def test_a_field_of_a_whole_word_is_checked_too() -> None:
    layout = structure("w", word("w", ("all", 32)), "rest" / Int32ul, chapter="test")
    assert layout.build(all=1 << 31) == b"\0\0\0\x80\0\0\0\0"
    with pytest.raises(LocalFrameError, match="all"):
        layout.build(all=1 << 32)
