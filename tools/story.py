# SPDX-License-Identifier: Apache-2.0
"""How the demo tells what it does: numbered sections in words, or JSON lines with the figures."""

from __future__ import annotations

from i2o.tools import output


class Story:
    """Prints sections, lines and checks, or records, never both.

    Args:
        as_json: print records.

    Attributes:
        checks: checks made.
        failed: those that failed.
    """

    def __init__(self, *, as_json: bool) -> None:
        self._as_json = as_json
        self._section = 0
        self.checks = self.failed = 0

    def headline(self, text: str, *codes: str) -> None:
        """Print a line that stands out."""
        if not self._as_json:
            output.show("", output.styled(text, output.BOLD, *codes))

    def section(self, title: str) -> None:
        """Start a numbered section."""
        self._section += 1
        if not self._as_json:
            heading = f"{self._section}. {title}"
            output.show("", output.styled(heading, output.BOLD, output.CYAN))

    def say(self, *lines: str) -> None:
        """Print lines of text, indented."""
        if not self._as_json:
            output.show(*(f"   {line}" if line else "" for line in lines))

    def record(self, step: str, **figures: object) -> None:
        """Print a JSON record."""
        if self._as_json:
            output.emit({"step": step, **figures})

    def check(self, what: str, good: bool, **figures: object) -> bool:
        """Say whether a comparison came out right, and return it."""
        self.checks += 1
        self.failed += not good
        word = "ok" if good else "DIFFERENT"
        self.say(f"{output.styled(word, output.GREEN if good else output.RED)}: {what}")
        self.record("check", what=what, ok=good, **figures)
        return good
