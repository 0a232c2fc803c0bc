# SPDX-License-Identifier: Apache-2.0
"""How programs find an IOP in shared memory, have it in turn, and what becomes of liars."""

from __future__ import annotations

import errno
import os
import random
import select
import socket
import stat
import struct
import threading

import pytest

from fakes.shm_pair import CARRIED, carry, needs_rings
from fakes.shm_serving import Serving
from i2o.clock import SYSTEM_CLOCK
from i2o.errors import IopDead, RemoteFrameError, TransportUnavailable, UriError
from i2o.frames import block_storage as bsa
from i2o.frames.tables import IopState
from i2o.opening import open as open_iop
from i2o.testing.bare_host import BareHost
from i2o.transport import EMPTY, open_port
from i2o.transport.registry import find_iops
from i2o.transport.shm import greeting
from i2o.transport.shm.greeting import Hello, Mode, Refusal, Refused, Welcome, close_all, hear, say
from i2o.transport.shm.link import own_modes, take
from i2o.transport.shm.records import PACKET, Word
from i2o.transport.shm.rendezvous import Meeting, connect, folder, greet, listen, names, path_of
from i2o.transport.shm.segment import Segment, Shape

CHECK = bsa.BSA_STATUS_CHECK.build(target_address=0x010)


@pytest.fixture(params=CARRIED)
def carried(request, monkeypatch):
    carry(request.param, monkeypatch)
    return request.param


@pytest.fixture
def serving(carried):
    with Serving() as made:
        yield made


def found(name: str = "test"):
    return next(iop for iop in find_iops() if iop.uri == f"shm:{name}")


# --- one after another ---------------------------------------------------------------------------


def test_hosts_have_the_iop_one_after_another(serving):
    for _ in range(3):
        with open_iop("shm:test") as iop, iop.block() as disk:
            disk.write(0, b"mark" * 128)
            assert disk.read(0, 4) == b"mark"
            assert serving.iop.soft_iop.state == IopState.OPERATIONAL
    _until(lambda: not serving.server.host.is_connected)
    assert serving.iop.soft_iop.state == IopState.RESET
    assert serving.iop.unit.idle_outbound() == 0


def test_a_second_host_is_told_who_has_it(serving):
    with open_port("shm:test"):
        for _ in range(2):
            with pytest.raises(TransportUnavailable, match=f"in use by PID {os.getpid()}"):
                open_port("shm:test")
        (obstacle,) = found().obstacles
        assert f"PID {os.getpid()}" in obstacle.reason
    _until(lambda: not serving.server.host.is_connected)
    open_port("shm:test").close()


def _until(done) -> None:
    end = SYSTEM_CLOCK.monotonic() + 30
    while not done():
        assert SYSTEM_CLOCK.monotonic() < end
        SYSTEM_CLOCK.sleep(0.001)


def test_a_host_that_vanishes_makes_room_for_the_next(serving):
    port = open_port("shm:test")
    host = BareHost(port)
    host.init_outbound()
    for context in range(5):
        host.post(bsa.BSA_STATUS_CHECK.build(target_address=0x010, transaction_context=context))
    assert serving.iop.soft_iop.state == IopState.HOLD
    port.half._channel.close()  # as the kernel does for a process that was killed
    _until(lambda: not serving.server.host.is_connected)
    assert serving.iop.soft_iop.state == IopState.RESET
    with open_iop("shm:test") as iop:
        assert iop.status.state_name == "OPERATIONAL"
    port.close()


def test_a_server_that_vanishes_is_a_dead_iop(serving):
    with open_port("shm:test") as port:
        host = BareHost(port)
        host.init_outbound()
        serving.vanish()
        with pytest.raises(IopDead, match="gone"):
            while True:
                port.reap()
        assert select.select([port.fileno()], [], [], 10)[0]
        port.reset()


def test_every_outstanding_request_has_its_end_when_the_server_vanishes(serving):
    with open_iop("shm:test") as iop:
        ends: list[bool] = []
        serving.vanish_from_loop()
        for _ in range(5):
            iop.requester.start(CHECK, on_reply=lambda reply: ends.append(reply.failed))
        serving.server.host._channel.close()
        iop.layer.run_until(lambda: len(ends) == 5, 30)
        assert ends == [True] * 5


def test_an_iop_that_does_not_reset_is_let_go_of(serving, monkeypatch):
    monkeypatch.setattr("i2o.transport.shm.port.RESET_S", 0.05)
    with open_port("shm:test") as port:
        monkeypatch.setattr(serving.iop.unit, "take_power_cycle", lambda: False)
        port.reset()
        with pytest.raises(IopDead, match="let go"):
            port.alloc()
        assert select.select([port.fileno()], [], [], 0)[0]


def test_a_masked_port_tells_of_nothing(serving):
    with open_port("shm:test") as port:
        host = BareHost(port)
        host.init_outbound()
        descriptor = port.fileno()
        port.mask_interrupt(True)
        host.post(bsa.BSA_STATUS_CHECK.build(target_address=0x010))
        _until(lambda: serving.iop.soft_iop.counters.replies)
        assert not select.select([descriptor], [], [], 0)[0]
        port.mask_interrupt(False)
        assert select.select([descriptor], [], [], 30)[0]


def test_reply_frames_that_come_back_do_not_run_the_iop(serving):
    with open_port("shm:test") as port:
        host = BareHost(port)
        host.init_outbound()
        run, ran = serving.iop.soft_iop.run, []
        serving.iop.soft_iop.run = lambda *of: (ran.append(of), run(*of))[1]
        frame = port.memory.allocate(128)
        port.release(frame.bus_address)
        _until(lambda: serving.iop.unit._table.has_reply_frame(frame.bus_address))
        assert not ran
        host.post(bsa.BSA_STATUS_CHECK.build(target_address=0x010))
        _until(lambda: ran)


def test_a_spinning_pair():
    with Serving(spin_s=0.001), open_iop("shm:test?spin=1000") as iop, iop.block() as disk:
        for _ in range(50):
            assert disk.read(0, 512) == bytes(512)


# --- finding one another -------------------------------------------------------------------------


def test_what_is_served_is_found_and_not_disturbed(serving):
    iop = found()
    assert (iop.kind, iop.name, iop.obstacles) == ("shm", "i2o software IOP", ())
    assert iop.details == {"pid": os.getpid()}
    assert iop.address == str(folder() / "test.iop")
    assert not serving.server.host.is_connected
    assert list(names(Meeting.IOP)) == ["test"]
    assert list(names(Meeting.PEER)) == []


def test_nothing_is_found_without_a_folder():
    assert list(names(Meeting.IOP)) == []
    with pytest.raises(TransportUnavailable, match="nothing is served as 'none'") as caught:
        open_port("shm:none")
    assert caught.value.remedy == "start it: i2o emulate --serve shm:none"


def test_a_stale_socket_is_seen_and_replaced():
    listener = listen("test", Meeting.IOP)
    listener.socket.close()  # the process died
    (obstacle,) = found().obstacles
    assert "refused" in obstacle.reason
    with Serving():
        assert found().obstacles == ()
    assert not path_of("test", Meeting.IOP).exists()


def test_two_servers_of_one_name(serving):
    with pytest.raises(TransportUnavailable, match="somebody listens there"):
        listen("test", Meeting.IOP)
    open_port("shm:test").close()


def test_a_path_is_an_address(tmp_path, carried):
    path = tmp_path / "here"
    with Serving(name=str(path)):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        open_port(f"shm:{path}").close()
    assert not path.exists()


def test_the_folder_is_made_and_is_the_users_own(monkeypatch, tmp_path):
    listen("a", Meeting.IOP).close()
    assert stat.S_IMODE(folder().stat().st_mode) == 0o700
    folder().chmod(0o777)
    with pytest.raises(TransportUnavailable, match="not a folder of this user's alone"):
        listen("a", Meeting.IOP)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "file"))
    (tmp_path / "file").write_text("")
    with pytest.raises(TransportUnavailable, match="cannot be made"):
        listen("a", Meeting.IOP)
    monkeypatch.delenv("XDG_RUNTIME_DIR")
    assert folder().name == f"i2o-{os.geteuid()}"


@pytest.mark.parametrize("name", ["", ".", "..", ".a", "a b", "a\0b", "x" * 65, "ü", "a:b"])
def test_names_that_are_none(name):
    with pytest.raises(UriError):
        path_of(name, Meeting.IOP)


@pytest.mark.parametrize(
    "uri", ["shm:", "shm:a?spin=x", "shm:a?spin=-1", "shm:a?disk=b", "shm:a b"]
)
def test_uris_that_are_none(uri):
    with pytest.raises(UriError):
        open_port(uri)


def test_somebody_elses_socket_is_not_used(serving, monkeypatch):
    monkeypatch.setattr("i2o.transport.shm.rendezvous.may_share", lambda peer: False)
    with pytest.raises(TransportUnavailable, match="of user"):
        open_port("shm:test")


def test_somebody_elses_process_is_not_welcome(serving, monkeypatch):
    monkeypatch.setattr("i2o.transport.shm.server.may_share", lambda peer: False)
    with pytest.raises(TransportUnavailable, match="gives no welcome"):
        open_port("shm:test")


def test_who_may_share():
    assert greeting.may_share(greeting.Peer(1, os.geteuid()))
    assert greeting.may_share(greeting.Peer(1, 0))
    assert not greeting.may_share(greeting.Peer(1, os.geteuid() + 1))


# --- greetings -----------------------------------------------------------------------------------


def _pair():
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"x", "16"),
        (bytes(16), "begins with"),
        (struct.pack("<IHHII", greeting.MAGIC, 9, 1, 0, 0), "version 9"),
        (struct.pack("<IHHII", greeting.MAGIC, 1, 9, 0, 0), "of kind 9"),
        (struct.pack("<IHHII", greeting.MAGIC, 1, 3, 9, 0), "reason 9"),
        (struct.pack("<IHHII", greeting.MAGIC, 1, 2, 3, 0) + bytes(16), "way 3"),
        (struct.pack("<IHHII", greeting.MAGIC, 1, 2, 1, 0) + bytes(16), "0 descriptors"),
        (struct.pack("<IHHII", greeting.MAGIC, 1, 2, 1, 0), "16"),
        (bytes(greeting.MAX_GREETING + 1), "too long"),
    ],
)
def test_greetings_that_are_none(data, reason):
    near, far = _pair()
    with near, far:
        near.send(data)
        with pytest.raises(RemoteFrameError, match=reason):
            hear(far)


def test_descriptors_that_nobody_asked_for_are_closed():
    near, far = _pair()
    with near, far:
        head = struct.pack("<IHHII", greeting.MAGIC, 1, 1, 1, 0)
        socket.send_fds(near, [head], [0, 1])
        assert hear(far) == Hello(Mode.RINGS, "")
        socket.send_fds(near, [b"x" * 20], [0] * 9)
        with pytest.raises(RemoteFrameError):
            hear(far)


@pytest.mark.parametrize(
    "answer",
    [
        Hello(Mode.RINGS, ""),
        Refused(Refusal.UNABLE, 0, "no"),
        Refused(Refusal.BUSY, 7, "", "wait"),
    ],
)
def test_answers_that_are_no_welcome(answer):
    listener = listen("test", Meeting.IOP)
    end = connect("test", Meeting.IOP, 5)
    other, _ = listener.socket.accept()
    with end, other:
        say(other, answer)
        if isinstance(answer, Hello):
            with pytest.raises(TransportUnavailable, match="says hello itself"):
                greet(end, own_modes())
        else:
            assert greet(end, own_modes()) == answer
    listener.close()


def test_a_server_that_does_not_answer(monkeypatch):
    monkeypatch.setattr("i2o.transport.shm.port.CONNECT_S", 0.05)
    monkeypatch.setattr("i2o.transport.shm.discovery.ANSWER_S", 0.05)
    listener = listen("test", Meeting.IOP)
    with pytest.raises(TransportUnavailable, match="does not answer"):
        open_port("shm:test")
    (obstacle,) = found().obstacles
    assert "does not answer" in obstacle.reason
    listener.close()


@pytest.mark.parametrize(
    ("shape", "reason"),
    [
        (Shape(4, 128, 1000, 4096), "power of two"),
        (Shape(4, 128, 1 << 25, 4096), "power of two"),
        (Shape(4, 128, 4096, 100), "whole pages"),
        (Shape(4, 128, 4096, 1 << 31), "whole pages"),
        (Shape(4, 63, 4096, 4096), "whole words"),
        (Shape(1 << 20, 128, 4096, 4096), "do not fit"),
        (Shape(4, 128, 4096, 8192), "bytes, not"),
    ],
)
def test_segments_that_are_not_what_they_were_said_to_be(shape, reason):
    good = Shape(4, 128, 4096, 4096)
    segment, memory = Segment.make(good)
    segment.close()
    with pytest.raises(RemoteFrameError, match=reason):
        Segment.adopt(memory, shape)
    os.close(memory)


def test_memory_that_could_be_taken_away_is_refused():
    shape = Shape(0, 0, 4096, 0)
    memory = os.memfd_create("test", os.MFD_ALLOW_SEALING)
    os.ftruncate(memory, shape.size)
    with pytest.raises(RemoteFrameError, match="not sealed"):
        Segment.adopt(memory, shape)
    os.close(memory)
    reading, writing = os.pipe()
    with pytest.raises(RemoteFrameError, match="no memfd"):
        Segment.adopt(reading, shape)
    close_all([reading, writing])


@needs_rings
def test_what_is_handed_over_is_checked_and_closed():
    shape = Shape(0, 0, 4096, 0)
    near, far = _pair()
    segment, memory = Segment.make(shape)
    with near, far:
        pipe = os.pipe()
        with pytest.raises(RemoteFrameError, match="no eventfd"):
            take(near, Welcome(Mode.RINGS, shape, "", (memory, *pipe)), PACKET)
    segment.close()


def test_rings_that_were_not_offered(monkeypatch):
    carry("socket", monkeypatch)
    shape = Shape(0, 0, 4096, 0)
    near, far = _pair()
    segment, memory = Segment.make(shape)
    with near, far, pytest.raises(RemoteFrameError, match="not offered"):
        take(near, Welcome(Mode.RINGS, shape, "", (memory, *os.pipe())), PACKET)
    segment.close()


def test_a_server_whose_welcome_makes_no_sense():
    listener = listen("test", Meeting.IOP)
    shape = Shape(4, 128, 4096, 4096)

    def answer() -> None:
        other, _ = listener.socket.accept()
        segment, memory = Segment.make(shape)
        with other:
            hear(other)
            say(other, Welcome(Mode.SOCKET, shape._replace(arena_size=1 << 20), "", (memory,)))
        segment.close()
        os.close(memory)

    listener.socket.setblocking(True)
    thread = threading.Thread(target=answer, name="i2o-test-answer")
    thread.start()
    with pytest.raises(TransportUnavailable, match="bytes, not"):
        open_port("shm:test")
    thread.join()
    listener.close()


def test_a_server_that_tells_of_no_frames(monkeypatch):
    monkeypatch.setattr("i2o.transport.shm.port.CONNECT_S", 0.2)
    monkeypatch.setattr("i2o.transport.shm.unit.ShmUnit.refill", lambda unit: None)
    with Serving(), pytest.raises(TransportUnavailable, match="tells of no frames"):
        open_port("shm:test")


def test_a_server_that_refuses(serving, monkeypatch):
    def full(*arguments: object) -> None:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr("i2o.transport.shm.server.offer", full)
    with pytest.raises(TransportUnavailable, match="Too many open files"):
        open_port("shm:test")


def test_a_server_without_descriptors_lives(serving, monkeypatch):
    """It gives up one that has not said anything, and takes the next when it can."""
    silent = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    silent.connect(str(path_of("test", Meeting.IOP)))
    _until(lambda: len(serving.server._waiting) == 1)
    serving.vanish_from_loop()
    refusals = [OSError(errno.EMFILE, "?"), OSError(errno.EMFILE, "?")]

    class Full:
        def accept(self) -> None:
            raise refusals.pop() if refusals else BlockingIOError

    with monkeypatch.context() as patch:
        patch.setattr(serving.server._listener, "socket", Full())
        serving.server._accept()
    assert serving.server._waiting == []
    silent.close()


# --- hostile hosts and servers -------------------------------------------------------------------


def test_garbage_silence_and_crowds_stop_nobody(serving):
    ends = []
    for number in range(20):
        end = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        end.settimeout(30)
        end.connect(str(path_of("test", Meeting.IOP)))
        if number % 3 == 1:
            end.send(b"garbage" * number)
        elif number % 3 == 2:
            say(end, Refused(Refusal.BUSY, 1, "?"))
        ends.append(end)
        assert found().obstacles == ()
    for end in ends[1:3]:
        answer = hear(end)
        assert isinstance(answer, Refused)
        assert answer.code is Refusal.UNABLE
    with open_iop("shm:test") as iop:
        assert iop.status.state_name == "OPERATIONAL"
    for end in ends:
        end.close()


WORDS = [*Word, 0, 99, 0xFFFFFFFF]
NUMBERS = [0, 1, 4, 0x1000, 0x1200, 0x1001, 0x100000, 0x100004, 1 << 28, 0x7FFFFFFF, 0xFFFFFFFF]


def _nonsense(rng: random.Random) -> tuple[int, int, int]:
    def number() -> int:
        return rng.choice(NUMBERS) if rng.random() < 0.7 else rng.getrandbits(32)

    return rng.choice(WORDS), number(), number()


@pytest.mark.parametrize("seed", range(6))
def test_a_host_that_lies(serving, seed):
    """It ends, or is ended, and the next one finds the IOP as it should be."""
    rng = random.Random(seed)
    with connect("test", Meeting.IOP, 30) as end:
        welcome = greet(end, own_modes())
        assert isinstance(welcome, Welcome)
        link = take(end.dup(), welcome, PACKET)
    memory = link.segment.memory
    for _ in range(1500):
        try:
            link.channel.receive()
            if rng.random() < 0.8:
                link.channel.send_record(*_nonsense(rng))
            elif rng.random() < 0.5:
                link.channel.send(rng.randbytes(rng.randrange(100)))
            else:
                at = rng.choice([*range(0x100, 0x300, 4), rng.randrange(0x1000, 0x3000, 4)])
                struct.pack_into("<I", memory, at, rng.choice([*NUMBERS, rng.getrandbits(32)]))
        except Exception as error:
            assert type(error).__name__ == "PeerGone"
            break
    link.close()
    with open_iop("shm:test") as iop, iop.block() as disk:
        assert disk.read(0, 512) == bytes(512)


@pytest.mark.parametrize("seed", range(6))
def test_a_server_that_lies(carried, seed):
    """Whatever it says: the host gets an answer, or is told that the IOP is dead, in time."""
    rng = random.Random(seed)
    with Serving() as serving, open_port("shm:test") as port:
        host = BareHost(port)
        host.init_outbound()
        serving.vanish_from_loop()
        channel = serving.server.host._channel
        memory = serving.iop.unit._segment.memory
        for _ in range(800):
            try:
                if rng.random() < 0.7:
                    channel.send_record(*_nonsense(rng))
                else:
                    at = rng.choice([*range(0x100, 0x300, 4), rng.randrange(0x1000, 0x3000, 4)])
                    struct.pack_into("<I", memory, at, rng.choice([*NUMBERS, rng.getrandbits(32)]))
                mfa = port.alloc()
                if mfa != EMPTY:
                    port.write(mfa, CHECK)
                    port.post(mfa)
                port.reap()
                channel.receive()
            except IopDead:
                break
            except Exception as error:
                assert type(error).__name__ == "PeerGone"
                break


def test_a_server_that_ends_while_it_is_looked_for_is_an_obstacle(monkeypatch):
    """Its socket was there when the folder was read."""
    path_of("gone", Meeting.IOP).parent.mkdir(parents=True, mode=0o700, exist_ok=True)
    monkeypatch.setattr("i2o.transport.shm.discovery.names", lambda meeting: ["gone"])
    iop = found("gone")
    assert (iop.name, iop.address) == (
        "IOP of another process",
        str(path_of("gone", Meeting.IOP)),
    )
    assert len(iop.obstacles) == 1


def test_a_server_that_welcomes_whoever_only_asks_is_asked_all_the_same(monkeypatch):
    handed = os.eventfd(0)
    answer = Welcome(Mode.SOCKET, Shape(4, 128, 1 << 16, 0), "a strange one", (handed,))
    monkeypatch.setattr("i2o.transport.shm.discovery.greet", lambda end, modes: answer)
    with Serving():
        iop = found()
    assert (iop.name, iop.obstacles) == ("a strange one", ())
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(handed)


@pytest.mark.parametrize("spin_s", [0.0, 0.001])
def test_a_server_without_news_sleeps(carried, spin_s):
    """Whatever carries its packets: what it returns is when to run again, None for never."""
    with Serving(spin_s=spin_s) as serving, open_port("shm:test") as port:
        serving.vanish_from_loop()
        while serving.server.run(SYSTEM_CLOCK.monotonic_ns()) is not None:
            serving.server.handle()  # what was told when the port was opened
        assert port.alloc() != EMPTY
        assert serving.server.run(SYSTEM_CLOCK.monotonic_ns()) is None
