# SPDX-License-Identifier: Apache-2.0
"""Conformance of ports: block devices, at any offset and size, with several requests in flight."""

from __future__ import annotations

import hashlib
import io
import os
import random
import tarfile
from pathlib import Path

import pytest

from i2o.block import BlockDevice
from i2o.errors import InvalidArgument, RequestFailed
from i2o.iop import Iop
from i2o.requester import Pending
from i2o.testing.port_backend import PortBackend

_PLACES = (
    (0, 0), (0, 1), (0, 512), (1, 510), (1, 511), (1, 512), (511, 1), (511, 2), (511, 514),
    (512, 512), (100, 5000), (262144 - 512, 1024), (1024, 3 * 65536), (1025, 3 * 65536),
)  # fmt: skip
"""(offset, length): whole blocks, parts of one, parts at either end, several requests."""


class PortDisks(PortBackend):
    """What a program reads and writes is what is on the disk, whatever moves it."""

    @pytest.fixture
    def disk(self, iop: Iop) -> BlockDevice:
        """The disk, claimed."""
        return iop.block(self.disk_tid)

    def test_the_whole_disk_arrives(self, disk: BlockDevice, content: bytes) -> None:
        """Read in one go, its digest is that of the file."""
        assert (disk.size, disk.block_size) == (self.disk_size, 512)
        read = disk.read(0, disk.size)
        assert hashlib.sha256(read).digest() == hashlib.sha256(content).digest()

    def test_the_whole_disk_is_written(self, disk: BlockDevice, image: Path) -> None:
        """Written in one go and flushed, the file is what was written."""
        new = random.Random(2).randbytes(disk.size)
        assert disk.write(0, new) == disk.size
        disk.flush()
        assert hashlib.sha256(image.read_bytes()).digest() == hashlib.sha256(new).digest()

    def test_any_offset_and_size(self, disk: BlockDevice, image: Path, content: bytes) -> None:
        """Neighbouring bytes are left alone."""
        model = bytearray(content)
        ends = ((0, disk.size), (disk.size - 1, 1), (disk.size, 0), (3, disk.size - 7))
        for number, (offset, length) in enumerate((*_PLACES, *ends)):
            assert disk.read(offset, length) == model[offset : offset + length]
            new = random.Random(number).randbytes(length)
            assert disk.write(offset, new) == length
            model[offset : offset + length] = new
        disk.flush()
        assert image.read_bytes() == model

    def test_random_reads_and_writes_agree_with_a_model(
        self, disk: BlockDevice, content: bytes
    ) -> None:
        """In small requests, so that each transfer has several."""
        disk.max_transfer = 4096
        chance, model = random.Random(3), bytearray(content)
        for _ in range(60):
            offset = chance.randrange(disk.size)
            length = min(chance.randrange(20_000), disk.size - offset)
            if chance.random() < 0.5:
                new = chance.randbytes(length)
                disk.write(offset, new)
                model[offset : offset + length] = new
            else:
                assert disk.read(offset, length) == model[offset : offset + length]
        assert disk.read(0, disk.size) == model

    def test_readinto_fills_the_callers_buffer(self, disk: BlockDevice, content: bytes) -> None:
        """That part of it, and nothing beside."""
        buffer = bytearray(b"\xff" * 1000)
        assert disk.readinto(10, memoryview(buffer)[100:900]) == 800
        assert buffer == b"\xff" * 100 + content[10:810] + b"\xff" * 100

    def test_large_transfers_have_several_requests_in_flight(
        self, disk: BlockDevice, iop: Iop, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """As many as the queue is deep, and no more."""
        disk.max_transfer = 16 << 10
        seen: list[int] = []
        start = iop.requester.start

        def counted(message: bytes) -> Pending:
            pending = start(message)
            seen.append(iop.requester.in_flight)
            return pending

        monkeypatch.setattr(iop.requester, "start", counted)
        disk.read(0, disk.size)
        assert len(seen) == disk.size // disk.max_transfer
        assert max(seen) == disk.queue_depth

    def test_ranges_outside_the_device(self, disk: BlockDevice) -> None:
        """They are refused before anything is sent."""
        for offset, length in ((-1, 1), (0, -1), (0, disk.size + 1), (disk.size, 1), (1 << 70, 1)):
            with pytest.raises(InvalidArgument):
                disk.read(offset, length)
        with pytest.raises(InvalidArgument):
            disk.write(disk.size - 1, b"ab")

    def test_progress_adds_up(self, disk: BlockDevice) -> None:
        """It only grows, and ends with the whole."""
        seen: list[tuple[int, int]] = []
        disk.max_transfer = 64 << 10
        disk.read(100, 1 << 19, progress=lambda done, total: seen.append((done, total)))
        assert seen[-1] == (1 << 19, 1 << 19)
        assert [done for done, _ in seen] == sorted(done for done, _ in seen)
        assert len(seen) >= 4

    def test_as_a_file(self, disk: BlockDevice, image: Path, content: bytes) -> None:
        """It seeks, reads, writes and ends as files do."""
        with disk.as_file() as file:
            assert file.read(10) == content[:10]
            assert file.seek(-20, os.SEEK_END) == disk.size - 20
            assert file.read(100) == content[-20:]
            assert file.read(1) == b""
        with disk.as_file(writable=True) as file:
            file.seek(1000)
            file.write(b"hello")
            file.seek(disk.size - 2)
            file.write(b"12")
            file.flush()
        assert image.read_bytes() == content[:1000] + b"hello" + content[1005:-2] + b"12"
        disk.status_check()

    def test_an_archive_straight_from_the_disk(self, disk: BlockDevice) -> None:
        """What reads and writes files reads and writes disks."""
        with disk.as_file(writable=True) as file, tarfile.open(fileobj=file, mode="w") as archive:
            for name in ("a", "b/c"):
                info = tarfile.TarInfo(name)
                info.size = 70_000
                archive.addfile(info, io.BytesIO(name.encode() * 70_000))
        with disk.as_file() as file, tarfile.open(fileobj=file) as archive:
            assert archive.getnames() == ["a", "b/c"]
            extracted = archive.extractfile("b/c")
            assert extracted is not None
            assert extracted.read() == (b"b/c" * 70_000)[:70_000]

    def test_claims(self, iop: Iop) -> None:
        """A disk has one user; closing gives it back, once."""
        disk = iop.block(self.disk_tid)
        with pytest.raises(RequestFailed, match="UtilClaim"):
            iop.block(self.disk_tid)
        disk.close()
        disk.close()
        with pytest.raises(InvalidArgument, match="closed"):
            disk.read(0, 1)
        with iop.block(self.disk_tid) as again:
            again.read(0, 1)

    def test_an_error_ends_the_transfer(
        self, disk: BlockDevice, iop: Iop, image: Path, content: bytes
    ) -> None:
        """The disk got shorter behind its back: that is told, and the rest can be read."""
        os.truncate(image, disk.size // 2)
        with pytest.raises(RequestFailed) as caught:
            disk.read(0, disk.size)
        assert caught.value.req_status
        assert iop.requester.in_flight == 0
        assert disk.read(0, 4096) == content[:4096]

    def test_what_was_written_is_there_after_a_reset(self, disk: BlockDevice, iop: Iop) -> None:
        """A disk opened before goes on when the IOP was brought up again."""
        disk.write(12_345, b"kept")
        iop.revive()
        assert disk.read(12_345, 4) == b"kept"

    def test_a_program_that_skips_close_loses_nothing(
        self, disk: BlockDevice, iop: Iop, image: Path
    ) -> None:
        """Closing the IOP is enough."""
        disk.write(0, b"kept")
        iop.close()
        assert image.read_bytes()[:4] == b"kept"
