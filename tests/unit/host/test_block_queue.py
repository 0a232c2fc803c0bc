# SPDX-License-Identifier: Apache-2.0
"""A queue of transfers: several at once, each ending once, with errors and late replies."""

from __future__ import annotations

import random

import pytest

import i2o
from i2o.block_queue import BlockQueue
from i2o.clock import ManualClock
from i2o.errors import InvalidArgument, OutOfFrames, RequestFailed, RequestTimeout

SIZE = 1 << 20


@pytest.fixture
def image(tmp_path):
    path = tmp_path / "disk.img"
    path.write_bytes(random.Random(1).randbytes(SIZE))
    return path


class Station:
    """An IOP, its disk, and a queue of transfers whose ends are kept."""

    def __init__(self, uri, **options):
        self.clock = ManualClock()
        self.iop = i2o.open(uri, clock=self.clock, **options)
        self.disk = self.iop.block()
        self.disk.max_transfer = 64 << 10
        self.memory = self.iop.memory
        self.before = self.memory.buffer_count
        self.queue = BlockQueue(self.disk, self.iop.requester, self.memory, self.clock)
        self.ended: dict[str, tuple[bytes, Exception | None]] = {}

    def end(self, name):
        def done(data, error):
            assert name not in self.ended, "it ends once"
            self.ended[name] = (bytes(data), error)

        return done

    def run(self):
        self.queue.pump()
        while not self.queue.is_idle:
            assert self.iop.layer.poll() or not self.iop.requester.in_flight
            self.queue.pump()


@pytest.fixture
def station(image):
    made = Station(f"emu:?disk={image}")
    with made.iop:
        yield made
        assert made.memory.buffer_count == made.before, "every buffer was freed"


def test_transfers_of_all_kinds(station, image):
    content = image.read_bytes()
    new = random.Random(2).randbytes(150 << 10)
    queue = station.queue
    queue.write(512, memoryview(new), station.end("write"))
    queue.read(1024, 512, station.end("small"))
    queue.flush(station.end("flush"))
    queue.read(0, SIZE, station.end("all"))
    assert not queue.is_idle
    station.run()
    expected = content[:512] + new + content[512 + len(new) :]
    assert station.ended == {
        "write": (new, None),
        "small": (expected[1024:1536], None),
        "flush": (b"", None),
        "all": (expected, None),
    }
    assert image.read_bytes() == expected
    assert queue.deadline_ns is None


def test_as_many_at_once_as_the_device_says(station):
    station.queue.read(0, SIZE, station.end("all"))
    station.queue.pump()
    assert station.iop.requester.in_flight == station.disk.queue_depth == 8
    station.disk.queue_depth = 3
    station.run()
    assert station.ended["all"][1] is None


def test_the_first_error_ends_a_transfer_and_no_other(image):
    station = Station(f"emu:?disk={image},bad=130-140")
    with station.iop:
        station.disk.queue_depth = 2
        sent = []
        start = station.disk.start
        station.disk.start = lambda *request: (sent.append(request[1]), start(*request))[1]
        station.queue.read(0, SIZE, station.end("bad"))
        station.queue.read(0, 512, station.end("good"))
        station.run()
        assert station.memory.buffer_count == station.before
    error = station.ended["bad"][1]
    assert isinstance(error, RequestFailed)
    assert "bsa_block_read of TID 0x010 from byte 65536: ERROR_PARTIAL" in str(error)
    assert error.address == 130 * 512
    assert sent[-1] == 0, "the good one"
    assert len(sent) < 6, "the rest of the bad one is not sent"
    assert station.ended["good"] == (image.read_bytes()[:512], None)


def test_a_flush_that_fails(image, tmp_path):
    plan = tmp_path / "plan.toml"
    plan.write_text(
        '[[fault]]\non = "bsa_cache_flush"\naction = "status"\nreq_status = 1\ndetail = 3\n'
    )
    station = Station(f"emu:?disk={image}&faults={plan}")
    with station.iop:
        station.queue.flush(station.end("flush"))
        station.run()
        assert "bsa_cache_flush of TID 0x010: " in str(station.ended["flush"][1])


@pytest.mark.parametrize(
    ("offset", "length"), [(-512, 512), (0, 0), (SIZE, 512), (100, 512), (0, 100), (0, SIZE + 512)]
)
def test_what_is_no_range_of_whole_blocks(station, offset, length):
    with pytest.raises(InvalidArgument):
        station.queue.read(offset, length, station.end("no"))
    assert station.queue.is_idle


def test_without_frames_it_waits_for_one_or_fails(station, monkeypatch):
    start = station.disk.start
    room = [1]

    def narrow(layout, offset, buffer, size, on_reply):
        if station.iop.requester.in_flight >= room[0]:
            buffer.free()
            raise OutOfFrames("no frame")
        return start(layout, offset, buffer, size, on_reply)

    monkeypatch.setattr(station.disk, "start", narrow)
    station.queue.read(0, SIZE, station.end("all"))
    station.queue.pump()
    assert station.iop.requester.in_flight == 1
    station.run()
    assert station.ended["all"][1] is None
    room[0] = 0
    station.queue.read(0, 512, station.end("none"))
    station.queue.pump()
    assert isinstance(station.ended["none"][1], OutOfFrames)


def test_after_the_device_is_closed(station):
    station.disk.close()
    station.queue.read(0, 512, station.end("read"))
    station.queue.flush(station.end("flush"))
    station.queue.pump()
    assert all(isinstance(error, InvalidArgument) for _, error in station.ended.values())
    assert len(station.ended) == 2


def test_a_late_request_ends_and_its_buffer_stays_until_the_reply(image, tmp_path):
    plan = tmp_path / "slow.toml"
    plan.write_text('[[fault]]\non = "bsa_block_read"\naction = "delay"\nms = 9000\ntimes = 1\n')
    station = Station(f"emu:?disk={image}&faults={plan}", timeout_s=2, recovery=None)
    with station.iop:
        station.queue.read(0, 512, station.end("late"))
        station.queue.read(512, 512, station.end("next"))
        station.queue.pump()
        station.queue.expire()
        assert not station.ended, "it is not late yet"
        station.iop.layer.poll()
        station.clock.advance(3)
        station.queue.expire()
        assert isinstance(station.ended["late"][1], RequestTimeout)
        assert station.ended["next"][1] is None
        assert station.memory.buffer_count == station.before + 1
        station.clock.advance(9)
        station.iop.layer.poll()
        assert station.memory.buffer_count == station.before
    station.queue.expire()  # nothing is on its way


def test_a_late_request_that_recovery_aborts(image, tmp_path):
    plan = tmp_path / "stuck.toml"
    plan.write_text('[[fault]]\non = "bsa_block_read"\naction = "delay"\nms = 99000\ntimes = 1\n')
    station = Station(f"emu:?disk={image}&faults={plan}", timeout_s=2)
    with station.iop:
        station.queue.read(0, 512, station.end("late"))
        station.queue.pump()
        station.clock.advance(3)
        station.queue.expire()
        assert station.ended["late"][1] is not None
        assert station.memory.buffer_count == station.before
        station.queue.read(0, 512, station.end("again"))
        station.run()
        assert station.ended["again"][1] is None
