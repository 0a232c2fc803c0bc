# SPDX-License-Identifier: Apache-2.0
"""Recording, rules and rebuilt messages of `replay`, without an IOP or with a stub of one."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from i2o import recording, replay, replay_message
from i2o.clock import ManualClock
from i2o.decode.conversation import Conversation, Traced
from i2o.errors import InvalidArgument, IopDead, OutOfFrames
from i2o.frames import block_storage, header, private, scsi, utility
from i2o.frames.functions import DeviceClass, Function
from i2o.frames.layout import MessageLayout
from i2o.frames.private import DptFunction
from i2o.frames.sgl import SglFlags, chain_element, immediate_element, simple_sgl
from i2o.message_frames import ReplyFrame
from i2o.recording import RecordedRequest, recorded_requests
from i2o.replay import Outcome, Replay
from i2o.replay_message import MessagePlan, NotReplayable, Piece, plan_message
from i2o.replay_rules import is_read_only, is_reading_cdb, only_gets, why_never
from i2o.reply_comparison import reply_differences
from i2o.transport.capture.packet import Channel, Packet

DISK, TAPE_OF_SCSI = 0x10, 0x11
BLOCK_CLASS = DeviceClass.RANDOM_BLOCK_STORAGE.value
SCSI_CLASS = DeviceClass.SCSI_PERIPHERAL.value
GET = bytes.fromhex("0100 0000 0100 0000 ffff 0000")


def sized(frame: bytes) -> bytes:
    changed = bytearray(frame)
    changed[2:4] = (len(frame) // 4).to_bytes(2, "little")
    return bytes(changed)


def transfer(
    sgl: bytes, *, layout: MessageLayout = block_storage.BSA_BLOCK_READ, context: int = 1
) -> bytes:
    head = layout.build(target_address=DISK, transaction_context=context, transfer_byte_count=512)
    return sized(head + sgl)


def reply_to(context: int = 1, **fields: int) -> bytes:
    values: dict[str, Any] = {"function": 0x30, "target_address": DISK, "transfer_count": 512}
    built: bytes = block_storage.BSA_SUCCESS_REPLY.build(
        **values | {"transaction_context": context} | fields
    )
    return built


class Feed:
    """Makes packets with one time each."""

    def __init__(self) -> None:
        self.packets: list[Packet] = []

    def add(self, channel: Channel, data: bytes, *, mfa: int | None = None, **more: Any) -> Feed:
        length = more.pop("length", len(data))
        time_ns = 1000 * len(self.packets)
        self.packets.append(Packet(time_ns, more.pop("iop", 0), channel, data, length, mfa, **more))
        return self

    def requests(self, **options: Any) -> list[RecordedRequest]:
        return list(recorded_requests(self.packets, **options))


def traced_request(frame: bytes, *chained: tuple[int, bytes]) -> Traced:
    conversation = Conversation()
    found = conversation.feed(Packet(0, 0, Channel.IN, frame, len(frame), 1))
    for address, data in chained:
        packet = Packet(1, 0, Channel.TO_DEVICE, data, len(data), 1, address)
        conversation.feed(packet)
    return found


# --- recording ----------------------------------------------------------------------------------


def test_requests_come_with_data_reply_and_company() -> None:
    feed = Feed()
    out = block_storage.BSA_BLOCK_WRITE
    feed.add(Channel.IN, transfer(simple_sgl([(0x1000, 512)], out=False)), mfa=1)
    feed.add(
        Channel.IN, transfer(simple_sgl([(0x2000, 8)], out=True), layout=out, context=2), mfa=2
    )
    feed.add(Channel.TO_DEVICE, b"written!", mfa=2, address=0x2000)
    feed.add(Channel.OUT, reply_to(2, function=0x31))
    feed.add(Channel.FROM_DEVICE, b"late data", mfa=1, address=0x1000, length=512)
    feed.add(Channel.FROM_DEVICE, b"of nobody", mfa=9, address=0xF000)
    feed.add(Channel.OUT, reply_to(1))
    feed.add(Channel.FROM_DEVICE, b"behind its reply", mfa=1, address=0x1100)
    read, write = feed.requests()
    assert [read.depth, write.depth] == [1, 2]
    assert [read.since_ns, write.since_ns] == [0, 1000]
    assert read.reply is not None
    assert read.reply.latency_ns == 6000
    assert write.out == [Piece(0x2000, b"written!", 8)]
    assert write.into == []
    assert read.into == [Piece(0x1000, b"late data", 512), Piece(0x1100, b"behind its reply", 16)]


def test_requests_without_a_reply_do_not_hold_up_the_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(recording, "MAX_HELD", 4)
    feed = Feed()
    sgl = simple_sgl([(0x1000, 512)], out=False)
    for context in range(20):
        feed.add(Channel.IN, transfer(sgl, context=context), mfa=context)
        if context:
            feed.add(Channel.OUT, reply_to(context))
    handed: list[int] = []
    packets = iter(feed.packets)
    for request in recorded_requests(packets):
        handed.append(request.traced.packet.mfa or 0)
        if len(handed) == 1:
            assert len(list(packets)) > 20  # it was handed out early
    assert handed[0] == 0


def test_data_held_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recording, "MAX_HELD_BYTES", 1000)
    feed = Feed()
    feed.add(Channel.IN, transfer(simple_sgl([(0x1000, 4096)], out=False)), mfa=1)
    for at in range(4):
        feed.add(Channel.FROM_DEVICE, bytes(400), mfa=1, address=0x1000 + 400 * at)
    feed.add(Channel.OUT, reply_to())
    (request,) = feed.requests()
    assert len(request.into) == 3
    assert request.reply is None


def test_data_handed_out_are_held_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recording, "MAX_HELD_BYTES", 1000)
    feed = Feed()
    for context in range(1, 5):
        frame = transfer(simple_sgl([(0x1000, 400)], out=False), context=context)
        feed.add(Channel.IN, frame, mfa=1)
        feed.add(Channel.FROM_DEVICE, bytes(400), mfa=1, address=0x1000)
        feed.add(Channel.OUT, reply_to(context))
    assert all(request.reply is not None for request in feed.requests())


def test_only_the_first_iop_and_what_is_wanted() -> None:
    feed = Feed()
    frame = sized(block_storage.BSA_STATUS_CHECK.build(target_address=DISK))
    for iop in (3, 1, 3):
        feed.add(Channel.IN, frame, iop=iop)
    assert [request.traced.packet.iop for request in feed.requests()] == [3, 3]
    assert [request.traced.packet.iop for request in feed.requests(iop=1)] == [1]
    wanted = feed.requests(is_wanted=lambda traced: traced.index == 2)
    assert [request.traced.index for request in wanted] == [2]
    assert [one.depth for one in feed.requests()] == [1, 2]
    assert [one.depth for one in feed.requests(is_alone=lambda traced: traced.index == 0)] == [1, 1]


# --- rules --------------------------------------------------------------------------------------


@pytest.mark.parametrize("function", list(Function))
def test_every_function_is_refused_unless_it_is_known_to_read(function: Function) -> None:
    allowed = {
        BLOCK_CLASS: {"BSA_BLOCK_READ", "BSA_STATUS_CHECK", "BSA_MEDIA_VERIFY"},
        DeviceClass.LAN.value: set(),
        DeviceClass.EXECUTIVE.value: set(),
        None: set(),
    }
    frame = header.MSG_HEADER.build(version_offset=1, function=function) + bytes(64)
    for device_class, names in allowed.items():
        numbers = {Function[name].value for name in names}
        assert is_read_only(frame, device_class) == (function.value in numbers)


def test_what_brings_an_iop_up_is_never_replayed() -> None:
    for function in (0x00, 0xA0, 0xA1, 0xA2, 0xA3, 0xA8, 0xBD, 0xBE, 0xC3, 0xD1, 0x13, 0x01, 0x83):
        assert why_never(header.MSG_HEADER.build(function=function)), function
    assert not why_never(header.MSG_HEADER.build(function=0x30))


@pytest.mark.parametrize(
    ("cdb", "reads"),
    [
        ("12 00 00 00 24 00", True),
        ("28 00 00 00 00 00 00 00 01 00", True),
        ("88" + " 00" * 15, True),
        ("9e 10" + " 00" * 14, True),
        ("9e 12" + " 00" * 14, False),
        ("4d 00" + " 00" * 8, True),
        ("4d 01" + " 00" * 8, False),
        ("2a 00 00 00 00 00 00 00 01 00", False),
        ("0a 00 00 00 01 00", False),
        ("8a" + " 00" * 15, False),
        ("04 00 00 00 00 00", False),
        ("1b 00 00 00 00 00", False),
        ("15 00 00 00 00 00", False),
        ("35" + " 00" * 9, False),
        ("3b" + " 00" * 9, False),
        ("42" + " 00" * 9, False),
        ("41" + " 00" * 9, False),
        ("5f" + " 00" * 9, False),
        ("16 00 00 00 00 00", False),
        ("c1 00 00 00 00 00", False),
        ("12 00", False),
        ("", False),
    ],
)
def test_scsi_commands(cdb: str, reads: bool) -> None:
    raw = bytes.fromhex(cdb)
    assert is_reading_cdb(raw) is reads
    fields = {"cdb_length": len(raw), "cdb": raw.ljust(16, b"\0")}
    scb = scsi.SCSI_SCB_EXEC.build(target_address=TAPE_OF_SCSI, **fields)
    assert is_read_only(scb, SCSI_CLASS) is reads
    assert not is_read_only(scb, BLOCK_CLASS)
    assert not is_read_only(scb, None)
    dpt = private.DPT_PRIVATE_SCSI_SCB_EXEC.build(
        target_address=TAPE_OF_SCSI,
        organization_id=0x1B,
        x_function_code=DptFunction.SCSI_SCB_EXEC,
        **fields,
    )
    assert is_read_only(dpt, None) is reads
    assert not is_read_only(dpt[:30], None)
    other = private.DPT_PRIVATE_FLASH_REGION.build(x_function_code=DptFunction.FLASH_READ)
    assert not is_read_only(other, None)


def test_a_cdb_longer_than_its_place() -> None:
    scb = scsi.SCSI_SCB_EXEC.build(cdb_length=17, cdb=b"\x12" + bytes(15))
    assert not is_read_only(scb, SCSI_CLASS)


def test_operation_lists() -> None:
    def listed(*operations: str, count: int | None = None) -> bytes:
        number = len(operations) if count is None else count
        return number.to_bytes(2, "little") + bytes(2) + bytes.fromhex(" ".join(operations))

    get, get_all, set_ = "0100 0000 0100 0300", "0100 0000 ffff 0000", "0600 0000 0100 0300 0000"
    table, more = "0500 00f0 ffff 0000", "0300 0000"
    assert only_gets(listed(get))
    assert only_gets(listed(get, get_all, table, more))
    assert only_gets(listed("0200 0000 0100 0300 0100 0000"))
    assert only_gets(listed())
    assert not only_gets(listed(set_))
    assert not only_gets(listed(get, set_))
    assert not only_gets(listed(more, get))  # nobody knows where the second one starts
    assert not only_gets(listed(get, count=2))
    assert not only_gets(listed("0100 0000", "00", count=3))
    assert not only_gets(b"\1\0")
    assert only_gets(listed("0100 0000 0000", "0000", get, count=2))
    assert not only_gets(listed("0100 0000 0000", "0600", get, count=2))  # or is that one first?


def test_flags_that_are_a_replys_or_a_hosts_are_not_sent() -> None:
    frame = bytearray(transfer(simple_sgl([(0x1000, 8)], out=False)))
    for flag in header.MsgFlags:
        if flag == header.MsgFlags.CONTEXT_64BIT or flag == header.MsgFlags.REPLY:
            continue
        frame[1] = flag.value
        sent = plan_message(traced_request(bytes(frame)), []).message(0, DISK)
        assert sent[1] == flag.value & header.MsgFlags.MULTIPLE


# --- messages -----------------------------------------------------------------------------------


def places(plan: MessagePlan) -> list[tuple[int, int, bool]]:
    return [(place.address, place.length, place.to_device) for place in plan.places]


def test_pieces_keep_their_offset_in_the_page() -> None:
    sgl = simple_sgl([(0x12345, 300), (0x9FF0, 32), (0x12345, 300)], out=False)
    plan = plan_message(traced_request(transfer(sgl)), [])
    assert places(plan) == [(0x12345, 300, False), (0x9FF0, 32, False)]
    assert all((place.address - place.offset) % 4096 == 0 for place in plan.places)
    ends = [(place.offset, place.offset + place.length) for place in plan.places]
    assert ends[0][1] <= ends[1][0] or ends[1][1] <= ends[0][0]
    frame = plan.message(0x40_0000, 0x123)
    assert frame[4:7] == bytes.fromhex("231100")
    start = block_storage.BSA_BLOCK_READ.size
    addresses = [
        int.from_bytes(frame[at + 4 : at + 8], "little") for at in range(start, len(frame), 8)
    ]
    first, second = (0x40_0000 + place.offset for place in plan.places)
    assert addresses == [first, second, first]
    before = transfer(sgl)
    for at in range(start, len(frame), 8):
        assert frame[at : at + 4] == before[at : at + 4]


def test_context_words_stay_where_they_are() -> None:
    sgl = simple_sgl([(0x1000, 512)], out=False, contexts=(0xAAAA, 0xBBBB))
    plan = plan_message(traced_request(transfer(sgl)), [])
    frame = plan.message(0x7000_0000, DISK)
    assert frame[-12:-4] == bytes.fromhex("aaaa0000bbbb0000")
    assert int.from_bytes(frame[-4:], "little") == 0x7000_0000 + plan.places[0].offset


def test_addresses_of_64_bits() -> None:
    flags = (0xD0 << 24 | 512).to_bytes(4, "little")
    sgl = bytes.fromhex("0200027c 00100000") + flags + (0x5_0000_1000).to_bytes(8, "little")
    plan = plan_message(traced_request(transfer(sgl)), [])
    frame = plan.message(0x7000_0000, DISK)
    assert frame[-8:] == (0x7000_0000 + plan.places[0].offset).to_bytes(8, "little")


def test_large_pages_align_the_memory() -> None:
    word = 0x20 | SglFlags.LAST_ELEMENT.value | SglFlags.END_OF_BUFFER.value
    sgl = bytes.fromhex("0000027c 00000100") + b"".join(
        number.to_bytes(4, "little") for number in (word << 24 | 0x10100, 0x3_FF00, 0x8_0000)
    )
    plan = plan_message(traced_request(transfer(sgl)), [])
    assert plan.align == 0x1_0000
    assert [place.offset % 0x1_0000 for place in plan.places] == [0xFF00, 0]


def test_chained_lists_are_rebuilt_with_new_addresses() -> None:
    last = simple_sgl([(0x3000, 128)], out=False)
    middle = simple_sgl([(0x2000, 256)], out=False, last=False, end_of_buffer=False)
    middle += chain_element(0x9000, len(last))
    sgl = chain_element(0x8010, len(middle))
    conversation = Conversation()
    frame = transfer(sgl)
    request = conversation.feed(Packet(0, 0, Channel.IN, frame, len(frame), 1))
    for address, data in ((0x8010, middle), (0x9000, last)):
        conversation.feed(Packet(1, 0, Channel.TO_DEVICE, data, len(data), 1, address))
    plan = plan_message(request, [])
    assert places(plan) == [(0x2000, 256, False), (0x3000, 128, False)]
    base = 0x10_0000
    memory = bytearray(plan.size)
    message = plan.message(base, DISK)
    plan.fill(memoryview(memory))

    def word(data: bytes, at: int) -> int:
        return int.from_bytes(data[at : at + 4], "little")

    first = word(message, len(message) - 4) - base
    assert word(memory, first) == word(middle, 0)
    assert word(memory, first + 4) == base + plan.places[0].offset
    second = word(memory, first + 12) - base
    assert word(memory, second + 4) == base + plan.places[1].offset


def test_data_are_put_together_from_pieces() -> None:
    frame = transfer(simple_sgl([(0x1000, 12)], out=True), layout=block_storage.BSA_BLOCK_WRITE)
    pieces = [Piece(0x1004, b"efgh", 4), Piece(0x0FFE, b"..abcd", 6), Piece(0x1006, b"ghijkl", 6)]
    plan = plan_message(traced_request(frame), pieces)
    memory = bytearray(plan.size)
    plan.fill(memoryview(memory))
    offset = plan.places[0].offset
    assert memory[offset : offset + 12] == b"abcdefghijkl"
    for missing in range(3):
        left = [piece for at, piece in enumerate(pieces) if at != missing]
        if missing == 0:
            left[0] = Piece(0x0FFE, b"..abc", 5)
        with pytest.raises(NotReplayable, match="data were not captured whole"):
            plan_message(traced_request(frame), left)


def test_an_operation_list_in_the_frame() -> None:
    head = utility.UTIL_PARAMS_GET.build(target_address=DISK)
    frame = sized(head + immediate_element(GET) + simple_sgl([(0x9000, 64)], out=False))
    plan = plan_message(traced_request(frame), [])
    assert plan.operations == GET
    assert places(plan) == [(0x9000, 64, False)]


SET = bytes.fromhex("0100 0000 0600 0000 ffff 0000")


@pytest.mark.parametrize(
    ("sgl", "expected"),
    [
        (simple_sgl([(0x9000, len(SET))], out=True, last=False) + immediate_element(GET), b""),
        (immediate_element(GET) + immediate_element(SET), b""),
        (bytes.fromhex("08000008 00000000") + immediate_element(GET), b""),
        (simple_sgl([(0x9000, len(SET))], out=True), SET),
    ],
)
def test_operations_are_those_that_the_device_finds_first(sgl: bytes, expected: bytes) -> None:
    head = utility.UTIL_PARAMS_GET.build(target_address=DISK)
    traced = traced_request(sized(head + sgl))
    plan = plan_message(traced, [Piece(0x9000, SET, len(SET))])
    assert plan.operations == expected
    assert not is_read_only(traced.frame, BLOCK_CLASS, plan.operations)


def test_a_list_that_is_chained_to_twice() -> None:
    inner = simple_sgl([(0x2000, 8)], out=False, last=False)
    longer = inner + simple_sgl([(0x3000, 8)], out=False)
    sgl = chain_element(0x8000, len(inner), last=False) + chain_element(0x8000, len(longer))
    traced = traced_request(transfer(sgl), (0x8000, longer))
    with pytest.raises(NotReplayable, match="list is wrong"):
        plan_message(traced, [])


def test_a_list_inside_the_fields_that_the_rules_look_at() -> None:
    frame = bytearray(scsi.SCSI_SCB_EXEC.build(cdb_length=6, cdb=b"\x12" + bytes(15)))
    for words in range(1, 16):
        frame[0] = words << 4 | 1
        assert is_read_only(bytes(frame), SCSI_CLASS) == (4 * words >= len(frame))


def test_too_long_a_list(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replay_message, "MAX_RANGES", 2)
    sgl = simple_sgl([(0x1000, 8), (0x2000, 8)], out=False)
    with pytest.raises(NotReplayable, match="too long"):
        plan_message(traced_request(transfer(sgl)), [])


def test_differences_count_only_what_was_captured_and_written() -> None:
    sgl = simple_sgl([(0x1000, 100)], out=False)
    plan = plan_message(traced_request(transfer(sgl)), [])
    memory = memoryview(bytearray(plan.size))
    at = plan.places[0].offset
    memory[at : at + 4] = b"abcd"
    assert plan.differences(memory, [Piece(0x1000, b"abcd", 100)]) == 0
    assert plan.differences(memory, [Piece(0x1002, b"cX", 98)]) == 1
    assert plan.differences(memory, [Piece(0x1062, b"xxxx", 4)]) == 2  # the rest is behind it
    assert plan.differences(memory, [Piece(0x5000, b"xxxx", 4)]) == 0


# --- replies ------------------------------------------------------------------------------------


def recorded_reply(reply: bytes) -> Traced:
    conversation = Conversation()
    frame = transfer(simple_sgl([(0x1000, 512)], out=False))
    conversation.feed(Packet(0, 0, Channel.IN, frame, len(frame), 1))
    return conversation.feed(Packet(1, 0, Channel.OUT, reply, len(reply)))


def test_replies_are_compared() -> None:
    good = reply_to()
    assert reply_differences(recorded_reply(good), reply_to(context=99)) == []
    assert reply_differences(recorded_reply(good), reply_to(transfer_count=0)) == [
        "transfer_count 512 recorded, 0 now"
    ]
    unknown = reply_to(req_status=0x55, detailed_status_code=0)
    assert "req_status SUCCESS recorded, 0x55 now" in reply_differences(
        recorded_reply(good), unknown
    )
    (short,) = reply_differences(recorded_reply(good), good[:12])
    assert short.endswith("recorded, nothing now")
    assert reply_differences(recorded_reply(good[:16]), good) == []
    fail = header.FAILURE_REPLY.build(
        function=0x30, target_address=DISK, failure_code=header.FailureCode.CONGESTION
    )
    (failed,) = reply_differences(recorded_reply(good), fail)
    assert failed.endswith("recorded, failure_code CONGESTION now")


# --- the engine, with a stub --------------------------------------------------------------------


class StubIop:
    """Answers when it is waited for; `start` can be made to fail."""

    number = 0

    def __init__(self) -> None:
        self.layer = self.requester = self.memory = self  # type: ignore[assignment]
        self.clock = ManualClock()
        self.devices = (SimpleNamespace(tid=DISK, class_id=BLOCK_CLASS),)
        self.sent: list[tuple[bytes, Callable[[ReplyFrame], None], SimpleNamespace]] = []
        self.errors: list[Exception | None] = []
        self.freed = self.abandoned = 0
        self.sent_at: list[float] = []

    def inbound_frame_size(self, iop: int) -> int:
        return 128

    def allocate(self, size: int, align: int = 4096) -> Any:
        return SimpleNamespace(
            view=memoryview(bytearray(size)),
            bus_address=0x10_0000,
            to_device=lambda: None,
            from_device=lambda: None,
            free=self._free,
        )

    def _free(self) -> None:
        self.freed += 1

    def start(self, message: bytes, *, on_reply: Callable[[ReplyFrame], None]) -> Any:
        error = self.errors.pop(0) if self.errors else None
        if error is not None:
            raise error
        pending = SimpleNamespace(abandon=self._abandon)
        self.sent_at.append(self.clock.monotonic())
        self.sent.append((message, on_reply, pending))
        return pending

    def _abandon(self, *buffers: object) -> None:
        self.abandoned += len(buffers)

    def run_until(self, done: Callable[[], bool], timeout_s: float, *, drain: bool = False) -> bool:
        left = timeout_s
        while not done() and left > 0:
            self.clock.advance(min(0.0002, left))
            left -= 0.0002
            if self.sent and self.clock.monotonic() - self.sent_at[-len(self.sent)] > 0.0009:
                message, on_reply, _ = self.sent.pop(0)
                reply = reply_to(int.from_bytes(message[12:16], "little"))
                on_reply(reply)  # type: ignore[arg-type]
        return done()


def recorded_reads(count: int, *, every_us: float = 1000, depth: int = 1) -> list[RecordedRequest]:
    """Reads of which `depth` were in flight at a time."""
    feed = Feed()
    sgl = simple_sgl([(0x1000, 512)], out=False)
    for first in range(0, count, depth):
        for context in range(first, first + depth):
            feed.add(Channel.IN, transfer(sgl, context=context), mfa=context)
        for context in range(first, first + depth):
            feed.add(Channel.OUT, reply_to(context))
    requests = feed.requests()
    for at, request in enumerate(requests):
        request.since_ns = round(at * every_us * 1000)
    return requests


def test_the_pace_is_the_recorded_one_times_the_speed() -> None:
    for speed, step in ((1.0, 0.01), (10.0, 0.002)):
        iop = StubIop()
        summary = Replay(iop, speed=speed).run(recorded_reads(4, every_us=step * 1e6 * speed))  # type: ignore[arg-type]
        assert iop.sent_at == pytest.approx([0, step, 2 * step, 3 * step], abs=1e-6)
        assert summary.same == 4
        assert iop.freed == 4
    assert summary.late_ns == 0


def test_an_iop_that_is_too_slow_for_the_pace_is_said_to_be_late() -> None:
    iop = StubIop()
    summary = Replay(iop).run(recorded_reads(5, every_us=100))  # type: ignore[arg-type]
    assert summary.max_depth == 1  # never more in flight than there were
    assert summary.late_ns > 2_000_000


def test_the_memory_of_requests_in_flight_has_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    requests = recorded_reads(6, depth=3)
    size = plan_message(requests[0].traced, []).size
    for limit, depth in ((2 * size, 2), (size // 2, 1)):
        monkeypatch.setattr(replay, "MAX_IN_FLIGHT", limit)
        summary = Replay(StubIop(), speed=None).run(requests)  # type: ignore[arg-type]
        assert (summary.max_depth, summary.sent) == (depth, 6)


def test_full_speed_keeps_the_recorded_depth() -> None:
    iop = StubIop()
    summary = Replay(iop, speed=None).run(recorded_reads(9, every_us=1e6, depth=3))  # type: ignore[arg-type]
    assert summary.max_depth == 3
    assert summary.same == summary.sent == 9
    assert iop.clock.monotonic() < 0.1


def test_without_a_frame_it_waits_for_replies() -> None:
    iop = StubIop()
    iop.errors = [None, None, OutOfFrames("none"), OutOfFrames("none"), None]
    summary = Replay(iop, speed=None).run(recorded_reads(4, depth=4))  # type: ignore[arg-type]
    assert summary.same == 4
    assert summary.max_depth == 2


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OutOfFrames("no frame came free"), "no frame came free"),
        (IopDead("it is gone"), "it is gone"),
        (InvalidArgument("no such thing"), "no such thing"),
        (MemoryError(), "no memory is left"),
    ],
)
def test_errors_stop_it_with_a_reason(error: Exception, words: str) -> None:
    iop = StubIop()
    iop.errors = [None, error]
    outcomes: list[Outcome] = []
    replay = Replay(iop, speed=None, on_outcome=outcomes.append)  # type: ignore[arg-type]
    if isinstance(error, OutOfFrames):
        iop.errors = [error]  # and nothing is in flight that could give one back
    summary = replay.run(recorded_reads(2, depth=2))
    assert summary.stopped == words
    assert iop.freed == 1  # of the request that was not sent
    assert summary.different == iop.abandoned == summary.sent
    assert all(outcome.differences == ["no reply"] for outcome in outcomes)


def test_a_late_reply_to_a_request_given_up() -> None:
    iop = StubIop()
    iop.errors = [None, IopDead("it is gone")]
    replay = Replay(iop, speed=None)  # type: ignore[arg-type]
    summary = replay.run(recorded_reads(2, depth=2))
    _, on_reply, _ = iop.sent[0]
    on_reply(reply_to())  # type: ignore[arg-type]
    assert summary.different == 1
    assert iop.freed == 1
    assert not replay._landed


def test_an_interrupt_leaves_the_memory_to_the_late_replies() -> None:
    iop = StubIop()

    def requests() -> Any:
        yield from recorded_reads(3, depth=3)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Replay(iop, speed=None).run(requests())  # type: ignore[arg-type]
    assert iop.abandoned == 3
    assert iop.freed == 0
