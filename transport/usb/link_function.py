# SPDX-License-Identifier: Apache-2.0
"""The device's end of a link: the function of a `UsbDevice` with the interface of `interface`.

What comes in becomes news, which whoever owns the link takes; bytes in, bytes out, no threads.
"""

from __future__ import annotations

import errno
import secrets
from collections import deque
from collections.abc import Callable
from enum import Enum, auto
from typing import Final, NamedTuple

from i2o.errors import RemoteFrameError
from i2o.frames.codec import Record
from i2o.transport.usb.interface import (
    BEGIN_LINK,
    DOORBELL,
    DOORBELL_ENDPOINT,
    FRAME_LIMIT,
    HEADER,
    IN_ENDPOINT,
    INTERFACE_NUMBER,
    LINK_INFO,
    MAGIC,
    MIN_FRAME_LIMIT,
    NO_LINK,
    OUT_ENDPOINT,
    REQUEST_IN,
    REQUEST_OUT,
    VERSION,
    DoorbellFlags,
    Request,
)
from i2o.transport.usb_device.descriptors import DeviceSpec
from i2o.transport.usb_device.device import UsbDevice

MAX_FRAMES: Final = 64
"""Frames that wait in either direction."""
MAX_BYTES: Final = 1 << 20
"""Bytes of frames that wait in either direction; one frame may always wait."""
MAX_NEWS: Final = 4 * MAX_FRAMES
"""News that nobody took, from which on a host may not begin another link."""


class NewsKind(Enum):
    """What may happen to a link."""

    UP = auto()
    FRAME = auto()
    ROOM = auto()
    LOST = auto()


class News(NamedTuple):
    """Something that happened.

    Attributes:
        kind: what.
        frame: the frame that came.
        code: of a loss, an errno.
        reason: of a loss, in words.
    """

    kind: NewsKind
    frame: bytes = b""
    code: int = 0
    reason: str = ""


class LinkFunction:
    """One device and its link.

    Args:
        spec: what the device tells of itself.
        wake: called when there is news.

    Attributes:
        device: for what carries its transfers.
        is_open: whether a host may begin a link.
        link: its number, or NO_LINK.
        stale: transfers that belonged to no link, and were ignored.
    """

    def __init__(self, spec: DeviceSpec, wake: Callable[[], None]) -> None:
        self._wake = wake
        self.is_open = False
        self.link = NO_LINK
        self.stale = 0
        self._incarnation = secrets.randbits(32)
        self._frame_limit = FRAME_LIMIT
        self._news: deque[News] = deque()
        self._frames_in = self._bytes_in = 0
        self._sizes: deque[int] = deque()  # of what the host has not taken
        self._bytes_out = self._frames_out = 0
        self._partial = bytearray()
        self._is_skipping = self._was_full = self._wants_room = False
        self._flags = DoorbellFlags(0)
        self.device = UsbDevice(spec, self)

    # --- for the owner, who holds the device's lock ----------------------------------------------

    def send(self, frame: bytes) -> bool:
        """Have a frame for the host; False if there is no room or no link, and news will come.

        Raises:
            RemoteFrameError: the host takes no frame of this size.
        """
        if self.link == NO_LINK or self._is_full_out(len(frame)):
            self._wants_room = True
            return False
        if len(frame) > self._frame_limit:
            raise RemoteFrameError(
                f"a frame of {len(frame)} bytes; the host takes {self._frame_limit}"
            )
        source = self.device.source(IN_ENDPOINT)
        was_asked = source.submitted
        self._frames_out = (self._frames_out + 1) & 0xFFFFFFFF
        self._sizes.append(len(frame))
        self._bytes_out += len(frame)
        source.push(HEADER.build(link=self.link, length=len(frame)) + frame)
        if not was_asked:
            self._ring(DoorbellFlags.FRAMES)
        return True

    def next_news(self) -> News | None:
        """Return the oldest news, if there is any."""
        if not self._news:
            return None
        news = self._news.popleft()
        if news.kind is NewsKind.FRAME:
            self._frames_in -= 1
            self._bytes_in -= len(news.frame)
            if self._was_full and self.wants(OUT_ENDPOINT):
                self._was_full = False
                self._ring(DoorbellFlags.ROOM)
                self.device.resume(OUT_ENDPOINT)
        return news

    def end(self) -> None:
        """End the link: the host is told after what it was sent before."""
        if self.link != NO_LINK:
            self._ring(DoorbellFlags.RESET)
            self.device.source(IN_ENDPOINT).push(b"")
            self._forget()

    # --- the function of the device --------------------------------------------------------------

    def control(self, setup: Record, data: bytes | memoryview) -> bytes | None:
        """Answer a request of the interface."""
        if setup.index & 0xFF != INTERFACE_NUMBER:
            return None
        asked = setup.request_type, setup.request
        if asked == (REQUEST_IN, Request.GET_LINK_INFO):
            return LINK_INFO.build(
                magic=MAGIC,
                version=VERSION,
                frame_limit=FRAME_LIMIT,
                incarnation=self._incarnation,
                link=self.link,
            )
        if asked == (REQUEST_OUT, Request.BEGIN_LINK) and len(data) == BEGIN_LINK.size:
            return self._begin(BEGIN_LINK.unpack_from(data))
        if asked == (REQUEST_OUT, Request.END_LINK):
            self._lose(errno.ECONNRESET, "the host ended the link")
            self._release()
            return b""
        return None

    def wants(self, endpoint: int) -> bool:
        """Whether there is room for another frame."""
        has_room = self._frames_in < MAX_FRAMES and self._bytes_in < MAX_BYTES
        self._was_full |= not has_room
        return has_room

    def take(self, endpoint: int, data: bytes | memoryview, ends: bool) -> bool:
        """Take a piece of a frame."""
        if not self._is_skipping:
            self._partial += data
            if len(self._partial) > HEADER.size + FRAME_LIMIT:
                self._is_skipping = True
                self._partial.clear()
                self._break("a transfer that is too long")
        if ends:
            partial, self._partial = self._partial, bytearray()
            if not self._is_skipping and partial:
                self._arrived(partial)
            self._is_skipping = False
        return True

    def taken(self, endpoint: int) -> None:
        """The host took a frame, or heard a doorbell."""
        if endpoint == DOORBELL_ENDPOINT:
            self._flags = DoorbellFlags(0)
        elif self._sizes:
            self._bytes_out -= self._sizes.popleft()
            if self._wants_room and self.link != NO_LINK:
                self._wants_room = False
                self._tell(News(NewsKind.ROOM))

    def cleared(self, endpoint: int) -> None:
        """The host cleared a halt: it sends the frame again."""
        if endpoint == OUT_ENDPOINT:
            self._partial.clear()
            self._is_skipping = False

    def configured(self, is_configured: bool) -> None:
        """The cable was pulled, or the host begins anew."""
        self._partial.clear()
        self._is_skipping = False
        self._flags = DoorbellFlags(0)
        self._sizes.clear()
        self._bytes_out = 0
        self._lose(errno.ECONNRESET, "the device was unplugged or configured anew")

    # ---------------------------------------------------------------------------------------------

    def _begin(self, begin: Record) -> bytes | None:
        is_right = (
            begin.magic == MAGIC
            and begin.version == VERSION
            and begin.link != NO_LINK
            and begin.frame_limit >= MIN_FRAME_LIMIT
        )
        if not is_right or not self.is_open or len(self._news) > MAX_NEWS:
            return None
        self._lose(errno.ECONNRESET, "the host began another link")
        self._partial.clear()
        self._is_skipping = False
        for endpoint in (IN_ENDPOINT, DOORBELL_ENDPOINT):
            self.device.source(endpoint).drop()
        self._flags = DoorbellFlags(0)
        self._sizes.clear()
        self._bytes_out = self._frames_out = 0
        self.link, self._frame_limit = begin.link, min(FRAME_LIMIT, begin.frame_limit)
        self._tell(News(NewsKind.UP))
        if self._wants_room:
            self._wants_room = False
            self._tell(News(NewsKind.ROOM))
        return b""

    def _arrived(self, transfer: bytearray) -> None:
        if self.link == NO_LINK or len(transfer) < HEADER.size:
            self.stale += 1
            return
        header = HEADER.unpack_from(transfer)
        if header.link != self.link:
            self.stale += 1
        elif header.length != len(transfer) - HEADER.size:
            self._break(f"a transfer of {len(transfer)} bytes for a frame of {header.length}")
        else:
            frame = bytes(memoryview(transfer)[HEADER.size :])
            self._frames_in += 1
            self._bytes_in += len(frame)
            self._tell(News(NewsKind.FRAME, frame))

    def _break(self, reason: str) -> None:
        """End a link whose host breaks the rules."""
        if self.link != NO_LINK:
            self.end()
            self._tell(News(NewsKind.LOST, b"", errno.EPROTO, f"the host sent {reason}"))

    def _lose(self, code: int, reason: str) -> None:
        if self.link != NO_LINK:
            self._forget()
            self._tell(News(NewsKind.LOST, b"", code, reason))

    def _forget(self) -> None:
        self.link = NO_LINK
        self._wants_room = False

    def _release(self) -> None:
        """Let reads of the host's end, so that it need not wait for them."""
        for endpoint in (IN_ENDPOINT, DOORBELL_ENDPOINT):
            source = self.device.source(endpoint)
            source.drop()
            for _ in range(source.submitted):
                source.push(b"")
        self._flags = DoorbellFlags(0)
        self._sizes.clear()
        self._bytes_out = 0

    def _is_full_out(self, size: int) -> bool:
        return bool(self._sizes) and (
            len(self._sizes) >= MAX_FRAMES or self._bytes_out + size > MAX_BYTES
        )

    def _ring(self, flags: DoorbellFlags) -> None:
        """Have the host woken; what it has not heard yet is in the same doorbell."""
        source = self.device.source(DOORBELL_ENDPOINT)
        source.drop()
        self._flags |= flags
        record = DOORBELL.build(flags=self._flags, link=self.link, frames=self._frames_out)
        source.push(record)

    def _tell(self, news: News) -> None:
        self._news.append(news)
        self._wake()
