# SPDX-License-Identifier: Apache-2.0
"""An IOP in shared memory, and one side killed with `kill -9`, in processes of their own."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from i2o.errors import InvalidArgument, IopDead, OutOfFrames
from i2o.frames import block_storage as bsa
from i2o.opening import open as open_iop
from i2o.transport.child_process import module_command, module_environment

CHECK = bsa.BSA_STATUS_CHECK.build(target_address=0x010)
HOST = """
import sys
from i2o.frames import block_storage as bsa
from i2o.opening import open as open_iop
iop = open_iop("shm:test")
check = bsa.BSA_STATUS_CHECK.build(target_address=0x010)
posted = 0
while True:
    for _ in range(16):
        iop.requester.start(check)
    posted += 16
    if posted == 160:
        print("busy", flush=True)
    iop.layer.run_until(lambda: not iop.requester.in_flight, 60, drain=True)
"""


@pytest.fixture(autouse=True)
def runtime_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "run"))


class Server:
    """`i2o emulate --serve shm:test`."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            module_command("i2o", "emulate", "--serve", "shm:test?spin=50"),
            stdout=subprocess.PIPE,
            env=module_environment(),
        )
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == b"ready shm:test\n"

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    yield made
    made.kill()


def test_hosts_that_are_killed_in_the_middle_of_traffic(server):
    for _ in range(3):
        host = subprocess.Popen(
            [sys.executable, "-c", HOST], stdout=subprocess.PIPE, env=module_environment()
        )
        assert host.stdout.readline() == b"busy\n"
        host.kill()
        host.communicate()
        with open_iop("shm:test") as iop, iop.block() as disk:
            assert disk.read(0, 512) == bytes(512)
    assert server.process.poll() is None
    kinds = []
    for held in Path(f"/proc/{server.process.pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # it was just closed
            kinds.append(os.readlink(held))
    assert sum("i2o-shm" in kind for kind in kinds) <= 1, "what was shared went with its host"


def one_that_is_killed(server: Server) -> None:
    """Every request that was started ends exactly once, though the server dies among them."""
    ended: list[bool] = []
    with open_iop("shm:test") as iop:
        started = 0
        with contextlib.suppress(OutOfFrames, InvalidArgument, IopDead):  # it is known to be dead
            while started < 400:
                iop.requester.start(CHECK, on_reply=lambda reply: ended.append(reply.failed))
                started += 1
                if started == 200:
                    server.kill()
        assert iop.layer.run_until(lambda: len(ended) == started, 60, drain=True)
        iop.layer.poll()
        assert len(ended) == started
        assert ended[-1], "those that the server had left open have failed"


def test_a_server_that_is_killed_in_the_middle_of_traffic(server):
    folder = Path("/dev/shm")
    before = set(os.listdir(folder)) if folder.is_dir() else set()
    one_that_is_killed(server)
    again = Server()  # the stale socket is replaced
    with open_iop("shm:test") as iop:
        assert iop.status.state_name == "OPERATIONAL"
    one_that_is_killed(again)
    after = set(os.listdir(folder)) if folder.is_dir() else set()
    assert not [name for name in after - before if "i2o" in name]
