# SPDX-License-Identifier: Apache-2.0
"""Archives on disks: makes one of this package's sources, and lists one from an open disk.

Members are listed, never unpacked, and their names are shown without control characters.
"""

from __future__ import annotations

import io
import lzma
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import IO, Final, cast

from i2o.errors import I2OError
from i2o.tools.output import printable

MAX_MEMBERS: Final = 20_000
"""Members that are looked at before the listing gives up."""
_KEPT: Final = 6
_PACKAGES: Final = (
    "i2o",
    "i2o.frames",
    "i2o.transport",
    "i2o.iop_emulator",
    "i2o.iop_emulator.ddm",
    "i2o.tools",
)
_DAMAGED: Final = (
    tarfile.TarError,
    zipfile.BadZipFile,
    EOFError,
    lzma.LZMAError,
    zlib.error,
    struct.error,
    ValueError,
    NotImplementedError,
    OSError,
)


@dataclass(slots=True)
class Listing:
    """What is in an archive.

    Attributes:
        kind: `tar` or `zip`.
        members: how many were looked at.
        total: bytes of the files among them, unpacked.
        first: name and size of the first few files.
        complete: whether the end was reached.
        problem: why not, if the archive is damaged.
    """

    kind: str
    members: int = 0
    total: int = 0
    first: list[tuple[str, int]] = field(default_factory=list)
    complete: bool = True
    problem: str = ""

    def add(self, name: str, size: int, *, is_file: bool) -> bool:
        """Count a member; False when there have been enough."""
        self.members += 1
        if is_file:
            self.total += size
            if len(self.first) < _KEPT:
                self.first.append((printable(name), size))
        self.complete = self.members < MAX_MEMBERS
        return self.complete


def source_archive() -> tuple[bytes, dict[str, bytes]]:
    """Return a tar archive of this package's sources, and its files by name."""
    files = dict(_sources())
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return packed.getvalue(), files


def list_archive(disk: IO[bytes], kind: str) -> Listing:
    """List an archive that starts at byte 0 of a disk.

    Args:
        disk: the disk as a file.
        kind: what `disk_content` recognised there.

    Raises:
        I2OError: the disk cannot be read.
    """
    listing = Listing("zip" if kind == "zip" else "tar")
    watched = cast(IO[bytes], _Watched(disk))
    try:
        if listing.kind == "zip":
            _list_zip(watched, listing)
        else:
            _list_tar(watched, listing)
    except _DiskFailed as failed:
        raise failed.error from None
    except _DAMAGED as error:
        listing.complete = False
        listing.problem = printable(str(error)) or type(error).__name__
    return listing


def read_member(disk: IO[bytes], name: str) -> bytes:
    """Read one file out of a tar archive at byte 0 of a disk; empty if it is not in it."""
    disk.seek(0)
    with tarfile.open(fileobj=disk, mode="r:") as archive:
        member = archive.extractfile(name)
        return b"" if member is None else member.read()


class _DiskFailed(Exception):
    """Carries a disk's error past tarfile and zipfile, which take an OSError for a bad archive."""

    def __init__(self, error: I2OError) -> None:
        super().__init__(str(error))
        self.error = error


class _Watched:
    """The disk as the archive modules see it."""

    def __init__(self, disk: IO[bytes]) -> None:
        self._disk = disk
        self.seek, self.tell, self.seekable = disk.seek, disk.tell, disk.seekable

    def read(self, size: int = -1) -> bytes:
        try:
            return self._disk.read(size)
        except I2OError as error:
            raise _DiskFailed(error) from None


def _list_tar(disk: IO[bytes], listing: Listing) -> None:
    disk.seek(0)
    with tarfile.open(fileobj=disk, mode="r:*") as archive:
        for member in archive:
            if not listing.add(member.name, member.size, is_file=member.isfile()):
                break


def _list_zip(disk: IO[bytes], listing: Listing) -> None:
    with zipfile.ZipFile(disk) as archive:
        for entry in archive.infolist():
            if not listing.add(entry.filename, entry.file_size, is_file=not entry.is_dir()):
                break


def _sources() -> Iterator[tuple[str, bytes]]:
    for package in _PACKAGES:
        spec = find_spec(package)
        for folder in (spec.submodule_search_locations or ())[:1] if spec is not None else ():
            for path in sorted(Path(folder).glob("*.py")):
                yield f"{package.replace('.', '/')}/{path.name}", path.read_bytes()
