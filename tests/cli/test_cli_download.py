# SPDX-License-Identifier: Apache-2.0
"""`download`: modules go to an IOP and come back, whole or not at all."""

from __future__ import annotations

import functools
import hashlib
import os
import random
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from fakes.interrupted import ends_of_interrupt
from i2o import opening
from i2o.clock import ManualClock
from i2o.errors import ParameterError
from i2o.frames.tables import MODULE_HEADER
from i2o.software import MAX_SIZE, Software
from i2o.tools import output
from i2o.tools.cli import main

from .conftest import one_line

NAME = ("--organization", "0x1b", "--module", "7")
CONTENT = random.Random(7).randbytes(30_000)
DIGEST = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def module(tmp_path: Path) -> Path:
    path = tmp_path / "module.bin"
    path.write_bytes(CONTENT)
    return path


@pytest.fixture
def uri(tmp_path: Path) -> str:
    return f"emu:?store={tmp_path}/store"


def plan(folder: Path, text: str) -> Path:
    path = folder / "plan.toml"
    path.write_text(f"[[fault]]\n{text}\n")
    return path


# --- the four actions ----------------------------------------------------------------------------


def test_round_trip_through_a_new_process(cli, process, module, uri, tmp_path):
    ran = cli("download", module, *NAME, "--permanent", "--verify", "-i", uri)
    assert (ran.code, ran.out) == (0, "")
    assert ran.err.startswith("29.3 KiB as ddm 001b:0007, permanent, verified, runs as TID 0x009, ")
    assert process("download", "--upload", "-", *NAME, "-i", uri).out == CONTENT
    target = tmp_path / "back"
    ran = cli("download", "--upload", target, *NAME, "-i", uri, "--progress")
    assert "29.3 KiB of ddm 001b:0007 to " in ran.err
    assert "100%" in ran.err
    assert target.read_bytes() == CONTENT
    assert cli("lct", "-i", uri).out.count("0x009") == 1


def test_as_json(cli, module, uri, tmp_path):
    (sent,) = cli("download", module, *NAME, "--permanent", "--json", "-i", uri).records
    assert sent.pop("seconds") >= 0
    assert sent == {
        "sw_type": 1, "organization_id": 0x1B, "module_id": 7, "size": 30_000, "sha256": DIGEST,
        "permanent": True, "verified": False, "tid": 9,
    }  # fmt: skip
    (listed,) = cli("download", "--list", "--json", "-i", uri).records
    assert (listed["size"], listed["tid"], listed["module_id"]) == (30_000, 9, 7)
    (back,) = cli("download", "--upload", tmp_path / "x", *NAME, "--json", "-i", uri).records
    assert (back["sha256"], back["output"]) == (DIGEST, str(tmp_path / "x"))
    (gone,) = cli("download", "--remove", *NAME, "--json", "-i", uri).records
    assert gone == {"sw_type": 1, "organization_id": 0x1B, "module_id": 7}
    assert cli("download", "--list", "--json", "-i", uri).records == []


def test_list_and_remove(cli, module, uri):
    assert cli("download", "--list", "-i", uri).out == "0 of 64 modules, 0 bytes used, 1 GiB free\n"
    cli("download", module, *NAME, "--permanent", "-i", uri)
    cli("download", module, *NAME, "--type", "irtos", "--permanent", "-i", uri)
    lines = cli("download", "--list", "-i", uri).out.splitlines()
    assert lines[0].split() == [
        "no.", "organization", "module", "version", "bytes", "flags", "TID", "name",
    ]  # fmt: skip
    assert lines[1].split()[:6] == ["0", "0x001b", "0x0007", "0x0", "30,000", "0x1"]
    assert lines[3].startswith("2 of 64 modules, 58.6 KiB used")
    assert cli("download", "--remove", *NAME, "-i", uri).err == "ddm 001b:0007 removed\n"
    ran = cli("download", "--remove", *NAME, "-i", uri)
    assert ran.code == 1
    assert "INVALID_PARAMETER (--list shows what there is)" in one_line(ran)
    assert len(cli("download", "--list", "--json", "-i", uri).records) == 1


def test_a_header_names_the_module(cli, uri, tmp_path):
    path = tmp_path / "driver"
    header = MODULE_HEADER.build(
        header_size=72, org_id=0x28, module_id=0x300, module_info=b"a driver".ljust(24)
    )
    path.write_bytes(header + CONTENT)
    assert "as ddm 0028:0300, until the next reset" in cli("download", path).err
    assert "as ddm 0028:0001," in cli("download", path, "--module", 1).err
    assert cli("download", path, "--type", "0x77").code == 1  # no type that the emulator knows
    ran = cli("download", path, "--type", "irtos", "--permanent", "-i", uri)
    assert "as irtos 0028:0300, permanent, " in ran.err
    assert "TID" not in ran.err
    assert "a driver" in cli("download", "--list", "-i", uri).out


def test_from_stdin(process, uri):
    ran = process("download", "-", *NAME, "--permanent", "-i", uri, stdin=CONTENT)
    assert ran.code == 0
    assert process("download", "--upload", "-", *NAME, "-i", uri).out == CONTENT


def test_replacing_needs_a_word(cli, module, uri):
    words = ("download", module, *NAME, "--permanent", "-i", uri)
    assert cli(*words).code == 0
    module.write_bytes(b"new")
    ran = cli(*words)
    assert ran.code == 1
    assert "DEVICE_BUSY (is it there already? --override replaces it)" in one_line(ran)
    assert cli(*words, "--override", "--verify").code == 0
    assert cli("download", "--list", "--json", "-i", uri).records[0]["size"] == 3


def test_a_different_module_that_comes_back_is_told(cli, module, monkeypatch):
    monkeypatch.setattr(Software, "upload", lambda *_, **__: CONTENT[:-1] + b"\0")
    ran = cli("download", module, *NAME, "--verify")
    assert ran.code == 1
    assert one_line(ran).endswith("came back different, from byte 29999 on: send it again")


@pytest.fixture
def untold(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Make methods of the host side fail as for an IOP without the driver store groups."""

    def fail(*names: str) -> None:
        def refuse(self):
            raise ParameterError("INVALID_GROUP_ID")

        for name in names:
            monkeypatch.setattr(Software, name, refuse)

    return fail


def test_an_iop_that_tells_nothing_of_its_store(cli, module, uri, tmp_path, untold):
    untold("space", "modules")
    ran = cli("download", module, *NAME, "--permanent", "--verify", "-i", uri)
    assert (ran.code, "TID" in ran.err) == (0, False)
    assert cli("download", "--list", "-i", uri).code == 1
    ran = cli("download", "--upload", tmp_path / "x", *NAME, "--size", "30000", "-i", uri)
    assert ran.code == 0
    assert (tmp_path / "x").read_bytes() == CONTENT


def test_an_iop_that_does_not_tell_its_room(cli, module, uri, untold):
    assert cli("download", module, *NAME, "--permanent", "-i", uri).code == 0
    untold("space")
    assert len(cli("download", "--list", "-i", uri).out.splitlines()) == 2


def test_a_module_that_the_store_table_leaves_out(cli, module, monkeypatch):
    monkeypatch.setattr(Software, "modules", lambda self: ())
    (record,) = cli("download", module, *NAME, "--json").records
    assert record["tid"] is None


# --- what goes wrong -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ((), "one of FILE, --list, --upload FILE and --remove"),
        (("x", "--list"), "given are 2"),
        (("--list", "--permanent"), "--permanent goes with FILE"),
        (("--upload", "x", "--override"), "--override goes with FILE"),
        (("--remove", "--size", "5"), "--size goes with --upload"),
        (("--list", "--module", "5"), "--module goes with FILE, --upload, --remove"),
        (("--remove",), "no module is named (name it: --organization NUMBER --module NUMBER)"),
        (("x", "--type", "foo"), "'foo' is no type; known are ddm, ddm_mpb"),
        (("x", "--type", "256"), "those end at 0xff"),
        (("x", "--module", "65536"), "those end at 0xffff"),
        (("module.bin", "--module", "1"), "module.bin does not begin with a module header"),
        (("empty", *NAME), "empty is empty"),
        (("large", *NAME), f"{MAX_SIZE + 1} bytes do not fit the {MAX_SIZE} bytes that a module"),
        ((".", *NAME), "is a directory"),
        (("module.bin", *NAME, "-i", "pci:1"), "real hardware, whose software would be changed"),
        (("--remove", *NAME, "-i", "pci:1"), "real hardware, whose software would be changed"),
        (("--upload", "-", *NAME, "--json"), "cannot both go to stdout"),
        (("--upload", ".", *NAME, "--size", "10", "-i", "emu:?store=s"), "is a directory"),
    ],
)
def test_wrong_usage(cli, module, monkeypatch, words, reason):
    monkeypatch.chdir(module.parent)
    (module.parent / "empty").touch()
    with (module.parent / "large").open("wb") as large:
        large.truncate(MAX_SIZE + 1)
    if words[:2] == ("--upload", "."):
        assert cli("download", "module.bin", *NAME, "--permanent", "-i", "emu:?store=s").code == 0
    ran = cli("download", *words)
    assert ran.code == 2
    assert reason in one_line(ran)


def test_a_missing_file(cli):
    ran = cli("download", "nowhere", *NAME)
    assert ran.code == 1
    assert one_line(ran) == "i2o: nowhere: No such file or directory"


def test_bytes_do_not_go_to_a_terminal(cli, monkeypatch):
    monkeypatch.setattr(output, "is_terminal", lambda stream: True)
    assert main(["download", "--upload", "-", *NAME]) == 2


def test_a_refused_fragment_tells_its_number(cli, module, tmp_path):
    faults = plan(tmp_path, 'on = "EXEC_SW_DOWNLOAD"\nafter = 2\naction = "fail"')
    ran = cli("download", module, *NAME, "--faults", faults)
    assert ran.code == 1
    assert "SwDownload of ddm 001b:0007, fragment 3 of 4: FAIL frame: CONGESTION" in one_line(ran)


def test_a_failed_upload_leaves_the_old_file(cli, module, uri, tmp_path):
    assert cli("download", module, *NAME, "--permanent", "-i", uri).code == 0
    faults = plan(
        tmp_path, 'on = "EXEC_SW_UPLOAD"\nafter = 2\naction = "status"\nreq_status = 5\ndetail = 3'
    )
    folder = tmp_path / "out"
    folder.mkdir()
    target = folder / "copy"
    target.write_bytes(b"old")
    ran = cli("download", "--upload", target, *NAME, "-i", uri, "--faults", faults)
    assert ran.code == 1
    assert "fragment 3 of 4" in one_line(ran)
    assert target.read_bytes() == b"old"
    assert os.listdir(folder) == ["copy"]
    ran = cli("download", "--upload", target, *NAME, "--size", "3G", "-i", uri)
    assert ran.code == 1
    assert f"expected 1 to {MAX_SIZE}" in one_line(ran)
    assert target.read_bytes() == b"old"


def test_an_iop_that_crashes_in_the_middle(cli, module, uri, tmp_path, monkeypatch):
    hurried = functools.partial(opening.open, clock=ManualClock())
    monkeypatch.setattr(opening, "open", hurried)
    faults = plan(tmp_path, 'on = "EXEC_SW_DOWNLOAD"\nafter = 1\naction = "crash"')
    ran = cli("download", module, *NAME, "--permanent", "-i", uri, "--faults", faults)
    assert ran.code == 1
    assert "no reply to exec_sw_download" in one_line(ran)
    assert "IOP reset: reset, and brought up again" in ran.err
    assert cli("download", "--list", "--json", "-i", uri).records == []


def test_an_interrupt_in_the_middle(program, environment, module, uri, tmp_path):
    faults = plan(tmp_path, 'on = "EXEC_SW_DOWNLOAD"\nafter = 1\naction = "delay"\nms = 600000')
    words = [*program, "download", module, *NAME, "--permanent", "--progress"]
    with subprocess.Popen(
        [*words, "-i", uri, "--faults", faults], stderr=subprocess.PIPE, env=environment
    ) as running:
        assert running.stderr is not None
        shown = b""
        while b"%" not in shown:  # the first fragment is there, the second one never ends
            some = os.read(running.stderr.fileno(), 100)
            assert some, f"it ended early and said {shown!r}"
            shown += some
        running.send_signal(signal.SIGINT)
        try:
            shown += running.communicate(timeout=60)[1]
        finally:
            running.kill()  # if it did not end, the test does
    assert running.returncode in ends_of_interrupt()
    assert shown.endswith(b"i2o: interrupted\n")
    assert b"Traceback" not in shown
    assert not (tmp_path / "store").exists()
