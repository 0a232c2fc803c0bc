# SPDX-License-Identifier: Apache-2.0
"""Messengers: sending, receiving, routes, other components, pings, limits, ends."""

from __future__ import annotations

import contextlib
import errno
import logging
import threading
import time
from array import array
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest

from fakes.messengers import OPTIONS, QUICK, Ends, Messengers, drive, introduce
from fakes.raw_peer import RawLink
from i2o.errors import TransportUnavailable
from i2o.transport.tcp.address import Address
from i2o.transport.tcp.carrier import TcpCarrier
from i2o.transport.tcp.component import Letter, Offered
from i2o.transport.tcp.errors import (
    AddresseeUnknown,
    PeerError,
    QueueFull,
    RecvTimeout,
    SendTimeout,
    Unreachable,
)
from i2o.transport.tcp.key import PeerKey
from i2o.transport.tcp.mailbox import Message
from i2o.transport.tcp.message_wire import MESSAGE
from i2o.transport.tcp.messenger import Messenger
from i2o.transport.tcp.peer import PeerState
from i2o.transport.tcp.peer_name import ANYBODY, PeerName
from i2o.transport.tcp.probe import probe
from i2o.transport.tcp.wire import Kind


@pytest.fixture
def office() -> Iterator[Messengers]:
    with Messengers() as opened:
        yield opened


@pytest.fixture(params=[0, 1, 3], ids=["driven", "one loop", "three loops"])
def pair(request: pytest.FixtureRequest, office: Messengers) -> tuple[Messenger, Messenger]:
    """Two that know one another; the second one works by itself, so that the first may wait."""
    a, b = office.open(1, 0, loops=request.param), office.open(1, 1, loops=1)
    introduce(a, b)
    return a, b


# --- sending and receiving -----------------------------------------------------------------------


def test_receiving_without_time_takes_what_is_here(office: Messengers) -> None:
    """Nothing else moves a messenger without event loops: who only polls must get messages, too."""
    a, b = office.open(1, 0, loops=1), office.open(1, 1)
    introduce(a, b)
    a.send_nb(b.name, [b"x"], 5)
    end, got = time.monotonic() + 20, None
    while got is None and time.monotonic() < end:
        with contextlib.suppress(RecvTimeout):
            got = b.recv(5, timeout_s=0)
    assert got is not None
    assert got.data == b"x"
    with pytest.raises(RecvTimeout):
        b.recv(5, timeout_s=-1)  # no time, either


def test_a_message_goes_there_and_back(pair: tuple[Messenger, Messenger]) -> None:
    a, b = pair
    assert a.lookup(b.name).state.value == "unconnected"  # type: ignore[union-attr]
    a.send(b.name, [b"he", bytearray(b"ll"), memoryview(b"o")], 5, timeout_s=20)
    assert b.recv(5, timeout_s=20) == (a.name, a.name, 5, b"hello", 1)
    b.send_nb(a.name, [b"back"], 6)
    assert a.recv(6, origin=b.name, source=b.name, timeout_s=20).data == b"back"
    assert a.flush(20)
    assert a.lookup(b.name).is_connected  # type: ignore[union-attr]


def test_numbers_count_the_messages_to_each_destination(
    pair: tuple[Messenger, Messenger],
) -> None:
    a, b = pair
    for _ in range(3):
        a.send_nb(b.name, [b""], 1)
        a.send_nb(a.name, [b""], 1)
    assert a.flush(20)
    assert [b.recv(1, timeout_s=20).number for _ in range(3)] == [1, 2, 3]
    assert [a.recv(1, timeout_s=20).number for _ in range(3)] == [1, 2, 3]


def test_receives_with_callbacks(pair: tuple[Messenger, Messenger]) -> None:
    a, b = pair
    got: list[bytes] = []
    for data in (b"early", b"once", b"more"):
        a.send_nb(b.name, [data], 1)
    assert a.flush(20)
    receive = b.recv_nb(lambda message: got.append(message.data), 1, persistent=True)
    drive(a, until=lambda: len(got) == 3)
    a.send_nb(b.name, [b"late"], 1)
    drive(a, until=lambda: len(got) == 4)
    assert got == [b"early", b"once", b"more", b"late"]
    assert b.cancel(receive)
    assert not b.cancel(receive)
    a.send(b.name, [b"kept"], 1, timeout_s=20)
    once = b.recv_nb(lambda message: got.append(message.data), 1)
    drive(a, until=lambda: len(got) == 5)
    assert not b.cancel(once)


def test_a_receive_that_is_cancelled_before_it_is_served(office: Messengers) -> None:
    a = office.open(1, 0)
    a.send_nb(a.name, [b"x"], 1)
    a.progress()
    receive = a.recv_nb(lambda message: pytest.fail("it was cancelled"), 1)
    assert a.cancel(receive)
    a.progress()
    assert a.recv(1, timeout_s=0).data == b"x"


def test_messages_to_itself_need_no_socket(office: Messengers) -> None:
    a = office.open(1, 0)
    ends, data = Ends(), bytearray(b"mine")
    a.send_nb(a.name, [data], 3, ends)
    assert not len(ends)  # never from within the call
    assert a.recv(3, timeout_s=5) == (a.name, a.name, 3, b"mine", 1)
    assert ends.errors == [None]
    a.send(a.name, [b"x"], 3, timeout_s=5)
    assert a.peers() == []


def test_messages_to_itself_are_limited(office: Messengers) -> None:
    a = office.open(1, 0, replace(OPTIONS, window=1000))
    a.send_nb(a.name, [bytes(900)], 1)
    with pytest.raises(QueueFull):
        a.send_nb(a.name, [bytes(1)], 1)
    assert len(a.recv(1, timeout_s=5).data) == 900
    a.send_nb(a.name, [bytes(1)], 1)


def test_nothing_comes(pair: tuple[Messenger, Messenger]) -> None:
    with pytest.raises(RecvTimeout):
        pair[0].recv(timeout_s=0.01)
    with pytest.raises(RecvTimeout):
        pair[0].recv(timeout_s=0)


def test_what_cannot_be_sent(office: Messengers) -> None:
    a, b = office.pair()
    for tag in (-1, 0xFFFFFF00, 1 << 32):
        for send in (a.send, a.send_nb):
            with pytest.raises(PeerError, match="tag"):
                send(b.name, [b""], tag)
    with pytest.raises(PeerError) as caught:
        a.send_nb(b.name, [bytes(4 << 20)], 1)
    assert caught.value.errno == errno.EMSGSIZE
    with pytest.raises(AddresseeUnknown, match=r"9\.9 is no peer of 1\.0; set_peer") as unknown:
        a.send_nb(PeerName(9, 9), [b""], 1)
    assert unknown.value.errno == errno.ENOENT
    a.close()
    with pytest.raises(PeerError) as caught:
        a.send_nb(b.name, [b""], 1)
    assert caught.value.errno == errno.ESHUTDOWN


def test_buffers_whose_items_are_no_bytes(pair: tuple[Messenger, Messenger]) -> None:
    a, b = pair
    words, square = array("I", [1, 2, 3]), memoryview(bytes(range(6))).cast("B", (2, 3))
    wanted = [words.tobytes(), words.tobytes() + b"\0\1\2\3\4\5" + words.tobytes(), b""]
    for to in (b, a):
        for iov in ([words], (words, square, memoryview(words)), [array("I")]):
            a.send(to.name, iov, 4, timeout_s=20)  # type: ignore[arg-type]
        assert [to.recv(4, timeout_s=20).data for _ in range(3)] == wanted
    long = array("I", range(10_000))  # it goes without being put together first
    a.send(b.name, [long], 4, timeout_s=20)  # type: ignore[list-item]
    assert b.recv(4, timeout_s=20).data == long.tobytes()
    with pytest.raises(PeerError) as caught:
        a.send_nb(b.name, [memoryview(bytes(4 << 20)).cast("I")], 1)
    assert caught.value.errno == errno.EMSGSIZE


def test_the_list_of_buffers_may_be_used_again_at_once(office: Messengers) -> None:
    a, b = office.pair()
    for first in ([b"one"], [b"o", b"ne"]):
        iov = list(first)
        a.send_nb(b.name, iov, 1)
        iov[0] = b"another"
    drive(a, b, until=lambda: b.status()["kept"] == 2)
    assert [b.recv(1, timeout_s=5).data for _ in range(2)] == [b"one"] * 2


@pytest.mark.parametrize(
    ("iov", "tag"),
    [
        (["x"], 1),
        ([b"good", None], 1),
        ([memoryview(b"strided")[::2]], 1),
        (b"no row of buffers", 1),
        (None, 1),
        ([3], 1),
        ([b"x"], 1.5),
        ([b"x"], "1"),
        ([b"x"], None),
    ],
)
def test_a_bad_call_is_refused_and_harms_no_later_one(
    office: Messengers, iov: Any, tag: Any
) -> None:
    a, b = office.open(1, 0), office.open(1, 1, loops=1)
    introduce(a, b)
    for _ in range(2):  # before there is a link, and over it
        for name in (b.name, a.name):
            for send in (a.send, a.send_nb):
                with pytest.raises(TypeError, match=r"contiguous|sequence of buffers|a tag is"):
                    send(name, iov, tag)
            a.send(name, [b"later"], 2, timeout_s=20)
    assert [one.recv(timeout_s=20).data for one in (a, b) for _ in range(2)] == [b"later"] * 4


def test_routes_that_lead_nowhere(office: Messengers) -> None:
    a, far, near = office.open(1, 0), PeerName(1, 2), PeerName(1, 1)
    for destination, hop in (
        (a.name, a.name),
        (a.name, near),
        (far, a.name),
        (ANYBODY, a.name),
        (far, ANYBODY),
        (PeerName(-1, 0), near),
        (a.name, None),
    ):
        with pytest.raises(PeerError) as caught:
            a.set_route(destination, hop)
        assert caught.value.errno == errno.EINVAL
    assert a.status()["routes"] == {}


def test_what_no_messenger_can_be_made_with() -> None:
    with pytest.raises(PeerError, match="-1 event loops") as caught:
        Messenger(PeerName(1, 0), loops=-1)
    assert caught.value.errno == errno.EINVAL
    secret: Any = b"0123456789abcdef"
    for make in (
        lambda: Messenger(PeerName(1, 0), key=secret),
        lambda: TcpCarrier(key=secret),
        lambda: probe("tcp://127.0.0.1:1", key=secret),
    ):
        with pytest.raises(TypeError, match=r"PeerKey\(secret\).*not bytes") as refused:
            make()
        assert "0123" not in str(refused.value)


def test_names_that_nobody_can_have(office: Messengers) -> None:
    a = office.open(1, 0)
    for name in (ANYBODY, PeerName(-1, 0), a.name):
        with pytest.raises(PeerError) as caught:
            a.set_peer(name, [])
        assert caught.value.errno == errno.EINVAL
    with pytest.raises(PeerError):
        Messenger(ANYBODY)


def test_the_largest_message_and_a_peer_that_takes_less(office: Messengers) -> None:
    small = replace(OPTIONS, peer=replace(QUICK, frame_limit=1000))
    a, b = office.open(1, 0), office.open(1, 1, small)
    introduce(a, b)
    ends = Ends()
    a.send_nb(b.name, [bytes(944)], 1, ends)
    a.send_nb(b.name, [bytes(945)], 1, ends)
    a.send_nb(b.name, [b"x"], 1, ends)
    drive(a, b, until=lambda: len(ends) == 3)
    assert sorted(str(error and error.errno) for error in ends.errors) == ["90", "None", "None"]
    assert [len(b.recv(1, timeout_s=5).data) for _ in range(2)] == [944, 1]


# --- limits --------------------------------------------------------------------------------------


def test_a_full_queue_refuses_or_waits(office: Messengers) -> None:
    options = replace(OPTIONS, queue_messages=2)
    a, b = office.open(1, 0, options), office.open(1, 1, loops=1)
    introduce(a, b)
    a.send_nb(b.name, [b"1"], 1)
    a.send_nb(b.name, [b"2"], 1)
    with pytest.raises(QueueFull) as caught:
        a.send_nb(b.name, [b"3"], 1)
    assert isinstance(caught.value, BlockingIOError)
    a.send(b.name, [b"3"], 1, timeout_s=20)  # waits for room
    assert [b.recv(1, timeout_s=20).data for _ in range(3)] == [b"1", b"2", b"3"]


def test_a_full_queue_in_bytes(office: Messengers) -> None:
    a = office.open(1, 0, replace(OPTIONS, queue_bytes=1000))
    raw = office.raw(1, 1)
    a.set_peer(raw.identity.name, [raw.address])
    a.send_nb(raw.identity.name, [bytes(2000)], 1)  # one always may
    with pytest.raises(QueueFull):
        a.send_nb(raw.identity.name, [b""], 1)
    with pytest.raises(QueueFull):
        a.send(raw.identity.name, [b""], 1, timeout_s=0.01)


@pytest.mark.parametrize(("loops", "spin_s"), [(0, 50e-6), (2, 0.0)])
def test_only_who_works_without_threads_spins(
    office: Messengers, loops: int, spin_s: float
) -> None:
    messenger = office.open(1, 0, replace(OPTIONS, peer=replace(QUICK, spin_s=50e-6)), loops=loops)
    assert {node.options.spin_s for node in messenger._nodes} == {spin_s}
    assert messenger.options.peer.spin_s == 50e-6


def test_a_receiver_that_does_not_receive_stops_the_sender_and_is_not_taken_for_dead(
    office: Messengers,
) -> None:
    peer = replace(QUICK, keepalive_idle_s=0.02, keepalive_timeout_s=1.0)
    options = replace(OPTIONS, window=100_000, peer=peer)
    a, b = office.open(1, 0, options, loops=1), office.open(1, 1, options, loops=1)
    introduce(a, b)
    ends = Ends()
    for number in range(100):
        a.send_nb(b.name, [b"%04d" % number + bytes(9996)], 1, ends)
    assert not a.flush(2.5)  # more than twice what a dead peer is given
    kept = b.status()["kept"]
    assert 8 <= kept <= 10
    assert a.peers()[0].losses == 0
    got = [b.recv(1, timeout_s=20).data[:4] for _ in range(100)]
    assert got == [b"%04d" % number for number in range(100)]
    assert a.flush(20)
    assert ends.errors == [None] * 100


def test_a_link_that_is_slower_than_its_sender(office: Messengers) -> None:
    options = replace(OPTIONS, peer=replace(QUICK, queue_limit=100_000))
    a, b = office.open(1, 0, options), office.open(1, 1, options)
    introduce(a, b)
    ends = Ends()
    for number in range(60):
        a.send_nb(b.name, [bytes([number]) * 200_000], 1, ends)
        b.send_nb(a.name, [bytes([number]) * 200_000], 1, ends)
    got: list[int] = []
    b.recv_nb(lambda message: got.append(message.data[0]), persistent=True)
    a.recv_nb(lambda message: None, persistent=True)
    drive(a, b, until=lambda: len(ends) == 120)
    assert got == list(range(60))
    assert set(ends.errors) == {None}


def test_a_caller_whose_place_is_given_away(office: Messengers) -> None:
    a = office.open(1, 0, replace(OPTIONS, peer=replace(QUICK, peer_limit=1)))
    first, second = office.open(1, 1, listen=()), office.open(1, 2, listen=())
    ends, others = Ends(), Ends()
    for caller in (first, second):
        caller.set_peer(a.name, [a.address])
        caller.send_nb(a.name, [b"x"], 1, others)
        drive(a, caller, until=lambda caller=caller: not caller.peers()[0].waiting
              and not caller.peers()[0].in_flight)  # fmt: skip
        if caller is first:
            first.close()
            drive(a, until=lambda: not a.peers()[0].is_connected)
            a.send_nb(first.name, [b"y"], 1, ends)
            drive(a, until=lambda: a.peers()[0].state is PeerState.FAILED)
    assert [status.name for status in a.peers()] == [second.name]
    [error] = ends.errors
    assert isinstance(error, Unreachable)
    assert a.recv(1, origin=first.name, timeout_s=5).data == b"x"  # it came when it was there


# --- ends ----------------------------------------------------------------------------------------


def test_a_send_whose_time_is_over(office: Messengers) -> None:
    a, raw = office.open(1, 0), office.raw(1, 1)
    name = raw.identity.name
    a.set_peer(name, [raw.address])
    with pytest.raises(SendTimeout, match="not sent in time, and not any more"):
        a.send(name, [b"x"], 1, timeout_s=0.01)
    assert a.lookup(name).waiting == 0  # type: ignore[union-attr]


def test_a_send_that_is_not_acknowledged(office: Messengers) -> None:
    a, raw = office.open(1, 0, loops=1), office.raw(1, 1)
    name = raw.identity.name
    a.set_peer(name, [raw.address])
    a.send_nb(name, [b"first"], 1)
    link, _ = raw.admit()
    link.resume()
    link.message()
    with pytest.raises(SendTimeout, match="may have arrived") as caught:
        a.send(name, [b"x"], 1, timeout_s=0.01)
    assert isinstance(caught.value, TimeoutError)
    link.acknowledge(2)
    drive(a, until=lambda: a.lookup(name).in_flight == 0)  # type: ignore[union-attr]


def test_whoever_waits_is_told_of_the_end(office: Messengers) -> None:
    a, raw = office.open(1, 0, loops=1), office.raw(1, 1)
    a.set_peer(raw.identity.name, [raw.address])
    caught: list[BaseException] = []

    def wait(what: Callable[[], object]) -> None:
        try:
            what()
        except PeerError as error:
            caught.append(error)

    waits = [
        threading.Thread(target=wait, args=(a.recv,)),
        threading.Thread(target=wait, args=(lambda: a.send(raw.identity.name, [b"x"], 1),)),
    ]
    for thread in waits:
        thread.start()
    drive(a, until=lambda: a.peers()[0].waiting == 1)
    a.close()
    for thread in waits:
        thread.join()
    assert sorted(error.errno for error in caught) == [  # type: ignore[attr-defined]
        errno.ESHUTDOWN,
        errno.ECANCELED,
    ]
    a.progress(1)
    a.close()


def test_a_peer_that_only_called_and_went_is_waited_for_a_while(office: Messengers) -> None:
    a, raw = office.open(1, 0, replace(OPTIONS, come_back_s=0.03), loops=1), office.raw(1, 1)
    raw.identity = replace(raw.identity, address="")
    link, _ = raw.call(a.address)
    link.resume()
    drive(a, until=lambda: a.peers()[0].is_connected)
    link.close()
    drive(a, until=lambda: not a.peers()[0].is_connected)
    ends = Ends()
    a.send_nb(raw.identity.name, [b"x"], 1, ends)
    drive(a, until=lambda: len(ends))
    [error] = ends.errors
    assert isinstance(error, Unreachable)
    assert "no address of it is known" in str(error)


def test_a_peer_that_closes_every_link_it_accepts_is_given_up(office: Messengers) -> None:
    a, raw = office.open(1, 0, replace(OPTIONS, come_back_s=0.05), loops=1), office.raw(1, 1)
    ends = Ends()
    a.set_peer(raw.identity.name, [raw.address])
    a.send_nb(raw.identity.name, [b"x"], 1, ends)
    raw.listener.settimeout(0.02)
    for _ in range(1000):
        if len(ends):
            break
        with contextlib.suppress(TimeoutError):
            raw.admit()[0].close()
    assert isinstance(ends.errors[0], Unreachable)


def test_a_loss_that_nobody_waited_for_is_forgotten(office: Messengers) -> None:
    a, raw = office.open(1, 0, replace(OPTIONS, come_back_s=1.0), loops=1), office.raw(1, 1)
    a.set_peer(raw.identity.name, [raw.address])
    a.connect(raw.identity.name)
    link, _ = raw.admit()
    link.resume()
    drive(a, until=lambda: a._office.hops[raw.identity.name].session.is_ready)
    link.close()
    drive(a, until=lambda: a.peers()[0].losses == 1)
    hop = a._office.hops[raw.identity.name]
    drive(a, until=lambda: hop._lost_for_ns() >= 0)
    ends = Ends()
    a.send_nb(raw.identity.name, [b"x"], 1, ends)
    raw.admit()[0].close()  # the first loss of a link that this message waits for
    link, _ = raw.admit()
    link.resume()
    link.message()
    link.acknowledge(1)
    drive(a, until=lambda: len(ends))
    assert ends.errors == [None]


def test_a_link_that_is_closed_on_purpose_comes_back_with_the_next_message(
    pair: tuple[Messenger, Messenger],
) -> None:
    a, b = pair
    a.send(b.name, [b"1"], 1, timeout_s=20)
    a.disconnect(b.name)
    assert not a.peers()[0].is_connected
    a.send(b.name, [b"2"], 1, timeout_s=20)
    assert [b.recv(1, timeout_s=20).data for _ in range(2)] == [b"1", b"2"]
    assert a.peers()[0].connects == 2


# --- callbacks -----------------------------------------------------------------------------------


def test_a_callback_that_raises_harms_nobody(
    pair: tuple[Messenger, Messenger], caplog: pytest.LogCaptureFixture
) -> None:
    a, b = pair

    def fail(anything: object) -> None:
        raise ValueError("the program's own")

    b.recv_nb(fail, 1, persistent=True)
    with caplog.at_level(logging.CRITICAL):
        a.send_nb(b.name, [b"x"], 1, fail)
        a.send(b.name, [b"y"], 1, timeout_s=20)
    assert a.peers()[0].losses == 0


def test_a_callback_cannot_wait(pair: tuple[Messenger, Messenger]) -> None:
    a, b = pair
    caught: list[int | None] = []

    def wait(message: Message) -> None:
        for call in (
            lambda: b.recv(timeout_s=1),
            lambda: b.send(a.name, [b""], 1),
            lambda: b.ping(a.name),
            lambda: b.ask_status(a.name),
        ):
            try:
                call()
            except PeerError as error:
                caught.append(error.errno)

    b.recv_nb(wait, 1)
    a.send(b.name, [b"x"], 1, timeout_s=20)
    drive(a, until=lambda: len(caught) == 4)
    assert caught == [errno.EDEADLK] * 4


# --- routes and components -----------------------------------------------------------------------


def chain(office: Messengers, count: int = 3) -> list[Messenger]:
    """Return messengers of which each knows only its neighbours, with routes along the row."""
    row = [office.open(1, rank) for rank in range(count)]
    for left, right in pairwise(row):
        introduce(left, right)
    for index, one in enumerate(row):
        for other_index, other in enumerate(row):
            if abs(index - other_index) > 1:
                step = 1 if other_index > index else -1
                one.set_route(other.name, row[index + step].name)
    return row


def test_messages_over_relays_end_when_their_destination_has_them(office: Messengers) -> None:
    row = chain(office, 4)
    ends = Ends()
    row[0].send_nb(row[3].name, [b"far"], 5, ends)
    drive(*row[:3], until=lambda: row[0].peers()[0].in_flight == 0 and not row[0].peers()[0].waiting
          and row[2].peers()[1].waiting)  # fmt: skip
    assert not len(ends)  # the relays have it; the destination has not moved yet
    drive(*row, until=lambda: len(ends))
    assert ends.errors == [None]
    assert row[3].recv(5, origin=row[0].name, source=row[2].name, timeout_s=5).data == b"far"
    row[0].send_nb(row[3].name, [b"nobody asks"], 6)
    drive(*row, until=lambda: row[3].status()["kept"] == 1)


def test_a_route_for_everybody_else(office: Messengers) -> None:
    a, b, c = chain(office)
    a.set_route(c.name, None)
    with pytest.raises(AddresseeUnknown):
        a.send_nb(c.name, [b"x"], 1)
    a.set_route(ANYBODY, b.name)
    ends = Ends()
    a.send_nb(c.name, [b"x"], 1, ends)
    drive(a, b, c, until=lambda: len(ends))
    assert ends.errors == [None]
    a.set_route(PeerName(5, 5), PeerName(6, 6))
    with pytest.raises(AddresseeUnknown, match="to be reached over"):
        a.send_nb(PeerName(5, 5), [b"x"], 1)


def test_a_destination_behind_a_relay_that_cannot_be_reached(office: Messengers) -> None:
    a, b, c = chain(office)
    c.close()
    ends = Ends()
    a.send_nb(c.name, [b"x"], 1, ends)
    drive(a, b, until=lambda: len(ends))
    [error] = ends.errors
    assert isinstance(error, Unreachable)
    assert error.errno == errno.ECONNREFUSED
    assert "says a relay" in str(error)


def test_a_receipt_that_does_not_come(office: Messengers) -> None:
    a, raw = office.open(1, 0, replace(OPTIONS, receipt_s=0.02), loops=1), office.raw(1, 1)
    far, ends = PeerName(1, 2), Ends()
    a.set_peer(raw.identity.name, [raw.address])
    a.set_route(far, raw.identity.name)
    a.send_nb(far, [b"x"], 1, ends)
    link, _ = raw.admit()
    link.resume()
    link.message()
    link.acknowledge(1)
    drive(a, until=lambda: len(ends))
    assert ends.errors[0] is not None
    assert ends.errors[0].errno == errno.ETIMEDOUT
    with pytest.raises(SendTimeout):
        a.send(far, [b"y"], 1, timeout_s=0.01)


@pytest.mark.parametrize("code", [0xF0000000, 0xFFFFFFFF, 0x7FFFFFFF])
def test_a_receipt_with_a_code_that_means_nothing(office: Messengers, code: int) -> None:
    a, raw = office.open(1, 0, loops=1), office.raw(1, 1)
    far, ends = PeerName(1, 2), Ends()
    a.set_peer(raw.identity.name, [raw.address])
    a.set_route(far, raw.identity.name)
    a.send_nb(far, [b"x"], 1, ends)
    link, _ = raw.admit()
    link.resume()
    head, _ = link.message()
    receipt = MESSAGE.build(
        kind=1, flags=4, hops=16, tag=code, sequence=1, ack=1, credit=1 << 20, number=head.number,
        origin_job=far.job, origin_rank=far.rank,
        destination_job=a.name.job, destination_rank=a.name.rank,
    )  # fmt: skip
    link.frame(Kind.DATA, receipt)
    drive(a, until=lambda: len(ends))
    assert isinstance(ends.errors[0], Unreachable)
    assert ends.errors[0].errno == code
    assert "says a relay" in str(ends.errors[0])
    assert a.peers()[0].losses == 0


def test_receipts_that_are_owed_are_limited(office: Messengers) -> None:
    a, raw = office.open(1, 0, replace(OPTIONS, queue_messages=1), loops=1), office.raw(1, 1)
    far = PeerName(1, 2)
    a.set_peer(raw.identity.name, [raw.address])
    a.set_route(far, raw.identity.name)
    ends = Ends()
    a.send_nb(far, [b"x"], 1, ends)
    link, _ = raw.admit()
    link.resume()
    link.message()
    link.acknowledge(1)
    drive(a, until=lambda: a.peers()[0].in_flight == 0)
    with pytest.raises(QueueFull, match="receipts"):
        a.send_nb(far, [b"x"], 1)
    a.close()
    assert ends.errors[0] is not None
    assert ends.errors[0].errno == errno.ECANCELED


class Pigeons:
    """A component that carries letters to some, and says so later."""

    def __init__(self, *names: PeerName, error: PeerError | None = None) -> None:
        self.names, self.error = names, error
        self.offered: list[PeerName] = []
        self.letters: list[Letter] = []
        self.done: list[Callable[[PeerError | None], None]] = []

    def offer(self, letter: Letter, done: Callable[[PeerError | None], None]) -> Offered:
        self.offered.append(letter.destination)
        if letter.destination not in self.names:
            return Offered.TAKE_NEXT
        self.letters.append(letter)
        self.done.append(done)
        return Offered.TAKEN


def test_an_unknown_hop_goes_to_the_next_component(office: Messengers) -> None:
    far, nowhere = PeerName(7, 7), PeerName(8, 8)
    first, second = Pigeons(), Pigeons(far)
    a = office.open(1, 0, components=(first, second))
    ends = Ends()
    a.send_nb(far, [b"by air"], 4, ends)
    assert (first.offered, second.offered) == ([far], [far])
    [letter] = second.letters
    assert (letter.origin, letter.tag, letter.parts) == (a.name, 4, (b"by air",))
    second.done[0](None)
    assert ends.errors == [None]
    with pytest.raises(AddresseeUnknown):
        a.send_nb(nowhere, [b"x"], 1)
    with pytest.raises(SendTimeout, match="component"):
        a.send(far, [b"x"], 1, timeout_s=0.01)
    a.send_nb(far, [b"x"], 1)
    second.done[-1](None)


def test_a_relay_may_go_on_with_another_component(office: Messengers) -> None:
    far = PeerName(7, 7)
    pigeons = Pigeons(far)
    a, b = office.open(1, 0), office.open(1, 1, components=(pigeons,))
    introduce(a, b)
    a.set_route(far, b.name)
    ends = Ends()
    a.send_nb(far, [b"by air"], 4, ends)
    drive(a, b, until=lambda: pigeons.letters)
    assert pigeons.letters[0].hops == 15
    pigeons.done[0](Unreachable("the weather"))
    drive(a, b, until=lambda: len(ends))
    assert isinstance(ends.errors[0], Unreachable)
    for code in (-5, 0, 1 << 32):  # what cannot be said in a receipt
        a.send_nb(far, [b"by air"], 4, ends)
        drive(a, b, until=lambda: len(pigeons.done) == len(ends) + 1)
        pigeons.done[-1](PeerError(code, "a component's own"))
        drive(a, b, until=lambda: len(pigeons.done) == len(ends))
        assert ends.errors[-1] is not None
        assert ends.errors[-1].errno == errno.EIO


# --- ping, probe, status -------------------------------------------------------------------------


def test_ping(pair: tuple[Messenger, Messenger]) -> None:
    a, b = pair
    assert 0 < a.ping(b.name, timeout_s=20) < 20
    assert 0 < a.ping(b.name, timeout_s=20) < 20
    assert a.peers()[0].round_trip_ns > 0
    assert a.peers()[0].messages_sent == 0
    with pytest.raises(AddresseeUnknown):
        a.ping(PeerName(9, 9))


def test_a_ping_to_nobody(office: Messengers) -> None:
    a = office.open(1, 0)
    raw = office.raw(1, 1)
    a.set_peer(raw.identity.name, [raw.address])
    raw.listener.close()
    with pytest.raises(Unreachable, match="refused"):
        a.ping(raw.identity.name, timeout_s=20)


def test_a_ping_that_nobody_answers(office: Messengers) -> None:
    a, raw = office.open(1, 0, loops=1), office.raw(1, 1)
    a.set_peer(raw.identity.name, [raw.address])
    a.connect(raw.identity.name)
    link, _ = raw.admit()
    link.resume()
    with pytest.raises(Unreachable, match="no answer in"):
        a.ping(raw.identity.name, timeout_s=0.01)
    payload = link.expect(Kind.PING)
    link.frame(Kind.PONG, bytes(payload))
    drive(a, until=lambda: a.peers()[0].round_trip_ns)


def test_a_peer_that_answers_nothing_any_more_is_found_out(office: Messengers) -> None:
    peer = replace(QUICK, keepalive_idle_s=0.02, keepalive_timeout_s=0.02)
    a, raw = office.open(1, 0, replace(OPTIONS, peer=peer), loops=1), office.raw(1, 1)
    raw.identity = replace(raw.identity, answers=True)
    link, _ = raw.call(a.address)
    link.resume()
    link.expect(Kind.PING)
    assert link.is_closed_by_peer
    drive(a, until=lambda: a.peers()[0].losses == 1)
    assert "does not answer any more" in a.peers()[0].last_error


def test_the_table_of_another_process(pair: tuple[Messenger, Messenger]) -> None:
    a, b = pair
    b.set_route(PeerName(5, 5), a.name)
    table = a.ask_status(b.name, timeout_s=20)
    assert table["name"] == "1.1"
    assert table["routes"] == {"5.5": "1.0"}
    [row] = table["peers"]
    assert (row["name"], row["state"]) == ("1.0", "connected")
    with pytest.raises(AddresseeUnknown):
        a.ask_status(PeerName(9, 9))


def test_many_ask_for_the_table_at_once(office: Messengers) -> None:
    a, raw = office.open(1, 0, loops=1), office.raw(1, 1)
    name = raw.identity.name
    a.set_peer(name, [raw.address])
    with pytest.raises(RecvTimeout):
        a.ask_status(name, timeout_s=0)  # its answer will come for the others to see
    tables: list[dict[str, Any]] = []
    threads = [
        threading.Thread(target=lambda: tables.append(a.ask_status(name, timeout_s=20)))
        for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    link, _ = raw.admit()
    link.resume()
    numbers = [link.message()[0].number for _ in range(4)]
    link.acknowledge(4)
    for sequence, number in enumerate((numbers[0], *numbers[:0:-1], 77), 1):
        _answer(link, a, name, sequence, number, b'{"to": %d}' % number)
    for thread in threads:
        thread.join()
    assert sorted(table["to"] for table in tables) == numbers[1:]
    assert not a._questions


def _answer(
    link: RawLink, asker: Messenger, name: PeerName, sequence: int, number: int, text: bytes
) -> None:
    head = MESSAGE.build(
        kind=1, hops=16, tag=0xFFFFFF01, sequence=sequence, number=number, credit=1 << 20,
        origin_job=name.job, origin_rank=name.rank,
        destination_job=asker.name.job, destination_rank=asker.name.rank,
    )  # fmt: skip
    link.frame(Kind.DATA, head + text)


@pytest.mark.parametrize("text", [b"", b"[]", b"\xff", b"{", b"[" * 100_000])
def test_an_answer_that_is_no_table(office: Messengers, text: bytes) -> None:
    a, raw = office.open(1, 0, loops=1), office.raw(1, 1)
    name = raw.identity.name
    a.set_peer(name, [raw.address])
    caught: list[PeerError] = []

    def ask() -> None:
        try:
            a.ask_status(name, timeout_s=20)
        except PeerError as error:
            caught.append(error)

    thread = threading.Thread(target=ask)
    thread.start()
    link, _ = raw.admit()
    link.resume()
    head, _ = link.message()
    _answer(link, a, name, 1, head.number, text)
    thread.join()
    assert caught[0].errno == errno.EBADMSG


def test_a_table_that_does_not_come(office: Messengers) -> None:
    a, raw = office.open(1, 0), office.raw(1, 1)
    a.set_peer(raw.identity.name, [raw.address])
    with pytest.raises(RecvTimeout):
        a.ask_status(raw.identity.name, timeout_s=0.01)


def test_a_probe_learns_who_listens(office: Messengers) -> None:
    key = PeerKey(b"k" * 16)
    a = office.open(1, 0, key=key, loops=1)
    found = probe(a.address, key=key)
    assert (found.name, found.incarnation) == (a.name, a.incarnation)
    assert found.answers
    assert a.peers() == []
    with pytest.raises(Unreachable, match="wants a key"):
        probe(a.address)
    with pytest.raises(Unreachable, match="its key is another"):
        probe(a.address, key=PeerKey(b"o" * 16))


def test_a_probe_of_nobody(office: Messengers) -> None:
    raw = office.raw(1, 1)
    with pytest.raises(Unreachable, match=r"in time|timed out"):
        probe(raw.address, timeout_s=0.02)
    raw.listener.close()
    with pytest.raises(Unreachable, match="refused"):
        probe(raw.address)
    with pytest.raises(PeerError):
        probe("nonsense")


@pytest.mark.parametrize("answer", [b"", b"\x08\x00\x00\x00\x12\x00\x00\x00" + bytes(8)])
def test_a_probe_of_something_else(office: Messengers, answer: bytes) -> None:
    raw = office.raw(1, 1)
    caught: list[str] = []

    def ask() -> None:
        try:
            probe(raw.address)
        except Unreachable as error:
            caught.append(str(error))

    thread = threading.Thread(target=ask)
    thread.start()
    link = raw.accept()
    link.expect(Kind.HELLO)
    link.write(answer)
    link.close()
    thread.join()
    assert ("without an answer" in caught[0]) if not answer else ("instead of" in caught[0])


# --- where it listens ----------------------------------------------------------------------------


def test_nothing_but_loopback_without_a_key(office: Messengers) -> None:
    everywhere = (Address("0.0.0.0", 0),)
    with pytest.raises(TransportUnavailable, match="there is no key"):
        office.open(1, 0, listen=everywhere)
    office.open(1, 0, listen=everywhere, insecure=True)
    office.open(1, 1, listen=everywhere, key=PeerKey(b"k" * 16))
    a = office.open(1, 2)
    [error] = a.set_peer(PeerName(1, 3), ["tcp://192.0.2.1:5"]).values()
    assert error.errno == errno.EACCES


def test_an_address_that_is_taken(office: Messengers) -> None:
    a = office.open(1, 0)
    taken = Address("127.0.0.1", int(a.address.rpartition(":")[2]))
    with pytest.raises(TransportUnavailable, match="in use"):
        office.open(1, 1, listen=(taken,), loops=2)


def test_one_that_calls_only(office: Messengers) -> None:
    a, b = office.open(1, 0, listen=()), office.open(1, 1, loops=1)
    assert a.address == ""
    a.set_peer(b.name, [b.address])
    a.send(b.name, [b"x"], 1, timeout_s=20)
    b.send_nb(a.name, [b"y"], 2)
    assert a.recv(2, timeout_s=20).data == b"y"
    assert b.peers()[0].addresses == ()


def test_peers_are_spread_over_loops(office: Messengers) -> None:
    a = office.open(1, 0, loops=3)
    others = [office.open(1, rank) for rank in range(1, 7)]
    ends = Ends()
    for other in others:
        introduce(a, other)
        other.send_nb(a.name, [b"x"], 1, ends)
        a.send_nb(other.name, [b"y"], 1, ends)
    drive(*others, until=lambda: len(ends) == 12)
    assert ends.errors == [None] * 12
    assert [status.loop for status in a.peers()] == [2, 0, 1, 2, 0, 1]
    names = {thread.name for thread in threading.enumerate()}
    assert {"i2o-tcp-0", "i2o-tcp-1", "i2o-tcp-2"} <= names
    assert a.fileno() == -1
    assert a.next_deadline_ns() is None
    assert others[0].fileno() >= 0
    assert others[0].next_deadline_ns() is not None


def test_a_message_that_is_delivered_when_the_time_is_over_is_not_lost(office: Messengers) -> None:
    a = office.open(1, 0, loops=1)
    lock, mailbox = a._lock, a._office.mailbox
    assert lock is not None
    got: list[Message] = []
    receiver = threading.Thread(target=lambda: got.append(a.recv(1, timeout_s=0.05)))
    receiver.start()
    while not mailbox._receives:
        time.sleep(0.001)
    message = Message(a.name, a.name, 1, b"late", 1)
    with lock:  # as an event loop that is about to deliver it
        receive = mailbox.match(message)
        assert receive is not None
        receiver.join(0.2)
        assert receiver.is_alive()  # its time is over, but it has not given up
        receive.callback(message)
    receiver.join(20)
    assert got == [message]


def test_threads_that_receive_are_woken_by_close(office: Messengers) -> None:
    a = office.open(1, 0, loops=1)
    errors: list[int | None] = []

    def receive() -> None:
        with pytest.raises(PeerError) as caught:
            a.recv(1)
        errors.append(caught.value.errno)

    receivers = [threading.Thread(target=receive) for _ in range(3)]
    for receiver in receivers:
        receiver.start()
    while len(a._office.mailbox._receives) < 3:
        time.sleep(0.001)
    a.close()
    for receiver in receivers:
        receiver.join(20)
    assert errors == [errno.ESHUTDOWN] * 3
    receive()
    assert errors == [errno.ESHUTDOWN] * 4
