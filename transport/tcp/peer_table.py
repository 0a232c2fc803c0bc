# SPDX-License-Identifier: Apache-2.0
"""Who is known: peers by their numbers, names and addresses. No links are made or ended here."""

from __future__ import annotations

import errno
import itertools
from collections.abc import Callable, Iterator, Sequence

from i2o.transport.tcp.address import Address, parse_address
from i2o.transport.tcp.errors import PeerError
from i2o.transport.tcp.handshake import Remote
from i2o.transport.tcp.link import Link
from i2o.transport.tcp.options import PeerOptions
from i2o.transport.tcp.peer import Peer
from i2o.transport.tcp.peer_name import PeerName


class PeerTable:
    """The peers of a node.

    Args:
        options: of peers, and how many may be known only because they called.
        on_state: told of a peer whenever it is in another state.

    Attributes:
        by_number: all of them; one that turned out to be two that were known is there twice.
        by_name: those whose names are known.
        by_address: whoever was expected at an address first.
        callers: those known only because they called, oldest first.
    """

    def __init__(self, options: PeerOptions, on_state: Callable[[Peer], None]) -> None:
        self._options, self._on_state = options, on_state
        self._numbers = itertools.count()
        self.by_number: dict[int, Peer] = {}
        self.by_name: dict[PeerName, Peer] = {}
        self.by_address: dict[Address, Peer] = {}
        self.callers: dict[Peer, None] = {}

    def __iter__(self) -> Iterator[Peer]:
        return iter(dict.fromkeys(self.by_number.values()))

    def __getitem__(self, number: int) -> Peer:
        peer = self.by_number.get(number)
        if peer is None:
            raise no_peer(number)
        return peer

    def expect(self, name: PeerName | None, addresses: Sequence[Address]) -> Peer:
        """Return a peer that somebody here asks for, a new one if need be; see `Node.add_peer`."""
        peer = None if name is None else self.by_name.get(name)
        if peer is None and name is None:
            known = (self.by_address.get(address) for address in addresses)
            peer = next((found for found in known if found is not None), None)
        if peer is None:
            peer = self._new_peer()
        self.callers.pop(peer, None)
        if name is not None:
            peer.is_named = True
            self.call(peer, name)
        self._learn(peer, addresses)
        return peer

    def caller(self, link: Link, remote: Remote) -> Peer | None:
        """Return the peer that calls, a new one if need be, or None if there are too many.

        Args:
            link: over which it calls.
            remote: who it is; it has proved that.
        """
        peer = self.by_name.get(remote.name)
        address = _told_address(remote, link)
        if peer is None and address is not None:
            peer = self.by_address.get(address)
            if peer is not None and (peer.is_named or peer.link is not None):
                peer = None  # anybody can tell an address: the link to who answers there stands
        if peer is None:
            if self.is_full:
                return None
            peer = self._new_peer()
            self.callers[peer] = None
        self.call(peer, remote.name)
        if address is not None:
            self._learn_told(peer, address)
        return peer

    @property
    def is_full(self) -> bool:
        """Whether as many are known only because they called as may be."""
        return len(self.callers) >= self._options.peer_limit

    def evict(self) -> Sequence[int]:
        """Forget the oldest peer that only called, and is gone; return its numbers, if any is."""
        for peer in self.callers:
            if peer.link is None and peer.dial is None and not peer.outbox:
                del self.callers[peer]
                for number in peer.numbers:
                    del self.by_number[number]
                self._forget_name(peer)
                for address in peer.plan.addresses:
                    self._forget_address(peer, address)
                return peer.numbers
        return ()

    def unite(self, peer: Peer, found: Peer) -> None:
        """Let the numbers and the addresses of one peer be those of another: it is that one."""
        for number in peer.numbers:
            self.by_number[number] = found
        found.numbers += peer.numbers
        self.callers.pop(found, None)  # somebody here asked for it, too
        told = peer.told
        self._learn(found, [each for each in peer.plan.addresses if each != told])
        if told is not None:
            self._forget_address(peer, told)
            self._learn_told(found, told)

    def call(self, peer: Peer, name: PeerName) -> None:
        """Know a peer by a name; one under another name before is another process."""
        if peer.name != name:
            if peer.name is not None:
                self._forget_name(peer)
                peer.incarnation = 0
            peer.name = name
            self.by_name[name] = peer

    def _new_peer(self) -> Peer:
        peer = Peer(next(self._numbers), self._options, self._on_state)
        self.by_number[peer.number] = peer
        return peer

    def _forget_name(self, peer: Peer) -> None:
        """Let nobody find a peer by its name; another one may have that name by now."""
        if peer.name is not None and self.by_name.get(peer.name) is peer:
            del self.by_name[peer.name]

    def _learn(self, peer: Peer, addresses: Sequence[Address]) -> None:
        if peer.told in addresses:
            peer.told = None  # it stays, whatever the caller tells from now on
        peer.plan.add(addresses)
        for address in addresses:
            self.by_address.setdefault(address, peer)

    def _learn_told(self, peer: Peer, address: Address) -> None:
        """Learn where a caller listens, in place of what it told before.

        Otherwise one that tells another address each time would fill the memory, and all of them
        would be called before it counts as unreachable.
        """
        if address == peer.told:
            return
        if peer.told is not None:
            peer.plan.remove(peer.told)
            self._forget_address(peer, peer.told)
            peer.told = None
        if address not in peer.plan.addresses:
            self._learn(peer, (address,))
            peer.told = address

    def _forget_address(self, peer: Peer, address: Address) -> None:
        if self.by_address.get(address) is peer:
            del self.by_address[address]


def no_peer(number: int) -> PeerError:
    """Return what is raised when nobody has a number."""
    return PeerError(errno.EINVAL, f"no peer has the number {number}")


def _told_address(remote: Remote, link: Link) -> Address | None:
    """Return where a caller says it listens, if that can be used from here."""
    if not remote.address:
        return None
    try:
        address = parse_address(remote.address)
    except PeerError:
        return None
    if address.is_wildcard:
        address = address._replace(host=link.address.host)
    if address.is_loopback and not link.address.is_loopback:
        return None
    return address
