# SPDX-License-Identifier: Apache-2.0
"""Sockets at paths: made whole, replaced when nobody is behind them, and only then."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from i2o.errors import TransportUnavailable
from i2o.transport import unix_listener
from i2o.transport.unix_listener import UnixListener, remove_if_dead

KIND = socket.SOCK_STREAM


def listening(path: Path) -> UnixListener:
    return UnixListener(path, backend="test", purpose="cannot serve on", backlog=16)


def leave_dead(path: Path) -> None:
    with socket.socket(socket.AF_UNIX, KIND) as dead:
        dead.bind(str(path))


def is_heard(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, KIND) as end:
        end.setblocking(False)
        return end.connect_ex(str(path)) == 0


def test_nothing_but_the_socket_is_there(tmp_path: Path) -> None:
    with listening(tmp_path / "s"):
        assert os.listdir(tmp_path) == ["s"]
    assert os.listdir(tmp_path) == []


def test_nobody_sees_a_socket_that_does_not_listen_yet(tmp_path: Path, monkeypatch) -> None:
    path = tmp_path / "s"
    seen: list[bool] = []

    class Watched(socket.socket):
        def bind(self, address: object) -> None:
            super().bind(address)  # type: ignore[arg-type]
            seen.append(path.exists())

        def listen(self, backlog: int = 1) -> None:
            seen.append(path.exists())
            super().listen(backlog)

    monkeypatch.setattr(socket, "socket", Watched)
    with listening(path):
        monkeypatch.undo()
        assert seen == [False, False]
        assert is_heard(path)


@pytest.mark.parametrize("length", [107, 108])
def test_a_path_may_have_107_bytes(tmp_path: Path, monkeypatch, length: int) -> None:
    monkeypatch.chdir(tmp_path)
    path = Path("x" * length)
    with contextlib.ExitStack() as stack:
        if length > 107:
            stack.enter_context(pytest.raises(TransportUnavailable, match="too long"))
        stack.enter_context(listening(path))
    assert os.listdir() == []


def test_a_failure_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "s"
    path.write_text("precious")
    with pytest.raises(TransportUnavailable, match="no socket"):
        listening(path)
    assert os.listdir(tmp_path) == ["s"]


def test_who_comes_between_is_not_replaced(tmp_path: Path, monkeypatch) -> None:
    """Another server replaces the dead socket after we found it dead, and before we remove it."""
    path = tmp_path / "s"
    leave_dead(path)
    with contextlib.ExitStack() as stack:
        before_rename(monkeypatch, lambda: replace(stack, path))
        with pytest.raises(TransportUnavailable, match="somebody listens there"):
            listening(path)
        assert os.listdir(tmp_path) == ["s"]
        assert is_heard(path)


def test_who_comes_and_goes_between_is_no_matter(tmp_path: Path, monkeypatch) -> None:
    path = tmp_path / "s"
    leave_dead(path)
    before_rename(monkeypatch, path.unlink)
    with listening(path):
        assert is_heard(path)


def test_there_is_an_end_to_trying(tmp_path: Path, monkeypatch) -> None:
    path = tmp_path / "s"
    leave_dead(path)
    monkeypatch.setattr(unix_listener, "remove_if_dead", lambda *of: 0)
    with pytest.raises(TransportUnavailable, match="others make sockets there"):
        listening(path)
    assert os.listdir(tmp_path) == ["s"]


def test_servers_that_start_at_once_over_a_dead_one(tmp_path: Path) -> None:
    """Exactly one of them gets the path, and it is heard there."""
    path = tmp_path / "s"
    for _ in range(10):
        leave_dead(path)
        gate, servers = threading.Barrier(4), list[UnixListener]()

        def start(gate: threading.Barrier, servers: list[UnixListener]) -> None:
            gate.wait()
            with contextlib.suppress(TransportUnavailable):
                servers.append(listening(path))

        threads = [
            threading.Thread(target=start, args=(gate, servers), name="i2o-test-start")
            for _ in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(servers) == 1
        assert is_heard(path)
        servers[0].close()
        assert os.listdir(tmp_path) == []


def test_nobody_waits_for_a_lock_that_others_can_take(tmp_path: Path) -> None:
    path = tmp_path / "s"
    leave_dead(path)
    tmp_path.chmod(0o755)
    held = os.open(tmp_path, os.O_RDONLY)
    try:
        fcntl.flock(held, fcntl.LOCK_EX)
        with listening(path):
            assert is_heard(path)
    finally:
        os.close(held)


def test_what_can_be_removed(tmp_path: Path) -> None:
    path = tmp_path / "s"
    assert remove_if_dead(str(path), KIND) == 0
    leave_dead(path)
    assert remove_if_dead(str(path), KIND) == 0
    assert os.listdir(tmp_path) == []
    path.write_text("precious")
    assert remove_if_dead(str(path), KIND) == errno.ENOTSOCK
    path.unlink()
    with listening(path):
        assert remove_if_dead(str(path), KIND) == errno.EISCONN
        assert remove_if_dead(str(path), socket.SOCK_SEQPACKET) == errno.EPROTOTYPE
        assert path.exists()


def replace(stack: contextlib.ExitStack, path: Path) -> None:
    path.unlink()
    stack.enter_context(listening(path))


def before_rename(monkeypatch: pytest.MonkeyPatch, do: Callable[[], object]) -> None:
    """Let something happen just before a socket is moved aside, once."""
    rename = os.rename

    def renamed(source: str, target: str) -> None:
        monkeypatch.setattr(os, "rename", rename)
        do()
        rename(source, target)

    monkeypatch.setattr(os, "rename", renamed)
