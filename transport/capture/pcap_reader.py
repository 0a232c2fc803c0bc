# SPDX-License-Identifier: Apache-2.0
"""Reads classic pcap files: one link type, no names, so the frames tell their direction."""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Final

from i2o.transport.capture.packet import (
    DMA_HEADER_SIZE,
    LINKTYPE_DMA,
    LINKTYPE_ENDPOINT,
    LINKTYPE_FRAME,
    Channel,
    Packet,
)
from i2o.transport.capture.pcapng_reader import Interface

MAGICS: Final = {
    b"\xd4\xc3\xb2\xa1": ("<", 1000),
    b"\xa1\xb2\xc3\xd4": (">", 1000),
    b"\x4d\x3c\xb2\xa1": ("<", 1),
    b"\xa1\xb2\x3c\x4d": (">", 1),
}
"""Byte order and nanoseconds per unit of the time's fraction, by the first four bytes."""

_HEADER_SIZE, _RECORD_SIZE = 24, 16
_MAX_PACKET: Final = 1 << 20
_REPLY: Final = 0x80


class PcapReader:
    """The packets of a pcap stream; iterate over it once.

    Args:
        read: returns the next bytes, empty at the end, as soon as there are some.

    Attributes:
        interfaces: one, once the header was read.
        problems: what was wrong with the file, in sentences.
        foreign: packets of other link types, which are skipped, by link type.
        dropped: always 0: the format cannot tell.
    """

    dropped = 0

    def __init__(self, read: Callable[[], bytes]) -> None:
        self._read = read
        self.interfaces: list[Interface] = []
        self.problems: list[str] = []
        self.foreign: Counter[int] = Counter()

    def __iter__(self) -> Iterator[Packet]:
        buffer, start = b"", 0
        order, unit_ns = "", 0
        while chunk := self._read():
            buffer += chunk
            at = 0
            if not order:
                if len(buffer) < _HEADER_SIZE:
                    continue
                order, unit_ns = MAGICS[buffer[:4]]
                snap_length, link_type = struct.unpack_from(f"{order}II", buffer, 16)
                self.interfaces.append(Interface(link_type & 0xFFFF, snap_length))
                at = _HEADER_SIZE
            while len(buffer) - at >= _RECORD_SIZE:
                seconds, fraction, captured, original = struct.unpack_from(
                    f"{order}IIII", buffer, at
                )
                if captured > _MAX_PACKET:
                    self.problems.append(
                        f"at byte {start + at}: a packet of {captured} bytes; "
                        "the rest of the file is not read"
                    )
                    return
                data_at = at + _RECORD_SIZE
                if len(buffer) - data_at < captured:
                    break
                at = data_at + captured
                time_ns = seconds * 1_000_000_000 + fraction * unit_ns
                packet = self._packet(time_ns, buffer[data_at:at], original)
                if packet is not None:
                    yield packet
            start += at
            buffer = buffer[at:]
        if buffer:
            self.problems.append(f"the file ends in the middle of a packet, at byte {start}")

    def _packet(self, time_ns: int, data: bytes, original: int) -> Packet | None:
        interface = self.interfaces[0]
        if interface.link_type == LINKTYPE_FRAME:
            is_reply = len(data) > 1 and data[1] & _REPLY
            channel = Channel.OUT if is_reply else Channel.IN
            address = 0
        elif interface.link_type == LINKTYPE_DMA:
            channel = Channel.FROM_DEVICE
            address = int.from_bytes(data[:DMA_HEADER_SIZE], "little")
            data, original = data[DMA_HEADER_SIZE:], max(0, original - DMA_HEADER_SIZE)
        elif interface.link_type == LINKTYPE_ENDPOINT:
            channel, address = Channel.MESSAGE, 0
        else:
            self.foreign[interface.link_type] += 1
            return None
        interface.packets += 1
        return Packet(time_ns, 0, channel.value, data, original, None, address)
