# SPDX-License-Identifier: Apache-2.0
"""The tables of the dissector say what the catalog says. What it does with them: test_wireshark."""

from __future__ import annotations

from typing import Any

import pytest

from i2o.decode.extra_names import extra_names
from i2o.decode.names import FieldName, field_names
from i2o.frames import catalog
from i2o.frames.functions import DeviceClass, Function
from i2o.frames.header import ReqStatus
from i2o.tools import dissector_names
from i2o.tools.dissector import PARTS, dissector
from i2o.tools.dissector_tables import tables

REPLY, MULTIPLE = 0xC0, 0x10
NO_CLASS = 0x123


@pytest.fixture(scope="module")
def known() -> dict[str, Any]:
    return tables()


def kind_of(known: dict[str, Any], device_class: int | None) -> dict[str, Any]:
    number = 1 if device_class is None else known["KIND_OF_CLASS"].get(device_class, 2)
    kind: dict[str, Any] = known["KINDS"][number]
    return kind


CLASSES = [None, NO_CLASS, *(member.value for member in DeviceClass)]


@pytest.mark.parametrize("device_class", CLASSES)
def test_functions_of_every_class(known, device_class):
    kind = kind_of(known, device_class)
    for code in range(256):
        found = kind["functions"].get(code) or kind["other"]
        request = catalog.request_layout(code, device_class)
        assert found["request"] == (request.qualified_name if request else None)
        name = found["name"] or f"unknown_{code:#04x}"
        assert name == catalog.function_name(code, device_class)
        assert found["status"].endswith(catalog.detailed_status(code, device_class).__name__)


@pytest.mark.parametrize("device_class", CLASSES)
def test_replies_of_every_class(known, device_class):
    kind = kind_of(known, device_class)
    for code in {*Function, 0x5C}:
        found = kind["functions"].get(code) or kind["other"]
        for index, flags in enumerate((REPLY, REPLY | MULTIPLE)):
            way = known["REPLIES"][found["replies"]][index]
            for status in (*ReqStatus, 0x44):
                chain = way["by_status"].get(status, way["other"])
                for words in (4, 5, 6, 7, 8, 17, 30):
                    expected = catalog.reply_layout(code, device_class, flags, status, words)
                    fitting = (name for name in chain if catalog.layout(name).size <= 4 * words)
                    assert next(fitting, chain[-1]) == expected.qualified_name


@pytest.mark.parametrize("device_class", CLASSES)
def test_groups_of_every_class(known, device_class):
    groups = kind_of(known, device_class)["groups"]
    for number in {group.number for group in catalog.parameter_groups()}:
        group = catalog.group_layout(number, device_class)
        assert groups.get(number) == ([group.qualified_name, group.is_table] if group else None)


def test_every_layout_is_there_with_every_field(known):
    every = (*catalog.messages(), *catalog.structures(), *catalog.parameter_groups())
    assert len(known["LAYOUTS"]) == len(every)
    for layout in every:
        name, size, *rows = known["LAYOUTS"][layout.qualified_name]
        assert (name, size) == (layout.name, layout.size)
        assert [tuple(row[1:4]) for row in rows] == [
            (field.byte, field.bit, field.width_bits) for field in layout.fields
        ]
        for row in rows:
            assert row[0] in known["NAMES"]
            assert known["NAMES"][row[0]][1] >= row[3] or row[4] == "b"


def test_all_our_names_are_wiresharks(known):
    there = {*known["NAMES"], *known["ALIASES"]}
    assert {*field_names(), *extra_names()} - there == {"key", "keys"}


def test_a_name_of_two_kinds_is_refused(monkeypatch):
    names = {"opcode": FieldName("opcode", "bytes", 8, (), "")}
    monkeypatch.setattr(dissector_names, "field_names", lambda: names)
    with pytest.raises(ValueError, match="opcode is bytes in a layout, uint elsewhere"):
        dissector_names.extra_names()


def test_the_script_is_one_file_of_ascii_with_all_parts():
    script = dissector()
    assert script.isascii()
    assert script.count("\ndo\n") == len(PARTS)
    assert script.rstrip().endswith("end")
    for text in (
        "LAYOUTS = {",
        '["bsa.bsa_block_read.request"]',
        "function S.elements",
        "links:add",
    ):
        assert text in script


def test_the_dump_command_prints_it(capsys):
    from i2o.tools.cli import main

    assert main(["dump", "--dissector"]) == 0
    assert capsys.readouterr().out.rstrip() == dissector().rstrip()
