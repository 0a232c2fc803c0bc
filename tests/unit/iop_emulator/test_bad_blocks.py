# SPDX-License-Identifier: Apache-2.0
"""Bad blocks: transfers end at the first one, and say exactly how far they came."""

from __future__ import annotations

import random
import struct
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fakes.iop_rig import DISK, Reply, Rig
from i2o.errors import LocalFrameError, TransportUnavailable, UriError
from i2o.frames import block_storage as bsa
from i2o.frames.block_storage import BsaDetailedStatus as Detail
from i2o.frames.header import ReqStatus
from i2o.frames.sgl import immediate_element, simple_sgl
from i2o.iop_emulator import bad_blocks
from i2o.iop_emulator.bad_blocks import BadBlocks, FlawedDisk
from i2o.iop_emulator.block_store import MemoryDisk, StoreError
from i2o.iop_emulator.ddm.block import CHUNK, MAX_REASSIGN
from i2o.iop_emulator.options import parse_disk

BLOCK = 512
COUNT = 2048
LAST = 40


# --- the set -------------------------------------------------------------------------------------


@given(
    st.lists(
        st.tuples(st.booleans(), st.integers(0, LAST), st.integers(0, 8)), min_size=1, max_size=40
    )
)
def test_ranges_are_a_set_of_blocks(changes: list[tuple[bool, int, int]]) -> None:
    ranges, blocks = BadBlocks(), set[int]()
    for is_bad, first, more in changes:
        touched = range(first, first + more + 1)
        if is_bad:
            ranges.add(touched[0], touched[-1])
            blocks.update(touched)
        else:
            ranges.remove(touched[0], touched[-1])
            blocks.difference_update(touched)
        pairs = list(ranges)
        assert {block for low, high in pairs for block in range(low, high + 1)} == blocks
        assert len(ranges) == len(pairs)
        assert all(low <= high for low, high in pairs)
        assert all(after[0] > before[1] + 1 for before, after in pairwise(pairs))
        for low in range(LAST + 10):
            wanted = min((block for block in blocks if low <= block <= low + 3), default=None)
            assert ranges.first_in(low, low + 3) == wanted


def test_ranges_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bad_blocks, "MAX_RANGES", 2)
    ranges = BadBlocks([(0, 0), (2, 2)])
    with pytest.raises(LocalFrameError, match="at most 2 ranges"):
        ranges.add(4, 4)
    ranges.add(1, 1)
    assert list(ranges) == [(0, 2)]
    ranges.add(4, 6)
    with pytest.raises(LocalFrameError, match="at most 2 ranges"):
        ranges.remove(5, 5)
    assert list(ranges) == [(0, 2), (4, 6)]
    ranges.remove(2, 4)
    assert list(ranges) == [(0, 1), (5, 6)]


# --- the disk ------------------------------------------------------------------------------------


class Bench:
    """An IOP whose disk has bad blocks."""

    def __init__(self, way: str = "direct", *bad: tuple[int, int], size: int = COUNT * BLOCK):
        inner = MemoryDisk(size, block_size=BLOCK)
        self.data = random.Random(7).randbytes(size)
        inner.write_from(0, [memoryview(self.data)])
        self.inner, self.disk = inner, FlawedDisk(inner, BadBlocks(bad))
        self.rig = Rig([self.disk])
        if way == "copied":
            self.rig.memory.windows = lambda fragments, *, writable: None

    def transfer(self, layout, first: int, count: int, pieces: list[int] | None = None):
        """Move blocks; return (status, detail, bytes done, failing address) and the memory."""
        sizes = pieces or [count * BLOCK]
        buffers = [self.rig.buffer(size) for size in sizes]
        for buffer in buffers:
            buffer.view[:] = b"\xee" * len(buffer.view)
        frame = layout.build(
            target_address=DISK,
            transfer_byte_count=count * BLOCK,
            logical_byte_address=first * BLOCK,
        ) + simple_sgl([(b.bus_address, len(b.view)) for b in buffers], out=False)
        reply = self.rig.call(frame)
        return outcome(reply), b"".join(bytes(b.view) for b in buffers)

    @property
    def stored(self) -> bytes:
        data = bytearray(self.inner.size)
        self.inner.read_into(0, [memoryview(data)])
        return bytes(data)


def outcome(reply: Reply) -> tuple[int, int, int, int]:
    if len(reply.data) == 24:
        return (*reply.status, reply.words[5], 0)
    record = bsa.BSA_ERROR_REPLY.unpack_from(reply.data)
    return (*reply.status, record.transfer_count, record.logical_byte_address)


@pytest.fixture(params=["direct", "copied"])
def way(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.mark.parametrize("first", range(6))
@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_each_block_for_itself(way: str, first: int, count: int) -> None:
    bench = Bench(way, (2, 2), (4, 5))
    got, memory = bench.transfer(bsa.BSA_BLOCK_READ, first, count)
    bad = next((block for block in range(first, first + count) if block in (2, 4, 5)), None)
    good = count if bad is None else bad - first
    data = bench.data[first * BLOCK :][: good * BLOCK]
    assert memory == data + b"\xee" * ((count - good) * BLOCK)
    if bad is None:
        assert got == (0, 0, count * BLOCK, 0)
    else:
        status = ReqStatus.ERROR_PARTIAL_TRANSFER if good else ReqStatus.ERROR_NO_DATA_TRANSFER
        assert got == (status, Detail.MEDIA_ERROR, good * BLOCK, bad * BLOCK)


def test_a_bad_block_in_pieces_of_any_size(way: str) -> None:
    bench = Bench(way, (3, 3))
    got, memory = bench.transfer(bsa.BSA_BLOCK_READ, 0, 4, [100, 1300, 136, 512])
    assert got == (ReqStatus.ERROR_PARTIAL_TRANSFER, Detail.MEDIA_ERROR, 1536, 1536)
    assert memory == bench.data[:1536] + b"\xee" * 512


def test_a_bad_block_far_behind_the_first_chunk(way: str) -> None:
    """What is copied is copied a MiB at a time; the count is that of the whole transfer."""
    count = 2 * CHUNK // BLOCK
    bad = count - 3
    bench = Bench(way, (bad, bad), size=2 * CHUNK)
    got, memory = bench.transfer(bsa.BSA_BLOCK_READ, 0, count)
    expected = (ReqStatus.ERROR_PARTIAL_TRANSFER, Detail.MEDIA_ERROR, bad * BLOCK, bad * BLOCK)
    assert got == expected
    assert memory == bench.data[: bad * BLOCK] + b"\xee" * (3 * BLOCK)
    assert bench.transfer(bsa.BSA_BLOCK_WRITE, 0, count)[0] == expected
    assert bench.stored == b"\xee" * (bad * BLOCK) + bench.data[bad * BLOCK :]


@pytest.mark.parametrize("layout", [bsa.BSA_BLOCK_WRITE, bsa.BSA_BLOCK_WRITE_VERIFY])
def test_writing_ends_at_a_bad_block(way: str, layout) -> None:
    bench = Bench(way, (2, 2))
    got, _ = bench.transfer(layout, 0, 4)
    assert got == (ReqStatus.ERROR_PARTIAL_TRANSFER, Detail.MEDIA_ERROR, 1024, 1024)
    assert bench.stored == b"\xee" * 1024 + bench.data[1024:]
    got, _ = bench.transfer(layout, 2, 2)
    assert got == (ReqStatus.ERROR_DIRTY, Detail.MEDIA_ERROR, 0, 1024)
    assert bench.stored == b"\xee" * 1024 + bench.data[1024:]
    assert bench.transfer(layout, 3, 1)[0] == (0, 0, BLOCK, 0)


def reassign(bench: Bench, *addresses: int, tail: bytes = b"") -> tuple[int, int, int, int]:
    listed = struct.pack(f"<{len(addresses)}Q", *addresses) + tail
    buffer = bench.rig.buffer(listed)
    frame = bsa.BSA_BLOCK_REASSIGN.build(target_address=DISK)
    reply = bench.rig.call(frame + simple_sgl([(buffer.bus_address, len(listed))], out=True))
    return (*reply.status, 0, 0) if len(reply.data) == 20 else outcome(reply)


def test_reassigned_blocks_are_good_again() -> None:
    bench = Bench("direct", (2, 4))
    assert reassign(bench, 3 * BLOCK, 900 * BLOCK) == (0, 0, 0, 0)
    assert list(bench.disk.bad) == [(2, 2), (4, 4)]
    got, memory = bench.transfer(bsa.BSA_BLOCK_READ, 3, 1)
    assert (got, memory) == ((0, 0, BLOCK, 0), bench.data[3 * BLOCK : 4 * BLOCK])
    assert bench.transfer(bsa.BSA_BLOCK_WRITE, 3, 1)[0] == (0, 0, BLOCK, 0)
    assert bench.transfer(bsa.BSA_BLOCK_READ, 4, 1)[0][1] == Detail.MEDIA_ERROR
    frame = bsa.BSA_BLOCK_REASSIGN.build(target_address=DISK)
    listed = immediate_element(struct.pack("<2Q", 2 * BLOCK + 100, 4 * BLOCK), last=True)
    assert bench.rig.call(frame + listed).status == (0, 0)
    assert list(bench.disk.bad) == []


def test_a_disk_runs_out_of_spare_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A host that mends every other block would make as many ranges as there are blocks."""
    monkeypatch.setattr(bad_blocks, "MAX_RANGES", 2)
    bench = Bench("direct", (0, 9))
    refusal = (ReqStatus.ERROR_NO_DATA_TRANSFER, Detail.MEDIA_ERROR, 0, 6 * BLOCK)
    assert reassign(bench, 3 * BLOCK, 6 * BLOCK) == refusal
    assert list(bench.disk.bad) == [(0, 2), (4, 9)]
    bench.rig.iop.lct.devices[DISK].state.control["auto_reassign"] = 1
    assert bench.transfer(bsa.BSA_BLOCK_WRITE, 6, 1)[0][1] == Detail.MEDIA_ERROR
    assert list(bench.disk.bad) == [(0, 2), (4, 9)]


def test_a_wrong_list_reassigns_nothing() -> None:
    bench = Bench("direct", (0, 9))
    wrong = reassign(bench, 0, COUNT * BLOCK)
    assert wrong == (ReqStatus.ERROR_NO_DATA_TRANSFER, Detail.ACCESS_ERROR, 0, COUNT * BLOCK)
    assert reassign(bench, 0, tail=b"\0\0\0\0")[1] == Detail.PROTOCOL_FAILURE
    assert reassign(bench, *[0] * (MAX_REASSIGN // 8 + 1))[1] == Detail.PROTOCOL_FAILURE
    assert list(bench.disk.bad) == [(0, 9)]
    assert any("no list of up to 8192 addresses" in said for said in bench.rig.complaints)
    assert reassign(bench, *[0] * (MAX_REASSIGN // 8)) == (0, 0, 0, 0)


def test_a_disk_may_reassign_by_itself(way: str) -> None:
    bench = Bench(way, (2, 3))
    bench.rig.iop.lct.devices[DISK].state.control["auto_reassign"] = 1
    assert bench.transfer(bsa.BSA_BLOCK_READ, 2, 1)[0][1] == Detail.MEDIA_ERROR
    assert bench.transfer(bsa.BSA_BLOCK_WRITE, 0, 3)[0] == (0, 0, 3 * BLOCK, 0)
    assert list(bench.disk.bad) == [(3, 3)]
    nothing = bsa.BSA_BLOCK_WRITE.build(target_address=DISK, logical_byte_address=3 * BLOCK)
    assert outcome(bench.rig.call(nothing)) == (0, 0, 0, 0)
    assert list(bench.disk.bad) == [(3, 3)]


def test_verifying_finds_the_first_bad_block() -> None:
    bench = Bench("direct", (CHUNK // BLOCK + 7, 5000), size=4 * CHUNK)
    frame = bsa.BSA_MEDIA_VERIFY.build(target_address=DISK, byte_count=2 * CHUNK)
    place = CHUNK + 7 * BLOCK
    assert outcome(bench.rig.call(frame)) == (
        ReqStatus.ERROR_PARTIAL_TRANSFER,
        Detail.MEDIA_ERROR,
        place,
        place,
    )


def test_verifying_a_write_names_the_block_that_cannot_be_read(way: str) -> None:
    class Weak(MemoryDisk):
        """A disk that takes everything, and gives back no more than one block."""

        def read_into(self, offset, views):
            raise StoreError(5, "weak", BLOCK) if offset == 0 else OSError(5, "weak")

    rig = Rig([Weak(1 << 20)])
    buffer = rig.buffer(2 * BLOCK)
    frame = bsa.BSA_BLOCK_WRITE_VERIFY.build(
        target_address=DISK, transfer_byte_count=2 * BLOCK
    ) + simple_sgl([(buffer.bus_address, 2 * BLOCK)], out=True)
    assert outcome(rig.call(frame))[1:] == (Detail.MEDIA_ERROR, BLOCK, BLOCK)


def test_media_errors_are_in_the_error_log() -> None:
    bench = Bench("direct", (2, 2))
    bench.transfer(bsa.BSA_BLOCK_READ, 0, 4)
    (row,) = bench.rig.iop.lct.devices[DISK].state.errors
    assert (row["function"], row["detailed_error_code"]) == (0x30, Detail.MEDIA_ERROR)


def test_nothing_has_no_bad_block() -> None:
    disk = FlawedDisk(MemoryDisk(BLOCK), BadBlocks([(0, 0)]))
    disk.read_into(0, [])
    disk.write_from(0, [memoryview(b"")])
    with pytest.raises(StoreError) as caught:
        disk.read_into(0, [memoryview(bytearray(BLOCK))])
    assert (caught.value.errno, caught.value.done) == (5, 0)
    assert (disk.size, disk.description) == (BLOCK, "memory")
    disk.flush()
    disk.close()


# --- the option ----------------------------------------------------------------------------------


def test_a_disk_with_bad_blocks_by_option(tmp_path) -> None:
    image = tmp_path / "a.img"
    image.write_bytes(bytes(16 * BLOCK))
    options = parse_disk(f"{image},bad=3,bad=5-9,bad=10", "test")
    assert options.bad == ((3, 3), (5, 9), (10, 10))
    disk = options.open()
    assert isinstance(disk, FlawedDisk)
    assert list(disk.bad) == [(3, 3), (5, 10)]
    disk.close()
    with pytest.raises(TransportUnavailable, match=r"has 16 blocks: there is no block 16 \(bad="):
        parse_disk(f"{image},bad=0,bad=15-16", "test").open()
    parse_disk(f"{image},bad=15", "test").open().close()  # the lock was given back


@pytest.mark.parametrize("text", ["", "-", "x", "3-", "-3", "3-2", "0x3", "1" * 20, "1-2-3", "²"])
def test_blocks_that_are_none(text: str) -> None:
    with pytest.raises(UriError):
        parse_disk(f"a.img,bad={text}", "test")
