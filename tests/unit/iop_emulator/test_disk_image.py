# SPDX-License-Identifier: Apache-2.0
"""Disks that are files, and disks that are memory."""

from __future__ import annotations

import errno
import os

import pytest

from i2o.errors import TransportUnavailable
from i2o.iop_emulator import disk_image
from i2o.iop_emulator.block_store import MemoryDisk, StoreError
from i2o.iop_emulator.disk_image import DiskImage


@pytest.fixture
def path(tmp_path):
    file = tmp_path / "disk.img"
    file.write_bytes(os.urandom(8192))
    return file


def views(*sizes: int) -> list[memoryview]:
    return [memoryview(bytearray(size)) for size in sizes]


def test_reading_and_writing(path):
    data = path.read_bytes()
    disk = DiskImage(path)
    assert (disk.size, disk.block_size, disk.description) == (8192, 512, str(path))
    parts = views(100, 0, 412)
    disk.read_into(512, parts)
    assert b"".join(parts) == data[512:1024]
    disk.write_from(4096, parts)
    disk.flush()
    assert path.read_bytes() == data[:4096] + data[512:1024] + data[4608:]
    disk.read_into(0, [])
    disk.write_from(0, [])
    disk.close()
    disk.close()


def test_more_views_than_one_call_takes(path):
    data = path.read_bytes()
    disk = DiskImage(path)
    parts = views(*[4] * 2048)
    disk.read_into(0, parts)
    assert b"".join(parts) == data
    disk.write_from(0, [memoryview(bytes(part)[::-1]) for part in parts])
    assert path.read_bytes() == b"".join(data[i : i + 4][::-1] for i in range(0, 8192, 4))
    disk.close()


def test_short_transfers_are_finished(path, monkeypatch):
    data = path.read_bytes()
    disk = DiskImage(path)
    read, write = os.preadv, os.pwritev
    monkeypatch.setattr(os, "preadv", lambda fd, parts, at: read(fd, [parts[0][:100]], at))
    monkeypatch.setattr(os, "pwritev", lambda fd, parts, at: write(fd, [parts[0][:100]], at))
    parts = views(250, 262)
    disk.read_into(0, parts)
    assert b"".join(parts) == data[:512]
    disk.write_from(512, parts)
    monkeypatch.undo()
    assert path.read_bytes()[512:1024] == data[:512]
    disk.close()


def test_a_file_that_shrank_is_an_error_that_says_how_far_it_got(path):
    disk = DiskImage(path)
    os.truncate(path, 4096)
    with pytest.raises(StoreError) as caught:
        disk.read_into(3584, views(1024))
    assert (caught.value.errno, caught.value.done) == (errno.EIO, 512)
    disk.close()


def test_system_errors_say_how_far_it_got(path, monkeypatch):
    disk = DiskImage(path)
    calls = []

    def full(fd, parts, at):
        calls.append(at)
        if len(calls) > 1:
            raise OSError(errno.ENOSPC, "full")
        return 512

    monkeypatch.setattr(os, "pwritev", full)
    with pytest.raises(StoreError) as caught:
        disk.write_from(0, views(1024))
    assert (caught.value.errno, caught.value.done) == (errno.ENOSPC, 512)
    disk.close()


def test_faults_can_be_injected(path):
    seen = []

    def fault(operation, offset, length):
        seen.append((operation, offset, length))
        raise OSError(errno.EIO, "injected")

    disk = DiskImage(path, fault=fault)
    for call in (
        lambda: disk.read_into(512, views(512)),
        lambda: disk.write_from(1024, views(512, 512)),
        disk.flush,
    ):
        with pytest.raises(OSError, match="injected"):
            call()
    assert seen == [("read", 512, 512), ("write", 1024, 1024), ("flush", 0, 0)]
    disk.close()


def test_flush_is_fdatasync_and_nothing_for_a_reader(path, monkeypatch):
    synced = []
    monkeypatch.setattr(os, "fdatasync", synced.append)
    with_writes, reader = DiskImage(path), None
    with_writes.flush()
    with_writes.close()
    reader = DiskImage(path, read_only=True)
    reader.flush()
    reader.close()
    assert len(synced) == 1


def test_serial_numbers(path, tmp_path):
    first = DiskImage(path)
    assert len(first.serial) == 12
    first.close()
    other = tmp_path / "other.img"
    other.write_bytes(bytes(512))
    second = DiskImage(other)
    assert second.serial != first.serial
    second.close()
    named = DiskImage(path, serial="XYZ")
    assert named.serial == "XYZ"
    named.close()


def refusal(path, **arguments) -> TransportUnavailable:
    with pytest.raises(TransportUnavailable) as caught:
        DiskImage(path, **arguments)
    assert caught.value.remedy
    return caught.value


@pytest.mark.parametrize(
    ("size", "arguments", "reason", "remedy"),
    [
        (0, {}, "is empty", "create="),
        (1000, {}, "has 1000 bytes", "truncate"),
        (1536, {"block_size": 4096}, "has 1536 bytes", "block_size=512"),
        (1024, {"create": 2048}, "has 1024 bytes, not 2048", "leave create="),
    ],
)
def test_odd_sizes(tmp_path, size, arguments, reason, remedy):
    file = tmp_path / "odd.img"
    file.write_bytes(bytes(size))
    error = refusal(file, **arguments)
    assert reason in error.reason
    assert remedy in error.remedy
    assert file.stat().st_size == size


def test_things_that_are_no_image(tmp_path):
    assert "is a directory" in refusal(tmp_path).reason
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    assert "no file and no block device" in refusal(pipe).reason
    missing = tmp_path / "missing.img"
    error = refusal(missing)
    assert "does not exist" in error.reason
    assert "create=64M" in error.remedy
    assert not missing.exists()
    assert "cannot be opened" in refusal(tmp_path / ("x" * 300)).reason
    assert "cannot be created" in refusal(tmp_path / "no" / "folder.img", create=512).reason


def test_permissions(path, monkeypatch):
    def deny(*arguments):
        raise PermissionError(errno.EACCES, "denied")

    monkeypatch.setattr(os, "open", deny)
    error = refusal(path)
    assert "cannot be written to" in error.reason
    assert ",ro" in error.remedy
    assert "cannot be read" in refusal(path, read_only=True).reason
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert "cannot be read" in refusal(path).reason

    def read_only(*arguments):
        raise OSError(errno.EROFS, "read-only file system")

    monkeypatch.setattr(os, "open", read_only)
    error = refusal(path)
    assert "read-only file system" in error.reason
    assert ",ro" in error.remedy
    assert "cannot be opened" in refusal(path, read_only=True).reason


def test_an_image_can_be_made(tmp_path):
    file = tmp_path / "new.img"
    disk = DiskImage(file, create=1 << 20)
    assert disk.size == file.stat().st_size == 1 << 20
    disk.write_from(0, [memoryview(b"x" * 512)])
    disk.close()
    again = DiskImage(file, create=1 << 20)
    again.close()
    assert file.read_bytes()[:512] == b"x" * 512


def test_an_image_that_does_not_fit_is_not_left_behind(tmp_path, monkeypatch):
    def full(fd, size):
        raise OSError(errno.ENOSPC, "no space")

    monkeypatch.setattr(os, "ftruncate", full)
    error = refusal(tmp_path / "new.img", create=1 << 20)
    assert "cannot have 1048576 bytes" in error.reason
    assert list(tmp_path.iterdir()) == []


def test_two_writers_are_kept_apart(path):
    disk = DiskImage(path)
    assert "in use" in refusal(path).reason
    assert "in use" in refusal(path, read_only=True).reason
    disk.close()
    readers = [DiskImage(path, read_only=True) for _ in range(2)]
    assert "in use" in refusal(path).reason
    for reader in readers:
        reader.close()
    DiskImage(path).close()


def test_reading_never_writes(path):
    before = path.stat()
    disk = DiskImage(path, read_only=True)
    with pytest.raises(OSError, match="Bad file"):
        disk.write_from(0, views(512))
    disk.close()
    assert path.stat().st_mtime_ns == before.st_mtime_ns


def test_only_linux_limits_are_assumed():
    assert os.sysconf("SC_IOV_MAX") >= disk_image._MAX_VIEWS


def test_memory_disks():
    disk = MemoryDisk(2048, serial="S")
    disk.write_from(512, [memoryview(b"a" * 100), memoryview(b"b" * 412)])
    parts = views(512, 512)
    disk.read_into(512, parts)
    assert bytes(parts[0]) == b"a" * 100 + b"b" * 412
    assert bytes(parts[1]) == bytes(512)
    disk.flush()
    disk.close()
    for size in (0, 100, 1000):
        with pytest.raises(ValueError, match="whole number"):
            MemoryDisk(size)
    with pytest.raises(StoreError) as caught:
        MemoryDisk(512, read_only=True).write_from(0, [])
    assert caught.value.errno == errno.EROFS
