# SPDX-License-Identifier: Apache-2.0
"""A real file system made by mke2fs, read through block messages byte for byte."""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import subprocess
from pathlib import Path

import pytest

import i2o

IMAGE_SIZE = 96 << 20
TREE_SIZE = 48 << 20

pytestmark = pytest.mark.skipif(
    shutil.which("mke2fs") is None or shutil.which("debugfs") is None,
    reason="mke2fs and debugfs are missing: apt-get install e2fsprogs",
)


@pytest.fixture(scope="module")
def tree(tmp_path_factory) -> Path:
    """A tree of a few hundred files, from empty to some MiB."""
    root = tmp_path_factory.mktemp("tree")
    rng = random.Random(5)
    left = TREE_SIZE
    for index in range(400):
        folder = root / f"dir{index % 17}" / f"sub{index % 5}"
        folder.mkdir(parents=True, exist_ok=True)
        size = min(left, rng.choice([0, 1, 511, 4096, 70_000, rng.randrange(1 << 20)]))
        (folder / f"file{index}").write_bytes(rng.randbytes(size))
        left -= size
    return root


@pytest.fixture(scope="module")
def image(tree, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("image") / "ext4.img"
    environment = {**os.environ, "PATH": f"{os.environ['PATH']}:/sbin:/usr/sbin"}
    subprocess.run(
        ["mke2fs", "-q", "-t", "ext4", "-L", "i2o-test", "-d", tree, path, f"{IMAGE_SIZE >> 10}"],
        check=True,
        env=environment,
        timeout=120,
    )
    return path


@pytest.mark.parametrize("run", ["inline", "thread"])
def test_the_whole_image_byte_for_byte(image, run):
    with i2o.open(f"emu:?disk={image},ro&run={run}") as iop, iop.block() as disk:
        assert disk.size == IMAGE_SIZE >= 64 << 20
        digest = hashlib.sha256()
        expected = image.open("rb")
        with expected, disk.as_file() as file:
            while data := file.read(1 << 20):
                assert data == expected.read(1 << 20)
                digest.update(data)
            assert expected.read() == b""
    assert digest.hexdigest() == hashlib.sha256(image.read_bytes()).hexdigest()


def test_the_files_inside_are_those_of_the_tree(image, tree, tmp_path):
    """Copy the disk out through I2O, then let e2fsprogs take the files out of the copy."""
    copy = tmp_path / "copy.img"
    with i2o.open(f"emu:?disk={image},ro") as iop, iop.block() as disk, copy.open("wb") as out:
        for offset in range(0, disk.size, 4 << 20):
            out.write(disk.read(offset, min(4 << 20, disk.size - offset)))
    environment = {**os.environ, "PATH": f"{os.environ['PATH']}:/sbin:/usr/sbin"}
    subprocess.run(["e2fsck", "-fn", copy], check=True, env=environment, capture_output=True)
    target = tmp_path / "out"
    target.mkdir()
    subprocess.run(
        ["debugfs", "-R", f"rdump / {target}", copy],
        check=True,
        env=environment,
        capture_output=True,
        timeout=120,
    )
    files = sorted(path.relative_to(tree) for path in tree.rglob("*") if path.is_file())
    assert len(files) == 400
    for name in files:
        assert (target / name).read_bytes() == (tree / name).read_bytes(), name
