# SPDX-License-Identifier: Apache-2.0
"""Events of an IOP's devices, one after another: an iterator, plain or asynchronous.

What nobody takes waits, the oldest first; beyond a limit the oldest are dropped and counted.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final, Self

from i2o.aio import AsyncDriver
from i2o.closing import Closing
from i2o.decode.event_nodes import event_data_text, event_names
from i2o.errors import InvalidArgument, RemoteFrameError
from i2o.frames.executive import ExecutiveEvent
from i2o.frames.functions import DeviceClass
from i2o.frames.utility import GenericEvent
from i2o.message_layer import MessageLayer
from i2o.resources import LctEntry, parse_lct_entry

ALL_EVENTS: Final = 0xFFFF_FFFF & ~GenericEvent.EVENT_MASK_MODIFIED.value
"""Every event but the one that only answers a registration, which is never told."""
KEPT: Final = 1024
"""Events that wait to be taken."""

_LCT_EVENTS: Final = int(ExecutiveEvent.NEW_LCT_ENTRY | ExecutiveEvent.MODIFIED_LCT)
_FOR_EVER_S: Final = 1e6  # as long as something may still come, it is waited for again


@dataclass(frozen=True, slots=True)
class Event:
    """Something that a device told.

    Attributes:
        iop: number of the IOP.
        tid: the device.
        device_class: its class code, -1 if not known.
        indicator: the event bit; odd firmware sets several.
        data: event data, whole words.
        time_ns: when it came, in nanoseconds since 1970.
    """

    iop: int
    tid: int
    device_class: int
    indicator: int
    data: bytes
    time_ns: int

    @property
    def names(self) -> str:
        """What the class calls the event."""
        return event_names(self.indicator, self.device_class)

    @property
    def meaning(self) -> str:
        """What the data say, or an empty string."""
        entry = self.lct_entry
        if entry is not None:
            return f"TID {entry.tid:#05x} {entry.class_name}"
        word = int.from_bytes(self.data[:4], "little")
        return event_data_text(self.indicator, word, self.device_class)

    @property
    def lct_entry(self) -> LctEntry | None:
        """The entry of the device table that the event is about, if it is about one."""
        if self.device_class != DeviceClass.EXECUTIVE or not self.indicator & _LCT_EVENTS:
            return None
        try:
            return parse_lct_entry(self.data)
        except RemoteFrameError:
            return None


class EventStream(Closing):
    """Events as they come; made by `i2o.Iop.events`.

    Iterating waits for the next one, for `timeout_s` at most, and ends when the IOP is gone or the
    stream was closed. Several threads may take from one stream: each event goes to one of them.

    Args:
        layer: the message layer.
        tids: the devices listened to; None for every one.
        mask: the events wanted.
        timeout_s: how long iterating waits for the next event; None for ever.
        prepare: called before waiting.
        acknowledge: acknowledges an event.
        on_close: called once.

    Attributes:
        lost: events that were dropped because nobody took them.
        refused: why devices tell nothing, by TID.
        ended: why no more events will come, or an empty string.
    """

    def __init__(
        self,
        layer: MessageLayer,
        tids: frozenset[int] | None,
        mask: int,
        *,
        timeout_s: float | None,
        prepare: Callable[[], object],
        acknowledge: Callable[[Event], object],
        on_close: Callable[[EventStream], object],
    ) -> None:
        if not 0 < mask <= 0xFFFF_FFFF or not mask & ALL_EVENTS:
            raise InvalidArgument(f"event mask {mask:#x}: expected event bits of 32-bit words")
        if tids is not None and not tids:
            raise InvalidArgument("no TIDs to listen to: expected one or more, or None for all")
        self.tids, self.mask, self.timeout_s = tids, mask & ALL_EVENTS, timeout_s
        self._layer, self._prepare, self._on_close = layer, prepare, on_close
        self._acknowledge = acknowledge
        self.lost = 0
        self.refused: dict[int, str] = {}
        self.ended = ""
        self._is_closed = False
        self._waiting: deque[Event] = deque(maxlen=KEPT)
        self._sleepers: dict[asyncio.Future[None], asyncio.AbstractEventLoop] = {}
        self._lock = threading.Lock()

    # --- taking events -------------------------------------------------------------------------

    def take(self, timeout_s: float | None = None) -> Event | None:
        """Return the next event, or None if none comes in time or none will come any more.

        Args:
            timeout_s: seconds; None waits until the stream ends.

        Raises:
            InvalidArgument: called by a callback while no event is there.
        """
        limit = _FOR_EVER_S if timeout_s is None else max(0.0, timeout_s)
        deadline = self._layer.clock.monotonic() + limit
        while (event := self._next()) is None and not self.ended:
            self._prepare()
            left = deadline - self._layer.clock.monotonic()
            if not self._layer.run_until(self._has_news, max(0.0, left)) and timeout_s is not None:
                break
        return event

    def __iter__(self) -> Iterator[Event]:
        """Yield events until none comes within `timeout_s`, or the stream ends."""
        while (event := self.take(self.timeout_s)) is not None:
            yield event

    def __aiter__(self) -> Self:
        """Iterate on an asyncio loop: the same, and the loop goes on meanwhile.

        Replies are dispatched on the loop while the next event is awaited; an `AsyncDriver` or
        a `Dispatcher` may do it, too.
        """
        return self

    async def __anext__(self) -> Event:
        """Return the next event."""
        await asyncio.sleep(0)  # others run, too, while events are always there
        event = self._next()
        if event is None and not self.ended:
            self._prepare()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self.timeout_s):
                    event = await self._await_event()
        if event is None:
            raise StopAsyncIteration
        return event

    async def _await_event(self) -> Event | None:
        """Return an event, or None at the stream's end."""
        loop = asyncio.get_running_loop()
        async with AsyncDriver(self._layer):
            while True:
                woken = loop.create_future()
                with self._lock:
                    self._sleepers[woken] = loop
                try:
                    event = self._next()
                    if event is not None or self.ended:
                        return event
                    await woken
                finally:
                    with self._lock:
                        del self._sleepers[woken]

    def acknowledge(self, event: Event) -> None:
        """Tell the device that an event was dealt with: some wait for that before they go on.

        Does not wait for the answer. A device that refuses is named in `refused`.

        Raises:
            OutOfFrames: no inbound frame came free.
            InvalidArgument: the IOP is gone.
        """
        self._acknowledge(event)

    def close(self) -> None:
        """Give the registrations back. Events that came already can still be taken."""
        with self._lock:
            was_closed, self._is_closed = self._is_closed, True
        if not was_closed:
            self.end("the stream was closed")
            self._on_close(self)

    # --- for whoever has the events --------------------------------------------------------------

    def offer(self, event: Event) -> None:
        """Take an event up if it is wanted."""
        if not event.indicator & self.mask or not self.wants(event.tid) or self._is_closed:
            return
        with self._lock:
            if len(self._waiting) == KEPT:
                self.lost += 1
            self._waiting.append(event)
            self._wake()

    def wants(self, tid: int) -> bool:
        """Whether this stream listens to a device."""
        return self.tids is None or tid in self.tids

    def end(self, why: str) -> None:
        """Note that no more events will come."""
        with self._lock:
            self.ended = self.ended or why
            self._wake()

    # --- inside ----------------------------------------------------------------------------------

    def _next(self) -> Event | None:
        with self._lock:
            return self._waiting.popleft() if self._waiting else None

    def _has_news(self) -> bool:
        return bool(self._waiting or self.ended)

    def _wake(self) -> None:
        """Wake who awaits, perhaps in another thread. The lock is held: no loop ends meanwhile."""
        for woken, loop in self._sleepers.items():
            loop.call_soon_threadsafe(_resolve, woken)


def _resolve(woken: asyncio.Future[None]) -> None:
    if not woken.done():
        woken.set_result(None)
