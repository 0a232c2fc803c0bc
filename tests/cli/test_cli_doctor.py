# SPDX-License-Identifier: Apache-2.0
"""`doctor`: a line per check, a remedy per problem, and an exit code that tells."""

from __future__ import annotations

import functools
import subprocess
import sys
from dataclasses import replace
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest

from i2o import opening
from i2o.clock import ManualClock
from i2o.errors import TransportUnavailable
from i2o.tools import doctor
from i2o.tools.checks.finding import Check
from i2o.tools.checks.machine import Machine

from .conftest import CHECKOUT, one_line


def _no_wireshark() -> tuple[Path, Path]:
    raise TransportUnavailable("wireshark", "not installed")


@pytest.fixture(autouse=True)
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    """A machine with nothing in /sys and /proc, so that every test finds the same."""
    made = Machine(root=tmp_path, environment={}, wireshark_places=_no_wireshark)
    monkeypatch.setattr(doctor, "Machine", lambda: made)
    return made


def test_a_sound_machine_without_an_iop(cli):
    ran = cli("doctor")
    assert (ran.code, ran.err) == (0, "")
    lines = ran.out.splitlines()
    assert lines[0] == "this machine"
    assert lines[1].startswith("  ok       python      Python 3.")
    assert "hardware" in lines
    assert "  note     vfio        VFIO is not loaded" in lines
    assert "                       -> as root: modprobe vfio-pci" in lines
    assert lines[-1].endswith("0 problems")
    assert "\x1b" not in ran.out


def test_a_sound_iop(cli):
    ran = cli("doctor", "-i", "emu:", "-i", "emu:?frames=9")
    assert ran.code == 0
    assert ran.out.count("OPERATIONAL after") == 2
    assert "all 128 inbound frames came home" in ran.out
    assert "all 9 inbound frames came home" in ran.out
    assert "\nemu:?frames=9\n" in ran.out


def test_as_json(cli):
    records = cli("doctor", "--json", "-i", "emu:").records
    assert all(list(record) == ["area", "check", "level", "text", "remedy"] for record in records)
    assert {record["area"] for record in records} == {"this machine", "hardware", "emu:"}
    assert {record["level"] for record in records} == {"ok", "note"}
    counts = cli("doctor", "-i", "emu:").out.splitlines()[-1]
    oks = sum(record["level"] == "ok" for record in records)
    assert counts == f"{oks} ok, {len(records) - oks} notes, 0 problems"


def test_a_problem_of_the_machine(cli, machine, monkeypatch):
    def absent(name):
        raise PackageNotFoundError(name)

    monkeypatch.setattr(doctor, "Machine", lambda: replace(machine, version_of=absent))
    ran = cli("doctor")
    assert ran.code == 1
    assert "  problem  packages    cffi is not installed" in ran.out
    assert ran.out.splitlines()[-1].endswith("2 problems")


def test_a_check_that_raises(cli, monkeypatch):
    def raises(subject):
        raise ZeroDivisionError("oh")

    monkeypatch.setattr(doctor, "MACHINE", (Check("mine", raises), *doctor.MACHINE))
    ran = cli("doctor")
    assert (ran.code, ran.err) == (1, "")
    assert "the check could not be done: ZeroDivisionError: oh" in ran.out
    assert " ok       python " in ran.out


@pytest.mark.parametrize(
    ("uri", "code", "text"),
    [
        ("emu:?disk=/nowhere", 3, "disk image '/nowhere' does not exist"),
        ("emu:?frames=0", 2, "frames=0 is not between"),
        ("nonsense:", 2, "no backend called 'nonsense'"),
        ("nonsense", 2, "is no IOP URI"),
    ],
)
def test_an_iop_that_cannot_be_opened(cli, uri, code, text):
    ran = cli("doctor", "--json", "-i", uri, "-i", "emu:")
    assert (ran.code, ran.err) == (code, "")
    (record,) = [one for one in ran.records if one["level"] == "problem"]
    assert (record["area"], record["check"]) == (uri, "open")
    assert text in record["text"]
    assert record["remedy"]
    assert ran.records[-1]["area"] == "emu:"  # the next one is looked at all the same


def test_an_iop_that_does_not_come_up(cli, tmp_path, monkeypatch):
    monkeypatch.setattr(opening, "open", functools.partial(opening.open, clock=ManualClock()))
    plan = tmp_path / "plan.toml"
    plan.write_text('[[fault]]\non = "EXEC_SYS_ENABLE"\naction = "drop"\n')
    ran = cli("doctor", "--json", "-i", "emu:", "--faults", plan)
    assert ran.code == 3
    assert "exec_sys_enable" in ran.records[-1]["text"]
    assert "power" in ran.records[-1]["remedy"]


def test_an_iop_that_crashes_in_the_middle(cli, tmp_path, monkeypatch):
    monkeypatch.setattr(opening, "open", functools.partial(opening.open, clock=ManualClock()))
    plan = tmp_path / "plan.toml"
    plan.write_text('[[fault]]\non = "UTIL_PARAMS_GET"\nafter = 3\naction = "crash"\n')
    ran = cli("doctor", "-i", "emu:", "--faults", plan)
    assert (ran.code, ran.err) == (1, "")
    assert "  problem  parameters  no reply to util_params_get" in ran.out
    assert "not looked at for that reason: disks, interrupt, frames, complaints" in ran.out


def test_an_error_at_the_end_is_told(cli, monkeypatch):
    real = opening.open

    def opened(*args, **options):
        iop = real(*args, **options)
        close = iop.close

        def close_and_fail():
            close()
            raise OSError(5, "Input/output error")

        iop.close = close_and_fail
        return iop

    monkeypatch.setattr(opening, "open", opened)
    ran = cli("doctor", "--json", "-i", "emu:")
    assert ran.code == 0
    assert (ran.records[-1]["check"], ran.records[-1]["text"]) == ("close", "Input/output error")


def test_faults_need_an_iop(cli):
    ran = cli("doctor", "--faults", "plan.toml")
    assert ran.code == 2
    assert "--faults goes with -i" in one_line(ran)
    ran = cli("doctor", "--faults", "plan.toml", "-i", "pci:1")
    assert ran.code == 2
    assert ran.out == ""


WITHOUT_CONSTRUCT = """
import sys
sys.modules["construct"] = None
from i2o.tools.cli import main
sys.exit(main(sys.argv[1:]))
"""


def test_it_runs_without_the_packages_and_the_other_commands_name_it(environment):
    def run(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", WITHOUT_CONSTRUCT, *words],
            capture_output=True, text=True, timeout=60, env=environment, cwd=CHECKOUT,
        )  # fmt: skip

    ran = run("doctor", "-i", "emu:")
    assert (ran.returncode, ran.stderr) == (3, "")
    assert "problem  open " in ran.stdout
    assert "see the packages above" in ran.stdout
    ran = run("status")
    assert ran.returncode == 3
    assert ran.stderr.startswith("i2o: ")
    assert ran.stderr.endswith("(i2o doctor says what is missing)\n")
    assert len(ran.stderr.splitlines()) == 1


def test_a_module_of_our_own_that_is_missing_is_a_bug(cli, monkeypatch):
    monkeypatch.setitem(sys.modules, "i2o.tools.doctor", None)
    with pytest.raises(ModuleNotFoundError):
        cli("doctor")
