# SPDX-License-Identifier: Apache-2.0
"""Operations that are under way: what libfabric must find in place until it is done with them.

Each has a `struct fi_context2` whose address libfabric gives back. It also keeps the memory of the
message alive. Both go back to the pool when the operation is over, and not before.
"""

from __future__ import annotations

from typing import Any, Final

from i2o.transport.fabric.flags import Flag
from i2o.transport.ofi.library import Library

RECV_MSG: Final = Flag.RECV | Flag.MSG
RECV_TAGGED: Final = Flag.RECV | Flag.TAGGED
_CHUNK: Final = 64
NOTHING: Final = Flag(0)


class Operation:
    """One operation, or a free place for one.

    Attributes:
        address: of its fi_context2; what completions name.
        pointer: the same for calls.
        owner: the endpoint that posted it; None if it is free.
        flags: SEND or RECV with MSG or TAGGED; what its completions say.
        context: the caller's.
        is_wanted: success makes an entry.
        held: what must stay alive: buffers, and arguments that libfabric may look at later.
        peer: to whom, of a send, a `Peer`; else None.
        order: counts up from operation to operation.
        limit: bytes that the caller's buffers take, of a receive; -1 if that does not count.
        is_special: one of the following was set.
        is_told: an entry was made already; only the memory must stay.
        area: the caller's multi-receive buffer, else None.
        start: its address.
        is_peek: it is PEEK.
        claims: it is PEEK|CLAIM: the message waits for its CLAIM.
    """

    __slots__ = (
        "address",
        "area",
        "claims",
        "context",
        "flags",
        "held",
        "is_peek",
        "is_special",
        "is_told",
        "is_wanted",
        "limit",
        "order",
        "owner",
        "peer",
        "pointer",
        "start",
    )

    def __init__(self, pointer: Any, address: int) -> None:
        self.pointer = pointer
        self.address = address
        self.order = 0
        self.clear()

    def clear(self) -> None:
        """Forget everything but the place."""
        self.owner: Any = None
        self.flags = NOTHING
        self.context: object = None
        self.is_wanted = True
        self.held: object = None
        self.peer: Any = None
        self.limit = -1
        self.is_special = False
        self.is_told = False
        self.area: memoryview | None = None
        self.start = 0
        self.is_peek = False
        self.claims = False


class OperationPool:
    """Places for operations whose completions come from one queue.

    It grows to the largest number that were ever under way at once. The endpoints bound that.
    """

    def __init__(self, library: Library) -> None:
        self._library = library
        self.free: list[Operation] = []
        self._contexts: list[Any] = []
        self._order = 0
        self.by_address: dict[int, Operation] = {}

    def take(self) -> Operation:
        """Return a free place."""
        if not self.free:
            self._grow()
        operation = self.free.pop()
        operation.order = self._order = self._order + 1
        return operation

    def give_back(self, operation: Operation) -> None:
        """Let go of the memory that the operation held, and use its place again."""
        if operation.is_special:
            operation.clear()
        else:  # the way of nearly all of them
            operation.owner = operation.context = operation.held = operation.peer = None
        self.free.append(operation)

    @property
    def is_idle(self) -> bool:
        """Whether nothing is under way."""
        return len(self.free) == len(self.by_address)

    def of(self, owner: object) -> list[Operation]:
        """Return the operations of an endpoint that are not over."""
        return [operation for operation in self.by_address.values() if operation.owner is owner]

    def _grow(self) -> None:
        ffi = self._library.ffi
        contexts = ffi.new("struct fi_context2[]", _CHUNK)
        self._contexts.append(contexts)
        for place in range(_CHUNK):
            pointer = ffi.addressof(contexts, place)
            address = int(ffi.cast("uintptr_t", pointer))
            operation = Operation(ffi.cast("void *", pointer), address)
            self.by_address[address] = operation
            self.free.append(operation)
