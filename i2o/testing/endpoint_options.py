# SPDX-License-Identifier: Apache-2.0
"""Conformance of endpoints: what is an option of an endpoint, refused where it is not offered.

Multi-receive buffers, completion levels, fences, multicast groups and prefixes.
"""

from __future__ import annotations

import errno
import random
from contextlib import ExitStack

from i2o.testing.endpoint_backend import EndpointBackend
from i2o.testing.endpoint_messages import KINDS, PLAIN, REFUSED, refuses
from i2o.testing.stations import EVERY_ONE, Bench, Station
from i2o.transport.fabric.completion import Completion
from i2o.transport.fabric.endpoint import Message, MulticastEndpoint
from i2o.transport.fabric.flags import Bind, Capability, Flag

_MIN = 64
_LEVELS = (
    Flag.INJECT_COMPLETE,
    Flag.TRANSMIT_COMPLETE,
    Flag.DELIVERY_COMPLETE,
    Flag.MATCH_COMPLETE,
)


class EndpointOptions(EndpointBackend):
    """What not every endpoint has."""

    # --- multi-receive ---------------------------------------------------------------------------

    def test_one_buffer_takes_many_messages(self, bench: Bench, a: Station) -> None:
        """MULTI_RECV: packed one behind another, each entry tells where, one release ends it."""
        b = self._multi(bench, a)
        if b is None:
            return
        b.endpoint.recvmsg(Message([bytearray(1024)], context="many"), Flag.MULTI_RECV)
        b.endpoint.recv(bytearray(200), context="behind it")
        chance, released, total = random.Random(8), False, 0
        seen: list[memoryview] = []
        sent: list[bytes] = []
        while not released:
            sent.append(chance.randbytes(chance.choice((1, 5, 60))))
            bench.post(a.endpoint.send, sent[-1], a.addresses[b])
            bench.completion(a)
            got = bench.completion(b)
            assert (got.context, got.length) == ("many", len(sent[-1]))
            assert got.flags & KINDS == Flag.RECV | Flag.MSG
            assert got.buffer is not None
            seen.append(got.buffer)
            total += got.length
            released = self._released(bench, b, got)
            assert len(sent) < 1024
        assert [bytes(one[: len(data)]) for one, data in zip(seen, sent, strict=True)] == sent
        assert 1024 - total < 1024 - _MIN, "it was released although it was hardly used"
        assert total + _MIN + 60 + 16 * len(sent) > 1024 - _MIN, "much room was left over"
        bench.post(a.endpoint.send, b"next", a.addresses[b])
        assert bench.completion(b).context == "behind it"
        bench.completion(a)
        bench.nothing()

    def test_messages_that_came_early_are_packed_too(self, bench: Bench, a: Station) -> None:
        """What waited is in the buffer, in order, before what comes after."""
        b = self._multi(bench, a)
        if b is None:
            return
        for number in range(5):
            bench.post(a.endpoint.send, b"%d" % number, a.addresses[b])
        bench.settle()
        b.endpoint.recvmsg(Message([bytearray(4096)], context="many"), Flag.MULTI_RECV)
        bench.post(a.endpoint.send, b"5", a.addresses[b])
        got = bench.completions(b, 6)
        assert [bytes(one.buffer or b"")[:1] for one in got] == [b"%d" % n for n in range(6)]
        assert not any(one.flags & Flag.MULTI_RECV for one in got)

    def test_the_release_is_told_although_completions_are_suppressed(
        self, bench: Bench, a: Station
    ) -> None:
        """On a selective queue the messages are silent, the release is not."""
        b = self._multi(bench, a, selective=Bind.RECV)
        if b is None:
            return
        b.endpoint.recvmsg(Message([bytearray(256)], context="many"), Flag.MULTI_RECV)
        for _ in range(4):
            bench.post(a.endpoint.send, bytes(60), a.addresses[b])
            bench.completion(a)
        got = bench.completion(b)
        assert got.flags & Flag.MULTI_RECV
        assert got.context == "many"

    def test_a_multi_receive_buffer_is_cancelled(self, bench: Bench, a: Station) -> None:
        """What arrived before stays told; the rest of the buffer is given back."""
        b = self._multi(bench, a)
        if b is None:
            return
        b.endpoint.recvmsg(Message([bytearray(4096)], context="many"), Flag.MULTI_RECV)
        bench.post(a.endpoint.send, b"one", a.addresses[b])
        assert bench.completion(b).length == 3
        assert b.endpoint.cancel("many")
        assert bench.error(b, errno.ECANCELED).context == "many"
        bench.post(a.endpoint.send, b"two", a.addresses[b])
        bench.nothing(b)

    def test_without_the_capability_there_is_no_multi_receive(self, bench: Bench) -> None:
        """The flag is refused."""
        station = bench.station(PLAIN)
        if station.capabilities & Capability.MULTI_RECV:  # the provider gives no less
            return
        with refuses(*REFUSED):
            station.endpoint.recvmsg(Message([bytearray(64)]), Flag.MULTI_RECV)
        bench.nothing()

    def _multi(self, bench: Bench, a: Station, selective: Bind = EVERY_ONE) -> Station | None:
        """Make a station with a minimum, or check that there are no multi-receive buffers."""
        if not a.capabilities & Capability.MULTI_RECV:
            with refuses(*REFUSED):
                a.endpoint.recvmsg(Message([bytearray(64)]), Flag.MULTI_RECV)
            return None
        made = bench.station(min_multi_recv=_MIN, selective=selective)
        bench.introduce(a, made)
        return made

    def _released(self, bench: Bench, station: Station, got: Completion) -> bool:
        """Whether the buffer is the caller's again, by this entry or by one of its own."""
        if got.flags & Flag.MULTI_RECV:
            return True
        bench.settle()
        if not station.entries:
            return False
        separate = bench.completion(station)
        assert separate.flags & Flag.MULTI_RECV
        assert not separate.flags & KINDS
        return True

    # --- completion levels -----------------------------------------------------------------------

    def test_every_level_completes_once(self, bench: Bench, a: Station, b: Station) -> None:
        """Each of the four, with the receive posted first, and after."""
        for level in _LEVELS:
            tagged = level is Flag.MATCH_COMPLETE
            for early in (True, False):
                into = bytearray(5)
                message = Message([b"level"], a.addresses[b], level, tag=1)
                post = a.endpoint.tsendmsg if tagged else a.endpoint.sendmsg
                if tagged and not a.capabilities & Capability.TAGGED:
                    with refuses(errno.ENOTSUP):
                        post(message, level)
                    continue
                if early:
                    self._receive(b, into, is_tagged=tagged)
                bench.post(post, message, level)
                bench.settle()
                if not early:
                    self._receive(b, into, is_tagged=tagged)
                assert bench.completion(b).length == 5
                assert bench.completion(a).context == level
                assert into == b"level"
        bench.nothing()

    def test_weak_levels_do_not_wait_for_a_receive(
        self, bench: Bench, a: Station, b: Station
    ) -> None:
        """INJECT_COMPLETE: the buffer is free; TRANSMIT_COMPLETE: the peer has the message."""
        into = [bytearray(5), bytearray(5)]
        out = bytearray(b"level")
        for level in (Flag.INJECT_COMPLETE, Flag.TRANSMIT_COMPLETE):
            bench.post(a.endpoint.sendmsg, Message([out], a.addresses[b], level), level)
            assert bench.completion(a).context == level
            out[:] = b"-----"
            out = bytearray(b"level")
        for buffer in into:
            b.endpoint.recv(buffer)
        bench.completions(b, 2)
        assert into == [b"level", b"level"]

    def test_delivered_is_in_the_receivers_buffer(
        self, bench: Bench, a: Station, b: Station
    ) -> None:
        """DELIVERY_COMPLETE: when it is told, the bytes are where they should be."""
        for length in (8, 100_000):
            if length > a.endpoint.attributes.max_msg_size:
                continue
            into, data = bytearray(length), random.Random(length).randbytes(length)
            b.endpoint.recv(into)
            bench.post(a.endpoint.sendmsg, Message([data], a.addresses[b]), Flag.DELIVERY_COMPLETE)
            bench.completion(a)
            assert into == data
            bench.completion(b)

    def test_matched_waits_for_a_receive_or_a_discard(
        self, bench: Bench, a: Station, b: Station
    ) -> None:
        """MATCH_COMPLETE: nothing is told while the message waits."""
        if not a.capabilities & Capability.TAGGED:
            with refuses(errno.ENOTSUP):
                a.endpoint.tsend(b"x", 1, a.addresses[b])
            return
        for number in (1, 2, 3):
            message = Message([b"x"], a.addresses[b], number, tag=number)
            bench.post(a.endpoint.tsendmsg, message, Flag.MATCH_COMPLETE)
        bench.nothing()
        b.endpoint.trecv(bytearray(1), 2)
        assert bench.completion(a).context == 2
        bench.completion(b)
        b.endpoint.trecvmsg(Message(tag=1), Flag.PEEK | Flag.DISCARD)
        assert bench.completion(a).context == 1
        bench.completion(b)
        b.endpoint.trecvmsg(Message(tag=3), Flag.PEEK)
        bench.completion(b)
        bench.nothing()
        b.endpoint.trecv(bytearray(1), 3)
        assert bench.completion(a).context == 3

    @staticmethod
    def _receive(station: Station, into: bytearray, *, is_tagged: bool) -> None:
        if is_tagged:
            station.endpoint.trecv(into, 1)
        else:
            station.endpoint.recv(into)

    # --- fences ----------------------------------------------------------------------------------

    def test_a_fence_waits_for_what_was_posted_before(
        self, bench: Bench, a: Station, b: Station
    ) -> None:
        """FENCE: it, and all that is posted after it, begins when all before it completed."""
        if not a.capabilities & Capability.FENCE:
            with refuses(*REFUSED):
                a.endpoint.sendmsg(Message([b"x"], a.addresses[b]), Flag.FENCE)
            return
        to = a.addresses[b]
        other = bench.station()
        bench.introduce(a, other)
        bench.post(a.endpoint.tsendmsg, Message([b"1"], to, "before", tag=1), Flag.MATCH_COMPLETE)
        bench.post(a.endpoint.tsendmsg, Message([b"2"], to, "fenced", tag=2), Flag.FENCE)
        bench.post(a.endpoint.tsend, b"3", 3, to, context="after")
        for tag in (3, 2):
            b.endpoint.trecv(bytearray(1), tag, context=tag)
        bench.nothing()
        other.endpoint.recv(bytearray(1), context="elsewhere")
        bench.post(a.endpoint.send, b"x", a.addresses[other], context="elsewhere")
        assert bench.completion(other).context == "elsewhere"
        assert bench.completion(a).context == "elsewhere", "a fence is about one peer"
        bench.nothing()
        b.endpoint.trecv(bytearray(1), 1, context=1)
        assert [bench.completion(b).context for _ in range(3)] == [1, 2, 3]
        order = [bench.completion(a).context for _ in range(3)]
        assert order.index("before") < order.index("fenced")

    def test_a_fence_with_nothing_before_it_is_a_plain_send(
        self, bench: Bench, a: Station, b: Station
    ) -> None:
        """And it may be sent again and again."""
        if not a.capabilities & Capability.FENCE:
            return
        for _ in range(10):
            b.endpoint.recv(bytearray(1))
            bench.post(a.endpoint.sendmsg, Message([b"x"], a.addresses[b]), Flag.FENCE)
            bench.completion(b)
            bench.completion(a)

    def test_what_a_fence_held_back_ends_with_the_endpoint(self, bench: Bench, a: Station) -> None:
        """Closing ends each of them once."""
        if not a.capabilities & Capability.FENCE:
            return
        sender = bench.station()
        bench.introduce(a, sender)
        to = sender.addresses[a]
        message = Message([b"1"], to, "before", tag=1)
        bench.post(sender.endpoint.tsendmsg, message, Flag.MATCH_COMPLETE)
        for number in range(3):
            bench.post(sender.endpoint.sendmsg, Message([b"2"], to, number), Flag.FENCE)
        bench.settle()
        sender.endpoint.close()
        ended = [bench.error(sender).context for _ in range(4)]
        assert sorted(map(str, ended)) == ["0", "1", "2", "before"]

    def test_without_the_capability_there_are_no_fences(self, bench: Bench) -> None:
        """The flag is refused, not ignored."""
        station = bench.station(PLAIN)
        if station.capabilities & Capability.FENCE:  # the provider gives no less
            return
        to = station.endpoint.insert(station.endpoint.name)
        with refuses(*REFUSED):
            station.endpoint.sendmsg(Message([b"x"], to), Flag.FENCE)

    # --- multicast -------------------------------------------------------------------------------

    def test_a_message_to_a_group_reaches_who_joined(
        self, bench: Bench, resources: ExitStack
    ) -> None:
        """MULTICAST: every member gets it, nobody else does, and nobody who left."""
        sender = self._member(bench, resources)
        if sender is None:
            return
        group = _join(sender)
        members = [self._member(bench, resources) for _ in range(3)]
        stranger = self._member(bench, resources)
        assert stranger is not None
        theirs: list[tuple[Station, int]] = []
        for member in members:
            assert member is not None
            theirs.append((member, _join(member)))
            member.endpoint.recv(bytearray(5), context="first")
        stranger.endpoint.recv(bytearray(5))
        to_all = sender.endpoint.sendmsg
        bench.post(to_all, Message([b"hello"], group, "out"), Flag.MULTICAST)
        for member, _ in theirs:
            assert bench.completion(member).length == 5
        assert bench.completion(sender).context == "out"
        last, address = theirs.pop()
        assert isinstance(last.endpoint, MulticastEndpoint)
        last.endpoint.leave(address)
        last.endpoint.recv(bytearray(5), context="second")
        for member, _ in theirs:
            member.endpoint.recv(bytearray(5), context="second")
        bench.post(to_all, Message([b"again"], group), Flag.MULTICAST)
        for member, _ in theirs:
            assert bench.completion(member).context == "second"
        bench.completion(sender)
        bench.nothing(last, stranger)

    def test_groups_and_peers_are_not_mixed_up(self, bench: Bench, resources: ExitStack) -> None:
        """The flag goes with the address of a group, and a group's address with the flag."""
        one, other = self._member(bench, resources), self._member(bench, resources)
        if one is None or other is None:
            return
        bench.introduce(one, other)
        group = _join(one)
        with refuses(errno.EINVAL):
            one.endpoint.send(b"x", group)
        with refuses(errno.EINVAL):
            one.endpoint.sendmsg(Message([b"x"], one.addresses[other]), Flag.MULTICAST)
        assert isinstance(one.endpoint, MulticastEndpoint)
        one.endpoint.leave(group)
        with refuses(errno.EINVAL):
            one.endpoint.sendmsg(Message([b"x"], group), Flag.MULTICAST)

    def test_without_the_capability_there_are_no_groups(
        self, bench: Bench, a: Station, b: Station
    ) -> None:
        """The flag is refused, and so is joining."""
        if a.capabilities & Capability.MULTICAST:
            return
        with refuses(*REFUSED):
            a.endpoint.sendmsg(Message([b"x"], a.addresses[b]), Flag.MULTICAST)
        if isinstance(a.endpoint, MulticastEndpoint):
            with refuses(errno.ENOTSUP):
                a.endpoint.join("a group")

    def _member(self, bench: Bench, resources: ExitStack) -> Station | None:
        endpoint = self.open_multicast(resources)
        if endpoint is None:
            return None
        assert endpoint.attributes.capabilities & Capability.MULTICAST
        return bench.adopt(Station(endpoint))

    # --- prefixes --------------------------------------------------------------------------------

    def test_room_in_front_of_a_message(
        self, bench: Bench, resources: ExitStack, a: Station
    ) -> None:
        """MSG_PREFIX: buffers begin with `msg_prefix_size` bytes, which count in lengths."""
        assert a.endpoint.attributes.msg_prefix_size == 0, "it is a mode that one asks for"
        pair = [self.open_prefixed(resources) for _ in range(2)]
        one, other = pair
        if one is None or other is None:
            return
        sender, receiver = bench.adopt(Station(one)), bench.adopt(Station(other))
        bench.introduce(sender, receiver)
        size = one.attributes.msg_prefix_size
        assert size > 0
        into = bytearray(size + 10)
        receiver.endpoint.recv(into)
        bench.post(sender.endpoint.send, bytes(size) + b"payload", sender.addresses[receiver])
        assert bench.completion(receiver).length == size + 7
        assert into[size : size + 7] == b"payload"
        bench.completion(sender)
        with refuses(errno.EINVAL):
            sender.endpoint.send(bytes(size - 1), sender.addresses[receiver])
        if one.attributes.iov_limit > 1:
            with refuses(errno.EINVAL):  # the prefix is not split
                sender.endpoint.sendv([bytes(size - 1), b"x"], sender.addresses[receiver])
            receiver.endpoint.recvv([bytearray(size), into])
            vector = [bytes(size), b"pay", b"load"][: one.attributes.iov_limit]
            bench.post(sender.endpoint.sendv, vector, sender.addresses[receiver])
            assert bench.completion(receiver).length == sum(map(len, vector))


def _join(station: Station) -> int:
    assert isinstance(station.endpoint, MulticastEndpoint)
    return station.endpoint.join("the group of this test")
