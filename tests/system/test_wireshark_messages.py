# SPDX-License-Identifier: Apache-2.0
"""Messages of endpoints in tshark: the dissector says the same as our own decoder."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

import i2o
from fakes.message_traffic import every_kind, message_packet, traced
from fakes.tshark import Dissected, dissect, find_tshark, same_fields, tshark, write_pcapng
from i2o.capture import captured
from i2o.decode.conversation import Traced
from i2o.decode.fields import bytes_node
from i2o.decode.frame import fixed_nodes
from i2o.decode.summary import summary
from i2o.tools.dissector import dissector
from i2o.tools.dump_line import duration_text
from i2o.transport.capture.capture_file import CaptureFile
from i2o.transport.capture.message_record import EventCode, Kind, MessageRecord
from i2o.transport.capture.packet import Packet
from i2o.transport.registry import open_port

pytestmark = pytest.mark.skipif(
    find_tshark() is None, reason="tshark is missing: apt-get install tshark"
)
MUTATED = 3000


@pytest.fixture(scope="module")
def script(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("lua") / "i2o.lua"
    path.write_text(dissector(), encoding="ascii")
    return path


@pytest.fixture
def capture(tmp_path: Path) -> Path:
    return tmp_path / "messages.pcapng"


def compare(
    script: Path, capture: Path, packets: list[Packet]
) -> Iterator[tuple[Traced, Dissected]]:
    """Yield every message as we and as Wireshark have it, after comparing both."""
    write_pcapng(capture, packets)
    for ours, theirs in zip(traced(packets), dissect(script, capture), strict=True):
        where = f"packet {ours.index}: {ours.packet.data.hex()}"
        nodes = fixed_nodes(ours)
        if ours.record is not None and ours.record.payload:
            nodes.append(bytes_node("payload", ours.record.payload, 0))
        assert same_fields(nodes, theirs) == "", where
        assert theirs.values("type") == ["message"], where
        assert theirs.values("endpoint") == [str(ours.packet.iop)], where
        assert theirs.values("name") == [ours.name], where
        asked = [] if ours.request is None else [str(ours.request.index + 1)]
        assert theirs.values("request_in") == asked, where
        if ours.latency_ns is not None:
            (latency,) = theirs.values("latency")
            assert round(float(latency) * 1e9) == ours.latency_ns, where
        yield ours, theirs


def infos(script: Path, capture: Path) -> list[str]:
    return tshark(script, capture, "-T", "fields", "-e", "_ws.col.Info").splitlines()


def info_of(ours: Traced) -> str:
    """The info column: the name, and what a line of `i2o dump` says."""
    text, mark, problem = summary(ours).partition(" ! ")
    if ours.latency_ns is not None:
        text += f"  {duration_text(ours.latency_ns)}"
    text = f"{text} ! {problem}" if mark else text
    return f"{ours.name}  {text}" if text else ours.name


def test_every_kind_is_read_alike(script: Path, capture: Path) -> None:
    packets = every_kind()
    compared = list(compare(script, capture, packets))
    assert len(compared) == len(packets)
    assert infos(script, capture) == [info_of(ours) for ours, _ in compared]
    fields = {leaf.name for _, theirs in compared for leaf in theirs.fields}
    assert {"tag", "ignore", "cq_data", "peer", "hop", "sequence", "err", "payload"} <= fields
    assert [theirs.values("reply_in") for _, theirs in compared[:3]] == [[], [], []]


def test_a_send_and_its_end_point_to_each_other(script: Path, capture: Path) -> None:
    write_pcapng(capture, every_kind())
    packets = list(dissect(script, capture, "-2", "-R", "i2o"))
    assert packets[1].values("reply_in") == ["3"]
    assert packets[2].values("request_in") == ["2"]
    assert packets[2].values("reply_to") == ["1"]
    assert packets[6].values("latency") == ["0.000030000"]


def test_columns_and_filters(script: Path, capture: Path) -> None:
    write_pcapng(capture, every_kind())
    rows = tshark(
        script, capture, "-T", "fields", "-e", "_ws.col.Protocol", "-e", "_ws.col.Source",
        "-e", "_ws.col.Destination",
    ).splitlines()  # fmt: skip
    assert rows[1].split("\t") == ["I2O", "ep0", "mem://b"]
    assert rows[3].split("\t") == ["I2O", "mem://b", "ep0"]
    assert rows[7].split("\t") == ["I2O", "peer", "ep0"]

    def numbers(text: str) -> list[str]:
        return tshark(script, capture, "-Y", text, "-T", "fields", "-e", "frame.number").split()

    assert numbers("i2o.tag == 0x12") == ["2"]
    assert numbers("i2o.endpoint == 1 && i2o.hop") == ["10", "12"]
    assert numbers('i2o.peer == "mem://c"') == ["6", "7"]
    assert numbers("i2o.err == 104") == ["7"]
    assert numbers("i2o.latency > 0.000025") == ["7"]
    assert numbers("i2o.message_kind == 4") == ["4", "12"]
    assert numbers("i2o.length == 6000") == ["4"]
    assert numbers('i2o.type == "message" && i2o.dir == "in"') == ["4", "8", "9", "12"]
    assert numbers("i2o.payload contains 77:6f:72") == ["2"]


def test_numbers_of_64_bits(script: Path, capture: Path) -> None:
    packets = [
        message_packet(
            number,
            MessageRecord(
                Kind.SEND,
                op_flags=1 << 59 | 1 << 58 | 1 << 1 | 1,
                tag=0xFEDCBA9876543210,
                cq_data=(1 << 64) - 1,
                peer_address=0x123456789AB,
                length=3_000_000_000,
            ),
            (1 << 40) + number,
        )
        for number in (1, 2)
    ]
    ours = next(ours for ours, _ in compare(script, capture, packets))
    info = info_of(ours)
    assert "tag 0xfedcba9876543210" in info
    assert "DISCARD|CLAIM|0x1" in info
    assert infos(script, capture) == [info, info]


def test_one_file_with_frames(script: Path, capture: Path) -> None:
    with CaptureFile(capture) as file:
        for packet in every_kind():
            file.add_packet(packet, "mem://a")
        i2o.open(captured(open_port("emu:"), file)).close()
    sources = set(tshark(script, capture, "-T", "fields", "-e", "_ws.col.Source").split())
    assert {"ep0", "ep1", "host", "iop0:000", "mem://b"} <= sources


def test_mutated_messages_are_read_alike_and_break_nothing(script: Path, capture: Path) -> None:
    rng = random.Random(20261126)
    seeds = every_kind()
    packets = []
    for number in range(MUTATED):
        packet = rng.choice(seeds)
        data = bytearray(packet.data)
        for _ in range(rng.randint(0, 3)):
            at = rng.randrange(len(data)) if rng.randrange(3) else rng.randrange(8)
            data[at] = rng.choice((0, 1, 2, 0x7F, 0x80, 0xFF, rng.randrange(256)))
        if rng.randrange(6) == 0:
            del data[rng.randrange(len(data) + 1) :]
        if any(byte >= 0x7F or byte < 0x20 for byte in data[72 : 72 + sum(data[6:8])]):
            data[6:8] = b"\0\0"  # texts that are none are told apart by nobody
        packets.append(
            packet._replace(
                time_ns=10**18 + 1000 * number, data=bytes(data), length=len(data), comment=""
            )
        )
    count = sum(1 for _ in compare(script, capture, packets))
    assert count == MUTATED


def test_names_that_are_no_text_break_nothing(script: Path, capture: Path) -> None:
    rng = random.Random(4)
    packets = []
    for number in range(200):
        name = rng.randbytes(rng.randrange(1, 40))
        data = bytearray(message_packet(0, MessageRecord(Kind.EVENT, event=EventCode.STATE)).data)
        data[6] = len(name)
        data += name + rng.randbytes(rng.randrange(20))
        packets.append(Packet(10**18 + number, 0, 4, bytes(data), len(data), number))
    write_pcapng(capture, packets)
    assert len(infos(script, capture)) == 200
    assert len(tshark(script, capture, "-V", "-O", "i2o").split("\nFrame ")) == 200
