# SPDX-License-Identifier: Apache-2.0
"""Entries of the cache are whole or absent, whoever else fills it and whatever interrupts that."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from vm.cache import Cache


def write(folder: Path) -> None:
    (folder / "file").write_text("whole")


def test_an_entry_is_made_once(tmp_path: Path) -> None:
    cache = Cache(tmp_path / "new" / "cache")
    assert cache.find("thing") is None
    path = cache.provide("thing", write)
    assert cache.provide("thing", lambda _: pytest.fail("made again")) == path
    assert cache.find("thing") == path
    assert (path / "file").read_text() == "whole"
    assert path.stat().st_mode & 0o777 == 0o755


def test_a_failure_leaves_nothing(tmp_path: Path) -> None:
    cache = Cache(tmp_path)

    def fail(folder: Path) -> None:
        write(folder)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cache.provide("thing", fail)
    assert cache.find("thing") is None
    assert not list(tmp_path.glob(".thing.new-*"))


def test_what_a_killed_run_left_is_removed(tmp_path: Path) -> None:
    (tmp_path / ".thing.new-killed").mkdir()
    (tmp_path / ".things.new-other").mkdir()
    Cache(tmp_path).provide("thing", write)
    assert [path.name for path in tmp_path.glob(".*.new-*")] == [".things.new-other"]


def test_of_two_runs_one_makes_it_and_the_other_waits(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    started, go_on = threading.Event(), threading.Event()
    made: list[Path] = []

    def make(folder: Path) -> None:
        made.append(folder)
        started.set()
        assert go_on.wait(10)
        write(folder)

    runs = [threading.Thread(target=cache.provide, args=("thing", make)) for _ in range(2)]
    for run in runs:
        run.start()
    assert started.wait(10)
    assert cache.find("thing") is None  # not before it is whole
    go_on.set()
    for run in runs:
        run.join(10)
    assert len(made) == 1
    assert (tmp_path / "thing" / "file").read_text() == "whole"


def test_where_the_cache_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.delenv("I2O_VM_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert Cache.of_user().folder == Path("/home/me/.cache/i2o/vm")
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")  # which its specification says to ignore
    assert Cache.of_user().folder == Path("/home/me/.cache/i2o/vm")
    monkeypatch.setenv("XDG_CACHE_HOME", "/caches")
    assert Cache.of_user().folder == Path("/caches/i2o/vm")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("I2O_VM_CACHE", "here")
    assert Cache.of_user().folder == tmp_path / "here"
