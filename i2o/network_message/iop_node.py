# SPDX-License-Identifier: Apache-2.0
"""The network messages of an IOP: a node whose processes are those of its hosts.

The buffer is in the IOP, as a device of this project's own (`i2o.frames.network_message`). An IOP
without it has no network messages, and opening them there is ENOTSUP.
"""

from __future__ import annotations

import errno
import threading
import time
from collections.abc import Callable
from typing import Final

from i2o.closing import Closing
from i2o.errors import RemoteFrameError
from i2o.frames.header import ReqStatus
from i2o.frames.layout import MessageLayout
from i2o.frames.network_message import (
    NETWORK_MESSAGE_COUNT,
    NETWORK_MESSAGE_LIST,
    NETWORK_MESSAGE_LOOK,
    NETWORK_MESSAGE_PROBE,
    NETWORK_MESSAGE_RECEIVE,
    NETWORK_MESSAGE_RECEIVED,
    NETWORK_MESSAGE_SEND,
    NETWORK_MESSAGE_SENT,
    NETWORK_MESSAGE_SWEEP,
    NETWORK_MESSAGE_WAITING,
    ORGANIZATION,
    NetworkMessageOptions,
    NetworkMessageStatus,
)
from i2o.frames.sgl import simple_sgl
from i2o.iop import Iop
from i2o.message_frames import ReplyFrame
from i2o.network_message.conversion import IS_BIG_ENDIAN
from i2o.network_message.descriptor import LOCAL, MAX_NUMBER, ORIGIN, PRIORITY
from i2o.network_message.errors import (
    BadDescriptor,
    BadNode,
    MessageTooLong,
    NetworkMessageError,
    NodeDied,
    NotAttached,
    Swept,
    TimedOut,
    WouldBlock,
)
from i2o.network_message.process import Process
from i2o.network_message.waits import RECEIVING, SENDING, Wait, WaitReport
from i2o.recovery import abort_of
from i2o.replies import describe, raise_for_status, status_of
from i2o.requester import Pending
from i2o.transport.fabric.mailbox import POUCH_SIZE, Letter, Listed, Want
from i2o.transport.host_memory import HostBuffer

_TRY: Final = NetworkMessageOptions.TRY.value
_TRANSFER: Final = NetworkMessageOptions.TRANSFER.value
_BIG_ENDIAN: Final = NetworkMessageOptions.BIG_ENDIAN.value
_ANY_SOURCE: Final = NetworkMessageOptions.ANY_SOURCE.value
_EVERY_EVENT: Final = NetworkMessageOptions.EVERY_EVENT.value
_LONG_S: Final = 3600.0
_ABORTED: Final = frozenset(status.value for status in ReqStatus if "ABORT" in status.name)
_MAX_LISTED: Final = 1024
_ERRORS: Final[dict[int, Callable[[str], NetworkMessageError]]] = {
    NetworkMessageStatus.WOULD_BLOCK.value: WouldBlock,
    NetworkMessageStatus.BAD_NODE.value: BadNode,
    NetworkMessageStatus.TOO_LONG.value: MessageTooLong,
    NetworkMessageStatus.SWEPT.value: Swept,
    NetworkMessageStatus.NO_SUCH_MESSAGE.value: BadDescriptor,
}


class IopNode(Closing):
    """The network messages of one IOP.

    Args:
        iop: the IOP; it stays the caller's.
        is_big_endian: in which order the data are; this machine's unless for a test.

    Raises:
        NetworkMessageError: ENOTSUP, the IOP has none.

    Attributes:
        number: the IOP's id.
        origin: the same: an IOP was started by nobody else.
        tid: TID of the device.
    """

    def __init__(self, iop: Iop, *, is_big_endian: bool = IS_BIG_ENDIAN) -> None:
        self._iop, self._requester, self._memory = iop, iop.requester, iop.memory
        found = next(
            (entry for entry in iop.devices if entry.organization_id == ORGANIZATION), None
        )
        if found is None:
            raise NetworkMessageError(
                errno.ENOTSUP,
                "this IOP has no network messages; a software one has them with "
                "network_messages=SIZE in its URI",
            )
        self.tid = found.tid
        self.number = self.origin = iop.status.iop_id
        self._order = _BIG_ENDIAN if is_big_endian else 0
        self._own_order = _BIG_ENDIAN if IS_BIG_ENDIAN else 0
        self._waits: list[Wait] = []
        self._lock = threading.Lock()
        self._closed = False

    def attach(self, name: str = "", *, priority: int = PRIORITY) -> Process:
        """Return a process of this node; see `Node.attach`."""
        self._check_open()
        return Process(self, name or f"process {threading.get_ident():#x}", priority=priority)

    # --- the calls of a process ------------------------------------------------------------------

    def send_now(self, *message: object) -> int:
        """Nothing is that simple here."""
        return -1

    def send(
        self,
        process: str,
        node: int,
        letter: Letter,
        *,
        no_buffer: bool,
        may_wait: bool,
        timeout_s: float | None,
    ) -> tuple[int, int | None]:
        """Send a message; see `Station.send`. That it goes unbuffered is in its flags."""
        self._check_open()
        body = letter.body
        assert body is not None
        number = self.number if node in (LOCAL, ORIGIN) else node
        if not 0 <= number <= MAX_NUMBER:
            raise BadNode(f"no node {node}: nodes have numbers from 0 to {MAX_NUMBER}")
        buffer = self._memory.allocate(POUCH_SIZE + letter.length)
        buffer.view[:POUCH_SIZE] = letter.pouch
        buffer.view[POUCH_SIZE : POUCH_SIZE + letter.length] = body
        buffer.to_device()
        message = self._message(
            NETWORK_MESSAGE_SEND,
            buffer,
            POUCH_SIZE + letter.length,
            out=True,
            options=self._order
            | (0 if may_wait else _TRY)
            | (_TRANSFER if letter.is_transfer else 0),
            node=number,
            event=letter.event,
            type=letter.type,
            message_flags=letter.flags,
            length=letter.length,
        )
        wait = Wait(process, SENDING, number, letter.event, letter.type, time.monotonic_ns())
        reply = self._call(message, wait, timeout_s, buffer)
        return NETWORK_MESSAGE_SENT.unpack_from(reply).dl_event, None

    def receive(
        self, process: str, want: Want, *, may_wait: bool, timeout_s: float | None
    ) -> Letter:
        """Receive a message; see `Station.receive`."""
        self._check_open()
        self._check_source(want)
        buffer = self._memory.allocate(want.room) if want.room else None
        message = self._message(
            NETWORK_MESSAGE_RECEIVE,
            buffer,
            want.room,
            out=False,
            options=self._receiving(want) | (0 if may_wait else _TRY),
            source=want.source or 0,
            event=want.event,
            type=want.type,
            priority=want.priority,
            length=want.room,
        )
        wait = Wait(process, RECEIVING, want.source, want.event, want.type, time.monotonic_ns())
        return self._received(message, wait, timeout_s, buffer, want.room)

    def probe(self, want: Want) -> Letter | None:
        """Return the message that could be received at once; it stays."""
        self._check_open()
        self._check_source(want)
        message = self._message(
            NETWORK_MESSAGE_PROBE,
            options=self._receiving(want),
            source=want.source or 0,
            event=want.event,
            type=want.type,
        )
        try:
            return self._received(message, self._no_wait(), _LONG_S, None, 0)
        except WouldBlock:
            return None

    def sweep(self, event: int | None = None) -> int:
        """Throw away messages that wait; see `Station.sweep`."""
        self._check_open()
        message = self._message(
            NETWORK_MESSAGE_SWEEP,
            options=_EVERY_EVENT if event is None else 0,
            event=event or 0,
        )
        return self._count(self._call(message, self._no_wait(), _LONG_S))

    def listing(self) -> list[Listed]:
        """Return what waits for receivers, oldest first, at most 1024."""
        self._check_open()
        size = NETWORK_MESSAGE_WAITING.size
        room = _MAX_LISTED * size
        buffer = self._memory.allocate(room)
        data = bytearray(room)
        message = self._message(NETWORK_MESSAGE_LIST, buffer, room, out=False, length=room)
        reply = self._call(message, self._no_wait(), _LONG_S, buffer, data)
        rows = [
            NETWORK_MESSAGE_WAITING.unpack_from(data, at * size)
            for at in range(min(self._count(reply), _MAX_LISTED))
        ]
        return [
            Listed(
                row.number, row.source, row.event, row.type, row.length, row.message_flags,
                bytes(row.pouch), bool(row.is_announced),
                row.options & _BIG_ENDIAN != self._own_order,
            )
            for row in rows
        ]  # fmt: skip

    def look(self, number: int) -> Letter | None:
        """Return a message that waits, by its number; it stays."""
        self._check_open()
        room = next((row.length for row in self.listing() if row.number == number), None)
        if room is None:
            return None
        buffer = self._memory.allocate(room) if room else None
        message = self._message(
            NETWORK_MESSAGE_LOOK, buffer, room, out=False, number=number, length=room
        )
        try:
            return self._received(message, self._no_wait(), _LONG_S, buffer, room)
        except BadDescriptor:
            return None

    def waits(self) -> list[WaitReport]:
        """Return which calls of this program block at the IOP, and what for."""
        now = time.monotonic_ns()
        with self._lock:
            return [wait.report(self.number, now) for wait in self._waits]

    def forget(self, process: str) -> None:
        """A process was detached; nothing of it is kept here."""

    def close(self) -> None:
        """Refuse every later call; the IOP and its messages stay. Again does nothing."""
        self._closed = True

    # ---------------------------------------------------------------------------------------------

    def _check_open(self) -> None:
        if self._closed:
            raise NotAttached(f"the network messages of IOP {self.number:#x} are closed")

    def _check_source(self, want: Want) -> None:
        if want.source is not None and want.source < 0:
            want.source = self.number
        if want.source not in (None, self.number):
            raise BadNode(f"no node {want.source} can send anything to IOP {self.number:#x}")

    @staticmethod
    def _receiving(want: Want) -> int:
        return (_ANY_SOURCE if want.source is None else 0) | (_TRANSFER if want.is_transfer else 0)

    @staticmethod
    def _no_wait() -> Wait:
        return Wait("", "ask", None, 0, 0, time.monotonic_ns())

    def _message(
        self,
        layout: MessageLayout,
        buffer: HostBuffer | None = None,
        size: int = 0,
        *,
        out: bool = False,
        **fields: int,
    ) -> bytes:
        """Return a request, with the list of its buffer if it has one."""
        sgl = b""
        if buffer is not None:
            pieces, rest = [], size
            for address, length in buffer.segments:
                if rest:
                    pieces.append((address, min(length, rest)))
                    rest -= pieces[-1][1]
            sgl = simple_sgl(pieces, out=out)
        words = (layout.size + len(sgl)) // 4
        head = layout.build(target_address=self.tid, message_size=words, **fields)
        return head + sgl

    def _received(
        self,
        message: bytes,
        wait: Wait,
        timeout_s: float | None,
        buffer: HostBuffer | None,
        room: int,
    ) -> Letter:
        """Send a request that is answered with a message."""
        data = bytearray(room)
        reply = self._call(message, wait, timeout_s, buffer, data)
        got = NETWORK_MESSAGE_RECEIVED.unpack_from(reply)
        return Letter(
            got.source,
            got.event,
            got.type,
            got.message_flags,
            bytes(got.pouch),
            memoryview(data)[: min(got.length, room)],
            got.length,
            is_transfer=got.options & _TRANSFER != 0,
            is_swapped=got.options & _BIG_ENDIAN != self._own_order,
        )

    def _call(
        self,
        message: bytes,
        wait: Wait,
        timeout_s: float | None,
        buffer: HostBuffer | None = None,
        data: bytearray | None = None,
    ) -> ReplyFrame:
        """Send a request and return its reply; raise what the reply says."""
        pending = self._requester.start(message, buffers=() if buffer is None else (buffer,))
        with self._lock:
            self._waits.append(wait)
        try:
            reply = self._await(pending, wait, timeout_s)
            self._raise_for(reply, wait)
            if data and buffer is not None:
                buffer.from_device()
                data[:] = buffer.view[: len(data)]
            return reply
        finally:
            with self._lock:
                self._waits.remove(wait)
            pending.release()

    def _await(self, pending: Pending, wait: Wait, timeout_s: float | None) -> ReplyFrame:
        """Wait for a reply. When the time is over the request is aborted, and ends all the same."""
        requester = self._requester
        if timeout_s is None:
            while not requester.wait_for(pending, _LONG_S):
                pass
        elif not requester.wait_for(pending, timeout_s):
            raise_for_status(requester.call(abort_of(pending)), "UtilAbort of a network message")
            reply = requester.finish(pending)
            if not reply.failed and status_of(reply).req_status in _ABORTED:
                everybody = "; ".join(map(str, self.waits()))
                raise TimedOut(
                    f"{wait.what} {'any node' if wait.other is None else f'node {wait.other}'}: "
                    f"not within {timeout_s:g} s. Waiting are: {everybody}"
                )
        assert pending.reply is not None
        return pending.reply

    def _raise_for(self, reply: ReplyFrame, wait: Wait) -> None:
        status = status_of(reply)
        if reply.failed or status.req_status in _ABORTED:
            raise NodeDied(f"IOP {self.number:#x}: {describe(reply)}")
        error = _ERRORS.get(status.detail)
        if error is not None:
            raise error(f"IOP {self.number:#x}, event {wait.event}: {wait.what} it")
        raise_for_status(reply, f"network message to TID {self.tid:#05x}")
        if len(reply) < NETWORK_MESSAGE_COUNT.size:
            raise RemoteFrameError(f"a reply of {len(reply)} bytes to a network message")

    @staticmethod
    def _count(reply: ReplyFrame) -> int:
        return int.from_bytes(reply[20:24], "little")
