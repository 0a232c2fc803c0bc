# SPDX-License-Identifier: Apache-2.0
"""Messages by name: send and receive by tag, origin and source, with routes over relays.

A messenger works in the thread that calls it, unless it is given event loops of its own. A message
that was sent ends once: its callback is told that the next hop has it, or, when it goes over
relays, that its destination has it; or it is told why not.
"""

from __future__ import annotations

import errno
import itertools
import json
import logging
import os
import ssl
import threading
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final, NamedTuple

from i2o.clock import SYSTEM_CLOCK, Clock
from i2o.closing import Closing
from i2o.transport.fabric.endpoint import Buffer
from i2o.transport.tcp.address import Address, find_addresses
from i2o.transport.tcp.component import Component, Letter, Offered
from i2o.transport.tcp.errors import (
    AddresseeUnknown,
    PeerError,
    ProtocolViolation,
    QueueFull,
    Unreachable,
)
from i2o.transport.tcp.event_loops import EventLoops
from i2o.transport.tcp.handshake import Remote
from i2o.transport.tcp.key import PeerKey
from i2o.transport.tcp.mailbox import Mailbox, Message, Receive
from i2o.transport.tcp.message_wire import (
    ACK,
    ANY_TAG,
    FIRST_RESERVED_TAG,
    HOP_LIMIT,
    MESSAGE_COST,
    MESSAGE_SIZE,
    RESUME,
    STATUS_REPLY_TAG,
    STATUS_TAG,
    MessageFlag,
    MessageKind,
    pack_message,
    unpack_message,
)
from i2o.transport.tcp.node import Node
from i2o.transport.tcp.options import PeerOptions
from i2o.transport.tcp.peer import PeerState
from i2o.transport.tcp.peer_name import ANYBODY, PeerName
from i2o.transport.tcp.session import Outgoing, Resume, Session
from i2o.transport.tcp.wire import Purpose

logger = logging.getLogger(__name__)

Done = Callable[[PeerError | None], None]
"""Told what became of a message: None, or what went wrong."""

LOOPBACK: Final = (Address("127.0.0.1", 0),)
_MESSAGE, _ACK, _RESUME = (int(kind) for kind in MessageKind)
_ACK_NOW: Final = int(MessageFlag.ACK_NOW)
_WANTS_RECEIPT, _RECEIPT = int(MessageFlag.WANTS_RECEIPT), int(MessageFlag.RECEIPT)
_ACK_EVERY: Final = 32
_ACK_AFTER_S: Final = 0.002
_MAX_TRIES: Final = 3
_SLICE_S: Final = 0.05
_UNGUARDED: Final = nullcontext()


@dataclass(frozen=True, slots=True)
class MessengerOptions:
    """Limits of a messenger, beside those of its links.

    Attributes:
        peer: of the links.
        queue_messages: messages to one peer that have not ended; more are refused.
        queue_bytes: bytes of them, each with 64 more.
        window: bytes of messages of one peer that are kept until somebody receives them.
        come_back_s: how long messages wait for a peer whose link was lost.
        receipt_s: how long a message over relays waits to hear of its destination.
    """

    peer: PeerOptions = field(default_factory=PeerOptions)
    queue_messages: int = 4096
    queue_bytes: int = 16 << 20
    window: int = 8 << 20
    come_back_s: float = 10.0
    receipt_s: float = 10.0


class PeerStatus(NamedTuple):
    """What is known of a peer.

    Attributes:
        name: of it.
        state: as in `PeerState`.
        addresses: where it is said to listen, the best first.
        incarnation: of the process that was linked last.
        loop: number of the event loop that has it.
        waiting: messages that were not sent.
        in_flight: messages that were sent and not acknowledged.
        waiting_bytes: of both.
        messages_sent: since it is known.
        messages_received: since it is known.
        resent: messages that were sent once more over another link.
        duplicates: messages that came once more, and were thrown away.
        connects: links that came up.
        losses: links that were lost.
        failed_attempts: to connect.
        nacks: attempts that gave way to one of the peer's.
        round_trip_ns: of the last ping, 0 if there was none.
        last_error: why it is not connected, in words.
    """

    name: PeerName
    state: PeerState
    addresses: tuple[str, ...]
    incarnation: int
    loop: int
    waiting: int
    in_flight: int
    waiting_bytes: int
    messages_sent: int
    messages_received: int
    resent: int
    duplicates: int
    connects: int
    losses: int
    failed_attempts: int
    nacks: int
    round_trip_ns: int
    last_error: str

    def as_dict(self) -> dict[str, Any]:
        """Return it as what JSON can say."""
        return {**self._asdict(), "name": str(self.name), "state": self.state.value}


class Messenger(Closing):
    """This process among its peers.

    Args:
        name: of this process.
        listen: where to be called; nothing but loopback without a key.
        loops: event loops with a thread each, over which peers are spread; with 0 everything
            happens in `progress` and in the calls that wait.
        key: shared with the peers.
        insecure: whether addresses other than loopback may be used without a key.
        server_tls: for callers.
        client_tls: for calling.
        components: other ways to carry messages, asked in this order for peers unknown here.
        incarnation: must grow with every start under this name; by default the time.
        options: limits and times.
        clock: for deadlines.

    Raises:
        TransportUnavailable: an address cannot be had, or not without a key.
    """

    def __init__(
        self,
        name: PeerName,
        listen: Sequence[Address] = LOOPBACK,
        *,
        loops: int = 0,
        key: PeerKey | None = None,
        insecure: bool = False,
        server_tls: ssl.SSLContext | None = None,
        client_tls: ssl.SSLContext | None = None,
        components: Sequence[Component] = (),
        incarnation: int = 0,
        options: MessengerOptions | None = None,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        if not name.is_valid:
            raise PeerError(errno.EINVAL, f"{name} cannot be the name of a process")
        self.name = name
        self.options = options or MessengerOptions()
        self._clock = clock
        self._components = tuple(components)
        self._lock = threading.RLock() if loops else None
        self._changed = None if self._lock is None else threading.Condition(self._lock)
        self._mailbox = Mailbox()
        self._handlers: dict[int, Callable[[Message], None]] = {
            STATUS_TAG: self._tell_status,
            STATUS_REPLY_TAG: self._take_status,
        }
        self._status: dict[PeerName, bytes] = {}
        self._sessions: dict[PeerName, _Hop] = {}
        self._routes: dict[PeerName, PeerName] = {}
        self._numbers: dict[PeerName, itertools.count[int]] = {}
        self._receipts: dict[tuple[PeerName, int], Outgoing] = {}
        self._pings: dict[PeerName, list[list[int]]] = {}
        self._own_bytes = 0
        self._is_closed = False
        self._nodes: list[Node] = []
        try:
            for index in range(max(1, loops)):
                node = Node(
                    name,
                    Purpose.MESSAGES,
                    () if index else listen,
                    options=self.options.peer,
                    key=key,
                    insecure=insecure,
                    server_tls=server_tls,
                    client_tls=client_tls,
                    incarnation=self._nodes[0].identity.incarnation if index else incarnation,
                    answers=bool(loops),
                    address=self._nodes[0].identity.address if index else None,
                    guard=self._lock,
                    clock=clock,
                )
                self._nodes.append(node)
                node.route_caller = self._node_of_caller
                sink = _NodeSink(self, node)
                node.on_round_trip, node.on_evicted = sink.round_trip, sink.evicted
                node.open(sink)
        except BaseException:
            self._close_nodes()
            raise
        self._loops = EventLoops(self._nodes if loops else ())

    # --- life ------------------------------------------------------------------------------------

    @property
    def address(self) -> str:
        """Where this process listens: what peers give to `set_peer`."""
        return self._nodes[0].identity.address

    @property
    def incarnation(self) -> int:
        """Which start of this name this is."""
        return self._nodes[0].identity.incarnation

    def close(self) -> None:
        """End everything: messages that were not acknowledged fail with ECANCELED."""
        with self._guard():
            if self._is_closed:
                return
            self._is_closed = True
            for hop in self._sessions.values():
                if hop.session.is_ready and hop.session.unacknowledged:
                    hop.send_ack()
        self._loops.close()
        self._close_nodes()
        error = PeerError(errno.ECANCELED, "the messenger was closed")
        for hop in self._sessions.values():
            for message in hop.session.take_all():
                message.finish(error)
        for waiting in list(self._receipts.values()):
            waiting.finish(error)
        self._receipts.clear()
        self._mailbox.clear()
        if self._changed is not None:
            with self._changed:
                self._changed.notify_all()

    def _close_nodes(self) -> None:
        for node in self._nodes:
            node.close()

    def progress(self, timeout_s: float = 0.0) -> None:
        """Move what is under way, waiting for something to do at most so long.

        With event loops there is nothing to do but to wait.
        """
        if self._changed is not None:
            with self._changed:
                if timeout_s and not self._is_closed:
                    self._changed.wait(None if timeout_s < 0 else timeout_s)
        else:
            self._nodes[0].progress(timeout_s)

    def fileno(self) -> int:
        """Return a descriptor that is readable when `progress` has something to do.

        -1 with event loops, which do it themselves.
        """
        return -1 if self._lock is not None else self._nodes[0].fileno()

    def next_deadline_ns(self) -> int | None:
        """Return when `progress` is to be called although nothing became readable, or None."""
        return None if self._lock is not None else self._nodes[0].next_deadline_ns()

    # --- peers -----------------------------------------------------------------------------------

    def set_peer(self, name: PeerName, addresses: Iterable[str]) -> dict[str, PeerError]:
        """Say where a peer listens. It is registered now, and connected by the first message.

        Addresses add to those that are known. One that cannot be used changes nothing else.

        Returns:
            What is wrong with each address that cannot be used.

        Raises:
            PeerError: EINVAL, it is no name of a peer, or this process itself.
        """
        if not name.is_valid or name == self.name:
            raise PeerError(errno.EINVAL, f"{name} cannot be the name of a peer of {self.name}")
        refused: dict[str, PeerError] = {}
        usable: list[Address] = []
        for text in addresses:
            try:
                usable += find_addresses(text)
            except PeerError as error:
                refused[text] = error
        with self._guard():
            hop = self._hop(name)
            hop.is_registered = True
            for address in usable:
                try:
                    hop.node.add_peer(name, (address,))
                except PeerError as error:
                    refused[str(address)] = error
            hop.session.number = hop.node.add_peer(name)
        for text, why in refused.items():
            logger.warning("peer %s: %s is not used: %s", name, text, why)
        return refused

    def set_route(self, destination: PeerName, hop: PeerName | None) -> None:
        """Send what is for a destination to a relay; None: directly again.

        ANYBODY as the destination stands for all that are neither known nor have a route.
        """
        with self._guard():
            if hop is None:
                self._routes.pop(destination, None)
            else:
                self._routes[destination] = hop

    def lookup(self, name: PeerName) -> PeerStatus | None:
        """Return what is known of a peer, or None if nobody was registered or called."""
        with self._guard():
            hop = self._sessions.get(name)
            return None if hop is None else self._status_of(hop)

    def peers(self) -> list[PeerStatus]:
        """Return all peers, in the order of their names."""
        with self._guard():
            return [self._status_of(hop) for _, hop in sorted(self._sessions.items())]

    def _status_of(self, hop: _Hop) -> PeerStatus:
        session, peer = hop.session, hop.node.peer(hop.session.number)
        return PeerStatus(
            session.name,
            peer.state,
            tuple(map(str, peer.plan.addresses)),
            peer.incarnation,
            self._nodes.index(hop.node),
            len(session.queue),
            len(session.in_flight),
            session.waiting_bytes,
            session.messages_sent,
            session.messages_received,
            session.resent,
            session.duplicates,
            peer.counters.connects,
            peer.counters.losses,
            peer.counters.failed_attempts,
            peer.counters.nacks,
            peer.round_trip_ns,
            "" if peer.state is PeerState.CONNECTED else peer.last_error[1],
        )

    def connect(self, name: PeerName) -> None:
        """Begin to connect to a peer, unless that is done or under way.

        Raises:
            AddresseeUnknown: nobody was registered under this name.
        """
        with self._guard():
            hop = self._known_hop(name)
            hop.node.connect(hop.session.number)

    def ping(self, name: PeerName, timeout_s: float = 5.0) -> float:
        """Return the seconds of a round trip to a peer, which is connected first if need be.

        Raises:
            AddresseeUnknown: nobody was registered under this name.
            Unreachable: no link came about, or no answer, in time.
        """
        times: list[int] = []
        with self._guard():
            self._refuse_to_wait()
            hop = self._known_hop(name)
            hop.failed = False
            self._pings.setdefault(name, []).append(times)
            if not hop.node.ping(hop.session.number):
                hop.node.connect(hop.session.number)
        try:
            if not self._wait(lambda: times or hop.failed, timeout_s) or not times:
                raise Unreachable(f"{name}: {self._why(hop, timeout_s)}", errno.ETIMEDOUT)
        finally:
            with self._guard():
                waiting = [other for other in self._pings.pop(name, ()) if other is not times]
                if waiting:
                    self._pings[name] = waiting
        return times[0] / 1e9

    # --- sending ---------------------------------------------------------------------------------

    def send_nb(
        self,
        destination: PeerName,
        iov: Sequence[Buffer],
        tag: int,
        callback: Done | None = None,
    ) -> None:
        """Send a message; the buffers stay as they are until the callback is called.

        Args:
            destination: whose it is.
            iov: buffers that are gathered into the message.
            tag: for the receiver to match.
            callback: told once what became of it; from within `progress` or a call that waits, or
                from the thread of an event loop, never from within this call.

        Raises:
            AddresseeUnknown: nobody knows the destination, and no component takes the message.
            QueueFull: as much as may waits for this peer already.
            PeerError: EMSGSIZE, it is too long; EINVAL, the tag is none; ESHUTDOWN, closed.
        """
        if not 0 <= tag < FIRST_RESERVED_TAG:
            raise PeerError(
                errno.EINVAL, f"tag {tag:#x} is not between 0 and {FIRST_RESERVED_TAG - 1:#x}"
            )
        done = None if callback is None else partial(_call, callback)
        with self._guard():
            self._post(destination, iov, tag, 0, done)

    def send(
        self,
        destination: PeerName,
        iov: Sequence[Buffer],
        tag: int,
        timeout_s: float | None = None,
    ) -> None:
        """Send a message, and wait until the peer has it.

        Raises:
            Unreachable: no link comes about.
            AddresseeUnknown: nobody knows the destination, and no component takes the message.
            TimeoutError: the time is over; nothing more is done for the message, but if it was on
                its way already the peer may have it (`PeerError`, ETIMEDOUT).
            PeerError: what else became of it, and as for `send_nb`.
        """
        if not 0 <= tag < FIRST_RESERVED_TAG:
            raise PeerError(errno.EINVAL, f"tag {tag:#x} is reserved, or none")
        ends: list[PeerError | None] = []
        deadline = None if timeout_s is None else self._clock.monotonic() + timeout_s
        with self._guard():
            self._refuse_to_wait()
        while True:
            with self._guard():
                try:
                    message = self._post(destination, iov, tag, _ACK_NOW, ends.append)
                    break
                except QueueFull:
                    if deadline is not None and self._clock.monotonic() >= deadline:
                        raise
            self.progress(_SLICE_S)
        left_s = None if deadline is None else max(0.0, deadline - self._clock.monotonic())
        if not self._wait(lambda: ends, left_s):
            with self._guard():
                if not ends:
                    raise self._give_up_on(message)
        if (failure := ends[0]) is not None:
            raise failure

    def _give_up_on(self, message: Outgoing | None) -> PeerError:
        if message is None:
            return SendTimeout("no answer of the component that carries it")
        message.on_done = None
        self._receipts.pop((message.destination, message.number), None)
        hop = self._sessions.get(self._hop_name(message.destination))
        if hop is not None and hop.session.withdraw(message):
            message.finish(None)
            return SendTimeout(f"{message.destination}: not sent in time, and not any more")
        return SendTimeout(f"{message.destination}: not acknowledged in time; it may have arrived")

    def flush(self, timeout_s: float = 5.0) -> bool:
        """Wait until every message that was sent has ended; return whether that is so."""
        return self._wait(
            lambda: not any(hop.session.waiting for hop in self._sessions.values()), timeout_s
        )

    def _post(
        self,
        destination: PeerName,
        iov: Sequence[Buffer],
        tag: int,
        flags: int,
        callback: Done | None,
    ) -> Outgoing | None:
        if self._is_closed:
            raise PeerError(errno.ESHUTDOWN, "the messenger is closed")
        size = sum(map(len, iov))
        if size > self.options.peer.frame_limit - MESSAGE_SIZE:
            raise PeerError(errno.EMSGSIZE, f"a message of {size} bytes")
        numbers = self._numbers.get(destination)
        if numbers is None:
            numbers = self._numbers[destination] = itertools.count(1)
        if destination == self.name:
            self._send_to_myself(iov, size, tag, next(numbers), callback)
            return None
        hop_name = self._hop_name(destination)
        hop = self._sessions.get(hop_name)
        if hop is None:
            self._offer(
                Letter(self.name, destination, tag, tuple(iov), HOP_LIMIT), callback, hop_name
            )
            return None
        session, options = hop.session, self.options
        if len(self._receipts) >= options.queue_messages:
            raise QueueFull(f"{len(self._receipts)} messages wait for receipts of relays")
        if session.waiting and (
            session.waiting >= options.queue_messages
            or session.waiting_bytes + size + MESSAGE_COST > options.queue_bytes
        ):
            raise QueueFull(f"{session.waiting} messages wait for {hop_name}")
        if hop_name != destination:
            flags |= _WANTS_RECEIPT
        message = Outgoing(
            self.name, destination, tag, iov, next(numbers), flags, HOP_LIMIT, callback
        )
        hop.post(message)
        return message

    def _hop_name(self, destination: PeerName) -> PeerName:
        """Return who gets what is for a destination."""
        hop = self._routes.get(destination)
        if hop is not None:
            return hop
        if destination in self._sessions:
            return destination
        return self._routes.get(ANYBODY, destination)

    def _offer(self, letter: Letter, callback: Done | None, hop: PeerName) -> None:
        """Ask the other components, one after another, to carry what this one cannot.

        Raises:
            AddresseeUnknown: none takes it.
        """
        for component in self._components:
            if component.offer(letter, callback or _nobody_asks) is Offered.TAKEN:
                return
        raise AddresseeUnknown(
            f"{letter.destination}"
            + (f", to be reached over {hop}," if hop != letter.destination else "")
            + f" is no peer of {self.name}; set_peer says where it listens"
        )

    def _send_to_myself(
        self, iov: Sequence[Buffer], size: int, tag: int, number: int, callback: Done | None
    ) -> None:
        cost = size + MESSAGE_COST
        if self._own_bytes and self._own_bytes + cost > self.options.window:
            raise QueueFull("messages to itself that nobody received")
        self._own_bytes += cost
        message = Message(self.name, self.name, tag, b"".join(iov), number)

        def arrive() -> None:
            if callback is not None:
                callback(None)
            self._arrived(message)

        self._nodes[0].call_soon(arrive)

    # --- receiving -------------------------------------------------------------------------------

    def recv(
        self,
        tag: int = ANY_TAG,
        origin: PeerName = ANYBODY,
        source: PeerName = ANYBODY,
        timeout_s: float | None = None,
    ) -> Message:
        """Return the next message that fits, waiting for it.

        Raises:
            RecvTimeout: none came in time.
            PeerError: ESHUTDOWN, the messenger was closed.
        """
        got: list[Message] = []
        receive = Receive(tag, origin, source, got.append)
        with self._guard():
            message = self._take(receive)
            if message is not None:
                return message
            self._refuse_to_wait()
            self._mailbox.post(receive)
        try:
            self._wait(lambda: got, timeout_s)
        finally:
            with self._guard():
                self._mailbox.cancel(receive)
        if got:
            return got[0]
        if self._is_closed:
            raise PeerError(errno.ESHUTDOWN, "the messenger was closed")
        raise RecvTimeout(f"no message in {timeout_s} s")

    def recv_nb(
        self,
        callback: Callable[[Message], None],
        tag: int = ANY_TAG,
        origin: PeerName = ANYBODY,
        source: PeerName = ANYBODY,
        *,
        persistent: bool = False,
    ) -> Receive:
        """Call back with the next message that fits, or with every one.

        The callback must not wait for other messages.

        Returns:
            What `cancel` takes.
        """
        receive = Receive(tag, origin, source, callback, persistent)
        with self._guard():
            if self._mailbox.has_for(receive):
                self._nodes[0].call_soon(lambda: self._deliver_kept(receive))
            else:
                self._mailbox.post(receive)
        return receive

    def cancel(self, receive: Receive) -> bool:
        """Take a receive back; return whether it still waited."""
        with self._guard():
            return self._mailbox.cancel(receive)

    def _deliver_kept(self, receive: Receive) -> None:
        while not receive.is_over:
            message = self._take(receive)
            if message is None:
                self._mailbox.post(receive)
                return
            receive.is_over = not receive.is_persistent
            _call(receive.callback, message)

    def _take(self, receive: Receive) -> Message | None:
        message = self._mailbox.take(receive)
        if message is not None:
            self._consumed(message.source, len(message.data) + MESSAGE_COST)
        return message

    def _arrived(self, message: Message) -> None:
        """Deliver a message that is for this process."""
        if message.tag >= FIRST_RESERVED_TAG:
            self._consumed(message.source, len(message.data) + MESSAGE_COST)
            handler = self._handlers.get(message.tag)
            if handler is not None:
                handler(message)
            return
        receive = self._mailbox.match(message)
        if receive is not None:
            self._consumed(message.source, len(message.data) + MESSAGE_COST)
            _call(receive.callback, message)
        self._notify()

    def _consumed(self, source: PeerName, cost: int) -> None:
        if source == self.name:
            self._own_bytes -= cost
            return
        hop = self._sessions.get(source)
        if hop is not None:
            hop.session.consume(cost)
            if hop.session.is_ready and hop.session.owes_credit:
                hop.send_ack()

    # --- relays and receipts ---------------------------------------------------------------------

    def _transit(self, hop: _Hop, letter: Letter, number: int, flags: int, cost: int) -> None:
        """Send on what is for somebody else; what cannot be is reported to its origin."""
        source = hop.session.name

        def done(error: PeerError | None) -> None:
            self._consumed(source, cost)
            if error is not None and flags & _WANTS_RECEIPT:
                self._receipt(letter.origin, source, letter.destination, number, error.errno or 5)

        next_name = self._hop_name(letter.destination)
        next_hop = self._sessions.get(next_name)
        if letter.hops <= 0:
            done(PeerError(errno.ELOOP, "it went over too many relays"))
        elif next_hop is not None:
            next_hop.post(
                Outgoing(
                    letter.origin,
                    letter.destination,
                    letter.tag,
                    letter.parts,
                    number,
                    flags,
                    letter.hops,
                    done,
                )
            )
        else:
            try:
                self._offer(letter, done, next_name)
            except AddresseeUnknown as error:
                done(error)

    def _receipt(
        self, origin: PeerName, back: PeerName, about: PeerName, number: int, code: int
    ) -> None:
        """Tell the origin of a message what became of it."""
        if origin == self.name:
            self._settle(about, number, code)
            return
        hop = self._sessions.get(self._hop_name(origin)) or self._sessions.get(back)
        if hop is not None:
            hop.post(Outgoing(about, origin, code, (), number, _RECEIPT, HOP_LIMIT, None))

    def _settle(self, destination: PeerName, number: int, code: int) -> None:
        message = self._receipts.pop((destination, number), None)
        if message is None:
            return
        if not code:
            message.finish(None)
        elif code == errno.ENOENT:
            message.finish(AddresseeUnknown(f"no relay knows {destination}"))
        else:
            message.finish(Unreachable(f"{destination}: {os.strerror(code)}, says a relay", code))

    def _acknowledged(self, message: Outgoing) -> None:
        """The next hop has a message: that is all, unless it goes further."""
        is_own = message.origin == self.name and not message.is_over
        if is_own and message.flags & _WANTS_RECEIPT and message.on_done is not None:
            key = (message.destination, message.number)
            self._receipts[key] = message
            message.parts = ()
            self._nodes[0].after(
                self.options.receipt_s, lambda: self._settle(*key, errno.ETIMEDOUT)
            )
            return
        message.finish(None)

    # --- small things ----------------------------------------------------------------------------

    def _tell_status(self, message: Message) -> None:
        """Answer whoever asks for the table of peers, under the tag that it names."""
        table = {
            "name": str(self.name),
            "incarnation": self.incarnation,
            "address": self.address,
            "loops": len(self._nodes) if self._lock is not None else 0,
            "kept": len(self._mailbox),
            "routes": {str(name): str(hop) for name, hop in sorted(self._routes.items())},
            "peers": [status.as_dict() for status in self.peers()],
        }
        text = json.dumps(table).encode()
        hop = self._sessions.get(self._hop_name(message.origin))
        if hop is not None and len(text) <= self.options.peer.frame_limit - MESSAGE_SIZE:
            hop.post(
                Outgoing(
                    self.name, message.origin, STATUS_REPLY_TAG, (text,), 0, 0, HOP_LIMIT, None
                )
            )

    def _take_status(self, message: Message) -> None:
        if message.origin in self._status:
            self._status[message.origin] = message.data
            self._notify()

    def ask_status(self, name: PeerName, timeout_s: float = 5.0) -> dict[str, Any]:
        """Return the table of peers of another process.

        Raises:
            AddresseeUnknown: nobody was registered under this name.
            Unreachable: no link comes about.
            RecvTimeout: no answer came in time.
        """
        ends: list[PeerError | None] = []
        with self._guard():
            self._refuse_to_wait()
            self._known_hop(name)
            self._status[name] = b""
            self._post(name, (), STATUS_TAG, _ACK_NOW, ends.append)
        try:
            self._wait(lambda: self._status[name] or (ends and ends[0]), timeout_s)
        finally:
            with self._guard():
                answer = self._status.pop(name)
        if not answer:
            raise (ends and ends[0]) or RecvTimeout(f"{name}: no answer in {timeout_s} s")
        table: dict[str, Any] = json.loads(answer)
        return table

    def _known_hop(self, name: PeerName) -> _Hop:
        hop = self._sessions.get(name)
        if hop is None:
            raise AddresseeUnknown(f"{name} is no peer of {self.name}")
        return hop

    def _hop(self, name: PeerName) -> _Hop:
        hop = self._sessions.get(name)
        if hop is None:
            session = Session(name, _random_id(), self.options.window)
            hop = self._sessions[name] = _Hop(self, self._node_of(name), session)
        return hop

    def _node_of(self, name: PeerName) -> Node:
        """Return the node whose links carry what is for a peer: always the same."""
        return self._nodes[(name.job + name.rank) % len(self._nodes)]

    def _node_of_caller(self, remote: Remote) -> Node:
        return self._node_of(remote.name)

    def _forget(self, hop: _Hop) -> None:
        """A caller is so long gone that its place was given away."""
        if not hop.session.waiting:
            self._sessions.pop(hop.session.name, None)

    def _notify(self) -> None:
        if self._changed is not None:
            self._changed.notify_all()

    def _why(self, hop: _Hop, timeout_s: float) -> str:
        peer = hop.node.peer(hop.session.number)
        if peer.state is PeerState.CONNECTED:
            return f"no answer in {timeout_s} s"
        return peer.last_error[1] or f"no link in {timeout_s} s"

    def _guard(self) -> AbstractContextManager[object]:
        return _UNGUARDED if self._lock is None else self._lock

    def _refuse_to_wait(self) -> None:
        if any(node.is_handling for node in self._nodes):
            raise PeerError(errno.EDEADLK, "a callback must not wait for messages")

    def _wait(self, until: Callable[[], object], timeout_s: float | None) -> bool:
        """Make progress until something holds; return whether it does."""
        if until():
            return True
        now = self._clock.monotonic
        deadline = None if timeout_s is None else now() + timeout_s
        changed, progress = self._changed, self._nodes[0].progress
        while not self._is_closed:
            left_s = -1.0 if deadline is None else deadline - now()
            if deadline is not None and left_s <= 0:
                break
            if changed is None:
                progress(left_s)
            else:
                with changed:
                    if not until():
                        changed.wait(None if left_s < 0 else left_s)
            if until():
                return True
        return bool(until())


class SendTimeout(PeerError, TimeoutError):
    """ETIMEDOUT: a message was not acknowledged in time."""

    def __init__(self, message: str) -> None:
        super().__init__(errno.ETIMEDOUT, message)


class RecvTimeout(PeerError, TimeoutError):
    """ETIMEDOUT: no message came in time."""

    def __init__(self, message: str) -> None:
        super().__init__(errno.ETIMEDOUT, message)


class _Hop:
    """A peer of a messenger: its session, and the node whose links carry it."""

    def __init__(self, messenger: Messenger, node: Node, session: Session) -> None:
        self._messenger, self.node, self.session = messenger, node, session
        self.is_registered = False
        self.failed = False
        self._cost_limit = 0
        self._lost_ns: int | None = None
        self._is_ack_due = False

    def post(self, message: Outgoing) -> None:
        """Send a message as soon as that is possible."""
        session = self.session
        self.failed = False
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
        self.failed = False
        self.session.link_up(number)
        limit = self.node.frame_limit_of(number)
        self._cost_limit = limit - MESSAGE_SIZE + MESSAGE_COST
        self.node.send(number, (RESUME.build(kind=_RESUME, **self.session.offer()._asdict()),))
        if self.session.name in self._messenger._pings:
            self.node.ping(number)

    def lost(self, code: int, reason: str) -> None:
        """The link is gone, or none came about."""
        session, messenger = self.session, self._messenger
        now = messenger._clock.monotonic_ns()
        if session.is_up:
            self._lost_ns = now
        session.link_lost()
        limit_ns = round(messenger.options.come_back_s * 1e9)
        if self._lost_ns is not None and now - self._lost_ns < limit_ns:
            if session.waiting or messenger._pings.get(session.name):
                delay_s = messenger.options.peer.retry_delay_s
                self.node.after(delay_s, self._call_again)
            return
        self._lost_ns = None
        self.failed = True
        error = Unreachable(f"{session.name}: {reason}", code)
        for message in session.take_all():
            message.finish(error)
        messenger._notify()

    def _call_again(self) -> None:
        if not self.session.is_up and not self._messenger._is_closed:
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
        _, flags, hops, _, tag, sequence, ack, credit, *names, number = unpack_message(frame)
        session, messenger = self.session, self._messenger
        cost = len(frame) - MESSAGE_SIZE + MESSAGE_COST
        is_new = session.accept(sequence, cost)
        if is_new:
            data = bytes(frame[MESSAGE_SIZE:])
            origin = PeerName(names[0], names[1])
            destination = PeerName(names[2], names[3])
            if destination != messenger.name:
                letter = Letter(origin, destination, tag, (data,), hops - 1)
                messenger._transit(self, letter, number, flags, cost)
            elif flags & _RECEIPT:
                session.consume(cost)
                messenger._settle(origin, number, tag)
            else:
                if flags & _WANTS_RECEIPT:
                    messenger._receipt(origin, session.name, destination, number, 0)
                messenger._arrived(Message(origin, session.name, tag, data, number))
        self._acknowledge(ack, credit)
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
        messenger = self._messenger
        done = self.session.acknowledge(ack, credit)
        for message in done:
            messenger._acknowledged(message)
        if self.session.queue:
            self.pump()
        if done:
            messenger._notify()

    def _resume(self, said: Resume) -> None:
        messenger = self._messenger
        self._lost_ns = None
        done, failed = self.session.resume(said)
        for message in done:
            messenger._acknowledged(message)
        error = Unreachable(
            f"{self.session.name} was started anew before it acknowledged the message",
            errno.ECONNRESET,
        )
        for message in failed:
            message.finish(error)
        self.pump()
        messenger._notify()


class _NodeSink:
    """Takes what a node tells, for the hops that it carries."""

    def __init__(self, messenger: Messenger, node: Node) -> None:
        self._messenger, self._node = messenger, node
        self._hops: dict[int, _Hop] = {}

    def _hop(self, number: int) -> _Hop:
        hop = self._hops.get(number)
        if hop is None:
            name = self._node.peer(number).name
            assert name is not None
            hop = self._hops[number] = self._messenger._hop(name)
        return hop

    def frame_arrived(self, peer: int, frame: memoryview) -> None:
        self._hops[peer].take(frame)

    def frame_sent(self, peer: int, token: object) -> None:
        """Do nothing: a message has arrived when it is acknowledged."""

    def room_made(self, peer: int) -> None:
        self._hop(peer).room()

    def peer_up(self, peer: int) -> None:
        self._hop(peer).up(peer)

    def peer_lost(self, peer: int, error: int, reason: str) -> None:
        self._hop(peer).lost(error, reason)

    def evicted(self, peer: int) -> None:
        """A caller's place was given away."""
        hop = self._hops.pop(peer, None)
        if hop is not None:
            self._messenger._forget(hop)

    def round_trip(self, peer: int, round_trip_ns: int) -> None:
        """A ping was answered."""
        messenger = self._messenger
        for times in messenger._pings.pop(self._hop(peer).session.name, ()):
            times.append(round_trip_ns)
        messenger._notify()


def _call(callback: Callable[[Any], None], argument: Any) -> None:
    """Call what the program gave; what it raises is its own, and not the link's."""
    try:
        callback(argument)
    except Exception:
        logger.exception("callback %r", callback)


def _nobody_asks(error: PeerError | None) -> None:
    """Stand in for a callback that was not given."""


def _random_id() -> int:
    return int.from_bytes(os.urandom(8), "little") | 1
