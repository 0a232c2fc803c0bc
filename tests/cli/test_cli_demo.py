# SPDX-License-Identifier: Apache-2.0
"""`demo`: the whole story, on its own disk and on the user's."""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import signal
import subprocess
import tarfile
import time
import zipfile

import pytest

import i2o
from fakes.interrupted import ends_of_interrupt
from i2o import d3i2o
from i2o.closing import Closing
from i2o.errors import DmaFault, OutOfFrames, RequestFailed, RequestTimeout
from i2o.frames import catalog
from i2o.frames.functions import Function
from i2o.frames.header import SINGLE_TRANSACTION_REPLY
from i2o.tools import archives, demo_osm, frame_view, status
from i2o.tools.demo_capture import DemoRecorder
from i2o.tools.demo_osm import DiskOsm
from i2o.transport.capture.capture_file import CaptureFile
from i2o.transport.capture.packet import Channel
from i2o.transport.capture.reader import open_capture

from .conftest import CHECKOUT, one_line

MKE2FS = shutil.which("mke2fs") or shutil.which("mke2fs", path="/usr/sbin:/sbin")


@pytest.fixture
def tar_image(tmp_path):
    path = tmp_path / "sources.tar"
    with tarfile.open(path, "w") as archive:
        for name in ("README", "docs/a.txt", "evil\x1b[31m"):
            member = tarfile.TarInfo(name)
            member.size = 10_000
            archive.addfile(member, io.BytesIO(b"0123456789" * 1000))
    return path


def test_the_demo_tells_the_whole_story(cli):
    ran = cli("demo", "--size", "8M")
    assert ran.code == 0
    assert ran.err == ""
    for text in (
        "a temporary image of 8 MiB, removed at the end",
        "exec_sys_enable",
        "OPERATIONAL after",
        "Hardware resource table:",
        "random_block_storage",
        "device_capacity            8388608 (8 MiB)",
        "blank, 8 MiB",
        "OSMMsgRegister gave cookie",
        "ok: what was read back is what was written",
        "ok: the image file has the same bytes",
        "tar, starts with i2o/__init__.py",
        "i2o/__init__.py in it is the one that is running",
        "bsa_block_read: request, host to IOP, 40 bytes",
        "bsa_success_reply: reply, IOP to host, 24 bytes",
        "ok: the IOP complains about nothing",
        "see it with: i2o dump -r i2o-demo.pcapng",
        "Everything agrees (4 checks)",
    ):
        assert text in ran.out, text


def packets_of(path):
    with open_capture(str(path)) as capture:
        packets = list(capture)
        assert (capture.problems, capture.dropped) == ([], 0)
    return packets


def test_the_demo_leaves_a_capture(cli):
    assert cli("demo", "--size", "4M").code == 0
    packets = packets_of("i2o-demo.pcapng")
    assert {packet.channel for packet in packets} == set(Channel) - {Channel.MESSAGE}
    functions = {packet.data[7] for packet in packets if packet.channel == Channel.IN}
    assert {Function.EXEC_LCT_NOTIFY, Function.BSA_READ, Function.BSA_WRITE} <= functions


def test_a_demo_in_a_folder_that_cannot_be_written_goes_on(cli):
    os.mkdir("i2o-demo.pcapng")
    ran = cli("demo", "--size", "4M")
    assert ran.code == 0
    assert "nothing was kept: cannot capture to i2o-demo.pcapng: Is a directory" in ran.out
    assert "Everything agrees" in ran.out
    (record,) = (r for r in cli("demo", "--json", "--size", "4M").records if r["step"] == "capture")
    assert record["file"] is None


def test_drops_of_the_demo_are_told(cli, monkeypatch):
    monkeypatch.setattr(CaptureFile, "dropped", 7)
    assert "but for 7 packets: the disk was too slow" in cli("demo", "--size", "4M").out


def test_frames_are_kept_only_while_they_are_asked_for():
    with DemoRecorder("emu:") as recorder:
        recorder.request(1, 0x1000, bytes(16))
        recorder.keep()
        recorder.request(2, 0x1000, b"request" + bytes(9))
        recorder.reply(3, 0x2000, b"reply" + bytes(11))
        assert [(kept.time_ns, kept.is_request) for kept in recorder.kept()] == [
            (2, True),
            (3, False),
        ]
        recorder.reply(4, 0x2000, bytes(16))
        assert recorder.kept() == []
    assert len(packets_of("i2o-demo.pcapng")) == 4


def test_the_osm_closes_itself():
    assert issubclass(DiskOsm, Closing)


def test_the_demo_fits_80_columns(cli, tar_image, monkeypatch):
    monkeypatch.chdir(tar_image.parent)
    for words in ((), ("--disk", tar_image.name)):
        ran = cli("demo", *words)
        assert ran.code == 0
        assert [line for line in ran.out.splitlines() if len(line) > 80] == []


def test_the_temporary_image_is_removed(process, tmp_path):
    ran = process("demo", "--size", "4M", "--progress")
    assert ran.code == 0
    assert "writing    [####" in ran.err
    assert os.listdir(tmp_path) == []


def test_an_interrupted_demo_removes_its_image(program, environment, tmp_path):
    started = subprocess.Popen(
        [*program, "demo", "--size", "2G", "--count", "256M"],
        env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    deadline = time.monotonic() + 30
    while not os.listdir(tmp_path) and time.monotonic() < deadline:
        time.sleep(0.005)
    started.send_signal(signal.SIGINT)
    _, err = started.communicate(timeout=30)
    assert err == b"i2o: interrupted\n"
    assert started.returncode in ends_of_interrupt()
    assert os.listdir(tmp_path) == []


def test_a_tar_image_is_listed_and_only_read(cli, tar_image):
    before = tar_image.read_bytes()
    tar_image.chmod(0o444)
    ran = cli("demo", "--disk", tar_image)
    assert ran.code == 0
    assert "read-only" in ran.out
    assert "docs/a.txt" in ran.out
    assert "3 members, 29.3 KiB unpacked" in ran.out
    assert "\x1b" not in ran.out
    assert tar_image.read_bytes() == before


@pytest.mark.parametrize("count", [(), ("--count", "8K")])
def test_write_leaves_the_file_byte_identical(cli, tar_image, count):
    before = tar_image.read_bytes()
    ran = cli("demo", "--disk", tar_image, "--write", *count)
    assert ran.code == 0
    assert "rewriting" in ran.out
    assert "ok: written back, the file has the same bytes" in ran.out
    assert tar_image.read_bytes() == before


@pytest.mark.skipif(MKE2FS is None, reason="mke2fs (e2fsprogs) is not installed")
def test_an_ext4_image_of_a_real_tree(cli, tmp_path):
    path = tmp_path / "tree.img"
    path.write_bytes(b"")
    os.truncate(path, 64 << 20)
    tree = CHECKOUT / "i2o"
    subprocess.run(
        [MKE2FS, "-q", "-F", "-t", "ext4", "-L", "my tree", "-d", tree, path], check=True
    )
    before = hashlib.sha256(path.read_bytes()).hexdigest()
    ran = cli("demo", "--disk", path, "--write", "--json")
    assert ran.code == 0
    (content,) = (r for r in ran.records if r["step"] == "content")
    assert (content["kind"], content["label"], content["size"]) == ("ext4", "my tree", 64 << 20)
    checks = [r for r in ran.records if r["step"] == "check"]
    assert [check["ok"] for check in checks] == [True] * 3
    assert checks[0]["sha256"] == before
    assert hashlib.sha256(path.read_bytes()).hexdigest() == before


def test_several_disks_and_a_compressed_archive(cli, tar_image, tmp_path, image):
    packed = tmp_path / "a, b&c.tgz"
    with tarfile.open(packed, "w:gz") as archive:
        archive.add(tar_image, "inner.tar")
    os.truncate(packed, packed.stat().st_size + -packed.stat().st_size % 512)
    zipped = tmp_path / "a.zip"
    with zipfile.ZipFile(zipped, "w") as archive:
        archive.writestr("folder/", "")
        archive.writestr("folder/file", "text")
    os.truncate(zipped, 4096)
    ran = cli("demo", "--disk", packed, "--disk", image, "--disk", zipped, "--disk", zipped)
    assert ran.code == 0
    assert "inner.tar" in ran.out
    assert "folder/file" in ran.out
    assert ran.out.count("there is nothing to list") == 1
    assert "TID 0x013" in ran.out


def test_one_image_cannot_be_written_twice(cli, image):
    ran = cli("demo", "--disk", image, "--disk", image, "--write")
    assert ran.code == 2
    assert "given twice" in one_line(ran)


def test_a_damaged_archive_is_said_to_be(cli, tmp_path):
    packed = tmp_path / "bad.tgz"
    packed.write_bytes(b"\x1f\x8b\x08\x00" + os.urandom(508))
    ran = cli("demo", "--disk", packed)
    assert ran.code == 0
    assert "cannot be read further" in ran.out


@pytest.mark.parametrize("run", ["inline", "thread"])
def test_any_iop_can_be_read_from(cli, run):
    ran = cli("demo", "-i", f"emu:?run={run}", "--count", "1M")
    assert ran.code == 0
    assert "ok: the file-like view has the same bytes" in ran.out
    assert "the first 1 MiB of 16 MiB" in ran.out


def test_a_device_of_4096_byte_blocks(cli, tmp_path, image):
    ran = cli("demo", "-i", f"emu:?disk={image},block_size=4096", "--count", "6K")
    assert ran.code == 0
    assert "the first 4 KiB" in ran.out


def test_an_iop_without_disks_is_a_negative_answer(cli, monkeypatch):
    monkeypatch.setattr(i2o.Iop, "of_class", lambda self, number: ())
    ran = cli("demo")
    assert ran.code == 1
    assert "no block device" in one_line(ran)


def test_different_bytes_are_a_negative_answer(cli, monkeypatch):
    monkeypatch.setattr("i2o.tools.demo._file_hash", lambda path, count: "0" * 64)
    ran = cli("demo", "--size", "4M")
    assert ran.code == 1
    assert "DIFFERENT: the image file has the same bytes" in ran.out
    assert "1 of 4 checks failed" in ran.out


def test_bytes_that_come_back_different_are_a_negative_answer(cli, monkeypatch):
    monkeypatch.setattr("i2o.tools.demo._Demo._read_back", lambda *_: "0" * 64)
    ran = cli("demo", "--size", "4M")
    assert ran.code == 1
    assert "DIFFERENT: what was read back" in ran.out


def test_rewriting_reads_writes_and_flushes(cli, image):
    ran = cli("demo", "--disk", image, "--write", "--json")
    (moved,) = (r for r in ran.records if r.get("what") == "rewriting")
    assert moved["requests"] == moved["callbacks"] == 4 + 4 + 1


def test_complaints_of_the_iop_are_a_failed_check(cli, monkeypatch):
    monkeypatch.setattr(status, "complaints_of", lambda iop: ["your driver is bad"])
    ran = cli("demo", "--size", "4M")
    assert ran.code == 1
    assert "DIFFERENT: the IOP complains" in ran.out
    assert "your driver is bad" in ran.out


def test_an_iop_that_is_no_emulator_has_no_complaints(cli, monkeypatch):
    monkeypatch.setattr(status, "complaints_of", lambda iop: None)
    assert "complain" not in cli("demo", "--size", "4M").out


def test_many_finds_are_cut(cli, monkeypatch, image):
    from i2o.tools import disk_content

    found = [disk_content.Content(f"thing {n}", "partition", n) for n in range(30)]
    monkeypatch.setattr(disk_content, "survey", lambda read, size: found)
    ran = cli("demo", "--disk", image)
    assert "and 6 more" in ran.out


# --- the OSM -----------------------------------------------------------------------------------


@pytest.fixture
def iop():
    with i2o.open("emu:", layer=i2o.default_message_layer()) as opened:
        yield opened


def test_the_osm_uses_the_documented_calls(iop, monkeypatch):
    calls = []
    for name in (
        "OSMMsgRegister", "OSMMsgGetReqBuf", "OSMMsgSend", "OSMMsgFreeRepBuf", "OSMMsgDeRegister",
    ):  # fmt: skip
        real = getattr(d3i2o, name)
        monkeypatch.setattr(
            demo_osm, name, lambda *a, name=name, real=real: (calls.append(name), real(*a))[1]
        )
    with DiskOsm(iop.number, 0x10, iop.memory) as osm:
        osm.write(0, memoryview(b"x" * 512))
    assert calls == [
        "OSMMsgRegister", "OSMMsgGetReqBuf", "OSMMsgSend", "OSMMsgFreeRepBuf", "OSMMsgDeRegister",
    ]  # fmt: skip


def test_the_osm_keeps_order_with_many_requests(iop):
    data = os.urandom(9 << 20)
    got = bytearray()
    with DiskOsm(iop.number, 0x10, iop.memory) as osm:
        osm.write(512, memoryview(data))
        osm.flush()
        osm.read(512, len(data), got.extend)
        assert (osm.requests, osm.callbacks) == (73, 73)
    assert got == data


def test_an_error_reply_is_raised(iop):
    with DiskOsm(iop.number, 0x10, iop.memory) as osm, pytest.raises(RequestFailed):
        osm.read(16 << 20, 512, lambda _: None)


def test_a_fail_reply_finds_its_request(iop):
    with DiskOsm(iop.number, 0x77, iop.memory) as osm:
        with pytest.raises(RequestFailed, match="FAIL frame"):
            osm.read(0, 512, lambda _: None)
        osm.tid = 0x10
        osm.flush()


def test_no_answer_is_a_timeout_and_the_buffers_stay(monkeypatch, tmp_path):
    plan = tmp_path / "drop.toml"
    plan.write_text('[[fault]]\non = "BSA_BLOCK_READ"\naction = "drop"\n')
    monkeypatch.setattr(demo_osm, "_TIMEOUT_S", 0.02)
    uri = f"emu:?faults={plan}"
    with (
        i2o.open(uri, layer=i2o.default_message_layer()) as iop,
        DiskOsm(iop.number, 0x10, iop.memory) as osm,
    ):
        address = osm._free[-1][1].bus_address
        with pytest.raises(RequestTimeout):
            osm.read(0, 512, lambda _: None)
        osm.close()
        iop.memory.window(address, 512)  # the IOP may still write there


def test_a_closed_osm_frees_its_buffers(iop):
    osm = DiskOsm(iop.number, 0x10, iop.memory)
    address = osm._free[-1][1].bus_address
    osm.close()
    with pytest.raises(DmaFault):
        iop.memory.window(address, 512)


def test_calls_that_fail_are_errors(iop, monkeypatch):
    with DiskOsm(iop.number, 0x10, iop.memory) as osm:
        freed = []
        monkeypatch.setattr(demo_osm, "OSMMsgSend", lambda *_: 12)
        monkeypatch.setattr(demo_osm, "OSMMsgFreeReqBuf", lambda *frame: freed.append(frame))
        with pytest.raises(OutOfFrames, match="OSMMsgSend"):
            osm.flush()
        assert len(freed) == 1  # after a failure the frame is the caller's to free
        monkeypatch.setattr(demo_osm, "OSMMsgGetReqBuf", lambda *_: None)
        with pytest.raises(OutOfFrames, match="OSMMsgGetReqBuf"):
            osm.flush()
    monkeypatch.setattr(demo_osm, "OSMMsgRegister", lambda *_: (12, 0, ()))
    with pytest.raises(OutOfFrames, match="OSMMsgRegister"):
        DiskOsm(iop.number, 0x10, iop.memory)


def test_progress_reports_and_strangers_are_freed_and_forgotten(iop, monkeypatch):
    with DiskOsm(iop.number, 0x10, iop.memory) as osm:
        freed = []
        monkeypatch.setattr(demo_osm, "OSMMsgFreeRepBuf", lambda number, reply: freed.append(reply))
        monkeypatch.setattr(demo_osm, "OSMMsgMfaConvert", lambda number, mfa: None)
        progress = demo_osm.ReplyFrame(SINGLE_TRANSACTION_REPLY.build(msg_flags=0x80))
        failed = demo_osm.ReplyFrame(catalog.layout("common.failure_reply.reply").build())
        osm._replied(iop.number, progress)
        osm._replied(iop.number, failed)
        assert freed == [progress, failed]
        assert osm._replies == {}


# --- archives and frames -----------------------------------------------------------------------


def test_the_source_archive_has_every_package():
    packed, sources = archives.source_archive()
    assert {"i2o/__init__.py", "i2o/transport/port.py", "i2o/tools/demo.py"} < set(sources)
    assert "i2o/iop_emulator/ddm/base.py" in sources
    with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
        assert sorted(archive.getnames()) == sorted(sources)
    assert archives.read_member(io.BytesIO(packed), "i2o/__init__.py") == sources["i2o/__init__.py"]


def test_a_folder_in_an_archive_has_no_bytes(tmp_path):
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        member = tarfile.TarInfo("folder")
        member.type = tarfile.DIRTYPE
        archive.addfile(member)
    assert archives.read_member(packed, "folder") == b""


def test_a_missing_package_is_left_out(monkeypatch):
    monkeypatch.setattr(archives, "find_spec", lambda name: None)
    assert archives.source_archive()[1] == {}


@pytest.mark.parametrize("kind", ["tar", "zip"])
def test_a_listing_is_bounded(kind, monkeypatch):
    monkeypatch.setattr(archives, "MAX_MEMBERS", 8)
    packed = io.BytesIO()
    if kind == "zip":
        with zipfile.ZipFile(packed, "w") as archive:
            for number in range(20):
                archive.writestr(f"file{number}", "text")
    else:
        with tarfile.open(fileobj=packed, mode="w") as archive:
            for number in range(20):
                archive.addfile(tarfile.TarInfo(f"file{number}"))
    listing = archives.list_archive(packed, kind)
    assert (listing.members, len(listing.first), listing.complete) == (8, 6, False)
    assert listing.problem == ""


@pytest.mark.parametrize("kind", ["zip", "tar", "gzip"])
def test_a_disk_error_is_no_damaged_archive(kind):
    class Bad(io.BytesIO):
        def read(self, *_):
            raise RequestFailed("broken", req_status=5, detail=1)

    with pytest.raises(RequestFailed):
        archives.list_archive(Bad(), kind)


def test_every_field_of_a_frame_is_shown():
    layout = catalog.layout("bsa.bsa_block_read.request")
    frame = layout.build(target_address=0x10, message_size=8) + bytes(8)
    rows = frame_view.frame_rows(frame, layout, 0x10)
    assert [row.name for row in rows] == [field.path for field in layout.fields]
    (function,) = (row for row in rows if row.name == "function")
    assert (function.word, function.bits, function.meaning) == (1, "31:24", "bsa_block_read")


def test_a_bad_list_is_a_row_that_says_so():
    layout = catalog.layout("bsa.bsa_block_read.request")
    frame = layout.build(message_size=9) + b"\xff\xff\xff\xee"
    rows = frame_view.frame_rows(frame, layout)
    assert rows[-1].name == "sgl"
    assert rows[-1].meaning


def test_frames_of_other_kinds_decode_too():
    layout = catalog.layout("executive.exec_outbound_init.request")
    frame = layout.build(host_page_frame_size=4096, init_code=0x80, target_address=0xFFF)
    lines = frame_view.frame_lines(frame, layout)
    assert any("OS" in line for line in lines)
    assert any("NO_USER" in line for line in lines)
    reply = catalog.layout("bsa.bsa_progress_reply.reply")
    lines = frame_view.frame_lines(reply.build(percent_complete=50, reserved=b"\1\2\3"), reply)
    assert any("0x010203" in line for line in lines)


def test_wide_fields_keep_every_word():
    layout = catalog.layout("bsa.bsa_block_write.request")
    lines = frame_view.frame_lines(
        layout.build(logical_byte_address=0x1_2345_6789, transfer_byte_count=4096), layout
    )
    text = "\n".join(lines)
    assert "23456789" in text
    assert "00000001" in text
    assert "0x123456789" in text
    assert "4 KiB" in text


def test_hex_lines():
    assert frame_view.hex_lines(b"AB\x00" + bytes(range(14)), indent=0) == [
        "0000  41 42 00 00 01 02 03 04  05 06 07 08 09 0a 0b 0c  AB..............",
        "0010  0d                                                .",
    ]
