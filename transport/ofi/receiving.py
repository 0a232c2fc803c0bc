# SPDX-License-Identifier: Apache-2.0
"""The receiving half of an endpoint of libfabric."""

from __future__ import annotations

import errno
from collections.abc import Callable, Sequence
from typing import Any, Final

from i2o.transport.fabric.endpoint import NO_FLAGS, Buffer, Message
from i2o.transport.fabric.errors import FabricErrno, FabricError, TryAgain
from i2o.transport.fabric.flags import ADDR_UNSPEC, Bind, Capability, Flag
from i2o.transport.ofi.completion_queue import OfiCompletionQueue
from i2o.transport.ofi.half import EndpointHalf
from i2o.transport.ofi.operation import RECV_MSG, RECV_TAGGED, Operation

_COMPLETION: Final = int(Flag.COMPLETION)
_MULTI_RECV: Final = int(Flag.MULTI_RECV)
_PEEK: Final = int(Flag.PEEK)
_CLAIM: Final = int(Flag.CLAIM)
_DISCARD: Final = int(Flag.DISCARD)
_LOOKS: Final = _PEEK | _CLAIM | _DISCARD
_ALLOWED: Final = int(Flag.COMPLETION | Flag.MORE | Flag.MULTI_RECV)
_ALLOWED_TAGGED: Final = int(Flag.COMPLETION | Flag.MORE) | _LOOKS


class ReceivingHalf(EndpointHalf):
    """Receives and their tagged forms."""

    _rx: OfiCompletionQueue | None

    def _open_receiving(self) -> None:
        attributes = self._selection.attributes
        self._post_recv, self._post_trecv = self._poster.recv, self._poster.trecv
        self._rx_open: OfiCompletionQueue | None = None  # while operations may be posted
        self._rx_wanted = True
        self._rx_most = attributes.rx_size
        self._claimed: list[Operation] = []
        self._is_directed = Capability.DIRECTED_RECV in attributes.capabilities

    # --- the calls -------------------------------------------------------------------------------

    def recv(
        self, buffer: Buffer, src: int = ADDR_UNSPEC, *, desc: object = None, context: object = None
    ) -> None:
        """Queue a buffer; `src` counts with DIRECTED_RECV."""
        if src != ADDR_UNSPEC or not self._post_recv(buffer, context):
            self._post_receive(False, (buffer,), src, context, 0)

    def recvv(
        self,
        buffers: Sequence[Buffer],
        src: int = ADDR_UNSPEC,
        *,
        desc: Sequence[object] | None = None,
        context: object = None,
    ) -> None:
        """Queue buffers that one message fills one after another."""
        self._post_receive(False, buffers, src, context, 0)

    def recvmsg(self, message: Message, flags: Flag = NO_FLAGS) -> None:
        """Queue a receive with flags: MULTI_RECV, COMPLETION, MORE."""
        number = self._checked(int(flags), _ALLOWED)
        if number & _MULTI_RECV and Capability.MULTI_RECV not in (
            self._selection.attributes.capabilities
        ):
            raise self._lacks(Capability.MULTI_RECV)
        self._post_receive(False, message.buffers, message.address, message.context, number)

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
        if src != ADDR_UNSPEC or not self._post_trecv(buffer, tag, ignore, context):
            self._post_receive(True, (buffer,), src, context, 0, tag, ignore)

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
        self._post_receive(True, buffers, src, context, 0, tag, ignore)

    def trecvmsg(self, message: Message, flags: Flag = NO_FLAGS) -> None:
        """Queue a tagged receive with flags: also PEEK, CLAIM and DISCARD."""
        number = self._checked(int(flags), _ALLOWED_TAGGED)
        if number & _LOOKS:
            self._look(message, number)
            return
        self._post_receive(
            True,
            message.buffers,
            message.address,
            message.context,
            number,
            message.tag,
            message.ignore,
        )

    def cancel(self, context: object) -> bool:
        """End the oldest queued receive with this context; its entry says ECANCELED."""
        queue = self._rx
        if queue is None:
            return False
        candidates = [
            operation
            for operation in queue.operations.of(self._poster)
            if operation.tally is None
            and not operation.claims
            and (operation.context is context or operation.context == context)
        ]
        if not candidates:
            return False
        if not self._selection.provider.cancels:
            raise FabricError(
                errno.ENOTSUP,
                f"provider {self._selection.provider.name} cannot take a receive back",
            )
        oldest = min(candidates, key=lambda operation: operation.order)
        return bool(self._lib.fi_cancel(self._fid, self._place_of(oldest)) == 0)

    # --- posting ---------------------------------------------------------------------------------

    def _post_receive(
        self,
        is_tagged: bool,
        buffers: Sequence[Buffer],
        src: int,
        context: object,
        flags: int,
        tag: int = 0,
        ignore: int = 0,
    ) -> None:
        """Post any kind of receive but the plainest."""
        queue = self._ready_for(is_tagged, src)
        self._check_tag(tag, ignore)
        if ignore and not self._selection.provider.masks_tags:
            name = self._selection.provider.name
            raise FabricError(errno.ENOTSUP, f"provider {name} compares tags as a whole only")
        views, vector, count = self._areas(buffers)
        size = sum(map(len, views))
        operation = queue.operations.take(self._poster)
        operation.flags = RECV_TAGGED if is_tagged else RECV_MSG
        operation.context = context
        operation.is_wanted = self._rx_wanted or bool(flags & _COMPLETION)
        operation.limit = size
        if flags & _MULTI_RECV:
            if len(buffers) != 1:
                queue.operations.give_back(operation)
                raise FabricError(errno.EINVAL, "MULTI_RECV takes one buffer")
            operation.area = memoryview(buffers[0]).cast("B")
            operation.start = int(self._ffi.cast("uintptr_t", views[0]))
            count = 1  # the spare buffer would be filled like the other
            operation.is_special = True
        self._call(queue, operation, (views, vector), count, src, tag, ignore, flags & _MULTI_RECV)
        self._poster.posted += 1

    def _look(self, message: Message, flags: int) -> None:
        """PEEK at a message, or CLAIM or DISCARD one that was peeked at."""
        self._check_tag(message.tag, message.ignore)
        provider = self._selection.provider
        if not provider.peeks:
            raise FabricError(
                errno.ENOTSUP, f"provider {provider.name} would take the message: it cannot PEEK"
            )
        if flags & _PEEK:
            if flags & _CLAIM and flags & _DISCARD:
                raise FabricError(FabricErrno.EBADFLAGS, "CLAIM or DISCARD, not both")
            queue = self._ready_for(True, message.address)
            operation = queue.operations.take(self._poster)
            operation.flags = RECV_TAGGED
            operation.context = message.context
            operation.is_peek = True
            operation.claims = bool(flags & _CLAIM)
            operation.is_special = True
        elif flags & _CLAIM:
            queue = self._ready_for(True, message.address)
            operation = self._claim(message.context)
        else:
            raise FabricError(FabricErrno.EBADFLAGS, "DISCARD goes with PEEK or CLAIM")
        held: tuple[Any, Any] = ((), self._null)
        count = 0
        if not flags & (_PEEK | _DISCARD):
            try:
                *held, count = self._areas(message.buffers)  # type: ignore[assignment]
            except FabricError:
                operation.is_peek = operation.claims = True
                self._claimed.append(operation)
                raise
        operation.is_wanted = True
        operation.limit = sum(map(len, held[0])) if count else -1
        self._call(
            queue,
            operation,
            held,
            count,
            message.address,
            message.tag,
            message.ignore,
            flags & _LOOKS,
        )
        self._poster.posted += 1

    def _claim(self, context: object) -> Operation:
        """Return the PEEK|CLAIM with this context, which is used up."""
        for place, operation in enumerate(self._claimed):
            if operation.context is context or operation.context == context:
                del self._claimed[place]
                operation.is_peek = operation.claims = False
                return operation
        raise FabricError(errno.EINVAL, "nothing was claimed with this context: PEEK|CLAIM first")

    def _call(
        self,
        queue: OfiCompletionQueue,
        operation: Operation,
        held: tuple[Any, Any],
        count: int,
        src: int,
        tag: int,
        ignore: int,
        flags: int,
    ) -> None:
        is_tagged = operation.flags is RECV_TAGGED
        message = self._ffi.new("struct fi_msg_tagged *" if is_tagged else "struct fi_msg *")
        message.msg_iov = held[1]
        message.iov_count = count
        message.addr = src if self._is_directed else ADDR_UNSPEC
        message.context = self._place_of(operation)
        if is_tagged:
            message.tag, message.ignore = tag, ignore
        operation.held = (*held, message)
        post: Callable[..., int] = self._lib.fi_trecvmsg if is_tagged else self._lib.fi_recvmsg
        code = post(self._ep, message, flags)
        if code:
            raise self._refused(queue, operation, code)

    def _ready_for(self, is_tagged: bool, src: int) -> OfiCompletionQueue:
        """Return the queue of a receive that may be posted now."""
        queue = self._rx_open
        if queue is None:
            raise self._not_ready()
        if is_tagged and not self._is_tagged:
            raise self._lacks(Capability.TAGGED)
        if src != ADDR_UNSPEC and self._is_directed:
            self._peer_of(src)
        if self.posted >= self._rx_most:
            raise TryAgain(f"{self.posted} receives are posted, which is the limit")
        return queue

    def _areas(self, buffers: Sequence[Buffer]) -> tuple[tuple[Any, ...], Any, int]:
        """Return what keeps the buffers, an iovec of them and of the spare one, and how many."""
        limit = self._selection.attributes.iov_limit
        if len(buffers) > limit:
            raise FabricError(errno.EINVAL, f"{len(buffers)} buffers are more than {limit}")
        views = tuple(self._area(buffer) for buffer in buffers)
        parts = (*views, self._spare)
        vector = self._ffi.new(
            "struct iovec[]", [(self._ffi.cast("void *", view), len(view)) for view in parts]
        )
        return views, vector, len(parts)

    def _area(self, buffer: Buffer) -> Any:
        try:
            return self._from_buffer(self._bytes_type, buffer, True)
        except (TypeError, BufferError, ValueError) as error:
            raise FabricError(errno.EINVAL, f"no buffer to receive into: {error}") from None

    def _checked(self, flags: int, allowed: int) -> int:
        if flags & ~allowed:
            raise FabricError(
                FabricErrno.EBADFLAGS, f"{Flag(flags & ~allowed)!r} means nothing for a receive"
            )
        return flags

    def _refused(self, queue: OfiCompletionQueue, operation: Operation, code: int) -> FabricError:
        queue.operations.give_back(operation)
        if code in (-errno.EAGAIN, -errno.ENOMEM):
            return TryAgain("libfabric has no room for a receive")
        return FabricError(-code, "libfabric refused a receive")

    # --- endings ---------------------------------------------------------------------------------

    def received(self, operation: Operation) -> None:
        """A receive or a peek succeeded."""
        self._poster.posted -= 1
        if operation.claims:
            self._claimed.append(operation)  # its place is what the CLAIM must name
            return
        assert self._rx is not None
        self._rx.operations.give_back(operation)

    def _bind_receiving(self, queue: OfiCompletionQueue, flags: Bind) -> None:
        self._rx = queue
        self._rx_wanted = Bind.SELECTIVE_COMPLETION not in flags
        self._poster.bind(queue.operations, False, self._rx_wanted)
