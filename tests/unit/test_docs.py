# SPDX-License-Identifier: Apache-2.0
"""The README and the documentation say what is so: their examples run, their links lead somewhere.

The `python` blocks of a page are one program, run from top to bottom in an empty folder. A `text`
block right behind one is what it prints. Every `$ i2o …` line of a `console` block must succeed.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

import i2o

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted(
    path for path in (*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")) if path.name != "LICENSE.md"
)
_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\[[^\]]+\]\(([^)\s]+)\)")
_MARK = "\x1e"
"""Printed after each block, so that outputs can be told apart."""


@dataclass(frozen=True)
class Block:
    language: str
    text: str
    line: int
    follows: bool
    """Nothing but blank lines stands between it and the block before."""


def blocks(path: Path) -> list[Block]:
    page, found, end = path.read_text(), [], 0
    for match in _FENCE.finditer(page):
        follows = bool(found) and not page[end : match.start()].strip()
        line = page.count("\n", 0, match.start()) + 2
        found.append(Block(match[1], match[2], line, follows))
        end = match.end()
    return found


def with_language(language: str) -> list[pytest.ParameterSet]:
    return [
        pytest.param(path, id=str(path.relative_to(ROOT)))
        for path in PAGES
        if any(block.language == language for block in blocks(path))
    ]


def run(command: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    where = str(Path(i2o.__file__).resolve().parents[1])
    return subprocess.run(
        command,
        cwd=folder,
        env={**os.environ, "COLUMNS": "100", "PYTHONPATH": where},
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.mark.parametrize("path", with_language("python"))
def test_python_examples(path: Path, tmp_path: Path) -> None:
    page = blocks(path)
    program, expected = "", []
    for block, after in zip(page, [*page[1:], None], strict=True):
        if block.language == "python":
            # blank lines keep the page's line numbers in tracebacks
            program += "\n" * (block.line - 1 - program.count("\n")) + block.text
            program += f"print({_MARK!r}, end='')\n"
            is_output = after is not None and after.language == "text" and after.follows
            expected.append(after.text if is_output and after is not None else None)
    source = tmp_path / "example.py"
    source.write_text(program)
    work = tmp_path / "work"
    work.mkdir()
    done = run([sys.executable, "-W", "error", str(source)], work)
    assert done.returncode == 0, done.stderr
    printed = done.stdout.split(_MARK)[:-1]
    assert len(printed) == len(expected)
    for text, wanted in zip(printed, expected, strict=True):
        assert wanted is None or text == wanted


@pytest.mark.parametrize("path", with_language("console"))
def test_commands(path: Path, tmp_path: Path) -> None:
    for block in blocks(path):
        if block.language != "console":
            continue
        for line in block.text.splitlines():
            if line.startswith("$ i2o "):
                arguments = shlex.split(line.removeprefix("$ i2o "), comments=True)
                command = "import sys; from i2o.tools.cli import main; sys.exit(main())"
                done = run([sys.executable, "-c", command, *arguments], tmp_path)
                assert done.returncode == 0, f"{line}: {done.stderr}"


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(path: Path) -> None:
    for target in _LINK.findall(path.read_text()):
        file, _, anchor = target.partition("#")
        if "://" in target:
            continue
        linked = path.parent / file if file else path
        assert linked.exists(), f"{path.name} links to {target}"
        if anchor and linked.suffix == ".md":
            titles = re.findall(r"^#+ (.+)$", linked.read_text(), re.MULTILINE)
            assert anchor in {_anchor(title) for title in titles}, f"{path.name}: {target}"


def _anchor(title: str) -> str:
    kept = re.sub(r"[^\w\- ]", "", title.lower())
    return kept.replace(" ", "-")


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_pages_stand_alone(path: Path) -> None:
    text = path.read_text()
    assert "../shared" not in text


def test_readme_names_the_two_commands() -> None:
    readme = (ROOT / "README.md").read_text()
    assert "\nsh tools/setup.sh demo\n" in readme
    assert "\nsh tools/setup.sh test\n" in readme


def test_changelog_knows_the_version() -> None:
    changelog = (ROOT / "CHANGELOG.md").read_text()
    assert f"## [{i2o.__version__}]" in changelog or "## [Unreleased]" in changelog
