# SPDX-License-Identifier: Apache-2.0
"""Reading captures: our own conventions, other people's files, and damaged ones."""

from __future__ import annotations

import gzip
import io
import json
import random
import struct
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from fakes.pcapng_bytes import USER1, Blocks
from i2o.errors import CaptureError
from i2o.transport.capture.packet import Channel, Packet
from i2o.transport.capture.reader import Capture, open_capture

REQUEST = bytes.fromhex("01000400 10100025 01000000 02000000".replace(" ", ""))
REPLY = bytes.fromhex("01c00500 10100025 01000000 02000000 00000000".replace(" ", ""))
TIME = 1_700_000_000_123_456_789


def capture_of(data: bytes) -> Capture:
    return Capture(io.BytesIO(data), "test")  # type: ignore[arg-type]


def packets_of(data: bytes) -> list[Packet]:
    return list(capture_of(data))


@pytest.fixture(params=["<", ">"], ids=["little", "big"])
def blocks(request: pytest.FixtureRequest) -> Blocks:
    return Blocks(request.param)


def own_file(blocks: Blocks) -> bytes:
    return (
        blocks.section()
        + blocks.interface("iop3.in")
        + blocks.interface("iop3.out")
        + blocks.interface("iop3.dma", USER1, snap=512)
        + blocks.packet(0, TIME, REQUEST, options=[blocks.flags(2), blocks.packet_id(0x1000)])
        + blocks.packet(
            2,
            TIME + 1,
            struct.pack("<Q", 0xA00000) + b"data",
            length=8 + 4096,
            options=[blocks.flags(1), blocks.packet_id(0x1000)],
        )
        + blocks.packet(
            1, TIME + 2, REPLY, options=[blocks.flags(1), blocks.packet_id(0x7800), (1, b"hello")]
        )
    )


def test_names_directions_mfas_and_times_come_through(blocks: Blocks) -> None:
    assert packets_of(own_file(blocks)) == [
        Packet(TIME, 3, Channel.IN, REQUEST, 16, 0x1000),
        Packet(TIME + 1, 3, Channel.FROM_DEVICE, b"data", 4096, 0x1000, 0xA00000),
        Packet(TIME + 2, 3, Channel.OUT, REPLY, 20, 0x7800, 0, "hello"),
    ]


def test_interfaces_are_described(blocks: Blocks) -> None:
    described = blocks.interface("iop0.in", options=[(3, b"emu:?disk=a"), (9, b"\t")])
    capture = capture_of(blocks.section() + described + blocks.statistics(0, [
        (5, blocks.pack("Q", 7)), (7, blocks.pack("Q", 2))
    ]))  # fmt: skip
    assert list(capture) == []
    (interface,) = capture.interfaces
    assert (interface.name, interface.description, interface.iop) == ("iop0.in", "emu:?disk=a", 0)
    assert interface.dropped == capture.dropped == 9
    assert capture.problems == []


@pytest.mark.parametrize(
    ("options", "raw", "expected"),
    [
        ([], 1_000_001, 1_000_001_000),
        ([(9, b"\x03")], 1_500, 1_500_000_000),
        ([(9, b"\x8a")], 1536, 1_500_000_000),
        ([(9, b"\x09"), (14, struct.pack("<q", 10))], 5, 10_000_000_005),
    ],
    ids=["microseconds by default", "milliseconds", "2^-10 s", "offset"],
)
def test_time_resolutions(options: list[tuple[int, bytes]], raw: int, expected: int) -> None:
    blocks = Blocks()
    data = blocks.section() + blocks.interface("iop0.in", options=options)
    (packet,) = packets_of(data + blocks.packet(0, raw, REQUEST))
    assert packet.time_ns == expected


def test_without_names_the_flags_tell_the_direction_and_then_the_frame(blocks: Blocks) -> None:
    data = blocks.section() + blocks.interface()
    for options, frame in (
        ([blocks.flags(2)], REPLY),
        ([blocks.flags(1)], REQUEST),
        ([], REPLY),
        ([], REQUEST),
    ):
        data += blocks.packet(0, TIME, frame, options=options)
    channels = [packet.channel for packet in packets_of(data)]
    assert channels == [Channel.IN, Channel.OUT, Channel.OUT, Channel.IN]


def test_simple_and_obsolete_packets(blocks: Blocks) -> None:
    data = blocks.section() + blocks.interface("iop0.out", snap=18)
    data += blocks.block(3, blocks.pack("I", 20) + REPLY[:18])
    old = blocks.pack("HHIIII", 0, 0, 0, 77, 20, 20) + REPLY
    data += blocks.block(2, old)
    first, second = packets_of(data)
    assert first == Packet(0, 0, Channel.OUT, REPLY[:18], 20)
    assert second == Packet(77, 0, Channel.OUT, REPLY, 20)


def test_every_section_has_its_own_interfaces_and_byte_order() -> None:
    both = own_file(Blocks("<")) + own_file(Blocks(">"))
    capture = capture_of(both)
    packets = list(capture)
    assert packets[:3] == packets[3:]
    assert len(capture.interfaces) == 6


def test_foreign_packets_are_counted_and_skipped(blocks: Blocks) -> None:
    data = blocks.section() + blocks.interface("eth0", 1) + blocks.packet(0, 1, b"\0" * 60)
    data += blocks.interface("iop0.in") + blocks.packet(1, 2, REQUEST)
    data += blocks.block(0x0BAD, b"unknown block")
    capture = capture_of(data)
    assert [packet.data for packet in capture] == [REQUEST]
    assert capture.foreign == {1: 1}


def test_a_cut_file_gives_what_is_whole_and_says_so(blocks: Blocks) -> None:
    whole = own_file(blocks)
    counts = set()
    for size in range(len(whole)):
        if size < 4:
            continue
        capture = capture_of(whole[:size])
        counts.add(len(list(capture)))
        ends_at_block = not capture.problems
        assert ends_at_block or "middle of a block" in capture.problems[0]
    assert counts == {0, 1, 2}


@pytest.mark.parametrize(
    ("spoil", "word"),
    [
        (lambda b: b.block(6, b.pack("IIIII", 0, 0, 0, 500, 500) + REQUEST), "a packet of 500"),
        (lambda b: b.packet(9, 0, REQUEST), "unknown interface 9"),
        (lambda b: b.block(6, b"short"), "packet block of 20 bytes"),
        (lambda b: b.pack("III", 6, 0, 0) + b"\0" * 20, "a block of 0 bytes"),
        (lambda b: b.pack("II", 6, 0xFFFFFFF0) + b"\0" * 20, "a block of 4294967280 bytes"),
        (lambda b: b.pack("IIII", 7, 16, 0, 20), "lengths differ"),
        (lambda b: b.block(0x0A0D0D0A, b"\0" * 16), "byte-order magic"),
        (lambda b: b.block(1, b""), "interface description"),
    ],
    ids=range(8),
)
def test_what_contradicts_itself_ends_the_reading(blocks: Blocks, spoil, word: str) -> None:  # type: ignore[no-untyped-def]
    good = blocks.section() + blocks.interface("iop0.in") + blocks.packet(0, 1, REQUEST)
    capture = capture_of(good + spoil(blocks) + blocks.packet(0, 2, REQUEST))
    assert len(list(capture)) == 1
    (problem,) = capture.problems
    assert word in problem
    assert f"at byte {len(good)}" in problem


class Trickle(io.RawIOBase):
    """A stream that gives a few bytes at a time, as pipes may."""

    def __init__(self, data: bytes, step: int) -> None:
        self._data, self._step, self._at = data, step, 0

    def read1(self, size: int) -> bytes:
        piece = self._data[self._at : self._at + min(size, self._step)]
        self._at += len(piece)
        return piece


@pytest.mark.parametrize("step", [1, 3, 7, 64])
def test_bytes_may_come_in_any_pieces(step: int) -> None:
    for data in (own_file(Blocks()), gzip.compress(own_file(Blocks())), pcap_file(), trace()):
        expected = packets_of(data)
        assert expected
        assert list(Capture(Trickle(data, step), "pipe")) == expected  # type: ignore[arg-type]


def pcap_file(order: str = "<", magic: int = 0xA1B23C4D, link_type: int = 147) -> bytes:
    head = struct.pack(f"{order}IHHiIII", magic, 2, 4, 0, 0, 65535, link_type)
    records = b"".join(
        struct.pack(f"{order}IIII", 5, 6, len(frame), len(frame)) + frame
        for frame in (REQUEST, REPLY)
    )
    return head + records


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(("magic", "fraction"), [(0xA1B23C4D, 6), (0xA1B2C3D4, 6000)])
def test_classic_pcap(order: str, magic: int, fraction: int) -> None:
    time_ns = 5_000_000_000 + fraction
    assert packets_of(pcap_file(order, magic)) == [
        Packet(time_ns, 0, Channel.IN, REQUEST, 16),
        Packet(time_ns, 0, Channel.OUT, REPLY, 20),
    ]


def test_classic_pcap_of_dma_of_others_and_cut() -> None:
    (first, _) = packets_of(pcap_file(link_type=148))
    assert (first.channel, first.address) == (
        Channel.FROM_DEVICE,
        int.from_bytes(REQUEST[:8], "little"),
    )
    capture = capture_of(pcap_file(link_type=1))
    assert list(capture) == []
    assert capture.foreign == {1: 2}
    assert capture.dropped == 0
    capture = capture_of(pcap_file()[:-1])
    assert len(list(capture)) == 1
    assert capture.problems == ["the file ends in the middle of a packet, at byte 56"]
    huge = pcap_file()[:24] + struct.pack("<IIII", 0, 0, 0xFFFFFFFF, 0)
    capture = capture_of(huge)
    assert list(capture) == []
    assert "a packet of 4294967295 bytes" in capture.problems[0]


def trace() -> bytes:
    events = [
        {"t": 1.5, "event": "request", "mfa": 4096, "frame": REQUEST.hex()},
        {"t": 2, "event": "dma_read", "address": 16, "length": 1000, "data": "0102"},
        {"t": 2, "event": "dma_write", "address": 16, "data": "0102", "mfa": 4096, "iop": 1},
        {"t": 3, "event": "reply", "mfa": 64, "frame": REPLY.hex()},
    ]
    return "\n".join(map(json.dumps, events)).encode()


def test_traces() -> None:
    assert packets_of(trace()) == [
        Packet(1_500_000_000, 0, Channel.IN, REQUEST, 16, 4096),
        Packet(2_000_000_000, 0, Channel.TO_DEVICE, b"\1\2", 1000, None, 16),
        Packet(2_000_000_000, 1, Channel.FROM_DEVICE, b"\1\2", 2, 4096, 16),
        Packet(3_000_000_000, 0, Channel.OUT, REPLY, 20, 64),
    ]


@pytest.mark.parametrize(
    ("line", "word"),
    [
        ("[]", "JSON object"),
        ("{", "Expecting"),
        ('{"event": "boo"}', "expected one of request, reply, dma_read, dma_write"),
        ('{"event": "request", "frame": "xy"}', "hexadecimal"),
        ('{"event": "request", "frame": 5}', "hexadecimal"),
        ('{"event": "request", "frame": "", "mfa": -1}', "mfa -1"),
        ('{"event": "request", "frame": "", "mfa": true}', "mfa True"),
        ('{"event": "request", "frame": "", "t": "soon"}', "expected seconds"),
        ('{"event": "request", "frame": "", "t": NaN}', "expected seconds"),
        ('{"event": "request", "frame": "", "t": 1e99}', "expected seconds"),
        ('{"event": "request", "frame": "", "iop": 65536}', "iop 65536"),
        ("[" * 100_000, "line 2"),
    ],
)
def test_lines_that_are_no_events_are_skipped(line: str, word: str) -> None:
    first = trace().split(b"\n")[0]
    capture = capture_of(first + b"\n" + line.encode() + b"\n\n" + first)
    assert len(list(capture)) == 2
    (problem,) = capture.problems
    assert "line 2" in problem
    assert word in problem


def test_only_the_first_bad_lines_are_told() -> None:
    capture = capture_of(b"{\n" * 1000)
    assert list(capture) == []
    assert len(capture.problems) == 20
    assert "perhaps more" in capture.problems[-1]
    assert (capture.foreign, capture.dropped, capture.interfaces) == ({}, 0, [])


def test_an_endless_line_ends_the_reading() -> None:
    def forever() -> Iterator[bytes]:
        yield b"{"
        while True:
            yield b" " * (1 << 20)

    stream = forever()

    class Endless(io.RawIOBase):
        def read1(self, size: int) -> bytes:
            return next(stream)

    capture = Capture(Endless(), "endless")  # type: ignore[arg-type]
    assert list(capture) == []
    assert "longer than" in capture.problems[0]


@pytest.mark.parametrize(
    ("data", "word"),
    [(b"", "nothing in it"), (b"GIF89a", "it starts with 47 49 46 38"), (b"\x1f", "1f")],
)
def test_other_files_are_refused(data: bytes, word: str) -> None:
    with pytest.raises(CaptureError, match=word):
        capture_of(data)


def test_damaged_gzip_gives_what_could_be_read() -> None:
    plain = own_file(Blocks()) + Blocks().block(0xBAD, random.Random(5).randbytes(300_000))
    packed = gzip.compress(plain)
    for spoilt, word in (
        (packed[: len(packed) // 2], "end too early"),
        (packed[:200_000] + b"\xff" * 50_000 + packed[250_000:], "damaged"),
    ):
        capture = capture_of(spoilt)
        list(capture)
        assert any(word in problem for problem in capture.problems)


def test_several_gzip_members() -> None:
    data = own_file(Blocks())
    assert packets_of(gzip.compress(data[:100]) + gzip.compress(data[100:])) == packets_of(data)


def test_a_gzip_of_nothing_is_refused() -> None:
    with pytest.raises(CaptureError, match="nothing in it"):
        capture_of(gzip.compress(b""))


def test_a_disk_error_is_a_problem_and_no_exception() -> None:
    class Failing(io.RawIOBase):
        pieces = [own_file(Blocks())]  # noqa: RUF012

        def read1(self, size: int) -> bytes:
            if self.pieces:
                return self.pieces.pop()
            raise OSError(5, "Input/output error")

    capture = Capture(Failing(), "bad disk")  # type: ignore[arg-type]
    assert len(list(capture)) == 3
    assert capture.problems == ["it cannot be read further: Input/output error"]


def test_open_capture_by_name_and_from_standard_input(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.pcapng"
    path.write_bytes(own_file(Blocks()))
    with open_capture(str(path)) as capture:
        assert len(list(capture)) == 3
    stdin = io.TextIOWrapper(io.BytesIO(trace()))
    monkeypatch.setattr(sys, "stdin", stdin)
    assert len(list(open_capture("-"))) == 4
    path.write_bytes(b"nonsense")
    with pytest.raises(CaptureError):
        open_capture(str(path))
    with pytest.raises(FileNotFoundError):
        open_capture(str(tmp_path / "none"))


def test_mutated_files_never_raise_and_tell_why_they_end_early() -> None:
    rng = random.Random(20260923)
    originals = [own_file(Blocks("<")), own_file(Blocks(">")), pcap_file(), trace()]
    originals.append(gzip.compress(originals[0]))
    for turn in range(4000):
        data = bytearray(originals[turn % len(originals)])
        for _ in range(rng.randint(1, 6)):
            data[rng.randrange(4, len(data))] = rng.randrange(256)
        try:
            capture = capture_of(bytes(data))
            packets = list(capture)
        except CaptureError:
            continue
        assert all(len(packet.data) <= len(data) * 40 for packet in packets)
