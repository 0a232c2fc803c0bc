# SPDX-License-Identifier: Apache-2.0
"""The sending half of an endpoint of libfabric.

What libfabric refuses for now waits in order, per peer, up to the number of sends that may be under
way at all; beyond that it is EAGAIN. So the first send to a new peer makes the connection, as
everywhere else, and a caller never has to repeat a call before `tx_size` sends are under way.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

from i2o.transport.fabric.endpoint import NO_FLAGS, Buffer, Message
from i2o.transport.fabric.errors import FabricErrno, FabricError, TryAgain
from i2o.transport.fabric.flags import ADDR_UNSPEC, Bind, Capability, EndpointType, Flag
from i2o.transport.ofi.completion_queue import OfiCompletionQueue
from i2o.transport.ofi.half import EndpointHalf
from i2o.transport.ofi.operation import SEND_MSG, SEND_TAGGED, Operation
from i2o.transport.ofi.peer import Deferred, Peer
from i2o.transport.ofi.segments import is_dead_segment

_LEVELS: Final = int(
    Flag.INJECT_COMPLETE | Flag.TRANSMIT_COMPLETE | Flag.DELIVERY_COMPLETE | Flag.MATCH_COMPLETE
)
_ALLOWED: Final = _LEVELS | int(
    Flag.COMPLETION | Flag.MORE | Flag.INJECT | Flag.REMOTE_CQ_DATA | Flag.FENCE | Flag.MULTICAST
)
_COMPLETION: Final = int(Flag.COMPLETION)
_INJECT: Final = int(Flag.INJECT)
_REMOTE_CQ_DATA: Final = int(Flag.REMOTE_CQ_DATA)
_FENCE: Final = int(Flag.FENCE)
_MULTICAST: Final = int(Flag.MULTICAST)
_LOST: Final = frozenset(
    {
        errno.ENOTCONN,
        errno.ECONNREFUSED,
        errno.ECONNRESET,
        errno.ECONNABORTED,
        errno.EHOSTUNREACH,
        errno.ENETUNREACH,
        errno.ETIMEDOUT,
        errno.EPIPE,
    }
)
"""What an unconnected endpoint is told of a peer that is not there: an entry, not a refusal."""


class SendingHalf(EndpointHalf):
    """Sends, injects and their tagged forms."""

    def _open_sending(self, connect_timeout_s: float) -> None:
        attributes = self._selection.attributes
        self._post_send, self._post_tsend = self._poster.send, self._poster.tsend
        self._most = attributes.max_msg_size
        self._window = attributes.tx_size
        self._connect_timeout_ns = round(connect_timeout_s * 1e9)
        self._tx: OfiCompletionQueue | None = None
        self._rx: OfiCompletionQueue | None = None
        self._tx_open: OfiCompletionQueue | None = None  # while operations may be posted
        self._tx_wanted = True
        self._stalled: set[Peer] = set()

    @property
    def has_waiting(self) -> bool:
        """Whether sends wait until libfabric takes them."""
        return bool(self._stalled)

    # --- the calls -------------------------------------------------------------------------------

    def send(
        self,
        buffer: Buffer,
        dest: int = ADDR_UNSPEC,
        *,
        desc: object = None,
        context: object = None,
    ) -> None:
        """Send one message; the buffer is the caller's again after the completion."""
        if not self._post_send(buffer, dest, context):
            self._post(False, (buffer,), dest, context, 0)

    def sendv(
        self,
        buffers: Sequence[Buffer],
        dest: int = ADDR_UNSPEC,
        *,
        desc: Sequence[object] | None = None,
        context: object = None,
    ) -> None:
        """Gather at most `iov_limit` buffers into one message."""
        self._post(False, buffers, dest, context, 0)

    def sendmsg(self, message: Message, flags: Flag = NO_FLAGS) -> None:
        """Send with flags, which replace the endpoint's own."""
        self._post_with(False, message, flags)

    def inject(self, buffer: Buffer, dest: int = ADDR_UNSPEC) -> None:
        """Send at most `inject_size` bytes: the buffer is free at return, success is silent."""
        self._post(False, (buffer,), dest, None, _INJECT, is_silent=True)

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
        self._post(False, (buffer,), dest, context, _REMOTE_CQ_DATA, data=data)

    def injectdata(self, buffer: Buffer, data: int, dest: int = ADDR_UNSPEC) -> None:
        """Inject with a number."""
        flags = _INJECT | _REMOTE_CQ_DATA
        self._post(False, (buffer,), dest, None, flags, data=data, is_silent=True)

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
        if not self._post_tsend(buffer, tag, dest, context):
            self._post(True, (buffer,), dest, context, 0, tag=tag)

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
        self._post(True, buffers, dest, context, 0, tag=tag)

    def tsendmsg(self, message: Message, flags: Flag = NO_FLAGS) -> None:
        """Send a tagged message with flags."""
        self._post_with(True, message, flags)

    def tinject(self, buffer: Buffer, tag: int, dest: int = ADDR_UNSPEC) -> None:
        """Inject a tagged message."""
        self._post(True, (buffer,), dest, None, _INJECT, tag=tag, is_silent=True)

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
        self._post(True, (buffer,), dest, context, _REMOTE_CQ_DATA, data=data, tag=tag)

    def tinjectdata(self, buffer: Buffer, data: int, tag: int, dest: int = ADDR_UNSPEC) -> None:
        """Inject a tagged message with a number."""
        flags = _INJECT | _REMOTE_CQ_DATA
        self._post(True, (buffer,), dest, None, flags, data=data, tag=tag, is_silent=True)

    # --- posting ---------------------------------------------------------------------------------

    def _post_with(self, is_tagged: bool, message: Message, flags: Flag) -> None:
        number = int(flags)
        if number & ~_ALLOWED:
            raise FabricError(
                FabricErrno.EBADFLAGS, f"{Flag(number & ~_ALLOWED)!r} means nothing for a send"
            )
        self._post(
            is_tagged,
            message.buffers,
            message.address,
            message.context,
            number,
            data=message.data,
            tag=message.tag,
        )

    def _post(
        self,
        is_tagged: bool,
        buffers: Sequence[Buffer],
        dest: int,
        context: object,
        flags: int,
        *,
        data: int = 0,
        tag: int = 0,
        is_silent: bool = False,
    ) -> None:
        """Post any kind of send but the plainest, as fi_sendmsg or fi_tsendmsg."""
        queue = self._tx_open
        if queue is None:
            raise self._not_ready()
        if is_tagged and not self._is_tagged:
            raise self._lacks(Capability.TAGGED)
        self._check_flags(flags, data)
        self._check_tag(tag)
        peer = self._peer_of(dest, flags)
        held, vector, count = self._gather(buffers, flags)
        if self.in_flight >= self._window:
            raise TryAgain(f"{self.in_flight} sends are under way, which is the limit")
        operation = queue.operations.take(self._poster, peer.tally)
        operation.flags = SEND_TAGGED if is_tagged else SEND_MSG
        operation.context = context
        operation.is_wanted = not is_silent and (self._tx_wanted or bool(flags & _COMPLETION))
        kind = "struct fi_msg_tagged *" if is_tagged else "struct fi_msg *"
        message = self._ffi.new(kind)
        message.msg_iov = vector
        message.iov_count = count
        message.addr = peer.address
        message.context = self._place_of(operation)
        message.data = data
        if is_tagged:
            message.tag = tag
        operation.held = (held, vector, message)
        call: Callable[..., int] = self._lib.fi_tsendmsg if is_tagged else self._lib.fi_sendmsg
        passed = flags & (_INJECT | _REMOTE_CQ_DATA | _MULTICAST)
        if not self._selection.provider.ignores_levels:
            passed |= flags & _LEVELS
        deferred = Deferred(operation, call, (self._ep, message, passed), bool(flags & _FENCE))
        self._defer(queue, peer, deferred)

    def _defer(self, queue: OfiCompletionQueue, peer: Peer, deferred: Deferred) -> None:
        """Give a send to libfabric or let it wait, and count it."""
        operation = deferred.operation
        code = peer.post(deferred)
        if code == 0:
            self._poster.in_flight += 1
            if peer.waiting:
                self._stalled.add(peer)
                for each in self._queues():
                    each.restless.add(self)
        elif -code in _LOST and self._selection.attributes.type is EndpointType.RDM:
            self._poster.in_flight += 1
            self._fail_send(operation, -code, f"{peer.name} is not reached")
        else:
            queue.operations.give_back(operation)
            raise FabricError(-code, f"libfabric refused a send to {peer.name}")

    def _check_flags(self, flags: int, data: int) -> None:
        selection = self._selection
        if flags & _REMOTE_CQ_DATA:
            size = selection.attributes.cq_data_size
            if size == 0:
                raise FabricError(
                    errno.ENOTSUP, f"provider {selection.provider.name} sends no data along"
                )
            if not 0 <= data < 1 << 8 * size:
                raise FabricError(errno.EINVAL, f"data {data:#x} does not fit {size} bytes")
        missing = flags & _LEVELS & ~int(selection.provider.levels)
        if missing:
            raise FabricError(
                errno.ENOTSUP,
                f"provider {selection.provider.name} cannot promise {Flag(missing)!r}",
            )
        if flags & _FENCE and Capability.FENCE not in selection.attributes.capabilities:
            raise self._lacks(Capability.FENCE)
        if flags & _MULTICAST and Capability.MULTICAST not in selection.attributes.capabilities:
            raise self._lacks(Capability.MULTICAST)

    def _gather(self, buffers: Sequence[Buffer], flags: int) -> tuple[tuple[Any, ...], Any, int]:
        """Return what keeps the buffers, their iovec, and how many they are."""
        attributes = self._selection.attributes
        if len(buffers) > attributes.iov_limit:
            raise FabricError(
                errno.EINVAL, f"{len(buffers)} buffers are more than {attributes.iov_limit}"
            )
        held: tuple[Any, ...] = tuple(self._view(buffer) for buffer in buffers)
        size = sum(map(len, held))
        limit = attributes.inject_size if flags & _INJECT else self._most
        if size > limit:
            raise self._too_long(size, limit)
        if flags & _INJECT:
            # the caller may change them at once, but the send may have to wait
            held = (self._from_buffer(b"".join(self._ffi.buffer(view)[:] for view in held)),)
        vector = self._ffi.new(
            "struct iovec[]", [(self._ffi.cast("void *", view), len(view)) for view in held]
        )
        return held, vector, len(held)

    def _view(self, buffer: Buffer) -> Any:
        try:
            return self._from_buffer(buffer)
        except (TypeError, BufferError, ValueError) as error:
            raise FabricError(errno.EINVAL, f"no buffer to send from: {error}") from None

    # --- going on --------------------------------------------------------------------------------

    def _advance_sends(self) -> None:
        """Give libfabric what waits."""
        for peer in tuple(self._stalled):
            for operation, code in peer.retry():
                self._fail_send(operation, code, f"{peer.name} is not reached")
            if not peer.waiting:
                peer.stuck_since_ns = 0
                self._let_go(peer)
            elif peer.tally.outstanding:
                peer.stuck_since_ns = 0
            else:
                self._look_after(peer)

    def _look_after(self, peer: Peer) -> None:
        """Give a peer up to which nothing goes although nothing is under way to it.

        Then it is not there: most providers never say so. With shared memory a peer may also just
        not look at its queue, so there it must be dead.
        """
        now = self._clock.monotonic_ns()
        if not peer.stuck_since_ns:
            peer.stuck_since_ns = now
            return
        if now - peer.stuck_since_ns < self._connect_timeout_ns:
            return
        if self._selection.provider.has_segments and not is_dead_segment(peer.name):
            peer.stuck_since_ns = now
            return
        self._give_up(peer, errno.EHOSTUNREACH, f"{peer.name} does not answer")

    def _give_up(self, peer: Peer, code: int, why: str) -> None:
        """End what waits for a peer."""
        for operation in peer.give_up():
            self._fail_send(operation, code, why)
        peer.stuck_since_ns = 0
        self._let_go(peer)

    def _let_go(self, peer: Peer) -> None:
        """Nothing waits for this peer any more."""
        self._stalled.discard(peer)
        if not self._stalled and not self._is_connected_type:
            for queue in self._queues():
                queue.restless.discard(self)

    def _queues(self) -> set[OfiCompletionQueue]:
        return {queue for queue in (self._tx, self._rx) if queue is not None}

    def _fail_send(self, operation: Operation, code: int, why: str) -> None:
        """End a send that libfabric does not have."""
        assert self._tx is not None
        self._poster.in_flight -= 1
        self._tx.fail(operation, code, why)

    def _tell_outstanding(self, operations: Iterable[Operation], code: int, why: str) -> None:
        """Say of sends that they failed; their memory stays until libfabric is done with it."""
        assert self._tx is not None
        for operation in operations:
            if not operation.is_told:
                self._tx.tell(operation, code, why)

    # --- refusals --------------------------------------------------------------------------------

    def _too_long(self, size: int, limit: int) -> FabricError:
        return FabricError(errno.EMSGSIZE, f"{size} bytes are more than {limit}")

    def _bind_sending(self, queue: OfiCompletionQueue, flags: Bind) -> None:
        self._tx = queue
        self._tx_wanted = Bind.SELECTIVE_COMPLETION not in flags
        self._poster.bind(queue.operations, True, self._tx_wanted)
