# SPDX-License-Identifier: Apache-2.0
"""Events: registrations that follow what is wanted; streams, plain and asynchronous."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Iterator

import pytest

import i2o
from fakes.bare_iop import BareIop
from fakes.opened_iop import everything_is_home, serve, soft
from i2o import events as events_module
from i2o.aio import AsyncDriver
from i2o.clock import ManualClock
from i2o.dispatcher import Dispatcher
from i2o.errors import InvalidArgument, OutOfFrames
from i2o.events import ALL_EVENTS, Event, EventStream
from i2o.frames.block_storage import BSA_STATUS_CHECK, BsaEvent
from i2o.frames.executive import ExecutiveEvent
from i2o.frames.functions import DeviceClass, Function
from i2o.frames.tables import LCT_ENTRY
from i2o.frames.utility import GenericEvent, StateChange
from i2o.iop import Iop
from i2o.iop_emulator.block_store import MemoryDisk
from i2o.iop_emulator.soft_iop import SoftIop
from i2o.message_layer import MessageLayer
from i2o.resources import BringUpResult, Lct, parse_lct_entry

DISK, DDM = 0x010, 0x008
LOAD, UNLOAD = BsaEvent.VOLUME_LOAD.value, BsaEvent.VOLUME_UNLOAD.value
MODIFIED = GenericEvent.EVENT_MASK_MODIFIED.value
WARNING = GenericEvent.GENERAL_WARNING.value


@pytest.fixture
def iop() -> Iterator[Iop]:
    with i2o.open("emu:", clock=ManualClock()) as opened:
        yield opened


def masks(iop: Iop) -> dict[int, int]:
    """The registrations in force at the IOP; there is one initiator, the host."""
    serve(iop)
    return {tid: r.mask for (tid, _), r in soft(iop).events._registrations.items()}


def tell(iop: Iop, tid: int, indicator: int, data: bytes = b"") -> int:
    serve(iop)  # the registrations reach it
    return soft(iop).events.post(tid, indicator, data)


def take(stream: EventStream) -> Event:
    """Take an event that is there."""
    event = stream.take(0)
    assert event is not None
    return event


# --- what is registered -------------------------------------------------------------------------


class TestRegistrations:
    def test_every_device_for_what_it_can_tell(self, iop):
        with iop.events():
            wanted = {e.tid: e.event_capabilities & ALL_EVENTS for e in iop.devices}
            assert masks(iop) == wanted
            assert set(wanted) == {0, DDM, DISK}
        assert masks(iop) == {}
        everything_is_home(iop)

    def test_devices_and_events_can_be_chosen(self, iop):
        with iop.events([DISK], LOAD | WARNING | 0x4000):
            assert masks(iop) == {DISK: LOAD}  # it has no general warning
        assert masks(iop) == {}

    def test_the_executive_is_asked_for_new_devices_when_all_are_wanted(self, iop):
        with iop.events(mask=BsaEvent.VOLUME_UNLOAD_REQUEST):
            assert masks(iop)[0] == ExecutiveEvent.NEW_LCT_ENTRY
            assert DDM not in masks(iop)
        with iop.events([0, DISK], mask=ExecutiveEvent.MODIFIED_LCT):
            assert masks(iop) == {0: ExecutiveEvent.MODIFIED_LCT}

    def test_streams_share_one_registration_per_device(self, iop):
        with iop.events([DISK], LOAD) as loads, iop.events([DISK], UNLOAD) as unloads:
            assert masks(iop) == {DISK: LOAD | UNLOAD}
            tell(iop, DISK, LOAD)
            tell(iop, DISK, UNLOAD)
            assert [e.indicator for e in (loads.take(0), loads.take(0)) if e] == [LOAD]
            assert [e.indicator for e in (unloads.take(0), unloads.take(0)) if e] == [UNLOAD]
            unloads.close()
            assert masks(iop) == {DISK: LOAD}
        assert masks(iop) == {}

    def test_a_second_stream_that_wants_no_more_sends_nothing(self, iop):
        with iop.events():
            serve(iop)
            before = iop.layer.counters(iop.number).requests
            with iop.events([DISK]):
                pass
            assert iop.layer.counters(iop.number).requests == before

    def test_that_the_mask_was_modified_is_not_told(self, iop):
        with iop.events([DISK], LOAD | MODIFIED) as stream, iop.events([DISK], UNLOAD):
            assert stream.mask == LOAD
            assert stream.take(1) is None
        everything_is_home(iop)

    @pytest.mark.parametrize("mask", [0, MODIFIED, 1 << 32, -1])
    def test_masks_without_an_event_are_refused(self, iop, mask):
        with pytest.raises(InvalidArgument, match="event mask"):
            iop.events(mask=mask)
        assert masks(iop) == {}

    def test_a_list_without_tids_is_refused(self, iop):
        with pytest.raises(InvalidArgument, match="no TIDs"):
            iop.events([])

    def test_after_a_reset_they_are_made_again(self, iop):
        with iop.events([DISK], LOAD) as stream:
            serve(iop)
            iop.revive()
            assert masks(iop) == {DISK: LOAD}
            tell(iop, DISK, LOAD)
            event = take(stream)
            assert event.tid == DISK
        everything_is_home(iop)

    def test_nothing_is_sent_to_an_iop_that_lost_its_state(self, iop):
        with iop.events([DISK], LOAD) as stream:
            serve(iop)
            soft(iop).reset()
            iop.layer.check(iop.number)
            assert not iop.layer.iop_valid(iop.number)
            with iop.events([DDM]) as other:
                assert stream.take(1) is None
                assert (stream.ended, other.ended) == ("", "")
                iop.revive()
                assert set(masks(iop)) == {DISK, DDM}

    def test_a_reset_that_fails_is_no_end(self, iop, monkeypatch):
        with iop.events([DISK], LOAD) as stream:
            serve(iop)
            with monkeypatch.context() as patched:
                patched.setattr(soft(iop), "init_outbound", lambda *sizes: None)
                with pytest.raises(OSError, match="HOLD"):
                    iop.revive()
            assert stream.take(1) is None
            iop.revive()
            assert masks(iop) == {DISK: LOAD}


# --- devices that come and go -------------------------------------------------------------------


class TestDevices:
    def test_a_new_device_is_registered_with_at_once(self, iop):
        with iop.events() as stream:
            serve(iop)
            tid = soft(iop).bay.add(MemoryDisk(1 << 20)).tid
            serve(iop)  # the event comes: nobody has taken it
            assert tid in masks(iop)
            tell(iop, tid, LOAD)
            new, load = take(stream), take(stream)
            assert new.names == "NEW_LCT_ENTRY"
            assert new.meaning == f"TID {tid:#05x} random_block_storage"
            assert getattr(new.lct_entry, "tid", None) == tid
            assert (load.tid, load.device_class) == (tid, DeviceClass.RANDOM_BLOCK_STORAGE)
            assert load.names == "VOLUME_LOAD"
        assert masks(iop) == {}

    def test_a_stream_for_other_devices_leaves_a_new_one_alone(self, iop):
        with iop.events([0, DISK]):
            serve(iop)
            tid = soft(iop).bay.add(MemoryDisk(1 << 20)).tid
            assert tid not in masks(iop)

    def test_a_device_is_waited_for(self, iop):
        with iop.events([0x011, DISK], LOAD) as stream:
            assert stream.refused == {0x011: "there is no such device"}
            serve(iop)
            assert soft(iop).bay.add(MemoryDisk(1 << 20)).tid == 0x011
            iop.refresh()
            assert stream.refused == {}
            assert masks(iop) == {DISK: LOAD, 0x011: LOAD}

    def test_another_device_with_the_same_tid_is_registered_with(self, iop):
        with iop.events([DISK], LOAD):
            serve(iop)
            soft(iop).bay.remove(DISK)
            soft(iop).lct._spent.clear()  # firmware that gives the TID away again at once
            assert soft(iop).bay.add(MemoryDisk(1 << 20)).tid == DISK
            assert masks(iop) == {}
            iop.refresh()
            assert masks(iop) == {DISK: LOAD}

    def test_the_same_tid_again_without_reading_the_table(self, iop):
        with iop.events():
            serve(iop)
            soft(iop).bay.remove(DISK)
            soft(iop).lct._spent.clear()
            assert soft(iop).bay.add(MemoryDisk(1 << 20)).tid == DISK
            serve(iop)
            assert DISK in masks(iop)

    def test_a_device_that_is_gone_is_forgotten(self, iop):
        with iop.events() as stream:
            serve(iop)
            soft(iop).bay.remove(DISK)
            iop.refresh()
            requests = iop.layer.counters(iop.number).fails
        assert iop.layer.counters(iop.number).fails == requests  # nothing was sent to it
        assert DISK not in stream.refused
        everything_is_home(iop)

    def test_a_refusal_is_told_and_its_frame_goes_home(self, iop):
        with iop.events([DISK, DDM], LOAD | WARNING | GenericEvent.LOCK_RELEASE) as stream:
            serve(iop)
        soft(iop).bay.remove(DISK)
        with iop.events([DISK]) as stream, iop.events([DDM]) as other:
            serve(iop)
            assert "FAIL" in stream.refused[DISK]
            assert other.refused == {}
        everything_is_home(iop)

    def test_a_device_without_these_events_is_named(self, iop):
        with iop.events([DDM], LOAD) as stream:
            assert stream.refused == {DDM: "it has none of these events"}
        with iop.events(mask=LOAD) as stream:
            assert stream.refused == {}


# --- taking -------------------------------------------------------------------------------------


class TestTaking:
    def test_events_come_in_order_with_what_they_say(self, iop):
        word = StateChange.FAILED.to_bytes(4, "little")
        with iop.events(timeout_s=0) as stream:
            tell(iop, 0, GenericEvent.STATE_CHANGE, word)
            tell(iop, DISK, LOAD, b"12345678")
            tell(iop, DISK, UNLOAD)
            first, second, third = stream
        assert (first.iop, first.tid, first.names, first.meaning) == (
            iop.number, 0, "STATE_CHANGE", "FAILED",
        )  # fmt: skip
        assert first.device_class == DeviceClass.EXECUTIVE
        assert (second.data, second.meaning, second.lct_entry) == (b"12345678", "", None)
        assert third.indicator == UNLOAD
        assert first.time_ns <= second.time_ns

    def test_taking_waits_as_long_as_told(self, iop):
        clock = iop.layer.clock
        with iop.events(timeout_s=3) as stream:
            start = clock.monotonic()
            assert stream.take(2) is None
            assert clock.monotonic() - start == pytest.approx(2)
            assert list(stream) == []
            assert clock.monotonic() - start == pytest.approx(5)
            assert stream.take(-1) is None
            assert clock.monotonic() - start == pytest.approx(5)

    def test_events_come_while_something_else_is_waited_for(self, iop):
        with iop.events([DISK]) as stream, iop.block(DISK) as disk:
            tell(iop, DISK, LOAD)
            disk.read(0, 512)
            assert [event.indicator for event in (stream.take(0),) if event] == [LOAD]

    def test_the_oldest_are_dropped_and_counted(self, iop, monkeypatch):
        monkeypatch.setattr(events_module, "KEPT", 3)
        with iop.events([DISK], timeout_s=0) as stream:
            for number in range(5):
                tell(iop, DISK, LOAD, number.to_bytes(4, "little"))
                serve(iop)
            assert [event.data[0] for event in stream] == [2, 3, 4]
            assert stream.lost == 2
        everything_is_home(iop)

    def test_what_came_before_the_end_can_be_taken(self, iop):
        stream = iop.events([DISK])
        tell(iop, DISK, LOAD)
        serve(iop)
        stream.close()
        stream.close()
        assert stream.ended == "the stream was closed"
        assert [event.indicator for event in stream] == [LOAD]
        assert stream.take() is None

    def test_a_closed_stream_takes_nothing_up(self, iop):
        with iop.events([DISK]) as open_one:
            closed = iop.events([DISK])
            closed.close()
            tell(iop, DISK, LOAD)
            assert open_one.take(0) is not None
            assert closed.take(0) is None

    def test_closing_in_a_callback_and_waiting_there(self, iop):
        stream = iop.events([DISK])
        tell(iop, DISK, LOAD)
        outcome = []

        def replied(number, reply):
            iop.layer.free_reply(number, reply)
            outcome.append(stream.take())
            with pytest.raises(InvalidArgument, match="callback"):
                stream.take(1)
            stream.close()

        serve(iop)
        base, (cookie,) = iop.layer.register([replied])
        iop.layer.submit(
            iop.number, BSA_STATUS_CHECK.build(target_address=DISK, initiator_context=cookie)
        )
        serve(iop)
        iop.layer.deregister(base)
        assert outcome[0].indicator == LOAD
        assert masks(iop) == {}


# --- the end of the IOP -------------------------------------------------------------------------


class TestTheEnd:
    def test_closing_the_iop_ends_its_streams(self):
        iop = i2o.open("emu:")
        stream = iop.events()
        iop.close()
        assert stream.ended == f"IOP {iop.number} is detached"
        assert list(stream) == []
        stream.close()
        with pytest.raises(InvalidArgument, match="there is no IOP"):
            iop.events()

    def test_cookies_are_given_back(self):
        with MessageLayer() as layer:
            iop = Iop(layer, layer.attach("emu:", bring_up=False))
            with pytest.raises(OSError, match="not brought up"):
                iop.events()
            iop.close()
            for _ in range(3):
                iop = i2o.open("emu:", layer=layer)
                stream = iop.events()
                iop.close()
                stream.close()
            assert len(layer._cookies._registrations) == 0

    def test_a_dead_iop_ends_its_streams(self):
        with i2o.open("emu:?run=process") as iop:
            stream = iop.events()
            iop.layer.port(iop.number).process.kill()
            assert stream.take() is None
            assert stream.ended == f"IOP {iop.number} is dead"
            with iop.events() as late:
                assert late.ended == stream.ended
                assert late.take() is None

    def test_an_error_of_a_listener_stops_nobody(self, iop):
        heard = []

        def fails(news):
            heard.append(news.name)
            raise ZeroDivisionError("listener bug")

        iop.layer.listen(iop.number, fails)
        with iop.events([DISK], LOAD):
            with pytest.raises(ZeroDivisionError):
                iop.refresh()
            with pytest.raises(ZeroDivisionError):
                iop.layer.bring_up(iop.number)
            assert masks(iop) == {DISK: LOAD}
            assert iop.layer.iop_valid(iop.number)
        iop.layer.unlisten(iop.number, fails)
        iop.layer.unlisten(iop.number, fails)
        iop.refresh()
        assert heard == ["TABLES_READ", "BROUGHT_UP"]
        iop.layer.unlisten(99, fails)
        with pytest.raises(InvalidArgument):
            iop.layer.listen(99, fails)


# --- acknowledging ------------------------------------------------------------------------------


def test_an_acknowledgement_repeats_the_event(iop):
    seen = []
    ack = soft(iop).lct.devices[DISK].dispatch[Function.UTIL_EVENT_ACK]

    def note(request):
        seen.append(request.frame[16:24])
        return ack(request)

    soft(iop).lct.devices[DISK].dispatch[Function.UTIL_EVENT_ACK] = note
    with iop.events([DISK]) as stream:
        tell(iop, DISK, UNLOAD, b"\x01\x02\x03\x04\x05\x06\x07\x08")
        event = take(stream)
        stream.acknowledge(event)
        serve(iop)
        assert seen == [UNLOAD.to_bytes(4, "little") + b"\x01\x02\x03\x04"]
        assert stream.refused == {}
    everything_is_home(iop)


def test_a_refused_acknowledgement_is_told(iop):
    with iop.events([DISK]) as stream, iop.events([DDM]) as other:
        tell(iop, DISK, UNLOAD)
        event = take(stream)
        soft(iop).bay.remove(DISK)
        stream.acknowledge(event)
        serve(iop)
        assert stream.refused[DISK].startswith("acknowledgement: FAIL")
        assert other.refused == {}
    everything_is_home(iop)


# --- firmware that answers oddly ----------------------------------------------------------------


class OddIop:
    """A bare IOP with one block device, and events of it."""

    def __init__(self) -> None:
        self.bare = BareIop()
        disk = parse_lct_entry(
            LCT_ENTRY.build(
                local_tid=DISK,
                class_id_class=DeviceClass.RANDOM_BLOCK_STORAGE.value,
                event_capabilities=0xFFFFFFFF,
            )
        )
        table = Lct(change_indicator=1, boot_device_tid=0, iop_flags=0, devices=(disk,))
        self.bare.entry.result = BringUpResult(None, (), table)  # type: ignore[arg-type]
        self.iop = Iop(self.bare.layer, self.bare.number, recovery=None)
        self.requests: dict[int, bytes] = {}

    def listen(self, tids: list[int] | None = None) -> EventStream:
        stream = self.iop.events(tids)
        self.take_requests()
        return stream

    def take_requests(self) -> int:
        count = 0
        while (posted := self.bare.port.unit.fetch()) is not None:
            self.bare.port.unit.recycle(posted.mfa)
            self.requests[posted.data[4] | posted.data[5] << 8 & 0xF00] = posted.data
            count += 1
        return count

    def tell(self, body: bytes, tid: int = DISK, flags: int = 0xC0) -> None:
        words = 4 + len(body) // 4
        head = bytes((1, flags)) + words.to_bytes(2, "little")
        self.bare.reply(head + self.requests[tid][4:16] + body)

    def is_home(self) -> bool:
        unit = self.bare.port.unit
        return (
            unit.idle_inbound() == unit.frame_count
            and unit.idle_outbound() == 8
            and self.bare.entry.held_replies == {}
        )


@pytest.fixture
def odd() -> Iterator[OddIop]:
    made = OddIop()
    yield made
    made.bare.layer.close()


def word(value: int) -> bytes:
    return value.to_bytes(4, "little")


def test_an_executive_that_is_not_in_the_table_is_asked_for_everything(odd):
    odd.listen()
    assert odd.requests[0][16:20] == word(ALL_EVENTS)


@pytest.mark.parametrize("flags", [0xC0, 0x80])
@pytest.mark.parametrize("body", [b"", word(0), word(MODIFIED) + word(5)])
def test_replies_that_tell_nothing(odd, body, flags):
    stream = odd.listen()
    odd.tell(body, flags=flags)
    assert stream.take(0) is None
    assert odd.is_home()


def test_an_event_without_data_and_one_with_several_bits(odd):
    stream = odd.listen()
    odd.tell(word(LOAD))
    odd.tell(word(LOAD | UNLOAD | MODIFIED) + bytes(108), flags=0x80)
    bare, several = take(stream), take(stream)
    assert (bare.data, bare.meaning, bare.names) == (b"", "", "VOLUME_LOAD")
    assert "VOLUME_UNLOAD" in several.names
    assert len(several.data) == 108
    assert odd.is_home()


@pytest.mark.parametrize("entry", [bytes(36), bytes(8), b"\x09" + bytes(31), b""])
def test_a_new_entry_that_is_none_is_an_event_like_any_other(odd, entry):
    stream = odd.listen()
    odd.tell(word(ExecutiveEvent.NEW_LCT_ENTRY) + entry, tid=0)
    event = take(stream)
    assert (event.lct_entry, event.meaning) == (None, "")
    assert odd.take_requests() == 0
    assert odd.is_home()


@pytest.mark.parametrize("preserves", [True, False])
@pytest.mark.parametrize("keeps_header", [True, False])
def test_the_device_that_failed_is_found(odd, preserves, keeps_header):
    """FAIL replies lack the transaction context, and some have another target."""
    stream = odd.iop.events([DISK])
    posted = odd.bare.port.unit.fetch()
    assert posted is not None
    if preserves:
        odd.bare.port.unit.preserve(posted.mfa)
    else:
        odd.bare.port.unit.recycle(posted.mfa)
    tids = posted.data[4:6] if keeps_header or not preserves else b"\x23\x11"
    odd.bare.reply(
        bytes((1, 0xE0, 9, 0))
        + tids
        + posted.data[6:12]
        + bytes(4)
        + b"\x01\x01\x01\x8d"
        + bytes(8)
        + (posted.mfa if preserves else 0xFFFFFFFF).to_bytes(4, "little")
        + bytes(4)
    )
    serve(odd.iop)
    assert list(stream.refused) == [DISK]
    if preserves:
        odd.take_requests()  # the NOP that brings the frame home
    assert odd.is_home()
    assert odd.iop.layer.counters(0).unexpected == 0


def test_a_short_fail_reply(odd):
    stream = odd.listen([DISK])
    odd.tell(b"", flags=0xE0)
    assert stream.take(0) is None
    assert "FAIL" in stream.refused[DISK]
    assert odd.is_home()


def test_a_refused_change_leaves_the_registration_of_before(odd):
    loads = odd.iop.events([DISK], LOAD)
    odd.take_requests()
    both = odd.iop.events([DISK], UNLOAD)
    odd.take_requests()
    assert odd.requests[DISK][16:20] == word(LOAD | UNLOAD)
    odd.tell(b"", flags=0xE0)
    serve(odd.iop)
    assert "FAIL" in both.refused[DISK]
    odd.tell(word(LOAD))
    assert take(loads).indicator == LOAD
    both.close()
    loads.close()
    odd.take_requests()
    assert odd.requests[DISK][16:20] == word(0), "it is taken back"
    assert odd.is_home()


def test_an_event_of_a_device_that_nobody_registered_with_is_dropped(odd):
    stream = odd.listen([DISK])
    odd.requests[0x123] = odd.requests[DISK][:4] + b"\x23\x11" + odd.requests[DISK][6:]
    odd.tell(word(LOAD), tid=0x123)
    assert stream.take(0) is None
    assert odd.iop.layer.counters(0).unexpected == 1
    assert odd.is_home()


# --- no frame for a registration ----------------------------------------------------------------


def test_without_frames_listening_fails_and_leaves_nothing(odd):
    frames = [odd.bare.port.unit.alloc() for _ in range(8)]
    with pytest.raises(OutOfFrames):
        odd.iop.events([DISK])
    for mfa in frames:
        odd.bare.port.unit.write(mfa, b"\x01\x00\x03\x00\x00\x10\x00\x00" + bytes(4))
        odd.bare.port.unit.post(mfa)
    odd.take_requests()
    odd.requests.clear()
    stream = odd.iop.events([0])
    odd.take_requests()
    # the one that could not be sent is ended, as nobody knows whether it was
    assert {tid: data[16:20] for tid, data in odd.requests.items()} == {
        0: word(ALL_EVENTS),
        DISK: word(0),
    }
    assert stream.ended == ""


def test_a_registration_that_found_no_frame_is_sent_later(odd, caplog):
    caplog.set_level(logging.INFO)
    stream = odd.listen()
    frames = [odd.bare.port.unit.alloc() for _ in range(8)]
    entry = LCT_ENTRY.build(local_tid=0x55, table_entry_size=9, event_capabilities=LOAD)
    odd.tell(word(ExecutiveEvent.NEW_LCT_ENTRY) + entry, tid=0)
    event = take(stream)
    assert getattr(event.lct_entry, "tid", None) == 0x55
    assert "event registrations wait" in caplog.text
    for mfa in frames:
        odd.bare.port.unit.recycle(mfa)
    assert stream.take(0) is None
    assert odd.take_requests() == 1
    assert odd.requests[0x55][16:20] == word(LOAD)
    stream.take(0)
    assert odd.take_requests() == 0


def test_closing_without_frames_is_no_error(odd, caplog):
    stream = odd.listen([DISK])
    frames = [odd.bare.port.unit.alloc() for _ in range(8)]
    stream.close()
    assert "event registrations" in caplog.text
    for mfa in frames:
        odd.bare.port.unit.recycle(mfa)
    with odd.iop.events([0]):
        odd.take_requests()
        assert odd.requests[DISK][16:20] == word(0)  # ended after all


# --- threads ------------------------------------------------------------------------------------


RUNS = pytest.mark.parametrize("run", ["inline", "thread"])


def in_iop(iop: Iop, do: Callable[[SoftIop], object]) -> None:
    """Do something to a software IOP that another thread may be running."""
    port = iop.layer.port(iop.number)
    with port._lock:
        do(port.soft_iop)


def wait_for_masks(iop: Iop, *tids: int) -> None:
    """Wait until the IOP has these registrations."""

    def are_there(soft_iop: SoftIop) -> None:
        found.clear()
        found.update(tid for tid, _ in soft_iop.events._registrations)

    found: set[int] = set()
    assert iop.layer.run_until(lambda: in_iop(iop, are_there) or found >= set(tids), 10)


@RUNS
def test_a_dispatcher_brings_events_to_a_thread_that_waits(run):
    with i2o.open(f"emu:?run={run}") as iop, Dispatcher(iop.layer), iop.events([DISK]) as stream:
        wait_for_masks(iop, DISK)
        got: list[Event | None] = []
        taker = threading.Thread(target=lambda: got.append(stream.take(10)), name="i2o-taker")
        taker.start()
        in_iop(iop, lambda software: software.events.post(DISK, LOAD, b""))
        taker.join(20)
        assert [event.indicator for event in got if event] == [LOAD]


@RUNS
def test_a_dispatcher_registers_with_new_devices(run):
    with i2o.open(f"emu:?run={run}") as iop, Dispatcher(iop.layer), iop.events():
        wait_for_masks(iop, 0, DDM, DISK)
        in_iop(iop, lambda software: software.bay.add(MemoryDisk(1 << 20)))
        wait_for_masks(iop, 0x011)


def test_several_threads_share_a_stream():
    with i2o.open("emu:") as iop, Dispatcher(iop.layer), iop.events([DISK]) as stream:
        wait_for_masks(iop, DISK)
        got: list[int] = []

        def take_all() -> None:
            got.extend(event.data[0] for event in stream)

        takers = [threading.Thread(target=take_all, name=f"i2o-taker-{n}") for n in range(4)]
        for taker in takers:
            taker.start()
        for number in range(200):
            in_iop(iop, lambda software, n=number: software.events.post(DISK, LOAD, word(n)))
        assert iop.layer.run_until(lambda: len(got) == 200, 20)
        stream.close()
        for taker in takers:
            taker.join(20)
        assert sorted(got) == list(range(200))


def test_streams_that_come_and_go_in_threads_leave_the_right_registration():
    with i2o.open("emu:") as iop, Dispatcher(iop.layer):
        errors: list[BaseException] = []

        def work(bit: int) -> None:
            try:
                for _ in range(20):
                    with iop.events([DISK], bit):
                        pass
            except BaseException as error:
                errors.append(error)

        with iop.events([DISK], BsaEvent.VOLUME_UNLOAD_REQUEST):
            workers = [
                threading.Thread(target=work, args=(bit,), name=f"i2o-{bit}")
                for bit in (LOAD, UNLOAD, GenericEvent.LOCK_RELEASE)
            ]
            for worker in workers:
                worker.start()
            for worker in workers:
                worker.join(30)
            assert errors == []
            iop.requester.call(BSA_STATUS_CHECK.build(target_address=DISK))  # all before it is done
            assert masks(iop) == {DISK: BsaEvent.VOLUME_UNLOAD_REQUEST}


def test_a_new_device_while_another_thread_is_sending(iop):
    """The thread that is sending looks again: the callback does not wait for it."""
    with iop.events() as stream:
        serve(iop)
        registrations = iop._registrations
        with registrations._sending:
            soft(iop).bay.add(MemoryDisk(1 << 20))
            serve(iop)
            assert 0x011 not in masks(iop)
        with iop.events([DISK]):
            assert 0x011 in masks(iop)
        assert stream.take(0) is not None


def test_detaching_in_another_thread_ends_the_wait():
    iop = i2o.open("emu:?run=thread")
    stream = iop.events()
    ended = threading.Event()

    def wait() -> None:
        assert stream.take() is None
        ended.set()

    taker = threading.Thread(target=wait, name="i2o-taker")
    with Dispatcher(iop.layer):
        taker.start()
        iop.close()
        assert ended.wait(20)
        taker.join()


# --- asyncio ------------------------------------------------------------------------------------


@pytest.mark.parametrize("run", ["inline", "thread"])
@pytest.mark.parametrize("driver", ["nobody", "loop", "thread"])
def test_async_iteration(run, driver):
    async def main(iop: Iop) -> list[int]:
        got = []
        stream = iop.events([DISK])

        async def listen() -> None:
            async for event in stream:
                got.append(event.data[0])  # noqa: PERF401 - looked at meanwhile

        listener = asyncio.create_task(listen())
        for number in range(3):
            while not iop_has(iop, DISK):
                await asyncio.sleep(0)
            in_iop(iop, lambda software, n=number: software.events.post(DISK, LOAD, word(n)))
            while len(got) <= number:
                await asyncio.sleep(0)
        stream.close()
        await listener
        return got

    async def with_driver(iop: Iop) -> list[int]:
        async with AsyncDriver(iop.layer) as driver:
            got = await main(iop)
            await driver.call(iop.number, BSA_STATUS_CHECK.build(target_address=DISK), 10)
        return got

    with i2o.open(f"emu:?run={run}") as iop:
        if driver == "thread":
            with Dispatcher(iop.layer):
                assert asyncio.run(main(iop)) == [0, 1, 2]
        else:
            assert asyncio.run((with_driver if driver == "loop" else main)(iop)) == [0, 1, 2]


def iop_has(iop: Iop, tid: int) -> bool:
    found = []
    in_iop(iop, lambda software: found.extend(t for t, _ in software.events._registrations))
    return tid in found


def test_async_iteration_sleeps_until_the_descriptor_is_readable(monkeypatch):
    polls = []
    poll = MessageLayer.poll
    monkeypatch.setattr(MessageLayer, "poll", lambda self: polls.append(0) or poll(self))

    async def main(iop: Iop) -> None:
        with iop.events([DISK], timeout_s=0.2) as stream:
            assert [event async for event in stream] == []

    with i2o.open("emu:?run=thread") as iop:
        asyncio.run(main(iop))
    assert len(polls) < 5


def test_an_async_wait_can_be_cancelled_and_goes_on(iop):
    async def main() -> None:
        with iop.events([DISK]) as stream:
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(anext(stream), 0.01)
            tell(iop, DISK, LOAD)
            assert (await anext(stream)).indicator == LOAD

    asyncio.run(main())


def test_an_async_iteration_ends_with_the_iop():
    async def main(iop: Iop) -> list[Event]:
        asyncio.get_running_loop().call_later(0.01, iop.close)
        return [event async for event in iop.events()]

    assert asyncio.run(main(i2o.open("emu:"))) == []


def test_an_async_iteration_of_a_closed_stream(iop):
    async def main(stream: EventStream) -> list[int]:
        return [event.indicator async for event in stream]

    stream = iop.events([DISK])
    tell(iop, DISK, LOAD)
    serve(iop)
    stream.close()
    assert asyncio.run(main(stream)) == [LOAD]


def test_events_that_are_always_there_let_others_run(iop):
    async def main() -> None:
        others = []
        with iop.events([DISK], timeout_s=0) as stream:
            for _ in range(5):
                tell(iop, DISK, LOAD)
            serve(iop)
            asyncio.get_running_loop().call_soon(others.append, "ran")
            await anext(stream)
            assert others == ["ran"]

    asyncio.run(main())
