# SPDX-License-Identifier: Apache-2.0
"""Serves the IOP behind any port, a real card for example, to a host somewhere else.

The card reaches only memory of the machine that it is in. So one buffer there is the arena of the
host's buffers: both have the same bus addresses, what a request reads is copied to it before the
post, and what it wrote is sent back before the reply. Frames pass as they are, but for the
addresses of frames that FAIL replies preserve: the card gets its frame back, the host its own.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from i2o.errors import DmaFault, I2OError, IopDead, LocalFrameError, TransportUnavailable
from i2o.frames.header import HEADER_SIZE, MsgFlags
from i2o.transport.capture.dma_tap import NOTHING_MOVED, TapRules
from i2o.transport.host_memory import HostBuffer
from i2o.transport.lazy_memory import clear
from i2o.transport.port import EMPTY, Port, ReturningPort
from i2o.transport.wire.messages import RangeFlags
from i2o.transport.wire.wire_server import Arena
from i2o.transport.wire.wire_unit import Range, WireUnit

logger = logging.getLogger(__name__)

FRAMES: Final = 256
"""Inbound frames of the host: as many requests can be on their way."""
_MAX_FRAME_SIZE: Final = 4096
_ARENA_SIZES: Final = tuple(1 << bits for bits in range(26, 18, -1))
_LOOK_NS: Final = 1_000_000
_WATCH_NS: Final = 60_000_000_000
_MAX_WATCHED: Final = 64
_ANSWER_NS: Final = 1_000_000_000
_ROUND: Final = 64
_TRIES: Final = 3
_LAST, _FAIL = int(MsgFlags.LAST), int(MsgFlags.FAIL)
_READ, _WRITE = int(RangeFlags.READ), int(RangeFlags.WRITE)
_STATUS: Final = 19
_KEY: Final = slice(4, HEADER_SIZE)
_PRESERVED: Final = slice(28, 32)
_MOST: Final = 4 * 0xFFFF


@dataclass(frozen=True, slots=True)
class BridgeRules:
    """What a bridge must be told about messages, since transports know no function codes.

    Attributes:
        messages: what is known of requests.
        resets: whether a request makes the IOP forget everything, and give its frames back.
        nothing: a message that does nothing and is not answered, to give a frame back with.
    """

    messages: TapRules = field(default_factory=TapRules)
    resets: Callable[[bytes], bool] = lambda frame: False
    nothing: bytes = b""


class _Watched:
    """Memory that the card answers through, without a reply."""

    __slots__ = ("address", "before", "ends_ns", "known", "length", "seen")

    def __init__(self, address: int, length: int, known: bytes, ends_ns: int) -> None:
        self.address, self.length, self.ends_ns = address, length, ends_ns
        self.before = self.known = self.seen = known


class PortBridge:
    """What a `WireServer` serves when the IOP is behind a port.

    Args:
        port: the port; it stays the caller's to close.
        rules: what there is to know of messages.

    Raises:
        TransportUnavailable: the port has no memory for the buffers of a host.

    Attributes:
        unit: the queue pair that hosts see.
        arena: where their buffers must be.
    """

    def __init__(self, port: Port, rules: BridgeRules) -> None:
        self._port, self._rules = port, rules
        self._buffer = _arena_of(port)
        self.arena = Arena(self._buffer.bus_address, len(self._buffer.view))
        self.unit = WireUnit(
            frame_count=FRAMES,
            frame_size=min(port.inbound_size, _MAX_FRAME_SIZE) & ~3,
            on_misuse=lambda sentence: logger.warning("%s: %s", port.name, sentence),
            unanswered=rules.messages.unanswered,
        )
        self._frame = EMPTY  # of the card, taken and not used yet
        self._reply_size = HEADER_SIZE
        self._is_resetting = False
        self._reset_words: tuple[_Watched, ...] = ()
        self._reset_ns = 0
        self._is_used = False  # the card may write to the arena
        self._watched: deque[_Watched] = deque()
        self._held: dict[int, bytes] = {}  # the host's frames: words 1 to 3 of what is in them
        port.mask_interrupt(False)

    def run(self, now_ns: int) -> int | None:
        """Pass on what there is, both ways; raises IopDead."""
        is_waiting = self._pass_requests(now_ns)
        self._pass_reply_frames()
        self._pass_replies()
        self._look(now_ns)
        if self._is_resetting and self._has_reset(now_ns) and self._take_frame():
            self._is_resetting = False
            self.unit.starve(False)
        if is_waiting or self._watched or self._is_resetting:
            return now_ns + _LOOK_NS
        return self._port.next_deadline_ns()

    def power_cycle(self) -> None:
        """Reset the card unless it was left in RESET; forget everything."""
        if isinstance(self._port, ReturningPort):
            self._port.reconnect()
        if self._is_used:
            try:
                self._port.reset()
            except IopDead as error:
                logger.warning("%s: %s", self._port.name, error)
            self._is_used = False
            self._frame = EMPTY
        self._watched.clear()
        self._held.clear()
        clear(self._buffer.view)
        self._is_resetting = False
        self.unit.starve(False)
        self.unit.drop_replies()
        self.unit.refill()

    def filenos(self) -> Sequence[int]:
        """Return the port's descriptor."""
        descriptor = self._port.fileno()
        return () if descriptor < 0 else (descriptor,)

    def close(self) -> None:
        """Give the arena back."""
        self._buffer.free()

    def _has_reset(self, now_ns: int) -> bool:
        """Whether the card said what it does about a reset, or had the time to."""
        if any(word.known != word.before for word in self._reset_words):
            return True
        return now_ns - self._reset_ns > (_ANSWER_NS if self._reset_words else _LOOK_NS)

    # --- to the card -----------------------------------------------------------------------------

    def _take_frame(self) -> bool:
        """Have a free frame of the card's; an empty port is read twice."""
        if self._frame == EMPTY:
            self._frame = self._port.alloc()
            if self._frame == EMPTY:
                self._frame = self._port.alloc()
        return self._frame != EMPTY

    def _pass_requests(self, now_ns: int) -> bool:
        """Post what the host posted; return whether more waits for frames of the card."""
        unit, rules = self.unit, self._rules
        for _ in range(_ROUND):
            if self._is_resetting or not unit.posted_inbound():
                return False
            if not self._take_frame():
                return True
            posted = unit.fetch()
            if posted is None:
                return False
            mfa, frame = posted
            ranges = unit.ranges_of(mfa)
            self._fill(ranges)
            function = frame[7]
            reply_size = 0
            if function in rules.messages.unanswered:
                self._watch(ranges, now_ns)
                if rules.messages.reply_frame_size is not None:
                    reply_size = rules.messages.reply_frame_size(frame)
                if reply_size:
                    self._reply_size = min(max(reply_size, HEADER_SIZE), _MOST)
                    unit.drop_replies()
            if reply_size or function not in rules.messages.unanswered:
                self._is_used = True
            is_reset = rules.resets(frame)
            if is_reset:
                unit.drop_replies()
                unit.refill()
                unit.starve(True)
                self._is_resetting, self._is_used = True, False
                self._reset_words = tuple(self._watched)[-len(ranges) :] if ranges else ()
                self._reset_ns = now_ns
                self._held.clear()
            elif function in rules.messages.unanswered:
                unit.recycle(mfa)
            else:
                self._hold(mfa, frame)
            self._post(frame)
        return bool(unit.posted_inbound())

    def _post(self, frame: bytes) -> None:
        """Post a message in the frame that was taken; in another one if a reset took that away."""
        for _ in range(_TRIES):
            if self._take_frame():
                mfa, self._frame = self._frame, EMPTY
                try:
                    self._port.write(mfa, frame)
                except LocalFrameError:
                    continue
                self._port.post(mfa)
                return
        logger.warning("%s: a request is lost: no frame came free", self._port.name)

    def _hold(self, mfa: int, frame: bytes) -> None:
        """Keep the host's frame until there is an answer: a FAIL reply gives that very frame back.

        Registrations may never be answered, so the oldest go when there are many.
        """
        self._held[mfa] = frame[_KEY]
        if len(self._held) > FRAMES // 2:
            self._let_go(next(iter(self._held)))

    def _let_go(self, mfa: int) -> None:
        del self._held[mfa]
        self.unit.recycle(mfa)

    def _fill(self, ranges: list[Range]) -> None:
        """Put what the host's buffers hold into the arena."""
        for known in ranges:
            length = known.end - known.address
            try:
                place = self._place(known.address, length)
                if known.data is not None:
                    place[:] = known.data
                elif known.flags & _READ:
                    place[:] = self.unit.fetch_memory(known.address, length)
            except DmaFault as fault:
                logger.warning("%s: %s", self._port.name, fault)
                continue
            self._buffer.to_device(known.address - self.arena.base, length)

    def _pass_reply_frames(self) -> None:
        unit, base, size = self.unit, self.arena.base, self.arena.size
        while (mfa := unit.take_reply_frame()) != EMPTY:
            if base <= mfa and mfa + self._reply_size <= base + size:
                self._port.release(mfa)
            else:
                logger.warning("%s: reply frame %#010x is not in the arena", self._port.name, mfa)

    # --- from the card ---------------------------------------------------------------------------

    def _pass_replies(self) -> None:
        """Send the replies that the card has posted; an empty port is read twice."""
        port = self._port
        for _ in range(_ROUND):
            mfa = port.reap()
            if mfa == EMPTY:
                mfa = port.reap()
                if mfa == EMPTY:
                    return
            try:
                size = 4 * int.from_bytes(port.outbound(mfa, HEADER_SIZE)[2:4], "little")
                size = min(max(size, HEADER_SIZE), self._reply_size)
                reply = bytearray(port.outbound(mfa, size))
            except I2OError as error:  # it is none of ours
                logger.warning("%s: reply at %#010x: %s", port.name, mfa, error)
                continue
            if reply[1] & _FAIL:
                self._preserve(reply)
            else:
                held = self._held_for(reply[_KEY])
                if held != EMPTY:
                    self._let_go(held)
                if reply[1] & _LAST:
                    self._send_back(reply)
            self.unit.post_reply(mfa, bytes(reply))

    def _held_for(self, key: bytes | bytearray) -> int:
        """Return the host's frame with the oldest request that has these words, or EMPTY."""
        return next((mfa for mfa, other in self._held.items() if other == key), EMPTY)

    def _preserve(self, reply: bytearray) -> None:
        """Give the card's preserved frame home, and leave the host's with the host."""
        inner = int.from_bytes(reply[_PRESERVED], "little")
        if len(reply) < _PRESERVED.stop or inner == EMPTY:
            return
        held = EMPTY
        try:
            held = self._held_for(self._port.read_inbound(inner, HEADER_SIZE)[_KEY])
            self._port.write(inner, self._rules.nothing)
            self._port.post(inner)
        except I2OError as error:
            logger.warning("%s: preserved frame %#010x: %s", self._port.name, inner, error)
        if held != EMPTY:
            del self._held[held]
            self.unit.preserve(held)
        reply[_PRESERVED] = held.to_bytes(4, "little")

    def _send_back(self, reply: bytearray) -> None:
        """Send what a request wrote to the arena, unless its reply says that it wrote nothing."""
        if len(reply) > _STATUS and reply[_STATUS] in NOTHING_MOVED:
            return
        for known in self.unit.ranges_answered(bytes(reply)):
            if known.flags & _WRITE:
                length = known.end - known.address
                try:
                    place = self._place(known.address, length)
                except DmaFault:
                    continue
                self._buffer.from_device(known.address - self.arena.base, length)
                self.unit.send_memory(known.address, memoryview(bytes(place)), None)

    def _watch(self, ranges: list[Range], now_ns: int) -> None:
        """Look at memory that is going to change without a reply."""
        for known in ranges:
            if not known.flags & _WRITE:
                continue
            length = known.end - known.address
            try:
                content = bytes(self._place(known.address, length))
            except DmaFault:
                continue
            self._watched = deque(
                other
                for other in self._watched
                if other.address >= known.end or known.address >= other.address + other.length
            )
            self._watched.append(_Watched(known.address, length, content, now_ns + _WATCH_NS))
            if len(self._watched) > _MAX_WATCHED:
                self._watched.popleft()

    def _look(self, now_ns: int) -> None:
        """Send watched memory that has changed, once it is the same at two looks."""
        for watched in tuple(self._watched):
            self._buffer.from_device(watched.address - self.arena.base, watched.length)
            content = bytes(self._place(watched.address, watched.length))
            if content != watched.known and content == watched.seen:
                watched.known = content
                self.unit.send_memory(watched.address, memoryview(content), None)
            watched.seen = content
            if now_ns >= watched.ends_ns:
                self._watched.remove(watched)

    def _place(self, address: int, length: int) -> memoryview:
        start = address - self.arena.base
        if not 0 <= start <= start + length <= self.arena.size:
            raise DmaFault(address, length, "it is not in the arena of this server")
        return self._buffer.view[start : start + length]


def _arena_of(port: Port) -> HostBuffer:
    """Allocate as much of a port's memory as there is in one piece, up to 64 MiB."""
    for size in _ARENA_SIZES:
        try:
            buffer = port.memory.allocate(size)
        except MemoryError:
            continue
        if len(buffer.segments) == 1:
            return buffer
        buffer.free()
    raise TransportUnavailable(
        port.name.partition(":")[0],
        f"its memory has no {_ARENA_SIZES[-1] >> 10} KiB in one piece",
        remedy="give it more: dma=16M",
    )
