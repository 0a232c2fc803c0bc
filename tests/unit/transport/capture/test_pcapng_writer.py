# SPDX-License-Identifier: Apache-2.0
"""The blocks of a pcapng file, taken apart by an independent parser and by tshark."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fakes.pcapng_blocks import TSHARK, section, tshark_packets
from i2o.transport.capture.packet import LINKTYPE_FRAME
from i2o.transport.capture.pcapng_writer import (
    INBOUND,
    MAX_SNAP_LENGTH,
    OUTBOUND,
    InterfaceCounts,
    PacketShapes,
    enhanced_packet,
    interface_description,
    interface_statistics,
    section_header,
)

SHB = section_header(application="i2o 1", operating_system="Linux", hardware="x86")
IDB = interface_description(
    "iop0.in", link_type=LINKTYPE_FRAME, snap_length=MAX_SNAP_LENGTH, description="emu:"
)
TIME = 1_795_448_832_256_630_628


def fast(shapes: PacketShapes, time_ns: int, mfa: int, data: bytes) -> bytes:
    pack, head, lengths, middle, tail = shapes[len(data)]
    return pack(head, time_ns >> 32, time_ns & 0xFFFFFFFF, lengths, data, middle, mfa, tail)


def test_headers_say_who_wrote_what():
    found = section(SHB + IDB)
    assert found.header == {2: b"x86", 3: b"Linux", 4: b"i2o 1"}
    assert found.interfaces == [("iop0.in", "emu:", 147, 262144)]


@given(st.binary(max_size=300), st.integers(0, (1 << 63) - 1), st.integers(0, (1 << 32) - 1))
def test_the_fast_way_and_the_slow_way_agree(data, time_ns, mfa):
    slow = enhanced_packet(0, time_ns, data, len(data), flags=OUTBOUND, packet_id=mfa)
    assert fast(PacketShapes(0, OUTBOUND, 65536), time_ns, mfa, data) == slow
    (packet,) = section(SHB + IDB + slow).packets
    assert (packet.data, packet.length, packet.time_ns) == (data, len(data), time_ns)
    assert (packet.flags, packet.packet_id, packet.comment) == (2, mfa, "")


@pytest.mark.parametrize("length", [16, 17, 63, 64, 65, 4096])
def test_long_packets_are_cut(length):
    data = bytes(range(256)) * 16
    block = fast(PacketShapes(0, INBOUND, 63), TIME, 1, data[:length])
    (packet,) = section(SHB + IDB + block).packets
    assert packet.data == data[: min(length, 63)]
    assert (packet.length, packet.flags) == (length, 1)


def test_shapes_are_bounded():
    shapes = PacketShapes(0, INBOUND, 4096)
    for length in range(3000):
        assert struct.unpack_from("<I", fast(shapes, TIME, 1, bytes(length)), 20)[0] == length
    assert len(shapes) <= 1024


def test_statistics():
    block = interface_statistics(0, InterfaceCounts(7, 3), start_ns=TIME, end_ns=TIME + 5)
    (found,) = section(SHB + IDB + block).statistics
    assert (found.received, found.dropped, found.delivered) == (10, 3, 7)
    assert (found.start_ns, found.end_ns) == (TIME, TIME + 5)


def test_long_texts_are_cut_between_characters():
    block = enhanced_packet(0, TIME, b"", 0, flags=1, comment="aä" * 3000)
    (packet,) = section(SHB + IDB + block).packets
    assert ("aä" * 3000).startswith(packet.comment)
    assert 4000 < len(packet.comment.encode()) <= 4096
    assert packet.packet_id is None


@pytest.mark.skipif(TSHARK is None, reason="tshark is missing: apt-get install tshark")
def test_tshark_reads_every_field(tmp_path):
    path = tmp_path / "a.pcapng"
    path.write_bytes(
        SHB
        + IDB
        + fast(PacketShapes(0, OUTBOUND, 65536), TIME, 0x1000, bytes(13))
        + enhanced_packet(
            0, TIME + 1, b"abc", 70, flags=INBOUND, packet_id=0xFFFF_FFFF, comment="odd"
        )
    )
    fields = (
        "frame.interface_name",
        "frame.interface_description",
        "frame.time_epoch",
        "frame.cap_len",
        "frame.len",
        "frame.packet_flags_direction",
        "frame.packet_id",
        "frame.comment",
    )
    first, second = tshark_packets(path, *fields)
    name = ["iop0.in", "emu:"]
    assert first == [*name, "1795448832.256630628", "13", "13", "0x00000002", "4096", ""]
    assert second == [*name, "1795448832.256630629", "3", "70", "0x00000001", "4294967295", "odd"]
