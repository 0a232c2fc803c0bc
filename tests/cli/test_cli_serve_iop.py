# SPDX-License-Identifier: Apache-2.0
"""`i2o serve`: what its command line asks for."""

from __future__ import annotations

import pytest

from i2o.errors import TransportUnavailable
from i2o.tools import serve as command

from .conftest import one_line


def test_faults_are_the_iops(cli, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def open_port(uri: str) -> None:
        asked.append(uri)
        raise TransportUnavailable("emu", "seen enough")

    monkeypatch.setattr(command, "open_port", open_port)
    ran = cli("serve", "-i", "emu:?disk=none", "--faults", "plan.toml", "tcp://127.0.0.1:0")
    assert (ran.code, asked) == (3, ["emu:?disk=none&faults=plan.toml"])


def test_faults_of_what_is_no_software(cli) -> None:
    ran = cli("serve", "-i", "shm:a", "--faults", "plan.toml", "tcp://127.0.0.1:0")
    assert ran.code == 2
    assert "is for software IOPs" in one_line(ran)
