# SPDX-License-Identifier: Apache-2.0
"""A plain C program of libfabric and our endpoints understand one another, both ways."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from i2o.clock import SYSTEM_CLOCK
from i2o.transport.fabric.completion import Completion
from i2o.transport.fabric.endpoint import EndpointType
from i2o.transport.fabric.errors import TryAgain
from i2o.transport.fabric.flags import Bind, Flag
from i2o.transport.ofi.addresses import AddressFormat, to_bytes, to_text
from i2o.transport.ofi.opening import open_endpoint

pytestmark = pytest.mark.libfabric
SOURCE = Path(__file__).parents[1] / "data" / "ofi_peer.c"
PATIENCE_S = 30.0


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("ofi") / "ofi_peer"
    command = ["cc", "-O1", "-Wall", "-Werror", "-o", str(path), str(SOURCE), "-lfabric"]
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    return path


@pytest.fixture
def peer(program: Path, request: pytest.FixtureRequest) -> Iterator[subprocess.Popen[str]]:
    provider, kind, node = request.param
    with subprocess.Popen(
        [program, provider, kind, node], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        yield process
        process.kill()


@pytest.mark.parametrize(
    ("peer", "uri", "format"),
    [
        (
            ("tcp;ofi_rxm", "rdm", "127.0.0.1"),
            "ofi://tcp;ofi_rxm/127.0.0.1:0",
            AddressFormat.SOCKADDR_IN,
        ),
        (("shm", "rdm", ""), "ofi://shm/", AddressFormat.STR),
        (("udp", "dgram", "127.0.0.1"), "ofi://udp/127.0.0.1:0", AddressFormat.SOCKADDR_IN),
    ],
    indirect=["peer"],
    ids=["tcp", "shm", "udp"],
)
def test_both_ways(peer: subprocess.Popen[str], uri: str, format: AddressFormat) -> None:
    assert peer.stdin is not None
    assert peer.stdout is not None
    endpoint = open_endpoint(uri)
    with endpoint:
        cq = endpoint.open_cq()
        endpoint.bind(cq, Bind.TRANSMIT | Bind.RECV)
        endpoint.enable()
        buffers = {name: bytearray(100) for name in ("first", "second", "tagged")}
        endpoint.recv(buffers["first"], context="first")
        is_rdm = endpoint.attributes.type is EndpointType.RDM
        if is_rdm:
            endpoint.recv(buffers["second"], context="second")
            endpoint.trecv(buffers["tagged"], 0x55, context="tagged")
        to = endpoint.insert(to_text(bytes.fromhex(peer.stdout.readline()), format))
        peer.stdin.write(to_bytes(endpoint.name, format).hex() + "\n")
        peer.stdin.flush()
        endpoint.send(b"plain from Python", to, context="out")
        if is_rdm:
            endpoint.senddata(b"data from Python", 0x4321, to, context="out")
            endpoint.tsend(b"tagged from Python", 0x77, to, context="out")
        wanted = 6 if is_rdm else 2
        entries: list[Completion] = []
        end = SYSTEM_CLOCK.monotonic() + PATIENCE_S
        while len(entries) < wanted or peer.poll() is None:
            assert SYSTEM_CLOCK.monotonic() < end, entries
            try:
                entries += cq.sread(8, 0.05)
            except TryAgain:
                continue
    cq.close()
    got = {
        entry.context: (bytes(buffers[str(entry.context)][: entry.length]), entry.data, entry.tag)
        for entry in entries
        if entry.flags & Flag.RECV
    }
    told = peer.stdout.read().splitlines()
    assert peer.returncode == 0
    assert got["first"] == (b"plain from C", 0, 0)
    assert "plain from Python tag 0 data 0" in told
    if is_rdm:
        assert got["second"] == (b"data from C", 0x1234, 0)
        assert got["tagged"] == (b"tagged from C", 0, 0x55)
        assert sorted(told)[0] == "data from Python tag 0 data 4321"
        assert sorted(told)[2] == "tagged from Python tag 77 data 0"
