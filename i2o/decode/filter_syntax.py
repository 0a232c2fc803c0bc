# SPDX-License-Identifier: Apache-2.0
"""Reads the text of a filter into a tree of conditions; what the names mean is not its business.

The spelling is tshark's: `function == 0x30 and (target in {0x10..0x12} or !latency)`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

from i2o.errors import I2OError

MAX_TEXT: Final = 20_000
"""Characters of one filter."""
MAX_PROBLEM: Final = 240
"""Characters of what is said about a mistake, which may quote a name of any length."""
MAX_NESTING: Final = 50
"""Parentheses and negations within each other."""

ValueKind = Literal["text", "bytes", "number", "word"]
Operator = Literal["exists", "==", "!=", "<", "<=", ">", ">=", "in", "contains"]

_TOKEN: Final = re.compile(
    r"""
    (?P<text>"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')
    |(?P<bytes>[0-9A-Fa-f]{2}(?::[0-9A-Fa-f]{2})+(?![\w:]))
    |(?P<number>-?\d\w*(?:\.\d\w*)?(?:[ ]+(?:ns|us|ms|s)\b)?)
    |(?P<word>[A-Za-z_]\w*(?:\.\w+)*)
    |(?P<symbol>&&|\|\||==|!=|<=|>=|\.\.|[<>!(){},&|=])
    """,
    re.VERBOSE,
)
_SPACE: Final = re.compile(r"\s*")
_WORD_OPERATORS: Final = {
    "eq": "==",
    "ne": "!=",
    "lt": "<",
    "le": "<=",
    "gt": ">",
    "ge": ">=",
    "and": "&&",
    "or": "||",
    "not": "!",
    "in": "in",
    "contains": "contains",
    "matches": "matches",
}
_COMPARISONS: Final[dict[str, Operator]] = {
    "==": "==",
    "!=": "!=",
    "<": "<",
    "<=": "<=",
    ">": ">",
    ">=": ">=",
}
_ESCAPES: Final = {"n": "\n", "t": "\t", "r": "\r", "0": "\0"}


class FilterError(I2OError, ValueError):
    """A filter cannot be understood.

    Args:
        problem: what is wrong, in one clause.
        text: the filter.
        position: the character of it that is meant, from 0.
    """

    def __init__(self, problem: str, text: str, position: int) -> None:
        self.text, self.position = text, position
        shown = " ".join(text.split()) or text
        if shown == text and len(text) <= 200:
            shown = f"{text[:position]}^{text[position:]}"
        if len(problem) > MAX_PROBLEM:
            problem = f"{problem[: MAX_PROBLEM - 3]}..."
        super().__init__(f"filter: {problem}; at character {position + 1}: {shown[:240]}")


@dataclass(frozen=True, slots=True)
class Value:
    """One value as it is written.

    Attributes:
        kind: how it looks; a word is something without quotes.
        text: its characters; of a text what is in the quotes.
        position: where it stands in the filter.
    """

    kind: ValueKind
    text: str
    position: int


Values: TypeAlias = tuple[Value, ...]
"""Values joined by `|`: mostly one."""


@dataclass(frozen=True, slots=True)
class Condition:
    """A condition on one field.

    Attributes:
        name: what the field is called.
        position: where that stands in the filter.
        mask: what is behind `&`, or None.
        operator: the comparison; `exists` if there is none.
        operands: what it is compared with: (value, None), or (first, last) of a range.
    """

    name: str
    position: int
    mask: Values | None
    operator: Operator
    operands: tuple[tuple[Values, Values | None], ...]


@dataclass(frozen=True, slots=True)
class Not:
    """The opposite of something."""

    what: Tree


@dataclass(frozen=True, slots=True)
class AllOf:
    """True if every part is."""

    parts: tuple[Tree, ...]


@dataclass(frozen=True, slots=True)
class AnyOf:
    """True if one of the parts is."""

    parts: tuple[Tree, ...]


Tree: TypeAlias = Condition | Not | AllOf | AnyOf


def parse_filter(text: str) -> Tree:
    """Read a filter.

    Args:
        text: the filter; not empty.

    Raises:
        FilterError: it breaks the rules of the language.
    """
    return _Parser(text).parse()


@dataclass(frozen=True, slots=True)
class _Token:
    kind: str
    text: str
    position: int


class _Parser:
    """Recursive descent; every level of recursion is counted."""

    def __init__(self, text: str) -> None:
        self._text = text
        if len(text) > MAX_TEXT:
            raise FilterError(f"longer than {MAX_TEXT} characters", text[:100], 0)
        self._tokens = self._tokenize()
        self._at = 0
        self._depth = 0

    def parse(self) -> Tree:
        tree = self._any()
        token = self._peek()
        if token.kind != "end":
            raise self._error('expected "and", "or" or the end', token)
        return tree

    # --- levels of precedence ------------------------------------------------------------------

    def _any(self) -> Tree:
        parts = [self._all()]
        while self._accept("||"):
            parts.append(self._all())
        return parts[0] if len(parts) == 1 else AnyOf(tuple(parts))

    def _all(self) -> Tree:
        parts = [self._not()]
        while self._accept("&&"):
            parts.append(self._not())
        return parts[0] if len(parts) == 1 else AllOf(tuple(parts))

    def _not(self) -> Tree:
        if not self._accept("!"):
            return self._primary()
        self._deeper()
        tree = Not(self._not())
        self._depth -= 1
        return tree

    def _primary(self) -> Tree:
        if not self._accept("("):
            return self._condition()
        self._deeper()
        tree = self._any()
        if not self._accept(")"):
            raise self._error('expected ")"', self._peek())
        self._depth -= 1
        return tree

    def _condition(self) -> Tree:
        token = self._peek()
        if token.kind in ("number", "text", "bytes"):
            raise self._error("a condition starts with a name, as in function == 0x30", token)
        if token.kind != "word":
            raise self._error("expected a name", token)
        self._at += 1
        mask = self._values() if self._accept("&") else None
        if self._accept("in"):
            return Condition(token.text, token.position, mask, "in", self._set())
        if self._follows("!") and self._at + 1 < len(self._tokens):
            behind = self._tokens[self._at + 1]
            if _operator(behind) == "in":  # not in {...}
                self._at += 2
                return Not(Condition(token.text, token.position, mask, "in", self._set()))
        operator = self._operator()
        if operator is None:
            return Condition(token.text, token.position, mask, "exists", ())
        operand = self._values()
        return Condition(token.text, token.position, mask, operator, ((operand, None),))

    def _operator(self) -> Operator | None:
        token = self._peek()
        found = _operator(token)
        if found == "=":
            raise self._error('write "==" to compare', token)
        if found == "matches":
            raise self._error('there are no regular expressions: use "contains"', token)
        operator: Operator | None = "contains" if found == "contains" else None
        operator = operator or _COMPARISONS.get(found)
        if operator is not None:
            self._at += 1
        return operator

    def _set(self) -> tuple[tuple[Values, Values | None], ...]:
        if not self._accept("{"):
            raise self._error('expected "{", as in {1, 2, 5..9}', self._peek())
        found: list[tuple[Values, Values | None]] = []
        while not self._accept("}"):
            first = self._values()
            found.append((first, self._values() if self._accept("..") else None))
            self._accept(",")
        if not found:
            raise self._error("the set is empty", self._tokens[self._at - 1])
        return tuple(found)

    def _values(self) -> Values:
        values = [self._value()]
        while self._accept("|"):
            values.append(self._value())
        return tuple(values)

    def _value(self) -> Value:
        token = self._peek()
        if token.kind == "text":
            self._at += 1
            return Value("text", _unquoted(token.text), token.position)
        if token.kind == "bytes" or token.kind == "number":
            self._at += 1
            kind: ValueKind = "bytes" if token.kind == "bytes" else "number"
            return Value(kind, token.text, token.position)
        if token.kind == "word" and token.text not in ("and", "or", "not"):
            self._at += 1
            return Value("word", token.text, token.position)
        raise self._error("expected a value", token)

    # --- tokens --------------------------------------------------------------------------------

    def _tokenize(self) -> list[_Token]:
        text, at = self._text, 0
        tokens: list[_Token] = []
        while True:
            space = _SPACE.match(text, at)
            at = space.end() if space else at
            if at >= len(text):
                break
            found = _TOKEN.match(text, at)
            if found is None:
                if text[at] in "\"'":
                    raise FilterError("the text has no end: a quote is missing", text, at)
                raise FilterError(f"{text[at]!r} means nothing here", text, at)
            kind, word = found.lastgroup or "", found.group()
            if kind == "number":  # times are printed with a space in front of their unit
                word = word.replace(" ", "")
            tokens.append(_Token(kind, word, at))
            at = found.end()
        tokens.append(_Token("end", "", len(text)))
        return tokens

    def _peek(self) -> _Token:
        return self._tokens[self._at]

    def _follows(self, operator: str) -> bool:
        return _operator(self._peek()) == operator

    def _accept(self, operator: str) -> bool:
        if not self._follows(operator):
            return False
        self._at += 1
        return True

    def _deeper(self) -> None:
        self._depth += 1
        if self._depth > MAX_NESTING:
            raise self._error(f"nested more than {MAX_NESTING} deep", self._peek())

    def _error(self, problem: str, token: _Token) -> FilterError:
        if token.kind == "end":
            problem += ", and the filter ends"
        return FilterError(problem, self._text, token.position)


def _operator(token: _Token) -> str:
    """Return what a token does, an empty string if it is a name or a value."""
    if token.kind == "symbol":
        return token.text
    return _WORD_OPERATORS.get(token.text, "") if token.kind == "word" else ""


def _unquoted(token: str) -> str:
    """Return the characters of a text in quotes."""
    return re.sub(
        r"\\(x[0-9A-Fa-f]{2}|.)",
        lambda found: (
            chr(int(found[1][1:], 16)) if len(found[1]) == 3 else _ESCAPES.get(found[1], found[1])
        ),
        token[1:-1],
        flags=re.DOTALL,
    )
