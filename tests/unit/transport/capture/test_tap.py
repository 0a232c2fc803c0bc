# SPDX-License-Identifier: Apache-2.0
"""A tap in front of a port whose device half the test plays by hand."""

from __future__ import annotations

import struct

import pytest

from fakes.bare_iop import BarePort
from i2o.capture import I2O_RULES, tapped
from i2o.errors import DmaFault, IopDead, LocalFrameError
from i2o.frames.block_storage import BSA_BLOCK_READ, BSA_BLOCK_WRITE, BSA_SUCCESS_REPLY
from i2o.frames.executive import EXEC_IOP_RESET, EXEC_OUTBOUND_INIT, EXEC_STATUS_GET
from i2o.frames.header import FAILURE_REPLY, SINGLE_TRANSACTION_REPLY
from i2o.frames.sgl import simple_sgl
from i2o.frames.utility import UTIL_NOP, UTIL_PARAMS_GET
from i2o.transport.capture import dma_tap
from i2o.transport.capture import tap as tap_module
from i2o.transport.capture.packet import Channel, Packet
from i2o.transport.capture.recorder import PacketRecorder
from i2o.transport.capture.tap import TapPort
from i2o.transport.port import EMPTY

IN, OUT, TO_DEVICE, FROM_DEVICE = Channel.IN, Channel.OUT, Channel.TO_DEVICE, Channel.FROM_DEVICE


class Bench:
    """A tapped port with reply frames, and what its recorder was told."""

    def __init__(self, *, wants_dma: bool = True, frame_size: int = 128) -> None:
        self.packets: list[Packet] = []
        self.port = BarePort(frame_size=frame_size)
        recorder = PacketRecorder(self.packets.append, wants_dma=wants_dma)
        self.tap = tapped(self.port, recorder)
        self.memory = self.tap.memory
        self.pool = self.port.memory.allocate(8 * 64)
        for start in range(0, 8 * 64, 64):
            self.tap.release(self.pool.bus_address + start)

    def send(self, frame: bytes) -> int:
        mfa = self.tap.alloc()
        self.tap.write(mfa, frame)
        self.tap.post(mfa)
        return mfa

    def answer(self, frame: bytes) -> int:
        unit = self.port.unit
        mfa = unit.take_reply_frame()
        unit.post_reply(mfa, frame)
        assert self.tap.reap() == mfa
        self.tap.release(mfa)
        return mfa

    def init_outbound(self, size: int = 64) -> None:
        word = self.memory.allocate(4)
        self.send(
            EXEC_OUTBOUND_INIT.build(outbound_msg_frame_size=size // 4, message_size=8)
            + simple_sgl(((word.bus_address, 4),), out=False)
        )
        word.view[0] = 4
        word.from_device()
        word.free()
        self.packets.clear()

    def channels(self) -> list[int]:
        return [packet.channel for packet in self.packets]


@pytest.fixture
def bench():
    found = Bench()
    yield found
    found.tap.close()


def reply_to(request: bytes, *, flags: int = 0xC0, status: int = 0) -> bytes:
    frame = bytearray(SINGLE_TRANSACTION_REPLY.build(msg_flags=flags, req_status=status))
    frame[4:16] = request[4:16]
    return bytes(frame)


def read_of(address: int, length: int, context: int = 1, **values: int) -> bytes:
    return block_request(BSA_BLOCK_READ, address, length, context, **values)


def block_request(layout, address: int, length: int, context: int = 1, **values: int) -> bytes:
    sgl = simple_sgl(((address, length),), out=layout is BSA_BLOCK_WRITE)
    return (
        layout.build(
            message_size=(layout.size + len(sgl)) // 4,
            initiator_context=context,
            transfer_byte_count=length,
            **values,
        )
        + sgl
    )


# --- frames --------------------------------------------------------------------------------------


def test_a_request_is_recorded_when_it_is_posted(bench):
    mfa = bench.tap.alloc()
    bench.tap.write(mfa, UTIL_NOP.build())
    assert bench.packets == []
    bench.tap.post(mfa)
    (packet,) = bench.packets
    assert (packet.channel, packet.mfa, packet.data) == (IN, mfa, UTIL_NOP.build())
    assert bench.port.unit.fetch() == (mfa, UTIL_NOP.build() + bytes(4))
    assert packet.time_ns > 1_700_000_000_000_000_000


def test_a_request_is_cut_at_its_message_size(bench):
    bench.send(UTIL_NOP.build() + bytes(40))
    assert bench.packets[0].data == UTIL_NOP.build()
    bench.send(b"\x01\x00\x00\x00" + bytes(36))  # a MessageSize that is no frame's
    assert len(bench.packets[1].data) == 12
    bench.send(UTIL_NOP.build(message_size=20))  # and one of more than was written
    assert bench.packets[2].data == UTIL_NOP.build(message_size=20)


def test_what_was_written_is_copied(bench):
    frame = bytearray(UTIL_NOP.build())
    mfa = bench.tap.alloc()
    bench.tap.write(mfa, frame)
    frame[:] = bytes(12)
    bench.tap.post(mfa)
    assert bench.packets[0].data == UTIL_NOP.build()


def test_a_frame_that_does_not_fit_is_not_recorded(bench):
    mfa = bench.tap.alloc()
    with pytest.raises(LocalFrameError):
        bench.tap.write(mfa, bytes(200))
    bench.port.write(mfa, UTIL_NOP.build())
    bench.tap.post(mfa)
    (packet,) = bench.packets
    assert packet.data[:12] == UTIL_NOP.build()
    assert packet.comment == "read back: not written through this port"


def test_a_frame_nobody_can_read_is_recorded_as_such(bench, monkeypatch):
    bench.tap.post(0xDEAD0000)
    assert bench.port.misuse
    (packet,) = bench.packets
    assert (packet.data, packet.mfa) == (b"", 0xDEAD0000)
    assert packet.comment.startswith("cannot be read back: ")


def test_a_frame_shorter_than_a_header(bench):
    bench.send(b"abc")
    assert (bench.packets[0].data, bench.packets[0].comment) == (b"abc", "shorter than a header")


def test_what_is_written_but_never_posted_is_bounded(bench, monkeypatch):
    monkeypatch.setattr(tap_module, "MAX_WRITTEN", 3)
    mfas = [bench.tap.alloc() for _ in range(5)]
    for mfa in mfas:
        bench.tap.write(mfa, UTIL_NOP.build())
    assert list(bench.tap._written) == mfas[2:]


def test_replies_are_recorded_when_they_are_reaped(bench):
    bench.init_outbound()
    request = read_of(1, 0)
    mfa = bench.answer(reply_to(request))
    (packet,) = bench.packets
    assert (packet.channel, packet.mfa, packet.data) == (OUT, mfa, reply_to(request))
    assert bench.tap.reap() == EMPTY
    assert len(bench.packets) == 1


@pytest.mark.parametrize("words", [0, 2, 5, 16, 17, 0xFFFF])
@pytest.mark.parametrize("is_measured", [False, True])
def test_a_reply_is_bounded_by_its_frame(bench, words, is_measured):
    if is_measured:
        bench.init_outbound()
    data = struct.pack("<BBH", 1, 0xC0, words) + bytes(range(60))
    bench.answer(data)
    (packet,) = bench.packets
    expected = max(4 * words, 12)
    if words > 16:
        expected = 64 if is_measured else {17: 68}.get(words, 16)
    assert packet.data[:64] == data[: min(expected, 64)]
    assert len(packet.data) == expected


def test_a_reply_that_is_not_in_host_memory_is_recorded_as_such(bench):
    bench.init_outbound()
    bench.port.unit._outbound_posted.append(0x0BAD0000)
    assert bench.tap.reap() == 0x0BAD0000
    (packet,) = bench.packets
    assert (packet.data, packet.mfa) == (b"", 0x0BAD0000)
    assert packet.comment.startswith("cannot be read: DMA of 64 bytes at bus address 0x0bad0000")


def test_a_dead_iop_is_no_reply(bench):
    def reap():
        raise IopDead("gone")

    bench.port.reap = reap
    tap = tapped(bench.port, bench.tap.recorder)
    with pytest.raises(IopDead):
        tap.reap()
    assert bench.packets == []


def test_a_tap_that_fails_does_not_disturb(bench, caplog):
    def broken(*_):
        raise RuntimeError("broken")

    recorder = PacketRecorder(broken)
    tap = tapped(bench.port, recorder)
    recorder.remark = lambda *_: None
    mfa = tap.alloc()
    tap.write(mfa, UTIL_NOP.build())
    tap.post(mfa)
    assert bench.port.unit.request_pending
    assert "could not be captured" in caplog.text
    reply = bench.port.unit.take_reply_frame()
    bench.port.unit.post_reply(reply, bytes(20))
    assert tap.reap() == reply


def test_the_rest_is_the_inner_ports_own(bench):
    port, tap = bench.port, bench.tap
    assert (tap.name, tap.inbound_size, tap.inner) == ("bare:", 128, port)
    for name in ("alloc", "release", "outbound", "wait", "fileno", "mask_interrupt"):
        assert getattr(tap, name) == getattr(port, name)
    assert tap.misuse is port.misuse
    assert tap.next_deadline_ns() is None
    tap.reset()
    with tap:
        pass
    assert (port.resets, port.closed) == (1, True)
    with pytest.raises(AttributeError):
        _ = tap.nothing
    with pytest.raises(AttributeError):
        _ = TapPort.__new__(TapPort).inner


def test_frames_only_leaves_memory_alone():
    bench = Bench(wants_dma=False)
    assert bench.tap.memory is bench.port.memory
    frame = bench.memory.allocate(512)
    bench.init_outbound()
    request = read_of(frame.bus_address, 512)
    bench.send(request)
    bench.answer(reply_to(request))
    assert bench.channels() == [IN, OUT]


def test_a_tap_without_rules_records_frames():
    packets = []
    port = BarePort()
    tap = TapPort(port, PacketRecorder(packets.append))
    mfa = tap.alloc()
    tap.write(mfa, read_of(1, 2))
    tap.post(mfa)
    assert [packet.channel for packet in packets] == [IN]


# --- memory --------------------------------------------------------------------------------------


def test_what_the_device_reads_is_recorded_at_the_post(bench):
    buffer = bench.memory.allocate(4096)
    buffer.view[:5] = b"hello"
    mfa = bench.send(block_request(BSA_BLOCK_WRITE, buffer.bus_address, 4096))
    frame, data = bench.packets
    assert (data.channel, data.mfa, data.address) == (TO_DEVICE, mfa, buffer.bus_address)
    assert (data.data, data.length) == (b"hello" + bytes(499), 4096)
    assert (frame.channel, frame.time_ns) == (IN, data.time_ns)


def test_what_the_device_wrote_is_recorded_before_its_reply(bench):
    bench.init_outbound()
    buffer = bench.memory.allocate(4096)
    request = read_of(buffer.bus_address, 4096)
    mfa = bench.send(request)
    buffer.view[:5] = b"hello"
    bench.answer(reply_to(request, flags=0x80))  # a progress report
    assert bench.channels() == [IN, OUT]
    bench.answer(reply_to(request))
    assert bench.channels() == [IN, OUT, FROM_DEVICE, OUT]
    assert bench.packets[2].data == b"hello" + bytes(499)
    assert (bench.packets[2].mfa, bench.packets[2].length) == (mfa, 4096)
    bench.answer(reply_to(request))  # once is enough
    assert bench.channels()[4:] == [OUT]


def test_requests_with_the_same_contexts_take_turns(bench):
    bench.init_outbound()
    buffers = [bench.memory.allocate(16) for _ in range(3)]
    requests = [read_of(buffer.bus_address, 16) for buffer in buffers]
    mfas = [bench.send(request) for request in requests]
    bench.packets.clear()
    for _ in requests:
        bench.answer(reply_to(requests[0]))
    data = [p for p in bench.packets if p.channel == FROM_DEVICE]
    assert [p.mfa for p in data] == mfas
    assert [p.address for p in data] == [buffer.bus_address for buffer in buffers]


def test_of_requests_alike_the_one_that_the_reply_fits_is_answered(bench):
    bench.init_outbound()
    sizes = (16, 32, 16)
    buffers = [bench.memory.allocate(size) for size in sizes]
    requests = [read_of(b.bus_address, len(b.view)) for b in buffers]
    mfas = [bench.send(request) for request in requests]
    for count in (32, 5, 16):
        success = BSA_SUCCESS_REPLY.build(transfer_count=count)
        bench.answer(success[:4] + requests[0][4:16] + success[16:])
    data = [p for p in bench.packets if p.channel == FROM_DEVICE]
    assert [p.mfa for p in data] == [mfas[1], mfas[0], mfas[2]]


def test_replies_out_of_order(bench):
    bench.init_outbound()
    buffers = [bench.memory.allocate(16) for _ in range(3)]
    requests = [read_of(b.bus_address, 16, context) for context, b in enumerate(buffers)]
    mfas = [bench.send(request) for request in requests]
    for index in (2, 0, 1):
        bench.answer(reply_to(requests[index]))
    data = [p for p in bench.packets if p.channel == FROM_DEVICE]
    assert [p.mfa for p in data] == [mfas[2], mfas[0], mfas[1]]


def test_replies_with_exchanged_tids_are_understood(bench):
    bench.init_outbound()
    buffer = bench.memory.allocate(16)
    request = read_of(buffer.bus_address, 16, target_address=0x123, initiator_address=0x456)
    bench.send(request)
    swapped = reply_to(
        read_of(buffer.bus_address, 16, target_address=0x456, initiator_address=0x123)
    )
    bench.answer(swapped)
    assert bench.channels() == [IN, FROM_DEVICE, OUT]


@pytest.mark.parametrize("status", [0x02, 0x05, 0x09])
def test_a_reply_that_says_nothing_was_moved_is_believed(bench, status):
    bench.init_outbound()
    buffer = bench.memory.allocate(16)
    request = read_of(buffer.bus_address, 16)
    bench.send(request)
    bench.answer(reply_to(request, status=status))
    assert bench.channels() == [IN, OUT]


def test_a_fail_reply_moves_nothing_and_ends_its_request(bench):
    bench.init_outbound()
    buffers = [bench.memory.allocate(16) for _ in range(2)]
    requests = [read_of(buffer.bus_address, 16) for buffer in buffers]
    first, second = (bench.send(request) for request in requests)
    fail = bytearray(FAILURE_REPLY.build(preserved_mfa_low=first))
    fail[4:12] = requests[0][4:12]
    bench.answer(bytes(fail))
    bench.answer(bytes(fail))  # of nothing that is known
    assert bench.channels() == [IN, IN, OUT, OUT]
    bench.answer(reply_to(requests[1]))
    assert bench.packets[4].mfa == second


def test_structures_are_kept_whole(bench):
    bench.init_outbound()
    operations, results = bench.memory.allocate(2000), bench.memory.allocate(3000)
    sgl = simple_sgl(((operations.bus_address, 2000),), out=True, last=False) + simple_sgl(
        ((results.bus_address, 3000),), out=False
    )
    layout = UTIL_PARAMS_GET
    request = layout.build(message_size=(layout.size + len(sgl)) // 4) + sgl
    bench.send(request)
    bench.answer(reply_to(request))
    assert bench.channels() == [IN, TO_DEVICE, FROM_DEVICE, OUT]
    assert [len(p.data) for p in bench.packets[1:3]] == [2000, 3000]


def test_structures_end_at_64_kib(bench):
    buffer = bench.memory.allocate(100_000)
    sgl = simple_sgl(((buffer.bus_address, 100_000),), out=True)
    bench.send(UTIL_PARAMS_GET.build(message_size=(UTIL_PARAMS_GET.size + len(sgl)) // 4) + sgl)
    assert (len(bench.packets[1].data), bench.packets[1].length) == (65536, 100_000)


def test_memory_that_is_not_there_is_left_out(bench):
    bench.init_outbound()
    request = read_of(0x7000_0000, 512)
    bench.send(request)
    bench.send(block_request(BSA_BLOCK_WRITE, 0x7000_0000, 512))
    bench.answer(reply_to(request))
    buffer = bench.memory.allocate(512)
    request = read_of(buffer.bus_address, 512)
    bench.send(request)
    buffer.free()
    bench.answer(reply_to(request))
    assert bench.channels() == [IN, IN, OUT, IN, OUT]


def test_messages_without_a_reply_are_recorded_when_the_memory_changed(bench):
    block = bench.memory.allocate(88)
    mfa = bench.send(
        EXEC_STATUS_GET.build(reply_buffer_address_low=block.bus_address, reply_buffer_length=88)
    )
    block.from_device()
    assert bench.channels() == [IN]
    block.view[0] = 1
    block.from_device()
    block.from_device()
    block.view[87] = 0xFF
    block.free()
    assert bench.channels() == [IN, FROM_DEVICE, FROM_DEVICE]
    assert bench.packets[1].data == b"\x01" + bytes(87)
    assert bench.packets[2].data == b"\x01" + bytes(86) + b"\xff"
    assert {p.mfa for p in bench.packets} == {mfa}
    assert not bench.tap._dma._watched


def test_other_buffers_are_not_looked_at(bench):
    first, second = bench.memory.allocate(4), bench.memory.allocate(4)
    bench.send(EXEC_IOP_RESET.build(status_word_low_address=first.bus_address))
    first.view[0] = 1
    second.from_device()
    second.free()
    assert bench.channels() == [IN]
    bench.tap.close()  # the last look
    assert bench.channels() == [IN, FROM_DEVICE]


def test_buffers_are_what_they_were(bench):
    own = bytearray(b"own memory")
    mapped = bench.memory.map(memoryview(own))
    assert bytes(mapped.view) == own
    assert mapped.segments == ((mapped.bus_address, 10),)
    mapped.to_device()
    mapped.from_device(2, 3)
    assert bench.memory.window(mapped.bus_address, 3).tobytes() == b"own"
    mapped.free()
    with pytest.raises(LocalFrameError):
        mapped.free()
    with pytest.raises(DmaFault):
        bench.memory.window(mapped.bus_address, 3)
    assert bench.memory.buffer_count == bench.port.memory.buffer_count


def test_a_port_that_maps_nothing(bench, monkeypatch):
    monkeypatch.setattr(type(bench.port.memory), "map", lambda self, buffer: None)
    assert bench.memory.map(memoryview(b"own")) is None


def test_the_books_are_bounded(bench, monkeypatch):
    monkeypatch.setattr(dma_tap, "MAX_OWED", 3)
    buffer = bench.memory.allocate(16)
    requests = [read_of(buffer.bus_address, 16, context) for context in range(6)]
    for request in requests:
        bench.send(request)
    dma = bench.tap._dma
    assert [owed.key for owed in dma._in_order.values()] == [r[4:16] for r in requests[3:]]
    assert len(dma._owed) == 3
    monkeypatch.setattr(dma_tap, "MAX_RANGES", 1)
    bench.port.unit.refill()
    bench.send(requests[0])
    assert (len(dma._in_order), dma._range_count) == (1, 1)


def test_what_is_watched_is_bounded(bench, monkeypatch):
    monkeypatch.setattr(dma_tap, "MAX_WATCHED", 2)
    words = [bench.memory.allocate(4) for _ in range(4)]
    for word in words:
        bench.send(EXEC_IOP_RESET.build(status_word_low_address=word.bus_address))
    for word in words:
        word.view[0] = 1
        word.free()
    data = [p for p in bench.packets if p.channel == FROM_DEVICE]
    assert [p.address for p in data] == [word.bus_address for word in words[2:]]


@pytest.mark.parametrize("how", ["reset", "init"])
def test_a_reset_ends_all_requests(bench, how):
    bench.init_outbound()
    buffer = bench.memory.allocate(16)
    request = read_of(buffer.bus_address, 16)
    bench.send(request)
    if how == "reset":
        bench.tap.reset()
    else:
        bench.init_outbound()
    dma = bench.tap._dma
    assert (dma._owed, dma._in_order, dma._range_count) == ({}, {}, 0)
    assert I2O_RULES.find_ranges is not None


def test_chained_lists_are_followed(bench):
    data, chain = bench.memory.allocate(16), bench.memory.allocate(8)
    chain.view[:] = simple_sgl(((data.bus_address, 16),), out=True)
    sgl = struct.pack("<II", 0xB0000000 | 8, chain.bus_address)
    size = (BSA_BLOCK_WRITE.size + 8) // 4
    bench.send(BSA_BLOCK_WRITE.build(message_size=size, transfer_byte_count=16) + sgl)
    assert [(p.channel, p.address) for p in bench.packets[1:]] == [
        (TO_DEVICE, chain.bus_address),
        (TO_DEVICE, data.bus_address),
    ]


def test_replies_arrive_whatever_a_recorder_does(bench, caplog):
    bench.init_outbound()

    def fail(*_) -> None:
        raise RuntimeError("no more")

    tap = tapped(bench.port, PacketRecorder(fail))
    mfa = bench.port.unit.take_reply_frame()
    bench.port.unit.post_reply(mfa, reply_to(UTIL_NOP.build() + bytes(4)))
    assert tap.reap() == mfa
    assert "a reply could not be captured" in caplog.text


class TalkingPort(BarePort):
    """A port whose IOP tells what it does."""

    def remark_to(self, listener) -> None:
        self.tell = listener


def test_what_the_iop_says_of_a_request_is_recorded(caplog):
    packets: list[Packet] = []
    port = TalkingPort()
    recorder = PacketRecorder(packets.append)
    tapped(port, recorder)
    port.tell(0x1000, "fault drop")
    (packet,) = packets
    assert (packet.channel, packet.mfa, packet.data) == (OUT, 0x1000, b"")
    assert packet.comment == "fault drop"
    recorder.remark = lambda *_: 1 / 0
    port.tell(0x1000, "fault drop")
    assert "a remark could not be captured" in caplog.text
