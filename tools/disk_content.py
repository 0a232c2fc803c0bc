# SPDX-License-Identifier: Apache-2.0
"""What is on a disk: partition tables, file systems and archives, recognised by their signatures.

Nothing is mounted or unpacked, and nothing on the disk is trusted: every offset is bounded by the
disk or partition it is on, and tables that point in circles end.
"""

from __future__ import annotations

import struct
import uuid
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Final

from i2o.tools.output import printable

ReadAt = Callable[[int, int], bytes]
"""Called with (offset, length), always inside the disk; returns that many bytes."""

SECTOR: Final = 512
MAX_PARTITIONS: Final = 128
_BLANK_PROBE: Final = 1 << 16
_EXTENDED: Final = (0x05, 0x0F, 0x85)
_PROTECTIVE: Final = 0xEE

_MBR_TYPES: Final = {
    0x01: "FAT12", 0x04: "FAT16", 0x05: "extended", 0x06: "FAT16", 0x07: "NTFS or exFAT",
    0x0B: "FAT32", 0x0C: "FAT32", 0x0E: "FAT16", 0x0F: "extended", 0x82: "Linux swap",
    0x83: "Linux", 0x85: "extended", 0x8E: "Linux LVM", 0xA5: "FreeBSD", 0xA6: "OpenBSD",
    0xA9: "NetBSD", 0xAF: "HFS", 0xEE: "GPT protective", 0xEF: "EFI system", 0xFD: "Linux RAID",
}  # fmt: skip

_GPT_TYPES: Final = {
    "c12a7328-f81f-11d2-ba4b-00a0c93ec93b": "EFI system",
    "0fc63daf-8483-4772-8e79-3d69d8477de4": "Linux file system",
    "0657fd6d-a4ab-43c4-84e5-0933c84b4f4f": "Linux swap",
    "e6d6d379-f507-44c2-a23c-238f2a3df928": "Linux LVM",
    "a19d880f-05fc-4d3b-a006-743f0f84911e": "Linux RAID",
    "4f68bce3-e8cd-4db1-96e7-fbcaf984b709": "Linux root (x86-64)",
    "933ac7e1-2eb4-4f13-b844-0e14e2aef915": "Linux home",
    "21686148-6449-6e6f-744e-656564454649": "BIOS boot",
    "ebd0a0a2-b9e5-4433-87c0-68b6b72699c7": "Microsoft basic data",
    "e3c9e316-0b5c-4db8-817d-f92df00215ae": "Microsoft reserved",
    "48465300-0000-11aa-aa11-00306543ecac": "Apple HFS+",
    "7c3457ef-0000-11aa-aa11-00306543ecac": "Apple APFS",
}


@dataclass(frozen=True, slots=True)
class Content:
    """One thing found on a disk.

    Attributes:
        kind: what it is, for example `ext4` or `GPT`.
        category: `table`, `partition`, `file system`, `volume`, `archive`, `compressed`,
            `image` or `blank`.
        offset: first byte on the disk.
        size: bytes, as it says itself or as its place has; None if not known.
        label: its name, empty if it has none.
        uuid: its identifier, empty if it has none.
        detail: more, in words.
        depth: 1 for what is inside a partition, else 0.
    """

    kind: str
    category: str
    offset: int
    size: int | None = None
    label: str = ""
    uuid: str = ""
    detail: str = ""
    depth: int = 0


class _Window:
    """A part of the disk. Reads beyond its end come back short."""

    def __init__(self, read_at: ReadAt, offset: int, size: int) -> None:
        self._read_at, self.offset, self.size = read_at, offset, size
        self.head = self.read(0, 4096)

    def read(self, offset: int, length: int) -> bytes:
        """Return up to `length` bytes."""
        length = max(0, min(length, self.size - offset))
        return self._read_at(self.offset + offset, length) if length else b""

    def has(self, offset: int, magic: bytes) -> bool:
        """Whether some bytes stand at an offset."""
        end = offset + len(magic)
        if end <= len(self.head):
            return self.head[offset:end] == magic
        return self.read(offset, len(magic)) == magic

    def fields(self, layout: str, offset: int) -> tuple[int, ...]:
        """Unpack numbers; zeros where the window ends."""
        size = struct.calcsize(layout)
        return struct.unpack(layout, self.read(offset, size).ljust(size, b"\0"))

    def text(self, offset: int, length: int, encoding: str = "utf-8") -> str:
        """Return text up to its first NUL, without padding."""
        raw = self.read(offset, length)
        decoded = raw.decode(encoding, "replace").split("\0", 1)[0]
        return printable(decoded.strip())

    def uuid(self, offset: int) -> str:
        """Return 16 bytes as a UUID; empty if they are zero or not there."""
        raw = self.read(offset, 16)
        return str(uuid.UUID(bytes=raw)) if len(raw) == 16 and any(raw) else ""


def survey(read_at: ReadAt, size: int) -> list[Content]:
    """Find what is on a disk.

    Args:
        read_at: reads the disk.
        size: its bytes.

    Returns:
        What was found, in the order of the disk; a `blank` or `unknown` entry if nothing was.
    """
    disk = _Window(read_at, 0, size)
    found = []
    whole = recognise(read_at, 0, size)
    if whole is not None:
        found.append(whole)
    if whole is None or whole.kind == "ISO 9660":  # a hybrid image has both
        for part in _partitions(disk):
            found.append(part)
            inside = _inside(read_at, part, size)
            if inside is not None:
                found.append(inside)
    if not found:
        probe = disk.read(0, _BLANK_PROBE)
        blank = not any(probe)
        found.append(
            Content(
                "blank" if blank else "unknown",
                "blank" if blank else "unknown",
                0,
                size,
                detail=f"the first {len(probe)} bytes are zero" if blank else "no known signature",
            )
        )
    return found


def recognise(read_at: ReadAt, offset: int, size: int) -> Content | None:
    """Recognise what starts at an offset and has up to `size` bytes, or return None."""
    window = _Window(read_at, offset, size)
    for recogniser in _RECOGNISERS:
        content = recogniser(window)
        if content is not None:
            if content.size is None and content.category in ("file system", "volume"):
                return replace(content, size=size)  # it does not say: all there is
            return content
    return None


def _inside(read_at: ReadAt, part: Content, disk_size: int) -> Content | None:
    if part.category != "partition" or part.size is None or part.offset >= disk_size:
        return None
    inside = recognise(read_at, part.offset, min(part.size, disk_size - part.offset))
    return None if inside is None else replace(inside, depth=1)


# --- partition tables --------------------------------------------------------------------------


def _partitions(disk: _Window) -> Iterator[Content]:
    """Yield a partition table and its partitions, if there is one."""
    entries = _mbr_entries(disk, 0)
    if entries is None:
        return
    if any(kind == _PROTECTIVE for kind, _, _ in entries):
        gpt = list(_gpt(disk))
        if gpt:
            yield from gpt
            return
    (signature,) = disk.fields("<I", 440)
    yield Content("MBR", "table", 0, disk.size, uuid=f"{signature:08x}" if signature else "")
    number = 0
    logical: list[Content] = []
    for number, (kind, start, length) in enumerate(entries, 1):
        if not kind or not length:
            continue
        yield _mbr_partition(number, kind, start, length, disk)
        if kind in _EXTENDED:
            logical += _logical(disk, start, 4 + len(logical))
    yield from logical


def _mbr_entries(disk: _Window, offset: int) -> list[tuple[int, int, int]] | None:
    """Return (type, first sector, sectors) of the four entries; None if it is no table."""
    sector = disk.read(offset, SECTOR)
    if len(sector) < SECTOR or sector[510:] != b"\x55\xaa":
        return None
    entries = []
    for at in range(446, 510, 16):
        if sector[at] not in (0, 0x80):
            return None
        start, length = struct.unpack_from("<II", sector, at + 8)
        entries.append((sector[at + 4], start, length))
    return entries if any(kind and length for kind, _, length in entries) else None


def _mbr_partition(number: int, kind: int, start: int, length: int, disk: _Window) -> Content:
    name = _MBR_TYPES.get(kind, f"type {kind:#04x}")
    offset, size = start * SECTOR, length * SECTOR
    return Content(
        f"partition {number}",
        "extended" if kind in _EXTENDED else "partition",
        offset,
        size,
        detail=name + _beyond(offset, size, disk),
    )


def _beyond(offset: int, size: int, disk: _Window) -> str:
    return ", reaches beyond the disk" if offset + size > disk.size else ""


def _logical(disk: _Window, first: int, number: int) -> list[Content]:
    """Return the partitions of an extended one: a chain of tables."""
    found: list[Content] = []
    seen: set[int] = set()
    table = first
    while table not in seen and len(found) < MAX_PARTITIONS:
        seen.add(table)
        entries = _mbr_entries(disk, table * SECTOR)
        if entries is None:
            break
        (kind, start, length), (next_kind, next_start, _) = entries[:2]
        if kind and length:
            number += 1
            found.append(_mbr_partition(number, kind, table + start, length, disk))
        if next_kind not in _EXTENDED:
            break
        table = first + next_start
    return found


def _gpt(disk: _Window) -> Iterator[Content]:
    """Yield a GPT and its partitions; nothing if its header is not there or damaged."""
    for sector in (SECTOR, 4096):
        header = disk.read(sector, 92)
        if len(header) == 92 and header[:8] == b"EFI PART":
            break
    else:
        return
    length, checksum = struct.unpack_from("<II", header, 12)
    damaged = length != 92 or zlib.crc32(header[:16] + bytes(4) + header[20:]) != checksum
    table, count, entry_size = struct.unpack_from("<QII", header, 72)
    guid = str(uuid.UUID(bytes_le=header[56:72]))
    detail = "damaged header" if damaged else ""
    yield Content("GPT", "table", 0, disk.size, uuid=guid, detail=detail)
    if not 128 <= entry_size <= 4096:
        return
    for number in range(min(count, MAX_PARTITIONS)):
        entry = disk.read(table * sector + number * entry_size, 128)
        if len(entry) < 128:
            return
        first, last = struct.unpack_from("<QQ", entry, 32)
        if not any(entry[:16]) or last < first:
            continue
        offset, size = first * sector, (last - first + 1) * sector
        kind = str(uuid.UUID(bytes_le=entry[:16]))
        yield Content(
            f"partition {number + 1}",
            "partition",
            offset,
            size,
            label=printable(entry[56:128].decode("utf-16-le", "replace").split("\0", 1)[0]),
            uuid=str(uuid.UUID(bytes_le=entry[16:32])),
            detail=_GPT_TYPES.get(kind, f"type {kind}") + _beyond(offset, size, disk),
        )


# --- file systems ------------------------------------------------------------------------------


def _ext(window: _Window) -> Content | None:
    if not window.has(1024 + 0x38, b"\x53\xef"):
        return None
    blocks, log_size = window.fields("<I16xI", 1024 + 4)
    compatible, incompatible, read_only = window.fields("<III", 1024 + 0x5C)
    (blocks_high,) = window.fields("<I", 1024 + 0x150)
    if incompatible & 0x80:
        blocks |= blocks_high << 32
    if incompatible & 0x08:
        kind = "ext journal"
    elif incompatible & 0x3C0 or read_only & 0x478:
        kind = "ext4"
    else:
        kind = "ext3" if compatible & 0x04 else "ext2"
    size = blocks << 10 + min(log_size, 6)
    block = f"blocks of {1 << 10 + min(log_size, 6)}"
    return _file_system(
        window, kind, size, window.text(1024 + 0x78, 16), window.uuid(1024 + 0x68), block
    )


def _fat(window: _Window) -> Content | None:
    if not window.has(510, b"\x55\xaa"):
        return None
    if window.has(3, b"EXFAT   "):
        (sectors,) = window.fields("<Q", 72)
        (serial, shift) = window.fields("<I4xB", 100)
        return _file_system(window, "exFAT", sectors << min(shift, 12), "", _serial(serial))
    if window.has(3, b"NTFS    "):
        (bytes_per_sector,) = window.fields("<H", 11)
        (sectors,) = window.fields("<Q", 40)
        (serial,) = window.fields("<Q", 72)
        return _file_system(window, "NTFS", (sectors + 1) * bytes_per_sector, "", f"{serial:016X}")
    for at, names in ((54, (b"FAT12   ", b"FAT16   ", b"FAT     ")), (82, (b"FAT32   ",))):
        for name in names:
            if window.has(at, name):
                bytes_per_sector, small = window.fields("<H6xH", 11)
                (large,) = window.fields("<I", 32)
                (serial,) = window.fields("<I", at - 15)
                label = window.text(at - 11, 11, "cp437")
                return _file_system(
                    window,
                    name.decode().strip(),
                    (small or large) * bytes_per_sector,
                    "" if label == "NO NAME" else label,
                    _serial(serial),
                )
    return None


def _xfs(window: _Window) -> Content | None:
    if not window.has(0, b"XFSB"):
        return None
    block_size, blocks = window.fields(">IQ", 4)
    return _file_system(window, "xfs", block_size * blocks, window.text(108, 12), window.uuid(32))


def _btrfs(window: _Window) -> Content | None:
    base = 65536
    if not window.has(base + 64, b"_BHRfS_M"):
        return None
    (size,) = window.fields("<Q", base + 0x70)
    return _file_system(
        window, "btrfs", size, window.text(base + 0x12B, 256), window.uuid(base + 32)
    )


def _iso9660(window: _Window) -> Content | None:
    base = 32768
    if window.has(base + 1, b"CD001"):
        (blocks,) = window.fields("<I", base + 80)
        (block_size,) = window.fields("<H", base + 128)
        label = window.text(base + 40, 32)
        return _file_system(window, "ISO 9660", blocks * block_size, label, "")
    if window.has(base + 2049, b"NSR0") or window.has(base + 4097, b"NSR0"):
        return Content("UDF", "file system", window.offset)
    return None


def _squashfs(window: _Window) -> Content | None:
    if not window.has(0, b"hsqs"):
        return None
    major, minor = window.fields("<HH", 28)
    (size,) = window.fields("<Q", 40)
    return _file_system(window, "squashfs", size, "", "", f"version {major}.{minor}")


def _swap(window: _Window) -> Content | None:
    for page in (4096, 8192, 16384, 65536):
        if window.has(page - 10, b"SWAPSPACE2"):
            (last_page,) = window.fields("<I", 1028)
            return Content(
                "swap",
                "volume",
                window.offset,
                (last_page + 1) * page,
                window.text(1052, 16),
                window.uuid(1036),
            )
    return None


def _lvm(window: _Window) -> Content | None:
    for sector in range(4):
        base = sector * SECTOR
        if window.has(base, b"LABELONE") and window.has(base + 24, b"LVM2 001"):
            (header,) = window.fields("<I", base + 20)
            raw = window.text(base + header, 32, "ascii")
            pieces = (raw[:6], *(raw[at : at + 4] for at in range(6, 26, 4)), raw[26:])
            (size,) = window.fields("<Q", base + header + 32)
            return Content("LVM2", "volume", window.offset, size, uuid="-".join(pieces))
    return None


def _luks(window: _Window) -> Content | None:
    if not window.has(0, b"LUKS\xba\xbe"):
        return None
    (version,) = window.fields(">H", 6)
    label = window.text(24, 48) if version == 2 else ""
    return Content(
        "LUKS", "volume", window.offset, label=label, uuid=window.text(168, 40, "ascii"),
        detail=f"encrypted, version {version}",
    )  # fmt: skip


def _md_raid(window: _Window) -> Content | None:
    for base in (0, 4096):
        if window.has(base, b"\xfc\x4e\x2b\xa9"):
            return Content(
                "Linux RAID member",
                "volume",
                window.offset,
                label=window.text(base + 32, 32),
                uuid=window.uuid(base + 16),
            )
    return None


def _tar(window: _Window) -> Content | None:
    if not window.has(257, b"ustar"):
        return None
    first = window.text(0, 100)
    return Content("tar", "archive", window.offset, detail=f"starts with {first}")


def _signature(window: _Window) -> Content | None:
    for at, magic, kind, category in _SIGNATURES:
        if window.has(at, magic):
            return Content(kind, category, window.offset)
    return None


_SIGNATURES: Final = (
    (0, b"PK\x03\x04", "zip", "archive"),
    (0, b"PK\x05\x06", "zip", "archive"),
    (0, b"7z\xbc\xaf\x27\x1c", "7z", "archive"),
    (0, b"Rar!\x1a\x07", "rar", "archive"),
    (0, b"070701", "cpio", "archive"),
    (0, b"070702", "cpio", "archive"),
    (0, b"070707", "cpio", "archive"),
    (0, b"!<arch>\n", "ar", "archive"),
    (0, b"\x1f\x8b\x08", "gzip", "compressed"),
    (4, b"1AY&SY", "bzip2", "compressed"),
    (0, b"\xfd7zXZ\x00", "xz", "compressed"),
    (0, b"\x28\xb5\x2f\xfd", "zstd", "compressed"),
    (0, b"\x04\x22\x4d\x18", "lz4", "compressed"),
    (0, b"QFI\xfb", "qcow2", "image"),
    (0, b"KDMV", "VMDK", "image"),
    (0, b"vhdxfile", "VHDX", "image"),
    (0, b"conectix", "VHD", "image"),
    (64, b"\x7f\x10\xda\xbe", "VDI", "image"),
    (0, b"-rom1fs-", "romfs", "file system"),
    (0, b"\x45\x3d\xcd\x28", "cramfs", "file system"),
    (1024, b"\xe2\xe1\xf5\xe0", "erofs", "file system"),
    (1024, b"\x10\x20\xf5\xf2", "f2fs", "file system"),
    (1024, b"H+\x00\x04", "HFS+", "file system"),
    (1024, b"HX\x00\x05", "HFSX", "file system"),
    (32, b"NXSB", "APFS", "file system"),
    (32768, b"JFS1", "JFS", "file system"),
    (65588, b"ReIsEr", "ReiserFS", "file system"),
    (9564, b"\x19\x01\x54\x19", "UFS1", "file system"),
    (66908, b"\x19\x01\x54\x19", "UFS2", "file system"),
)  # fmt: skip

_RECOGNISERS: Final = (
    _luks,
    _lvm,
    _md_raid,
    _xfs,
    _squashfs,
    _iso9660,
    _tar,
    _fat,
    _swap,
    _btrfs,
    _ext,
    _signature,
)


def _file_system(
    window: _Window, kind: str, size: int, label: str, identifier: str, detail: str = ""
) -> Content:
    if size > window.size:
        detail = ", ".join(filter(None, (detail, f"claims {size} bytes, more than there are")))
    return Content(kind, "file system", window.offset, size or None, label, identifier, detail)


def _serial(number: int) -> str:
    return f"{number >> 16:04X}-{number & 0xFFFF:04X}"
