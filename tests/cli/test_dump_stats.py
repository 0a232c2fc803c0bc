# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import io
import json
import re
import sys
from pathlib import Path

import pytest

from i2o.decode.conversation import Conversation
from i2o.frames import block_storage, header
from i2o.tools.bar_plot import bar_plot
from i2o.tools.dump_plot import PlotUnavailable
from i2o.tools.dump_stats import MAX_SHOWN, StatsReport
from i2o.transport.capture.packet import Channel, Packet


def report(count: int = 50, *, tids: int = 1, iops: int = 1) -> StatsReport:
    """Reads with a latency of 100 us, one in flight, 1000 a second; each tenth fails."""
    found, conversation = StatsReport(), Conversation()
    for number in range(count):
        tid, iop, start = 0x10 + number % tids, number % iops, number * 1_000_000
        request = block_storage.BSA_BLOCK_READ.build(
            target_address=tid, transaction_context=number, transfer_byte_count=512
        )
        reply = block_storage.BSA_SUCCESS_REPLY.build(
            function=0x30,
            target_address=tid,
            transaction_context=number,
            transfer_count=512,
            req_status=0 if number % 10 else 5,
        )
        for time_ns, channel, data in (
            (start, Channel.IN, request),
            (start + 100_000, Channel.OUT, reply),
        ):
            packet = Packet(time_ns, iop, channel, data, len(data), number)
            found.feed(conversation.feed(packet))
    return found


def test_the_tables() -> None:
    lines = report().lines(100, blocks=True)
    assert lines[0] == "50 requests, 50 replies in 0.0491 s: 1,018 requests/s, 0.5 MB/s"
    assert lines[1] == "queue depth at most 1"
    head, row = lines[3], lines[4]
    assert head.split()[:6] == ["message", "requests", "replies", "errors", "no", "reply"]
    assert re.split(r"\s{2,}", row) == [
        "bsa_block_read", "50", "50", "5", "-", "25 KiB", "100 us", "100 us", "100 us", "100 us",
        "100 us", "100 us",
    ]  # fmt: skip
    assert len(head) == len(row)
    assert any(line.startswith("iop0 0x010") for line in lines)
    assert not any("\x1b" in line for line in lines)
    assert all(len(line) <= 130 for line in lines)


def test_what_the_capture_lost_is_said() -> None:
    found = report(3)
    found.statistics.dropped = 1234
    found.statistics.short = 1
    found.statistics.from_device = 4096
    text = "\n".join(found.lines())
    assert "1,234 dropped by the capture; 1 without a whole header" in text
    assert "DMA 0 bytes to the device, 4 KiB from it" in text


def test_colours_mark_errors() -> None:
    lines = report().lines(colour=True)
    assert lines[0].startswith("\x1b[1m")
    row = next(line for line in lines if "bsa_block_read" in line)
    assert re.findall("\x1b\\[31m *(.*?)\x1b\\[0m", row) == ["5"]
    good = report(1)
    good.statistics.functions["bsa_block_read"].errors = 0
    row = next(line for line in good.lines(colour=True) if "bsa_block_read" in line)
    assert "\x1b" not in row


def test_many_devices_are_not_all_shown() -> None:
    lines = report(120, tids=60, iops=2).lines()
    rows = [line for line in lines if line.startswith("iop") and " 0x" in line]
    assert len(rows) == MAX_SHOWN
    assert "… and 20 more" in lines
    assert any(re.match(r"iop1 +60 ", line) for line in lines)


def test_plots_for_terminals() -> None:
    lines = report().lines(100, blocks=True)
    title = lines.index("queue depth (requests without a final reply, the most at one time)")
    assert lines[title + 1].startswith("1 ┤█")
    assert lines[title + 8].startswith("0 ┤█")
    assert lines[title + 10].split() == ["0", "0.0491", "s"]
    assert "messages per second" in lines
    assert not any("█" in line or "┤" in line for line in report().lines(100, blocks=False))
    assert report(1).lines()  # two messages: enough for a plot
    empty = StatsReport().lines()
    assert empty[0] == "0 requests, 0 replies in 0 s"
    assert len(empty) == 2


def test_bars_show_their_values() -> None:
    lines = bar_plot("title", [0, 1, 4, 8], width=4, height=1, top_text=str, left="a", right="b")
    assert lines == ["title", "0 ┤ ▁▄█", "  └────", "   a  b"]
    two = bar_plot("t", [0, 1, 8, 16], width=8, height=2, top_text=str, left="", right="")
    assert two[1:3] == ["16 ┤      ██", " 0 ┤  ▁▁████"]
    assert bar_plot("t", [], width=3, height=2, top_text=str, left="", right="")[1] == "1.0 ┤"
    plain = bar_plot("t", [1, 1], width=2, height=1, top_text=str, left="", right="", blocks=False)
    assert plain[1:3] == ["0 |##", "  +--"]
    narrow = bar_plot("t", [1], width=2, height=1, top_text=str, left="0", right="0.2 s")
    assert narrow[-1] == "   0 0.2 s"


def test_a_stream_without_block_characters(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), "ascii"))
    assert not any("█" in line for line in report().lines())
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), "utf-8"))
    assert any("█" in line for line in report().lines())
    monkeypatch.setattr(sys, "stdout", None)
    assert not any("█" in line for line in report().lines())


def test_json() -> None:
    found = json.loads(json.dumps(report().json()))
    assert found["type"] == "stats"
    assert found["total"]["requests"] == found["functions"]["bsa_block_read"]["replies"] == 50
    assert found["total"]["errors"] == 5
    assert found["devices"]["iop0 0x010"]["moved"] == 50 * 512
    assert found["iops"]["iop0"]["max_queue_depth"] == found["max_queue_depth"] == 1
    latency = found["total"]["latency"]
    assert latency["min"] == latency["max"] == latency["p50"] == latency["p99"] == 0.0001
    assert sum(found["timeline"]["messages"]) == 100
    assert max(found["timeline"]["latency_max"], key=lambda value: value or 0) == 0.0001
    empty = json.loads(json.dumps(StatsReport().json()))
    assert empty["total"]["latency"] is None


def test_a_plot_without_matplotlib(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(PlotUnavailable, match=r"pip install '\.\[plot\]' in a clone"):
        report().plot(str(tmp_path / "plot.png"))


def test_a_plot_as_a_picture(tmp_path: Path) -> None:
    fonts = pytest.importorskip("matplotlib.font_manager")
    png, svg = tmp_path / "plot.png", tmp_path / "plot.svg"
    report().plot(str(png))
    report().plot(str(svg))
    StatsReport().plot(str(tmp_path / "empty.png"))
    assert png.read_bytes().startswith(b"\x89PNG")
    assert b"<svg" in svg.read_bytes()
    with pytest.raises(PlotUnavailable, match=r"plot\.xyz.*not supported"):
        report().plot(str(tmp_path / "plot.xyz"))
    fonts._get_font.cache_clear()  # it keeps font files open


def test_only_requests_without_a_reply_make_no_latency() -> None:
    found = StatsReport()
    frame = header.MSG_HEADER.build(version_offset=1, message_size=4, target_address=5, function=6)
    found.feed(Conversation().feed(Packet(0, 0, Channel.IN, frame, len(frame), 1)))
    lines = found.lines()
    assert re.split(r"\s{2,}", lines[4])[1:5] == ["1", "-", "-", "1"]
