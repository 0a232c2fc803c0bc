# SPDX-License-Identifier: Apache-2.0
"""Draws what `i2o dump` prints on a terminal: python docs/_ext/dump_screenshots.py (needs rich).

Every picture is a real run over the recorded trace in tests/data, in colour, as SVG.
"""

from __future__ import annotations

import io
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

from rich.console import Console
from rich.terminal_theme import TerminalTheme
from rich.text import Text

ROOT = Path(__file__).resolve().parents[2]
IMAGES = ROOT / "docs" / "images"
TRACE = "tests/data/linux-5.10-dpt_i2o.jsonl"
PICTURES = {
    "dump": (100, "index < 29 or (index >= 79 and index < 91)"),
    "dump-details": (100, "-vv", "index in {79, 80}"),
    "dump-stats": (130, "--stats"),
}
"""The columns of the terminal, and the arguments of each run."""
CHARACTER_WIDTH = 12.2  # in rich's pictures
_SPACE = "&#160;"
_SPACED_TEXT = re.compile(
    rf'(<text [^>]*x=")([\d.]+)("[^>]*textLength=")([\d.]+)("[^>]*>)((?:{_SPACE})+)([^<]*)</text>'
)
THEME = TerminalTheme(
    (24, 26, 31),
    (214, 217, 224),
    [(24, 26, 31), (240, 113, 120), (145, 200, 110), (230, 192, 104),
     (110, 170, 240), (198, 140, 230), (95, 200, 210), (214, 217, 224)],
)  # fmt: skip


def draw(name: str, columns: int, *arguments: str) -> None:
    """Run the command and save its picture."""
    command = [sys.executable, "-m", "i2o", "dump", "-r", TRACE, "--color", "always", *arguments]
    done = subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, "COLUMNS": str(columns), "PYTHONIOENCODING": "utf-8"},
        capture_output=True,
        check=True,
        text=True,
    )
    shown = shlex.join(["i2o", "dump", "-r", Path(TRACE).name, *arguments])
    save(name, columns, shown, done.stdout)


def save(name: str, columns: int, title: str, text: str) -> None:
    """Save text with ANSI colours as a picture of a terminal."""
    lines = text.rstrip("\n").split("\n")
    widest = max(len(Text.from_ansi(line).plain) for line in lines)
    console = Console(
        record=True, width=max(widest, columns), file=io.StringIO(), force_terminal=True
    )
    for line in lines:
        console.print(Text.from_ansi(line), soft_wrap=True, highlight=False)
    picture = console.export_svg(title=title, theme=THEME, unique_id=name)
    (IMAGES / f"{name}.svg").write_text(_SPACED_TEXT.sub(_without_leading_spaces, picture))


def _without_leading_spaces(text: re.Match[str]) -> str:
    """Move a text to where its first letter is: some viewers drop spaces at a text's start."""
    start, x, between, length, rest, spaces, letters = text.groups()
    moved = CHARACTER_WIDTH * (len(spaces) // len(_SPACE))
    return (
        f"{start}{float(x) + moved:g}{between}{float(length) - moved:g}{rest}{letters}</text>"
        if letters
        else ""
    )


def main() -> None:
    """Draw all pictures."""
    IMAGES.mkdir(exist_ok=True)
    for name, (columns, *arguments) in PICTURES.items():
        draw(name, columns, *arguments)


if __name__ == "__main__":
    main()
