# SPDX-License-Identifier: Apache-2.0
"""Runs the `i2o` command, in this process or in one of its own, and makes disk images."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from i2o.tools.cli import main

CHECKOUT = Path(__file__).resolve().parents[2]


@dataclass
class Ran:
    code: int
    out: str
    err: str

    @property
    def records(self) -> list[dict]:
        return [json.loads(line) for line in self.out.splitlines()]


@dataclass
class RanProcess:
    code: int
    out: bytes
    err: str


@pytest.fixture(autouse=True)
def _working_folder(tmp_path_factory: pytest.TempPathFactory, monkeypatch) -> None:
    """Run in a folder of its own: the demo leaves a capture where it runs."""
    monkeypatch.chdir(tmp_path_factory.mktemp("work"))


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Callable[..., Ran]:
    """Run the command in this process."""

    def run(*arguments: object) -> Ran:
        capsys.readouterr()
        code = main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return Ran(code, captured.out, captured.err)

    return run


@pytest.fixture
def program() -> list[str]:
    return [sys.executable, "-m", "i2o"]


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    inherited = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    return {**inherited, "TMPDIR": str(tmp_path), "PYTHONPATH": str(CHECKOUT)}


@pytest.fixture
def process(program: list[str], environment: dict[str, str]) -> Callable[..., RanProcess]:
    """Run the command in a process of its own."""

    def run(*arguments: object, stdin: bytes = b"", cwd: Path | None = None) -> RanProcess:
        done = subprocess.run(
            [*program, *map(str, arguments)],
            input=stdin,
            capture_output=True,
            timeout=60,
            env=environment,
            cwd=cwd,
        )
        return RanProcess(done.returncode, done.stdout, done.stderr.decode())

    return run


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """A disk of 1 MiB with bytes that tell where they stand."""
    path = tmp_path / "disk.img"
    path.write_bytes(b"".join(number.to_bytes(4, "little") for number in range(1 << 18)))
    return path


@pytest.fixture
def uri(image: Path) -> str:
    return f"emu:?disk={image}"


def one_line(ran: Ran | RanProcess) -> str:
    """Check that stderr is one line without a traceback, and return it."""
    assert "Traceback" not in ran.err
    lines = ran.err.splitlines()
    assert len(lines) == 1, ran.err
    assert lines[0].startswith("i2o: ")
    return lines[0]
