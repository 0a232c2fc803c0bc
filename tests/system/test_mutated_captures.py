# SPDX-License-Identifier: Apache-2.0
"""Damaged captures and frames, thousands of them, through reader, dump and dissector.

No traceback, no hang, and where something is wrong the reason. With `I2O_TESTS_FULL=1` there are
20,000 captures and 200,000 frames (ten minutes); else a twentieth of that. Seeds are fixed.
"""

from __future__ import annotations

import contextlib
import os
import random
import re
import shutil
import struct
import subprocess
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

import pytest

import i2o
from fakes.message_traffic import every_kind
from i2o.capture import captured
from i2o.decode.conversation import MESSAGE, Conversation
from i2o.decode.frame import extra_nodes, fixed_nodes
from i2o.errors import CaptureError
from i2o.frames import catalog
from i2o.tools.cli import main
from i2o.tools.dissector import dissector
from i2o.tools.dump_line import LinePrinter
from i2o.transport.capture import pcapng_writer
from i2o.transport.capture.capture_file import CaptureFile
from i2o.transport.capture.packet import LINKTYPE_DMA, LINKTYPE_FRAME, Channel, Packet
from i2o.transport.capture.reader import open_capture
from i2o.transport.registry import open_port

FULL = os.environ.get("I2O_TESTS_FULL") == "1"
CAPTURES = 20_000 if FULL else 1_000
FRAMES = 200_000 if FULL else 10_000
TRACE = Path(__file__).parents[1] / "data" / "linux-5.10-dpt_i2o.jsonl"


@cache
def whole_capture() -> bytes:
    """A capture of a bring-up, parameters and a few blocks, and of messages of endpoints."""
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(_temporary_folder()))
        path = folder / "whole.pcapng"
        with CaptureFile(path) as file:
            messages = every_kind()
            for packet in messages[:7]:
                file.add_packet(packet, "mem://a")
            with i2o.open(captured(open_port("emu:"), file)) as iop:
                disk = iop.block()
                disk.write(0, b"some data" * 100)
                disk.read(0, 900)
            for packet in messages[7:]:
                file.add_packet(packet, "mem://a")
        return path.read_bytes()


@contextlib.contextmanager
def _temporary_folder() -> Iterator[str]:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        yield folder


def mutated(rng: random.Random, data: bytes) -> bytes:
    """Change, cut out, repeat or put in a few bytes, anywhere."""
    spoilt = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(spoilt))
        size = rng.choice((1, 1, 1, 2, 4, 4, 8, 16, 100))
        kind = rng.randrange(6)
        if kind == 0:
            spoilt[at : at + size] = rng.randbytes(size)
        elif kind == 1:
            spoilt[at] ^= 1 << rng.randrange(8)
        elif kind == 2:
            del spoilt[at : at + size]
        elif kind == 3:
            spoilt[at:at] = spoilt[at : at + size]
        elif kind == 4:
            spoilt[at : at + 4] = rng.choice((b"\xff\xff\xff\xff", b"\0\0\0\0", b"\0\0\0\x80"))
        else:
            del spoilt[max(4, at) :]
        if len(spoilt) < 8:
            return bytes(spoilt) + b"12345678"
    return bytes(spoilt)


@pytest.mark.untraced
def test_mutated_captures_are_read_as_far_as_they_go(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rng = random.Random(20261123)
    trace = b"\n".join(TRACE.read_bytes().split(b"\n")[:40])
    originals = (whole_capture(), trace)
    path = tmp_path / "mutated.pcapng"
    damaged = 0
    for turn in range(CAPTURES):
        data = mutated(rng, originals[turn % 10 == 0])
        path.write_bytes(data)
        mode = (["-v"], ["--json"], [], ["-vv", "-x"], ["--stats"])[turn % 5]
        code = main(["dump", "-r", str(path), *mode])
        printed = capsys.readouterr()
        assert code in (0, 1), (turn, code)
        assert "Traceback" not in printed.err, turn
        if code == 1:
            damaged += 1
            assert printed.err.startswith("i2o: "), turn
            assert str(path) in printed.err or "byte" in printed.err or "line" in printed.err, turn
        else:
            assert not printed.err or "dropped by the capture" in printed.err, (turn, printed.err)
    assert CAPTURES // 10 < damaged < CAPTURES


def seeds() -> list[Packet]:
    """Whole frames to mutate: real traffic, and one of every layout."""
    with open_capture(str(TRACE)) as trace:
        packets = list(trace)
    rng = random.Random(1)
    for layout in catalog.messages():
        frame = bytearray(layout.build())
        if layout.function is not None:
            frame += rng.randbytes(4 * rng.randrange(6))
            struct.pack_into("<H", frame, 2, len(frame) // 4)
        channel = Channel.IN if layout.direction == "request" else Channel.OUT
        packets.append(Packet(0, 0, channel.value, bytes(frame), len(frame), 0x1000))
    return packets + 4 * every_kind()


def mutated_packets(count: int) -> Iterator[Packet]:
    rng = random.Random(7)
    originals = seeds()
    for index in range(count):
        packet = originals[index % len(originals)]
        data = bytearray(packet.data)
        for _ in range(rng.randint(0, 3)):
            if data:
                at = rng.randrange(len(data))
                data[at] = rng.choice((0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)))
        if rng.randrange(4) == 0:
            del data[rng.randrange(len(data) + 1) :]
        elif rng.randrange(8) == 0:
            data += rng.randbytes(rng.randrange(40))
        yield packet._replace(time_ns=1000 * index, data=bytes(data), length=len(data))


def test_mutated_frames_are_decoded_as_far_as_they_go() -> None:
    conversation = Conversation()
    printers = [LinePrinter(), LinePrinter("a", colour=True, numeric=True)]
    for index, packet in enumerate(mutated_packets(FRAMES)):
        traced = conversation.feed(packet)
        line = printers[index & 1].line(traced)
        assert line
        assert "\n" not in line
        nodes = [*fixed_nodes(traced), *extra_nodes(traced)]
        if traced.kind != MESSAGE and packet.channel <= Channel.OUT:
            is_cut = len(packet.data) < 12 or 4 * traced.size_words > len(packet.data)
            problems = [text for node in nodes for text in node.problems()]
            assert problems or not is_cut, packet.data.hex()
            assert all(problems)
        for node in nodes:
            node.json()


needs_tshark = pytest.mark.skipif(
    shutil.which("tshark") is None, reason="tshark is missing: apt install tshark"
)


def write_pcapng(path: Path, packets: Iterable[Packet]) -> int:
    """Write packets, DMA too, as one IOP's; return how many there are."""
    written = 0
    names = (("iop0.in", LINKTYPE_FRAME), ("iop0.out", LINKTYPE_FRAME), ("iop0.dma", LINKTYPE_DMA))
    with path.open("wb") as file:
        file.write(pcapng_writer.section_header(application="test"))
        for name, link_type in names:
            file.write(
                pcapng_writer.interface_description(name, link_type=link_type, snap_length=262144)
            )
        for packet in packets:
            is_dma = packet.channel > Channel.OUT
            start = (packet.address & (1 << 64) - 1).to_bytes(8, "little") if is_dma else b""
            to_device = packet.channel in (Channel.IN, Channel.TO_DEVICE)
            written += 1
            file.write(
                pcapng_writer.enhanced_packet(
                    2 if is_dma else packet.channel,
                    packet.time_ns & (1 << 62) - 1,
                    start + packet.data,
                    len(start) + len(packet.data),
                    flags=pcapng_writer.OUTBOUND if to_device else pcapng_writer.INBOUND,
                    packet_id=packet.mfa,
                )
            )
    return written


def check_dissector(lua: Path, path: Path, written: int) -> None:
    """Every packet is dissected, and nothing goes wrong in Lua."""
    run = subprocess.run(
        ["tshark", "-X", f"lua_script:{lua}", "-r", str(path), "-V", "-O", "i2o"],
        capture_output=True,
        timeout=1200,
        check=False,
    )
    text = run.stdout.decode("utf-8", "replace")
    assert run.returncode == 0, run.stderr[-2000:]
    assert text.count("\nFrame ") + text.startswith("Frame ") == written
    assert not re.search("Lua Error|Dissector bug|\\.lua:\\d+", text + run.stderr.decode())


@pytest.fixture
def lua(tmp_path: Path) -> Path:
    path = tmp_path / "i2o.lua"
    path.write_text(dissector())
    return path


@needs_tshark
def test_mutated_frames_do_not_upset_the_dissector(tmp_path: Path, lua: Path) -> None:
    path = tmp_path / "mutated.pcapng"
    frames = (packet for packet in mutated_packets(FRAMES) if packet.channel <= Channel.OUT)
    check_dissector(lua, path, write_pcapng(path, frames))


@needs_tshark
def test_what_is_left_of_mutated_captures_does_not_upset_the_dissector(
    tmp_path: Path, lua: Path
) -> None:
    damaged, path = tmp_path / "damaged.pcapng", tmp_path / "mutated.pcapng"

    def packets(captures: range) -> Iterator[Packet]:
        for turn in captures:
            damaged.write_bytes(mutated(random.Random(turn), whole_capture()))
            with contextlib.suppress(CaptureError), open_capture(str(damaged)) as capture:
                for packet in capture:
                    if packet.channel != Channel.MESSAGE:
                        yield packet._replace(data=packet.data[:65536])

    for first in range(0, CAPTURES, 1000):  # tshark keeps all it has read
        written = write_pcapng(path, packets(range(first, first + 1000)))
        assert written > 10_000
        check_dissector(lua, path, written)
