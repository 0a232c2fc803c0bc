# SPDX-License-Identifier: Apache-2.0
"""The traffic of one device as a conversation: each request with its data and what came of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

from i2o.decode.conversation import DMA, MESSAGE, REPLY, REQUEST, Traced
from i2o.frames.functions import UNANSWERED, Function
from i2o.frames.header import MsgFlags
from i2o.tools.dump_line import duration_text, is_fine
from i2o.tools.dump_pipeline import Printer
from i2o.tools.output import BOLD, GREEN, RED, YELLOW, paint

MAX_OPEN: Final = 4096
"""Exchanges without a final reply that are kept; then the oldest is shown as it is."""
MAX_LINES: Final = 512
"""Lines of an exchange that are kept; then they are shown, and it goes on later."""

_LAST: Final = MsgFlags.LAST.value
_REPEATED: Final = Function.UTIL_EVENT_REGISTER.value
"""The function whose request is answered again and again."""


def concerns(tid: int) -> Callable[[Traced], bool]:
    """Return a function that tells whether a packet belongs to a device."""

    def belongs(traced: Traced) -> bool:
        if traced.kind == MESSAGE or (traced.kind == DMA and traced.request is None):
            return False
        return not traced.is_short and tid in (traced.target, traced.initiator)

    return belongs


class _Exchange:
    """A request and what belongs to it.

    Attributes:
        number: from 1.
        request: the request.
        lines: what is to be shown and was not yet.
        was_shown: whether a part of it was shown.
        is_answered: whether a reply came.
    """

    __slots__ = ("is_answered", "lines", "number", "request", "was_shown")

    def __init__(self, number: int, request: Traced) -> None:
        self.number, self.request = number, request
        self.lines: list[str] = []
        self.was_shown = self.is_answered = False


class FollowPrinter:
    """Puts what one device is sent and what it answers in order, exchange by exchange.

    An exchange is shown when its final reply came; if its request is one that is never answered,
    when the device's next packet came that does not belong to it; or at the end.

    Args:
        packets: prints one packet.
        colour: use ANSI colours.

    Attributes:
        text: returns what can be shown now that a packet of the device came, perhaps nothing.
    """

    def __init__(self, packets: Printer, *, colour: bool = False) -> None:
        self._packets, self._show, self._colour = packets, packets.text, colour
        self.text: Callable[[Traced], str] = self._text
        self._count = 0
        self._open: dict[int, _Exchange] = {}
        self._unanswered: int | None = None

    def start(self, time_ns: int) -> None:
        """Count times from here, the first packet's."""
        self._packets.start(time_ns)

    def rest(self, dropped: int) -> str:
        """Return the exchanges that have no end."""
        texts = [self._take(exchange) for exchange in self._open.values() if exchange.lines]
        self._open.clear()
        return "\n".join(texts)

    def _text(self, traced: Traced) -> str:
        return "\n".join(self._feed(traced))

    def _feed(self, traced: Traced) -> Iterator[str]:
        request = traced if traced.kind == REQUEST else traced.request
        index = None if request is None else request.index
        if self._unanswered is not None and index != self._unanswered:
            yield self._take(self._open.pop(self._unanswered))
            self._unanswered = None
        if traced.kind == REQUEST:
            yield from self._start(traced)
        exchange = None if index is None else self._open.get(index)
        if exchange is None:  # its beginning was not captured, filtered, or shown long ago
            yield self._show(traced)
            return
        exchange.lines += self._show(traced).split("\n")
        if traced.kind == REPLY:
            exchange.is_answered = True
            if traced.flags & _LAST and traced.function != _REPEATED:
                del self._open[exchange.request.index]
                self._unanswered = None
            yield self._take(exchange, traced)
        elif len(exchange.lines) > MAX_LINES:
            yield self._take(exchange)

    def _start(self, request: Traced) -> Iterator[str]:
        if len(self._open) >= MAX_OPEN:
            oldest = self._open.pop(next(iter(self._open)))
            if oldest.lines:
                yield self._take(oldest)
        self._count += 1
        self._open[request.index] = _Exchange(self._count, request)
        if request.function in UNANSWERED:
            self._unanswered = request.index

    def _take(self, exchange: _Exchange, reply: Traced | None = None) -> str:
        """Return what was not shown yet of an exchange, with a heading and a blank line."""
        name = f"exchange {exchange.number}{', continued' if exchange.was_shown else ''}"
        head = paint(f"{name}: {exchange.request.name}", self._colour, BOLD)
        lines, exchange.lines, exchange.was_shown = exchange.lines, [], True
        return "\n".join([head + self._outcome(exchange, reply), *lines, ""])

    def _outcome(self, exchange: _Exchange, reply: Traced | None) -> str:
        if reply is not None and reply.latency_ns is not None:
            text = f"answered after {duration_text(reply.latency_ns)}"
            return ", " + paint(text, self._colour, GREEN if is_fine(reply) else RED)
        if exchange.request.function in UNANSWERED:
            return ", no reply wanted"
        return "" if exchange.is_answered else ", " + paint("no reply", self._colour, YELLOW)
