# SPDX-License-Identifier: Apache-2.0
"""Completion queues with a tap: where it is seen how the operations of a tapped endpoint end.

A tap gives the endpoint behind it an object of its own as the context of each operation. When that
comes back with a completion, it says what the completion belongs to, which is recorded, and the
program gets the context that it gave.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from time import time_ns
from typing import Any, Final, Protocol

from i2o.closing import Closing
from i2o.transport.capture.endpoint_recorder import EndpointRecorder
from i2o.transport.capture.message_record import Kind
from i2o.transport.fabric.completion import Completion, CompletionError
from i2o.transport.fabric.endpoint import Buffer, CompletionQueue
from i2o.transport.fabric.flags import ADDR_UNSPEC, Flag

logger = logging.getLogger(__name__)

_TAGGED, _DATA = Flag.TAGGED.value, Flag.REMOTE_CQ_DATA.value
_MULTI, _PEEK, _CLAIM = Flag.MULTI_RECV.value, Flag.PEEK.value, Flag.CLAIM.value
_DISCARD: Final = Flag.DISCARD.value
_SENT, _SEND_FAILED = Kind.SENT.value, Kind.SEND_FAILED.value
_RECEIVED, _RECEIVE_FAILED, _PEEKED = (
    Kind.RECEIVED.value,
    Kind.RECEIVE_FAILED.value,
    Kind.PEEKED.value,
)
_new: Final = tuple.__new__  # half the time of calling the class


class Tapped(Protocol):
    """What an operation must know of the tap that it went through."""

    recorder: EndpointRecorder

    def name_of(self, address: int) -> bytes:
        """Return the name behind an fi_addr, as it stands in a record; empty if unknown."""

    def claimed(self, receive: Receiving) -> None:
        """A message was found by PEEK|CLAIM with this context."""


class Sending:
    """A send: what the endpoint has as its context.

    Attributes:
        context: the program's.
        packet_id: of its records.
    """

    __slots__ = ("_tap", "_unwritten", "context", "is_known", "packet_id", "peer")

    def __init__(self, tap: Tapped, context: object) -> None:
        self._tap, self.context = tap, context
        self.is_known = False
        self.packet_id = 0
        self.peer = ADDR_UNSPEC
        self._unwritten: list[tuple[int, bytes, int]] = []

    def prepare(
        self,
        op_flags: int,
        buffers: Sequence[Buffer],
        peer: int,
        tag: int | None,
        cq_data: int | None,
    ) -> None:
        """Make the record of what is about to be sent, while the buffers have it."""
        recorder = self._tap.recorder
        at_ns = time_ns()
        if len(buffers) == 1:
            only = buffers[0]
            length = len(only)
            payload = bytes(only if length <= recorder.payload_bytes else _cut(only, recorder))
        else:
            length = sum(map(len, buffers))
            payload = gathered(buffers, recorder.payload_bytes)
        self.packet_id = recorder.next_id()
        self.peer = peer
        packet = recorder.pack(
            Kind.SEND.value,
            op_flags,
            tag,
            None,
            cq_data,
            peer,
            self._tap.name_of(peer),
            length,
            payload,
        )
        self._unwritten.append((at_ns, packet, length - len(payload)))
        self.is_known = True

    def posted(self) -> None:
        """Record the send, if that was not done yet: whoever comes first, poster or reader."""
        try:
            at_ns, packet, missing = self._unwritten.pop()
        except IndexError:
            return
        try:
            self._tap.recorder.put(at_ns, Kind.SEND.value, packet, missing, self.packet_id)
        except Exception:
            logger.warning("a send could not be captured", exc_info=True)

    def completed(self, at_ns: int, entry: Completion) -> None:
        """Record that it is done."""
        self.posted()
        self._ended(at_ns, _SENT, entry.flags)

    def failed(self, at_ns: int, entry: CompletionError) -> None:
        """Record that it failed."""
        self.posted()
        self._ended(at_ns, _SEND_FAILED, entry.flags, entry.err, entry.prov_errno, entry.reason)

    def _ended(
        self,
        at_ns: int,
        kind: int,
        flags: int,
        err: int = 0,
        prov_errno: int = 0,
        reason: str = "",
    ) -> None:
        if not self.is_known:
            return
        tap = self._tap
        name = tap.name_of(self.peer)
        packet = tap.recorder.pack(
            kind, flags, None, None, None, self.peer, name, 0, b"", err, prov_errno
        )
        tap.recorder.put(at_ns, kind, packet, 0, self.packet_id, reason)


class Receiving:
    """A receive: what the endpoint has as its context.

    Attributes:
        context: the program's.
        buffers: what a message is received into.
    """

    __slots__ = ("__weakref__", "_flags", "_ignore", "_prefix", "_tap", "buffers", "context")

    def __init__(
        self,
        tap: Tapped,
        context: object,
        buffers: Sequence[Buffer],
        *,
        flags: int = 0,
        ignore: int | None = None,
    ) -> None:
        self._tap, self.context = tap, context
        self.buffers, self._flags, self._ignore = buffers, flags, ignore

    def renew(self, buffers: Sequence[Buffer], flags: int) -> None:
        """Use it once more, for the CLAIM of what its PEEK found."""
        self.buffers, self._flags = buffers, flags

    def completed(self, at_ns: int, entry: Completion) -> None:
        """Record what was received."""
        own, flags = self._flags, entry.flags
        kind = _RECEIVED
        if own & _DISCARD:
            payload = b""
        elif own & _PEEK:
            kind, payload = _PEEKED, b""
            if own & _CLAIM:
                self._tap.claimed(self)
        else:
            if entry.buffer is None and own & _MULTI and not entry.length and flags & _MULTI:
                return  # the buffer comes back, and no message with it
            payload = self._content(entry.buffer, entry.length)
        self._record(at_ns, kind, entry, entry.length, payload)

    def failed(self, at_ns: int, entry: CompletionError) -> None:
        """Record that nothing was received, or not all of a message."""
        if self._flags & _PEEK:
            return  # there was no such message: polls come here again and again
        payload = self._content(entry.buffer, entry.length)
        self._record(
            at_ns,
            _RECEIVE_FAILED,
            entry,
            entry.length + entry.olen,
            payload,
            entry.err,
            entry.prov_errno,
            entry.reason,
        )

    def _content(self, buffer: memoryview | None, length: int) -> bytes:
        limit = min(length, self._tap.recorder.payload_bytes)
        return gathered(self.buffers if buffer is None else (buffer,), limit)

    def _record(
        self,
        at_ns: int,
        kind: int,
        entry: Completion | CompletionError,
        length: int,
        payload: bytes,
        err: int = 0,
        prov_errno: int = 0,
        reason: str = "",
    ) -> None:
        tap, flags, source = self._tap, int(entry.flags), entry.source
        recorder = tap.recorder
        is_tagged = flags & _TAGGED
        packet = recorder.pack(
            kind,
            flags | self._flags & (_PEEK | _CLAIM | _DISCARD),
            entry.tag if is_tagged else None,
            self._ignore if is_tagged else None,
            entry.data if flags & _DATA else None,
            source,
            tap.name_of(source),
            length,
            payload,
            err,
            prov_errno,
        )
        recorder.put(at_ns, kind, packet, length - len(payload), recorder.next_id(), reason)


_OURS: Final = (Sending, Receiving)


class TapCompletionQueue(Closing):
    """A `CompletionQueue` that another one stands behind.

    Args:
        inner: the one behind; closing this one closes it.

    Attributes:
        inner: the one behind.
    """

    def __init__(self, inner: CompletionQueue) -> None:
        self.inner, self.format = inner, inner.format
        self.signal, self.fileno = inner.signal, inner.fileno  # bound once

    def __getattr__(self, name: str) -> Any:
        if name == "inner":  # not made yet
            raise AttributeError(name)
        return getattr(self.inner, name)

    def read(self, count: int = 1) -> list[Completion]:
        """Return 1 to `count` entries, recorded; with count 0 only make progress."""
        return self._seen(self.inner.read(count))

    def sread(self, count: int = 1, timeout_s: float | None = None) -> list[Completion]:
        """As `read`, but wait for an entry."""
        return self._seen(self.inner.sread(count, timeout_s))

    def readerr(self) -> CompletionError:
        """Return the error that comes next, recorded."""
        entry = self.inner.readerr()
        context = entry.context
        if isinstance(context, _OURS):
            _look(context.failed, entry)
            entry = entry._replace(context=context.context)
        return entry

    def close(self) -> None:
        """Release the queue behind."""
        self.inner.close()

    @staticmethod
    def _seen(entries: list[Completion]) -> list[Completion]:
        for at, entry in enumerate(entries):
            context = entry[0]
            if isinstance(context, _OURS):
                _look(context.completed, entry)
                entries[at] = _new(Completion, (context.context, *entry[1:]))
        return entries


def gathered(buffers: Sequence[Buffer], limit: int) -> bytes:
    """Return the first bytes of what stands in buffers, one after another."""
    parts = []
    for buffer in buffers:
        if limit <= 0:
            break
        part = bytes(memoryview(buffer)[:limit])
        limit -= len(part)
        parts.append(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)


def _cut(buffer: Buffer, recorder: EndpointRecorder) -> memoryview:
    return memoryview(buffer)[: recorder.payload_bytes]


def _look(record: Callable[[int, Any], None], entry: Completion | CompletionError) -> None:
    """Record an entry; the traffic goes on whatever happens."""
    try:
        record(time_ns(), entry)
    except Exception:
        logger.warning("a completion could not be captured", exc_info=True)
