# SPDX-License-Identifier: Apache-2.0
"""Puts the packets of a capture into context: requests, their replies, their DMA, their devices.

Works packet by packet in memory that does not grow with the capture: what is kept are the requests
without a final reply, the last request of each MFA and the device classes of TIDs, all bounded.
"""

from __future__ import annotations

import struct
from collections import OrderedDict, deque
from collections.abc import Sequence
from itertools import islice
from typing import Final

from i2o.decode.message_books import MessageBooks
from i2o.decode.message_text import ENDS, message_name
from i2o.decode.payload import Payload, PayloadFollower, followed
from i2o.decode.request_memory import RequestMemory
from i2o.errors import LocalFrameError
from i2o.frames import catalog
from i2o.frames.functions import UNANSWERED, DeviceClass, Function
from i2o.frames.header import HEADER_SIZE, MsgFlags
from i2o.frames.host_ranges import HostRange, host_ranges
from i2o.frames.layout import MessageLayout
from i2o.frames.private import DPT_PRIVATE_SCSI_SCB_EXEC
from i2o.frames.tables import LCT_ENTRY, LCT_HEADER
from i2o.transport.capture.message_record import Kind, MessageRecord, unpack_record
from i2o.transport.capture.packet import Channel, Packet

REQUEST: Final = "request"
REPLY: Final = "reply"
DMA: Final = "dma"
MESSAGE: Final = "message"

MAX_OUTSTANDING: Final = 65536
"""Requests of one IOP without a final reply that are remembered; then the oldest is dropped."""
MAX_BUFFER: Final = 1 << 16
"""Bytes of one logical buffer that are put together from pieces of DMA."""
MAX_SEARCH: Final = 1024
"""Requests that a piece of DMA without an MFA is looked for in, the latest first."""

MAX_HELD: Final = 1 << 23
"""Bytes of captured DMA that the requests of one IOP keep; then the oldest give theirs up. Frames
larger than usual count, too, and many times over, because of the places that they can name."""
MAX_ALIKE: Final = 64
"""Requests with the same contexts that a reply is compared with."""

_MIN_FRAME: Final = 12
_USUAL_FRAME: Final = 512
_OVERHEAD: Final = 256  # of keeping anything at all
_PLACES_PER_BYTE: Final = 16  # memory of the places in a list, against the bytes of the list
_TRANSFER_COUNT: Final = 20  # where block, tape and SCSI replies have it
_SHORT_KEY: Final = frozenset(
    {
        Function.LAN_PACKET_SEND.value,
        Function.LAN_SDU_SEND.value,
        Function.LAN_RECEIVE_POST.value,
    }
)
"""Functions whose replies repeat no transaction context."""
_WIDE: Final = MsgFlags.CONTEXT_64BIT.value
_REPLY, _LAST, _FAIL = MsgFlags.REPLY.value, MsgFlags.LAST.value, MsgFlags.FAIL.value
_EVENT_REGISTER: Final = Function.UTIL_EVENT_REGISTER.value
_OUTBOUND_INIT: Final = Function.EXEC_OUTBOUND_INIT.value
_PRIVATE: Final = Function.PRIVATE_MESSAGE.value
_SCB_EXEC: Final = Function.SCSI_SCB_EXEC.value
_LCT_NOTIFY: Final = Function.EXEC_LCT_NOTIFY.value
_IN, _OUT = Channel.IN.value, Channel.OUT.value
_MESSAGE: Final = Channel.MESSAGE.value
_WITH_CONTENT: Final = (Kind.SEND.value, Kind.RECEIVED.value)
_FIRST_CLASS_FUNCTION, _FIRST_EXECUTIVE_FUNCTION = 0x20, 0xA0
_BULK: Final = frozenset(
    {
        Function.BSA_BLOCK_READ.value,
        Function.BSA_BLOCK_WRITE.value,
        Function.BSA_BLOCK_WRITE_VERIFY.value,
    }
)
"""Functions that move data, not structures: their pieces are not put together."""
_FIRST_ENTRY: Final = next(field.byte for field in LCT_HEADER.fields if field.path == "lct_entry")
_read_head = struct.Struct("<xBHI").unpack_from
_read_word = struct.Struct("<I").unpack_from


class Traced:
    """One packet in its context.

    Attributes:
        index: its number in the conversation, from 0.
        packet: the packet.
        kind: REQUEST, REPLY, DMA or MESSAGE.
        flags: MsgFlags; this and the next four are those of its frame, or, for DMA, of the
            request that it belongs to (0 if it is not known).
        size_words: MessageSize.
        target: TargetAddress.
        initiator: InitiatorAddress.
        function: function code.
        device_class: class of the target as known by then, or None.
        request: for a reply the request that it answers, for DMA the one it belongs to; for the
            end of a send, its beginning without the payload.
        latency_ns: for a reply, the time since its request; for the end of a send, since that.
        buffer: for DMA, which of the request's logical buffers; -1 for a chained list; None if it
            belongs to none (`is_reply_frame`, or nobody knows).
        offset: for DMA, where in that buffer.
        is_reply_frame: this DMA is the IOP writing a reply frame.
        buffers: for requests, what was captured of each logical buffer from its start on.
        chained: for requests, captured chained lists by address.
        record: for MESSAGE only, the packet taken apart; None if it cannot be.
        payload: for MESSAGE only, what a protocol makes of the content; None if nobody knows it.
    """

    __slots__ = (
        "_memory",
        "buffer",
        "buffers",
        "chained",
        "device_class",
        "flags",
        "function",
        "index",
        "initiator",
        "is_reply_frame",
        "kind",
        "latency_ns",
        "offset",
        "packet",
        "payload",
        "record",
        "request",
        "size_words",
        "target",
    )

    def __init__(
        self,
        index: int,
        packet: Packet,
        kind: str,
        flags: int = 0,
        size_words: int = 0,
        route: int = 0,
        device_class: int | None = None,
    ) -> None:
        self.index = index
        self.packet = packet
        self.kind = kind
        self.flags = flags
        self.size_words = size_words
        self.target = route & 0xFFF
        self.initiator = route >> 12 & 0xFFF
        self.function = route >> 24
        self.device_class = device_class
        self.request: Traced | None = None
        self.latency_ns: int | None = None
        if kind != REPLY:
            self._start_dma()

    def _start_dma(self) -> None:
        self.buffer: int | None = None
        self.offset = 0
        self.is_reply_frame = False
        self.buffers: dict[int, bytearray] | None = None
        self.chained: dict[int, bytes] | None = None
        self._memory: RequestMemory | None = None
        self.record: MessageRecord | None = None
        self.payload: Payload | None = None

    @property
    def frame(self) -> bytes:
        """The frame's bytes, cut at its MessageSize (but not in its head); of DMA, the data."""
        data = self.packet.data
        size = max(_MIN_FRAME, 4 * self.size_words)
        return data[:size] if self.kind in (REQUEST, REPLY) and size < len(data) else data

    @property
    def is_short(self) -> bool:
        """Whether not even the header of a frame is there."""
        return self.kind in (REQUEST, REPLY) and len(self.packet.data) < _MIN_FRAME

    @property
    def layout(self) -> MessageLayout | None:
        """The layout of a frame, None if its function is unknown or it is no frame."""
        if self.kind == REQUEST:
            return catalog.layout_of_request(self.packet.data, self.device_class)
        if self.kind != REPLY:
            return None
        data = self.packet.data
        function, device_class = self.meant
        status = data[19] if len(data) >= 20 else 0
        words = min(self.size_words, len(data) // 4)
        if function == _PRIVATE and self.request is not None:
            own = catalog.private_reply_layout(self.request.layout, self.flags, status, words)
            if own is not None:
                return own
        return catalog.reply_layout(function, device_class, self.flags, status, words)

    @property
    def name(self) -> str:
        """Name of the message; of DMA, that of the message which it belongs to."""
        if self.kind == DMA and self.request is None:
            return "dma"
        if self.kind == MESSAGE:
            return "message" if self.record is None else message_name(self.record)
        if self.function == _PRIVATE:
            request = self if self.kind == REQUEST else self.request
            layout = request.layout if request is not None else None
            if layout is not None:
                return layout.name
        return catalog.function_name(self.function, self.device_class)

    @property
    def meant(self) -> tuple[int, int | None]:
        """Function and device class by which to read a reply: DPT's private SCSI is SCSI."""
        if (
            self.function == _PRIVATE
            and self.request is not None
            and self.request.layout is DPT_PRIVATE_SCSI_SCB_EXEC
        ):
            return _SCB_EXEC, DeviceClass.SCSI_PERIPHERAL.value
        return self.function, self.device_class

    @property
    def ranges(self) -> list[HostRange]:
        """The host memory that a request points to."""
        return self.memory.ranges

    @property
    def memory(self) -> RequestMemory:
        """The host memory that a request points to, for looking places up."""
        if self._memory is None:
            chained = self.chained or {}

            def read(address: int, length: int) -> bytes:
                data = chained.get(address, b"")
                if len(data) < length:
                    raise LocalFrameError("the chained list was not captured")
                return data[:length]

            self._memory = RequestMemory(host_ranges(self.frame, read_host=read))
        return self._memory

    def place_of(self, address: int) -> tuple[int, int] | None:
        """Return (buffer, offset in it) of a bus address that a request points to, or None."""
        return self.memory.place_of(address)

    def let_go(self) -> None:
        """Forget what was captured of a request's memory, and where that is."""
        self.buffers = self.chained = None
        self._memory = RequestMemory([])


_Alike = OrderedDict[int, Traced]
"""Requests with the same contexts, by index; any of them can be taken out quickly."""


class _Iop:
    """What is remembered of one IOP."""

    def __init__(self) -> None:
        self.outstanding: dict[bytes, Traced | _Alike] = {}
        self.count = 0
        self.registrations: dict[bytes, Traced] = {}
        self.by_mfa: dict[int, Traced] = {}
        self.classes: dict[int, int] = {0: DeviceClass.EXECUTIVE.value}
        self.holding: deque[tuple[Traced, int]] = deque()
        self.held = 0

    def hold(self, request: Traced, size: int) -> None:
        """Note that a request keeps that many bytes more; the oldest let go when it is too much."""
        size += _OVERHEAD
        self.holding.append((request, size))
        self.held += size
        while self.held > MAX_HELD and len(self.holding) > 1:
            oldest, size = self.holding.popleft()
            self.held -= size
            if oldest is not request:
                oldest.let_go()


class Conversation:
    """Follows the traffic of any number of IOPs and endpoints.

    Args:
        followers: who knows what messages of endpoints contain.
    """

    def __init__(self, followers: Sequence[PayloadFollower] = ()) -> None:
        self._followers = followers
        self._iops: dict[int, _Iop] = {}
        self._sends: MessageBooks[Traced] = MessageBooks()
        self._next_index = 0

    def feed(self, packet: Packet) -> Traced:
        """Take the next packet and return it in its context."""
        index = self._next_index
        self._next_index = index + 1
        number, channel, data = packet[1], packet[2], packet[3]
        if channel == _MESSAGE:
            return self._message(Traced(index, packet, MESSAGE))
        iop = self._iops.get(number)
        if iop is None:
            iop = self._iops[number] = _Iop()
        if channel > _OUT:
            return self._dma(iop, Traced(index, packet, DMA))
        if len(data) < _MIN_FRAME:
            return Traced(index, packet, REQUEST if channel == _IN else REPLY)
        flags, words, route = _read_head(data)
        if channel == _IN:
            traced = Traced(
                index, packet, REQUEST, flags, words, route, iop.classes.get(route & 0xFFF)
            )
            self._request(iop, traced, data)
        else:
            traced = Traced(
                index, packet, REPLY, flags, words, route, iop.classes.get(route & 0xFFF)
            )
            self._reply(iop, traced, data)
        return traced

    def outstanding(self, iop: int) -> int:
        """Return how many requests of an IOP have no final reply yet, event registrations aside."""
        found = self._iops.get(iop)
        return found.count if found else 0

    def unanswered(self) -> int:
        """Return how many requests have no final reply yet."""
        return sum(iop.count for iop in self._iops.values())

    # -------------------------------------------------------------------------------------------

    def _message(self, traced: Traced) -> Traced:
        """Take a message of an endpoint; the end of a send finds its beginning."""
        packet = traced.packet
        try:
            record = traced.record = unpack_record(packet.data)
        except ValueError:
            return traced
        number = packet.mfa
        if record.payload and record.kind in _WITH_CONTENT and self._followers:
            traced.payload = followed(self._followers, packet.iop, packet.time_ns, record)
        if record.kind == Kind.SEND and number is not None:
            begun = Traced(traced.index, packet._replace(data=b""), MESSAGE)
            begun.record = record._replace(payload=b"")
            self._sends.begun(packet.iop, number, begun)
        elif record.kind in ENDS and number is not None:
            send = self._sends.ended(packet.iop, number)
            if send is not None:
                traced.request = send
                traced.latency_ns = packet.time_ns - send.packet.time_ns
        return traced

    def _request(self, iop: _Iop, traced: Traced, data: bytes) -> None:
        function = traced.function
        if len(data) > _USUAL_FRAME:
            iop.hold(traced, _PLACES_PER_BYTE * len(data))
        mfa = traced.packet[5]
        if mfa is not None:
            by_mfa = iop.by_mfa
            by_mfa.pop(mfa, None)  # the order is that of the requests, not of the MFAs
            by_mfa[mfa] = traced
            if len(by_mfa) > MAX_OUTSTANDING:
                del by_mfa[next(iter(by_mfa))]
        if (
            traced.device_class is None
            and _FIRST_CLASS_FUNCTION <= function < _FIRST_EXECUTIVE_FUNCTION
        ):
            self._learn_class(iop, traced)
        if function in UNANSWERED:
            if function == _OUTBOUND_INIT:  # behind a reset: nothing before it is ever answered
                iop.outstanding.clear()
                iop.registrations.clear()
                iop.count = 0
            return
        if len(data) < HEADER_SIZE:
            return
        key = _key(data, function)
        if function == _EVENT_REGISTER:  # answered once an event, not once a request
            iop.registrations[key] = traced
            if len(iop.registrations) > MAX_OUTSTANDING:
                del iop.registrations[next(iter(iop.registrations))]
            return
        outstanding = iop.outstanding
        before = outstanding.get(key)
        if before is None:
            outstanding[key] = traced
        elif isinstance(before, Traced):
            outstanding[key] = OrderedDict({before.index: before, traced.index: traced})
        else:
            before[traced.index] = traced
        iop.count += 1
        if iop.count > MAX_OUTSTANDING:
            self._take(iop, next(iter(outstanding)))

    def _reply(self, iop: _Iop, traced: Traced, data: bytes) -> None:
        if len(data) < HEADER_SIZE:
            return
        flags, function = traced.flags, traced.function
        if flags & _FAIL:
            request = self._failed(iop, data)
        else:
            key = _key(data, function)
            if function == _EVENT_REGISTER:
                request = iop.registrations.get(key) or iop.registrations.get(_swapped(key))
                self._answered(traced, request)
                return
            if key not in iop.outstanding:
                key = _swapped(key)
            if flags & _LAST:
                request = self._take(iop, key, data)
            else:
                request = _oldest(iop.outstanding.get(key))
        self._answered(traced, request)

    @staticmethod
    def _answered(reply: Traced, request: Traced | None) -> None:
        """Note which request a reply answers."""
        if request is not None:
            reply.request = request
            reply.latency_ns = reply.packet[0] - request.packet[0]
            reply.device_class = request.device_class

    def _take(self, iop: _Iop, key: bytes, reply: bytes = b"") -> Traced | None:
        """Remove the outstanding request with a key; of several the one that the reply fits."""
        found = iop.outstanding.pop(key, None)
        if found is None:
            return None
        iop.count -= 1
        if isinstance(found, Traced):
            return found
        taken = _fitting(found, reply)
        del found[taken.index]
        if found:
            iop.outstanding[key] = found
        return taken

    def _failed(self, iop: _Iop, data: bytes) -> Traced | None:
        """Find the request of a FAIL reply, whose transaction context is not valid."""
        if len(data) >= 32:
            preserved = iop.by_mfa.get(_read_word(data, 28)[0])
            if preserved is not None and preserved.packet.data[4:12] == data[4:12]:
                key = _key(preserved.packet.data, preserved.function)
                found = iop.outstanding.get(key)
                if found is preserved:
                    return self._take(iop, key)
                if isinstance(found, OrderedDict) and preserved.index in found:
                    del found[preserved.index]
                    iop.count -= 1
                    if not found:
                        del iop.outstanding[key]
                    return preserved
                if preserved.function == _EVENT_REGISTER:
                    return iop.registrations.pop(key, None)
                # one that is never answered but by FAIL, or one that was answered already
                return preserved if preserved.function in UNANSWERED else None
        alike = [
            key
            for key in islice(iop.outstanding, MAX_SEARCH)
            if key[:8] == data[4:12] and (key[8:] == data[12:16] or data[12:16] == bytes(4))
        ]
        return self._take(iop, alike[0]) if len(alike) == 1 else None

    def _learn_class(self, iop: _Iop, traced: Traced) -> None:
        """Guess a device's class from a function that only one class has."""
        device_class = catalog.class_of_function(traced.function)
        if device_class is not None and len(iop.classes) <= 0xFFF:
            iop.classes[traced.target] = traced.device_class = device_class

    # --- DMA -----------------------------------------------------------------------------------

    def _dma(self, iop: _Iop, traced: Traced) -> Traced:
        packet = traced.packet
        request = self._find_request(iop, packet)
        if request is None:
            request = self._owner_of_reply(iop, packet)
            traced.is_reply_frame = request is not None
        if request is None:
            return traced
        traced.request = request
        traced.flags, traced.size_words = request.flags, request.size_words
        traced.target, traced.initiator = request.target, request.initiator
        traced.function, traced.device_class = request.function, request.device_class
        if traced.is_reply_frame:
            return traced
        place = request.place_of(packet.address)
        if place is None:
            return traced
        traced.buffer, traced.offset = place
        if traced.buffer < 0:
            request.chained = request.chained or {}
            request.chained[packet.address] = packet.data
            request._memory = None
            iop.hold(request, _PLACES_PER_BYTE * len(packet.data))
        elif request.function not in _BULK:
            self._collect(iop, traced, request)
        return traced

    def _find_request(self, iop: _Iop, packet: Packet) -> Traced | None:
        """Return the request that points to a piece of host memory."""
        if packet.mfa is not None:
            request = iop.by_mfa.get(packet.mfa)
            if request is not None and request.memory.place_of(packet.address) is not None:
                return request
            # an inbound frame may carry the next request before the last one is answered
            return _pointing_to(packet, iop.outstanding)
        for request in islice(reversed(iop.by_mfa.values()), MAX_SEARCH):
            if request.memory.place_of(packet.address) is not None:
                return request
        return None

    def _owner_of_reply(self, iop: _Iop, packet: Packet) -> Traced | None:
        """Return the request whose reply frame the IOP is writing, if it looks like one."""
        data = packet.data
        if packet.channel != Channel.FROM_DEVICE or len(data) < HEADER_SIZE or not data[1] & _REPLY:
            return None
        key = _key(data, data[7])
        return _oldest(iop.outstanding.get(key) or iop.outstanding.get(_swapped(key)))

    def _collect(self, iop: _Iop, traced: Traced, request: Traced) -> None:
        """Put the pieces of a buffer together, from its start as far as they were captured."""
        buffers = request.buffers
        if buffers is None:
            buffers = request.buffers = {}
        assert traced.buffer is not None
        data = traced.packet.data
        iop.hold(request, len(data))
        new = traced.offset
        if traced.offset == 0:
            buffers[traced.buffer] = bytearray(data[:MAX_BUFFER])
        else:
            known = buffers.get(traced.buffer)
            if known is not None and len(known) == traced.offset < MAX_BUFFER:
                known += data[: MAX_BUFFER - len(known)]
        if request.function == _LCT_NOTIFY and traced.buffer == 0:
            self._learn_lct(iop, buffers.get(0, bytearray()), new)

    def _learn_lct(self, iop: _Iop, table: bytearray, new: int) -> None:
        """Take the classes of devices from a logical configuration table, what is new of it."""
        first = _FIRST_ENTRY + max(0, new - _FIRST_ENTRY) // LCT_ENTRY.size * LCT_ENTRY.size
        for at in range(first, len(table) - LCT_ENTRY.size + 1, LCT_ENTRY.size):
            entry = LCT_ENTRY.unpack_from(table, at)
            if entry.local_tid:
                iop.classes[entry.local_tid] = entry.class_id_class


def _key(data: bytes, function: int) -> bytes:
    """Return what a frame has in common with its answer: route and contexts."""
    if function in _SHORT_KEY:
        return data[4:12]
    return data[4:24] if data[1] & _WIDE else data[4:16]


def _oldest(found: Traced | _Alike | None) -> Traced | None:
    """Return the oldest of requests with the same contexts."""
    return next(iter(found.values())) if isinstance(found, OrderedDict) else found


def _pointing_to(packet: Packet, outstanding: dict[bytes, Traced | _Alike]) -> Traced | None:
    """Return the latest unanswered request in a packet's MFA that points to its memory."""
    left = MAX_SEARCH
    for found in reversed(outstanding.values()):
        for request in (found,) if isinstance(found, Traced) else reversed(found.values()):
            left -= 1
            if left < 0:
                return None
            if request.packet.mfa != packet.mfa:
                continue
            if request.memory.place_of(packet.address) is not None:
                return request
    return None


def _fitting(alike: _Alike, reply: bytes) -> Traced:
    """Return which of several requests with the same TIDs, function and contexts is answered.

    Nothing on the wire tells them apart but what the reply says was done: the first one that is
    about as many bytes as the reply's transfer count, else the oldest.
    """
    if len(reply) >= _TRANSFER_COUNT + 4:
        count = _read_word(reply, _TRANSFER_COUNT)[0]
        for request in islice(alike.values(), MAX_ALIKE):
            if count and request.memory.total == count:
                return request
    return next(iter(alike.values()))


def _swapped(key: bytes) -> bytes:
    """Return a key with its TIDs exchanged: some IOPs wrongly do so in replies."""
    route = int.from_bytes(key[:3], "little")
    return (route >> 12 | (route & 0xFFF) << 12).to_bytes(3, "little") + key[3:]
