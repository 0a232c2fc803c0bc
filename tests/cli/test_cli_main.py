# SPDX-License-Identifier: Apache-2.0
"""The command as such: exit codes, one line per error, pipes, signals, colour."""

from __future__ import annotations

import errno
import importlib
import io
import json
import os
import pty
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fakes.interrupted import ends_of_interrupt
from i2o.errors import I2OError, InvalidArgument, TransportUnavailable, UriError
from i2o.tools import arguments, cli, failures, output

from .conftest import CHECKOUT, one_line


def test_version(cli):
    ran = cli("--version")
    assert (ran.code, ran.out) == (0, "i2o 0.1.0\n")


def test_help_names_every_command(cli):
    ran = cli("--help")
    assert ran.code == 0
    for name in ("demo", "status", "lct", "hrt", "params", "read", "write"):
        assert f"\n    {name} " in ran.out


WITHOUT_IOP = ("decode", "emulate", "extcap", "list", "peers", "ping")
WITHOUT_JSON = ("config", "extcap", "nbd", "serve")


@pytest.mark.parametrize("name", sorted(cli.COMMANDS))
def test_each_command_has_help(cli, name):
    ran = cli(name, "--help")
    assert ran.code == 0
    assert f"usage: i2o {name}" in ran.out
    assert "--json" in ran.out or name in WITHOUT_JSON
    assert "-i URI" in ran.out or name in WITHOUT_IOP


def test_help_imports_no_command_and_no_frames():
    code = (
        "import sys; from i2o.tools.cli import main; main(['--help']); "
        "print([m for m in sys.modules if m == 'construct' or m.startswith('i2o.frames') "
        "or m in ('i2o.tools.demo', 'i2o.tools.read')])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=CHECKOUT, timeout=60
    )
    assert done.stdout.splitlines()[-1] == "[]"


BAD = [
    ((), 2, "no command given"),
    (("--nonsense",), 2, "--nonsense"),
    (("nonsense",), 2, "nonsense"),
    (("read",), 2, "TID"),
    (("read", "x"), 2, "'x' is no number"),
    (("read", "-1"), 2, "TID"),
    (("read", "0x1000"), 2, "no TID"),
    (("read", "16", "--offset", "1X"), 2, "no size"),
    (("read", "16", "--offset", ""), 2, "no size"),
    (("read", "16", "--offset", "9999999999T"), 2, "too large"),
    (("read", "16", "--count", "99999999999999999999"), 2, "no size"),
    (("read", "16", "--count", "17M", "--sha256"), 2, "not inside the device's 16777216"),
    (("read", "16", "--offset", "17M", "--sha256"), 2, "not inside"),
    (("read", "0x11", "--sha256"), 1, "there are 0x000 (executive)"),
    (("read", "0", "--sha256"), 1, "not a random_block_storage device"),
    (("read", "16", "--json"), 2, "cannot both go to stdout"),
    (("read", "16", "-o", "/"), 2, "is a directory"),
    (("read", "16", "-o", "/nonexistent/x"), 1, "/nonexistent/x: No such file"),
    (("write", "16"), 2, "FILE"),
    (("write", "16", "/nonexistent"), 1, "/nonexistent: No such file"),
    (("write", "16", "/"), 2, "is a directory"),
    (("write", "16", "/dev/zero"), 2, "more than 16777216 bytes"),
    (("write", "16", "/dev/null", "--offset", "17M"), 2, "behind the device"),
    (("write", "16", "/dev/null", "-i", "pci:0000:03:00.0"), 2, "--yes"),
    (("write", "16", "/dev/null", "-i", "nubus:1-4", "--yes"), 2, "no backend"),
    (("lct", "-i", "nonsense"), 2, "no IOP URI"),
    (("lct", "-i", "nonsense:"), 2, "no backend called"),
    (("lct", "-i", "emu:?nonsense=1"), 2, "unknown option"),
    (("lct", "-i", "emu:?frames=x"), 2, "not an integer"),
    (("lct", "-i", "emu:?disk="), 2, "needs a path"),
    (("lct", "-i", "emu:?faults=/nonexistent"), 2, "/nonexistent"),
    (("lct", "-i", "emu:?faults=a%00b"), 2, "NUL"),
    (("lct", "-i", "emu:?disk=a%00b.img"), 2, "NUL"),
    (("lct", "-i", "emu:?run=process&disk=a%00b.img"), 2, "NUL"),
    (("lct", "-i", "emu:?faults=/dev/zero"), 2, "no regular file"),
    (("hrt", "-i", "emu:?disk=/nonexistent"), 3, "does not exist"),
    (("hrt", "-i", "emu:?disk=/"), 3, "is a directory"),
    (("status", "-i", "emu:?disk=/dev/null"), 3, "no block device"),
    (("params", "16", "nonsense"), 1, "known:"),
    (("params", "0x99"), 1, "no device has TID 0x099"),
    (("params", "16", "device_info", "nonsense"), 1, "it has device_type"),
    (("params", "16", "0x1234"), 1, "no layout of group 0x1234"),
    (("params", "16", "volume_set_information", "99"), 1, "no field 99"),
    (("params", "--set", "a=1"), 2, "needs TID and GROUP"),
    (("params", "16", "cache_control", "write_policy", "--set", "a=1"), 2, "no FIELD"),
    (("params", "16", "cache_control", "--set", "a"), 2, "FIELD=VALUE"),
    (("params", "16", "cache_control", "--set", "a=1"), 1, "no field 'a'"),
    (("params", "16", "cache_control", "--set", "write_policy=x"), 2, "none of NONE"),
    (("params", "16", "cache_control", "--set", "reserved1=x"), 2, "no number"),
    (("params", "16", "cache_control", "--set", "write_policy=999"), 1, "does not fit"),
    (("params", "16", "user_information", "--set", "device_name=é"), 2, "not ASCII"),
    (("params", "16", "user_information", "--set", "device_name=0xq"), 2, "hex bytes"),
    (("params", "16", "device_info", "--set", "block_size=4096"), 1, "FIELD_UNWRITEABLE"),
    (("demo", "--disk", "/nonexistent"), 3, "does not exist"),
    (("demo", "--disk", "/"), 3, "is a directory"),
    (("demo", "--disk", "/dev/null"), 3, "no block device"),
    (("demo", "--write"), 2, "--write needs --disk"),
    (("demo", "--size", "1M"), 2, "4M or more"),
    (("demo", "--size", "5000001"), 2, "blocks of 512"),
    (("demo", "--count", "100"), 2, "blocks of 512"),
    (("demo", "--count", "0"), 2, "blocks of 512"),
    (("demo", "--count", "1G"), 2, "ends at 256M"),
    (("demo", "--disk", "x", "-i", "emu:"), 2, "exclude one another"),
    (("demo", "--disk", "x", "--size", "8M"), 2, "temporary disk"),
]


@pytest.mark.parametrize(("words", "code", "text"), BAD, ids=[" ".join(bad[0]) for bad in BAD])
def test_bad_input_is_one_line_and_an_exit_code(cli, words, code, text):
    ran = cli(*words)
    assert text in one_line(ran)
    assert ran.code == code


def test_bad_input_in_a_process_leaves_no_traceback(process):
    ran = process("read", "0x99", "--sha256")
    one_line(ran)
    assert (ran.code, ran.out) == (1, b"")


def test_an_error_of_the_library_is_explained_without_errno():
    assert failures.explain(InvalidArgument("what it is")) == "what it is"
    assert failures.explain(OSError(errno.ENOSPC, "No space left")) == "No space left"
    assert failures.explain(OSError("bare")) == "bare"
    assert failures.explain(I2OError("red \x1b[31m")) == "red ?[31m"


def test_exit_codes():
    assert failures.exit_code(UriError("x")) == 2
    assert failures.exit_code(TransportUnavailable("emu", "x")) == 3
    assert failures.exit_code(OSError("x")) == failures.exit_code(I2OError("x")) == 1


def test_sizes_and_numbers():
    for text, value in (
        ("0", 0), ("010", 10), ("0x10", 16), ("4k", 4096), ("4K", 4096), ("64M", 64 << 20),
        ("1G", 1 << 30), ("2T", 2 << 40), ("64MiB", 64 << 20), ("64MB", 64 << 20), ("0x1F", 31),
    ):  # fmt: skip
        assert arguments.size(text) == value
    assert arguments.number("007") == 7


def test_human_sizes():
    shown = [output.human_size(n) for n in (0, 1, 512, 1024, 1536, 1 << 20, 153 << 20, 1 << 70)]
    assert shown == [
        "0 bytes", "1 byte", "512 bytes", "1 KiB", "1.5 KiB", "1 MiB", "153 MiB", "1024 EiB",
    ]  # fmt: skip


def test_a_closed_pipe_is_no_error(program, environment):
    done = subprocess.run(
        f"{shlex.join(program)} params 0x10 2>err.txt | head -n 1;"
        "echo ${PIPESTATUS[0]}; cat err.txt",
        shell=True,
        executable="/bin/bash",
        capture_output=True,
        text=True,
        env={**environment, "PYTHONUNBUFFERED": "1"},
        cwd=environment["TMPDIR"],
        timeout=60,
    )
    assert done.stdout.splitlines() == ["0x0000 device_info", "141"]


def test_a_full_disk_under_stdout_is_one_line(program, environment):
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            [*program, "lct"], stdout=full, stderr=subprocess.PIPE, env=environment, cwd=CHECKOUT
        )
    assert done.returncode == 1
    assert done.stderr.decode() == "i2o: No space left on device\n"


def test_closed_standard_streams_are_no_error(program, environment):
    done = subprocess.run(
        f"{shlex.join(program)} lct >&- 2>&-", shell=True, env=environment, cwd=CHECKOUT, timeout=60
    )
    assert done.returncode == 0


def _sleeps(pid):
    """Whether a process waits. One that runs may hold a lock of whatever traces it."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "S"


def _slow_plan(tmp_path):
    plan = tmp_path / "slow.toml"
    plan.write_text('[[fault]]\non = "BSA_BLOCK_READ"\naction = "delay"\nms = 300\n')
    return plan


@pytest.mark.parametrize(
    ("number", "codes", "text"),
    [(signal.SIGINT, ends_of_interrupt(), "i2o: interrupted\n"), (signal.SIGTERM, (143,), "")],
)
def test_an_interrupted_read_leaves_no_file(
    program, environment, image, tmp_path, number, codes, text
):
    target = tmp_path / "out"
    target.mkdir()
    started = subprocess.Popen(
        [*program, "read", "16", "-o", str(target / "copy"), "-i",
         f"emu:?disk={image}&faults={_slow_plan(tmp_path)}&seed=1"],
        stderr=subprocess.PIPE, env=environment, cwd=CHECKOUT,
    )  # fmt: skip
    try:
        deadline = time.monotonic() + 60
        while started.poll() is None and not (list(target.iterdir()) and _sleeps(started.pid)):
            if time.monotonic() > deadline:
                raise subprocess.TimeoutExpired(started.args, 60)
            time.sleep(0.01)
        started.send_signal(number)
        _, err = started.communicate(timeout=60)
    except subprocess.TimeoutExpired:
        started.kill()
        pytest.fail(f"it did not end: {started.communicate()[1].decode()}")
    finally:
        started.kill()
    assert err.decode() == text
    assert started.returncode in codes
    assert list(target.iterdir()) == []


def test_an_interrupt_in_this_process_is_130(cli, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("i2o.opening.open", interrupted)
    ran = cli("lct")
    assert ran.code == 130
    assert ran.err == "i2o: interrupted\n"


@pytest.mark.parametrize("word", ["", "1"])
def test_colour_only_on_a_terminal_without_no_color(program, environment, word):
    master, slave = pty.openpty()
    env = {**environment, "TERM": "xterm", "NO_COLOR": word}
    done = subprocess.Popen([*program, "status"], stdout=slave, env=env, cwd=CHECKOUT)
    os.close(slave)
    shown = b""
    try:
        while piece := os.read(master, 4096):
            shown += piece
    except OSError:  # the other end is closed
        pass
    os.close(master)
    assert done.wait(timeout=30) == 0
    assert (b"\x1b[" in shown) == (word == "")


def test_bytes_never_go_to_a_terminal(cli, monkeypatch):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    ran = cli("read", "16")
    assert ran.code == 2
    assert "terminal" in one_line(ran)


class _Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_progress_bar_on_a_terminal_is_wiped(monkeypatch):
    stream = _Terminal()
    monkeypatch.setattr(sys, "stderr", stream)
    with output.Progress("reading", 100) as progress:
        progress(0)
        progress(1)  # too soon to draw
        progress.add(99)
    shown = stream.getvalue()
    assert shown.count("\r") == 3
    assert "100%" in shown
    assert shown.endswith("\r\x1b[K")


def test_a_bar_of_several_pieces_goes_on_where_the_last_ended(capsys):
    with output.Progress("reading", 100, force=True) as progress:
        progress.behind(60)(40, 40)
    assert "100%" in capsys.readouterr().err


def test_no_progress_bar_without_a_terminal(capsys):
    with output.Progress("reading", 0) as progress:
        progress(0)
    with output.Progress("reading", 0, force=True) as progress:
        progress.behind(0)(0, 0)
    assert capsys.readouterr().err.count("100%") == 1


def test_closed_and_missing_streams_are_no_terminals(monkeypatch):
    closed = io.StringIO()
    closed.close()
    assert not output.is_terminal(closed)
    assert not output.is_terminal(None)
    monkeypatch.setattr(sys, "stderr", None)
    output.note("nobody hears it")


def test_a_missing_stdout_is_no_error(monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdout", None)
    assert cli.main(["write", "16", "/dev/null"]) == 0
    assert cli.main(["nonsense"]) == 2


def test_main_works_in_another_thread_and_without_argv(monkeypatch, capsys):
    import threading

    codes = []
    monkeypatch.setattr(sys, "argv", ["i2o", "--version"])
    thread = threading.Thread(target=lambda: codes.append(cli.main()))
    thread.start()
    thread.join()
    assert codes == [0]


def test_a_broken_pipe_in_this_process(monkeypatch, capsys):
    def broken(*_):
        raise BrokenPipeError

    monkeypatch.setattr("i2o.opening.open", broken)
    assert cli.main(["lct"]) == 141


def test_styled_only_where_colour_is_used(monkeypatch):
    monkeypatch.setattr(output, "use_colour", lambda stream: True)
    assert output.styled("text", output.BOLD, output.RED) == "\x1b[1;31mtext\x1b[0m"
    assert output.styled("", output.BOLD) == ""


def test_no_colour_on_a_dumb_terminal(monkeypatch):
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "dumb")
    assert not output.use_colour(_Terminal())
    monkeypatch.setenv("TERM", "xterm")
    assert output.use_colour(_Terminal())


def test_stdout_that_cannot_be_flushed_is_dropped(monkeypatch, capsys):
    class Bad(io.StringIO):
        def flush(self):
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(sys, "stdout", Bad())
    assert cli.main(["--version"]) == 0
    assert cli.main(["nonsense"]) == 2


def test_commands_are_modules_with_run_and_add_parser():
    for name in cli.COMMANDS:
        module = importlib.import_module(f"i2o.tools.{name}")
        assert callable(module.run)
        assert callable(module.add_parser)


JSON = [
    ("status",),
    ("status", "-i", "emu:", "-i", "emu:?frames=16"),
    ("lct",),
    ("hrt",),
    ("params",),
    ("params", "0"),
    ("params", "16"),
    ("params", "16", "0xf000", "group_number"),
    ("params", "16", "device_info", "block_size"),
    ("read", "16", "--sha256", "--json", "-o", "/dev/null"),
    ("write", "16", "/dev/null"),
    ("demo", "--size", "4M"),
]


@pytest.mark.parametrize("words", JSON, ids=[" ".join(words) for words in JSON])
def test_json_is_one_object_per_line(cli, words):
    ran = cli(*words, "--json")
    assert (ran.code, ran.err) == (0, "")
    lines = ran.out.splitlines()
    assert lines
    assert all(isinstance(json.loads(line), dict) for line in lines)


def test_what_goes_wrong_with_a_capture_is_said(program, environment, tmp_path):
    done = subprocess.run(
        [*program, "read", "0x10", "-o", str(tmp_path / "out")],
        env={**environment, "I2O_CAPTURE": "/dev/full"},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0
    assert "i2o: capture /dev/full: No space left on device" in done.stderr
    assert "dropped" in done.stderr.splitlines()[-1]
