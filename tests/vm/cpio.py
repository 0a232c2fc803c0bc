# SPDX-License-Identifier: Apache-2.0
"""Writes cpio archives in the `newc` format, which kernels unpack as their first file system."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import BinaryIO

_MAGIC = b"070701"
_END = "TRAILER!!!"


@contextmanager
def cpio_archive(out: BinaryIO) -> Iterator[CpioWriter]:
    """Write an archive, with its end unless an exception passes.

    A kernel unpacks archives that stand one behind the other in one file; later ones add to what
    earlier ones made.

    Args:
        out: takes the archive; its position must be a multiple of four.
    """
    writer = CpioWriter(out)
    yield writer
    writer.end()


class CpioWriter:
    """Adds files to an archive. Folders on the way to a file are added by themselves.

    Args:
        out: takes the archive.
    """

    def __init__(self, out: BinaryIO) -> None:
        self._out = out
        self._folders: set[str] = set()
        self._number = 0

    def folder(self, path: str) -> None:
        """Add a folder, and those above it, unless this archive has it."""
        for parent in [*reversed(PurePosixPath(path).parents), PurePosixPath(path)]:
            name = _name(str(parent))
            if name and name not in self._folders:
                self._folders.add(name)
                self._entry(name, stat.S_IFDIR | 0o755, b"")

    def file(self, path: str, content: bytes, mode: int = 0o644) -> None:
        """Add a file."""
        self._add(path, stat.S_IFREG | mode, content)

    def link(self, path: str, target: str) -> None:
        """Add a symbolic link."""
        self._add(path, stat.S_IFLNK | 0o777, target.encode())

    def copy(self, path: str, source: Path) -> None:
        """Add a link, a file with its mode, or a folder with all that is in it."""
        if source.is_symlink():
            self.link(path, os.readlink(source))
        elif source.is_dir():
            self.folder(path)
            for child in sorted(source.iterdir()):
                if child.name != "__pycache__":
                    self.copy(f"{path}/{child.name}", child)
        else:
            self.file(path, source.read_bytes(), source.stat().st_mode & 0o777)

    def end(self) -> None:
        """Write the end of the archive."""
        self._entry(_END, 0, b"")

    def _add(self, path: str, mode: int, content: bytes) -> None:
        name = _name(path)
        self.folder(str(PurePosixPath(name).parent))
        self._entry(name, mode, content)

    def _entry(self, name: str, mode: int, content: bytes) -> None:
        self._number += 1
        encoded = name.encode() + b"\0"
        inode, links = self._number, 1
        owner = times = device = check = 0
        fields = (
            *(inode, mode, owner, owner, links, times, len(content)),
            *(device, device, device, device, len(encoded), check),
        )
        header = _MAGIC + b"".join(b"%08x" % value for value in fields) + encoded
        self._out.write(_padded(header))
        self._out.write(_padded(content))


def _name(path: str) -> str:
    name = str(PurePosixPath(path)).strip("/")
    return "" if name == "." else name


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)
