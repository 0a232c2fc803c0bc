# SPDX-License-Identifier: Apache-2.0
"""One life of a link, from the host's side: from opening the device until it is let go again.

pyusb's calls wait, so there are three threads: one opens the device and reads frames, one writes
them, one listens to the doorbell. They end on their own when the link is lost or told to stop.
"""

from __future__ import annotations

import array
import contextlib
import errno
import os
import secrets
import struct
import threading
from collections import deque
from collections.abc import Callable
from typing import Final

from i2o.clock import SYSTEM_CLOCK, Clock
from i2o.errors import I2OError, RemoteFrameError
from i2o.frames.codec import Record
from i2o.transport.usb.host_device import HostDevice
from i2o.transport.usb.interface import (
    BEGIN_LINK,
    DOORBELL,
    DOORBELL_PACKET,
    FRAME_LIMIT,
    HEADER,
    LINK_INFO,
    MAGIC,
    MIN_FRAME_LIMIT,
    NO_LINK,
    TRANSFER_LIMIT,
    VERSION,
    DoorbellFlags,
    Request,
)
from i2o.transport.usb.link_function import MAX_BYTES, MAX_FRAMES, News, NewsKind

READ_MS: Final = 500
"""How long a read waits before it looks whether it is still wanted."""
WRITE_MS: Final = 2000
"""The same for a write. Some carriers of USB lose or double what is cancelled as it ends."""
STALL_S: Final = 30.0
"""How long a device may take to take a frame."""
LINGER_S: Final = 1.0
"""How long frames that were accepted may take to be sent when the link is ended."""
MAX_HALTS: Final = 8
"""Halts in a row without a transfer in between."""
_head = struct.Struct("<II")


class Link:
    """One life of a link.

    Args:
        opening: opens the device; may take a while.
        tell: takes the news, from any thread.
        before: the life before this one with the same device, which may not have ended.
        clock: for limits of time.

    Attributes:
        frame_limit: bytes of the largest frame, as soon as it is up.
    """

    def __init__(
        self,
        opening: Callable[[], HostDevice],
        tell: Callable[[Link, News], None],
        before: Link | None = None,
        *,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self._clock = clock
        self._opening, self._tell, self._before = opening, tell, before
        self._gate = threading.Condition()
        self.frame_limit = FRAME_LIMIT
        self._number = NO_LINK
        self._outbox: deque[bytes] = deque()
        self._outbox_bytes = 0
        self._unread = self._unread_bytes = 0
        self._received = 0
        self._reset_at: int | None = None  # frames after which the link is over
        self._is_up = self._is_over = self._is_stopping = self._wants_room = False
        self._stop_s = 0.0
        self._packet_size = 0
        self._threads = [threading.Thread(target=self._live, name="i2o-usb-in", daemon=True)]
        self._threads[0].start()

    # --- for the owner ---------------------------------------------------------------------------

    def send(self, frame: bytes) -> bool:
        """Accept a frame; False if there is no room, and news will come."""
        with self._gate:
            size = len(frame)
            is_full = self._outbox and (
                len(self._outbox) >= MAX_FRAMES or self._outbox_bytes + size > MAX_BYTES
            )
            if not self._is_up or is_full:
                self._wants_room = True
                return False
            if size > self.frame_limit:
                raise RemoteFrameError(
                    f"a frame of {size} bytes; the device takes {self.frame_limit}"
                )
            self._outbox.append(_head.pack(self._number, size) + frame)
            self._outbox_bytes += size
            self._gate.notify_all()
            return True

    def delivered(self, size: int) -> None:
        """A frame that was told of needs no room any more."""
        with self._gate:
            self._unread -= 1
            self._unread_bytes -= size
            self._gate.notify_all()

    def stop(self) -> None:
        """End the link after what was accepted; nothing is told any more."""
        with self._gate:
            self._is_over = True
            self._wind_up()

    def join(self) -> None:
        """Wait until the device is let go."""
        self._threads[0].join()

    # --- the life --------------------------------------------------------------------------------

    def _wind_up(self) -> None:
        if not self._is_stopping:
            self._is_stopping, self._stop_s = True, self._clock.monotonic()
        self._gate.notify_all()

    def _lose(self, code: int, reason: str) -> None:
        """Tell of the end of the link, once; what waits to be sent is lost."""
        with self._gate:
            is_first, self._is_over = not self._is_over, True
            if is_first:
                self._outbox.clear()
                self._tell(self, News(NewsKind.LOST, b"", code, reason))
            self._wind_up()

    def _live(self) -> None:
        before, self._before = self._before, None
        if before is not None:
            before.join()
        if self._is_stopping:
            return
        try:
            device = self._opening()
        except (OSError, I2OError, ValueError) as error:  # what pyusb says of odd descriptors
            self._lose(errno.EHOSTUNREACH, _words(error))
            return
        with device:
            try:
                self._begin(device)
            except (OSError, I2OError) as error:
                self._lose(errno.EHOSTUNREACH, _words(error))
                return
            others = [
                threading.Thread(target=run, args=(device,), name=f"i2o-usb-{name}", daemon=True)
                for name, run in (("out", self._write), ("doorbell", self._listen))
            ]
            for thread in others:
                thread.start()
            self._read(device)
            for thread in others:
                thread.join()

    def _begin(self, device: HostDevice) -> None:
        info = self._info(device)
        limit = min(FRAME_LIMIT, info.frame_limit)
        number = secrets.randbelow(0xFFFFFFFF) + 1
        begin = BEGIN_LINK.build(magic=MAGIC, version=VERSION, frame_limit=FRAME_LIMIT, link=number)
        try:
            device.control_out(Request.BEGIN_LINK, begin)
        except OSError as error:
            if error.errno != errno.EPIPE:
                raise
            raise RemoteFrameError("the device begins no link: nothing behind it runs") from None
        if self._info(device).link != number:
            raise RemoteFrameError("the device begins no link, and did not say why")
        with self._gate:
            self._number, self.frame_limit = number, limit
            self._packet_size = device.packet_size
            if not self._is_over:
                self._is_up = True
                self._tell(self, News(NewsKind.UP))
                if self._wants_room:
                    self._wants_room = False
                    self._tell(self, News(NewsKind.ROOM))

    @staticmethod
    def _info(device: HostDevice) -> Record:
        answer = device.control_in(Request.GET_LINK_INFO, LINK_INFO.size)
        info = LINK_INFO.unpack_from(answer)
        if info.magic != MAGIC or info.version != VERSION or info.frame_limit < MIN_FRAME_LIMIT:
            raise RemoteFrameError(
                f"the device speaks version {info.version}, with frames of {info.frame_limit} "
                f"bytes; version {VERSION} and {MIN_FRAME_LIMIT} bytes or more are needed"
            )
        return info

    # --- frames from the device ------------------------------------------------------------------

    def _read(self, device: HostDevice) -> None:
        size = (TRANSFER_LIMIT // device.packet_size + 1) * device.packet_size
        buffer = array.array("B", bytes(size))
        view, partial = memoryview(buffer), bytearray()
        halts = 0
        while self._may_read():
            try:
                count = device.read(buffer, READ_MS)
                halts = 0
                if count or partial:
                    partial += view[:count]
                    self._take(partial)
                elif not self._is_stopping and self._info(device).link != self._number:
                    self._lose(errno.ECONNRESET, "the device ended the link")
            except OSError as error:
                if error.errno == errno.ETIMEDOUT:
                    continue
                halts += 1
                if error.errno != errno.EPIPE or partial or halts > MAX_HALTS:
                    self._lose(errno.ECONNRESET, _words(error))
                    return
                self._cleared(device.clear_in)
            except RemoteFrameError as error:
                self._lose(errno.EPROTO, str(error))

    def _may_read(self) -> bool:
        """Wait until there is room for a frame; False when the link is to end."""
        with self._gate:
            while not self._is_stopping and (
                self._unread >= MAX_FRAMES or self._unread_bytes >= MAX_BYTES
            ):
                self._gate.wait()
            return not self._is_stopping

    def _take(self, partial: bytearray) -> None:
        """Take what is a whole frame out of what was read; raises RemoteFrameError."""
        if len(partial) < HEADER.size:
            return
        link, length = _head.unpack_from(partial)
        if link != self._number:
            partial.clear()  # what an earlier link left
            return
        if length > self.frame_limit or len(partial) > HEADER.size + length:
            raise RemoteFrameError(f"the device sent {len(partial)} bytes for a frame of {length}")
        if len(partial) < HEADER.size + length:
            return  # the rest comes with the next read, as time ran out in the middle
        frame = bytes(memoryview(partial)[HEADER.size :])
        partial.clear()
        with self._gate:
            if self._is_over:
                return
            self._received = (self._received + 1) & 0xFFFFFFFF
            self._unread += 1
            self._unread_bytes += length
            self._tell(self, News(NewsKind.FRAME, frame))
            is_last = self._received == self._reset_at
        if is_last:
            self._lose(errno.ECONNRESET, "the device ended the link")

    # --- frames to the device --------------------------------------------------------------------

    def _write(self, device: HostDevice) -> None:
        while (transfer := self._next_transfer()) is not None:
            try:
                self._write_one(device, transfer)
            except OSError as error:
                self._lose(errno.ECONNRESET, _words(error))
                break
            with self._gate:
                self._outbox_bytes -= len(transfer) - HEADER.size
                if self._wants_room and not self._is_over:
                    self._wants_room = False
                    self._tell(self, News(NewsKind.ROOM))
        self._cleared(lambda: device.control_out(Request.END_LINK))

    def _next_transfer(self) -> bytes | None:
        with self._gate:
            while not self._outbox and not self._is_stopping:
                self._gate.wait()
            return self._outbox.popleft() if self._outbox else None

    def _write_one(self, device: HostDevice, transfer: bytes) -> None:
        left, halts = memoryview(transfer), 0
        owes_end = len(transfer) % self._packet_size == 0
        end_s = self._clock.monotonic() + STALL_S
        while left or owes_end:
            if self._is_stopping:
                end_s = min(end_s, self._stop_s + LINGER_S)
            if self._clock.monotonic() > end_s:
                raise TimeoutError(errno.ETIMEDOUT, "the device takes nothing")
            try:
                count = device.write(left, WRITE_MS)
            except OSError as error:
                if error.errno == errno.ETIMEDOUT:
                    continue
                halts += 1
                if error.errno != errno.EPIPE or halts > MAX_HALTS:
                    raise
                device.clear_out()
                left, owes_end = memoryview(transfer), len(transfer) % self._packet_size == 0
                continue
            if not left:
                owes_end = False
            left = left[count:]

    # --- doorbells -------------------------------------------------------------------------------

    def _listen(self, device: HostDevice) -> None:
        buffer = array.array("B", bytes(DOORBELL_PACKET))
        halts = 0
        while not self._is_stopping:
            try:
                count = device.read_doorbell(buffer, READ_MS)
                halts = 0
            except OSError as error:
                if error.errno == errno.ETIMEDOUT:
                    continue
                halts += 1
                if error.errno != errno.EPIPE or halts > MAX_HALTS:
                    self._lose(errno.ECONNRESET, _words(error))
                    return
                self._cleared(device.clear_doorbell)
                continue
            if count < DOORBELL.size:
                continue
            doorbell = DOORBELL.unpack_from(buffer)
            if doorbell.link == self._number and doorbell.flags & DoorbellFlags.RESET:
                with self._gate:
                    self._reset_at = doorbell.frames
                    is_last = self._received == doorbell.frames
                if is_last:
                    self._lose(errno.ECONNRESET, "the device ended the link")

    @staticmethod
    def _cleared(call: Callable[[], None]) -> None:
        with contextlib.suppress(OSError):  # what comes next says so
            call()


def _words(error: Exception) -> str:
    """Return what an error says."""
    if isinstance(error, OSError):
        return error.strerror or os.strerror(error.errno or errno.EIO)
    return str(error)
