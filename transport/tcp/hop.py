# SPDX-License-Identifier: Apache-2.0
"""A neighbour of a messenger: the session with it, over the links of one node."""

from __future__ import annotations

import errno
from typing import Any, Final, Protocol

from i2o.clock import Clock
from i2o.transport.tcp.component import Letter
from i2o.transport.tcp.errors import PeerError, ProtocolViolation, Unreachable
from i2o.transport.tcp.mailbox import Message
from i2o.transport.tcp.message_wire import (
    ACK,
    MESSAGE_COST,
    MESSAGE_SIZE,
    RESUME,
    MessageFlag,
    MessageKind,
    pack_message,
    unpack_message,
)
from i2o.transport.tcp.node import Node
from i2o.transport.tcp.options import MessengerOptions
from i2o.transport.tcp.peer_name import PeerName
from i2o.transport.tcp.session import Outgoing, Resume, Session

_MESSAGE, _ACK, _RESUME = (int(kind) for kind in MessageKind)
_ACK_NOW: Final = int(MessageFlag.ACK_NOW)
_WANTS_RECEIPT, _RECEIPT = int(MessageFlag.WANTS_RECEIPT), int(MessageFlag.RECEIPT)
_ACK_EVERY: Final = 32
_ACK_AFTER_S: Final = 0.002


class Office(Protocol):
    """What hops need of the messenger they belong to."""

    name: PeerName
    options: MessengerOptions
    clock: Clock
    pings: dict[PeerName, list[list[int]]]
    is_closed: bool
    hops: dict[PeerName, Hop]

    def hop(self, name: PeerName) -> Hop:
        """Return the hop to a peer, a new one if there is none."""

    def arrived(self, message: Message) -> None:
        """Deliver a message that is for this process."""

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
    """A peer of a messenger: its session, and the node whose links carry it."""

    def __init__(self, office: Office, node: Node, session: Session) -> None:
        self._office, self.node, self.session = office, node, session
        self.has_failed = False
        self._cost_limit = 0
        self._lost_ns: int | None = None
        self._is_ack_due = False

    def post(self, message: Outgoing) -> None:
        """Send a message as soon as that is possible."""
        session = self.session
        self.has_failed = False
        session.enqueue(message)
        if session.is_ready:
            self.pump()
        elif not session.is_up:
            self.node.connect(session.number)

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
                *message.origin,
                *message.destination,
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
        frame = ACK.build(kind=_ACK, ack=received, credit=session.grant())
        if not self.node.send(session.number, (frame,)):
            session.unacknowledged += 1

    def room(self) -> None:
        """There is room again for what could not be sent."""
        self.pump()
        self._ack_late()

    def up(self, number: int) -> None:
        """A link is there: say how far we have come."""
        self.has_failed = False
        self.session.link_up(number)
        limit = self.node.frame_limit_of(number)
        self._cost_limit = limit - MESSAGE_SIZE + MESSAGE_COST
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
        session.consume(cost)
        if session.is_ready and session.owes_credit:
            self.send_ack()

    def lost(self, code: int, reason: str) -> None:
        """The link is gone, or none came about."""
        session, office = self.session, self._office
        now = office.clock.monotonic_ns()
        if session.is_up:
            self._lost_ns = now
        session.link_lost()
        limit_ns = round(office.options.come_back_s * 1e9)
        if self._lost_ns is not None and now - self._lost_ns < limit_ns:
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
        """Take a frame of the peer.

        Raises:
            ProtocolViolation: it makes no sense.
        """
        kind = frame[0] if len(frame) else 0
        if kind == _MESSAGE and len(frame) >= MESSAGE_SIZE and self.session.is_ready:
            self._take_message(frame)
        elif kind == _ACK and len(frame) == ACK.size and self.session.is_ready:
            head: Any = ACK.unpack_from(frame)
            self._acknowledge(head.ack, head.credit)
        elif kind == _RESUME and len(frame) == RESUME.size and not self.session.is_ready:
            said: Any = RESUME.unpack_from(frame)
            self._resume(Resume(said.id, said.peer_id, said.received, said.credit, said.window))
        else:
            raise ProtocolViolation(f"a message frame of kind {kind} with {len(frame)} bytes")

    def _take_message(self, frame: memoryview) -> None:
        (
            _,
            flags,
            hops,
            _,
            tag,
            sequence,
            ack,
            credit,
            origin_job,
            origin_rank,
            destination_job,
            destination_rank,
            number,
        ) = unpack_message(frame)
        session, office = self.session, self._office
        cost = len(frame) - MESSAGE_SIZE + MESSAGE_COST
        self._acknowledge(ack, credit)
        if session.accept(sequence, cost):
            data = bytes(frame[MESSAGE_SIZE:])
            origin, destination = session.name, office.name
            if origin_job != origin.job or origin_rank != origin.rank:
                origin = PeerName(origin_job, origin_rank)
            if destination_job != destination.job or destination_rank != destination.rank:
                destination = PeerName(destination_job, destination_rank)
            if destination is not office.name:
                letter = Letter(origin, destination, tag, (data,), hops - 1)
                office.transit(self, letter, number, flags, cost)
            elif flags & _RECEIPT:
                session.consume(cost)
                office.settle(origin, number, tag)
            else:
                if flags & _WANTS_RECEIPT:
                    office.receipt(origin, session.name, destination, number, 0)
                office.arrived(Message(origin, session.name, tag, data, number))
        if not session.is_ready or not session.unacknowledged:
            return
        if flags & _ACK_NOW or session.unacknowledged >= _ACK_EVERY:
            self.send_ack()
        elif not self._is_ack_due:
            self._is_ack_due = True
            self.node.after(_ACK_AFTER_S, self._ack_late)

    def _ack_late(self) -> None:
        self._is_ack_due = False
        if self.session.is_ready and self.session.unacknowledged:
            self.send_ack()

    def _acknowledge(self, ack: int, credit: int) -> None:
        office = self._office
        done = self.session.acknowledge(ack, credit)
        for message in done:
            office.acknowledged(message)
        if self.session.queue:
            self.pump()
        if done:
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

    def frame_arrived(self, peer: int, frame: memoryview) -> None:
        """Give a frame to its hop; raises ProtocolViolation, which ends the link."""
        self._hops[peer].take(frame)

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
