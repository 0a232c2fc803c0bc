# SPDX-License-Identifier: Apache-2.0
"""`replay`: what is sent again, what is refused, what is compared, and how fast."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from i2o import opening
from i2o.capture import captured
from i2o.frames import block_storage, header, private, utility
from i2o.frames.functions import Function
from i2o.frames.lan import LAN_PACKET_SEND, LAN_RESET
from i2o.frames.params import ParamOperation
from i2o.frames.private import DptFunction
from i2o.frames.sgl import SglFlags, chain_element, immediate_element, simple_sgl
from i2o.iop import Iop
from i2o.tools.replay import MAX_SHOWN
from i2o.transport.capture.capture_file import CaptureFile
from i2o.transport.registry import open_port

from .conftest import one_line

TID = 0x10
BLOCK = 512
_DMA_SNAP = 65536


@pytest.fixture
def capture_of(tmp_path: Path) -> Callable[..., Path]:
    """Capture what a function does with an IOP."""

    def make(uri: str, work: Callable[[Iop], object], *, dma_snap: int = _DMA_SNAP) -> Path:
        path = tmp_path / "original.pcapng"
        with (
            CaptureFile(str(path), dma_snap=dma_snap) as file,
            opening.open(captured(open_port(uri), file)) as iop,
        ):
            work(iop)
        return path

    return make


def read_some(iop: Iop) -> None:
    with iop.block(claim=False) as disk:
        disk.max_transfer = 4096
        disk.read(0, 20 * 4096)


def write_some(iop: Iop) -> None:
    with iop.block() as disk:
        disk.write(8 * BLOCK, b"new content!" * 512)
        disk.flush()
        disk.read(0, 32 * BLOCK)


class Trace:
    """Writes a trace by hand."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lines: list[dict[str, object]] = []
        self._mfa = 0x1000

    def request(self, frame: bytes, *, at: float = 0.0) -> Trace:
        sized = bytearray(frame)
        sized[2:4] = (len(frame) // 4).to_bytes(2, "little")
        self._mfa += 0x100
        return self._add(at, "request", mfa=self._mfa, frame=sized.hex())

    def reply(self, frame: bytes, *, at: float = 0.0) -> Trace:
        return self._add(at, "reply", mfa=0x5000_0000, frame=frame.hex())

    def reads(self, address: int, data: bytes, length: int | None = None) -> Trace:
        return self._dma("dma_read", address, data, length)

    def writes(self, address: int, data: bytes, length: int | None = None) -> Trace:
        return self._dma("dma_write", address, data, length)

    def save(self) -> Path:
        self.path.write_text("".join(json.dumps(line) + "\n" for line in self._lines))
        return self.path

    def _dma(self, event: str, address: int, data: bytes, length: int | None) -> Trace:
        return self._add(
            0.0,
            event,
            mfa=self._mfa,
            address=address,
            length=len(data) if length is None else length,
            data=data.hex(),
        )

    def _add(self, at: float, event: str, **more: object) -> Trace:
        before = float(str(self._lines[-1]["t"])) if self._lines else 0.0
        self._lines.append({"t": max(at, before), "event": event, **more})
        return self


@pytest.fixture
def trace(tmp_path: Path) -> Trace:
    return Trace(tmp_path / "trace.jsonl")


def read_request(
    sgl: bytes, *, context: int = 1, offset: int = 0, size: int = BLOCK, tid: int = TID
) -> bytes:
    head: bytes = block_storage.BSA_BLOCK_READ.build(
        target_address=tid,
        transaction_context=context,
        transfer_byte_count=size,
        logical_byte_address=offset,
    )
    return head + sgl


def good_reply(
    *, context: int = 1, size: int = BLOCK, tid: int = TID, function: int = 0x30
) -> bytes:
    reply: bytes = block_storage.BSA_SUCCESS_REPLY.build(
        function=function, target_address=tid, transaction_context=context, transfer_count=size
    )
    return reply


def params_request(operations: bytes, *, function: int = Function.UTIL_PARAMS_GET) -> bytes:
    layout = utility.UTIL_PARAMS_GET if function == 6 else utility.UTIL_PARAMS_SET
    head: bytes = layout.build(target_address=TID, transaction_context=1)
    return head + immediate_element(operations) + simple_sgl([(0x9000, 256)], out=False)


def operation_list(*codes: int, group: int = 0, field: int = 0) -> bytes:
    words = [len(codes), 0]
    for code in codes:
        words += [code, group, 1, field]
    return b"".join(word.to_bytes(2, "little") for word in words)


# --- whole captures -----------------------------------------------------------------------------


def test_reads_are_as_recorded(cli, capture_of, uri):
    path = capture_of(uri, read_some)
    ran = cli("replay", path, "-i", uri, "--full-speed")
    assert (ran.code, ran.err) == (0, "")
    lines = ran.out.splitlines()
    assert "requests sent" in lines[0]
    assert any("left out: it belongs to bring-up" in line for line in lines)
    assert any("replies as recorded, 0 differ" in line for line in lines)
    assert lines[-1].startswith("latency p50 ")
    assert "recorded" in lines[-1]


def test_a_capture_is_not_captured_over(process, environment, capture_of, uri):
    path = capture_of(uri, read_some)
    content = path.read_bytes()
    environment["I2O_CAPTURE"] = str(path)
    ran = process("replay", path, "-i", uri, "--full-speed")
    assert (ran.code, path.read_bytes()) == (0, content)
    (other,) = path.parent.glob("original-*.pcapng")
    assert other.stat().st_size > 1000


def test_the_same_requests_on_another_disk_differ(cli, capture_of, uri, tmp_path):
    path = capture_of(uri, read_some)
    other = tmp_path / "other.img"
    content = bytearray((tmp_path / "disk.img").read_bytes())
    content[5 * 4096 + 7] ^= 0xFF
    other.write_bytes(content)
    ran = cli("replay", path, "-i", f"emu:?disk={other}", "--full-speed")
    assert ran.code == 1
    differing = [line for line in ran.out.splitlines() if "of data differ" in line]
    assert len(differing) == 1
    assert "bsa_block_read" in differing[0]
    assert "1 byte of data differ" in differing[0]


def test_json(cli, capture_of, uri):
    path = capture_of(uri, read_some)
    records = cli("replay", path, "-i", uri, "--full-speed", "--json").records
    *requests, summary = records
    reads = [one for one in requests if one["function"] == 0x30]
    assert len(reads) == 20
    assert all(one["same"] and not one["differences"] for one in reads)
    assert all(one["latency"] > 0 and one["recorded_latency"] > 0 for one in reads)
    assert summary["type"] == "summary"
    assert summary["sent"] == summary["same"]
    assert summary["different"] == 0
    assert 1 < summary["max_in_flight"] <= 8  # as many as there were
    assert sum(summary["skipped"].values()) == sum(bool(one["skipped"]) for one in requests)
    assert summary["stopped"] is None


def test_writes_are_left_out_unless_asked_for(cli, capture_of, image, uri):
    before = image.read_bytes()
    path = capture_of(uri, write_some)
    after = image.read_bytes()
    assert after != before
    image.write_bytes(before)
    ran = cli("replay", path, "-i", uri, "--full-speed")
    assert "left out: it can change data or state (--write sends it)" in ran.out
    assert image.read_bytes() == before
    ran = cli("replay", path, "-i", uri, "--full-speed", "--write")
    assert ran.code == 0
    assert "change data" not in ran.out
    assert image.read_bytes() == after


def test_writes_whose_data_were_cut_are_refused(cli, capture_of, image, uri):
    before = image.read_bytes()
    path = capture_of(uri, write_some, dma_snap=256)
    image.write_bytes(before)
    ran = cli("replay", path, "-i", uri, "--full-speed", "--write")
    assert "left out: its data were not captured whole" in ran.out
    assert image.read_bytes() == before


def test_filter_count_and_dry_run(cli, capture_of, uri):
    path = capture_of(uri, read_some)
    ran = cli("replay", path, "--dry-run", "--filter", "name == bsa_block_read", "-c", 3)
    assert ran.code == 0
    lines = ran.out.splitlines()
    assert [line.split()[2:] for line in lines[:3]] == [
        ["bsa_block_read", "would", "be", "sent"]
    ] * 3
    assert lines[3:] == ["3 requests would be sent"]
    ran = cli("replay", path, "--dry-run", "--filter", "name == bsa_block_read")
    assert "20 requests would be sent" in ran.out
    ran = cli("replay", path, "--dry-run", "--json", "--filter", "name == bsa_block_read", "-c", 1)
    request, summary = ran.records
    assert request["name"] == "bsa_block_read"
    assert "latency" not in request
    assert summary["sent"] == 1


def test_the_recorded_pace(cli, trace, uri):
    sgl = simple_sgl([(0x5000, BLOCK)], out=False)
    for number in range(3):
        trace.request(read_request(sgl, context=number), at=number * 0.1)
        trace.reply(good_reply(context=number), at=number * 0.1 + 0.01)
    path = trace.save()
    slow = cli("replay", path, "-i", uri, "--json").records[-1]
    assert 0 <= slow["late"] < 5
    fast = cli("replay", path, "-i", uri, "--json", "--speed", "100").records[-1]
    assert fast["same"] == slow["same"] == 3
    assert fast["max_in_flight"] == 1


def test_the_trace_of_a_real_driver_is_refused_by_another_board(cli, tmp_path):
    frame = private.DPT_PRIVATE_SCSI_SCB_EXEC.build(
        target_address=TID,
        x_function_code=DptFunction.SCSI_SCB_EXEC,
        cdb_length=6,
        cdb=b"\x12" + bytes(15),
    )
    path = Trace(tmp_path / "dpt.jsonl").request(frame).save()
    ran = cli("replay", path)
    assert ran.code == 0  # nothing to compare with
    assert "0 differ, 1 have none to compare with" in ran.out


# --- lists --------------------------------------------------------------------------------------


def disk_bytes(image: Path, offset: int, size: int) -> bytes:
    return image.read_bytes()[offset : offset + size]


def test_a_list_of_pieces_keeps_its_elements(cli, trace, image, uri):
    data = disk_bytes(image, 4096, 3 * BLOCK)
    sgl = simple_sgl([(0x5010, 100), (0x9F00, 1000), (0x20000, 436)], out=False)
    trace.request(read_request(sgl, offset=4096, size=3 * BLOCK))
    trace.writes(0x5010, data[:100]).writes(0x9F00, data[100:1100]).writes(0x20000, data[1100:])
    trace.reply(good_reply(size=3 * BLOCK))
    ran = cli("replay", trace.save(), "-i", uri)
    assert (ran.code, ran.err) == (0, "")
    assert "1 reply as recorded" in ran.out


def test_a_chained_list_is_chained_again(cli, trace, image, uri):
    data = disk_bytes(image, 0, 2 * BLOCK)
    inner = simple_sgl([(0x30000, BLOCK)], out=False)
    sgl = simple_sgl([(0x20000, BLOCK)], out=False, last=False, end_of_buffer=False)
    sgl += chain_element(0x8000, len(inner))
    trace.request(read_request(sgl, size=2 * BLOCK))
    trace.reads(0x8000, inner)
    trace.writes(0x20000, data[:BLOCK]).writes(0x30000, data[BLOCK:])
    trace.reply(good_reply(size=2 * BLOCK))
    ran = cli("replay", trace.save(), "-i", uri)
    assert (ran.code, ran.err) == (0, "")
    assert "1 reply as recorded" in ran.out


def test_data_differ_in_the_second_piece_of_a_chained_list(cli, trace, image, uri):
    data = disk_bytes(image, 0, 2 * BLOCK)
    inner = simple_sgl([(0x30000, BLOCK)], out=False)
    sgl = simple_sgl([(0x20000, BLOCK)], out=False, last=False, end_of_buffer=False)
    sgl += chain_element(0x8000, len(inner))
    trace.request(read_request(sgl, size=2 * BLOCK)).reads(0x8000, inner)
    trace.writes(0x30000, b"\xee\xee\xee" + data[BLOCK + 3 :])
    trace.reply(good_reply(size=2 * BLOCK))
    ran = cli("replay", trace.save(), "-i", uri)
    assert ran.code == 1
    assert "3 bytes of data differ" in ran.out


def test_a_page_list_keeps_its_offset_in_the_page(cli, trace, image, uri):
    data = disk_bytes(image, 0, 4 * BLOCK)
    word = (0x20 | SglFlags.LAST_ELEMENT.value | SglFlags.END_OF_BUFFER.value) << 24 | 4 * BLOCK
    sgl = b"".join(number.to_bytes(4, "little") for number in (word, 0x5F00, 0x9000))
    trace.request(read_request(sgl, size=4 * BLOCK))
    trace.writes(0x5F00, data[:256]).writes(0x9000, data[256:])
    trace.reply(good_reply(size=4 * BLOCK))
    ran = cli("replay", trace.save(), "-i", uri)
    assert (ran.code, ran.err) == (0, "")
    assert "1 reply as recorded" in ran.out


@pytest.mark.parametrize(
    ("sgl", "reason"),
    [
        (chain_element(0x8000, 64), "its chained list was not captured whole"),
        (b"\x00\x02\x00\x6f" + bytes(4), "its scatter/gather list is wrong"),
        (b"\x00\x02\x00\xd8" + bytes(4), "it points to the IOP's own memory"),
        (
            b"".join(simple_sgl([(at << 24, 0xFFFFFF)], out=False, last=False) for at in range(5)),
            "it needs more than 64 MiB of memory",
        ),
        (
            bytes.fromhex("0000027c 00002000") + simple_sgl([(0, BLOCK)], out=False),
            "its pages are too large",
        ),
    ],
)
def test_lists_that_cannot_be_rebuilt(cli, trace, uri, sgl, reason):
    path = trace.request(read_request(sgl)).save()
    ran = cli("replay", path, "-i", uri)
    assert ran.code == 0
    assert f"1 left out: {reason}\n" in ran.out


# --- what is refused ----------------------------------------------------------------------------

PRIVATE = private.PRIVATE_MESSAGE.build(target_address=TID, organization_id=0x1234)


@pytest.mark.parametrize(
    ("frame", "reason"),
    [
        (utility.UTIL_NOP.build(), "it belongs to bring-up"),
        (utility.UTIL_EVENT_REGISTER.build(target_address=TID), "it has no final reply"),
        (utility.UTIL_ABORT.build(target_address=TID), "it refers to another message"),
        (utility.UTIL_EVENT_ACK.build(target_address=TID), "it refers to another message"),
        (utility.UTIL_CLAIM.build(target_address=TID), "it can change"),
        (utility.UTIL_LOCK.build(target_address=TID), "it can change"),
        (block_storage.BSA_CACHE_FLUSH.build(target_address=TID), "it can change"),
        (block_storage.BSA_POWER_MANAGEMENT.build(target_address=TID), "it can change"),
        (block_storage.BSA_DEVICE_RESET.build(target_address=TID), "it can change"),
        (PRIVATE, "it can change"),
        (header.MSG_HEADER.build(version_offset=1, target_address=TID, function=0x5C), "it can"),
        (block_storage.BSA_STATUS_CHECK.build(target_address=0x77), "no such device"),
        (block_storage.BSA_STATUS_CHECK.build(target_address=TID, msg_flags=2), "64-bit contexts"),
        (block_storage.BSA_STATUS_CHECK.build(target_address=TID) + bytes(4096), "too large"),
        (params_request(operation_list(ParamOperation.FIELD_SET)), "it can change"),
        (params_request(operation_list(0x55)), "it can change"),
        (params_request(b"\1"), "it can change"),
        (params_request(operation_list(1, 6)), "it can change"),
        (params_request(operation_list(3, 1)), "it can change"),
        (params_request(operation_list(6), function=5), "it can change"),
    ],
)
def test_what_is_left_out(cli, trace, uri, frame, reason):
    ran = cli("replay", trace.request(frame).save(), "-i", uri)
    assert ran.code == 0
    assert "0 requests sent" in ran.out
    assert "1 left out: " in ran.out
    assert reason in ran.out


def test_parameters_are_read_again(cli, trace, uri):
    trace.request(params_request(operation_list(1, 1, field=3)))
    ran = cli("replay", trace.save(), "-i", uri)
    assert "1 request sent" in ran.out


def test_an_operation_list_in_host_memory(cli, trace, uri):
    operations = operation_list(ParamOperation.FIELD_GET)
    head = utility.UTIL_PARAMS_GET.build(target_address=TID, transaction_context=1)
    sgl = simple_sgl([(0x8000, 64)], out=True, last=False) + simple_sgl([(0x9000, 64)], out=False)
    trace.request(head + sgl).reads(0x8000, operations)  # the device read no more than that
    assert "1 request sent" in cli("replay", trace.save(), "-i", uri).out
    cut = Trace(trace.path).request(head + sgl).reads(0x8000, operations, length=64)
    assert "its data were not captured whole" in cli("replay", cut.save(), "-i", uri).out
    unknown = Trace(trace.path).request(head + sgl)
    assert "its data were not captured whole" in cli("replay", unknown.save(), "-i", uri).out


def test_a_frame_that_was_cut(cli, trace, uri):
    frame = bytearray(block_storage.BSA_STATUS_CHECK.build(target_address=TID))
    trace.request(bytes(frame))
    line = trace._lines[0]
    frame[2] = 20
    line["frame"] = frame.hex()
    assert "its frame was not captured whole" in cli("replay", trace.save(), "-i", uri).out
    frame[2] = 1
    line["frame"] = frame.hex()
    assert "its header is not whole" in cli("replay", trace.save(), "-i", uri).out


def test_a_device_of_another_class_is_refused(cli, trace, uri):
    # code 0x35 resets a LAN port, and verifies the medium of a disk
    trace.request(LAN_PACKET_SEND.build(target_address=TID))  # the capture says: a LAN port
    trace.request(LAN_RESET.build(target_address=TID))
    ran = cli("replay", trace.save(), "-i", uri, "--write")
    assert "2 left out: the device is of another class here" in ran.out


def test_tids_can_be_mapped(cli, trace, image, uri):
    sgl = simple_sgl([(0x5000, BLOCK)], out=False)
    trace.request(read_request(sgl, tid=0x200)).writes(0x5000, disk_bytes(image, 0, BLOCK))
    path = trace.reply(good_reply(tid=0x200)).save()
    assert "no such device" in cli("replay", path, "-i", uri).out
    ran = cli("replay", path, "-i", uri, "--map", "0x200=0x10")
    assert "1 reply as recorded" in ran.out


def test_only_one_iop_of_a_capture_is_replayed(cli, uri, tmp_path):
    path = tmp_path / "two.pcapng"
    with CaptureFile(str(path)) as file:
        for reads in (1, 2):
            with (
                opening.open(captured(open_port(uri), file)) as iop,
                iop.block(claim=False) as disk,
            ):
                for number in range(reads):
                    disk.read(number * 4096, 4096)

    def count(*more: object) -> int:
        ran = cli("replay", path, "--dry-run", "--json", "--filter", "function == 0x30", *more)
        return ran.records[-1]["sent"]

    assert count() == count("--source-iop", 0) == 1
    assert count("--source-iop", 1) == 2
    assert count("--source-iop", 7) == 0


# --- replies ------------------------------------------------------------------------------------


def test_another_status_and_another_count(cli, trace, uri):
    sgl = simple_sgl([(0x5000, BLOCK)], out=False)
    trace.request(read_request(sgl, context=1)).reply(good_reply(context=1, size=BLOCK // 2))
    trace.request(read_request(sgl, context=2, offset=1 << 40)).reply(good_reply(context=2))
    fail = header.FAILURE_REPLY.build(
        function=0x30,
        target_address=TID,
        transaction_context=3,
        failure_code=header.FailureCode.TIME_OUT,
    )
    trace.request(read_request(sgl, context=3)).reply(fail)
    ran = cli("replay", trace.save(), "-i", uri)
    assert ran.code == 1
    assert "transfer_count 256 recorded, 512 now" in ran.out
    assert "req_status SUCCESS recorded, ERROR" in ran.out
    assert "failure_code TIME_OUT recorded, " in ran.out
    assert "0 replies as recorded, 3 differ" in ran.out


def test_repeated_contexts_and_replies_out_of_order(cli, trace, image, uri):
    sgl = simple_sgl([(0x5000, BLOCK)], out=False)
    for offset in (0, BLOCK):
        trace.request(read_request(sgl, context=7, offset=offset))
    other = simple_sgl([(0x7000, BLOCK)], out=False)
    trace.request(read_request(other, context=8, offset=3 * BLOCK))
    trace.writes(0x7000, disk_bytes(image, 3 * BLOCK, BLOCK)).reply(good_reply(context=8))
    trace.reply(good_reply(context=7)).reply(good_reply(context=7))
    record = cli("replay", trace.save(), "-i", uri, "--json").records
    assert record[-1]["same"] == 3
    assert record[-1]["max_in_flight"] == 3


def test_a_reply_that_never_comes(cli, trace, uri, tmp_path):
    plan = tmp_path / "plan.toml"
    plan.write_text('[[fault]]\non = "BSA_READ"\naction = "drop"\nafter = 1\ntimes = 1\n')
    sgl = simple_sgl([(0x5000, BLOCK)], out=False)
    for context in range(4):
        trace.request(read_request(sgl, context=context)).reply(good_reply(context=context))
    ran = cli("replay", trace.save(), "-i", uri, "--faults", plan, "--timeout", "0.05")
    assert ran.code == 1
    assert "no reply" in ran.out
    assert "stopped: no reply to bsa_block_read for TID 0x010 within 0.05 s" in one_line(ran)


def test_many_differences_are_not_all_printed(cli, trace, uri):
    sgl = simple_sgl([(0x5000, BLOCK)], out=False)
    for context in range(MAX_SHOWN + 5):
        trace.request(read_request(sgl, context=context)).reply(good_reply(context=context, size=1))
    ran = cli("replay", trace.save(), "-i", uri)
    assert ran.out.count("transfer_count 1 recorded") == MAX_SHOWN
    assert "… and 5 more" in ran.out


def test_frames_run_out(cli, trace, image):
    sgl = simple_sgl([(0x5000, BLOCK)], out=False)
    for context in range(40):
        trace.request(read_request(sgl, context=context))
    for context in range(40):
        trace.reply(good_reply(context=context))
    ran = cli("replay", trace.save(), "-i", f"emu:?disk={image}&frames=4", "--json")
    assert ran.code == 0
    assert ran.records[-1]["same"] == 40


# --- the command line ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--speed", "fast"], "no number"),
        (["--speed", "0"], "is not between"),
        (["--speed", "nan"], "is not between"),
        (["--speed", "2", "--full-speed"], "not allowed with"),
        (["--map", "3"], "OLD=NEW"),
        (["--map", "3=0x1000"], "no TID"),
        (["--timeout", "soon"], "no number of seconds"),
        (["--timeout", "0"], "no number of seconds above 0"),
        (["--filter", "functoin"], "did you mean function"),
        (["-c", "-1"], "not between"),
    ],
)
def test_wrong_usage(cli, trace, arguments, words):
    ran = cli("replay", trace.save(), *arguments)
    assert ran.code in (1, 2)
    assert words in one_line(ran)


def test_a_file_that_is_not_there(cli, tmp_path):
    ran = cli("replay", tmp_path / "none.pcapng")
    assert ran.code == 1
    assert "No such file" in one_line(ran)


def test_problems_of_the_capture_are_said(cli, capture_of, uri):
    path = capture_of(uri, read_some)
    path.write_bytes(path.read_bytes()[:-10])
    ran = cli("replay", path, "-i", uri, "--full-speed")
    assert str(path) in one_line(ran)
