# SPDX-License-Identifier: Apache-2.0
"""Filters: `function == BSA_BLOCK_READ and latency > 2ms`, compiled to a function of a frame.

The spelling is tshark's. A comparison with a field that a frame does not have is false, whatever
the operator; of a field that a frame has several times any may match, except that `!=` asks for
all of them to differ. Nothing is evaluated but the comparisons of this module.
"""

from __future__ import annotations

import difflib
import operator
from collections.abc import Callable, Sequence
from decimal import Decimal, InvalidOperation
from enum import IntEnum
from functools import partial
from typing import Final, TypeAlias

from i2o.decode.conversation import Traced
from i2o.decode.filter_fields import (
    Clock,
    FieldValue,
    Subject,
    close_names,
    find_subject,
    has_header,
)
from i2o.decode.filter_syntax import (
    AllOf,
    Condition,
    FilterError,
    Not,
    Tree,
    Value,
    Values,
    parse_filter,
)

__all__ = ["Filter", "FilterError", "compile_filter"]

Filter: TypeAlias = Callable[[Traced], bool]
"""Tells whether a frame is wanted."""
_Predicate: TypeAlias = Callable[[FieldValue], bool]

_UNITS_NS: Final = {"": 10**9, "s": 10**9, "ms": 10**6, "us": 10**3, "ns": 1}
_MAX_NUMBER: Final = 1 << 128
_SWAPPED: Final[dict[str, Callable[[int, int], bool]]] = {
    "<": operator.gt,
    "<=": operator.ge,
    ">": operator.lt,
    ">=": operator.le,
}
"""Comparisons with the sides exchanged: the constant comes first, for `partial`."""


def compile_filter(text: str) -> Filter:
    """Compile a filter.

    Args:
        text: the filter; an empty one wants everything. See docs/filters.md.

    Returns:
        A function of a frame in its context. `t` is counted from the first frame that it is
        called with, so it serves one capture, whose frames it must all see.

    Raises:
        FilterError: it breaks the rules of the language, or names something that does not exist.
    """
    if not text.strip():
        return lambda traced: True
    clock = Clock()
    wanted = _Compiler(text, clock).compile(parse_filter(text))

    def run(traced: Traced) -> bool:
        if clock.start_ns is None:
            clock.start_ns = traced.packet.time_ns
        return wanted(traced)

    return run if clock.is_used else wanted


class _Compiler:
    """Turns the tree into closures."""

    def __init__(self, text: str, clock: Clock) -> None:
        self._text, self._clock = text, clock

    def compile(self, tree: Tree) -> Filter:
        if isinstance(tree, Condition):
            return self._condition(tree)
        if isinstance(tree, Not):
            inner = self.compile(tree.what)
            return lambda traced: not inner(traced)
        parts = tuple(self.compile(part) for part in tree.parts)
        return _all_of(parts) if isinstance(tree, AllOf) else _any_of(parts)

    def _condition(self, tree: Condition) -> Filter:
        subject = find_subject(tree.name, self._clock)
        if subject is None:
            raise self._unknown_name(tree)
        if tree.operator == "exists":
            if tree.mask is None:
                return _exists(subject)
            return _test(subject, self._masked(subject, tree, bool))
        negative = tree.operator == "!="
        if tree.operator == "contains":
            test = self._contains(subject, tree)
        elif tree.operator in _SWAPPED:
            test = self._ordered(subject, tree)
        else:
            test = self._one_of(subject, tree)
        if tree.mask is not None:
            test = self._masked(subject, tree, test)
        return _test(subject, test, negative=negative)

    # --- operators -----------------------------------------------------------------------------

    def _one_of(self, subject: Subject, tree: Condition) -> _Predicate:
        """Return the predicate of `==`, `!=` and `in`: the value is one of these."""
        single: set[FieldValue] = set()
        others: list[_Predicate] = []
        for first, last in tree.operands:
            if last is not None:
                low, high = self._number(subject, first), self._number(subject, last)
                if low > high:
                    raise self._error("the range is upside down", first[0])
                others.append(partial(_between, low, high))
                continue
            found = self._constants(subject, first)
            single |= found
            texts = {one for one in found if isinstance(one, str)}
            if first[0].kind == "text" and subject.kind in ("bytes", "any"):
                padded = {one.encode("latin-1", "replace") for one in texts}
                others.append(partial(_padded_in, frozenset(padded)))
        if subject.kind in ("text", "any"):
            folded = frozenset(one.casefold() for one in single if isinstance(one, str))
            if folded:
                others.append(partial(_text_in, folded))
                single = {one for one in single if not isinstance(one, str)}
        if len(single) == 1:
            others.insert(0, partial(operator.eq, single.pop()))
        elif single:
            others.insert(0, frozenset(single).__contains__)
        if len(others) == 1:
            return others[0]
        return lambda value: any(other(value) for other in others)

    def _ordered(self, subject: Subject, tree: Condition) -> _Predicate:
        values = tree.operands[0][0]
        if subject.kind in ("text", "bytes"):
            raise self._error(
                f"{subject.name} has no order: only ==, != and contains work", values[0]
            )
        compare = partial(_SWAPPED[tree.operator], self._number(subject, values))
        if subject.kind != "any":
            return compare
        return lambda value: isinstance(value, int) and compare(value)

    def _contains(self, subject: Subject, tree: Condition) -> _Predicate:
        values = tree.operands[0][0]
        value = values[0]
        self._single(values)
        if subject.kind not in ("text", "bytes", "any"):
            what = {"time": "a time"}.get(subject.kind, "a number")
            raise self._error(f"{subject.name} is {what} and contains nothing", value)
        text = value.text.casefold()
        needle = None
        if subject.kind == "bytes" or (subject.kind == "any" and value.kind != "word"):
            needle = self._bytes(subject, value)

        def test(found: FieldValue) -> bool:
            if isinstance(found, str):
                return text in found.casefold()
            return needle is not None and isinstance(found, bytes) and needle in found

        return test

    def _masked(self, subject: Subject, tree: Condition, test: Callable[..., bool]) -> _Predicate:
        """Return a predicate of what a mask leaves of the value."""
        assert tree.mask is not None
        if subject.kind not in ("uint", "sint", "any"):
            raise self._error(f"{subject.name} is no number and has no bits", tree.mask[0])
        mask = self._number(subject, tree.mask)
        return lambda value: isinstance(value, int) and test(value & mask)

    # --- constants -----------------------------------------------------------------------------

    def _constants(self, subject: Subject, values: Values) -> set[FieldValue]:
        """Return what a value may mean: a name can stand for several numbers."""
        first = values[0]
        if subject.kind == "text":
            return {self._word(subject, values)}
        if subject.kind == "bytes":
            self._single(values)
            return {first.text} if first.kind == "text" else {self._bytes(subject, first)}
        if subject.kind == "any":
            if first.kind == "text" or (
                first.kind == "word" and not self._has_name(subject, first)
            ):
                self._single(values)
                return {first.text}
            if first.kind == "bytes":
                return {self._bytes(subject, first)}
        return set(self._numbers(subject, values))

    def _number(self, subject: Subject, values: Values) -> int:
        """Return a value that must be one number."""
        found = self._numbers(subject, values)
        if len(found) > 1:
            numbers = ", ".join(f"{number:#x}" for number in sorted(found))
            raise self._error(f"{values[0].text} can be {numbers}: write the number", values[0])
        return found.pop()

    def _numbers(self, subject: Subject, values: Values) -> set[int]:
        """Return the numbers that a value, or values joined by `|`, can mean."""
        found = {0}
        for value in values:
            alternatives = self._alternatives(subject, value)
            found = {before | number for before in found for number in alternatives}
        return found

    def _alternatives(self, subject: Subject, value: Value) -> set[int]:
        if value.kind == "text":
            raise self._error(f"{subject.name} is {_what(subject)}, not text", value)
        if value.kind == "bytes":
            raise self._error(f"{subject.name} is {_what(subject)}: write 0x1234", value)
        if subject.kind == "time":
            return {self._time(subject, value)}
        if value.kind == "number":
            try:
                number = int(value.text, 10 if value.text.lstrip("-").isdecimal() else 0)
            except ValueError:
                raise self._error(f"{value.text} is no whole number", value) from None
            if abs(number) >= _MAX_NUMBER:
                raise self._error("the number has more than 128 bits", value)
            return {number}
        return self._named(subject, value)

    def _named(self, subject: Subject, value: Value) -> set[int]:
        """Return the numbers that a value's name stands for."""
        known = {name: {number} for name, number in subject.more_values.items()}
        for names in subject.value_names:
            for name, member in names.__members__.items():
                known.setdefault(name.lower(), set()).add(int(member))
        found = known.get(value.text.lower())
        if found is not None:
            return found
        if not known:
            raise self._error(f"{subject.name} is {_what(subject)}", value)
        close = difflib.get_close_matches(value.text.lower(), list(known), 3, 0.6)
        hint = " or ".join(name.upper() for name in close)
        if not hint:
            hint = ", ".join(name.upper() for name in list(known)[:4]) + ", …"
            raise self._error(f"{subject.name} is never {value.text}, but {hint}", value)
        raise self._error(f"{subject.name} is never {value.text}: did you mean {hint}?", value)

    @staticmethod
    def _has_name(subject: Subject, value: Value) -> bool:
        """Whether a value's name stands for a number."""
        word = value.text.lower()
        return word in subject.more_values or any(
            word == name.lower() for names in subject.value_names for name in names.__members__
        )

    def _time(self, subject: Subject, value: Value) -> int:
        """Return a time in nanoseconds; without a unit it is in seconds."""
        digits = value.text.rstrip("abcdefghijklmnopqrstuvwxyz")
        unit = value.text[len(digits) :]
        try:
            scaled = Decimal(digits) * _UNITS_NS[unit]
        except (InvalidOperation, KeyError):
            raise self._error(
                f"{subject.name} is a time, such as 2ms, 150us or 0.5", value
            ) from None
        if abs(scaled) >= _MAX_NUMBER:
            raise self._error("the time is too long", value)
        return round(scaled)

    def _word(self, subject: Subject, values: Values) -> str:
        """Return a text; one without quotes must be one that the field can have."""
        text = "|".join(value.text for value in values)
        first = values[0]
        if first.kind in ("number", "bytes"):
            raise self._error(f'{subject.name} is text, such as "{_example(subject)}"', first)
        known = subject.words
        if first.kind == "word" and known:
            for value in values:
                self._check_word(subject, value)
        return text

    def _check_word(self, subject: Subject, value: Value) -> None:
        word = value.text.lower()
        if word in subject.words or word.startswith("unknown_0x"):
            return
        close = difflib.get_close_matches(word, subject.words, 3, 0.6)
        hint = f": did you mean {' or '.join(close)}?" if close else ""
        if not hint and len(subject.words) < 8:
            hint = f", but {', '.join(sorted(subject.words))}"
        raise self._error(f"{subject.name} is never {value.text}{hint}", value)

    def _bytes(self, subject: Subject, value: Value) -> bytes:
        """Return the bytes of `28:00`, `0x2800`, `28` or a text."""
        if value.kind == "text":
            return value.text.encode("latin-1", "replace")
        digits = value.text.replace(":", "")
        if digits[:2].lower() == "0x":
            digits = digits[2:]
        try:
            return bytes.fromhex(digits)
        except ValueError:
            raise self._error(
                f'{subject.name} is bytes: write 28:00, 0x2800 or "text"', value
            ) from None

    def _single(self, values: Values) -> None:
        if len(values) > 1:
            raise self._error("what | joins must be numbers", values[1])

    # --- errors --------------------------------------------------------------------------------

    def _unknown_name(self, tree: Condition) -> FilterError:
        close = close_names(tree.name)
        hint = f": did you mean {' or '.join(close)}?" if close else ""
        return FilterError(f"no field is called {tree.name}{hint}", self._text, tree.position)

    def _error(self, problem: str, value: Value) -> FilterError:
        return FilterError(problem, self._text, value.position)


# --- closures -----------------------------------------------------------------------------------


def _all_of(parts: Sequence[Filter]) -> Filter:
    if len(parts) == 2:
        first, second = parts
        return lambda traced: first(traced) and second(traced)

    def run(traced: Traced) -> bool:
        for part in parts:  # noqa: SIM110  # half the time of all(), which makes a generator
            if not part(traced):
                return False
        return True

    return run


def _any_of(parts: Sequence[Filter]) -> Filter:
    if len(parts) == 2:
        first, second = parts
        return lambda traced: first(traced) or second(traced)

    def run(traced: Traced) -> bool:
        for part in parts:  # noqa: SIM110
            if part(traced):
                return True
        return False

    return run


def _exists(subject: Subject) -> Filter:
    if subject.zero_if_absent:
        return has_header
    read, read_all = subject.read, subject.read_all
    if read is not None:
        return lambda traced: read(traced) is not None
    assert read_all is not None
    return lambda traced: bool(read_all(traced))


def _test(subject: Subject, test: _Predicate, *, negative: bool = False) -> Filter:
    """Return the filter that reads a field and looks at its value.

    Args:
        subject: the field.
        test: what its value must fulfil.
        negative: what none of its values may fulfil, instead.
    """
    read, read_all = subject.read, subject.read_all
    if read_all is not None:

        def look_at_all(traced: Traced) -> bool:
            values = read_all(traced)
            if negative:
                return bool(values) and not any(test(value) for value in values)
            return any(test(value) for value in values)

        return look_at_all
    assert read is not None
    if subject.zero_if_absent:
        if negative:
            return lambda traced: not test(read(traced)) and has_header(traced)  # type: ignore
        if test(0):
            return lambda traced: test(read(traced)) and has_header(traced)  # type: ignore
        return lambda traced: test(read(traced))  # type: ignore[arg-type]

    def look(traced: Traced) -> bool:
        value = read(traced)
        return value is not None and test(value) is not negative

    return look


def _between(low: int, high: int, value: FieldValue) -> bool:
    return isinstance(value, int) and low <= value <= high


def _text_in(texts: frozenset[str], value: FieldValue) -> bool:
    """Whether a text is one of these; a name that several classes share is any of its parts."""
    if not isinstance(value, str):
        return False
    folded = value.casefold()
    return folded in texts or ("|" in folded and not texts.isdisjoint(folded.split("|")))


def _padded_in(texts: frozenset[bytes], value: FieldValue) -> bool:
    """Whether bytes are one of these texts, padded with zeros or spaces."""
    return isinstance(value, bytes) and value.rstrip(b"\0 ") in texts


def _what(subject: Subject) -> str:
    if subject.kind == "time":
        return "a time"
    names = subject.value_names
    if not names:
        return "a number"
    members = [name for name, _ in zip(names[0].__members__, range(2), strict=False)]
    kind = "one of" if issubclass(names[0], IntEnum) else "flags"
    return f"a number ({kind} {', '.join(members)}, …)"


def _example(subject: Subject) -> str:
    return min(subject.words) if subject.words else "read"
