# SPDX-License-Identifier: Apache-2.0
"""Messages by name: send and receive by tag, origin and source, with routes over relays.

A messenger works in the thread that calls it, unless it is given event loops of its own. A message
that was sent ends once: its callback is told that the next hop has it, or, when it goes over
relays, that its destination has it; or it is told why not.
"""

from __future__ import annotations

import errno
import json
import logging
import operator
import os
import ssl
import threading
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import partial
from queue import Empty, SimpleQueue
from types import SimpleNamespace
from typing import Any, Final

from i2o.clock import SYSTEM_CLOCK, Clock
from i2o.closing import Closing
from i2o.transport.fabric.endpoint import Buffer
from i2o.transport.registry import CAPTURE_VARIABLE
from i2o.transport.tcp.address import Address, find_addresses
from i2o.transport.tcp.component import Component
from i2o.transport.tcp.errors import PeerError, QueueFull, RecvTimeout, Unreachable
from i2o.transport.tcp.event_loops import EventLoops
from i2o.transport.tcp.hop import Hop, NodeSink
from i2o.transport.tcp.key import PeerKey
from i2o.transport.tcp.mailbox import Message, Receive
from i2o.transport.tcp.message_wire import (
    ANY_TAG,
    FIRST_RESERVED_TAG,
    HOP_LIMIT,
    MESSAGE_SIZE,
    STATUS_REPLY_TAG,
    STATUS_TAG,
    MessageFlag,
)
from i2o.transport.tcp.node import Node
from i2o.transport.tcp.options import MessengerOptions
from i2o.transport.tcp.peer import Peer, PeerState
from i2o.transport.tcp.peer_name import ANYBODY, PeerName
from i2o.transport.tcp.peer_status import PeerStatus
from i2o.transport.tcp.post_office import Done, PostOffice, call_safely
from i2o.transport.tcp.session import Outgoing
from i2o.transport.tcp.wire import Purpose

logger = logging.getLogger(__name__)

LOOPBACK: Final = (Address("127.0.0.1", 0),)
"""Where a messenger listens unless it is told otherwise: here, at any port."""
_ACK_NOW: Final = int(MessageFlag.ACK_NOW)
_SLICE_S: Final = 0.05
_UNGUARDED: Final = nullcontext()
_TAPPED: Final = (
    "send_nb",
    "send",
    "recv",
    "recv_nb",
    "connect",
    "disconnect",
    "watch_states",
    "close",
)
"""What a tap stands in front of."""


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
        CaptureError: it cannot be captured as the environment asks.
        PeerError: EINVAL, the name stands for nobody, or there are fewer than no event loops.
        TypeError: `key` is no PeerKey.
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
        if loops < 0:
            raise PeerError(errno.EINVAL, f"{loops} event loops: 0 for none, or how many")
        self.name = name
        self.options = options or MessengerOptions()
        self._clock = clock
        self._lock = threading.RLock() if loops else None
        self._changed = None if self._lock is None else threading.Condition(self._lock)
        notify = None if self._changed is None else self._changed.notify_all
        self._office = PostOffice(name, self.options, clock, components, notify)
        self._office.handlers[STATUS_TAG] = self._tell_status
        self._office.handlers[STATUS_REPLY_TAG] = self._take_status
        self._questions: dict[tuple[PeerName, int], list[bytes]] = {}
        self._is_over = False
        self._receiving: set[SimpleQueue[Message | None]] = set()
        self._nodes = self._office.nodes
        links = self.options.peer
        if loops:  # a thread that spins holds up those that wait for what it got
            links = replace(links, spin_s=0.0)
        try:
            for index in range(max(1, loops)):
                first = self._nodes[0].identity if index else None
                node = Node(
                    name,
                    Purpose.MESSAGES,
                    listen if first is None else (),
                    options=links,
                    key=key,
                    insecure=insecure,
                    server_tls=server_tls,
                    client_tls=client_tls,
                    incarnation=incarnation if first is None else first.incarnation,
                    answers=bool(loops),
                    address=None if first is None else first.address,
                    guard=self._lock,
                    clock=clock,
                )
                self._nodes.append(node)
                node.route_caller = lambda remote: self._office.node_of(remote.name)
                NodeSink(self._office, node).attach()
        except BaseException:
            self._close_nodes()
            raise
        self._loops = EventLoops(self._nodes if loops else ())
        if os.environ.get(CAPTURE_VARIABLE):
            self._let_capture()

    def _let_capture(self) -> None:
        """Put a tap in front of the calls of this messenger, if the environment asks for that."""
        from i2o.transport.capture.environment import messenger_by_environment

        try:
            tap = messenger_by_environment(
                SimpleNamespace(**{name: getattr(self, name) for name in _TAPPED}), str(self.name)
            )
        except BaseException:
            self.close()
            raise
        if tap is not None:
            for name in _TAPPED:
                setattr(self, name, getattr(tap, name))

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
            if self._office.is_closed:
                return
            self._office.is_closed = True
            for hop in self._office.hops.values():
                hop.say_goodbye()
        self._loops.close()
        with self._guard():
            self._close_nodes()
            self._office.close()
            self._is_over = True  # whoever waits has been told why, or is now
            for news in list(self._receiving):
                news.put(None)
            self._office.notify()

    def _close_nodes(self) -> None:
        for node in self._nodes:
            node.close()

    def progress(self, timeout_s: float = 0.0) -> None:
        """Move what is under way, waiting for something to do at most so long; -1 is for ever.

        With event loops there is nothing to do but to wait.
        """
        if self._changed is None:
            self._nodes[0].progress(timeout_s)
        elif timeout_s:
            with self._changed:
                if not self._is_over:
                    self._changed.wait(None if timeout_s < 0 else timeout_s)

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
            hop = self._office.hop(name)
            hop.session.number = hop.node.add_peer(name)
            for address in usable:
                try:
                    hop.node.add_peer(name, (address,))
                except PeerError as error:
                    refused[str(address)] = error
        for text, why in refused.items():
            logger.warning("peer %s: %s is not used: %s", name, text, why)
        return refused

    def set_route(self, destination: PeerName, hop: PeerName | None) -> None:
        """Send what is for a destination to a relay; None: directly again.

        ANYBODY as the destination stands for all that are neither known nor have a route.

        Raises:
            PeerError: EINVAL, one of them is no name of a peer, or this process itself.
        """
        if destination == self.name or not (destination.is_valid or destination == ANYBODY):
            raise PeerError(errno.EINVAL, f"{self.name} has no route to {destination}")
        if hop is not None and (hop == self.name or not hop.is_valid):
            raise PeerError(errno.EINVAL, f"{hop} cannot be a relay of {self.name}")
        with self._guard():
            if hop is None:
                self._office.routes.pop(destination, None)
            else:
                self._office.routes[destination] = hop

    def lookup(self, name: PeerName) -> PeerStatus | None:
        """Return what is known of a peer, or None if nobody was registered or called."""
        with self._guard():
            hop = self._office.hops.get(name)
            return None if hop is None else self._status_of(hop)

    def peers(self) -> list[PeerStatus]:
        """Return all peers, in the order of their names."""
        with self._guard():
            return [self._status_of(hop) for _, hop in sorted(self._office.hops.items())]

    def _status_of(self, hop: Hop) -> PeerStatus:
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

    def watch_states(self, callback: Callable[[PeerName, PeerState, int, str], None]) -> None:
        """Call back whenever the link to a peer is in another state; there is one callback.

        Args:
            callback: told who it is, the state, an errno (0 if nothing is wrong), and a sentence
                that says where to or why. It is called in whichever thread finds out, must return
                soon, and must not call the messenger.
        """
        tell = partial(_tell_state, callback)
        with self._guard():
            for node in self._nodes:
                node.on_state = tell

    def connect(self, name: PeerName) -> None:
        """Begin to connect to a peer, unless that is done or under way.

        Raises:
            AddresseeUnknown: nobody was registered under this name.
        """
        with self._guard():
            hop = self._office.known_hop(name)
            hop.node.connect(hop.session.number)

    def disconnect(self, name: PeerName) -> None:
        """Close the link to a peer; the next message makes another one.

        Messages that were not acknowledged wait for it, as for any link that was lost.

        Raises:
            AddresseeUnknown: nobody was registered under this name.
        """
        with self._guard():
            hop = self._office.known_hop(name)
            hop.node.disconnect(hop.session.number)
            hop.lost(errno.ENOTCONN, "the link was closed on this side")

    def ping(self, name: PeerName, timeout_s: float = 5.0) -> float:
        """Return the seconds of a round trip to a peer, which is connected first if need be.

        Raises:
            AddresseeUnknown: nobody was registered under this name.
            Unreachable: no link came about, or no answer, in time.
        """
        times: list[int] = []
        pings = self._office.pings
        with self._guard():
            self._refuse_to_wait()
            hop = self._office.known_hop(name)
            pings.setdefault(name, []).append(times)
            hop.ping()
        try:
            self._wait(lambda: times or hop.has_failed, timeout_s)
        finally:
            with self._guard():
                others = [other for other in pings.pop(name, ()) if other is not times]
                if others:
                    pings[name] = others
        if not times:
            why = hop.node.peer(hop.session.number).last_error[1]
            raise Unreachable(f"{name}: {why or f'no answer in {timeout_s} s'}", errno.ETIMEDOUT)
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
            iov: buffers that are gathered into the message: their bytes, whatever their items are.
            tag: for the receiver to match.
            callback: told once what became of it; from within `progress` or a call that waits, or
                from the thread of an event loop, never from within this call.

        Raises:
            AddresseeUnknown: nobody knows the destination, and no component takes the message.
            QueueFull: as much as may waits for this peer already.
            PeerError: EMSGSIZE, it is too long; EINVAL, the tag is none; ESHUTDOWN, closed.
            TypeError: `iov` is no sequence of contiguous buffers, or the tag no int.
        """
        if type(tag) is not int or not 0 <= tag < FIRST_RESERVED_TAG:
            tag = _checked_tag(tag)
        done = None if callback is None else partial(call_safely, callback)
        if self._lock is None:
            self._office.post(destination, iov, tag, 0, done)
            return
        with self._lock:
            self._office.post(destination, iov, tag, 0, done)

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
            SendTimeout: the time is over; nothing more is done for the message, but if it was on
                its way already the peer may have it.
            QueueFull: the time is over, and there was no room for the message.
            PeerError: what else became of it, and as for `send_nb`.
            TypeError: as for `send_nb`.
        """
        tag = _checked_tag(tag)
        ends: list[PeerError | None] = []
        now = self._clock.monotonic
        deadline = None if timeout_s is None else now() + timeout_s
        message = self._post_when_possible(destination, iov, tag, deadline, ends.append)
        self._wait(lambda: ends, None if deadline is None else deadline - now())
        with self._guard():
            failure = ends[0] if ends else self._office.give_up_on(message)
        if failure is not None:
            raise failure

    def _post_when_possible(
        self,
        destination: PeerName,
        iov: Sequence[Buffer],
        tag: int,
        deadline: float | None,
        done: Done,
    ) -> Outgoing | None:
        while True:
            with self._guard():
                self._refuse_to_wait()
                try:
                    return self._office.post(destination, iov, tag, _ACK_NOW, done)
                except QueueFull:
                    if deadline is not None and self._clock.monotonic() >= deadline:
                        raise
            self.progress(_SLICE_S)

    def flush(self, timeout_s: float = 5.0) -> bool:
        """Wait until every message that was sent has ended; return whether that is so."""
        hops = self._office.hops
        return self._wait(
            lambda: not any(hop.session.waiting for hop in list(hops.values())), timeout_s
        )

    # --- receiving -------------------------------------------------------------------------------

    def recv(
        self,
        tag: int = ANY_TAG,
        origin: PeerName = ANYBODY,
        source: PeerName = ANYBODY,
        timeout_s: float | None = None,
    ) -> Message:
        """Return the next message that fits, waiting for it.

        Args:
            tag: of the message.
            origin: who sent it.
            source: over whose link it comes: the origin, or a relay.
            timeout_s: how long to wait; 0 takes what is here, and None waits for ever.

        Raises:
            RecvTimeout: none came in time.
            PeerError: ESHUTDOWN, the messenger was closed.
        """
        if self._lock is None:
            got: list[Message] = []
            return self._recv_alone(Receive(tag, origin, source, got.append), got, timeout_s)
        # a queue of its own: who is woken by it needs no lock that the event loop holds just then
        news: SimpleQueue[Message | None] = SimpleQueue()
        receive = Receive(tag, origin, source, news.put)
        with self._lock:
            message = self._office.take(receive)
            if message is not None:
                return message
            self._refuse_to_wait()
            if self._is_over:
                raise self._nothing_came(timeout_s)
            self._receiving.add(news)
            self._office.mailbox.post(receive)
        try:
            message = news.get(timeout=None if timeout_s is None else max(0.0, timeout_s))
        except Empty:
            pass
        finally:
            self._receiving.discard(news)
            if message is None:
                with self._lock:  # whoever delivers a message just now has done so by then
                    self._office.mailbox.cancel(receive)
        if message is None and not news.empty():
            message = news.get()  # it came when the time was over
        if message is None:
            raise self._nothing_came(timeout_s)
        return message

    def _recv_alone(self, receive: Receive, got: list[Message], timeout_s: float | None) -> Message:
        """Receive in the only thread there is: nothing to lock, and nobody to be woken by."""
        office, node = self._office, self._nodes[0]
        mailbox = office.mailbox
        if mailbox.kept:
            message = office.take(receive)
            if message is not None:
                return message
        if node.is_handling:
            self._refuse_to_wait()
        mailbox.post(receive)
        deadline = None if timeout_s is None else self._clock.monotonic() + timeout_s
        left_s = -1.0 if timeout_s is None else timeout_s
        progress = node.progress
        try:
            while not self._is_over:
                progress(left_s if deadline is None else max(0.0, left_s))  # once, in any case
                if got:
                    return got[0]
                if deadline is not None:
                    left_s = deadline - self._clock.monotonic()
                    if left_s <= 0:
                        break
        finally:
            if not got:
                mailbox.cancel(receive)
        raise self._nothing_came(timeout_s)

    def _nothing_came(self, timeout_s: float | None) -> PeerError:
        if self._office.is_closed:
            return PeerError(errno.ESHUTDOWN, "the messenger was closed")
        return RecvTimeout(f"no message in {timeout_s} s")

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

        The callback comes as that of `send_nb` does, and must not wait for messages.

        Returns:
            What `cancel` takes.
        """
        receive = Receive(tag, origin, source, callback, persistent)
        with self._guard():
            self._office.receive(receive)
        return receive

    def cancel(self, receive: Receive) -> bool:
        """Take a receive back; return whether it still waited."""
        with self._guard():
            return self._office.mailbox.cancel(receive)

    # --- the table of peers, from outside --------------------------------------------------------

    def ask_status(self, name: PeerName, timeout_s: float = 5.0) -> dict[str, Any]:
        """Return the table of peers of another process.

        Raises:
            AddresseeUnknown: nobody was registered under this name.
            Unreachable: no link comes about.
            RecvTimeout: no answer came in time.
            PeerError: EBADMSG, the answer is no table.
        """
        ends: list[PeerError | None] = []
        answers: list[bytes] = []
        with self._guard():
            self._refuse_to_wait()
            self._office.known_hop(name)
            question = self._office.post(name, (), STATUS_TAG, _ACK_NOW, ends.append)
            # the answer has its number: several threads may ask, and one may have given up
            key = name, 0 if question is None else question.number
            self._questions[key] = answers
        try:
            self._wait(lambda: answers or (ends and ends[0]), timeout_s)
        finally:
            with self._guard():
                self._questions.pop(key, None)
        if not answers:
            raise (ends and ends[0]) or RecvTimeout(f"{name}: no answer in {timeout_s} s")
        try:
            table = json.loads(answers[0])
        except (ValueError, RecursionError):
            table = None
        if not isinstance(table, dict):
            raise PeerError(errno.EBADMSG, f"{name} answered what is no table of peers in JSON")
        return table

    def status(self) -> dict[str, Any]:
        """Return what `ask_status` of another process gets: this end, its peers and routes."""
        with self._guard():
            routes = sorted(self._office.routes.items())
            return {
                "name": str(self.name),
                "incarnation": self.incarnation,
                "address": self.address,
                "loops": 0 if self._lock is None else len(self._nodes),
                "half_open": self._nodes[0].half_open,
                "kept": len(self._office.mailbox),
                "routes": {str(name): str(hop) for name, hop in routes},
                "peers": [status.as_dict() for status in self.peers()],
            }

    def _tell_status(self, message: Message) -> None:
        text = json.dumps(self.status()).encode()
        hop = self._office.hop_towards(message.origin)
        if hop is not None and len(text) <= self.options.peer.frame_limit - MESSAGE_SIZE:
            hop.post(
                Outgoing(
                    self.name,
                    message.origin,
                    STATUS_REPLY_TAG,
                    (text,),
                    message.number,
                    0,
                    HOP_LIMIT,
                    None,
                )
            )

    def _take_status(self, message: Message) -> None:
        answers = self._questions.get((message.origin, message.number))
        if answers is not None:
            answers.append(message.data)
            self._office.notify()

    # --- waiting ---------------------------------------------------------------------------------

    def _guard(self) -> AbstractContextManager[object]:
        return _UNGUARDED if self._lock is None else self._lock

    def _refuse_to_wait(self) -> None:
        if any(node.is_handling for node in self._nodes):
            raise PeerError(errno.EDEADLK, "a callback must not wait for messages")

    def _wait(self, until: Callable[[], object], timeout_s: float | None) -> bool:
        """Make progress until something holds; return whether it does."""
        now = self._clock.monotonic
        deadline = None if timeout_s is None else now() + timeout_s
        changed, progress = self._changed, self._nodes[0].progress
        while not until() and not self._is_over:
            left_s = -1.0 if deadline is None else deadline - now()
            if deadline is not None and left_s <= 0:
                break
            if changed is None:
                progress(left_s)
                continue
            with changed:
                if not until() and not self._is_over:
                    changed.wait(None if left_s < 0 else left_s)
        return bool(until())


def _tell_state(callback: Callable[[PeerName, PeerState, int, str], None], peer: Peer) -> None:
    state, (code, reason) = peer.state, peer.last_error
    if peer.name is None:
        return
    sentence = state.value
    if state is PeerState.CONNECTED and peer.link is not None:
        code, sentence = 0, f"connected to {peer.link.address}"
    elif state in (PeerState.CONNECTING, PeerState.CONNECT_ACK):
        code = 0
    elif reason:
        sentence = f"{sentence}: {reason}"
    try:
        callback(peer.name, state, code, sentence)
    except Exception:  # it is the program's own, and not the link's
        logger.exception("callback %r", callback)


def _checked_tag(tag: int) -> int:
    try:
        tag = operator.index(tag)
    except TypeError:
        raise TypeError(f"a tag is an int, not {tag!r:.40}") from None
    if not 0 <= tag < FIRST_RESERVED_TAG:
        raise PeerError(
            errno.EINVAL, f"tag {tag:#x} is not between 0 and {FIRST_RESERVED_TAG - 1:#x}"
        )
    return tag
