# SPDX-License-Identifier: Apache-2.0
"""Requests that the compiled frame table has answered without its IOP being run."""

from __future__ import annotations

import gc
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import astuple, replace
from typing import ClassVar, NamedTuple

import pytest

import i2o
from fakes.shm_pair import SMALL, ShmPair, needs_rings
from fakes.shm_serving import Serving, count_fast_requests
from i2o.errors import RemoteFrameError
from i2o.frames import block_storage as bsa
from i2o.frames import executive, utility
from i2o.frames.functions import Function
from i2o.frames.header import FAILURE_REPLY, MsgFlags
from i2o.frames.sgl import simple_sgl
from i2o.iop_emulator.shm_iop import ShmIop
from i2o.message_layer import MessageLayer
from i2o.requester import Requester
from i2o.transport.device_unit import PostedFrame
from i2o.transport.fast_path import Answered, FastPath
from i2o.transport.port import EMPTY
from i2o.transport.registry import open_port
from i2o.transport.shm import unit
from i2o.transport.shm.channel import PeerGone
from i2o.transport.shm.segment import Shape
from i2o.transport.shm.server import ShmHost
from i2o.transport.shm.unit import ShmUnit

pytestmark = needs_rings
NOW_NS = 12345
FRAME = bytes((1, 0, 5, 0)) + bytes(range(4, 20))
OTHER = bytes((1, 0, 5, 0)) + bytes(range(5, 21))
FOR_EVER_NS = 1 << 62


class Asked(NamedTuple):
    """What handlers here are called with."""

    frame: bytes
    route: int
    now_ns: int


class Answering:
    """Replies as an IOP has them, and everything that was asked."""

    def __init__(self) -> None:
        self.frame_size = 128
        self.asked: list[Asked] = []
        self.sent: list[bytes] = []
        self.counted = [0, 0]
        self.reply: object = b"r" * 20
        self.failures: list[Exception] = []
        self.pending: deque[object] = deque()
        self.during: Callable[[], object] = lambda: None
        self.path = FastPath(
            handlers={FRAME[:8]: self.handle},
            make_request=Asked,
            replies=self,
            on_error=self.failed,
            pending=(self.pending, []),
            on_counted=self.count,
        )

    def handle(self, asked: Asked) -> object:
        self.asked.append(asked)
        self.during()
        if isinstance(self.reply, Exception):
            raise self.reply
        return self.reply

    def failed(self, asked: Asked, error: Exception) -> bytes:
        self.failures.append(error)
        if not isinstance(error, RemoteFrameError):
            raise error
        return b"e" * 20

    def send(self, reply: bytes) -> None:
        self.sent.append(reply)

    def count(self, requests: int, replies: int) -> None:
        self.counted[0] += requests
        self.counted[1] += replies


class Ends(ShmPair):
    """A pair whose device answers plain requests, and that has reply frames."""

    def __init__(
        self, monkeypatch: pytest.MonkeyPatch, replies: int = 3, shape: Shape = SMALL
    ) -> None:
        super().__init__("rings", monkeypatch, shape)
        self.answering = Answering()
        self.device.use(self.answering.path)
        self.buffer = self.host.memory.allocate(1 << 20)
        self.device.drain()
        self.device.post_reply(
            self.buffer.bus_address + (1 << 20) - 128, b"first"
        )  # they go there, then
        self.device.flush()
        assert self.host.reap() == self.buffer.bus_address + (1 << 20) - 128
        self.frames = [self.buffer.bus_address + 128 * number for number in range(replies)]
        for frame in self.frames:
            self.host.release(frame)

    def post(self, frame: bytes = FRAME) -> int:
        mfa = self.host.alloc()
        assert mfa != EMPTY
        self.host.write(mfa, frame)
        self.host.post(mfa)
        return mfa

    def take(self) -> Answered:
        self.device.drain()
        return self.device.answer(NOW_NS)

    def answer(self) -> bool:
        return self.take() is Answered.ALL

    def replies(self) -> list[bytes]:
        self.device.flush()
        found = []
        while (address := self.host.reap()) != EMPTY:
            found.append(bytes(self.host.outbound(address, 20)))
        return found


@pytest.fixture
def ends(monkeypatch: pytest.MonkeyPatch) -> Iterator[Ends]:
    with Ends(monkeypatch) as made:
        yield made


def test_plain_requests_are_answered_in_order(ends: Ends) -> None:
    posted = [ends.post(FRAME[:8] + bytes([number] * 12)) for number in range(3)]
    assert ends.answer()
    assert [asked.frame[8] for asked in ends.answering.asked] == [0, 1, 2]
    route = int.from_bytes(FRAME[4:8], "little")
    assert all(asked[1:] == (route, NOW_NS) for asked in ends.answering.asked)
    assert ends.replies() == [b"r" * 20] * 3
    assert ends.answering.counted == [3, 3]
    assert not ends.answering.sent
    assert [ends.host.alloc() for _ in range(4)][1:] == posted, "every frame went home"


def test_frames_go_round(ends: Ends) -> None:
    """More often than there are frames, of either kind."""
    for _ in range(20):
        ends.post()
        assert ends.answer()
        ends.device.flush()
        address = ends.host.reap()
        assert bytes(ends.host.outbound(address, 20)) == b"r" * 20
        ends.host.release(address)
    assert ends.answering.counted == [20, 20]
    assert not ends.host.said


@pytest.mark.parametrize(
    "frame",
    [OTHER, FRAME[:2] + b"\x06" + FRAME[3:], FRAME[:2] + b"\0\1" + FRAME[4:]],
    ids=["of somebody else", "longer", "longer than a frame"],
)
def test_what_is_not_plain_stays_posted_and_all_behind_it(ends: Ends, frame: bytes) -> None:
    first, second, third = ends.post(), ends.post(frame), ends.post()
    handlers = ends.answering.path.handlers
    if frame[2:4] == b"\0\1":  # its words 0 and 1 are known, but it cannot be that long
        handlers[frame[:8]] = handlers[FRAME[:8]]
    assert not ends.answer()
    assert not ends.answer(), "it is still there"
    assert len(ends.answering.asked) == 1
    fetched = [ends.device.fetch(), ends.device.fetch(), ends.device.fetch()]
    assert [one and one.mfa for one in fetched] == [second, third, None]
    assert ends.replies() == [b"r" * 20]
    assert ends.host.alloc() not in (EMPTY, first)
    assert ends.host.alloc() == first


def test_nothing_is_answered_while_something_is_pending(ends: Ends) -> None:
    ends.post()
    ends.answering.pending.append(1)
    assert not ends.answer()
    assert not ends.answering.asked
    ends.answering.pending.clear()
    assert ends.answer()
    assert ends.replies() == [b"r" * 20]


def test_a_request_that_leaves_something_behind_is_the_last(ends: Ends) -> None:
    """Its own reply goes the long way: it may have to wait as well."""
    ends.answering.during = lambda: ends.answering.pending.append(1)
    ends.post()
    ends.post()
    assert not ends.answer()
    assert len(ends.answering.asked) == 1
    assert ends.answering.sent == [b"r" * 20]
    assert ends.answering.counted == [1, 0]


def test_a_request_that_changes_who_answers_is_the_last(ends: Ends) -> None:
    ends.answering.during = ends.answering.path.handlers.clear
    ends.post()
    ends.post()
    assert not ends.answer()
    assert (len(ends.answering.asked), ends.device.posted_inbound()) == (1, 1)


def test_an_answer_that_is_none(ends: Ends) -> None:
    ends.answering.reply = None
    ends.post()
    assert ends.answer()
    assert (ends.answering.counted, ends.replies(), ends.answering.sent) == ([1, 0], [], [])


@pytest.mark.parametrize("reply", [b"l" * 129, bytearray(20)], ids=["too long", "of another type"])
def test_replies_that_go_the_long_way(ends: Ends, reply: bytes) -> None:
    ends.answering.reply = reply
    ends.post()
    assert ends.answer()
    assert ends.answering.sent == [reply]
    assert ends.device.idle_outbound() == 3


def test_replies_without_a_frame_go_the_long_way(monkeypatch: pytest.MonkeyPatch) -> None:
    with Ends(monkeypatch, replies=1) as ends:
        ends.post()
        ends.post()
        assert ends.answer()
        assert ends.replies() == [b"r" * 20]
        assert ends.answering.sent == [b"r" * 20]


def test_a_reply_frame_that_is_somewhere_else_goes_the_long_way(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with Ends(monkeypatch, replies=0) as ends:
        ends.host.release(0x10)
        ends.post()
        assert ends.answer()
        assert ends.answering.sent == [b"r" * 20]
        assert ends.device.take_reply_frame() == 0x10, "it is the long way's to complain of"


def test_what_a_handler_raises_is_decided_about(ends: Ends) -> None:
    ends.answering.reply = RemoteFrameError("its list makes no sense")
    mfa = ends.post()
    assert ends.answer()
    assert ends.replies() == [b"e" * 20]
    assert ends.answering.failures == [ends.answering.reply]
    ends.answering.reply = ZeroDivisionError("a bug")
    ends.post()
    with pytest.raises(ZeroDivisionError, match="a bug") as caught:
        ends.answer()
    assert "handle" in [entry.name for entry in caught.traceback], "where it was raised"
    assert ends.answering.counted == [2, 1]
    assert (ends.device.posted_inbound(), ends.replies()) == (0, [])
    assert mfa in [ends.host.alloc() for _ in range(4)]


MANY = Shape(200, 128, 1 << 16, 16 << 20)
BATCH = 64


def test_others_have_their_turn_between_many_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    with Ends(monkeypatch, 200, MANY) as ends:
        for _ in range(150):
            ends.post()
        seen = [(ends.take(), len(ends.answering.asked)) for _ in range(3)]
        so_far = Answered.SO_FAR
        assert seen == [(so_far, BATCH), (so_far, 2 * BATCH), (Answered.ALL, 150)]
        assert ends.replies() == [b"r" * 20] * 150


def test_who_spins_tells_the_host_between_many_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    with Ends(monkeypatch, 200, MANY) as ends:
        asked, told = ends.answering.asked, []

        def look() -> None:
            if len(asked) in (BATCH, BATCH + 1):
                told.append(ends.host.reap() != EMPTY)

        ends.answering.during = look
        for _ in range(150):
            ends.post()
        assert not ends.device.spin(0, FOR_EVER_NS)
        assert len(asked) == 150
        assert told == [False, True]


def test_an_interrupt_is_nobodys_to_answer(ends: Ends) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    ends.answering.during = interrupt
    ends.post()
    with pytest.raises(KeyboardInterrupt):
        ends.answer()
    assert not ends.answering.failures


def test_a_request_that_is_taken_while_it_is_made_is_not_answered_twice(ends: Ends) -> None:
    ends.post()
    last = ends.post()
    answering, device = ends.answering, ends.device
    fetched: list[object] = []

    def make(frame: bytes, route: int, now_ns: int) -> Asked:
        fetched.append(device.fetch())
        return Asked(frame, route, now_ns)

    handlers = answering.path.handlers
    device._native_table.use(handlers, make, answering, answering.failed, ())
    assert not ends.answer()
    assert (len(fetched), answering.asked) == (1, [])
    posted = device.fetch()
    assert posted is not None
    assert posted.mfa == last


@pytest.mark.parametrize("spins", [False, True])
def test_a_host_that_goes_while_it_is_answered(ends: Ends, spins: bool) -> None:
    ends.answering.during = ends.device.disconnect
    ends.post()
    ends.post()
    if spins:
        assert not ends.device.spin(0, FOR_EVER_NS), "nothing comes any more"
    else:
        assert ends.answer(), "nothing is posted any more"
    assert ends.answering.sent == [b"r" * 20]
    assert not ends.device.spin(0, FOR_EVER_NS)


def test_one_that_answers_again_while_it_is_asked(ends: Ends) -> None:
    """As a handler that runs everything that is posted: each request is answered once."""
    ends.answering.during = lambda: ends.device.answer(NOW_NS)
    ends.post(FRAME[:8] + bytes([1] * 12))
    ends.post(FRAME[:8] + bytes([2] * 12))
    assert ends.answer()
    assert sorted(asked.frame[8] for asked in ends.answering.asked) == [1, 2]
    assert ends.answering.counted == [2, 2]


# --- spinning ------------------------------------------------------------------------------------


def test_who_spins_answers_and_tells_at_once(ends: Ends) -> None:
    ends.post()
    before_ns = time.monotonic_ns()
    assert not ends.device.spin(1000, FOR_EVER_NS), "nothing else came"
    assert ends.host.reap() == ends.frames[0]
    [asked] = ends.answering.asked
    assert before_ns <= asked.now_ns <= time.monotonic_ns()
    assert ends.answering.counted == [1, 1]


def test_who_spins_answers_what_comes_meanwhile(ends: Ends) -> None:
    """Two requests, the second only when the first is answered."""
    begun = threading.Event()
    ends.answering.during = begun.set
    found: list[bool] = []
    long_ns = 600 * 10**9
    spinner = threading.Thread(target=lambda: found.append(ends.device.spin(long_ns, FOR_EVER_NS)))
    ends.post()
    spinner.start()
    assert begun.wait(60)
    ends.answering.during = ends.answering.path.handlers.clear
    ends.post()
    spinner.join(60)
    assert found == [True], "the next is for somebody else"
    assert len(ends.answering.asked) == 2


@pytest.mark.parametrize("what", ["other frame", "buffer", "pending", "time"])
def test_what_else_there_is_ends_a_spin(ends: Ends, what: str) -> None:
    if what == "other frame":
        ends.post(OTHER)
    elif what == "buffer":
        ends.host.memory.allocate(16)
    else:
        ends.post()
    if what == "pending":
        ends.answering.pending.append(1)
    assert ends.device.spin(0, 0 if what == "time" else FOR_EVER_NS)
    assert not ends.answering.asked
    ends.device.drain()
    assert ends.device.posted_inbound() == (what != "buffer")


def test_a_reply_that_goes_the_long_way_does_not_end_a_spin(ends: Ends) -> None:
    ends.answering.frame_size = 0
    ends.post()
    assert not ends.device.spin(0, FOR_EVER_NS), "nothing else came"
    assert ends.answering.sent == [b"r" * 20]


def test_what_a_handler_raises_ends_a_spin(ends: Ends) -> None:
    ends.answering.reply = ZeroDivisionError("a bug")
    ends.post()
    ends.post()
    with pytest.raises(ZeroDivisionError):
        ends.device.spin(0, FOR_EVER_NS)
    assert ends.answering.counted == [1, 0]
    assert ends.device.posted_inbound() == 1


def test_who_is_not_listened_to_answers_nothing(ends: Ends) -> None:
    """What could not be told is little at first, and then as much as may be."""
    table, host = ends.device._native_table, ends.host
    first, second = host.alloc(), host.alloc()
    for mfa in (first, second):
        host.write(mfa, FRAME)
    while ends.device.flush():
        for _ in range(100):
            table.tell(99, 0, 0)
    host.post(first)
    assert ends.device.spin(0, FOR_EVER_NS), "the answer is not told"
    assert len(ends.answering.asked) == 1
    while table.outbox_size <= unit._MOST_OUTBOX:
        table.tell(99, 0, 0)
    host.post(second)
    assert ends.device.spin(0, FOR_EVER_NS)
    assert len(ends.answering.asked) == 1


def test_a_ring_that_is_broken_ends_a_spin(ends: Ends) -> None:
    ends.post()
    ring = ends.device._channel._consumer.ring
    ring.limit = 4  # as if the host had written a packet that is longer than any
    assert ends.device.spin(0, FOR_EVER_NS)
    with pytest.raises(PeerGone):
        ends.device.drain()


def test_wrong_arguments(ends: Ends) -> None:
    table = ends.device._native_table
    for arguments in ((), (1,), ("1", 2), (1, None), (1, 2, 3)):
        with pytest.raises(TypeError):
            table.spin(*arguments)
    ends.device.disconnect()
    assert table.spin(0, FOR_EVER_NS) is False, "there is no ring any more"
    assert table.answer(NOW_NS) == Answered.ALL, "nothing is posted"
    with pytest.raises(TypeError):
        table.use([], Asked, ends.answering, ends.answering.failed, ())
    with pytest.raises(TypeError):
        table.use({}, Asked, ends.answering, ends.answering.failed, [])


def test_a_way_out_that_is_none(ends: Ends) -> None:
    """What cannot be asked is an error, and not an end without a word."""
    table = ends.device._native_table
    failed = ends.answering.failed
    for replies, error in ((object(), AttributeError), (_Odd("send"), AttributeError)):
        table.use({}, Asked, replies, failed, ())
        with pytest.raises(error):
            table.answer(NOW_NS)
        with pytest.raises(error):
            table.spin(0, FOR_EVER_NS)
    odd = _Odd("send", "frame_size")
    table.use({}, Asked, odd, failed, ())
    with pytest.raises(TypeError):
        table.answer(NOW_NS)


class _Odd:
    def __init__(self, *names: str) -> None:
        for name in names:
            setattr(self, name, name)


def test_a_host_that_goes_just_before_it_is_looked_for(ends: Ends) -> None:
    device, answering = ends.device, ends.answering

    class Replies:
        send = answering.send

        @property
        def frame_size(self) -> int:
            device.disconnect()
            return 128

    path = answering.path
    device._native_table.use(path.handlers, Asked, Replies(), answering.failed, ())
    assert not device.spin(0, FOR_EVER_NS)


def test_times_of_another_clock_are_not_compared(ends: Ends) -> None:
    """Nor are requests given the time of this one."""
    ends.post()
    assert ends.device.spin(0, None)
    assert not ends.answering.asked

    class Device:
        unit = ends.device
        times: ClassVar[list[int]] = []

        def run(self, now_ns: int) -> None:
            if self.times:
                self.unit.drain()
            self.times.append(now_ns)

    class Clock:
        now_ns = FOR_EVER_NS

        def monotonic_ns(self) -> int:
            self.now_ns += 1
            return self.now_ns

    host = ShmHost(Device(), spin_s=1e-9, clock=Clock())  # type: ignore[arg-type]
    host._serve(ends.device._channel, FOR_EVER_NS)
    assert Device.times[0] == FOR_EVER_NS < Device.times[1]
    assert ends.device.posted_inbound() == 1
    assert not ends.answering.asked


def test_who_answers_is_not_kept_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    with Ends(monkeypatch) as ends:
        device, answering = ends.device, ends.answering
        answering.during = device.drain  # a circle
        gone = weakref.ref(device), weakref.ref(answering)
    del ends, device, answering
    gc.collect()
    assert [one() for one in gone] == [None, None]


# --- an IOP --------------------------------------------------------------------------------------


def talk(spin_s: float) -> tuple[list[bytes], tuple[int, ...], list[str]]:
    """Have an IOP answer all sorts of requests; return replies, counters and complaints."""
    with Serving(spin_s=spin_s) as serving:
        layer = MessageLayer()
        try:
            iop = layer.attach(open_port(f"shm:test?spin={round(spin_s * 1e6)}"))
            Requester(layer, iop).close()
            port = layer.port(iop)
            buffer = port.memory.allocate(4096)
            replies, preserved = [], EMPTY
            before = replace(serving.iop.soft_iop.counters)
            for frame in requests(buffer.bus_address):
                mfa = port.alloc() if preserved == EMPTY else preserved
                assert mfa != EMPTY
                port.write(mfa, frame[:2] + (len(frame) // 4).to_bytes(2, "little") + frame[4:])
                port.post(mfa)
                while (address := port.reap()) == EMPTY:
                    assert port.wait(60)
                reply = bytes(port.outbound(address, 128))
                port.release(address)
                replies.append(reply[: 4 * int.from_bytes(reply[2:4], "little")])
                preserved = EMPTY
                if reply[1] & MsgFlags.FAIL:
                    preserved = FAILURE_REPLY.unpack_from(reply).preserved_mfa_low
        finally:
            layer.close()
        soft = serving.iop.soft_iop
        after = astuple(soft.counters)
        counted = tuple(now - then for now, then in zip(after, astuple(before), strict=True))
        return replies, counted, list(soft.complaints)


def requests(address: int) -> Iterator[bytes]:
    check = bsa.BSA_STATUS_CHECK.build(target_address=0x010)
    read = bsa.BSA_BLOCK_READ.build(target_address=0x010, transfer_byte_count=512)
    good = read + simple_sgl([(address, 512)], out=False)
    for _ in range(3):
        for _ in range(2):
            yield check
            yield good
            yield read + simple_sgl([(0x10, 512)], out=False)  # no memory of the host's
            yield utility.UTIL_LOCK.build(target_address=0x010)
            yield utility.UTIL_LOCK_RELEASE.build(target_address=0x010)
            yield check[:7] + b"\x99" + check[8:]  # a function that no disk has
        yield executive.EXEC_DDM_QUIESCE.build(device_tid=0x010)
        yield check
        yield executive.EXEC_DDM_ENABLE.build(device_tid=0x010)


def test_an_iop_answers_the_same_whoever_asks_it(monkeypatch: pytest.MonkeyPatch) -> None:
    fast = count_fast_requests(monkeypatch)
    spun = talk(spin_s=0.01)
    assert sum(fast) >= 15, "those that came for the second time"
    fast.clear()
    slept = talk(spin_s=0.0)
    assert sum(fast) >= 15
    fast.clear()
    monkeypatch.setattr(unit.ShmUnit, "use", lambda unit, path: None)
    alone = talk(spin_s=0.0)
    assert not fast
    assert spun == slept == alone
    assert len(alone[0]) == 45
    assert [n for n, reply in enumerate(alone[0]) if reply[1] & MsgFlags.FAIL] == [13, 28, 43]


class Seen(ShmUnit):
    """Stands for a tap: whoever fetches through it is seen."""

    def __init__(self, unit: ShmUnit) -> None:
        self.__dict__ = dict(unit.__dict__)
        self.fetched: list[PostedFrame] = []
        self.fetch = self._look(unit.fetch)

    def _look(self, fetch: Callable[[], PostedFrame | None]) -> Callable[[], PostedFrame | None]:
        def look() -> PostedFrame | None:
            posted = fetch()
            if posted is not None:
                self.fetched.append(posted)
            return posted

        return look


def test_whoever_looks_at_the_traffic_sees_each_request(monkeypatch: pytest.MonkeyPatch) -> None:
    taps: list[Seen] = []

    def tap(unit: ShmUnit) -> Seen:
        taps.append(Seen(unit))
        return taps[-1]

    real = ShmIop.from_options
    monkeypatch.setattr(ShmIop, "from_options", lambda options: real(options, tap))
    checks = 10
    with Serving(), i2o.open("shm:test") as iop:
        requester = iop.requester
        for _ in range(checks):
            requester.call(bsa.BSA_STATUS_CHECK.build(target_address=0x010))
    functions = [posted.data[7] for posted in taps[0].fetched]
    assert functions.count(Function.BSA_STATUS_CHECK) == checks


def test_who_sleeps_need_not_run_the_iop_either() -> None:
    runs = []
    check = bsa.BSA_STATUS_CHECK.build(target_address=0x010)
    with Serving() as serving, i2o.open("shm:test") as iop:
        iop.requester.call(check)
        run = serving.iop.soft_iop.run
        serving.iop.soft_iop.run = lambda *args: (runs.append(args), run(*args))[1]
        for _ in range(10):
            iop.requester.call(check)
        assert not runs
        iop.requester.call(utility.UTIL_LOCK.build(target_address=0x010))
        assert len(runs) == 1


def test_who_spins_need_not_come_back_to_python(monkeypatch: pytest.MonkeyPatch) -> None:
    check = bsa.BSA_STATUS_CHECK.build(target_address=0x010)
    with Serving(spin_s=0.05) as serving, i2o.open("shm:test?spin=1000") as iop:
        device, counters, real = serving.iop.unit, serving.iop.soft_iop.counters, ShmUnit.spin
        within: list[int] = []

        def spin(unit: ShmUnit, nanoseconds: int, end_ns: int) -> bool:
            before = counters.requests
            try:
                return real(unit, nanoseconds, end_ns)
            finally:
                within.append(counters.requests - before)

        monkeypatch.setattr(ShmUnit, "spin", spin)
        assert device.spin.__func__ is spin
        deadline = time.monotonic() + 60
        while not any(within) and time.monotonic() < deadline:
            iop.requester.call(check)
        assert any(within)


def test_more_requests_than_are_answered_at_once() -> None:
    check = bsa.BSA_STATUS_CHECK.build(target_address=0x010, message_size=4)
    with Serving("frames=200") as serving, i2o.open("shm:test") as iop:
        for _ in range(2):
            iop.requester.call(check)
        serving.vanish_from_loop()
        port, counters = iop.layer.port(iop.number), serving.iop.soft_iop.counters
        before = counters.requests
        for _ in range(150):
            mfa = port.alloc()
            port.write(mfa, check)
            port.post(mfa)
        turns = 0
        while serving.server.run(time.monotonic_ns()) is not None:
            turns += 1
        assert turns >= 150 // BATCH
        assert counters.requests == before + 150
        serving.server.host.close()  # so that the host does not wait for it


@pytest.mark.parametrize("spin_s", [0.0, 0.01])
def test_an_operation_that_is_begun_is_gone_on_with(spin_s: float) -> None:
    """A short one ends within a run, so that the next like it has a fast path."""
    verify = bsa.BSA_MEDIA_VERIFY.build(target_address=0x010, byte_count=512)
    with Serving(spin_s=spin_s) as serving, i2o.open("shm:test") as iop:
        counters = serving.iop.soft_iop.counters
        before = counters.requests
        for _ in range(5):
            iop.requester.call(verify)
        assert counters.requests == before + 5, "nobody had to ask what became of one"
