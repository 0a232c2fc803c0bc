# SPDX-License-Identifier: Apache-2.0
"""The requests of a capture with everything that belongs to them: data, final reply, company."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Final

from i2o.decode.conversation import DMA, MESSAGE, REPLY, REQUEST, Conversation, Traced
from i2o.frames.header import MsgFlags
from i2o.replay_message import Piece
from i2o.transport.capture.packet import Channel, Packet

MAX_HELD: Final = 1024
"""Requests behind one without a final reply that are read before it is handed out without."""
MAX_HELD_BYTES: Final = 64 << 20
"""Bytes of DMA that are kept for requests not yet handed out."""

_ENDS: Final = (MsgFlags.LAST | MsgFlags.FAIL).value
_MIN_FRAME: Final = 12
_TO_DEVICE: Final = Channel.TO_DEVICE.value


class RecordedRequest:
    """A request of a capture.

    Attributes:
        traced: the request.
        since_ns: time since the first packet of the capture.
        depth: requests in flight behind it, itself included; those that are never replayed
            do not count.
        reply: its final reply, None if the capture has none (near enough).
        out: what the device read of its memory.
        into: what the device wrote to it.
    """

    __slots__ = ("depth", "into", "is_done", "out", "reply", "since_ns", "traced")

    def __init__(self, traced: Traced, since_ns: int, depth: int, *, is_done: bool) -> None:
        self.traced, self.since_ns, self.depth = traced, since_ns, depth
        self.is_done = is_done
        self.reply: Traced | None = None
        self.out: list[Piece] = []
        self.into: list[Piece] = []


def recorded_requests(
    packets: Iterable[Packet],
    *,
    iop: int | None = None,
    is_wanted: Callable[[Traced], bool] = lambda traced: True,
    is_alone: Callable[[Traced], bool] = lambda traced: False,
) -> Iterator[RecordedRequest]:
    """Yield the requests of one IOP in their order, each once its final reply was read.

    Args:
        packets: the capture.
        iop: which IOP; the one of the first request if None.
        is_wanted: which requests; sees every packet.
        is_alone: which of them are not worth waiting for a reply to.
    """
    conversation = Conversation()
    recorder = _Recorder(iop, is_wanted, is_alone)
    for packet in packets:
        yield from recorder.take(conversation.feed(packet))
    yield from recorder.rest()


class _Recorder:
    """Holds requests until they are complete."""

    def __init__(
        self,
        iop: int | None,
        is_wanted: Callable[[Traced], bool],
        is_alone: Callable[[Traced], bool],
    ) -> None:
        self._iop, self._is_wanted, self._is_alone = iop, is_wanted, is_alone
        self._start_ns: int | None = None
        self._held: deque[RecordedRequest] = deque()
        self._by_index: dict[int, RecordedRequest] = {}
        self._open: set[int] = set()
        self._answered: list[RecordedRequest] = []
        self._bytes = 0

    def take(self, traced: Traced) -> Iterator[RecordedRequest]:
        """Note a packet; yield the requests that nothing is missing of any more."""
        kind, packet = traced.kind, traced.packet
        if self._start_ns is None:
            self._start_ns = packet.time_ns
        is_wanted = self._is_wanted(traced)
        if kind == DMA:
            self._data(traced)
        elif kind != MESSAGE and len(packet.data) >= _MIN_FRAME:
            # DMA may stand behind its reply, but not behind the next frame
            for request in self._answered:
                request.is_done = True
            self._answered.clear()
            if kind == REQUEST:
                self._request(traced, is_wanted=is_wanted)
            elif kind == REPLY and traced.request is not None and traced.flags & _ENDS:
                self._reply(traced, traced.request)
        while self._held and (
            self._held[0].is_done or len(self._held) > MAX_HELD or self._bytes > MAX_HELD_BYTES
        ):
            yield self._pop()

    def rest(self) -> Iterator[RecordedRequest]:
        """Yield what is left when the capture ends."""
        while self._held:
            yield self._pop()

    # -------------------------------------------------------------------------------------------

    def _request(self, traced: Traced, *, is_wanted: bool) -> None:
        number = traced.packet.iop
        if self._iop is None:
            self._iop = number
        if number != self._iop or not is_wanted:
            return
        is_alone = self._is_alone(traced)
        if not is_alone:
            self._open.add(traced.index)
        since_ns = max(0, traced.packet.time_ns - (self._start_ns or 0))
        request = RecordedRequest(traced, since_ns, max(1, len(self._open)), is_done=is_alone)
        self._held.append(request)
        self._by_index[traced.index] = request

    def _reply(self, traced: Traced, answered: Traced) -> None:
        self._open.discard(answered.index)
        request = self._by_index.get(answered.index)
        if request is not None and not request.is_done:
            request.reply = traced
            self._answered.append(request)

    def _data(self, traced: Traced) -> None:
        if traced.request is None or traced.is_reply_frame:
            return
        request = self._by_index.get(traced.request.index)
        if request is None or traced.buffer is None or traced.buffer < 0:
            return
        packet = traced.packet
        pieces = request.out if packet.channel == _TO_DEVICE else request.into
        pieces.append(Piece(packet.address, packet.data, packet.length))
        self._bytes += len(packet.data)

    def _pop(self) -> RecordedRequest:
        request = self._held.popleft()
        del self._by_index[request.traced.index]
        self._open.discard(request.traced.index)
        self._bytes -= sum(len(piece.data) for piece in (*request.out, *request.into))
        return request
