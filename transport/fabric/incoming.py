# SPDX-License-Identifier: Apache-2.0
"""The receiving half of a link: order, granted credit, and messages that come in pieces.

What the peer sends is believed only as far as it was allowed to: it may have so many messages and
bytes waiting here that nobody asked for, whatever happens to its links.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from i2o.errors import RemoteFrameError
from i2o.transport.fabric.frames import (
    ACK_FORMAT,
    CLEAR,
    DONE,
    MESSAGE_FORMAT,
    MODULUS,
    PIECE_FORMAT,
    AckFlag,
    FrameKind,
    MessageFlag,
)
from i2o.transport.fabric.link_parts import ReceivingLink
from i2o.transport.fabric.operations import Arrival, ReceiveOperation, Receiver
from i2o.transport.fabric.packets import Assembly
from i2o.transport.fabric.placement import Placement, Placer, Read

_MASK: Final = MODULUS - 1
_ACK = int(FrameKind.ACK)
_ACK_NOW, _TELL_MATCH = int(MessageFlag.ACK_NOW), int(MessageFlag.TELL_MATCH)
_ANNOUNCED, _FENCED = int(MessageFlag.ANNOUNCED), int(MessageFlag.FENCED)
_unpack_message, _unpack_piece = MESSAGE_FORMAT.unpack_from, PIECE_FORMAT.unpack_from
_MESSAGE_SIZE, _PIECE_SIZE = MESSAGE_FORMAT.size, PIECE_FORMAT.size


class _Coming(NamedTuple):
    """A message of which pieces are missing."""

    assembly: Assembly
    receiver: Receiver
    arrival: Arrival
    receive: ReceiveOperation

    def fail(self, code: int, reason: str) -> None:
        """It will not be complete."""
        self.receiver.failed(self.receive, self.arrival, self.assembly.stored, code, reason)


class _Placing:
    """A message whose rest goes where it belongs."""

    __slots__ = ("_incoming", "_left", "_placement", "flags", "length")

    def __init__(
        self, incoming: Incoming, placement: Placement, left: int, flags: int, length: int
    ) -> None:
        self._incoming, self._placement, self._left = incoming, placement, left
        self.flags, self.length = flags, length

    def fill(self, read: Read) -> int:
        """Read once; the message has arrived when nothing is missing."""
        count = self._placement.fill(read)
        self._left -= count
        if not self._left:
            self._incoming.placed(self)
        return count

    def lost(self, code: int, reason: str) -> None:
        """The rest will not come."""
        self._placement.lost(code, reason)


class Incoming:
    """What comes from one peer.

    The peer may go as far as what arrived here plus what may still be kept, and so the limits that
    it is told rise with every message that is received, and stay when one has to wait.

    Args:
        link: the link.
        window_messages: messages that may wait here unexpected.
        window_bytes: bytes of such messages.
        eager_limit: bytes of the largest message that is not announced.
        max_size: bytes of the largest message.
    """

    __slots__ = (
        "_arrived",
        "_bytes",
        "_coming",
        "_eager_limit",
        "_fenced",
        "_is_starved",
        "_kept_bytes",
        "_kept_messages",
        "_link",
        "_max_size",
        "_must_ask",
        "_placing",
        "_quarter",
        "_quarter_bytes",
        "_told",
        "_told_arrived",
        "_told_bytes",
        "_unmatched",
        "_window_bytes",
        "_window_messages",
        "is_due",
    )

    def __init__(
        self,
        link: ReceivingLink,
        *,
        window_messages: int,
        window_bytes: int,
        eager_limit: int,
        max_size: int,
    ) -> None:
        self._link, self._max_size = link, max_size
        self._window_messages, self._window_bytes = window_messages, window_bytes
        self._quarter, self._quarter_bytes = (window_messages + 3) >> 2, (window_bytes + 3) >> 2
        self._eager_limit = eager_limit
        self._kept_messages = self._kept_bytes = 0
        self._reset()

    def _reset(self) -> None:
        self._arrived = self._bytes = 0
        self._coming: dict[int, _Coming] = {}
        self._unmatched: dict[int, None] = {}  # ids of messages of this life that wait, in order
        self._placing: _Placing | None = None
        self._fenced: list[int] = []  # matched, but to be told when nothing older waits
        self.is_due = self._is_starved = self._must_ask = False
        self.tell()

    # --- messages --------------------------------------------------------------------------------

    def message(self, frame: memoryview, body: memoryview | None = None) -> None:
        """Take a MESSAGE; raises RemoteFrameError if it is not what may come now."""
        (_, flags, _, message_id, length, tag, data, acked, message_limit, byte_limit, _) = (
            _unpack_message(frame)
        )
        link = self._link
        outgoing = link.outgoing
        if (acked, message_limit, byte_limit) != outgoing.seen:
            outgoing.acknowledged(acked, message_limit, byte_limit)
        arrived = self._arrived + 1
        if message_id != arrived & _MASK:
            raise RemoteFrameError(f"message {message_id} came, expected was {arrived & _MASK}")
        if self._kept_messages >= self._window_messages:
            raise RemoteFrameError(f"more than the {self._window_messages} messages that may wait")
        inbox = link.inbox
        if inbox is None:
            raise RemoteFrameError("a message before the connection was accepted")
        payload: memoryview | None
        if flags & _ANNOUNCED:
            payload = None
            if len(frame) != _MESSAGE_SIZE or not 0 < length <= self._max_size:
                raise RemoteFrameError(
                    f"a message of {length} bytes is announced; at most {self._max_size} may be"
                )
        else:
            payload = frame[_MESSAGE_SIZE:] if body is None else body
            if length != len(payload):
                raise RemoteFrameError(f"{len(payload)} bytes of a message that has {length}")
            if length > self._eager_limit:
                raise RemoteFrameError(f"{length} bytes should have been announced")
            if length > self._window_bytes - self._kept_bytes:
                raise RemoteFrameError(f"more than the {self._window_bytes} bytes that may wait")
            self._bytes += length
        self._arrived = arrived
        self._is_starved = False
        inbox.arrived(Arrival(link, message_id, flags, length, tag, data, payload, link.life))
        self._due_after(flags)

    def begins(self, size: int, front: memoryview, placer: Placer) -> Placement | None:
        """Say where the rest of a message goes, if it is a plain one that may come now.

        It takes no receive, so it must not overtake one that waits for that.

        Raises:
            RemoteFrameError: what it acknowledges cannot be.
        """
        (_, flags, _, message_id, length, _, _, acked, message_limit, byte_limit, _) = (
            _unpack_message(front)
        )
        link = self._link
        if (
            flags & ~_ACK_NOW
            or message_id != self._arrived + 1 & _MASK
            or length != size - _MESSAGE_SIZE
            or length > self._eager_limit
            or length > self._window_bytes
            or self._kept_messages
            or link.inbox is None
            or link.inbox.is_ended
        ):
            return None  # `message` says what is wrong, if anything is
        outgoing = link.outgoing
        if (acked, message_limit, byte_limit) != outgoing.seen:
            outgoing.acknowledged(acked, message_limit, byte_limit)
        placement = placer.message_begins(link.address, length, front[_MESSAGE_SIZE:])
        if placement is None:
            return None
        self._placing = _Placing(self, placement, size - len(front), flags, length)
        return self._placing

    def placed(self, placing: _Placing) -> None:
        """A message is where it belongs."""
        if placing is not self._placing:
            return  # of a link that is lost
        self._placing = None
        self._arrived += 1
        self._bytes += placing.length
        self._is_starved = False
        self._due_after(placing.flags)

    def piece(self, frame: memoryview, body: memoryview | None = None) -> None:
        """Take a PIECE; raises RemoteFrameError if it is not what may come now."""
        _, _, _, message_id, offset = _unpack_piece(frame)
        coming = self._coming.get(message_id)
        if coming is None:
            raise RemoteFrameError(f"a piece of message {message_id}, which nobody waits for")
        if coming.assembly.add(offset, frame[_PIECE_SIZE:] if body is None else body):
            del self._coming[message_id]
            self._tell(coming.arrival)
            coming.receiver.finish(coming.receive, coming.arrival, coming.assembly.stored)

    def aborted(self, message_id: int, code: int) -> None:
        """The peer gives an announced message up."""
        reason = "the sender gave the message up"
        coming = self._coming.pop(message_id, None)
        if coming is not None:
            coming.fail(code, reason)
        elif self._link.inbox is not None and message_id in self._unmatched:
            self._link.inbox.withdraw(self._link, message_id, code, reason)

    # --- what the inbox does ---------------------------------------------------------------------

    def kept(self, arrival: Arrival) -> None:
        """A message waits, as nobody asked for it yet."""
        self._kept_messages += 1
        if arrival.payload is not None:
            self._kept_bytes += arrival.length
        self._unmatched[arrival.message_id] = None

    def freed(self, arrival: Arrival) -> None:
        """A message that was kept waits no longer: the peer may go further."""
        self._kept_messages -= 1
        if arrival.payload is not None:
            self._kept_bytes -= arrival.length
        if arrival.life == self._link.life:
            del self._unmatched[arrival.message_id]
            while self._fenced and not self._is_older_waiting(self._fenced[0]):
                self._say_done(self._fenced.pop(0))
        _, message_limit, byte_limit = self.state()
        _, told_messages, told_bytes = self._told
        if (
            self._is_starved
            or message_limit - told_messages >= self._quarter
            or byte_limit - told_bytes >= self._quarter_bytes
        ):
            self._due()

    def matched(self, arrival: Arrival) -> None:
        """A message, of which the sender wants to know, found its receive or is not wanted."""
        if arrival.life == self._link.life:
            self._tell(arrival)

    def accepted(self, receiver: Receiver, arrival: Arrival, receive: ReceiveOperation) -> None:
        """An announced message found its receive: let as many bytes come as that has room for."""
        assembly = Assembly(min(arrival.length, receive.room), receive.scatter())
        self._coming[arrival.message_id] = _Coming(assembly, receiver, arrival, receive)
        self._link.control(
            CLEAR.build(
                kind=FrameKind.CLEAR,
                epoch=self._link.epoch,
                message_id=arrival.message_id,
                length=assembly.total,
            )
        )

    def _tell(self, arrival: Arrival) -> None:
        """Say that a message was matched, once nothing older waits if it is fenced."""
        if arrival.flags & _FENCED and self._is_older_waiting(arrival.message_id):
            self._fenced.append(arrival.message_id)
            self._fenced.sort(key=lambda message_id: (message_id - self._arrived) & _MASK)
        else:
            self._say_done(arrival.message_id)

    def _is_older_waiting(self, message_id: int) -> bool:
        oldest = next(iter(self._unmatched), None)
        return oldest is not None and (message_id - oldest) & _MASK < MODULUS >> 1

    def _say_done(self, message_id: int) -> None:
        self._link.control(
            DONE.build(kind=FrameKind.DONE, epoch=self._link.epoch, message_id=message_id)
        )

    # --- acknowledgements ------------------------------------------------------------------------

    def state(self) -> tuple[int, int, int]:
        """Return what an ACK says: what arrived, and the limits of messages and of bytes."""
        arrived = self._arrived
        return (
            arrived,
            arrived + self._window_messages - self._kept_messages,
            self._bytes + self._window_bytes - self._kept_bytes,
        )

    def tell(self) -> tuple[int, int, int]:
        """Return the `state`, which the peer is told by what is sent now."""
        arrived = self._arrived
        self._told_arrived, self._told_bytes = arrived, self._bytes
        self._told = told = (
            arrived,
            arrived + self._window_messages - self._kept_messages,
            self._bytes + self._window_bytes - self._kept_bytes,
        )
        if not self._must_ask:
            self.is_due = False
        return told

    def not_told(self) -> None:
        """It could not be sent after all; the link is pumped when the carrier has room."""
        self.is_due = True

    def ask(self) -> None:
        """Ask the peer to say at once what arrived and how far to go, and at every change."""
        self._must_ask = True
        self._due()

    def asked(self) -> None:
        """The peer asks for that, as it has something to send."""
        self._is_starved = True
        self._due()

    def _due_after(self, flags: int) -> None:
        """Have a message acknowledged, if its sender wants that or may soon have to wait."""
        if flags & _ACK_NOW or (
            self._arrived - self._told_arrived >= self._quarter
            or self._bytes - self._told_bytes >= self._quarter_bytes
        ):
            self._due()

    def ack(self) -> bytes:
        """Return the ACK frame to send."""
        flags = int(AckFlag.ANSWER) if self._must_ask else 0
        self._must_ask = False
        return ACK_FORMAT.pack(
            _ACK, flags, self._link.epoch, *(number & _MASK for number in self.tell())
        )

    def _due(self) -> None:
        if not self.is_due:
            self.is_due = True
            self._link.mark()

    # --- the end ---------------------------------------------------------------------------------

    @property
    def is_keeping(self) -> bool:
        """Whether messages wait here that nobody asked for yet."""
        return self._kept_messages > 0

    def may_keep(self, arrival: Arrival) -> bool:
        """Whether a message that nobody asked for has a place here; credit saw to that."""
        return True

    def lost(self, code: int, reason: str) -> None:
        """The link is lost: what came half ends with an error."""
        coming = list(self._coming.values())
        self._coming.clear()
        for message in coming:
            message.fail(code, reason)
        if self._placing is not None:
            self._placing.lost(code, reason)
        if self._link.inbox is not None:
            self._link.inbox.link_lost(self._link, code, reason)
        self._reset()


class IncomingDatagrams(Incoming):
    """Datagrams: nothing is in order, acknowledged or granted, and what has no place is dropped."""

    __slots__ = ()

    def message(self, frame: memoryview, body: memoryview | None = None) -> None:
        """Take a MESSAGE; raises RemoteFrameError if it makes no sense."""
        _, flags, _, _, length, tag, data, *_ = _unpack_message(frame)
        inbox = self._link.inbox
        payload = frame[_MESSAGE_SIZE:] if body is None else body
        if flags & _ANNOUNCED or length != len(payload) or inbox is None:
            raise RemoteFrameError(f"{len(payload)} bytes of a datagram that has {length}")
        self._arrived += 1
        inbox.arrived(
            Arrival(self._link, self._arrived, flags & ~_TELL_MATCH, length, tag, data, payload, 0)
        )

    def may_keep(self, arrival: Arrival) -> bool:
        """Whether a datagram has a place."""
        return (
            self._kept_messages < self._window_messages
            and self._kept_bytes + arrival.length <= self._window_bytes
        )

    def _due(self) -> None:
        """Tell nothing: nobody asks."""
