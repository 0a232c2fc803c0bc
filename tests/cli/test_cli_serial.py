# SPDX-License-Identifier: Apache-2.0
"""`emulate --serve serial:DEVICE` and `serve … serial:DEVICE`: the other end of a cable."""

from __future__ import annotations

import select
import signal
import subprocess

import pytest

from fakes.noisy_line import Noise
from fakes.pty_cable import PtyCable

from .conftest import one_line

PATIENCE_S = 60
BAUD = "baud=4000000"


@pytest.fixture
def served(program, environment):
    """Start a server, and wait until it is ready."""
    started = []

    def start(*words: object) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [*program, *map(str, words)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
        )
        started.append(process)
        assert select.select([process.stdout], [], [], PATIENCE_S)[0]
        assert process.stdout.readline().startswith("ready serial:"), process.communicate()[1]
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def test_an_iop_behind_a_cable(served, cli, image, tmp_path):
    """Status and a read by hash-like comparison; unplugged and plugged in; the end."""
    noise = Noise(bit_errors=1e-5, lost_frames=0.01)
    with PtyCable(tmp_path, noise, names=("card", "host")) as cable:
        card, host = cable.devices
        process = served("emulate", "--serve", f"serial:{card}?{BAUD}&disk={image}")
        uri = f"serial:{host}?{BAUD}&timeout=5"
        assert "OPERATIONAL" in cli("status", "-i", uri).out
        words = ("--offset", "8K", "--count", "20K", "-o", tmp_path / "out")
        assert cli("read", "16", "-i", uri, *words).code == 0
        assert (tmp_path / "out").read_bytes() == image.read_bytes()[8192 : 8192 + 20480]
        cable.unplug()
        assert "serial/by-id" in one_line(cli("status", "-i", uri))
        cable.plug()
        assert cli("status", "-i", uri).code == 0
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE_S) == 0
        nobody = one_line(cli("status", "-i", f"serial:{host}?{BAUD}&timeout=1"))
        assert "no server has answered" in nobody


def test_another_iop_served_over_a_cable(served, cli, image, tmp_path):
    with PtyCable(tmp_path, names=("card", "host")) as cable:
        card, host = cable.devices
        served("serve", "-i", f"emu:?disk={image}", f"serial:{card}?{BAUD}")
        assert "OPERATIONAL" in cli("status", "-i", f"serial:{host}?{BAUD}&timeout=5").out
