# SPDX-License-Identifier: Apache-2.0
"""Long reads of a remote disk over TCP: into the caller's memory, whatever happens to the link."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

import i2o
from fakes.tls_files import TlsFiles
from fakes.wire_station import UriStation
from i2o.errors import I2OError
from i2o.transport.bus_space import BusLanding
from i2o.transport.capture.endpoint_recorder import EndpointRecorder
from i2o.transport.capture.endpoint_tap import TapEndpoint
from i2o.transport.registry import open_endpoint
from i2o.transport.wire.wire_port import WirePort

SIZE = 4 << 20
CONTENT = os.urandom(SIZE)


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "disk.img"
    path.write_bytes(CONTENT)
    return path


@pytest.fixture
def placed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Count the bytes that are read straight into a host's buffers."""
    counts: list[int] = []
    fill = BusLanding.fill

    def counted(landing: BusLanding, start: int, length: int, read) -> int:  # type: ignore[no-untyped-def]
        count = fill(landing, start, length, read)
        counts.append(count)
        return count

    monkeypatch.setattr(BusLanding, "fill", counted)
    return counts


def check_reads(uri: str) -> None:
    """Read the whole disk with requests of several sizes, one and four at a time."""
    with i2o.open(uri) as iop, iop.block() as disk:
        for size, depth in ((1 << 20, 1), (1 << 20, 4), (100_352, 4), (4096, 1)):
            disk.max_transfer, disk.queue_depth = size, depth
            buffer = bytearray(SIZE if size > 4096 else 40960)
            disk.readinto(0, buffer)
            assert buffer == CONTENT[: len(buffer)]
        disk.write(0, CONTENT[::-1])
        assert disk.read(0, SIZE) == CONTENT[::-1]


@pytest.mark.parametrize("iop", ["emu:?disk={image}", "emu:"])
def test_data_go_straight_to_their_place(image: Path, placed: list[int], iop: str) -> None:
    with UriStation("tcp://127.0.0.1:0", iop.format(image=image)) as station:
        if iop == "emu:":  # a disk in memory, whose blocks are sent from there
            with i2o.open(station.uri) as host, host.block() as disk:
                disk.write(0, CONTENT)
        check_reads(station.uri)
    assert sum(placed) > SIZE  # fronts are copied, and some of what came at once


def test_over_tls(image: Path, placed: list[int], tmp_path: Path) -> None:
    files = TlsFiles(tmp_path / "tls")
    names = zip(("cert", "cert_key", "ca"), files.paths("both"), strict=True)
    options = "&".join(f"{name}={path}" for name, path in names)
    with UriStation(f"tcp://127.0.0.1:0?{options}", f"emu:?disk={image}") as station:
        check_reads(f"{station.uri}?{options}")
    assert sum(placed) > SIZE


def test_what_is_captured_is_not_placed(image: Path, placed: list[int]) -> None:
    said: list[bytes] = []

    def deliver(*packet: object) -> None:
        said.extend(part for part in packet if isinstance(part, bytes))

    recorder = EndpointRecorder(deliver, payload_bytes=1 << 21)
    with UriStation("tcp://127.0.0.1:0", f"emu:?disk={image}") as station:
        endpoint = TapEndpoint(open_endpoint("tcp://127.0.0.1:0"), recorder)
        with (
            WirePort(endpoint, station.uri, name=station.uri) as port,
            i2o.open(port) as iop,
            iop.block() as disk,
        ):
            disk.max_transfer = 1 << 20
            assert disk.read(0, SIZE) == CONTENT
    assert placed == []
    for start in range(0, SIZE, 1 << 20):
        assert any(CONTENT[start + 5000 : start + 6000] in packet for packet in said)


class Cutter:
    """A way to a server that is cut after so many bytes of what that says."""

    def __init__(self, address: tuple[str, int]) -> None:
        self._address = address
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.uri = f"tcp://127.0.0.1:{self._listener.getsockname()[1]}"
        self.left = 1 << 40
        self._ends: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            far = socket.create_connection(self._address)
            self._ends += [near, far]
            for one, other, is_cut in ((near, far, False), (far, near, True)):
                self._threads.append(threading.Thread(target=self._pass, args=(one, other, is_cut)))
                self._threads[-1].start()

    def _pass(self, one: socket.socket, other: socket.socket, is_cut: bool) -> None:
        with contextlib.suppress(OSError):
            while data := one.recv(65536):
                if is_cut:
                    data = data[: self.left]
                    self.left -= len(data)
                other.sendall(data)
                if not self.left:
                    break
        for end in (one, other):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._threads[0].join()
        for end in self._ends:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()
        for end in self._ends:
            end.close()


@pytest.fixture
def station(image: Path) -> Iterator[UriStation]:
    with UriStation("tcp://127.0.0.1:0", f"emu:?disk={image}") as made:
        yield made


@pytest.mark.parametrize("cut", [300_000, 1_000_000, (1 << 20) + 40])
def test_a_link_that_breaks_within_the_data_ends_the_request(
    station: UriStation, placed: list[int], cut: int
) -> None:
    host, _, port = station.uri.removeprefix("tcp://").partition(":")
    cutter = Cutter((host, int(port)))
    try:
        with i2o.open(cutter.uri + "?timeout=10") as iop, iop.block() as disk:
            disk.max_transfer = 1 << 20
            buffer = bytearray(1 << 20)
            disk.readinto(0, buffer)
            assert buffer == CONTENT[: 1 << 20]
            placed.clear()
            cutter.left = cut
            other = bytearray(1 << 20)
            with pytest.raises((I2OError, OSError)):
                disk.readinto(1 << 20, other)
            assert 0 < sum(placed) <= cut
            assert iop.layer.outstanding(iop.number) == 0
            after = bytes(other)
            cutter.left = 1 << 40
            disk.readinto(2 << 20, buffer)  # reaches the server again
            assert buffer == CONTENT[2 << 20 : 3 << 20]
            assert other == after
    finally:
        cutter.close()
