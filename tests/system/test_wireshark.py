# SPDX-License-Identifier: Apache-2.0
"""The dissector in tshark: it says the same as our own decoder, of every packet and every field."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from fakes.random_traffic import RandomTraffic
from fakes.tshark import (
    Dissected,
    complaints,
    dissect,
    find_tshark,
    run_tshark,
    same_fields,
    tshark,
    write_pcapng,
)
from i2o.decode.conversation import Conversation, Traced
from i2o.decode.extra_names import extra_names
from i2o.decode.frame import extra_nodes, fixed_nodes
from i2o.decode.names import field_names
from i2o.decode.summary import summary
from i2o.decode.tree import Node
from i2o.frames import block_storage, catalog, utility
from i2o.frames.header import FAILURE_REPLY, SINGLE_TRANSACTION_REPLY
from i2o.frames.sgl import simple_sgl
from i2o.tools.dissector import dissector
from i2o.tools.extcap import INTERFACE
from i2o.transport.capture.packet import Channel, Packet
from i2o.transport.capture.reader import open_capture

pytestmark = pytest.mark.skipif(
    find_tshark() is None, reason="tshark is missing: apt-get install tshark"
)

ROOT = Path(__file__).resolve().parents[2]
TRACE = ROOT / "tests/data/linux-5.10-dpt_i2o.jsonl"
MUTATED = 3000


@pytest.fixture(scope="module")
def script(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("lua") / "i2o.lua"
    path.write_text(dissector(), encoding="ascii")
    return path


@pytest.fixture
def capture(tmp_path: Path) -> Path:
    return tmp_path / "traffic.pcapng"


def test_the_script_loads_and_knows_every_name(script):
    ran = run_tshark(["-G", "fields", "-X", f"lua_script:{script}"])
    assert ran.returncode == 0
    assert complaints(ran.stderr) == []
    known = {
        row.split("\t")[2].removeprefix("i2o.")
        for row in ran.stdout.splitlines()
        if row.startswith("F\t") and row.split("\t")[2].startswith("i2o.")
    }
    wanted = {*field_names(), *extra_names()} - LAYOUTS_ONLY
    assert {"target", "initiator", "size_words", "status", "request_in", "reply_in"} <= known
    assert wanted - known == set()


LAYOUTS_ONLY = {"key", "keys", "type"}
"""Names whose leaves Wireshark calls by their field, or `command.type`."""


def test_every_frame_of_a_real_driver_is_read_alike(script, capture):
    write_pcapng(capture, recorded())
    compared = list(compare(script, capture))
    assert len(compared) == 1015
    names = {traced.name for traced, _ in compared}
    assert {"dpt_private_scsi_scb_exec", "util_params_get", "exec_lct_notify"} <= names
    fields = {leaf.name for _, dissected in compared for leaf in dissected.fields}
    assert {"count", "opcode", "lba", "iop_state", "local_tid", "operation", "sense_key"} <= fields


def test_every_layout_is_read_alike_whatever_stands_in_it(script, capture):
    traffic = RandomTraffic(20)
    packets = [*traffic.introduction()]
    for layout in catalog.messages():
        is_parameters = layout.name.startswith("util_params")
        for _ in range(40 if is_parameters else 6):
            packets += traffic.of_layout(layout)
    write_pcapng(capture, packets)
    seen = {traced.layout for traced, _ in compare(script, capture) if traced.kind != "dma"}
    missing = {layout.qualified_name for layout in set(catalog.messages()) - seen}
    assert missing == set()


def test_mutated_packets_are_read_alike_and_break_nothing(script, capture):
    traffic = RandomTraffic(21)
    real = recorded()

    def packets() -> Iterator[Packet]:
        time_ns = 0
        for number in range(MUTATED // 6):
            if number % 2:
                some = real[traffic.random.randrange(len(real) - 6) :][:6]
            else:
                some = list(traffic.of_layout(traffic.random.choice(catalog.messages())))
            for packet in some:
                time_ns += 1000
                yield traffic.mutated(packet)._replace(time_ns=time_ns)

    write_pcapng(capture, packets())
    assert len(list(compare(script, capture))) > MUTATED // 2


def test_requests_and_replies_point_to_each_other(script, capture):
    first, second = read_request(0x11, 512), read_request(0x11, 512)
    other = read_request(0x12, 4096)
    reply = answer(first, block_storage.BSA_SUCCESS_REPLY.build(transfer_count=512))
    write_pcapng(
        capture,
        in_time(
            (Channel.IN, first, 0x1000),
            (Channel.IN, other, 0x1080),
            (Channel.IN, second, 0x1100),
            (Channel.OUT, answer(other, block_storage.BSA_SUCCESS_REPLY.build()), None),
            (Channel.OUT, reply, None),
            (Channel.OUT, reply, None),
        ),
    )
    packets = list(dissect(script, capture, "-2", "-R", "i2o"))
    assert [packet.values("reply_in") for packet in packets[:3]] == [["5"], ["4"], ["6"]]
    assert [packet.values("request_in") for packet in packets[3:]] == [["2"], ["1"], ["3"]]
    assert [packet.values("reply_to") for packet in packets[3:]] == [["1"], ["0"], ["2"]]
    assert [packet.values("latency") for packet in packets[3:]] == [
        ["0.000020000"],
        ["0.000040000"],
        ["0.000030000"],
    ]
    # without a tree in its first pass tshark knows neither MFAs nor IOPs, but contexts are enough
    packets = list(dissect(script, capture, "-2"))
    assert [packet.values("request_in") for packet in packets[3:]] == [["2"], ["1"], ["3"]]


def test_of_requests_alike_the_one_that_a_reply_fits_is_answered(script, capture):
    small, large = read_request(0x11, 512), read_request(0x11, 1024)
    reply = block_storage.BSA_SUCCESS_REPLY.build(transfer_count=1024)
    write_pcapng(
        capture,
        in_time(
            (Channel.IN, small, 0x1000),
            (Channel.IN, large, 0x1080),
            (Channel.OUT, answer(large, reply), None),
            (Channel.OUT, answer(small, reply), None),
        ),
    )
    packets = list(dissect(script, capture))
    assert [packet.values("request_in") for packet in packets[2:]] == [["2"], ["1"]]


def test_a_failed_request_is_found_by_its_frame(script, capture):
    request = utility.UTIL_CLAIM.build(transaction_context=7)
    fail = answer(request, FAILURE_REPLY.build(preserved_mfa_low=0x1080, failure_code=0x8D))
    write_pcapng(
        capture,
        in_time(
            (Channel.IN, request, 0x1000),
            (Channel.IN, request, 0x1080),
            (Channel.OUT, fail[:12] + bytes(4) + fail[16:], None),
        ),
    )
    *_, failed = dissect(script, capture)
    assert failed.values("request_in") == ["2"]
    assert "Expert Info (Error/Response)" in failed.text
    assert "FAIL: the request was not delivered, INVALID_TARGET_ID" in failed.text


def test_what_is_odd_is_an_expert_info(script, capture):
    request = utility.UTIL_CLAIM.build(target_address=0x10, transaction_context=7)
    swapped = bytearray(answer(request, SINGLE_TRANSACTION_REPLY.build(req_status=5)))
    swapped[4:7] = (0x10 << 12 | 1).to_bytes(3, "little")
    write_pcapng(
        capture,
        in_time(
            (Channel.IN, request, 0x1000),
            (Channel.OUT, bytes(swapped), None),
            (Channel.OUT, bytes(swapped), None),
            (Channel.IN, b"\x01\x00", 0x1080),
            (Channel.IN, sized(request[:4] + b"\x10\x10\x00\x5c" + request[8:16]), 0x1100),
            (Channel.IN, sized(read_request(0x11, 4)[:-8] + bytes.fromhex("040000ff")), 0x1180),
        ),
    )
    texts = [packet.text for packet in dissect(script, capture)]
    assert "Note/Protocol): its TIDs are exchanged" in texts[1]
    assert "Warning/Response): Status ERROR_NO_DATA_TRANSFER" in texts[1]
    assert "Note/Sequence): it answers no request in this capture" in texts[2]
    assert "Error/Malformed): a frame of 2 bytes has no header" in texts[3]
    assert "Note/Undecoded): function 0x5c is not known" in texts[4]
    assert "Error/Malformed): SGL at byte 32" in texts[5]


def test_display_filters_and_fields(script, capture):
    write_pcapng(capture, recorded())
    ours = list(traced_of(capture))

    def fields(filter_text: str, *names: str) -> list[list[str]]:
        options = [option for name in names for option in ("-e", name)]
        out = tshark(script, capture, "-Y", filter_text, "-T", "fields", *options)
        return [line.split("\t") for line in out.splitlines()]

    rows = fields(
        'i2o.function == 0x06 && i2o.target == 0x10 && i2o.type == "request"',
        "frame.number",
        "i2o.name",
    )
    assert rows == [
        [str(traced.index + 1), "util_params_get"]
        for traced in ours
        if traced.function == 6 and traced.target == 0x10 and traced.kind == "request"
    ]
    slow = fields("i2o.latency > 0.0005", "frame.number")
    assert [int(number) - 1 for (number,) in slow] == [
        traced.index for traced in ours if traced.kind == "reply" and (traced.latency_ns or 0) > 5e5
    ]
    assert fields("i2o.opcode == 0x28 && i2o.lba == 0", "i2o.name")[0] == [
        "dpt_private_scsi_scb_exec"
    ]


def test_columns_read_like_the_dump(script, capture):
    write_pcapng(capture, recorded())
    columns = tshark(
        script, capture, "-T", "fields", "-e", "_ws.col.Protocol", "-e", "_ws.col.Source",
        "-e", "_ws.col.Destination", "-e", "_ws.col.Info",
    ).splitlines()  # fmt: skip
    for traced, line in zip(traced_of(capture), columns, strict=True):
        protocol, source, destination, info = line.split("\t")
        target = traced.request.target if traced.request else traced.target
        ends = ["host", f"iop0:{target:03x}"]
        if traced.packet.channel in (Channel.OUT, Channel.FROM_DEVICE):
            ends.reverse()
        assert (protocol, [source, destination]) == ("I2O", ends)
        assert info.startswith(traced.name)
        if traced.kind == "request":
            assert info == f"{traced.name}  {summary(traced)}".rstrip()


def test_the_info_of_registrations_and_wide_contexts_reads_like_the_dump(script, capture):
    register = utility.UTIL_EVENT_REGISTER.build(event_mask=0x17000320)
    nothing = utility.UTIL_EVENT_REGISTER.build(transaction_context=1)
    wide = bytearray(read_request(0x11, 512))
    wide[1] |= 0x02
    reply = bytearray(answer(wide, block_storage.BSA_SUCCESS_REPLY.build(transfer_count=512)))
    reply[1] |= 0x02
    write_pcapng(
        capture,
        in_time(
            (Channel.IN, register, 0x1000),
            (Channel.IN, nothing, 0x1200),
            (Channel.IN, bytes(wide), 0x1400),
            (Channel.OUT, bytes(reply), 0x7800),
        ),
    )
    infos = tshark(script, capture, "-T", "fields", "-e", "_ws.col.Info").splitlines()
    found = list(traced_of(capture))
    assert infos[:3] == [f"{one.name}  {summary(one)}" for one in found[:3]]
    text, mark = summary(found[3]).split(" ! ", 1)
    assert text in infos[3]
    assert mark in infos[3]


def test_captures_without_interface_names_and_mfas(script, capture):
    request = read_request(0x11, 512)
    reply = answer(request, block_storage.BSA_SUCCESS_REPLY.build(transfer_count=512))
    write_pcapng(capture, in_time((Channel.IN, request, None), (Channel.OUT, reply, None)))
    data = (
        capture.read_bytes().replace(b"iop0.in\0", b"unnamed\0").replace(b"iop0.out", b"nameless")
    )
    capture.write_bytes(data)
    packets = list(dissect(script, capture))
    assert [packet.values("type") for packet in packets] == [["request"], ["reply"]]
    assert packets[1].values("request_in") == ["1"]
    assert packets[1].values("mfa") == []


# --- live ----------------------------------------------------------------------------------------


@pytest.fixture
def home(tmp_path: Path) -> dict[str, str]:
    """An environment with a home of its own, in which the capture interface is installed."""
    folder = tmp_path / "home"
    folder.mkdir()
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("XDG_")}
    env = {**inherited, "HOME": str(folder), "PYTHONPATH": str(ROOT)}
    assert "capture interface: " in setup("--install", env)
    return env


def setup(option: str, env: dict[str, str]) -> str:
    return subprocess.run(
        [sys.executable, "-m", "i2o", "extcap", option],
        check=True, capture_output=True, text=True, env=env, timeout=60,
    ).stdout  # fmt: skip


def test_tshark_lists_the_interface(home):
    assert f"{INTERFACE} (I2O messages)" in run_tshark(["-D"], env=home).stdout
    types = run_tshark(["-i", "i2o", "-L"], env=home)
    assert "USER0" in types.stdout + types.stderr
    assert setup("--uninstall", home).count("removed") == 2
    assert "I2O messages" not in run_tshark(["-D"], env=home).stdout


def test_live_from_an_iop(home):
    ran = run_tshark(["-i", "i2o", "-a", "packets:10", "-T", "fields", "-e", "i2o.name"], env=home)
    names = ran.stdout.split()
    assert len(names) == 10, ran.stderr
    assert {"exec_status_get", "exec_outbound_init"} <= set(names)


def test_live_from_a_program(home):
    line = f"{sys.executable} -m i2o lct"
    ran = run_tshark(
        ["-i", "i2o", "-o", f"extcap.i2o.command:{line}", "-T", "fields", "-e", "i2o.name"],
        env=home,
    )
    assert "exec_lct_notify" in ran.stdout.split(), ran.stderr


# --- helpers -------------------------------------------------------------------------------------


def recorded() -> list[Packet]:
    with open_capture(str(TRACE)) as packets:
        return list(packets)


def traced_of(capture: Path) -> Iterator[Traced]:
    conversation = Conversation()
    with open_capture(str(capture)) as packets:
        yield from map(conversation.feed, packets)


def compare(script: Path, capture: Path) -> Iterator[tuple[Traced, Dissected]]:
    """Yield every packet as we and as Wireshark have it, after comparing both."""
    # decoded at once: buffers of a request grow with the packets that follow
    ours: list[tuple[Traced, list[Node]]] = [
        (traced, [*fixed_nodes(traced), *extra_nodes(traced)]) for traced in traced_of(capture)
    ]
    for (traced, nodes), dissected in zip(ours, dissect(script, capture), strict=True):
        assert same_fields(nodes, dissected) == "", f"packet {traced.index}, {traced.name}"
        where = f"packet {traced.index}"
        request = traced.request
        assert dissected.values("type") == [traced.kind], where
        asked = [] if request is None else [str(request.index + 1)]
        assert dissected.values("request_in") == asked, where
        if traced.kind == "reply" and traced.latency_ns is not None:
            (latency,) = dissected.values("latency")
            assert round(float(latency) * 1e9) == traced.latency_ns, where
        known = dissected.values("device_class")
        device_class = traced.device_class
        assert [int(number, 0) for number in known] == (
            [] if device_class is None else [device_class]
        ), where
        if not traced.is_short:
            assert dissected.values("name") == [traced.name], where
        yield traced, dissected


def in_time(*packets: tuple[Channel, bytes, int | None]) -> Iterable[Packet]:
    for number, (channel, data, mfa) in enumerate(packets):
        yield Packet(10**18 + 10_000 * number, 0, channel.value, data, len(data), mfa)


def read_request(context: int, size: int) -> bytes:
    head = block_storage.BSA_BLOCK_READ.build(
        target_address=0x10, transaction_context=context, transfer_byte_count=size
    )
    return sized(head + simple_sgl([(0x100000, size)], out=False))


def answer(request: bytes, reply: bytes) -> bytes:
    return reply[:4] + request[4:16] + reply[16:]


def sized(frame: bytes) -> bytes:
    return frame[:2] + (len(frame) // 4).to_bytes(2, "little") + frame[4:]
