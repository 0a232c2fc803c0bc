# SPDX-License-Identifier: Apache-2.0
"""Says which method of a device serves which function codes.

`@handles(Function.X)` marks a method; `collect_handlers` gathers the marks of a class and its
bases. A subclass that overrides a method keeps its mark.

What one device answers may be spread over several objects, its chapters: `bind_handlers` finds the
marked methods of any object.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, TypeVar

_MARK: Final = "handled_functions"
_Method = TypeVar("_Method", bound=Callable[..., bytes | None])


def handles(*functions: int) -> Callable[[_Method], _Method]:
    """Mark a method as the one that serves these function codes."""

    def mark(method: _Method) -> _Method:
        setattr(method, _MARK, functions)
        return method

    return mark


def collect_handlers(cls: type[Any]) -> dict[int, str]:
    """Return the names of the marked methods by function code; a subclass's marks win."""
    names: dict[int, str] = {}
    for base in reversed(cls.__mro__):
        for name, member in vars(base).items():
            names.update(dict.fromkeys(map(int, getattr(member, _MARK, ())), name))
    return names


def bind_handlers(served_by: object) -> dict[int, Any]:
    """Return an object's marked methods, bound, by function code."""
    names = collect_handlers(type(served_by))
    return {code: getattr(served_by, name) for code, name in names.items()}
