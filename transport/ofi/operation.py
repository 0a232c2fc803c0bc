# SPDX-License-Identifier: Apache-2.0
"""Operations that are under way, and who keeps the books of them: the types of `_books`.

They are in C (`native_books.py`), because every message passes through them; here is what they look
like from Python. An operation has a place in memory whose address libfabric is given as context and
gives back. It also keeps the memory of the message alive. Both are let go of when the operation is
over, and not before.
"""

from __future__ import annotations

from typing import Final, Protocol

from i2o.transport.fabric.completion import Completion
from i2o.transport.fabric.flags import Flag

RECV_MSG: Final = Flag.RECV | Flag.MSG
RECV_TAGGED: Final = Flag.RECV | Flag.TAGGED
SEND_MSG: Final = Flag.SEND | Flag.MSG
SEND_TAGGED: Final = Flag.SEND | Flag.TAGGED
NO_FLAGS: Final = Flag(0)


class Tally(Protocol):
    """Sends to one peer.

    Attributes:
        address: the peer's fi_addr.
        outstanding: sends that libfabric has.
        is_waiting: some wait until libfabric takes them, so that others must not overtake them.
    """

    address: int
    outstanding: int
    is_waiting: bool


class Poster(Protocol):
    """Posts the plain operations of an endpoint, and counts all of them.

    Attributes:
        in_flight: sends that are not over.
        posted: receives that are not over.
    """

    in_flight: int
    posted: int

    def send(self, buffer: object, to: int, context: object) -> bool:
        """Send, or return False: nothing was done, for whatever reason."""
        ...

    def tsend(self, buffer: object, tag: int, to: int, context: object) -> bool:
        """Send a tagged message, or return False."""
        ...

    def recv(self, buffer: object, context: object) -> bool:
        """Queue a receive from anybody, or return False."""
        ...

    def trecv(self, buffer: object, tag: int, ignore: int, context: object) -> bool:
        """Queue a tagged receive from anybody, or return False."""
        ...

    def bind(self, ledger: Ledger, is_tx: bool, is_wanted: bool) -> None:
        """Say which ledger sends or receives are in, and whether success makes an entry."""
        ...

    def open(self, is_tx: bool, is_rx: bool) -> None:
        """Say whether sends, and receives, can be posted from now on."""
        ...


class Operation(Protocol):
    """One operation, or a free place for one.

    Attributes:
        address: of its place: the context that libfabric is given.
        order: counts up from operation to operation of a ledger.
        poster: of the endpoint that posted it; None if it is free.
        tally: of the peer that it is sent to; None of a receive.
        flags: SEND or RECV with MSG or TAGGED; what its completions say.
        context: the caller's.
        is_wanted: success makes an entry.
        held: what must stay alive: buffers, and arguments that libfabric may look at later.
        limit: bytes that the caller's buffers take, of a receive; -1 if that does not count.
        is_special: its entries are unusual: one of the following is set.
        is_told: an entry was made already; only the memory must stay.
        area: the caller's multi-receive buffer, else None.
        start: its address.
        is_peek: it is PEEK.
        claims: it is PEEK|CLAIM: the message waits for its CLAIM.
    """

    @property
    def address(self) -> int: ...  # noqa: D102
    @property
    def order(self) -> int: ...  # noqa: D102
    @property
    def poster(self) -> Poster | None: ...  # noqa: D102
    @property
    def tally(self) -> Tally | None: ...  # noqa: D102

    flags: Flag
    context: object
    is_wanted: bool
    held: object
    limit: int
    is_special: bool
    is_told: bool
    area: memoryview | None
    start: int
    is_peek: bool
    claims: bool


class Ledger(Protocol):
    """The operations whose completions come from one queue of libfabric, and its reader.

    There are as many places as ever were needed at once. The endpoints bound that.

    Attributes:
        idle_since_ns: since when nothing is under way, as far as its queue noticed; else 0.
        under_way: operations that are not over.
    """

    idle_since_ns: int

    @property
    def under_way(self) -> int: ...  # noqa: D102

    def next(self, count: int, spin_ns: int) -> list[Completion] | None:
        """Return what there is, which may be nothing; None if `fetch` must see to it.

        Args:
            count: completions that it may be, at least 1.
            spin_ns: how long to look, in nanoseconds, as long as there is nothing; 0 for one look.
        """
        ...

    def fetch(self, room: int, spin_ns: int) -> int:
        """Hand over what libfabric has, and return how much it was, or libfabric's code.

        Args:
            room: entries to take; with 0 libfabric only goes on.
            spin_ns: as in `next`.
        """
        ...

    def take(self, poster: Poster, tally: Tally | None = None) -> Operation:
        """Return a free place."""
        ...

    def give_back(self, operation: Operation) -> None:
        """Let go of the memory that the operation held, and use its place again."""
        ...

    def find(self, address: int) -> Operation | None:
        """Return the operation under way that a context belongs to."""
        ...

    def of(self, poster: Poster) -> list[Operation]:
        """Return the operations of an endpoint that are not over."""
        ...

    def shut(self) -> None:
        """Look no more: libfabric's queue is closed."""
        ...
