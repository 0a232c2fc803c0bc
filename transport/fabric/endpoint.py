# SPDX-License-Identifier: Apache-2.0
"""Endpoints, completion queues and connections: the contract, and nothing else.

Every call is asynchronous: it returns at once, and raises when nothing was posted. What was posted
ends exactly once: with an entry in a completion queue, or, where the manual says so, without one.
Source: fi_endpoint(3), fi_msg(3), fi_tagged(3), fi_cq(3), fi_cm(3) of libfabric.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from types import TracebackType
from typing import Final, NamedTuple, Protocol, Self, TypeAlias, runtime_checkable

from i2o.transport.fabric.completion import Completion, CompletionError
from i2o.transport.fabric.flags import (
    ADDR_UNSPEC,
    Bind,
    Capability,
    CqFormat,
    EndpointType,
    Flag,
)

Buffer: TypeAlias = bytes | bytearray | memoryview
"""What is sent; what is received into must be writable."""
NO_FLAGS: Final = Flag(0)
"""No flag at all."""


@dataclass(frozen=True, slots=True)
class EndpointAttributes:
    """What an endpoint is and can do (fi_info, fi_ep_attr, fi_tx_attr, fi_rx_attr).

    Attributes:
        type: connected, datagram or reliable unconnected.
        capabilities: everything that was not asked for and not granted is refused.
        inject_size: bytes that `inject` and INJECT take.
        max_msg_size: bytes of a message.
        iov_limit: buffers of one sendv or recvv.
        tx_size: sends that may be outstanding, 0 if only the carrier knows.
        rx_size: receives that may be posted, 0 if only the carrier knows.
        cq_data_size: bytes of `data`.
        msg_prefix_size: bytes that the caller leaves free in front of every buffer (MSG_PREFIX).
        provider: the carrier: mem, tcp, or libfabric's name.
    """

    type: EndpointType
    capabilities: Capability
    inject_size: int
    max_msg_size: int
    iov_limit: int
    tx_size: int
    rx_size: int
    cq_data_size: int
    msg_prefix_size: int
    provider: str


class Message(NamedTuple):
    """fi_msg and fi_msg_tagged: the arguments of sendmsg, recvmsg, tsendmsg and trecvmsg.

    Attributes:
        buffers: gathered into one message, or filled one after another.
        address: to whom, or from whom.
        context: comes back in the completion. PEEK|CLAIM and the CLAIM that follows name the same.
        data: sent along with REMOTE_CQ_DATA.
        tag: of a tagged operation.
        ignore: bits of the tag that a receive does not compare.
        desc: a descriptor for each buffer, or none; software ignores them.
    """

    buffers: Sequence[Buffer] = ()
    address: int = ADDR_UNSPEC
    context: object = None
    data: int = 0
    tag: int = 0
    ignore: int = 0
    desc: Sequence[object] | None = None


class CompletionQueue(Protocol):
    """Where operations end. Reading it also moves the endpoints that are bound to it on."""

    format: CqFormat

    def read(self, count: int = 1) -> list[Completion]:
        """Return 1 to `count` entries; with count 0 only make progress and return none.

        Raises:
            TryAgain: there is none.
            ErrorAvailable: the next entry is an error.
        """

    def readerr(self) -> CompletionError:
        """Return the error that comes next; raises TryAgain if the next entry is none."""

    def sread(self, count: int = 1, timeout_s: float | None = None) -> list[Completion]:
        """As `read`, but wait for an entry; None waits for ever.

        Raises:
            TryAgain: the time is over, or `signal` was called.
            ErrorAvailable: the next entry is an error.
        """

    def signal(self) -> None:
        """Wake whoever is in `sread`; may be called from any thread."""

    def fileno(self) -> int:
        """Return a descriptor that is readable when there may be something to read.

        With manual progress: when `read` should be called. -1 once closed.
        """

    def close(self) -> None:
        """Release it; entries that nobody read are lost.

        Raises:
            FabricError: EBUSY, an endpoint is bound to it.
        """


class Endpoint(Protocol):
    """One end of message transfers."""

    attributes: EndpointAttributes

    @property
    def name(self) -> str:
        """The address that another endpoint of the same kind can insert or connect to."""

    # --- life ------------------------------------------------------------------------------------

    def open_cq(self, size: int = 0, format: CqFormat = CqFormat.TAGGED) -> CompletionQueue:
        """Make a queue that this endpoint and others of its domain can be bound to.

        Args:
            size: entries; 0 for a default.
            format: how much an entry tells.
        """

    def bind(self, cq: CompletionQueue, flags: Bind) -> None:
        """Name the queue of sends, of receives or of both, before `enable`.

        Raises:
            FabricError: EOPBADSTATE, the endpoint is enabled; EDOMAIN, a queue of another kind;
                EINVAL, neither TRANSMIT nor RECV, or already bound for that.
        """

    def set_min_multi_recv(self, size: int) -> None:
        """Set FI_OPT_MIN_MULTI_RECV, before `enable`: when a multi-receive buffer is released."""

    def enable(self) -> None:
        """Let operations be posted; raises FabricError ENOCQ if a queue is missing."""

    def close(self) -> None:
        """Cancel what is posted (its entries are made, ECANCELED), and let go of the queues."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None: ...

    # --- addresses (unconnected endpoints) -------------------------------------------------------

    def insert(self, address: str) -> int:
        """Make an fi_addr of the `name` of a peer; nothing is sent (fi_av_insert).

        Raises:
            FabricError: EINVAL, it is no address of this kind.
        """

    def remove(self, address: int) -> None:
        """Forget an fi_addr; what is outstanding to it ends with errors."""

    def address_of(self, address: int) -> str:
        """Return the name behind an fi_addr (fi_av_lookup); raises FabricError EINVAL."""

    # --- connections (connected endpoints) -------------------------------------------------------

    def connect(self, address: str, parameter: bytes = b"") -> None:
        """Ask a listener for a connection; CONNECTED or an error comes through `events`."""

    def accept(self, parameter: bytes = b"") -> None:
        """Accept the request that this endpoint was made for; CONNECTED comes through `events`."""

    def shutdown(self) -> None:
        """Tell the peer that this is the end; both sides get SHUTDOWN."""

    @property
    def events(self) -> EventQueue:
        """What happens to connections."""

    # --- transfers -------------------------------------------------------------------------------

    def send(
        self,
        buffer: Buffer,
        dest: int = ADDR_UNSPEC,
        *,
        desc: object = None,
        context: object = None,
    ) -> None:
        """Send one message; the buffer is the caller's again after the completion.

        All other transfers raise the same errors.

        Raises:
            TryAgain: no resource now.
            FabricError: EOPBADSTATE, not enabled or not connected; EMSGSIZE, too long; EINVAL, a
                bad address or argument; EBADFLAGS, a flag that has no meaning there; ENOTSUP, a
                capability that the endpoint does not have.
        """

    def sendv(
        self,
        buffers: Sequence[Buffer],
        dest: int = ADDR_UNSPEC,
        *,
        desc: Sequence[object] | None = None,
        context: object = None,
    ) -> None:
        """Gather at most `iov_limit` buffers into one message."""

    def sendmsg(self, message: Message, flags: Flag = NO_FLAGS) -> None:
        """Send with flags, which replace the endpoint's own."""

    def inject(self, buffer: Buffer, dest: int = ADDR_UNSPEC) -> None:
        """Send at most `inject_size` bytes: the buffer is free at return, success is silent."""

    def senddata(
        self,
        buffer: Buffer,
        data: int,
        dest: int = ADDR_UNSPEC,
        *,
        desc: object = None,
        context: object = None,
    ) -> None:
        """Send with a number that the receiver's completion carries."""

    def injectdata(self, buffer: Buffer, data: int, dest: int = ADDR_UNSPEC) -> None:
        """Inject with a number."""

    def recv(
        self, buffer: Buffer, src: int = ADDR_UNSPEC, *, desc: object = None, context: object = None
    ) -> None:
        """Queue a buffer; `src` counts with DIRECTED_RECV."""

    def recvv(
        self,
        buffers: Sequence[Buffer],
        src: int = ADDR_UNSPEC,
        *,
        desc: Sequence[object] | None = None,
        context: object = None,
    ) -> None:
        """Queue buffers that one message fills one after another."""

    def recvmsg(self, message: Message, flags: Flag = NO_FLAGS) -> None:
        """Queue a receive with flags: MULTI_RECV, COMPLETION, MORE."""

    def tsend(
        self,
        buffer: Buffer,
        tag: int,
        dest: int = ADDR_UNSPEC,
        *,
        desc: object = None,
        context: object = None,
    ) -> None:
        """Send a tagged message: tagged receives take it, and no others."""

    def tsendv(
        self,
        buffers: Sequence[Buffer],
        tag: int,
        dest: int = ADDR_UNSPEC,
        *,
        desc: Sequence[object] | None = None,
        context: object = None,
    ) -> None:
        """Gather a tagged message."""

    def tsendmsg(self, message: Message, flags: Flag = NO_FLAGS) -> None:
        """Send a tagged message with flags."""

    def tinject(self, buffer: Buffer, tag: int, dest: int = ADDR_UNSPEC) -> None:
        """Inject a tagged message."""

    def tsenddata(
        self,
        buffer: Buffer,
        data: int,
        tag: int,
        dest: int = ADDR_UNSPEC,
        *,
        desc: object = None,
        context: object = None,
    ) -> None:
        """Send a tagged message with a number."""

    def tinjectdata(self, buffer: Buffer, data: int, tag: int, dest: int = ADDR_UNSPEC) -> None:
        """Inject a tagged message with a number."""

    def trecv(
        self,
        buffer: Buffer,
        tag: int,
        ignore: int = 0,
        src: int = ADDR_UNSPEC,
        *,
        desc: object = None,
        context: object = None,
    ) -> None:
        """Queue a buffer for a message whose tag agrees in all bits that `ignore` does not set."""

    def trecvv(
        self,
        buffers: Sequence[Buffer],
        tag: int,
        ignore: int = 0,
        src: int = ADDR_UNSPEC,
        *,
        desc: Sequence[object] | None = None,
        context: object = None,
    ) -> None:
        """Queue buffers for a tagged message."""

    def trecvmsg(self, message: Message, flags: Flag = NO_FLAGS) -> None:
        """Queue a tagged receive with flags: also PEEK, CLAIM and DISCARD."""

    def cancel(self, context: object) -> bool:
        """End the oldest queued receive with this context; its entry says ECANCELED.

        Returns:
            Whether there was one; a receive that is matched already ends as it would have.
        """

    def progress(self) -> None:
        """Move what is under way, without reading a queue."""


class EventKind(Enum):
    """Kinds of `Event`: FI_CONNREQ, FI_CONNECTED, FI_SHUTDOWN."""

    CONNREQ = "CONNREQ"
    CONNECTED = "CONNECTED"
    SHUTDOWN = "SHUTDOWN"
    ERROR = "ERROR"


class Event(NamedTuple):
    """Something happened to a connection.

    Attributes:
        kind: one of `EventKind`.
        source: the endpoint, or the passive endpoint.
        parameter: what the other side gave to connect, accept or reject.
        request: of a CONNREQ, what to open the endpoint with.
        err: of an ERROR, the code: ECONNREFUSED after a reject.
    """

    kind: EventKind
    source: object
    parameter: bytes = b""
    request: ConnectionRequest | None = None
    err: int = 0


class EventQueue(Protocol):
    """Where connections say what happened to them."""

    def read(self) -> Event:
        """Return the next event; raises TryAgain if there is none."""

    def sread(self, timeout_s: float | None = None) -> Event:
        """Wait for the next event; raises TryAgain when the time is over."""


class ConnectionRequest(Protocol):
    """Somebody wants to connect."""

    def endpoint(self) -> Endpoint:
        """Make the endpoint that can be bound, enabled and then `accept` it."""

    def reject(self, parameter: bytes = b"") -> None:
        """Send the other side away: it gets ECONNREFUSED."""


class PassiveEndpoint(Protocol):
    """Listens for connections (fi_pep)."""

    @property
    def name(self) -> str:
        """The address to connect to."""

    @property
    def events(self) -> EventQueue:
        """Where the requests come from."""

    def listen(self) -> None:
        """Begin to listen."""

    def close(self) -> None:
        """Stop; requests that were not answered are rejected."""


@runtime_checkable
class MulticastEndpoint(Protocol):
    """An endpoint that can join groups; MULTICAST sends go to the fi_addr of one."""

    def join(self, group: str) -> int:
        """Join a group and return its fi_addr (fi_join)."""

    def leave(self, address: int) -> None:
        """Leave it."""
