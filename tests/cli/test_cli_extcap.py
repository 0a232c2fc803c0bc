# SPDX-License-Identifier: Apache-2.0
"""`extcap`: what it tells Wireshark, how it installs itself, and what it captures."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from i2o.decode.conversation import Conversation
from i2o.tools import extcap_setup
from i2o.tools.dissector import dissector
from i2o.transport.capture.packet import Channel
from i2o.transport.capture.reader import open_capture

from .conftest import one_line


def test_interfaces(cli):
    ran = cli("extcap", "--extcap-interfaces", "--extcap-version=4.0")
    assert ran.code == 0
    first, second = ran.out.splitlines()
    assert first.startswith("extcap {version=")
    assert second == "interface {value=i2o}{display=I2O messages}"
    assert cli("extcap", "--extcap-version").out.splitlines() == [first]


def test_link_types_and_settings(cli):
    ran = cli("extcap", "--extcap-interface", "i2o", "--extcap-dlts")
    assert ran.out.startswith("dlt {number=147}{name=USER0}")
    rows = cli("extcap", "--extcap-interface", "i2o", "--extcap-config").out.splitlines()
    assert [row.split("}")[1] for row in rows] == [
        "{call=--iop", "{call=--command", "{call=--dma", "{call=--snap-length",
    ]  # fmt: skip
    assert all(row.startswith(f"arg {{number={index}}}") for index, row in enumerate(rows))
    assert "{default=emu:}" in rows[0]


def test_capture_filters_are_checked(cli):
    right = cli("extcap", "--extcap-interface=i2o", "--extcap-capture-filter=function == 0x30")
    assert (right.code, right.out) == (0, "")
    assert cli("extcap", "--extcap-interface=i2o", "--extcap-capture-filter=").code == 0
    wrong = cli("extcap", "--extcap-interface=i2o", "--extcap-capture-filter=no_such == 1")
    assert wrong.code == 1
    assert "no field is called no_such" in wrong.out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "nothing to do"),
        (["--extcap-interface", "i2o"], "nothing to do with the interface"),
        (["--extcap-interface", "eth0", "--extcap-dlts"], "no such interface"),
        (["--extcap-interface", "i2o", "--capture"], "--capture needs --fifo"),
        (["--install", "--uninstall"], "contradict"),
    ],
)
def test_wrong_usage(cli, arguments, said):
    ran = cli("extcap", *arguments)
    assert ran.code == 2
    assert said in one_line(ran)


# --- installing ----------------------------------------------------------------------------------


def test_install_and_uninstall(cli, tmp_path):
    there = ["--dir", tmp_path / "extcap", "--lua-dir", tmp_path / "lua"]
    ran = cli("extcap", "--install", *there)
    launcher, script = tmp_path / "extcap/i2o-extcap", tmp_path / "lua/i2o.lua"
    assert ran.code == 0
    assert str(launcher) in ran.out
    assert str(script) in ran.out
    assert script.read_text() == dissector()
    called = subprocess.run(
        [launcher, "--extcap-interfaces"], capture_output=True, text=True, timeout=60, cwd="/"
    )
    assert called.stdout == cli("extcap", "--extcap-interfaces").out, called.stderr
    assert cli("extcap", "--install", *there).code == 0  # again: a new version
    ran = cli("extcap", "--uninstall", *there)
    assert ran.out.count("removed") == 2
    assert not launcher.exists()
    assert not script.exists()
    assert cli("extcap", "--uninstall", *there).out.count("not there") == 2


def test_a_stranger_is_left_alone(cli, tmp_path):
    launcher = tmp_path / "i2o-extcap"
    launcher.write_text("#!/bin/sh\n")
    for option in ("--install", "--uninstall"):
        ran = cli("extcap", option, "--dir", tmp_path, "--lua-dir", tmp_path)
        assert ran.code == 2
        assert "is not ours" in one_line(ran)
    assert launcher.read_text() == "#!/bin/sh\n"


def fake_tshark(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    program = tmp_path / "tshark"
    program.write_text(f"#!/bin/sh\n{text}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")


def test_without_wireshark(cli, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    ran = cli("extcap", "--install")
    assert ran.code == 3
    assert "neither tshark nor wireshark is installed (install one, or name" in one_line(ran)


@pytest.mark.parametrize(
    ("said", "extcap"),
    [
        ("Personal configuration: C/config\\nPersonal Plugins: C/plugins", "config/extcap"),
        ("Personal Extcap path: C/own\\nPersonal Lua Plugins: C/plugins\\nnothing", "own"),
    ],
)
def test_folders_are_those_that_wireshark_names(cli, monkeypatch, tmp_path, said, extcap):
    fake_tshark(tmp_path, monkeypatch, f"printf '{said.replace('C/', f'{tmp_path}/')}\\n'")
    assert cli("extcap", "--install").code == 0
    assert (tmp_path / extcap / "i2o-extcap").exists()
    assert (tmp_path / "plugins/i2o.lua").exists()


def test_a_wireshark_that_names_none(cli, monkeypatch, tmp_path):
    fake_tshark(tmp_path, monkeypatch, "echo nothing")
    ran = cli("extcap", "--install")
    assert ran.code == 2
    assert "names no personal folders" in one_line(ran)


def test_a_wireshark_that_does_not_answer(cli, monkeypatch, tmp_path):
    fake_tshark(tmp_path, monkeypatch, "exec sleep 60")
    monkeypatch.setattr(extcap_setup, "_TIMEOUT_S", 0.2)
    ran = cli("extcap", "--install")
    assert ran.code == 3
    assert "-G folders" in one_line(ran)


def test_an_installed_package_needs_no_path():
    assert "PYTHONPATH=" in extcap_setup._launcher(Path("/home/me/i2o"))
    assert "PYTHONPATH" not in extcap_setup._launcher(Path("/usr/lib/python3/dist-packages"))


# --- capturing -----------------------------------------------------------------------------------


@pytest.fixture
def fifo(tmp_path: Path) -> Path:
    path = tmp_path / "fifo"
    os.mkfifo(path)
    return path


@contextmanager
def reading(fifo: Path) -> Iterator[bytearray]:
    """Read a FIFO in a thread, as Wireshark does, until all who write to it have ended."""
    data = bytearray()
    source = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    keeper = os.open(fifo, os.O_WRONLY)
    os.set_blocking(source, True)

    def read() -> None:
        while part := os.read(source, 65536):
            data.extend(part)

    thread = threading.Thread(target=read)
    thread.start()
    try:
        yield data
    finally:
        os.close(keeper)
        thread.join(30)
        os.close(source)


def names_in(data: bytes, folder: Path) -> list[tuple[str, str]]:
    path = folder / "read.pcapng"
    path.write_bytes(data)
    conversation = Conversation()
    with open_capture(str(path)) as packets:
        return [(traced.kind, traced.name) for traced in map(conversation.feed, packets)]


CAPTURE = ["extcap", "--extcap-interface", "i2o", "--capture", "--fifo"]


def test_the_traffic_of_a_program(cli, fifo, tmp_path, program, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).resolve().parents[2]))
    with reading(fifo) as data:
        ran = cli(*CAPTURE, fifo, "--command", shlex.join([*program, "lct"]))
    assert ran.code == 0, ran.err
    names = names_in(bytes(data), tmp_path)
    assert ("reply", "exec_lct_notify") in names
    assert ("dma", "exec_status_get") in names


def test_only_what_the_filter_wants_and_no_dma(cli, fifo, tmp_path, program, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).resolve().parents[2]))
    with reading(fifo) as data:
        ran = cli(
            *CAPTURE, fifo, "--dma", "false", "--command", shlex.join([*program, "lct"]),
            "--extcap-capture-filter", "name == exec_lct_notify",
        )  # fmt: skip
    assert ran.code == 0, ran.err
    names = names_in(bytes(data), tmp_path)
    assert set(names) == {("request", "exec_lct_notify"), ("reply", "exec_lct_notify")}


def test_a_program_without_traffic(cli, fifo, tmp_path):
    with reading(fifo) as data:
        ran = cli(*CAPTURE, fifo, "--command", "true")
    assert "true sent no I2O traffic" in one_line(ran)
    assert bytes(data[:4]) == b"\x0a\x0d\x0d\x0a"  # a capture without packets


def test_snap_length(cli, fifo, tmp_path, program, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).resolve().parents[2]))
    with reading(fifo) as data:
        cli(*CAPTURE, fifo, "--snap-length", "64", "--command", shlex.join([*program, "lct"]))
    (tmp_path / "short.pcapng").write_bytes(data)
    with open_capture(str(tmp_path / "short.pcapng")) as packets:
        found = list(packets)
    assert max(len(packet.data) for packet in found) <= 64
    assert any(packet.length > len(packet.data) for packet in found)
    assert any(packet.channel == Channel.FROM_DEVICE for packet in found)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--command", "'"], "No closing quotation"),
        (["--command", "/no/such/program"], "no such program"),
        (["--extcap-capture-filter", "no_such == 1"], "no field is called no_such"),
        (["--iop", "nonsense:"], "nonsense"),
    ],
)
def test_captures_that_cannot_be(cli, fifo, arguments, said):
    with reading(fifo):
        ran = cli(*CAPTURE, fifo, *arguments)
    assert ran.code == 2
    assert said in one_line(ran)


def capture_of_an_iop(
    fifo: Path, environment: dict[str, str], stop: Callable[[subprocess.Popen[bytes]], None]
) -> tuple[int, bytes, bytes]:
    """Capture live, stop after the first packets; returns exit code, capture and stderr."""
    process = subprocess.Popen(
        [sys.executable, "-m", "i2o", *CAPTURE, str(fifo)], env=environment, stderr=subprocess.PIPE
    )
    with fifo.open("rb") as stream:
        data = bytearray()
        while len(data) < 1000:
            part = stream.read1(65536)
            assert part, "the capture ended early"
            data += part
        stop(process)
        if process.returncode is None and stop is terminate:
            data += stream.read()
    _, errors = process.communicate(timeout=60)
    return process.returncode, bytes(data), errors


def terminate(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGTERM)


def test_an_iop_until_wireshark_says_stop(fifo, environment, tmp_path):
    code, data, errors = capture_of_an_iop(fifo, environment, terminate)
    assert (code, errors) == (0, b"")
    assert ("request", "exec_outbound_init") in names_in(data, tmp_path)


def test_an_iop_until_wireshark_is_gone(fifo, environment):
    code, _, errors = capture_of_an_iop(fifo, environment, lambda process: None)
    assert code == 0
    assert b"Traceback" not in errors
