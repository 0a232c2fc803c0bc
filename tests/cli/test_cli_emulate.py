# SPDX-License-Identifier: Apache-2.0
"""`emulate`: a user at another terminal, who controls an IOP that a program runs."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from i2o.iop_emulator.commands import COMMANDS
from i2o.tools import emulate
from i2o.transport import open_port

from .conftest import one_line


@pytest.fixture
def control(tmp_path: Path, image: Path) -> Iterator[Path]:
    """The control socket of an IOP that runs in a thread."""
    path = tmp_path / "control"
    with open_port(f"emu:?run=thread&control={path}&disk={image},removable"):
        yield path


def test_help_is_the_table(cli, control):
    ran = cli("emulate", "--control", control, "help")
    assert ran.code == 0
    lines = ran.out.splitlines()[1:]
    assert [line.split()[0] for line in lines] == list(COMMANDS)
    (record,) = cli("emulate", "--control", control, "help", "--json").records
    assert record["ok"]
    assert record["commands"][2]["arguments"] == "DISK-SPEC"


def test_the_life_of_some_disks(cli, control, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def say(*words: str) -> str:
        ran = cli("emulate", "--control", control, *words)
        assert (ran.code, ran.err) == (0, "")
        return ran.out

    where = f"{tmp_path}/my disk.img"
    assert say("add", "my disk.img,create=1M") == f"TID 0x011: {where}, 1 MiB, blocks of 512\n"
    assert say("resize", "0x011", "2M").endswith("2 MiB, blocks of 512\n")
    assert say("bad", "17", "5-9").endswith("bad blocks 5-9\n")
    assert say("good", "17", "6-9").endswith("bad blocks 5\n")
    assert say("remove", "0x011") == "TID 0x011: removed\n"
    assert say("eject", "0x010") == "TID 0x010: no medium\n"
    put_in = say("insert", "0x010", "my disk.img,ro")
    assert put_in == f"TID 0x010: {where}, 2 MiB, blocks of 512, removable, read-only\n"
    Path("plan.toml").write_text('[[fault]]\naction = "drop"\n')
    assert say("faults", "plan.toml") == "fault plan: 1 rule\n"
    status = say("status")
    assert "state       RESET\n" in status
    assert "faults      1 rule\n" in status
    assert f"0x010  random_block_storage  -           {where}, 2 MiB" in status
    assert say("faults", "none") == "fault plan: 0 rules\n"
    assert say("fail") == "the IOP is FAILED\n"
    assert say("crash") == "the IOP is FAULTED\n"
    assert say("power-cycle") == "the IOP is RESET\n"
    assert "counters    nothing happened yet\n" in say("status")


def test_what_the_iop_refuses(cli, control):
    ran = cli("emulate", "--control", control, "remove", "0x099")
    assert ran.code == 1
    assert one_line(ran) == "i2o: no disk has TID 0x099"
    ran = cli("emulate", "--control", control, "--json", "remove", "0x099")
    assert (ran.code, ran.err) == (1, "")
    assert ran.records == [{"ok": False, "error": "no disk has TID 0x099"}]
    assert "is no TID" in one_line(cli("emulate", "--control", control, "remove", ""))
    ran = cli("emulate", "--control", control, "add", ",ro")
    assert "needs a path" in one_line(ran)
    ran = cli("emulate", "--control", control, "frob", "x" * 9000)
    assert (ran.code, "8192 at most can be sent" in one_line(ran)) == (1, True)


def test_a_word_is_one_word_whatever_is_in_it(cli, control):
    ran = cli("emulate", "--control", control, "crash\nstatus")
    assert (ran.code, "no command is called" in one_line(ran)) == (1, True)
    assert "state       RESET\n" in cli("emulate", "--control", control, "status").out


@pytest.mark.parametrize("words", [("add", "\udcff.img"), ("remove", "\udcff"), ("\udcff",)])
def test_file_names_that_are_no_text(cli, control, words):
    ran = cli("emulate", "--control", control, *words)
    assert (ran.code, "is no UTF-8 text" in one_line(ran)) == (1, True)


def test_wrong_usage(cli, tmp_path):
    ran = cli("emulate", "status")
    assert (ran.code, "--control PATH" in one_line(ran)) == (2, True)
    for words in ((), ("",), (" ",)):
        ran = cli("emulate", "--control", tmp_path / "s", *words)
        assert (ran.code, "help" in one_line(ran)) == (2, True)
    for seconds in ("0", "x", "nan", "1e9"):
        ran = cli("emulate", "--control", tmp_path / "s", "--timeout", seconds, "status")
        assert (ran.code, "no number of seconds" in one_line(ran)) == (2, True)


def test_no_iop_is_there(cli, tmp_path):
    path = tmp_path / "s"
    for reason in ("does not exist", "its IOP has ended"):
        ran = cli("emulate", "--control", path, "status")
        assert ran.code == 3
        assert reason in one_line(ran)
        assert "(start the IOP with a control socket: emu:?control=PATH)" in ran.err
        with socket.socket(socket.AF_UNIX) as dead:
            dead.bind(str(path)) if not path.exists() else None
    ran = cli("emulate", "--control", "x" * 200, "status")
    assert (ran.code, "too long" in one_line(ran)) == (3, True)
    ran = cli("emulate", "--control", tmp_path, "status")
    assert ran.code == 3
    assert one_line(ran).startswith(f"i2o: emu: control socket '{tmp_path}' is no socket (name ")


@pytest.fixture
def listener(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX) as end:
        end.bind(str(tmp_path / "s"))
        end.listen()
        yield end


def play(listener: socket.socket, part: Callable[[socket.socket], object]) -> threading.Thread:
    """Take one connection, and play an IOP."""

    def act() -> None:
        end, _ = listener.accept()
        with end:
            end.recv(100)
            part(end)

    thread = threading.Thread(target=act, name="i2o-test")
    thread.start()
    return thread


@pytest.mark.parametrize(
    ("said", "code", "reason"),
    [
        (b"", 3, "the IOP ended before it answered"),
        (b"hello\n", 1, "is no software IOP: it said b'hello"),
        (b"[1]\n", 1, "is no software IOP"),
        (b'{"ok": 1}\n', 1, "is no software IOP"),
        (b'{"ok": false}\n', 1, "the IOP refused"),
        (b'{"ok": false, "error": "a\\u001bb"}', 1, "a?b"),
        (b'{"ok": true}\n', 1, "is no software IOP, or another version"),
        (b'{"ok": true, "devices": 3, "counters": {}}\n', 1, "another version"),
    ],
)
def test_odd_answers(cli, tmp_path, listener, said: bytes, code: int, reason: str):
    thread = play(listener, lambda end: end.sendall(said))
    ran = cli("emulate", "--control", tmp_path / "s", "status")
    thread.join()
    assert (ran.code, reason in one_line(ran)) == (code, True)


def test_an_answer_that_does_not_come(cli, tmp_path, listener):
    ran = cli("emulate", "--control", tmp_path / "s", "--timeout", "0.01", "status")
    assert ran.code == 3
    assert "did not answer within 0.01 s; it may still do what it was told" in one_line(ran)
    assert "run=thread" in ran.err


def test_a_socket_that_many_wait_for_already(cli, tmp_path, listener):
    listener.listen(0)
    with socket.socket(socket.AF_UNIX) as first:
        first.connect(str(tmp_path / "s"))
        ran = cli("emulate", "--control", tmp_path / "s", "status")
    assert (ran.code, "did not answer" in one_line(ran)) == (3, True)


def test_a_socket_of_somebody_else(cli, tmp_path, listener, monkeypatch):
    def refuse(*arguments):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    ran = cli("emulate", "--control", tmp_path / "s", "status")
    assert (ran.code, "is somebody else's" in one_line(ran)) == (3, True)


def test_many_bad_ranges_and_a_medium_in_the_tray(cli, tmp_path, listener):
    disk = {
        "tid": 16, "size": 4096, "block_size": 512, "image": "a\x1b.img", "read_only": False,
        "removable": True, "medium": "unloaded", "locked": True, "changed": True,
        "bad": [[1, 1], [3, 4]], "bad_ranges": 3,
    }  # fmt: skip
    answer = json.dumps({"ok": True, **disk}).encode() + b"\n"
    thread = play(listener, lambda end: end.sendall(answer))
    ran = cli("emulate", "--control", tmp_path / "s", "eject", "16")
    thread.join()
    assert ran.out == (
        "TID 0x010: a?.img, 4 KiB, blocks of 512, removable, locked, changed, not loaded, "
        "bad blocks 1 3-4 …\n"
    )


def test_claims_and_complaints_are_shown():
    device = {"tid": 8, "class": "ddm", "name": "file disks", "claims": [{"tid": 1, "type": 1}]}
    lines = emulate._status(
        {
            "state": "OPERATIONAL",
            "change_indicator": 3,
            "fault_rules": 0,
            "counters": {"requests": 2, "events": 0},
            "devices": [device],
            "complaints": ["wrong"],
        }
    )
    assert "counters    requests 2" in lines
    assert any(line.startswith("0x008") and "0x001" in line for line in lines)
    assert lines[-2:] == ["complaints  1", "  wrong"]
