# SPDX-License-Identifier: Apache-2.0
"""URIs that name an IOP: `scheme:rest?option=value&option=value`."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final
from urllib.parse import parse_qsl

from i2o.errors import UriError

_UNITS: Final = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}


def parse_size(text: str) -> int:
    """Read the number of bytes of an option: decimal, with K, M, G or T for powers of 1024.

    Raises:
        ValueError: it is no such number.
    """
    unit = _UNITS.get(text[-1:].upper(), 1)
    digits = text[:-1] if unit > 1 else text
    if not digits.isascii() or not digits.isdigit():
        raise ValueError(f"{text!r} is no size; write for example 64M")
    return int(digits) * unit


@dataclass(frozen=True, slots=True)
class Uri:
    """A parsed URI.

    Attributes:
        text: as given.
        scheme: the backend's name.
        address: what stands between the scheme and the options, `//` included.
        options: (name, value) pairs in order; a name may repeat.
    """

    text: str
    scheme: str
    address: str
    options: tuple[tuple[str, str], ...]

    @classmethod
    def parse(cls, text: str) -> Uri:
        """Split a URI.

        Raises:
            UriError: there is no scheme, or the options are not `name=value` pairs.
        """
        scheme, colon, rest = text.partition(":")
        if not colon or not scheme.replace("-", "_").isidentifier():
            raise UriError(f"{text!r} is no IOP URI: expected SCHEME:ADDRESS, for example emu:")
        address, _, query = rest.partition("?")
        try:
            options = parse_qsl(query, keep_blank_values=True, strict_parsing=bool(query))
        except ValueError:
            raise UriError(f"{text!r}: options must read name=value&name=value") from None
        return cls(text, scheme, address, tuple(options))

    def require_known(self, known: Iterable[str]) -> None:
        """Refuse options that the backend does not have.

        Raises:
            UriError: names the first unknown option and lists the known ones.
        """
        names = sorted(known)
        for name, _ in self.options:
            if name not in names:
                raise UriError(
                    f"{self.text!r}: unknown option {name!r}; {self.scheme}: knows "
                    + (", ".join(names) or "none")
                )

    def all(self, name: str) -> tuple[str, ...]:
        """Return every value of an option, in order."""
        return tuple(value for key, value in self.options if key == name)

    def one(self, name: str, default: str) -> str:
        """Return the value of an option that may be given once.

        Raises:
            UriError: it was given more than once.
        """
        values = self.all(name)
        if len(values) > 1:
            raise UriError(f"{self.text!r}: option {name!r} is given {len(values)} times")
        return values[0] if values else default

    def integer(self, name: str, default: int, low: int, high: int) -> int:
        """Return an option as an integer (decimal or 0x…), within bounds.

        Raises:
            UriError: it is no integer, or outside.
        """
        text = self.one(name, str(default))
        try:
            value = int(text, 0)
        except ValueError:
            raise UriError(f"{self.text!r}: {name}={text!r} is not an integer") from None
        if not low <= value <= high:
            raise UriError(f"{self.text!r}: {name}={value} is not between {low} and {high}")
        return value

    def seconds(self, name: str, default: float, high: float) -> float:
        """Return an option as a number of seconds, more than 0 and not more than `high`.

        Raises:
            UriError: it is no number, or outside.
        """
        text = self.one(name, str(default))
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not 0 < value <= high:
            raise UriError(
                f"{self.text!r}: {name}={text!r} is no number of seconds, more than 0 and up to "
                f"{high:g}"
            )
        return value
