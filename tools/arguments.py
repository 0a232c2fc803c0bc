# SPDX-License-Identifier: Apache-2.0
"""What the sub-commands share on their command lines: options, numbers, sizes, one-line errors."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any, Final, NoReturn, TypeAlias
from urllib.parse import quote

from i2o.errors import I2OError

SubParsers: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"

DEFAULT_IOP: Final = "emu:"
_UNREAL: Final = ("emu",)  # backends behind which there is no hardware
_UNITS: Final = {"": 0, "K": 10, "M": 20, "G": 30, "T": 40}
_MAX_SIZE: Final = 1 << 63
_MAX_SECONDS: Final = 1e6


class UsageError(I2OError):
    """The command line asks for something that cannot be: exit code 2.

    Args:
        message: what is wrong, in one line.
        remedy: what to write instead.
    """

    def __init__(self, message: str, *, remedy: str = "") -> None:
        super().__init__(message + (f" ({remedy})" if remedy else ""))


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line, raised as UsageError.

    Attributes:
        words_to: name of the argument, a list, that takes the words between and behind options.
        command_to: name of the argument that takes what stands behind `--`.
    """

    words_to = command_to = ""

    def parse_known_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: Any = None
    ) -> tuple[Any, list[str]]:
        """Parse, and put words and a command line where this parser wants them."""
        words, command = list(args or ()), []
        if self.command_to and "--" in words:
            at = words.index("--")
            words, command = words[:at], words[at + 1 :]
        found, rest = super().parse_known_args(words if args is not None else None, namespace)
        if self.command_to:
            setattr(found, self.command_to, command)
        if self.words_to and not any(word.startswith("-") for word in rest):
            setattr(found, self.words_to, [*getattr(found, self.words_to), *rest])
            rest = []
        return found, rest

    def error(self, message: str) -> NoReturn:
        """Raise UsageError in place of printing the usage."""
        raise UsageError(message, remedy=f"see {self.prog} --help")


def add_iop(parser: argparse.ArgumentParser, *, several: bool = False) -> None:
    """Add -i/--iop; with `several` it may be repeated and `args.iop` is a list or None."""
    help_text = f"which IOP (default: {DEFAULT_IOP}, a software IOP with a disk in memory)"
    if several:
        parser.add_argument("-i", "--iop", metavar="URI", action="append", help=help_text)
    else:
        parser.add_argument("-i", "--iop", metavar="URI", default=DEFAULT_IOP, help=help_text)
    add_faults(parser)


def add_faults(parser: argparse._ActionsContainer) -> None:
    """Add --faults, for IOPs made of software."""
    parser.add_argument(
        "--faults", metavar="PLAN.toml", help="how a software IOP is to misbehave (emu: only)"
    )


def with_faults(uri: str, plan: str | None) -> str:
    """Return a URI with the fault plan of --faults in it.

    Raises:
        UsageError: the IOP is no software one.
    """
    if plan is None:
        return uri
    if uri.partition(":")[0] != "emu":
        raise UsageError(f"--faults is for software IOPs: {uri} is none", remedy="-i emu:")
    return f"{uri}{'&' if '?' in uri else '?'}faults={quote(plan, safe='/')}"


def add_yes(parser: argparse.ArgumentParser) -> None:
    """Add --yes; see `check_yes`."""
    parser.add_argument("--yes", action="store_true", help="needed to write to real hardware")


def check_yes(args: argparse.Namespace, what: str) -> None:
    """Refuse to write to what may be real hardware without --yes.

    Args:
        args: the command line.
        what: says of the hardware what would happen to it.

    Raises:
        UsageError: there is no --yes.
    """
    if not args.yes and args.iop.partition(":")[0] not in _UNREAL:
        raise UsageError(
            f"{args.iop} may be real hardware, {what}", remedy="add --yes if that is meant"
        )


def add_json(parser: argparse._ActionsContainer) -> None:
    """Add --json."""
    parser.add_argument("--json", action="store_true", help="print one JSON object per line")


def add_progress(parser: argparse.ArgumentParser) -> None:
    """Add --progress."""
    parser.add_argument(
        "--progress",
        action="store_true",
        help="show the progress bar even if stderr is not a terminal",
    )


def number(text: str) -> int:
    """Read a whole number that is not negative: decimal, or 0x… for hexadecimal."""
    try:
        # int("010", 0) is an error; people who write it mean ten
        value = int(text, 10 if text.isdecimal() else 0)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no number (write 16 or 0x10)") from None
    if not 0 <= value < _MAX_SIZE:
        raise argparse.ArgumentTypeError(f"{text!r} is not between 0 and {_MAX_SIZE - 1}")
    return value


def number_up_to(last: int, text: str, what: str) -> int:
    """Read a number that has a last one.

    Args:
        last: the highest.
        text: the number.
        what: what it is the number of, such as "TID".
    """
    value = number(text)
    if value > last:
        raise argparse.ArgumentTypeError(f"{text!r} is no {what}: those end at {last:#x}")
    return value


def tid(text: str) -> int:
    """Read a TID: a number of 12 bits."""
    return number_up_to(0xFFF, text, "TID")


def seconds(text: str) -> float:
    """Read a number of seconds, 0 or more."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= _MAX_SECONDS:
        raise argparse.ArgumentTypeError(
            f"{text!r} is no number of seconds up to {_MAX_SECONDS:g} (write for example 0.5)"
        )
    return value


def positive_seconds(text: str) -> float:
    """Read a number of seconds, more than 0."""
    value = seconds(text)
    if not value:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds above 0")
    return value


def size(text: str) -> int:
    """Read a number of bytes: a number, with K, M, G or T behind it for powers of 1024."""
    digits = text.strip()
    for suffix in ("iB", "B"):
        if len(digits) > len(suffix) and digits[-len(suffix) - 1].upper() in _UNITS:
            digits = digits.removesuffix(suffix)
    unit = ""
    if not digits.lower().startswith("0x") and digits[-1:].upper() in ("K", "M", "G", "T"):
        digits, unit = digits[:-1], digits[-1].upper()
    try:
        value = number(digits) << _UNITS[unit]
    except argparse.ArgumentTypeError:
        raise argparse.ArgumentTypeError(
            f"{text!r} is no size (write bytes, or for example 64M)"
        ) from None
    if value >= _MAX_SIZE:
        raise argparse.ArgumentTypeError(f"{text!r} is too large")
    return value
