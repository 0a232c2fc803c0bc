# SPDX-License-Identifier: Apache-2.0
"""Records the messages of one endpoint to a capture file."""

from __future__ import annotations

from typing import Final, Protocol

from i2o.transport.capture import pcapng_writer
from i2o.transport.capture.endpoint_recorder import PAYLOAD_BYTES, EndpointRecorder
from i2o.transport.capture.message_record import HEADER, MAX_NAME, Kind
from i2o.transport.capture.packet import LINKTYPE_ENDPOINT, Packet
from i2o.transport.capture.pcapng_writer import INBOUND, OUTBOUND, PacketShapes

_FLAGS: Final = {
    Kind.SEND.value: OUTBOUND,
    Kind.SENT.value: OUTBOUND,
    Kind.SEND_FAILED.value: OUTBOUND,
    Kind.RECEIVED.value: INBOUND,
    Kind.RECEIVE_FAILED.value: INBOUND,
    Kind.PEEKED.value: INBOUND,
}
"""`epb_flags` by kind; what happens to an end itself has no direction."""
_LOW: Final = 0xFFFF_FFFF
_KIND_AT: Final = 1
_HEAD: Final = HEADER.size + 2 * MAX_NAME


class BlockSink(Protocol):
    """What takes blocks: a `CaptureFile`."""

    def add_interface(self, name: str, link_type: int, snap_length: int, description: str) -> int:
        """Add an interface and return its index."""

    def put(self, interface: int, block: bytes) -> None:
        """Queue a block for an interface."""


class FileEndpoint(EndpointRecorder):
    """Records to a `CaptureFile`; made by `CaptureFile.add_endpoint`.

    Args:
        capture: the capture.
        number: the N of `epN`.
        description: its URI or name.
        endpoint_type: an `EndpointType`, 0 for what is no endpoint.
        snap_length: bytes of any packet to keep.
        payload_bytes: bytes of a message to keep.

    Attributes:
        capture: the capture.
        number: the N of `epN`.
    """

    def __init__(
        self,
        capture: BlockSink,
        number: int,
        description: str,
        *,
        endpoint_type: int,
        snap_length: int,
        payload_bytes: int = PAYLOAD_BYTES,
    ) -> None:
        super().__init__(self._write, endpoint_type=endpoint_type, payload_bytes=payload_bytes)
        self.capture, self.number = capture, number
        self._snap_length = snap = min(snap_length, payload_bytes + _HEAD)
        self._interface = interface = capture.add_interface(
            f"ep{number}", LINKTYPE_ENDPOINT, snap, description
        )
        self._shapes = {
            flags: PacketShapes(interface, flags, snap) for flags in (0, INBOUND, OUTBOUND)
        }

    def packet(self, packet: Packet) -> None:
        """Record a packet of another capture."""
        data = packet.data
        kind = data[_KIND_AT] if len(data) > _KIND_AT else 0
        self._block(packet.time_ns, kind, data, packet.length, packet.mfa, packet.comment)

    def _write(
        self, at_ns: int, kind: int, data: bytes, length: int, packet_id: int, comment: str
    ) -> None:
        size = len(data)
        if comment or size != length or size > self._snap_length:
            self._block(at_ns, kind, data, length, packet_id, comment)
            return
        pack, head, lengths, middle, tail = self._shapes[_FLAGS.get(kind, 0)][size]
        self.capture.put(
            self._interface,
            pack(head, at_ns >> 32, at_ns & _LOW, lengths, data, middle, packet_id, tail),
        )

    def _block(
        self,
        at_ns: int,
        kind: int,
        data: bytes,
        length: int,
        packet_id: int | None,
        comment: str,
    ) -> None:
        self.capture.put(
            self._interface,
            pcapng_writer.enhanced_packet(
                self._interface,
                at_ns,
                data[: self._snap_length],
                min(length, _LOW),  # the message's own length stands in its header
                flags=_FLAGS.get(kind, 0),
                packet_id=packet_id,
                comment=comment,
            ),
        )
