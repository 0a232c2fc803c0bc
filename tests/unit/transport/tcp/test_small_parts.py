# SPDX-License-Identifier: Apache-2.0
"""Names, addresses, keys, plans, timers, outbox, mailbox: the parts that stand alone."""

from __future__ import annotations

import errno
import os
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest

from i2o.clock import ManualClock
from i2o.errors import TransportUnavailable
from i2o.transport.tcp.address import Address, find_addresses, of_socket, parse_address
from i2o.transport.tcp.dial_plan import DialPlan
from i2o.transport.tcp.errors import PeerError
from i2o.transport.tcp.key import PeerKey
from i2o.transport.tcp.mailbox import Mailbox, Message, Receive
from i2o.transport.tcp.message_wire import ANY_TAG
from i2o.transport.tcp.options import PeerOptions
from i2o.transport.tcp.outbox import Outbox
from i2o.transport.tcp.peer_name import ANYBODY, PeerName
from i2o.transport.tcp.poller import READABLE, Poller
from i2o.transport.tcp.timers import Timers

# --- names ---------------------------------------------------------------------------------------


def test_names_are_read_written_and_ordered() -> None:
    assert PeerName.parse("1.0x10") == PeerName(1, 16)
    assert str(PeerName(1, 16)) == "1.16"
    assert PeerName(1, 99) < PeerName(2, 0) < PeerName(2, 1)


@pytest.mark.parametrize("text", ["", "1", "1.", "a.b", "-1.0", "1.4294967296", str(ANYBODY)])
def test_what_is_no_name(text: str) -> None:
    with pytest.raises(PeerError, match=r"write JOB\.RANK") as caught:
        PeerName.parse(text)
    assert caught.value.errno == errno.EINVAL


# --- addresses -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "address", "again"),
    [
        ("tcp://127.0.0.1:5000", ("127.0.0.1", 5000), "tcp://127.0.0.1:5000"),
        ("10.0.0.1:0", ("10.0.0.1", 0), "tcp://10.0.0.1:0"),
        ("tcp://[::1]:65535/", ("::1", 65535), "tcp://[::1]:65535"),
        ("[0:0::1]:1", ("::1", 1), "tcp://[::1]:1"),
        ("[::ffff:10.1.2.3]:7", ("10.1.2.3", 7), "tcp://10.1.2.3:7"),
        ("[fe80::1%eth0]:7", ("fe80::1%eth0", 7), "tcp://[fe80::1%eth0]:7"),
    ],
)
def test_numeric_addresses(text: str, address: tuple[str, int], again: str) -> None:
    assert parse_address(text) == address
    assert find_addresses(text) == (address,)
    assert str(parse_address(text)) == again


@pytest.mark.parametrize(
    "text",
    ["", "tcp://", "host", ":5", "1.2.3.4:", "1.2.3.4:-1", "1.2.3.4:65536", "::1:5", "[1.2.3.4",
     "1.2.3.4:²", "x" * 260 + ":1"],
)  # fmt: skip
def test_what_is_no_address(text: str) -> None:
    for read in (parse_address, find_addresses):
        with pytest.raises(PeerError) as caught:
            read(text)
        assert caught.value.errno == errno.EINVAL


def test_host_names() -> None:
    assert Address("127.0.0.1", 5) in find_addresses("tcp://localhost:5")
    with pytest.raises(PeerError, match="no numeric address"):
        parse_address("localhost:5")
    for name in ("nobody.invalid", "a..b", "ü" * 80):
        with pytest.raises(PeerError) as caught:
            find_addresses(f"{name}:5")
        assert caught.value.errno == errno.EHOSTUNREACH


def test_what_an_address_is() -> None:
    assert Address("::1", 1).is_loopback
    assert not Address("::", 1).is_loopback
    assert Address("0.0.0.0", 1).is_wildcard
    assert of_socket(("::ffff:1.2.3.4", 5, 0, 0)) == ("1.2.3.4", 5)
    assert of_socket(("::1", 5, 0, 0)) == ("::1", 5)


# --- keys ----------------------------------------------------------------------------------------


def test_a_key_comes_from_a_file_that_only_its_owner_can_read(tmp_path: Path) -> None:
    path = tmp_path / "peers.key"
    path.write_bytes(b"0123456789abcdef \n")
    path.chmod(0o600)
    key = PeerKey.from_file(path)
    assert key.proof(b"role", b"x") == PeerKey(b"0123456789abcdef").proof(b"role", b"x")
    assert "0123" not in repr(key)
    path.chmod(0o640)
    with pytest.raises(TransportUnavailable, match="chmod 600"):
        PeerKey.from_file(path)
    with pytest.raises(TransportUnavailable, match="No such file"):
        PeerKey.from_file(tmp_path / "none")
    with pytest.raises(TransportUnavailable, match="null byte"):
        PeerKey.from_file("a\0b")


@pytest.mark.parametrize("size", [0, 15, 4097])
def test_a_key_of_a_wrong_size(size: int) -> None:
    with pytest.raises(TransportUnavailable, match=f"a key of {size} bytes"):
        PeerKey(bytes(size))


def test_a_key_comes_from_the_environment(tmp_path: Path) -> None:
    path = tmp_path / "peers.key"
    path.write_bytes(b"f" * 20)
    path.chmod(0o400)
    text = PeerKey.from_environment({"I2O_PEER_KEY": "e" * 20, "I2O_PEER_KEY_FILE": str(path)})
    file = PeerKey.from_environment({"I2O_PEER_KEY_FILE": str(path)})
    assert text is not None
    assert file is not None
    assert text.proof(b"", b"") == PeerKey(b"e" * 20).proof(b"", b"")
    assert file.proof(b"", b"") == PeerKey(b"f" * 20).proof(b"", b"")
    assert PeerKey.from_environment({}) is None
    odd = PeerKey.from_environment({"I2O_PEER_KEY": "\udcff" * 20})  # bytes that are no UTF-8
    assert odd is not None
    assert odd.proof(b"", b"") == PeerKey(b"\xff" * 20).proof(b"", b"")


# --- plans ---------------------------------------------------------------------------------------


def test_a_plan_goes_round_all_addresses() -> None:
    one, two, three = (Address("127.0.0.1", port) for port in (1, 2, 3))
    plan = DialPlan(PeerOptions(rounds=3, retry_delay_s=0.1, retry_delay_max_s=0.15))
    plan.add((one, two, one))
    plan.add((three, two))
    assert plan.addresses == (one, two, three)
    rounds = []
    plan.begin()
    while True:
        rounds.append(list(iter(plan.next_address, None)))
        delay = plan.next_round()
        if delay is None:
            break
        rounds.append(delay)
    assert rounds == [[one, two, three], 0.1, [one, two, three], 0.15, [one, two, three]]
    plan.worked(two)
    plan.worked(Address("127.0.0.1", 9))
    plan.begin()
    assert plan.next_address() == two
    assert DialPlan(PeerOptions()).next_round() is None


def test_a_plan_forgets_an_address_and_goes_on_with_the_next() -> None:
    one, two, three = (Address("127.0.0.1", port) for port in (1, 2, 3))
    for gone, tried, left in ((one, 1, [two, three]), (two, 1, [three]), (one, 2, [three])):
        plan = DialPlan(PeerOptions())
        plan.add((one, two, three))
        for _ in range(tried):
            plan.next_address()
        plan.remove(gone)
        plan.remove(Address("127.0.0.1", 9))
        assert list(iter(plan.next_address, None)) == left
        assert gone not in plan.addresses


def test_a_plan_has_patience_with_a_peer_that_prefers_its_own_link() -> None:
    """By default for longer than an attempt of the peer's own that got stuck is waited for."""
    options = PeerOptions()
    plan = DialPlan(options)
    plan.add([Address("127.0.0.1", 1)])
    for _ in range(2):
        plan.begin()
        delays = []
        while (delay_s := plan.refused()) is not None:
            assert plan.next_address() is not None
            delays.append(delay_s)
        assert delays == pytest.approx([0.1, 0.2, 0.4, 0.8, 1.6, 2.0])
        assert sum(delays) > options.handshake_timeout_s


# --- timers --------------------------------------------------------------------------------------


def test_timers() -> None:
    timers, fired = Timers(), []
    assert timers.next_ns is None
    timers.at(20, lambda: fired.append("b"))
    first = timers.at(10, lambda: fired.append("a"))
    other = timers.at(30, lambda: fired.append("c"))
    assert timers.next_ns == 10
    first.cancel()
    assert not first.is_pending
    timers.run(5)
    assert (fired, timers.next_ns) == ([], 20)
    timers.run(25)
    assert (fired, timers.next_ns) == (["b"], 30)
    assert other.is_pending
    timers.run(30)
    other.fire()
    assert (fired, timers.next_ns) == (["b", "c"], None)


# --- outbox --------------------------------------------------------------------------------------


def test_an_outbox_writes_everything_in_order_however_little_is_taken() -> None:
    random = Random(1)
    outbox, wanted, got, out = Outbox(), b"", bytearray(), []
    for number in range(200):
        parts = [random.randbytes(random.randrange(2000)) for _ in range(random.randrange(90))]
        data = b"".join(parts)
        wanted += data
        outbox.add([bytearray(part) for part in parts], len(data), number, number)

    def sendmsg(buffers: list[memoryview]) -> int:
        assert len(buffers) <= 64 + 90
        data = b"".join(buffers)
        taken = data[: random.randrange(len(data) + 1)]
        got.extend(taken)
        return len(taken)

    while outbox.size or len(outbox):
        out += [frame.token for frame in outbox.write(sendmsg)]
    assert bytes(got) == wanted
    assert out == list(range(200))


def test_urgent_frames_do_not_cut_others() -> None:
    outbox = Outbox()
    outbox.add([b"abc"], 3, "a", 0)
    outbox.add([b"def"], 3, "b", 0)
    outbox.add_urgent(b"!")
    assert [frame.token for frame in outbox.advance(2)] == [None]
    outbox.add_urgent(b"?")
    data = bytearray()
    outbox.write(lambda buffers: data.extend(b"".join(buffers)) or len(data))
    assert data == b"bc?def"
    outbox.add([b"x"], 1, "c", 0)
    assert [frame.token for frame in outbox.take_all()] == ["c"]
    assert (outbox.size, len(outbox)) == (0, 0)
    assert outbox.write(lambda buffers: 1 // 0) == []


# --- mailbox -------------------------------------------------------------------------------------

A, B = PeerName(1, 1), PeerName(1, 2)


def message(tag: int, data: bytes, origin: PeerName = A, source: PeerName = A) -> Message:
    return Message(origin, source, tag, data, 1)


def receive(
    tag: int = ANY_TAG,
    origin: PeerName = ANYBODY,
    source: PeerName = ANYBODY,
    persistent: bool = False,
) -> Receive:
    return Receive(tag, origin, source, lambda found: None, persistent)


def test_messages_wait_in_order_and_are_found_by_everything() -> None:
    box = Mailbox()
    for one in (
        message(1, b"a"),
        message(2, b"b", B),
        message(1, b"c", B, B),
        message(2, b"d", A, B),
    ):
        assert box.match(one) is None
    assert len(box) == 4

    def take(**wanted: object) -> bytes | None:
        found = box.take(receive(**wanted))  # type: ignore[arg-type]
        return None if found is None else found.data

    assert box.has_for(receive(tag=2))
    assert not box.has_for(receive(tag=3))
    assert take(tag=1, origin=B) == b"c"
    assert take(source=B) == b"d"
    assert take() == b"a"
    assert take(tag=1) is None
    assert take(tag=2) == b"b"
    assert len(box) == 0


def test_receives_wait_in_order() -> None:
    box = Mailbox()
    first, every, second = receive(tag=1), receive(tag=1, persistent=True), receive()
    for one in (first, every, second):
        box.post(one)
    assert box.match(message(1, b"")) is first
    assert first.is_over
    assert box.match(message(1, b"")) is every
    assert box.match(message(1, b"")) is every
    assert box.match(message(2, b"")) is second
    assert box.cancel(every)
    assert not box.cancel(every)
    assert not box.cancel(second)
    assert box.match(message(1, b"")) is None
    box.clear()
    assert len(box) == 0


# --- poller --------------------------------------------------------------------------------------


def test_a_poller_spins_only_when_the_last_wait_was_short() -> None:
    clock = ManualClock()
    looks: list[float] = []
    with Poller(clock, 50e-6) as poller:
        events = iter([[(99, 1)], [], [], [(99, 1)], [], [], [], [(99, 1)], [(99, 1)]])

        def look(timeout_s: float, most: int) -> list[tuple[int, int]]:
            looks.append(timeout_s)
            clock.advance(0.001 if timeout_s == 7 else 20e-6)
            return next(events)

        poller._look = look  # type: ignore[assignment]
        poller.poll(1.0)  # over at once: from now on it spins first
        assert looks == [1.0]
        poller.poll(1.0)
        assert looks[1:] == [0, 0, 0]
        poller.poll(7)
        assert looks[4:] == [0, 0, 0, 7]  # nothing came in that time: the next wait sleeps at once
        poller.poll(1.0)
        assert looks[8:] == [1.0]


def test_a_poller_that_spun_in_vain_sleeps_at_once_for_a_while() -> None:
    clock = ManualClock()
    looks: list[float] = []
    comes_at = 0  # at which look of a wait
    with Poller(clock, 50e-6) as poller:

        def look(timeout_s: float, most: int) -> list[tuple[int, int]]:
            looks.append(timeout_s)
            clock.advance(20e-6)
            return [(99, 1)] if timeout_s or len(looks) == comes_at else []

        def is_spinning() -> bool:
            looks.clear()
            poller.poll(1.0)
            return looks[0] == 0

        poller._look = look  # type: ignore[assignment]
        assert [is_spinning() for _ in range(4)] == [False, True, True, True]
        comes_at = 2
        assert is_spinning()  # once not in vain: the others do not count any more
        comes_at = 0
        assert [is_spinning() for _ in range(4)] == [True] * 4
        assert [is_spinning() for _ in range(128)] == [False] * 128
        comes_at = 1  # there before: that says nothing
        assert is_spinning()
        comes_at = 0
        assert [is_spinning() for _ in range(5)] == [True] * 4 + [False]


def test_a_poller_neither_spins_nor_sleeps_beyond_a_deadline() -> None:
    clock = ManualClock()
    looks: list[float] = []
    with Poller(clock, 50e-6) as poller:

        def look(timeout_s: float, most: int) -> list[tuple[int, int]]:
            looks.append(timeout_s)
            clock.advance(20e-6)
            return [(99, 1)] if len(looks) == 1 else []

        poller._look = look  # type: ignore[assignment]
        poller.poll(1.0)
        assert poller.poll(1.0, None, clock.monotonic_ns() + 30_000) == clock.monotonic_ns()
        assert looks[1:] == [0, 0, 0]  # the last one is the sleep, of no time
        assert poller.poll(-1, None, clock.monotonic_ns() + 2_000_000_000) == clock.monotonic_ns()
        assert looks[4:] == [2.0]
        poller.poll(0.5, None, clock.monotonic_ns() + 2_000_000_000)
        assert looks[5:] == [0.5]


def test_a_descriptor_is_closed_when_all_events_are_handled() -> None:
    with Poller(ManualClock(), 0) as poller:
        (r1, w1), (r2, w2) = os.pipe(), os.pipe()
        handled: list[int] = []

        def handler(own: int, other: int) -> None:
            handled.append(own)
            poller.drop(other, lambda: os.close(other))
            os.fstat(other)  # still open
            poller.poll()  # does nothing from within

        poller.add(r1, READABLE, lambda mask: handler(r1, r2))
        poller.add(r2, READABLE, lambda mask: handler(r2, r1))
        os.write(w1, b"x")
        os.write(w2, b"x")
        poller.poll()
        assert len(handled) == 1
        [left] = {r1, r2} - {handled[0]}
        with pytest.raises(OSError, match="Bad file"):
            os.fstat(left)
        poller.drop(handled[0], lambda: os.close(handled[0]))
        poller.remove(12345)
        os.close(w1)
        os.close(w2)
    poller.close()
    poller.call_soon(lambda: None)
    poller.wake()
    assert poller.fileno() == -1


def test_options_are_values() -> None:
    assert replace(PeerOptions(), rounds=1) == PeerOptions(rounds=1)
