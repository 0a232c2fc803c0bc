# SPDX-License-Identifier: Apache-2.0
"""What libfabric's providers do differently, and what becomes of it."""

from __future__ import annotations

import errno
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fakes.ofi_table import PATIENCE_S, RXM, SHM, UDP, Table
from i2o.clock import SYSTEM_CLOCK, ManualClock
from i2o.errors import TransportUnavailable, UriError
from i2o.transport.fabric.completion import Completion, CompletionError
from i2o.transport.fabric.endpoint import EventKind, Message, MulticastEndpoint
from i2o.transport.fabric.errors import ErrorAvailable, FabricErrno, FabricError, TryAgain
from i2o.transport.fabric.flags import Bind, Flag
from i2o.transport.ofi.opening import open_endpoint, open_passive
from i2o.transport.ofi.segments import FOLDER

pytestmark = pytest.mark.libfabric


@pytest.fixture
def table() -> Iterator[Table]:
    with Table() as made:
        yield made


def refused(call: Callable[[], object], code: int) -> None:
    with pytest.raises(FabricError) as caught:
        call()
    assert caught.value.errno == code


# --- udp -----------------------------------------------------------------------------------------


def test_a_datagram_that_is_too_long_is_told(table: Table) -> None:
    one, other, to, _ = table.pair(UDP)
    short = bytearray(10)
    other.endpoint.recv(short, context="short")
    other.endpoint.recvv([bytearray(3), bytearray(4)], context="parts")
    for _ in range(2):
        one.endpoint.send(bytes(range(100)), to)
    first, second = table.entry(other), table.entry(other)
    assert isinstance(first, CompletionError)
    assert isinstance(second, CompletionError)
    assert (first.err, first.length, first.olen) == (FabricErrno.ETRUNC, 10, 90)
    assert (second.context, second.length, second.olen) == ("parts", 7, 93)
    assert short == bytes(range(10))


def test_what_udp_lacks_is_refused(table: Table) -> None:
    one, _, to, _ = table.pair(UDP)
    end = one.endpoint
    end.recv(bytearray(1), context="posted")
    lacking: list[Callable[[], object]] = [
        lambda: end.senddata(b"x", 1, to),
        lambda: end.tsend(b"x", 1, to),
        lambda: end.trecv(bytearray(1), 1),
        lambda: end.recvmsg(Message([bytearray(9)]), Flag.MULTI_RECV),
        lambda: end.sendmsg(Message([b"x"], to), Flag.MATCH_COMPLETE),
        lambda: end.sendmsg(Message([b"x"], to), Flag.DELIVERY_COMPLETE),
        lambda: end.cancel("posted"),
        lambda: open_endpoint(UDP + "?caps=tagged"),
    ]
    for call in lacking:
        refused(call, errno.ENOTSUP)
    refused(lambda: end.send(bytes(1473), to), errno.EMSGSIZE)
    refused(lambda: end.send(b"x", to + 1), errno.EINVAL)


def test_groups(table: Table) -> None:
    one, other, _, _ = table.pair(UDP)
    port = other.endpoint.name.rpartition(":")[2]
    assert isinstance(other.endpoint, MulticastEndpoint)
    joined = other.endpoint.join(f"239.255.7.9:{port}")
    group = one.endpoint.join(f"239.255.7.9:{port}")
    refused(lambda: one.endpoint.send(b"x", group), errno.EINVAL)
    refused(lambda: one.endpoint.sendmsg(Message([b"x"], group + 1), Flag.MULTICAST), errno.EINVAL)
    one.endpoint.sendmsg(Message([b"x"], group, context="out"), Flag.MULTICAST)
    assert table.entry(one).context == "out"
    other.endpoint.leave(joined)
    refused(lambda: other.endpoint.leave(joined), errno.EINVAL)
    refused(lambda: other.endpoint.join("127.0.0.1:1"), errno.EINVAL)


# --- tcp;ofi_rxm ---------------------------------------------------------------------------------


def test_sends_wait_for_the_connection_up_to_the_window(table: Table) -> None:
    gone = table.open(RXM).endpoint.name
    table.close()
    table.sides.clear()
    clock = ManualClock(1)
    one = table.open(RXM, clock=clock)
    to = one.endpoint.insert(gone)
    window = one.endpoint.attributes.tx_size
    for number in range(window):
        one.endpoint.send(b"x", to, context=number)
    with pytest.raises(TryAgain):
        one.endpoint.send(b"x", to)
    one.endpoint.progress()
    clock.advance(11)
    ended = []
    while len(ended) < window:
        try:
            one.cq.read()
        except ErrorAvailable:
            error = one.cq.readerr()
            assert error.err == errno.EHOSTUNREACH
            ended.append(error.context)
        except TryAgain:
            continue
    assert ended == list(range(window))
    one.endpoint.send(b"room again", to)


def test_an_address_is_removed_while_something_is_under_way(table: Table) -> None:
    one, other, to, _ = table.pair(RXM)
    other.endpoint.recv(bytearray(1))
    one.endpoint.send(b"x", to)
    table.entry(other)
    table.entry(one)
    one.endpoint.send(bytes(1 << 20), to, context="large")
    one.endpoint.remove(to)
    error = table.entry(one)
    assert isinstance(error, CompletionError)
    assert (error.context, error.err) == ("large", errno.ECANCELED)
    refused(lambda: one.endpoint.send(b"x", to), errno.EINVAL)


@pytest.mark.parametrize("uri", [RXM, SHM])
def test_large_messages_arrive_whole_and_are_cut_properly(table: Table, uri: str) -> None:
    one, other, to, _ = table.pair(uri)
    data = bytes(range(256)) * 1200
    whole, short = bytearray(len(data)), bytearray(10)
    other.endpoint.recv(whole, context="whole")
    other.endpoint.recv(short, context="short")
    for _ in range(2):
        one.endpoint.send(data, to)
    assert table.entry(other).length == len(data)
    error = table.entry(other)
    assert isinstance(error, CompletionError)
    assert (error.err, error.length, error.olen) == (FabricErrno.ETRUNC, 10, len(data) - 10)
    assert whole == data
    assert short == data[:10]


# --- shm -----------------------------------------------------------------------------------------


def test_the_handlers_of_signals_stay(table: Table) -> None:
    one = table.open(SHM)
    path = FOLDER / one.endpoint.name.removeprefix("fi_shm://")
    assert path.exists()
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)
    assert path.exists()


def test_a_name_belongs_to_one(table: Table) -> None:
    uri = f"ofi://shm/i2o-tests-{os.getpid()}"
    table.open(uri)
    refused(lambda: open_endpoint(uri), errno.EADDRINUSE)
    table.close()
    table.sides.clear()
    assert table.open(uri).endpoint.name == uri.replace("ofi://shm/", "fi_ns://")


def run(program: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        env=environment, capture_output=True, text=True, timeout=60,
    )  # fmt: skip


OPEN = """
import os, signal
from i2o.transport.ofi.opening import open_endpoint
from i2o.transport.fabric.flags import Bind
def make(uri="ofi://shm/"):
    endpoint = open_endpoint(uri)
    cq = endpoint.open_cq()
    endpoint.bind(cq, Bind.TRANSMIT | Bind.RECV)
    endpoint.enable()
    return endpoint, cq
"""


def test_what_a_killed_process_leaves_is_removed(table: Table) -> None:
    done = run(OPEN + "e, q = make(); print(e.name, flush=True); os.kill(os.getpid(), 9)")
    assert done.returncode == -9
    path = FOLDER / done.stdout.strip().removeprefix("fi_shm://")
    assert path.exists()
    table.open(SHM)
    assert not path.exists()


def test_a_peer_survives_who_was_closed_before_it_looked() -> None:
    done = run(
        OPEN
        + """
a, qa = make(); b, qb = make()
a.send(b"x", a.insert(b.name))
a.close(); qa.close()
for _ in range(100):
    qb.read(0)
b.close(); qb.close()
print("alive")
"""
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "alive\n", "")


def test_nobody_is_inserted_who_is_not_there(table: Table) -> None:
    one = table.open(SHM)
    if not one.endpoint._selection.provider.needs_presence:
        return
    refused(lambda: one.endpoint.insert("fi_ns://i2o-tests-nobody"), errno.EINVAL)


# --- all -----------------------------------------------------------------------------------------


def test_an_endpoint_that_nobody_closed_is_closed() -> None:
    ends = [open_endpoint(RXM)]
    with pytest.warns(ResourceWarning, match="was not closed"):
        ends.clear()


def test_providers_and_listeners_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(TransportUnavailable, match="nothing"):
        open_endpoint("ofi://nothing/")
    with pytest.raises(UriError, match="only endpoints of type msg"):
        open_passive(UDP)


def test_capabilities_by_name(table: Table) -> None:
    one = table.open(RXM + "?caps=tagged")
    assert "SOURCE" not in str(one.endpoint.attributes.capabilities)
    fenced = Message([b"x"], one.endpoint.insert(one.endpoint.name))
    refused(lambda: one.endpoint.sendmsg(fenced, Flag.FENCE), errno.ENOTSUP)


@pytest.mark.parametrize("uri", [RXM, SHM])
def test_one_can_wait_by_the_descriptor(table: Table, uri: str) -> None:
    one, other, to, _ = table.pair(uri)
    poll = select.poll()
    poll.register(other.cq.fileno(), select.POLLIN)
    other.endpoint.recv(bytearray(1), context="in")
    one.endpoint.send(b"x", to)
    end = SYSTEM_CLOCK.monotonic() + PATIENCE_S
    found: list[Completion] = []
    while not found:
        assert SYSTEM_CLOCK.monotonic() < end
        one.endpoint.progress()
        poll.poll(20)
        try:
            found = other.cq.read()
        except TryAgain:
            continue
    assert found[0].context == "in"


def test_a_signal_wakes_whoever_waits(table: Table) -> None:
    one = table.open(RXM)
    one.cq.signal()
    with pytest.raises(TryAgain, match="signal"):
        one.cq.sread(timeout_s=PATIENCE_S)
    assert one.cq.fileno() >= 0
    one.cq.signal()
    with pytest.raises(TryAgain, match="signal"):
        one.cq.sread(timeout_s=PATIENCE_S)
    refused(lambda: one.cq.sread(0), errno.EINVAL)


def test_what_makes_no_sense_is_refused(table: Table) -> None:
    one, _, to, _ = table.pair(RXM)
    end = one.endpoint
    refused(lambda: end.recvmsg(Message([bytearray(9)] * 2), Flag.MULTI_RECV), errno.EINVAL)
    refused(lambda: end.set_min_multi_recv(1), FabricErrno.EOPBADSTATE)
    refused(lambda: end.join("239.1.1.1:1"), errno.ENOTSUP)
    refused(lambda: end.connect("127.0.0.1:1"), errno.ENOTSUP)
    refused(lambda: end.trecvmsg(Message(tag=1), Flag.DISCARD), FabricErrno.EBADFLAGS)
    both = Flag.PEEK | Flag.CLAIM | Flag.DISCARD
    refused(lambda: end.trecvmsg(Message(tag=1), both), FabricErrno.EBADFLAGS)
    refused(lambda: end.sendmsg(Message([b"x"], to), Flag.MULTICAST), errno.ENOTSUP)
    other = table.open(RXM)
    raw = open_endpoint(RXM)
    with raw:
        refused(lambda: raw.bind(other.cq, Bind.RECV), FabricErrno.EDOMAIN)
        refused(lambda: raw.set_min_multi_recv(-1), errno.EINVAL)


def test_a_listener_is_used_in_order() -> None:
    listener = open_passive("ofi://tcp/127.0.0.1:0")
    listener.close()
    listener.close()
    refused(listener.listen, FabricErrno.EOPBADSTATE)
    refused(lambda: listener.name, FabricErrno.EOPBADSTATE)


def test_a_connection_that_nobody_answers_ends(table: Table) -> None:
    silent = table.enter_context(socket.create_server(("127.0.0.1", 0)))
    clock = ManualClock(1)
    one = table.open("ofi://tcp/127.0.0.1:0", clock=clock)
    refused(lambda: one.endpoint.insert("127.0.0.1:1"), errno.ENOTSUP)
    one.endpoint.connect(f"127.0.0.1:{silent.getsockname()[1]}")
    clock.advance(11)
    event = one.endpoint.events.sread()
    assert (event.kind, event.err) == (EventKind.ERROR, errno.ETIMEDOUT)
