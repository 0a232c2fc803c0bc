# SPDX-License-Identifier: Apache-2.0
"""A rescue on disks that are made up: what is read, in which order, and when it stops."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from i2o.errors import RequestFailed, RequestTimeout
from i2o.frames.block_storage import BsaDetailedStatus
from i2o.tools.rescue_map import Phase, RescueMap, Status
from i2o.tools.rescuing import MAX_SILENCE, Rescue

BLOCK = 512
BLOCKS = 100


class Disk:
    """A disk with bad blocks, which may say little about what it delivered."""

    max_transfer, queue_depth, block_size = 8 * BLOCK, 2, BLOCK

    def __init__(self, bad=(), *, tells_count=True, size=BLOCKS * BLOCK):
        self.content = random.Random(size).randbytes(size)
        self.bad, self.tells_count = set(bad), tells_count
        self.reads: list[tuple[int, int]] = []
        self.kept: list[memoryview] = []
        self.silent_reads = 0

    def readinto(self, offset, buffer):
        self.reads.append((offset // BLOCK, -(-len(buffer) // BLOCK)))
        if self.silent_reads:
            self.silent_reads -= 1
            self.kept.append(buffer)
            raise RequestTimeout("no reply")
        first, last = offset // BLOCK, (offset + len(buffer) - 1) // BLOCK
        flaw = min((block for block in self.bad if first <= block <= last), default=None)
        if flaw is None:
            buffer[:] = self.content[offset : offset + len(buffer)]
            for late in self.kept:
                late[:] = b"\xee" * len(late)
            return len(buffer)
        good = flaw * BLOCK - offset if self.tells_count else 0
        buffer[:good] = self.content[offset : offset + good]
        buffer[good:] = b"\xbd" * (len(buffer) - good)
        error = RequestFailed("bad", req_status=1, detail=BsaDetailedStatus.MEDIA_ERROR)
        error.delivered = good
        raise error


@pytest.fixture
def image(tmp_path: Path) -> Iterator[int]:
    descriptor = os.open(tmp_path / "image", os.O_RDWR | os.O_CREAT)
    yield descriptor
    os.close(descriptor)


def rescued(disk: Disk, image: int, retries: int = 0, found: RescueMap | None = None) -> RescueMap:
    """Rescue a disk and check every byte of image and map."""
    found = RescueMap(len(disk.content)) if found is None else found
    os.ftruncate(image, 0)
    os.ftruncate(image, len(disk.content))
    rescue = Rescue(disk, image, found, lambda count: None)
    rescue.run(retries)
    assert rescue.phase is Phase.FINISHED
    for block in range(len(disk.content) // BLOCK):
        part = disk.content[block * BLOCK : (block + 1) * BLOCK]
        status = {
            a.status for a in found if a.start < (block + 1) * BLOCK and a.end > block * BLOCK
        }
        is_bad = block in disk.bad
        assert status == {Status.BAD_SECTOR if is_bad else Status.FINISHED}
        assert os.pread(image, BLOCK, block * BLOCK) == (bytes(len(part)) if is_bad else part)
    return found


@given(bad=st.sets(st.integers(0, BLOCKS - 1)), tells_count=st.booleans())
def test_all_but_the_bad_blocks(bad, tells_count):
    image = os.memfd_create("image")
    try:
        rescued(Disk(bad, tells_count=tells_count), image)
    finally:
        os.close(image)


def test_a_good_disk_is_read_once_in_large_reads(image):
    disk = Disk()
    rescued(disk, image, retries=3)
    assert disk.reads == [(block, min(16, BLOCKS - block)) for block in range(0, BLOCKS, 16)]


def test_the_good_parts_come_first(image):
    disk = Disk({3, 20})
    rescued(disk, image)
    large = [(0, 16), (8, 16), (24, 16)]  # behind each request of 8 that failed
    assert disk.reads[:3] == large
    small = disk.reads[disk.reads.index((3, 1)) :]
    assert disk.reads[small and -len(small) - 1][0] == 88, "all large reads are done"
    assert small == [(3, 1), (4, 1), (5, 2), (7, 1), (20, 1), (21, 1), (22, 2)]


def test_bad_blocks_are_tried_again(image):
    disk = Disk({5, 6})
    found = rescued(disk, image)
    disk.reads.clear()
    disk.bad = {6}
    os.pwrite(image, b"", 0)
    rescue = Rescue(disk, image, found, lambda count: None)
    rescue.run(2)
    assert disk.reads == [(5, 1), (6, 1), (6, 1)]
    assert found.count(Status.BAD_SECTOR) == BLOCK
    assert os.pread(image, BLOCK, 5 * BLOCK) == disk.content[5 * BLOCK : 6 * BLOCK]


def test_what_is_finished_is_not_read_again(image):
    disk, found = Disk(), RescueMap(BLOCKS * BLOCK)
    found.mark(0, 90 * BLOCK, Status.FINISHED)
    found.mark(90 * BLOCK, 92 * BLOCK, Status.NON_TRIMMED)
    found.mark(92 * BLOCK, 93 * BLOCK, Status.NON_SCRAPED)
    Rescue(disk, image, found, lambda count: None).run(0)
    assert disk.reads == [(93, 7), (90, 1), (91, 1), (92, 1)]
    assert not found.areas(*set(Status) - {Status.FINISHED})


@pytest.mark.parametrize("bad", [set(), {2}, {3}])
def test_a_disk_that_ends_within_a_block(image, bad):
    disk, found = Disk(bad, size=3 * BLOCK + 100), RescueMap(3 * BLOCK + 100)
    Rescue(disk, image, found, lambda count: None).run(1)
    assert found.count(Status.BAD_SECTOR) == (100 if bad == {3} else BLOCK if bad else 0)
    assert found.count(Status.FINISHED) == found.size - found.count(Status.BAD_SECTOR)


def test_silence_is_an_error_of_the_area_and_its_buffer_is_left_alone(image):
    disk = Disk()
    disk.silent_reads = MAX_SILENCE - 1
    found = RescueMap(BLOCKS * BLOCK)
    Rescue(disk, image, found, lambda count: None).run(0)
    assert found.count(Status.FINISHED) == found.size
    assert os.pread(image, len(disk.content), 0) == disk.content


def test_a_disk_that_stays_silent_ends_it(image):
    disk, found = Disk(), RescueMap(BLOCKS * BLOCK)
    disk.silent_reads = MAX_SILENCE
    with pytest.raises(RequestTimeout):
        Rescue(disk, image, found, lambda count: None).run(0)
    assert len(disk.reads) == MAX_SILENCE
    assert not found.count(Status.BAD_SECTOR)


@pytest.mark.parametrize(
    ("req_status", "detail"),
    [
        (None, 0x82),
        (1, BsaDetailedStatus.MEDIA_NOT_PRESENT),
        (1, BsaDetailedStatus.DEVICE_NOT_READY),
    ],
)
def test_a_disk_that_is_gone_ends_it(image, req_status, detail):
    class Gone(Disk):
        def readinto(self, offset, buffer):
            if offset:
                raise RequestFailed("gone", req_status=req_status, detail=detail)
            return super().readinto(offset, buffer)

    found = RescueMap(BLOCKS * BLOCK)
    rescue = Rescue(Gone(), image, found, lambda count: None)
    with pytest.raises(RequestFailed, match="gone"):
        rescue.run(0)
    assert (rescue.position, rescue.phase) == (16 * BLOCK, Phase.COPYING)
    assert [area.status for area in found] == [Status.FINISHED, Status.NON_TRIED]
