# SPDX-License-Identifier: Apache-2.0
"""100,000 frames into a software IOP, four of five of them right but for one or two fields.

It is connected with another one; static frames are posted and disks are plugged in between.
They run in a process of their own, which measures the branches of what serves requests: this test
alone must reach most of them. When it fails it says which frame it was and how to see that again.
With `I2O_TESTS_FULL=1` there are 200,000.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from bench import frame_fuzz
from bench.frame_fuzz import INBOUND, Broken, FrameFuzz

from fakes.valid_frames import ALIASES
from i2o.frames.scsi import ScbFlags
from i2o.iop_emulator.ddm import scb
from i2o.iop_emulator.ddm.base import Ddm
from i2o.iop_emulator.ddm.config_dialog import ConfigDialog
from i2o.iop_emulator.executive import Executive
from i2o.iop_emulator.request import Request
from i2o.iop_emulator.scsi.logical_unit import LogicalUnit
from i2o.iop_emulator.scsi.sense import AdditionalSense

ROOT = Path(__file__).parents[2]
FRAMES = 200_000 if os.environ.get("I2O_TESTS_FULL") == "1" else 100_000
SEED = 20_261_125
MOST_PATIENCE_S = 900
MUTATED = 0.80
BRANCHES = 94.0
HANDLERS = (
    "executive*.py",
    "ddm/*.py",
    "parameters.py",
    "parameter_groups.py",
    "events.py",
    "sgl_data.py",
    "frame_check.py",
    "software_store.py",
    "lct.py",
    "request.py",
    "reply_queue.py",
    "scheduler.py",
    "static_frames.py",
    "peers.py",
    "iop_system.py",
    "disk_bay.py",
    "bad_blocks.py",
    "scsi/*.py",
)
"""Modules with `@handles` methods, and what those call: files of iop_emulator."""
STATES = {"RESET", "HOLD", "READY", "OPERATIONAL", "FAILED"}


@dataclass
class Run:
    """What a run of the fuzzer came to.

    Attributes:
        told: what it printed.
        report: its counts, empty if it failed.
        files: branches of each file, those that were taken and all of them.
    """

    told: str
    report: dict[str, Any]
    files: dict[str, tuple[int, int]]


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Send all frames, under a measurement that has nothing to do with that of the tests."""
    folder = tmp_path_factory.mktemp("fuzz")
    settings, report, branches = folder / "rc", folder / "report.json", folder / "branches.json"
    included = "".join(f"\n    */iop_emulator/{pattern}" for pattern in HANDLERS)
    settings.write_text(
        f"[run]\nbranch = true\ndata_file = {folder / 'data'}\ninclude ={included}\n"
    )
    coverage = (sys.executable, "-m", "coverage")
    fuzz = ("-m", "bench.frame_fuzz", "--frames", str(FRAMES), "--seed", str(SEED))
    done = _run(*coverage, "run", f"--rcfile={settings}", *fuzz, "--json", str(report))
    told = done.stdout + done.stderr
    if done.returncode:
        return Run(told, {}, {})
    made = _run(*coverage, "json", f"--rcfile={settings}", "-q", "-o", str(branches))
    assert made.returncode == 0, made.stdout + made.stderr
    files = {
        "/".join(Path(name).parts[Path(name).parts.index("iop_emulator") + 1 :]): (
            file["summary"]["covered_branches"],
            file["summary"]["num_branches"],
        )
        for name, file in json.loads(branches.read_text())["files"].items()
    }
    return Run(told, json.loads(report.read_text()), files)


def _run(*command: str) -> subprocess.CompletedProcess[str]:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("COVERAGE_")}
    path = [str(ROOT / "tests"), *filter(None, [environment.get("PYTHONPATH")])]
    environment["PYTHONPATH"] = os.pathsep.join(path)
    return subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=MOST_PATIENCE_S
    )


def test_no_frame_breaks_the_iop(whole_run: Run) -> None:
    assert whole_run.report, whole_run.told
    kinds = whole_run.report["kinds"]
    assert whole_run.report["frames"] == FRAMES
    assert kinds["mutated"] >= MUTATED * FRAMES
    assert kinds["valid"] > 0.1 * FRAMES
    assert set(whole_run.report["states"]) == STATES
    assert kinds["most requests that wait"] > 10, "the backlog never filled up"
    assert all(kinds[act] > 100 for act in ("post", "plug", "far plug", "far frame", "far trouble"))
    assert kinds["most network messages that wait"] > 3
    assert kinds["most static frames"] == INBOUND // 2
    assert kinds["most aliases"] > len(ALIASES) + 1
    assert kinds["most requests on their way"] > 1
    sent = whole_run.report["functions"]
    rare = [hex(code) for code in whole_run.report["served"] if sent.get(str(code), 0) < 50]
    assert not rare, f"functions that hardly came: {rare}"


def test_they_reach_the_branches_of_the_handlers(whole_run: Run) -> None:
    assert whole_run.report, whole_run.told
    table = "\n".join(
        f"{name:32} {taken:4} of {there:4} branches, {100 * taken / max(1, there):5.1f} %"
        for name, (taken, there) in sorted(whole_run.files.items())
    )
    taken, there = map(sum, zip(*whole_run.files.values(), strict=True))
    share = 100 * taken / there
    print(f"{table}\n{'all':32} {taken:4} of {there:4} branches, {share:5.1f} %")
    assert share >= BRANCHES, table
    emulator = ROOT / "iop_emulator"
    with_handlers = {
        str(path.relative_to(emulator))
        for path in emulator.rglob("*.py")
        if "\n    @handles(" in path.read_text()
    }
    assert len(with_handlers) >= 7
    assert with_handlers <= set(whole_run.files), (
        "HANDLERS leaves out a module that serves requests"
    )


# --- the fuzzer notices ---------------------------------------------------------------------------


def _raises(monkeypatch: pytest.MonkeyPatch) -> None:
    """Some forms bring an exception out."""
    inner = ConfigDialog.page

    def page(self: ConfigDialog, number: int, query: bytes, initiator: int) -> str:
        if query:
            query.index(b"=")
        return inner(self, number, query, initiator)

    monkeypatch.setattr(ConfigDialog, "page", page)


def _writes_too_far(monkeypatch: pytest.MonkeyPatch) -> None:
    """The hardware resource table is a byte longer than the buffer."""
    inner = Executive._give_table

    def give(self: Executive, request: Request, word: int, table: bytes, *, padding: int = 0):
        reply = inner(self, request, word, table, padding=padding)
        start = 4 * word
        if len(request.frame) == start + 8 and request.frame[start + 3] == 0xD0:
            address = int.from_bytes(request.frame[start + 4 : start + 8], "little")
            count = int.from_bytes(request.frame[start : start + 3], "little")
            self.control.dma.write(address + count, b"!")
        return reply

    monkeypatch.setattr(Executive, "_give_table", give)


def _answers_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    inner = Ddm.abort_requests

    def abort(self: Ddm, matches: Callable[[Request], bool], status: int, **options: bool) -> int:
        def matches_and_answers(request: Request) -> bool:
            found = matches(request)
            if found:
                self.iop.send(request.success())
            return found

        return inner(self, matches_and_answers, status, **options)

    monkeypatch.setattr(Ddm, "abort_requests", abort)


def _keeps_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("i2o.iop_emulator.ddm.base.MAX_USERS", 1 << 30)


def _reads_instead(monkeypatch: pytest.MonkeyPatch) -> None:
    """A SCSI command gets memory to write to, whatever its SCB says of the direction."""
    monkeypatch.setattr(scb, "_FROM_DEVICE", ScbFlags.XFER_TO_DEVICE.value)


def _forgets_no_attention(monkeypatch: pytest.MonkeyPatch) -> None:
    """A SCSI disk is told of each bus reset, and nobody of the ones before."""

    def reset(self: LogicalUnit, code: AdditionalSense) -> None:
        self._attentions.append(code)

    monkeypatch.setattr(LogicalUnit, "reset", reset)


@contextmanager
def _losing_frames(fuzz: FrameFuzz) -> Iterator[None]:
    """Every hundredth frame is not given back."""
    inner, count = fuzz.iop._recycle, 0

    def recycle(mfa: int) -> None:
        nonlocal count
        count += 1
        if count % 100:
            inner(mfa)

    fuzz.iop._recycle = recycle  # type: ignore[method-assign]
    yield


@pytest.mark.parametrize(
    ("sabotage", "words"),
    [
        (_raises, "subsection not found"),
        (_writes_too_far, "1 bytes were written"),
        (_answers_twice, "a reply that nobody waits for"),
        (_keeps_everything, "users of a device"),
        (_reads_instead, "bytes were written at"),
        (_forgets_no_attention, "unit attentions"),
    ],
)
def test_a_bug_is_found(
    monkeypatch: pytest.MonkeyPatch, sabotage: Callable[[pytest.MonkeyPatch], None], words: str
) -> None:
    sabotage(monkeypatch)
    fuzz = FrameFuzz(2, variants=6)
    with pytest.raises((Broken, ValueError)) as caught:
        list(fuzz.run(20_000))
    told = fuzz.problem(caught.value)
    assert words in told
    assert f"seed 2, frame {fuzz.recent[-1][0]}" in told
    assert fuzz.recent[-1][2].hex() in told
    assert "bench.frame_fuzz --seed 2 --episode" in told


def test_a_lost_frame_is_found() -> None:
    fuzz = FrameFuzz(1, variants=6)
    with _losing_frames(fuzz), pytest.raises(Broken, match="inbound frame"):
        list(fuzz.run(1000))


def test_an_episode_runs_again_alone(capsys: pytest.CaptureFixture[str]) -> None:
    """The same frames come, all of them or only the last."""
    assert frame_fuzz.main(["--seed", "3", "--episode", "2", "--length", "40", "--show"]) == 0
    whole = [line for line in capsys.readouterr().out.splitlines() if " " in line and "0" in line]
    arguments = ["--seed", "3", "--episode", "2", "--length", "40", "--last", "5", "--show"]
    assert frame_fuzz.main(arguments) == 0
    last = capsys.readouterr().out.splitlines()[:5]
    assert last == whole[35:40]
    assert last[-1].startswith(f"{2 * frame_fuzz.EPISODE + 39:7} ")
