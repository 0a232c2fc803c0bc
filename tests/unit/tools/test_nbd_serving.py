# SPDX-License-Identifier: Apache-2.0
"""What runs inside nbdkit and what serves it, without nbdkit: the plugin's calls end at a disk."""

from __future__ import annotations

import errno
import importlib.util
import json
import os
import random
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

import i2o
from i2o.block_queue import BlockQueue
from i2o.tools import nbdkit_plugin
from i2o.tools.nbd_serving import NbdService
from i2o.tools.nbdkit_plugin import REPLY, REQUEST, WRITE

SIZE = 1 << 20
LARGEST = 128 << 10


class Server:
    """Stands for nbdkit: two channels, and an end that tests bring about."""

    def __init__(self) -> None:
        pairs = [socket.socketpair() for _ in range(2)]
        self.channels = [ours for ours, _ in pairs]
        self.theirs = [end for _, end in pairs]
        self.pidfd = os.eventfd(0)
        self.told_to_stop = 0

    def end(self) -> None:
        os.eventfd_write(self.pidfd, 1)

    def close(self) -> None:
        for end in (*self.channels, *self.theirs):
            end.close()
        os.close(self.pidfd)


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "disk.img"
    path.write_bytes(random.Random(3).randbytes(SIZE))
    return path


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    yield made
    made.close()


@pytest.fixture
def errors(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The errnos that the plugin sets, in the module that only nbdkit has."""
    found: list[int] = []
    module = ModuleType("nbdkit")
    module.THREAD_MODEL_PARALLEL = 3
    module.set_error = found.append
    monkeypatch.setitem(sys.modules, "nbdkit", module)
    return found


@pytest.fixture
def plugin(server: Server, errors: list[int], monkeypatch) -> Iterator[ModuleType]:
    """The plugin as nbdkit has it: a module of its own, told by the environment."""
    told = {
        "channels": [os.dup(end.fileno()) for end in server.theirs],
        "size": SIZE,
        "block_size": 512,
        "largest": LARGEST,
        "writable": True,
    }
    monkeypatch.setenv(nbdkit_plugin.ENVIRONMENT, json.dumps(told))
    monkeypatch.setattr("traceback.format_exception", None)
    spec = importlib.util.spec_from_file_location("plugin", nbdkit_plugin.__file__)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    channels = module.free_channels()
    yield module
    while not channels.empty():
        channels.get().close()


@pytest.fixture
def serve(server: Server) -> Iterator[Callable[..., SimpleNamespace]]:
    """Serve a disk in a thread, until the test has ended."""
    started = []

    def run(uri: str, *, writable: bool = True) -> SimpleNamespace:
        state = SimpleNamespace(ready=0, wake=os.eventfd(0), error=None)

        def ready() -> None:
            state.ready += 1

        def loop() -> None:
            try:
                with i2o.open(uri) as iop, iop.block() as disk:
                    disk.max_transfer = 64 << 10
                    queue = BlockQueue(disk, iop.requester, iop.memory, iop.layer.clock)
                    service = NbdService(
                        iop.layer, queue, largest=LARGEST, writable=writable, on_ready=ready
                    )
                    service.run(server, state.wake)
            except BaseException as error:
                state.error = error

        state.thread = threading.Thread(target=loop)
        state.thread.start()
        started.append(state)
        return state

    yield run
    for state in started:
        server.end()
        state.thread.join(20)
        assert not state.thread.is_alive()
        os.close(state.wake)
        if state.error is not None:
            raise state.error


def test_reads_writes_and_flushes(plugin, serve, image, errors):
    state = serve(f"emu:?disk={image}")
    content = bytearray(image.read_bytes())
    handle = plugin.open(True)
    plugin.after_fork()
    data = random.Random(4).randbytes(LARGEST)
    plugin.pwrite(handle, data, 4096, 0)
    plugin.flush(handle, 0)
    content[4096 : 4096 + LARGEST] = data
    assert image.read_bytes() == content
    buffer = bytearray(LARGEST)
    plugin.pread(handle, buffer, 512, 0)
    assert buffer == content[512 : 512 + LARGEST]
    assert (state.ready, errors) == (1, [])


def test_what_the_plugin_tells_nbdkit(plugin):
    assert plugin.API_VERSION == 2
    assert plugin.thread_model() == 3
    assert plugin.get_size(1) == SIZE
    assert plugin.block_size(1) == (512, 4096, LARGEST)
    assert plugin.can_write(1)
    assert plugin.can_flush(1)
    assert plugin.can_multi_conn(1)
    assert plugin.is_rotational(1)


def test_many_threads_at_once(plugin, serve, image):
    serve(f"emu:?disk={image}")
    content = image.read_bytes()
    wrong = []

    def work(seed: int) -> None:
        rng, buffer = random.Random(seed), bytearray(4096)
        for _ in range(40):
            offset = rng.randrange((SIZE - 4096) // 512) * 512
            plugin.pread(1, buffer, offset, 0)
            if buffer != content[offset : offset + 4096]:
                wrong.append(offset)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert not wrong


def test_errors_arrive_with_their_errno_and_words(plugin, serve, image, errors):
    serve(f"emu:?disk={image},bad=9,ro")
    buffer = bytearray(1024)
    with pytest.raises(OSError, match="from byte 4096: ERROR_PARTIAL_TRANSFER, MEDIA_ERROR"):
        plugin.pread(1, buffer, 4096, 0)
    with pytest.raises(OSError, match="WRITE_PROTECTED"):
        plugin.pwrite(1, bytes(512), 0, 0)
    with pytest.raises(OSError, match="are no whole blocks"):
        plugin.pread(1, buffer, 100, 0)
    with pytest.raises(OSError, match=f"{LARGEST + 512} bytes at once: expected {LARGEST}"):
        plugin.pread(1, bytearray(LARGEST + 512), 0, 0)
    assert errors == [errno.EIO, errno.EPERM, errno.EINVAL, errno.EINVAL]
    plugin.pread(1, buffer, 0, 0)
    assert buffer == image.read_bytes()[:1024]


def test_a_disk_that_is_not_to_be_written(plugin, serve, image, errors):
    before = image.read_bytes()
    serve(f"emu:?disk={image}", writable=False)
    with pytest.raises(OSError, match="the disk is read-only"):
        plugin.pwrite(1, bytes(512), 0, 0)
    assert errors == [errno.EPERM]
    assert image.read_bytes() == before


def test_nbdkit_logs_no_tracebacks(plugin, serve, image):
    import traceback

    serve(f"emu:?disk={image}")
    plugin.after_fork()
    assert traceback.format_exception(OSError, OSError(5, "bad"), None) == ["[Errno 5] bad"]


def test_a_program_that_is_gone(plugin, server, errors):
    for channel in server.channels:
        channel.close()
    with pytest.raises(OSError, match=r"i2o nbd is gone|Broken pipe|reset"):
        plugin.pread(1, bytearray(512), 0, 0)
    assert errors[0] in (errno.EIO, errno.EPIPE, errno.ECONNRESET)


def test_channels_that_end_in_the_middle(server, serve, image):
    """Whatever half a request says, and whoever does not take his answer."""
    serve(f"emu:?disk={image}")
    first, second = server.theirs
    first.sendall(REQUEST.pack(WRITE, 1024, 0) + bytes(100))
    first.close()
    second.sendall(REQUEST.pack(WRITE, 512, 512) + b"\x11" * 512)
    number, length = REPLY.unpack(second.recv(REPLY.size, socket.MSG_WAITALL))
    assert (number, length) == (0, 0)
    second.sendall(REQUEST.pack(99, 0, 0) + REQUEST.pack(3, 0, 0)[:5])
    second.close()
    assert image.read_bytes()[:1024] != bytes(1024)
    assert image.read_bytes()[512:1024] == b"\x11" * 512


@pytest.mark.parametrize("times", [1, 2])
def test_a_stop_is_passed_on_and_the_second_one_is_final(server, serve, image, times):
    """The server ends when it is told to, or does not, and is left then."""

    def told() -> None:
        server.told_to_stop += 1
        if times == 1:
            server.end()

    server.stop = told
    state = serve(f"emu:?disk={image}")
    os.eventfd_write(state.wake, 1)
    if times == 2:
        os.eventfd_write(state.wake, 1)
    state.thread.join(20)
    assert not state.thread.is_alive()
    assert server.told_to_stop in (1, times)


def test_an_iop_in_a_thread_of_its_own(serve, image, plugin):
    serve(f"emu:?run=thread&disk={image}")
    buffer = bytearray(512)
    plugin.pread(1, buffer, 0, 0)
    assert buffer == image.read_bytes()[:512]
