# SPDX-License-Identifier: Apache-2.0
"""A node: processes that send messages to one another, here and on other nodes.

A node is what LAM's daemon is: it buffers messages, matches them with receivers, and knows the way
to other nodes. It has no thread unless it is asked to. Whoever waits drives it; of several threads
that wait one does, and the others sleep until theirs is there. All of it is under one lock, so a
`try` is atomic.
"""

from __future__ import annotations

import os
import select
import threading
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Final

from i2o.clock import SYSTEM_CLOCK, Clock
from i2o.closing import Closing
from i2o.network_message.conversion import IS_BIG_ENDIAN
from i2o.network_message.descriptor import (
    EVBUFFERD,
    EVDL0,
    LOCAL,
    MAX_NUMBER,
    MAXNMSGLEN,
    ORIGIN,
    PRIORITY,
)
from i2o.network_message.errors import (
    BadNode,
    MessageTooLong,
    NetworkMessageError,
    NodeDied,
    NotAttached,
    Swept,
    TimedOut,
    WouldBlock,
)
from i2o.network_message.links import Links
from i2o.network_message.medium import medium_of
from i2o.network_message.peer import Peer
from i2o.network_message.process import Process
from i2o.network_message.station import SendNow
from i2o.network_message.waits import RECEIVING, SENDING, Wait, WaitReport, check_limit
from i2o.transport.fabric.carrier import Carrier
from i2o.transport.fabric.endpoint import Endpoint
from i2o.transport.fabric.mailbox import OVERHEAD, Letter, Listed, Mailbox, Want

DEFAULT_SPACE: Final = 8 << 20
"""Bytes of messages of its own processes that a node buffers: as many as LAM's buffer."""
DEFAULT_WINDOW: Final = 256 << 10
"""Bytes of messages that another node may have waiting here."""
LINGER_S: Final = 2.0
SPIN_S: Final = 100e-6
_BEAT_S: Final = 1.0
_MOST_SLEEP_S: Final = 0.05
_BLIND_SLEEP_S: Final = 0.001

Pause = Callable[[float], None]


class Node(Closing):
    """One node.

    Args:
        number: its number; nodes that know one another need different ones.
        endpoint: how other nodes are reached: an unconnected endpoint, not enabled yet, or a
            carrier, not opened yet. The node closes it.
        origin: number of the node that `ORIGIN` means; itself if None.
        space: bytes of messages of its own processes that may wait for receivers.
        window: bytes of messages that every other node may have waiting here, at least 64 KiB.
        ttl_s: how long a message may wait for a receiver before it is swept; None for ever.
        packet_size: bytes of a body in one packet; an endpoint may allow less.
        max_nodes: other nodes that may be known.
        receives: packets that an endpoint has room for.
        dead_after_s: how long a node that is waited for may say nothing at all.
        background: a thread drives the node between calls, as LAM's daemon does.
        linger_s: how long `close` may take to let what was sent leave this node.
        spin_s: how long a call that waits is busy before it sleeps.
        is_big_endian: in which order it writes headers; this machine's unless for a test.
        clock: the time.
        pause: sleeps until something may have happened, or some seconds; for tests.

    Attributes:
        number: its number.
        origin: number of the node that `ORIGIN` means.
        send_now: see `Station`.
    """

    def __init__(
        self,
        number: int = 0,
        endpoint: Endpoint | Carrier | None = None,
        *,
        origin: int | None = None,
        space: int = DEFAULT_SPACE,
        window: int = DEFAULT_WINDOW,
        ttl_s: float | None = None,
        packet_size: int = MAXNMSGLEN,
        max_nodes: int = 64,
        receives: int = 64,
        dead_after_s: float = 10.0,
        linger_s: float = LINGER_S,
        background: bool = False,
        spin_s: float = SPIN_S,
        is_big_endian: bool = IS_BIG_ENDIAN,
        clock: Clock = SYSTEM_CLOCK,
        pause: Pause | None = None,
    ) -> None:
        _check_number(number)
        self.number = number
        self.origin = number if origin is None else origin
        self._now_ns = clock.monotonic_ns
        self._clock = clock
        self._space, self._local_used = space, 0
        self._dead_after_ns, self._spin_ns = round(dead_after_s * 1e9), round(spin_s * 1e9)
        self._linger_ns = round(linger_s * 1e9)
        self._mailbox = Mailbox(space, None if ttl_s is None else round(ttl_s * 1e9))
        self._ttl = ttl_s is not None
        self._receiver = self._mailbox.receiver
        self._lock = threading.Lock()
        self._waits: list[Wait] = []
        self._driver: Wait | None = None
        self._senders: deque[tuple[Letter, Wait]] = deque()
        self._closed = False
        self._names: dict[str, int] = {}
        self._pause = pause
        self._links: Links | None = None
        self._wake_fd, self._is_blind = -1, False
        self._poll: select.poll | None = None
        if endpoint is not None:
            self._links = Links(
                self,
                number,
                medium_of(endpoint, receives, packet_size),
                self._lock,
                packet_size=packet_size,
                window=window,
                max_nodes=max_nodes,
                is_big_endian=is_big_endian,
                now_ns=self._now_ns,
            )
        self.send_now: SendNow = _send_later if self._links is None else self._links.send_now
        self._idler: Wait | None = None
        self._thread: threading.Thread | None = None
        if background and self._links is not None:
            self._idler = Wait("background", RECEIVING, None, 0, 0, self._now_ns())
            self._thread = threading.Thread(
                target=self._run,
                args=(self._links, self._idler),
                name=f"i2o-node-{number}",
                daemon=True,
            )
            self._thread.start()

    def _open_poll(self, links: Links) -> None:
        """Prepare for sleeping until a packet comes, or another thread has news.

        Not before somebody sleeps: a medium whose descriptor was asked for has to take care of it.
        """
        self._wake_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        descriptor = links.fileno()
        self._is_blind = descriptor < 0
        poll = self._poll = select.poll()
        poll.register(self._wake_fd, select.POLLIN)
        if descriptor >= 0:
            poll.register(descriptor, select.POLLIN)

    # --- processes and nodes ---------------------------------------------------------------------

    def attach(self, name: str = "", *, priority: int = PRIORITY) -> Process:
        """Return a process of this node.

        Args:
            name: what it is called where waits are shown.
            priority: of several receivers that match, the one with the highest gets the message.
        """
        self._check_open()
        return Process(self, name or f"process {threading.get_ident():#x}", priority=priority)

    @property
    def address(self) -> str:
        """What other nodes know this one's endpoint by; empty without one."""
        return "" if self._links is None else self._links.address

    def add_node(self, number: int, address: str, name: str = "") -> None:
        """Learn where another node is. Nothing is sent: that is for the first message.

        Args:
            number: its number.
            address: its `address`.
            name: what `number_of` finds it by.

        Raises:
            BadNode: there is no endpoint, the number is taken, or too many nodes are known.
            FabricError: it is no address of this kind of endpoint.
        """
        _check_number(number)
        with self._lock:
            self._check_open()
            if self._links is None or number == self.number:
                raise BadNode(f"node {number}: this node has no endpoint, or it is this node")
            self._links.add(number, address)
            if name:
                self._names[name] = number

    def ping(self, number: int, timeout_s: float | None = None) -> float:
        """Wait until another node has got everything that was sent to it before.

        Args:
            number: the node.
            timeout_s: how long to wait; None for ever.

        Returns:
            Seconds that the answer took.

        Raises:
            BadDescriptor, BadNode, NodeDied, TimedOut: see there.
        """
        if timeout_s is not None:
            check_limit(timeout_s)
        with self._lock:
            self._check_open()
            if self._links is None:
                raise BadNode(f"no node {number}: this node has no endpoint")
            peer = self._links.reach(number)
            wait = Wait("ping", "ask", number, 0, 0, self._now_ns())
            self._links.ask_for_life(peer, wait)
            self._block(wait, timeout_s, lambda: peer.asking.clear())
            return (self._now_ns() - wait.since_ns) / 1e9

    def number_of(self, name: str) -> int:
        """Return the number of a node by its name; raises BadNode."""
        number = self._names.get(name)
        if number is None:
            known = ", ".join(sorted(self._names))
            raise BadNode(f"no node is called {name!r}; known are {known or 'none'}")
        return number

    def nodes(self) -> dict[int, str]:
        """Return the addresses of the other nodes that are known, by number."""
        with self._lock:
            peers = {} if self._links is None else self._links.peers
            return {number: peer.address for number, peer in peers.items()}

    @property
    def dropped(self) -> int:
        """Packets that were thrown away because they made no sense here."""
        return 0 if self._links is None else self._links.dropped

    # --- sending ---------------------------------------------------------------------------------

    def send(
        self,
        process: str,
        node: int,
        letter: Letter,
        *,
        no_buffer: bool,
        may_wait: bool,
        timeout_s: float | None,
    ) -> tuple[int, int | None]:
        """Send a message; see `Station.send`."""
        with self._lock:
            self._check_open()
            number = self.origin if node == ORIGIN else node
            if number in (LOCAL, self.number):
                event = self._send_here(process, letter, no_buffer, may_wait, timeout_s)
                return event, None
            if self._links is None:
                raise BadNode(f"no node {node}: this node has no endpoint")
            peer = self._links.reach(number)
            self._send_there(self._links, peer, process, letter, no_buffer, may_wait, timeout_s)
            return EVDL0, peer.link

    def _send_here(
        self,
        process: str,
        letter: Letter,
        no_buffer: bool,
        may_wait: bool,
        timeout_s: float | None,
    ) -> int:
        """Send a message to a process of this node; return its `nh_dl_event`."""
        letter.source = self.number
        is_offer = no_buffer or letter.is_transfer
        want = self._mailbox.receiver(letter)
        if want is not None:
            self._give(want, letter)
            return letter.event if no_buffer else EVBUFFERD
        if is_offer:
            if not may_wait:
                raise WouldBlock(f"no receiver waits for event {letter.event}")
            wait = self._wait_for(process, SENDING, self.number, letter)
            letter.is_offer, letter.origin = True, wait
            self._mailbox.keep(letter, self._now_ns())
            self._block(wait, timeout_s, lambda: self._mailbox.withdraw(letter))
            return letter.event if no_buffer else EVBUFFERD
        cost = letter.cost
        if cost > self._space:
            raise MessageTooLong(f"{letter.length} bytes; the buffer has {self._space}: use tsend")
        if self._senders or self._local_used + cost > self._space:
            if not may_wait:
                raise WouldBlock(f"the buffer has no room for {letter.length} bytes")
            wait = self._wait_for(process, SENDING, self.number, letter)
            entry = (letter, wait)
            self._senders.append(entry)
            self._block(wait, timeout_s, lambda: self._senders.remove(entry))
            return EVBUFFERD
        self._local_used += cost
        self._mailbox.keep(letter, self._now_ns())
        return EVBUFFERD

    def _send_there(
        self,
        links: Links,
        peer: Peer,
        process: str,
        letter: Letter,
        no_buffer: bool,
        may_wait: bool,
        timeout_s: float | None,
    ) -> None:
        """Send a message to another node."""
        is_offer = no_buffer or letter.is_transfer
        cost = OVERHEAD if is_offer else OVERHEAD + letter.length
        if is_offer and not may_wait:
            raise WouldBlock(f"whether a receiver waits at node {peer.number} is not known here")
        if cost > peer.window and peer.session is not None:
            raise MessageTooLong(
                f"{letter.length} bytes; node {peer.number} buffers {peer.window}: use tsend"
            )
        if peer.queue or cost > peer.credit:
            if not may_wait:
                links.progress()  # credit may be on its way
                if peer.queue or cost > peer.credit:
                    raise WouldBlock(
                        f"node {peer.number} has no room for {letter.length} bytes now"
                    )
                peer.credit -= cost
            else:
                wait = self._wait_for(process, SENDING, peer.number, letter)
                entry = (cost, wait)
                peer.queue.append(entry)
                links.ask_for_life(peer)
                self._block(wait, timeout_s, lambda: peer.queue.remove(entry))
                self._check_open()  # it may have been closed after there was room
        else:
            peer.credit -= cost
        if not is_offer:
            links.send(peer, letter)
            return
        wait = self._wait_for(process, SENDING, peer.number, letter)
        number = links.offer(peer, letter, wait)
        self._block(wait, timeout_s, lambda: links.withdraw(number))

    # --- receiving -------------------------------------------------------------------------------

    def receive(
        self, process: str, want: Want, *, may_wait: bool, timeout_s: float | None
    ) -> Letter:
        """Receive a message; see `Station.receive`."""
        with self._lock:
            self._check_open()
            source = want.source
            if source is not None and source != self.number:
                self._require_node(source)
            if self._links is not None:
                self._links.progress()
            if self._ttl:
                self._expire()
            if not may_wait:
                want.is_instant = True
                letter = self._mailbox.take(want)
                if letter is None:
                    raise WouldBlock(f"no message of event {want.event} is here")
                self._taken(letter)
                return letter
            letter = self._mailbox.post(want)
            if letter is not None and letter.body is not None:
                self._taken(letter)
                return letter
            wait = Wait(process, RECEIVING, source, want.event, want.type, self._now_ns())
            want.owner = wait
            if letter is not None:
                self._fetch(want, wait, letter)
            self._block(wait, timeout_s, partial(self._mailbox.cancel, want))
            assert want.letter is not None
            return want.letter

    def probe(self, want: Want) -> Letter | None:
        """Return the message that could be received at once; it stays."""
        with self._lock:
            self._check_open()
            if self._links is not None:
                self._links.progress()
            self._expire()
            want.is_instant = True
            return self._mailbox.peek(want)

    def _require_node(self, number: int) -> None:
        if self._links is None or number not in self._links.peers:
            raise BadNode(f"no node {number} can send anything here")
        self._links.reach(number)

    def _give(self, want: Want, letter: Letter) -> None:
        """Hand a message to a receiver that waited."""
        wait = want.owner
        assert isinstance(wait, Wait)
        if letter.body is None:
            self._fetch(want, wait, letter)
            return
        want.letter = letter
        wait.finish()
        if self._driver is wait:
            self._nudge(wait)

    def _fetch(self, want: Want, wait: Wait, letter: Letter) -> None:
        """Ask another node for the body of a message that it offered."""
        assert self._links is not None
        wait.is_bound, wait.other = True, letter.source
        self._links.accept(letter, want)

    def _taken(self, letter: Letter) -> None:
        """Let the sender know that a message does not wait any more."""
        origin = letter.origin
        if isinstance(origin, Wait):
            origin.finish()
            self._nudge(origin)
        elif origin is None:
            self._local_used -= letter.cost
            if self._senders:
                self._room_made()
        elif self._links is not None:
            self._links.done_with(letter)

    def _room_made(self) -> None:
        """Let senders of this node go on, in their order, as far as there is room for them."""
        senders = self._senders
        while senders and self._local_used + senders[0][0].cost <= self._space:
            letter, wait = senders.popleft()
            want = self._mailbox.receiver(letter)
            if want is None:
                self._local_used += letter.cost
                self._mailbox.keep(letter, self._now_ns())
            else:
                self._give(want, letter)
            wait.finish()
            self._nudge(wait)

    # --- what links tell -------------------------------------------------------------------------

    def letter_arrived(self, letter: Letter) -> bool:
        """Give a message of another node to its receiver, or keep it."""
        want = self._receiver(letter)
        if want is None:
            self._mailbox.keep(letter, self._now_ns())
            return False
        if letter.body is None:
            self._give(want, letter)
            return False
        wait = want.owner
        assert isinstance(wait, Wait)
        want.letter = letter
        if wait.signal is None:
            wait.is_over = True  # nobody sleeps: see `Wait.finish`
        else:
            wait.finish()
        if self._driver is wait:
            self._nudge(wait)
        return True

    def letter_withdrawn(self, source: int, message: int) -> None:
        """Forget what another node does not offer any more."""
        for listed in self._mailbox.listing():
            letter = self._mailbox.look(listed.number) if listed.source == source else None
            if (
                letter is not None
                and letter.body is None
                and letter.message == message
                and self._links is not None
            ):
                self._mailbox.withdraw(letter)
                self._links.done_with(letter)
                return

    def body_arrived(self, want: Want, letter: Letter) -> None:
        """End a receive whose body is there."""
        assert self._links is not None
        self._links.done_with(letter)
        self._give(want, letter)

    def ask_again(self, want: Want) -> None:
        """Let a receiver wait again whose message will not come."""
        wait = want.owner
        if not isinstance(wait, Wait) or wait.is_over:
            return
        wait.is_bound, wait.other = False, want.source
        letter = self._mailbox.post(want)
        if letter is not None:
            if letter.body is not None:
                self._taken(letter)
            self._give(want, letter)

    def node_died(self, peer: Peer, reason: str) -> None:
        """End the receives that wait for a node alone; forget what it offered."""
        self._mailbox.forget_source(peer.number, announced_only=True)
        for want in self._mailbox.wants():
            if want.source == peer.number:
                wait = want.owner
                if isinstance(wait, Wait):
                    self._mailbox.cancel(want)
                    wait.finish(NodeDied(f"node {peer.number}: {reason}"))
                    self._nudge(wait)

    # --- what waits ------------------------------------------------------------------------------

    def sweep(self, event: int | None = None) -> int:
        """Throw away messages that wait: of one event, or all; return how many that were.

        Senders that wait for a message to be taken get `Swept`.
        """
        with self._lock:
            self._check_open()
            if self._links is not None:
                self._links.progress()
            return self._throw_away(self._mailbox.sweep(event), "it was swept")

    def _expire(self) -> None:
        if self._mailbox.ttl_ns is not None:
            self._throw_away(self._mailbox.expire(self._now_ns()), "it waited too long")

    def _throw_away(self, letters: list[Letter], why: str) -> int:
        for letter in letters:
            if isinstance(letter.origin, Wait):
                letter.origin.finish(Swept(f"event {letter.event}: {why}"))
                self._nudge(letter.origin)
            elif letter.origin is None:
                self._taken(letter)
            elif self._links is not None:
                self._links.done_with(letter, is_refused=True)
        return len(letters)

    def listing(self) -> list[Listed]:
        """Return what waits for receivers, oldest first."""
        with self._lock:
            self._check_open()
            if self._links is not None:
                self._links.progress()
            self._expire()
            return self._mailbox.listing()

    def look(self, number: int) -> Letter | None:
        """Return a message that waits, by its number in the listing; it stays."""
        with self._lock:
            self._check_open()
            return self._mailbox.look(number)

    def waits(self) -> list[WaitReport]:
        """Return which calls block at this node, and what for."""
        with self._lock:
            return self._reports()

    def _reports(self) -> list[WaitReport]:
        now = self._now_ns()
        return [wait.report(self.number, now) for wait in self._waits]

    def forget(self, process: str) -> None:
        """A process was detached; nothing of it is kept here."""

    def progress(self) -> bool:
        """Handle what came from other nodes; return whether there was anything.

        For programs that do something else meanwhile: calls that wait do it themselves.
        """
        with self._lock:
            self._check_open()
            self._expire()
            return self._links is not None and self._links.progress()

    # --- waiting ---------------------------------------------------------------------------------

    def _wait_for(self, process: str, what: str, other: int, letter: Letter) -> Wait:
        return Wait(process, what, other, letter.event, letter.type, self._now_ns())

    def _block(self, wait: Wait, timeout_s: float | None, give_up: Callable[[], object]) -> None:
        """Wait, driving the links meanwhile; called with the lock.

        Args:
            wait: what for.
            timeout_s: how long; None for ever.
            give_up: undoes what was begun.

        Raises:
            TimedOut: the time is over.
            NetworkMessageError: what the wait ended with.
        """
        deadline = None if timeout_s is None else wait.since_ns + round(timeout_s * 1e9)
        spin_until = wait.since_ns + self._spin_ns
        links, waits = self._links, self._waits
        waits.append(wait)
        progress = None if links is None else links.progress
        try:
            while True:
                if progress is not None and progress() and not wait.is_over:
                    continue
                if wait.is_over:
                    break
                now = self._now_ns()
                if deadline is not None and now >= deadline and not wait.is_bound:
                    give_up()
                    raise TimedOut(self._told(wait, timeout_s))
                if links is not None and now < spin_until:
                    progress = links.linger
                    continue
                progress = None if links is None else links.progress
                self._check_life(wait, now)
                if not wait.is_over:
                    self._sleep(wait, now, deadline)
                    self._expire()
        except NetworkMessageError:
            raise
        except BaseException:
            give_up()
            raise
        finally:
            waits.remove(wait)
            if (waits or self._idler is not None) and links is not None and self._driver is None:
                self._hand_over()
        if wait.error is not None:
            raise wait.error

    def _told(self, wait: Wait, timeout_s: float | None) -> str:
        everybody = "; ".join(map(str, self._reports()))
        return (
            f"{wait.what} {'any node' if wait.other is None else f'node {wait.other}'}: not within "
            f"{timeout_s:g} s. Waiting are: {everybody}"
        )

    def _check_life(self, wait: Wait, now: int) -> None:
        """Ask the node that is waited for whether it lives, and bury it if it says nothing."""
        links = self._links
        if links is None or wait.other is None or wait.other == self.number:
            return
        peer = links.peers.get(wait.other)
        if peer is None or not peer.own_session:
            return
        if peer.is_heard:
            peer.is_heard, peer.heard_ns = False, now
        quiet = now - max(peer.heard_ns, wait.since_ns)
        if quiet >= self._dead_after_ns:
            links.bury(peer, f"it has said nothing for {quiet / 1e9:.1f} s")
        elif now - max(peer.asked_ns, peer.heard_ns) >= _BEAT_S * 1e9:
            links.ask_for_life(peer)

    def _sleep(self, wait: Wait, now: int, deadline: int | None) -> None:
        """Sleep without the lock: as the one who drives the links, or until somebody is done."""
        seconds = _BEAT_S if deadline is None or wait.is_bound else (deadline - now) / 1e9
        seconds = min(seconds, _BEAT_S)
        due = self._mailbox.next_due_ns
        if due is not None:
            seconds = max(0.0, min(seconds, (due - now) / 1e9))
        drives = self._links is not None and self._driver is None
        if drives and self._links is not None:
            self._driver = wait
            if self._poll is None and self._pause is None:
                self._open_poll(self._links)
        elif wait.signal is None:
            wait.signal = threading.Event()
        else:
            wait.signal.clear()
        self._lock.release()
        try:
            if self._pause is not None:
                self._pause(seconds)
            elif drives:
                self._poll_once(seconds)
            elif wait.signal is not None:
                wait.signal.wait(seconds)
        finally:
            self._lock.acquire()
            if self._driver is wait:
                self._driver = None

    def _poll_once(self, seconds: float) -> None:
        assert self._poll is not None
        most = _BLIND_SLEEP_S if self._is_blind else _MOST_SLEEP_S
        for descriptor, _ in self._poll.poll(min(seconds, most) * 1e3):
            if descriptor == self._wake_fd:
                os.eventfd_read(self._wake_fd)

    def _nudge(self, wait: Wait) -> None:
        """Wake the thread that sleeps as the driver, if this is its wait."""
        if self._driver is wait and self._wake_fd >= 0:
            os.eventfd_write(self._wake_fd, 1)

    def _hand_over(self) -> None:
        """Let another thread drive the links."""
        for other in (*self._waits, self._idler):
            if other is not None and other.signal is not None:
                other.signal.set()
                return

    def _run(self, links: Links, idler: Wait) -> None:
        """Drive the links whenever no call does; the thread in the background."""
        with self._lock:
            while not self._closed:
                if links.progress():
                    continue
                self._expire()
                self._sleep(idler, self._now_ns(), None)

    # --- the end ---------------------------------------------------------------------------------

    def _check_open(self) -> None:
        if self._closed:
            raise NotAttached(f"node {self.number} is closed")

    def close(self) -> None:
        """Let what was sent leave, and say goodbye to other nodes. Again does nothing.

        Calls that wait get `NotAttached`. What the medium has not taken after `linger_s`, because
        the other node does not answer, is lost.
        """
        with self._lock:
            if self._closed:
                return
            self._closed = True
            if self._links is not None:
                self._links.is_closing = True
            for wait in self._waits:
                wait.finish(NotAttached(f"node {self.number} was closed"))
                self._nudge(wait)
            if self._idler is not None:
                self._idler.finish()
                self._nudge(self._idler)
        if self._thread is not None:
            self._thread.join()
        with self._lock:
            if self._links is not None:
                self._leave(self._links)
            if self._wake_fd >= 0:
                os.close(self._wake_fd)
                self._wake_fd = -1

    def _leave(self, links: Links) -> None:
        """Send what is left; called with the lock."""
        end = self._now_ns() + self._linger_ns
        while not links.say_goodbye():
            left = end - self._now_ns()
            if left <= 0:
                break
            if self._pause is None and self._poll is None:
                self._open_poll(links)
            self._lock.release()
            try:
                if self._pause is not None:
                    self._pause(left / 1e9)
                else:
                    self._poll_once(left / 1e9)
            finally:
                self._lock.acquire()
        links.close()


def _send_later(
    number: int, event: int, type: int, flags: int, pouch: bytes, body: bytes, length: int
) -> int:
    """Say that there is no way to another node; see `Station.send_now`."""
    return -1


def _check_number(number: int) -> None:
    """Refuse what is no node's number."""
    if type(number) is not int or not 0 <= number <= MAX_NUMBER:
        raise BadNode(f"a node has a number from 0 to {MAX_NUMBER}, not {number!r}")
