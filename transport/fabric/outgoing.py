# SPDX-License-Identifier: Apache-2.0
"""The sending half of a link: order, credit, fences, announced messages, and what awaits the peer.

A message that is short travels behind its header, if the peer has promised to keep it: its limits
count messages and bytes from the start of the link. A longer one is announced, and its bytes go as
pieces when the peer has matched it, straight into the buffer that waits there.
"""

from __future__ import annotations

import errno
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Final

from i2o.errors import RemoteFrameError
from i2o.transport.fabric.frames import (
    ABORT,
    MESSAGE_FORMAT,
    MODULUS,
    PIECE_FORMAT,
    FrameKind,
    MessageFlag,
)
from i2o.transport.fabric.link_parts import SendingLink
from i2o.transport.fabric.operations import MULTICAST, TAGGED, Level, SendOperation
from i2o.transport.fabric.packets import Gather

if TYPE_CHECKING:
    from i2o.transport.fabric.endpoint import Buffer

_pack_message, _pack_piece = MESSAGE_FORMAT.pack, PIECE_FORMAT.pack
_COPIED: Final = 4096  # shorter messages are copied behind their header: cheaper than two parts
_MASK: Final = MODULUS - 1
_HALF: Final = MODULUS >> 1
# enumerations are slow where every message passes
_MESSAGE, _PIECE = int(FrameKind.MESSAGE), int(FrameKind.PIECE)
_TAGGED, _DATA, _ACK_NOW = (
    int(MessageFlag.TAGGED),
    int(MessageFlag.DATA),
    int(MessageFlag.ACK_NOW),
)
_TELL_MATCH, _ANNOUNCED = int(MessageFlag.TELL_MATCH), int(MessageFlag.ANNOUNCED)
_FENCED, _MULTICAST = int(MessageFlag.FENCED), int(MessageFlag.MULTICAST)
_TRANSMIT, _MATCH = int(Level.TRANSMIT), int(Level.MATCH)
_ARRIVAL, _DONE = SendOperation.ARRIVAL, SendOperation.DONE
_PIECES = SendOperation.PIECES


class Outgoing:
    """What goes to one peer.

    Args:
        link: the link.
        send: the carrier's.
        eager_limit: bytes of the largest message that is not announced.
        piece_size: bytes of the largest piece.
        is_reliable: whether the peer acknowledges and gives credit, or nobody does.

    Attributes:
        queue: operations that are not sent yet.
        seen: what the peer said last: messages that arrived, and the limits.
    """

    __slots__ = (
        "_announced",
        "_byte_limit",
        "_bytes",
        "_eager_limit",
        "_has_asked",
        "_held_by_carrier",
        "_is_reliable",
        "_last_id",
        "_link",
        "_message_limit",
        "_own_eager_limit",
        "_peer",
        "_piece_size",
        "_pieces",
        "_send",
        "_unacknowledged",
        "_unfinished",
        "_untold",
        "queue",
        "seen",
    )

    def __init__(
        self,
        link: SendingLink,
        send: Callable[[int, Sequence[Buffer], object], bool],
        *,
        eager_limit: int,
        piece_size: int,
        is_reliable: bool,
    ) -> None:
        self._link, self._send, self._is_reliable = link, send, is_reliable
        self._peer = link.peer
        self._own_eager_limit, self._piece_size = eager_limit, piece_size
        self.queue: deque[SendOperation] = deque()
        self._reset()

    def _reset(self) -> None:
        self._unacknowledged: deque[SendOperation] = deque()
        self._announced: dict[int, tuple[SendOperation, Gather]] = {}
        self._pieces: deque[tuple[SendOperation, Gather]] = deque()
        self._untold: dict[int, SendOperation] = {}
        self._held_by_carrier: set[SendOperation] = set()
        self._last_id = self._bytes = 0
        self._message_limit = self._byte_limit = 0
        self._has_asked = False
        self._eager_limit = self._own_eager_limit
        self._unfinished = 0
        self.seen = (0, 0, 0)

    # --- what the peer says ----------------------------------------------------------------------

    def opened(self, message_limit: int, byte_limit: int, eager_limit: int) -> None:
        """The peer's HELLO came: so much may be sent from the start."""
        self._message_limit, self._byte_limit = message_limit, byte_limit
        self._eager_limit = min(self._own_eager_limit, eager_limit)

    def acknowledged(self, arrived: int, message_limit: int, byte_limit: int) -> None:
        """The peer says what arrived, and how far to go.

        Args:
            arrived: messages, modulo 2^32.
            message_limit: messages in all that may be sent, modulo 2^32.
            byte_limit: bytes in all that may be sent, modulo 2^32.

        Raises:
            RemoteFrameError: it says that messages arrived that were not sent, or takes back what
                it had granted.
        """
        self.seen = arrived, message_limit, byte_limit
        waiting = self._unacknowledged
        count = (arrived - (self._last_id - len(waiting))) & _MASK
        if count:
            if count > len(waiting):
                raise RemoteFrameError(
                    f"{arrived} messages are said to have arrived; {self._last_id} were sent"
                )
            for _ in range(count):
                operation = waiting.popleft()
                if operation.awaits & _ARRIVAL:
                    operation.awaits &= ~_ARRIVAL
                    if not operation.awaits and not operation.frames:
                        operation.end()
        more = (message_limit - self._message_limit) & _MASK
        more_bytes = (byte_limit - self._byte_limit) & _MASK
        if more or more_bytes:
            if more >= _HALF or more_bytes >= _HALF:
                raise RemoteFrameError("a limit went back: what was granted stays granted")
            self._message_limit += more
            self._byte_limit += more_bytes
            if self.queue:
                self._link.mark()

    def cleared(self, message_id: int, length: int) -> None:
        """The peer has matched an announced message and wants so many bytes of it.

        Raises:
            RemoteFrameError: it was not announced, or is not as long.
        """
        entry = self._announced.get(message_id)
        if entry is None:
            self._check_known(message_id)
            return  # it was given up meanwhile
        operation, _ = entry
        if operation.cleared >= 0 or not 0 < length <= operation.length:
            raise RemoteFrameError(
                f"{length} bytes of message {message_id} are wanted; it has {operation.length}"
            )
        operation.cleared = length
        self._pieces.append(entry)
        self._link.mark()

    def done(self, message_id: int) -> None:
        """The peer says that a message is where it belongs, or nowhere if it wanted nothing.

        Raises:
            RemoteFrameError: it cannot be.
        """
        operation = self._untold.pop(message_id, None)
        if operation is None:
            entry = self._announced.pop(message_id, None)
            if entry is None:
                self._check_known(message_id)
                return
            operation = entry[0]
            if operation.offset < operation.cleared:
                raise RemoteFrameError(f"message {message_id} is not sent yet, but said to be done")
        operation.met(_DONE | _PIECES)

    def _check_known(self, message_id: int) -> None:
        if (self._last_id - message_id) & _MASK >= _HALF:
            raise RemoteFrameError(f"message {message_id} was not sent yet")

    # --- what the endpoint posts -----------------------------------------------------------------

    def post(self, operation: SendOperation, *, is_delayed: bool = False) -> None:
        """Send a message as soon as it may go.

        Args:
            operation: the record, for which places were taken.
            is_delayed: whether more will be posted at once, or `Link.mark` is called.
        """
        if (
            self.queue
            or is_delayed
            or operation.is_fenced
            or not self._link.is_open
            or not self._is_granted(operation.length)
        ):
            self.queue.append(operation)
            if is_delayed:
                self._link.mark()
            else:
                self._link.pump()
        elif not self._transmit(operation):
            self.queue.append(operation)

    def ended(self, operation: SendOperation) -> None:
        """An operation has ended: what is fenced by it may go."""
        if operation.message_id:
            self._unfinished -= 1
            if self.queue and not self._unfinished:
                self._link.mark()

    def give_up(self, code: int, reason: str) -> None:
        """End every operation with an error; announced messages are aborted, the link lives on."""
        doomed = [*self.queue, *self._all_sent()]
        for operation, _ in self._announced.values():
            self._link.control(
                ABORT.build(
                    kind=FrameKind.ABORT,
                    epoch=self._link.epoch,
                    message_id=operation.message_id & _MASK,
                    code=code,
                )
            )
        self._announced.clear()
        self._pieces.clear()
        self.queue.clear()
        self._untold.clear()
        for operation in doomed:
            operation.fail(code, reason)

    def lost(self, code: int, reason: str) -> None:
        """The link is lost: every operation ends with an error, and the carrier has none."""
        doomed = [*self._all_sent(), *self.queue]
        self.queue.clear()
        self._reset()
        for operation in doomed:
            # closing the endpoint does not undo what was injected and is on its way
            is_gone = code == errno.ECANCELED and operation.is_silent and not operation.level
            is_fine = is_gone and operation.message_id > 0
            operation.message_id = 0
            if is_fine:
                operation.finish()
            else:
                operation.drop(code, reason)

    def _all_sent(self) -> Iterator[SendOperation]:
        """Yield the operations that are sent, by message id; some may have ended."""
        found = {*self._unacknowledged, *self._untold.values(), *self._held_by_carrier}
        found.update(operation for operation, _ in self._announced.values())
        return iter(sorted(found, key=lambda operation: operation.message_id))

    # --- moving on -------------------------------------------------------------------------------

    def pump(self) -> bool:
        """Send what may go; return False if the carrier has no room."""
        queue = self.queue
        while queue:
            operation = queue[0]
            is_held = operation.is_fenced and self._unfinished
            if is_held or not self._is_granted(operation.length):
                if not self._has_asked:
                    self._has_asked = True
                    self._link.incoming.ask()
                break
            if not self._transmit(operation):
                return False
            queue.popleft()
        while self._pieces:
            if not self._send_piece():
                return False
        return True

    @property
    def is_idle(self) -> bool:
        """Whether there is nothing to send now."""
        return not self.queue and not self._pieces

    def frame_sent(self, operation: SendOperation) -> None:
        """The carrier gave the buffers of a frame back."""
        operation.frame_sent()
        if not operation.frames:
            self._held_by_carrier.discard(operation)

    def _is_granted(self, length: int) -> bool:
        """Whether the peer has room for a message."""
        return not self._is_reliable or (
            self._last_id < self._message_limit
            and (length > self._eager_limit or self._bytes + length <= self._byte_limit)
        )

    def _transmit(self, operation: SendOperation) -> bool:
        """Hand a message to the carrier; return False if that has no room."""
        link, length, level = self._link, operation.length, operation.level
        message_id = self._last_id + 1
        flags = _TAGGED if operation.entry_flags & TAGGED else 0
        data = operation.data
        if data is None:
            data = 0
        else:
            flags |= _DATA
        is_eager = length <= self._eager_limit
        awaits = 0
        if not self._is_reliable:
            if operation.entry_flags & MULTICAST:
                flags |= _MULTICAST
        elif is_eager:
            if level == _MATCH:
                awaits = _DONE
                flags |= _TELL_MATCH
                if operation.is_fenced:
                    flags |= _FENCED
            elif level:
                awaits = _ARRIVAL
                if not operation.is_silent or operation.outbox.is_short:
                    flags |= _ACK_NOW
            elif operation.is_silent:
                awaits = _ARRIVAL
                if operation.outbox.is_short:
                    flags |= _ACK_NOW
        else:
            flags |= _ANNOUNCED | _TELL_MATCH
            if level == _MATCH and operation.is_fenced:
                flags |= _FENCED
            awaits = _DONE if level or operation.is_silent else _PIECES
        incoming = link.incoming
        arrived, message_limit, byte_limit = incoming.tell()
        header = _pack_message(
            _MESSAGE,
            flags,
            link.epoch,
            message_id & _MASK,
            length,
            operation.tag,
            data,
            arrived & _MASK,
            message_limit & _MASK,
            byte_limit & _MASK,
            0,
        )
        if not is_eager:
            is_sent = self._send(self._peer, (header,), None)
        elif length <= _COPIED:
            is_sent = self._send(self._peer, (header, *operation.buffers), None)
        else:
            is_sent = self._lend((header, *operation.buffers), operation)
        if not is_sent:
            incoming.not_told()
            return False
        operation.message_id = self._last_id = message_id
        self._unfinished += 1
        self._has_asked = False
        if self._is_reliable:
            self._unacknowledged.append(operation)
            if not is_eager:
                self._announced[message_id & _MASK] = operation, Gather(operation.buffers)
            else:
                self._bytes += length
                if awaits == _DONE:
                    self._untold[message_id & _MASK] = operation
        operation.awaits = awaits
        if not awaits and not operation.frames:
            operation.end()
        return True

    def _lend(self, parts: Sequence[Buffer], operation: SendOperation) -> bool:
        """Let the carrier have buffers of an operation, until it says `frame_sent`."""
        operation.frames += 1  # first: it may say so at once
        self._held_by_carrier.add(operation)
        is_sent = self._send(self._peer, parts, operation)
        if not is_sent:
            operation.frames -= 1
        if not operation.frames:
            self._held_by_carrier.discard(operation)
        return is_sent

    def _send_piece(self) -> bool:
        """Hand the next piece of the oldest announced message to the carrier, then ask the next."""
        operation, gather = entry = self._pieces[0]
        offset = operation.offset
        size = min(self._piece_size, operation.cleared - offset)
        header = _pack_piece(_PIECE, 0, self._link.epoch, operation.message_id & _MASK, offset)
        if not self._lend((header, *gather.slice(offset, size)), operation):
            return False
        operation.offset += size
        self._pieces.popleft()
        if operation.offset < operation.cleared:
            self._pieces.append(entry)
        else:
            operation.met(_PIECES)
        return True
