# SPDX-License-Identifier: Apache-2.0
"""Network messages of an IOP: a buffer where its hosts' processes leave messages for one another.

A message is matched as LAM does it, by event and type. A request that cannot be done yet is parked
in the IOP's scheduler like any other that is not answered, so aborts and resets find it there.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from typing import Final

from i2o.errors import RemoteFrameError
from i2o.frames.functions import DeviceClass, Function
from i2o.frames.header import DetailedStatus
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
    POUCH_SIZE,
    NetworkMessageFunction,
    NetworkMessageOptions,
    NetworkMessageStatus,
)
from i2o.frames.sgl_walk import SglBuffer
from i2o.iop_emulator import sgl_data
from i2o.iop_emulator.ddm.base import Ddm, IopServices
from i2o.iop_emulator.handlers import handles
from i2o.iop_emulator.parameter_groups import Row
from i2o.iop_emulator.request import Request
from i2o.transport.fabric.mailbox import OVERHEAD, Letter, Mailbox, Want

TID: Final = 0x009
"""Where the device is, in an IOP that has it."""
LOCAL: Final = -2
"""Node number of the IOP itself, whatever its own is."""
BUFFERED: Final = 0x4000000D
"""dl_event of a message that the buffer took: LAM's event of its buffer daemon."""
MAX_TRANSFER: Final = 32 << 20
"""Bytes of the longest message."""
MAX_WAITING: Final = 1024
"""Requests that may wait."""
_NO_BUFFER: Final = 0x10
_TRY: Final = NetworkMessageOptions.TRY.value
_TRANSFER: Final = NetworkMessageOptions.TRANSFER.value
_BIG_ENDIAN: Final = NetworkMessageOptions.BIG_ENDIAN.value
_ANY_SOURCE: Final = NetworkMessageOptions.ANY_SOURCE.value
_EVERY_EVENT: Final = NetworkMessageOptions.EVERY_EVENT.value


class _TooSmall(RemoteFrameError):
    """A buffer is not as long as its request says."""


class NetworkMessageDdm(Ddm):
    """The device.

    Args:
        iop: the IOP it is part of.
        space: bytes of messages that may wait.
        number: returns the node number that the IOP has now.
    """

    device_class = DeviceClass.DDM.value

    def __init__(self, iop: IopServices, space: int, number: Callable[[], int]) -> None:
        self._number = number
        self._mailbox = Mailbox(space)
        self._senders: deque[tuple[Request, Letter]] = deque()
        self._functions: dict[int, Callable[[Request], bytes | None]] = {
            NetworkMessageFunction.SEND.value: self._send,
            NetworkMessageFunction.RECEIVE.value: self._receive,
            NetworkMessageFunction.PROBE.value: self._probe,
            NetworkMessageFunction.SWEEP.value: self._sweep,
            NetworkMessageFunction.LIST.value: self._list,
            NetworkMessageFunction.LOOK.value: self._look,
        }
        super().__init__(iop, TID, name="network messages", organization_id=ORGANIZATION)

    def private_extensions(self) -> Iterable[Row]:
        """Return the private messages that this device understands."""
        return [
            {"organization_id": ORGANIZATION, "x_function_code": function}
            for function in self._functions
        ]

    def reset_state(self) -> None:
        """Forget every message and everybody who waits."""
        super().reset_state()
        self._mailbox = Mailbox(self._mailbox.space)
        self._senders.clear()

    def forget(self, request: Request) -> None:
        """Forget what a request waited for; a message that it offered was never sent."""
        for want in self._mailbox.wants():
            if want.owner is request:
                self._mailbox.cancel(want)
        self._mailbox.forget_origin(request)
        self._senders = deque(entry for entry in self._senders if entry[0] is not request)
        self._make_room()

    @handles(Function.PRIVATE_MESSAGE)
    def private_message(self, request: Request) -> bytes | None:
        """Do a network message."""
        asked = request.fields(NETWORK_MESSAGE_LIST)
        function = self._functions.get(asked.x_function_code)
        if asked.organization_id != ORGANIZATION or function is None:
            return self.unsupported(request)
        return function(request)

    def malformed(self, request: Request, error: RemoteFrameError) -> bytes:
        """Answer a request whose scatter/gather list cannot be used, and complain."""
        reply = super().malformed(request, error)
        if isinstance(error, _TooSmall):
            return request.refuse(DetailedStatus.MISSING_PARAMETER)
        return reply

    def _buffer(self, request: Request, layout: MessageLayout, length: int) -> SglBuffer:
        """Return a request's buffer, which must have so many bytes."""
        iop = self.iop
        buffers = sgl_data.buffers(request, layout.sgl_word_offset, iop.dma, iop.page_size)
        if not buffers or buffers[0].length < length:
            raise _TooSmall(f"{layout.name} of this length needs a buffer of {length} bytes")
        return buffers[0]

    # --- sending ---------------------------------------------------------------------------------

    def _send(self, request: Request) -> bytes | None:
        asked = request.fields(NETWORK_MESSAGE_SEND)
        if asked.node not in (LOCAL, self._number()):
            return request.refuse(NetworkMessageStatus.BAD_NODE)
        is_transfer = asked.options & _TRANSFER != 0
        is_offer = is_transfer or asked.message_flags & _NO_BUFFER != 0
        limit = MAX_TRANSFER if is_offer else self._mailbox.space - OVERHEAD
        if asked.length > limit:
            return request.refuse(NetworkMessageStatus.TOO_LONG)
        size = POUCH_SIZE + asked.length
        buffer = self._buffer(request, NETWORK_MESSAGE_SEND, size)
        data = sgl_data.gather(self.iop.dma, buffer, size)
        letter = Letter(
            self._number(), asked.event, asked.type, asked.message_flags, data[:POUCH_SIZE],
            data[POUCH_SIZE:], asked.length, is_transfer=is_transfer,
            is_swapped=asked.options & _BIG_ENDIAN != 0,
        )  # fmt: skip
        if self._hand_over(letter):
            return self._sent(request, _taken_by(letter))
        may_wait = not asked.options & _TRY
        if is_offer:
            if not may_wait:
                return request.refuse(NetworkMessageStatus.WOULD_BLOCK)
            if not self._may_park():
                return request.refuse(DetailedStatus.INSUFFICIENT_RESOURCE_SOFT)
            letter.is_offer, letter.origin = True, request
            self._keep(letter)
            self.iop.scheduler.park(request)
            return None
        if self._senders or not self._mailbox.has_room(letter.cost):
            if not may_wait:
                return request.refuse(NetworkMessageStatus.WOULD_BLOCK)
            if not self._may_park():
                return request.refuse(DetailedStatus.INSUFFICIENT_RESOURCE_SOFT)
            self._senders.append((request, letter))
            self.iop.scheduler.park(request)
            return None
        self._keep(letter)
        return self._sent(request, BUFFERED)

    def _hand_over(self, letter: Letter) -> bool:
        """Give a message to a receiver that waits and has memory for it, if there is one."""
        while True:
            want = self._mailbox.receiver(letter)
            if want is None:
                return False
            receiver = want.owner
            assert isinstance(receiver, Request)
            self.iop.scheduler.unpark(receiver)
            try:
                reply = self._deliver(receiver, letter)
            except RemoteFrameError as error:  # it is the receiver's, and not the sender's
                self.iop.send(self.malformed(receiver, error))
                continue
            self.iop.send(reply)
            return True

    def _keep(self, letter: Letter) -> None:
        self._mailbox.keep(letter, 0)

    def _sent(self, request: Request, event: int) -> bytes:
        return request.answer(NETWORK_MESSAGE_SENT, dl_event=event)

    def _may_park(self) -> bool:
        return self.iop.scheduler.count(lambda other: other.target == self.tid) < MAX_WAITING

    def _unpark(self, request: Request) -> bool:
        """Take a request that waits back; return whether it still did."""
        if not self.iop.scheduler.has(request):
            return False
        self.iop.scheduler.unpark(request)
        return True

    # --- receiving -------------------------------------------------------------------------------

    def _want(self, request: Request, layout: MessageLayout) -> Want:
        asked = request.fields(layout)
        return Want(
            asked.event,
            asked.type,
            source=None if asked.options & _ANY_SOURCE else asked.source,
            is_transfer=asked.options & _TRANSFER != 0,
            owner=request,
        )

    def _receive(self, request: Request) -> bytes | None:
        asked = request.fields(NETWORK_MESSAGE_RECEIVE)
        want = self._want(request, NETWORK_MESSAGE_RECEIVE)
        want.priority = asked.priority
        if asked.length:
            self._buffer(request, NETWORK_MESSAGE_RECEIVE, asked.length)
        letter = self._mailbox.peek(want)
        if letter is not None:
            reply = self._deliver(request, letter)  # if this fails the message is for others
            self._mailbox.withdraw(letter)
            self._taken(letter)
            return reply
        if asked.options & _TRY:
            return request.refuse(NetworkMessageStatus.WOULD_BLOCK)
        if not self._may_park():
            return request.refuse(DetailedStatus.INSUFFICIENT_RESOURCE_SOFT)
        self._mailbox.post(want)
        self.iop.scheduler.park(request)
        return None

    def _deliver(self, request: Request, letter: Letter) -> bytes:
        """Write a message to the memory of a receiver, and return the reply to it."""
        asked = request.fields(NETWORK_MESSAGE_RECEIVE)
        return self._give(request, letter, asked.length, NETWORK_MESSAGE_RECEIVE)

    def _give(self, request: Request, letter: Letter, room: int, layout: MessageLayout) -> bytes:
        body = bytes(letter.body or b"")[:room]
        if body:
            buffer = self._buffer(request, layout, len(body))
            sgl_data.scatter(self.iop.dma, buffer, body)
        return self._received(request, letter)

    def _received(self, request: Request, letter: Letter) -> bytes:
        reply = request.answer(
            NETWORK_MESSAGE_RECEIVED,
            options=(_BIG_ENDIAN if letter.is_swapped else 0)
            | (_TRANSFER if letter.is_transfer else 0),
            source=letter.source,
            event=letter.event,
            type=letter.type,
            message_flags=letter.flags,
            length=letter.length,
            number=letter.number,
        )
        return reply[:-POUCH_SIZE] + letter.pouch

    def _taken(self, letter: Letter) -> None:
        """Answer the sender that waited for this, and let others have the room."""
        sender = letter.origin
        if isinstance(sender, Request) and self._unpark(sender):
            self.iop.send(self._sent(sender, _taken_by(letter)))
        self._make_room()

    def _make_room(self) -> None:
        """Let senders go on for whom there is room now, in their order."""
        while self._senders and self._mailbox.has_room(self._senders[0][1].cost):
            waiting, kept = self._senders.popleft()
            if not self._unpark(waiting):
                continue
            if not self._hand_over(kept):
                self._keep(kept)
            self.iop.send(self._sent(waiting, BUFFERED))

    # --- what waits ------------------------------------------------------------------------------

    def _probe(self, request: Request) -> bytes:
        letter = self._mailbox.peek(self._want(request, NETWORK_MESSAGE_PROBE))
        if letter is None:
            return request.refuse(NetworkMessageStatus.WOULD_BLOCK)
        return self._received(request, letter)

    def _sweep(self, request: Request) -> bytes:
        asked = request.fields(NETWORK_MESSAGE_SWEEP)
        every = asked.options & _EVERY_EVENT != 0
        swept = self._mailbox.sweep(None if every else asked.event)
        for letter in swept:
            sender = letter.origin
            if isinstance(sender, Request) and self._unpark(sender):
                self.iop.send(sender.refuse(NetworkMessageStatus.SWEPT))
            letter.origin = None
            self._taken(letter)
        return request.answer(NETWORK_MESSAGE_COUNT, count=len(swept))

    def _list(self, request: Request) -> bytes:
        asked = request.fields(NETWORK_MESSAGE_LIST)
        rows = self._mailbox.listing()
        size = NETWORK_MESSAGE_WAITING.size
        table = b"".join(
            NETWORK_MESSAGE_WAITING.build(
                number=row.number,
                source=row.source,
                event=row.event,
                type=row.type,
                length=row.length,
                message_flags=row.flags,
                options=_BIG_ENDIAN if row.is_swapped else 0,
                is_announced=int(row.is_announced),
                pouch=row.pouch,
            )
            for row in rows[: asked.length // size]
        )
        if table:
            buffer = self._buffer(request, NETWORK_MESSAGE_LIST, len(table))
            sgl_data.scatter(self.iop.dma, buffer, table)
        return request.answer(NETWORK_MESSAGE_COUNT, count=len(rows))

    def _look(self, request: Request) -> bytes:
        asked = request.fields(NETWORK_MESSAGE_LOOK)
        letter = self._mailbox.look(asked.number)
        if letter is None:
            return request.refuse(NetworkMessageStatus.NO_SUCH_MESSAGE)
        return self._give(request, letter, asked.length, NETWORK_MESSAGE_LOOK)


def _taken_by(letter: Letter) -> int:
    """Return dl_event of a message that a receiver took: its own, if no buffer was to be used."""
    return letter.event if letter.flags & _NO_BUFFER else BUFFERED
