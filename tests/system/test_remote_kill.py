# SPDX-License-Identifier: Apache-2.0
"""A server that is killed in the middle of requests: each ends once, and its successor is used."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

import i2o
from i2o.errors import IopDead, RequestFailed
from i2o.frames.block_storage import BSA_STATUS_CHECK
from i2o.frames.header import FailureCode
from i2o.frames.tables import IopState
from i2o.message_frames import ReplyFrame
from i2o.testing.bare_host import BareHost
from i2o.transport.registry import open_port


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
            for number in range(100):  # some are answered by now, some are on their way
                iop.requester.start(message, on_reply=ended(number))
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


def test_kill_9_of_a_server_that_has_answered_nothing() -> None:
    """All that was on its way fails, once: nobody knows whether it was executed."""
    server, uri = start("tcp://127.0.0.1:0", "emulate", "--serve")
    try:
        with i2o.open(uri + "?timeout=20") as iop, iop.block() as disk:
            disk.write(0, b"a" * 512)
            server.send_signal(signal.SIGSTOP)
            ends: list[tuple[int, int]] = []

            def note(number: int) -> Callable[[ReplyFrame], None]:
                return lambda reply: ends.append(
                    (number, reply.failure_code if reply.failed and reply.final else -1)
                )

            message = BSA_STATUS_CHECK.build(target_address=disk.tid)
            for number in range(100):
                iop.requester.start(message, on_reply=note(number))
            assert not iop.layer.run_until(lambda: bool(ends), 0.05)
            assert iop.layer.outstanding(iop.number) == 100
            server.send_signal(signal.SIGKILL)
            assert iop.layer.run_until(lambda: len(ends) == 100, 30)
            assert not iop.layer.run_until(lambda: len(ends) > 100, 0.05)
            assert sorted(number for number, _ in ends) == list(range(100)), "each once"
            assert {code for _, code in ends} == {FailureCode.SERVICE_TERMINATED}
            kill(server)
            server, _ = start(uri, "emulate", "--serve")
            assert disk.read(0, 512) == bytes(512), "the next request reaches the next server"
    finally:
        stop(server)


HOST = """
import sys, i2o
from i2o.frames.block_storage import BSA_STATUS_CHECK
with i2o.open(sys.argv[1]) as iop, iop.block() as disk:
    disk.write(0, b"h" * 4096)
    message = BSA_STATUS_CHECK.build(target_address=disk.tid)
    iop.requester.start(message, on_reply=lambda reply: None)
    print("busy", flush=True)
    while True:
        disk.write(4096, b"h" * 65536)
"""


def test_kill_9_of_the_host_in_the_middle_of_its_writes(tmp_path: Path) -> None:
    """The server goes on, and the next host finds the IOP reset, with what was written."""
    image = tmp_path / "disk.img"
    image.write_bytes(bytes(1 << 20))
    server, uri = start("tcp://127.0.0.1:0", "emulate", "--disk", str(image), "--serve")
    try:
        for _ in range(2):
            host = subprocess.Popen([sys.executable, "-c", HOST, uri], stdout=subprocess.PIPE)
            assert host.stdout is not None
            assert host.stdout.readline() == b"busy\n"
            host.kill()
            host.stdout.close()
            assert host.wait(30) == -signal.SIGKILL
            with open_port(uri) as port:
                assert BareHost(port).state() == IopState.RESET
            with i2o.open(uri) as iop, iop.block() as disk:
                assert disk.read(0, 4096) == b"h" * 4096
                disk.write(0, bytes(4096))
                disk.status_check()
        assert server.poll() is None
    finally:
        assert stop(server) == 0


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
