# SPDX-License-Identifier: Apache-2.0
"""`i2o nbd` with nbdkit, as clients see it: nbdcopy and nbdinfo of libnbd."""

from __future__ import annotations

import hashlib
import os
import random
import select
import shutil
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from fakes.nbd_client import NbdClient

CHECKOUT = Path(__file__).resolve().parents[2]
SIZE = 8 << 20
_TIMEOUT_S = 60


def _missing() -> str:
    for program in ("nbdkit", "nbdcopy", "nbdinfo"):
        if shutil.which(program) is None:
            return f"{program} is not installed"
    asked = subprocess.run(["nbdkit", "python", "--dump-plugin"], capture_output=True)
    return "nbdkit has no Python plugin" if asked.returncode else ""


pytestmark = pytest.mark.skipif(bool(_missing()), reason=_missing())


class Export:
    """A running `i2o nbd`."""

    def __init__(self, folder: Path, *arguments: object) -> None:
        self.stderr = folder / "stderr"
        with self.stderr.open("wb") as errors:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "i2o", "nbd", *map(str, arguments)],
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                cwd=folder,
                env={**os.environ, "PYTHONPATH": str(CHECKOUT), "TMPDIR": str(folder)},
            )
        line = self.process.stdout.readline()
        assert line.startswith("ready nbd"), self.stderr.read_text()
        self.uri = line.split()[1]

    @property
    def socket(self) -> Path:
        return Path(parse_qs(urlsplit(self.uri).query)["socket"][0])

    @property
    def nbdkit(self) -> int:
        """The process id of nbdkit."""
        children = f"/proc/{self.process.pid}/task/{self.process.pid}/children"
        (child,) = Path(children).read_text().split()
        return int(child)

    def end(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(_TIMEOUT_S)

    def close(self) -> None:
        if self.process.poll() is None:
            self.end()
        self.process.stdout.close()


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "disk.img"
    path.write_bytes(random.Random(5).randbytes(SIZE))
    return path


@pytest.fixture
def export(tmp_path: Path) -> Iterator[Callable[..., Export]]:
    made = []

    def start(*arguments: object) -> Export:
        made.append(Export(tmp_path, *arguments))
        return made[-1]

    yield start
    for one in made:
        one.close()


def run(*words: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(word) for word in words], capture_output=True, text=True, timeout=_TIMEOUT_S
    )


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_copy_by_nbdcopy_agrees_and_nothing_is_left(export, image, tmp_path, number):
    served = export("-i", f"emu:?disk={image}")
    assert not served.socket.stat().st_mode & 0o022, "connecting needs the right to write"
    assert stat.S_IMODE(served.socket.parent.stat().st_mode) == 0o700
    copied = run("nbdcopy", "--connections=4", served.uri, tmp_path / "copy")
    assert (copied.returncode, copied.stderr) == (0, "")
    assert digest(tmp_path / "copy") == digest(image)
    nbdkit = served.nbdkit
    assert served.end(number) == 0
    assert served.stderr.read_text() == ""
    assert not Path(f"/proc/{nbdkit}").exists()
    assert not served.socket.parent.exists()


@pytest.mark.parametrize("options", [(), ("--readahead",)])
def test_writes_reach_the_disk(export, image, tmp_path, options):
    new = tmp_path / "new"
    new.write_bytes(random.Random(6).randbytes(SIZE))
    served = export("-i", f"emu:?disk={image}&run=thread", "0x10", "--write", *options)
    assert run("nbdcopy", "--flush", new, served.uri).returncode == 0
    assert digest(image) == digest(new)
    assert run("nbdcopy", served.uri, tmp_path / "copy").returncode == 0
    assert digest(tmp_path / "copy") == digest(new)


def test_without_write_nobody_writes(export, image, tmp_path):
    before = digest(image)
    served = export("-i", f"emu:?disk={image}")
    assert "is_read_only: true" in run("nbdinfo", served.uri).stdout
    assert run("nbdcopy", image, served.uri).returncode != 0
    served.end()
    served = export("-i", f"emu:?disk={image}", "--cow", "--", "--filter=log", "logfile=log")
    new = tmp_path / "new"
    new.write_bytes(random.Random(7).randbytes(SIZE))
    assert run("nbdcopy", new, served.uri).returncode == 0
    assert run("nbdcopy", served.uri, tmp_path / "copy").returncode == 0
    assert digest(tmp_path / "copy") == digest(new)
    assert digest(image) == before
    assert "Write" in (tmp_path / "log").read_text()


def test_what_is_no_whole_block(export, image):
    """Filters of nbdkit make whole blocks of what clients ask for."""
    content = image.read_bytes()
    served = export("-i", f"emu:?disk={image},block_size=4096", "--write", "--", "--oldstyle")
    client = NbdClient(served.socket)
    client.write(b"middle", 4093)
    assert client.read(10, 4091) == content[4091:4093] + b"middle" + content[4099:4101]
    client.close()
    assert image.read_bytes() == content[:4093] + b"middle" + content[4099:]


def test_a_bad_block_is_an_error_and_the_rest_is_served(export, image, tmp_path):
    served = export("-i", f"emu:?disk={image},bad=1000")
    copied = run("nbdcopy", served.uri, tmp_path / "copy")
    assert copied.returncode != 0
    assert "Input/output error" in copied.stderr
    said = served.stderr.read_text()
    assert "from byte 262144: ERROR_PARTIAL_TRANSFER, MEDIA_ERROR\n" in said
    assert "Traceback" not in said
    retried = ["sh", "-c", 'until nbdinfo "$0" 2>/dev/null; do :; done', served.uri]
    assert "is_read_only: true" in run(*retried).stdout, "nbdkit may have crashed meanwhile"


def test_a_port_of_this_machine(export, image, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    served = export("-i", f"emu:?disk={image}", "--port", port)
    assert served.uri == f"nbd://127.0.0.1:{port}"
    assert run("nbdcopy", served.uri, tmp_path / "copy").returncode == 0
    assert digest(tmp_path / "copy") == digest(image)


def test_nbdkit_that_dies_ends_it(export, image, tmp_path):
    served = export("-i", f"emu:?disk={image}", "--unix", "here")
    assert served.socket == tmp_path / "here"
    os.kill(served.nbdkit, signal.SIGKILL)
    assert served.process.wait(_TIMEOUT_S) == 1
    assert served.stderr.read_text() == "i2o: nbdkit ended with -9\n"
    assert not served.socket.exists()


def test_nbdkit_that_crashes_is_started_again(export, image, tmp_path):
    served = export("-i", f"emu:?disk={image}", "--write")
    before = served.nbdkit
    os.kill(before, signal.SIGABRT)
    watch = served.stderr
    while "is started again" not in watch.read_text():
        assert served.process.poll() is None
    retried = ["sh", "-c", 'until nbdcopy "$0" "$1" 2>/dev/null; do :; done', served.uri]
    assert run(*retried, tmp_path / "copy").returncode == 0
    assert digest(tmp_path / "copy") == digest(image)
    assert served.nbdkit != before
    assert served.end() == 0


def test_what_clients_wrote_beside_the_disk_is_not_silently_lost(export, image):
    served = export("-i", f"emu:?disk={image}", "--cow")
    os.kill(served.nbdkit, signal.SIGABRT)
    assert served.process.wait(_TIMEOUT_S) == 1
    assert served.stderr.read_text() == "i2o: nbdkit ended with -6\n"


def test_nbdkit_ends_with_it(export, image):
    served = export("-i", f"emu:?disk={image}")
    ended = os.pidfd_open(served.nbdkit)
    try:
        served.end(signal.SIGKILL)
        assert select.select([ended], [], [], _TIMEOUT_S)[0]
    finally:
        os.close(ended)


def test_a_place_that_is_taken(image, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        ran = run(
            sys.executable, "-m", "i2o", "nbd",
            "-i", f"emu:?disk={image}", "--port", taken.getsockname()[1],
        )  # fmt: skip
    assert ran.returncode == 1
    *said, last = ran.stderr.splitlines()
    assert any("Address already in use" in line for line in said)
    assert last == "i2o: nbdkit ended with 1 before it was ready; it says why above"
