# SPDX-License-Identifier: Apache-2.0
"""Captures on disk and in pipes: complete files, rotation, drops, full disks, forks."""

from __future__ import annotations

import errno
import io
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from fakes.pcapng_blocks import CAPINFOS, TSHARK, section, tshark_packets
from i2o.errors import CaptureError
from i2o.transport.capture import capture_file, capture_target
from i2o.transport.capture.capture_file import CaptureFile
from i2o.transport.capture.packet import Channel, Packet
from i2o.transport.capture.reader import open_capture

FRAME = bytes.fromhex("0100050010100030000000010000000200000000")


class BlockedStream(io.RawIOBase):
    """Takes nothing until it is let."""

    def __init__(self):
        self.may_write = threading.Event()
        self.is_writing = threading.Event()
        self.data = bytearray()

    def writable(self):
        return True

    def write(self, data):
        self.is_writing.set()
        self.may_write.wait(20)
        self.data += data
        return len(data)


class FailingStream(io.BytesIO):
    def __init__(self, error):
        super().__init__()
        self.error = error

    def write(self, data):
        raise self.error


def wait_for(condition, seconds=5.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.002)


def test_a_capture_has_everything_and_says_so(tmp_path):
    path = tmp_path / "a.pcapng"
    with CaptureFile(path) as capture:
        first, second = capture.add_iop("emu:one"), capture.add_iop("emu:two")
        first.request(10, 0x1000, FRAME)
        second.request(11, 0x2000, FRAME)
        first.dma(12, Channel.FROM_DEVICE, 0x1000, 0x12345678, b"data", 4)
        first.dma(13, Channel.TO_DEVICE, 0x1000, 0x12345678, b"data", 4000)
        first.reply(14, 0x100000, FRAME)
        first.remark(15, Channel.OUT, 0x100080, b"", "odd")
        assert capture.name == str(path)
        assert capture.flush()
        assert len(section(path).packets) == 6
    found = section(path)
    assert found.names() == [
        f"iop{number}.{suffix}" for number in (0, 1) for suffix in ("in", "out", "dma")
    ]
    assert [link for _, _, link, _ in found.interfaces] == [147, 147, 148] * 2
    assert [text for _, text, _, _ in found.interfaces] == ["emu:one"] * 3 + ["emu:two"] * 3
    assert [(p.time_ns, p.flags, p.packet_id) for p in found.packets] == [
        (10, 2, 0x1000),
        (11, 2, 0x2000),
        (12, 1, 0x1000),
        (13, 2, 0x1000),
        (14, 1, 0x100000),
        (15, 1, 0x100080),
    ]
    dma, cut = found.of("iop0.dma")
    assert dma.data == (0x12345678).to_bytes(8, "little") + b"data"
    assert (dma.length, cut.length) == (12, 4008)
    assert found.packets[-1].comment == "odd"
    assert [(s.interface, s.received, s.dropped, s.delivered) for s in found.statistics] == [
        (0, 1, 0, 1),
        (1, 2, 0, 2),
        (2, 2, 0, 2),
        (3, 1, 0, 1),
        (4, 0, 0, 0),
        (5, 0, 0, 0),
    ]
    assert all(0 < s.end_ns - s.start_ns < 60e9 for s in found.statistics)
    assert found.header[4].startswith(b"i2o ")


def test_closing_twice_and_recording_afterwards_do_no_harm(tmp_path):
    capture = CaptureFile(tmp_path / "a.pcapng")
    iop = capture.add_iop()
    capture.close()
    capture.close()
    assert capture.is_closed
    before = (tmp_path / "a.pcapng").read_bytes()
    iop.request(1, 2, FRAME)
    iop.remark(1, Channel.IN, 2, FRAME, "late")
    assert (capture.dropped, capture.flush(0.01)) == (2, True)
    assert (tmp_path / "a.pcapng").read_bytes() == before


def test_an_empty_capture_is_a_capture(tmp_path):
    with CaptureFile(tmp_path / "a.pcapng"):
        pass
    assert section(tmp_path / "a.pcapng").packets == []


def test_a_capture_is_its_owners_alone(tmp_path):
    """It holds memory of the host and data of its disks."""
    shared = tmp_path / "shared.pcapng"
    shared.touch()
    shared.chmod(0o644)
    before = os.umask(0)
    try:
        for path in (tmp_path / "new.pcapng", shared):
            with CaptureFile(path):
                pass
        with CaptureFile(tmp_path / "many.pcapng", max_file_bytes=4096, max_files=2):
            pass
    finally:
        os.umask(before)
    modes = {path.name: path.stat().st_mode & 0o777 for path in tmp_path.iterdir()}
    assert modes == {"new.pcapng": 0o600, "many-00001.pcapng": 0o600, "shared.pcapng": 0o644}


def test_without_dma_there_is_no_interface_for_it(tmp_path):
    with CaptureFile(tmp_path / "a.pcapng", dma=False) as capture:
        iop = capture.add_iop()
        assert not iop.wants_dma
        iop.dma(1, Channel.TO_DEVICE, 1, 2, b"3", 4)
    found = section(tmp_path / "a.pcapng")
    assert (found.names(), found.packets) == (["iop0.in", "iop0.out"], [])


def test_packets_are_cut_and_interfaces_say_where(tmp_path):
    with CaptureFile(tmp_path / "a.pcapng", snap_length=64, dma_snap=32) as capture:
        iop = capture.add_iop()
        assert (iop.bulk_bytes, iop.table_bytes) == (24, 56)
        iop.request(1, 2, bytes(100))
        iop.dma(1, Channel.TO_DEVICE, 1, 2, bytes(1000), 1000)
    found = section(tmp_path / "a.pcapng")
    assert [snap for _, _, _, snap in found.interfaces] == [64, 64, 64]
    assert [(len(p.data), p.length) for p in found.packets] == [(64, 100), (64, 1008)]


def test_the_snap_length_of_dma_covers_whole_tables(tmp_path):
    with CaptureFile(tmp_path / "a.pcapng") as capture:
        iop = capture.add_iop()
        assert (iop.bulk_bytes, iop.table_bytes) == (504, 65536)
        iop.dma(1, Channel.FROM_DEVICE, 1, 2, bytes(65536), 65536)
    found = section(tmp_path / "a.pcapng")
    assert found.interfaces[2][3] == 65544
    assert len(found.packets[0].data) == 65544


def test_live_readers_see_packets_soon():
    read_end, write_end = os.pipe()
    with os.fdopen(read_end, "rb", buffering=0) as reader, os.fdopen(write_end, "wb") as writer:
        with CaptureFile(writer) as capture:
            iop = capture.add_iop()
            assert reader.read(4) == b"\x0a\x0d\x0d\x0a"
            os.set_blocking(read_end, False)
            capture.flush()
            time.sleep(0.1)
            while reader.read(65536):
                pass
            iop.request(1, 2, FRAME)
            wait_for(lambda: reader.read(65536))  # nothing but time makes it come
        assert not writer.closed


def test_a_fifo_gets_a_whole_capture(tmp_path):
    path = tmp_path / "fifo"
    os.mkfifo(path)
    got = []
    reader = threading.Thread(target=lambda: got.append(path.read_bytes()))
    reader.start()
    with CaptureFile(path) as capture:
        capture.add_iop().request(1, 2, FRAME)
        with pytest.raises(CaptureError, match="another program does that already"):
            CaptureFile(path)
    reader.join()
    found = section(got[0])
    assert (len(found.packets), len(found.statistics)) == (1, 3)


def test_a_fifo_that_nobody_reads_is_an_error_after_a_while(tmp_path, monkeypatch):
    monkeypatch.setattr(capture_target, "_READER_PATIENCE_S", 0.05)
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(CaptureError, match="nobody reads that FIFO"):
        CaptureFile(tmp_path / "fifo")


def test_descriptors_by_name_are_not_truncated(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(b"before")
    with path.open("r+b") as file:
        file.seek(0, os.SEEK_END)
        with CaptureFile(f"/dev/fd/{file.fileno()}") as capture:
            capture.add_iop().request(1, 2, FRAME)
    assert len(section(path.read_bytes().removeprefix(b"before")).packets) == 1


def test_standard_output(capfdbinary):
    with CaptureFile("-") as capture:
        capture.add_iop().request(1, 2, FRAME)
    assert len(section(capfdbinary.readouterr().out).packets) == 1


def test_standard_output_that_was_replaced(monkeypatch):
    replaced = io.TextIOWrapper(io.BytesIO())
    monkeypatch.setattr(sys, "stdout", replaced)
    with CaptureFile("-") as capture:
        capture.add_iop().request(1, 2, FRAME)
    assert len(section(replaced.buffer.getvalue()).packets) == 1


def test_a_simple_stream_that_returns_nothing():
    class Simple:
        data = b""

        def write(self, data):
            self.data += data

        def flush(self):
            pass

    stream = Simple()
    with CaptureFile(stream) as capture:
        capture.add_iop().request(1, 2, FRAME)
    assert len(section(stream.data).packets) == 1


def test_a_pipe_that_does_not_block_is_waited_for():
    read_end, write_end = os.pipe()
    os.set_blocking(write_end, False)
    got = bytearray()

    def read():
        while data := os.read(read_end, 4096):
            got.extend(data)

    reader = threading.Thread(target=read)
    with open(write_end, "wb", buffering=0) as stream, CaptureFile(stream) as capture:
        iop = capture.add_iop()
        for number in range(2000):
            iop.request(number, 2, bytes(100))
        time.sleep(0.1)  # the pipe is full by now
        reader.start()
    reader.join()
    os.close(read_end)
    assert len(section(bytes(got)).packets) == 2000


# --- a disk that is slow, full or gone -----------------------------------------------------------


def test_a_slow_disk_costs_packets_not_memory_and_not_time(caplog):
    stream = BlockedStream()
    with CaptureFile(stream, queue_bytes=64 << 10) as capture:
        first, second = capture.add_iop(), capture.add_iop()
        wait_for(stream.is_writing.is_set)
        start = time.monotonic()
        for number in range(1000):
            first.request(number, 2, bytes(100))
            second.reply(number, 2, bytes(100))
        assert time.monotonic() - start < 10, "it does not wait for the stream, which takes 20 s"
        assert capture._queued <= 64 << 10
        size = 32 + 100 + 24
        kept = (64 << 10) // size
        assert capture.dropped == 2000 - kept
        by_name = capture.dropped_by_interface
        assert by_name["iop0.in"] + by_name["iop1.out"] == capture.dropped
        assert capture.flush(0.01) is False
        stream.may_write.set()
        assert capture.flush()
        second.reply(1000, 2, bytes(100))
    found = section(bytes(stream.data))
    assert len(found.packets) == kept + 1
    final = {s.interface: s for s in found.statistics}
    assert final[0].dropped == by_name["iop0.in"]
    assert final[4].dropped == by_name["iop1.out"]
    assert final[0].received == 1000
    assert f"{2000 - kept} packets were dropped" in caplog.text
    reader = open_capture_of(bytes(stream.data))
    assert reader == (kept + 1, 2000 - kept)


def open_capture_of(data):
    read_end, write_end = os.pipe()
    writer = threading.Thread(target=lambda: (os.write(write_end, data), os.close(write_end)))
    writer.start()
    with open_capture(f"/dev/fd/{read_end}") as capture:
        count = len(list(capture))
        dropped = capture.dropped
    writer.join()
    os.close(read_end)
    return count, dropped


def test_live_readers_are_told_of_drops_while_it_goes_on():
    stream = BlockedStream()
    with CaptureFile(stream, queue_bytes=1000, linger_s=0.001) as capture:
        iop = capture.add_iop()
        wait_for(stream.is_writing.is_set)
        for number in range(100):
            iop.request(number, 2, bytes(100))
        stream.may_write.set()
        capture.flush()
        wait_for(lambda: section(bytes(stream.data)).statistics)
        (told,) = section(bytes(stream.data)).statistics
        assert (told.interface, told.dropped) == (0, capture.dropped)
        for number in range(3):  # no second time for the same drops
            iop.request(number, 2, bytes(100))
            capture.flush()
        assert len(section(bytes(stream.data)).statistics) == 1


def test_closing_gives_up_on_a_disk_that_does_not_answer(monkeypatch, caplog):
    monkeypatch.setattr(capture_file, "_CLOSE_S", 0.05)
    stream = BlockedStream()
    capture = CaptureFile(stream)
    capture.add_iop().request(1, 2, FRAME)
    capture.close()
    assert "nobody takes what is left" in caplog.text
    stream.may_write.set()


def test_conversions_wait_for_room():
    stream = BlockedStream()
    with CaptureFile(stream, queue_bytes=1000, waits_when_full=True) as capture:
        iop = capture.add_iop()
        threading.Timer(0.05, stream.may_write.set).start()
        for number in range(100):
            iop.request(number, 2, bytes(100))
            iop.remark(number, Channel.OUT, 2, bytes(2000), "larger than the queue")
    assert capture.dropped == 0
    found = section(bytes(stream.data))
    assert [p.time_ns for p in found.packets] == [n for n in range(100) for _ in range(2)]


@pytest.mark.parametrize("error", [BrokenPipeError(errno.EPIPE, "Broken pipe"), ValueError("shut")])
def test_a_stream_that_breaks_is_noted_once_and_never_used_again(error, caplog):
    stream = FailingStream(error)
    with CaptureFile(stream) as capture:
        iop = capture.add_iop()
        for _ in range(3):
            iop.request(1, 2, FRAME)
            assert capture.flush()
        assert capture.dropped == 3
    assert len([r for r in caplog.records if "dropped from here" in r.message]) == 1


def test_a_reader_that_goes_away(caplog):
    read_end, write_end = os.pipe()
    with os.fdopen(write_end, "wb", buffering=0) as stream, CaptureFile(stream) as capture:
        iop = capture.add_iop()
        iop.request(1, 2, FRAME)
        assert capture.flush()
        os.close(read_end)
        iop.request(1, 2, FRAME)
        assert capture.flush()
        iop.request(1, 2, FRAME)
        assert capture.dropped == 2
    assert "Broken pipe" in caplog.text


def test_what_is_left_of_a_disk_is_used(tmp_path, monkeypatch):
    path = tmp_path / "a.pcapng"
    real, room = os.write, 20_000

    def write(descriptor, data):
        left = room - os.fstat(descriptor).st_size
        if left <= 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(descriptor, data[:left])

    monkeypatch.setattr(capture_target.os, "write", write)
    with CaptureFile(path, linger_s=5) as capture:
        iop = capture.add_iop()
        for number in range(1000):
            iop.request(number, 2, bytes(100))
    found = section(path.read_bytes())
    assert room - 300 < path.stat().st_size <= room
    assert [packet.time_ns for packet in found.packets] == list(range(len(found.packets)))
    assert capture.dropped == 1000 - len(found.packets)


def test_a_full_disk_loses_packets_and_leaves_a_whole_file(tmp_path, monkeypatch, caplog):
    path = tmp_path / "a.pcapng"
    real = os.write
    is_full = False

    def write(descriptor, data):
        if not is_full or os.fstat(descriptor).st_size > 1 << 40:
            return real(descriptor, data)
        if len(data) > 40:
            return real(descriptor, data[:40])  # as far as there is room
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(capture_target.os, "write", write)
    with CaptureFile(path) as capture:
        iop = capture.add_iop()
        iop.request(1, 2, FRAME)
        capture.flush()
        is_full = True
        for number in range(5):
            iop.request(number, 2, FRAME)
            iop.reply(number, 2, FRAME)
            assert capture.flush()
        assert section(path).packets[-1].time_ns == 1
        is_full = False
        iop.request(9, 2, FRAME)
    found = section(path)
    assert [p.time_ns for p in found.packets] == [1, 9]
    assert [(s.received, s.dropped) for s in found.statistics] == [(7, 5), (5, 5), (0, 0)]
    assert len([r for r in caplog.records if "No space left" in r.message]) == 1


# --- rotation ------------------------------------------------------------------------------------


def test_rotation_by_size_makes_whole_files(tmp_path):
    sent = 0
    with CaptureFile(tmp_path / "trace.pcapng", max_file_bytes=8192) as capture:
        first = capture.add_iop("one")
        for _ in range(5):
            for _ in range(60):
                first.request(sent, 2, bytes(sent % 300))
                sent += 1
            capture.flush()
        second = capture.add_iop("two")
        for _ in range(100):
            second.request(sent, 2, bytes(100))
            sent += 1
    files = sorted(tmp_path.iterdir())
    assert [f.name for f in files[:2]] == ["trace-00001.pcapng", "trace-00002.pcapng"]
    assert len(files) > 6
    times = []
    for file in files:
        assert file.stat().st_size <= 8192
        found = section(file)
        times += [p.time_ns for p in found.packets]
        assert len(found.statistics) == len(found.interfaces)
        assert sum(s.delivered for s in found.statistics) == len(found.packets) > 0
    assert times == list(range(sent))
    assert len(section(files[-1]).interfaces) == 6


def test_a_packet_larger_than_a_file_gets_one_of_its_own(tmp_path):
    with CaptureFile(tmp_path / "t.pcapng", max_file_bytes=4096) as capture:
        iop = capture.add_iop()
        for size in (16, 6000, 16):
            iop.request(size, 2, bytes(size))
    assert [len(section(f).packets) for f in sorted(tmp_path.iterdir())] == [1, 1, 1]


def test_rotation_by_time(tmp_path):
    with CaptureFile(tmp_path / "t", max_file_seconds=0.02, linger_s=0.001) as capture:
        iop = capture.add_iop()
        for number in range(3):
            iop.request(number, 2, FRAME)
            capture.flush()
            time.sleep(0.03)
    assert sorted(f.name for f in tmp_path.iterdir()) == ["t-00001", "t-00002", "t-00003"]
    assert [p.time_ns for f in sorted(tmp_path.iterdir()) for p in section(f).packets] == [0, 1, 2]


def test_a_file_that_is_not_old_yet_goes_on(tmp_path):
    with CaptureFile(tmp_path / "t", max_file_seconds=1000, linger_s=0.001) as capture:
        iop = capture.add_iop()
        for number in range(3):
            iop.request(number, 2, FRAME)
            capture.flush()
    assert [f.name for f in tmp_path.iterdir()] == ["t-00001"]


def test_a_ring_keeps_the_latest_files(tmp_path):
    (tmp_path / "trace-00099.pcapng").write_bytes(b"not ours")
    with CaptureFile(tmp_path / "trace.pcapng", max_file_bytes=4096, max_files=3) as capture:
        iop = capture.add_iop()
        for number in range(200):
            iop.request(number, 2, bytes(300))
    *files, other = sorted(tmp_path.iterdir())
    assert (len(files), other.read_bytes()) == (3, b"not ours")
    assert section(files[-1]).packets[-1].time_ns == 199
    assert capture.name == str(files[-1])


def test_files_stay_in_their_folder_when_the_program_leaves_it(tmp_path, monkeypatch):
    there, here = tmp_path / "there", tmp_path / "here"
    there.mkdir()
    here.mkdir()
    monkeypatch.chdir(there)
    with CaptureFile("trace.pcapng", max_file_bytes=4096, max_files=2) as capture:
        monkeypatch.chdir(here)
        other = here / "trace-00001.pcapng"
        other.write_bytes(b"not ours")
        iop = capture.add_iop()
        for number in range(200):
            iop.request(number, 2, bytes(300))
    assert list(here.iterdir()) == [other]
    assert len(list(there.iterdir())) == 2


def test_drops_are_counted_in_the_file_they_happened_in(tmp_path, monkeypatch):
    with CaptureFile(tmp_path / "t", max_file_bytes=4096) as capture:
        iop = capture.add_iop()
        iop.request(1, 2, bytes(3000))
        capture.flush()
        capture._limit = 0
        iop.request(2, 2, bytes(3000))
        capture._limit = 1 << 20
        iop.request(3, 2, bytes(3000))
        capture.flush()
    first, second = (section(f).statistics[0] for f in sorted(tmp_path.iterdir()))
    assert (first.received, first.dropped, second.received, second.dropped) == (2, 1, 1, 0)


def test_a_file_that_cannot_be_opened_is_tried_again(tmp_path, caplog):
    folder = tmp_path / "folder"
    folder.mkdir()
    with CaptureFile(folder / "t", max_file_bytes=4096) as capture:
        iop = capture.add_iop()
        iop.request(1, 2, bytes(3000))
        capture.flush()
        folder.rename(tmp_path / "away")
        iop.request(2, 2, bytes(3000))
        assert capture.flush()
        assert capture.dropped == 1
        (tmp_path / "away").rename(folder)
        iop.request(3, 2, bytes(3000))
    assert [section(f).packets[0].time_ns for f in sorted(folder.iterdir())] == [1, 3]
    assert "No such file" in caplog.text


# --- where it cannot go --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "options", "text"),
    [
        ("/", {}, "Is a directory"),
        ("/nonexistent/a", {}, "No such file"),
        ("a\0b", {}, "null byte"),
        ("/dev/fd/987654", {}, "Bad file descriptor"),
        ("/dev/null", {"max_file_bytes": 8192}, "can be only one"),
        ("x", {"max_files": 3}, "needs a size or a time"),
        ("x", {"max_file_bytes": 100}, "expected 4096"),
        ("x", {"max_file_bytes": 10**5000}, "size of a file of 9.2.*: expected 4096"),
        ("x", {"max_file_bytes": 8192, "max_files": 0}, "expected 1"),
        ("x", {"max_file_seconds": float("nan")}, "time of a file"),
        ("x", {"snap_length": 0}, "snap length"),
        ("x", {"dma_snap": 1 << 30}, "snap length of DMA"),
    ],
)
def test_what_cannot_be_is_refused(path, options, text, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CaptureError, match=text):
        CaptureFile(path, **options)
    assert list(tmp_path.iterdir()) == []


def test_devices_are_written_to_as_they_are():
    with CaptureFile("/dev/null") as capture:
        capture.add_iop().request(1, 2, FRAME)
        assert capture.flush()


# --- others --------------------------------------------------------------------------------------


def test_two_captures_to_one_file_get_one_each(tmp_path, caplog):
    path = tmp_path / "a.pcapng"
    with CaptureFile(path) as first, CaptureFile(path) as second, CaptureFile(path) as third:
        for number, capture in enumerate((first, second, third)):
            capture.add_iop().request(number, 2, FRAME)
        assert second.name == str(tmp_path / f"a-{os.getpid()}.pcapng")
        assert third.name == str(tmp_path / f"a-{os.getpid()}-2.pcapng")
    assert "is being captured into already: using" in caplog.text
    for number, capture in enumerate((first, second, third)):
        assert [p.time_ns for p in section(Path(capture.name)).packets] == [number]
    with CaptureFile(path) as again:
        assert again.name == str(path)


def test_names_run_out(tmp_path, monkeypatch):
    monkeypatch.setattr(capture_target, "_MAX_NAMES", 1)
    with (
        CaptureFile(tmp_path / "a"),
        pytest.raises(CaptureError, match="taken, and so are other names"),
    ):
        CaptureFile(tmp_path / "a")


def test_a_file_that_is_removed_while_it_is_opened(tmp_path, monkeypatch):
    real, removed = capture_target._try_lock, []

    def try_lock(descriptor):
        if not removed:
            removed.append(os.unlink(tmp_path / "a"))
        return real(descriptor)

    monkeypatch.setattr(capture_target, "_try_lock", try_lock)
    with CaptureFile(tmp_path / "a") as capture:
        capture.add_iop().request(1, 2, FRAME)
    assert len(section(tmp_path / "a").packets) == 1


def test_file_systems_without_locks_will_do(tmp_path, monkeypatch):
    def flock(descriptor, how):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(capture_target.fcntl, "flock", flock)
    with CaptureFile(tmp_path / "a") as first, CaptureFile(tmp_path / "a") as second:
        assert first.name == second.name


@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")  # Python 3.12
def test_a_child_leaves_the_file_to_its_parent(tmp_path):
    path = tmp_path / "a.pcapng"
    with CaptureFile(path, linger_s=0.001) as capture:
        iop = capture.add_iop()
        stop = threading.Event()

        def record():  # so that a fork comes in the middle of it
            while not stop.wait(0.0001):
                iop.reply(1, 2, FRAME)

        thread = threading.Thread(target=record)
        thread.start()
        try:
            for _ in range(20):
                child = os.fork()
                if child == 0:
                    code = 1
                    try:
                        iop.request(666, 2, FRAME)
                        assert capture.dropped >= 1
                        capture.flush(0.01)
                        capture.close()
                        code = 0
                    finally:
                        os._exit(code)
                assert os.waitpid(child, 0)[1] == 0
        finally:
            stop.set()
            thread.join()
        iop.request(2, 2, FRAME)
    found = section(path)
    assert [p.time_ns for p in found.of("iop0.in")] == [2]
    assert len(found.of("iop0.out")) >= 20
    assert capture.dropped == 0


def run(program, *arguments, **options):
    return subprocess.Popen(
        [sys.executable, "-c", program, *map(str, arguments)], stderr=subprocess.PIPE, **options
    )


NEVER_CLOSES = """
import sys
from i2o.transport.capture.capture_file import CaptureFile
iop = CaptureFile(sys.argv[1]).add_iop()
for number in range(1000):
    iop.request(number, 2, bytes(20))
"""


def test_a_program_that_never_closes_leaves_a_whole_file(tmp_path):
    process = run(NEVER_CLOSES, tmp_path / "a")
    assert process.communicate(timeout=30)[1] == b""
    found = section(tmp_path / "a")
    assert (len(found.packets), len(found.statistics)) == (1000, 3)


KILLED = """
import sys, time
from i2o.transport.capture.capture_file import CaptureFile
iop = CaptureFile(sys.argv[1]).add_iop()
number = 0
while True:
    iop.request(number, 2, bytes(20))
    number += 1
    if number % 100 == 0:
        time.sleep(0.001)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_program_that_is_killed_leaves_all_but_the_last_moment(tmp_path, number):
    path = tmp_path / "a"
    process = run(KILLED, path)
    wait_for(lambda: path.exists() and path.stat().st_size > 100_000, 20)
    process.send_signal(number)
    process.communicate(timeout=30)
    with open_capture(str(path)) as capture:
        times = [packet.time_ns for packet in capture]
    assert times == list(range(len(times)))
    assert len(times) > 1000
    assert all("in the middle of a block" in problem for problem in capture.problems)


def test_packets_of_another_capture_keep_what_they_say(tmp_path):
    packets = [
        Packet(1, 4, Channel.IN, FRAME, 20, 0x1000),
        Packet(2, 4, Channel.OUT, FRAME, 40, None, comment="odd"),
        Packet(3, 4, Channel.TO_DEVICE, b"abc", 3, 0x1000, 0x1234),
        Packet(4, 4, Channel.FROM_DEVICE, b"abcd", 4000, 0x1000, 0x1234),
        Packet(5, 9, Channel.MESSAGE, b"message", 7, None),
    ]
    with CaptureFile(tmp_path / "a.pcapng") as capture:
        for packet in packets:
            capture.add_packet(packet, "elsewhere")
    with open_capture(str(tmp_path / "a.pcapng")) as again:
        read = list(again)
    assert read[:4] == packets[:4]
    assert read[4][2:] == packets[4][2:]
    assert section(tmp_path / "a.pcapng").interfaces[0][:2] == ("iop4.in", "elsewhere")


def test_more_interfaces_than_a_byte_counts(tmp_path):
    with CaptureFile(tmp_path / "a") as capture:
        iops = [capture.add_iop() for _ in range(100)]
        for number, iop in enumerate(iops):
            for _ in range(number):
                iop.request(number, 2, FRAME)
    found = section(tmp_path / "a")
    assert [s.delivered for s in found.statistics[::3]] == list(range(100))


def test_many_threads_lose_nothing(tmp_path):
    with CaptureFile(tmp_path / "a", linger_s=0.001) as capture:
        iop = capture.add_iop()

        def record(start):
            for number in range(2000):
                iop.request(start + number, 2, FRAME)

        threads = [threading.Thread(target=record, args=(10_000 * n,)) for n in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    times = [p.time_ns for p in section(tmp_path / "a").packets]
    assert len(times) == 8000
    for n in range(4):
        own = [t for t in times if t // 10_000 == n]
        assert own == sorted(own)


@pytest.mark.skipif(
    TSHARK is None or CAPINFOS is None, reason="tshark is missing: apt-get install tshark"
)
def test_tshark_and_capinfos_agree(tmp_path, caplog):
    path = tmp_path / "a.pcapng"
    with CaptureFile(path) as capture:
        first = capture.add_iop("emu:")
        capture.flush()
        first.request(1_700_000_000_123_456_789, 0x1000, FRAME)
        capture.flush()
        capture.add_iop("emu:later").reply(1_700_000_000_123_456_790, 0x2000, FRAME)
        capture._drops[0] = 7
    caplog.clear()
    fields = ("frame.interface_name", "frame.time_epoch", "frame.packet_id")
    assert tshark_packets(path, *fields) == [
        ["iop0.in", "1700000000.123456789", "4096"],
        ["iop1.out", "1700000000.123456790", "8192"],
    ]
    told = subprocess.run([CAPINFOS, path], capture_output=True, text=True, check=True).stdout
    assert "Number of packets:   2" in told
    assert told.count("Number of stat entries = 1") == 6
    assert "Capture application: i2o" in told
