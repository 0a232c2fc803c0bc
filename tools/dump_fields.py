# SPDX-License-Identifier: Apache-2.0
"""Chosen fields of each frame, separated by tabs, for other programs to read."""

from __future__ import annotations

from collections.abc import Sequence

from i2o.decode.conversation import Traced
from i2o.decode.filter_fields import (
    Clock,
    FieldValue,
    Subject,
    close_names,
    find_subject,
    has_header,
)
from i2o.tools.arguments import UsageError
from i2o.tools.output import printable


class FieldsPrinter:
    """Makes lines of values; a field that stands several times in a frame gives `a,b`.

    Numbers are decimal, bytes hexadecimal, times in seconds. A frame without a field leaves its
    column empty.

    Args:
        names: the columns, as filters call them.

    Raises:
        UsageError: nothing has one of these names; suggests some that look like it.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self._clock = Clock()
        self._subjects = [self._find(name) for name in names]

    def text(self, traced: Traced) -> str:
        """Return the columns of one frame or piece of DMA."""
        return "\t".join([_column(subject, traced) for subject in self._subjects])

    def start(self, time_ns: int) -> None:
        """Count times from here, the first packet's."""
        self._clock.start_ns = time_ns

    def rest(self, dropped: int) -> str:
        """Return nothing: every packet was shown when it came."""
        return ""

    def _find(self, name: str) -> Subject:
        subject = find_subject(name, self._clock)
        if subject is None:
            close = close_names(name)
            raise UsageError(
                f"no field is called {name!r}",
                remedy=f"perhaps {' or '.join(close)}" if close else "see docs/frames.md for names",
            )
        return subject


def _column(subject: Subject, traced: Traced) -> str:
    if subject.zero_if_absent and not has_header(traced):
        return ""
    if subject.read is not None:
        value = subject.read(traced)
        return "" if value is None else _text(subject, value)
    assert subject.read_all is not None
    return ",".join([_text(subject, value) for value in subject.read_all(traced)])


def _text(subject: Subject, value: FieldValue) -> str:
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, str):
        return printable(value)
    if subject.kind == "time":
        sign = "-" if value < 0 else ""
        return f"{sign}{abs(value) // 1_000_000_000}.{abs(value) % 1_000_000_000:09}"
    return str(value)
