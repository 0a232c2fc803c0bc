# SPDX-License-Identifier: Apache-2.0
"""The wait rules of OSMMsgGetReqBuf and OSMMsgSend, as a table, by a clock that takes no time."""

from __future__ import annotations

import time
from types import SimpleNamespace

import pytest

from fakes.bare_iop import BareIop, BarePort
from i2o.clock import SYSTEM_CLOCK
from i2o.errors import InvalidArgument, OutOfFrames
from i2o.frames.utility import UTIL_LOCK
from i2o.message_layer import MessageLayer
from i2o.waits import I2OTRANS_NOSLEEP, I2OTRANS_SLEEP, retries, retry, ticks_to_us

NEVER = None

# wait in microseconds -> attempts in all
ATTEMPTS = {
    0: 1,
    1: 2,
    99_000: 2,
    100_000: 2,
    199_000: 2,
    200_000: 3,
    250_000: 3,
    1_000_000: 11,
}


def lock_frame(iop: BareIop):
    frame = iop.layer.request_frame(iop.number)
    frame[: UTIL_LOCK.size] = UTIL_LOCK.build(target_address=5)
    return frame


def starve(port: BarePort, attempts: int | None) -> None:
    """Make the first attempts find nothing; each attempt reads the port twice."""
    port.empty_reads = 2 * attempts if attempts is not None else 1 << 30


@pytest.mark.parametrize("flags", [I2OTRANS_SLEEP, I2OTRANS_NOSLEEP], ids=["SLEEP", "NOSLEEP"])
@pytest.mark.parametrize(("wait_us", "attempts"), ATTEMPTS.items())
class TestSend:
    @pytest.mark.parametrize("freed_at", ["first", "second", "last", "never"])
    def test_attempts_and_pauses(self, wait_us, attempts, flags, freed_at):
        iop = BareIop()
        frame = lock_frame(iop)
        failures = {"first": 0, "second": 1, "last": attempts - 1, "never": NEVER}[freed_at]
        starve(iop.port, failures)
        succeeds = failures is not None and failures < attempts
        if succeeds:
            iop.layer.send(iop.number, frame, wait_us, flags)
            assert iop.port.unit.request_pending
            pauses = failures
        else:
            with pytest.raises(OutOfFrames):
                iop.layer.send(iop.number, frame, wait_us, flags)
            assert not iop.port.unit.request_pending
            pauses = attempts - 1
        made, other = iop.clock.slept, iop.clock.spun
        if flags == I2OTRANS_NOSLEEP:
            made, other = other, made
        assert made == [0.1] * pauses
        assert other == []
        if succeeds:
            assert id(frame) not in iop.entry.held_requests
        else:  # the frame is still the caller's: it can be sent again
            iop.port.empty_reads = 0
            iop.layer.send(iop.number, frame)

    def test_the_real_delay_is_never_more_than_asked_but_for_the_minimum(
        self, wait_us, attempts, flags
    ):
        iop = BareIop()
        starve(iop.port, NEVER)
        with pytest.raises(OutOfFrames):
            iop.layer.send(iop.number, lock_frame(iop), wait_us, flags)
        waited = round(iop.clock.monotonic() * 1e6)
        if wait_us == 0:
            assert waited == 0
        else:
            assert waited == max(100_000, waited)
            assert waited <= max(100_000, wait_us)
            assert wait_us - waited <= 100_000


@pytest.mark.parametrize(
    ("ticks", "hz", "attempts"),
    [(0, 100, 1), (1, 100, 2), (10, 100, 2), (19, 100, 2), (20, 100, 3), (100, 100, 11),
     (1, 1000, 2), (200, 1000, 3), (5, 7, 8)],
)  # fmt: skip
def test_get_req_buf_counts_in_ticks_when_frames_come_from_the_fifo(ticks, hz, attempts):
    iop = BareIop(frame_source="fifo")
    iop.layer.hz = hz
    starve(iop.port, NEVER)
    with pytest.raises(OutOfFrames):
        iop.layer.request_frame(iop.number, ticks, I2OTRANS_SLEEP)
    assert iop.clock.slept == [0.1] * (attempts - 1)
    assert iop.port.alloc_calls == 2 * attempts


def test_get_req_buf_ignores_wait_with_system_memory():
    iop = BareIop()
    starve(iop.port, NEVER)
    assert len(iop.layer.request_frame(iop.number, 500, I2OTRANS_SLEEP)) == 128
    assert iop.clock.slept == []
    assert iop.port.alloc_calls == 0


def test_an_empty_port_is_read_twice_before_it_is_believed():
    iop = BareIop()
    iop.port.empty_reads = 1
    iop.layer.send(iop.number, lock_frame(iop))
    assert iop.port.alloc_calls == 2


def test_a_tick_is_never_rounded_to_nothing():
    assert ticks_to_us(1, 100) == 10_000
    assert ticks_to_us(1, 3_000_000) == 1
    assert retries(1) == 1


@pytest.mark.parametrize("flags", [2, 3, 4, 0x80, 1 << 31])
def test_reserved_flag_bits_are_refused(flags):
    iop = BareIop()
    frame = lock_frame(iop)
    with pytest.raises(InvalidArgument):
        iop.layer.send(iop.number, frame, 0, flags)
    with pytest.raises(InvalidArgument):
        iop.layer.request_frame(iop.number, 0, flags)
    iop.layer.send(iop.number, frame)  # it was never taken away


def test_a_negative_wait_is_refused():
    iop = BareIop()
    with pytest.raises(InvalidArgument):
        iop.layer.send(iop.number, lock_frame(iop), -1)
    with pytest.raises(InvalidArgument):
        iop.layer.request_frame(iop.number, -1)


class TestRealClock:
    """Once with real time: sleeping gives the CPU away, spinning keeps asking for the time."""

    def wait_200_ms(self, flags: int, monkeypatch) -> tuple[float, float, int]:
        """Return CPU time, time, and how often the busy wait read the clock."""
        layer = MessageLayer()
        iop = BareIop(layer=layer)
        starve(iop.port, NEVER)
        frame = lock_frame(iop)
        reads = 0

        def counted() -> float:
            nonlocal reads
            reads += 1
            return time.monotonic()

        with monkeypatch.context() as patch:
            patch.setattr("i2o.clock.time", SimpleNamespace(monotonic=counted))
            cpu, wall = time.thread_time(), time.monotonic()
            with pytest.raises(OutOfFrames):
                layer.send(iop.number, frame, 200_000, flags)
            return time.thread_time() - cpu, time.monotonic() - wall, reads

    def test_sleep_gives_the_cpu_away_and_nosleep_does_not(self, monkeypatch):
        cpu, wall, reads = self.wait_200_ms(I2OTRANS_SLEEP, monkeypatch)
        assert wall >= 0.2
        assert cpu < 0.1
        assert reads == 0
        _, wall, reads = self.wait_200_ms(I2OTRANS_NOSLEEP, monkeypatch)
        assert wall >= 0.2
        assert reads > 100, "far more often than it pauses, even where others want the CPU too"


def test_retry_returns_what_the_attempt_found():
    results = iter([None, 7, 8])
    assert retry(lambda: next(results), 1_000_000, I2OTRANS_SLEEP, BareIop().clock) == 7
    assert SYSTEM_CLOCK.monotonic_ns() > 0
