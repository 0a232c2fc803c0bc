# SPDX-License-Identifier: Apache-2.0
"""Packets of remote IOPs in captured messages: records however they are cut, and their frames."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence

import pytest

from fakes.decoded import decoded, problems
from fakes.message_traffic import SEND, message_packet
from i2o.decode import wire_payload, wire_stream
from i2o.decode.conversation import Conversation, Traced
from i2o.decode.payload_followers import payload_followers
from i2o.decode.summary import summary
from i2o.decode.wire_payload import WireFollower, WirePayload
from i2o.decode.wire_stream import WirePacket, WireRecord, WireStream, is_hello, read_packet
from i2o.frames import block_storage, executive
from i2o.frames.header import MsgFlags
from i2o.transport.capture.message_record import Kind as MessageKind
from i2o.transport.capture.message_record import MessageRecord
from i2o.transport.wire.messages import (
    BULK,
    DEVICE_KINDS,
    HELLO,
    HOST_KINDS,
    LAYOUTS,
    MAGIC,
    TEXT_UNITS,
    Kind,
    RangeFlags,
    record_packer,
)
from i2o.transport.wire.stream import StreamWriter, lone_packet


def record(kind: Kind, *fields: int, data: bytes = b"") -> bytes:
    return record_packer(kind).pack(kind, *fields) + data


def hello(name: bytes = b"host") -> bytes:
    body = HELLO.build(
        magic=MAGIC, version=1, window=16, packet_size=4096, token=7, name_length=len(name)
    )
    return lone_packet(0, bytes((Kind.HELLO,)) + body + name)


def read_frame() -> bytes:
    frame = block_storage.BSA_BLOCK_READ.build(
        target_address=0x10, transaction_context=5, transfer_byte_count=512, message_size=8
    )
    return bytes(frame)


def reply_frame() -> bytes:
    return bytes(
        block_storage.BSA_SUCCESS_REPLY.build(
            target_address=0x10,
            function=0x30,
            transaction_context=5,
            transfer_count=512,
            message_size=6,
            msg_flags=MsgFlags.REPLY | MsgFlags.LAST,
        )
    )


class Line:
    """An endpoint of a host, by what passes it."""

    def __init__(self) -> None:
        self.conversation = Conversation(payload_followers())
        self.time = 0

    def say(self, payload: bytes, *, sent: bool = True, cut: int = 0, endpoint: int = 0) -> Traced:
        self.time += 1000
        kept = payload[: len(payload) - cut]
        kind = MessageKind.SEND if sent else MessageKind.RECEIVED
        return self.conversation.feed(
            message_packet(
                self.time,
                MessageRecord(kind, op_flags=SEND, length=len(payload), payload=kept),
                self.time,
                endpoint=endpoint,
            )
        )


def text_of(traced: Traced) -> str:
    return summary(traced).partition(": ")[2]


# --- streams -------------------------------------------------------------------------------------


def random_records(
    rng: random.Random, count: int
) -> list[tuple[bytes, Kind, tuple[int, ...], bytes]]:
    """Records of all kinds that stand in streams, as bytes and as what they say."""
    found = []
    kinds = sorted(HOST_KINDS | DEVICE_KINDS - {Kind.WELCOME})
    for _ in range(count):
        kind = Kind(rng.choice(kinds))
        fields = [rng.randrange(1 << field.width_bits) for field in LAYOUTS[kind].fields]
        data = b""
        if kind in TEXT_UNITS:
            fields[-1] = rng.randrange(40)
            data = rng.randbytes(TEXT_UNITS[kind] * fields[-1])
        elif kind in BULK and (kind is not Kind.RANGE or fields[0] & RangeFlags.DATA):
            fields[-1] = rng.choice((0, 1, 7, 300, 2000))
            data = rng.randbytes(fields[-1])
        found.append((record(kind, *fields, data=data), kind, tuple(fields), data))
    return found


def packets_of(records: Sequence[bytes], size: int) -> Iterator[bytes]:
    """Cut a stream into packets as a sender does."""
    writer = StreamWriter(3, 100_000, size, 100)
    for one in records:
        writer.add(one)
    while (packet := writer.next_packet()) is not None:
        yield b"".join(packet.buffers)


def joined(packets: Sequence[Sequence[WireRecord]]) -> list[tuple[int, tuple[int, ...], bytes]]:
    """Put pieces of records together."""
    whole: list[tuple[int, tuple[int, ...], bytes]] = []
    for records in packets:
        for one in records:
            begun = whole[-1] if whole and one.place is None else (0, (), b"")
            if one.first or (one.length and begun == (one.kind, one.fields, b"")):
                kind, fields, data = whole.pop()
                assert (kind, fields, len(data)) == (one.kind, one.fields, one.first)
                whole.append((kind, fields, data + one.data))
            else:
                whole.append((one.kind, one.fields, one.data))
    return whole


@pytest.mark.parametrize("size", [65, 100, 257, 1500, 100_000])
def test_records_are_read_however_packets_cut_them(size: int) -> None:
    rng = random.Random(size)
    wanted = random_records(rng, 120)
    stream = WireStream()
    read = []
    for payload in packets_of([one[0] for one in wanted], size):
        packet = read_packet(payload, 0, stream)
        assert packet is not None
        assert not packet.complaint
        assert packet.session == 3
        for one in packet.records:
            if one.place is not None:
                assert payload[one.place] == one.kind
            if one.data_at is not None:
                assert payload[one.data_at :][: len(one.data)] == one.data
        read.append(packet.records)
    assert joined(read) == [(kind, fields, data) for _, kind, fields, data in wanted]


def test_data_that_were_not_captured_are_stepped_over() -> None:
    line = Line()
    line.say(hello())
    writer = StreamWriter(3, 200, 100_000, 100)
    writer.add(record(Kind.WRITE, 0x1000, 5000, data=bytes(5000)))
    (first,) = packets(writer)
    writer.add(record(Kind.REPLY, 0x2000, 6, data=reply_frame()))
    (second,) = packets(writer)
    assert text_of(line.say(first, sent=False, cut=4000)) == "WRITE 5000 bytes at 0x00001000"
    assert text_of(line.say(second, sent=False)).startswith("REPLY 010 bsa_block_read SUCCESS")


def packets(writer: StreamWriter) -> list[bytes]:
    found = []
    while (packet := writer.next_packet()) is not None:
        found.append(b"".join(packet.buffers))
    return found


def test_records_behind_what_was_not_captured_are_lost_until_a_packet_begins_with_one() -> None:
    line = Line()
    line.say(hello())
    writer = StreamWriter(3, 200, 3000, 100)
    writer.add(record(Kind.RANGE, RangeFlags.DATA, 0x1000, 4000, data=b"\xee" * 4000))
    writer.add(record(Kind.POST, 1, 0, 8, data=read_frame()))
    first, second = packets(writer)
    assert text_of(line.say(first, cut=2500)) == "RANGE 4000 bytes at 0x00001000"
    assert text_of(line.say(second, cut=1000)) == "RANGE goes on, 52 bytes at 2986"
    writer.add(record(Kind.POST, 1, 1, 8, data=read_frame()))
    (third,) = packets(writer)
    found = line.say(third)
    assert text_of(found).startswith("POST 010 bsa_block_read 512 at 0x0")
    assert not problems(found)


def test_packets_that_are_missing_are_told_and_survived() -> None:
    stream = WireStream()
    writer = StreamWriter(3, 200, 4096, 100)
    found = []
    for number in range(4):
        writer.add(record(Kind.FREE, number))
        found += packets(writer)
    assert read(found[0], stream).complaint == ""
    stream.due = 0x80
    late = read(found[2], stream)
    assert late.complaint == "packet 128 was due: packets are missing"
    assert [one.fields for one in late.records] == [(2,)]
    assert read(found[3], stream).complaint == ""
    nonsense = read(b"\x03\0\x80\0\xff\xff", stream)
    assert nonsense.records == ()
    again = read(b"\x03\0\x81\0\xff", stream)
    assert again.complaint == "where records begin is not known"


def test_where_records_begin_is_believed_only_of_a_packet_that_ends_with_one() -> None:
    stream = WireStream()
    assert read(b"\x03\0\0\0\xff", stream).complaint
    half = record(Kind.FREE, 1) + record(Kind.REPLY, 0x2000, 6)
    assert read(b"\x03\0\x01\0" + half, stream).complaint == "where records begin is not known"
    whole = half + reply_frame()
    assert len(read(b"\x03\0\x02\0" + whole, stream).records) == 2


def test_a_reply_whose_request_was_not_captured_is_no_problem_of_the_line() -> None:
    line = Line()
    line.say(hello())
    payload = b"\x05\0\0\0" + record(Kind.REPLY, 0x4000, 6, data=reply_frame())
    assert text_of(line.say(payload, sent=False)) == "REPLY 010 bsa_block_read SUCCESS, 512"


def read(payload: bytes, stream: WireStream) -> WirePacket:
    packet = read_packet(payload, 0, stream)
    assert packet is not None
    return packet


def test_a_long_message_may_end_behind_a_short_one() -> None:
    rng = random.Random(5)
    wanted = random_records(rng, 300)
    found = list(packets_of([one[0] for one in wanted], 400))
    for first in range(0, len(found) - 8, 8):  # as completions come
        part = found[first : first + 8]
        rng.shuffle(part)
        found[first : first + 8] = part
    stream = WireStream()
    packets = [read(payload, stream) for payload in found]
    assert {packet.complaint for packet in packets} == {""}
    assert any(packet.waits_for is not None for packet in packets)
    assert joined([packet.records for packet in packets]) == [
        (kind, fields, data) for _, kind, fields, data in wanted
    ]


def test_early_packets_say_what_they_wait_for() -> None:
    line = Line()
    line.say(hello())
    writer = StreamWriter(3, 200, 4096, 100)
    found = []
    for number in range(2):
        writer.add(record(Kind.FREE, number))
        found += packets(writer)
    early = line.say(found[1])
    assert text_of(early) == "packet 1, read with packet 0 to come"
    assert decoded(early)["wire"]["note"] == "it waits for packet 0"
    assert not problems(early)
    assert text_of(line.say(found[0])) == "FREE index 0; FREE index 1"
    assert line.say(found[1]).payload is not None  # the same once more is one too many


def test_what_waits_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    def early(number: int, size: int = 1) -> bytes:
        return bytes((3, 0, number, 0)) + record(Kind.PING) * size

    stream = WireStream()
    for number in range(1, wire_stream.MAX_AHEAD + 1):
        assert read(early(number), stream).waits_for == 0
    assert read(early(1), stream).complaint == "packet 0 was due: packets are missing"
    assert read(early(wire_stream.MAX_AHEAD + 9), stream).complaint.startswith("packet 2 was due")
    monkeypatch.setattr(wire_stream, "MAX_HELD_BYTES", 100)
    small = WireStream()
    assert read(early(1, 50), small).waits_for == 0
    assert read(early(2, 50), small).complaint == "packet 0 was due: packets are missing"


def test_what_makes_no_sense_is_said() -> None:
    stream = WireStream()
    packet = read_packet(b"\x03\0\0\0" + record(Kind.FREE, 1) + b"\xfe", 0, stream)
    assert packet is not None
    assert packet.complaint == "no record has the kind 0xfe"
    assert len(packet.records) == 1
    assert read_packet(b"\x03\0\0", 0, stream) is None
    assert read_packet(b"", 0, None) is None


def test_records_of_one_packet_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire_stream, "MAX_RECORDS", 3)
    packet = read_packet(b"\x03\0\0\0" + record(Kind.FREE, 1) * 5, 0, WireStream())
    assert packet is not None
    assert len(packet.records) == 3
    assert packet.complaint == "6 bytes behind 3 records are not read"


def test_random_bytes_end_in_words() -> None:
    rng = random.Random(9)
    stream = WireStream()
    line = Line()
    line.say(hello())
    for _ in range(3000):
        payload = bytes((3, 0, rng.randrange(4), 0)) + bytes(
            rng.choice((rng.randrange(0x40), rng.randrange(256))) for _ in range(rng.randrange(60))
        )
        packet = read_packet(payload, rng.choice((0, 0, 5)), stream)
        assert packet is not None
        traced = line.say(payload, cut=rng.choice((0, 0, 3)), sent=rng.random() < 0.5)
        assert "\n" not in summary(traced)
        decoded(traced)


# --- messages ------------------------------------------------------------------------------------


def test_a_session_from_its_beginning() -> None:
    line = Line()
    before = line.say(b"\x05\0\0\0" + record(Kind.FREE, 1))
    assert before.payload is None
    assert text_of(line.say(hello())) == "HELLO host"
    out, back = StreamWriter(5, 20, 4096, 9), StreamWriter(5, 20, 4096, 9)
    back.add(record(Kind.WELCOME, *(1 for _ in LAYOUTS[Kind.WELCOME].fields)))
    (welcome,) = packets(back)
    assert text_of(line.say(welcome, sent=False)).startswith("WELCOME version 1 window 1 ")
    out.add(record(Kind.RANGE, RangeFlags.WRITE, 0x5000, 512))
    out.add(record(Kind.POST, 1, 0, 8, data=read_frame()))
    (post,) = packets(out)
    asked = line.say(post)
    assert text_of(asked) == (
        "POST 010 bsa_block_read 512 at 0x0, SGL empty; RANGE 512 bytes at 0x00005000"
    )
    back.add(record(Kind.FREE, 0) + record(Kind.WRITE, 0x5000, 4, data=b"data"))
    back.add(record(Kind.REPLY, 0x4000, 6, data=reply_frame()) + record(Kind.PING) * 3)
    (reply,) = packets(back)
    answered = line.say(reply, sent=False)
    assert text_of(answered) == (
        "REPLY 010 bsa_block_read SUCCESS, 512; FREE index 0; WRITE 4 bytes at 0x00005000; 3 more"
    )
    assert isinstance(answered.payload, WirePayload)
    (frame,) = answered.payload._frames.values()
    assert frame.request is not None  # the reply found its request, in another message
    tree = decoded(answered)["wire"]
    assert (tree["session"], tree["number"], tree["credits"]) == (5, 1, 0)
    assert [one["record"] for one in tree["records"]] == [
        "FREE", "WRITE", "REPLY", "PING", "PING", "PING",
    ]  # fmt: skip
    assert tree["records"][1]["data"] == b"data".hex()
    assert tree["records"][2]["frame"]["transfer_count"] == 512
    assert tree["records"][2]["address"] == 0x4000
    assert decoded(asked)["wire"]["records"][0]["flags"] == RangeFlags.WRITE


def test_places_count_from_the_start_of_the_message() -> None:
    line = Line()
    line.say(hello())
    payload = b"\x05\0\0\0" + record(Kind.FREE, 1) + record(Kind.POST, 1, 0, 8, data=read_frame())
    traced = line.say(payload)
    assert traced.payload is not None
    records = next(node for node in traced.payload.nodes() if node.name == "records")
    frame = next(node for node in records.children[1].children if node.name == "frame")
    at = payload.index(read_frame())
    places = {node.name: node.offset for node in frame.children}
    assert places["msg_flags"] == at + 1
    assert records.children[1].offset == 7


def test_packets_that_only_give_back() -> None:
    line = Line()
    line.say(hello())
    assert text_of(line.say(b"\x05\0\0\x08")) == "8 packets given back"
    assert text_of(line.say(b"\x05\0\x01\0")) == ""
    assert text_of(line.say(lone_packet(0, record(Kind.UNKNOWN, 9)))) == "UNKNOWN session 9"
    refusal = record(Kind.REFUSED, 7, 4, data=b"busy")
    assert text_of(line.say(lone_packet(0, refusal), sent=False)) == "REFUSED busy"
    assert line.say(b"\x05").payload is None


def test_other_endpoints_are_not_taken_for_remote_iops() -> None:
    line = Line()
    line.say(hello())
    free = b"\x05\0\0\0" + record(Kind.FREE, 1)
    assert line.say(free, endpoint=1).payload is None
    assert line.say(free).payload is not None
    assert not is_hello(b"\0\0\0\0" + record(Kind.FREE, 1))
    assert not is_hello(hello()[:8])


def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire_payload, "MAX_ENDPOINTS", 2)
    monkeypatch.setattr(wire_payload, "MAX_STREAMS", 3)
    follower = WireFollower()
    for endpoint in range(5):
        first = MessageRecord(MessageKind.SEND, length=99, payload=hello())
        assert follower.follow(endpoint, 0, first) is not None
    assert list(follower._frames) == [3, 4]
    for session in range(1, 9):
        payload = bytes((session, 0, 0, 0)) + record(Kind.PING)
        one = MessageRecord(MessageKind.SEND, length=len(payload), payload=payload)
        assert follower.follow(4, 0, one) is not None
    assert len(follower._streams) == 3


def test_frames_that_are_none() -> None:
    line = Line()
    line.say(hello())
    traced = line.say(b"\x05\0\0\0" + record(Kind.POST, 1, 0, 1, data=b"\0\0\0\0"))
    assert text_of(traced).startswith("POST 000 ")
    assert problems(traced)


def test_an_executive_request() -> None:
    frame = executive.EXEC_SYS_ENABLE.build(message_size=executive.EXEC_SYS_ENABLE.size // 4)
    line = Line()
    line.say(hello())
    traced = line.say(b"\x05\0\0\0" + record(Kind.POST, 1, 0, len(frame) // 4, data=bytes(frame)))
    assert text_of(traced) == "POST 000 exec_sys_enable"
