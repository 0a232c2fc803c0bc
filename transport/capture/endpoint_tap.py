# SPDX-License-Identifier: Apache-2.0
"""Stands in front of an endpoint and tells a recorder of every message.

A send is recorded when it is posted, with what its buffers have then; that it completed, and what
was received, when the program reads the completion. Whatever goes wrong in looking never reaches
the traffic. Receives that complete without an entry (selective completion) cannot be seen.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any, Final, Self
from weakref import WeakValueDictionary

from i2o.transport.capture.completion_tap import Receiving, Sending, TapCompletionQueue
from i2o.transport.capture.connection_tap import TapEventQueue
from i2o.transport.capture.endpoint_recorder import EndpointRecorder
from i2o.transport.capture.message_record import EventCode, encoded_name
from i2o.transport.fabric.endpoint import (
    NO_FLAGS,
    Buffer,
    CompletionQueue,
    Endpoint,
    EventQueue,
    Message,
    MulticastEndpoint,
)
from i2o.transport.fabric.flags import ADDR_UNSPEC, Bind, CqFormat, Flag

logger = logging.getLogger(__name__)

MAX_NAMES: Final = 65536
"""Names of peers that are remembered."""

_SEND: Final = (Flag.SEND | Flag.MSG).value
_TAGGED_SEND: Final = (Flag.SEND | Flag.TAGGED).value
_INJECT, _DATA = Flag.INJECT.value, Flag.REMOTE_CQ_DATA.value
_PEEK, _CLAIM = Flag.PEEK.value, Flag.CLAIM.value
_COMPLETION: Final = Flag.COMPLETION.value


class TapEndpoint:
    """An `Endpoint` that another one stands behind.

    Args:
        endpoint: the one behind; closing this one closes it.
        recorder: who is told: from `CaptureFile.add_endpoint`, or an `EndpointRecorder`.

    Attributes:
        inner: the one behind.
        recorder: who is told.
    """

    def __init__(self, endpoint: Endpoint, recorder: EndpointRecorder) -> None:
        self.inner, self.recorder = endpoint, recorder
        self.attributes = endpoint.attributes
        self._names: dict[int, bytes] = {}
        self._sends_come_back = self._receives_come_back = False
        self._ends = 0  # COMPLETION where every send has an end that can be seen
        self._receives: WeakValueDictionary[int, Receiving] = WeakValueDictionary()
        self._claims: list[Receiving] = []
        self._events: TapEventQueue | None = None
        # bound once: what is not looked at costs nothing
        self.enable, self.progress = endpoint.enable, endpoint.progress
        self.set_min_multi_recv, self.address_of = endpoint.set_min_multi_recv, endpoint.address_of
        if isinstance(endpoint, MulticastEndpoint):
            self._offer_groups(endpoint)

    def __getattr__(self, name: str) -> Any:
        if name in ("inner", "place_with"):  # not made yet; and what is placed is not seen
            raise AttributeError(name)
        return getattr(self.inner, name)

    @property
    def name(self) -> str:
        """The address that another endpoint can insert or connect to."""
        return self.inner.name

    # --- life ------------------------------------------------------------------------------------

    def open_cq(self, size: int = 0, format: CqFormat = CqFormat.TAGGED) -> CompletionQueue:
        """Make a queue, with a tap."""
        return TapCompletionQueue(self.inner.open_cq(size, format))

    def bind(self, cq: CompletionQueue, flags: Bind) -> None:
        """Name the queue of sends, of receives or of both; of one without a tap nothing is seen."""
        if not isinstance(cq, TapCompletionQueue):
            self.inner.bind(cq, flags)
            return
        self.inner.bind(cq.inner, flags)
        self._sends_come_back |= bool(flags & Bind.TRANSMIT)
        if flags & Bind.TRANSMIT and not flags & Bind.SELECTIVE_COMPLETION:
            self._ends = _COMPLETION
        self._receives_come_back |= bool(flags & Bind.RECV)

    def close(self) -> None:
        """Cancel what is posted, and let go of the queues."""
        self.recorder.event(EventCode.CLOSE)
        self._claims.clear()
        self.inner.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    # --- addresses -------------------------------------------------------------------------------

    def insert(self, address: str) -> int:
        """Make an fi_addr of the name of a peer."""
        number = self.inner.insert(address)
        self._remember(number, address)
        return number

    def remove(self, address: int) -> None:
        """Forget an fi_addr."""
        self.inner.remove(address)
        self._names.pop(address, None)

    def name_of(self, address: int) -> bytes:
        """Return the name behind an fi_addr, as it stands in a record; empty if unknown."""
        name = self._names.get(address)
        if name is None:
            name = b""
            if address != ADDR_UNSPEC:
                try:
                    name = self._remember(address, self.inner.address_of(address))
                except Exception:  # not in the table; the next message asks again
                    name = b""
        return name

    def _offer_groups(self, endpoint: MulticastEndpoint) -> None:
        """Have what makes a `MulticastEndpoint` of one."""

        def join(group: str) -> int:
            """Join a group and return its fi_addr."""
            number = endpoint.join(group)
            self._remember(number, group)
            return number

        self.join, self.leave = join, endpoint.leave

    def _remember(self, address: int, name: str) -> bytes:
        if len(self._names) >= MAX_NAMES:
            peer = self._names.get(ADDR_UNSPEC)
            self._names.clear()
            if peer is not None:
                self._names[ADDR_UNSPEC] = peer
        encoded = self._names[address] = encoded_name(name)
        return encoded

    # --- connections -----------------------------------------------------------------------------

    def connect(self, address: str, parameter: bytes = b"") -> None:
        """Ask a listener for a connection."""
        self.inner.connect(address, parameter)
        self._remember(ADDR_UNSPEC, address)
        self.recorder.event(EventCode.CONNECT, parameter, peer_name=address)

    def accept(self, parameter: bytes = b"") -> None:
        """Accept the request that this endpoint was made for."""
        self.inner.accept(parameter)
        self.recorder.event(EventCode.ACCEPT, parameter)

    def shutdown(self) -> None:
        """Tell the peer that this is the end."""
        self.inner.shutdown()
        self.recorder.event(EventCode.CLOSE, peer_name=self._peer_name())

    @property
    def events(self) -> EventQueue:
        """What happens to connections, with a tap."""
        if self._events is None:
            self._events = TapEventQueue(
                self.inner.events,
                self.recorder,
                source=self,
                behind=self.inner,
                peer_name=self._peer_name,
            )
        return self._events

    def _peer_name(self) -> str:
        return self._names.get(ADDR_UNSPEC, b"").decode()

    # --- sends -----------------------------------------------------------------------------------

    def send(
        self,
        buffer: Buffer,
        dest: int = ADDR_UNSPEC,
        *,
        desc: object = None,
        context: object = None,
    ) -> None:
        """Send one message."""
        sending = self._sending(_SEND, (buffer,), dest, context)
        given = sending if self._sends_come_back else context
        self.inner.send(buffer, dest, desc=desc, context=given)
        sending.posted()

    def sendv(
        self,
        buffers: Sequence[Buffer],
        dest: int = ADDR_UNSPEC,
        *,
        desc: Sequence[object] | None = None,
        context: object = None,
    ) -> None:
        """Gather buffers into one message."""
        sending = self._sending(_SEND, buffers, dest, context)
        given = sending if self._sends_come_back else context
        self.inner.sendv(buffers, dest, desc=desc, context=given)
        sending.posted()

    def sendmsg(self, message: Message, flags: Flag = NO_FLAGS) -> None:
        """Send with flags."""
        sending = self._sending_message(_SEND, message, flags)
        self.inner.sendmsg(self._as_given(message, sending), flags)
        sending.posted()

    def inject(self, buffer: Buffer, dest: int = ADDR_UNSPEC) -> None:
        """Send a few bytes; success is silent."""
        sending = self._sending(_SEND | _INJECT, (buffer,), dest, None)
        self.inner.inject(buffer, dest)
        sending.posted()

    def senddata(
        self,
        buffer: Buffer,
        data: int,
        dest: int = ADDR_UNSPEC,
        *,
        desc: object = None,
        context: object = None,
    ) -> None:
        """Send with a number."""
        sending = self._sending(_SEND | _DATA, (buffer,), dest, context, data=data)
        given = sending if self._sends_come_back else context
        self.inner.senddata(buffer, data, dest, desc=desc, context=given)
        sending.posted()

    def injectdata(self, buffer: Buffer, data: int, dest: int = ADDR_UNSPEC) -> None:
        """Inject with a number."""
        sending = self._sending(_SEND | _INJECT | _DATA, (buffer,), dest, None, data=data)
        self.inner.injectdata(buffer, data, dest)
        sending.posted()

    def tsend(
        self,
        buffer: Buffer,
        tag: int,
        dest: int = ADDR_UNSPEC,
        *,
        desc: object = None,
        context: object = None,
    ) -> None:
        """Send a tagged message."""
        sending = self._sending(_TAGGED_SEND, (buffer,), dest, context, tag)
        given = sending if self._sends_come_back else context
        self.inner.tsend(buffer, tag, dest, desc=desc, context=given)
        sending.posted()

    def tsendv(
        self,
        buffers: Sequence[Buffer],
        tag: int,
        dest: int = ADDR_UNSPEC,
        *,
        desc: Sequence[object] | None = None,
        context: object = None,
    ) -> None:
        """Gather a tagged message."""
        sending = self._sending(_TAGGED_SEND, buffers, dest, context, tag)
        given = sending if self._sends_come_back else context
        self.inner.tsendv(buffers, tag, dest, desc=desc, context=given)
        sending.posted()

    def tsendmsg(self, message: Message, flags: Flag = NO_FLAGS) -> None:
        """Send a tagged message with flags."""
        sending = self._sending_message(_TAGGED_SEND, message, flags, message.tag)
        self.inner.tsendmsg(self._as_given(message, sending), flags)
        sending.posted()

    def tinject(self, buffer: Buffer, tag: int, dest: int = ADDR_UNSPEC) -> None:
        """Inject a tagged message."""
        sending = self._sending(_TAGGED_SEND | _INJECT, (buffer,), dest, None, tag)
        self.inner.tinject(buffer, tag, dest)
        sending.posted()

    def tsenddata(
        self,
        buffer: Buffer,
        data: int,
        tag: int,
        dest: int = ADDR_UNSPEC,
        *,
        desc: object = None,
        context: object = None,
    ) -> None:
        """Send a tagged message with a number."""
        sending = self._sending(_TAGGED_SEND | _DATA, (buffer,), dest, context, tag, data)
        given = sending if self._sends_come_back else context
        self.inner.tsenddata(buffer, data, tag, dest, desc=desc, context=given)
        sending.posted()

    def tinjectdata(self, buffer: Buffer, data: int, tag: int, dest: int = ADDR_UNSPEC) -> None:
        """Inject a tagged message with a number."""
        sending = self._sending(_TAGGED_SEND | _INJECT | _DATA, (buffer,), dest, None, tag, data)
        self.inner.tinjectdata(buffer, data, tag, dest)
        sending.posted()

    def _sending(
        self,
        flags: int,
        buffers: Sequence[Buffer],
        dest: int,
        context: object,
        tag: int | None = None,
        data: int | None = None,
    ) -> Sending:
        sending = Sending(self, context)
        if not flags & _INJECT:
            flags |= self._ends
        try:
            sending.prepare(flags, buffers, dest, tag, data)
        except Exception:  # what is wrong with an argument, the endpoint says
            logger.debug("a send could not be looked at", exc_info=True)
        return sending

    def _sending_message(
        self, kind: int, message: Message, flags: Flag, tag: int | None = None
    ) -> Sending:
        number = int(flags)  # to look into a Flag costs several times as much
        return self._sending(
            kind | number | self._ends,
            message.buffers,
            message.address,
            message.context,
            tag,
            message.data if number & _DATA else None,
        )

    def _as_given(self, message: Message, sending: Sending) -> Message:
        return message._replace(context=sending) if self._sends_come_back else message

    # --- receives --------------------------------------------------------------------------------

    def recv(
        self, buffer: Buffer, src: int = ADDR_UNSPEC, *, desc: object = None, context: object = None
    ) -> None:
        """Queue a buffer."""
        given = self._receiving((buffer,), context) if self._receives_come_back else context
        self.inner.recv(buffer, src, desc=desc, context=given)

    def recvv(
        self,
        buffers: Sequence[Buffer],
        src: int = ADDR_UNSPEC,
        *,
        desc: Sequence[object] | None = None,
        context: object = None,
    ) -> None:
        """Queue buffers that one message fills."""
        given = self._receiving(buffers, context) if self._receives_come_back else context
        self.inner.recvv(buffers, src, desc=desc, context=given)

    def recvmsg(self, message: Message, flags: Flag = NO_FLAGS) -> None:
        """Queue a receive with flags."""
        self.inner.recvmsg(self._receiving_message(message, flags, None), flags)

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
        """Queue a buffer for a tagged message."""
        given = context
        if self._receives_come_back:
            given = self._receiving((buffer,), context, ignore=ignore)
        self.inner.trecv(buffer, tag, ignore, src, desc=desc, context=given)

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
        given = context
        if self._receives_come_back:
            given = self._receiving(buffers, context, ignore=ignore)
        self.inner.trecvv(buffers, tag, ignore, src, desc=desc, context=given)

    def trecvmsg(self, message: Message, flags: Flag = NO_FLAGS) -> None:
        """Queue a tagged receive with flags."""
        self.inner.trecvmsg(self._receiving_message(message, flags, message.ignore), flags)

    def cancel(self, context: object) -> bool:
        """End the oldest queued receive with this context."""
        if not self._receives_come_back:
            return self.inner.cancel(context)
        return any(
            self.inner.cancel(receive)
            for receive in list(self._receives.values())
            if _is_same(receive.context, context)
        )

    def claimed(self, receive: Receiving) -> None:
        """Keep what a PEEK|CLAIM was posted with: the CLAIM that follows must name the same."""
        self._claims.append(receive)

    def _receiving(
        self,
        buffers: Sequence[Buffer],
        context: object,
        *,
        flags: int = 0,
        ignore: int | None = None,
    ) -> Receiving:
        receive = Receiving(self, context, buffers, flags=flags, ignore=ignore)
        self._receives[id(receive)] = receive  # as long as the endpoint keeps it
        return receive

    def _receiving_message(self, message: Message, flags: Flag, ignore: int | None) -> Message:
        if not self._receives_come_back:
            return message
        number = int(flags)
        if number & _CLAIM and not number & _PEEK:
            for at, receive in enumerate(self._claims):
                if _is_same(receive.context, message.context):
                    del self._claims[at]
                    receive.renew(message.buffers, number)
                    return message._replace(context=receive)
        return message._replace(
            context=self._receiving(message.buffers, message.context, flags=number, ignore=ignore)
        )


def _is_same(one: object, other: object) -> bool:
    return one is other or bool(one == other)
