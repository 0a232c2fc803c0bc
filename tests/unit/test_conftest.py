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


def run(folder: Path, text: str, *options: str, **environment: str) -> str:
    shutil.copy(CONFTEST, folder)
    (folder / "test_it.py").write_text(text)
    names = (
        "I2O_TESTS_STRICT", "PYTEST_ADDOPTS", "COVERAGE_PROCESS_START", "PYTEST_XDIST_WORKER",
    )  # fmt: skip
    kept = {name: value for name, value in os.environ.items() if name not in names}
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *options],
        cwd=folder,
        env={**kept, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=60,
    ).stdout


several_processes = pytest.mark.parametrize("workers", ["0", "2"])


@several_processes
def test_leaks_are_errors(tmp_path: Path, workers: str) -> None:
    output = run(tmp_path, LEAKY, "-n", workers)
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


@several_processes
@pytest.mark.parametrize(
    ("strict", "closing"),
    [("1", "1 failed, 1 passed, 1 xfailed"), ("", "1 passed, 1 skipped, 1 xfailed")],
)
def test_skipping_counts_where_it_must_not_happen(
    tmp_path: Path, strict: str, closing: str, workers: str
) -> None:
    output = run(tmp_path, SKIPPING, "-n", workers, I2O_TESTS_STRICT=strict)
    assert closing in output
    assert ("no such tool" in output) == bool(strict)


@several_processes
def test_a_skipped_module_counts_too(tmp_path: Path, workers: str) -> None:
    text = "import pytest\npytest.skip('no such module', allow_module_level=True)\n"
    output = run(tmp_path, text, "-n", workers, I2O_TESTS_STRICT="1")
    assert "1 error" in output
    assert "no such module" in output


@several_processes
def test_a_test_that_hangs_is_named(tmp_path: Path, workers: str) -> None:
    text = "import threading\ndef test_hangs():\n    threading.Event().wait()\n"
    limits = ("faulthandler_timeout=1", "faulthandler_exit_on_timeout=true")
    options = [word for limit in limits for word in ("-o", limit)]
    said = run(tmp_path, text, "-n", workers, *options)
    assert "in test_hangs" in said
    if workers != "0":  # the others go on
        assert "crashed while running 'test_it.py::test_hangs'" in said
        assert "1 failed" in said


WHERE = """
import os

def test_where():
    print("in", os.environ.get("PYTEST_XDIST_WORKER", "this process"))

def test_there():
    pass
"""


@pytest.mark.parametrize("chosen", [(), ("-k", "where"), ("test_it.py",), ("-m", "not slow")])
def test_all_tests_share_the_processors_and_chosen_ones_do_not(
    tmp_path: Path, chosen: tuple[str, ...]
) -> None:
    said = run(tmp_path, WHERE, "-n", "auto", "-rP", *chosen)
    assert ("in this process" in said) == bool(chosen)
    assert ("in gw" in said) == (not chosen)


def test_there_is_a_process_more_than_there_are_processors_but_not_hundreds(
    tmp_path: Path,
) -> None:
    text = "import conftest, pytest, os\ndef test_how_many(monkeypatch, pytestconfig):\n"
    for processors, workers in ((1, 2), (2, 3), (64, 8)):
        text += (
            f"    monkeypatch.setattr(os, 'sched_getaffinity', lambda pid: range({processors}))\n"
            f"    assert conftest.pytest_xdist_auto_num_workers(pytestconfig) == {workers}\n"
        )
    assert "1 passed" in run(tmp_path, text)


FREEZING = """
import gc

def test_old_objects_are_exempt():
    assert gc.get_freeze_count() > 10_000
    print("exempt:", gc.get_freeze_count())
"""


def test_what_is_older_than_a_module_is_no_garbage_to_look_through(tmp_path: Path) -> None:
    """A test that collects garbage often would take minutes among thousands of others."""
    (tmp_path / "test_before.py").write_text(FREEZING)
    said = run(tmp_path, FREEZING, "-s")
    first, second = (int(line.split()[1]) for line in said.splitlines() if "exempt:" in line)
    assert first < second


TRACED = """
import sys
import pytest
from coverage import Coverage

def is_traced():
    return sys.gettrace() is not None

@pytest.fixture(autouse=True, scope="session")
def _traced(tmp_path_factory):
    coverage = Coverage(data_file=str(tmp_path_factory.mktemp("data") / "data"))
    coverage.set_option("run:core", "ctrace")
    coverage.start()
    yield
    coverage.stop()

def test_first():
    assert is_traced()

@pytest.mark.untraced
def test_long():
    assert not is_traced()

@pytest.mark.untraced
def test_long_and_wrong():
    assert is_traced(), "as it should be"

def test_last():
    assert is_traced()
"""


def test_coverage_does_not_look_at_what_is_long(tmp_path: Path) -> None:
    said = run(tmp_path, TRACED)
    assert "3 passed" in said
    assert "as it should be" in said
    assert "1 failed" in said
