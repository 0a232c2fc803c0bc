# SPDX-License-Identifier: Apache-2.0
"""Where messages go: to this process, to a neighbour, over a relay, or to another component.

No threads and no sockets: whoever calls holds the lock, if there is one.
"""

from __future__ import annotations

import errno
import itertools
import logging
import os
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from i2o.clock import Clock
from i2o.transport.fabric.endpoint import Buffer
from i2o.transport.fabric.errors import meaning
from i2o.transport.fabric.packets import byte_view
from i2o.transport.tcp.component import Component, Letter, Offered
from i2o.transport.tcp.errors import (
    AddresseeUnknown,
    PeerError,
    QueueFull,
    SendTimeout,
    Unreachable,
)
from i2o.transport.tcp.hop import Hop
from i2o.transport.tcp.mailbox import Mailbox, Message, Receive
from i2o.transport.tcp.message_wire import (
    FIRST_RESERVED_TAG,
    HOP_LIMIT,
    MESSAGE_COST,
    MESSAGE_SIZE,
    MessageFlag,
)
from i2o.transport.tcp.node import Node
from i2o.transport.tcp.options import MessengerOptions
from i2o.transport.tcp.peer_name import ANYBODY, PeerName
from i2o.transport.tcp.session import Outgoing, Session

logger = logging.getLogger(__name__)

Done = Callable[[PeerError | None], None]
"""Told what became of a message: None, or what went wrong."""

_WANTS_RECEIPT, _RECEIPT = int(MessageFlag.WANTS_RECEIPT), int(MessageFlag.RECEIPT)


class PostOffice:
    """Routes, hops, the mailbox, and receipts that are expected.

    Args:
        name: of this process.
        options: limits and times.
        clock: for deadlines.
        components: asked for destinations that are unknown here.
        notify: called when something happened that another thread may be waiting for, if there
            are others.

    Attributes:
        hops: neighbours by name.
        routes: relays by destination.
        pings: who waits for a round trip to whom.
        handlers: what takes messages with reserved tags.
        is_watched: whether `notify` does anything.
    """

    def __init__(
        self,
        name: PeerName,
        options: MessengerOptions,
        clock: Clock,
        components: Sequence[Component],
        notify: Callable[[], None] | None,
    ) -> None:
        self.name, self.options, self.clock = name, options, clock
        self.notify = notify or _nothing
        self.is_watched = notify is not None
        self.hops: dict[PeerName, Hop] = {}
        self.routes: dict[PeerName, PeerName] = {}
        self.pings: dict[PeerName, list[list[int]]] = {}
        self.handlers: dict[int, Callable[[Message], None]] = {}
        self.mailbox = Mailbox()
        self.is_closed = False
        self.nodes: list[Node] = []
        self._longest = options.peer.frame_limit - MESSAGE_SIZE
        self._components = tuple(components)
        self._numbers: dict[PeerName, itertools.count[int]] = {}
        self._receipts: dict[tuple[PeerName, int], Outgoing] = {}
        self._own: deque[Outgoing] = deque()
        self._own_bytes = 0

    # --- neighbours ------------------------------------------------------------------------------

    def node_of(self, name: PeerName) -> Node:
        """Return the node whose links carry what is for a peer: always the same."""
        return self.nodes[(name.job + name.rank) % len(self.nodes)]

    def hop(self, name: PeerName) -> Hop:
        """Return the hop to a peer, a new one if there is none."""
        hop = self.hops.get(name)
        if hop is None:
            session = Session(name, _random_id(), self.options.window)
            hop = Hop(self, self.node_of(name), session, self._numbers_of(name))
            self.hops[name] = hop
        return hop

    def known_hop(self, name: PeerName) -> Hop:
        """Return the hop to a peer; raises AddresseeUnknown if there is none."""
        hop = self.hops.get(name)
        if hop is None:
            raise AddresseeUnknown(f"{name} is no peer of {self.name}")
        return hop

    def hop_towards(self, destination: PeerName) -> Hop | None:
        """Return the hop that gets what is for a destination, if it is known."""
        return self.hops.get(self.hop_name(destination))

    def hop_name(self, destination: PeerName) -> PeerName:
        """Return who gets what is for a destination."""
        if not self.routes:
            return destination
        hop = self.routes.get(destination)
        if hop is not None:
            return hop
        if destination in self.hops:
            return destination
        return self.routes.get(ANYBODY, destination)

    def forget(self, hop: Hop) -> None:
        """A caller is so long gone that its place was given away."""
        self.hops.pop(hop.session.name, None)
        error = Unreachable(f"{hop.session.name}: it is gone, and others took its place")
        for message in hop.session.take_all():
            message.finish(error)

    # --- sending ---------------------------------------------------------------------------------

    def post(
        self,
        destination: PeerName,
        iov: Sequence[Buffer],
        tag: int,
        flags: int,
        done: Done | None,
    ) -> Outgoing | None:
        """Send a message; see `Messenger.send_nb`. Returns it if it goes over a hop of ours.

        Nothing that could fail later is let in: a message in a queue stands before all others.
        """
        if self.is_closed:
            raise PeerError(errno.ESHUTDOWN, "the messenger is closed")
        kind = type(iov)
        if (kind is list or kind is tuple) and len(iov) == 1 and type(iov[0]) is bytes:
            parts: tuple[bytes | memoryview, ...] = (iov[0],)  # nearly always
            size = len(iov[0])
        else:
            parts = _byte_parts(iov)
            size = sum(map(len, parts))
        if size > self._longest:
            raise PeerError(errno.EMSGSIZE, f"a message of {size} bytes")
        if not self.routes:
            hop = self.hops.get(destination)
            if hop is not None:  # nearly always: it is a neighbour
                if hop.session.waiting_bytes or self._receipts:
                    self._check_room(hop, size)
                number = next(hop.numbers)
                sequence = hop.send_at_once(
                    hop.names_out, tag, parts, size + MESSAGE_COST, number, flags, HOP_LIMIT
                )
                message = Outgoing(
                    self.name, destination, tag, parts, number, flags, HOP_LIMIT, done
                )
                hop.keep(message, sequence)
                return message
        return self._post_by_route(destination, parts, size, tag, flags, done)

    def _post_by_route(
        self,
        destination: PeerName,
        parts: tuple[bytes | memoryview, ...],
        size: int,
        tag: int,
        flags: int,
        done: Done | None,
    ) -> Outgoing | None:
        numbers = self._numbers_of(destination)
        if destination == self.name:
            self._send_to_myself(parts, size, tag, next(numbers), done)
            return None
        hop_name = self.hop_name(destination)
        hop = self.hops.get(hop_name)
        if hop is None:
            letter = Letter(self.name, destination, tag, parts, HOP_LIMIT)
            self._offer(letter, done or _nobody_asks, hop_name)
            return None
        self._check_room(hop, size)
        number = next(numbers)
        if hop_name != destination and done is not None:
            flags |= _WANTS_RECEIPT
            done = self._expecting(destination, number, done)
        message = Outgoing(self.name, destination, tag, parts, number, flags, HOP_LIMIT, done)
        if flags & _WANTS_RECEIPT:
            self._receipts[destination, number] = message
        hop.post(message)
        return message

    def _numbers_of(self, destination: PeerName) -> itertools.count[int]:
        """Return what numbers the messages to a destination, whichever way they go."""
        numbers = self._numbers.get(destination)
        if numbers is None:
            numbers = self._numbers[destination] = itertools.count(1)
        return numbers

    def _expecting(self, destination: PeerName, number: int, done: Done) -> Done:
        """Return what ends a message that goes over relays: nothing is expected any more then."""

        def end(error: PeerError | None) -> None:
            self._receipts.pop((destination, number), None)
            done(error)

        return end

    def _check_room(self, hop: Hop, size: int) -> None:
        session, options = hop.session, self.options
        if len(self._receipts) >= options.queue_messages:
            raise QueueFull(f"{len(self._receipts)} messages wait for receipts of relays")
        if session.waiting and (
            session.waiting >= options.queue_messages
            or session.waiting_bytes + size + MESSAGE_COST > options.queue_bytes
        ):
            raise QueueFull(f"{session.waiting} messages wait for {session.name}")

    def _offer(self, letter: Letter, done: Done, hop: PeerName) -> None:
        """Ask the other components, one after another, to carry what this one cannot.

        Raises:
            AddresseeUnknown: none takes it.
        """
        for component in self._components:
            if component.offer(letter, done) is Offered.TAKEN:
                return
        raise AddresseeUnknown(
            f"{letter.destination}"
            + (f", to be reached over {hop}," if hop != letter.destination else "")
            + f" is no peer of {self.name}; set_peer says where it listens"
        )

    def _send_to_myself(
        self, parts: Sequence[Buffer], size: int, tag: int, number: int, done: Done | None
    ) -> None:
        cost = size + MESSAGE_COST
        if self._own_bytes and self._own_bytes + cost > self.options.window:
            raise QueueFull("messages to itself that nobody received")
        self._own_bytes += cost
        message = Outgoing(self.name, self.name, tag, parts, number, 0, 0, done)
        self._own.append(message)
        if len(self._own) == 1:
            self.nodes[0].call_soon(self._deliver_own)

    def _deliver_own(self) -> None:
        for _ in range(len(self._own)):
            message = self._own.popleft()
            data = b"".join(message.parts)
            message.finish(None)
            own = Message(self.name, self.name, message.tag, data, message.number)
            self.arrived(own, None, message.cost)

    def give_up_on(self, message: Outgoing | None) -> SendTimeout:
        """Do no more for a message whose time is over; return what to tell its sender."""
        if message is None:
            return SendTimeout("no answer of the component that carries it")
        message.on_done = None
        self._receipts.pop((message.destination, message.number), None)
        hop = self.hop_towards(message.destination)
        if hop is not None and hop.session.withdraw(message):
            message.finish(None)
            return SendTimeout(f"{message.destination}: not sent in time, and not any more")
        return SendTimeout(f"{message.destination}: not acknowledged in time; it may have arrived")

    def close(self) -> None:
        """End every message that has not ended."""
        error = PeerError(errno.ECANCELED, "the messenger was closed")
        for hop in self.hops.values():
            for message in hop.session.take_all():
                message.finish(error)
        for message in [*self._own, *self._receipts.values()]:
            message.finish(error)
        self._own.clear()
        self._receipts.clear()
        self.mailbox.clear()

    # --- receiving -------------------------------------------------------------------------------

    def take(self, receive: Receive) -> Message | None:
        """Return the oldest message that came and fits a receive."""
        message = self.mailbox.take(receive)
        if message is not None:
            self._consumed(message)
        return message

    def receive(self, receive: Receive) -> None:
        """Let a receive wait, or serve it soon with what came already."""
        if self.mailbox.has_for(receive):
            self.nodes[0].call_soon(lambda: self._deliver_kept(receive))
        else:
            self.mailbox.post(receive)

    def _deliver_kept(self, receive: Receive) -> None:
        while not receive.is_over:
            message = self.take(receive)
            if message is None:
                self.mailbox.post(receive)
                return
            receive.is_over = not receive.is_persistent
            call_safely(receive.callback, message)

    def arrived(self, message: Message, hop: Hop | None, cost: int) -> None:
        """Deliver a message that is for this process.

        Args:
            message: it.
            hop: over which it came; None if this process sent it to itself.
            cost: bytes that it counts.
        """
        if message.tag >= FIRST_RESERVED_TAG:
            self._consumed(message)
            handler = self.handlers.get(message.tag)
            if handler is not None:
                handler(message)
            return
        receive = self.mailbox.match(message)
        if receive is not None:
            if hop is None:
                self._consumed(message)
            else:
                session = hop.session
                if session.consume(cost) and session.is_ready:
                    hop.send_ack()
            try:
                receive.callback(message)
            except Exception:
                logger.exception("callback %r", receive.callback)
        if self.is_watched:
            self.notify()

    def _consumed(self, message: Message) -> None:
        cost = len(message.data) + MESSAGE_COST
        if message.source == self.name:
            self._own_bytes -= cost
        else:
            self._free(message.source, cost)

    def _free(self, source: PeerName, cost: int) -> None:
        hop = self.hops.get(source)
        if hop is not None:  # it is forgotten when its place was given away
            hop.consumed(cost)

    # --- relays and receipts ---------------------------------------------------------------------

    def transit(self, hop: Hop, letter: Letter, number: int, flags: int, cost: int) -> None:
        """Send on what is for somebody else; what cannot be is reported to its origin."""
        source = hop.session.name

        def done(error: PeerError | None) -> None:
            self._free(source, cost)
            if error is not None and flags & _WANTS_RECEIPT:
                code = error.errno
                if not code or not 0 < code < FIRST_RESERVED_TAG:  # it goes where tags go
                    code = errno.EIO
                self.receipt(letter.origin, source, letter.destination, number, code)

        if letter.hops <= 0:
            done(PeerError(errno.ELOOP, "it went over too many relays"))
            return
        next_name = self.hop_name(letter.destination)
        next_hop = self.hops.get(next_name)
        if next_hop is not None:
            origin, destination, tag, parts, hops = letter
            next_hop.post(Outgoing(origin, destination, tag, parts, number, flags, hops, done))
            return
        try:
            self._offer(letter, done, next_name)
        except AddresseeUnknown as error:
            done(error)

    def receipt(
        self, origin: PeerName, back: PeerName, about: PeerName, number: int, code: int
    ) -> None:
        """Tell the origin of a message what became of it.

        Args:
            origin: of the message.
            back: who brought it: the way to an origin that is not known here.
            about: its destination.
            number: the origin's number of it.
            code: 0, or an errno.
        """
        if origin == self.name:
            self.settle(about, number, code)
            return
        hop = self.hop_towards(origin) or self.hops.get(back)
        if hop is not None:
            hop.post(Outgoing(about, origin, code, (), number, _RECEIPT, HOP_LIMIT, None))

    def settle(self, destination: PeerName, number: int, code: int) -> None:
        """Take a receipt."""
        message = self._receipts.pop((destination, number), None)
        if message is None:
            return
        if not code:
            message.finish(None)
        elif code == errno.ENOENT:
            message.finish(AddresseeUnknown(f"no relay knows {destination}"))
        else:
            message.finish(Unreachable(f"{destination}: {meaning(code)}, says a relay", code))
        self.notify()

    def acknowledged(self, message: Outgoing) -> None:
        """The next hop has a message: that is all, unless it goes further."""
        if not message.flags & _WANTS_RECEIPT:
            message.finish(None)
            return
        key = (message.destination, message.number)
        if message.origin != self.name or self._receipts.get(key) is not message:
            message.finish(None)
            return
        message.parts = ()
        self.nodes[0].after(self.options.receipt_s, lambda: self.settle(*key, errno.ETIMEDOUT))


def _byte_parts(iov: Sequence[Buffer]) -> tuple[bytes | memoryview, ...]:
    """Return buffers whose lengths count bytes, whatever the items of the given ones are.

    Raises:
        TypeError: it is no sequence of buffers, or one is not contiguous.
    """
    if isinstance(iov, (bytes, bytearray, memoryview, str)):
        raise TypeError(f"a message is a sequence of buffers: write [data], not {iov!r:.40}")
    try:
        return tuple(part if type(part) is bytes else byte_view(part) for part in iov)
    except TypeError as error:
        raise TypeError(
            f"a message is a sequence of contiguous bytes-like objects: {error}"
        ) from None


def call_safely(callback: Callable[[Any], None], argument: Any) -> None:
    """Call what the program gave; what it raises is its own, and not the link's."""
    try:
        callback(argument)
    except Exception:
        logger.exception("callback %r", callback)


def _nobody_asks(error: PeerError | None) -> None:
    """Stand in for a callback that was not given."""


def _nothing() -> None:
    """Notify nobody: the only thread there is does not wait."""


def _random_id() -> int:
    return int.from_bytes(os.urandom(8), "little") | 1
