# SPDX-License-Identifier: Apache-2.0
"""The checks that every test gets do catch what they are for."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

CONFTEST = Path(__file__).resolve().parents[1] / "conftest.py"

LEAKY = """
import os, threading, time

def test_leaves_a_file_open():
    os.open("/dev/null", os.O_RDONLY)

def test_leaves_a_thread():
    threading.Thread(target=time.sleep, args=(5,), name="i2o-leak", daemon=True).start()

def test_is_clean():
    with open("/dev/null"):
        pass
"""

SKIPPING = """
import pytest

def test_skips():
    pytest.skip("no such tool")

@pytest.mark.xfail(reason="known")
def test_fails_as_expected():
    assert False

def test_passes():
    pass
"""


def run(folder: Path, text: str, **environment: str) -> str:
    shutil.copy(CONFTEST, folder)
    (folder / "test_it.py").write_text(text)
    names = ("I2O_TESTS_STRICT", "PYTEST_ADDOPTS", "COVERAGE_PROCESS_START")
    kept = {name: value for name, value in os.environ.items() if name not in names}
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_it.py"],
        cwd=folder,
        env={**kept, **environment},
        capture_output=True,
        text=True,
        timeout=60,
    ).stdout


def test_leaks_are_errors(tmp_path: Path) -> None:
    output = run(tmp_path, LEAKY)
    assert "(/dev/null)" in output
    assert "left behind: thread i2o-leak" in output
    assert "3 passed, 2 errors" in output


CYCLE = """
import gc, os, conftest

class Holder:
    def __init__(self):
        self.descriptor = os.open("/dev/null", os.O_RDONLY)
        self.itself = self
    def __del__(self):
        os.close(self.descriptor)

def test_leaves_something_to_the_garbage_collector():
    gc.disable()
    conftest._PATIENCE_S = 0
    Holder()
"""


def test_what_is_garbage_is_no_leak_however_long_it_takes_to_collect(tmp_path: Path) -> None:
    assert "1 passed in" in run(tmp_path, CYCLE)


@pytest.mark.parametrize(
    ("strict", "closing"),
    [("1", "1 failed, 1 passed, 1 xfailed"), ("", "1 passed, 1 skipped, 1 xfailed")],
)
def test_skipping_counts_where_it_must_not_happen(
    tmp_path: Path, strict: str, closing: str
) -> None:
    output = run(tmp_path, SKIPPING, I2O_TESTS_STRICT=strict)
    assert closing in output
    assert ("no such tool" in output) == bool(strict)


def test_a_skipped_module_counts_too(tmp_path: Path) -> None:
    text = "import pytest\npytest.skip('no such module', allow_module_level=True)\n"
    output = run(tmp_path, text, I2O_TESTS_STRICT="1")
    assert "1 error" in output
    assert "no such module" in output
