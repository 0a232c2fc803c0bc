# SPDX-License-Identifier: Apache-2.0
"""What the sending and the receiving half of an endpoint have in common."""

from __future__ import annotations

import errno
from typing import Any, Final

from i2o.clock import Clock
from i2o.transport.fabric.errors import FabricErrno, FabricError
from i2o.transport.fabric.flags import ADDR_UNSPEC, Capability, EndpointType, Flag
from i2o.transport.ofi.operation import (
    RECV_MSG,
    RECV_TAGGED,
    SEND_MSG,
    SEND_TAGGED,
    Operation,
    Poster,
    Tally,
)
from i2o.transport.ofi.peer import Peer
from i2o.transport.ofi.selection import Selection

_MULTICAST: Final = int(Flag.MULTICAST)
_MOST_TAG: Final = (1 << 64) - 1
_SPARE: Final = 1 << 20
"""What of a message does not fit goes here, and nobody reads it.

Left to themselves, providers end such a receive with success, with an error that does not tell how
much is lost, or with the end of the connection. The memory is not touched unless it happens.
"""


class EndpointHalf:
    """An open endpoint, its peers, and how a call is refused.

    Args:
        selection: what the endpoint was made of.
        handle: the `struct fid_ep *`.
        clock: the endpoint's.
    """

    def __init__(self, selection: Selection, handle: Any, clock: Clock) -> None:
        self._selection = selection
        self._ep = handle
        self._clock = clock
        self._library = selection.library
        self._ffi, self._lib = selection.library
        self._from_buffer = self._ffi.from_buffer
        self._bytes_type = self._ffi.typeof("char []")
        self._null = self._ffi.NULL
        self._fid = self._ffi.addressof(handle, "fid")
        self._is_connected_type = selection.attributes.type is EndpointType.MSG
        self._is_tagged = Capability.TAGGED in selection.attributes.capabilities
        self._is_open = True
        self._is_enabled = False
        self._peers: dict[int, Peer] = {}
        self._groups: dict[int, Peer] = {}
        self._tallies: dict[int, Tally] = {}
        """Of `_peers`: a group is no address of a plain send."""
        attributes = selection.attributes
        self._spare = self._from_buffer(bytearray(min(attributes.max_msg_size, _SPARE)))
        self._poster: Poster = self._library.books.Poster(
            int(self._ffi.cast("uintptr_t", handle)),
            self._tallies,
            (SEND_MSG, SEND_TAGGED, RECV_MSG, RECV_TAGGED),
            attributes.tx_size,
            attributes.rx_size,
            attributes.max_msg_size,
            int(self._ffi.cast("uintptr_t", self._spare)),
            len(self._spare),
            is_tagged=self._is_tagged,
            takes_masks=selection.provider.masks_tags,
        )

    @property
    def in_flight(self) -> int:
        """Sends that are not over."""
        return self._poster.in_flight

    @property
    def posted(self) -> int:
        """Receives that are not over."""
        return self._poster.posted

    def _add_peer(self, address: int, name: str) -> None:
        peer = self._peers[address] = Peer(address, name, self._new_tally(address))
        self._tallies[address] = peer.tally

    def _new_tally(self, address: int) -> Tally:
        tally: Tally = self._library.books.Tally(address)
        return tally

    def _place_of(self, operation: Operation) -> Any:
        """Return what libfabric calls the context of an operation."""
        return self._ffi.cast("void *", operation.address)

    def _peer_of(self, address: int, flags: int = 0) -> Peer:
        """Return whom an address names.

        libfabric takes any number for an address, and some providers then crash.
        """
        if self._is_connected_type:
            address = ADDR_UNSPEC  # there is one peer, whatever is named
        is_group = bool(flags & _MULTICAST)
        peer = (self._groups if is_group else self._peers).get(address)
        if peer is None:
            what, source = ("group", "join()") if is_group else ("address", "insert()")
            raise FabricError(errno.EINVAL, f"{address:#x} is no {what}: {source} returns one")
        return peer

    def _check_tag(self, tag: int, ignore: int = 0) -> None:
        if not 0 <= tag <= _MOST_TAG or not 0 <= ignore <= _MOST_TAG:
            raise FabricError(errno.EINVAL, f"tag {tag:#x}, ignore {ignore:#x}: 64 bits each")

    def _lacks(self, capability: Capability) -> FabricError:
        return FabricError(
            errno.ENOTSUP,
            f"the endpoint has no {capability.name}: the provider lacks it, or caps= left it out",
        )

    def _not_ready(self) -> FabricError:
        """Return why nothing can be posted now."""
        if not self._is_open:
            why = "the endpoint is closed"
        elif not self._is_enabled:
            why = "the endpoint is not enabled: bind() queues, then enable()"
        else:
            why = "the endpoint is not connected: wait for CONNECTED in its events"
        return FabricError(FabricErrno.EOPBADSTATE, why)
