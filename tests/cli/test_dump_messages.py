# SPDX-License-Identifier: Apache-2.0
"""`i2o dump` of captures with messages of endpoints, alone and among the frames of an IOP."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from cli.conftest import Ran

import i2o
from fakes.message_traffic import every_kind
from i2o.capture import captured
from i2o.transport.capture.capture_file import CaptureFile
from i2o.transport.capture.reader import open_capture
from i2o.transport.registry import open_port

Cli = Callable[..., Ran]


@pytest.fixture
def messages(tmp_path: Path) -> Path:
    """Messages of two endpoints."""
    path = tmp_path / "messages.pcapng"
    with CaptureFile(path) as file:
        for packet in every_kind():
            file.add_packet(packet, f"mem://{packet.iop}")
    return path


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    """Messages of endpoints and an IOP's bring-up in one file."""
    path = tmp_path / "mixed.pcapng"
    with CaptureFile(path) as file:
        for packet in every_kind():
            file.add_packet(packet, "mem://a")
        i2o.open(captured(open_port("emu:"), file)).close()
    return path


def test_lines(cli: Cli, messages: Path) -> None:
    lines = cli("dump", "-r", messages).out.splitlines()
    assert [line[7:] for line in lines] == [
        '  0.000000 ep0  --     connect                   mem://b: parameter "hi"',
        "  0.000010 ep0  ->     tsend                     tag 0x12, 11 bytes to mem://b",
        "  0.000030 ep0  --     tsent                     to mem://b  20 us (1)",
        "  0.000040 ep0  <-     trecv                     tag 0x15 ignoring 0xf, 6000 bytes from "
        "mem://b, data 0x7",
        "  0.000050 ep0  ->     send                      1 byte to fi_addr 0x9, "
        "INJECT|0x10000000000",
        "  0.000060 ep0  ->     send                      0 bytes to mem://c",
        "  0.000090 ep0  --     send_failed               to mem://c  30 us (5) ! ECONNRESET "
        "(connection reset by peer): the link broke",
        "  0.000095 ep0  <-     recv_failed               64 bytes ! ETRUNC (the message was "
        "truncated)",
        "  0.000096 ep0  --     tpeek                     tag 0x1, 9 bytes, PEEK",
        "  0.000100 ep1  ->     tsend                     tag 0x3, 4 bytes to node-c via node-b, "
        "number 17",
        "  0.000120 ep1  --     sent                      to node-c  20 us (9)",
        "  0.000130 ep1  <-     trecv                     tag 0x3, 4 bytes from node-c via node-b, "
        "number 4",
        "  0.000140 ep1  --     state                     node-b: connected",
        "  0.000150 ep1  --     error                     ! ECONNREFUSED (connection refused)",
    ]


def test_colours_say_the_same(cli: Cli, messages: Path) -> None:
    import re

    plain = cli("dump", "-r", messages).out
    coloured = cli("dump", "-r", messages, "--color", "always").out
    assert coloured != plain
    stripped = re.sub("\x1b\\[[0-9]*m", "", coloured)
    assert [line.split() for line in stripped.splitlines()] == [
        line.split() for line in plain.splitlines()
    ]
    failed = next(line for line in coloured.splitlines() if "send_failed" in line)
    assert "\x1b[31msend_failed" in failed
    assert "\x1b[33m! ECONNRESET" in failed


def test_trees_and_bytes(cli: Cli, messages: Path) -> None:
    out = cli("dump", "-r", messages, "-v", "tag", "==", "0x12").out
    assert "tag            0x0000000000000012" in out
    assert "peer           mem://b" in out
    assert "hello world" in out
    out = cli("dump", "-r", messages, "-vv", "-x", "tag", "==", "0x12").out
    assert "0  00030101   15:8  message_kind" in out
    assert "0040  00 00 00 00 00 00 00 00  6d 65 6d 3a 2f 2f 62 68  ........mem://bh" in out


def test_json(cli: Cli, messages: Path) -> None:
    records = cli("dump", "-r", messages, "--json").records
    assert [record["type"] for record in records] == ["message"] * 14
    assert records[1] == {
        "type": "message",
        "index": 1,
        "t": 1e-05,
        "endpoint": 0,
        "dir": "out",
        "name": "tsend",
        "packet_id": 2,
        "length": 11,
        "captured": 11,
        "endpoint_type": "RDM",
        "op_flags": ["TAGGED", "SEND", "COMPLETION"],
        "tag": 0x12,
        "ignore": None,
        "cq_data": None,
        "peer": "mem://b",
        "peer_address": 0,
        "hop": None,
        "sequence": None,
        "err": 0,
        "error": None,
        "prov_errno": 0,
        "decoded": {"data": b"hello world".hex()},
        "problems": [],
        "summary": "tag 0x12, 11 bytes to mem://b",
    }
    assert (records[2]["reply_to"], records[2]["latency"]) == (1, 20e-6)
    assert (records[6]["err"], records[6]["error"]) == (104, "ECONNRESET")
    assert records[6]["comment"] == "the link broke"
    assert [record["endpoint"] for record in records] == [0] * 9 + [1] * 5
    assert records[9]["endpoint_type"] is None
    assert records[4]["op_flags"] == ["MSG", "SEND", "INJECT", "0x10000000000"]
    (alone,) = cli("dump", "-r", messages, "--json", "name == tsent").records
    assert alone["reply_to"] is None  # its send is not printed


def test_fields(cli: Cli, messages: Path) -> None:
    out = cli(
        "dump", "-r", messages, "-T", "fields", "-e", "endpoint", "-e", "tag", "-e", "peer",
        "-e", "iop", "-e", "payload", "-e", "err", "-e", "latency",
    ).out.splitlines()  # fmt: skip
    assert out[1] == "0\t18\tmem://b\t\t68656c6c6f20776f726c64\t\t"
    assert out[6] == "0\t\tmem://c\t\t\t104\t0.000030000"


def test_statistics(cli: Cli, messages: Path) -> None:
    out = cli("dump", "-r", messages, "--stats").out
    assert out.startswith(
        "4 messages of endpoints sent (16 bytes), 2 received (5.9 KiB) in 0.00015 s: "
        "40,000 messages/s\n"
    )
    rows = {line.split("  ")[0]: line.split() for line in out.splitlines()}
    assert rows["ep0"][1:8] == ["3", "12", "B", "1", "5.9", "KiB", "2"]
    assert rows["ep0 mem://c"][2:5] == ["1", "-", "-"]
    assert "total" in rows
    assert "queue depth" not in out
    (record,) = cli("dump", "-r", messages, "--stats", "--json").records
    found = record["messages"]
    assert found["total"]["sent"] == 4
    assert found["endpoints"]["ep0"]["latency"]["min"] == pytest.approx(20e-6, rel=0.02)
    assert found["endpoints"]["ep1"]["not_ended"] == 0
    assert found["peers"]["ep1 node-c"]["received_bytes"] == 4
    assert found["damaged"] == 0


def test_one_file_for_both(cli: Cli, mixed: Path) -> None:
    out = cli("dump", "-r", mixed).out
    assert " ep0  ->     tsend " in out
    assert " iop0 -> 000 exec_status_get " in out
    records = cli("dump", "-r", mixed, "--json").records
    assert {record["type"] for record in records} == {"request", "reply", "dma", "message"}
    assert all(("iop" in one) != (one["type"] == "message") for one in records)
    only = cli("dump", "-r", mixed, "--follow", "0", "--json").records
    assert only
    assert "message" not in {record["type"] for record in only}
    stats = cli("dump", "-r", mixed, "--stats").out.splitlines()
    assert stats[2].startswith("4 messages of endpoints sent")
    assert any(line.startswith("queue depth (") for line in stats)


def test_numbers_of_lines_times_and_counts(cli: Cli, messages: Path) -> None:
    assert len(cli("dump", "-r", messages, "-c", "3").out.splitlines()) == 3
    first = cli("dump", "-r", messages, "-t", "r", "-c", "1").out
    assert first.split()[1] == "1.000000000"
    deltas = cli("dump", "-r", messages, "-t", "d").out.splitlines()
    assert deltas[2].split()[1] == "0.000020"


def test_chosen_messages_are_kept_with_what_they_are(cli: Cli, mixed: Path, tmp_path: Path) -> None:
    kept = tmp_path / "kept.pcapng"
    cli("dump", "-r", mixed, "-q", "-w", kept, "type == message or name == exec_status_get")
    with open_capture(str(mixed)) as capture:
        before = [p for p in capture if p.channel == 4]
    with open_capture(str(kept)) as capture:
        after = list(capture)
        descriptions = {i.name: i.description for i in capture.interfaces}
    assert [p for p in after if p.channel == 4] == before
    assert len(after) > len(before)
    assert descriptions["ep0"] == descriptions["ep1"] == "mem://a"
    assert descriptions["iop0.in"] == "emu:"


def test_replay_takes_no_notice_of_messages(cli: Cli, mixed: Path, messages: Path) -> None:
    ran = cli("replay", mixed, "-i", "emu:")
    assert ran.code == 0, ran.err
    only_messages = cli("replay", messages, "-i", "emu:")
    assert only_messages.code != 0 or "0 requests" in only_messages.out + only_messages.err
