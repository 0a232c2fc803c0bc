# SPDX-License-Identifier: Apache-2.0
"""Conformance of endpoints: plain messages, as fi_msg(3) has them."""

from __future__ import annotations

import errno
import random
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import pytest

from i2o.testing.endpoint_backend import EndpointBackend
from i2o.testing.stations import Bench, Station
from i2o.transport.fabric.completion import Completion
from i2o.transport.fabric.endpoint import Message
from i2o.transport.fabric.errors import FabricErrno, FabricError, TryAgain
from i2o.transport.fabric.flags import ADDR_UNSPEC, Bind, Capability, Flag

SENT = Flag.SEND | Flag.MSG
RECEIVED = Flag.RECV | Flag.MSG
KINDS = SENT | RECEIVED | Flag.TAGGED
"""The flags of a completion that say what completed."""
PLAIN = Capability.MSG | Capability.SEND | Capability.RECV
REFUSED = (errno.ENOTSUP, FabricErrno.EBADFLAGS)
_SOME_MIB = 64 << 20


@contextmanager
def refuses(*codes: int) -> Iterator[None]:
    """Expect that a call is refused with one of these codes."""
    with pytest.raises(FabricError) as caught:
        yield
    assert caught.value.errno in codes, caught.value


class EndpointMessages(EndpointBackend):
    """Sends and receives: boundaries, order, matching, flags, refusals."""

    # --- one message -----------------------------------------------------------------------------

    def test_boundaries_are_kept_whatever_the_length(
        self, bench: Bench, a: Station, b: Station
    ) -> None:
        """From no byte at all up: each send is one message, and its length is told."""
        limits = a.endpoint.attributes
        lengths = [0, 1, 7, limits.inject_size, limits.inject_size + 1, 4096, 65_537, (1 << 20) + 3]
        for length in (length for length in lengths if length <= limits.max_msg_size):
            data = random.Random(length).randbytes(length)
            buffer = bytearray(length + 8)
            b.endpoint.recv(buffer, context="in")
            bench.post(a.endpoint.send, data, a.addresses[b], context="out")
            got = bench.completion(b)
            assert (got.context, got.length, got.flags & KINDS) == ("in", length, RECEIVED)
            assert buffer == data + bytes(8)
            sent = bench.completion(a)
            assert (sent.context, sent.flags & KINDS) == ("out", SENT)

    def test_a_message_that_nobody_asked_for_yet_waits(
        self, bench: Bench, a: Station, b: Station
    ) -> None:
        """A receive that is posted later gets it, and the sender may be done before."""
        bench.post(a.endpoint.send, b"early", a.addresses[b])
        bench.settle()
        assert not b.entries
        buffer = bytearray(5)
        b.endpoint.recv(buffer)
        assert bench.completion(b).length == 5
        assert buffer == b"early"
        bench.completion(a)

    def test_after_its_completion_a_buffer_is_the_callers(
        self, bench: Bench, a: Station, b: Station
    ) -> None:
        """What is written into it then does not reach the receiver."""
        for length in (16, 8192, 200_000):
            if length > a.endpoint.attributes.max_msg_size:
                continue
            out, into = bytearray(b"1" * length), bytearray(length)
            b.endpoint.recv(into)
            bench.post(a.endpoint.send, out, a.addresses[b])
            bench.completion(a)
            out[:] = b"2" * length
            bench.completion(b)
            assert into == b"1" * length

    def test_the_contexts_are_the_callers_own_objects(
        self, bench: Bench, a: Station, b: Station
    ) -> None:
        """Any object, also none, and the same one may be given again."""
        mark = object()
        for context in (mark, None, mark):
            b.endpoint.recv(bytearray(1), context=context)
            bench.post(a.endpoint.send, b"x", a.addresses[b], context=context)
            assert bench.completion(b).context is context
            assert bench.completion(a).context is context

    # --- vectors ---------------------------------------------------------------------------------

    def test_buffers_are_gathered_into_one_message(
        self, bench: Bench, a: Station, b: Station
    ) -> None:
        """sendv: in order, empty ones too, and no more than `iov_limit`."""
        limit = a.endpoint.attributes.iov_limit
        parts = [bytes([65 + number]) * (number * 3) for number in range(limit)]
        buffer = bytearray(1000)
        for desc in (None, [None] * limit):
            b.endpoint.recv(buffer)
            bench.post(a.endpoint.sendv, parts, a.addresses[b], desc=desc)
            assert bench.completion(b).length == sum(map(len, parts))
            assert buffer.startswith(b"".join(parts))
            bench.completion(a)
        with refuses(errno.EINVAL):
            a.endpoint.sendv([b"x"] * (limit + 1), a.addresses[b])
        bench.nothing()

    def test_a_message_without_buffers_is_empty(self, bench: Bench, a: Station, b: Station) -> None:
        """sendv of nothing is a message of no bytes; recvv of nothing takes one."""
        b.endpoint.recvv([], context=1)
        b.endpoint.recv(bytearray(4), context=2)
        bench.post(a.endpoint.sendv, [], a.addresses[b])
        bench.post(a.endpoint.sendmsg, Message(address=a.addresses[b]))
        got = bench.completions(b, 2)
        assert [(one.context, one.length) for one in got] == [(1, 0), (2, 0)]
        bench.completions(a, 2)

    def test_one_message_fills_buffers_one_after_another(
        self, bench: Bench, a: Station, b: Station
    ) -> None:
        """recvv: as far as it goes, the rest is left alone."""
        limit = b.endpoint.attributes.iov_limit
        parts = [bytearray(b".." * (number + 1)) for number in range(limit)]
        b.endpoint.recvv(parts, desc=[None] * limit)
        room = sum(map(len, parts))
        data = random.Random(4).randbytes(room - 1)
        bench.post(a.endpoint.send, data, a.addresses[b])
        assert bench.completion(b).length == room - 1
        assert b"".join(parts) == data + b"."
        with refuses(errno.EINVAL):
            b.endpoint.recvv([bytearray(1)] * (limit + 1))

    def test_messages_as_structures(self, bench: Bench, a: Station, b: Station) -> None:
        """sendmsg and recvmsg do what send and recv do, with flags."""
        parts = [bytearray(3), bytearray(7)][: b.endpoint.attributes.iov_limit]
        b.endpoint.recvmsg(Message(parts, context="in"))
        out = [b"abc", b"defg"][: a.endpoint.attributes.iov_limit]
        bench.post(a.endpoint.sendmsg, Message(out, a.addresses[b], "out"))
        got = bench.completion(b)
        assert (got.context, got.length) == ("in", len(b"".join(out)))
        assert b"".join(parts).startswith(b"".join(out))
        assert bench.completion(a).context == "out"

    # --- order -----------------------------------------------------------------------------------

    def test_messages_of_one_peer_arrive_in_order(
        self, bench: Bench, a: Station, b: Station
    ) -> None:
        """200 of mixed lengths, received before and after they came."""
        lengths = [random.Random(n).choice((4, 100, 5000)) for n in range(200)]
        buffers = [bytearray(5000) for _ in lengths]
        posted = 0
        for number, length in enumerate(lengths):
            data = number.to_bytes(4, "little") + bytes(length - 4)
            while posted < len(buffers) and (posted < number or number % 3 == 0):
                b.endpoint.recv(buffers[posted], context=posted)
                posted += 1
                if number % 3 == 0:
                    break
            bench.post(a.endpoint.send, data, a.addresses[b])
        for index in range(posted, len(buffers)):
            b.endpoint.recv(buffers[index], context=index)
        got = {one.context: one.length for one in bench.completions(b, len(lengths))}
        assert got == dict(enumerate(lengths))
        assert [int.from_bytes(one[:4], "little") for one in buffers] == list(range(200))
        bench.completions(a, len(lengths))
        bench.nothing()

    def test_receives_are_searched_in_the_order_of_their_posting(
        self, bench: Bench, a: Station, b: Station
    ) -> None:
        """The one posted first gets what comes first."""
        buffers = [bytearray(8) for _ in range(5)]
        for index, buffer in enumerate(buffers):
            b.endpoint.recv(buffer, context=index)
        for index in range(5):
            bench.post(a.endpoint.send, b"no %d" % index, a.addresses[b])
        bench.completions(b, 5)
        assert [bytes(buffer[:4]) for buffer in buffers] == [b"no %d" % n for n in range(5)]

    def test_several_senders_do_not_disturb_one_another(
        self, bench: Bench, a: Station, b: Station
    ) -> None:
        """Everything of three senders comes, each one's in order."""
        senders = [a, bench.station(), bench.station()]
        bench.introduce(b, *senders)
        got: list[bytearray] = [bytearray(2) for _ in range(90)]
        for number in range(30):
            mine = got[3 * number : 3 * number + 3]
            if number % 2:
                for buffer in mine:
                    bench.post(b.endpoint.recv, buffer)
            for who, sender in enumerate(senders):
                data = bytes((who, number))
                bench.post(sender.endpoint.send, data, sender.addresses[b])
            if not number % 2:
                for buffer in mine:
                    bench.post(b.endpoint.recv, buffer)
        bench.completions(b, 90)
        for who in range(3):
            assert [one[1] for one in got if one[0] == who] == list(range(30))

    def test_both_ways_at_once(self, bench: Bench, a: Station, b: Station) -> None:
        """Two that meet at the same time keep what both sent first."""
        into_a, into_b = bytearray(1), bytearray(1)
        a.endpoint.recv(into_a, context="in")
        b.endpoint.recv(into_b, context="in")
        bench.post(a.endpoint.send, b"1", a.addresses[b], context="out")
        bench.post(b.endpoint.send, b"2", b.addresses[a], context="out")
        for station in (a, b):
            assert {one.context for one in bench.completions(station, 2)} == {"in", "out"}
        assert bytes(into_a + into_b) == b"21"
        bench.nothing()

    # --- who from --------------------------------------------------------------------------------

    def test_a_directed_receive_takes_its_source_only(
        self, bench: Bench, a: Station, b: Station
    ) -> None:
        """With DIRECTED_RECV; without it the source that is named does not count."""
        other = bench.station()
        bench.introduce(b, other)
        directed = bool(b.capabilities & Capability.DIRECTED_RECV)
        first, second = bytearray(6), bytearray(6)
        b.endpoint.recv(first, b.addresses[other], context="of other")
        b.endpoint.recv(second, ADDR_UNSPEC, context="of any")
        bench.post(a.endpoint.send, b"from a", a.addresses[b])
        got = bench.completion(b)
        assert got.context == ("of any" if directed else "of other")
        bench.post(other.endpoint.send, b"other", other.addresses[b])
        assert bench.completion(b).context == ("of other" if directed else "of any")
        assert bytes(first) == (b"other\0" if directed else b"from a")

    def test_without_directed_receive_the_source_does_not_count(self, bench: Bench) -> None:
        """A capability that was not asked for is not there."""
        b, one, other = bench.station(PLAIN), bench.station(PLAIN), bench.station(PLAIN)
        bench.introduce(b, one, other)
        b.endpoint.recv(bytearray(1), b.addresses[other])
        bench.post(one.endpoint.send, b"x", one.addresses[b])
        got = bench.completion(b)
        assert (got.length, got.source) == (1, ADDR_UNSPEC)

    def test_the_source_is_told(self, bench: Bench, a: Station, b: Station) -> None:
        """With SOURCE it is the fi_addr of the sender, if that was inserted."""
        stranger = bench.station()
        stranger.addresses[b] = stranger.endpoint.insert(b.endpoint.name)
        for sender, known in ((a, True), (stranger, False)):
            b.endpoint.recv(bytearray(1))
            bench.post(sender.endpoint.send, b"x", sender.addresses[b])
            source = bench.completion(b).source
            if not b.capabilities & Capability.SOURCE:
                assert source == ADDR_UNSPEC
            elif known:
                assert source == b.addresses[a]
            else:
                assert source not in b.addresses.values()

    # --- flags -----------------------------------------------------------------------------------

    def test_inject_frees_the_buffer_at_once_and_succeeds_silently(
        self, bench: Bench, a: Station, b: Station
    ) -> None:
        """fi_inject: no entry for a success, whatever the queue is bound for."""
        size = a.endpoint.attributes.inject_size
        out, into = bytearray(b"1" * size), bytearray(size)
        b.endpoint.recv(into)
        bench.post(a.endpoint.inject, out, a.addresses[b])
        out[:] = b"2" * size
        assert bench.completion(b).length == size
        assert into == b"1" * size
        bench.nothing(a)

    def test_inject_takes_no_more_than_its_limit(
        self, bench: Bench, a: Station, b: Station
    ) -> None:
        """EMSGSIZE, for INJECT, too, and nothing is sent."""
        data = bytes(a.endpoint.attributes.inject_size + 1)
        with refuses(errno.EMSGSIZE):
            a.endpoint.inject(data, a.addresses[b])
        with refuses(errno.EMSGSIZE):
            a.endpoint.injectdata(data, 7, a.addresses[b])
        with refuses(errno.EMSGSIZE):
            a.endpoint.sendmsg(Message([data], a.addresses[b]), Flag.INJECT)
        b.endpoint.recv(bytearray(len(data)))
        bench.nothing()

    def test_the_flag_inject_frees_the_buffer_and_completes(
        self, bench: Bench, a: Station, b: Station
    ) -> None:
        """FI_INJECT: free at return, and there is an entry as for any send."""
        out, into = bytearray(b"1" * 8), bytearray(8)
        bench.post(a.endpoint.sendmsg, Message([out], a.addresses[b], "out"), Flag.INJECT)
        out[:] = b"2" * 8
        b.endpoint.recv(into)
        bench.completion(b)
        assert into == b"1" * 8
        assert bench.completion(a).context == "out"

    def test_a_number_goes_along(self, bench: Bench, a: Station, b: Station) -> None:
        """REMOTE_CQ_DATA: senddata, injectdata and sendmsg carry it; other sends do not."""
        size = a.endpoint.attributes.cq_data_size
        biggest = (1 << 8 * size) - 1
        to = a.addresses[b]
        calls: list[tuple[Callable[[], None], int | None]] = [
            (lambda: a.endpoint.senddata(b"x", biggest, to), biggest),
            (lambda: a.endpoint.injectdata(b"x", 7, to), 7),
            (lambda: a.endpoint.sendmsg(Message([b"x"], to, data=9), Flag.REMOTE_CQ_DATA), 9),
            (lambda: a.endpoint.sendmsg(Message([b"x"], to, data=9)), None),
            (lambda: a.endpoint.senddata(b"x", 0, to), 0),
            (lambda: a.endpoint.send(b"x", to), None),
        ]
        for call, number in calls:
            b.endpoint.recv(bytearray(1))
            bench.post(call)
            got = bench.completion(b)
            assert bool(got.flags & Flag.REMOTE_CQ_DATA) == (number is not None)
            assert got.data == (number or 0)
        for wrong in (biggest + 1, -1):
            with refuses(errno.EINVAL):
                a.endpoint.senddata(b"x", wrong, to)

    def test_selective_completion(self, bench: Bench, a: Station) -> None:
        """Bound with SELECTIVE_COMPLETION, an operation has an entry if it asks for one."""
        quiet = bench.station(selective=Bind.RECV | Bind.TRANSMIT)
        bench.introduce(a, quiet)
        to = quiet.addresses[a]
        for asks in (False, True, False):
            flags = Flag.COMPLETION if asks else Flag(0)
            a.endpoint.recv(bytearray(1))
            quiet.endpoint.recvmsg(Message([bytearray(1)], context="in"), flags)
            bench.post(quiet.endpoint.sendmsg, Message([b"x"], to, "out"), flags)
            bench.post(a.endpoint.send, b"y", a.addresses[quiet])
            bench.completions(a, 2)
            if asks:
                assert {one.context for one in bench.completions(quiet, 2)} == {"in", "out"}
            bench.nothing()

    def test_send_and_recv_are_silent_on_a_selective_queue(self, bench: Bench, a: Station) -> None:
        """Each direction is bound for itself; errors are told all the same."""
        quiet = bench.station(selective=Bind.RECV)
        bench.introduce(a, quiet)
        quiet.endpoint.recv(bytearray(4))
        bench.post(a.endpoint.send, b"1234", a.addresses[quiet])
        bench.completion(a)
        bench.nothing()
        a.endpoint.recv(bytearray(1))
        bench.post(quiet.endpoint.send, b"x", quiet.addresses[a], context="loud")
        assert bench.completion(quiet).context == "loud"
        bench.completion(a)
        gone = bytearray(1)
        quiet.endpoint.recv(gone, context="silent")
        assert quiet.endpoint.cancel("silent")
        bench.error(quiet, errno.ECANCELED)

    def test_completion_is_ignored_where_every_operation_completes(
        self, bench: Bench, a: Station, b: Station
    ) -> None:
        """FI_COMPLETION without SELECTIVE_COMPLETION: one entry, not two."""
        b.endpoint.recvmsg(Message([bytearray(1)]), Flag.COMPLETION)
        bench.post(a.endpoint.sendmsg, Message([b"x"], a.addresses[b]), Flag.COMPLETION)
        bench.completion(a)
        bench.completion(b)
        bench.nothing()

    def test_more_is_only_a_hint(self, bench: Bench, a: Station, b: Station) -> None:
        """FI_MORE: what was announced may be refused, and what was posted arrives."""
        for number in range(8):
            b.endpoint.recvmsg(Message([bytearray(4)], context=number), Flag.MORE)
        to = a.addresses[b]
        for _ in range(3):
            bench.post(a.endpoint.sendmsg, Message([b"more"], to), Flag.MORE)
        bench.post(a.endpoint.send, b"last", to)
        assert [one.context for one in bench.completions(b, 4)] == [0, 1, 2, 3]
        bench.post(a.endpoint.sendmsg, Message([b"more"], to), Flag.MORE)
        with refuses(errno.EMSGSIZE):
            a.endpoint.inject(bytes(a.endpoint.attributes.inject_size + 1), to)
        assert bench.completion(b).context == 4
        bench.completions(a, 5)

    def test_flags_that_mean_nothing_there_are_refused(
        self, bench: Bench, a: Station, b: Station
    ) -> None:
        """EBADFLAGS, and nothing was posted."""
        to = a.addresses[b]
        for flag in (
            Flag.PEEK,
            Flag.CLAIM,
            Flag.DISCARD,
            Flag.MULTI_RECV,
            Flag.RECV,
            Flag(1 << 40),
        ):
            with refuses(*REFUSED):
                a.endpoint.sendmsg(Message([b"x"], to), flag)
        for flag in (
            Flag.INJECT, Flag.REMOTE_CQ_DATA, Flag.FENCE, Flag.DELIVERY_COMPLETE, Flag.PEEK,
            Flag.DISCARD, Flag.SEND, Flag(1 << 40),
        ):  # fmt: skip
            with refuses(*REFUSED):
                b.endpoint.recvmsg(Message([bytearray(1)]), flag)
        bench.nothing()

    # --- refusals --------------------------------------------------------------------------------

    def test_messages_that_are_too_long(self, bench: Bench, a: Station, b: Station) -> None:
        """EMSGSIZE, however it is sent; the longest arrives."""
        limit = a.endpoint.attributes.max_msg_size
        assert limit >= 1
        if limit > _SOME_MIB:  # more than a test should need memory for
            return
        with refuses(errno.EMSGSIZE):
            a.endpoint.send(bytes(limit + 1), a.addresses[b])
        with refuses(errno.EMSGSIZE):
            a.endpoint.senddata(bytes(limit + 1), 1, a.addresses[b])
        if a.endpoint.attributes.iov_limit > 1:
            with refuses(errno.EMSGSIZE):
                a.endpoint.sendv([bytes(limit), b"x"], a.addresses[b])
        buffer = bytearray(limit)
        b.endpoint.recv(buffer)
        longest = random.Random(5).randbytes(limit)
        bench.post(a.endpoint.send, longest, a.addresses[b])
        assert bench.completion(b).length == limit
        assert buffer == longest

    def test_addresses_that_are_none(self, bench: Bench, a: Station, b: Station) -> None:
        """A send needs the fi_addr of somebody."""
        for wrong in (ADDR_UNSPEC, max(a.addresses.values()) + 1000, -1):
            with refuses(errno.EINVAL):
                a.endpoint.send(b"x", wrong)
            with refuses(errno.EINVAL):
                a.endpoint.inject(b"x", wrong)
        bench.nothing()

    def test_buffers_that_are_none(self, bench: Bench, a: Station, b: Station) -> None:
        """What is received into can be written, and bytes lie side by side."""
        with refuses(errno.EINVAL):
            b.endpoint.recv(b"cannot be written")
        with refuses(errno.EINVAL):
            b.endpoint.recvv([memoryview(b"nor this")])
        with refuses(errno.EINVAL):
            a.endpoint.send(memoryview(bytes(8))[::2], a.addresses[b])
        bench.nothing()

    def test_without_messages_there_are_none(self, bench: Bench) -> None:
        """An endpoint that was opened for tagged messages alone refuses plain ones."""
        tagged = Capability.TAGGED | Capability.SEND | Capability.RECV
        station = bench.station(tagged)
        if station.capabilities & Capability.MSG:  # the provider gives no less
            return
        with refuses(errno.ENOTSUP):
            station.endpoint.recv(bytearray(1))
        with refuses(errno.ENOTSUP):
            station.endpoint.send(b"x", station.endpoint.insert(station.endpoint.name))

    # --- EAGAIN ----------------------------------------------------------------------------------

    def test_a_sender_is_stopped_before_memory_runs_out(
        self, bench: Bench, a: Station, b: Station
    ) -> None:
        """EAGAIN while nobody receives; later all that was accepted arrives, once, in order."""
        data, accepted = bytes(1000), 0
        is_refused = False
        for number in range(40_000):
            try:
                a.endpoint.send(number.to_bytes(4, "little") + data, a.addresses[b])
            except TryAgain:
                if bench.pump():
                    continue
                bench.settle()
                try:
                    a.endpoint.send(number.to_bytes(4, "little") + data, a.addresses[b])
                except TryAgain:
                    is_refused = True
                    break
            accepted += 1
        assert is_refused, "40 MB were sent to somebody who does not receive"
        buffer = bytearray(2000)
        last = -1
        got = 0
        while got < accepted or not got:
            b.endpoint.recv(buffer)
            bench.completion(b)
            number = int.from_bytes(buffer[:4], "little")
            assert number > last
            last, got = number, got + 1
            a.entries.clear()
        bench.post(a.endpoint.send, b"again", a.addresses[b])
        b.endpoint.recv(buffer)
        assert bench.completion(b).length == 5

    def test_receives_are_refused_when_the_queue_is_full(
        self, bench: Bench, a: Station, b: Station
    ) -> None:
        """`rx_size` receives fit; one more is EAGAIN, and after a completion it fits."""
        size = b.endpoint.attributes.rx_size
        if not size:  # only the carrier knows
            return
        for number in range(size):
            b.endpoint.recv(bytearray(1), context=number)
        with pytest.raises(TryAgain):
            b.endpoint.recv(bytearray(1), context="too many")
        bench.post(a.endpoint.send, b"x", a.addresses[b])
        assert bench.completion(b).context == 0
        b.endpoint.recv(bytearray(1), context="fits")

    # --- errors ----------------------------------------------------------------------------------

    def test_a_message_that_does_not_fit_is_truncated_and_told(
        self, bench: Bench, a: Station, b: Station
    ) -> None:
        """ETRUNC: what fits is there, `olen` is what did not; the next message is not hurt."""
        short, whole = bytearray(10), bytearray(100)
        b.endpoint.recv(short, context="short")
        b.endpoint.recv(whole, context="whole")
        data = bytes(range(100))
        for _ in range(2):
            bench.post(a.endpoint.send, data, a.addresses[b])
        error = bench.error(b, FabricErrno.ETRUNC)
        assert (error.context, error.length, error.olen) == ("short", 10, 90)
        assert error.flags & KINDS == RECEIVED
        assert short == data[:10]
        got = bench.completion(b)
        assert (got.context, got.length, bytes(whole)) == ("whole", 100, data)
        assert all(isinstance(bench.entry(a), Completion) for _ in range(2))

    def test_truncation_of_what_came_early_and_of_vectors(
        self, bench: Bench, a: Station, b: Station
    ) -> None:
        """The same when the message waited, and when there are several buffers."""
        bench.post(a.endpoint.send, b"0123456789", a.addresses[b])
        bench.settle()
        parts = [bytearray(2), bytearray(3)][: b.endpoint.attributes.iov_limit]
        b.endpoint.recvv(parts)
        error = bench.error(b, FabricErrno.ETRUNC)
        room = sum(map(len, parts))
        assert (error.length, error.olen) == (room, 10 - room)
        assert b"".join(parts) == b"0123456789"[:room]

    def test_a_receive_is_cancelled(self, bench: Bench, a: Station, b: Station) -> None:
        """Its entry says ECANCELED, once; others are not touched."""
        buffers = [bytearray(1) for _ in range(3)]
        for context, buffer in zip(("first", "gone", "gone"), buffers, strict=True):
            b.endpoint.recv(buffer, context=context)
        assert b.endpoint.cancel("gone")
        error = bench.error(b, errno.ECANCELED)
        assert (error.context, error.flags & KINDS) == ("gone", RECEIVED)
        assert not b.endpoint.cancel("never posted")
        for letter in (b"1", b"2"):
            bench.post(a.endpoint.send, letter, a.addresses[b])
        assert [one.context for one in bench.completions(b, 2)] == ["first", "gone"]
        assert buffers == [b"1", b"\0", b"2"], "the oldest was to be cancelled"
        assert not b.endpoint.cancel("gone")
        bench.completions(a, 2)
        bench.nothing()

    def test_whoever_is_not_there_is_told_in_an_entry(
        self, bench: Bench, a: Station, resources: ExitStack
    ) -> None:
        """A send to nobody ends with an error, an inject too: its success is silent only."""
        name = self.nobody(resources)
        if name is None:  # nobody can be missing here: then an address must make sense
            with refuses(errno.EINVAL):
                a.endpoint.insert("")
            return
        to = a.endpoint.insert(name)
        bench.post(a.endpoint.send, b"lost", to, context="send")
        error = bench.error(a)
        assert (error.context, error.flags & KINDS) == ("send", SENT)
        assert error.err
        bench.post(a.endpoint.inject, b"lost", to)
        assert bench.error(a).flags & KINDS == SENT
        bench.nothing()

    def test_what_had_arrived_outlives_the_link(self, bench: Bench, a: Station, b: Station) -> None:
        """It is received after the link broke, and the next link carries as much as the first."""
        for round_ in range(3):
            for number in range(4):
                bench.post(a.endpoint.send, bytes([round_, number]), a.addresses[b])
            bench.completions(a, 4)
            self.lose(bench, a, b)
            bench.settle()
            into = [bytearray(2) for _ in range(4)]
            for buffer in into:
                b.endpoint.recv(buffer)
            bench.completions(b, 4)
            assert into == [bytes([round_, number]) for number in range(4)]
        bench.nothing()

    def test_what_a_broken_link_takes_along_is_told_once(
        self, bench: Bench, a: Station, b: Station
    ) -> None:
        """Every send ends once, received or not; what is posted to receive stays posted."""
        a.endpoint.recv(bytearray(1), context="kept")
        bench.post(a.endpoint.send, b"before", a.addresses[b])
        b.endpoint.recv(bytearray(8))
        bench.completion(b)
        bench.completion(a)
        posted = 0
        for number in range(20):
            try:
                a.endpoint.send(b"on the way", a.addresses[b], context=number)
            except TryAgain:
                break
            posted += 1
        self.lose(bench, a, b)
        ended: list[object] = []
        while len(ended) < posted:
            entry = bench.entry(a)
            assert isinstance(entry, Completion) or entry.err
            ended.append(entry.context)
        assert sorted(ended, key=str) == sorted(range(posted), key=str)
        bench.settle()
        assert not a.entries
        assert a.endpoint.cancel("kept")
        bench.error(a, errno.ECANCELED)
