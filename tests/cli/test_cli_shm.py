# SPDX-License-Identifier: Apache-2.0
"""`emulate --serve shm:NAME`, and the commands that use what is served there."""

from __future__ import annotations

import os
import select
import signal
import subprocess

import pytest

from .conftest import one_line

PATIENCE_S = 60


@pytest.fixture
def served(program, environment, tmp_path, monkeypatch):
    """Start servers; each has said that it is ready."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "run"))
    started = []

    def start(*words: object, **more: object):
        process = subprocess.Popen(
            [*program, "emulate", *map(str, words)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={
                **environment,
                "XDG_RUNTIME_DIR": str(tmp_path / "run"),
                **{name: str(value) for name, value in more.items()},
            },
        )
        started.append(process)
        assert select.select([process.stdout], [], [], PATIENCE_S)[0]
        name = next(word for word in words if str(word).startswith("shm:")).partition("?")[0]
        assert process.stdout.readline() == f"ready {name}\n"
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def test_an_iop_in_another_process(served, cli, image, tmp_path):
    process = served("--serve", f"shm:one?disk={image}&personality=promise&spin=20")
    ran = cli("status", "-i", "shm:one")
    assert ran.code == 0
    assert "OPERATIONAL" in ran.out
    assert cli("list", "--json").records[0]["uri"] == "shm:one"
    shown = cli("list").out
    assert f"process {process.pid} serves it" in shown
    words = ("--offset", "8K", "--count", "1K", "-o", tmp_path / "out")
    assert cli("read", "16", "-i", "shm:one", *words).code == 0
    assert (tmp_path / "out").read_bytes() == image.read_bytes()[8192:9216]
    process.send_signal(signal.SIGTERM)
    assert process.wait(PATIENCE_S) == 0
    assert "shm:one" not in cli("list").out
    assert "nothing is served" in one_line(cli("status", "-i", "shm:one"))


def test_captures_on_both_sides(served, cli, process, environment, image, tmp_path):
    far, near = tmp_path / "far.pcapng", tmp_path / "near.pcapng"
    server = served("--serve", f"shm:two?disk={image}", I2O_CAPTURE=far)
    environment.update(I2O_CAPTURE=str(near), XDG_RUNTIME_DIR=str(tmp_path / "run"))
    assert process("status", "-i", "shm:two").code == 0
    server.send_signal(signal.SIGTERM)
    assert server.wait(PATIENCE_S) == 0
    sides = []
    for trace in (far, near):
        ran = cli("dump", "-r", trace, "--json")
        assert ran.code == 0
        sides.append([one["name"] for one in ran.records if one["type"] == "request"])
    assert len(sides[0]) > 3
    assert [name for name in sides[0] if name in sides[1]] == sides[0]


def test_commands_and_faults_reach_a_served_iop(served, cli, image, tmp_path):
    plan = tmp_path / "plan.toml"
    plan.write_text("[[fault]]\non='BSA_BLOCK_READ'\naction='status'\nreq_status=11\n")
    control = tmp_path / "control"
    served("--serve", f"shm:three?disk={image}", "--control", control, "--faults", plan)
    assert cli("read", "0", "-i", "shm:three", "--count", "512", "--sha256").code != 0
    assert cli("emulate", "--control", control, "faults", "none").code in (0, 1, 2)
    status = cli("emulate", "--control", control, "status")
    assert status.code == 0
    assert "0x010" in status.out


def test_two_servers_of_one_name(served, cli):
    served("--serve", "shm:four")
    ran = cli("emulate", "--serve", "shm:four")
    assert ran.code == 3
    assert "somebody listens there" in one_line(ran)


@pytest.mark.parametrize(
    ("uri", "reason"),
    [
        ("shm:", "where? Write shm:NAME"),
        ("shm:a b", "expected a name"),
        ("shm:a?spin=x", "not an integer"),
        ("shm:a?disk=/nonexistent/disk", "does not exist"),
        ("shm:a?run=thread", "run= is for emu:"),
    ],
)
def test_what_cannot_be_served(cli, monkeypatch, tmp_path, uri, reason):
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "run"))
    assert reason in one_line(cli("emulate", "--serve", uri))


def test_a_second_host_is_told_whose_it_is(served, cli):
    from i2o.transport import open_port

    served("--serve", "shm:five")
    with open_port("shm:five"):
        assert f"in use by PID {os.getpid()}" in one_line(cli("status", "-i", "shm:five"))
