# SPDX-License-Identifier: Apache-2.0
"""One event loop with its peers: connects, answers, keeps links alive, sends and receives frames.

A node makes progress only when it is told to, and never blocks but where it is asked to wait.
"""

from __future__ import annotations

import errno
import itertools
import logging
import os
import socket
import ssl
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import Final, Protocol, runtime_checkable

from i2o.clock import SYSTEM_CLOCK, Clock
from i2o.closing import Closing
from i2o.errors import TransportUnavailable
from i2o.transport.fabric.carrier import CarrierSink
from i2o.transport.fabric.endpoint import Buffer
from i2o.transport.fabric.packets import byte_view
from i2o.transport.fabric.placement import Placement
from i2o.transport.tcp import wire
from i2o.transport.tcp.address import Address, check_exposure
from i2o.transport.tcp.arbitration import Offer, Standing, judge
from i2o.transport.tcp.doorway import Doorway
from i2o.transport.tcp.errors import PeerError, ProtocolViolation
from i2o.transport.tcp.frame_stream import Begins
from i2o.transport.tcp.handshake import Caller, Identity, Rejected, Remote, objection_of
from i2o.transport.tcp.key import PeerKey, check_key
from i2o.transport.tcp.link import Link
from i2o.transport.tcp.options import PeerOptions
from i2o.transport.tcp.outbox import Waiting
from i2o.transport.tcp.peer import Peer, PeerState
from i2o.transport.tcp.peer_name import ANYBODY, PeerName
from i2o.transport.tcp.peer_table import PeerTable, no_peer
from i2o.transport.tcp.poller import READABLE, WRITABLE, Poller
from i2o.transport.tcp.timers import Timer, Timers
from i2o.transport.tcp.wire import (
    HEAD_SIZE,
    NONCE_SIZE,
    Answer,
    Kind,
    Objection,
    Purpose,
    pack_head,
)

logger = logging.getLogger(__name__)

_DATA: Final = int(Kind.DATA)
_COPIED: Final = 8192
"""Frames up to this size are put together into one buffer: cheaper than a gathering call."""
_GONE: Final = "the other end closed the link"


@runtime_checkable
class TakerSink(Protocol):
    """A sink that names for each link who takes its frames: nothing is looked up for each."""

    def taker(self, peer: int) -> Callable[[memoryview], None]:
        """Return what is called instead of `frame_arrived`, as long as the link lives."""


class Node(Closing):
    """Peers and the links to them.

    Args:
        name: of this end.
        purpose: what its frames are.
        listen: where to be called; empty to call only.
        options: times and limits.
        key: shared with the peers.
        insecure: whether addresses other than loopback may be used without a key.
        server_tls: for callers.
        client_tls: for calling.
        incarnation: must grow with every start under the same name; by default the time.
        answers: whether `progress` is called all the time, so that a peer that gets no answer to a
            PING may take this end for dead.
        address: told to peers as where this end listens, if that is not the first of `listen`.
        guard: held while anything is handled, but not while the node waits: whoever else holds it
            may call the node meanwhile.
        clock: for deadlines.
        fresh: makes random bytes.

    Raises:
        TransportUnavailable: an address cannot be had, or not without a key.
        TypeError: `key` is no PeerKey.
    """

    def __init__(
        self,
        name: PeerName,
        purpose: Purpose,
        listen: Sequence[Address] = (),
        *,
        options: PeerOptions | None = None,
        key: PeerKey | None = None,
        insecure: bool = False,
        server_tls: ssl.SSLContext | None = None,
        client_tls: ssl.SSLContext | None = None,
        incarnation: int = 0,
        answers: bool = False,
        address: str | None = None,
        guard: AbstractContextManager[object] | None = None,
        clock: Clock = SYSTEM_CLOCK,
        fresh: Callable[[int], bytes] = os.urandom,
    ) -> None:
        check_key(key)
        self._guard = guard
        self.options = options or PeerOptions()
        self._clock, self._fresh = clock, fresh
        self._is_open_to_all = insecure or key is not None
        self._client_tls = client_tls
        for exposed in listen:
            try:
                check_exposure(exposed, is_allowed=self._is_open_to_all)
            except PeerError as error:
                raise TransportUnavailable("tcp", error.strerror or str(error)) from None
        self._table = PeerTable(self.options, self._tell_state)
        self._by_number = self._table.by_number  # looked at for every frame
        self._serials = itertools.count(1)
        self._timers = Timers()
        self._waiting = 0
        self._thirsty: dict[Peer, None] = {}
        self._lingering: dict[Link, None] = {}
        self._sink: CarrierSink = _NOBODY
        self._begins: Callable[[int, int, memoryview], Placement | None] | None = None
        self._is_closed = self._is_in_timers = False
        self.on_evicted: Callable[[int], None] | None = None
        self.on_round_trip: Callable[[int, int], None] | None = None
        self.on_state: Callable[[Peer], None] | None = None
        self._poller = Poller(clock, self.options.spin_s)
        self._doorway = Doorway(
            self._poller, self._timers, clock, self.options, server_tls, self._through, fresh
        )
        self.route_caller: Callable[[Remote], Node] = lambda remote: self
        try:
            self.addresses = tuple(self._doorway.bind(listen))
        except TransportUnavailable:
            self.close()
            raise
        self.identity = Identity(
            name,
            incarnation or time.time_ns(),
            purpose,
            self.options.frame_limit,
            address or (str(self.addresses[0]) if self.addresses else ""),
            answers,
            key,
        )

    # --- life ------------------------------------------------------------------------------------

    def open(self, sink: CarrierSink) -> None:
        """Begin; called once, before anything else."""
        self._sink = sink
        self._doorway.open(self.identity)

    def place_with(self, begins: Callable[[int, int, memoryview], Placement | None]) -> None:
        """Call this with peer, size and front of long frames; see `PlacingCarrier`."""
        self._begins = begins

    def close(self) -> None:
        """Close every link; nothing is called any more."""
        if self._is_closed:
            return
        self._is_closed = True
        self._doorway.close()
        for peer in self.peers():
            self._abandon(peer)
            if peer.link is not None:
                self._hang_up(peer.link)
        for link in self._lingering:
            link.close()
        self._poller.close()

    def fileno(self) -> int:
        """Return a descriptor that is readable when `progress` has something to do, or -1."""
        return self._poller.fileno()

    def next_deadline_ns(self) -> int | None:
        """Return when `progress` is to be called although nothing became readable, or None."""
        return self._timers.next_ns

    def progress(self, timeout_s: float = 0.0) -> None:
        """Move bytes, and call the sink.

        Args:
            timeout_s: how long to wait for something to do; -1 for as long as it takes.
        """
        if self._is_closed or self._is_in_timers:
            return
        due = self._timers.next_ns
        now = self._poller.poll(timeout_s, self._guard, due)
        if due is not None and due <= now:
            if self._guard is None:
                self._run_timers(now)
            else:
                with self._guard:
                    self._run_timers(now)

    def _run_timers(self, now_ns: int) -> None:
        self._is_in_timers = True
        try:
            self._timers.run(now_ns)
        finally:
            self._is_in_timers = False

    @property
    def is_handling(self) -> bool:
        """Whether something is being handled right now: who asks is called from there."""
        return self._is_in_timers or self._poller.is_handling

    def wake(self) -> None:
        """Let a `progress` that waits in another thread return."""
        self._poller.wake()

    @property
    def half_open(self) -> int:
        """Callers who have not proved yet who they are."""
        return self._doorway.half_open

    def call_soon(self, action: Callable[[], None]) -> None:
        """Call something from within `progress`; from any thread."""
        self._poller.call_soon(action)

    # --- peers -----------------------------------------------------------------------------------

    def add_peer(self, name: PeerName | None, addresses: Iterable[Address] = ()) -> int:
        """Learn of a peer, or of more addresses of one; nothing is sent.

        Args:
            name: who it is; None for whoever is found at the addresses.
            addresses: where it listens.

        Returns:
            Its number: always the same for the same peer.

        Raises:
            PeerError: EACCES, an address is not loopback and there is no key.
        """
        addresses = tuple(addresses)
        for address in addresses:
            check_exposure(address, is_allowed=self._is_open_to_all)
        return self._table.expect(name, addresses).number

    def find(self, name: PeerName) -> int | None:
        """Return the number of a peer that is known by this name."""
        peer = self._table.by_name.get(name)
        return None if peer is None else peer.number

    def peer(self, number: int) -> Peer:
        """Return what is known of a peer.

        Raises:
            PeerError: EINVAL, there is none with this number.
        """
        return self._table[number]

    def peers(self) -> Iterator[Peer]:
        """Yield every peer."""
        return iter(self._table)

    def connect(self, number: int) -> None:
        """See to it that there is a link, or will be, or that `peer_lost` is called."""
        peer = self.peer(number)
        if peer.state in (PeerState.UNCONNECTED, PeerState.FAILED):
            self._begin(peer)

    def send(self, number: int, parts: Sequence[Buffer], token: object = None) -> bool:
        """Send the parts as one frame; see `Carrier.send`.

        Raises:
            PeerError: EMSGSIZE, it is longer than this end or the peer allows.
            TypeError: a part is no contiguous buffer.
        """
        peer = self._by_number.get(number)
        if peer is None:
            raise no_peer(number)
        link, outbox = peer.link, peer.outbox
        is_single = len(parts) == 1
        if is_single and type(parts[0]) is bytes:
            size = len(parts[0])
        else:  # lengths must count bytes, or the rest of a frame would be taken for the next one
            parts = [part if type(part) is bytes else byte_view(part) for part in parts]
            size = sum(map(len, parts))
        limit = self.options.frame_limit if link is None else link.limit
        if size > limit:
            raise PeerError(errno.EMSGSIZE, f"a frame of {size} bytes; at most {limit} go")
        if link is None or outbox.size:
            return self._send_later(peer, number, parts, size, token)
        head = pack_head(size, _DATA, 0, 0)
        size += HEAD_SIZE
        try:
            if size <= _COPIED:
                data = head + parts[0] if is_single else b"".join((head, *parts))
                count = link.channel.send(data)
                if count == size:
                    peer.counters.frames_sent += 1
                    peer.counters.bytes_sent += size
                    self._sink.frame_sent(number, token)
                    return True
                parts = (data,)
            else:
                parts = (head, *parts)
                count = link.channel.sendmsg([memoryview(part) for part in parts])
        except OSError:  # it would block; or it broke, which is noticed where links are read
            count = 0
            parts = (data,) if size <= _COPIED else parts
        outbox.add(parts, size, token, number)
        self._waiting += size
        self._out(peer, outbox.advance(count))
        self._watch(link)
        return True

    def _send_later(
        self, peer: Peer, number: int, parts: Sequence[Buffer], size: int, token: object
    ) -> bool:
        """Let a frame wait for a link, or for the frames before it."""
        if not self._has_room(peer, size):
            self._thirsty[peer] = None
            return False
        size += HEAD_SIZE
        peer.outbox.add((pack_head(size - HEAD_SIZE, _DATA, 0, 0), *parts), size, token, number)
        self._waiting += size
        if peer.state in (PeerState.UNCONNECTED, PeerState.FAILED):
            self._begin(peer)
        return True

    def send_small(self, number: int, frame: bytes) -> bool:
        """Send a frame that is put together already, its head before it; nobody hears of its end.

        The shortest way for frames of a few KiB. Returns and raises as `send`.
        """
        peer = self._by_number.get(number)
        if peer is None:
            raise no_peer(number)
        link, size = peer.link, len(frame)
        if link is None or peer.outbox.size or size - HEAD_SIZE > link.limit:
            return self.send(number, (memoryview(frame)[HEAD_SIZE:],))
        try:
            count = link.channel.send(frame)
        except OSError:  # it would block; or it broke, which is noticed where links are read
            count = 0
        if count == size:
            counters = peer.counters
            counters.frames_sent += 1
            counters.bytes_sent += size
            return True
        peer.outbox.add((frame,), size, None, number)
        self._waiting += size
        self._out(peer, peer.outbox.advance(count))
        self._watch(link)
        return True

    def frame_limit_of(self, number: int) -> int:
        """Return the bytes of the longest frame that may be sent to a peer now."""
        link = self.peer(number).link
        return self.options.frame_limit if link is None else link.limit

    def ping(self, number: int) -> bool:
        """Ask a connected peer for an answer; `on_round_trip` gets it. Returns whether it went."""
        link = self.peer(number).link
        if link is None:
            return False
        now = self._clock.monotonic_ns()
        self._urgent(link, wire.frame(Kind.PING, wire.PING.build(sent_ns=now)))
        return True

    def disconnect(self, number: int) -> None:
        """Close the link to a peer and forget what waits for it; `peer_lost` is not called."""
        peer = self.peer(number)
        self._abandon(peer)
        is_clean = not peer.outbox
        self._forget_outbox(peer)
        link, peer.link = peer.link, None
        peer.state = PeerState.UNCONNECTED
        if link is not None and is_clean:
            self._linger(link)
        elif link is not None:
            self._close(link)

    def after(self, delay_s: float, action: Callable[[], None]) -> Timer:
        """Call something from within `progress`, in so many seconds."""
        return self._after(delay_s, action)

    # --- room ------------------------------------------------------------------------------------

    def _has_room(self, peer: Peer, size: int) -> bool:
        options, outbox = self.options, peer.outbox
        if not outbox:
            return self._waiting + size <= options.total_queue_limit or not self._waiting
        return (
            outbox.size + size <= options.queue_limit
            and self._waiting + size <= options.total_queue_limit
        )

    def _out(self, peer: Peer, frames: list[Waiting]) -> None:
        """Take note of frames that are out."""
        sink, counters = self._sink, peer.counters
        for frame in frames:
            self._waiting -= frame.size
            counters.frames_sent += 1
            counters.bytes_sent += frame.size
            if frame.number >= 0:
                sink.frame_sent(frame.number, frame.token)

    def _forget_outbox(self, peer: Peer) -> None:
        for frame in peer.outbox.take_all():
            self._waiting -= frame.size
        self._thirsty.pop(peer, None)

    def _quench(self) -> None:
        """Tell those who were refused, where there is room again."""
        options, sink = self.options, self._sink
        if self._waiting > options.total_queue_limit // 2:
            return
        for peer in list(self._thirsty):
            if peer.outbox.size <= options.queue_limit // 2 and peer in self._thirsty:
                del self._thirsty[peer]
                for number in peer.numbers:
                    sink.room_made(number)

    # --- calling ---------------------------------------------------------------------------------

    def _begin(self, peer: Peer) -> None:
        peer.plan.begin()
        peer.last_error = (errno.EHOSTUNREACH, "no address of it is known")
        peer.state = PeerState.CONNECTING
        self._call_next(peer)

    def _call_next(self, peer: Peer) -> None:
        """Try one address after another; at the end of a round, wait or give up."""
        while (address := peer.plan.next_address()) is not None:
            try:
                check_exposure(address, is_allowed=self._is_open_to_all)
                self._dial(peer, address)
                return
            except OSError as error:
                peer.last_error = (error.errno or errno.EIO, f"{address}: {error.strerror}")
                peer.counters.failed_attempts += 1
        delay_s = peer.plan.next_round()
        if delay_s is not None:
            self._retry_after(peer, delay_s)
            return
        # not at once: nobody expects to be called from within `send`
        peer.state = PeerState.WAITING
        peer.retry = self._after(0, lambda: self._give_up(peer))

    def _retry_after(self, peer: Peer, delay_s: float) -> None:
        peer.state = PeerState.WAITING
        peer.retry = self._after(delay_s, lambda: self._retry(peer))

    def _retry(self, peer: Peer) -> None:
        peer.retry = None
        peer.state = PeerState.CONNECTING
        self._call_next(peer)

    def _give_up(self, peer: Peer) -> None:
        peer.retry = None
        peer.state = PeerState.FAILED
        self._report_lost(peer, *peer.last_error)

    def _dial(self, peer: Peer, address: Address) -> None:
        end = socket.socket(address.family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        link = Link(end, self._shake_hands, address)
        link.set_options(self.options)
        try:
            code = end.connect_ex((address.host, address.port))
            if code not in (0, errno.EINPROGRESS):
                raise OSError(code, os.strerror(code))
        except OSError:
            link.close()
            raise
        link.peer, link.is_connecting = peer.number, True
        peer.dial, peer.confirming, peer.state = link, 0, PeerState.CONNECTING
        link.mask = WRITABLE
        self._poller.add(link.number, WRITABLE, lambda mask: self._on_event(link, mask))
        link.timer = self._after(
            self.options.connect_timeout_s,
            lambda: self._dial_failed(link, errno.ETIMEDOUT, "no answer"),
        )

    def _connected(self, link: Link) -> None:
        peer = self._owner(link)
        code = link.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if code:
            self._dial_failed(link, code, os.strerror(code))
            return
        if not link.has_other_end:
            return  # the event was meant for a socket that had this number before
        link.is_connecting = False
        if link.timer is not None:
            link.timer.cancel()
        if self._client_tls is not None:
            link.start_tls(self._client_tls, is_server=False, host=link.address.host)
        target = peer.name if peer.is_named and peer.name is not None else ANYBODY
        serial = next(self._serials)
        link.caller = Caller(self.identity, target, serial, self._fresh(NONCE_SIZE))
        peer.state = PeerState.CONNECT_ACK
        link.timer = self._after(
            self.options.handshake_timeout_s,
            lambda: self._dial_failed(link, errno.ETIMEDOUT, "the handshake did not end in time"),
        )
        link.say(link.caller.hello())
        self._watch(link)

    def _shake_hands(self, link: Link, kind: int, payload: memoryview) -> bool:
        """Take a frame of the handshake that this end began."""
        peer, caller = self._owner(link), link.caller
        if caller is None or peer.dial is not link:
            raise ProtocolViolation(f"a frame of kind {kind} out of turn")
        if kind == Kind.CHALLENGE and link.remote is None:
            remote, answer = caller.challenge(payload)
            found = self._table.by_name.get(remote.name)
            if found is not None and found is not peer:
                self._unite(peer, found)
                return False
            link.remote, peer.confirming = remote, remote.incarnation
            link.say(answer)
            return True
        if kind == Kind.VERDICT and link.remote is not None:
            self._take_verdict(peer, link, *caller.verdict(payload))
            return not link.is_closed
        if kind == Kind.REJECT:
            raise objection_of(payload)
        raise ProtocolViolation(f"a frame of kind {kind} in the handshake")

    def _take_verdict(
        self, peer: Peer, link: Link, answer: int, serial: int, incarnation: int
    ) -> None:
        assert link.remote is not None
        if answer == Answer.ACCEPTED:
            peer.dial, peer.confirming = None, 0
            link.serial = serial
            peer.plan.worked(link.address)
            self._establish(peer, link, link.remote)
        elif answer == Answer.NACK:
            # the link that the peer prefers is on its way; if it does not come, ask again
            peer.counters.nacks += 1
            self._abandon(peer)
            reason = f"{link.address}: it prefers a link of its own, which does not come"
            peer.last_error = (errno.EHOSTUNREACH, reason)
            delay_s = peer.plan.refused()
            if delay_s is None:
                self._give_up(peer)
            else:
                self._retry_after(peer, delay_s)
        elif answer == Answer.STALE:
            self._abandon(peer)
            peer.last_error = (
                errno.ESTALE,
                f"it knows a newer process {self.identity.name}, of incarnation {incarnation}",
            )
            self._give_up(peer)
        else:
            raise Rejected(Objection.BUSY)

    def _dial_failed(self, link: Link, code: int, reason: str) -> None:
        peer = self._owner(link)
        if peer.dial is not link:
            return
        peer.last_error = (code, f"{link.address}: {reason}")
        peer.counters.failed_attempts += 1
        self._abandon(peer)
        self._call_next(peer)

    def _abandon(self, peer: Peer) -> None:
        """Give up the attempt that is under way, if there is one."""
        if peer.retry is not None:
            peer.retry.cancel()
            peer.retry = None
        link, peer.dial, peer.confirming = peer.dial, None, 0
        if link is not None:
            self._close(link)

    def _unite(self, peer: Peer, found: Peer) -> None:
        """Two numbers turned out to be one peer: both go on, over the links of `found`."""
        self._abandon(peer)
        self._table.unite(peer, found)
        for frame in peer.outbox.take_all():
            found.outbox.add(frame.buffers, frame.size, frame.token, frame.number)
        self._thirsty.pop(peer, None)
        if found.link is None:
            self.connect(found.number)
        else:
            for number in peer.numbers:
                self._sink.peer_up(number)
            self._flush(found, found.link)

    # --- being called ----------------------------------------------------------------------------

    def _through(self, link: Link) -> None:
        """Give a caller who has proved who it is to the node that its links belong to."""
        assert link.remote is not None
        node = self.route_caller(link.remote)
        if node is self:
            self._admit(link)
        else:
            node.call_soon(lambda: node._admit(link))

    def _admit(self, link: Link) -> None:
        """Decide about a caller who has proved who it is."""
        remote, listener = link.remote, link.listener
        assert remote is not None
        assert listener is not None
        peer = self._caller(link, remote)
        answer = Answer.REFUSED if peer is None else self._judge(peer, remote)
        serial = next(self._serials)
        newest = 0 if peer is None else max(peer.incarnation, peer.confirming)
        try:
            if self._is_closed:
                raise OSError(errno.ESHUTDOWN, os.strerror(errno.ESHUTDOWN))
            link.say(listener.verdict(answer, serial=serial, incarnation=newest))
        except (OSError, ProtocolViolation):
            link.close()
            return
        if peer is None or answer != Answer.ACCEPTED:
            link.close()
            return
        self._abandon(peer)
        if peer.link is not None:
            is_new = remote.incarnation != peer.incarnation
            why = "it was started anew" if is_new else "it connected anew"
            self._lose(peer.link, errno.ECONNRESET, why)
        link.peer = peer.number
        self._poller.add(link.number, READABLE, lambda mask: self._on_event(link, mask))
        link.mask = READABLE
        self._establish(peer, link, remote)

    def _judge(self, peer: Peer, remote: Remote) -> Answer:
        standing = Standing(
            self.identity.name,
            peer.incarnation,
            None if peer.link is None else peer.link.serial,
            peer.confirming,
        )
        return judge(standing, Offer(remote.name, remote.incarnation, remote.serial))

    def _caller(self, link: Link, remote: Remote) -> Peer | None:
        """Return the peer that calls, in place of one that is gone if there are too many."""
        peer = self._table.caller(link, remote)
        if peer is not None:
            return peer
        numbers = self._table.evict()
        if self.on_evicted is not None:
            for number in numbers:
                self.on_evicted(number)
        return self._table.caller(link, remote) if numbers else None

    # --- links that are up -----------------------------------------------------------------------

    def _establish(self, peer: Peer, link: Link, remote: Remote) -> None:
        self._table.call(peer, remote.name)
        peer.incarnation = remote.incarnation
        peer.link, peer.state = link, PeerState.CONNECTED
        peer.counters.connects += 1
        peer.last_error = (0, "")
        link.is_up = True
        link.limit = min(self.options.frame_limit, remote.frame_limit)
        if link.timer is not None:
            link.timer.cancel()
        link.stream.establish(
            self.options.frame_limit, self._receiver(peer, link), self._beginner(peer)
        )
        self._poller.replace(link.number, self._reader(link))
        link.timer = self._after(self.options.keepalive_idle_s, lambda: self._keep_alive(link))
        for number in peer.numbers:
            self._sink.peer_up(number)
        if peer.link is link:
            self._flush(peer, link)

    def _reader(self, link: Link) -> Callable[[int], None]:
        """Return what handles the events of an established link, with a short way for frames."""
        read, on_event = link.stream.read, self._on_event
        channel = link.channel
        if channel.is_tls:
            return lambda mask: on_event(link, mask)
        recv_into = channel.recv_into

        def handle(mask: int) -> None:
            if mask != READABLE:
                on_event(link, mask)
                return
            try:
                if read(recv_into):
                    link.heard = True
                else:
                    self._broke(link, errno.ECONNRESET, _GONE)
            except BlockingIOError:
                pass
            except (OSError, ProtocolViolation) as error:
                self._fail(link, error)

        return handle

    def _receiver(self, peer: Peer, link: Link) -> Callable[[int, memoryview], bool]:
        """Return what takes the frames of an established link."""
        sink, number, counters = self._sink, peer.number, peer.counters
        if isinstance(sink, TakerSink):
            take = sink.taker(number)
        else:
            take = partial(sink.frame_arrived, number)

        def deliver(kind: int, payload: memoryview) -> bool:
            if kind == _DATA:
                counters.frames_received += 1
                counters.bytes_received += len(payload)
                take(payload)
            else:
                self._control(link, kind, payload)
            return not link.is_closed

        return deliver

    def _beginner(self, peer: Peer) -> Begins | None:
        """Return what is asked where the rest of a long frame goes, if anybody is."""
        begins, number, counters = self._begins, peer.number, peer.counters
        if begins is None:
            return None

        def ask(kind: int, size: int, front: memoryview) -> Placement | None:
            placement = begins(number, size, front) if kind == _DATA else None
            if placement is not None:
                counters.frames_received += 1
                counters.bytes_received += size
            return placement

        return ask

    def _control(self, link: Link, kind: int, payload: memoryview) -> None:
        if kind not in (Kind.PING, Kind.PONG) or len(payload) != wire.PING.size:
            raise ProtocolViolation(f"a frame of kind {kind} with {len(payload)} bytes")
        if kind == Kind.PING:
            self._urgent(link, wire.frame(Kind.PONG, bytes(payload)))
            return
        peer = self._owner(link)
        sent_ns = wire.PING.unpack_from(payload).sent_ns
        round_trip_ns = self._clock.monotonic_ns() - sent_ns
        if round_trip_ns >= 0:
            peer.round_trip_ns = round_trip_ns
            if self.on_round_trip is not None:
                self.on_round_trip(peer.number, round_trip_ns)

    def _urgent(self, link: Link, data: bytes) -> None:
        peer = self._owner(link)
        peer.outbox.add_urgent(data)
        self._waiting += len(data)
        if peer.outbox.size > 2 * self.options.queue_limit + self.options.frame_limit:
            raise ProtocolViolation("the other end asks more than it reads")
        self._flush(peer, link)

    def _keep_alive(self, link: Link) -> None:
        """Ask a peer that has been silent; end the link if it stays so."""
        options = self.options
        delay_s = options.keepalive_idle_s
        if link.heard:
            link.heard = link.is_asked = False
        elif link.remote is not None and link.remote.answers:
            if link.is_asked:
                self._lose(link, errno.ETIMEDOUT, "it does not answer any more")
                return
            link.is_asked = True
            delay_s = options.keepalive_timeout_s
            self.ping(link.peer)
        if not link.is_closed:
            link.timer = self._after(delay_s, lambda: self._keep_alive(link))

    def _on_event(self, link: Link, mask: int) -> None:
        try:
            if link.is_connecting:
                self._connected(link)
                return
            if mask & ~WRITABLE and link.read_all() == 0:
                self._broke(link, errno.ECONNRESET, _GONE)
            if link.is_closed or not (mask & WRITABLE or link.early or link.channel.has_output):
                return
            link.flush_early()
            if link.is_up:
                self._flush(self._owner(link), link)
            else:
                self._watch(link)
        except (OSError, ProtocolViolation) as error:
            self._fail(link, error)

    def _fail(self, link: Link, error: OSError | ProtocolViolation) -> None:
        """End a link on which something went wrong."""
        if isinstance(error, OSError):
            self._broke(link, error.errno or errno.EIO, error.strerror or str(error))
            return
        is_rejected = isinstance(error, Rejected)
        if not isinstance(error, Rejected) or error.is_ours:
            logger.warning("%s: %s", link.address, error)
        self._broke(link, errno.EACCES if is_rejected else errno.EPROTO, str(error))

    def _flush(self, peer: Peer, link: Link) -> None:
        """Write once: others want to write, too."""
        if peer.outbox and not link.early:
            try:
                self._out(peer, peer.outbox.write(link.channel.sendmsg))
            except BlockingIOError:
                pass
            except OSError as error:
                if not link.is_closed:
                    self._lose(link, error.errno or errno.EIO, error.strerror or str(error))
                return
            if self._thirsty:
                self._quench()
        if not link.is_closed:
            self._watch(link)

    def _watch(self, link: Link) -> None:
        """Wait for what there is to wait for."""
        has_output = link.early or link.channel.has_output
        if link.is_up and not has_output:
            has_output = bool(self._owner(link).outbox)
        mask = READABLE | WRITABLE if has_output else READABLE
        if mask != link.mask:
            link.mask = mask
            self._poller.change(link.number, mask)

    # --- ends ------------------------------------------------------------------------------------

    def _broke(self, link: Link, code: int, reason: str) -> None:
        if link.is_closed:
            return
        if link.is_up:
            self._lose(link, code, reason)
        else:
            self._dial_failed(link, code, reason)

    def _lose(self, link: Link, code: int, reason: str) -> None:
        """End a link that is up, and say so."""
        peer = self._owner(link)
        self._close(link)
        if peer.link is not link:
            return
        peer.link = None
        peer.counters.losses += 1
        peer.last_error = (code, reason)
        peer.state = PeerState.UNCONNECTED
        self._report_lost(peer, code, reason)

    def _report_lost(self, peer: Peer, code: int, reason: str) -> None:
        self._forget_outbox(peer)
        for number in peer.numbers:
            self._sink.peer_lost(number, code, reason)
        self._quench()

    def _close(self, link: Link) -> None:
        if not link.is_closed:
            link.mark_closed()
            self._poller.drop(link.number, link.close)

    def _linger(self, link: Link) -> None:
        """Close on purpose: the other end reads to the end first, or its last frames were lost."""
        link.mark_closed()
        self._poller.remove(link.number)
        if not link.begin_to_close():
            link.close()
            return
        gone = [self._after(self.options.linger_s, lambda: finish())]

        def finish() -> None:
            gone.pop().cancel()
            self._poller.drop(link.number, link.close)
            self._lingering.pop(link, None)

        def drain(mask: int) -> None:
            if gone and link.drain():
                finish()

        self._lingering[link] = None
        self._poller.add(link.number, READABLE, drain)

    def _hang_up(self, link: Link) -> None:
        """Close for good: nobody is there any more to wait for the other end."""
        link.mark_closed()
        if link.begin_to_close():
            link.drain()
        self._poller.drop(link.number, link.close)

    # --- small things ----------------------------------------------------------------------------

    def _owner(self, link: Link) -> Peer:
        return self._by_number[link.peer]

    def _tell_state(self, peer: Peer) -> None:
        if self.on_state is not None:
            self.on_state(peer)

    def _after(self, delay_s: float, action: Callable[[], None]) -> Timer:
        timer = self._timers.at(self._clock.monotonic_ns() + round(delay_s * 1e9), action)
        if self._guard is not None:
            self._poller.wake()  # another thread may be waiting for a later one
        return timer


class _Nobody:
    """Stands for the sink until there is one."""

    def frame_arrived(self, peer: int, frame: memoryview) -> None: ...

    def frame_sent(self, peer: int, token: object) -> None: ...

    def room_made(self, peer: int) -> None: ...

    def peer_up(self, peer: int) -> None: ...

    def peer_lost(self, peer: int, error: int, reason: str) -> None: ...


_NOBODY: Final = _Nobody()
