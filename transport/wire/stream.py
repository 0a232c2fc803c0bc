# SPDX-License-Identifier: Apache-2.0
"""The two byte streams of a session: records cut into packets, numbered, and paid with credits.

Bytes in, bytes out: nothing here knows an endpoint. A packet that is lost or comes twice is noticed
by its number, a sender that takes more than it was given by its credits; both end the session.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final, NamedTuple, TypeAlias

from i2o.errors import DmaFault, RemoteFrameError
from i2o.transport.landing import Landing
from i2o.transport.wire.messages import (
    MAX_FRAME,
    MAX_GATHERED,
    PACKET,
    SPARES,
    WINDOW,
    Form,
    packer,
)

Buffer: TypeAlias = bytes | bytearray | memoryview
OnRecord = Callable[[tuple[int, ...], memoryview], None]
"""Takes a record: its fields, and the data that follow."""
OnBulk = Callable[[tuple[int, ...], int, memoryview], None]
"""Takes a piece of a record's data: its fields, where in the data the piece is, the piece."""
OnLanding = Callable[[tuple[int, ...]], Landing | None]
"""Returns where the data of a record belong, whose fields it gets."""
NO_LANDINGS: Final[Mapping[int, OnLanding]] = MappingProxyType({})

_HEAD: Final = packer(PACKET)
HEAD_SIZE: Final = _HEAD.size
_MOST_CREDITS: Final = 255
MAX_EARLY: Final = WINDOW + SPARES
"""Packets that may be on their way behind the one that is due."""
_COPIED: Final = 1024  # a piece up to here is copied: one buffer less costs more

_SCRATCH: Final = 64 << 10
_WORTH_IT: Final = 4096  # data that are less than that are copied


class Head(NamedTuple):
    """The header of a packet."""

    session: int
    number: int
    credits: int


def read_head(packet: memoryview) -> Head:
    """Return the header of a packet; raises RemoteFrameError if it has none."""
    if len(packet) < HEAD_SIZE:
        raise RemoteFrameError(f"a packet of {len(packet)} bytes has no header")
    return Head(*_HEAD.unpack_from(packet))


def lone_packet(session: int, record: bytes) -> bytes:
    """Return a packet that is not part of a stream."""
    return _HEAD.pack(session, 0, 0) + record


class Packet:
    """What is handed to an endpoint as one message.

    Attributes:
        buffers: its parts.
        sent: called when the parts are not needed any more.
        is_followed: somebody wants to know when.
    """

    __slots__ = ("buffers", "is_followed", "sent")

    def __init__(
        self, buffers: list[Buffer], sent: list[Callable[[], None]], *, is_followed: bool = False
    ) -> None:
        self.buffers, self.sent = buffers, sent
        self.is_followed = is_followed or bool(sent)


class _Piece:
    __slots__ = ("buffer", "on_sent")

    def __init__(self, buffer: Buffer, on_sent: Callable[[], None] | None) -> None:
        self.buffer, self.on_sent = buffer, on_sent


class StreamWriter:
    """The outgoing stream.

    Args:
        session: what every packet names.
        credits: packets that may be sent at once.
        packet_size: bytes of the largest packet.
        buffer_limit: parts of the largest packet.

    Attributes:
        queued: bytes that are not in a packet yet.
        gathered: those of them that are kept here, and not by who owns them.
        owed: packets that were taken in and not given back.
    """

    def __init__(self, session: int, credits: int, packet_size: int, buffer_limit: int) -> None:
        self._session, self._credits, self._most = session, credits, credits
        self._room, self._buffer_limit = packet_size - HEAD_SIZE, buffer_limit
        self._queue: deque[_Piece] = deque()
        self._tail: bytearray | None = None  # small records are gathered here
        self._number = 0
        self._is_followed = False
        self.queued = self.gathered = 0
        self.owed = 0

    def add(self, record: bytes) -> None:
        """Queue a record."""
        tail = self._tail
        if tail is None:
            self._tail = tail = bytearray()
            self._queue.append(_Piece(tail, None))
        tail += record
        self.queued += len(record)
        self.gathered += len(record)

    def add_data(self, data: Buffer, on_sent: Callable[[], None] | None = None) -> None:
        """Queue data that stay the caller's and unchanged until `on_sent`."""
        if len(data) <= _COPIED:
            self.add(bytes(data))
            if on_sent is not None:
                on_sent()
            return
        self._tail = None
        self._queue.append(_Piece(memoryview(data), on_sent))
        self.queued += len(data)

    def follow(self) -> None:
        """Have packets followed from now on, although nobody waits for their parts."""
        self._is_followed = True

    def credit(self, count: int) -> None:
        """Take credits that came back; raises RemoteFrameError if there are too many."""
        self._credits += count
        if self._credits > self._most:
            raise RemoteFrameError(
                f"{count} packets are given back, which makes {self._credits} of {self._most}"
            )

    def next_packet(self) -> Packet | None:
        """Return what is to be sent next, or None if there is nothing, or no credit for it."""
        if self._queue and self._credits:
            self._credits -= 1
            return self._filled_packet()
        if 2 * self.owed >= WINDOW:
            return Packet([self._head()], [])
        return None

    def _head(self) -> bytearray:
        given = min(self.owed, _MOST_CREDITS)
        self.owed -= given
        head = bytearray(_HEAD.pack(self._session, self._number, given))
        self._number = self._number + 1 & 0xFF
        return head

    def _filled_packet(self) -> Packet:
        queue, room = self._queue, self._room
        gathered = self._head()
        buffers: list[Buffer] = [gathered]
        sent: list[Callable[[], None]] = []
        while queue and room:
            piece = queue[0]
            buffer = piece.buffer
            is_small = isinstance(buffer, bytearray)
            size = min(len(buffer), room)
            if is_small or self._buffer_limit < 2:
                if gathered is not buffers[-1]:
                    if len(buffers) == self._buffer_limit:
                        break
                    gathered = bytearray()
                    buffers.append(gathered)
                gathered += buffer[:size]
            elif len(buffers) == self._buffer_limit:
                break
            else:
                buffers.append(buffer[:size])
            room -= size
            self.queued -= size
            if is_small:
                self.gathered -= size
            if size < len(buffer):
                piece.buffer = buffer[size:]
                if is_small:
                    self._tail = piece.buffer if buffer is self._tail else self._tail  # type: ignore[assignment]
            else:
                queue.popleft()
                if buffer is self._tail:
                    self._tail = None
                if piece.on_sent is not None:
                    sent.append(piece.on_sent)
        return Packet(buffers, sent, is_followed=self._is_followed)


class PacketOrder:
    """Puts packets into the order in which they were sent.

    An endpoint matches messages in order, but a long one may end behind a short one that was sent
    after it.
    """

    def __init__(self) -> None:
        self._due = 0
        self._early: dict[int, tuple[Head, memoryview]] = {}

    def put(self, head: Head, body: memoryview) -> list[tuple[Head, memoryview]]:
        """Take the next packet that came; return those that are due now, which may be none.

        Raises:
            RemoteFrameError: it is too early to be one of this session's, or comes twice.
        """
        number = head.number
        if number != self._due:
            ahead = number - self._due & 0xFF
            if ahead > MAX_EARLY or number in self._early:
                raise RemoteFrameError(
                    f"packet {number} came, {self._due} was due: packets were lost, or come twice"
                )
            self._early[number] = (head, memoryview(bytes(body)))
            return []
        self._due = number + 1 & 0xFF
        if not self._early:
            return [(head, body)]
        found = [(head, body)]
        while (early := self._early.pop(self._due, None)) is not None:
            found.append(early)
            self._due = self._due + 1 & 0xFF
        return found

    def is_due(self, head: Head) -> bool:
        """Whether a packet is the next one, and nothing came too early."""
        return head.number == self._due and not self._early


class PlacedPacket:
    """The rest of a packet whose data go where they belong while they come: a `Placement`.

    Args:
        reader: took the front; it is in the middle of the data of a record.
        landing: where the data of that record belong.
        size: bytes that are missing of the packet.
        on_end: called with nothing when the packet is complete, with why when the stream is over.
    """

    __slots__ = ("_is_over", "_landing", "_on_end", "_reader", "_rest", "_rest_done", "_size")

    def __init__(
        self, reader: StreamReader, landing: Landing, size: int, on_end: Callable[[str], None]
    ) -> None:
        self._reader, self._size, self._on_end = reader, size, on_end
        self._landing: Landing | None = landing
        self._rest: memoryview | None = None  # the records behind the data
        self._rest_done = 0
        self._is_over = False

    def fill(self, read: Callable[[memoryview], int]) -> int:
        """Read once into where the next bytes belong; nowhere if the stream is over."""
        reader = self._reader
        left = 0 if self._is_over else min(self._size, reader.data_left)
        if left and self._landing is not None:
            try:
                count = self._landing.fill(reader.data_done, left, read)
            except DmaFault as fault:
                self._landing = None
                reader.on_fault(str(fault))
                return self.fill(read)
            reader.placed(count)
        elif left or self._is_over:
            count = read(memoryview(bytearray(min(left or self._size, _SCRATCH))))
            if not self._is_over:
                reader.placed(count)
        else:
            if self._rest is None:
                self._rest = memoryview(bytearray(self._size))
            count = read(self._rest[self._rest_done :])
            self._rest_done += count
        self._size -= count
        if not self._size and not self._is_over:
            self._end()
        return count

    def _end(self) -> None:
        self._is_over = True
        self._reader.packet_ended(self)
        if self._rest is not None:
            try:
                self._reader.feed(self._rest)
            except RemoteFrameError as error:
                self._on_end(str(error))
                return
        self._on_end("")

    def lost(self, code: int, reason: str) -> None:
        """The link is lost, and the session with it."""
        if not self._is_over:
            self._is_over = True
            self._on_end(reason or os.strerror(code))

    def abandon(self) -> None:
        """The stream is over: nothing is written any more."""
        self._is_over = True


class StreamReader:
    """The incoming stream.

    Args:
        forms: the kinds that may come.
        on_record: what to do with each kind, by number.
        on_bulk: what to do with the data of kinds that are taken piece by piece.
        text_limit: bytes of data that are taken as a whole.
        landings: return where the data of a kind belong, whose fields are given; None if nobody
            can read into that.
        on_fault: called with a sentence when the memory for data that come is gone.
    """

    def __init__(
        self,
        forms: Mapping[int, Form],
        on_record: Mapping[int, OnRecord],
        on_bulk: Mapping[int, OnBulk],
        text_limit: int = MAX_FRAME,
        landings: Mapping[int, OnLanding] = NO_LANDINGS,
        on_fault: Callable[[str], None] = lambda sentence: None,
    ) -> None:
        self._forms, self._on_record, self._on_bulk = forms, on_record, on_bulk
        self._text_limit = text_limit
        self._order = PacketOrder()
        self._kept = bytearray()
        self._bulk: OnBulk | None = None
        self._fields: tuple[int, ...] = ()
        self._done = self._length = 0
        self._kind = 0
        self._landings, self.on_fault = landings, on_fault
        self._placed: PlacedPacket | None = None

    def take(self, head: Head, body: memoryview, writer: StreamWriter) -> None:
        """Take a packet, and with it perhaps others that came too early.

        Args:
            head: its header.
            body: the rest of it.
            writer: takes the credits in it, and gives back this packet.

        Raises:
            RemoteFrameError: the other side cannot mean it.
        """
        if self._placed is not None:
            raise RemoteFrameError("a packet came in the middle of another one")
        for due, data in self._order.put(head, body):
            writer.credit(due.credits)
            if data:
                writer.owed += 1
                self.feed(data)
        if writer.gathered > MAX_GATHERED:
            raise RemoteFrameError("answers are wanted, but nothing is taken")

    # --- data that go where they belong while they come ------------------------------------------

    def begin(
        self,
        head: Head,
        front: memoryview,
        size: int,
        writer: StreamWriter,
        on_end: Callable[[str], None],
    ) -> PlacedPacket | None:
        """Take the front of a packet if the rest is mostly data that can be read into their place.

        Args:
            head: its header.
            front: the bytes behind that which are there.
            size: bytes of all of it, without the header.
            writer: as for `take`.
            on_end: for `PlacedPacket`.

        Returns:
            What takes the rest; None if the packet is to be taken as a whole, and nothing was done.

        Raises:
            RemoteFrameError: as `take`.
        """
        if self._kept or self._placed is not None or not self._order.is_due(head):
            return None
        landing = self._landing_behind(front, size)
        if landing is None:
            return None
        self.take(head, front, writer)
        self._placed = PlacedPacket(self, landing, size - len(front), on_end)
        return self._placed

    @property
    def data_done(self) -> int:
        """Bytes of the present record's data that came."""
        return self._done

    @property
    def data_left(self) -> int:
        """Bytes of the present record's data that will come."""
        return self._length - self._done if self._bulk is not None else 0

    def placed(self, count: int) -> None:
        """So many bytes of data are where they belong."""
        assert self._bulk is not None
        self._done += count
        if self._done == self._length and count:
            bulk, self._bulk = self._bulk, None
            bulk(self._fields, self._done, memoryview(b""))

    def packet_ended(self, packet: PlacedPacket) -> None:
        """A packet is complete; what is left of it is fed next."""
        if self._placed is packet:
            self._placed = None

    def abandon(self) -> None:
        """Let nothing be written any more: the session is over."""
        if self._placed is not None:
            self._placed.abandon()
            self._placed = None

    def _landing_behind(self, front: memoryview, size: int) -> Landing | None:
        """Return where the data belong that are going on where the front of a packet ends."""
        kind, fields, place, end = self._kind, self._fields, 0, len(front)
        left = self.data_left
        while left <= end - place:
            place += left
            form = self._forms.get(front[place]) if place < end else None
            if form is None or place + 1 + form.size > end:
                return None
            fields, kind = form.fields.unpack_from(front, place + 1), int(form.kind)
            place += 1 + form.size
            left = fields[-1] if form.has_bulk(fields) else form.text_size(fields)
            if left > end - place and not form.has_bulk(fields):
                return None
        find = self._landings.get(kind)
        if find is None or min(left - (end - place), size - end) < _WORTH_IT:
            return None
        return find(fields)

    def feed(self, data: memoryview) -> None:
        """Take the next bytes, and call what takes the records in them.

        Raises:
            RemoteFrameError: they make no sense; nothing can be read after them.
        """
        if self._kept:
            self._kept += data
            data = memoryview(bytes(self._kept))
            self._kept.clear()
        place, size = 0, len(data)
        while place < size:
            if self._bulk is not None:
                place = self._feed_bulk(self._bulk, data, place)
                continue
            form = self._forms.get(data[place])
            if form is None:
                raise RemoteFrameError(f"a record of kind {data[place]:#04x} is not expected")
            end = place + 1 + form.size
            if end > size:
                break
            fields = form.fields.unpack_from(data, place + 1)
            kind = int(form.kind)
            if form.is_bulk and form.has_bulk(fields):
                self._bulk, self._fields, self._kind = self._on_bulk[kind], fields, kind
                self._done, self._length = 0, fields[-1]
                place = end
                if not self._length:
                    self._feed_bulk(self._bulk, data, place)
                continue
            length = form.text_size(fields)
            if length > self._text_limit:
                raise RemoteFrameError(
                    f"{form.kind.name} with {length} bytes: at most {self._text_limit} are taken"
                )
            if end + length > size:
                break
            place = end + length
            self._on_record[kind](fields, data[end:place])
        if place < size:
            self._kept += data[place:]

    def _feed_bulk(self, bulk: OnBulk, data: memoryview, place: int) -> int:
        """Hand on a piece of bulk data; return where it ended."""
        size = min(self._length - self._done, len(data) - place)
        done, fields = self._done, self._fields
        self._done += size
        if self._done == self._length:
            self._bulk = None
        bulk(fields, done, data[place : place + size])
        return place + size
