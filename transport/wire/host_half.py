# SPDX-License-Identifier: Apache-2.0
"""The host's half of a session: which frames are whose, and what to say and do about it.

Bytes in, bytes out: `take` is given the packets that came, `writer` has those to send. What the
device sends is checked like what anybody else sends; nonsense ends the session.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any, Final, Protocol

from i2o.errors import DmaFault, LocalFrameError, RemoteFrameError
from i2o.transport.capture.dma_tap import TapRules
from i2o.transport.device_unit import DmaSpace
from i2o.transport.host_memory import HostMemory
from i2o.transport.landing import Landing, LandingMemory
from i2o.transport.local_unit import FRAME_AREA, FRAME_AREA_END, MIN_FRAME_SIZE
from i2o.transport.port import EMPTY
from i2o.transport.wire.messages import (
    DEVICE_KINDS,
    MAX_ARENA,
    MAX_ASKED,
    MAX_RANGES,
    MAX_RELEASED,
    MIN_PACKET,
    Kind,
    RangeFlags,
    Status,
    WelcomeFlags,
    forms,
    record_packer,
)
from i2o.transport.wire.stream import Head, PlacedPacket, StreamReader, StreamWriter

_HEADER_SIZE: Final = 16
_WITH_DEVICE, _FREE, _WITH_HOST, _IS_STATIC = range(4)
_RELEASES_KEPT: Final = 64  # then they are said, although nothing else is
_pack_post = record_packer(Kind.POST).pack
_pack_post_static = record_packer(Kind.POST_STATIC).pack
_pack_range = record_packer(Kind.RANGE).pack
_pack_release = record_packer(Kind.RELEASE).pack
_pack_run = record_packer(Kind.RELEASE_RUN).pack
_pack_data = record_packer(Kind.DATA).pack
_pack_done = record_packer(Kind.DONE).pack
_POST, _POST_STATIC, _RANGE = int(Kind.POST), int(Kind.POST_STATIC), int(Kind.RANGE)
_READ, _WRITE, _DATA = int(RangeFlags.READ), int(RangeFlags.WRITE), int(RangeFlags.DATA)
_READ_DATA: Final = _READ | _DATA
_WRITE_DATA: Final = _WRITE | _DATA
_MIRRORED: Final = 4096
"""Bytes up to which memory that an arena's device may write is sent along, as it was."""


class WireMemory(HostMemory, DmaSpace, Protocol):
    """The host's buffers, and what a device does to them."""


class Terms:
    """What a WELCOME says, checked.

    Args:
        welcome: the record.

    Raises:
        RemoteFrameError: no IOP can be like that.

    Attributes:
        credits: packets that the device takes at first.
        packet_size: bytes of the largest packet that it takes.
        frame_count: inbound frames.
        frame_size: bytes of each.
        has_arena: whether buffers must be in the device's arena.
        base: its bus address.
        size: its bytes.
        push_limit: bytes that may go along with requests.
    """

    def __init__(self, welcome: Any) -> None:
        self.credits, self.packet_size = welcome.window, welcome.packet_size
        self.frame_count, self.frame_size = welcome.frame_count, welcome.frame_size
        self.generation = welcome.generation
        self.reply_generation = welcome.reply_generation
        self.is_starved = bool(welcome.flags & WelcomeFlags.STARVED)
        self.has_arena = bool(welcome.flags & WelcomeFlags.ARENA)
        self.base, self.size, self.push_limit = welcome.base, welcome.size, welcome.push_limit
        room = FRAME_AREA_END - FRAME_AREA
        if (
            self.frame_size < MIN_FRAME_SIZE
            or self.frame_size % 4
            or not 1 <= self.frame_count <= room // self.frame_size
        ):
            raise RemoteFrameError(
                f"{self.frame_count} inbound frames of {self.frame_size} bytes: no IOP is like that"
            )
        if self.has_arena and not (0 < self.size <= MAX_ARENA and self.base + self.size <= 1 << 32):
            raise RemoteFrameError(f"an arena of {self.size:#x} bytes at {self.base:#010x}")
        if self.credits < 2 or self.packet_size < MIN_PACKET:
            raise RemoteFrameError(
                f"{self.credits} packets of {self.packet_size} bytes are too few or too small"
            )


class HostHalf:
    """One session, from its WELCOME on.

    Args:
        terms: what the device said.
        writer: the outgoing stream.
        memory: the host's buffers.
        on_misuse: called with a sentence when the host or the device does what it should not.

    Attributes:
        writer: the outgoing stream.
        rules: what there is to know of messages; with them the data that a request points to
            go along with it.
        generation: which reset of the IOP this is after.
        heard: packets that came.
        news: how often something came that a waiting host wants to look at.
        is_ended: the device said BYE.
    """

    def __init__(
        self,
        terms: Terms,
        writer: StreamWriter,
        memory: WireMemory,
        on_misuse: Callable[[str], None],
    ) -> None:
        self.frame_count: int = terms.frame_count
        self.frame_size: int = terms.frame_size
        self.writer, self.memory, self._on_misuse = writer, memory, on_misuse
        self._landings = memory if isinstance(memory, LandingMemory) else None
        self.rules = TapRules()
        self._frames = bytearray(self.frame_count * self.frame_size)
        self._places = [_WITH_DEVICE] * self.frame_count
        self._free: deque[int] = deque()
        self._posts_left: dict[int, int] = {}
        self._replies: deque[int] = deque()
        self._handed_in: set[int] = set()
        self._releases: list[int] = []
        self._starved = terms.is_starved
        self._has_arena = terms.has_arena
        self._push_left = terms.push_limit
        self._push_limit = terms.push_limit
        self._asked = 0
        self.generation, self._reply_generation = terms.generation, terms.reply_generation
        self._store_fault = False
        self.heard = self.news = 0
        self.is_ended = False
        self._refill()
        self.reader = StreamReader(
            forms(DEVICE_KINDS),
            {
                Kind.BYE: self._on_bye,
                Kind.PING: lambda fields, text: self.writer.add(bytes((Kind.PONG,))),
                Kind.PONG: lambda fields, text: None,
                Kind.WELCOME: lambda fields, text: None,
                Kind.FREE: self._on_free,
                Kind.PRESERVE: self._on_preserve,
                Kind.STATIC: self._on_static,
                Kind.RENEW: self._on_renew,
                Kind.REPLY: self._on_reply,
                Kind.DROP: self._on_drop,
                Kind.REFILL: self._on_refill,
                Kind.STARVE: self._on_starve,
                Kind.FETCH: self._on_fetch,
                Kind.TAKEN: self._on_taken,
            },
            {Kind.WRITE: self._on_write, Kind.STORE: self._on_store},
            landings={Kind.WRITE: self._landing},
            on_fault=on_misuse,
        )

    # --- what a port does ------------------------------------------------------------------------

    def alloc(self) -> int:
        """Pop a free inbound MFA, or EMPTY."""
        if self._starved or not self._free:
            return EMPTY
        index = self._free.popleft()
        self._places[index] = _WITH_HOST
        return FRAME_AREA + index * self.frame_size

    def write(self, mfa: int, frame: bytes | bytearray | memoryview) -> None:
        """Copy a request into an inbound frame; raises LocalFrameError if it does not fit."""
        start, size = mfa - FRAME_AREA, len(frame)
        index, odd = divmod(start, self.frame_size)
        if odd or not 0 <= index < self.frame_count or self._places[index] != _WITH_HOST:
            raise LocalFrameError(f"MFA {mfa:#010x} is not the host's to write: allocate it first")
        if size > self.frame_size:
            raise LocalFrameError(
                f"a frame of {size} bytes does not fit: inbound frames have {self.frame_size}"
            )
        self._frames[start : start + size] = frame

    def read_inbound(self, mfa: int, size: int) -> bytes:
        """Read an inbound frame; raises LocalFrameError for an MFA that is none."""
        start = mfa - FRAME_AREA
        index, odd = divmod(start, self.frame_size)
        if odd or not 0 <= index < self.frame_count or not 0 <= size <= self.frame_size:
            raise LocalFrameError(f"{size} bytes at {mfa:#010x} are no inbound frame of this IOP")
        return bytes(self._frames[start : start + size])

    def post(self, mfa: int) -> None:
        """Send a request, and the data that it points to if rules say which those are."""
        start = mfa - FRAME_AREA
        index, odd = divmod(start, self.frame_size)
        place = self._places[index] if not odd and 0 <= index < self.frame_count else _FREE
        if place == _IS_STATIC and self._posts_left[index]:
            self._posts_left[index] -= 1
            self._say_releases()
            self.writer.add(_pack_post_static(_POST_STATIC, self.generation, index))
            return
        if place != _WITH_HOST:
            self._on_misuse(f"MFA {mfa:#010x} was posted to 0x40, but the host does not hold it")
            return
        self._places[index] = _WITH_DEVICE
        words: int = int.from_bytes(self._frames[start + 2 : start + 4], "little")
        size = min(max(4 * words, _HEADER_SIZE), self.frame_size)
        frame = bytes(self._frames[start : start + size])
        self._say_releases()
        if self.rules.find_ranges is not None:
            self._say_ranges(frame)
        self.writer.add(_pack_post(_POST, self.generation, index, size >> 2) + frame)

    def reap(self) -> int:
        """Pop a reply MFA, or EMPTY."""
        return self._replies.popleft() if self._replies else EMPTY

    @property
    def reply_pending(self) -> bool:
        """Whether a reply is here already."""
        return bool(self._replies)

    def release(self, mfa: int) -> None:
        """Give a reply frame to the device."""
        if mfa == EMPTY or mfa % 4:
            self._on_misuse(f"{mfa:#010x} was released to 0x44: a frame address is a word's")
        elif mfa in self._handed_in:
            self._on_misuse(f"reply frame {mfa:#010x} was released twice: the IOP holds it")
        elif len(self._handed_in) >= MAX_RELEASED:
            self._on_misuse(f"more than {MAX_RELEASED} reply frames were released to 0x44")
        else:
            self._handed_in.add(mfa)
            self._releases.append(mfa)
            if len(self._releases) >= _RELEASES_KEPT:
                self._say_releases()

    def say(self, kind: Kind) -> None:
        """Send a record that has no fields."""
        self.writer.add(bytes((kind,)))

    def settle(self) -> None:
        """Say what was not said yet, because more of it might have come."""
        self._say_releases()

    def take(self, head: Head, body: memoryview) -> None:
        """Take a packet; raises RemoteFrameError if the device cannot mean it."""
        self.heard += 1
        self.reader.take(head, body, self.writer)

    def begin(
        self, head: Head, front: memoryview, size: int, on_end: Callable[[str], None]
    ) -> PlacedPacket | None:
        """Take the front of a packet whose data can be read into their place, or none of it.

        See `StreamReader.begin`.
        """
        packet = self.reader.begin(head, front, size, self.writer, on_end)
        if packet is not None:
            self.heard += 1
        return packet

    # --- what goes out ---------------------------------------------------------------------------

    def _say_releases(self) -> None:
        """Send frames that were released, evenly spaced ones in one record."""
        releases = self._releases
        at, generation = 0, self._reply_generation
        while at < len(releases):
            first = releases[at]
            count, step = 1, 0
            if at + 1 < len(releases) and 0 < releases[at + 1] - first <= 0xFFFF:
                step = releases[at + 1] - first
                while at + count < len(releases) and releases[at + count] == first + count * step:
                    count += 1
            if count > 1:
                self.writer.add(_pack_run(Kind.RELEASE_RUN, generation, first, step, count))
            else:
                self.writer.add(_pack_release(Kind.RELEASE, generation, first))
            at += count
        releases.clear()

    def _say_ranges(self, frame: bytes) -> None:
        """Tell the device which memory a request points to, and what is in it."""
        find = self.rules.find_ranges
        assert find is not None
        writer, window = self.writer, self.memory.window
        for _, _, address, length, to_device in find(frame, read_host=window)[:MAX_RANGES]:
            try:
                view = window(address, length)
            except DmaFault:
                continue  # the device asks, and is told
            is_sent = length <= self._push_left and (
                to_device or (self._has_arena and length <= _MIRRORED)
            )
            flags = (_READ if to_device else _WRITE) | (_DATA if is_sent else 0)
            writer.add(_pack_range(_RANGE, flags, address, length))
            if is_sent:
                self._push_left -= length
                writer.add_data(view)

    # --- what comes in ---------------------------------------------------------------------------

    def _index(self, index: int) -> int:
        if index >= self.frame_count:
            raise RemoteFrameError(f"the device told of frame {index}, it has {self.frame_count}")
        return index

    def _on_bye(self, fields: tuple[int, ...], text: memoryview) -> None:
        self.is_ended = True
        self.news += 1

    def _on_free(self, fields: tuple[int, ...], text: memoryview) -> None:
        index = self._index(fields[0])
        if self._places[index] == _FREE:
            raise RemoteFrameError(f"the device freed frame {index}, which is free")
        self._places[index] = _FREE
        self._posts_left.pop(index, None)
        self._free.append(index)
        self.news += 1

    def _on_preserve(self, fields: tuple[int, ...], text: memoryview) -> None:
        self._places[self._with_device(fields[0])] = _WITH_HOST

    def _on_static(self, fields: tuple[int, ...], text: memoryview) -> None:
        index = self._with_device(fields[0])
        self._places[index] = _IS_STATIC
        self._posts_left[index] = fields[1]

    def _on_renew(self, fields: tuple[int, ...], text: memoryview) -> None:
        index = self._index(fields[0])
        if self._places[index] != _IS_STATIC:
            raise RemoteFrameError(f"the device renewed frame {index}, which is not static")
        self._posts_left[index] += 1

    def _with_device(self, index: int) -> int:
        if self._places[self._index(index)] != _WITH_DEVICE:
            raise RemoteFrameError(f"the device told of frame {index}, which it does not hold")
        return index

    def _on_reply(self, fields: tuple[int, ...], text: memoryview) -> None:
        address = fields[0]
        if address not in self._handed_in:
            self._on_misuse(f"a reply came in frame {address:#010x}, which was not handed in")
            return
        self._handed_in.discard(address)
        try:
            self.memory.write(address, text)
        except DmaFault as fault:
            self._on_misuse(f"reply frame {address:#010x} that was released to 0x44: {fault}")
            return
        self._replies.append(address)
        self.news += 1

    def _on_drop(self, fields: tuple[int, ...], text: memoryview) -> None:
        self._reply_generation = fields[0]
        self._replies.clear()
        self._handed_in.clear()
        self._releases.clear()
        self.news += 1

    def _on_refill(self, fields: tuple[int, ...], text: memoryview) -> None:
        self.generation = fields[0]
        self._refill()
        self.news += 1

    def _refill(self) -> None:
        self._free.clear()
        self._posts_left.clear()
        self._places[:] = [_FREE] * self.frame_count
        self._free.extend(range(self.frame_count))

    def _on_starve(self, fields: tuple[int, ...], text: memoryview) -> None:
        self._starved = bool(fields[0])
        self.news += 1

    def _on_taken(self, fields: tuple[int, ...], text: memoryview) -> None:
        self._push_left += fields[0]
        if self._push_left > self._push_limit:
            raise RemoteFrameError(f"the device gave {fields[0]} bytes back that it did not have")

    def _on_write(self, fields: tuple[int, ...], done: int, piece: memoryview) -> None:
        if piece:
            try:
                self.memory.write(fields[0] + done, piece)
            except DmaFault as fault:
                self._on_misuse(str(fault))
        if done + len(piece) == fields[1]:
            self.news += 1

    def _landing(self, fields: tuple[int, ...]) -> Landing | None:
        """Return where the data of a WRITE belong, if the memory there can be read into."""
        address, length = fields
        try:
            return None if self._landings is None else self._landings.landing(address, length)
        except DmaFault:
            return None  # `_on_write` says so

    def _on_store(self, fields: tuple[int, ...], done: int, piece: memoryview) -> None:
        """Write what the device was not told of, and answer whether that could be.

        All of it must be in one buffer before the first byte is written.
        """
        tag, address, length = fields
        if not done:
            try:
                self._store_fault = self.memory.window(address, length).readonly
            except DmaFault:
                self._store_fault = True
        if not self._store_fault:
            try:
                self.memory.write(address + done, piece)
            except DmaFault:  # it was freed meanwhile
                self._store_fault = True
        if done + len(piece) == length:
            self._answer(tag, Status.FAULT if self._store_fault else Status.OK)
            self.news += 1

    def _on_fetch(self, fields: tuple[int, ...], text: memoryview) -> None:
        tag, address, length = fields
        try:
            view = self.memory.window(address, length)
        except DmaFault:
            self._answer(tag, Status.FAULT)
            return
        self._count_asked()
        self.writer.add(_pack_data(Kind.DATA, tag, length))
        self.writer.add_data(view, self._answered)
        self.news += 1

    def _answer(self, tag: int, status: Status) -> None:
        self._count_asked()
        self.writer.add(_pack_done(Kind.DONE, tag, status))
        self._answered()

    def _count_asked(self) -> None:
        if self._asked >= MAX_ASKED:
            raise RemoteFrameError(f"the device asks for more than {MAX_ASKED} things at a time")
        self._asked += 1

    def _answered(self) -> None:
        self._asked -= 1
