# SPDX-License-Identifier: Apache-2.0
"""Frames over serial lines: ptys, sockets and loops as pyserial opens them."""

from __future__ import annotations

import errno
import os
import random
import select
import socket
import sys
import termios
import threading
from contextlib import ExitStack
from dataclasses import replace

import pytest

from fakes.noisy_line import Noise
from fakes.pty_cable import PtyCable
from fakes.recording_sink import PATIENCE_S, RecordingSink
from i2o.clock import SYSTEM_CLOCK, ManualClock
from i2o.errors import TransportUnavailable, UriError
from i2o.transport.fabric.errors import FabricError
from i2o.transport.registry import open_endpoint, open_listener
from i2o.transport.serial_line.carrier import SerialCarrier
from i2o.transport.serial_line.line import LineGone, LineSettings, ThreadedLine, open_line
from i2o.transport.serial_line.link import LinkState
from i2o.transport.serial_line.link_frames import read_frame
from i2o.transport.serial_line.link_options import LinkOptions

FAST = 4_000_000
QUICK = LinkOptions(hello_s=0.02, connect_s=2.0)


class End(RecordingSink):
    """A carrier and what it told."""

    def __init__(self, device: str, options: LinkOptions = QUICK, baud: int = FAST, **more) -> None:
        super().__init__()
        self.carrier = SerialCarrier(
            LineSettings(device, baud=baud), options=options, linger_s=0.01, **more
        )
        self.carrier.open(self)

    def send(self, frame: bytes, *others: End, peer: int = 0) -> None:
        until(lambda: self.carrier.send(peer, [frame], frame), self, *others)


def until(look, *ends: End) -> None:
    """Drive the ends, waiting for their descriptors and deadlines as an engine does."""
    deadline = SYSTEM_CLOCK.monotonic() + PATIENCE_S
    while not look():
        now = SYSTEM_CLOCK.monotonic_ns()
        due = [end.carrier.next_deadline_ns() for end in ends]
        wait_s = min([max(0, (time - now) / 1e9) for time in due if time is not None], default=1)
        select.select([end.carrier.fileno() for end in ends], [], [], min(wait_s, 0.2))
        for end in ends:
            end.carrier.progress()
        assert SYSTEM_CLOCK.monotonic() < deadline, "it never came to that"


@pytest.fixture
def stack():
    with ExitStack() as opened:
        yield opened


@pytest.fixture
def cable(tmp_path, stack):
    return stack.enter_context(PtyCable(tmp_path))


@pytest.fixture
def ends(cable, stack):
    made = [End(device) for device in cable.devices]
    for end in made:
        stack.enter_context(end.carrier)
    return made


def test_frames_in_both_directions(ends, cable):
    a, b = ends
    assert a.carrier.name == f"serial:{cable.devices[0]}"
    assert a.carrier.resolve(a.carrier.name) == a.carrier.resolve(b.carrier.name) == 0
    assert a.carrier.address_of(0) == a.carrier.name
    assert not a.carrier.send(0, [b"early"]), "there is no link yet"
    until(lambda: a.events, a, b)
    a.send(b"one", b)
    assert a.carrier.send(0, [b"two ", memoryview(b"parts")], "token")
    big = bytes(range(256)) * 16
    b.send(big, a)
    until(lambda: len(b.frames) == 2 and a.frames, a, b)
    assert b.frames == [(0, b"one"), (0, b"two parts")]
    assert a.frames == [(0, big)]
    assert a.events == [("up", 0), ("room", 0)]
    assert a.sent == [(0, b"one"), (0, "token")]
    with pytest.raises(FabricError) as caught:
        a.carrier.send(0, [b"x" * 4097])
    assert caught.value.errno == errno.EMSGSIZE
    for address in ("", "serial:", "serial:\0"):
        with pytest.raises(FabricError):
            a.carrier.resolve(address)


def test_a_noisy_line(tmp_path, stack):
    noise = Noise(bit_errors=3e-5, dropped=1e-4, doubled=1e-4, lost_frames=0.1, garbage=0.05)
    cable = stack.enter_context(PtyCable(tmp_path, noise))
    a, b = (End(device) for device in cable.devices)
    stack.enter_context(a.carrier)
    stack.enter_context(b.carrier)
    source = random.Random(5)
    frames = [source.randbytes(source.randrange(1, 4096)) for _ in range(60)]
    todo = {a: list(frames), b: list(reversed(frames))}

    def look() -> bool:
        for end, waiting in todo.items():
            while waiting and end.carrier.send(0, [waiting[0]]):
                waiting.pop(0)
        return len(a.frames) == len(b.frames) == len(frames)

    until(look, a, b)
    assert [frame for _, frame in b.frames] == frames
    assert [frame for _, frame in a.frames] == frames[::-1]
    assert a.carrier.link(0).outgoing.repeated
    assert [event for event in a.events if event[0] != "room"] == [("up", 0)]


def test_a_line_that_is_full_is_waited_for(ends, cable):
    """Nothing is lost, and nobody spins, while the line takes no more."""
    a, b = ends
    a.send(b"up", b)
    until(lambda: b.frames, a, b)
    way = a.carrier._ways[0]
    line, limits = way._line, [0, 0]

    class Full:
        wants_write_events = True

        def write(self, data) -> int:
            limits[0] += 1
            return 0 if limits[0] == 1 else line.write(bytes(data[:7]))

        fileno, read, close = line.fileno, line.read, line.close

    way._line = Full()
    assert a.carrier.send(0, [b"slowly but surely"])
    assert way._is_blocked
    assert a.carrier.next_deadline_ns() > SYSTEM_CLOCK.monotonic_ns()
    until(lambda: len(b.frames) == 2, a, b)
    assert b.frames[1][1] == b"slowly but surely"
    assert not way._is_blocked


def test_unplugged_and_plugged_in_again(ends, cable):
    a, b = ends
    a.send(b"before", b)
    until(lambda: b.frames, a, b)
    cable.unplug()
    until(lambda: ("lost", 0, errno.ENODEV) in a.events, a, b)
    until(lambda: ("lost", 0, errno.ENODEV) in b.events, a, b)
    a.carrier.send(0, [b"nowhere"])
    until(lambda: a.events.count(("lost", 0, errno.ENODEV)) == 2, a)
    assert cable.devices[0] in a.reasons[-1]
    cable.plug()
    a.send(b"after", b)
    until(lambda: len(b.frames) == 2, a, b)
    assert b.frames[1] == (0, b"after")
    assert a.events[-2:] == [("up", 0), ("room", 0)]


def test_what_a_write_finds_out_is_told_later(ends, cable):
    a, b = ends
    a.send(b"before", b)
    way = a.carrier._ways[0]
    way._watch.unregister(way.descriptor)  # as if nothing was heard of it yet
    way._watch.register(way.descriptor, 0)
    cable.unplug()
    assert a.carrier.send(0, [b"x"])
    assert a.events[-1][0] != "lost"
    until(lambda: a.events[-1] == ("lost", 0, errno.ENODEV), a)
    assert select.select([a.carrier.fileno()], [], [], 0)[0] == []


def test_disconnecting(ends):
    a, b = ends
    a.send(b"hello", b)
    until(lambda: b.frames, a, b)
    a.carrier.disconnect(0)
    until(lambda: ("lost", 0, errno.ECONNRESET) in b.events, a, b)
    assert not [event for event in a.events if event[0] == "lost"]
    b.send(b"again", a)
    until(lambda: a.frames, a, b)


def test_who_disconnects_in_the_middle_hears_no_more(ends):
    a, b = ends
    a.send(b"up", b)
    until(lambda: b.frames, a, b)
    b.on_frame = lambda peer, frame: b.carrier.disconnect(peer)
    for number in range(3):
        a.carrier.send(0, [b"%d" % number])
    until(lambda: ("lost", 0, errno.ECONNRESET) in a.events, a, b)
    assert len(b.frames) == 2


def test_closing_waits_until_it_arrived(cable, stack):
    a = End(cable.devices[0])
    a.carrier._linger_ns = 5_000_000_000
    b = End(cable.devices[1])
    stack.enter_context(b.carrier)
    a.send(b"up", b)
    until(lambda: b.frames, a, b)
    b.carrier._sink, quiet = None, b.carrier._sink  # it answers nothing meanwhile
    for _ in range(5):
        assert a.carrier.send(0, [b"x" * 3000])
    b.carrier._sink = quiet
    closing = threading.Thread(target=a.carrier.close)
    closing.start()
    until(lambda: ("lost", 0, errno.ECONNRESET) in b.events, b)
    closing.join()
    assert len(b.frames) == 6
    a.carrier.close()
    assert a.carrier.fileno() == -1


def test_several_lines(tmp_path, stack):
    """One endpoint, two cables: peers do not mix."""
    first = stack.enter_context(PtyCable(tmp_path, names=("a", "b")))
    second = stack.enter_context(PtyCable(tmp_path, names=("c", "d")))
    a = End(first.devices[0], is_single=False)
    b, d = End(first.devices[1]), End(second.devices[1])
    for end in (a, b, d):
        stack.enter_context(end.carrier)
    peer = a.carrier.resolve(f"serial:{second.devices[0]}")
    assert (peer, a.carrier.address_of(peer)) == (1, f"serial:{second.devices[0]}")
    a.send(b"to b", b, d)
    a.send(b"to d", b, d, peer=peer)
    until(lambda: b.frames and d.frames, a, b, d)
    b.send(b"from b", a, d)
    d.send(b"from d", a, b)
    until(lambda: len(a.frames) == 2, a, b, d)
    assert sorted(a.frames) == [(0, b"from b"), (1, b"from d")]


def test_nobody(cable, stack):
    a = End(cable.devices[0], replace(QUICK, connect_s=0.05))
    stack.enter_context(a.carrier)
    a.carrier.send(0, [b"x"])
    until(lambda: a.events == [("lost", 0, errno.EHOSTUNREACH)], a)


# --- kinds of lines -------------------------------------------------------------------------------


def test_a_loop_is_noticed(stack):
    """Without a descriptor of its own: a thread reads."""
    a = End("loop://", replace(QUICK, connect_s=0.1))
    stack.enter_context(a.carrier)
    a.carrier.send(0, [b"x"])
    until(lambda: a.events, a)
    assert a.events == [("lost", 0, errno.EHOSTUNREACH)]
    assert "sends back" in a.reasons[0]


def test_a_terminal_server(stack):
    with socket.create_server(("127.0.0.1", 0)) as server:
        a = End(f"socket://127.0.0.1:{server.getsockname()[1]}")
        stack.enter_context(a.carrier)
        other, _ = server.accept()
    with other:
        a.carrier.send(0, [b"x"])
        a.carrier.progress()
        other.settimeout(PATIENCE_S)
        assert read_frame(other.recv(100).strip(b"\0")).echo == 0
    until(lambda: a.events == [("lost", 0, errno.ENODEV)], a)


def test_a_pyserial_line_without_descriptor_ends(stack):
    class Port:
        in_waiting = 0

        def read(self, size: int) -> bytes:
            raise OSError("gone")

        def write(self, data: bytes) -> None:
            raise OSError("gone")

        def close(self) -> None:
            pass

    line = ThreadedLine(Port())
    line._threads[0].join()
    for call in (line.read, lambda: line.write(b"x")):
        with pytest.raises(LineGone):
            call()
    line.close()
    line.close()


def test_a_thread_reads_no_more_than_is_taken():
    class Flood:
        in_waiting = 1
        reads = 0

        def read(self, size: int) -> bytes:
            self.reads += 1
            return b"x"

        def close(self) -> None:
            pass

    flood = Flood()
    line = ThreadedLine(flood)
    try:
        found = 0
        while found < 200:
            assert select.select([line.fileno()], [], [], PATIENCE_S)[0]
            before = flood.reads
            found += len(line.read())
            assert before - found <= 64
    finally:
        line.close()
    assert flood.reads - found <= 64


class SlowPort:
    """Takes bytes when it is allowed to."""

    in_waiting = 0

    def __init__(self) -> None:
        self.may_write, self.is_closed = threading.Event(), threading.Event()
        self.written = bytearray()

    def read(self, size: int) -> bytes:
        self.is_closed.wait(0.01)
        return b""

    def write(self, data: bytes) -> None:
        self.may_write.wait(PATIENCE_S)
        if self.is_closed.is_set():
            raise OSError("closed")
        self.written += data

    def close(self) -> None:
        self.is_closed.set()
        self.may_write.set()


def test_who_writes_to_a_slow_port_does_not_wait():
    port = SlowPort()
    line = ThreadedLine(port)
    data = bytes(range(256)) * 64
    sent = line.write(data)
    assert 0 < sent < len(data), "no more than a little waits"
    assert line.write(data[sent:]) == 0
    port.may_write.set()
    while sent < len(data):
        assert select.select([line.fileno()], [], [], PATIENCE_S)[0], "room is told"
        assert line.read() == b""
        sent += line.write(data[sent:])
    line.close()
    assert port.written == data, "closing writes what is left"


def test_the_last_words_are_written_before_a_port_is_closed():
    class Late(SlowPort):
        def write(self, data: bytes) -> None:
            line._threads[0].join()  # the line is being closed
            assert not self.is_closed.wait(0.1)
            self.written += data

    port = Late()
    line = ThreadedLine(port)
    line.write(b"bye")
    line.close()
    assert port.written == b"bye"
    with pytest.raises(LineGone, match="is closed"):
        line.write(b"nor this")


def test_a_port_that_takes_nothing_can_be_closed():
    port = SlowPort()
    line = ThreadedLine(port)
    line.write(b"never")
    line.close()
    assert not any(thread.is_alive() for thread in line._threads)
    assert port.written == b""


def test_a_port_that_fails_while_writing_is_gone():
    class Failing(SlowPort):
        def write(self, data: bytes) -> None:
            raise OSError("pulled")

    line = ThreadedLine(Failing())
    line.write(b"x")
    line._threads[1].join()
    with pytest.raises(LineGone, match="pulled"):
        line.write(b"y")
    with pytest.raises(LineGone, match="pulled"):
        line.read()
    line.close()


def test_lines_that_cannot_be_opened(tmp_path, cable, monkeypatch):
    for address, words in (
        (str(tmp_path / "none"), "serial/by-id"),
        ("nonsense://x", "address that pyserial takes"),
        ("socket://127.0.0.1", "HOST:PORT"),
        ("/dev/null", "address that pyserial takes"),
        ("hwgrep://[", "address that pyserial takes"),
    ):
        with pytest.raises(TransportUnavailable) as caught:
            open_line(LineSettings(address))
        assert words in f"{caught.value.reason} {caught.value.remedy}"
    line = open_line(LineSettings(cable.devices[0]))
    with pytest.raises(TransportUnavailable, match="in use"):
        open_line(LineSettings(cable.devices[0]))
    line.close()
    line.close()
    monkeypatch.setitem(sys.modules, "serial", None)
    with pytest.raises(TransportUnavailable) as caught:
        open_line(LineSettings(cable.devices[0]))
    assert "pip install" in caught.value.remedy


def test_a_device_of_another_group(monkeypatch):
    import serial

    def refuse(*_args, **_options):
        raise PermissionError(errno.EACCES, "could not open port")

    monkeypatch.setattr(serial, "serial_for_url", refuse)
    with pytest.raises(TransportUnavailable) as caught:
        open_line(LineSettings("/dev/ttyS0"))
    assert "dialout" in caught.value.remedy


def test_a_break_is_a_zero(cable):
    """And does not end the program, whatever the terminal was set to before."""
    descriptor = os.open(cable.devices[0], os.O_RDWR | os.O_NOCTTY)
    modes = termios.tcgetattr(descriptor)
    modes[0] |= termios.BRKINT | termios.IGNBRK
    termios.tcsetattr(descriptor, termios.TCSANOW, modes)
    line = open_line(LineSettings(cable.devices[0]))
    modes = termios.tcgetattr(descriptor)
    line.close()
    os.close(descriptor)
    assert not modes[0] & (termios.BRKINT | termios.IGNBRK | termios.PARMRK | termios.IXON)


# --- URIs -----------------------------------------------------------------------------------------


def test_uris(cable):
    device = cable.devices[0]
    with open_endpoint(f"serial:{device}?baud=57600&frame_limit=512&type=msg") as endpoint:
        assert endpoint.name == f"serial:{device}"
        assert endpoint.attributes.provider == "serial"
        carrier = endpoint._engine.carrier
        assert (carrier.frame_limit, carrier._settings.baud) == (512, 57600)
        assert carrier.link(0).state is LinkState.DOWN
    open_listener(f"serial:{device}").close()
    for wrong in (
        "serial:",
        f"serial:{device}?type=x",
        f"serial:{device}?baud=1",
        f"serial:{device}?frame_limit=64",
        f"serial:{device}?what=1",
    ):
        with pytest.raises(UriError):
            open_endpoint(wrong)


def test_closing_from_within(ends):
    """Who closes the carrier while it tells of something hears no more."""
    a, b = ends
    a.send(b"up", b)
    until(lambda: b.frames, a, b)
    b.on_frame = lambda peer, frame: b.carrier.close()
    for number in range(3):
        a.carrier.send(0, [b"%d" % number])
    while b.carrier.fileno() >= 0:
        select.select([b.carrier.fileno()], [], [], PATIENCE_S)
        b.carrier.progress()
    until(lambda: ("lost", 0, errno.ECONNRESET) in a.events, a)
    assert len(b.frames) == 2
    b.carrier.progress()


def test_a_clock_that_is_moved_by_hand(cable):
    """Closing waits on the clock that there is, for no longer than it should."""
    clock = ManualClock()
    a = End(cable.devices[0], replace(QUICK, ack_s=0.0), clock=clock)
    b = End(cable.devices[1], replace(QUICK, ack_s=0.0), clock=clock)
    deadline = SYSTEM_CLOCK.monotonic() + PATIENCE_S
    while not (a.carrier.send(0, [b"x"]) or SYSTEM_CLOCK.monotonic() > deadline):
        clock.advance(0.001)
        a.carrier.progress()
        b.carrier.progress()
    assert a.events[0] == ("up", 0)
    before = clock.monotonic()
    a.carrier.close()
    assert 0 < clock.monotonic() - before < 1
    b.carrier.close()
