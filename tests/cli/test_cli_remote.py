# SPDX-License-Identifier: Apache-2.0
"""`i2o serve`, and `emulate --serve` at an address: what a new user sees when it cannot be."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Callable, Sequence

import pytest

from i2o.errors import TransportUnavailable
from i2o.transport.ofi.library import load
from i2o.transport.serving import Served

from .conftest import one_line


@pytest.fixture
def served(monkeypatch) -> list[Served]:
    """What is served, for a moment: then the program is told to stop."""
    seen: list[Served] = []

    def serve(servers: Sequence[Served], is_stopped: Callable[[], bool], wake: int) -> None:
        for server in servers:
            server.run(0)
        seen.extend(servers)
        assert not is_stopped()
        os.kill(os.getpid(), signal.SIGTERM)
        assert is_stopped()

    monkeypatch.setattr("i2o.tools.serve.serve", serve)
    monkeypatch.setattr("i2o.tools.serving.serve", serve)
    return seen


@pytest.mark.parametrize("words", [("serve", "-i", "emu:"), ("emulate", "--serve")])
def test_where_it_is_served_is_said(cli, served, words):
    ran = cli(*words, "tcp://127.0.0.1:0")
    assert (ran.code, ran.err) == (0, "")
    assert ran.out.startswith("ready tcp://127.0.0.1:")
    assert not ran.out.endswith(":0\n")
    assert len(served) == 1


@pytest.mark.parametrize("words", [("serve", "-i", "emu:"), ("emulate", "--serve")])
def test_libfabric_serves_everybody_when_asked_to(cli, served, words):
    try:
        load()
    except TransportUnavailable as error:
        pytest.skip(str(error))
    ran = cli(*words, "ofi://tcp;ofi_rxm/0.0.0.0:0?insecure=1")
    assert (ran.code, ran.err) == (0, "")
    assert len(served) == 1


def test_an_address_that_is_taken(cli, served):
    with socket.create_server(("127.0.0.1", 0)) as other:
        uri = f"tcp://127.0.0.1:{other.getsockname()[1]}"
        for words in (("serve", "-i", "emu:"), ("emulate", "--serve")):
            ran = cli(*words, uri)
            assert ran.code == 3
            assert "or port 0 for any that is free" in one_line(ran)
    assert not served


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (("serve", "-i", "emu:", "nowhere:x"), "an IOP cannot be served there; write "),
        (("serve", "-i", "emu:", "tcp://127.0.0.1:0?nonsense=1"), "unknown option 'nonsense'"),
        (("serve", "-i", "emu:", "tcp://127.0.0.1:99999"), "is no address"),
        (("serve", "-i", "emu:", "tcp://0.0.0.0:0"), "give both ends the same key file"),
        (("serve", "-i", "emu:", "tcp://127.0.0.1:0?key=no/such"), "name a readable file"),
        (("serve", "-i", "nothing:", "tcp://127.0.0.1:0"), "nothing"),
        (("emulate", "--serve", "tcp://0.0.0.0:0"), "give both ends the same key file"),
        (("emulate", "--serve", "tcp://127.0.0.1:0?disk=no/such.img"), "no/such.img"),
        (("serve", "-i", "emu:", "ofi://tcp;ofi_rxm/0.0.0.0:0"), "write ?insecure=1"),
        (("emulate", "--serve", "ofi://tcp;ofi_rxm/0.0.0.0:0"), "write ?insecure=1"),
        (("status", "-i", "tcp://127.0.0.1:1?timeout=0"), "no number of seconds"),
        (("status", "-i", "tcp://127.0.0.1:1?timeout=0.5"), "start a server there: i2o serve"),
        (("status", "-i", "tcp://127.0.0.1:1"), "start a server there: i2o serve"),
        (("status", "-i", "tcp://127.0.0.1"), "write tcp://HOST:PORT"),
        (("status", "-i", "serial:socket://127.0.0.1:1"), "an address that pyserial takes"),
        (("emulate", "--serve", "serial:"), "where? Write serial:DEVICE"),
    ],
)  # fmt: skip
def test_what_cannot_be(cli, served, words, reason):
    ran = cli(*words)
    assert ran.code in (2, 3)
    assert reason in one_line(ran)
    assert ran.out == ""


@pytest.mark.parametrize("uri", ["usb:1209", "usb:1209:1?detach=x", "serial:", "tcp:"])
def test_an_address_that_cannot_be_one_is_an_error_of_usage(cli, served, uri):
    ran = cli("status", "-i", uri)
    assert (ran.code, ran.out) == (2, "")
    assert uri.partition(":")[0] in one_line(ran)
