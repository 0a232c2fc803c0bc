# SPDX-License-Identifier: Apache-2.0
"""Block devices: any offset and size, several requests in flight, errors and late replies."""

from __future__ import annotations

import io
import os
import random
import tarfile
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

import i2o
from i2o import block, capture
from i2o.block import BlockDevice
from i2o.clock import ManualClock
from i2o.errors import (
    InvalidArgument,
    OutOfFrames,
    ParameterError,
    RequestFailed,
    RequestTimeout,
)
from i2o.flight import raise_for_transfer
from i2o.frames.block_storage import (
    BSA_BLOCK_READ,
    BSA_BLOCK_WRITE,
    BSA_ERROR_REPLY,
    BsaDetailedStatus,
)
from i2o.frames.header import ReqStatus
from i2o.frames.sgl import MAX_COUNT, SGE_SIMPLE, simple_sgl
from i2o.message_frames import ReplyFrame
from i2o.transport.bus_space import BusSpace
from i2o.transport.port import RequestLimits
from i2o.transport.registry import open_port

SIZE = 4 << 20


@pytest.fixture
def image(tmp_path):
    path = tmp_path / "disk.img"
    path.write_bytes(random.Random(1).randbytes(SIZE))
    return path


@pytest.fixture
def iop(image):
    with i2o.open(f"emu:?disk={image}") as opened:
        yield opened


@pytest.fixture
def disk(iop):
    return iop.block()


def buffers_in_use(iop) -> int:
    return iop.memory.buffer_count


@pytest.fixture(params=["mapped", "copied"])
def either(request, iop, monkeypatch):
    """A disk whose transport can reach the caller's memory, and one whose transport cannot."""
    if request.param == "copied":
        monkeypatch.setattr(BusSpace, "map", lambda self, buffer: None)
    before = buffers_in_use(iop)
    yield iop.block()
    assert buffers_in_use(iop) == before, "every buffer was freed"


@pytest.mark.parametrize(
    ("offset", "length"),
    [
        (0, 0), (0, 1), (0, 512), (1, 510), (1, 511), (1, 512), (511, 1), (511, 2), (511, 514),
        (512, 512), (100, 5000), (0, SIZE), (SIZE - 1, 1), (SIZE, 0), (3, SIZE - 7),
        (262144 - 512, 1024), (1024, 3 * 262144), (1025, 3 * 262144),
    ],
)  # fmt: skip
def test_any_offset_and_size(either, image, offset, length):
    content = image.read_bytes()
    assert either.read(offset, length) == content[offset : offset + length]
    new = random.Random(2).randbytes(length)
    assert either.write(offset, new) == length
    either.flush()
    assert image.read_bytes() == content[:offset] + new + content[offset + length :]


@pytest.mark.parametrize("size", [512, 3 * 262144])
def test_success_that_moved_less_than_asked_is_none(either, size):
    finish = either._requester.finish

    def short(pending, *limits, **options):
        reply = finish(pending, *limits, **options)
        reply[20:24] = (511).to_bytes(4, "little")
        return reply

    either._requester.finish = short
    for transfer in (lambda: either.read(0, size), lambda: either.write(0, bytes(size))):
        with pytest.raises(RequestFailed, match=r"it moved 511 of (512|262144) bytes") as caught:
            transfer()
        assert (caught.value.req_status, caught.value.transfer_count) == (0, 511)


def test_a_reply_without_a_count_is_believed(disk):
    finish = disk._requester.finish
    disk._requester.finish = lambda *a, **k: type(reply := finish(*a, **k))(reply[:20])
    disk.read(0, 4096)


def test_readinto_fills_the_callers_buffer(disk, image):
    buffer = bytearray(b"\xff" * 1000)
    assert disk.readinto(10, memoryview(buffer)[100:900]) == 800
    assert buffer == b"\xff" * 100 + image.read_bytes()[10:810] + b"\xff" * 100


def test_large_transfers_have_several_requests_in_flight(iop, disk):
    seen = []
    start = disk._requester.start

    def counted(message, **options):
        pending = start(message, **options)
        seen.append(disk._requester.in_flight)
        return pending

    disk._requester.start = counted
    disk.read(0, SIZE)
    assert len(seen) == SIZE // disk.max_transfer
    assert max(seen) == disk.queue_depth


@pytest.mark.parametrize(
    ("offset", "length"), [(-1, 1), (0, -1), (0, SIZE + 1), (SIZE, 1), (SIZE + 5, 0), (1 << 70, 1)]
)
def test_ranges_outside_the_device(disk, offset, length):
    with pytest.raises(InvalidArgument):
        disk.read(offset, length)
    if length >= 0:
        with pytest.raises(InvalidArgument):
            disk.write(offset, bytes(min(length, SIZE + 1)))


def test_progress_adds_up(disk):
    seen = []
    disk.read(100, 1 << 20, progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (1 << 20, 1 << 20)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert len(seen) >= 4
    seen.clear()
    disk.write(100, bytes(1 << 20), progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (1 << 20, 1 << 20)


def test_as_file(disk, image):
    content = image.read_bytes()
    with disk.as_file() as file:
        assert file.read(10) == content[:10]
        assert file.seek(-20, os.SEEK_END) == SIZE - 20
        assert file.read(100) == content[-20:]
        assert file.read(1) == b""
        file.seek(5)
        file.seek(5, os.SEEK_CUR)
        assert file.read(2) == content[10:12]
        assert not file.writable()
        with pytest.raises(ValueError, match="seek"):
            file.raw.seek(-1)
        with pytest.raises(ValueError, match="seek"):
            file.raw.seek(0, 9)
        with pytest.raises(io.UnsupportedOperation):
            file.raw.write(b"x")
    disk.status_check()  # closing the file left the device open


def test_as_writable_file(disk, image):
    with disk.as_file(writable=True) as file:
        file.seek(1000)
        file.write(b"hello")
        file.seek(SIZE - 2)
        file.write(b"12")
        file.flush()
        with pytest.raises(OSError, match="No space"):
            file.raw.write(b"more")
        assert file.raw.write(b"") == 0
    content = image.read_bytes()
    assert content[1000:1005] == b"hello"
    assert content[-2:] == b"12"


def test_an_archive_straight_from_the_disk(disk):
    with disk.as_file(writable=True) as file, tarfile.open(fileobj=file, mode="w") as archive:
        for name in ("a", "b/c"):
            info = tarfile.TarInfo(name)
            info.size = 70_000
            archive.addfile(info, io.BytesIO(name.encode() * 70_000))
    with disk.as_file() as file, tarfile.open(fileobj=file) as archive:
        assert archive.getnames() == ["a", "b/c"]
        assert archive.extractfile("b/c").read() == (b"b/c" * 70_000)[:70_000]


def test_claims(iop):
    disk = iop.block()
    assert iop.device(disk.tid).is_free, "the table is as it was read before the claim"
    iop.refresh()
    assert not iop.device(disk.tid).is_free
    with pytest.raises(RequestFailed, match="UtilClaim"):
        iop.block(disk.tid)
    disk.close()
    disk.close()
    with pytest.raises(InvalidArgument, match="closed"):
        disk.read(0, 1)
    with iop.block(disk.tid) as again:
        again.read(0, 1)
    iop.refresh()
    assert iop.device(disk.tid).is_free


def test_opening_what_is_no_disk(iop):
    with pytest.raises(InvalidArgument, match="no device has TID 0x7ff"):
        iop.block(0x7FF)


def test_a_read_only_image_is_write_protected(image):
    content = image.read_bytes()
    with i2o.open(f"emu:?disk={image},ro") as iop, iop.block() as disk:
        assert disk.read_only
        with pytest.raises(RequestFailed, match="WRITE_PROTECTED") as caught:
            disk.write(0, bytes(512))
        assert caught.value.detail == BsaDetailedStatus.WRITE_PROTECTED
    assert image.read_bytes() == content


def test_an_error_ends_the_transfer_and_frees_its_buffers(iop, disk, image):
    before = buffers_in_use(iop)
    os.truncate(image, SIZE // 2)
    with pytest.raises(RequestFailed) as caught:
        disk.read(0, SIZE)
    assert caught.value.req_status
    assert buffers_in_use(iop) == before
    assert iop.requester.in_flight == 0
    assert disk.read(0, 4096) == image.read_bytes()[:4096]


@pytest.mark.parametrize("mode", ["mapped", "copied"])
@pytest.mark.parametrize(
    ("offset", "length", "delivered"),
    [
        (0, SIZE, 700 * 512),  # the second of many requests
        (512, 700 * 512, 699 * 512),
        (100, SIZE - 200, 700 * 512 - 100),  # part of a block in front
        (700 * 512, 512, 0),
        (700 * 512 + 1, 10, 0),
        (698 * 512, 2 * 512 + 1, 2 * 512),  # part of the bad block behind
    ],
)
def test_a_failing_read_says_what_it_delivered(image, monkeypatch, mode, offset, length, delivered):
    if mode == "copied":
        monkeypatch.setattr(BusSpace, "map", lambda self, buffer: None)
    buffer = bytearray(b"\xee" * length)
    with i2o.open(f"emu:?disk={image},bad=700-703") as iop, iop.block() as disk:
        before = buffers_in_use(iop)
        with pytest.raises(RequestFailed, match="MEDIA_ERROR") as caught:
            disk.readinto(offset, buffer)
        assert buffers_in_use(iop) == before
    assert caught.value.delivered == delivered
    assert caught.value.address == 700 * 512
    assert buffer[:delivered] == image.read_bytes()[offset : offset + delivered]
    assert set(buffer[delivered : delivered + 512]) == {0xEE}, "nothing behind it"


def reply_of(**fields) -> ReplyFrame:
    return ReplyFrame(BSA_ERROR_REPLY.build(**fields))


def test_what_a_device_claims_to_have_delivered_is_bounded():
    status = {"req_status": ReqStatus.ERROR_PARTIAL_TRANSFER, "detailed_status_code": 1}
    reply = reply_of(**status, transfer_count=0xFFFF_FFFF, logical_byte_address=7)
    with pytest.raises(RequestFailed) as caught:
        raise_for_transfer(reply, 4096, "a read", 512)
    assert (caught.value.delivered, caught.value.address) == (4608, 7)


def test_a_count_without_a_partial_transfer_is_none_delivered():
    status = {"req_status": ReqStatus.ERROR_NO_DATA_TRANSFER, "detailed_status_code": 1}
    with pytest.raises(RequestFailed) as caught:
        raise_for_transfer(reply_of(**status, transfer_count=512), 4096, "a read")
    assert caught.value.delivered == 0
    short = ReplyFrame(bytes(reply_of(**status, transfer_count=512))[:24])
    with pytest.raises(RequestFailed) as caught:
        raise_for_transfer(short, 4096, "a read")
    assert caught.value.address is None


def test_late_replies_free_their_buffers(image, tmp_path):
    plan = tmp_path / "slow.toml"
    plan.write_text('[[fault]]\non = "bsa_block_read"\naction = "delay"\nms = 5000\ntimes = 3\n')
    clock = ManualClock()
    with i2o.open(f"emu:?disk={image}&faults={plan}", clock=clock, timeout_s=1) as iop:
        disk = iop.block()
        before = buffers_in_use(iop)
        with pytest.raises(RequestTimeout, match="bsa_block_read"):
            disk.read(0, 3 * disk.max_transfer)
        assert iop.requester.in_flight > 0
        assert buffers_in_use(iop) > before, "the IOP may still write to them"
        clock.advance(10)
        iop.layer.run_until(lambda: iop.requester.in_flight == 0, 1)
        assert buffers_in_use(iop) == before
        assert disk.read(0, 10) == image.read_bytes()[:10]


def test_a_device_that_tells_nonsense_is_refused(iop, monkeypatch):
    monkeypatch.setattr(
        "i2o.block.get_group", lambda *_: {"block_size": 500, "device_capacity": 1000}
    )
    with pytest.raises(ParameterError, match="block size of 500"):
        iop.block()
    iop.refresh()
    assert all(entry.is_free for entry in iop.of_class(0x10)), "the claim was given back"
    monkeypatch.setattr("i2o.block.get_group", lambda *_: {"block_size": 512})
    with pytest.raises(ParameterError, match="device_capacity"):
        iop.block()


def test_scattered_buffers_become_several_elements(iop, disk):
    class Scattered:
        """A buffer of three parts in bus address space."""

        def __init__(self, memory):
            self.parts = [memory.allocate(1024) for _ in range(3)]
            self.segments = tuple((part.bus_address, 1024) for part in self.parts)
            self.view = memoryview(bytearray(3072))

        def to_device(self, *_):
            for index, part in enumerate(self.parts):
                part.view[:] = self.view[1024 * index : 1024 * (index + 1)]

        def from_device(self, *_):
            for index, part in enumerate(self.parts):
                self.view[1024 * index : 1024 * (index + 1)] = part.view

        def free(self):
            for part in self.parts:
                part.free()

    class Memory:
        def __init__(self, memory):
            self._memory = memory

        def map(self, buffer):
            return None

        def allocate(self, size, align=4096):
            return Scattered(self._memory) if size == 3072 else self._memory.allocate(size, align)

    frame = iop.layer.inbound_frame_size(iop.number)
    scattered = BlockDevice(iop.requester, Memory(iop.memory), disk.tid, frame_size=frame)
    assert scattered.read(512, 3072) == disk.read(512, 3072)
    scattered.write(512, bytes(range(256)) * 12)
    assert disk.read(512, 3072) == bytes(range(256)) * 12
    for size, segments in ((32 + 16, 0), (frame, 2)):
        narrow = BlockDevice(
            iop.requester,
            Memory(iop.memory),
            disk.tid,
            frame_size=size,
            limits=RequestLimits(segments=segments),
        )
        with pytest.raises(InvalidArgument, match="lower max_transfer"):
            narrow.read(0, 3072)
        assert narrow.read(0, 512) == disk.read(0, 512)


@pytest.mark.parametrize("is_captured", [False, True], ids=["plain", "captured"])
def test_a_card_takes_requests_of_its_size_only(image, tmp_path, is_captured):
    port = open_port(f"emu:?disk={image}")
    port.request_limits = RequestLimits(sectors=128)
    sizes = []
    write = port.write

    def watched_write(mfa, frame):
        if frame[7] == BSA_BLOCK_READ.function:
            sizes.append(BSA_BLOCK_READ.unpack_from(frame).transfer_byte_count)
        write(mfa, frame)

    port.write = watched_write
    if is_captured:
        port = capture.capture(port, tmp_path / "a.pcapng")
    with i2o.open(port) as iop, iop.block() as disk:
        assert disk.read(0, 200 << 10) == image.read_bytes()[: 200 << 10]
        assert sizes == [64 << 10, 64 << 10, 64 << 10, 8 << 10]
        disk.max_transfer = 64 << 10
        with pytest.raises(InvalidArgument, match="the card takes 65536 bytes"):
            disk.max_transfer = (64 << 10) + 512
        assert disk.max_transfer == 64 << 10


@pytest.mark.parametrize(
    ("sectors", "wanted"), [(0, 256 << 10), (9, 4096), (7, 4096), (9999, 256 << 10)]
)
def test_the_largest_request_is_whole_blocks_and_one_at_least(tmp_path, sectors, wanted):
    image = tmp_path / "wide.img"
    with i2o.open(f"emu:?disk={image},block_size=4096,create=1M") as iop, iop.block() as disk:
        frame = iop.layer.inbound_frame_size(iop.number)
        limits = RequestLimits(sectors=sectors)
        limited = BlockDevice(iop.requester, iop.memory, disk.tid, frame_size=frame, limits=limits)
        assert limited.max_transfer == wanted


def test_a_frame_too_narrow_for_any_element_leaves_no_buffer_behind(either, iop):
    narrow = BlockDevice(iop.requester, iop.memory, either.tid, frame_size=BSA_BLOCK_READ.size)
    before = buffers_in_use(iop)
    for attempt in (
        lambda: narrow.read(0, 512),
        lambda: narrow.read(1, 3),
        lambda: narrow.read(0, 3 * narrow.max_transfer),
        lambda: narrow.write(0, bytes(512)),
        lambda: narrow.write(0, bytes(3 * narrow.max_transfer)),
    ):
        with pytest.raises(InvalidArgument, match="lower max_transfer"):
            attempt()
        assert buffers_in_use(iop) == before
    assert iop.requester.in_flight == 0


def test_a_device_that_never_answers_is_waited_for_once_more_not_once_a_request(image, tmp_path):
    plan = tmp_path / "lost.toml"
    plan.write_text('[[fault]]\non = "bsa_block_read"\naction = "drop"\n')
    clock = ManualClock()
    with i2o.open(
        f"emu:?disk={image}&faults={plan}", clock=clock, timeout_s=10, recovery=None
    ) as iop:
        disk = iop.block()
        start = clock.monotonic()
        with pytest.raises(RequestTimeout):
            disk.read(0, 6 * disk.max_transfer)
        assert iop.requester.in_flight == 6
        assert clock.monotonic() - start <= 2 * 10 + 1, "one for the read, one for its rest"


@given(
    tid=st.integers(1, 0xFFF),
    offset=st.integers(0, (1 << 63) - 1),
    address=st.integers(0, (1 << 30)),
    start=st.integers(0, (1 << 30)),
    size=st.integers(1, MAX_COUNT),
    layout=st.sampled_from([BSA_BLOCK_READ, BSA_BLOCK_WRITE]),
)
def test_the_transfer_in_one_piece_is_the_message_and_its_element(
    tid, offset, address, start, size, layout
):
    device = BlockDevice.__new__(BlockDevice)
    device.tid, device._max_elements = tid, 4
    buffer = SimpleNamespace(segments=((address, 1 << 40),))
    out = layout is BSA_BLOCK_WRITE
    message = device._message(layout, offset, buffer, start, size)
    head = layout.build(
        target_address=tid,
        message_size=(layout.size + SGE_SIMPLE.size) // 4,
        time_multiplier=1,
        transfer_byte_count=size,
        logical_byte_address=offset,
    )
    element = SGE_SIMPLE.build(
        flags_count_count=size,
        flags_count_flags=0xD4 if out else 0xD0,
        physical_address=address + start,
    )
    assert message == head + element
    assert element == simple_sgl(((address + start, size),), out=out)


def test_a_device_without_limits_takes_what_the_frame_holds(iop, monkeypatch):
    real = block.get_group

    def without_limits(requester, memory, tid, group):
        if group.number == 0xF103:
            raise ParameterError("no such group", 8)
        return real(requester, memory, tid, group)

    monkeypatch.setattr(block, "get_group", without_limits)
    assert iop.block().read(0, 10)


def test_a_request_that_cannot_be_sent_frees_its_buffer(iop, monkeypatch):
    monkeypatch.setattr(BusSpace, "map", lambda self, buffer: None)
    disk = iop.block()
    before = buffers_in_use(iop)
    unit = iop.layer.port(iop.number).soft_iop.unit
    unit.starve(True)
    with pytest.raises(OutOfFrames):
        disk.read(0, SIZE)
    unit.starve(False)
    assert buffers_in_use(iop) == before
    assert len(disk.read(0, SIZE)) == SIZE


def test_a_program_that_skips_close_loses_nothing_but_the_claim(iop, disk, image):
    disk.write(0, b"kept")
    iop.close()
    assert image.read_bytes()[:4] == b"kept"


class BlockMachine(RuleBasedStateMachine):
    """Random reads and writes through block messages agree with a plain bytearray."""

    size = 300 << 10

    @initialize(block_size=st.sampled_from([512, 4096]), run=st.sampled_from(["inline", "thread"]))
    def start(self, block_size, run):
        self.model = bytearray(self.size)
        self.path = f"/dev/shm/i2o-test-{os.getpid()}-{id(self)}.img"
        with open(self.path, "wb") as file:
            file.truncate(self.size)
        self.iop = i2o.open(f"emu:?disk={self.path},block_size={block_size}&run={run}")
        self.disk = self.iop.block()
        self.disk.max_transfer = 8192

    @rule(offset=st.integers(0, size - 1), length=st.integers(0, 40_000), seed=st.integers(0, 99))
    def write(self, offset, length, seed):
        data = random.Random(seed).randbytes(min(length, self.size - offset))
        self.disk.write(offset, data)
        self.model[offset : offset + len(data)] = data

    @rule(offset=st.integers(0, size - 1), length=st.integers(0, 40_000))
    def read(self, offset, length):
        length = min(length, self.size - offset)
        assert self.disk.read(offset, length) == self.model[offset : offset + length]

    @rule()
    def flush(self):
        self.disk.flush()
        with open(self.path, "rb") as file:
            assert file.read() == self.model

    @invariant()
    def nothing_is_in_flight(self):
        if hasattr(self, "iop"):
            assert self.iop.layer.outstanding(self.iop.number) == 0

    def teardown(self):
        if hasattr(self, "iop"):
            self.iop.close()
            os.unlink(self.path)


BlockMachine.TestCase.settings = settings(max_examples=25, stateful_step_count=20, deadline=None)
TestBlockMachine = BlockMachine.TestCase
