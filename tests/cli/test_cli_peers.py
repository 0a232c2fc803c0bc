# SPDX-License-Identifier: Apache-2.0
"""`peers` and `ping`: a messenger and an endpoint that run in this process."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from fakes.messengers import Messengers, introduce
from fakes.recording_sink import RecordingSink
from fakes.tls_files import TlsFiles
from i2o.tools import ping as ping_command
from i2o.transport.tcp.carrier import TcpCarrier
from i2o.transport.tcp.handshake import Listener
from i2o.transport.tcp.key import PeerKey
from i2o.transport.tcp.messenger import Messenger
from i2o.transport.tcp.peer_name import PeerName
from i2o.transport.tcp.tls import TlsContexts
from i2o.transport.tcp.wire import Kind


@pytest.fixture(autouse=True)
def _no_key(monkeypatch):
    monkeypatch.delenv("I2O_PEER_KEY", raising=False)
    monkeypatch.delenv("I2O_PEER_KEY_FILE", raising=False)


@pytest.fixture
def office() -> Iterator[Messengers]:
    with Messengers() as opened:
        yield opened


@pytest.fixture
def served(office: Messengers) -> Messenger:
    """A messenger with a neighbour, a neighbour that does not exist, and a route."""
    a, b = office.open(1, 0, loops=1), office.open(1, 1, loops=1)
    introduce(a, b)
    for _ in range(3):
        a.send(b.name, [b"x"], 1, timeout_s=20)
    a.set_peer(PeerName(1, 2), [])
    a.set_route(PeerName(2, 0), b.name)
    return a


@pytest.fixture
def endpoint() -> Iterator[str]:
    """The address of an endpoint that is driven by a thread."""
    with ExitStack() as stack:
        carrier = stack.enter_context(TcpCarrier())
        carrier.open(RecordingSink())
        is_over = threading.Event()

        def drive() -> None:
            while not is_over.is_set():
                carrier.progress(0.01)

        thread = threading.Thread(target=drive)
        thread.start()
        stack.callback(thread.join)
        stack.callback(is_over.set)
        yield carrier.name


def test_peers_as_a_table(cli, served):
    ran = cli("peers", served.address)
    assert (ran.code, ran.err) == (0, "")
    lines = ran.out.splitlines()
    assert lines[:3] == [
        f"peer 1.0 at {served.address}",
        "    1 event loop, 0 callers in the handshake, 0 messages nobody received",
        "    to 2.0 over 1.1",
    ]
    assert lines[3].split()[:4] == ["peer", "state", "waiting", "flight"]
    assert " ".join(lines[4].split()) == "1.1 connected 0 0 0 3 0 0 0 1 0 0"
    assert lines[5].split()[:2] == ["1.2", "unconnected"]


def test_peers_as_json(cli, served):
    head, one, two = cli("peers", served.address, "--json").records
    assert head["name"] == "1.0"
    assert (one["name"], one["state"], one["messages_sent"]) == ("1.1", "connected", 3)
    assert two["addresses"] == []


def test_peers_of_somebody_alone_who_cannot_reach_anybody(cli, office):
    a = office.open(1, 0, loops=1)
    assert cli("peers", a.address).out.endswith("no peers\n")
    raw = office.raw(1, 1)
    a.set_peer(raw.identity.name, [raw.address])
    raw.listener.close()
    with pytest.raises(OSError, match="refused"):
        a.ping(raw.identity.name, timeout_s=20)
    assert f"1.1: {raw.address}: Connection refused" in cli("peers", a.address).out


def test_peers_of_an_endpoint(cli, endpoint):
    ran = cli("peers", endpoint)
    assert ran.code == 1
    assert "has no table of peers" in ran.err


def test_ping_of_a_messenger(cli, served):
    ran = cli("ping", served.address, "-c", 3, "--interval", 0)
    assert (ran.code, ran.err) == (0, "")
    head, *trips, end = ran.out.splitlines()
    assert head.startswith(f"messenger 1.0 at {served.address}, incarnation ")
    assert [trip.split()[0] for trip in trips] == ["1", "2", "3"]
    assert all(trip.endswith(" ms") for trip in trips)
    assert end.startswith("3 sent, 3 answered; ")


def test_ping_of_an_endpoint_as_json(cli, endpoint):
    one, two, end = cli("ping", endpoint, "--count", 2, "--interval", 0.001, "--json").records
    assert (one["number"], two["number"]) == (1, 2)
    assert one["ms"] > 0
    assert (end["sent"], end["answered"]) == (2, 2)
    assert end["min_ms"] <= end["median_ms"] <= end["max_ms"]


@pytest.mark.parametrize("command", ["ping", "peers"])
def test_nobody_there(cli, office, command):
    raw = office.raw(1, 1)
    raw.listener.close()
    ran = cli(command, raw.address)
    assert ran.code == 1
    assert "Connection refused" in ran.err
    assert cli(command, "nonsense").code == 1
    assert "there is no key" in cli(command, "tcp://192.0.2.1:5").err
    assert cli(command, "tcp://192.0.2.1:5", "--insecure", "--timeout", 0.01).code == 1


def test_a_key_is_needed(cli, office, tmp_path, monkeypatch):
    path = tmp_path / "key"
    path.write_bytes(b"k" * 16)
    path.chmod(0o600)
    a = office.open(1, 0, loops=1, key=PeerKey(b"k" * 16))
    ran = cli("ping", a.address, "-c", 1)
    assert (ran.code, "wants a key" in ran.err) == (1, True)
    assert cli("ping", a.address, "-c", 1, "--key", path).code == 0
    assert cli("ping", a.address, "-c", 1, "--key", tmp_path / "none").code == 3
    monkeypatch.setenv("I2O_PEER_KEY_FILE", str(path))
    assert cli("peers", a.address).code == 0


def test_tls(cli, office, tmp_path):
    files = TlsFiles(tmp_path).paths("one")
    contexts = TlsContexts.from_files(*files)
    a = office.open(1, 0, loops=1, server_tls=contexts.server)
    options = [
        word for pair in zip(("--cert", "--cert-key", "--ca"), files, strict=True) for word in pair
    ]
    assert cli("ping", a.address, "-c", 1, *options).code == 0
    ran = cli("ping", a.address, *options[:2])
    assert (ran.code, "go together" in ran.err) == (2, True)


def raw_answers(raw, pings: int, *, ends: bool):
    """Answer a probe, shake hands, and answer so many pings."""
    link = raw.accept()
    link.write(Listener(raw.identity, bytes(32)).hello(link.expect(Kind.HELLO))[1])
    link, _ = raw.admit()
    for _ in range(pings):
        link.frame(Kind.PONG, bytes(link.expect(Kind.PING)))
    if ends:
        link.close()
    else:
        assert link.is_closed_by_peer


def test_a_link_that_does_not_come(cli, office):
    raw = office.raw(1, 1)

    def answer_the_probe_only() -> None:
        link = raw.accept()
        link.write(Listener(raw.identity, bytes(32)).hello(link.expect(Kind.HELLO))[1])
        assert raw.accept().is_closed_by_peer

    thread = threading.Thread(target=answer_the_probe_only)
    thread.start()
    ran = cli("ping", raw.address, "--timeout", 0.2)
    thread.join()
    assert ran.code == 1
    assert "no link in 0.2 s" in ran.err


@pytest.mark.parametrize("as_json", [False, True])
def test_no_answer_at_all(cli, office, as_json):
    raw = office.raw(1, 1)
    thread = threading.Thread(target=raw_answers, args=(raw, 0), kwargs={"ends": False})
    thread.start()
    options = ["--json"] if as_json else []
    ran = cli("ping", raw.address, "-c", 1, "--timeout", 0.1, *options)
    thread.join()
    assert ran.code == 1
    if as_json:
        assert ran.records[-1]["median_ms"] is None
    else:
        assert ran.out.endswith("1 sent, 0 answered\n")


@pytest.mark.parametrize("as_json", [False, True])
def test_answers_that_do_not_come(cli, office, as_json):
    raw = office.raw(1, 1)
    thread = threading.Thread(target=raw_answers, args=(raw, 1), kwargs={"ends": False})
    thread.start()
    options = ["--json"] if as_json else []
    ran = cli("ping", raw.address, "-c", 2, "--interval", 0, "--timeout", 0.3, *options)
    thread.join()
    assert ran.code == 1
    if as_json:
        assert ran.records[1] == {"number": 2, "ms": None}
        assert ran.records[2]["answered"] == 1
    else:
        assert "   2  no answer\n2 sent, 1 answered; " in ran.out


def test_a_link_that_breaks(cli, office):
    raw = office.raw(1, 1)
    thread = threading.Thread(target=raw_answers, args=(raw, 1), kwargs={"ends": True})
    thread.start()
    ran = cli("ping", raw.address, "-c", 2, "--interval", 5)
    thread.join()
    assert ran.code == 1
    assert "closed the link" in ran.err


def test_an_interrupt_ends_it(cli, served, monkeypatch):
    def trips(self):
        yield 0.001
        raise KeyboardInterrupt

    monkeypatch.setattr(ping_command.Pinger, "trips", trips)
    ran = cli("ping", served.address, "-c", 0)
    assert ran.code == 0
    assert ran.out.endswith("1 sent, 1 answered; 1.000 ms at least, 1.000 median, 1.000 at most\n")
