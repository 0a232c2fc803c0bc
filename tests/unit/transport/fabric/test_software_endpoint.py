# SPDX-License-Identifier: Apache-2.0
"""What the software endpoint does beyond the contract's suite: places, losses, and odd orders."""

from __future__ import annotations

import errno
import select
import threading

import pytest

from fakes.endpoint_end import BOTH, End, Ends
from fakes.frame_peer import FramePeer
from i2o.transport.fabric.completion import Completion, CompletionError
from i2o.transport.fabric.endpoint import Endpoint, EventKind, Message
from i2o.transport.fabric.engine import Engine
from i2o.transport.fabric.engine_options import EngineOptions
from i2o.transport.fabric.errors import ErrorAvailable, FabricErrno, FabricError, TryAgain
from i2o.transport.fabric.flags import Bind, Capability, CqFormat, EndpointType, Flag
from i2o.transport.fabric.frames import FrameKind
from i2o.transport.fabric.mem import MemoryFabric
from i2o.transport.fabric.software_endpoint import SoftwareEndpoint

MULTI = Flag.MULTI_RECV


def refused(code: int) -> pytest.RaisesExc[FabricError]:
    return pytest.raises(FabricError, check=lambda error: error.errno == code)


def test_it_keeps_the_contract(ends: Ends) -> None:
    endpoint: Endpoint = ends.end("one").endpoint
    assert endpoint.attributes.provider == "mem"


@pytest.mark.parametrize("name", ["tx_size", "window_bytes", "eager_limit", "max_msg_size"])
def test_sizes_that_make_no_sense(name: str) -> None:
    with refused(errno.EINVAL):
        EngineOptions(**{name: -1})
    with refused(errno.EINVAL):
        MemoryFabric(frame_limit=127).endpoint()


# --- places ----------------------------------------------------------------------------------


def test_sends_and_receives_take_places(ends: Ends) -> None:
    one, other, to = ends.pair(options=EngineOptions(tx_size=2, rx_size=2))
    ends.fabric.hold("one", "other")
    for number in range(2):
        one.endpoint.send(b"x", to, context=number)
        other.endpoint.recv(bytearray(1), context=number)
    with pytest.raises(TryAgain, match="2 sends"):
        one.endpoint.send(b"x", to)
    with pytest.raises(TryAgain, match="2 sends"):
        one.endpoint.inject(b"x", to)
    with pytest.raises(TryAgain, match="2 receives"):
        other.endpoint.recv(bytearray(1))
    ends.fabric.release("one", "other")
    ends.turn()
    assert one.contexts() == [0, 1]
    assert other.contexts() == [0, 1]
    one.endpoint.send(b"x", to)
    other.endpoint.recv(bytearray(1))


def test_an_entry_has_its_place_before_its_operation(ends: Ends) -> None:
    one = ends.end("one", cq_size=2)
    ends.end("other")
    to = one.endpoint.insert("other")
    one.endpoint.recv(bytearray(1), context="r")
    one.endpoint.send(b"x", to, context="s")
    for post in (
        lambda: one.endpoint.send(b"x", to),
        lambda: one.endpoint.recv(bytearray(1)),
        lambda: one.endpoint.trecvmsg(Message(context="p"), Flag.PEEK),
    ):
        with pytest.raises(TryAgain, match="queue"):
            post()
    ends.turn()
    assert len(one.cq) == 1
    with pytest.raises(TryAgain):
        one.endpoint.send(b"x", to)
    assert one.contexts() == ["s"]
    one.endpoint.send(b"x", to)


def test_injected_messages_give_their_places_back_without_being_asked(ends: Ends) -> None:
    one, other, to = ends.pair(cq_size=3, options=EngineOptions(tx_size=2))
    for number in range(20):
        one.endpoint.inject(bytes([number]), to)
        ends.turn()
        one.endpoint.inject(bytes([number]), to)
        ends.turn()
        for _ in range(2):
            other.endpoint.recv(bytearray(1))
        assert len(other.entries()) == 2
    assert one.entries() == []
    assert one.cq.free == one.cq.size


def test_multi_receives_wait_for_places_in_the_queue(ends: Ends) -> None:
    one = ends.end("one")
    other = ends.end("other", cq_size=3, min_multi_recv=1)
    to = one.endpoint.insert("other")
    other.endpoint.recvmsg(Message([bytearray(100)], context="m"), MULTI)
    for number in range(6):
        one.endpoint.send(bytes([number]), to)
    ends.turn()
    got = []
    for _ in range(4):
        entries = other.cq.read(10) if len(other.cq) else []
        got += [bytes(entry.buffer or b"") for entry in entries]
        other.cq.read(0)
    other.endpoint.recv(bytearray(1), context="behind")
    assert got == [bytes([number]) for number in range(6)]
    with pytest.raises(TryAgain):
        other.cq.read()
    assert len(one.contexts()) == 6


def test_a_stalled_buffer_does_not_let_others_pass(ends: Ends) -> None:
    one = ends.end("one")
    other = ends.end("other", cq_size=3, min_multi_recv=1)
    to, back = one.endpoint.insert("other"), other.endpoint.insert("one")
    other.endpoint.recvmsg(Message([bytearray(100)], context="m"), MULTI)
    other.endpoint.inject(b"takes a place until it has arrived", back)
    for number in range(2):
        one.endpoint.send(bytes([number]), to)
    ends.turn()
    other.endpoint.recv(bytearray(9), context="later")  # in that place
    assert [bytes(entry.buffer or b"") for entry in other.cq.read(9)] == [b"\0"]
    assert [bytes(entry.buffer or b"") for entry in other.cq.read(9)] == [b"\1"]
    assert other.endpoint.cancel("later")
    assert other.errors() == [("later", errno.ECANCELED)]


# --- multi-receive buffers and what comes in pieces -----------------------------------------------


def test_a_multi_receive_buffer_takes_announced_messages(ends: Ends) -> None:
    one, other, to = ends.pair(options=EngineOptions(eager_limit=10), min_multi_recv=50)
    whole = bytearray(200)
    other.endpoint.recvmsg(Message([whole], context="m"), MULTI)
    data = [bytes([number]) * 80 for number in (1, 2)]
    for one_of_them in data:
        one.endpoint.send(one_of_them, to)
    ends.turn()
    first, second = other.entries()
    assert isinstance(first, Completion)
    assert isinstance(second, Completion)
    assert (bytes(first.buffer or b""), bytes(second.buffer or b"")) == tuple(data)
    assert MULTI not in first.flags
    assert MULTI in second.flags
    assert other.cq.free == other.cq.size


@pytest.mark.parametrize("is_lost", [False, True])
def test_a_buffer_is_cancelled_while_a_message_comes(ends: Ends, is_lost: bool) -> None:
    one, other, to = ends.pair(options=EngineOptions(eager_limit=10), min_multi_recv=50)
    other.endpoint.recvmsg(Message([bytearray(200)], context="m"), MULTI)
    one.endpoint.send(bytes(80), to, context="s")
    ends.turn(2)
    ends.fabric.hold("one", "other")
    ends.turn(2)
    assert other.endpoint.cancel("m")
    assert not other.endpoint.cancel("m")
    assert other.entries() == []
    if is_lost:
        ends.fabric.reset("one", "other")
    else:
        ends.fabric.release("one", "other")
    ends.turn()
    message, release = other.entries()
    assert isinstance(message, CompletionError) is is_lost
    assert isinstance(release, CompletionError)
    assert (release.err, release.flags) == (errno.ECANCELED, Flag.RECV | Flag.MSG | MULTI)
    assert other.cq.free == other.cq.size


def test_a_release_of_its_own_where_entries_are_suppressed(ends: Ends) -> None:
    one = ends.end("one")
    other = ends.end("other", bind=BOTH | Bind.SELECTIVE_COMPLETION, min_multi_recv=8)
    to = one.endpoint.insert("other")
    other.endpoint.recvmsg(Message([bytearray(10)], context="m"), MULTI)
    one.endpoint.send(b"12345", to)
    ends.turn()
    (release,) = other.entries()
    assert release == Completion("m", MULTI)


def test_a_truncated_message_releases_its_buffer(ends: Ends) -> None:
    one, other, to = ends.pair(min_multi_recv=4)
    other.endpoint.recvmsg(Message([bytearray(10)], context="m"), MULTI)
    one.endpoint.senddata(bytes(12), 5, to)
    ends.turn()
    (entry,) = other.entries()
    assert isinstance(entry, CompletionError)
    assert (entry.err, entry.length, entry.olen, entry.data) == (FabricErrno.ETRUNC, 10, 2, 5)
    assert MULTI in entry.flags
    assert other.cq.free == other.cq.size


def test_a_multi_receive_buffer_has_a_least_size(ends: Ends) -> None:
    one = ends.end("one", min_multi_recv=8)
    for buffers in ([bytearray(7)], [bytearray(8), bytearray(8)], []):
        with refused(errno.EINVAL):
            one.endpoint.recvmsg(Message(buffers), MULTI)


# --- peeks and claims ------------------------------------------------------------------------


def test_a_peek_brings_the_data_that_are_here(ends: Ends) -> None:
    one, other, to = ends.pair(options=EngineOptions(eager_limit=100))
    one.endpoint.tsend(b"abcdef", 1, to)
    one.endpoint.tsend(bytes(200), 2, to)
    ends.turn()
    copy = bytearray(4)
    other.endpoint.trecvmsg(Message([copy], tag=1, context="p"), Flag.PEEK)
    other.endpoint.trecvmsg(Message([copy], tag=2, context="q"), Flag.PEEK)
    near, far = other.entries()
    assert (near.length, bytes(near.buffer or b""), far.length, far.buffer) == (
        6,
        b"abcd",
        200,
        None,
    )


def test_a_claimed_message_may_be_lost(ends: Ends) -> None:
    one, other, to = ends.pair(options=EngineOptions(eager_limit=10))
    one.endpoint.tsend(bytes(80), 1, to, context="s")
    ends.turn()
    other.endpoint.trecvmsg(Message(tag=1, context="c"), Flag.PEEK | Flag.CLAIM)
    assert other.contexts() == ["c"]
    with refused(errno.EINVAL):
        other.endpoint.trecvmsg(Message(tag=1, context="c"), Flag.PEEK | Flag.CLAIM)
    with refused(errno.EINVAL):
        other.endpoint.trecvmsg(Message(tag=1), Flag.PEEK | Flag.CLAIM)
    ends.fabric.reset("one", "other")
    ends.turn()
    assert one.errors() == [("s", errno.ECONNRESET)]
    other.endpoint.trecvmsg(Message([bytearray(80)], context="c"), Flag.CLAIM)
    assert other.errors() == [("c", errno.ECONNRESET)]
    with refused(errno.EINVAL):
        other.endpoint.trecvmsg(Message([bytearray(80)], context="c"), Flag.CLAIM)


def test_a_claimed_message_is_discarded(ends: Ends) -> None:
    one, other, to = ends.pair(options=EngineOptions(eager_limit=10))
    one.endpoint.tsendmsg(Message([bytes(80)], to, "s", tag=1), Flag.MATCH_COMPLETE)
    ends.turn()
    other.endpoint.trecvmsg(Message(tag=1, context="c"), Flag.PEEK | Flag.CLAIM)
    other.endpoint.trecvmsg(Message(context="c"), Flag.CLAIM | Flag.DISCARD)
    ends.turn()
    assert [(entry.context, entry.length) for entry in other.entries()] == [("c", 80), ("c", 80)]
    assert one.contexts() == ["s"]


# --- losses ----------------------------------------------------------------------------------


def test_what_an_address_is_removed_from_under(ends: Ends) -> None:
    one, _, to = ends.pair()
    ends.fabric.isolate("other")
    one.endpoint.recv(bytearray(1), to, context="directed")
    one.endpoint.recv(bytearray(1), context="any")
    ends.fabric.block("one", "other")
    one.endpoint.send(b"x", to, context="queued")
    one.endpoint.remove(to)
    assert one.errors() == [("queued", errno.ECANCELED), ("directed", errno.ECANCELED)]
    with refused(errno.EINVAL):
        one.endpoint.send(b"x", to)


def test_lent_buffers_end_with_the_carrier(ends: Ends) -> None:
    one, _, to = ends.pair()
    one.endpoint.send(b"x", to)
    ends.turn()
    one.entries()
    data = bytearray(10_000)
    one.endpoint.sendmsg(Message([data], to, "lent"), Flag.INJECT_COMPLETE)
    assert one.entries() == [], "the carrier has the buffer"
    one.endpoint.remove(to)
    assert one.entries() == [], "and still has"
    ends.turn()
    assert one.errors() == [("lent", errno.ECANCELED)]
    to = one.endpoint.insert("other")
    one.endpoint.sendmsg(Message([data], to, "lent"), Flag.INJECT_COMPLETE)
    ends.turn()
    assert one.contexts() == ["lent"]
    one.endpoint.send(data, to, context="lost")
    ends.fabric.reset("one", "other")
    assert one.errors() == [("lost", errno.ECONNRESET)]


def test_a_refused_call_sends_what_more_had_delayed(ends: Ends) -> None:
    one, other, to = ends.pair()
    one.endpoint.send(b"x", to)
    ends.turn()
    assert len(one.contexts()) == 1
    other.endpoint.recv(bytearray(1))
    other.endpoint.recv(bytearray(1), context="r")
    assert len(other.contexts()) == 1
    one.endpoint.sendmsg(Message([b"y"], to), Flag.MORE)
    assert other.contexts() == []
    with refused(errno.EINVAL):
        one.endpoint.send(b"z", 99)
    assert other.contexts() == ["r"]


@pytest.mark.parametrize(
    ("post", "code"),
    [
        (lambda e, to: e.tsend(b"x", 1 << 64, to), errno.EINVAL),
        (lambda e, to: e.senddata(b"x", -1, to), errno.EINVAL),
        (lambda e, to: e.trecv(bytearray(1), 1, -1), errno.EINVAL),
        (lambda e, to: e.sendv([b"x"] * 17, to), errno.EINVAL),
        (lambda e, to: e.recvv([bytearray(1)] * 17), errno.EINVAL),
        (lambda e, to: e.recvv([b"x", bytearray(1)]), errno.EINVAL),
        (lambda e, to: e.recv(bytearray(1), 77), errno.EINVAL),
        (lambda e, to: e.connect("x"), errno.EINVAL),
        (lambda e, to: e.accept(), errno.EINVAL),
        (lambda e, to: e.shutdown(), errno.EINVAL),
        (lambda e, to: e.enable(), FabricErrno.EOPBADSTATE),
        (lambda e, to: e.set_min_multi_recv(1), FabricErrno.EOPBADSTATE),
        (lambda e, to: e.open_cq(-1), errno.EINVAL),
        (lambda e, to: e.leave(to), errno.EINVAL),
        (lambda e, to: e.send(b"x", None), errno.EINVAL),
        (lambda e, to: e.send("x", to), errno.EINVAL),
        (lambda e, to: e.recv(bytearray(1), None), errno.EINVAL),
        (lambda e, to: e.address_of("other"), errno.EINVAL),
        (lambda e, to: e.tsend(b"x", 1.5, to), errno.EINVAL),
        (lambda e, to: e.tsend(b"x", None, to), errno.EINVAL),
        (lambda e, to: e.tinject(b"x", 0.0, to), errno.EINVAL),
        (lambda e, to: e.senddata(b"x", "1", to), errno.EINVAL),
        (lambda e, to: e.senddata(b"x", 0.0, to), errno.EINVAL),
        (lambda e, to: e.trecv(bytearray(1), None), errno.EINVAL),
        (lambda e, to: e.trecv(bytearray(1), 1, 0.0), errno.EINVAL),
    ],
)
def test_calls_that_make_no_sense(ends: Ends, post: object, code: int) -> None:
    one, other, to = ends.pair(options=EngineOptions(tx_size=1))
    with refused(code):
        post(one.endpoint, to)  # type: ignore[operator]
    assert one.entries() == []
    other.endpoint.recv(bytearray(1), context="received")
    one.endpoint.send(b"x", to, context="sent")  # no place was lost, and nothing is before it
    ends.turn()
    assert one.contexts() == ["sent"]
    assert other.contexts() == ["received"]


@pytest.mark.parametrize("flags", [1 << 63, Flag(1 << 63), 1 << 64, -1, None, "MORE", Flag.MSG])
@pytest.mark.parametrize("call", ["sendmsg", "tsendmsg", "recvmsg", "trecvmsg"])
def test_flags_that_have_no_meaning(ends: Ends, call: str, flags: object) -> None:
    one, _, to = ends.pair()
    with refused(FabricErrno.EBADFLAGS):
        getattr(one.endpoint, call)(Message([bytearray(1)], to), flags)


def test_flags_may_be_numbers(ends: Ends) -> None:
    one, other, to = ends.pair(tx_flags=int(Flag.DELIVERY_COMPLETE))
    room = bytearray(64)
    other.endpoint.recvmsg(Message([room]), int(MULTI))  # type: ignore[arg-type]
    one.endpoint.sendmsg(Message([b"word"], to), 1 << 17)  # type: ignore[arg-type]
    ends.turn()
    assert other.entries()[0].flags & Flag.REMOTE_CQ_DATA
    assert room[:4] == b"word"


def test_an_endpoint_of_one_direction(ends: Ends) -> None:
    sender = ends.end("one", capabilities=Capability.SEND | Capability.MSG, bind=Bind.TRANSMIT)
    receiver = ends.end("other", capabilities=Capability.RECV | Capability.MSG, bind=Bind.RECV)
    with refused(errno.ENOTSUP):
        sender.endpoint.recv(bytearray(1))
    with refused(errno.ENOTSUP):
        receiver.endpoint.send(b"x", receiver.endpoint.insert("one"))
    assert not sender.endpoint.cancel("anything")
    receiver.endpoint.recv(bytearray(1), context="r")
    to = sender.endpoint.insert("other")
    sender.endpoint.send(b"x", to, context="s")
    ends.turn()
    assert (sender.contexts(), receiver.contexts()) == (["s"], ["r"])
    sender.endpoint.remove(to)


def test_an_endpoint_greets_when_it_is_enabled(ends: Ends) -> None:
    late = ends.end("late", enable=False)
    one = ends.end("one")
    one.endpoint.send(b"x", one.endpoint.insert("late"), context="s")
    ends.turn()
    with refused(errno.EINVAL):
        late.endpoint.set_min_multi_recv(-1)
    late.endpoint.enable()
    late.endpoint.recv(bytearray(1), context="r")
    ends.turn()
    assert (one.contexts(), late.contexts()) == (["s"], ["r"])


# --- connections -----------------------------------------------------------------------------


def connected(ends: Ends) -> tuple[End, End]:
    listener = ends.fabric.listener("door")
    listener.listen()
    caller = ends.end("caller", EndpointType.MSG)
    caller.endpoint.connect("door")
    ends.turn()
    request = listener.events.read().request
    assert request is not None
    answering = request.endpoint()
    assert isinstance(answering, SoftwareEndpoint)
    answerer = ends.adopt(End(answering, BOTH, 0, CqFormat.TAGGED, True))
    answering.accept(b"welcome")
    ends.turn()
    event = caller.endpoint.events.read()
    assert (event.kind, event.parameter) == (EventKind.CONNECTED, b"welcome")
    assert answering.events.read().kind is EventKind.CONNECTED
    listener.close()
    return caller, answerer


def test_a_connection_outlives_its_listener_and_ends_in_order(ends: Ends) -> None:
    caller, answerer = connected(ends)
    caller.endpoint.send(b"1", context="s")
    ends.turn()
    assert caller.contexts() == ["s"]
    caller.endpoint.send(bytes(100_000), context="open")
    answerer.endpoint.trecv(bytearray(1), 5, context="never")
    ends.turn()
    caller.endpoint.shutdown()
    ends.turn()
    assert caller.errors() == [("open", errno.ESHUTDOWN)]
    assert answerer.errors() == [("never", errno.ECANCELED)]
    for end in (caller, answerer):
        assert end.endpoint.events.read().kind is EventKind.SHUTDOWN
        with refused(FabricErrno.EOPBADSTATE):
            end.endpoint.send(b"x")
        with refused(FabricErrno.EOPBADSTATE):
            end.endpoint.shutdown()
    answerer.endpoint.recv(bytearray(1), context="had come")
    assert answerer.contexts() == ["had come"]
    for flags in (Flag(0), MULTI):
        with refused(FabricErrno.EOPBADSTATE):
            answerer.endpoint.recvmsg(Message([bytearray(100)]), flags)


@pytest.mark.parametrize("how", ["close", "reset"])
def test_a_connection_breaks(ends: Ends, how: str) -> None:
    caller, answerer = connected(ends)
    caller.endpoint.recv(bytearray(1), context="r")
    if how == "close":
        answerer.endpoint.close()
    else:
        ends.fabric.reset("caller", "door")
    ends.turn()
    assert caller.errors() == [("r", errno.ECANCELED)]
    assert caller.endpoint.events.read().kind is EventKind.SHUTDOWN


def test_who_gives_up_before_it_is_accepted(ends: Ends) -> None:
    listener = ends.fabric.listener("door")
    listener.listen()
    caller = ends.end("caller", EndpointType.MSG)
    caller.endpoint.connect("door", b"p")
    ends.turn()
    one = listener.events.sread(0).request
    assert one is not None
    with refused(errno.EMSGSIZE):
        one.reject(bytes(65))
    accepted = one.endpoint()
    assert isinstance(accepted, SoftwareEndpoint)
    with refused(FabricErrno.EOPBADSTATE):
        one.reject()
    caller.endpoint.close()
    end = ends.adopt(End(accepted, BOTH, 0, CqFormat.TAGGED, True))
    ends.turn()
    accepted.accept()
    event = accepted.events.read()
    assert (event.kind, event.err) == (EventKind.ERROR, errno.ECONNRESET)
    assert end.entries() == []
    listener.close()
    with refused(FabricErrno.EOPBADSTATE):
        listener.listen()


def test_who_has_connected_does_not_connect_again(ends: Ends) -> None:
    caller = ends.end("twice", EndpointType.MSG, enable=False)
    with refused(errno.EINVAL):
        caller.endpoint.accept()
    caller.endpoint.connect("nobody")
    with refused(FabricErrno.EOPBADSTATE):
        caller.endpoint.connect("nobody")
    ends.turn()
    event = caller.endpoint.events.sread()
    assert (event.kind, event.err) == (EventKind.ERROR, errno.ECONNREFUSED)
    with pytest.raises(TryAgain):
        caller.endpoint.events.sread(0.001)


@pytest.mark.parametrize("is_listening", [False, True])
def test_a_listener_refuses(ends: Ends, is_listening: bool) -> None:
    listener = ends.fabric.listener("door")
    unconnected = ends.end("rdm")
    if is_listening:
        listener.listen()
        unconnected.endpoint.send(b"x", unconnected.endpoint.insert("door"), context="s")
    else:
        caller = ends.end("caller", EndpointType.MSG)
        caller.endpoint.connect("door")
    for _ in range(4):
        ends.turn()
        with pytest.raises(TryAgain):
            listener.events.sread(0)
    if is_listening:
        assert unconnected.errors() == [("s", errno.ECONNREFUSED)]
    else:
        assert caller.endpoint.events.read().err == errno.ECONNREFUSED
    listener.close()


def test_a_caller_that_is_called(ends: Ends) -> None:
    caller = ends.end("caller", EndpointType.MSG)
    peer = FramePeer(ends.fabric, "peer", "caller")
    peer.hello(endpoint_type=EndpointType.MSG)
    ends.turn()
    peer.progress()
    assert peer.take(FrameKind.REFUSE)[0].code == errno.ECONNREFUSED
    peer.carrier.close()
    with refused(errno.EINVAL):
        caller.endpoint.insert("peer")


# --- queues ----------------------------------------------------------------------------------


def test_a_queue_in_a_loop_of_events(ends: Ends) -> None:
    one, other, to = ends.pair()
    descriptor = other.cq.fileno()
    other.endpoint.recv(bytearray(1), context="r")
    assert not select.select([descriptor], [], [], 0)[0]
    one.endpoint.send(b"x", to)
    for _ in range(6):
        one.endpoint.progress()
        if select.select([descriptor], [], [], 0)[0]:
            other.endpoint.progress()
    assert select.select([descriptor], [], [], 0)[0], "an entry waits"
    assert [entry.context for entry in other.cq.read(4)] == ["r"]
    third = ends.end("third", enable=False, bind=Bind.RECV)
    third.endpoint.bind(other.cq, Bind.TRANSMIT)
    third.endpoint.close()
    with refused(errno.EBUSY):
        other.cq.close()


def test_a_signal_is_remembered(ends: Ends) -> None:
    one = ends.end("one")
    one.cq.signal()
    with pytest.raises(TryAgain):
        one.cq.sread(timeout_s=None)
    waker = threading.Timer(0.02, one.cq.signal)
    waker.name = "i2o-test-waker"
    waker.start()
    with pytest.raises(TryAgain):
        one.cq.sread(timeout_s=None)
    waker.join()


def test_errors_are_read_in_their_place(ends: Ends) -> None:
    one, other, to = ends.pair()
    other.endpoint.recv(bytearray(1), context=1)
    other.endpoint.recv(bytearray(0), context=2)
    other.endpoint.recv(bytearray(1), context=3)
    for _ in range(3):
        one.endpoint.inject(b"x", to)
    ends.turn()
    assert [entry.context for entry in other.cq.read(9)] == [1]
    with pytest.raises(ErrorAvailable):
        other.cq.read()
    assert other.cq.readerr().context == 2
    with pytest.raises(TryAgain):
        other.cq.readerr()
    assert other.contexts() == [3]


def test_a_closed_queue_is_not_used(ends: Ends) -> None:
    one = ends.end("one", enable=False)
    one.endpoint.close()
    one.cq.close()
    for use in (one.cq.read, one.cq.readerr, lambda: one.cq.read(0)):
        with refused(FabricErrno.EOPBADSTATE):
            use()
    assert one.cq.fileno() == -1
    for post in (
        lambda: one.endpoint.insert("x"),
        one.endpoint.enable,
        lambda: one.endpoint.recv(bytearray(1)),
    ):
        with refused(FabricErrno.EOPBADSTATE):
            post()
    one.endpoint.progress()


def test_an_engine_takes_nothing_for_itself_from_strangers() -> None:
    fabric = MemoryFabric()
    with fabric.endpoint("one") as endpoint:
        engine: Engine = endpoint._engine  # what is kept is nobody's business but this test's
        queue = endpoint.open_cq()
        endpoint.bind(queue, BOTH)
        endpoint.enable()
        for number in range(50):
            peer = FramePeer(fabric, f"peer-{number}", "one")
            peer.hello()
            endpoint.progress()
            peer.carrier.close()
            endpoint.progress()
        assert not engine.links
        engine.frame_sent(0, "not ours")
        engine.peer_lost(99, errno.ECONNRESET, "nobody known")
    queue.close()


@pytest.mark.parametrize("count", [0, 1])
def test_the_descriptor_tells_of_what_a_read_leaves(ends: Ends, count: int) -> None:
    one, other, to = ends.pair()
    for number in range(4):
        other.endpoint.recv(bytearray(10), context=number)
    one.endpoint.send(b"first", to)
    ends.turn()
    assert other.contexts() == [0]
    poller = select.poll()
    poller.register(other.cq.fileno(), select.POLLIN)
    for _ in range(3):
        one.endpoint.send(b"x", to)
    assert len(other.cq.read(count)) == count
    assert len(other.cq) == 3 - count
    assert poller.poll(0)
    other.entries()
    assert not poller.poll(0)
