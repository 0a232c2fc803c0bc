# SPDX-License-Identifier: Apache-2.0
"""Commands of a SCSI disk that move blocks: data, residuals, and sense data."""

from __future__ import annotations

import errno

import pytest

from fakes.scsi_bench import BLOCKS, SIZE, Bench, pattern, rw
from i2o.frames.scsi_command import ScsiOpcode as Op
from i2o.frames.scsi_command import SenseKey as Key
from i2o.iop_emulator.bad_blocks import BadBlocks, FlawedDisk
from i2o.iop_emulator.block_store import MemoryDisk, StoreError
from i2o.iop_emulator.scsi.direct_access import MAX_DESCRIPTORS

READS = [Op.READ_6, Op.READ_10, Op.READ_12, Op.READ_16]
WRITES = [Op.WRITE_6, Op.WRITE_10, Op.WRITE_12, Op.WRITE_16]
FUA = 0x08


class FailingDisk(MemoryDisk):
    """A disk whose next write or flush fails."""

    write_errno = flush_errno = 0
    flushes = 0

    def write_from(self, offset, views):
        if self.write_errno:
            raise StoreError(self.write_errno, "made to fail", 0)
        super().write_from(offset, views)

    def flush(self):
        self.flushes += 1
        if self.flush_errno:
            raise OSError(self.flush_errno, "made to fail")


def flawed(*ranges: tuple[int, int]) -> Bench:
    return Bench(FlawedDisk(MemoryDisk(BLOCKS * SIZE), BadBlocks(ranges)))


@pytest.mark.parametrize("pieces", [1, 3])
@pytest.mark.parametrize(("read", "write"), [*zip(READS, WRITES, strict=True)])
def test_what_is_written_is_read_back(read, write, pieces):
    bench = Bench()
    data = pattern(8)
    done = bench.run(rw(write, 5, 8), out=data, pieces=pieces)
    assert (done.outcome.status, done.outcome.transferred, done.outcome.is_overrun) == (
        0,
        4096,
        False,
    )
    assert bench.blocks(4, 10) == bytes(SIZE) + data + bytes(SIZE)
    done = bench.run(rw(read, 5, 8), room=4096, pieces=pieces)
    assert (done.outcome.status, done.outcome.transferred) == (0, 4096)
    assert done.data == data


def test_a_count_of_0_is_256_in_the_short_commands_and_none_in_the_others():
    bench = Bench()
    assert bench.run(rw(Op.READ_6, 0, 0), room=256 * SIZE).outcome.transferred == 256 * SIZE
    assert bench.run(rw(Op.READ_10, 0, 0), room=SIZE).outcome.transferred == 0
    assert bench.run(rw(Op.WRITE_16, 0, 0), out=bytes(SIZE)).outcome.transferred == 0


def test_more_memory_than_blocks_leaves_a_residual():
    bench = Bench()
    bench.run(rw(Op.WRITE_10, 0, 1), out=pattern(1))
    done = bench.run(rw(Op.READ_10, 0, 1), room=3 * SIZE)
    assert (done.outcome.transferred, done.outcome.is_overrun) == (SIZE, False)
    assert done.data == pattern(1) + bytes(2 * SIZE)


def test_less_memory_than_blocks_is_an_overrun():
    bench = Bench()
    bench.run(rw(Op.WRITE_10, 0, 2), out=pattern(2))
    done = bench.run(rw(Op.READ_10, 0, 2), room=SIZE)
    assert (done.outcome.status, done.outcome.transferred, done.outcome.is_overrun) == (
        0,
        SIZE,
        True,
    )
    assert done.data == pattern(1)
    done = bench.run(rw(Op.WRITE_10, 0, 2), out=b"x" * SIZE)
    assert (done.outcome.transferred, done.outcome.is_overrun) == (0, True)
    assert bench.blocks(0, 2) == pattern(2), "nothing is written"


@pytest.mark.parametrize("opcode", [*READS[1:], *WRITES[1:], Op.VERIFY_10, Op.SYNCHRONIZE_CACHE_16])
def test_blocks_behind_the_end_are_out_of_range(opcode):
    bench = Bench()
    done = bench.run(rw(opcode, BLOCKS - 1, 2), out=pattern(2))
    assert done.reason == (Key.ILLEGAL_REQUEST, 0x2100)
    assert done.field == (2, None, True)
    assert bench.blocks(BLOCKS - 1, 1) == bytes(SIZE)


def test_too_many_blocks_for_one_command_are_refused():
    bench = Bench(max_blocks=128)
    assert bench.run(rw(Op.READ_10, 0, 128), room=128 * SIZE).outcome.status == 0
    done = bench.run(rw(Op.READ_10, 0, 129), room=129 * SIZE)
    assert done.reason == (Key.ILLEGAL_REQUEST, 0x2400)
    assert done.field == (7, None, True)
    assert bench.run(rw(Op.READ_12, 0, 129)).field == (6, None, True)
    assert bench.run(rw(Op.READ_16, 0, 129)).field == (10, None, True)
    assert bench.run(rw(Op.SYNCHRONIZE_CACHE_10, 0, 129)).outcome.status == 0


def test_a_read_ends_at_the_first_bad_block():
    bench = flawed((7, 9))
    bench.store.store.write_from(0, [memoryview(pattern(16))])
    done = bench.run(rw(Op.READ_10, 4, 8), room=8 * SIZE, pieces=2)
    assert done.reason == (Key.MEDIUM_ERROR, 0x1100)
    assert done.information == 7
    assert done.outcome.transferred == 3 * SIZE
    assert done.data[: 3 * SIZE] == pattern(16)[4 * SIZE : 7 * SIZE]
    assert done.data[3 * SIZE :] == bytes(5 * SIZE)


def test_a_write_ends_at_the_first_bad_block():
    bench = flawed((7, 9))
    done = bench.run(rw(Op.WRITE_16, 6, 4), out=pattern(4))
    assert done.reason == (Key.MEDIUM_ERROR, 0x0C00)
    assert (done.information, done.outcome.transferred) == (7, SIZE)


@pytest.mark.parametrize(
    ("number", "reason"),
    [
        (errno.ENOSPC, (Key.DATA_PROTECT, 0x2707)),
        (errno.EROFS, (Key.DATA_PROTECT, 0x2700)),
        (errno.EBUSY, (Key.NOT_READY, 0x0407)),
        (errno.ENXIO, (Key.HARDWARE_ERROR, 0x4400)),
    ],
)
def test_other_errors_of_the_store(number, reason):
    store = FailingDisk(BLOCKS * SIZE)
    bench = Bench(store)
    store.write_errno = number
    for cdb in (rw(Op.WRITE_10, 0, 1), rw(Op.WRITE_SAME_10, 0, 1)):
        done = bench.run(cdb, out=pattern(1))
        assert done.reason == reason
        assert done.information is None
        assert done.outcome.transferred == 0


def test_a_read_only_disk_is_protected():
    bench = Bench(MemoryDisk(BLOCKS * SIZE, read_only=True))
    for cdb in (
        rw(Op.WRITE_6, 0, 1),
        rw(Op.WRITE_AND_VERIFY_10, 0, 1),
        rw(Op.WRITE_SAME_16, 0, 1),
        bytes((Op.UNMAP, 0, 0, 0, 0, 0, 0, 0, 24, 0)),
    ):
        assert bench.run(cdb, out=pattern(1)).reason == (Key.DATA_PROTECT, 0x2700)


# --- durability ---------------------------------------------------------------------------------


def test_what_makes_writes_durable():
    store = FailingDisk(BLOCKS * SIZE)
    bench = Bench(store)
    flushes = []
    for cdb in (
        rw(Op.WRITE_10, 0, 1),
        rw(Op.WRITE_10, 0, 1, FUA),
        rw(Op.WRITE_AND_VERIFY_16, 0, 1),
        rw(Op.SYNCHRONIZE_CACHE_10, 0, 0),
        rw(Op.SYNCHRONIZE_CACHE_16, 0, 1),
    ):
        before = store.flushes
        assert bench.run(cdb, out=pattern(1)).outcome.status == 0
        flushes.append(store.flushes - before)
    assert flushes == [0, 1, 1, 1, 1]
    bench.unit.pages.has_write_cache = False
    for cdb in (rw(Op.WRITE_10, 0, 1), rw(Op.WRITE_SAME_10, 0, 1)):
        before = store.flushes
        assert bench.run(cdb, out=pattern(1)).outcome.status == 0
        assert store.flushes == before + 1


def test_a_short_cdb_has_address_bits_where_others_have_fua():
    class Sparse(FailingDisk):
        def write_from(self, offset, views):
            pass

    store = Sparse(BLOCKS * SIZE)
    store.size = 0x080001 * SIZE
    bench = Bench(store)
    assert bench.run(rw(Op.WRITE_6, 0x080000, 1), out=pattern(1)).outcome.status == 0
    assert store.flushes == 0


def test_data_that_cannot_be_made_durable_are_a_medium_error():
    store = FailingDisk(BLOCKS * SIZE)
    bench = Bench(store)
    store.flush_errno = errno.EIO
    assert bench.run(rw(Op.SYNCHRONIZE_CACHE_10, 0, 0)).reason == (Key.MEDIUM_ERROR, 0x0C00)


# --- verifying ----------------------------------------------------------------------------------


@pytest.mark.parametrize("opcode", [Op.VERIFY_10, Op.VERIFY_12, Op.VERIFY_16])
def test_verify_reads_and_compares_if_asked_to(opcode):
    bench = Bench()
    bench.run(rw(Op.WRITE_10, 3, 4), out=pattern(4))
    assert bench.run(rw(opcode, 3, 4)).outcome == (0, 0, False, b"")
    done = bench.run(rw(opcode, 3, 4, 2), out=pattern(4), pieces=3)
    assert (done.outcome.status, done.outcome.transferred) == (0, 4 * SIZE)
    wrong = bytearray(pattern(4))
    wrong[2 * SIZE + 9] ^= 1
    done = bench.run(rw(opcode, 3, 4, 2), out=bytes(wrong), pieces=3)
    assert done.reason == (Key.MISCOMPARE, 0x1D00)
    assert done.information == 5
    assert bench.run(rw(opcode, 3, 4, 2), out=pattern(3)).outcome.is_overrun
    done = bench.run(rw(opcode, 3, 4, 4), out=pattern(4))
    assert done.reason == (Key.ILLEGAL_REQUEST, 0x2400)
    assert done.field == (1, 2, True)


def test_verify_of_more_than_is_read_at_once():
    bench = Bench()
    last = BLOCKS - 1
    bench.run(rw(Op.WRITE_10, last, 1), out=pattern(1))
    given = bytes(last * SIZE) + pattern(1)
    assert bench.run(rw(Op.VERIFY_10, 0, BLOCKS, 2), out=given, pieces=5).outcome.status == 0
    given = bytes(last * SIZE) + pattern(1, 2)
    assert bench.run(rw(Op.VERIFY_10, 0, BLOCKS, 2), out=given, pieces=5).information == last


def test_verify_finds_bad_blocks_and_moves_no_data():
    bench = flawed((BLOCKS - 5, BLOCKS - 5))
    done = bench.run(rw(Op.VERIFY_10, 0, BLOCKS))
    assert done.reason == (Key.MEDIUM_ERROR, 0x1100)
    assert (done.information, done.outcome.transferred) == (BLOCKS - 5, 0)


@pytest.mark.parametrize("flags", [0, 2])
@pytest.mark.parametrize(
    "opcode", [Op.WRITE_AND_VERIFY_10, Op.WRITE_AND_VERIFY_12, Op.WRITE_AND_VERIFY_16]
)
def test_write_and_verify(opcode, flags):
    bench = Bench()
    done = bench.run(rw(opcode, 2, 2, flags), out=pattern(2))
    assert (done.outcome.status, done.outcome.transferred) == (0, 2 * SIZE)
    assert bench.blocks(2, 2) == pattern(2)
    assert bench.run(rw(opcode, 2, 2, flags), out=pattern(1)).outcome.is_overrun


def test_write_and_verify_finds_what_was_not_stored():
    class Forgetful(MemoryDisk):
        def write_from(self, offset, views):
            super().write_from(offset, views[:1])

    bench = Bench(Forgetful(BLOCKS * SIZE))
    done = bench.run(rw(Op.WRITE_AND_VERIFY_10, 0, 2, 2), out=pattern(2), pieces=2)
    assert done.reason == (Key.MISCOMPARE, 0x1D00)
    assert (done.information, done.outcome.transferred) == (1, 2 * SIZE)


# --- many blocks at once ------------------------------------------------------------------------


def test_write_same():
    bench = Bench()
    done = bench.run(rw(Op.WRITE_SAME_10, 1, 2500), out=pattern(1, 7))
    assert (done.outcome.status, done.outcome.transferred) == (0, SIZE)
    assert bench.blocks(0, 2502) == bytes(SIZE) + pattern(1, 7) * 2500 + bytes(SIZE)
    done = bench.run(rw(Op.WRITE_SAME_16, 1, 2000, 0x09))  # UNMAP, no data
    assert (done.outcome.status, done.outcome.transferred) == (0, 0)
    assert bench.blocks(0, 2002) == bytes(2001 * SIZE) + pattern(1, 7)


def test_write_same_refuses_what_it_cannot_do():
    bench = Bench()
    assert bench.run(rw(Op.WRITE_SAME_10, 0, 0), out=pattern(1)).field == (7, None, True)
    assert bench.run(rw(Op.WRITE_SAME_10, 0, 1, 0x10), out=pattern(1)).field == (1, 4, True)
    assert bench.run(rw(Op.WRITE_SAME_10, 0, 1), out=b"short").outcome.is_overrun
    assert bench.blocks(0, 1) == bytes(SIZE)


def unmap(
    *ranges: tuple[int, int], length: int | None = None, flags: int = 0
) -> tuple[bytes, bytes]:
    body = b"".join(lba.to_bytes(8, "big") + n.to_bytes(4, "big") + bytes(4) for lba, n in ranges)
    data = (len(body) + 6).to_bytes(2, "big") + len(body).to_bytes(2, "big") + bytes(4) + body
    size = len(data) if length is None else length
    return bytes((Op.UNMAP, flags, 0, 0, 0, 0, 0)) + size.to_bytes(2, "big") + b"\0", data


def test_unmapped_blocks_are_zero():
    bench = Bench()
    bench.run(rw(Op.WRITE_10, 0, 10), out=pattern(10))
    cdb, data = unmap((2, 3), (4, 0), (8, 1))
    done = bench.run(cdb, out=data)
    assert (done.outcome.status, done.outcome.transferred) == (0, 56)
    expected = bytearray(pattern(10))
    expected[2 * SIZE : 5 * SIZE] = bytes(3 * SIZE)
    expected[8 * SIZE : 9 * SIZE] = bytes(SIZE)
    assert bench.blocks(0, 10) == bytes(expected)


def test_unmap_refuses_before_anything_changes():
    bench = Bench()
    bench.run(rw(Op.WRITE_10, 0, 1), out=pattern(1))
    cdb, data = unmap((0, 1), (BLOCKS, 1))
    assert bench.run(cdb, out=data).reason == (Key.ILLEGAL_REQUEST, 0x2100)
    cdb, data = unmap(*[(0, 1)] * (MAX_DESCRIPTORS + 1))
    assert bench.run(cdb, out=data).reason == (Key.ILLEGAL_REQUEST, 0x2600)
    cdb, data = unmap((0, 1), flags=1)
    assert bench.run(cdb, out=data).field == (1, 0, True)
    cdb, data = unmap((0, 1), length=7)
    assert bench.run(cdb, out=data).reason == (Key.ILLEGAL_REQUEST, 0x1A00)
    cdb, data = unmap((0, 1))
    assert bench.run(cdb, out=data[:-1]).outcome.is_overrun
    cdb, data = unmap((0, 1), length=0)
    assert bench.run(cdb).outcome == (0, 0, False, b"")
    cdb, data = unmap((0, 1), length=23)  # half a descriptor is none
    assert bench.run(cdb, out=data).outcome.status == 0
    assert bench.blocks(0, 1) == pattern(1)


def test_blocks_beyond_32_bits_have_no_place_in_sense_data():
    class Huge(MemoryDisk):
        def read_into(self, offset, views):
            raise StoreError(errno.EIO, "bad", 0)

    store = Huge(BLOCKS * SIZE)
    store.size = (1 << 33) * SIZE
    bench = Bench(store)
    done = bench.run(rw(Op.READ_16, 1 << 32, 1), room=SIZE)
    assert done.reason == (Key.MEDIUM_ERROR, 0x1100)
    assert done.information is None
    assert bench.run(bytes((Op.READ_CAPACITY_10,)) + bytes(9), room=8).data[:4] == b"\xff" * 4
    long = bytes((Op.SERVICE_ACTION_IN_16, 0x10)) + bytes(8) + bytes((0, 0, 0, 32, 0, 0))
    done = bench.run(long, room=32)
    assert done.data[:12] == ((1 << 33) - 1).to_bytes(8, "big") + SIZE.to_bytes(4, "big")
    assert done.data[14] == 0xC0
