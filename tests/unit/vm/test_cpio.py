# SPDX-License-Identifier: Apache-2.0
"""Archives hold what was added, as the format says."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import pytest

from vm.cpio import cpio_archive


def entries(data: bytes) -> Iterator[tuple[str, int, bytes]]:
    """Yield name, mode and content: written from the format's description, not from the writer."""
    position = 0
    while position < len(data):
        assert data[position : position + 6] == b"070701"
        fields = [int(data[position + at : position + at + 8], 16) for at in range(6, 110, 8)]
        mode, size, name_size = fields[1], fields[6], fields[11]
        name = data[position + 110 : position + 110 + name_size]
        assert name.endswith(b"\0")
        start = (position + 110 + name_size + 3) & ~3
        yield name[:-1].decode(), mode, data[start : start + size]
        position = (start + size + 3) & ~3


@pytest.fixture
def out() -> io.BytesIO:
    return io.BytesIO()


def test_files_links_and_the_folders_above_them(out: io.BytesIO) -> None:
    with cpio_archive(out) as cpio:
        cpio.file("/a/b/file", b"12345")
        cpio.file("a/tool", b"", 0o755)
        cpio.link("a/link", "b/file")
    assert list(entries(out.getvalue())) == [
        ("a", 0o040755, b""),
        ("a/b", 0o040755, b""),
        ("a/b/file", 0o100644, b"12345"),
        ("a/tool", 0o100755, b""),
        ("a/link", 0o120777, b"b/file"),
        ("TRAILER!!!", 0, b""),
    ]


def test_another_archive_may_follow(out: io.BytesIO) -> None:
    for name in ("one", "three"):
        with cpio_archive(out) as cpio:
            cpio.file(name, name.encode())
    names = [name for name, _, _ in entries(out.getvalue())]
    assert names == ["one", "TRAILER!!!", "three", "TRAILER!!!"]


def test_a_folder_is_copied_with_links_and_modes_but_not_what_python_compiled(
    out: io.BytesIO, tmp_path: Path
) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "tool").write_bytes(b"#!")
    (tmp_path / "sub" / "tool").chmod(0o750)
    (tmp_path / "link").symlink_to("sub/tool")
    (tmp_path / "__pycache__").mkdir()
    (tmp_path / "__pycache__" / "x.pyc").touch()
    with cpio_archive(out) as cpio:
        cpio.copy("/job/it", tmp_path)
    assert list(entries(out.getvalue()))[:-1] == [
        ("job", 0o040755, b""),
        ("job/it", 0o040755, b""),
        ("job/it/link", 0o120777, b"sub/tool"),
        ("job/it/sub", 0o040755, b""),
        ("job/it/sub/tool", 0o100750, b"#!"),
    ]


def test_an_archive_that_failed_has_no_end(out: io.BytesIO) -> None:
    with pytest.raises(FileNotFoundError), cpio_archive(out) as cpio:
        cpio.copy("x", Path("/nowhere/x"))
    assert b"TRAILER" not in out.getvalue()
