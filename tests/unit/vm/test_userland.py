# SPDX-License-Identifier: Apache-2.0
"""The archives hold what runs, at the places where a system of today has it."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from vm.userland import compile_python, pack_busybox, pack_python

FILES = (
    "bin/busybox",
    "lib/i386-linux-gnu/libc.so.6",
    "usr/bin/perl",
    "usr/bin/python3.11",
    "usr/lib/python3.11/os.py",
    "usr/lib/python3.11/__pycache__/os.cpython-311.pyc",
    "usr/lib/python3.11/test/test_os.py",
    "usr/lib/i386-linux-gnu/gconv/BIG5.so",
    "usr/share/doc/python3/README",
)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for name in FILES:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    (tmp_path / "usr/bin/python3").symlink_to("python3.11")
    return tmp_path


def holds(data: bytes, name: str) -> bool:
    return f"{name}\0".encode() in data


def test_python_comes_with_its_library_and_no_more(tree: Path) -> None:
    out = io.BytesIO()
    pack_python(tree, out)
    data = out.getvalue()
    for name in (
        "usr/lib/i386-linux-gnu/libc.so.6",
        "usr/bin/python3",
        "usr/bin/python3.11",
        "usr/lib/python3.11/os.py",
        "usr/lib/python3.11/__pycache__/os.cpython-311.pyc",
    ):
        assert holds(data, name), name
    for word in (b"perl", b"test_os", b"BIG5", b"README", b"busybox"):
        assert word not in data


@pytest.mark.parametrize("where", ["bin", "usr/bin"])
def test_busybox_is_found_before_and_after_the_merge_of_folders(tree: Path, where: str) -> None:
    (tree / "bin/busybox").rename(tree / where / "busybox")
    out = io.BytesIO()
    pack_busybox(tree, out)
    assert holds(out.getvalue(), "usr/bin/busybox")


def test_a_python_that_does_not_run_here_is_left_uncompiled(tree: Path) -> None:
    (tree / "lib/i386-linux-gnu/ld-linux.so.2").write_text("for another processor")
    (tree / "lib/i386-linux-gnu/ld-linux.so.2").chmod(0o755)
    compile_python(tree)
