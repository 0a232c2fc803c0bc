# SPDX-License-Identifier: Apache-2.0
"""The control socket: who may connect, what clients can do to it, and who serves it when."""

from __future__ import annotations

import errno
import json
import random
import select
import socket
import stat
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

import i2o
from fakes.iop_rig import DISK, Rig
from i2o.clock import ManualClock, SystemClock
from i2o.errors import TransportUnavailable, UriError
from i2o.frames.utility import UTIL_EVENT_REGISTER
from i2o.iop_emulator import emu_port
from i2o.iop_emulator.control_socket import MAX_CLIENTS, MAX_LINE, ControlSocket
from i2o.iop_emulator.emu_port import EmuPort
from i2o.transport import open_port

PATIENCE_S = 30


class Server:
    """A control socket that notes its commands and answers with them."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.control = ControlSocket(str(path))
        self.commands: list[str] = []
        self.reply: dict[str, object] = {}

    def run(self, line: str) -> dict[str, object]:
        self.commands.append(line)
        return {"ok": True, "line": line, **self.reply}

    def serve(self) -> int:
        """Serve until there is nothing to do; return how often that was."""
        count = 0
        while self.control.wait(0):
            self.control.serve(self.run)
            count += 1
            assert count < 20_000
        return count

    def connect(self) -> socket.socket:
        end = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        end.settimeout(PATIENCE_S)
        end.connect(str(self.path))
        return end

    def ask(self, end: socket.socket, data: bytes) -> list[dict]:
        end.sendall(data)
        self.serve()
        return answers(end)

    @property
    def clients(self) -> int:
        return len(self.control._clients)


def answers(end: socket.socket) -> list[dict]:
    """Return the answers that are there."""
    said = b""
    end.setblocking(False)
    try:
        while part := end.recv(1 << 16):
            said += part
    except (BlockingIOError, ConnectionResetError):
        pass
    end.settimeout(PATIENCE_S)
    return [json.loads(line) for line in said.splitlines()]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    made = Server(tmp_path / "s")
    yield made
    made.control.close()


@pytest.fixture
def client(server: Server) -> Iterator[socket.socket]:
    with server.connect() as end:
        yield end


# --- the file ------------------------------------------------------------------------------------


def test_only_its_owner_may_connect(server) -> None:
    mode = server.path.lstat().st_mode
    assert (stat.S_ISSOCK(mode), stat.S_IMODE(mode)) == (True, 0o600)
    server.control.close()
    server.control.close()
    assert not server.path.exists()


def test_a_live_socket_is_not_replaced(server) -> None:
    with pytest.raises(TransportUnavailable, match=r"somebody listens there \(stop that one"):
        ControlSocket(str(server.path))
    with server.connect() as end:
        assert server.ask(end, b"a\n")[0]["ok"]


def test_what_a_dead_process_left_is_replaced(tmp_path) -> None:
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as dead:
        dead.bind(str(path))
    with ControlSocket(str(path)):
        assert stat.S_IMODE(path.lstat().st_mode) == 0o600
    assert not path.exists()


def test_files_that_are_no_socket_are_left_alone(tmp_path) -> None:
    path = tmp_path / "s"
    path.write_text("precious")
    with pytest.raises(TransportUnavailable, match="it exists and is no socket"):
        ControlSocket(str(path))
    assert path.read_text() == "precious"
    link = tmp_path / "link"
    link.symlink_to(path)
    with pytest.raises(TransportUnavailable, match="it exists and is no socket"):
        ControlSocket(str(link))


@pytest.mark.parametrize("path", ["x" * 200, "no/such/folder/s"])
def test_paths_that_cannot_be(path: str, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(TransportUnavailable, match="folder you can write to"):
        ControlSocket(path)


def test_a_socket_of_another_kind_is_left_alone(tmp_path) -> None:
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other:
        other.bind(str(path))
        with pytest.raises(TransportUnavailable, match="wrong type"):
            ControlSocket(str(path))
    assert path.exists()


def test_closing_leaves_the_socket_of_somebody_else(server) -> None:
    server.path.unlink()
    with ControlSocket(str(server.path)) as other:
        server.control.close()
        assert server.path.exists()
        assert other.fileno() >= 0
    assert not server.path.exists()


def test_the_socket_is_removed_wherever_the_process_is_by_then(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    control = ControlSocket("s")
    monkeypatch.chdir("/")
    control.close()
    assert not (tmp_path / "s").exists()


# --- clients -------------------------------------------------------------------------------------


def test_a_line_a_command_a_line_an_answer(server, client) -> None:
    said = server.ask(client, b"one\r\n\n  \ntwo \xc3\xa4\nthr")
    assert [answer["line"].strip() for answer in said] == ["one", "two ä"]
    assert [answer["line"] for answer in server.ask(client, b"ee\n")] == ["three"]
    assert server.ask(client, b"\xff\n") == [{"ok": False, "error": "a command is UTF-8 text"}]


def test_one_command_of_each_client_at_a_time(server) -> None:
    with server.connect() as first, server.connect() as second:
        server.serve()
        first.sendall(b"a\n" * 5)
        second.sendall(b"b\n" * 3)
        server.serve()
        assert "".join(server.commands) == "abababaa"


def test_half_a_line_is_no_command(server, client) -> None:
    client.sendall(b"remove 0x01")
    client.shutdown(socket.SHUT_WR)
    server.serve()
    assert (server.commands, server.clients) == ([], 0)


def test_a_client_that_says_all_and_listens(server, client) -> None:
    client.sendall(b"a\nb\nc")
    client.shutdown(socket.SHUT_WR)
    server.serve()
    assert [answer["line"] for answer in answers(client)] == ["a", "b"]
    assert server.clients == 0


def test_commands_of_a_client_that_is_gone_are_run(server) -> None:
    with server.connect() as end:
        end.sendall(b"a\n")
    server.serve()
    assert (server.commands, server.clients) == (["a"], 0)


@pytest.mark.parametrize("length", [MAX_LINE, MAX_LINE + 1, 10 * MAX_LINE])
@pytest.mark.parametrize("end_of_line", [b"", b"\n"])
def test_lines_that_are_too_long(server, client, length: int, end_of_line: bytes) -> None:
    client.sendall(b"x" * length + end_of_line)
    server.serve()
    (answer,) = answers(client)
    assert answer == {"ok": False, "error": f"a command has at most {MAX_LINE - 1} bytes"}
    assert (server.commands, server.clients) == ([], 0)


def test_the_longest_line(server, client) -> None:
    assert server.ask(client, b"x" * (MAX_LINE - 1) + b"\n")[0]["ok"]


def test_a_client_that_does_not_read_is_not_read_from(server, client) -> None:
    server.reply = {"text": "x" * 100_000}
    count = 0
    client.setblocking(False)
    with pytest.raises(BlockingIOError):
        while True:
            client.send(b"a\n" * 1000)
            server.serve()
            count += 1
            assert count < 10_000
    (kept,) = server.control._clients.values()
    assert len(kept._outbox) <= 100_100
    assert len(kept._inbox) <= 2 * MAX_LINE
    assert server.serve() == 0  # and it does not keep the IOP awake
    with server.connect() as other:
        assert server.ask(other, b"b\n")[0]["line"] == "b"
        client.settimeout(PATIENCE_S)
        got = 0
        while got < 1_000_000:
            got += len(client.recv(1 << 16))
            server.serve()


def test_no_more_is_read_than_is_needed(server, client) -> None:
    server.control.serve(server.run)
    client.sendall(b"a\n" * 50_000)
    for _ in range(3):
        server.control.serve(server.run)
    (kept,) = server.control._clients.values()
    assert len(kept._inbox) <= 2 * MAX_LINE
    assert server.commands == ["a"] * 3


def test_a_client_that_leaves_its_answer(server) -> None:
    server.reply = {"text": "x" * 1_000_000}
    with server.connect() as end:
        end.sendall(b"a\nb\n")
        server.serve()
        assert server.clients == 1
    server.serve()
    assert server.clients == 0


def test_a_client_that_was_silent_for_longest_makes_room(server) -> None:
    ends = [server.connect() for _ in range(MAX_CLIENTS)]
    server.serve()
    server.ask(ends[0], b"a\n")
    with server.connect() as late:
        assert server.ask(late, b"b\n")
        assert server.clients == MAX_CLIENTS
        assert server.ask(ends[0], b"c\n")
        assert ends[1].recv(1) == b""
    for end in ends:
        end.close()
    server.serve()
    assert server.clients == 0


def test_many_connections(server) -> None:
    for _ in range(5):
        ends = []
        for _ in range(10):
            ends.append(server.connect())
            server.serve()
        assert server.clients <= MAX_CLIENTS
        for end in ends:
            end.close()
        server.serve()
        assert server.clients == 0


def test_without_descriptors_a_connection_is_turned_away(server, monkeypatch) -> None:
    listener = server.control._listener

    class Short:
        """A listener of a process that has no descriptor left but the one in reserve."""

        fileno = listener.fileno
        close = listener.close

        def __init__(self) -> None:
            self.refusals = 1

        def accept(self):
            if self.refusals:
                self.refusals -= 1
                raise OSError(errno.EMFILE, "too many open files")
            return listener.accept()

    server.control._listener = Short()
    with server.connect() as end:
        server.serve()
        assert end.recv(1) == b""
    with server.connect() as end:
        assert server.ask(end, b"a\n")[0]["ok"]


def test_thousands_of_random_bytes_and_clients(server) -> None:
    chance = random.Random(5)
    ends: list[socket.socket] = []
    sent = 0
    for _ in range(4000):
        move = chance.random()
        if not ends or move < 0.1:
            ends.append(server.connect())
        elif move < 0.2:
            ends.pop(chance.randrange(len(ends))).close()
        elif move < 0.25:
            chance.choice(ends).shutdown(socket.SHUT_WR)
        elif move < 0.4:
            answers(chance.choice(ends))
        else:
            size = chance.choice((1, 10, 100, 5000))
            data = bytes(chance.choices(b"abc \r\n\xff\x00", k=size))
            end = chance.choice(ends)
            end.setblocking(False)
            try:
                sent += end.send(data)
            except OSError:  # full, shut down, or dropped
                ends.remove(end)
                end.close()
        server.control.serve(server.run)
        assert server.clients <= MAX_CLIENTS
    assert sent > 100_000
    for end in ends:
        end.close()
    server.serve()
    assert server.clients == 0
    assert len(server.commands) > 1000


# --- who serves it -------------------------------------------------------------------------------


@pytest.fixture(params=["inline", "thread", "process"])
def run(request: pytest.FixtureRequest) -> str:
    return request.param


def command(path: Path, line: str) -> dict:
    """Send one command and wait for the answer."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as end:
        end.settimeout(PATIENCE_S)
        end.connect(str(path))
        end.sendall(line.encode() + b"\n")
        with end.makefile("rb") as answer:
            return json.loads(answer.readline())


class Aside(threading.Thread):
    """A user at another terminal: sends commands while the host does its work."""

    def __init__(self, path: Path, *lines: str) -> None:
        super().__init__(name="i2o-test")
        self.path, self.lines, self.said = path, lines, list[dict]()
        self.start()

    def run(self) -> None:
        self.said += [command(self.path, line) for line in self.lines]


def test_a_host_that_waits_serves_commands(run, tmp_path) -> None:
    path = tmp_path / "s"
    with i2o.open(f"emu:?run={run}&control={path}") as iop:
        other = Aside(path, f"add {tmp_path}/b.img,create=1M", "bad 0x11 3", "status")
        iop.layer.run_until(lambda: not other.is_alive(), timeout_s=PATIENCE_S)
        other.join()
        added, spoiled, status = other.said
        assert (added["ok"], added["tid"], spoiled["bad"]) == (True, 0x11, [[3, 3]])
        assert status["state"] == "OPERATIONAL"
        iop.refresh()
        assert [device.tid for device in iop.devices] == [0, 8, 0x10, 0x11]
        with iop.block(0x11) as disk:
            assert disk.size == 1 << 20
            disk.write(0, b"hello")
            with pytest.raises(i2o.I2OError, match="MEDIA_ERROR"):
                disk.read(3 * 512, 512)
    assert not path.exists()


def test_a_power_cycle_from_outside(run, tmp_path) -> None:
    path = tmp_path / "s"
    with open_port(f"emu:?run={run}&control={path}") as port:
        other = Aside(path, "crash", "power-cycle", "status")
        while other.is_alive():
            port.wait(0.05)
        other.join()
        assert [said["state"] for said in other.said] == ["FAULTED", "RESET", "RESET"]


def test_a_host_that_watches_the_descriptor_serves_commands(run, tmp_path) -> None:
    path = tmp_path / "s"
    with open_port(f"emu:?run={run}&control={path}") as port:
        number = port.fileno()
        assert port.fileno() == number
        other = Aside(path, "status")
        while other.is_alive():
            if select.select([number], [], [], 0.05)[0]:
                port.reap()
        other.join()
        assert other.said[0]["ok"]
        port.reap()
        assert not select.select([number], [], [], 0)[0]


def test_an_inline_iop_serves_at_the_next_look(tmp_path) -> None:
    path = tmp_path / "s"
    with open_port(f"emu:?control={path}") as port, socket.socket(socket.AF_UNIX) as end:
        end.connect(str(path))
        end.sendall(b"crash\n")
        assert port.soft_iop.state.name == "RESET"
        assert not port.wait(0)
        assert port.soft_iop.state.name == "FAULTED"


def test_a_clock_of_ones_own_is_waited_on(tmp_path) -> None:
    rig = Rig()
    clock = ManualClock()
    control = ControlSocket(str(tmp_path / "s"))
    with EmuPort(rig.iop, rig.unit, clock=clock, control=control) as port:
        assert not port.wait(2.5)
        assert clock.slept == [2.5]


def test_a_host_that_waits_sleeps_on_the_socket(tmp_path, monkeypatch) -> None:
    class Sleepless(SystemClock):
        """The time of the machine, of a host that must be woken by commands."""

        @staticmethod
        def sleep(seconds: float) -> None:
            raise AssertionError("nothing wakes this sleeper")

    clock = Sleepless()
    monkeypatch.setattr(emu_port, "SYSTEM_CLOCK", clock)
    with open_port(f"emu:?control={tmp_path}/s", clock=clock) as port:
        assert not port.wait(0.01)


@pytest.mark.parametrize("run", ["thread", "process"])
def test_a_new_plan_needs_nobody_to_wake_the_iop(run, tmp_path) -> None:
    """Its times are looked at after the command, although nothing else happens."""
    path, plan = tmp_path / "s", tmp_path / "plan.toml"
    plan.write_text('[[fault]]\naction = "starve"\nfrom_ms = 1\n')
    with open_port(f"emu:?run={run}&control={path}") as port, socket.socket(socket.AF_UNIX) as end:
        end.settimeout(PATIENCE_S)
        end.connect(str(path))
        end.sendall(f"faults {plan}\n".encode())
        assert b"true" in end.recv(1000)

        def is_starved() -> bool:
            return port.unit._starved if run == "thread" else port.half._table.is_starved

        for _ in range(PATIENCE_S * 100):
            if is_starved():
                break
            port.wait(0.01)
        assert is_starved()


def test_an_event_wakes_the_host(run, tmp_path) -> None:
    """A host that registered for events hears of a disk that a user plugs in."""
    path = tmp_path / "s"
    heard: list[int] = []
    with i2o.open(f"emu:?run={run}&control={path}") as iop:
        layer, number = iop.layer, iop.number
        cookies = layer.register(
            [lambda iop, reply: (heard.append(reply[16:20][1]), layer.free_reply(iop, reply))]
        )
        frame = layer.request_frame(number)
        frame[:20] = UTIL_EVENT_REGISTER.build(event_mask=0xFFFFFFFF)
        frame.initiator_context = cookies.cookies[0]
        layer.send(number, frame)
        other = Aside(path, f"add {tmp_path}/b.img,create=1M")
        layer.run_until(lambda: bool(heard), timeout_s=PATIENCE_S)
        other.join()
    assert heard == [1]  # 0x100: a new LCT entry


def test_a_socket_in_use_stops_the_opening(run, tmp_path) -> None:
    path, image = tmp_path / "s", tmp_path / "a.img"
    uri = f"emu:?run={run}&control={path}&disk={image},create=1M"
    with (
        ControlSocket(str(path)),
        pytest.raises(TransportUnavailable, match="somebody listens there"),
    ):
        open_port(uri)
    with open_port(uri):  # the image was closed again
        assert path.exists()


def test_control_needs_a_path() -> None:
    with pytest.raises(UriError, match="control= needs the path of a socket"):
        open_port("emu:?control=")


def test_a_disk_that_is_pulled_under_a_reader(run, tmp_path) -> None:
    """Its requests end once each, as aborted or undeliverable; the next ones find no such TID."""
    path = tmp_path / "s"
    plan = tmp_path / "plan.toml"
    plan.write_text('[[fault]]\non = "BSA_READ"\naction = "delay"\nms = 600000\n')
    with i2o.open(f"emu:?run={run}&control={path}&faults={plan}", recovery=False) as iop:
        disk = iop.block(DISK)
        other = Aside(path, "remove 0x010")
        with pytest.raises(i2o.I2OError, match=r"PROCESS_ABORT|INVALID_TARGET_ID"):
            disk.read(0, 4 << 20)
        other.join()
        assert other.said == [{"ok": True, "tid": DISK}]
        with pytest.raises(i2o.I2OError, match="INVALID_TARGET_ID"):
            disk.read(0, 512)
        iop.layer.run_until(lambda: not iop.layer.outstanding(iop.number), timeout_s=PATIENCE_S)
        disk.close()
