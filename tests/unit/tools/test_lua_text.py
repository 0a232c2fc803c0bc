# SPDX-License-Identifier: Apache-2.0
"""Python values as Lua source."""

from __future__ import annotations

import pytest

from i2o.tools.lua_text import lua, lua_table


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "nil"),
        (True, "true"),
        (False, "false"),
        (-3, "-3"),
        (65535, "65535"),
        (0x12345678, "0x12345678"),
        ('a "b" \\ \n', '"a \\"b\\" \\\\ \\n"'),
        ([1, "x"], '{1, "x"}'),
        ({"name": 1, "end": 2, "a.b": 3}, '{name=1, ["end"]=2, ["a.b"]=3}'),
        ({7: True, -1: None}, "{[7]=true, [-1]=nil}"),
    ],
)
def test_values(value, text):
    assert lua(value) == text


def test_only_ascii():
    with pytest.raises(ValueError, match="not printable ASCII"):
        lua("é")


def test_tables_fold_long_entries():
    short = lua_table("T", {"a": 1, "b": ["x"]})
    assert short == 'T = {\n  a = 1,\n  b = {"x"},\n}\n'
    long = lua_table("T", {"a": ["x" * 60, "y" * 60], "b": "z" * 120})
    assert long.splitlines()[1:5] == ["  a = {", f'    "{"x" * 60}",', f'    "{"y" * 60}",', "  },"]
    assert f'  b = "{"z" * 120}",' in long
