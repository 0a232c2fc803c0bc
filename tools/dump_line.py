# SPDX-License-Identifier: Apache-2.0
"""One line a packet: number, time, IOP or endpoint, direction, TID, name, and what it says.

    12   0.004123 iop0 -> 010 bsa_block_read            64K at 0x10000, memory 0x00a00000
    13   0.004170 iop0 <- 010 bsa_block_read            SUCCESS, 64K  47.1 us (12)
    14   0.004215 ep0  ->     tsend                     tag 0x12, 128 bytes to mem://b

`->` is a request, `<-` a reply; `=>` is host memory read by the IOP, `<=` written by it. Of an
endpoint, `->` is what it sends, `<-` what it receives; `--` is neither, such as the end of a send.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from i2o.decode.conversation import DMA, MESSAGE, REPLY, Traced
from i2o.decode.message_text import FAILURES
from i2o.decode.summary import summary
from i2o.tools.output import printable
from i2o.transport.capture.message_record import Kind

TIME_MODES: Final = {
    "z": "seconds since the first packet",
    "d": "seconds since the packet printed before",
    "a": "date and time of day",
    "r": "seconds as they were recorded",
}
"""What -t takes."""

_ARROWS: Final = ("->", "<-", "=>", "<=")
_MESSAGE_ARROWS: Final = {
    Kind.SEND.value: "->",
    Kind.RECEIVED.value: "<-",
    Kind.RECEIVE_FAILED.value: "<-",
}
_RESET: Final = "\x1b[0m"
_DIM, _RED, _GREEN, _YELLOW, _CYAN, _BOLD = (
    f"\x1b[{code}m" for code in ("2", "31", "32", "33", "36", "1")
)


class LinePrinter:
    """Makes lines.

    Args:
        time_mode: one of `TIME_MODES`.
        colour: use ANSI colours.
        numeric: function codes in place of names.
    """

    def __init__(
        self, time_mode: str = "z", *, colour: bool = False, numeric: bool = False
    ) -> None:
        self._zero: int | None = None
        self._before: int | None = None
        self._time: Callable[[int], str] = {
            "z": self._since_first,
            "d": self._since_before,
            "a": absolute_time,
            "r": _recorded,
        }[time_mode]
        self._colour, self._numeric = colour, numeric

    def start(self, time_ns: int) -> None:
        """Count times from here; else from the first frame that is printed."""
        self._zero = time_ns

    def line(self, traced: Traced) -> str:
        """Return a packet as one line, without its newline."""
        packet = traced.packet
        kind = traced.kind
        if kind == MESSAGE:
            return self._message(traced)
        if packet.comment and not packet.length:
            text, name = "", "remark"
        elif traced.is_short:
            text, name = summary(traced), "frame"
        else:
            text = summary(traced)
            name = f"fn {traced.function:#04x}" if self._numeric else traced.name
        target = traced.target
        if kind == REPLY:
            request = traced.request
            if request is not None and traced.latency_ns is not None:
                target = request.target  # some IOPs exchange the TIDs
                took = f"  {duration_text(traced.latency_ns)} ({request.index})"
                if " ! " in text:
                    text, _, problem = text.partition(" ! ")
                    text = f"{text}{took} ! {problem}"
                else:
                    text += took
        if packet.comment:
            text = f"{text}  # {printable(packet.comment)}".lstrip()
        if self._colour:
            return self._coloured(traced, target, name, text)
        if not text:
            return (
                f"{traced.index:6} {self._time(packet[0])} iop{packet[1]} {_ARROWS[packet[2]]} "
                f"{target:03x} {name}"
            )
        return (
            f"{traced.index:6} {self._time(packet[0])} iop{packet[1]} {_ARROWS[packet[2]]} "
            f"{target:03x} {name:<25} {text}"
        )

    def _coloured(self, traced: Traced, target: int, name: str, text: str) -> str:
        packet = traced.packet
        colour = _CYAN
        if traced.kind == DMA:
            colour = _DIM
        elif traced.kind == REPLY:
            colour = _GREEN if is_fine(traced) else _RED
        text, mark, problem = _problem_of(text)
        if mark:
            problem = f" {_YELLOW}! {problem}{_RESET}"
        if traced.kind == DMA:
            text = f"{_DIM}{text}{_RESET}"
        return (
            f"{_DIM}{traced.index:6} {self._time(packet[0])}{_RESET} iop{packet[1]} "
            f"{colour}{_ARROWS[packet[2]]}{_RESET} {_BOLD}{target:03x}{_RESET} "
            f"{colour}{name:<25}{_RESET} {text}{problem}"
        )

    def _message(self, traced: Traced) -> str:
        """Return what happened to a message of an endpoint as one line."""
        packet, record = traced.packet, traced.record
        kind = 0 if record is None else record.kind
        text, mark, problem = _problem_of(summary(traced))
        if traced.request is not None and traced.latency_ns is not None:
            took = f"{duration_text(traced.latency_ns)} ({traced.request.index})"
            text = f"{text}  {took}" if text else took
        if packet.comment:
            if mark:
                problem = f"{problem}: {printable(packet.comment)}"
            else:
                text = f"{text}  # {printable(packet.comment)}".lstrip()
        if mark:
            problem = f"! {problem}"
        head = f"{traced.index:6} {self._time(packet[0])}"
        end = f"ep{packet.iop}"
        arrow = _MESSAGE_ARROWS.get(kind, "--")
        if not self._colour:
            said = f"{text} {problem}".strip()
            return f"{head} {end:<4} {arrow}     {traced.name:<25} {said}".rstrip()
        colour = _CYAN if kind == Kind.SEND else _GREEN if kind == Kind.RECEIVED else _DIM
        if kind in FAILURES or record is None:
            colour = _RED
        if kind == Kind.SENT:
            text = f"{_DIM}{text}{_RESET}"
        said = f"{text} {_YELLOW}{problem}{_RESET}".lstrip() if mark else text
        return (
            f"{_DIM}{head}{_RESET} {end:<4} {colour}{arrow}{_RESET}     "
            f"{colour}{traced.name:<25}{_RESET} {said}"
        )

    def _since_first(self, time_ns: int) -> str:
        if self._zero is None:
            self._zero = time_ns
        return f"{(time_ns - self._zero) / 1e9:10.6f}"

    def _since_before(self, time_ns: int) -> str:
        before = time_ns if self._before is None else self._before
        self._before = time_ns
        return f"{(time_ns - before) / 1e9:10.6f}"


def absolute_time(time_ns: int) -> str:
    """Return date and local time of day with nanoseconds."""
    seconds, rest = divmod(time_ns, 1_000_000_000)
    try:
        return f"{time.strftime('%Y-%m-%d %H:%M:%S', time.localtime(seconds))}.{rest:09}"
    except (OverflowError, ValueError, OSError):
        return f"{seconds}.{rest:09}"


def duration_text(duration_ns: int) -> str:
    """Return a duration with three digits and its unit: `47.1 us`, `3.02 ms`."""
    if -1000 < duration_ns < 1000:
        return f"{duration_ns} ns"
    if -1_000_000 < duration_ns < 1_000_000:
        return f"{duration_ns / 1000:.4g} us"
    if -1_000_000_000 < duration_ns < 1_000_000_000:
        return f"{duration_ns / 1_000_000:.4g} ms"
    return f"{duration_ns / 1_000_000_000:.4g} s"


def is_fine(traced: Traced) -> bool:
    """Whether a reply says success: no FAIL, ReqStatus 0, or an event."""
    data = traced.packet.data
    if traced.flags & 0x20:
        return False
    return traced.function == 0x13 or (len(data) >= 20 and data[19] == 0)


def _recorded(time_ns: int) -> str:
    return f"{time_ns // 1_000_000_000}.{time_ns % 1_000_000_000:09}"


def _problem_of(text: str) -> tuple[str, str, str]:
    """Split what is wrong from what a line says."""
    return text.partition(" ! ") if " ! " in text else _split_mark(text)


def _split_mark(text: str) -> tuple[str, str, str]:
    return ("", "!", text[2:]) if text.startswith("! ") else (text, "", "")
