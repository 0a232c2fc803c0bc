# SPDX-License-Identifier: Apache-2.0
"""Turns what happens to messages at one end into packets of a capture.

For taps in front of endpoints, and for whoever has messages but no endpoint, such as a table of
peers. A recorder that writes to a file is made by `CaptureFile.add_endpoint`; this one hands its
packets to a function.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from itertools import count
from time import time_ns
from typing import Final

from i2o.transport.capture.message_record import (
    HEADER,
    VERSION,
    EventCode,
    Kind,
    MessageRecord,
    Present,
    pack_record,
)
from i2o.transport.capture.packet import Channel, Packet
from i2o.transport.fabric.endpoint import Buffer
from i2o.transport.fabric.flags import ADDR_UNSPEC, Flag

logger = logging.getLogger(__name__)

PAYLOAD_BYTES: Final = 4096
"""Bytes to keep of a message."""

_TAG, _IGNORE, _DATA = Present.TAG.value, Present.IGNORE.value, Present.CQ_DATA.value
_PEER: Final = Present.PEER.value
_LONG: Final = 0xFFFF_FFFF_FFFF_FFFF
_SEND: Final = (Flag.SEND | Flag.MSG).value
_RECEIVE: Final = (Flag.RECV | Flag.MSG).value
_TAGGED_SEND: Final = (Flag.SEND | Flag.TAGGED).value
_TAGGED_RECEIVE: Final = (Flag.RECV | Flag.TAGGED).value
_COMPLETION: Final = Flag.COMPLETION.value
_MESSAGE: Final = Channel.MESSAGE.value

Deliver = Callable[[int, int, bytes, int, int, str], object]
"""Takes (time in ns, kind, packet, its length before it was cut, packet id, comment)."""


class EndpointRecorder:
    """Takes what happens at one end. Nothing here raises, and nothing waits for a disk.

    Args:
        deliver: takes the packets, in the thread that causes the traffic.
        endpoint_type: an `EndpointType`, 0 for what is no endpoint.
        payload_bytes: bytes to keep of a message.

    Attributes:
        payload_bytes: bytes worth handing over of a message.
        next_id: returns a number for the next packet; what belongs together has the same.
    """

    def __init__(
        self, deliver: Deliver, *, endpoint_type: int = 0, payload_bytes: int = PAYLOAD_BYTES
    ) -> None:
        self._deliver, self._type = deliver, endpoint_type
        self.payload_bytes = payload_bytes
        self.next_id: Callable[[], int] = count(1).__next__

    # --- for tables of peers ---------------------------------------------------------------------

    def sent(
        self,
        payload: Buffer,
        *,
        to: str,
        tag: int | None = None,
        via: str = "",
        sequence: int | None = None,
        length: int | None = None,
        number: int | None = None,
    ) -> int:
        """Record a message that is handed over for sending, and return its number.

        Args:
            payload: the message.
            to: name of the addressee.
            tag: its tag, if messages have tags.
            via: name of the next hop, if that is not the addressee.
            sequence: its number, if messages have numbers.
            length: its bytes, if `payload` is only the first ones.
            number: of `next_id`, by default the next one.
        """
        if number is None:
            number = self.next_id()
        self._whole(
            Kind.SEND,
            number,
            payload,
            MessageRecord(
                Kind.SEND.value,
                op_flags=(_SEND if tag is None else _TAGGED_SEND) | _COMPLETION,
                tag=tag,
                peer=to,
                hop=via,
                length=length or 0,
                sequence=sequence,
            ),
        )
        return number

    def delivered(self, number: int, *, to: str = "") -> None:
        """Record that the sender is done with a message.

        Args:
            number: what `sent` returned.
            to: name of the addressee.
        """
        record = MessageRecord(Kind.SENT.value, op_flags=_SEND, peer=to)
        self._whole(Kind.SENT, number, b"", record)

    def failed(self, number: int, err: int, reason: str, *, to: str = "") -> None:
        """Record that a message could not be sent.

        Args:
            number: what `sent` returned.
            err: an errno.
            reason: why, in words.
            to: name of the addressee.
        """
        record = MessageRecord(Kind.SEND_FAILED.value, op_flags=_SEND, peer=to, err=err)
        self._whole(Kind.SEND_FAILED, number, b"", record, reason)

    def received(
        self,
        payload: Buffer,
        *,
        origin: str,
        tag: int | None = None,
        via: str = "",
        sequence: int | None = None,
    ) -> None:
        """Record a message that arrived, when it is handed to whoever asked for it.

        Args:
            payload: the message.
            origin: name of who sent it.
            tag: its tag, if messages have tags.
            via: name of who passed it on, if that is not the origin.
            sequence: its number, if messages have numbers.
        """
        self._whole(
            Kind.RECEIVED,
            self.next_id(),
            payload,
            MessageRecord(
                Kind.RECEIVED.value,
                op_flags=_RECEIVE if tag is None else _TAGGED_RECEIVE,
                tag=tag,
                peer=origin,
                hop=via,
                sequence=sequence,
            ),
        )

    def state(self, peer: str, sentence: str, *, err: int = 0) -> None:
        """Record that a peer is in another state.

        Args:
            peer: its name.
            sentence: which one and why, such as `connected to 127.0.0.1:7312`.
            err: an errno, if it is an error.
        """
        self.event(EventCode.STATE, sentence.encode(), peer_name=peer, err=err)

    # --- for taps --------------------------------------------------------------------------------

    def event(
        self, code: EventCode, payload: Buffer = b"", *, peer_name: str = "", err: int = 0
    ) -> None:
        """Record that something happened to the end itself.

        Args:
            code: what.
            payload: the parameter of a connection, or a sentence.
            peer_name: the other side.
            err: an errno, if it is an error.
        """
        record = MessageRecord(Kind.EVENT.value, event=code.value, peer=peer_name, err=err)
        self._whole(Kind.EVENT, self.next_id(), payload, record)

    def pack(
        self,
        kind: int,
        op_flags: int,
        tag: int | None,
        ignore: int | None,
        cq_data: int | None,
        peer: int,
        peer_name: bytes,
        length: int,
        payload: bytes,
        err: int = 0,
        prov_errno: int = 0,
    ) -> bytes:
        """Return the packet of a message; what is frequent goes this way, and may raise.

        Args:
            kind: a `Kind`.
            op_flags: of the operation or the completion.
            tag: None without one.
            ignore: of a tagged receive.
            cq_data: None without any.
            peer: fi_addr, ADDR_UNSPEC if it is not known.
            peer_name: what `encoded_name` made of the peer's.
            length: bytes of the message.
            payload: as much of it as is to be kept.
            err: of a failure.
            prov_errno: the provider's own.
        """
        present = _PEER if peer != ADDR_UNSPEC else 0
        if tag is None:
            tag = 0
        else:
            present |= _TAG
        if ignore is None:
            ignore = 0
        else:
            present |= _IGNORE
        if cq_data is None:
            cq_data = 0
        else:
            present |= _DATA
        head = HEADER.pack(
            VERSION,
            kind,
            self._type,
            0,
            present,
            len(peer_name),
            0,
            op_flags,
            tag & _LONG,
            ignore & _LONG,
            cq_data & _LONG,
            peer & _LONG,
            length,
            0,
            err & 0xFFFF_FFFF,
            prov_errno & 0xFFFF_FFFF,
        )
        return b"".join((head, peer_name, payload))

    def put(
        self,
        at_ns: int,
        kind: int,
        packet: bytes,
        missing: int,
        packet_id: int,
        comment: str = "",
    ) -> None:
        """Deliver a packet that `pack` made.

        Args:
            at_ns: nanoseconds since 1970.
            kind: a `Kind`.
            packet: the packet.
            missing: bytes of the message that are not in it.
            packet_id: of `next_id`.
            comment: a remark.
        """
        self._deliver(at_ns, kind, packet, len(packet) + missing, packet_id, comment)

    def _whole(
        self, kind: Kind, number: int, payload: Buffer, record: MessageRecord, comment: str = ""
    ) -> None:
        """Pack and deliver a record; the traffic goes on whatever happens."""
        try:
            length = max(len(payload), record.length)
            kept = bytes(memoryview(payload)[: self.payload_bytes])
            packet = pack_record(
                record._replace(endpoint_type=self._type, length=length, payload=kept)
            )
            self._deliver(
                time_ns(), kind.value, packet, len(packet) + length - len(kept), number, comment
            )
        except Exception:
            logger.warning("a message could not be captured", exc_info=True)


def packet_recorder(
    deliver: Callable[[Packet], object],
    *,
    number: int = 0,
    endpoint_type: int = 0,
    payload_bytes: int = PAYLOAD_BYTES,
) -> EndpointRecorder:
    """Return a recorder that hands every packet to a function.

    Args:
        deliver: called with each packet in the thread that causes the traffic; must not raise.
        number: the N of `epN`.
        endpoint_type: an `EndpointType`.
        payload_bytes: bytes to keep of a message.
    """

    def take(
        at_ns: int, kind: int, packet: bytes, length: int, packet_id: int, comment: str
    ) -> None:
        deliver(Packet(at_ns, number, _MESSAGE, packet, length, packet_id, comment=comment))

    return EndpointRecorder(take, endpoint_type=endpoint_type, payload_bytes=payload_bytes)
