# SPDX-License-Identifier: Apache-2.0
"""Recorders of messages, and capture files with endpoints in them."""

from __future__ import annotations

import errno
import struct
from pathlib import Path

import pytest

from fakes.pcapng_blocks import section
from i2o.transport.capture import pcapng_writer
from i2o.transport.capture.capture_file import CaptureFile
from i2o.transport.capture.endpoint_recorder import EndpointRecorder, packet_recorder
from i2o.transport.capture.message_record import EventCode, Kind, MessageRecord, unpack_record
from i2o.transport.capture.packet import LINKTYPE_ENDPOINT, Channel, Packet
from i2o.transport.capture.reader import open_capture
from i2o.transport.fabric.flags import Flag

FRAME = bytes(20)


def use(recorder: EndpointRecorder) -> None:
    """What a table of peers does."""
    number = recorder.sent(b"hello", to="node-b", tag=7, via="relay", sequence=1)
    recorder.delivered(number, to="node-b")
    lost = recorder.sent(memoryview(b"lost"), to="node-c")
    recorder.failed(lost, errno.EHOSTUNREACH, "no route", to="node-c")
    recorder.received(bytearray(b"answer"), origin="node-b", tag=7, via="relay", sequence=9)
    recorder.received(b"untagged", origin="node-d")
    recorder.state("node-b", "closed: the peer went away", err=errno.ECONNRESET)


def test_messages_without_an_endpoint() -> None:
    packets: list[Packet] = []
    use(packet_recorder(packets.append, number=4))
    records = [unpack_record(packet.data) for packet in packets]
    tagged, plain = Flag.SEND | Flag.TAGGED, Flag.SEND | Flag.MSG
    ends = Flag.COMPLETION
    assert records == [
        MessageRecord(
            Kind.SEND, op_flags=tagged | ends, tag=7, peer="node-b", hop="relay", sequence=1,
            length=5, payload=b"hello",
        ),
        MessageRecord(Kind.SENT, op_flags=plain, peer="node-b"),
        MessageRecord(Kind.SEND, op_flags=plain | ends, peer="node-c", length=4, payload=b"lost"),
        MessageRecord(Kind.SEND_FAILED, op_flags=plain, peer="node-c", err=errno.EHOSTUNREACH),
        MessageRecord(
            Kind.RECEIVED, op_flags=Flag.RECV | Flag.TAGGED, tag=7, peer="node-b", hop="relay",
            sequence=9, length=6, payload=b"answer",
        ),
        MessageRecord(
            Kind.RECEIVED, op_flags=Flag.RECV | Flag.MSG, peer="node-d", length=8,
            payload=b"untagged",
        ),
        MessageRecord(
            Kind.EVENT, event=EventCode.STATE, peer="node-b", err=errno.ECONNRESET, length=26,
            payload=b"closed: the peer went away",
        ),
    ]  # fmt: skip
    assert {packet.iop for packet in packets} == {4}
    ids = [packet.mfa for packet in packets]
    assert ids[0] == ids[1] != ids[2] == ids[3]
    assert len(set(ids)) == 5
    assert packets[3].comment == "no route"


def test_a_recorder_keeps_its_troubles_to_itself(caplog: pytest.LogCaptureFixture) -> None:
    def deliver(*packet: object) -> None:
        raise OSError("no")

    use(EndpointRecorder(deliver))
    assert [record.message for record in caplog.records] == ["a message could not be captured"] * 7


def test_endpoints_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "a.pcapng"
    with CaptureFile(path, payload_bytes=4) as file:
        first = file.add_endpoint("mem://a", endpoint_type=3)
        iop = file.add_iop("emu:")
        second = file.add_endpoint("peers")
        use(first)
        iop.request(1, 0x1000, FRAME)
        use(second)
        assert (first.number, second.number, iop.number) == (0, 1, 0)
    found = section(path)
    assert found.interfaces[0][:2] == ("ep0", "mem://a")
    with open_capture(str(path)) as capture:
        packets = list(capture)
        assert capture.problems == []
        assert [i.iop for i in capture.interfaces if i.link_type == LINKTYPE_ENDPOINT] == [0, 1]
    messages = [packet for packet in packets if packet.channel == Channel.MESSAGE]
    assert [packet.iop for packet in messages] == [0] * 7 + [1] * 7
    assert len(packets) == 15
    for at in (0, 7):
        record = unpack_record(messages[at].data)
        assert (record.payload, record.length) == (b"hell", 5)
        assert messages[at].length == len(messages[at].data) + 1
        assert messages[at].mfa == messages[at + 1].mfa
    assert messages[3].comment == "no route"
    assert unpack_record(messages[0].data).endpoint_type == 3
    flags = [packet.flags for packet in found.packets if packet.interface == 0]
    assert flags == [2, 2, 2, 2, 1, 1, 0]


def test_a_message_longer_than_pcapng_can_say(tmp_path: Path) -> None:
    with CaptureFile(tmp_path / "a") as file:
        endpoint = file.add_endpoint()
        endpoint.put(1, Kind.SEND, bytes(72), 1 << 40, 1)
    with open_capture(str(tmp_path / "a")) as capture:
        assert [packet.length for packet in capture] == [0xFFFFFFFF]


def test_a_copy_of_a_capture_is_the_same(tmp_path: Path) -> None:
    first, second = tmp_path / "a.pcapng", tmp_path / "b.pcapng"
    with CaptureFile(first) as file:
        use(file.add_endpoint("mem://a", number=3))
    with open_capture(str(first)) as capture:
        packets = list(capture)
    packets += [
        Packet(5, 3, Channel.MESSAGE, b"", 0),
        Packet(6, 0, Channel.MESSAGE, b"\x01", 2, 8, comment="cut"),
    ]
    with CaptureFile(second) as file:
        for packet in packets:
            file.add_packet(packet, "mem://a")
        file.add_packet(Packet(7, 3, Channel.IN, FRAME, 20, 1), "emu:")
    with open_capture(str(second)) as capture:
        assert list(capture)[:-1] == packets
        names = [(i.name, i.description) for i in capture.interfaces]
    assert names[:3] == [("ep3", "mem://a"), ("ep0", "mem://a"), ("iop3.in", "emu:")]


def test_interfaces_of_other_programs(tmp_path: Path) -> None:
    """A USER2 interface without our name is endpoint 0; a name alone makes no endpoint."""
    path = tmp_path / "a.pcapng"
    blocks = [pcapng_writer.section_header(application="x")]
    for number, (name, link) in enumerate(
        [("", 149), ("ep99999", 149), ("ep7", 147), ("ep7", 149)]
    ):
        blocks.append(pcapng_writer.interface_description(name, link_type=link, snap_length=0))
        blocks.append(pcapng_writer.enhanced_packet(number, 1, FRAME, 20, flags=0))
    path.write_bytes(b"".join(blocks))
    with open_capture(str(path)) as capture:
        found = [(packet.iop, packet.channel) for packet in capture]
    message = Channel.MESSAGE
    assert found == [(0, message), (0, message), (0, Channel.IN), (7, message)]


def test_classic_pcap(tmp_path: Path) -> None:
    path = tmp_path / "a.pcap"
    packets: list[Packet] = []
    use(packet_recorder(packets.append))
    data = struct.pack("<IHHiIII", 0xA1B23C4D, 2, 4, 0, 0, 65536, LINKTYPE_ENDPOINT)
    for packet in packets:
        data += struct.pack("<IIII", 1, 2, len(packet.data), packet.length) + packet.data
    path.write_bytes(data)
    with open_capture(str(path)) as capture:
        found = list(capture)
    assert [packet.data for packet in found] == [packet.data for packet in packets]
    assert {packet.channel for packet in found} == {Channel.MESSAGE}
