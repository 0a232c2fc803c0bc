# SPDX-License-Identifier: Apache-2.0
"""The block storage class: data, media, power, and every way to be wrong."""

from __future__ import annotations

import errno
import random
import struct

import pytest

from fakes.iop_rig import DISK, Reply, Rig
from i2o.frames import block_storage as bsa
from i2o.frames import block_storage_groups as bsa_groups
from i2o.frames import utility
from i2o.frames.block_storage import BsaDetailedStatus as Detail
from i2o.frames.block_storage import BsaEvent
from i2o.frames.functions import Function
from i2o.frames.header import ReqStatus
from i2o.frames.sgl import chain_element, immediate_element, simple_sgl
from i2o.iop_emulator.block_store import MemoryDisk, StoreError
from i2o.iop_emulator.ddm.block import CHUNK

PLAIN = (0, 0)
SIZE = 1 << 20
HOLE = 0x00900000


class Disk(MemoryDisk):
    """A disk of random bytes that writes down what happens to it and fails on demand."""

    def __init__(self, size: int = SIZE, **arguments) -> None:
        super().__init__(size, **arguments)
        self._data[:] = random.Random(7).randbytes(size)
        self.log: list[str] = []
        self.fail: dict[str, OSError] = {}

    def read_into(self, offset, views):
        self._note("read", offset)
        super().read_into(offset, views)

    def write_from(self, offset, views):
        self._note("write", offset)
        super().write_from(offset, views)

    def flush(self):
        self._note("flush", 0)

    def _note(self, what: str, offset: int) -> None:
        self.log.append(what)
        if what in self.fail:
            raise self.fail[what]

    @property
    def contents(self) -> bytes:
        return bytes(self._data)


@pytest.fixture(params=["direct", "copied"])
def way(request) -> str:
    return request.param


def make(way: str = "direct", **arguments) -> tuple[Rig, Disk]:
    disk = Disk(**arguments)
    rig = Rig([disk])
    if way == "copied":  # a device that cannot see host memory directly
        rig.memory.windows = lambda fragments, *, writable: None
    return rig, disk


def request(layout, address: int, count: int, sgl: bytes = b"", **fields: int) -> bytes:
    return (
        layout.build(
            target_address=DISK,
            transfer_byte_count=count,
            logical_byte_address=address,
            **fields,
        )
        + sgl
    )


def read(address: int, count: int, sgl: bytes = b"", **fields: int) -> bytes:
    return request(bsa.BSA_BLOCK_READ, address, count, sgl, **fields)


def write(address: int, count: int, sgl: bytes = b"", **fields: int) -> bytes:
    return request(bsa.BSA_BLOCK_WRITE, address, count, sgl, **fields)


def into(buffer, length: int | None = None, offset: int = 0) -> bytes:
    if length is None:
        length = len(buffer.view)
    return simple_sgl([(buffer.bus_address + offset, length)], out=False)


def transferred(reply: Reply) -> int:
    assert len(reply.data) == 24
    assert reply.status == PLAIN
    return reply.words[5]


def failed(reply: Reply) -> tuple[int, int, int, int]:
    """ReqStatus, detail, bytes done, failing address."""
    assert len(reply.data) == 32
    assert reply.flags == 0xC0
    record = bsa.BSA_ERROR_REPLY.unpack_from(reply.data)
    return (*reply.status, record.transfer_count, record.logical_byte_address)


# --- data -----------------------------


@pytest.mark.parametrize("count", [512, 4096, 65536, 1 << 20])
def test_reading_and_writing(way, count):
    rig, disk = make(way, size=4 << 20)
    buffer = rig.buffer(count)
    assert transferred(rig.call(read(1 << 20, count, into(buffer)))) == count
    assert bytes(buffer.view) == disk.contents[1 << 20 :][:count]
    before = disk.contents
    buffer.view[:] = bytes([0x5A]) * count
    assert transferred(rig.call(write(2 << 20, count, into(buffer)))) == count
    assert disk.contents == before[: 2 << 20] + bytes(buffer.view) + before[(2 << 20) + count :]
    assert "flush" not in disk.log


def test_the_last_and_the_first_block(way):
    rig, disk = make(way)
    buffer = rig.buffer(512)
    for address in (0, SIZE - 512):
        assert transferred(rig.call(read(address, 512, into(buffer)))) == 512
        assert bytes(buffer.view) == disk.contents[address:][:512]


def test_nothing_at_all_is_a_success(way):
    rig, _ = make(way)
    assert transferred(rig.call(read(0, 0, into(rig.buffer(4), 0)))) == 0
    assert transferred(rig.call(read(SIZE, 0))) == 0
    assert transferred(rig.call(write(0, 0))) == 0


def scattered(rig: Rig, sizes: list[int], extra: bytes = b"") -> tuple[list, bytes]:
    buffers = [rig.buffer(size) for size in sizes]
    return buffers, simple_sgl([(b.bus_address, len(b.view)) for b in buffers], out=False)


def test_pieces_of_any_size(way):
    rig, disk = make(way)
    buffers, sgl = scattered(rig, [100, 12, 1936])
    assert transferred(rig.call(read(512, 2048, sgl))) == 2048
    assert b"".join(bytes(b.view) for b in buffers) == disk.contents[512:2560]
    assert transferred(rig.call(write(8192, 2048, sgl))) == 2048
    assert disk.contents[8192 : 8192 + 2048] == disk.contents[512:2560]


def test_lists_in_every_shape(way):
    rig, disk = make(way)
    buffer = rig.buffer(8192)
    at = buffer.bus_address
    chained = rig.buffer(simple_sgl([(at, 512), (at + 512, 512)], out=False))
    shapes = {
        "page list": struct.pack("<III", 0xE0000000 | 1024, at + 0x200, at + 0x1000)[:8],
        "chain": chain_element(chained.bus_address, 16),
        "no last element, no end": struct.pack("<IIII", 0x10000200, at, 0x10000200, at + 512),
        "one context": struct.pack("<III", 0xD1000400, 99, at),
        "64 bits": struct.pack("<IIIII", 0x7C020002, 4096, 0xD0000400, at, 0),
        "several buffers": struct.pack("<IIII", 0x50000200, at, 0xD0000200, at + 512),
        "ignored behind": struct.pack("<III", 0x50000400, at, 0x80000000),
    }
    for name, sgl in shapes.items():
        buffer.view[:] = bytes(8192)
        assert transferred(rig.call(read(4096, 1024, sgl))) == 1024, name
        start = 0x200 if name == "page list" else 0
        assert bytes(buffer.view[start : start + 1024]) == disk.contents[4096:5120], name


@pytest.mark.parametrize("offset", [0x01, 0x41, 0x81])
def test_the_list_may_be_announced_wrongly(offset):
    rig, _ = make()
    buffer = rig.buffer(512)
    assert transferred(rig.call(read(0, 512, into(buffer), version_offset=offset))) == 512


def test_bit_buckets_swallow_what_is_read(way):
    rig, disk = make(way, size=8 << 20)
    buffer = rig.buffer(512)
    sgl = struct.pack("<IIII", 0x08000000 | (3 << 20), 0, 0xD0000200, buffer.bus_address)
    count = (3 << 20) + 512
    assert transferred(rig.call(read(0, count, sgl))) == count
    assert bytes(buffer.view) == disk.contents[3 << 20 :][:512]


def test_bit_buckets_and_immediate_data_can_be_written(way):
    rig, disk = make(way)
    data = bytes(range(256))
    sgl = immediate_element(data) + struct.pack("<II", 0xC8000100, 0)
    assert transferred(rig.call(write(1024, 512, sgl))) == 512
    assert disk.contents[1024:1536] == data + bytes(256)


def test_immediate_data_cannot_be_read_into():
    rig, _ = make()
    assert failed(
        rig.call(read(0, 256 * 2, immediate_element(bytes(256)) * 1 + into(rig.buffer(256))))
    )[:2] == (5, 8)


# --- refusals -----------------------------


@pytest.mark.parametrize(
    "layout", [bsa.BSA_BLOCK_READ, bsa.BSA_BLOCK_WRITE, bsa.BSA_BLOCK_WRITE_VERIFY]
)
@pytest.mark.parametrize(
    ("address", "count", "detail"),
    [
        (1, 512, Detail.PROTOCOL_FAILURE),
        (511, 512, Detail.PROTOCOL_FAILURE),
        (0, 511, Detail.PROTOCOL_FAILURE),
        (0, 100, Detail.PROTOCOL_FAILURE),
        (SIZE, 512, Detail.ACCESS_ERROR),
        (SIZE - 512, 1024, Detail.ACCESS_ERROR),
        (1 << 63, 512, Detail.ACCESS_ERROR),
        ((1 << 64) - 512, 512, Detail.ACCESS_ERROR),
        (0, 0xFFFFFE00, Detail.ACCESS_ERROR),
    ],
)  # fmt: skip
def test_ranges_that_do_not_exist(way, layout, address, count, detail):
    rig, disk = make(way)
    before = disk.contents
    buffer = rig.buffer(bytes([0xAA]) * 1024)
    reply = rig.call(request(layout, address, count, into(buffer)))
    assert failed(reply) == (5, detail, 0, address)
    assert detail <= 0x0D
    assert bytes(buffer.view) == bytes([0xAA]) * 1024
    assert disk.contents == before
    assert disk.log == []
    assert rig.complaints.count == 1


@pytest.mark.parametrize("layout", [bsa.BSA_BLOCK_READ, bsa.BSA_BLOCK_WRITE])
@pytest.mark.parametrize("length", [0, 512, 1536, 2048])
def test_lists_of_another_length(way, layout, length):
    rig, disk = make(way)
    before = disk.contents
    buffer = rig.buffer(2048)
    reply = rig.call(request(layout, 0, 1024, into(buffer, length)))
    assert failed(reply) == (5, Detail.PROTOCOL_FAILURE, 0, 0)
    assert bytes(buffer.view) == bytes(2048)
    assert disk.contents == before


@pytest.mark.parametrize("layout", [bsa.BSA_BLOCK_READ, bsa.BSA_BLOCK_WRITE])
def test_lists_that_leave_host_memory(layout):
    rig, disk = make()
    before = disk.contents
    buffer = rig.buffer(512)
    end = buffer.bus_address + 512
    for place in ((HOLE, 512), (end - 256, 512), (0, 512), (0xFFFFFE00, 512)):
        sgl = simple_sgl([(buffer.bus_address, 512), place], out=False)
        assert failed(rig.call(request(layout, 1024, 1024, sgl))) == (
            5,
            Detail.BUS_FAILURE,
            0,
            1024,
        )
    assert bytes(buffer.view) == bytes(512)
    assert disk.contents == before


def test_reading_into_memory_that_the_host_mapped_read_only():
    rig, _ = make()
    mapped = rig.memory.map(memoryview(bytes(512)))
    assert failed(rig.call(read(0, 512, into(mapped))))[:2] == (5, Detail.BUS_FAILURE)
    assert transferred(rig.call(write(0, 512, into(mapped)))) == 512


@pytest.mark.parametrize(
    ("sgl", "offset"),
    [
        (struct.pack("<II", 0x74000000, 0), 32),
        (struct.pack("<IIII", 0x10000200, 0x100000, 0x34000000, 0), 40),
        (chain_element(HOLE, 16), 32),
        (struct.pack("<I", 0xD0000200), 32),
        (struct.pack("<II", 0xE0002000, 0x100000), 32),
    ],
)
def test_lists_that_make_no_sense(sgl, offset):
    rig, disk = make()
    reply = rig.call(read(0, 512, sgl))
    assert (reply.status, len(reply.data), reply.words[5]) == ((0x0B, 8), 28, offset)
    assert disk.log == []


def test_chains_in_circles_end():
    rig, disk = make()
    ring = rig.buffer(8)
    ring.view[:] = chain_element(ring.bus_address, 8)
    reply = rig.call(read(0, 512, chain_element(ring.bus_address, 8)))
    assert failed(reply)[:2] == (5, Detail.PROTOCOL_FAILURE)
    assert disk.log == []


@pytest.mark.parametrize("layout", [bsa.BSA_BLOCK_READ, bsa.BSA_BLOCK_WRITE])
def test_messages_without_their_fixed_part(layout):
    rig, _ = make()
    for words in (4, 5, 7):
        reply = rig.call(layout.build(target_address=DISK), words)
        assert failed(reply)[:2] == (5, Detail.PROTOCOL_FAILURE)


def test_writing_to_a_read_only_disk():
    rig, disk = make(read_only=True)
    before = disk.contents
    buffer = rig.buffer(512)
    assert failed(rig.call(write(0, 512, into(buffer)))) == (5, Detail.WRITE_PROTECTED, 0, 0)
    frame = request(bsa.BSA_BLOCK_WRITE_VERIFY, 0, 512, into(buffer))
    assert failed(rig.call(frame))[:2] == (5, Detail.WRITE_PROTECTED)
    frame = bsa.BSA_BLOCK_REASSIGN.build(target_address=DISK)
    assert failed(rig.call(frame))[:2] == (5, Detail.WRITE_PROTECTED)
    assert transferred(rig.call(read(0, 512, into(buffer)))) == 512
    assert rig.call(simple(bsa.BSA_CACHE_FLUSH)).status == PLAIN
    assert disk.contents == before
    info = rig.iop.lct.devices[DISK].parameters.group(0).packed()
    record = bsa_groups.BSA_DEVICE_INFO.unpack_from(info)
    assert record.device_state & record.device_capability_support & 0x20


# --- errors of the store -----------------------------


@pytest.mark.parametrize(
    ("number", "detail"),
    [
        (errno.EIO, Detail.MEDIA_ERROR),
        (errno.ENOSPC, Detail.DEVICE_FAILURE),
        (errno.EROFS, Detail.WRITE_PROTECTED),
        (errno.EBUSY, Detail.DEVICE_NOT_READY),
        (None, Detail.DEVICE_FAILURE),
    ],
)
def test_errors_of_the_store_become_error_replies(way, number, detail):
    rig, disk = make(way)
    buffer = rig.buffer(1024)
    error = OSError(number, "injected") if number else OSError("no number")
    disk.fail = {"read": error, "write": error}
    assert failed(rig.call(read(512, 1024, into(buffer)))) == (5, detail, 0, 512)
    assert failed(rig.call(write(512, 1024, into(buffer)))) == (4, detail, 0, 512)
    log = rig.iop.lct.devices[DISK].state.errors
    assert [(row["function"], row["detailed_error_code"]) for row in log] == [
        (0x30, detail),
        (0x31, detail),
    ]


def test_what_was_done_before_the_error_is_told():
    rig, disk = make()
    disk.fail = {"read": StoreError(errno.EIO, "bad block", 512)}
    reply = rig.call(read(1024, 2048, into(rig.buffer(2048))))
    assert failed(reply) == (6, Detail.MEDIA_ERROR, 512, 1536)
    disk.fail = {"write": StoreError(errno.EIO, "bad block", 1024)}
    reply = rig.call(write(1024, 2048, into(rig.buffer(2048))))
    assert failed(reply) == (6, Detail.MEDIA_ERROR, 1024, 2048)


def test_a_failed_flush_is_an_error_reply():
    rig, disk = make(removable=True)
    disk.fail = {"flush": OSError(errno.EIO, "injected")}
    assert failed(rig.call(simple(bsa.BSA_CACHE_FLUSH))) == (5, Detail.MEDIA_FAILURE, 0, 0)
    assert failed(rig.call(simple(bsa.BSA_MEDIA_EJECT)))[:2] == (5, Detail.MEDIA_FAILURE)
    assert failed(rig.call(power(0x24)))[:2] == (5, Detail.MEDIA_FAILURE)
    buffer = rig.buffer(512)
    assert failed(rig.call(write(0, 512, into(buffer), control_flags=8)))[:2] == (4, 1)
    assert rig.call(simple(bsa.BSA_STATUS_CHECK)).status == PLAIN


# --- durability -----------------------------


@pytest.mark.parametrize(
    ("flags", "flushed"), [(0, False), (0x10, False), (0x04, True), (0x08, True)]
)
def test_write_through_flags(flags, flushed):
    rig, disk = make()
    rig.call(write(0, 512, into(rig.buffer(512)), control_flags=flags))
    assert disk.log == ["write", "flush"][: 1 + flushed]


def test_the_write_policy_decides_too():
    rig, disk = make()
    operation = struct.pack("<4H", 6, 3, 1, 3) + b"\2\0"
    rig.parameters(DISK, operation, set_=True)
    rig.call(write(0, 512, into(rig.buffer(512))))
    assert disk.log == ["write", "flush"]


def test_write_verify_reads_back(way):
    rig, disk = make(way)
    frame = request(bsa.BSA_BLOCK_WRITE_VERIFY, 1024, 1024, into(rig.buffer(bytes([3]) * 1024)))
    assert transferred(rig.call(frame)) == 1024
    assert disk.log == ["write", "flush", "read"]
    assert disk.contents[1024:2048] == bytes([3]) * 1024


def test_write_verify_notices_a_difference():
    rig, disk = make()
    inner = disk.flush

    def spoil():
        inner()
        disk._data[1024 + 700] ^= 1

    disk.flush = spoil
    frame = request(bsa.BSA_BLOCK_WRITE_VERIFY, 1024, 1024, into(rig.buffer(1024)))
    assert failed(rig.call(frame)) == (6, Detail.MEDIA_ERROR, 700, 1724)
    disk.flush = inner
    disk.fail = {"read": OSError(errno.EIO, "injected")}
    assert failed(rig.call(frame)) == (5, Detail.MEDIA_ERROR, 0, 1024)


def test_write_verify_of_immediate_data_and_buckets():
    rig, disk = make()
    sgl = immediate_element(bytes([1]) * 256) + struct.pack("<II", 0xC8000100, 0)
    assert transferred(rig.call(request(bsa.BSA_BLOCK_WRITE_VERIFY, 0, 512, sgl))) == 512
    assert disk.contents[:512] == bytes([1]) * 256 + bytes(256)


# --- the other messages -----------------------------


def simple(layout, **fields: int) -> bytes:
    return layout.build(target_address=DISK, **fields)


def power(operation: int, **fields: int) -> bytes:
    return simple(bsa.BSA_POWER_MANAGEMENT, operation=operation, **fields)


def verify(address: int, count: int, **fields: int) -> bytes:
    return simple(bsa.BSA_MEDIA_VERIFY, byte_count=count, logical_byte_address=address, **fields)


def test_media_verify_is_a_long_operation():
    rig, disk = make(size=12 * CHUNK)
    rig.post(verify(0, 12 * CHUNK))
    rig.post(simple(bsa.BSA_STATUS_CHECK))
    assert rig.run(budget=4) == 0
    assert rig.reap().data[7] == Function.BSA_STATUS_CHECK  # it does not wait
    assert len(disk.log) == 2
    (reply,) = rig.replies()
    assert transferred(reply) == 12 * CHUNK
    assert disk.log == ["read"] * 12


def test_media_verify_reports_its_progress():
    rig, _ = make(size=25 * CHUNK)
    rig.post(verify(CHUNK, 24 * CHUNK, control_flags=0x80))
    *reports, final = rig.replies()
    assert transferred(final) == 24 * CHUNK
    percents = [bsa.BSA_PROGRESS_REPLY.unpack_from(r.data).percent_complete for r in reports]
    assert percents == sorted(percents)
    assert 5 <= len(percents) <= 10
    assert {(r.flags, r.status) for r in reports} == {(0x80, (ReqStatus.PROGRESS_REPORT, 0))}


def test_media_verify_finds_bad_places_and_wrong_ranges():
    rig, disk = make(size=4 * CHUNK)
    assert failed(rig.call(verify(512, 4 * CHUNK)))[:2] == (5, Detail.ACCESS_ERROR)
    assert failed(rig.call(verify(1, 512)))[:2] == (5, Detail.PROTOCOL_FAILURE)
    assert transferred(rig.call(verify(0, 0))) == 0
    seen = []
    inner = disk.read_into

    def bad(offset, views):
        seen.append(offset)
        if offset == 2 * CHUNK:
            raise StoreError(errno.EIO, "bad", 1024)
        inner(offset, views)

    disk.read_into = bad
    assert failed(rig.call(verify(0, 4 * CHUNK))) == (6, 1, 2 * CHUNK + 1024, 2 * CHUNK + 1024)
    assert seen == [0, CHUNK, 2 * CHUNK]


def test_a_verification_can_be_aborted():
    rig, disk = make(size=8 * CHUNK)
    rig.post(verify(0, 8 * CHUNK, transaction_context=4))
    rig.run(budget=2)
    assert not rig.iop.lct.devices[DISK]._is_busy(2)
    assert rig.iop.lct.devices[DISK]._is_busy(1)
    rig.post(utility.UTIL_ABORT.build(target_address=DISK, abort_type=3))
    aborted, count = rig.replies()
    assert (aborted.words[3], aborted.status, count.words[4]) == (4, (2, 0), 1)
    assert len(disk.log) == 1


def test_format_is_refused():
    frame = bytearray(simple(bsa.BSA_STATUS_CHECK))
    frame[7] = Function.BSA_MEDIA_FORMAT
    assert failed(make()[0].call(bytes(frame)))[:2] == (5, Detail.PROTOCOL_FAILURE)


def test_reassign_reads_its_list_and_succeeds():
    rig, _ = make()
    frame = simple(bsa.BSA_BLOCK_REASSIGN)
    assert rig.call(frame + into(rig.buffer(16))).status == PLAIN
    assert rig.call(frame + immediate_element(bytes(8), last=True)).status == PLAIN
    assert failed(rig.call(frame + simple_sgl([(HOLE, 8)], out=True)))[:2] == (
        5,
        Detail.BUS_FAILURE,
    )


def test_a_fixed_disk_cannot_be_ejected_but_locked():
    rig, _ = make()
    assert failed(rig.call(simple(bsa.BSA_MEDIA_EJECT)))[:2] == (5, Detail.PROTOCOL_FAILURE)
    for layout in (bsa.BSA_MEDIA_MOUNT, bsa.BSA_MEDIA_LOCK, bsa.BSA_MEDIA_UNLOCK):
        assert rig.call(simple(layout, media_identifier=0xFFFFFFFF)).status == PLAIN


def test_the_life_of_a_removable_medium():
    rig, disk = make(removable=True)
    rig.post(utility.UTIL_EVENT_REGISTER.build(target_address=DISK, event_mask=0x7))
    assert rig.replies() == []
    eject, check = simple(bsa.BSA_MEDIA_EJECT), simple(bsa.BSA_STATUS_CHECK)

    assert rig.call(simple(bsa.BSA_MEDIA_LOCK)).status == PLAIN
    rig.post(eject)
    event, refused = rig.replies()
    assert event.words[4] == BsaEvent.VOLUME_UNLOAD_REQUEST
    assert failed(refused)[:2] == (5, Detail.MEDIA_LOCKED)
    assert rig.call(simple(bsa.BSA_MEDIA_UNLOCK)).status == PLAIN
    rig.post(eject)
    event, done = rig.replies()
    assert (event.words[4], done.status) == (BsaEvent.VOLUME_UNLOAD, PLAIN)
    assert disk.log == ["flush"]

    assert failed(rig.call(check))[:2] == (5, Detail.MEDIA_NOT_PRESENT)
    assert failed(rig.call(eject))[:2] == (5, Detail.MEDIA_NOT_PRESENT)
    assert failed(rig.call(simple(bsa.BSA_MEDIA_LOCK)))[:2] == (5, Detail.MEDIA_NOT_PRESENT)
    assert failed(rig.call(simple(bsa.BSA_CACHE_FLUSH)))[:2] == (5, Detail.MEDIA_NOT_PRESENT)
    assert failed(rig.call(read(0, 512)))[:2] == (5, Detail.MEDIA_NOT_PRESENT)
    assert rig.iop.lct.devices[DISK].parameters.group(4).packed()[:8] == bytes(8)

    rig.post(simple(bsa.BSA_MEDIA_MOUNT, load_flags=0x80))
    event, done = rig.replies()
    assert (event.words[4], done.status) == (BsaEvent.VOLUME_LOAD, PLAIN)
    assert rig.call(check).status == PLAIN
    assert rig.iop.lct.devices[DISK].state.is_locked


def test_power_states():
    rig, disk = make(removable=True)
    state = rig.iop.lct.devices[DISK].state
    check = simple(bsa.BSA_STATUS_CHECK)
    assert rig.call(power(0x24)).status == PLAIN
    assert disk.log == ["flush"]
    assert failed(rig.call(check))[:2] == (5, Detail.DEVICE_NOT_READY)
    assert transferred(rig.call(read(0, 512, into(rig.buffer(512))))) == 512  # powers it up
    assert rig.call(check).status == PLAIN
    rig.parameters(DISK, struct.pack("<4HI", 6, 2, 1, 1, 0), set_=True)  # not on access
    assert rig.call(power(0x20)).status == PLAIN
    assert failed(rig.call(read(0, 512, into(rig.buffer(512)))))[:2] == (5, Detail.DEVICE_NOT_READY)
    assert rig.call(power(0x02)).status == PLAIN
    assert rig.call(check).status == PLAIN
    assert rig.call(power(0x23)).status == PLAIN
    assert not state.is_loaded
    assert rig.call(power(0x03)).status == PLAIN
    assert state.is_up
    rig.call(simple(bsa.BSA_MEDIA_LOCK))
    assert rig.call(power(0x22)).status == PLAIN
    assert state.is_loaded
    assert rig.call(power(0x01)).status == PLAIN
    for unknown in (0x04, 0x99, 0):
        assert failed(rig.call(power(unknown)))[:2] == (5, Detail.PROTOCOL_FAILURE)


def test_power_as_linux_asks_for_it():
    rig, _ = make()
    state = rig.iop.lct.devices[DISK].state
    assert rig.call(power(0, reply_type=0x24), 5).status == PLAIN
    assert state.power_state == 0x24
    assert rig.call(power(0, reply_type=0x21)).status == PLAIN
    assert state.power_state == 0x21
    assert rig.call(power(0), 4).status == PLAIN  # the operation did not come along
    assert state.is_up


def test_a_reset_powers_up_and_loads():
    rig, _ = make(removable=True)
    rig.call(simple(bsa.BSA_MEDIA_EJECT))
    rig.call(power(0x20))
    rig.iop.power_cycle()
    rig.bring_up()
    assert rig.call(simple(bsa.BSA_STATUS_CHECK)).status == PLAIN


def test_a_utility_message_keeps_the_common_codes():
    rig, _ = make()
    frame = utility.UTIL_PARAMS_GET.build(target_address=DISK) + struct.pack("<II", 0x74000000, 0)
    reply = rig.call(frame)
    assert (reply.status, reply.words[5]) == ((0x0B, 0x10), 20)


def test_no_reply_of_the_class_is_longer_than_8_words():
    rig, _ = make()
    for code in range(0x100):
        frame = bytearray(read(0, 512))
        frame[7] = code
        rig.post(bytes(frame))
        for reply in rig.replies():
            assert len(reply.data) <= 32
            assert not reply.flags & 0x20
    assert rig.account() == 16
