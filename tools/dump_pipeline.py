# SPDX-License-Identifier: Apache-2.0
"""The main loop of `i2o dump`: packets are put into context, chosen, kept and printed."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Final, Protocol

from i2o.decode.conversation import DMA, Conversation, Traced
from i2o.decode.payload_followers import payload_followers
from i2o.tools.dump_sources import Source

_BATCH: Final = 1024
"""Frames that are printed in one go when nobody waits for them."""


class Printer(Protocol):
    """Turns packets into text."""

    def start(self, time_ns: int) -> None:
        """Take the time of the first packet, chosen or not."""

    @property
    def text(self) -> Callable[[Traced], str]:
        """A function that returns what to print for a packet, without the last newline; perhaps
        nothing."""

    def rest(self, dropped: int) -> str:
        """Return what to print at the end, perhaps nothing.

        Args:
            dropped: packets that the capture lost.
        """


class Pipeline:
    """Runs once.

    Args:
        source: where the packets come from.
        printer: what to print; nothing if None.
        wanted: tells which packets to keep and print; all if empty.
        keep: called with each of them.
        with_dma: False leaves out DMA.
        limit: stop after so many.
        at_once: print each packet as soon as it is there.

    Attributes:
        packets: packets read.
        shown: packets that were wanted.
        conversation: what they are parts of.
        was_interrupted: Ctrl-C ended it.
    """

    def __init__(
        self,
        source: Source,
        printer: Printer | None,
        *,
        wanted: tuple[Callable[[Traced], bool], ...] = (),
        keep: Callable[[Traced], None] | None = None,
        with_dma: bool = True,
        limit: int | None = None,
        at_once: bool = False,
    ) -> None:
        self.conversation = Conversation(payload_followers())
        self.packets = self.shown = 0
        self.was_interrupted = False
        self._source, self._printer = source, printer
        self._wanted, self._keep = wanted, keep
        self._with_dma, self._limit, self._at_once = with_dma, limit, at_once

    def run(self) -> None:
        """Read until the end, the limit, or Ctrl-C."""
        texts = self._texts()
        batch: list[str] = []
        size = 1 if self._at_once else _BATCH
        try:
            while True:
                batch.extend(islice(texts, size))
                if not batch:
                    break
                self._write(batch)
        except KeyboardInterrupt:
            self.was_interrupted = True
        finally:  # also what came before an error
            self._write(batch)
        if self._printer is not None and (rest := self._printer.rest(self._source.dropped)):
            self._write([rest])

    def _texts(self) -> Iterator[str]:
        text = _nothing if self._printer is None else self._printer.text
        return filter(None, map(text, self._chosen()))

    def _chosen(self) -> Iterator[Traced]:
        if self._limit == 0:
            return
        feed, wanted, keep, limit = self.conversation.feed, self._wanted, self._keep, self._limit
        without_dma = not self._with_dma
        for packet in self._source:
            if not self.packets and self._printer is not None:
                self._printer.start(packet[0])
            self.packets += 1
            traced = feed(packet)
            for is_wanted in wanted:
                if not is_wanted(traced):
                    break
            else:
                if without_dma and traced.kind == DMA:
                    continue
                if keep is not None:
                    keep(traced)
                self.shown += 1
                yield traced
                if self.shown == limit:
                    return

    def _write(self, batch: list[str]) -> None:
        """Print a batch and empty it."""
        if not batch:
            return
        text = "\n".join(batch) + "\n"
        batch.clear()  # first: an interrupted write is not repeated
        if sys.stdout is not None:
            sys.stdout.write(text)
            if self._at_once:
                sys.stdout.flush()


def _nothing(traced: Traced) -> str:
    return ""
