# SPDX-License-Identifier: Apache-2.0
"""A server that is killed in the middle of requests: each ends once, and its successor is used."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

import i2o
from i2o.errors import IopDead, RequestFailed
from i2o.frames.block_storage import BSA_STATUS_CHECK
from i2o.message_frames import ReplyFrame


def start(uri: str, *options: str, **environment: str) -> tuple[subprocess.Popen[str], str]:
    """Start a server, and return it with the URI that it says."""
    process = subprocess.Popen(
        [sys.executable, "-m", "i2o", *options, uri],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, **environment},
    )
    assert process.stdout is not None
    return process, process.stdout.readline().strip().removeprefix("ready ")


def stop(process: subprocess.Popen[str]) -> int:
    process.terminate()
    assert process.stdout is not None
    process.stdout.close()
    return process.wait(30)


def kill(process: subprocess.Popen[str]) -> None:
    process.send_signal(signal.SIGKILL)
    stop(process)


def test_kill_9_in_the_middle_of_100_requests(tmp_path: Path) -> None:
    image = tmp_path / "disk.img"
    image.write_bytes(os.urandom(1 << 20))
    server, uri = start("tcp://127.0.0.1:0", "emulate", "--disk", str(image), "--serve")
    try:
        with i2o.open(uri + "?timeout=20") as iop, iop.block() as disk:
            ends: Counter[int] = Counter()

            def ended(number: int):  # type: ignore[no-untyped-def]
                def note(reply: ReplyFrame) -> None:
                    ends[number] += 1

                return note

            message = BSA_STATUS_CHECK.build(target_address=disk.tid)
            for number in range(100):
                iop.requester.start(message, on_reply=ended(number))
                if number == 50:
                    server.send_signal(signal.SIGKILL)
            assert iop.layer.run_until(lambda: len(ends) == 100, 30)
            assert iop.layer.outstanding(iop.number) == 0
            kill(server)
            server, again = start(uri, "emulate", "--disk", str(image), "--serve")
            assert again == uri
            for _ in range(2):
                try:
                    assert disk.read(0, 1 << 20) == image.read_bytes()
                    break
                except (RequestFailed, IopDead):
                    continue
            assert disk.read(512, 4096) == image.read_bytes()[512 : 512 + 4096]
            assert ends == Counter(range(100)), "each once"
    finally:
        stop(server)


@pytest.mark.parametrize("inner", ["emu:", "emu:?run=process"])
def test_a_bridge_in_a_program_of_its_own(inner: str) -> None:
    server, uri = start("tcp://127.0.0.1:0", "serve", "-i", inner)
    try:
        for _ in range(2):
            with i2o.open(uri) as iop, iop.block() as disk:
                disk.write(0, b"z" * 70_000)
                assert disk.read(0, 70_000) == b"z" * 70_000
    finally:
        assert stop(server) == 0


def test_captures_of_both_sides_agree(tmp_path: Path) -> None:
    theirs, ours = tmp_path / "server.pcapng", tmp_path / "host.pcapng"
    server, uri = start("tcp://127.0.0.1:0", "emulate", "--serve", I2O_CAPTURE=str(theirs))
    try:
        subprocess.run(
            [sys.executable, "-m", "i2o", "read", "-i", uri, "16", "--count", "64K", "--sha256"],
            check=True,
            capture_output=True,
            env={**os.environ, "I2O_CAPTURE": str(ours)},
        )
    finally:
        assert stop(server) == 0
    shown = [
        subprocess.run(
            [sys.executable, "-m", "i2o", "dump", "-r", str(file)],
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        for file in (theirs, ours)
    ]
    for text in shown:
        assert text.count("bsa_block_read") >= 2
