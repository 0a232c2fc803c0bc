# SPDX-License-Identifier: Apache-2.0
"""What was posted: one record for each operation, from the call until it ends, and it ends once."""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum
from typing import TYPE_CHECKING, Final, Protocol

from i2o.transport.fabric.completion import Completion, CompletionError
from i2o.transport.fabric.flags import Flag
from i2o.transport.fabric.packets import Scatter

if TYPE_CHECKING:
    from i2o.transport.fabric.endpoint import Buffer
    from i2o.transport.fabric.outbox import Outbox

# enumerations are slow where every message passes
SEND, RECV, MSG, TAGGED = int(Flag.SEND), int(Flag.RECV), int(Flag.MSG), int(Flag.TAGGED)
MULTICAST, MULTI_RECV = int(Flag.MULTICAST), int(Flag.MULTI_RECV)
REMOTE_CQ_DATA = int(Flag.REMOTE_CQ_DATA)


def _all_combinations() -> dict[int, Flag]:
    """Return the flags of every entry there can be: making one from its number is slow."""
    found = {MULTI_RECV: Flag.MULTI_RECV}
    for side in (SEND, RECV):
        for kind in (MSG, TAGGED):
            for extra in (0, REMOTE_CQ_DATA):
                for release in (0, MULTI_RECV):
                    for group in (0, MULTICAST):
                        number = side | kind | extra | release | group
                        found[number] = Flag(number)
    return found


ENTRY_FLAGS: Final = _all_combinations()
_new_tuple = tuple.__new__


class SendQueue(Protocol):
    """Where sends of one peer are."""

    def ended(self, operation: SendOperation) -> None:
        """An operation has ended."""

    def frame_sent(self, operation: SendOperation) -> None:
        """The carrier gave the buffers of a frame back."""


class Source(Protocol):
    """Where messages come from, as their receiver sees it."""

    @property
    def address(self) -> int:
        """Its fi_addr, if it has one."""

    @property
    def incoming(self) -> SourceBooks:
        """Who keeps the books about its messages."""


class SourceBooks(Protocol):
    """What is to be told of a message."""

    def may_keep(self, arrival: Arrival) -> bool:
        """Whether a message that nobody asked for has a place here."""

    def kept(self, arrival: Arrival) -> None:
        """A message waits."""

    def freed(self, arrival: Arrival) -> None:
        """A message that was kept waits no longer."""

    def matched(self, arrival: Arrival) -> None:
        """A message, of which the sender wants to know, found its receive or is not wanted."""

    def accepted(self, receiver: Receiver, arrival: Arrival, receive: ReceiveOperation) -> None:
        """An announced message found its receive."""


class Receiver(Protocol):
    """Who is told how an announced message ended."""

    def finish(self, receive: ReceiveOperation, arrival: Arrival, stored: int) -> None:
        """It is in its buffer, as far as it found room."""

    def failed(
        self, receive: ReceiveOperation, arrival: Arrival, stored: int, code: int, reason: str
    ) -> None:
        """It will not be complete."""


class Level(IntEnum):
    """When a send is complete: FI_INJECT_COMPLETE and so on, weakest first."""

    INJECT = 0
    TRANSMIT = 1
    DELIVERY = 2
    MATCH = 3


class SendOperation:
    """A send.

    Args:
        outbox: of the endpoint that it was posted to.
        queue: where it goes.
        buffers: its bytes; the caller's own, or a copy.
        length: how many.
        context: what comes back.
        entry_flags: of its entry.
        level: when it is complete.
        is_silent: whether its success makes no entry.
        is_fenced: whether all earlier ones to that peer must be complete first.
        tag: of a tagged message.
        data: for the receiver's entry, or None.

    Attributes:
        message_id: within the link; 0 until it is sent.
        frames: frames whose buffers the carrier still has.
        awaits: what is missing: ARRIVAL, DONE, PIECES.
        offset: of an announced message: bytes that the carrier got.
        cleared: of an announced message: bytes that the receiver wants, or -1.
    """

    UNSENT: Final = 8
    """That it is sent at all."""
    PIECES: Final = 4
    """That the carrier takes the rest of it."""
    DONE: Final = 2
    """That the peer says that this very message is where it belongs."""
    ARRIVAL: Final = 1
    """That the peer says that it has arrived."""

    __slots__ = (
        "_failure",
        "awaits",
        "buffers",
        "cleared",
        "context",
        "data",
        "entry_flags",
        "frames",
        "has_ended",
        "is_fenced",
        "is_silent",
        "length",
        "level",
        "message_id",
        "offset",
        "outbox",
        "queue",
        "tag",
    )

    def __init__(
        self,
        outbox: Outbox,
        queue: SendQueue,
        buffers: Sequence[Buffer],
        length: int,
        context: object,
        entry_flags: int,
        level: int,
        is_silent: bool,
        is_fenced: bool,
        tag: int,
        data: int | None,
    ) -> None:
        self.outbox, self.queue, self.buffers, self.length = outbox, queue, buffers, length
        self.context, self.entry_flags, self.level = context, entry_flags, level
        self.is_silent, self.is_fenced, self.tag, self.data = is_silent, is_fenced, tag, data
        self.message_id = self.frames = self.offset = 0
        self.awaits, self.cleared = 8, -1
        self.has_ended = False
        self._failure: tuple[int, str] | None = None

    @property
    def has_failed(self) -> bool:
        """Whether it ends with an error as soon as the carrier gives its buffers back."""
        return self._failure is not None

    def met(self, what: int) -> None:
        """Something that it awaited has come."""
        self.awaits &= ~what
        if not self.awaits and not self.frames:
            self.end()

    def frame_sent(self) -> None:
        """The carrier gave the buffers of a frame back."""
        self.frames -= 1
        if not self.frames and (not self.awaits or self._failure is not None):
            self.end()

    def fail(self, code: int, reason: str) -> None:
        """It will not be; the entry waits until the carrier has let go of the buffers."""
        if self._failure is None:
            self._failure = code, reason
            if not self.frames:
                self.end()

    def drop(self, code: int, reason: str) -> None:
        """It will not be, and the carrier has let go of everything."""
        self.frames = 0
        if self._failure is None:
            self._failure = code, reason
        self.end()

    def finish(self) -> None:
        """Nothing more is known of it, and nothing more is wanted."""
        self.awaits = self.frames = 0
        self.end()

    def end(self) -> None:
        """Make the entry, or none; once, whoever calls how often."""
        if self.has_ended:
            return
        self.has_ended = True
        outbox, failure = self.outbox, self._failure
        outbox.used -= 1
        if failure is not None:
            code, reason = failure
            outbox.cq.push(
                CompletionError(
                    self.context, ENTRY_FLAGS[self.entry_flags], err=code, reason=reason
                )
            )
        elif self.is_silent:
            outbox.cq.release()
        else:
            outbox.cq.push(
                _new_tuple(
                    Completion,
                    (self.context, ENTRY_FLAGS[self.entry_flags], 0, None, 0, 0, outbox.no_source),
                )
            )
        self.queue.ended(self)


class Arrival:
    """A message at its receiver.

    Args:
        link: where it came from.
        message_id: within the link.
        flags: `MessageFlag`, as a number.
        length: its bytes.
        tag: of a tagged one.
        data: for the entry, if the flags say so.
        payload: its bytes, or None if they were only announced.
        life: which of the links with that peer it came over.

    Attributes:
        error: why it cannot be received any more, although somebody claimed it.
    """

    __slots__ = (
        "data",
        "error",
        "flags",
        "length",
        "life",
        "link",
        "message_id",
        "payload",
        "tag",
    )

    def __init__(
        self,
        link: Source,
        message_id: int,
        flags: int,
        length: int,
        tag: int,
        data: int,
        payload: memoryview | bytes | None,
        life: int,
    ) -> None:
        self.link, self.message_id, self.flags, self.length = link, message_id, flags, length
        self.tag, self.data, self.payload, self.life = tag, data, payload, life
        self.error: tuple[int, str] | None = None


class ReceiveOperation:
    """A posted receive.

    Args:
        target: where a message goes, behind the prefix: one buffer, or several.
        room: bytes of it.
        context: what comes back.
        kind: MSG or TAGGED.
        is_silent: whether success makes no entry.
        link: whose messages it takes, or None.
        tag: of a tagged one.
        care: bits of the tag that are compared.

    Attributes:
        region: of a multi-receive buffer or a part of one: all of it.
        parent: the multi-receive buffer that this one is a part of.
        used: of a multi-receive buffer: bytes that messages have.
        pending: of a multi-receive buffer: messages that are still coming in.
        is_exhausted: whether a multi-receive buffer takes no more.
        failure: how a multi-receive buffer ends that was cancelled.
        serial: when it was posted, compared with others.
    """

    __slots__ = (
        "care",
        "context",
        "failure",
        "is_exhausted",
        "is_silent",
        "kind",
        "link",
        "parent",
        "pending",
        "region",
        "room",
        "serial",
        "tag",
        "target",
        "used",
    )

    def __init__(
        self,
        target: memoryview | Scatter,
        room: int,
        context: object,
        kind: int,
        is_silent: bool,
        link: Source | None = None,
        tag: int = 0,
        care: int = 0,
    ) -> None:
        self.target, self.room, self.context = target, room, context
        self.kind, self.is_silent, self.link = kind, is_silent, link
        self.tag, self.care, self.serial = tag, care, 0
        self.region: memoryview | None = None
        self.parent: ReceiveOperation | None = None

    def make_multi(self, region: memoryview) -> None:
        """Let it take many messages."""
        self.region = region
        self.used = self.pending = 0
        self.is_exhausted = False
        self.failure: tuple[int, str] | None = None

    def write(self, data: bytes | memoryview) -> int:
        """Store what fits of a message; return how much that is."""
        target = self.target
        if type(target) is not memoryview:
            return target.write(0, data)
        stored = len(data)
        if stored > self.room:
            stored = self.room
            data = data[:stored]
        target[:stored] = data
        return stored

    def scatter(self) -> Scatter:
        """Return the target of a message that comes in pieces."""
        target = self.target
        return Scatter((target,)) if isinstance(target, memoryview) else target
