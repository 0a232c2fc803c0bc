# SPDX-License-Identifier: Apache-2.0
"""When commands run: behind what was posted before, and with their effects seen at once."""

from __future__ import annotations

import socket

import pytest

from fakes.iop_rig import DISK, Rig
from i2o.frames import block_storage as bsa
from i2o.frames.tables import IopState
from i2o.iop_emulator.commanded_iop import CommandedIop
from i2o.iop_emulator.control_socket import ControlSocket

CHECK = bsa.BSA_STATUS_CHECK.build(target_address=DISK)


@pytest.fixture
def rig() -> Rig:
    return Rig()


@pytest.fixture
def end(tmp_path):
    """A client of the control socket, and the socket."""
    with (
        ControlSocket(f"{tmp_path}/s") as control,
        socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client,
    ):
        client.settimeout(20)
        client.connect(f"{tmp_path}/s")
        yield client, control


def run(rig: Rig, control: ControlSocket | None) -> int | None:
    """Run until no command is left."""
    commanded = CommandedIop(rig.iop, control)
    deadline_ns = commanded.run(rig.now_ns, has_command=commanded.has_command())
    while commanded.has_command():
        deadline_ns = commanded.run(rig.now_ns, has_command=True)
    return deadline_ns


def test_what_was_posted_before_a_command_is_served_before_it(rig, end):
    client, control = end
    rig.post(CHECK)
    client.sendall(b"crash\n")
    run(rig, control)
    assert b"FAULTED" in client.recv(1000)
    assert rig.iop.state == IopState.FAULTED
    assert rig.reap().status == (0, 0)


def test_what_a_command_changes_counts_at_once(rig, end, tmp_path):
    client, control = end
    plan = tmp_path / "plan.toml"
    plan.write_text('[[fault]]\naction = "starve"\nfrom_ms = 5\n')
    assert run(rig, control) is None
    client.sendall(f"faults {plan}\n".encode())
    assert run(rig, control) == 5_000_000


def test_a_command_that_came_later_waits(rig, end):
    client, control = end
    client.sendall(b"crash\n")
    commanded = CommandedIop(rig.iop, control)
    commanded.run(rig.now_ns, has_command=False)
    assert rig.iop.state == IopState.OPERATIONAL
    assert commanded.has_command()


def test_without_a_socket_there_are_no_commands(rig):
    assert not CommandedIop(rig.iop, None).has_command()
    rig.post(CHECK)
    assert run(rig, None) is None
    assert rig.reap().status == (0, 0)
