# SPDX-License-Identifier: Apache-2.0
"""Flush means fdatasync: after the last write, before the reply; and its error is a reply."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys

import pytest

import i2o
from i2o.errors import RequestFailed

PROGRAM = """
import os, sys
import i2o
with i2o.open("emu:?disk=" + sys.argv[1] + "&run=" + sys.argv[2]) as iop:
    disk = iop.block()
    for index in range(4):
        disk.write(index << 20, bytes([index + 1]) * 70000)
    disk.flush()
    os.write(2, b"FLUSH REPLY SEEN")
"""


@pytest.fixture
def image(tmp_path):
    path = tmp_path / "disk.img"
    path.write_bytes(bytes(8 << 20))
    return path


@pytest.mark.skipif(shutil.which("strace") is None, reason="strace is missing: apt-get install it")
@pytest.mark.parametrize("run", ["inline", "thread"])
def test_fdatasync_comes_after_the_last_write_and_before_the_reply(image, tmp_path, run):
    log = tmp_path / "strace.log"
    subprocess.run(
        [
            *("strace", "-f", "-y", "-o", log),
            *("-e", "trace=write,pwrite64,pwritev,pwritev2,fsync,fdatasync"),
            *(sys.executable, "-c", PROGRAM, image, run),
        ],
        check=True,
        timeout=120,
        stderr=subprocess.DEVNULL,
    )
    lines = log.read_text().splitlines()
    name = re.escape(str(image))
    writes = [
        index for index, line in enumerate(lines) if re.search(rf"pwrite\w*\(\d+<{name}>", line)
    ]
    syncs = [
        # of a call that another thread's interrupted in the log, the line where it returns
        next(at for at, other in enumerate(lines[index:], index) if _ends_call(line, other))
        for index, line in enumerate(lines)
        if re.search(rf"fdatasync\(\d+<{name}>", line)
    ]
    replies = [index for index, line in enumerate(lines) if "FLUSH REPLY SEEN" in line]
    assert len(writes) >= 4
    assert len(replies) == 1
    assert any(max(writes) < sync < replies[0] for sync in syncs), "\n".join(lines)


def _ends_call(start, line):
    """Whether a line of the log is the end of the call that starts in another, or the same."""
    if "<unfinished" not in start:
        return line is start
    return line.split()[0] == start.split()[0] and "fdatasync resumed" in line


def test_an_fsync_error_is_an_error_reply(image, monkeypatch):
    def broken(descriptor: int) -> None:
        raise OSError(5, "Input/output error")

    with i2o.open(f"emu:?disk={image}") as iop:
        disk = iop.block()
        disk.write(0, b"data")
        with monkeypatch.context() as patch:
            patch.setattr("os.fdatasync", broken)
            with pytest.raises(RequestFailed) as caught:
                disk.flush()
        assert caught.value.req_status is not None, "an ordinary reply, no FAIL frame"
        assert caught.value.detail
        disk.flush()
        disk.close()


@pytest.mark.parametrize(("call", "message"), [("preadv", "read"), ("pwritev", "write")])
def test_io_errors_are_error_replies(image, monkeypatch, call, message):
    def broken(*_):
        raise OSError(5, "Input/output error")

    with i2o.open(f"emu:?disk={image}") as iop, iop.block() as disk:
        with monkeypatch.context() as patch:
            patch.setattr(f"os.{call}", broken)
            with pytest.raises(RequestFailed, match=f"bsa_block_{message}"):
                if message == "read":
                    disk.read(0, 4096)
                else:
                    disk.write(0, bytes(4096))
        assert disk.read(0, 4096) == bytes(4096)
