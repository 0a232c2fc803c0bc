# SPDX-License-Identifier: Apache-2.0
"""The receiving side of an endpoint: posted receives, messages that wait, and how they meet."""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import TYPE_CHECKING

from i2o.transport.fabric.completion import Completion, CompletionError
from i2o.transport.fabric.errors import FabricErrno, FabricError, TryAgain
from i2o.transport.fabric.flags import ADDR_UNSPEC
from i2o.transport.fabric.frames import MessageFlag
from i2o.transport.fabric.matching import Matcher
from i2o.transport.fabric.operations import (
    ENTRY_FLAGS,
    MSG,
    MULTI_RECV,
    MULTICAST,
    RECV,
    REMOTE_CQ_DATA,
    TAGGED,
    Arrival,
    ReceiveOperation,
    Source,
)

if TYPE_CHECKING:
    from i2o.transport.fabric.completion_queue import SoftwareCompletionQueue

_TAGGED, _DATA = int(MessageFlag.TAGGED), int(MessageFlag.DATA)
_MULTICAST, _TELL_MATCH = int(MessageFlag.MULTICAST), int(MessageFlag.TELL_MATCH)
_new_tuple = tuple.__new__


def _matches_message(receive: ReceiveOperation, arrival: Arrival) -> bool:
    """Whether a receive takes a message: its source is right."""
    return receive.link is None or receive.link is arrival.link


def _matches_tagged(receive: ReceiveOperation, arrival: Arrival) -> bool:
    """Whether a tagged receive takes a tagged message: source and compared bits are right."""
    return not (receive.tag ^ arrival.tag) & receive.care and (
        receive.link is None or receive.link is arrival.link
    )


def _stays(receive: ReceiveOperation) -> bool:
    """Whether a receive takes more than one message."""
    return receive.region is not None


class Inbox:
    """What an endpoint receives.

    Args:
        cq: where receives end.
        is_selective: whether only those with COMPLETION make an entry.
        size: receives that may be posted.
        min_multi_recv: room below which a multi-receive buffer is released.
        prefix: bytes that are left free in front of every message.
        has_source: whether entries name the sender.
        settle: sends what receiving has brought about; called when it was not the engine's doing.

    Attributes:
        used: receives that are posted.
        is_ended: whether nothing will come any more (a connection that is over).
        dropped: datagrams that nobody asked for and that found no place.
    """

    def __init__(
        self,
        cq: SoftwareCompletionQueue,
        *,
        is_selective: bool,
        size: int,
        min_multi_recv: int,
        prefix: int,
        has_source: bool,
        settle: Callable[[], None],
    ) -> None:
        self._settle = settle
        self.cq, self.is_selective, self._size = cq, is_selective, size
        self._minimum, self._prefix, self._has_source = min_multi_recv, prefix, has_source
        self._messages: Matcher[ReceiveOperation, Arrival] = Matcher(_matches_message, _stays)
        self._tagged: Matcher[ReceiveOperation, Arrival] = Matcher(_matches_tagged)
        self._claims: list[tuple[object, Arrival]] = []
        self._is_stalled = False
        self.used = self.dropped = self._serial = 0
        self.is_ended = False

    # --- what the endpoint posts -----------------------------------------------------------------

    def take(self) -> None:
        """Take a place for a receive and its entry; raises TryAgain if there is none."""
        if self.used >= self._size:
            raise TryAgain(f"{self.used} receives are posted, and no more are allowed")
        cq = self.cq
        if cq.free <= 0:
            raise TryAgain("the completion queue has no place for the entry of another receive")
        cq.free -= 1
        self.used += 1

    def post(self, receive: ReceiveOperation) -> None:
        """Queue a receive, or end it with a message that waits."""
        matcher = self._tagged if receive.kind == TAGGED else self._messages
        self._serial += 1
        receive.serial = self._serial
        if receive.kind == MSG and (receive.region is not None or self._is_stalled):
            matcher.enqueue(receive)
            self._rematch()
            return
        arrival = matcher.post(receive)
        if arrival is not None:
            self._unkeep(arrival)
            self._join(receive, arrival)

    def has_match(self, receive: ReceiveOperation) -> bool:
        """Whether a message waits that a receive would take."""
        matcher = self._tagged if receive.kind == TAGGED else self._messages
        return matcher.peek(receive) is not None

    def peek(
        self,
        probe: ReceiveOperation,
        *,
        is_claim: bool,
        is_discard: bool,
    ) -> None:
        """Tell of the oldest tagged message that waits and matches; see FI_PEEK in fi_tagged(3).

        Raises:
            TryAgain: the queue has no place.
            FabricError: EINVAL, the context has claimed another message already.
        """
        if is_claim and self._claimed(probe.context) is not None:
            raise FabricError(
                errno.EINVAL, f"context {probe.context!r} has claimed a message; receive that first"
            )
        self._take_entry()
        arrival = self._tagged.peek(probe)
        if arrival is None:
            self.cq.push(
                CompletionError(
                    probe.context,
                    ENTRY_FLAGS[RECV | TAGGED],
                    err=errno.ENOMSG,
                    reason="no message that matches has arrived",
                )
            )
            return
        buffer = None
        if is_discard:
            self._tagged.withdraw(arrival)
            self._discard(arrival)
        else:
            if is_claim:
                self._tagged.withdraw(arrival)
                self._claims.append((probe.context, arrival))
            if arrival.payload is not None and probe.room:
                probe.write(arrival.payload)
                buffer = probe.region
        self._succeed(probe, arrival, arrival.length, buffer, 0)

    def claim(self, receive: ReceiveOperation, *, is_discard: bool) -> None:
        """Receive the message that a peek with this context has claimed, or throw it away.

        Raises:
            TryAgain: the queue or the endpoint has no place.
            FabricError: EINVAL, there is none.
        """
        entry = self._claimed(receive.context)
        if entry is None:
            raise FabricError(
                errno.EINVAL,
                f"context {receive.context!r} has claimed no message; PEEK|CLAIM one first",
            )
        self.take()
        self._claims.remove(entry)
        arrival = entry[1]
        if arrival.error is not None:
            self._fail(receive, arrival, 0, *arrival.error)
        elif is_discard:
            self._discard(arrival)
            self.used -= 1
            self._succeed(receive, arrival, arrival.length, None, 0)
        else:
            self._unkeep(arrival)
            self._join(receive, arrival)

    def cancel(self, context: object) -> bool:
        """End the oldest receive with a context that has no message yet; return whether one was."""

        def is_meant(receive: ReceiveOperation) -> bool:
            return receive.context is context or receive.context == context

        found = [
            (receive.serial, matcher, receive)
            for matcher in (self._messages, self._tagged)
            if (receive := next(filter(is_meant, matcher.receives()), None)) is not None
        ]
        if not found:
            return False
        _, matcher, receive = min(found, key=lambda entry: entry[0])
        matcher.remove(receive)
        self._abandon(receive, errno.ECANCELED, "the receive was cancelled")
        return True

    def end_directed(self, link: Source, code: int, reason: str) -> None:
        """End the receives that wait for messages of one peer only."""
        self._end_receives(lambda receive: receive.link is link, code, reason)

    def end(self, code: int, reason: str) -> None:
        """End every receive; what waits already may still be received."""
        self.is_ended = True
        self._end_receives(lambda _: True, code, reason)

    def _end_receives(
        self, is_meant: Callable[[ReceiveOperation], bool], code: int, reason: str
    ) -> None:
        for matcher in (self._messages, self._tagged):
            while (receive := matcher.cancel(is_meant)) is not None:
                self._abandon(receive, code, reason)

    # --- what links bring ------------------------------------------------------------------------

    def arrived(self, arrival: Arrival) -> None:
        """A message came: receive it, or keep it until somebody wants it."""
        if arrival.flags & _TAGGED:
            receive = self._tagged.offer(arrival)
        elif self._is_stalled:
            receive = None  # those that came before have to be first
        else:
            receive = self._messages.offer(arrival)
            if receive is not None and receive.region is not None:
                if self.cq.free <= 0:
                    receive = None
                    self._stall()
                else:
                    self.cq.free -= 1
        if receive is not None:
            self._join(receive, arrival)
            return
        incoming = arrival.link.incoming
        if incoming.may_keep(arrival):
            if arrival.payload is not None:
                arrival.payload = bytes(arrival.payload)
            (self._tagged if arrival.flags & _TAGGED else self._messages).keep(arrival)
            incoming.kept(arrival)
        else:
            self.dropped += 1

    def finish(self, receive: ReceiveOperation, arrival: Arrival, stored: int) -> None:
        """A message is in its buffer, as far as it found room."""
        if receive.parent is None:
            self.used -= 1
        if stored < arrival.length:
            self._fail(
                receive,
                arrival,
                stored,
                FabricErrno.ETRUNC,
                f"the message has {arrival.length} bytes, the buffer took {stored}",
                is_counted=False,
            )
        elif receive.region is None:
            self._succeed(receive, arrival, stored, None, 0)
        else:
            release = self._part_ended(receive)
            self._succeed(
                receive, arrival, stored, receive.region[: stored + self._prefix], release
            )

    def failed(
        self, receive: ReceiveOperation, arrival: Arrival, stored: int, code: int, reason: str
    ) -> None:
        """A message that came half will not be complete."""
        self._fail(receive, arrival, stored, code, reason)

    def withdraw(self, link: Source, message_id: int, code: int, reason: str) -> None:
        """An announced message that waits will never come."""
        self._withdraw(
            lambda arrival: (
                arrival.link is link
                and arrival.payload is None
                and arrival.message_id == message_id
            ),
            code,
            reason,
        )

    def link_lost(self, link: Source, code: int, reason: str) -> None:
        """No announced message of a peer will ever come."""
        self._withdraw(
            lambda arrival: arrival.link is link and arrival.payload is None, code, reason
        )

    # ---------------------------------------------------------------------------------------------

    def _join(self, receive: ReceiveOperation, arrival: Arrival) -> None:
        """Put a message into a receive; places for both entries of a multi-receive are taken."""
        if receive.region is not None:
            receive = self._part_of(receive, receive.region, arrival.length)
        payload = arrival.payload
        if payload is not None:
            stored = receive.write(payload) if payload else 0
        elif receive.room:
            arrival.link.incoming.accepted(self, arrival, receive)
            return
        else:
            stored = 0
        if arrival.flags & _TELL_MATCH:
            arrival.link.incoming.matched(arrival)
        self.finish(receive, arrival, stored)

    def _part_of(
        self, multi: ReceiveOperation, region: memoryview, length: int
    ) -> ReceiveOperation:
        """Cut a message's place out of a multi-receive buffer, which may be exhausted then."""
        start, prefix = multi.used, self._prefix
        end = min(start + prefix + length, len(region))
        target = region[start + prefix : end]
        part = ReceiveOperation(target, len(target), multi.context, MSG, multi.is_silent)
        part.region, part.parent = region[start:end], multi
        multi.used = end
        multi.pending += 1
        if len(region) - end < max(self._minimum, prefix + 1):
            multi.is_exhausted = True
            self._messages.remove(multi)
        return part

    def _part_ended(self, receive: ReceiveOperation) -> int:
        """Count a message of a multi-receive buffer; return MULTI_RECV if that was its last one."""
        multi = receive.parent
        if multi is None:
            return 0
        multi.pending -= 1
        if not multi.is_exhausted or multi.pending:
            return 0
        self.used -= 1
        return MULTI_RECV

    def _release(self, receive: ReceiveOperation) -> None:
        """Make the entry that gives a multi-receive buffer back, as no other entry does."""
        multi = receive.parent
        if multi is not None and multi.failure is not None:
            code, reason = multi.failure
            self.cq.push(
                CompletionError(
                    multi.context, ENTRY_FLAGS[RECV | MSG | MULTI_RECV], err=code, reason=reason
                )
            )
        else:
            self.cq.push(Completion(receive.context, ENTRY_FLAGS[MULTI_RECV]))

    def _succeed(
        self,
        receive: ReceiveOperation,
        arrival: Arrival,
        stored: int,
        buffer: memoryview | None,
        release: int,
    ) -> None:
        cq = self.cq
        is_separate = release and (receive.is_silent or self._is_cancelled(receive))
        if receive.is_silent:
            cq.release()
        else:
            number = RECV | receive.kind
            data = 0
            if arrival.flags & _DATA:
                number |= REMOTE_CQ_DATA
                data = arrival.data
            if arrival.flags & _MULTICAST:
                number |= MULTICAST
            if release and not is_separate:
                number |= MULTI_RECV
                cq.release()
            cq.push(
                _new_tuple(
                    Completion,
                    (
                        receive.context,
                        ENTRY_FLAGS[number],
                        stored + self._prefix,
                        buffer,
                        data,
                        arrival.tag,
                        arrival.link.address if self._has_source else ADDR_UNSPEC,
                    ),
                )
            )
        if is_separate:
            self._release(receive)

    def _fail(
        self,
        receive: ReceiveOperation,
        arrival: Arrival,
        stored: int,
        code: int,
        reason: str,
        *,
        is_counted: bool = True,
    ) -> None:
        if is_counted and receive.parent is None:
            self.used -= 1
        release = self._part_ended(receive)
        is_separate = release and self._is_cancelled(receive)
        number = RECV | receive.kind
        if arrival.flags & _DATA:
            number |= REMOTE_CQ_DATA
        if release and not is_separate:
            number |= MULTI_RECV
            self.cq.release()
        self.cq.push(
            CompletionError(
                receive.context,
                ENTRY_FLAGS[number],
                stored + self._prefix if stored else 0,
                receive.region[: stored + self._prefix] if receive.region is not None else None,
                arrival.data,
                arrival.tag,
                arrival.length - stored if code == FabricErrno.ETRUNC else 0,
                code,
                reason=reason,
                source=arrival.link.address if self._has_source else ADDR_UNSPEC,
            )
        )
        if is_separate:
            self._release(receive)

    def _abandon(self, receive: ReceiveOperation, code: int, reason: str) -> None:
        """End a receive that does not wait in a matcher any more and has no message."""
        if (
            receive.region is not None and receive.pending
        ):  # the buffer goes back when the last message in it has ended
            receive.is_exhausted, receive.failure = True, (code, reason)
            return
        self.used -= 1
        release = MULTI_RECV if receive.region is not None else 0
        self.cq.push(
            CompletionError(
                receive.context,
                ENTRY_FLAGS[RECV | receive.kind | release],
                err=code,
                reason=reason,
            )
        )

    def _is_cancelled(self, receive: ReceiveOperation) -> bool:
        return receive.parent is not None and receive.parent.failure is not None

    def _unkeep(self, arrival: Arrival) -> None:
        arrival.link.incoming.freed(arrival)

    def _discard(self, arrival: Arrival) -> None:
        self._unkeep(arrival)
        if arrival.flags & _TELL_MATCH:
            arrival.link.incoming.matched(arrival)

    def _withdraw(self, is_meant: Callable[[Arrival], bool], code: int, reason: str) -> None:
        for matcher in (self._messages, self._tagged):
            for arrival in matcher.sweep(is_meant):
                self._unkeep(arrival)
        for _, arrival in self._claims:
            if arrival.error is None and is_meant(arrival):
                arrival.error = code, reason
                self._unkeep(arrival)

    def _claimed(self, context: object) -> tuple[object, Arrival] | None:
        for entry in self._claims:
            if entry[0] is context or entry[0] == context:
                return entry
        return None

    def _take_entry(self) -> None:
        if self.cq.free <= 0:
            raise TryAgain("the completion queue has no place for another entry")
        self.cq.free -= 1

    # --- multi-receive buffers without a place for an entry --------------------------------------

    def _stall(self) -> None:
        if not self._is_stalled:
            self._is_stalled = True
            self.cq.when_room(self._room_made)

    def _room_made(self) -> None:
        self._is_stalled = False
        self._rematch()
        self._settle()

    def _rematch(self) -> None:
        """Let messages that wait find receives, oldest first."""
        if self._is_stalled:
            return
        for arrival in list(self._messages.messages()):
            receive = self._messages.offer(arrival)
            if receive is None:
                continue
            if receive.region is not None:
                if self.cq.free <= 0:
                    self._stall()
                    return
                self.cq.free -= 1
            self._messages.withdraw(arrival)
            self._unkeep(arrival)
            self._join(receive, arrival)
