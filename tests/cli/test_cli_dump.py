# SPDX-License-Identifier: Apache-2.0
"""`i2o dump`: every source, every form of output, and what it says about bad captures."""

from __future__ import annotations

import gzip
import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import i2o
from fakes.interrupted import ends_of_interrupt
from i2o.capture import capture as capture_to
from i2o.decode.names import field_names
from i2o.errors import OutOfFrames
from i2o.frames import block_storage
from i2o.frames.functions import Function
from i2o.message_layer import MessageLayer
from i2o.tools import cli, dump_follow, dump_json, dump_live
from i2o.transport.capture.capture_file import CaptureFile
from i2o.transport.capture.packet import Channel, Packet
from i2o.transport.capture.reader import open_capture

from .conftest import CHECKOUT, one_line

DATA = CHECKOUT / "tests" / "data"
TRACE = DATA / "linux-5.10-dpt_i2o.jsonl"
GOLDEN = DATA / "linux-5.10-dpt_i2o.dump.jsonl"
"""Made by: i2o dump -r tests/data/linux-5.10-dpt_i2o.jsonl --json > THIS"""


@pytest.fixture
def capture(cli, tmp_path):
    """The trace as pcapng."""
    path = tmp_path / "trace.pcapng"
    ran = cli("dump", "-r", TRACE, "-q", "-w", path)
    assert (ran.code, ran.out, ran.err) == (0, "", "")
    return path


# --- the recorded trace -------------------------------------------------------------------------


def test_json_of_the_trace_is_the_golden_file(cli):
    ran = cli("dump", "-r", TRACE, "--json")
    assert (ran.code, ran.err) == (0, "")
    assert ran.out.splitlines() == GOLDEN.read_text().splitlines()


def test_the_golden_file_leaves_nothing_unknown():
    records = [json.loads(line) for line in GOLDEN.read_text().splitlines()]
    assert [record["index"] for record in records] == list(range(len(records)))
    requests = {record["index"]: record for record in records if record["type"] == "request"}
    assert len(requests) == 173
    for record in requests.values():
        assert "unknown" not in record["name"]
        assert not record["problems"], record
        assert record["fields"]["function"] == record["function"]
        assert "rest" not in record["decoded"]
        if record["name"] == "dpt_private_scsi_scb_exec":
            assert record["decoded"]["command"]["name"]
        if record["fields"]["version_offset"] >> 4:
            assert record["decoded"]["sgl"]
    replies = [record for record in records if record["type"] == "reply"]
    assert len(replies) == 164
    for record in replies:
        request = requests[record["reply_to"]]
        assert request["fields"]["transaction_context"] == record["fields"]["transaction_context"]
        assert request["function"] == record["function"]
        assert 0 < record["latency"] < 0.01
        assert record["latency"] == pytest.approx(record["t"] - request["t"], abs=1e-9)
    data = [record for record in records if record["type"] == "dma"]
    assert all(record["request"] is not None and record["decoded"] for record in data)
    lists = [r for r in data if r["name"] == "util_params_get" and r["to_device"]]
    assert lists
    assert all(record["decoded"]["operations"]["entries"] for record in lists)


def test_one_line_a_packet(cli):
    ran = cli("dump", "-r", TRACE)
    lines = ran.out.splitlines()
    assert (ran.code, ran.err, len(lines)) == (0, "", len(TRACE.read_text().splitlines()))
    assert lines[0].split()[:6] == ["0", "0.000000", "iop0", "->", "000", "exec_iop_reset"]
    assert lines[12].split()[:6] == ["12", "0.009037", "iop0", "<-", "000", "exec_hrt_get"]
    assert "109 us (9)" in lines[12]


def test_converted_to_pcapng_nothing_is_lost(cli, capture):
    def records(path):
        return [
            {key: value for key, value in record.items() if key != "mfa"}
            for record in cli("dump", "-r", path, "--json").records
        ]

    before, after = records(TRACE), records(capture)
    assert before == after
    with open_capture(str(capture)) as packets:
        kept = list(packets)
    # DMA got the MFA of its request; the times are exact
    assert kept[1].mfa == kept[0].mfa == 4096
    assert kept[0].time_ns == 6_997_032_000
    piece = next(packet for packet in kept if packet.length > len(packet.data))
    assert (len(piece.data), piece.channel) == (512, Channel.FROM_DEVICE)


@pytest.mark.parametrize("form", ["gzip", "stdin", "fifo", "several"])
def test_other_ways_to_read_a_capture(cli, process, capture, tmp_path, form):
    wanted = cli("dump", "-r", capture, "-c", 40).out
    if form == "gzip":
        packed = tmp_path / "trace.gz"
        packed.write_bytes(gzip.compress(capture.read_bytes()))
        ran = cli("dump", "-r", packed, "-c", 40)
        assert (ran.code, ran.out, ran.err) == (0, wanted, "")
    elif form == "several":
        ran = cli("dump", "-r", capture, "-r", capture, "name == exec_iop_reset")
        assert [line.split()[0] for line in ran.out.splitlines()] == ["0", "1", "1015", "1016"]
    else:
        source = "-"
        done = process("dump", "-r", source, "-c", 40, stdin=capture.read_bytes())
        assert (done.code, done.out.decode()) == (0, wanted)
        assert "40 shown, 0 dropped" in done.err


# --- what is shown ------------------------------------------------------------------------------


def test_a_filter_is_all_words_that_are_no_options(cli):
    ran = cli("dump", "-r", TRACE, "name", "==", "exec_hrt_get", "-t", "r", "and", "type!=dma")
    assert [line.split()[:2] for line in ran.out.splitlines()] == [
        ["9", "7.005960000"],
        ["12", "7.006069000"],
    ]


def test_json_numbers_the_printed_objects(cli):
    hrt = cli("dump", "-r", TRACE, "--json", "--no-dma", "name == exec_hrt_get").records
    assert [(r["index"], r["type"], r.get("reply_to")) for r in hrt] == [
        (0, "request", None),
        (1, "reply", 0),
    ]
    assert "reply_to" not in hrt[0]
    alone = cli("dump", "-r", TRACE, "--json", "-x", "name == exec_hrt_get and type != request")
    assert [r.get("request", r.get("reply_to")) for r in alone.records] == [None, None, None]
    assert alone.records[2]["bytes"] == "01c00500010000a8010000800000000000000000"


def test_json_of_dma(cli):
    record = cli("dump", "-r", TRACE, "--json", "index == 972").records[0]
    assert (record["address"] > 0, record["length"], record["to_device"]) == (True, 53248, False)
    assert (record["buffer"], record["offset"], record["dir"]) == (0, 0, "out")


def test_fields_are_named_as_in_filters(cli):
    ran = cli(
        "dump", "-r", TRACE, "-T", "fields", "-E", "header=y", "-e", "index", "-e", "t",
        "-e", "name", "-e", "latency", "-e", "target", "-e", "opcode", "-e", "cdb",
        "index in {0, 12, 79}",
    )  # fmt: skip
    rows = [line.split("\t") for line in ran.out.splitlines()]
    assert rows == [
        ["index", "t", "name", "latency", "target", "opcode", "cdb"],
        ["0", "0.000000000", "exec_iop_reset", "", "0", "", ""],
        ["12", "0.009037000", "exec_hrt_get", "0.000109000", "1", "", ""],
        ["79", "0.046463000", "dpt_private_scsi_scb_exec", "", "0", "18",
         "12000000240000000000000000000000"],
    ]  # fmt: skip


def test_every_name_is_a_column(cli, capture):
    names = [word for name in field_names() for word in ("-e", name)]
    ran = cli("dump", "-r", capture, "-T", "fields", *names, "-c", 100)
    assert (ran.code, ran.err) == (0, "")
    assert {line.count("\t") for line in ran.out.splitlines()} == {len(names) // 2 - 1}


def test_an_unknown_field_is_an_error_with_suggestions(cli):
    ran = cli("dump", "-r", TRACE, "-T", "fields", "-e", "functoin")
    assert ran.code == 2
    assert "no field is called 'functoin' (perhaps function" in one_line(ran)
    ran = cli("dump", "-r", TRACE, "-T", "fields", "-e", "qqqqqqqq")
    assert ran.code == 2
    assert "qqqqqqqq" in one_line(ran)


@pytest.mark.parametrize(
    ("mode", "first", "second"),
    [
        ("z", "0.008928", "0.009037"),
        ("d", "0.000000", "0.000109"),
        ("r", "7.005960000", "7.006069000"),
        ("a", "1970-01-01", "1970-01-01"),
    ],
)
def test_times(cli, mode, first, second, monkeypatch):
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    ran = cli("dump", "-r", TRACE, "-t", mode, "--no-dma", "name == exec_hrt_get")
    assert [line.split()[1] for line in ran.out.splitlines()] == [first, second]


def test_every_field_with_v(cli):
    lines = cli("dump", "-r", TRACE, "-v", "index == 9").out.splitlines()
    texts = [" ".join(line.split()) for line in lines]
    assert "function 0xa8 exec_hrt_get" in texts
    assert "message_size 6 24 bytes" in texts
    assert "[0] simple 24 bytes at 0x021e1000, IN, EOB, LAST" in texts
    depth = {
        text.split()[0]: len(line) - len(line.lstrip())
        for line, text in zip(lines, texts, strict=True)
    }
    assert depth["function"] < depth["[0]"] < depth["kind"]


def test_bits_and_offsets_with_vv(cli):
    out = cli("dump", "-r", TRACE, "-vv", "-x", "index == 79").out
    texts = [" ".join(line.split()) for line in out.splitlines()]
    assert texts[1] == "word hex bits field value meaning"
    assert "0 000e00c1 7:0 version_offset 0xc1 I2O 1.5, SGL at word 12" in texts
    assert "31:24 function 0xff private_message" in texts
    assert "8 00000024" in texts  # in the middle of the CDB
    assert "+1c 7:0 opcode 18 inquiry" in texts
    assert "+30 23:0 count 36 36 bytes" in texts
    assert "0000 c1 00 0e 00 00 10 00 ff 11 00 00 80 00 00 00 00 ................" in texts


def test_problems_are_shown_with_v(cli):
    out = cli("dump", "-r", TRACE, "-v", "index == 12").out
    assert "problem               ! its TIDs are exchanged" in out


def test_details_of_dma_with_vv(cli):
    out = cli("dump", "-r", TRACE, "-vv", "index == 26").out
    assert "TID 0x010 RANDOM_BLOCK_STORAGE" in out
    assert "BUS_ADAPTER_PORT" in out


def test_numbers_with_n(cli):
    assert " fn 0xa8 " in cli("dump", "-r", TRACE, "-n", "index == 9").out


def test_colour_only_when_asked_for_or_on_a_terminal(cli, monkeypatch):
    for options in ((), ("-v",), ("-vv",), ("--follow", "0"), ("--stats",)):
        plain = cli("dump", "-r", TRACE, "-c", 40, *options).out
        assert "\x1b" not in plain
        painted = cli("dump", "-r", TRACE, "-c", 40, *options, "--color", "always").out
        assert "\x1b[" in painted
        assert "\x1b" not in cli("dump", "-r", TRACE, "-c", 40, *options, "--colour", "never").out
    monkeypatch.setattr("i2o.tools.output.use_colour", lambda stream: True)
    assert "\x1b[" in cli("dump", "-r", TRACE, "-c", 1).out


# --- follow -------------------------------------------------------------------------------------


def test_follow_shows_exchanges(cli):
    out = cli("dump", "-r", TRACE, "--follow", "8").out
    exchanges = out.rstrip("\n").split("\n\n")
    assert len(exchanges) == 4
    for number, text in enumerate(exchanges, 1):
        head, *lines = text.splitlines()
        assert head.startswith(f"exchange {number}: util_params_get, answered after ")
        assert head.endswith(" us")
        assert lines[0].split()[3:5] == ["->", "008"]
        assert lines[-1].split()[3:5] == ["<-", "008"]


def test_follow_of_messages_without_replies(cli):
    out = cli("dump", "-r", TRACE, "--follow", "0", "-c", 13).out
    assert "exchange 1: exec_iop_reset, no reply wanted\n     0 " in out
    assert "exchange 3: exec_status_get, no reply wanted" in out
    assert "exchange 6: exec_hrt_get, answered after 109 us" in out


def _packets(*frames):
    """Packets of frames, 1 us apart."""
    return [
        Packet(1000 * at, 0, Channel.OUT if frame[1] & 0x80 else Channel.IN, frame, len(frame))
        for at, frame in enumerate(frames)
    ]


def _read(context):
    return block_storage.BSA_STATUS_CHECK.build(
        target_address=0x10, transaction_context=context, initiator_context=7
    )


def _reply(request, *, last=True):
    reply = block_storage.BSA_SUCCESS_REPLY.build(transfer_count=0)
    reply = reply[:4] + request[4:16] + reply[16:]
    return reply if last else reply[:1] + b"\x80" + reply[2:]


@pytest.fixture
def written(tmp_path):
    """Write packets to a capture."""

    def write(*frames):
        path = tmp_path / "made.pcapng"
        with CaptureFile(path) as file:
            for packet in _packets(*frames):
                file.add_packet(packet)
            assert file.flush()
        return path

    return write


def test_follow_of_replies_in_parts_and_none(cli, written):
    one, two, three = _read(1), _read(2), _read(3)
    path = written(one, two, _reply(two, last=False), _reply(one), _reply(two), three)
    heads = [
        line.partition(" after")[0]
        for line in cli("dump", "-r", path, "--follow", "16").out.splitlines()
        if line.startswith("exchange")
    ]
    assert heads == [
        "exchange 2: bsa_status_check, answered",
        "exchange 1: bsa_status_check, answered",
        "exchange 2, continued: bsa_status_check, answered",
        "exchange 3: bsa_status_check, no reply",
    ]


def test_follow_keeps_little(cli, written, monkeypatch):
    monkeypatch.setattr(dump_follow, "MAX_OPEN", 2)
    monkeypatch.setattr(dump_follow, "MAX_LINES", 4)
    requests = [_read(number) for number in range(4)]
    path = written(*requests, *map(_reply, requests))
    lines = cli("dump", "-r", path, "--follow", "16", "-v").out.splitlines()
    heads = [line for line in lines if line.startswith("exchange")]
    # long ones are shown in parts, and replies to those forgotten stand alone
    assert heads[0] == "exchange 1: bsa_status_check, no reply"
    assert [line.split()[0] for line in lines if " iop0 " in line] == list("01234567")
    assert heads[-1].startswith("exchange 4, continued: bsa_status_check, answered after")


def test_follow_needs_a_header(cli, written):
    path = written(b"\x01\x00\x03", _read(1))
    assert cli("dump", "-r", path, "--follow", "0").out == ""


def test_json_forgets_requests_that_are_long_gone(cli, written, monkeypatch):
    monkeypatch.setattr(dump_json, "MAX_REMEMBERED", 2)
    requests = [_read(number) for number in range(4)]
    path = written(*requests, *map(_reply, requests))
    replies = cli("dump", "-r", path, "--json", "--no-dma").records[4:]
    assert [record["reply_to"] for record in replies] == [None, None, 2, 3]


def test_frames_too_short_for_a_header(cli, written):
    path = written(b"\x01\x00\x03")
    ran = cli("dump", "-r", path, "--json")
    (record,) = ran.records
    assert (record["function"], record["name"], record["size_words"]) == (None, None, None)
    assert record["problems"]
    assert cli("dump", "-r", path, "-vv", "-x").code == 0
    ran = cli("dump", "-r", path, "-T", "fields", "-e", "function", "-e", "type")
    assert ran.out == "\trequest\n"


@pytest.mark.parametrize("run", ["inline", "thread"])
def test_hits_of_a_fault_plan_are_shown(cli, tmp_path, run):
    path, plan = tmp_path / "faults.pcapng", tmp_path / "plan.toml"
    plan.write_text('[[fault]]\non = "BSA_READ"\ntimes = 1\naction = "fail"\n')
    with (
        i2o.open(capture_to(f"emu:?run={run}&faults={plan}", path)) as iop,
        iop.block() as disk,
        pytest.raises(i2o.I2OError, match="CONGESTION"),
    ):
        disk.read(0, 4096)
    lines = cli("dump", "-r", path).out.splitlines()
    (place,) = (at for at, line in enumerate(lines) if " remark " in line)
    assert lines[place].endswith(" fault fail hits function 0x30 to TID 0x010")
    assert "bsa_block_read" in lines[place - 1]


def test_messages_of_endpoints_and_remarks(cli, tmp_path):
    path = tmp_path / "other.pcapng"
    with CaptureFile(path) as file:
        file.add_packet(Packet(0, 0, Channel.MESSAGE.value, b"hello", 5))
        file.add_packet(Packet(1, 0, Channel.IN.value, _read(1), 16, 7, comment="odd\x1b"))
        assert file.flush()
    other, remarked = cli("dump", "-r", path, "--json", "-x").records
    assert (other["type"], other["length"], other["bytes"]) == ("message", 5, b"hello".hex())
    assert other["problems"] == ["5 bytes are no header of 72"]
    assert (remarked["mfa"], remarked["comment"]) == (7, "odd\x1b")
    for options in ((), ("-vv", "-x")):
        out = cli("dump", "-r", path, *options).out
        assert "5 bytes" in out
        assert "\x1b" not in out
    assert cli("dump", "-r", path, "--follow", "16").out.count(" iop0 ") == 1


# --- statistics, dissector ----------------------------------------------------------------------


def test_statistics(cli):
    ran = cli("dump", "-r", TRACE, "--stats")
    assert ran.out.startswith("173 requests, 164 replies in 1.5")
    assert "queue depth" in ran.out
    (record,) = cli("dump", "-r", TRACE, "--stats", "--json", "target == 8 or type==reply").records
    assert record["functions"]["util_params_get"]["requests"] == 4


def test_a_plot_goes_to_a_file(cli, monkeypatch, tmp_path):
    drawn = []
    monkeypatch.setattr(
        "i2o.tools.dump_stats.StatsReport.plot", lambda self, path: drawn.append(path)
    )
    assert cli("dump", "-r", TRACE, "--stats", "--plot", tmp_path / "x.svg").code == 0
    assert drawn == [str(tmp_path / "x.svg")]


def test_the_dissector_is_lua(cli):
    ran = cli("dump", "--dissector")
    assert ran.code == 0
    assert "Proto(" in ran.out


# --- writing ------------------------------------------------------------------------------------


def test_what_passes_the_filter_is_written(cli, capture, tmp_path):
    path = tmp_path / "part.pcapng"
    ran = cli("dump", "-r", capture, "-w", path, "--no-dma", "name == exec_hrt_get")
    assert len(ran.out.splitlines()) == 2
    again = cli("dump", "-r", path, "-t", "r")
    assert [line.split()[1] for line in again.out.splitlines()] == ["7.005960000", "7.006069000"]


def test_a_capture_on_standard_output(process):
    done = process("dump", "-r", TRACE, "-w", "-", "-c", 5)
    assert done.code == 0
    assert done.out[:4] == b"\x0a\x0d\x0d\x0a"
    again = process("dump", "-r", "-", stdin=done.out)
    assert len(again.out.splitlines()) == 5


def test_captures_in_several_files(cli, capture, tmp_path):
    path = tmp_path / "part.pcapng"
    ran = cli("dump", "-r", capture, "-q", "-w", path, "-C", "64K", "-W", "3")
    assert (ran.code, ran.err) == (0, "")
    names = sorted(file.name for file in tmp_path.glob("part-*"))
    assert len(names) == 3
    assert all((tmp_path / name).stat().st_size <= 1 << 16 for name in names)
    several = [word for name in names for word in ("-r", tmp_path / name)]
    wanted = cli("dump", "-r", capture, "--no-dma", "-t", "r").out.splitlines()[-20:]
    shown = cli("dump", *several, "--no-dma", "-t", "r").out.splitlines()[-20:]
    assert [line.split()[1:6] for line in shown] == [line.split()[1:6] for line in wanted]


def test_a_capture_that_cannot_be_written(cli):
    ran = cli("dump", "-r", TRACE, "-w", "/nonexistent/x.pcapng")
    assert ran.code == 1
    assert "/nonexistent/x.pcapng" in one_line(ran)


def test_a_full_disk_is_an_error(cli):
    ran = cli("dump", "-r", TRACE, "-q", "-w", "/dev/full")
    assert ran.code == 1
    assert "/dev/full" in one_line(ran)


# --- bad input ----------------------------------------------------------------------------------

BAD = [
    (("-r", "/nonexistent"), 1, "/nonexistent: No such file"),
    (("-r", "/"), 1, "Is a directory"),
    (("-r", "/dev/null"), 1, "there is nothing in it"),
    (("-r", __file__), 1, "neither pcapng nor pcap"),
    (("-r", "a", "-i", "emu:"), 2, "-r and -i cannot go together"),
    (("-i", "emu:", "--", "true"), 2, "-i and -- COMMAND cannot go together"),
    (("-r", "-", "-r", "-"), 2, "only once"),
    (("-r", "a", "--seconds", "1"), 2, "--seconds is for -i"),
    (("--seconds", "0"), 2, "no number of seconds"),
    (("--seconds", "x"), 2, "no number of seconds"),
    (("-r", "a", "--json", "-T", "fields", "-e", "t"), 2, "one form of output"),
    (("-r", "a", "--stats", "-T", "fields", "-e", "t"), 2, "one form of output"),
    (("-r", "a", "-T", "fields"), 2, "belong together"),
    (("-r", "a", "-e", "t"), 2, "belong together"),
    (("-r", "a", "--plot", "x.svg"), 2, "--plot needs --stats"),
    (("-r", "a", "-C", "1M"), 2, "-C needs -w"),
    (("-r", "a", "-w", "b", "-C", "0"), 2, "-C must be more than 0"),
    (("-r", "a", "-w", "b", "-W", "3"), 2, "-W needs -C or -G"),
    (("-r", "a", "-t", "q"), 2, "invalid choice"),
    (("-r", "a", "--follow", "0x1000"), 2, "no TID"),
    (("-r", "a", "--frobnicate"), 2, "--frobnicate"),
    (("-r", "a", "functoin == 1"), 2, "functoin"),
    (("-r", "a", "function =="), 2, "filter"),
    (("-i", "nonsense:"), 2, "no backend called"),
    (("-i", "emu:?disk=/nonexistent"), 3, "does not exist"),
    (("--", "/nonexistent/program"), 2, "no such program"),
    (("-r", "a", "--faults", "x.toml", "-i", "pci:0"), 2, "cannot go together"),
    (("-i", "pci:0", "--faults", "x.toml"), 2, "--faults is for software IOPs"),
]


@pytest.mark.parametrize(("words", "code", "text"), BAD, ids=[" ".join(bad[0]) for bad in BAD])
def test_wrong_command_lines(cli, words, code, text):
    ran = cli("dump", *words)
    assert ran.code == code
    assert text in one_line(ran)
    assert ran.out == ""


def test_no_capture_goes_to_a_terminal(cli, monkeypatch):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    ran = cli("dump", "-r", TRACE, "-w", "-")
    assert ran.code == 2
    assert "terminal" in one_line(ran)


def test_a_truncated_capture_is_shown_as_far_as_it_goes(cli, capture):
    whole = cli("dump", "-r", capture).out.splitlines()
    capture.write_bytes(capture.read_bytes()[:20001])
    ran = cli("dump", "-r", capture)
    shown = ran.out.splitlines()
    assert ran.code == 1
    assert 20 < len(shown) < len(whole)
    assert shown == whole[: len(shown)]
    assert str(capture) in one_line(ran)


def test_damaged_gzip(cli, capture, tmp_path):
    packed = tmp_path / "x.gz"
    packed.write_bytes(gzip.compress(capture.read_bytes())[:-100])
    ran = cli("dump", "-r", packed)
    assert ran.code == 1
    assert ran.out
    assert "compressed data end too early" in ran.err


def test_a_capture_of_something_else(cli, tmp_path):
    path = tmp_path / "net.pcap"
    packet = bytes(16) + b"\x60" + bytes(59)
    header = bytes.fromhex("d4c3b2a1020004000000000000000000ffff000001000000")
    path.write_bytes(header + (bytes(8) + b"\x3c\0\0\0\x3c\0\0\0" + packet[:60]) * 3)
    ran = cli("dump", "-r", path)
    assert (ran.code, ran.out) == (1, "")
    assert "no I2O traffic, but 3 packets of link type 1" in one_line(ran)


def test_bad_lines_of_a_trace(cli, tmp_path):
    path = tmp_path / "trace.jsonl"
    path.write_text(TRACE.read_text().splitlines()[0] + '\n{"event": 1}\n')
    ran = cli("dump", "-r", path)
    assert ran.code == 1
    assert len(ran.out.splitlines()) == 1
    assert "line 2" in one_line(ran)


# --- live ---------------------------------------------------------------------------------------


def test_an_iop_is_brought_up_and_watched(cli):
    ran = cli("dump", "-i", "emu:", "--seconds", "0.4", "--json")
    names = [record["name"] for record in ran.records]
    assert ran.code == 0
    assert {"exec_status_get", "exec_sys_enable", "exec_lct_notify"} <= set(names)
    assert names.count("util_event_register") == 3
    assert any("lct" in record.get("decoded", {}) for record in ran.records)
    assert f"{len(names)} packets, {len(names)} shown, 0 dropped" in ran.err


def test_watching_ends_after_c_packets(cli):
    ran = cli("dump", "-c", 3, "type == request")
    assert (ran.code, len(ran.out.splitlines())) == (0, 3)
    assert cli("dump", "-c", 0).out == ""


def test_packets_that_nobody_shows_in_time_are_dropped(cli, monkeypatch):
    monkeypatch.setattr(dump_live, "MAX_WAITING", 0)
    ran = cli("dump", "-i", "emu:", "--seconds", "0.3")
    assert ran.out == ""
    assert " dropped by the capture" in ran.err
    assert not ran.err.startswith("0 packets, 0 shown, 0 dropped")


def test_an_iop_that_refuses_requests_for_events_is_watched_all_the_same(cli, monkeypatch):
    submit = MessageLayer.submit

    def refuse(self, iop, message, *options):
        if message[7] == Function.UTIL_EVENT_REGISTER:
            raise OutOfFrames("no")
        submit(self, iop, message, *options)

    monkeypatch.setattr(MessageLayer, "submit", refuse)
    assert cli("dump", "-i", "emu:", "--seconds", "0.3").code == 0


def test_an_interrupt_prints_the_summary(program, environment):
    started = subprocess.Popen(
        [*program, "dump", "-i", "emu:"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment, cwd=CHECKOUT, text=True,
    )  # fmt: skip
    try:
        lines = [started.stdout.readline() for _ in range(18)]  # they come at once
        started.send_signal(signal.SIGINT)
        out, err = started.communicate(timeout=30)
    finally:
        started.kill()
    assert started.returncode in ends_of_interrupt(0)
    assert all(" iop0 " in line for line in (*lines, *out.splitlines()))
    assert "dropped by the capture; " in err
    assert "Traceback" not in err


def test_an_interrupt_while_reading_a_file(cli, monkeypatch):
    from i2o.decode.conversation import Conversation

    feed = Conversation.feed

    def interrupted(self, packet):
        if packet.time_ns > 7_006_000_000:
            raise KeyboardInterrupt
        return feed(self, packet)

    monkeypatch.setattr(Conversation, "feed", interrupted)
    ran = cli("dump", "-r", TRACE)
    assert ran.code == 0
    assert len(ran.out.splitlines()) == 10
    assert ran.err.startswith("11 packets, 10 shown, 0 dropped")


def test_a_closed_pipe_is_quiet(program, environment, capture):
    command = f"{program[0]} -m i2o dump -r {capture} -v | head -n 3"
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", command],
        capture_output=True, env=environment, cwd=CHECKOUT, timeout=60, text=True,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (141, "")
    assert len(done.stdout.splitlines()) == 3


# --- a program's traffic ------------------------------------------------------------------------


def test_the_traffic_of_a_program(process, program, tmp_path):
    kept = tmp_path / "kept.pcapng"
    done = process("dump", "-w", kept, "--json", "--", *program, "lct")
    assert done.code == 0
    names = [json.loads(line)["name"] for line in done.out.decode().splitlines()]
    assert "exec_lct_notify" in names
    assert "random_block_storage" in done.err  # the program's own output
    assert f"{len(names)} packets" in done.err
    again = process("dump", "-r", kept, "--json")
    assert [json.loads(line)["name"] for line in again.out.decode().splitlines()] == names
    with open_capture(str(kept)) as capture:
        list(capture)
        assert {interface.description for interface in capture.interfaces} == {"emu:"}
    assert not list(tmp_path.glob("i2o-dump-*"))


def test_the_exit_code_is_the_programs(process):
    assert process("dump", "--", "sh", "-c", "exit 7").code == 7
    killed = process("dump", "--", "sh", "-c", "kill -KILL $$")
    assert (killed.code, killed.out) == (137, b"")
    assert killed.err == "i2o: sh sent no I2O traffic\n"


def test_traffic_of_programs_one_after_the_other(process, program):
    both = f"{program[0]} -m i2o lct && {program[0]} -m i2o status"
    done = process("dump", "name == exec_sys_enable and type == request", "--", "sh", "-c", both)
    assert done.code == 0
    assert len(done.out.splitlines()) == 2


def test_a_program_goes_on_when_nobody_looks_any_more(process, program, tmp_path):
    copy = tmp_path / "copy"
    done = process("dump", "-c", 1, "--", *program, "read", "16", "--count", "4M", "-o", copy)
    assert (done.code, len(done.out.splitlines())) == (0, 1)
    assert copy.stat().st_size == 4 << 20


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 0), (signal.SIGTERM, 143)])
def test_signals_while_a_program_runs(program, environment, number, code):
    """Ctrl-C is for the program to see; what ends us ends it."""
    script = "import time; print('up', flush=True); time.sleep(0.5 if {} else 60)"
    script = script.format(number == signal.SIGINT)
    started = subprocess.Popen(
        [*program, "dump", "--", sys.executable, "-c", script],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment, cwd=CHECKOUT, text=True,
    )  # fmt: skip
    try:
        assert started.stderr.readline() == "up\n"
        started.send_signal(number)
        _, err = started.communicate(timeout=30)
    finally:
        started.kill()
    assert started.returncode == code
    assert "Traceback" not in err


def test_a_program_without_standard_error(monkeypatch, capfd):
    monkeypatch.setattr(sys, "stderr", None)
    assert cli.main(["dump", "--", "sh", "-c", "echo hidden"]) == 0
    assert "hidden" not in "".join(capfd.readouterr())


def test_in_another_thread_signals_are_left_alone(capsys):
    import threading

    codes = []
    thread = threading.Thread(target=lambda: codes.append(cli.main(["dump", "--", "true"])))
    thread.start()
    thread.join()
    assert codes == [0]


# --- odds and ends ------------------------------------------------------------------------------


def test_i2odump_is_i2o_dump(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["i2odump", "-r", str(TRACE), "-c", "1"])
    assert cli.dump_main() == 0
    assert "exec_iop_reset" in capsys.readouterr().out


class _Counting(io.StringIO):
    flushes = 0

    def flush(self):
        self.flushes += 1


@pytest.mark.parametrize(("options", "most"), [((), 3), (("-l",), 13)])
def test_each_line_at_once(monkeypatch, options, most):
    stream = _Counting()
    monkeypatch.setattr(sys, "stdout", stream)
    assert cli.main(["dump", "-r", str(TRACE), "-c", "10", *options]) == 0
    assert most - 3 <= stream.flushes <= most
    assert len(stream.getvalue().splitlines()) == 10


def test_without_standard_output(monkeypatch):
    monkeypatch.setattr(sys, "stdout", None)
    assert cli.main(["dump", "-r", str(TRACE), "-c", "1"]) == 0


def test_live_output_to_a_file_is_written_in_batches(process, program, tmp_path, environment):
    with (tmp_path / "out").open("wb") as out:
        done = subprocess.run(
            [*program, "dump", "-i", "emu:", "--seconds", "2"],
            stdout=out, stderr=subprocess.PIPE, env=environment, cwd=CHECKOUT, timeout=60,
        )  # fmt: skip
    assert done.returncode == 0
    assert (tmp_path / "out").read_text().count(" iop0 ") > 10


def test_reading_does_not_block_on_a_fifo_that_is_written(program, environment, capture, tmp_path):
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    started = subprocess.Popen(
        [*program, "dump", "-r", str(fifo), "index == 0 or index > 1000"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment, cwd=CHECKOUT, text=True,
    )  # fmt: skip
    data = Path(capture).read_bytes()
    try:
        with fifo.open("wb") as writer:
            writer.write(data[:4096])
            writer.flush()
            # shown although the capture goes on
            assert "exec_iop_reset" in started.stdout.readline()
            writer.write(data[4096:])
        out, _ = started.communicate(timeout=30)
    finally:
        started.kill()
    assert started.returncode == 0
    assert len(out.splitlines()) == 14


def test_follow_goes_on_behind_the_failure_of_a_message_that_is_never_answered():
    from fakes.decoded import Talk
    from i2o.frames import header, utility
    from i2o.tools.dump_line import LinePrinter
    from i2o.tools.dump_text import TextPrinter

    talk = Talk()
    printer = dump_follow.FollowPrinter(TextPrinter(LinePrinter()))
    nop = utility.UTIL_NOP.build(target_address=0x10)
    failure = header.FAILURE_REPLY.build(preserved_mfa_low=0x2000)
    failure = failure[:4] + nop[4:12] + failure[12:]
    texts = [
        printer.text(talk.request(nop, mfa=0x2000)),
        printer.text(talk.reply(failure)),
        printer.text(talk.request(nop, mfa=0x2040)),
        printer.rest(0),
    ]
    assert [text.count("exchange") for text in texts] == [0, 1, 0, 1]
    assert "FAIL" in texts[1]
