# SPDX-License-Identifier: Apache-2.0
"""`emulate --serve`: a user who gives QEMU a card, and ends it with Ctrl-C."""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fakes.pci_driver import DATA, PciDriver, read_of
from fakes.vfio_user_client import Client, Guest
from i2o.frames.block_storage import BSA_SUCCESS_REPLY

from .conftest import Ran, one_line

PATIENCE_S = 60


class Serving:
    """A command that serves, until it is told to stop."""

    def __init__(self, program: list[str], environment: dict[str, str], *words: object) -> None:
        self._process = subprocess.Popen(
            [*program, "emulate", *map(str, words)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,  # or `select` would not see lines that were read already
            env=environment,
        )

    def lines(self, count: int) -> list[str]:
        assert self._process.stdout is not None
        found = []
        for _ in range(count):
            assert select.select([self._process.stdout], [], [], PATIENCE_S)[0], "nothing is said"
            found.append(self._process.stdout.readline().decode())
        assert all(found), self.end(signal.SIGTERM).err
        return found

    def end(self, number: int) -> Ran:
        if self._process.poll() is None:
            self._process.send_signal(number)
        out, err = self._process.communicate(timeout=PATIENCE_S)
        return Ran(self._process.returncode, out.decode(), err.decode())

    def kill(self) -> None:
        self._process.kill()
        self._process.communicate()


@pytest.fixture
def serving(program, environment) -> Iterator[Callable[..., Serving]]:
    started: list[Serving] = []

    def start(*words: object, **more: object) -> Serving:
        environ = {**environment, **{name: str(value) for name, value in more.items()}}
        started.append(Serving(program, environ, *words))
        return started[-1]

    yield start
    for one in started:
        one.kill()


class Card:
    """A client and its driver at a socket of another process."""

    def __init__(self, path: Path) -> None:
        self.guest = Guest()
        self.client = Client(path, self._wait)
        self.client.version()
        self.driver = PciDriver(self.client, self.guest, self.run)

    def _wait(self) -> None:
        assert select.select([self.client.end], [], [], PATIENCE_S)[0], "no answer came"

    def run(self) -> None:
        """Wait until the IOP has done what was posted: until there is a reply or a status word."""
        for _ in range(100_000):  # round trips, so that the server has time
            if self.client.read32(0x30):
                return
            if self.driver.word() == 4 and not self.is_up:
                self.is_up = True
                return
        raise AssertionError("the IOP does nothing")

    is_up = False

    def close(self) -> None:
        self.client.close()
        self.guest.close()


@pytest.fixture
def plug() -> Iterator[Callable[[Path], Card]]:
    cards: list[Card] = []

    def plug(path: Path) -> Card:
        cards.append(Card(path))
        return cards[-1]

    yield plug
    for card in cards:
        card.close()


# --- serving -------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_card_from_plug_to_unplug(serving, plug, image, tmp_path, number):
    path, control = tmp_path / "iop.sock", tmp_path / "control"
    uri = f"vfio-user:{path}?disk={image}&control={control}"
    served = serving("--serve", uri)
    assert served.lines(1) == [f"ready {uri}\n"]
    assert path.stat().st_mode & 0o077 == 0  # nobody else's
    card = plug(path)
    card.driver.bring_up()
    reply = card.driver.call(read_of(4096, at=1 << 19))
    assert BSA_SUCCESS_REPLY.unpack_from(reply).transfer_count == 4096
    assert card.guest.view[DATA : DATA + 4096] == image.read_bytes()[1 << 19 : (1 << 19) + 4096]
    ran = served.end(number)
    assert (ran.code, ran.out, ran.err) == (0, "", "")
    assert not path.exists()
    assert not control.exists()


def test_what_a_driver_does_wrong_is_printed_up_to_a_bound(serving, plug, tmp_path):
    path = tmp_path / "s"
    server = serving("--serve", f"vfio-user:{path}")
    server.lines(1)
    client = plug(path).client
    for mfa in range(1, 251):
        client.write32(0x40, mfa)
    lines = server.end(signal.SIGTERM).err.splitlines()
    assert len(lines) == 201
    assert lines[0] == (
        "i2o: MFA 0x00000001 was posted to 0x40, but it is no inbound frame of this IOP"
    )
    assert "0x000000c8" in lines[199]
    assert lines[200].startswith("i2o: more is wrong: ")


def test_the_options_may_stand_outside_of_the_uri(serving, cli, image, tmp_path):
    path, control = tmp_path / "iop.sock", tmp_path / "a control"
    disk = tmp_path / "a & b%.img"
    image.rename(disk)
    plan = tmp_path / "plan.toml"
    plan.write_text('[[fault]]\naction = "drop"\n')
    served = serving("--serve", f"vfio-user:{path}?iop_id=5", "--disk", f"{disk},ro", "--disk",
                     f"{tmp_path}/new,create=2M", "--control", control, "--faults", plan,
                     "--personality", "generic")  # fmt: skip
    assert served.lines(1) == [f"ready vfio-user:{path}?iop_id=5\n"]
    status = cli("emulate", "--control", control, "--json", "status").records[0]
    assert status["fault_rules"] == 1
    disks = [device for device in status["devices"] if "size" in device]
    assert [(disk["image"], disk["size"], disk["read_only"]) for disk in disks] == [
        (str(disk), 1 << 20, True),
        (f"{tmp_path}/new", 2 << 20, False),
    ]
    assert served.end(signal.SIGTERM).code == 0


def test_several_iops_are_served_side_by_side(serving, plug, cli, image, tmp_path):
    uris = [
        f"vfio-user:{tmp_path}/{name}?control={tmp_path}/{name}.control&disk={tmp_path}/{name}.img,"
        "create=1M"
        for name in ("one", "two")
    ]
    served = serving("--serve", uris[0], "--serve", uris[1])
    assert served.lines(2) == [f"ready {uri}\n" for uri in uris]
    cards = [plug(tmp_path / name) for name in ("one", "two")]
    (tmp_path / "two.img").write_bytes(b"2" * (1 << 20))
    for card in cards:
        card.driver.bring_up()
        card.driver.call(read_of(512))
    assert [bytes(card.guest.view[DATA : DATA + 1]) for card in cards] == [b"\0", b"2"]
    cli("emulate", "--control", tmp_path / "one.control", "fail")
    states = [
        cli("emulate", "--control", f"{tmp_path}/{name}.control", "--json", "status").records[0]
        for name in ("one", "two")
    ]
    assert [status["state"] for status in states] == ["FAILED", "OPERATIONAL"]
    assert served.end(signal.SIGINT).code == 0


def test_a_client_that_leaves_makes_room_for_the_next(serving, plug, tmp_path):
    served = serving("--serve", f"vfio-user:{tmp_path}/s")
    served.lines(1)
    for _ in range(3):
        card = plug(tmp_path / "s")
        card.driver.bring_up()
        card.client.close()
    assert served.end(signal.SIGTERM).err == ""


def test_a_socket_that_a_dead_server_left_is_replaced(serving, tmp_path):
    path = tmp_path / "s"
    served = serving("--serve", f"vfio-user:{path}")
    served.lines(1)
    served.kill()
    assert path.is_socket()
    again = serving("--serve", f"vfio-user:{path}")
    again.lines(1)
    assert again.end(signal.SIGTERM).code == 0
    assert not path.exists()


def test_a_service_processor_is_served_too(serving, plug, cli, tmp_path):
    served = serving("--serve", f"vfio-user:{tmp_path}/s", "--personality", "ibmasm",
                     "--control", tmp_path / "control")  # fmt: skip
    served.lines(1)
    client = plug(tmp_path / "s").client
    assert client.read(7, 0, 4) == bytes.fromhex("14100f01")
    status = cli("emulate", "--control", tmp_path / "control", "--json", "status").records[0]
    assert status["commands"] == 0
    client.write(0, 0x40, bytes(4))
    ran = cli("emulate", "--control", tmp_path / "control", "status")
    assert ran.out.splitlines()[:5] == [
        "system      not known to be up",
        "commands    0",
        "heartbeats  0",
        "complaints  1",
        "  0x00000000 was posted to 0x40: read a free frame there first",
    ]
    ran = cli("emulate", "--control", tmp_path / "control", "heartbeat")
    assert ran.out == "heartbeat sent\n"
    bare = serving("--serve", f"vfio-user:{tmp_path}/bare?personality=ibmasm")
    bare.lines(1)
    assert bare.end(signal.SIGTERM).code == served.end(signal.SIGTERM).code == 0


# --- captures ------------------------------------------------------------------------------------


def test_a_capture_is_whole_after_the_end(serving, plug, cli, image, tmp_path):
    trace = tmp_path / "trace.pcapng"
    uri = f"vfio-user:{tmp_path}/s?disk={image}"
    served = serving("--serve", uri, I2O_CAPTURE=trace)
    served.lines(1)
    card = plug(tmp_path / "s")
    card.driver.bring_up()
    for number in range(50):
        card.driver.call(read_of(4096, context=number))
    assert served.end(signal.SIGTERM).err == ""
    ran = cli("dump", "-r", trace, "--json")
    assert (ran.code, ran.err) == (0, "")
    packets = ran.records
    assert [problem for packet in packets for problem in packet.get("problems", ())] == []
    requests = {packet["index"]: packet for packet in packets if packet["type"] == "request"}
    replies = [packet for packet in packets if packet["type"] == "reply"]
    assert len(replies) == 51  # and SysEnable's
    assert {packet["reply_to"] for packet in replies} <= set(requests)
    assert sum(packet["type"] == "dma" for packet in packets) >= 51
    assert all(packet["request"] in requests for packet in packets if packet["type"] == "dma")
    lines = cli("dump", "-r", trace).out.splitlines()
    assert len(lines) == len(packets)
    stats = cli("dump", "-r", trace, "--stats").out
    assert "bsa_block_read" in stats


def test_a_capture_that_cannot_be_written_is_said_at_once(cli, tmp_path, monkeypatch):
    monkeypatch.setenv("I2O_CAPTURE", f"{tmp_path}/no/such/folder/a.pcapng")
    assert "no/such/folder" in one_line(cli("emulate", "--serve", f"vfio-user:{tmp_path}/s"))
    assert not (tmp_path / "s").exists()


# --- what cannot be ------------------------------------------------------------------------------


SERVED = (
    "write ofi://PROVIDER/ADDRESS or serial:DEVICE or shm:NAME or tcp://HOST:PORT or "
    "usbip:HOST:PORT or usbredir:SOCKET or vfio-user:SOCKET"
)


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["--serve", "emu:"], SERVED),
        (["--serve", "vfio-user:"], "where? Write vfio-user:SOCKET"),
        (["--serve", "vfio-user"], "expected SCHEME:ADDRESS"),
        (["--serve", "vfio-user:s?run=thread"], "run= is for emu: URIs"),
        (["--serve", "vfio-user:s?nonsense=1"], "unknown option 'nonsense'"),
        (["--serve", "vfio-user:s?personality=card"], "no personality 'card'"),
        (["--serve", "vfio-user:s", "--personality", "card"], "no personality 'card'"),
        (["--serve", "vfio-user:s?personality=ibmasm", "--disk", "d"], "unknown option 'disk'"),
        (["--serve", "vfio-user:s?personality=ibmasm&control=no/such"], "control socket"),
        (["--serve", "vfio-user:s", "--disk", "no/such.img"], "no/such.img"),
        (["--serve", "vfio-user:s", "--disk", "d.img,create=1M", "--faults", "no.toml"], "no.toml"),
        (["--serve", "vfio-user:no/such/folder/s"], "cannot serve on 'no/such/folder/s'"),
        (["--serve", "vfio-user:" + "s" * 200], "at most 107 bytes"),
        (["--serve", "vfio-user:a", "--serve", "vfio-user:a"], "on 'a': somebody listens there"),
        (["--serve", "vfio-user:a", "--serve", "vfio-user:b", "--disk", "x"], "whose are --disk"),
        (["--serve", "vfio-user:a", "status"], "--serve takes no command"),
        (["--disk", "d.img"], "--disk belongs to --serve"),
        (["--personality", "generic"], "--personality belongs to --serve"),
        (["--faults", "plan.toml"], "--faults belongs to --serve"),
        (["help"], "which IOP is to be controlled?"),
        (["--control", "c"], "no command given"),
    ],
)  # fmt: skip
def test_what_cannot_be_served(cli, words, reason):
    ran = cli("emulate", *words)
    assert ran.code in (2, 3, 4), ran
    assert reason in one_line(ran)
    assert ran.out == ""
    assert not [path for path in Path.cwd().iterdir() if path.is_socket()]


def test_a_file_is_not_taken_for_a_stale_socket(cli, tmp_path):
    path = tmp_path / "precious"
    path.write_text("data")
    assert "is no socket" in one_line(cli("emulate", "--serve", f"vfio-user:{path}"))
    assert path.read_text() == "data"


def test_a_server_that_lives_keeps_its_socket(cli, serving, tmp_path):
    served = serving("--serve", f"vfio-user:{tmp_path}/s")
    served.lines(1)
    ran = cli("emulate", "--serve", f"vfio-user:{tmp_path}/s")
    assert "somebody listens there" in one_line(ran)
    with socket.socket(socket.AF_UNIX) as end:
        end.connect(f"{tmp_path}/s")
    assert served.end(signal.SIGTERM).code == 0


def test_signals_are_as_before_afterwards(cli, tmp_path, monkeypatch):
    """The command in this process: `serve` returns at once, as if it had been told to stop."""
    seen: list[object] = []

    def serve(servers: object, is_stopped: Callable[[], bool], wake: int) -> None:
        seen.append(is_stopped())
        os.kill(os.getpid(), signal.SIGTERM)
        seen.append(is_stopped())
        seen.append(os.eventfd_read(wake))

    monkeypatch.setattr("i2o.tools.serving.serve", serve)
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    ran = cli("emulate", "--serve", f"vfio-user:{tmp_path}/s")
    assert (ran.code, ran.out) == (0, f"ready vfio-user:{tmp_path}/s\n")
    assert seen == [False, True, 1]
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == before
