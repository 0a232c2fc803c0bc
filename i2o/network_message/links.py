# SPDX-License-Identifier: Apache-2.0
"""Packets between nodes, over any medium: sessions, credit, offers, and nodes that die.

`Links` is driven by its node, which holds its lock. Everything that arrives for a receiver goes to
the node through `LinkOwner`. Memory is bounded by what each node was granted: a node sends what it
has credit for, and gets the credit back when its message was received, swept or too old.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from random import SystemRandom
from typing import Final, Protocol

from i2o.errors import RemoteFrameError
from i2o.network_message.conversion import IS_BIG_ENDIAN
from i2o.network_message.descriptor import DTBO
from i2o.network_message.errors import BadNode, NodeDied, Swept
from i2o.network_message.medium import NOBODY, Medium
from i2o.network_message.packet import (
    HEADER_SIZE,
    INITIAL_WINDOW,
    LOCAL_HEADER,
    VERSION,
    Header,
    Kind,
    Packer,
    parse,
)
from i2o.network_message.peer import Peer
from i2o.network_message.waits import Wait
from i2o.transport.fabric.errors import FabricError
from i2o.transport.fabric.mailbox import OVERHEAD, Letter, Want
from i2o.transport.fabric.packets import Reassembler

MAX_ADDRESS: Final = 1024
"""Bytes of an endpoint's name."""
_MAX_UNDER_WAY: Final = 4096
_LINGER_NS: Final = 20_000
_DATA: Final = int(Kind.DATA)  # looked up once: members of an enum are slow to reach


class LinkOwner(Protocol):
    """What a node does for its links."""

    def letter_arrived(self, letter: Letter) -> bool:
        """Take a message, or the offer of one (its body is None).

        Returns:
            Whether it was received at once, so that its room is free again.
        """

    def letter_withdrawn(self, source: int, message: int) -> None:
        """The sender does not offer this message any more."""

    def body_arrived(self, want: Want, letter: Letter) -> None:
        """The body that was asked for is in the letter."""

    def node_died(self, peer: Peer, reason: str) -> None:
        """A node is gone; so is every offer of it, and every call that waits for it."""

    def ask_again(self, want: Want) -> None:
        """The body that was asked for will not come: the receiver waits on."""


class _Offer:
    """A message that a call of ours waits to be taken."""

    __slots__ = ("body", "peer", "wait")

    def __init__(self, peer: Peer, body: bytes, wait: Wait) -> None:
        self.peer, self.body, self.wait = peer, body, wait


class Links:
    """The other nodes.

    Args:
        owner: the node.
        number: its number.
        medium: what carries packets; opened and closed with the links.
        lock: the node's.
        packet_size: bytes of a body in one packet.
        window: bytes that every other node may have waiting here.
        max_nodes: other nodes that may be known.
        is_big_endian: in which order headers are written.
        now_ns: the time.

    Attributes:
        packet_size: bytes of a body in one packet.
        peers: the other nodes, by number.
        is_closing: nothing new is sent; the owner sets it.
        dropped: packets that were thrown away.
        last_drop: why the last one of them was.
    """

    def __init__(
        self,
        owner: LinkOwner,
        number: int,
        medium: Medium,
        lock: threading.Lock,
        *,
        packet_size: int,
        window: int,
        max_nodes: int,
        is_big_endian: bool,
        now_ns: Callable[[], int],
    ) -> None:
        self._owner, self._number, self._medium, self._lock = owner, number, medium, lock
        self._window, self._max_nodes, self._now_ns = window, max_nodes, now_ns
        self.packet_size = min(packet_size, medium.packet_limit - HEADER_SIZE)
        packer = Packer(number, is_big_endian=is_big_endian)
        self._header, self._pack, self._order = packer.header, packer.pack, packer.order
        self._take = owner.letter_arrived
        self._unpack = LOCAL_HEADER.unpack_from
        self.peers: dict[int, Peer] = {}
        self._by_handle: dict[int, Peer] = {}
        self._stuck: set[Peer] = set()
        self._parted: set[Peer] = set()
        self._offers: dict[int, _Offer] = {}
        self._parts: Reassembler[tuple[int, int]] = Reassembler(_MAX_UNDER_WAY, 1 << 62)
        self._next_message = 1
        self._next_session = SystemRandom().getrandbits(31)
        self.is_closing = self._is_closed = False
        self._news = 0
        self.dropped = 0
        self.last_drop = ""
        self._send = medium.send
        self._move = medium.progress
        self._linger = medium.linger
        self.fileno = medium.fileno
        medium.open(self)

    @property
    def address(self) -> str:
        """What other nodes call this one's endpoint."""
        return self._medium.name

    # --- nodes -----------------------------------------------------------------------------------

    def add(self, number: int, address: str) -> Peer:
        """Learn where a node is; nothing is sent.

        Raises:
            BadNode: the number is taken by another address, or there are too many nodes.
            FabricError: it is no address.
        """
        known = self.peers.get(number)
        if known is not None:
            if known.address != address:
                raise BadNode(f"node {number} is at {known.address}, not at {address}")
            return known
        if len(self.peers) >= self._max_nodes:
            raise BadNode(
                f"node {number}: {self._max_nodes} nodes are known, and that is the limit"
            )
        handle = self._medium.insert(address)
        peer = Peer(number, address, len(self.peers), handle, self._window)
        self.peers[number] = self._by_handle[handle] = peer
        return peer

    def _move_to(self, peer: Peer, address: str) -> None:
        """Take note that a node that died came back at another address."""
        peer.handle = self._medium.insert(address)
        peer.address, peer.own_session = address, 0
        self._by_handle[peer.handle] = peer

    def reach(self, number: int) -> Peer:
        """Return a node, which is introduced from now on; raises BadNode."""
        peer = self.peers.get(number)
        if peer is None:
            raise BadNode(f"no node {number}: add_node tells where one is")
        if not peer.own_session:
            self._greet(peer, wants_answer=True)
        return peer

    def _greet(self, peer: Peer, *, wants_answer: bool) -> None:
        if not peer.own_session:
            self._next_session = self._next_session + 1 & 0x7FFFFFFF or 1
            peer.own_session = self._next_session
            peer.heard_ns = self._now_ns()
        self._put(peer, Kind.HELLO, event=int(wants_answer), length=peer.granted,
                  body=self.address.encode())  # fmt: skip

    # --- sending ---------------------------------------------------------------------------------

    def send(self, peer: Peer, letter: Letter) -> None:
        """Send a message, whose cost was taken from the credit."""
        body = letter.body
        assert body is not None
        number, length, size = self._message_number(), letter.length, self.packet_size
        if length <= size:
            self._post(
                peer,
                self._header(
                    _DATA, peer.own_session, number, letter.event, letter.type, letter.flags,
                    length, 0, letter.pouch,
                ) + body,
            )  # fmt: skip
            return
        for offset in range(0, length, size):
            self._put(
                peer, Kind.DATA, number, letter.event, letter.type, letter.flags, length, offset,
                letter.pouch, body=body[offset : offset + size],
            )  # fmt: skip

    def send_now(
        self,
        number: int,
        event: int,
        type: int,
        flags: int,
        pouch: bytes,
        body: bytes,
        length: int,
    ) -> int:
        """Send a message of one packet to a node that is known and has room for it.

        Called without the lock.

        Returns:
            The number of the link; -1 if it is not that simple, and nothing was sent.
        """
        with self._lock:
            peer = self.peers.get(number)
            if peer is None or length > self.packet_size or self.is_closing:
                return -1
            credit = peer.credit - length - OVERHEAD
            if credit < 0 or not peer.own_session or peer.queue or peer.outbox:
                return -1
            peer.credit = credit
            message = self._next_message
            self._next_message = message + 1 & 0xFFFFFFFF
            packet = self._pack(
                VERSION, _DATA, self._order, self._number, peer.own_session, message, event, type,
                flags, length, 0, pouch,
            ) + body  # fmt: skip
            try:
                if self._send(peer.handle, (packet,)):
                    return peer.link
            except FabricError as error:
                self.bury(peer, str(error))
                return peer.link
            peer.outbox.append(packet)
            self._stuck.add(peer)
            return peer.link

    def offer(self, peer: Peer, letter: Letter, wait: Wait) -> int:
        """Offer a message; the wait is over when it was asked for. Return its number."""
        assert letter.body is not None
        number = self._message_number()
        self._offers[number] = _Offer(peer, bytes(letter.body), wait)
        kind = Kind.OFFER_TRANSFER if letter.is_transfer else Kind.OFFER
        self._put(peer, kind, number, letter.event, letter.type, letter.flags, letter.length, 0,
                  letter.pouch)  # fmt: skip
        return number

    def withdraw(self, number: int) -> None:
        """Take an offer back."""
        offer = self._offers.pop(number, None)
        if offer is not None:
            self._put(offer.peer, Kind.WITHDRAW, number)

    def accept(self, letter: Letter, want: Want) -> None:
        """Ask for the body of an offer; `body_arrived` follows."""
        peer = letter.origin
        assert isinstance(peer, Peer)
        length = min(letter.length, want.room)
        self._put(peer, Kind.ACCEPT, letter.message, length=length)
        if not length:
            letter.body = b""
            self._owner.body_arrived(want, letter)
            return
        self._parts.begin((peer.number, letter.message), length, owner=(want, letter))

    def done_with(self, letter: Letter, *, is_refused: bool = False) -> None:
        """Give the sender of a message its credit back; it was received, or thrown away."""
        peer = letter.origin
        if not isinstance(peer, Peer) or letter.epoch != peer.epoch:
            return
        if is_refused and letter.body is None:
            self._put(peer, Kind.REFUSE, letter.message)
        cost = OVERHEAD if letter.body is None or letter.is_offer else OVERHEAD + letter.length
        peer.held -= cost
        peer.owed += cost
        if peer.owed * 4 >= peer.granted:
            self._give_credit(peer)

    def _give_credit(self, peer: Peer) -> None:
        self._put(peer, Kind.CREDIT, length=peer.owed)
        peer.owed = 0

    def ask_for_life(self, peer: Peer, wait: Wait | None = None) -> None:
        """Ask a node for a sign of life, and for credit; the wait is over when it answered."""
        peer.asked_ns = self._now_ns()
        number = self._message_number()
        if wait is not None:
            peer.asking[number] = wait
        self._put(peer, Kind.PING, number)

    def _message_number(self) -> int:
        number = self._next_message
        self._next_message = number + 1 & 0xFFFFFFFF
        return number

    def _put(
        self,
        peer: Peer,
        kind: int,
        message: int = 0,
        event: int = 0,
        type: int = 0,
        flags: int = 0,
        length: int = 0,
        offset: int = 0,
        pouch: bytes = bytes(32),
        *,
        body: bytes | bytearray | memoryview = b"",
    ) -> None:
        header = self._header(
            kind, peer.own_session, message, event, type, flags, length, offset, pouch
        )
        self._post(peer, header + body)

    def _post(self, peer: Peer, packet: bytes) -> None:
        """Give a packet to the medium, behind those that it had no room for."""
        try:
            if not peer.outbox and self._send(peer.handle, (packet,)):
                return
        except FabricError as error:
            self.bury(peer, str(error))
            return
        peer.outbox.append(packet)
        self._stuck.add(peer)

    # --- progress --------------------------------------------------------------------------------

    def progress(self) -> bool:
        """Handle what came, and send what waits; return whether there was anything."""
        if self._stuck:
            for peer in tuple(self._stuck):
                self._flush(peer)
        before = self._news
        self._move()
        return self._news != before

    @property
    def linger(self) -> Callable[[], bool]:
        """What does what `progress` does, and may look for a packet for some microseconds."""
        return self.progress if self._linger is None else self._progress_lingering

    def _progress_lingering(self) -> bool:
        assert self._linger is not None
        if self._stuck:
            return self.progress()
        before = self._news
        self._linger(_LINGER_NS)
        return self._news != before

    def _flush(self, peer: Peer) -> None:
        try:
            while peer.outbox and self._send(peer.handle, (peer.outbox[0],)):
                peer.outbox.popleft()
        except FabricError as error:
            self.bury(peer, str(error))
        if not peer.outbox:
            self._stuck.discard(peer)

    def packet_arrived(self, handle: int, packet: memoryview) -> None:
        """Handle a packet; one that makes no sense is dropped."""
        self._news += 1
        if len(packet) >= HEADER_SIZE and packet[1] == _DATA and packet[2] == IS_BIG_ENDIAN:
            # most packets: a whole message, from a node of this byte order
            (
                version, _, _, source, session, message, event, type, flags, length, offset, pouch,
            ) = self._unpack(packet)  # fmt: skip
            peer = self.peers.get(source)
            if (
                peer is not None
                and peer.session == session
                and version == VERSION
                and not (offset or flags & DTBO)
                and len(packet) == HEADER_SIZE + length
                and peer.held + length + OVERHEAD <= peer.granted
            ):
                peer.is_heard = True
                letter = Letter(
                    source, event, type, flags, pouch, packet[HEADER_SIZE:].tobytes(), length,
                    False, False, peer, peer.epoch, message,
                )  # fmt: skip
                cost = length + OVERHEAD
                if self._take(letter):
                    peer.owed = owed = peer.owed + cost
                    if owed * 4 >= peer.granted:
                        self._give_credit(peer)
                else:
                    peer.held += cost
                return
        try:
            self._handle(parse(packet), packet[HEADER_SIZE:], handle)
        except RemoteFrameError as error:
            self.packet_lost(str(error))

    def link_lost(self, handle: int, reason: str) -> None:
        """Bury the node behind a link that broke."""
        self._news += 1
        peer = self._by_handle.get(handle)
        if peer is not None and not self._is_closed:
            self.bury(peer, reason)

    def packet_lost(self, reason: str) -> None:
        """Count a packet that was dropped."""
        self.dropped += 1
        self.last_drop = reason

    def _handle(self, header: Header, body: memoryview, handle: int) -> None:
        peer = self.peers.get(header.source)
        kind = header.kind
        if kind == Kind.HELLO:
            self._introduced(header, bytes(body), peer)
            return
        if kind == Kind.STRANGER:
            if peer is not None and header.session == peer.own_session:
                self.bury(peer, "it was restarted")
            return
        if peer is None or peer.session != header.session:
            if kind != Kind.BYE and handle != NOBODY:
                self._be_strange(handle, header.session)
            raise RemoteFrameError(f"a packet of node {header.source}, which did not say hello")
        peer.is_heard = True
        if kind == Kind.DATA:
            self._data(peer, header, body)
        elif kind == Kind.CREDIT:
            peer.pay(header.length)
        elif kind in (Kind.OFFER, Kind.OFFER_TRANSFER):
            self._offered(peer, header)
        elif kind == Kind.ACCEPT:
            self._accepted(peer, header)
        elif kind == Kind.BODY:
            self._body(peer, header, body)
        elif kind == Kind.REFUSE:
            self._refused(peer, header.message)
        elif kind == Kind.WITHDRAW:
            self._withdrawn(peer, header.message)
        elif kind == Kind.PING:
            self._put(peer, Kind.PONG, header.message, length=peer.owed)
            peer.owed = 0
        elif kind == Kind.PONG:
            peer.pay(header.length)
            wait = peer.asking.pop(header.message, None)
            if wait is not None:
                wait.finish()
        elif kind == Kind.BYE:
            self.bury(peer, "it said goodbye")
        else:
            raise RemoteFrameError(f"a packet of kind {kind}, which nobody knows")

    def _be_strange(self, handle: int, session: int) -> None:
        """Tell somebody that it does not know us, whoever it is."""
        try:
            self._send(handle, (self._header(Kind.STRANGER, session),))
        except FabricError as error:
            self.packet_lost(f"a stranger was not told so: {error}")

    def _introduced(self, header: Header, body: bytes, peer: Peer | None) -> None:
        if len(body) > MAX_ADDRESS:
            raise RemoteFrameError(f"node {header.source} has an address of {len(body)} bytes")
        if header.length < INITIAL_WINDOW:
            raise RemoteFrameError(f"node {header.source} has a window of {header.length} bytes")
        address = body.decode("utf-8", "replace")
        if peer is None or peer.address != address:
            try:
                if peer is not None and peer.session is None:
                    self._move_to(peer, address)
                else:
                    peer = self.add(header.source, address)
            except (BadNode, FabricError) as error:
                raise RemoteFrameError(str(error)) from None
        if peer.session != header.session:
            if peer.session is not None:
                self.bury(peer, "it was restarted")
            peer.session = header.session
            peer.window = header.length
            peer.pay(header.length - INITIAL_WINDOW)
        peer.is_heard = True
        if header.event:
            self._greet(peer, wants_answer=False)

    def _letter(self, peer: Peer, header: Header, body: bytes | None) -> Letter:
        is_swapped = (header.flags & DTBO != 0 or header.is_big_endian != 0) != IS_BIG_ENDIAN
        return Letter(
            peer.number, header.event, header.type, header.flags, header.pouch, body,
            header.length, header.kind == Kind.OFFER_TRANSFER, is_swapped, peer, peer.epoch,
            header.message,
        )  # fmt: skip

    def _hold(self, peer: Peer, cost: int) -> None:
        if peer.held + cost > peer.granted:
            raise RemoteFrameError(
                f"node {peer.number} sends {cost} bytes and has {peer.granted - peer.held} left"
            )
        peer.held += cost

    def _data(self, peer: Peer, header: Header, body: memoryview) -> None:
        length = header.length
        if len(body) == length and not header.offset:
            self._hold(peer, OVERHEAD + length)
            self._hand_over(self._letter(peer, header, bytes(body)))
            return
        key = (peer.number, header.message)
        if not header.offset:
            if key in self._parts:
                raise RemoteFrameError(f"message {key} begins twice")
            self._hold(peer, OVERHEAD + length)
            self._parts.begin(key, length, owner=self._letter(peer, header, None))
        assembly = self._parts.add(key, header.offset, body)
        if assembly.is_complete:
            letter = assembly.owner
            if not isinstance(letter, Letter):
                raise RemoteFrameError(f"message {key} is a body that was asked for")
            letter.body = assembly.target.views[0]
            self._hand_over(letter)

    def _hand_over(self, letter: Letter) -> None:
        if self._owner.letter_arrived(letter):
            self.done_with(letter)

    def _offered(self, peer: Peer, header: Header) -> None:
        self._hold(peer, OVERHEAD)
        self._owner.letter_arrived(self._letter(peer, header, None))

    def _accepted(self, peer: Peer, header: Header) -> None:
        offer = self._offers.get(header.message)
        if offer is None or offer.peer is not peer:
            return  # it was withdrawn, and the receiver will hear of that
        if header.length > len(offer.body):
            raise RemoteFrameError(
                f"node {peer.number} asks for {header.length} bytes of {len(offer.body)}"
            )
        del self._offers[header.message]
        body = memoryview(offer.body)[: header.length]
        for offset in range(0, header.length, self.packet_size):
            self._put(
                peer, Kind.BODY, header.message, length=header.length, offset=offset,
                body=body[offset : offset + self.packet_size],
            )  # fmt: skip
        offer.wait.finish()

    def _body(self, peer: Peer, header: Header, body: memoryview) -> None:
        assembly = self._parts.add((peer.number, header.message), header.offset, body)
        if assembly.is_complete and isinstance(assembly.owner, tuple):
            want, letter = assembly.owner
            # its credit is that of an offer, whatever it has grown to
            letter.body, letter.is_offer = assembly.target.views[0], True
            self._owner.body_arrived(want, letter)

    def _refused(self, peer: Peer, message: int) -> None:
        offer = self._offers.get(message)
        if offer is not None and offer.peer is peer:
            del self._offers[message]
            offer.wait.finish(Swept(f"node {peer.number} swept the message, or it was too old"))

    def _withdrawn(self, peer: Peer, message: int) -> None:
        assembly = self._parts.forget((peer.number, message))
        if assembly is not None and isinstance(assembly.owner, tuple):
            want, letter = assembly.owner
            self.done_with(letter)
            self._owner.ask_again(want)
        else:
            self._owner.letter_withdrawn(peer.number, message)

    # --- the end of a node -----------------------------------------------------------------------

    def bury(self, peer: Peer, reason: str) -> None:
        """End everything that waits for a node; the next message to it introduces us again."""
        error = NodeDied(f"node {peer.number}: {reason}")
        waits = peer.forget()
        for number in [n for n, offer in self._offers.items() if offer.peer is peer]:
            waits.append(self._offers.pop(number).wait)
        for wait in waits:
            wait.finish(error)
        for assembly in self._parts.forget_all(lambda key: key[0] == peer.number):
            if isinstance(assembly.owner, tuple):
                self._owner.ask_again(assembly.owner[0])
            else:
                self.packet_lost(f"node {peer.number} died in the middle of a message")
        self._owner.node_died(peer, reason)

    def say_goodbye(self) -> bool:
        """Send what waits, and a goodbye behind it; to be called until it is True.

        Returns:
            Whether all of it has left, to every node that can be reached.
        """
        self.progress()
        is_done = True
        for peer in self.peers.values():
            if not peer.own_session or peer in self._parted:
                continue
            try:
                if not peer.outbox and self._medium.send_last(
                    peer.handle, self._header(Kind.BYE, peer.own_session)
                ):
                    self._parted.add(peer)
                    continue
            except FabricError as error:
                self.bury(peer, str(error))
                continue
            is_done = False
        return is_done and not self._medium.unsent

    def close(self) -> None:
        """Close the medium; what has not left is lost."""
        self._is_closed = True
        self._medium.close()
