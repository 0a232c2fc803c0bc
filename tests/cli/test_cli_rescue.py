# SPDX-License-Identifier: Apache-2.0
"""`rescue`: a disk with bad blocks becomes an image and a map, also over several runs."""

from __future__ import annotations

import errno
import fcntl
import os
from contextlib import nullcontext
from pathlib import Path

import pytest

from i2o.errors import RemoteFrameError
from i2o.tools import rescue, rescuing
from i2o.tools.rescue_map import RescueMap, Status

from .conftest import one_line

BAD = (0, 1, 700, 703, 1024, 2047)
SPEC = "0-1,bad=700,bad=703,bad=1024,bad=2047"


@pytest.fixture
def flawed(image: Path) -> str:
    return f"emu:?disk={image},bad={SPEC}"


def one_line_of_summary(ran) -> str:
    (line,) = ran.err.splitlines()
    return line


def check(image: Path, copy: Path, mapped: Path, bad=BAD) -> None:
    """Compare every block of a copy, and the map with what is bad."""
    content, got = image.read_bytes(), copy.read_bytes()
    assert len(got) == len(content)
    found = RescueMap.parse(mapped.read_text().splitlines(), len(content))
    missing = {
        block
        for area in found.areas(Status.BAD_SECTOR)
        for block in range(area.start // 512, area.end // 512)
    }
    assert missing == set(bad)
    assert found.count(Status.FINISHED) == len(content) - 512 * len(bad)
    for block in range(len(content) // 512):
        expected = bytes(512) if block in bad else content[block * 512 : block * 512 + 512]
        assert got[block * 512 : block * 512 + 512] == expected, block


def test_everything_but_the_bad_blocks(cli, image, flawed, tmp_path):
    copy = tmp_path / "copy"
    ran = cli("rescue", "-i", flawed, "16", copy)
    assert ran.code == 1
    assert ran.out == ""
    assert "3,072 bytes in 5 areas missing: see " in one_line_of_summary(ran)
    check(image, copy, tmp_path / "copy.map")


def test_json_and_a_map_elsewhere(cli, image, flawed, tmp_path):
    copy, mapped = tmp_path / "copy", tmp_path / "where"
    ran = cli("rescue", "-i", flawed, "16", copy, "--map", mapped, "--json", "--progress")
    (record,) = ran.records
    assert (ran.code, record["rescued"], record["missing"]) == (1, (1 << 20) - 3072, 3072)
    assert record["areas"][:2] == [[0, 1024], [700 * 512, 512]]
    assert record["map"] == str(mapped)
    assert "rescuing" in ran.err
    check(image, copy, mapped)


def test_a_second_run_gets_what_has_become_good(cli, image, flawed, uri, tmp_path):
    copy = tmp_path / "copy"
    assert cli("rescue", "-i", flawed, "16", copy).code == 1
    image_before = copy.read_bytes()
    ran = cli("rescue", "-i", f"{uri},bad=703", "16", copy, "--retries", "0")
    assert (ran.code, copy.read_bytes()) == (1, image_before)
    ran = cli("rescue", "-i", f"{uri},bad=703", "16", copy)
    assert "512 bytes in 1 area missing" in ran.err
    check(image, copy, tmp_path / "copy.map", bad=(703,))
    ran = cli("rescue", "-i", uri, "16", copy)
    assert (ran.code, ran.err) == (0, "1 MiB rescued, nothing is missing\n")
    check(image, copy, tmp_path / "copy.map", bad=())


def test_a_run_that_is_stopped_goes_on(cli, image, uri, tmp_path):
    """The IOP refuses in the middle; the image is whole in size, the map says what is in it."""
    plan = tmp_path / "plan.toml"
    plan.write_text('[[fault]]\non = "bsa_block_read"\nafter = 2\naction = "fail"\n')
    copy, mapped = tmp_path / "copy", tmp_path / "copy.map"
    ran = cli("rescue", "-i", uri, "16", copy, "--faults", plan)
    assert ran.code == 1
    assert f"{mapped} is kept: the same command goes on from there" in one_line(ran)
    assert copy.stat().st_size == 1 << 20
    assert list(RescueMap.parse(mapped.read_text().splitlines(), 1 << 20)) == [
        (0, 512 << 10, Status.FINISHED),
        (512 << 10, 1 << 20, Status.NON_TRIED),
    ]
    assert cli("rescue", "-i", uri, "16", copy).code == 0
    check(image, copy, mapped, bad=())


def test_a_longer_image_keeps_its_length(cli, image, uri, tmp_path):
    copy, mapped = tmp_path / "copy", tmp_path / "copy.map"
    copy.write_bytes(b"\xaa" * (2 << 20))
    mapped.write_text("0 ?\n0 1048576 ?\n")
    assert cli("rescue", "-i", uri, "16", copy).code == 0
    assert copy.read_bytes() == image.read_bytes() + b"\xaa" * (1 << 20)


def test_the_map_is_saved_on_the_way_and_never_before_the_image(cli, flawed, tmp_path, monkeypatch):
    saved = []
    monkeypatch.setattr(rescue, "_sync", lambda image: saved.append("image"))
    replacing = rescue.files.replacing
    monkeypatch.setattr(rescue, "_SAVE_EVERY_S", 0.0)
    monkeypatch.setattr(
        rescue.files, "replacing", lambda path: (saved.append(path), replacing(path))[1]
    )
    cli("rescue", "-i", flawed, "16", tmp_path / "copy")
    assert len(saved) > 10
    assert saved == ["image", str(tmp_path / "copy.map")] * (len(saved) // 2)


def test_a_map_that_cuts_blocks_in_two(cli, image, uri, tmp_path):
    copy, mapped = tmp_path / "copy", tmp_path / "copy.map"
    copy.write_bytes(image.read_bytes())
    mapped.write_text("0 +\n0 100 -\n100 1048476 +\n")
    ran = cli("rescue", "-i", f"{uri},bad=0", "16", copy)
    assert (ran.code, "512 bytes in 1 area missing" in ran.err) == (1, True)


@pytest.mark.parametrize(("number", "is_raised"), [(errno.EINVAL, False), (errno.EIO, True)])
def test_what_cannot_be_synchronised(monkeypatch, number, is_raised):
    def fsync(descriptor: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(OSError, match="error") if is_raised else nullcontext():
        rescue._sync(0)


def test_a_map_that_cannot_be_written_is_known_before_anything_is_read(cli, image, uri, tmp_path):
    copy, mapped = tmp_path / "copy", tmp_path / "copy.map"
    ran = cli("rescue", "-i", uri, "16", copy, "--map", tmp_path / "nowhere" / "map")
    assert ran.code == 1
    assert "nowhere/map: No such file" in one_line(ran)
    assert copy.read_bytes() == b""
    assert cli("rescue", "-i", uri, "16", copy).code == 0  # what is left stands in nobody's way
    check(image, copy, mapped, bad=())


def test_a_full_disk_is_named_and_the_map_promises_nothing(cli, uri, tmp_path, monkeypatch):
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    copy, mapped = tmp_path / "copy", tmp_path / "copy.map"
    monkeypatch.setattr(rescuing.os, "pwrite", full)
    ran = cli("rescue", "-i", uri, "16", copy)
    assert (ran.code, one_line(ran)) == (1, f"i2o: {copy}: No space left on device")
    found = RescueMap.parse(mapped.read_text().splitlines(), 1 << 20)
    assert found.count(Status.FINISHED) == 0


def test_what_is_refused(cli, image, uri, tmp_path):
    copy, mapped = tmp_path / "copy", tmp_path / "copy.map"

    def refused(*words: object) -> str:
        ran = cli("rescue", "-i", uri, "16", *words)
        assert ran.code == 2
        return one_line(ran)

    assert "is the disk that is read" in refused(image)
    assert "is the disk that is read" in refused(copy, "--map", image)
    assert "image and map are one file" in refused(copy, "--map", copy)
    assert "is no file that a map" in refused(copy, "--map", "/dev/zero")  # which has no end
    copy.write_bytes(b"something")
    assert "its map" in refused(copy)
    copy.unlink()
    mapped.write_text("0 +\n0 512 +\n")
    assert "which is not there" in refused(copy)
    assert not copy.exists()
    mapped.write_text("hello")
    assert "line 1 is no position and status" in refused(copy)
    assert "is no file and no block device" in refused("/dev/null", "--map", tmp_path / "other")
    with open(copy, "w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert "in use by another rescue" in refused(copy, "--map", tmp_path / "other")


def test_a_block_device_that_is_too_small(monkeypatch, tmp_path):
    path = tmp_path / "node"
    path.write_bytes(bytes(512))
    monkeypatch.setattr(rescue.stat, "S_ISREG", lambda mode: False)
    monkeypatch.setattr(rescue.stat, "S_ISBLK", lambda mode: True)
    with (
        pytest.raises(rescue.UsageError, match="has 512 bytes, the disk has 1024"),
        rescue._image(str(path), 1024),
    ):
        pass
    with rescue._image(str(path), 512) as image:
        assert os.fstat(image).st_size == 512


def test_a_disk_that_claims_too_much(tmp_path):
    with (
        pytest.raises(RemoteFrameError, match="claims to have"),
        rescue._image(str(tmp_path / "copy"), 1 << 63),
    ):
        pass
