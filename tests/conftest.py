# SPDX-License-Identifier: Apache-2.0
"""What every test gets: a check for leaks, hypothesis profiles, and skips that count in CI.

And in how many processes tests run.
"""

from __future__ import annotations

import gc
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

settings.register_profile("dev", deadline=None, print_blob=True)
settings.register_profile(
    "ci", deadline=None, print_blob=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("ci" if os.environ.get("CI") else "dev")

STRICT = os.environ.get("I2O_TESTS_STRICT") == "1"
"""Skipping fails: set where everything that a test may need is installed."""

# shells let their background jobs ignore interrupts, and what they start inherits that: tests that
# interrupt a program would wait for ever
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])  # nor may who started us block them

_MOST_WORKERS = 8  # each collects all tests, and takes half a gigabyte

_PATIENCE_S = 1.0  # a thread that was told to stop may need a moment


@pytest.fixture(scope="module", autouse=True)
def _exempt_old_objects_from_collection() -> None:
    """Keep collections of garbage short: what thousands of tests leave is not looked through."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _no_leaks() -> Iterator[None]:
    """Fail a test that leaves a file descriptor or an `i2o-` thread behind."""
    files, threads = _open_files(), set(threading.enumerate())
    yield
    deadline = time.monotonic() + _PATIENCE_S
    while _left_behind(files, threads):
        is_late = time.monotonic() >= deadline
        gc.collect()  # on a busy machine this alone may take longer than the patience
        if is_late and (left := _left_behind(files, threads)):
            pytest.fail(f"left behind: {', '.join(left)}", pytrace=False)
        time.sleep(0.01)


def _left_behind(files: dict[int, str], threads: set[threading.Thread]) -> list[str]:
    left = [
        f"file descriptor {number} ({target})"
        for number, target in _open_files().items()
        if files.get(number) != target
    ]
    left += [
        f"thread {thread.name}"
        for thread in threading.enumerate()
        if thread not in threads and thread.name.startswith("i2o-")
    ]
    return left


def _open_files() -> dict[int, str]:
    """Return what each descriptor of this process is open on."""
    files = {}
    for name in os.listdir("/proc/self/fd"):
        try:
            files[int(name)] = os.readlink(f"/proc/self/fd/{name}")
        except FileNotFoundError:
            continue  # the descriptor that listed the folder
    return files


@pytest.hookimpl(optionalhook=True)  # pytest-xdist's
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Return in how many processes tests run: this one alone (0) if somebody chose some.

    All of them take one process more than there are processors, since many tests wait.
    """
    chosen = ("file_or_dir", "keyword", "markexpr", "deselect", "lf", "failedfirst", "stepwise")
    if any(config.getoption(name, None) for name in chosen):
        return 0
    return min(len(os.sched_getaffinity(0)) + 1, _MOST_WORKERS)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip what is marked `libfabric` where the extension that calls it was not built."""
    if item.get_closest_marker("libfabric") is not None:
        # here, since a folder of tests without i2o can use this file, too
        from i2o.errors import TransportUnavailable
        from i2o.transport.ofi.library import load as load_libfabric

        try:
            load_libfabric()
        except TransportUnavailable as error:
            pytest.skip(str(error))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    """Run what is marked `untraced` without coverage, which would make it much longer."""
    module = sys.modules.get("coverage")
    coverage = None if module is None else module.Coverage.current()
    if coverage is None or item.get_closest_marker("untraced") is None:
        return (yield)
    coverage.stop()
    try:
        return (yield)
    finally:
        coverage.start()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Iterator[pytest.TestReport]:
    report = yield
    if STRICT and report.skipped and not hasattr(report, "wasxfail"):
        _fail(report, item.nodeid)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector: pytest.Collector) -> Iterator[pytest.CollectReport]:
    report = yield
    if STRICT and report.skipped:
        _fail(report, collector.nodeid)
    return report


def _fail(report: pytest.TestReport | pytest.CollectReport, what: str) -> None:
    reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
    report.outcome = "failed"
    report.longrepr = f"{what} was skipped although I2O_TESTS_STRICT=1: {reason}"
