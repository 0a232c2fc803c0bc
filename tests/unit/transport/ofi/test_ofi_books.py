# SPDX-License-Identifier: Apache-2.0
"""The books of operations, which are in C: nothing is lost, told twice, or kept too long."""

from __future__ import annotations

import ctypes
import errno
import gc
import struct
import sys
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from fakes.ofi_table import BOTH, RXM, SHM, UDP, Side, Table
from i2o.clock import ManualClock
from i2o.transport.fabric.completion import Completion, CompletionError
from i2o.transport.fabric.endpoint import Message
from i2o.transport.fabric.errors import ErrorAvailable, FabricErrno, FabricError, TryAgain
from i2o.transport.fabric.flags import ADDR_UNSPEC, Bind, Flag
from i2o.transport.ofi.completion_queue import OfiCompletionQueue
from i2o.transport.ofi.library import load
from i2o.transport.ofi.operation import NO_FLAGS, RECV_MSG, RECV_TAGGED, SEND_MSG, SEND_TAGGED
from i2o.transport.second_module import second_module

pytestmark = pytest.mark.libfabric
both = pytest.mark.parametrize("uri", [RXM, SHM], ids=["rxm", "shm"])


@pytest.fixture
def table() -> Iterator[Table]:
    with Table() as made:
        yield made


def meet(table: Table, one: Side, other: Side, to: int) -> None:
    """Let a first message arrive, so that later ones do not wait for the connection."""
    other.endpoint.recv(bytearray(1))
    one.endpoint.send(b"!", to)
    table.entry(other)
    table.entry(one)


# --- many at once --------------------------------------------------------------------------------


@both
def test_there_is_a_place_for_every_operation(table: Table, uri: str) -> None:
    one, other, to, _ = table.pair(uri)
    meet(table, one, other, to)
    many = 300
    into = [bytearray(2) for _ in range(many)]
    for number, buffer in enumerate(into):
        other.endpoint.recv(buffer, context=number)
    for number in range(many):
        one.endpoint.send(number.to_bytes(2, "big"), to, context=number)
    assert other.endpoint.posted == many
    assert [table.entry(other).context for _ in range(many)] == list(range(many))
    assert [int.from_bytes(buffer, "big") for buffer in into] == list(range(many))
    assert [table.entry(one).context for _ in range(many)] == list(range(many))
    assert (other.endpoint.posted, one.endpoint.in_flight) == (0, 0)
    assert (other.cq.operations.under_way, one.cq.operations.under_way) == (0, 0)


def post_a_mixture(table: Table) -> Side:
    """Send six messages, of which the third has data and the fifth is too long."""
    one, other, to, _ = table.pair(SHM)
    meet(table, one, other, to)
    for number in range(6):
        other.endpoint.recv(bytearray(4), context=number)
    for data in (b"0000", b"111"):
        one.endpoint.send(data, to)
    one.endpoint.senddata(b"2222", 77, to)
    for data in (b"33", b"44444444", b"5"):
        one.endpoint.send(data, to)
    return other


def test_usual_and_unusual_entries_keep_their_order(table: Table) -> None:
    other = post_a_mixture(table)
    found: list[Completion | CompletionError] = []
    while len(found) < 6:
        try:
            found += other.cq.sread(8, timeout_s=5)
        except ErrorAvailable:
            found.append(other.cq.readerr())
    assert [entry.context for entry in found] == [0, 1, 2, 3, 4, 5]
    assert [entry.length for entry in found] == [4, 3, 4, 2, 4, 1]
    assert [entry.data for entry in found] == [0, 0, 77, 0, 0, 0]
    assert found[2].flags == RECV_MSG | Flag.REMOTE_CQ_DATA
    assert isinstance(found[4], CompletionError)
    assert (found[4].err, found[4].olen) == (FabricErrno.ETRUNC, 4)


def test_no_more_entries_than_were_asked_for(table: Table) -> None:
    one, other, to, _ = table.pair(SHM)
    meet(table, one, other, to)
    for number in range(3):
        other.endpoint.recv(bytearray(1), context=number)
        one.endpoint.send(b"x", to)
    got = []
    while len(got) < 3:
        entries = other.cq.sread(2, timeout_s=5)
        assert 1 <= len(entries) <= 2
        got += [entry.context for entry in entries]
    assert got == [0, 1, 2]


def test_an_exception_ends_no_operation_but_its_own(
    table: Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    take = OfiCompletionQueue._take

    def fail(self: OfiCompletionQueue, operation: Any, *entry: Any) -> None:
        take(self, operation, *entry)
        raise RuntimeError("on purpose")

    monkeypatch.setattr(OfiCompletionQueue, "_take", fail)
    other = post_a_mixture(table)
    seen: list[object] = []
    raised = 0
    while len(seen) < 6:
        try:
            seen += [entry.context for entry in other.cq.sread(8, timeout_s=5)]
        except ErrorAvailable:
            seen.append(other.cq.readerr().context)
        except RuntimeError:
            raised += 1
    assert seen == [0, 1, 2, 3, 4, 5]
    assert raised >= 1


@both
def test_nothing_overtakes_what_waits(table: Table, uri: str) -> None:
    one, other, to, _ = table.pair(uri)
    meet(table, one, other, to)
    long = bytes(1 << 20)
    one.endpoint.tsend(long, 1, to, context=1)
    one.endpoint.tsendmsg(Message([b"2"], to, 2, tag=2), Flag.FENCE)
    one.endpoint.tsend(b"3", 3, to, context=3)
    one.endpoint.send(b"4", to, context=4)
    other.endpoint.recv(bytearray(1), context=4)
    for tag in (3, 2):
        other.endpoint.trecv(bytearray(1), tag, context=tag)
    other.endpoint.trecv(bytearray(len(long)), 1, context=1)
    assert [table.entry(other).context for _ in range(4)] == [1, 2, 3, 4]
    assert [table.entry(one).context for _ in range(4)] == [1, 2, 3, 4]


@both
def test_sends_are_silent_on_a_selective_queue(table: Table, uri: str) -> None:
    one, other = table.open(uri, BOTH | Bind.SELECTIVE_COMPLETION), table.open(uri)
    to = one.endpoint.insert(other.endpoint.name)
    other.endpoint.insert(one.endpoint.name)
    for number in range(4):  # the first makes the connection, and is posted in another way
        if number == 2:
            other.endpoint.trecv(bytearray(1), 5, context=number)
            one.endpoint.tsend(b"x", 5, to, context=number)
        else:
            other.endpoint.recv(bytearray(1), context=number)
            one.endpoint.send(b"x", to, context=number)
        assert table.entry(other).context == number
    other.endpoint.recv(bytearray(1))
    one.endpoint.sendmsg(Message([b"x"], to, "told"), Flag.COMPLETION)
    assert table.entry(one).context == "told"
    assert one.endpoint.in_flight == 0


def test_what_waits_is_looked_after_while_messages_come(table: Table) -> None:
    gone = table.open(RXM).endpoint.name
    table.close()
    table.sides.clear()
    clock = ManualClock(1)
    one, other = table.open(RXM, clock=clock), table.open(RXM)
    one.endpoint.insert(other.endpoint.name)
    to = other.endpoint.insert(one.endpoint.name)

    def message() -> None:
        one.endpoint.recv(bytearray(1), context="in")
        other.endpoint.send(b"x", to)

    message()
    while one.endpoint.posted:  # the first makes the connection, which takes both sides
        other.endpoint.progress()
        one.endpoint.progress()
    one.cq.read()
    other.cq.sread(timeout_s=5)
    one.endpoint.send(b"x", one.endpoint.insert(gone), context="never")
    one.cq.read(0)
    clock.advance(11)
    for _ in range(100):
        message()
        other.cq.sread(timeout_s=5)
        try:
            assert one.cq.sread()[0].context == "in"
        except ErrorAvailable:
            break
    assert one.cq.readerr().context == "never"


# --- what is kept, and for how long --------------------------------------------------------------


@both
def test_buffers_are_held_until_the_entry_and_no_longer(table: Table, uri: str) -> None:
    one, other, to, _ = table.pair(uri)
    meet(table, one, other, to)
    data, into = bytearray(b"data"), bytearray(4)
    for tag in (None, 5):
        if tag is None:
            other.endpoint.recv(into)
            one.endpoint.send(data, to)
        else:
            other.endpoint.trecv(into, tag)
            one.endpoint.tsend(data, tag, to)
        with pytest.raises(BufferError):
            into.append(0)
        with pytest.raises(BufferError):
            data.append(0)
        table.entry(other)
        table.entry(one)
        for buffer in (data, into):
            buffer.append(0)
            buffer.pop()
        assert into == b"data"


class Witness:
    """A context that can be watched."""

    def __init__(self, last_words: Callable[[], object] = list) -> None:
        self.last_words = last_words

    def __del__(self) -> None:
        self.last_words()


@both
def test_a_context_is_let_go_of_with_its_entry(table: Table, uri: str) -> None:
    one, other, to, _ = table.pair(uri)
    meet(table, one, other, to)
    witness = Witness()
    gone = weakref.ref(witness)
    other.endpoint.recv(bytearray(1), context=witness)
    del witness
    one.endpoint.send(b"x", to)
    entry = table.entry(other)
    assert gone() is entry.context
    del entry
    assert gone() is None


def test_the_last_words_of_a_context_may_use_the_queue(table: Table) -> None:
    one = table.open(SHM)
    other = table.open(SHM, BOTH | Bind.SELECTIVE_COMPLETION)
    to = one.endpoint.insert(other.endpoint.name)
    other.endpoint.insert(one.endpoint.name)
    heard = []

    def speak() -> None:
        try:
            entries: list[object] = list(other.cq.read(16))
        except TryAgain:
            entries = []
        other.endpoint.recv(bytearray(1), context="again")
        heard.append(entries)

    many = 40  # more than are taken at once
    for _ in range(many):
        other.endpoint.recv(bytearray(1), context=Witness(speak))
    other.endpoint.recvmsg(Message([bytearray(1)], context="last"), Flag.COMPLETION)
    for _ in range(many + 1):
        one.endpoint.send(b"x", to)
    assert table.entry(other).context == "last"
    assert heard == [[]] * many
    assert other.endpoint.posted == many
    assert other.cq.operations.under_way == many


@both
def test_nothing_is_counted_up_by_messages(table: Table, uri: str) -> None:
    one, other, to, _ = table.pair(uri)
    meet(table, one, other, to)
    data, into, context = bytearray(b"data"), bytearray(4), Witness()
    watched = (data, into, context, to, SEND_MSG, SEND_TAGGED, RECV_MSG, RECV_TAGGED, NO_FLAGS,
               ADDR_UNSPEC, Completion, one.endpoint._poster, other.endpoint._poster,
               one.endpoint._tallies[to])  # fmt: skip

    def play(count: int) -> list[int]:
        for number in range(count):
            other.endpoint.recv(into, context=context)
            other.endpoint.trecv(into, number, context=context)
            one.endpoint.send(data, to, context=context)
            one.endpoint.tsend(data, number, to, context=context)
            for _ in range(2):
                table.entry(one)
                table.entry(other)
        return [sys.getrefcount(each) for each in watched]

    before = play(20)
    assert all(abs(new - old) < 20 for old, new in zip(before, play(50), strict=True))


def test_all_of_it_can_be_collected(table: Table) -> None:
    one = table.open(RXM)
    one.endpoint.recv(bytearray(1), context=one)
    references = [weakref.ref(each) for each in one]
    one.endpoint.insert(one.endpoint.name)
    one.endpoint.close()
    one.cq.close()
    table.pop_all()
    table.sides.clear()
    del one
    gc.collect()
    assert [reference() for reference in references] == [None, None]


# --- refusals ------------------------------------------------------------------------------------


@both
def test_what_the_short_way_leaves_is_refused_in_words(table: Table, uri: str) -> None:
    one, other, to, _ = table.pair(uri)
    meet(table, one, other, to)
    end = one.endpoint
    for call in (
        lambda: end.recv(b"read-only"),
        lambda: end.trecv(b"read-only", 1),
        lambda: end.send("text", to),  # type: ignore[arg-type]
        lambda: end.send(b"x", to + 100),
        lambda: end.tsend(b"x", 1, to + 100),
        lambda: end.tsend(b"x", 1 << 64, to),
        lambda: end.tsend(b"x", -1, to),
        lambda: end.trecv(bytearray(1), -1),
        lambda: end.send(memoryview(bytes(8))[::2], to),
    ):
        with pytest.raises(FabricError) as caught:
            call()
        assert caught.value.errno == errno.EINVAL
    assert (end.posted, end.in_flight, one.cq.operations.under_way) == (0, 0, 0)
    for post in (lambda: end.recv(bytearray(1)), lambda: end.send(b"x", to)):
        with pytest.raises(TryAgain):
            while True:
                post()
    assert (end.posted, end.in_flight) == (end.attributes.rx_size, end.attributes.tx_size)
    end.close()
    for call in (lambda: end.recv(bytearray(1)), lambda: end.send(b"x", to)):
        with pytest.raises(FabricError) as caught:
            call()
        assert caught.value.errno == FabricErrno.EOPBADSTATE


def test_limits_are_kept(table: Table) -> None:
    one, other, to, _ = table.pair(RXM)
    meet(table, one, other, to)
    end = one.endpoint
    poster = load().books.Poster(
        int(end._ffi.cast("uintptr_t", end._ep)), end._tallies, (SEND_MSG,) * 4, 1, 0, 3, 0, 0,
        is_tagged=True, takes_masks=True,
    )  # fmt: skip
    poster.bind(one.cq.operations, True, True)
    poster.open(True, True)
    assert not poster.send(b"four", to, None)
    assert not poster.recv(bytearray(1), None), "receives are bound to nothing"
    assert one.cq.operations.under_way == 0
    other.endpoint.recv(bytearray(4))
    assert poster.send(b"two", to, "short")
    assert not poster.send(b"two", to, "second")
    assert table.entry(one).context == "short"
    assert poster.in_flight == 0
    poster.bind(one.cq.operations, False, True)
    poster.open(True, True)
    assert not poster.recv(bytearray(1), None)
    assert one.cq.operations.under_way == 0


def test_udp_sends_nothing_on_the_short_way(table: Table) -> None:
    one, _, to, _ = table.pair(UDP)
    assert not one.endpoint._poster.send(b"x", to, None)


def test_operations_are_given_back_once(table: Table) -> None:
    ledger = table.open(RXM).cq.operations
    poster = table.open(RXM).endpoint._poster
    operation = ledger.take(poster)
    assert ledger.find(operation.address) is operation
    assert ledger.find(operation.address + 1) is None
    assert ledger.of(poster) == [operation]
    ledger.give_back(operation)
    with pytest.raises(ValueError, match="not under way"):
        ledger.give_back(operation)
    for made_up in (operation.address, operation.address + 1, 0, (1 << 64) - 1):
        assert ledger.find(made_up) is None
    stranger = table.open(RXM).cq.operations.take(poster)
    with pytest.raises(ValueError, match="not under way"):
        ledger.give_back(stranger)


Read = ctypes.CFUNCTYPE(ctypes.c_ssize_t, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)


class CqOperations(ctypes.Structure):
    """The first of struct fi_ops_cq."""

    _fields_ = (("size", ctypes.c_size_t), ("read", Read))


class Cq(ctypes.Structure):
    """struct fid_cq."""

    _fields_ = (
        ("fclass", ctypes.c_size_t),
        ("context", ctypes.c_void_p),
        ("fid_operations", ctypes.c_void_p),
        ("operations", ctypes.POINTER(CqOperations)),
    )


def test_entries_of_nobody_are_passed_over() -> None:
    told: list[tuple[int, int]] = []

    def read(_: int, place: int, count: int) -> int:
        taken, told[:count] = told[:count], []
        data = b"".join(struct.pack("=6Q", *each, 0, 0, 0, 0) for each in taken)
        ctypes.memmove(place, data, len(data))
        return len(taken) or -errno.EAGAIN

    operations = CqOperations(ctypes.sizeof(CqOperations), Read(read))
    cq = Cq(operations=ctypes.pointer(operations))
    put: list[Completion] = []
    books = load().books
    ledger = books.Ledger(
        ctypes.addressof(cq),
        Completion,
        RECV_TAGGED,
        NO_FLAGS,
        ADDR_UNSPEC,
        put.append,
        put.append,
        is_sourced=False,
        has_flags=True,
        is_widest=True,
        holds_back=False,
    )
    poster = books.Poster(0, {}, (0, 0, 0, 0), 9, 9, 9, 0, 0, is_tagged=True, takes_masks=True)
    tally = books.Tally(7)
    assert ledger.next(1, 0) == []
    send, receive, free = ledger.take(poster, tally), ledger.take(poster), ledger.take(poster)
    send.flags, receive.flags = SEND_MSG, RECV_MSG
    addresses = [free.address, 0, send.address + 1, send.address, receive.address]
    ledger.give_back(free)
    told += [(address, int(RECV_MSG)) for address in addresses * 2]
    assert [entry.flags for entry in ledger.next(16, 0)] == [SEND_MSG, RECV_MSG]
    assert ledger.fetch(16, 0) == -errno.EAGAIN
    assert (tally.outstanding, poster.in_flight, poster.posted) == (-1, -1, -1)
    assert ledger.under_way == 0
    told += [(address, 0) for address in addresses]
    assert ledger.fetch(3, 0) == 3
    assert ledger.fetch(16, 0) == 2
    assert put == []


def test_a_closed_queue_is_not_looked_at(table: Table) -> None:
    one = table.open(RXM)
    one.endpoint.recv(bytearray(1))
    one.endpoint.close()
    one.cq.close()
    assert one.cq.operations.next(1, 0) is None
    assert one.cq.operations.fetch(1, 0) == -errno.EAGAIN


def test_the_books_take_what_they_are_for() -> None:
    books = load().books
    assert load().books is books
    with pytest.raises(TypeError, match="no class of tuples"):
        books.Ledger(
            0, object, RECV_TAGGED, NO_FLAGS, 0, list, list,
            is_sourced=True, has_flags=True, is_widest=True, holds_back=True,
        )  # fmt: skip
    with pytest.raises(TypeError):
        books.Operation()
    with pytest.raises(ImportError):
        second_module("i2o.transport.ofi._others", None)
    poster = books.Poster(0, {}, (1, 2, 3, 4), 1, 1, 1, 0, 0, is_tagged=True, takes_masks=True)
    for call in (poster.send, poster.tsend, poster.recv, poster.trecv):
        with pytest.raises(TypeError, match="buffer"):
            call()
    assert not poster.send(b"", 0, None)
    assert not poster.recv(bytearray(), None)
