# SPDX-License-Identifier: Apache-2.0
"""The software endpoint: every call of the contract, over any carrier.

This module checks arguments and states, and turns each call into a record; links, inbox and outbox
do the rest. Numbers of flags are plain integers here: enumerations are slow where every message
passes.
"""

from __future__ import annotations

import errno
from collections.abc import Sequence
from enum import Enum, auto
from operator import index
from typing import Final, NamedTuple

from i2o.clock import SYSTEM_CLOCK, Clock
from i2o.closing import Closing
from i2o.transport.fabric.carrier import Carrier, GroupCarrier
from i2o.transport.fabric.completion_queue import SoftwareCompletionQueue
from i2o.transport.fabric.connections import (
    MAX_PARAMETER,
    SoftwareConnectionRequest,
    SoftwareEventQueue,
    SoftwareListener,
    check_parameter,
)
from i2o.transport.fabric.endpoint import (
    NO_FLAGS,
    Buffer,
    CompletionQueue,
    EndpointAttributes,
    Event,
    EventKind,
    Message,
)
from i2o.transport.fabric.engine import Engine
from i2o.transport.fabric.engine_options import EngineOptions
from i2o.transport.fabric.errors import FabricErrno, FabricError
from i2o.transport.fabric.flags import (
    ADDR_UNSPEC,
    Bind,
    Capability,
    CqFormat,
    EndpointType,
    Flag,
)
from i2o.transport.fabric.inbox import Inbox
from i2o.transport.fabric.link import Link
from i2o.transport.fabric.operations import (
    MSG,
    MULTICAST,
    SEND,
    TAGGED,
    Level,
    ReceiveOperation,
    SendOperation,
)
from i2o.transport.fabric.outbox import Outbox
from i2o.transport.fabric.packets import Scatter, byte_view
from i2o.transport.fabric.placement import Placer

_BITS_64: Final = (1 << 64) - 1
_SEND_MSG, _SEND_TAGGED = SEND | MSG, SEND | TAGGED
_SEND_GROUP = SEND | MSG | MULTICAST
DEFAULT_MIN_MULTI_RECV: Final = 64
"""FI_OPT_MIN_MULTI_RECV of an endpoint for which it was not set."""

_LEVELS: Final = (
    (int(Flag.MATCH_COMPLETE), Level.MATCH),
    (int(Flag.DELIVERY_COMPLETE), Level.DELIVERY),
    (int(Flag.TRANSMIT_COMPLETE), Level.TRANSMIT),
    (int(Flag.INJECT_COMPLETE), Level.INJECT),
)
_ANY_LEVEL = (
    Flag.INJECT_COMPLETE | Flag.TRANSMIT_COMPLETE | Flag.DELIVERY_COMPLETE | Flag.MATCH_COMPLETE
)
_SEND_FLAGS = (
    _ANY_LEVEL
    | Flag.REMOTE_CQ_DATA
    | Flag.COMPLETION
    | Flag.MORE
    | Flag.INJECT
    | Flag.FENCE
    | Flag.MULTICAST
)
_RECV_FLAGS = Flag.COMPLETION | Flag.MORE | Flag.MULTI_RECV | Flag.TRANSMIT_COMPLETE
_TRECV_FLAGS = Flag.COMPLETION | Flag.MORE | Flag.PEEK | Flag.CLAIM | Flag.DISCARD

RDM_CAPABILITIES: Final = (
    Capability.MSG
    | Capability.TAGGED
    | Capability.RECV
    | Capability.SEND
    | Capability.MULTI_RECV
    | Capability.FENCE
    | Capability.SOURCE
    | Capability.DIRECTED_RECV
)
"""What an unconnected endpoint can do, and does unless less is asked for."""
MSG_CAPABILITIES: Final = RDM_CAPABILITIES & ~(Capability.SOURCE | Capability.DIRECTED_RECV)
"""What a connected endpoint can do."""
DGRAM_CAPABILITIES: Final = (
    Capability.MSG
    | Capability.RECV
    | Capability.SEND
    | Capability.MULTI_RECV
    | Capability.SOURCE
    | Capability.DIRECTED_RECV
)
"""What a datagram endpoint can do; over a carrier with groups also MULTICAST."""


class _State(Enum):
    """How far an endpoint is."""

    NEW = auto()
    ENABLED = auto()
    CONNECTING = auto()
    CONNECTED = auto()
    SHUT = auto()
    CLOSED = auto()


class _Policy(NamedTuple):
    """What the flags of a send mean."""

    level: int
    is_silent: bool
    is_injected: bool
    has_data: bool
    is_delayed: bool
    is_fenced: bool
    is_multicast: bool


class SoftwareEndpoint(Closing):
    """An endpoint over a carrier.

    Args:
        carrier: what brings its frames; the endpoint owns it from now on.
        endpoint_type: connected, datagram or reliable unconnected.
        capabilities: what it will be used for; everything it can by default.
        options: sizes.
        tx_flags: flags of the calls that take none (FI_SETOPSFLAG); sendmsg replaces them.
        rx_flags: the same for receives; recvmsg replaces them.
        provider: what the attributes call the carrier.
        clock: for waiting.
    """

    def __init__(
        self,
        carrier: Carrier,
        endpoint_type: EndpointType = EndpointType.RDM,
        *,
        capabilities: Capability | None = None,
        options: EngineOptions | None = None,
        tx_flags: Flag = NO_FLAGS,
        rx_flags: Flag = NO_FLAGS,
        provider: str = "software",
        clock: Clock = SYSTEM_CLOCK,
        accepted: tuple[Engine, Link, SoftwareConnectionRequest] | None = None,
    ) -> None:
        options = options or EngineOptions()
        self._clock = clock
        self._accepted = accepted
        can_join = isinstance(carrier, GroupCarrier)
        granted = _capabilities(endpoint_type, capabilities, can_join=can_join)
        self._engine = (
            Engine(carrier, self, endpoint_type, options) if accepted is None else accepted[0]
        )
        self._engine.users += 1
        is_datagram = endpoint_type is EndpointType.DGRAM
        largest = self._engine.eager_limit if is_datagram else options.max_msg_size
        self.attributes = EndpointAttributes(
            type=endpoint_type,
            capabilities=granted,
            inject_size=min(options.inject_size, largest, self._engine.eager_limit),
            max_msg_size=min(options.max_msg_size, largest),
            iov_limit=options.iov_limit,
            tx_size=options.tx_size,
            rx_size=options.rx_size,
            cq_data_size=8,
            msg_prefix_size=options.msg_prefix_size,
            provider=provider,
        )
        self._prefix = options.msg_prefix_size
        self._kinds = int(granted & (Capability.MSG | Capability.TAGGED))
        self._is_connected_kind = endpoint_type is EndpointType.MSG
        self._is_directed = Capability.DIRECTED_RECV in granted
        self._inject_size = self.attributes.inject_size
        self._max_size = self.attributes.max_msg_size
        self._events = SoftwareEventQueue(self._engine, clock)
        self._bound: dict[Bind, tuple[SoftwareCompletionQueue, bool]] = {}
        self._min_multi_recv = DEFAULT_MIN_MULTI_RECV
        self._policies: dict[int, _Policy] = {}
        self._tx_flags, self._rx_flags = _as_flags(tx_flags), _as_flags(rx_flags)
        self._targets: dict[int, Link] = {}
        self._next_address = 0
        self._link: Link | None = None if accepted is None else accepted[1]
        self._set_state(_State.NEW)
        self._outbox: Outbox | None = None
        self._inbox: Inbox | None = None
        self._plain = self._policy(self._tx_flags)
        self._silent = self._plain._replace(
            level=Level.INJECT, is_silent=True, is_injected=True, is_delayed=False, has_data=False
        )

    @property
    def name(self) -> str:
        """The address that another endpoint of the same kind can insert or connect to."""
        return self._engine.carrier.name

    # --- life ------------------------------------------------------------------------------------

    def open_cq(
        self,
        size: int = 0,
        format: CqFormat = CqFormat.TAGGED,
    ) -> SoftwareCompletionQueue:
        """Make a queue, to which other endpoints of the software engine can be bound, too."""
        return SoftwareCompletionQueue(size, format, self._clock)

    def bind(self, cq: CompletionQueue, flags: Bind) -> None:
        """Name the queue of sends, of receives or of both, before `enable`. See the contract."""
        if self._state is not _State.NEW:
            raise FabricError(FabricErrno.EOPBADSTATE, "queues are bound before enable()")
        if not isinstance(cq, SoftwareCompletionQueue):
            raise FabricError(
                FabricErrno.EDOMAIN, "the queue is not one of the software engine: use open_cq()"
            )
        sides = [side for side in (Bind.TRANSMIT, Bind.RECV) if side in flags]
        if not sides:
            raise FabricError(errno.EINVAL, "a queue is bound for TRANSMIT, RECV or both")
        for side in sides:
            if side in self._bound:
                raise FabricError(errno.EINVAL, f"there is a queue for {side.name} already")
        for side in sides:
            cq.attach(self._engine)
            self._bound[side] = cq, Bind.SELECTIVE_COMPLETION in flags

    def set_min_multi_recv(self, size: int) -> None:
        """Set the room below which a multi-receive buffer is released, before `enable`."""
        if self._state is not _State.NEW:
            raise FabricError(FabricErrno.EOPBADSTATE, "this is set before enable()")
        if size < 0:
            raise FabricError(errno.EINVAL, f"a minimum of {size} bytes")
        self._min_multi_recv = size

    def place_with(self, placer: Placer, limit: int) -> bool:
        """Ask where long messages go, before `enable`; see `PlacingEndpoint`."""
        if self._state is not _State.NEW or self._engine.links:
            raise FabricError(FabricErrno.EOPBADSTATE, "this is set before enable()")
        return not self._prefix and self._engine.place_with(placer, limit)

    def enable(self) -> None:
        """Let operations be posted; raises FabricError ENOCQ if a queue is missing."""
        if self._state is not _State.NEW:
            raise FabricError(FabricErrno.EOPBADSTATE, f"the endpoint is {self._state.name}")
        capabilities, options = self.attributes.capabilities, self._engine.options
        for side, need in ((Bind.TRANSMIT, Capability.SEND), (Bind.RECV, Capability.RECV)):
            if need in capabilities and side not in self._bound:
                raise FabricError(
                    FabricErrno.ENOCQ, f"bind a completion queue for {side.name} first"
                )
        if Bind.TRANSMIT in self._bound:
            cq, is_selective = self._bound[Bind.TRANSMIT]
            self._outbox = Outbox(cq, is_selective=is_selective, size=options.tx_size)
        if Bind.RECV in self._bound:
            cq, is_selective = self._bound[Bind.RECV]
            self._inbox = Inbox(
                cq,
                is_selective=is_selective,
                size=options.rx_size,
                min_multi_recv=self._min_multi_recv,
                prefix=self._prefix,
                has_source=Capability.SOURCE in capabilities,
                settle=self._engine.settle,
            )
        self._policies.clear()
        self._plain = self._policy(self._tx_flags)
        self._silent = self._silent._replace(is_fenced=self._plain.is_fenced)
        self._set_state(_State.ENABLED)
        if self.attributes.type is not EndpointType.MSG:
            self._engine.inbox = self._inbox
            for link in list(self._engine.links.values()):
                link.inbox = self._inbox
                if link.has_peer:
                    link.greet()
                    link.open()
            self._engine.settle()

    def close(self) -> None:
        """Cancel what is posted, and let go of the queues; calling it again does nothing."""
        if self._state is _State.CLOSED:
            return
        was_connected = self._state is _State.CONNECTED
        self._set_state(_State.CLOSED)
        reason = "the endpoint was closed"
        if self._accepted is None:
            self._engine.close()
        elif self._link is not None:
            self._leave(self._link, tell=was_connected)
            self._engine.release()
        if self._inbox is not None:
            self._inbox.end(errno.ECANCELED, reason)
        queues = {id(cq): 0 for cq, _ in self._bound.values()}
        for cq, _ in self._bound.values():
            queues[id(cq)] += 1
        for cq, _ in self._bound.values():
            queues[id(cq)] -= 1
            cq.detach(self._engine, is_last=not queues[id(cq)])
        self._bound.clear()

    def _leave(self, link: Link, *, tell: bool) -> None:
        """Close the link of an accepted connection, whose carrier others use, too."""
        request = self._accepted[2] if self._accepted is not None else None
        if link.owner is self or (request is not None and request.is_alive):
            if tell:
                link.shut()
            self._engine.settle()
            if link.owner is self or not tell:
                self._engine.doom(link, errno.ECANCELED, "the endpoint was closed")
                self._engine.settle()

    # --- addresses -------------------------------------------------------------------------------

    def insert(self, address: str) -> int:
        """Make an fi_addr of the `name` of a peer; the same one for the same peer."""
        self._check_unconnected()
        link = self._engine.link(self._engine.carrier.resolve(address))
        if link.address == ADDR_UNSPEC:
            link.address = self._next_address
            self._targets[link.address] = link
            self._next_address += 1
        return link.address

    def remove(self, address: int) -> None:
        """Forget an fi_addr; what is outstanding to it ends with ECANCELED."""
        link = self._target(address)
        reason = "the address was removed"
        del self._targets[address]
        link.address = ADDR_UNSPEC
        link.outgoing.give_up(errno.ECANCELED, reason)
        if self._inbox is not None:
            self._inbox.end_directed(link, errno.ECANCELED, reason)
        self._engine.settle()

    def address_of(self, address: int) -> str:
        """Return the name behind an fi_addr."""
        return self._engine.carrier.address_of(self._target(address).peer)

    def join(self, group: str) -> int:
        """Join a group and return its fi_addr; raises FabricError ENOTSUP without MULTICAST."""
        self._need(Capability.MULTICAST)
        carrier = self._engine.carrier
        assert isinstance(carrier, GroupCarrier)  # or the capability would not be there
        link = self._engine.link(carrier.join(group))
        if link.address == ADDR_UNSPEC:
            link.address = self._next_address
            self._targets[link.address] = link
            self._next_address += 1
            link.is_group = True
        return link.address

    def leave(self, address: int) -> None:
        """Leave a group; its fi_addr is gone."""
        link = self._target(address)
        carrier = self._engine.carrier
        if not link.is_group or not isinstance(carrier, GroupCarrier):
            raise FabricError(errno.EINVAL, f"fi_addr {address} is no group")
        carrier.leave(link.peer)
        del self._targets[address]
        link.address, link.is_group = ADDR_UNSPEC, False

    # --- connections -----------------------------------------------------------------------------

    def connect(self, address: str, parameter: bytes = b"") -> None:
        """Ask a listener for a connection; enables the endpoint if that was not done."""
        self._check_connected_kind()
        if self._accepted is not None:
            raise FabricError(
                FabricErrno.EOPBADSTATE, "this endpoint is for a request: call accept()"
            )
        parameter = check_parameter(parameter)
        if self._state is _State.NEW:
            self.enable()
        if self._state is not _State.ENABLED:
            raise FabricError(FabricErrno.EOPBADSTATE, f"the endpoint is {self._state.name}")
        link = self._link = self._engine.link(self._engine.carrier.resolve(address))
        link.inbox = self._inbox
        self._set_state(_State.CONNECTING)
        link.greet(parameter)
        self._engine.settle()

    def accept(self, parameter: bytes = b"") -> None:
        """Accept the request that this endpoint was made for."""
        self._check_connected_kind()
        if self._accepted is None or self._link is None:
            raise FabricError(errno.EINVAL, "this endpoint was not made for a request")
        parameter = check_parameter(parameter)
        if self._state is _State.NEW:
            self.enable()
        if self._state is not _State.ENABLED:
            raise FabricError(FabricErrno.EOPBADSTATE, f"the endpoint is {self._state.name}")
        if not self._accepted[2].is_alive:
            self._over(EventKind.ERROR, errno.ECONNRESET)
            return
        link = self._link
        link.owner, link.inbox = self, self._inbox
        self._set_state(_State.CONNECTED)
        self._events.push(Event(EventKind.CONNECTED, self))
        link.greet(parameter)
        link.open()
        self._engine.settle()

    def shutdown(self) -> None:
        """Tell the peer that this is the end; what is outstanding ends with ESHUTDOWN."""
        self._check_connected_kind()
        if self._state is not _State.CONNECTED or self._link is None:
            raise FabricError(FabricErrno.EOPBADSTATE, f"the endpoint is {self._state.name}")
        link = self._link
        link.outgoing.give_up(errno.ESHUTDOWN, "the connection was shut down")
        link.shut()
        self._over(EventKind.SHUTDOWN)
        self._engine.settle()

    @property
    def events(self) -> SoftwareEventQueue:
        """What happens to the connection."""
        return self._events

    def _over(self, kind: EventKind, err: int = 0, parameter: bytes = b"") -> None:
        """The connection is over, or never was."""
        self._set_state(_State.SHUT)
        self._events.push(Event(kind, self, parameter, err=err))
        if self._inbox is not None:
            self._inbox.end(errno.ECANCELED, "the connection is over")

    # --- what the engine says --------------------------------------------------------------------

    def link_up(self, link: Link) -> None:
        """There is a way to a peer: greet it, if operations can be posted already."""
        if self.attributes.type is EndpointType.RDM and self._state is _State.ENABLED:
            link.greet()

    def link_greeted(self, link: Link, endpoint_type: int, parameter: bytes) -> None:
        """A peer is there: messages may go."""
        if endpoint_type != self.attributes.type:
            link.refuse(errno.EPROTOTYPE)
        elif endpoint_type == EndpointType.RDM:
            if self._state is _State.ENABLED:
                link.greet()
                link.open()
        elif self._state is _State.CONNECTING and link is self._link:
            self._set_state(_State.CONNECTED)
            self._events.push(Event(EventKind.CONNECTED, self, parameter[:MAX_PARAMETER]))
            link.open()
        else:
            link.refuse(errno.ECONNREFUSED)

    def link_refused(self, link: Link, code: int, parameter: bytes) -> None:
        """The peer does not want to."""
        if link is self._link and self._state is _State.CONNECTING:
            self._over(EventKind.ERROR, errno.ECONNREFUSED, parameter[:MAX_PARAMETER])

    def link_shut(self, link: Link) -> None:
        """The peer has shut the connection down; the loss of the link follows."""

    def link_lost(self, link: Link, code: int, reason: str) -> None:
        """The connection is over; unconnected endpoints connect anew with the next send."""
        if self.attributes.type is not EndpointType.MSG or link is not self._link:
            return
        if self._accepted is not None:
            link.owner, link.inbox = self._engine.owner, None
        if self._state is _State.CONNECTING:
            self._over(EventKind.ERROR, code)
        elif self._state is _State.CONNECTED:
            self._over(EventKind.SHUTDOWN)

    # --- sends -----------------------------------------------------------------------------------

    def send(
        self,
        buffer: Buffer,
        dest: int = ADDR_UNSPEC,
        *,
        desc: object = None,
        context: object = None,
    ) -> None:
        """Send one message. See the contract."""
        self._send((buffer,), dest, context, self._plain, _SEND_MSG, 0, None)

    def sendv(
        self,
        buffers: Sequence[Buffer],
        dest: int = ADDR_UNSPEC,
        *,
        desc: Sequence[object] | None = None,
        context: object = None,
    ) -> None:
        """Gather buffers into one message."""
        self._send(buffers, dest, context, self._plain, _SEND_MSG, 0, None)

    def sendmsg(self, message: Message, flags: Flag = NO_FLAGS) -> None:
        """Send with flags, which replace the endpoint's own."""
        if type(flags) is not Flag:
            flags = _as_flags(flags)
        policy = self._policies.get(flags._value_) or self._checked_policy(flags)
        self._send(
            message.buffers,
            message.address,
            message.context,
            policy,
            _SEND_GROUP if policy.is_multicast else _SEND_MSG,
            0,
            message.data if policy.has_data else None,
        )

    def inject(self, buffer: Buffer, dest: int = ADDR_UNSPEC) -> None:
        """Send at most `inject_size` bytes: the buffer is free at return, success is silent."""
        self._send((buffer,), dest, None, self._silent, _SEND_MSG, 0, None)

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
        self._send((buffer,), dest, context, self._plain, _SEND_MSG, 0, data)

    def injectdata(self, buffer: Buffer, data: int, dest: int = ADDR_UNSPEC) -> None:
        """Inject with a number."""
        self._send((buffer,), dest, None, self._silent, _SEND_MSG, 0, data)

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
        self._send((buffer,), dest, context, self._plain, _SEND_TAGGED, tag, None)

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
        self._send(buffers, dest, context, self._plain, _SEND_TAGGED, tag, None)

    def tsendmsg(self, message: Message, flags: Flag = NO_FLAGS) -> None:
        """Send a tagged message with flags, which replace the endpoint's own."""
        if type(flags) is not Flag:
            flags = _as_flags(flags)
        policy = self._policies.get(flags._value_) or self._checked_policy(flags)
        self._send(
            message.buffers,
            message.address,
            message.context,
            policy,
            _SEND_TAGGED,
            message.tag,
            message.data if policy.has_data else None,
        )

    def tinject(self, buffer: Buffer, tag: int, dest: int = ADDR_UNSPEC) -> None:
        """Inject a tagged message."""
        self._send((buffer,), dest, None, self._silent, _SEND_TAGGED, tag, None)

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
        self._send((buffer,), dest, context, self._plain, _SEND_TAGGED, tag, data)

    def tinjectdata(self, buffer: Buffer, data: int, tag: int, dest: int = ADDR_UNSPEC) -> None:
        """Inject a tagged message with a number."""
        self._send((buffer,), dest, None, self._silent, _SEND_TAGGED, tag, data)

    def _send(
        self,
        buffers: Sequence[Buffer],
        dest: int,
        context: object,
        policy: _Policy,
        entry_flags: int,
        tag: int,
        data: int | None,
    ) -> None:
        engine, outbox = self._engine, self._outbox
        try:
            link = self._route if self._route is not None else self._routes.get(dest)
            if link is None or outbox is None or not entry_flags & self._kinds:
                raise self._no_way(dest, entry_flags)
            if (
                tag
                or type(tag) is not int
                or data is not None
                or link.is_group
                or policy.is_multicast
            ):
                _check_send(link, policy, tag, data)
            length = 0
            for buffer in buffers:
                length += len(buffer) if type(buffer) is bytes else _byte_count(buffer)
            if len(buffers) > 1:
                self._check_count(buffers)
            if self._prefix:
                buffers = self._without_prefix(buffers)
                length -= self._prefix
            if length > (self._inject_size if policy.is_injected else self._max_size):
                raise self._too_long(length, policy)
            if outbox.used >= outbox.size or outbox.cq.free <= 0:
                raise outbox.full()
        except FabricError:
            if engine.dirty:  # what was posted with MORE waits for nothing
                engine.settle()
            raise
        outbox.used += 1
        outbox.cq.free -= 1
        if policy.is_injected and (len(buffers) != 1 or type(buffers[0]) is not bytes):
            buffers = (b"".join(buffers),)
        operation = SendOperation(
            outbox,
            link.outgoing,
            buffers,
            length,
            context,
            entry_flags,
            policy.level,
            policy.is_silent,
            policy.is_fenced,
            tag,
            data,
        )
        link.outgoing.post(operation, is_delayed=policy.is_delayed)
        if engine.dirty and not policy.is_delayed:
            engine.settle()

    def _no_way(self, dest: int, entry_flags: int) -> FabricError:
        """Return why nothing can be sent there."""
        state = self._state
        is_ready = _State.CONNECTED if self._is_connected_kind else _State.ENABLED
        if state is not is_ready:
            return FabricError(
                FabricErrno.EOPBADSTATE,
                f"the endpoint is {state.name}; enable it, and connect a connected one",
            )
        for capability in (
            Capability.SEND,
            Capability.TAGGED if entry_flags & TAGGED else Capability.MSG,
        ):
            if capability not in self.attributes.capabilities:
                return _missing(capability)
        return _unknown_address(dest)

    def _too_long(self, length: int, policy: _Policy) -> FabricError:
        kind, limit = "a message", self._max_size
        if policy.is_injected:
            kind, limit = "an injected message", self._inject_size
        return FabricError(errno.EMSGSIZE, f"{kind} of {length} bytes; at most {limit} go")

    def _check_count(self, buffers: Sequence[Buffer]) -> None:
        limit = self.attributes.iov_limit
        if len(buffers) > limit:
            raise FabricError(errno.EINVAL, f"{len(buffers)} buffers; iov_limit is {limit}")

    # --- receives --------------------------------------------------------------------------------

    def recv(
        self, buffer: Buffer, src: int = ADDR_UNSPEC, *, desc: object = None, context: object = None
    ) -> None:
        """Queue a buffer. See the contract."""
        self._recv((buffer,), src, context, self._rx_flags, MSG, 0, 0)

    def recvv(
        self,
        buffers: Sequence[Buffer],
        src: int = ADDR_UNSPEC,
        *,
        desc: Sequence[object] | None = None,
        context: object = None,
    ) -> None:
        """Queue buffers that one message fills one after another."""
        self._recv(buffers, src, context, self._rx_flags, MSG, 0, 0)

    def recvmsg(self, message: Message, flags: Flag = NO_FLAGS) -> None:
        """Queue a receive with flags: MULTI_RECV, COMPLETION, MORE."""
        if type(flags) is not Flag:
            flags = _as_flags(flags)
        if flags:
            _check_flags(flags, _RECV_FLAGS, "recvmsg")
            if Flag.MULTI_RECV in flags:
                self._need(Capability.MULTI_RECV)
        self._recv(message.buffers, message.address, message.context, flags, MSG, 0, 0)

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
        self._recv((buffer,), src, context, self._rx_flags, TAGGED, tag, ignore)

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
        self._recv(buffers, src, context, self._rx_flags, TAGGED, tag, ignore)

    def trecvmsg(self, message: Message, flags: Flag = NO_FLAGS) -> None:
        """Queue a tagged receive with flags: also PEEK, CLAIM and DISCARD."""
        if type(flags) is not Flag:
            flags = _as_flags(flags)
        if flags:
            _check_flags(flags, _TRECV_FLAGS, "trecvmsg")
            meant = flags & (Flag.PEEK | Flag.CLAIM | Flag.DISCARD)
            if meant in (Flag.DISCARD, Flag.PEEK | Flag.CLAIM | Flag.DISCARD):
                raise FabricError(FabricErrno.EBADFLAGS, "DISCARD goes with either PEEK or CLAIM")
        self._recv(
            message.buffers,
            message.address,
            message.context,
            flags,
            TAGGED,
            message.tag,
            message.ignore,
        )

    def _recv(
        self,
        buffers: Sequence[Buffer],
        src: int,
        context: object,
        flags: Flag,
        kind: int,
        tag: int,
        ignore: int,
    ) -> None:
        inbox = self._inbox
        if inbox is None or not self._can_receive or not kind & self._kinds:
            raise self._no_receiving(kind)
        link = None
        if src != ADDR_UNSPEC and self._is_directed:
            link = self._target(src)
        number = flags._value_
        if tag or ignore or type(tag) is not int or type(ignore) is not int:
            _check_64_bits(tag, ignore)
        if number & _DISCARDS:
            buffers = ()
        if len(buffers) > 1:
            self._check_count(buffers)
        target: memoryview | Scatter
        try:
            if self._prefix and buffers and not number & _IS_MULTI:
                buffers = self._without_prefix(buffers)
            if len(buffers) == 1:
                target = byte_view(buffers[0])
                room = len(target)
                if target.readonly:
                    raise FabricError(errno.EINVAL, "the buffer is read-only: give a bytearray")
            else:
                target = Scatter(buffers)
                room = target.room
        except (ValueError, TypeError) as error:
            raise FabricError(errno.EINVAL, str(error)) from None
        receive = ReceiveOperation(
            target,
            room,
            context,
            kind,
            inbox.is_selective and not number & _COMPLETES,
            link,
            tag,
            ~ignore & _BITS_64,
        )
        if number & _SPECIAL:
            self._recv_specially(inbox, receive, number, buffers)
        elif inbox.is_ended and not inbox.has_match(receive):
            raise FabricError(FabricErrno.EOPBADSTATE, "the connection is over")
        else:
            inbox.take()
            inbox.post(receive)
        if self._engine.dirty:
            self._engine.settle()

    def _recv_specially(
        self, inbox: Inbox, receive: ReceiveOperation, number: int, buffers: Sequence[Buffer]
    ) -> None:
        """Post a multi-receive, a peek or a claim."""
        if number & _IS_MULTI:
            least = max(self._min_multi_recv, self._prefix + 1)
            if not isinstance(receive.target, memoryview) or receive.room < least:
                raise FabricError(
                    errno.EINVAL, f"a multi-receive buffer is one buffer of at least {least} bytes"
                )
            if inbox.is_ended:
                raise FabricError(FabricErrno.EOPBADSTATE, "the connection is over")
            receive.make_multi(receive.target)
            inbox.take()
            inbox.post(receive)
            return
        if number & _PEEKS and buffers:
            receive.region = byte_view(buffers[0])
        self._peek_or_claim(inbox, receive, number)

    def _no_receiving(self, kind: int) -> FabricError:
        """Return why no receive can be posted."""
        if not self._can_receive:
            return FabricError(
                FabricErrno.EOPBADSTATE, f"the endpoint is {self._state.name}; enable it first"
            )
        for capability in (
            Capability.RECV,
            Capability.TAGGED if kind == TAGGED else Capability.MSG,
        ):
            if capability not in self.attributes.capabilities:
                return _missing(capability)
        return FabricError(FabricErrno.ENOCQ, "no queue is bound for receives")

    def _peek_or_claim(self, inbox: Inbox, receive: ReceiveOperation, number: int) -> None:
        if number & _CLAIMS and receive.context is None:
            raise FabricError(errno.EINVAL, "CLAIM needs a context, by which it is known")
        if number & _PEEKS:
            inbox.peek(
                receive,
                is_claim=bool(number & _CLAIMS),
                is_discard=bool(number & _DISCARDS),
            )
        else:
            inbox.claim(receive, is_discard=bool(number & _DISCARDS))

    def cancel(self, context: object) -> bool:
        """End the oldest queued receive with this context; its entry says ECANCELED."""
        return self._inbox is not None and self._inbox.cancel(context)

    def progress(self) -> None:
        """Move what is under way, without reading a queue."""
        self._engine.progress()

    # ---------------------------------------------------------------------------------------------

    def _policy(self, flags: Flag) -> _Policy:
        """Work out what the flags of a send mean."""
        number = int(flags)
        is_reliable = self.attributes.type is not EndpointType.DGRAM
        level = Level.TRANSMIT
        for bit, of_bit in _LEVELS:
            if number & bit:
                level = of_bit
                break
        is_selective = self._outbox is not None and self._outbox.is_selective
        return _Policy(
            level=int(level) if is_reliable else int(Level.INJECT),
            is_silent=is_selective and Flag.COMPLETION not in flags,
            is_injected=Flag.INJECT in flags,
            has_data=Flag.REMOTE_CQ_DATA in flags,
            is_delayed=Flag.MORE in flags,
            is_fenced=Flag.FENCE in flags,
            is_multicast=Flag.MULTICAST in flags,
        )

    def _checked_policy(self, flags: Flag) -> _Policy:
        """Return the policy of flags that have a meaning here."""
        _check_flags(flags, _SEND_FLAGS, "a send")
        if Flag.FENCE in flags:
            self._need(Capability.FENCE)
        if Flag.MULTICAST in flags:
            self._need(Capability.MULTICAST)
        if self.attributes.type is EndpointType.DGRAM and flags & (
            Flag.DELIVERY_COMPLETE | Flag.MATCH_COMPLETE
        ):
            raise FabricError(
                FabricErrno.EBADFLAGS, "nobody can tell whether a datagram was delivered"
            )
        policy = self._policies[int(flags)] = self._policy(flags)
        return policy

    def _without_prefix(self, buffers: Sequence[Buffer]) -> list[Buffer]:
        """Return the buffers without the space that the caller left free in front."""
        if not buffers or _byte_count(buffers[0]) < self._prefix:
            raise FabricError(
                errno.EINVAL, f"the first buffer must begin with {self._prefix} bytes of prefix"
            )
        return [byte_view(buffers[0])[self._prefix :], *buffers[1:]]

    def _target(self, address: int) -> Link:
        link = self._targets.get(address)
        if link is None:
            raise _unknown_address(address)
        return link

    def _set_state(self, state: _State) -> None:
        """Change the state, and what depends on it where every message passes."""
        self._state = state
        self._can_receive = state in _CAN_RECEIVE
        self._route = self._link if state is _State.CONNECTED else None
        is_ready = state is _State.ENABLED and not self._is_connected_kind
        self._routes = self._targets if is_ready else {}

    def _need(self, capability: Capability) -> None:
        if capability not in self.attributes.capabilities:
            raise _missing(capability)

    def _check_unconnected(self) -> None:
        if self.attributes.type is EndpointType.MSG:
            raise FabricError(errno.EINVAL, "a connected endpoint has one peer: call connect()")
        if self._state is _State.CLOSED:
            raise FabricError(FabricErrno.EOPBADSTATE, "the endpoint is closed")

    def _check_connected_kind(self) -> None:
        if self.attributes.type is not EndpointType.MSG:
            raise FabricError(errno.EINVAL, "an unconnected endpoint is not connected: insert()")


_CAN_RECEIVE = (_State.ENABLED, _State.CONNECTING, _State.CONNECTED, _State.SHUT)
_COMPLETES, _IS_MULTI = int(Flag.COMPLETION), int(Flag.MULTI_RECV)
_PEEKS, _CLAIMS, _DISCARDS = int(Flag.PEEK), int(Flag.CLAIM), int(Flag.DISCARD)
_SPECIAL = _IS_MULTI | _PEEKS | _CLAIMS


def listen_on(
    carrier: Carrier,
    *,
    options: EngineOptions | None = None,
    provider: str = "software",
    clock: Clock = SYSTEM_CLOCK,
) -> SoftwareListener:
    """Return a listener, which owns the carrier from now on."""

    def make(engine: Engine, link: Link, request: SoftwareConnectionRequest) -> SoftwareEndpoint:
        return SoftwareEndpoint(
            engine.carrier,
            EndpointType.MSG,
            options=engine.options,
            provider=provider,
            clock=clock,
            accepted=(engine, link, request),
        )

    return SoftwareListener(carrier, options or EngineOptions(), make, clock)


def _capabilities(
    endpoint_type: EndpointType, wanted: Capability | None, *, can_join: bool
) -> Capability:
    """Return the capabilities of an endpoint; raises FabricError ENOTSUP for what it has not."""
    possible = {
        EndpointType.RDM: RDM_CAPABILITIES,
        EndpointType.MSG: MSG_CAPABILITIES,
        EndpointType.DGRAM: DGRAM_CAPABILITIES | (Capability.MULTICAST if can_join else 0),
    }[endpoint_type]
    missing = (wanted or Capability(0)) & ~possible
    if missing:
        raise FabricError(errno.ENOTSUP, f"an endpoint of this kind has not {missing!r}")
    return possible if wanted is None else wanted


def _missing(capability: Capability) -> FabricError:
    return FabricError(errno.ENOTSUP, f"the endpoint has not the capability {capability.name}")


def _check_send(link: Link, policy: _Policy, tag: int, data: int | None) -> None:
    """Check what most sends do not have."""
    if link.is_group is not policy.is_multicast:
        raise FabricError(
            errno.EINVAL, "MULTICAST goes with the fi_addr of a group, and only with that"
        )
    _check_64_bits(tag, 0 if data is None else data)


def _check_64_bits(tag: int, other: int) -> None:
    try:
        if 0 <= index(tag) <= _BITS_64 and 0 <= index(other) <= _BITS_64:
            return
    except TypeError:
        pass
    raise FabricError(
        errno.EINVAL, f"tag {tag!r:.40}, data or ignore {other!r:.40}: 64 bits, unsigned"
    )


def _unknown_address(address: object) -> FabricError:
    shown = f"{address:#x}" if isinstance(address, int) else f"{address!r:.40}"
    return FabricError(errno.EINVAL, f"fi_addr {shown} is unknown: insert() makes them")


def _as_flags(flags: int) -> Flag:
    """Return flags that a program may have given as a number; raises FabricError EBADFLAGS."""
    try:
        if 0 <= flags <= _BITS_64:
            return Flag(flags)
    except TypeError:
        pass
    raise FabricError(FabricErrno.EBADFLAGS, f"{flags!r:.40}: give members of Flag")


def _check_flags(flags: Flag, known: Flag, call: str) -> None:
    unknown = int(flags) & ~int(known)
    if unknown:
        raise FabricError(FabricErrno.EBADFLAGS, f"{Flag(unknown)!r}: no meaning for {call}")


def _byte_count(buffer: Buffer) -> int:
    """Return the bytes of a buffer; raises FabricError EINVAL if they are not in one row."""
    try:
        return len(byte_view(buffer))
    except TypeError as error:
        raise FabricError(errno.EINVAL, f"a buffer that is not contiguous: {error}") from None
