# SPDX-License-Identifier: Apache-2.0
"""`nbd` as far as it gets without nbdkit: its options, and what it says when nbdkit is missing."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from i2o.tools import nbd, nbdkit
from i2o.tools.nbdkit import Export, Listening

from .conftest import one_line


@pytest.fixture
def only(tmp_path: Path, monkeypatch):
    """Make a folder the only one with programs, and put a program there."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))

    def put(name: str, text: str) -> Path:
        path = folder / name
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)
        return path

    return put


def test_no_nbdkit(cli, only, uri, tmp_path, monkeypatch):
    ran = cli("nbd", "-i", uri)
    assert ran.code == 3
    assert one_line(ran) == (
        "i2o: nbd: nbdkit is not installed (Debian: apt install nbdkit nbdkit-plugin-python; "
        "Fedora: dnf install nbdkit nbdkit-python-plugin)"
    )


def test_nbdkit_without_its_python_plugin(cli, only, uri):
    only("nbdkit", "exit 1")
    ran = cli("nbd", "-i", uri)
    assert ran.code == 3
    assert "nbdkit has no Python plugin here (Debian: apt install nbdkit-plugin-python" in (
        one_line(ran)
    )


def test_nbdkit_that_does_not_end(cli, only, uri, monkeypatch):
    """It is killed when it does not end by itself."""
    monkeypatch.setattr(nbdkit, "_PATIENCE_S", 0.0)
    only(
        "nbdkit",
        'case "$2" in --dump-plugin) exit 0;; esac\ntrap "" TERM\n'
        "kill -TERM $PPID\nkill -INT $PPID\n"
        "exec /bin/sleep 60",
    )
    assert cli("nbd", "-i", uri).code == 0


def test_nbdkit_that_cannot_be_run(cli, only, uri, monkeypatch):
    path = only("nbdkit", "exit 0")
    real = nbdkit.find

    def find_and_remove() -> str:
        found = real()
        path.unlink()
        return found

    monkeypatch.setattr(nbdkit, "find", find_and_remove)
    ran = cli("nbd", "-i", uri)
    assert ran.code == 1
    assert "No such file" in one_line(ran)


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["--write", "--cow"], "--write writes to the disk, --cow does not"),
        (["--unix", "a", "--port", "1"], "nbdkit listens at one place"),
        (["--bind", "::1"], "--bind goes with --port"),
        (["--port", "0"], "is no port: those are 1 to 65535"),
        (["--port", "65536"], "is no port"),
        (["--port", "1", "--bind", "localhost"], "'localhost' is no IP address"),
        (["--unix", "."], ". is there already"),
        (["--unix", ""], "--unix needs a path"),
        (["0x99"], "no device has TID 0x099"),
    ],
)
def test_what_is_refused(cli, uri, words, complaint):
    ran = cli("nbd", "-i", uri, *words)
    assert complaint in one_line(ran)
    assert ran.code == (1 if words == ["0x99"] else 2)


def test_disks_that_cannot_be_exported(cli, image, monkeypatch):
    ran = cli("nbd", "-i", f"emu:?disk={image},ro", "--write")
    assert "TID 0x010 is read-only (leave --write away)" in one_line(ran)
    monkeypatch.setattr(nbd, "MAX_BLOCK", 2048)  # an emulated disk has no larger blocks than NBD
    ran = cli("nbd", "-i", f"emu:?disk={image},block_size=4096")
    assert "blocks of 4096 bytes: NBD can have 2048 at most" in one_line(ran)


def test_an_address_that_others_reach_is_noted(cli, only, uri):
    ran = cli("nbd", "-i", uri, "--port", "10809", "--bind", "0.0.0.0")
    assert ran.err.splitlines()[0] == "i2o: whoever reaches 0.0.0.0:10809 can use the disk"
    ran = cli("nbd", "-i", uri, "--port", "10809", "--bind", "::1")
    assert "whoever" not in ran.err


@pytest.mark.parametrize(
    ("export", "expected"),
    [
        (Export(1 << 20, 512, 4096), ["--readonly", "--filter=blocksize", "minblock=512"]),
        (Export(1 << 20, 512, 4096, writable=True), ["--filter=blocksize", "maxdata=4096"]),
        (
            Export(1 << 20, 512, 4096, cow=True, extra=["--filter=log", "logfile=x"]),
            ["--filter=log", "--filter=cow", "--filter=blocksize", "logfile=x"],
        ),
        (
            Export(1 << 20, 512, 4096, readahead=True),
            ["--readonly", "--filter=readahead", "--filter=cache", "--filter=blocksize",
             "cache=writethrough", "cache-on-read=true"],
        ),
    ],
)  # fmt: skip
def test_the_command_line(export, expected):
    words = nbdkit.command("nbdkit", Listening(unix="/s"), export)
    assert [word for word in words if word in expected] == expected
    assert ("--readonly" in words) == ("--readonly" in expected)
    assert words.index("python") > max(at for at, word in enumerate(words) if word[:2] == "--")
    assert "--unix=/s" in words
    words = nbdkit.command("nbdkit", Listening(address="::1", port=7), export)
    assert {"--ipaddr=::1", "--port=7"} <= set(words)


def test_nbdkit_gets_none_of_our_python(monkeypatch):
    left = nbdkit._environment({"PYTHONPATH": "x", "PYTHONHOME": "y", "PATH": os.defpath})
    assert left == {"PATH": os.defpath}
