# SPDX-License-Identifier: Apache-2.0
"""Builds the blocks of a pcapng file; writes nothing.

Everything is little-endian and has nanosecond times. The format is that of the IETF draft
`draft-ietf-opsawg-pcapng`; what our interfaces and packets mean is said in `packet`.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Final, NamedTuple

MAX_SNAP_LENGTH: Final = 262144
"""Bytes of a packet that Wireshark accepts; the longest frame there can be is 4 bytes shorter."""
OUTBOUND: Final = 2
"""`epb_flags` of what leaves the host: request frames, and memory that the IOP reads."""
INBOUND: Final = 1
"""`epb_flags` of what comes to the host."""

_BYTE_ORDER_MAGIC: Final = 0x1A2B3C4D
_SHB, _IDB, _ISB, _EPB = 0x0A0D0D0A, 1, 5, 6
_COMMENT: Final = 1
_SHB_HARDWARE, _SHB_OS, _SHB_USER_APPLICATION = 2, 3, 4
_IF_NAME, _IF_DESCRIPTION, _IF_TSRESOL = 2, 3, 9
_EPB_FLAGS, _EPB_PACKETID = 2, 5
_ISB_START, _ISB_END, _ISB_RECEIVED, _ISB_DROPPED, _ISB_DELIVERED = 2, 3, 4, 5, 8
_NANOSECONDS: Final = b"\x09"
_UNKNOWN_LENGTH: Final = 0xFFFF_FFFF_FFFF_FFFF
_LOW: Final = 0xFFFF_FFFF
_MAX_TEXT: Final = 4096
_MAX_SHAPES: Final = 1024
_EPB_FIXED: Final = 32
"""Bytes of an EPB around its data and options: 28 in front, 4 behind."""
_OPTIONS_SIZE: Final = 8 + 12 + 4
"""Bytes of the options of a frame: flags, packet id and the end of options."""

Shape = tuple[Callable[..., bytes], bytes, bytes, bytes, bytes]
"""How to pack packets of one length: see `PacketShapes`."""


class InterfaceCounts(NamedTuple):
    """What happened on an interface.

    Attributes:
        delivered: packets in the file.
        dropped: packets that are missing.
    """

    delivered: int
    dropped: int


def section_header(*, application: str, operating_system: str = "", hardware: str = "") -> bytes:
    """Return a section header block, of unknown section length.

    Args:
        application: name and version of the program.
        operating_system: what it runs on.
        hardware: the machine it runs on.
    """
    body = struct.pack("<IHHQ", _BYTE_ORDER_MAGIC, 1, 0, _UNKNOWN_LENGTH)
    texts = (
        (_SHB_HARDWARE, hardware),
        (_SHB_OS, operating_system),
        (_SHB_USER_APPLICATION, application),
    )
    return _block(_SHB, body, b"".join(_text(code, text) for code, text in texts))


def interface_description(
    name: str, *, link_type: int, snap_length: int, description: str = ""
) -> bytes:
    """Return an interface description block.

    Args:
        name: for example `iop0.in`.
        link_type: one of the LINKTYPE_ numbers.
        snap_length: most bytes of a packet that the file holds.
        description: what it is, for people.
    """
    options = (
        _text(_IF_NAME, name)
        + _text(_IF_DESCRIPTION, description)
        + _option(_IF_TSRESOL, _NANOSECONDS)
    )
    return _block(_IDB, struct.pack("<HHI", link_type, 0, snap_length), options)


def enhanced_packet(
    interface: int,
    time_ns: int,
    data: bytes,
    length: int,
    *,
    flags: int,
    packet_id: int | None = None,
    comment: str = "",
) -> bytes:
    """Return an enhanced packet block with any mixture of options.

    Args:
        interface: index of its interface description block.
        time_ns: nanoseconds since 1970.
        data: what was captured.
        length: bytes of the packet before it was cut.
        flags: OUTBOUND or INBOUND.
        packet_id: the MFA, if it is known.
        comment: a remark.
    """
    body = struct.pack("<IIIII", interface, time_ns >> 32 & _LOW, time_ns & _LOW, len(data), length)
    options = _text(_COMMENT, comment) + _option(_EPB_FLAGS, struct.pack("<I", flags))
    if packet_id is not None:
        options += _option(_EPB_PACKETID, struct.pack("<Q", packet_id))
    return _block(_EPB, body + _padded(data), options)


class PacketShapes(dict[int, Shape]):
    """What depends on nothing but the length of a packet, by length: the rest is one pack.

    ```
    pack, head, lengths, middle, tail = shapes[len(data)]
    block = pack(head, time_ns >> 32, time_ns & 0xFFFFFFFF, lengths, data, middle, mfa, tail)
    ```

    The block has the options `epb_flags` and `epb_packetid`. Longer data is cut in packing.

    Args:
        interface: index of the interface description block.
        flags: OUTBOUND or INBOUND.
        snap_length: bytes of a packet to keep.
    """

    def __init__(self, interface: int, flags: int, snap_length: int) -> None:
        super().__init__()
        self._interface, self._flags, self._snap_length = interface, flags, snap_length

    def __missing__(self, length: int) -> Shape:
        if len(self) >= _MAX_SHAPES:
            self.clear()
        kept = min(length, self._snap_length)
        padding = -kept % 4
        total = _EPB_FIXED + kept + padding + _OPTIONS_SIZE
        self[length] = shape = (
            struct.Struct(f"<12sII8s{kept}s{padding}x12sQ8s").pack,
            struct.pack("<III", _EPB, total, self._interface),
            struct.pack("<II", kept, length),
            struct.pack("<HHIHH", _EPB_FLAGS, 4, self._flags, _EPB_PACKETID, 8),
            struct.pack("<HHI", 0, 0, total),
        )
        return shape


def interface_statistics(
    interface: int, counts: InterfaceCounts, *, start_ns: int, end_ns: int
) -> bytes:
    """Return an interface statistics block.

    Args:
        interface: index of the interface description block.
        counts: what happened on it.
        start_ns: when the capture started, in nanoseconds since 1970.
        end_ns: when the block was written.
    """
    options = (
        _option(_ISB_START, _time(start_ns))
        + _option(_ISB_END, _time(end_ns))
        + _option(_ISB_RECEIVED, struct.pack("<Q", counts.delivered + counts.dropped))
        + _option(_ISB_DROPPED, struct.pack("<Q", counts.dropped))
        + _option(_ISB_DELIVERED, struct.pack("<Q", counts.delivered))
    )
    return _block(_ISB, struct.pack("<I", interface) + _time(end_ns), options)


def _block(kind: int, body: bytes, options: bytes) -> bytes:
    """Return a block whose body and options are whole words already."""
    if options:
        options += bytes(4)  # the end of options
    total = struct.pack("<I", 12 + len(body) + len(options))
    return struct.pack("<I", kind) + total + body + options + total


def _option(code: int, value: bytes) -> bytes:
    return struct.pack("<HH", code, len(value)) + _padded(value)


def _text(code: int, text: str) -> bytes:
    """Return a text as an option, nothing if it is empty; what is too long is cut."""
    if not text:
        return b""
    encoded = text.encode(errors="replace")[:_MAX_TEXT]
    return _option(code, encoded.decode(errors="ignore").encode())


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)


def _time(time_ns: int) -> bytes:
    return struct.pack("<II", time_ns >> 32 & _LOW, time_ns & _LOW)
