# SPDX-License-Identifier: Apache-2.0
"""Every layout has exactly the fields of the wire facts, where the facts have them."""

from __future__ import annotations

from typing import Any

import pytest
from unit.frames.frames_facts import FACTS, group_facts, message_facts, structure_facts

from i2o.frames import catalog
from i2o.frames.functions import Function
from i2o.frames.layout import Layout, MessageLayout, ParameterGroup

MESSAGES = message_facts()
STRUCTURES = structure_facts()
GROUPS = group_facts()
EVERY = {**MESSAGES, **STRUCTURES, **GROUPS}

KINDS = {
    "u8": "uint",
    "u16": "uint",
    "u32": "uint",
    "u64": "uint",
    "s8": "sint",
    "s32": "sint",
    "bytes": "bytes",
}
# facts give these no kind, and say elsewhere (notes, other layouts) that they are bytes
BYTES_WITHOUT_A_KIND = {"bus_info", "hrt_entry.bus_info", "lct_entry", "packet_info_0"} | {
    "static_message_frame"
}


def expected_fields(fact: dict[str, Any]) -> list[tuple[str, int, int, int, str]]:
    """Return (path, byte, bit, width, kind) of each field; a list behind the message is none."""
    if "packed_size" in fact:
        return [
            (f["name"], f["packed_offset"], 0, 8 * f["bytes"], KINDS[f["type"]])
            for f in fact["fields"]
        ]
    return [
        (
            f["name"],
            f["byte"],
            f["bit"],
            f["width_bits"],
            f.get("kind") or ("bytes" if f["name"] in BYTES_WITHOUT_A_KIND else "uint"),
        )
        for f in fact["fields"]
        if f["width_bits"] is not None
    ]


@pytest.mark.parametrize("name", EVERY)
def test_layout_is_what_the_facts_say(name: str) -> None:
    fact, found = EVERY[name], catalog.layout(name)
    table = [(f.path, f.byte, f.bit, f.width_bits, f.kind) for f in found.fields]
    assert table == expected_fields(fact)
    size_key = next(k for k in ("fixed_bytes", "size_bytes", "packed_size") if k in fact)
    assert found.size == fact[size_key] == found.construct.sizeof()
    assert found.qualified_name == name
    if name in MESSAGES:
        assert isinstance(found, MessageLayout)
        assert found.size == 4 * fact["fixed_words"]
        assert (found.function, found.direction) == (fact["function"], fact["direction"])
        assert found.sgl_word_offset == fact["sgl_word_offset"]
        starts = [f["byte"] for f in fact["fields"] if f["name"] == "sgl"]
        assert starts == ([4 * found.sgl_word_offset] if found.sgl_word_offset else [])
    if name in GROUPS:
        assert isinstance(found, ParameterGroup)
        assert found.number == int(fact["group"], 16)
        assert found.is_table == (fact["kind"] == "table")
        assert [f["idx"] for f in fact["fields"]] == list(range(len(found.fields)))


def test_nothing_is_missing_and_nothing_is_extra() -> None:
    found = {
        *(layout.qualified_name for layout in catalog.messages()),
        *(layout.qualified_name for layout in catalog.structures()),
        *(layout.qualified_name for layout in catalog.parameter_groups()),
    }
    own = {name for name in found if name.startswith("private.network_message_")}
    assert found - own == {*EVERY, "common.msg_header"}
    assert (len(MESSAGES), len(STRUCTURES), len(GROUPS)) == (97, 53, 74)


def test_media_format_is_a_function_without_a_layout() -> None:
    without = [fact["name"] for fact in FACTS["messages"] if fact["fields"] is None]
    assert without == ["bsa_media_format"]
    assert Function.BSA_MEDIA_FORMAT == 0x45
    assert catalog.request_layouts(0x45) == ()


@pytest.mark.parametrize("layout", catalog.messages(), ids=lambda layout: layout.qualified_name)
def test_a_new_message_says_what_it_is(layout: MessageLayout) -> None:
    record = layout.new()
    assert record.message_size * 4 == layout.size
    assert record.version_offset == layout.sgl_word_offset << 4 | 1
    assert record.function == (layout.function or 0)
    assert record.initiator_address == 1
    assert bool(record.msg_flags & 0x80) == (layout.direction == "reply")
    assert layout.build() == record.pack()


@pytest.mark.parametrize("layout", [catalog.layout(n) for n in EVERY], ids=EVERY)
def test_metadata_names_fields_that_exist(layout: Layout) -> None:
    paths = {field.path for field in layout.fields}
    attributes = {field.attribute for field in layout.fields}
    assert layout._enums.keys() <= paths
    assert layout._spec.keys() <= paths
    assert layout._defaults.keys() <= attributes
    assert len(attributes) == len(layout.fields)
    for field in layout.fields:
        if field.enum is not None:
            assert field.kind == "uint"
            values = [int(member) for member in field.enum]
            assert all(0 <= v < 1 << field.width_bits for v in values if v != 0xFFFFFFFF)
