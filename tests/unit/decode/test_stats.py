# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from i2o.decode import stats
from i2o.decode.conversation import Conversation
from i2o.decode.latencies import RELATIVE_ERROR, Latencies
from i2o.decode.stats import OTHERS, Statistics
from i2o.decode.timeline import MAX_SLOTS, Timeline
from i2o.frames import block_storage, executive, header, utility
from i2o.frames.functions import Function
from i2o.frames.header import MsgFlags, ReqStatus
from i2o.frames.sgl import simple_sgl
from i2o.transport.capture.packet import Channel, Packet

DISK = 0x10


class Traffic:
    """Feeds packets to the statistics, with a time in microseconds each."""

    def __init__(self) -> None:
        self.statistics = Statistics()
        self._conversation = Conversation()

    def add(
        self, at_us: float, channel: Channel, data: bytes, *, iop: int = 0, **more: Any
    ) -> None:
        packet = Packet(round(at_us * 1000), iop, channel, data, len(data), **more)
        self.statistics.feed(self._conversation.feed(packet))

    def read(self, at_us: float, context: int, *, tid: int = DISK, iop: int = 0) -> None:
        head = block_storage.BSA_BLOCK_READ.build(
            target_address=tid, transaction_context=context, transfer_byte_count=4096
        )
        frame = bytearray(head + simple_sgl([(0x1000 * (context + 1), 4096)], out=False))
        frame[2] = len(frame) // 4
        self.add(at_us, Channel.IN, bytes(frame), iop=iop, mfa=context)

    def reply(self, at_us: float, context: int, *, iop: int = 0, **fields: int) -> None:
        frame = block_storage.BSA_SUCCESS_REPLY.build(
            **{
                "function": Function.BSA_BLOCK_READ,
                "target_address": DISK,
                "transaction_context": context,
                "transfer_count": 4096,
                **fields,
            }
        )
        self.add(at_us, Channel.OUT, frame, iop=iop)


def test_requests_replies_bytes_and_latencies() -> None:
    traffic = Traffic()
    traffic.read(0, 1)
    traffic.read(5, 2)
    traffic.read(10, 3)
    traffic.reply(100, 2)  # out of order
    traffic.reply(1000, 1, transfer_count=512)
    found = traffic.statistics
    row = found.functions["bsa_block_read"]
    assert (row.requests, row.replies, row.errors, row.unanswered) == (3, 2, 0, 1)
    assert row.moved == 4096 + 512
    assert (row.latencies.min_ns, row.latencies.max_ns) == (95_000, 1_000_000)
    assert row.latencies.mean_ns == (95_000 + 1_000_000) / 2
    assert found.total.max_depth == 3
    assert found.total.depth == 1
    assert found.iops[0].max_depth == 3
    assert found.devices[0, DISK].requests == 3
    assert found.timeline.seconds == 0.001
    assert found.unmatched == found.short == 0


def test_repeated_contexts_are_answered_in_their_order() -> None:
    traffic = Traffic()
    traffic.read(0, 7)
    traffic.read(10, 7)
    traffic.reply(30, 7)
    traffic.reply(60, 7)
    times = traffic.statistics.total.latencies
    assert (times.min_ns, times.max_ns) == (30_000, 50_000)
    assert traffic.statistics.total.unanswered == 0


def test_errors_are_counted() -> None:
    traffic = Traffic()
    for context in range(1, 6):
        traffic.read(context, context)
    traffic.reply(10, 1, req_status=ReqStatus.ERROR_NO_DATA_TRANSFER, transfer_count=0)
    fail = header.FAILURE_REPLY.build(
        target_address=DISK,
        function=0x30,
        transaction_context=0,
        preserved_mfa_low=2,
        failure_code=header.FailureCode.TIME_OUT,
    )
    traffic.add(20, Channel.OUT, fail)
    progress = block_storage.BSA_PROGRESS_REPLY.build(
        target_address=DISK,
        function=0x30,
        transaction_context=3,
        msg_flags=MsgFlags.REPLY,
        req_status=ReqStatus.PROGRESS_REPORT,
    )
    traffic.add(30, Channel.OUT, progress)
    row = traffic.statistics.functions["bsa_block_read"]
    assert (row.requests, row.replies, row.errors) == (5, 3, 2)
    assert row.answered == 2  # the progress report was not the last word
    assert row.latencies.count == 2
    assert traffic.statistics.total.depth == 3


def test_a_final_reply_that_answers_nothing() -> None:
    traffic = Traffic()
    traffic.reply(10, 1)
    traffic.read(20, 1)
    traffic.reply(30, 1)
    traffic.reply(40, 1)
    found = traffic.statistics
    assert found.unmatched == 2
    assert found.total.replies == 3
    assert found.total.latencies.count == 1
    assert found.total.depth == 0
    assert found.total.unanswered == 0


def test_messages_that_nobody_answers_are_not_missed() -> None:
    traffic = Traffic()
    traffic.add(0, Channel.IN, utility.UTIL_NOP.build())
    traffic.add(1, Channel.IN, executive.EXEC_STATUS_GET.build())
    traffic.add(2, Channel.IN, utility.UTIL_EVENT_REGISTER.build(transaction_context=9))
    event = utility.UTIL_EVENT_REGISTER_REPLY.build(transaction_context=9)
    traffic.add(3, Channel.OUT, event)
    traffic.add(4, Channel.OUT, event)
    found = traffic.statistics
    assert found.total.requests == 3
    assert found.total.awaited == found.total.unanswered == found.total.max_depth == 0
    assert found.total.replies == 2
    assert found.total.errors == found.unmatched == 0


def test_a_reset_ends_what_one_iop_owes() -> None:
    traffic = Traffic()
    traffic.read(0, 1)
    traffic.read(1, 2)
    traffic.read(2, 3, iop=1)
    traffic.add(3, Channel.IN, executive.EXEC_OUTBOUND_INIT.build())
    found = traffic.statistics
    assert found.total.depth == 1
    assert [found.iops[0].depth, found.iops[1].depth] == [0, 1]
    assert found.iops[0].unanswered == 2
    traffic.read(4, 4)
    traffic.reply(5, 4)
    assert found.total.depth == 1
    assert found.total.max_depth == 3


def test_dma_and_short_frames() -> None:
    traffic = Traffic()
    traffic.read(0, 1)
    traffic.add(1, Channel.FROM_DEVICE, bytes(100), address=0x2000, mfa=1)
    traffic.add(2, Channel.TO_DEVICE, bytes(30), address=0x9000)
    reply = block_storage.BSA_SUCCESS_REPLY.build(
        function=0x30, target_address=DISK, transaction_context=1
    )
    traffic.add(3, Channel.FROM_DEVICE, reply, address=0x7000)  # the reply frame being written
    traffic.add(4, Channel.IN, b"short")
    traffic.add(5, Channel.MESSAGE, b"x")
    found = traffic.statistics
    assert (found.to_device, found.from_device) == (30, 100)
    assert found.short == 1
    assert found.total.requests == 1


def test_an_iop_that_exchanges_the_tids_in_replies() -> None:
    traffic = Traffic()
    traffic.read(0, 1)
    traffic.reply(1, 1, target_address=1, initiator_address=DISK)
    found = traffic.statistics
    assert list(found.devices) == [(0, DISK)]
    assert found.devices[0, DISK].answered == 1


def test_rows_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stats, "MAX_ROWS", 4)
    traffic = Traffic()
    for number in range(10):
        traffic.read(number, 1, tid=0x20 + number, iop=number)
        frame = header.MSG_HEADER.build(
            version_offset=1, message_size=4, target_address=5, function=0x50 + number
        )
        traffic.add(number, Channel.IN, frame)
    found = traffic.statistics
    assert len(found.devices) == len(found.iops) == len(found.functions) == 5
    assert found.functions[OTHERS].requests == 7
    assert found.iops[-1].requests == 6
    assert found.devices[-1, -1].name == OTHERS
    for rows in (found.devices, found.iops, found.functions):
        assert sum(row.requests for row in rows.values()) == 20
    assert found.total.depth == 20


def test_a_reply_cut_in_its_status_counts_without_one() -> None:
    traffic = Traffic()
    traffic.read(0, 1)
    reply = block_storage.BSA_SUCCESS_REPLY.build(
        function=0x30, target_address=DISK, transaction_context=1, transfer_count=4096, req_status=4
    )
    traffic.add(1, Channel.OUT, reply[:18])
    row = traffic.statistics.total
    assert (row.replies, row.errors, row.moved, row.answered) == (1, 0, 0, 1)


# --- latencies ----------------------------------------------------------------------------------


@given(st.lists(st.integers(0, 1 << 62), min_size=1, max_size=200))
def test_percentiles_are_as_exact_as_they_say(times: list[int]) -> None:
    latencies = Latencies()
    for time_ns in times:
        latencies.add(time_ns)
    ordered = sorted(times)
    for percent in (0, 1, 50, 90, 99, 99.9, 100):
        rank = max(1, -(-len(ordered) * percent // 100))
        exact = ordered[int(rank) - 1]
        assert abs(latencies.percentile(percent) - exact) <= exact * RELATIVE_ERROR
    assert (latencies.min_ns, latencies.max_ns) == (ordered[0], ordered[-1])
    assert latencies.mean_ns == sum(times) / len(times)


def test_times_out_of_range_are_clamped() -> None:
    latencies = Latencies()
    assert latencies.percentile(50) == latencies.mean_ns == 0
    latencies.add(-5)
    latencies.add(1 << 80)
    assert latencies.min_ns == 0
    assert latencies.max_ns == (1 << 63) - 1
    assert latencies.percentile(100) == latencies.max_ns


def test_latencies_stay_small() -> None:
    latencies = Latencies()
    for bit in range(63):
        for step in range(200):
            latencies.add((1 << bit) + step * (1 << bit) // 200)
    assert len(latencies._counts) <= 64 + 58 * 32


# --- timeline -----------------------------------------------------------------------------------


def test_slots_merge_and_lose_nothing() -> None:
    timeline = Timeline()
    generator = random.Random(5)
    time_ns = 10**18
    count, deepest, longest = 5000, 0, 0
    for _ in range(count):
        time_ns += generator.randrange(5_000_000)
        depth, latency = generator.randrange(100), generator.randrange(10**6)
        deepest, longest = max(deepest, depth), max(longest, latency)
        timeline.add(time_ns, depth, latency)
    slots = timeline.slots()
    assert len(slots) <= MAX_SLOTS
    assert sum(slot.messages for slot in slots) == count
    assert sum(slot.latencies for slot in slots) == count
    assert max(slot.depth for slot in slots) == deepest
    assert max(slot.latency_max_ns for slot in slots) == longest
    assert [slot.start_ns for slot in slots] == [n * timeline.slot_ns for n in range(len(slots))]
    few = timeline.slots(60)
    assert len(few) <= 60
    assert sum(slot.messages for slot in few) == count
    assert max(slot.depth for slot in few) == deepest


def test_the_depth_stays_while_nothing_happens() -> None:
    timeline = Timeline()
    timeline.add(0, 3)
    timeline.add(1_000_000, 2)
    assert [slot.depth for slot in timeline.slots()] == [3] * 11
    assert [slot.messages for slot in timeline.slots()] == [1, *[0] * 9, 1]


def test_clocks_that_jump() -> None:
    timeline = Timeline()
    timeline.add(1000, 1)
    timeline.add(500, 2)  # before the first
    timeline.add(1 << 200, 3)  # long after the end of the world
    slots = timeline.slots()
    assert len(slots) <= MAX_SLOTS
    assert slots[0].messages == 2
    assert slots[-1].messages == 1
    assert sum(slot.messages for slot in slots) == 3


def test_an_empty_timeline() -> None:
    assert Timeline().slots() == []
    assert Timeline().seconds == 0
