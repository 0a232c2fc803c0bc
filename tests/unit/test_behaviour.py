# SPDX-License-Identifier: Apache-2.0
"""docs/behaviour.md: each behaviour of the documents has a row, and each row a test that exists."""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass
from functools import cache
from itertools import groupby
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "behaviour.md"
_ROW = re.compile(r"^\| ([A-Z])(\d+) \| (.+?) \| (.+?) \|$")
_TEST = re.compile(r"`((?:tests|i2o)/[\w/]+\.py)::((?:\w+::)*\w+)`")
_FEWEST_WORDS = 3
"""Words that a behaviour needs at least: a name alone says nothing."""


@dataclass(frozen=True)
class Row:
    document: str
    number: int
    behaviour: str
    shown: str

    @property
    def name(self) -> str:
        return f"{self.document}{self.number}"

    @property
    def tests(self) -> list[tuple[str, str]]:
        return _TEST.findall(self.shown)


def rows_of(page: str) -> list[Row]:
    found = []
    for line in page.splitlines():
        match = _ROW.match(line)
        if match:
            document, number, behaviour, shown = match.groups()
            found.append(Row(document, int(number), behaviour, shown))
    return found


def rows() -> list[Row]:
    return rows_of(PAGE.read_text())


@cache
def _names(path: Path) -> frozenset[str]:
    """Return the tests of a module: functions, and methods with the name of their class."""
    found = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            found.add(node.name)
        elif isinstance(node, ast.ClassDef):
            methods = (n.name for n in node.body if isinstance(n, ast.FunctionDef))
            found.update(f"{node.name}::{name}" for name in methods)
    return frozenset(found)


def what_is_wrong(row: Row) -> list[str]:
    """Say why a row shows nothing."""
    wrong = []
    if len(row.behaviour.split()) < _FEWEST_WORDS:
        wrong.append("says nothing")
    if not row.tests and not row.shown.startswith("differs, because "):
        wrong.append("names no test, and does not say why")
    for path, name in row.tests:
        if not name.rpartition("::")[2].startswith("test_"):
            wrong.append(f"{name} is no test")
        elif not (ROOT / path).is_file() or name not in _names(ROOT / path):
            wrong.append(f"{path}::{name} does not exist")
    if row.shown.count("::") != sum(1 + name.count("::") for _, name in row.tests):
        wrong.append("names a test in a way that is not understood")
    return wrong


@pytest.mark.parametrize("row", [pytest.param(row, id=row.name) for row in rows()])
def test_every_row_names_tests_that_exist(row: Row) -> None:
    assert what_is_wrong(row) == []


def test_rows_are_numbered_in_order() -> None:
    page = rows()
    for _, group in groupby(page, key=lambda row: row.document):
        numbers = [row.number for row in group]
        assert numbers == list(range(1, len(numbers) + 1))
    lines = [line for line in PAGE.read_text().splitlines() if line.startswith("|")]
    others = [line for line in lines if not _ROW.match(line)]
    assert all(line.startswith(("| no. |", "|---|")) for line in others), others


def test_every_document_has_its_rows() -> None:
    assert {row.document for row in rows()} == set(DOCUMENTS)


DOCUMENTS = "SFGOL"
"""First letters of rows: OSMMsgSend, fi_msg, pages that it points to, OOB over TCP, LAM."""


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("| S1 | It says something. | `tests/unit/test_behaviour.py::test_nowhere` |", "not exist"),
        ("| S1 | It says something. | `tests/unit/nothing.py::test_it` |", "not exist"),
        ("| S1 | It says something. | `tests/unit/test_behaviour.py::rows` |", "is no test"),
        ("| S1 | It says something. | soon |", "names no test"),
        ("| S1 | It says something. | tests/unit/test_behaviour.py::test_it |", "names no test"),
        ("| S1 | Short. | differs, because |", "says nothing"),
    ],
)
def test_a_row_that_shows_nothing_is_found(line: str, complaint: str) -> None:
    (row,) = rows_of(line)
    assert any(complaint in one for one in what_is_wrong(row))
