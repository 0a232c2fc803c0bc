# SPDX-License-Identifier: Apache-2.0
"""`read` and `write`: bytes, hashes, files that appear whole or not at all."""

from __future__ import annotations

import hashlib
import os
import stat

import pytest

import i2o
from i2o.tools import files, write
from i2o.tools.cli import main
from i2o.tools.output import Progress

from .conftest import one_line


def test_read_to_a_pipe(process, image, uri):
    ran = process("read", "16", "-i", uri)
    assert (ran.code, ran.err) == (0, "")
    assert ran.out == image.read_bytes()


def test_read_to_stdout_of_this_process(image, uri, capsysbinary):
    assert main(["read", "16", "--count", "1000", "-i", uri, "--sha256", "-o", "-"]) == 0
    captured = capsysbinary.readouterr()
    assert captured.out == image.read_bytes()[:1000]
    assert captured.err.endswith(b"  -\n")


def test_read_part_to_stdout_with_its_hash_on_stderr(process, image, uri):
    ran = process(
        "read", "0x10", "--offset", "3", "--count", "1001", "-o", "-", "--sha256", "-i", uri
    )
    data = image.read_bytes()[3:1004]
    assert ran.out == data
    assert ran.err == f"{hashlib.sha256(data).hexdigest()}  -\n"


def test_hash_alone_stores_nothing(cli, image, uri):
    ran = cli("read", "16", "--sha256", "-i", uri)
    assert ran.out == f"{hashlib.sha256(image.read_bytes()).hexdigest()}  -\n"
    assert ran.err == ""


def test_read_to_a_file(cli, image, uri, tmp_path):
    target = tmp_path / "copy"
    ran = cli("read", "16", "-o", target, "-i", uri, "--sha256", "--progress")
    assert ran.code == 0
    assert target.read_bytes() == image.read_bytes()
    assert ran.out.split()[1] == str(target)
    assert "1 MiB from TID 0x010" in ran.err
    assert "100%" in ran.err
    umask = os.umask(0)
    os.umask(umask)
    assert stat.S_IMODE(target.stat().st_mode) == 0o666 & ~umask


def test_read_as_json(cli, image, uri, tmp_path):
    ran = cli("read", "16", "-o", tmp_path / "copy", "--count", "4K", "--json", "-i", uri)
    (record,) = ran.records
    assert record["count"] == 4096
    assert record["sha256"] == hashlib.sha256(image.read_bytes()[:4096]).hexdigest()


def test_reading_nothing_is_fine(cli, uri, tmp_path):
    target = tmp_path / "copy"
    assert cli("read", "16", "--offset", "1M", "-o", target, "-i", uri).code == 0
    assert target.read_bytes() == b""


def test_a_file_that_is_replaced_keeps_mode_and_links(cli, uri, tmp_path):
    real = tmp_path / "real"
    real.write_bytes(b"old")
    real.chmod(0o640)
    link = tmp_path / "link"
    link.symlink_to(real)
    assert cli("read", "16", "--count", "4", "-o", link, "-i", uri).code == 0
    assert link.is_symlink()
    assert real.read_bytes() == bytes(4)
    assert stat.S_IMODE(real.stat().st_mode) == 0o640


def test_a_device_file_is_written_to_and_stays(cli, uri):
    assert cli("read", "16", "--count", "4K", "-o", "/dev/null", "-i", uri).code == 0
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)


def test_a_failed_read_leaves_the_old_file(cli, image, tmp_path):
    plan = tmp_path / "plan.toml"
    plan.write_text(
        '[[fault]]\non = "BSA_BLOCK_READ"\nafter = 2\naction = "status"\n'
        "req_status = 5\ndetail = 3\n"
    )
    folder = tmp_path / "out"
    folder.mkdir()
    target = folder / "copy"
    target.write_bytes(b"old")
    ran = cli("read", "16", "-o", target, "-i", f"emu:?disk={image}&faults={plan}")
    assert ran.code == 1
    assert "DEVICE_FAILURE" in one_line(ran)
    assert target.read_bytes() == b"old"
    assert os.listdir(folder) == ["copy"]


def test_the_image_that_is_read_is_not_replaced(cli, image, uri):
    before = image.read_bytes()
    ran = cli("read", "16", "--count", "512", "-o", image, "-i", uri)
    assert ran.code == 2
    assert "is the disk that is read" in one_line(ran)
    assert image.read_bytes() == before


def test_write_and_read_back(cli, process, image, uri, tmp_path):
    data = os.urandom(70_001)
    source = tmp_path / "source"
    source.write_bytes(data)
    before = image.read_bytes()
    ran = cli("write", "16", source, "--offset", "0x1F3", "-i", uri)
    assert ran.code == 0
    assert "flushed" in ran.err
    expected = before[:0x1F3] + data + before[0x1F3 + len(data) :]
    assert image.read_bytes() == expected
    ran = process("read", "16", "--offset", "0x1F3", "--count", len(data), "-i", uri)
    assert ran.out == data


def test_more_than_one_piece(cli, tmp_path):
    source, disk, target = tmp_path / "source", tmp_path / "disk", tmp_path / "target"
    data = os.urandom(2 * files.CHUNK + 777)
    source.write_bytes(data)
    disk.write_bytes(bytes(10 << 20))
    assert cli("write", "16", source, "--offset", "100", "-i", f"emu:?disk={disk}").code == 0
    assert disk.read_bytes()[100 : 100 + len(data)] == data
    ran = cli("read", "16", "--offset", "100", "--count", len(data), "-o", target, "--sha256",
              "-i", f"emu:?disk={disk}")  # fmt: skip
    assert target.read_bytes() == data
    assert ran.out.startswith(hashlib.sha256(data).hexdigest())


def test_write_from_a_pipe(process, image, uri):
    before, start = image.read_bytes(), 512 << 10
    ran = process("write", "16", "-", "--offset", "512K", "-i", uri, stdin=b"x" * 5000)
    assert ran.code == 0
    assert image.read_bytes() == before[:start] + b"x" * 5000 + before[start + 5000 :]


def test_a_pipe_that_is_too_long_changes_nothing(process, image, uri):
    before = image.read_bytes()
    ran = process("write", "16", "-", "--offset", "1000K", "-i", uri, stdin=b"x" * 30_000)
    assert ran.code == 2
    assert "more than 24576 bytes" in one_line(ran)
    assert image.read_bytes() == before


def test_a_file_that_is_too_long_changes_nothing(cli, image, uri, tmp_path):
    source = tmp_path / "source"
    source.write_bytes(b"x" * ((1 << 20) + 1))
    before = image.read_bytes()
    ran = cli("write", "16", source, "-i", uri)
    assert ran.code == 2
    assert "1048577 bytes do not fit the 1048576 bytes" in one_line(ran)
    assert image.read_bytes() == before


def test_a_read_only_disk_is_refused(cli, image, tmp_path):
    ran = cli("write", "16", "/dev/null", "-i", f"emu:?disk={image},ro")
    assert ran.code == 2
    assert "read-only" in one_line(ran)


def test_write_as_json(cli, image, uri, tmp_path):
    source = tmp_path / "source"
    source.write_bytes(b"data")
    (record,) = cli("write", "16", source, "--json", "-i", uri).records
    assert record["count"] == 4


def test_a_file_that_shrinks_meanwhile_is_an_error(tmp_path):
    source = tmp_path / "source"
    source.write_bytes(b"data")
    with (
        i2o.open("emu:") as iop,
        iop.block() as device,
        source.open("rb") as opened,
        pytest.raises(i2o.I2OError, match="ended after 4 of 5 bytes"),
    ):
        write.copy_in(device, 0, opened, 5, Progress("writing", 5))


@pytest.mark.parametrize("size", [0, 513, 5000])
def test_an_odd_image_has_a_reason_and_a_remedy(cli, tmp_path, size):
    path = tmp_path / "odd"
    path.write_bytes(bytes(size))
    for words in (("demo", "--disk", path), ("lct", "-i", f"emu:?disk={path}")):
        ran = cli(*words)
        assert ran.code == 3
        assert "(" in one_line(ran)


def test_an_unreadable_image(cli, image, monkeypatch):
    def refused(path, flags, *_):
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr(files.os, "open", refused)
    ran = cli("demo", "--disk", image, "--write")
    assert ran.code == 3
    assert "leave --write away" in one_line(ran)
    ran = cli("demo", "--disk", image)
    assert "check its permissions" in one_line(ran)


def test_paths_in_uris():
    assert files.disk_option("a,b&c d%+#.img") == "a%2Cb%26c%20d%25%2B%23.img"
    assert files.disk_option("/tmp/ü-\udcff") == "/tmp/ü-\udcff"
