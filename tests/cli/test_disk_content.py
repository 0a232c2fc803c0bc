# SPDX-License-Identifier: Apache-2.0
"""What `demo` recognises on a disk, and that no disk can lead it astray."""

from __future__ import annotations

import random
import shutil
import struct
import subprocess
import uuid
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from i2o.tools.disk_content import SECTOR, Content, recognise, survey

ID = uuid.UUID("12345678-9abc-def0-1234-56789abcdef0")
TYPE_LINUX = uuid.UUID("0fc63daf-8483-4772-8e79-3d69d8477de4")


def disk(size: int, *parts: tuple[int, bytes]) -> bytes:
    image = bytearray(size)
    for offset, data in parts:
        image[offset : offset + len(data)] = data
    return bytes(image)


def look(image: bytes) -> list[Content]:
    def read(offset: int, length: int) -> bytes:
        assert 0 <= offset <= offset + length <= len(image)
        return image[offset : offset + length]

    return survey(read, len(image))


def ext(compatible: int = 0, incompatible: int = 0, read_only: int = 0) -> bytes:
    block = bytearray(1024)
    struct.pack_into("<I", block, 4, 64)
    struct.pack_into("<H", block, 0x38, 0xEF53)
    struct.pack_into("<III", block, 0x5C, compatible, incompatible, read_only)
    block[0x68:0x78] = ID.bytes
    block[0x78:0x7D] = b"label"
    return bytes(block)


def fat(name: bytes, at: int) -> bytes:
    sector = bytearray(512)
    struct.pack_into("<H6xH", sector, 11, 512, 100)
    struct.pack_into("<I", sector, at - 15, 0xABCD1234)
    sector[at - 11 : at] = b"MY DISK    "
    sector[at : at + 8] = name
    sector[510:] = b"\x55\xaa"
    return bytes(sector)


def exfat() -> bytes:
    sector = bytearray(512)
    sector[3:11] = b"EXFAT   "
    struct.pack_into("<Q", sector, 72, 128)
    struct.pack_into("<I4xB", sector, 100, 0x11112222, 9)
    sector[510:] = b"\x55\xaa"
    return bytes(sector)


def ntfs() -> bytes:
    sector = bytearray(512)
    sector[3:11] = b"NTFS    "
    struct.pack_into("<H", sector, 11, 512)
    struct.pack_into("<Q", sector, 40, 99)
    struct.pack_into("<Q", sector, 72, 0xABC)
    sector[510:] = b"\x55\xaa"
    return bytes(sector)


def lvm() -> bytes:
    label = b"LABELONE" + bytes(12) + struct.pack("<I", 32) + b"LVM2 001"
    return label + b"abcdefghijklmnopqrstuvwxyz012345" + struct.pack("<Q", 4096)


SIZE = 200 << 10
KNOWN = [
    ("ext2", [(1024, ext())], "label", str(ID), 64 << 10),
    ("ext3", [(1024, ext(4))], "label", str(ID), 64 << 10),
    ("ext4", [(1024, ext(4, 0x40))], "label", str(ID), 64 << 10),
    ("ext4", [(1024, ext(4, 0xC0))], "label", str(ID), 64 << 10),
    ("ext4", [(1024, ext(4, 2, 0x400))], "label", str(ID), 64 << 10),
    ("ext journal", [(1024, ext(0, 8))], "label", str(ID), 64 << 10),
    ("FAT12", [(0, fat(b"FAT12   ", 54))], "MY DISK", "ABCD-1234", 51200),
    ("FAT16", [(0, fat(b"FAT16   ", 54))], "MY DISK", "ABCD-1234", 51200),
    ("FAT32", [(0, fat(b"FAT32   ", 82))], "MY DISK", "ABCD-1234", 51200),
    ("exFAT", [(0, exfat())], "", "1111-2222", 65536),
    ("NTFS", [(0, ntfs())], "", "0000000000000ABC", 51200),
    ("xfs", [(0, b"XFSB" + struct.pack(">IQ", 4096, 16)), (32, ID.bytes), (108, b"big")],
     "big", str(ID), 65536),
    ("btrfs", [(65600, b"_BHRfS_M"), (65536 + 32, ID.bytes), (65536 + 0x70, struct.pack("<Q", 999)),
               (65536 + 0x12B, b"tree")], "tree", str(ID), 999),
    ("ISO 9660", [(32769, b"CD001"), (32808, b"MY CD".ljust(32)), (32848, struct.pack("<I", 50)),
                  (32896, struct.pack("<H", 2048))], "MY CD", "", 102400),
    ("UDF", [(32768 + 2049, b"NSR02")], "", "", SIZE),
    ("UDF", [(32768 + 4097, b"NSR03")], "", "", SIZE),
    ("squashfs", [(0, b"hsqs"), (28, struct.pack("<HH", 4, 0)), (40, struct.pack("<Q", 777))],
     "", "", 777),
    ("swap", [(4086, b"SWAPSPACE2"), (1028, struct.pack("<I", 9)), (1036, ID.bytes),
              (1052, b"paging")], "paging", str(ID), 40960),
    ("swap", [(65526, b"SWAPSPACE2"), (1028, struct.pack("<I", 0))], "", "", 65536),
    ("LVM2", [(512, lvm())], "", "abcdef-ghij-klmn-opqr-stuv-wxyz-012345", 4096),
    ("LUKS", [(0, b"LUKS\xba\xbe\x00\x02"), (24, b"vault"), (168, str(ID).encode())],
     "vault", str(ID), SIZE),
    ("LUKS", [(0, b"LUKS\xba\xbe\x00\x01"), (168, str(ID).encode())], "", str(ID), SIZE),
    ("Linux RAID member", [(4096, b"\xfc\x4e\x2b\xa9"), (4112, ID.bytes), (4128, b"host:0")],
     "host:0", str(ID), SIZE),
    ("tar", [(0, b"dir/file"), (257, b"ustar")], "", "", None),
    ("zip", [(0, b"PK\x03\x04")], "", "", None),
    ("gzip", [(0, b"\x1f\x8b\x08")], "", "", None),
    ("xz", [(0, b"\xfd7zXZ\0")], "", "", None),
    ("zstd", [(0, b"\x28\xb5\x2f\xfd")], "", "", None),
    ("bzip2", [(0, b"BZh91AY&SY")], "", "", None),
    ("cpio", [(0, b"070701")], "", "", None),
    ("qcow2", [(0, b"QFI\xfb")], "", "", None),
    ("f2fs", [(1024, b"\x10\x20\xf5\xf2")], "", "", SIZE),
    ("UFS2", [(66908, b"\x19\x01\x54\x19")], "", "", SIZE),
]  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "parts", "label", "identifier", "size"), KNOWN, ids=[known[0] for known in KNOWN]
)
def test_known_by_its_signature(kind, parts, label, identifier, size):
    (found,) = look(disk(SIZE, *parts))
    assert (found.kind, found.label, found.uuid, found.size) == (kind, label, identifier, size)
    assert found.offset == 0


@pytest.mark.parametrize("name", ["FAT", "ext", "swap"])
def test_a_file_system_made_by_its_own_tool(name, tmp_path):
    program = {"FAT": "mkfs.vfat", "ext": "mke2fs", "swap": "mkswap"}[name]
    found = shutil.which(program) or shutil.which(program, path="/usr/sbin:/sbin")
    if found is None:
        pytest.skip(f"{program} is not installed")
    options = {"FAT": ["-n", "LABEL"], "ext": ["-q", "-F", "-t", "ext4", "-L", "LABEL"],
               "swap": ["-q", "-L", "LABEL"]}[name]  # fmt: skip
    path = tmp_path / "disk.img"
    path.write_bytes(bytes(16 << 20))
    path.chmod(0o600)
    subprocess.run([found, *options, path], check=True, capture_output=True)
    (content,) = look(path.read_bytes())
    assert content.kind.startswith(name)
    assert content.label == "LABEL"
    assert content.uuid


def test_no_name_is_no_label():
    sector = fat(b"FAT16   ", 54).replace(b"MY DISK    ", b"NO NAME    ")
    assert look(disk(SIZE, (0, sector)))[0].label == ""


def test_a_file_system_larger_than_its_disk_says_so():
    (found,) = look(disk(16 << 10, (1024, ext())))
    assert "claims 65536 bytes, more than there are" in found.detail


def test_blank_and_unknown():
    assert look(bytes(4096))[0].kind == "blank"
    assert look(b"\x01" * 4096)[0].kind == "unknown"
    assert look(b"")[0].kind == "blank"


def mbr(*entries: tuple[int, int, int], signature: int = 0) -> bytes:
    sector = bytearray(512)
    struct.pack_into("<I", sector, 440, signature)
    for index, (kind, start, length) in enumerate(entries):
        struct.pack_into("<B3xB3xII", sector, 446 + 16 * index, 0, kind, start, length)
    sector[510:] = b"\x55\xaa"
    return bytes(sector)


def test_partitions_and_what_is_in_them():
    image = disk(
        SIZE,
        (0, mbr((0x83, 8, 200), (0, 0, 0), (0x82, 300, 9999), signature=0xCAFEBABE)),
        (8 * SECTOR + 1024, ext(4, 0x40)),
    )
    table, first, inside, beyond = look(image)
    assert (table.kind, table.uuid) == ("MBR", "cafebabe")
    assert (first.kind, first.offset, first.size, first.detail) == (
        "partition 1", 8 * SECTOR, 200 * SECTOR, "Linux",
    )  # fmt: skip
    assert (inside.kind, inside.depth, inside.offset) == ("ext4", 1, 8 * SECTOR)
    assert beyond.detail == "Linux swap, reaches beyond the disk"


def test_logical_partitions():
    image = disk(
        SIZE,
        (0, mbr((0x05, 10, 300))),
        (10 * SECTOR, mbr((0x83, 1, 50), (0x05, 60, 50))),
        (70 * SECTOR, mbr((0x0B, 1, 40), (0x05, 120, 50))),
        (130 * SECTOR, mbr((0x82, 1, 30))),
        (71 * SECTOR, fat(b"FAT32   ", 82)),
    )
    kinds = [(found.kind, found.offset // SECTOR) for found in look(image)]
    assert kinds == [
        ("MBR", 0), ("partition 1", 10), ("partition 5", 11), ("partition 6", 71), ("FAT32", 71),
        ("partition 7", 131),
    ]  # fmt: skip


def test_logical_partitions_in_a_circle_end():
    image = disk(SIZE, (0, mbr((0x05, 10, 300))), (10 * SECTOR, mbr((0x83, 1, 50), (0x05, 0, 50))))
    assert [found.kind for found in look(image)] == ["MBR", "partition 1", "partition 5"]


def test_an_extended_partition_without_a_table_is_empty():
    assert len(look(disk(SIZE, (0, mbr((0x05, 10, 300)))))) == 2


def test_partition_kinds_that_are_not_known():
    assert look(disk(SIZE, (0, mbr((0x42, 1, 5)))))[1].detail == "type 0x42"


def test_a_partition_behind_the_disk_is_not_looked_into():
    assert len(look(disk(SIZE, (0, mbr((0x83, 1 << 30, 5)))))) == 2


@pytest.mark.parametrize(
    "sector",
    [
        mbr(),
        mbr((0x83, 1, 5))[:510] + b"\0\0",
        mbr((0x83, 1, 5))[:446] + b"\x7f" + mbr((0x83, 1, 5))[447:],
    ],
)
def test_what_is_no_partition_table(sector):
    assert look(disk(SIZE, (0, sector)))[0].kind in ("blank", "unknown")


def gpt(*, entry_size: int = 128, checksum_change: int = 0, sector: int = SECTOR, count: int = 4):
    entry = TYPE_LINUX.bytes_le + ID.bytes_le + struct.pack("<QQQ", 40, 139, 0)
    entry += "root\x1b".encode("utf-16-le")
    backwards = uuid.uuid4().bytes_le + ID.bytes_le + struct.pack("<QQQ", 9, 8, 0)
    other = uuid.UUID(int=5).bytes_le + ID.bytes_le + struct.pack("<QQQ", 200, 200, 0)
    header = bytearray(92)
    header[:8] = b"EFI PART"
    struct.pack_into("<I", header, 12, 92)
    header[56:72] = ID.bytes_le
    struct.pack_into("<QII", header, 72, 2, count, entry_size)
    struct.pack_into("<I", header, 16, zlib.crc32(bytes(header)) ^ checksum_change)
    return [
        (0, mbr((0xEE, 1, 399))),
        (sector, bytes(header)),
        (2 * sector, entry.ljust(128, b"\0")),
        (2 * sector + 128, backwards),
        (2 * sector + 256, other),
    ]


def test_gpt():
    table, root, other = look(disk(SIZE, *gpt()))
    assert (table.kind, table.uuid, table.detail) == ("GPT", str(ID), "")
    assert (root.label, root.uuid, root.detail) == ("root?", str(ID), "Linux file system")
    assert (root.offset, root.size) == (40 * SECTOR, 100 * SECTOR)
    assert (other.kind, other.detail) == ("partition 3", f"type {uuid.UUID(int=5)}")


def test_gpt_with_sectors_of_4096():
    found = look(disk(1 << 20, *gpt(sector=4096)))
    assert found[1].offset == 40 * 4096


def test_a_damaged_gpt_says_so():
    assert look(disk(SIZE, *gpt(checksum_change=1)))[0].detail == "damaged header"


@pytest.mark.parametrize("entry_size", [0, 127, 5000])
def test_a_gpt_with_impossible_entries_has_none(entry_size):
    assert len(look(disk(SIZE, *gpt(entry_size=entry_size)))) == 1


def test_a_gpt_that_ends_with_the_disk():
    assert [found.kind for found in look(disk(2 * SECTOR + 300, *gpt()[:3]))[:1]] == ["GPT"]


def test_a_protective_entry_without_a_gpt_is_an_mbr():
    assert look(disk(SIZE, gpt()[0]))[0].kind == "MBR"


def test_a_hybrid_image_shows_both():
    parts = [(32769, b"CD001"), (0, mbr((0x83, 1, 5)))]
    assert [found.kind for found in look(disk(SIZE, *parts))] == ["ISO 9660", "MBR", "partition 1"]


def test_labels_cannot_steer_a_terminal():
    block = ext().replace(b"label", b"\x1b[2J\x07")
    assert look(disk(SIZE, (1024, block)))[0].label == "?[2J?"


def test_recognise_looks_at_its_own_part_only():
    image = disk(SIZE, (4096 + 1024, ext()))
    read = lambda offset, length: image[offset : offset + length]  # noqa: E731
    assert recognise(read, 4096, 2048).kind == "ext2"
    assert recognise(read, 4096, 1024) is None


@given(st.integers(0, len(KNOWN) + 2), st.integers(0, 1 << 32), st.integers(0, 300))
def test_damaged_disks_never_raise(which, seed, length):
    chain = [(0, mbr((5, 1, 9), (0x0F, 2, 9))), (512, mbr((5, 1, 1), (5, 0, 1)))]
    parts = [*(known[1] for known in KNOWN), gpt(), gpt(entry_size=4096), chain][which]
    image = bytearray(disk(SIZE if length > 150 else length * 16, *parts))
    noise = random.Random(seed)
    for offset, data in parts:
        for _ in range(4):
            place = offset + noise.randrange(len(data) + 64)
            if place < len(image):
                image[place] = noise.randrange(256)
    look(bytes(image))
