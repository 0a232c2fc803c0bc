# SPDX-License-Identifier: Apache-2.0
"""A neighbour of a messenger: the session with it, over the links of one node."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final, Protocol

from i2o.clock import Clock
from i2o.transport.fabric.endpoint import Buffer
from i2o.transport.tcp.component import Letter
from i2o.transport.tcp.errors import PeerError, ProtocolViolation, Unreachable
from i2o.transport.tcp.mailbox import Message
from i2o.transport.tcp.message_wire import (
    ACK,
    HOP_LIMIT,
    MESSAGE_COST,
    MESSAGE_SIZE,
    RESUME,
    MessageFlag,
    MessageKind,
    pack_ack,
    pack_framed,
    pack_message,
    pack_names,
    unpack_ack,
    unpack_message,
    unpack_names,
)
from i2o.transport.tcp.node import Node
from i2o.transport.tcp.options import MessengerOptions
from i2o.transport.tcp.peer_name import PeerName
from i2o.transport.tcp.session import Outgoing, Resume, Session
from i2o.transport.tcp.wire import Kind

_MESSAGE, _ACK, _RESUME = (int(kind) for kind in MessageKind)
_ACK_NOW: Final = int(MessageFlag.ACK_NOW)
_WANTS_RECEIPT, _RECEIPT = int(MessageFlag.WANTS_RECEIPT), int(MessageFlag.RECEIPT)
_OF_RELAYS: Final = _WANTS_RECEIPT | _RECEIPT
_ACK_EVERY: Final = 32
_ACK_AFTER_S: Final = 0.002
_DATA: Final = int(Kind.DATA)
_new_tuple: Final = tuple.__new__  # of a NamedTuple: without a call of Python's own
_SMALL: Final = 4096
"""Bytes up to which a message is put together with its heads at once, if nothing waits."""


class Office(Protocol):
    """What hops need of the messenger they belong to."""

    name: PeerName
    options: MessengerOptions
    clock: Clock
    pings: dict[PeerName, list[list[int]]]
    is_closed: bool
    is_watched: bool
    hops: dict[PeerName, Hop]

    def hop(self, name: PeerName) -> Hop:
        """Return the hop to a peer, a new one if there is none."""

    def arrived(self, message: Message, hop: Hop | None, cost: int) -> None:
        """Deliver a message that is for this process, and came over a hop or from itself."""

    def transit(self, hop: Hop, letter: Letter, number: int, flags: int, cost: int) -> None:
        """Send on what is for somebody else."""

    def receipt(
        self, origin: PeerName, back: PeerName, about: PeerName, number: int, code: int
    ) -> None:
        """Tell the origin of a message what became of it."""

    def settle(self, destination: PeerName, number: int, code: int) -> None:
        """Take a receipt."""

    def acknowledged(self, message: Outgoing) -> None:
        """The next hop has a message."""

    def forget(self, hop: Hop) -> None:
        """A caller is so long gone that its place was given away."""

    def notify(self) -> None:
        """Something happened that somebody may be waiting for."""


class Hop:
    """A peer of a messenger: its session, and the node whose links carry it.

    Args:
        office: of the messenger.
        node: with the links.
        session: with the peer.
        numbers: of messages of this process to the peer.

    Attributes:
        has_failed: whether no link came about since somebody asked for one.
        names_out: this process and the peer, as the head of a message has them.
    """

    def __init__(
        self, office: Office, node: Node, session: Session, numbers: Iterator[int]
    ) -> None:
        self._office, self.node, self.session, self.numbers = office, node, session, numbers
        self._own_name, self._peer_name = office.name, session.name
        self.names_out = pack_names(*office.name, *session.name)
        self._names_in = pack_names(*session.name, *office.name)
        self.has_failed = False
        self._cost_limit = self._short_cost = 0
        self._ack_for = 0
        self._lost_ns: int | None = None
        self._is_ack_due = False

    def post(self, message: Outgoing) -> None:
        """Send a message as soon as that is possible."""
        sequence = self.send_at_once(
            self._names_of(message),
            message.tag,
            message.parts,
            message.cost,
            message.number,
            message.flags,
            message.hops,
        )
        self.keep(message, sequence)

    def send_at_once(
        self,
        names: bytes,
        tag: int,
        parts: Sequence[Buffer],
        cost: int,
        number: int,
        flags: int,
        hops: int,
    ) -> int:
        """Send a message, in one piece, if it is short and nothing is before it.

        Whatever comes of it, `keep` must follow: what the peer waits for goes first.

        Returns:
            Its sequence number; below 0 if it has that one and did not go; 0 if it has none.
        """
        session = self.session
        if cost > self._short_cost or not (sequence := session.begin(cost)):
            return 0
        head = pack_framed(
            cost + (MESSAGE_SIZE - MESSAGE_COST),
            _DATA,
            0,
            0,
            _MESSAGE,
            flags,
            hops,
            0,
            tag,
            sequence,
            session.received,
            session.grant(),
            names,
            number,
        )
        frame = head + parts[0] if len(parts) == 1 else b"".join((head, *parts))
        if self.node.send_small(session.number, frame):
            return sequence
        session.unacknowledged += 1  # what the head says of it was not told either
        return -sequence

    def keep(self, message: Outgoing, sequence: int) -> None:
        """Keep a message until it is acknowledged.

        Args:
            message: it.
            sequence: as `send_at_once` returned it.
        """
        session = self.session
        self.has_failed = False
        if sequence:
            session.keep(message, sequence)
            return
        session.enqueue(message)
        if session.is_ready:
            self.pump()
        elif not session.is_up:
            if self._lost_ns is not None and session.waiting == 1 and self._lost_for_ns() >= 0:
                self._lost_ns = None  # nobody waited for that link any more
            self.node.connect(session.number)

    def _lost_for_ns(self) -> int:
        """Return by how much longer the link is lost than messages wait for another one."""
        assert self._lost_ns is not None
        limit_ns = round(self._office.options.come_back_s * 1e9)
        return self._office.clock.monotonic_ns() - self._lost_ns - limit_ns

    def _names_of(self, message: Outgoing) -> bytes:
        if message.origin is self._own_name and message.destination == self._peer_name:
            return self.names_out
        return pack_names(*message.origin, *message.destination)

    def pump(self) -> None:
        """Send what may be sent now."""
        session, send = self.session, self.node.send
        while session.is_ready and session.queue:
            message = session.queue[0]
            if message.cost > self._cost_limit and not message.sequence:
                self._refuse_long()
                continue
            if session.next_message() is None:
                return
            head = pack_message(
                _MESSAGE,
                message.flags,
                message.hops,
                0,
                message.tag,
                message.sequence,
                session.received,
                session.grant(),
                self._names_of(message),
                message.number,
            )
            if not send(session.number, (head, *message.parts)):
                session.unacknowledged += 1  # what the head says of it was not told either
                return
            session.sent()

    def _refuse_long(self) -> None:
        message = self.session.queue[0]
        self.session.withdraw(message)
        message.finish(PeerError(errno.EMSGSIZE, "the message is longer than the peer takes"))

    def send_ack(self) -> None:
        """Say how far we have come."""
        session = self.session
        received = session.received
        frame = pack_ack(_ACK, 0, 0, 0, received, session.grant())
        if not self.node.send(session.number, (frame,)):
            session.unacknowledged += 1

    def room(self) -> None:
        """There is room again for what could not be sent."""
        self.pump()
        if self.session.is_ready and self.session.unacknowledged:
            self.send_ack()

    def up(self, number: int) -> None:
        """A link is there: say how far we have come."""
        self.has_failed = False
        self.session.link_up(number)
        limit = self.node.frame_limit_of(number)
        self._cost_limit = limit - MESSAGE_SIZE + MESSAGE_COST
        self._short_cost = min(self._cost_limit, _SMALL)
        self.node.send(number, (RESUME.build(kind=_RESUME, **self.session.offer()._asdict()),))
        if self.session.name in self._office.pings:
            self.node.ping(number)

    def ping(self) -> None:
        """Ask for a round trip, now or when a link is up."""
        self.has_failed = False
        if not self.node.ping(self.session.number):
            self.node.connect(self.session.number)

    def say_goodbye(self) -> None:
        """Acknowledge what came, before the link is closed for good."""
        if self.session.is_ready and self.session.unacknowledged:
            self.send_ack()

    def consumed(self, cost: int) -> None:
        """A message of the peer does not occupy memory here any more."""
        session = self.session
        if session.consume(cost) and session.is_ready:
            self.send_ack()

    def lost(self, code: int, reason: str) -> None:
        """The link is gone, or none came about."""
        session, office = self.session, self._office
        if session.is_up and self._lost_ns is None:  # from the last link that was of any use
            self._lost_ns = office.clock.monotonic_ns()
        session.link_lost()
        if self._lost_ns is not None and self._lost_for_ns() < 0:
            if session.waiting or office.pings.get(session.name):
                delay_s = office.options.peer.retry_delay_s
                self.node.after(delay_s, self._call_again)
            return
        self._lost_ns = None
        self.has_failed = True
        error = Unreachable(f"{session.name}: {reason}", code)
        for message in session.take_all():
            message.finish(error)
        office.notify()

    def _call_again(self) -> None:
        is_known = self._office.hops.get(self.session.name) is self
        if is_known and not self.session.is_up and not self._office.is_closed:
            self.node.connect(self.session.number)

    def take(self, frame: memoryview) -> None:
        """Take a frame of the peer: nearly always a message.

        Raises:
            ProtocolViolation: it makes no sense.
        """
        session, office = self.session, self._office
        size = len(frame)
        if size < MESSAGE_SIZE or not session.is_ready:
            self._take_other(frame)
            return
        kind, flags, hops, _, tag, sequence, ack, credit, names, number = unpack_message(frame)
        if kind != _MESSAGE:
            self._take_other(frame)
            return
        if ack != session.acknowledged:
            message = session.acknowledge_only(ack, credit)
            if message is None:
                self._go_on(session.acknowledge(ack, credit))
            elif message.on_done is None and not office.is_watched:
                message.is_over, message.parts = True, ()
            else:
                self._go_on([message])
        elif credit > session.credit:
            session.credit = credit
            if session.queue:
                self.pump()
        cost = size + (MESSAGE_COST - MESSAGE_SIZE)
        if session.accept(sequence, cost):
            data = frame[MESSAGE_SIZE:].tobytes()
            if names == self._names_in and not flags & _OF_RELAYS:
                name = self._peer_name
                office.arrived(_new_tuple(Message, (name, name, tag, data, number)), self, cost)
            else:
                self._take_from_afar(names, flags, hops, tag, data, number)
        if not session.unacknowledged or not session.is_ready:
            return
        if flags & _ACK_NOW or session.unacknowledged >= _ACK_EVERY:
            self.send_ack()
        elif not self._is_ack_due:
            self._is_ack_due, self._ack_for = True, sequence
            self.node.after(_ACK_AFTER_S, self._ack_late)

    def _take_from_afar(
        self, names: bytes, flags: int, hops: int, tag: int, data: bytes, number: int
    ) -> None:
        """Take a message that comes or goes over relays, or says what became of one."""
        session, office = self.session, self._office
        origin_job, origin_rank, destination_job, destination_rank = unpack_names(names)
        origin = PeerName(origin_job, origin_rank)
        destination = PeerName(destination_job, destination_rank)
        cost = len(data) + MESSAGE_COST
        if destination != office.name:
            # a sender that says it may go over more links than any message may is not believed
            letter = Letter(origin, destination, tag, (data,), min(hops, HOP_LIMIT) - 1)
            office.transit(self, letter, number, flags, cost)
        elif flags & _RECEIPT:
            session.consume(cost)
            office.settle(origin, number, tag)
        else:
            if flags & _WANTS_RECEIPT:
                office.receipt(origin, session.name, destination, number, 0)
            office.arrived(Message(origin, session.name, tag, data, number), self, cost)

    def _take_other(self, frame: memoryview) -> None:
        kind = frame[0] if len(frame) else 0
        if kind == _ACK and len(frame) == ACK.size and self.session.is_ready:
            _, _, _, _, ack, credit = unpack_ack(frame)
            self._go_on(self.session.acknowledge(ack, credit))
        elif kind == _RESUME and len(frame) == RESUME.size and not self.session.is_ready:
            said: Any = RESUME.unpack_from(frame)
            self._resume(Resume(said.id, said.peer_id, said.received, said.credit, said.window))
        else:
            raise ProtocolViolation(f"a message frame of kind {kind} with {len(frame)} bytes")

    def _ack_late(self) -> None:
        """Acknowledge what waits for it that long; what came since then has as much time."""
        session = self.session
        self._is_ack_due = False
        if not session.is_ready or not session.unacknowledged:
            return
        if session.received - session.unacknowledged < self._ack_for:
            self.send_ack()
        else:
            self._is_ack_due, self._ack_for = True, session.received
            self.node.after(_ACK_AFTER_S, self._ack_late)

    def _go_on(self, done: list[Outgoing]) -> None:
        """End what the peer has, and send what it has room for now."""
        office = self._office
        for message in done:
            if message.flags & _WANTS_RECEIPT:
                office.acknowledged(message)
            elif message.on_done is None:
                message.is_over, message.parts = True, ()
            else:
                message.finish(None)
        if self.session.queue:
            self.pump()
        if done and office.is_watched:
            office.notify()

    def _resume(self, said: Resume) -> None:
        office = self._office
        self._lost_ns = None
        done, failed = self.session.resume(said)
        for message in done:
            office.acknowledged(message)
        error = Unreachable(
            f"{self.session.name} was started anew before it acknowledged the message",
            errno.ECONNRESET,
        )
        for message in failed:
            message.finish(error)
        self.pump()
        office.notify()


class NodeSink:
    """Takes what a node tells, for the hops that it carries."""

    def __init__(self, office: Office, node: Node) -> None:
        self._office, self._node = office, node
        self._hops: dict[int, Hop] = {}

    def attach(self) -> None:
        """Let the node begin."""
        self._node.on_round_trip, self._node.on_evicted = self.round_trip, self.evicted
        self._node.open(self)

    def _hop(self, number: int) -> Hop:
        hop = self._hops.get(number)
        if hop is None:
            name = self._node.peer(number).name
            assert name is not None
            hop = self._hops[number] = self._office.hop(name)
        return hop

    def taker(self, peer: int) -> Callable[[memoryview], None]:
        """Return the hop's own function: it raises ProtocolViolation, which ends the link."""
        return self._hop(peer).take

    def frame_arrived(self, peer: int, frame: memoryview) -> None:
        """Give a frame to its hop, if somebody does not ask for a taker."""
        self._hop(peer).take(frame)

    def frame_sent(self, peer: int, token: object) -> None:
        """Do nothing: a message has arrived when it is acknowledged."""

    def room_made(self, peer: int) -> None:
        """Let its hop go on."""
        self._hop(peer).room()

    def peer_up(self, peer: int) -> None:
        """Let its hop begin on the link."""
        self._hop(peer).up(peer)

    def peer_lost(self, peer: int, error: int, reason: str) -> None:
        """Let its hop wait for another link, or give up."""
        self._hop(peer).lost(error, reason)

    def evicted(self, peer: int) -> None:
        """A caller's place was given away."""
        hop = self._hops.pop(peer, None)
        if hop is not None:
            self._office.forget(hop)

    def round_trip(self, peer: int, round_trip_ns: int) -> None:
        """A ping was answered."""
        office = self._office
        for times in office.pings.pop(self._hop(peer).session.name, ()):
            times.append(round_trip_ns)
        office.notify()
