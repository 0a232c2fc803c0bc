# SPDX-License-Identifier: Apache-2.0
"""A tap at the device's side: what it tells of a software IOP behind it, and of a unit by hand."""

from __future__ import annotations

import pytest

from fakes.iop_rig import DISK, Rig
from i2o.capture import I2O_RULES
from i2o.decode.conversation import DMA, REPLY, REQUEST, Conversation, Traced
from i2o.errors import DmaFault
from i2o.frames import block_storage as bsa
from i2o.frames import executive, utility
from i2o.frames.functions import UNANSWERED
from i2o.frames.header import SINGLE_TRANSACTION_REPLY
from i2o.frames.sgl import chain_element, simple_sgl
from i2o.frames.tables import STATUS_BLOCK
from i2o.iop_emulator.block_store import MemoryDisk
from i2o.iop_emulator.soft_iop import SoftIop
from i2o.transport.bus_space import BusSpace
from i2o.transport.capture.capture_file import CaptureFile
from i2o.transport.capture.dma_tap import TapRules
from i2o.transport.capture.packet import Channel, Packet
from i2o.transport.capture.reader import open_capture
from i2o.transport.capture.recorder import PacketRecorder
from i2o.transport.capture.unit_tap import MAX_OPEN, TapUnit
from i2o.transport.local_unit import LocalUnit

IN, OUT, TO_DEVICE, FROM_DEVICE = Channel.IN, Channel.OUT, Channel.TO_DEVICE, Channel.FROM_DEVICE
CHECK = bsa.BSA_STATUS_CHECK.build(target_address=DISK)


class Tapped(Rig):
    """A software IOP behind a tap, and the packets."""

    def __init__(self, *, wants_dma: bool = True, dma_snap: int = 512, **options: object) -> None:
        self.packets: list[Packet] = []
        self.conversation = Conversation()
        super().__init__(up=False, **options)  # type: ignore[arg-type]
        recorder = PacketRecorder(self.packets.append, wants_dma=wants_dma, dma_snap=dma_snap)
        self.tap = TapUnit(self.unit, recorder, I2O_RULES)
        self.iop = SoftIop(self.tap, disks=[MemoryDisk(1 << 20)], complaints=self.complaints)
        self.bring_up()

    def news(self) -> list[Traced]:
        """Return what was told since the last time."""
        found = [self.conversation.feed(packet) for packet in self.packets]
        self.packets.clear()
        return found


@pytest.fixture
def rig() -> Tapped:
    rig = Tapped()
    rig.news()
    return rig


def kinds(found: list[Traced]) -> list[str]:
    return [traced.kind for traced in found]


def transfer(layout, address: int, size: int, *, context: int = 3, at: int = 0) -> bytes:
    sgl = simple_sgl([(address, size)], out=layout is bsa.BSA_BLOCK_WRITE)
    return (
        layout.build(
            target_address=DISK,
            transaction_context=context,
            transfer_byte_count=size,
            logical_byte_address=at,
            message_size=(layout.size + len(sgl)) // 4,
        )
        + sgl
    )


def by_hand(*, rules: TapRules = I2O_RULES, wants_dma: bool = True):
    """Return a tap whose IOP the test plays, what it tells, and the host's memory."""
    packets: list[Packet] = []
    memory = BusSpace()
    unit = LocalUnit(memory, frame_count=8, frame_size=128)
    tap = TapUnit(unit, PacketRecorder(packets.append, wants_dma=wants_dma), rules)
    pool = memory.allocate(8 * 64)
    for start in range(0, 8 * 64, 64):
        unit.release(pool.bus_address + start)
    return tap, packets, memory


def send(tap: TapUnit, frame: bytes) -> int:
    """Send a request, and let the tap fetch it."""
    mfa = tap.inner.alloc()
    tap.inner.write(mfa, frame)
    tap.inner.post(mfa)
    posted = tap.fetch()
    assert posted is not None
    tap.recycle(mfa)
    return mfa


def reply_to(request: bytes, *, flags: int = 0xC0, status: int = 0) -> bytes:
    frame = bytearray(SINGLE_TRANSACTION_REPLY.build(msg_flags=flags, req_status=status))
    frame[4:16] = request[4:16]
    return bytes(frame)


# --- frames --------------------------------------------------------------------------------------


def test_a_request_and_its_reply(rig):
    mfa = rig.unit._inbound_free[0]
    reply = rig.call(CHECK)
    request, answer = rig.news()
    assert (request.kind, request.packet.mfa, request.packet.data) == (REQUEST, mfa, CHECK)
    assert (answer.kind, answer.packet.data) == (REPLY, reply.data)
    assert answer.request is request
    assert request.packet.time_ns > 1_700_000_000_000_000_000
    assert answer.latency_ns >= 0


def test_a_request_is_cut_at_its_message_size():
    tap, packets, _ = by_hand()
    send(tap, utility.UTIL_NOP.build() + b"junk")
    send(tap, b"\x01\x00\x00\x00" + bytes(36))
    assert [packet.data for packet in packets] == [utility.UTIL_NOP.build(), b"\1" + bytes(11)]


def test_nothing_is_told_of_an_empty_queue():
    tap, packets, _ = by_hand()
    assert tap.fetch() is None
    assert packets == []


def test_a_reply_that_never_reaches_the_host_is_none():
    tap, packets, _ = by_hand()
    with pytest.raises(DmaFault):
        tap.post_reply(0xDEAD0000, reply_to(CHECK))
    assert packets == []


def test_bring_up_is_seen_whole():
    rig = Tapped()
    found = rig.news()
    assert {traced.name for traced in found[:-2]} == {"exec_outbound_init"}
    assert {traced.name for traced in found[-2:]} == {"exec_sys_enable"}
    assert found[0].kind == REQUEST
    assert kinds(found)[-2:] == [REQUEST, REPLY]
    assert {traced.packet.channel for traced in found if traced.kind == DMA} == {FROM_DEVICE}
    assert rig.conversation.unanswered() == 0


def test_the_rest_is_the_unit_s_own(rig):
    unit, tap = rig.unit, rig.tap
    assert (tap.frame_size, tap.frame_count, tap.inner) == (512, 16, unit)
    for name in ("recycle", "preserve", "withdraw", "take_reply_frame", "starve", "refill",
                 "make_static", "renew_static", "end_static", "idle_inbound", "posted_inbound",
                 "idle_outbound", "posted_outbound"):  # fmt: skip
        assert getattr(tap, name) == getattr(unit, name)


# --- DMA -----------------------------------------------------------------------------------------


def test_data_read_from_a_disk_stand_in_front_of_their_reply(rig):
    buffer = rig.buffer(4096)
    rig.call(transfer(bsa.BSA_BLOCK_READ, buffer.bus_address, 4096))
    request, data, reply = rig.news()
    assert kinds([request, data, reply]) == [REQUEST, DMA, REPLY]
    assert data.packet.channel == FROM_DEVICE
    assert (data.packet.address, data.packet.length) == (buffer.bus_address, 4096)
    assert data.packet.mfa == request.packet.mfa
    assert data.request is request
    assert len(data.packet.data) == 512 - 8  # bulk data are cut


def test_data_written_to_a_disk_are_what_the_host_had(rig):
    buffer = rig.buffer(bytes(range(256)) * 2)
    rig.call(transfer(bsa.BSA_BLOCK_WRITE, buffer.bus_address, 512))
    request, data, _reply = rig.news()
    assert data.packet.channel == TO_DEVICE
    assert data.packet.data == (bytes(range(256)) * 2)[: 512 - 8]
    assert (data.buffer, data.offset, data.request) == (0, 0, request)


def test_what_a_read_wrote_is_told_when_it_is_there(rig):
    written = rig.buffer(b"\x5a" * 512)
    rig.call(transfer(bsa.BSA_BLOCK_WRITE, written.bus_address, 512))
    rig.news()
    buffer = rig.buffer(512)
    rig.call(transfer(bsa.BSA_BLOCK_READ, buffer.bus_address, 512))
    assert rig.news()[1].packet.data == b"\x5a" * 504


def test_tables_are_kept_whole(rig):
    buffer = rig.buffer(4096)
    rig.call(
        executive.EXEC_LCT_NOTIFY.build(class_identifier=0xFFFFFFFF)
        + simple_sgl([(buffer.bus_address, 4096)], out=False)
    )
    request, *data, _reply = rig.news()
    assert data
    assert all(piece.request is request and piece.kind == DMA for piece in data)
    size = sum(len(piece.packet.data) for piece in data)
    assert size == sum(piece.packet.length for piece in data) > 100
    assert b"".join(piece.packet.data for piece in data) == bytes(buffer.view[:size])


def test_the_answer_to_a_status_get_is_its_memory(rig):
    buffer = rig.buffer(STATUS_BLOCK.size)
    rig.post(
        executive.EXEC_STATUS_GET.build(
            reply_buffer_address_low=buffer.bus_address, reply_buffer_length=STATUS_BLOCK.size
        )
    )
    rig.run()
    request, *data = rig.news()
    assert [piece.request for piece in data] == [request] * len(data)
    assert b"".join(piece.packet.data for piece in data) == bytes(buffer.view)


def test_a_reset_is_seen(rig):
    word = rig.buffer(4)
    rig.post(executive.EXEC_IOP_RESET.build(status_word_low_address=word.bus_address))
    rig.run()
    request, *data = rig.news()
    assert data
    assert {piece.request for piece in data} == {request}
    assert int.from_bytes(data[-1].packet.data, "little") == 1


def test_data_that_were_not_moved_are_not_told(rig):
    buffer = rig.buffer(4096)
    reply = rig.call(transfer(bsa.BSA_BLOCK_READ, buffer.bus_address, 4096, at=1 << 40))
    assert reply.status[0] != 0
    assert kinds(rig.news()) == [REQUEST, REPLY]


def test_without_dma_there_are_frames_alone():
    rig = Tapped(wants_dma=False)
    rig.news()
    buffer = rig.buffer(512)
    rig.call(transfer(bsa.BSA_BLOCK_READ, buffer.bus_address, 512))
    assert rig.tap.dma is rig.unit.dma
    assert kinds(rig.news()) == [REQUEST, REPLY]


# --- whose DMA it is -----------------------------------------------------------------------------


def test_dma_of_a_request_that_waited_is_its_own():
    """Others were fetched in the meantime, into the same frame, too."""
    tap, packets, memory = by_hand()
    early, late = memory.allocate(512), memory.allocate(512)
    first = transfer(bsa.BSA_BLOCK_READ, early.bus_address, 512, context=1)
    second = transfer(bsa.BSA_BLOCK_READ, late.bus_address, 512, context=2)
    one, two = send(tap, first), send(tap, second)
    packets.clear()
    tap.dma.write(early.bus_address, b"early")
    tap.dma.write(late.bus_address + 100, b"late")
    tap.dma.write(0x10 + late.bus_address, b"late")
    assert [packet.mfa for packet in packets] == [one, two, two]
    assert [packet.data for packet in packets] == [b"early", b"late", b"late"]


def test_views_are_told_with_the_reply_of_their_request():
    tap, packets, memory = by_hand()
    buffers = [memory.allocate(64) for _ in range(2)]
    requests = [
        transfer(bsa.BSA_BLOCK_READ, buffer.bus_address, 64, context=number)
        for number, buffer in enumerate(buffers)
    ]
    mfas = [send(tap, request) for request in requests]
    views = [
        tap.dma.windows([(buffer.bus_address, 32), (buffer.bus_address + 32, 32)], writable=True)
        for buffer in buffers
    ]
    packets.clear()
    views[0][0][:] = b"A" * 32
    views[1][0][:] = b"B" * 32
    views[1][1][:] = b"C" * 32
    tap.post_reply(tap.take_reply_frame(), reply_to(requests[1]))
    assert [(packet.channel, packet.mfa, packet.data[:1]) for packet in packets[:2]] == [
        (FROM_DEVICE, mfas[1], b"B"),
        (FROM_DEVICE, mfas[1], b"C"),
    ]
    assert packets[2].channel == OUT
    packets.clear()
    tap.post_reply(tap.take_reply_frame(), reply_to(requests[0], flags=0x80))  # not the last
    assert [packet.data[:1] for packet in packets[:2]] == [b"A", b"\0"]
    packets.clear()
    tap.post_reply(tap.take_reply_frame(), reply_to(requests[0]))
    assert len(packets) == 1  # nothing is told twice
    assert not tap._open._requests  # and both are done


@pytest.mark.parametrize("answer", [{"status": 0x05}, {"flags": 0xE0}])
def test_views_of_what_failed_are_not_told(answer):
    tap, packets, memory = by_hand()
    buffer = memory.allocate(64)
    request = transfer(bsa.BSA_BLOCK_READ, buffer.bus_address, 64)
    send(tap, request)
    tap.dma.windows([(buffer.bus_address, 64)], writable=True)
    packets.clear()
    tap.post_reply(tap.take_reply_frame(), reply_to(request, **answer))
    assert [packet.channel for packet in packets] == [OUT]


def test_a_view_that_was_only_a_check_is_told_once():
    tap, packets, memory = by_hand()
    buffer = memory.allocate(64)
    request = transfer(bsa.BSA_BLOCK_READ, buffer.bus_address, 64)
    send(tap, request)
    tap.dma.windows([(buffer.bus_address, 32), (buffer.bus_address + 32, 32)], writable=True)
    packets.clear()
    tap.dma.write(buffer.bus_address, b"x" * 32)
    tap.post_reply(tap.take_reply_frame(), reply_to(request))
    assert [(packet.channel, packet.address) for packet in packets[:2]] == [
        (FROM_DEVICE, buffer.bus_address),
        (FROM_DEVICE, buffer.bus_address + 32),
    ]
    assert len(packets) == 3


def test_where_there_are_no_views_none_are_told():
    tap, packets, _memory = by_hand()
    send(tap, CHECK)
    packets.clear()
    tap.dma._dma = type("Copying", (), {"windows": lambda *_, **__: None})()
    assert tap.dma.windows([(0x1000, 4)], writable=True) is None
    assert packets == []


def test_memory_that_nobody_points_to_goes_with_the_latest_request():
    tap, packets, memory = by_hand()
    buffer = memory.allocate(64)
    send(tap, CHECK)
    mfa = send(tap, CHECK)
    tap.dma.write(buffer.bus_address, b"stray")
    assert packets[-1].mfa == mfa
    tap, packets, memory = by_hand(rules=TapRules())
    buffer = memory.allocate(64)
    mfa = send(tap, transfer(bsa.BSA_BLOCK_READ, buffer.bus_address, 64))
    tap.dma.read(buffer.bus_address, 4)
    assert (packets[-1].mfa, packets[-1].channel) == (mfa, TO_DEVICE)


def test_a_list_that_cannot_be_read_spoils_nothing():
    tap, packets, memory = by_hand()
    buffer = memory.allocate(64)
    head = bsa.BSA_BLOCK_READ.build(
        target_address=DISK,
        transfer_byte_count=64,
        message_size=(bsa.BSA_BLOCK_READ.size + 8) // 4,
    )
    mfa = send(tap, head + chain_element(0xDEAD0000, 8))
    tap.dma.write(buffer.bus_address, b"data")
    assert packets[-1].mfa == mfa


def test_what_is_open_is_bounded_and_ends_with_the_queues():
    tap, packets, memory = by_hand()
    buffer = memory.allocate(64)
    request = transfer(bsa.BSA_BLOCK_READ, buffer.bus_address, 64)
    for _ in range(MAX_OPEN + 5):
        send(tap, request)
    assert len(tap._open._requests) == MAX_OPEN
    tap.drop_replies()
    assert len(tap._open._requests) == 0
    packets.clear()
    tap.dma.write(buffer.bus_address, b"late")  # of the one that is being served
    assert packets[0].mfa is not None
    send(tap, executive.EXEC_SYS_QUIESCE.build())
    assert 0xA0 in UNANSWERED
    send(tap, executive.EXEC_STATUS_GET.build())
    assert len(tap._open._requests) == 1


# --- files ---------------------------------------------------------------------------------------


def test_a_file_reads_back_without_a_problem(tmp_path):
    path = str(tmp_path / "a.pcapng")
    rig = Rig(up=False)
    with CaptureFile(path) as file:
        tap = TapUnit(rig.unit, file.add_iop("vfio-user:sock"), I2O_RULES)
        rig.iop = SoftIop(tap, disks=[MemoryDisk(1 << 20)], complaints=rig.complaints)
        rig.bring_up()
        buffer = rig.buffer(4096)
        for number in range(20):
            rig.call(transfer(bsa.BSA_BLOCK_READ, buffer.bus_address, 4096, context=number))
    conversation = Conversation()
    with open_capture(path) as packets:
        found = [conversation.feed(packet) for packet in packets]
        assert (packets.problems, packets.dropped) == ([], 0)
    assert conversation.unanswered() == 0
    assert kinds(found)[-3:] == [REQUEST, DMA, REPLY]
    assert all(traced.request is not None for traced in found if traced.kind != REQUEST)
