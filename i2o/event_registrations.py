# SPDX-License-Identifier: Apache-2.0
"""The event registrations of one IOP, kept in line with what its streams want to hear.

An IOP keeps one mask per device and initiator, and a program is one initiator. So all streams
share one registration per device (UtilEventRegister), which asks for what any of them wants. They
are made again after the IOP was brought up, and with devices that are new: those of a table that
was read again, and those that the executive tells of (NEW_LCT_ENTRY).
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterable
from typing import Final

from i2o.closing import Closing
from i2o.errors import I2OError
from i2o.events import ALL_EVENTS, Event, EventStream
from i2o.frames.executive import ExecutiveEvent
from i2o.frames.functions import DeviceClass
from i2o.frames.header import HEADER_SIZE
from i2o.frames.utility import UTIL_EVENT_ACK, UTIL_EVENT_REGISTER
from i2o.iop_table import IopNews
from i2o.message_frames import ReplyFrame
from i2o.message_layer import MessageLayer
from i2o.replies import describe
from i2o.requester import FRAME_WAIT_US
from i2o.resources import LctEntry
from i2o.waits import I2OTRANS_NOSLEEP, I2OTRANS_SLEEP

logger = logging.getLogger(__name__)

EXECUTIVE_TID: Final = 0
_UNKNOWN: Final = -1
"""In place of a mask in force: differs from every mask that may be wanted."""
_NEW_ENTRY: Final = ExecutiveEvent.NEW_LCT_ENTRY.value
_DATA_START: Final = HEADER_SIZE + 4


class EventRegistrations(Closing):
    """All streams of one IOP, and its registrations.

    Args:
        layer: the message layer.
        iop: IOP number.
    """

    def __init__(self, layer: MessageLayer, iop: int) -> None:
        self._layer, self._iop = layer, iop
        self._base_cookie: int | None = None
        self._event_cookie = self._ack_cookie = 0
        self._streams: tuple[EventStream, ...] = ()
        self._devices: dict[int, LctEntry] = {}
        self._in_force: dict[int, int] = {}  # masks by TID
        self._is_behind = False
        self._lock = threading.Lock()  # guards what is above; nothing is sent while it is held
        self._sending = threading.Lock()  # one sender: registrations with a device keep their order

    def listen(
        self, tids: Iterable[int] | None, mask: int, *, timeout_s: float | None
    ) -> EventStream:
        """Return a new stream whose registrations are sent.

        Args:
            tids: the devices to listen to; None for the executive and every device.
            mask: the events wanted.
            timeout_s: how long iterating waits for the next event; None for ever.

        Raises:
            InvalidArgument: an empty mask or no TIDs, or the IOP is detached.
            OutOfFrames: the registrations could not be sent.
        """
        stream = EventStream(
            self._layer,
            None if tids is None else frozenset(tids),
            mask,
            timeout_s=timeout_s,
            prepare=self._catch_up,
            acknowledge=self._acknowledge,
            on_close=self._drop,
        )
        self._begin()
        with self._lock:
            self._streams += (stream,)
        try:
            why = self._layer.why_gone(self._iop)
            if why:
                stream.end(why)
            self._bring_in_line()
        except BaseException:
            with self._lock:
                self._streams = tuple(one for one in self._streams if one is not stream)
            raise
        return stream

    def close(self) -> None:
        """End all streams; the IOP is detached, or ends the registrations itself."""
        for stream in self._streams:
            stream.end("the IOP was closed")
        with self._lock:
            self._streams = ()
            base, self._base_cookie = self._base_cookie, None
        self._layer.unlisten(self._iop, self._hear)
        if base is not None:
            self._layer.deregister(base)

    # --- registering ---------------------------------------------------------------------------

    def _begin(self) -> None:
        """Get cookies and learn the devices, the first time."""
        with self._lock:
            if self._base_cookie is None:
                self._devices = self._table()
                registration = self._layer.register([self._told, self._acknowledged])
                self._base_cookie = registration.base_cookie
                self._event_cookie, self._ack_cookie = registration.cookies
                self._layer.listen(self._iop, self._hear)

    def _table(self) -> dict[int, LctEntry]:
        return {entry.tid: entry for entry in self._layer.result(self._iop).lct.devices}

    def _hear(self, news: IopNews) -> None:
        """Learn what became of the IOP, in whichever thread noticed it."""
        if news is IopNews.GONE:
            for stream in self._streams:
                stream.end(self._layer.why_gone(self._iop))
            return
        with self._lock:
            before, self._devices = self._devices, self._table()
            if news is IopNews.BROUGHT_UP:
                self._in_force.clear()
            for tid in tuple(self._in_force):
                if self._devices.get(tid) != before.get(tid):
                    del self._in_force[tid]  # gone, or another device than it was
        self._try_to_bring_in_line()

    def _drop(self, stream: EventStream) -> None:
        """Forget a stream, and what only it wanted."""
        with self._lock:
            self._streams = tuple(one for one in self._streams if one is not stream)
        self._try_to_bring_in_line()

    def _try_to_bring_in_line(self) -> None:
        try:
            self._bring_in_line()
        except (I2OError, OSError) as error:
            logger.warning("IOP %d: event registrations: %s", self._iop, error)

    def _bring_in_line(self) -> None:
        """Send every registration that differs from what is wanted."""
        with self._sending:
            self._send(FRAME_WAIT_US)
        self._catch_up()

    def _catch_up(self) -> None:
        """Send what is still due, without waiting: callbacks may call this.

        If another thread is sending it does this, too: it looks again afterwards.
        """
        while self._is_behind and self._sending.acquire(blocking=False):
            try:
                self._send(0)
            except (I2OError, OSError) as error:
                logger.info("IOP %d: event registrations wait: %s", self._iop, error)
                return
            finally:
                self._sending.release()

    def _send(self, wait_us: int) -> None:
        if not self._layer.iop_valid(self._iop):
            self._is_behind = False  # all of them are sent when it is up again
            return
        with self._lock:
            wanted = self._wanted()
            due = {
                tid: wanted.get(tid, 0)
                for tid in sorted(wanted.keys() | self._in_force.keys())
                if wanted.get(tid, 0) != self._in_force.get(tid, 0)
            }
            self._in_force.update(due)  # before they are sent: a refusal comes in another thread
            self._is_behind = False
        for tid, mask in tuple(due.items()):
            try:
                self._layer.submit(
                    self._iop,
                    UTIL_EVENT_REGISTER.build(
                        target_address=tid, initiator_context=self._event_cookie, event_mask=mask
                    ),
                    wait_us,
                    I2OTRANS_SLEEP if wait_us else I2OTRANS_NOSLEEP,
                )
            except BaseException:
                with self._lock:
                    self._in_force.update(dict.fromkeys(due, _UNKNOWN))
                    self._is_behind = True
                raise
            del due[tid]

    def _wanted(self) -> dict[int, int]:
        """Return the mask that each device should have. The lock is held."""
        wanted: dict[int, int] = {}
        for stream in self._streams:
            tids = {EXECUTIVE_TID, *self._devices} if stream.tids is None else stream.tids
            for tid in tids:
                entry = self._devices.get(tid)
                if entry is None and tid != EXECUTIVE_TID:
                    stream.refused[tid] = "there is no such device"
                    continue
                capabilities = ALL_EVENTS if entry is None else entry.event_capabilities
                mask = stream.mask & capabilities
                if stream.tids is None and tid == EXECUTIVE_TID:
                    mask |= _NEW_ENTRY & capabilities
                elif stream.tids is not None and not mask:
                    stream.refused[tid] = "it has none of these events"
                    continue
                stream.refused.pop(tid, None)
                if mask:
                    wanted[tid] = wanted.get(tid, 0) | mask
        return wanted

    # --- acknowledging -------------------------------------------------------------------------

    def _acknowledge(self, event: Event) -> None:
        self._layer.submit(
            self._iop,
            UTIL_EVENT_ACK.build(
                target_address=event.tid,
                initiator_context=self._ack_cookie,
                event_indicator=event.indicator,
                event_data=int.from_bytes(event.data[:4], "little"),
            ),
            FRAME_WAIT_US,
            I2OTRANS_SLEEP,
        )

    # --- callbacks -----------------------------------------------------------------------------

    def _told(self, iop: int, reply: ReplyFrame) -> None:
        """Hear an event, or that a device does not take the registration."""
        tid = self._target_of(reply)
        self._layer.free_reply(iop, reply)  # the object is a copy: it can be kept
        if reply.failed:
            with self._lock:
                self._in_force.pop(tid, None)
            self._refuse(tid, describe(reply))
            return
        entry = self._devices.get(tid)
        event = Event(
            iop,
            tid,
            int(DeviceClass.EXECUTIVE) if tid == EXECUTIVE_TID else entry.class_id if entry else -1,
            int.from_bytes(reply[HEADER_SIZE:_DATA_START], "little"),
            bytes(reply[_DATA_START:]),
            time.time_ns(),
        )
        for stream in self._streams:
            stream.offer(event)
        new = event.lct_entry
        if new is not None and event.indicator & _NEW_ENTRY:
            with self._lock:
                self._devices[new.tid] = new
                self._in_force.pop(new.tid, None)  # whatever had this TID before
                self._is_behind = True
            self._catch_up()

    def _acknowledged(self, iop: int, reply: ReplyFrame) -> None:
        """Hear what a device says to an acknowledgement."""
        tid = self._target_of(reply)
        self._layer.free_reply(iop, reply)
        if reply.failed:
            self._refuse(tid, f"acknowledgement: {describe(reply)}")

    def _target_of(self, reply: ReplyFrame) -> int:
        """Return the TID a request went to. A FAIL reply's own header need not be right."""
        header: bytearray = reply
        if reply.failed:
            preserved = int.from_bytes(reply[28:32], "little")
            header = self._layer.mfa_convert(self._iop, preserved) or reply
        return int.from_bytes(header[4:6], "little") & 0xFFF

    def _refuse(self, tid: int, why: str) -> None:
        for stream in self._streams:
            if stream.wants(tid):
                stream.refused[tid] = why
