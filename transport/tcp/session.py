# SPDX-License-Identifier: Apache-2.0
"""Messages to and from one peer, over as many links as it takes. No sockets, no clock.

Every message has a sequence number and is kept until the peer has acknowledged it. After a link
was lost both ends say how far they have come, what is missing is sent again, and what comes twice
is thrown away: as long as both processes live, nothing is lost and nothing is delivered twice. A
peer that was started anew knows nothing of what the old one had: what was sent to that one and
not acknowledged fails, what had not been sent goes to the new one.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import NamedTuple

from i2o.transport.fabric.endpoint import Buffer
from i2o.transport.tcp.errors import PeerError, ProtocolViolation
from i2o.transport.tcp.message_wire import MESSAGE_COST
from i2o.transport.tcp.peer_name import PeerName


class Outgoing:
    """A message on its way, until it ends: once, with success or an error.

    Args:
        origin: who sends it.
        destination: who is to have it.
        tag: for the receiver to match.
        parts: its bytes, in bytes objects or views of single bytes; kept, not copied.
        number: the origin's number of it.
        flags: as in the header.
        hops: links that it may still go over.
        done: called with None, or with what went wrong.
    """

    __slots__ = (
        "cost",
        "destination",
        "flags",
        "hops",
        "is_over",
        "number",
        "on_done",
        "origin",
        "parts",
        "sequence",
        "tag",
    )

    def __init__(
        self,
        origin: PeerName,
        destination: PeerName,
        tag: int,
        parts: Sequence[Buffer],
        number: int,
        flags: int,
        hops: int,
        done: Callable[[PeerError | None], None] | None,
    ) -> None:
        self.origin = origin
        self.destination = destination
        self.tag = tag
        self.parts = parts
        self.number = number
        self.flags = flags
        self.hops = hops
        self.on_done = done
        self.cost = MESSAGE_COST + (len(parts[0]) if len(parts) == 1 else sum(map(len, parts)))
        self.sequence = 0
        self.is_over = False

    def finish(self, error: PeerError | None) -> None:
        """End it, unless it has ended."""
        if not self.is_over:
            self.is_over = True
            self.parts = ()
            if self.on_done is not None:
                self.on_done(error)


class Resume(NamedTuple):
    """How far one end came.

    Attributes:
        id: of its session.
        peer_id: of the other end's session, as far as it knows.
        received: the last message that it has.
        credit: bytes that the other end may have sent altogether, if the sessions go on.
        window: bytes that it may send, if they begin anew.
    """

    id: int
    peer_id: int
    received: int
    credit: int
    window: int


class Session:
    """Both directions of the traffic with one peer.

    Args:
        name: the peer.
        id: of this session: random, not 0.
        window: bytes of messages that this end keeps for its program.

    Attributes:
        queue: messages that were not sent yet, or not over the present link.
        in_flight: messages that were sent and not acknowledged, in order.
        is_ready: whether a link is up, and the peer has said how far it came.
        number: the node's number of the peer.
        received: the last sequence number that came.
        acknowledged: the last sequence number that the peer has.
        credit: bytes that may be sent altogether.
        peer_id: of the peer's session, to which all these numbers belong; 0 before the first.
    """

    def __init__(self, name: PeerName, id: int, window: int) -> None:
        self.name, self.id, self._window = name, id, window
        self.number = -1
        self.is_ready = self.is_up = False
        self.peer_id = 0
        self.queue: deque[Outgoing] = deque()
        self.in_flight: deque[Outgoing] = deque()
        self.waiting_bytes = 0
        self.messages_sent = self.messages_received = self.resent = self.duplicates = 0
        self._begin()

    def _begin(self) -> None:
        self._sequence = 0
        self._sent_bytes = 0
        self.acknowledged = 0
        self.credit = 0
        self.received = 0
        self._received_bytes = self._consumed_bytes = 0
        self._granted = self._window
        self.unacknowledged = 0

    @property
    def waiting(self) -> int:
        """Messages that have not ended."""
        return len(self.queue) + len(self.in_flight)

    # --- outgoing --------------------------------------------------------------------------------

    def begin(self, cost: int) -> int:
        """Return the sequence number of a message that is sent at once; `keep` is to follow.

        Args:
            cost: bytes that it counts.

        Returns:
            0 if that cannot be: it has to wait in the queue.
        """
        sent_bytes = self._sent_bytes + cost
        if self.queue or sent_bytes > self.credit or not self.is_ready:
            return 0
        self._sent_bytes = sent_bytes
        self.messages_sent += 1
        self._sequence = sequence = self._sequence + 1
        return sequence

    def keep(self, message: Outgoing, sequence: int) -> None:
        """Keep a message that has its number from `begin`: below 0 if it could not be sent."""
        self.waiting_bytes += message.cost
        if sequence > 0:
            message.sequence = sequence
            self.in_flight.append(message)
        else:
            message.sequence = -sequence
            self.queue.append(message)

    def enqueue(self, message: Outgoing) -> None:
        """Keep a message until it is acknowledged."""
        self.queue.append(message)
        self.waiting_bytes += message.cost

    def next_message(self) -> Outgoing | None:
        """Return the message to send now, with its sequence number, if the peer has room for it."""
        if not self.queue:
            return None
        message = self.queue[0]
        if not message.sequence:
            if self._sent_bytes + message.cost > self.credit:
                return None
            self._sequence += 1
            self._sent_bytes += message.cost
            message.sequence = self._sequence
            self.messages_sent += 1
        return message

    def sent(self) -> None:
        """Take note that the message that `next_message` returned is on its way."""
        self.in_flight.append(self.queue.popleft())

    def acknowledge_only(self, ack: int, credit: int) -> Outgoing | None:
        """Do what `acknowledge` does if one message waits and has arrived: nearly always.

        Returns:
            The message; None if it is otherwise, and nothing was done.
        """
        waiting = self.in_flight
        if ack != self._sequence or len(waiting) != 1 or self.queue:
            return None
        self.acknowledged = ack
        if credit > self.credit:
            self.credit = credit
        self.waiting_bytes = 0
        return waiting.popleft()

    def acknowledge(self, ack: int, credit: int) -> list[Outgoing]:
        """Take what the peer says of our messages; return those that it has.

        Raises:
            ProtocolViolation: it has more than was sent.
        """
        if ack > self._sequence:
            raise ProtocolViolation(f"message {ack} is acknowledged, {self._sequence} were sent")
        if credit > self.credit:
            self.credit = credit
        if ack <= self.acknowledged:
            return []
        self.acknowledged = ack
        done = []
        waiting = self.in_flight
        while waiting and waiting[0].sequence <= ack:
            message = waiting.popleft()
            self.waiting_bytes -= message.cost
            done.append(message)
        if self.queue:
            self._take_acknowledged(ack, done)
        return done

    def _take_acknowledged(self, ack: int, done: list[Outgoing]) -> None:
        """Take those that were sent over an earlier link from the queue."""
        queue = self.queue
        while queue and 0 < queue[0].sequence <= ack:
            message = queue.popleft()
            self.waiting_bytes -= message.cost
            done.append(message)

    def withdraw(self, message: Outgoing) -> bool:
        """Take back a message that was never sent; return whether it was one."""
        if message.sequence or message not in self.queue:
            return False
        self.queue.remove(message)
        self.waiting_bytes -= message.cost
        return True

    def take_all(self) -> list[Outgoing]:
        """Take back everything that has not ended, to end it."""
        messages = [*self.in_flight, *self.queue]
        self.in_flight.clear()
        self.queue.clear()
        self.waiting_bytes = 0
        return messages

    # --- incoming --------------------------------------------------------------------------------

    def accept(self, sequence: int, cost: int) -> bool:
        """Take note of a message that came; return whether it is new.

        Raises:
            ProtocolViolation: one before it is missing, or the peer had no credit for it.
        """
        if sequence != self.received + 1:
            if sequence <= self.received and sequence:
                self.duplicates += 1
                self.unacknowledged += 1
                return False
            raise ProtocolViolation(f"message {sequence} after {self.received}")
        self._received_bytes += cost
        if self._received_bytes > self._granted:
            raise ProtocolViolation("more messages than this end has room for")
        self.received = sequence
        self.messages_received += 1
        self.unacknowledged += 1
        return True

    def consume(self, cost: int) -> bool:
        """Take note that a message that came does not occupy memory here any more.

        Returns:
            Whether the peer should hear that there is much more room than it knows.
        """
        consumed = self._consumed_bytes = self._consumed_bytes + cost
        return consumed + self._window - self._granted >= self._window // 4

    def grant(self) -> int:
        """Return how many bytes the peer may have sent altogether; it counts as told."""
        self.unacknowledged = 0
        self._granted = self._consumed_bytes + self._window
        return self._granted

    # --- links -----------------------------------------------------------------------------------

    def link_up(self, number: int) -> None:
        """Begin on a new link: first both ends say how far they came."""
        self.number, self.is_ready, self.is_up = number, False, True

    def link_lost(self) -> None:
        """Let everything wait that is not acknowledged, in its order."""
        self.is_ready = self.is_up = False
        self._requeue()

    def offer(self) -> Resume:
        """Return what to tell the peer when a link is up."""
        return Resume(self.id, self.peer_id, self.received, self.grant(), self._window)

    def resume(self, said: Resume) -> tuple[list[Outgoing], list[Outgoing]]:
        """Take what the peer tells: from now on messages may be sent.

        Each end says who it is and who it thinks the other is: if both are right they go on where
        they were, otherwise both begin anew. A peer that does not know us has never had a message
        of ours, so all of them go to it; one that we do not know may have taken the place of one
        that had some, so those that were sent fail.

        Returns:
            Messages that it has, and messages that fail, as nobody knows what became of them.

        Raises:
            ProtocolViolation: it has more than was sent.
        """
        done: list[Outgoing] = []
        failed: list[Outgoing] = []
        if said.id != self.peer_id:
            failed = self._take_sent()
        if said.id == self.peer_id and said.peer_id == self.id:
            done = self.acknowledge(said.received, said.credit)
        else:
            for message in self.queue:
                message.sequence = 0
            self._begin()
            self.peer_id, self.credit = said.id, said.window
        self.is_ready = True
        self.resent += sum(1 for message in self.queue if message.sequence)
        return done, failed

    def _take_sent(self) -> list[Outgoing]:
        """Return what was sent and not acknowledged, and forget it."""
        self._requeue()
        failed = []
        while self.queue and self.queue[0].sequence:
            message = self.queue.popleft()
            self.waiting_bytes -= message.cost
            failed.append(message)
        return failed

    def _requeue(self) -> None:
        """Put what is in flight back in front of what waits."""
        self.queue.extendleft(reversed(self.in_flight))
        self.in_flight.clear()
