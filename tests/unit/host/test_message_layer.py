# SPDX-License-Identifier: Apache-2.0
"""Frames, cookies and callbacks: who owns what, and that everything comes back exactly once."""

from __future__ import annotations

import contextlib
import errno
import select
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fakes.bare_iop import BareIop, BarePort
from i2o import message_layer
from i2o.clock import SYSTEM_CLOCK, ManualClock
from i2o.errors import (
    I2OError,
    InvalidArgument,
    IopDead,
    LocalFrameError,
    OutOfFrames,
    RequestTimeout,
)
from i2o.frames.header import FAILURE_REPLY, MSG_HEADER, FailureCode, FailureSeverity
from i2o.frames.lan import LAN_PACKET_SEND
from i2o.frames.utility import UTIL_EVENT_REGISTER, UTIL_LOCK, UTIL_NOP
from i2o.iop_table import IopNews, read_head
from i2o.message_frames import ReplyFrame, RequestFrame
from i2o.message_layer import MessageLayer

PROGRESS = 0x80
FRAMES = 8


@pytest.fixture
def iop() -> BareIop:
    return BareIop(frame_count=FRAMES)


class Osm:
    """Registers one callback and remembers what it was called with."""

    def __init__(self, iop: BareIop, *, free: bool = True) -> None:
        self.iop, self.free = iop, free
        self.replies: list[ReplyFrame] = []
        self.calls: list[int] = []
        self.base, (self.cookie,) = iop.layer.register([self.replied])

    def replied(self, number: int, reply: ReplyFrame) -> None:
        self.calls.append(number)
        self.replies.append(reply)
        if self.free:
            self.iop.layer.free_reply(number, reply)

    def request(self, layout=UTIL_LOCK, context: int = 1, **fields) -> RequestFrame:
        frame = self.iop.layer.request_frame(self.iop.number)
        frame[: layout.size] = layout.build(
            target_address=5,
            initiator_context=self.cookie,
            transaction_context=context,
            **fields,
        )
        return frame

    def send(self, layout=UTIL_LOCK, context: int = 1, **fields) -> None:
        self.iop.layer.send(self.iop.number, self.request(layout, context, **fields))


def frames_home(iop: BareIop) -> bool:
    """Whether every inbound and reply frame is where an idle IOP has it."""
    unit = iop.port.unit
    return unit.idle_inbound() == FRAMES and unit.idle_outbound() == len(iop.entry.reply_frames)


class TestRequestFrames:
    def test_a_frame_is_plain_zeroed_memory_of_the_inbound_size(self, iop):
        frame = iop.layer.request_frame(iop.number)
        assert bytes(frame) == bytes(128)
        assert len(memoryview(frame)) == 128

    def test_field_names_read_and_write_it(self, iop):
        frame = iop.layer.request_frame(iop.number)
        frame.function = 0x30
        frame.target_address = 0x123
        frame.logical_byte_address = 1 << 40
        frame.transfer_byte_count = 512
        assert frame[7] == 0x30
        assert frame.target_address == 0x123
        assert bytes(frame[20:32]) == (512).to_bytes(4, "little") + (1 << 40).to_bytes(8, "little")
        assert frame.transfer_byte_count == 512
        with pytest.raises(LocalFrameError):
            frame.target_address = 0x1000
        with pytest.raises(AttributeError, match="no field 'cdb'"):
            _ = frame.cdb
        with pytest.raises(AttributeError):
            frame.nonsense = 1

    def test_a_freed_frame_cannot_be_freed_or_sent_again(self, iop):
        osm = Osm(iop)
        frame = osm.request()
        iop.layer.free_request(iop.number, frame)
        with pytest.raises(InvalidArgument):
            iop.layer.free_request(iop.number, frame)
        with pytest.raises(InvalidArgument):
            iop.layer.send(iop.number, frame)
        assert iop.entry.counters.bad_frees == 1
        assert frames_home(iop)

    def test_a_sent_frame_is_the_transports(self, iop):
        osm = Osm(iop)
        frame = osm.request()
        iop.layer.send(iop.number, frame)
        with pytest.raises(InvalidArgument):
            iop.layer.send(iop.number, frame)
        with pytest.raises(InvalidArgument):
            iop.layer.free_request(iop.number, frame)

    def test_a_frame_of_another_iop_is_refused_and_kept(self, iop):
        other = BareIop(layer=iop.layer)
        frame = Osm(iop).request()
        with pytest.raises(InvalidArgument):
            iop.layer.send(other.number, frame)
        with pytest.raises(InvalidArgument):
            iop.layer.free_request(other.number, frame)
        iop.layer.send(iop.number, frame)

    def test_a_copy_of_a_frame_is_not_the_frame(self, iop):
        frame = Osm(iop).request()
        with pytest.raises(InvalidArgument):
            iop.layer.send(iop.number, RequestFrame(frame))

    @pytest.mark.parametrize("words", [0, 1, 2, 33, 0xFFFF])
    def test_message_size_outside_the_frame_is_refused(self, iop, words):
        frame = Osm(iop).request()
        frame.message_size = words
        with pytest.raises(InvalidArgument, match="MessageSize"):
            iop.layer.send(iop.number, frame)
        assert iop.layer.outstanding(iop.number) == 0
        frame.message_size = 4
        iop.layer.send(iop.number, frame)

    @pytest.mark.parametrize("words", [3, 32])
    def test_the_smallest_and_the_largest_message_are_sent(self, iop, words):
        message = bytearray(UTIL_LOCK.build().ljust(132, b"\0"))
        message[2:4] = words.to_bytes(2, "little")
        iop.layer.submit(iop.number, bytes(message))
        assert iop.layer.outstanding(iop.number) == 1

    def test_attempts_after_the_first_are_counted(self, iop):
        iop.port.empty_reads = 4  # each attempt reads twice
        iop.layer.submit(iop.number, UTIL_LOCK.build(), 500_000)
        assert (iop.entry.counters.retries, iop.entry.counters.no_frame) == (2, 0)
        iop.port.empty_reads = 99
        with pytest.raises(OutOfFrames):
            iop.layer.submit(iop.number, UTIL_LOCK.build(), 300_000)
        assert (iop.entry.counters.retries, iop.entry.counters.no_frame) == (5, 1)

    def test_a_real_frame_is_not_waited_for_without_being_told_to(self):
        iop = BareIop(frame_source="fifo")
        iop.port.empty_reads = 99
        for arguments, spun in (((), []), ((30,), [0.1] * 3)):
            with pytest.raises(OutOfFrames):
                iop.layer.request_frame(iop.number, *arguments)
            assert (iop.clock.spun, iop.clock.slept) == (spun, [])
            iop.clock.spun.clear()

    def test_nobody_waits_or_sleeps_without_being_told_to(self, iop):
        iop.port.empty_reads = 99
        frame = Osm(iop).request()
        for arguments, spun in (((), []), ((300_000,), [0.1] * 3)):
            with pytest.raises(OutOfFrames):
                iop.layer.submit(iop.number, UTIL_LOCK.build(), *arguments)
            assert (iop.clock.spun, iop.clock.slept) == (spun, [])
            iop.clock.spun.clear()
            with pytest.raises(OutOfFrames):
                iop.layer.send(iop.number, frame, *arguments)
            assert (iop.clock.spun, iop.clock.slept) == (spun, [])
            iop.clock.spun.clear()

    def test_a_message_larger_than_a_frame_of_the_iop_is_refused(self, iop):
        message = bytearray(UTIL_LOCK.build().ljust(132, b"\0"))
        message[2:4] = (33).to_bytes(2, "little")
        with pytest.raises(InvalidArgument, match="33 words: expected 3 to 32"):
            iop.layer.submit(iop.number, bytes(message))

    def test_only_message_size_words_reach_the_iop(self, iop):
        osm = Osm(iop)
        frame = osm.request()
        frame[16:] = b"x" * 112
        iop.layer.send(iop.number, frame)
        assert iop.fetch().data == bytes(frame[:16])

    def test_a_fifo_frame_is_taken_at_once_and_goes_home_as_a_nop(self):
        iop = BareIop(frame_source="fifo", frame_count=FRAMES)
        frame = iop.layer.request_frame(iop.number)
        assert iop.port.unit.idle_inbound() == FRAMES - 1
        iop.layer.free_request(iop.number, frame)
        request = iop.fetch()
        assert request.data[7] == UTIL_NOP.function
        assert len(request.data) == 16  # NOP of 3 words; a fetch copies the header
        assert frames_home(iop)
        assert iop.entry.counters.nops == 1

    def test_a_fifo_frame_is_sent_where_it_is(self):
        iop = BareIop(frame_source="fifo", frame_count=1)
        osm = Osm(iop)
        frame = osm.request()
        with pytest.raises(OutOfFrames):
            iop.layer.request_frame(iop.number)
        iop.layer.send(iop.number, frame)
        assert iop.fetch().data[:16] == bytes(frame[:16])

    def test_unknown_iops_are_einval(self, iop):
        frame = Osm(iop).request()
        reply = ReplyFrame(16)
        for call in (
            lambda: iop.layer.request_frame(99),
            lambda: iop.layer.send(99, frame),
            lambda: iop.layer.free_request(99, frame),
            lambda: iop.layer.free_reply(99, reply),
            lambda: iop.layer.mfa_convert(99, 0),
            lambda: iop.layer.detach(99),
            lambda: iop.layer.inbound_frame_size(99),
            lambda: iop.layer.outbound_frame_size(99),
            lambda: iop.layer.set_inbound_frame_size(99, 128),
            lambda: iop.layer.iop_key(99),
            lambda: iop.layer.iop_by_key(12345),
            lambda: iop.layer.bring_up(99),
        ):
            with pytest.raises(InvalidArgument) as caught:
                call()
            assert caught.value.errno == errno.EINVAL
            assert isinstance(caught.value, OSError)
            assert isinstance(caught.value, I2OError)


class TestReplies:
    def test_a_reply_reaches_the_callback_of_its_cookie(self, iop):
        first, second = Osm(iop), Osm(iop)
        second.send()
        iop.answer(iop.fetch())
        assert iop.layer.poll() == 1
        assert first.calls == []
        assert second.calls == [iop.number]
        assert frames_home(iop)
        assert iop.layer.outstanding(iop.number) == 0

    def test_contexts_come_back_unchanged(self, iop):
        osm = Osm(iop)
        osm.send(context=0xDEADBEEF)
        iop.answer(iop.fetch())
        iop.layer.poll()
        assert osm.replies[0].transaction_context == 0xDEADBEEF
        assert osm.replies[0].initiator_context == osm.cookie

    def test_several_callbacks_of_one_osm(self, iop):
        seen: list[str] = []

        def make(name):
            def replied(number, reply):
                seen.append(name)
                iop.layer.free_reply(number, reply)

            return replied

        base, cookies = iop.layer.register([make("a"), make("b"), make("a")])
        assert base == cookies[0]
        assert len(set(cookies)) == 3
        for cookie in reversed(cookies):
            frame = iop.layer.request_frame(iop.number)
            frame[:16] = UTIL_LOCK.build(initiator_context=cookie)
            iop.layer.send(iop.number, frame)
            iop.answer(iop.fetch())
        iop.layer.poll()
        assert seen == ["a", "b", "a"]

    def test_the_reply_frame_stays_with_the_osm_until_freed(self, iop):
        osm = Osm(iop, free=False)
        osm.send()
        iop.answer(iop.fetch())
        iop.layer.poll()
        assert not frames_home(iop)
        iop.layer.free_reply(iop.number, osm.replies[0])
        assert frames_home(iop)
        with pytest.raises(InvalidArgument):
            iop.layer.free_reply(iop.number, osm.replies[0])
        assert iop.entry.counters.bad_frees == 1
        assert iop.port.misuse == []

    def test_the_budget_is_for_all_iops_together(self, iop):
        other = BareIop(layer=iop.layer)
        for each in (iop, other):
            osm = Osm(each)
            for context in range(2):
                osm.send(context=context)
                each.answer(each.fetch())
        assert [iop.layer.poll(3), iop.layer.poll(1), iop.layer.poll(1)] == [3, 1, 0]

    def test_the_budget_bounds_a_poll(self, iop):
        osm = Osm(iop)
        for context in range(5):
            osm.send(context=context)
            iop.answer(iop.fetch())
        assert iop.layer.poll(2) == 2
        assert iop.layer.poll(64) == 3
        assert iop.layer.poll() == 0

    def test_repeated_contexts_are_counted_each(self, iop):
        osm = Osm(iop)
        osm.send(context=7)
        osm.send(context=7)
        assert iop.layer.outstanding(iop.number) == 2
        first, second = iop.fetch(), iop.fetch()
        iop.answer(second)
        iop.answer(first)
        iop.answer(first)  # one too many
        assert iop.layer.poll() == 3
        assert len(osm.replies) == 2
        assert iop.entry.counters.unexpected == 1
        assert frames_home(iop)

    def test_progress_replies_are_extra(self, iop):
        osm = Osm(iop)
        osm.send()
        request = iop.fetch()
        iop.answer(request, flags=PROGRESS)
        iop.answer(request, flags=PROGRESS)
        iop.answer(request)
        iop.answer(request, flags=PROGRESS)  # after the last one: nobody waits any more
        iop.layer.poll()
        assert [reply.final for reply in osm.replies] == [False, False, True]
        assert iop.entry.counters.unexpected == 1
        assert frames_home(iop)

    def test_a_reply_nobody_asked_for_is_dropped_and_counted(self, iop):
        osm = Osm(iop)
        iop.reply(UTIL_LOCK.build(initiator_context=osm.cookie, msg_flags=0xC0) + bytes(4))
        assert iop.layer.poll() == 1
        assert osm.replies == []
        assert iop.entry.counters.unexpected == 1
        assert frames_home(iop)

    def test_a_deregistered_cookie_gets_nothing_but_its_frame_goes_home(self, iop):
        osm = Osm(iop)
        osm.send()
        iop.layer.deregister(osm.base)
        iop.answer(iop.fetch())
        assert iop.layer.poll() == 1
        assert osm.replies == []
        assert iop.entry.counters.unknown_cookie == 1
        assert iop.layer.outstanding(iop.number) == 0
        assert frames_home(iop)

    def test_a_frame_that_is_no_reply_is_dropped(self, iop):
        osm = Osm(iop)
        osm.send()
        request = iop.fetch()
        iop.answer(request, flags=0)
        iop.reply(b"\x01\xc0\x02\x00" + request.data[4:8])
        iop.layer.poll()
        assert osm.replies == []
        assert iop.entry.counters.malformed == 2
        assert frames_home(iop)

    def test_a_reply_outside_the_pool_is_dropped(self, iop):
        osm = Osm(iop)
        osm.send()
        request = iop.fetch()
        elsewhere = iop.port.memory.allocate(128)
        iop.port.unit.post_reply(elsewhere.bus_address, bytes(20))
        iop.answer(request)
        iop.layer.poll()
        assert len(osm.replies) == 1
        assert iop.entry.counters.malformed == 1

    def test_a_message_size_beyond_the_frame_is_cut(self, iop):
        osm = Osm(iop)
        osm.send()
        request = iop.fetch()
        iop.reply(b"\x01\xc0\xff\xff" + request.data[4:16] + bytes(4))
        iop.layer.poll()
        assert len(osm.replies[0]) == 128

    def test_a_nop_of_any_initiator_has_no_reply(self, iop):
        for initiator in (0x001, 0x550, 0xFFF):
            iop.layer.submit(
                iop.number, UTIL_NOP.build(initiator_address=initiator).ljust(16, b"\0")
            )
        assert iop.layer.outstanding(iop.number) == 0

    def test_nop_has_no_reply(self, iop):
        osm = Osm(iop)
        frame = iop.layer.request_frame(iop.number)
        frame[: UTIL_NOP.size] = UTIL_NOP.build(initiator_context=osm.cookie)
        iop.layer.send(iop.number, frame)
        assert iop.layer.outstanding(iop.number) == 0

    def test_events_are_replies_that_settle_nothing(self, iop):
        osm = Osm(iop)
        osm.send(UTIL_EVENT_REGISTER, event_mask=0xFFFFFFFF)
        assert iop.layer.outstanding(iop.number) == 0
        request = iop.fetch()
        for _ in range(3):
            iop.answer(request)
            iop.layer.poll()
        assert len(osm.replies) == 3
        iop.layer.deregister(osm.base)
        iop.answer(request)
        iop.layer.poll()
        assert len(osm.replies) == 3
        assert frames_home(iop)

    def test_deregistering_ends_event_registrations(self, iop):
        osm, other = Osm(iop), Osm(iop)
        osm.send(UTIL_EVENT_REGISTER, event_mask=0xFFFFFFFF)
        other.send(UTIL_EVENT_REGISTER, event_mask=0xFFFFFFFF)
        request, _ = iop.fetch(), iop.fetch()
        iop.layer.deregister(osm.base)
        assert {key[4:8] for key in iop.entry.event_registrations} == {
            other.cookie.to_bytes(4, "little")
        }
        iop.layer.deregister(other.base)
        assert iop.entry.event_registrations == {}
        iop.answer(request)
        iop.layer.poll()
        assert osm.replies == []
        assert iop.entry.counters.unexpected == 1
        assert iop.entry.counters.unknown_cookie == 0
        assert frames_home(iop)

    def test_callbacks_may_send_free_and_deregister(self, iop):
        seen = []

        def replied(number, reply):
            seen.append(reply.transaction_context)
            context = reply.transaction_context
            iop.layer.free_reply(number, reply)
            if context < 3:
                frame = iop.layer.request_frame(number)
                frame[:16] = UTIL_LOCK.build(
                    initiator_context=cookie, transaction_context=context + 1
                )
                iop.layer.send(number, frame)
                iop.answer(iop.fetch())
            else:
                iop.layer.deregister(base)

        base, (cookie,) = iop.layer.register([replied])
        frame = iop.layer.request_frame(iop.number)
        frame[:16] = UTIL_LOCK.build(initiator_context=cookie)
        iop.layer.send(iop.number, frame)
        iop.answer(iop.fetch())
        assert iop.layer.poll() == 4
        assert seen == [0, 1, 2, 3]
        assert frames_home(iop)


class TestCallbackErrors:
    def test_the_frame_goes_home_and_the_error_comes_out_of_poll(self, iop):
        def fails(number, reply):
            raise ZeroDivisionError("osm bug")

        good = Osm(iop)
        _, (cookie,) = iop.layer.register([fails])
        frame = iop.layer.request_frame(iop.number)
        frame[:16] = UTIL_LOCK.build(initiator_context=cookie)
        iop.layer.send(iop.number, frame)
        good.send()
        iop.answer(iop.fetch())
        iop.answer(iop.fetch())
        with pytest.raises(ZeroDivisionError, match="osm bug"):
            iop.layer.poll()
        assert len(good.replies) == 1, "replies behind the failing one are dispatched all the same"
        assert frames_home(iop)
        assert iop.entry.counters.callback_errors == 1
        assert iop.entry.counters.auto_freed == 1

    def test_several_errors_come_as_a_group(self, iop):
        def fails(number, reply):
            iop.layer.free_reply(number, reply)
            raise ValueError(reply.transaction_context)

        _, (cookie,) = iop.layer.register([fails])
        for context in range(2):
            frame = iop.layer.request_frame(iop.number)
            frame[:16] = UTIL_LOCK.build(initiator_context=cookie, transaction_context=context)
            iop.layer.send(iop.number, frame)
            iop.answer(iop.fetch())
        with pytest.raises(ExceptionGroup) as caught:
            iop.layer.poll()
        assert [str(error) for error in caught.value.exceptions] == ["0", "1"]
        assert iop.entry.counters.auto_freed == 0
        assert frames_home(iop)

    def test_waiting_in_a_callback_is_refused(self, iop):
        def waits(number, reply):
            iop.layer.free_reply(number, reply)
            iop.layer.run_until(lambda: False, 1)

        _, (cookie,) = iop.layer.register([waits])
        frame = iop.layer.request_frame(iop.number)
        frame[:16] = UTIL_LOCK.build(initiator_context=cookie)
        iop.layer.send(iop.number, frame)
        iop.answer(iop.fetch())
        with pytest.raises(InvalidArgument, match="callback"):
            iop.layer.poll()

    @pytest.mark.parametrize(
        ("options", "flags", "refused"),
        [
            ({"debug": True}, 1, True),
            ({"debug": True}, 0, False),
            ({"debug": False}, 1, False),
            ({}, 1, False),
        ],
    )
    def test_sleeping_in_a_callback_is_named_by_the_checker(self, options, flags, refused):
        iop = BareIop(layer=MessageLayer(clock=ManualClock(), **options))
        errors = []

        def sleeps(number, reply):
            iop.layer.free_reply(number, reply)
            frame = iop.layer.request_frame(number)
            frame[:16] = UTIL_LOCK.build(initiator_context=cookie)
            try:
                iop.layer.send(number, frame, 100_000, flags)
            except InvalidArgument as error:
                errors.append(str(error))
                iop.layer.free_request(number, frame)

        _, (cookie,) = iop.layer.register([sleeps])
        frame = iop.layer.request_frame(iop.number)
        frame[:16] = UTIL_LOCK.build(initiator_context=cookie)
        iop.layer.send(iop.number, frame, 100_000, 1)  # outside a callback it may sleep
        iop.answer(iop.fetch())
        iop.layer.poll()
        assert bool(errors) == refused
        assert all("interrupt context" in error for error in errors)

    def test_an_interrupt_in_a_callback_leaves_no_frame_behind(self, iop):
        def interrupted(number, reply):
            raise KeyboardInterrupt

        _, (cookie,) = iop.layer.register([interrupted])
        frame = iop.layer.request_frame(iop.number)
        frame[:16] = UTIL_LOCK.build(initiator_context=cookie)
        iop.layer.send(iop.number, frame)
        iop.answer(iop.fetch())
        with pytest.raises(KeyboardInterrupt):
            iop.layer.poll()
        assert frames_home(iop)

    @pytest.mark.parametrize("source", ["memory", "fifo"])
    def test_a_port_that_fails_in_the_middle_loses_no_frame(self, source):
        iop = BareIop(frame_source=source, frame_count=FRAMES)
        osm = Osm(iop)
        frame = osm.request()
        write, iop.port.write = iop.port.write, None

        def broken(mfa, data):
            iop.port.write = write
            raise LocalFrameError("the bus is gone")

        iop.port.write = broken
        if source == "memory":
            with pytest.raises(LocalFrameError, match="bus"):
                iop.layer.send(iop.number, frame)
            iop.layer.free_request(iop.number, frame)
            assert iop.layer.outstanding(iop.number) == 0
            assert iop.fetch().data[7] == UTIL_NOP.function
        else:  # a real frame may be the IOP's again: the request goes into another one
            iop.layer.send(iop.number, frame)
            assert iop.fetch().data[7] == UTIL_NOP.function
            iop.answer(iop.fetch())
            iop.layer.poll()
            assert len(osm.replies) == 1
        assert frames_home(iop)


class TestFail:
    def test_mfa_convert_gives_the_request_and_the_frame_goes_home_on_free(self, iop):
        osm = Osm(iop, free=False)
        osm.send(context=0x1234)
        request = iop.port.unit.fetch()
        iop.port.unit.preserve(request.mfa)
        iop.fail(request)
        iop.layer.poll()
        (reply,) = osm.replies
        assert reply.failed
        assert reply.failure_code == FailureCode.INVALID_TARGET_ID
        assert reply.transaction_context == 0, "not valid in a FAIL reply"
        saved = iop.layer.mfa_convert(iop.number, reply.preserved_mfa_low)
        assert saved.transaction_context == 0x1234
        assert bytes(saved) == request.data
        assert iop.layer.outstanding(iop.number) == 0
        iop.layer.free_reply(iop.number, reply)
        assert iop.layer.mfa_convert(iop.number, reply.preserved_mfa_low) is None
        assert iop.fetch().data[7] == UTIL_NOP.function
        assert frames_home(iop)
        assert iop.port.misuse == []

    def test_which_of_two_alike_failed_is_told_by_the_preserved_frame(self, iop):
        osm = Osm(iop)
        osm.send(context=1)
        osm.send(context=2)
        iop.fetch()
        request = iop.port.unit.fetch()
        iop.port.unit.preserve(request.mfa)
        iop.fail(request)
        iop.layer.poll()
        assert [key[8:12] for key in iop.entry.outstanding] == [(1).to_bytes(4, "little")]

    def test_without_a_preserved_frame_the_only_candidate_is_taken(self, iop):
        osm = Osm(iop)
        osm.send(context=9)
        iop.fail(iop.fetch(), preserve=False)
        iop.layer.poll()
        assert len(osm.replies) == 1
        assert iop.layer.outstanding(iop.number) == 0
        assert frames_home(iop)

    def test_without_one_and_with_two_candidates_it_is_dropped(self, iop):
        osm = Osm(iop)
        osm.send(context=1)
        osm.send(context=2)
        iop.fetch()
        iop.fail(iop.fetch(), preserve=False)
        iop.layer.poll()
        assert osm.replies == []
        assert iop.entry.counters.unexpected == 1
        assert iop.layer.outstanding(iop.number) == 2

    def test_a_preserved_mfa_that_the_iop_does_not_hold_is_not_believed(self, iop):
        osm = Osm(iop)
        osm.send(context=3)
        request = iop.fetch()
        wrong = request._replace(mfa=0x10)
        iop.fail(wrong)
        iop.layer.poll()
        assert len(osm.replies) == 1
        assert not iop.port.unit.request_pending, "no NOP was written to a frame that is not ours"

    def test_a_valid_context_in_the_reply_is_used_when_nothing_is_preserved(self, iop):
        osm = Osm(iop)
        osm.send(context=1)
        osm.send(context=2)
        iop.fetch()
        request = iop.fetch()
        iop.reply(b"\x01\xe0\x05\x00" + request.data[4:16] + b"\x01\x01\x01\x8d")
        iop.layer.poll()
        assert [reply.transaction_context for reply in osm.replies] == [2]

    def test_a_preserved_frame_that_was_overwritten_is_not_believed(self, iop):
        osm = Osm(iop)
        osm.send(context=1)
        request = iop.port.unit.fetch()
        iop.port.unit.preserve(request.mfa)
        iop.port.unit.write(request.mfa, bytes(16))
        iop.fail(request)
        iop.layer.poll()
        assert len(osm.replies) == 1, "the only candidate"
        assert iop.fetch().data[7] == UTIL_NOP.function, "the frame itself goes home"
        assert frames_home(iop)
        assert iop.entry.counters.nops == 1

    @pytest.mark.parametrize("free", [True, False])
    def test_of_two_replies_that_name_one_preserved_frame_the_first_is_believed(self, iop, free):
        osm = Osm(iop, free=free)
        osm.send(context=1)
        request = iop.port.unit.fetch()
        iop.port.unit.preserve(request.mfa)
        iop.fail(request)
        iop.fail(request)
        assert iop.layer.poll() == 2
        assert len(osm.replies) == 1
        assert iop.entry.counters.unexpected == 1
        if not free:
            assert iop.entry.counters.nops == 0, "the OSM still holds it"
            iop.layer.free_reply(iop.number, osm.replies[0])
        assert iop.entry.counters.nops == 1
        assert iop.fetch().data[7] == UTIL_NOP.function
        assert frames_home(iop)
        assert iop.port.misuse == []

    def test_a_nop_on_its_way_home_is_no_preserved_frame(self, iop):
        osm = Osm(iop)
        osm.send(context=1)
        request = iop.port.unit.fetch()
        iop.port.unit.preserve(request.mfa)
        iop.fail(request)
        iop.layer.poll()
        iop.fail(request)  # names the frame in which the NOP is
        iop.layer.poll()
        assert iop.entry.counters.nops == 1
        assert iop.fetch().data[7] == UTIL_NOP.function
        assert frames_home(iop)
        assert iop.port.misuse == []

    def test_a_failed_event_registration_ends_it(self, iop):
        osm = Osm(iop)
        osm.send(UTIL_EVENT_REGISTER)
        request = iop.port.unit.fetch()
        iop.port.unit.preserve(request.mfa)
        iop.fail(request)
        iop.layer.poll()
        assert len(osm.replies) == 1
        assert iop.entry.event_registrations == {}

    def test_a_failed_event_registration_leaves_the_one_of_before(self, iop):
        osm = Osm(iop)
        osm.send(UTIL_EVENT_REGISTER, event_mask=1)
        taken = iop.fetch()
        osm.send(UTIL_EVENT_REGISTER, event_mask=3)
        request = iop.port.unit.fetch()
        iop.port.unit.preserve(request.mfa)
        iop.fail(request)
        iop.answer(taken)
        iop.layer.poll()
        assert len(osm.replies) == 2
        assert iop.entry.counters.unexpected == 0
        iop.layer.deregister(osm.base)
        assert iop.entry.event_registrations == {}

    @pytest.mark.parametrize(("words", "size"), [(0, 16), (3, 16), (4, 16), (9, 36), (32, 128)])
    def test_mfa_convert_gives_as_much_as_message_size_says(self, iop, words, size):
        osm = Osm(iop, free=False)
        osm.send()
        request = iop.port.unit.fetch()
        iop.port.unit.preserve(request.mfa)
        iop.fail(request)
        iop.layer.poll()
        content = request.data[:2] + words.to_bytes(2, "little") + request.data[4:16]
        content += bytes(range(16, 128))
        iop.port.unit.write(request.mfa, content)
        saved = iop.layer.mfa_convert(iop.number, osm.replies[0].preserved_mfa_low)
        assert bytes(saved) == content[:size]

    def test_mfa_convert_gives_no_more_than_a_frame(self, iop):
        osm = Osm(iop, free=False)
        osm.send()
        request = iop.port.unit.fetch()
        iop.port.unit.preserve(request.mfa)
        iop.fail(request)
        iop.layer.poll()
        iop.port.unit.write(request.mfa, b"\x01\x01\xff\xff" + request.data[4:16])
        saved = iop.layer.mfa_convert(iop.number, osm.replies[0].preserved_mfa_low)
        assert len(bytes(saved)) == 128

    def test_mfa_convert_finds_each_of_several_preserved_requests(self, iop):
        osm = Osm(iop, free=False)
        for context in (1, 2, 3):
            osm.send(context=context)
        for _ in range(3):
            request = iop.port.unit.fetch()
            iop.port.unit.preserve(request.mfa)
            iop.fail(request)
        iop.layer.poll()
        saved = [
            iop.layer.mfa_convert(iop.number, reply.preserved_mfa_low).transaction_context
            for reply in osm.replies
        ]
        assert saved == [1, 2, 3]

    def test_mfa_convert_of_nonsense_is_none_while_replies_are_held(self, iop):
        osm = Osm(iop, free=False)
        osm.send(context=1)
        iop.answer(iop.fetch())
        osm.send(context=2)
        request = iop.port.unit.fetch()
        iop.port.unit.preserve(request.mfa)
        iop.fail(request)
        assert iop.layer.poll() == 2
        for mfa in (request.mfa ^ 0x40, 0xFFFFFFFF, 0xF0000000):
            assert iop.layer.mfa_convert(iop.number, mfa) is None

    def test_mfa_convert_of_nonsense_is_none(self, iop):
        for mfa in (0, 0x1000, 0xFFFFFFFF, 0xF0000000):
            assert iop.layer.mfa_convert(iop.number, mfa) is None


class TestFinalCallbacks:
    def test_detach_gives_every_outstanding_request_one_fail(self, iop):
        osm = Osm(iop, free=False)
        converted = []

        def replied(number, reply):
            saved = iop.layer.mfa_convert(number, reply.preserved_mfa_low)
            converted.append((saved.transaction_context, saved.initiator_context))
            assert iop.port.resets == 1, "not before the IOP can no longer write"
            iop.layer.free_reply(number, reply)
            osm.replies.append(reply)

        _base, (cookie,) = iop.layer.register([replied])
        osm.cookie = cookie
        for context in (1, 2, 2):
            osm.send(context=context)
        osm.send(UTIL_EVENT_REGISTER, context=5)
        iop.layer.detach(iop.number)
        assert sorted(converted) == [(1, cookie), (2, cookie), (2, cookie)]
        for reply in osm.replies:
            record = FAILURE_REPLY.unpack_from(reply)
            assert record.severity == FailureSeverity.PATH_STATE
            assert record.failure_code == FailureCode.SERVICE_TERMINATED
            assert record.msg_flags == 0xE0
        assert iop.entry.counters.synthesised == 3
        assert iop.port.closed
        assert iop.layer.iop_count() == 0
        assert iop.port.memory.buffer_count <= 1  # the status block that never came stays mapped

    def test_replies_that_are_there_already_are_delivered_first(self, iop):
        osm = Osm(iop)
        osm.send(context=1)
        osm.send(context=2)
        iop.answer(iop.fetch())
        iop.layer.detach(iop.number)
        assert [reply.failed for reply in osm.replies] == [False, True]

    def test_nothing_can_be_sent_from_a_callback_of_a_dying_iop(self, iop):
        refused = []

        def replied(number, reply):
            iop.layer.free_reply(number, reply)
            assert not iop.layer.iop_valid(number)
            try:
                iop.layer.request_frame(number)
            except InvalidArgument as error:
                refused.append(str(error))

        _, (cookie,) = iop.layer.register([replied])
        osm = Osm(iop)
        osm.cookie = cookie
        osm.send()
        iop.layer.detach(iop.number)
        assert len(refused) == 1

    @pytest.mark.parametrize("source", ["memory", "fifo"])
    def test_what_a_callback_of_a_dying_iop_sends_is_refused_and_stays_its_own(self, source):
        iop = BareIop(frame_source=source, frame_count=FRAMES)
        freed = []

        def replied(number, reply):
            iop.layer.free_reply(number, reply)
            with pytest.raises(InvalidArgument, match="detached"):
                iop.layer.send(number, held)
            with pytest.raises(InvalidArgument, match="detached"):
                iop.layer.submit(number, bytes(held[:16]))
            iop.layer.free_request(number, held)
            freed.append(held)

        osm = Osm(iop)
        _, (osm.cookie,) = iop.layer.register([replied])
        held = osm.request(context=2)
        osm.send(context=1)
        iop.layer.detach(iop.number)
        assert freed == [held]
        assert iop.entry.outstanding_count == 0
        assert iop.entry.held_requests == {}
        assert iop.entry.counters.requests == 1
        assert iop.port.closed
        assert iop.port.misuse == []

    def test_an_iop_that_was_only_registered_is_reset_if_something_was_posted(self, iop):
        port = BarePort(iop.clock)
        number = iop.layer.attach(port, bring_up=False)
        resets = []

        def replied(which, reply):
            resets.append(port.resets)
            assert not port.closed
            iop.layer.free_reply(which, reply)

        _, (cookie,) = iop.layer.register([replied])
        frame = iop.layer.request_frame(number)
        frame[:16] = UTIL_LOCK.build(initiator_context=cookie)
        iop.layer.send(number, frame)
        iop.layer.detach(number)
        assert resets == [1]
        assert port.closed

    def test_an_iop_to_which_nothing_was_posted_is_not_reset(self, iop, monkeypatch):
        monkeypatch.setattr(iop.port, "reap", None)  # nor asked for replies
        frame = iop.layer.request_frame(iop.number)
        iop.layer.free_request(iop.number, frame)
        iop.layer.detach(iop.number)
        assert iop.port.resets == 0
        assert not iop.port.unit.request_pending
        assert iop.port.closed

    def test_a_raising_callback_does_not_stop_the_detach(self, iop):
        def fails(number, reply):
            raise ZeroDivisionError

        _, (cookie,) = iop.layer.register([fails])
        osm = Osm(iop)
        osm.cookie = cookie
        osm.send(context=1)
        osm.send(context=2)
        with pytest.raises(ExceptionGroup):
            iop.layer.detach(iop.number)
        assert iop.port.closed
        assert iop.layer.iop_count() == 0

    def test_outstanding_requests_of_a_deregistered_osm_vanish_quietly(self, iop):
        osm = Osm(iop)
        osm.send()
        iop.layer.deregister(osm.base)
        iop.layer.detach(iop.number)
        assert osm.replies == []
        assert iop.entry.saved_requests == {}

    def test_stand_ins_are_unique_while_some_are_held(self, iop):
        first = iop.entry.save_request(b"a" * 12)
        second = iop.entry.save_request(b"b" * 12)
        del iop.entry.saved_requests[first]
        third = iop.entry.save_request(b"c" * 12)
        assert len({second, third}) == 2

    def test_lan_requests_have_no_transaction_context(self, iop):
        osm = Osm(iop)
        frame = iop.layer.request_frame(iop.number)
        frame[:16] = LAN_PACKET_SEND.build(
            initiator_context=osm.cookie, transmit_control_word=0x40000000
        )
        iop.layer.send(iop.number, frame)
        request = iop.fetch()
        iop.reply(b"\x01\xd0\x06\x00" + request.data[4:12] + b"\x01\x01\x00\x00" + bytes(8))
        iop.layer.poll()
        assert len(osm.replies) == 1


class TestDeadIop:
    """A port that raises IopDead: the IOP is gone, and with it whoever writes to host memory."""

    @pytest.fixture
    def dead(self, iop) -> BareIop:
        def gone() -> int:
            self.reaps += 1
            raise IopDead("the cable is out")

        self.reaps = 0
        iop.port.reap = gone
        return iop

    def test_each_request_gets_one_fail_and_poll_goes_on(self, dead):
        osm = Osm(dead)
        for context in (1, 2, 2):
            osm.send(context=context)
        dead.layer.poll()
        assert len(osm.replies) == 3
        for reply in osm.replies:
            assert (reply[1], reply.failure_code) == (0xE0, FailureCode.SERVICE_TERMINATED)
        assert not dead.layer.iop_valid(dead.number)
        assert dead.layer.outstanding(dead.number) == 0
        reaps = self.reaps
        for _ in range(5):
            assert dead.layer.poll() == 0
        assert self.reaps == reaps, "a dead port is left alone"
        assert len(osm.replies) == 3
        assert not dead.layer.run_until(lambda: False, 0.5)
        assert len(dead.clock.slept) <= 10, "it sleeps"
        assert dead.layer.filenos() == {}
        assert dead.layer.next_deadline_ns() is None

    def test_nothing_more_can_be_sent(self, dead):
        osm = Osm(dead)
        held = osm.request(context=9)
        dead.layer.poll()
        with pytest.raises(InvalidArgument, match="dead"):
            dead.layer.request_frame(dead.number)
        with pytest.raises(InvalidArgument, match="dead"):
            dead.layer.send(dead.number, held)
        with pytest.raises(InvalidArgument, match="dead"):
            dead.layer.submit(dead.number, bytes(held[:16]))
        dead.layer.free_request(dead.number, held)
        assert dead.layer.outstanding(dead.number) == 0

    def test_a_bring_up_that_is_tried_does_not_make_it_alive(self, dead):
        def gone(*_) -> int:
            raise IopDead("the cable is out")

        dead.layer.poll()
        dead.port.post = gone
        with pytest.raises(I2OError):
            dead.layer.bring_up(dead.number)
        assert not dead.layer.iop_valid(dead.number)
        with pytest.raises(InvalidArgument, match="dead"):
            dead.layer.request_frame(dead.number)
        with pytest.raises(InvalidArgument, match="dead"):
            dead.layer.submit(dead.number, UTIL_LOCK.build())
        assert dead.layer.poll() == 0

    @pytest.mark.parametrize("polled", [True, False])
    def test_it_is_detached_without_an_error(self, dead, polled):
        osm = Osm(dead)
        osm.send()
        if polled:
            dead.layer.poll()
        dead.layer.detach(dead.number)
        assert len(osm.replies) == 1
        assert dead.port.closed
        assert dead.layer.iop_count() == 0

    def test_the_others_go_on(self, dead):
        other = BareIop(layer=dead.layer)
        other.port.clock = dead.clock
        first, second = Osm(dead), Osm(other)
        first.send()
        second.send()
        other.answer(other.fetch())
        assert dead.layer.poll() >= 1
        assert [reply.failed for reply in first.replies] == [True]
        assert [reply.failed for reply in second.replies] == [False]
        assert dead.layer.iop_valid(other.number)

    def test_a_port_that_dies_while_it_is_waited_on(self, iop):
        def gone(*_) -> int:
            raise IopDead("the cable is out")

        osm = Osm(iop)
        osm.send()
        iop.port.wait = gone
        assert iop.layer.run_until(lambda: bool(osm.replies), 1)
        assert osm.replies[0].failed
        assert not iop.layer.iop_valid(iop.number)
        assert not iop.layer.run_until(lambda: False, 1)

    def test_that_a_port_died_is_something_that_happened(self, iop, monkeypatch):
        def gone(_):
            raise IopDead("the cable is out")

        monkeypatch.setattr(iop.port, "wait", gone)
        assert iop.layer.wait(1)
        assert not iop.layer.wait(1)

    def test_an_iop_that_gives_no_status_is_not_valid(self, iop):
        assert iop.layer.iop_valid(iop.number)
        with pytest.raises(IopDead):
            iop.layer.check(iop.number)
        assert not iop.layer.iop_valid(iop.number)

    def test_what_a_callback_of_a_dead_iop_raises_comes_out_once(self, dead):
        def fails(number, reply):
            raise ZeroDivisionError

        osm = Osm(dead)
        _, (osm.cookie,) = dead.layer.register([fails])
        osm.send()
        with pytest.raises(ZeroDivisionError):
            dead.layer.poll()
        assert dead.layer.poll() == 0
        dead.layer.detach(dead.number)


class TestRegistration:
    @pytest.mark.parametrize("callbacks", [[], [None], [print, 3]])
    def test_nonsense_is_einval(self, iop, callbacks):
        with pytest.raises(InvalidArgument):
            iop.layer.register(callbacks)

    def test_too_many_osms_is_enomem(self, iop):
        for _ in range(256):
            iop.layer.register([print])
        with pytest.raises(OutOfFrames) as caught:
            iop.layer.register([print])
        assert caught.value.errno == errno.ENOMEM

    def test_only_the_base_cookie_deregisters_and_only_once(self, iop):
        base, cookies = iop.layer.register([print, print])
        with pytest.raises(InvalidArgument):
            iop.layer.deregister(cookies[1])
        iop.layer.deregister(base)
        with pytest.raises(InvalidArgument):
            iop.layer.deregister(base)

    def test_cookies_wrap_around_those_in_use(self, iop):
        table = iop.layer._cookies
        kept = table.register([print])
        table._next = 0x7FFF_FFFF
        again = table.register([print, print])
        assert set(again.cookies).isdisjoint(kept.cookies)
        assert min(again.cookies) > kept.cookies[0]


class TestIops:
    def test_registered_is_not_valid(self):
        layer = MessageLayer()
        number = layer.attach(BarePort(), bring_up=False)
        assert layer.iop_count() == 1
        assert not layer.iop_valid(number)
        assert not layer.iop_valid(77)
        with pytest.raises(IopDead):
            layer.result(number)
        with pytest.raises(IopDead):
            layer.refresh(number)

    def test_numbers_are_not_used_again(self):
        layer = MessageLayer()
        first = layer.attach(BarePort(), bring_up=False)
        layer.detach(first)
        assert layer.attach(BarePort(), bring_up=False) != first

    def test_keys_are_unique_and_lead_back(self):
        layer = MessageLayer()
        numbers = [layer.attach(BarePort(), bring_up=False) for _ in range(3)]
        keys = [layer.iop_key(number) for number in numbers]
        assert len(set(keys)) == 3
        assert [layer.iop_by_key(key) for key in keys] == numbers
        assert layer.iop_numbers() == tuple(numbers)

    def test_an_iop_that_does_not_come_up_is_detached(self):
        iop = BareIop()
        port = BarePort(iop.clock)
        with pytest.raises(IopDead, match="status block"):
            iop.layer.attach(port)
        assert port.closed
        assert iop.layer.iop_count() == 1

    def test_unknown_frame_source(self):
        with pytest.raises(InvalidArgument, match="frame_source"):
            MessageLayer().attach(BarePort(), frame_source="disk")  # type: ignore[arg-type]

    def test_close_detaches_all(self):
        ports = [BarePort(), BarePort()]
        with MessageLayer() as layer:
            for port in ports:
                layer.attach(port, bring_up=False)
        assert all(port.closed for port in ports)

    def test_close_detaches_all_although_callbacks_raise(self, iop):
        def fails(number, reply):
            iop.layer.free_reply(number, reply)
            raise ValueError(number)

        others = [BareIop(layer=iop.layer) for _ in range(2)]
        osm = Osm(iop)
        _, (osm.cookie,) = iop.layer.register([fails])
        osm.send()
        with pytest.raises(ValueError, match=str(iop.number)):
            iop.layer.close()
        assert all(each.port.closed for each in (iop, *others))
        assert iop.layer.iop_count() == 0

    def test_close_raises_the_errors_of_all(self, iop):
        def fails(number, reply):
            iop.layer.free_reply(number, reply)
            raise ValueError(number)

        other = BareIop(layer=iop.layer)
        _, (cookie,) = iop.layer.register([fails])
        for each in (iop, other):
            osm = Osm(each)
            osm.cookie = cookie
            osm.send()
        with pytest.raises(ExceptionGroup) as caught:
            iop.layer.close()
        assert sorted(map(str, caught.value.exceptions)) == [str(iop.number), str(other.number)]
        assert iop.port.closed
        assert other.port.closed

    def test_without_an_iop_waiting_sleeps(self):
        clock = ManualClock()
        layer = MessageLayer(clock=clock)
        assert not layer.wait(0.5)
        assert clock.slept == [0.5]
        clock.slept.clear()
        assert not layer.run_until(lambda: False, 1.0)
        assert clock.monotonic() >= 1.5
        assert 1 <= len(clock.slept) <= 20

    def test_one_descriptor_per_iop(self):
        layer = MessageLayer()
        with pytest.raises(InvalidArgument):
            layer.fileno()
        first = layer.attach(BarePort(), bring_up=False)
        assert layer.fileno() == layer.filenos()[first]
        layer.attach(BarePort(), bring_up=False)
        with pytest.raises(InvalidArgument, match="filenos"):
            layer.fileno()
        layer.close()

    def test_waiting_for_two_iops_ends_in_time(self, iop):
        other = BareIop(layer=iop.layer)
        other.port.clock = iop.clock
        assert not iop.layer.wait(0.01)
        osm = Osm(other)
        osm.send()
        other.answer(other.fetch())
        assert iop.layer.wait(0.01)

    def test_the_first_look_at_two_iops_takes_no_time(self, iop, monkeypatch):
        other = BareIop(layer=iop.layer)
        waits = []
        for each in (iop, other):
            monkeypatch.setattr(each.port, "wait", lambda timeout: bool(waits.append(timeout)))
        assert not iop.layer.wait(0)
        assert waits == [0.0, 0.0]

    def test_two_iops_are_looked_at_in_turns_of_a_millisecond(self, iop):
        BareIop(layer=iop.layer)
        assert not iop.layer.wait(0.0025)
        assert iop.clock.slept[2:] == pytest.approx([0.001, 0.001, 0.0005, 0.0005])

    def test_the_condition_is_looked_at_again_after_a_tenth_of_a_second(self, iop):
        assert not iop.layer.run_until(lambda: False, 0.25)
        assert iop.clock.slept == pytest.approx([0.1, 0.1, 0.05])

    @pytest.mark.parametrize(
        ("timeout_s", "wanted_ns", "expected_ms"),
        [
            (9.0, None, 100),
            (0.02, None, 20),
            (9.0, 30_000_000, 30),
            (9.0, 900_000_000, 100),
            (9.0, -1, 0),
        ],
    )
    def test_sleeping_on_descriptors_ends_when_a_port_wants_to_run(
        self, iop, monkeypatch, timeout_s, wanted_ns, expected_ms
    ):
        slept = []

        class Poll:
            def register(self, descriptor, events):
                slept.append((descriptor, events))

            def poll(self, milliseconds):
                slept.append(milliseconds)

        iop.clock.advance(5)
        if wanted_ns is not None:
            due = iop.clock.monotonic_ns() + wanted_ns
            monkeypatch.setattr(iop.port, "next_deadline_ns", lambda: due)
        monkeypatch.setattr(message_layer.select, "poll", Poll)
        iop.layer._sleep_until_readable(timeout_s)
        assert slept == [(iop.port.fileno(), select.POLLIN), pytest.approx(expected_ms)]
        iop.port.close()

    def test_what_another_thread_polls_is_left_to_it(self, iop):
        osm = Osm(iop)
        osm.send()
        iop.answer(iop.fetch())
        iop.layer.polled_by_thread(True)
        assert not iop.layer.run_until(lambda: bool(osm.replies), 0)
        iop.layer.polled_by_thread(False)
        assert iop.layer.run_until(lambda: bool(osm.replies), 0)

    def test_what_another_thread_did_just_now_is_not_waited_for(self, iop, monkeypatch):
        answers = iter([False, False])
        iop.layer.polled_by_thread(True)
        monkeypatch.setattr(iop.layer._progress, "wait", None)
        assert iop.layer.run_until(lambda: next(answers, True), 9)

    def test_threads_that_wait_are_woken_by_a_poll_that_did_something(self, iop, monkeypatch):
        woken = []
        osm = Osm(iop)
        osm.send()
        iop.answer(iop.fetch())
        iop.layer.polled_by_thread(True)
        monkeypatch.setattr(iop.layer._progress, "notify_all", lambda: woken.append(1))
        iop.layer.poll()
        assert woken == [1]
        iop.layer.poll()
        assert woken == [1]

    def test_while_another_thread_polls_this_one_sleeps(self, iop, monkeypatch):
        looks, slept = [], []

        def done():
            looks.append(1)
            return len(slept) == 2 or len(looks) > 20

        iop.layer.polled_by_thread(True)
        monkeypatch.setattr(iop.layer._progress, "wait", slept.append)
        assert iop.layer.run_until(done, 0.5)
        assert slept == pytest.approx([0.1, 0.1])

    @pytest.mark.parametrize(("options", "taken"), [({}, 1), ({"drain": True}, 3)])
    def test_run_until_stops_at_the_reply_it_waits_for(self, iop, options, taken):
        osm = Osm(iop)
        for context in range(3):
            osm.send(context=context)
            iop.answer(iop.fetch())
        assert iop.layer.run_until(lambda: bool(osm.replies), 1, **options)
        assert len(osm.replies) == taken

    def test_an_iop_that_is_detached_while_somebody_waits_for_it_did_not_die(
        self, iop, monkeypatch, caplog
    ):
        told = []
        iop.layer.listen(iop.number, told.append)

        def wait(timeout_s):
            iop.layer.detach(iop.number)  # as another thread does
            raise IopDead("it is closed")

        monkeypatch.setattr(iop.port, "wait", wait)
        assert iop.layer.wait(1.0)
        assert told == [IopNews.GONE]
        assert not caplog.records

    def test_waiting_for_two_iops_of_which_one_is_closed_just_now(self, iop, monkeypatch):
        layer = MessageLayer()
        numbers = [layer.attach(BarePort(SYSTEM_CLOCK), bring_up=False) for _ in range(2)]
        monkeypatch.setattr(layer.port(numbers[0]), "fileno", lambda: -1)
        assert list(layer.filenos()) == numbers[1:]
        assert not layer.wait(0.001)
        layer.close()

    def test_iops_that_two_threads_attach_are_two(self, iop, monkeypatch):
        meeting = threading.Barrier(2)
        free_id = iop.layer._iops._free_id

        def slow() -> int:
            iop_id = free_id()
            with contextlib.suppress(threading.BrokenBarrierError):
                meeting.wait(0.05)  # for a second one that is added meanwhile
            iop.layer._iops._next_id = iop_id
            return iop_id

        monkeypatch.setattr(iop.layer._iops, "_free_id", slow)
        threads = [
            threading.Thread(target=lambda: iop.layer.attach(BarePort(), bring_up=False))
            for _ in range(2)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert meeting.broken
        assert iop.layer.iop_numbers() == (0, 1, 2)
        assert len({entry.iop_id for entry in iop.layer._iops}) == 3

    def test_a_wrong_number_is_told_while_another_thread_attaches(self, iop, monkeypatch):
        class Growing(dict):
            def __iter__(self):
                raise RuntimeError("dictionary changed size during iteration")

        monkeypatch.setattr(iop.layer._iops, "_entries", Growing(iop.layer._iops._entries))
        with pytest.raises(InvalidArgument, match=r"no IOP 9 \(registered: 0\)"):
            iop.layer.port(9)

    def test_run_until_gives_up(self, iop):
        assert not iop.layer.run_until(lambda: False, 0.5)
        assert iop.clock.monotonic() >= 0.5


class TestInboundFrameSize:
    @pytest.mark.parametrize("size", [0, 1, 2, 3, 96, 100, -128, 1 << 18, 1 << 20])
    def test_only_powers_of_two(self, iop, size):
        with pytest.raises(InvalidArgument):
            iop.layer.set_inbound_frame_size(iop.number, size)

    @pytest.mark.parametrize("size", [128, 1 << 17])
    def test_sizes_up_to_the_largest_are_asked_for(self, iop, size):
        with pytest.raises(RequestTimeout):  # this IOP does not answer
            iop.layer.set_inbound_frame_size(iop.number, size)

    def test_the_smallest_size(self, iop):
        iop.layer.set_inbound_frame_size(iop.number, 4)  # lower than now: ignored
        assert not iop.port.unit.request_pending

    def test_reserved_flags(self, iop):
        with pytest.raises(InvalidArgument):
            iop.layer.set_inbound_frame_size(iop.number, 128, 2)

    def test_an_equal_request_is_sent(self, iop):
        with pytest.raises(RequestTimeout):  # this IOP does not answer
            iop.layer.set_inbound_frame_size(iop.number, 128)
        assert iop.port.unit.request_pending
        assert iop.entry.size_at_next_reboot == 128

    def test_a_lower_request_is_ignored_with_success(self, iop):
        iop.layer.set_inbound_frame_size(iop.number, 64)
        assert not iop.port.unit.request_pending
        assert iop.entry.size_at_next_reboot == 128


def test_frames_show_only_the_fields_they_have():
    with pytest.raises(AttributeError, match="a frame of 4 bytes"):
        _ = RequestFrame(4).nothing
    reply = ReplyFrame(UTIL_LOCK.build(msg_flags=0xC0) + bytes(4))
    assert reply.req_status == 0
    assert reply.detailed_status_code == 0
    assert reply.size_bytes == 16
    with pytest.raises(AttributeError):
        _ = reply.percent_complete_of_what


@given(frame=st.binary(min_size=16, max_size=64))
def test_the_short_look_at_a_header_sees_what_its_layout_says(frame):
    flags, words, key = read_head(frame)
    record = MSG_HEADER.unpack_from(frame)
    assert (flags, words) == (record.msg_flags, record.message_size)
    assert key[3] == record.function
    assert int.from_bytes(key[:3], "little") == (
        record.target_address | record.initiator_address << 12
    )
    assert key[4:8] == record.initiator_context.to_bytes(4, "little")
    assert key[8:] == frame[12:16]
    assert key == frame[4:16]


class TestLastResorts:
    """Detaching an IOP whose reset fails, and interrupts at the worst time."""

    def test_without_memory_for_a_status_block_the_transport_resets(self, iop, monkeypatch):
        def no_memory(*_):
            raise MemoryError

        osm = Osm(iop)
        osm.send()
        monkeypatch.setattr(iop.port.memory, "allocate", no_memory)
        iop.layer.detach(iop.number)
        assert iop.port.resets == 1
        assert len(osm.replies) == 1

    def test_a_port_that_cannot_be_reset_is_closed_before_anybody_is_told(self, iop, monkeypatch):
        def stuck():
            raise IopDead("no reset line")

        closed_when_told = []
        base, (cookie,) = iop.layer.register(
            [
                lambda number, reply: (
                    closed_when_told.append(iop.port.closed),
                    iop.layer.free_reply(number, reply),
                )
            ]
        )
        osm = Osm(iop)
        osm.cookie = cookie
        osm.send()
        monkeypatch.setattr(iop.port, "reset", stuck)
        iop.layer.detach(iop.number)
        assert closed_when_told == [True]
        iop.layer.deregister(base)

    @pytest.mark.parametrize("looks", [0, 1, 3])
    def test_detach_waits_for_a_callback_on_another_thread(self, iop, monkeypatch, looks):
        slept = []
        monkeypatch.setattr(
            iop.layer._replies, "is_busy_elsewhere", lambda entry: len(slept) < looks
        )
        monkeypatch.setattr(message_layer.time, "sleep", slept.append)
        iop.layer.detach(iop.number)
        assert slept == [0.001] * looks

    def test_detach_gives_a_callback_on_another_thread_five_seconds(self, iop, monkeypatch, caplog):
        slept = []
        monkeypatch.setattr(iop.layer._replies, "is_busy_elsewhere", lambda entry: True)
        monkeypatch.setattr(message_layer.time, "sleep", slept.append)
        iop.layer.detach(iop.number)
        assert sum(slept) == pytest.approx(5)
        assert "still running" in caplog.text
        assert iop.port.closed

    def test_a_bring_up_that_fails_tells_so_before_what_callbacks_raised(self, iop, monkeypatch):
        def fails(number, reply):
            iop.layer.free_reply(number, reply)
            raise ValueError(reply)

        def half(layer, entry, limits, *, after_reset):
            after_reset()
            raise RequestTimeout("no answer")

        osm = Osm(iop)
        _, (osm.cookie,) = iop.layer.register([fails])
        for context in (1, 2):
            osm.send(context=context)
        monkeypatch.setattr(message_layer.bring_up, "bring_up", half)
        with pytest.raises(ExceptionGroup) as caught:
            iop.layer.bring_up(iop.number)
        kinds = [type(error) for error in caught.value.exceptions]
        assert kinds == [RequestTimeout, ValueError, ValueError]

    def test_an_interrupt_in_one_final_callback_robs_no_other_of_its_own(self, iop):
        told = []

        def replied(number, reply):
            told.append(reply.transaction_context)
            iop.layer.free_reply(number, reply)
            if len(told) == 1:
                raise KeyboardInterrupt

        _, (cookie,) = iop.layer.register([replied])
        osm = Osm(iop)
        osm.cookie = cookie
        for context in (1, 2, 3):
            osm.send(context=context)
        with pytest.raises(KeyboardInterrupt):
            iop.layer.detach(iop.number)
        assert sorted(told) == [1, 2, 3]
        assert iop.port.closed
        assert iop.layer.iop_count() == 0

    def test_an_interrupt_before_an_iop_is_registered_closes_its_port(self, iop, monkeypatch):
        def interrupted(port, **options):
            raise KeyboardInterrupt

        port = BarePort()
        monkeypatch.setattr(iop.layer._iops, "add", interrupted)
        with pytest.raises(KeyboardInterrupt):
            iop.layer.attach(port, bring_up=False)
        assert port.closed

    def test_a_port_that_refuses_a_post_leaves_the_frame_with_the_caller(self, iop, monkeypatch):
        def refuses(mfa):
            raise LocalFrameError("no doorbell")

        osm = Osm(iop)
        frame = osm.request()
        with monkeypatch.context() as patch:
            patch.setattr(iop.port, "post", refuses)
            with pytest.raises(LocalFrameError, match="doorbell"):
                iop.layer.send(iop.number, frame)
        assert iop.layer.outstanding(iop.number) == 0
        iop.layer.send(iop.number, frame)
        assert iop.layer.outstanding(iop.number) == 1

    def test_an_interrupt_while_posting_counts_as_sent(self, iop, monkeypatch):
        post = iop.port.post

        def interrupted(mfa):
            post(mfa)
            raise KeyboardInterrupt

        osm = Osm(iop)
        frame = osm.request()
        monkeypatch.setattr(iop.port, "post", interrupted)
        with pytest.raises(KeyboardInterrupt):
            iop.layer.send(iop.number, frame)
        assert iop.layer.outstanding(iop.number) == 1
        iop.answer(iop.fetch())
        iop.layer.poll()
        assert len(osm.replies) == 1

    def test_a_frame_taken_for_a_request_that_is_refused_goes_home(self, iop):
        iop.entry.refusing = "is being reset"
        with pytest.raises(InvalidArgument, match="is being reset"):
            iop.layer.submit(iop.number, UTIL_LOCK.build())
        assert iop.fetch().data[7] == UTIL_NOP.function
        assert frames_home(iop)

    def test_a_real_frame_of_a_request_that_is_refused_stays_with_it(self):
        iop = BareIop(frame_source="fifo", frame_count=FRAMES)
        frame = Osm(iop).request()
        iop.entry.refusing = "is being reset"
        with pytest.raises(InvalidArgument, match="is being reset"):
            iop.layer.send(iop.number, frame)
        assert not iop.port.unit.request_pending
        iop.layer.free_request(iop.number, frame)
        assert iop.fetch().data[7] == UTIL_NOP.function
        assert frames_home(iop)

    def test_a_real_frame_that_a_reset_took_meanwhile_is_not_used(self, monkeypatch):
        iop = BareIop(frame_source="fifo", frame_count=FRAMES)
        frame = Osm(iop).request()

        class ResetFirst:
            """A lock that another thread had, which reset the IOP."""

            def __init__(self, lock):
                self.lock, self.is_late = lock, False

            def __enter__(self):
                self.lock.acquire()
                if not self.is_late:
                    self.is_late = True
                    iop.port.reset()
                    iop.entry.forget_frames()

            def __exit__(self, *_):
                self.lock.release()

        monkeypatch.setattr(iop.entry, "lock", ResetFirst(iop.entry.lock))
        iop.port.alloc_calls = 0
        iop.layer.send(iop.number, frame)
        assert iop.port.alloc_calls == 1
        assert iop.fetch().data[:16] == bytes(frame[:16])
        assert iop.port.unit.idle_inbound() == FRAMES
        assert iop.port.misuse == []

    @pytest.mark.parametrize("size", [0, 8, 15])
    def test_a_frame_cut_short_by_its_osm_is_refused(self, iop, size):
        frame = Osm(iop).request()
        del frame[size:]
        with pytest.raises(InvalidArgument, match="no header"):
            iop.layer.send(iop.number, frame)
        iop.layer.free_request(iop.number, frame)

    def test_a_callback_may_register_an_iop_but_not_bring_it_up(self, iop):
        ports = [BarePort(), BarePort()]
        registered = []

        def replied(number, reply):
            iop.layer.free_reply(number, reply)
            registered.append(iop.layer.attach(ports[0], bring_up=False))
            iop.layer.attach(ports[1])

        osm = Osm(iop)
        _, (osm.cookie,) = iop.layer.register([replied])
        osm.send()
        iop.answer(iop.fetch())
        with pytest.raises(InvalidArgument, match="bring up"):
            iop.layer.poll()
        assert len(registered) == 1
        assert iop.layer.iop_numbers() == (iop.number, *registered)
        assert not ports[1].closed, "it was never the layer's"

    @pytest.mark.parametrize("call", ["bring_up", "refresh", "attach", "run_until"])
    def test_what_waits_is_refused_in_a_callback(self, call):
        iop = BareIop()
        refused = []

        def replied(number, reply):
            iop.layer.free_reply(number, reply)
            calls = {
                "bring_up": lambda: iop.layer.bring_up(number),
                "refresh": lambda: iop.layer.refresh(number),
                "attach": lambda: iop.layer.attach(BarePort()),
                "run_until": lambda: iop.layer.run_until(lambda: True, 1),
            }
            try:
                calls[call]()
            except I2OError as error:
                refused.append(error)

        _, (cookie,) = iop.layer.register([replied])
        osm = Osm(iop)
        osm.cookie = cookie
        osm.send()
        iop.answer(iop.fetch())
        iop.layer.poll()
        assert len(refused) == 1
        assert isinstance(refused[0], InvalidArgument if call != "refresh" else IopDead)
