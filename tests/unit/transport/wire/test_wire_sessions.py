# SPDX-License-Identifier: Apache-2.0
"""Hosts come, go, break and come back; a server has one at a time."""

from __future__ import annotations

import contextlib
import errno
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import i2o
from fakes.memory_endpoints import MemoryMedium
from fakes.wire_station import UriStation, WireStation
from i2o.capture import I2O_RULES
from i2o.errors import (
    DmaFault,
    IopDead,
    LocalFrameError,
    RequestFailed,
    RequestTimeout,
    TransportUnavailable,
    UriError,
)
from i2o.frames.block_storage import BSA_STATUS_CHECK
from i2o.frames.tables import IopState
from i2o.testing.bare_host import BareHost
from i2o.transport.port import EMPTY
from i2o.transport.registry import open_port
from i2o.transport.wire.host_half import HostHalf, Terms
from i2o.transport.wire.messages import (
    HELLO,
    MAGIC,
    NO_SESSION,
    UNKNOWN,
    WELCOME,
    Kind,
    record_packer,
)
from i2o.transport.wire.stream import Packet, StreamWriter, lone_packet
from i2o.transport.wire.wire_port import ANSWER_S, WirePort
from i2o.transport.wire.wire_unit import WireUnit


class FastClock:
    """The machine's clock, fifty times as fast."""

    def monotonic(self) -> float:
        return 50 * time.monotonic()

    def monotonic_ns(self) -> int:
        return 50 * time.monotonic_ns()

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds / 50)

    spin = sleep


@pytest.fixture
def station() -> Iterator[WireStation]:
    with WireStation() as made:
        yield made


def test_a_second_host_is_refused_while_the_first_is_there(station: WireStation) -> None:
    with i2o.open(station.port("one")) as iop:
        with pytest.raises(TransportUnavailable, match="has a host already, one"):
            station.port("two")
        assert iop.status.state == IopState.OPERATIONAL
        iop.refresh()
    with station.port("two") as port:
        assert BareHost(port).state() == IopState.RESET
    assert station.server.refused == 1


def test_a_host_that_vanished_makes_room_for_the_next_which_finds_the_iop_reset(
    station: WireStation,
) -> None:
    first = i2o.open(station.port("one"))
    station.medium.kill("one")
    with station.port("two") as port:
        assert BareHost(port).state() == IopState.RESET
    with pytest.raises(IopDead):
        first.layer.port(first.number).reset()
        first.layer.port(first.number).alloc()
    first.close()


def test_the_same_host_again_is_a_new_one(station: WireStation) -> None:
    first = station.port("one")
    with i2o.open(station.port("one")) as again:
        assert again.status.state == IopState.OPERATIONAL
    first.close()
    assert station.server.sessions == 2


def test_nobody_there(station: WireStation) -> None:
    with pytest.raises(TransportUnavailable, match="gone"):
        WirePort(station.endpoint("host"), "nobody", name="wire:x", connect_s=0.2)
    with pytest.raises(UriError, match="no name"):
        WirePort(station.endpoint("host"), "nöbody", name="wire:x", connect_s=0.2)


def test_who_cannot_get_in_is_told_what_to_do(tmp_path: Path) -> None:
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    for file in (ours, theirs):
        file.write_bytes(os.urandom(32))
        file.chmod(0o600)
    with UriStation(f"tcp://127.0.0.1:0?key={theirs}") as station:
        for option in ("", f"&key={ours}"):
            with pytest.raises(TransportUnavailable, match=r"write \?key=FILE") as caught:
                open_port(f"{station.uri}?timeout=5{option}")
            assert str(caught.value).count(station.uri) == 1
        with open_port(f"{station.uri}?timeout=5&key={theirs}"):
            pass
    with pytest.raises(TransportUnavailable, match=r"refused \(start a server there: i2o serve"):
        open_port(f"{station.uri}?timeout=5")


def test_somebody_who_does_not_answer() -> None:
    medium, clock = MemoryMedium(), FastClock()
    silent = medium.endpoint("server")
    silent.enable()
    with pytest.raises(TransportUnavailable, match="within 3 s"):
        WirePort(medium.endpoint("host"), "server", name="wire:x", clock=clock, connect_s=3.0)
    assert clock.monotonic() >= 3.0
    silent.queue.close()


def test_messages_that_are_too_small() -> None:
    medium = MemoryMedium(max_msg_size=63)
    with pytest.raises(TransportUnavailable, match="64 at least"):
        WirePort(medium.endpoint("host"), "server", name="wire:x")


def test_the_server_restarts_and_the_next_request_works(station: WireStation) -> None:
    medium = station.medium
    port = station.port(clock=FastClock(), connect_s=100.0)
    with i2o.open(port) as iop, iop.block() as disk:
        disk.write(0, b"a" * 4096)
        for is_quiet in (True, False):
            station.kill() if is_quiet else station.close()
            station = WireStation(medium=medium)
            time.sleep(0.01)  # as long as the port believes what it saw last
            disk.write(4096, b"b" * 4096)
            assert disk.read(4096, 4096) == b"b" * 4096
            assert not any(disk.read(0, 4096)), "it is another disk in memory"
        assert port.sessions == 3
    station.close()


def test_while_the_server_is_away_it_is_said_so(station: WireStation) -> None:
    with i2o.open(station.port(connect_s=0.2)) as iop, iop.block() as disk:
        station.kill()
        with pytest.raises((RequestFailed, IopDead)):
            disk.status_check()
        with pytest.raises(IopDead, match="wire:host: "):
            disk.status_check()
        with pytest.raises(IopDead, match="revive it"):
            iop.layer.check(iop.number)


def test_a_server_that_stopped_answering_is_noticed_by_who_waits() -> None:
    medium, clock = MemoryMedium(), FastClock()
    station = WireStation(medium=medium)
    with station.port(clock=clock, connect_s=100.0) as port:
        station.thread.close()
        assert not port.wait(4.0)
        with pytest.raises(IopDead, match="has not answered for 10 s"):
            for _ in range(100):
                port.wait(1.0)
        assert port.next_deadline_ns() is None
    station.close()


def test_a_server_that_answers_is_not_given_up_by_who_seldom_waits(station: WireStation) -> None:
    """What was heard between two waits counts."""
    clock = FastClock()
    port = station.port(clock=clock, connect_s=100.0)
    with i2o.open(port) as iop, iop.block() as disk:
        check = BSA_STATUS_CHECK.build(target_address=disk.tid)
        for _ in range(12 * round(ANSWER_S)):
            clock.sleep(0.1)
            mfa = port.alloc()  # looks, without a question
            port.wait(0.0)
            port.write(mfa, check)
            port.post(mfa)
            while (reply := port.reap()) == EMPTY:
                time.sleep(0.0001)
            assert not port.memory.read(reply, 20)[19]
            port.release(reply)
        assert port.sessions == 1


def test_a_server_that_was_killed_is_noticed_by_who_waits_for_a_second(
    station: WireStation,
) -> None:
    """All that was sent has arrived: nothing but a question finds out."""
    with station.port(clock=FastClock(), connect_s=100.0) as port:
        port.fileno()
        assert not port.wait(0.1)
        station.medium.kill("server")
        with pytest.raises(IopDead, match="gone"):
            for _ in range(4):
                port.wait(1.0)


def test_before_a_request_after_a_pause_it_is_asked_whether_anybody_is_there() -> None:
    medium, clock = MemoryMedium(), FastClock()
    station = WireStation(medium=medium)
    with station.port(clock=clock, connect_s=100.0) as port:
        station.thread.close()
        clock.sleep(1)
        with pytest.raises(IopDead, match="has not answered"):
            port.alloc()
    station.close()


def test_a_reset_that_is_not_answered_gives_the_link_up() -> None:
    medium, clock = MemoryMedium(), FastClock()
    station = WireStation(medium=medium)
    with station.port(clock=clock, connect_s=100.0) as port:
        station.thread.close()
        port.reset()
        with pytest.raises(IopDead, match="did not reset it"):
            port.reap()
        port.reset()
    with pytest.raises(IopDead, match="closed"):
        port.reconnect()
    assert port.fileno() == -1
    station.close()


@pytest.mark.parametrize("change", ["drop", "twice", "kind", "short"])
@pytest.mark.parametrize("to", ["host", "server"])
def test_packets_that_are_lost_or_damaged_end_the_session(
    station: WireStation, change: str, to: str
) -> None:
    armed = []

    def on_message(source: str, dest: str, data: bytes) -> list[bytes]:
        if dest != to or not armed or data[:2] == b"\0\0":
            return [data]
        armed.clear()
        return {
            "drop": [],
            "twice": [data, data],
            "kind": [data[:4] + b"\xff" + data[5:]],
            "short": [data[:3], data],
        }[change]

    medium = station.medium
    assert isinstance(medium, MemoryMedium)
    medium.on_message = on_message
    port = station.port(clock=FastClock(), connect_s=100.0)
    with i2o.open(port, timeout_s=50.0) as iop, iop.block() as disk:
        disk.write(0, b"x" * 4096)
        armed.append(1)
        if change == "short" and to == "server":
            disk.status_check()
            return
        with contextlib.suppress(RequestFailed, IopDead, RequestTimeout):
            disk.status_check()
        for _ in range(3):
            try:
                disk.status_check()
            except RequestFailed:
                continue
        assert disk.read(0, 512) is not None


def test_a_receive_that_failed_ends_the_session(
    station: WireStation, monkeypatch: pytest.MonkeyPatch
) -> None:
    # else it may be noticed before there is a request, which is none of its business then
    monkeypatch.setattr("i2o.transport.wire.wire_port._FRESH_NS", 10**12)
    with i2o.open(station.port()) as iop, iop.block() as disk:
        port = iop.layer.port(iop.number)
        assert isinstance(port, WirePort)
        endpoint = station.medium.ends["host"]  # type: ignore[attr-defined]
        endpoint.fail_receive(errno.EIO)
        endpoint.fail_receive(errno.EMSGSIZE)
        with pytest.raises((RequestFailed, IopDead)):
            disk.status_check()
            disk.status_check()
        disk.status_check()
        assert port.sessions == 2


def test_sends_that_have_to_wait(station: WireStation) -> None:
    with i2o.open(station.port()) as iop, iop.block() as disk:
        for end in ("host", "server"):
            station.medium.ends[end].stalled = 5  # type: ignore[attr-defined]
            assert disk.read(0, 1 << 16) == bytes(1 << 16)


def test_hosts_whose_address_is_not_told(station: WireStation) -> None:
    medium = station.medium
    assert isinstance(medium, MemoryMedium)
    medium.is_known = False
    with i2o.open(station.port("one")) as iop, iop.block() as disk:
        disk.write(512, b"y" * 512)
        with pytest.raises(TransportUnavailable, match="has a host already"):
            station.port("two")
        assert disk.read(512, 512) == b"y" * 512


@pytest.mark.parametrize("learns", [False, True])
def test_memory_that_the_host_did_not_tell_of_is_asked_for(
    station: WireStation, learns: bool
) -> None:
    port = station.port()
    if learns:
        port.learn(I2O_RULES)
    with i2o.open(port) as iop, iop.block() as disk:
        data = bytes(range(256)) * 8192
        disk.write(0, data)
        assert disk.read(0, len(data)) == data


def test_the_unit_alone() -> None:
    unit = WireUnit(frame_count=4, frame_size=64)
    assert unit.take_reply_frame() == EMPTY
    unit.post_reply(0x1000, bytes(16))
    with pytest.raises(DmaFault, match="there is no host"):
        unit.dma.read(0, 16)
    with pytest.raises(DmaFault):
        unit.dma.write(0x1000, b"1234")
    unit.dma.write(0x1000, b"")
    assert unit.dma.windows([(0, 4)], writable=False) is None
    assert unit.idle_inbound() == 4
    assert unit.idle_outbound() == unit.posted_outbound() == 0
    for count, size in ((0, 64), (1, 60), (1, 66), (1 << 16, 64)):
        with pytest.raises(LocalFrameError):
            WireUnit(frame_count=count, frame_size=size)


def test_greetings_that_make_no_sense(station: WireStation) -> None:
    stranger = station.medium.endpoint("stranger")
    stranger.enable()
    server = stranger.insert("server")

    def send(packet: bytes) -> None:
        stranger.sendmsg(i2o.transport.fabric.endpoint.Message([packet], server))  # type: ignore[attr-defined]

    good = {
        "magic": MAGIC,
        "version": 1,
        "window": 16,
        "packet_size": 4096,
        "token": 1,
        "name_length": 0,
    }
    kind = bytes((Kind.HELLO,))
    for odd in ({"magic": 1}, {"window": 1}, {"packet_size": 63}, {"version": 9}):
        send(lone_packet(NO_SESSION, kind + HELLO.build(**{**good, **odd})))
    send(lone_packet(NO_SESSION, kind))
    send(lone_packet(7, b"abc"))
    send(b"x")
    with i2o.open(station.port()) as iop:
        assert iop.status.state == IopState.OPERATIONAL
    assert station.server.refused == 1
    stranger.close()  # type: ignore[attr-defined]
    stranger.queue.close()  # type: ignore[attr-defined]


def half(**changes: int) -> HostHalf:
    fields = {
        "version": 1,
        "window": 16,
        "packet_size": 4096,
        "frame_count": 4,
        "frame_size": 64,
        "push_limit": 100,
    }
    welcome = WELCOME.new(**{**fields, **changes})
    misuse: list[str] = []
    made = HostHalf(Terms(welcome), StreamWriter(1, 16, 4096, 4), i2o_memory(), misuse.append)
    made.misuse = misuse  # type: ignore[attr-defined]
    return made


def i2o_memory():  # type: ignore[no-untyped-def]
    from i2o.transport.bus_space import BusSpace

    return BusSpace()


@pytest.mark.parametrize(
    "changes",
    [
        {"frame_size": 60},
        {"frame_size": 66},
        {"frame_count": 0},
        {"frame_count": 65535},
        {"window": 1},
        {"packet_size": 63},
        {"flags": 2, "size": 0},
        {"flags": 2, "base": 0xFFFFF000, "size": 0x2000},
    ],
)
def test_terms_that_no_iop_has(changes: dict[str, int]) -> None:
    with pytest.raises(i2o.errors.RemoteFrameError):
        half(**changes)


@pytest.mark.parametrize(
    "records",
    [
        [(Kind.FREE, 0)],
        [(Kind.FREE, 4)],
        [(Kind.PRESERVE, 0)],
        [(Kind.STATIC, 0, 3)],
        [(Kind.RENEW, 0)],
        [(Kind.TAKEN, 1)],
    ],
)
def test_what_a_device_may_not_say(records: list[tuple[int, ...]]) -> None:
    made = half()
    with pytest.raises(i2o.errors.RemoteFrameError):
        for kind, *fields in records:
            made.reader.feed(memoryview(record_packer(Kind(kind)).pack(kind, *fields)))


def test_memory_and_frames_that_are_not_the_devices() -> None:
    made = half()
    feed = made.reader.feed
    feed(memoryview(record_packer(Kind.REPLY).pack(Kind.REPLY, 0x1000, 0)))
    made.release(0x100000)
    feed(memoryview(record_packer(Kind.REPLY).pack(Kind.REPLY, 0x100000, 1) + bytes(4)))
    feed(memoryview(record_packer(Kind.WRITE).pack(Kind.WRITE, 0x100000, 4) + bytes(4)))
    made.release(0x100000)
    made.release(0x100000)
    made.release(0x100002)
    made.release(EMPTY)
    made.post(0x1000)
    assert len(made.misuse) == 7  # type: ignore[attr-defined]
    for bad in (0, 0x1001, 0x1100):
        with pytest.raises(LocalFrameError):
            made.write(bad, bytes(16))
        with pytest.raises(LocalFrameError):
            made.read_inbound(bad, 16)
    mfa = made.alloc()
    with pytest.raises(LocalFrameError, match="does not fit"):
        made.write(mfa, bytes(68))
    before = made.writer.queued
    feed(memoryview(record_packer(Kind.FETCH).pack(Kind.FETCH, 1, 0x100000, 4)))
    feed(memoryview(record_packer(Kind.STORE).pack(Kind.STORE, 2, 0x100000, 4) + bytes(4)))
    assert made.writer.queued == before + 2 * record_packer(Kind.DONE).size


def test_a_device_that_asks_for_too_much_at_a_time() -> None:
    made = half()
    buffer = made.memory.allocate(4096)
    ask = record_packer(Kind.FETCH).pack(Kind.FETCH, 1, buffer.bus_address, 4096)
    with pytest.raises(i2o.errors.RemoteFrameError, match="at a time"):
        made.reader.feed(memoryview(ask * 17))


def test_unknown_is_told_to_a_host_of_before(station: WireStation) -> None:
    with station.port() as port:
        record = bytes((Kind.UNKNOWN,)) + UNKNOWN.build(session=0)
        port.packet_arrived(0, memoryview(lone_packet(NO_SESSION, record)))
        port.packet_arrived(0, memoryview(lone_packet(NO_SESSION, b"")))
        port.packet_arrived(0, memoryview(lone_packet(99, b"late")))
        assert port.alloc() != EMPTY
        assert Packet([b""], []).is_followed is False
