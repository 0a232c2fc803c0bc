# SPDX-License-Identifier: Apache-2.0
"""Reads pcapng, ours and others': both byte orders, any time resolution, several sections.

Whatever the bytes say, the work is bounded: block and packet lengths are checked before use, and
reading ends, with the reason in `problems`, at the first block that contradicts itself.
Format: draft-ietf-opsawg-pcapng.
"""

from __future__ import annotations

import re
import struct
from collections import Counter
from collections.abc import Callable, Generator, Iterator
from typing import Final

from i2o.transport.capture.packet import (
    DMA_HEADER_SIZE,
    LINKTYPE_DMA,
    LINKTYPE_ENDPOINT,
    LINKTYPE_FRAME,
    Channel,
    Packet,
)

MAGIC: Final = b"\x0a\x0d\x0d\x0a"

_MAX_BLOCK: Final = 1 << 25
_MAX_INTERFACES: Final = 1 << 16
_MAX_IOP: Final = 0xFFFF
_MAX_TEXT: Final = 1 << 12
_SECTION, _INTERFACE, _OLD_PACKET, _SIMPLE, _STATISTICS, _ENHANCED = 0x0A0D0D0A, 1, 2, 3, 5, 6
_BYTE_ORDER: Final = 0x1A2B3C4D
_OPT_COMMENT, _IF_NAME, _IF_DESCRIPTION, _IF_TSRESOL, _IF_TSOFFSET = 1, 2, 3, 9, 14
_EPB_FLAGS, _EPB_PACKETID = 2, 5
_ISB_IFDROP, _ISB_OSDROP = 5, 7
_INBOUND, _OUTBOUND = 1, 2
_REPLY: Final = 0x80

_NAME: Final = re.compile(r"iop(\d{1,5})\.(in|out|dma)")
_ENDPOINT_NAME: Final = re.compile(r"ep(\d{1,5})")
_IN, _OUT = Channel.IN.value, Channel.OUT.value
_TO_DEVICE, _FROM_DEVICE = Channel.TO_DEVICE.value, Channel.FROM_DEVICE.value
_MESSAGE: Final = Channel.MESSAGE.value
_OWN_OPTIONS: Final = struct.Struct("<IIIQI")
_OWN_FLAGS, _OWN_PACKETID = 0x00040002, 0x00080005
_new_tuple = tuple.__new__  # half the time of calling the class


class Interface:
    """One interface of a capture.

    Attributes:
        name: for example `iop0.in`; empty if it has none.
        description: the URI, in our own captures.
        link_type: a LINKTYPE number.
        snap_length: the most bytes a packet has here, 0 for no limit.
        dropped: packets that the capture lost here, as far as it says.
        packets: packets read so far; for our own link types only.
        iop: number of the IOP or of the endpoint that it belongs to.
        channel: what passes here; None if the packets must tell.
    """

    def __init__(self, link_type: int, snap_length: int) -> None:
        self.name = self.description = ""
        self.link_type, self.snap_length = link_type, snap_length
        self.dropped = self.packets = 0
        self.iop = 0
        self.channel: int | None = _MESSAGE if link_type == LINKTYPE_ENDPOINT else None
        self.units_per_s = 1_000_000
        self.offset_ns = 0

    def set_name(self, name: str) -> None:
        """Take the name, and what it says about IOP and direction."""
        self.name = name
        match = _NAME.fullmatch(name)
        if match and int(match[1]) <= _MAX_IOP:
            self.iop = int(match[1])
            if self.link_type == LINKTYPE_FRAME and match[2] != "dma":
                self.channel = _IN if match[2] == "in" else _OUT
        elif self.link_type == LINKTYPE_ENDPOINT:
            match = _ENDPOINT_NAME.fullmatch(name)
            if match and int(match[1]) <= _MAX_IOP:
                self.iop = int(match[1])


class PcapngReader:
    """The packets of a pcapng stream; iterate over it once.

    Args:
        read: returns the next bytes, empty at the end, as soon as there are some.

    Attributes:
        interfaces: of all sections so far.
        problems: what was wrong with the file, in sentences.
        foreign: packets of other link types, which are skipped, by link type.
    """

    def __init__(self, read: Callable[[], bytes]) -> None:
        self._read = read
        self.interfaces: list[Interface] = []
        self.problems: list[str] = []
        self.foreign: Counter[int] = Counter()
        self._order = "<"
        self._needed = 0  # bytes of the block that the buffer starts with
        self._section: list[Interface] = []

    @property
    def dropped(self) -> int:
        """Packets that the capture lost, as far as it says."""
        return sum(interface.dropped for interface in self.interfaces)

    def __iter__(self) -> Iterator[Packet]:
        buffer, start = b"", 0  # and where the buffer starts in the stream
        while more := self._at_least(self._needed - len(buffer)):
            buffer = buffer + more if buffer else more
            at = yield from self._blocks(buffer, start)
            if at < 0:
                return
            start += at
            buffer = buffer[at:]
        if buffer:
            self.problems.append(f"the file ends in the middle of a block, at byte {start}")

    def _at_least(self, size: int) -> bytes:
        """Read until there are that many bytes, or no more: large blocks are put together once."""
        chunks = [self._read()]
        have = len(chunks[0])
        while chunks[-1] and have < size:
            chunks.append(self._read())
            have += len(chunks[-1])
        return chunks[0] if len(chunks) == 1 else b"".join(chunks)

    def _blocks(self, buffer: bytes, start: int) -> Generator[Packet, None, int]:
        """Yield the packets of all complete blocks; return where the first incomplete one is.

        Returns -1 if reading must end.
        """
        at, end = 0, len(buffer)
        order = self._order
        read_head, read_packet = struct.Struct(f"{order}II").unpack_from, _packet_reader(order)
        section, own_options = self._section, _OWN_OPTIONS.unpack_from
        is_little = order == "<"
        while end - at >= 12:
            kind, length = read_head(buffer, at)
            if kind == _SECTION:
                order = _section_order(buffer, at)
                if not order:
                    return self._damaged(start + at, "a section header without byte-order magic")
                self._order, is_little = order, order == "<"
                read_head, read_packet = (
                    struct.Struct(f"{order}II").unpack_from,
                    _packet_reader(order),
                )
                length = read_head(buffer, at)[1]
            if length < 12 or length & 3 or length > _MAX_BLOCK:
                return self._damaged(start + at, f"a block of {length} bytes")
            block_end = at + length
            if block_end > end:
                self._needed = length
                return at
            if buffer[block_end - 4 : block_end] != buffer[at + 4 : at + 8]:
                return self._damaged(start + at, "a block whose two lengths differ")
            if kind == _ENHANCED and length >= 32:
                number, high, low, captured, original = read_packet(buffer, at + 8)
                data_at = at + 28
                data_end = data_at + captured
                if data_end > block_end - 4:
                    return self._damaged(start + at, f"a packet of {captured} bytes in its block")
                if number >= len(section):
                    return self._damaged(start + at, f"a packet of unknown interface {number}")
                interface = section[number]
                options_at = data_at + (captured + 3 & ~3)
                mfa = None
                way = 0
                comment = ""
                if block_end - options_at == 28 and is_little:
                    first, way, second, mfa, _ = own_options(buffer, options_at)
                    if first != _OWN_FLAGS or second != _OWN_PACKETID:
                        way, mfa, comment = self._options(buffer, options_at, block_end - 4)
                elif block_end - options_at > 4:
                    way, mfa, comment = self._options(buffer, options_at, block_end - 4)
                time_ns = high << 32 | low
                if interface.units_per_s != 1_000_000_000 or interface.offset_ns:
                    time_ns = time_ns * 1_000_000_000 // interface.units_per_s + interface.offset_ns
                channel = interface.channel
                if channel is not None:
                    interface.packets += 1
                    yield _new_tuple(
                        Packet,
                        (
                            time_ns,
                            interface.iop,
                            channel,
                            buffer[data_at:data_end],
                            original,
                            mfa,
                            0,
                            comment,
                        ),
                    )
                else:
                    packet = self._unclear(
                        interface, time_ns, buffer[data_at:data_end], original, way, mfa, comment
                    )
                    if packet is not None:
                        yield packet
            elif kind == _SECTION:
                section = self._section = []
            elif kind == _INTERFACE:
                if length < 20 or len(section) >= _MAX_INTERFACES:
                    return self._damaged(start + at, "an interface description without content")
                interface = self._interface(buffer, at, block_end)
                section.append(interface)
                self.interfaces.append(interface)
            elif kind == _STATISTICS:
                self._statistics(buffer, at, block_end)
            elif kind in (_SIMPLE, _OLD_PACKET):
                packet = self._other_packet(kind, buffer, at, block_end)
                if packet is not None:
                    yield packet
            elif kind == _ENHANCED:
                return self._damaged(start + at, f"a packet block of {length} bytes")
            at = block_end
        self._needed = 0
        return at

    def _damaged(self, at: int, what: str) -> int:
        self.problems.append(f"at byte {at}: {what}; the rest of the file is not read")
        return -1

    def _unclear(
        self,
        interface: Interface,
        time_ns: int,
        data: bytes,
        original: int,
        way: int,
        mfa: int | None,
        comment: str,
    ) -> Packet | None:
        """Return a packet whose direction the interface does not tell, None for a foreign one."""
        link_type = interface.link_type
        address = 0
        if link_type == LINKTYPE_FRAME:
            way &= 3
            if way == _OUTBOUND:
                channel = _IN
            elif way == _INBOUND:
                channel = _OUT
            else:
                channel = _OUT if len(data) > 1 and data[1] & _REPLY else _IN
        elif link_type == LINKTYPE_DMA:
            channel = _TO_DEVICE if way & 3 == _OUTBOUND else _FROM_DEVICE
            address = int.from_bytes(data[:DMA_HEADER_SIZE], "little")
            data = data[DMA_HEADER_SIZE:]
            original = max(0, original - DMA_HEADER_SIZE)
        elif link_type == LINKTYPE_ENDPOINT:
            channel = _MESSAGE
        else:
            self.foreign[link_type] += 1
            return None
        interface.packets += 1
        return Packet(time_ns, interface.iop, channel, data, original, mfa, address, comment)

    def _interface(self, buffer: bytes, at: int, block_end: int) -> Interface:
        link_type, snap_length = struct.unpack_from(f"{self._order}H2xI", buffer, at + 8)
        interface = Interface(link_type, snap_length)
        for code, value in self._each_option(buffer, at + 16, block_end - 4):
            if code == _IF_NAME:
                interface.set_name(_text(value))
            elif code == _IF_DESCRIPTION:
                interface.description = _text(value)
            elif code == _IF_TSRESOL and value:
                exponent = value[0] & 0x7F
                interface.units_per_s = (
                    1 << exponent if value[0] & 0x80 else 10 ** min(exponent, 18)
                )
            elif code == _IF_TSOFFSET and len(value) == 8:
                seconds: int = struct.unpack(f"{self._order}q", value)[0]
                interface.offset_ns = seconds * 1_000_000_000
        return interface

    def _statistics(self, buffer: bytes, at: int, block_end: int) -> None:
        if block_end - at < 24:
            return
        number: int = struct.unpack_from(f"{self._order}I", buffer, at + 8)[0]
        if number >= len(self._section):
            return
        dropped = 0
        for code, value in self._each_option(buffer, at + 20, block_end - 4):
            if code in (_ISB_IFDROP, _ISB_OSDROP) and len(value) == 8:
                dropped += struct.unpack(f"{self._order}Q", value)[0]
        self._section[number].dropped = dropped

    def _other_packet(self, kind: int, buffer: bytes, at: int, block_end: int) -> Packet | None:
        """Return the packet of a block without our options: simple, or of the obsolete kind."""
        order = self._order
        number = time_ns = 0
        if kind == _SIMPLE:
            if block_end - at < 16 or not self._section:
                return None
            original: int = struct.unpack_from(f"{order}I", buffer, at + 8)[0]
            captured, data_at = original, at + 12
            if self._section[0].snap_length:
                captured = min(captured, self._section[0].snap_length)
        else:
            if block_end - at < 32:
                return None
            number, high, low, captured, original = struct.unpack_from(
                f"{order}H2xIIII", buffer, at + 8
            )
            data_at = at + 28
            time_ns = high << 32 | low
        if number >= len(self._section):
            return None
        interface = self._section[number]
        data = buffer[data_at : min(data_at + captured, block_end - 4)]
        time_ns = time_ns * 1_000_000_000 // interface.units_per_s + interface.offset_ns
        way = {_IN: _OUTBOUND, _OUT: _INBOUND}.get(interface.channel or 0, 0)
        if interface.channel is None:
            way = 0
        return self._unclear(interface, time_ns, data, original, way, None, "")

    def _options(self, buffer: bytes, at: int, end: int) -> tuple[int, int | None, str]:
        """Return (flags, MFA, comment) of a packet's options."""
        flags, mfa, comment = 0, None, ""
        for code, value in self._each_option(buffer, at, end):
            if code == _EPB_FLAGS and len(value) == 4:
                flags = struct.unpack(f"{self._order}I", value)[0]
            elif code == _EPB_PACKETID and len(value) == 8:
                mfa = struct.unpack(f"{self._order}Q", value)[0]
            elif code == _OPT_COMMENT and not comment:
                comment = _text(value)
        return flags, mfa, comment

    def _each_option(self, buffer: bytes, at: int, end: int) -> Iterator[tuple[int, bytes]]:
        while end - at >= 4:
            code, length = struct.unpack_from(f"{self._order}HH", buffer, at)
            if code == 0 or at + 4 + length > end:
                return
            yield code, buffer[at + 4 : at + 4 + length]
            at += 4 + (length + 3 & ~3)


def _packet_reader(order: str) -> Callable[[bytes, int], tuple[int, int, int, int, int]]:
    return struct.Struct(f"{order}IIIII").unpack_from


def _section_order(buffer: bytes, at: int) -> str:
    """Return the byte order of a section, empty if its magic is wrong."""
    for order in "<>":
        if struct.unpack_from(f"{order}I", buffer, at + 8)[0] == _BYTE_ORDER:
            return order
    return ""


def _text(value: bytes) -> str:
    return value[:_MAX_TEXT].rstrip(b"\0").decode("utf-8", "replace")
